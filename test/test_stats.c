/*
 * test_stats.c: each counter of EVT_STATS, made to count exactly, and nothing
 * else counting along with it.
 */
/* wrap: accept4 */
#include "pool_rig.h"
#include "inject.h"

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);

static struct inject on_accept4 = {.name = "accept4"};

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	if (injected(&on_accept4))
		return -1;
	return __real_accept4(fd, addr, len, flags);
}

/* What the counters came to once the pool has stopped, but for those of times
 * and bytes. */
static struct evt_stats final_stats(void)
{
	struct evt_stats stats;

	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(is_balanced());
	stats = stats_now();
	free_pool();
	return stats;
}

/* All of the counts are those of wanted. */
static void expect_counts(const struct evt_stats *wanted)
{
	const struct evt_stats now = final_stats();

#define SAME(name, text)                                                  \
	if (strstr(#name, "bytes_") == NULL && now.name != wanted->name)  \
		fail_msg(#name ": %lu, not %lu", (unsigned long)now.name, \
			(unsigned long)wanted->name);
#define ANY(name, text)
	EVT_STATS(SAME, ANY)
#undef SAME
#undef ANY
}

static void a_new_pool_has_counted_nothing(void **state)
{
	const struct evt_stats none = {0};
	struct evt_stats stats;

	(void)state;
	make_pool(NULL, NULL, NULL);
	stats = stats_now();
	assert_memory_equal(&stats, &none, sizeof(none));
	free_pool();
}

static void accepted_and_opened_and_open(void **state)
{
	const struct evt_stats wanted = {.accepted = 7,
		.opened = 7,
		.closed_peer = 4,
		.closed_stopped = 3};
	struct evt_stats stats;
	int clients[7];

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(clients, 7);
	stats = stats_now();
	assert_int_equal(stats.accepted, 7);
	assert_int_equal(stats.opened, 7);
	assert_int_equal(stats.open, 7);
	close_clients(clients, 4);
	assert_true(WAIT_FOR(stats_now().open == 3));
	expect_counts(&wanted);
	close_clients(clients + 4, 3);
}

static void bytes_in_and_bytes_out(void **state)
{
	static char bytes[100000];
	struct evt_stats stats;
	int client;

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(&client, 1);
	assert_true(send_all(client, bytes, sizeof(bytes)));
	assert_true(receive_all(client, bytes, sizeof(bytes)));
	close(client);
	stats = final_stats();
	assert_int_equal(stats.bytes_in, sizeof(bytes));
	assert_int_equal(stats.bytes_out, sizeof(bytes));
}

static void refused_above_the_limit(void **state)
{
	const struct evt_listen_options how = {.max_conns = 2, .refuse = 1};
	const struct evt_stats wanted = {
		.accepted = 5, .opened = 2, .refused = 3, .closed_peer = 2};
	int clients[2];
	int i;

	(void)state;
	start_pool(NULL, NULL, &how);
	connect_clients(clients, 2);
	for (i = 0; i < 3; i++) {
		int fd = connect_to(pool_port);

		assert_true(at_end(fd));
		close(fd);
	}
	close_clients(clients, 2);
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 2));
	expect_counts(&wanted);
}

static int choose_nobody(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	(void)self;
	(void)peer;
	(void)arg;
	return -1;
}

static void refused_by_choice(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = choose_nobody};
	const struct evt_stats wanted = {.accepted = 4, .refused = 4};
	int i;

	(void)state;
	start_pool(NULL, NULL, &how);
	for (i = 0; i < 4; i++) {
		int fd = connect_to(pool_port);

		assert_true(at_end(fd));
		close(fd);
	}
	expect_counts(&wanted);
}

static void refused_by_source(void **state)
{
	const struct evt_listen_options how = {.max_per_source = 1};
	const struct evt_stats wanted = {
		.accepted = 2, .opened = 1, .refused = 1, .closed_stopped = 1};
	int client;
	int fd;

	(void)state;
	start_pool(NULL, NULL, &how);
	connect_clients(&client, 1);
	fd = connect_to(pool_port);
	assert_true(at_end(fd));
	close(fd);
	expect_counts(&wanted);
	close(client);
}

/* K01 */
static void dropped_for_want_of_memory(void **state)
{
	const struct evt_stats wanted = {
		.accepted = 2, .opened = 1, .dropped = 1, .closed_peer = 1};
	int fd;

	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_true(answers(pool_port));
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 1));
	fail_allocation(1, true); /* the next worker has no connection yet */
	fd = connect_to(pool_port);
	assert_true(at_end(fd));
	fail_allocation(0, false);
	close(fd);
	expect_counts(&wanted);
	assert_true(log_has("no memory for a connection"));
}

static size_t end_thread_at_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn;
	(void)data;
	(void)len;
	(void)arg;
	wait_at_gate();
	pthread_exit(NULL);
}

/* C15: the pipe of the only worker, which ends. */
static void dropped_for_want_of_a_worker(void **state)
{
	const struct evt_pool_options one = {.workers = 1};
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = end_thread_at_data,
		.on_close = note_close};
	const struct evt_stats wanted = {
		.accepted = 4, .opened = 1, .dropped = 3, .closed_failed = 1};
	int clients[3];
	int first;
	int i;

	(void)state;
	start_pool(&one, &handlers, NULL);
	connect_clients(&first, 1);
	assert_true(send_all(first, "x", 1));
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	for (i = 0; i < 3; i++)
		clients[i] = connect_to(pool_port);
	assert_true(WAIT_FOR(stats_now().accepted == 4));
	open_gate();
	for (i = 0; i < 3; i++)
		assert_true(at_end(clients[i]));
	close_clients(clients, 3);
	close(first);
	expect_counts(&wanted);
}

static char url[64];

static void connect_out(struct evt_worker *worker, void *arg)
{
	if (!evt_connect(worker, url, arg, NULL, NULL))
		abort();
}

static void connect_from(int index, const struct evt_handlers *handlers)
{
	assert_int_equal(evt_worker_post(evt_pool_worker(pool, index),
				 connect_out, (void *)(uintptr_t)handlers),
		0);
}

static void connected_is_counted_apart_from_opened(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", pool_port);
	connect_from(0, &echoes);
	assert_true(WAIT_FOR(atomic_load(&seen.opened) == 2));
	assert_int_equal(stats_now().open, 2);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_int_equal(stats_now().connected, 1);
	assert_int_equal(stats_now().opened, 1);
	assert_true(is_balanced());
	free_pool();
}

static void connects_that_failed(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_close = note_close};
	struct evt_stats stats;

	(void)state;
	start_pool(NULL, NULL, NULL);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:1");
	connect_from(0, &handlers);
	connect_from(1, &handlers);
	assert_true(
		WAIT_FOR(atomic_load(&seen.reasons[EVT_REASON_FAILED]) == 2));
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	stats = stats_now();
	assert_int_equal(stats.connects_failed, 2);
	assert_int_equal(stats.connected + stats.open + ended(&stats), 0);
	free_pool();
}

static void close_at_open(struct evt_conn *conn, void *arg)
{
	note_open(conn, arg);
	evt_conn_close(conn);
}

static void abort_at_open(struct evt_conn *conn, void *arg)
{
	note_open(conn, arg);
	evt_conn_abort(conn);
}

/* Each of nr clients is waited for. */
static void serve_clients(int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		int fd = connect_to(pool_port);

		assert_int_not_equal(fd, -1);
		assert_true(at_end(fd));
		close(fd);
	}
}

static void closed_ours(void **state)
{
	const struct evt_handlers closes = {
		.on_open = close_at_open, .on_close = note_close};
	const struct evt_handlers aborts = {
		.on_open = abort_at_open, .on_close = note_close};
	const struct evt_stats wanted = {
		.accepted = 3, .opened = 3, .closed_ours = 3};

	(void)state;
	start_pool(NULL, &closes, NULL);
	serve_clients(3);
	expect_counts(&wanted);
	start_pool(NULL, &aborts, NULL);
	serve_clients(3);
	expect_counts(&wanted);
}

static void closed_reset(void **state)
{
	const struct evt_stats wanted = {
		.accepted = 3, .opened = 3, .closed_reset = 3};
	int clients[3];
	int i;

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(clients, 3);
	for (i = 0; i < 3; i++)
		close_with_reset(clients[i]);
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 3));
	expect_counts(&wanted);
}

static void closed_idle(void **state)
{
	const struct evt_listen_options how = {.idle_ms = 20};
	const struct evt_stats wanted = {
		.accepted = 2, .opened = 2, .closed_idle = 2};

	(void)state;
	start_pool(NULL, NULL, &how);
	serve_clients(2);
	expect_counts(&wanted);
}

static void closed_deadline(void **state)
{
	const struct evt_listen_options first = {.first_byte_ms = 20};
	const struct evt_listen_options life = {.lifetime_ms = 20};
	const struct evt_stats wanted = {
		.accepted = 2, .opened = 2, .closed_deadline = 2};

	(void)state;
	start_pool(NULL, NULL, &first);
	serve_clients(2);
	expect_counts(&wanted);
	start_pool(NULL, NULL, &life);
	serve_clients(2);
	expect_counts(&wanted);
}

static size_t consume_nothing(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn;
	(void)data;
	(void)len;
	(void)arg;
	return 0;
}

static void closed_overflow(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = consume_nothing,
		.on_close = note_close};
	const struct evt_listen_options how = {.max_input = 100};
	const struct evt_stats wanted = {
		.accepted = 1, .opened = 1, .closed_overflow = 1};
	char bytes[200] = "";
	int client;

	(void)state;
	start_pool(NULL, &handlers, &how);
	connect_clients(&client, 1);
	assert_true(send_all(client, bytes, sizeof(bytes)));
	assert_true(at_end(client));
	close(client);
	expect_counts(&wanted);
}

static size_t consume_too_much(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn;
	(void)data;
	(void)arg;
	return len + 1;
}

static void closed_failed(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = consume_too_much,
		.on_close = note_close};
	const struct evt_stats wanted = {
		.accepted = 1, .opened = 1, .closed_failed = 1};
	int client;

	(void)state;
	start_pool(NULL, &handlers, NULL);
	connect_clients(&client, 1);
	assert_true(send_all(client, "x", 1));
	assert_true(at_end(client));
	close(client);
	expect_counts(&wanted);
}

static void accept_pauses_once_at_the_limit(void **state)
{
	const struct evt_listen_options how = {.max_conns = 1};
	const struct evt_stats wanted = {.accepted = 2,
		.opened = 2,
		.closed_peer = 1,
		.closed_stopped = 1,
		.accept_pauses = 1};
	int clients[2];

	(void)state;
	start_pool(NULL, NULL, &how);
	connect_clients(&clients[0], 1);
	clients[1] = connect_to(pool_port);
	assert_true(WAIT_FOR(stats_now().accept_pauses == 1));
	close(clients[0]);
	assert_true(WAIT_FOR(atomic_load(&seen.opened) == 2));
	expect_counts(&wanted);
	close(clients[1]);
}

/* B04 */
static void vanished_before_they_were_accepted(void **state)
{
	const struct evt_stats wanted = {
		.accepted = 1, .opened = 1, .closed_peer = 1, .vanished = 3};

	(void)state;
	start_pool(NULL, NULL, NULL);
	inject(&on_accept4, ECONNABORTED, 0, 3);
	assert_true(answers(pool_port));
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 1));
	expect_counts(&wanted);
}

static void no_conn_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_fetch_add(&seen.tasks, conn ? 100 : 1);
}

static void posts_and_sends_to_one_that_is_gone(void **state)
{
	static const char large[5000];
	const struct evt_stats wanted = {
		.accepted = 1, .opened = 1, .closed_peer = 1, .gone = 3};
	uint64_t id;
	int client;

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(&client, 1);
	id = atomic_load(&seen.id);
	close(client);
	assert_true(WAIT_FOR(stats_now().open == 0));
	assert_int_equal(evt_pool_post_conn(pool, id, no_conn_task, NULL), 0);
	assert_int_equal(evt_pool_send(pool, id, "x", 1), 0);
	assert_int_equal(evt_pool_send(pool, id, large, sizeof(large)), 0);
	assert_true(WAIT_FOR(stats_now().gone == 3));
	assert_int_equal(atomic_load(&seen.tasks), 1);
	expect_counts(&wanted);
}

static void stalls_are_counted_once_each(void **state)
{
	const struct evt_pool_options options = {
		.workers = WORKERS, .stall_ms = 20};
	const struct evt_stats wanted = {.stalls = 2};
	int64_t begin;

	(void)state;
	start_pool(&options, NULL, NULL);
	hold_worker(0);
	hold_worker(2);
	assert_true(WAIT_FOR(stats_now().stalls == 2));
	begin = now_ms(); /* several times stall_ms */
	assert_true(WAIT_FOR(now_ms() - begin >= 100));
	open_gate();
	expect_counts(&wanted);
}

static void the_longest_callback_and_the_longest_wait(void **state)
{
	const struct evt_pool_options one = {.workers = 1};
	struct evt_stats stats;
	int64_t begin;

	(void)state;
	start_pool(&one, NULL, NULL);
	assert_true(answers(pool_port));
	begin = now_ms();
	hold_worker(0);
	assert_int_equal(evt_pool_post_all(pool, note_task_ran, NULL), 1);
	assert_true(WAIT_FOR(now_ms() - begin >= 50));
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == 1));
	stats = final_stats();
	assert_in_range(stats.longest_callback_us, 45000,
		500000 * (unsigned)slowness());
	assert_in_range(
		stats.longest_wait_us, 40000, 500000 * (unsigned)slowness());
}

static void the_counters_stay_until_the_pool_is_freed(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_true(answers(pool_port));
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_int_equal(stats_now().accepted, 1);
	assert_int_equal(stats_now().accepted, 1);
	assert_int_equal(stats_now().bytes_in, 1);
	free_pool();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_new_pool_has_counted_nothing),
		LEDGER_TEST(accepted_and_opened_and_open),
		LEDGER_TEST(bytes_in_and_bytes_out),
		LEDGER_TEST(refused_above_the_limit),
		LEDGER_TEST(refused_by_choice),
		LEDGER_TEST(refused_by_source),
		LEDGER_TEST(dropped_for_want_of_memory),
		LEDGER_TEST(dropped_for_want_of_a_worker),
		LEDGER_TEST(connected_is_counted_apart_from_opened),
		LEDGER_TEST(connects_that_failed),
		LEDGER_TEST(closed_ours),
		LEDGER_TEST(closed_reset),
		LEDGER_TEST(closed_idle),
		LEDGER_TEST(closed_deadline),
		LEDGER_TEST(closed_overflow),
		LEDGER_TEST(closed_failed),
		LEDGER_TEST(accept_pauses_once_at_the_limit),
		LEDGER_TEST(vanished_before_they_were_accepted),
		LEDGER_TEST(posts_and_sends_to_one_that_is_gone),
		LEDGER_TEST(stalls_are_counted_once_each),
		LEDGER_TEST(the_longest_callback_and_the_longest_wait),
		LEDGER_TEST(the_counters_stay_until_the_pool_is_freed),
	};

	return ledger_run("stats", tests);
}
