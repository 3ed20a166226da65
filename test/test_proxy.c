/*
 * test_proxy.c: the example proxy between redis-server and its clients, nginx
 * and curl and ab, socat, and sockets of this process that are slow, reset, or
 * end one stream before the other.
 */
#include "proxy_rig.h"

#include <sys/resource.h>
#include <sys/un.h>

/* Real servers */

/* A program behind the proxy that serves on folder/s. */
static void start_behind(const char *const *args)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/s", folder);
	behind.pid = start_program(args, args[0], &behind.out);
	assert_true(WAIT_FOR(access(path, F_OK) == 0));
}

static void start_redis(void)
{
	char path[64];
	const char *const args[] = {"redis-server", "--port", "0",
		"--unixsocket", path, "--save", "", "--appendonly", "no",
		"--dir", folder, NULL};

	snprintf(path, sizeof(path), "%s/s", folder);
	start_behind(args);
}

static void redis_answers_through_it(void **state)
{
	(void)state;
	if (!have("redis-server") || !have("redis-benchmark"))
		skip();
	start_redis();
	start_proxy("unix:%s/s", folder);
	assert_int_equal(shell("redis-cli -p %d ping", server.port), 0);
	assert_string_equal(said, "PONG\n");
	assert_int_equal(shell("redis-benchmark -p %d -n 2000 -q -t set,get "
			       "2>&1 | tr '\\r' '\\n'",
				 server.port),
		0);
	assert_non_null(strstr(said, "GET: "));
	assert_int_equal(shell("redis-benchmark -p %d -n 20000 -P 16 -q "
			       "-t set,get,lrange_100 2>&1 | tr '\\r' '\\n'",
				 server.port),
		0);
	assert_non_null(strstr(said, "LRANGE_100"));
	assert_null(strstr(said, "rror"));
	end_proxy();
}

static void start_nginx(void)
{
	char text[1024];
	const char *const args[] = {
		"/usr/sbin/nginx", "-p", folder, "-c", "nginx.conf", NULL};
	unsigned char *bytes = malloc(5 * MB);
	size_t i;

	snprintf(text, sizeof(text),
		"daemon off; master_process off; pid pid; error_log stderr;\n"
		"%sevents {}\n"
		"http { access_log off; root %s;\n"
		"client_body_temp_path t1; proxy_temp_path t2;\n"
		"fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n"
		"server { listen unix:%s/s; } }\n",
		getuid() == 0 ? "user root;\n" : "", folder, folder);
	write_file("nginx.conf", text, strlen(text));
	assert_non_null(bytes);
	for (i = 0; i < 5 * MB; i++)
		bytes[i] = (pattern[i % PERIOD] ^ (i / PERIOD)) & 0xff;
	write_file("large", bytes, 5 * MB);
	write_file("small", bytes, 100 * 1024);
	free(bytes);
	start_behind(args);
}

static void curl_and_ab_get_the_files_of_nginx(void **state)
{
	(void)state;
	if (access("/usr/sbin/nginx", X_OK) == -1 || !have("curl") ||
		!have("ab"))
		skip();
	start_nginx();
	start_proxy("unix:%s/s", folder);
	assert_int_equal(shell("cd %s && curl -sS --noproxy '*' -o got "
			       "http://127.0.0.1:%d/large && cmp large got",
				 folder, server.port),
		0);
	assert_int_equal(
		shell("cd %s && curl -sS --noproxy '*' -Z --parallel-max 100 "
		      "-o 'got#1' 'http://127.0.0.1:%d/small?[1-100]' && "
		      "for i in $(seq 100); do cmp small got$i || exit 1; done",
			folder, server.port),
		0);
	assert_int_equal(shell("ab -q -n 1000 -c 50 http://127.0.0.1:%d/small",
				 server.port),
		0);
	assert_non_null(strstr(said, "Complete requests:      1000"));
	assert_non_null(strstr(said, "Failed requests:        0"));
	end_proxy();
}

/* Backpressure */

static void is_bounded(bool to_client, size_t len)
{
	struct stream stream = {0};
	long before;

	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	join_ends();
	assert_true(passes(ends.client, ends.server, "a"));
	before = most_memory();
	stream.from = to_client ? ends.server : ends.client;
	stream.to = to_client ? ends.client : ends.server;
	assert_true(flow(&stream, len, false));
	assert_true(stream.sent < len);
	assert_true(flow(&stream, len, true));
	print_message("%zu MiB, %ld KiB of memory, %ld before\n", len / MB,
		most_memory(), before);
	assert_true(most_memory() < before + 32 * 1024L);
	shutdown(stream.from, SHUT_WR);
	assert_true(has_ended(stream.to));
	close_ends();
	end_proxy();
}

static void a_gigabyte_to_a_slow_reader_takes_little_memory(void **state)
{
	(void)state;
	is_bounded(true, (slowness() == 1 ? 1024 : 64) * MB);
}

static void a_server_may_be_slow_too(void **state)
{
	(void)state;
	is_bounded(false, 64 * MB);
}

/* An echo that is not read at first: both directions are full. */
static void both_directions_may_be_full_at_once(void **state)
{
	const size_t len = 32 * MB;
	struct stream there = {0};
	struct stream back = {0};
	size_t part = 0;

	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	join_ends();
	there.from = back.to = ends.client;
	back.from = there.to = ends.server;
	assert_true(flow(&there, len, false));
	assert_true(flow(&back, len, false));
	assert_true(there.sent < len && back.sent < len);
	while (part < len) {
		part += MB;
		assert_true(flow(
			&there, part < there.sent ? there.sent : part, true));
		assert_true(
			flow(&back, part < back.sent ? back.sent : part, true));
	}
	assert_int_equal(there.got, len);
	assert_int_equal(back.got, len);
	close_ends();
	end_proxy();
}

/* Ends */

static void a_client_that_has_finished_gets_the_whole_answer(void **state)
{
	struct stream answer = {0};

	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	join_ends();
	assert_true(passes(ends.client, ends.server, "question"));
	shutdown(ends.client, SHUT_WR);
	assert_true(has_ended(ends.server));
	answer.from = ends.server;
	answer.to = ends.client;
	assert_true(flow(&answer, 4 * MB, true));
	shutdown(ends.server, SHUT_WR);
	assert_true(has_ended(ends.client));
	close_ends();
	end_proxy();
}

static void a_server_that_has_finished_is_still_sent_to(void **state)
{
	struct stream upload = {0};

	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	join_ends();
	assert_true(passes(ends.server, ends.client, "greeting"));
	shutdown(ends.server, SHUT_WR);
	assert_true(has_ended(ends.client));
	upload.from = ends.client;
	upload.to = ends.server;
	assert_true(flow(&upload, 4 * MB, true));
	shutdown(ends.client, SHUT_WR);
	assert_true(has_ended(ends.server));
	close_ends();
	end_proxy();
}

/* All is sent and the stream ended before anything of it is read. */
static void an_end_comes_after_all_that_was_before_it(void **state)
{
	struct stream answer = {0};

	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	join_ends();
	answer.from = ends.server;
	answer.to = ends.client;
	while (answer.sent < MB)
		send_some(&answer, MB);
	close(ends.server);
	assert_true(flow(&answer, MB, true));
	assert_true(has_ended(ends.client));
	close(ends.client);
	end_proxy();
}

static void socat_gets_what_it_asked_for_after_its_end(void **state)
{
	int client;
	int fd;

	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	client = start_client("socat -t10 - TCP:127.0.0.1:%d", server.port);
	assert_true(says(client, "question\n"));
	shutdown(client, SHUT_WR);
	fd = accept_one();
	assert_true(receives(fd, "question\n"));
	assert_true(has_ended(fd));
	assert_true(says(fd, "answer\n"));
	close(fd);
	assert_true(receives(client, "answer\n"));
	assert_int_equal(end_client(client), 0);
	end_proxy();
}

static void a_reset_is_passed_on_to_the_client(void **state)
{
	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	join_ends();
	assert_true(passes(ends.client, ends.server, "question"));
	close_with_reset(ends.server);
	assert_true(is_reset(ends.client));
	close(ends.client);
	end_proxy();
}

static void a_reset_is_passed_on_to_the_server(void **state)
{
	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	join_ends();
	assert_true(passes(ends.server, ends.client, "greeting"));
	close_with_reset(ends.client);
	assert_true(is_reset(ends.server));
	close(ends.server);
	end_proxy();
}

/* The rest */

static void both_urls_may_be_of_unix_sockets(void **state)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char urls[2][64];

	(void)state;
	snprintf(un.sun_path, sizeof(un.sun_path), "%s/s", folder);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(listen(listener, 8), 0);
	snprintf(urls[0], sizeof(urls[0]), "unix:%s/p", folder);
	snprintf(urls[1], sizeof(urls[1]), "unix:%s/s", folder);
	assert_int_equal(start_server("examples/proxy", urls[0], urls[1]), 0);
	ends.client = start_client("socat - UNIX-CONNECT:%s/p", folder);
	ends.server = accept_one();
	assert_true(passes(ends.client, ends.server, "question"));
	assert_true(passes(ends.server, ends.client, "answer"));
	close(ends.server);
	assert_int_equal(end_client(ends.client), 0);
	end_proxy();
}

#define CROWD 500

/* Behind the proxy an echo. */
static void start_echo(void)
{
	const char *const args[] = {
		program("examples/echo"), "tcp://127.0.0.1:0", NULL};
	char line[64] = "";
	int port = 0;
	int i;

	behind.pid = start_program(args, args[0], &behind.out);
	for (i = 0; i < 63 && !strchr(line, '\n'); i++)
		if (read(behind.out, line + i, 1) != 1)
			break;
	assert_int_equal(
		sscanf(line, "listening on tcp://127.0.0.1:%d", &port), 1);
	start_proxy("tcp://127.0.0.1:%d", port);
}

static void clients_500_at_once_are_each_answered(void **state)
{
	const int nr = slowness() == 1 ? CROWD : CROWD / 5;
	static int fds[CROWD];
	char expected[16];
	char got[16];
	int i;

	(void)state;
	start_echo();
	for (i = 0; i < nr; i++) {
		fds[i] = connect_to(server.port);
		snprintf(expected, sizeof(expected), "client %d", i);
		assert_true(says(fds[i], expected));
	}
	for (i = 0; i < nr; i++) {
		snprintf(expected, sizeof(expected), "client %d", i);
		assert_true(receive_all(fds[i], got, strlen(expected)));
		assert_memory_equal(got, expected, strlen(expected));
	}
	for (i = 0; i < nr; i++)
		close(fds[i]);
	end_proxy();
}

static void what_flows_at_a_stop_is_finished_and_who_is_quiet_closed(
	void **state)
{
	const size_t len = (slowness() == 1 ? 64 : 16) * MB;
	struct stream answer = {0};
	int quiet;

	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_here(8));
	join_ends();
	quiet = connect_to(server.port);
	close(accept_one());
	answer.from = ends.server;
	answer.to = ends.client;
	assert_true(flow(&answer, MB, true));
	kill(server.pid, SIGTERM);
	assert_true(WAIT_FOR(refused(server.port)));
	assert_true(flow(&answer, len, false)); /* it is slow at first, too */
	assert_true(flow(&answer, len, true));
	shutdown(ends.server, SHUT_WR);
	assert_true(has_ended(ends.client));
	close_ends();
	assert_true(at_end(quiet));
	close(quiet);
	end_proxy_by(0);
}

static void wrong_urls_are_refused_with_status_2(void **state)
{
	static const char *const wrong[] = {"tcp://localhost", "tcp://a:0",
		"tcp://a:65536", "tcp://a:8x", "tcp://:80", "tcp://[::1]",
		"tcp://[::g]:80", "tcp://::1:80", "tcp://[::1]:80/",
		"tcp://me@a:80", "http://a:80", "udp://a:80",
		"unix:", "unix://run/s", "a:80", "80"};
	char path[128] = "unix:/";
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(
			run("examples/proxy", "tcp://:0 %s", wrong[i]), 2);
		assert_non_null(strstr(said, "usage: "));
		assert_non_null(strstr(said, wrong[i]));
	}
	memset(path + 6, 'x', 107);
	assert_int_equal(run("examples/proxy", "tcp://:0 %s", path), 2);
	assert_int_equal(run("examples/proxy", "tcp://:0"), 2);
	assert_int_equal(run("examples/proxy", "tcp://:0 tcp://a:1 b"), 2);
	assert_int_equal(run("examples/proxy", "tcp://:x tcp://a:1"), 2);
	assert_int_equal(run("examples/proxy", "-t0 tcp://:0 tcp://a:1"), 2);
}

static void raise_limit(void)
{
	struct rlimit limit;

	/* 500 clients are 1,000 descriptors of the proxy's. */
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROXY_TEST(redis_answers_through_it),
		PROXY_TEST(curl_and_ab_get_the_files_of_nginx),
		PROXY_TEST(a_gigabyte_to_a_slow_reader_takes_little_memory),
		PROXY_TEST(a_server_may_be_slow_too),
		PROXY_TEST(both_directions_may_be_full_at_once),
		PROXY_TEST(a_client_that_has_finished_gets_the_whole_answer),
		PROXY_TEST(a_server_that_has_finished_is_still_sent_to),
		PROXY_TEST(an_end_comes_after_all_that_was_before_it),
		PROXY_TEST(socat_gets_what_it_asked_for_after_its_end),
		PROXY_TEST(a_reset_is_passed_on_to_the_client),
		PROXY_TEST(a_reset_is_passed_on_to_the_server),
		PROXY_TEST(both_urls_may_be_of_unix_sockets),
		PROXY_TEST(clients_500_at_once_are_each_answered),
		PROXY_TEST(
			what_flows_at_a_stop_is_finished_and_who_is_quiet_closed),
		PROXY_TEST(wrong_urls_are_refused_with_status_2),
	};

	raise_limit();
	return ledger_run("proxy", tests);
}
