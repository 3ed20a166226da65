/*
 * dns-file.h: a zone from its master file (RFC 1035, section 5), of which it
 * takes what most zones need:
 *
 *	$ORIGIN example.org.
 *	$TTL 1h
 *	@	SOA	ns root ( 2026010101 2h 15m 2w 10m ) ; the SOA first
 *		NS	ns		; a blank owner is the last one
 *	ns	A	192.0.2.1
 *	*.w 5m	IN TXT	"any" "two\032words"
 *
 * Types A, AAAA, CNAME, MX, NS, SOA, TXT. Without a TTL a record has that of
 * $TTL, or else the last one that was said. $INCLUDE and $GENERATE are refused,
 * and so is whatever else is not understood: a server that serves half of a
 * zone tells the world that the other half does not exist.
 *
 * Pure code: a text in memory, no file. The first fault counts, with its line;
 * after it there are no more words, and so everything comes to its end.
 */
#ifndef DNS_FILE_H
#define DNS_FILE_H

#include "dns-zone.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

#define DNS_MAX_STRING 255
#define DNS_MAX_TTL    0x7fffffffUL /* RFC 2181, section 8 */

struct dns_word {
	const char *at;
	size_t len;
	bool quoted;
};

struct dns_file {
	const char *at; /* what is left of the text */
	const char *end;
	int line;   /* on which that is */
	int opened; /* the line of the parenthesis that is open; 0: none */
	bool over;  /* this entry has no more words */

	struct dns_zone *zone;
	struct dns_name origin;   /* len 0: there is none yet */
	struct dns_record record; /* owner and TTL stay for the next one; the
				     owner's len 0: there is none yet */
	uint32_t ttl;             /* of $TTL */
	bool has_ttl;             /* a $TTL was there */
	bool said_ttl;            /* a record has said its TTL */

	struct dns_word word; /* the last one */
	int word_line;        /* and where it was */
	int fault_line;       /* 0: nothing is wrong */
	char fault[120];
};

__attribute__((format(printf, 3, 4))) static inline void dns_fault_at(
	struct dns_file *file, int line, const char *format, ...)
{
	va_list args;
	char *at;

	if (file->fault_line)
		return;
	va_start(args, format);
	vsnprintf(file->fault, sizeof(file->fault), format, args);
	va_end(args);
	for (at = file->fault; *at; at++)
		if (iscntrl((unsigned char)*at))
			*at = '?';
	file->fault_line = line;
	file->over = true;
}

/* What is wrong with the last word. */
static inline void dns_fault(struct dns_file *file, const char *what)
{
	dns_fault_at(file, file->word_line, "%s: %.*s", what,
		(int)(file->word.len < 60 ? file->word.len : 60),
		file->word.at);
}

/* Words */

/* To the next word of this entry, or its end, over what is between words. */
static inline void dns_skip_blanks(struct dns_file *file)
{
	while (!file->over && file->at < file->end) {
		switch (*file->at) {
		case '\n':
			file->line++;
			file->over = file->opened == 0;
			break;
		case '(':
			if (file->opened)
				dns_fault_at(file, file->line, "a second (");
			file->opened = file->line;
			break;
		case ')':
			if (!file->opened)
				dns_fault_at(file, file->line, "a ) without (");
			file->opened = 0;
			break;
		case ';':
			while (file->at + 1 < file->end && file->at[1] != '\n')
				file->at++;
			break;
		case ' ':
		case '\t':
		case '\r':
			break;
		default:
			return;
		}
		file->at++;
	}
	if (!file->over && file->opened)
		dns_fault_at(file, file->opened, "this ( is not closed");
	file->over = true;
}

/* The next word of this entry, as it is written; false: there is none. */
static inline bool dns_next_word(struct dns_file *file)
{
	const char *ends = " \t\r\n;()\"";
	struct dns_word *word = &file->word;

	dns_skip_blanks(file);
	if (file->over)
		return false;
	file->word_line = file->line;
	word->quoted = *file->at == '"';
	if (word->quoted) {
		file->at++;
		ends = "\"\n";
	}
	word->at = file->at;
	while (file->at < file->end &&
		(*file->at == '\0' || !strchr(ends, *file->at)))
		file->at += file->at[0] == '\\' && file->at + 1 < file->end &&
				file->at[1] != '\n'
			? 2
			: 1;
	word->len = (size_t)(file->at - word->at);
	if (!word->quoted)
		return true;
	if (file->at == file->end || *file->at == '\n') {
		dns_fault_at(file, file->line, "a \" is not closed");
		return false;
	}
	file->at++;
	return true;
}

/* The next word; that there is none is a fault. */
static inline bool dns_need_word(struct dns_file *file, const char *what)
{
	bool is_there = dns_next_word(file);

	if (!is_there)
		dns_fault_at(file, file->word_line, "no %s", what);
	return is_there;
}

static inline bool dns_word_is(const struct dns_file *file, const char *text)
{
	return !file->word.quoted && strlen(text) == file->word.len &&
		strncasecmp(text, file->word.at, file->word.len) == 0;
}

/* The byte at *at, which may be written \X or \DDD; -1: it is none. *at goes
 * behind it. */
static inline int dns_take_byte(const char **at, const char *end)
{
	int byte = 0;
	int i;

	if (**at != '\\')
		return (unsigned char)*(*at)++;
	if (++*at == end)
		return -1;
	if (!isdigit((unsigned char)**at))
		return (unsigned char)*(*at)++;
	for (i = 0; i < 3; i++, (*at)++) {
		if (*at == end || !isdigit((unsigned char)**at))
			return -1;
		byte = byte * 10 + (**at - '0');
	}
	return byte < 256 ? byte : -1;
}

/* Numbers */

/* The digits at *at, up to max; above it, or without digits, a fault. */
static inline uint32_t dns_take_number(
	struct dns_file *file, const char **at, uint64_t max)
{
	const char *start = *at;
	const char *end = file->word.at + file->word.len;
	uint64_t number = 0;

	while (*at < end && isdigit((unsigned char)**at) && number <= max)
		number = number * 10 + (uint64_t)(*(*at)++ - '0');
	if (*at == start)
		dns_fault(file, "not a number");
	else if (number > max)
		dns_fault(file, "too large");
	return (uint32_t)number;
}

static inline uint32_t dns_need_number(
	struct dns_file *file, const char *what, uint64_t max)
{
	uint32_t number;
	const char *at;

	if (!dns_need_word(file, what))
		return 0;
	at = file->word.at;
	number = dns_take_number(file, &at, max);
	if (at != file->word.at + file->word.len)
		dns_fault(file, "not a number");
	return number;
}

/* The word as a time in seconds: 3600, or 1h30m. */
static inline uint32_t dns_word_time(struct dns_file *file)
{
	static const char units[] = {'s', 'm', 'h', 'd', 'w'};
	static const uint32_t seconds[] = {1, 60, 3600, 86400, 604800};
	const char *at = file->word.at;
	const char *end = at + file->word.len;
	const char *unit;
	uint64_t time = 0;
	uint32_t number;

	do {
		number = dns_take_number(file, &at, DNS_MAX_TTL);
		unit = units;
		if (at < end)
			unit = memchr(units, dns_lower((uint8_t)*at++),
				sizeof(units));
		if (!unit)
			dns_fault(file, "not a time");
		else
			time += (uint64_t)number * seconds[unit - units];
		if (time > DNS_MAX_TTL)
			dns_fault(file, "too large");
	} while (at < end && !file->fault_line);
	return (uint32_t)time;
}

static inline uint32_t dns_need_time(struct dns_file *file, const char *what)
{
	return dns_need_word(file, what) ? dns_word_time(file) : 0;
}

/* Names */

/* The labels of the word, to wire: their length, without an end; *whole: there
 * was a dot at the end. What is wrong is told. */
static inline size_t dns_take_labels(
	struct dns_file *file, uint8_t *wire, bool *whole)
{
	const char *at = file->word.at;
	const char *end = at + file->word.len;
	size_t label = 0; /* where its length goes */
	size_t len = 1;
	int byte;

	*whole = false;
	while (at < end && len < DNS_MAX_NAME) {
		*whole = *at == '.';
		byte = *whole ? *at++ : dns_take_byte(&at, end);
		if (byte == -1)
			dns_fault(file, "a \\ that is none of \\X, \\DDD");
		else if (*whole && len == label + 1)
			dns_fault(file, "an empty label");
		else if (!*whole && len - label > DNS_MAX_LABEL)
			dns_fault(file, "a label of more than 63 bytes");
		if (file->fault_line)
			return 0;
		wire[len++] = (uint8_t)byte;
		if (*whole || at == end)
			wire[label] = (uint8_t)(len - label - 1 - *whole);
		if (*whole)
			label = len - 1;
	}
	if (at < end)
		dns_fault(file, "a name of more than 255 bytes");
	return *whole ? len - 1 : len;
}

/* The word as a name, whole or relative to the origin. */
static inline void dns_word_name(struct dns_file *file, struct dns_name *name)
{
	uint8_t wire[2 * DNS_MAX_NAME] = "";
	const struct dns_name *origin = &file->origin;
	bool whole = false;
	size_t len = 0;

	if (dns_word_is(file, ".")) {
		whole = true;
	} else if (!dns_word_is(file, "@")) {
		len = dns_take_labels(file, wire, &whole);
		if (file->word.len == 0)
			dns_fault(file, "an empty name");
	}
	if (!whole && origin->len == 0)
		dns_fault(file,
			"no $ORIGIN for a name without a dot at its "
			"end");
	if (file->fault_line)
		return;
	if (whole)
		wire[len++] = 0;
	else
		memcpy(wire + len, origin->wire, origin->len);
	if (!whole)
		len += origin->len;
	if (dns_name_read(name, wire, len) != len)
		dns_fault(file, "a name of more than 255 bytes");
}

static inline void dns_need_name(
	struct dns_file *file, const char *what, struct dns_name *name)
{
	if (dns_need_word(file, what))
		dns_word_name(file, name);
}

/* Data */

static inline void dns_data_bytes(
	struct dns_file *file, const void *bytes, size_t len)
{
	struct dns_record *record = &file->record;

	if (len > sizeof(record->data) - DNS_FIXED - record->len) {
		dns_fault(file, "too long a record");
		return;
	}
	memcpy(record->data + record->len, bytes, len);
	record->len = (uint16_t)(record->len + len);
}

static inline void dns_data_number(
	struct dns_file *file, uint32_t number, size_t bytes)
{
	uint8_t wire[4];

	dns_put32(wire, number);
	dns_data_bytes(file, wire + 4 - bytes, bytes);
}

/* A name in the zone ends with a pointer to the apex. */
static inline void dns_data_name(struct dns_file *file, const char *what)
{
	static const uint8_t pointer[2];
	struct dns_record *record = &file->record;
	struct dns_link link = {.at = (uint16_t)(DNS_FIXED + record->len)};
	struct dns_name name;

	dns_need_name(file, what, &name);
	if (file->fault_line)
		return;
	if (dns_in_zone(file->zone, &name)) {
		dns_data_bytes(file, name.wire,
			(size_t)name.len - file->zone->apex->len);
		link.end = (uint16_t)(DNS_FIXED + record->len);
		dns_data_bytes(file, pointer, sizeof(pointer));
	} else {
		dns_data_bytes(file, name.wire, name.len);
	}
	record->links[record->nr_links++] = link;
}

static inline void dns_data_address(struct dns_file *file, int family)
{
	char text[INET6_ADDRSTRLEN];
	uint8_t address[16];

	if (!dns_need_word(file, "address"))
		return;
	snprintf(
		text, sizeof(text), "%.*s", (int)file->word.len, file->word.at);
	if (file->word.len >= sizeof(text) || strlen(text) != file->word.len ||
		inet_pton(family, text, address) != 1)
		dns_fault(file,
			family == AF_INET ? "not an IPv4 address"
					  : "not an IPv6 address");
	dns_data_bytes(file, address, family == AF_INET ? 4 : 16);
}

static inline void dns_data_string(struct dns_file *file)
{
	const char *at = file->word.at;
	const char *end = at + file->word.len;
	uint8_t wire[1 + DNS_MAX_STRING];
	size_t len = 1;
	int byte = 0;

	while (at < end && byte != -1 && len < sizeof(wire)) {
		byte = dns_take_byte(&at, end);
		wire[len++] = (uint8_t)byte;
	}
	if (byte == -1)
		dns_fault(file, "a \\ that is none of \\X, \\DDD");
	else if (at < end)
		dns_fault(file, "a string of more than 255 bytes");
	wire[0] = (uint8_t)(len - 1);
	dns_data_bytes(file, wire, len);
}

static inline void dns_data_soa(struct dns_file *file)
{
	static const char *const times[] = {
		"refresh time", "retry time", "expire time", "minimum"};
	size_t i;

	dns_data_name(file, "name of a server");
	dns_data_name(file, "mailbox");
	dns_data_number(
		file, dns_need_number(file, "serial number", 0xffffffff), 4);
	for (i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		dns_data_number(file, dns_need_time(file, times[i]), 4);
}

static inline void dns_data(struct dns_file *file)
{
	switch (file->record.type) {
	case DNS_A:
		dns_data_address(file, AF_INET);
		break;
	case DNS_AAAA:
		dns_data_address(file, AF_INET6);
		break;
	case DNS_NS:
	case DNS_CNAME:
		dns_data_name(file, "name");
		break;
	case DNS_MX:
		dns_data_number(
			file, dns_need_number(file, "preference", 0xffff), 2);
		dns_data_name(file, "name");
		break;
	case DNS_TXT:
		if (dns_need_word(file, "text"))
			dns_data_string(file);
		while (dns_next_word(file))
			dns_data_string(file);
		break;
	default:
		dns_data_soa(file);
		break;
	}
	if (dns_next_word(file))
		dns_fault(file, "more than the record has");
}

/* Entries */

static inline unsigned dns_word_type(const struct dns_file *file)
{
	static const struct {
		const char *name;
		unsigned type;
	} types[] = {{"A", DNS_A}, {"AAAA", DNS_AAAA}, {"CNAME", DNS_CNAME},
		{"MX", DNS_MX}, {"NS", DNS_NS}, {"SOA", DNS_SOA},
		{"TXT", DNS_TXT}};
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (dns_word_is(file, types[i].name))
			return types[i].type;
	return 0;
}

/* TTL and class, in either order, either may be left out; and the type. The
 * first of them is the word already. */
static inline void dns_entry_head(struct dns_file *file)
{
	struct dns_record *record = &file->record;
	bool has_ttl = false;
	bool has_class = false;

	record->type = 0;
	do {
		if (!has_class && dns_word_is(file, "IN")) {
			has_class = true;
		} else if (!has_ttl && !file->word.quoted &&
			isdigit((unsigned char)*file->word.at)) {
			record->ttl = dns_word_time(file);
			has_ttl = true;
		} else {
			record->type = (uint16_t)dns_word_type(file);
			if (!record->type)
				dns_fault(file, "not a type that is served");
		}
	} while (!record->type && dns_need_word(file, "type"));
	file->said_ttl = file->said_ttl || has_ttl;
	if (!has_ttl && file->has_ttl)
		record->ttl = file->ttl;
	else if (!file->said_ttl)
		dns_fault(file, "no TTL, and no $TTL before");
}

/* The word is its owner, or it has none and is of the last one. */
static inline void dns_entry_record(struct dns_file *file, bool has_owner)
{
	struct dns_record *record = &file->record;
	const char *reason = NULL;
	int line = file->word_line;

	if (has_owner) {
		dns_word_name(file, &record->owner);
		dns_need_word(file, "type");
	} else if (record->owner.len == 0) {
		dns_fault(file, "no owner, and none before");
	}
	if (!file->fault_line)
		dns_entry_head(file);
	if (file->fault_line)
		return;
	if (!file->zone->apex && record->type != DNS_SOA)
		reason = "the first record is not the SOA";
	else if (!file->zone->apex)
		reason = dns_zone_begin(file->zone, &record->owner);
	record->len = 0;
	record->nr_links = 0;
	if (!reason)
		dns_data(file);
	if (!reason && !file->fault_line)
		reason = dns_zone_add(file->zone, record);
	if (reason)
		dns_fault_at(file, line, "%s", reason);
}

static inline void dns_entry_directive(struct dns_file *file)
{
	if (dns_word_is(file, "$ORIGIN")) {
		dns_need_name(file, "name", &file->origin);
	} else if (dns_word_is(file, "$TTL")) {
		file->ttl = dns_need_time(file, "TTL");
		file->has_ttl = true;
	} else {
		dns_fault(file, "not a directive that is served");
	}
	if (dns_next_word(file))
		dns_fault(file, "one word too many");
}

/* Fills an empty zone from a text. False: file->fault_line and file->fault say
 * why. In either case it is to be freed. */
static inline bool dns_file_parse(struct dns_file *file, struct dns_zone *zone,
	const char *text, size_t len)
{
	const char *reason;
	bool has_owner;

	*file = (struct dns_file){
		.at = text, .end = text + len, .line = 1, .zone = zone};
	while (file->at < file->end && !file->fault_line) {
		has_owner = !strchr(" \t", *file->at) || !*file->at;
		file->over = false;
		if (!dns_next_word(file))
			continue;
		if (has_owner && !file->word.quoted && *file->word.at == '$')
			dns_entry_directive(file);
		else
			dns_entry_record(file, has_owner);
	}
	reason = file->fault_line ? NULL : dns_zone_end(zone);
	if (reason)
		dns_fault_at(file, file->line, "%s", reason);
	return !file->fault_line;
}

#endif /* DNS_FILE_H */
