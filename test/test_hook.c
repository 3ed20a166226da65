/*
 * test_hook.c: a log hook that is slow, or calls into the library itself, at
 * the moments at which the library has most to lose (J15).
 */
#include "rig.h"
#include "../evt-core.h"

#include <sys/resource.h>

static atomic_bool in_hook;
static atomic_bool may_leave_hook;

/* Holds the line that tells of the listener's grace until it is told to go. */
static void hold_the_line(int level, const char *line, void *arg)
{
	(void)level;
	(void)arg;
	if (!strstr(line, "the listener's callback still running"))
		return;
	atomic_store(&in_hook, true);
	WAIT_FOR(atomic_load(&may_leave_hook));
}

static void accept_and_wait(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	(void)evt;
	(void)arg;
	wait_at_gate();
	evt_close(conn);
}

/* J15, D07 */
static void a_slow_hook_does_not_carry_the_grace_into_the_next_run(void **state)
{
	int client = connect_to(serve(accept_and_wait, echo, 1));
	pthread_t stopper;

	(void)state;
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	atomic_store(&in_hook, false);
	atomic_store(&may_leave_hook, false);
	evt_set_log(hold_the_line, NULL);
	evt_server_grace_ms(0);
	stopper = stop_elsewhere(NULL);
	assert_true(WAIT_FOR(atomic_load(&in_hook)));
	open_gate();
	assert_true(WAIT_FOR(get_server_addrinfo() == NULL));
	atomic_store(&may_leave_hook, true);
	pthread_join(stopper, NULL);
	log_catch();
	close(client);
	assert_true(answers(serve(on_client, echo, 1)));
	evt_server_stop();
}

/* Calls what takes the lock of the server. */
static void call_back(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
	get_server_addrinfo();
	evt_thread_dispatch(-2, EV_READ, NULL);
}

static void undo_a_pool_with_a_curious_hook(void *arg)
{
	const struct rlimit few = {64, 64};
	int i;

	(void)arg;
	CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
	CHECK(evt_server_init(0, SOCK_STREAM) == 0);
	for (i = 0; i < 20; i++) /* held back, and told of later */
		CHECK(evt_thread_dispatch(-1, EV_READ, NULL) == -1);
	evt_set_log(call_back, NULL);
	CHECK(evt_server_threads(echo, 100) == -1 && errno == EMFILE);
	evt_server_stop();
}

/* J15 */
static void a_hook_may_call_while_a_start_is_undone(void **state)
{
	(void)state;
	if (under("valgrind")) /* it needs descriptors of its own */
		skip();
	assert_int_equal(
		in_child(undo_a_pool_with_a_curious_hook, NULL, 10), 0);
}

static void stop_from_hook(int level, const char *line, void *arg)
{
	(void)line;
	(void)arg;
	if (level >= EVT_LOG_WARN)
		evt_server_stop();
}

/* J15, D02 */
static void a_hook_may_stop_the_server(void **state)
{
	(void)state;
	assert_true(answers(serve(on_client, echo, 2)));
	evt_set_log(stop_from_hook, NULL);
	assert_int_equal(evt_thread_dispatch(-1, EV_READ, NULL), -1);
	log_catch();
	assert_int_equal(evt_server_port(), -1);
	assert_null(get_server_addrinfo());
}

static void run_own_loop(sockfd_t conn, short evt, void *arg)
{
	if (atomic_load(&tally.served) == 0)
		wait_at_gate();
	else
		event_base_loop(evt_thread_base(), EVLOOP_NONBLOCK);
	just_count(conn, evt, arg);
}

/* A callback must not run its loop; one that does so loses nothing. */
static void a_callback_that_runs_its_own_loop_loses_no_connection(void **state)
{
	int i;

	(void)state;
	assert_int_equal(serve(NULL, run_own_loop, 1), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	for (i = 0; i < 200; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	open_gate();
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 201);
}

static void end_thread(void *arg)
{
	atomic_store((atomic_bool *)arg, true);
	pthread_exit(NULL);
}

static atomic_bool ended_again;

static void end_twice(sockfd_t conn, short evt, void *arg)
{
	if (atomic_fetch_add(&tally.accepted, 1) > 0) {
		just_count(conn, evt, arg);
		return;
	}
	wait_at_gate();
	evt_thread_at_stop(end_thread, &ended_again);
	pthread_exit(NULL);
}

/* C15 */
static void a_thread_that_ends_while_it_ends_loses_no_queue(void **state)
{
	int i;

	(void)state;
	atomic_store(&ended_again, false);
	assert_int_equal(serve(NULL, end_twice, 2), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	for (i = 0; i < 10; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&ended_again)));
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 10));
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(
			a_slow_hook_does_not_carry_the_grace_into_the_next_run),
		LEDGER_TEST(a_hook_may_call_while_a_start_is_undone),
		LEDGER_TEST(a_hook_may_stop_the_server),
		LEDGER_TEST(
			a_callback_that_runs_its_own_loop_loses_no_connection),
		LEDGER_TEST(a_thread_that_ends_while_it_ends_loses_no_queue),
	};

	return ledger_run("hook", tests);
}
