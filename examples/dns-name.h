/*
 * dns-name.h: names as they travel: labels, each with its length before it, the
 * last one empty (RFC 1035, section 3.1). Pure code.
 */
#ifndef DNS_NAME_H
#define DNS_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DNS_MAX_NAME   255
#define DNS_MAX_LABEL  63
#define DNS_MAX_LABELS 127 /* in a name of 255 bytes, without the empty one */

/* A name, and where its labels begin; labels of them, and the empty one. */
struct dns_name {
	uint8_t wire[DNS_MAX_NAME]; /* in lower case: case does not matter */
	uint8_t at[DNS_MAX_LABELS + 1];
	uint8_t len;
	uint8_t labels;
};

/* Numbers, as they travel. */

static inline unsigned dns_get16(const uint8_t *at)
{
	return (unsigned)at[0] << 8 | at[1];
}

static inline void dns_put16(uint8_t *at, unsigned number)
{
	at[0] = (uint8_t)(number >> 8);
	at[1] = (uint8_t)number;
}

static inline void dns_put32(uint8_t *at, uint32_t number)
{
	dns_put16(at, number >> 16);
	dns_put16(at + 2, number & 0xffff);
}

static inline uint8_t dns_lower(uint8_t byte)
{
	return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte | 0x20) : byte;
}

/* Takes the name that begins at wire, where there are size bytes: its length; 0
 * if it is none, or goes on by a pointer. */
static inline size_t dns_name_read(
	struct dns_name *name, const uint8_t *wire, size_t size)
{
	size_t most = DNS_MAX_NAME;
	size_t at = 0;
	size_t end;

	if (size < most)
		most = size;
	name->labels = 0;
	while (at < most && wire[at] > 0) {
		end = at + 1 + wire[at];
		if (wire[at] > DNS_MAX_LABEL || end >= most)
			return 0;
		name->at[name->labels++] = (uint8_t)at;
		name->wire[at] = wire[at];
		while (++at < end)
			name->wire[at] = dns_lower(wire[at]);
	}
	if (at >= most)
		return 0;
	name->at[name->labels] = (uint8_t)at;
	name->wire[at++] = 0;
	name->len = (uint8_t)at;
	return at;
}

/* Whether name ends with the labels of the other, which has so many. */
static inline bool dns_name_is_below(const struct dns_name *name,
	const uint8_t *wire, size_t len, size_t labels)
{
	size_t at;

	if (name->labels < labels)
		return false;
	at = name->at[name->labels - labels];
	return name->len - at == len && memcmp(name->wire + at, wire, len) == 0;
}

/* FNV-1a over the label, with the hash of those behind it. So one pass, from
 * the end to the start, hashes a name and each name above it. */
static inline uint32_t dns_hash_label(uint32_t hash, const uint8_t *label)
{
	unsigned i;

	for (i = 0; i <= label[0]; i++)
		hash = (hash ^ label[i]) * 16777619U;
	return hash;
}

#endif /* DNS_NAME_H */
