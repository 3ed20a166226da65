/*
 * test_examples.c: what all examples have in common, and echo: started as a
 * user starts them, with clients that we did not write.
 */
#include "ledger.h"
#include "network.h"
#include "programs.h"
#include "../evt-core.h"

#include <signal.h>

static bool alone; /* in a network of our own */

static int end_all(void **state)
{
	end_programs();
	return ledger_close(state);
}

#define PROGRAM_TEST(fn)                                   \
	{                                                  \
#fn, fn, ledger_open, end_all, (void *)#fn \
	}

/* A folder for a socket; the URL of a server in it. */

static char folder[64];

static const char *unix_url(void)
{
	static char url[96];

	snprintf(folder, sizeof(folder), "/tmp/evt-examples-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(url, sizeof(url), "unix:%s/socket", folder);
	return url;
}

/* echo */

static void echo_answers_as_its_comment_says(void **state)
{
	int port = start_server("examples/echo", "tcp://[::]:0", NULL);
	int first = start_client("nc -N localhost %d", port);
	int second = start_client("nc -N localhost %d", port);

	(void)state;
	assert_true(says(first, "one\n"));
	assert_true(says(second, "two\n"));
	assert_true(receives(first, "one\n"));
	assert_true(receives(second, "two\n"));
	assert_true(says(first, "three\n"));
	assert_true(receives(first, "three\n"));
	assert_int_equal(end_client(first), 0);
	assert_int_equal(end_client(second), 0);
	assert_int_equal(end_server(SIGINT), 0);
	assert_string_equal(said, "");
}

static void echo_sends_a_megabyte_back_unchanged(void **state)
{
	const char *url = unix_url();
	int port = start_server("examples/echo", "tcp://127.0.0.1:0", NULL);

	(void)state;
	(void)url;
	assert_int_equal(shell("cd %s && head -c 1048576 /dev/urandom >sent && "
			       "socat -t 20 - TCP:127.0.0.1:%d <sent >back && "
			       "cmp sent back && rm sent back",
				 folder, port),
		0);
	assert_string_equal(said, "");
	assert_int_equal(rmdir(folder), 0);
	assert_int_equal(end_server(SIGTERM), 0);
	assert_string_equal(said, "");
}

static void echo_serves_ipv4(void **state)
{
	int port = start_server("examples/echo", "tcp://127.0.0.1:0", NULL);
	char url[64];

	(void)state;
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", port);
	assert_string_equal(server.at, url);
	assert_int_equal(
		shell("echo hello | socat -t 10 - TCP4:127.0.0.1:%d", port), 0);
	assert_string_equal(said, "hello\n");
	assert_int_equal(end_server(SIGTERM), 0);
}

static void echo_serves_ipv6(void **state)
{
	int port;
	char url[64];

	(void)state;
	if (access("/proc/net/if_inet6", F_OK) != 0)
		skip(); /* no IPv6 here */
	port = start_server("examples/echo", "tcp://[::1]:0", NULL);
	snprintf(url, sizeof(url), "tcp://[::1]:%d", port);
	assert_string_equal(server.at, url);
	assert_int_equal(
		shell("echo hello | socat -t 10 - TCP6:[::1]:%d", port), 0);
	assert_string_equal(said, "hello\n");
	assert_int_equal(end_server(SIGTERM), 0);
}

static void echo_serves_a_unix_socket(void **state)
{
	const char *url = unix_url();
	const char *path = url + strlen("unix:");

	(void)state;
	assert_int_equal(start_server("examples/echo", url, NULL), 0);
	assert_string_equal(server.at, url);
	assert_int_equal(
		shell("echo hello | socat -t 10 - UNIX-CONNECT:%s", path), 0);
	assert_string_equal(said, "hello\n");
	assert_int_equal(shell("echo again | nc -N -U %s", path), 0);
	assert_string_equal(said, "again\n");
	assert_int_equal(end_server(SIGTERM), 0);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(rmdir(folder), 0);
}

static void echo_serves_an_abstract_unix_socket(void **state)
{
	char url[64];

	(void)state;
	snprintf(url, sizeof(url), "unix:@evt-examples-%d", (int)getpid());
	assert_int_equal(start_server("examples/echo", url, NULL), 0);
	assert_string_equal(server.at, url);
	assert_int_equal(shell("echo hello | socat -t 10 - ABSTRACT-CONNECT:%s",
				 url + strlen("unix:@")),
		0);
	assert_string_equal(said, "hello\n");
	assert_int_equal(end_server(SIGTERM), 0);
}

/* What the examples have in common */

static const char *const examples[] = {
	"examples/echo", "examples/chat", "examples/http", "examples/cache"};
static const int usual_ports[] = {9999, 9999, 8080, 11211};
#define NR_EXAMPLES ((int)(sizeof(examples) / sizeof(examples[0])))

static void each_example_refuses_wrong_usage_with_2(void **state)
{
	static const char *const wrong[] = {"x", "9999", "tcp://",
		"unix:", "tcp://127.0.0.1", "tcp://[::]:65536", "tcp://[::]:-1",
		"http://127.0.0.1:0", "-t", "-t 0", "-t -1", "-t 4x",
		"-t 65536", "-t 4294967297", "-z", "tcp://:0 tcp://:0",
		"-t 4 tcp://:0 tcp://:0", "tcp://:0 -t x"};
	size_t i;
	int k;

	(void)state;
	for (k = 0; k < NR_EXAMPLES; k++)
		for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
			assert_int_equal(run(examples[k], "%s", wrong[i]), 2);
			assert_non_null(strstr(said, "usage: "));
			assert_non_null(strstr(said, "[-t WORKERS]"));
			assert_null(strstr(said, "listening"));
		}
}

static void each_example_shows_its_usage(void **state)
{
	int k;

	(void)state;
	for (k = 0; k < NR_EXAMPLES; k++) {
		assert_int_equal(run(examples[k], "-h"), 0);
		assert_ptr_equal(strstr(said, "usage: "), said);
		assert_non_null(strstr(said, "tcp://[::]:9999"));
		assert_int_equal(said[strlen(said) - 1], '\n');
	}
}

static void each_example_says_why_it_cannot_listen(void **state)
{
	int port = start_server("examples/echo", "tcp://127.0.0.1:0", NULL);
	int k;

	(void)state;
	for (k = 0; k < NR_EXAMPLES; k++) {
		assert_int_equal(
			run(examples[k], "tcp://127.0.0.1:%d", port), 1);
		assert_non_null(strstr(said, "Address already in use"));
		assert_null(strstr(said, "listening on"));
		assert_null(strstr(said, "usage: "));
	}
	assert_int_equal(end_server(SIGTERM), 0);
}

static void without_a_url_they_listen_on_their_usual_port(void **state)
{
	char url[32];
	int k;

	(void)state;
	if (!alone)
		skip();
	for (k = 0; k < NR_EXAMPLES; k++) {
		assert_int_equal(
			start_server(examples[k], NULL, NULL), usual_ports[k]);
		snprintf(url, sizeof(url), "tcp://[::]:%d", usual_ports[k]);
		assert_string_equal(server.at, url);
		assert_int_equal(end_server(SIGTERM), 0);
	}
}

static int count_workers(void)
{
	shell("cat /proc/%d/task/*/comm | grep -c evt-worker", (int)server.pid);
	return (int)strtol(said, NULL, 10);
}

/* Asked for so, an example has nr workers, once it serves. */
static bool has_workers(const char *name, const char *a, const char *b, int nr)
{
	int port = start_server(name, a, b);
	int fd = connect_to(port);
	char byte;
	bool good;

	good = port > 0 && says(fd, "x\n") && receive_all(fd, &byte, 1) &&
		WAIT_FOR(count_workers() == nr);
	close(fd);
	return end_server(SIGTERM) == 0 && good;
}

static void options_may_stand_before_or_after_the_url(void **state)
{
	int k;

	(void)state;
	for (k = 0; k < NR_EXAMPLES; k++) {
		assert_true(has_workers(examples[k], "tcp://:0", "-t1", 1));
		assert_true(has_workers(examples[k], "-t4", "tcp://:0", 4));
		assert_true(has_workers(
			examples[k], "tcp://:0", NULL, get_nr_cpus()));
	}
}

static void signals_end_each_example_with_0(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM};
	int port;
	int k;

	(void)state;
	for (k = 0; k < 2 * NR_EXAMPLES; k++) {
		port = start_server(examples[k / 2], "tcp://127.0.0.1:0", NULL);
		assert_true(port > 0);
		assert_int_equal(end_server(signals[k % 2]), 0);
		assert_string_equal(said, "");
		assert_true(refused(port));
	}
}

static void signals_end_each_example_with_clients_with_0(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM};
	char byte;
	int port;
	int fd;
	int k;

	(void)state;
	for (k = 0; k < 2 * NR_EXAMPLES; k++) {
		port = start_server(examples[k / 2], "tcp://127.0.0.1:0", NULL);
		fd = start_client("socat - TCP:127.0.0.1:%d", port);
		assert_true(says(fd, "x\n"));
		assert_true(receive_all(fd, &byte, 1));
		assert_int_equal(end_server(signals[k % 2]), 0);
		assert_null(strstr(said, "error"));
		assert_int_equal(end_client(fd), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROGRAM_TEST(echo_answers_as_its_comment_says),
		PROGRAM_TEST(echo_sends_a_megabyte_back_unchanged),
		PROGRAM_TEST(echo_serves_ipv4),
		PROGRAM_TEST(echo_serves_ipv6),
		PROGRAM_TEST(echo_serves_a_unix_socket),
		PROGRAM_TEST(echo_serves_an_abstract_unix_socket),
		PROGRAM_TEST(each_example_refuses_wrong_usage_with_2),
		PROGRAM_TEST(each_example_shows_its_usage),
		PROGRAM_TEST(each_example_says_why_it_cannot_listen),
		PROGRAM_TEST(without_a_url_they_listen_on_their_usual_port),
		PROGRAM_TEST(options_may_stand_before_or_after_the_url),
		PROGRAM_TEST(signals_end_each_example_with_0),
		PROGRAM_TEST(signals_end_each_example_with_clients_with_0),
	};

	alone = own_network(CLONE_NEWNET);
	return ledger_run("examples", tests);
}
