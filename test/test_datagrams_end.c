/*
 * test_datagrams_end.c: the end of a listener of datagrams, by a stop, a close,
 * a thread that ends, another's shutdown(2): what came before is handed over,
 * what the kernel had no room for is counted. And a flood beside a stream.
 */
/* wrap: recvmmsg */
#include "udp_rig.h"

int __real_recvmmsg(int fd, struct mmsghdr *messages, unsigned nr, int flags,
	struct timespec *timeout);

static atomic_int at_a_time; /* messages that recvmmsg gives; 0: all */
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned nr, int flags,
	struct timespec *timeout)
{
	unsigned most = (unsigned)atomic_load(&at_a_time);

	return __real_recvmmsg(fd, messages, most > 0 && nr > most ? most : nr,
		flags, timeout);
}

static int close_test(void **state)
{
	atomic_store(&at_a_time, 0);
	return udp_close(state);
}

#define END_TEST(fn)                                          \
	{                                                     \
#fn, fn, ledger_open, close_test, (void *)#fn \
	}

static void expect_all_accounted_for(unsigned long sent)
{
	struct evt_stats stats = end_udp();

	assert_int_equal(stats.datagrams_in + stats.datagrams_dropped, sent);
	assert_true(stats.datagrams_in > 0);
}

/* By a stop */

#define SENDERS 8

static void fire(int fds[SENDERS], int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		shoot_number(fds[i % SENDERS], (uint32_t)i);
}

static void dial_udp(int fds[SENDERS])
{
	int i;

	for (i = 0; i < SENDERS; i++)
		fds[i] = udp_to(server.port);
}

/* F11 */
static void a_stop_hands_over_what_came_before(void **state)
{
	const int nr = under("valgrind") ? 2000 : 20000;
	int fds[SENDERS];
	int round;

	(void)state;
	for (round = 0; round < 10; round++) {
		start_udp(ANY_UDP, note_datagrams, NULL, 1 + round % 4);
		dial_udp(fds);
		fire(fds, nr);
		expect_all_accounted_for((unsigned long)nr);
		hang_up(fds, SENDERS);
	}
}

/* F11: and their answers go out. */
static void the_last_ones_are_answered(void **state)
{
	int i;
	int fd;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	fd = udp_to(server.port);
	hold(0);
	for (i = 0; i < 200; i++)
		shoot_number(fd, (uint32_t)i);
	evt_pool_stop(server.pool);
	assert_int_equal(end_udp().datagrams_in, 200);
	for (i = 0; i < 200; i++)
		catches_number(fd, (uint32_t)i);
	close(fd);
}

/* F11: recvmmsg(2) gives less where the error of an answer comes between. */
static void so_they_are_when_they_come_in_pieces(void **state)
{
	int fds[SENDERS];

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	dial_udp(fds);
	hold(0);
	fire(fds, 200);
	atomic_store(&at_a_time, 7);
	evt_pool_stop(server.pool);
	assert_int_equal(end_udp().datagrams_in, 200);
	hang_up(fds, SENDERS);
}

/* F11: where the system's buffers are long. */
static void so_are_ten_thousand(void **state)
{
	const int nr = 10000;
	int room = nr * 2048;
	int fds[SENDERS];

	(void)state;
	start_udp(ANY_UDP, note_datagrams, NULL, 1);
	dial_udp(fds);
	hold(0);
	if (setsockopt(atomic_load(&server.listener->udp[0]->fd), SOL_SOCKET,
		    SO_RCVBUFFORCE, &room, sizeof(room)) == 0) {
		fire(fds, nr);
		evt_pool_stop(server.pool);
		assert_int_equal(end_udp().datagrams_in, nr);
	}
	hang_up(fds, SENDERS);
}

static atomic_bool is_ended;
static atomic_long nr_sent;

static void *send_on(void *arg)
{
	int fd = *(int *)arg;
	uint32_t number = 0;

	while (!atomic_load(&is_ended))
		if (send(fd, &number, sizeof(number), MSG_DONTWAIT) > 0)
			atomic_fetch_add(&nr_sent, 1);
	return NULL;
}

static pthread_t start_sending(int *fd)
{
	pthread_t thread;

	*fd = udp_to(server.port);
	atomic_store(&is_ended, false);
	atomic_store(&nr_sent, 0);
	assert_int_equal(pthread_create(&thread, NULL, send_on, fd), 0);
	return thread;
}

static void end_sending(pthread_t thread, int fd)
{
	atomic_store(&is_ended, true);
	pthread_join(thread, NULL);
	close(fd);
}

/* F11: one who never ceases does not keep it. */
static void a_stop_under_load_ends(void **state)
{
	unsigned long before;
	struct evt_stats stats;
	pthread_t thread;
	int64_t ms;
	int fd;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, NULL, 2);
	thread = start_sending(&fd);
	assert_true(WAIT_FOR(nr_noted() > 5000));
	before = (unsigned long)atomic_load(&nr_sent);
	ms = now_ms();
	stats = end_udp();
	assert_true(now_ms() - ms < 2000 * slowness());
	assert_true(stats.datagrams_in + stats.datagrams_dropped >= before);
	end_sending(thread, fd);
}

/* By a close */

static void close_at_first(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	evt_listener_close(server.listener);
	echo_datagrams(sock, batch, n, arg);
}

static void stop_at_first(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	evt_pool_stop(server.pool);
	echo_datagrams(sock, batch, n, arg);
}

static void expect_the_rest_answered(on_datagrams_fn fn)
{
	int fd;
	int i;

	start_udp(ANY_UDP, fn, NULL, 2);
	fd = udp_to(server.port);
	hold(0);
	hold(1);
	for (i = 0; i < 200; i++)
		shoot_number(fd, (uint32_t)i);
	open_gate();
	for (i = 0; i < 200; i++)
		catches_number(fd, (uint32_t)i);
	assert_true(WAIT_FOR(is_shut(0) && is_shut(1)));
	assert_true(WAIT_FOR(send(fd, "x", 1, 0) == -1));
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	close(fd);
	assert_int_equal(end_udp().datagrams_in, 200);
}

/* F11 */
static void a_callback_may_close_its_listener(void **state)
{
	(void)state;
	expect_the_rest_answered(close_at_first);
}

/* F11 */
static void a_callback_may_stop_the_pool(void **state)
{
	(void)state;
	expect_the_rest_answered(stop_at_first);
}

static void another_thread_may_close_it(void **state)
{
	int fd;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, NULL, 3);
	fd = udp_to(server.port);
	exchanges(fd, "open");
	evt_listener_close(server.listener);
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(is_shut(0) && is_shut(1) && is_shut(2)));
	close(fd);
	assert_true(WAIT_FOR((fd = udp_at("127.0.0.1", server.port)) != -1));
	close(fd);
	end_udp();
}

static void wait_there(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	(void)sock, (void)batch, (void)n, (void)arg;
	wait_at_gate();
}

/* The worker hears in one wait that it is closed and, after that, that it has a
 * datagram. */
static void what_is_closed_is_not_read_in_the_same_wait(void **state)
{
	static const struct evt_handlers waiting = {.on_datagrams = wait_there};
	struct evt_listener *other;
	int fds[2];

	(void)state;
	shut_gate();
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	other = evt_listen(server.pool, ANY_UDP, &waiting, NULL, NULL);
	assert_non_null(other);
	fds[0] = udp_to(evt_listener_port(other));
	fds[1] = udp_to(server.port);
	exchanges(fds[1], "open");
	assert_int_equal(send(fds[0], "wait", 4, 0), 4);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	evt_listener_close(server.listener);
	assert_int_equal(send(fds[1], "late", 4, 0), 4);
	open_gate();
	assert_true(WAIT_FOR(is_shut(0)));
	assert_false(log_has("receiving on"));
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(end_udp().datagrams_in, 3);
}

static void it_may_be_closed_before_the_pool_runs(void **state)
{
	int fd;

	(void)state;
	make_udp(ANY_UDP, echo_datagrams, NULL, 2);
	evt_listener_close(server.listener);
	fd = udp_at("127.0.0.1", server.port);
	assert_int_not_equal(fd, -1);
	close(fd);
	run_pool();
	end_udp();
}

/* Before its workers have looked: what came is handed over all the same. */
static void what_is_closed_at_once_hands_over_what_it_has(void **state)
{
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	int fd;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	hold(0);
	server.listener = evt_listen(
		server.pool, ANY_UDP, &handlers, NULL, NULL);
	fd = udp_to(evt_listener_port(server.listener));
	shoot(fd, "in time", 7);
	evt_listener_close(server.listener);
	open_gate();
	assert_true(WAIT_FOR(is_shut(0)));
	close(fd);
	assert_int_equal(end_udp().datagrams_in, 1);
}

static void listening_may_begin_while_the_pool_runs(void **state)
{
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	int round;
	int fd;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, NULL, 3);
	for (round = 0; round < 20; round++) {
		server.listener = evt_listen(
			server.pool, ANY_UDP, &handlers, NULL, NULL);
		assert_non_null(server.listener);
		fd = udp_to(evt_listener_port(server.listener));
		exchanges(fd, "from the start");
		evt_listener_close(server.listener);
		close(fd);
	}
	assert_int_equal(end_udp().datagrams_in, 20);
}

/* A thread that ends */

static void end_the_thread_if_told(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	echo_datagrams(sock, batch, n, arg);
	if (batch[n - 1].len > 0 && *batch[n - 1].data == 'q')
		pthread_exit(NULL);
}

static int nr_shut(int workers)
{
	int nr = 0;
	int i;

	for (i = 0; i < workers; i++)
		nr += is_shut(i);
	return nr;
}

/* C15 F11 */
static void when_a_worker_is_lost_the_others_serve_the_senders(void **state)
{
	int fds[SENDERS];
	int lost;
	int i;

	(void)state;
	start_udp(ANY_UDP, end_the_thread_if_told, NULL, 3);
	dial_udp(fds);
	for (lost = 1; lost <= 2; lost++) {
		shoot(fds[0], "q", 1);
		assert_true(WAIT_FOR(nr_shut(3) == lost));
		for (i = 0; i < SENDERS; i++)
			exchanges(fds[i], "served");
	}
	shoot(fds[0], "q", 1);
	assert_true(WAIT_FOR(nr_shut(3) == 3));
	for (i = 0; i < SENDERS; i++)
		assert_true(send(fds[i], "x", 1, 0) == -1 ||
			send(fds[i], "x", 1, 0) == -1);
	hang_up(fds, SENDERS);
	end_udp();
}

/* C15 F11: where it has no thread that would read from its socket. */
static void a_listener_after_the_loss_serves_all(void **state)
{
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	int fds[SENDERS];
	int i;

	(void)state;
	start_udp(ANY_UDP, end_the_thread_if_told, NULL, 2);
	dial_udp(fds);
	shoot(fds[0], "q", 1);
	assert_true(WAIT_FOR(nr_shut(2) == 1));
	hang_up(fds, SENDERS);
	server.listener = evt_listen(
		server.pool, ANY_UDP, &handlers, NULL, NULL);
	assert_non_null(server.listener);
	server.port = evt_listener_port(server.listener);
	assert_int_equal(nr_shut(2), 1);
	for (i = 0; i < SENDERS; i++) {
		fds[i] = udp_to(server.port);
		exchanges(fds[i], "served");
	}
	hang_up(fds, SENDERS);
	end_udp();
}

/* Errors of answers */

/* F05 */
static void an_answer_that_meets_a_closed_port_is_counted(void **state)
{
	const int nr = 50;
	int64_t cpu;
	int fd;
	int i;

	(void)state;
	start_udp("udp://:0", echo_datagrams, NULL, 1);
	cpu = cpu_ms();
	for (i = 0; i < nr; i++) {
		fd = udp_to_ip(i % 2 ? "::1" : "127.0.0.1", server.port);
		hold(0);
		shoot(fd, "gone", 4);
		close(fd);
		open_gate();
		assert_true(WAIT_FOR(
			server_stats().answer_errors == (uint64_t)i + 1));
		shut_gate();
		fd = udp_to(server.port);
		exchanges(fd, "still here");
		close(fd);
	}
	assert_true(cpu_ms() - cpu < 500 * slowness());
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	assert_int_equal(end_udp().answer_errors, nr);
}

/* F05 */
static void a_hundred_at_once_keep_nobody(void **state)
{
	int64_t cpu;
	int fd; /* from the beginning: none of the others' ports */
	int i;

	(void)state;
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	fd = udp_to(server.port);
	hold(0);
	for (i = 0; i < 100; i++) {
		int gone = udp_to(server.port);

		shoot(gone, "gone", 4);
		close(gone);
	}
	shoot(fd, "here", 4);
	open_gate();
	catches(fd, "here", 4);
	assert_true(WAIT_FOR(server_stats().answer_errors == 100));
	cpu = cpu_ms();
	usleep(50000); /* in which a spin would show */
	assert_in_range(cpu_ms() - cpu, 0, 20 * slowness());
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	close(fd);
	assert_int_equal(end_udp().sends_failed, 0);
}

static struct {
	atomic_int calls;
	atomic_int error;
} told;

static void on_error(struct evt_listener *listener, int error, void *arg)
{
	(void)listener, (void)arg;
	atomic_store(&told.error, error);
	atomic_fetch_add(&told.calls, 1);
}

/* B06: another process that has the socket can do this. */
static void a_socket_that_others_shut_is_told_once(void **state)
{
	static const int hows[] = {SHUT_RD, SHUT_RDWR};
	const struct evt_listen_options options = {.on_error = on_error};
	int64_t cpu;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(hows); i++) {
		atomic_store(&told.calls, 0);
		start_udp(ANY_UDP, echo_datagrams, &options, 2);
		shutdown(atomic_load(&server.listener->udp[0]->fd), hows[i]);
		assert_true(WAIT_FOR(atomic_load(&told.calls) == 1));
		assert_int_equal(atomic_load(&told.error), ENOTCONN);
		assert_true(is_shut(0) && !is_shut(1));
		cpu = cpu_ms();
		usleep(50000); /* in which a spin would show */
		assert_in_range(cpu_ms() - cpu, 0, 20 * slowness());
		fd = udp_to(server.port);
		exchanges(fd, "by the other");
		close(fd);
		assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
		end_udp();
		assert_int_equal(atomic_load(&told.calls), 1);
	}
}

/* A flood */

#define FLOOD 100000

static void *flood(void *arg)
{
	int fd = *(int *)arg;
	uint32_t i;

	for (i = 0; i < FLOOD && !atomic_load(&is_ended); i++)
		if (send(fd, &i, sizeof(i), 0) == sizeof(i))
			atomic_fetch_add(&nr_sent, 1);
	atomic_store(&is_ended, true);
	return NULL;
}

static atomic_int batches; /* so far, and when the stream was last read */
static atomic_int batches_then;

static void take_a_while(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int64_t until = now_ms() + 1;

	note_datagrams(sock, batch, n, arg);
	atomic_fetch_add(&batches, 1);
	while (now_ms() < until)
		;
}

static size_t echo_in_turn(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	atomic_store(&batches_then, atomic_load(&batches));
	return echo_data(conn, data, len, arg);
}

/* F07: the flood is more than it can take; the stream has its turn after one
 * batch, or two if it comes while the first is looked for. */
static void a_flood_keeps_no_stream_and_its_drops_are_counted(void **state)
{
	static const struct evt_handlers in_turn = {.on_data = echo_in_turn};
	struct evt_listener *streams;
	pthread_t thread;
	char byte;
	int stream;
	int nr = 0;
	int fd;

	(void)state;
	start_udp(ANY_UDP, take_a_while, NULL, 1);
	fd = udp_to(server.port);
	streams = evt_listen(server.pool, ANY_PORT, &in_turn, NULL, NULL);
	assert_non_null(streams);
	stream = connect_to(evt_listener_port(streams));
	assert_true(echoes(stream));
	atomic_store(&is_ended, false);
	atomic_store(&nr_sent, 0);
	assert_int_equal(pthread_create(&thread, NULL, flood, &fd), 0);
	for (; !atomic_load(&is_ended) && nr < 100000; nr++) {
		int before;

		assert_true(send_all(stream, "s", 1));
		before = atomic_load(&batches);
		assert_true(receive_all(stream, &byte, 1));
		assert_true(atomic_load(&batches_then) - before <= 2);
	}
	pthread_join(thread, NULL);
	assert_true(nr >= 10);
	close(stream);
	close(fd);
	expect_all_accounted_for((unsigned long)atomic_load(&nr_sent));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		END_TEST(a_stop_hands_over_what_came_before),
		END_TEST(the_last_ones_are_answered),
		END_TEST(so_they_are_when_they_come_in_pieces),
		END_TEST(so_are_ten_thousand),
		END_TEST(a_stop_under_load_ends),
		END_TEST(a_callback_may_close_its_listener),
		END_TEST(a_callback_may_stop_the_pool),
		END_TEST(another_thread_may_close_it),
		END_TEST(what_is_closed_is_not_read_in_the_same_wait),
		END_TEST(it_may_be_closed_before_the_pool_runs),
		END_TEST(what_is_closed_at_once_hands_over_what_it_has),
		END_TEST(listening_may_begin_while_the_pool_runs),
		END_TEST(when_a_worker_is_lost_the_others_serve_the_senders),
		END_TEST(a_listener_after_the_loss_serves_all),
		END_TEST(an_answer_that_meets_a_closed_port_is_counted),
		END_TEST(a_hundred_at_once_keep_nobody),
		END_TEST(a_socket_that_others_shut_is_told_once),
		END_TEST(a_flood_keeps_no_stream_and_its_drops_are_counted),
	};

	return ledger_run("datagrams_end", tests);
}
