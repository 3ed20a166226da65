/*
 * http_rig.h: for the suites of examples/http: the server, the folder that it
 * serves, a client that sends raw bytes and takes answers apart. Everything is
 * static, one of each in a suite.
 */
#ifndef HTTP_RIG_H
#define HTTP_RIG_H

#include "ledger.h"
#include "programs.h"

#include <ctype.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define HTTP_TEST(fn)                                      \
	{                                                  \
#fn, fn, open_folder, end_all, (void *)#fn \
	}

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

#define HEAD_ROOM 4096
#define BODY_ROOM (1 << 20)

/* A request as most are here. */
#define GET(target) "GET " target " HTTP/1.1\r\nHost: x\r\n\r\n"

/* One with more lines, each with its end. */
#define R11(line, rest) line " HTTP/1.1\r\nHost: x\r\n" rest "\r\n"
#define CHUNKED         "Transfer-Encoding: chunked\r\n"

/* The folder */

static char folder[64];

/* Of a file in it; static. */
static inline const char *path_of(const char *name)
{
	static char path[1024];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

/* A file of so many bytes of a text, and zeros (that take no room) after it. */
static inline void put(const char *name, const char *text, off_t size)
{
	int fd = open(
		path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	size_t len = strlen(text);

	assert_int_not_equal(fd, -1);
	assert_int_equal(write(fd, text, len), len);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static inline void put_text(const char *name, const char *text)
{
	put(name, text, (off_t)strlen(text));
}

static inline int open_folder(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/evt-http-XXXXXX");
	if (ledger_open(state) || !mkdtemp(folder))
		return -1;
	return chmod(folder, 0755);
}

static inline int end_all(void **state)
{
	end_programs();
	/* With what is beside it; a browser's helpers may still write to
	 * theirs. */
	shell("for i in 1 2 3 4 5; do chmod -R u+rwX %s; rm -rf %s %s-outside "
	      "&& break; sleep 0.2; done",
		folder, folder, folder);
	return ledger_close(state);
}

/* The server */

static inline void start_http(void)
{
	assert_true(
		start_server("examples/http", "tcp://127.0.0.1:0", NULL) > 0);
}

/* Serves the folder. */
static inline void start_files(void)
{
	char option[80];

	snprintf(option, sizeof(option), "-r%s", folder);
	assert_true(
		start_server("examples/http", "tcp://127.0.0.1:0", option) > 0);
}

/* It had nothing to say, but how many connections it ended. */
static inline void end_http(void)
{
	assert_int_equal(end_server(SIGTERM), 0);
	if (said[0] && strncmp(said, "evt-server: info: stopped", 25) != 0)
		fail_msg("it said: %s", said);
}

/* A figure of the server's in /proc, or -1: "VmRSS:" in KiB. */
static inline long figure_of_server(const char *name)
{
	char path[64];
	char line[256];
	long figure = -1;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)server.pid);
	status = fopen(path, "re");
	while (status && fgets(line, sizeof(line), status))
		if (strncmp(line, name, strlen(name)) == 0)
			figure = strtol(line + strlen(name), NULL, 10);
	if (status)
		fclose(status);
	return figure;
}

/* The client */

struct peer {
	int fd;
	size_t used; /* of bytes: what came and was not taken */
	char bytes[65536];
};

struct answer {
	int status;
	size_t len; /* of the body */
	char head[HEAD_ROOM];
	char body[BODY_ROOM]; /* the first bytes of it */
};

/* The one that most tests need. */
static struct peer peer __attribute__((unused));
static struct answer answer;

static inline void dial(struct peer *it)
{
	const int yes = 1;

	it->used = 0;
	it->fd = connect_to(server.port);
	assert_int_not_equal(it->fd, -1);
	setsockopt(it->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

static inline void hang_up(struct peer *it)
{
	close(it->fd);
}

static inline void take(struct peer *it, size_t len)
{
	it->used -= len;
	memmove(it->bytes, it->bytes + len, it->used);
}

/* False at the end, after a reset, or if nothing came in 10 s. */
static inline bool read_more(struct peer *it)
{
	ssize_t len;

	do
		len = recv(it->fd, it->bytes + it->used,
			sizeof(it->bytes) - it->used, 0);
	while (len == -1 && errno == EINTR);
	if (len <= 0)
		return false;
	it->used += (size_t)len;
	return true;
}

/* A field of the last answer, or "" if it has none; static. */
static inline const char *field(const char *name)
{
	static char value[HEAD_ROOM];
	const char *line = answer.head;
	size_t len = strlen(name);

	value[0] = '\0';
	while ((line = strstr(line, "\r\n")) != NULL) {
		line += 2;
		if (strncasecmp(line, name, len) == 0 && line[len] == ':')
			snprintf(value, sizeof(value), "%.*s",
				(int)strcspn(line + len + 2, "\r"),
				line + len + 2);
	}
	return value;
}

/* Whether each line of the head is what the RFC wants of it. */
static inline bool is_well_formed(void)
{
	const char *at = strstr(answer.head, "\r\n") + 2;
	int lengths = 0;

	for (; strncmp(at, "\r\n", 3) != 0; at = strchr(at, '\n') + 1) {
		size_t name = strspn(at,
			"-abcdefghijklmnopqrstuvwxyz"
			"ABCDEFGHIJKLMNOPQRSTUVWXYZ");
		size_t line = strcspn(at, "\r\n");

		if (name == 0 || strncmp(at + name, ": ", 2) != 0 ||
			line == name + 2 || strncmp(at + line, "\r\n", 2) != 0)
			return false;
		lengths += strncasecmp(at, "Content-Length:", 15) == 0;
	}
	return answer.status < 200 || answer.status == 304 ||
		(lengths == 1 && field("Date")[0]);
}

/* Takes the head of an answer into answer. */
static inline bool read_head(struct peer *it)
{
	const char *end;
	size_t len;

	answer.status = 0;
	answer.len = 0;
	answer.head[0] = answer.body[0] = '\0';
	while (!(end = memmem(it->bytes, it->used, "\r\n\r\n", 4)))
		if (!read_more(it))
			return false;
	len = (size_t)(end - it->bytes) + 4;
	if (len >= HEAD_ROOM)
		return false;
	memcpy(answer.head, it->bytes, len);
	answer.head[len] = '\0';
	take(it, len);
	if (strncmp(answer.head, "HTTP/1.1 ", 9) == 0)
		answer.status = (int)strtol(answer.head + 9, NULL, 10);
	if (answer.status < 100 || answer.status > 599 || !is_well_formed()) {
		print_message("what an answer: %s", answer.head);
		return false;
	}
	return true;
}

/* Takes the body that follows: as much of it as is announced. */
static inline bool read_body(struct peer *it)
{
	size_t len = strtoul(field("Content-Length"), NULL, 10);
	size_t part;

	while (answer.len < len) {
		if (it->used == 0 && !read_more(it))
			return false;
		part = len - answer.len;
		part = part < it->used ? part : it->used;
		if (answer.len + part < BODY_ROOM) {
			memcpy(answer.body + answer.len, it->bytes, part);
			answer.body[answer.len + part] = '\0';
		}
		answer.len += part;
		take(it, part);
	}
	return true;
}

static inline bool read_answer(struct peer *it, bool to_head)
{
	if (!read_head(it))
		return false;
	return to_head || answer.status < 200 || answer.status == 304 ||
		read_body(it);
}

/* Sends a request: the status of the answer to it, 0 if there was none. */
static inline int ask(struct peer *it, const char *request)
{
	if (!says(it->fd, request) ||
		!read_answer(it, strncmp(request, "HEAD ", 5) == 0))
		return 0;
	return answer.status;
}

/* The same on a connection of its own. */
static inline int status_of(const char *request)
{
	static struct peer it;
	int status;

	dial(&it);
	status = ask(&it, request);
	hang_up(&it);
	return status;
}

/* The formatted text is the target, and further lines after it if there are:
 * "/x\r\nRange: bytes=0-1". */
__attribute__((format(printf, 1, 2))) static inline int get(
	const char *format, ...)
{
	char text[8192];
	char request[8300];
	size_t target;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	target = strcspn(text, "\r");
	snprintf(request, sizeof(request),
		"GET %.*s HTTP/1.1\r\nHost: x%s\r\n\r\n", (int)target, text,
		text + target);
	return status_of(request);
}

/* Nothing more comes: the server has ended the connection. */
static inline bool is_over(struct peer *it)
{
	return it->used == 0 && at_end(it->fd);
}

#endif /* HTTP_RIG_H */
