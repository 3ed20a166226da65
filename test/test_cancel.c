/*
 * test_cancel.c: threads that are lost by what comes from outside: a program
 * cancels them while they wait, or the system calls of their loop fail (C15,
 * C19).
 */
#include "programs.h"
#include "rig.h"

#include <signal.h>

#include <event2/event.h>
#include <event2/event_struct.h>

/* Cancelled. TSan does not follow a thread that is cancelled in a call which it
 * watches. */

static _Atomic(pthread_t) victim;

/* The first that is served names its thread, and arg tells what to do: NULL,
 * nothing. */
#define NAME_IT    ((void *)1)
#define NAME_EVENT ((void *)2) /* with an event, so that it waits in its loop */

static struct event never;

static void name_thread(sockfd_t conn, short evt, void *arg)
{
	const struct timeval hour = {.tv_sec = 3600};

	if (arg)
		atomic_store(&victim, pthread_self());
	if (arg == NAME_EVENT) {
		event_assign(&never, evt_thread_base(), -1, 0, NULL, NULL);
		event_add(&never, &hour);
	}
	just_count(conn, evt, NULL);
	evt_close(conn);
}

/* A pool whose worker 0 has been cancelled. */
static void serve_and_cancel(int nr, void *arg)
{
	assert_true(serve(on_client, name_thread, nr) > 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, arg), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	pthread_cancel(atomic_load(&victim));
	assert_true(WAIT_FOR(log_has("has lost its thread")));
}

static void assert_the_others_serve(void)
{
	int i;

	for (i = 0; i < 30; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 31));
	evt_server_stop();
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
}

/* C15 */
static void a_worker_may_be_cancelled_while_it_waits(void **state)
{
	(void)state;
	if (under("tsan"))
		skip();
	serve_and_cancel(3, NAME_IT);
	assert_the_others_serve();
}

/* C15 */
static void a_worker_may_be_cancelled_in_its_loop(void **state)
{
	(void)state;
	if (under("tsan"))
		skip();
	serve_and_cancel(3, NAME_EVENT);
	assert_the_others_serve();
}

/* C15 */
static void when_the_only_worker_is_cancelled_clients_are_sent_away(
	void **state)
{
	struct evt_server_ledger ledger;
	int client;

	(void)state;
	if (under("tsan"))
		skip();
	serve_and_cancel(1, NAME_IT);
	client = connect_to(evt_server_port());
	assert_true(at_end(client));
	close(client);
	evt_server_stop();
	evt_server_ledger_(&ledger);
	assert_int_equal(ledger.accepted, 1);
	assert_int_equal(ledger.accepted + 1,
		ledger.delivered + ledger.refused + ledger.dropped);
}

static void on_client_named(sockfd_t fd, short evt, void *arg)
{
	atomic_store(&victim, pthread_self());
	on_client(fd, evt, arg);
}

/* C15 */
static void a_listener_may_be_cancelled_and_the_workers_go_on(void **state)
{
	int port;

	(void)state;
	if (under("tsan"))
		skip();
	port = serve(on_client_named, echo, 2);
	assert_true(answers(port));
	pthread_cancel(atomic_load(&victim));
	assert_true(WAIT_FOR(log_has("no more connections are accepted")));
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 2));
	evt_server_stop();
	assert_true(answers(serve(on_client, echo, 2)));
	evt_server_stop();
}

/* C15: as many times as there are workers, one by one. */
static void every_worker_may_be_cancelled_in_turn(void **state)
{
	int i;

	(void)state;
	if (under("tsan"))
		skip();
	assert_int_equal(serve(NULL, name_thread, 4), 0);
	for (i = 1; i <= 4; i++) {
		log_forget();
		assert_int_equal(
			evt_thread_dispatch(NO_FD, EV_READ, NAME_IT), 0);
		assert_true(WAIT_FOR(atomic_load(&tally.served) == i));
		pthread_cancel(atomic_load(&victim));
		assert_true(WAIT_FOR(log_has("has lost its thread")));
	}
	assert_true(WAIT_FOR(evt_thread_dispatch(NO_FD, EV_READ, NULL) == -1));
	assert_int_equal(errno, ENXIO);
	evt_server_stop();
}

/* System calls that fail */

/* LeakSanitizer traces its process itself. */
static bool can_trace(void)
{
	return !under("asan") &&
		shell("strace -qq -f -o /dev/null -e trace=none "
		      "-e inject=getpid:error=EPERM:when=9 true") == 0;
}

/* test/evt_test with two workers, its calls failing as told: its port. */
static int start_traced(const char *calls, const char *how)
{
	char trace[64];
	char inject[96];
	const char *args[] = {"strace", "-D", "-f", "-qq", "-o", "/dev/null",
		"-e", trace, "-e", inject, program("test/evt_test"), "0", "2",
		NULL};
	char line[64] = "";
	size_t used = 0;

	snprintf(trace, sizeof(trace), "trace=%s", calls);
	snprintf(inject, sizeof(inject), "inject=%s:%s", calls, how);
	server.pid = start_program(args, "strace", &server.out);
	while (used < sizeof(line) - 1 && !strchr(line, '\n') &&
		read(server.out, line + used, 1) == 1)
		used++;
	return strstr(line, "on port ") ? atoi(strstr(line, "on port ") + 8)
					: -1;
}

/* Clients are answered until one is not: how many were. */
static int clients_until_it_fails(int port)
{
	int nr = 0;

	while (nr < 20 && answers(port))
		nr++;
	return nr;
}

/* C19 */
static void a_listener_whose_epoll_fails_is_told_and_stopped(void **state)
{
	int port;

	(void)state;
	if (!can_trace())
		skip();
	port = start_traced(
		"epoll_wait,epoll_pwait,epoll_pwait2", "error=EBADF:when=4");
	assert_true(port > 0);
	/* What it had accepted before was served. */
	assert_int_equal(clients_until_it_fails(port), 2);
	assert_int_equal(end_server(SIGTERM), 0);
	assert_non_null(strstr(said, "the listener has lost its thread"));
	assert_null(strstr(said, "worker"));
}

/* C19 */
static void workers_whose_reads_fail_are_told_and_stopped(void **state)
{
	int port;
	int nr;

	(void)state;
	if (!can_trace())
		skip();
	/* Each reads its pipe and a connection in turn: the 7th is its pipe. */
	port = start_traced("read", "error=EIO:when=7");
	assert_true(port > 0);
	nr = clients_until_it_fails(port);
	assert_int_equal(nr, 6);
	assert_int_equal(end_server(SIGTERM), 0);
	assert_non_null(strstr(said, "worker 0 has lost its thread"));
	assert_non_null(strstr(said, "worker 1 has lost its thread"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_worker_may_be_cancelled_while_it_waits),
		LEDGER_TEST(a_worker_may_be_cancelled_in_its_loop),
		LEDGER_TEST(
			when_the_only_worker_is_cancelled_clients_are_sent_away),
		LEDGER_TEST(a_listener_may_be_cancelled_and_the_workers_go_on),
		LEDGER_TEST(every_worker_may_be_cancelled_in_turn),
		LEDGER_TEST(a_listener_whose_epoll_fails_is_told_and_stopped),
		LEDGER_TEST(workers_whose_reads_fail_are_told_and_stopped),
	};

	return ledger_run("cancel", tests);
}
