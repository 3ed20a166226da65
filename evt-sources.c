/*
 * evt-sources.c: a table of addresses and counts, of a fixed size, twice as
 * many places as there may be connections.
 *
 * An address is looked for in the sixteen places from its hash on, and a place
 * whose count is 0 may be taken for another, so nothing is ever moved or
 * deleted, and the thread that closes a connection only counts down. The hash
 * has a secret key, so that nobody can aim at sixteen places in a row. Where
 * they are full all the same the connection is let in uncounted.
 */
#include "evt-sources-internal.h"
#include "evt-net-internal.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define WINDOW     16u
#define MIN_PLACES 64u
#define MAX_PLACES (1u << 20)

struct place {
	uint64_t source; /* the taker's; of no meaning while count is 0 */
	atomic_int count;
};

struct evt_sources {
	uint64_t key[2];
	uint32_t nr; /* a power of two */
	struct place places[];
};

struct evt_sources *evt_sources_new_(int nr)
{
	struct evt_sources *sources;
	uint32_t places = MIN_PLACES;

	while (places < MAX_PLACES && places / 2 < (uint32_t)nr)
		places *= 2;
	sources = calloc(
		1, sizeof(*sources) + places * sizeof(sources->places[0]));
	if (!sources)
		return NULL;
	sources->nr = places;
	/* Early in a boot there may be none yet: better a poor key than to
	 * wait. */
	if (getrandom(sources->key, sizeof(sources->key), GRND_NONBLOCK) == -1)
		sources->key[0] = (uint64_t)time(NULL) ^ (uintptr_t)sources;
	return sources;
}

void evt_sources_free_(struct evt_sources *sources)
{
	free(sources);
}

/* A number for the network that peer is in; false: it is in none. */
static bool source_of(const struct sockaddr *peer, uint64_t *source)
{
	struct sockaddr_in6 in6;
	struct sockaddr_in in;
	uint32_t ipv4;

	if (peer->sa_family == AF_INET) {
		memcpy(&in, peer, sizeof(in));
		ipv4 = in.sin_addr.s_addr;
	} else if (peer->sa_family == AF_INET6) {
		memcpy(&in6, peer, sizeof(in6));
		memcpy(source, &in6.sin6_addr, sizeof(*source));
		if (!IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr))
			return true;
		memcpy(&ipv4, &in6.sin6_addr.s6_addr[12], sizeof(ipv4));
	} else {
		return false;
	}
	/* ::/64 is nobody's network, so these do not meet any of IPv6. */
	*source = (uint64_t)ipv4 << 32 | 0xffffffffu;
	return true;
}

static uint32_t hash(const struct evt_sources *sources, uint64_t source)
{
	uint64_t x = source ^ sources->key[0];

	x *= 0x9e3779b97f4a7c15u;
	x ^= x >> 32;
	x += sources->key[1];
	x *= 0xd6e8feb86659fd93u;
	x ^= x >> 32;
	return (uint32_t)x & (sources->nr - 1);
}

uint32_t evt_sources_take_(
	struct evt_sources *sources, const struct sockaddr *peer, int max)
{
	struct place *free_place = NULL;
	uint64_t source;
	uint32_t from;
	uint32_t i;

	if (!source_of(peer, &source))
		return EVT_SOURCE_NONE;
	from = hash(sources, source);
	for (i = 0; i < WINDOW; i++) {
		struct place *place =
			&sources->places[(from + i) & (sources->nr - 1)];
		int count = atomic_load(&place->count);

		if (count == 0 && !free_place)
			free_place = place;
		if (count == 0 || place->source != source)
			continue;
		if (count >= max)
			return EVT_SOURCE_REFUSED;
		free_place = place;
		break;
	}
	if (!free_place)
		return EVT_SOURCE_NONE;
	free_place->source = source;
	atomic_fetch_add(&free_place->count, 1);
	return (uint32_t)(free_place - sources->places) + 1;
}

void evt_sources_give_(struct evt_sources *sources, uint32_t number)
{
	if (number != EVT_SOURCE_NONE)
		atomic_fetch_sub(&sources->places[number - 1].count, 1);
}
