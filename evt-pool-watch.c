/*
 * evt-pool-watch.c: a worker that hangs in a callback is told of, counted, and
 * gets no new connections until it returns.
 *
 * Each worker counts its turns, odd while it is in one, with a plain store. The
 * boss looks at these numbers a few times in stall_ms, but only while there is
 * something to see: a timer that ticks in an idle process would wake it for
 * nothing. A worker whose turn begins while nobody watches wakes the boss. Its
 * store and its look at the flag may pass each other, so the boss takes the
 * flag back first and looks once more, a tick later, before it sleeps.
 */
#include "evt-pool-internal.h"
#include "evt-log-internal.h"

#include <event2/event.h>

#define LOOKS 4 /* in stall_ms */

static void tick_again(struct evt_pool *pool)
{
	int ms = pool->options.stall_ms / LOOKS;
	struct timeval delay;

	ms = ms > 0 ? ms : 1;
	delay.tv_sec = ms / 1000;
	delay.tv_usec = (suseconds_t)(ms % 1000) * 1000;
	/* Its place in the heap is reserved, unless listeners pause. */
	if (event_add(pool->watch, &delay) == -1)
		atomic_store(&pool->watching, false); /* the next turn asks */
}

static void look_at(struct evt_worker *worker, int64_t now_ms)
{
	unsigned turn = atomic_load_explicit(
		&worker->turn, memory_order_relaxed);
	int limit_ms = worker->pool->options.stall_ms;

	if (turn != worker->watched_turn || turn % 2 == 0) {
		worker->watched_turn = turn;
		worker->watched_ms = now_ms;
		worker->stalled = false;
	} else if (!worker->stalled &&
		now_ms - worker->watched_ms >= limit_ms) {
		worker->stalled = true;
		evt_count_(&worker->pool->boss.counters.stalls, 1);
		evt_log_(EVT_LOG_WARN,
			"worker %d: a callback has run for more than %d ms; "
			"until it returns it gets no new connections",
			worker->index, limit_ms);
	}
}

static bool is_busy(const struct evt_worker *worker, unsigned before)
{
	return worker->watched_turn != before || worker->watched_turn % 2 == 1;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct evt_pool *pool = arg;
	int state = evt_callback_begin_(&pool->boss);
	bool busy = false;
	int i;

	(void)fd;
	(void)what;
	for (i = 0; i < pool->nr_workers; i++) {
		struct evt_worker *worker = &pool->workers[i];
		unsigned before = worker->watched_turn;

		if (atomic_load(&worker->lost))
			continue;
		look_at(worker, pool->boss.now_us / 1000);
		busy = is_busy(worker, before) || busy;
	}
	if (busy) {
		atomic_store(&pool->watching, true);
		tick_again(pool);
	} else if (atomic_exchange(&pool->watching, false)) {
		tick_again(pool);
	}
	evt_callback_end_(&pool->boss, state);
}

int evt_watch_init_(struct evt_pool *pool)
{
	if (pool->options.stall_ms == -1) {
		atomic_store(&pool->watching, true); /* nobody is to ask */
		return 0;
	}
	pool->watch = event_new(pool->boss.base, -1, 0, on_tick, pool);
	if (!pool->watch)
		return -1;
	if (evt_timer_reserve_(pool->watch) == 0)
		return 0;
	evt_watch_free_(pool);
	return -1;
}

void evt_watch_free_(struct evt_pool *pool)
{
	if (pool->watch)
		event_free(pool->watch);
	pool->watch = NULL;
}

void evt_watch_wanted_(struct evt_pool *pool)
{
	if (pool->owned && !atomic_exchange(&pool->watching, true)) {
		atomic_store(&pool->watch_asked, true);
		atomic_fetch_add(&pool->changes, 1);
		evt_pool_wake_boss_(pool);
	}
}

void evt_watch_look_(struct evt_pool *pool)
{
	if (atomic_exchange(&pool->watch_asked, false) && pool->watch)
		tick_again(pool);
}

bool evt_worker_is_stalled_(struct evt_worker *worker)
{
	return worker->stalled &&
		atomic_load_explicit(&worker->turn, memory_order_relaxed) ==
		worker->watched_turn;
}
