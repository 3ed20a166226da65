/*
 * test_proxy.c: the example proxy: between redis-server and its clients, nginx
 * and curl and ab; and between sockets of this process, which are slow, reset,
 * end one stream before the other, refuse, or do not answer.
 */
#include "ledger.h"
#include "programs.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define MB ((size_t)1 << 20)

/* The servers behind: programs, or a socket of this process. */
static struct {
	pid_t pid;
	int out;
} behind;
static int listener = -1;
static int nameserver = -1;
static char folder[32];

static void close_one(int *fd)
{
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

static void end_behind(void)
{
	if (behind.pid > 0) {
		kill(behind.pid, SIGKILL);
		await_status(behind.pid);
		close(behind.out);
	}
	behind.pid = 0;
	close_one(&listener);
	close_one(&nameserver);
}

static int open_all(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/test_proxy.XXXXXX");
	return mkdtemp(folder) && ledger_open(state) == 0 ? 0 : -1;
}

static int end_all(void **state)
{
	end_programs();
	end_behind();
	if (shell("rm -r %s", folder) != 0)
		return -1;
	return ledger_close(state);
}

#define PROXY_TEST(fn)                                  \
	{                                               \
#fn, fn, open_all, end_all, (void *)#fn \
	}

/* A socket that listens on 127.0.0.1: its port. */
static int listen_here(int backlog)
{
	const struct timeval limit = {.tv_sec = 10 * slowness()};
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(listener, backlog), 0);
	setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	getsockname(listener, (struct sockaddr *)&in, &len);
	return ntohs(in.sin_port);
}

/* A proxy to url, which may have the port in it. */
__attribute__((format(printf, 1, 2))) static void start_proxy(
	const char *format, ...)
{
	char url[128];
	va_list args;

	va_start(args, format);
	vsnprintf(url, sizeof(url), format, args);
	va_end(args);
	assert_true(
		start_server("examples/proxy", "tcp://127.0.0.1:0", url) > 0);
}

/* 0: it has been told to stop before. */
static void end_proxy_by(int sig)
{
	assert_int_equal(end_server(sig), 0);
	if (strstr(said, "error") || strstr(said, "warn"))
		print_message("%s", said);
	assert_null(strstr(said, "error"));
	assert_null(strstr(said, "warn"));
	assert_null(strstr(said, "Sanitizer"));
}

static void end_proxy(void)
{
	end_proxy_by(SIGTERM);
}

static int accept_one(void)
{
	const struct timeval limit = {.tv_sec = 10 * slowness()};
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return fd;
}

/* Both ends of what the proxy joins. */
static struct {
	int client;
	int server;
} ends;

static void join_ends(void)
{
	ends.client = connect_to(server.port);
	assert_true(ends.client >= 0);
	ends.server = accept_one();
}

static void close_ends(void)
{
	close(ends.client);
	close(ends.server);
}

static bool is_reset(int fd)
{
	char byte;

	return recv(fd, &byte, 1, 0) == -1 && errno == ECONNRESET;
}

static bool has_ended(int fd)
{
	char byte;

	return recv(fd, &byte, 1, 0) == 0;
}

static bool passes(int from, int to, const char *text)
{
	char got[64] = "";

	return says(from, text) && receive_all(to, got, strlen(text)) &&
		strcmp(got, text) == 0;
}

/* Streams: bytes that repeat themselves after a prime number of them, so that
 * one that is lost or comes twice is noticed. */

#define PERIOD 65521

static unsigned char pattern[2 * PERIOD];

struct stream {
	int from;
	int to;
	size_t sent;
	size_t got;
	bool wrong;
	bool over; /* its end has come */
};

static void send_some(struct stream *stream, size_t len)
{
	size_t left = len - stream->sent;
	ssize_t sent = send(stream->from, pattern + stream->sent % PERIOD,
		left < PERIOD ? left : PERIOD, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent > 0)
		stream->sent += (size_t)sent;
	else if (errno != EAGAIN)
		stream->wrong = true;
}

static void take_some(struct stream *stream)
{
	static char bytes[PERIOD];
	ssize_t got = recv(stream->to, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (got > 0 &&
		memcmp(bytes, pattern + stream->got % PERIOD, (size_t)got) == 0)
		stream->got += (size_t)got;
	else if (got == 0)
		stream->over = true;
	else if (got != -1 || errno != EAGAIN)
		stream->wrong = true;
}

/* Until len bytes have come; or, if nothing is taken, until the flow has
 * stopped. Neither is waited for in vain for long. */
static bool flow(struct stream *stream, size_t len, bool takes)
{
	const int limit = takes ? 10000 * slowness() : 200;

	while (stream->got < len && !stream->wrong && !stream->over) {
		struct pollfd fds[] = {
			{stream->sent < len ? stream->from : -1, POLLOUT, 0},
			{takes ? stream->to : -1, POLLIN, 0}};

		if (poll(fds, 2, limit) <= 0)
			return !takes;
		if (fds[0].revents)
			send_some(stream, len);
		if (fds[1].revents)
			take_some(stream);
	}
	return stream->got == len && !stream->wrong;
}

/* KiB of memory that the proxy had at most. */
static long most_memory(void)
{
	char line[128];
	char path[64];
	long most = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)server.pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "VmHWM: %ld", &most);
	if (file)
		fclose(file);
	return most;
}

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

static void write_file(const char *name, const void *data, size_t len)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "we");
	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
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

static void a_refused_client_ends_at_once_and_a_line_tells_why(void **state)
{
	int port = listen_here(8);
	int64_t start = now_ms();
	int client;

	(void)state;
	end_behind(); /* nobody listens there any more */
	start_proxy("tcp://127.0.0.1:%d", port);
	client = connect_to(server.port);
	assert_true(at_end(client));
	assert_true(now_ms() - start < 2000 * slowness());
	close(client);
	end_proxy();
	assert_non_null(strstr(said, ": Connection refused\n"));
}

/* A server whose backlog is full, so that it answers no connect any more. */

static int fillers[16];
static int nr_fillers;

static int listen_full(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct pollfd waits = {.events = POLLOUT};
	int port = listen_here(0);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	in.sin_port = htons((uint16_t)port);
	nr_fillers = 0;
	do {
		assert_true(nr_fillers < 16);
		waits.fd = socket(
			AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		fillers[nr_fillers++] = waits.fd;
		connect(waits.fd, (struct sockaddr *)&in, sizeof(in));
	} while (poll(&waits, 1, 100) == 1);
	return port;
}

static void close_fillers(void)
{
	while (nr_fillers > 0)
		close(fillers[--nr_fillers]);
}

static void a_server_that_does_not_answer_is_given_up_after_3_s(void **state)
{
	int64_t start;
	int client;

	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_full());
	start = now_ms();
	client = connect_to(server.port);
	assert_true(says(client, "nobody hears that"));
	assert_true(at_end(client));
	assert_in_range(now_ms() - start, 2900, 4000 * slowness());
	close(client);
	close_fillers();
	end_proxy();
	assert_non_null(strstr(said, ": Connection timed out\n"));
}

/* What is sent before the server is reached waits, within bounds; one client
 * leaves meanwhile. */
static void a_client_may_send_before_the_server_is_reached(void **state)
{
	const size_t len = 32 * MB;
	struct stream upload = {0};
	int other;

	(void)state;
	start_proxy("tcp://127.0.0.1:%d", listen_full());
	other = connect_to(server.port);
	assert_true(says(other, "I leave"));
	ends.client = upload.from = connect_to(server.port);
	assert_true(flow(&upload, len, false));
	assert_true(upload.sent < len);
	close_with_reset(other);
	close(fillers[--nr_fillers]); /* it is not connected */
	while (nr_fillers > 0) {
		close(accept_one());
		close(fillers[--nr_fillers]);
	}
	ends.server = upload.to = accept_one();
	assert_true(flow(&upload, len, true));
	close_ends();
	end_proxy();
}

/* Names. A nameserver of this process, which the proxy asks since it finds
 * another /etc/resolv.conf in a mount namespace of its own. */

#define SILENT  (-1)
#define FOUND   0
#define NO_NAME 3

static int open_nameserver(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	nameserver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(
		bind(nameserver, (struct sockaddr *)&in, sizeof(in)), 0);
	getsockname(nameserver, (struct sockaddr *)&in, &len);
	return ntohs(in.sin_port);
}

/* Answers one question: 127.0.0.1, no IPv6; or that there is no such name. */
static void answer_one(int code)
{
	static const char found[] = "\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1";
	struct sockaddr_storage from;
	socklen_t from_len = sizeof(from);
	unsigned char text[1024];
	ssize_t len = recvfrom(
		nameserver, text, 512, 0, (struct sockaddr *)&from, &from_len);

	assert_true(len > 16);
	if (code == SILENT)
		return;
	text[2] = 0x81;
	text[3] = (unsigned char)(0x80 | code);
	if (code == FOUND && text[len - 3] == 1) {
		text[7] = 1;
		memcpy(text + len, found, sizeof(found) - 1);
		len += (ssize_t)sizeof(found) - 1;
	}
	assert_int_equal(sendto(nameserver, text, (size_t)len, 0,
				 (struct sockaddr *)&from, from_len),
		len);
}

/* Until something has come on fd. */
static void answer_until(int fd, int code)
{
	struct pollfd fds[] = {{nameserver, POLLIN, 0}, {fd, POLLIN, 0}};

	while (poll(fds, 2, 10000 * slowness()) > 0 && !fds[1].revents)
		answer_one(code);
	assert_true(fds[1].revents);
}

/* What the proxy is started with; empty where that is not allowed. */
static const char *own_resolv_conf(void)
{
	const char *as = getuid() == 0 ? "-m" : "-rm";

	if (shell("cd %s && unshare %s mount --bind resolv /etc/resolv.conf",
		    folder, as) == 0)
		return as;
	print_message("no mount namespace of its own: %s", said);
	return "";
}

/* To port of a name that is asked for; false if this has to be skipped. */
static bool start_asking_proxy(int port)
{
	char command[512];
	char line[64] = "";
	const char *args[] = {"unshare", NULL, "sh", "-c", command, NULL};

	snprintf(line, sizeof(line), "nameserver 127.0.0.1:%d\n",
		open_nameserver());
	write_file("resolv", line, strlen(line));
	memset(line, 0, sizeof(line));
	args[1] = own_resolv_conf();
	if (!args[1][0])
		return false;
	snprintf(command, sizeof(command),
		"mount --bind %s/resolv /etc/resolv.conf && "
		"exec %s tcp://127.0.0.1:0 tcp://behind.example:%d",
		folder, program("examples/proxy"), port);
	server.pid = start_program(args, args[0], &server.out);
	for (port = 0; port < 63 && !strchr(line, '\n'); port++)
		if (read(server.out, line + port, 1) != 1)
			break;
	assert_int_equal(
		sscanf(line, "listening on tcp://127.0.0.1:%d", &server.port),
		1);
	return true;
}

static void a_name_of_etc_hosts_is_found(void **state)
{
	(void)state;
	start_proxy("tcp://localhost:%d", listen_here(8));
	join_ends();
	assert_true(passes(ends.client, ends.server, "question"));
	assert_true(passes(ends.server, ends.client, "answer"));
	close_ends();
	end_proxy();
}

static void a_name_is_asked_for_and_found(void **state)
{
	char got[16];

	(void)state;
	if (!start_asking_proxy(listen_here(8)))
		skip();
	ends.client = connect_to(server.port);
	assert_true(says(ends.client, "said before"));
	answer_until(listener, FOUND);
	ends.server = accept_one();
	assert_true(receive_all(ends.server, got, strlen("said before")));
	assert_memory_equal(got, "said before", strlen("said before"));
	assert_true(passes(ends.server, ends.client, "answer"));
	close_ends();
	end_proxy();
}

static void an_unknown_name_ends_that_client_only(void **state)
{
	int other;

	(void)state;
	if (!start_asking_proxy(listen_here(8)))
		skip();
	ends.client = connect_to(server.port);
	answer_until(listener, FOUND);
	ends.server = accept_one();
	other = connect_to(server.port);
	answer_until(other, NO_NAME);
	assert_true(at_end(other));
	assert_true(passes(ends.client, ends.server, "question"));
	assert_true(passes(ends.server, ends.client, "answer"));
	close(other);
	close_ends();
	end_proxy();
	assert_non_null(strstr(said, "proxy: tcp://behind.example:"));
}

static void a_name_without_an_answer_is_given_up_after_3_s(void **state)
{
	int64_t start;
	int client;

	(void)state;
	if (!start_asking_proxy(1))
		skip();
	start = now_ms();
	client = connect_to(server.port);
	answer_until(client, SILENT);
	assert_true(at_end(client));
	assert_in_range(now_ms() - start, 2900, 4000 * slowness());
	close(client);
	end_proxy();
	assert_non_null(strstr(said, ": no answer to a lookup of the name\n"));
}

static void a_client_may_leave_while_its_name_is_looked_up(void **state)
{
	int64_t start;
	int client;

	(void)state;
	if (!start_asking_proxy(1))
		skip();
	client = connect_to(server.port);
	answer_one(SILENT); /* IPv4 and IPv6 */
	answer_one(SILENT);
	close_with_reset(client);
	client = connect_to(server.port);
	answer_one(SILENT); /* IPv4 and IPv6 */
	answer_one(SILENT);
	start = now_ms();
	assert_int_equal(end_server(SIGTERM), 0);
	assert_true(now_ms() - start < 4000 * slowness());
	assert_non_null(strstr(said, "2 aborted"));
	close(client);
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

static void prepare(void)
{
	struct rlimit limit;
	size_t i;

	for (i = 0; i < sizeof(pattern); i++)
		pattern[i] = ((i % PERIOD) * (i % PERIOD) >> 5) & 0xff;
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
		PROXY_TEST(a_refused_client_ends_at_once_and_a_line_tells_why),
		PROXY_TEST(a_server_that_does_not_answer_is_given_up_after_3_s),
		PROXY_TEST(a_client_may_send_before_the_server_is_reached),
		PROXY_TEST(a_name_of_etc_hosts_is_found),
		PROXY_TEST(a_name_is_asked_for_and_found),
		PROXY_TEST(an_unknown_name_ends_that_client_only),
		PROXY_TEST(a_name_without_an_answer_is_given_up_after_3_s),
		PROXY_TEST(a_client_may_leave_while_its_name_is_looked_up),
		PROXY_TEST(both_urls_may_be_of_unix_sockets),
		PROXY_TEST(clients_500_at_once_are_each_answered),
		PROXY_TEST(
			what_flows_at_a_stop_is_finished_and_who_is_quiet_closed),
		PROXY_TEST(wrong_urls_are_refused_with_status_2),
	};

	prepare();
	return ledger_run("proxy", tests);
}
