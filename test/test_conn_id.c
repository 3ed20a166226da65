/*
 * test_conn_id.c: connections by number: an id is never given twice, and what
 * is posted or sent to one that is gone reaches nobody else.
 */
#include "server_rig.h"

#include <limits.h>
#include <pthread.h>

static const struct evt_handlers echo_handlers = {.on_data = echo_data};

static void start_echo(int workers)
{
	start_server(&echo_handlers, NULL, workers);
}

/* Tasks on a connection */

static atomic_int ran;
static atomic_int found; /* of these with a connection */
static atomic_uint_least64_t found_id;

static void note_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	if (conn) {
		atomic_store(&found_id, evt_conn_id(conn));
		atomic_fetch_add(&found, 1);
	}
	atomic_fetch_add(&ran, 1);
}

static void forget_tasks(void)
{
	atomic_store(&ran, 0);
	atomic_store(&found, 0);
	atomic_store(&found_id, 0);
}

/* True if the connection of id is there. */
static bool is_there(uint64_t id)
{
	forget_tasks();
	assert_int_equal(
		evt_pool_post_conn(server.pool, id, note_task, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&ran) == 1));
	assert_true(atomic_load(&found) == 0 || atomic_load(&found_id) == id);
	return atomic_load(&found) == 1;
}

static void close_it(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_close(conn);
}

static void abort_it(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_abort(conn);
}

/* A server that tells each client its id. */

static void tell_id(struct evt_conn *conn, void *arg)
{
	uint64_t id = evt_conn_id(conn);

	note_open(conn, arg);
	evt_conn_write(conn, &id, sizeof(id));
}

static void start_telling(int workers)
{
	const struct evt_handlers handlers = {
		.on_open = tell_id, .on_data = echo_data};

	start_server(&handlers, NULL, workers);
}

static uint64_t hear_id(int fd)
{
	uint64_t id = 0;

	assert_true(receive_all(fd, &id, sizeof(id)));
	return id;
}

/* Ids */

static int by_value(const void *a, const void *b)
{
	const uint64_t *first = a;
	const uint64_t *second = b;

	return (*first > *second) - (*first < *second);
}

static void no_id_is_given_twice(void **state)
{
	enum { NR = 600 };
	static uint64_t ids[NR];
	int fds[10];
	int i;

	(void)state;
	start_telling(2);
	for (i = 0; i < NR; i++) {
		if (i >= 10)
			close_with_reset(fds[i % 10]);
		fds[i % 10] = dial();
		ids[i] = hear_id(fds[i % 10]);
		assert_true(ids[i] != 0);
	}
	for (i = 0; i < 10; i++)
		close(fds[i]);
	qsort(ids, NR, sizeof(ids[0]), by_value);
	for (i = 1; i < NR; i++)
		assert_true(ids[i] != ids[i - 1]);
}

#define TURNS (10000 / slowness())

static struct {
	atomic_int opened;
	atomic_int stale; /* tasks that met a connection */
	atomic_int other; /* ... and another than was meant */
	atomic_int ran;
	char url[64];
} turns;

static void meet(struct evt_conn *conn, void *arg)
{
	if (conn)
		atomic_fetch_add(&turns.stale, 1);
	if (conn && evt_conn_id(conn) != (uint64_t)(uintptr_t)arg)
		atomic_fetch_add(&turns.other, 1);
	atomic_fetch_add(&turns.ran, 1);
}

/* E19: its descriptor and its slot are soon another's. */
static void an_id_that_is_gone_finds_nobody_else(void **state)
{
	uint64_t before = 0;
	int i;

	(void)state;
	start_telling(1);
	memset(&turns, 0, sizeof(turns));
	for (i = 1; i <= TURNS; i++) {
		int fd = dial();
		uint64_t id = hear_id(fd);

		assert_true(id != before);
		if (i > 1)
			assert_int_equal(evt_pool_post_conn(server.pool, before,
						 meet, (void *)before),
				0);
		before = id;
		close_with_reset(fd);
		if (i % 10 == 0) /* it is gone before the next */
			assert_true(WAIT_FOR(nr_closed() == i));
	}
	assert_true(WAIT_FOR(nr_closed() == TURNS));
	assert_false(is_there(before));
	assert_int_equal(atomic_load(&turns.ran), TURNS - 1);
	assert_int_equal(atomic_load(&turns.other), 0);
	/* Only one whose reset had not come yet was still met. */
	assert_true(atomic_load(&turns.stale) < TURNS - TURNS / 10);
}

/* E19: closed and reopened in one turn, a record on its way to the first. */

static const struct evt_handlers turn_handlers;

static void end_and_begin(struct evt_conn *conn, void *arg)
{
	struct evt_worker *worker = evt_conn_worker(conn);
	uint64_t id = evt_conn_id(conn);

	(void)arg;
	evt_conn_abort(conn);
	evt_pool_post_conn(
		evt_worker_pool(worker), id, meet, (void *)(uintptr_t)id);
	if (atomic_fetch_add(&turns.opened, 1) + 1 < TURNS)
		evt_connect(worker, turns.url, &turn_handlers, NULL, NULL);
}

static const struct evt_handlers turn_handlers = {.on_open = end_and_begin};

static void begin_turns(struct evt_worker *worker, void *arg)
{
	(void)arg;
	evt_connect(worker, turns.url, &turn_handlers, NULL, NULL);
}

static void a_record_for_the_one_before_does_not_meet_the_next(void **state)
{
	(void)state;
	memset(&turns, 0, sizeof(turns));
	snprintf(turns.url, sizeof(turns.url), "unix:@test_conn_id.%d",
		getpid());
	start_server_at(turns.url, &echo_handlers, NULL, 1, NULL);
	assert_true(on_worker(0, begin_turns, NULL));
	assert_true(WAIT_FOR(atomic_load(&turns.ran) == TURNS));
	assert_int_equal(atomic_load(&turns.stale), 0);
	assert_int_equal(atomic_load(&turns.other), 0);
	assert_true(WAIT_FOR(nr_closed() == TURNS));
	assert_true(server_stats().gone >= (uint64_t)TURNS);
}

static void an_id_is_told_on_its_worker_alone(void **state)
{
	int fd;

	(void)state;
	start_echo(1);
	fd = dial_and_wait();
	log_forget();
	assert_true(evt_conn_id(atomic_load(&seen.conn)) == 0);
	assert_int_equal(errno, EINVAL);
	assert_true(evt_conn_id(NULL) == 0);
	assert_int_equal(log_lines(EVT_LOG_WARN), 2);
	close(fd);
}

/* What cannot be */

static void an_id_that_cannot_be_is_refused(void **state)
{
	const uint64_t good = (uint64_t)5 << 24 | 1;
	const uint64_t bad[] = {0, (uint64_t)2 << 48 | good,
		(uint64_t)0xffff << 48 | good, UINT64_MAX, (uint64_t)5 << 24,
		(uint64_t)1 << 48};
	size_t i;

	(void)state;
	start_echo(2);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		log_forget();
		errno = 0;
		assert_int_equal(evt_pool_post_conn(
					 server.pool, bad[i], note_task, NULL),
			-1);
		assert_int_equal(errno, EINVAL);
		errno = 0;
		assert_int_equal(
			evt_pool_send(server.pool, bad[i], "x", 1), -1);
		assert_int_equal(errno, EINVAL);
		assert_int_equal(log_lines(EVT_LOG_WARN), 2);
	}
	assert_int_equal(server_stats().gone, 0);
}

/* Also on a worker that never had a connection. */
static void an_id_that_was_never_given_is_gone(void **state)
{
	static const uint32_t slots[] = {0, 1, 63, 64, 0xffffff};
	size_t i;

	(void)state;
	start_echo(2);
	for (i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
		uint64_t id = (uint64_t)(i % 2) << 48 |
			(uint64_t)slots[i] << 24 | 1;

		assert_false(is_there(id));
		assert_int_equal(evt_pool_send(server.pool, id, "x", 1), 0);
	}
	assert_true(WAIT_FOR(server_stats().gone == 2 * i));
}

static void what_is_missing_is_refused(void **state)
{
	const uint64_t id = (uint64_t)5 << 24 | 1;

	(void)state;
	start_echo(1);
	log_forget();
	assert_int_equal(evt_pool_post_conn(NULL, id, note_task, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_pool_post_conn(server.pool, id, NULL, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_pool_send(NULL, id, "x", 1), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_WARN), 3);
}

static void before_and_after_it_runs_nothing_is_posted(void **state)
{
	const uint64_t id = (uint64_t)5 << 24 | 1;

	(void)state;
	server.pool = evt_pool_new(NULL);
	assert_int_equal(
		evt_pool_post_conn(server.pool, id, note_task, NULL), -1);
	assert_int_equal(errno, ENOTCONN);
	assert_int_equal(evt_pool_send(server.pool, id, "x", 1), -1);
	assert_int_equal(errno, ENOTCONN);
	assert_int_equal(evt_pool_start(server.pool), 0);
	evt_pool_stop(server.pool);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	log_forget();
	assert_int_equal(
		evt_pool_post_conn(server.pool, id, note_task, NULL), -1);
	assert_int_equal(errno, ECANCELED);
	assert_int_equal(evt_pool_send(server.pool, id, "x", 1), -1);
	assert_int_equal(errno, ECANCELED);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

/* Posting */

static void a_connection_that_was_closed_is_gone(void **state)
{
	int fd;
	uint64_t id;

	(void)state;
	start_echo(1);
	fd = dial_and_wait();
	id = atomic_load(&seen.id);
	assert_true(is_there(id));
	assert_true(on_conn(id, abort_it, NULL));
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_false(is_there(id));
	assert_int_equal(server_stats().gone, 1);
	close(fd);
}

/* After on_close it is gone, though its socket waits for the peer's end. */
static void one_that_lingers_is_gone(void **state)
{
	int fd;
	uint64_t id;

	(void)state;
	start_echo(1);
	fd = dial_and_wait();
	id = atomic_load(&seen.id);
	assert_true(on_conn(id, close_it, NULL));
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_false(is_there(id));
	assert_int_equal(evt_pool_send(server.pool, id, "late", 4), 0);
	assert_true(WAIT_FOR(server_stats().gone == 2));
	assert_true(ends_cleanly(fd));
	close(fd);
}

static atomic_int ran_inside;

static size_t post_to_itself(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	struct evt_pool *pool = evt_worker_pool(evt_conn_worker(conn));

	(void)arg;
	evt_pool_post_conn(pool, evt_conn_id(conn), note_task, NULL);
	atomic_store(&ran_inside, atomic_load(&ran));
	note_bytes(len);
	(void)data;
	return len;
}

static void a_post_to_itself_runs_after_the_callback(void **state)
{
	const struct evt_handlers handlers = {.on_data = post_to_itself};
	int fd;

	(void)state;
	forget_tasks();
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	say(fd, "x");
	assert_true(WAIT_FOR(atomic_load(&ran) == 1));
	assert_int_equal(atomic_load(&found), 1);
	assert_int_equal(atomic_load(&ran_inside), 0);
	close(fd);
}

static void post_from_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	struct evt_pool *pool = evt_worker_pool(evt_conn_worker(conn));

	evt_pool_post_conn(pool, evt_conn_id(conn), note_task, NULL);
	note_close(conn, reason, arg);
}

/* Its id is good for asking up to the end, and finds nothing afterwards. */
static void a_post_from_on_close_finds_nobody(void **state)
{
	const struct evt_handlers handlers = {.on_close = post_from_close};
	int fd;

	(void)state;
	forget_tasks();
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	close(fd);
	assert_true(WAIT_FOR(atomic_load(&ran) == 1));
	assert_int_equal(atomic_load(&found), 0);
}

/* Threads that post for as long as they may. */
struct poster {
	pthread_t thread;
	uint64_t id;
	int taken;
	int error;
};

static void *poster_main(void *arg)
{
	struct poster *it = arg;

	while (evt_pool_post_conn(server.pool, it->id, note_task, NULL) == 0)
		it->taken++;
	it->error = errno;
	return NULL;
}

static void while_stopping_each_task_runs_exactly_once(void **state)
{
	struct poster posters[4];
	int taken = 0;
	int fd;
	int i;

	(void)state;
	forget_tasks();
	start_echo(2);
	fd = dial_and_wait();
	for (i = 0; i < 4; i++) {
		posters[i] = (struct poster){.id = atomic_load(&seen.id)};
		assert_int_equal(pthread_create(&posters[i].thread, NULL,
					 poster_main, &posters[i]),
			0);
	}
	assert_true(WAIT_FOR(atomic_load(&ran) > 1000));
	evt_pool_stop(server.pool);
	for (i = 0; i < 4; i++) {
		pthread_join(posters[i].thread, NULL);
		assert_int_equal(posters[i].error, ECANCELED);
		taken += posters[i].taken;
	}
	assert_int_equal(evt_pool_wait(server.pool), 0);
	assert_int_equal(atomic_load(&ran), taken);
	assert_true(server_stats().gone == (uint64_t)(taken - found));
	close(fd);
}

/* evt_worker_each_conn */

struct visit {
	void (*fn)(struct evt_conn *conn, void *arg);
	int met;
	int error;
};

static void visit_one(struct evt_conn *conn, void *arg)
{
	struct visit *it = arg;

	it->met++;
	if (it->fn)
		it->fn(conn, NULL);
}

static void visit_all(struct evt_worker *worker, void *arg)
{
	struct visit *it = arg;

	it->met = 0;
	errno = 0;
	evt_worker_each_conn(worker, visit_one, it);
	it->error = errno;
}

static int visit(void (*fn)(struct evt_conn *conn, void *arg))
{
	static struct visit it;

	it.fn = fn;
	assert_true(on_worker(0, visit_all, &it));
	return it.met;
}

static void each_open_connection_is_visited(void **state)
{
	int fds[200];
	int i;

	(void)state;
	start_echo(1);
	assert_int_equal(visit(NULL), 0);
	for (i = 0; i < 200; i++)
		fds[i] = dial();
	assert_true(WAIT_FOR(nr_opened() == 200));
	assert_int_equal(visit(NULL), 200);
	for (i = 0; i < 200; i += 2)
		close_with_reset(fds[i]);
	assert_true(WAIT_FOR(nr_closed() == 100));
	assert_int_equal(visit(NULL), 100);
	for (i = 1; i < 200; i += 2)
		close(fds[i]);
}

static void a_visit_may_close_them_all(void **state)
{
	int fds[100];
	int round;
	int i;

	(void)state;
	for (round = 0; round < 2; round++) {
		start_echo(1);
		for (i = 0; i < 100; i++)
			fds[i] = dial();
		assert_true(WAIT_FOR(nr_opened() == 100));
		assert_int_equal(visit(round == 0 ? close_it : abort_it), 100);
		assert_true(WAIT_FOR(nr_closed() == 100));
		/* Those that linger are no connections any more. */
		assert_int_equal(visit(NULL), 0);
		for (i = 0; i < 100; i++)
			close(fds[i]);
	}
}

static void open_one_more(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_connect(
		evt_conn_worker(conn), turns.url, &echo_handlers, NULL, NULL);
}

/* What is opened on the way does not make it endless. */
static void a_visit_may_open_others(void **state)
{
	int fds[10];
	int met;
	int i;

	(void)state;
	start_echo(1);
	snprintf(turns.url, sizeof(turns.url), "tcp://127.0.0.1:%d",
		server.port);
	for (i = 0; i < 10; i++)
		fds[i] = dial();
	assert_true(WAIT_FOR(nr_opened() == 10));
	met = visit(open_one_more);
	assert_true(met >= 10 && met <= 20);
	assert_true(WAIT_FOR(server_stats().connected == (uint64_t)met));
	for (i = 0; i < 10; i++)
		close(fds[i]);
}

static void only_its_worker_may_visit(void **state)
{
	struct visit it = {.fn = NULL};

	(void)state;
	start_echo(1);
	log_forget();
	visit_all(evt_pool_worker(server.pool, 0), &it);
	assert_int_equal(it.error, EINVAL);
	visit_all(NULL, &it);
	assert_int_equal(it.error, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_WARN), 2);
	assert_int_equal(it.met, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(no_id_is_given_twice),
		SERVER_TEST(an_id_that_is_gone_finds_nobody_else),
		SERVER_TEST(a_record_for_the_one_before_does_not_meet_the_next),
		SERVER_TEST(an_id_is_told_on_its_worker_alone),
		SERVER_TEST(an_id_that_cannot_be_is_refused),
		SERVER_TEST(an_id_that_was_never_given_is_gone),
		SERVER_TEST(what_is_missing_is_refused),
		SERVER_TEST(before_and_after_it_runs_nothing_is_posted),
		SERVER_TEST(a_connection_that_was_closed_is_gone),
		SERVER_TEST(one_that_lingers_is_gone),
		SERVER_TEST(a_post_to_itself_runs_after_the_callback),
		SERVER_TEST(a_post_from_on_close_finds_nobody),
		SERVER_TEST(while_stopping_each_task_runs_exactly_once),
		SERVER_TEST(each_open_connection_is_visited),
		SERVER_TEST(a_visit_may_close_them_all),
		SERVER_TEST(a_visit_may_open_others),
		SERVER_TEST(only_its_worker_may_visit),
	};

	return ledger_run("conn_id", tests);
}
