/*
 * evt-listener-place.c: from an accepted descriptor to a worker's pipe.
 *
 * What one wake-up accepts is first placed and then written, all records for
 * one worker in one write. When a pipe is full its records go to the next
 * worker; when all are, they are held here and accepting pauses, so that the
 * kernel's queue holds the clients.
 */
#include "evt-listener-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <unistd.h>

static bool is_free(struct evt_worker *worker)
{
	return !atomic_load_explicit(&worker->lost, memory_order_acquire) &&
		!evt_worker_is_stalled_(worker);
}

bool evt_listener_has_worker_(struct evt_listener *listener)
{
	struct evt_pool *pool = listener->pool;
	int lost = 0;
	int i;

	for (i = 0; i < pool->nr_workers; i++) {
		if (is_free(&pool->workers[i]))
			return true;
		lost += atomic_load(&pool->workers[i].lost);
	}
	/* When all are lost, clients are closed, not held up for ever. */
	return lost == pool->nr_workers;
}

/* The first free worker from index on, round; index itself if none is. */
static int free_from(struct evt_listener *listener, unsigned index)
{
	struct evt_pool *pool = listener->pool;
	unsigned nr = (unsigned)pool->nr_workers;
	unsigned i;

	for (i = 0; i < nr; i++)
		if (is_free(&pool->workers[(index + i) % nr]))
			return (int)((index + i) % nr);
	return nr > 0 ? (int)(index % nr) : 0;
}

/* Open on worker, on the way to it, or about to be. */
static unsigned long load_of(struct evt_listener *listener, int index)
{
	struct evt_worker *worker = &listener->pool->workers[index];
	unsigned long ended = atomic_load(&worker->ended);
	unsigned long load = atomic_load(&worker->assigned) +
		atomic_load_explicit(
			&worker->counters.connected, memory_order_relaxed);
	int i;

	load = load > ended ? load - ended : 0;
	for (i = 0; i < listener->nr_held; i++)
		load += listener->held[i].worker == index;
	return load;
}

/* Of several with as few the next one, so that they take turns. */
static int fewest(struct evt_listener *listener)
{
	struct evt_pool *pool = listener->pool;
	int best = free_from(listener, listener->turn++);
	unsigned long least = load_of(listener, best);
	int i;

	for (i = 1; i < pool->nr_workers && least > 0; i++) {
		int index = (best + i) % pool->nr_workers;
		unsigned long load = load_of(listener, index);

		if (load < least && is_free(&pool->workers[index])) {
			best = index;
			least = load;
			i = 0;
		}
	}
	return best;
}

/* The index of a worker; -1: refused. */
static int choose(struct evt_listener *listener, const struct sockaddr *peer)
{
	const struct evt_listen_options *options = &listener->options;
	int answer;

	switch (options->choice) {
	case EVT_CHOICE_FEWEST_CONNS:
		return fewest(listener);
	case EVT_CHOICE_FUNCTION:
		answer = options->choose(
			listener->pool, peer, listener->setup.arg);
		return answer < 0 ? -1 : free_from(listener, (unsigned)answer);
	default:
		return free_from(listener, listener->turn++);
	}
}

void evt_listener_drop_(struct evt_listener *listener, int conn,
	uint32_t source, atomic_ulong *counter)
{
	evt_count_(counter, 1);
	close(conn);
	listener->setup.on_gone(&listener->setup, source);
	evt_pool_nudge_(listener->pool);
}

bool evt_listener_place_(struct evt_listener *listener, int conn,
	uint32_t source, const struct sockaddr *peer)
{
	struct evt_placed *placed = &listener->held[listener->nr_held];
	int worker;

	placed->record = (struct evt_record){.kind = EVT_RECORD_CONN,
		.fd = conn,
		.generation = source,
		.queued_us = (uint32_t)listener->pool->boss.now_us,
		.arg = listener};
	listener->is_choosing = true; /* it may end this thread */
	worker = choose(listener, peer);
	listener->is_choosing = false;
	if (worker == -1)
		return false;
	placed->worker = worker;
	listener->nr_held++;
	return true;
}

/* Takes those for the worker of the first out of held: how many. */
static size_t take_group(
	struct evt_listener *listener, struct evt_record *records)
{
	struct evt_placed *held = listener->held;
	int worker = held[0].worker;
	size_t nr = 0;
	int left = 0;
	int i;

	for (i = 0; i < listener->nr_held; i++) {
		if (held[i].worker == worker)
			records[nr++] = held[i].record;
		else
			held[left++] = held[i];
	}
	listener->nr_held = left;
	return nr;
}

static void put_back(struct evt_listener *listener, int worker,
	const struct evt_record *records, size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++)
		listener->held[listener->nr_held++] = (struct evt_placed){
			.record = records[i], .worker = worker};
}

/* To worker, or else the next that has room: 0, EAGAIN or, if all are lost,
 * ENXIO. */
static int hand_over(struct evt_listener *listener, int worker,
	const struct evt_record *records, size_t nr)
{
	struct evt_pool *pool = listener->pool;
	int error = ENXIO;
	int i;

	for (i = 0; i < pool->nr_workers; i++) {
		int result = evt_pool_hand_over_(
			&pool->workers[(worker + i) % pool->nr_workers],
			records, nr);

		if (result == 0)
			return 0;
		if (result != ENXIO)
			error = EAGAIN;
	}
	return error;
}

bool evt_listener_flush_(struct evt_listener *listener)
{
	struct evt_record records[EVT_LISTENER_BATCH];

	while (listener->nr_held > 0) {
		int worker = listener->held[0].worker;
		size_t nr = take_group(listener, records);
		int error = hand_over(listener, worker, records, nr);

		if (error == EAGAIN) {
			put_back(listener, worker, records, nr);
			return false;
		}
		for (; error && nr > 0; nr--)
			evt_listener_drop_(listener, records[nr - 1].fd,
				records[nr - 1].generation,
				&listener->pool->boss.counters.dropped);
		if (error)
			evt_log_(EVT_LOG_ERROR,
				"no worker is left: connections are closed");
	}
	return true;
}
