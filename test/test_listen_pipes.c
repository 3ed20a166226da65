/*
 * test_listen_pipes.c: a listener's clients when the workers' pipes are full,
 * when a worker is stalled, and when a thread is lost.
 */
/* wrap: fcntl */
#include "small_pipes.h"
#include "placing.h"
#include "../evt-pool-internal.h"

/* A worker that is stalled, or lost */

static void gate_and_leave(struct evt_worker *self, void *ends_thread)
{
	(void)self;
	wait_at_gate();
	if (ends_thread)
		pthread_exit(NULL);
}

/* Has worker index wait at the gate: its pipe is empty then. */
static void hold_worker(int index, bool ends_thread)
{
	int before = atomic_load(&gate.waiting);

	assert_int_equal(evt_worker_post(evt_pool_worker(server.pool, index),
				 gate_and_leave, ends_thread ? &gate : NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == before + 1));
}

static void lose_worker(int index)
{
	shut_gate();
	hold_worker(index, true);
	open_gate();
	/* The line comes first, and then its sockets are closed. */
	assert_true(WAIT_FOR(atomic_load(&server.pool->workers[index].lost) &&
		atomic_load(&server.pool->workers[index].drained)));
	assert_true(log_has("has lost its thread"));
}

static void start_soon_stalled(struct evt_listen_options options, int workers)
{
	const struct evt_pool_options pool_options = {
		.workers = workers, .stall_ms = 20 * slowness()};

	stop_server();
	forget_seen();
	shut_gate();
	server.pool = evt_pool_new(&pool_options);
	server.listener = evt_listen(
		server.pool, ANY_PORT, &placed, &options, NULL);
	server.port = evt_listener_port(server.listener);
	run_pool();
}

static void a_stalled_worker_gets_no_client(void **state)
{
	struct evt_listen_options kinds[] = {
		{.choice = EVT_CHOICE_ROUND_ROBIN}, by_count, by_choice};
	int clients[6];
	size_t kind;
	int i;

	(void)state;
	atomic_store(&choice.answer, 1);
	for (kind = 0; kind < 3; kind++) {
		start_soon_stalled(kinds[kind], 3);
		hold_worker(1, false);
		assert_true(WAIT_FOR(server_stats().stalls == 1));
		for (i = 0; i < 6; i++)
			assert_int_not_equal(place_of(&clients[i]), 1);
		open_gate();
		hang_up(clients, 6);
		end_server();
	}
}

static void when_all_are_stalled_clients_wait(void **state)
{
	int clients[20];
	int i;

	(void)state;
	start_soon_stalled((struct evt_listen_options){0}, 2);
	hold_worker(0, false);
	hold_worker(1, false);
	assert_true(WAIT_FOR(server_stats().stalls == 2));
	dial_all(clients, 20);
	assert_true(WAIT_FOR(server_stats().accept_pauses > 0));
	assert_int_equal(server_stats().accepted, 0);
	open_gate();
	for (i = 0; i < 20; i++)
		assert_true(echoes(clients[i]));
	hang_up(clients, 20);
	assert_int_equal(end_server().opened, 20);
}

/* C15: what it had in its pipe goes to another, and counts there. */
static void after_a_rescue_the_count_is_right(void **state)
{
	int clients[10];
	int i;

	(void)state;
	shut_gate();
	start_placing(by_count, 3);
	hold_worker(0, true);
	dial_all(clients, 3);
	assert_true(WAIT_FOR(nr_opened() == 2));
	open_gate();
	assert_true(WAIT_FOR(nr_opened() == 3));
	hang_up(clients, 3);
	assert_true(WAIT_FOR(nr_closed() == 3));
	for (i = 0; i < 10; i++)
		place_of(&clients[i]);
	assert_int_equal(nr_open_on(1), 5);
	assert_int_equal(nr_open_on(2), 5);
	hang_up(clients, 10);
	end_server();
}

/* C15 */
static void a_lost_worker_gets_no_client(void **state)
{
	struct evt_listen_options kinds[] = {
		{.reuseport = 0}, by_count, by_choice, {.reuseport = 1}};
	size_t kind;
	int i;

	(void)state;
	atomic_store(&choice.answer, 1);
	for (kind = 0; kind < COUNT(kinds); kind++) {
		log_forget();
		start_placing(kinds[kind], 3);
		lose_worker(1);
		for (i = 0; i < 30; i++)
			assert_true(serves(server.port));
		end_server();
	}
}

/* C14 C15: and is not watched; the others are. */
static void a_lost_worker_is_not_stalled(void **state)
{
	bool told;

	(void)state;
	start_soon_stalled((struct evt_listen_options){0}, 2);
	lose_worker(0);
	log_forget(); /* it may have been slow before */
	shut_gate();
	hold_worker(1, false);
	told = WAIT_FOR(log_has("worker 1: a callback has run"));
	open_gate();
	assert_true(told);
	assert_false(log_has("worker 0: a callback has run"));
	assert_true(serves(server.port));
	end_server();
}

/* C15: it has no thread that would watch its socket. */
static void a_group_that_comes_after_the_loss_serves_all(void **state)
{
	int i;

	(void)state;
	start_placing((struct evt_listen_options){0}, 3);
	lose_worker(1);
	listen_at(ANY_PORT, &by_kernel);
	for (i = 0; i < 40; i++)
		assert_true(serves(server.port));
	end_server();
}

static int end_thread(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)pool, (void)peer;
	if (atomic_load((atomic_bool *)arg))
		pthread_exit(NULL);
	return 0;
}

/* C15: what is open lives on, and nobody waits for what does not come. */
static void when_the_listener_is_lost_its_clients_are_sent_away(void **state)
{
	static atomic_bool now;
	const struct evt_listen_options options = {
		.choice = EVT_CHOICE_FUNCTION, .choose = end_thread};
	int old;
	int client;

	(void)state;
	atomic_store(&now, false);
	start_server_at(ANY_PORT, &placed, &options, 2, &now);
	old = dial();
	assert_true(echoes(old));
	atomic_store(&now, true);
	client = dial();
	assert_true(WAIT_FOR(log_has("has lost its thread")));
	assert_true(echoes(old));
	assert_true(WAIT_FOR(refused(server.port)));
	assert_true(at_end(client));
	assert_null(evt_listen(server.pool, ANY_PORT, &placed, NULL, NULL));
	assert_int_equal(errno, ENXIO);
	listen_at(ANY_PORT, &by_kernel);
	assert_true(serves(server.port));
	hang_up((int[]){old, client}, 2);
	end_server();
}

/* Full pipes */

static void start_with_small_pipes(
	struct evt_listen_options options, int workers)
{
	int i;

	shut_gate();
	atomic_store(&small_pipes, true);
	start_placing(options, workers);
	atomic_store(&small_pipes, false);
	for (i = 0; i < workers; i++)
		hold_worker(i, false);
}

#define MANY 450 /* more than two small pipes hold, and one wake-up */

/* B01: also the limits of CPU and of lines. */
static void when_all_pipes_are_full_nobody_is_lost(void **state)
{
	static int clients[MANY];
	int64_t cpu;
	int i;

	(void)state;
	start_with_small_pipes((struct evt_listen_options){0}, 2);
	dial_all(clients, MANY);
	assert_true(WAIT_FOR(server_stats().accept_pauses >= 4));
	cpu = cpu_ms();
	assert_true(WAIT_FOR(server_stats().accept_pauses >= 8));
	assert_true(cpu_ms() - cpu < 100 * slowness());
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_true(log_has("the pipes of all workers are full"));
	assert_in_range(server_stats().accepted, 200, 256 + 64);
	open_gate();
	for (i = 0; i < MANY; i++)
		assert_true(echoes(clients[i]));
	hang_up(clients, MANY);
	assert_int_equal(end_server().opened, MANY);
}

static void past_a_full_pipe_the_order_is_kept(void **state)
{
	static int clients[MANY];
	int i;

	(void)state;
	start_with_small_pipes(
		(struct evt_listen_options){.accept_batch = 64}, 1);
	dial_all(clients, MANY);
	assert_true(WAIT_FOR(server_stats().accept_pauses >= 1));
	open_gate();
	assert_true(WAIT_FOR(nr_opened() == MANY));
	for (i = 0; i < MANY; i++)
		assert_int_equal(
			atomic_load(&peer_ports[i]), own_port(clients[i]));
	hang_up(clients, MANY);
	end_server();
}

static void past_a_full_pipe_the_next_worker_is_tried(void **state)
{
	static int clients[200];

	(void)state;
	atomic_store(&choice.answer, 0);
	shut_gate();
	atomic_store(&small_pipes, true);
	start_placing(by_choice, 2);
	atomic_store(&small_pipes, false);
	hold_worker(0, false);
	dial_all(clients, 200);
	assert_true(WAIT_FOR(nr_open_on(1) >= 200 - 128));
	assert_int_equal(server_stats().accept_pauses, 0);
	open_gate();
	assert_true(WAIT_FOR(nr_opened() == 200));
	hang_up(clients, 200);
	end_server();
}

static void a_stop_with_full_pipes_accounts_for_all(void **state)
{
	static int clients[MANY];
	struct evt_stats stats;

	(void)state;
	start_with_small_pipes((struct evt_listen_options){0}, 2);
	dial_all(clients, MANY);
	assert_true(WAIT_FOR(server_stats().accept_pauses >= 1));
	evt_pool_stop(server.pool);
	assert_true(WAIT_FOR(refused(server.port)));
	open_gate();
	hang_up(clients, MANY);
	stats = end_server();
	assert_in_range(stats.opened, 200, 256 + 64);
	assert_int_equal(stats.opened, nr_opened());
	assert_int_equal(stats.opened, nr_closed());
}

/* What was accepted is a connection, and lives on. */
static void a_listener_closed_with_full_pipes_drops_nobody(void **state)
{
	static int clients[MANY];
	struct evt_stats stats;

	(void)state;
	start_with_small_pipes(
		(struct evt_listen_options){.accept_batch = 64}, 2);
	dial_all(clients, MANY);
	assert_true(WAIT_FOR(server_stats().accept_pauses >= 1));
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(refused(server.port)));
	open_gate();
	assert_true(WAIT_FOR(server_stats().opened + server_stats().dropped ==
		server_stats().accepted));
	hang_up(clients, MANY);
	stats = end_server();
	assert_int_equal(stats.dropped, 0);
	assert_int_equal(stats.opened, stats.accepted);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_stalled_worker_gets_no_client),
		SERVER_TEST(when_all_are_stalled_clients_wait),
		SERVER_TEST(after_a_rescue_the_count_is_right),
		SERVER_TEST(a_lost_worker_gets_no_client),
		SERVER_TEST(a_lost_worker_is_not_stalled),
		SERVER_TEST(a_group_that_comes_after_the_loss_serves_all),
		SERVER_TEST(
			when_the_listener_is_lost_its_clients_are_sent_away),
		SERVER_TEST(when_all_pipes_are_full_nobody_is_lost),
		SERVER_TEST(past_a_full_pipe_the_order_is_kept),
		SERVER_TEST(past_a_full_pipe_the_next_worker_is_tried),
		SERVER_TEST(a_stop_with_full_pipes_accounts_for_all),
		SERVER_TEST(a_listener_closed_with_full_pipes_drops_nobody),
	};

	return ledger_run("listen_pipes", tests);
}
