/*
 * test_network.c: the machine's network as others have it, in network
 * namespaces: with IPv6 switched off or half taken, with another default for
 * bindv6only, with short queues, and ports that are not for everybody.
 */
#include "ledger.h"
#include "network.h"
#include "../evt-core.h"
#include "../evt-log.h"

#include <fcntl.h>
#include <netinet/tcp.h>

#define NOT_HERE 77 /* of a child: this machine lacks something */

static atomic_int listening_fd;

static void on_client(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	atomic_store(&listening_fd, fd);
	if (conn != -1 && evt_thread_dispatch(conn, evt, arg) == -1)
		evt_close(conn);
}

static void echo(sockfd_t conn, short evt, void *arg)
{
	char bytes[4096];
	ssize_t len;

	(void)evt, (void)arg;
	while ((len = read(conn, bytes, sizeof(bytes))) > 0)
		if (!send_all(conn, bytes, (size_t)len))
			break;
	evt_close(conn);
}

static int start_server(evt_callback cb, evt_callback tcb, int workers)
{
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

static bool set_sysctl(const char *name, const char *value)
{
	char path[128];
	bool ok;
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	ok = fd != -1 &&
		write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	if (fd != -1)
		close(fd);
	return ok;
}

static void enter_namespace(void)
{
	if (!own_network(CLONE_NEWNET) &&
		!own_network(CLONE_NEWUSER | CLONE_NEWNET))
		_exit(NOT_HERE);
}

static void in_namespace(void (*fn)(void *), void *arg)
{
	int status = in_child(fn, arg, 20);

	if (status == NOT_HERE)
		skip();
	assert_int_equal(status, 0);
}

static void serve_with_bindv6only(void *value)
{
	int port;

	enter_namespace();
	if (!set_sysctl("ipv6/bindv6only", value))
		_exit(NOT_HERE);
	port = start_server(on_client, echo, 2);
	CHECK(port > 0);
	CHECK(serves("127.0.0.1", port));
	CHECK(serves("::1", port));
	evt_server_stop();
	CHECK(log_lines(EVT_LOG_INFO) == 0);
}

/* A06 */
static void bindv6only_0_serves_both_families(void **state)
{
	(void)state;
	in_namespace(serve_with_bindv6only, (void *)"0");
}

/* A06 */
static void bindv6only_1_serves_both_families(void **state)
{
	(void)state;
	in_namespace(serve_with_bindv6only, (void *)"1");
}

static void serve_with_ipv6_disabled(void *arg)
{
	int port;

	(void)arg;
	enter_namespace();
	if (!set_sysctl("ipv6/conf/all/disable_ipv6", "1"))
		_exit(NOT_HERE);
	port = start_server(on_client, echo, 2);
	CHECK(port > 0);
	CHECK(get_sockaddr_size() == sizeof(struct sockaddr_in6));
	CHECK(serves("127.0.0.1", port));
	CHECK(connect_to_ip("::1", port) == -1);
	evt_server_stop();
}

/* A05 */
static void with_ipv6_disabled_by_sysctl_ipv4_is_served(void **state)
{
	(void)state;
	in_namespace(serve_with_ipv6_disabled, NULL);
}

static int bind_taken(int family, int port, int v6only)
{
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	bool v6 = family == AF_INET6;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (v6)
		setsockopt(
			fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
	CHECK(bind(fd, v6 ? (struct sockaddr *)&in6 : (struct sockaddr *)&in,
		      v6 ? sizeof(in6) : sizeof(in)) == 0);
	CHECK(listen(fd, 5) == 0);
	return fd;
}

static void serve_ipv4_where_ipv6_is_taken(void *arg)
{
	(void)arg;
	enter_namespace();
	bind_taken(AF_INET6, 9999, 1);
	CHECK(evt_server_init(9999, SOCK_STREAM) == 0);
	CHECK(evt_server_start(on_client, NULL) == 0);
	CHECK(evt_server_threads(echo, 1) == 1);
	CHECK(serves("127.0.0.1", 9999));
	CHECK(get_sockaddr_size() == sizeof(struct sockaddr_in6));
	CHECK(log_lines(EVT_LOG_INFO) == 1);
	CHECK(log_has("[::]:9999: Address already in use; serving IPv4 alone"));
	evt_server_stop();
}

/* A08 */
static void a_port_taken_in_ipv6_alone_is_served_in_ipv4(void **state)
{
	(void)state;
	in_namespace(serve_ipv4_where_ipv6_is_taken, NULL);
}

static void fail_where_ipv4_is_taken(void *arg)
{
	(void)arg;
	enter_namespace();
	if (!set_sysctl("ipv6/bindv6only", "1"))
		_exit(NOT_HERE);
	bind_taken(AF_INET, 9999, 0);
	CHECK(evt_server_init(9999, SOCK_STREAM) == 0);
	CHECK(evt_server_start(on_client, NULL) == -1);
	CHECK(errno == EADDRINUSE);
	CHECK(evt_server_port() == -1);
	CHECK(log_lines(EVT_LOG_INFO) == 1);
	evt_server_stop();
}

/* A08, B14: never IPv6 alone, with peers that the program does not expect */
static void a_port_taken_in_ipv4_fails_the_start(void **state)
{
	(void)state;
	in_namespace(fail_where_ipv4_is_taken, NULL);
}

static void ask_for_port_80_without_rights(void *arg)
{
	int fds;
	int port;

	(void)arg;
	enter_namespace();
	/* In a namespace of users bind(2) says EINVAL instead. */
	if (getuid() != 0 || setgid(65534) == -1 || setuid(65534) == -1)
		_exit(NOT_HERE);
	fds = count_fds();
	CHECK(evt_server_init(80, SOCK_STREAM) == 0);
	CHECK(evt_server_start(on_client, NULL) == -1);
	CHECK(errno == EACCES);
	CHECK(log_lines(EVT_LOG_DEBUG) == 1);
	CHECK(log_has("[::]:80: Permission denied"));
	CHECK(count_fds() == fds);
	evt_server_stop();
	port = start_server(on_client, echo, 1);
	CHECK(serves("127.0.0.1", port));
	evt_server_stop();
}

/* A07 */
static void a_port_without_permission_fails_the_start_with_eacces(void **state)
{
	(void)state;
	in_namespace(ask_for_port_80_without_rights, NULL);
}

/* How long the queue of a listening socket may be; see tcp(7). */
static int queue_limit(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == -1)
		return -1;
	return (int)info.tcpi_sacked;
}

static void serve_with_a_backlog_of_16(void *arg)
{
	int port;

	(void)arg;
	enter_namespace();
	if (!set_sysctl("core/somaxconn", "16"))
		_exit(NOT_HERE);
	port = start_server(on_client, echo, 2);
	CHECK(serves("127.0.0.1", port));
	CHECK(queue_limit(atomic_load(&listening_fd)) == 16);
	CHECK(log_has("backlog 16"));
	CHECK(log_lines(EVT_LOG_INFO) == 0);
	evt_server_stop();
}

/* A19 */
static void a_backlog_capped_by_the_system_works_and_is_told(void **state)
{
	(void)state;
	in_namespace(serve_with_a_backlog_of_16, NULL);
}

/* A19 */
static void the_backlog_is_the_longest_that_the_system_allows(void **state)
{
	FILE *file = fopen("/proc/sys/net/core/somaxconn", "re");
	int port = start_server(on_client, echo, 1);
	int limit = 0;

	(void)state;
	assert_int_equal(fscanf(file, "%d", &limit), 1);
	fclose(file);
	assert_true(serves("127.0.0.1", port));
	assert_int_equal(queue_limit(atomic_load(&listening_fd)), limit);
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(bindv6only_0_serves_both_families),
		LEDGER_TEST(bindv6only_1_serves_both_families),
		LEDGER_TEST(with_ipv6_disabled_by_sysctl_ipv4_is_served),
		LEDGER_TEST(a_port_taken_in_ipv6_alone_is_served_in_ipv4),
		LEDGER_TEST(a_port_taken_in_ipv4_fails_the_start),
		LEDGER_TEST(
			a_port_without_permission_fails_the_start_with_eacces),
		LEDGER_TEST(a_backlog_capped_by_the_system_works_and_is_told),
		LEDGER_TEST(the_backlog_is_the_longest_that_the_system_allows),
	};

	return ledger_run("network", tests);
}
