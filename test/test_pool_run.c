/*
 * test_pool_run.c: the life of a pool of evt_pool_new: making, running,
 * starting, waiting, freeing, in all orders; its options; and its tasks.
 */
#include "pool_rig.h"

#include <limits.h>

static void a_pool_serves_from_start_to_free(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_true(answers(pool_port));
	free_pool();
	assert_true(refused(pool_port));
}

static void run_serves_until_the_pool_is_stopped(void **state)
{
	struct runner runner;

	(void)state;
	make_pool(NULL, NULL, NULL);
	start_runner(&runner, pool);
	assert_true(WAIT_FOR(answers(pool_port)));
	assert_false(atomic_load(&runner.done));
	evt_pool_stop(pool);
	assert_int_equal(join_runner(&runner), 0);
	assert_true(refused(pool_port));
	assert_true(is_balanced());
	free_pool();
}

/* D01: a stop is never lost. */
static void a_stop_before_run_makes_it_return_at_once(void **state)
{
	(void)state;
	make_pool(NULL, NULL, NULL);
	evt_pool_stop(pool);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_run(pool), 0);
	assert_true(refused(pool_port));
	free_pool();
}

/* D01 */
static void a_stop_before_start_ends_the_wait_at_once(void **state)
{
	int i;

	(void)state;
	make_pool(NULL, NULL, NULL);
	for (i = 0; i < 100; i++)
		evt_pool_stop(pool);
	assert_int_equal(evt_pool_start(pool), 0);
	assert_int_equal(evt_pool_wait(pool), 0);
	evt_pool_stop(pool);
	free_pool();
}

static void expect_it_serves_once(void)
{
	assert_int_equal(evt_pool_run(pool), -1);
	assert_int_equal(errno, EALREADY);
	assert_int_equal(evt_pool_start(pool), -1);
	assert_int_equal(errno, EALREADY);
	assert_true(log_has("a pool serves once"));
}

/* A11 */
static void a_pool_serves_once(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	expect_it_serves_once();
	assert_true(answers(pool_port));
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	expect_it_serves_once();
	assert_int_equal(evt_pool_wait(pool), 0);
	free_pool();
}

/* A11 */
static void a_pool_that_was_run_serves_once(void **state)
{
	struct runner runner;

	(void)state;
	make_pool(NULL, NULL, NULL);
	start_runner(&runner, pool);
	assert_true(WAIT_FOR(answers(pool_port)));
	expect_it_serves_once();
	evt_pool_stop(pool);
	assert_int_equal(join_runner(&runner), 0);
	expect_it_serves_once();
	free_pool();
}

/* A11 */
static void a_pool_may_be_freed_without_having_run(void **state)
{
	(void)state;
	make_pool(NULL, NULL, NULL);
	free_pool();
	assert_true(refused(pool_port));
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

static void a_pool_may_be_freed_while_others_wait_for_it(void **state)
{
	struct runner waiters[2];
	int i;

	(void)state;
	start_pool(NULL, NULL, NULL);
	for (i = 0; i < 2; i++)
		start_waiter(&waiters[i]);
	assert_true(answers(pool_port));
	evt_pool_stop(pool);
	for (i = 0; i < 2; i++)
		assert_int_equal(join_runner(&waiters[i]), 0);
	free_pool();
}

/* The run is over for it, but not for the thread that called it. */
static void a_pool_may_be_freed_while_another_thread_runs_it(void **state)
{
	struct runner runner;
	int i;

	(void)state;
	for (i = 0; i < 50 / slowness(); i++) {
		make_pool(NULL, NULL, NULL);
		start_runner(&runner, pool);
		assert_true(WAIT_FOR(answers(pool_port)));
		free_pool();
		assert_int_equal(join_runner(&runner), 0);
	}
}

/* A12 */
static void without_a_pool_each_call_is_refused(void **state)
{
	struct evt_stats stats;

#define REFUSED(call, result)                                      \
	(log_forget(), errno = 0, assert_true((call) == (result)), \
		assert_int_equal(errno, EINVAL),                   \
		assert_int_equal(log_lines(EVT_LOG_ERROR), 1))
	(void)state;
	make_pool(NULL, NULL, NULL);
	REFUSED(evt_pool_run(NULL), -1);
	REFUSED(evt_pool_start(NULL), -1);
	REFUSED(evt_pool_wait(NULL), -1);
	REFUSED(evt_pool_workers(NULL), -1);
	REFUSED(evt_pool_worker(NULL, 0), NULL);
	REFUSED(evt_pool_worker(pool, -1), NULL);
	REFUSED(evt_pool_worker(pool, WORKERS), NULL);
	REFUSED(evt_worker_pool(NULL), NULL);
	REFUSED(evt_worker_index(NULL), -1);
	REFUSED(evt_worker_base(NULL), NULL);
	REFUSED(evt_worker_post(NULL, note_task_ran, NULL), -1);
	REFUSED(evt_worker_post(evt_pool_worker(pool, 0), NULL, NULL), -1);
	REFUSED(evt_pool_post_all(NULL, note_task_ran, NULL), -1);
	REFUSED(evt_pool_post_all(pool, NULL, NULL), -1);
	REFUSED(evt_pool_stats(NULL, &stats), -1);
	REFUSED(evt_pool_stats(pool, NULL), -1);
	REFUSED(evt_listen(NULL, "tcp://:0", &echoes, NULL, NULL), NULL);
	free_pool();
}

/* A12 */
static void stopping_or_freeing_null_says_so_and_does_nothing(void **state)
{
	(void)state;
	evt_pool_stop(NULL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	evt_pool_free(NULL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 2);
}

static void a_pool_that_was_not_started_is_not_waited_for(void **state)
{
	(void)state;
	make_pool(NULL, NULL, NULL);
	assert_int_equal(evt_pool_wait(pool), -1);
	assert_int_equal(errno, EINVAL);
	free_pool();
}

/* On library threads */

static atomic_int errors[4];

static void call_those_that_wait(void)
{
	int i = 0;

	for (i = 0; i < 4; i++)
		atomic_store(&errors[i], 0);
	errno = 0;
	if (evt_pool_wait(pool) == -1)
		atomic_store(&errors[0], errno);
	if (evt_pool_run(pool) == -1)
		atomic_store(&errors[1], errno);
	evt_pool_free(pool);
	atomic_fetch_add(&seen.tasks, 1);
}

static void wait_in_a_task(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	call_those_that_wait();
}

/* D02 */
static void a_worker_does_not_wait_for_itself(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_int_equal(
		evt_worker_post(evt_pool_worker(pool, 1), wait_in_a_task, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == 1));
	assert_int_equal(atomic_load(&errors[0]), EDEADLK);
	assert_int_equal(atomic_load(&errors[1]), EDEADLK);
	assert_true(log_has("evt_pool_free"));
	assert_true(answers(pool_port));
	free_pool();
}

static int wait_in_choose(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	(void)self;
	(void)peer;
	(void)arg;
	call_those_that_wait();
	return 0;
}

/* D02 */
static void the_thread_that_accepts_does_not_wait_for_itself(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = wait_in_choose};

	(void)state;
	start_pool(NULL, NULL, &how);
	assert_true(answers(pool_port));
	assert_int_equal(atomic_load(&seen.tasks), 1);
	assert_int_equal(atomic_load(&errors[0]), EDEADLK);
	assert_int_equal(atomic_load(&errors[1]), EDEADLK);
	assert_true(log_has("evt_pool_free"));
	free_pool();
}

static struct evt_pool *other;

static void start_the_other(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	atomic_store(&errors[0], evt_pool_start(other) == 0 ? 0 : errno);
	atomic_fetch_add(&seen.tasks, 1);
}

/* Of the calls that a callback must not make this is none. */
static void a_worker_may_start_another_pool(void **state)
{
	const struct evt_pool_options one = {.workers = 1};

	(void)state;
	start_pool(NULL, NULL, NULL);
	other = evt_pool_new(&one);
	assert_int_equal(evt_worker_post(evt_pool_worker(pool, 0),
				 start_the_other, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == 1));
	evt_pool_free(other);
	free_pool();
	assert_int_equal(atomic_load(&errors[0]), 0);
}

/* Options */

static void a_listen_that_failed_fails_run_and_start(void **state)
{
	(void)state;
	make_pool(NULL, NULL, NULL);
	assert_null(evt_listen(pool, "tcp://", &echoes, NULL, NULL));
	log_forget();
	assert_int_equal(evt_pool_run(pool), -1);
	assert_int_equal(errno, ECONNABORTED);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	assert_int_equal(evt_pool_start(pool), -1);
	assert_int_equal(errno, ECONNABORTED);
	free_pool();
}

/* A13, A14, A21 */
static void options_out_of_range_are_refused_and_named(void **state)
{
	const struct {
		struct evt_pool_options options;
		const char *name;
	} bad[] = {
		{{.workers = -1}, "workers -1"},
		{{.workers = INT_MIN}, "workers -2147483648"},
		{{.workers = 65536}, "workers 65536"},
		{{.workers = INT_MAX}, "workers 2147483647"},
		{{.grace_ms = -2}, "grace_ms -2"},
		{{.grace_ms = INT_MIN}, "grace_ms -2147483648"},
		{{.stall_ms = -2}, "stall_ms -2"},
		{{.stall_ms = INT_MIN}, "stall_ms -2147483648"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		log_forget();
		errno = 0;
		assert_null(evt_pool_new(&bad[i].options));
		assert_int_equal(errno, EINVAL);
		assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
		assert_true(log_has(bad[i].name));
	}
}

/* A21 */
static void the_ends_of_each_range_serve(void **state)
{
	const struct evt_pool_options ends[] = {
		{.workers = 1, .grace_ms = -1, .stall_ms = -1},
		{.workers = 40, .grace_ms = 1, .stall_ms = 1},
		{.workers = 2, .grace_ms = INT_MAX, .stall_ms = INT_MAX},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		start_pool(&ends[i], NULL, NULL);
		assert_int_equal(evt_pool_workers(pool), ends[i].workers);
		assert_true(answers(pool_port));
		free_pool();
	}
}

static void without_options_there_is_a_worker_for_each_cpu(void **state)
{
	cpu_set_t cpus;
	struct evt_pool *usual = evt_pool_new(NULL);
	const struct evt_pool_options zeros = {0};
	struct evt_pool *zeroed = evt_pool_new(&zeros);

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	assert_in_range(evt_pool_workers(usual), 1, CPU_COUNT(&cpus));
	assert_int_equal(evt_pool_workers(zeroed), evt_pool_workers(usual));
	evt_pool_free(usual);
	evt_pool_free(zeroed);
}

/* A22: the structs of an older and of a newer header. */

struct older_options {
	int workers;
};

struct newer_options {
	struct evt_pool_options known;
	int flags;
	char more[64];
};

static void options_of_an_older_header_are_taken(void **state)
{
	const struct {
		struct older_options options;
		int not_looked_at[16];
	} old = {{2}, {-7, -7, -7, -7, -7, -7, -7, -7, -7, -7, -7, -7}};

	(void)state;
	pool = evt_pool_new_sized(
		(const void *)&old.options, sizeof(old.options));
	assert_non_null(pool);
	assert_int_equal(evt_pool_workers(pool), 2);
	assert_int_equal(evt_pool_start(pool), 0);
	free_pool();
}

/* A22 */
static void options_of_a_newer_header_are_taken_if_they_ask_for_nothing(
	void **state)
{
	struct newer_options newer = {.known = {.workers = 2}};
	size_t i;

	(void)state;
	pool = evt_pool_new_sized((const void *)&newer, sizeof(newer));
	assert_non_null(pool);
	assert_int_equal(evt_pool_workers(pool), 2);
	free_pool();
	for (i = sizeof(newer.known); i < sizeof(newer); i++) {
		memset((char *)&newer + sizeof(newer.known), 0,
			sizeof(newer) - sizeof(newer.known));
		((char *)&newer)[i] = 1;
		errno = 0;
		assert_null(evt_pool_new_sized(
			(const void *)&newer, sizeof(newer)));
		assert_int_equal(errno, EINVAL);
	}
}

/* A22 */
static void listen_options_and_handlers_may_have_another_size(void **state)
{
	struct {
		struct evt_handlers known;
		void (*on_more)(void);
	} newer = {.known = echoes};
	struct {
		struct evt_listen_options known;
		int more;
	} how = {.known = {.max_conns = 5}};

	(void)state;
	make_pool(NULL, NULL, NULL);
	assert_non_null(evt_listen_sized(pool, "tcp://127.0.0.1:0",
		(const void *)&newer, sizeof(newer), (const void *)&how,
		sizeof(how), NULL));
	assert_non_null(evt_listen_sized(pool, "tcp://127.0.0.1:0", &echoes,
		2 * sizeof(echoes.on_open), &how.known, sizeof(int), NULL));
	how.more = 1;
	assert_null(evt_listen_sized(pool, "tcp://127.0.0.1:0", &echoes,
		sizeof(echoes), (const void *)&how, sizeof(how), NULL));
	assert_int_equal(errno, EINVAL);
	free_pool();
}

/* A22 */
static void stats_of_another_size_are_filled_that_far(void **state)
{
	struct {
		struct evt_stats known;
		uint64_t more[4];
	} newer;
	uint64_t older[2] = {99, 99};

	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_true(answers(pool_port));
	assert_int_equal(
		evt_pool_stats_sized(pool, (void *)older, sizeof(older[0])), 0);
	assert_int_equal(older[0], 1);
	assert_int_equal(older[1], 99);
	memset(&newer, 0xff, sizeof(newer));
	assert_int_equal(
		evt_pool_stats_sized(pool, (void *)&newer, sizeof(newer)), 0);
	assert_int_equal(newer.known.accepted, 1);
	assert_int_equal(newer.more[0] | newer.more[3], 0);
	free_pool();
}

static void the_version_is_that_of_the_header(void **state)
{
	(void)state;
	assert_string_equal(evt_version(), EVT_VERSION);
}

/* Workers */

static atomic_int arg_of_hooks;

static struct {
	atomic_int started;
	atomic_int stopped;
	atomic_int events_before; /* that came before the start was over */
	atomic_int closed_after;  /* on_close that came after the stop */
	atomic_bool without_base;
	atomic_int connected_to;
} hooks;

static _Thread_local bool has_started;
static _Thread_local bool has_stopped;

static void note_start(struct evt_worker *worker, void *arg)
{
	if (worker != evt_worker_self() || arg != &arg_of_hooks ||
		!evt_worker_base(worker))
		atomic_store(&hooks.without_base, true);
	usleep(2000); /* time for an event that does not wait */
	has_started = true;
	atomic_fetch_add(&hooks.started, 1);
}

static void note_end(struct evt_worker *worker, void *arg)
{
	if (worker != evt_worker_self() || arg != &arg_of_hooks ||
		!evt_worker_base(worker))
		atomic_store(&hooks.without_base, true);
	has_stopped = true;
	atomic_fetch_add(&hooks.stopped, 1);
}

static void note_open_after_start(struct evt_conn *conn, void *arg)
{
	note_open(conn, arg);
	atomic_fetch_add(&hooks.events_before, !has_started);
}

static void note_close_before_stop(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	note_close(conn, reason, arg);
	atomic_fetch_add(&hooks.closed_after, has_stopped);
}

static void forget_hooks(void)
{
	atomic_store(&hooks.started, 0);
	atomic_store(&hooks.stopped, 0);
	atomic_store(&hooks.events_before, 0);
	atomic_store(&hooks.closed_after, 0);
	atomic_store(&hooks.without_base, false);
}

static const struct evt_pool_options hooked = {.workers = WORKERS,
	.on_worker_start = note_start,
	.on_worker_stop = note_end,
	.arg = &arg_of_hooks};

static void the_hooks_of_a_worker_are_its_first_and_its_last_call(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open_after_start,
		.on_data = echo_data,
		.on_close = note_close_before_stop};
	int clients[12];

	(void)state;
	forget_hooks();
	start_pool(&hooked, &handlers, NULL);
	connect_clients(clients, 12);
	assert_int_equal(atomic_load(&hooks.started), WORKERS);
	assert_int_equal(atomic_load(&hooks.stopped), 0);
	free_pool();
	close_clients(clients, 12);
	assert_int_equal(atomic_load(&hooks.stopped), WORKERS);
	assert_int_equal(atomic_load(&hooks.events_before), 0);
	assert_int_equal(atomic_load(&hooks.closed_after), 0);
	assert_int_equal(atomic_load(&seen.closed), 12);
	assert_false(atomic_load(&hooks.without_base));
}

/* D01 */
static void hooks_are_called_in_pairs_though_a_stop_came_first(void **state)
{
	(void)state;
	forget_hooks();
	make_pool(&hooked, NULL, NULL);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_run(pool), 0);
	assert_int_equal(atomic_load(&hooks.started), WORKERS);
	assert_int_equal(atomic_load(&hooks.stopped), WORKERS);
	free_pool();
}

static void no_hook_is_called_in_a_pool_that_does_not_run(void **state)
{
	(void)state;
	forget_hooks();
	make_pool(&hooked, NULL, NULL);
	assert_null(evt_listen(pool, "nonsense", &echoes, NULL, NULL));
	assert_int_equal(evt_pool_run(pool), -1);
	free_pool();
	assert_int_equal(atomic_load(&hooks.started), 0);
	assert_int_equal(atomic_load(&hooks.stopped), 0);
}

static void connect_at_start(struct evt_worker *worker, void *arg)
{
	char url[64];

	(void)arg;
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d",
		atomic_load(&hooks.connected_to));
	if (evt_connect(worker, url, &echoes, NULL, NULL))
		atomic_fetch_add(&seen.tasks, 1);
}

static void a_worker_may_connect_before_its_first_event(void **state)
{
	const struct evt_pool_options options = {
		.workers = WORKERS, .on_worker_start = connect_at_start};

	(void)state;
	make_pool(&options, NULL, NULL);
	atomic_store(&hooks.connected_to, pool_port);
	assert_int_equal(evt_pool_start(pool), 0);
	assert_true(WAIT_FOR(atomic_load(&seen.opened) == 2 * WORKERS));
	assert_int_equal(atomic_load(&seen.tasks), WORKERS);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(is_balanced());
	free_pool();
}

static atomic_int wrong;

static void check_who_i_am(struct evt_worker *worker, void *arg)
{
	(void)arg;
	if (worker != evt_worker_self() || evt_worker_pool(worker) != pool ||
		evt_pool_worker(pool, evt_worker_index(worker)) != worker ||
		!evt_worker_base(worker))
		atomic_fetch_add(&wrong, 1);
	atomic_fetch_add(&seen.tasks, 1);
}

static void workers_are_known_before_they_run(void **state)
{
	int i;

	(void)state;
	make_pool(NULL, NULL, NULL);
	atomic_store(&wrong, 0);
	assert_int_equal(evt_pool_workers(pool), WORKERS);
	for (i = 0; i < WORKERS; i++) {
		struct evt_worker *worker = evt_pool_worker(pool, i);

		assert_ptr_equal(evt_worker_pool(worker), pool);
		assert_int_equal(evt_worker_index(worker), i);
		assert_null(evt_worker_base(worker));
	}
	assert_null(evt_worker_self());
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	assert_int_equal(evt_pool_start(pool), 0);
	assert_int_equal(
		evt_pool_post_all(pool, check_who_i_am, NULL), WORKERS);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == WORKERS));
	free_pool();
	assert_int_equal(atomic_load(&wrong), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_pool_serves_from_start_to_free),
		LEDGER_TEST(run_serves_until_the_pool_is_stopped),
		LEDGER_TEST(a_stop_before_run_makes_it_return_at_once),
		LEDGER_TEST(a_stop_before_start_ends_the_wait_at_once),
		LEDGER_TEST(a_pool_serves_once),
		LEDGER_TEST(a_pool_that_was_run_serves_once),
		LEDGER_TEST(a_pool_may_be_freed_without_having_run),
		LEDGER_TEST(a_pool_may_be_freed_while_others_wait_for_it),
		LEDGER_TEST(a_pool_may_be_freed_while_another_thread_runs_it),
		LEDGER_TEST(without_a_pool_each_call_is_refused),
		LEDGER_TEST(stopping_or_freeing_null_says_so_and_does_nothing),
		LEDGER_TEST(a_pool_that_was_not_started_is_not_waited_for),
		LEDGER_TEST(a_worker_does_not_wait_for_itself),
		LEDGER_TEST(the_thread_that_accepts_does_not_wait_for_itself),
		LEDGER_TEST(a_worker_may_start_another_pool),
		LEDGER_TEST(a_listen_that_failed_fails_run_and_start),
		LEDGER_TEST(options_out_of_range_are_refused_and_named),
		LEDGER_TEST(the_ends_of_each_range_serve),
		LEDGER_TEST(without_options_there_is_a_worker_for_each_cpu),
		LEDGER_TEST(options_of_an_older_header_are_taken),
		LEDGER_TEST(
			options_of_a_newer_header_are_taken_if_they_ask_for_nothing),
		LEDGER_TEST(listen_options_and_handlers_may_have_another_size),
		LEDGER_TEST(stats_of_another_size_are_filled_that_far),
		LEDGER_TEST(the_version_is_that_of_the_header),
		LEDGER_TEST(
			the_hooks_of_a_worker_are_its_first_and_its_last_call),
		LEDGER_TEST(hooks_are_called_in_pairs_though_a_stop_came_first),
		LEDGER_TEST(no_hook_is_called_in_a_pool_that_does_not_run),
		LEDGER_TEST(a_worker_may_connect_before_its_first_event),
		LEDGER_TEST(workers_are_known_before_they_run),
	};

	return ledger_run("pool_run", tests);
}
