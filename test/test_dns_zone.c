/*
 * test_dns_zone.c: the example dns: what it makes of a zone's master file, and
 * what it says of a wrong one.
 */
#include "dns_rig.h"

#define SOA "$ORIGIN a.org.\n$TTL 60\n@ SOA ns root 1 2 3 4 5\n"

static const char a63[] =
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/* The one record of the first answer, as text, or what is wrong. */
static const char *record_of(const char *text, const char *name, unsigned type)
{
	static char line[300];
	const char *at;

	close_zone();
	if (!open_zone(text)) {
		snprintf(line, sizeof(line), "%d: %s", zone_file.fault_line,
			zone_file.fault);
		return line;
	}
	at = strstr(asked(name, type, NO_EDNS), "\n= ");
	if (!at)
		return answer_text.at;
	snprintf(
		line, sizeof(line), "%.*s", (int)strcspn(at + 3, "\n"), at + 3);
	return line;
}

static int free_zone(void **state)
{
	close_zone();
	return ledger_close(state);
}

#define ZONE_TEST(fn)                                        \
	{                                                    \
#fn, fn, ledger_open, free_zone, (void *)#fn \
	}

/* What is said of the last line of a file, after an SOA on line 3. */
static void each_is_a_fault(const char *const (*cases)[2], size_t nr)
{
	char text[2048];
	char expected[160];
	size_t i;

	for (i = 0; i < nr; i++) {
		snprintf(text, sizeof(text), SOA "%s", cases[i][0]);
		snprintf(expected, sizeof(expected), "4: %s", cases[i][1]);
		assert_string_equal(
			record_of(text, "x.a.org", DNS_A), expected);
	}
}

#define EACH_IS_A_FAULT(cases) \
	each_is_a_fault(cases, sizeof(cases) / sizeof((cases)[0]))

static void names_are_relative_or_whole(void **state)
{
	(void)state;
	assert_string_equal(record_of(SOA "x A 192.0.2.1\n", "x.a.org", DNS_A),
		"x.a.org. 60 A 192.0.2.1");
	assert_string_equal(
		record_of(SOA "X.A.ORG. A 192.0.2.1\n", "x.a.org", DNS_A),
		"x.a.org. 60 A 192.0.2.1");
	assert_string_equal(record_of(SOA "@ A 192.0.2.1\n", "a.org", DNS_A),
		"a.org. 60 A 192.0.2.1");
	assert_string_equal(
		record_of(SOA "$ORIGIN b\nx A 192.0.2.1\n", "x.b.a.org", DNS_A),
		"x.b.a.org. 60 A 192.0.2.1");
	assert_string_equal(
		record_of(SOA "x MX 1 y.b.\n\tMX 1 @\n", "x.a.org", DNS_MX),
		"x.a.org. 60 MX 1 y.b.");
}

static void a_blank_owner_is_the_last_one(void **state)
{
	(void)state;
	assert_string_equal(record_of(SOA "x A 192.0.2.1\n\n ; no entry\n"
					  "  AAAA 2001:db8::1\n",
				    "x.a.org", DNS_AAAA),
		"x.a.org. 60 AAAA 2001:db8::1");
	assert_string_equal(record_of(SOA "\tNS ns\n", "a.org", DNS_NS),
		"a.org. 60 NS ns.a.org.");
	assert_string_equal(record_of(" A 192.0.2.1\n", "a.org", DNS_A),
		"1: no owner, and none before: A");
}

static void ttl_and_class_come_in_either_order(void **state)
{
	static const char *const heads[] = {
		"7 IN", "IN 7", "7", "7 in", "7s", "0h7", "0w0d0H0m7S"};
	char text[256];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		snprintf(
			text, sizeof(text), SOA "x %s a 192.0.2.1\n", heads[i]);
		assert_string_equal(record_of(text, "x.a.org", DNS_A),
			"x.a.org. 7 A 192.0.2.1");
	}
	assert_string_equal(record_of(SOA "x IN A 192.0.2.1", "x.a.org", DNS_A),
		"x.a.org. 60 A 192.0.2.1");
	assert_string_equal(
		record_of(SOA "in 7 in a 192.0.2.1", "in.a.org", DNS_A),
		"in.a.org. 7 A 192.0.2.1");
}

static void times_have_units(void **state)
{
	(void)state;
	assert_string_equal(
		record_of(SOA "x 1w2d3h4m5s A 192.0.2.1\n", "x.a.org", DNS_A),
		"x.a.org. 788645 A 192.0.2.1");
	assert_string_equal(record_of("$TTL 1D\na. SOA a. a. 4294967295 1h 1M "
				      "1d 2147483647\n",
				    "a", DNS_SOA),
		"a. 86400 SOA a. a. 4294967295 3600 60 86400 2147483647");
}

static void without_a_ttl_the_last_one_counts(void **state)
{
	static const char text[] = "$ORIGIN a.org.\n"
				   "@ 9 SOA a b 1 2 3 4 5\n"
				   "x A 192.0.2.1\n"
				   "y 8 A 192.0.2.1\n"
				   "z A 192.0.2.1\n"
				   "$TTL 7\n"
				   "u A 192.0.2.1\n"
				   "v 6 A 192.0.2.1\n"
				   "w A 192.0.2.1\n";

	(void)state;
	assert_string_equal(
		record_of(text, "x.a.org", DNS_A), "x.a.org. 9 A 192.0.2.1");
	assert_string_equal(
		record_of(text, "z.a.org", DNS_A), "z.a.org. 8 A 192.0.2.1");
	assert_string_equal(
		record_of(text, "u.a.org", DNS_A), "u.a.org. 7 A 192.0.2.1");
	assert_string_equal(
		record_of(text, "w.a.org", DNS_A), "w.a.org. 7 A 192.0.2.1");
	assert_string_equal(record_of("a. SOA a. b. 1 2 3 4 5\n", "a", DNS_SOA),
		"1: no TTL, and no $TTL before: SOA");
}

static void parentheses_join_lines(void **state)
{
	(void)state;
	assert_string_equal(record_of("$TTL 1\na. IN SOA ( a. ; one (\n\n"
				      "b. 1 2\n3;three\n\t4 5)\nx.a. A "
				      "192.0.2.1\n",
				    "a", DNS_SOA),
		"a. 1 SOA a. b. 1 2 3 4 5");
	assert_string_equal(
		record_of(SOA "x (A) (192.0.2.1)\n", "x.a.org", DNS_A),
		"x.a.org. 60 A 192.0.2.1");
}

static void texts_are_quoted_or_not(void **state)
{
	(void)state;
	assert_string_equal(
		record_of(SOA "x TXT a \"b;()\" \"\" \"c\\\"d\" e\\;f "
			      "g\\000\\255\n",
			"x.a.org", DNS_TXT),
		"x.a.org. 60 TXT \"a\" \"b;()\" \"\" \"c\"d\" \"e;f\" "
		"\"g\\000\\255\"");
	assert_string_equal(
		record_of(SOA "x TXT \"a\"b\"c\"\n", "x.a.org", DNS_TXT),
		"x.a.org. 60 TXT \"a\" \"b\" \"c\"");
}

static void names_have_escapes(void **state)
{
	(void)state;
	assert_string_equal(
		record_of(SOA "x MX 1 a\\.b\\;\\010\\ c.\n", "x.a.org", DNS_MX),
		"x.a.org. 60 MX 1 a\\046b;\\010\\032c.");
	assert_string_equal(
		record_of(SOA "\\120 A 192.0.2.1\n", "X.a.org", DNS_A),
		"X.a.org. 60 A 192.0.2.1");
	assert_string_equal(
		record_of(SOA "\\@ A 192.0.2.1\n", "@.a.org", DNS_A),
		"@.a.org. 60 A 192.0.2.1");
}

static void lines_may_end_with_a_return(void **state)
{
	(void)state;
	assert_string_equal(record_of("$TTL 1\r\na. SOA a. b. 1 2 3 4 5\r\n\r\n"
				      "x.a. A 192.0.2.1\r\n",
				    "x.a", DNS_A),
		"x.a. 1 A 192.0.2.1");
}

static void a_record_twice_counts_once(void **state)
{
	(void)state;
	record_of(SOA "x A 192.0.2.1\nX A 192.0.2.1\ny MX 1 x\ny MX 1 X\n",
		"x.a.org", DNS_A);
	assert_int_equal(get16(&answer, DNS_ANSWER), 1);
	asked("y.a.org", DNS_MX, NO_EDNS);
	assert_int_equal(get16(&answer, DNS_ANSWER), 1);
	assert_int_equal(get16(&answer, DNS_ADDITIONAL), 1);
}

static void the_soa_comes_first_and_once(void **state)
{
	static const char *const cases[][2] = {
		{"@ SOA a b 1 2 3 4 5", "a second SOA"},
		{"@ SOA ns root 1 2 3 4 5", "a second SOA"},
		{"x SOA a b 1 2 3 4 5", "a second SOA"}};

	(void)state;
	EACH_IS_A_FAULT(cases);
	assert_string_equal(record_of("", "a", DNS_A), "1: no SOA");
	assert_string_equal(
		record_of("\n; nothing\n\n", "a", DNS_A), "4: no SOA");
	assert_string_equal(record_of("$TTL 1\na. A 192.0.2.1\n", "a", DNS_A),
		"2: the first record is not the SOA");
}

static void what_is_no_address_is_a_fault(void **state)
{
	static const char *const cases[][2] = {
		{"x A 192.0.2", "not an IPv4 address: 192.0.2"},
		{"x A 192.0.2.256", "not an IPv4 address: 192.0.2.256"},
		{"x A 192.0.2.1.1", "not an IPv4 address: 192.0.2.1.1"},
		{"x A ::1", "not an IPv4 address: ::1"},
		{"x A \"\"", "not an IPv4 address: "},
		{"x AAAA 192.0.2.1", "not an IPv6 address: 192.0.2.1"},
		{"x AAAA 1:2:3:4:5:6:7:8:9",
			"not an IPv6 address: 1:2:3:4:5:6:7:8:9"},
		{"x AAAA 0000:0000:0000:0000:0000:0000:0000:0000:0000:0000",
			"not an IPv6 address: 0000:0000:0000:0000:0000:0000:"
			"0000:0000:0000:0000"},
		{"x A", "no address"},
		{"x A 192.0.2.1 2", "more than the record has: 2"}};

	(void)state;
	EACH_IS_A_FAULT(cases);
}

static void what_is_no_number_is_a_fault(void **state)
{
	static const char *const cases[][2] = {
		{"x MX 65536 y", "too large: 65536"},
		{"x MX -1 y", "not a number: -1"},
		{"x MX 1h y", "not a number: 1h"},
		{"x MX 99999999999999999999 y",
			"too large: 99999999999999999999"},
		{"x MX y", "not a number: y"}, {"x MX 1", "no name"},
		{"x 2147483648 A 192.0.2.1", "too large: 2147483648"},
		{"x 3551w A 192.0.2.1", "too large: 3551w"},
		{"x 1y A 192.0.2.1", "not a time: 1y"},
		{"x 1hh A 192.0.2.1", "not a number: 1hh"}, {"$TTL", "no TTL"},
		{"$TTL x", "not a number: x"},
		{"$TTL 1 2", "one word too many: 2"}};

	(void)state;
	EACH_IS_A_FAULT(cases);
	assert_string_equal(
		record_of("a. 1 SOA a. a. 4294967296 2 3 4 5", "a", DNS_SOA),
		"1: too large: 4294967296");
	assert_string_equal(record_of("a. 1 SOA a. a. 1 2 3 4", "a", DNS_SOA),
		"1: no minimum");
}

static void what_does_not_go_together_is_a_fault(void **state)
{
	static const char *const cases[][2] = {
		{"@ CNAME x", "a CNAME beside other data"},
		{"\tCNAME x", "a CNAME beside other data"},
		{"x.b.org. A 192.0.2.1", "a name outside of the zone"},
		{"org. A 192.0.2.1", "a name outside of the zone"},
		{"xa.org. A 192.0.2.1", "a name outside of the zone"},
		{"*.x NS y", "a wildcard cannot be delegated"}};

	(void)state;
	EACH_IS_A_FAULT(cases);
	assert_string_equal(
		record_of(SOA "x CNAME y\nx A 192.0.2.1\n", "x.a.org", DNS_A),
		"5: a CNAME beside other data");
	assert_string_equal(
		record_of(SOA "x CNAME y\nx CNAME z\n", "x.a.org", DNS_A),
		"5: a second CNAME");
	assert_string_equal(record_of(SOA "x CNAME y\nx 1 A 192.0.2.1\n"
					  "x A 192.0.2.2\n",
				    "x.a.org", DNS_A),
		"5: a CNAME beside other data");
	assert_string_equal(record_of(SOA "x 1 A 192.0.2.1\nx A 192.0.2.2\n",
				    "x.a.org", DNS_A),
		"5: another TTL than the records of this name and type");
}

static void what_is_not_served_is_a_fault(void **state)
{
	static const char *const cases[][2] = {
		{"x SRV 1 2 3 y", "not a type that is served: SRV"},
		{"x TYPE1 \\# 4 7f000001", "not a type that is served: TYPE1"},
		{"x CH A 192.0.2.1", "not a type that is served: CH"},
		{"x IN IN A 192.0.2.1", "not a type that is served: IN"},
		{"x 1 2 A 192.0.2.1", "not a type that is served: 2"},
		{"x \"A\" 192.0.2.1", "not a type that is served: A"},
		{"x \"\" A", "not a type that is served: "},
		{"x IN", "no type"}, {"x", "no type"},
		{"$INCLUDE y", "not a directive that is served: $INCLUDE"},
		{"$ x", "not a directive that is served: $"}};

	(void)state;
	EACH_IS_A_FAULT(cases);
}

static void a_wrong_name_is_a_fault(void **state)
{
	static const char *const cases[][2] = {
		{"x..y A 192.0.2.1", "an empty label: x..y"},
		{".x A 192.0.2.1", "an empty label: .x"},
		{".. A 192.0.2.1", "an empty label: .."},
		{"\"\" A 192.0.2.1", "an empty name: "},
		{"x\\256 A 192.0.2.1",
			"a \\ that is none of \\X, \\DDD: x\\256"},
		{"x\\25 A 192.0.2.1", "a \\ that is none of \\X, \\DDD: x\\25"},
		{"x\\", "a \\ that is none of \\X, \\DDD: x\\"},
		{"x TXT \\9", "a \\ that is none of \\X, \\DDD: \\9"}};

	(void)state;
	EACH_IS_A_FAULT(cases);
	assert_string_equal(record_of("a 1 SOA a. b. 1 2 3 4 5", "a", DNS_A),
		"1: no $ORIGIN for a name without a dot at its end: a");
	assert_string_equal(record_of("@ 1 SOA a. b. 1 2 3 4 5", "a", DNS_A),
		"1: no $ORIGIN for a name without a dot at its end: @");
}

static void names_and_labels_have_limits(void **state)
{
	char text[1024];
	char name[300];

	(void)state;
	snprintf(text, sizeof(text), SOA "%s A 192.0.2.1\n", a63);
	snprintf(name, sizeof(name), "%s.a.org", a63);
	assert_non_null(strstr(record_of(text, name, DNS_A), " A 192.0.2.1"));
	snprintf(text, sizeof(text), SOA "%sa A 192.0.2.1\n", a63);
	assert_memory_equal(record_of(text, name, DNS_A),
		"4: a label of more than 63 bytes: ", 34);
	/* 3 * 64 + 56 + 7: 255 bytes */
	snprintf(
		name, sizeof(name), "%s.%s.%s.%.55s.a.org", a63, a63, a63, a63);
	snprintf(text, sizeof(text), SOA "%s. A 192.0.2.1\n", name);
	assert_non_null(strstr(record_of(text, name, DNS_A), " A 192.0.2.1"));
	snprintf(text, sizeof(text), SOA "%s.%s.%s.%.55s A 192.0.2.1\n", a63,
		a63, a63, a63);
	assert_non_null(strstr(record_of(text, name, DNS_A), " A 192.0.2.1"));
	snprintf(text, sizeof(text), SOA "%s.%s.%s.%.56s A 192.0.2.1\n", a63,
		a63, a63, a63);
	assert_memory_equal(record_of(text, name, DNS_A),
		"4: a name of more than 255 bytes: ", 34);
	snprintf(text, sizeof(text), SOA "x MX 1 %s.%s.%s.%.62s.\n", a63, a63,
		a63, a63);
	assert_memory_equal(record_of(text, name, DNS_A),
		"4: a name of more than 255 bytes: ", 34);
	snprintf(text, sizeof(text), SOA "x MX 1 %s.%s.%s.%.61s.\n", a63, a63,
		a63, a63);
	assert_non_null(strstr(record_of(text, "x.a.org", DNS_MX), " MX 1 "));
}

static void what_is_not_closed_is_a_fault(void **state)
{
	static const char *const cases[][2] = {
		{"x TXT \"a\n", "a \" is not closed"},
		{"x TXT \"a", "a \" is not closed"},
		{"x TXT \"a\\\"", "a \" is not closed"},
		{"x TXT ( \"a\"\n\n\ny A 192.0.2.1", "this ( is not closed"},
		{"x TXT (", "this ( is not closed"},
		{"x TXT )", "a ) without ("}, {"x TXT (a (b))", "a second ("}};

	(void)state;
	EACH_IS_A_FAULT(cases);
}

static void a_string_has_255_bytes_at_most(void **state)
{
	char text[400];

	(void)state;
	snprintf(text, sizeof(text), SOA "x TXT %0255d\n", 0);
	assert_memory_equal(record_of(text, "x.a.org", DNS_TXT),
		"x.a.org. 60 TXT \"000", 20);
	snprintf(text, sizeof(text), SOA "x TXT %0256d\n", 0);
	assert_memory_equal(record_of(text, "x.a.org", DNS_TXT),
		"4: a string of more than 255 bytes: 000", 39);
	assert_memory_equal(
		record_of(SOA "x TXT\n", "x.a.org", DNS_TXT), "4: no text", 10);
}

/* What is told has no control characters, whatever the file has. */
static void a_fault_is_told_in_one_line(void **state)
{
	(void)state;
	assert_string_equal(record_of(SOA "x A \033[31m\n", "x.a.org", DNS_A),
		"4: not an IPv4 address: ?[31m");
}

/* The zone of nr records, each with these texts and two numbers of its own;
 * false: it is wrong. */
static bool open_many(
	const char *before, const char *between, int nr, const char *after)
{
	size_t size = sizeof(SOA) + (size_t)nr * 320;
	char *text = malloc(size);
	size_t used = (size_t)snprintf(text, size, SOA);
	bool good;
	int i;

	for (i = 0; i < nr; i++)
		used += (size_t)snprintf(text + used, size - used,
			"%s%d%s%d%s\n", before, i >> 8, between, i & 255,
			after);
	close_zone();
	good = open_zone(text);
	free(text);
	return good;
}

static void a_set_has_65000_bytes_at_most(void **state)
{
	static struct message query;
	int nr = (DNS_MAX_SET - DNS_FIXED) / (DNS_FIXED + 4);

	(void)state;
	assert_true(open_many("x A 10.0.", ".", nr, ""));
	make_query(&query, "x.a.org", DNS_A, 1232);
	assert_memory_equal(told(&query, false), "NOERROR qr aa tc rd\n", 20);
	assert_memory_equal(told(&query, true), "NOERROR qr aa rd\n", 17);
	assert_int_equal(get16(&answer, DNS_ANSWER), nr);
	assert_false(open_many("x A 10.0.", ".", nr + 2, ""));
	assert_string_equal(
		zone_file.fault, "too many records of this name and type");
	assert_int_equal(zone_file.fault_line, 3 + nr + 2);
}

static void many_names_are_found(void **state)
{
	char name[64];
	int i;

	(void)state;
	assert_true(open_many("x", "-", 20000, " A 192.0.2.1"));
	for (i = 0; i < 20000; i++) {
		snprintf(name, sizeof(name), "x%d-%d.a.org", i >> 8, i & 255);
		assert_memory_equal(asked(name, DNS_A, NO_EDNS), "NOERROR ", 8);
		snprintf(name, sizeof(name), "x%d-%d.a.org", i >> 8, 256 + i);
		assert_memory_equal(asked(name, DNS_A, NO_EDNS), "NXDOMAIN", 8);
	}
}

static void without_memory_it_says_so(void **state)
{
	static const char text[] = SOA "x A 192.0.2.1\ny MX 1 x\n"
				       "x A 192.0.2.2\na.b.c MX 2 y\n";
	bool good = false;
	int i;

	(void)state;
	for (i = 1; !good && i < 100; i++) {
		fail_allocation(i, false);
		good = open_zone(text);
		fail_allocation(0, false);
		if (!good)
			assert_string_equal(zone_file.fault, "no memory");
		close_zone();
	}
	assert_true(good && i > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ZONE_TEST(names_are_relative_or_whole),
		ZONE_TEST(a_blank_owner_is_the_last_one),
		ZONE_TEST(ttl_and_class_come_in_either_order),
		ZONE_TEST(times_have_units),
		ZONE_TEST(without_a_ttl_the_last_one_counts),
		ZONE_TEST(parentheses_join_lines),
		ZONE_TEST(texts_are_quoted_or_not),
		ZONE_TEST(names_have_escapes),
		ZONE_TEST(lines_may_end_with_a_return),
		ZONE_TEST(a_record_twice_counts_once),
		ZONE_TEST(the_soa_comes_first_and_once),
		ZONE_TEST(what_is_no_address_is_a_fault),
		ZONE_TEST(what_is_no_number_is_a_fault),
		ZONE_TEST(what_does_not_go_together_is_a_fault),
		ZONE_TEST(what_is_not_served_is_a_fault),
		ZONE_TEST(a_wrong_name_is_a_fault),
		ZONE_TEST(names_and_labels_have_limits),
		ZONE_TEST(what_is_not_closed_is_a_fault),
		ZONE_TEST(a_string_has_255_bytes_at_most),
		ZONE_TEST(a_fault_is_told_in_one_line),
		ZONE_TEST(a_set_has_65000_bytes_at_most),
		ZONE_TEST(many_names_are_found),
		ZONE_TEST(without_memory_it_says_so),
	};

	return ledger_run("dns_zone", tests);
}
