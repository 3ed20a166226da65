/*
 * test_datagrams.c: receiving datagrams and answering them: lengths from none
 * to the longest, batches, what is told of each, the address that was asked,
 * datagrams that the kernel joined, calls and options that are wrong.
 */
#include "udp_rig.h"

#include <sys/un.h>

_Static_assert(sizeof(struct evt_datagram) == 128, "part of the interface");

static const struct evt_listen_options unlimited = {.amplification = -1};

static char pattern[65536 + 64];

static bool is_at(const struct sockaddr_storage *addr, socklen_t addr_len,
	const char *ip, int port)
{
	socklen_t len;
	struct sockaddr_storage wanted = addr_of(ip, port, &len);
	const struct sockaddr_in6 *a = (const void *)addr;
	const struct sockaddr_in6 *b = (const void *)&wanted;

	if (addr_len != len || addr->ss_family != wanted.ss_family)
		return false;
	if (addr->ss_family == AF_INET)
		return memcmp(addr, &wanted, 8) == 0;
	return a->sin6_port == b->sin6_port &&
		memcmp(&a->sin6_addr, &b->sin6_addr, 16) == 0;
}

/* A client of ip, who is seen as this at that. */
static void expect_echo(const char *ip, const char *seen_as)
{
	int fd = udp_at(ip, 0);
	struct note note;

	assert_int_equal(reach(fd, ip, server.port), 0);
	forget_notes();
	exchanges(fd, "a datagram");
	note = noted(0);
	assert_true(
		is_at(&note.sender, note.sender_len, seen_as, own_port(fd)));
	assert_true(is_at(&note.local, note.local_len, seen_as, server.port));
	assert_int_equal(note.truncated, 0);
	close(fd);
}

static void a_datagram_comes_back(void **state)
{
	struct evt_stats stats;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	expect_echo("127.0.0.1", "127.0.0.1");
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	stats = end_udp();
	assert_int_equal(stats.datagrams_in, 1);
	assert_int_equal(stats.datagrams_out, 1);
	assert_int_equal(stats.bytes_in, 10);
	assert_int_equal(stats.bytes_out, 10);
}

static void one_socket_serves_both_families(void **state)
{
	(void)state;
	start_udp("udp://:0", echo_datagrams, NULL, 2);
	expect_echo("127.0.0.1", "::ffff:127.0.0.1");
	expect_echo("::1", "::1");
	end_udp();
	start_udp("udp://[::1]:0", echo_datagrams, NULL, 2);
	expect_echo("::1", "::1");
	end_udp();
}

/* F09 */
static void an_answer_leaves_from_the_address_that_was_asked(void **state)
{
	(void)state;
	start_udp("udp://:0", echo_datagrams, NULL, 2);
	expect_echo("127.0.0.2", "::ffff:127.0.0.2");
	expect_echo("127.3.4.5", "::ffff:127.3.4.5");
	expect_echo("::1", "::1");
	end_udp();
	start_udp("udp://0.0.0.0:0", echo_datagrams, NULL, 2);
	expect_echo("127.0.0.2", "127.0.0.2");
	expect_echo("127.0.0.1", "127.0.0.1");
	end_udp();
	start_udp("udp://127.0.0.2:0", echo_datagrams, NULL, 2);
	expect_echo("127.0.0.2", "127.0.0.2");
	end_udp();
}

/* Of linux/ipv6.h, which does not go with netinet/in.h. */
struct new_address {
	struct in6_addr addr;
	uint32_t prefixlen;
	int ifindex;
};

/* Not for a moment after it was added. */
static bool is_bindable(const char *ip)
{
	socklen_t len;
	struct sockaddr_storage addr = addr_of(ip, 0, &len);
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int result;

	((struct sockaddr_in6 *)&addr)->sin6_scope_id = 1;
	result = bind(fd, (struct sockaddr *)&addr, len);
	close(fd);
	return result == 0;
}

static bool add_address(const char *ip)
{
	/* As large as that of IPv4, which valgrind takes it for. */
	union {
		struct new_address it;
		struct ifreq whole;
	} request = {.whole = {.ifr_flags = 0}};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int result;

	if (fd == -1)
		return false;
	request.it = (struct new_address){.prefixlen = 64, .ifindex = 1};
	inet_pton(AF_INET6, ip, &request.it.addr);
	result = ioctl(fd, SIOCSIFADDR, &request);
	close(fd);
	return result == 0 && WAIT_FOR(is_bindable(ip));
}

/* To and from a link's address, whose scope is told both ways. */
static void expect_echo_of_the_link(const char *ip)
{
	socklen_t len;
	struct sockaddr_storage addr = addr_of(ip, server.port, &len);
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&addr;
	int fd = udp_at("::", 0);
	struct note note;

	in6->sin6_scope_id = 1;
	forget_notes();
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, len), 0);
	exchanges(fd, "on the link");
	note = noted(0);
	assert_true(is_at(&note.local, note.local_len, ip, server.port));
	in6 = (struct sockaddr_in6 *)&note.local;
	assert_int_equal(in6->sin6_scope_id, 1);
	close(fd);
}

/* F09 */
static void so_it_does_where_an_interface_has_many(void **state)
{
	(void)state;
	if (!own_network() || !add_address("fd00::1") ||
		!add_address("fd00::2") || !add_address("fe80::1") ||
		!add_address("fe80::2"))
		skip();
	start_udp("udp://:0", echo_datagrams, NULL, 2);
	expect_echo("fd00::1", "fd00::1");
	expect_echo("fd00::2", "fd00::2");
	expect_echo_of_the_link("fe80::1");
	expect_echo_of_the_link("fe80::2");
	end_udp();
}

/* F01 */
static void an_empty_datagram_is_one(void **state)
{
	int fd;
	int i;

	(void)state;
	start_udp("udp://:0", echo_datagrams, NULL, 1);
	fd = udp_to(server.port);
	for (i = 0; i < 3; i++) {
		shoot(fd, "", 0);
		catches(fd, "", 0);
	}
	exchanges(fd, "full");
	assert_int_equal(noted(0).len, 0);
	assert_int_equal(noted(0).truncated, 0);
	assert_int_not_equal(noted(0).sender_len, 0);
	close(fd);
	assert_int_equal(end_udp().datagrams_in, 4);
}

static void answer_one_byte_more(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int i;

	for (i = 0; i < n; i++)
		note_result(evt_udp_reply(
			sock, &batch[i], pattern, batch[i].len + 1));
	note_datagrams(sock, batch, n, arg);
}

static void expect_the_longest(const char *ip, size_t longest)
{
	int fd = udp_to_ip(ip, server.port);

	shoot(fd, pattern, longest - 1);
	catches(fd, pattern, longest);
	shoot(fd, pattern, longest);
	assert_true(WAIT_FOR(atomic_load(&notes.refused) == 1));
	settle(0);
	assert_int_equal(atomic_load(&notes.error), EMSGSIZE);
	assert_true(has_caught_nothing(fd));
	assert_int_equal(send(fd, pattern, longest + 1, 0), -1);
	assert_int_equal(errno, EMSGSIZE);
	close(fd);
	forget_notes();
}

/* F02 */
static void the_longest_goes_both_ways_and_one_byte_more_does_not(void **state)
{
	struct evt_stats stats;

	(void)state;
	start_udp("udp://:0", answer_one_byte_more, &unlimited, 1);
	expect_the_longest("127.0.0.1", LONGEST);
	expect_the_longest("::1", 65527);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 2);
	stats = end_udp();
	assert_int_equal(stats.datagrams_in, 4);
	assert_int_equal(stats.datagrams_out, 2);
	assert_int_equal(stats.sends_failed, 0);
}

/* F03 */
static void what_is_longer_than_max_input_is_cut_and_told(void **state)
{
	const struct evt_listen_options options = {.max_input = 512};
	static const size_t lens[] = {511, 512, 513, 2000};
	size_t i;
	int fd;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, &options, 1);
	fd = udp_to(server.port);
	for (i = 0; i < COUNT(lens); i++) {
		shoot(fd, pattern, lens[i]);
		catches(fd, pattern, lens[i] < 512 ? lens[i] : 512);
		assert_int_equal(
			noted((int)i).len, lens[i] < 512 ? lens[i] : 512);
		assert_int_equal(noted((int)i).truncated != 0, lens[i] > 512);
	}
	close(fd);
	end_udp();
}

static void what_has_queued_up_comes_together_and_in_order(void **state)
{
	int largest = 0;
	int fd;
	int i;

	(void)state;
	start_udp(ANY_UDP, note_datagrams, NULL, 1);
	fd = udp_to(server.port);
	hold(0);
	for (i = 0; i < 200; i++)
		shoot_number(fd, (uint32_t)i);
	open_gate();
	assert_true(WAIT_FOR(nr_noted() == 200));
	for (i = 0; i < 200; i++) {
		assert_int_equal(noted(i).number, i);
		if (noted(i).n > largest)
			largest = noted(i).n;
	}
	assert_int_equal(largest, EVT_UDP_BATCH);
	assert_in_range(nr_calls(), 4, 8);
	close(fd);
	end_udp();
}

static void datagrams_before_the_pool_runs_are_handed_over(void **state)
{
	int fd;
	int i;

	(void)state;
	make_udp(ANY_UDP, echo_datagrams, NULL, 2);
	fd = udp_to(server.port);
	for (i = 0; i < 100; i++)
		shoot_number(fd, (uint32_t)i);
	run_pool();
	for (i = 0; i < 100; i++)
		catches_number(fd, (uint32_t)i);
	close(fd);
	end_udp();
}

/* Joined by the kernel */

/* 54 in one send, each with its number, the last one shorter. */
static bool shoot_joined(int fd, size_t each, size_t len)
{
	const int size = (int)each;
	uint32_t i;

	if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)) == -1)
		return false;
	for (i = 0; i * each < len; i++)
		memcpy(pattern + i * each, &i, sizeof(i));
	shoot(fd, pattern, len);
	return true;
}

static void expect_apart(const char *ip)
{
	const size_t each = 1200;
	const size_t last = 321;
	const int nr = 54;
	int fd = udp_to_ip(ip, server.port);
	bool joins;
	int i;

	forget_notes();
	joins = shoot_joined(fd, each, (size_t)(nr - 1) * each + last);
	if (!joins)
		close(fd);
	if (!joins)
		skip();
	assert_true(WAIT_FOR(nr_noted() == nr));
	for (i = 0; i < nr; i++) {
		assert_int_equal(noted(i).number, i);
		assert_int_equal(noted(i).len, i < nr - 1 ? each : last);
		assert_int_equal(noted(i).truncated, 0);
		assert_in_range(noted(i).n, 1, EVT_UDP_BATCH);
	}
	close(fd);
}

static void what_the_kernel_has_joined_is_handed_over_apart(void **state)
{
	(void)state;
	start_udp("udp://:0", note_datagrams, NULL, 1);
	expect_apart("127.0.0.1");
	expect_apart("::1");
	assert_int_equal(end_udp().datagrams_in, 2 * 54);
}

/* F03: each part is cut, and several messages of parts fill more than one
 * batch. */
static void joined_ones_are_cut_each_for_itself(void **state)
{
	const struct evt_listen_options options = {.max_input = 100};
	int fd;
	int i;

	(void)state;
	start_udp(ANY_UDP, note_datagrams, &options, 1);
	fd = udp_to(server.port);
	hold(0);
	for (i = 0; i < 5; i++)
		if (!shoot_joined(fd, 150, 150 * 40 - 60))
			break;
	open_gate();
	if (i == 5)
		assert_true(WAIT_FOR(nr_noted() == 200));
	for (i = 0; i < nr_noted(); i++) {
		bool last = i % 40 == 39;

		assert_int_equal(noted(i).number, i % 40);
		assert_int_equal(noted(i).len, last ? 90 : 100);
		assert_int_equal(noted(i).truncated != 0, !last);
		assert_in_range(noted(i).n, 1, EVT_UDP_BATCH);
	}
	close(fd);
	end_udp();
}

/* Options */

static void refuses(const char *url, const struct evt_handlers *handlers,
	struct evt_listen_options options)
{
	log_forget();
	errno = 0;
	assert_null(evt_listen(server.pool, url, handlers, &options, NULL));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
}

static int choose(struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)pool, (void)peer, (void)arg;
	return 0;
}

static void wrong_options_are_refused(void **state)
{
	static const struct evt_listen_options wrong[] = {
		{.choice = EVT_CHOICE_FEWEST_CONNS},
		{.choice = EVT_CHOICE_FUNCTION, .choose = choose},
		{.max_per_source = 1}, {.amplification = -2},
		{.amplification = INT32_MAX}, {.steer = {0, 257}},
		{.steer = {-1, 4}}, {.steer = {0, -1}}, {.steer = {4, 0}},
		{.steer = {65536, 4}}};
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	const struct evt_handlers of_streams = {.on_data = echo_data};
	const struct evt_listen_options none = {0};
	size_t i;

	(void)state;
	make_pool(2);
	for (i = 0; i < COUNT(wrong); i++)
		refuses(ANY_UDP, &handlers, wrong[i]);
	refuses(ANY_UDP, &of_streams, none);
	refuses("unixgram:@evt-datagrams", &of_streams, none);
	refuses("unixgram:@evt-datagrams", &handlers,
		(struct evt_listen_options){.steer = {0, 4}});
	refuses(ANY_PORT, &echo_handlers,
		(struct evt_listen_options){.steer = {0, 4}});
	stop_server();
}

/* One struct of options and one of handlers for streams and datagrams. */
static void a_server_of_both_has_one_struct_of_each(void **state)
{
	const struct evt_handlers handlers = {
		.on_data = echo_data, .on_datagrams = echo_datagrams};
	const struct evt_listen_options options = {.max_conns = 10,
		.backlog = 5,
		.accept_batch = 3,
		.refuse = 1,
		.reuseport = 1,
		.first_byte_ms = 1000,
		.idle_ms = 1000,
		.lifetime_ms = 1000,
		.high_mark = 1000,
		.low_mark = 500,
		.speak_first = 1};
	struct evt_listener *tcp;
	char url[64];
	int fd;

	(void)state;
	make_udp(ANY_UDP, echo_datagrams, &options, 2);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", server.port);
	tcp = evt_listen(server.pool, url, &handlers, &options, NULL);
	assert_non_null(tcp);
	assert_null(evt_listener_udp(tcp, evt_pool_worker(server.pool, 0)));
	assert_int_equal(errno, EINVAL);
	run_pool();
	fd = udp_to(server.port);
	exchanges(fd, "datagram");
	close(fd);
	assert_true(serves(server.port));
	evt_pool_stop(server.pool);
	assert_int_equal(evt_pool_wait(server.pool), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UDP_TEST(a_datagram_comes_back),
		UDP_TEST(one_socket_serves_both_families),
		UDP_TEST(an_answer_leaves_from_the_address_that_was_asked),
		UDP_TEST(so_it_does_where_an_interface_has_many),
		UDP_TEST(an_empty_datagram_is_one),
		UDP_TEST(the_longest_goes_both_ways_and_one_byte_more_does_not),
		UDP_TEST(what_is_longer_than_max_input_is_cut_and_told),
		UDP_TEST(what_has_queued_up_comes_together_and_in_order),
		UDP_TEST(datagrams_before_the_pool_runs_are_handed_over),
		UDP_TEST(what_the_kernel_has_joined_is_handed_over_apart),
		UDP_TEST(joined_ones_are_cut_each_for_itself),
		UDP_TEST(wrong_options_are_refused),
		UDP_TEST(a_server_of_both_has_one_struct_of_each),
	};

	fill_pattern(pattern, 0, sizeof(pattern));
	return ledger_run("datagrams", tests);
}
