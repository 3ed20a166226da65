/*
 * test_flooder.c: the client test/flooder, against test/evt_test and against
 * servers that answer wrong, too little or not at all.
 */
#include "ledger.h"
#include "programs.h"
#include "../evt-core.h"

#include <fcntl.h>
#include <signal.h>

/* A test that fails must not leave its servers to the next one. */
static int stop_and_close(void **state)
{
	if (server.pid > 0)
		end_server(SIGKILL);
	evt_server_stop();
	return ledger_close(state);
}

#define FLOODER_TEST(fn)                                          \
	{                                                         \
#fn, fn, ledger_open, stop_and_close, (void *)#fn \
	}

/* flooder */

static bool said_row(const char *name, const char *value)
{
	char row[64];

	snprintf(row, sizeof(row), "\n%-16s %12s", name, value);
	/* The first row has no line before it. */
	return strstr(said, row) ||
		strncmp(said, row + 1, strlen(row + 1)) == 0;
}

static void flooder_prints_a_table(void **state)
{
	static const char *const rows[] = {
		"seconds ", "rate ", "mean ", "p50 ", "p99 ", "p99.9 ", "max "};
	int port = start_server("test/evt_test", "0", NULL);
	size_t i;

	(void)state;
	assert_int_equal(run("test/flooder", "%d 1000", port), 0);
	assert_true(said_row("transactions", "1,000"));
	assert_true(said_row("failures", "none"));
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_non_null(strstr(said, rows[i]));
	assert_int_equal(end_server(SIGTERM), 0);
}

/* The line of -q: true if nothing failed of so many. */
static bool all_ok(long transactions)
{
	double seconds, rate, mean, p50, p99, p999, max;
	long total, ok, failures;

	return sscanf(said,
		       "transactions=%ld ok=%ld failures=%ld seconds=%lf "
		       "rate=%lf mean=%lf p50=%lf p99=%lf p999=%lf max=%lf",
		       &total, &ok, &failures, &seconds, &rate, &mean, &p50,
		       &p99, &p999, &max) == 10 &&
		total == transactions && ok == transactions && failures == 0 &&
		seconds > 0 && rate > 0 && p50 <= p99 && p99 <= p999 &&
		p999 <= max && mean <= max && strchr(said, '\n')[1] == '\0';
}

static void flooder_says_all_in_one_line_when_quiet(void **state)
{
	int port = start_server("test/evt_test", "0", NULL);

	(void)state;
	assert_int_equal(run("test/flooder", "%d 500 -q", port), 0);
	assert_true(all_ok(500));
	assert_int_equal(run("test/flooder", "-q %d 1", port), 0);
	assert_true(all_ok(1));
	assert_int_equal(end_server(SIGTERM), 0);
}

static void flooder_sends_messages_of_each_size(void **state)
{
	static const int sizes[] = {1, 512, 16000};
	int port = start_server("test/evt_test", "0", NULL);
	size_t i;

	(void)state;
	for (i = 0; i < 3; i++) {
		assert_int_equal(
			run("test/flooder", "%d 200 -q -s %d", port, sizes[i]),
			0);
		assert_true(all_ok(200));
	}
	assert_int_equal(end_server(SIGTERM), 0);
}

static void flooder_keeps_from_1_to_64_in_flight(void **state)
{
	static const int counts[] = {1, 2, 16, 64};
	int port = start_server("test/evt_test", "0", NULL);
	size_t i;

	(void)state;
	for (i = 0; i < 4; i++) {
		assert_int_equal(
			run("test/flooder", "%d 300 -c %d", port, counts[i]),
			0);
		assert_true(said_row("failures", "none"));
	}
	assert_true(said_row("open at once", "64"));
	assert_int_equal(end_server(SIGTERM), 0);
}

static void flooder_floods_ipv6(void **state)
{
	int port = start_server("test/evt_test", "0", NULL);
	int probe = connect_to_ip("::1", port);

	(void)state;
	if (probe == -1)
		skip();
	close(probe);
	assert_int_equal(run("test/flooder", "%d 200 -q -h ::1", port), 0);
	assert_true(all_ok(200));
	assert_int_equal(end_server(SIGTERM), 0);
}

static void flooder_floods_with_datagrams(void **state)
{
	int port = start_server("test/evt_test", "-u", "0");

	(void)state;
	assert_int_equal(run("test/flooder", "%d 200 -u -q", port), 0);
	assert_true(all_ok(200));
	assert_int_equal(
		run("test/flooder", "%d 20 -u -q -c 1 -s 60000", port), 0);
	assert_true(all_ok(20));
	assert_int_equal(end_server(SIGTERM), 0);
}

/* What serves wrong: the library, in this process. */

static void on_client(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	if (conn != -1 && evt_thread_dispatch(conn, evt, arg) == -1)
		evt_close(conn);
}

static void answer_wrong(sockfd_t conn, short evt, void *arg)
{
	char bytes[4096];
	ssize_t len = read(conn, bytes, sizeof(bytes));

	(void)evt, (void)arg;
	if (len > 0) {
		bytes[len - 1] ^= 1;
		(void)send_all(conn, bytes, (size_t)len);
	}
	evt_close(conn);
}

static void answer_half(sockfd_t conn, short evt, void *arg)
{
	char bytes[4096];
	ssize_t len = read(conn, bytes, sizeof(bytes));

	(void)evt, (void)arg;
	if (len > 0)
		(void)send_all(conn, bytes, (size_t)len / 2);
	evt_close(conn);
}

static void reset(sockfd_t conn, short evt, void *arg)
{
	char byte;

	(void)evt, (void)arg;
	(void)!read(conn, &byte, 1);
	close_with_reset(conn);
}

static int serve_here(evt_callback tcb)
{
	if (evt_server_init(0, SOCK_STREAM) == -1 ||
		evt_server_start(on_client, NULL) == -1 ||
		evt_server_threads(tcb, 2) != 2)
		return -1;
	return evt_server_port();
}

static void flooder_tells_wrong_answers(void **state)
{
	int port = serve_here(answer_wrong);

	(void)state;
	assert_int_equal(run("test/flooder", "%d 50", port), 1);
	assert_true(said_row("failures", "50"));
	assert_true(said_row("  wrong answer", "50"));
	evt_server_stop();
}

static void flooder_tells_answers_that_end_early(void **state)
{
	int port = serve_here(answer_half);

	(void)state;
	assert_int_equal(run("test/flooder", "%d 50", port), 1);
	assert_true(said_row("failures", "50"));
	assert_true(said_row("  closed early", "50"));
	evt_server_stop();
}

static void flooder_tells_resets(void **state)
{
	int port = serve_here(reset);

	(void)state;
	assert_int_equal(run("test/flooder", "%d 50", port), 1);
	assert_true(said_row("failures", "50"));
	assert_true(said_row("  reset", "50"));
	evt_server_stop();
}

/* A port that is taken, but where nobody listens; its socket goes to *fd. */
static int silent_port(int *fd)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);

	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(*fd, (struct sockaddr *)&in, len) == -1 ||
		getsockname(*fd, (struct sockaddr *)&in, &len) == -1)
		return -1;
	return ntohs(in.sin_port);
}

static void flooder_tells_that_nobody_listens(void **state)
{
	int fd;
	int port = silent_port(&fd);

	(void)state;
	assert_int_equal(run("test/flooder", "%d 20", port), 1);
	assert_true(said_row("  refused", "20"));
	assert_int_equal(run("test/flooder", "%d 20 -q", port), 1);
	assert_non_null(strstr(said, "ok=0 failures=20"));
	assert_non_null(strstr(said, "flooder: 20: refused"));
	close(fd);
}

static void flooder_refuses_wrong_usage_with_2(void **state)
{
	static const char *const wrong[] = {"", "1", "1 2 3", "x 10", "0 10",
		"65536 10", "1 0", "1 -5", "1 x", "1 10 -c 0", "1 10 -c x",
		"1 10 -s 0", "1 10 -s 99999999", "1 10 -u -s 65508", "1 10 -z"};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(run("test/flooder", "%s", wrong[i]), 2);
		assert_non_null(strstr(said, "usage: flooder"));
	}
}

/* Runs it with a terminal for its errors; what came there is in said. */
static int run_on_terminal(const char *const *args)
{
	int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	int status;
	pid_t pid;

	if (terminal == -1 || grantpt(terminal) == -1 ||
		unlockpt(terminal) == -1)
		return -1;
	pid = fork();
	if (pid == 0) {
		int slave = open(ptsname(terminal), O_RDWR | O_NOCTTY);
		int nowhere = open("/dev/null", O_WRONLY);

		dup2(slave, STDERR_FILENO);
		dup2(nowhere, STDOUT_FILENO);
		close(slave);
		alarm((unsigned)(30 * slowness()));
		execv(args[0], (char *const *)args);
		_exit(127);
	}
	read_text(terminal, said, sizeof(said));
	status = await_status(pid);
	close(terminal);
	return status;
}

static void flooder_shows_its_progress_on_a_terminal(void **state)
{
	char port[16];
	const char *args[] = {NULL, port, "6000", "-c", "1", NULL};
	char path[512];

	(void)state;
	snprintf(port, sizeof(port), "%d",
		start_server("test/evt_test", "0", NULL));
	snprintf(path, sizeof(path), "%s", program("test/flooder"));
	args[0] = path;
	assert_int_equal(run_on_terminal(args), 0);
	assert_non_null(strstr(said, "% ["));
	assert_non_null(strstr(said, " of 6,000"));
	assert_non_null(strstr(said, "/s  "));
	assert_non_null(strstr(said, " left"));
	assert_int_equal(end_server(SIGTERM), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FLOODER_TEST(flooder_prints_a_table),
		FLOODER_TEST(flooder_says_all_in_one_line_when_quiet),
		FLOODER_TEST(flooder_sends_messages_of_each_size),
		FLOODER_TEST(flooder_keeps_from_1_to_64_in_flight),
		FLOODER_TEST(flooder_floods_ipv6),
		FLOODER_TEST(flooder_floods_with_datagrams),
		FLOODER_TEST(flooder_tells_wrong_answers),
		FLOODER_TEST(flooder_tells_answers_that_end_early),
		FLOODER_TEST(flooder_tells_resets),
		FLOODER_TEST(flooder_tells_that_nobody_listens),
		FLOODER_TEST(flooder_refuses_wrong_usage_with_2),
		FLOODER_TEST(flooder_shows_its_progress_on_a_terminal),
	};

	return ledger_run("flooder", tests);
}
