/*
 * fuzz_addr.c: serialize_addr and deserialize_addr are each other's inverse,
 * take what they need and no byte more, and copy_ip_addr agrees with them.
 *
 * fuzz: -max_len=64
 */
#include "fuzz.h"
#include "../evt-core.h"

#define MOST 28 /* bytes of an address, written */

/* At an odd address, as those of a program may be. */
struct odd {
	char shift;
	char bytes[sizeof(struct sockaddr_in6)];
};

static struct sockaddr *odd_addr(struct odd *odd)
{
	return (struct sockaddr *)(void *)odd->bytes;
}

/* The bare address of what is written at wire. */
static void bare_is_same(struct sockaddr *addr, const char *wire, int len)
{
	static const char mapped[12] = {
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (char)0xff, (char)0xff};
	const char *at = wire + (len == MOST ? 8 : 4);
	int bare = len == MOST ? 16 : 4;
	char got[16];

	if (len == MOST && memcmp(at, mapped, sizeof(mapped)) == 0) {
		at += sizeof(mapped);
		bare = 4;
	}
	REQUIRE(copy_ip_addr(addr, got, bare - 1) == 0);
	REQUIRE(copy_ip_addr(addr, got, sizeof(got)) == bare);
	REQUIRE(memcmp(got, at, (size_t)bare) == 0);
}

/* From bytes to an address and back. */
static void from_wire(const uint8_t *data, size_t size)
{
	char *wire = exact_copy(data, size);
	char again[MOST];
	struct odd addr = {0};
	int len = deserialize_addr(wire, odd_addr(&addr), (int)size);

	REQUIRE(len == 0 || len == 8 || len == MOST);
	REQUIRE(len <= (int)size);
	if (len > 0) {
		REQUIRE(serialize_addr(odd_addr(&addr), again, len) == len);
		REQUIRE(memcmp(again, wire, (size_t)len) == 0);
		REQUIRE(serialize_addr(odd_addr(&addr), again, len - 1) == 0);
		REQUIRE(deserialize_addr(wire, odd_addr(&addr), len - 1) == 0);
		bare_is_same(odd_addr(&addr), wire, len);
	}
	free(wire);
}

static bool is_same(const struct odd *one, const struct odd *other, int len)
{
	struct sockaddr_in in[2];
	struct sockaddr_in6 in6[2];

	memcpy(&in6[0], one->bytes, sizeof(in6[0]));
	memcpy(&in6[1], other->bytes, sizeof(in6[1]));
	memcpy(in, &in6[0], sizeof(in[0]));
	memcpy(in + 1, &in6[1], sizeof(in[1]));
	if (in6[0].sin6_family != in6[1].sin6_family ||
		in6[0].sin6_port != in6[1].sin6_port)
		return false;
	if (len == 8)
		return in[0].sin_addr.s_addr == in[1].sin_addr.s_addr;
	return in6[0].sin6_flowinfo == in6[1].sin6_flowinfo &&
		in6[0].sin6_scope_id == in6[1].sin6_scope_id &&
		memcmp(&in6[0].sin6_addr, &in6[1].sin6_addr, 16) == 0;
}

/* The numbers that a machine keeps in an order of its own are big-endian. */
static void is_big_endian(const struct odd *addr, const char *wire, int len)
{
	const uint8_t *at = (const uint8_t *)wire;
	struct sockaddr_in6 in6;

	REQUIRE(at[0] == 0 && at[1] == (len == MOST ? 10 : 2));
	if (len < MOST)
		return;
	memcpy(&in6, addr->bytes, sizeof(in6));
	REQUIRE(((uint32_t)at[24] << 24 | (uint32_t)at[25] << 16 |
			(uint32_t)at[26] << 8 | at[27]) == in6.sin6_scope_id);
}

/* From an address to bytes and back. */
static void from_address(const uint8_t *data, size_t size)
{
	struct odd addr = {0};
	struct odd again = {0};
	sa_family_t family;
	char wire[MOST];
	int len;

	memcpy(addr.bytes, data,
		size < sizeof(addr.bytes) ? size : sizeof(addr.bytes));
	memcpy(&family, addr.bytes, sizeof(family));
	len = serialize_addr(odd_addr(&addr), wire, sizeof(wire));
	REQUIRE(len == (family == AF_INET ? 8 : family == AF_INET6 ? MOST : 0));
	if (len == 0) {
		REQUIRE(copy_ip_addr(odd_addr(&addr), wire, MOST) == 0);
		return;
	}
	REQUIRE(deserialize_addr(wire, odd_addr(&again), len) == len);
	REQUIRE(is_same(&addr, &again, len));
	is_big_endian(&addr, wire, len);
	bare_is_same(odd_addr(&addr), wire, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char byte = 0;

	from_wire(data, size);
	from_address(data, size);
	REQUIRE(deserialize_addr(NULL, (struct sockaddr *)&data, 28) == 0);
	REQUIRE(serialize_addr(NULL, &byte, 28) == 0);
	REQUIRE(copy_ip_addr(NULL, &byte, 28) == 0);
	return 0;
}
