/*
 * fuzz_dns.c: queries to examples/dns. Each has an answer that is well formed,
 * or none; and what fits into a datagram is what TCP would have said.
 *
 * fuzz: -max_len=600
 */
#include "fuzz.h"
#include "dns_big_zone.h"
#include "dns_rig.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	make_big_zone();
	REQUIRE(open_zone(big_zone));
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct message query;
	unsigned answers;
	unsigned flags;

	query.len = 0;
	add_bytes(&query, data, size);
	REQUIRE(is_sound(&query, true));
	answers = answer.len > 0 ? get16(&answer, DNS_ANSWER) : 0;
	flags = answer.len > 0 ? get16(&answer, 2) : 0;
	REQUIRE(!(flags & DNS_TC));
	REQUIRE(is_sound(&query, false));
	if (answer.len == 0)
		return 0;
	if (!strstr(answer_text.at, "EDNS "))
		REQUIRE(answer.len <= DNS_UDP_PLAIN);
	if (get16(&answer, 2) & DNS_TC)
		return 0;
	REQUIRE(get16(&answer, 2) == flags);
	REQUIRE(get16(&answer, DNS_ANSWER) == answers);
	return 0;
}
