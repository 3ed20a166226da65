/*
 * test_conn_file.c: files that are sent: of any size and from any offset, in
 * order with what else is written; who closes them; files that are none, and
 * such as end too early.
 */
#include "server_rig.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

/* What the server opens: LARGE bytes of the pattern. */
static int source = -1;

static int new_file(const char *bytes, size_t len)
{
	char path[] = "/tmp/test_conn_file.XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	size_t done = 0;

	if (fd == -1)
		abort();
	unlink(path);
	while (done < len) {
		ssize_t put = write(fd, bytes + done, len - done);

		if (put <= 0)
			abort();
		done += (size_t)put;
	}
	return fd;
}

static struct {
	atomic_int result;
	atomic_int error;
	atomic_int fd;
	atomic_size_t pending;
	atomic_int wrong;
} got;

/* A part of the source, by a descriptor of its own. */
static void send_part(struct evt_conn *conn, int64_t offset, int64_t len)
{
	int fd = fcntl(source, F_DUPFD_CLOEXEC, 3);
	int result = evt_conn_sendfile(conn, fd, offset, len);

	atomic_store(&got.error, errno);
	if (result == -1)
		close(fd);
	atomic_store(&got.fd, fd);
	atomic_store(&got.result, result);
	atomic_store(&got.pending, evt_conn_pending(conn));
}

struct part {
	int64_t offset;
	int64_t len;
};

static void send_part_task(struct evt_conn *conn, void *arg)
{
	const struct part *part = arg;

	send_part(conn, part->offset, part->len);
}

static void send_and_close(struct evt_conn *conn, void *arg)
{
	send_part_task(conn, arg);
	evt_conn_close(conn);
}

static int client_of(const struct evt_listen_options *options)
{
	const struct evt_handlers handlers = {.on_data = tell_data,
		.on_drain = tell_drain,
		.on_close = tell_close};

	start_server(&handlers, options, 1);
	return dial_and_wait();
}

/* Sizes and offsets */

static void files_of_each_size_from_each_offset_arrive(void **state)
{
	static const int64_t sizes[] = {0, 1, 4095, 4096, 4097, 65536, 1048575,
		1048576, 1048577, 3000000};
	static const int64_t offsets[] = {0, 1, 4095, 4096, 5000000};
	size_t i;
	size_t j;
	int fd;

	(void)state;
	fd = client_of(NULL);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (j = 0; j < sizeof(offsets) / sizeof(offsets[0]); j++) {
			struct part part = {offsets[j], sizes[i]};

			assert_true(on_last_conn(send_part_task, &part));
			assert_int_equal(atomic_load(&got.result), 0);
			assert_int_equal(hear_pattern(fd, (size_t)offsets[j],
						 (size_t)sizes[i]),
				sizes[i]);
		}
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_PEER);
}

static void a_file_and_then_a_close_deliver_all_of_it(void **state)
{
	struct part part = {0, (int64_t)LARGE};
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(send_and_close, &part));
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(ends_cleanly(fd));
	story_becomes("close:ours ");
	close(fd);
}

/* Ten requests in one packet: ten files. */
static size_t send_next_part(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	int64_t at = (*data - '0') * 800000;

	(void)len, (void)arg;
	send_part(conn, at, 800000);
	note_bytes(1);
	return 1;
}

static void pipelined_files_arrive_in_order(void **state)
{
	const struct evt_handlers handlers = {.on_data = send_next_part};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial();
	say(fd, "0123456789");
	assert_int_equal(hear_pattern(fd, 0, 8000000), 8000000);
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(atomic_load(&seen.calls), 10);
}

static void write_all_kinds(struct evt_conn *conn, void *arg)
{
	static const int64_t sizes[] = {10, 5000, 1, 70000, 300000, 16384};
	int64_t at = 0;
	int i;

	(void)arg;
	for (i = 0; at < (int64_t)LARGE; i++) {
		int64_t len = sizes[i % 6];

		if (len > (int64_t)LARGE - at)
			len = (int64_t)LARGE - at;
		if (i % 4 == 1)
			send_part(conn, at, len);
		else if (i % 4 == 2)
			evt_conn_write_ref(
				conn, large + at, (size_t)len, note_done, NULL);
		else
			evt_conn_write(conn, large + at, (size_t)len);
		at += len;
	}
}

static void files_copies_and_refs_arrive_in_order(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(write_all_kinds, NULL));
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	close(fd);
}

static void no_more_of_a_file_is_sent_than_was_said(void **state)
{
	struct part part = {100, 200};
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(send_and_close, &part));
	assert_int_equal(hear_pattern(fd, 100, 200), 200);
	assert_true(ends_cleanly(fd));
	assert_int_equal(lseek(source, 0, SEEK_CUR), LARGE); /* untouched */
	close(fd);
}

/* Whose descriptor it is */

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) != -1;
}

static void a_file_is_closed_when_it_is_sent(void **state)
{
	struct part part = {0, (int64_t)LARGE};
	int fd = client_of(NULL);
	int file;

	(void)state;
	assert_true(on_last_conn(send_part_task, &part));
	file = atomic_load(&got.fd);
	assert_true(is_open(file));
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_true(WAIT_FOR(!is_open(file)));
	assert_int_equal(nr_closed(), 0);
	close(fd);
}

static void a_file_of_no_bytes_is_closed_too(void **state)
{
	struct part part = {0, 0};
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(send_part_task, &part));
	assert_int_equal(atomic_load(&got.result), 0);
	assert_true(WAIT_FOR(!is_open(atomic_load(&got.fd))));
	assert_int_equal(atomic_load(&got.pending), 0);
	say(fd, "x");
	story_becomes("x ");
	close(fd);
}

static void files_that_are_not_sent_any_more_are_closed(void **state)
{
	struct part part = {0, (int64_t)LARGE};
	int fd = client_of(NULL);
	int i;

	(void)state;
	for (i = 0; i < 5; i++)
		assert_true(on_last_conn(send_part_task, &part));
	assert_true(on_last_conn(abort_task, NULL));
	story_becomes("close:ours ");
	assert_false(is_open(atomic_load(&got.fd)));
	close(fd);
}

/* What is refused */

static void send_what_is_none(struct evt_conn *conn, void *arg)
{
	int pair[2];
	int dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int bad = pipe2(pair, O_CLOEXEC) == -1;

	(void)arg;
	bad += evt_conn_sendfile(conn, pair[0], 0, 1) != -1 || errno != EINVAL;
	bad += evt_conn_sendfile(conn, dir, 0, 1) != -1 || errno != EINVAL;
	bad += evt_conn_sendfile(conn, -1, 0, 1) != -1 || errno != EBADF;
	bad += evt_conn_sendfile(conn, source, -1, 1) != -1 || errno != EINVAL;
	bad += evt_conn_sendfile(conn, source, 0, -1) != -1 || errno != EINVAL;
	bad += evt_conn_sendfile(conn, source, 2, INT64_MAX - 1) != -1 ||
		errno != EINVAL;
	bad += evt_conn_sendfile(NULL, source, 0, 1) != -1 || errno != EINVAL;
	bad += close(pair[0]) + close(pair[1]) + close(dir);
	atomic_store(&got.wrong, bad);
}

static void send_the_last_byte(struct evt_conn *conn, void *arg)
{
	int copy = dup(source);

	(void)arg;
	if (evt_conn_sendfile(conn, copy, INT64_MAX - 1, 1) == -1) {
		atomic_fetch_add(&got.wrong, 1);
		close(copy);
	}
}

/* Offset and length may reach as far as a file can; it is shorter. */
static void the_last_byte_that_a_file_can_have_may_be_asked_for(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	atomic_store(&got.wrong, 0);
	assert_true(on_last_conn(send_the_last_byte, NULL));
	assert_int_equal(atomic_load(&got.wrong), 0);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_FAILED);
	close(fd);
}

static void what_is_no_file_is_refused_and_stays_the_callers(void **state)
{
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(send_what_is_none, NULL));
	assert_int_equal(atomic_load(&got.wrong), 0);
	assert_true(is_open(source));
	assert_int_equal(log_lines(EVT_LOG_ERROR), 7);
	say(fd, "alive");
	story_becomes("alive ");
	close(fd);
}

/* Files that end early */

static void send_given(struct evt_conn *conn, void *arg)
{
	const struct part *part = arg;

	evt_conn_write(conn, "head", 4);
	atomic_store(&got.result,
		evt_conn_sendfile(
			conn, atomic_load(&got.fd), part->offset, part->len));
	evt_conn_write(conn, "tail", 4);
}

static void a_file_that_ends_early_fails_the_connection(void **state)
{
	struct part part = {0, 5001};
	size_t heard;
	int fd = client_of(NULL);

	(void)state;
	atomic_store(&got.fd, new_file(large, 5000));
	assert_true(on_last_conn(send_given, &part));
	assert_int_equal(atomic_load(&got.result), 0);
	story_becomes("close:failed ");
	assert_int_equal(last_error(), ENODATA);
	assert_int_not_equal(drain_to_end(fd, &heard), STILL_OPEN);
	assert_true(heard <= 4 + 5000);
	assert_false(is_open(atomic_load(&got.fd)));
	close(fd);
}

/* Half an answer and a clean end would pass for a whole one. */
static void a_failed_answer_does_not_end_as_a_whole_one_does(void **state)
{
	struct part part = {0, 5001};
	size_t heard;
	int fd = client_of(NULL);

	(void)state;
	atomic_store(&got.fd, new_file(large, 5000));
	assert_true(on_last_conn(send_given, &part));
	assert_int_equal(drain_to_end(fd, &heard), RESET_END);
	close(fd);
}

static void an_offset_behind_the_end_fails_the_connection(void **state)
{
	struct part part = {10000, 1};
	int fd = client_of(NULL);

	(void)state;
	atomic_store(&got.fd, new_file(large, 5000));
	assert_true(on_last_conn(send_given, &part));
	story_becomes("close:failed ");
	assert_int_equal(last_error(), ENODATA);
	close(fd);
}

static void a_file_that_is_cut_while_it_is_sent_fails_it(void **state)
{
	struct part part = {0, (int64_t)LARGE};
	size_t heard;
	int fd = client_of(NULL);
	int file = new_file(large, LARGE);

	(void)state;
	atomic_store(&got.fd, fcntl(file, F_DUPFD_CLOEXEC, 3));
	assert_true(on_last_conn(send_given, &part));
	story_becomes("");
	assert_int_equal(ftruncate(file, 10), 0);
	close(file);
	/* The kernel sends the pages themselves: what is cut off is zero. */
	assert_int_not_equal(drain_to_end(fd, &heard), STILL_OPEN);
	assert_true(heard < LARGE);
	story_becomes("close:failed ");
	assert_int_equal(last_error(), ENODATA);
	close(fd);
}

static void a_file_that_cannot_be_read_fails_it(void **state)
{
	struct part part = {0, 1};
	char path[] = "/tmp/test_conn_file.XXXXXX";
	int file = mkostemp(path, O_CLOEXEC);
	int fd = client_of(NULL);

	(void)state;
	assert_int_equal(write(file, "x", 1), 1);
	close(file);
	atomic_store(&got.fd, open(path, O_WRONLY | O_CLOEXEC));
	unlink(path);
	assert_true(on_last_conn(send_given, &part));
	story_becomes("close:failed ");
	assert_int_equal(last_error(), EBADF);
	close(fd);
}

/* Limits */

/* E05 */
static void a_file_counts_as_pending_but_not_against_max_output(void **state)
{
	const struct evt_listen_options options = {.max_output = 1000};
	struct part part = {0, (int64_t)LARGE};
	int fd = client_of(&options);

	(void)state;
	assert_true(on_last_conn(send_part_task, &part));
	assert_true(on_last_conn(send_part_task, &part));
	assert_int_equal(atomic_load(&got.result), 0);
	assert_true(atomic_load(&got.pending) > LARGE);
	assert_true(atomic_load(&got.pending) < 2 * LARGE);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	story_becomes("drain ");
	close(fd);
}

/* E05 */
static void while_a_file_waits_no_more_is_read(void **state)
{
	struct part part = {0, (int64_t)LARGE};
	int fd = client_of(NULL);

	(void)state;
	assert_true(on_last_conn(send_part_task, &part));
	say(fd, "x");
	catch_up();
	assert_int_equal(server_stats().bytes_in, 0);
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	story_becomes("drain x ");
	close(fd);
}

/* E01: sendfile(2) has no MSG_NOSIGNAL. */
static void clients_that_vanish_while_files_are_sent_do_no_harm(void **state)
{
	struct part part = {0, (int64_t)LARGE};
	int i;

	(void)state;
	signal(SIGPIPE, SIG_DFL);
	close(client_of(NULL));
	for (i = 0; i < 50; i++) {
		int fd = dial_and_wait();

		assert_true(on_last_conn(send_and_close, &part));
		close_with_reset(fd);
		assert_true(WAIT_FOR(nr_closed() == i + 2));
	}
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_RESET]), 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(files_of_each_size_from_each_offset_arrive),
		SERVER_TEST(a_file_and_then_a_close_deliver_all_of_it),
		SERVER_TEST(pipelined_files_arrive_in_order),
		SERVER_TEST(files_copies_and_refs_arrive_in_order),
		SERVER_TEST(no_more_of_a_file_is_sent_than_was_said),
		SERVER_TEST(a_file_is_closed_when_it_is_sent),
		SERVER_TEST(a_file_of_no_bytes_is_closed_too),
		SERVER_TEST(files_that_are_not_sent_any_more_are_closed),
		SERVER_TEST(
			the_last_byte_that_a_file_can_have_may_be_asked_for),
		SERVER_TEST(what_is_no_file_is_refused_and_stays_the_callers),
		SERVER_TEST(a_file_that_ends_early_fails_the_connection),
		SERVER_TEST(a_failed_answer_does_not_end_as_a_whole_one_does),
		SERVER_TEST(an_offset_behind_the_end_fails_the_connection),
		SERVER_TEST(a_file_that_is_cut_while_it_is_sent_fails_it),
		SERVER_TEST(a_file_that_cannot_be_read_fails_it),
		SERVER_TEST(
			a_file_counts_as_pending_but_not_against_max_output),
		SERVER_TEST(while_a_file_waits_no_more_is_read),
		SERVER_TEST(
			clients_that_vanish_while_files_are_sent_do_no_harm),
	};
	int failed;

	make_large();
	source = new_file(large, LARGE);
	failed = ledger_run("conn_file", tests);
	close(source);
	return free_large(failed);
}
