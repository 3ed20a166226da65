/*
 * test_listen_errors.c: what a listener does with each error of accept4(2), and
 * when its socket itself is lost; the flags of what it accepts.
 */
/* wrap: accept4 accept */
#include "inject.h"
#include "listen_rig.h"
#include "../evt-listener-internal.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

/* The wrapped calls */

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __real_accept(int fd, struct sockaddr *addr, socklen_t *len);

static struct inject on_accept4;
static atomic_int accepted; /* the last */

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int conn = -1;

	if (!injected(&on_accept4))
		conn = __real_accept4(fd, addr, len, flags);
	if (conn != -1)
		atomic_store(&accepted, conn);
	return conn;
}

int __wrap_accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	int conn = -1;

	if (!injected(&on_accept4) || errno == ENOSYS)
		conn = __real_accept(fd, addr, len);
	if (conn != -1)
		atomic_store(&accepted, conn);
	return conn;
}

/* Nothing is left of a test that failed. */
static void start(const struct evt_listen_options *options, int workers)
{
	end_injection(&on_accept4);
	start_echo(options, workers);
	log_forget();
}

/* There may be one more in vain, when two wake-ups follow each other. */
static int calls(void)
{
	return atomic_load(&on_accept4.calls);
}

#define EXPECT(error, condition)                                     \
	do {                                                         \
		if (!(condition))                                    \
			fail_msg("accept4 giving %s: not true: %s",  \
				strerrorname_np(error), #condition); \
	} while (0)

static void expect_one_episode(int error, int failures)
{
	int64_t cpu;

	start(NULL, 2);
	cpu = cpu_ms();
	inject(&on_accept4, error, 0, failures);
	EXPECT(error, serves(server.port));
	EXPECT(error, cpu_ms() - cpu < 100 * slowness());
	EXPECT(error, calls() - failures == 1 || calls() - failures == 2);
	EXPECT(error, log_lines(EVT_LOG_WARN) == 1 && log_has("pauses"));
	EXPECT(error, log_has(strerror(error)));
	EXPECT(error, log_lines(EVT_LOG_INFO) == 2 && log_has("goes on"));
	EXPECT(error, end_server().accept_pauses == (unsigned)failures);
}

/* B01 B03 */
static void a_shortage_is_an_episode_with_two_lines(void **state)
{
	static const int errors[] = {ENFILE, ENOBUFS, ENOMEM, EMFILE};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(errors); i++) {
		expect_one_episode(errors[i], 1);
		expect_one_episode(errors[i], 4);
	}
}

/* B03 */
static void a_paused_listener_stops_or_is_closed_at_once(void **state)
{
	int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		int64_t ms = now_ms();
		int client;

		start(NULL, 1);
		inject(&on_accept4, ENFILE, 0, FOR_EVER);
		client = dial();
		assert_true(WAIT_FOR(server_stats().accept_pauses > 1));
		if (i == 1)
			evt_listener_close(server.listener);
		else
			evt_pool_stop(server.pool);
		assert_true(at_end(client));
		end_injection(&on_accept4);
		close(client);
		end_server();
		assert_true(now_ms() - ms < 1000 * slowness());
	}
}

/* B04 B05 */
static void an_error_of_one_client_is_not_the_next_ones(void **state)
{
	static const int errors[] = {ECONNABORTED, EPROTO, ENETDOWN,
		ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, ENETUNREACH,
		EPERM, ETIMEDOUT, ENOSR, ESOCKTNOSUPPORT, EPROTONOSUPPORT,
		EINTR, EAGAIN};
	size_t i;

	(void)state;
	start(NULL, 2);
	for (i = 0; i < COUNT(errors); i++) {
		inject(&on_accept4, errors[i], 0, 41);
		EXPECT(errors[i], serves(server.port));
		EXPECT(errors[i], calls() == 42 || calls() == 43);
		EXPECT(errors[i], log_lines(EVT_LOG_DEBUG) == 0);
	}
	end_injection(&on_accept4);
	assert_int_equal(end_server().opened, i);
}

/* B04 */
static void a_thousand_that_vanished_do_not_keep_the_others(void **state)
{
	const struct evt_listen_options group = {.reuseport = 1};
	int old;

	(void)state;
	start(&group, 1); /* one loop for both */
	old = dial();
	assert_true(echoes(old));
	inject(&on_accept4, ECONNABORTED, 0, FOR_EVER);
	close(dial());
	assert_true(WAIT_FOR(calls() > 1000));
	assert_true(echoes(old));
	end_injection(&on_accept4);
	assert_true(serves(server.port));
	close(old);
	assert_true(end_server().vanished >= 1000);
}

/* A socket that is lost */

static struct {
	atomic_int calls;
	atomic_int error;
	_Atomic(struct evt_listener *) listener;
	_Atomic(void *) arg;
} told;

static void on_error(struct evt_listener *listener, int error, void *arg)
{
	atomic_store(&told.error, error);
	atomic_store(&told.listener, listener);
	atomic_store(&told.arg, arg);
	atomic_fetch_add(&told.calls, 1);
}

static void start_with(struct evt_listen_options options, int workers)
{
	options.on_error = on_error;
	atomic_store(&told.calls, 0);
	start(&options, workers);
}

static int listening_fd(int index)
{
	return atomic_load(&server.listener->sockets[index].fd);
}

/* It is told once, and what is open goes on. */
static void expect_the_end_of_accepting(int error)
{
	int64_t cpu = cpu_ms();
	int clients[2];
	int i;

	start_with((struct evt_listen_options){0}, 1);
	clients[0] = dial();
	EXPECT(error, echoes(clients[0]));
	inject(&on_accept4, error, 0, FOR_EVER);
	clients[1] = dial();
	EXPECT(error, WAIT_FOR(atomic_load(&told.calls) == 1));
	for (i = 0; i < 50; i++)
		EXPECT(error, echoes(clients[0]));
	EXPECT(error, calls() == 1 && atomic_load(&told.calls) == 1);
	EXPECT(error, atomic_load(&told.error) == error);
	EXPECT(error, atomic_load(&told.listener) == server.listener);
	EXPECT(error, log_lines(EVT_LOG_DEBUG) == 1);
	EXPECT(error, log_has(strerror(error)) && log_has("has ended"));
	EXPECT(error, cpu_ms() - cpu < 200 * slowness());
	hang_up(clients, 2);
	end_injection(&on_accept4);
	end_server();
}

/* B06 */
static void a_broken_socket_is_told_once_and_does_not_spin(void **state)
{
	static const int errors[] = {
		EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP, EFAULT};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(errors); i++)
		expect_the_end_of_accepting(errors[i]);
}

/* B06: another process that has the socket can do this. */
static void a_socket_that_others_shut_is_told_once(void **state)
{
	int64_t cpu;
	int old;

	(void)state;
	start_with((struct evt_listen_options){0}, 2);
	old = dial();
	assert_true(echoes(old));
	inject(&on_accept4, 0, 0, 0);
	assert_int_equal(shutdown(listening_fd(0), SHUT_RDWR), 0);
	assert_true(WAIT_FOR(atomic_load(&told.calls) == 1));
	cpu = cpu_ms();
	usleep(50000); /* in which a spin would show */
	assert_in_range(cpu_ms() - cpu, 0, 20 * slowness());
	assert_int_equal(calls(), 1);
	assert_int_equal(atomic_load(&told.calls), 1);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	assert_true(echoes(old));
	assert_true(refused(server.port));
	evt_listener_close(server.listener);
	listen_at(ANY_PORT, NULL);
	assert_true(serves(server.port));
	close(old);
	end_server();
}

/* B06 B08 */
static void a_broken_socket_is_told_above_the_limit_too(void **state)
{
	int clients[2];

	(void)state;
	start_with((struct evt_listen_options){.max_conns = 1, .refuse = 1}, 1);
	clients[0] = dial();
	assert_true(echoes(clients[0]));
	inject(&on_accept4, ENOTSOCK, 0, FOR_EVER);
	clients[1] = dial();
	assert_true(WAIT_FOR(log_lines(EVT_LOG_ERROR) == 1));
	assert_true(WAIT_FOR(atomic_load(&told.calls) == 1));
	assert_true(echoes(clients[0]));
	assert_int_equal(calls(), 1);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	end_injection(&on_accept4);
	hang_up(clients, 2);
	end_server();
}

/* B03 B08: the wake-up ends with the first try in vain. */
static void a_shortage_above_the_limit_pauses_too(void **state)
{
	const struct evt_listen_options options = {
		.max_conns = 1, .refuse = 1, .accept_batch = 64};
	int clients[2];

	(void)state;
	start(&options, 1);
	clients[0] = dial();
	assert_true(echoes(clients[0]));
	inject(&on_accept4, EMFILE, 0, 3);
	clients[1] = dial();
	assert_true(at_end(clients[1]));
	assert_int_equal(server_stats().accept_pauses, 3);
	assert_true(log_has("tries that failed: 3"));
	hang_up(clients, 2);
	assert_int_equal(end_server().refused, 1);
}

/* B06 */
static void of_a_group_each_other_socket_goes_on(void **state)
{
	int i;

	(void)state;
	start_with((struct evt_listen_options){.reuseport = 1}, 3);
	assert_int_equal(shutdown(listening_fd(1), SHUT_RDWR), 0);
	assert_true(WAIT_FOR(atomic_load(&told.calls) == 1));
	for (i = 0; i < 30; i++)
		assert_true(serves(server.port));
	assert_int_equal(atomic_load(&told.calls), 1);
	end_server();
}

static atomic_int new_port;

static void listen_again(struct evt_listener *listener, int error, void *arg)
{
	struct evt_listener *other;

	evt_listener_close(listener);
	other = evt_listen(server.pool, ANY_PORT, &echo_handlers, NULL, NULL);
	atomic_store(&new_port, evt_listener_port(other));
	on_error(listener, error, arg);
}

/* B06 */
static void on_error_may_close_and_listen_again(void **state)
{
	const struct evt_listen_options options = {.on_error = listen_again};
	int client;

	(void)state;
	atomic_store(&told.calls, 0);
	start(&options, 2);
	inject(&on_accept4, ENOTSOCK, 0, 1);
	client = dial();
	assert_true(WAIT_FOR(atomic_load(&told.calls) == 1));
	assert_true(at_end(client));
	assert_true(serves(atomic_load(&new_port)));
	assert_true(WAIT_FOR(refused(server.port)));
	close(client);
	end_server();
}

static void stop_on_error(struct evt_listener *listener, int error, void *arg)
{
	evt_pool_stop(server.pool);
	on_error(listener, error, arg);
}

/* B06 */
static void on_error_may_stop_the_pool(void **state)
{
	const struct evt_listen_options options = {.on_error = stop_on_error};
	int client;

	(void)state;
	start(&options, 2);
	inject(&on_accept4, ENOTSOCK, 0, 1);
	client = dial();
	assert_true(at_end(client));
	assert_int_equal(evt_pool_wait(server.pool), 0);
	close(client);
	end_server();
}

/* Flags */

static int option_of(int fd, int level, int name)
{
	int value = 0;
	socklen_t len = sizeof(value);

	getsockopt(fd, level, name, &value, &len);
	return value;
}

static void expect_flags(const struct evt_listen_options *options)
{
	int client;
	int fd;

	start(options, 1);
	fd = listening_fd(0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK); /* B11 */
	client = dial_and_wait();
	assert_true(echoes(client));
	fd = atomic_load(&accepted);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(option_of(fd, IPPROTO_TCP, TCP_NODELAY));
	assert_true(option_of(fd, SOL_SOCKET, SO_KEEPALIVE));
	close(client);
	end_server();
}

/* B11 B12 */
static void what_is_accepted_has_its_flags(void **state)
{
	const struct evt_listen_options group = {.reuseport = 1};

	(void)state;
	expect_flags(NULL);
	expect_flags(&group);
}

/* B12 J12 */
static void without_accept4_what_is_accepted_is_the_same(void **state)
{
	(void)state;
	inject(&on_accept4, ENOSYS, 0, FOR_EVER);
	expect_flags(NULL);
	assert_true(calls() > 0);
	end_injection(&on_accept4);
}

/* B11 B07: a client that vanishes between the event and the accept. */
static void clients_that_reset_at_once_are_no_trouble(void **state)
{
	int i;

	(void)state;
	start(NULL, 2);
	for (i = 0; i < 500; i++)
		close_with_reset(dial());
	assert_true(serves(server.port));
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	end_server();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_shortage_is_an_episode_with_two_lines),
		SERVER_TEST(a_paused_listener_stops_or_is_closed_at_once),
		SERVER_TEST(an_error_of_one_client_is_not_the_next_ones),
		SERVER_TEST(a_thousand_that_vanished_do_not_keep_the_others),
		SERVER_TEST(a_broken_socket_is_told_once_and_does_not_spin),
		SERVER_TEST(a_socket_that_others_shut_is_told_once),
		SERVER_TEST(a_broken_socket_is_told_above_the_limit_too),
		SERVER_TEST(a_shortage_above_the_limit_pauses_too),
		SERVER_TEST(of_a_group_each_other_socket_goes_on),
		SERVER_TEST(on_error_may_close_and_listen_again),
		SERVER_TEST(on_error_may_stop_the_pool),
		SERVER_TEST(what_is_accepted_has_its_flags),
		SERVER_TEST(without_accept4_what_is_accepted_is_the_same),
		SERVER_TEST(clients_that_reset_at_once_are_no_trouble),
	};

	return ledger_run("listen_errors", tests);
}
