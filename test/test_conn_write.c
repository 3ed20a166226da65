/*
 * test_conn_write.c: what is written arrives, in order and once, however large
 * the pieces and however slow the reader; and what waits has its limits.
 */
#include "server_rig.h"

#include <limits.h>

/* A client that has been accepted, of a server that tells what happens. */
static int client_of(const struct evt_listen_options *options)
{
	const struct evt_handlers handlers = {.on_data = tell_data,
		.on_drain = tell_drain,
		.on_close = tell_close};

	start_server(&handlers, options, 1);
	return dial_and_wait();
}

/* Results of a task, for the main thread to look at. */
static struct {
	atomic_int result;
	atomic_int error;
	atomic_size_t pending;
	atomic_int wrong;
} got;

static void keep_result(struct evt_conn *conn, int result)
{
	atomic_store(&got.error, errno);
	atomic_store(&got.result, result);
	atomic_store(&got.pending, evt_conn_pending(conn));
}

static void pending_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	keep_result(conn, 0);
}

static size_t pending_now(void)
{
	assert_true(on_last_conn(pending_task, NULL));
	return atomic_load(&got.pending);
}

static void write_large(struct evt_conn *conn, void *arg)
{
	(void)arg;
	keep_result(conn, evt_conn_write(conn, large, LARGE));
}

/* Order */

static void write_copied(struct evt_conn *conn, void *arg)
{
	char *bytes = malloc(LARGE);

	(void)arg;
	if (!bytes)
		return;
	memcpy(bytes, large, LARGE);
	keep_result(conn, evt_conn_write(conn, bytes, LARGE));
	memset(bytes, 'x', LARGE);
	free(bytes);
}

static void what_was_written_may_be_changed_at_once(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(write_copied, NULL));
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_int_equal(pending_now(), 0);
	close(fd);
}

/* Sizes around each limit there is, again and again: some bytes of large. */
static size_t write_all_sizes(struct evt_conn *conn, size_t most)
{
	static const size_t sizes[] = {1, 0, 4095, 4096, 2, 16383, 16384, 3,
		16385, 65536, 100, 4000, 4000, 4000, 4000, 4000, 1, 200000};
	size_t at = 0;
	size_t i = 0;

	while (at < most) {
		size_t len = sizes[i % (sizeof(sizes) / sizeof(sizes[0]))];
		int result;

		len = len < most - at ? len : most - at;
		if (i % 3 == 1)
			result = evt_conn_write_ref(
				conn, large + at, len, note_done, NULL);
		else
			result = evt_conn_write(conn, large + at, len);
		if (result == -1)
			atomic_fetch_add(&got.wrong, 1);
		at += len;
		i++;
	}
	return i;
}

static void write_sizes_task(struct evt_conn *conn, void *refs)
{
	size_t pieces = write_all_sizes(conn, LARGE);

	atomic_store((atomic_size_t *)refs, (pieces + 1) / 3);
	evt_conn_close(conn);
}

static void pieces_of_all_sizes_arrive_in_order(void **state)
{
	atomic_size_t refs;
	int fd;

	(void)state;
	atomic_store(&got.wrong, 0);
	fd = client_of(NULL);
	assert_true(on_last_conn(write_sizes_task, &refs));
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(ends_cleanly(fd));
	assert_int_equal(atomic_load(&got.wrong), 0);
	story_becomes("close:ours ");
	assert_int_equal(atomic_load(&seen.dones), atomic_load(&refs));
	close(fd);
	stop_server();
}

static void all_bytes_are_counted(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(write_large, NULL));
	say(fd, "abc");
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(server_has_read(3));
	assert_int_equal(server_stats().bytes_out, LARGE);
	assert_int_equal(server_stats().bytes_in, 3);
	close(fd);
}

/* evt_conn_pending */

static void write_small_and_large(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, "abc", 3);
	atomic_store(&got.wrong, evt_conn_pending(conn) != 3);
	evt_conn_write(conn, "def", 3);
	atomic_fetch_add(&got.wrong, evt_conn_pending(conn) != 6);
}

static void pending_counts_what_is_gathered_and_what_waits(void **state)
{
	int fd = client_of(NULL);
	size_t before;

	(void)state;
	assert_true(on_last_conn(write_small_and_large, NULL));
	hears(fd, "abcdef");
	assert_int_equal(atomic_load(&got.wrong), 0);
	assert_int_equal(pending_now(), 0);
	assert_true(on_last_conn(write_large, NULL));
	before = atomic_load(&got.pending);
	assert_true(before > 0 && before < LARGE);
	assert_int_equal(LARGE - before, server_stats().bytes_out - 6);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(WAIT_FOR(pending_now() == 0));
	close(fd);
}

/* evt_conn_write_ref */

static struct evt_worker *asked_on;
static atomic_bool elsewhere; /* done was called on another thread */

static void note_done_here(void *name)
{
	if (evt_worker_self() != asked_on)
		atomic_store(&elsewhere, true);
	tell_done(name);
}

static void write_refs(struct evt_conn *conn, void *arg)
{
	static char small[] = "small";
	static char big[] = "big";
	static char empty[] = "empty";

	(void)arg;
	asked_on = evt_worker_self();
	evt_conn_write_ref(conn, "abc", 3, note_done_here, small);
	evt_conn_write_ref(conn, NULL, 0, note_done_here, empty);
	evt_conn_write_ref(conn, large, LARGE, note_done_here, big);
	evt_conn_write_ref(conn, "", 0, note_done_here, empty);
	evt_conn_write_ref(conn, "def", 3, NULL, NULL);
	tell("written");
}

static void done_is_called_once_on_the_worker_when_it_is_sent(void **state)
{
	int fd;

	(void)state;
	atomic_store(&elsewhere, false);
	fd = client_of(NULL);
	assert_true(on_last_conn(write_refs, NULL));
	hears(fd, "abc");
	catch_up();
	story_becomes("written done:small done:empty ");
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	hears(fd, "def");
	assert_true(WAIT_FOR(story_has("done:big done:empty ")));
	close(fd);
	stop_server();
	assert_false(atomic_load(&elsewhere));
	assert_int_equal(atomic_load(&seen.dones), 4);
}

static void done_of_what_is_thrown_away_comes_before_on_close(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(write_refs, NULL));
	assert_true(on_last_conn(abort_task, NULL));
	story_becomes("written done:small done:empty done:big done:empty "
		      "close:ours ");
	assert_true(ends_with_reset(fd));
	close(fd);
}

static void write_and_abort(struct evt_conn *conn, void *arg)
{
	write_refs(conn, arg);
	evt_conn_abort(conn);
}

static void done_is_called_though_it_is_aborted_in_the_same_call(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(write_and_abort, NULL));
	story_becomes("written done:small done:empty done:big done:empty "
		      "close:ours ");
	assert_true(ends_with_reset(fd));
	close(fd);
}

static void write_on_done(void *arg)
{
	struct evt_conn *conn = arg;

	atomic_fetch_add(&seen.dones, 1);
	evt_conn_write(conn, "done", 4);
	evt_conn_close(conn);
}

static void ref_that_answers(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write_ref(conn, "ref,", 4, write_on_done, conn);
}

static void done_may_write_and_close(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(ref_that_answers, NULL));
	hears(fd, "ref,done");
	assert_true(ends_cleanly(fd));
	story_becomes("close:ours ");
	assert_int_equal(atomic_load(&seen.dones), 1);
	close(fd);
}

/* Limits */

static const struct evt_listen_options small_marks = {
	.high_mark = 100000, .low_mark = 1000};

/* E05: one answer waits, and no more is asked for until it is read. */
static void a_client_that_never_reads_is_not_read_any_more(void **state)
{
	struct evt_handlers handlers = {
		.on_data = answer_at_length, .on_drain = tell_drain};
	char requests[64] = {0};
	int i;
	int fd;

	(void)state;
	start_server(&handlers, &small_marks, 1);
	fd = dial_and_wait();
	say(fd, "x");
	assert_true(server_has_read(1));
	for (i = 0; i < 20; i++)
		assert_true(send_all(fd, requests, sizeof(requests)));
	catch_up();
	assert_int_equal(server_stats().bytes_in, 1);
	assert_int_equal(atomic_load(&seen.calls), 1);
	assert_true(pending_now() <= LARGE);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(server_has_read(1 + 20 * sizeof(requests)));
	assert_true(story_has("drain "));
	close(fd);
}

static size_t answer_each_byte(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	answer_at_length(conn, data, len, arg);
	return 1;
}

/* E05: of many requests in one read too. */
static void above_the_high_mark_on_data_is_not_called_again(void **state)
{
	struct evt_handlers handlers = {
		.on_data = answer_each_byte, .on_drain = note_drain};
	int fd;

	(void)state;
	start_server(&handlers, &small_marks, 1);
	fd = dial_and_wait();
	keep_small(fd);
	say(fd, "abc");
	assert_true(server_has_read(3));
	catch_up();
	assert_int_equal(atomic_load(&seen.calls), 1);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(WAIT_FOR(atomic_load(&seen.drains) == 3));
	assert_int_equal(atomic_load(&seen.calls), 3);
	close(fd);
}

static atomic_int produced;

static void produce(struct evt_conn *conn, void *arg)
{
	(void)arg;
	if (atomic_fetch_add(&produced, 1) < 3)
		evt_conn_write(conn, large, LARGE);
	else
		evt_conn_close(conn);
}

static size_t begin_to_produce(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data;
	produce(conn, arg);
	return len;
}

static void on_drain_goes_on_writing(void **state)
{
	const struct evt_handlers handlers = {
		.on_data = begin_to_produce, .on_drain = produce};
	int i;
	int fd;

	(void)state;
	atomic_store(&produced, 0);
	start_server(&handlers, NULL, 1);
	fd = dial();
	keep_small(fd); /* else the kernel may take it all, and none waits */
	say(fd, "x");
	for (i = 0; i < 3; i++)
		assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(ends_cleanly(fd));
	close(fd);
}

static void pending_at_drain(struct evt_conn *conn, void *arg)
{
	note_drain(conn, arg);
	keep_result(conn, 0);
}

static void on_drain_comes_at_the_low_mark_and_not_before(void **state)
{
	const struct evt_listen_options options = {
		.high_mark = LARGE / 2, .low_mark = 1000};
	const struct evt_handlers handlers = {
		.on_data = answer_at_length, .on_drain = pending_at_drain};
	int fd;

	(void)state;
	atomic_store(&got.pending, LARGE);
	start_server(&handlers, &options, 1);
	fd = dial();
	say(fd, "x");
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(WAIT_FOR(atomic_load(&seen.drains) == 1));
	close(fd);
	stop_server();
	assert_true(atomic_load(&got.pending) <= 1000);
	assert_int_equal(atomic_load(&seen.drains), 1);
}

static void without_output_above_the_low_mark_nothing_drains(void **state)
{
	const struct evt_handlers handlers = {
		.on_data = echo_data, .on_drain = note_drain};
	int i;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial();
	for (i = 0; i < 20; i++) {
		say(fd, "hello");
		hears(fd, "hello");
	}
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(atomic_load(&seen.drains), 0);
}

/* E05 */
static void more_than_max_output_ends_it_with_overflow(void **state)
{
	const struct evt_listen_options options = {.max_output = 1000000};
	int fd = client_of(&options);

	(void)state;
	assert_true(on_last_conn(write_large, NULL));
	assert_int_equal(atomic_load(&got.result), -1);
	assert_int_equal(atomic_load(&got.error), ENOBUFS);
	story_becomes("close:overflow ");
	assert_int_equal(last_error(), ENOBUFS);
	assert_true(log_has("unsent output"));
	assert_true(ends_with_reset(fd));
	close(fd);
}

static void ref_large(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write_ref(conn, large, LARGE, note_done, NULL);
}

/* E05: whether it is copied or not. */
static void a_ref_above_max_output_ends_it_with_overflow(void **state)
{
	const struct evt_listen_options options = {.max_output = 1000000};
	int fd = client_of(&options);

	(void)state;
	assert_true(on_last_conn(ref_large, NULL));
	story_becomes("close:overflow ");
	assert_true(ends_with_reset(fd));
	close(fd);
}

static void ref_while_it_waits(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, large, LARGE);
	keep_result(
		conn, evt_conn_write_ref(conn, large, LARGE, note_done, NULL));
}

static void a_ref_that_is_refused_has_no_done(void **state)
{
	const struct evt_listen_options options = {.max_output = LARGE + 1000};
	int fd = client_of(&options);

	(void)state;
	assert_true(on_last_conn(ref_while_it_waits, NULL));
	assert_int_equal(atomic_load(&got.result), -1);
	assert_int_equal(atomic_load(&got.error), ENOBUFS);
	story_becomes("close:overflow ");
	assert_int_equal(atomic_load(&seen.dones), 0);
	close(fd);
}

static void write_thrice(struct evt_conn *conn, void *arg)
{
	int i;

	(void)arg;
	for (i = 0; i < 3; i++)
		keep_result(conn, evt_conn_write(conn, large, LARGE));
	evt_conn_close(conn);
}

static void without_a_limit_more_than_usual_may_wait(void **state)
{
	const struct evt_listen_options options = {.max_output = (size_t)-1};
	int fd = client_of(&options);
	int i;

	(void)state;
	assert_true(on_last_conn(write_thrice, NULL));
	assert_true(atomic_load(&got.pending) > LARGE);
	for (i = 0; i < 3; i++)
		assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	close(fd);
}

/* Arguments */

static int refused_with(int error, int result)
{
	return result != -1 || errno != error;
}

static void write_nonsense(struct evt_conn *conn, void *arg)
{
	int bad = 0;

	(void)arg;
	bad += refused_with(EINVAL, evt_conn_write(conn, NULL, 1));
	bad += refused_with(EINVAL, evt_conn_write(conn, "x", SIZE_MAX));
	bad += refused_with(
		EINVAL, evt_conn_write(conn, "x", (size_t)SSIZE_MAX + 1));
	bad += refused_with(
		EINVAL, evt_conn_write_ref(conn, NULL, 1, note_done, NULL));
	bad += refused_with(EINVAL,
		evt_conn_write_ref(conn, "x", SIZE_MAX, note_done, NULL));
	bad += refused_with(EINVAL, evt_conn_write(NULL, "x", 1));
	bad += refused_with(EINVAL, evt_conn_printf(NULL, "x"));
	bad += refused_with(
		EINVAL, evt_conn_write_ref(NULL, "x", 1, note_done, NULL));
	atomic_store(&got.wrong, bad);
}

/* E11 */
static void arguments_that_make_no_sense_are_refused_with_a_line(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(write_nonsense, NULL));
	assert_int_equal(atomic_load(&got.wrong), 0);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 8);
	assert_int_equal(atomic_load(&seen.dones), 0);
	say(fd, "alive");
	story_becomes("alive ");
	close(fd);
}

static void write_nothing(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_store(&got.wrong,
		evt_conn_write(conn, NULL, 0) + evt_conn_write(conn, "", 0) +
			evt_conn_printf(conn, "%s", "") +
			evt_conn_write_ref(conn, NULL, 0, note_done, NULL));
	keep_result(conn, 0);
}

/* E11 */
static void nothing_may_be_written(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(write_nothing, NULL));
	assert_int_equal(atomic_load(&got.wrong), 0);
	assert_int_equal(atomic_load(&got.pending), 0);
	assert_true(WAIT_FOR(atomic_load(&seen.dones) == 1));
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	close(fd);
}

/* evt_conn_printf */

static const int lengths[] = {0, 1, 1022, 1023, 1024, 1025, 4095, 4096, 100000};

static void print_lengths(struct evt_conn *conn, void *arg)
{
	size_t i;

	(void)arg;
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		if (evt_conn_printf(conn, "%*d|", lengths[i], (int)i) != 0)
			atomic_fetch_add(&got.wrong, 1);
}

static void printf_writes_texts_of_any_length(void **state)
{
	static char expected[200000];
	char *end = expected;
	size_t i;
	int fd;

	(void)state;
	atomic_store(&got.wrong, 0);
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		end += snprintf(end,
			(size_t)(expected + sizeof(expected) - end), "%*d|",
			lengths[i], (int)i);
	fd = client_of(NULL);
	assert_true(on_last_conn(print_lengths, NULL));
	hears(fd, expected);
	assert_int_equal(atomic_load(&got.wrong), 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(what_was_written_may_be_changed_at_once),
		SERVER_TEST(pieces_of_all_sizes_arrive_in_order),
		SERVER_TEST(all_bytes_are_counted),
		SERVER_TEST(pending_counts_what_is_gathered_and_what_waits),
		SERVER_TEST(done_is_called_once_on_the_worker_when_it_is_sent),
		SERVER_TEST(done_of_what_is_thrown_away_comes_before_on_close),
		SERVER_TEST(
			done_is_called_though_it_is_aborted_in_the_same_call),
		SERVER_TEST(done_may_write_and_close),
		SERVER_TEST(a_client_that_never_reads_is_not_read_any_more),
		SERVER_TEST(above_the_high_mark_on_data_is_not_called_again),
		SERVER_TEST(on_drain_goes_on_writing),
		SERVER_TEST(on_drain_comes_at_the_low_mark_and_not_before),
		SERVER_TEST(without_output_above_the_low_mark_nothing_drains),
		SERVER_TEST(more_than_max_output_ends_it_with_overflow),
		SERVER_TEST(a_ref_above_max_output_ends_it_with_overflow),
		SERVER_TEST(a_ref_that_is_refused_has_no_done),
		SERVER_TEST(without_a_limit_more_than_usual_may_wait),
		SERVER_TEST(
			arguments_that_make_no_sense_are_refused_with_a_line),
		SERVER_TEST(nothing_may_be_written),
		SERVER_TEST(printf_writes_texts_of_any_length),
	};

	make_large();
	return free_large(ledger_run("conn_write", tests));
}
