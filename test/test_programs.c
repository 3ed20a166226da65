/*
 * test_programs.c: the server test/evt_test and the examples, started as a user
 * starts them, each with the client that its opening comment names; and other
 * clients that people have.
 */
#include "ledger.h"
#include "network.h"
#include "programs.h"
#include "../evt-core.h"

#include <dirent.h>
#include <signal.h>

/* A test that fails must not leave its servers to the next one. */
static int stop_and_close(void **state)
{
	if (server.pid > 0)
		end_server(SIGKILL);
	evt_server_stop();
	return ledger_close(state);
}

#define PROGRAM_TEST(fn)                                          \
	{                                                         \
#fn, fn, ledger_open, stop_and_close, (void *)#fn \
	}

static bool echoes(int fd, const char *text)
{
	char answer[64] = "";

	return send_all(fd, text, strlen(text)) &&
		receive_all(fd, answer, strlen(text)) &&
		strcmp(answer, text) == 0;
}

/* evt_test */

static void evt_test_answers_a_connection_once_and_closes_it(void **state)
{
	int port = start_server("test/evt_test", "0", NULL);
	int fd = connect_to(port);

	(void)state;
	assert_true(echoes(fd, "hello"));
	assert_true(at_end(fd));
	close(fd);
	assert_int_equal(end_server(SIGTERM), 0);
	assert_string_equal(said, "");
	assert_true(refused(port));
}

static void evt_test_answers_datagrams(void **state)
{
	int fd = udp_to(start_server("test/evt_test", "-u", "0"));
	int i;

	(void)state;
	for (i = 0; i < 20; i++)
		assert_true(echoes(fd, "datagram"));
	close(fd);
	assert_int_equal(end_server(SIGTERM), 0);
	assert_string_equal(said, "");
}

static void evt_test_ends_with_0_at_sigint(void **state)
{
	(void)state;
	assert_true(start_server("test/evt_test", "0", NULL) > 0);
	assert_int_equal(end_server(SIGINT), 0);
}

static void evt_test_ends_with_0_while_a_client_is_silent(void **state)
{
	int fd = connect_to(start_server("test/evt_test", "0", "1"));
	int status;

	(void)state;
	shutdown(fd, SHUT_WR);
	assert_true(at_end(fd));
	status = end_server(SIGTERM);
	assert_int_equal(status, 0);
	close(fd);
}

static int count_workers(pid_t pid)
{
	char path[300];
	char name[16];
	struct dirent *entry;
	int workers = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%d/task/%.20s/comm",
			(int)pid, entry->d_name);
		file = fopen(path, "re");
		if (file && fgets(name, sizeof(name), file))
			workers += strncmp(name, "evt-worker", 10) == 0;
		if (file)
			fclose(file);
	}
	if (dir)
		closedir(dir);
	return workers;
}

static void evt_test_has_as_many_workers_as_asked_for(void **state)
{
	(void)state;
	assert_true(start_server("test/evt_test", "0", "5") > 0);
	assert_true(WAIT_FOR(count_workers(server.pid) == 5));
	assert_int_equal(end_server(SIGTERM), 0);
}

static void evt_test_has_a_worker_for_each_cpu_unless_told(void **state)
{
	(void)state;
	assert_true(start_server("test/evt_test", "0", NULL) > 0);
	assert_true(WAIT_FOR(count_workers(server.pid) == get_nr_cpus()));
	assert_int_equal(end_server(SIGTERM), 0);
}

static void evt_test_refuses_wrong_usage_with_2(void **state)
{
	static const char *const wrong[] = {"x", "-1", "65536", "0 0", "0 x",
		"1 2 3", "-z", "-u", "0 -5", "0x", "0 65536"};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(run("test/evt_test", "%s", wrong[i]), 2);
		assert_non_null(strstr(said, "usage: evt_test"));
	}
}

/* A07 */
static void evt_test_says_why_it_cannot_have_a_port(void **state)
{
	int port = start_server("test/evt_test", "0", "1");

	(void)state;
	assert_int_equal(run("test/evt_test", "%d 1", port), 1);
	assert_non_null(strstr(said, "Address already in use"));
	assert_null(strstr(said, "listening on port"));
	assert_int_equal(end_server(SIGTERM), 0);
}

static void evt_test_alone_floods_itself(void **state)
{
	const char *args[] = {program("test/evt_test"), NULL};
	const char *table;
	int tables = 0;
	int out;
	pid_t pid;

	(void)state;
	setenv("EVT_FLOOD", "200", 1);
	pid = start_program(args, args[0], &out);
	unsetenv("EVT_FLOOD");
	read_text(out, said, sizeof(said));
	close(out);
	assert_int_equal(await_status(pid), 0);
	for (table = said; (table = strstr(table, "transactions")); table++)
		tables++;
	assert_int_equal(tables, 3);
	assert_non_null(strstr(said, "server: ended with exit status 0"));
}

/* The examples */

static void classic_threads_answers_as_its_comment_says(void **state)
{
	int port;
	int first;
	char line[32] = "";

	(void)state;
	if (!have("socat") || get_nr_cpus() < 2)
		skip();
	port = start_server("examples/classic-threads", "0", NULL);
	first = connect_to(port);
	assert_true(send_all(first, "hello\n", 6));
	assert_true(receive_all(first, line, 16));
	assert_string_equal(line, "worker 1: hello\n");
	/* The first stays; the second has a worker of its own. */
	assert_int_equal(
		shell("echo hello | socat -t 5 - TCP:localhost:%d", port), 0);
	assert_string_equal(said, "worker 2: hello\n");
	close(first);
	assert_int_equal(end_server(SIGINT), 0);
	assert_string_equal(said, "");
}

static void classic_sequential_answers_as_its_comment_says(void **state)
{
	int port;
	int i;

	(void)state;
	if (!have("nc"))
		skip();
	port = start_server("examples/classic-sequential", "0", NULL);
	for (i = 1; i <= 3; i++) {
		char expected[32];

		snprintf(expected, sizeof(expected), "client %d: hello\n", i);
		assert_int_equal(
			shell("echo hello | nc localhost %d", port), 0);
		assert_string_equal(said, expected);
	}
	assert_int_equal(end_server(SIGTERM), 0);
	assert_string_equal(said, "");
}

static void classic_sequential_lets_the_second_client_wait(void **state)
{
	int port = start_server("examples/classic-sequential", "0", NULL);
	int first = connect_to(port);
	int second = connect_to(port);
	char line[32] = "";

	(void)state;
	assert_true(send_all(second, "later\n", 6));
	assert_true(send_all(first, "now\n", 4));
	assert_true(receive_all(first, line, 14));
	assert_string_equal(line, "client 1: now\n");
	assert_true(receive_all(second, line, 16));
	assert_string_equal(line, "client 2: later\n");
	close(first);
	close(second);
	assert_int_equal(end_server(SIGTERM), 0);
}

static void classic_udp_answers_as_its_comment_says(void **state)
{
	int port;

	(void)state;
	if (!have("socat"))
		skip();
	port = start_server("examples/classic-udp", "0", NULL);
	assert_int_equal(
		shell("echo hello | socat -t 0.3 - UDP:localhost:%d", port), 0);
	assert_string_equal(said, "HELLO\n");
	assert_int_equal(
		shell("echo again | socat -t 0.3 - UDP4:127.0.0.1:%d", port),
		0);
	assert_string_equal(said, "AGAIN\n");
	assert_int_equal(end_server(SIGTERM), 0);
	assert_string_equal(said, "");
}

static void each_example_refuses_wrong_usage_with_2(void **state)
{
	static const char *const examples[] = {"examples/classic-threads",
		"examples/classic-sequential", "examples/classic-udp"};
	size_t i;

	(void)state;
	for (i = 0; i < 3; i++) {
		assert_int_equal(run(examples[i], "x"), 2);
		assert_int_equal(run(examples[i], "65536"), 2);
		assert_int_equal(run(examples[i], "-1"), 2);
		assert_int_equal(run(examples[i], "1 2"), 2);
		assert_non_null(strstr(said, "usage: "));
	}
}

/* Clients that people have, at a server of this process */

static void on_client(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	if (conn != -1 && evt_thread_dispatch(conn, evt, arg) == -1)
		evt_close(conn);
}

static int serve_here(evt_callback tcb)
{
	if (evt_server_init(0, SOCK_STREAM) == -1 ||
		evt_server_start(on_client, NULL) == -1 ||
		evt_server_threads(tcb, 2) != 2)
		return -1;
	return evt_server_port();
}

static void answer_http(sockfd_t conn, short evt, void *arg)
{
	static const char page[] = "HTTP/1.0 200 OK\r\nContent-Length: 6\r\n"
				   "\r\nhello\n";
	char request[4096];

	(void)evt, (void)arg;
	if (read(conn, request, sizeof(request)) > 0)
		(void)send_all(conn, page, sizeof(page) - 1);
	evt_close(conn);
}

static void curl_gets_a_page(void **state)
{
	int port;

	(void)state;
	if (!have("curl"))
		skip();
	port = serve_here(answer_http);
	assert_int_equal(
		shell("curl -s --noproxy '*' http://127.0.0.1:%d/", port), 0);
	assert_string_equal(said, "hello\n");
	evt_server_stop();
}

static void echo(sockfd_t conn, short evt, void *arg)
{
	char bytes[4096];
	ssize_t len;

	(void)evt, (void)arg;
	while ((len = read(conn, bytes, sizeof(bytes))) > 0)
		if (!send_all(conn, bytes, (size_t)len))
			break;
	evt_close(conn);
}

static void socat_gets_a_megabyte_back_unchanged(void **state)
{
	char answer[64];
	int port;

	(void)state;
	if (!have("socat"))
		skip();
	port = serve_here(echo);
	assert_int_equal(shell("seq 1 150000 | socat -t 10 - TCP:127.0.0.1:%d |"
			       " cksum",
				 port),
		0);
	evt_server_stop();
	snprintf(answer, sizeof(answer), "%.63s", said);
	assert_int_equal(shell("seq 1 150000 | cksum"), 0);
	assert_string_equal(said, answer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROGRAM_TEST(evt_test_answers_a_connection_once_and_closes_it),
		PROGRAM_TEST(evt_test_answers_datagrams),
		PROGRAM_TEST(evt_test_ends_with_0_at_sigint),
		PROGRAM_TEST(evt_test_ends_with_0_while_a_client_is_silent),
		PROGRAM_TEST(evt_test_has_as_many_workers_as_asked_for),
		PROGRAM_TEST(evt_test_has_a_worker_for_each_cpu_unless_told),
		PROGRAM_TEST(evt_test_refuses_wrong_usage_with_2),
		PROGRAM_TEST(evt_test_says_why_it_cannot_have_a_port),
		PROGRAM_TEST(evt_test_alone_floods_itself),
		PROGRAM_TEST(classic_threads_answers_as_its_comment_says),
		PROGRAM_TEST(classic_sequential_answers_as_its_comment_says),
		PROGRAM_TEST(classic_sequential_lets_the_second_client_wait),
		PROGRAM_TEST(classic_udp_answers_as_its_comment_says),
		PROGRAM_TEST(each_example_refuses_wrong_usage_with_2),
		PROGRAM_TEST(curl_gets_a_page),
		PROGRAM_TEST(socat_gets_a_megabyte_back_unchanged),
	};

	(void)own_network(CLONE_NEWNET);
	return ledger_run("programs", tests);
}
