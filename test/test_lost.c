/*
 * test_lost.c: threads that end before their time, and loops that fail: what
 * was theirs goes to others, and a stop does not hang (C13, C15, C19).
 */
/* wrap: event_base_loop */
#include "rig.h"
#include "../evt-pool-internal.h"

#include <event2/event.h>
#include <event2/event_struct.h>

#define LAST_WORDS ((void *)1) /* the argument of a callback that ends it */

static void end_if_told(sockfd_t conn, short evt, void *arg)
{
	if (arg == LAST_WORDS)
		pthread_exit(NULL);
	just_count(conn, evt, arg);
}

static void end_when_the_gate_opens(sockfd_t conn, short evt, void *arg)
{
	if (arg == LAST_WORDS) {
		wait_at_gate();
		pthread_exit(NULL);
	}
	just_count(conn, evt, arg);
}

/* C15 */
static void a_worker_that_ends_leaves_the_others_at_work(void **state)
{
	int i;

	(void)state;
	assert_int_equal(serve(NULL, end_if_told, 3), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, LAST_WORDS), 0);
	assert_true(WAIT_FOR(log_has("has lost its thread")));
	for (i = 0; i < 30; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 30));
	evt_server_stop();
}

/* C15 */
static void what_waits_for_a_worker_that_ends_goes_to_the_others(void **state)
{
	int i;

	(void)state;
	assert_int_equal(serve(NULL, end_when_the_gate_opens, 2), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, LAST_WORDS), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	for (i = 0; i < 100; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 50));
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 100));
	assert_true(WAIT_FOR(log_has("50 passed on, 0 connections closed")));
	evt_server_stop();
}

/* C15: records that were read together with the last one. */
static void what_was_read_along_with_the_last_one_is_passed_on(void **state)
{
	int i;

	(void)state;
	assert_int_equal(serve(NULL, NULL, 0), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, LAST_WORDS), 0);
	for (i = 0; i < 99; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_int_equal(evt_server_threads(end_if_told, 2), 2);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 99));
	evt_server_stop();
}

/* C15 */
static void without_another_worker_connections_are_closed(void **state)
{
	struct evt_server_ledger ledger;
	int clients[5];
	int port;
	int i;

	(void)state;
	port = serve(on_client, end_when_the_gate_opens, 1);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, LAST_WORDS), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	for (i = 0; i < 5; i++)
		clients[i] = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == 5));
	open_gate();
	for (i = 0; i < 5; i++) {
		assert_true(at_end(clients[i]));
		close(clients[i]);
	}
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), -1);
	assert_int_equal(errno, ENXIO);
	evt_server_stop();
	evt_server_ledger_(&ledger);
	assert_int_equal(ledger.dropped, 5);
}

static void cancel_own_worker(sockfd_t conn, short evt, void *arg)
{
	pthread_cancel(pthread_self());
	pthread_testcancel();
	just_count(conn, evt, arg);
}

/* C15: it takes effect in no callback. */
static void a_callback_is_not_cancelled(void **state)
{
	(void)state;
	assert_int_equal(serve(NULL, cancel_own_worker, 2), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	assert_true(WAIT_FOR(log_has("has lost its thread")));
	evt_server_stop();
}

static void end_the_listener(sockfd_t fd, short evt, void *arg)
{
	on_client(fd, evt, arg);
	pthread_exit(NULL);
}

/* C15 */
static void a_listener_that_ends_leaves_the_workers_at_work(void **state)
{
	int port = serve(end_the_listener, echo, 2);
	int client = connect_to(port);
	char byte;

	(void)state;
	assert_true(WAIT_FOR(log_has("no more connections are accepted")));
	assert_true(send_all(client, "a", 1) && receive_all(client, &byte, 1));
	close(client);
	assert_true(refused(port));
	evt_server_stop();
	assert_true(answers(serve(on_client, echo, 2)));
	evt_server_stop();
}

static void note_the_end(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

static atomic_int ends;

static void register_and_end(sockfd_t conn, short evt, void *arg)
{
	(void)conn;
	(void)evt;
	(void)arg;
	evt_thread_at_stop(note_the_end, &ends);
	pthread_exit(NULL);
}

/* C15 */
static void what_is_to_run_at_the_stop_runs_when_the_thread_ends(void **state)
{
	(void)state;
	atomic_store(&ends, 0);
	assert_int_equal(serve(NULL, register_and_end, 1), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&ends) == 1));
	evt_server_stop();
	assert_int_equal(atomic_load(&ends), 1);
}

static void close_everything_and_stop(void *arg)
{
	int port = serve(on_client, echo, 3);

	(void)arg;
	CHECK(answers(port));
	CHECK(close_range(3, ~0U, 0) == 0);
	evt_server_stop();
	CHECK(evt_server_port() == -1);
}

/* C13 */
static void stop_returns_when_all_descriptors_were_closed(void **state)
{
	(void)state;
	/* TSan loses track of a thread that is cancelled in a call which it
	 * watches: it then sees no lock in what that thread does. */
	if (under("tsan"))
		skip();
	assert_int_equal(in_child(close_everything_and_stop, NULL, 10), 0);
}

/* The loop fails once, on the thread of this name. */
static _Atomic(const char *) failing;

int __real_event_base_loop(struct event_base *base, int flags);

int __wrap_event_base_loop(struct event_base *base, int flags)
{
	const char *wanted = atomic_load(&failing);
	char name[16] = "";

	pthread_getname_np(pthread_self(), name, sizeof(name));
	if (wanted && strcmp(name, wanted) == 0) {
		atomic_store(&failing, NULL);
		return -1;
	}
	return __real_event_base_loop(base, flags);
}

static struct event never[2];

/* With an event of the program's the worker needs its loop. */
static void need_the_loop(sockfd_t conn, short evt, void *arg)
{
	const struct timeval hour = {.tv_sec = 3600};

	if (arg == LAST_WORDS) {
		struct event *own = &never[evt_worker_index(evt_worker_self())];

		event_assign(own, evt_thread_base(), -1, 0, NULL, NULL);
		event_add(own, &hour);
	}
	just_count(conn, evt, arg);
}

/* C19 */
static void a_worker_whose_loop_fails_is_lost_and_told(void **state)
{
	int i;

	(void)state;
	assert_int_equal(serve(NULL, need_the_loop, 2), 0);
	atomic_store(&failing, "evt-worker-0");
	for (i = 0; i < 2; i++)
		assert_int_equal(
			evt_thread_dispatch(NO_FD, EV_READ, LAST_WORDS), 0);
	assert_true(WAIT_FOR(log_has("worker 0 has lost its thread")));
	for (i = 0; i < 10; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 12));
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	evt_server_stop();
}

/* C19 */
static void a_listener_whose_loop_fails_is_told_and_stops(void **state)
{
	int port;

	(void)state;
	atomic_store(&failing, "evt-listener");
	port = serve(NULL, just_count, 2);
	assert_int_equal(port, 0);
	assert_true(WAIT_FOR(log_has("no more connections are accepted")));
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	evt_server_stop();
}

static void close_own_pipe(sockfd_t conn, short evt, void *arg)
{
	struct evt_worker *self = evt_worker_self();

	need_the_loop(conn, evt, arg);
	close(self->pipe.read_fd);
}

static void stop_beside_a_closed_pipe(void *arg)
{
	(void)arg;
	CHECK(serve(NULL, close_own_pipe, 1) == 0);
	CHECK(evt_thread_dispatch(NO_FD, EV_READ, LAST_WORDS) == 0);
	CHECK(WAIT_FOR(atomic_load(&tally.served) == 1));
	evt_server_stop();
}

/* C13: the worker waits in epoll, which has forgotten the pipe. */
static void stop_returns_when_a_workers_pipe_was_closed(void **state)
{
	(void)state;
	if (under("tsan")) /* as above */
		skip();
	assert_int_equal(in_child(stop_beside_a_closed_pipe, NULL, 10), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_worker_that_ends_leaves_the_others_at_work),
		LEDGER_TEST(
			what_waits_for_a_worker_that_ends_goes_to_the_others),
		LEDGER_TEST(what_was_read_along_with_the_last_one_is_passed_on),
		LEDGER_TEST(without_another_worker_connections_are_closed),
		LEDGER_TEST(a_callback_is_not_cancelled),
		LEDGER_TEST(a_listener_that_ends_leaves_the_workers_at_work),
		LEDGER_TEST(
			what_is_to_run_at_the_stop_runs_when_the_thread_ends),
		LEDGER_TEST(stop_returns_when_all_descriptors_were_closed),
		LEDGER_TEST(stop_returns_when_a_workers_pipe_was_closed),
		LEDGER_TEST(a_worker_whose_loop_fails_is_lost_and_told),
		LEDGER_TEST(a_listener_whose_loop_fails_is_told_and_stops),
	};

	return ledger_run("lost", tests);
}
