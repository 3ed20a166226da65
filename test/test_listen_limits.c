/*
 * test_listen_limits.c: what a listener does when something runs out: the
 * connections that it may have, and descriptors.
 */
/* wrap: accept4 write */
#include "inject.h"
#include "listen_rig.h"
#include "../evt-listener-internal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/resource.h>

/* The wrapped calls */

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);

static struct inject on_accept4;
static atomic_int accepted;     /* the last */
static atomic_bool hold_eagain; /* an accept in vain waits at the gate */

ssize_t __real_write(int fd, const void *bytes, size_t len);

static struct inject on_wake; /* of the boss and worker 0 */

static bool wakes(int fd)
{
	return server.pool &&
		(fd == atomic_load(&server.pool->wake_fd) ||
			fd == evt_pool_worker(server.pool, 0)->pipe.write_fd);
}

ssize_t __wrap_write(int fd, const void *bytes, size_t len)
{
	if (atomic_load(&on_wake.times) > 0 && wakes(fd) && injected(&on_wake))
		return -1;
	return __real_write(fd, bytes, len);
}

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int conn;

	if (injected(&on_accept4))
		return -1;
	conn = __real_accept4(fd, addr, len, flags);
	if (conn != -1)
		atomic_store(&accepted, conn);
	if (conn == -1 && errno == EAGAIN && atomic_load(&hold_eagain)) {
		wait_at_gate();
		errno = EAGAIN;
	}
	return conn;
}

static void count_calls(void)
{
	inject(&on_accept4, 0, 0, 0);
}

static int calls(void)
{
	return atomic_load(&on_accept4.calls);
}

/* The limit of connections */

static int nr_open(void)
{
	return (int)server_stats().open;
}

/* Those of fds that were accepted and answer; the others stay silent. */
static int nr_that_answer(const int fds[], int nr)
{
	int answering = 0;
	int i;

	for (i = 0; i < nr; i++) {
		char byte;

		if (recv(fds[i], &byte, 1, MSG_DONTWAIT) == 1)
			answering++;
	}
	return answering;
}

static void all_say(const int fds[], int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		say(fds[i], "e");
}

/* B08 */
static void above_the_limit_clients_wait_their_turn(void **state)
{
	const struct evt_listen_options options = {.max_conns = 10};
	int clients[50];
	int left;
	int i;

	(void)state;
	start_echo(&options, 3);
	dial_all(clients, 50);
	all_say(clients, 50);
	for (left = 50; left > 0; left -= 10) {
		int *turn = clients + (50 - left);

		assert_true(WAIT_FOR(nr_opened() == 60 - left));
		assert_true(WAIT_FOR(atomic_load(&seen.calls) == 60 - left));
		assert_int_equal(nr_open(), 10);
		assert_int_equal(
			nr_that_answer(clients + (60 - left), left - 10), 0);
		for (i = 0; i < 10; i++)
			hears(turn[i], "e");
		hang_up(turn, 10);
	}
	assert_true(WAIT_FOR(nr_closed() == 50));
	assert_int_equal(end_server().closed_peer, 50);
}

/* B08: the descriptors, too. */
static void a_listener_has_its_own_limit(void **state)
{
	const struct evt_listen_options two = {.max_conns = 2};
	int clients[2][4];
	int i;

	(void)state;
	start_echo(&two, 2);
	dial_all(clients[0], 4);
	listen_at(ANY_PORT, &two);
	dial_all(clients[1], 4);
	assert_true(WAIT_FOR(nr_opened() == 4));
	for (i = 0; i < 4; i++)
		assert_true(echoes(clients[i / 2][i % 2]));
	assert_int_equal(nr_opened(), 4);
	hang_up(clients[1], 4);
	hang_up(clients[0], 4);
	end_server();
}

static int leaving; /* a client that leaves while the boss says it is full */

static void leave_meanwhile(int level, const char *line, void *arg)
{
	(void)level, (void)arg;
	if (!strstr(line, "as many as allowed") || leaving == -1)
		return;
	close(leaving);
	leaving = -1;
	WAIT_FOR(atomic_load(&server.listener->nr_conns) == 0);
}

/* B08: a place that becomes free just before the pause begins is seen. */
static void who_leaves_just_before_the_pause_makes_room(void **state)
{
	const struct evt_listen_options one = {.max_conns = 1};
	int next;

	(void)state;
	start_echo(&one, 2);
	leaving = dial();
	assert_true(echoes(leaving));
	evt_set_log(leave_meanwhile, NULL);
	next = dial();
	assert_true(echoes(next));
	log_catch();
	close(next);
	assert_int_equal(leaving, -1);
	assert_int_equal(end_server().closed_peer, 2);
}

/* B08: of two places that became free nobody has heard of the first. Nor does
 * anything else wake them: no worker wants to be watched. */
static void who_could_not_be_woken_hears_of_the_next_place(void **state)
{
	const struct evt_pool_options unwatched = {
		.workers = 1, .stall_ms = -1};
	const struct evt_listen_options two = {.max_conns = 2};
	int clients[3];

	(void)state;
	make_pool(1);
	evt_pool_free(server.pool);
	server.pool = evt_pool_new(&unwatched);
	assert_non_null(server.pool);
	listen_at(ANY_PORT, &two);
	run_pool();
	dial_all(clients, 3);
	assert_true(WAIT_FOR(nr_opened() == 2));
	assert_true(WAIT_FOR(atomic_load(&server.pool->nr_paused) == 1));
	inject(&on_wake, EIO, 0, FOR_EVER);
	close(clients[0]);
	assert_true(WAIT_FOR(log_has("a worker cannot be woken")));
	assert_true(log_has("the listener cannot be woken"));
	end_injection(&on_wake);
	close(clients[1]);
	assert_true(echoes(clients[2]));
	close(clients[2]);
	end_server();
}

/* B08 */
static void with_refuse_who_is_above_the_limit_is_closed(void **state)
{
	const struct evt_listen_options options = {
		.max_conns = 10, .refuse = 1};
	int clients[50];
	int i;

	(void)state;
	start_echo(&options, 2);
	dial_all(clients, 50);
	for (i = 0; i < 10; i++)
		assert_true(echoes(clients[i]));
	for (; i < 50; i++)
		assert_true(at_end(clients[i]));
	hang_up(clients, 50);
	assert_true(WAIT_FOR(nr_closed() == 10));
	assert_true(WAIT_FOR(serves(server.port)));
	assert_true(end_server().refused >= 40);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

/* B08 */
static void a_place_that_is_given_back_is_taken_at_once(void **state)
{
	const struct evt_listen_options options = {.max_conns = 1};
	int client[2];
	int i;

	(void)state;
	start_echo(&options, 2);
	client[0] = dial();
	for (i = 0; i < 200; i++) {
		assert_true(echoes(client[i % 2]));
		client[(i + 1) % 2] = dial();
		close(client[i % 2]);
	}
	assert_true(echoes(client[i % 2]));
	close(client[i % 2]);
	assert_int_equal(end_server().opened, 201);
	assert_true(log_lines(EVT_LOG_WARN) < 100);
}

/* B08: one count over all sockets. */
static void the_limit_of_a_group_is_exact(void **state)
{
	const struct evt_listen_options options = {
		.max_conns = 6, .reuseport = 1};
	int clients[30];
	int served = 0;
	int wanted;
	int i;

	(void)state;
	start_echo(&options, 3);
	dial_all(clients, 30);
	all_say(clients, 30);
	while (served < 30) {
		wanted = served + 6 < 30 ? served + 6 : 30;
		assert_true(WAIT_FOR(nr_opened() == wanted));
		assert_true(WAIT_FOR(atomic_load(&seen.calls) == wanted));
		assert_true(WAIT_FOR(nr_open() == wanted - served));
		for (i = 0; i < 30; i++) {
			char byte;

			if (clients[i] == -1 ||
				recv(clients[i], &byte, 1, MSG_DONTWAIT) != 1)
				continue;
			close(clients[i]);
			clients[i] = -1;
			served++;
		}
	}
	assert_int_equal(end_server().closed_peer, 30);
}

/* The socket of the group at which a client waits. */
static int socket_with_client(void)
{
	struct pollfd in[8];
	int i;

	for (i = 0; i < 8; i++)
		in[i] = (struct pollfd){
			.fd = atomic_load(&server.listener->sockets[i].fd),
			.events = POLLIN};
	assert_true(poll(in, 8, 10000 * slowness()) == 1);
	for (i = 0; !in[i].revents; i++)
		;
	return i;
}

/* Two clients of a group of eight, at different sockets; the first's worker
 * waits in accept for one more. */
static void dial_two_sockets(int clients[2])
{
	const struct evt_listen_options options = {
		.max_conns = 2, .reuseport = 1};
	int at;

	for (;;) {
		start_echo(&options, 8);
		shut_gate();
		atomic_store(&hold_eagain, true);
		clients[0] = dial();
		assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
		at = evt_worker_index(evt_conn_worker(atomic_load(&seen.conn)));
		clients[1] = dial();
		if (socket_with_client() != at)
			return;
		atomic_store(&hold_eagain, false);
		open_gate();
		hang_up(clients, 2);
		end_server();
	}
}

/* B08: a socket of the group looks in vain whether there is one more client,
 * and has the last place while another's client comes. */
static void a_place_that_was_held_in_vain_is_not_lost(void **state)
{
	int clients[2];

	(void)state;
	dial_two_sockets(clients);
	assert_true(WAIT_FOR(server_stats().accept_pauses == 1));
	atomic_store(&hold_eagain, false);
	open_gate();
	assert_true(echoes(clients[1]));
	hang_up(clients, 2);
	end_server();
}

/* The limit of descriptors; in children, which have it to themselves */

static void set_fd_limit(rlim_t nr)
{
	struct rlimit limit;

	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = nr;
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* So that no more than free descriptors can be opened. */
static void leave_fds(int nr_free)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	CHECK(fd != -1);
	close(fd);
	set_fd_limit((rlim_t)fd + (rlim_t)nr_free);
}

static void passes_in_child(void (*fn)(void *))
{
	if (under("valgrind")) /* has a limit of its own */
		skip();
	stop_server();
	assert_int_equal(in_child(fn, NULL, 20), 0);
}

/* Sockets that are still to be connected. */
static void new_sockets(int fds[], int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		CHECK((fds[i] = socket(AF_INET, SOCK_STREAM, 0)) != -1);
}

static void connect_all(const int fds[], int nr)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)server.port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int i;

	for (i = 0; i < nr; i++)
		CHECK(connect(fds[i], (struct sockaddr *)&in, sizeof(in)) == 0);
}

static void have_twenty_wait(void *arg)
{
	int clients[20];
	int64_t cpu;
	int64_t ms;
	int i;

	(void)arg;
	start_echo(NULL, 2);
	new_sockets(clients, 20);
	leave_fds(0);
	count_calls();
	cpu = cpu_ms();
	ms = now_ms();
	connect_all(clients, 20);
	CHECK(WAIT_FOR(calls() == 8));
	CHECK(now_ms() - ms > 10 + 20 + 40 + 80 + 100 + 100 + 80);
	CHECK(cpu_ms() - cpu < 50 * slowness());
	CHECK(log_lines(EVT_LOG_INFO) == 1 && log_has("pauses"));
	CHECK(nr_opened() == 0);
	set_fd_limit(1000);
	for (i = 0; i < 20; i++)
		CHECK(echoes(clients[i]));
	CHECK(log_lines(EVT_LOG_INFO) == 2 && log_has("goes on"));
	hang_up(clients, 20);
	CHECK(end_server().opened == 20);
}

/* B01 */
static void without_descriptors_twenty_wait_and_nothing_spins(void **state)
{
	(void)state;
	passes_in_child(have_twenty_wait);
}

/* How long it takes after a client of ours has gone. */
static int64_t ms_until_accepted(void)
{
	int clients[2];
	int64_t ms;

	start_echo(NULL, 1);
	new_sockets(clients, 2);
	connect_all(clients, 1);
	CHECK(echoes(clients[0]));
	leave_fds(0);
	count_calls();
	connect_all(clients + 1, 1);
	CHECK(WAIT_FOR(calls() == 6));
	ms = now_ms(); /* the next pause is of 100 ms */
	shutdown(clients[0], SHUT_WR);
	CHECK(WAIT_FOR(nr_opened() == 2));
	ms = now_ms() - ms;
	set_fd_limit(1000);
	hang_up(clients, 2);
	end_server();
	return ms;
}

static void have_one_come_after_another(void *arg)
{
	int tries = 1;

	(void)arg;
	while (ms_until_accepted() > 50)
		CHECK(tries++ < 5);
}

/* B01 */
static void when_one_of_ours_closes_accepting_goes_on_at_once(void **state)
{
	(void)state;
	passes_in_child(have_one_come_after_another);
}

/* With reuseport a wake-up ends with an accept in vain. */
static void have_nobody_wait(void *arg)
{
	const struct evt_listen_options options = {.reuseport = 1};
	int clients[2];
	int64_t cpu;

	(void)arg;
	start_echo(&options, 1);
	new_sockets(clients, 2);
	leave_fds(1);
	count_calls();
	cpu = cpu_ms();
	connect_all(clients, 1);
	CHECK(echoes(clients[0]));
	CHECK(WAIT_FOR(server_stats().accept_pauses == 1));
	usleep(100000); /* in which a spin would show */
	CHECK(calls() == 2);
	CHECK(cpu_ms() - cpu < 20 * slowness());
	set_fd_limit(1000);
	connect_all(clients + 1, 1);
	CHECK(echoes(clients[1]));
	CHECK(log_lines(EVT_LOG_INFO) == 2 && log_has("goes on"));
	hang_up(clients, 2);
	end_server();
}

/* B02 */
static void running_out_with_an_empty_queue_does_not_spin(void **state)
{
	(void)state;
	passes_in_child(have_nobody_wait);
}

static void serve_above_1024(void *arg)
{
	int client;
	int i;

	(void)arg;
	set_fd_limit(4096);
	for (i = 0; i < 2000; i++)
		CHECK(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) != -1);
	start_echo(NULL, 2);
	client = dial_and_wait();
	CHECK(client > 2000);
	CHECK(atomic_load(&accepted) > 2000);
	CHECK(echoes(client));
	close(client);
	end_server();
}

/* B13 */
static void descriptors_above_1024_are_served(void **state)
{
	(void)state;
	passes_in_child(serve_above_1024);
}

static int max_conns_of(int wanted, rlim_t fds)
{
	const struct evt_listen_options options = {.max_conns = wanted};
	int max;

	make_pool(1);
	log_forget();
	set_fd_limit(fds);
	max = listen_at(ANY_PORT, &options)->options.max_conns;
	set_fd_limit(1000);
	stop_server();
	return max;
}

static void ask_for_too_many(void *arg)
{
	(void)arg;
	CHECK(max_conns_of(0, 200) == 168 && log_lines(EVT_LOG_DEBUG) == 0);
	CHECK(max_conns_of(168, 200) == 168 && log_lines(EVT_LOG_DEBUG) == 0);
	CHECK(max_conns_of(-1, 200) == -1 && log_lines(EVT_LOG_DEBUG) == 0);
	CHECK(max_conns_of(169, 200) == 168 && log_lines(EVT_LOG_DEBUG) == 1);
	CHECK(log_has("max_conns 169 lowered to 168"));
	CHECK(max_conns_of(0, 20) == 1);
	CHECK(max_conns_of(2, 32) == 1 && log_has("lowered to 1"));
}

/* B08 */
static void more_than_the_descriptors_allow_is_lowered_and_told(void **state)
{
	(void)state;
	passes_in_child(ask_for_too_many);
}

/* B10 */

static void *dial_two_thousand(void *arg)
{
	static int fds[2000];
	int i;

	(void)arg;
	for (i = 0; i < 2000; i++)
		CHECK((fds[i] = connect_to(server.port)) != -1);
	hang_up(fds, 2000);
	return NULL;
}

/* The longest that an echo took, in ms. */
static int64_t echo_in_a_burst(const struct evt_listen_options *options)
{
	int64_t longest = 0;
	pthread_t thread;
	int old;

	start_echo(options, 2);
	old = dial();
	CHECK(pthread_create(&thread, NULL, dial_two_thousand, NULL) == 0);
	while (nr_opened() < 2001) {
		int64_t ms = now_ms();

		CHECK(echoes(old));
		ms = now_ms() - ms;
		longest = ms > longest ? ms : longest;
	}
	pthread_join(thread, NULL);
	close(old);
	CHECK(end_server().opened == 2001);
	return longest;
}

/* Others may need this machine just now: more than once. */
static bool is_quick_in_a_burst(const struct evt_listen_options *options)
{
	int tries = 0;

	while (echo_in_a_burst(options) >= 50 * slowness())
		if (++tries == 20)
			return false;
	return true;
}

static void echo_in_bursts(void *arg)
{
	const struct evt_listen_options group = {.reuseport = 1};
	struct rlimit limit;

	(void)arg;
	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	if (limit.rlim_max < 5000)
		return;
	set_fd_limit(5000);
	CHECK(is_quick_in_a_burst(NULL));
	CHECK(is_quick_in_a_burst(&group));
}

/* B10 */
static void an_old_connection_is_served_in_a_burst_of_new_ones(void **state)
{
	(void)state;
	passes_in_child(echo_in_bursts);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(above_the_limit_clients_wait_their_turn),
		SERVER_TEST(a_listener_has_its_own_limit),
		SERVER_TEST(who_leaves_just_before_the_pause_makes_room),
		SERVER_TEST(who_could_not_be_woken_hears_of_the_next_place),
		SERVER_TEST(with_refuse_who_is_above_the_limit_is_closed),
		SERVER_TEST(a_place_that_is_given_back_is_taken_at_once),
		SERVER_TEST(the_limit_of_a_group_is_exact),
		SERVER_TEST(a_place_that_was_held_in_vain_is_not_lost),
		SERVER_TEST(without_descriptors_twenty_wait_and_nothing_spins),
		SERVER_TEST(when_one_of_ours_closes_accepting_goes_on_at_once),
		SERVER_TEST(running_out_with_an_empty_queue_does_not_spin),
		SERVER_TEST(descriptors_above_1024_are_served),
		SERVER_TEST(
			more_than_the_descriptors_allow_is_lowered_and_told),
		SERVER_TEST(an_old_connection_is_served_in_a_burst_of_new_ones),
	};

	return ledger_run("listen_limits", tests);
}
