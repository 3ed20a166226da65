/*
 * test_grace.c: how long a stop waits for callbacks, and what it does when that
 * is over (D07).
 */
#include "rig.h"

static bool is_reading(void)
{
	return atomic_load(&tally.accepted) == 1;
}

/* A client that says nothing, and a worker that reads from it. */
static int silent_client(int port)
{
	int client = connect_to(port);

	assert_true(client != -1);
	assert_true(WAIT_FOR(is_reading()));
	return client;
}

/* How long a stop took, in ms. */
static int64_t time_of_stop(void)
{
	int64_t start = now_ms();

	evt_server_stop();
	return now_ms() - start;
}

/* D07 */
static void a_silent_client_is_cut_when_the_grace_ends(void **state)
{
	int client = silent_client(serve(on_client, echo, 1));
	int64_t took;

	(void)state;
	evt_server_grace_ms(100);
	took = time_of_stop();
	assert_true(took >= 95 && took < 1000 * slowness());
	assert_int_equal(atomic_load(&tally.ends), 1);
	assert_true(at_end(client));
	assert_true(log_has("the grace is over, 1 callbacks"));
	close(client);
}

/* D07 */
static void without_a_grace_it_is_cut_at_once(void **state)
{
	int client = silent_client(serve(on_client, echo, 1));

	(void)state;
	evt_server_grace_ms(0);
	assert_true(time_of_stop() < 1000 * slowness());
	assert_int_equal(atomic_load(&tally.ends), 1);
	close(client);
}

/* D07 */
static void a_grace_without_end_waits_for_the_client(void **state)
{
	int client = silent_client(serve(on_client, echo, 1));
	atomic_bool stopped;
	pthread_t stopper;
	char byte;

	(void)state;
	evt_server_grace_ms(-1);
	stopper = stop_elsewhere(&stopped);
	assert_false(atomic_load(&stopped));
	assert_true(send_all(client, "a", 1) && receive_all(client, &byte, 1));
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&tally.ends), 0);
	close(client);
}

/* D07 */
static void a_grace_may_be_shortened_while_the_stop_waits(void **state)
{
	int client = silent_client(serve(on_client, echo, 1));
	pthread_t stopper;

	(void)state;
	evt_server_grace_ms(-1);
	stopper = stop_elsewhere(NULL);
	evt_server_grace_ms(10);
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&tally.ends), 1);
	close(client);
}

/* D07, D06 */
static void those_that_wait_in_the_pipe_are_cut_as_well(void **state)
{
	int port = serve(on_client, echo, 1);
	int clients[20];
	int i;

	(void)state;
	for (i = 0; i < 20; i++)
		clients[i] = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == 20));
	evt_server_grace_ms(50);
	assert_true(time_of_stop() < 2000 * slowness());
	assert_int_equal(atomic_load(&tally.served), 20);
	assert_int_equal(atomic_load(&tally.ends), 20);
	for (i = 0; i < 20; i++)
		close(clients[i]);
}

static void stop_if_asked(sockfd_t conn, short evt, void *arg)
{
	char byte;

	if (recv(conn, &byte, 1, 0) == 1)
		evt_server_stop();
	else
		atomic_fetch_add(&tally.ends, 1);
	atomic_fetch_add(&tally.served, 1);
	evt_close(conn);
	(void)evt;
	(void)arg;
}

/* D07, D02: nobody from outside waits, and yet the grace ends. */
static void a_callback_that_stops_the_server_leaves_the_grace_to_it(
	void **state)
{
	int port = serve(on_client, stop_if_asked, 2);
	int silent = silent_client(port);
	int asking = connect_to(port);

	(void)state;
	evt_server_grace_ms(50);
	assert_true(send_all(asking, "a", 1));
	assert_true(WAIT_FOR(atomic_load(&tally.ends) == 1));
	assert_true(at_end(silent));
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 2);
	close(asking);
	close(silent);
}

static void read_from_other(sockfd_t conn, short evt, void *arg)
{
	char byte;

	(void)evt;
	(void)arg;
	atomic_fetch_add(&tally.accepted, 1);
	atomic_fetch_add(&tally.ends, read(conn, &byte, 1) == 0);
	atomic_fetch_add(&tally.served, 1);
	(void)!write(conn, "b", 1);
	close(conn);
}

/* D07: only sockets whose local port is the server's are touched. */
static void a_socket_that_is_not_the_servers_is_left_alone(void **state)
{
	atomic_bool stopped;
	pthread_t stopper;
	char byte = 0;
	int pair[2];

	(void)state;
	assert_true(serve(on_client, read_from_other, 1) > 0);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(evt_thread_dispatch(pair[0], EV_READ, NULL), 0);
	assert_true(WAIT_FOR(is_reading()));
	evt_server_grace_ms(0);
	stopper = stop_elsewhere(&stopped);
	assert_true(WAIT_FOR(log_has("the grace is over")));
	assert_false(atomic_load(&stopped));
	assert_true(send_all(pair[1], "a", 1));
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&tally.ends), 0);
	assert_true(receive_all(pair[1], &byte, 1) && byte == 'b');
	close(pair[1]);
}

/* Accepts and serves on the listener's own thread. */
static void serve_on_listener(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	if (conn == -1)
		return;
	atomic_fetch_add(&tally.accepted, 1);
	echo(conn, evt, arg);
}

/* D07 */
static void a_sequential_server_is_cut_too(void **state)
{
	int client = silent_client(serve(serve_on_listener, NULL, 0));

	(void)state;
	evt_server_grace_ms(50);
	assert_true(time_of_stop() < 2000 * slowness());
	assert_int_equal(atomic_load(&tally.ends), 1);
	assert_true(log_has("the listener's callback still running"));
	close(client);
}

/* D07: what it closed itself is not looked at again. */
static void a_callback_without_a_connection_is_waited_for(void **state)
{
	atomic_bool stopped;
	pthread_t stopper;

	(void)state;
	assert_true(serve(on_client, count_at_gate, 1) > 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	evt_server_grace_ms(0);
	stopper = stop_elsewhere(&stopped);
	assert_true(WAIT_FOR(log_has("the grace is over")));
	assert_false(atomic_load(&stopped));
	open_gate();
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&tally.served), 1);
}

static void dispatch_and_stay(sockfd_t fd, short evt, void *arg)
{
	on_client(fd, evt, arg);
	wait_at_gate();
}

/* Stops the server with no grace, and sees that it waits for the callback. */
static pthread_t stop_that_waits(atomic_bool *stopped)
{
	pthread_t stopper;
	int64_t until;

	evt_server_grace_ms(0);
	stopper = stop_elsewhere(stopped);
	until = now_ms() + 300;
	assert_true(WAIT_FOR(now_ms() >= until));
	assert_false(atomic_load(stopped));
	return stopper;
}

/* D07: the connection that it gave away is a worker's. */
static void a_listener_that_has_dispatched_has_nothing_to_cut(void **state)
{
	int port = serve(dispatch_and_stay, echo, 1);
	atomic_bool stopped;
	pthread_t stopper;

	(void)state;
	assert_true(answers(port));
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	stopper = stop_that_waits(&stopped);
	assert_false(log_has("the grace is over"));
	open_gate();
	pthread_join(stopper, NULL);
}

static sockfd_t kept = -1;

/* First one that it closes by itself, and at once one that it keeps. */
static void close_one_keep_one(sockfd_t fd, short evt, void *arg)
{
	sockfd_t closed;

	(void)evt;
	(void)arg;
	wait_at_gate();
	if (atomic_fetch_add(&tally.accepted, 1) > 0)
		return;
	closed = evt_tcp(fd, NULL);
	close(closed);
	kept = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	atomic_fetch_add(&tally.ends, kept == closed);
}

/* D07: what a callback has returned from is served no more, though it went
 * past evt_close; its number is another connection's now. */
static void a_number_closed_by_hand_is_not_cut(void **state)
{
	int port = serve(close_one_keep_one, NULL, 0);
	atomic_bool stopped;
	pthread_t stopper;
	int clients[3];
	char byte = 0;

	(void)state;
	clients[0] = connect_to(port);
	clients[1] = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&tally.ends) == 1));
	shut_gate();
	clients[2] = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	stopper = stop_that_waits(&stopped);
	assert_true(send_all(kept, "b", 1));
	assert_true(receive_all(clients[1], &byte, 1) && byte == 'b');
	open_gate();
	pthread_join(stopper, NULL);
	close(kept);
	close(clients[0]);
	close(clients[1]);
	close(clients[2]);
}

static void a_grace_below_minus_one_is_refused(void **state)
{
	(void)state;
	assert_int_equal(evt_server_grace_ms(-2), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	assert_int_equal(evt_server_grace_ms(INT32_MAX), 0);
	assert_int_equal(evt_server_grace_ms(5000), 0);
}

/*
 * It gets its byte back, or not, and then the end. It has to speak: a client
 * whose handshake the kernel finishes while it closes the listening socket may
 * be told nothing until then.
 */
static bool sees_the_end(int client)
{
	(void)send_all(client, "a", 1);
	return at_end(client) || at_end(client);
}

static void connect_and_stop(void)
{
	struct evt_server_ledger ledger;
	int port = serve(on_client, echo, 2);
	pthread_t stopper;
	int clients[8];
	int i;

	evt_server_grace_ms(0);
	for (i = 0; i < 4; i++)
		clients[i] = connect_to(port);
	stopper = stop_elsewhere(NULL);
	for (; i < 8; i++)
		clients[i] = connect_to(port);
	pthread_join(stopper, NULL);
	for (i = 0; i < 8; i++) {
		CHECK(clients[i] == -1 || sees_the_end(clients[i]));
		if (clients[i] != -1)
			close(clients[i]);
	}
	evt_server_ledger_(&ledger);
	CHECK(ledger.accepted ==
		ledger.delivered + ledger.refused + ledger.dropped);
}

static void connect_and_stop_often(void *arg)
{
	int rounds;

	(void)arg;
	for (rounds = 200 / slowness(); rounds > 0; rounds--)
		connect_and_stop();
}

/* D08: each that connects is served, or sees the end; the ledger balances. In
 * its own network, where nobody else is given the port meanwhile. */
static void clients_that_come_during_a_stop_are_not_forgotten(void **state)
{
	(void)state;
	passes_in_own_network(connect_and_stop_often, 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_silent_client_is_cut_when_the_grace_ends),
		LEDGER_TEST(without_a_grace_it_is_cut_at_once),
		LEDGER_TEST(a_grace_without_end_waits_for_the_client),
		LEDGER_TEST(a_grace_may_be_shortened_while_the_stop_waits),
		LEDGER_TEST(those_that_wait_in_the_pipe_are_cut_as_well),
		LEDGER_TEST(
			a_callback_that_stops_the_server_leaves_the_grace_to_it),
		LEDGER_TEST(a_socket_that_is_not_the_servers_is_left_alone),
		LEDGER_TEST(a_sequential_server_is_cut_too),
		LEDGER_TEST(a_callback_without_a_connection_is_waited_for),
		LEDGER_TEST(a_listener_that_has_dispatched_has_nothing_to_cut),
		LEDGER_TEST(a_number_closed_by_hand_is_not_cut),
		LEDGER_TEST(a_grace_below_minus_one_is_refused),
		LEDGER_TEST(clients_that_come_during_a_stop_are_not_forgotten),
	};

	return ledger_run("grace", tests);
}
