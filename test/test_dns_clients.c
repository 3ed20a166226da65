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

	snprintf(folder, sizeof(folder), "/tmp/test_dns.
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
			memset(garbage, i | 0x80,
				sizeof(garbage)); /* answers */
			assert_int_not_equal(
				send(fd, garbage, (size_t)(i * 2), 0), -1);
			put16(&query, 0, (unsigned)i);
			assert_int_equal(
				send(fd, query.wire, query.len, 0), query.len);
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
		assert_int_equal(
			shell("echo 'x A 192.0.2' >>%s", path_of("zone")), 0);
		assert_int_equal(run("examples/dns", "udp://127.0.0.1:0 %s",
					 path_of("zone")),
			2);
		snprintf(expected, sizeof(expected),
			"%s:13: not an IPv4 address: 192.0.2\n",
			path_of("zone"));
		assert_string_equal(said, expected);
		put_text("zone", "", 0);
		assert_int_equal(run("examples/dns", "%s", path_of("zone")), 2);
		snprintf(expected, sizeof(expected), "%s:1: no SOA\n",
			path_of("zone"));
		assert_string_equal(said, expected);
}

static void what_is_no_file_is_told(void **state)
{
		char expected[256];

		(void)state;
		assert_int_equal(run("examples/dns", "%s", path_of("none")), 2);
		snprintf(expected, sizeof(expected),
			"%s: No such file or directory\n", path_of("none"));
		assert_string_equal(said, expected);
		assert_int_equal(run("examples/dns", "%s", folder), 2);
		snprintf(expected, sizeof(expected), "%s: Is a directory\n",
			folder);
		assert_string_equal(said, expected);
}

static void wrong_arguments_are_told(void **state)
{
		static const char *const wrong[] = {"", "-t", "-x", "-t 0 zone",
			"tcp://127.0.0.1:0 zone", "unixgram:@dns zone",
			"a b c"};
		size_t i;

		(void)state;
		for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
			assert_int_equal(
				run("examples/dns", "%s", wrong[i]), 2);
			assert_non_null(strstr(said, " ZONEFILE\n"));
		}
		assert_int_equal(run("examples/dns", "-h"), 0);
		put_text("zone", text_of_zone, 0);
		assert_int_equal(run("examples/dns", "udp://127.0.0.1 %s",
					 path_of("zone")),
			2);
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
			DNS_TEST(
				who_does_not_end_a_query_is_left_after_ten_seconds),
			DNS_TEST(garbage_between_the_queries_does_no_harm),
			DNS_TEST(a_wrong_zone_is_told_with_its_line),
			DNS_TEST(what_is_no_file_is_told),
			DNS_TEST(wrong_arguments_are_told),
			DNS_TEST(a_port_that_is_taken_is_told),
		};

		return ledger_run("dns_clients", tests);
}
