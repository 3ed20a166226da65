/*
 * test_datagrams_guard.c: what a forged sender can do: have somebody else sent
 * a little, at most; senders that were validated, by what they show or by
 * a token; senders that cannot be, and those that would be ourselves.
 */
/* wrap: clock_gettime */
#include "udp_rig.h"

#include <time.h>

int __real_clock_gettime(clockid_t clock, struct timespec *now);

static atomic_int minutes_later;

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = __real_clock_gettime(clock, now);

	now->tv_sec += (time_t)atomic_load(&minutes_later) * 60;
	return result;
}

static int close_test(void **state)
{
	atomic_store(&minutes_later, 0);
	return udp_close(state);
}

#define GUARD_TEST(fn)                                        \
	{                                                     \
#fn, fn, ledger_open, close_test, (void *)#fn \
	}

/* How much is answered */

#define REPLIES 8

static char pattern[65536];

/* The next datagram is answered by so many, so long; -1: nothing more. */
static struct {
	atomic_int lens[REPLIES];
	atomic_int errors[REPLIES]; /* 0: taken */
	atomic_int calls;
} wanted;

static void answer_as_wanted(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int i;

	note_datagrams(sock, batch, n, arg);
	for (i = 0; i < REPLIES && atomic_load(&wanted.lens[i]) >= 0; i++) {
		int result = evt_udp_reply(sock, batch, pattern,
			(size_t)atomic_load(&wanted.lens[i]));

		atomic_store(&wanted.errors[i], result == 0 ? 0 : errno);
	}
	atomic_fetch_add(&wanted.calls, 1);
}

/* Lengths up to a -1; above 1,000,000 those that are refused. */
#define TOO_LONG(len) (1000000 + (len))

static void expect_answers(int fd, size_t asked, const int lens[REPLIES + 1])
{
	uint64_t refused = server_stats().answers_refused;
	int calls = atomic_load(&wanted.calls);
	int i;

	for (i = 0; i < REPLIES; i++)
		atomic_store(&wanted.lens[i], lens[i] % 1000000);
	shoot(fd, pattern, asked);
	assert_true(WAIT_FOR(atomic_load(&wanted.calls) == calls + 1));
	for (i = 0; i < REPLIES && lens[i] != -1; i++) {
		bool good = lens[i] < 1000000;

		assert_int_equal(
			atomic_load(&wanted.errors[i]), good ? 0 : EPERM);
		refused += !good;
		if (good)
			catches(fd, pattern, (size_t)lens[i]);
	}
	settle(0);
	assert_true(has_caught_nothing(fd));
	assert_int_equal(server_stats().answers_refused, refused);
}

static const int up_to_30[][REPLIES + 1] = {{30, -1}, {TOO_LONG(31), -1},
	{10, 10, 10, TOO_LONG(1), 0, -1}, {29, TOO_LONG(2), 1, TOO_LONG(1), -1},
	{TOO_LONG(1000), 30, -1}, {0, 0, 0, 0, 0, -1}};

static void expect_limit_of_30(int fd, size_t asked)
{
	size_t i;

	for (i = 0; i < COUNT(up_to_30); i++)
		expect_answers(fd, asked, up_to_30[i]);
}

/* F06 */
static void a_stranger_gets_three_times_what_he_sent(void **state)
{
	int fd;

	(void)state;
	start_udp("udp://:0", answer_as_wanted, NULL, 1);
	fd = udp_to(server.port);
	expect_limit_of_30(fd, 10);
	expect_answers(fd, 0, (const int[REPLIES + 1]){0, TOO_LONG(1), -1});
	expect_answers(fd, 10, (const int[REPLIES + 1]){TOO_LONG(1024), -1});
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	close(fd);
	end_udp();
}

/* F06 */
static void the_limit_is_an_option(void **state)
{
	static const int limits[] = {1, 2, 10, 30};
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(limits); i++) {
		const struct evt_listen_options options = {
			.amplification = limits[i]};

		start_udp(ANY_UDP, answer_as_wanted, &options, 1);
		fd = udp_to(server.port);
		expect_limit_of_30(fd, (size_t)(30 / limits[i]));
		close(fd);
		end_udp();
	}
}

/* F06 */
static void without_a_limit_all_is_answered(void **state)
{
	const struct evt_listen_options options = {.amplification = -1};
	int fd;

	(void)state;
	start_udp(ANY_UDP, answer_as_wanted, &options, 1);
	fd = udp_to(server.port);
	expect_answers(fd, 1, (const int[REPLIES + 1]){LONGEST, 1000, -1});
	expect_answers(fd, 0, (const int[REPLIES + 1]){LONGEST, -1});
	close(fd);
	end_udp();
}

/* Each datagram of a batch has a limit of its own. */
static void answer_three_times(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int i;

	for (i = 0; i < n; i++) {
		note_result(evt_udp_reply(
			sock, &batch[i], pattern, 3 * batch[i].len));
		note_result(evt_udp_reply(sock, &batch[i], pattern, 1));
	}
	note_datagrams(sock, batch, n, arg);
}

/* F06 */
static void each_datagram_counts_for_itself(void **state)
{
	size_t i;
	int fd;

	(void)state;
	start_udp(ANY_UDP, answer_three_times, NULL, 1);
	fd = udp_to(server.port);
	hold(0);
	for (i = 1; i <= 100; i++)
		shoot(fd, pattern, i);
	open_gate();
	for (i = 1; i <= 100; i++)
		catches(fd, pattern, 3 * i);
	settle(0);
	assert_int_equal(atomic_load(&notes.refused), 100);
	assert_int_equal(atomic_load(&notes.error), EPERM);
	assert_int_equal(end_udp().answers_refused, 100);
	close(fd);
}

/* Validated */

static void validate_task(struct evt_worker *worker, void *arg)
{
	struct note *note = arg;

	CHECK(evt_udp_validated(evt_listener_udp(server.listener, worker),
		      (struct sockaddr *)&note->sender) == 0);
}

static void send_task(struct evt_worker *worker, void *arg)
{
	struct note *note = arg;

	note_result(evt_udp_send(evt_listener_udp(server.listener, worker),
		(struct sockaddr *)&note->sender, note->sender_len, "news", 4));
}

static void reply_task(struct evt_worker *worker, void *arg)
{
	struct note *note = arg;
	const struct evt_datagram kept = {
		.sender = (struct sockaddr *)&note->sender,
		.sender_len = note->sender_len,
		.local = (struct sockaddr *)&note->local,
		.local_len = note->local_len};

	note_result(evt_udp_reply(
		evt_listener_udp(server.listener, worker), &kept, "news", 4));
}

/* Whether he is sent what he has not asked for. */
static bool is_trusted(int fd, struct note *note)
{
	evt_task tasks[] = {send_task, reply_task};
	int taken = 0;
	int i;

	for (i = 0; i < 2; i++) {
		int before = atomic_load(&notes.refused);

		assert_true(on_worker(0, tasks[i], note));
		if (atomic_load(&notes.refused) == before) {
			catches(fd, "news", 4);
			taken++;
		} else {
			assert_int_equal(atomic_load(&notes.error), EPERM);
			assert_true(has_caught_nothing(fd));
		}
	}
	assert_true(taken == 0 || taken == 2);
	return taken == 2;
}

static const int nothing[REPLIES + 1] = {-1};
static const int a_thousand[REPLIES + 1] = {1000, 1000, -1};
static const int none_of_a_thousand[REPLIES + 1] = {TOO_LONG(1000), -1};

/* F06 */
static void one_who_is_validated_has_no_limit_for_five_minutes(void **state)
{
	struct note it[2];
	int fds[2];
	int i;

	(void)state;
	start_udp("udp://:0", answer_as_wanted, NULL, 1);
	for (i = 0; i < 2; i++) {
		fds[i] = udp_to(server.port);
		expect_answers(fds[i], 1, nothing);
		it[i] = noted(i);
		assert_false(is_trusted(fds[i], &it[i]));
	}
	assert_int_equal(server_stats().answers_refused, 4);
	assert_true(on_worker(0, validate_task, &it[0]));
	assert_true(is_trusted(fds[0], &it[0]));
	expect_answers(fds[0], 1, a_thousand);
	/* The same address, another port. */
	assert_false(is_trusted(fds[1], &it[1]));
	expect_answers(fds[1], 1, none_of_a_thousand);
	atomic_store(&minutes_later, 4);
	assert_true(is_trusted(fds[0], &it[0]));
	atomic_store(&minutes_later, 6);
	assert_false(is_trusted(fds[0], &it[0]));
	expect_answers(fds[0], 1, none_of_a_thousand);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	hang_up(fds, 2);
	end_udp();
}

static struct sockaddr_in numbered_sender(int i)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
		.sin_port = htons((uint16_t)(i % 7 + 1)),
		.sin_addr.s_addr = htonl(0xc6336400u + (uint32_t)i / 7)};
}

static bool add(struct evt_known *known, int i, int64_t now_ms)
{
	struct sockaddr_in in = numbered_sender(i);

	return evt_known_add_(known, (struct sockaddr *)&in, now_ms);
}

static bool has(struct evt_known *known, int i, int64_t now_ms)
{
	struct sockaddr_in in = numbered_sender(i);

	return evt_known_has_(known, (struct sockaddr *)&in, now_ms);
}

/* F06 */
static void of_more_than_4096_the_oldest_is_forgotten(void **state)
{
	struct evt_known *known = evt_known_new_();
	int i;

	(void)state;
	for (i = 0; i < EVT_KNOWN_MAX; i++)
		assert_true(add(known, i, i));
	for (i = 0; i < EVT_KNOWN_MAX; i++)
		assert_true(has(known, i, 5000));
	assert_true(add(known, 0, 5000)); /* once more: the newest now */
	assert_true(add(known, 4096, 5000));
	assert_true(add(known, 4097, 5000));
	assert_true(has(known, 0, 5000));
	assert_false(has(known, 1, 5000));
	assert_false(has(known, 2, 5000));
	for (i = 3; i <= 4097; i++)
		assert_true(has(known, i, 5000));
	for (i = 10000; i < 30000; i++)
		assert_true(add(known, i, 6000));
	for (i = 0; i < 30000; i++)
		assert_int_equal(has(known, i, 6000), i >= 30000 - 4096);
	evt_known_free_(known);
}

/* F06 */
static void each_is_known_for_five_minutes(void **state)
{
	struct evt_known *known = evt_known_new_();

	(void)state;
	assert_true(add(known, 1, 1000));
	assert_true(has(known, 1, 300999));
	assert_false(has(known, 1, 301000));
	assert_true(add(known, 1, 301000));
	assert_true(add(known, 2, 301000));
	assert_true(add(known, 1, 400000));
	assert_true(has(known, 1, 699999));
	assert_false(has(known, 2, 601000));
	evt_known_free_(known);
}

static void who_is_known_is_one_address_and_one_port(void **state)
{
	struct evt_known *known = evt_known_new_();
	const struct sockaddr un = {.sa_family = AF_UNIX};
	struct sockaddr_storage it;
	socklen_t len;

	(void)state;
	it = addr_of("192.0.2.1", 9, &len);
	assert_true(evt_known_add_(known, (struct sockaddr *)&it, 0));
	it = addr_of("::ffff:192.0.2.1", 9, &len);
	assert_true(evt_known_has_(known, (struct sockaddr *)&it, 0));
	it = addr_of("::ffff:192.0.2.1", 8, &len);
	assert_false(evt_known_has_(known, (struct sockaddr *)&it, 0));
	it = addr_of("fe80::1", 9, &len);
	((struct sockaddr_in6 *)&it)->sin6_scope_id = 1;
	assert_true(evt_known_add_(known, (struct sockaddr *)&it, 0));
	((struct sockaddr_in6 *)&it)->sin6_scope_id = 2;
	assert_false(evt_known_has_(known, (struct sockaddr *)&it, 0));
	assert_false(evt_known_add_(known, &un, 0));
	assert_false(evt_known_has_(known, &un, 0));
	evt_known_free_(known);
}

/* Tokens */

static struct {
	unsigned char token[EVT_UDP_TOKEN];
	struct note *from;
	int result;
	int error;
} asked;

static void token_task(struct evt_worker *worker, void *arg)
{
	(void)arg;
	asked.result = evt_udp_token(evt_listener_udp(server.listener, worker),
		(struct sockaddr *)&asked.from->sender, asked.token);
}

static void check_token_task(struct evt_worker *worker, void *arg)
{
	(void)arg;
	asked.result = evt_udp_check_token(
		evt_listener_udp(server.listener, worker),
		(struct sockaddr *)&asked.from->sender, asked.token);
	asked.error = errno;
}

/* Of worker; the token is in asked. */
static void get_token(int worker, struct note *from)
{
	asked.from = from;
	assert_true(on_worker(worker, token_task, NULL));
	assert_int_equal(asked.result, 0);
}

static bool knows_token(int worker, struct note *from)
{
	asked.from = from;
	assert_true(on_worker(worker, check_token_task, NULL));
	assert_true(asked.result == 0 || asked.error == EACCES);
	return asked.result == 0;
}

static int start_with_two(struct note it[2], int fds[2], int workers)
{
	int i;

	start_udp("udp://:0", answer_as_wanted, NULL, workers);
	for (i = 0; i < REPLIES; i++)
		atomic_store(&wanted.lens[i], -1);
	for (i = 0; i < 2; i++) {
		fds[i] = udp_to(server.port);
		shoot(fds[i], "hello", 5);
		assert_true(WAIT_FOR(nr_noted() == i + 1));
		it[i] = noted(i);
	}
	return fds[0];
}

/* F06 */
static void a_token_that_comes_back_validates_its_sender(void **state)
{
	struct note it[2];
	int fds[2];
	int i;

	(void)state;
	start_with_two(it, fds, 1);
	get_token(0, &it[0]);
	assert_false(is_trusted(fds[0], &it[0]));
	assert_false(knows_token(0, &it[1])); /* another port */
	assert_false(is_trusted(fds[1], &it[1]));
	for (i = 0; i < EVT_UDP_TOKEN; i++) {
		asked.token[i] ^= 1;
		assert_false(knows_token(0, &it[0]));
		asked.token[i] ^= 1;
	}
	assert_false(is_trusted(fds[0], &it[0]));
	assert_true(knows_token(0, &it[0]));
	assert_true(is_trusted(fds[0], &it[0]));
	expect_answers(fds[0], 1, a_thousand);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	hang_up(fds, 2);
	end_udp();
}

/* F06 */
static void a_token_is_good_for_five_minutes_and_not_for_ever(void **state)
{
	static const int ages[] = {0, 1, 2, 3, 4};
	struct note it[2];
	int start_min;
	int fds[2];
	size_t i;

	(void)state;
	start_with_two(it, fds, 1);
	for (start_min = 0; start_min < 6; start_min++)
		for (i = 0; i < COUNT(ages); i++) {
			atomic_store(&minutes_later, start_min);
			get_token(0, &it[0]);
			atomic_fetch_add(&minutes_later, ages[i]);
			assert_true(knows_token(0, &it[0]));
			atomic_fetch_add(&minutes_later, 11);
			assert_false(knows_token(0, &it[0]));
		}
	hang_up(fds, 2);
	atomic_store(&minutes_later, 0);
	end_udp();
}

/* F06 */
static void a_listener_knows_its_own_tokens_alone(void **state)
{
	const struct evt_handlers handlers = {.on_datagrams = note_datagrams};
	struct evt_listener *first;
	unsigned char token[EVT_UDP_TOKEN];
	struct note it[2];
	int fds[2];

	(void)state;
	start_with_two(it, fds, 3);
	get_token(0, &it[0]);
	assert_true(knows_token(0, &it[0]));
	assert_true(knows_token(1, &it[0]));
	assert_true(knows_token(2, &it[0]));
	first = server.listener;
	memcpy(token, asked.token, sizeof(token));
	server.listener = evt_listen(
		server.pool, ANY_UDP, &handlers, NULL, NULL);
	assert_non_null(server.listener);
	assert_false(knows_token(0, &it[0]));
	get_token(0, &it[0]);
	assert_memory_not_equal(token, asked.token, sizeof(token));
	server.listener = first;
	hang_up(fds, 2);
	end_udp();
}

#define REFUSED(call, code)                             \
	do {                                            \
		errno = 0;                              \
		CHECK((call) == -1 && errno == (code)); \
	} while (0)

static void wrong_tokens_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(server.listener, worker);
	const struct sockaddr un = {.sa_family = AF_UNIX};
	const struct sockaddr *to = arg;
	unsigned char token[EVT_UDP_TOKEN] = {0};

	REFUSED(evt_udp_token(NULL, to, token), EINVAL);
	REFUSED(evt_udp_token(sock, NULL, token), EINVAL);
	REFUSED(evt_udp_token(sock, &un, token), EINVAL);
	REFUSED(evt_udp_token(sock, to, NULL), EINVAL);
	REFUSED(evt_udp_check_token(NULL, to, token), EINVAL);
	REFUSED(evt_udp_check_token(sock, NULL, token), EINVAL);
	REFUSED(evt_udp_check_token(sock, &un, token), EINVAL);
	REFUSED(evt_udp_check_token(sock, to, NULL), EINVAL);
	REFUSED(evt_udp_check_token(sock, to, token), EACCES);
	CHECK(evt_udp_token(sock, to, token) == 0);
	fail_allocation(1, false);
	REFUSED(evt_udp_check_token(sock, to, token), ENOMEM);
	CHECK(evt_udp_check_token(sock, to, token) == 0);
}

static void wrong_calls_of_tokens_are_refused(void **state)
{
	unsigned char token[EVT_UDP_TOKEN] = {0};
	struct note it[2];
	int fds[2];

	(void)state;
	start_with_two(it, fds, 1);
	assert_true(on_worker(0, wrong_tokens_task, &it[0].sender));
	REFUSED(evt_udp_token(
			socket_of(0), (struct sockaddr *)&it[0].sender, token),
		EINVAL);
	REFUSED(evt_udp_check_token(
			socket_of(0), (struct sockaddr *)&it[0].sender, token),
		EINVAL);
	hang_up(fds, 2);
	end_udp();
}

/* SipHash-2-4, by the test vectors of its authors. */
static void the_hash_of_tokens_is_siphash(void **state)
{
	const uint64_t key[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
	const uint64_t words[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};

	(void)state;
	assert_true(evt_siphash_(key, words, 0) == 0x726fdb47dd0e0e31u);
	assert_true(evt_siphash_(key, words, 1) == 0x93f5f5799a932462u);
	assert_true(evt_siphash_(key, words, 2) == 0x3f2acc7f57c29bdbu);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		GUARD_TEST(a_stranger_gets_three_times_what_he_sent),
		GUARD_TEST(the_limit_is_an_option),
		GUARD_TEST(without_a_limit_all_is_answered),
		GUARD_TEST(each_datagram_counts_for_itself),
		GUARD_TEST(one_who_is_validated_has_no_limit_for_five_minutes),
		GUARD_TEST(of_more_than_4096_the_oldest_is_forgotten),
		GUARD_TEST(each_is_known_for_five_minutes),
		GUARD_TEST(who_is_known_is_one_address_and_one_port),
		GUARD_TEST(a_token_that_comes_back_validates_its_sender),
		GUARD_TEST(a_token_is_good_for_five_minutes_and_not_for_ever),
		GUARD_TEST(a_listener_knows_its_own_tokens_alone),
		GUARD_TEST(wrong_calls_of_tokens_are_refused),
		GUARD_TEST(the_hash_of_tokens_is_siphash),
	};

	fill_pattern(pattern, 0, sizeof(pattern));
	return ledger_run("datagrams_guard", tests);
}
