/*
 * test_listen_when.c: listening and ceasing to at any time: before the pool
 * runs, while it does, from its callbacks, and when it stops.
 */
#include "listen_rig.h"

/* When to listen */

static void a_client_that_came_before_the_run_is_served(void **state)
{
	int client;

	(void)state;
	make_pool(2);
	listen_at(ANY_PORT, NULL);
	client = dial();
	say(client, "early");
	assert_int_equal(nr_opened(), 0);
	run_pool();
	hears(client, "early");
	close(client);
	end_server();
}

static void a_running_pool_listens_at_once(void **state)
{
	int first;

	(void)state;
	start_echo(NULL, 2);
	first = server.port;
	assert_true(serves(first));
	listen_at(ANY_PORT, NULL);
	assert_true(serves(server.port));
	assert_int_not_equal(server.port, first);
	assert_true(serves(first));
	assert_int_equal(end_server().opened, 3);
}

static void a_pool_without_a_listener_runs_and_gets_one(void **state)
{
	(void)state;
	make_pool(1);
	run_pool();
	listen_at("tcp://localhost:0", NULL);
	listen_at(ANY_PORT, NULL);
	assert_true(serves(server.port));
	end_server();
}

/* Listens in a callback: its port, or -errno. */
static atomic_int late_port;

static void listen_late(void)
{
	struct evt_listener *listener = evt_listen(
		server.pool, ANY_PORT, &echo_handlers, NULL, NULL);

	atomic_store(
		&late_port, listener ? evt_listener_port(listener) : -errno);
}

static size_t listen_on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	listen_late();
	return echo_data(conn, data, len, arg);
}

static void a_handler_may_listen(void **state)
{
	const struct evt_handlers handlers = {.on_data = listen_on_data};

	(void)state;
	start_server(&handlers, NULL, 2);
	assert_true(serves(server.port));
	assert_true(serves(atomic_load(&late_port)));
	end_server();
}

static int listen_in_choose(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)pool, (void)peer, (void)arg;
	listen_late();
	return 1;
}

static void choose_may_listen(void **state)
{
	const struct evt_listen_options options = {
		.choice = EVT_CHOICE_FUNCTION, .choose = listen_in_choose};

	(void)state;
	start_echo(&options, 2);
	assert_true(serves(server.port));
	assert_true(serves(atomic_load(&late_port)));
	end_server();
}

static void listen_after_the_stop(struct evt_conn *conn, void *arg)
{
	(void)arg;
	listen_late();
	evt_conn_close(conn);
}

static void a_pool_that_stops_listens_no_more(void **state)
{
	const struct evt_handlers handlers = {
		.on_data = echo_data, .on_stop = listen_after_the_stop};
	int client;
	int fds;

	(void)state;
	start_server(&handlers, NULL, 1);
	client = dial_and_wait();
	log_forget();
	evt_pool_stop(server.pool);
	assert_true(at_end(client));
	close(client);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	assert_int_equal(atomic_load(&late_port), -ECANCELED);
	fds = count_fds();
	listen_late();
	assert_int_equal(atomic_load(&late_port), -ECANCELED);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	end_server();
}

/* Answers with the byte that is its listener's argument. */
static size_t answer(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data;
	evt_conn_write(conn, arg, 1);
	return len;
}

static void each_listener_has_its_handlers_and_argument(void **state)
{
	static char names[] = "abcdefgh";
	struct evt_handlers handlers = {.on_data = answer};
	int ports[8];
	int client;
	char byte;
	int i;

	(void)state;
	make_pool(3);
	for (i = 0; i < 8; i++)
		ports[i] = evt_listener_port(evt_listen(
			server.pool, ANY_PORT, &handlers, NULL, &names[i]));
	handlers.on_data = NULL; /* it was copied */
	run_pool();
	for (i = 0; i < 8; i++) {
		client = connect_to(ports[i]);
		assert_true(send_all(client, "?", 1));
		assert_true(receive_all(client, &byte, 1));
		assert_int_equal(byte, names[i]);
		close(client);
	}
	end_server();
}

/* Ceasing to */

static void closed_before_the_run_its_port_is_free(void **state)
{
	struct evt_listener *listener;
	int port;

	(void)state;
	make_pool(1);
	listener = listen_at(ANY_PORT, NULL);
	port = server.port;
	listen_at(ANY_PORT, NULL);
	evt_listener_close(listener);
	assert_true(refused(port));
	evt_listener_close(listener);
	run_pool();
	assert_true(serves(server.port));
	assert_true(refused(port));
	assert_int_equal(evt_listener_port(listener), port);
	end_server();
}

static void what_a_closed_listener_accepted_lives_on(void **state)
{
	int client;

	(void)state;
	start_echo(NULL, 2);
	client = dial();
	assert_true(echoes(client));
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(refused(server.port)));
	evt_listener_close(server.listener);
	assert_true(echoes(client));
	assert_int_equal(evt_listener_port(server.listener), server.port);
	listen_at(ANY_PORT, NULL);
	assert_true(serves(server.port));
	assert_true(echoes(client));
	close(client);
	assert_int_equal(end_server().closed_peer, 2);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

static size_t wait_and_echo(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	if (*data == 'w')
		wait_at_gate();
	return echo_data(conn, data, len, arg);
}

/* The worker hears in one wait that it is closed and, after that, that it has a
 * client. */
static void what_is_closed_accepts_nobody_in_the_same_wait(void **state)
{
	static const struct evt_handlers waiting = {.on_data = wait_and_echo};
	static const struct evt_listen_options its_own = {.reuseport = 1};
	struct evt_listener *other;
	int guest;
	int late;

	(void)state;
	shut_gate();
	start_echo(&its_own, 1);
	other = evt_listen(server.pool, ANY_PORT, &waiting, NULL, NULL);
	assert_non_null(other);
	guest = connect_to(evt_listener_port(other));
	assert_true(echoes(guest)); /* it is not being accepted any more */
	assert_true(send_all(guest, "w", 1));
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	evt_listener_close(server.listener);
	late = connect_to(server.port);
	assert_int_not_equal(late, -1);
	open_gate();
	assert_true(at_end(late));
	assert_false(log_has("accept"));
	close(late);
	close(guest);
	assert_int_equal(end_server().accepted, 1);
}

static void a_listener_may_be_closed_after_the_pool(void **state)
{
	(void)state;
	start_echo(NULL, 1);
	evt_pool_stop(server.pool);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	assert_true(refused(server.port));
	evt_listener_close(server.listener);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	end_server();
}

static size_t close_on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	evt_listener_close(server.listener);
	evt_listener_close(server.listener);
	return echo_data(conn, data, len, arg);
}

/* B17 */
static void a_handler_may_close_its_listener(void **state)
{
	const struct evt_handlers handlers = {.on_data = close_on_data};
	int client;

	(void)state;
	start_server(&handlers, NULL, 1);
	client = dial();
	assert_true(echoes(client));
	assert_true(WAIT_FOR(refused(server.port)));
	assert_true(echoes(client));
	close(client);
	end_server();
}

static int close_in_choose(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)pool, (void)peer, (void)arg;
	evt_listener_close(server.listener);
	return 0;
}

/* B17: the client that is being placed is served all the same. */
static void choose_may_close_its_listener(void **state)
{
	const struct evt_listen_options options = {
		.choice = EVT_CHOICE_FUNCTION, .choose = close_in_choose};

	(void)state;
	start_echo(&options, 2);
	assert_true(serves(server.port));
	assert_true(WAIT_FOR(refused(server.port)));
	end_server();
}

static int stop_in_choose(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)peer, (void)arg;
	evt_pool_stop(pool);
	return 0;
}

/* B17 */
static void choose_may_stop_the_pool(void **state)
{
	const struct evt_listen_options options = {
		.choice = EVT_CHOICE_FUNCTION, .choose = stop_in_choose};
	struct evt_stats stats;
	int client;

	(void)state;
	start_echo(&options, 2);
	client = dial();
	assert_true(at_end(client));
	close(client);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	stats = end_server();
	assert_int_equal(stats.opened, 1);
	assert_int_equal(stats.closed_stopped, 1);
}

static void listeners_come_and_go_without_a_trace(void **state)
{
	int fds;
	int i;

	(void)state;
	start_echo(NULL, 2);
	assert_true(serves(server.port));
	assert_true(WAIT_FOR(nr_closed() == 1));
	fds = count_fds();
	for (i = 0; i < 100; i++) {
		struct evt_listen_options options = {.reuseport = i % 2};
		struct evt_listener *listener = listen_at(ANY_PORT, &options);

		assert_true(i % 5 || serves(server.port));
		evt_listener_close(listener);
	}
	assert_true(WAIT_FOR(count_fds() == fds));
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	end_server();
}

/* Accepting those who have spoken */

static void with_speak_first_who_is_silent_is_not_accepted(bool reuseport)
{
	const struct evt_listen_options options = {
		.speak_first = 1, .reuseport = reuseport};
	int silent;

	start_echo(&options, 1);
	silent = dial();
	assert_true(serves(server.port));
	assert_true(serves(server.port));
	assert_int_equal(nr_opened(), 2);
	say(silent, "at last");
	hears(silent, "at last");
	assert_int_equal(nr_opened(), 3);
	close(silent);
	assert_int_equal(end_server().opened, 3);
}

static void who_is_to_speak_first_is_accepted_when_he_does(void **state)
{
	(void)state;
	with_speak_first_who_is_silent_is_not_accepted(false);
	with_speak_first_who_is_silent_is_not_accepted(true);
}

static void without_speak_first_who_is_silent_is_accepted(void **state)
{
	int silent;

	(void)state;
	start_echo(NULL, 1);
	silent = dial();
	assert_true(WAIT_FOR(nr_opened() == 1));
	close(silent);
	end_server();
}

static void who_never_speaks_is_accepted_in_the_end_and_closed(void **state)
{
	const struct evt_listen_options options = {
		.speak_first = 1, .first_byte_ms = 500};
	int silent;

	(void)state;
	start_echo(&options, 1);
	silent = dial();
	assert_true(at_end(silent));
	close(silent);
	assert_int_equal(end_server().closed_deadline, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_client_that_came_before_the_run_is_served),
		SERVER_TEST(a_running_pool_listens_at_once),
		SERVER_TEST(a_pool_without_a_listener_runs_and_gets_one),
		SERVER_TEST(a_handler_may_listen),
		SERVER_TEST(choose_may_listen),
		SERVER_TEST(a_pool_that_stops_listens_no_more),
		SERVER_TEST(each_listener_has_its_handlers_and_argument),
		SERVER_TEST(closed_before_the_run_its_port_is_free),
		SERVER_TEST(what_a_closed_listener_accepted_lives_on),
		SERVER_TEST(what_is_closed_accepts_nobody_in_the_same_wait),
		SERVER_TEST(a_listener_may_be_closed_after_the_pool),
		SERVER_TEST(a_handler_may_close_its_listener),
		SERVER_TEST(choose_may_close_its_listener),
		SERVER_TEST(choose_may_stop_the_pool),
		SERVER_TEST(listeners_come_and_go_without_a_trace),
		SERVER_TEST(who_is_to_speak_first_is_accepted_when_he_does),
		SERVER_TEST(without_speak_first_who_is_silent_is_accepted),
		SERVER_TEST(who_never_speaks_is_accepted_in_the_end_and_closed),
	};

	return ledger_run("listen_when", tests);
}
