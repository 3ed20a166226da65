/*
 * test_process.c: the server and the process that it lives in: its signals, its
 * forks, and the programs that it executes.
 */
#include "line_server.h"
#include "network.h"
#include "../evt-core.h"
#include "../evt-log.h"
#include "../evt-pool.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Signals */

static void write_till_it_fails(sockfd_t conn, short evt, void *arg)
{
	static const char bytes[65536];

	(void)evt, (void)arg;
	while (write(conn, bytes, sizeof(bytes)) > 0)
		;
	evt_close(conn);
	atomic_fetch_add(&served, 1);
}

static void outlive_300_that_vanish(void *arg)
{
	int port;
	int i;

	(void)arg;
	signal(SIGPIPE, SIG_DFL);
	port = start_server(on_client, write_till_it_fails, 4);
	for (i = 0; i < 300; i++)
		close_with_reset(connect_to(port));
	CHECK(WAIT_FOR(atomic_load(&served) > 0));
	evt_server_stop();
	port = start_server(on_client, echo, 1);
	CHECK(serves(port));
	evt_server_stop();
}

/* E01 */
static void clients_that_vanish_do_not_end_the_process(void **state)
{
	(void)state;
	assert_int_equal(in_child(outlive_300_that_vanish, NULL, 20), 0);
}

static void unblock_sigpipe(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* Writes till it gets EPIPE, closes, and lets SIGPIPE come if it wants to. */
static void get_epipe_and_unblock(sockfd_t conn, short evt, void *arg)
{
	ssize_t len = 0;

	(void)evt, (void)arg;
	atomic_fetch_add(&in_tcb, 1);
	(void)WAIT_FOR(atomic_load(&gate));
	while (len != -1 || errno == ECONNRESET)
		len = write(conn, "bytes", 5);
	atomic_store(&result, errno);
	evt_close(conn);
	unblock_sigpipe();
	atomic_fetch_add(&served, 1);
}

static void unblock_after_epipe(void *arg)
{
	int port;

	(void)arg;
	signal(SIGPIPE, SIG_DFL);
	port = start_server(on_client, get_epipe_and_unblock, 1);
	close_with_reset(connect_to(port));
	atomic_store(&gate, true);
	CHECK(WAIT_FOR(atomic_load(&served) == 1));
	CHECK(atomic_load(&result) == EPIPE);
	evt_server_stop();
}

/* J03 */
static void a_callback_that_unblocks_sigpipe_after_epipe_lives(void **state)
{
	(void)state;
	assert_int_equal(in_child(unblock_after_epipe, NULL, 10), 0);
}

static void get_cut_and_unblock(sockfd_t conn, short evt, void *arg)
{
	char byte;

	/* The stop ends this: it shuts the connection down. */
	CHECK(read(conn, &byte, 1) == 0);
	get_epipe_and_unblock(conn, evt, arg);
}

static void unblock_after_a_cut(void *arg)
{
	int fd;

	(void)arg;
	signal(SIGPIPE, SIG_DFL);
	fd = connect_to(start_server(on_client, get_cut_and_unblock, 1));
	evt_server_grace_ms(0);
	CHECK(send_all(fd, "", 0));
	atomic_store(&gate, true);
	evt_server_stop();
	CHECK(atomic_load(&result) == EPIPE || atomic_load(&in_tcb) == 0);
	close(fd);
}

/* J03: the stop itself brought the EPIPE about */
static void a_callback_that_was_cut_may_unblock_sigpipe_too(void **state)
{
	(void)state;
	assert_int_equal(in_child(unblock_after_a_cut, NULL, 10), 0);
}

/* The value of a line of a thread's status, see proc(5); 0 on failure. */
static unsigned long long status_value(const char *task, const char *key)
{
	char path[300];
	char line[256];
	unsigned long long value = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%s/status", task);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, key, strlen(key)) == 0)
			value = strtoull(line + strlen(key), NULL, 16);
	if (file)
		fclose(file);
	return value;
}

static bool is_ours(const char *task)
{
	char path[300];
	char name[16] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task);
	file = fopen(path, "re");
	if (file && !fgets(name, sizeof(name), file))
		name[0] = '\0';
	if (file)
		fclose(file);
	return strncmp(name, "evt-", 4) == 0;
}

/* Of the signals that can be blocked at all; glibc keeps 32 and 33. */
static unsigned long long expected_mask(void)
{
	static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP,
		SIGSYS, SIGABRT, SIGPROF, SIGKILL, SIGSTOP, 32, 33};
	unsigned long long mask = ~0ULL;
	size_t i;

	for (i = 0; i < sizeof(open) / sizeof(open[0]); i++)
		mask &= ~(1ULL << (open[i] - 1));
	return mask;
}

/* How many library threads there are; -1 if one blocks other signals. */
static int threads_with_mask(unsigned long long mask)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	int threads = 0;

	while ((entry = readdir(dir))) {
		if (!is_ours(entry->d_name))
			continue;
		if (status_value(entry->d_name, "SigBlk:") != mask) {
			threads = -1;
			break;
		}
		threads++;
	}
	closedir(dir);
	return threads;
}

/* J02 */
static void our_threads_block_all_signals_but_those_of_faults(void **state)
{
	int port;

	(void)state;
	if (under("valgrind")) /* has masks of its own */
		skip();
	port = start_server(on_client, echo, 3);
	assert_true(serves(port));
	assert_true(WAIT_FOR(threads_with_mask(expected_mask()) == 4));
	evt_server_stop();
}

/* J02 */
static void the_callers_signal_mask_is_left_as_it_was(void **state)
{
	sigset_t odd, before, after;
	int sig;

	(void)state;
	sigemptyset(&odd);
	sigaddset(&odd, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &odd, NULL);
	pthread_sigmask(SIG_BLOCK, NULL, &before);
	assert_true(serves(start_server(on_client, echo, 2)));
	evt_server_stop();
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	for (sig = 1; sig < NSIG; sig++)
		assert_int_equal(
			sigismember(&after, sig), sigismember(&before, sig));
	pthread_sigmask(SIG_UNBLOCK, &odd, NULL);
}

static atomic_int handled_by;

static void note_thread(int sig)
{
	(void)sig;
	atomic_store(&handled_by, (int)syscall(SYS_gettid));
}

static void keep_100_signals_to_itself(void *arg)
{
	sigset_t set;
	int port;
	int i;

	(void)arg;
	port = start_server(on_client, echo, 4);
	CHECK(serves(port));
	signal(SIGUSR1, note_thread);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	for (i = 0; i < 100; i++) {
		/* Whoever has it unblocked takes it: nobody, then main. */
		pthread_sigmask(SIG_BLOCK, &set, NULL);
		CHECK(kill(getpid(), SIGUSR1) == 0);
		CHECK(serves(port) && atomic_load(&handled_by) == 0);
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
		CHECK(atomic_exchange(&handled_by, 0) == getpid());
	}
	evt_server_stop();
}

/* J02 */
static void the_programs_signals_are_handled_on_its_own_thread(void **state)
{
	(void)state;
	assert_int_equal(in_child(keep_100_signals_to_itself, NULL, 10), 0);
}

static void read_dispositions(struct sigaction *actions)
{
	int sig;

	memset(actions, 0, NSIG * sizeof(*actions));
	for (sig = 1; sig < NSIG; sig++)
		sigaction(sig, NULL, &actions[sig]);
}

/* J04 */
static void the_programs_handlers_are_left_as_they_were(void **state)
{
	struct sigaction before[NSIG], during[NSIG], after[NSIG];
	int sig;

	(void)state;
	read_dispositions(before);
	assert_true(serves(start_server(on_client, echo, 2)));
	read_dispositions(during);
	evt_server_stop();
	read_dispositions(after);
	for (sig = 1; sig < NSIG; sig++) {
		assert_ptr_equal(
			before[sig].sa_handler, during[sig].sa_handler);
		assert_ptr_equal(before[sig].sa_handler, after[sig].sa_handler);
		assert_int_equal(before[sig].sa_flags, during[sig].sa_flags);
		assert_int_equal(before[sig].sa_flags, after[sig].sa_flags);
	}
}

/* Forks */

static void nothing(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
}

static void on_stop(void *arg)
{
	(void)arg;
}

/* In a child that was forked while the server runs: true if all is refused. */
static bool all_is_refused(struct evt_worker *worker)
{
	char byte;

#define REFUSED(call) (errno = 0, (call) == -1 && errno == EPERM)
	return REFUSED(evt_server_init(0, SOCK_STREAM)) &&
		REFUSED(evt_server_start(on_client, NULL)) &&
		REFUSED(evt_server_threads(echo, 1)) &&
		REFUSED(evt_server_grace_ms(1)) && REFUSED(evt_tcp(0, NULL)) &&
		REFUSED(evt_udp(0, &byte, 1, 0, NULL)) &&
		REFUSED(evt_thread_dispatch(0, EV_READ, NULL)) &&
		REFUSED(evt_thread_at_stop(on_stop, NULL)) &&
		(!worker || REFUSED(evt_worker_post(worker, nothing, NULL))) &&
		!evt_thread_base() && !evt_worker_self();
}

/* Forks; 0 if the child found all refused and could stop. */
static int child_is_refused(void)
{
	struct evt_worker *worker = evt_worker_self();
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		bool ok;

		alarm((unsigned)(10 * slowness()));
		evt_set_log(NULL, NULL);
		close(STDERR_FILENO);
		ok = all_is_refused(worker);
		evt_server_stop();
		_exit(ok ? 0 : 1);
	}
	while (waitpid(pid, &status, 0) == -1 && errno == EINTR)
		;
	return status;
}

static void fork_and_answer(sockfd_t conn, short evt, void *arg)
{
	char status = (char)(child_is_refused() == 0 ? 'y' : 'n');

	(void)evt, (void)arg;
	if (write(conn, &status, 1) != 1)
		atomic_store(&result, errno);
	evt_close(conn);
}

/* J06 */
static void a_child_forked_by_a_worker_is_refused_each_call(void **state)
{
	char answer;
	int port;
	int i;

	(void)state;
	port = start_server(on_client, fork_and_answer, 2);
	for (i = 0; i < 5; i++) {
		int fd = connect_to(port);

		assert_true(receive_all(fd, &answer, 1));
		assert_int_equal(answer, 'y');
		close(fd);
	}
	evt_server_stop();
	assert_true(refused(port));
}

static void fork_then_dispatch(sockfd_t fd, short evt, void *arg)
{
	atomic_store(&result, child_is_refused());
	on_client(fd, evt, arg);
}

/* J06 */
static void a_child_forked_by_the_listener_is_refused_each_call(void **state)
{
	int port;

	(void)state;
	port = start_server(fork_then_dispatch, echo, 1);
	assert_true(serves(port));
	assert_int_equal(atomic_load(&result), 0);
	evt_server_stop();
}

/* J06 */
static void a_child_forked_by_main_is_refused_each_call(void **state)
{
	int port;
	int i;

	(void)state;
	port = start_server(on_client, echo, 2);
	for (i = 0; i < 10; i++) {
		assert_int_equal(child_is_refused(), 0);
		assert_true(serves(port));
	}
	evt_server_stop();
	assert_true(refused(port));
}

static void serve_once(void *arg)
{
	int port = start_server(on_client, echo, 2);

	(void)arg;
	CHECK(serves(port));
	evt_server_stop();
	CHECK(refused(port));
}

/* J06 */
static void a_child_forked_after_init_can_serve(void **state)
{
	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	assert_int_equal(in_child(serve_once, NULL, 10), 0);
	assert_true(serves(start_server(on_client, echo, 1)));
	evt_server_stop();
}

/* J06 */
static void a_child_forked_after_stop_can_serve(void **state)
{
	(void)state;
	assert_true(serves(start_server(on_client, echo, 2)));
	evt_server_stop();
	assert_int_equal(in_child(serve_once, NULL, 10), 0);
}

/* What an executed program has open, as a text; the length, or -1. */
static ssize_t list_descriptors(char *text, size_t size)
{
	size_t used = 0;
	ssize_t len;
	int out[2];
	int status;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) == -1)
		return -1;
	pid = fork();
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		execlp("ls", "ls", "/proc/self/fd", (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	while ((len = read(out[0], text + used, size - 1 - used)) > 0)
		used += (size_t)len;
	text[used] = '\0';
	close(out[0]);
	waitpid(pid, &status, 0);
	return status == 0 ? (ssize_t)used : -1;
}

static void *connect_till_told(void *arg)
{
	int port = *(int *)arg;

	while (!atomic_load(&gate)) {
		int fd = connect_to(port);

		if (fd != -1)
			close_with_reset(fd);
	}
	return NULL;
}

/* J07 */
static void an_executed_program_has_none_of_our_descriptors(void **state)
{
	char before[1024], during[1024];
	pthread_t clients;
	int port;
	int i;

	(void)state;
	assert_true(list_descriptors(before, sizeof(before)) > 0);
	port = start_server(on_client, echo, 2);
	pthread_create(&clients, NULL, connect_till_told, &port);
	for (i = 0; i < 50; i++) {
		assert_true(list_descriptors(during, sizeof(during)) > 0);
		assert_string_equal(during, before);
	}
	atomic_store(&gate, true);
	pthread_join(clients, NULL);
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LINE_TEST(clients_that_vanish_do_not_end_the_process),
		LINE_TEST(a_callback_that_unblocks_sigpipe_after_epipe_lives),
		LINE_TEST(a_callback_that_was_cut_may_unblock_sigpipe_too),
		LINE_TEST(our_threads_block_all_signals_but_those_of_faults),
		LINE_TEST(the_callers_signal_mask_is_left_as_it_was),
		LINE_TEST(the_programs_signals_are_handled_on_its_own_thread),
		LINE_TEST(the_programs_handlers_are_left_as_they_were),
		LINE_TEST(a_child_forked_by_a_worker_is_refused_each_call),
		LINE_TEST(a_child_forked_by_the_listener_is_refused_each_call),
		LINE_TEST(a_child_forked_by_main_is_refused_each_call),
		LINE_TEST(a_child_forked_after_init_can_serve),
		LINE_TEST(a_child_forked_after_stop_can_serve),
		LINE_TEST(an_executed_program_has_none_of_our_descriptors),
	};

	(void)own_network(CLONE_NEWNET);
	return ledger_run("process", tests);
}
