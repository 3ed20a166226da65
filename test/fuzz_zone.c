/*
 * fuzz_zone.c: the zone files of examples/dns. What is taken answers, and does
 * so again as the same file with a comment before it; what is not is told with
 * its line, which is then as many lines further down.
 *
 * fuzz: -max_len=2000
 */
#include "fuzz.h"
#include "dns_rig.h"

#define COMMENT "; a comment ( \"\n\n"
#define LINES   2

/* What one reading of the file has led to. */
struct reading {
	bool is_taken;
	size_t nr_nodes;
	int line;
	char fault[sizeof(zone_file.fault)];
	struct message answers;
};

/* What the zone says of its own name and of one below, to whatever is asked. */
static void ask(struct message *answers)
{
	static const unsigned types[] = {DNS_ANY, DNS_MX, DNS_NS, DNS_A};
	static struct message query;
	size_t i;

	answers->len = 0;
	for (i = 0; i < 2 * sizeof(types) / sizeof(types[0]); i++) {
		make_query(&query, ".", types[i / 2], 1232);
		query.len = DNS_QUESTION;
		if (i % 2 && zone.apex->len < 240)
			add_bytes(&query, "\5alias", 6);
		add_bytes(&query, zone.apex->wire, zone.apex->len);
		add16(&query, types[i / 2]);
		add16(&query, DNS_IN);
		put16(&query, DNS_ADDITIONAL, 0);
		REQUIRE(is_sound(&query, i % 3 == 0));
		REQUIRE(answer.len > 0);
		add_bytes(answers, answer.wire, answer.len % 2048);
	}
}

static void look_at_fault(void)
{
	const char *at;

	REQUIRE(zone_file.fault_line >= 1);
	REQUIRE(zone_file.fault[0] != '\0');
	for (at = zone_file.fault; *at; at++)
		REQUIRE((unsigned char)*at >= ' ' && *at != 0x7f);
}

static void read_zone(struct reading *reading, const char *text, size_t len)
{
	char *copy = exact_copy(text, len);

	reading->is_taken = dns_file_parse(&zone_file, &zone, copy, len);
	reading->nr_nodes = zone.nr_nodes;
	reading->line = zone_file.fault_line;
	memcpy(reading->fault, zone_file.fault, sizeof(reading->fault));
	reading->answers.len = 0;
	if (reading->is_taken)
		ask(&reading->answers);
	else
		look_at_fault();
	free(copy);
	close_zone();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct reading one;
	static struct reading other;
	size_t len = sizeof(COMMENT) - 1;
	char *text = malloc(len + size);

	REQUIRE(text);
	memcpy(text, COMMENT, len);
	memcpy(text + len, data, size);
	read_zone(&one, text + len, size);
	read_zone(&other, text, len + size);
	free(text);
	REQUIRE(one.is_taken == other.is_taken);
	REQUIRE(one.nr_nodes == other.nr_nodes);
	REQUIRE(strcmp(one.fault, other.fault) == 0);
	REQUIRE(one.is_taken || other.line == one.line + LINES);
	REQUIRE(one.answers.len == other.answers.len);
	REQUIRE(memcmp(one.answers.wire, other.answers.wire, one.answers.len) ==
		0);
	return 0;
}
