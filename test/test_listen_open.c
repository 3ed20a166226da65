/*
 * test_listen_open.c: each system call that opening a listener makes, failing.
 * There is a listener or there is none, and nothing is left open.
 */
/* wrap: socket getsockname getrandom */
#include "inject.h"
#include "listen_rig.h"

#include <sys/random.h>

int __real_socket(int domain, int type, int protocol);
int __real_getsockname(int fd, struct sockaddr *addr, socklen_t *len);
ssize_t __real_getrandom(void *buffer, size_t size, unsigned flags);

static struct inject on_ipv6 = {.name = "socket of IPv6"};
static struct inject on_getsockname = {.name = "getsockname"};
static struct inject on_getrandom = {.name = "getrandom"};

int __wrap_socket(int domain, int type, int protocol)
{
	if (domain == AF_INET6 && injected(&on_ipv6))
		return -1;
	return __real_socket(domain, type, protocol);
}

int __wrap_getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
	return injected(&on_getsockname) ? -1
					 : __real_getsockname(fd, addr, len);
}

ssize_t __wrap_getrandom(void *buffer, size_t size, unsigned flags)
{
	return injected(&on_getrandom) ? -1
				       : __real_getrandom(buffer, size, flags);
}

static int close_test(void **state)
{
	end_injection(&on_ipv6);
	end_injection(&on_getsockname);
	end_injection(&on_getrandom);
	return server_close(state);
}

#define OPEN_TEST(fn)                                         \
	{                                                     \
#fn, fn, ledger_open, close_test, (void *)#fn \
	}

static void note_nothing(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	(void)sock, (void)batch, (void)n, (void)arg;
}

static const struct evt_handlers both = {
	.on_data = echo_data, .on_datagrams = note_nothing};

static struct evt_listener *listen_on(const char *url, int reuseport)
{
	const struct evt_listen_options options = {.reuseport = reuseport};

	return evt_listen(server.pool, url, &both, &options, NULL);
}

/* It gives this error, says what failed, and leaves no descriptor. */
static void gives(int error, const char *url, int reuseport, const char *step)
{
	int fds;

	make_pool(2);
	fds = count_fds();
	log_forget();
	errno = 0;
	assert_null(listen_on(url, reuseport));
	assert_int_equal(errno, error);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	assert_true(log_has(step));
	assert_int_equal(count_fds(), fds);
	stop_server();
}

/* A09 */
static void a_socket_whose_port_is_not_told_is_closed(void **state)
{
	static const int errors[] = {ENOBUFS, EINVAL};
	size_t i;
	int nth;

	(void)state;
	for (i = 0; i < COUNT(errors); i++) {
		inject(&on_getsockname, errors[i], 0, FOR_EVER);
		gives(errors[i], ANY_PORT, 0, "getsockname");
		gives(errors[i], "udp://127.0.0.1:0", 0, "getsockname");
		for (nth = 0; nth < 2; nth++) {
			inject(&on_getsockname, errors[i], nth, 1);
			gives(errors[i], ANY_PORT, 1, "getsockname");
			inject(&on_getsockname, errors[i], nth, 1);
			gives(errors[i], "udp://127.0.0.1:0", 0, "getsockname");
		}
	}
}

/* A05 */
static void without_ipv6_any_address_is_ipv4(void **state)
{
	static const char *const urls[] = {"tcp://:0", "udp://:0"};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(urls); i++) {
		inject(&on_ipv6, EAFNOSUPPORT, 0, FOR_EVER);
		make_pool(2);
		log_forget();
		server.listener = listen_on(urls[i], 0);
		assert_non_null(server.listener);
		assert_true(log_has("no IPv6 on this machine"));
		assert_int_equal(log_lines(EVT_LOG_WARN), 0);
		server.port = evt_listener_port(server.listener);
		run_pool();
		if (i == 0)
			assert_true(serves(server.port));
		end_injection(&on_ipv6);
		stop_server();
	}
}

/* A05: and there it may be taken. */
static void without_ipv6_a_port_that_is_taken_is_told(void **state)
{
	char url[32];

	(void)state;
	inject(&on_ipv6, EAFNOSUPPORT, 0, FOR_EVER);
	make_pool(1);
	server.listener = listen_on("tcp://:0", 0);
	snprintf(url, sizeof(url), "tcp://:%d",
		evt_listener_port(server.listener));
	log_forget();
	assert_null(listen_on(url, 0));
	assert_int_equal(errno, EADDRINUSE);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	stop_server();
}

/* A token that could be guessed would be worse than no listener. */
static void without_random_numbers_there_are_no_datagrams(void **state)
{
	(void)state;
	inject(&on_getrandom, ENOSYS, 0, FOR_EVER);
	gives(ENOSYS, "udp://127.0.0.1:0", 0, "getrandom");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OPEN_TEST(a_socket_whose_port_is_not_told_is_closed),
		OPEN_TEST(without_ipv6_any_address_is_ipv4),
		OPEN_TEST(without_ipv6_a_port_that_is_taken_is_told),
		OPEN_TEST(without_random_numbers_there_are_no_datagrams),
	};

	return ledger_run("listen_open", tests);
}
