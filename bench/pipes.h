/*
 * pipes.h: handing descriptors to threads through pipes, with nothing else: a
 * record is written whole, a worker waits in epoll_wait and reads many at
 * once. The pipe is queue, lock and wake-up in one. bare.c serves connections
 * with it and handoff.c measures it: it is what the library is compared with.
 *
 * It does not do what a library has to: no memory of what is queued, no stop
 * under load, no answer to a worker that dispatches, no check of a call.
 */
#ifndef BENCH_PIPES_H
#define BENCH_PIPES_H

#include "common.h"

#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdint.h>

#define PIPES_MAX   64
#define PIPES_SIZE  (256 * 1024)
#define PIPES_BATCH 128 /* records: 4,096 bytes, a page of the pipe */

typedef void (*on_record)(int fd, short what, void *arg);

/* As large as the library's. In the one that ends a worker, call is NULL. */
struct record {
	on_record call;
	void *arg;
	int64_t spare;
	int fd;
	short what;
	short spare_too;
};

_Static_assert(sizeof(struct record) == 32, "a record must divide a page");

struct pipes {
	int count;
	atomic_uint turn;
	int in[PIPES_MAX];
	int out[PIPES_MAX];
	pthread_t thread[PIPES_MAX];
};

/* Calls what was queued; false once the last record is among it. */
static inline int run_records(int fd, struct record batch[PIPES_BATCH])
{
	ssize_t len = read(fd, batch, PIPES_BATCH * sizeof(batch[0]));
	size_t count = len > 0 ? (size_t)len / sizeof(batch[0]) : 0;

	for (size_t i = 0; i < count; i++) {
		if (!batch[i].call)
			return 0;
		batch[i].call(batch[i].fd, batch[i].what, batch[i].arg);
	}
	return 1;
}

static inline void *run_pipe_worker(void *arg)
{
	int fd = *(int *)arg;
	int epoll = epoll_of(fd);
	struct record batch[PIPES_BATCH];
	struct epoll_event event;
	int running = 1;

	while (running) {
		if (epoll_wait(epoll, &event, 1, -1) == 1)
			running = run_records(fd, batch);
	}
	close(epoll);
	return NULL;
}

/* Each worker is a thread with its own kind of loop: run(int *out), out being
 * the end of its pipe to call run_records on. */
static inline void pipes_start_loops(
	struct pipes *pipes, int count, void *(*run)(void *out))
{
	int ends[2];

	pipes->count = count;
	atomic_init(&pipes->turn, 0);
	for (int i = 0; i < count; i++) {
		if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) == -1)
			die("pipe2");
		fcntl(ends[1], F_SETPIPE_SZ, PIPES_SIZE);
		pipes->out[i] = ends[0];
		pipes->in[i] = ends[1];
		errno = pthread_create(
			&pipes->thread[i], NULL, run, &pipes->out[i]);
		if (errno != 0)
			die("pthread_create");
	}
}

static inline void pipes_start(struct pipes *pipes, int count)
{
	pipes_start_loops(pipes, count, run_pipe_worker);
}

static inline void wait_for_room(const struct pipes *pipes)
{
	struct pollfd room[PIPES_MAX];

	for (int i = 0; i < pipes->count; i++)
		room[i] = (struct pollfd){
			.fd = pipes->in[i], .events = POLLOUT};
	poll(room, (nfds_t)pipes->count, -1);
}

/* Round robin; past a full pipe to the next; if all are full, waits. */
static inline void pipes_dispatch(
	struct pipes *pipes, on_record call, int fd, short what, void *arg)
{
	struct record record = {
		.call = call, .arg = arg, .fd = fd, .what = what};
	unsigned count = (unsigned)pipes->count;

	for (;;) {
		unsigned first = atomic_fetch_add_explicit(
			&pipes->turn, 1, memory_order_relaxed);

		for (unsigned i = 0; i < count; i++) {
			int in = pipes->in[(first + i) % count];

			if (write(in, &record, sizeof(record)) != -1)
				return;
			if (errno != EAGAIN)
				die("write to a worker's pipe");
		}
		wait_for_room(pipes);
	}
}

/* Ends the workers; the pipes have to be empty. */
static inline void pipes_stop(struct pipes *pipes)
{
	struct record last = {.call = NULL};

	for (int i = 0; i < pipes->count; i++) {
		if (write(pipes->in[i], &last, sizeof(last)) == -1)
			die("write to a worker's pipe");
		pthread_join(pipes->thread[i], NULL);
		close(pipes->in[i]);
		close(pipes->out[i]);
	}
}

#endif /* BENCH_PIPES_H */
