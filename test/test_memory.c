/*
 * test_memory.c: the n-th allocation fails, ours or libevent's, for n = 1 and
 * so on until none is left to fail, once and from then on. Each time a call
 * succeeds or says ENOMEM in one line, and works when there is memory again;
 * afterwards nothing is left. And what never allocates: stopping, serving.
 */
/* wrap: __sched_cpualloc fopen accept4 */
#include "rig.h"
#include "inject.h"
#include "../evt-core.h"

#include <sched.h>

#define MOST_ALLOCATIONS 500

/* The wrapped calls */

cpu_set_t *__real___sched_cpualloc(size_t count);
FILE *__real_fopen(const char *path, const char *mode);
int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);

static struct inject on_cpualloc;
static struct inject on_fopen;
static struct inject on_accept4;

cpu_set_t *__wrap___sched_cpualloc(size_t count)
{
	return injected(&on_cpualloc) ? NULL : __real___sched_cpualloc(count);
}

FILE *__wrap_fopen(const char *path, const char *mode)
{
	return injected(&on_fopen) ? NULL : __real_fopen(path, mode);
}

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	if (injected(&on_accept4))
		return -1;
	return __real_accept4(fd, addr, len, flags);
}

/* The torture */

/* All give 0, or -1 and errno. */
struct scenario {
	int (*prepare)(void);  /* with memory; or NULL */
	int (*attempt)(void);  /* without; and again with it */
	bool (*confirm)(void); /* what is to be true then; or NULL */
	bool (*after)(void);   /* ... and after the stop; or NULL */
};

struct balance {
	int fds;
	int threads;
	long allocations;
};

static struct balance balance_now(void)
{
	return (struct balance){
		count_fds(), count_threads(), count_allocations()};
}

static bool is_even(struct balance before)
{
	return WAIT_FOR(count_threads() <= before.threads) &&
		count_fds() == before.fds &&
		count_allocations() == before.allocations;
}

struct round {
	int n;
	bool from_then_on;
};

#define EXPECT(round, condition)                       \
	do {                                           \
		if (!(condition))                      \
			fail_round(round, #condition); \
	} while (0)

static void fail_round(struct round round, const char *condition)
{
	int error = errno;

	fail_allocation(0, false);
	evt_server_stop();
	fail_msg("allocation %d failing%s: not true: %s (errno %s)", round.n,
		round.from_then_on ? " from then on" : "", condition,
		strerrorname_np(error));
}

/* Whether the fault was reached. */
static bool attempt_in(const struct scenario *scenario, struct round round)
{
	bool reached;
	int result;

	log_forget();
	fail_allocation(round.n, round.from_then_on);
	errno = 0;
	result = scenario->attempt();
	reached = fault_reached();
	fail_allocation(0, false);
	if (result == 0)
		return reached;
	EXPECT(round, reached);
	EXPECT(round, errno == ENOMEM);
	EXPECT(round, log_lines(EVT_LOG_WARN) == 1);
	EXPECT(round, log_has(strerror(ENOMEM)));
	EXPECT(round, scenario->attempt() == 0);
	return true;
}

static bool survive(const struct scenario *scenario, struct round round)
{
	struct balance before = balance_now();
	bool reached;

	forget_tally();
	if (scenario->prepare)
		EXPECT(round, scenario->prepare() == 0);
	reached = attempt_in(scenario, round);
	if (scenario->confirm)
		EXPECT(round, scenario->confirm());
	evt_server_stop();
	if (scenario->after)
		EXPECT(round, scenario->after());
	EXPECT(round, is_even(before));
	return reached;
}

/* How many allocations could fail. */
static int torture(const struct scenario *scenario)
{
	struct round round = {0, false};
	int persistent;

	for (persistent = 0; persistent < 2; persistent++) {
		round.from_then_on = persistent;
		round.n = 0;
		do
			assert_true(++round.n < MOST_ALLOCATIONS);
		while (survive(scenario, round));
	}
	return round.n - 1;
}

/* What is attempted */

static int init_tcp(void)
{
	return evt_server_init(0, SOCK_STREAM);
}

static int init_udp(void)
{
	return evt_server_init(0, SOCK_DGRAM);
}

static int start(void)
{
	return evt_server_start(on_client, NULL);
}

static int init_and_start(void)
{
	return init_tcp() == 0 ? start() : -1;
}

static int start_workers(void)
{
	return evt_server_threads(echo, 3) == 3 ? 0 : -1;
}

static bool is_ready(void)
{
	return get_server_addrinfo() && get_sockaddr_size() > 0;
}

static bool has_a_port(void)
{
	return evt_server_port() > 0;
}

static bool starts_and_answers(void)
{
	return start() == 0 && answers(evt_server_port());
}

static bool is_answered(void)
{
	return answers(evt_server_port());
}

/* K01 */
static void init_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.attempt = init_tcp, .confirm = is_ready};

	(void)state;
	torture(&scenario);
}

/* K01 K02 A17 */
static void starting_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.prepare = init_tcp, .attempt = start, .confirm = has_a_port};

	(void)state;
	assert_true(torture(&scenario) > 3);
}

/* K01 K02 A17 */
static void starting_udp_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.prepare = init_udp, .attempt = start, .confirm = has_a_port};

	(void)state;
	assert_true(torture(&scenario) > 3);
}

/* K01 K02 A17 */
static void a_first_pool_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = init_tcp,
		.attempt = start_workers,
		.confirm = starts_and_answers};

	(void)state;
	assert_true(torture(&scenario) > 10);
}

/* K01 K02 A17 */
static void a_pool_beside_a_listener_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = init_and_start,
		.attempt = start_workers,
		.confirm = is_answered};

	(void)state;
	assert_true(torture(&scenario) > 10);
}

static int init_and_start_workers(void)
{
	return init_tcp() == 0 ? start_workers() : -1;
}

/* K01 K02 A17: the pool that runs already is not harmed. */
static void a_listener_beside_a_pool_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.prepare = init_and_start_workers,
		.attempt = start,
		.confirm = is_answered};

	(void)state;
	assert_true(torture(&scenario) > 0);
}

static int be_a_whole_server(void)
{
	int error;

	if (init_and_start() == 0 && start_workers() == 0) {
		if (is_answered())
			return 0;
		errno = EIO;
	}
	error = errno;
	evt_server_stop();
	errno = error;
	return -1;
}

/* K01 K02 */
static void a_whole_server_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.attempt = be_a_whole_server, .confirm = is_answered};

	(void)state;
	assert_true(torture(&scenario) > 20);
}

static int init_and_dispatch(void)
{
	return init_tcp() == 0 ? evt_thread_dispatch(NO_FD, EV_READ, NULL) : -1;
}

static int dispatch(void)
{
	return evt_thread_dispatch(NO_FD, EV_READ, NULL);
}

static int start_counters(void)
{
	return evt_server_threads(just_count, 2) == 2 ? 0 : -1;
}

static bool starts_counters(void)
{
	return start_counters() == 0;
}

static bool was_served_once(void)
{
	return atomic_load(&tally.served) == 1;
}

/* K01 K02 */
static void a_pool_for_what_was_kept_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = init_and_dispatch,
		.attempt = start_counters,
		.after = was_served_once};

	(void)state;
	assert_true(torture(&scenario) > 10);
}

/* K01 */
static void dispatching_before_the_pool_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = init_tcp,
		.attempt = dispatch,
		.confirm = starts_counters,
		.after = was_served_once};

	(void)state;
	torture(&scenario);
}

/* What is asked for on a worker. */
static atomic_int worker_result;
static atomic_int worker_errno;
static atomic_int at_stop_calls;

static void count_at_stop(void *arg)
{
	(void)arg;
	atomic_fetch_add(&at_stop_calls, 1);
}

static void register_at_stop(sockfd_t conn, short evt, void *arg)
{
	int result = evt_thread_at_stop(count_at_stop, NULL);

	atomic_store(&worker_errno, errno);
	atomic_store(&worker_result, result);
	just_count(conn, evt, arg);
}

static int start_registrars(void)
{
	atomic_store(&at_stop_calls, 0);
	return serve(NULL, register_at_stop, 1);
}

static int have_one_registered(void)
{
	int before = atomic_load(&tally.served);

	if (dispatch() == -1 ||
		!WAIT_FOR(atomic_load(&tally.served) == before + 1))
		return -1;
	errno = atomic_load(&worker_errno);
	return atomic_load(&worker_result);
}

static bool was_called_at_stop(void)
{
	return atomic_load(&at_stop_calls) == 1;
}

/* K01 */
static void at_stop_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {.prepare = start_registrars,
		.attempt = have_one_registered,
		.after = was_called_at_stop};

	(void)state;
	assert_int_equal(torture(&scenario), 1);
}

static int have_an_address(void)
{
	struct sockaddr *addr = new_sockaddr();

	free(addr);
	return addr ? 0 : -1;
}

/* K01 */
static void new_sockaddr_survives_each_allocation(void **state)
{
	static const struct scenario scenario = {
		.prepare = init_tcp, .attempt = have_an_address};

	(void)state;
	assert_int_equal(torture(&scenario), 1);
}

static int resolve(void)
{
	struct addrinfo *list = getnetinfo("127.0.0.1", 80, SOCK_STREAM);

	if (list)
		freeaddrinfo(list);
	return list ? 0 : -1;
}

static int start_echoing(void)
{
	return serve(on_client, echo, 1) > 0 ? 0 : -1;
}

static int connect_by_name(void)
{
	int fd = get_conn_to_host("127.0.0.1", evt_server_port(), SOCK_STREAM);

	if (fd == -1)
		return -1;
	close(fd);
	return WAIT_FOR(atomic_load(&tally.served) > 0) ? 0 : -1;
}

/* K01: libc's own allocations are not ours to fail: see A03. */
static void connecting_survives_each_allocation(void **state)
{
	static const struct scenario resolving = {.attempt = resolve};
	static const struct scenario connecting = {
		.prepare = start_echoing, .attempt = connect_by_name};

	(void)state;
	torture(&resolving);
	torture(&connecting);
}

/* K01 */
static void the_cpus_are_counted_without_memory(void **state)
{
	int cpus = get_nr_cpus();

	(void)state;
	inject(&on_cpualloc, ENOMEM, 0, FOR_EVER);
	inject(&on_fopen, ENOMEM, 0, FOR_EVER);
	errno = 0;
	assert_true(get_nr_cpus() >= 1);
	assert_true(atomic_load(&on_cpualloc.calls) > 0);
	assert_true(atomic_load(&on_fopen.calls) > 0);
	assert_int_equal(errno, 0);
	end_injection(&on_cpualloc);
	end_injection(&on_fopen);
	assert_int_equal(get_nr_cpus(), cpus);
}

/* What never allocates */

/* K01 K02 */
static void a_running_server_allocates_nothing(void **state)
{
	int port = serve(on_client, echo, 3);
	int i;

	(void)state;
	fail_allocation(1, true);
	for (i = 0; i < 100; i++)
		assert_true(answers(port));
	assert_false(fault_reached());
	evt_server_stop();
	assert_false(fault_reached());
}

/* K01 B03: pausing for want of memory wants none. */
static void accepting_pauses_and_goes_on_without_memory(void **state)
{
	int port = serve(on_client, echo, 2);

	(void)state;
	inject(&on_accept4, ENOMEM, 0, 3);
	fail_allocation(1, true);
	assert_true(answers(port));
	assert_true(answers(port));
	evt_server_stop();
	assert_true(log_has("goes on"));
}

static void on_client_with_address(sockfd_t fd, short evt, void *arg)
{
	struct sockaddr *peer = new_sockaddr();
	sockfd_t conn = evt_tcp(fd, peer);

	(void)arg;
	atomic_fetch_add(&tally.accepted, conn != -1);
	if (conn == -1 || evt_thread_dispatch(conn, evt, peer) == -1)
		free(peer);
}

static void free_and_echo(sockfd_t conn, short evt, void *peer)
{
	free(peer);
	echo(conn, evt, NULL);
}

/* K01: an address that cannot be allocated need not cost the client. */
static void a_client_is_served_without_room_for_its_address(void **state)
{
	int port = serve(on_client_with_address, free_and_echo, 1);

	(void)state;
	assert_true(answers(port));
	log_forget();
	fail_allocation(1, true);
	assert_true(answers(port));
	assert_true(fault_reached());
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	fail_allocation(0, false);
	assert_true(answers(port));
	evt_server_stop();
}

static void expect_stop_without_memory(void)
{
	fail_allocation(1, true);
	evt_server_stop();
	assert_false(fault_reached());
	fail_allocation(0, false);
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(get_sockaddr_size(), 0);
}

/* D13 */
static void stop_allocates_nothing_in_any_state(void **state)
{
	(void)state;
	expect_stop_without_memory(); /* nothing there */
	assert_int_equal(init_tcp(), 0);
	expect_stop_without_memory();
	assert_int_equal(init_and_start(), 0);
	expect_stop_without_memory();
	assert_int_equal(init_and_start_workers(), 0);
	expect_stop_without_memory();
	assert_true(serve(on_client, echo, 3) > 0);
	expect_stop_without_memory();
	assert_int_equal(init_udp(), 0);
	assert_int_equal(start(), 0);
	expect_stop_without_memory();
	assert_int_equal(start_registrars(), 0);
	assert_int_equal(have_one_registered(), 0);
	expect_stop_without_memory();
	assert_true(was_called_at_stop());
}

/* D13 */
static void dropping_what_was_kept_allocates_nothing(void **state)
{
	int kept = socket(AF_INET, SOCK_STREAM, 0);

	(void)state;
	assert_int_equal(init_tcp(), 0);
	assert_int_equal(evt_thread_dispatch(kept, EV_READ, NULL), 0);
	expect_stop_without_memory();
	assert_int_equal(fcntl(kept, F_GETFD), -1);
}

/* D13 */
static void cutting_a_silent_client_allocates_nothing(void **state)
{
	int port = serve(on_client, echo, 1);
	int client = connect_to(port);

	(void)state;
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == 1));
	assert_int_equal(evt_server_grace_ms(0), 0);
	expect_stop_without_memory();
	assert_int_equal(evt_server_grace_ms(5000), 0);
	assert_int_equal(atomic_load(&tally.ends), 1);
	close(client);
}

static void stop_and_count(sockfd_t conn, short evt, void *arg)
{
	evt_server_stop();
	just_count(conn, evt, arg);
}

/* D13 */
static void a_stop_from_a_callback_allocates_nothing(void **state)
{
	(void)state;
	assert_int_equal(serve(on_client, stop_and_count, 2) > 0, 1);
	fail_allocation(1, true);
	assert_int_equal(dispatch(), 0);
	assert_true(WAIT_FOR(evt_server_port() == -1));
	assert_false(fault_reached());
	expect_stop_without_memory();
	assert_true(was_served_once());
}

/* Giving back */

/* Pages of this process in memory. */
static long resident(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long size = 0;
	long pages = 0;

	if (file && fscanf(file, "%ld %ld", &size, &pages) != 2)
		pages = 0;
	if (file)
		fclose(file);
	return pages;
}

static void serve_open_at_once(int port, int nr)
{
	int clients[100];
	char byte;
	int i;

	for (i = 0; i < nr; i++) {
		clients[i] = connect_to(port);
		assert_true(send_all(clients[i], "m", 1));
	}
	for (i = 0; i < nr; i++) {
		assert_true(receive_all(clients[i], &byte, 1));
		close_with_reset(clients[i]);
	}
}

/* K05 */
static void memory_is_as_before_after_ten_thousand_connections(void **state)
{
	long allocations;
	long pages;
	int port;
	int i;

	(void)state;
	if (!under("plain")) /* whose own memory grows */
		skip();
	port = serve(on_client_with_address, free_and_echo, 3);
	serve_open_at_once(port, 100);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 100));
	allocations = count_allocations();
	pages = resident();
	for (i = 0; i < 100; i++)
		serve_open_at_once(port, 100);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 100 * 101));
	assert_int_equal(count_allocations(), allocations);
	assert_in_range(resident(), 1, pages + pages / 5);
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(init_survives_each_allocation),
		LEDGER_TEST(starting_survives_each_allocation),
		LEDGER_TEST(starting_udp_survives_each_allocation),
		LEDGER_TEST(a_first_pool_survives_each_allocation),
		LEDGER_TEST(a_pool_beside_a_listener_survives_each_allocation),
		LEDGER_TEST(a_listener_beside_a_pool_survives_each_allocation),
		LEDGER_TEST(a_whole_server_survives_each_allocation),
		LEDGER_TEST(a_pool_for_what_was_kept_survives_each_allocation),
		LEDGER_TEST(
			dispatching_before_the_pool_survives_each_allocation),
		LEDGER_TEST(at_stop_survives_each_allocation),
		LEDGER_TEST(new_sockaddr_survives_each_allocation),
		LEDGER_TEST(connecting_survives_each_allocation),
		LEDGER_TEST(the_cpus_are_counted_without_memory),
		LEDGER_TEST(a_running_server_allocates_nothing),
		LEDGER_TEST(accepting_pauses_and_goes_on_without_memory),
		LEDGER_TEST(a_client_is_served_without_room_for_its_address),
		LEDGER_TEST(stop_allocates_nothing_in_any_state),
		LEDGER_TEST(dropping_what_was_kept_allocates_nothing),
		LEDGER_TEST(cutting_a_silent_client_allocates_nothing),
		LEDGER_TEST(a_stop_from_a_callback_allocates_nothing),
		LEDGER_TEST(memory_is_as_before_after_ten_thousand_connections),
	};

	return ledger_run("memory", tests);
}
