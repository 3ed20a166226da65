/*
 * test_log.c: the log hook: what reaches it and in what form, standard error
 * as the default, and what a hook may do.
 */
/* wrap: write */
#include "rig.h"
#include "../evt-core.h"
#include "../evt-log-internal.h"

#include <semaphore.h>

/* Makes what happens between a look and its write likely. */

static atomic_bool slow_writes;

ssize_t __real_write(int fd, const void *data, size_t len);

ssize_t __wrap_write(int fd, const void *data, size_t len)
{
	if (atomic_load(&slow_writes))
		usleep(2000);
	return __real_write(fd, data, len);
}

/* Standard error, kept in a pipe while fn runs; what it was. Nothing may
 * fail in between. */
struct redirected {
	int fds[2];
	int before;
};

static void redirect_stderr(struct redirected *it)
{
	assert_int_equal(pipe2(it->fds, O_CLOEXEC), 0);
	it->before = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(dup2(it->fds[1], STDERR_FILENO), STDERR_FILENO);
	evt_set_log(NULL, NULL);
}

static void restore_stderr(struct redirected *it)
{
	dup2(it->before, STDERR_FILENO);
	close(it->before);
	close(it->fds[0]);
	close(it->fds[1]);
	log_catch();
}

/* Fills the pipe, which still blocks afterwards. */
static void fill(const struct redirected *it)
{
	char bytes[4096] = {0};

	fcntl(it->fds[1], F_SETFL, O_NONBLOCK);
	while (write(it->fds[1], bytes, sizeof(bytes)) > 0)
		;
	fcntl(it->fds[1], F_SETFL, 0);
}

static size_t drain(const struct redirected *it, char *text, size_t size)
{
	ssize_t len;

	fcntl(it->fds[0], F_SETFL, O_NONBLOCK);
	len = read(it->fds[0], text, size - 1);
	text[len > 0 ? len : 0] = '\0';
	return len > 0 ? (size_t)len : 0;
}

/* What reaches the hook */

static void a_line_reaches_the_hook_with_its_level(void **state)
{
	(void)state;
	evt_log_(EVT_LOG_WARN, "%d bottles", 3);
	assert_string_equal(log_line(0), "3 bottles");
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 0);
}

static void each_level_reaches_the_hook(void **state)
{
	int level;

	(void)state;
	for (level = EVT_LOG_DEBUG; level <= EVT_LOG_ERROR; level++)
		evt_log_(level, "level %d", level);
	for (level = EVT_LOG_DEBUG; level <= EVT_LOG_ERROR; level++)
		assert_int_equal(log_lines(level), 4 - level);
}

static void a_failure_tells_its_reason_and_sets_errno(void **state)
{
	(void)state;
	errno = 0;
	assert_int_equal(evt_fail_(EADDRINUSE, "bind %s", "[::]:80"), -1);
	assert_int_equal(errno, EADDRINUSE);
	assert_string_equal(
		log_line(0), "bind [::]:80: Address already in use");
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
}

static void answers_that_are_no_faults_have_no_line(void **state)
{
	(void)state;
	assert_int_equal(evt_fail_(EAGAIN, "nobody waits"), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(evt_fail_(ECANCELED, "stopping"), -1);
	assert_int_equal(errno, ECANCELED);
	assert_null(log_line(0));
}

static void a_fault_has_its_line_even_if_it_is_eagain(void **state)
{
	(void)state;
	assert_int_equal(evt_fault_(EAGAIN, "thread %d", 7), -1);
	assert_int_equal(errno, EAGAIN);
	assert_string_equal(
		log_line(0), "thread 7: Resource temporarily unavailable");
}

/* J16 */
static void what_a_client_sends_is_not_taken_for_a_format(void **state)
{
	(void)state;
	evt_log_(EVT_LOG_INFO, "header %s", "%n%s%d%%");
	assert_string_equal(log_line(0), "header %n%s%d%%");
}

/* J16 */
static void control_bytes_are_escaped(void **state)
{
	(void)state;
	evt_log_(EVT_LOG_INFO, "%s", "a\r\n\x1b[2J\x7f\t\x01z");
	assert_string_equal(log_line(0), "a\\x0d\\x0a\\x1b[2J\\x7f\\x09\\x01z");
}

/* J16 */
static void the_second_set_of_control_characters_is_escaped_too(void **state)
{
	(void)state;
	evt_log_(EVT_LOG_INFO, "%s",
		"a\xc2\x9b"
		"31mz");
	evt_log_(EVT_LOG_INFO, "%s",
		"a\x9b"
		"31mz");
	assert_null(strstr(log_line(0), "\xc2\x9b"));
	assert_null(strchr(log_line(1), 0x9b));
}

/* J16 */
static void the_reason_of_a_failure_is_not_lost_by_escapes(void **state)
{
	(void)state;
	evt_fail_(EACCES, "%s", "\n");
	assert_string_equal(log_line(0), "\\x0a: Permission denied");
}

static void a_long_line_is_cut(void **state)
{
	char text[2000];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	evt_log_(EVT_LOG_INFO, "%s", text);
	evt_fail_(EINVAL, "%s", text);
	assert_in_range(strlen(log_line(0)), 500, EVT_LOG_LINE - 1);
	assert_in_range(strlen(log_line(1)), 500, EVT_LOG_LINE - 1);
}

/* J16 */
static void a_cut_line_ends_with_a_whole_escape(void **state)
{
	char text[1000];
	size_t len;
	int shift;

	(void)state;
	for (shift = 0; shift < 4; shift++) {
		memset(text, '\n', sizeof(text));
		memset(text, 'x', (size_t)shift);
		text[sizeof(text) - 1] = '\0';
		evt_log_(EVT_LOG_INFO, "%s", text);
		len = strlen(log_line(shift)); /* one more had no room */
		assert_in_range(len, EVT_LOG_LINE - 4, EVT_LOG_LINE - 1);
		assert_string_equal(log_line(shift) + len - 4, "\\x0a");
	}
}

/* Standard error */

static void without_a_hook_lines_go_to_standard_error(void **state)
{
	struct redirected it;
	char text[4096];

	(void)state;
	redirect_stderr(&it);
	evt_log_(EVT_LOG_INFO, "one");
	evt_log_(EVT_LOG_WARN, "two");
	evt_log_(EVT_LOG_ERROR, "three");
	drain(&it, text, sizeof(text));
	restore_stderr(&it);
	assert_string_equal(text,
		"evt-server: info: one\n"
		"evt-server: warning: two\n"
		"evt-server: error: three\n");
}

static void debug_lines_do_not_go_to_standard_error(void **state)
{
	struct redirected it;
	char text[4096];

	(void)state;
	redirect_stderr(&it);
	evt_log_(EVT_LOG_DEBUG, "the backlog");
	drain(&it, text, sizeof(text));
	restore_stderr(&it);
	assert_string_equal(text, "");
}

/* J16 */
static void the_longest_line_reaches_standard_error_whole(void **state)
{
	struct redirected it;
	char text[4096];
	char line[1000];
	size_t len;

	(void)state;
	memset(line, 'x', sizeof(line));
	line[sizeof(line) - 1] = '\0';
	redirect_stderr(&it);
	evt_log_(EVT_LOG_WARN, "%s", line);
	len = drain(&it, text, sizeof(text));
	restore_stderr(&it);
	assert_in_range(len, 500, EVT_LOG_LINE + 32);
	assert_int_equal(text[len - 1], '\n');
}

/* J14 */
static void a_line_for_a_full_pipe_is_dropped_without_waiting(void **state)
{
	struct redirected it;

	(void)state;
	redirect_stderr(&it);
	fill(&it);
	errno = EPROTO;
	evt_log_(EVT_LOG_ERROR, "nobody reads this");
	assert_int_equal(errno, EPROTO);
	restore_stderr(&it);
}

static void *say_one_long_line(void *arg)
{
	evt_log_(EVT_LOG_INFO, "%s", (const char *)arg);
	return NULL;
}

/* There is room for one page, and each may see it, but not for all lines. */
static void sixteen_meet_a_pipe_with_little_room(void *arg)
{
	static char lines[16][EVT_LOG_LINE - 8];
	struct redirected it;
	pthread_t threads[16];
	char text[65536];
	int round;
	int i;

	(void)arg;
	redirect_stderr(&it);
	for (i = 0; i < 16; i++)
		memset(lines[i], 'a' + i, sizeof(lines[i]) - 1);
	for (round = 0; round < 5; round++) {
		fill(&it);
		fcntl(it.fds[0], F_SETFL, O_NONBLOCK);
		CHECK(read(it.fds[0], text, 4096) == 4096);
		atomic_store(&slow_writes, true);
		for (i = 0; i < 16; i++)
			pthread_create(
				&threads[i], NULL, say_one_long_line, lines[i]);
		for (i = 0; i < 16; i++)
			pthread_join(threads[i], NULL);
		atomic_store(&slow_writes, false);
		drain(&it, text, sizeof(text));
	}
	restore_stderr(&it);
}

/* J14 */
static void threads_that_share_a_nearly_full_pipe_do_not_block(void **state)
{
	(void)state;
	assert_int_equal(
		in_child(sixteen_meet_a_pipe_with_little_room, NULL, 10), 0);
}

static void say_and_serve(sockfd_t fd, short evt, void *arg)
{
	evt_thread_dispatch(-1, EV_READ, NULL); /* has a line */
	on_client(fd, evt, arg);
}

/* J14 */
static void a_server_with_a_full_standard_error_still_answers(void **state)
{
	struct redirected it;
	int good = 0;
	int port;
	int i;

	(void)state;
	redirect_stderr(&it);
	fill(&it);
	port = serve(say_and_serve, echo, 2);
	for (i = 0; i < 20; i++)
		good += answers(port);
	evt_server_stop();
	restore_stderr(&it);
	assert_int_equal(good, 20);
}

/* J14 */
static void a_closed_standard_error_does_no_harm(void **state)
{
	struct redirected it;
	int error;

	(void)state;
	redirect_stderr(&it);
	close(STDERR_FILENO);
	errno = EPROTO;
	evt_log_(EVT_LOG_ERROR, "to nobody");
	error = errno;
	restore_stderr(&it);
	assert_int_equal(error, EPROTO);
}

static void log_to_a_pipe_without_a_reader(void *arg)
{
	struct redirected it;

	(void)arg;
	redirect_stderr(&it);
	close(it.fds[0]);
	evt_log_(EVT_LOG_ERROR, "to nobody");
}

/* J14: SIGPIPE would end the program. */
static void a_standard_error_without_its_reader_does_no_harm(void **state)
{
	(void)state;
	assert_int_equal(in_child(log_to_a_pipe_without_a_reader, NULL, 5), 0);
}

/* The hook itself */

static atomic_int depth;
static atomic_int calls_of_hook;

/* Calls into whatever there is; errors inside come back here. */
static void reenter(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
	atomic_fetch_add(&calls_of_hook, 1);
	if (atomic_fetch_add(&depth, 1) == 0) {
		evt_server_start(NULL, NULL);
		evt_server_threads(NULL, 1);
		evt_server_init(-1, SOCK_STREAM);
		evt_thread_dispatch(-1, EV_READ, NULL);
		evt_server_grace_ms(5000);
		get_server_addrinfo();
		evt_set_log(reenter, NULL);
		evt_close(-1);
	}
	atomic_fetch_sub(&depth, 1);
}

/* J15 */
static void the_hook_may_call_into_the_library(void **state)
{
	int port = serve(on_client, echo, 1);

	(void)state;
	atomic_store(&calls_of_hook, 0);
	evt_set_log(reenter, NULL);
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	assert_int_equal(errno, EALREADY);
	assert_int_equal(evt_server_threads(echo, 1), -1);
	assert_int_equal(errno, EALREADY);
	log_catch();
	assert_true(atomic_load(&calls_of_hook) > 2);
	assert_true(answers(port));
	evt_server_stop();
}

static void stop_the_server(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
	evt_server_stop();
}

/* J15 */
static void the_hook_may_stop_the_server(void **state)
{
	int port = serve(on_client, echo, 1);

	(void)state;
	evt_set_log(stop_the_server, NULL);
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	assert_int_equal(errno, EALREADY);
	log_catch();
	assert_true(refused(port));
	assert_null(get_server_addrinfo());
}

static void put_the_catcher_back(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	atomic_fetch_add((atomic_int *)arg, 1);
	log_catch();
}

/* J15 */
static void the_hook_may_change_the_hook(void **state)
{
	atomic_int calls = 0;

	(void)state;
	evt_set_log(put_the_catcher_back, &calls);
	evt_log_(EVT_LOG_INFO, "one");
	evt_log_(EVT_LOG_INFO, "two");
	assert_int_equal(atomic_load(&calls), 1);
	assert_string_equal(log_line(0), "two");
	assert_null(log_line(1));
}

static sem_t in_hook;
static sem_t out_of_hook;

static void wait_in_hook(int level, const char *line, void *arg)
{
	(void)level;
	(void)arg;
	if (strcmp(line, "slow") != 0)
		return;
	sem_post(&in_hook);
	while (sem_wait(&out_of_hook) == -1)
		;
}

static void *say_slow(void *arg)
{
	evt_log_(EVT_LOG_INFO, "slow");
	return arg;
}

/* J15 */
static void a_slow_hook_holds_up_its_own_thread_only(void **state)
{
	pthread_t thread;

	(void)state;
	sem_init(&in_hook, 0, 0);
	sem_init(&out_of_hook, 0, 0);
	evt_set_log(wait_in_hook, NULL);
	assert_int_equal(pthread_create(&thread, NULL, say_slow, NULL), 0);
	while (sem_wait(&in_hook) == -1)
		;
	evt_log_(EVT_LOG_INFO, "quick");
	log_catch();
	evt_log_(EVT_LOG_INFO, "quick again");
	assert_string_equal(log_line(0), "quick again");
	sem_post(&out_of_hook);
	pthread_join(thread, NULL);
}

/* Two hooks; each looks whether it was called with its own argument. */
static atomic_int first_hook;
static atomic_int second_hook;
static atomic_int wrong;

static void count_first(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	atomic_fetch_add(arg == &first_hook ? &first_hook : &wrong, 1);
}

static void count_second(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	atomic_fetch_add(arg == &second_hook ? &second_hook : &wrong, 1);
}

static void *say_different_lines(void *arg)
{
	int i;

	for (i = 0; i < 500; i++)
		evt_log_(EVT_LOG_INFO, "thread %d, line %d", *(int *)arg, i);
	return NULL;
}

/* J15 */
static void changing_the_hook_while_eight_threads_log_loses_nothing(
	void **state)
{
	pthread_t threads[8];
	int numbers[8];
	int i;

	(void)state;
	atomic_store(&first_hook, 0);
	atomic_store(&second_hook, 0);
	atomic_store(&wrong, 0);
	evt_set_log(count_first, &first_hook);
	for (i = 0; i < 8; i++) {
		numbers[i] = i;
		pthread_create(
			&threads[i], NULL, say_different_lines, &numbers[i]);
	}
	for (i = 0; i < 500; i++) {
		evt_set_log(count_second, &second_hook);
		evt_set_log(count_first, &first_hook);
	}
	for (i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	log_catch();
	assert_int_equal(atomic_load(&wrong), 0);
	assert_int_equal(
		atomic_load(&first_hook) + atomic_load(&second_hook), 8 * 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_line_reaches_the_hook_with_its_level),
		LEDGER_TEST(each_level_reaches_the_hook),
		LEDGER_TEST(a_failure_tells_its_reason_and_sets_errno),
		LEDGER_TEST(answers_that_are_no_faults_have_no_line),
		LEDGER_TEST(a_fault_has_its_line_even_if_it_is_eagain),
		LEDGER_TEST(what_a_client_sends_is_not_taken_for_a_format),
		LEDGER_TEST(control_bytes_are_escaped),
		LEDGER_TEST(
			the_second_set_of_control_characters_is_escaped_too),
		LEDGER_TEST(the_reason_of_a_failure_is_not_lost_by_escapes),
		LEDGER_TEST(a_long_line_is_cut),
		LEDGER_TEST(a_cut_line_ends_with_a_whole_escape),
		LEDGER_TEST(without_a_hook_lines_go_to_standard_error),
		LEDGER_TEST(debug_lines_do_not_go_to_standard_error),
		LEDGER_TEST(the_longest_line_reaches_standard_error_whole),
		LEDGER_TEST(a_line_for_a_full_pipe_is_dropped_without_waiting),
		LEDGER_TEST(threads_that_share_a_nearly_full_pipe_do_not_block),
		LEDGER_TEST(a_server_with_a_full_standard_error_still_answers),
		LEDGER_TEST(a_closed_standard_error_does_no_harm),
		LEDGER_TEST(a_standard_error_without_its_reader_does_no_harm),
		LEDGER_TEST(the_hook_may_call_into_the_library),
		LEDGER_TEST(the_hook_may_stop_the_server),
		LEDGER_TEST(the_hook_may_change_the_hook),
		LEDGER_TEST(a_slow_hook_holds_up_its_own_thread_only),
		LEDGER_TEST(
			changing_the_hook_while_eight_threads_log_loses_nothing),
	};

	return ledger_run("log", tests);
}
