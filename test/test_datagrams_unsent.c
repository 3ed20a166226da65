/*
 * test_datagrams_unsent.c: datagrams that the kernel does not take: there is no
 * room, at once, later or at a second try, they fail, they cannot go joined or
 * from where they should.
 */
/* wrap: sendmmsg sendmsg epoll_ctl */
#include "inject.h"
#include "udp_rig.h"
#include "../evt-log-internal.h"

#include <sys/epoll.h>

int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned nr, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
int __real_epoll_ctl(int poll_fd, int what, int fd, struct epoll_event *event);

static struct inject on_sendmmsg, on_sendmsg, on_room;

static atomic_int at_a_time; /* messages that sendmmsg takes; 0: all */

/* What is refused with an error as long as it is there, and how often. */
static struct {
	atomic_int level; /* of the control data */
	atomic_int error;
	atomic_int nr;
} refused_control;

static bool is_refused(const struct msghdr *msg)
{
	const struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
	int level = atomic_load(&refused_control.level);

	for (; cmsg && level >= 0; cmsg = CMSG_NXTHDR((struct msghdr *)msg,
					   (struct cmsghdr *)cmsg))
		if (cmsg->cmsg_level == level) {
			atomic_fetch_add(&refused_control.nr, 1);
			errno = atomic_load(&refused_control.error);
			return true;
		}
	return false;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned nr, int flags)
{
	unsigned most = (unsigned)atomic_load(&at_a_time);
	unsigned i;

	if (injected(&on_sendmmsg))
		return -1;
	for (i = 0; i < nr && !is_refused(&messages[i].msg_hdr); i++)
		;
	if (i == 0)
		return -1;
	return __real_sendmmsg(
		fd, messages, most > 0 && i > most ? most : i, flags);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	if (injected(&on_sendmsg) || is_refused(msg))
		return -1;
	return __real_sendmsg(fd, msg, flags);
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
	if (what == EPOLL_CTL_MOD && is_of_datagrams(fd) && injected(&on_room))
		return -1;
	return __real_epoll_ctl(poll_fd, what, fd, event);
}

static void end_injections(void)
{
	end_injection(&on_sendmmsg);
	end_injection(&on_sendmsg);
	end_injection(&on_room);
	atomic_store(&at_a_time, 0);
	atomic_store(&refused_control.level, -1);
	atomic_store(&refused_control.nr, 0);
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

static const struct evt_listen_options usual = {.amplification = -1};

static int start(on_datagrams_fn fn)
{
	end_injections();
	start_udp(ANY_UDP, fn, &usual, 1);
	return udp_to(server.port);
}

/* Sending, where there is no room */

#define ASKED 100
#define MANY  3000 /* more than 16 batches, and they all may wait */

/* That many come together, and are answered in one callback or two. */
static void ask(int fd)
{
	int i;

	hold(0);
	for (i = 0; i < ASKED; i++)
		shoot_number(fd, (uint32_t)i);
	open_gate();
}

static void expect_answers(int fd)
{
	int i;

	for (i = 0; i < ASKED; i++)
		catches_number(fd, (uint32_t)i);
	settle(0);
	assert_true(has_caught_nothing(fd));
	close(fd);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	assert_int_equal(atomic_load(&notes.refused), 0);
	assert_int_equal(server_stats().datagrams_out, ASKED);
	assert_int_equal(end_udp().sends_failed, 0);
}

/* F10 */
static void what_the_kernel_takes_in_pieces_arrives_in_order(void **state)
{
	static const int most[] = {1, 2, 63};
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(most); i++) {
		fd = start(echo_datagrams);
		atomic_store(&at_a_time, most[i]);
		ask(fd);
		expect_answers(fd);
	}
}

/* F10 */
static void what_finds_no_room_waits_and_none_is_lost(void **state)
{
	static const int skips[] = {0, 1, 3};
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(skips); i++) {
		fd = start(echo_datagrams);
		atomic_store(&refused_control.error, EINVAL);
		atomic_store(&refused_control.level, IPPROTO_UDP);
		atomic_store(&at_a_time, 5);
		inject(&on_sendmmsg, EAGAIN, skips[i], 4);
		inject(&on_room, 0, 0, 0);
		ask(fd);
		expect_answers(fd);
		/* Told when there is room, and no more afterwards. */
		assert_in_range(atomic_load(&on_room.calls), 2, 8);
	}
}

/* F10: an error first, and when it is tried again there is no room. */
static void neither_is_what_finds_none_at_the_second_try(void **state)
{
	static const int errors[] = {ECONNREFUSED, EINVAL, EIO};
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < 2 * COUNT(errors); i++) {
		fd = start(echo_datagrams);
		inject(&on_sendmmsg, errors[i / 2], 0, 1);
		inject(&on_sendmsg, EAGAIN, i % 2 ? 7 : 0, 1);
		ask(fd);
		expect_answers(fd);
	}
}

/* F10: waiting for room fails too. */
static void without_memory_to_wait_for_room_it_is_tried_later(void **state)
{
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	inject(&on_sendmmsg, EAGAIN, 0, 1);
	inject(&on_room, ENOMEM, 0, 1);
	ask(fd);
	expect_answers(fd);
}

static struct sockaddr_storage mail_addr;
static socklen_t mail_len;

static void mail_task(struct evt_worker *worker, void *arg)
{
	uint32_t i;

	(void)arg;
	for (i = 0; i < ASKED; i++) {
		note_result(
			evt_udp_send(evt_listener_udp(server.listener, worker),
				(struct sockaddr *)&mail_addr, mail_len, &i,
				sizeof(i)));
	}
}

/* F10: copied, since the caller's bytes are gone. */
static void what_is_sent_at_once_waits_too(void **state)
{
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	mail_len = sizeof(mail_addr);
	getsockname(fd, (struct sockaddr *)&mail_addr, &mail_len);
	inject(&on_sendmsg, EAGAIN, 3, 1);
	assert_true(on_worker(0, mail_task, NULL));
	expect_answers(fd);
}

static int mail(struct evt_worker *worker, uint32_t number)
{
	return evt_udp_send(evt_listener_udp(server.listener, worker),
		(struct sockaddr *)&mail_addr, mail_len, &number,
		sizeof(number));
}

/* The first has nobody before it, the last is behind the one that waits. */
static void mail_without_memory_task(struct evt_worker *worker, void *arg)
{
	(void)arg;
	fail_allocation(1, false);
	CHECK(mail(worker, 7) == -1 && errno == ENOMEM);
	CHECK(mail(worker, 0) == 0);
	fail_allocation(1, false);
	CHECK(mail(worker, 8) == -1 && errno == ENOMEM);
	CHECK(mail(worker, 1) == 0);
}

/* C16 */
static void without_memory_to_wait_the_sender_is_told(void **state)
{
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	mail_len = sizeof(mail_addr);
	getsockname(fd, (struct sockaddr *)&mail_addr, &mail_len);
	inject(&on_sendmsg, EAGAIN, 0, 2);
	assert_true(on_worker(0, mail_without_memory_task, NULL));
	catches_number(fd, 0);
	catches_number(fd, 1);
	close(fd);
	end_udp();
}

#define WAITS_AT_MOST 10000

static atomic_int nr_taken;

/* Two hundred of two hundred bytes, while there is no room at all. */
static void answer_beyond_the_limit(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	static char answers[200][200];
	uint32_t i;

	if (batch[0].len == 1) {
		echo_datagrams(sock, batch, n, arg);
		return;
	}
	for (i = 0; i < 200; i++) {
		uint32_t number = (uint32_t)atomic_load(&nr_taken);
		int result;

		memcpy(answers[i], &number, sizeof(number));
		result = evt_udp_reply(sock, batch, answers[i], 200);
		note_result(result);
		atomic_fetch_add(&nr_taken, result == 0);
	}
	end_injection(&on_sendmmsg);
}

/* F10 */
static void no_more_waits_than_max_output(void **state)
{
	const struct evt_listen_options options = {
		.amplification = -1, .max_output = WAITS_AT_MOST};
	char answer[200];
	int fd;
	int i;

	(void)state;
	start_udp(ANY_UDP, answer_beyond_the_limit, &options, 1);
	fd = udp_to(server.port);
	atomic_store(&nr_taken, 0);
	inject(&on_sendmmsg, EAGAIN, 0, FOR_EVER);
	shoot(fd, "ask", 3);
	assert_true(WAIT_FOR(server_stats().datagrams_out > 0));
	settle(0);
	assert_int_equal(atomic_load(&notes.error), EAGAIN);
	assert_int_equal(
		atomic_load(&notes.refused) + atomic_load(&nr_taken), 200);
	assert_in_range(atomic_load(&nr_taken), 1, WAITS_AT_MOST / 200);
	for (i = 0; i < atomic_load(&nr_taken); i++) {
		assert_int_equal(recv(fd, answer, sizeof(answer), 0), 200);
		assert_memory_equal(answer, &i, sizeof(i));
	}
	exchanges(fd, "x");
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	close(fd);
	assert_int_equal(end_udp().sends_failed, 0);
}

/* F10 */
static void what_waits_when_it_is_closed_is_counted(void **state)
{
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	inject(&on_sendmmsg, EAGAIN, 0, FOR_EVER);
	shoot(fd, "not answered", 12);
	assert_true(WAIT_FOR(atomic_load(&on_sendmmsg.calls) > 0));
	assert_int_equal(end_udp().sends_failed, 1);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_true(log_has("1 datagrams that waited"));
	assert_true(has_caught_nothing(fd));
	close(fd);
}

/* F10 F11: however many they are. */
static void what_waits_when_it_is_closed_goes_out_if_it_can(void **state)
{
	struct evt_stats stats;
	uint32_t i;
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	inject(&on_sendmmsg, EAGAIN, 0, FOR_EVER);
	for (i = 0; i < MANY; i++) {
		shoot_number(fd, i);
		if (i % 64 == 63)
			settle(0);
	}
	assert_true(WAIT_FOR(nr_noted() == MANY));
	hold(0);
	end_injection(&on_sendmmsg);
	evt_pool_stop(server.pool);
	stats = end_udp();
	assert_int_equal(stats.datagrams_out, MANY);
	assert_int_equal(stats.sends_failed, 0);
	close(fd);
}

/* Sending, and it fails */

/* The second of ten answers fails. */
static void expect_one_failure(int error)
{
	uint32_t i;
	int fd;

	fd = start(echo_datagrams);
	hold(0);
	for (i = 0; i < 10; i++)
		shoot(fd, "0123456789", i + 1); /* so that none are joined */
	atomic_store(&at_a_time, 1);
	inject(&on_sendmmsg, error, 1, 1);
	inject(&on_sendmsg, error, 0, 1);
	open_gate();
	for (i = 0; i < 10; i++)
		if (i != 1)
			catches(fd, "0123456789", i + 1);
	EXPECT(error, WAIT_FOR(server_stats().datagrams_out == 9));
	EXPECT(error, log_lines(EVT_LOG_DEBUG) == 1);
	EXPECT(error, log_has(strerror(error)));
	EXPECT(error, atomic_load(&notes.refused) == 0);
	close(fd);
	EXPECT(error, end_udp().sends_failed == 1);
}

/* F10 */
static void a_failed_answer_is_counted_and_the_others_go_out(void **state)
{
	static const int errors[] = {ENOBUFS, EPERM, ENETUNREACH, EHOSTUNREACH,
		ENOMEM, EACCES, ENETDOWN};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(errors); i++)
		expect_one_failure(errors[i]);
}

/* F10 */
static void when_all_fail_there_are_few_lines(void **state)
{
	int fd;
	int i;

	(void)state;
	fd = start(echo_datagrams);
	inject(&on_sendmmsg, EPERM, 0, FOR_EVER);
	for (i = 0; i < 50; i++)
		shoot(fd, "0123456789", (size_t)(i % 2 + 1));
	assert_true(WAIT_FOR(server_stats().sends_failed == 50));
	assert_in_range(log_lines(EVT_LOG_DEBUG), 1, 16); /* 8 a second */
	end_injection(&on_sendmmsg);
	exchanges(fd, "goes on");
	close(fd);
	end_udp();
}

/* F05 F10: the error was of an earlier answer. */
static void an_error_that_was_of_another_does_no_harm(void **state)
{
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	inject(&on_sendmmsg, ECONNREFUSED, 0, 3);
	ask(fd);
	expect_answers(fd);
}

/* F10 */
static void what_cannot_go_joined_goes_apart_from_then_on(void **state)
{
	static const int errors[] = {EINVAL, EIO, EMSGSIZE, EOPNOTSUPP};
	int joined;
	uint32_t j;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(errors); i++) {
		fd = start(echo_datagrams);
		atomic_store(&refused_control.error, errors[i]);
		atomic_store(&refused_control.level, IPPROTO_UDP);
		ask(fd);
		for (j = 0; j < ASKED; j++)
			catches_number(fd, j);
		joined = atomic_load(&refused_control.nr);
		exchanges(fd, "apart");
		EXPECT(errors[i], joined <= 3);
		EXPECT(errors[i], atomic_load(&refused_control.nr) == joined);
		close(fd);
		EXPECT(errors[i], end_udp().sends_failed == 0);
		EXPECT(errors[i], log_lines(EVT_LOG_DEBUG) == 0);
	}
}

/* F10: the fewest that can be joined. */
static void two_that_cannot_go_joined_go_apart(void **state)
{
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	atomic_store(&refused_control.error, EIO);
	atomic_store(&refused_control.level, IPPROTO_UDP);
	hold(0);
	shoot(fd, "one", 3);
	shoot(fd, "two", 3);
	open_gate();
	catches(fd, "one", 3);
	catches(fd, "two", 3);
	assert_int_equal(atomic_load(&refused_control.nr), 1);
	close(fd);
	assert_int_equal(end_udp().sends_failed, 0);
}

/* F09 F10: as for a broadcast's address, which is not ours. */
static void what_cannot_leave_from_there_leaves_from_elsewhere(void **state)
{
	static const int errors[] = {EINVAL, ENETUNREACH, EADDRNOTAVAIL};
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(errors); i++) {
		end_injections();
		start_udp("udp://:0", echo_datagrams, &usual, 1);
		fd = udp_to(server.port);
		atomic_store(&refused_control.error, errors[i]);
		atomic_store(&refused_control.level, IPPROTO_IPV6);
		ask(fd);
		WAIT_FOR(server_stats().datagrams_out == ASKED);
		settle(0);
		/* It was not for being joined. */
		assert_true(server.listener->udp[0]->joins_below == SIZE_MAX);
		expect_answers(fd);
		assert_true(atomic_load(&refused_control.nr) > 0);
	}
}

/* F10: the path of one client is not that of all, for ever. */
static void after_a_while_they_go_joined_again(void **state)
{
	int joined;
	uint32_t j;
	int fd;

	(void)state;
	fd = start(echo_datagrams);
	atomic_store(&refused_control.error, EMSGSIZE);
	atomic_store(&refused_control.level, IPPROTO_UDP);
	ask(fd);
	for (j = 0; j < ASKED; j++)
		catches_number(fd, j);
	settle(0);
	assert_int_equal(server.listener->udp[0]->joins_below, sizeof(j));
	joined = atomic_load(&refused_control.nr);
	server.listener->udp[0]->joins_again_ms = evt_now_ms_();
	atomic_store(&refused_control.error, EPERM); /* joined, it is lost */
	shut_gate();
	ask(fd);
	assert_true(WAIT_FOR(server_stats().sends_failed > 0));
	assert_true(atomic_load(&refused_control.nr) > joined);
	settle(0);
	atomic_store(&refused_control.level, -1);
	close(fd);
	end_udp();
}

/* C16: no memory to keep what finds no room. */
static void without_memory_one_answer_is_lost_and_counted(void **state)
{
	int fd;
	int i;

	(void)state;
	fd = start(echo_datagrams);
	hold(0);
	for (i = 0; i < 10; i++)
		shoot_number(fd, (uint32_t)i);
	inject(&on_sendmmsg, EAGAIN, 0, 1);
	fail_allocation(3, false);
	open_gate();
	for (i = 0; i < 10; i++)
		if (i != 2)
			catches_number(fd, (uint32_t)i);
	assert_true(fault_reached());
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	close(fd);
	assert_int_equal(end_udp().sends_failed, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(what_the_kernel_takes_in_pieces_arrives_in_order),
		FAULT_TEST(what_finds_no_room_waits_and_none_is_lost),
		FAULT_TEST(neither_is_what_finds_none_at_the_second_try),
		FAULT_TEST(without_memory_to_wait_for_room_it_is_tried_later),
		FAULT_TEST(what_is_sent_at_once_waits_too),
		FAULT_TEST(without_memory_to_wait_the_sender_is_told),
		FAULT_TEST(no_more_waits_than_max_output),
		FAULT_TEST(what_waits_when_it_is_closed_is_counted),
		FAULT_TEST(what_waits_when_it_is_closed_goes_out_if_it_can),
		FAULT_TEST(a_failed_answer_is_counted_and_the_others_go_out),
		FAULT_TEST(when_all_fail_there_are_few_lines),
		FAULT_TEST(an_error_that_was_of_another_does_no_harm),
		FAULT_TEST(two_that_cannot_go_joined_go_apart),
		FAULT_TEST(what_cannot_go_joined_goes_apart_from_then_on),
		FAULT_TEST(what_cannot_leave_from_there_leaves_from_elsewhere),
		FAULT_TEST(after_a_while_they_go_joined_again),
		FAULT_TEST(without_memory_one_answer_is_lost_and_counted),
	};

	end_injections();
	return ledger_run("datagrams_unsent", tests);
}
