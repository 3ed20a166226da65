/*
 * test_conn_time.c: timeouts of a connection: of its first byte, of being idle,
 * and deadlines that no byte pushes back; what on_timeout may do, and what
 * evt_conn_set_timeout takes.
 */
#include "timed_conns.h"

#include <limits.h>

/* By options */

static void a_connection_without_a_byte_ends_when_idle(void **state)
{
	const struct evt_listen_options options = {.idle_ms = 200};
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial();
	expect_end(EVT_REASON_IDLE);
	assert_in_range(lived_ms(), 199, 2000 * slowness());
	assert_int_equal(last_error(), ETIMEDOUT);
	assert_true(ends_with_reset(fd));
	close(fd);
}

/* E06: no deadline, and less than idle_ms between two bytes. */
static void bytes_keep_a_connection_from_being_idle(void **state)
{
	const struct evt_listen_options options = {.idle_ms = scaled(500)};
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial();
	assert_false(trickle(fd, 14, scaled(50)));
	assert_int_equal(nr_closed(), 0);
	assert_int_equal(atomic_load(&seen.bytes), 14);
	close(fd);
}

/* E06 */
static void a_trickling_sender_is_cut_at_the_deadline(void **state)
{
	const struct evt_listen_options options = {
		.idle_ms = scaled(200), .lifetime_ms = scaled(500)};
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial();
	assert_true(trickle(fd, 1000, scaled(20)));
	expect_end(EVT_REASON_DEADLINE);
	assert_in_range(lived_ms(), scaled(500) - 1, 5000 * slowness());
	assert_true(atomic_load(&seen.bytes) >= 2);
	close(fd);
}

static void a_client_that_says_nothing_is_cut_by_the_first_byte(void **state)
{
	const struct evt_listen_options options = {.first_byte_ms = 150};
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial();
	expect_end(EVT_REASON_DEADLINE);
	assert_in_range(lived_ms(), 149, 1500 * slowness());
	close(fd);
}

static void one_byte_is_enough_for_the_first(void **state)
{
	const struct evt_listen_options options = {
		.first_byte_ms = scaled(150), .idle_ms = scaled(400)};
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial();
	say(fd, "x");
	expect_end(EVT_REASON_IDLE);
	assert_true(lived_ms() >= scaled(400) - 1);
	close(fd);
}

static void greet(struct evt_conn *conn, void *arg)
{
	open_now(conn, arg);
	evt_conn_printf(conn, "220 hello\r\n");
}

/* What we send is not the client's first byte. */
static void a_greeting_does_not_count_as_the_first_byte(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = greet, .on_close = close_now};
	const struct evt_listen_options options = {.first_byte_ms = 150};
	int fd;

	(void)state;
	start_server(&handlers, &options, 1);
	fd = dial();
	hears(fd, "220 hello\r\n");
	expect_end(EVT_REASON_DEADLINE);
	close(fd);
}

static void minus_one_in_the_options_is_no_timeout(void **state)
{
	const struct evt_listen_options options = {
		.first_byte_ms = -1, .idle_ms = -1, .lifetime_ms = -1};
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial_and_wait();
	assert_true(stays_silent(fd, 100));
	say(fd, "x");
	hears(fd, "x");
	assert_int_equal(nr_closed(), 0);
	close(fd);
}

/* on_timeout */

static void on_timeout_may_write_and_close(void **state)
{
	const struct evt_handlers handlers = {
		.on_timeout = farewell, .on_close = close_now};
	const struct evt_listen_options options = {.idle_ms = 100};
	int fd;

	(void)state;
	start_server(&handlers, &options, 1);
	fd = dial();
	hears(fd, "idle");
	assert_true(ends_cleanly(fd));
	expect_end(EVT_REASON_IDLE); /* of that it has ended */
	assert_int_equal(atomic_load(&seen.timeouts), 1);
	close(fd);
}

static void on_timeout_is_told_of_a_deadline(void **state)
{
	const struct evt_handlers handlers = {.on_timeout = farewell};
	const struct evt_listen_options first = {.first_byte_ms = 100};
	const struct evt_listen_options life = {.lifetime_ms = 100};
	int fd;

	(void)state;
	start_server(&handlers, &first, 1);
	fd = dial();
	hears(fd, "deadline");
	close(fd);
	start_server(&handlers, &life, 1);
	fd = dial();
	say(fd, "x");
	hears(fd, "deadline");
	close(fd);
}

/* It is given its idle time again, each time whole. */
static void an_idle_timeout_that_does_nothing_comes_again(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = open_now, .on_timeout = time_now};
	const struct evt_listen_options options = {.idle_ms = 60};
	int fd;
	int i;

	(void)state;
	start_server(&handlers, &options, 1);
	fd = dial();
	assert_true(WAIT_FOR(atomic_load(&seen.timeouts) >= 5));
	for (i = 1; i < 5; i++)
		assert_true(timeout_us[i] - timeout_us[i - 1] >= 59000);
	assert_int_equal(timeout_reason, EVT_REASON_IDLE);
	assert_int_equal(nr_closed(), 0);
	close(fd);
}

static void a_deadline_that_is_over_is_gone(void **state)
{
	const struct evt_handlers handlers = {
		.on_data = echo_data, .on_timeout = time_now};
	const struct evt_listen_options options = {
		.first_byte_ms = 50, .lifetime_ms = 100};
	int fd;

	(void)state;
	start_server(&handlers, &options, 1);
	fd = dial();
	assert_true(WAIT_FOR(atomic_load(&seen.timeouts) == 2));
	assert_int_equal(timeout_reason, EVT_REASON_DEADLINE);
	assert_true(stays_silent(fd, 250));
	say(fd, "still here");
	hears(fd, "still here");
	assert_int_equal(atomic_load(&seen.timeouts), 2);
	close(fd);
}

static void set_again(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	time_now(conn, reason, arg);
	if (atomic_load(&seen.timeouts) < 4)
		evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, 50);
	else
		evt_conn_abort(conn);
}

static void on_timeout_may_set_a_new_deadline(void **state)
{
	const struct evt_handlers handlers = {.on_timeout = set_again};
	const struct evt_listen_options options = {.lifetime_ms = 50};
	int fd;
	int i;

	(void)state;
	start_server(&handlers, &options, 1);
	fd = dial();
	expect_end(EVT_REASON_DEADLINE);
	assert_int_equal(atomic_load(&seen.timeouts), 4);
	for (i = 1; i < 4; i++)
		assert_true(timeout_us[i] - timeout_us[i - 1] >= 49000);
	close(fd);
}

/* evt_conn_set_timeout */

static void a_task_sets_either_timeout(void **state)
{
	static const enum evt_reason reasons[] = {
		EVT_REASON_IDLE, EVT_REASON_DEADLINE};
	int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		int fd;

		start_server(&plain_handlers, NULL, 1);
		fd = dial_and_wait();
		apply(i == 0 ? EVT_TIMEOUT_IDLE : EVT_TIMEOUT_DEADLINE, 100);
		expect_end(reasons[i]);
		assert_in_range(closed_us - set_us, 99000,
			(uint64_t)1000000 * (unsigned)slowness());
		close(fd);
	}
}

static void a_timeout_is_taken_back_or_put_off(void **state)
{
	const struct evt_listen_options options = {
		.idle_ms = scaled(200), .lifetime_ms = scaled(200)};
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial_and_wait();
	apply(EVT_TIMEOUT_IDLE, -1);
	apply(EVT_TIMEOUT_DEADLINE, scaled(10000));
	assert_true(stays_silent(fd, scaled(400)));
	apply(EVT_TIMEOUT_DEADLINE, -1);
	say(fd, "x");
	hears(fd, "x");
	assert_int_equal(nr_closed(), 0);
	close(fd);
}

static void set_in_open(struct evt_conn *conn, void *arg)
{
	open_now(conn, arg);
	evt_conn_set_timeout(conn, EVT_TIMEOUT_IDLE, -1);
	evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, scaled(300));
}

/* In place of what the options said. */
static void on_open_sets_what_the_options_did(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = set_in_open, .on_close = close_now};
	const struct evt_listen_options options = {
		.idle_ms = 50, .lifetime_ms = 50};
	int fd;

	(void)state;
	start_server(&handlers, &options, 1);
	fd = dial();
	expect_end(EVT_REASON_DEADLINE);
	assert_in_range(lived_ms(), scaled(300) - 1, 3000 * slowness());
	close(fd);
}

static void the_first_byte_is_waited_for_all_the_same(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = set_in_open, .on_close = close_now};
	const struct evt_listen_options options = {.first_byte_ms = 100};
	int fd;

	(void)state;
	start_server(&handlers, &options, 1);
	fd = dial();
	expect_end(EVT_REASON_DEADLINE);
	assert_true(lived_ms() < scaled(300));
	close(fd);
}

/* E14 */
static void what_cannot_be_a_timeout_is_refused(void **state)
{
	static const int bad[] = {0, -2, -1000, INT_MIN};
	struct setting it = {EVT_TIMEOUT_IDLE, 0, 0, 0};
	size_t i;
	int fd;

	(void)state;
	start_server(&plain_handlers, NULL, 1);
	fd = dial_and_wait();
	for (i = 0; i < 2 * sizeof(bad) / sizeof(bad[0]); i++) {
		it.timeout = i % 2 ? EVT_TIMEOUT_IDLE : EVT_TIMEOUT_DEADLINE;
		it.ms = bad[i / 2];
		log_forget();
		assert_true(on_last_conn(set_timeout, &it));
		assert_int_equal(it.result, -1);
		assert_int_equal(it.error, EINVAL);
		assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	}
	it.timeout = (enum evt_timeout)2;
	it.ms = 1000;
	assert_true(on_last_conn(set_timeout, &it));
	assert_int_equal(it.error, EINVAL);
	assert_int_equal(evt_conn_set_timeout(NULL, EVT_TIMEOUT_IDLE, 1), -1);
	assert_int_equal(errno, EINVAL);
	close(fd);
}

/* E13, E14 */
static void a_timeout_is_set_on_the_worker_alone(void **state)
{
	int fd;

	(void)state;
	start_server(&plain_handlers, NULL, 1);
	fd = dial_and_wait();
	log_forget();
	assert_int_equal(evt_conn_set_timeout(atomic_load(&seen.conn),
				 EVT_TIMEOUT_DEADLINE, 1),
		-1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	say(fd, "x");
	hears(fd, "x");
	close(fd);
}

static void set_after_close(struct evt_conn *conn, void *arg)
{
	evt_conn_close(conn);
	set_timeout(conn, arg);
}

static void a_connection_that_closes_takes_no_timeout(void **state)
{
	struct setting it = {EVT_TIMEOUT_DEADLINE, 10, 0, 0};
	int fd;

	(void)state;
	start_server(&plain_handlers, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(set_after_close, &it));
	assert_int_equal(it.result, -1);
	assert_int_equal(it.error, ENOTCONN);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	expect_end(EVT_REASON_OURS);
	close(fd);
}

static void the_longest_timeouts_do_not_fire(void **state)
{
	const struct evt_listen_options options = {.first_byte_ms = INT_MAX,
		.idle_ms = INT_MAX,
		.lifetime_ms = INT_MAX};
	int fd;

	(void)state;
	start_server(&plain_handlers, &options, 1);
	fd = dial_and_wait();
	apply(EVT_TIMEOUT_IDLE, INT_MAX);
	apply(EVT_TIMEOUT_DEADLINE, INT_MAX);
	assert_true(stays_silent(fd, 100));
	apply(EVT_TIMEOUT_DEADLINE, 1); /* from far away to at once */
	expect_end(EVT_REASON_DEADLINE);
	close(fd);
}

/* Paused, and closing */

static void pause_at_once(struct evt_conn *conn, void *arg)
{
	open_now(conn, arg);
	evt_conn_pause(conn);
}

static void a_paused_connection_times_out_too(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = pause_at_once, .on_close = close_now};
	const struct evt_listen_options idle = {.idle_ms = 100};
	const struct evt_listen_options life = {.lifetime_ms = 100};
	int fd;

	(void)state;
	start_server(&handlers, &idle, 1);
	fd = dial();
	say(fd, "unread");
	expect_end(EVT_REASON_IDLE);
	close(fd);
	start_server(&handlers, &life, 1);
	fd = dial();
	say(fd, "unread");
	expect_end(EVT_REASON_DEADLINE);
	close(fd);
}

static const char megabytes[8 << 20];

static void write_much_and_close(struct evt_conn *conn, void *arg)
{
	open_now(conn, arg);
	evt_conn_write(conn, megabytes, sizeof(megabytes));
	evt_conn_close(conn);
}

/* And its on_timeout is not called: no handlers but on_close. */
static void a_closing_connection_that_nobody_reads_times_out(void **state)
{
	const struct evt_handlers handlers = {.on_open = write_much_and_close,
		.on_timeout = time_now,
		.on_close = close_now};
	const struct evt_listen_options idle = {.idle_ms = 150};
	const struct evt_listen_options life = {.lifetime_ms = 150};
	int fd;

	(void)state;
	start_server(&handlers, &idle, 1);
	fd = dial();
	expect_end(EVT_REASON_IDLE);
	assert_int_equal(atomic_load(&seen.timeouts), 0);
	close(fd);
	start_server(&handlers, &life, 1);
	fd = dial();
	expect_end(EVT_REASON_DEADLINE);
	assert_int_equal(atomic_load(&seen.timeouts), 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_connection_without_a_byte_ends_when_idle),
		SERVER_TEST(bytes_keep_a_connection_from_being_idle),
		SERVER_TEST(a_trickling_sender_is_cut_at_the_deadline),
		SERVER_TEST(
			a_client_that_says_nothing_is_cut_by_the_first_byte),
		SERVER_TEST(one_byte_is_enough_for_the_first),
		SERVER_TEST(a_greeting_does_not_count_as_the_first_byte),
		SERVER_TEST(minus_one_in_the_options_is_no_timeout),
		SERVER_TEST(on_timeout_may_write_and_close),
		SERVER_TEST(on_timeout_is_told_of_a_deadline),
		SERVER_TEST(an_idle_timeout_that_does_nothing_comes_again),
		SERVER_TEST(a_deadline_that_is_over_is_gone),
		SERVER_TEST(on_timeout_may_set_a_new_deadline),
		SERVER_TEST(a_task_sets_either_timeout),
		SERVER_TEST(a_timeout_is_taken_back_or_put_off),
		SERVER_TEST(on_open_sets_what_the_options_did),
		SERVER_TEST(the_first_byte_is_waited_for_all_the_same),
		SERVER_TEST(what_cannot_be_a_timeout_is_refused),
		SERVER_TEST(a_timeout_is_set_on_the_worker_alone),
		SERVER_TEST(a_connection_that_closes_takes_no_timeout),
		SERVER_TEST(the_longest_timeouts_do_not_fire),
		SERVER_TEST(a_paused_connection_times_out_too),
		SERVER_TEST(a_closing_connection_that_nobody_reads_times_out),
	};

	return ledger_run("conn_time", tests);
}
