/*
 * test_signal_masks.c: which signals the threads of a pool block, and SIGPIPE.
 * Each scene plays in a forked child.
 */
#include "pool_rig.h"

#include <dirent.h>
#include <signal.h>

static void act(void (*scene)(void *), void *arg)
{
	assert_int_equal(in_child(scene, arg, 10), 0);
}

/* With CHECK, for scenes. */
static void make(const struct evt_pool_options *options,
	const struct evt_handlers *handlers)
{
	pool = evt_pool_new(options);
	CHECK(pool);
	listener = evt_listen(pool, "tcp://127.0.0.1:0", handlers, NULL, NULL);
	CHECK(listener);
	pool_port = evt_listener_port(listener);
}

static const struct evt_pool_options two = {.workers = 2, .grace_ms = -1};

static void set_disposition(int number, void (*handler)(int))
{
	struct sigaction action = {.sa_handler = handler};

	CHECK(sigaction(number, &action, NULL) == 0);
}

static void set_blocked(int how, int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	CHECK(pthread_sigmask(how, &set, NULL) == 0);
}

/* Masks: what a thread of this name blocks, as bits from signal 1. */

static unsigned long long value_of(const char *task, const char *key)
{
	char path[300];
	char line[256];
	unsigned long long value = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%s/status", task);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, key, strlen(key)) == 0)
			value = strtoull(line + strlen(key), NULL, 16);
	if (file)
		fclose(file);
	return value;
}

static bool has_name(const char *task, const char *name)
{
	char path[300];
	char line[32] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task);
	file = fopen(path, "r");
	if (file && !fgets(line, sizeof(line), file))
		line[0] = '\0';
	if (file)
		fclose(file);
	return strncmp(line, name, strlen(name)) == 0;
}

static unsigned long long bit_of(int number)
{
	return 1ULL << (number - 1);
}

static int count_masked(const char *name, unsigned long long blocked)
{
	const unsigned long long faults = bit_of(SIGSEGV) | bit_of(SIGBUS) |
		bit_of(SIGFPE) | bit_of(SIGILL) | bit_of(SIGTRAP) |
		bit_of(SIGSYS) | bit_of(SIGABRT) | bit_of(SIGPROF);
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	int nr = 0;

	while (dir && (entry = readdir(dir))) {
		unsigned long long mask;

		if (entry->d_name[0] == '.' || !has_name(entry->d_name, name))
			continue;
		mask = value_of(entry->d_name, "SigBlk:");
		nr += (mask & faults) == 0 && (mask & blocked) == blocked;
	}
	if (dir)
		closedir(dir);
	return nr;
}

static void look_at_masks(void *arg)
{
	const unsigned long long host = bit_of(SIGINT) | bit_of(SIGTERM) |
		bit_of(SIGHUP) | bit_of(SIGUSR1) | bit_of(SIGUSR2) |
		bit_of(SIGCHLD) | bit_of(SIGALRM) | bit_of(SIGPIPE) |
		bit_of(SIGWINCH) | bit_of(SIGURG) | bit_of(SIGIO);
	unsigned long long before = value_of("self", "SigBlk:");

	(void)arg;
	make(&two, &echoes);
	CHECK(evt_pool_start(pool) == 0);
	CHECK(answers(pool_port));
	/* Each gives itself its name first. */
	CHECK(WAIT_FOR(count_masked("evt-worker-", host) == 2));
	CHECK(WAIT_FOR(count_masked("evt-listener", host) == 1));
	CHECK(value_of("self", "SigBlk:") == before);
	evt_pool_free(pool);
}

/* J02 */
static void threads_block_the_programs_signals_but_no_fault(void **state)
{
	(void)state;
	if (under("valgrind")) /* the masks are its own */
		skip();
	act(look_at_masks, NULL);
}

static atomic_int run_blocks;

static void look_while_it_runs(struct evt_worker *worker, void *arg)
{
	char task[32];
	unsigned long long mask;

	(void)arg;
	snprintf(task, sizeof(task), "%d", (int)getpid());
	mask = value_of(task, "SigBlk:");
	atomic_store(&run_blocks,
		((mask & bit_of(SIGINT)) != 0) +
			2 * ((mask & bit_of(SIGUSR1)) != 0) +
			4 * ((mask & bit_of(SIGUSR2)) != 0));
	evt_pool_stop(evt_worker_pool(worker));
}

static void look_at_the_mask_of_run(void *arg)
{
	const struct evt_pool_options options = {
		.workers = 1, .on_worker_start = look_while_it_runs};

	(void)arg;
	set_blocked(SIG_BLOCK, SIGINT);
	set_blocked(SIG_BLOCK, SIGUSR1);
	make(&options, &echoes);
	CHECK(evt_pool_run(pool) == 0);
	CHECK(atomic_load(&run_blocks) == 2);
	evt_pool_free(pool);
}

/* J02: it unblocks the two, and leaves the rest. */
static void the_thread_that_runs_the_pool_keeps_its_other_signals(void **state)
{
	(void)state;
	if (under("valgrind"))
		skip();
	act(look_at_the_mask_of_run, NULL);
}

static void write_after_the_peer_left(struct evt_conn *conn, void *arg)
{
	static char much[1 << 20];

	note_open(conn, arg);
	wait_at_gate();
	/* At once, and again when the reset has come. */
	evt_conn_write(conn, much, sizeof(much));
	evt_conn_write(conn, much, sizeof(much));
}

static void unblock_sigpipe(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	set_blocked(SIG_UNBLOCK, SIGPIPE);
	set_blocked(SIG_BLOCK, SIGPIPE);
	atomic_fetch_add(&seen.tasks, 1);
}

static void write_to_those_that_left(void *arg)
{
	const struct evt_handlers handlers = {
		.on_open = write_after_the_peer_left, .on_close = note_close};
	int i;

	(void)arg;
	set_disposition(SIGPIPE, SIG_DFL);
	shut_gate();
	make(&two, &handlers);
	CHECK(evt_pool_start(pool) == 0);
	for (i = 0; i < 20; i++)
		close_with_reset(connect_to(pool_port));
	open_gate();
	CHECK(WAIT_FOR(atomic_load(&seen.closed) > 0 &&
		atomic_load(&seen.closed) == atomic_load(&seen.opened)));
	CHECK(evt_pool_post_all(pool, unblock_sigpipe, NULL) == 2);
	evt_pool_free(pool);
	CHECK(atomic_load(&seen.tasks) == 2);
}

/* J03, E01 */
static void no_sigpipe_is_left_by_writing_to_a_peer_that_left(void **state)
{
	(void)state;
	act(write_to_those_that_left, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(threads_block_the_programs_signals_but_no_fault),
		LEDGER_TEST(
			the_thread_that_runs_the_pool_keeps_its_other_signals),
		LEDGER_TEST(no_sigpipe_is_left_by_writing_to_a_peer_that_left),
	};

	return ledger_run("signal_masks", tests);
}
