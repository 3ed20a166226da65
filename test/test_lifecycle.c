/*
 * test_lifecycle.c: init, start, threads, stop: in every order, and many
 * times.
 */
#include "rig.h"
#include "../evt-core.h"

#include <limits.h>
#include <sys/resource.h>

/* Ready when start returns */

/* A10 */
static void a_client_is_accepted_the_moment_start_returns(void **state)
{
	int rounds = 1000 / slowness();
	int client;
	int i;

	(void)state;
	for (i = 0; i < rounds; i++) {
		assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
		assert_int_equal(evt_server_start(on_client, NULL), 0);
		client = connect_to(evt_server_port());
		assert_int_not_equal(client, -1);
		close(client);
		evt_server_stop();
	}
}

/* Every order of calls */

enum call { INIT, START, THREADS, DISPATCH, STOP, CALLS };

/* What the contract says the server is. */
struct model {
	bool prepared;
	bool listener;
	bool pool;
	int kept;
	int served; /* over all runs */
};

/* The errno that the contract promises; 0 for success. */
static int expect(struct model *model, enum call call)
{
	switch (call) {
	case INIT:
		if (model->listener || model->pool)
			return EBUSY;
		model->prepared = true;
		return 0;
	case START:
		if (!model->prepared || model->listener)
			return model->prepared ? EALREADY : EINVAL;
		model->listener = true;
		return 0;
	case THREADS:
		if (!model->prepared || model->pool)
			return model->prepared ? EALREADY : EINVAL;
		model->pool = true;
		model->served += model->kept;
		model->kept = 0;
		return 0;
	case DISPATCH:
		if (!model->prepared)
			return EINVAL;
		*(model->pool ? &model->served : &model->kept) += 1;
		return 0;
	default:
		*model = (struct model){.served = model->served};
		return 0;
	}
}

static void count_and_close(sockfd_t conn, short evt, void *arg)
{
	just_count(conn, evt, arg);
	evt_close(conn);
}

static int dispatch_a_copy(void)
{
	int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	int result = evt_thread_dispatch(fd, EV_READ, NULL);
	int error = errno;

	if (result == -1)
		close(fd);
	errno = error;
	return result;
}

static int make(enum call call)
{
	switch (call) {
	case INIT:
		return evt_server_init(0, SOCK_STREAM);
	case START:
		return evt_server_start(on_client, NULL);
	case THREADS:
		return evt_server_threads(count_and_close, 2);
	case DISPATCH:
		return dispatch_a_copy();
	default:
		evt_server_stop();
		return 0;
	}
}

static void check_order(const enum call *calls, int length)
{
	struct model model = {0};
	int fds = count_fds();
	int threads = count_threads();
	int i;

	forget_tally();
	for (i = 0; i < length; i++) {
		int error = expect(&model, calls[i]);
		int result = make(calls[i]);

		CHECK(error == 0 || (result == -1 && errno == error));
		CHECK(error != 0 || result == (calls[i] == THREADS ? 2 : 0));
		CHECK((evt_server_port() > 0) == model.listener);
		CHECK((get_server_addrinfo() != NULL) == model.prepared);
	}
	evt_server_stop();
	CHECK(atomic_load(&tally.served) == model.served);
	CHECK(count_fds() == fds);
	CHECK(WAIT_FOR(count_threads() <= threads));
}

/* All orders of length calls that begin with first. */
static void check_orders(int first, int length)
{
	enum call calls[5] = {INIT};
	int orders = 1;
	int order;
	int i;

	for (i = 1; i < length; i++)
		orders *= CALLS;
	calls[0] = (enum call)first;
	for (order = 0; order < orders; order++) {
		int rest = order;

		for (i = 1; i < length; i++, rest /= CALLS)
			calls[i] = (enum call)(rest % CALLS);
		check_order(calls, length);
	}
}

static void ignore_line(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
}

static void check_orders_from(void *arg)
{
	const int *first = arg;
	int longest = under("plain") ? 5 : 3;
	int length;

	evt_set_log(ignore_line, NULL);
	for (length = 1; length <= longest; length++)
		check_orders(*first, length);
}

/* A11 */
static void every_order_of_five_calls_does_what_the_contract_says(void **state)
{
	int first;

	(void)state;
	for (first = 0; first < CALLS; first++)
		assert_int_equal(in_child(check_orders_from, &first, 30), 0);
}

/* A call that is refused: -1, this errno, and one line. */
#define assert_refused(call, error)                           \
	do {                                                  \
		log_forget();                                 \
		errno = 0;                                    \
		assert_int_equal(call, -1);                   \
		assert_int_equal(errno, error);               \
		assert_int_equal(log_lines(EVT_LOG_INFO), 1); \
	} while (0)

/* A11 */
static void before_init_each_call_is_refused_with_a_line(void **state)
{
	(void)state;
	assert_refused(evt_server_start(on_client, NULL), EINVAL);
	assert_refused(evt_server_threads(echo, 2), EINVAL);
	assert_refused(evt_server_threads(echo, 0), EINVAL);
	assert_refused(evt_thread_dispatch(NO_FD, EV_READ, NULL), EINVAL);
}

/* A11 */
static void a_second_start_is_refused_and_the_first_goes_on(void **state)
{
	int port = serve(on_client, echo, 2);

	(void)state;
	assert_refused(evt_server_start(on_client, NULL), EALREADY);
	assert_int_equal(evt_server_port(), port);
	assert_true(answers(port));
	evt_server_stop();
}

/* A11 */
static void a_second_pool_is_refused_and_the_first_goes_on(void **state)
{
	int port = serve(on_client, echo, 2);

	(void)state;
	assert_refused(evt_server_threads(just_count, 1), EALREADY);
	assert_refused(evt_server_threads(just_count, 0), EALREADY);
	assert_true(answers(port));
	evt_server_stop();
}

/* A11 */
static void init_of_a_running_server_is_refused_and_it_goes_on(void **state)
{
	int port = serve(on_client, echo, 2);

	(void)state;
	assert_refused(evt_server_init(0, SOCK_STREAM), EBUSY);
	assert_refused(evt_server_init(0, SOCK_DGRAM), EBUSY);
	assert_int_equal(evt_server_port(), port);
	assert_true(answers(port));
	evt_server_stop();
}

/* A11 */
static void init_while_only_a_pool_runs_is_refused(void **state)
{
	(void)state;
	assert_int_equal(serve(NULL, echo, 2), 0);
	assert_refused(evt_server_init(0, SOCK_STREAM), EBUSY);
	evt_server_stop();
}

/* A11 */
static void a_second_init_replaces_the_first(void **state)
{
	struct addrinfo *ai;

	(void)state;
	assert_int_equal(evt_server_init(4711, SOCK_STREAM), 0);
	assert_int_equal(evt_server_init(0, SOCK_DGRAM), 0);
	ai = get_server_addrinfo();
	assert_int_equal(ai->ai_socktype, SOCK_DGRAM);
	/* sin_port and sin6_port have one place. */
	assert_int_equal(((struct sockaddr_in *)ai->ai_addr)->sin_port, 0);
	evt_server_stop();
	assert_null(get_server_addrinfo());
}

/* A11 */
static void threads_before_start_serve_as_well(void **state)
{
	(void)state;
	assert_int_equal(serve(NULL, echo, 2), 0);
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_true(answers(evt_server_port()));
	evt_server_stop();
}

static void start_from_worker(sockfd_t conn, short evt, void *arg)
{
	atomic_int *result = arg;

	(void)conn;
	(void)evt;
	atomic_store(result, evt_server_start(on_client, NULL));
	just_count(conn, evt, NULL);
}

/* A11 */
static void the_listener_may_be_started_by_a_worker(void **state)
{
	atomic_int result = 1;

	(void)state;
	assert_int_equal(serve(NULL, start_from_worker, 1), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, &result), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	assert_int_equal(atomic_load(&result), 0);
	assert_true(evt_server_port() > 0);
	evt_server_stop();
}

/* A12 */
static void a_missing_callback_is_refused(void **state)
{
	int threads = count_threads();

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	assert_refused(evt_server_start(NULL, NULL), EINVAL);
	assert_refused(evt_server_threads(NULL, 2), EINVAL);
	assert_refused(evt_server_threads(NULL, 0), EINVAL);
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(count_threads(), threads);
	evt_server_stop();
}

/* A13 */
static void no_worker_or_fewer_means_no_pool(void **state)
{
	static const int numbers[] = {0, -1, -3, INT_MIN};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
		assert_int_equal(evt_server_threads(just_count, numbers[i]), 0);
		assert_refused(
			evt_thread_dispatch(NO_FD, EV_READ, NULL), ENXIO);
		evt_server_stop();
	}
}

/* A13 */
static void after_no_pool_a_real_one_may_come(void **state)
{
	int port = serve(on_client, NULL, 0);

	(void)state;
	assert_int_equal(evt_server_threads(echo, 0), 0);
	assert_int_equal(evt_server_threads(echo, -3), 0);
	assert_int_equal(evt_server_threads(echo, 2), 2);
	assert_true(answers(port));
	evt_server_stop();
}

/* A14 */
static void too_many_workers_are_refused_before_any_is_made(void **state)
{
	static const int numbers[] = {65536, 100000, INT_MAX};
	int fds;
	size_t i;

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	fds = count_fds();
	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		assert_refused(evt_server_threads(echo, numbers[i]), EINVAL);
		assert_int_equal(count_fds(), fds);
	}
	assert_int_equal(evt_server_threads(echo, 2), 2);
	evt_server_stop();
}

static void limit(int resource, rlim_t value)
{
	const struct rlimit lim = {value, value};

	CHECK(setrlimit((__rlimit_resource_t)resource, &lim) == 0);
}

static void start_more_than_descriptors_allow(void *arg)
{
	int fds = count_fds();
	int port;

	(void)arg;
	limit(RLIMIT_NOFILE, 256);
	port = serve(on_client, NULL, 0);
	CHECK(port > 0);
	CHECK(evt_server_threads(echo, 65535) == -1 && errno == EMFILE);
	CHECK(log_lines(EVT_LOG_ERROR) == 1);
	CHECK(evt_server_threads(echo, 2) == 2 && answers(port));
	evt_server_stop();
	CHECK(count_fds() == fds);
}

/* A14 */
static void a_pool_that_descriptors_do_not_allow_is_undone(void **state)
{
	(void)state;
	if (under("valgrind")) /* it has the limit for itself */
		skip();
	assert_int_equal(
		in_child(start_more_than_descriptors_allow, NULL, 10), 0);
}

static void start_more_than_memory_allows(void *arg)
{
	int threads = count_threads();
	int fds = count_fds();

	(void)arg;
	limit(RLIMIT_AS, 256 << 20);
	CHECK(serve(NULL, NULL, 0) == 0);
	CHECK(evt_server_threads(echo, 150) == -1);
	CHECK(errno == EAGAIN || errno == ENOMEM);
	CHECK(log_lines(EVT_LOG_ERROR) == 1);
	CHECK(WAIT_FOR(count_threads() <= threads) && count_fds() == fds);
	CHECK(evt_server_threads(echo, 2) == 2);
	evt_server_stop();
	CHECK(count_fds() == fds);
}

/* A14 */
static void a_pool_that_memory_does_not_allow_is_undone(void **state)
{
	(void)state;
	if (!under("plain")) /* they need more address space than that */
		skip();
	assert_int_equal(in_child(start_more_than_memory_allows, NULL, 10), 0);
}

/* The port, and the grace */

static void port_in_callback(sockfd_t conn, short evt, void *arg)
{
	char port[8] = "";

	(void)evt;
	(void)arg;
	snprintf(port, sizeof(port), "%d", evt_server_port());
	(void)!write(conn, port, sizeof(port));
	evt_close(conn);
}

static void the_port_is_told_while_the_listener_runs(void **state)
{
	char port[8] = "";
	int client;

	(void)state;
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(serve(NULL, port_in_callback, 1), 0);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	client = connect_to(evt_server_port());
	assert_true(receive_all(client, port, sizeof(port)));
	assert_int_equal(atoi(port), evt_server_port());
	evt_server_stop();
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	close(client);
}

static void a_grace_below_minus_one_is_refused(void **state)
{
	(void)state;
	assert_refused(evt_server_grace_ms(-2), EINVAL);
	assert_refused(evt_server_grace_ms(INT_MIN), EINVAL);
	assert_int_equal(evt_server_grace_ms(-1), 0);
	assert_int_equal(evt_server_grace_ms(0), 0);
	assert_int_equal(evt_server_grace_ms(INT_MAX), 0);
	assert_int_equal(evt_server_grace_ms(5000), 0);
}

/* Again and again */

/* D01 */
static void stop_before_anything_does_nothing(void **state)
{
	int i;

	(void)state;
	for (i = 0; i < 100; i++)
		evt_server_stop();
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	evt_server_stop();
	evt_server_stop();
	assert_null(get_server_addrinfo());
	assert_int_equal(get_sockaddr_size(), 0);
}

/* D01 */
static void a_second_stop_does_nothing(void **state)
{
	int i;

	(void)state;
	assert_true(answers(serve(on_client, echo, 2)));
	for (i = 0; i < 100; i++)
		evt_server_stop();
	assert_null(get_server_addrinfo());
	assert_int_equal(get_sockaddr_size(), 0);
	assert_int_equal(evt_server_port(), -1);
}

static long resident_kib(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long size = 0;
	long resident = 0;

	if (file) {
		(void)!fscanf(file, "%ld %ld", &size, &resident);
		fclose(file);
	}
	return resident * sysconf(_SC_PAGESIZE) / 1024;
}

static void run_often(void *arg)
{
	int rounds = 1000 / slowness();
	int fds = count_fds();
	int threads = count_threads();
	long warm = 0;
	int i;

	(void)arg;
	for (i = 0; i < rounds; i++) {
		if (i == rounds / 2)
			warm = resident_kib();
		CHECK(answers(serve(on_client, echo, 2)));
		evt_server_stop();
		CHECK(count_fds() == fds);
		CHECK(WAIT_FOR(count_threads() <= threads));
	}
	CHECK(resident_kib() - warm < 256 || !under("plain"));
}

/* D10 */
static void a_thousand_runs_leave_nothing_behind(void **state)
{
	(void)state;
	assert_int_equal(in_child(run_often, NULL, 30), 0);
}

static void run_on_one_port(void *arg)
{
	int rounds = 100 / slowness();
	int port = serve(on_client, echo, 2);
	int i;

	(void)arg;
	for (i = 0; i < rounds; i++) {
		CHECK(evt_server_port() == port);
		CHECK(answers(port));
		evt_server_stop();
		CHECK(refused(port));
		CHECK(evt_server_init(port, SOCK_STREAM) == 0);
		CHECK(evt_server_start(on_client, NULL) == 0);
		CHECK(evt_server_threads(echo, 2) == 2);
	}
	evt_server_stop();
}

/* D09, D10 */
static void the_port_is_shut_and_free_at_once_when_stop_returns(void **state)
{
	(void)state;
	passes_in_own_network(run_on_one_port, 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_client_is_accepted_the_moment_start_returns),
		LEDGER_TEST(
			every_order_of_five_calls_does_what_the_contract_says),
		LEDGER_TEST(before_init_each_call_is_refused_with_a_line),
		LEDGER_TEST(a_second_start_is_refused_and_the_first_goes_on),
		LEDGER_TEST(a_second_pool_is_refused_and_the_first_goes_on),
		LEDGER_TEST(init_of_a_running_server_is_refused_and_it_goes_on),
		LEDGER_TEST(init_while_only_a_pool_runs_is_refused),
		LEDGER_TEST(a_second_init_replaces_the_first),
		LEDGER_TEST(threads_before_start_serve_as_well),
		LEDGER_TEST(the_listener_may_be_started_by_a_worker),
		LEDGER_TEST(a_missing_callback_is_refused),
		LEDGER_TEST(no_worker_or_fewer_means_no_pool),
		LEDGER_TEST(after_no_pool_a_real_one_may_come),
		LEDGER_TEST(too_many_workers_are_refused_before_any_is_made),
		LEDGER_TEST(a_pool_that_descriptors_do_not_allow_is_undone),
		LEDGER_TEST(a_pool_that_memory_does_not_allow_is_undone),
		LEDGER_TEST(the_port_is_told_while_the_listener_runs),
		LEDGER_TEST(a_grace_below_minus_one_is_refused),
		LEDGER_TEST(stop_before_anything_does_nothing),
		LEDGER_TEST(a_second_stop_does_nothing),
		LEDGER_TEST(a_thousand_runs_leave_nothing_behind),
		LEDGER_TEST(
			the_port_is_shut_and_free_at_once_when_stop_returns),
	};

	return ledger_run("lifecycle", tests);
}
