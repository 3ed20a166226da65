/*
 * dns_big_zone.h: for the tests of examples/dns: a zone with what its answers
 * are made of, and with answers of any size.
 */
#ifndef DNS_BIG_ZONE_H
#define DNS_BIG_ZONE_H

#include <stdarg.h>
#include <stdio.h>

static const char text_of_zone[] =
	"$ORIGIN example.org.\n"
	"$TTL 1h\n"
	"@\tSOA ns root ( 1 2h ; serial\n\t15m 2w 10m )\n"
	"\tNS ns\n\tMX 10 mail\n\tTXT \"a \\\"b\\\" c\" d\\032e\\;f\n"
	"ns\tA 192.0.2.1\n\tAAAA 2001:db8::1\n"
	"mail 300 IN A 192.0.2.2\n"
	"www\tIN 1d CNAME web.host\nweb.host A 192.0.2.3\n"
	"out\tCNAME www.example.net.\ngone CNAME nothing\n"
	"*.w\tTXT wild\n\tMX 5 mail\n"
	"sub\tNS ns.sub\n\tNS ns\nns.sub A 192.0.2.9\n"
	"loop\tCNAME pool\npool\tCNAME loop\n";

/* Names a1 to a99 with so many addresses; m1 to m40, whose exchanges have one
 * each; d1 to d40, delegated to so many servers of their own. */
static char big_zone[400000];
static size_t big_len;

__attribute__((format(printf, 1, 2))) static inline void add_line(
	const char *format, ...)
{
	size_t room = sizeof(big_zone) - big_len;
	va_list args;

	va_start(args, format);
	big_len += (size_t)vsnprintf(big_zone + big_len, room, format, args);
	va_end(args);
}

static inline void make_big_zone(void)
{
	int i;
	int k;

	big_len = 0;
	add_line("%s", text_of_zone);
	for (i = 1; i < 100; i++)
		for (k = 0; k < i; k++)
			add_line("a%d A 10.0.0.%d\n", i, k);
	for (i = 1; i <= 40; i++)
		for (k = 0; k < i; k++)
			add_line("m%d MX %d x%d.m%d\nx%d.m%d A 10.0.0.%d\n", i,
				k, k, i, k, i, k);
	for (i = 1; i <= 40; i++)
		for (k = 0; k < i; k++)
			add_line("d%d NS x%d.d%d\nx%d.d%d AAAA ::%d\n", i, k, i,
				k, i, k);
}

#endif /* DNS_BIG_ZONE_H */
