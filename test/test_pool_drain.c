/*
 * test_pool_drain.c: what becomes of each connection when a pool stops: idle
 * ones, busy ones, those with output, with input, and those that linger.
 */
#include "pool_rig.h"

#include <stddef.h>
#include <sys/un.h>

static const struct evt_pool_options hasty = {
	.workers = WORKERS, .grace_ms = 100};
static const struct evt_pool_options patient = {
	.workers = WORKERS, .grace_ms = -1};

/* Waits for the end, and looks whether every connection has had its own. */
static void expect_a_balanced_end(void)
{
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(is_balanced());
	assert_true(refused(pool_port));
}

static void stop_and_expect_a_balanced_end(void)
{
	evt_pool_stop(pool);
	expect_a_balanced_end();
}

/* Handlers that are not done when they are told to stop. */
static const struct evt_handlers stubborn = {.on_open = note_open,
	.on_data = echo_data,
	.on_stop = note_stop,
	.on_close = note_close};

/* D05: without a limit of time. */
static void idle_connections_are_closed_at_once(void **state)
{
	int clients[50];
	int i;

	(void)state;
	start_pool(&patient, NULL, NULL);
	connect_clients(clients, 50);
	stop_and_expect_a_balanced_end();
	for (i = 0; i < 50; i++)
		assert_true(at_end(clients[i]));
	close_clients(clients, 50);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_STOPPED]), 50);
	assert_int_equal(stats_now().closed_stopped, 50);
	assert_true(log_has("of 50 connections 50 were idle"));
	free_pool();
}

/* D05 */
static void on_stop_is_called_once_for_each_connection(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_stop = close_at_stop,
		.on_close = note_close};
	int clients[50];

	(void)state;
	start_pool(&patient, &handlers, NULL);
	connect_clients(clients, 50);
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 50));
	close_clients(clients, 50);
	expect_a_balanced_end();
	assert_int_equal(atomic_load(&seen.told), 50);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_OURS]), 50);
	assert_true(log_has("of 50 connections 0 were idle, 50 finished"));
	free_pool();
}

/* D07 */
static void busy_ones_are_aborted_when_the_grace_is_over(void **state)
{
	int64_t begin;
	char byte;
	int clients[10];
	int i;

	(void)state;
	start_pool(&hasty, &stubborn, NULL);
	connect_clients(clients, 10);
	begin = now_ms();
	stop_and_expect_a_balanced_end();
	assert_in_range(now_ms() - begin, 100, 1000 * slowness());
	assert_int_equal(atomic_load(&seen.told), 10);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_STOPPED]), 10);
	for (i = 0; i < 10; i++) {
		assert_int_equal(recv(clients[i], &byte, 1, 0), -1);
		assert_int_equal(errno, ECONNRESET);
	}
	close_clients(clients, 10);
	assert_true(log_has("10 aborted"));
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	free_pool();
}

/* D07: they may go on as long as it takes. */
static void a_busy_one_that_finishes_ends_the_stop(void **state)
{
	char text[3];
	int client;

	(void)state;
	start_pool(&patient, &stubborn, NULL);
	connect_clients(&client, 1);
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(atomic_load(&seen.told) == 1));
	assert_true(send_all(client, "abc", 3) && receive_all(client, text, 3));
	shutdown(client, SHUT_WR);
	assert_true(at_end(client));
	expect_a_balanced_end();
	close(client);
	assert_int_equal(atomic_load(&seen.told), 1);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_PEER]), 1);
	assert_true(log_has("0 were idle, 1 finished, 0 aborted"));
	free_pool();
}

#define MUCH (4 << 20)

static void write_much_at_open(struct evt_conn *conn, void *arg)
{
	static char much[MUCH];

	evt_conn_write(conn, much, sizeof(much));
	note_open(conn, arg);
}

static size_t read_to_the_end(int client)
{
	static char bytes[65536];
	size_t sum = 0;
	ssize_t len;

	while ((len = recv(client, bytes, sizeof(bytes), 0)) > 0)
		sum += (size_t)len;
	return len == 0 ? sum : 0;
}

/* D05: what is unsent goes out before. */
static void a_slow_reader_gets_all_of_its_answer(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = write_much_at_open, .on_close = note_close};
	int client;

	(void)state;
	start_pool(&patient, &handlers, NULL);
	connect_clients(&client, 1);
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(refused(pool_port)));
	assert_int_equal(atomic_load(&seen.closed), 0);
	assert_int_equal(read_to_the_end(client), MUCH);
	close(client);
	expect_a_balanced_end();
	assert_true(log_has("0 were idle, 1 finished, 0 aborted"));
	free_pool();
}

/* D07 */
static void one_that_does_not_read_is_aborted_after_the_grace(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = write_much_at_open, .on_close = note_close};
	int client;

	(void)state;
	start_pool(&hasty, &handlers, NULL);
	connect_clients(&client, 1);
	stop_and_expect_a_balanced_end();
	close(client);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_STOPPED]), 1);
	assert_true(log_has("1 aborted"));
	free_pool();
}

static void pause_at_open(struct evt_conn *conn, void *arg)
{
	evt_conn_pause(conn);
	note_open(conn, arg);
}

static void resume_each(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_resume(conn);
}

static void resume_all(struct evt_worker *worker, void *arg)
{
	evt_worker_each_conn(worker, resume_each, arg);
}

/* D05: a paused connection is busy, and then it is not. */
static void a_paused_connection_is_waited_for_until_it_is_resumed(void **state)
{
	const struct evt_handlers handlers = {.on_open = pause_at_open,
		.on_data = echo_data,
		.on_close = note_close};
	char text[3];
	int client;

	(void)state;
	start_pool(&patient, &handlers, NULL);
	connect_clients(&client, 1);
	assert_true(send_all(client, "abc", 3));
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(refused(pool_port)));
	assert_int_equal(atomic_load(&seen.closed), 0);
	/* Once it is closed, no more is taken. */
	assert_true(evt_pool_post_all(pool, resume_all, NULL) > 0);
	assert_true(receive_all(client, text, 3));
	assert_true(at_end(client));
	close(client);
	expect_a_balanced_end();
	assert_true(log_has("0 were idle, 1 finished, 0 aborted"));
	free_pool();
}

static void pause_the_first(struct evt_conn *conn, void *arg)
{
	if (atomic_load(&seen.opened) == 0)
		evt_conn_pause(conn);
	note_open(conn, arg);
}

/* D05: though nothing has come for it. */
static void a_paused_connection_is_waited_for_though_it_is_empty(void **state)
{
	const struct evt_pool_options one = {.workers = 1, .grace_ms = -1};
	const struct evt_handlers handlers = {.on_open = pause_the_first,
		.on_data = echo_data,
		.on_close = note_close};
	char text[3];
	int clients[2];

	(void)state;
	start_pool(&one, &handlers, NULL);
	connect_clients(&clients[0], 1);
	connect_clients(&clients[1], 1);
	evt_pool_stop(pool);
	assert_true(at_end(clients[1])); /* so the worker has been told */
	assert_true(send_all(clients[0], "abc", 3));
	assert_int_equal(evt_pool_post_all(pool, resume_all, NULL), 1);
	assert_true(receive_all(clients[0], text, 3));
	assert_true(at_end(clients[0]));
	close_clients(clients, 2);
	expect_a_balanced_end();
	free_pool();
}

static size_t want_ten(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	return len < 10 ? 0 : echo_data(conn, data, len, arg);
}

/* D05: half a message is unread input. */
static void half_a_message_is_waited_for(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = want_ten,
		.on_close = note_close};
	char text[10];
	int client;

	(void)state;
	start_pool(&patient, &handlers, NULL);
	connect_clients(&client, 1);
	assert_true(send_all(client, "01234", 5));
	assert_true(WAIT_FOR(stats_now().bytes_in == 5));
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(refused(pool_port)));
	assert_true(send_all(client, "56789", 5));
	assert_true(receive_all(client, text, 10));
	assert_memory_equal(text, "0123456789", 10);
	assert_true(at_end(client));
	close(client);
	expect_a_balanced_end();
	free_pool();
}

/* D05: what the kernel has already got was sent before the stop. */
static void what_lay_in_the_kernel_is_answered_before(void **state)
{
	const struct evt_pool_options one = {.workers = 1, .grace_ms = -1};
	char text[3];
	int clients[20];
	int i;

	(void)state;
	start_pool(&one, NULL, NULL);
	connect_clients(clients, 20);
	hold_worker(0);
	for (i = 0; i < 20; i++)
		assert_true(send_all(clients[i], "abc", 3));
	evt_pool_stop(pool);
	open_gate();
	for (i = 0; i < 20; i++) {
		assert_true(receive_all(clients[i], text, 3));
		assert_true(at_end(clients[i]));
	}
	close_clients(clients, 20);
	expect_a_balanced_end();
	free_pool();
}

static size_t just_count_bytes(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn;
	(void)data;
	(void)arg;
	atomic_fetch_add(&seen.bytes, (int)len);
	return len;
}

/* Fills what there is between the two: how many bytes that is. */
static int send_what_goes(int fd)
{
	static char bytes[65536];
	int sum = 0;
	ssize_t len;

	while ((len = send(fd, bytes, sizeof(bytes),
			MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
		sum += (int)len;
	return sum;
}

static int unix_client(const char *name)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int room = 8 << 20;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "%s", name);
	assert_int_equal(
		connect(fd, (struct sockaddr *)&addr,
			(socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				strlen(name))),
		0);
	return fd;
}

/* D05: more of it than is read in one turn. */
static void all_that_lay_in_the_kernel_is_read_before(void **state)
{
	const struct evt_pool_options one = {.workers = 1, .grace_ms = -1};
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = just_count_bytes,
		.on_close = note_close};
	char url[64];
	int client;
	int sent;

	(void)state;
	make_pool(&one, &handlers, NULL);
	snprintf(url, sizeof(url), "unix:@evt-pool-stop-%d", (int)getpid());
	assert_non_null(evt_listen(pool, url, &handlers, NULL, NULL));
	assert_int_equal(evt_pool_start(pool), 0);
	client = unix_client(url + strlen("unix:@"));
	assert_true(WAIT_FOR(atomic_load(&seen.opened) == 1));
	hold_worker(0);
	sent = send_what_goes(client);
	evt_pool_stop(pool);
	open_gate();
	assert_int_equal(evt_pool_wait(pool), 0);
	close(client);
	assert_int_equal(atomic_load(&seen.bytes), sent);
	free_pool();
}

static void answer_and_close(struct evt_conn *conn, void *arg)
{
	evt_conn_write(conn, "bye", 3);
	evt_conn_close(conn);
	note_open(conn, arg);
}

/* D05: it has had its answer, and keeps its end of the stream. */
static void a_client_that_lingers_holds_up_a_stop_for_a_moment_only(
	void **state)
{
	const struct evt_handlers handlers = {
		.on_open = answer_and_close, .on_close = note_close};
	int64_t begin;
	int client;
	char text[3];

	(void)state;
	start_pool(&patient, &handlers, NULL);
	connect_clients(&client, 1);
	assert_true(receive_all(client, text, 3));
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 1));
	begin = now_ms();
	stop_and_expect_a_balanced_end();
	assert_in_range(now_ms() - begin, 0, 2500 * slowness());
	close(client);
	free_pool();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(idle_connections_are_closed_at_once),
		LEDGER_TEST(on_stop_is_called_once_for_each_connection),
		LEDGER_TEST(busy_ones_are_aborted_when_the_grace_is_over),
		LEDGER_TEST(a_busy_one_that_finishes_ends_the_stop),
		LEDGER_TEST(a_slow_reader_gets_all_of_its_answer),
		LEDGER_TEST(one_that_does_not_read_is_aborted_after_the_grace),
		LEDGER_TEST(
			a_paused_connection_is_waited_for_until_it_is_resumed),
		LEDGER_TEST(
			a_paused_connection_is_waited_for_though_it_is_empty),
		LEDGER_TEST(half_a_message_is_waited_for),
		LEDGER_TEST(what_lay_in_the_kernel_is_answered_before),
		LEDGER_TEST(all_that_lay_in_the_kernel_is_read_before),
		LEDGER_TEST(
			a_client_that_lingers_holds_up_a_stop_for_a_moment_only),
	};

	return ledger_run("pool_drain", tests);
}
