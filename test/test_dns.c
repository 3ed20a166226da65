/*
 * test_dns.c: the example dns: what it answers to which query, byte by byte.
 */
#include "dns_rig.h"

static const char text_of_zone[] =
	"$ORIGIN example.org.\n"
	"$TTL 3600\n"
	"@\tSOA ns root 1 7200 900 1209600 600\n"
	"\tNS ns\n"
	"\tNS ns.example.com.\n"
	"\tMX 10 mail\n"
	"\tMX 20 mail\n"
	"\tMX 30 mail.example.com.\n"
	"ns\tA 192.0.2.1\n"
	"\tAAAA 2001:db8::1\n"
	"mail 300 A 192.0.2.2\n"
	"www\tCNAME web.host\n"
	"web.host A 192.0.2.3\n"
	"out\tCNAME www.example.net.\n"
	"gone\tCNAME nothing\n"
	"empty\tCNAME web.host\n"
	"*.w\tTXT wild\n"
	"\tMX 5 mail\n"
	"there.w\tA 192.0.2.4\n"
	"*.c\tCNAME x.w\n"
	"sub\tNS ns.sub\n"
	"\tNS ns\n"
	"ns.sub\tA 192.0.2.9\n"
	"deep.sub NS other.sub\n"
	"far\tNS ns.example.com.\n"
	"to-sub\tCNAME x.sub\n"
	"one\tCNAME two\n"
	"two\tCNAME three\n"
	"three\tCNAME two\n"
	"self.c\tCNAME self.c\n"
	"two-texts TXT \"a b\" \"\\000\\255\"\n"
	"odd\\.dot\\000 A 192.0.2.5\n"
	"long0\tCNAME long1\nlong1\tCNAME long2\nlong2\tCNAME long3\n"
	"long3\tCNAME long4\nlong4\tCNAME long5\nlong5\tCNAME long6\n"
	"long6\tCNAME long7\nlong7\tCNAME long8\nlong8\tCNAME long9\n"
	"long9\tA 192.0.2.6\n";

#define SOA                                                                    \
	"- example.org. 600 SOA ns.example.org. root.example.org. 1 7200 900 " \
	"1209600 600\n"
#define EDNS "EDNS 1232\n"

static int open_text(void **state)
{
	int result = ledger_open(state);

	if (!open_zone(text_of_zone))
		print_error(
			"line %d: %s\n", zone_file.fault_line, zone_file.fault);
	return result || zone_file.fault_line;
}

static int close_text(void **state)
{
	close_zone();
	return ledger_close(state);
}

#define DNS_TEST(fn)                                        \
	{                                                   \
#fn, fn, open_text, close_text, (void *)#fn \
	}

static void a_record_is_answered(void **state)
{
	static const uint8_t whole[] = {0xab, 0xcd, 0x85, 0, 0, 1, 0, 1, 0, 0,
		0, 0, 4, 'm', 'A', 'i', 'l', 7, 'e', 'x', 'a', 'm', 'p', 'L',
		'e', 3, 'o', 'r', 'g', 0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0,
		0, 1, 44, 0, 4, 192, 0, 2, 2};

	(void)state;
	assert_string_equal(asked("mAil.exampLe.org", DNS_A, NO_EDNS),
		"NOERROR qr aa rd\n"
		"? mAil.exampLe.org. 1\n"
		"= mAil.exampLe.org. 300 A 192.0.2.2\n");
	assert_int_equal(answer.len, sizeof(whole));
	assert_memory_equal(answer.wire, whole, sizeof(whole));
}

static void texts_have_all_bytes(void **state)
{
	(void)state;
	assert_string_equal(asked("two-texts.example.org", DNS_TXT, NO_EDNS),
		"NOERROR qr aa rd\n? two-texts.example.org. 16\n"
		"= two-texts.example.org. 3600 TXT \"a\\032b\" "
		"\"\\000\\255\"\n");
}

static void names_have_all_bytes(void **state)
{
	struct message query;
	unsigned byte;

	(void)state;
	make_query(&query, "odd?dot?.example.org", DNS_A, NO_EDNS);
	query.wire[16] = '.';
	query.wire[20] = '\0';
	assert_non_null(strstr(told(&query, false),
		"= odd\\046dot\\000.example.org. 3600 A 192.0.2.5\n"));
	for (byte = 0; byte < 256; byte++) {
		bool there = strchr("cCwW", (int)byte) && byte > 0;

		make_query(&query, "?.example.org", DNS_A, NO_EDNS);
		query.wire[13] = (uint8_t)byte;
		assert_int_equal(
			memcmp(told(&query, false), "NX", 2) != 0, there);
		assert_int_equal(answer.wire[13], byte);
	}
}

static void addresses_of_servers_come_along_once(void **state)
{
	(void)state;
	assert_string_equal(asked("example.org", DNS_MX, 1232),
		"NOERROR qr aa rd\n? example.org. 15\n"
		"= example.org. 3600 MX 10 mail.example.org.\n"
		"= example.org. 3600 MX 20 mail.example.org.\n"
		"= example.org. 3600 MX 30 mail.example.com.\n"
		"+ mail.example.org. 300 A 192.0.2.2\n" EDNS);
	assert_string_equal(asked("EXAMPLE.org", DNS_NS, NO_EDNS),
		"NOERROR qr aa rd\n? EXAMPLE.org. 2\n"
		"= EXAMPLE.org. 3600 NS ns.EXAMPLE.org.\n"
		"= EXAMPLE.org. 3600 NS ns.example.com.\n"
		"+ ns.EXAMPLE.org. 3600 A 192.0.2.1\n"
		"+ ns.EXAMPLE.org. 3600 AAAA 2001:db8::1\n");
}

static void the_soa_is_a_record_too(void **state)
{
	(void)state;
	assert_string_equal(asked("example.org", DNS_SOA, NO_EDNS),
		"NOERROR qr aa rd\n? example.org. 6\n"
		"= example.org. 3600 SOA ns.example.org. root.example.org. 1 "
		"7200 900 1209600 600\n");
}

static void a_name_that_is_not_there_is_denied(void **state)
{
	(void)state;
	assert_string_equal(asked("no.example.org", DNS_A, 1232),
		"NXDOMAIN qr aa rd\n? no.example.org. 1\n" SOA EDNS);
	assert_string_equal(asked("a.b.c.d.mail.example.org", DNS_A, NO_EDNS),
		"NXDOMAIN qr aa rd\n? a.b.c.d.mail.example.org. 1\n" SOA);
}

static void a_type_that_is_not_there_is_denied(void **state)
{
	(void)state;
	assert_string_equal(asked("mail.example.org", DNS_AAAA, NO_EDNS),
		"NOERROR qr aa rd\n? mail.example.org. 28\n" SOA);
	assert_string_equal(asked("mail.example.org", 65535, NO_EDNS),
		"NOERROR qr aa rd\n? mail.example.org. 65535\n" SOA);
}

static void a_name_with_others_below_it_is_there(void **state)
{
	(void)state;
	assert_string_equal(asked("host.example.org", DNS_A, NO_EDNS),
		"NOERROR qr aa rd\n? host.example.org. 1\n" SOA);
	assert_string_equal(asked("w.example.org", DNS_TXT, NO_EDNS),
		"NOERROR qr aa rd\n? w.example.org. 16\n" SOA);
}

static void an_alias_is_followed_in_the_zone(void **state)
{
	(void)state;
	assert_string_equal(asked("www.example.org", DNS_A, NO_EDNS),
		"NOERROR qr aa rd\n? www.example.org. 1\n"
		"= www.example.org. 3600 CNAME web.host.example.org.\n"
		"= web.host.example.org. 3600 A 192.0.2.3\n");
	assert_string_equal(asked("www.example.org", DNS_CNAME, NO_EDNS),
		"NOERROR qr aa rd\n? www.example.org. 5\n"
		"= www.example.org. 3600 CNAME web.host.example.org.\n");
	assert_string_equal(asked("out.example.org", DNS_A, NO_EDNS),
		"NOERROR qr aa rd\n? out.example.org. 1\n"
		"= out.example.org. 3600 CNAME www.example.net.\n");
	assert_string_equal(asked("gone.example.org", DNS_A, NO_EDNS),
		"NXDOMAIN qr aa rd\n? gone.example.org. 1\n"
		"= gone.example.org. 3600 CNAME nothing.example.org.\n" SOA);
	assert_string_equal(asked("empty.example.org", DNS_AAAA, NO_EDNS),
		"NOERROR qr aa rd\n? empty.example.org. 28\n"
		"= empty.example.org. 3600 CNAME web.host.example.org.\n" SOA);
}

static void aliases_that_go_round_are_told_once(void **state)
{
	(void)state;
	assert_string_equal(asked("one.example.org", DNS_A, NO_EDNS),
		"NOERROR qr aa rd\n? one.example.org. 1\n"
		"= one.example.org. 3600 CNAME two.example.org.\n"
		"= two.example.org. 3600 CNAME three.example.org.\n"
		"= three.example.org. 3600 CNAME two.example.org.\n");
	assert_string_equal(asked("self.c.example.org", DNS_A, NO_EDNS),
		"NOERROR qr aa rd\n? self.c.example.org. 1\n"
		"= self.c.example.org. 3600 CNAME self.c.example.org.\n");
}

static void a_long_chain_of_aliases_is_told_in_part(void **state)
{
	const char *at = asked("long0.example.org", DNS_A, NO_EDNS);
	int links = 0;

	(void)state;
	while ((at = strstr(at, " CNAME "))) {
		at++;
		links++;
	}
	assert_int_equal(links, DNS_MAX_CHAIN + 1);
	assert_null(strstr(answer_text.at, " A "));
}

static void a_wildcard_stands_for_what_is_not_there(void **state)
{
	(void)state;
	assert_string_equal(asked("a.B.w.example.org", DNS_TXT, NO_EDNS),
		"NOERROR qr aa rd\n? a.B.w.example.org. 16\n"
		"= a.B.w.example.org. 3600 TXT \"wild\"\n");
	assert_string_equal(asked("x.w.example.org", DNS_MX, NO_EDNS),
		"NOERROR qr aa rd\n? x.w.example.org. 15\n"
		"= x.w.example.org. 3600 MX 5 mail.example.org.\n"
		"+ mail.example.org. 300 A 192.0.2.2\n");
	assert_string_equal(asked("x.w.example.org", DNS_A, NO_EDNS),
		"NOERROR qr aa rd\n? x.w.example.org. 1\n" SOA);
	assert_string_equal(asked("*.w.example.org", DNS_TXT, NO_EDNS),
		"NOERROR qr aa rd\n? *.w.example.org. 16\n"
		"= *.w.example.org. 3600 TXT \"wild\"\n");
	assert_string_equal(asked("y.c.example.org", DNS_TXT, NO_EDNS),
		"NOERROR qr aa rd\n? y.c.example.org. 16\n"
		"= y.c.example.org. 3600 CNAME x.w.example.org.\n"
		"= x.w.example.org. 3600 TXT \"wild\"\n");
}

static void a_wildcard_does_not_stand_for_what_is_there(void **state)
{
	(void)state;
	assert_string_equal(asked("there.w.example.org", DNS_TXT, NO_EDNS),
		"NOERROR qr aa rd\n? there.w.example.org. 16\n" SOA);
	assert_string_equal(asked("x.there.w.example.org", DNS_TXT, NO_EDNS),
		"NXDOMAIN qr aa rd\n? x.there.w.example.org. 16\n" SOA);
}

#define SUB_SERVERS                                        \
	"- sub.example.org. 3600 NS ns.sub.example.org.\n" \
	"- sub.example.org. 3600 NS ns.example.org.\n"     \
	"+ ns.sub.example.org. 3600 A 192.0.2.9\n"         \
	"+ ns.example.org. 3600 A 192.0.2.1\n"             \
	"+ ns.example.org. 3600 AAAA 2001:db8::1\n"

static void what_is_delegated_is_referred(void **state)
{
	static const char *const names[] = {"sub.example.org",
		"a.b.sub.example.org", "ns.sub.example.org",
		"x.deep.sub.example.org"};
	char expected[512];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(expected, sizeof(expected),
			"NOERROR qr rd\n? %s. 1\n" SUB_SERVERS, names[i]);
		assert_string_equal(asked(names[i], DNS_A, NO_EDNS), expected);
	}
	assert_string_equal(asked("x.far.example.org", DNS_A, NO_EDNS),
		"NOERROR qr rd\n? x.far.example.org. 1\n"
		"- far.example.org. 3600 NS ns.example.com.\n");
	assert_string_equal(asked("to-sub.example.org", DNS_A, NO_EDNS),
		"NOERROR qr aa rd\n? to-sub.example.org. 1\n"
		"= to-sub.example.org. 3600 CNAME x.sub.example.org.\n" SUB_SERVERS);
}

static void who_delegates_answers_for_the_ds(void **state)
{
	(void)state;
	assert_string_equal(asked("sub.example.org", DNS_DS, NO_EDNS),
		"NOERROR qr aa rd\n? sub.example.org. 43\n" SOA);
	assert_memory_equal(asked("x.sub.example.org", DNS_DS, NO_EDNS),
		"NOERROR qr rd\n", 14);
}

static void any_is_answered_with_one_set(void **state)
{
	(void)state;
	assert_string_equal(asked("example.org", DNS_ANY, NO_EDNS),
		"NOERROR qr aa rd\n? example.org. 255\n"
		"= example.org. 3600 SOA ns.example.org. root.example.org. 1 "
		"7200 900 1209600 600\n");
	assert_string_equal(asked("host.example.org", DNS_ANY, NO_EDNS),
		"NOERROR qr aa rd\n? host.example.org. 255\n" SOA);
	assert_string_equal(asked("www.example.org", DNS_ANY, NO_EDNS),
		"NOERROR qr aa rd\n? www.example.org. 255\n"
		"= www.example.org. 3600 CNAME web.host.example.org.\n");
}

static void what_is_not_served_is_refused(void **state)
{
	static const char *const names[] = {"example.com", "org", ".",
		"xexample.org", "example.org.net", "7example.org"};
	char expected[64];
	struct message query;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(expected, sizeof(expected),
			"REFUSED qr rd\n? %s%s 1\n" EDNS, names[i],
			strcmp(names[i], ".") == 0 ? "" : ".");
		assert_string_equal(asked(names[i], DNS_A, 512), expected);
	}
	assert_string_equal(asked("example.org", DNS_AXFR, NO_EDNS),
		"REFUSED qr rd\n? example.org. 252\n");
	assert_string_equal(asked("example.org", DNS_IXFR, NO_EDNS),
		"REFUSED qr rd\n? example.org. 251\n");
	make_query(&query, "example.org", DNS_A, NO_EDNS);
	put16(&query, query.len - 2, 3);
	assert_memory_equal(told(&query, false), "REFUSED qr rd\n", 14);
	put16(&query, query.len - 2, 255);
	assert_memory_equal(told(&query, false), "REFUSED qr rd\n", 14);
}

/* The flags of the query, and the number of its questions. */
static const char *told_with(unsigned flags, unsigned questions)
{
	static struct message query;

	make_query(&query, "mail.example.org", DNS_A, NO_EDNS);
	put16(&query, 2, flags);
	put16(&query, 4, questions);
	return told(&query, false);
}

static void other_opcodes_are_not_implemented(void **state)
{
	struct message query;
	unsigned opcode;

	(void)state;
	for (opcode = 1; opcode < 16; opcode++) {
		assert_memory_equal(told_with(opcode << 11 | 0x0100, 1),
			"NOTIMP qr rd\n", 13);
		assert_int_equal(get16(&answer, 0), 0xabcd);
		assert_int_equal(get16(&answer, 2) >> 11 & 15, opcode);
		/* RFC 6891: with an OPT record, if the query had one. */
		assert_int_equal(get16(&answer, 10), 0);
		make_query(&query, "mail.example.org", DNS_A, 1232);
		put16(&query, 2, opcode << 11);
		assert_memory_equal(told(&query, false), "NOTIMP qr\n", 10);
		assert_int_equal(get16(&answer, 10), 1);
	}
}

static void one_question_is_taken(void **state)
{
	(void)state;
	assert_memory_equal(told_with(0, 1), "NOERROR qr aa\n", 14);
	assert_string_equal(told_with(0, 0), "FORMERR qr\n");
	assert_string_equal(told_with(0, 2), "FORMERR qr\n");
	assert_string_equal(told_with(0x0100, 65535), "FORMERR qr rd\n");
}

static void flags_that_are_not_asked_for_are_not_given(void **state)
{
	(void)state;
	assert_memory_equal(told_with(0x07ff, 1), "NOERROR qr aa rd\n", 17);
	assert_memory_equal(told_with(0x0080, 1), "NOERROR qr aa\n", 14);
}

static void what_is_no_query_has_no_answer(void **state)
{
	struct message query;
	size_t len;

	(void)state;
	assert_string_equal(told_with(0x8000, 1), "");
	assert_string_equal(told_with(0x8180, 1), "");
	make_query(&query, "mail.example.org", DNS_A, NO_EDNS);
	for (len = 0; len < 12; len++)
		assert_int_equal(answer_to(query.wire, len, false), 0);
}

static void a_query_that_is_cut_is_a_format_error(void **state)
{
	struct message query;
	size_t whole;

	(void)state;
	make_query(&query, "mail.example.org", DNS_A, 1232);
	whole = query.len;
	for (query.len = 12; query.len < whole; query.len++) {
		assert_memory_equal(told(&query, false), "FORMERR qr rd\n", 14);
		assert_int_equal(get16(&answer, 0), 0xabcd);
	}
	assert_memory_equal(told(&query, false), "NOERROR qr aa rd\n", 17);
	query.wire[query.len++] = 0;
	assert_memory_equal(told(&query, false), "FORMERR qr rd\n", 14);
}

static void a_question_without_plain_labels_is_a_format_error(void **state)
{
	static const uint8_t first[] = {0xc0, 0x80, 0x40, 0xff, 64};
	struct message query;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(first); i++) {
		make_query(&query, "mail.example.org", DNS_A, NO_EDNS);
		query.wire[12] = first[i];
		assert_string_equal(told(&query, false), "FORMERR qr rd\n");
	}
	make_query(&query, "mail.example.org", DNS_A, NO_EDNS);
	query.wire[17] = 0xc0; /* to itself, and to what comes */
	query.wire[18] = 17;
	assert_string_equal(told(&query, false), "FORMERR qr rd\n");
	query.wire[18] = 30;
	assert_string_equal(told(&query, false), "FORMERR qr rd\n");
}

/* A query whose name has so many bytes, in the zone, of labels that are as long
 * or as short as can be. */
static void make_long_query(struct message *query, size_t bytes, size_t label)
{
	char name[512] = "";
	size_t used = 0;
	size_t rest = bytes - 13; /* example.org. */
	size_t len;

	while (rest > 0) {
		len = rest > label + 1 ? label : rest - 1;
		if (rest - len - 1 == 1) /* no room for a label of one */
			len--;
		memset(name + used, 'a', len);
		used += len;
		name[used++] = '.';
		rest -= len + 1;
	}
	snprintf(name + used, sizeof(name) - used, "example.org");
	make_query(query, name, DNS_A, 1232);
}

static void names_have_255_bytes_at_most(void **state)
{
	struct message query;

	(void)state;
	make_long_query(&query, 255, 63);
	assert_int_equal(query.len, 12 + 255 + 4 + 11);
	assert_memory_equal(told(&query, false), "NXDOMAIN qr aa rd\n", 18);
	assert_non_null(strstr(answer_text.at, SOA));
	make_long_query(&query, 255, 1);
	assert_memory_equal(told(&query, false), "NXDOMAIN qr aa rd\n", 18);
	make_long_query(&query, 256, 63);
	assert_int_equal(query.len, 12 + 256 + 4 + 11);
	assert_string_equal(told(&query, false), "FORMERR qr rd\n");
}

/* EDNS */

static void edns_is_answered_with_edns(void **state)
{
	struct message query;

	(void)state;
	assert_non_null(strstr(asked("mail.example.org", DNS_A, 0), EDNS));
	assert_null(strstr(asked("mail.example.org", DNS_A, NO_EDNS), "EDNS"));
	make_query(&query, "mail.example.org", DNS_A, NO_EDNS);
	add_opt(&query, 4096, 1);
	assert_string_equal(told(&query, false),
		"NOERROR qr rd\n? mail.example.org. 1\nEDNS 1232 BADVERS\n");
	make_query(&query, "mail.example.org", DNS_A, NO_EDNS);
	add_opt(&query, 4096, 255);
	assert_non_null(strstr(told(&query, false), "BADVERS"));
	make_query(&query, "mail.example.org", DNS_A, 512);
	put16(&query, query.len - 4, 0x8000); /* DO: we do no DNSSEC */
	assert_non_null(strstr(told(&query, false), EDNS));
}

static void options_of_edns_are_passed_over(void **state)
{
	struct message query;

	(void)state;
	make_query(&query, "mail.example.org", DNS_A, 512);
	put16(&query, query.len - 2, 12);
	add16(&query, 10);
	add16(&query, 8);
	add_bytes(&query, "cookie!!", 8);
	assert_memory_equal(told(&query, false), "NOERROR qr aa rd\n", 17);
	assert_non_null(strstr(answer_text.at, EDNS));
	query.len--;
	assert_memory_equal(told(&query, false), "FORMERR qr rd\n", 14);
}

static void edns_twice_or_misplaced_is_a_format_error(void **state)
{
	struct message query;

	(void)state;
	make_query(&query, "mail.example.org", DNS_A, 512);
	add_opt(&query, 512, 0);
	assert_string_equal(told(&query, false),
		"FORMERR qr rd\n? mail.example.org. 1\n" EDNS);
	make_query(&query, "mail.example.org", DNS_A, 512);
	put16(&query, 10, 0);
	put16(&query, 6, 1); /* among the answers */
	assert_memory_equal(told(&query, false), "FORMERR qr rd\n", 14);
	make_query(&query, "mail.example.org", DNS_A, NO_EDNS);
	add_name(&query, "a"); /* of a name that is not the root's */
	add_opt(&query, 512, 0);
	memmove(query.wire + query.len - 11, query.wire + query.len - 10, 10);
	query.len--;
	assert_memory_equal(told(&query, false), "FORMERR qr rd\n", 14);
}

static void other_records_of_a_query_are_passed_over(void **state)
{
	struct message query;
	size_t name;

	(void)state;
	make_query(&query, "mail.example.org", DNS_A, 512);
	put16(&query, 10, 2);
	name = query.len;
	add16(&query, 0xc00c); /* a pointer to the question's name */
	add16(&query, 250);
	add16(&query, 255);
	add16(&query, 0);
	add16(&query, 0);
	add16(&query, 3);
	add_bytes(&query, "abc", 3);
	assert_memory_equal(told(&query, false), "NOERROR qr aa rd\n", 17);
	put16(&query, name, 0xc000 | (unsigned)name); /* it is not followed */
	assert_memory_equal(told(&query, false), "NOERROR qr aa rd\n", 17);
	put16(&query, name, 0x8000);
	assert_memory_equal(told(&query, false), "FORMERR qr rd\n", 14);
	put16(&query, name, 0xc00c);
	put16(&query, 10, 65535);
	assert_memory_equal(told(&query, false), "FORMERR qr rd\n", 14);
}

static void any_apex_may_be_served(void **state)
{
	(void)state;
	close_zone();
	assert_true(open_zone(". 60 SOA a. b. 1 2 3 4 5\norg. NS a.org.\n"
			      "a.org. A 192.0.2.1\n* TXT w\n") == false);
	close_zone();
	assert_true(open_zone("$ORIGIN .\n. 60 SOA a b 1 2 3 4 5\n"
			      "org. NS a.org.\na.org. A 192.0.2.1\n* TXT w\n"));
	assert_string_equal(asked("x.org", DNS_A, NO_EDNS),
		"NOERROR qr rd\n? x.org. 1\n- org. 60 NS a.org.\n"
		"+ a.org. 60 A 192.0.2.1\n");
	assert_non_null(strstr(
		asked(".", DNS_SOA, 512), "= . 60 SOA a. b. 1 2 3 4 5\n"));
	assert_non_null(
		strstr(asked("com", DNS_TXT, 512), "= com. 60 TXT \"w\"\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DNS_TEST(a_record_is_answered),
		DNS_TEST(texts_have_all_bytes),
		DNS_TEST(names_have_all_bytes),
		DNS_TEST(addresses_of_servers_come_along_once),
		DNS_TEST(the_soa_is_a_record_too),
		DNS_TEST(a_name_that_is_not_there_is_denied),
		DNS_TEST(a_type_that_is_not_there_is_denied),
		DNS_TEST(a_name_with_others_below_it_is_there),
		DNS_TEST(an_alias_is_followed_in_the_zone),
		DNS_TEST(aliases_that_go_round_are_told_once),
		DNS_TEST(a_long_chain_of_aliases_is_told_in_part),
		DNS_TEST(a_wildcard_stands_for_what_is_not_there),
		DNS_TEST(a_wildcard_does_not_stand_for_what_is_there),
		DNS_TEST(what_is_delegated_is_referred),
		DNS_TEST(who_delegates_answers_for_the_ds),
		DNS_TEST(any_is_answered_with_one_set),
		DNS_TEST(what_is_not_served_is_refused),
		DNS_TEST(other_opcodes_are_not_implemented),
		DNS_TEST(one_question_is_taken),
		DNS_TEST(flags_that_are_not_asked_for_are_not_given),
		DNS_TEST(what_is_no_query_has_no_answer),
		DNS_TEST(a_query_that_is_cut_is_a_format_error),
		DNS_TEST(a_question_without_plain_labels_is_a_format_error),
		DNS_TEST(names_have_255_bytes_at_most),
		DNS_TEST(edns_is_answered_with_edns),
		DNS_TEST(options_of_edns_are_passed_over),
		DNS_TEST(edns_twice_or_misplaced_is_a_format_error),
		DNS_TEST(other_records_of_a_query_are_passed_over),
		DNS_TEST(any_apex_may_be_served),
	};

	return ledger_run("dns", tests);
}
