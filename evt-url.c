/*
 * evt-url.c: the parser of addresses. What it takes is little, and it takes
 * nothing else: a port that strtol(3) would read 80 from, a path after it that
 * nobody would ask for, a user's name, all are somebody's error, and it is told
 * by what is wrong and how it should look. Names are looked up elsewhere.
 *
 * Not the URLs of RFC 3986: no %-escapes, since paths and zones have a % of
 * their own, and unix: takes no //, after which a path would be absolute with
 * two slashes and relative with none.
 */
#include "evt-url-internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define MAX_HOST 253
#define MAX_PORT 65535

/* What is wrong with a TCP or UDP address, by kind. */
#define TEXT(wrong, form)                                    \
	{                                                    \
		wrong ": tcp://" form, wrong ": udp://" form \
	}
static const char *const no_slashes[] = TEXT(
	"no // after the scheme", "HOST:PORT");
static const char *const blank[] = TEXT(
	"a blank or a control character", "HOST:PORT");
static const char *const no_user[] = TEXT(
	"a user has no place here", "HOST:PORT");
static const char *const no_end[] = TEXT(
	"nothing may follow the port", "HOST:PORT");
static const char *const no_port[] = TEXT("no port", "HOST:PORT");
static const char *const bad_port[] = TEXT(
	"the port is no number up to 65535", "HOST:PORT");
static const char *const long_host[] = TEXT(
	"a host of more than 253 bytes", "HOST:PORT");
static const char *const star[] = TEXT(
	"leave the * out for any address", ":PORT");
static const char *const colons[] = TEXT(
	"an IPv6 address needs brackets", "[ADDRESS]:PORT");
static const char *const open_bracket[] = TEXT(
	"no ] after the IPv6 address", "[ADDRESS]:PORT");
static const char *const bad_bracket[] = TEXT(
	"no IPv6 address in brackets", "[ADDRESS]:PORT");
static const char *const after_bracket[] = TEXT(
	"only a port may follow the ]", "[ADDRESS]:PORT");

static const struct {
	const char *scheme;
	size_t len;
} kinds[] = {
	[EVT_URL_TCP] = {"tcp:", 4},
	[EVT_URL_UDP] = {"udp:", 4},
	[EVT_URL_UNIX] = {"unix:", 5},
	[EVT_URL_UNIXGRAM] = {"unixgram:", 9},
};

#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static int refuse(int error, const char *text, const char **why)
{
	*why = text;
	errno = error;
	return -1;
}

/* Nothing below lowest: ' ', or the character after it. */
static bool is_clean(const char *text, unsigned char lowest)
{
	for (; *text; text++)
		if ((unsigned char)*text < lowest || *text == 0x7f)
			return false;
	return true;
}

static int parse_unix(const char *path, struct evt_url *url, const char **why)
{
	if (strncmp(path, "//", 2) == 0)
		return refuse(EINVAL,
			"no // before a path: unix:/PATH or unixgram:/PATH",
			why);
	if (!is_clean(path, ' '))
		return refuse(EINVAL,
			"a control character in the path: unix:/PATH", why);
	url->abstract = *path == '@';
	if (url->abstract)
		path++;
	if (!*path)
		return refuse(EINVAL,
			url->abstract ? "no name after the @: unix:@NAME"
				      : "no path: unix:/PATH or unix:@NAME",
			why);
	/* As long as sun_path, less the NUL at its end or at its beginning. */
	if (strlen(path) >= sizeof(url->path))
		return refuse(ENAMETOOLONG,
			"a path of more than 107 bytes: unix:/PATH", why);
	url->path_len = strlen(path);
	memcpy(url->path, path, url->path_len);
	return 0;
}

/* -1 if it is none. */
static int parse_port(const char *digits)
{
	size_t len = strspn(digits, "0123456789");
	int port = 0;

	if (len == 0 || len > 5 || digits[len])
		return -1;
	for (; *digits; digits++)
		port = 10 * port + (*digits - '0');
	return port <= MAX_PORT ? port : -1;
}

/* With the zone of a link-local one, if there is: fe80::1%eth0. */
static bool is_ipv6(const char *host)
{
	char address[INET6_ADDRSTRLEN];
	struct in6_addr in6;
	size_t len = strcspn(host, "%");

	if (len >= sizeof(address) || (host[len] && !host[len + 1]))
		return false;
	memcpy(address, host, len);
	address[len] = '\0';
	return inet_pton(AF_INET6, address, &in6) == 1;
}

/* Host and port, before and after colon: NULL, or what is wrong with them. */
static const char *const *parse_host(
	const char *text, const char *colon, struct evt_url *url)
{
	bool brackets = *text == '[';
	size_t len = (size_t)(colon - text);

	if (brackets) {
		text++;
		len -= 2;
	}
	memcpy(url->host, text, len);
	if (brackets && !is_ipv6(url->host))
		return bad_bracket;
	if (strcmp(url->host, "*") == 0)
		return star;
	url->port = parse_port(colon + 1);
	return url->port == -1 ? bad_port : NULL;
}

/* What is wrong with the form of HOST:PORT, or NULL and where its colon is. */
static const char *const *find_colon(const char *text, const char **colon)
{
	const char *bracket = NULL;

	if (!is_clean(text, ' ' + 1))
		return blank;
	if (strchr(text, '@'))
		return no_user;
	if (strpbrk(text, "/?#"))
		return no_end;
	*colon = strchr(text, ':');
	if (*text == '[') {
		bracket = strchr(text, ']');
		if (!bracket)
			return open_bracket;
		*colon = bracket + 1;
		if (**colon && **colon != ':')
			return after_bracket;
	}
	if (!*colon || !**colon || !(*colon)[1])
		return no_port;
	if (!bracket && strchr(*colon + 1, ':'))
		return colons;
	return *colon - text > MAX_HOST ? long_host : NULL;
}

static int parse_inet(const char *text, struct evt_url *url, const char **why)
{
	const char *const *wrong;
	const char *colon;

	if (strncmp(text, "//", 2) != 0)
		return refuse(EINVAL, no_slashes[url->kind], why);
	text += 2;
	wrong = find_colon(text, &colon);
	if (!wrong)
		wrong = parse_host(text, colon, url);
	if (wrong)
		return refuse(wrong == long_host ? ENAMETOOLONG : EINVAL,
			wrong[url->kind], why);
	return 0;
}

int evt_url_parse_(const char *text, struct evt_url *url, const char **why)
{
	size_t kind = 0;

	memset(url, 0, sizeof(*url));
	if (!text || !*text)
		return refuse(EINVAL,
			"no address: tcp://HOST:PORT, udp://HOST:PORT, "
			"unix:/PATH or unixgram:/PATH",
			why);
	while (kind < NR_KINDS &&
		strncmp(text, kinds[kind].scheme, kinds[kind].len) != 0)
		kind++;
	if (kind == NR_KINDS)
		return refuse(EINVAL,
			"unknown scheme: tcp://HOST:PORT, udp://HOST:PORT, "
			"unix:/PATH or unixgram:/PATH",
			why);
	url->kind = (enum evt_url_kind)kind;
	text += kinds[kind].len;
	if (url->kind == EVT_URL_UNIX || url->kind == EVT_URL_UNIXGRAM)
		return parse_unix(text, url, why);
	return parse_inet(text, url, why);
}
