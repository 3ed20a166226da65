/*
 * test_connect.c: connecting to one address, in bounded time whatever happens,
 * and the other questions that the library asks of sockets.
 */
/* wrap: accept4 recvmsg */
#include "addresses.h"
#include "inject.h"
#include "../evt-core.h"

#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

static struct inject accepting;
static struct inject receiving;

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	if (injected(&accepting))
		return -1;
	return __real_accept4(fd, addr, len, flags);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	return injected(&receiving) ? -1 : __real_recvmsg(fd, msg, flags);
}

static int connect_in(const struct sockaddr_in *in, int timeout_ms)
{
	return evt_net_connect_((const struct sockaddr *)in, sizeof(*in),
		SOCK_STREAM, timeout_ms);
}

/* A port that answers nothing: its queue is full. */
#define FILLERS 8

struct blackhole {
	int listener;
	int fillers[FILLERS];
	struct sockaddr_in in;
};

static void open_blackhole(struct blackhole *it)
{
	int i;

	it->in = ipv4("127.0.0.1", 0);
	it->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(
		bind(it->listener, (struct sockaddr *)&it->in, sizeof(it->in)),
		0);
	assert_int_equal(listen(it->listener, 0), 0);
	it->in.sin_port = htons((uint16_t)evt_net_port_(it->listener));
	for (i = 0; i < FILLERS; i++) {
		it->fillers[i] = socket(
			AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(it->fillers[i], (struct sockaddr *)&it->in,
			sizeof(it->in));
	}
}

static void close_blackhole(struct blackhole *it)
{
	int i;

	for (i = 0; i < FILLERS; i++)
		close(it->fillers[i]);
	close(it->listener);
}

/* A signal each millisecond, of whose handler system calls are interrupted. */

static atomic_int interruptions;
static timer_t storm;

static void on_interruption(int sig)
{
	(void)sig;
	atomic_fetch_add(&interruptions, 1);
}

static void begin_storm(void)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct sigaction action = {.sa_handler = on_interruption};
	struct itimerspec each_ms = {
		.it_interval.tv_nsec = 1000000, .it_value.tv_nsec = 1000000};

	atomic_store(&interruptions, 0);
	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &storm), 0);
	assert_int_equal(timer_settime(storm, 0, &each_ms, NULL), 0);
}

static void end_storm(void)
{
	timer_delete(storm);
	signal(SIGUSR1, SIG_IGN);
}

/* Bounded time */

/* L02 */
static void who_does_not_answer_is_given_up(void **state)
{
	struct blackhole it;
	int64_t start;

	(void)state;
	open_blackhole(&it);
	start = now_ms();
	assert_int_equal(connect_in(&it.in, 100), -1);
	assert_int_equal(errno, ETIMEDOUT);
	assert_true(now_ms() - start >= 100);
	assert_true(now_ms() - start < 1000 * slowness());
	close_blackhole(&it);
}

/* L02 */
static void interruptions_neither_shorten_nor_prolong_the_wait(void **state)
{
	struct blackhole it;
	int64_t start;
	int64_t took;

	(void)state;
	open_blackhole(&it);
	begin_storm();
	start = now_ms();
	assert_int_equal(connect_in(&it.in, 200), -1);
	assert_int_equal(errno, ETIMEDOUT);
	took = now_ms() - start;
	end_storm();
	close_blackhole(&it);
	assert_true(took >= 200);
	assert_true(took < 2000 * slowness());
	assert_true(atomic_load(&interruptions) > 0);
}

/* L02 */
static void an_interrupted_connect_connects(void **state)
{
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	struct sockaddr_in in = ipv4("127.0.0.1", port);
	int connected = 0;
	int i;

	(void)state;
	begin_storm();
	for (i = 0; i < 1000 && (i < 50 || atomic_load(&interruptions) < 20);
		i++) {
		int fd = connect_in(&in, 10000);
		int conn = has_client(listener) ? accept(listener, NULL, NULL)
						: -1;

		connected += fd != -1 && conn != -1;
		close(fd);
		close(conn);
	}
	end_storm();
	close(listener);
	assert_int_equal(connected, i);
}

static void *accept_all(void *arg)
{
	const struct blackhole *it = arg;
	int conn;

	while (atomic_load(&interruptions) < 20)
		usleep(1000);
	for (;;) {
		conn = accept(it->listener, NULL, NULL);
		if (conn != -1)
			close(conn);
		else if (errno != EINTR)
			return NULL;
	}
}

/* L02: the kernel repeats the SYN after a second. */
static void a_connect_that_takes_long_is_waited_for(void **state)
{
	struct blackhole it;
	pthread_t thread;
	int fd;

	(void)state;
	open_blackhole(&it);
	begin_storm();
	assert_int_equal(pthread_create(&thread, NULL, accept_all, &it), 0);
	fd = connect_in(&it.in, 10000 * slowness());
	end_storm();
	assert_int_not_equal(fd, -1);
	close(fd);
	shutdown(it.listener, SHUT_RDWR);
	pthread_join(thread, NULL);
	close_blackhole(&it);
}

/* L02 */
static void a_refusal_is_told_at_once_and_leaves_nothing(void **state)
{
	int port;
	int deaf = bound_but_deaf("127.0.0.1", &port);
	struct sockaddr_in in = ipv4("127.0.0.1", port);
	int before = count_fds();
	int i;

	(void)state;
	for (i = 0; i < 20; i++) {
		assert_int_equal(connect_in(&in, 10000), -1);
		assert_int_equal(errno, ECONNREFUSED);
	}
	assert_int_equal(count_fds(), before);
	close(deaf);
}

/* To an address */

/* L03 */
static void the_port_is_taken_in_network_order(void **state)
{
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	struct sockaddr_in in = ipv4("127.0.0.1", 1);
	struct sockaddr_in before = in;
	int fd = get_conn_to_addr(
		(struct sockaddr *)&in, htons((uint16_t)port), SOCK_STREAM);

	(void)state;
	assert_int_not_equal(fd, -1);
	assert_memory_equal(&in, &before, sizeof(in));
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
	close(listener);
}

/* L03 */
static void an_ipv6_address_is_connected_to(void **state)
{
	int port;
	int listener = bound("::1", SOCK_STREAM, &port);
	struct sockaddr_in6 in6 = ipv6("::1", 1);
	struct sockaddr_in6 before = in6;
	int fd = get_conn_to_addr(
		(struct sockaddr *)&in6, htons((uint16_t)port), SOCK_STREAM);

	(void)state;
	assert_int_not_equal(fd, -1);
	assert_memory_equal(&in6, &before, sizeof(in6));
	close(fd);
	close(listener);
}

/* L03 */
static void an_unaligned_address_is_connected_to(void **state)
{
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	struct sockaddr_in in = ipv4("127.0.0.1", 1);
	char bytes[sizeof(in) + 8];
	int shift;

	(void)state;
	for (shift = 0; shift < 8; shift++) {
		int fd;

		memcpy(bytes + shift, &in, sizeof(in));
		fd = get_conn_to_addr((struct sockaddr *)(bytes + shift),
			htons((uint16_t)port), SOCK_STREAM);
		assert_int_not_equal(fd, -1);
		close(fd);
	}
	close(listener);
}

/* L03 */
static void an_address_on_the_heap_is_read_no_further_than_it_goes(void **state)
{
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	struct sockaddr_in *in = malloc(sizeof(*in));
	int fd;

	(void)state;
	*in = ipv4("127.0.0.1", 1);
	fd = get_conn_to_addr(
		(struct sockaddr *)in, htons((uint16_t)port), SOCK_STREAM);
	assert_int_not_equal(fd, -1);
	free(in);
	close(fd);
	close(listener);
}

/* L03 */
static void for_udp_the_socket_is_connected(void **state)
{
	char byte = 0;
	int port;
	int server = bound("127.0.0.1", SOCK_DGRAM, &port);
	struct sockaddr_in in = ipv4("127.0.0.1", 1);
	int fd = get_conn_to_addr(
		(struct sockaddr *)&in, htons((uint16_t)port), SOCK_DGRAM);

	(void)state;
	assert_int_equal(send(fd, "y", 1, 0), 1);
	assert_true(WAIT_FOR(recv(server, &byte, 1, MSG_PEEK) == 1));
	assert_int_equal(byte, 'y');
	close(fd);
	close(server);
}

/* L03 */
static void a_refusal_names_the_address(void **state)
{
	char text[32];
	int port;
	int deaf = bound_but_deaf("127.0.0.1", &port);
	struct sockaddr_in in = ipv4("127.0.0.1", 1);

	(void)state;
	snprintf(text, sizeof(text), "127.0.0.1:%d", port);
	assert_int_equal(get_conn_to_addr((struct sockaddr *)&in,
				 htons((uint16_t)port), SOCK_STREAM),
		-1);
	assert_int_equal(errno, ECONNREFUSED);
	assert_true(log_has(text));
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	close(deaf);
}

/* L03, A12 */
static void what_is_no_address_is_refused(void **state)
{
	struct sockaddr unix_addr = {.sa_family = AF_UNIX};
	struct sockaddr_in in = ipv4("127.0.0.1", 1);
	struct sockaddr *good = (struct sockaddr *)&in;
	const struct {
		struct sockaddr *addr;
		int port;
		int socktype;
	} bad[] = {
		{NULL, 1, SOCK_STREAM},
		{&unix_addr, 1, SOCK_STREAM},
		{good, -1, SOCK_STREAM},
		{good, 65536, SOCK_STREAM},
		{good, 1, 0},
		{good, 1, SOCK_RAW},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		log_forget();
		errno = 0;
		assert_int_equal(get_conn_to_addr(bad[i].addr, bad[i].port,
					 bad[i].socktype),
			-1);
		assert_int_equal(errno, EINVAL);
		assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	}
}

/* Asking sockets */

static void an_address_has_a_text(void **state)
{
	struct sockaddr_in in = ipv4("192.0.2.7", 80);
	struct sockaddr_in6 in6 = ipv6("2001:db8::1", 65535);
	struct sockaddr_in6 mapped = ipv6("::ffff:192.0.2.7", 0);
	struct sockaddr odd = {.sa_family = AF_UNIX};
	char text[EVT_NET_TEXT];

	(void)state;
	assert_string_equal(
		evt_net_text_((struct sockaddr *)&in, text), "192.0.2.7:80");
	assert_string_equal(evt_net_text_((struct sockaddr *)&in6, text),
		"[2001:db8::1]:65535");
	assert_string_equal(evt_net_text_((struct sockaddr *)&mapped, text),
		"[::ffff:192.0.2.7]:0");
	assert_string_equal(
		evt_net_text_(&odd, text), "an address of family 1");
	assert_int_equal(evt_net_addr_port_(&odd), -1);
	assert_int_equal(evt_net_addr_len_(AF_UNIX), 0);
}

static void what_is_no_socket_has_no_port(void **state)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_int_equal(evt_net_port_(-1), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(evt_net_port_(fd), -1);
	assert_int_equal(errno, ENOTSOCK);
	close(fd);
}

/* A19 */
static void the_backlog_is_the_systems_limit(void **state)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	int port;
	int fd = bound("127.0.0.1", SOCK_STREAM, &port);
	int limit = evt_net_backlog_limit_();

	(void)state;
	assert_true(limit > 0);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	/* For a listening socket these two are the queue and its limit. */
	assert_int_equal(info.tcpi_unacked, 0);
	assert_int_equal(info.tcpi_sacked, limit);
	close(fd);
}

/* B05, J12 */
static void accepting_is_repeated_when_interrupted_and_without_accept4(
	void **state)
{
	static const int errors[] = {EINTR, ENOSYS};
	struct sockaddr_storage peer;
	socklen_t len;
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	size_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		int fd = connect_to(port);
		int conn;

		assert_true(has_client(listener));
		inject(&accepting, errors[i], 0, 1);
		conn = evt_net_accept_(listener, false, &peer, &len);
		assert_int_not_equal(conn, -1);
		assert_int_equal(len, sizeof(struct sockaddr_in));
		assert_int_equal(fcntl(conn, F_GETFD), FD_CLOEXEC);
		assert_int_equal(fcntl(conn, F_GETFL) & O_NONBLOCK, 0);
		close(fd);
		close(conn);
	}
	close(listener);
}

static void answers_that_met_a_closed_port_are_passed_over(void **state)
{
	struct evt_net_datagram datagram;
	char buf[8];
	int port;
	int server = bound("127.0.0.1", SOCK_DGRAM, &port);
	int fd = udp_to(port);

	(void)state;
	assert_int_equal(send(fd, "hello", 5, 0), 5);
	inject(&receiving, ECONNREFUSED, 0, 3);
	assert_int_equal(
		evt_net_receive_(server, buf, sizeof(buf), 0, &datagram), 5);
	assert_int_equal(datagram.errors, 3);
	assert_false(datagram.truncated);
	inject(&receiving, EHOSTUNREACH, 0, FOR_EVER);
	assert_int_equal(
		evt_net_receive_(server, buf, sizeof(buf), 0, &datagram), -1);
	assert_int_equal(errno, EAGAIN);
	assert_true(atomic_load(&receiving.calls) <= 100);
	end_injection(&receiving);
	close(fd);
	close(server);
}

static void move_up(void *arg)
{
	int fd;

	(void)arg;
	close(0);
	fd = open("/dev/null", O_RDONLY); /* 0 */
	CHECK(fd == 0);
	fd = evt_net_above_stdio_(fd);
	CHECK(fd > 2);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK(fcntl(0, F_GETFD) == -1);
	CHECK(evt_net_above_stdio_(fd) == fd);
	CHECK(evt_net_above_stdio_(-1) == -1);
}

/* J13 */
static void a_standard_descriptor_is_moved_up(void **state)
{
	(void)state;
	assert_int_equal(in_child(move_up, NULL, 5), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(who_does_not_answer_is_given_up),
		LEDGER_TEST(interruptions_neither_shorten_nor_prolong_the_wait),
		LEDGER_TEST(an_interrupted_connect_connects),
		LEDGER_TEST(a_connect_that_takes_long_is_waited_for),
		LEDGER_TEST(a_refusal_is_told_at_once_and_leaves_nothing),
		LEDGER_TEST(the_port_is_taken_in_network_order),
		LEDGER_TEST(an_ipv6_address_is_connected_to),
		LEDGER_TEST(an_unaligned_address_is_connected_to),
		LEDGER_TEST(
			an_address_on_the_heap_is_read_no_further_than_it_goes),
		LEDGER_TEST(for_udp_the_socket_is_connected),
		LEDGER_TEST(a_refusal_names_the_address),
		LEDGER_TEST(what_is_no_address_is_refused),
		LEDGER_TEST(an_address_has_a_text),
		LEDGER_TEST(what_is_no_socket_has_no_port),
		LEDGER_TEST(the_backlog_is_the_systems_limit),
		LEDGER_TEST(
			accepting_is_repeated_when_interrupted_and_without_accept4),
		LEDGER_TEST(answers_that_met_a_closed_port_are_passed_over),
		LEDGER_TEST(a_standard_descriptor_is_moved_up),
	};

	return ledger_run("connect", tests);
}
