/*
 * dns-message.h: from the bytes of a query to those of its answer. Pure code:
 * no socket, no clock, no memory but the caller's.
 *
 * What it answers follows RFC 1034 (section 4.3.2), 1035, 2308 (what is not
 * there), 4592 (wildcards), 6891 (EDNS) and 8482 (ANY). There is no DNSSEC, and
 * the answers to EDNS say so: the bit DO is not set in them.
 */
#ifndef DNS_MESSAGE_H
#define DNS_MESSAGE_H

#include "dns-zone.h"

#define DNS_HEADER    12
#define DNS_OPT_LEN   11     /* with no options */
#define DNS_UDP_PLAIN 512    /* what every client takes */
#define DNS_UDP_MOST  1232   /* passes everywhere without fragments */
#define DNS_TCP_MOST  65535  /* what its two bytes of length can say */
#define DNS_MAX_CHAIN 8      /* CNAMEs that are followed */
#define DNS_POINTED   0x3fff /* the offsets that a pointer can have */

enum dns_rcode {
	DNS_NOERROR = 0,
	DNS_FORMERR = 1,
	DNS_NXDOMAIN = 3,
	DNS_NOTIMP = 4,
	DNS_REFUSED = 5,
	DNS_BADVERS = 16 /* its upper bits are in the OPT record */
};

enum dns_flag {
	DNS_QR = 0x8000,
	DNS_OPCODE = 0x7800,
	DNS_AA = 0x0400,
	DNS_TC = 0x0200,
	DNS_RD = 0x0100
};

/* The sections behind the question, by where their counts are. */
enum dns_section { DNS_ANSWER = 6, DNS_AUTHORITY = 8, DNS_ADDITIONAL = 10 };

struct dns_query {
	struct dns_name name;
	size_t len; /* of the question; 0: it could not be read */
	unsigned type;
	unsigned class;
	bool edns;
	unsigned version; /* of EDNS */
	unsigned size;    /* of a datagram that the client takes */
};

struct dns_reply {
	const struct dns_zone *zone;
	uint8_t *wire;
	size_t len;
	size_t limit;
	unsigned flags;
	unsigned apex; /* where the apex is, in the question */
	const struct dns_set *aliases[DNS_MAX_CHAIN]; /* that were followed */
	int nr_aliases;
};

/* Reading */

/* The length of a name that may end with a pointer, which is not followed; 0:
 * it is none. */
static inline size_t dns_skip_name(const uint8_t *wire, size_t size)
{
	size_t at = 0;

	while (at < size && wire[at] > 0 && wire[at] <= DNS_MAX_LABEL)
		at += (size_t)1 + wire[at];
	if (at < size && wire[at] >= DNS_POINTER >> 8)
		at++;
	else if (at < size && wire[at] > 0)
		return 0;
	return at < size && at < DNS_MAX_NAME ? at + 1 : 0;
}

/* Reads a record behind the question: its length, or 0. Only OPT matters, of
 * which there is one at most, in the last section. */
static inline size_t dns_read_record(struct dns_query *query,
	const uint8_t *wire, size_t size, bool is_additional)
{
	size_t name = dns_skip_name(wire, size);
	const uint8_t *at = wire + name;

	if (name == 0 || size - name < 10 ||
		size - name - 10 < dns_get16(at + 8))
		return 0;
	if (dns_get16(at) == DNS_OPT) {
		if (query->edns || !is_additional || wire[0] != 0)
			return 0;
		query->edns = true;
		query->size = dns_get16(at + 2);
		query->version = at[5];
	}
	return name + 10 + dns_get16(at + 8);
}

/* Takes the query apart: DNS_NOERROR, or what is to be said of it. What is not
 * known here is read as well, since whether the answer has an OPT record is for
 * the query to say (RFC 6891, section 6.1.1). */
static inline enum dns_rcode dns_read_query(
	struct dns_query *query, const uint8_t *wire, size_t len)
{
	unsigned before = dns_get16(wire + DNS_ANSWER) +
		dns_get16(wire + DNS_AUTHORITY);
	unsigned count = before + dns_get16(wire + DNS_ADDITIONAL);
	size_t at = DNS_HEADER;
	size_t used;
	bool is_known = !(dns_get16(wire + 2) & DNS_OPCODE);
	enum dns_rcode bad = is_known ? DNS_FORMERR : DNS_NOTIMP;
	unsigned i;

	if (dns_get16(wire + 4) != 1)
		return bad;
	used = dns_name_read(&query->name, wire + at, len - at);
	at += used;
	if (used == 0 || len - at < 4)
		return bad;
	query->type = dns_get16(wire + at);
	query->class = dns_get16(wire + at + 2);
	query->len = used + 4;
	at += 4;
	for (i = 0; i < count; i++) {
		used = dns_read_record(query, wire + at, len - at, i >= before);
		if (used == 0)
			return bad;
		at += used;
	}
	return at == len && is_known ? DNS_NOERROR : bad;
}

/* Writing */

/*
 * Puts the set in, as records of the name at offset owner. False if it does not
 * fit: a set goes in whole or not at all (RFC 2181, section 9).
 */
static inline bool dns_put(struct dns_reply *reply, const struct dns_set *set,
	size_t owner, enum dns_section section)
{
	uint8_t *wire = reply->wire + reply->len;
	size_t at;
	unsigned i;

	if (set->len > reply->limit - reply->len)
		return false;
	memcpy(wire, set->wire, set->len);
	if (owner != DNS_QUESTION)
		for (at = 0; at < set->len; at += dns_record_len(wire + at))
			dns_put16(wire + at, DNS_POINTER | (unsigned)owner);
	for (i = 0; i < set->nr_links; i++)
		if (set->links[i].end)
			dns_put16(wire + set->links[i].end,
				DNS_POINTER | reply->apex);
	reply->len += set->len;
	dns_put16(reply->wire + section,
		dns_get16(reply->wire + section) + set->count);
	return true;
}

/* The same of what must be there: if it does not fit, the client is told, and
 * comes back by TCP. */
static inline bool dns_must_put(struct dns_reply *reply,
	const struct dns_set *set, size_t owner, enum dns_section section)
{
	if (dns_put(reply, set, owner, section))
		return true;
	reply->flags |= DNS_TC;
	return false;
}

/*
 * The addresses of those whom the set, which is at offset start, names. They
 * may be left out, but for those of servers below their own cut, whom nobody
 * could find without (RFC 9471).
 */
static inline void dns_put_addresses(struct dns_reply *reply,
	const struct dns_set *set, size_t start, const struct dns_node *cut)
{
	static const unsigned types[] = {DNS_A, DNS_AAAA};
	const struct dns_link *link = set->links;
	const struct dns_set *addresses;
	unsigned i;

	if (set->type != DNS_NS && set->type != DNS_MX)
		return;
	for (; link < set->links + set->nr_links; link++) {
		if (!link->there || link->again ||
			start + link->at > DNS_POINTED)
			continue;
		for (i = 0; i < 2; i++) {
			addresses = dns_set_of(link->node, types[i]);
			if (addresses &&
				!dns_put(reply, addresses, start + link->at,
					DNS_ADDITIONAL) &&
				cut && link->node->cut == cut)
				reply->flags |= DNS_TC;
		}
	}
}

/* The servers to ask instead, since the name is at or below a cut. */
static inline void dns_refer(
	struct dns_reply *reply, const struct dns_node *cut, size_t owner)
{
	const struct dns_set *servers = dns_set_of(cut, DNS_NS);
	size_t start = reply->len;

	if (servers && dns_must_put(reply, servers, owner, DNS_AUTHORITY))
		dns_put_addresses(reply, servers, start, cut);
}

/* Something is not there, and the client may remember that. */
static inline enum dns_rcode dns_deny(
	struct dns_reply *reply, enum dns_rcode rcode)
{
	dns_must_put(reply, reply->zone->absent, reply->apex, DNS_AUTHORITY);
	return rcode;
}

/* A name on the way to the answer. */
struct dns_place {
	const struct dns_node *node; /* its own, or the nearest above it */
	bool there;
	size_t at;  /* where in the message */
	size_t len; /* without pointers: a name above it is as far behind it as
		       it is shorter */
};

/* The one type that is asked of who delegates, at the cut (RFC 4035). */
static inline bool dns_is_ours(const struct dns_place *place, unsigned type)
{
	return type == DNS_DS && place->there &&
		place->node->cut == place->node;
}

/* Goes to what the alias at place stands for. False: the answer ends with it,
 * since that is not in the zone, or the aliases go round. */
static inline bool dns_follow(struct dns_reply *reply, struct dns_place *place,
	const struct dns_set *alias)
{
	const struct dns_link *link = &alias->links[0];
	size_t start = reply->len;
	int i;

	for (i = 0; i < reply->nr_aliases; i++)
		if (reply->aliases[i] == alias)
			return false;
	if (!dns_must_put(reply, alias, place->at, DNS_ANSWER) || !link->end ||
		reply->nr_aliases == DNS_MAX_CHAIN)
		return false;
	reply->aliases[reply->nr_aliases++] = alias;
	place->node = link->node;
	place->there = link->there;
	place->at = start + link->at;
	place->len = (size_t)(link->end - link->at) + reply->zone->apex->len;
	return true;
}

/* Answers what is asked of a name in the zone; and while that is an alias, of
 * what it stands for. */
static inline enum dns_rcode dns_look_up(
	struct dns_reply *reply, const struct dns_query *query)
{
	struct dns_place place = {.at = DNS_QUESTION, .len = query->name.len};
	const struct dns_node *node;
	const struct dns_set *set;
	size_t start;

	place.node = dns_nearest(reply->zone, &query->name, &place.there);
	do {
		node = place.node;
		if (node->cut && !dns_is_ours(&place, query->type)) {
			dns_refer(reply, node->cut,
				place.at + place.len - node->cut->len);
			return DNS_NOERROR;
		}
		reply->flags |= DNS_AA;
		if (!place.there)
			node = node->wildcard;
		if (!node)
			return dns_deny(reply, DNS_NXDOMAIN);
		start = reply->len;
		set = dns_set_of(node, query->type);
		if (set) {
			if (dns_must_put(reply, set, place.at, DNS_ANSWER))
				dns_put_addresses(reply, set, start, NULL);
			return DNS_NOERROR;
		}
		set = dns_set_of(node, DNS_CNAME);
		if (!set)
			return dns_deny(reply, DNS_NOERROR);
	} while (dns_follow(reply, &place, set));
	return DNS_NOERROR;
}

/* Answers what is not asked of the zone, or asked wrongly. */
static inline enum dns_rcode dns_ask(
	struct dns_reply *reply, const struct dns_query *query)
{
	const struct dns_node *apex = reply->zone->apex;

	if (query->version != 0)
		return DNS_BADVERS;
	if (query->class != DNS_IN || query->type == DNS_AXFR ||
		query->type == DNS_IXFR ||
		!dns_in_zone(reply->zone, &query->name))
		return DNS_REFUSED;
	reply->apex = DNS_QUESTION + (unsigned)query->name.len - apex->len;
	return dns_look_up(reply, query);
}

static inline void dns_put_opt(struct dns_reply *reply, enum dns_rcode rcode)
{
	uint8_t *opt = reply->wire + reply->len;

	memset(opt, 0, DNS_OPT_LEN);
	dns_put16(opt + 1, DNS_OPT);
	dns_put16(opt + 3, DNS_UDP_MOST);
	opt[5] = (uint8_t)(rcode >> 4);
	reply->len += DNS_OPT_LEN;
	dns_put16(reply->wire + DNS_ADDITIONAL,
		dns_get16(reply->wire + DNS_ADDITIONAL) + 1);
}

static inline size_t dns_limit(const struct dns_query *query, bool is_tcp)
{
	if (is_tcp)
		return DNS_TCP_MOST;
	if (query->size > DNS_UDP_MOST)
		return DNS_UDP_MOST;
	return query->size > DNS_UDP_PLAIN ? query->size : DNS_UDP_PLAIN;
}

/*
 * Writes the answer to the len bytes at wire, where there is room for
 * DNS_UDP_MOST bytes, or DNS_TCP_MOST if the query came by TCP: its length; 0:
 * there is none, since this is no query (and an answer to an answer might have
 * one itself).
 */
static inline size_t dns_answer(const struct dns_zone *zone, const void *from,
	size_t len, void *to, bool is_tcp)
{
	const uint8_t *wire = from;
	struct dns_reply reply = {.zone = zone, .wire = to, .len = DNS_HEADER};
	struct dns_query query;
	enum dns_rcode rcode;
	unsigned flags;

	if (len < DNS_HEADER || dns_get16(wire + 2) & DNS_QR)
		return 0;
	query.len = query.version = query.size = 0;
	query.edns = false;
	rcode = dns_read_query(&query, wire, len);
	memset(reply.wire, 0, DNS_HEADER);
	memcpy(reply.wire, wire, 2);
	dns_put16(reply.wire + 4, query.len > 0);
	memcpy(reply.wire + DNS_HEADER, wire + DNS_HEADER, query.len);
	reply.len += query.len;
	reply.limit = dns_limit(&query, is_tcp) -
		(query.edns ? DNS_OPT_LEN : 0);
	if (rcode == DNS_NOERROR)
		rcode = dns_ask(&reply, &query);
	if (query.edns)
		dns_put_opt(&reply, rcode);
	flags = dns_get16(wire + 2) & (DNS_OPCODE | DNS_RD);
	dns_put16(reply.wire + 2, DNS_QR | flags | reply.flags | (rcode & 15));
	return reply.len;
}

#endif /* DNS_MESSAGE_H */
