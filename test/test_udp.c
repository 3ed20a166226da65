/*
 * test_udp.c: the server of datagrams: received by the listener's callback, or
 * by workers to which the listening socket is dispatched; lengths from none to
 * the largest; senders of both families and of none; how a stop ends the wait.
 */
/* wrap: recvmsg */
#include "ledger.h"
#include "network.h"
#include "../evt-core.h"
#include "../evt-log.h"
#include "../evt-server-internal.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/un.h>

ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);

/* How many calls from now on fail, as an earlier answer's error does it. */
static atomic_int bad_answers;
static atomic_int bad_error = ECONNREFUSED;

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	if (atomic_load(&bad_answers) > 0) {
		atomic_fetch_sub(&bad_answers, 1);
		errno = atomic_load(&bad_error);
		return -1;
	}
	return __real_recvmsg(fd, msg, flags);
}

/* The servers of these tests. What the last call of evt_udp did: */

static atomic_int calls;
static atomic_int last_len;
static atomic_int last_errno;
static atomic_int in_tcb;
static atomic_int seen[256]; /* how often each first byte came */
static atomic_int again;     /* EAGAIN, on a worker */
static atomic_int canceled;
static atomic_int room = 65536;
static struct sockaddr_storage last_peer;
static char last_bytes[65536];

static void receive(sockfd_t fd, short evt, void *arg)
{
	int len;

	(void)evt, (void)arg;
	memset(&last_peer, 0xa5, sizeof(last_peer));
	len = evt_udp(fd, last_bytes, atomic_load(&room), 0,
		(struct sockaddr *)&last_peer);
	atomic_store(&last_errno, errno);
	atomic_store(&last_len, len);
	atomic_fetch_add(&calls, 1);
}

static void answer(sockfd_t fd, short evt, void *arg)
{
	struct sockaddr_storage peer;
	char bytes[2048];
	int len = evt_udp(
		fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&peer);

	(void)evt, (void)arg;
	if (len >= 0)
		sendto(fd, bytes, (size_t)len, 0, (struct sockaddr *)&peer,
			(socklen_t)get_sockaddr_size());
	atomic_fetch_add(&calls, 1);
}

static void dispatch_seven_times(sockfd_t fd, short evt, void *arg)
{
	int i;

	for (i = 0; i < 7; i++)
		(void)evt_thread_dispatch(fd, evt, arg);
}

static void receive_on_worker(sockfd_t fd, short evt, void *arg)
{
	unsigned char byte;
	int len;

	(void)evt, (void)arg;
	atomic_fetch_add(&in_tcb, 1);
	len = evt_udp(fd, (char *)&byte, 1, 0, NULL);
	if (len == 1)
		atomic_fetch_add(&seen[byte], 1);
	else if (len == -1 && errno == EAGAIN)
		atomic_fetch_add(&again, 1);
	else if (len == -1 && errno == ECANCELED)
		atomic_fetch_add(&canceled, 1);
	atomic_fetch_add(&calls, 1);
}

static int start_server(evt_callback cb, evt_callback tcb, int workers)
{
	int i;

	atomic_store(&calls, 0);
	atomic_store(&last_len, -2);
	atomic_store(&in_tcb, 0);
	atomic_store(&again, 0);
	atomic_store(&canceled, 0);
	atomic_store(&room, (int)sizeof(last_bytes));
	for (i = 0; i < 256; i++)
		atomic_store(&seen[i], 0);
	if (evt_server_init(0, SOCK_DGRAM) == -1 ||
		evt_server_start(cb, NULL) == -1 ||
		(tcb && evt_server_threads(tcb, workers) != workers))
		return -1;
	return evt_server_port();
}

/* A test that fails must not leave its server to the next one. */
static int stop_and_close(void **state)
{
	atomic_store(&bad_answers, 0);
	atomic_store(&bad_error, ECONNREFUSED);
	evt_server_stop();
	evt_server_grace_ms(5000);
	return ledger_close(state);
}

#define UDP_TEST(fn)                                              \
	{                                                         \
#fn, fn, ledger_open, stop_and_close, (void *)#fn \
	}

static int udp_to_ipv6(int port)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6,
		.sin6_port = htons((uint16_t)port),
		.sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&in6, sizeof(in6)) == 0)
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

static bool answers(int fd, const char *text)
{
	char bytes[64] = "";

	return send_all(fd, text, strlen(text)) &&
		receive_all(fd, bytes, strlen(text)) &&
		strcmp(bytes, text) == 0;
}

/* F01 */
static void an_empty_datagram_has_length_0(void **state)
{
	int fd = udp_to(start_server(receive, NULL, 0));

	(void)state;
	assert_int_equal(send(fd, "", 0, 0), 0);
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	assert_int_equal(atomic_load(&last_len), 0);
	assert_int_equal(last_peer.ss_family,
		get_sockaddr_size() == 28 ? AF_INET6 : AF_INET);
	assert_true(send_all(fd, "next", 4));
	assert_true(WAIT_FOR(atomic_load(&calls) == 2));
	assert_int_equal(atomic_load(&last_len), 4);
	close(fd);
	evt_server_stop();
}

/* F01: on a worker, too, an empty one is no end of anything */
static void an_empty_datagram_reaches_a_worker(void **state)
{
	int fd = udp_to(start_server(dispatch_seven_times, answer, 2));
	char byte;
	int i;

	(void)state;
	for (i = 0; i < 10; i++) {
		assert_int_equal(send(fd, "", 0, 0), 0);
		assert_int_equal(recv(fd, &byte, 1, 0), 0);
	}
	close(fd);
	evt_server_stop();
}

static void fill(char *bytes, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		bytes[i] = (char)(i * 7 + i / 251);
}

/* F02 */
static void the_largest_ipv4_datagram_comes_whole(void **state)
{
	static char bytes[65508];
	int fd = udp_to(start_server(receive, NULL, 0));

	(void)state;
	fill(bytes, sizeof(bytes));
	assert_int_equal(send(fd, bytes, 65508, 0), -1);
	assert_int_equal(errno, EMSGSIZE);
	assert_int_equal(send(fd, bytes, 65507, 0), 65507);
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	assert_int_equal(atomic_load(&last_len), 65507);
	assert_memory_equal(last_bytes, bytes, 65507);
	close(fd);
	evt_server_stop();
}

/* F02 */
static void the_largest_ipv6_datagram_comes_whole(void **state)
{
	static char bytes[65528];
	int fd = udp_to_ipv6(start_server(receive, NULL, 0));

	(void)state;
	if (fd == -1)
		skip();
	fill(bytes, sizeof(bytes));
	assert_int_equal(send(fd, bytes, 65528, 0), -1);
	assert_int_equal(errno, EMSGSIZE);
	assert_int_equal(send(fd, bytes, 65527, 0), 65527);
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	assert_int_equal(atomic_load(&last_len), 65527);
	assert_memory_equal(last_bytes, bytes, 65527);
	close(fd);
	evt_server_stop();
}

/* F03 */
static void a_datagram_longer_than_the_buffer_is_cut_and_counted(void **state)
{
	struct evt_server_ledger ledger;
	char bytes[2000];
	int fd = udp_to(start_server(receive, NULL, 0));

	(void)state;
	fill(bytes, sizeof(bytes));
	atomic_store(&room, 512);
	last_bytes[512] = 'x';
	assert_true(send_all(fd, bytes, sizeof(bytes)));
	assert_true(send_all(fd, bytes, 512));
	assert_true(WAIT_FOR(atomic_load(&calls) == 2));
	assert_int_equal(atomic_load(&last_len), 512);
	assert_memory_equal(last_bytes, bytes, 512);
	assert_int_equal(last_bytes[512], 'x');
	close(fd);
	evt_server_stop();
	evt_server_ledger_(&ledger);
	assert_int_equal(ledger.truncated, 1);
}

/* F04 */
static void a_negative_size_or_no_buffer_is_einval(void **state)
{
	char byte;

	(void)state;
	assert_true(start_server(receive, NULL, 0) > 0);
	assert_int_equal(evt_udp(0, &byte, -1, 0, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_udp(0, &byte, INT32_MIN, 0, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_udp(0, NULL, 1, 0, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_udp(0, NULL, INT32_MAX, 0, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 4);
	evt_server_stop();
}

static void receive_without_room(sockfd_t fd, short evt, void *arg)
{
	atomic_store(&last_len, evt_udp(fd, NULL, 0, 0, NULL));
	atomic_fetch_add(&calls, 1);
	(void)evt, (void)arg;
}

/* F04 */
static void size_0_reads_a_datagram_and_throws_it_away(void **state)
{
	int fd = udp_to(start_server(receive_without_room, NULL, 0));
	int i;

	(void)state;
	for (i = 1; i <= 5; i++) {
		assert_true(send_all(fd, "gone", 4));
		assert_true(WAIT_FOR(atomic_load(&calls) == i));
		assert_int_equal(atomic_load(&last_len), 0);
	}
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
	close(fd);
	evt_server_stop();
	assert_int_equal(atomic_load(&calls), 5);
}

/* F04 */
static void a_size_of_int_max_is_as_good_as_the_buffer(void **state)
{
	int fd;

	(void)state;
	if (under("valgrind")) /* believes it */
		skip();
	fd = udp_to(start_server(receive, NULL, 0));
	atomic_store(&room, INT32_MAX);
	assert_true(send_all(fd, "short", 5));
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	assert_int_equal(atomic_load(&last_len), 5);
	assert_memory_equal(last_bytes, "short", 5);
	close(fd);
	evt_server_stop();
}

/* F05: as the client sees it */
static void an_answer_to_a_closed_port_does_not_disturb_the_next(void **state)
{
	int port = start_server(answer, NULL, 0);
	int i;

	(void)state;
	for (i = 0; i < 20; i++) {
		int gone = udp_to(port);
		int fd = udp_to(port);

		send(gone, "x", 1, 0);
		close(gone);
		assert_true(answers(fd, "still there"));
		close(fd);
	}
	evt_server_stop();
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

/* F05: as the kernel may tell the server */
static void an_earlier_answers_error_is_passed_over_and_counted(void **state)
{
	struct evt_server_ledger ledger;
	int fd = udp_to(start_server(receive, NULL, 0));

	(void)state;
	atomic_store(&bad_answers, 3);
	assert_true(send_all(fd, "here", 4));
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	assert_int_equal(atomic_load(&last_len), 4);
	close(fd);
	evt_server_stop();
	evt_server_ledger_(&ledger);
	assert_int_equal(ledger.unreachable, 3);
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

/* F05 */
static void errors_without_end_become_eagain_and_the_loop_goes_on(void **state)
{
	int fd = udp_to(start_server(receive, NULL, 0));

	(void)state;
	atomic_store(&bad_answers, 1000);
	assert_true(send_all(fd, "here", 4));
	assert_true(WAIT_FOR(atomic_load(&last_len) == 4));
	assert_int_equal(atomic_load(&bad_answers), 0);
	assert_true(atomic_load(&calls) > 1);
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
	close(fd);
	evt_server_stop();
}

/* F14 */
static void without_memory_receiving_pauses_and_goes_on(void **state)
{
	int fd = udp_to(start_server(receive, NULL, 0));
	int64_t begun = now_ms();

	(void)state;
	atomic_store(&bad_error, ENOMEM);
	atomic_store(&bad_answers, 4);
	assert_true(send_all(fd, "here", 4));
	assert_true(WAIT_FOR(atomic_load(&last_len) == 4));
	assert_int_equal(atomic_load(&calls), 5);
	assert_true(now_ms() - begun >= 10 + 20 + 40 + 80);
	assert_true(log_has("pauses: Cannot allocate memory"));
	assert_int_equal(log_lines(EVT_LOG_INFO), 2);
	close(fd);
}

/* F12 */
static void nobody_else_can_bind_the_port_of_a_running_server(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	const int one = 1;
	int port = start_server(answer, NULL, 0);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int client = udp_to(port);

	(void)state;
	in.sin_port = htons((uint16_t)port);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), -1);
	assert_int_equal(errno, EADDRINUSE);
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), -1);
	assert_int_equal(errno, EADDRINUSE);
	assert_true(answers(client, "mine"));
	close(client);
	close(fd);
	evt_server_stop();
}

/* F12, A07 */
static void a_udp_port_in_use_fails_the_start(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	const int one = 1;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(evt_server_init(port_of(fd), SOCK_DGRAM), 0);
	assert_int_equal(evt_server_start(answer, NULL), -1);
	assert_int_equal(errno, EADDRINUSE);
	evt_server_stop();
	close(fd);
}

/* F13 */
static void a_sender_without_a_name_leaves_no_stale_address(void **state)
{
	struct sockaddr_storage peer;
	int size;
	int pair[2];
	char byte;

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_DGRAM), 0);
	size = get_sockaddr_size();
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
	memset(&peer, 0xa5, sizeof(peer));
	assert_true(send_all(pair[0], "x", 1));
	assert_int_equal(
		evt_udp(pair[1], &byte, 1, 0, (struct sockaddr *)&peer), 1);
	assert_int_equal(byte, 'x');
	assert_int_equal(get_sockaddr_size(), size);
	assert_memory_not_equal((char *)&peer + 2, "\xa5\xa5\xa5\xa5", 4);
	assert_int_equal(((unsigned char *)&peer)[size], 0xa5);
	close(pair[0]);
	close(pair[1]);
	evt_server_stop();
}

/* F13: the address of one sender is not the next one's */
static void each_datagram_has_its_own_senders_address(void **state)
{
	struct sockaddr_in6 in6;
	int port = start_server(receive, NULL, 0);
	int i;

	(void)state;
	if (get_sockaddr_size() != sizeof(in6))
		skip();
	for (i = 1; i <= 20; i++) {
		int fd = i % 2 ? udp_to(port) : udp_to_ipv6(port);

		assert_int_not_equal(fd, -1);
		assert_true(send_all(fd, "x", 1));
		assert_true(WAIT_FOR(atomic_load(&calls) == i));
		memcpy(&in6, &last_peer, sizeof(in6));
		assert_int_equal(in6.sin6_family, AF_INET6);
		assert_int_equal(ntohs(in6.sin6_port), port_of(fd));
		assert_int_equal(IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr), i % 2);
		close(fd);
	}
	evt_server_stop();
}

/* F13, B14 */
static void no_more_than_an_address_is_written(void **state)
{
	int fd = udp_to(start_server(receive, NULL, 0));
	const unsigned char *peer = (unsigned char *)&last_peer;
	size_t i;

	(void)state;
	assert_true(send_all(fd, "x", 1));
	assert_true(WAIT_FOR(atomic_load(&calls) == 1));
	for (i = (size_t)get_sockaddr_size(); i < sizeof(last_peer); i++)
		assert_int_equal(peer[i], 0xa5);
	close(fd);
	evt_server_stop();
}

/* A06 */
static void datagrams_of_both_families_are_answered(void **state)
{
	int port = start_server(answer, NULL, 0);
	int v4 = udp_to(port);
	int v6 = udp_to_ipv6(port);

	(void)state;
	if (v6 == -1) {
		close(v4);
		skip();
	}
	assert_true(answers(v4, "IPv4"));
	assert_true(answers(v6, "IPv6"));
	close(v4);
	close(v6);
	evt_server_stop();
}

static bool each_came_once(int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		if (atomic_load(&seen[i]) != 1)
			return false;
	return true;
}

/* The socket itself is dispatched, many times over: more often, by some, than
 * there are datagrams. */
static void workers_receive_each_datagram_exactly_once(void **state)
{
	struct evt_server_ledger ledger;
	int fd = udp_to(
		start_server(dispatch_seven_times, receive_on_worker, 3));
	int i;

	(void)state;
	for (i = 0; i < 200; i++) {
		unsigned char byte = (unsigned char)i;

		assert_true(send_all(fd, &byte, 1));
	}
	assert_true(WAIT_FOR(each_came_once(200)));
	close(fd);
	evt_server_stop();
	assert_true(each_came_once(200));
	assert_true(atomic_load(&again) > 0);
	assert_int_equal(atomic_load(&calls), 200 + atomic_load(&again));
	evt_server_ledger_(&ledger);
	assert_int_equal(ledger.delivered, atomic_load(&calls));
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

static void close_it_and_answer(sockfd_t fd, short evt, void *arg)
{
	evt_close(fd);
	answer(fd, evt, arg);
	evt_close(fd);
}

static void evt_close_leaves_the_udp_socket_alone(void **state)
{
	int fd = udp_to(
		start_server(dispatch_seven_times, close_it_and_answer, 2));
	int i;

	(void)state;
	for (i = 0; i < 20; i++)
		assert_true(answers(fd, "open"));
	close(fd);
	evt_server_stop();
}

static void dispatch_once_blocking(sockfd_t fd, short evt, void *arg)
{
	char byte;

	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	evt_udp(fd, &byte, 1, 0, NULL);
	(void)evt_thread_dispatch(fd, evt, arg);
	(void)evt_thread_dispatch(fd, evt, arg);
}

static void a_worker_that_waits_for_datagrams_is_woken_by_stop(void **state)
{
	int fd = udp_to(
		start_server(dispatch_once_blocking, receive_on_worker, 2));
	int64_t start;

	(void)state;
	evt_server_grace_ms(50);
	assert_true(send_all(fd, "x", 1));
	assert_true(WAIT_FOR(atomic_load(&in_tcb) == 2));
	start = now_ms();
	evt_server_stop();
	assert_in_range(now_ms() - start, 45, 1000 * slowness());
	assert_int_equal(atomic_load(&calls), 2);
	assert_int_equal(atomic_load(&canceled), 2);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 0);
	close(fd);
}

static void block_on_the_listener(sockfd_t fd, short evt, void *arg)
{
	char byte;

	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	evt_udp(fd, &byte, 1, 0, NULL);
	receive_on_worker(fd, evt, arg);
}

/* In a child: one that hangs is ended by its watchdog. */
static void stop_a_waiting_listener(void *arg)
{
	int fd = udp_to(start_server(block_on_the_listener, NULL, 0));

	(void)arg;
	evt_server_grace_ms(50);
	CHECK(send_all(fd, "x", 1));
	CHECK(WAIT_FOR(atomic_load(&in_tcb) == 1));
	evt_server_stop();
	CHECK(atomic_load(&canceled) == 1);
}

static void a_listener_that_waits_for_datagrams_is_woken_by_stop(void **state)
{
	(void)state;
	assert_int_equal(in_child(stop_a_waiting_listener, NULL, 5), 0);
}

/* D09 */
static void the_udp_port_is_free_when_stop_returns(void **state)
{
	int port = start_server(dispatch_seven_times, answer, 2);
	int round;

	(void)state;
	for (round = 0; round < 20; round++) {
		int fd = udp_to(port);

		assert_true(answers(fd, "round"));
		evt_server_stop();
		assert_int_equal(send(fd, "x", 1, 0), 1);
		assert_int_equal(recv(fd, &(char){0}, 1, 0), -1);
		assert_int_equal(errno, ECONNREFUSED);
		close(fd);
		assert_int_equal(evt_server_init(port, SOCK_DGRAM), 0);
		assert_int_equal(
			evt_server_start(dispatch_seven_times, NULL), 0);
		assert_int_equal(evt_server_threads(answer, 2), 2);
	}
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UDP_TEST(an_empty_datagram_has_length_0),
		UDP_TEST(an_empty_datagram_reaches_a_worker),
		UDP_TEST(the_largest_ipv4_datagram_comes_whole),
		UDP_TEST(the_largest_ipv6_datagram_comes_whole),
		UDP_TEST(a_datagram_longer_than_the_buffer_is_cut_and_counted),
		UDP_TEST(a_negative_size_or_no_buffer_is_einval),
		UDP_TEST(size_0_reads_a_datagram_and_throws_it_away),
		UDP_TEST(a_size_of_int_max_is_as_good_as_the_buffer),
		UDP_TEST(an_answer_to_a_closed_port_does_not_disturb_the_next),
		UDP_TEST(an_earlier_answers_error_is_passed_over_and_counted),
		UDP_TEST(errors_without_end_become_eagain_and_the_loop_goes_on),
		UDP_TEST(without_memory_receiving_pauses_and_goes_on),
		UDP_TEST(nobody_else_can_bind_the_port_of_a_running_server),
		UDP_TEST(a_udp_port_in_use_fails_the_start),
		UDP_TEST(a_sender_without_a_name_leaves_no_stale_address),
		UDP_TEST(each_datagram_has_its_own_senders_address),
		UDP_TEST(no_more_than_an_address_is_written),
		UDP_TEST(datagrams_of_both_families_are_answered),
		UDP_TEST(workers_receive_each_datagram_exactly_once),
		UDP_TEST(evt_close_leaves_the_udp_socket_alone),
		UDP_TEST(a_worker_that_waits_for_datagrams_is_woken_by_stop),
		UDP_TEST(a_listener_that_waits_for_datagrams_is_woken_by_stop),
		UDP_TEST(the_udp_port_is_free_when_stop_returns),
	};

	(void)own_network(CLONE_NEWNET);
	return ledger_run("udp", tests);
}
