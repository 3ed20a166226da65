/*
 * test_strace.c: system calls that fail in the whole of test/evt_test, those
 * inside of libevent and libc too, by strace's fault injection. The server
 * serves all the same, or has told why it ends; never a hang or a crash.
 */
#include "traced.h"

static const struct target over_tcp = {"test/evt_test", {"0", "2"}, false};
static const struct target over_udp = {"test/evt_test", {"-u", "0", "2"}, true};

enum outcome {
	SERVED, /* a client was, and then it ended with status 0 */
	TOLD,   /* it ended with status 1, and had said why */
	FAILED  /* anything else */
};

/* What becomes of a server; what it has said is left in traced. */
static enum outcome outcome_of(struct traced *traced, const char *call,
	const char *how, const struct target *target)
{
	bool served = false;
	int status;
	int i;

	launch(traced, target, call, how);
	listens(traced);
	for (i = 0; traced->port > 0 && i < 2; i++)
		served = (i == 0 || served) &&
			is_echoed(dial(traced, target->udp));
	if (traced->port > 0)
		kill(traced->pid, SIGTERM);
	status = finish(traced);
	free(its_log(traced));
	if (served && status == 0)
		return SERVED;
	if (traced->port == 0 && status == 1 && strstr(traced->said, "error: "))
		return TOLD;
	print_error("%s:%s: port %d, served %d, status %d, said:\n%s\n", call,
		how, traced->port, served, status, traced->said);
	return FAILED;
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
		outcome = outcome_of(&traced, call, how, &over_tcp);
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

	assert_int_equal(outcome_of(&traced, call, how, &over_tcp), SERVED);
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
	assert_int_equal(outcome_of(&traced, "socket", "error=EMFILE:when=2+",
				 &over_tcp),
		TOLD);
	assert_non_null(strstr(traced.said, "Too many open files"));
	assert_int_equal(outcome_of(&traced, "listen",
				 "error=EADDRINUSE:when=1+", &over_tcp),
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
		outcome_of(&traced, "pipe2", "error=ENOSYS:when=1+", &over_tcp),
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
			outcome_of(&traced, "accept4", how, &over_tcp), SERVED);
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
	assert_int_equal(outcome_of(&traced, "recvmsg", "error=EINTR:when=1..5",
				 &over_udp),
		SERVED);
	assert_int_equal(outcome_of(&traced, "epoll_wait",
				 "error=EINTR:when=1+2", &over_udp),
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
