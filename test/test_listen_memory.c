/*
 * test_listen_memory.c: servers without memory: making, listening, starting,
 * the first client, sending; what never allocates; and a limit that is real.
 * What becomes of connections is in test_listen_starved.c.
 */
#include "torture.h"

#include <sys/resource.h>

/* Making a server */

static enum outcome refusal(const void *made)
{
	return made ? SERVED : REFUSED;
}

static enum outcome new_pool(void)
{
	const struct evt_pool_options options = {.workers = 3};

	server.pool = evt_pool_new(&options);
	return refusal(server.pool);
}

/* With another pool if there is none, or one that cannot be run any more. */
static void make_again(enum outcome outcome)
{
	if (outcome == REFUSED)
		make_pool(2);
	if (outcome == REFUSED || server.port == 0)
		listen_at(ANY_PORT, NULL);
	run_pool();
	EXPECT(serves(server.port));
}

static void forget_port(void)
{
	stop_server();
	forget_seen();
	server.port = 0;
}

/* K01 */
static void a_new_pool_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = forget_port,
		.attempt = new_pool,
		.confirm = make_again};

	(void)state;
	assert_true(torture(&scenario) >= 2);
}

static struct evt_listen_options listen_options;
static const char *listen_url;

static enum outcome listen_once(void)
{
	struct evt_listener *listener = evt_listen(
		server.pool, listen_url, &echo_handlers, &listen_options, NULL);

	if (listener)
		server.port = evt_listener_port(listener);
	return refusal(listener);
}

static void prepare_pool(void)
{
	make_pool(2);
}

/* What was listened on is no TCP, or the pool is spoilt by that. */
static void serve_otherwise(enum outcome outcome)
{
	if (outcome == REFUSED)
		make_pool(2);
	listen_at(ANY_PORT, NULL);
	run_pool();
	EXPECT(serves(server.port));
}

/* K01 */
static void listening_survives_each_allocation(void **state)
{
	static const char *const urls[] = {ANY_PORT, "tcp://:0",
		"unix:@test_listen_memory", "unix:/tmp/test_listen_memory"};
	static const struct scenario scenario = {.prepare = prepare_pool,
		.attempt = listen_once,
		.confirm = serve_otherwise};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(urls); i++) {
		listen_url = urls[i];
		listen_options = (struct evt_listen_options){0};
		assert_true(torture(&scenario) >= 1);
	}
	listen_url = ANY_PORT;
	listen_options.max_per_source = 3;
	assert_true(torture(&scenario) >= 2);
	listen_options = (struct evt_listen_options){.reuseport = 1};
	assert_true(torture(&scenario) >= 1);
}

static void prepare_listener(void)
{
	make_pool(2);
	listen_at(ANY_PORT, &listen_options);
}

/* Whatever the thread that accepts lacked: who comes is served or sent away. */
static enum outcome start_and_ask(void)
{
	enum outcome outcome;

	if (evt_pool_start(server.pool) == -1)
		return REFUSED;
	outcome = dial_and_ask();
	return outcome;
}

/* A listener that could not begin, or a socket of its group, has ended, which
 * is told; nobody waits there. */
static void expect_served_or_sent_away(void)
{
	int i;

	if (!serves(server.port))
		EXPECT(WAIT_FOR(log_has("listening on")));
	for (i = 0; i < 5; i++)
		EXPECT(dial_and_ask() != HUNG);
}

static void start_again(enum outcome outcome)
{
	if (outcome == REFUSED)
		run_pool();
	expect_served_or_sent_away();
	listen_at(ANY_PORT, NULL);
	EXPECT(serves(server.port));
}

static enum outcome start_only(void)
{
	return evt_pool_start(server.pool) == 0 ? SERVED : REFUSED;
}

static void expect_it_listens(enum outcome outcome)
{
	int i;

	if (outcome == REFUSED)
		run_pool();
	for (i = 0; i < 5; i++)
		EXPECT(serves(server.port));
}

/* K01 K02: it is started whole or not at all, its listeners too. */
static void starting_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = prepare_listener,
		.attempt = start_only,
		.confirm = expect_it_listens};

	(void)state;
	listen_options = (struct evt_listen_options){0};
	assert_true(torture(&scenario) > 10);
	listen_options.reuseport = 1;
	assert_true(torture(&scenario) > 10);
}

/* Whatever fails from then on: nobody has to look for a listener that ended
 * before it began. */
static void what_has_started_listens(void **state)
{
	int n;

	(void)state;
	listen_options = (struct evt_listen_options){0};
	for (; listen_options.reuseport < 2; listen_options.reuseport++) {
		prepare_listener();
		n = 0;
		do
			fail_allocation(++n, true);
		while (evt_pool_start(server.pool) == -1 && n < 400);
		assert_in_range(n, 10, 399);
		assert_int_equal(dial_and_ask(), ENDED);
		fail_allocation(0, false);
		assert_true(serves(server.port));
		assert_false(log_has("listening on"));
	}
}

/* K01 K02 */
static void the_first_client_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = prepare_listener,
		.attempt = start_and_ask,
		.confirm = start_again};

	(void)state;
	listen_options = (struct evt_listen_options){0};
	assert_true(torture(&scenario) > 10);
	listen_options.reuseport = 1;
	assert_true(torture(&scenario) > 10);
}

static enum outcome listen_and_ask(void)
{
	enum outcome outcome = listen_once();

	return outcome == SERVED ? dial_and_ask() : outcome;
}

static void listen_twice(enum outcome outcome)
{
	(void)outcome;
	expect_served_or_sent_away();
	listen_at(ANY_PORT, NULL);
	EXPECT(serves(server.port));
}

/* K01 K02 */
static void listening_in_the_run_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = prepare_server,
		.attempt = listen_and_ask,
		.confirm = listen_twice};

	(void)state;
	listen_url = ANY_PORT;
	listen_options = (struct evt_listen_options){0};
	assert_true(torture(&scenario) > 3);
	listen_options.reuseport = 1;
	assert_true(torture(&scenario) > 3);
}

/* Posting, sending and stopping */

static int guest;

static void prepare_guest(void)
{
	prepare_server();
	guest = dial_and_wait();
	assert_true(echoes(guest));
}

static void lose_guest(enum outcome outcome)
{
	(void)outcome;
	close(guest);
	if (server.port != 0)
		EXPECT(serves(server.port));
}

static char big[1 << 20];

static enum outcome send_large(void)
{
	static char text[30000];
	uint64_t id = atomic_load(&seen.id);

	if (evt_pool_send(server.pool, id, big, sizeof(text)) == -1)
		return REFUSED;
	return receive_all(guest, text, sizeof(text)) ? SERVED : ENDED;
}

/* K01 */
static void sending_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = prepare_guest,
		.attempt = send_large,
		.confirm = lose_guest};

	(void)state;
	assert_true(torture(&scenario) >= 1);
}

static void no_task(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
}

static void no_conn_task(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
}

/* K01: neither do counters, or what is sent in little pieces. */
static void posting_and_serving_allocate_nothing(void **state)
{
	char byte;
	int i;

	(void)state;
	prepare_guest();
	fail_allocation(1, true);
	for (i = 0; i < 100; i++) {
		uint64_t id = atomic_load(&seen.id);

		assert_true(on_worker(0, no_task, NULL));
		assert_true(on_conn(id, no_conn_task, NULL));
		assert_int_equal(evt_pool_send(server.pool, id, "b", 1), 0);
		assert_true(receive_all(guest, &byte, 1));
		assert_true(echoes(guest));
		server_stats();
	}
	assert_false(fault_reached());
	lose_guest(SERVED);
	assert_true(fault_reached() || i == 100);
	fail_allocation(0, false);
	end_server();
}

static size_t answer_big(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	int i;

	(void)data, (void)arg;
	for (i = 0; i < 8; i++)
		evt_conn_write(conn, big, sizeof(big));
	note_bytes(len);
	return len;
}

static void stop_without_memory(void)
{
	fail_allocation(1, true);
	evt_pool_stop(server.pool);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	stop_server();
	assert_false(fault_reached());
	fail_allocation(0, false);
}

/* D13 */
static void stopping_and_closing_allocate_nothing(void **state)
{
	const struct evt_handlers handlers = {.on_data = answer_big};

	(void)state;
	prepare_guest();
	evt_listener_close(server.listener);
	stop_without_memory();
	assert_true(at_end(guest));
	close(guest);
	prepare_guest();
	listen_at("unix:/tmp/test_listen_memory", NULL);
	await_listeners();
	stop_without_memory();
	assert_true(at_end(guest));
	close(guest);
	start_with(&handlers, NULL);
	guest = dial();
	say(guest, "?");
	assert_true(WAIT_FOR(atomic_load(&seen.calls) == 1));
	fail_allocation(1, true);
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(refused(server.port)));
	close_with_reset(guest);
	assert_true(WAIT_FOR(nr_closed() == 1));
	stop_without_memory();
}

/* The real thing */

static void limit_memory(rlim_t more)
{
	FILE *file = fopen("/proc/self/statm", "re");
	struct rlimit limit;
	long pages = 0;

	CHECK(file && fscanf(file, "%ld", &pages) == 1);
	fclose(file);
	CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
	limit.rlim_cur = (rlim_t)pages * (rlim_t)getpagesize() + more;
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

#define CROWD 300
#define MUCH  ((size_t)900 << 10)

static size_t keep_or_echo(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	if (*data == 'e')
		return echo_data(conn, data, len, arg);
	note_bytes(len);
	return 0;
}

/* Each of them says much that is kept. */
static void be_exhausted(void *arg)
{
	static const struct evt_handlers handlers = {.on_data = keep_or_echo};
	static int clients[CROWD];
	unsigned long failed;
	int i;

	(void)arg;
	start_server(&handlers, NULL, 2);
	CHECK(serves(server.port));
	limit_memory(16 << 20);
	for (i = 0; i < CROWD; i++) {
		CHECK((clients[i] = connect_to(server.port)) != -1);
		(void)send_all(clients[i], big, MUCH);
	}
	CHECK(WAIT_FOR(server_stats().closed_failed > 50));
	failed = server_stats().closed_failed;
	CHECK(failed < CROWD - 20);
	hang_up(clients, CROWD);
	CHECK(WAIT_FOR(server_stats().open == 0));
	for (i = 0; i < 20; i++)
		CHECK(serves(server.port));
	CHECK(end_server().dropped < CROWD / 2);
}

/* K04 */
static void without_memory_some_are_sent_away_and_it_goes_on(void **state)
{
	(void)state;
	if (!under("plain")) /* whose own memory is large */
		skip();
	assert_int_equal(in_child(be_exhausted, NULL, 20), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_new_pool_survives_each_allocation),
		SERVER_TEST(listening_survives_each_allocation),
		SERVER_TEST(starting_survives_each_allocation),
		SERVER_TEST(what_has_started_listens),
		SERVER_TEST(the_first_client_survives_each_allocation),
		SERVER_TEST(listening_in_the_run_survives_each_allocation),
		SERVER_TEST(sending_survives_each_allocation),
		SERVER_TEST(posting_and_serving_allocate_nothing),
		SERVER_TEST(stopping_and_closing_allocate_nothing),
		SERVER_TEST(without_memory_some_are_sent_away_and_it_goes_on),
	};

	return ledger_run("listen_memory", tests);
}
