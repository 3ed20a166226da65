/*
 * proxy_rig.h: for suites of the example proxy: it runs between sockets of this
 * process, or between programs; the folder in which those have their files, and
 * streams of bytes that are looked at as they come. Everything is static.
 */
#ifndef PROXY_RIG_H
#define PROXY_RIG_H

#include "ledger.h"
#include "programs.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#define MB ((size_t)1 << 20)

/* Streams: bytes that repeat themselves after a prime number of them, so that
 * one that is lost or comes twice is noticed. */

#define PERIOD 65521

static unsigned char pattern[2 * PERIOD];

/* The servers behind: programs, or a socket of this process. */
static struct {
	pid_t pid;
	int out;
} behind;
static int listener = -1;
static int nameserver = -1;
static char folder[32];

static inline void close_one(int *fd)
{
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

static inline void end_behind(void)
{
	if (behind.pid > 0) {
		kill(behind.pid, SIGKILL);
		await_status(behind.pid);
		close(behind.out);
	}
	behind.pid = 0;
	close_one(&listener);
	close_one(&nameserver);
}

static inline int open_all(void **state)
{
	size_t i;

	for (i = 0; i < sizeof(pattern); i++)
		pattern[i] = ((i % PERIOD) * (i % PERIOD) >> 5) & 0xff;
	snprintf(folder, sizeof(folder), "/tmp/test_proxy.XXXXXX");
	return mkdtemp(folder) && ledger_open(state) == 0 ? 0 : -1;
}

static inline int end_all(void **state)
{
	end_programs();
	end_behind();
	if (shell("rm -r %s", folder) != 0)
		return -1;
	return ledger_close(state);
}

#define PROXY_TEST(fn)                                  \
	{                                               \
#fn, fn, open_all, end_all, (void *)#fn \
	}

/* A socket that listens on 127.0.0.1: its port. */
static inline int listen_here(int backlog)
{
	const struct timeval limit = {.tv_sec = 10 * slowness()};
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(listener, backlog), 0);
	setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	getsockname(listener, (struct sockaddr *)&in, &len);
	return ntohs(in.sin_port);
}

/* A proxy to url, which may have the port in it. */
__attribute__((format(printf, 1, 2))) static inline void start_proxy(
	const char *format, ...)
{
	char url[128];
	va_list args;

	va_start(args, format);
	vsnprintf(url, sizeof(url), format, args);
	va_end(args);
	assert_true(
		start_server("examples/proxy", "tcp://127.0.0.1:0", url) > 0);
}

/* 0: it has been told to stop before. */
static inline void end_proxy_by(int sig)
{
	assert_int_equal(end_server(sig), 0);
	if (strstr(said, "error") || strstr(said, "warn"))
		print_message("%s", said);
	assert_null(strstr(said, "error"));
	assert_null(strstr(said, "warn"));
	assert_null(strstr(said, "Sanitizer"));
}

static inline void end_proxy(void)
{
	end_proxy_by(SIGTERM);
}

static inline int accept_one(void)
{
	const struct timeval limit = {.tv_sec = 10 * slowness()};
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return fd;
}

/* Both ends of what the proxy joins. */
static struct {
	int client;
	int server;
} ends;

static inline void join_ends(void)
{
	ends.client = connect_to(server.port);
	assert_true(ends.client >= 0);
	ends.server = accept_one();
}

static inline void close_ends(void)
{
	close(ends.client);
	close(ends.server);
}

static inline bool is_reset(int fd)
{
	char byte;

	return recv(fd, &byte, 1, 0) == -1 && errno == ECONNRESET;
}

static inline bool has_ended(int fd)
{
	char byte;

	return recv(fd, &byte, 1, 0) == 0;
}

static inline bool passes(int from, int to, const char *text)
{
	char got[64] = "";

	return says(from, text) && receive_all(to, got, strlen(text)) &&
		strcmp(got, text) == 0;
}

struct stream {
	int from;
	int to;
	size_t sent;
	size_t got;
	bool wrong;
	bool over; /* its end has come */
};

static inline void send_some(struct stream *stream, size_t len)
{
	size_t left = len - stream->sent;
	ssize_t sent = send(stream->from, pattern + stream->sent % PERIOD,
		left < PERIOD ? left : PERIOD, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent > 0)
		stream->sent += (size_t)sent;
	else if (errno != EAGAIN)
		stream->wrong = true;
}

static inline void take_some(struct stream *stream)
{
	static char bytes[PERIOD];
	ssize_t got = recv(stream->to, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (got > 0 &&
		memcmp(bytes, pattern + stream->got % PERIOD, (size_t)got) == 0)
		stream->got += (size_t)got;
	else if (got == 0)
		stream->over = true;
	else if (got != -1 || errno != EAGAIN)
		stream->wrong = true;
}

/* Until len bytes have come; or, if nothing is taken, until the flow has
 * stopped. Neither is waited for in vain for long. */
static inline bool flow(struct stream *stream, size_t len, bool takes)
{
	const int limit = takes ? 10000 * slowness() : 200;

	while (stream->got < len && !stream->wrong && !stream->over) {
		struct pollfd fds[] = {
			{stream->sent < len ? stream->from : -1, POLLOUT, 0},
			{takes ? stream->to : -1, POLLIN, 0}};

		if (poll(fds, 2, limit) <= 0)
			return !takes;
		if (fds[0].revents)
			send_some(stream, len);
		if (fds[1].revents)
			take_some(stream);
	}
	return stream->got == len && !stream->wrong;
}

/* KiB of memory that the proxy had at most. */
static inline long most_memory(void)
{
	char line[128];
	char path[64];
	long most = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)server.pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "VmHWM: %ld", &most);
	if (file)
		fclose(file);
	return most;
}

static inline void write_file(const char *name, const void *data, size_t len)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "we");
	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
}

#endif /* PROXY_RIG_H */
