/*
 * test_dispatch.c: the way of a connection to a worker: what is taken and
 * what is not, dispatching before there is a pool, and order.
 */
#include "rig.h"

#include <limits.h>
#include <netinet/in.h>

/* Taken, as it is */

static void what_is_dispatched_arrives(sockfd_t conn, short evt, void *arg)
{
	int *seen = arg;

	seen[0] = conn;
	seen[1] = evt;
	atomic_fetch_add(&tally.served, 1);
}

static void the_callback_gets_what_was_dispatched(void **state)
{
	int seen[2] = {0, 0};

	(void)state;
	assert_int_equal(serve(NULL, what_is_dispatched_arrives, 2), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_WRITE | EV_ET, seen), 0);
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 1);
	assert_int_equal(seen[0], NO_FD);
	assert_int_equal(seen[1], EV_WRITE | EV_ET);
}

/* C04 */
static void a_negative_descriptor_is_refused(void **state)
{
	static const int numbers[] = {-1, -2, INT_MIN};
	size_t i;

	(void)state;
	assert_int_equal(serve(NULL, just_count, 2), 0);
	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		log_forget();
		assert_int_equal(
			evt_thread_dispatch(numbers[i], EV_READ, NULL), -1);
		assert_int_equal(errno, EBADF);
		assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	}
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 0);
}

static void read_and_close(sockfd_t conn, short evt, void *arg)
{
	char byte;

	if (read(conn, &byte, 1) == -1)
		atomic_fetch_add(&tally.ends, 1);
	just_count(conn, evt, arg);
	evt_close(conn);
}

/* C05 */
static void a_closed_descriptor_is_delivered_as_it_is(void **state)
{
	int port = serve(on_client, echo, 1);

	(void)state;
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.ends) == 1));
	assert_true(answers(port));
	evt_server_stop();
}

/* C05 */
static void a_descriptor_that_is_no_socket_is_delivered_as_it_is(void **state)
{
	int file = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)state;
	assert_int_equal(serve(NULL, read_and_close, 1), 0);
	assert_int_equal(evt_thread_dispatch(file, EV_READ, NULL), 0);
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 1);
	assert_int_equal(atomic_load(&tally.ends), 0);
	assert_int_equal(fcntl(file, F_GETFD), -1);
}

/* C06 */
static void one_descriptor_dispatched_twice_is_delivered_twice(void **state)
{
	int pair[2];

	(void)state;
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(close(pair[1]), 0);
	assert_int_equal(serve(NULL, read_and_close, 1), 0);
	assert_int_equal(evt_thread_dispatch(pair[0], EV_READ, NULL), 0);
	assert_int_equal(evt_thread_dispatch(pair[0], EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 2));
	/* The second found it closed, and the worker goes on. */
	assert_int_equal(atomic_load(&tally.ends), 1);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 3));
	evt_server_stop();
}

/* C08 */
static void without_a_pool_nothing_is_taken(void **state)
{
	int pair[2];

	(void)state;
	assert_true(serve(on_client, NULL, 0) > 0);
	assert_int_equal(evt_server_threads(just_count, 0), 0);
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	assert_int_equal(evt_thread_dispatch(pair[0], EV_READ, NULL), -1);
	assert_int_equal(errno, ENXIO);
	evt_server_stop();
	assert_int_equal(close(pair[0]), 0);
	assert_int_equal(close(pair[1]), 0);
}

/* C08 */
static void after_stop_nothing_is_taken(void **state)
{
	int pair[2];

	(void)state;
	assert_int_equal(serve(NULL, just_count, 2), 0);
	evt_server_stop();
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	assert_int_equal(evt_thread_dispatch(pair[0], EV_READ, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(close(pair[0]), 0);
	assert_int_equal(close(pair[1]), 0);
	assert_int_equal(atomic_load(&tally.served), 0);
}

/* C08 */
static void after_a_failed_pool_all_is_as_before_it(void **state)
{
	(void)state;
	forget_arrivals();
	assert_int_equal(serve(NULL, NULL, 0), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, numbered(1)), 0);
	fail_allocation(1, true);
	assert_int_equal(evt_server_threads(note_arrival, 2), -1);
	fail_allocation(0, false);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, numbered(2)), 0);
	assert_int_equal(evt_server_threads(note_arrival, 1), 1);
	evt_server_stop();
	assert_true(arrived_in_order(2));
}

/* Before there is a pool */

static void keep_numbers(int nr)
{
	int i;

	for (i = 1; i <= nr; i++)
		assert_int_equal(
			evt_thread_dispatch(NO_FD, EV_READ, numbered(i)), 0);
}

/* C07 */
static void what_came_before_the_pool_is_delivered_in_order(void **state)
{
	(void)state;
	forget_arrivals();
	assert_int_equal(serve(NULL, NULL, 0), 0);
	keep_numbers(300);
	assert_int_equal(evt_server_threads(note_arrival, 1), 1);
	evt_server_stop();
	assert_true(arrived_in_order(300));
}

/* C07 */
static void what_came_before_the_pool_reaches_several_workers(void **state)
{
	(void)state;
	forget_arrivals();
	assert_int_equal(serve(NULL, NULL, 0), 0);
	keep_numbers(300);
	assert_int_equal(evt_server_threads(note_arrival, 7), 7);
	evt_server_stop();
	assert_true(each_arrived_once(300));
}

/* C07 */
static void what_comes_after_the_pool_follows_what_was_kept(void **state)
{
	int i;

	(void)state;
	forget_arrivals();
	assert_int_equal(serve(NULL, NULL, 0), 0);
	keep_numbers(300);
	assert_int_equal(evt_server_threads(note_arrival, 1), 1);
	for (i = 301; i <= 600; i++)
		assert_int_equal(
			evt_thread_dispatch(NO_FD, EV_READ, numbered(i)), 0);
	evt_server_stop();
	assert_true(arrived_in_order(600));
}

/* C07 */
static void clients_may_come_before_the_pool(void **state)
{
	int clients[50];
	int port = serve(on_client, NULL, 0);
	char byte;
	int i;

	(void)state;
	for (i = 0; i < 50; i++) {
		clients[i] = connect_to(port);
		assert_true(send_all(clients[i], "b", 1));
	}
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == 50));
	assert_int_equal(evt_server_threads(echo, 2), 2);
	for (i = 0; i < 50; i++) {
		assert_true(receive_all(clients[i], &byte, 1));
		close(clients[i]);
	}
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 50);
}

/* Gives the server 300 connections, every third with an argument. */
static void keep_pairs(int far[300])
{
	int pair[2];
	int i;

	for (i = 0; i < 300; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC,
					 0, pair),
			0);
		assert_int_equal(evt_thread_dispatch(pair[0], EV_READ,
					 i % 3 == 0 ? far : NULL),
			0);
		far[i] = pair[1];
	}
}

static void assert_ends(const int far[300])
{
	int i;

	for (i = 0; i < 300; i++) {
		assert_true(at_end(far[i]));
		close(far[i]);
	}
}

/* C07 */
static void stop_closes_what_no_pool_came_for(void **state)
{
	struct evt_server_ledger ledger;
	int far[300];

	(void)state;
	assert_int_equal(serve(NULL, NULL, 0), 0);
	keep_pairs(far);
	evt_server_stop();
	assert_ends(far);
	assert_true(log_has("300 connections"));
	assert_true(log_has("100 arguments"));
	assert_int_equal(log_lines(EVT_LOG_INFO), 1);
	evt_server_ledger_(&ledger);
	assert_int_equal(ledger.dropped, 300);
}

/* C07 */
static void saying_no_pool_closes_what_was_kept_for_one(void **state)
{
	int far[300];

	(void)state;
	assert_true(serve(on_client, NULL, 0) > 0);
	keep_pairs(far);
	assert_int_equal(evt_server_threads(just_count, 0), 0);
	assert_ends(far);
	assert_true(log_has("300 connections"));
	assert_true(log_has("100 arguments"));
	evt_server_stop();
	assert_int_equal(log_lines(EVT_LOG_INFO), 1);
}

/* C07 */
static void as_many_are_kept_as_a_pipe_holds(void **state)
{
	int kept = 0;

	(void)state;
	assert_int_equal(serve(NULL, NULL, 0), 0);
	log_forget();
	while (kept < MOST - 1 &&
		evt_thread_dispatch(NO_FD, EV_READ, NULL) == 0)
		kept++;
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	/* 8,192, or what the user's limit of pipe pages leaves. */
	assert_true(kept == 8192 || kept == 2048 || kept == 128);
	assert_int_equal(evt_server_threads(just_count, 1), 1);
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), kept);
}

/* Order */

/* C17 */
static void one_worker_serves_in_the_order_of_dispatching(void **state)
{
	(void)state;
	forget_arrivals();
	assert_int_equal(serve(NULL, note_arrival, 1), 0);
	keep_numbers(5000);
	evt_server_stop();
	assert_true(arrived_in_order(5000));
}

static atomic_int disorder;
static _Thread_local int last_number;

static void note_disorder(sockfd_t conn, short evt, void *arg)
{
	int number = (int)(intptr_t)arg;

	if (number <= last_number)
		atomic_fetch_add(&disorder, 1);
	last_number = number;
	note_arrival(conn, evt, arg);
}

/* C17 */
static void each_of_several_workers_serves_in_order(void **state)
{
	(void)state;
	forget_arrivals();
	atomic_store(&disorder, 0);
	assert_int_equal(serve(NULL, note_disorder, 3), 0);
	keep_numbers(6000);
	evt_server_stop();
	assert_true(each_arrived_once(6000));
	assert_int_equal(atomic_load(&disorder), 0);
}

/* Dispatches the numbers of 8 threads, each its own range. */
static int dispatch_from_eight(evt_callback tcb, int nr)
{
	int each = 10000 / slowness();
	struct dispatcher its[8];
	int i;

	forget_arrivals();
	assert_int_equal(serve(NULL, tcb, nr), 0);
	for (i = 0; i < 8; i++)
		start_dispatcher(&its[i], 1 + i * each, (i + 1) * each);
	for (i = 0; i < 8; i++) {
		pthread_join(its[i].thread, NULL);
		assert_int_equal(atomic_load(&its[i].taken), each);
	}
	evt_server_stop();
	return each;
}

/* C16 */
static void what_eight_threads_dispatch_arrives_once(void **state)
{
	(void)state;
	assert_true(
		each_arrived_once(8 * dispatch_from_eight(note_arrival, 4)));
}

static int last_of_caller[8];

static void note_callers_order(sockfd_t conn, short evt, void *arg)
{
	int number = (int)(intptr_t)arg;
	int each = 10000 / slowness();
	int caller = (number - 1) / each;

	if (number <= last_of_caller[caller])
		atomic_fetch_add(&disorder, 1);
	last_of_caller[caller] = number;
	note_arrival(conn, evt, arg);
}

/* C16 */
static void each_of_eight_threads_keeps_its_order_with_one_worker(void **state)
{
	int each;

	(void)state;
	atomic_store(&disorder, 0);
	memset(last_of_caller, 0, sizeof(last_of_caller));
	each = dispatch_from_eight(note_callers_order, 1);
	assert_true(each_arrived_once(8 * each));
	assert_int_equal(atomic_load(&disorder), 0);
}

/* Each is another descriptor, but a run of refusals is one thing to tell. */
static void many_refused_dispatches_have_few_lines(void **state)
{
	int i;

	(void)state;
	assert_true(serve(NULL, NULL, 0) == 0);
	assert_int_equal(evt_server_threads(just_count, 0), 0);
	for (i = 0; i < 1000; i++)
		assert_int_equal(
			evt_thread_dispatch(NO_FD + i, EV_READ, NULL), -1);
	assert_int_equal(errno, ENXIO);
	/* Eight a second, and a report of the others. */
	assert_true(log_lines(EVT_LOG_INFO) <= 18 * slowness());
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(many_refused_dispatches_have_few_lines),
		LEDGER_TEST(the_callback_gets_what_was_dispatched),
		LEDGER_TEST(a_negative_descriptor_is_refused),
		LEDGER_TEST(a_closed_descriptor_is_delivered_as_it_is),
		LEDGER_TEST(
			a_descriptor_that_is_no_socket_is_delivered_as_it_is),
		LEDGER_TEST(one_descriptor_dispatched_twice_is_delivered_twice),
		LEDGER_TEST(without_a_pool_nothing_is_taken),
		LEDGER_TEST(after_stop_nothing_is_taken),
		LEDGER_TEST(after_a_failed_pool_all_is_as_before_it),
		LEDGER_TEST(what_came_before_the_pool_is_delivered_in_order),
		LEDGER_TEST(what_came_before_the_pool_reaches_several_workers),
		LEDGER_TEST(what_comes_after_the_pool_follows_what_was_kept),
		LEDGER_TEST(clients_may_come_before_the_pool),
		LEDGER_TEST(stop_closes_what_no_pool_came_for),
		LEDGER_TEST(saying_no_pool_closes_what_was_kept_for_one),
		LEDGER_TEST(as_many_are_kept_as_a_pipe_holds),
		LEDGER_TEST(one_worker_serves_in_the_order_of_dispatching),
		LEDGER_TEST(each_of_several_workers_serves_in_order),
		LEDGER_TEST(what_eight_threads_dispatch_arrives_once),
		LEDGER_TEST(
			each_of_eight_threads_keeps_its_order_with_one_worker),
	};

	return ledger_run("dispatch", tests);
}
