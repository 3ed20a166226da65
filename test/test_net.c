/*
 * test_net.c: resolving in all its failures, and connecting to each address of
 * a host in turn.
 */
/* wrap: getaddrinfo freeaddrinfo */
#include "addresses.h"
#include "../evt-core.h"

#include <sys/un.h>

/* What getaddrinfo says, while it is told what to say. */

#define MAX_FAKES 4

static struct {
	bool on;
	int result;
	int error; /* its errno */
	int nr;    /* 0: an empty list */
	struct addrinfo ai[MAX_FAKES];
	struct sockaddr_storage addr[MAX_FAKES];
	int freed;
} fake;

int __real_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list);
void __real_freeaddrinfo(struct addrinfo *list);

int __wrap_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list)
{
	if (!fake.on)
		return __real_getaddrinfo(host, service, hints, list);
	errno = fake.error;
	if (fake.result == 0)
		*list = fake.nr > 0 ? fake.ai : NULL;
	else
		*list = (struct addrinfo *)8; /* not to be looked at */
	return fake.result;
}

void __wrap_freeaddrinfo(struct addrinfo *list)
{
	if (list == fake.ai)
		fake.freed++;
	else
		__real_freeaddrinfo(list);
}

static void say_result(int result, int error)
{
	memset(&fake, 0, sizeof(fake));
	fake.on = true;
	fake.result = result;
	fake.error = error;
}

static void say_empty_list(void)
{
	say_result(0, 0);
}

static void tell_truth(void)
{
	fake.on = false;
}

/* One more address of the list. */
static void add_address(const void *addr, socklen_t len, int socktype)
{
	struct addrinfo *ai = &fake.ai[fake.nr];

	memcpy(&fake.addr[fake.nr], addr, len);
	ai->ai_family = ((const struct sockaddr *)addr)->sa_family;
	ai->ai_socktype = socktype;
	ai->ai_addrlen = len;
	ai->ai_addr = (struct sockaddr *)&fake.addr[fake.nr];
	if (fake.nr > 0)
		fake.ai[fake.nr - 1].ai_next = ai;
	fake.nr++;
}

static void add_ipv4(const char *ip, int port)
{
	struct sockaddr_in in = ipv4(ip, port);

	add_address(&in, sizeof(in), SOCK_STREAM);
}

static void add_ipv6(const char *ip, int port)
{
	struct sockaddr_in6 in6 = ipv6(ip, port);

	add_address(&in6, sizeof(in6), SOCK_STREAM);
}

/* Resolving */

/* A01 */
static void a_port_out_of_range_is_refused_by_name(void **state)
{
	static const int ports[] = {-1, 65536, 70000, INT_MIN, INT_MAX};
	char text[32];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		log_forget();
		snprintf(text, sizeof(text), "port %d", ports[i]);
		errno = 0;
		assert_null(getnetinfo("127.0.0.1", ports[i], SOCK_STREAM));
		assert_int_equal(errno, EINVAL);
		assert_true(log_has(text));
		assert_int_equal(
			get_conn_to_host("127.0.0.1", ports[i], SOCK_STREAM),
			-1);
		assert_int_equal(errno, EINVAL);
		assert_int_equal(evt_server_init(ports[i], SOCK_STREAM), -1);
		assert_int_equal(errno, EINVAL);
		assert_int_equal(log_lines(EVT_LOG_ERROR), 3);
		assert_null(get_server_addrinfo());
	}
}

/* A01 */
static void the_first_and_the_last_port_are_taken(void **state)
{
	static const int ports[] = {0, 1, 65535};
	struct addrinfo *ai;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		ai = getnetinfo("127.0.0.1", ports[i], SOCK_STREAM);
		assert_non_null(ai);
		assert_int_equal(evt_net_addr_port_(ai->ai_addr), ports[i]);
		freeaddrinfo(ai);
		assert_int_equal(evt_server_init(ports[i], SOCK_STREAM), 0);
		assert_int_equal(
			evt_net_addr_port_(get_server_addrinfo()->ai_addr),
			ports[i]);
	}
	evt_server_stop();
	assert_null(log_line(0));
}

/* A02 */
static void another_socktype_is_refused(void **state)
{
	static const int types[] = {0, SOCK_RAW, 12345, -1};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		errno = 0;
		assert_int_equal(evt_server_init(9, types[i]), -1);
		assert_int_equal(errno, EINVAL);
		errno = 0;
		assert_int_equal(
			get_conn_to_host("127.0.0.1", 9, types[i]), -1);
		assert_int_equal(errno, EINVAL);
	}
	assert_null(getnetinfo("127.0.0.1", 9, 12345));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 9);
	assert_null(get_server_addrinfo());
}

/* The failures of getaddrinfo, as each caller tells them. */
static const struct {
	int result;
	int error;
} failures[] = {
	{EAI_AGAIN, ETIMEDOUT},
	{EAI_FAIL, EIO},
	{EAI_MEMORY, ENOMEM},
	{EAI_NONAME, ENOENT},
	{EAI_NODATA, ENOENT},
	{EAI_SERVICE, EINVAL},
	{EAI_SOCKTYPE, EINVAL},
	{EAI_BADFLAGS, EINVAL},
	{EAI_FAMILY, EAFNOSUPPORT},
	{EAI_ADDRFAMILY, EAFNOSUPPORT},
	{EAI_OVERFLOW, EIO},
};

#define NR_FAILURES (sizeof(failures) / sizeof(failures[0]))

/* A03 */
static void getnetinfo_tells_each_failure_of_getaddrinfo(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < NR_FAILURES; i++) {
		log_forget();
		say_result(failures[i].result, EPROTO);
		assert_null(getnetinfo("a.host", 80, SOCK_STREAM));
		assert_int_equal(errno, failures[i].error);
		assert_true(log_has(gai_strerror(failures[i].result)));
		assert_true(log_has("a.host"));
		assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
		assert_int_equal(fake.freed, 0);
	}
	tell_truth();
}

/* A03 */
static void get_conn_to_host_tells_each_failure_of_getaddrinfo(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < NR_FAILURES; i++) {
		log_forget();
		say_result(failures[i].result, EPROTO);
		assert_int_equal(
			get_conn_to_host("a.host", 80, SOCK_STREAM), -1);
		assert_int_equal(errno, failures[i].error);
		assert_true(log_has(gai_strerror(failures[i].result)));
		assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	}
	tell_truth();
}

/* A03 */
static void init_tells_each_failure_of_getaddrinfo(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < NR_FAILURES; i++) {
		log_forget();
		say_result(failures[i].result, EPROTO);
		assert_int_equal(evt_server_init(80, SOCK_STREAM), -1);
		assert_int_equal(errno, failures[i].error);
		assert_true(log_has(gai_strerror(failures[i].result)));
		assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
		assert_null(get_server_addrinfo());
	}
	tell_truth();
}

/* A03 */
static void a_system_error_of_getaddrinfo_is_told_as_such(void **state)
{
	static const int errors[] = {EMFILE, ENFILE, EAGAIN, ECONNREFUSED};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		log_forget();
		say_result(EAI_SYSTEM, errors[i]);
		assert_null(getnetinfo("a.host", 80, SOCK_STREAM));
		assert_int_equal(errno, errors[i]);
		assert_true(log_has(strerror(errors[i])));
		assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	}
	tell_truth();
}

/* A03 */
static void a_failed_init_leaves_what_an_earlier_one_prepared(void **state)
{
	struct addrinfo *before;

	(void)state;
	assert_int_equal(evt_server_init(7777, SOCK_STREAM), 0);
	before = get_server_addrinfo();
	say_result(EAI_FAIL, 0);
	assert_int_equal(evt_server_init(8888, SOCK_STREAM), -1);
	tell_truth();
	assert_ptr_equal(get_server_addrinfo(), before);
	assert_int_equal(evt_net_addr_port_(before->ai_addr), 7777);
	evt_server_stop();
}

/* A04 */
static void an_empty_list_is_an_unsupported_family(void **state)
{
	(void)state;
	say_empty_list();
	assert_null(getnetinfo("a.host", 80, SOCK_STREAM));
	assert_int_equal(errno, EAFNOSUPPORT);
	assert_int_equal(get_conn_to_host("a.host", 80, SOCK_STREAM), -1);
	assert_int_equal(errno, EAFNOSUPPORT);
	assert_int_equal(evt_server_init(80, SOCK_STREAM), -1);
	assert_int_equal(errno, EAFNOSUPPORT);
	tell_truth();
	assert_int_equal(log_lines(EVT_LOG_ERROR), 3);
}

/* A04 */
static void an_address_of_an_unknown_family_is_not_served(void **state)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/nowhere"};

	(void)state;
	say_empty_list();
	add_address(&un, sizeof(un), SOCK_STREAM);
	assert_int_equal(evt_server_init(80, SOCK_STREAM), -1);
	assert_int_equal(errno, EAFNOSUPPORT);
	assert_int_equal(fake.freed, 1);
	tell_truth();
	assert_null(get_server_addrinfo());
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
}

/* A04 */
static void an_address_of_an_unknown_family_is_skipped(void **state)
{
	struct sockaddr odd = {.sa_family = 12345 % 250};
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int fd;

	(void)state;
	say_empty_list();
	add_address(&odd, sizeof(odd), SOCK_STREAM);
	add_ipv4("127.0.0.1", port);
	fd = get_conn_to_host("a.host", port, SOCK_STREAM);
	tell_truth();
	assert_int_not_equal(fd, -1);
	assert_int_equal(fake.freed, 1);
	close(fd);
	close(listener);
}

/* Connecting to a host */

/* L02 */
static void the_second_address_is_tried_if_the_first_refuses(void **state)
{
	int port;
	int deaf_port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int deaf = bound_but_deaf("127.0.0.2", &deaf_port);
	int fd;

	(void)state;
	say_empty_list();
	add_ipv4("127.0.0.2", deaf_port);
	add_ipv4("127.0.0.1", port);
	fd = get_conn_to_host("a.host", port, SOCK_STREAM);
	tell_truth();
	assert_int_not_equal(fd, -1);
	assert_null(log_line(0));
	assert_int_equal(fake.freed, 1);
	close(fd);
	close(listener);
	close(deaf);
}

/* L02 */
static void each_address_is_tried_with_its_own_length(void **state)
{
	int port;
	int deaf_port;
	int listener = bound("::1", SOCK_STREAM, &port);
	int deaf = bound_but_deaf("127.0.0.2", &deaf_port);
	int fd;

	(void)state;
	say_empty_list();
	add_ipv4("127.0.0.2", deaf_port);
	add_ipv4("127.0.0.2", deaf_port);
	add_ipv6("::1", port);
	fd = get_conn_to_host("a.host", port, SOCK_STREAM);
	tell_truth();
	assert_int_not_equal(fd, -1);
	close(fd);
	close(listener);
	close(deaf);
}

/* L02 */
static void the_first_that_answers_is_taken(void **state)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	int ports[2];
	int first = bound("127.0.0.1", SOCK_STREAM, &ports[0]);
	int second = bound("127.0.0.1", SOCK_STREAM, &ports[1]);
	int fd;

	(void)state;
	say_empty_list();
	add_ipv4("127.0.0.1", ports[0]);
	add_ipv4("127.0.0.1", ports[1]);
	fd = get_conn_to_host("a.host", 1, SOCK_STREAM);
	tell_truth();
	assert_int_equal(getpeername(fd, (struct sockaddr *)&peer, &len), 0);
	assert_int_equal(
		evt_net_addr_port_((struct sockaddr *)&peer), ports[0]);
	close(fd);
	close(first);
	close(second);
}

/* L02 */
static void when_none_answers_the_last_reason_is_told(void **state)
{
	struct sockaddr_in nowhere = ipv4("255.255.255.255", 9);
	int port;
	int deaf = bound_but_deaf("127.0.0.2", &port);

	(void)state;
	say_empty_list();
	add_address(&nowhere, sizeof(nowhere), SOCK_STREAM);
	add_ipv4("127.0.0.2", port);
	assert_int_equal(get_conn_to_host("a.host", port, SOCK_STREAM), -1);
	assert_int_equal(errno, ECONNREFUSED);
	tell_truth();
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	assert_true(log_has("a.host"));
	assert_true(log_has("refused"));
	assert_int_equal(fake.freed, 1);
	close(deaf);
}

/* L02 */
static void host_null_is_this_machine(void **state)
{
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int fd = get_conn_to_host(NULL, port, SOCK_STREAM);

	(void)state;
	assert_int_not_equal(fd, -1);
	close(fd);
	close(listener);
}

/* L02 */
static void a_refused_connection_is_told_with_host_and_port(void **state)
{
	char text[32];
	int port;
	int deaf = bound_but_deaf("127.0.0.1", &port);

	(void)state;
	snprintf(text, sizeof(text), "port %d", port);
	assert_int_equal(get_conn_to_host("127.0.0.1", port, SOCK_STREAM), -1);
	assert_int_equal(errno, ECONNREFUSED);
	assert_true(log_has("127.0.0.1"));
	assert_true(log_has(text));
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	close(deaf);
}

/* L02 */
static void a_connection_blocks_and_is_not_inherited(void **state)
{
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int fd = get_conn_to_host("127.0.0.1", port, SOCK_STREAM);

	(void)state;
	assert_int_not_equal(fd, -1);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
	close(listener);
}

/* L02 */
static void for_udp_the_socket_is_connected(void **state)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	char byte = 0;
	int port;
	int server = bound("127.0.0.1", SOCK_DGRAM, &port);
	int fd = get_conn_to_host("127.0.0.1", port, SOCK_DGRAM);

	(void)state;
	assert_int_not_equal(fd, -1);
	assert_int_equal(getpeername(fd, (struct sockaddr *)&peer, &len), 0);
	assert_int_equal(evt_net_addr_port_((struct sockaddr *)&peer), port);
	assert_int_equal(send(fd, "x", 1, 0), 1);
	assert_true(WAIT_FOR(recv(server, &byte, 1, MSG_PEEK) == 1));
	assert_int_equal(byte, 'x');
	close(fd);
	close(server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_port_out_of_range_is_refused_by_name),
		LEDGER_TEST(the_first_and_the_last_port_are_taken),
		LEDGER_TEST(another_socktype_is_refused),
		LEDGER_TEST(getnetinfo_tells_each_failure_of_getaddrinfo),
		LEDGER_TEST(get_conn_to_host_tells_each_failure_of_getaddrinfo),
		LEDGER_TEST(init_tells_each_failure_of_getaddrinfo),
		LEDGER_TEST(a_system_error_of_getaddrinfo_is_told_as_such),
		LEDGER_TEST(a_failed_init_leaves_what_an_earlier_one_prepared),
		LEDGER_TEST(an_empty_list_is_an_unsupported_family),
		LEDGER_TEST(an_address_of_an_unknown_family_is_not_served),
		LEDGER_TEST(an_address_of_an_unknown_family_is_skipped),
		LEDGER_TEST(the_second_address_is_tried_if_the_first_refuses),
		LEDGER_TEST(each_address_is_tried_with_its_own_length),
		LEDGER_TEST(the_first_that_answers_is_taken),
		LEDGER_TEST(when_none_answers_the_last_reason_is_told),
		LEDGER_TEST(host_null_is_this_machine),
		LEDGER_TEST(a_refused_connection_is_told_with_host_and_port),
		LEDGER_TEST(a_connection_blocks_and_is_not_inherited),
		LEDGER_TEST(for_udp_the_socket_is_connected),
	};

	return ledger_run("net", tests);
}
