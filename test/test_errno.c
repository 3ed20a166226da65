/*
 * test_errno.c: whatever the log hook does to errno, a call that failed
 * leaves that of the cause.
 */
/* wrap: getaddrinfo socket setsockopt bind listen pipe2 accept4 recvmsg */
/* wrap: pthread_create fcntl close shutdown */
#include "known_pool.h"
#include "addresses.h"
#include "inject.h"
#include "../evt-core.h"

/* Calls that fail */

static struct inject bind_call;
static struct inject setsockopt_call;
static struct inject socket_call;
static struct inject listen_call;
static struct inject pipe_call;
static struct inject accept_call;
static struct inject receive_call;
static struct inject thread_call;
static struct inject getfl_call;
static atomic_int gai_result; /* 0: the real one */

int __real_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list);
int __real_socket(int family, int type, int protocol);
int __real_setsockopt(
	int fd, int level, int name, const void *value, socklen_t len);
int __real_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __real_listen(int fd, int backlog);
int __real_pipe2(int fds[2], int flags);
int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*fn)(void *), void *arg);
int __real_fcntl(int fd, int cmd, ...);

int __wrap_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list)
{
	int result = atomic_load(&gai_result);

	if (result == 0)
		return __real_getaddrinfo(host, service, hints, list);
	errno = EMFILE;
	return result;
}

int __wrap_socket(int family, int type, int protocol)
{
	if (injected(&socket_call))
		return -1;
	return __real_socket(family, type, protocol);
}

int __wrap_setsockopt(
	int fd, int level, int name, const void *value, socklen_t len)
{
	if (injected(&setsockopt_call))
		return -1;
	return __real_setsockopt(fd, level, name, value, len);
}

int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	return injected(&bind_call) ? -1 : __real_bind(fd, addr, len);
}

int __wrap_listen(int fd, int backlog)
{
	return injected(&listen_call) ? -1 : __real_listen(fd, backlog);
}

int __wrap_pipe2(int fds[2], int flags)
{
	return injected(&pipe_call) ? -1 : __real_pipe2(fds, flags);
}

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	if (injected(&accept_call))
		return -1;
	return __real_accept4(fd, addr, len, flags);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	return injected(&receive_call) ? -1 : __real_recvmsg(fd, msg, flags);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*fn)(void *), void *arg)
{
	if (injected(&thread_call))
		return atomic_load(&thread_call.error);
	return __real_pthread_create(thread, attr, fn, arg);
}

int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	if (cmd == F_GETFL && injected(&getfl_call))
		return -1;
	return __real_fcntl(fd, cmd, arg);
}

/* What succeeds may change errno too, see errno(3). */

int __real_close(int fd);
int __real_shutdown(int fd, int how);

int __wrap_close(int fd)
{
	int result = __real_close(fd);

	if (result == 0)
		errno = EXDEV;
	return result;
}

int __wrap_shutdown(int fd, int how)
{
	int result = __real_shutdown(fd, how);

	if (result == 0)
		errno = EXDEV;
	return result;
}

/* A hook that forgets errno, and counts. */

static atomic_int lines;

static void forget_errno(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
	atomic_fetch_add(&lines, 1);
	errno = 0;
}

static int open_forgetful(void **state)
{
	int result = ledger_open(state);

	atomic_store(&lines, 0);
	evt_set_log(forget_errno, NULL);
	return result;
}

static int close_forgetful(void **state)
{
	log_catch();
	return ledger_close(state);
}

#define FORGETFUL_TEST(fn)                                            \
	{                                                             \
#fn, fn, open_forgetful, close_forgetful, (void *)#fn \
	}

/* One call that is to fail, with this error and, but for answers, a line. */
#define FAILS(call, code)                                                \
	do {                                                             \
		int before_ = atomic_load(&lines);                       \
		bool answer_ = (code) == EAGAIN;                         \
		errno = EPROTO;                                          \
		assert_true((call) == -1);                               \
		assert_int_equal(errno, code);                           \
		assert_true((atomic_load(&lines) > before_) != answer_); \
	} while (0)

/* J17 */
static void calls_with_bad_arguments_keep_their_errno(void **state)
{
	(void)state;
	FAILS(evt_server_init(-1, SOCK_STREAM), EINVAL);
	FAILS(evt_server_init(1, SOCK_RAW), EINVAL);
	FAILS(evt_server_start(on_client, NULL), EINVAL);
	FAILS(evt_server_threads(echo, 1), EINVAL);
	FAILS(evt_server_grace_ms(-2), EINVAL);
	FAILS(evt_thread_dispatch(-1, EV_READ, NULL), EBADF);
	FAILS(evt_thread_dispatch(NO_FD, EV_READ, NULL), EINVAL);
	FAILS(evt_thread_at_stop(NULL, NULL), EINVAL);
	FAILS(evt_thread_at_stop(free, NULL), EPERM);
	FAILS(evt_udp(-1, NULL, 1, 0, NULL), EINVAL);
	FAILS(evt_udp(-1, NULL, 0, 0, NULL), EBADF);
	FAILS(evt_udp(STDIN_FILENO, NULL, 0, 0, NULL), ENOTSOCK);
	FAILS(evt_tcp(-1, NULL), EBADF);
	FAILS(evt_tcp(STDIN_FILENO, NULL), ENOTSOCK);
}

/* J17 */
static void helpers_keep_their_errno(void **state)
{
	int port;
	int deaf = bound_but_deaf("127.0.0.1", &port);
	struct sockaddr_in in = ipv4("127.0.0.1", 1);

	(void)state;
	FAILS(set_nonblocking(-1), EBADF);
	FAILS(sys_error("errno is EPROTO"), EPROTO);
	FAILS(get_conn_to_host("127.0.0.1", -1, SOCK_STREAM), EINVAL);
	FAILS(get_conn_to_host("127.0.0.1", 1, 0), EINVAL);
	FAILS(get_conn_to_host("127.0.0.1", port, SOCK_STREAM), ECONNREFUSED);
	FAILS(get_conn_to_addr(NULL, 1, SOCK_STREAM), EINVAL);
	FAILS(get_conn_to_addr((struct sockaddr *)&in, htons((uint16_t)port),
		      SOCK_STREAM),
		ECONNREFUSED);
	FAILS(getnetinfo("127.0.0.1", -1, SOCK_STREAM) ? 0 : -1, EINVAL);
	FAILS(new_sockaddr() ? 0 : -1, EINVAL);
	inject(&socket_call, ENFILE, 0, FOR_EVER);
	FAILS(get_conn_to_host("127.0.0.1", port, SOCK_STREAM), ENFILE);
	end_injection(&socket_call);
	inject(&getfl_call, EIO, 0, FOR_EVER);
	FAILS(set_nonblocking(deaf), EIO);
	end_injection(&getfl_call);
	close(deaf);
}

/* J17 */
static void resolving_keeps_its_errno(void **state)
{
	(void)state;
	atomic_store(&gai_result, EAI_NONAME);
	FAILS(getnetinfo("a.host", 1, SOCK_STREAM) ? 0 : -1, ENOENT);
	FAILS(get_conn_to_host("a.host", 1, SOCK_STREAM), ENOENT);
	FAILS(evt_server_init(1, SOCK_STREAM), ENOENT);
	atomic_store(&gai_result, EAI_SYSTEM);
	FAILS(getnetinfo("a.host", 1, SOCK_STREAM) ? 0 : -1, EMFILE);
	FAILS(evt_server_init(1, SOCK_STREAM), EMFILE);
	atomic_store(&gai_result, 0);
}

/* J17 */
static void starting_keeps_its_errno(void **state)
{
	const struct {
		struct inject *call;
		int error;
	} failing[] = {
		{&socket_call, EMFILE},
		{&setsockopt_call, ENOPROTOOPT},
		{&bind_call, EACCES},
		{&listen_call, EADDRINUSE},
		{&pipe_call, ENFILE},
		{&thread_call, ENOMEM},
	};
	size_t i;

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	for (i = 0; i < sizeof(failing) / sizeof(failing[0]); i++) {
		inject(failing[i].call, failing[i].error, 0, FOR_EVER);
		FAILS(evt_server_start(on_client, NULL), failing[i].error);
		end_injection(failing[i].call);
	}
	FAILS(evt_server_start(NULL, NULL), EINVAL);
	evt_server_stop();
}

/* J17 */
static void starting_workers_keeps_its_errno(void **state)
{
	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	inject(&pipe_call, EMFILE, 0, 1);
	FAILS(evt_server_threads(echo, 4), EMFILE);
	inject(&pipe_call, ENFILE, 3, 1);
	FAILS(evt_server_threads(echo, 4), ENFILE);
	inject(&thread_call, EPERM, 2, 1);
	FAILS(evt_server_threads(echo, 4), EPERM);
	fail_allocation(1, true);
	FAILS(evt_server_threads(echo, 4), ENOMEM);
	fail_allocation(0, false);
	FAILS(evt_server_threads(echo, EVT_POOL_MAX_WORKERS + 1), EINVAL);
	FAILS(evt_server_threads(NULL, 4), EINVAL);
	evt_server_stop();
}

/* J17 */
static void a_running_server_keeps_the_errno_of_refusals(void **state)
{
	(void)state;
	assert_true(serve(on_client, echo, 1) > 0);
	FAILS(evt_server_init(1, SOCK_STREAM), EBUSY);
	FAILS(evt_server_start(on_client, NULL), EALREADY);
	FAILS(evt_server_threads(echo, 1), EALREADY);
	FAILS(evt_thread_dispatch(-1, EV_READ, NULL), EBADF);
	FAILS(evt_thread_at_stop(free, NULL), EPERM);
	fail_allocation(1, true);
	FAILS(new_sockaddr() ? 0 : -1, ENOMEM);
	fail_allocation(0, false);
	evt_server_stop();
}

/* J17 */
static void without_a_pool_dispatching_keeps_its_errno(void **state)
{
	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	inject(&pipe_call, EMFILE, 0, 1);
	FAILS(evt_thread_dispatch(NO_FD, EV_READ, NULL), EMFILE);
	assert_int_equal(evt_server_threads(echo, 0), 0);
	FAILS(evt_thread_dispatch(NO_FD, EV_READ, NULL), ENXIO);
	evt_server_stop();
}

/* J17 */
static void the_functions_of_the_pool_keep_their_errno(void **state)
{
	(void)state;
	serve_with_a_known_pool(1);
	FAILS(evt_pool_workers(NULL), EINVAL);
	FAILS(worker(1) ? 0 : -1, EINVAL);
	FAILS(evt_worker_index(NULL), EINVAL);
	FAILS(evt_worker_pool(NULL) ? 0 : -1, EINVAL);
	FAILS(evt_worker_base(NULL) ? 0 : -1, EINVAL);
	FAILS(evt_worker_post(NULL, no_task, NULL), EINVAL);
	FAILS(evt_pool_post_all(NULL, no_task, NULL), EINVAL);
	evt_server_stop();
}

/* J17 */
static void accepting_and_receiving_keep_their_errno(void **state)
{
	static const int errors[] = {
		EMFILE, ENFILE, ENOMEM, EBADF, EINVAL, EOPNOTSUPP};
	char buf[4];
	int port;
	int tcp = bound("127.0.0.1", SOCK_STREAM, &port);
	int udp = bound("127.0.0.1", SOCK_DGRAM, &port);
	size_t i;

	(void)state;
	FAILS(evt_tcp(tcp, NULL), EAGAIN);
	FAILS(evt_udp(udp, buf, sizeof(buf), 0, NULL), EAGAIN);
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		inject(&accept_call, errors[i], 0, 1);
		FAILS(evt_tcp(tcp, NULL), errors[i]);
	}
	inject(&receive_call, ENOMEM, 0, 1);
	FAILS(evt_udp(udp, buf, sizeof(buf), 0, NULL), ENOMEM);
	close(tcp);
	close(udp);
}

static atomic_int errno_on_listener;

static void accept_without_descriptors(sockfd_t fd, short evt, void *arg)
{
	int conn;

	(void)evt;
	(void)arg;
	errno = EPROTO;
	conn = evt_tcp(fd, NULL);
	if (conn != -1) {
		evt_close(conn);
		return;
	}
	if (errno != EAGAIN)
		atomic_store(&errno_on_listener, errno);
}

/* J17 */
static void a_pause_of_the_listener_keeps_its_errno(void **state)
{
	int port = serve(accept_without_descriptors, NULL, 0);
	int fd;

	(void)state;
	atomic_store(&errno_on_listener, 0);
	inject(&accept_call, EMFILE, 0, 1);
	fd = connect_to(port);
	assert_int_not_equal(fd, -1);
	assert_true(WAIT_FOR(atomic_load(&errno_on_listener) != 0));
	assert_int_equal(atomic_load(&errno_on_listener), EMFILE);
	assert_true(at_end(fd));
	close(fd);
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FORGETFUL_TEST(calls_with_bad_arguments_keep_their_errno),
		FORGETFUL_TEST(helpers_keep_their_errno),
		FORGETFUL_TEST(resolving_keeps_its_errno),
		FORGETFUL_TEST(starting_keeps_its_errno),
		FORGETFUL_TEST(starting_workers_keeps_its_errno),
		FORGETFUL_TEST(a_running_server_keeps_the_errno_of_refusals),
		FORGETFUL_TEST(without_a_pool_dispatching_keeps_its_errno),
		FORGETFUL_TEST(the_functions_of_the_pool_keep_their_errno),
		FORGETFUL_TEST(accepting_and_receiving_keep_their_errno),
		FORGETFUL_TEST(a_pause_of_the_listener_keeps_its_errno),
	};

	return ledger_run("errno", tests);
}
