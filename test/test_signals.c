/*
 * test_signals.c: evt_pool_run and SIGINT and SIGTERM, and the signals of the
 * program, which are its own. Each scene plays in a forked child, whose
 * dispositions and mask are nobody else's.
 */
/* wrap: pthread_setcancelstate */
#include "../evt-pool-internal.h"
#include "pool_rig.h"

#include <signal.h>
#include <sys/time.h>

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

static atomic_int caught;

static void catch_signal(int number)
{
	atomic_store(&caught, number);
}

static void (*disposition(int number))(int)
{
	struct sigaction now;

	CHECK(sigaction(number, NULL, &now) == 0);
	return now.sa_handler;
}

static void set_disposition(int number, void (*handler)(int))
{
	struct sigaction action = {.sa_handler = handler};

	CHECK(sigaction(number, &action, NULL) == 0);
}

static bool is_blocked(int number)
{
	sigset_t mask;

	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
	return sigismember(&mask, number) == 1;
}

static void set_blocked(int how, int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	CHECK(pthread_sigmask(how, &set, NULL) == 0);
}

/* A thread that raises signals once the pool serves. */
struct raiser {
	pthread_t thread;
	int number;
	atomic_int nr; /* how many */
	atomic_int
		*before; /* not NULL: waits for it before each but the first */
};

static void *raiser_main(void *arg)
{
	struct raiser *it = arg;
	int i;

	CHECK(WAIT_FOR(answers(pool_port)));
	for (i = 0; i < atomic_load(&it->nr); i++) {
		CHECK(i == 0 || !it->before ||
			WAIT_FOR(atomic_load(it->before) > 0));
		kill(getpid(), it->number);
	}
	return NULL;
}

static void start_raiser(struct raiser *it, int number, int nr)
{
	sigset_t all;
	sigset_t before;

	it->number = number;
	it->before = NULL;
	atomic_store(&it->nr, nr);
	/* The signal is for the thread that runs the pool. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	CHECK(pthread_create(&it->thread, NULL, raiser_main, it) == 0);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void stop_by(void *number)
{
	struct raiser raiser;

	make(&two, &echoes);
	start_raiser(&raiser, (int)(intptr_t)number, 1);
	CHECK(evt_pool_run(pool) == 0);
	pthread_join(raiser.thread, NULL);
	CHECK(refused(pool_port));
	CHECK(disposition(SIGINT) == SIG_DFL);
	CHECK(disposition(SIGTERM) == SIG_DFL);
	evt_pool_free(pool);
}

/* J05 */
static void sigint_stops_run(void **state)
{
	(void)state;
	act(stop_by, numbered(SIGINT));
}

/* J05 */
static void sigterm_stops_run(void **state)
{
	(void)state;
	act(stop_by, numbered(SIGTERM));
}

static const struct evt_handlers stubborn = {.on_open = note_open,
	.on_data = echo_data,
	.on_stop = note_stop,
	.on_close = note_close};

static void stop_by_two(void *arg)
{
	struct raiser raiser;
	int client;

	(void)arg;
	make(&two, &stubborn);
	client = connect_to(pool_port);
	start_raiser(&raiser, SIGTERM, 0);
	raiser.before = &seen.told; /* the first has had its effect */
	atomic_store(&raiser.nr, 2);
	CHECK(evt_pool_run(pool) == 0);
	pthread_join(raiser.thread, NULL);
	CHECK(atomic_load(&seen.told) >= 1);
	CHECK(atomic_load(&seen.reasons[EVT_REASON_STOPPED]) >= 1);
	CHECK(is_balanced());
	close(client);
	evt_pool_free(pool);
}

/* J05: the grace has no end, but for this. */
static void a_second_signal_ends_the_grace(void **state)
{
	(void)state;
	act(stop_by_two, NULL);
}

static void put_back(void *arg)
{
	struct raiser raiser;

	(void)arg;
	set_disposition(SIGINT, catch_signal);
	set_disposition(SIGTERM, SIG_IGN);
	set_blocked(SIG_BLOCK, SIGINT);
	set_blocked(SIG_BLOCK, SIGUSR1);
	make(&two, &echoes);
	start_raiser(&raiser, SIGINT, 1);
	CHECK(evt_pool_run(pool) == 0);
	pthread_join(raiser.thread, NULL);
	CHECK(disposition(SIGINT) == catch_signal);
	CHECK(disposition(SIGTERM) == SIG_IGN);
	CHECK(atomic_load(&caught) == 0);
	CHECK(is_blocked(SIGINT) && !is_blocked(SIGTERM));
	CHECK(is_blocked(SIGUSR1) && !is_blocked(SIGUSR2));
	set_blocked(SIG_UNBLOCK, SIGINT);
	raise(SIGINT);
	CHECK(atomic_load(&caught) == SIGINT);
	evt_pool_free(pool);
}

/* J05 */
static void dispositions_and_the_mask_are_put_back(void **state)
{
	(void)state;
	act(put_back, NULL);
}

static void stop_by_ignored(void *arg)
{
	struct raiser raiser;

	(void)arg;
	set_disposition(SIGINT, SIG_IGN);
	make(&two, &echoes);
	start_raiser(&raiser, SIGINT, 1);
	CHECK(evt_pool_run(pool) == 0);
	pthread_join(raiser.thread, NULL);
	CHECK(disposition(SIGINT) == SIG_IGN);
	raise(SIGINT);
	evt_pool_free(pool);
}

/* J05: as that of a job in the background of a shell. */
static void an_ignored_sigint_stops_run_and_is_ignored_again(void **state)
{
	(void)state;
	act(stop_by_ignored, NULL);
}

static void pend_before_run(void *number)
{
	set_blocked(SIG_BLOCK, (int)(intptr_t)number);
	kill(getpid(), (int)(intptr_t)number);
	make(&two, &echoes);
	CHECK(evt_pool_run(pool) == 0);
	CHECK(is_blocked((int)(intptr_t)number));
	CHECK(refused(pool_port));
	evt_pool_free(pool);
}

/* J05: it was blocked, so that none is lost between a start and run. */
static void a_signal_that_was_blocked_before_run_stops_it_at_once(void **state)
{
	(void)state;
	act(pend_before_run, numbered(SIGINT));
	act(pend_before_run, numbered(SIGTERM));
}

static void run_two_pools(void *arg)
{
	struct runner runners[2];
	struct evt_pool *pools[2];
	int ports[2];
	int i;

	(void)arg;
	set_disposition(SIGTERM, catch_signal);
	for (i = 0; i < 2; i++) {
		make(&two, &echoes);
		pools[i] = pool;
		ports[i] = pool_port;
		start_runner(&runners[i], pool);
	}
	CHECK(WAIT_FOR(answers(ports[0])) && WAIT_FOR(answers(ports[1])));
	kill(getpid(), SIGTERM);
	CHECK(join_runner(&runners[0]) == 0);
	CHECK(join_runner(&runners[1]) == 0);
	CHECK(atomic_load(&caught) == 0);
	CHECK(disposition(SIGTERM) == catch_signal);
	evt_pool_free(pools[0]);
	evt_pool_free(pools[1]);
}

/* J05 */
static void a_signal_stops_two_pools_in_two_threads(void **state)
{
	(void)state;
	act(run_two_pools, NULL);
}

static void end_one_of_two_pools(void *first_begun)
{
	struct runner runners[2];
	struct evt_pool *pools[2];
	int ports[2];
	int first = first_begun ? 0 : 1;
	int i;

	set_disposition(SIGTERM, catch_signal);
	for (i = 0; i < 2; i++) {
		make(&two, &echoes);
		pools[i] = pool;
		ports[i] = pool_port;
		start_runner(&runners[i], pool);
		CHECK(WAIT_FOR(answers(pool_port)));
	}
	evt_pool_stop(pools[first]);
	CHECK(join_runner(&runners[first]) == 0);
	evt_pool_free(pools[first]);
	CHECK(disposition(SIGTERM) != catch_signal);
	CHECK(answers(ports[1 - first]));
	kill(getpid(), SIGTERM);
	CHECK(join_runner(&runners[1 - first]) == 0);
	CHECK(disposition(SIGTERM) == catch_signal);
	evt_pool_free(pools[1 - first]);
}

/* J05: the last that leaves puts them back. */
static void signals_stop_the_second_pool_when_the_first_has_ended(void **state)
{
	(void)state;
	act(end_one_of_two_pools, "");
	act(end_one_of_two_pools, NULL);
}

static void start_beside(void *arg)
{
	struct evt_pool *started;
	struct raiser raiser;
	int started_port;

	(void)arg;
	make(&two, &echoes);
	started = pool;
	started_port = pool_port;
	CHECK(evt_pool_start(started) == 0);
	CHECK(disposition(SIGTERM) == SIG_DFL);
	make(&two, &echoes);
	start_raiser(&raiser, SIGTERM, 1);
	CHECK(evt_pool_run(pool) == 0);
	pthread_join(raiser.thread, NULL);
	CHECK(answers(started_port));
	evt_pool_free(pool);
	evt_pool_free(started);
}

/* J05: it is for pools in run. */
static void a_signal_leaves_a_pool_alone_that_was_started(void **state)
{
	(void)state;
	act(start_beside, NULL);
}

static void die_of_sigterm(void *arg)
{
	make(&two, &echoes);
	CHECK(evt_pool_start(pool) == 0);
	CHECK(answers(pool_port));
	if (arg) {
		evt_pool_stop(pool);
		CHECK(evt_pool_wait(pool) == 0);
	}
	kill(getpid(), SIGTERM);
	(void)WAIT_FOR(false);
}

/* J05 */
static void start_leaves_the_signals_to_the_program(void **state)
{
	(void)state;
	assert_int_equal(in_child(die_of_sigterm, NULL, 10), 128 + SIGTERM);
	assert_int_equal(in_child(die_of_sigterm, "", 10), 128 + SIGTERM);
}

static void stop_in_handler(int number)
{
	(void)number;
	evt_pool_stop(pool);
}

static void stop_from_own_handler(void *arg)
{
	int i;

	(void)arg;
	set_disposition(SIGUSR1, stop_in_handler);
	for (i = 0; i < 20 / slowness(); i++) {
		make(&two, &echoes);
		CHECK(evt_pool_start(pool) == 0);
		raise(SIGUSR1);
		CHECK(evt_pool_wait(pool) == 0);
		raise(SIGUSR1);
		evt_pool_free(pool);
	}
}

/* J05 */
static void a_handler_of_the_programs_may_stop_the_pool(void **state)
{
	(void)state;
	act(stop_from_own_handler, NULL);
}

#define LIBCS_OWN 0x04000000 /* SA_RESTORER, which it sets by itself */

static void run_among_signals(void *arg)
{
	struct raiser raiser;
	struct sigaction before[NSIG];
	struct sigaction now;
	int number;

	(void)arg;
	set_disposition(SIGPIPE, SIG_DFL);
	set_disposition(SIGCHLD, SIG_IGN);
	for (number = 1; number < NSIG; number++)
		sigaction(number, NULL, &before[number]);
	make(&two, &echoes);
	start_raiser(&raiser, SIGTERM, 1);
	CHECK(evt_pool_run(pool) == 0);
	pthread_join(raiser.thread, NULL);
	evt_pool_free(pool);
	for (number = 1; number < NSIG; number++) {
		if (sigaction(number, NULL, &now) == -1)
			continue;
		CHECK(now.sa_handler == before[number].sa_handler);
		CHECK((now.sa_flags | LIBCS_OWN) ==
			(before[number].sa_flags | LIBCS_OWN));
	}
}

/* J04 */
static void no_disposition_is_another_afterwards(void **state)
{
	(void)state;
	act(run_among_signals, NULL);
}

static struct sigaction during[NSIG];

static void look_at_dispositions(struct evt_worker *worker, void *arg)
{
	int number;

	(void)arg;
	for (number = 1; number < NSIG; number++)
		sigaction(number, NULL, &during[number]);
	evt_pool_stop(evt_worker_pool(worker));
}

static void run_and_look(void *arg)
{
	const struct evt_pool_options options = {
		.workers = 1, .on_worker_start = look_at_dispositions};
	struct sigaction now;
	int number;

	(void)arg;
	make(&options, &echoes);
	CHECK(evt_pool_run(pool) == 0);
	for (number = 1; number < NSIG; number++) {
		if (sigaction(number, NULL, &now) == -1)
			continue;
		CHECK((now.sa_handler == during[number].sa_handler) ==
			(number != SIGINT && number != SIGTERM));
	}
	evt_pool_free(pool);
}

/* J04 */
static void run_touches_the_dispositions_of_two_signals_only(void **state)
{
	(void)state;
	act(run_and_look, NULL);
}

static int lose_in_choose(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	(void)self;
	(void)peer;
	(void)arg;
	pthread_exit(NULL);
}

static void lose_the_thread_of_run(void *arg)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = lose_in_choose};
	struct runner runner;
	int client;

	(void)arg;
	set_disposition(SIGTERM, catch_signal);
	pool = evt_pool_new(&two);
	listener = evt_listen(pool, "tcp://127.0.0.1:0", &echoes, &how, NULL);
	CHECK(listener);
	start_runner(&runner, pool);
	client = connect_to(evt_listener_port(listener));
	CHECK(client != -1);
	CHECK(WAIT_FOR(log_has("the listener has lost its thread")));
	evt_pool_stop(pool);
	pthread_join(runner.thread, NULL);
	CHECK(evt_pool_wait(pool) == 0);
	CHECK(disposition(SIGTERM) == catch_signal);
	close(client);
	evt_pool_free(pool);
	CHECK(disposition(SIGTERM) == catch_signal);
}

/* C15, J05: run does not return there, but what it changed is put back. */
static void dispositions_are_put_back_though_the_thread_was_lost(void **state)
{
	(void)state;
	act(lose_the_thread_of_run, NULL);
}

/* The thread of evt_pool_run is slow to return: until the pool is freed. */
static atomic_bool is_slow;
static atomic_bool is_freed;

int __real_pthread_setcancelstate(int state, int *before);

int __wrap_pthread_setcancelstate(int state, int *before)
{
	int64_t begin = now_ms();

	if (atomic_load(&is_slow) && !evt_thread_self_())
		(void)WAIT_FOR(atomic_load(&is_freed) ||
			now_ms() - begin > 200 * slowness());
	return __real_pthread_setcancelstate(state, before);
}

static void free_what_another_runs(void *arg)
{
	struct runner runner;

	(void)arg;
	set_disposition(SIGTERM, catch_signal);
	make(&two, &echoes);
	start_runner(&runner, pool);
	CHECK(WAIT_FOR(answers(pool_port)));
	atomic_store(&is_slow, true);
	evt_pool_free(pool);
	atomic_store(&is_freed, true);
	/* What free has waited for. */
	CHECK(disposition(SIGTERM) == catch_signal);
	CHECK(join_runner(&runner) == 0);
}

/* J05, D03 */
static void free_waits_until_run_has_let_go_of_the_pool(void **state)
{
	(void)state;
	act(free_what_another_runs, NULL);
}

/* J01 */
static void run_in_a_storm(void *arg)
{
	struct sigaction action = {.sa_handler = catch_signal};
	const struct itimerval often = {{0, 1000}, {0, 1000}};
	struct raiser raiser;
	int i;

	(void)arg;
	CHECK(sigaction(SIGVTALRM, &action, NULL) == 0);
	CHECK(sigaction(SIGPROF, &action, NULL) == 0);
	make(&two, &echoes);
	start_raiser(&raiser, SIGTERM, 1);
	CHECK(setitimer(ITIMER_PROF, &often, NULL) == 0);
	for (i = 0; i < 100; i++)
		kill(getpid(), SIGVTALRM);
	CHECK(evt_pool_run(pool) == 0);
	pthread_join(raiser.thread, NULL);
	evt_pool_free(pool);
}

/* J01: SIGPROF comes to the library's threads too. */
static void signals_that_interrupt_it_do_no_harm(void **state)
{
	(void)state;
	act(run_in_a_storm, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(sigint_stops_run),
		LEDGER_TEST(sigterm_stops_run),
		LEDGER_TEST(a_second_signal_ends_the_grace),
		LEDGER_TEST(dispositions_and_the_mask_are_put_back),
		LEDGER_TEST(an_ignored_sigint_stops_run_and_is_ignored_again),
		LEDGER_TEST(
			a_signal_that_was_blocked_before_run_stops_it_at_once),
		LEDGER_TEST(a_signal_stops_two_pools_in_two_threads),
		LEDGER_TEST(
			signals_stop_the_second_pool_when_the_first_has_ended),
		LEDGER_TEST(a_signal_leaves_a_pool_alone_that_was_started),
		LEDGER_TEST(start_leaves_the_signals_to_the_program),
		LEDGER_TEST(a_handler_of_the_programs_may_stop_the_pool),
		LEDGER_TEST(no_disposition_is_another_afterwards),
		LEDGER_TEST(run_touches_the_dispositions_of_two_signals_only),
		LEDGER_TEST(
			dispositions_are_put_back_though_the_thread_was_lost),
		LEDGER_TEST(free_waits_until_run_has_let_go_of_the_pool),
		LEDGER_TEST(signals_that_interrupt_it_do_no_harm),
	};

	return ledger_run("signals", tests);
}
