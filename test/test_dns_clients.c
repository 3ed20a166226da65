/*
 * test_dns_clients.c: the example dns with the clients that people have, dig
 * and dnsperf, and with some that do as they should not.
 */
#include "dns_rig.h"
#include "programs.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#define BIG 1000 /* addresses of a name: 16 KB of answer */

static char folder[64];

/* The zone of the comment in dns.c, and some more. */
static const char text_of_zone[] = "$ORIGIN example.org.\n"
				   "$TTL 1h\n"
				   "@\tSOA\tns root 1 2h 15m 2w 10m\n"
				   "\tNS\tns\n"
				   "\tMX\t10 www\n"
				   "ns\tA\t192.0.2.1\n"
				   "www\tA\t192.0.2.2\n"
				   "\tAAAA\t2001:db8::2\n"
				   "\tTXT\t\"a text\"\n"
				   "alias\tCNAME\twww\n"
				   "sub\tNS\tns.sub\n"
				   "ns.sub\tA\t192.0.2.3\n";

static const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void put_text(const char *name, const char *text, int more)
{
	FILE *file = fopen(path_of(name), "we");
	int i;

	assert_non_null(file);
	fputs(text, file);
	for (i = 0; i < more; i++)
		fprintf(file, "big A 10.0.%d.%d\n", i >> 8, i & 255);
	assert_int_equal(fclose(file), 0);
}

static int open_folder(void **state)
{
	int result = ledger_open(state);

	snprintf(folder, sizeof(folder), "/tmp/test_dns.XXXXXX");
	return mkdtemp(folder) ? result : -1;
}

static int end_all(void **state)
{
	end_programs();
	shell("rm -rf %s", folder);
	return ledger_close(state);
}

#define DNS_TEST(fn)                                       \
	{                                                  \
#fn, fn, open_folder, end_all, (void *)#fn \
	}

static void start_dns(const char *url)
{
	put_text("zone", text_of_zone, BIG);
	assert_true(start_server("examples/dns", url, path_of("zone")) > 0);
}

static void end_dns(void)
{
	assert_int_equal(end_server(SIGTERM), 0);
	assert_null(strstr(said, "error"));
	assert_null(strstr(said, "warn"));
}

/* What dig says to these arguments, to the server's port. */
__attribute__((format(printf, 1, 2))) static const char *dig(
	const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	shell("dig -r @127.0.0.1 -p %d +tries=1 +time=%d %s", server.port,
		5 * slowness(), text);
	return said;
}

static bool dig_says(const char *text)
{
	if (strstr(said, text))
		return true;
	print_message("expected: %s\ndig said: %s\n", text, said);
	return false;
}

static void dig_gets_what_the_zone_has(void **state)
{
	static const char *const transports[] = {"+notcp", "+tcp"};
	int i;

	(void)state;
	start_dns("udp://127.0.0.1:0");
	for (i = 0; i < 2; i++) {
		const char *by = transports[i];

		assert_string_equal(
			dig("+short %s www.example.org", by), "192.0.2.2\n");
		assert_string_equal(dig("+short %s www.example.org AAAA", by),
			"2001:db8::2\n");
		assert_string_equal(dig("+short %s example.org MX", by),
			"10 www.example.org.\n");
		assert_string_equal(dig("+short %s example.org NS", by),
			"ns.example.org.\n");
		assert_string_equal(dig("+short %s www.example.org TXT", by),
			"\"a text\"\n");
		assert_string_equal(dig("+short %s alias.example.org", by),
			"www.example.org.\n192.0.2.2\n");
		assert_string_equal(dig("+short %s example.org SOA", by),
			"ns.example.org. root.example.org. 1 7200 900 1209600 "
			"600\n");
	}
	end_dns();
}

static void dig_is_told_what_is_wrong(void **state)
{
	(void)state;
	start_dns("udp://127.0.0.1:0");
	dig("no.example.org");
	assert_true(dig_says("status: NXDOMAIN"));
	assert_true(dig_says("flags: qr aa rd;"));
	assert_true(dig_says("example.org.\t\t600\tIN\tSOA"));
	dig("example.com");
	assert_true(dig_says("status: REFUSED"));
	dig("-c CH -t TXT -q version.bind");
	assert_true(dig_says("status: REFUSED"));
	dig("+opcode=notify example.org");
	assert_true(dig_says("status: NOTIMP"));
	dig("+header-only example.org");
	assert_true(dig_says("status: FORMERR"));
	dig("+edns=1 +noednsnegotiation example.org");
	assert_true(dig_says("status: BADVERS"));
	dig("example.org AXFR");
	assert_true(dig_says("Transfer failed."));
	dig("x.sub.example.org");
	assert_true(dig_says("flags: qr rd; QUERY: 1, ANSWER: 0, AUTHORITY: 1, "
			     "ADDITIONAL: 2"));
	end_dns();
}

static void dig_comes_back_by_tcp_for_what_does_not_fit(void **state)
{
	(void)state;
	start_dns("udp://127.0.0.1:0");
	dig("big.example.org");
	assert_true(dig_says(";; Truncated, retrying in TCP mode."));
	assert_true(dig_says("ANSWER: 1000"));
	dig("+ignore big.example.org");
	assert_true(dig_says("flags: qr aa tc rd; QUERY: 1, ANSWER: 0"));
	dig("+ignore +noedns big.example.org");
	assert_true(dig_says("flags: qr aa tc rd; QUERY: 1, ANSWER: 0"));
	assert_null(strstr(said, "EDNS"));
	dig("+ignore +bufsize=512 www.example.org");
	assert_true(dig_says("; EDNS: version: 0, flags:; udp: 1232"));
	assert_true(dig_says("ANSWER: 1,"));
	end_dns();
}

static void dig_may_come_by_ipv6(void **state)
{
	(void)state;
	start_dns("udp://[::]:0");
	assert_non_null(strstr(server.at, "udp://[::]:"));
	assert_string_equal(dig("+short www.example.org"), "192.0.2.2\n");
	assert_int_equal(
		shell("dig -r @::1 -p %d +short www.example.org", server.port),
		0);
	assert_string_equal(said, "192.0.2.2\n");
	assert_int_equal(shell("dig -r @::1 -p %d +tcp +short www.example.org",
				 server.port),
		0);
	assert_string_equal(said, "192.0.2.2\n");
	end_dns();
}

/* So many queries by dnsperf, of which none is lost. */
static void ask_much(const char *transport)
{
	int rounds = under("plain") ? 2000 : 200;
	char expected[64];

	assert_int_equal(
		shell("dnsperf -s 127.0.0.1 -p %d -d %s -n %d -c 4 -m %s "
		      "-t %d 2>&1",
			server.port, path_of("queries"), rounds, transport,
			5 * slowness()),
		0);
	snprintf(expected, sizeof(expected), "Queries completed:    %d (100.",
		rounds * 4);
	assert_non_null(strstr(said, expected));
	assert_non_null(strstr(said, "NOERROR "));
	snprintf(
		expected, sizeof(expected), "NOERROR %d (75.00%%)", rounds * 3);
	assert_non_null(strstr(said, expected));
}

static void dnsperf_loses_nothing(void **state)
{
	(void)state;
	start_dns("udp://127.0.0.1:0");
	put_text("queries",
		"www.example.org A\nexample.org MX\nalias.example.org "
		"AAAA\nno.example.org A\n",
		0);
	ask_much("udp");
	ask_much("tcp");
	end_dns();
}

/* Clients without manners */

/* By TCP, each with its length before it. */
static void add_query(struct message *to, unsigned id, const char *name)
{
	static struct message query;

	make_query(&query, name, DNS_A, NO_EDNS);
	put16(&query, 0, id);
	add16(to, (unsigned)query.len);
	add_bytes(to, query.wire, query.len);
}

/* The next answer, which is to the query of this id. */
static bool get_answer(int fd, unsigned id, unsigned answers)
{
	uint8_t prefix[2];

	if (!receive_all(fd, prefix, 2))
		return false;
	answer.len = (size_t)prefix[0] << 8 | prefix[1];
	return receive_all(fd, answer.wire, answer.len) && answer.len > 12 &&
		get16(&answer, 0) == id &&
		get16(&answer, DNS_ANSWER) == answers;
}

static void many_queries_may_come_at_once(void **state)
{
	static struct message stream;
	unsigned i;
	int fd;

	(void)state;
	start_dns("udp://127.0.0.1:0");
	stream.len = 0;
	for (i = 0; i < 1500; i++)
		add_query(&stream, i, "www.example.org");
	fd = connect_to(server.port);
	assert_true(send_all(fd, stream.wire, stream.len));
	for (i = 0; i < 1500; i++)
		assert_true(get_answer(fd, i, 1));
	close(fd);
	end_dns();
}

static void a_query_may_come_byte_by_byte(void **state)
{
	static struct message stream;
	size_t i;
	int fd;

	(void)state;
	start_dns("udp://127.0.0.1:0");
	stream.len = 0;
	add_query(&stream, 7, "www.example.org");
	fd = connect_to(server.port);
	for (i = 0; i < stream.len; i++)
		assert_true(send_all(fd, stream.wire + i, 1));
	assert_true(get_answer(fd, 7, 1));
	close(fd);
	end_dns();
}

/* 32 MB of answers, more than may wait. */
static void who_reads_late_gets_all(void **state)
{
	static struct message stream;
	unsigned i;
	int fd;

	(void)state;
	start_dns("udp://127.0.0.1:0");
	stream.len = 0;
	for (i = 0; i < 1800; i++)
		add_query(&stream, i, "big.example.org");
	fd = connect_to(server.port);
	assert_true(send_all(fd, stream.wire, stream.len));
	assert_string_equal(dig("+short +tcp www.example.org"), "192.0.2.2\n");
	for (i = 0; i < 1800; i++)
		assert_true(get_answer(fd, i, BIG));
	close(fd);
	end_dns();
}

static void who_answers_is_sent_away(void **state)
{
	static struct message stream;
	int fd;

	(void)state;
	start_dns("udp://127.0.0.1:0");
	fd = connect_to(server.port);
	assert_true(send_all(fd, "\0\0", 2));
	assert_true(at_end(fd));
	close(fd);
	stream.len = 0;
	add_query(&stream, 1, "www.example.org");
	stream.wire[4] |= 0x80;
	fd = connect_to(server.port);
	assert_true(send_all(fd, stream.wire, stream.len));
	assert_true(at_end(fd));
	close(fd);
	end_dns();
}

/* However slowly he goes on. */
static void who_does_not_end_a_query_is_left_after_ten_seconds(void **state)
{
	static struct message stream;
	struct pollfd ended = {.events = POLLIN};
	int64_t start = now_ms();
	size_t sent;

	(void)state;
	start_dns("udp://127.0.0.1:0");
	stream.len = 0;
	add_query(&stream, 1, "www.example.org");
	ended.fd = connect_to(server.port);
	sent = stream.len / 3;
	assert_true(send_all(ended.fd, stream.wire, sent));
	assert_string_equal(dig("+short +tcp www.example.org"), "192.0.2.2\n");
	while (poll(&ended, 1, 1000) == 0 && sent + 1 < stream.len)
		assert_true(send_all(ended.fd, stream.wire + sent++, 1));
	assert_true(sent + 1 < stream.len);
	assert_true(now_ms() - start >= 9900);
	close(ended.fd);
	end_dns();
}

static void garbage_between_the_queries_does_no_harm(void **state)
{
	static struct message query;
	char garbage[600];
	uint8_t got[512];
	int fd;
	int i;

	(void)state;
	start_dns("udp://127.0.0.1:0");
	fd = udp_to(server.port);
	make_query(&query, "www.example.org", DNS_A, NO_EDNS);
	for (i = 0; i < 300; i++) {
		memset(garbage, i | 0x80, sizeof(garbage)); /* answers */
		assert_int_not_equal(send(fd, garbage, (size_t)(i * 2), 0), -1);
		put16(&query, 0, (unsigned)i);
		assert_int_equal(send(fd, query.wire, query.len, 0), query.len);
		assert_true(recv(fd, got, sizeof(got), 0) > 12);
		assert_int_equal(got[0] << 8 | got[1], i);
		assert_int_equal(got[7], 1);
	}
	close(fd);
	end_dns();
}

/* Starting */

static void a_wrong_zone_is_told_with_its_line(void **state)
{
	char expected[256];

	(void)state;
	put_text("zone", text_of_zone, 0);
	assert_int_equal(shell("echo 'x A 192.0.2' >>%s", path_of("zone")), 0);
	assert_int_equal(
		run("examples/dns", "udp://127.0.0.1:0 %s", path_of("zone")),
		2);
	snprintf(expected, sizeof(expected),
		"%s:13: not an IPv4 address: 192.0.2\n", path_of("zone"));
	assert_string_equal(said, expected);
	put_text("zone", "", 0);
	assert_int_equal(run("examples/dns", "%s", path_of("zone")), 2);
	snprintf(expected, sizeof(expected), "%s:1: no SOA\n", path_of("zone"));
	assert_string_equal(said, expected);
}

static void what_is_no_file_is_told(void **state)
{
	char expected[256];

	(void)state;
	assert_int_equal(run("examples/dns", "%s", path_of("none")), 2);
	snprintf(expected, sizeof(expected), "%s: No such file or directory\n",
		path_of("none"));
	assert_string_equal(said, expected);
	assert_int_equal(run("examples/dns", "%s", folder), 2);
	snprintf(expected, sizeof(expected), "%s: Is a directory\n", folder);
	assert_string_equal(said, expected);
}

static void wrong_arguments_are_told(void **state)
{
	static const char *const wrong[] = {"", "-t", "-x", "-t 0 zone",
		"tcp://127.0.0.1:0 zone", "unixgram:@dns zone", "a b c"};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(run("examples/dns", "%s", wrong[i]), 2);
		assert_non_null(strstr(said, " ZONEFILE\n"));
	}
	assert_int_equal(run("examples/dns", "-h"), 0);
	put_text("zone", text_of_zone, 0);
	assert_int_equal(
		run("examples/dns", "udp://127.0.0.1 %s", path_of("zone")), 2);
}

static void a_port_that_is_taken_is_told(void **state)
{
	(void)state;
	start_dns("udp://127.0.0.1:0");
	assert_int_equal(run("examples/dns", "udp://127.0.0.1:%d %s",
				 server.port, path_of("zone")),
		1);
	assert_null(strstr(said, "listening on"));
	end_dns();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DNS_TEST(dig_gets_what_the_zone_has),
		DNS_TEST(dig_is_told_what_is_wrong),
		DNS_TEST(dig_comes_back_by_tcp_for_what_does_not_fit),
		DNS_TEST(dig_may_come_by_ipv6),
		DNS_TEST(dnsperf_loses_nothing),
		DNS_TEST(many_queries_may_come_at_once),
		DNS_TEST(a_query_may_come_byte_by_byte),
		DNS_TEST(who_reads_late_gets_all),
		DNS_TEST(who_answers_is_sent_away),
		DNS_TEST(who_does_not_end_a_query_is_left_after_ten_seconds),
		DNS_TEST(garbage_between_the_queries_does_no_harm),
		DNS_TEST(a_wrong_zone_is_told_with_its_line),
		DNS_TEST(what_is_no_file_is_told),
		DNS_TEST(wrong_arguments_are_told),
		DNS_TEST(a_port_that_is_taken_is_told),
	};

	return ledger_run("dns_clients", tests);
}
