/*
 * test_core.c: the helpers of evt-core.h: the form in which addresses travel,
 * what is printed, and what is refused.
 */
/* wrap: socket */
#include "addresses.h"
#include "../evt-core.h"

/* A machine without IPv6. */

static bool no_ipv6;

int __real_socket(int family, int type, int protocol);

int __wrap_socket(int family, int type, int protocol)
{
	if (no_ipv6 && family == AF_INET6) {
		errno = EAFNOSUPPORT;
		return -1;
	}
	return __real_socket(family, type, protocol);
}

#define IPV4_LEN 8
#define IPV6_LEN 28

/* 192.0.2.7, port 0x1234 */
static const char golden_ipv4[IPV4_LEN] = {
	0, 2, 0x12, 0x34, (char)192, 0, 2, 7};

/* fe80::1:2:3:4, port 0xfffe, flow 0x01020304, scope 0x0a0b0c0d */
static const char golden_ipv6[IPV6_LEN] = {0, 10, (char)0xff, (char)0xfe, 1, 2,
	3, 4, (char)0xfe, (char)0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3, 0, 4,
	0x0a, 0x0b, 0x0c, 0x0d};

static struct sockaddr_in address_ipv4(void)
{
	return ipv4("192.0.2.7", 0x1234);
}

static struct sockaddr_in6 address_ipv6(void)
{
	struct sockaddr_in6 in6 = ipv6("fe80::1:2:3:4", 0xfffe);

	in6.sin6_flowinfo = htonl(0x01020304);
	in6.sin6_scope_id = 0x0a0b0c0d;
	return in6;
}

static bool untouched(const char *bytes, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (bytes[i] != '#')
			return false;
	return true;
}

/* Serializing */

/* L01 */
static void an_ipv4_address_has_these_eight_bytes(void **state)
{
	struct sockaddr_in in = address_ipv4();
	char bytes[IPV4_LEN];

	(void)state;
	assert_int_equal(
		serialize_addr((struct sockaddr *)&in, bytes, IPV4_LEN),
		IPV4_LEN);
	assert_memory_equal(bytes, golden_ipv4, IPV4_LEN);
}

/* L01 */
static void an_ipv6_address_has_these_28_bytes(void **state)
{
	struct sockaddr_in6 in6 = address_ipv6();
	char bytes[IPV6_LEN];

	(void)state;
	assert_int_equal(
		serialize_addr((struct sockaddr *)&in6, bytes, IPV6_LEN),
		IPV6_LEN);
	assert_memory_equal(bytes, golden_ipv6, IPV6_LEN);
}

/* L01 */
static void the_bytes_give_the_address_back(void **state)
{
	struct sockaddr_in in = address_ipv4();
	struct sockaddr_in6 in6 = address_ipv6();
	struct sockaddr_in6 got;
	char bytes[IPV6_LEN];

	(void)state;
	memcpy(bytes, golden_ipv4, IPV4_LEN);
	assert_int_equal(
		deserialize_addr(bytes, (struct sockaddr *)&got, IPV4_LEN),
		IPV4_LEN);
	assert_memory_equal(&got, &in, sizeof(in));
	memcpy(bytes, golden_ipv6, IPV6_LEN);
	assert_int_equal(
		deserialize_addr(bytes, (struct sockaddr *)&got, IPV6_LEN),
		IPV6_LEN);
	assert_memory_equal(&got, &in6, sizeof(in6));
}

/* L01 */
static void a_buffer_too_small_is_left_alone(void **state)
{
	struct sockaddr_in in = address_ipv4();
	struct sockaddr_in6 in6 = address_ipv6();
	char bytes[64];
	int size;

	(void)state;
	memset(bytes, '#', sizeof(bytes));
	for (size = -1; size < IPV4_LEN; size++)
		assert_int_equal(
			serialize_addr((struct sockaddr *)&in, bytes, size), 0);
	for (size = -1; size < IPV6_LEN; size++)
		assert_int_equal(
			serialize_addr((struct sockaddr *)&in6, bytes, size),
			0);
	assert_int_equal(
		serialize_addr((struct sockaddr *)&in, bytes, INT_MIN), 0);
	assert_true(untouched(bytes, sizeof(bytes)));
	assert_null(log_line(0));
}

/* L01 */
static void no_more_than_the_address_is_written(void **state)
{
	struct sockaddr_in in = address_ipv4();
	struct sockaddr_in6 in6 = address_ipv6();
	char bytes[64];

	(void)state;
	memset(bytes, '#', sizeof(bytes));
	assert_int_equal(serialize_addr((struct sockaddr *)&in, bytes, INT_MAX),
		IPV4_LEN);
	assert_true(untouched(bytes + IPV4_LEN, sizeof(bytes) - IPV4_LEN));
	assert_int_equal(
		serialize_addr((struct sockaddr *)&in6, bytes, sizeof(bytes)),
		IPV6_LEN);
	assert_true(untouched(bytes + IPV6_LEN, sizeof(bytes) - IPV6_LEN));
}

/* L01 */
static void too_few_bytes_give_no_address(void **state)
{
	char bytes[IPV6_LEN];
	char dest[sizeof(struct sockaddr_in6)];
	int size;

	(void)state;
	memset(dest, '#', sizeof(dest));
	memcpy(bytes, golden_ipv4, IPV4_LEN);
	for (size = -1; size < IPV4_LEN; size++)
		assert_int_equal(
			deserialize_addr(bytes, (struct sockaddr *)dest, size),
			0);
	memcpy(bytes, golden_ipv6, IPV6_LEN);
	for (size = -1; size < IPV6_LEN; size++)
		assert_int_equal(
			deserialize_addr(bytes, (struct sockaddr *)dest, size),
			0);
	assert_true(untouched(dest, sizeof(dest)));
	assert_null(log_line(0));
}

/* L01 */
static void no_byte_beyond_the_size_is_read(void **state)
{
	char *bytes = malloc(2); /* the sanitizers see its end */
	char dest[sizeof(struct sockaddr_in6)];
	int size;

	(void)state;
	memset(dest, '#', sizeof(dest));
	memcpy(bytes, golden_ipv6, 2);
	for (size = 0; size <= 2; size++)
		assert_int_equal(
			deserialize_addr(bytes, (struct sockaddr *)dest, size),
			0);
	free(bytes);
	assert_true(untouched(dest, sizeof(dest)));
}

/* L01 */
static void other_families_have_no_such_form(void **state)
{
	static const sa_family_t families[] = {
		AF_UNSPEC, AF_UNIX, AF_PACKET, 255, 65535};
	struct sockaddr_storage src = {0};
	char bytes[64];
	size_t i;

	(void)state;
	memset(bytes, '#', sizeof(bytes));
	for (i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		src.ss_family = families[i];
		assert_int_equal(serialize_addr((struct sockaddr *)&src, bytes,
					 sizeof(bytes)),
			0);
		assert_int_equal(copy_ip_addr((struct sockaddr *)&src, bytes,
					 sizeof(bytes)),
			0);
	}
	assert_true(untouched(bytes, sizeof(bytes)));
	assert_null(log_line(0));
}

/* L01: all 65,536 families but two. */
static void bytes_of_another_family_give_no_address(void **state)
{
	char dest[sizeof(struct sockaddr_in6)];
	char bytes[64] = {0};
	int family;

	(void)state;
	memset(dest, '#', sizeof(dest));
	for (family = 0; family < 65536; family++) {
		bytes[0] = (char)(family >> 8);
		bytes[1] = (char)(family & 255);
		if (family == 2 || family == 10)
			continue;
		assert_int_equal(
			deserialize_addr(
				bytes, (struct sockaddr *)dest, sizeof(bytes)),
			0);
	}
	assert_true(untouched(dest, sizeof(dest)));
}

/* L01 */
static void nothing_needs_to_be_aligned(void **state)
{
	struct sockaddr_in6 in6 = address_ipv6();
	char from[sizeof(in6) + 8];
	char bytes[IPV6_LEN + 8];
	char to[sizeof(in6) + 8];
	char ip[16 + 8];
	int i;

	(void)state;
	for (i = 0; i < 8; i++) {
		struct sockaddr *src = (struct sockaddr *)(from + i);
		struct sockaddr *dest = (struct sockaddr *)(to + (i ^ 5));

		memcpy(src, &in6, sizeof(in6));
		assert_int_equal(
			serialize_addr(src, bytes + 7 - i, IPV6_LEN), IPV6_LEN);
		assert_memory_equal(bytes + 7 - i, golden_ipv6, IPV6_LEN);
		assert_int_equal(
			deserialize_addr(bytes + 7 - i, dest, IPV6_LEN),
			IPV6_LEN);
		assert_memory_equal(dest, &in6, sizeof(in6));
		assert_int_equal(copy_ip_addr(src, ip + i, 16), 16);
		assert_memory_equal(ip + i, &in6.sin6_addr, 16);
	}
}

static unsigned seed = 2010;

static unsigned char random_byte(void)
{
	seed = seed * 1664525u + 1013904223u;
	return (unsigned char)(seed >> 24);
}

/* L01 */
static void random_addresses_come_back_as_they_were(void **state)
{
	struct sockaddr_in6 from;
	struct sockaddr_in6 to;
	char bytes[IPV6_LEN];
	unsigned char *byte = (unsigned char *)&from;
	size_t k;
	int i;

	(void)state;
	for (i = 0; i < 20000; i++) {
		int len = i % 2 ? IPV6_LEN : IPV4_LEN;

		for (k = 0; k < sizeof(from); k++)
			byte[k] = random_byte();
		from.sin6_family = i % 2 ? AF_INET6 : AF_INET;
		if (i % 2 == 0)
			memset(((struct sockaddr_in *)&from)->sin_zero, 0, 8);
		assert_int_equal(
			serialize_addr((struct sockaddr *)&from, bytes, len),
			len);
		assert_int_equal(
			deserialize_addr(bytes, (struct sockaddr *)&to, len),
			len);
		assert_memory_equal(&from, &to,
			i % 2 ? sizeof(struct sockaddr_in6)
			      : sizeof(struct sockaddr_in));
	}
}

/* L01 */
static void random_bytes_give_an_address_that_gives_the_bytes(void **state)
{
	struct sockaddr_in6 addr;
	char bytes[IPV6_LEN];
	char again[IPV6_LEN];
	int used = 0;
	int i;
	int k;

	(void)state;
	for (i = 0; i < 20000; i++) {
		int size = random_byte() % (IPV6_LEN + 1);
		int len;

		for (k = 0; k < size; k++)
			bytes[k] = (char)random_byte();
		bytes[0] = 0;
		bytes[1] = i % 2 ? 10 : 2;
		len = deserialize_addr(bytes, (struct sockaddr *)&addr, size);
		if (len == 0)
			continue;
		used++;
		assert_int_equal(
			serialize_addr((struct sockaddr *)&addr, again, len),
			len);
		assert_memory_equal(again, bytes, (size_t)len);
	}
	assert_true(used > 1000);
}

/* L01 */
static void an_address_that_does_not_fit_is_not_written(void **state)
{
	char bytes[IPV6_LEN];
	char dest[sizeof(struct sockaddr_in6)];

	(void)state;
	no_ipv6 = true;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	no_ipv6 = false;
	assert_int_equal(get_sockaddr_size(), sizeof(struct sockaddr_in));
	memset(dest, '#', sizeof(dest));
	memcpy(bytes, golden_ipv6, IPV6_LEN);
	assert_int_equal(
		deserialize_addr(bytes, (struct sockaddr *)dest, IPV6_LEN), 0);
	assert_true(untouched(dest, sizeof(dest)));
	memcpy(bytes, golden_ipv4, IPV4_LEN);
	assert_int_equal(
		deserialize_addr(bytes, (struct sockaddr *)dest, IPV6_LEN),
		IPV4_LEN);
	assert_true(untouched(dest + sizeof(struct sockaddr_in),
		sizeof(dest) - sizeof(struct sockaddr_in)));
	evt_server_stop();
}

/* L01: by the address's own family, not the server's. */
static void a_server_of_ipv4_serializes_ipv6(void **state)
{
	struct sockaddr_in6 in6 = address_ipv6();
	char bytes[IPV6_LEN];

	(void)state;
	no_ipv6 = true;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	no_ipv6 = false;
	assert_int_equal(
		serialize_addr((struct sockaddr *)&in6, bytes, IPV6_LEN),
		IPV6_LEN);
	assert_memory_equal(bytes, golden_ipv6, IPV6_LEN);
	evt_server_stop();
}

/* Bare addresses */

/* L01 */
static void the_bare_address_is_4_or_16_bytes(void **state)
{
	struct sockaddr_in in = address_ipv4();
	struct sockaddr_in6 in6 = address_ipv6();
	char ip[32];
	int size;

	(void)state;
	memset(ip, '#', sizeof(ip));
	for (size = -1; size < 4; size++)
		assert_int_equal(
			copy_ip_addr((struct sockaddr *)&in, ip, size), 0);
	for (size = -1; size < 16; size++)
		assert_int_equal(
			copy_ip_addr((struct sockaddr *)&in6, ip, size), 0);
	assert_true(untouched(ip, sizeof(ip)));
	assert_int_equal(copy_ip_addr((struct sockaddr *)&in, ip, 4), 4);
	assert_memory_equal(ip, &in.sin_addr, 4);
	assert_true(untouched(ip + 4, sizeof(ip) - 4));
	assert_int_equal(copy_ip_addr((struct sockaddr *)&in6, ip, 32), 16);
	assert_memory_equal(ip, &in6.sin6_addr, 16);
	assert_true(untouched(ip + 16, 16));
}

/* L01 */
static void a_mapped_address_counts_as_ipv4(void **state)
{
	struct sockaddr_in6 mapped = ipv6("::ffff:192.0.2.7", 80);
	struct sockaddr_in6 compatible = ipv6("::192.0.2.7", 80);
	char ip[16];

	(void)state;
	assert_int_equal(copy_ip_addr((struct sockaddr *)&mapped, ip, 3), 0);
	assert_int_equal(copy_ip_addr((struct sockaddr *)&mapped, ip, 16), 4);
	assert_memory_equal(ip, "\xc0\x00\x02\x07", 4);
	assert_int_equal(
		copy_ip_addr((struct sockaddr *)&compatible, ip, 16), 16);
}

/* The server's address */

static void before_init_there_is_no_address(void **state)
{
	(void)state;
	assert_null(get_server_addrinfo());
	assert_int_equal(get_sockaddr_size(), 0);
	assert_null(log_line(0));
	assert_null(new_sockaddr());
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
}

static void a_new_address_is_empty_and_has_the_servers_family(void **state)
{
	struct sockaddr_storage zero = {0};
	struct sockaddr *addr;

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	addr = new_sockaddr();
	assert_non_null(addr);
	assert_int_equal(addr->sa_family, get_server_addrinfo()->ai_family);
	assert_int_equal(
		get_sockaddr_size(), get_server_addrinfo()->ai_addrlen);
	zero.ss_family = addr->sa_family;
	assert_memory_equal(addr, &zero, (size_t)get_sockaddr_size());
	free(addr);
	evt_server_stop();
}

static void without_memory_there_is_no_new_address(void **state)
{
	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	fail_allocation(1, true);
	assert_null(new_sockaddr());
	assert_int_equal(errno, ENOMEM);
	fail_allocation(0, false);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(an_ipv4_address_has_these_eight_bytes),
		LEDGER_TEST(an_ipv6_address_has_these_28_bytes),
		LEDGER_TEST(the_bytes_give_the_address_back),
		LEDGER_TEST(a_buffer_too_small_is_left_alone),
		LEDGER_TEST(no_more_than_the_address_is_written),
		LEDGER_TEST(too_few_bytes_give_no_address),
		LEDGER_TEST(no_byte_beyond_the_size_is_read),
		LEDGER_TEST(other_families_have_no_such_form),
		LEDGER_TEST(bytes_of_another_family_give_no_address),
		LEDGER_TEST(nothing_needs_to_be_aligned),
		LEDGER_TEST(random_addresses_come_back_as_they_were),
		LEDGER_TEST(random_bytes_give_an_address_that_gives_the_bytes),
		LEDGER_TEST(an_address_that_does_not_fit_is_not_written),
		LEDGER_TEST(a_server_of_ipv4_serializes_ipv6),
		LEDGER_TEST(the_bare_address_is_4_or_16_bytes),
		LEDGER_TEST(a_mapped_address_counts_as_ipv4),
		LEDGER_TEST(before_init_there_is_no_address),
		LEDGER_TEST(a_new_address_is_empty_and_has_the_servers_family),
		LEDGER_TEST(without_memory_there_is_no_new_address),
	};

	return ledger_run("core", tests);
}
