/*
 * test_loops.c: what callbacks do with their thread: block it, register events
 * on its loop, have functions called at the stop; and that idle loops sleep.
 */
#include "rig.h"

#include <event2/event.h>
#include <sys/wait.h>

/* A callback that blocks */

static void hold_first_client(sockfd_t conn, short evt, void *arg)
{
	static atomic_bool held;

	(void)evt;
	(void)arg;
	if (atomic_exchange(&held, true) == false) {
		wait_at_gate();
		atomic_store(&held, false);
	}
	echo(conn, 0, NULL);
}

/* C14 */
static void a_stuck_worker_holds_up_its_own_clients_only(void **state)
{
	int port = serve(on_client, hold_first_client, 2);
	int clients[100];
	char byte;
	int i;

	(void)state;
	for (i = 0; i < 100; i++) {
		clients[i] = connect_to(port);
		assert_true(send_all(clients[i], "c", 1));
	}
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1 &&
		atomic_load(&tally.served) == 50));
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == 100));
	open_gate();
	for (i = 0; i < 100; i++) {
		assert_true(receive_all(clients[i], &byte, 1));
		close(clients[i]);
	}
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 100);
}

/* The listener's callback */

static void turn_away(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	(void)evt;
	(void)arg;
	if (conn == -1)
		return;
	atomic_fetch_add(&tally.accepted, 1);
	evt_close(conn);
}

/* B17 */
static void the_listeners_callback_may_close_at_once(void **state)
{
	int port = serve(turn_away, NULL, 0);
	int client;
	int i;

	(void)state;
	for (i = 1; i <= 20; i++) {
		client = connect_to(port);
		assert_true(at_end(client));
		close(client);
		assert_true(WAIT_FOR(atomic_load(&tally.accepted) == i));
	}
	evt_server_stop();
}

static void close_listener(sockfd_t fd, short evt, void *arg)
{
	evt_close(fd);
	on_client(fd, evt, arg);
}

/* B17 */
static void the_listening_socket_cannot_be_closed_by_evt_close(void **state)
{
	int port = serve(close_listener, echo, 1);

	(void)state;
	assert_true(answers(port));
	assert_true(answers(port));
	evt_server_stop();
}

static void accept_and_stop(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	(void)evt;
	(void)arg;
	evt_server_stop();
	if (conn == -1)
		return;
	if (evt_thread_dispatch(conn, EV_READ, NULL) == -1 &&
		errno == ECANCELED)
		atomic_fetch_add(&tally.refused, 1);
	evt_close(conn);
}

/* B17 */
static void the_listeners_callback_may_stop_the_server_and_go_on(void **state)
{
	int client = connect_to(serve(accept_and_stop, echo, 2));

	(void)state;
	assert_true(at_end(client));
	close(client);
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.refused), 1);
}

/* Events of the program's own */

struct guest {
	struct event *event;
	pthread_t thread;
	atomic_int calls;
	atomic_bool same_thread;
	atomic_bool freed;
};

static void on_guest(evutil_socket_t fd, short what, void *arg)
{
	struct guest *guest = arg;
	char byte;

	(void)what;
	atomic_store(&guest->same_thread,
		pthread_equal(guest->thread, pthread_self()));
	if (read((int)fd, &byte, 1) != 1)
		return;
	(void)!write((int)fd, &byte, 1);
	atomic_fetch_add(&guest->calls, 1);
}

static void free_guest(void *arg)
{
	struct guest *guest = arg;

	evt_close((sockfd_t)event_get_fd(guest->event));
	event_free(guest->event);
	atomic_store(&guest->freed, true);
}

static void register_guest(sockfd_t conn, short evt, void *arg)
{
	struct guest *guest = arg;

	(void)evt;
	guest->thread = pthread_self();
	guest->event = event_new(
		evt_thread_base(), conn, EV_READ | EV_PERSIST, on_guest, guest);
	event_add(guest->event, NULL);
	evt_thread_at_stop(free_guest, guest);
	atomic_fetch_add(&tally.served, 1);
}

/* A server with one guest: the client's end. */
static int serve_guest(struct guest *guest)
{
	int pair[2];

	memset(guest, 0, sizeof(*guest));
	assert_int_equal(serve(NULL, register_guest, 2), 0);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(evt_thread_dispatch(pair[0], EV_READ, guest), 0);
	return pair[1];
}

static void a_program_has_events_of_its_own_on_a_workers_loop(void **state)
{
	struct guest guest;
	int client = serve_guest(&guest);
	char byte;
	int i;

	(void)state;
	for (i = 1; i <= 10; i++) {
		assert_true(send_all(client, "d", 1));
		assert_int_equal(read(client, &byte, 1), 1);
	}
	evt_server_stop();
	assert_int_equal(atomic_load(&guest.calls), 10);
	assert_true(atomic_load(&guest.same_thread));
	assert_true(atomic_load(&guest.freed));
	close(client);
}

static void after_stop_own_events_are_not_called(void **state)
{
	struct guest guest;
	int client = serve_guest(&guest);
	char byte;

	(void)state;
	assert_true(send_all(client, "d", 1));
	assert_int_equal(read(client, &byte, 1), 1);
	evt_server_stop();
	(void)!send(client, "d", 1, MSG_NOSIGNAL);
	assert_int_equal(atomic_load(&guest.calls), 1);
	close(client);
}

static void break_loop(sockfd_t conn, short evt, void *arg)
{
	event_base_loopbreak(evt_thread_base());
	just_count(conn, evt, arg);
}

static void a_callback_that_breaks_its_loop_ends_nothing(void **state)
{
	int i;

	(void)state;
	assert_int_equal(serve(NULL, break_loop, 1), 0);
	for (i = 1; i <= 5; i++) {
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
		assert_true(WAIT_FOR(atomic_load(&tally.served) == i));
	}
	evt_server_stop();
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

static _Atomic(struct event_base *) bases[2];
static atomic_int nr_bases;

static void note_base(void)
{
	int i = atomic_fetch_add(&nr_bases, 1);

	if (i < 2)
		atomic_store(&bases[i], evt_thread_base());
}

static void dispatch_and_note_base(sockfd_t fd, short evt, void *arg)
{
	note_base();
	on_client(fd, evt, arg);
}

static void echo_and_note_base(sockfd_t conn, short evt, void *arg)
{
	note_base();
	echo(conn, evt, arg);
}

static void each_library_thread_has_a_base_and_no_other(void **state)
{
	int port;

	(void)state;
	atomic_store(&nr_bases, 0);
	assert_null(evt_thread_base());
	port = serve(dispatch_and_note_base, echo_and_note_base, 1);
	assert_true(answers(port));
	assert_null(evt_thread_base());
	evt_server_stop();
	assert_int_equal(atomic_load(&nr_bases), 2);
	assert_non_null(atomic_load(&bases[0]));
	assert_non_null(atomic_load(&bases[1]));
	assert_ptr_not_equal(atomic_load(&bases[0]), atomic_load(&bases[1]));
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

static void on_end_of_guest(evutil_socket_t fd, short what, void *arg)
{
	struct guest *guest = arg;

	(void)what;
	evt_close((sockfd_t)fd);
	event_free(guest->event);
	atomic_store(&guest->freed, true);
}

static void register_until_end(sockfd_t conn, short evt, void *arg)
{
	struct guest *guest = arg;

	if (guest) {
		guest->event = event_new(evt_thread_base(), conn, EV_READ,
			on_end_of_guest, guest);
		event_add(guest->event, NULL);
	}
	just_count(conn, evt, arg);
}

/* A worker sleeps in another call while the program has events there. */
static void a_worker_serves_on_while_own_events_come_and_go(void **state)
{
	struct guest guest;
	int pair[2];
	int i;

	(void)state;
	assert_int_equal(serve(NULL, register_until_end, 1), 0);
	for (i = 1; i <= 20; i++) {
		memset(&guest, 0, sizeof(guest));
		assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
		assert_int_equal(
			evt_thread_dispatch(pair[0], EV_READ, &guest), 0);
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
		assert_true(WAIT_FOR(atomic_load(&tally.served) == 3 * i - 1));
		close(pair[1]);
		assert_true(WAIT_FOR(atomic_load(&guest.freed)));
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
		assert_true(WAIT_FOR(atomic_load(&tally.served) == 3 * i));
	}
	evt_server_stop();
}

static _Atomic(struct evt_worker *) noted;

static void note_worker(sockfd_t conn, short evt, void *arg)
{
	atomic_store(&noted, evt_worker_self());
	just_count(conn, evt, arg);
}

static atomic_int end_of_pipe; /* the one that is to be watched */

static void register_by_task(struct evt_worker *worker, void *arg)
{
	(void)worker;
	register_until_end(atomic_load(&end_of_pipe), 0, arg);
}

/* What a task registers on a worker that slept is heard. */
static void a_task_registers_events_on_an_idle_worker(void **state)
{
	struct guest guest = {.event = NULL};
	int pair[2];

	(void)state;
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	atomic_store(&end_of_pipe, pair[0]);
	assert_int_equal(serve(NULL, note_worker, 1), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	assert_int_equal(
		evt_worker_post(atomic_load(&noted), register_by_task, &guest),
		0);
	close(pair[1]);
	assert_true(WAIT_FOR(atomic_load(&guest.freed)));
	evt_server_stop();
}

/* At the stop */

static atomic_int ran[8];
static atomic_int nr_ran;
static atomic_int results;

static void note_run(void *arg)
{
	int i = atomic_fetch_add(&nr_ran, 1);

	if (i < 8)
		atomic_store(&ran[i], (int)(intptr_t)arg);
}

static void register_three(sockfd_t conn, short evt, void *arg)
{
	int i;

	for (i = 1; i <= 3; i++)
		if (evt_thread_at_stop(note_run, numbered(i)) == 0)
			atomic_fetch_add(&results, 1);
	just_count(conn, evt, arg);
}

static void serve_at_stop(evt_callback tcb)
{
	atomic_store(&nr_ran, 0);
	atomic_store(&results, 0);
	assert_int_equal(serve(NULL, tcb, 1), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
}

static void at_stop_the_last_registered_is_called_first(void **state)
{
	(void)state;
	serve_at_stop(register_three);
	assert_int_equal(atomic_load(&results), 3);
	assert_int_equal(atomic_load(&nr_ran), 0);
	evt_server_stop();
	assert_int_equal(atomic_load(&nr_ran), 3);
	assert_int_equal(atomic_load(&ran[0]), 3);
	assert_int_equal(atomic_load(&ran[1]), 2);
	assert_int_equal(atomic_load(&ran[2]), 1);
}

static void run_after_all(void *arg)
{
	(void)arg;
	atomic_store(&results, atomic_load(&tally.served));
}

static void hold_and_register(sockfd_t conn, short evt, void *arg)
{
	if (arg) {
		evt_thread_at_stop(run_after_all, NULL);
		wait_at_gate();
	}
	just_count(conn, evt, arg);
}

static void at_stop_functions_come_after_the_last_callback(void **state)
{
	pthread_t stopper;
	int i;

	(void)state;
	atomic_store(&results, 0);
	assert_int_equal(serve(NULL, hold_and_register, 1), 0);
	for (i = 0; i < 200; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ,
					 i == 0 ? &results : NULL),
			0);
	stopper = stop_elsewhere(NULL);
	open_gate();
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&results), 200);
}

static void at_stop_is_for_library_threads_only(void **state)
{
	(void)state;
	assert_int_equal(serve(on_client, echo, 1) > 0, 1);
	log_forget();
	assert_int_equal(evt_thread_at_stop(note_run, NULL), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	assert_int_equal(evt_thread_at_stop(NULL, NULL), -1);
	assert_int_equal(errno, EINVAL);
	evt_server_stop();
}

static void register_too_late(void *arg)
{
	(void)arg;
	if (evt_thread_at_stop(note_run, NULL) == -1)
		atomic_store(&results, errno);
}

static void register_late(sockfd_t conn, short evt, void *arg)
{
	evt_thread_at_stop(register_too_late, NULL);
	just_count(conn, evt, arg);
}

static void at_stop_is_too_late_once_the_functions_run(void **state)
{
	(void)state;
	serve_at_stop(register_late);
	evt_server_stop();
	assert_int_equal(atomic_load(&results), ECANCELED);
	assert_int_equal(atomic_load(&nr_ran), 0);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

static void register_without_memory(sockfd_t conn, short evt, void *arg)
{
	fail_allocation(1, false);
	if (evt_thread_at_stop(note_run, NULL) == -1)
		atomic_store(&results, errno);
	just_count(conn, evt, arg);
}

static void at_stop_without_memory_is_refused(void **state)
{
	(void)state;
	serve_at_stop(register_without_memory);
	evt_server_stop();
	assert_int_equal(atomic_load(&results), ENOMEM);
	assert_int_equal(atomic_load(&nr_ran), 0);
}

static void register_and_turn_away(sockfd_t fd, short evt, void *arg)
{
	evt_thread_at_stop(note_run, numbered(7));
	turn_away(fd, evt, arg);
}

static void the_listener_calls_its_functions_too(void **state)
{
	int client;

	(void)state;
	atomic_store(&nr_ran, 0);
	client = connect_to(serve(register_and_turn_away, NULL, 0));
	assert_true(at_end(client));
	evt_server_stop();
	assert_int_equal(atomic_load(&nr_ran), 1);
	assert_int_equal(atomic_load(&ran[0]), 7);
	close(client);
}

/* Idle */

static void idle(void *arg)
{
	long before;

	(void)arg;
	CHECK(serve(on_client, echo, 8) > 0);
	CHECK(answers(evt_server_port()));
	usleep(50000); /* until the threads have gone to sleep */
	before = voluntary_switches();
	sleep(1);
	CHECK(voluntary_switches() - before <= 5);
	evt_server_stop();
}

/* C20 */
static void an_idle_pool_of_eight_makes_no_wake_ups(void **state)
{
	(void)state;
	if (under("tsan") ||
		under("valgrind")) /* they have threads, or locks */
		skip();
	assert_int_equal(in_child(idle, NULL, 10), 0);
}

static struct event *own[8];

static void add_timer(sockfd_t conn, short evt, void *arg)
{
	const struct timeval hour = {.tv_sec = 3600};
	struct event **mine = &own[evt_worker_index(evt_worker_self())];

	*mine = event_new(evt_thread_base(), -1, 0, on_guest, NULL);
	event_add(*mine, &hour);
	just_count(conn, evt, arg);
}

static void idle_with_timers(void *arg)
{
	long before;
	int i;

	(void)arg;
	CHECK(serve(on_client, add_timer, 8) > 0);
	for (i = 0; i < 8; i++)
		CHECK(evt_thread_dispatch(NO_FD, EV_READ, NULL) == 0);
	CHECK(WAIT_FOR(atomic_load(&tally.served) == 8));
	usleep(50000); /* until the threads have gone to sleep */
	before = voluntary_switches();
	sleep(1);
	CHECK(voluntary_switches() - before <= 5);
	evt_server_stop();
}

/* C20 */
static void an_idle_pool_with_timers_makes_no_wake_ups(void **state)
{
	(void)state;
	if (under("tsan") || under("valgrind"))
		skip();
	assert_int_equal(in_child(idle_with_timers, NULL, 10), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_stuck_worker_holds_up_its_own_clients_only),
		LEDGER_TEST(the_listeners_callback_may_close_at_once),
		LEDGER_TEST(the_listening_socket_cannot_be_closed_by_evt_close),
		LEDGER_TEST(
			the_listeners_callback_may_stop_the_server_and_go_on),
		LEDGER_TEST(a_program_has_events_of_its_own_on_a_workers_loop),
		LEDGER_TEST(after_stop_own_events_are_not_called),
		LEDGER_TEST(a_callback_that_breaks_its_loop_ends_nothing),
		LEDGER_TEST(each_library_thread_has_a_base_and_no_other),
		LEDGER_TEST(a_worker_serves_on_while_own_events_come_and_go),
		LEDGER_TEST(a_task_registers_events_on_an_idle_worker),
		LEDGER_TEST(at_stop_the_last_registered_is_called_first),
		LEDGER_TEST(at_stop_functions_come_after_the_last_callback),
		LEDGER_TEST(at_stop_is_for_library_threads_only),
		LEDGER_TEST(at_stop_is_too_late_once_the_functions_run),
		LEDGER_TEST(at_stop_without_memory_is_refused),
		LEDGER_TEST(the_listener_calls_its_functions_too),
		LEDGER_TEST(an_idle_pool_of_eight_makes_no_wake_ups),
		LEDGER_TEST(an_idle_pool_with_timers_makes_no_wake_ups),
	};

	return ledger_run("loops", tests);
}
