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

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_stream_of_small_refs_lets_others_have_their_turn),
		SERVER_TEST(a_stream_of_large_refs_lets_others_have_their_turn),
		SERVER_TEST(an_upload_lets_others_have_their_turn),
		SERVER_TEST(
			one_that_resumes_at_each_call_lets_others_have_their_turn),
	};

	make_large();
	return free_large(ledger_run("conn_fair", tests));
}
