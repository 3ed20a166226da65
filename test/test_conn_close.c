/*
 * test_conn_close.c: we end a connection: a close that loses nothing, an abort,
 * the end of our stream alone, and what can be done no more after each.
 */
#include "server_rig.h"

#include <linux/tcp.h> /* netinet/tcp.h knows fewer figures */
#include <netinet/in.h>

static const struct evt_handlers telling = {.on_data = tell_data,
	.on_eof = tell_eof,
	.on_drain = tell_drain,
	.on_close = tell_close};

/* Close */

static void close_flushes_before_on_close(void **state)
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
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(ends_cleanly(fd));
	story_becomes("close:ours ");
	close(fd);
}

static const char answer[] = "that is enough";

static size_t answer_first_byte(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	note_bytes(len);
	evt_conn_write(conn, answer, strlen(answer));
	evt_conn_close(conn);
	return 1;
}

/* E04 */
static void a_megabyte_more_than_is_read_does_not_cost_the_answer(void **state)
{
	const struct evt_handlers handlers = {.on_data = answer_first_byte};
	const size_t len = (size_t)1 << 20;
	char *bytes = new_pattern(0, len);
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial();
	assert_true(send_all(fd, bytes, len));
	free(bytes);
	hears(fd, answer);
	assert_true(ends_cleanly(fd));
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_OURS);
	assert_int_equal(atomic_load(&seen.calls), 1);
}

/* E04: it sends all before it reads: what it sends must be thrown away while
 * the answer still waits, or both wait for ever. */
static void a_long_answer_reaches_a_client_that_sends_first(void **state)
{
	const struct evt_handlers handlers = {.on_data = answer_and_close};
	const struct timeval limit = {.tv_sec = 2 * slowness()};
	const int small = 65536;
	bool sent;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial();
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	sent = send_all(fd, large, LARGE);
	assert_true(sent);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(ends_cleanly(fd));
	close(fd);
}

static void after_close_nothing_is_called_but_on_close(void **state)
{
	char last[] = "last";
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(close_task, last));
	story_becomes("close:ours ");
	say(fd, "more");
	hears(fd, "last");
	assert_true(ends_cleanly(fd));
	say(fd, "and more");
	close(fd);
	stop_server();
	assert_true(story_is("close:ours "));
}

/* A client that does not end is waited for, but not by the stop. */
static void a_client_that_stays_does_not_hold_up_a_stop(void **state)
{
	int64_t before;
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(close_task, NULL));
	assert_true(ends_cleanly(fd));
	story_becomes("close:ours ");
	before = now_ms();
	stop_server();
	assert_true(now_ms() - before < 3000);
	close(fd);
}

/* What is thrown away has a limit: 64 MiB. */
static void a_client_that_never_stops_sending_is_cut_off(void **state)
{
	int sent = 0;
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(close_task, NULL));
	story_becomes("close:ours ");
	while (sent < 20 && send_all(fd, large, LARGE))
		sent++;
	assert_in_range(sent, 4, 12);
	close(fd);
}

/* Abort */

static void abort_resets_and_what_is_unsent_is_lost(void **state)
{
	struct evt_handlers handlers = telling;
	size_t heard;
	int fd;

	(void)state;
	handlers.on_data = answer_at_length;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	say(fd, "x");
	assert_true(WAIT_FOR(atomic_load(&seen.calls) == 1));
	assert_true(on_last_conn(abort_task, NULL));
	story_becomes("close:ours ");
	assert_int_equal(drain_to_end(fd, &heard), RESET_END);
	assert_true(heard < LARGE);
	close(fd);
}

static void abort_ends_a_close_that_flushes(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	handlers.on_data = answer_and_close;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	say(fd, "x");
	assert_true(WAIT_FOR(atomic_load(&seen.calls) == 1));
	assert_true(on_last_conn(abort_task, NULL));
	story_becomes("close:ours ");
	assert_true(ends_with_reset(fd));
	close(fd);
}

/* Finish */

static void finish_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	tell("finish:%d", evt_conn_finish(conn));
}

static size_t answer_and_finish(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	tell_data(conn, data, len, arg);
	if (*data != 'x')
		return len;
	evt_conn_write(conn, large, LARGE);
	tell("finish:%d", evt_conn_finish(conn));
	return len;
}

static void finish_ends_our_stream_after_the_output_and_reads_on(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	handlers.on_data = answer_and_finish;
	handlers.on_eof = NULL;
	handlers.on_drain = NULL;
	start_server(&handlers, NULL, 1);
	fd = dial();
	say(fd, "x");
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(ends_cleanly(fd));
	say(fd, "more");
	story_becomes("x finish:0 more ");
	shutdown(fd, SHUT_WR);
	story_becomes("x finish:0 more close:peer ");
	close(fd);
}

static void finish_twice_is_as_once(void **state)
{
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(finish_task, NULL));
	assert_true(on_last_conn(finish_task, NULL));
	assert_true(ends_cleanly(fd));
	assert_true(on_last_conn(close_task, NULL));
	story_becomes("finish:0 finish:0 close:ours ");
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	close(fd);
}

/* What cannot be done any more: each result, 0 if it was right. */
static int try_all(struct evt_conn *conn, int error)
{
	int wrong = 0;

	wrong += evt_conn_write(conn, "x", 1) != -1 || errno != error;
	wrong += evt_conn_write(conn, large, LARGE) != -1 || errno != error;
	wrong += evt_conn_write(conn, "", 0) != -1 || errno != error;
	wrong += evt_conn_printf(conn, "%d", 1) != -1 || errno != error;
	wrong += evt_conn_write_ref(conn, "x", 1, note_done, NULL) != -1 ||
		errno != error;
	wrong += evt_conn_sendfile(conn, 0, 0, 1) != -1 || errno != error;
	return wrong;
}

static atomic_int wrong;

static void finish_and_try(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_finish(conn);
	atomic_store(&wrong, try_all(conn, EPIPE));
}

/* E14 */
static void after_finish_writing_gives_epipe_and_lines(void **state)
{
	int fd;

	(void)state;
	start_server(&telling, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(finish_and_try, NULL));
	assert_int_equal(atomic_load(&wrong), 0);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 6);
	assert_int_equal(atomic_load(&seen.dones), 0);
	assert_true(ends_cleanly(fd));
	close(fd);
}

static int try_ended(struct evt_conn *conn)
{
	int bad = try_all(conn, ENOTCONN);

	bad += evt_conn_finish(conn) != -1 || errno != ENOTCONN;
	bad += evt_conn_want(conn, 1) != -1 || errno != ENOTCONN;
	bad += evt_conn_set_timeout(conn, EVT_TIMEOUT_IDLE, 1) != -1 ||
		errno != ENOTCONN;
	evt_conn_pause(conn);
	evt_conn_resume(conn);
	evt_conn_close(conn);
	return bad;
}

static void try_on_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	atomic_fetch_add(&wrong, try_ended(conn));
	atomic_fetch_add(&wrong, evt_conn_pending(conn) != 0);
	tell_close(conn, reason, arg);
}

static void end_and_try(struct evt_conn *conn, void *end)
{
	(*(void (**)(struct evt_conn *))end)(conn);
	atomic_fetch_add(&wrong, try_ended(conn));
}

static void nothing_can_be_written_after(void (*end)(struct evt_conn *))
{
	struct evt_handlers handlers = telling;
	int fd;

	handlers.on_close = try_on_close;
	atomic_store(&wrong, 0);
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(end_and_try, &end));
	story_becomes("close:ours ");
	close(fd);
	stop_server();
	assert_int_equal(atomic_load(&wrong), 0);
	assert_int_equal(atomic_load(&seen.dones), 0);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	assert_true(story_is("close:ours "));
}

/* E14 */
static void after_close_and_in_on_close_writing_gives_enotconn(void **state)
{
	(void)state;
	nothing_can_be_written_after(evt_conn_close);
}

/* E14 */
static void after_abort_and_in_on_close_writing_gives_enotconn(void **state)
{
	(void)state;
	nothing_can_be_written_after(evt_conn_abort);
}

/* Opening */

static void close_at_open(struct evt_conn *conn, void *arg)
{
	tell_open(conn, arg);
	close_task(conn, arg);
}

static void abort_at_open(struct evt_conn *conn, void *arg)
{
	tell_open(conn, arg);
	evt_conn_abort(conn);
}

/* E20 */
static void one_that_is_closed_when_it_opens_is_told_so_once(void **state)
{
	struct evt_handlers handlers = telling;
	char bye[] = "bye";
	int fd;

	(void)state;
	handlers.on_open = close_at_open;
	start_server_at("tcp://127.0.0.1:0", &handlers, NULL, 1, bye);
	fd = dial();
	say(fd, "unread");
	hears(fd, "bye");
	assert_true(ends_cleanly(fd));
	close(fd);
	stop_server();
	assert_true(story_is("open close:ours "));
}

/* E20 */
static void one_that_is_aborted_when_it_opens_is_told_so_once(void **state)
{
	struct evt_handlers handlers = telling;
	int fd;

	(void)state;
	handlers.on_open = abort_at_open;
	start_server(&handlers, NULL, 1);
	fd = dial();
	/* What meets a reset is told of it once: here, or below. */
	if (send(fd, "unread", 6, MSG_NOSIGNAL) == 6)
		assert_true(ends_with_reset(fd));
	close(fd);
	stop_server();
	assert_true(story_is("open close:ours "));
}

/* One packet less for each, and a client that wakes up once. */

static int segments_heard(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	return (int)info.tcpi_segs_in;
}

static size_t say_bye_and_close(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	evt_conn_write(conn, "bye", 3);
	evt_conn_close(conn);
	return len;
}

static size_t say_bye_and_finish(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	evt_conn_write(conn, "bye", 3);
	evt_conn_finish(conn);
	return len;
}

static void the_end_goes_with_the_last_bytes(void **state)
{
	const struct evt_handlers ways[] = {
		{.on_data = say_bye_and_close, .on_open = note_open},
		{.on_data = say_bye_and_finish, .on_open = note_open}};
	size_t i;
	int before;
	int fd;

	(void)state;
	for (i = 0; i < 2; i++) {
		start_server(&ways[i], NULL, 1);
		fd = dial_and_wait();
		before = segments_heard(fd);
		say(fd, "x");
		hears(fd, "bye");
		assert_true(at_end(fd));
		/* It acknowledges ours in it, or had to before. */
		assert_in_range(segments_heard(fd) - before, 1, 2);
		close(fd);
		stop_server();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(close_flushes_before_on_close),
		SERVER_TEST(
			a_megabyte_more_than_is_read_does_not_cost_the_answer),
		SERVER_TEST(a_long_answer_reaches_a_client_that_sends_first),
		SERVER_TEST(after_close_nothing_is_called_but_on_close),
		SERVER_TEST(a_client_that_stays_does_not_hold_up_a_stop),
		SERVER_TEST(a_client_that_never_stops_sending_is_cut_off),
		SERVER_TEST(abort_resets_and_what_is_unsent_is_lost),
		SERVER_TEST(abort_ends_a_close_that_flushes),
		SERVER_TEST(
			finish_ends_our_stream_after_the_output_and_reads_on),
		SERVER_TEST(finish_twice_is_as_once),
		SERVER_TEST(after_finish_writing_gives_epipe_and_lines),
		SERVER_TEST(after_close_and_in_on_close_writing_gives_enotconn),
		SERVER_TEST(after_abort_and_in_on_close_writing_gives_enotconn),
		SERVER_TEST(one_that_is_closed_when_it_opens_is_told_so_once),
		SERVER_TEST(one_that_is_aborted_when_it_opens_is_told_so_once),
		SERVER_TEST(the_end_goes_with_the_last_bytes),
	};

	make_large();
	return free_large(ledger_run("conn_close", tests));
}
