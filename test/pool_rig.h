/*
 * pool_rig.h: for suites of whole pools: one pool with one listener, handlers
 * that count, a thread that runs it, and what has to be true of its counters.
 * Everything is static, one of each in a suite, as in rig.h.
 */
#ifndef POOL_RIG_H
#define POOL_RIG_H

#include "rig.h"
#include "../evt-listener.h"

#define REASONS (EVT_REASON_FAILED + 1)
#define WORKERS 3

/* What the handlers below have seen. */
static struct {
	atomic_int opened;
	atomic_int closed;
	atomic_int reasons[REASONS];
	atomic_int told; /* on_stop */
	atomic_int bytes;
	atomic_int tasks;
	atomic_ulong id; /* of the last that was opened */
	_Atomic(struct evt_worker *) worker;
} seen;

static inline void forget_seen(void)
{
	int i;

	atomic_store(&seen.opened, 0);
	atomic_store(&seen.closed, 0);
	for (i = 0; i < REASONS; i++)
		atomic_store(&seen.reasons[i], 0);
	atomic_store(&seen.told, 0);
	atomic_store(&seen.bytes, 0);
	atomic_store(&seen.tasks, 0);
	atomic_store(&seen.id, 0);
	atomic_store(&seen.worker, NULL);
}

static inline void note_open(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_store(&seen.id, evt_conn_id(conn));
	atomic_store(&seen.worker, evt_conn_worker(conn));
	atomic_fetch_add(&seen.opened, 1);
}

static inline void note_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)conn;
	(void)arg;
	atomic_fetch_add(&seen.reasons[reason], 1);
	atomic_fetch_add(&seen.closed, 1);
}

static inline void note_stop(struct evt_conn *conn, void *arg)
{
	(void)conn;
	(void)arg;
	atomic_fetch_add(&seen.told, 1);
}

static inline void close_at_stop(struct evt_conn *conn, void *arg)
{
	note_stop(conn, arg);
	evt_conn_close(conn);
}

static inline size_t echo_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	atomic_fetch_add(&seen.bytes, (int)len);
	evt_conn_write(conn, data, len);
	return len;
}

static inline void note_task_ran(struct evt_worker *worker, void *arg)
{
	(void)arg;
	CHECK(worker == evt_worker_self());
	atomic_fetch_add(&seen.tasks, 1);
}

static inline void wait_task(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	wait_at_gate();
}

static const struct evt_handlers echoes = {
	.on_open = note_open, .on_data = echo_data, .on_close = note_close};

static struct evt_pool *pool;
static struct evt_listener *listener;
static int pool_port;

static inline void free_pool(void)
{
	open_gate();
	evt_pool_free(pool);
	pool = NULL;
}

/* Not started yet. NULL: WORKERS workers, echoes, the defaults. */
static inline void make_pool(const struct evt_pool_options *options,
	const struct evt_handlers *handlers,
	const struct evt_listen_options *how)
{
	const struct evt_pool_options usual = {.workers = WORKERS};

	if (pool) /* left by a test that has failed */
		free_pool();
	forget_seen();
	forget_tally();
	shut_gate();
	pool = evt_pool_new(options ? options : &usual);
	assert_non_null(pool);
	listener = evt_listen(pool, "tcp://127.0.0.1:0",
		handlers ? handlers : &echoes, how, NULL);
	assert_non_null(listener);
	pool_port = evt_listener_port(listener);
}

static inline void start_pool(const struct evt_pool_options *options,
	const struct evt_handlers *handlers,
	const struct evt_listen_options *how)
{
	make_pool(options, handlers, how);
	assert_int_equal(evt_pool_start(pool), 0);
}

/* Clients are connected, and their connections open. */
static inline void connect_clients(int *clients, int nr)
{
	int before = atomic_load(&seen.opened);
	int i;

	for (i = 0; i < nr; i++) {
		clients[i] = connect_to(pool_port);
		assert_int_not_equal(clients[i], -1);
	}
	assert_true(WAIT_FOR(atomic_load(&seen.opened) == before + nr));
}

static inline void close_clients(const int *clients, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		close(clients[i]);
}

/* Holds worker index at the gate. */
static inline void hold_worker(int index)
{
	int before = atomic_load(&gate.waiting);
	struct evt_worker *worker = evt_pool_worker(pool, index);

	assert_int_equal(evt_worker_post(worker, wait_task, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == before + 1));
}

static inline struct evt_stats stats_now(void)
{
	struct evt_stats stats;

	memset(&stats, 0xff, sizeof(stats));
	if (evt_pool_stats(pool, &stats) == -1)
		memset(&stats, 0xff, sizeof(stats));
	return stats;
}

static inline uint64_t ended(const struct evt_stats *stats)
{
	return stats->closed_peer + stats->closed_ours + stats->closed_reset +
		stats->closed_idle + stats->closed_deadline +
		stats->closed_overflow + stats->closed_stopped +
		stats->closed_failed;
}

/* What evt-pool.h promises of a pool that has stopped, and what the handlers
 * have seen of it. */
static inline bool is_balanced(void)
{
	struct evt_stats stats = stats_now();
	bool balanced = stats.accepted ==
			stats.opened + stats.refused + stats.dropped &&
		stats.opened + stats.connected == ended(&stats) &&
		stats.open == 0 &&
		atomic_load(&seen.opened) == atomic_load(&seen.closed);

	if (!balanced)
		print_message("accepted %lu opened %lu refused %lu dropped %lu "
			      "connected %lu ended %lu open %lu, seen: "
			      "opened %d closed %d\n",
			(unsigned long)stats.accepted,
			(unsigned long)stats.opened,
			(unsigned long)stats.refused,
			(unsigned long)stats.dropped,
			(unsigned long)stats.connected,
			(unsigned long)ended(&stats), (unsigned long)stats.open,
			atomic_load(&seen.opened), atomic_load(&seen.closed));
	return balanced;
}

/* A thread of the program's in evt_pool_run. */
struct runner {
	pthread_t thread;
	struct evt_pool *pool;
	atomic_int result;
	atomic_int error;
	atomic_bool done;
};

static inline void *runner_main(void *arg)
{
	struct runner *it = arg;
	int result = evt_pool_run(it->pool);

	atomic_store(&it->error, errno);
	atomic_store(&it->result, result);
	atomic_store(&it->done, true);
	return NULL;
}

static inline void start_runner(struct runner *it, struct evt_pool *what)
{
	it->pool = what;
	atomic_store(&it->result, -2);
	atomic_store(&it->error, 0);
	atomic_store(&it->done, false);
	CHECK(pthread_create(&it->thread, NULL, runner_main, it) == 0);
}

/* What evt_pool_run gave. */
static inline int join_runner(struct runner *it)
{
	pthread_join(it->thread, NULL);
	return atomic_load(&it->result);
}

/* Calls evt_pool_wait on another thread. */
static inline void *waiter_main(void *arg)
{
	struct runner *it = arg;
	int result = evt_pool_wait(it->pool);

	atomic_store(&it->error, errno);
	atomic_store(&it->result, result);
	atomic_store(&it->done, true);
	return NULL;
}

static inline void start_waiter(struct runner *it)
{
	it->pool = pool;
	atomic_store(&it->result, -2);
	atomic_store(&it->done, false);
	CHECK(pthread_create(&it->thread, NULL, waiter_main, it) == 0);
}

#endif /* POOL_RIG_H */
