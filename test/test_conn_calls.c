/*
 * test_conn_calls.c: the system calls of a connection: how many there are, and
 * what becomes of the bytes when one is interrupted, takes less than it was
 * given, or fails.
 */
/* wrap: send sendmsg sendfile recv */
#include "server_rig.h"
#include "inject.h"

#include <fcntl.h>
#include <sys/sendfile.h>

/* The wrapped calls, as the worker makes them: those of clients pass. */

ssize_t __real_send(int fd, const void *data, size_t len, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_sendfile(int to, int from, off_t *offset, size_t len);
ssize_t __real_recv(int fd, void *data, size_t len, int flags);

static struct inject on_send = {.name = "send"}; /* sendmsg, too */
static struct inject on_sendfile = {.name = "sendfile"};
static struct inject on_recv = {.name = "recv"};

static atomic_size_t most;     /* bytes that a call moves; 0: as many as may */
static atomic_size_t moved;    /* bytes that were sent in all */
static atomic_bool pretend;    /* all is taken, and goes nowhere */
static atomic_bool stutter;    /* each second send gives EAGAIN */
static atomic_int sends;       /* send and sendmsg */
static atomic_int raising;     /* of them without MSG_NOSIGNAL */
static atomic_int last_flags;  /* of the last */
static atomic_int last_parts;  /* of the last */
static atomic_uintptr_t later; /* where its last part lay */

static size_t limited(size_t len)
{
	size_t limit = atomic_load(&most);

	return limit > 0 && limit < len ? limit : len;
}

static ssize_t note_moved(ssize_t sent)
{
	if (sent > 0)
		atomic_fetch_add(&moved, (size_t)sent);
	return sent;
}

/* True if it is to fail. */
static bool note_send(int flags, int parts, const void *last)
{
	int before = atomic_fetch_add(&sends, 1);

	if (!(flags & MSG_NOSIGNAL))
		atomic_fetch_add(&raising, 1);
	atomic_store(&last_flags, flags);
	atomic_store(&last_parts, parts);
	atomic_store(&later, (uintptr_t)last);
	if (injected(&on_send))
		return true;
	errno = EAGAIN;
	return atomic_load(&stutter) && before % 2 == 0;
}

ssize_t __wrap_send(int fd, const void *data, size_t len, int flags)
{
	if (!evt_worker_self())
		return __real_send(fd, data, len, flags);
	if (note_send(flags, 1, data))
		return -1;
	if (atomic_load(&pretend))
		return (ssize_t)len;
	return note_moved(__real_send(fd, data, limited(len), flags));
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	const struct iovec *parts = msg->msg_iov;
	int nr = (int)msg->msg_iovlen;
	size_t len = 0;
	int i;

	if (!evt_worker_self())
		return __real_sendmsg(fd, msg, flags);
	if (note_send(flags, nr, nr > 0 ? parts[nr - 1].iov_base : NULL))
		return -1;
	for (i = 0; i < nr; i++)
		len += parts[i].iov_len;
	if (atomic_load(&pretend))
		return (ssize_t)len;
	if (atomic_load(&most) == 0 || nr == 0)
		return note_moved(__real_sendmsg(fd, msg, flags));
	return note_moved(__real_send(
		fd, parts[0].iov_base, limited(parts[0].iov_len), flags));
}

ssize_t __wrap_sendfile(int to, int from, off_t *offset, size_t len)
{
	if (injected(&on_sendfile))
		return -1;
	return note_moved(__real_sendfile(to, from, offset, limited(len)));
}

ssize_t __wrap_recv(int fd, void *data, size_t len, int flags)
{
	if (!evt_worker_self())
		return __real_recv(fd, data, len, flags);
	if (injected(&on_recv))
		return -1;
	return __real_recv(fd, data, limited(len), flags);
}

static atomic_bool enough; /* of a stream without end */

static int end_injections(void **state)
{
	end_injection(&on_send);
	end_injection(&on_sendfile);
	end_injection(&on_recv);
	atomic_store(&most, 0);
	atomic_store(&stutter, false);
	atomic_store(&pretend, false);
	atomic_store(&enough, true);
	return server_close(state);
}

#define CALL_TEST(fn)                                             \
	{                                                         \
#fn, fn, ledger_open, end_injections, (void *)#fn \
	}

static void forget_calls(void)
{
	atomic_store(&sends, 0);
	atomic_store(&moved, 0);
	atomic_store(&raising, 0);
}

/* A client that has been accepted, of a server that tells what happens. */
static int client(void)
{
	const struct evt_handlers handlers = {
		.on_data = tell_data, .on_close = tell_close};

	start_server(&handlers, NULL, 1);
	forget_calls();
	return dial_and_wait();
}

/* How many calls there are */

static size_t answer_one(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)len, (void)arg;
	evt_conn_write(conn, data, 1);
	return 1;
}

static void sixteen_requests_are_answered_with_one_send(void **state)
{
	const struct evt_handlers handlers = {.on_data = answer_one};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	forget_calls();
	say(fd, "0123456789abcdef");
	hears(fd, "0123456789abcdef");
	assert_int_equal(atomic_load(&sends), 1);
	close(fd);
}

static atomic_int sends_inside;

static void write_small_and_large(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, large, 100);
	evt_conn_write(conn, large + 100, 100);
	atomic_store(&sends_inside, atomic_load(&sends));
	evt_conn_write(conn, large + 200, 50000);
}

static void a_large_write_goes_uncopied_behind_what_was_gathered(void **state)
{
	int fd = client();

	(void)state;
	assert_true(on_last_conn(write_small_and_large, NULL));
	assert_int_equal(hear_pattern(fd, 0, 50200), 50200);
	assert_int_equal(atomic_load(&sends_inside), 0);
	assert_int_equal(atomic_load(&sends), 1);
	assert_int_equal(atomic_load(&last_parts), 2);
	assert_true(atomic_load(&later) == (uintptr_t)(large + 200));
	close(fd);
}

static void ref_small_and_large(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, large, 200);
	evt_conn_write_ref(conn, large + 200, 50000, note_done, NULL);
}

static void a_large_ref_goes_uncopied_behind_what_was_gathered(void **state)
{
	int fd = client();

	(void)state;
	assert_true(on_last_conn(ref_small_and_large, NULL));
	assert_int_equal(hear_pattern(fd, 0, 50200), 50200);
	assert_int_equal(atomic_load(&sends), 1);
	assert_int_equal(atomic_load(&last_parts), 2);
	assert_true(atomic_load(&later) == (uintptr_t)(large + 200));
	assert_true(WAIT_FOR(atomic_load(&seen.dones) == 1));
	close(fd);
}

static void write_next(void *conn)
{
	if (!atomic_load(&enough))
		evt_conn_write_ref(conn, large, 100, write_next, conn);
}

static void start_stream(struct evt_conn *conn, void *arg)
{
	(void)arg;
	write_next(conn);
}

/* A peer that always takes all must not have its worker for itself. */
static void a_done_that_writes_again_leaves_others_their_turn(void **state)
{
	int fd = client();

	(void)state;
	atomic_store(&enough, false);
	atomic_store(&pretend, true);
	assert_true(on_last_conn(start_stream, NULL));
	catch_up();
	atomic_store(&enough, true);
	close(fd);
}

/* Files */

/* A file of len bytes of the pattern from from on, open to be read. */
static int new_file(size_t from, size_t len)
{
	char path[] = "/tmp/test_conn_calls.XXXXXX";
	int fd = mkstemp(path);

	if (fd == -1)
		return -1;
	unlink(path);
	if (write(fd, large + from, len) != (ssize_t)len)
		abort();
	return fd;
}

static void put_file(struct evt_conn *conn, size_t from, size_t len)
{
	int fd = new_file(from, len);

	if (evt_conn_sendfile(conn, fd, 0, (int64_t)len) == -1)
		close(fd);
}

static void head_and_empty_file(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, "head", 4);
	put_file(conn, 0, 0);
}

/* With MSG_MORE the kernel would keep it back for 200 ms. */
static void an_empty_file_does_not_keep_back_what_is_before_it(void **state)
{
	int fd = client();

	(void)state;
	assert_true(on_last_conn(head_and_empty_file, NULL));
	hears(fd, "head");
	assert_false(atomic_load(&last_flags) & MSG_MORE);
	close(fd);
}

static void head_and_file(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, large, 100);
	put_file(conn, 100, 5000);
}

static void what_is_before_a_file_is_sent_together_with_it(void **state)
{
	int fd = client();

	(void)state;
	assert_true(on_last_conn(head_and_file, NULL));
	assert_int_equal(hear_pattern(fd, 0, 5100), 5100);
	assert_int_equal(atomic_load(&sends), 1);
	assert_true(atomic_load(&last_flags) & MSG_MORE);
	close(fd);
}

/* Less than was given */

#define MIXED 9000

static atomic_int refs; /* that were taken, of those with a done */

static void put_ref(struct evt_conn *conn, size_t from, size_t len)
{
	if (evt_conn_write_ref(conn, large + from, len, note_done, NULL) == 0)
		atomic_fetch_add(&refs, 1);
}

/* MIXED bytes of the pattern, in pieces of each kind. */
static void write_mixed(struct evt_conn *conn, void *arg)
{
	atomic_store(&refs, 0);
	evt_conn_write(conn, large, 10);
	put_ref(conn, 10, 90);
	put_file(conn, 100, 900);
	evt_conn_write(conn, large + 1000, 100);
	put_ref(conn, 1100, 4900);
	evt_conn_write(conn, large + 6000, 900);
	put_file(conn, 6900, 100);
	put_file(conn, 7000, 1000);
	evt_conn_write(conn, large + 8000, 1000);
	if (arg)
		evt_conn_close(conn);
}

static void mixed_arrives(int fd)
{
	assert_true(on_last_conn(write_mixed, fd ? large : NULL));
	assert_int_equal(hear_pattern(fd, 0, MIXED), MIXED);
	assert_true(ends_cleanly(fd));
	story_becomes("close:ours ");
	assert_int_equal(atomic_load(&seen.dones), 2);
	assert_int_equal(atomic_load(&refs), 2);
	assert_int_equal(atomic_load(&raising), 0);
	assert_int_equal(server_stats().bytes_out, MIXED);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	close(fd);
}

static void pieces_of_each_kind_arrive_in_order(void **state)
{
	(void)state;
	mixed_arrives(client());
}

/* E10 */
static void sent_one_byte_at_a_time_they_arrive_in_order(void **state)
{
	int fd = client();

	(void)state;
	atomic_store(&most, 1);
	mixed_arrives(fd);
	assert_true(atomic_load(&sends) >= MIXED - 2000);
}

/* E10 */
static void with_eagain_at_each_second_call_they_arrive_in_order(void **state)
{
	int fd = client();

	(void)state;
	atomic_store(&most, 7);
	atomic_store(&stutter, true);
	mixed_arrives(fd);
}

/* E10 */
static void interrupted_calls_are_repeated(void **state)
{
	int fd = client();

	(void)state;
	inject(&on_send, EINTR, 0, 50);
	inject(&on_sendfile, EINTR, 0, 50);
	inject(&on_recv, EINTR, 0, 50);
	say(fd, "x");
	story_becomes("x ");
	forget_story();
	mixed_arrives(fd);
}

/* E10: a short read means that no more was there (epoll(7)), so that it is the
 * peer who has to be slow. */
static void one_byte_at_a_time_is_received_in_order(void **state)
{
	const struct evt_handlers handlers = {.on_data = echo_data};
	size_t i;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	for (i = 0; i < 3000; i++) {
		assert_true(send_all(fd, large + i, 1));
		assert_int_equal(hear_pattern(fd, i, 1), 1);
	}
	close(fd);
}

/* E10 */
static void after_an_early_eagain_of_recv_the_next_byte_brings_all(void **state)
{
	int fd = client();

	(void)state;
	inject(&on_recv, EAGAIN, 0, 1);
	say(fd, "abc");
	assert_true(WAIT_FOR(atomic_load(&on_recv.times) == 0));
	say(fd, "d");
	story_becomes("abcd ");
	close(fd);
}

/* Errors */

static void tried_again_after(int error)
{
	int fd = client();

	inject(&on_send, error, 1, 3);
	inject(&on_sendfile, error, 1, 3);
	mixed_arrives(fd);
	assert_true(atomic_load(&on_send.calls) < 100); /* it does not spin */
	stop_server();
}

/* E09 */
static void a_kernel_short_of_memory_is_asked_again(void **state)
{
	(void)state;
	tried_again_after(ENOBUFS);
	tried_again_after(ENOMEM);
}

static void write_small(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, "small", 5);
}

static void write_small_and_close(struct evt_conn *conn, void *arg)
{
	write_small(conn, arg);
	evt_conn_close(conn);
}

/* E09 */
static void a_close_waits_until_a_kernel_short_of_memory_has_some(void **state)
{
	int fd = client();

	(void)state;
	inject(&on_send, ENOBUFS, 0, 2);
	assert_true(on_last_conn(write_small_and_close, NULL));
	hears(fd, "small");
	assert_true(ends_cleanly(fd));
	story_becomes("close:ours ");
	assert_int_equal(atomic_load(&on_send.calls), 3);
	close(fd);
}

static const struct {
	int error;
	enum evt_reason reason;
} ends[] = {
	{EPIPE, EVT_REASON_RESET},
	{ECONNRESET, EVT_REASON_RESET},
	{ETIMEDOUT, EVT_REASON_RESET},
	{EHOSTUNREACH, EVT_REASON_RESET},
	{ENETUNREACH, EVT_REASON_RESET},
	{EIO, EVT_REASON_FAILED},
	{EINVAL, EVT_REASON_FAILED},
	{EACCES, EVT_REASON_FAILED},
};

#define NR_ENDS (sizeof(ends) / sizeof(ends[0]))

static void ended_as(size_t i)
{
	assert_true(WAIT_FOR(nr_closed() == 1));
	stop_server();
	assert_int_equal(nr_closed(), 1);
	assert_int_equal(last_reason(), ends[i].reason);
	assert_int_equal(last_error(), ends[i].error);
}

/* E09 */
static void an_error_of_recv_ends_it_with_that_errno(void **state)
{
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < NR_ENDS; i++) {
		fd = client();
		inject(&on_recv, ends[i].error, 0, 1);
		say(fd, "x");
		ended_as(i);
		close(fd);
	}
}

/* E09 */
static void an_error_of_send_ends_it_with_that_errno(void **state)
{
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < NR_ENDS; i++) {
		fd = client();
		inject(&on_send, ends[i].error, 0, 1);
		assert_true(on_last_conn(write_small, NULL));
		ended_as(i);
		close(fd);
	}
}

static atomic_int result;

static void write_mixed_and_more(struct evt_conn *conn, void *arg)
{
	write_mixed(conn, arg);
	atomic_store(&result, evt_conn_write(conn, large, 50000));
}

/* E09: nothing is leaked, each done is called, whichever call it is. */
static void an_error_at_any_send_ends_it_and_calls_each_done(void **state)
{
	int i;
	int fd;

	(void)state;
	for (i = 0; i < 8; i++) {
		fd = client();
		atomic_store(&most, 1500);
		inject(&on_send, ECONNRESET, i, 1);
		assert_true(on_last_conn(write_mixed_and_more, NULL));
		ended_as(1);
		atomic_store(&most, 0);
		assert_int_equal(atomic_load(&seen.dones), atomic_load(&refs));
		close(fd);
	}
}

/* E09 */
static void an_error_at_any_sendfile_ends_it_and_calls_each_done(void **state)
{
	int i;
	int fd;

	(void)state;
	for (i = 0; i < 3; i++) {
		fd = client();
		inject(&on_sendfile, EIO, i, 1);
		assert_true(on_last_conn(write_mixed_and_more, NULL));
		ended_as(5);
		assert_int_equal(atomic_load(&seen.dones), atomic_load(&refs));
		close(fd);
	}
}

static void write_large_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, large, LARGE);
}

/* E09: what went before it is counted. */
static void what_was_sent_before_an_error_is_counted(void **state)
{
	int fd = client();
	size_t heard;

	(void)state;
	assert_true(on_last_conn(write_large_task, NULL));
	atomic_store(&most, 1000);
	inject(&on_send, EIO, 50, 1);
	assert_int_not_equal(drain_to_end(fd, &heard), STILL_OPEN);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_true(atomic_load(&moved) < LARGE);
	assert_int_equal(server_stats().bytes_out, atomic_load(&moved));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CALL_TEST(sixteen_requests_are_answered_with_one_send),
		CALL_TEST(a_large_write_goes_uncopied_behind_what_was_gathered),
		CALL_TEST(a_large_ref_goes_uncopied_behind_what_was_gathered),
		CALL_TEST(a_done_that_writes_again_leaves_others_their_turn),
		CALL_TEST(an_empty_file_does_not_keep_back_what_is_before_it),
		CALL_TEST(what_is_before_a_file_is_sent_together_with_it),
		CALL_TEST(pieces_of_each_kind_arrive_in_order),
		CALL_TEST(sent_one_byte_at_a_time_they_arrive_in_order),
		CALL_TEST(with_eagain_at_each_second_call_they_arrive_in_order),
		CALL_TEST(interrupted_calls_are_repeated),
		CALL_TEST(one_byte_at_a_time_is_received_in_order),
		CALL_TEST(
			after_an_early_eagain_of_recv_the_next_byte_brings_all),
		CALL_TEST(a_kernel_short_of_memory_is_asked_again),
		CALL_TEST(
			a_close_waits_until_a_kernel_short_of_memory_has_some),
		CALL_TEST(an_error_of_recv_ends_it_with_that_errno),
		CALL_TEST(an_error_of_send_ends_it_with_that_errno),
		CALL_TEST(an_error_at_any_send_ends_it_and_calls_each_done),
		CALL_TEST(an_error_at_any_sendfile_ends_it_and_calls_each_done),
		CALL_TEST(what_was_sent_before_an_error_is_counted),
	};

	make_large();
	return free_large(ledger_run("conn_calls", tests));
}
