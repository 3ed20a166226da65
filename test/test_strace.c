/*
 * test_strace.c: system calls that fail in the whole of test/evt_test, those
 * inside of libevent and libc too, by strace's fault injection. The server
 * serves all the same, or has told why it ends; never a hang or a crash.
 */
#include "ledger.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

/* A server under strace; all that it and strace say comes through one pipe. */
struct traced {
	pid_t pid;
	int output;
	size_t len;
	char said[8192];
};

static void run_traced(
	const char *call, const char *how, const char *udp, int output)
{
	const char *server = program("test/evt_test");
	char traced[64];
	char injected[128];

	snprintf(traced, sizeof(traced), "trace=%s", call);
	snprintf(injected, sizeof(injected), "inject=%s:%s", call, how);
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	/* -D: it is the server that is our child. */
	if (udp)
		execlp("strace", "strace", "-D", "-f", "-qq", "-o", "/dev/null",
			"-e", traced, "-e", injected, server, udp, "0", "2",
			(char *)NULL);
	else
		execlp("strace", "strace", "-D", "-f", "-qq", "-o", "/dev/null",
			"-e", traced, "-e", injected, server, "0", "2",
			(char *)NULL);
	_exit(127);
}

/* Reads on until text has been said, in 10 s; NULL: until the end. */
static bool hears(struct traced *traced, const char *text)
{
	struct pollfd in = {.fd = traced->output, .events = POLLIN};

	while (!text || !strstr(traced->said, text)) {
		ssize_t got;

		if (traced->len == sizeof(traced->said) - 1 ||
			poll(&in, 1, 10000 * slowness()) != 1)
			return false;
		got = read(traced->output, traced->said + traced->len,
			sizeof(traced->said) - 1 - traced->len);
		if (got <= 0)
			return !text && got == 0;
		traced->len += (size_t)got;
		traced->said[traced->len] = '\0';
	}
	return true;
}

static void launch(
	struct traced *traced, const char *call, const char *how, const char *u)
{
	int fds[2];

	memset(traced, 0, sizeof(*traced));
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	fflush(NULL);
	traced->pid = fork();
	if (traced->pid == 0)
		run_traced(call, how, u, fds[1]);
	close(fds[1]);
	traced->output = fds[0];
	assert_int_not_equal(traced->pid, -1);
}

/* Its exit status, once all is said; 128 + the signal that ended it. */
static int finish(struct traced *traced)
{
	bool said_all = hears(traced, NULL);
	int status;

	if (!said_all)
		kill(traced->pid, SIGKILL);
	close(traced->output);
	waitpid(traced->pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool is_echoed(int fd)
{
	char byte = 0;
	bool good = fd != -1 && send_all(fd, "s", 1) &&
		receive_all(fd, &byte, 1) && byte == 's';

	if (fd != -1)
		close(fd);
	return good;
}

enum outcome {
	SERVED, /* a client was, and then it ended with status 0 */
	TOLD,   /* it ended with status 1, and had said why */
	FAILED  /* anything else */
};

/* What becomes of a server; what it has said is left in traced. */
static enum outcome outcome_of(struct traced *traced, const char *call,
	const char *how, const char *udp)
{
	bool served = false;
	int port = 0;
	int status;

	launch(traced, call, how, udp);
	if (hears(traced, "listening on port ") && hears(traced, "\n"))
		port = atoi(strstr(traced->said, "on port ") + 8);
	if (port > 0)
		served = is_echoed(udp ? udp_to(port) : connect_to(port)) &&
			is_echoed(udp ? udp_to(port) : connect_to(port));
	if (port > 0)
		kill(traced->pid, SIGTERM);
	status = finish(traced);
	if (served && status == 0)
		return SERVED;
	if (port == 0 && status == 1 && strstr(traced->said, "error: "))
		return TOLD;
	print_error("%s:%s: port %d, served %d, status %d, said:\n%s\n", call,
		how, port, served, status, traced->said);
	return FAILED;
}

/* strace is there, and may trace; LeakSanitizer wants to be the only one. */
static bool can_trace(void)
{
	static int known = -1;

	if (under("asan"))
		return false;
	if (known == -1)
		known = system("strace -qq -f -o /dev/null -e trace=none "
			       "-e inject=getpid:error=EPERM:when=9 true "
			       "2>/dev/null") == 0;
	return known == 1;
}

/* The same call failing at its k-th time, for k from 1 to last: how often the
 * server could not start. */
static int times_told(
	const char *call, const char *error, int last, const char *reason)
{
	struct traced traced;
	char how[64];
	int told = 0;
	int k;

	for (k = 1; k <= last; k++) {
		enum outcome outcome;

		snprintf(how, sizeof(how), "error=%s:when=%d", error, k);
		outcome = outcome_of(&traced, call, how, NULL);
		assert_int_not_equal(outcome, FAILED);
		if (outcome == TOLD && !strstr(traced.said, reason))
			fail_msg("%s %s: said %s", call, how, traced.said);
		told += outcome == TOLD;
	}
	return told;
}

/* Serves, and has said text (NULL: nothing but its port). */
static void expect_served(const char *call, const char *how, const char *text)
{
	struct traced traced;

	assert_int_equal(outcome_of(&traced, call, how, NULL), SERVED);
	if (text ? !strstr(traced.said, text)
		 : strstr(traced.said, "evt-server") != NULL)
		fail_msg("%s:%s: said %s", call, how, traced.said);
}

/* A05: the family is missing, or goes just after init has looked. */
static void a_kernel_without_ipv6_serves_ipv4(void **state)
{
	(void)state;
	if (!can_trace())
		skip();
	expect_served("socket", "error=EAFNOSUPPORT:when=1", "IPv4");
	expect_served("socket", "error=EAFNOSUPPORT:when=2", "IPv4");
	expect_served("bind", "error=EADDRNOTAVAIL:when=1", "IPv4");
	expect_served("bind", "error=EADDRNOTAVAIL:when=2", "IPv4");
}

/* A05 A09: error only if no address works. */
static void a_server_without_any_socket_says_so(void **state)
{
	struct traced traced;

	(void)state;
	if (!can_trace())
		skip();
	assert_int_equal(
		outcome_of(&traced, "socket", "error=EMFILE:when=2+", NULL),
		TOLD);
	assert_non_null(strstr(traced.said, "Too many open files"));
	assert_int_equal(
		outcome_of(&traced, "listen", "error=EADDRINUSE:when=1+", NULL),
		TOLD);
	assert_non_null(strstr(traced.said, "Address already in use"));
}

/* A15 A16: the listener's thread and two workers'. */
static void a_thread_that_the_kernel_refuses_ends_the_start(void **state)
{
	int told;

	(void)state;
	if (!can_trace())
		skip();
	told = times_told("clone3", "EAGAIN", 4, "temporarily unavailable");
	if (under("plain")) /* a tool may have a thread of its own */
		assert_int_equal(told, 3);
}

/* A17: libevent finds another way to wait. */
static void a_loop_without_epoll_serves(void **state)
{
	(void)state;
	if (!can_trace())
		skip();
	expect_served("epoll_create1", "error=EMFILE:when=1+", NULL);
	expect_served(
		"epoll_create1,epoll_create", "error=EMFILE:when=1+", NULL);
}

/* A17: the listener's loop's event and each worker's. strace counts for each
 * thread: the listening socket's, on its thread, is test_memory's to refuse. */
static void an_event_that_the_kernel_refuses_ends_the_start(void **state)
{
	(void)state;
	if (!can_trace())
		skip();
	assert_int_equal(
		times_told("epoll_ctl", "ENOMEM", 4, "allocate memory"), 3);
}

/* A18: every second pipe is libevent's own, which can do without. */
static void a_pipe_that_the_kernel_refuses_ends_the_start(void **state)
{
	(void)state;
	if (!can_trace())
		skip();
	assert_int_equal(
		times_told("pipe2", "EMFILE", 6, "Too many open files"), 3);
}

/* A18 J12 */
static void a_missing_pipe2_is_told(void **state)
{
	struct traced traced;

	(void)state;
	if (!can_trace())
		skip();
	assert_int_equal(
		outcome_of(&traced, "pipe2", "error=ENOSYS:when=1+", NULL),
		TOLD);
	assert_non_null(strstr(traced.said, "Function not implemented"));
}

/* A18 */
static void a_pipe_that_stays_small_serves(void **state)
{
	(void)state;
	if (!can_trace())
		skip();
	expect_served("fcntl", "error=EPERM:when=1+", NULL);
	expect_served("fcntl", "error=EBUSY:when=1+", NULL);
}

/* B03 */
static void a_shortage_while_accepting_is_waited_out(void **state)
{
	static const char *const errors[] = {"ENFILE", "ENOBUFS", "ENOMEM"};
	struct traced traced;
	char how[64];
	size_t i;

	(void)state;
	if (!can_trace())
		skip();
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		char *first;

		snprintf(how, sizeof(how), "error=%s:when=1..4", errors[i]);
		assert_int_equal(
			outcome_of(&traced, "accept4", how, NULL), SERVED);
		first = strstr(traced.said, "pauses");
		assert_non_null(first);
		assert_null(strstr(first + 1, "pauses"));
		assert_non_null(strstr(first, "goes on"));
	}
}

/* B04 */
static void an_error_of_a_connection_is_passed_over(void **state)
{
	static const char *const errors[] = {"ECONNABORTED", "EPROTO",
		"ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET",
		"EHOSTUNREACH", "ENETUNREACH", "EPERM", "ETIMEDOUT", "ENOSR",
		"ESOCKTNOSUPPORT", "EPROTONOSUPPORT"};
	char how[64];
	size_t i;

	(void)state;
	if (!can_trace())
		skip();
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		snprintf(how, sizeof(how), "error=%s:when=1..20", errors[i]);
		expect_served("accept4", how, NULL);
	}
}

/* B05 */
static void an_interrupted_accept_is_repeated(void **state)
{
	(void)state;
	if (!can_trace())
		skip();
	expect_served("accept4", "error=EINTR:when=1..20", NULL);
	expect_served("accept4", "error=EAGAIN:when=1..20", NULL);
}

/* B12 J12 */
static void a_kernel_without_accept4_is_served_by_accept(void **state)
{
	(void)state;
	if (!can_trace())
		skip();
	expect_served("accept4", "error=ENOSYS:when=1+", NULL);
}

/* J12: EPERM, which a firewall says of one client and a filter of them all. */
static void a_filter_that_forbids_accept4_is_served_by_accept(void **state)
{
	(void)state;
	if (!can_trace())
		skip();
	expect_served("accept4", "error=EPERM:when=1+", NULL);
}

/* J01 */
static void an_interrupted_datagram_is_received(void **state)
{
	struct traced traced;

	(void)state;
	if (!can_trace())
		skip();
	assert_int_equal(
		outcome_of(&traced, "recvmsg", "error=EINTR:when=1..5", "-u"),
		SERVED);
	assert_int_equal(
		outcome_of(&traced, "epoll_wait", "error=EINTR:when=1+2", "-u"),
		SERVED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_kernel_without_ipv6_serves_ipv4),
		LEDGER_TEST(a_server_without_any_socket_says_so),
		LEDGER_TEST(a_thread_that_the_kernel_refuses_ends_the_start),
		LEDGER_TEST(a_loop_without_epoll_serves),
		LEDGER_TEST(an_event_that_the_kernel_refuses_ends_the_start),
		LEDGER_TEST(a_pipe_that_the_kernel_refuses_ends_the_start),
		LEDGER_TEST(a_missing_pipe2_is_told),
		LEDGER_TEST(a_pipe_that_stays_small_serves),
		LEDGER_TEST(a_shortage_while_accepting_is_waited_out),
		LEDGER_TEST(an_error_of_a_connection_is_passed_over),
		LEDGER_TEST(an_interrupted_accept_is_repeated),
		LEDGER_TEST(a_kernel_without_accept4_is_served_by_accept),
		LEDGER_TEST(a_filter_that_forbids_accept4_is_served_by_accept),
		LEDGER_TEST(an_interrupted_datagram_is_received),
	};

	return ledger_run("strace", tests);
}
