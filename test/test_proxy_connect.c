/*
 * test_proxy_connect.c: the example proxy on its way to the server: one that
 * refuses, or does not answer; names that are in /etc/hosts, that a nameserver
 * knows or does not, or that nobody answers for; and clients that do not wait.
 */
#include "proxy_rig.h"

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

/* To port of a name that is asked for, if hosts does not have it; false if this
 * has to be skipped. */
static bool start_asking_proxy(int port, const char *hosts)
{
	char command[512];
	char line[64] = "";
	const char *args[] = {"unshare", NULL, "sh", "-c", command, NULL};

	snprintf(line, sizeof(line), "nameserver 127.0.0.1:%d\n",
		open_nameserver());
	write_file("resolv", line, hosts[0] ? 0 : strlen(line));
	write_file("hosts", hosts, strlen(hosts));
	memset(line, 0, sizeof(line));
	args[1] = own_resolv_conf();
	if (!args[1][0])
		return false;
	snprintf(command, sizeof(command),
		"mount --bind %s/resolv /etc/resolv.conf && "
		"mount --bind %s/hosts /etc/hosts && "
		"exec %s tcp://127.0.0.1:0 tcp://behind.example:%d",
		folder, folder, program("examples/proxy"), port);
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

static void etc_hosts_needs_no_nameserver(void **state)
{
	(void)state;
	if (!start_asking_proxy(
		    listen_here(8), "127.0.0.1 localhost behind.example\n"))
		skip();
	join_ends();
	assert_true(passes(ends.client, ends.server, "question"));
	close_ends();
	end_proxy();
}

static void a_name_is_asked_for_and_found(void **state)
{
	char got[16];

	(void)state;
	if (!start_asking_proxy(listen_here(8), ""))
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
	if (!start_asking_proxy(listen_here(8), ""))
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
	if (!start_asking_proxy(1, ""))
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
	if (!start_asking_proxy(1, ""))
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROXY_TEST(a_refused_client_ends_at_once_and_a_line_tells_why),
		PROXY_TEST(a_server_that_does_not_answer_is_given_up_after_3_s),
		PROXY_TEST(a_client_may_send_before_the_server_is_reached),
		PROXY_TEST(a_name_of_etc_hosts_is_found),
		PROXY_TEST(etc_hosts_needs_no_nameserver),
		PROXY_TEST(a_name_is_asked_for_and_found),
		PROXY_TEST(an_unknown_name_ends_that_client_only),
		PROXY_TEST(a_name_without_an_answer_is_given_up_after_3_s),
		PROXY_TEST(a_client_may_leave_while_its_name_is_looked_up),
	};

	return ledger_run("proxy_connect", tests);
}
