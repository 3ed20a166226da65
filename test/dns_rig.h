/*
 * dns_rig.h: for the tests of examples/dns: queries from a few words, and
 * messages read back as text, strictly, by code of its own.
 */
#ifndef DNS_RIG_H
#define DNS_RIG_H

#include "ledger.h"

#include "../examples/dns-file.h"
#include "../examples/dns-message.h"

#define NO_EDNS     (-1)
#define MAX_MESSAGE 65535

/* The zone that is asked, read from a text; close_zone frees it. */
static struct dns_zone zone;
static struct dns_file zone_file;

static inline bool open_zone(const char *text)
{
	return dns_file_parse(&zone_file, &zone, text, strlen(text));
}

static inline void close_zone(void)
{
	dns_zone_free(&zone);
}

struct message {
	uint8_t wire[MAX_MESSAGE];
	size_t len;
};

/* Appending */

static inline void add_bytes(struct message *to, const void *bytes, size_t len)
{
	memcpy(to->wire + to->len, bytes, len);
	to->len += len;
}

static inline void put16(struct message *to, size_t at, unsigned number)
{
	to->wire[at] = (uint8_t)(number >> 8);
	to->wire[at + 1] = (uint8_t)number;
}

static inline void add16(struct message *to, unsigned number)
{
	put16(to, to->len, number);
	to->len += 2;
}

static inline unsigned get16(const struct message *from, size_t at)
{
	return (unsigned)from->wire[at] << 8 | from->wire[at + 1];
}

/* A name without escapes; "." is the root. */
static inline void add_name(struct message *to, const char *text)
{
	size_t len;

	while (*text && (len = strcspn(text, ".")) > 0) {
		to->wire[to->len++] = (uint8_t)len;
		add_bytes(to, text, len);
		text += len + (text[len] == '.');
	}
	to->wire[to->len++] = 0;
}

static inline void add_opt(struct message *to, unsigned size, unsigned version)
{
	add_bytes(to, "", 1);
	add16(to, DNS_OPT);
	add16(to, size);
	add16(to, version);
	add16(to, 0);
	add16(to, 0);
	put16(to, 10, get16(to, 10) + 1);
}

/* The query for name and type; edns: the size it says, or NO_EDNS. */
static inline void make_query(
	struct message *query, const char *name, unsigned type, int edns)
{
	static const uint8_t header[12] = {0xab, 0xcd, 1, 0, 0, 1};

	query->len = 0;
	add_bytes(query, header, sizeof(header));
	add_name(query, name);
	add16(query, type);
	add16(query, DNS_IN);
	if (edns != NO_EDNS)
		add_opt(query, (unsigned)edns, 0);
}

/* Reading back: false if a byte is not as it should be. */

struct text {
	char at[MAX_MESSAGE * 5];
	size_t len;
};

__attribute__((format(printf, 2, 3))) static inline bool tell(
	struct text *text, const char *format, ...)
{
	size_t room = sizeof(text->at) - text->len;
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(text->at + text->len, room, format, args);
	va_end(args);
	if ((size_t)len < room)
		text->len += (size_t)len;
	return (size_t)len < room;
}

static inline void tell_byte(struct text *text, uint8_t byte)
{
	if (byte > ' ' && byte < 0x7f && byte != '.' && byte != '\\' &&
		text->len + 1 < sizeof(text->at))
		text->at[text->len++] = (char)byte;
	else
		tell(text, "\\%03d", byte);
}

/* The name at *at; pointers lead back only, and behind the header. */
static inline bool tell_name(
	struct text *text, const struct message *from, size_t *at)
{
	size_t here = *at;
	size_t part = here; /* where what is read now begins */
	size_t total = 1;
	bool jumped = false;
	unsigned len;

	if (here < from->len && from->wire[here] == 0)
		tell(text, ".");
	while (here < from->len && (len = from->wire[here]) != 0) {
		if (len >= 0xc0) {
			if (here + 2 > from->len)
				return false;
			if (!jumped)
				*at = here + 2;
			jumped = true;
			here = get16(from, here) & 0x3fff;
			if (here >= part || here < 12)
				return false;
			part = here;
			if (from->wire[here] == 0 && total == 1)
				tell(text, ".");
			continue;
		}
		total += len + 1;
		if (len > 63 || here + 1 + len > from->len || total > 255)
			return false;
		while (len-- > 0)
			tell_byte(text, from->wire[++here]);
		here++;
		tell(text, ".");
	}
	if (!jumped)
		*at = here + 1;
	return here < from->len;
}

static inline bool tell_strings(
	struct text *text, const struct message *from, size_t at, size_t end)
{
	while (at < end) {
		size_t stop = at + 1 + from->wire[at];

		if (stop > end)
			return false;
		tell(text, " \"");
		while (++at < stop)
			tell_byte(text, from->wire[at]);
		tell(text, "\"");
	}
	return true;
}

static inline bool tell_data(struct text *text, const struct message *from,
	unsigned type, size_t at, size_t end)
{
	char address[INET6_ADDRSTRLEN];
	int i;

	if (type == DNS_TXT)
		return end > at && tell_strings(text, from, at, end);
	tell(text, " ");
	if (type == DNS_A || type == DNS_AAAA) {
		if (end - at != (type == DNS_A ? 4 : 16))
			return false;
		inet_ntop(type == DNS_A ? AF_INET : AF_INET6, from->wire + at,
			address, sizeof(address));
		return tell(text, "%s", address);
	}
	if (type == DNS_MX) {
		if (end - at < 3)
			return false;
		tell(text, "%u ", get16(from, at));
		at += 2;
	}
	if (!tell_name(text, from, &at))
		return false;
	if (type == DNS_SOA) {
		tell(text, " ");
		if (!tell_name(text, from, &at) || end - at != 20)
			return false;
		for (i = 0; i < 5; i++, at += 4)
			tell(text, " %u",
				get16(from, at) << 16 | get16(from, at + 2));
	}
	return at == end;
}

static inline const char *type_name(unsigned type)
{
	switch (type) {
	case DNS_A:
		return "A";
	case DNS_NS:
		return "NS";
	case DNS_CNAME:
		return "CNAME";
	case DNS_SOA:
		return "SOA";
	case DNS_MX:
		return "MX";
	case DNS_TXT:
		return "TXT";
	case DNS_AAAA:
		return "AAAA";
	default:
		return NULL;
	}
}

/* A record of one of the sections = (answer), - (authority), + (additional); or
 * that of EDNS, of which there is one at most, at the end. */
static inline bool tell_record(struct text *text, const struct message *from,
	size_t *at, char section, bool is_last)
{
	size_t start = *at;
	size_t line = text->len;
	unsigned type;
	size_t end;

	tell(text, "%c ", section);
	if (!tell_name(text, from, at) || from->len - *at < 10)
		return false;
	type = get16(from, *at);
	end = *at + 10 + get16(from, *at + 8);
	if (end > from->len)
		return false;
	if (type == DNS_OPT) {
		text->len = line;
		tell(text, "EDNS %u%s\n", get16(from, *at + 2),
			get16(from, *at + 4) == 0x0100 ? " BADVERS" : "");
		*at = end;
		return is_last && section == '+' && end == start + 11;
	}
	if (!type_name(type) || get16(from, *at + 2) != DNS_IN)
		return false;
	tell(text, " %u %s", get16(from, *at + 4) << 16 | get16(from, *at + 6),
		type_name(type));
	if (!tell_data(text, from, type, *at + 10, end))
		return false;
	*at = end;
	return tell(text, "\n");
}

/*
 * "NOERROR qr aa\n", "? NAME TYPE\n" if there is a question, and a line for
 * each record. False if the message is not well formed.
 */
static inline bool tell_message(struct text *text, const struct message *from)
{
	static const char *const rcodes[] = {"NOERROR", "FORMERR", "SERVFAIL",
		"NXDOMAIN", "NOTIMP", "REFUSED"};
	unsigned flags = from->len < 12 ? 0xff : get16(from, 2);
	size_t at = 12;
	unsigned count;
	int k;

	text->len = 0;
	if ((flags & 15) > 5 || flags & 0x00f0 || get16(from, 4) > 1)
		return false;
	tell(text, "%s%s%s%s%s\n", rcodes[flags & 15],
		flags & DNS_QR ? " qr" : "", flags & DNS_AA ? " aa" : "",
		flags & DNS_TC ? " tc" : "", flags & DNS_RD ? " rd" : "");
	if (get16(from, 4) == 1) {
		tell(text, "? ");
		if (!tell_name(text, from, &at) || from->len - at < 4)
			return false;
		tell(text, " %u\n", get16(from, at));
		at += 4;
	}
	for (k = 0; k < 3; k++)
		for (count = get16(from, 6 + 2 * (size_t)k); count > 0; count--)
			if (!tell_record(text, from, &at, "=-+"[k], count == 1))
				return false;
	return at == from->len;
}

/* Asking */

static struct message answer;
static struct text answer_text;

/* The length of the answer. Both are in memory of exactly their size, so that
 * the sanitizers see who leaves it. */
static inline size_t answer_to(const void *query, size_t len, bool is_tcp)
{
	size_t room = is_tcp ? DNS_TCP_MOST : DNS_UDP_MOST;
	uint8_t *from = malloc(len + !len);
	uint8_t *to = malloc(room);

	memcpy(from, query, len);
	answer.len = dns_answer(&zone, from, len, to, is_tcp);
	memcpy(answer.wire, to, answer.len < room ? answer.len : room);
	free(from);
	free(to);
	return answer.len;
}

/* Whether the query has an answer that is well formed, or none where it is no
 * query. answer_text is the answer. */
static inline bool is_sound(const struct message *query, bool is_tcp)
{
	size_t limit = is_tcp ? DNS_TCP_MOST : DNS_UDP_MOST;
	size_t len = answer_to(query->wire, query->len, is_tcp);

	if (query->len < 12 || query->wire[2] & 0x80)
		return len == 0;
	return len >= 12 && len <= limit &&
		get16(query, 0) == get16(&answer, 0) &&
		((get16(query, 2) ^ get16(&answer, 2)) & 0xf900) == 0x8000 &&
		tell_message(&answer_text, &answer);
}

/* What the server says to the query, as text. */
static inline const char *told(const struct message *query, bool is_tcp)
{
	if (answer_to(query->wire, query->len, is_tcp) == 0)
		return "";
	if (!tell_message(&answer_text, &answer))
		return "not well formed";
	return answer_text.at;
}

/* ... when it is asked for name and type, by UDP. */
static inline const char *asked(const char *name, unsigned type, int edns)
{
	static struct message query;

	make_query(&query, name, type, edns);
	return told(&query, false);
}

#endif /* DNS_RIG_H */
