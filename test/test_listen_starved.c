/*
 * test_listen_starved.c: connections without memory: accepted, in a crowd, with
 * a rest that is kept, with output that waits, with timeouts, going out.
 */
#include "torture.h"

#define BIG ((size_t)2 << 20)

/* Connections */

/* K01 K02 */
static void a_client_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.prepare = prepare_server, .attempt = dial_and_ask};

	(void)state;
	assert_true(torture(&scenario) >= 2);
}

static void no_task(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
}

/* K01: whoever is sent away is told of, whichever way it came. */
static void a_client_without_memory_has_a_line(void **state)
{
	struct evt_listen_options options = {0};

	(void)state;
	for (; options.reuseport < 2; options.reuseport++) {
		start_with(&echo_handlers, &options);
		assert_true(on_worker(0, no_task, NULL)); /* it listens */
		fail_allocation(1, true);
		assert_int_equal(dial_and_ask(), ENDED);
		fail_allocation(0, false);
		assert_true(WAIT_FOR(log_has("no memory for a connection")));
		assert_int_equal(end_server().dropped, 1);
		log_forget();
	}
}

static enum outcome dial_seventy(void)
{
	enum outcome worst = SERVED;
	int fds[70];
	int i;

	for (i = 0; i < 70; i++)
		fds[i] = connect_to(server.port);
	for (i = 0; i < 70; i++) {
		enum outcome outcome = ask(fds[i]);

		worst = outcome > worst ? outcome : worst;
	}
	for (i = 0; i < 70; i++)
		close(fds[i]);
	return worst;
}

/* K01 K02: the tables of connections grow. */
static void a_crowd_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.prepare = prepare_server, .attempt = dial_seventy};

	(void)state;
	assert_true(torture(&scenario) >= 3);
}

/* Echoes when all of it is there: the rest is kept meanwhile. */
static size_t echo_whole(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	if (len < 20000)
		return 0;
	return echo_data(conn, data, len, arg);
}

static void prepare_whole(void)
{
	static const struct evt_handlers handlers = {.on_data = echo_whole};

	start_with(&handlers, NULL);
}

static enum outcome ask_in_pieces(void)
{
	static const char piece[4000];
	static char answer[20000];
	int fd = connect_to(server.port);
	enum outcome outcome = ENDED;
	size_t before = server_stats().bytes_in;
	int closed = nr_closed();
	int i;

	for (i = 0; i < 5 && send_all(fd, piece, sizeof(piece)); i++)
		WAIT_FOR(server_stats().bytes_in >=
				before + sizeof(piece) * (size_t)(i + 1) ||
			nr_closed() > closed || server_stats().dropped > 0);
	if (i == 5 && receive_all(fd, answer, sizeof(answer)))
		outcome = SERVED;
	else if (fd != -1 && !at_end(fd))
		outcome = HUNG;
	close(fd);
	return outcome;
}

static void expect_an_answer(enum outcome outcome)
{
	(void)outcome;
	EXPECT(ask_in_pieces() == SERVED);
}

/* K01 K02 */
static void a_message_in_pieces_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = prepare_whole,
		.attempt = ask_in_pieces,
		.confirm = expect_an_answer};

	(void)state;
	assert_true(torture(&scenario) >= 3);
}

static char big[BIG];

static atomic_int gave_up; /* an errno */

static size_t answer_big(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	if (evt_conn_write(conn, big, BIG) == -1 ||
		evt_conn_printf(conn, "%s", "end") == -1 ||
		evt_conn_write_ref(conn, big, BIG, note_done, NULL) == -1) {
		atomic_store(&gave_up, errno);
		evt_conn_abort(conn);
	}
	note_bytes(len);
	return len;
}

static void prepare_big(void)
{
	static const struct evt_handlers handlers = {.on_data = answer_big};

	fill_pattern(big, 0, BIG);
	start_with(&handlers, NULL);
}

/* Reads when nothing more goes into the kernel. */
static enum outcome hear_big(void)
{
	int fd = connect_to(server.port);
	enum outcome outcome = ENDED;
	char end[3];

	atomic_store(&gave_up, 0);
	if (fd != -1 && send_all(fd, "?", 1)) {
		WAIT_FOR(atomic_load(&seen.calls) > 0 || nr_closed() > 0 ||
			server_stats().dropped > 0);
		if (hear_pattern(fd, 0, BIG) == BIG &&
			receive_all(fd, end, 3) &&
			hear_pattern(fd, 0, BIG) == BIG)
			outcome = SERVED;
		else if (!at_end(fd))
			outcome = HUNG;
	}
	close(fd);
	errno = atomic_load(&gave_up);
	return errno ? REFUSED : outcome;
}

/* Each done is called once, if its write was taken. */
static void expect_big(enum outcome outcome)
{
	int dones = atomic_load(&seen.dones);

	EXPECT(outcome != SERVED || WAIT_FOR(atomic_load(&seen.dones) == 1));
	EXPECT(dones <= 1);
	EXPECT(hear_big() == SERVED);
}

/* K01 K02 */
static void a_slow_reader_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = prepare_big,
		.attempt = hear_big,
		.confirm = expect_big};

	(void)state;
	assert_true(torture(&scenario) >= 2);
}

static void prepare_impatient(void)
{
	static const struct evt_listen_options options = {
		.first_byte_ms = 10, .idle_ms = 10};

	start_with(&echo_handlers, &options);
}

/* Says nothing: that is to have an end, whatever there is no memory for. */
static enum outcome wait_for_the_end(void)
{
	int fd = connect_to(server.port);
	enum outcome outcome = HUNG;

	if (at_end(fd))
		outcome = nr_opened() > 0 &&
				atomic_load(&seen.reasons[EVT_REASON_FAILED]) ==
					0
			? SERVED
			: ENDED;
	close(fd);
	return outcome;
}

/* K01 K02 */
static void a_timeout_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.prepare = prepare_impatient, .attempt = wait_for_the_end};

	(void)state;
	assert_true(torture(&scenario) >= 2);
}

/* Connecting out: to our own listener. */

static struct {
	atomic_int opened;
	atomic_int closed;
	atomic_int heard;
	atomic_int error;
	char url[64];
} out;

static void ask_out(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_fetch_add(&out.opened, 1);
	evt_conn_write(conn, "e", 1);
}

static size_t hear_out(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	atomic_fetch_add(&out.heard, 1);
	evt_conn_close(conn);
	return len;
}

static void end_out(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)conn, (void)reason, (void)arg;
	atomic_fetch_add(&out.closed, 1);
}

static const struct evt_handlers asking = {
	.on_open = ask_out, .on_data = hear_out, .on_close = end_out};

static void connect_out(struct evt_worker *worker, void *arg)
{
	(void)arg;
	if (!evt_connect(worker, out.url, &asking, NULL, NULL))
		atomic_store(&out.error, errno);
}

static enum outcome ask_through_a_worker(void)
{
	atomic_store(&out.opened, 0);
	atomic_store(&out.closed, 0);
	atomic_store(&out.heard, 0);
	atomic_store(&out.error, 0);
	snprintf(out.url, sizeof(out.url), "tcp://127.0.0.1:%d", server.port);
	if (!on_worker(0, connect_out, NULL))
		return HUNG;
	if (!WAIT_FOR(atomic_load(&out.error) || atomic_load(&out.closed)))
		return HUNG;
	errno = atomic_load(&out.error);
	if (errno)
		return REFUSED;
	return atomic_load(&out.heard) ? SERVED : ENDED;
}

static void expect_one_to_go_out(enum outcome outcome)
{
	(void)outcome;
	EXPECT(ask_through_a_worker() == SERVED);
	EXPECT(serves(server.port));
}

/* K01 K02 */
static void connecting_out_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = prepare_server,
		.attempt = ask_through_a_worker,
		.confirm = expect_one_to_go_out};

	(void)state;
	assert_true(torture(&scenario) >= 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_client_survives_each_allocation),
		SERVER_TEST(a_client_without_memory_has_a_line),
		SERVER_TEST(a_crowd_survives_each_allocation),
		SERVER_TEST(a_message_in_pieces_survives_each_allocation),
		SERVER_TEST(a_slow_reader_survives_each_allocation),
		SERVER_TEST(a_timeout_survives_each_allocation),
		SERVER_TEST(connecting_out_survives_each_allocation),
	};

	return ledger_run("listen_starved", tests);
}
