/*
 * storm.h: what the halves of storm.c have in common: chance, counts of what
 * happened, errors that may and may not be met, small clients that never wait
 * long. Everything is static, one of each.
 */
#ifndef STORM_H
#define STORM_H

#include "chance.h"
#include "ledger.h"
#include "../evt-core.h"
#include "../evt-listener.h"
#include "../evt-server.h"

#include <poll.h>
#include <pthread.h>
#include <sys/un.h>

#define MOST_WAIT_MS 20 /* of a client, for an answer */

/* What happened, one a line of the table at the end. */
#define STORM_COUNTS(COUNT)                                 \
	COUNT(classic_starts, "classic: listeners started") \
	COUNT(classic_pools, "pools started")               \
	COUNT(classic_stops, "stops")                       \
	COUNT(dispatched, "connections dispatched")         \
	COUNT(served, "callbacks of workers")               \
	COUNT(pools, "pools: made and freed")               \
	COUNT(runs, "of them by evt_pool_run")              \
	COUNT(stops, "stops asked for")                     \
	COUNT(listens, "listeners opened")                  \
	COUNT(listens_closed, "listeners closed")           \
	COUNT(opened, "connections accepted")               \
	COUNT(connected, "connections out")                 \
	COUNT(posts, "tasks posted")                        \
	COUNT(clients, "clients: connected")                \
	COUNT(resets, "reset by the client")                \
	COUNT(half_closes, "half-closed")                   \
	COUNT(echoes, "answered")                           \
	COUNT(datagrams, "datagrams sent")                  \
	COUNT(datagrams_in, "datagrams served")             \
	COUNT(signals, "signals: raised")                   \
	COUNT(handled, "handled")                           \
	COUNT(interrupted, "calls that gave EINTR")         \
	COUNT(invented, "and by chance")                    \
	COUNT(refusals, "errors: calls refused, rightly")   \
	COUNT(surprises, "errors that must not be")

#define STORM_COUNT_(name, text) atomic_ulong name;
static struct {
	STORM_COUNTS(STORM_COUNT_)
} happened;
#undef STORM_COUNT_

#define HAPPENED(what) \
	atomic_fetch_add_explicit(&happened.what, 1, memory_order_relaxed)

static atomic_bool storm_over;

/* Errors */

/* The line that comes before an error, for who is surprised by it. */
static _Thread_local char last_line[512];

static inline void keep_line(int level, const char *line, void *arg)
{
	(void)level, (void)arg;
	snprintf(last_line, sizeof(last_line), "%s", line);
}

/* A call has given -1: errno must be in the list, which ends with 0. */
static inline void must_be_one_of(const char *call, const int *errors)
{
	int error = errno;

	while (*errors != 0 && *errors != error)
		errors++;
	if (*errors != 0) {
		HAPPENED(refusals);
		return;
	}
	HAPPENED(surprises);
	print_message("%s: %s (%s)\n", call, strerror(error), last_line);
}

#define MUST_BE(call, ...) must_be_one_of(call, (const int[]){__VA_ARGS__, 0})

static inline void must_hold(bool condition, const char *what)
{
	if (condition)
		return;
	HAPPENED(surprises);
	print_message("not true: %s\n", what);
}

/* Clients. The signals make each call give EINTR sooner or later. */

/* Waits until fd is ready: false at the end of the time. */
static inline bool ready(int fd, short events)
{
	struct pollfd it = {.fd = fd, .events = events};
	int64_t until = now_ms() + MOST_WAIT_MS;
	int left;

	while ((left = (int)(until - now_ms())) > 0) {
		if (poll(&it, 1, left) > 0)
			return true;
	}
	return false;
}

static inline ssize_t hear(int fd, char *bytes, size_t len)
{
	ssize_t got;

	if (!ready(fd, POLLIN))
		return -1;
	do
		got = recv(fd, bytes, len, MSG_DONTWAIT);
	while (got == -1 && errno == EINTR);
	return got;
}

static inline void say(int fd, const void *bytes, size_t len)
{
	ssize_t sent;

	do
		sent = send(fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent == -1 && errno == EINTR);
}

static inline void use_and_close(int fd)
{
	static const char bytes[65536];
	char answer[4096];

	HAPPENED(clients);
	switch (draw(6)) {
	case 0:
		break;
	case 1:
		say(fd, "r", draw(2));
		close_with_reset(fd);
		HAPPENED(resets);
		return;
	case 2:
		say(fd, bytes, 1 + draw(100));
		shutdown(fd, SHUT_WR);
		while (hear(fd, answer, sizeof(answer)) > 0)
			;
		HAPPENED(half_closes);
		break;
	case 3:
		say(fd, bytes, sizeof(bytes));
		break;
	default:
		say(fd, bytes, 1 + draw(1000));
		if (hear(fd, answer, sizeof(answer)) > 0)
			HAPPENED(echoes);
		break;
	}
	close(fd);
}

static inline void be_client(int port)
{
	int fd = connect_to_ip(draw(4) ? "127.0.0.1" : "::1", port);

	if (fd != -1)
		use_and_close(fd);
}

/* Of whoever listens on @storm-NUMBER, connections or datagrams. */
static inline void be_local_client(unsigned int number)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	bool stream = draw(2) == 0;
	int fd = socket(AF_UNIX,
		(stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC |
			SOCK_NONBLOCK,
		0);
	int len = snprintf(
		to.sun_path + 1, sizeof(to.sun_path) - 1, "storm-%u", number);

	len += (int)offsetof(struct sockaddr_un, sun_path) + 1;
	if (connect(fd, (struct sockaddr *)&to, (socklen_t)len) == -1) {
		close(fd);
	} else if (stream) {
		use_and_close(fd);
	} else {
		say(fd, "datagram", draw(9));
		HAPPENED(datagrams);
		close(fd);
	}
}

static inline void send_datagrams(int port)
{
	int fd = udp_to(port);
	unsigned int nr = 1 + draw(8);
	char answer[64];

	while (fd != -1 && nr-- > 0) {
		say(fd, "datagram", draw(9));
		HAPPENED(datagrams);
	}
	if (fd != -1 && draw(2) == 0)
		(void)hear(fd, answer, sizeof(answer));
	if (fd != -1)
		close(fd);
}

#endif /* STORM_H */
