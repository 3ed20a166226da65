/*
 * test_tcp.c: the TCP server as its clients see it, over real sockets and with
 * the programs that people have: addresses, both families, queues, clients that
 * vanish, and the port before and after.
 */
/* wrap: socket */
#include "ledger.h"
#include "network.h"
#include "../evt-core.h"
#include "../evt-log.h"
#include "../evt-server-internal.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

int __real_socket(int family, int type, int protocol);

/* How often a socket of IPv6 is still to be made before there is no IPv6. */
static atomic_int v6_sockets_left = INT32_MAX;

int __wrap_socket(int family, int type, int protocol)
{
	if (family == AF_INET6 && atomic_fetch_sub(&v6_sockets_left, 1) <= 0) {
		errno = EAFNOSUPPORT;
		return -1;
	}
	return __real_socket(family, type, protocol);
}

/* The servers of these tests */

static atomic_int calls;
static atomic_int served;
static atomic_int failures;
static atomic_bool gate;

static void on_client(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	atomic_fetch_add(&calls, 1);
	if (conn >= 0 && evt_thread_dispatch(conn, evt, arg) == -1)
		evt_close(conn);
}

static void echo(sockfd_t conn, short evt, void *arg)
{
	char bytes[4096];
	ssize_t len;

	(void)evt, (void)arg;
	atomic_fetch_add(&served, 1);
	while ((len = read(conn, bytes, sizeof(bytes))) > 0)
		if (!send_all(conn, bytes, (size_t)len))
			break;
	evt_close(conn);
}

static void reset_counts(void)
{
	atomic_store(&calls, 0);
	atomic_store(&served, 0);
	atomic_store(&failures, 0);
	atomic_store(&gate, false);
	atomic_store(&v6_sockets_left, INT32_MAX);
}

/* A test that fails must not leave its server to the next one. */
static int stop_and_close(void **state)
{
	atomic_store(&gate, true);
	atomic_store(&v6_sockets_left, INT32_MAX);
	evt_server_stop();
	return ledger_close(state);
}

#define TCP_TEST(fn)                                              \
	{                                                         \
#fn, fn, ledger_open, stop_and_close, (void *)#fn \
	}

/* The port of a server of TCP with so many workers, or -1. */
static int start_server(evt_callback cb, evt_callback tcb, int workers)
{
	reset_counts();
	if (evt_server_init(0, SOCK_STREAM) == -1 ||
		evt_server_start(cb, NULL) == -1 ||
		evt_server_threads(tcb, workers) != workers)
		return -1;
	return evt_server_port();
}

static bool echoes(int fd, const char *text)
{
	char answer[64] = "";

	return send_all(fd, text, strlen(text)) &&
		receive_all(fd, answer, strlen(text)) &&
		strcmp(answer, text) == 0;
}

static bool serves(const char *ip, int port)
{
	int fd = connect_to_ip(ip, port);
	bool ok = fd != -1 && echoes(fd, "a line");

	if (fd != -1)
		close(fd);
	return ok;
}

static bool have_ipv6(void)
{
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = __real_socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok = fd != -1 &&
		bind(fd, (struct sockaddr *)&in6, sizeof(in6)) == 0;

	if (fd != -1)
		close(fd);
	return ok;
}

/* A10 */
static void who_connects_when_start_returns_is_accepted(void **state)
{
	int round;

	(void)state;
	for (round = 0; round < 50; round++) {
		int fd;

		reset_counts();
		assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
		assert_int_equal(evt_server_start(on_client, NULL), 0);
		fd = connect_to(evt_server_port());
		assert_int_not_equal(fd, -1);
		assert_int_equal(evt_server_threads(echo, 1), 1);
		assert_true(echoes(fd, "first"));
		close(fd);
		evt_server_stop();
	}
}

/* A06 */
static void both_families_are_served_by_one_socket(void **state)
{
	int port;

	(void)state;
	if (!have_ipv6())
		skip();
	port = start_server(on_client, echo, 2);
	assert_true(port > 0);
	assert_true(serves("127.0.0.1", port));
	assert_true(serves("127.1.2.3", port));
	assert_true(serves("::1", port));
	evt_server_stop();
}

/* A05 */
static void without_ipv6_it_serves_ipv4_and_says_so_once(void **state)
{
	(void)state;
	reset_counts();
	atomic_store(&v6_sockets_left, 0);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	assert_int_equal(get_sockaddr_size(), sizeof(struct sockaddr_in));
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_int_equal(evt_server_threads(echo, 1), 1);
	assert_int_equal(get_sockaddr_size(), sizeof(struct sockaddr_in));
	assert_true(serves("127.0.0.1", evt_server_port()));
	assert_int_equal(log_lines(EVT_LOG_INFO), 1);
	assert_true(log_has("IPv4"));
	assert_int_equal(log_lines(EVT_LOG_ERROR), 0);
	evt_server_stop();
	reset_counts();
}

/* A05 */
static void ipv6_lost_after_init_leaves_the_size_of_addresses(void **state)
{
	(void)state;
	if (!have_ipv6())
		skip();
	reset_counts();
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	assert_int_equal(get_sockaddr_size(), sizeof(struct sockaddr_in6));
	atomic_store(&v6_sockets_left, 0);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_int_equal(evt_server_threads(echo, 1), 1);
	assert_int_equal(get_sockaddr_size(), sizeof(struct sockaddr_in6));
	assert_true(serves("127.0.0.1", evt_server_port()));
	assert_int_equal(log_lines(EVT_LOG_INFO), 1);
	assert_true(log_has("serving IPv4 alone"));
	evt_server_stop();
	reset_counts();
}

static int listen_on(int family, int port)
{
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	bool v6 = family == AF_INET6;
	int fd = __real_socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (bind(fd, v6 ? (struct sockaddr *)&in6 : (struct sockaddr *)&in,
		    v6 ? sizeof(in6) : sizeof(in)) == 0 &&
		listen(fd, 5) == 0)
		return fd;
	close(fd);
	return -1;
}

static int port_of(int fd)
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);

	/* Both families have the port in one place. */
	getsockname(fd, (struct sockaddr *)&in, &len);
	return ntohs(in.sin_port);
}

/* A07 */
static void an_address_in_use_fails_the_start_with_one_line(void **state)
{
	int taken = listen_on(AF_INET, 0);
	int port = port_of(taken);
	int fds = count_fds();
	int threads = count_threads();
	char address[16];

	(void)state;
	reset_counts();
	assert_int_equal(evt_server_init(port, SOCK_STREAM), 0);
	errno = 0;
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	assert_int_equal(errno, EADDRINUSE);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	snprintf(address, sizeof(address), ":%d", port);
	assert_true(log_has(address));
	assert_true(log_has(strerror(EADDRINUSE)));
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(count_threads(), threads);
	evt_server_stop();
	close(taken);
}

/* A07 */
static void a_free_port_works_after_a_start_that_failed(void **state)
{
	int taken = listen_on(AF_INET, 0);

	(void)state;
	reset_counts();
	assert_int_equal(evt_server_init(port_of(taken), SOCK_STREAM), 0);
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	assert_int_equal(errno, EADDRINUSE);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_int_equal(evt_server_threads(echo, 1), 1);
	assert_true(serves("127.0.0.1", evt_server_port()));
	evt_server_stop();
	close(taken);
}

/* A07 */
static void the_same_init_starts_once_its_port_is_free(void **state)
{
	int taken = listen_on(AF_INET, 0);
	int port = port_of(taken);

	(void)state;
	reset_counts();
	assert_int_equal(evt_server_init(port, SOCK_STREAM), 0);
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	close(taken);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_int_equal(evt_server_threads(echo, 1), 1);
	assert_int_equal(evt_server_port(), port);
	assert_true(serves("127.0.0.1", port));
	evt_server_stop();
}

/* A07: the workers were there first */
static void a_failed_start_leaves_the_pool_as_it_was(void **state)
{
	int taken = listen_on(AF_INET, 0);
	int threads;

	(void)state;
	reset_counts();
	assert_int_equal(evt_server_init(port_of(taken), SOCK_STREAM), 0);
	assert_int_equal(evt_server_threads(echo, 2), 2);
	threads = count_threads();
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	assert_int_equal(errno, EADDRINUSE);
	assert_int_equal(count_threads(), threads);
	close(taken);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_true(serves("127.0.0.1", evt_server_port()));
	evt_server_stop();
}

/* D09 */
static void the_port_is_closed_when_stop_returns(void **state)
{
	int round;

	(void)state;
	for (round = 0; round < 20; round++) {
		int port = start_server(on_client, echo, 1);

		assert_true(port > 0);
		assert_true(serves("127.0.0.1", port));
		evt_server_stop();
		assert_true(refused(port));
	}
}

/* D09 */
static void the_port_can_be_bound_again_at_once(void **state)
{
	int port = start_server(on_client, echo, 1);
	int round;

	(void)state;
	for (round = 0; round < 10; round++) {
		assert_true(serves("127.0.0.1", port));
		evt_server_stop();
		assert_int_equal(evt_server_init(port, SOCK_STREAM), 0);
		assert_int_equal(evt_server_start(on_client, NULL), 0);
		assert_int_equal(evt_server_threads(echo, 1), 1);
	}
	evt_server_stop();
}

static void accept_twice(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	if (conn == -1 || evt_tcp(fd, NULL) != -1 || errno != EAGAIN)
		atomic_fetch_add(&failures, 1);
	if (conn != -1 && evt_thread_dispatch(conn, evt, arg) == -1)
		evt_close(conn);
	atomic_fetch_add(&calls, 1);
}

/* B15 */
static void accepting_when_nobody_waits_is_eagain_without_a_line(void **state)
{
	int port = start_server(accept_twice, echo, 1);
	int i;

	(void)state;
	for (i = 0; i < 10; i++)
		assert_true(serves("127.0.0.1", port));
	assert_true(WAIT_FOR(atomic_load(&calls) == 10));
	assert_int_equal(atomic_load(&failures), 0);
	evt_server_stop();
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

static void accept_at_the_fifth_call(sockfd_t fd, short evt, void *arg)
{
	if (atomic_fetch_add(&calls, 1) < 4)
		return;
	on_client(fd, evt, arg);
}

/* B16 */
static void a_callback_that_does_not_accept_is_called_again(void **state)
{
	int port = start_server(accept_at_the_fifth_call, echo, 1);

	(void)state;
	assert_true(serves("127.0.0.1", port));
	assert_true(atomic_load(&calls) >= 5);
	assert_int_equal(atomic_load(&served), 1);
	evt_server_stop();
}

/* What evt_tcp wrote, and what stands behind it. */
static unsigned char peer_bytes[256];

static void record_peer(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn;

	(void)evt, (void)arg;
	memset(peer_bytes, 0xa5, sizeof(peer_bytes));
	conn = evt_tcp(fd, (struct sockaddr *)peer_bytes);
	evt_close(conn);
	atomic_fetch_add(&calls, 1);
}

static bool untouched_behind(size_t size)
{
	size_t i;

	for (i = size; i < sizeof(peer_bytes); i++)
		if (peer_bytes[i] != 0xa5)
			return false;
	return true;
}

/* B14 */
static void an_ipv4_peer_of_a_dual_stack_server_is_mapped(void **state)
{
	struct sockaddr_in6 in6;
	char text[INET6_ADDRSTRLEN];
	int port;
	int fd;

	(void)state;
	if (!have_ipv6())
		skip();
	port = start_server(record_peer, echo, 1);
	fd = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	memcpy(&in6, peer_bytes, sizeof(in6));
	assert_int_equal(in6.sin6_family, AF_INET6);
	inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof(text));
	assert_string_equal(text, "::ffff:127.0.0.1");
	assert_int_equal(ntohs(in6.sin6_port), port_of(fd));
	assert_true(untouched_behind((size_t)get_sockaddr_size()));
	close(fd);
	evt_server_stop();
}

/* B14 */
static void an_ipv6_peer_has_its_own_address(void **state)
{
	struct sockaddr_in6 in6;
	int fd;

	(void)state;
	if (!have_ipv6())
		skip();
	fd = connect_to_ip("::1", start_server(record_peer, echo, 1));
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	memcpy(&in6, peer_bytes, sizeof(in6));
	assert_int_equal(in6.sin6_family, AF_INET6);
	assert_memory_equal(&in6.sin6_addr, &in6addr_loopback, 16);
	assert_int_equal(ntohs(in6.sin6_port), port_of(fd));
	assert_true(untouched_behind(sizeof(in6)));
	close(fd);
	evt_server_stop();
}

/* B14 */
static void an_ipv4_server_writes_no_more_than_an_ipv4_address(void **state)
{
	struct sockaddr_in in;
	int fd;

	(void)state;
	reset_counts();
	atomic_store(&v6_sockets_left, 0);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	assert_int_equal(evt_server_start(record_peer, NULL), 0);
	fd = connect_to(evt_server_port());
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	memcpy(&in, peer_bytes, sizeof(in));
	assert_int_equal(in.sin_family, AF_INET);
	assert_int_equal(in.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	assert_true(untouched_behind(sizeof(in)));
	close(fd);
	evt_server_stop();
	reset_counts();
}

/* B14: each peer of a server that had to fall back is an IPv4 one */
static void a_server_that_fell_back_writes_what_new_sockaddr_holds(void **state)
{
	struct sockaddr_in in;
	int fd;

	(void)state;
	if (!have_ipv6())
		skip();
	reset_counts();
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	atomic_store(&v6_sockets_left, 0);
	assert_int_equal(evt_server_start(record_peer, NULL), 0);
	fd = connect_to(evt_server_port());
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	memcpy(&in, peer_bytes, sizeof(in));
	assert_int_equal(in.sin_family, AF_INET);
	assert_int_equal(in.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	assert_true(untouched_behind((size_t)get_sockaddr_size()));
	close(fd);
	evt_server_stop();
	reset_counts();
}

static void wait_at_the_gate(sockfd_t fd, short evt, void *arg)
{
	atomic_fetch_add(&calls, 1);
	(void)WAIT_FOR(atomic_load(&gate));
	(void)fd, (void)evt, (void)arg;
}

static void *stop_server(void *arg)
{
	evt_server_stop();
	return arg;
}

/* B18 */
static void clients_in_the_queue_are_reset_by_stop(void **state)
{
	int fds[100];
	int i;
	int port = start_server(wait_at_the_gate, echo, 1);
	pthread_t stopper;
	char byte;

	(void)state;
	for (i = 0; i < 100; i++)
		fds[i] = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	pthread_create(
		&stopper, NULL, (void *(*)(void *))evt_server_stop, NULL);
	atomic_store(&gate, true);
	pthread_join(stopper, NULL);
	for (i = 0; i < 100; i++) {
		assert_int_equal(recv(fds[i], &byte, 1, 0), -1);
		assert_int_equal(errno, ECONNRESET);
		close(fds[i]);
	}
	assert_int_equal(atomic_load(&served), 0);
}

static void serve_two_late_clients(sockfd_t fd, short evt, void *arg)
{
	char byte;
	int i;

	(void)evt, (void)arg;
	atomic_fetch_add(&calls, 1);
	(void)WAIT_FOR(atomic_load(&gate));
	for (i = 0; i < 2; i++) {
		sockfd_t conn = evt_tcp(fd, NULL);

		CHECK(conn != -1);
		CHECK(read(conn, &byte, 1) == 0);
		evt_close(conn);
	}
	atomic_fetch_add(&served, 1);
}

/* In a child: one that hangs is ended by its watchdog. */
static void stop_a_listener_that_serves(void *arg)
{
	int port = start_server(serve_two_late_clients, echo, 1);
	pthread_t stopper;

	(void)arg;
	CHECK(connect_to(port) != -1);
	CHECK(connect_to(port) != -1);
	CHECK(WAIT_FOR(atomic_load(&calls) == 1));
	evt_server_grace_ms(0);
	pthread_create(&stopper, NULL, stop_server, NULL);
	usleep(50 * 1000); /* the grace is over when it accepts */
	atomic_store(&gate, true);
	pthread_join(stopper, NULL);
	CHECK(atomic_load(&served) == 1);
}

/* B17 */
static void what_the_listener_accepts_after_the_grace_is_cut(void **state)
{
	(void)state;
	assert_int_equal(in_child(stop_a_listener_that_serves, NULL, 5), 0);
}

/* B07 */
static void clients_that_reset_before_they_are_accepted_do_no_harm(void **state)
{
	struct evt_server_ledger ledger;
	int port = start_server(on_client, echo, 2);
	int i;

	(void)state;
	for (i = 0; i < 500; i++)
		close_with_reset(connect_to(port));
	assert_true(serves("127.0.0.1", port));
	evt_server_stop();
	evt_server_ledger_(&ledger);
	assert_int_equal(ledger.accepted, ledger.delivered);
	assert_int_equal(ledger.delivered, atomic_load(&served));
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

/* B07: the address of such a client */
static void a_client_that_has_left_still_gives_a_whole_address(void **state)
{
	int i;
	int port = start_server(record_peer, echo, 1);

	(void)state;
	for (i = 0; i < 100; i++)
		close_with_reset(connect_to(port));
	assert_true(WAIT_FOR(atomic_load(&calls) > 0));
	evt_server_stop();
	assert_int_equal(((struct sockaddr *)peer_bytes)->sa_family,
		have_ipv6() ? AF_INET6 : AF_INET);
	assert_true(untouched_behind(sizeof(struct sockaddr_in6)));
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TCP_TEST(who_connects_when_start_returns_is_accepted),
		TCP_TEST(both_families_are_served_by_one_socket),
		TCP_TEST(without_ipv6_it_serves_ipv4_and_says_so_once),
		TCP_TEST(ipv6_lost_after_init_leaves_the_size_of_addresses),
		TCP_TEST(an_address_in_use_fails_the_start_with_one_line),
		TCP_TEST(a_free_port_works_after_a_start_that_failed),
		TCP_TEST(the_same_init_starts_once_its_port_is_free),
		TCP_TEST(a_failed_start_leaves_the_pool_as_it_was),
		TCP_TEST(the_port_is_closed_when_stop_returns),
		TCP_TEST(the_port_can_be_bound_again_at_once),
		TCP_TEST(accepting_when_nobody_waits_is_eagain_without_a_line),
		TCP_TEST(a_callback_that_does_not_accept_is_called_again),
		TCP_TEST(an_ipv4_peer_of_a_dual_stack_server_is_mapped),
		TCP_TEST(an_ipv6_peer_has_its_own_address),
		TCP_TEST(an_ipv4_server_writes_no_more_than_an_ipv4_address),
		TCP_TEST(
			a_server_that_fell_back_writes_what_new_sockaddr_holds),
		TCP_TEST(clients_in_the_queue_are_reset_by_stop),
		TCP_TEST(what_the_listener_accepts_after_the_grace_is_cut),
		TCP_TEST(
			clients_that_reset_before_they_are_accepted_do_no_harm),
		TCP_TEST(a_client_that_has_left_still_gives_a_whole_address),
	};

	(void)own_network(CLONE_NEWNET);
	return ledger_run("tcp", tests);
}
