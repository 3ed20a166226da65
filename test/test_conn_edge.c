/*
 * test_conn_edge.c: input is waited for edge-triggered (evt-conn-poll.c), so
 * each way in which a read may stop early must have the kernel look again: more
 * than a turn reads, a pause within it, an end or urgent bytes behind a short
 * read, a close in the middle.
 */
#include "server_rig.h"

#define BUFFER ((size_t)65536) /* what one read takes */

/* The worker is held while the client acts: what it does arrives at once. */

static pthread_mutex_t hold_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool held;

static void be_held(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	atomic_store(&held, true);
	pthread_mutex_lock(&hold_lock);
	pthread_mutex_unlock(&hold_lock);
}

static void hold_worker(void)
{
	atomic_store(&held, false);
	pthread_mutex_lock(&hold_lock);
	assert_int_equal(
		evt_worker_post(evt_pool_worker(server.pool, 0), be_held, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&held)));
}

static void let_worker_go(void)
{
	pthread_mutex_unlock(&hold_lock);
}

/* A connection that has waited in epoll before. */
static int dial_and_echo(void)
{
	int fd = dial_and_wait();

	say(fd, "x");
	hears(fd, "x");
	return fd;
}

static void an_end_that_comes_with_bytes_is_seen(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = tell_data,
		.on_close = tell_close};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	hold_worker();
	say(fd, "bytes");
	shutdown(fd, SHUT_WR);
	let_worker_go();
	story_becomes("bytes close:peer ");
	close(fd);
}

static void a_reset_that_comes_with_bytes_is_seen(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_close = tell_close};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	hold_worker();
	say(fd, "bytes");
	close_with_reset(fd);
	let_worker_go();
	story_becomes("close:reset ");
}

/* recv(2) stops in front of an urgent byte, and takes it out. */
static void bytes_behind_urgent_ones_come_too(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_data = echo_data};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_echo();
	hold_worker();
	say(fd, "before");
	assert_int_equal(send(fd, "!", 1, MSG_OOB), 1);
	say(fd, "behind");
	let_worker_go();
	hears(fd, "beforebehind");
	close(fd);
}

/* Sends what fits in the kernel's buffers, which have grown, while the worker
 * is held, and ends the stream, or not: how much. */
static size_t fill_up(int fd, bool end)
{
	static char bytes[BUFFER];
	size_t len = 0;
	ssize_t sent;

	while ((sent = send(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		len += (size_t)sent;
	if (end)
		shutdown(fd, SHUT_WR);
	assert_true(len > 8 * BUFFER);
	return len;
}

/* A connection through which so much has gone that its window is wide. */
static int dial_wide(size_t len)
{
	char *bytes = new_pattern(0, len);
	int fd = dial_and_wait();

	assert_true(send_all(fd, bytes, len));
	assert_true(server_has_read(len));
	free(bytes);
	return fd;
}

/* More than a turn reads, and nothing after it that would be an edge. */
static void more_than_a_turn_reads_is_read_without_another_byte(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_data = eat_data};
	const size_t before = 400 * BUFFER;
	size_t len;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_wide(before);
	hold_worker();
	len = fill_up(fd, false);
	let_worker_go();
	assert_true(server_has_read(before + len));
	close(fd);
}

static size_t eat_and_pause_for_a_moment(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	evt_conn_pause(conn);
	evt_conn_resume(conn);
	return len;
}

static void paused_and_resumed_in_each_callback_all_is_read(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_data = eat_and_pause_for_a_moment};
	const size_t before = 400 * BUFFER;
	size_t len;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_wide(before);
	hold_worker();
	len = fill_up(fd, false);
	let_worker_go();
	assert_true(server_has_read(before + len));
	close(fd);
}

static size_t eat_and_pause(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	evt_conn_pause(conn);
	return len;
}

static void what_came_before_and_while_it_was_paused_is_read(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = eat_and_pause,
		.on_close = tell_close};
	size_t i;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	for (i = 1; i <= 200; i++) {
		say(fd, "x");
		assert_true(server_has_read(i));
		if (i % 2 == 0)
			assert_true(on_last_conn(resume_task, NULL));
		else /* the byte of the next round comes first, or later */
			assert_int_equal(evt_pool_post_conn(server.pool,
						 atomic_load(&seen.id),
						 resume_task, NULL),
				0);
	}
	shutdown(fd, SHUT_WR);
	story_becomes("close:peer ");
	close(fd);
}

static void close_it(struct evt_conn *conn, void *arg)
{
	(void)arg;
	if (conn)
		evt_conn_close(conn);
}

/* Or it would be waited for until its 5 s are over. */
static void what_a_closed_one_still_sends_is_read_to_its_end(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = eat_data,
		.on_close = tell_close};
	int64_t start;
	int fds;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_wide(400 * BUFFER);
	fds = count_fds();
	hold_worker();
	start = now_ms();
	assert_int_equal(evt_pool_post_conn(server.pool, atomic_load(&seen.id),
				 close_it, NULL),
		0);
	(void)fill_up(fd, true);
	let_worker_go();
	assert_true(WAIT_FOR(count_fds() == fds - 1));
	assert_true(now_ms() - start < 4000);
	close(fd);
}

/* Output that waits turns the one wait into another, and back. */
static void after_waiting_for_room_input_is_waited_for_again(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_data = answer_at_length};
	int fd;
	int i;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	for (i = 0; i < 3; i++) {
		say(fd, "x");
		assert_int_equal(hear_pattern(fd, 0, LARGE), LARGE);
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(an_end_that_comes_with_bytes_is_seen),
		SERVER_TEST(a_reset_that_comes_with_bytes_is_seen),
		SERVER_TEST(bytes_behind_urgent_ones_come_too),
		SERVER_TEST(
			more_than_a_turn_reads_is_read_without_another_byte),
		SERVER_TEST(paused_and_resumed_in_each_callback_all_is_read),
		SERVER_TEST(what_came_before_and_while_it_was_paused_is_read),
		SERVER_TEST(what_a_closed_one_still_sends_is_read_to_its_end),
		SERVER_TEST(after_waiting_for_room_input_is_waited_for_again),
	};

	make_large();
	return free_large(ledger_run("conn_edge", tests));
}
