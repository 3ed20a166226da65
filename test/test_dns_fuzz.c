/*
 * test_dns_fuzz.c: the example dns: answers that do not fit, at each size; and
 * what its parsers make of garbage.
 */
#include "dns_big_zone.h"
#include "dns_rig.h"

#define INPUTS 200000 /* queries */
#define ZONES  20000

static int open_big(void **state)
{
	int result = ledger_open(state);

	make_big_zone();
	if (!open_zone(big_zone))
		print_error(
			"line %d: %s\n", zone_file.fault_line, zone_file.fault);
	return result || zone_file.fault_line;
}

static int close_big(void **state)
{
	close_zone();
	return ledger_close(state);
}

#define DNS_TEST(fn)                                      \
	{                                                 \
#fn, fn, open_big, close_big, (void *)#fn \
	}

static bool is_truncated(void)
{
	return get16(&answer, 2) & DNS_TC;
}

/* How large the answer may be to who says he takes size. */
static size_t limit_of(int size)
{
	return size > 1232 ? 1232 : size < 512 ? 512 : (size_t)size;
}

/* Asks for a name of this kind and number: the length of the answer by TCP,
 * which has all, and what comes by UDP is well formed and not too long. */
static size_t ask_both(char kind, int nr, unsigned type, int size)
{
	static struct message query;
	char name[32];
	size_t whole;

	snprintf(name, sizeof(name), "%c%d.example.org", kind, nr);
	make_query(&query, name, type, size);
	whole = answer_to(query.wire, query.len, true);
	assert_true(tell_message(&answer_text, &answer));
	assert_false(is_truncated());
	assert_string_not_equal(told(&query, false), "not well formed");
	assert_in_range(answer.len, 12, limit_of(size));
	return whole;
}

static void addresses_that_do_not_fit_are_left_to_tcp(void **state)
{
	size_t whole;
	int size;
	int nr;

	(void)state;
	for (nr = 1; nr < 100; nr += 1 + slowness() / 2)
		for (size = NO_EDNS; size < 1300; size += 7) {
			whole = ask_both('a', nr, DNS_A, size);
			assert_int_equal(
				is_truncated(), whole > limit_of(size));
			assert_int_equal(get16(&answer, DNS_ANSWER),
				is_truncated() ? 0 : nr);
			if (!is_truncated())
				assert_int_equal(answer.len, whole);
		}
}

/* One answer, each limit from 512 to 1,232. */
static void each_size_is_kept_to(void **state)
{
	size_t whole;
	int size;

	(void)state;
	for (size = 500; size < 1250; size++) {
		whole = ask_both('a', 50, DNS_A, size);
		assert_int_equal(is_truncated(), whole > limit_of(size));
	}
}

static void additional_addresses_may_be_left_out(void **state)
{
	int size;
	int nr;

	(void)state;
	for (nr = 1; nr <= 30; nr += 1 + slowness() / 2)
		for (size = NO_EDNS; size < 1300; size += 13) {
			size_t whole = ask_both('m', nr, DNS_MX, size);

			if (is_truncated())
				continue;
			assert_int_equal(get16(&answer, DNS_ANSWER), nr);
			if (whole <= limit_of(size))
				assert_int_equal(answer.len, whole);
		}
	ask_both('m', 20, DNS_MX, 1232);
	assert_false(is_truncated());
	assert_int_equal(get16(&answer, DNS_ADDITIONAL), 20 + 1);
	ask_both('m', 15, DNS_MX, 512);
	assert_false(is_truncated());
	assert_in_range(get16(&answer, DNS_ADDITIONAL), 2, 14);
}

static void a_referral_without_its_addresses_is_left_to_tcp(void **state)
{
	size_t whole;
	int size;
	int nr;

	(void)state;
	for (nr = 1; nr <= 40; nr += 1 + slowness() / 2)
		for (size = NO_EDNS; size < 1300; size += 13) {
			whole = ask_both('d', nr, DNS_A, size);
			assert_int_equal(
				is_truncated(), whole > limit_of(size));
		}
}

/* Garbage. The numbers are the same in each run. */

static uint64_t chance = 1;

static unsigned chosen(unsigned below)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return (unsigned)(chance >> 33) % below;
}

static void make_seed(struct message *query)
{
	static const char *const names[] = {"example.org", "www.example.org",
		"mail.example.org", "no.example.org", "a.b.w.example.org",
		"x.sub.example.org", "loop.example.org", "out.example.org",
		"gone.example.org", "host.example.org", "a99.example.org",
		"m40.example.org", "x.d40.example.org", "example.com", "."};
	static const unsigned types[] = {DNS_A, DNS_NS, DNS_CNAME, DNS_SOA,
		DNS_MX, DNS_TXT, DNS_AAAA, DNS_DS, DNS_ANY, DNS_AXFR};
	static const int sizes[] = {NO_EDNS, 0, 512, 1232, 4096};

	make_query(query, names[chosen(sizeof(names) / sizeof(names[0]))],
		types[chosen(sizeof(types) / sizeof(types[0]))],
		sizes[chosen(sizeof(sizes) / sizeof(sizes[0]))]);
}

/* One change, of a kind that finds the ends of things. */
static void mutate(uint8_t *bytes, size_t *len, size_t room)
{
	static const uint8_t odd[] = {0, 1, 12, 41, 63, 64, 127, 128, 192, 255};
	size_t at = chosen((unsigned)*len + 1);
	size_t rest = *len - at;

	switch (chosen(6)) {
	case 0: /* flip a bit */
		if (rest > 0)
			bytes[at] ^= (uint8_t)(1U << chosen(8));
		break;
	case 1: /* an odd byte */
		if (rest > 0)
			bytes[at] = odd[chosen(sizeof(odd))];
		break;
	case 2: /* any byte */
		if (rest > 0)
			bytes[at] = (uint8_t)chosen(256);
		break;
	case 3: /* cut */
		*len = at;
		break;
	case 4: /* leave a byte out */
		if (rest > 0) {
			memmove(bytes + at, bytes + at + 1, rest - 1);
			--*len;
		}
		break;
	default: /* say the end again */
		if (rest > 0 && *len + rest <= room) {
			memcpy(bytes + *len, bytes + at, rest);
			*len += rest;
		}
		break;
	}
}

static void garbage_has_a_sound_answer_or_none(void **state)
{
	static struct message query;
	int inputs = INPUTS / (under("valgrind") ? 40 : 1);
	int answered = 0;
	int i;

	(void)state;
	for (i = 0; i < inputs; i++) {
		int changes = (int)chosen(6);

		make_seed(&query);
		while (changes-- > 0)
			mutate(query.wire, &query.len, 4096);
		if (!is_sound(&query, i & 1)) {
			print_error("input %d: %s\n", i, answer_text.at);
			fail();
		}
		answered += answer_text.at[0] == 'N';
	}
	assert_in_range(answered, inputs / 10, inputs);
}

static void a_garbled_zone_is_served_or_refused(void **state)
{
	static uint8_t text[8192];
	int inputs = ZONES / (under("valgrind") ? 40 : slowness());
	int served = 0;
	int i;

	(void)state;
	for (i = 0; i < inputs; i++) {
		size_t len = sizeof(text_of_zone) - 1;
		int changes = 1 + (int)chosen(4);
		static struct message query;
		char *exact;

		memcpy(text, text_of_zone, len);
		while (changes-- > 0)
			mutate(text, &len, sizeof(text));
		exact = malloc(len + !len);
		memcpy(exact, text, len);
		close_zone();
		if (dns_file_parse(&zone_file, &zone, exact, len)) {
			make_seed(&query);
			assert_true(is_sound(&query, i & 1));
			served++;
		} else {
			assert_in_range(zone_file.fault_line, 1, 1000);
			assert_true(zone_file.fault[0] != '\0');
		}
		free(exact);
	}
	assert_in_range(served, 1, inputs - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DNS_TEST(addresses_that_do_not_fit_are_left_to_tcp),
		DNS_TEST(each_size_is_kept_to),
		DNS_TEST(additional_addresses_may_be_left_out),
		DNS_TEST(a_referral_without_its_addresses_is_left_to_tcp),
		DNS_TEST(garbage_has_a_sound_answer_or_none),
		DNS_TEST(a_garbled_zone_is_served_or_refused),
	};

	return ledger_run("dns_fuzz", tests);
}
