/*
 * storm_pools.h: a few pools that all threads use while one makes, runs, stops
 * or frees them. Who uses one holds its place for reading, since a pool must
 * not be freed under a call; everything else is left to the library.
 */
#ifndef STORM_POOLS_H
#define STORM_POOLS_H

#include "storm.h"

#define NR_PLACES      3
#define MOST_LISTENERS 8
#define MOST_IDS       32

static struct place {
	pthread_rwlock_t lock;
	atomic_bool ending; /* no new users */
	struct evt_pool *pool;
	atomic_int begun; /* listeners that were tried */
	_Atomic(struct evt_listener *) listeners[MOST_LISTENERS];
	atomic_int tcp[MOST_LISTENERS]; /* ports, or 0 */
	atomic_int udp[MOST_LISTENERS];
	atomic_ulong ids[MOST_IDS];
	atomic_long tasks;  /* taken, and not run yet */
	atomic_long opened; /* and not closed yet, as the handlers know it */
} places[NR_PLACES];

static atomic_uint next_name;

static inline unsigned int recent_name(void)
{
	unsigned int last = atomic_load(&next_name);
	unsigned int back = draw(3 * MOST_LISTENERS);

	return last > back ? last - back : 0;
}

static inline void stop_pool(struct evt_pool *pool)
{
	HAPPENED(stops);
	evt_pool_stop(pool);
}

/* Handlers */

static inline void storm_task(struct evt_worker *worker, void *arg)
{
	struct place *place = arg;

	must_hold(worker == evt_worker_self(), "a task is on its worker");
	if (draw(2000) == 0)
		stop_pool(evt_worker_pool(worker));
	atomic_fetch_sub(&place->tasks, 1);
}

static inline void storm_conn_task(struct evt_conn *conn, void *arg)
{
	struct place *place = arg;

	atomic_fetch_sub(&place->tasks, 1);
	if (!conn)
		return;
	switch (draw(6)) {
	case 0:
		evt_conn_abort(conn);
		break;
	case 1:
		evt_conn_close(conn);
		break;
	case 2:
		(void)evt_conn_finish(conn);
		break;
	default:
		evt_conn_resume(conn);
		break;
	}
}

static inline void storm_open(struct evt_conn *conn, void *arg)
{
	struct place *place = arg;

	HAPPENED(opened);
	atomic_fetch_add(&place->opened, 1);
	atomic_store(&place->ids[draw(MOST_IDS)], evt_conn_id(conn));
	if (draw(4) == 0)
		evt_conn_set_timeout(conn,
			draw(2) ? EVT_TIMEOUT_IDLE : EVT_TIMEOUT_DEADLINE,
			1 + (int)draw(50));
}

static inline void storm_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	struct place *place = arg;

	(void)conn, (void)reason;
	atomic_fetch_sub(&place->opened, 1);
}

static inline size_t storm_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	unsigned int what = draw(64);

	(void)arg;
	if (evt_conn_write(conn, data, len) == -1)
		MUST_BE("evt_conn_write", ENOTCONN, EPIPE);
	if (what == 0)
		evt_conn_close(conn);
	else if (what == 1)
		evt_conn_abort(conn);
	else if (what == 2)
		evt_conn_pause(conn);
	return what == 3 ? len / 2 : len;
}

static inline void storm_datagrams(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int i;

	(void)arg;
	for (i = 0; i < n; i++) {
		HAPPENED(datagrams_in);
		if (evt_udp_reply(
			    sock, &batch[i], batch[i].data, batch[i].len) == -1)
			MUST_BE("evt_udp_reply", EDESTADDRREQ, EAGAIN);
	}
}

static const struct evt_handlers storm_handlers = {
	.on_open = storm_open,
	.on_data = storm_data,
	.on_close = storm_close,
	.on_datagrams = storm_datagrams,
};

static inline void out_open(struct evt_conn *conn, void *arg)
{
	(void)arg;
	HAPPENED(connected);
	if (evt_conn_printf(conn, "hello %u", draw(1000)) == -1)
		MUST_BE("evt_conn_printf", ENOTCONN, EPIPE);
}

static inline size_t out_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	if (draw(2))
		evt_conn_close(conn);
	else
		evt_conn_abort(conn);
	return len;
}

static const struct evt_handlers out_handlers = {
	.on_open = out_open, .on_data = out_data, .on_close = storm_close};

/* 9, where nobody listens, if there is none. */
static inline int any_port(atomic_int *ports)
{
	unsigned int from = draw(MOST_LISTENERS);
	unsigned int i;
	int port;

	for (i = 0; i < MOST_LISTENERS; i++) {
		port = atomic_load(&ports[(from + i) % MOST_LISTENERS]);
		if (port != 0)
			return port;
	}
	return 9;
}

/* A connection counts from here on: evt_connect has given it. */
static inline void connect_task(struct evt_worker *worker, void *arg)
{
	const struct evt_connect_options options = {
		.connect_ms = 200, .idle_ms = 200};
	struct place *place = arg;
	char url[64];

	atomic_fetch_sub(&place->tasks, 1);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d",
		draw(8) ? any_port(place->tcp) : 9);
	if (evt_connect(worker, url, &out_handlers, &options, place))
		atomic_fetch_add(&place->opened, 1);
	else
		MUST_BE("evt_connect", ECANCELED);
}

/* What any thread does with a pool, in its place. */

static inline void open_listener(struct place *place)
{
	static const char *const kinds[] = {"tcp://127.0.0.1:0",
		"tcp://[::1]:0", "tcp://127.0.0.1:0", "udp://127.0.0.1:0",
		"unix:@storm-", "unixgram:@storm-"};
	unsigned int kind = draw(sizeof(kinds) / sizeof(kinds[0]));
	const struct evt_listen_options options = {.max_conns = 200,
		.reuseport = kind == 2,
		.refuse = (int)draw(2),
		.first_byte_ms = 100,
		.idle_ms = 200};
	int nr = atomic_fetch_add(&place->begun, 1);
	struct evt_listener *listener;
	char url[64];

	if (nr >= MOST_LISTENERS)
		return;
	if (kind < 4)
		snprintf(url, sizeof(url), "%s", kinds[kind]);
	else
		snprintf(url, sizeof(url), "%s%u", kinds[kind],
			atomic_fetch_add(&next_name, 1));
	listener = evt_listen(
		place->pool, url, &storm_handlers, &options, place);
	if (!listener) {
		MUST_BE("evt_listen", ECANCELED);
		return;
	}
	HAPPENED(listens);
	if (kind < 3)
		atomic_store(&place->tcp[nr], evt_listener_port(listener));
	if (kind == 3)
		atomic_store(&place->udp[nr], evt_listener_port(listener));
	atomic_store(&place->listeners[nr], listener);
}

static inline void close_listener(struct place *place)
{
	struct evt_listener *listener = atomic_load(
		&place->listeners[draw(MOST_LISTENERS)]);

	if (!listener)
		return;
	evt_listener_close(listener);
	HAPPENED(listens_closed);
}

static inline void post(struct place *place)
{
	int nr = evt_pool_workers(place->pool);
	struct evt_worker *worker = evt_pool_worker(
		place->pool, (int)draw((unsigned int)nr));

	HAPPENED(posts);
	atomic_fetch_add(&place->tasks, 1);
	if (evt_worker_post(
		    worker, draw(4) ? storm_task : connect_task, place) == 0)
		return;
	MUST_BE("evt_worker_post", ECANCELED, ENOTCONN);
	atomic_fetch_sub(&place->tasks, 1);
}

static inline void post_all(struct place *place)
{
	int nr = evt_pool_workers(place->pool);
	int taken;

	HAPPENED(posts);
	atomic_fetch_add(&place->tasks, nr);
	taken = evt_pool_post_all(place->pool, storm_task, place);
	if (taken == -1)
		MUST_BE("evt_pool_post_all", ECANCELED, ENOTCONN);
	atomic_fetch_sub(&place->tasks, nr - (taken > 0 ? taken : 0));
}

static inline void post_conn(struct place *place)
{
	uint64_t id = atomic_load(&place->ids[draw(MOST_IDS)]);

	if (id == 0)
		return;
	HAPPENED(posts);
	if (draw(2) == 0) {
		if (evt_pool_send(place->pool, id, "sent", 4) == -1)
			MUST_BE("evt_pool_send", ECANCELED);
		return;
	}
	atomic_fetch_add(&place->tasks, 1);
	if (evt_pool_post_conn(place->pool, id, storm_conn_task, place) == 0)
		return;
	MUST_BE("evt_pool_post_conn", ECANCELED);
	atomic_fetch_sub(&place->tasks, 1);
}

static inline void use_listener(struct place *place)
{
	switch (draw(4)) {
	case 0:
		be_local_client(recent_name());
		break;
	case 1:
		send_datagrams(any_port(place->udp));
		break;
	default:
		be_client(any_port(place->tcp));
		break;
	}
}

static inline void use_pool(struct place *place)
{
	struct evt_stats stats;
	unsigned int what = draw(100);

	if (what < 4)
		open_listener(place);
	else if (what < 5)
		close_listener(place);
	else if (what < 25)
		post(place);
	else if (what < 30)
		post_all(place);
	else if (what < 45)
		post_conn(place);
	else if (what < 50)
		(void)evt_pool_stats(place->pool, &stats);
	else if (draw(400) == 0)
		stop_pool(place->pool);
	else
		use_listener(place);
}

/* Making and freeing */

static inline void check_counters(struct place *place)
{
	struct evt_stats it;

	if (evt_pool_stats(place->pool, &it) == -1)
		must_hold(false, "a stopped pool has counters");
	must_hold(it.accepted == it.opened + it.refused + it.dropped,
		"accepted = opened + refused + dropped");
	must_hold(it.opened + it.connected ==
			it.closed_peer + it.closed_ours + it.closed_reset +
				it.closed_idle + it.closed_deadline +
				it.closed_overflow + it.closed_stopped +
				it.closed_failed,
		"opened + connected = closed");
	must_hold(it.open == 0, "none is open");
	must_hold(it.dropped == 0, "none was dropped");
	must_hold(it.closed_failed == 0, "none has failed");
	must_hold(atomic_load(&place->opened) == 0, "each on_close was called");
	must_hold(atomic_load(&place->tasks) == 0, "each task has run");
}

/* The place is empty, and ours. Whether the pool waits for evt_pool_run. */
static inline bool make_pool(struct place *place)
{
	const struct evt_pool_options options = {
		.workers = 1 + (int)draw(4), .grace_ms = 1 + (int)draw(100)};
	bool run = draw(2) == 0;
	unsigned int nr;

	place->pool = evt_pool_new(&options);
	if (!place->pool) {
		must_hold(false, "a pool can be made");
		return false;
	}
	HAPPENED(pools);
	atomic_store(&place->begun, 0);
	for (nr = 0; nr < MOST_LISTENERS; nr++) {
		atomic_store(&place->listeners[nr], NULL);
		atomic_store(&place->tcp[nr], 0);
		atomic_store(&place->udp[nr], 0);
	}
	for (nr = 0; nr < MOST_IDS; nr++)
		atomic_store(&place->ids[nr], 0);
	for (nr = 0; nr < 3; nr++)
		open_listener(place);
	atomic_store(&place->ending, false);
	if (!run && evt_pool_start(place->pool) == -1)
		MUST_BE("evt_pool_start", 0);
	return run;
}

static inline void run_pool(struct place *place)
{
	HAPPENED(runs);
	if (evt_pool_run(place->pool) == -1)
		MUST_BE("evt_pool_run", EALREADY);
}

static inline void free_pool(struct place *place)
{
	atomic_store(&place->ending, true);
	stop_pool(place->pool);
	if (evt_pool_wait(place->pool) == -1)
		MUST_BE("evt_pool_wait", EINVAL);
	pthread_rwlock_unlock(&place->lock);
	pthread_rwlock_wrlock(&place->lock);
	if (!place->pool) /* another was quicker */
		return;
	if (evt_pool_wait(place->pool) == 0)
		check_counters(place);
	evt_pool_free(place->pool);
	place->pool = NULL;
}

static inline void pools_action(void)
{
	struct place *place = &places[draw(NR_PLACES)];

	if (pthread_rwlock_tryrdlock(&place->lock) != 0)
		return;
	if (place->pool && !atomic_load(&place->ending)) {
		if (draw(200) == 0)
			free_pool(place);
		else
			use_pool(place);
		pthread_rwlock_unlock(&place->lock);
		return;
	}
	pthread_rwlock_unlock(&place->lock);
	if (pthread_rwlock_trywrlock(&place->lock) != 0)
		return;
	if (!place->pool && make_pool(place)) {
		/* Others may use it, and stop it, before it runs. */
		pthread_rwlock_unlock(&place->lock);
		pthread_rwlock_rdlock(&place->lock);
		if (place->pool)
			run_pool(place);
	}
	pthread_rwlock_unlock(&place->lock);
}

static inline void pools_begin(void)
{
	int i;

	for (i = 0; i < NR_PLACES; i++)
		pthread_rwlock_init(&places[i].lock, NULL);
}

static inline void pools_end(void)
{
	int i;

	for (i = 0; i < NR_PLACES; i++) {
		pthread_rwlock_rdlock(&places[i].lock);
		if (places[i].pool)
			free_pool(&places[i]);
		pthread_rwlock_unlock(&places[i].lock);
		pthread_rwlock_destroy(&places[i].lock);
	}
}

#endif /* STORM_POOLS_H */
