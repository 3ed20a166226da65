/*
 * test_watch.c: workers of a pool of evt_pool_new that hang in a callback: it
 * is told and counted, they get no new connections, and a stop works.
 */
/* wrap: event_add */
#include "../evt-pool-internal.h"
#include "pool_rig.h"
#include "inject.h"

#include <event2/event.h>
#include <sys/resource.h>

int __real_event_add(struct event *event, const struct timeval *timeout);

static struct inject on_tick; /* the boss's timer is to tick */

int __wrap_event_add(struct event *event, const struct timeval *timeout)
{
	if (pool && event == pool->watch && injected(&on_tick))
		return -1;
	return __real_event_add(event, timeout);
}

static const struct evt_pool_options watched = {
	.workers = WORKERS, .stall_ms = 20};
static const struct evt_pool_options unwatched = {
	.workers = WORKERS, .stall_ms = -1};

static bool has_stalled(uint64_t times)
{
	return WAIT_FOR(stats_now().stalls == times);
}

/* Lets some times stall_ms go by. */
static void pass_the_time(void)
{
	int64_t begin = now_ms();

	(void)WAIT_FOR(now_ms() - begin >= 150);
}

static void expect_the_end(void)
{
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(is_balanced());
	free_pool();
}

/* C14 */
static void a_stall_is_told_and_counted_once(void **state)
{
	(void)state;
	start_pool(&watched, NULL, NULL);
	hold_worker(1);
	assert_true(has_stalled(1));
	pass_the_time();
	assert_int_equal(stats_now().stalls, 1);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_true(
		log_has("worker 1: a callback has run for more than 20 ms"));
	open_gate();
	expect_the_end();
}

/* C14: whose turn begins next asks for it again. */
static void a_stall_is_seen_although_a_tick_had_no_memory(void **state)
{
	(void)state;
	start_pool(&watched, NULL, NULL);
	inject(&on_tick, ENOMEM, 0, 1);
	assert_int_equal(
		evt_worker_post(evt_pool_worker(pool, 0), note_task_ran, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&on_tick.times) == 0));
	hold_worker(1);
	assert_true(has_stalled(1));
	open_gate();
	expect_the_end();
}

/* C14 */
static void each_of_several_stalls_is_counted(void **state)
{
	uint64_t i;

	(void)state;
	start_pool(&watched, NULL, NULL);
	for (i = 1; i <= 3; i++) {
		shut_gate();
		hold_worker(0);
		assert_true(has_stalled(i));
		open_gate();
		assert_int_equal(evt_worker_post(evt_pool_worker(pool, 0),
					 note_task_ran, NULL),
			0);
		assert_true(WAIT_FOR(atomic_load(&seen.tasks) == (int)i));
	}
	expect_the_end();
}

/* C14: each choice passes it over, and comes back to it. */
static void expect_it_is_passed_over(const struct evt_listen_options *how)
{
	int i;

	start_pool(&watched, NULL, how);
	hold_worker(0);
	assert_true(has_stalled(1));
	for (i = 0; i < 3 * WORKERS; i++)
		assert_true(answers(pool_port));
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 0));
	for (i = 0; i < 100; i++) {
		assert_true(answers(pool_port));
		if (atomic_load(&seen.worker) == evt_pool_worker(pool, 0))
			break;
	}
	assert_in_range(i, 0, 99);
	expect_the_end();
}

static int choose_worker_0(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	(void)self;
	(void)peer;
	(void)arg;
	return 0;
}

static void a_stalled_worker_gets_no_connection_in_turn(void **state)
{
	(void)state;
	expect_it_is_passed_over(NULL);
}

static void a_stalled_worker_gets_none_though_it_has_fewest(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FEWEST_CONNS};

	(void)state;
	expect_it_is_passed_over(&how);
}

static void a_stalled_worker_gets_none_though_it_was_chosen(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = choose_worker_0};

	(void)state;
	expect_it_is_passed_over(&how);
}

/* C14: nobody is lost, and nothing spins meanwhile. */
static void when_all_are_stalled_clients_wait_and_are_served(void **state)
{
	int clients[5];
	int64_t cpu;
	char byte;
	int i;

	(void)state;
	start_pool(&watched, NULL, NULL);
	for (i = 0; i < WORKERS; i++)
		hold_worker(i);
	assert_true(has_stalled(WORKERS));
	cpu = cpu_ms();
	for (i = 0; i < 5; i++) {
		clients[i] = connect_to(pool_port);
		assert_true(send_all(clients[i], "a", 1));
	}
	pass_the_time();
	assert_in_range(cpu_ms() - cpu, 0, 60 * slowness());
	assert_int_equal(stats_now().accepted, 0);
	open_gate();
	for (i = 0; i < 5; i++)
		assert_true(receive_all(clients[i], &byte, 1));
	close_clients(clients, 5);
	expect_the_end();
}

/* C14, D07 */
static void a_pool_with_all_workers_stalled_stops_when_they_return(void **state)
{
	int clients[5];
	int i;

	(void)state;
	start_pool(&watched, NULL, NULL);
	for (i = 0; i < WORKERS; i++)
		hold_worker(i);
	assert_true(has_stalled(WORKERS));
	for (i = 0; i < 5; i++)
		clients[i] = connect_to(pool_port);
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(refused(pool_port)));
	open_gate();
	assert_int_equal(evt_pool_wait(pool), 0);
	for (i = 0; i < 5; i++)
		assert_true(at_end(clients[i]));
	close_clients(clients, 5);
	assert_true(is_balanced());
	free_pool();
}

static void without_a_limit_nothing_is_told(void **state)
{
	(void)state;
	start_pool(&unwatched, NULL, NULL);
	hold_worker(0);
	pass_the_time();
	assert_int_equal(stats_now().stalls, 0);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	open_gate();
	expect_the_end();
}

static void short_callbacks_are_no_stalls(void **state)
{
	int i;

	(void)state;
	if (slowness() > 1) /* there they are not short */
		skip();
	start_pool(NULL, NULL, NULL);
	for (i = 0; i < 2000; i++)
		assert_int_equal(
			evt_pool_post_all(pool, note_task_ran, NULL), WORKERS);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == 2000 * WORKERS));
	assert_int_equal(stats_now().stalls, 0);
	expect_the_end();
}

static bool is_quiet(long *before)
{
	long now = voluntary_switches();
	bool quiet = now - *before <= 1;

	*before = now;
	return quiet;
}

/* A second without a wake-up comes, soon after the last callback. */
static void sleep_after_work(void *options)
{
	long before;
	int64_t begin;
	int client;

	pool = evt_pool_new(options);
	CHECK(pool);
	listener = evt_listen(pool, "tcp://127.0.0.1:0", &echoes, NULL, NULL);
	CHECK(listener && evt_pool_start(pool) == 0);
	pool_port = evt_listener_port(listener);
	CHECK(answers(pool_port));
	client = connect_to(pool_port);
	CHECK(client != -1 && WAIT_FOR(atomic_load(&seen.opened) == 2));
	begin = now_ms();
	before = voluntary_switches();
	do {
		CHECK(now_ms() - begin < 15000);
		sleep(1); /* no wait for anything: this is what is measured */
	} while (!is_quiet(&before));
	CHECK(answers(pool_port));
	evt_pool_free(pool);
	close(client);
}

/* C20 */
static void an_idle_pool_that_is_watched_sleeps(void **state)
{
	struct evt_pool_options options = {.workers = 8, .stall_ms = 100};

	(void)state;
	if (!under("plain")) /* they have threads of their own */
		skip();
	assert_int_equal(in_child(sleep_after_work, &options, 20), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_stall_is_told_and_counted_once),
		LEDGER_TEST(a_stall_is_seen_although_a_tick_had_no_memory),
		LEDGER_TEST(each_of_several_stalls_is_counted),
		LEDGER_TEST(a_stalled_worker_gets_no_connection_in_turn),
		LEDGER_TEST(a_stalled_worker_gets_none_though_it_has_fewest),
		LEDGER_TEST(a_stalled_worker_gets_none_though_it_was_chosen),
		LEDGER_TEST(when_all_are_stalled_clients_wait_and_are_served),
		LEDGER_TEST(
			a_pool_with_all_workers_stalled_stops_when_they_return),
		LEDGER_TEST(without_a_limit_nothing_is_told),
		LEDGER_TEST(short_callbacks_are_no_stalls),
		LEDGER_TEST(an_idle_pool_that_is_watched_sleeps),
	};

	return ledger_run("watch", tests);
}
