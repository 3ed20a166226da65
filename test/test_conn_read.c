/*
 * test_conn_read.c: what on_data is promised: every byte once, in order and in
 * one piece, a rest kept in front of what comes, nothing while it is paused.
 */
#include "server_rig.h"

#define TOO_MUCH 1000 /* bytes of input, where that is the limit */

static const struct evt_listen_options small_input = {.max_input = TOO_MUCH};

/* "3:abc0:12:..." as words of the story; one message a call, or all. */

static atomic_bool one_a_call;

static size_t message_len(const char *data, size_t len)
{
	size_t digits = 0;
	size_t text = 0;

	while (digits < len && data[digits] != ':')
		text = text * 10 + (size_t)(data[digits++] - '0');
	if (digits == len || len - digits - 1 < text)
		return 0;
	return digits + 1 + text;
}

static size_t parse(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	size_t used = 0;
	size_t next;

	(void)conn, (void)arg;
	note_bytes(len);
	while ((next = message_len(data + used, len - used)) > 0) {
		tell("%.*s", (int)next, data + used);
		used += next;
		if (atomic_load(&one_a_call))
			break;
	}
	return used;
}

static const char messages[] = "3:abc0:1:x12:hello, world2:::5:again";
static const char parsed[] = "3:abc 0: 1:x 12:hello, world 2::: 5:again ";

static void each_split_parses(bool one)
{
	const struct evt_handlers handlers = {.on_data = parse};
	size_t len = strlen(messages);
	size_t i;
	int fd;

	atomic_store(&one_a_call, one);
	start_server(&handlers, NULL, 1);
	fd = dial();
	for (i = 0; i <= len; i++) {
		forget_story();
		assert_true(send_all(fd, messages, i));
		assert_true(server_has_read(i * len + i));
		assert_true(send_all(fd, messages + i, len - i));
		story_becomes(parsed);
	}
	close(fd);
}

/* E06 */
static void every_split_gives_the_same_messages(void **state)
{
	(void)state;
	each_split_parses(false);
}

/* E06 */
static void one_message_a_call_at_every_split_gives_the_same(void **state)
{
	(void)state;
	each_split_parses(true);
}

/* E06 */
static void a_sender_of_single_bytes_is_understood(void **state)
{
	const struct evt_handlers handlers = {.on_data = parse};
	size_t i;
	int fd;

	(void)state;
	atomic_store(&one_a_call, false);
	start_server(&handlers, NULL, 1);
	fd = dial();
	for (i = 0; i < strlen(messages); i++) {
		assert_true(send_all(fd, messages + i, 1));
		assert_true(server_has_read(i + 1));
	}
	story_becomes(parsed);
	close(fd);
}

static void a_thousand_messages_at_once_need_no_more_input(void **state)
{
	const struct evt_handlers handlers = {.on_data = parse};
	char all[3001];
	int fd;
	int i;

	(void)state;
	atomic_store(&one_a_call, true);
	start_server(&handlers, NULL, 1);
	for (i = 0; i < 1000; i++)
		memcpy(all + 3 * i, "1:x", 3);
	fd = dial();
	assert_true(send_all(fd, all, 3000));
	assert_true(WAIT_FOR(atomic_load(&seen.calls) >= 1000));
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	stop_server();
	assert_int_equal(story.len, 4000);
}

/* What is kept */

static atomic_size_t enough; /* on_data consumes nothing below so much */
static atomic_bool as_sent;

static size_t wait_for_enough(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn, (void)arg;
	note_bytes(len);
	if (!is_pattern(data, 0, len))
		atomic_store(&as_sent, false);
	return len < atomic_load(&enough) ? 0 : len;
}

static void what_is_not_consumed_comes_again_as_one_run(void **state)
{
	const struct evt_handlers handlers = {
		.on_data = wait_for_enough, .on_close = tell_close};
	const size_t len = 900000;
	char *bytes = new_pattern(0, len);
	int fd;

	(void)state;
	atomic_store(&enough, len);
	atomic_store(&as_sent, true);
	start_server(&handlers, NULL, 1);
	fd = dial();
	assert_true(send_all(fd, bytes, len));
	free(bytes);
	assert_true(server_has_read(len));
	shutdown(fd, SHUT_WR);
	story_becomes("close:peer ");
	assert_true(atomic_load(&as_sent));
	close(fd);
}

/* Tells what it gets, and returns the next of its answers: a digit is how many
 * bytes it consumes, 'a' all of them. 'p' pauses and 'r' resumes before, 'w'
 * wants ten bytes, 'c' closes. */
static struct {
	const char *next;
} script;

static size_t follow_script(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	note_bytes(len);
	tell("%.*s", (int)len, data);
	for (; *script.next; script.next++) {
		if (*script.next == 'p')
			evt_conn_pause(conn);
		else if (*script.next == 'r')
			evt_conn_resume(conn);
		else if (*script.next == 'w')
			evt_conn_want(conn, 10);
		else if (*script.next == 'c')
			evt_conn_close(conn);
		else
			break;
	}
	if (!*script.next)
		return 0;
	return *script.next++ == 'a' ? len : (size_t)(script.next[-1] - '0');
}

static const struct evt_handlers scripted = {.on_data = follow_script,
	.on_eof = tell_eof,
	.on_drain = tell_drain,
	.on_close = tell_close};

/* A client of a server whose on_data follows answers, which has sent text. */
static int client_of(const char *answers, const char *text)
{
	int fd;

	script.next = answers;
	start_server(&scripted, NULL, 1);
	fd = dial_and_wait();
	say(fd, text);
	assert_true(server_has_read(strlen(text)));
	return fd;
}

static void it_is_called_at_once_while_it_consumes_and_leaves(void **state)
{
	int fd = client_of("1231", "abcdefgh");

	(void)state;
	story_becomes("abcdefgh bcdefgh defgh gh h ");
	close(fd);
}

static void having_consumed_nothing_it_waits_for_more(void **state)
{
	int fd = client_of("00a", "ab");

	(void)state;
	story_becomes("ab ");
	say(fd, "c");
	story_becomes("ab abc ");
	say(fd, "d");
	story_becomes("ab abc abcd ");
	say(fd, "e");
	story_becomes("ab abc abcd e ");
	close(fd);
}

static void all_consumed_nothing_comes_again(void **state)
{
	int fd = client_of("aa", "ab");

	(void)state;
	say(fd, "c");
	assert_true(WAIT_FOR(atomic_load(&seen.calls) == 2));
	shutdown(fd, SHUT_WR);
	story_becomes("ab c eof ");
	close(fd);
}

/* evt_conn_want */

static void no_call_before_what_is_wanted_is_there(void **state)
{
	int fd = client_of("w0a", "abc");

	(void)state;
	say(fd, "defghi");
	assert_true(server_has_read(9));
	catch_up();
	story_becomes("abc ");
	say(fd, "j");
	story_becomes("abc abcdefghij ");
	close(fd);
}

static void a_want_is_void_once_met(void **state)
{
	int fd = client_of("w0a0", "abc");

	(void)state;
	say(fd, "defghijk");
	story_becomes("abc abcdefghijk ");
	say(fd, "l");
	story_becomes("abc abcdefghijk l ");
	close(fd);
}

static void a_want_counts_the_rest_that_is_left(void **state)
{
	int fd = client_of("w2a", "abcde"); /* leaves cde, wants ten of them */

	(void)state;
	say(fd, "fghijk");
	assert_true(server_has_read(11));
	catch_up();
	story_becomes("abcde ");
	say(fd, "l");
	story_becomes("abcde cdefghijkl ");
	close(fd);
}

static void a_want_of_what_is_left_already_is_called_at_once(void **state)
{
	int fd = client_of("w1a", "abcdefghijklm");

	(void)state;
	story_becomes("abcdefghijklm bcdefghijklm ");
	close(fd);
}

static void a_want_is_void_at_the_end_of_the_stream(void **state)
{
	int fd = client_of("w0a", "abc");

	(void)state;
	say(fd, "d");
	shutdown(fd, SHUT_WR);
	story_becomes("abc abcd eof ");
	close(fd);
}

struct wanted {
	size_t len;
	atomic_int result;
	atomic_int error;
};

static void want_task(struct evt_conn *conn, void *arg)
{
	struct wanted *it = arg;

	atomic_store(&it->result, evt_conn_want(conn, it->len));
	atomic_store(&it->error, errno);
}

static void to_want_more_than_max_input_is_refused(void **state)
{
	const struct evt_handlers handlers = {.on_data = eat_data};
	struct wanted it = {.len = TOO_MUCH + 1};
	int fd;

	(void)state;
	start_server(&handlers, &small_input, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(want_task, &it));
	assert_int_equal(atomic_load(&it.result), -1);
	assert_int_equal(atomic_load(&it.error), EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	say(fd, "x"); /* it was not taken */
	assert_true(WAIT_FOR(atomic_load(&seen.calls) == 1));
	close(fd);
}

static void all_of_max_input_may_be_wanted(void **state)
{
	const struct evt_handlers handlers = {.on_data = echo_data};
	struct wanted it = {.len = TOO_MUCH};
	char *bytes = new_pattern(0, TOO_MUCH);
	int fd;

	(void)state;
	start_server(&handlers, &small_input, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(want_task, &it));
	assert_int_equal(atomic_load(&it.result), 0);
	assert_true(send_all(fd, bytes, TOO_MUCH - 1));
	assert_true(server_has_read(TOO_MUCH - 1));
	assert_true(send_all(fd, bytes + TOO_MUCH - 1, 1));
	assert_int_equal(hear_pattern(fd, 0, TOO_MUCH), TOO_MUCH);
	assert_int_equal(atomic_load(&seen.calls), 1);
	free(bytes);
	close(fd);
}

/* Pausing */

static void a_rest_waits_for_resume_and_comes_without_more_input(void **state)
{
	int fd = client_of("p1a", "abc");

	(void)state;
	say(fd, "def");
	catch_up();
	story_becomes("abc ");
	assert_int_equal(server_stats().bytes_in, 3);
	assert_true(on_last_conn(resume_task, NULL));
	assert_true(server_has_read(6));
	assert_true(
		WAIT_FOR(story_is("abc bc def ") || story_is("abc bcdef ")));
	close(fd);
}

static void resume_calls_again_though_nothing_was_consumed(void **state)
{
	int fd = client_of("p0a", "abc");

	(void)state;
	assert_true(on_last_conn(resume_task, NULL));
	story_becomes("abc abc ");
	close(fd);
}

static void pause_and_resume_in_one_callback_go_on(void **state)
{
	int fd = client_of("pr0a", "abc");

	(void)state;
	story_becomes("abc abc ");
	say(fd, "d");
	story_becomes("abc abc d ");
	close(fd);
}

static void resume_without_pause_calls_nothing(void **state)
{
	int fd = client_of("r00", "abc");

	(void)state;
	assert_true(on_last_conn(resume_task, NULL));
	catch_up();
	story_becomes("abc ");
	close(fd);
}

static void pause_at_open(struct evt_conn *conn, void *arg)
{
	evt_conn_pause(conn);
	note_open(conn, arg);
}

static void paused_when_it_opens_nothing_is_read(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = pause_at_open, .on_data = eat_data};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	say(fd, "abc");
	catch_up();
	assert_int_equal(server_stats().bytes_in, 0);
	assert_true(on_last_conn(resume_task, NULL));
	assert_true(WAIT_FOR(atomic_load(&seen.bytes) == 3));
	close(fd);
}

/* While it is paused the end is not told either. */
static void an_end_waits_for_resume_as_well(void **state)
{
	int fd = client_of("p1a", "abc");

	(void)state;
	shutdown(fd, SHUT_WR);
	catch_up();
	story_becomes("abc ");
	assert_true(on_last_conn(resume_task, NULL));
	story_becomes("abc bc eof ");
	close(fd);
}

/* Sends the pattern until nothing more is taken: how much. */
static size_t push_until_held_back(int fd, size_t most)
{
	char bytes[65536];
	size_t pushed = 0;

	while (pushed < most) {
		struct pollfd it = {.fd = fd, .events = POLLOUT};
		ssize_t sent;

		fill_pattern(bytes, pushed, sizeof(bytes));
		sent = send(
			fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent > 0)
			pushed += (size_t)sent;
		else if (poll(&it, 1, 100) == 0)
			break;
	}
	return pushed;
}

static atomic_size_t checked; /* bytes of the pattern, all right so far */

static size_t check_pattern(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	size_t at = atomic_load(&checked);

	(void)conn, (void)arg;
	if (is_pattern(data, at, len))
		atomic_store(&checked, at + len);
	return len;
}

/* E07 */
static void a_paused_connection_holds_its_peer_back_and_loses_nothing(
	void **state)
{
	const struct evt_handlers handlers = {.on_data = check_pattern};
	const int small = 65536;
	size_t pushed;
	int fd;

	(void)state;
	atomic_store(&checked, 0);
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	assert_true(on_last_conn(pause_task, NULL));
	pushed = push_until_held_back(fd, (size_t)64 << 20);
	assert_true(pushed < (size_t)64 << 20);
	assert_int_equal(server_stats().bytes_in, 0);
	assert_int_equal(nr_closed(), 0);
	assert_true(on_last_conn(resume_task, NULL));
	assert_true(WAIT_FOR(atomic_load(&checked) == pushed));
	close(fd);
}

/* E07 */
static void input_that_nobody_consumes_ends_with_overflow(void **state)
{
	const struct evt_handlers handlers = {.on_data = leave_data};
	char *bytes = new_pattern(0, TOO_MUCH);
	int fd;

	(void)state;
	start_server(&handlers, &small_input, 1);
	fd = dial();
	assert_true(send_all(fd, bytes, TOO_MUCH - 1));
	assert_true(server_has_read(TOO_MUCH - 1));
	assert_int_equal(nr_closed(), 0);
	assert_true(send_all(fd, bytes, 1));
	free(bytes);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_OVERFLOW);
	assert_true(ends_with_reset(fd));
	close(fd);
}

/* E07: what is kept while it is paused is no overflow, as long as it is. */
static void paused_it_may_keep_more_than_max_input(void **state)
{
	const struct evt_handlers handlers = {
		.on_data = follow_script, .on_close = tell_close};
	char bytes[TOO_MUCH + 1];
	int fd;

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	script.next = "p00";
	start_server(&handlers, &small_input, 1);
	fd = dial_and_wait();
	assert_true(send_all(fd, bytes, sizeof(bytes)));
	assert_true(server_has_read(sizeof(bytes)));
	catch_up();
	assert_int_equal(nr_closed(), 0);
	assert_true(on_last_conn(resume_task, NULL));
	assert_true(WAIT_FOR(story_has("close:overflow")));
	close(fd);
}

static void without_a_limit_more_is_kept(void **state)
{
	const struct evt_handlers handlers = {.on_data = wait_for_enough};
	const struct evt_listen_options options = {.max_input = (size_t)-1};
	const size_t len = (size_t)3 << 20;
	char *bytes = new_pattern(0, len);
	int fd;

	(void)state;
	atomic_store(&enough, len);
	atomic_store(&as_sent, true);
	start_server(&handlers, &options, 1);
	fd = dial();
	assert_true(send_all(fd, bytes, len));
	free(bytes);
	assert_true(server_has_read(len));
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_PEER);
	assert_true(atomic_load(&as_sent));
}

static void without_on_data_input_is_thrown_away(void **state)
{
	const struct evt_handlers handlers = {.on_eof = NULL};
	const size_t len = (size_t)3 << 20;
	char *bytes = new_pattern(0, len);
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial();
	assert_true(send_all(fd, bytes, len));
	free(bytes);
	assert_true(server_has_read(len));
	shutdown(fd, SHUT_WR);
	assert_true(ends_cleanly(fd));
	close(fd);
	assert_int_equal(last_reason(), EVT_REASON_PEER);
}

/* A fault of the program's */

static size_t boast(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn, (void)data, (void)arg;
	note_bytes(len);
	return len + 1;
}

static void to_consume_more_than_there_is_aborts_with_a_line(void **state)
{
	const struct evt_handlers handlers = {.on_data = boast};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial();
	say(fd, "abc");
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_FAILED);
	assert_int_equal(last_error(), EINVAL);
	assert_int_equal(atomic_load(&seen.calls), 1);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	assert_true(ends_with_reset(fd));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(every_split_gives_the_same_messages),
		SERVER_TEST(one_message_a_call_at_every_split_gives_the_same),
		SERVER_TEST(a_sender_of_single_bytes_is_understood),
		SERVER_TEST(a_thousand_messages_at_once_need_no_more_input),
		SERVER_TEST(what_is_not_consumed_comes_again_as_one_run),
		SERVER_TEST(it_is_called_at_once_while_it_consumes_and_leaves),
		SERVER_TEST(having_consumed_nothing_it_waits_for_more),
		SERVER_TEST(all_consumed_nothing_comes_again),
		SERVER_TEST(no_call_before_what_is_wanted_is_there),
		SERVER_TEST(a_want_is_void_once_met),
		SERVER_TEST(a_want_counts_the_rest_that_is_left),
		SERVER_TEST(a_want_of_what_is_left_already_is_called_at_once),
		SERVER_TEST(a_want_is_void_at_the_end_of_the_stream),
		SERVER_TEST(to_want_more_than_max_input_is_refused),
		SERVER_TEST(all_of_max_input_may_be_wanted),
		SERVER_TEST(
			a_rest_waits_for_resume_and_comes_without_more_input),
		SERVER_TEST(resume_calls_again_though_nothing_was_consumed),
		SERVER_TEST(pause_and_resume_in_one_callback_go_on),
		SERVER_TEST(resume_without_pause_calls_nothing),
		SERVER_TEST(paused_when_it_opens_nothing_is_read),
		SERVER_TEST(an_end_waits_for_resume_as_well),
		SERVER_TEST(
			a_paused_connection_holds_its_peer_back_and_loses_nothing),
		SERVER_TEST(input_that_nobody_consumes_ends_with_overflow),
		SERVER_TEST(paused_it_may_keep_more_than_max_input),
		SERVER_TEST(without_a_limit_more_is_kept),
		SERVER_TEST(without_on_data_input_is_thrown_away),
		SERVER_TEST(to_consume_more_than_there_is_aborts_with_a_line),
	};

	return ledger_run("conn_read", tests);
}
