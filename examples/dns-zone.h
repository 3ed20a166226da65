/*
 * dns-zone.h: one zone: its names, and the records of each. It is built once
 * and only read afterwards, by all workers at once: no lock is needed.
 *
 * Each set of records (one name, one type) lies there as it goes into answers,
 * so that an answer is a few memcpys. Only pointers differ, those to names that
 * the message has already (RFC 1035, section 4.1.4). They are written for the
 * usual case, in which the name of the set is that of the question, and what
 * has to be put right is known: the start of each record, and the ends of names
 * that lead to the zone's own, the apex.
 *
 * Names are found by a hash, in a table of open addressing. It is not seeded:
 * only who writes the zone chooses what is in it, and asking changes nothing.
 */
#ifndef DNS_ZONE_H
#define DNS_ZONE_H

#include "dns-name.h"

#include <stdlib.h>

enum dns_type {
	DNS_A = 1,
	DNS_NS = 2,
	DNS_CNAME = 5,
	DNS_SOA = 6,
	DNS_MX = 15,
	DNS_TXT = 16,
	DNS_AAAA = 28,
	DNS_OPT = 41,
	DNS_DS = 43,
	DNS_IXFR = 251,
	DNS_AXFR = 252,
	DNS_ANY = 255
};

#define DNS_IN       1
#define DNS_POINTER  0xc000 /* the rest of a name is at this offset */
#define DNS_QUESTION 12     /* the offset of the question's name */
#define DNS_FIXED    12     /* of a record: pointer, type, class, TTL, length */
#define DNS_MAX_SET  65000  /* bytes: an answer of TCP has 65,535 */
#define DNS_HASH     2166136261U /* of the apex */

/* A name in the data of a record. */
struct dns_link {
	uint16_t at;  /* where in the set */
	uint16_t end; /* where its pointer to the apex is; 0: it has none,
			 since it is outside of the zone. The rest is then NULL
			 or false */
	bool there;   /* the zone has the name */
	bool again;   /* so does a link before this one, in the same set */
	const struct dns_node *node; /* its own, or the nearest above it */
};

/* The records of one name and type, in wire form. */
struct dns_set {
	struct dns_set *next; /* of the same name; NULL: the last */
	struct dns_link *links;
	uint32_t ttl;
	uint16_t type;
	uint16_t count;
	uint16_t nr_links;
	uint16_t len;
	uint8_t wire[];
};

/* A name of the zone. It may be there for the sake of those below it alone. */
struct dns_node {
	struct dns_set *sets;
	struct dns_node *parent;    /* NULL: it is the apex */
	struct dns_node *wildcard;  /* its child "*", if there is one */
	const struct dns_node *cut; /* from which on, here or above, the names
					are delegated to others; NULL: ours */
	uint32_t hash;
	uint8_t len;
	uint8_t wire[];
};

struct dns_zone {
	struct dns_node **slots; /* nr_slots, a power of two; NULL: free */
	struct dns_node *apex;   /* NULL: it has no SOA yet */
	struct dns_set *absent;  /* the SOA as it goes with what is not there */
	size_t nr_slots;
	size_t nr_nodes;
	uint8_t labels; /* of the apex */
	int depth;      /* how many more the longest name has */
};

/* What is to be added. Names in the data that are in the zone end with two
 * bytes for the pointer to the apex. */
struct dns_record {
	struct dns_name owner;
	uint32_t ttl;
	uint16_t type;
	uint16_t nr_links;
	uint16_t len;
	struct dns_link links[2]; /* their places count from its start, the
				     data's being DNS_FIXED */
	uint8_t data[DNS_MAX_SET];
};

/* Finding */

static inline struct dns_node *dns_find(const struct dns_zone *zone,
	const uint8_t *wire, size_t len, uint32_t hash)
{
	size_t mask = zone->nr_slots - 1;
	struct dns_node *node;
	size_t i;

	for (i = hash & mask; (node = zone->slots[i]); i = (i + 1) & mask)
		if (node->hash == hash && node->len == len &&
			memcmp(node->wire, wire, len) == 0)
			return node;
	return NULL;
}

/*
 * The node of a name in the zone, or the nearest above it, which is then not
 * there. One look into the table for a name that is there, and for others one
 * for each label that they have, up to what the longest name of the zone has.
 */
static inline const struct dns_node *dns_nearest(
	const struct dns_zone *zone, const struct dns_name *name, bool *there)
{
	uint32_t hash[DNS_MAX_LABELS + 1];
	int depth = name->labels - zone->labels;
	const struct dns_node *node = NULL;
	int i;

	hash[depth] = DNS_HASH;
	for (i = depth - 1; i >= 0; i--)
		hash[i] = dns_hash_label(hash[i + 1], name->wire + name->at[i]);
	i = depth > zone->depth ? depth - zone->depth : 0;
	while (!node && i < depth) {
		node = dns_find(zone, name->wire + name->at[i],
			(size_t)(name->len - name->at[i]), hash[i]);
		i += !node;
	}
	*there = i == 0;
	return node ? node : zone->apex;
}

static inline const struct dns_set *dns_set_of(
	const struct dns_node *node, unsigned type)
{
	const struct dns_set *set = node->sets;

	while (set && set->type != type && type != DNS_ANY)
		set = set->next;
	return set;
}

static inline bool dns_in_zone(
	const struct dns_zone *zone, const struct dns_name *name)
{
	return dns_name_is_below(
		name, zone->apex->wire, zone->apex->len, (size_t)zone->labels);
}

/* Building. What can go wrong gives a reason, NULL: nothing. */

static const char dns_no_memory[] = "no memory";

static inline void dns_slot_fill(struct dns_zone *zone, struct dns_node *node)
{
	size_t i = node->hash & (zone->nr_slots - 1);

	while (zone->slots[i])
		i = (i + 1) & (zone->nr_slots - 1);
	zone->slots[i] = node;
}

/* At least half of the slots stay free. */
static inline bool dns_slots_grow(struct dns_zone *zone)
{
	struct dns_zone more = {.nr_slots = zone->nr_slots * 2};
	size_t i;

	if ((zone->nr_nodes + 1) * 2 <= zone->nr_slots)
		return true;
	if (more.nr_slots == 0)
		more.nr_slots = 16;
	more.slots = calloc(more.nr_slots, sizeof(struct dns_node *));
	if (!more.slots)
		return false;
	for (i = 0; i < zone->nr_slots; i++)
		if (zone->slots[i])
			dns_slot_fill(&more, zone->slots[i]);
	free(zone->slots);
	zone->slots = more.slots;
	zone->nr_slots = more.nr_slots;
	return true;
}

static inline struct dns_node *dns_node_new(struct dns_zone *zone,
	struct dns_node *parent, const uint8_t *wire, size_t len, uint32_t hash)
{
	struct dns_node *node = calloc(1, sizeof(*node) + len);

	if (!node || !dns_slots_grow(zone)) {
		free(node);
		return NULL;
	}
	node->parent = parent;
	node->hash = hash;
	node->len = (uint8_t)len;
	memcpy(node->wire, wire, len);
	dns_slot_fill(zone, node);
	zone->nr_nodes++;
	if (parent && wire[0] == 1 && wire[1] == '*')
		parent->wildcard = node;
	return node;
}

/* The node of a name in the zone; it and those above it are made if they are
 * not there. */
static inline struct dns_node *dns_node_get(
	struct dns_zone *zone, const struct dns_name *name)
{
	int i = name->labels - zone->labels;
	struct dns_node *node = zone->apex;
	struct dns_node *parent;
	uint32_t hash = DNS_HASH;

	if (i > zone->depth)
		zone->depth = i;
	while (node && i-- > 0) {
		const uint8_t *at = name->wire + name->at[i];
		size_t len = (size_t)(name->len - name->at[i]);

		hash = dns_hash_label(hash, at);
		parent = node;
		node = dns_find(zone, at, len, hash);
		if (!node)
			node = dns_node_new(zone, parent, at, len, hash);
	}
	return node;
}

/* The first record of a zone is its SOA, and names the apex. */
static inline const char *dns_zone_begin(
	struct dns_zone *zone, const struct dns_name *apex)
{
	zone->labels = apex->labels;
	zone->apex = dns_node_new(zone, NULL, apex->wire, apex->len, DNS_HASH);
	return zone->apex ? NULL : dns_no_memory;
}

static inline size_t dns_record_len(const uint8_t *wire)
{
	return DNS_FIXED + dns_get16(wire + DNS_FIXED - 2);
}

static inline bool dns_set_has(
	const struct dns_set *set, const struct dns_record *record)
{
	size_t at = 0;

	while (set && at < set->len) {
		const uint8_t *wire = set->wire + at;

		at += dns_record_len(wire);
		if (wire + DNS_FIXED + record->len == set->wire + at &&
			memcmp(wire + DNS_FIXED, record->data, record->len) ==
				0)
			return true;
	}
	return false;
}

/* Room for the record; *at is the set, or NULL: it is made. */
static inline struct dns_set *dns_set_grow(
	struct dns_set **at, const struct dns_record *record)
{
	size_t len = (size_t)DNS_FIXED + record->len;
	size_t nr_links = record->nr_links;
	struct dns_set *set = *at;
	struct dns_link *links;

	set = realloc(set, sizeof(*set) + len + (set ? set->len : 0));
	if (!set)
		return NULL;
	if (!*at)
		memset(set, 0, sizeof(*set));
	*at = set;
	set->type = record->type;
	set->ttl = record->ttl;
	if (nr_links == 0)
		return set;
	links = realloc(
		set->links, (set->nr_links + nr_links) * sizeof(*links));
	if (links)
		set->links = links;
	return links ? set : NULL;
}

static inline const char *dns_set_add(
	struct dns_set **at, const struct dns_record *record)
{
	struct dns_set *set = dns_set_grow(at, record);
	unsigned start;
	unsigned i;

	if (!set)
		return dns_no_memory;
	start = set->len + DNS_FIXED;
	for (i = 0; i < record->nr_links; i++) {
		struct dns_link *link = &set->links[set->nr_links++];

		*link = record->links[i];
		link->at = (uint16_t)(link->at + set->len);
		link->end = (uint16_t)(link->end ? link->end + set->len : 0);
	}
	dns_put16(set->wire + set->len, DNS_POINTER | DNS_QUESTION);
	dns_put16(set->wire + set->len + 2, record->type);
	dns_put16(set->wire + set->len + 4, DNS_IN);
	dns_put32(set->wire + set->len + 6, record->ttl);
	dns_put16(set->wire + set->len + 10, record->len);
	memcpy(set->wire + start, record->data, record->len);
	set->len = (uint16_t)(start + record->len);
	set->count++;
	return NULL;
}

/* What is wrong with a record of this type beside those that node has. */
static inline const char *dns_conflict(const struct dns_zone *zone,
	const struct dns_node *node, const struct dns_set *same,
	const struct dns_record *record)
{
	bool has_cname = dns_set_of(node, DNS_CNAME) != NULL;

	if (record->type == DNS_SOA && node != zone->apex)
		return "a second SOA";
	if (record->type == DNS_SOA && same)
		return "a second SOA";
	if (record->type == DNS_CNAME && has_cname)
		return "a second CNAME";
	if (node->sets && has_cname != (record->type == DNS_CNAME))
		return "a CNAME beside other data";
	if (record->type == DNS_NS && node->wire[0] == 1 &&
		node->wire[1] == '*')
		return "a wildcard cannot be delegated";
	if (same && same->ttl != record->ttl)
		return "another TTL than the records of this name and type";
	if (same && same->len + DNS_FIXED + record->len > DNS_MAX_SET)
		return "too many records of this name and type";
	return NULL;
}

/* A record that is there already counts once. */
static inline const char *dns_zone_add(
	struct dns_zone *zone, const struct dns_record *record)
{
	struct dns_node *node;
	struct dns_set **set;
	const char *conflict;

	if (!dns_in_zone(zone, &record->owner))
		return "a name outside of the zone";
	node = dns_node_get(zone, &record->owner);
	if (!node)
		return dns_no_memory;
	set = &node->sets;
	while (*set && (*set)->type != record->type)
		set = &(*set)->next;
	if (record->type != DNS_SOA && dns_set_has(*set, record))
		return NULL;
	conflict = dns_conflict(zone, node, *set, record);
	return conflict ? conflict : dns_set_add(set, record);
}

/* Finds the node that link leads to, for answers to go on from there. */
static inline void dns_link_resolve(
	const struct dns_zone *zone, struct dns_set *set, struct dns_link *link)
{
	uint8_t wire[DNS_MAX_NAME];
	size_t len = (size_t)(link->end - link->at);
	const struct dns_link *other = set->links;
	struct dns_name name;

	if (link->end == 0)
		return;
	memcpy(wire, set->wire + link->at, len);
	memcpy(wire + len, zone->apex->wire, zone->apex->len);
	if (!dns_name_read(&name, wire, len + zone->apex->len))
		return;
	link->node = dns_nearest(zone, &name, &link->there);
	while (other < link && (!other->there || other->node != link->node))
		other++;
	link->again = other < link;
}

/* The first cut on the way from the apex counts. */
static inline const struct dns_node *dns_cut_of(const struct dns_node *node)
{
	const struct dns_node *cut = NULL;

	for (; node->parent; node = node->parent)
		if (dns_set_of(node, DNS_NS))
			cut = node;
	return cut;
}

/* The SOA as it goes with what is not there: for so long as its last number
 * says, at most (RFC 2308, section 5). */
static inline struct dns_set *dns_absent(const struct dns_set *soa)
{
	struct dns_set *absent = malloc(sizeof(*soa) + soa->len);
	const uint8_t *minimum = soa->wire + soa->len - 4;

	if (!absent)
		return NULL;
	memcpy(absent, soa, sizeof(*soa) + soa->len);
	if (memcmp(minimum, soa->wire + 6, 4) < 0)
		memcpy(absent->wire + 6, minimum, 4);
	return absent;
}

/* All is there: what one record has to know of the others is found out. */
static inline const char *dns_zone_end(struct dns_zone *zone)
{
	const struct dns_set *soa = zone->apex ? dns_set_of(zone->apex, DNS_SOA)
					       : NULL;
	struct dns_node *node;
	struct dns_set *set;
	size_t i;
	unsigned k;

	if (!soa)
		return "no SOA";
	for (i = 0; i < zone->nr_slots; i++) {
		node = zone->slots[i];
		if (!node)
			continue;
		node->cut = dns_cut_of(node);
		for (set = node->sets; set; set = set->next)
			for (k = 0; k < set->nr_links; k++)
				dns_link_resolve(zone, set, &set->links[k]);
	}
	zone->absent = dns_absent(soa);
	return zone->absent ? NULL : dns_no_memory;
}

static inline void dns_zone_free(struct dns_zone *zone)
{
	struct dns_set *set;
	size_t i;

	for (i = 0; i < zone->nr_slots; i++) {
		while (zone->slots[i] && (set = zone->slots[i]->sets)) {
			zone->slots[i]->sets = set->next;
			free(set->links);
			free(set);
		}
		free(zone->slots[i]);
	}
	free(zone->slots);
	free(zone->absent);
	*zone = (struct dns_zone){.slots = NULL};
}

#endif /* DNS_ZONE_H */
