/*
 * test_conn_early.c: no timeout comes early, whenever it was set or a byte has
 * moved, and whatever happens to the clock.
 */
#include "timed_conns.h"

/* Never early */

#define NR 10 /* connections: the n-th has a deadline of n ms again and again */

static atomic_int_least64_t since_us[NR + 1];
static atomic_int early; /* deadlines that came before their time */

static void set_n_ms(struct evt_conn *conn, int n)
{
	atomic_store(&since_us[n], real_us());
	evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, n);
}

static void note_if_early(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	int n = (int)(intptr_t)evt_conn_data(conn);

	if (real_us() - atomic_load(&since_us[n]) < n * 1000)
		atomic_fetch_add(&early, 1);
	set_n_ms(conn, n);
	note_timeout(conn, reason, arg);
}

static void begin_n_ms(struct evt_conn *conn, void *arg)
{
	int n = nr_opened() + 1;

	evt_conn_set_data(conn, (void *)(intptr_t)n);
	set_n_ms(conn, n);
	note_open(conn, arg);
}

static void dial_each(int fds[NR])
{
	int i;

	atomic_store(&early, 0);
	for (i = 0; i < NR; i++)
		fds[i] = dial_and_wait();
}

static void close_each(int fds[NR])
{
	int i;

	for (i = 0; i < NR; i++)
		close(fds[i]);
}

/* Not even by a part of a millisecond. */
static void no_deadline_comes_early(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = begin_n_ms, .on_timeout = note_if_early};
	int fds[NR];

	(void)state;
	start_server(&handlers, NULL, 1);
	dial_each(fds);
	assert_true(WAIT_FOR(atomic_load(&seen.timeouts) >= 500));
	assert_int_equal(atomic_load(&early), 0);
	close_each(fds);
}

static size_t work_and_set(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	int64_t until = real_us() + 100000;

	(void)data, (void)arg;
	while (real_us() < until)
		;
	atomic_store(&set_us, real_us());
	evt_conn_set_data(conn, NULL);
	evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, 150);
	return len;
}

static void close_on_time(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	if (evt_conn_data(conn))
		note_if_early(conn, reason, arg);
	else
		evt_conn_close(conn);
}

/* "From now", not from when the callback began. The others have the worker
 * look at the time again and again. */
static void a_deadline_set_late_in_a_callback_counts_from_then(void **state)
{
	const struct evt_handlers handlers = {.on_open = begin_n_ms,
		.on_data = work_and_set,
		.on_timeout = close_on_time,
		.on_close = close_now};
	int fds[NR];

	(void)state;
	start_server(&handlers, NULL, 1);
	dial_each(fds);
	say(fds[5], "x");
	expect_end(EVT_REASON_DEADLINE);
	assert_true(closed_us - set_us >= 150000);
	close_each(fds);
}

/* Bytes that move either way */

static size_t work_and_answer(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	int64_t until = real_us() + 100000;

	if (data[0] != 'x')
		return echo_data(conn, data, len, arg);
	while (real_us() < until)
		;
	atomic_store(&set_us, real_us());
	evt_conn_printf(conn, "answer");
	return len;
}

/* The client has been idle since the answer, not since it asked. */
static void an_answer_that_took_long_counts_from_when_it_was_sent(void **state)
{
	const struct evt_handlers handlers = {
		.on_data = work_and_answer, .on_close = close_now};
	const struct evt_listen_options options = {.idle_ms = scaled(150)};
	int other;
	int fd;

	(void)state;
	start_server(&handlers, &options, 1);
	other = dial_and_wait();
	apply(EVT_TIMEOUT_IDLE, -1);
	fd = dial_and_wait();
	say(fd, "x");
	hears(fd, "answer");
	while (nr_closed() == 0) /* has the loop look at the time */
		assert_false(trickle(other, 1, 10));
	assert_true(closed_us - set_us >= scaled(150) * 1000);
	close(fd);
	close(other);
}

static struct evt_conn *pushed_to;
static struct event *pusher;

static void push(evutil_socket_t fd, short what, void *arg)
{
	const size_t *len = arg;
	static const char bytes[8192];

	(void)fd, (void)what;
	evt_conn_write(pushed_to, bytes, *len);
}

static void start_pushing(struct evt_conn *conn, void *arg)
{
	struct event_base *base = evt_worker_base(evt_conn_worker(conn));
	const struct timeval pace = {.tv_usec = scaled(50) * 1000};

	open_now(conn, NULL);
	pushed_to = conn;
	pusher = event_new(base, -1, EV_PERSIST, push, arg);
	if (pusher)
		event_add(pusher, &pace);
}

static void stop_pushing(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	event_free(pusher);
	note_close(conn, reason, arg);
}

/* True if a connection lives that a timer of the program's writes to. */
static bool lives_while_pushed(size_t len)
{
	const struct evt_handlers handlers = {
		.on_open = start_pushing, .on_close = stop_pushing};
	const struct evt_listen_options options = {.idle_ms = scaled(500)};
	char *bytes = malloc(len * 15);
	bool lives;
	int fd;

	start_server_at("tcp://127.0.0.1:0", &handlers, &options, 1, &len);
	fd = dial();
	lives = receive_all(fd, bytes, len * 15);
	close(fd);
	free(bytes);
	stop_server();
	return lives;
}

static void small_writes_of_a_programs_event_keep_it_alive(void **state)
{
	(void)state;
	assert_true(lives_while_pushed(10));
}

static void large_writes_of_a_programs_event_keep_it_alive(void **state)
{
	(void)state;
	assert_true(lives_while_pushed(8192));
}

/* Ends that are waited for */

static void close_it(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_close(conn);
}

/* A close that waits for the peer's end is no connection any more: a stop does
 * not wait for it long. */
static void a_client_that_never_ends_does_not_hold_up_a_stop(void **state)
{
	int64_t start;
	int fd;

	(void)state;
	start_server(&(struct evt_handlers){.on_data = echo_data}, NULL, 1);
	fd = dial_and_wait();
	assert_true(on_last_conn(close_it, NULL));
	assert_true(ends_cleanly(fd));
	expect_end(EVT_REASON_OURS);
	start = now_ms();
	stop_server();
	assert_true(now_ms() - start < 3000 * slowness());
	close(fd);
}

/* The clock */

/* J08 */
static void setting_the_clock_changes_no_timeout(void **state)
{
	static const long shifts[] = {86400, -86400};
	const struct evt_listen_options options = {
		.idle_ms = 300, .first_byte_ms = 100000};
	size_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		int fd;

		start_server(&plain_handlers, &options, 1);
		fd = dial_and_wait();
		atomic_store(&realtime_shift, shifts[i]);
		expect_end(EVT_REASON_IDLE);
		atomic_store(&realtime_shift, 0);
		assert_in_range(lived_ms(), 299, 3000 * slowness());
		close(fd);
	}
}

/* J09: longer than the wheel goes round; each timeout is told once. */
static void hours_asleep_end_an_idle_connection_once(void **state)
{
	int fd;

	(void)state;
	start_server(&plain_handlers, NULL, 1);
	fd = dial_and_wait();
	say(fd, "x");
	hears(fd, "x");
	atomic_store(&monotonic_shift, 5 * 3600);
	apply(EVT_TIMEOUT_DEADLINE, 100000); /* wakes the worker */
	say(fd, "y");
	(void)!WAIT_FOR(nr_closed() == 1 || atomic_load(&seen.bytes) == 2);
	if (nr_closed() == 0)
		hears(fd, "y");
	atomic_store(&monotonic_shift, 0);
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	stop_server();
	assert_int_equal(nr_closed(), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(no_deadline_comes_early),
		SERVER_TEST(a_deadline_set_late_in_a_callback_counts_from_then),
		SERVER_TEST(
			an_answer_that_took_long_counts_from_when_it_was_sent),
		SERVER_TEST(small_writes_of_a_programs_event_keep_it_alive),
		SERVER_TEST(large_writes_of_a_programs_event_keep_it_alive),
		SERVER_TEST(a_client_that_never_ends_does_not_hold_up_a_stop),
		SERVER_TEST(setting_the_clock_changes_no_timeout),
		SERVER_TEST(hours_asleep_end_an_idle_connection_once),
	};

	return ledger_run("conn_early", tests);
}
