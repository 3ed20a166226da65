/*
 * test_limiter.c: the same line again and again, lines kept while a lock is
 * held, and errno, which logging leaves alone.
 */
/* wrap: clock_gettime */
#include "rig.h"
#include "../evt-log-internal.h"

#include <semaphore.h>
#include <time.h>

/* A clock that stands still while it is set, for the limiter's second. */

static atomic_long frozen_ms; /* 0: the clock goes */

int __real_clock_gettime(clockid_t clock, struct timespec *now);

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	long ms = atomic_load(&frozen_ms);

	if (ms == 0)
		return __real_clock_gettime(clock, now);
	now->tv_sec = ms / 1000;
	now->tv_nsec = ms % 1000 * 1000000;
	return 0;
}

/* The limiter remembers the last line: this one is in no test. */
static void stop_the_clock(void)
{
	atomic_store(&frozen_ms, 5000);
	evt_log_flush_();
	evt_log_(EVT_LOG_INFO, "a line that is in no test");
	log_forget();
}

static void let_the_clock_go(void)
{
	atomic_store(&frozen_ms, 0);
}

static void say_often(int level, const char *text, int times)
{
	int i;

	for (i = 0; i < times; i++)
		evt_log_(level, "%s", text);
}

/* Counts the caught lines that are text. */
static int count_of(const char *text)
{
	int found = 0;
	int i;

	for (i = 0; log_line(i); i++)
		found += strcmp(log_line(i), text) == 0;
	return found;
}

/* The limiter */

static void the_same_line_is_passed_on_eight_times(void **state)
{
	(void)state;
	stop_the_clock();
	say_often(EVT_LOG_WARN, "again", 100);
	let_the_clock_go();
	assert_int_equal(count_of("again"), EVT_LOG_BURST);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), EVT_LOG_BURST);
}

static void the_next_line_tells_how_often_the_last_came(void **state)
{
	(void)state;
	stop_the_clock();
	say_often(EVT_LOG_WARN, "again", 100);
	evt_log_(EVT_LOG_INFO, "another");
	let_the_clock_go();
	assert_int_equal(log_lines(EVT_LOG_DEBUG), EVT_LOG_BURST + 2);
	assert_string_equal(
		log_line(EVT_LOG_BURST), "the last line came 92 more times");
	assert_string_equal(log_line(EVT_LOG_BURST + 1), "another");
	assert_int_equal(log_lines(EVT_LOG_WARN), EVT_LOG_BURST + 1);
}

static void eight_times_are_told_without_a_count(void **state)
{
	(void)state;
	stop_the_clock();
	say_often(EVT_LOG_WARN, "again", EVT_LOG_BURST);
	evt_log_(EVT_LOG_INFO, "another");
	let_the_clock_go();
	assert_int_equal(log_lines(EVT_LOG_DEBUG), EVT_LOG_BURST + 1);
}

static void after_a_second_the_same_line_is_passed_on_again(void **state)
{
	(void)state;
	stop_the_clock();
	say_often(EVT_LOG_WARN, "again", 10);
	atomic_fetch_add(&frozen_ms, 999);
	say_often(EVT_LOG_WARN, "again", 10);
	assert_int_equal(count_of("again"), 8);
	atomic_fetch_add(&frozen_ms, 1);
	say_often(EVT_LOG_WARN, "again", 10);
	let_the_clock_go();
	assert_int_equal(count_of("again"), 16);
	assert_string_equal(log_line(8), "the last line came 12 more times");
	assert_string_equal(log_line(9), "again");
}

static void nothing_is_counted_twice(void **state)
{
	(void)state;
	stop_the_clock();
	say_often(EVT_LOG_WARN, "again", 11);
	atomic_fetch_add(&frozen_ms, 1000);
	say_often(EVT_LOG_WARN, "again", 1);
	atomic_fetch_add(&frozen_ms, 1000);
	say_often(EVT_LOG_WARN, "again", 1);
	evt_log_(EVT_LOG_INFO, "another");
	let_the_clock_go();
	assert_int_equal(count_of("the last line came 3 more times"), 1);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 8 + 1 + 1 + 1 + 1);
}

static void a_text_of_another_level_is_another_line(void **state)
{
	(void)state;
	stop_the_clock();
	say_often(EVT_LOG_WARN, "again", 10);
	say_often(EVT_LOG_ERROR, "again", 10);
	let_the_clock_go();
	assert_int_equal(count_of("again"), 16);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 8);
}

static void lines_that_alternate_are_all_passed_on(void **state)
{
	int i;

	(void)state;
	stop_the_clock();
	for (i = 0; i < 50; i++) {
		evt_log_(EVT_LOG_INFO, "tick");
		evt_log_(EVT_LOG_INFO, "tock");
	}
	let_the_clock_go();
	assert_int_equal(count_of("tick"), 50);
	assert_int_equal(count_of("tock"), 50);
}

static void failures_are_limited_and_all_of_them_fail(void **state)
{
	int failures = 0;
	int i;

	(void)state;
	stop_the_clock();
	for (i = 0; i < 50; i++)
		failures += evt_thread_dispatch(-1, EV_READ, NULL) == -1 &&
			errno == EBADF;
	let_the_clock_go();
	assert_int_equal(failures, 50);
	assert_int_equal(log_lines(EVT_LOG_ERROR), EVT_LOG_BURST);
}

static void flushing_tells_the_count_once(void **state)
{
	(void)state;
	stop_the_clock();
	say_often(EVT_LOG_ERROR, "again", 10);
	evt_log_flush_();
	evt_log_flush_();
	let_the_clock_go();
	assert_int_equal(count_of("the last line came 2 more times"), 1);
	assert_int_equal(log_lines(EVT_LOG_ERROR), EVT_LOG_BURST + 1);
}

static void flushing_nothing_says_nothing(void **state)
{
	(void)state;
	stop_the_clock();
	say_often(EVT_LOG_ERROR, "again", EVT_LOG_BURST);
	log_forget();
	evt_log_flush_();
	let_the_clock_go();
	assert_null(log_line(0));
}

static void a_stop_tells_what_was_held_back(void **state)
{
	(void)state;
	assert_int_equal(serve(NULL, just_count, 1), 0);
	stop_the_clock();
	say_often(EVT_LOG_WARN, "again", 10);
	let_the_clock_go();
	evt_server_stop();
	assert_true(log_has("the last line came 2 more times"));
}

static void *say_the_same(void *arg)
{
	say_often(EVT_LOG_WARN, "again", 1000);
	return arg;
}

static void what_eight_threads_repeat_is_counted_exactly(void **state)
{
	pthread_t threads[8];
	int i;

	(void)state;
	stop_the_clock();
	for (i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, say_the_same, NULL);
	for (i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	evt_log_flush_();
	let_the_clock_go();
	assert_int_equal(count_of("again"), 8);
	assert_int_equal(count_of("the last line came 7992 more times"), 1);
}

/* Lines that are kept */

static void lines_are_kept_until_they_are_said(void **state)
{
	struct evt_log_kept kept;

	(void)state;
	evt_log_keep_(&kept);
	evt_log_(EVT_LOG_INFO, "one");
	evt_fail_(EINVAL, "two");
	evt_log_keep_(NULL);
	assert_null(log_line(0));
	evt_log_say_(&kept);
	assert_string_equal(log_line(0), "one");
	assert_string_equal(log_line(1), "two: Invalid argument");
	assert_null(log_line(2));
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
}

static void after_keeping_lines_go_to_the_hook_again(void **state)
{
	struct evt_log_kept kept;

	(void)state;
	evt_log_keep_(&kept);
	evt_log_keep_(NULL);
	evt_log_(EVT_LOG_INFO, "one");
	assert_string_equal(log_line(0), "one");
	evt_log_say_(&kept);
	assert_null(log_line(1));
}

static void as_many_lines_are_kept_as_there_is_room_for(void **state)
{
	struct evt_log_kept kept;
	int i;

	(void)state;
	evt_log_keep_(&kept);
	for (i = 0; i < 7; i++)
		evt_log_(EVT_LOG_INFO, "line %d", i);
	evt_log_keep_(NULL);
	evt_log_say_(&kept);
	assert_string_equal(log_line(3), "line 3");
	assert_string_equal(log_line(4), "3 more lines are lost");
	assert_null(log_line(5));
}

static void kept_lines_are_limited_when_they_are_said(void **state)
{
	struct evt_log_kept kept;
	int i;

	(void)state;
	stop_the_clock();
	for (i = 0; i < 4; i++) {
		evt_log_keep_(&kept);
		say_often(EVT_LOG_INFO, "again", 4);
		evt_log_keep_(NULL);
		evt_log_say_(&kept);
	}
	evt_log_flush_();
	let_the_clock_go();
	assert_int_equal(count_of("again"), 8);
	assert_true(log_has("the last line came 8 more times"));
}

static void *say_from_elsewhere(void *arg)
{
	evt_log_(EVT_LOG_INFO, "from elsewhere");
	return arg;
}

static void only_the_lines_of_the_thread_are_kept(void **state)
{
	struct evt_log_kept kept;
	pthread_t thread;

	(void)state;
	evt_log_keep_(&kept);
	pthread_create(&thread, NULL, say_from_elsewhere, NULL);
	pthread_join(thread, NULL);
	evt_log_keep_(NULL);
	assert_string_equal(log_line(0), "from elsewhere");
	assert_int_equal(kept.count, 0);
}

/* errno */

static void forget_errno(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
	errno = 0;
}

/* J17 */
static void logging_keeps_errno_whatever_the_hook_does(void **state)
{
	struct evt_log_kept kept = {.count = 1, .lines = {"kept"}};

	(void)state;
	evt_set_log(forget_errno, NULL);
	errno = EPROTO;
	evt_log_(EVT_LOG_INFO, "one");
	assert_int_equal(errno, EPROTO);
	evt_log_say_(&kept);
	assert_int_equal(errno, EPROTO);
	evt_set_log(NULL, NULL);
	assert_int_equal(errno, EPROTO);
	log_catch();
}

/* J17 */
static void a_failure_sets_errno_whatever_the_hook_does(void **state)
{
	(void)state;
	evt_set_log(forget_errno, NULL);
	assert_int_equal(evt_fail_(ENOSPC, "one"), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(evt_fault_(EAGAIN, "two"), -1);
	assert_int_equal(errno, EAGAIN);
	log_catch();
}

/* Forking */

static atomic_bool enough;

static void *log_on_and_on(void *arg)
{
	int i;

	for (i = 0; !atomic_load(&enough); i++)
		evt_log_(EVT_LOG_INFO, "line %d", i);
	return arg;
}

static void throw_away(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
}

static void log_once(void *arg)
{
	(void)arg;
	evt_log_(EVT_LOG_INFO, "in the child");
}

/* J06: another thread may have held the log's lock. */
static void a_child_that_was_forked_while_others_logged_may_log(void **state)
{
	pthread_t threads[2];
	int status = 0;
	int i;

	(void)state;
	assert_int_equal(serve(NULL, just_count, 1), 0);
	atomic_store(&enough, false);
	evt_set_log(throw_away, NULL);
	for (i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, log_on_and_on, NULL);
	for (i = 0; i < 50 / slowness() && status == 0; i++)
		status = in_child(log_once, NULL, 5);
	atomic_store(&enough, true);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	log_catch();
	evt_server_stop();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(the_same_line_is_passed_on_eight_times),
		LEDGER_TEST(the_next_line_tells_how_often_the_last_came),
		LEDGER_TEST(eight_times_are_told_without_a_count),
		LEDGER_TEST(after_a_second_the_same_line_is_passed_on_again),
		LEDGER_TEST(nothing_is_counted_twice),
		LEDGER_TEST(a_text_of_another_level_is_another_line),
		LEDGER_TEST(lines_that_alternate_are_all_passed_on),
		LEDGER_TEST(failures_are_limited_and_all_of_them_fail),
		LEDGER_TEST(flushing_tells_the_count_once),
		LEDGER_TEST(flushing_nothing_says_nothing),
		LEDGER_TEST(a_stop_tells_what_was_held_back),
		LEDGER_TEST(what_eight_threads_repeat_is_counted_exactly),
		LEDGER_TEST(lines_are_kept_until_they_are_said),
		LEDGER_TEST(after_keeping_lines_go_to_the_hook_again),
		LEDGER_TEST(as_many_lines_are_kept_as_there_is_room_for),
		LEDGER_TEST(kept_lines_are_limited_when_they_are_said),
		LEDGER_TEST(only_the_lines_of_the_thread_are_kept),
		LEDGER_TEST(logging_keeps_errno_whatever_the_hook_does),
		LEDGER_TEST(a_failure_sets_errno_whatever_the_hook_does),
		LEDGER_TEST(
			a_child_that_was_forked_while_others_logged_may_log),
	};

	return ledger_run("limiter", tests);
}
