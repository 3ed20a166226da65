/*
 * test_syscalls.c: starting while the system refuses one call for the listening
 * socket or its address, each in each of its ways. The start fails with that
 * errno and leaves nothing, or serves with what it could get; and the next
 * attempt works.
 */
/* wrap: socket setsockopt bind listen getsockname fcntl */
/* wrap: getaddrinfo freeaddrinfo */
#include "rig.h"
#include "inject.h"
#include "../evt-core.h"

#include <netinet/tcp.h>

/* The wrapped calls */

int __real_socket(int family, int socktype, int protocol);
int __real_setsockopt(
	int fd, int level, int name, const void *value, socklen_t len);
int __real_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __real_listen(int fd, int backlog);
int __real_getsockname(int fd, struct sockaddr *addr, socklen_t *len);
int __real_fcntl(int fd, int command, ...);
int __real_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list);
void __real_freeaddrinfo(struct addrinfo *list);

static struct inject on_socket = {.name = "socket"};
static struct inject on_setsockopt = {.name = "setsockopt"};
static struct inject on_bind = {.name = "bind"};
static struct inject on_listen = {.name = "listen"};
static struct inject on_getsockname = {.name = "getsockname"};
static struct inject on_fcntl = {.name = "fcntl"};
static struct inject on_getaddrinfo = {.name = "getaddrinfo"};

/* Which of its calls an injection is meant for; 0: all. */
static atomic_int only_family;
static atomic_int only_option;
static atomic_int only_command;

/* What getaddrinfo gives instead of failing. */
static atomic_bool empty_list;
static atomic_int other_family;
static atomic_int lists; /* given and not freed yet */

static bool meant(atomic_int *only, int this)
{
	return atomic_load(only) == 0 || atomic_load(only) == this;
}

int __wrap_socket(int family, int socktype, int protocol)
{
	if (meant(&only_family, family) && injected(&on_socket))
		return -1;
	return __real_socket(family, socktype, protocol);
}

int __wrap_setsockopt(
	int fd, int level, int name, const void *value, socklen_t len)
{
	if (meant(&only_option, name) && injected(&on_setsockopt))
		return -1;
	return __real_setsockopt(fd, level, name, value, len);
}

int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	if (meant(&only_family, addr->sa_family) && injected(&on_bind))
		return -1;
	return __real_bind(fd, addr, len);
}

int __wrap_listen(int fd, int backlog)
{
	return injected(&on_listen) ? -1 : __real_listen(fd, backlog);
}

int __wrap_getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
	return injected(&on_getsockname) ? -1
					 : __real_getsockname(fd, addr, len);
}

int __wrap_fcntl(int fd, int command, ...)
{
	va_list args;
	void *arg;

	va_start(args, command);
	arg = va_arg(args, void *);
	va_end(args);
	if (meant(&only_command, command) && injected(&on_fcntl))
		return -1;
	return __real_fcntl(fd, command, arg);
}

int __wrap_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list)
{
	int result;

	if (injected(&on_getaddrinfo))
		return errno;
	if (atomic_load(&empty_list)) {
		*list = NULL;
		return 0;
	}
	result = __real_getaddrinfo(host, service, hints, list);
	if (result == 0)
		atomic_fetch_add(&lists, 1);
	if (result == 0 && atomic_load(&other_family) != 0)
		(*list)->ai_family = atomic_load(&other_family);
	return result;
}

void __wrap_freeaddrinfo(struct addrinfo *list)
{
	if (list)
		atomic_fetch_sub(&lists, 1);
	__real_freeaddrinfo(list);
}

/* One fault after the other */

struct fault {
	struct inject *call;
	int error;
	int option; /* setsockopt: which one */
};

static const struct fault start_faults[] = {
	{&on_socket, EACCES, 0},
	{&on_socket, EAFNOSUPPORT, 0},
	{&on_socket, EINVAL, 0},
	{&on_socket, EMFILE, 0},
	{&on_socket, ENFILE, 0},
	{&on_socket, ENOBUFS, 0},
	{&on_socket, ENOMEM, 0},
	{&on_socket, EPROTONOSUPPORT, 0},
	{&on_setsockopt, EBADF, SO_REUSEADDR},
	{&on_setsockopt, EFAULT, SO_REUSEADDR},
	{&on_setsockopt, EINVAL, SO_REUSEADDR},
	{&on_setsockopt, ENOPROTOOPT, SO_REUSEADDR},
	{&on_setsockopt, ENOTSOCK, SO_REUSEADDR},
	{&on_setsockopt, ENOPROTOOPT, TCP_NODELAY},
	{&on_setsockopt, ENOMEM, TCP_NODELAY},
	{&on_bind, EACCES, 0},
	{&on_bind, EADDRINUSE, 0},
	{&on_bind, EBADF, 0},
	{&on_bind, EINVAL, 0},
	{&on_bind, ENOTSOCK, 0},
	{&on_bind, EADDRNOTAVAIL, 0},
	{&on_bind, EFAULT, 0},
	{&on_bind, ENOMEM, 0},
	{&on_bind, EPERM, 0},
	{&on_listen, EADDRINUSE, 0},
	{&on_listen, EBADF, 0},
	{&on_listen, ENOTSOCK, 0},
	{&on_listen, EOPNOTSUPP, 0},
	{&on_getsockname, EBADF, 0},
	{&on_getsockname, EFAULT, 0},
	{&on_getsockname, EINVAL, 0},
	{&on_getsockname, ENOBUFS, 0},
	{&on_getsockname, ENOTSOCK, 0},
};

#define NR_START_FAULTS (sizeof(start_faults) / sizeof(start_faults[0]))

/* Names the fault under which something is not true. */
#define EXPECT(fault, condition)                       \
	do {                                           \
		if (!(condition))                      \
			fail_under(fault, #condition); \
	} while (0)

static void fail_under(const struct fault *fault, const char *condition)
{
	int error = errno;

	end_injection(fault->call);
	evt_server_stop(); /* or the tests after this one fail too */
	fail_msg("%s giving %s: not true: %s (errno %s)", fault->call->name,
		strerrorname_np(fault->error), condition,
		strerrorname_np(error));
}

static int start_under(const struct fault *fault, int times)
{
	int result;

	atomic_store(&only_option, fault->option);
	inject(fault->call, fault->error, 0, times);
	result = evt_server_start(on_client, NULL);
	end_injection(fault->call);
	atomic_store(&only_option, 0);
	return result;
}

/* An error that is told in one line, and names itself. */
static bool told_once(int error)
{
	return log_lines(EVT_LOG_WARN) == 1 && log_has(strerror(error));
}

static void expect_works(const struct fault *fault, int socktype)
{
	EXPECT(fault, evt_server_start(on_client, NULL) == 0);
	EXPECT(fault, evt_server_port() > 0);
	if (socktype == SOCK_STREAM) {
		EXPECT(fault, evt_server_threads(echo, 1) == 1);
		EXPECT(fault, answers(evt_server_port()));
	}
	evt_server_stop();
}

static void expect_start_fails(
	const struct fault *fault, int socktype, int times)
{
	int fds = count_fds();
	int threads = count_threads();

	log_forget();
	errno = 0;
	EXPECT(fault, start_under(fault, times) == -1);
	EXPECT(fault, errno == fault->error);
	EXPECT(fault, told_once(fault->error));
	EXPECT(fault, count_fds() == fds);
	EXPECT(fault, WAIT_FOR(count_threads() <= threads));
	EXPECT(fault, evt_server_port() == -1);
	expect_works(fault, socktype);
}

static void each_start_fault_of(struct inject *call)
{
	size_t i;

	for (i = 0; i < NR_START_FAULTS; i++) {
		if (start_faults[i].call != call)
			continue;
		assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
		expect_start_fails(&start_faults[i], SOCK_STREAM, FOR_EVER);
	}
}

/* A09 */
static void a_start_without_a_socket_fails_and_leaves_nothing(void **state)
{
	(void)state;
	each_start_fault_of(&on_socket);
}

/* A09 */
static void a_start_whose_setsockopt_fails_leaves_nothing(void **state)
{
	(void)state;
	each_start_fault_of(&on_setsockopt);
}

/* A09 */
static void a_start_whose_bind_fails_leaves_nothing(void **state)
{
	(void)state;
	each_start_fault_of(&on_bind);
}

/* A09 */
static void a_start_whose_listen_fails_leaves_nothing(void **state)
{
	(void)state;
	each_start_fault_of(&on_listen);
}

/* A09 */
static void a_start_that_cannot_learn_its_port_leaves_nothing(void **state)
{
	(void)state;
	each_start_fault_of(&on_getsockname);
}

/* A09: what a UDP server asks for. */
static void a_udp_start_fails_in_the_same_ways(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < NR_START_FAULTS; i++) {
		const struct fault *fault = &start_faults[i];

		if (fault->call == &on_listen || fault->option != 0)
			continue;
		assert_int_equal(evt_server_init(0, SOCK_DGRAM), 0);
		expect_start_fails(fault, SOCK_DGRAM, FOR_EVER);
	}
}

static bool ipv6_here(void)
{
	int fd = connect_to_ip("::1", 9);

	if (fd != -1)
		close(fd);
	return fd != -1 || errno == ECONNREFUSED;
}

static void init_without_ipv6(int socktype)
{
	atomic_store(&only_family, AF_INET6);
	inject(&on_socket, EAFNOSUPPORT, 0, FOR_EVER);
	assert_int_equal(evt_server_init(0, socktype), 0);
	end_injection(&on_socket);
	atomic_store(&only_family, 0);
}

/* A09: where there is one address only, one failure is enough. */
static void a_failure_of_the_only_address_fails_the_start(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < NR_START_FAULTS; i++) {
		init_without_ipv6(SOCK_STREAM);
		expect_start_fails(&start_faults[i], SOCK_STREAM, 1);
	}
}

static void expect_ipv4_alone(const struct fault *fault)
{
	int port;

	log_forget();
	EXPECT(fault, start_under(fault, 1) == 0);
	EXPECT(fault, told_once(fault->error));
	EXPECT(fault, log_has("IPv4"));
	EXPECT(fault, get_sockaddr_size() == sizeof(struct sockaddr_in6));
	port = evt_server_port();
	EXPECT(fault, evt_server_threads(echo, 1) == 1);
	EXPECT(fault, answers(port));
	EXPECT(fault, connect_to_ip("::1", port) == -1);
	evt_server_stop();
}

/* A09 A05: the failing address's socket is closed before the next is tried. */
static void if_ipv6_fails_once_ipv4_is_served(void **state)
{
	int fds = count_fds();
	size_t i;

	(void)state;
	if (!ipv6_here())
		skip();
	for (i = 0; i < NR_START_FAULTS; i++) {
		if (start_faults[i].call == &on_getsockname)
			continue;
		assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
		expect_ipv4_alone(&start_faults[i]);
		EXPECT(&start_faults[i], count_fds() == fds);
	}
}

/* A09 A06: a socket that could not be told to serve both serves neither. */
static void without_v6only_the_ipv6_socket_is_not_used(void **state)
{
	static const struct fault fault = {
		&on_setsockopt, ENOPROTOOPT, IPV6_V6ONLY};

	(void)state;
	if (!ipv6_here())
		skip();
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	expect_ipv4_alone(&fault);
}

static void start_with_stdin_closed(void *arg)
{
	const struct fault *fault = arg;
	int fds;

	close(STDIN_FILENO);
	fds = count_fds();
	CHECK(evt_server_init(0, SOCK_STREAM) == 0);
	atomic_store(&only_command, F_DUPFD_CLOEXEC);
	CHECK(start_under(fault, FOR_EVER) == -1);
	CHECK(errno == fault->error);
	CHECK(told_once(fault->error));
	CHECK(count_fds() == fds);
	if (under("tsan")) /* which does not see that a copied pipe is one */
		return;
	CHECK(evt_server_start(on_client, NULL) == 0);
	CHECK(evt_server_threads(echo, 1) == 1);
	CHECK(answers(evt_server_port()));
	evt_server_stop();
}

/* A09: the copy above the standard descriptors cannot be made. */
static void a_start_whose_fcntl_fails_leaves_nothing(void **state)
{
	static struct fault faults[] = {
		{&on_fcntl, EMFILE, 0}, {&on_fcntl, EINVAL, 0}};

	(void)state;
	assert_int_equal(in_child(start_with_stdin_closed, &faults[0], 20), 0);
	assert_int_equal(in_child(start_with_stdin_closed, &faults[1], 20), 0);
}

/* A09 */
static void set_nonblocking_tells_what_fcntl_says(void **state)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int skipped;

	(void)state;
	for (skipped = 0; skipped < 2; skipped++) {
		log_forget();
		inject(&on_fcntl, EBADF, skipped, 1);
		assert_int_equal(set_nonblocking(fd), -1);
		assert_int_equal(errno, EBADF);
		assert_true(told_once(EBADF));
	}
	assert_int_equal(set_nonblocking(fd), 0);
	close(fd);
}

/* A09 */
static void a_connection_that_cannot_be_set_up_is_closed(void **state)
{
	static const struct fault faults[] = {{&on_socket, EMFILE, 0},
		{&on_socket, ENOBUFS, 0}, {&on_fcntl, EINVAL, 0}};
	int port = serve(on_client, echo, 1);
	int fds = count_fds();
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		inject(faults[i].call, faults[i].error, 0, FOR_EVER);
		fd = get_conn_to_host("127.0.0.1", port, SOCK_STREAM);
		end_injection(faults[i].call);
		EXPECT(&faults[i], fd == -1 && errno == faults[i].error);
	}
	/* The last attempt had been connected when it failed. */
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	assert_true(WAIT_FOR(count_fds() == fds));
	assert_true(answers(port));
	evt_server_stop();
}

/* Addresses */

/* A04 */
static void no_address_at_all_is_an_unsupported_family(void **state)
{
	(void)state;
	atomic_store(&empty_list, true);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), -1);
	assert_int_equal(errno, EAFNOSUPPORT);
	assert_null(getnetinfo("127.0.0.1", 80, SOCK_STREAM));
	assert_int_equal(errno, EAFNOSUPPORT);
	assert_int_equal(get_conn_to_host("127.0.0.1", 80, SOCK_STREAM), -1);
	assert_int_equal(errno, EAFNOSUPPORT);
	atomic_store(&empty_list, false);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 3);
	assert_null(get_server_addrinfo());
}

/* A04 */
static void an_address_of_an_unknown_family_is_refused(void **state)
{
	(void)state;
	atomic_store(&other_family, AF_APPLETALK);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), -1);
	assert_int_equal(errno, EAFNOSUPPORT);
	atomic_store(&other_family, 0);
	assert_int_equal(atomic_load(&lists), 0);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	evt_server_stop();
	assert_int_equal(atomic_load(&lists), 0);
}

/* A04: what the earlier init has prepared stays. */
static void a_failed_init_changes_nothing(void **state)
{
	struct addrinfo *before;

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	before = get_server_addrinfo();
	inject(&on_getaddrinfo, EAI_MEMORY, 0, 1);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), -1);
	assert_int_equal(errno, ENOMEM);
	assert_ptr_equal(get_server_addrinfo(), before);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	evt_server_stop();
	assert_int_equal(atomic_load(&lists), 0);
}

static void serves_ipv4_with_addresses_of(size_t size)
{
	int port;

	assert_int_equal(get_sockaddr_size(), size);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_int_equal(get_sockaddr_size(), size);
	assert_int_equal(evt_server_threads(echo, 2), 2);
	assert_int_equal(get_sockaddr_size(), size);
	port = evt_server_port();
	assert_true(answers(port));
	assert_int_equal(connect_to_ip("::1", port), -1);
	assert_int_equal(get_sockaddr_size(), size);
	assert_int_equal(log_lines(EVT_LOG_INFO), 1);
	assert_true(log_has("IPv4"));
	evt_server_stop();
	assert_int_equal(get_sockaddr_size(), 0);
}

/* A05 */
static void without_ipv6_sockets_ipv4_is_served_and_told(void **state)
{
	(void)state;
	atomic_store(&only_family, AF_INET6);
	inject(&on_socket, EAFNOSUPPORT, 0, 2);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	end_injection(&on_socket);
	atomic_store(&only_family, 0);
	serves_ipv4_with_addresses_of(sizeof(struct sockaddr_in));
}

/* A05 */
static void without_ipv6_addresses_ipv4_is_served_and_told(void **state)
{
	(void)state;
	atomic_store(&only_family, AF_INET6);
	inject(&on_bind, EADDRNOTAVAIL, 0, 2);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	end_injection(&on_bind);
	atomic_store(&only_family, 0);
	serves_ipv4_with_addresses_of(sizeof(struct sockaddr_in));
}

/* A05 */
static void if_ipv6_goes_after_init_the_address_size_stays(void **state)
{
	(void)state;
	if (!ipv6_here())
		skip();
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	inject(&on_socket, EAFNOSUPPORT, 0, 1);
	serves_ipv4_with_addresses_of(sizeof(struct sockaddr_in6));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_start_without_a_socket_fails_and_leaves_nothing),
		LEDGER_TEST(a_start_whose_setsockopt_fails_leaves_nothing),
		LEDGER_TEST(a_start_whose_bind_fails_leaves_nothing),
		LEDGER_TEST(a_start_whose_listen_fails_leaves_nothing),
		LEDGER_TEST(a_start_that_cannot_learn_its_port_leaves_nothing),
		LEDGER_TEST(a_udp_start_fails_in_the_same_ways),
		LEDGER_TEST(a_failure_of_the_only_address_fails_the_start),
		LEDGER_TEST(if_ipv6_fails_once_ipv4_is_served),
		LEDGER_TEST(without_v6only_the_ipv6_socket_is_not_used),
		LEDGER_TEST(a_start_whose_fcntl_fails_leaves_nothing),
		LEDGER_TEST(set_nonblocking_tells_what_fcntl_says),
		LEDGER_TEST(a_connection_that_cannot_be_set_up_is_closed),
		LEDGER_TEST(no_address_at_all_is_an_unsupported_family),
		LEDGER_TEST(an_address_of_an_unknown_family_is_refused),
		LEDGER_TEST(a_failed_init_changes_nothing),
		LEDGER_TEST(without_ipv6_sockets_ipv4_is_served_and_told),
		LEDGER_TEST(without_ipv6_addresses_ipv4_is_served_and_told),
		LEDGER_TEST(if_ipv6_goes_after_init_the_address_size_stays),
	};

	return ledger_run("syscalls", tests);
}
