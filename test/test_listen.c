/*
 * test_listen.c: evt_listen from its URL to a client that is served: every form
 * of address, and every option out of range.
 */
/* wrap: getaddrinfo bind */
#include "inject.h"
#include "listen_rig.h"

#include <netdb.h>
#include <netinet/in.h>

#define NO_PLACE "192.0.2.1" /* of no machine: RFC 5737 */

/* The wrapped calls */

int __real_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __real_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list);

static struct inject on_bind;

/* What names mean here: "nobody" is none, "two" has two addresses. */
int __wrap_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list)
{
	int result;

	if (strcmp(host, "nobody") == 0)
		return EAI_NONAME;
	if (strcmp(host, "two") != 0)
		return __real_getaddrinfo(host, service, hints, list);
	result = __real_getaddrinfo(NO_PLACE, service, hints, list);
	if (result == 0)
		result = __real_getaddrinfo(
			"127.0.0.1", service, hints, &(*list)->ai_next);
	return result;
}

int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	return injected(&on_bind) ? -1 : __real_bind(fd, addr, len);
}

/* Addresses */

static void serve_at(const char *url)
{
	make_pool(2);
	listen_at(url, NULL);
	run_pool();
	assert_in_range(server.port, 1, 65535);
}

static bool serves_ip(const char *ip)
{
	return is_served(connect_to_ip(ip, server.port));
}

static void needs_ipv6(void)
{
	int port = 0;
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

	port = __real_bind(fd, (struct sockaddr *)&in6, sizeof(in6));
	close(fd);
	if (port == -1)
		skip();
}

/* A05 */
static void brackets_and_two_colons_serve_both_families(void **state)
{
	(void)state;
	needs_ipv6();
	serve_at("tcp://[::]:0");
	assert_true(serves_ip("127.0.0.1"));
	assert_true(serves_ip("::1"));
	assert_int_equal(end_server().closed_peer, 2);
}

/* A05 */
static void no_host_serves_both_families(void **state)
{
	(void)state;
	needs_ipv6();
	serve_at("tcp://:0");
	assert_true(serves_ip("127.0.0.1"));
	assert_true(serves_ip("::1"));
	end_server();
}

static void an_ipv4_address_is_served_alone(void **state)
{
	(void)state;
	serve_at("tcp://127.0.0.1:0");
	assert_true(serves_ip("127.0.0.1"));
	assert_int_equal(connect_to_ip("127.0.0.2", server.port), -1);
	assert_int_equal(connect_to_ip("::1", server.port), -1);
	end_server();
}

static void an_ipv6_address_is_served_alone(void **state)
{
	(void)state;
	needs_ipv6();
	serve_at("tcp://[::1]:0");
	assert_true(serves_ip("::1"));
	assert_int_equal(connect_to(server.port), -1);
	end_server();
}

static void every_ipv4_address_may_be_meant(void **state)
{
	(void)state;
	serve_at("tcp://0.0.0.0:0");
	assert_true(serves_ip("127.0.0.1"));
	assert_true(serves_ip("127.0.0.2"));
	assert_int_equal(connect_to_ip("::1", server.port), -1);
	end_server();
}

static void localhost_is_served(void **state)
{
	(void)state;
	serve_at("tcp://localhost:0");
	assert_true(serves_ip("127.0.0.1") || serves_ip("::1"));
	end_server();
}

/* A port that is free for a moment at least. */
static const char *url_of_a_free_port(char url[64])
{
	struct evt_listener *listener;

	make_pool(1);
	listener = listen_at(ANY_PORT, NULL);
	snprintf(url, 64, "tcp://127.0.0.1:%d", evt_listener_port(listener));
	stop_server();
	return url;
}

static void a_port_that_is_asked_for_is_the_one(void **state)
{
	char url[64];
	int i;

	(void)state;
	url_of_a_free_port(url);
	for (i = 0; i < 3; i++) { /* it is free again at once */
		serve_at(url);
		assert_int_equal(server.port, atoi(strrchr(url, ':') + 1));
		assert_true(serves_ip("127.0.0.1"));
		end_server();
	}
}

static void of_a_name_the_first_address_that_can_be_bound_is(void **state)
{
	(void)state;
	serve_at("tcp://two:0");
	assert_true(serves_ip("127.0.0.1"));
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	end_server();
}

/* What cannot be */

static int count_of_level(int level)
{
	return log_lines(level) - log_lines(level + 1);
}

/* evt_listen fails so, with one line that has text. */
static void fails_at(const char *url, int error, const char *text)
{
	int fds = count_fds();

	log_forget();
	errno = 0;
	assert_null(evt_listen(server.pool, url, &echo_handlers, NULL, NULL));
	if (errno != error || !log_has(text))
		fail_msg("%.80s: %s, \"%s\"", url ? url : "(null)",
			strerrorname_np(errno),
			log_line(0) ? log_line(0) : "no line");
	assert_int_equal(count_of_level(EVT_LOG_ERROR), 1);
	assert_int_equal(count_fds(), fds);
}

static void a_wrong_url_is_told_with_the_right_form(void **state)
{
	static const struct {
		const char *url;
		const char *form;
	} wrong[] = {{NULL, "tcp://HOST:PORT"}, {"", "tcp://HOST:PORT"},
		{"127.0.0.1:80", "tcp://HOST:PORT"},
		{"http://:80", "tcp://HOST:PORT"}, {"tcp:", "tcp://HOST:PORT"},
		{"tcp://", "tcp://HOST:PORT"}, {"tcp://:", "tcp://HOST:PORT"},
		{"tcp://[::]", "tcp://HOST:PORT"},
		{"tcp://localhost", "tcp://HOST:PORT"},
		{"tcp://:80/", "tcp://HOST:PORT"},
		{"tcp://*:80", "tcp://:PORT"}, {"tcp://:65536", "65535"},
		{"tcp://:-1", "65535"}, {"tcp://: 80", "tcp://HOST:PORT"},
		{"tcp://::1:80", "tcp://[ADDRESS]:PORT"},
		{"tcp://[::1:80", "tcp://[ADDRESS]:PORT"},
		{"tcp://[1.2.3.4]:80", "tcp://[ADDRESS]:PORT"},
		{"TCP://:80", "tcp://HOST:PORT"}, {"unix:", "unix:/PATH"},
		{"unix:@", "unix:@NAME"}, {"unix://run/s", "unix:/PATH"}};
	size_t i;

	(void)state;
	make_pool(1);
	for (i = 0; i < COUNT(wrong); i++)
		fails_at(wrong[i].url, EINVAL, wrong[i].form);
	stop_server();
}

/* I01 */
static void what_is_too_long_is_enametoolong(void **state)
{
	char url[400];

	(void)state;
	make_pool(1);
	snprintf(url, sizeof(url), "tcp://%0*d:80", 254, 0);
	fails_at(url, ENAMETOOLONG, "tcp://HOST:PORT");
	snprintf(url, sizeof(url), "unix:/%0*d", 107, 0);
	fails_at(url, ENAMETOOLONG, "unix:/PATH");
	snprintf(url, sizeof(url), "unix:@%0*d", 108, 0);
	fails_at(url, ENAMETOOLONG, "unix:/PATH");
	stop_server();
}

static void datagrams_need_on_datagrams(void **state)
{
	(void)state;
	make_pool(1);
	fails_at("udp://127.0.0.1:0", EINVAL, "on_datagrams");
	fails_at("unixgram:/tmp/none", EINVAL, "on_datagrams");
	stop_server();
}

static void a_name_that_nobody_has_is_enoent(void **state)
{
	(void)state;
	make_pool(1);
	fails_at("tcp://nobody:0", ENOENT, "nobody");
	stop_server();
}

static void an_address_of_another_machine_is_told(void **state)
{
	(void)state;
	make_pool(1);
	fails_at("tcp://" NO_PLACE ":0", EADDRNOTAVAIL, NO_PLACE);
	stop_server();
}

/* A06 */
static void a_port_in_use_is_told(void **state)
{
	char url[64];

	(void)state;
	make_pool(1);
	listen_at(ANY_PORT, NULL);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", server.port);
	fails_at(url, EADDRINUSE, url);
	snprintf(url, sizeof(url), "tcp://:%d", server.port);
	fails_at(url, EADDRINUSE, url);
	stop_server();
}

/* A07 */
static void a_port_that_is_not_permitted_is_told(void **state)
{
	(void)state;
	make_pool(1);
	inject(&on_bind, EACCES, 0, FOR_EVER);
	fails_at("tcp://127.0.0.1:80", EACCES, "bind");
	end_injection(&on_bind);
	stop_server();
}

static void a_listen_that_failed_fails_the_run(void **state)
{
	(void)state;
	make_pool(1);
	listen_at(ANY_PORT, NULL);
	fails_at("tcp://nobody:0", ENOENT, "nobody");
	log_forget();
	assert_int_equal(evt_pool_run(server.pool), -1);
	assert_int_equal(errno, ECONNABORTED);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	assert_int_equal(evt_pool_start(server.pool), -1);
	assert_int_equal(errno, ECONNABORTED);
	stop_server();
}

static void without_a_pool_or_handlers_it_is_einval(void **state)
{
	(void)state;
	make_pool(1);
	errno = 0;
	assert_null(evt_listen(NULL, ANY_PORT, &echo_handlers, NULL, NULL));
	assert_int_equal(errno, EINVAL);
	errno = 0;
	assert_null(evt_listen(server.pool, ANY_PORT, NULL, NULL, NULL));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 2);
	errno = 0;
	assert_int_equal(evt_listener_port(NULL), -1);
	assert_int_equal(errno, EINVAL);
	evt_listener_close(NULL);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 4);
	stop_server();
}

/* Options */

static void refuses_options(
	const struct evt_listen_options *options, const char *name)
{
	log_forget();
	errno = 0;
	assert_null(evt_listen(
		server.pool, ANY_PORT, &echo_handlers, options, NULL));
	if (errno != EINVAL || !log_has(name))
		fail_msg("%s: %s, %s", name, strerrorname_np(errno),
			log_line(0) ? log_line(0) : "no line");
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
}

#define REFUSES(name, value)                                    \
	do {                                                    \
		struct evt_listen_options it = {.name = value}; \
		refuses_options(&it, #name);                    \
	} while (0)

/* A21 */
static void an_option_out_of_range_is_named(void **state)
{
	(void)state;
	make_pool(1);
	REFUSES(max_conns, -2);
	REFUSES(max_conns, INT_MIN);
	REFUSES(backlog, -2);
	REFUSES(accept_batch, -1);
	REFUSES(accept_batch, 65);
	REFUSES(accept_batch, INT_MAX);
	REFUSES(first_byte_ms, -2);
	REFUSES(idle_ms, -2);
	REFUSES(lifetime_ms, -2);
	REFUSES(lifetime_ms, INT_MIN);
	REFUSES(max_per_source, -2);
	REFUSES(unix_mode, 01000);
	REFUSES(choice, (enum evt_choice)3);
	REFUSES(choice, (enum evt_choice) - 1);
	REFUSES(low_mark, (size_t)256 * 1024 + 1);
	REFUSES(low_mark, (size_t)-1);
	stop_server();
}

/* A21 */
static void the_least_and_the_most_of_each_option_serves(void **state)
{
	static const struct evt_listen_options extremes[] = {
		{.max_conns = 1,
			.backlog = 1,
			.accept_batch = 1,
			.first_byte_ms = INT_MAX,
			.idle_ms = INT_MAX,
			.lifetime_ms = INT_MAX,
			.max_input = 2,
			.high_mark = 1,
			.low_mark = 1,
			.max_output = 1,
			.max_per_source = 1},
		{.max_conns = -1,
			.backlog = -1,
			.accept_batch = 64,
			.refuse = -1,
			.first_byte_ms = -1,
			.idle_ms = -1,
			.lifetime_ms = -1,
			.max_input = (size_t)-1,
			.high_mark = (size_t)-1,
			.low_mark = (size_t)-1,
			.max_output = (size_t)-1,
			.max_per_source = -1},
		{.max_conns = INT_MAX,
			.backlog = INT_MAX,
			.high_mark = 1,
			.max_per_source = INT_MAX,
			.unix_mode = 0777}};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(extremes); i++) {
		start_echo(&extremes[i], 1);
		assert_true(serves(server.port));
		end_server();
	}
}

/* A22: of these bytes nothing is known here. */
static void options_of_a_newer_header_are_refused_if_set(void **state)
{
	struct {
		struct evt_listen_options options;
		long more;
	} newer = {.more = 0};

	(void)state;
	make_pool(1);
	assert_non_null(evt_listen_sized(server.pool, ANY_PORT, &echo_handlers,
		sizeof(echo_handlers), &newer.options, sizeof(newer), NULL));
	newer.more = 1;
	errno = 0;
	assert_null(evt_listen_sized(server.pool, ANY_PORT, &echo_handlers,
		sizeof(echo_handlers), &newer.options, sizeof(newer), NULL));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	stop_server();
}

/* A22 */
static void options_of_an_older_header_are_enough(void **state)
{
	struct evt_listen_options options = {.max_conns = 1};

	(void)state;
	memset(&options.backlog, 0x5a, sizeof(options) - sizeof(int));
	make_pool(1);
	server.listener = evt_listen_sized(server.pool, ANY_PORT,
		&echo_handlers, sizeof(echo_handlers), &options,
		offsetof(struct evt_listen_options, backlog), NULL);
	assert_non_null(server.listener);
	server.port = evt_listener_port(server.listener);
	run_pool();
	assert_true(serves(server.port));
	end_server();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(brackets_and_two_colons_serve_both_families),
		SERVER_TEST(no_host_serves_both_families),
		SERVER_TEST(an_ipv4_address_is_served_alone),
		SERVER_TEST(an_ipv6_address_is_served_alone),
		SERVER_TEST(every_ipv4_address_may_be_meant),
		SERVER_TEST(localhost_is_served),
		SERVER_TEST(a_port_that_is_asked_for_is_the_one),
		SERVER_TEST(of_a_name_the_first_address_that_can_be_bound_is),
		SERVER_TEST(a_wrong_url_is_told_with_the_right_form),
		SERVER_TEST(what_is_too_long_is_enametoolong),
		SERVER_TEST(datagrams_need_on_datagrams),
		SERVER_TEST(a_name_that_nobody_has_is_enoent),
		SERVER_TEST(an_address_of_another_machine_is_told),
		SERVER_TEST(a_port_in_use_is_told),
		SERVER_TEST(a_port_that_is_not_permitted_is_told),
		SERVER_TEST(a_listen_that_failed_fails_the_run),
		SERVER_TEST(without_a_pool_or_handlers_it_is_einval),
		SERVER_TEST(an_option_out_of_range_is_named),
		SERVER_TEST(the_least_and_the_most_of_each_option_serves),
		SERVER_TEST(options_of_a_newer_header_are_refused_if_set),
		SERVER_TEST(options_of_an_older_header_are_enough),
	};

	return ledger_run("listen", tests);
}
