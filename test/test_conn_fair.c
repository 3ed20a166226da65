/*
 * test_conn_fair.c: however busy one connection keeps its worker, another of
 * the same worker has its turn.
 */
#include "server_rig.h"

#include <pthread.h>

static atomic_bool enough;
static atomic_int rounds; /* of what keeps the worker busy */

/* A client that reads for as long as there is something. */
static void *read_on(void *arg)
{
	char bytes[65536];
	int fd = *(int *)arg;

	while (recv(fd, bytes, sizeof(bytes), 0) > 0)
		;
	return NULL;
}

/* A client that sends x for as long as it may. */
static void *send_on(void *arg)
{
	char bytes[65536];
	int fd = *(int *)arg;

	memset(bytes, 'x', sizeof(bytes));
	while (!atomic_load(&enough) && send_all(fd, bytes, sizeof(bytes)))
		;
	shutdown(fd, SHUT_WR);
	return NULL;
}

/* Twenty echoes on another connection, while the first is kept busy by task
 * and its client by fn. */
static void others_have_their_turn(const struct evt_handlers *handlers,
	void (*task)(struct evt_conn *, void *), void *(*fn)(void *))
{
	pthread_t thread;
	int busy;
	int fd;
	int i;

	atomic_store(&enough, false);
	atomic_store(&rounds, 0);
	start_server(handlers, NULL, 1);
	busy = dial_and_wait();
	assert_int_equal(pthread_create(&thread, NULL, fn, &busy), 0);
	assert_int_equal(evt_pool_post_conn(server.pool, atomic_load(&seen.id),
				 task, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&rounds) >= 100));
	fd = dial();
	for (i = 0; i < 20; i++) {
		bool heard;
		char byte;

		say(fd, "?");
		heard = receive_all(fd, &byte, 1);
		if (!heard)
			atomic_store(&enough, true);
		assert_true(heard);
	}
	atomic_store(&enough, true);
	close(fd);
	shutdown(busy, SHUT_RD); /* its thread reads the end of the stream */
	pthread_join(thread, NULL);
	close_with_reset(busy);
}

static size_t answer_questions(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	if (*data == '?')
		evt_conn_write(conn, "!", 1);
	else
		atomic_fetch_add(&rounds, 1);
	return len;
}

static size_t chunk; /* bytes of each write */

static void write_next(void *conn)
{
	atomic_fetch_add(&rounds, 1);
	if (!atomic_load(&enough))
		evt_conn_write_ref(conn, large, chunk, write_next, conn);
}

static void start_stream(struct evt_conn *conn, void *arg)
{
	(void)arg;
	write_next(conn);
}

static const struct evt_handlers answering = {.on_data = answer_questions};

static void a_stream_of_small_refs_lets_others_have_their_turn(void **state)
{
	(void)state;
	chunk = 100;
	others_have_their_turn(&answering, start_stream, read_on);
}

static void a_stream_of_large_refs_lets_others_have_their_turn(void **state)
{
	(void)state;
	chunk = 8192;
	others_have_their_turn(&answering, start_stream, read_on);
}

static void an_upload_lets_others_have_their_turn(void **state)
{
	(void)state;
	others_have_their_turn(&answering, do_nothing, send_on);
}

static size_t pause_and_resume(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	if (*data == '?')
		return answer_questions(conn, data, len, arg);
	atomic_fetch_add(&rounds, 1);
	evt_conn_pause(conn);
	evt_conn_resume(conn);
	return atomic_load(&enough) ? len : 0;
}

/* Each resume calls on_data again, but not at once for ever. */
static void one_that_resumes_at_each_call_lets_others_have_their_turn(
	void **state)
{
	const struct evt_handlers handlers = {.on_data = pause_and_resume};

	(void)state;
	others_have_their_turn(&handlers, do_nothing, send_on);
}

/* One that asks for much by little, and one that asks for little meanwhile */

static int small_fd;
static atomic_int before; /* calls for the one, before the other is heard */
static atomic_bool heard;
static size_t answer; /* bytes, for each byte that comes */
static atomic_bool yields;

static size_t answer_each(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)len, (void)arg;
	if (*data == '?') {
		atomic_store(&heard, true);
		return 1;
	}
	if (atomic_fetch_add(&rounds, 1) == 0)
		(void)!write(small_fd, "?", 1);
	if (!atomic_load(&heard))
		atomic_fetch_add(&before, 1);
	evt_conn_write(conn, large, answer);
	if (atomic_load(&yields)) {
		evt_conn_pause(conn);
		evt_conn_resume(conn);
	}
	return 1;
}

/* How often the one is called before the other is heard; all is answered. */
static int calls_before_the_other(size_t bytes, bool yielding)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_data = answer_each};
	const int asked = 400;
	pthread_t thread;
	char many[400];
	int fd;

	answer = bytes;
	atomic_store(&yields, yielding);
	atomic_store(&rounds, 0);
	atomic_store(&before, 0);
	atomic_store(&heard, false);
	memset(many, 'x', sizeof(many));
	start_server(&handlers, NULL, 1);
	small_fd = dial_and_wait();
	fd = dial();
	assert_int_equal(pthread_create(&thread, NULL, read_on, &fd), 0);
	assert_true(send_all(fd, many, sizeof(many)));
	assert_true(WAIT_FOR(atomic_load(&rounds) == asked));
	assert_true(WAIT_FOR(atomic_load(&heard)));
	shutdown(fd, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(fd);
	close(small_fd);
	return atomic_load(&before);
}

/* After 1 MiB, or when its peer does not read as fast. */
static void who_asks_for_much_lets_others_have_their_turn(void **state)
{
	(void)state;
	assert_in_range(calls_before_the_other(65536, false), 1, 40);
}

static void who_pauses_and_resumes_comes_after_the_others(void **state)
{
	(void)state;
	assert_in_range(calls_before_the_other(10, true), 1, 2);
	assert_in_range(calls_before_the_other(100000, true), 1, 40);
}

/* Its peer reads nothing, so that there is no room to wait for. */
static void a_pause_and_resume_goes_on_though_there_is_no_room(void **state)
{
	const struct evt_listen_options options = {
		.high_mark = (size_t)-1, .max_output = (size_t)-1};
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_data = answer_each};
	int fd;

	(void)state;
	answer = LARGE;
	atomic_store(&yields, true);
	atomic_store(&rounds, 0);
	start_server(&handlers, &options, 1);
	small_fd = dial_and_wait();
	fd = dial();
	say(fd, "xxxxx");
	assert_true(WAIT_FOR(atomic_load(&rounds) == 5));
	assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	close_with_reset(fd);
	close(small_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_stream_of_small_refs_lets_others_have_their_turn),
		SERVER_TEST(a_stream_of_large_refs_lets_others_have_their_turn),
		SERVER_TEST(an_upload_lets_others_have_their_turn),
		SERVER_TEST(
			one_that_resumes_at_each_call_lets_others_have_their_turn),
		SERVER_TEST(who_asks_for_much_lets_others_have_their_turn),
		SERVER_TEST(who_pauses_and_resumes_comes_after_the_others),
		SERVER_TEST(a_pause_and_resume_goes_on_though_there_is_no_room),
	};

	make_large();
	return free_large(ledger_run("conn_fair", tests));
}
