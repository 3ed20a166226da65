/*
 * test_listen_place.c: which worker gets a connection: in turn, where there are
 * fewest, as the program says, or the kernel.
 */
/* wrap: accept4 event_base_loop */
#include "placing.h"

#include <event2/event.h>

#include <limits.h>

/* The wrapped calls */

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);

static atomic_bool peers_vanish;

/* As for a client that has left: see accept(2). */
int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int conn = __real_accept4(fd, addr, len, flags);

	if (conn != -1 && len && atomic_load(&peers_vanish))
		*len = 0;
	return conn;
}

int __real_event_base_loop(struct event_base *base, int flags);

static atomic_int loops; /* of libevent's, on workers */

int __wrap_event_base_loop(struct event_base *base, int flags)
{
	if (evt_worker_self())
		atomic_fetch_add(&loops, 1);
	return __real_event_base_loop(base, flags);
}

/* In turn */

static void in_turn_each_worker_gets_the_next(void **state)
{
	int clients[12];
	int i;

	(void)state;
	start_placing((struct evt_listen_options){0}, 4);
	for (i = 0; i < 12; i++)
		assert_int_equal(place_of(&clients[i]), i % 4);
	hang_up(clients, 12);
	end_server();
}

static void a_crowd_is_shared_out_evenly(void **state)
{
	int clients[200];
	int i;

	(void)state;
	start_placing((struct evt_listen_options){.accept_batch = 64}, 4);
	dial_all(clients, 200);
	assert_true(WAIT_FOR(nr_opened() == 200));
	for (i = 0; i < 4; i++)
		assert_int_equal(nr_open_on(i), 50);
	hang_up(clients, 200);
	end_server();
}

/* Fewest */

static void the_worker_with_fewest_gets_the_next(void **state)
{
	int clients[12];
	int i;

	(void)state;
	start_placing(by_count, 4);
	for (i = 0; i < 12; i++)
		place_of(&clients[i]);
	for (i = 0; i < 4; i++)
		assert_int_equal(nr_open_on(i), 3);
	for (i = 0; i < 12; i++)
		if (atomic_load(&opened_on[i]) == 2) {
			int port = atomic_load(&peer_ports[i]);
			int j = 0;

			while (own_port(clients[j]) != port)
				j++;
			close(clients[j]);
			clients[j] = -1;
		}
	assert_true(WAIT_FOR(nr_open_on(2) == 0));
	for (i = 0; i < 12; i++)
		if (clients[i] == -1)
			assert_int_equal(place_of(&clients[i]), 2);
	assert_int_equal(nr_open_on(2), 3);
	hang_up(clients, 12);
	end_server();
}

static void be_there(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
}

/* Many close and come at the same time: in the end it is even. Those that stay
 * are fewer than one worker's share, wherever they are. */
static void by_count_it_is_even_after_any_history(void **state)
{
	int clients[64];
	int i;

	(void)state;
	start_placing(by_count, 4);
	dial_all(clients, 64);
	for (i = 0; i < 1000; i++) {
		int j = (i * 37) % 64;

		close(clients[j]);
		clients[j] = dial();
	}
	hang_up(clients + 12, 52);
	assert_true(WAIT_FOR(nr_opened() == 1064 && nr_closed() == 1052));
	for (i = 0; i < 4; i++)
		assert_true(on_worker(i, be_there, NULL));
	for (i = 12; i < 64; i++)
		place_of(&clients[i]);
	for (i = 0; i < 4; i++)
		assert_int_equal(nr_open_on(i), 16);
	hang_up(clients, 64);
	end_server();
}

/* The program says */

static int place_chosen(int answer)
{
	int client;
	int place;

	atomic_store(&choice.answer, answer);
	place = place_of(&client);
	close(client);
	return place;
}

static void a_function_names_the_worker(void **state)
{
	int i;

	(void)state;
	start_placing(by_choice, 5);
	for (i = 4; i >= 0; i--)
		assert_int_equal(place_chosen(i), i);
	for (i = 0; i < 5; i++)
		assert_int_equal(place_chosen(3), 3);
	end_server();
}

static void its_answer_is_taken_modulo_the_workers(void **state)
{
	(void)state;
	start_placing(by_choice, 5);
	assert_int_equal(place_chosen(5), 0);
	assert_int_equal(place_chosen(13), 3);
	assert_int_equal(place_chosen(INT_MAX), INT_MAX % 5);
	end_server();
}

static void a_negative_answer_refuses(void **state)
{
	static const int answers[] = {-1, -2, INT_MIN};
	size_t i;

	(void)state;
	start_placing(by_choice, 2);
	for (i = 0; i < COUNT(answers); i++) {
		int client;

		atomic_store(&choice.answer, answers[i]);
		client = dial();
		assert_true(at_end(client));
		close(client);
	}
	assert_int_equal(place_chosen(1), 1);
	assert_int_equal(end_server().refused, COUNT(answers));
	assert_int_equal(nr_opened(), 1);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

/* B08: who is refused takes no place. */
static void refused_clients_do_not_count_against_the_limit(void **state)
{
	struct evt_listen_options options = by_choice;
	int clients[20];
	int i;

	(void)state;
	options.max_conns = 2;
	start_placing(options, 2);
	atomic_store(&choice.answer, -1);
	dial_all(clients, 20);
	for (i = 0; i < 20; i++)
		assert_true(at_end(clients[i]));
	hang_up(clients, 20);
	assert_int_equal(place_chosen(0), 0);
	assert_int_equal(end_server().refused, 20);
}

static void a_function_is_told_who_comes(void **state)
{
	static int mine;
	int client;

	(void)state;
	make_pool(2);
	server.listener = evt_listen(
		server.pool, ANY_PORT, &placed, &by_choice, &mine);
	server.port = evt_listener_port(server.listener);
	run_pool();
	atomic_store(&choice.answer, 0);
	place_of(&client);
	assert_int_equal(atomic_load(&choice.family), AF_INET);
	assert_int_equal(atomic_load(&choice.port), own_port(client));
	assert_ptr_equal(atomic_load(&choice.pool), server.pool);
	assert_ptr_equal(atomic_load(&choice.arg), &mine);
	assert_false(atomic_load(&choice.on_worker));
	close(client);
	end_server();
}

/* B07 */
static void of_a_client_that_has_left_the_family_is_unspecified(void **state)
{
	int client;

	(void)state;
	start_placing(by_choice, 2);
	atomic_store(&choice.answer, 1);
	atomic_store(&peers_vanish, true);
	assert_int_equal(place_of(&client), 1);
	atomic_store(&peers_vanish, false);
	assert_int_equal(atomic_load(&choice.family), AF_UNSPEC);
	close(client);
	end_server();
}

static void refuses(struct evt_listen_options options)
{
	log_forget();
	errno = 0;
	assert_null(evt_listen(server.pool, ANY_PORT, &placed, &options, NULL));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
}

/* A21 */
static void choices_that_contradict_are_refused(void **state)
{
	struct evt_listen_options options = by_choice;

	(void)state;
	make_pool(2);
	options.choose = NULL;
	refuses(options);
	options = by_choice;
	options.choice = EVT_CHOICE_ROUND_ROBIN;
	refuses(options);
	options.choice = EVT_CHOICE_FEWEST_CONNS;
	refuses(options);
	options.reuseport = 1;
	refuses(options);
	options.choose = NULL;
	refuses(options);
	options = by_choice;
	options.reuseport = 1;
	refuses(options);
	refuses((struct evt_listen_options){
		.reuseport = 1, .max_per_source = 1});
	stop_server();
}

/* The kernel says */

static void a_socket_for_each_worker_shares_clients_out(void **state)
{
	int clients[100];
	int sum = 0;
	int i;

	(void)state;
	start_placing(by_kernel, 4);
	dial_all(clients, 100);
	assert_true(WAIT_FOR(nr_opened() == 100));
	for (i = 0; i < 4; i++) {
		assert_true(nr_open_on(i) > 0);
		sum += nr_open_on(i);
	}
	assert_int_equal(sum, 100);
	hang_up(clients, 100);
	end_server();
}

/* Each wait of libevent's loop would be two of the kernel's. */
static void a_socket_of_its_own_is_waited_for_without_libevent(void **state)
{
	int clients[20];

	(void)state;
	atomic_store(&loops, 0);
	start_placing(by_kernel, 2);
	dial_all(clients, 20);
	assert_true(WAIT_FOR(nr_opened() == 20));
	assert_int_equal(atomic_load(&loops), 0);
	hang_up(clients, 20);
	end_server();
}

static void each_socket_of_a_group_is_closed_with_it(void **state)
{
	int fds;
	int i;

	(void)state;
	make_pool(6);
	fds = count_fds();
	listen_at(ANY_PORT, &by_kernel);
	assert_int_equal(count_fds(), fds + 6);
	evt_listener_close(server.listener);
	assert_int_equal(count_fds(), fds);
	listen_at("tcp://:0", &by_kernel);
	run_pool();
	for (i = 0; i < 20; i++)
		assert_true(serves(server.port));
	assert_true(WAIT_FOR(nr_closed() == 20));
	fds = count_fds();
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(count_fds() == fds - 6));
	assert_true(refused(server.port));
	end_server();
}

static void a_group_does_not_share_its_port_with_a_stranger(void **state)
{
	char url[64];

	(void)state;
	make_pool(2);
	listen_at(ANY_PORT, &by_kernel);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", server.port);
	assert_null(evt_listen(server.pool, url, &placed, NULL, NULL));
	assert_int_equal(errno, EADDRINUSE);
	stop_server();
}

/* The kernel would let two of one user's share the port. */
static void a_port_that_others_share_is_taken(void **state)
{
	const struct evt_listen_options options = {.reuseport = 1};
	struct evt_pool *other = evt_pool_new(NULL);
	char url[40];

	(void)state;
	start_echo(&options, 2);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", server.port);
	errno = 0;
	assert_null(evt_listen(other, url, &echo_handlers, &options, NULL));
	assert_int_equal(errno, EADDRINUSE);
	assert_true(log_has("Address already in use"));
	evt_pool_free(other);
	assert_true(serves(server.port));
	end_server();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(in_turn_each_worker_gets_the_next),
		SERVER_TEST(a_crowd_is_shared_out_evenly),
		SERVER_TEST(the_worker_with_fewest_gets_the_next),
		SERVER_TEST(by_count_it_is_even_after_any_history),
		SERVER_TEST(a_function_names_the_worker),
		SERVER_TEST(its_answer_is_taken_modulo_the_workers),
		SERVER_TEST(a_negative_answer_refuses),
		SERVER_TEST(refused_clients_do_not_count_against_the_limit),
		SERVER_TEST(a_function_is_told_who_comes),
		SERVER_TEST(
			of_a_client_that_has_left_the_family_is_unspecified),
		SERVER_TEST(choices_that_contradict_are_refused),
		SERVER_TEST(a_socket_for_each_worker_shares_clients_out),
		SERVER_TEST(a_socket_of_its_own_is_waited_for_without_libevent),
		SERVER_TEST(each_socket_of_a_group_is_closed_with_it),
		SERVER_TEST(a_group_does_not_share_its_port_with_a_stranger),
		SERVER_TEST(a_port_that_others_share_is_taken),
	};

	return ledger_run("listen_place", tests);
}
