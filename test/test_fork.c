/*
 * test_fork.c: a child that is forked while the server runs, and lives: it has
 * a copy of every descriptor, and the parent must not depend on its end (J06).
 */
#include "rig.h"

#include <signal.h>
#include <sys/wait.h>

/* A child that does nothing until it is killed. */
static pid_t fork_idle_child(void)
{
	pid_t child = fork();

	if (child == 0) {
		alarm(60);
		for (;;)
			pause();
	}
	return child;
}

static void end_child(pid_t child)
{
	kill(child, SIGKILL);
	while (waitpid(child, NULL, 0) == -1 && errno == EINTR)
		;
}

/* J06 */
static void stop_does_not_wait_for_a_forked_child(void **state)
{
	pid_t child;
	int port;

	(void)state;
	port = serve(on_client, echo, 3);
	assert_true(answers(port));
	child = fork_idle_child();
	assert_true(child > 0);
	assert_true(answers(port));
	evt_server_stop();
	assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
	end_child(child);
}

/* J06 */
static void the_port_is_free_though_a_forked_child_lives(void **state)
{
	pid_t child;
	int port;

	(void)state;
	port = serve(on_client, echo, 1);
	child = fork_idle_child();
	assert_true(child > 0);
	evt_server_stop();
	assert_true(refused(port));
	assert_int_equal(evt_server_init(port, SOCK_STREAM), 0);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	evt_server_stop();
	end_child(child);
}

/* J06 */
static void what_was_queued_is_served_though_a_forked_child_lives(void **state)
{
	pid_t child;
	int i;

	(void)state;
	assert_int_equal(serve(NULL, count_at_gate, 1), 0);
	for (i = 0; i < 1000; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	child = fork_idle_child();
	assert_true(child > 0);
	open_gate();
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 1000);
	end_child(child);
}

static void close_in_a_child(sockfd_t conn, short evt, void *arg)
{
	int status = -1;
	pid_t child = fork();

	if (child == 0) {
		evt_close(conn);
		_exit(0);
	}
	if (child > 0)
		waitpid(child, &status, 0);
	atomic_fetch_add(&tally.accepted, status == 0);
	echo(conn, evt, arg);
}

/* J06 */
static void a_child_that_closes_leaves_the_parent_its_connection(void **state)
{
	(void)state;
	assert_true(answers(serve(on_client, close_in_a_child, 1)));
	assert_int_equal(atomic_load(&tally.accepted), 2);
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(stop_does_not_wait_for_a_forked_child),
		LEDGER_TEST(the_port_is_free_though_a_forked_child_lives),
		LEDGER_TEST(
			what_was_queued_is_served_though_a_forked_child_lives),
		LEDGER_TEST(
			a_child_that_closes_leaves_the_parent_its_connection),
	};

	return ledger_run("fork", tests);
}
