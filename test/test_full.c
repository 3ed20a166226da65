/*
 * test_full.c: full pipes: who waits, who does not, who is passed over, and
 * what a stop does then.
 */
/* wrap: fcntl */
#include "small_pipes.h"

#define PAGE_RECORDS 128 /* of 32 bytes in 4,096; a worker reads as many */

/* Full pipes */

/* C01 */
static void a_full_pipe_makes_the_dispatcher_wait_and_loses_nothing(
	void **state)
{
	struct dispatcher it;
	int64_t cpu;

	(void)state;
	forget_arrivals();
	assert_int_equal(
		serve_with_small_pipes(NULL, note_arrival_at_gate, 1), 0);
	start_dispatcher(&it, 1, 400);
	assert_true(WAIT_FOR(atomic_load(&it.taken) >= PAGE_RECORDS));
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	cpu = cpu_ms();
	usleep(100000); /* in which it must not spin */
	assert_true(cpu_ms() - cpu < 50 * slowness());
	assert_true(atomic_load(&it.taken) <= 2 * PAGE_RECORDS);
	open_gate();
	pthread_join(it.thread, NULL);
	evt_server_stop();
	assert_int_equal(atomic_load(&it.taken), 400);
	assert_true(arrived_in_order(400));
}

static void hold_first(sockfd_t conn, short evt, void *arg)
{
	if (arg == numbered(1))
		wait_at_gate();
	note_arrival(conn, evt, arg);
}

/* C01, C14 */
static void a_full_pipe_is_passed_over_for_the_next_worker(void **state)
{
	struct dispatcher it;

	(void)state;
	forget_arrivals();
	assert_int_equal(serve_with_small_pipes(NULL, hold_first, 2), 0);
	start_dispatcher(&it, 1, 3000);
	pthread_join(it.thread, NULL);
	assert_int_equal(atomic_load(&it.taken), 3000);
	/* The stuck worker has at most what it read and what its pipe holds. */
	assert_true(WAIT_FOR(
		atomic_load(&nr_arrived) >= 3000 - 2 * PAGE_RECORDS - 1));
	assert_true(atomic_load(&nr_arrived) < 3000);
	open_gate();
	evt_server_stop();
	assert_true(each_arrived_once(3000));
}

static void close_at_gate(sockfd_t conn, short evt, void *arg)
{
	count_at_gate(conn, evt, arg);
	evt_close(conn);
}

/* C01 */
static void clients_wait_in_the_kernel_while_all_pipes_are_full(void **state)
{
	enum { NR = 3 * PAGE_RECORDS };
	int clients[NR];
	int port;
	int i;

	(void)state;
	port = serve_with_small_pipes(on_client, close_at_gate, 1);
	for (i = 0; i < NR; i++) {
		clients[i] = connect_to(port);
		assert_int_not_equal(clients[i], -1);
	}
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) > PAGE_RECORDS));
	assert_true(atomic_load(&tally.accepted) <= 2 * PAGE_RECORDS + 1);
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&tally.served) == NR));
	assert_int_equal(atomic_load(&tally.refused), 0);
	evt_server_stop();
	for (i = 0; i < NR; i++)
		close(clients[i]);
}

/* Dispatches 10,000 from inside a callback; arg counts what was refused. */
static void dispatch_from_worker(sockfd_t conn, short evt, void *arg)
{
	atomic_int *refused = arg;
	int i;

	if (!refused) {
		just_count(conn, evt, arg);
		return;
	}
	for (i = 0; i < 10000; i++) {
		if (evt_thread_dispatch(NO_FD, EV_READ, NULL) == 0)
			continue;
		if (errno == EAGAIN)
			atomic_fetch_add(refused, 1);
	}
	wait_at_gate();
}

/* C02 */
static void a_worker_never_waits_for_itself(void **state)
{
	atomic_int refused = 0;

	(void)state;
	assert_int_equal(
		serve_with_small_pipes(NULL, dispatch_from_worker, 1), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, &refused), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	assert_int_equal(atomic_load(&refused), 10000 - PAGE_RECORDS);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	open_gate();
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), PAGE_RECORDS);
}

static void task_for_full_pipe(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	atomic_fetch_add(&tally.served, 1);
}

static void post_from_worker(sockfd_t conn, short evt, void *arg)
{
	struct evt_worker *self = evt_worker_self();
	atomic_int *taken = arg;

	(void)conn;
	(void)evt;
	while (evt_worker_post(self, task_for_full_pipe, NULL) == 0)
		atomic_fetch_add(taken, 1);
	if (errno == EAGAIN)
		wait_at_gate();
}

/* C02 */
static void a_worker_that_posts_to_itself_does_not_wait_either(void **state)
{
	atomic_int taken = 0;

	(void)state;
	assert_int_equal(serve_with_small_pipes(NULL, post_from_worker, 1), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, &taken), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	assert_int_equal(atomic_load(&taken), PAGE_RECORDS);
	open_gate();
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), PAGE_RECORDS);
}

/* C03 */
static void who_waits_for_room_is_sent_away_by_a_stop(void **state)
{
	struct dispatcher its[4];
	pthread_t stopper;
	int taken = 0;
	int i;

	(void)state;
	forget_arrivals();
	assert_int_equal(
		serve_with_small_pipes(NULL, note_arrival_at_gate, 1), 0);
	for (i = 0; i < 4; i++)
		start_dispatcher(&its[i], 1 + 1000 * i, 1000 + 1000 * i);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1 &&
		atomic_load(&its[0].taken) + atomic_load(&its[1].taken) +
				atomic_load(&its[2].taken) +
				atomic_load(&its[3].taken) >=
			PAGE_RECORDS));
	stopper = stop_elsewhere(NULL);
	for (i = 0; i < 4; i++) {
		pthread_join(its[i].thread, NULL);
		assert_int_equal(atomic_load(&its[i].error), ECANCELED);
		taken += atomic_load(&its[i].taken);
	}
	open_gate();
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&nr_arrived), taken);
}

/* C03 */
static void what_was_sent_away_is_still_the_callers(void **state)
{
	struct dispatcher it;
	pthread_t stopper;
	int pair[2];

	(void)state;
	forget_arrivals();
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	assert_int_equal(
		serve_with_small_pipes(NULL, note_arrival_at_gate, 1), 0);
	start_dispatcher(&it, 1, 1000);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	stopper = stop_elsewhere(NULL);
	pthread_join(it.thread, NULL);
	assert_int_equal(evt_thread_dispatch(pair[0], EV_READ, NULL), -1);
	assert_int_equal(errno, ECANCELED);
	assert_false(log_has("evt_thread_dispatch"));
	open_gate();
	pthread_join(stopper, NULL);
	assert_int_equal(close(pair[0]), 0);
	assert_int_equal(close(pair[1]), 0);
}

/* C07 */
static void the_listener_waits_when_no_more_are_kept(void **state)
{
	int clients[PAGE_RECORDS + 20];
	int nr = PAGE_RECORDS + 20;
	int port;
	int i;

	(void)state;
	port = serve(on_client, NULL, 0);
	atomic_store(&small_pipes, true);
	for (i = 0; i < nr; i++)
		clients[i] = connect_to(port);
	/* One more is in the hands of the callback that waits. */
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == PAGE_RECORDS + 1));
	atomic_store(&small_pipes, false);
	assert_int_equal(evt_server_threads(echo, 2), 2);
	for (i = 0; i < nr; i++)
		close(clients[i]);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == nr));
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.refused), 0);
}

/* C07, C03 */
static void a_listener_that_waits_for_a_pool_does_not_hold_up_stop(void **state)
{
	int clients[PAGE_RECORDS + 5];
	int port;
	int i;

	(void)state;
	port = serve(on_client, NULL, 0);
	atomic_store(&small_pipes, true);
	for (i = 0; i < PAGE_RECORDS + 5; i++)
		clients[i] = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == PAGE_RECORDS + 1));
	evt_server_stop();
	atomic_store(&small_pipes, false);
	assert_int_equal(atomic_load(&tally.refused), 1);
	for (i = 0; i < PAGE_RECORDS + 5; i++) {
		assert_true(at_end(clients[i]));
		close(clients[i]);
	}
}

/* C03 */
static void a_listener_that_waits_for_room_does_not_hold_up_stop(void **state)
{
	enum { NR = 3 * PAGE_RECORDS };
	pthread_t stopper;
	int clients[NR];
	int port;
	int i;

	(void)state;
	port = serve_with_small_pipes(on_client, close_at_gate, 1);
	for (i = 0; i < NR; i++)
		clients[i] = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1 &&
		atomic_load(&tally.accepted) > PAGE_RECORDS + 1));
	stopper = stop_elsewhere(NULL);
	assert_true(WAIT_FOR(atomic_load(&tally.refused) == 1));
	open_gate();
	pthread_join(stopper, NULL);
	assert_int_equal(
		atomic_load(&tally.served), atomic_load(&tally.accepted) - 1);
	for (i = 0; i < NR; i++) {
		assert_true(at_end(clients[i]));
		close(clients[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(
			a_full_pipe_makes_the_dispatcher_wait_and_loses_nothing),
		LEDGER_TEST(a_full_pipe_is_passed_over_for_the_next_worker),
		LEDGER_TEST(
			clients_wait_in_the_kernel_while_all_pipes_are_full),
		LEDGER_TEST(a_worker_never_waits_for_itself),
		LEDGER_TEST(a_worker_that_posts_to_itself_does_not_wait_either),
		LEDGER_TEST(who_waits_for_room_is_sent_away_by_a_stop),
		LEDGER_TEST(what_was_sent_away_is_still_the_callers),
		LEDGER_TEST(the_listener_waits_when_no_more_are_kept),
		LEDGER_TEST(
			a_listener_that_waits_for_a_pool_does_not_hold_up_stop),
		LEDGER_TEST(
			a_listener_that_waits_for_room_does_not_hold_up_stop),
	};

	return ledger_run("full", tests);
}
