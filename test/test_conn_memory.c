/*
 * test_conn_memory.c: each allocation of a connection's life fails once, and
 * from then on: the one call gives ENOMEM, or the one connection fails; what
 * was taken arrives or is told of, and the next connection is as good as any.
 */
#include "server_rig.h"

#include <fcntl.h>

#define MOST 60 /* allocations of one scenario */

static int source = -1; /* a file of LARGE bytes of the pattern */

static void open_source(void)
{
	char path[] = "/tmp/test_conn_memory.XXXXXX";

	source = mkostemp(path, O_CLOEXEC);
	unlink(path);
	if (source == -1 || write(source, large, LARGE) != (ssize_t)LARGE)
		abort();
}

static struct {
	atomic_int refs;     /* taken */
	atomic_size_t bytes; /* taken */
	atomic_int wrong;    /* errors but for ENOMEM and ENOTCONN */
} taken;

/* Notes whether len bytes were taken. */
static bool took(int result, size_t len)
{
	if (result == 0)
		atomic_fetch_add(&taken.bytes, len);
	else if (errno != ENOMEM && errno != ENOTCONN)
		atomic_fetch_add(&taken.wrong, 1);
	return result == 0;
}

static void put_ref(struct evt_conn *conn, const char *data, size_t len)
{
	if (took(evt_conn_write_ref(conn, data, len, note_done, NULL), len))
		atomic_fetch_add(&taken.refs, 1);
}

static void put_file(struct evt_conn *conn, size_t len)
{
	int fd = fcntl(source, F_DUPFD_CLOEXEC, 3);

	if (!took(evt_conn_sendfile(conn, fd, 0, (int64_t)len), len))
		close(fd);
}

/* All that allocates, while nothing waits and while something does. */
static void write_all(struct evt_conn *conn)
{
	took(evt_conn_write(conn, large, 100), 100);
	put_ref(conn, large, 100);
	took(evt_conn_printf(conn, "%5000d", 1), 5000);
	put_ref(conn, large, 5000);
	put_file(conn, 5000);
	took(evt_conn_write(conn, large, LARGE), LARGE);
	took(evt_conn_write(conn, large, 100000), 100000);
	put_ref(conn, large, 100);
	put_ref(conn, large, 10000);
	put_file(conn, 10000);
	took(evt_conn_write(conn, large, 100), 100);
}

/* Keeps what it gets until there are 20,000 bytes; then answers and closes. */
static size_t keep_and_answer(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	if (len < 20000)
		return 0;
	write_all(conn);
	evt_conn_close(conn);
	return len;
}

static const struct evt_handlers handlers = {.on_data = keep_and_answer};

static void forget_taken(void)
{
	atomic_store(&taken.refs, 0);
	atomic_store(&taken.bytes, 0);
	atomic_store(&taken.wrong, 0);
}

/* One connection from its first byte to its end; *heard: what came. */
static void converse(int fd, size_t *heard)
{
	size_t before = server_stats().bytes_in;
	size_t at;

	for (at = 0; at < 20000; at += 5000) {
		if (!send_all(fd, large + at, 5000))
			break; /* it has failed */
		(void)WAIT_FOR(server_stats().bytes_in >= before + at + 5000 ||
			nr_closed() > 0);
	}
	assert_int_not_equal(drain_to_end(fd, heard), STILL_OPEN);
}

static void good_as_any(void)
{
	int fd = dial();
	size_t heard;

	forget_taken();
	converse(fd, &heard);
	close(fd);
	assert_int_equal(heard, atomic_load(&taken.bytes));
	assert_true(heard > LARGE);
}

/* False once the n-th allocation is not reached any more. */
static bool survives(int n, bool from_then_on)
{
	bool was_reached;
	size_t heard;
	int fd;

	forget_taken();
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	fail_allocation(n, from_then_on);
	converse(fd, &heard);
	was_reached = fault_reached();
	fail_allocation(0, false);
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(atomic_load(&taken.wrong), 0);
	assert_int_equal(atomic_load(&seen.dones), atomic_load(&taken.refs));
	if (last_reason() == EVT_REASON_FAILED)
		assert_int_equal(last_error(), ENOMEM);
	else
		assert_int_equal(heard, atomic_load(&taken.bytes));
	good_as_any();
	stop_server();
	assert_int_equal(nr_closed(), 2);
	return was_reached;
}

/* K01 */
static void each_allocation_may_fail_once(void **state)
{
	int n = 1;

	(void)state;
	while (survives(n, false) && n < MOST)
		n++;
	assert_in_range(n, 5, MOST - 1);
}

/* K01 */
static void each_allocation_may_fail_and_all_that_follow(void **state)
{
	int n = 1;

	(void)state;
	while (survives(n, true) && n < MOST)
		n++;
	assert_in_range(n, 5, MOST - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(each_allocation_may_fail_once),
		SERVER_TEST(each_allocation_may_fail_and_all_that_follow),
	};
	int failed;

	make_large();
	open_source();
	failed = ledger_run("conn_memory", tests);
	close(source);
	return free_large(failed);
}
