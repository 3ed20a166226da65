/*
 * fuzz_url.c: the addresses of evt_listen and evt_connect. What is taken keeps
 * its limits, and written out again it is the same address; what is not is told
 * in one of the texts that are known.
 *
 * fuzz: -max_len=400
 */
#include "fuzz.h"
#include "../evt-url-internal.h"

#include <errno.h>

static const char *const schemes[] = {[EVT_URL_TCP] = "tcp",
	[EVT_URL_UDP] = "udp",
	[EVT_URL_UNIX] = "unix",
	[EVT_URL_UNIXGRAM] = "unixgram"};

static bool is_inet(const struct evt_url *url)
{
	return url->kind == EVT_URL_TCP || url->kind == EVT_URL_UDP;
}

static void look_at_inet(const struct evt_url *url)
{
	REQUIRE(memchr(url->host, '\0', sizeof(url->host)));
	REQUIRE(strlen(url->host) <= 253);
	REQUIRE(!strpbrk(url->host, " \t\r\n@/?#"));
	REQUIRE(url->port >= 0 && url->port <= 65535);
	REQUIRE(url->path_len == 0 && !url->abstract);
}

static void look_at_unix(const struct evt_url *url)
{
	REQUIRE(url->path_len > 0 && url->path_len < sizeof(url->path));
	REQUIRE(url->abstract || url->path[0] != '@');
	REQUIRE(url->path[url->path_len] == '\0');
	REQUIRE(strlen(url->path) == url->path_len);
	REQUIRE(url->host[0] == '\0' && url->port == 0);
}

/* The address as it is usually written. */
static void write_out(const struct evt_url *url, char *text, size_t room)
{
	bool brackets = strchr(url->host, ':') != NULL;

	if (is_inet(url))
		snprintf(text, room, "%s://%s%s%s:%d", schemes[url->kind],
			brackets ? "[" : "", url->host, brackets ? "]" : "",
			url->port);
	else
		snprintf(text, room, "%s:%s%s", schemes[url->kind],
			url->abstract ? "@" : "", url->path);
}

/* Nothing was added or left out, but for zeros before the port. */
static void comes_again(const struct evt_url *url, const char *from)
{
	char text[512];
	struct evt_url again;
	const char *why = NULL;
	const char *colon;

	write_out(url, text, sizeof(text));
	colon = strrchr(text, ':');
	if (is_inet(url))
		REQUIRE(strncmp(text, from, (size_t)(colon - text) + 1) == 0);
	else
		REQUIRE(strcmp(text, from) == 0);
	REQUIRE(evt_url_parse_(text, &again, &why) == 0);
	REQUIRE(memcmp(url, &again, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	const char *why = NULL;
	struct evt_url url;

	REQUIRE(text);
	memcpy(text, data, size);
	text[size] = '\0';
	errno = 0;
	if (evt_url_parse_(text, &url, &why) == 0) {
		REQUIRE(!why);
		if (is_inet(&url))
			look_at_inet(&url);
		else
			look_at_unix(&url);
		comes_again(&url, text);
	} else {
		REQUIRE(errno == EINVAL || errno == ENAMETOOLONG);
		REQUIRE(why && *why && !strchr(why, '\n'));
	}
	free(text);
	return 0;
}
