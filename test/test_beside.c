/*
 * test_beside.c: the server beside what else a program does: it exits, uses
 * libevent for itself, shuts it down, unloads the library.
 */
#include "rig.h"

#include <dlfcn.h>
#include <event2/event.h>

static void exit_while_running(void *arg)
{
	int client = connect_to(serve(on_client, echo, 4));

	(void)arg;
	CHECK(client != -1);
	CHECK(answers(evt_server_port()));
	exit(3); /* one client connected, its worker in read */
}

/* D11 */
static void a_program_may_exit_while_the_server_runs(void **state)
{
	int rounds = under("plain") ? 50 : 5;
	int i;

	(void)state;
	for (i = 0; i < rounds; i++)
		assert_int_equal(in_child(exit_while_running, NULL, 5), 3);
}

/* A scene wants a process in which libevent has not been used yet: this
 * program, started once more with the scene's name. */
static void exec_scene(void *name)
{
	char self[512] = ""; /* by its own path: for valgrind the link is not */

	CHECK(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	execl(self, "test_beside", (char *)name, (char *)NULL);
	_exit(126);
}

static int play(const char *scene)
{
	char name[32];

	snprintf(name, sizeof(name), "%s", scene);
	return in_child(exec_scene, name, 10);
}

/* D11 */
static void main_may_return_while_the_server_runs(void **state)
{
	int i;

	(void)state;
	for (i = 0; i < 5; i++)
		assert_int_equal(play("return"), 4);
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

/* The program's own loop goes on beside ours. */
static void use_own_base(void)
{
	const struct timeval soon = {.tv_usec = 1000};
	struct event_base *base = event_base_new();
	int fired = 0;
	struct event *timer = event_new(base, -1, 0, on_own_timer, &fired);

	CHECK(event_add(timer, &soon) == 0);
	CHECK(event_base_dispatch(base) == 1 && fired == 1);
	event_free(timer);
	event_base_free(base);
}

static int play_libevent(bool before, bool after, bool debug)
{
	if (debug)
		event_enable_debug_mode();
	if (before)
		use_pthreads();
	use_own_base();
	CHECK(answers(serve(on_client, echo, 2)));
	if (after)
		use_pthreads();
	use_own_base();
	CHECK(answers(evt_server_port()));
	evt_server_stop();
	use_own_base();
	CHECK(answers(serve(on_client, echo, 2)));
	evt_server_stop();
	return 0;
}

static void play_well(const char *scene)
{
	int status = play(scene);

	if (status == NO_NETWORK)
		skip();
	assert_int_equal(status, 0);
}

/* D16 */
static void libevent_may_get_its_locks_before_init(void **state)
{
	(void)state;
	play_well("before");
}

/* D16 */
static void libevent_may_get_its_locks_while_the_server_runs(void **state)
{
	(void)state;
	play_well("after");
}

/* D16 */
static void libevents_debug_mode_finds_no_fault_with_locks(void **state)
{
	(void)state;
	play_well("before-debug");
}

/* D16 */
static void libevents_debug_mode_finds_no_fault_without_locks(void **state)
{
	(void)state;
	play_well("debug");
}

static void shut_libevent_down_first(void *arg)
{
	int threads = count_threads();

	(void)arg;
	CHECK(answers(serve(on_client, echo, 2)));
	libevent_global_shutdown();
	CHECK(answers(evt_server_port()));
	evt_server_stop();
	CHECK(WAIT_FOR(count_threads() <= threads));
}

/* D17 */
static void stop_works_after_libevents_global_shutdown(void **state)
{
	(void)state;
	assert_int_equal(in_child(shut_libevent_down_first, NULL, 10), 0);
}

/* The library as a program that loads it has it. */
struct loaded {
	int (*init)(int, int);
	int (*start)(evt_callback, void *);
	int (*threads)(evt_callback, int);
	void (*stop)(void);
};

static void *load(struct loaded *lib)
{
	void *handle = dlopen(program("libevtserver.so.0"), RTLD_NOW);

	CHECK(handle);
	*(void **)&lib->init = dlsym(handle, "evt_server_init");
	*(void **)&lib->start = dlsym(handle, "evt_server_start");
	*(void **)&lib->threads = dlsym(handle, "evt_server_threads");
	*(void **)&lib->stop = dlsym(handle, "evt_server_stop");
	CHECK(lib->init && lib->start && lib->threads && lib->stop);
	return handle;
}

static void empty(void *arg)
{
	(void)arg;
}

static void load_often(void *arg)
{
	struct loaded lib;
	int threads = count_threads();
	int fds = 0;
	int i;

	(void)arg;
	for (i = 0; i < 100 / slowness(); i++) {
		void *handle = load(&lib);

		if (i == 1)
			fds = count_fds();
		CHECK(lib.init(0, SOCK_STREAM) == 0);
		CHECK(lib.start(just_count, NULL) == 0);
		CHECK(lib.threads(just_count, 2) == 2);
		lib.stop();
		CHECK(dlclose(handle) == 0);
		/* A fork handler that stayed would be called here. */
		CHECK(i % 10 || in_child(empty, NULL, 5) == 0);
		CHECK(WAIT_FOR(count_threads() <= threads));
	}
	CHECK(i < 2 || count_fds() <= fds);
}

/* D18 */
static void the_library_may_be_unloaded_a_hundred_times(void **state)
{
	(void)state;
	if (access(program("libevtserver.so.0"), R_OK) == -1)
		skip();
	assert_int_equal(in_child(load_often, NULL, 20), 0);
}

static int play_scene(const char *scene)
{
	if (strcmp(scene, "return") == 0)
		return answers(serve(on_client, echo, 4)) ? 4 : 1;
	return play_libevent(strstr(scene, "before"), strstr(scene, "after"),
		strstr(scene, "debug"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_program_may_exit_while_the_server_runs),
		LEDGER_TEST(main_may_return_while_the_server_runs),
		LEDGER_TEST(libevent_may_get_its_locks_before_init),
		LEDGER_TEST(libevent_may_get_its_locks_while_the_server_runs),
		LEDGER_TEST(libevents_debug_mode_finds_no_fault_with_locks),
		LEDGER_TEST(libevents_debug_mode_finds_no_fault_without_locks),
		LEDGER_TEST(stop_works_after_libevents_global_shutdown),
		LEDGER_TEST(the_library_may_be_unloaded_a_hundred_times),
	};

	if (argc > 1)
		return play_scene(argv[1]);
	return ledger_run("beside", tests);
}
