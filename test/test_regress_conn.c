/*
 * test_regress_conn.c: what reviews and attacks have found in connections:
 * threads that end in a handler while others have output, two timeouts in one
 * tick, callbacks that take long, small copies between refs.
 */
#include "timed_conns.h"

#include <malloc.h>

/* A thread that ends in a handler, while each connection has a ref unsent */

#define OTHERS 8

static struct {
	atomic_int refs;
	atomic_int closed_at_hook;
	atomic_int dones_at_hook;
	atomic_int dones_at_close;
} lost;

static struct evt_conn *first; /* the worker's */

static void open_with_ref(struct evt_conn *conn, void *arg)
{
	if (nr_opened() == 0)
		first = conn;
	if (evt_conn_write_ref(conn, large, LARGE, note_done, NULL) == 0)
		atomic_fetch_add(&lost.refs, 1);
	note_open(conn, arg);
}

static void note_hook(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	atomic_store(&lost.dones_at_hook, atomic_load(&seen.dones));
	atomic_store(&lost.closed_at_hook, nr_closed());
}

static size_t end_in_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn, (void)data, (void)len, (void)arg;
	pthread_exit(NULL);
}

/* What another has to send is to be settled when the callback returns. */
static size_t write_and_end(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	evt_conn_write(first, data, len);
	return end_in_data(conn, data, len, arg);
}

/* The second call comes while what was resumed is being read. */
static size_t resume_and_end(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)len, (void)arg;
	if (atomic_fetch_add(&seen.calls, 1) > 0)
		pthread_exit(NULL);
	evt_conn_pause(conn);
	evt_conn_resume(conn);
	return 0;
}

static size_t abort_it(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	evt_conn_abort(conn);
	return len;
}

static void end_in_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	note_close(conn, reason, arg);
	if (reason == EVT_REASON_OURS)
		pthread_exit(NULL);
}

/* start_server, with a hook. */
static void start_with_hook(const struct evt_handlers *handlers)
{
	const struct evt_pool_options options = {
		.workers = 1, .on_worker_stop = note_hook};
	const struct evt_listen_options how = {/* read, though it has much */
		.high_mark = 2 * LARGE,
		.max_output = 4 * LARGE};

	stop_server();
	forget_seen();
	atomic_store(&lost.refs, 0);
	atomic_store(&lost.dones_at_hook, -1);
	atomic_store(&lost.closed_at_hook, -1);
	server.pool = evt_pool_new(&options);
	assert_non_null(server.pool);
	server.listener = evt_listen(
		server.pool, "tcp://127.0.0.1:0", handlers, &how, NULL);
	assert_non_null(server.listener);
	server.port = evt_listener_port(server.listener);
	assert_int_equal(evt_pool_start(server.pool), 0);
}

static void everybody_is_told_before_the_hook(
	const struct evt_handlers *handlers)
{
	int fds[OTHERS];
	int i;

	start_with_hook(handlers);
	for (i = 0; i < OTHERS; i++)
		fds[i] = dial_and_wait();
	say(fds[OTHERS - 1], "x");
	assert_true(WAIT_FOR(atomic_load(&lost.closed_at_hook) != -1));
	assert_int_equal(atomic_load(&lost.closed_at_hook), OTHERS);
	assert_int_equal(atomic_load(&lost.refs), OTHERS);
	assert_int_equal(atomic_load(&lost.dones_at_hook), OTHERS);
	for (i = 0; i < OTHERS; i++)
		close(fds[i]);
	stop_server();
	assert_int_equal(nr_closed(), OTHERS);
	assert_int_equal(atomic_load(&seen.dones), OTHERS);
}

/* C15 */
static void when_on_data_ends_the_thread_each_has_its_end(void **state)
{
	(void)state;
	everybody_is_told_before_the_hook(
		&(struct evt_handlers){.on_open = open_with_ref,
			.on_data = end_in_data,
			.on_close = note_close});
}

/* C15 */
static void when_it_ends_after_a_write_each_has_its_end(void **state)
{
	(void)state;
	everybody_is_told_before_the_hook(
		&(struct evt_handlers){.on_open = open_with_ref,
			.on_data = write_and_end,
			.on_close = note_close});
}

/* C15 */
static void when_it_ends_after_a_resume_each_has_its_end(void **state)
{
	(void)state;
	everybody_is_told_before_the_hook(
		&(struct evt_handlers){.on_open = open_with_ref,
			.on_data = resume_and_end,
			.on_close = note_close});
}

/* C15, E12 */
static void when_on_close_ends_the_thread_each_other_has_its_own(void **state)
{
	(void)state;
	everybody_is_told_before_the_hook(
		&(struct evt_handlers){.on_open = open_with_ref,
			.on_data = abort_it,
			.on_close = end_in_close});
}

/* A done that ends the thread, the first of several in one turn */

static void done_and_end(void *arg)
{
	(void)arg;
	if (atomic_fetch_add(&seen.dones, 1) == 0)
		pthread_exit(NULL);
}

static size_t write_five_refs(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	int i;

	(void)data, (void)arg;
	for (i = 0; i < 5; i++)
		if (evt_conn_write_ref(conn, "abc", 3, done_and_end, NULL) == 0)
			atomic_fetch_add(&lost.refs, 1);
	return len;
}

static void count_dones_at_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	atomic_store(&lost.dones_at_close, atomic_load(&seen.dones));
	note_close(conn, reason, arg);
}

/* C15 */
static void a_done_that_ends_the_thread_keeps_no_other_from_coming(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = write_five_refs,
		.on_close = count_dones_at_close};
	int fd;

	(void)state;
	start_with_hook(&handlers);
	fd = dial_and_wait();
	say(fd, "x");
	assert_true(WAIT_FOR(atomic_load(&lost.closed_at_hook) != -1));
	assert_int_equal(atomic_load(&lost.closed_at_hook), 1);
	assert_int_equal(atomic_load(&lost.refs), 5);
	assert_int_equal(atomic_load(&lost.dones_at_close), 5);
	close(fd);
	stop_server();
	assert_int_equal(atomic_load(&seen.dones), 5);
}

/* Time */

static struct evt_conn *pair[2]; /* the worker's */

static void open_and_set_both(struct evt_conn *conn, void *arg)
{
	int nr = nr_opened();

	pair[nr] = conn;
	if (nr == 1) {
		evt_conn_set_timeout(pair[0], EVT_TIMEOUT_DEADLINE, 50);
		evt_conn_set_timeout(pair[1], EVT_TIMEOUT_DEADLINE, 50);
	}
	note_open(conn, arg);
}

static void abort_the_other(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	note_timeout(conn, reason, arg);
	evt_conn_abort(pair[conn == pair[0]]);
}

/* E12, E15 */
static void no_timeout_is_told_after_an_abort_in_the_same_tick(void **state)
{
	const struct evt_handlers handlers = {.on_open = open_and_set_both,
		.on_timeout = abort_the_other,
		.on_close = note_close};
	int fds[2];

	(void)state;
	start_server(&handlers, NULL, 1);
	fds[0] = dial_and_wait();
	fds[1] = dial_and_wait();
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_OURS);
	assert_int_equal(atomic_load(&seen.timeouts), 1);
	close(fds[0]);
	close(fds[1]);
	assert_true(WAIT_FOR(nr_closed() == 2));
	assert_int_equal(atomic_load(&seen.timeouts), 1);
}

static void idle_both(struct evt_conn *conn, void *arg)
{
	int nr = nr_opened();

	pair[nr] = conn;
	if (nr == 1) {
		evt_conn_set_timeout(pair[0], EVT_TIMEOUT_IDLE, 50);
		evt_conn_set_timeout(pair[1], EVT_TIMEOUT_IDLE, 50);
	}
	note_open(conn, arg);
}

static void close_the_other(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	struct evt_conn *other = pair[conn == pair[0]];

	note_timeout(conn, reason, arg);
	evt_conn_write(other, "bye", 3);
	evt_conn_close(other);
	evt_conn_close(conn);
}

/* E12, E15: as the two sides of a proxy. */
static void a_close_in_the_tick_of_its_own_timeout_is_no_reset(void **state)
{
	const struct evt_handlers handlers = {.on_open = idle_both,
		.on_timeout = close_the_other,
		.on_close = note_close};
	size_t len[2];
	int fds[2];

	(void)state;
	start_server(&handlers, NULL, 1);
	fds[0] = dial_and_wait();
	fds[1] = dial_and_wait();
	assert_int_equal(drain_to_end(fds[0], &len[0]), CLEAN_END);
	assert_int_equal(drain_to_end(fds[1], &len[1]), CLEAN_END);
	assert_int_equal(len[0] + len[1], 3);
	assert_int_equal(atomic_load(&seen.timeouts), 1);
	close(fds[0]);
	close(fds[1]);
}

static atomic_int_least64_t wrote_us;

/* Works for so many ms, then writes. */
static void work_and_write(struct evt_conn *conn, void *ms)
{
	static const char bytes[8192];
	int64_t end = real_us() + *(int *)ms * 1000;

	while (real_us() < end)
		usleep(1000);
	atomic_store(&wrote_us, real_us());
	if (conn)
		evt_conn_write(conn, bytes, sizeof(bytes));
}

/* E06 */
static void idle_time_counts_from_a_write_at_the_end_of_a_long_task(
	void **state)
{
	const struct evt_listen_options options = {.idle_ms = scaled(300)};
	int work_ms = scaled(200);
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(work_and_write, &work_ms));
	expect_end(EVT_REASON_IDLE);
	assert_in_range(
		(atomic_load(&closed_us) - atomic_load(&wrote_us)) / 1000,
		scaled(300) - 1, 5000 * slowness());
	close(fd);
}

/* Memory */

#define PAIRS 10000

static atomic_size_t grown; /* bytes on the heap */
static atomic_int pairs;

static size_t heap(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

/* The first bytes are more than the kernel takes: what follows waits. */
static void write_pairs(struct evt_conn *conn, void *arg)
{
	size_t at = LARGE / 2;
	size_t before;

	evt_conn_write_ref(conn, large, at, NULL, NULL);
	before = heap();
	while (atomic_load(&pairs) < PAIRS &&
		evt_conn_write(conn, large + at, 1) == 0 &&
		evt_conn_write_ref(conn, large + at + 1, 60, NULL, NULL) == 0) {
		at += 61;
		atomic_fetch_add(&pairs, 1);
	}
	atomic_store(&grown, heap() - before);
	note_open(conn, arg);
}

/* E05: 16 KiB for each would be 160 MB. */
static void small_copies_between_refs_cost_little(void **state)
{
	const struct evt_handlers handlers = {.on_open = write_pairs};
	size_t all = LARGE / 2 + (size_t)PAIRS * 61;
	int fd;

	(void)state;
	atomic_store(&pairs, 0);
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	assert_int_equal(atomic_load(&pairs), PAIRS);
	if (under("plain")) /* the others have a heap of their own */
		assert_in_range(atomic_load(&grown), 0, PAIRS * 512);
	assert_int_equal(hear_pattern(fd, 0, all), all);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(when_on_data_ends_the_thread_each_has_its_end),
		SERVER_TEST(when_it_ends_after_a_write_each_has_its_end),
		SERVER_TEST(when_it_ends_after_a_resume_each_has_its_end),
		SERVER_TEST(
			when_on_close_ends_the_thread_each_other_has_its_own),
		SERVER_TEST(
			a_done_that_ends_the_thread_keeps_no_other_from_coming),
		SERVER_TEST(no_timeout_is_told_after_an_abort_in_the_same_tick),
		SERVER_TEST(a_close_in_the_tick_of_its_own_timeout_is_no_reset),
		SERVER_TEST(
			idle_time_counts_from_a_write_at_the_end_of_a_long_task),
		SERVER_TEST(small_copies_between_refs_cost_little),
	};

	make_large();
	return free_large(ledger_run("regress_conn", tests));
}
