/*
 * test_conn_end.c: the peer ends its stream, or resets, at the worst moment.
 */
#include "server_rig.h"

#include <signal.h>

static size_t tell_and_keep(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	tell_data(conn, data, len, arg);
	return 0;
}

static const struct evt_handlers telling = {.on_data = tell_data,
	.on_eof = tell_eof,
	.on_drain = tell_drain,
	.on_close = tell_close};

/* The peer's end of the stream */

/* E03 */
static void a_half_closed_client_gets_the_whole_answer(void **state)
{
	const struct evt_handlers handlers = {.on_data = answer_at_length};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial();
	say(fd, "x");
	shutdown(fd, SHUT_WR);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(ends_cleanly(fd));
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_PEER);
	assert_int_equal(last_error(), 0);
	close(fd);
}

/* E03 */
static void with_on_eof_it_can_be_written_to_until_it_is_closed(void **state)
{
	char late[] = "late";
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	say(fd, "early");
	shutdown(fd, SHUT_WR);
	story_becomes("early eof ");
	assert_true(on_last_conn(close_task, late));
	hears(fd, "late");
	assert_true(ends_cleanly(fd));
	story_becomes("early eof close:peer ");
	close(fd);
}

static void a_rest_is_told_a_last_time_before_the_end(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	handlers.on_data = tell_and_keep;
	handlers.on_eof = NULL;
	start_server(&handlers, NULL, 1);
	fd = dial();
	say(fd, "abc");
	story_becomes("abc ");
	shutdown(fd, SHUT_WR);
	story_becomes("abc abc close:peer ");
	close(fd);
}

static size_t tell_whether_it_is_the_last(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)len, (void)arg;
	tell("%d", evt_conn_at_eof(conn));
	return 0;
}

static void on_data_can_tell_that_it_is_the_last(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	handlers.on_data = tell_whether_it_is_the_last;
	start_server(&handlers, NULL, 1);
	fd = dial();
	say(fd, "abc");
	story_becomes("0 ");
	shutdown(fd, SHUT_WR);
	story_becomes("0 1 eof ");
	close(fd);
}

static void an_end_without_a_rest_calls_no_on_data(void **state)
{
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial();
	shutdown(fd, SHUT_WR);
	story_becomes("eof ");
	close(fd);
}

static void an_end_is_told_once_whatever_is_resumed(void **state)
{
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	shutdown(fd, SHUT_WR);
	story_becomes("eof ");
	assert_true(on_last_conn(pause_task, NULL));
	assert_true(on_last_conn(resume_task, NULL));
	assert_true(on_last_conn(close_task, NULL));
	story_becomes("eof close:peer ");
	close(fd);
}

static size_t answer_tell_and_leave_one(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	tell_data(conn, data, len, arg);
	evt_conn_write(conn, large, LARGE);
	return len > 1 ? len - 1 : len;
}

/* E03: above the high mark the rest waits, and so does the end. */
static void a_throttled_client_that_ended_is_answered_in_full(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	handlers.on_data = answer_tell_and_leave_one;
	handlers.on_eof = NULL;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	keep_small(fd);
	say(fd, "xy");
	shutdown(fd, SHUT_WR);
	assert_true(server_has_read(2));
	catch_up();
	story_becomes("xy ");
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(ends_cleanly(fd));
	story_becomes("xy drain y drain close:peer ");
	close(fd);
}

/* E18 */
static void an_end_that_is_not_answered_does_not_spin(void **state)
{
	int64_t before;
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial();
	say(fd, "x");
	shutdown(fd, SHUT_WR);
	story_becomes("x eof ");
	before = cpu_ms();
	assert_true(stays_silent(fd, 300));
	assert_true(cpu_ms() - before < 100);
	close(fd);
}

/* Resets */

/* E02 */
static void data_before_a_reset_is_delivered_first(void **state)
{
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(pause_task, NULL));
	say(fd, "abc");
	assert_true(on_last_conn(resume_task, NULL));
	story_becomes("abc ");
	close_with_reset(fd);
	story_becomes("abc close:reset ");
	assert_int_equal(last_error(), ECONNRESET);
}

/* E18 */
static void a_reset_while_paused_does_not_spin_and_is_told_later(void **state)
{
	int64_t before;
	uint64_t id;
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	id = atomic_load(&seen.id);
	assert_true(on_conn(id, pause_task, NULL));
	close_with_reset(fd);
	fd = dial_and_wait();
	before = cpu_ms();
	assert_true(stays_silent(fd, 300));
	assert_true(cpu_ms() - before < 100);
	assert_true(on_conn(id, resume_task, NULL));
	story_becomes("close:reset ");
	close(fd);
}

/* E18: what waits for room hears of a reset at once. */
static void a_reset_while_output_waits_is_told(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	handlers.on_data = answer_at_length;
	start_server(&handlers, NULL, 1);
	fd = dial();
	say(fd, "x");
	assert_true(WAIT_FOR(atomic_load(&seen.calls) == 1));
	close_with_reset(fd);
	story_becomes("close:reset ");
	assert_true(last_error() == ECONNRESET || last_error() == EPIPE);
}

/* E01 */
static void a_reset_while_a_close_flushes_is_told_once(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	handlers.on_data = answer_and_close;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	say(fd, "x");
	assert_true(WAIT_FOR(atomic_load(&seen.calls) == 1));
	catch_up();
	story_becomes("");
	close_with_reset(fd);
	story_becomes("close:reset ");
}

/* E01: with SIGPIPE as it is by default. */
static void three_hundred_clients_that_vanish_do_no_harm(void **state)
{
	const struct evt_handlers handlers = {.on_data = answer_at_length};
	int fds[30];
	int round;
	int i;

	(void)state;
	signal(SIGPIPE, SIG_DFL);
	start_server(&handlers, NULL, 2);
	for (round = 0; round < 10; round++) {
		for (i = 0; i < 30; i++) {
			fds[i] = dial();
			say(fds[i], "x");
		}
		for (i = 0; i < 30; i++)
			close_with_reset(fds[i]);
	}
	assert_true(
		WAIT_FOR(nr_opened() + (int)server_stats().vanished == 300));
	assert_true(WAIT_FOR(nr_closed() == nr_opened()));
	assert_int_equal(
		atomic_load(&seen.reasons[EVT_REASON_RESET]), nr_closed());
	assert_int_equal(log_lines(EVT_LOG_ERROR), 0);
}

static atomic_bool go;

static size_t finish_late(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	tell_data(conn, data, len, arg);
	(void)WAIT_FOR(atomic_load(&go));
	evt_conn_finish(conn);
	return len;
}

/* E02: shutdown(2) then gives ENOTCONN. */
static void a_reset_that_finish_meets_is_a_reset(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	atomic_store(&go, false);
	handlers.on_data = finish_late;
	start_server(&handlers, NULL, 1);
	fd = dial();
	say(fd, "x");
	story_becomes("x ");
	close_with_reset(fd);
	atomic_store(&go, true);
	story_becomes("x close:reset ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_half_closed_client_gets_the_whole_answer),
		SERVER_TEST(
			with_on_eof_it_can_be_written_to_until_it_is_closed),
		SERVER_TEST(a_rest_is_told_a_last_time_before_the_end),
		SERVER_TEST(on_data_can_tell_that_it_is_the_last),
		SERVER_TEST(an_end_without_a_rest_calls_no_on_data),
		SERVER_TEST(an_end_is_told_once_whatever_is_resumed),
		SERVER_TEST(a_throttled_client_that_ended_is_answered_in_full),
		SERVER_TEST(an_end_that_is_not_answered_does_not_spin),
		SERVER_TEST(data_before_a_reset_is_delivered_first),
		SERVER_TEST(
			a_reset_while_paused_does_not_spin_and_is_told_later),
		SERVER_TEST(a_reset_while_output_waits_is_told),
		SERVER_TEST(a_reset_while_a_close_flushes_is_told_once),
		SERVER_TEST(three_hundred_clients_that_vanish_do_no_harm),
		SERVER_TEST(a_reset_that_finish_meets_is_a_reset),
	};

	make_large();
	return free_large(ledger_run("conn_end", tests));
}
