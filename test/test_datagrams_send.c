/*
 * test_datagrams_send.c: what a program sends: several answers to one datagram,
 * to others, outside of on_datagrams, later; answers that go out joined; calls
 * that are wrong.
 */
#include "udp_rig.h"

static const struct evt_listen_options unlimited = {.amplification = -1};

static char pattern[65536];

/* Several in one callback */

static struct {
	struct sockaddr_storage addr;
	socklen_t len;
} other;

static void name_other(int fd)
{
	other.len = sizeof(other.addr);
	assert_int_equal(
		getsockname(fd, (struct sockaddr *)&other.addr, &other.len), 0);
}

static int send_to_other(
	struct evt_udp_socket *sock, const void *data, size_t len)
{
	return evt_udp_send(
		sock, (struct sockaddr *)&other.addr, other.len, data, len);
}

static void answer_at_large(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int i;

	for (i = 0; i < n; i++) {
		note_result(evt_udp_reply(sock, &batch[i], "one", 3));
		note_result(evt_udp_reply(sock, &batch[i], "two", 3));
		note_result(send_to_other(sock, "news", 4));
		note_result(evt_udp_reply(sock, &batch[i], "", 0));
		note_result(evt_udp_reply(sock, &batch[i], "three", 5));
		note_result(send_to_other(sock, "more", 4));
		note_result(send_to_other(sock, "and more", 8));
		note_result(evt_udp_reply(sock, &batch[i], "four", 4));
	}
	note_datagrams(sock, batch, n, arg);
}

static void answers_and_others_mail_go_out_in_order(void **state)
{
	struct evt_stats stats;
	int fds[2];
	int i;

	(void)state;
	start_udp(ANY_UDP, answer_at_large, &unlimited, 1);
	fds[0] = udp_to(server.port);
	fds[1] = udp_at("127.0.0.1", 0);
	name_other(fds[1]);
	hold(0);
	for (i = 0; i < 20; i++)
		shoot(fds[0], "ask", 3);
	open_gate();
	for (i = 0; i < 20; i++) {
		catches(fds[0], "one", 3);
		catches(fds[0], "two", 3);
		catches(fds[0], "", 0);
		catches(fds[0], "three", 5);
		catches(fds[0], "four", 4);
		catches(fds[1], "news", 4);
		catches(fds[1], "more", 4);
		catches(fds[1], "and more", 8);
	}
	hang_up(fds, 2);
	stats = end_udp();
	assert_int_equal(stats.datagrams_out, 160);
	assert_int_equal(stats.bytes_out, 20 * (3 + 3 + 5 + 4 + 4 + 4 + 8));
	assert_int_equal(atomic_load(&notes.refused), 0);
}

/* Joined answers */

#define ANSWERS 150
#define EACH    1000

/* Three times as much as a batch; all but one of one size. */
static void answer_in_parts(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	static char answers[ANSWERS][EACH];
	int i;

	(void)n, (void)arg;
	for (i = 0; i < ANSWERS; i++) {
		uint32_t number = (uint32_t)i;
		size_t len = i == 77 ? EACH / 2 : EACH;

		fill_pattern(answers[i], (size_t)i, EACH);
		memcpy(answers[i], &number, sizeof(number));
		note_result(evt_udp_reply(sock, &batch[0], answers[i], len));
	}
}

static bool is_answer(const char *bytes, size_t len, int i)
{
	uint32_t number;

	memcpy(&number, bytes, sizeof(number));
	return len == (i == 77 ? EACH / 2 : EACH) && number == (uint32_t)i &&
		is_pattern(bytes + 4, (size_t)i + 4, len - 4);
}

static void start_answering_in_parts(const char *url)
{
	start_udp(url, answer_in_parts, &unlimited, 1);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
}

static int client_with_room(const char *ip)
{
	const int room = 1 << 20;
	int fd = udp_to_ip(ip, server.port);

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	return fd;
}

static void expect_parts(const char *ip)
{
	int fd = client_with_room(ip);
	char bytes[2 * EACH];
	int i;

	shoot(fd, "ask", 3);
	for (i = 0; i < ANSWERS; i++) {
		ssize_t got = recv(fd, bytes, sizeof(bytes), 0);

		assert_true(got > 4 && is_answer(bytes, (size_t)got, i));
	}
	close(fd);
}

static void answers_of_one_size_arrive_apart(void **state)
{
	(void)state;
	start_answering_in_parts("udp://:0");
	expect_parts("127.0.0.1");
	expect_parts("127.0.0.2");
	expect_parts("::1");
	assert_int_equal(end_udp().datagrams_out, 3 * ANSWERS);
	start_answering_in_parts(ANY_UDP);
	expect_parts("127.0.0.1");
	assert_int_equal(atomic_load(&notes.refused), 0);
	end_udp();
}

/* How long each part is, by the control data. */
static size_t part_len(struct msghdr *msg, size_t all)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
	int each;

	for (; cmsg; cmsg = CMSG_NXTHDR(msg, cmsg))
		if (cmsg->cmsg_level == IPPROTO_UDP &&
			cmsg->cmsg_type == UDP_GRO) {
			memcpy(&each, CMSG_DATA(cmsg), sizeof(each));
			return (size_t)each;
		}
	return all;
}

/* Receives a message: how many answers it was, the first of them from. */
static int catch_joined(int fd, int from)
{
	static char bytes[65536];
	_Alignas(struct cmsghdr) char control[64];
	struct iovec part = {bytes, sizeof(bytes)};
	struct msghdr msg = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(fd, &msg, 0);
	size_t each;
	size_t at;
	int nr = 0;

	assert_true(got > 4);
	each = part_len(&msg, (size_t)got);
	for (at = 0; at < (size_t)got; at += each, nr++) {
		size_t left = (size_t)got - at;

		assert_true(is_answer(
			bytes + at, left < each ? left : each, from + nr));
	}
	return nr;
}

static void a_client_may_have_them_joined(void **state)
{
	const int on = 1;
	int i = 0;
	int fd;

	(void)state;
	start_answering_in_parts("udp://:0");
	fd = client_with_room("127.0.0.1");
	if (setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on)) == -1) {
		close(fd);
		skip();
	}
	shoot(fd, "ask", 3);
	while (i < ANSWERS)
		i += catch_joined(fd, i);
	assert_int_equal(i, ANSWERS);
	close(fd);
	end_udp();
}

static void peers_whose_datagrams_alternate_get_each_its_own(void **state)
{
	int fds[3];
	int i;

	(void)state;
	start_udp("udp://:0", echo_datagrams, NULL, 1);
	fds[0] = udp_to(server.port);
	fds[1] = udp_to_ip("::1", server.port);
	fds[2] = udp_to_ip("127.0.0.2", server.port);
	hold(0);
	for (i = 0; i < 240; i++)
		shoot_number(fds[i / 2 % 3], (uint32_t)i);
	open_gate();
	for (i = 0; i < 240; i++)
		catches_number(fds[i / 2 % 3], (uint32_t)i);
	hang_up(fds, 3);
	assert_int_equal(end_udp().datagrams_out, 240);
}

/* Outside of on_datagrams */

static void send_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(server.listener, worker);
	char text[] = "later";

	(void)arg;
	note_result(send_to_other(sock, text, 5));
	memset(text, 'x', sizeof(text)); /* it is sent at once */
	note_result(send_to_other(sock, "", 0));
}

static void a_task_may_send(void **state)
{
	int fd;

	(void)state;
	start_udp("udp://:0", note_datagrams, &unlimited, 2);
	fd = udp_to(server.port);
	name_other(fd);
	assert_true(on_worker(1, send_task, NULL));
	assert_int_equal(atomic_load(&notes.refused), 0);
	catches(fd, "later", 5);
	catches(fd, "", 0);
	close(fd);
	assert_int_equal(end_udp().datagrams_out, 2);
}

/* Answers it as if it were of an earlier batch, and then sends as much. */
static void answer_kept_and_send(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	struct evt_datagram kept = batch[0];
	struct sockaddr_storage sender;

	(void)n, (void)arg;
	memcpy(&sender, batch[0].sender, batch[0].sender_len);
	kept.sender = (struct sockaddr *)&sender;
	note_result(evt_udp_reply(sock, &kept, "reply", 5));
	note_result(evt_udp_send(
		sock, (struct sockaddr *)&sender, kept.sender_len, "sent!", 5));
	note_datagrams(sock, batch, n, arg);
}

static void catches_from(int fd, const char *text, const char *ip)
{
	struct sockaddr_in in = {0};
	socklen_t len = sizeof(in);
	char bytes[8];

	assert_int_equal(recvfrom(fd, bytes, sizeof(bytes), 0,
				 (struct sockaddr *)&in, &len),
		strlen(text));
	assert_memory_equal(bytes, text, strlen(text));
	assert_int_equal(in.sin_addr.s_addr, inet_addr(ip));
}

/* F09: what has no address to leave from does not join what has. */
static void what_is_sent_leaves_from_its_own_address(void **state)
{
	socklen_t len;
	struct sockaddr_storage addr;
	int fd;

	(void)state;
	start_udp("udp://0.0.0.0:0", answer_kept_and_send, &unlimited, 1);
	fd = udp_at("127.0.0.1", 0);
	addr = addr_of("127.0.0.2", server.port, &len);
	assert_int_equal(
		sendto(fd, "hello", 5, 0, (struct sockaddr *)&addr, len), 5);
	catches_from(fd, "reply", "127.0.0.2");
	catches_from(fd, "sent!", "127.0.0.1");
	close(fd);
	end_udp();
}

/* What a program keeps of a datagram, with the room it has for addresses. */
static void answer_kept_task(struct evt_worker *worker, void *arg)
{
	struct note note = noted(0);
	struct evt_datagram kept = {.sender = (struct sockaddr *)&note.sender,
		.local = (struct sockaddr *)&note.local,
		.sender_len = *(socklen_t *)arg ? *(socklen_t *)arg
						: note.sender_len,
		.local_len = note.local_len};

	note_result(evt_udp_reply(
		evt_listener_udp(server.listener, worker), &kept, "now", 3));
}

/* F09 */
static void a_kept_datagram_is_answered_later(void **state)
{
	static const char *const ips[] = {"127.0.0.2", "::1", "127.0.0.1"};
	socklen_t lens[] = {0, sizeof(struct sockaddr_storage)};
	size_t i;
	int fd;

	(void)state;
	start_udp("udp://:0", note_datagrams, &unlimited, 1);
	for (i = 0; i < 2 * COUNT(ips); i++) {
		forget_notes();
		fd = udp_to_ip(ips[i / 2], server.port);
		shoot(fd, "when?", 5);
		assert_true(WAIT_FOR(nr_noted() == 1));
		assert_true(on_worker(0, answer_kept_task, &lens[i % 2]));
		assert_int_equal(atomic_load(&notes.refused), 0);
		catches(fd, "now", 3);
		close(fd);
	}
	end_udp();
}

/* In the callback of the next datagram, where answers are gathered. */
static void answer_the_one_before(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	static struct note before;
	struct note note;
	int i;

	(void)arg;
	for (i = 0; i < n; i++) {
		const struct evt_datagram kept = {
			.sender = (struct sockaddr *)&before.sender,
			.local = (struct sockaddr *)&before.local,
			.sender_len = sizeof(before.sender),
			.local_len = sizeof(before.local)};

		if (batch[i].len == 5)
			note_result(evt_udp_reply(sock, &kept, "now", 3));
		note_one(&note, &batch[i]);
		before = note;
	}
	note_datagrams(sock, batch, n, arg);
}

static void the_one_before_may_be_answered_in_a_batch(void **state)
{
	int fd;
	int i;

	(void)state;
	start_udp("udp://:0", answer_the_one_before, &unlimited, 1);
	fd = udp_to_ip("127.0.0.2", server.port);
	hold(0);
	shoot(fd, "first", 1);
	for (i = 0; i < EVT_UDP_BATCH; i++)
		shoot(fd, "after", 5);
	open_gate();
	for (i = 0; i < EVT_UDP_BATCH; i++)
		catches(fd, "now", 3);
	assert_int_equal(atomic_load(&notes.refused), 0);
	close(fd);
	end_udp();
}

/* Wrong calls */

#define REFUSED(call, error)             \
	do {                             \
		errno = 0;               \
		CHECK((call) == -1);     \
		CHECK(errno == (error)); \
	} while (0)

static void wrong_calls_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(server.listener, worker);
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_port = htons(9)};
	struct sockaddr un = {.sa_family = AF_UNIX};
	struct evt_datagram datagram = {.sender = (struct sockaddr *)&in};
	const struct sockaddr *to = (struct sockaddr *)&in;
	sa_family_t *two_bytes = malloc(sizeof(*two_bytes));

	(void)arg;
	inet_pton(AF_INET, "127.0.0.1", &in.sin_addr);
	*two_bytes = AF_INET;
	REFUSED(evt_udp_validated(NULL, to), EINVAL);
	REFUSED(evt_udp_validated(sock, NULL), EINVAL);
	REFUSED(evt_udp_validated(sock, &un), EINVAL);
	CHECK(evt_udp_validated(sock, to) == 0);
	REFUSED(evt_udp_send(NULL, to, sizeof(in), "x", 1), EINVAL);
	REFUSED(evt_udp_send(sock, NULL, 0, "x", 1), EINVAL);
	REFUSED(evt_udp_send(sock, to, 0, "x", 1), EINVAL);
	REFUSED(evt_udp_send(sock, (void *)two_bytes, 2, "x", 1), EINVAL);
	REFUSED(evt_udp_send(sock, to, sizeof(in), "x", 1), EINVAL); /* port */
	in.sin_port = htons(9);
	REFUSED(evt_udp_send(sock, to, sizeof(in), NULL, 1), EINVAL);
	REFUSED(evt_udp_send(sock, &un, 2, "x", 1), EAFNOSUPPORT);
	REFUSED(evt_udp_send(sock, (void *)&in6, sizeof(in6), "x", 1),
		EAFNOSUPPORT);
	REFUSED(evt_udp_reply(NULL, &datagram, "x", 1), EINVAL);
	REFUSED(evt_udp_reply(sock, NULL, "x", 1), EINVAL);
	REFUSED(evt_udp_reply(sock, &datagram, "x", 1), EDESTADDRREQ);
	datagram.sender = NULL;
	datagram.sender_len = 16;
	REFUSED(evt_udp_reply(sock, &datagram, "x", 1), EDESTADDRREQ);
	free(two_bytes);
}

static void wrong_calls_are_refused(void **state)
{
	static const struct evt_listen_options limits[] = {
		{.amplification = -1}, {.amplification = 3}};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(limits); i++) {
		start_udp(ANY_UDP, echo_datagrams, &limits[i], 1);
		assert_true(on_worker(0, wrong_calls_task, NULL));
		assert_int_equal(end_udp().datagrams_out, 0);
	}
}

static void elsewhere_task(struct evt_worker *worker, void *arg)
{
	struct sockaddr *to = (struct sockaddr *)&other.addr;
	struct evt_datagram datagram = {.sender = to, .sender_len = other.len};

	(void)worker;
	REFUSED(evt_udp_send(arg, to, other.len, "x", 1), EINVAL);
	REFUSED(evt_udp_reply(arg, &datagram, "x", 1), EINVAL);
	REFUSED(evt_udp_validated(arg, to), EINVAL);
}

static void a_socket_is_used_on_its_worker_alone(void **state)
{
	(void)state;
	make_udp(ANY_UDP, echo_datagrams, &unlimited, 2);
	other.addr = addr_of("127.0.0.1", 9, &other.len);
	elsewhere_task(NULL, socket_of(0));
	run_pool();
	elsewhere_task(NULL, socket_of(0));
	assert_true(on_worker(1, elsewhere_task, socket_of(0)));
	assert_ptr_not_equal(socket_of(0), socket_of(1));
	end_udp();
}

static void which_socket_is_refused(void **state)
{
	struct evt_pool *another = evt_pool_new(NULL);

	(void)state;
	make_udp(ANY_UDP, echo_datagrams, NULL, 2);
	assert_null(evt_listener_udp(NULL, evt_pool_worker(server.pool, 0)));
	assert_int_equal(errno, EINVAL);
	assert_null(evt_listener_udp(server.listener, NULL));
	assert_int_equal(errno, EINVAL);
	assert_null(
		evt_listener_udp(server.listener, evt_pool_worker(another, 0)));
	assert_int_equal(errno, EINVAL);
	evt_pool_free(another);
	stop_server();
}

static void closed_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(server.listener, worker);
	struct sockaddr *to = (struct sockaddr *)&other.addr;
	struct evt_datagram datagram = {.sender = to, .sender_len = other.len};

	(void)arg;
	CHECK(sock);
	REFUSED(evt_udp_send(sock, to, other.len, "x", 1), ENOTCONN);
	REFUSED(evt_udp_reply(sock, &datagram, "x", 1), ENOTCONN);
}

static void a_closed_socket_sends_nothing(void **state)
{
	int fd;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, &unlimited, 1);
	fd = udp_to(server.port);
	exchanges(fd, "open");
	name_other(fd);
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(is_shut(0)));
	assert_true(on_worker(0, closed_task, NULL));
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	assert_int_equal(send(fd, "closed", 6, 0), 6);
	assert_int_equal(recv(fd, pattern, 6, 0), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(fd);
	end_udp();
}

static void call_as_child(void *arg)
{
	struct sockaddr *to = (struct sockaddr *)&other.addr;

	REFUSED(evt_udp_send(arg, to, other.len, "x", 1), EPERM);
	REFUSED(evt_udp_validated(arg, to), EPERM);
	CHECK(!socket_of(0) && errno == EPERM);
}

static void a_forked_child_is_refused(void **state)
{
	int fd;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, &unlimited, 1);
	fd = udp_to(server.port);
	name_other(fd);
	assert_int_equal(in_child(call_as_child, socket_of(0), 10), 0);
	assert_true(has_caught_nothing(fd));
	exchanges(fd, "served as before");
	close(fd);
	end_udp();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UDP_TEST(answers_and_others_mail_go_out_in_order),
		UDP_TEST(answers_of_one_size_arrive_apart),
		UDP_TEST(a_client_may_have_them_joined),
		UDP_TEST(peers_whose_datagrams_alternate_get_each_its_own),
		UDP_TEST(a_task_may_send),
		UDP_TEST(what_is_sent_leaves_from_its_own_address),
		UDP_TEST(a_kept_datagram_is_answered_later),
		UDP_TEST(the_one_before_may_be_answered_in_a_batch),
		UDP_TEST(wrong_calls_are_refused),
		UDP_TEST(a_socket_is_used_on_its_worker_alone),
		UDP_TEST(which_socket_is_refused),
		UDP_TEST(a_closed_socket_sends_nothing),
		UDP_TEST(a_forked_child_is_refused),
	};

	fill_pattern(pattern, 0, sizeof(pattern));
	return ledger_run("datagrams_send", tests);
}
