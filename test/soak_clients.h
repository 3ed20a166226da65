/*
 * soak_clients.h: the clients of soak.c, each kind on a thread of its own, in
 * blocking sockets whose calls wait 10 s at most; and a bare echo between two
 * threads, which shows what the machine itself holds up.
 */
#ifndef SOAK_CLIENTS_H
#define SOAK_CLIENTS_H

#include "soak.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#define MESSAGE   64
#define LONG_TEXT 32768
#define NR_SILENT 64
#define NR_SLOW   16

static atomic_bool clients_over;

static char text[LONG_TEXT];

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void note_worst(atomic_ulong *worst, int64_t since)
{
	unsigned long us = (unsigned long)(now_us() - since);
	unsigned long before = atomic_load(worst);

	while (us > before && !atomic_compare_exchange_weak(worst, &before, us))
		;
}

/* -1 while nobody listens. */
static int dial(void)
{
	int port = atomic_load(&board->port);
	int fd = port > 0 ? connect_to(port) : -1;

	if (fd != -1) {
		NOTE(connects);
		return fd;
	}
	if (port > 0)
		NOTE(refused);
	poll(NULL, 0, 1);
	return -1;
}

/* This client's last wait was in vain. */
static _Thread_local bool in_vain;

/* Its end: one of them for each that has connected. */
static void hang_up(int fd, bool answered)
{
	if (answered)
		NOTE(kept);
	else if (in_vain)
		NOTE(stuck);
	else
		NOTE(cut);
	close(fd);
}

/* Reads up to len bytes of text from at on: how many came before the end or a
 * reset. */
static size_t hear(int fd, size_t at, size_t len)
{
	char bytes[4096];
	size_t heard = 0;
	ssize_t got;

	in_vain = false;

	while (heard < len) {
		size_t most = len - heard;

		got = recv(fd, bytes,
			most < sizeof(bytes) ? most : sizeof(bytes), 0);
		in_vain = got == -1 && errno == EAGAIN;
		if (got <= 0)
			return heard;
		if (memcmp(bytes, text + at + heard, (size_t)got) != 0)
			NOTE(wrong);
		heard += (size_t)got;
	}
	return heard;
}

/* One message and its echo. */
static bool ask(int fd)
{
	size_t at = draw(LONG_TEXT - MESSAGE);

	in_vain = false;
	if (!send_all(fd, text + at, MESSAGE) ||
		hear(fd, at, MESSAGE) != MESSAGE)
		return false;
	NOTE(echoes);
	return true;
}

static bool ask_often(int fd, int64_t since, unsigned int times)
{
	if (!ask(fd))
		return false;
	note_worst(&board->worst_first, since);
	while (times-- > 0 && !atomic_load(&clients_over)) {
		since = now_us();
		if (!ask(fd))
			return false;
		note_worst(&board->worst_echo, since);
	}
	return true;
}

static void echo_client(void)
{
	int64_t since = now_us();
	int fd = dial();

	if (fd != -1)
		hang_up(fd,
			ask_often(fd, since, draw(4) ? draw(3) : draw(200)));
}

static void reset_client(void)
{
	int fd = dial();

	if (fd == -1)
		return;
	if (draw(3) > 0 && send_all(fd, text, 1 + draw(LONG_TEXT)) &&
		draw(2) == 0)
		(void)hear(fd, 0, 1);
	close_with_reset(fd);
	NOTE(resets);
}

static void half_close_client(void)
{
	size_t len = 1 + draw(LONG_TEXT);
	int fd = dial();

	if (fd == -1)
		return;
	in_vain = false;
	hang_up(fd,
		send_all(fd, text, len) && shutdown(fd, SHUT_WR) == 0 &&
			hear(fd, 0, len) == len && at_end(fd));
}

/* Many that only wait, until the server has enough of each. */
static void silent_clients(void)
{
	struct pollfd them[NR_SILENT];
	int nr = 0;
	int i;

	while (nr < NR_SILENT && (them[nr].fd = dial()) != -1)
		them[nr++].events = POLLIN;
	for (i = 0; i < nr; i++) {
		in_vain = !at_end(them[i].fd);
		hang_up(them[i].fd, false);
	}
}

/* A byte at a time, of each in turn, until they are ended. */
static void slow_clients(void)
{
	int fds[NR_SLOW];
	size_t at = 0;
	int alive = 0;
	int i;

	for (i = 0; i < NR_SLOW; i++)
		alive += (fds[i] = dial()) != -1;
	while (alive > 0) {
		poll(NULL, 0, 5);
		for (i = 0; i < NR_SLOW; i++) {
			if (fds[i] == -1 ||
				(send_all(fds[i], text + at, 1) &&
					hear(fds[i], at, 1) == 1))
				continue;
			hang_up(fds[i], false);
			fds[i] = -1;
			alive--;
		}
		at = (at + 1) % LONG_TEXT;
	}
}

struct kind {
	const char *name;
	void (*act)(void);
	pthread_t thread;
};

static struct kind kinds[] = {
	{.name = "echo", .act = echo_client},
	{.name = "echo", .act = echo_client},
	{.name = "reset", .act = reset_client},
	{.name = "half-close", .act = half_close_client},
	{.name = "silent", .act = silent_clients},
	{.name = "slow", .act = slow_clients},
};

#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void *kind_main(void *arg)
{
	const struct kind *kind = arg;

	while (!atomic_load(&clients_over))
		kind->act();
	return NULL;
}

/* The bare echo */

static int bare[2] = {-1, -1};
static pthread_t bare_threads[2];

static void *bare_answer(void *arg)
{
	char bytes[MESSAGE];

	(void)arg;
	while (receive_all(bare[1], bytes, sizeof(bytes)) &&
		send_all(bare[1], bytes, sizeof(bytes)))
		;
	return NULL;
}

static void *bare_ask(void *arg)
{
	char bytes[MESSAGE];
	int64_t since;

	(void)arg;
	while (!atomic_load(&clients_over)) {
		poll(NULL, 0, 1);
		since = now_us();
		CHECK(send_all(bare[0], text, MESSAGE) &&
			receive_all(bare[0], bytes, sizeof(bytes)));
		note_worst(&board->worst_bare, since);
	}
	close(bare[0]);
	return NULL;
}

static void begin_clients(void)
{
	size_t i;

	for (i = 0; i < LONG_TEXT; i++)
		text[i] = (char)(i * 2654435761u >> 13);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bare) == 0);
	CHECK(pthread_create(&bare_threads[0], NULL, bare_ask, NULL) == 0);
	CHECK(pthread_create(&bare_threads[1], NULL, bare_answer, NULL) == 0);
	for (i = 0; i < NR_KINDS; i++)
		CHECK(pthread_create(&kinds[i].thread, NULL, kind_main,
			      &kinds[i]) == 0);
}

/* The server has ended, or will. */
static void end_clients(void)
{
	size_t i;

	atomic_store(&clients_over, true);
	for (i = 0; i < NR_KINDS; i++)
		pthread_join(kinds[i].thread, NULL);
	pthread_join(bare_threads[0], NULL);
	pthread_join(bare_threads[1], NULL);
	close(bare[1]);
}

#endif /* SOAK_CLIENTS_H */
