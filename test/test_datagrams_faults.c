/*
 * test_datagrams_faults.c: what a socket of datagrams does when the system
 * fails: each error of receiving, once and from then on, sockets that cannot
 * be opened or waited for, no memory.
 */
/* wrap: recvmmsg epoll_ctl setsockopt getsockname socket bind */
#include "inject.h"
#include "udp_rig.h"

#include <sys/epoll.h>

int __real_recvmmsg(int fd, struct mmsghdr *messages, unsigned nr, int flags,
	struct timespec *timeout);
int __real_epoll_ctl(int poll_fd, int what, int fd, struct epoll_event *event);
int __real_setsockopt(
	int fd, int level, int name, const void *value, socklen_t len);
int __real_getsockname(int fd, struct sockaddr *addr, socklen_t *len);
int __real_socket(int family, int type, int protocol);
int __real_bind(int fd, const struct sockaddr *addr, socklen_t len);

static struct inject on_recvmmsg, on_add, on_setsockopt, on_getsockname,
	on_socket, on_bind;
static atomic_int missing_option; /* of IPPROTO_UDP */

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned nr, int flags,
	struct timespec *timeout)
{
	if (!(flags & MSG_ERRQUEUE) && injected(&on_recvmmsg))
		return -1;
	return __real_recvmmsg(fd, messages, nr, flags, timeout);
}

static bool is_of_datagrams(int fd)
{
	socklen_t len = sizeof(int);
	int type = 0;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
		type == SOCK_DGRAM;
}

int __wrap_epoll_ctl(int poll_fd, int what, int fd, struct epoll_event *event)
{
	if (what == EPOLL_CTL_ADD && is_of_datagrams(fd) && injected(&on_add))
		return -1;
	return __real_epoll_ctl(poll_fd, what, fd, event);
}

int __wrap_setsockopt(
	int fd, int level, int name, const void *value, socklen_t len)
{
	if (level == IPPROTO_UDP && name == atomic_load(&missing_option)) {
		errno = ENOPROTOOPT;
		return -1;
	}
	if (injected(&on_setsockopt))
		return -1;
	return __real_setsockopt(fd, level, name, value, len);
}

int __wrap_getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
	return injected(&on_getsockname) ? -1
					 : __real_getsockname(fd, addr, len);
}

int __wrap_socket(int family, int type, int protocol)
{
	return injected(&on_socket) ? -1
				    : __real_socket(family, type, protocol);
}

int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	return injected(&on_bind) ? -1 : __real_bind(fd, addr, len);
}

static void end_injections(void)
{
	struct inject *all[] = {&on_recvmmsg, &on_add, &on_setsockopt,
		&on_getsockname, &on_socket, &on_bind};
	size_t i;

	for (i = 0; i < COUNT(all); i++)
		end_injection(all[i]);
	atomic_store(&missing_option, -1);
}

static int close_test(void **state)
{
	end_injections();
	return udp_close(state);
}

#define FAULT_TEST(fn)                                        \
	{                                                     \
#fn, fn, ledger_open, close_test, (void *)#fn \
	}

#define EXPECT(error, condition)                                             \
	do {                                                                 \
		if (!(condition))                                            \
			fail_msg("%s: not true: %s", strerrorname_np(error), \
				#condition);                                 \
	} while (0)

static struct {
	atomic_int calls;
	atomic_int error;
} told;

static void on_error(struct evt_listener *listener, int error, void *arg)
{
	(void)listener, (void)arg;
	atomic_store(&told.error, error);
	atomic_fetch_add(&told.calls, 1);
}

static const struct evt_listen_options usual = {
	.on_error = on_error, .amplification = -1};

static int start(on_datagrams_fn fn)
{
	end_injections();
	atomic_store(&told.calls, 0);
	start_udp(ANY_UDP, fn, &usual, 1);
	return udp_to(server.port);
}

/* Receiving */

/* F05 B04 */
static void an_error_of_an_earlier_answer_is_passed_over(void **state)
{
	static const int errors[] = {EOPNOTSUPP, ECONNREFUSED, EHOSTUNREACH,
		ENETUNREACH, EHOSTDOWN, ENONET, ENOPROTOOPT, EPROTO, EACCES,
		EMSGSIZE, EINTR, EAGAIN};
	size_t i;
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	for (i = 0; i < COUNT(errors); i++) {
		inject(&on_recvmmsg, errors[i], 0, 10);
		exchanges(fd, "served");
		EXPECT(errors[i], log_lines(EVT_LOG_DEBUG) == 0);
	}
	close(fd);
	assert_int_equal(end_udp().datagrams_in, COUNT(errors));
}

/* B03 */
static void a_shortage_pauses_and_is_told_once(void **state)
{
	static const int errors[] = {ENOMEM, ENOBUFS};
	int64_t cpu;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(errors); i++) {
		fd = start(echo_datagrams);
		cpu = cpu_ms();
		inject(&on_recvmmsg, errors[i], 0, 3);
		exchanges(fd, "served");
		EXPECT(errors[i], cpu_ms() - cpu < 100 * slowness());
		EXPECT(errors[i], log_lines(EVT_LOG_WARN) == 1);
		EXPECT(errors[i], log_has("pauses"));
		EXPECT(errors[i], log_has(strerror(errors[i])));
		EXPECT(errors[i], atomic_load(&told.calls) == 0);
		close(fd);
		end_udp();
	}
}

/* B03 B06 */
static void an_error_that_stays_does_not_spin(void **state)
{
	static const int errors[] = {ENOMEM, ENOBUFS, ECONNREFUSED, EINTR};
	int64_t until;
	int64_t cpu;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(errors); i++) {
		fd = start(echo_datagrams);
		inject(&on_recvmmsg, errors[i], 0, FOR_EVER);
		shoot(fd, "served", 6);
		assert_true(WAIT_FOR(atomic_load(&on_recvmmsg.calls) > 0));
		cpu = cpu_ms();
		until = now_ms() + 300;
		assert_true(WAIT_FOR(now_ms() >= until));
		EXPECT(errors[i], cpu_ms() - cpu < 100 * slowness());
		EXPECT(errors[i], atomic_load(&on_recvmmsg.calls) < 200);
		end_injection(&on_recvmmsg);
		catches(fd, "served", 6);
		close(fd);
		end_udp();
	}
}

/* B03 */
static void a_paused_socket_is_closed_at_once(void **state)
{
	int64_t ms;
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	inject(&on_recvmmsg, ENOMEM, 0, FOR_EVER);
	shoot(fd, "not read", 8);
	assert_true(WAIT_FOR(log_lines(EVT_LOG_WARN) > 0));
	ms = now_ms();
	end_udp();
	assert_true(now_ms() - ms < 1000 * slowness());
	close(fd);
}

static void expect_the_end_of(int error)
{
	struct evt_listener *udp;
	int64_t cpu;
	int fd;
	int i;

	fd = start(echo_datagrams);
	udp = server.listener;
	listen_at(ANY_PORT, NULL);
	cpu = cpu_ms();
	inject(&on_recvmmsg, error, 0, FOR_EVER);
	shoot(fd, "lost", 4);
	EXPECT(error, WAIT_FOR(atomic_load(&told.calls) == 1));
	for (i = 0; i < 50; i++)
		EXPECT(error, serves(server.port));
	EXPECT(error, atomic_load(&on_recvmmsg.calls) == 1);
	EXPECT(error, atomic_load(&told.calls) == 1);
	EXPECT(error, atomic_load(&told.error) == error);
	EXPECT(error, log_lines(EVT_LOG_DEBUG) == 1 && log_has("has ended"));
	EXPECT(error, cpu_ms() - cpu < 200 * slowness());
	EXPECT(error, send(fd, "x", 1, 0) == -1 || send(fd, "x", 1, 0) == -1);
	server.listener = udp;
	EXPECT(error, is_shut(0));
	close(fd);
	end_udp();
}

/* B06 */
static void a_broken_socket_is_told_once_and_does_not_spin(void **state)
{
	static const int errors[] = {EBADF, ENOTSOCK, EINVAL, EFAULT, ENOTCONN};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(errors); i++)
		expect_the_end_of(errors[i]);
}

/* Opening */

static const struct evt_handlers echoing = {.on_datagrams = echo_datagrams};

/* Of three sockets, all or none: fails the call for the n-th time, for each n,
 * until it is not reached any more. */
static void expect_none_is_left(struct inject *call, int error, int at_least)
{
	const struct evt_listen_options options = {.steer = {0, 4}};
	int fds = count_fds();
	int failed = 0;
	int n;

	for (n = 0; n < 200; n++) {
		struct evt_listener *it;

		end_injections();
		make_pool(3);
		inject(call, error, n, 1);
		it = evt_listen(
			server.pool, "udp://:0", &echoing, &options, NULL);
		EXPECT(error, it || errno == error);
		EXPECT(error, it || log_lines(EVT_LOG_ERROR) > failed);
		EXPECT(error, it || count_fds() == fds);
		failed += !it;
		if (atomic_load(&call->times) != 0)
			break;
		stop_server();
	}
	end_injections();
	stop_server();
	EXPECT(error, n < 200 && failed >= at_least);
}

/* A09 */
static void sockets_are_opened_all_or_none(void **state)
{
	(void)state;
	expect_none_is_left(&on_socket, EMFILE, 4);
	expect_none_is_left(&on_socket, ENOBUFS, 4);
	expect_none_is_left(&on_bind, EACCES, 4);
	expect_none_is_left(&on_bind, EADDRINUSE, 4);
	expect_none_is_left(&on_getsockname, ENOBUFS, 3);
	expect_none_is_left(&on_setsockopt, ENOMEM, 10);
}

/* J12 */
static void a_kernel_that_joins_nothing_serves(void **state)
{
	static const int options[] = {UDP_GRO, UDP_SEGMENT};
	size_t i;
	int fd;
	int j;

	(void)state;
	for (i = 0; i < COUNT(options); i++) {
		end_injections();
		atomic_store(&missing_option, options[i]);
		start_udp(ANY_UDP, echo_datagrams, NULL, 1);
		fd = udp_to(server.port);
		hold(0);
		for (j = 0; j < 100; j++)
			shoot_number(fd, (uint32_t)j);
		open_gate();
		for (j = 0; j < 100; j++)
			catches_number(fd, (uint32_t)j);
		close(fd);
		assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
		end_udp();
	}
}

static void expect_no_listener_without_memory(const char *url)
{
	struct evt_listener *it = NULL;
	bool reached = true;
	int n;

	for (n = 1; reached && n < 100; n++) {
		make_pool(3);
		errno = 0;
		fail_allocation(n, false);
		it = evt_listen(server.pool, url, &echoing, NULL, NULL);
		reached = fault_reached();
		fail_allocation(0, false);
		assert_true(it || errno == ENOMEM);
		assert_true(!reached || !it);
		stop_server();
	}
	assert_true(it && n > 5);
}

/* C16 */
static void without_memory_there_is_no_listener_and_nothing_left(void **state)
{
	(void)state;
	expect_no_listener_without_memory("udp://127.0.0.1:0");
	expect_no_listener_without_memory("unixgram:@evt-datagrams-memory");
}

static void validate_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(server.listener, worker);
	socklen_t len;
	struct sockaddr_storage addr = addr_of("127.0.0.1", 9, &len);

	(void)arg;
	fail_allocation(1, false);
	CHECK(evt_udp_validated(sock, (struct sockaddr *)&addr) == -1);
	CHECK(errno == ENOMEM);
	CHECK(evt_udp_send(sock, (struct sockaddr *)&addr, len, "x", 1) == -1);
	CHECK(errno == EPERM);
	CHECK(evt_udp_validated(sock, (struct sockaddr *)&addr) == 0);
}

/* C16 */
static void without_memory_nobody_is_validated(void **state)
{
	int fd = start(echo_datagrams);

	(void)state;
	close(fd);
	end_udp();
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	assert_true(on_worker(0, validate_task, NULL));
	end_udp();
}

/* B06: of two sockets one cannot be waited for. */
static void a_socket_that_cannot_be_waited_for_is_told(void **state)
{
	int answered = 0;
	int fd;
	int i;

	(void)state;
	end_injections();
	atomic_store(&told.calls, 0);
	make_pool(2);
	run_pool();
	inject(&on_add, ENOMEM, 0, 1);
	server.listener = evt_listen(
		server.pool, ANY_UDP, &echoing, &usual, NULL);
	assert_non_null(server.listener);
	server.port = evt_listener_port(server.listener);
	assert_true(WAIT_FOR(atomic_load(&told.calls) == 1));
	assert_int_equal(atomic_load(&told.error), ENOMEM);
	assert_true(WAIT_FOR(is_shut(0) != is_shut(1)));
	for (i = 0; i < 20; i++) {
		fd = udp_to(server.port);
		exchanges(fd, "by the other");
		answered++;
		close(fd);
	}
	assert_int_equal(atomic_load(&told.calls), 1);
	assert_int_equal(end_udp().datagrams_in, answered);
}

/* B06: nor can it be without memory, which a worker is the first to miss. */
static void a_socket_without_memory_to_wait_is_told(void **state)
{
	int n = 0;

	(void)state;
	end_injections();
	atomic_store(&told.calls, 0);
	make_pool(2);
	run_pool();
	do {
		fail_allocation(++n, false);
		server.listener = evt_listen(
			server.pool, ANY_UDP, &echoing, &usual, NULL);
	} while (!server.listener && n < 100);
	assert_non_null(server.listener);
	assert_true(WAIT_FOR(atomic_load(&told.calls) == 1));
	assert_int_equal(atomic_load(&told.error), ENOMEM);
	assert_true(WAIT_FOR(is_shut(0) != is_shut(1)));
	end_udp();
}

static atomic_bool flood_over;

static void *flood(void *arg)
{
	while (!atomic_load(&flood_over))
		(void)!send(*(int *)arg, "x", 1, 0);
	return NULL;
}

static void take_a_while(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int64_t until = now_ms() + 1;

	note_datagrams(sock, batch, n, arg);
	while (now_ms() < until)
		;
}

/* F07: it is closed although no filter keeps from it what comes faster than it
 * is handed over. */
static void a_flood_that_cannot_be_kept_out_does_not_keep_it_open(void **state)
{
	pthread_t thread;
	bool shut;
	int fd;

	(void)state;
	fd = start(take_a_while);
	atomic_store(&flood_over, false);
	assert_int_equal(pthread_create(&thread, NULL, flood, &fd), 0);
	assert_true(WAIT_FOR(server_stats().datagrams_in > 1000));
	inject(&on_setsockopt, ENOMEM, 0, FOR_EVER);
	evt_listener_close(server.listener);
	shut = WAIT_FOR(is_shut(0));
	atomic_store(&flood_over, true);
	pthread_join(thread, NULL);
	end_injections();
	assert_true(shut);
	close(fd);
	end_udp();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(an_error_of_an_earlier_answer_is_passed_over),
		FAULT_TEST(a_shortage_pauses_and_is_told_once),
		FAULT_TEST(an_error_that_stays_does_not_spin),
		FAULT_TEST(a_paused_socket_is_closed_at_once),
		FAULT_TEST(a_broken_socket_is_told_once_and_does_not_spin),
		FAULT_TEST(sockets_are_opened_all_or_none),
		FAULT_TEST(a_kernel_that_joins_nothing_serves),
		FAULT_TEST(
			without_memory_there_is_no_listener_and_nothing_left),
		FAULT_TEST(without_memory_nobody_is_validated),
		FAULT_TEST(a_socket_that_cannot_be_waited_for_is_told),
		FAULT_TEST(a_socket_without_memory_to_wait_is_told),
		FAULT_TEST(
			a_flood_that_cannot_be_kept_out_does_not_keep_it_open),
	};

	end_injections();
	return ledger_run("datagrams_faults", tests);
}
