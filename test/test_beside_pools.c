/*
 * test_beside_pools.c: several pools in a process, the classic server beside
 * them, and what else a program does: it exits, uses libevent for itself,
 * shuts that down, unloads the library.
 */
#include "pool_rig.h"

#include <dlfcn.h>
#include <event2/event.h>
#include <signal.h>

#define POOLS 3

static struct one {
	struct evt_pool *pool;
	int port;
} pools[POOLS];

static void start_pools(void)
{
	int i;

	for (i = 0; i < POOLS; i++) {
		start_pool(NULL, NULL, NULL);
		pools[i] = (struct one){pool, pool_port};
		pool = NULL;
	}
}

static void free_pools(void)
{
	int i;

	for (i = 0; i < POOLS; i++)
		evt_pool_free(pools[i].pool);
}

/* D15 */
static void the_end_of_one_pool_leaves_the_others(void **state)
{
	int i;

	(void)state;
	start_pools();
	for (i = 0; i < POOLS; i++)
		assert_true(answers(pools[i].port));
	evt_pool_stop(pools[1].pool);
	assert_int_equal(evt_pool_wait(pools[1].pool), 0);
	assert_true(refused(pools[1].port));
	assert_true(answers(pools[0].port) && answers(pools[2].port));
	evt_pool_free(pools[1].pool);
	pools[1].pool = evt_pool_new(NULL);
	assert_int_equal(evt_pool_start(pools[1].pool), 0);
	assert_true(answers(pools[0].port) && answers(pools[2].port));
	free_pools();
}

/* D15: each counts its own. */
static void each_pool_has_counters_of_its_own(void **state)
{
	struct evt_stats stats;
	int i;
	int n;

	(void)state;
	start_pools();
	for (i = 0; i < POOLS; i++)
		for (n = 0; n <= i; n++)
			assert_true(answers(pools[i].port));
	for (i = 0; i < POOLS; i++) {
		assert_int_equal(evt_pool_stats(pools[i].pool, &stats), 0);
		assert_int_equal(stats.accepted, i + 1);
		assert_int_equal(stats.bytes_in, i + 1);
	}
	free_pools();
}

/* D15 */
static void a_failed_listen_is_its_own_pools_alone(void **state)
{
	struct evt_pool *bad = evt_pool_new(NULL);

	(void)state;
	assert_null(evt_listen(bad, "tcp://127.0.0.1:1x", &echoes, NULL, NULL));
	start_pool(NULL, NULL, NULL);
	assert_true(answers(pool_port));
	assert_int_equal(evt_pool_start(bad), -1);
	assert_int_equal(errno, ECONNABORTED);
	evt_pool_free(bad);
	free_pool();
}

static void post_back(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	if (evt_worker_post(evt_pool_worker(pools[0].pool, 0), note_task_ran,
		    NULL) == -1)
		abort();
}

static void post_over(struct evt_worker *worker, void *arg)
{
	if (evt_worker_post(evt_pool_worker(arg, 1), post_back, NULL) == -1)
		abort();
	(void)worker;
}

/* D15 */
static void a_worker_posts_to_one_of_another_pool(void **state)
{
	(void)state;
	start_pools();
	assert_int_equal(
		evt_pool_post_all(pools[0].pool, post_over, pools[1].pool),
		WORKERS);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == WORKERS));
	free_pools();
}

static atomic_int error_seen;

static void stop_the_other(struct evt_worker *worker, void *arg)
{
	(void)worker;
	evt_pool_stop(arg);
	atomic_fetch_add(&seen.tasks, 1);
}

/* D15, D02 */
static void a_worker_stops_another_pool(void **state)
{
	(void)state;
	start_pools();
	assert_int_equal(evt_worker_post(evt_pool_worker(pools[0].pool, 0),
				 stop_the_other, pools[1].pool),
		0);
	assert_int_equal(evt_pool_wait(pools[1].pool), 0);
	assert_true(answers(pools[0].port));
	free_pools();
}

static _Atomic(struct evt_conn *) foreign;

static void keep_at_open(struct evt_conn *conn, void *arg)
{
	atomic_store(&foreign, conn);
	note_open(conn, arg);
}

static void write_to_foreign(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	errno = 0;
	if (evt_conn_write(atomic_load(&foreign), "x", 1) == -1)
		atomic_store(&error_seen, errno);
	atomic_fetch_add(&seen.tasks, 1);
}

/* D15, E13: by its own pool's worker with the same index even less. */
static void a_connection_is_refused_to_another_pools_worker(void **state)
{
	const struct evt_pool_options one = {.workers = 1};
	const struct evt_handlers handlers = {.on_open = keep_at_open};
	struct evt_pool *other;
	int client;

	(void)state;
	start_pool(&one, &handlers, NULL);
	connect_clients(&client, 1);
	other = evt_pool_new(&one);
	assert_int_equal(evt_pool_start(other), 0);
	atomic_store(&error_seen, 0);
	evt_worker_post(evt_pool_worker(other, 0), write_to_foreign, NULL);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == 1));
	assert_int_equal(atomic_load(&error_seen), EINVAL);
	evt_pool_free(other);
	free_pool();
	close(client);
}

/* The classic server, at port. */
static bool classic_answers(void)
{
	return answers(evt_server_port());
}

/* D15 */
static void the_classic_server_lives_beside_a_pool(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_int_not_equal(serve(on_client, echo, 2), -1);
	assert_true(answers(pool_port) && classic_answers());
	evt_server_stop();
	assert_true(answers(pool_port));
	assert_int_not_equal(serve(on_client, echo, 2), -1);
	free_pool();
	assert_true(classic_answers());
	evt_server_stop();
}

static _Atomic(struct evt_pool *) classic;

static void tell_classic(sockfd_t conn, short evt, void *arg)
{
	atomic_store(&classic, evt_worker_pool(evt_worker_self()));
	just_count(conn, evt, arg);
}

/* D15 */
static void the_classic_pool_refuses_what_is_for_others(void **state)
{
	struct evt_stats stats;
	struct evt_pool *it;

	(void)state;
	assert_int_equal(serve(NULL, tell_classic, 2), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	it = atomic_load(&classic);
	log_forget();
	assert_int_equal(evt_pool_run(it), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_pool_start(it), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_pool_wait(it), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_pool_stats(it, &stats), -1);
	assert_int_equal(errno, EINVAL);
	assert_null(evt_listen(it, "tcp://:0", &echoes, NULL, NULL));
	assert_int_equal(errno, EINVAL);
	evt_pool_stop(it);
	evt_pool_free(it);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 7);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 2));
	evt_server_stop();
}

static void stop_classic(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	evt_server_stop();
	atomic_fetch_add(&seen.tasks, 1);
}

/* D15, D02 */
static void a_worker_of_a_pool_stops_the_classic_server(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	assert_int_not_equal(serve(on_client, echo, 2), -1);
	assert_true(classic_answers());
	assert_int_equal(
		evt_worker_post(evt_pool_worker(pool, 0), stop_classic, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == 1));
	assert_true(answers(pool_port));
	evt_server_stop();
	free_pool();
}

/* Exiting */

static void begin_to_serve(void)
{
	pool = evt_pool_new(NULL);
	CHECK(pool);
	listener = evt_listen(pool, "tcp://127.0.0.1:0", &echoes, NULL, NULL);
	CHECK(listener && evt_pool_start(pool) == 0);
	pool_port = evt_listener_port(listener);
	CHECK(connect_to(pool_port) != -1);
	CHECK(answers(pool_port));
}

static void exit_while_it_runs(void *arg)
{
	(void)arg;
	begin_to_serve();
	exit(3);
}

static size_t exit_at_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn;
	(void)data;
	(void)len;
	(void)arg;
	exit(3);
}

static void exit_in_a_handler(void *arg)
{
	const struct evt_handlers handlers = {.on_data = exit_at_data};
	struct runner runner;

	(void)arg;
	pool = evt_pool_new(NULL);
	listener = evt_listen(pool, "tcp://127.0.0.1:0", &handlers, NULL, NULL);
	CHECK(listener);
	start_runner(&runner, pool);
	CHECK(send_all(connect_to(evt_listener_port(listener)), "x", 1));
	join_runner(&runner);
}

/* D11 */
static void a_program_may_exit_while_a_pool_runs(void **state)
{
	int rounds = under("plain") ? 50 : 5;
	int i;

	(void)state;
	for (i = 0; i < rounds; i++)
		assert_int_equal(in_child(exit_while_it_runs, NULL, 5), 3);
}

/* D11 */
static void a_handler_may_exit(void **state)
{
	int rounds = under("plain") ? 50 : 5;
	int i;

	(void)state;
	for (i = 0; i < rounds; i++)
		assert_int_equal(in_child(exit_in_a_handler, NULL, 5), 3);
}

/* libevent */

/* A scene wants a process in which libevent has not been used yet: this
 * program, started once more with the scene's name. */
static void exec_scene(void *name)
{
	char self[512] = ""; /* by its own path: for valgrind the link is not */

	CHECK(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	execl(self, "test_beside_pools", (char *)name, (char *)NULL);
	_exit(126);
}

static int play(const char *scene)
{
	char name[32];

	snprintf(name, sizeof(name), "%s", scene);
	return in_child(exec_scene, name, 10);
}

static void play_well(const char *scene)
{
	int status = play(scene);

	if (status == NO_NETWORK)
		skip();
	assert_int_equal(status, 0);
}

static void use_pthreads(void)
{
	void *lib = dlopen("libevent_pthreads-2.1.so.7", RTLD_NOW);
	int (*use)(void);

	if (!lib)
		_exit(NO_NETWORK);
	*(void **)&use = dlsym(lib, "evthread_use_pthreads");
	CHECK(use && use() == 0);
}

static void on_own_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	*(int *)arg += 1;
}

/* The program's own loop goes on beside ours, its signal events too. */
static void use_own_base(void)
{
	const struct timeval soon = {.tv_usec = 1000};
	struct event_base *base = event_base_new();
	int fired = 0;
	int raised = 0;
	struct event *timer = event_new(base, -1, 0, on_own_timer, &fired);
	struct event *signal_event = event_new(
		base, SIGUSR2, EV_SIGNAL, on_own_timer, &raised);

	CHECK(event_add(timer, &soon) == 0);
	CHECK(event_add(signal_event, NULL) == 0);
	raise(SIGUSR2);
	CHECK(event_base_dispatch(base) == 1 && fired == 1 && raised == 1);
	event_free(timer);
	event_free(signal_event);
	event_base_free(base);
}

static void connect_to_self(struct evt_worker *worker, void *arg)
{
	char url[64];

	(void)arg;
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", pool_port);
	CHECK(evt_connect(worker, url, &echoes, NULL, NULL));
}

static void serve_one_life(bool then_use_pthreads)
{
	int workers;

	forget_seen();
	begin_to_serve();
	workers = evt_pool_post_all(pool, connect_to_self, NULL);
	CHECK(workers > 0);
	if (then_use_pthreads)
		use_pthreads();
	use_own_base();
	CHECK(answers(pool_port));
	CHECK(WAIT_FOR(stats_now().connected == (uint64_t)workers));
	evt_pool_free(pool);
	use_own_base();
}

static int play_libevent(bool before, bool after, bool debug)
{
	if (debug)
		event_enable_debug_mode();
	if (before)
		use_pthreads();
	use_own_base();
	serve_one_life(after);
	serve_one_life(false);
	return 0;
}

/* D16 */
static void libevent_may_get_its_locks_before(void **state)
{
	(void)state;
	play_well("before");
}

/* D16 */
static void libevent_may_get_its_locks_while_a_pool_runs(void **state)
{
	(void)state;
	play_well("after");
}

/* D16 */
static void libevents_debug_mode_finds_no_fault_in_a_pool_with_locks(
	void **state)
{
	(void)state;
	play_well("before-debug");
}

/* D16 */
static void libevents_debug_mode_finds_no_fault_in_a_pool_without_locks(
	void **state)
{
	(void)state;
	play_well("debug");
}

/* D11 */
static void main_may_return_while_a_pool_runs(void **state)
{
	int i;

	(void)state;
	for (i = 0; i < 5; i++)
		assert_int_equal(play("return"), 4);
}

static void shut_libevent_down_first(void *arg)
{
	int threads = count_threads();

	(void)arg;
	begin_to_serve();
	libevent_global_shutdown();
	CHECK(answers(pool_port));
	evt_pool_free(pool);
	CHECK(WAIT_FOR(count_threads() <= threads));
}

/* D17 */
static void a_pool_stops_after_libevents_global_shutdown(void **state)
{
	(void)state;
	assert_int_equal(in_child(shut_libevent_down_first, NULL, 10), 0);
}

/* The library as a program that loads it has it. */
struct loaded {
	struct evt_pool *(*new)(const struct evt_pool_options *, size_t);
	int (*start)(struct evt_pool *);
	void (*free)(struct evt_pool *);
};

static void *load(struct loaded *lib)
{
	void *handle = dlopen(program("libevtserver.so.0"), RTLD_NOW);

	CHECK(handle);
	*(void **)&lib->new = dlsym(handle, "evt_pool_new_sized");
	*(void **)&lib->start = dlsym(handle, "evt_pool_start");
	*(void **)&lib->free = dlsym(handle, "evt_pool_free");
	CHECK(lib->new && lib->start && lib->free);
	return handle;
}

static void nothing(void *arg)
{
	(void)arg;
}

static void load_often(void *arg)
{
	struct loaded lib;
	int threads = count_threads();
	int i;

	(void)arg;
	for (i = 0; i < 30; i++) {
		void *handle = load(&lib);
		struct evt_pool *it = lib.new(NULL, 0);

		CHECK(it && lib.start(it) == 0);
		lib.free(it);
		CHECK(dlclose(handle) == 0);
		/* A fork handler that stayed would be called here. */
		CHECK(i % 10 || in_child(nothing, NULL, 5) == 0);
		CHECK(WAIT_FOR(count_threads() <= threads));
	}
}

/* D18 */
static void the_library_may_be_unloaded_after_a_pool(void **state)
{
	(void)state;
	if (access(program("libevtserver.so.0"), R_OK) == -1)
		skip();
	assert_int_equal(in_child(load_often, NULL, 20), 0);
}

static int play_scene(const char *scene)
{
	if (strcmp(scene, "return") == 0) {
		begin_to_serve();
		return 4;
	}
	return play_libevent(strstr(scene, "before"), strstr(scene, "after"),
		strstr(scene, "debug"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(the_end_of_one_pool_leaves_the_others),
		LEDGER_TEST(each_pool_has_counters_of_its_own),
		LEDGER_TEST(a_failed_listen_is_its_own_pools_alone),
		LEDGER_TEST(a_worker_posts_to_one_of_another_pool),
		LEDGER_TEST(a_worker_stops_another_pool),
		LEDGER_TEST(a_connection_is_refused_to_another_pools_worker),
		LEDGER_TEST(the_classic_server_lives_beside_a_pool),
		LEDGER_TEST(the_classic_pool_refuses_what_is_for_others),
		LEDGER_TEST(a_worker_of_a_pool_stops_the_classic_server),
		LEDGER_TEST(a_program_may_exit_while_a_pool_runs),
		LEDGER_TEST(a_handler_may_exit),
		LEDGER_TEST(main_may_return_while_a_pool_runs),
		LEDGER_TEST(libevent_may_get_its_locks_before),
		LEDGER_TEST(libevent_may_get_its_locks_while_a_pool_runs),
		LEDGER_TEST(
			libevents_debug_mode_finds_no_fault_in_a_pool_with_locks),
		LEDGER_TEST(
			libevents_debug_mode_finds_no_fault_in_a_pool_without_locks),
		LEDGER_TEST(a_pool_stops_after_libevents_global_shutdown),
		LEDGER_TEST(the_library_may_be_unloaded_after_a_pool),
	};

	if (argc > 1)
		return play_scene(argv[1]);
	return ledger_run("beside_pools", tests);
}
