/*
 * test_listen_storm.c: everything at once: clients that echo, reset, end and
 * vanish, listeners that come and go, posts and sends to whoever may be there
 * or not, pools that start and stop. Nothing may be lost, counted twice or
 * left over.
 */
#include "listen_rig.h"

#include <fcntl.h>
#include <pthread.h>

#define MS    2000 /* of storm */
#define SLOTS 6    /* listeners at a time */
#define IDS   64   /* the connections that were opened last */

static struct {
	atomic_bool over;
	pthread_rwlock_t lock; /* held while the pool is used */
	struct evt_pool *pool; /* NULL between two */
	int nr_pools;
	atomic_int ports[SLOTS];
	atomic_uint_least64_t ids[IDS];
	atomic_uint next_id;

	/* What was taken, and what came of it. */
	atomic_int opened, closed;
	atomic_int written, dones;
	atomic_int tasks, tasks_run;
	atomic_int conn_tasks, conn_tasks_run;
	atomic_int echoed;
} storm = {.lock = PTHREAD_RWLOCK_INITIALIZER};

static unsigned random_below(unsigned *seed, unsigned below)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed % below;
}

/* On the workers */

static void on_open(struct evt_conn *conn, void *arg)
{
	unsigned at = atomic_fetch_add(&storm.next_id, 1) % IDS;

	(void)arg;
	atomic_store(&storm.ids[at], evt_conn_id(conn));
	atomic_fetch_add(&storm.opened, 1);
}

static void on_done(void *arg)
{
	(void)arg;
	atomic_fetch_add(&storm.dones, 1);
}

static void abort_each(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_abort(conn);
}

/* The letter that a client says is what it gets. */
static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	static const char big[1 << 18];

	(void)len, (void)arg;
	switch (*data) {
	case 'a':
		evt_conn_abort(conn);
		break;
	case 'b':
		if (evt_conn_write_ref(conn, big, sizeof(big), on_done, NULL) ==
			0)
			atomic_fetch_add(&storm.written, 1);
		break;
	case 'c':
		evt_conn_write(conn, "bye", 3);
		evt_conn_close(conn);
		break;
	case 'f':
		evt_conn_finish(conn);
		break;
	case 'l':
		return 0;
	case 'p':
		evt_conn_pause(conn);
		break;
	case 'x':
		evt_worker_each_conn(evt_conn_worker(conn), abort_each, NULL);
		break;
	default:
		evt_conn_write(conn, data, 1);
	}
	return 1;
}

static void on_close(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)conn, (void)reason, (void)arg;
	atomic_fetch_add(&storm.closed, 1);
}

static const struct evt_handlers stormy = {
	.on_open = on_open, .on_data = on_data, .on_close = on_close};

static void note_task(struct evt_worker *worker, void *arg)
{
	char url[64];

	(void)arg;
	atomic_fetch_add(&storm.tasks_run, 1);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d",
		atomic_load(&storm.ports[0]));
	if (atomic_load(&storm.ports[0]) > 0)
		evt_connect(worker, url, &stormy, NULL, NULL);
}

static void note_conn_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_fetch_add(&storm.conn_tasks_run, 1);
	if (!conn)
		return;
	evt_conn_resume(conn);
	evt_conn_set_timeout(conn, EVT_TIMEOUT_IDLE, 50);
}

/* The program's threads */

static void do_what_clients_do(int fd, unsigned *seed)
{
	static const char letters[] = "eeeeeeebcaflpx";
	const struct timeval soon = {.tv_usec = 20000 * slowness()};
	char bytes[4096];
	unsigned turns = random_below(seed, 6);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon));
	for (; turns > 0; turns--) {
		unsigned pick = random_below(seed, sizeof(letters) - 1);

		if (!send_all(fd, &letters[pick], 1) ||
			recv(fd, bytes, sizeof(bytes), 0) <= 0)
			break;
		if (letters[pick] == 'e' && *bytes == 'e')
			atomic_fetch_add(&storm.echoed, 1);
	}
	if (random_below(seed, 3) == 0)
		shutdown(fd, SHUT_WR);
	if (random_below(seed, 3) == 0)
		close_with_reset(fd);
	else
		close(fd);
}

static void *be_clients(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&storm.over)) {
		unsigned slot = random_below(&seed, SLOTS);
		int port = atomic_load(&storm.ports[slot]);
		int fd = port > 0 ? connect_to(port) : -1;

		if (fd != -1)
			do_what_clients_do(fd, &seed);
		else
			sched_yield();
	}
	return NULL;
}

static const struct evt_listen_options kinds[] = {{.idle_ms = 100},
	{.reuseport = 1, .idle_ms = 100},
	{.max_conns = 2, .idle_ms = 30, .first_byte_ms = 30},
	{.max_conns = 2, .refuse = 1, .lifetime_ms = 50},
	{.choice = EVT_CHOICE_FEWEST_CONNS,
		.max_per_source = 3,
		.idle_ms = 100},
	{.reuseport = 1, .max_conns = 3, .idle_ms = 30, .first_byte_ms = 30}};

/* The lock is held. */
static void replace_listener(
	struct evt_listener *listeners[], unsigned slot, unsigned kind)
{
	if (listeners[slot])
		evt_listener_close(listeners[slot]);
	listeners[slot] = evt_listen(
		storm.pool, ANY_PORT, &stormy, &kinds[kind], NULL);
	atomic_store(&storm.ports[slot],
		listeners[slot] ? evt_listener_port(listeners[slot]) : 0);
}

static void *be_listeners(void *arg)
{
	struct evt_listener *listeners[SLOTS] = {NULL};
	unsigned seed = (unsigned)(uintptr_t)arg;
	int nr_pools = 0;

	while (!atomic_load(&storm.over)) {
		unsigned slot = random_below(&seed, SLOTS);

		pthread_rwlock_rdlock(&storm.lock);
		if (storm.nr_pools != nr_pools)
			memset(listeners, 0, sizeof(listeners));
		nr_pools = storm.nr_pools;
		if (storm.pool)
			replace_listener(listeners, slot,
				random_below(&seed, COUNT(kinds)));
		pthread_rwlock_unlock(&storm.lock);
		usleep(2000);
	}
	return NULL;
}

static void post_something(unsigned *seed)
{
	static const char text[1000];
	unsigned at = random_below(seed, IDS);
	uint64_t id = atomic_load(&storm.ids[at]);
	struct evt_stats stats;

	switch (random_below(seed, 4)) {
	case 0:
		if (evt_worker_post(evt_pool_worker(storm.pool, (int)at % 2),
			    note_task, NULL) == 0)
			atomic_fetch_add(&storm.tasks, 1);
		break;
	case 1:
		if (id &&
			evt_pool_post_conn(
				storm.pool, id, note_conn_task, NULL) == 0)
			atomic_fetch_add(&storm.conn_tasks, 1);
		break;
	case 2:
		if (id)
			evt_pool_send(storm.pool, id, text,
				random_below(seed, sizeof(text)));
		break;
	default:
		evt_pool_stats(storm.pool, &stats);
	}
}

static void *be_posters(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&storm.over)) {
		pthread_rwlock_rdlock(&storm.lock);
		if (storm.pool)
			post_something(&seed);
		pthread_rwlock_unlock(&storm.lock);
		usleep(100);
	}
	return NULL;
}

/* Pools, one after another */

/* Kept until the threads are joined. */
static const char *wrong;

#define NOTE(condition)                     \
	do {                                \
		if (!(condition) && !wrong) \
			wrong = #condition; \
	} while (0)

static void forget_counts(void)
{
	atomic_int *counts[] = {&storm.opened, &storm.closed, &storm.written,
		&storm.dones, &storm.tasks, &storm.tasks_run, &storm.conn_tasks,
		&storm.conn_tasks_run};
	size_t i;

	for (i = 0; i < COUNT(counts); i++)
		atomic_store(counts[i], 0);
	for (i = 0; i < IDS; i++)
		atomic_store(&storm.ids[i], 0);
}

static void raise_pool(int grace_ms)
{
	const struct evt_pool_options options = {
		.workers = 2, .grace_ms = grace_ms, .stall_ms = 5};

	pthread_rwlock_wrlock(&storm.lock);
	forget_counts();
	server.pool = evt_pool_new(&options);
	NOTE(evt_pool_start(server.pool) == 0);
	storm.pool = server.pool;
	storm.nr_pools++;
	pthread_rwlock_unlock(&storm.lock);
}

static void fell_pool(void)
{
	struct evt_stats it;

	evt_pool_stop(server.pool); /* in the middle of it all */
	NOTE(evt_pool_wait(server.pool) == 0);
	pthread_rwlock_wrlock(&storm.lock);
	storm.pool = NULL;
	pthread_rwlock_unlock(&storm.lock);
	evt_pool_stats(server.pool, &it);
	stop_server();
	NOTE(it.accepted == it.opened + it.refused + it.dropped);
	NOTE(it.open == 0 && it.dropped == 0);
	NOTE(it.opened + it.connected ==
		it.closed_peer + it.closed_ours + it.closed_reset +
			it.closed_idle + it.closed_deadline +
			it.closed_overflow + it.closed_stopped +
			it.closed_failed);
	NOTE(it.closed_failed == 0);
	NOTE((int)(it.opened + it.connected) == storm.opened);
	NOTE(storm.opened + (int)it.connects_failed == storm.closed);
	NOTE(storm.written == storm.dones);
	NOTE(storm.tasks == storm.tasks_run);
	NOTE(storm.conn_tasks == storm.conn_tasks_run);
}

static void pass_the_storm(int grace_ms)
{
	int64_t end = now_ms() + MS / 2;

	while (now_ms() < end && !wrong) {
		raise_pool(grace_ms);
		NOTE(WAIT_FOR(atomic_load(&storm.opened) > 100));
		fell_pool();
	}
}

static void in_a_storm_nothing_is_lost_or_left(void **state)
{
	void *(*mains[])(void *) = {
		be_listeners, be_posters, be_clients, be_clients, be_clients};
	pthread_t threads[COUNT(mains)];
	size_t i;

	(void)state;
	atomic_store(&storm.over, false);
	for (i = 0; i < COUNT(mains); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, mains[i],
					 (void *)(i + 4711)),
			0);
	pass_the_storm(50);
	pass_the_storm(1);
	atomic_store(&storm.over, true);
	for (i = 0; i < COUNT(mains); i++)
		pthread_join(threads[i], NULL);
	if (wrong)
		fail_msg("pool %d: not true: %s", storm.nr_pools, wrong);
	assert_true(storm.nr_pools >= 2);
	assert_true(atomic_load(&storm.echoed) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(in_a_storm_nothing_is_lost_or_left),
	};

	return ledger_run("listen_storm", tests);
}
