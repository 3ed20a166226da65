/*
 * test_pool_fork.c: pools and fork(2): a program may fork before it runs one,
 * as daemons do; later, a child is refused every call, and the parent does not
 * notice; and a program that is executed has nothing of ours open.
 */
#include "pool_rig.h"

#include <netdb.h>
#include <signal.h>
#include <sys/wait.h>

/* What a child tries */

static void no_conn_task(struct evt_conn *conn, void *arg)
{
	(void)conn;
	(void)arg;
}

#define REFUSED(call, result) \
	(errno = 0, CHECK_((call) == (result) && errno == EPERM, #call))

static int nr_wrong;
static struct evt_worker *a_worker; /* known before the fork */

static void CHECK_(bool condition, const char *call)
{
	if (condition)
		return;
	fprintf(stderr, "not EPERM: %s (errno %d)\n", call, errno);
	nr_wrong++;
}

static void try_what_acts(void)
{
	struct evt_worker *worker = a_worker;
	struct evt_stats stats;

	REFUSED(evt_pool_new(NULL), NULL);
	REFUSED(evt_pool_run(pool), -1);
	REFUSED(evt_pool_start(pool), -1);
	REFUSED(evt_pool_wait(pool), -1);
	REFUSED(evt_pool_stats(pool, &stats), -1);
	REFUSED(evt_worker_post(worker, note_task_ran, NULL), -1);
	REFUSED(evt_pool_post_all(pool, note_task_ran, NULL), -1);
	REFUSED(evt_pool_post_conn(pool, 1, no_conn_task, NULL), -1);
	REFUSED(evt_pool_send(pool, 1, "x", 1), -1);
	REFUSED(evt_listen(pool, "tcp://127.0.0.1:0", &echoes, NULL, NULL),
		NULL);
	REFUSED(evt_connect(worker, "tcp://127.0.0.1:1", &echoes, NULL, NULL),
		NULL);
	REFUSED(evt_connect_addrs(
			worker, &(struct addrinfo){0}, &echoes, NULL, NULL),
		NULL);
	evt_pool_stop(pool);
	evt_listener_close(listener);
	evt_pool_free(pool);
}

/* Every call, says evt-pool.h. */
static void try_what_asks(void)
{
	REFUSED(evt_pool_workers(pool), -1);
	REFUSED(evt_pool_worker(pool, 0), NULL);
	REFUSED(evt_listener_port(listener), -1);
	errno = 0;
	evt_worker_each_conn(NULL, NULL, NULL);
	CHECK_(errno == EPERM, "evt_worker_each_conn");
}

static void try_the_connection(struct evt_conn *conn)
{
	struct sockaddr_storage addr;
	uid_t uid;

	REFUSED(evt_conn_write(conn, "x", 1), -1);
	REFUSED(evt_conn_printf(conn, "x"), -1);
	REFUSED(evt_conn_write_ref(conn, "x", 1, NULL, NULL), -1);
	REFUSED(evt_conn_sendfile(conn, 0, 0, 1), -1);
	REFUSED(evt_conn_pending(conn), 0);
	REFUSED(evt_conn_want(conn, 1), -1);
	REFUSED(evt_conn_finish(conn), -1);
	REFUSED(evt_conn_error(conn), -1);
	REFUSED(evt_conn_peer(conn, &addr), -1);
	REFUSED(evt_conn_local(conn, &addr), -1);
	REFUSED(evt_conn_peer_uid(conn, &uid), -1);
	REFUSED(evt_conn_data(conn), NULL);
	REFUSED(evt_conn_id(conn), 0);
	REFUSED(evt_conn_set_timeout(conn, EVT_TIMEOUT_IDLE, 1), -1);
	evt_conn_set_data(conn, NULL);
	evt_conn_pause(conn);
	evt_conn_resume(conn);
	evt_conn_close(conn);
	evt_conn_abort(conn);
}

/* What a child did, as its status. */
static int child_status(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) == -1)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static pid_t fork_with_alarm(void)
{
	pid_t child = fork();

	if (child == 0) {
		signal(SIGALRM, SIG_DFL);
		alarm(20);
	}
	return child;
}

static void expect_parent_unaffected(int *clients, int nr)
{
	char byte;
	int i;

	for (i = 0; i < nr; i++) {
		assert_true(send_all(clients[i], "a", 1));
		assert_true(receive_all(clients[i], &byte, 1));
	}
	assert_true(answers(pool_port));
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	for (i = 0; i < nr; i++)
		assert_true(at_end(clients[i]));
	assert_true(is_balanced());
	close_clients(clients, nr);
	free_pool();
}

/* J06 */
static void a_child_is_refused_each_call_that_acts(void **state)
{
	int clients[4];
	pid_t child;

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(clients, 4);
	a_worker = evt_pool_worker(pool, 0);
	child = fork_with_alarm();
	if (child == 0) {
		try_what_acts();
		_exit(nr_wrong);
	}
	assert_int_equal(child_status(child), 0);
	expect_parent_unaffected(clients, 4);
}

/* J06 */
static void a_child_is_refused_each_call_that_asks(void **state)
{
	pid_t child;

	(void)state;
	start_pool(NULL, NULL, NULL);
	child = fork_with_alarm();
	if (child == 0) {
		try_what_asks();
		_exit(nr_wrong);
	}
	assert_int_equal(child_status(child), 0);
	free_pool();
}

static atomic_int status_of_child;

static size_t fork_at_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	pid_t child;

	if (atomic_load(&status_of_child) != -1)
		return echo_data(conn, data, len, arg);
	a_worker = evt_worker_self();
	child = fork_with_alarm();
	if (child == 0) {
		try_the_connection(conn);
		try_what_acts();
		nr_wrong += evt_worker_self() != NULL;
		_exit(nr_wrong);
	}
	atomic_store(&status_of_child, child_status(child));
	return echo_data(conn, data, len, arg);
}

static const struct evt_handlers forking = {
	.on_open = note_open, .on_data = fork_at_data, .on_close = note_close};

/* J06 */
static void a_child_of_a_handler_is_refused_each_call(void **state)
{
	int clients[4];

	(void)state;
	atomic_store(&status_of_child, -1);
	start_pool(NULL, &forking, NULL);
	connect_clients(clients, 4);
	assert_true(send_all(clients[1], "a", 1));
	assert_true(receive_all(clients[1], &(char){0}, 1));
	assert_int_equal(atomic_load(&status_of_child), 0);
	expect_parent_unaffected(clients, 4);
}

static int fork_at_choose(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	pid_t child;

	(void)self;
	(void)peer;
	(void)arg;
	if (atomic_load(&status_of_child) != -1)
		return 0;
	a_worker = evt_pool_worker(pool, 0);
	child = fork_with_alarm();
	if (child == 0) {
		try_what_acts();
		_exit(nr_wrong);
	}
	atomic_store(&status_of_child, child_status(child));
	return 0;
}

/* J06 */
static void a_child_of_the_accepting_thread_is_refused_each_call(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = fork_at_choose};
	int clients[2];

	(void)state;
	atomic_store(&status_of_child, -1);
	start_pool(NULL, NULL, &how);
	connect_clients(clients, 2);
	assert_int_equal(atomic_load(&status_of_child), 0);
	expect_parent_unaffected(clients, 2);
}

static pid_t fork_idle_child(void)
{
	pid_t child = fork_with_alarm();

	if (child == 0)
		for (;;)
			pause();
	return child;
}

static void end_child(pid_t child)
{
	kill(child, SIGKILL);
	child_status(child);
}

/* J06: it has a copy of every descriptor. */
static void a_stop_does_not_wait_for_a_child_that_lives(void **state)
{
	int clients[6];
	pid_t child;

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(clients, 6);
	child = fork_idle_child();
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(refused(pool_port));
	free_pool();
	end_child(child);
	close_clients(clients, 6);
	assert_int_equal(atomic_load(&seen.closed), 6);
}

/* J06: a client hears of the end though the child has its connection. */
static void a_closed_connection_is_closed_though_a_child_has_it(void **state)
{
	int clients[3];
	pid_t child;
	int i;

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(clients, 3);
	child = fork_idle_child();
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	for (i = 0; i < 3; i++)
		assert_true(at_end(clients[i]));
	free_pool();
	end_child(child);
	close_clients(clients, 3);
}

/* Before it runs */

static void serve_in_child(void *arg)
{
	struct evt_stats stats;

	(void)arg;
	CHECK(evt_pool_start(pool) == 0);
	CHECK(answers(pool_port));
	evt_pool_stop(pool);
	CHECK(evt_pool_wait(pool) == 0);
	CHECK(evt_pool_stats(pool, &stats) == 0 && stats.closed_peer == 1);
	evt_pool_free(pool);
	pool = evt_pool_new(NULL);
	CHECK(pool && evt_pool_start(pool) == 0);
	evt_pool_free(pool);
}

/* J06: a daemon. */
static void a_child_forked_before_run_serves(void **state)
{
	(void)state;
	make_pool(NULL, NULL, NULL);
	assert_int_equal(in_child(serve_in_child, NULL, 10), 0);
	free_pool();
}

static size_t stop_at_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	evt_pool_stop(pool);
	return echo_data(conn, data, len, arg);
}

/* Says its port, and then what run gave. */
static void become_a_daemon(void *arg)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_data = stop_at_data};
	int *told = arg;
	int result;

	pool = evt_pool_new(NULL);
	listener = evt_listen(pool, "tcp://127.0.0.1:0", &handlers, NULL, NULL);
	CHECK(listener);
	pool_port = evt_listener_port(listener);
	if (fork() != 0)
		_exit(0);
	setsid();
	alarm(20);
	CHECK(write(told[1], &pool_port, sizeof(int)) == sizeof(int));
	result = evt_pool_run(pool);
	evt_pool_free(pool);
	CHECK(write(told[1], &result, sizeof(int)) == sizeof(int));
	_exit(0);
}

/* J06 */
static void a_program_may_become_a_daemon_after_evt_listen(void **state)
{
	int told[2];
	int number;

	(void)state;
	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	assert_int_equal(in_child(become_a_daemon, told, 10), 0);
	close(told[1]);
	assert_int_equal(read(told[0], &number, sizeof(int)), sizeof(int));
	assert_true(answers(number));
	assert_int_equal(read(told[0], &number, sizeof(int)), sizeof(int));
	assert_int_equal(number, 0);
	close(told[0]);
}

static void start_again_in_child(void *arg)
{
	(void)arg;
	pool = evt_pool_new(NULL);
	CHECK(pool && evt_pool_start(pool) == 0);
	CHECK(evt_pool_post_all(pool, note_task_ran, NULL) > 0);
	evt_pool_free(pool);
}

/* J06: no thread of ours is left. */
static void a_child_forked_after_the_end_makes_a_pool_of_its_own(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_true(answers(pool_port));
	free_pool();
	assert_int_equal(in_child(start_again_in_child, NULL, 10), 0);
}

/* J07: what a program that is executed finds open, beside what this one was
 * given itself. */

static int run_count_fds(void)
{
	char self[512] = ""; /* by its own path: for valgrind the link is not */
	pid_t child;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) == -1)
		return -1;
	child = vfork();
	if (child == 0) {
		execl(self, "test_pool_fork", "fds", (char *)NULL);
		_exit(126);
	}
	return child_status(child);
}

struct caller {
	pthread_t thread;
	atomic_bool done;
};

static void *call_in_a_loop(void *arg)
{
	struct caller *it = arg;

	while (!atomic_load(&it->done)) {
		int fd = connect_to(pool_port);

		if (fd != -1)
			close(fd);
	}
	return NULL;
}

/* J07 */
static void an_executed_program_has_nothing_of_ours_open(void **state)
{
	struct caller caller = {.done = false};
	int rounds = under("plain") ? 100 : 5;
	int before = run_count_fds();
	int wrong = 0;
	int i;

	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_int_equal(
		pthread_create(&caller.thread, NULL, call_in_a_loop, &caller),
		0);
	assert_true(WAIT_FOR(atomic_load(&seen.opened) > 0));
	for (i = 0; i < rounds; i++)
		wrong += run_count_fds() != before;
	atomic_store(&caller.done, true);
	pthread_join(caller.thread, NULL);
	free_pool();
	assert_in_range(before, 3, 60);
	assert_int_equal(wrong, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_child_is_refused_each_call_that_acts),
		LEDGER_TEST(a_child_is_refused_each_call_that_asks),
		LEDGER_TEST(a_child_of_a_handler_is_refused_each_call),
		LEDGER_TEST(
			a_child_of_the_accepting_thread_is_refused_each_call),
		LEDGER_TEST(a_stop_does_not_wait_for_a_child_that_lives),
		LEDGER_TEST(
			a_closed_connection_is_closed_though_a_child_has_it),
		LEDGER_TEST(a_child_forked_before_run_serves),
		LEDGER_TEST(a_program_may_become_a_daemon_after_evt_listen),
		LEDGER_TEST(
			a_child_forked_after_the_end_makes_a_pool_of_its_own),
		LEDGER_TEST(an_executed_program_has_nothing_of_ours_open),
	};

	(void)argv;
	if (argc > 1)
		return count_fds();
	return ledger_run("pool_fork", tests);
}
