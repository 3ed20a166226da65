/*
 * test_conn_send.c: evt_pool_send: bytes for a connection from any thread, in
 * the order of each, whole or not at all, and for nobody else.
 */
#include "server_rig.h"
#include "../evt-pipe-internal.h"

#include <limits.h>
#include <pthread.h>

static const struct evt_handlers echo_handlers = {.on_data = echo_data};
static const struct evt_listen_options no_limits = {
	.max_output = (size_t)-1, .idle_ms = -1};

/* A connection to a new server: its descriptor; its id is seen.id. */
static int start_and_dial(int workers)
{
	start_server(&echo_handlers, &no_limits, workers);
	return dial_and_wait();
}

static int send_text(uint64_t id, const char *text)
{
	return evt_pool_send(server.pool, id, text, strlen(text));
}

static int worker_of(uint64_t id)
{
	return (int)(id >> 48);
}

/* A worker that is held up until the test lets it go. */

static atomic_bool is_held;
static atomic_bool let_go;

static void be_held(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	atomic_store(&is_held, true);
	(void)!WAIT_FOR(atomic_load(&let_go));
}

static void hold(int index)
{
	atomic_store(&is_held, false);
	atomic_store(&let_go, false);
	assert_int_equal(evt_worker_post(evt_pool_worker(server.pool, index),
				 be_held, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&is_held)));
}

/* Lengths */

/* Around what travels inside of the pipe, and what is a whole number of
 * records or is not. */
static void bytes_of_every_length_arrive(void **state)
{
	char *bytes = new_pattern(0, 2101 * 1050 + 2101);
	size_t at = 0;
	size_t len;
	int fd;

	(void)state;
	assert_true(EVT_SEND_INLINE > 1000 && EVT_SEND_INLINE < 2100);
	fd = start_and_dial(1);
	for (len = 0; len <= 2100; len++) {
		assert_int_equal(
			evt_pool_send(server.pool, atomic_load(&seen.id),
				bytes + at, len),
			0);
		at += len;
	}
	assert_int_equal(hear_pattern(fd, 0, at), at);
	assert_int_equal(nr_closed(), 0);
	free(bytes);
	close(fd);
}

static void large_and_small_ones_keep_their_order(void **state)
{
	static const size_t lens[] = {1, 100000, 31, 2016, 32, 2017, 1 << 20,
		33, 65536, 4095, 4096, 4097};
	char *bytes = new_pattern(0, 8 << 20);
	size_t at = 0;
	size_t i;
	int fd;

	(void)state;
	fd = start_and_dial(1);
	for (i = 0; i < 4 * sizeof(lens) / sizeof(lens[0]); i++) {
		size_t len = lens[i % (sizeof(lens) / sizeof(lens[0]))];

		assert_int_equal(
			evt_pool_send(server.pool, atomic_load(&seen.id),
				bytes + at, len),
			0);
		at += len;
	}
	assert_int_equal(hear_pattern(fd, 0, at), at);
	free(bytes);
	close(fd);
}

static void the_bytes_are_copied_before_it_returns(void **state)
{
	static const size_t lens[] = {100, 50000};
	char *bytes = malloc(50000);
	size_t i;
	int fd;

	(void)state;
	fd = start_and_dial(1);
	for (i = 0; i < 2; i++) {
		fill_pattern(bytes, 0, lens[i]);
		hold(0);
		assert_int_equal(evt_pool_send(server.pool,
					 atomic_load(&seen.id), bytes, lens[i]),
			0);
		memset(bytes, 'x', lens[i]);
		atomic_store(&let_go, true);
		assert_int_equal(hear_pattern(fd, 0, lens[i]), lens[i]);
	}
	free(bytes);
	close(fd);
}

/* Senders */

#define SENDERS  4
#define MESSAGES 600

struct message {
	int sender;
	int number;
	size_t len; /* of what follows: pattern from number on */
};

struct sender {
	pthread_t thread;
	int number;
	int refused;
};

static size_t length_of(int sender, int number)
{
	return (size_t)(number * 37 + sender * 11) % (number % 20 ? 500 : 9000);
}

static void *sender_main(void *arg)
{
	struct sender *it = arg;
	char bytes[sizeof(struct message) + 9000];
	int i;

	for (i = 0; i < MESSAGES; i++) {
		struct message message = {
			it->number, i, length_of(it->number, i)};

		memcpy(bytes, &message, sizeof(message));
		fill_pattern(bytes + sizeof(message), (size_t)i, message.len);
		it->refused += evt_pool_send(server.pool, atomic_load(&seen.id),
				       bytes,
				       sizeof(message) + message.len) == -1;
	}
	return NULL;
}

static void hear_messages(int fd, int nr)
{
	int next[SENDERS] = {0};
	struct message message;

	for (; nr > 0; nr--) {
		assert_true(receive_all(fd, &message, sizeof(message)));
		assert_in_range(message.sender, 0, SENDERS - 1);
		assert_int_equal(message.number, next[message.sender]++);
		assert_int_equal(
			message.len, length_of(message.sender, message.number));
		assert_int_equal(
			hear_pattern(fd, (size_t)message.number, message.len),
			message.len);
	}
}

static void each_senders_messages_arrive_whole_and_in_order(void **state)
{
	struct sender senders[SENDERS];
	int fd;
	int i;

	(void)state;
	fd = start_and_dial(1);
	for (i = 0; i < SENDERS; i++) {
		senders[i] = (struct sender){.number = i};
		assert_int_equal(pthread_create(&senders[i].thread, NULL,
					 sender_main, &senders[i]),
			0);
	}
	hear_messages(fd, SENDERS * MESSAGES);
	for (i = 0; i < SENDERS; i++) {
		pthread_join(senders[i].thread, NULL);
		assert_int_equal(senders[i].refused, 0);
	}
	close(fd);
}

static size_t send_to_itself(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	struct evt_pool *pool = evt_worker_pool(evt_conn_worker(conn));
	uint64_t id = evt_conn_id(conn);

	(void)data, (void)arg;
	evt_conn_write(conn, "1", 1);
	evt_pool_send(pool, id, "4", 1);
	evt_conn_write(conn, "2", 1);
	evt_pool_send(pool, id, "5", 1);
	evt_conn_write(conn, "3", 1);
	return len;
}

/* The order of the sends is kept there too; they come after the callback. */
static void a_callback_may_send_to_its_own_connection(void **state)
{
	const struct evt_handlers handlers = {.on_data = send_to_itself};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	say(fd, "x");
	hears(fd, "12345");
	close(fd);
}

/* A full pipe */

struct filling {
	uint64_t id;
	size_t len;
	atomic_int taken;
	atomic_int error;
};

static void fill_pipe(struct evt_worker *worker, void *arg)
{
	struct filling *it = arg;
	char bytes[4096] = {0};

	memset(bytes, 'f', it->len);
	errno = 0;
	while (atomic_load(&it->taken) < 100000 &&
		evt_pool_send(
			evt_worker_pool(worker), it->id, bytes, it->len) == 0)
		atomic_fetch_add(&it->taken, 1);
	atomic_store(&it->error, errno);
}

static size_t hear_rest(int fd, size_t len)
{
	char bytes[4096];
	size_t heard = 0;

	while (heard < len) {
		size_t want = len - heard < sizeof(bytes) ? len - heard
							  : sizeof(bytes);

		if (!receive_all(fd, bytes, want))
			break;
		heard += want;
	}
	return heard;
}

/* EAGAIN, no line, and exactly what was taken arrives. */
static void fill_and_look(struct evt_worker *from, int held, int fd, size_t len)
{
	static struct filling it;
	size_t taken;

	it = (struct filling){.id = atomic_load(&seen.id), .len = len};
	log_forget();
	if (held >= 0)
		hold(held);
	assert_int_equal(evt_worker_post(from, fill_pipe, &it), 0);
	assert_true(WAIT_FOR(atomic_load(&it.error) != 0));
	assert_int_equal(atomic_load(&it.error), EAGAIN);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	atomic_store(&let_go, true);
	taken = (size_t)atomic_load(&it.taken);
	assert_true(taken > 0 && taken < 100000);
	assert_int_equal(hear_rest(fd, taken * len), taken * len);
	assert_int_equal(send_text(it.id, "next"), 0);
	hears(fd, "next");
}

static void a_worker_is_told_that_anothers_pipe_is_full(void **state)
{
	static const size_t lens[] = {1, 2000, 2017};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		int fd = start_and_dial(2);
		int to = worker_of(atomic_load(&seen.id));

		fill_and_look(
			evt_pool_worker(server.pool, 1 - to), to, fd, lens[i]);
		close(fd);
	}
}

static void a_worker_is_told_that_its_own_pipe_is_full(void **state)
{
	static const size_t lens[] = {1, 2000, 2017};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		int fd = start_and_dial(1);

		fill_and_look(evt_pool_worker(server.pool, 0), -1, fd, lens[i]);
		close(fd);
	}
}

static atomic_int sent_by_thread;

static void *send_many(void *arg)
{
	static const char bytes[2000];
	int *nr = arg;

	while (atomic_load(&sent_by_thread) < *nr &&
		evt_pool_send(server.pool, atomic_load(&seen.id), bytes,
			sizeof(bytes)) == 0)
		atomic_fetch_add(&sent_by_thread, 1);
	return NULL;
}

static void another_thread_waits_for_room(void **state)
{
	int nr = 1000; /* 2 MB: far more than a pipe holds */
	pthread_t thread;
	int fd;

	(void)state;
	fd = start_and_dial(1);
	atomic_store(&sent_by_thread, 0);
	hold(0);
	assert_int_equal(pthread_create(&thread, NULL, send_many, &nr), 0);
	assert_true(WAIT_FOR(atomic_load(&sent_by_thread) > 0));
	assert_true(stays_silent(fd, 50));
	assert_true(atomic_load(&sent_by_thread) < nr);
	atomic_store(&let_go, true);
	assert_int_equal(hear_rest(fd, 2000 * 1000), 2000 * 1000);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&sent_by_thread), nr);
	close(fd);
}

/* Refused */

static void what_cannot_be_sent_is_refused(void **state)
{
	uint64_t id;
	int fd;

	(void)state;
	fd = start_and_dial(1);
	id = atomic_load(&seen.id);
	log_forget();
	assert_int_equal(evt_pool_send(server.pool, id, NULL, 1), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_pool_send(server.pool, id, "x", SIZE_MAX), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_WARN), 2);
	assert_int_equal(evt_pool_send(server.pool, id, NULL, 0), 0);
	assert_int_equal(evt_pool_send(server.pool, id, "x", 0), 0);
	assert_true(stays_silent(fd, 50));
	close(fd);
}

/* K01 */
static void without_memory_a_large_one_is_refused(void **state)
{
	char *bytes = new_pattern(0, 5000);
	int result;
	int error;
	int fd;

	(void)state;
	fd = start_and_dial(1);
	fail_allocation(1, true);
	result = evt_pool_send(server.pool, atomic_load(&seen.id), bytes, 5000);
	error = errno;
	fail_allocation(0, false);
	assert_int_equal(result, -1);
	assert_int_equal(error, ENOMEM);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_int_equal(
		evt_pool_send(server.pool, atomic_load(&seen.id), bytes, 5000),
		0);
	assert_int_equal(hear_pattern(fd, 0, 5000), 5000);
	free(bytes);
	close(fd);
}

static void more_than_max_output_ends_the_target(void **state)
{
	const struct evt_listen_options options = {
		.max_output = 100000, .high_mark = 100000};
	char *bytes = new_pattern(0, 32 << 20);
	uint64_t id;
	int fd;

	(void)state;
	start_server(&echo_handlers, &options, 1);
	fd = dial_and_wait();
	id = atomic_load(&seen.id);
	assert_int_equal(evt_pool_send(server.pool, id, bytes, 32 << 20), 0);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_OVERFLOW);
	assert_int_equal(evt_pool_send(server.pool, id, bytes, 10), 0);
	assert_int_equal(evt_pool_send(server.pool, id, bytes, 10000), 0);
	assert_true(WAIT_FOR(server_stats().gone == 2));
	free(bytes);
	close(fd);
}

static void finish_it(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_write(conn, "last", 4);
	evt_conn_finish(conn);
}

/* As a write after evt_conn_finish: it has no effect. */
static void nothing_is_sent_after_the_end_of_the_stream(void **state)
{
	char bytes[3000] = {0};
	uint64_t id;
	int fd;

	(void)state;
	fd = start_and_dial(1);
	id = atomic_load(&seen.id);
	assert_true(on_conn(id, finish_it, NULL));
	assert_int_equal(send_text(id, "later"), 0);
	assert_int_equal(evt_pool_send(server.pool, id, bytes, 3000), 0);
	hears(fd, "last");
	assert_true(ends_cleanly(fd));
	close(fd);
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), EVT_REASON_PEER);
}

/* Stopping, and losing a worker */

static void close_it(struct evt_conn *conn, void *arg)
{
	(void)arg;
	if (conn)
		evt_conn_close(conn);
}

static void while_the_pool_drains_bytes_arrive(void **state)
{
	const struct evt_handlers handlers = {.on_stop = note_stop};
	uint64_t id;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	id = atomic_load(&seen.id);
	evt_pool_stop(server.pool);
	assert_true(WAIT_FOR(atomic_load(&seen.stops) == 1));
	assert_int_equal(send_text(id, "goodbye"), 0);
	hears(fd, "goodbye");
	assert_int_equal(
		evt_pool_post_conn(server.pool, id, close_it, NULL), 0);
	assert_true(ends_cleanly(fd));
	close(fd);
}

static void end_thread(struct evt_worker *worker, void *arg)
{
	be_held(worker, arg);
	pthread_exit(NULL);
}

static atomic_int nr_tasks;
static atomic_int nr_met;

static void note_whom(struct evt_conn *conn, void *arg)
{
	(void)arg;
	if (conn)
		atomic_fetch_add(&nr_met, 1);
	atomic_fetch_add(&nr_tasks, 1);
}

/* Two connections on two workers: their slots and generations are the same. */
static void dial_both(int fds[2], uint64_t ids[2])
{
	int i;

	start_server(&echo_handlers, &no_limits, 2);
	for (i = 0; i < 2; i++) {
		fds[i] = dial_and_wait();
		ids[i] = atomic_load(&seen.id);
	}
	assert_int_not_equal(worker_of(ids[0]), worker_of(ids[1]));
	assert_int_equal(ids[0] << 16, ids[1] << 16);
	atomic_store(&nr_tasks, 0);
	atomic_store(&nr_met, 0);
}

/* The worker of id is held, and then ends its thread. */
static void hold_to_lose(uint64_t id)
{
	atomic_store(&is_held, false);
	atomic_store(&let_go, false);
	assert_int_equal(
		evt_worker_post(evt_pool_worker(server.pool, worker_of(id)),
			end_thread, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&is_held)));
}

static void what_waits_for_a_lost_worker_reaches_nobody(void **state)
{
	char bytes[3000] = {0};
	uint64_t ids[2];
	int fds[2];
	int i;

	(void)state;
	dial_both(fds, ids);
	hold_to_lose(ids[0]);
	for (i = 0; i < 5; i++) {
		assert_int_equal(send_text(ids[0], "for 0"), 0);
		assert_int_equal(
			evt_pool_send(server.pool, ids[0], bytes, 3000), 0);
		assert_int_equal(evt_pool_post_conn(
					 server.pool, ids[0], note_whom, NULL),
			0);
	}
	atomic_store(&let_go, true);
	assert_true(WAIT_FOR(atomic_load(&nr_tasks) == 5));
	assert_int_equal(atomic_load(&nr_met), 0);
	assert_true(stays_silent(fds[1], 50));
	say(fds[1], "echo");
	hears(fds[1], "echo");
	close(fds[0]);
	close(fds[1]);
}

/* Least of all another connection with the same slot on another worker. */
static void what_comes_for_a_lost_worker_reaches_nobody(void **state)
{
	char bytes[3000] = {0};
	uint64_t ids[2];
	int fds[2];

	(void)state;
	dial_both(fds, ids);
	hold_to_lose(ids[0]);
	atomic_store(&let_go, true);
	assert_true(WAIT_FOR(nr_closed() == 1)); /* with its worker */
	assert_int_equal(
		evt_pool_post_conn(server.pool, ids[0], note_whom, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&nr_tasks) == 1));
	assert_int_equal(atomic_load(&nr_met), 0);
	assert_int_equal(send_text(ids[0], "for 0"), 0);
	assert_int_equal(evt_pool_send(server.pool, ids[0], bytes, 3000), 0);
	assert_true(stays_silent(fds[1], 50));
	say(fds[1], "echo");
	hears(fds[1], "echo");
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(bytes_of_every_length_arrive),
		SERVER_TEST(large_and_small_ones_keep_their_order),
		SERVER_TEST(the_bytes_are_copied_before_it_returns),
		SERVER_TEST(each_senders_messages_arrive_whole_and_in_order),
		SERVER_TEST(a_callback_may_send_to_its_own_connection),
		SERVER_TEST(a_worker_is_told_that_anothers_pipe_is_full),
		SERVER_TEST(a_worker_is_told_that_its_own_pipe_is_full),
		SERVER_TEST(another_thread_waits_for_room),
		SERVER_TEST(what_cannot_be_sent_is_refused),
		SERVER_TEST(without_memory_a_large_one_is_refused),
		SERVER_TEST(more_than_max_output_ends_the_target),
		SERVER_TEST(nothing_is_sent_after_the_end_of_the_stream),
		SERVER_TEST(while_the_pool_drains_bytes_arrive),
		SERVER_TEST(what_waits_for_a_lost_worker_reaches_nobody),
		SERVER_TEST(what_comes_for_a_lost_worker_reaches_nobody),
	};

	return ledger_run("conn_send", tests);
}
