/*
 * test_accept4.c: accept4(2) in each of its moods: nothing left to accept with
 * (a pause), a client that vanished (the next one), interrupted (silence), a
 * broken socket (the end of the listener, and of nothing else), and missing.
 * And a running server under a storm of signals, and of clients that vanish.
 */
/* wrap: accept4 fcntl */
#include "rig.h"
#include "inject.h"
#include "../evt-accept-internal.h"

#include <dirent.h>
#include <signal.h>
#include <sys/syscall.h>

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __real_fcntl(int fd, int command, ...);

static struct inject on_accept4;
static struct inject on_copy; /* fcntl(F_DUPFD_CLOEXEC) */

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	if (injected(&on_accept4))
		return -1;
	return __real_accept4(fd, addr, len, flags);
}

int __wrap_fcntl(int fd, int command, ...)
{
	va_list args;
	void *arg;

	va_start(args, command);
	arg = va_arg(args, void *);
	va_end(args);
	if (command == F_DUPFD_CLOEXEC && injected(&on_copy))
		return -1;
	return __real_fcntl(fd, command, arg);
}

/* Names the error under which something is not true, and leaves no server. */
#define EXPECT(error, condition)                       \
	do {                                           \
		if (!(condition))                      \
			fail_under(error, #condition); \
	} while (0)

static void fail_under(int error, const char *condition)
{
	end_injection(&on_accept4);
	end_injection(&on_copy);
	evt_server_stop();
	fail_msg("accept4 giving %s: not true: %s", strerrorname_np(error),
		condition);
}

static struct evt_server_ledger ledger_now(void)
{
	struct evt_server_ledger ledger;

	evt_server_ledger_(&ledger);
	return ledger;
}

/* Nothing left to accept with */

static void expect_one_episode(int error, int failures)
{
	struct evt_server_ledger ledger;
	int port = serve(on_client, echo, 2);
	int64_t cpu = cpu_ms();

	log_forget();
	inject(&on_accept4, error, 0, failures);
	EXPECT(error, answers(port));
	EXPECT(error, cpu_ms() - cpu < 100 * slowness());
	EXPECT(error, atomic_load(&on_accept4.calls) == failures + 1);
	EXPECT(error, log_lines(EVT_LOG_WARN) == 1 && log_has("pauses"));
	EXPECT(error, log_has(strerror(error)));
	EXPECT(error, log_lines(EVT_LOG_INFO) == 2 && log_has("goes on"));
	evt_server_stop();
	ledger = ledger_now();
	EXPECT(error, ledger.pauses == (unsigned long)failures);
	EXPECT(error, ledger.accepted == 1 && ledger.delivered == 1);
}

/* B03 B01 */
static void a_shortage_pauses_accepting_and_then_it_goes_on(void **state)
{
	static const int errors[] = {ENFILE, ENOBUFS, ENOMEM, EMFILE};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		expect_one_episode(errors[i], 1);
		expect_one_episode(errors[i], 4);
	}
}

static bool served_after_another_close(int nr)
{
	evt_close(socket(AF_INET, SOCK_STREAM, 0));
	return atomic_load(&tally.served) == nr;
}

/* B03: twenty pauses, each of them ended by a close. */
static void a_long_shortage_has_two_lines_and_loses_nobody(void **state)
{
	int port = serve(on_client, echo, 2);
	int clients[30];
	char byte;
	int i;

	(void)state;
	log_forget();
	inject(&on_accept4, ENFILE, 0, 20);
	for (i = 0; i < 30; i++) {
		clients[i] = connect_to(port);
		assert_true(send_all(clients[i], "x", 1));
	}
	assert_true(WAIT_FOR(served_after_another_close(30)));
	for (i = 0; i < 30; i++) {
		assert_true(receive_all(clients[i], &byte, 1));
		close(clients[i]);
	}
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_int_equal(log_lines(EVT_LOG_INFO), 2);
	assert_true(log_has("tries that failed: 20)"));
	evt_server_stop();
	assert_int_equal(ledger_now().delivered, 30);
}

/* B03 */
static void each_shortage_is_an_episode_of_its_own(void **state)
{
	int port = serve(on_client, echo, 1);

	(void)state;
	log_forget();
	inject(&on_accept4, ENOBUFS, 0, 2);
	assert_true(answers(port));
	inject(&on_accept4, ENOMEM, 0, 1);
	assert_true(answers(port));
	assert_int_equal(log_lines(EVT_LOG_WARN), 2);
	assert_true(log_has(strerror(ENOBUFS)));
	assert_true(log_has(strerror(ENOMEM)));
	evt_server_stop();
}

/* B03 */
static void a_paused_listener_stops_at_once(void **state)
{
	int port = serve(on_client, echo, 1);
	int client;

	(void)state;
	inject(&on_accept4, ENFILE, 0, FOR_EVER);
	client = connect_to(port);
	assert_true(WAIT_FOR(log_has("pauses")));
	evt_server_stop();
	end_injection(&on_accept4);
	assert_true(at_end(client));
	close(client);
}

/* Clients that vanished */

/* B04: after EPERM, which may mean the call itself, accept(2) is as good. */
static void an_error_of_one_connection_is_not_the_next_ones(void **state)
{
	static const int errors[] = {ECONNABORTED, EPROTO, ENETDOWN,
		ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, ENETUNREACH,
		EPERM, ETIMEDOUT, ENOSR, ESOCKTNOSUPPORT, EPROTONOSUPPORT};
	const int nr = 2 * EVT_ACCEPTOR_TRIES + 1;
	int port = serve(on_client, echo, 2);
	size_t i;

	(void)state;
	log_forget();
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		inject(&on_accept4, errors[i], 0, nr);
		EXPECT(errors[i], answers(port));
		EXPECT(errors[i], log_lines(EVT_LOG_INFO) == 0);
		EXPECT(errors[i],
			errors[i] == EPERM ||
				atomic_load(&on_accept4.calls) == nr + 1);
	}
	end_injection(&on_accept4);
	evt_server_stop();
	assert_int_equal(ledger_now().delivered, i);
	assert_true(ledger_now().vanished >= (i - 1) * (unsigned)nr);
}

/* An event of the program's on the listener's loop. */
static struct event *neighbour;
static atomic_int calls_before_neighbour;

static void on_neighbour(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	atomic_store(&calls_before_neighbour, atomic_load(&on_accept4.calls));
}

static void free_neighbour(void *arg)
{
	event_free(arg);
}

static void on_client_with_neighbour(sockfd_t fd, short evt, void *arg)
{
	if (!neighbour) {
		neighbour = event_new(
			evt_thread_base(), -1, 0, on_neighbour, NULL);
		evt_thread_at_stop(free_neighbour, neighbour);
		event_active(neighbour, EV_TIMEOUT, 1);
	}
	on_client(fd, evt, arg);
}

/* B04 */
static void a_thousand_vanished_clients_do_not_keep_the_loop(void **state)
{
	int port;

	(void)state;
	neighbour = NULL;
	port = serve(on_client_with_neighbour, echo, 1);
	inject(&on_accept4, ECONNABORTED, 0, 1000);
	assert_true(answers(port));
	assert_int_equal(atomic_load(&on_accept4.calls), 1001);
	assert_in_range(atomic_load(&calls_before_neighbour), 1, 100);
	evt_server_stop();
	assert_int_equal(ledger_now().vanished, 1000);
}

/* B04 */
static void vanishing_clients_do_not_hold_up_a_stop(void **state)
{
	int port = serve(on_client, echo, 1);
	int client;

	(void)state;
	inject(&on_accept4, ECONNABORTED, 0, FOR_EVER);
	client = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&on_accept4.calls) > 100));
	evt_server_stop();
	end_injection(&on_accept4);
	close(client);
}

/* B05 */
static void interruptions_and_false_alarms_are_silent(void **state)
{
	int port = serve(on_client, echo, 1);

	(void)state;
	log_forget();
	inject(&on_accept4, EINTR, 0, 100);
	assert_true(answers(port));
	assert_int_equal(atomic_load(&on_accept4.calls), 101);
	inject(&on_accept4, EAGAIN, 0, 10);
	assert_true(answers(port));
	evt_server_stop();
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	assert_int_equal(ledger_now().vanished, 0);
	assert_int_equal(ledger_now().pauses, 0);
}

/* A broken socket */

static void expect_the_end_of_accepting(int error)
{
	int port = serve(on_client, just_count, 1);
	int64_t cpu = cpu_ms();
	int clients[2];
	int i;

	log_forget();
	inject(&on_accept4, error, 0, FOR_EVER);
	clients[0] = connect_to(port);
	EXPECT(error, WAIT_FOR(log_lines(EVT_LOG_ERROR) == 1));
	clients[1] = connect_to(port);
	for (i = 1; i <= 50; i++) { /* the workers live on */
		EXPECT(error, evt_thread_dispatch(NO_FD, 0, NULL) == 0);
		EXPECT(error, WAIT_FOR(atomic_load(&tally.served) == i));
	}
	EXPECT(error, atomic_load(&on_accept4.calls) == 1);
	EXPECT(error, log_lines(EVT_LOG_WARN) == 1);
	EXPECT(error, log_has(strerror(error)) && log_has("has ended"));
	EXPECT(error, cpu_ms() - cpu < 200 * slowness());
	evt_server_stop();
	end_injection(&on_accept4);
	close(clients[0]);
	close(clients[1]);
}

/* B06 */
static void a_broken_listener_ends_with_one_line_and_no_spin(void **state)
{
	static const int errors[] = {
		EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP, EFAULT};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		expect_the_end_of_accepting(errors[i]);
	assert_true(answers(serve(on_client, echo, 1)));
	evt_server_stop();
}

static atomic_int listening;

static void on_client_seen(sockfd_t fd, short evt, void *arg)
{
	atomic_store(&listening, fd);
	on_client(fd, evt, arg);
}

/* B06: another process that has the socket can do this. */
static void a_listener_shut_by_others_ends_with_one_line(void **state)
{
	int port = serve(on_client_seen, echo, 1);
	int64_t cpu;

	(void)state;
	assert_true(answers(port));
	log_forget();
	inject(&on_accept4, 0, 0, 0);
	assert_int_equal(shutdown(atomic_load(&listening), SHUT_RDWR), 0);
	assert_true(WAIT_FOR(log_lines(EVT_LOG_ERROR) == 1));
	cpu = cpu_ms();
	usleep(50000); /* in which a spin would show */
	assert_in_range(cpu_ms() - cpu, 0, 20 * slowness());
	assert_int_equal(atomic_load(&on_accept4.calls), 1);
	evt_server_stop();
	assert_true(answers(serve(on_client, echo, 1)));
	evt_server_stop();
}

/* Flags */

static atomic_int fd_flags;
static atomic_int status_flags;

static void note_flags(sockfd_t conn, short evt, void *arg)
{
	atomic_store(&fd_flags, fcntl(conn, F_GETFD));
	atomic_store(&status_flags, fcntl(conn, F_GETFL));
	echo(conn, evt, arg);
}

static void expect_flags(void)
{
	int port = serve(on_client, note_flags, 1);

	assert_true(answers(port));
	assert_int_equal(atomic_load(&fd_flags), FD_CLOEXEC);
	assert_int_equal(atomic_load(&status_flags) & O_NONBLOCK, 0);
	evt_server_stop();
}

/* B12 */
static void what_is_accepted_blocks_and_is_close_on_exec(void **state)
{
	(void)state;
	expect_flags();
}

/* B12 J12 */
static void without_accept4_what_is_accepted_is_the_same(void **state)
{
	(void)state;
	inject(&on_accept4, ENOSYS, 0, FOR_EVER);
	expect_flags();
	assert_true(atomic_load(&on_accept4.calls) > 0);
	end_injection(&on_accept4);
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

/* B12 B01: the last descriptor may be the client's. */
static void without_accept4_one_free_descriptor_is_enough(void **state)
{
	int port = serve(on_client, note_flags, 1);

	(void)state;
	inject(&on_accept4, ENOSYS, 0, FOR_EVER);
	inject(&on_copy, EMFILE, 0, 1);
	EXPECT(ENOSYS, answers(port));
	end_injection(&on_accept4);
	end_injection(&on_copy);
	assert_int_equal(atomic_load(&fd_flags), FD_CLOEXEC);
	evt_server_stop();
}

/* Storms, in children: they change what signals do. */

static atomic_int signals_seen;
static atomic_bool storm_over;

static void on_signal(int sig)
{
	(void)sig;
	atomic_fetch_add(&signals_seen, 1);
}

/* SIGPROF: the one that the library's threads do not block. */
static void *storm_main(void *arg)
{
	pid_t self = (pid_t)syscall(SYS_gettid);

	(void)arg;
	while (!atomic_load(&storm_over)) {
		DIR *tasks = opendir("/proc/self/task");
		struct dirent *task;

		while (tasks && (task = readdir(tasks))) {
			pid_t thread = (pid_t)atoi(task->d_name);

			if (thread > 0 && thread != self)
				syscall(SYS_tgkill, getpid(), thread, SIGPROF);
		}
		if (tasks)
			closedir(tasks);
		usleep(500);
	}
	return NULL;
}

/* A tcb that knows of EINTR, as read(2) and write(2) ask for. */
static void patient_echo(sockfd_t conn, short evt, void *arg)
{
	char byte;

	(void)evt;
	(void)arg;
	if (receive_all(conn, &byte, 1) && send_all(conn, &byte, 1))
		atomic_fetch_add(&tally.served, 1);
	evt_close(conn);
}

static void echo_in_a_storm(void *arg)
{
	struct sigaction action = {.sa_handler = on_signal};
	pthread_t storm;
	sigset_t prof;
	int port;
	int i;
	int j;

	(void)arg;
	sigemptyset(&prof);
	sigaddset(&prof, SIGPROF);
	CHECK(sigaction(SIGPROF, &action, NULL) == 0); /* no SA_RESTART */
	CHECK(pthread_create(&storm, NULL, storm_main, NULL) == 0);
	for (i = 0; i < 20; i++) {
		CHECK((port = serve(on_client, patient_echo, 3)) > 0);
		pthread_sigmask(SIG_BLOCK, &prof, NULL); /* the client's side */
		for (j = 0; j < 10; j++)
			CHECK(answers(port));
		pthread_sigmask(SIG_UNBLOCK, &prof, NULL);
		evt_server_stop();
		CHECK(atomic_load(&tally.served) == 10);
	}
	atomic_store(&storm_over, true);
	pthread_join(storm, NULL);
	CHECK(atomic_load(&signals_seen) > 0);
	CHECK(log_lines(EVT_LOG_INFO) == 0);
}

/* J01 */
static void a_storm_of_signals_changes_nothing(void **state)
{
	(void)state;
	assert_int_equal(in_child(echo_in_a_storm, NULL, 20), 0);
}

/* The host's threads have another signal, and its timer, the same. */
static void be_the_host_in_a_storm(void *arg)
{
	struct sigaction action = {.sa_handler = on_signal};
	struct sigevent event = {
		.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	const struct itimerspec each_ms = {{0, 1000000}, {0, 1000000}};
	timer_t timer;
	int seen;
	int i;

	(void)arg;
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	CHECK(timer_settime(timer, 0, &each_ms, NULL) == 0);
	for (i = 0; i < 100 || atomic_load(&signals_seen) < 50; i++) {
		CHECK(serve(on_client, just_count, 3) > 0);
		CHECK(evt_thread_dispatch(NO_FD, EV_READ, NULL) == 0);
		evt_server_stop();
		CHECK(atomic_load(&tally.served) == 1);
	}
	timer_delete(timer);
	seen = atomic_load(&signals_seen);
	CHECK(seen >= 50);
	CHECK(log_lines(EVT_LOG_INFO) == 0);
}

/* J01 */
static void the_hosts_timer_does_not_disturb_start_and_stop(void **state)
{
	(void)state;
	assert_int_equal(in_child(be_the_host_in_a_storm, NULL, 20), 0);
}

static atomic_int broken_pipes;

/* Reads until the reset, and writes all the same. */
static void write_too_late(sockfd_t conn, short evt, void *arg)
{
	char byte;

	(void)evt;
	(void)arg;
	while (read(conn, &byte, 1) > 0)
		;
	if (write(conn, "x", 1) == -1 && errno == EPIPE)
		atomic_fetch_add(&broken_pipes, 1);
	evt_close(conn);
}

static void serve_vanishing_clients(void *arg)
{
	int nr = 300;
	int port;
	int i;

	(void)arg;
	signal(SIGPIPE, SIG_DFL);
	CHECK((port = serve(on_client, write_too_late, 2)) > 0);
	for (i = 0; i < nr; i++) {
		int client = connect_to(port);

		CHECK(client != -1 && send_all(client, "x", 1));
		CHECK(WAIT_FOR(atomic_load(&tally.accepted) == i + 1));
		close_with_reset(client);
	}
	CHECK(WAIT_FOR(atomic_load(&broken_pipes) == nr));
	evt_server_stop();
	CHECK(ledger_now().delivered == (unsigned)nr);
}

/* E01 */
static void writing_to_clients_that_reset_raises_no_signal(void **state)
{
	(void)state;
	assert_int_equal(in_child(serve_vanishing_clients, NULL, 20), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_shortage_pauses_accepting_and_then_it_goes_on),
		LEDGER_TEST(a_long_shortage_has_two_lines_and_loses_nobody),
		LEDGER_TEST(each_shortage_is_an_episode_of_its_own),
		LEDGER_TEST(a_paused_listener_stops_at_once),
		LEDGER_TEST(an_error_of_one_connection_is_not_the_next_ones),
		LEDGER_TEST(a_thousand_vanished_clients_do_not_keep_the_loop),
		LEDGER_TEST(vanishing_clients_do_not_hold_up_a_stop),
		LEDGER_TEST(interruptions_and_false_alarms_are_silent),
		LEDGER_TEST(a_broken_listener_ends_with_one_line_and_no_spin),
		LEDGER_TEST(a_listener_shut_by_others_ends_with_one_line),
		LEDGER_TEST(what_is_accepted_blocks_and_is_close_on_exec),
		LEDGER_TEST(without_accept4_what_is_accepted_is_the_same),
		LEDGER_TEST(without_accept4_one_free_descriptor_is_enough),
		LEDGER_TEST(a_storm_of_signals_changes_nothing),
		LEDGER_TEST(the_hosts_timer_does_not_disturb_start_and_stop),
		LEDGER_TEST(writing_to_clients_that_reset_raises_no_signal),
	};

	return ledger_run("accept4", tests);
}
