/*
 * test_accept.c: accepting when something is wrong: no descriptors left, a
 * listening socket that is broken, a burst of clients.
 */
/* wrap: accept4 event_add */
#include "ledger.h"
#include "network.h"
#include "../evt-core.h"
#include "../evt-log.h"
#include "../evt-server-internal.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

#define NOT_HERE 77 /* of a child: this machine lacks something */

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __real_event_add(struct event *event, const struct timeval *timeout);

static atomic_int accepts;
static atomic_bool endless_pauses;

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	atomic_fetch_add(&accepts, 1);
	return __real_accept4(fd, addr, len, flags);
}

int __wrap_event_add(struct event *event, const struct timeval *timeout)
{
	const struct timeval hour = {.tv_sec = 3600};

	if (timeout && atomic_load(&endless_pauses))
		timeout = &hour;
	return __real_event_add(event, timeout);
}

/* The servers of these tests */

static atomic_int calls;
static atomic_int listening_fd;
static atomic_int last_conn;
static atomic_int nonblocking_listener;
static atomic_bool gate;

static void on_client(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	atomic_store(&listening_fd, fd);
	atomic_fetch_add(&calls, 1);
	if (conn == -1)
		return;
	atomic_store(&last_conn, conn);
	if (evt_thread_dispatch(conn, evt, arg) == -1)
		evt_close(conn);
}

static void on_all_clients(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn;

	while ((conn = evt_tcp(fd, NULL)) != -1)
		if (evt_thread_dispatch(conn, evt, arg) == -1)
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
	atomic_store(&accepts, 0);
	atomic_store(&calls, 0);
	atomic_store(&gate, false);
	if (evt_server_init(0, SOCK_STREAM) == -1 ||
		evt_server_start(cb, NULL) == -1 ||
		evt_server_threads(tcb, workers) != workers)
		return -1;
	return evt_server_port();
}

/* A test that fails must not leave its server to the next one. */
static int stop_and_close(void **state)
{
	atomic_store(&gate, true);
	evt_server_stop();
	return ledger_close(state);
}

#define ACCEPT_TEST(fn)                                           \
	{                                                         \
#fn, fn, ledger_open, stop_and_close, (void *)#fn \
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

/* Descriptors that run out */

static struct rlimit old_limit;

/* Leaves room for so many descriptors more, and no gaps below. */
static void leave_descriptors(int nr)
{
	struct rlimit limit;
	int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(lowest);
	getrlimit(RLIMIT_NOFILE, &old_limit);
	limit = old_limit;
	limit.rlim_cur = (rlim_t)(lowest + nr);
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void give_descriptors_back(void)
{
	setrlimit(RLIMIT_NOFILE, &old_limit);
}

static int new_client(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static bool connect_client(int fd, int port)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	return connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0;
}

static unsigned long pauses(void)
{
	struct evt_server_ledger ledger;

	evt_server_ledger_(&ledger);
	return ledger.pauses;
}

#define WAITING 20

static void twenty_wait_and_are_served(void *arg)
{
	int fds[WAITING];
	int64_t cpu;
	int port;
	int i;

	(void)arg;
	port = start_server(on_client, echo, WAITING);
	CHECK(port > 0);
	for (i = 0; i < WAITING; i++)
		fds[i] = new_client();
	leave_descriptors(0);
	for (i = 0; i < WAITING; i++)
		CHECK(connect_client(fds[i], port));
	CHECK(WAIT_FOR(pauses() > 0));
	cpu = cpu_ms();
	usleep(500 * 1000);
	CHECK(cpu_ms() - cpu < 20 * slowness());
	CHECK(atomic_load(&accepts) < 60);
	CHECK(pauses() < 60);
	give_descriptors_back();
	for (i = 0; i < WAITING; i++)
		CHECK(echoes(fds[i], "served after all"));
	for (i = 0; i < WAITING; i++)
		close(fds[i]);
	evt_server_stop();
	CHECK(log_lines(EVT_LOG_WARN) == 1);
	CHECK(log_lines(EVT_LOG_INFO) == 2);
	CHECK(log_has("pauses: Too many open files"));
	CHECK(log_has("goes on after"));
}

/* B01 */
static void without_descriptors_clients_wait_and_nothing_spins(void **state)
{
	(void)state;
	if (under("valgrind")) /* has a limit of its own */
		skip();
	assert_int_equal(in_child(twenty_wait_and_are_served, NULL, 20), 0);
}

/* Closes one after the other till fd is readable: true if it was in time. */
static bool close_till_readable(int fd, const int *spares, int nr)
{
	struct pollfd in = {.fd = fd, .events = POLLIN};
	int i;

	for (i = 0; i < nr; i++) {
		evt_close(spares[i]);
		if (poll(&in, 1, 10 * slowness()) == 1)
			return true;
	}
	return false;
}

/* The timer does not end this pause. A close in the very moment of its
 * beginning may go unnoticed, so there are several. */
static void go_on_when_one_closes(void *arg)
{
	int spares[50];
	char byte;
	int port;
	int fd;
	int i;

	(void)arg;
	port = start_server(on_client, echo, 1);
	fd = new_client();
	for (i = 0; i < 50; i++)
		spares[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	atomic_store(&endless_pauses, true);
	leave_descriptors(0);
	CHECK(connect_client(fd, port));
	CHECK(send_all(fd, "x", 1));
	CHECK(WAIT_FOR(pauses() == 1));
	CHECK(close_till_readable(fd, spares, 50));
	CHECK(receive_all(fd, &byte, 1));
	CHECK(pauses() == 1);
	close(fd);
	evt_server_stop();
}

/* B01 */
static void a_paused_listener_goes_on_at_once_when_one_is_closed(void **state)
{
	(void)state;
	if (under("valgrind")) /* has a limit of its own */
		skip();
	assert_int_equal(in_child(go_on_when_one_closes, NULL, 20), 0);
}

static void have_two_episodes(void *arg)
{
	int port = start_server(on_client, echo, 4);
	int fds[2];
	int i;

	(void)arg;
	fds[0] = new_client();
	fds[1] = new_client();
	for (i = 0; i < 2; i++) {
		unsigned long before = pauses();

		leave_descriptors(0);
		CHECK(connect_client(fds[i], port));
		CHECK(WAIT_FOR(pauses() >= before + 3));
		give_descriptors_back();
		CHECK(echoes(fds[i], "hello"));
		CHECK(log_lines(EVT_LOG_WARN) == i + 1);
		CHECK(log_lines(EVT_LOG_INFO) == 2 * i + 2);
		close(fds[i]);
	}
	evt_server_stop();
}

/* B01 */
static void each_episode_has_one_line_at_each_end(void **state)
{
	(void)state;
	if (under("valgrind")) /* has a limit of its own */
		skip();
	assert_int_equal(in_child(have_two_episodes, NULL, 20), 0);
}

static void run_out_with_nobody_waiting(void *arg)
{
	int port = start_server(on_all_clients, echo, 2);
	int fds[2] = {new_client(), new_client()};
	int64_t cpu;

	(void)arg;
	leave_descriptors(1);
	CHECK(connect_client(fds[0], port));
	CHECK(echoes(fds[0], "the last descriptor"));
	/* Linux looks for a descriptor first: EMFILE, and nobody waits. */
	CHECK(WAIT_FOR(pauses() == 1));
	cpu = cpu_ms();
	usleep(300 * 1000);
	CHECK(cpu_ms() - cpu < 20 * slowness());
	CHECK(atomic_load(&accepts) == 2);
	CHECK(log_lines(EVT_LOG_WARN) == 1);
	give_descriptors_back();
	CHECK(connect_client(fds[1], port));
	CHECK(echoes(fds[1], "the next"));
	close(fds[0]);
	close(fds[1]);
	evt_server_stop();
}

/* B02 */
static void running_out_with_nobody_waiting_does_not_spin(void **state)
{
	(void)state;
	if (under("valgrind")) /* has a limit of its own */
		skip();
	assert_int_equal(in_child(run_out_with_nobody_waiting, NULL, 20), 0);
}

static void stop_while_paused(void *arg)
{
	int port = start_server(on_client, echo, 1);
	int fd = new_client();

	(void)arg;
	atomic_store(&endless_pauses, true);
	leave_descriptors(0);
	CHECK(connect_client(fd, port));
	CHECK(WAIT_FOR(pauses() == 1));
	evt_server_stop();
	CHECK(at_end(fd));
	give_descriptors_back();
	atomic_store(&endless_pauses, false);
	port = start_server(on_client, echo, 1);
	CHECK(serves("127.0.0.1", port));
	evt_server_stop();
}

/* B01 */
static void a_paused_server_stops_and_starts_again(void **state)
{
	(void)state;
	if (under("valgrind")) /* has a limit of its own */
		skip();
	assert_int_equal(in_child(stop_while_paused, NULL, 20), 0);
}

/* A listening socket that is broken */

/* B06 */
static void a_listening_socket_shut_down_ends_with_one_line(void **state)
{
	int port = start_server(on_client, echo, 2);
	int old = connect_to(port);
	int64_t cpu;
	int before;

	(void)state;
	assert_true(echoes(old, "before"));
	before = atomic_load(&calls);
	shutdown(atomic_load(&listening_fd), SHUT_RDWR);
	assert_true(WAIT_FOR(log_lines(EVT_LOG_ERROR) == 1));
	cpu = cpu_ms();
	usleep(200 * 1000);
	assert_true(cpu_ms() - cpu < 20 * slowness());
	assert_int_equal(atomic_load(&calls), before + 1);
	assert_true(refused(port));
	assert_true(echoes(old, "after"));
	assert_int_equal(log_lines(EVT_LOG_INFO), 1);
	close(old);
	evt_server_stop();
}

/* B06 */
static void a_server_whose_listener_broke_can_be_started_again(void **state)
{
	int port = start_server(on_client, echo, 1);

	(void)state;
	assert_true(serves("127.0.0.1", port));
	shutdown(atomic_load(&listening_fd), SHUT_RDWR);
	assert_true(WAIT_FOR(log_lines(EVT_LOG_ERROR) == 1));
	evt_server_stop();
	port = start_server(on_client, echo, 1);
	assert_true(serves("127.0.0.1", port));
	evt_server_stop();
}

/* Bursts, while an old connection, an event of the program's, is served */

static struct event *old;
static atomic_int calls_at_answer;

static void answer_old(evutil_socket_t fd, short what, void *arg)
{
	char bytes[64];
	ssize_t len = read(fd, bytes, sizeof(bytes));

	(void)what, (void)arg;
	atomic_store(&calls_at_answer, atomic_load(&calls));
	if (len > 0)
		send_all(fd, bytes, (size_t)len);
	else
		event_del(old);
}

static void release_old(void *arg)
{
	evt_close(event_get_fd(old));
	event_free(old);
	old = NULL;
	(void)arg;
}

static void adopt_the_first(sockfd_t conn, short evt, void *arg)
{
	(void)evt, (void)arg;
	if (old) {
		evt_close(conn);
		return;
	}
	old = event_new(evt_thread_base(), conn, EV_READ | EV_PERSIST,
		answer_old, NULL);
	event_add(old, NULL);
	evt_thread_at_stop(release_old, NULL);
}

static void adopt_then_wait_at_the_gate(sockfd_t fd, short evt, void *arg)
{
	int call = atomic_fetch_add(&calls, 1);

	if (call == 1)
		(void)WAIT_FOR(atomic_load(&gate));
	adopt_the_first(evt_tcp(fd, NULL), evt, arg);
}

#define BURST 200

/* B10 */
static void a_burst_of_clients_lets_others_run_in_between(void **state)
{
	int port = start_server(adopt_then_wait_at_the_gate, echo, 1);
	int fds[BURST];
	char byte;
	int first;
	int i;

	(void)state;
	first = connect_to(port);
	assert_true(echoes(first, "1"));
	for (i = 0; i < BURST; i++)
		fds[i] = connect_to(port);
	assert_true(WAIT_FOR(atomic_load(&calls) == 2));
	assert_true(send_all(first, "2", 1));
	atomic_store(&gate, true);
	assert_true(receive_all(first, &byte, 1));
	assert_in_range(atomic_load(&calls_at_answer), 2, 2 + 16);
	for (i = 0; i < BURST; i++) {
		assert_true(at_end(fds[i]));
		close(fds[i]);
	}
	close(first);
	evt_server_stop();
}

static void *connect_2000(void *arg)
{
	int port = *(int *)arg;
	int i;

	for (i = 0; i < 2000; i++) {
		int fd = connect_to(port);

		if (fd == -1)
			break;
		close_with_reset(fd);
	}
	atomic_store(&gate, true);
	return NULL;
}

/* B10 */
static void an_old_connection_is_quick_while_2000_clients_come(void **state)
{
	int port = start_server(on_client, adopt_the_first, 1);
	int first = connect_to(port);
	pthread_t burst;
	int64_t longest = 0;

	(void)state;
	assert_true(echoes(first, "first"));
	pthread_create(&burst, NULL, connect_2000, &port);
	while (!atomic_load(&gate)) {
		int64_t start = now_ms();

		assert_true(echoes(first, "quick"));
		if (now_ms() - start > longest)
			longest = now_ms() - start;
	}
	pthread_join(burst, NULL);
	assert_in_range(longest, 0, 500 * slowness());
	close(first);
	evt_server_stop();
}

static void look_at_the_listener(sockfd_t fd, short evt, void *arg)
{
	int flags = fcntl(fd, F_GETFL);

	atomic_store(&nonblocking_listener, (flags & O_NONBLOCK) != 0);
	on_client(fd, evt, arg);
}

/* B11 */
static void the_listening_socket_never_blocks(void **state)
{
	int port = start_server(look_at_the_listener, echo, 1);
	int i;

	(void)state;
	for (i = 0; i < 50; i++)
		close_with_reset(connect_to(port));
	assert_true(serves("127.0.0.1", port));
	assert_true(atomic_load(&nonblocking_listener));
	evt_server_stop();
}

static void serve_above_1024(void *arg)
{
	const struct rlimit limit = {4096, 4096};
	int port;
	int fd;
	int i;

	(void)arg;
	if (setrlimit(RLIMIT_NOFILE, &limit) == -1)
		_exit(NOT_HERE);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (i = 0; i < 2000; i++)
		CHECK(fcntl(fd, F_DUPFD_CLOEXEC, 0) != -1);
	port = start_server(on_client, echo, 2);
	CHECK(port > 0);
	CHECK(serves("127.0.0.1", port));
	CHECK(atomic_load(&listening_fd) > 1024);
	CHECK(atomic_load(&last_conn) > 1024);
	evt_server_stop();
	CHECK(refused(port));
}

/* B13 */
static void descriptors_above_1024_work(void **state)
{
	int status = in_child(serve_above_1024, NULL, 20);

	(void)state;
	if (status == NOT_HERE)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ACCEPT_TEST(without_descriptors_clients_wait_and_nothing_spins),
		ACCEPT_TEST(
			a_paused_listener_goes_on_at_once_when_one_is_closed),
		ACCEPT_TEST(each_episode_has_one_line_at_each_end),
		ACCEPT_TEST(running_out_with_nobody_waiting_does_not_spin),
		ACCEPT_TEST(a_paused_server_stops_and_starts_again),
		ACCEPT_TEST(a_listening_socket_shut_down_ends_with_one_line),
		ACCEPT_TEST(a_server_whose_listener_broke_can_be_started_again),
		ACCEPT_TEST(a_burst_of_clients_lets_others_run_in_between),
		ACCEPT_TEST(an_old_connection_is_quick_while_2000_clients_come),
		ACCEPT_TEST(the_listening_socket_never_blocks),
		ACCEPT_TEST(descriptors_above_1024_work),
	};

	(void)own_network(CLONE_NEWNET);
	return ledger_run("accept", tests);
}
