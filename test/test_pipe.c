/*
 * test_pipe.c: records through a pipe: whole or not at all, in order, bounded,
 * however the kernel cuts what is read, and with bytes in it that are not ours.
 */
/* wrap: read write pipe2 fcntl */
#include "rig.h"
#include "inject.h"
#include "../evt-kept-internal.h"
#include "../evt-log-internal.h"
#include "../evt-pool-internal.h"

#define RECORD    ((int)sizeof(struct evt_record))
#define PER_BATCH ((int)(EVT_BATCH_BYTES / sizeof(struct evt_record)))

/* Calls that fail, or do a part of what was asked. */

static struct inject reading;
static struct inject writing;
static struct inject piping;
static struct inject setting;
static struct inject moving;    /* above the standard descriptors */
static atomic_int most_read;    /* 0: all */
static atomic_int most_written; /* 0: all */

ssize_t __real_read(int fd, void *data, size_t len);
ssize_t __real_write(int fd, const void *data, size_t len);
int __real_pipe2(int fds[2], int flags);
int __real_fcntl(int fd, int cmd, ...);

ssize_t __wrap_read(int fd, void *data, size_t len)
{
	size_t most = (size_t)atomic_load(&most_read);

	if (injected(&reading))
		return -1;
	return __real_read(fd, data, most > 0 && most < len ? most : len);
}

ssize_t __wrap_write(int fd, const void *data, size_t len)
{
	size_t most = (size_t)atomic_load(&most_written);

	if (injected(&writing))
		return -1;
	return __real_write(fd, data, most > 0 && most < len ? most : len);
}

int __wrap_pipe2(int fds[2], int flags)
{
	return injected(&piping) ? -1 : __real_pipe2(fds, flags);
}

int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	if ((cmd == F_SETPIPE_SZ && injected(&setting)) ||
		(cmd == F_DUPFD_CLOEXEC && injected(&moving)))
		return -1;
	return __real_fcntl(fd, cmd, arg);
}

/* Helpers */

static struct evt_record numbered_record(int number)
{
	return (struct evt_record){.kind = EVT_RECORD_CONN,
		.events = (int16_t)number,
		.fd = number,
		.arg = numbered(number)};
}

static int put_number(const struct evt_pipe *pipe, int number)
{
	struct evt_record record = numbered_record(number);

	return evt_pipe_put_(pipe, &record);
}

/* Its number; -1 if it is not such a record at all, 0 for none. */
static int number_of(const struct evt_record *record)
{
	if (!record)
		return 0;
	if (record->kind != EVT_RECORD_CONN ||
		record->events != (int16_t)record->fd ||
		record->arg != numbered(record->fd) || record->task)
		return -1;
	return record->fd;
}

/* The next number, however many reads that takes; 0 when it is empty. */
static int take_number(const struct evt_pipe *pipe, struct evt_batch *batch)
{
	struct evt_record *record = evt_batch_next_(batch);

	while (!record && evt_pipe_take_(pipe, batch) == 1)
		record = evt_batch_next_(batch);
	return number_of(record);
}

static int capacity(const struct evt_pipe *pipe)
{
	return fcntl(pipe->write_fd, F_GETPIPE_SZ) / RECORD;
}

/* One record */

static void a_record_arrives_as_it_was_put(void **state)
{
	struct evt_record record = {.kind = EVT_RECORD_TASK,
		.events = -1,
		.fd = 0x7fffffff,
		.generation = UINT32_MAX,
		.queued_us = UINT32_MAX,
		.arg = &record};
	struct evt_batch batch = {0};
	struct evt_record *got;
	struct evt_pipe pipe;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	assert_int_equal(evt_pipe_put_(&pipe, &record), 0);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), 1);
	got = evt_batch_next_(&batch);
	assert_non_null(got);
	assert_memory_equal(got, &record, sizeof(record));
	assert_null(evt_batch_next_(&batch));
	evt_pipe_close_(&pipe);
}

/* C11 */
static void a_record_divides_a_page_and_is_written_whole(void **state)
{
	(void)state;
	assert_int_equal(4096 % RECORD, 0);
	assert_int_equal(EVT_BATCH_BYTES % RECORD, 0);
	assert_true(RECORD <= PIPE_BUF);
}

/* C11 */
static void a_pipe_holds_8192_records(void **state)
{
	struct evt_pipe pipe;
	int taken = 0;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	while (taken < 100000 && put_number(&pipe, taken) == 0)
		taken++;
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(taken, capacity(&pipe));
	if (fcntl(pipe.write_fd, F_GETPIPE_SZ) == 256 * 1024)
		assert_int_equal(taken, 8192);
	evt_pipe_close_(&pipe);
}

static void a_pipe_neither_blocks_nor_reaches_a_child(void **state)
{
	struct evt_batch batch = {0};
	struct evt_pipe pipe;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	assert_true(fcntl(pipe.read_fd, F_GETFD, 0) & FD_CLOEXEC);
	assert_true(fcntl(pipe.write_fd, F_GETFD, 0) & FD_CLOEXEC);
	assert_true(pipe.read_fd > STDERR_FILENO);
	assert_true(pipe.write_fd > STDERR_FILENO);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), -1);
	assert_int_equal(errno, EAGAIN);
	evt_pipe_close_(&pipe);
}

static void no_pipe_to_be_had_is_told_and_leaves_nothing(void **state)
{
	struct evt_pipe pipe;

	(void)state;
	inject(&piping, EMFILE, 0, 1);
	assert_int_equal(evt_pipe_open_(&pipe), -1);
	assert_int_equal(errno, EMFILE);
	assert_int_equal(pipe.read_fd, -1);
	assert_int_equal(pipe.write_fd, -1);
	errno = EPROTO;
	evt_pipe_close_(&pipe);
	assert_int_equal(errno, EPROTO);
}

/* Where standard descriptors are closed both ends are moved, or neither. */
static void a_pipe_of_which_an_end_cannot_be_moved_is_none(void **state)
{
	int stdio[2] = {dup(STDIN_FILENO), dup(STDERR_FILENO)};
	struct evt_pipe pipe;
	int fds = count_fds();
	int results[2];
	int i;

	(void)state;
	close(STDIN_FILENO);
	close(STDERR_FILENO);
	for (i = 0; i < 2; i++) {
		inject(&moving, EMFILE, i, 1);
		results[i] = evt_pipe_open_(&pipe);
		evt_pipe_close_(&pipe);
	}
	dup2(stdio[0], STDIN_FILENO);
	dup2(stdio[1], STDERR_FILENO);
	assert_int_equal(results[0], -1);
	assert_int_equal(results[1], -1);
	assert_int_equal(count_fds(), fds);
	close(stdio[0]);
	close(stdio[1]);
}

/* A18 */
static void a_pipe_that_cannot_be_enlarged_will_do(void **state)
{
	struct evt_pipe pipe;
	int taken = 0;

	(void)state;
	inject(&setting, EPERM, 0, 1);
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	while (taken < 100000 && put_number(&pipe, taken) == 0)
		taken++;
	assert_int_equal(taken, capacity(&pipe));
	assert_in_range(taken, 128, 2048);
	evt_pipe_close_(&pipe);
}

/* Writing */

/* C09 */
static void an_interrupted_write_is_repeated(void **state)
{
	struct evt_batch batch = {0};
	struct evt_pipe pipe;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	inject(&writing, EINTR, 0, 5);
	assert_int_equal(put_number(&pipe, 7), 0);
	assert_int_equal(atomic_load(&writing.calls), 6);
	assert_int_equal(take_number(&pipe, &batch), 7);
	assert_int_equal(take_number(&pipe, &batch), 0);
	evt_pipe_close_(&pipe);
}

/* C09 */
static void a_short_write_is_an_error(void **state)
{
	struct evt_pipe pipe;
	int len;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	for (len = 1; len < RECORD; len++) {
		atomic_store(&most_written, len);
		errno = 0;
		assert_int_equal(put_number(&pipe, 1), -1);
		assert_int_equal(errno, EIO);
	}
	atomic_store(&most_written, 0);
	evt_pipe_close_(&pipe);
}

/* C09 */
static void other_errors_of_a_write_are_told(void **state)
{
	static const int errors[] = {EAGAIN, EBADF, EPIPE, EIO, ENOSPC};
	struct evt_pipe pipe;
	size_t i;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		inject(&writing, errors[i], 0, 1);
		assert_int_equal(put_number(&pipe, 1), -1);
		assert_int_equal(errno, errors[i]);
	}
	evt_pipe_close_(&pipe);
}

static void one_record_of_room_is_room_for_one(void **state)
{
	struct evt_batch batch = {0};
	struct evt_pipe pipe;
	int i;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	for (i = 1; i <= capacity(&pipe); i++)
		assert_int_equal(put_number(&pipe, i), 0);
	assert_int_equal(put_number(&pipe, i), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), 1);
	assert_int_equal(put_number(&pipe, i), 0);
	for (i = 1; i <= capacity(&pipe) + 1; i++)
		assert_int_equal(take_number(&pipe, &batch), i);
	assert_int_equal(take_number(&pipe, &batch), 0);
	evt_pipe_close_(&pipe);
}

/* Reading */

/* C10 */
static void a_read_of_any_length_gives_whole_records(void **state)
{
	struct evt_pipe pipe;
	int len;
	int i;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	for (len = 1; len <= 3 * RECORD; len++) {
		struct evt_batch batch = {0};

		atomic_store(&most_read, len);
		for (i = 1; i <= 20; i++)
			assert_int_equal(put_number(&pipe, i), 0);
		for (i = 1; i <= 20; i++)
			assert_int_equal(take_number(&pipe, &batch), i);
		assert_int_equal(take_number(&pipe, &batch), 0);
	}
	atomic_store(&most_read, 0);
	evt_pipe_close_(&pipe);
}

/* C10 */
static void a_record_split_anywhere_is_put_together(void **state)
{
	struct evt_pipe pipe;
	int first;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	for (first = 1; first < 2 * RECORD; first++) {
		struct evt_batch batch = {0};

		put_number(&pipe, 1);
		put_number(&pipe, 2);
		atomic_store(&most_read, first);
		assert_int_equal(evt_pipe_take_(&pipe, &batch), 1);
		assert_int_equal(batch.fill, first);
		if (first >= RECORD)
			assert_int_equal(number_of(evt_batch_next_(&batch)), 1);
		assert_null(evt_batch_next_(&batch));
		atomic_store(&most_read, 0);
		if (first < RECORD)
			assert_int_equal(take_number(&pipe, &batch), 1);
		assert_int_equal(take_number(&pipe, &batch), 2);
		assert_int_equal(take_number(&pipe, &batch), 0);
	}
	evt_pipe_close_(&pipe);
}

/* C10 */
static void random_reads_and_writes_keep_the_stream(void **state)
{
	struct evt_batch batch = {0};
	unsigned seed = 12345;
	struct evt_pipe pipe;
	int put = 0;
	int got = 0;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	while (got < 20000) {
		int burst = (int)(seed = seed * 1103515245 + 12345) >> 16 & 63;

		while (put < 20000 && burst-- > 0)
			put += put_number(&pipe, put + 1) == 0;
		atomic_store(&most_read, 1 + (int)(seed >> 20 & 255));
		if (put > got)
			assert_int_equal(take_number(&pipe, &batch), ++got);
	}
	atomic_store(&most_read, 0);
	assert_int_equal(take_number(&pipe, &batch), 0);
	evt_pipe_close_(&pipe);
}

/* C10 */
static void an_interrupted_read_is_repeated(void **state)
{
	struct evt_batch batch = {0};
	struct evt_pipe pipe;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	put_number(&pipe, 3);
	inject(&reading, EINTR, 0, 5);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), 1);
	assert_int_equal(atomic_load(&reading.calls), 6);
	assert_int_equal(number_of(evt_batch_next_(&batch)), 3);
	evt_pipe_close_(&pipe);
}

/* C10 */
static void a_part_is_kept_while_there_is_nothing_more(void **state)
{
	struct evt_batch batch = {0};
	struct evt_pipe pipe;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	put_number(&pipe, 3);
	atomic_store(&most_read, 10);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), 1);
	atomic_store(&most_read, 0);
	inject(&reading, EAGAIN, 0, 2);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), -1);
	assert_int_equal(errno, EAGAIN);
	assert_null(evt_batch_next_(&batch));
	assert_int_equal(evt_pipe_take_(&pipe, &batch), -1);
	assert_int_equal(take_number(&pipe, &batch), 3);
	evt_pipe_close_(&pipe);
}

/* C10 */
static void one_read_brings_a_page_of_records(void **state)
{
	struct evt_batch batch = {0};
	struct evt_pipe pipe;
	int i;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	for (i = 1; i <= PER_BATCH + 1; i++)
		put_number(&pipe, i);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), 1);
	for (i = 1; i <= PER_BATCH; i++)
		assert_int_equal(number_of(evt_batch_next_(&batch)), i);
	assert_null(evt_batch_next_(&batch));
	assert_int_equal(take_number(&pipe, &batch), PER_BATCH + 1);
	evt_pipe_close_(&pipe);
}

/* Ending */

static void what_was_put_is_read_before_the_end(void **state)
{
	struct evt_batch batch = {0};
	struct evt_pipe pipe;
	int i;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	for (i = 1; i <= 500; i++)
		put_number(&pipe, i);
	assert_int_equal(evt_pipe_close_write_(&pipe), 0);
	for (i = 1; i <= 500; i++)
		assert_int_equal(take_number(&pipe, &batch), i);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), 0);
	assert_int_equal(evt_pipe_take_(&pipe, &batch), 0);
	evt_pipe_close_(&pipe);
}

static void closing_twice_closes_nobody_elses(void **state)
{
	struct evt_pipe pipe;
	int fd;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	evt_pipe_close_(&pipe);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	evt_pipe_close_(&pipe);
	assert_int_equal(evt_pipe_close_write_(&pipe), 0);
	assert_int_equal(close(fd), 0);
}

/* C13 */
static void closing_tells_that_somebody_else_had_closed_it(void **state)
{
	struct evt_pipe pipe;

	(void)state;
	assert_int_equal(evt_pipe_open_(&pipe), 0);
	close(pipe.write_fd);
	assert_int_equal(evt_pipe_close_write_(&pipe), -1);
	assert_int_equal(pipe.write_fd, -1);
	evt_pipe_close_(&pipe);
}

/* What is kept before there are workers */

/* C07 */
static void what_is_kept_comes_back_in_order(void **state)
{
	struct evt_kept kept = {.pipe = {-1, -1}};
	struct evt_record record;
	int i;

	(void)state;
	assert_false(evt_kept_take_(&kept, &record));
	for (i = 1; i <= 300; i++) {
		record = numbered_record(i);
		assert_int_equal(evt_kept_put_(&kept, &record), 0);
	}
	for (i = 1; i <= 300; i++) {
		assert_true(evt_kept_take_(&kept, &record));
		assert_int_equal(number_of(&record), i);
	}
	assert_false(evt_kept_take_(&kept, &record));
	evt_kept_close_(&kept);
}

/* C07 */
static void no_more_is_kept_than_a_pipe_holds(void **state)
{
	struct evt_kept kept = {.pipe = {-1, -1}};
	struct evt_record record = numbered_record(1);
	int taken = 0;
	int error;

	(void)state;
	while ((error = evt_kept_put_(&kept, &record)) == 0 && taken < 100000)
		taken++;
	assert_int_equal(error, EAGAIN);
	assert_int_equal(taken, capacity(&kept.pipe));
	while (evt_kept_take_(&kept, &record))
		taken--;
	assert_int_equal(taken, 0);
	evt_kept_close_(&kept);
}

/* C07 */
static void keeping_without_a_pipe_says_why_and_may_be_tried_again(void **state)
{
	struct evt_kept kept = {.pipe = {-1, -1}};
	struct evt_record record = numbered_record(5);

	(void)state;
	inject(&piping, ENFILE, 0, 1);
	assert_int_equal(evt_kept_put_(&kept, &record), ENFILE);
	assert_false(evt_kept_take_(&kept, &record));
	assert_int_equal(evt_kept_put_(&kept, &record), 0);
	assert_true(evt_kept_take_(&kept, &record));
	assert_int_equal(number_of(&record), 5);
	evt_kept_close_(&kept);
}

/* Foreign bytes in a worker's pipe */

static atomic_int inbox; /* the write end of the worker's pipe */

static void tell_inbox(sockfd_t conn, short evt, void *arg)
{
	atomic_store(&inbox, evt_worker_self()->pipe.write_fd);
	just_count(conn, evt, arg);
}

/* A pool of one worker that has told its pipe. */
static void serve_with_a_known_inbox(void)
{
	assert_int_equal(serve(NULL, tell_inbox, 1), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	/* The limiter may know the line from an earlier test. */
	evt_log_(EVT_LOG_INFO, "it is served");
	log_forget();
}

/* True if the worker serves what is dispatched now. */
static bool still_serves(void)
{
	int before = atomic_load(&tally.served);

	return evt_thread_dispatch(NO_FD, EV_READ, NULL) == 0 &&
		WAIT_FOR(atomic_load(&tally.served) == before + 1);
}

/* C12 */
static void foreign_bytes_in_a_pipe_are_told_and_passed_over(void **state)
{
	struct evt_record text;

	(void)state;
	memcpy(&text, "GET /index.html HTTP/1.0\r\n\r\nabcd", sizeof(text));
	serve_with_a_known_inbox();
	assert_int_equal(
		write(atomic_load(&inbox), &text, sizeof(text)), sizeof(text));
	assert_true(still_serves());
	assert_true(log_has("foreign bytes"));
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	evt_server_stop();
}

/* C12 */
static void a_record_of_zeros_is_foreign(void **state)
{
	const struct evt_record zeros = {0};

	(void)state;
	serve_with_a_known_inbox();
	assert_int_equal(write(atomic_load(&inbox), &zeros, sizeof(zeros)),
		sizeof(zeros));
	assert_true(still_serves());
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	evt_server_stop();
}

/* C12 */
static void many_foreign_records_do_not_flood_the_log(void **state)
{
	char bytes[4096];
	int i;

	(void)state;
	memset(bytes, 0xa5, sizeof(bytes));
	serve_with_a_known_inbox();
	for (i = 0; i < 10; i++)
		assert_int_equal(
			write(atomic_load(&inbox), bytes, sizeof(bytes)),
			sizeof(bytes));
	assert_true(still_serves());
	assert_true(log_lines(EVT_LOG_WARN) <= 100);
	evt_server_stop();
}

/* C12 */
static void a_few_foreign_bytes_do_not_keep_the_worker_from_its_work(
	void **state)
{
	int i;

	(void)state;
	serve_with_a_known_inbox();
	assert_int_equal(write(atomic_load(&inbox), "hello", 5), 5);
	for (i = 0; i < 10; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 11));
	assert_true(log_has("foreign bytes"));
	evt_server_stop();
}

/* C12 */
static void a_stop_gets_past_foreign_bytes(void **state)
{
	(void)state;
	serve_with_a_known_inbox();
	assert_int_equal(write(atomic_load(&inbox), "hello", 5), 5);
	evt_server_stop();
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), -1);
	assert_int_equal(errno, EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_record_arrives_as_it_was_put),
		LEDGER_TEST(a_record_divides_a_page_and_is_written_whole),
		LEDGER_TEST(a_pipe_holds_8192_records),
		LEDGER_TEST(a_pipe_neither_blocks_nor_reaches_a_child),
		LEDGER_TEST(no_pipe_to_be_had_is_told_and_leaves_nothing),
		LEDGER_TEST(a_pipe_of_which_an_end_cannot_be_moved_is_none),
		LEDGER_TEST(a_pipe_that_cannot_be_enlarged_will_do),
		LEDGER_TEST(an_interrupted_write_is_repeated),
		LEDGER_TEST(a_short_write_is_an_error),
		LEDGER_TEST(other_errors_of_a_write_are_told),
		LEDGER_TEST(one_record_of_room_is_room_for_one),
		LEDGER_TEST(a_read_of_any_length_gives_whole_records),
		LEDGER_TEST(a_record_split_anywhere_is_put_together),
		LEDGER_TEST(random_reads_and_writes_keep_the_stream),
		LEDGER_TEST(an_interrupted_read_is_repeated),
		LEDGER_TEST(a_part_is_kept_while_there_is_nothing_more),
		LEDGER_TEST(one_read_brings_a_page_of_records),
		LEDGER_TEST(what_was_put_is_read_before_the_end),
		LEDGER_TEST(closing_twice_closes_nobody_elses),
		LEDGER_TEST(closing_tells_that_somebody_else_had_closed_it),
		LEDGER_TEST(what_is_kept_comes_back_in_order),
		LEDGER_TEST(no_more_is_kept_than_a_pipe_holds),
		LEDGER_TEST(
			keeping_without_a_pipe_says_why_and_may_be_tried_again),
		LEDGER_TEST(foreign_bytes_in_a_pipe_are_told_and_passed_over),
		LEDGER_TEST(a_record_of_zeros_is_foreign),
		LEDGER_TEST(many_foreign_records_do_not_flood_the_log),
		LEDGER_TEST(
			a_few_foreign_bytes_do_not_keep_the_worker_from_its_work),
		LEDGER_TEST(a_stop_gets_past_foreign_bytes),
	};

	return ledger_run("pipe", tests);
}
