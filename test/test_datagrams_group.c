/*
 * test_datagrams_group.c: a socket for each worker: which of them gets what, by
 * the sender or by a part of the datagram; and nobody else on the port.
 */
#include "udp_rig.h"

#define WORKERS 4

/* How many sockets have the server's port. */
static int count_sockets(const char *path)
{
	FILE *file = fopen(path, "re");
	char line[512];
	unsigned port;
	int nr = 0;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, " %*d: %*[0-9A-F]:%X", &port) == 1 &&
			port == (unsigned)server.port)
			nr++;
	fclose(file);
	return nr;
}

static void each_worker_has_a_socket_on_one_port(void **state)
{
	(void)state;
	start_udp(ANY_UDP, note_datagrams, NULL, WORKERS);
	assert_int_equal(count_sockets("/proc/net/udp"), WORKERS);
	end_udp();
	start_udp("udp://:0", note_datagrams, NULL, WORKERS);
	assert_int_equal(count_sockets("/proc/net/udp6"), WORKERS);
	end_udp();
	start_udp(ANY_UDP, note_datagrams, NULL, 1);
	assert_int_equal(count_sockets("/proc/net/udp"), 1);
	end_udp();
	assert_int_equal(count_sockets("/proc/net/udp"), 0);
}

/* How many workers have got something of those noted. */
static int nr_workers_of(int from, int to)
{
	bool has[WORKERS] = {false};
	int nr = 0;
	int i;

	for (i = from; i < to; i++)
		has[noted(i).worker] = true;
	for (i = 0; i < WORKERS; i++)
		nr += has[i];
	return nr;
}

#define SENDERS 64

/* Five times from each, in turn, and the number says from whom. */
static void send_from_each(const int fds[SENDERS])
{
	uint32_t i;

	for (i = 0; i < 5 * SENDERS; i++)
		shoot_number(fds[i % SENDERS], i % SENDERS);
	assert_true(WAIT_FOR(nr_noted() == 5 * SENDERS));
}

static void expect_each_sender_on_one_worker(void)
{
	int worker[SENDERS];
	int i;

	memset(worker, 0xff, sizeof(worker));
	for (i = 0; i < 5 * SENDERS; i++) {
		struct note note = noted(i);

		if (worker[note.number] == -1)
			worker[note.number] = note.worker;
		assert_int_equal(worker[note.number], note.worker);
	}
	assert_int_equal(nr_workers_of(0, 5 * SENDERS), WORKERS);
}

static void expect_spread_by_sender(
	const char *ip, const struct evt_listen_options *options)
{
	int fds[SENDERS];
	int i;

	start_udp("udp://:0", note_datagrams, options, WORKERS);
	for (i = 0; i < SENDERS; i++)
		fds[i] = udp_to_ip(ip, server.port);
	send_from_each(fds);
	expect_each_sender_on_one_worker();
	hang_up(fds, SENDERS);
	end_udp();
}

static void a_sender_comes_to_one_worker_and_many_to_all(void **state)
{
	(void)state;
	expect_spread_by_sender("127.0.0.1", NULL);
	expect_spread_by_sender("::1", NULL);
}

/* Their four bytes are not eight. */
static void what_is_too_short_for_its_key_is_spread_by_sender(void **state)
{
	const struct evt_listen_options at_0 = {.steer = {0, 8}};
	const struct evt_listen_options far = {.steer = {65535, 1}};

	(void)state;
	expect_spread_by_sender("127.0.0.1", &at_0);
	expect_spread_by_sender("::1", &far);
}

/* Steering */

static char random_bytes[4096];

static void fill_random(void)
{
	uint32_t x = 1;
	size_t i;

	for (i = 0; i < sizeof(random_bytes); i++) {
		x = x * 1664525u + 1013904223u;
		random_bytes[i] = (char)(x >> 24);
	}
}

/* A datagram that has this key at its place, and else what no other has; how
 * much is behind the key says which it is. */
static void shoot_key(
	int fd, const struct evt_steer *steer, uint32_t key, int nr)
{
	size_t len = (size_t)(steer->offset + steer->len + nr);
	char bytes[2048];

	memcpy(bytes, random_bytes + nr, len);
	memset(bytes + steer->offset, 0x5a, (size_t)steer->len);
	memcpy(bytes + steer->offset, &key,
		steer->len < 4 ? (size_t)steer->len : 4);
	if (steer->len > 4) /* nor is the end forgotten */
		memcpy(bytes + steer->offset + steer->len - 1, &key, 1);
	shoot(fd, bytes, len);
}

#define PER_KEY 12

/* The same key from many is one worker's, many keys are all workers'. */
static void expect_steered(const char *ip, struct evt_steer steer)
{
	const struct evt_listen_options options = {.steer = steer};
	int fds[PER_KEY];
	uint32_t key;
	int i;

	start_udp("udp://:0", note_datagrams, &options, WORKERS);
	for (i = 0; i < PER_KEY; i++)
		fds[i] = udp_to_ip(ip, server.port);
	for (key = 0; key < 3; key++) {
		int before = nr_noted();

		for (i = 0; i < PER_KEY; i++)
			shoot_key(fds[i], &steer, key * 85, i);
		assert_true(WAIT_FOR(nr_noted() == before + PER_KEY));
		assert_int_equal(nr_workers_of(before, before + PER_KEY), 1);
	}
	forget_notes();
	for (key = 0; key < 200; key++)
		shoot_key(fds[0], &steer, key, 0);
	assert_true(WAIT_FOR(nr_noted() == 200));
	assert_int_equal(nr_workers_of(0, 200), WORKERS);
	hang_up(fds, PER_KEY);
	end_udp();
}

static void a_key_of_any_length_and_place_comes_to_one_worker(void **state)
{
	static const int lens[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 255, 256};
	static const int offsets[] = {0, 1, 12, 1000};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(lens) * COUNT(offsets); i++)
		expect_steered(i % 3 ? "127.0.0.1" : "::1",
			(struct evt_steer){offsets[i % COUNT(offsets)],
				lens[i / COUNT(offsets)]});
}

/* The end of a long key counts as its beginning does. */
static void keys_that_differ_in_the_last_byte_are_spread(void **state)
{
	const struct evt_listen_options options = {.steer = {3, 37}};
	char bytes[40];
	int fd;
	int i;

	(void)state;
	start_udp(ANY_UDP, note_datagrams, &options, WORKERS);
	fd = udp_to(server.port);
	memset(bytes, 0, sizeof(bytes));
	for (i = 0; i < 200; i++) {
		bytes[39] = (char)i;
		shoot(fd, bytes, sizeof(bytes));
	}
	assert_true(WAIT_FOR(nr_noted() == 200));
	assert_int_equal(nr_workers_of(0, 200), WORKERS);
	close(fd);
	end_udp();
}

/* How even: none of them has more than twice its share. */
static void four_thousand_keys_are_shared_evenly(void **state)
{
	const struct evt_listen_options options = {.steer = {0, 4}};
	int shares[WORKERS] = {0};
	uint32_t i;
	int fd;

	(void)state;
	start_udp(ANY_UDP, note_datagrams, &options, WORKERS);
	fd = udp_to(server.port);
	for (i = 0; i < 4000; i++) {
		shoot_number(fd, i);
		if (i % 100 == 99)
			assert_true(WAIT_FOR(nr_noted() == (int)i + 1));
	}
	for (i = 0; i < 4000; i++)
		shares[noted((int)i).worker]++;
	for (i = 0; i < WORKERS; i++)
		assert_in_range(shares[i], 500, 2000);
	close(fd);
	end_udp();
}

static void one_worker_may_be_steered_to(void **state)
{
	const struct evt_listen_options options = {.steer = {0, 4}};
	int fd;

	(void)state;
	start_udp("udp://:0", echo_datagrams, &options, 1);
	fd = udp_to(server.port);
	exchanges(fd, "long enough");
	exchanges(fd, "no");
	exchanges(fd, "");
	close(fd);
	end_udp();
}

/* What the kernel joins goes where the first of them does. */
static void what_is_steered_does_not_come_joined(void **state)
{
	const struct evt_listen_options options = {.steer = {0, 4}};
	int i;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, &options, WORKERS);
	for (i = 0; i < WORKERS; i++) {
		socklen_t len = sizeof(int);
		int joined = 0;

		(void)getsockopt(atomic_load(&server.listener->udp[i]->fd),
			IPPROTO_UDP, UDP_GRO, &joined, &len);
		assert_int_equal(joined, 0);
	}
	end_udp();
}

/* Nobody else */

/* A bind to the server's port, with this option: errno, or 0. */
static int bind_with(int option, const char *ip)
{
	const int on = 1;
	socklen_t len;
	struct sockaddr_storage addr = addr_of(ip, server.port, &len);
	int fd = socket(addr.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int error = 0;

	if (option)
		setsockopt(fd, SOL_SOCKET, option, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&addr, len) == -1)
		error = errno;
	close(fd);
	return error;
}

static int listen_with(const char *ip, int reuseport, int workers)
{
	const struct evt_listen_options how = {.reuseport = reuseport};
	const struct evt_pool_options options = {.workers = workers};
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	struct evt_pool *pool = evt_pool_new(&options);
	char url[64];
	int error;

	snprintf(url, sizeof(url), "udp://%s:%d", ip, server.port);
	error = evt_listen(pool, url, &handlers, &how, NULL) ? 0 : errno;
	evt_pool_free(pool);
	return error;
}

static void expect_the_port_taken(const char *url, int workers)
{
	start_udp(url, echo_datagrams, NULL, workers);
	assert_int_equal(bind_with(0, "127.0.0.1"), EADDRINUSE);
	assert_int_equal(bind_with(SO_REUSEADDR, "127.0.0.1"), EADDRINUSE);
	assert_int_equal(bind_with(SO_REUSEADDR, "0.0.0.0"), EADDRINUSE);
	if (workers == 1)
		assert_int_equal(
			bind_with(SO_REUSEPORT, "127.0.0.1"), EADDRINUSE);
	assert_int_equal(listen_with("127.0.0.1", 0, 1), EADDRINUSE);
	assert_int_equal(listen_with("127.0.0.1", 0, 3), EADDRINUSE);
	assert_int_equal(listen_with("127.0.0.1", 1, 1), EADDRINUSE);
	assert_int_equal(listen_with("127.0.0.1", 1, 3), EADDRINUSE);
	assert_int_equal(listen_with("", 1, 3), EADDRINUSE);
	end_udp();
}

/* F12 */
static void nobody_else_gets_the_port(void **state)
{
	(void)state;
	expect_the_port_taken(ANY_UDP, 1);
	expect_the_port_taken(ANY_UDP, 3);
	expect_the_port_taken("udp://:0", 1);
	expect_the_port_taken("udp://:0", 3);
}

/* F12: not even where the other would share it. */
static void a_port_that_another_has_is_not_taken(void **state)
{
	const int on = 1;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len;
	struct sockaddr_storage addr = addr_of("127.0.0.1", 0, &len);

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	server.port = own_port(fd);
	assert_int_equal(listen_with("127.0.0.1", 0, 1), EADDRINUSE);
	assert_int_equal(listen_with("127.0.0.1", 0, 3), EADDRINUSE);
	assert_int_equal(listen_with("", 0, 3), EADDRINUSE);
	close(fd);
	assert_int_equal(listen_with("127.0.0.1", 0, 3), 0);
}

/* F12 */
static void the_options_of_a_group_are_its_own(void **state)
{
	int workers;

	(void)state;
	for (workers = 1; workers <= 2; workers++) {
		socklen_t len = sizeof(int);
		int shared = 0;
		int fd;

		start_udp(ANY_UDP, echo_datagrams, NULL, workers);
		fd = atomic_load(&server.listener->udp[0]->fd);
		getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &shared, &len);
		assert_int_equal(shared, workers > 1);
		getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &shared, &len);
		assert_int_equal(shared, 0);
		assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC); /* B12 */
		assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);     /* B11 */
		assert_true(fd > STDERR_FILENO);
		end_udp();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UDP_TEST(each_worker_has_a_socket_on_one_port),
		UDP_TEST(a_sender_comes_to_one_worker_and_many_to_all),
		UDP_TEST(what_is_too_short_for_its_key_is_spread_by_sender),
		UDP_TEST(a_key_of_any_length_and_place_comes_to_one_worker),
		UDP_TEST(keys_that_differ_in_the_last_byte_are_spread),
		UDP_TEST(four_thousand_keys_are_shared_evenly),
		UDP_TEST(one_worker_may_be_steered_to),
		UDP_TEST(what_is_steered_does_not_come_joined),
		UDP_TEST(nobody_else_gets_the_port),
		UDP_TEST(a_port_that_another_has_is_not_taken),
		UDP_TEST(the_options_of_a_group_are_its_own),
	};

	fill_random();
	return ledger_run("datagrams_group", tests);
}
