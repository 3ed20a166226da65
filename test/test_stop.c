/*
 * test_stop.c: stopping: from everywhere, from several threads at once, while
 * it starts, with queues that are full and memory that is gone.
 */
/* wrap: fcntl */
#include "small_pipes.h"
#include "../evt-pool-internal.h"

/* From a library thread */

static atomic_int init_error;

/* Stops the server, and tries what is refused from then on. */
static void stop_here(void)
{
	evt_server_stop();
	evt_server_stop();
	if (evt_server_init(0, SOCK_STREAM) == -1)
		atomic_store(&init_error, errno);
	atomic_fetch_add(&tally.served, 1);
}

static void stop_from_listener(sockfd_t fd, short evt, void *arg)
{
	(void)evt;
	(void)arg;
	evt_close(evt_tcp(fd, NULL));
	stop_here();
}

static void stop_from_worker(sockfd_t conn, short evt, void *arg)
{
	(void)conn;
	(void)evt;
	(void)arg;
	stop_here();
}

static void stop_from_task(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	stop_here();
}

static void post_stop(sockfd_t conn, short evt, void *arg)
{
	(void)conn;
	(void)evt;
	(void)arg;
	evt_worker_post(evt_worker_self(), stop_from_task, NULL);
}

static void stop_at_stop(void *arg)
{
	(void)arg;
	stop_here();
}

static void register_stop(sockfd_t conn, short evt, void *arg)
{
	evt_thread_at_stop(stop_at_stop, NULL);
	just_count(conn, evt, arg);
}

/* The stop that the callback asked for is over when that from outside is. */
static void assert_stopped_from_within(void)
{
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	evt_server_stop();
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(atomic_load(&init_error), EBUSY);
	/* As before init. */
	assert_int_equal(evt_server_threads(just_count, 1), -1);
	assert_int_equal(errno, EINVAL);
}

/* D02 */
static void the_listeners_callback_may_stop_the_server(void **state)
{
	int client = connect_to(serve(stop_from_listener, just_count, 2));

	(void)state;
	assert_stopped_from_within();
	close(client);
}

/* D02 */
static void a_workers_callback_may_stop_the_server(void **state)
{
	(void)state;
	assert_true(serve(on_client, stop_from_worker, 2) > 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_stopped_from_within();
}

/* D02 */
static void a_task_may_stop_the_server(void **state)
{
	(void)state;
	assert_true(serve(on_client, post_stop, 2) > 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_stopped_from_within();
}

/* D02 */
static void a_function_at_the_stop_may_stop_the_server(void **state)
{
	(void)state;
	assert_true(serve(on_client, register_stop, 2) > 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 2);
	assert_int_equal(atomic_load(&init_error), EBUSY);
}

/* D02 */
static void init_joins_a_stop_that_a_callback_asked_for(void **state)
{
	int rounds = 100 / slowness();
	int i;

	(void)state;
	for (i = 0; i < rounds; i++) {
		forget_tally();
		assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
		assert_int_equal(evt_server_start(on_client, NULL), 0);
		assert_int_equal(evt_server_threads(stop_from_worker, 2), 2);
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
		assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	}
	evt_server_stop();
}

/* D02 */
static void every_worker_may_stop_the_server_at_once(void **state)
{
	int rounds = 100 / slowness();
	int round;
	int i;

	(void)state;
	for (round = 0; round < rounds; round++) {
		int taken = 0;

		assert_true(serve(on_client, stop_from_worker, 4) > 0);
		for (i = 0; i < 8; i++)
			if (evt_thread_dispatch(NO_FD, EV_READ, NULL) == 0)
				taken++;
		evt_server_stop();
		assert_int_equal(atomic_load(&tally.served), taken);
	}
}

/* From several threads */

struct crowd {
	pthread_barrier_t barrier;
	atomic_int too_early; /* returned before all was over */
};

static void *stop_with_others(void *arg)
{
	struct crowd *crowd = arg;

	pthread_barrier_wait(&crowd->barrier);
	evt_server_stop();
	if (evt_server_port() != -1 || atomic_load(&tally.served) != 10)
		atomic_fetch_add(&crowd->too_early, 1);
	return NULL;
}

static void stop_from_threads(int nr, int rounds)
{
	struct crowd crowd = {.too_early = 0};
	pthread_t threads[16];
	int i;

	for (; rounds > 0; rounds--) {
		assert_true(serve(on_client, just_count, 2) > 0);
		pthread_barrier_init(&crowd.barrier, NULL, (unsigned)nr);
		for (i = 0; i < 10; i++)
			assert_int_equal(
				evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
		for (i = 0; i < nr; i++)
			assert_int_equal(pthread_create(&threads[i], NULL,
						 stop_with_others, &crowd),
				0);
		for (i = 0; i < nr; i++)
			pthread_join(threads[i], NULL);
		pthread_barrier_destroy(&crowd.barrier);
		assert_int_equal(atomic_load(&crowd.too_early), 0);
	}
}

/* D03 */
static void two_threads_may_stop_at_once(void **state)
{
	(void)state;
	stop_from_threads(2, 200 / slowness());
}

/* D03 */
static void sixteen_threads_may_stop_at_once(void **state)
{
	(void)state;
	stop_from_threads(16, 200 / slowness());
}

/* While it starts */

static void *start_all(void *arg)
{
	int *errors = arg;

	errors[0] = evt_server_start(on_client, NULL) == -1 ? errno : 0;
	errors[1] = evt_server_threads(just_count, 2) == -1 ? errno : 0;
	return NULL;
}

static bool fits_a_race(int error)
{
	return error == 0 || error == ECANCELED || error == EINVAL;
}

/* D04 */
static void stop_while_starting_comes_before_or_after(void **state)
{
	int rounds = 500 / slowness();
	int errors[2];
	pthread_t thread;
	int i;

	(void)state;
	for (i = 0; i < rounds; i++) {
		assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
		assert_int_equal(
			pthread_create(&thread, NULL, start_all, errors), 0);
		if (i % 2)
			sched_yield();
		evt_server_stop();
		pthread_join(thread, NULL);
		assert_true(fits_a_race(errors[0]));
		assert_true(fits_a_race(errors[1]));
		evt_server_stop();
		assert_int_equal(evt_server_port(), -1);
	}
}

/* D04 */
static void starting_while_it_stops_is_canceled(void **state)
{
	pthread_t stopper;

	(void)state;
	assert_true(serve(on_client, count_at_gate, 1) > 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	stopper = stop_elsewhere(NULL);
	log_forget();
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	assert_int_equal(errno, ECANCELED);
	assert_int_equal(evt_server_threads(just_count, 1), -1);
	assert_int_equal(errno, ECANCELED);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	open_gate();
	pthread_join(stopper, NULL);
}

/* What was dispatched */

/* D06 */
static void all_that_was_queued_is_served_before_stop_returns(void **state)
{
	pthread_t stopper;
	int i;

	(void)state;
	assert_true(serve(on_client, count_at_gate, 1) > 0);
	for (i = 0; i < 500; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	stopper = stop_elsewhere(NULL);
	assert_int_equal(atomic_load(&tally.served), 0);
	open_gate();
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&tally.served), 500);
}

/* D06 */
static void clients_that_were_queued_are_answered(void **state)
{
	pthread_t stopper;
	int clients[100];
	char byte;
	int port;
	int i;

	(void)state;
	port = serve(on_client, echo, 1);
	assert_int_equal(evt_worker_post(NULL, NULL, NULL), -1);
	for (i = 0; i < 100; i++) {
		clients[i] = connect_to(port);
		assert_true(send_all(clients[i], "e", 1));
	}
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == 100));
	stopper = stop_elsewhere(NULL);
	pthread_join(stopper, NULL);
	for (i = 0; i < 100; i++) {
		assert_true(receive_all(clients[i], &byte, 1));
		close(clients[i]);
	}
	assert_int_equal(atomic_load(&tally.served), 100);
}

/* D09 */
static void refuse_after_stop(void *arg)
{
	int i;

	(void)arg;
	for (i = 0; i < 20; i++) {
		int port = serve(on_client, echo, 2);

		CHECK(answers(port));
		evt_server_stop();
		CHECK(refused(port));
	}
}

/* D09 */
static void nobody_listens_when_stop_has_returned(void **state)
{
	(void)state;
	passes_in_own_network(refuse_after_stop, 10);
}

/* D08: clients that connect in a loop while the server stops. */
struct client_loop {
	int port;
	atomic_int answered;
	atomic_int sent_away; /* reset, or ended without an answer */
};

static void *client_main(void *arg)
{
	struct client_loop *loop = arg;
	int fd;

	while ((fd = connect_to(loop->port)) != -1) {
		char byte = 0;

		if (send_all(fd, "f", 1) && receive_all(fd, &byte, 1)) {
			CHECK(byte == 'f');
			atomic_fetch_add(&loop->answered, 1);
		} else {
			CHECK(errno != EAGAIN); /* a client that nobody sees */
			atomic_fetch_add(&loop->sent_away, 1);
		}
		close(fd);
	}
	CHECK(errno == ECONNREFUSED || errno == ECONNRESET);
	return NULL;
}

static void stop_among_clients(int round)
{
	struct evt_server_ledger ledger;
	struct client_loop loop = {.port = serve(on_client, echo, 2)};
	pthread_t threads[3];
	int i;

	for (i = 0; i < 3; i++)
		CHECK(pthread_create(&threads[i], NULL, client_main, &loop) ==
			0);
	CHECK(WAIT_FOR(atomic_load(&tally.served) > round % 20));
	evt_server_stop();
	for (i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	evt_server_ledger_(&ledger);
	CHECK(ledger.accepted == (unsigned)atomic_load(&tally.accepted));
	CHECK(ledger.refused == (unsigned)atomic_load(&tally.refused));
	CHECK(ledger.delivered == (unsigned)atomic_load(&tally.served));
	CHECK(ledger.accepted ==
		ledger.delivered + ledger.refused + ledger.dropped);
	CHECK(atomic_load(&loop.answered) <= atomic_load(&tally.served));
}

static void stop_among_clients_often(void *arg)
{
	int rounds = 200 / slowness();
	int fds = count_fds();
	int i;

	(void)arg;
	for (i = 0; i < rounds; i++)
		stop_among_clients(i);
	CHECK(count_fds() == fds);
}

/* D08 */
static void a_client_that_comes_while_it_stops_is_served_or_reset(void **state)
{
	(void)state;
	passes_in_own_network(stop_among_clients_often, 30);
}

/* With nothing left */

static atomic_int taken;

static void fill_own_pipe(sockfd_t conn, short evt, void *arg)
{
	if (arg) {
		while (evt_thread_dispatch(NO_FD, EV_READ, NULL) == 0)
			atomic_fetch_add(&taken, 1);
		wait_at_gate();
	}
	just_count(conn, evt, arg);
}

static void serve_with_full_pipe(void)
{
	atomic_store(&taken, 1);
	assert_true(serve_with_small_pipes(on_client, fill_own_pipe, 1) > 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, &taken), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
}

/* D12 */
static void stop_needs_no_room_in_a_workers_pipe(void **state)
{
	pthread_t stopper;

	(void)state;
	serve_with_full_pipe();
	stopper = stop_elsewhere(NULL);
	open_gate();
	pthread_join(stopper, NULL);
	assert_true(atomic_load(&taken) > 100);
	assert_int_equal(atomic_load(&tally.served), atomic_load(&taken));
}

/* D12, D13 */
static void stop_needs_neither_room_nor_memory(void **state)
{
	pthread_t stopper;

	(void)state;
	serve_with_full_pipe();
	fail_allocation(1, true);
	stopper = stop_elsewhere(NULL);
	open_gate();
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&tally.served), atomic_load(&taken));
}

static _Atomic(struct evt_pool *) pool;

static void note_pool(sockfd_t conn, short evt, void *arg)
{
	atomic_store(&pool, evt_worker_pool(evt_worker_self()));
	just_count(conn, evt, arg);
}

static void block_listener(sockfd_t fd, short evt, void *arg)
{
	(void)evt;
	(void)arg;
	wait_at_gate();
	evt_close(evt_tcp(fd, NULL));
}

static void count_task(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	atomic_fetch_add(&tally.served, 1);
}

static int fill_listeners_pipe(struct evt_pool *its)
{
	const struct evt_record record = {
		.kind = EVT_RECORD_TASK, .task = count_task};
	int nr = 0;

	while (evt_pool_put_(its, &its->boss, &record, false) == 0)
		nr++;
	return nr;
}

/* D12 */
static void stop_needs_no_room_in_the_listeners_pipe(void **state)
{
	pthread_t stopper;
	int client;

	(void)state;
	client = connect_to(
		serve_with_small_pipes(block_listener, note_pool, 1));
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1 &&
		atomic_load(&tally.served) == 1));
	assert_true(fill_listeners_pipe(atomic_load(&pool)) > 0);
	stopper = stop_elsewhere(NULL);
	open_gate();
	pthread_join(stopper, NULL);
	close(client);
}

static atomic_int late; /* what it was told of its last client */

static void dispatch_late(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	wait_at_gate();
	atomic_store(&late, evt_thread_dispatch(conn, evt, arg));
}

/* D06: without workers yet, the client that it has in hand is its last; nobody
 * else brings one. */
static void while_it_stops_only_its_listener_may_still_dispatch(void **state)
{
	pthread_t stopper;
	int client;

	(void)state;
	atomic_store(&late, -1);
	client = connect_to(serve(dispatch_late, NULL, 0));
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	/* Not stop_elsewhere, which asks for workers, none. */
	assert_int_equal(pthread_create(&stopper, NULL, stop_main, NULL), 0);
	assert_true(WAIT_FOR(
		evt_server_start(on_client, NULL) == -1 && errno == ECANCELED));
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), -1);
	assert_int_equal(errno, ECANCELED);
	open_gate();
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&late), 0);
	assert_true(at_end(client));
	close(client);
}

/* D13 */
static void stop_allocates_nothing(void **state)
{
	(void)state;
	assert_true(answers(serve(on_client, echo, 4)));
	fail_allocation(1, true);
	evt_server_stop();
	assert_false(fault_reached());
}

/* D13 */
static void stop_with_kept_connections_allocates_nothing(void **state)
{
	int i;

	(void)state;
	assert_true(serve(on_client, NULL, 0) > 0);
	for (i = 0; i < 10; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	fail_allocation(1, true);
	evt_server_stop();
	assert_false(fault_reached());
	assert_true(log_has("10 connections were kept"));
}

static void read_and_close(sockfd_t conn, short evt, void *arg)
{
	char byte;

	atomic_fetch_add(&tally.accepted, 1);
	if (recv(conn, &byte, 1, 0) != 1)
		atomic_fetch_add(&tally.ends, 1);
	just_count(conn, evt, arg);
	evt_close(conn);
}

/* D07: a connection that the program itself has made, from another port. */
static void a_clients_socket_of_the_programs_is_not_cut(void **state)
{
	pthread_t stopper;
	int other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in addr = {.sin_family = AF_INET};
	socklen_t len = sizeof(addr);
	int far;

	(void)state;
	assert_int_equal(listen(other, 1), 0);
	getsockname(other, (struct sockaddr *)&addr, &len);
	assert_true(serve(on_client, read_and_close, 1) > 0);
	evt_server_grace_ms(0);
	assert_int_equal(evt_thread_dispatch(connect_to(ntohs(addr.sin_port)),
				 EV_READ, NULL),
		0);
	far = accept4(other, NULL, NULL, SOCK_CLOEXEC);
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == 1));
	stopper = stop_elsewhere(NULL);
	assert_true(WAIT_FOR(log_has("the grace is over")));
	assert_true(send_all(far, "a", 1));
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&tally.ends), 0);
	close(far);
	close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(the_listeners_callback_may_stop_the_server),
		LEDGER_TEST(a_workers_callback_may_stop_the_server),
		LEDGER_TEST(a_task_may_stop_the_server),
		LEDGER_TEST(a_function_at_the_stop_may_stop_the_server),
		LEDGER_TEST(init_joins_a_stop_that_a_callback_asked_for),
		LEDGER_TEST(every_worker_may_stop_the_server_at_once),
		LEDGER_TEST(two_threads_may_stop_at_once),
		LEDGER_TEST(sixteen_threads_may_stop_at_once),
		LEDGER_TEST(stop_while_starting_comes_before_or_after),
		LEDGER_TEST(starting_while_it_stops_is_canceled),
		LEDGER_TEST(all_that_was_queued_is_served_before_stop_returns),
		LEDGER_TEST(clients_that_were_queued_are_answered),
		LEDGER_TEST(nobody_listens_when_stop_has_returned),
		LEDGER_TEST(
			a_client_that_comes_while_it_stops_is_served_or_reset),
		LEDGER_TEST(stop_needs_no_room_in_a_workers_pipe),
		LEDGER_TEST(stop_needs_neither_room_nor_memory),
		LEDGER_TEST(stop_needs_no_room_in_the_listeners_pipe),
		LEDGER_TEST(
			while_it_stops_only_its_listener_may_still_dispatch),
		LEDGER_TEST(stop_allocates_nothing),
		LEDGER_TEST(stop_with_kept_connections_allocates_nothing),
		LEDGER_TEST(a_clients_socket_of_the_programs_is_not_cut),
	};

	return ledger_run("stop", tests);
}
