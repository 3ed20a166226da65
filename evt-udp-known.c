/*
 * evt-udp-known.c: a table of senders that were validated, of a fixed size.
 *
 * All stay for the same time, so the order in which they came is the one in
 * which they go: a list from the newest to the oldest. They are found by a
 * hash with a secret key: who has many addresses cannot have them all in one
 * chain.
 */
#include "evt-udp-internal.h"
#include "evt-net-internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define STAYS_MS 300000
#define BUCKETS  8192u
#define NONE     UINT16_MAX

struct known {
	struct evt_udp_who who;
	int64_t until_ms;
	uint16_t next; /* in its bucket */
	uint16_t newer, older;
};

struct evt_known {
	uint64_t key[2];
	uint16_t nr;
	uint16_t newest, oldest;
	uint16_t buckets[BUCKETS];
	struct known all[EVT_KNOWN_MAX];
};

struct evt_known *evt_known_new_(void)
{
	struct evt_known *known = malloc(sizeof(*known));

	if (!known)
		return NULL;
	known->nr = 0;
	known->newest = known->oldest = NONE;
	memset(known->buckets, 0xff, sizeof(known->buckets));
	known->key[0] = (uint64_t)time(NULL) ^ (uintptr_t)known;
	known->key[1] = 0;
	/* Early in a boot there may be none yet: better a poor key than to
	 * wait. */
	if (getrandom(known->key, sizeof(known->key), GRND_NONBLOCK) == -1)
		known->key[1] = known->key[0] << 32;
	return known;
}

void evt_known_free_(struct evt_known *known)
{
	free(known);
}

bool evt_udp_who_(const struct sockaddr *addr, struct evt_udp_who *who)
{
	static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
	unsigned char bytes[16];
	struct sockaddr_in6 in6;
	struct sockaddr_in in;

	memset(who, 0, sizeof(*who));
	if (addr->sa_family == AF_INET) {
		memcpy(&in, addr, sizeof(in));
		memcpy(bytes, mapped, sizeof(mapped));
		memcpy(bytes + sizeof(mapped), &in.sin_addr, 4);
		who->port = in.sin_port;
	} else if (addr->sa_family == AF_INET6) {
		memcpy(&in6, addr, sizeof(in6));
		memcpy(bytes, &in6.sin6_addr, sizeof(bytes));
		who->port = in6.sin6_port;
		who->scope = in6.sin6_scope_id;
	} else {
		return false;
	}
	memcpy(&who->high, bytes, sizeof(who->high));
	memcpy(&who->low, bytes + sizeof(who->high), sizeof(who->low));
	return true;
}

static uint32_t bucket_of(
	const struct evt_known *known, const struct evt_udp_who *who)
{
	const uint64_t words[] = {
		who->high, who->low, (uint64_t)who->scope << 32 | who->port};

	return (uint32_t)evt_siphash_(known->key, words, 3) & (BUCKETS - 1);
}

static uint16_t find(
	const struct evt_known *known, const struct evt_udp_who *who)
{
	uint16_t i = known->buckets[bucket_of(known, who)];

	while (i != NONE && memcmp(&known->all[i].who, who, sizeof(*who)) != 0)
		i = known->all[i].next;
	return i;
}

/* In the list of their age */

static void take_out(struct evt_known *known, uint16_t i)
{
	struct known *it = &known->all[i];

	if (it->newer == NONE)
		known->newest = it->older;
	else
		known->all[it->newer].older = it->older;
	if (it->older == NONE)
		known->oldest = it->newer;
	else
		known->all[it->older].newer = it->newer;
}

static void put_first(struct evt_known *known, uint16_t i)
{
	struct known *it = &known->all[i];

	it->newer = NONE;
	it->older = known->newest;
	if (known->newest == NONE)
		known->oldest = i;
	else
		known->all[known->newest].newer = i;
	known->newest = i;
}

/* A place for one more: the oldest's if all are taken. */
static uint16_t place_for_one(struct evt_known *known)
{
	uint16_t i = known->oldest;
	uint16_t *link;

	if (known->nr < EVT_KNOWN_MAX)
		return known->nr++;
	link = &known->buckets[bucket_of(known, &known->all[i].who)];
	while (*link != i)
		link = &known->all[*link].next;
	*link = known->all[i].next;
	take_out(known, i);
	return i;
}

bool evt_known_add_(
	struct evt_known *known, const struct sockaddr *addr, int64_t now_ms)
{
	struct evt_udp_who who;
	uint16_t *bucket;
	uint16_t i;

	if (!evt_udp_who_(addr, &who))
		return false;
	i = find(known, &who);
	if (i != NONE) {
		take_out(known, i);
	} else {
		i = place_for_one(known);
		bucket = &known->buckets[bucket_of(known, &who)];
		known->all[i].who = who;
		known->all[i].next = *bucket;
		*bucket = i;
	}
	known->all[i].until_ms = now_ms + STAYS_MS;
	put_first(known, i);
	return true;
}

bool evt_known_has_(const struct evt_known *known, const struct sockaddr *addr,
	int64_t now_ms)
{
	struct evt_udp_who who;
	uint16_t i;

	if (!evt_udp_who_(addr, &who))
		return false;
	i = find(known, &who);
	return i != NONE && now_ms < known->all[i].until_ms;
}
