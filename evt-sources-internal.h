/*
 * evt-sources-internal.h: how many connections each address has open. One
 * thread takes; any thread gives back.
 */
#ifndef EVT_SOURCES_INTERNAL_H
#define EVT_SOURCES_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct evt_sources;

#define EVT_SOURCE_NONE    0 /* not counted */
#define EVT_SOURCE_MAX     ((1u << 21) - 1)
#define EVT_SOURCE_REFUSED UINT32_MAX

/* For nr connections in all; NULL: ENOMEM. */
struct evt_sources *evt_sources_new_(int nr);
void evt_sources_free_(struct evt_sources *);

/*
 * One more connection from peer, an IPv4 address or the first 64 bits of an
 * IPv6 one, where max are allowed: a number to give back; EVT_SOURCE_NONE for
 * an address of another family; or EVT_SOURCE_REFUSED.
 */
uint32_t evt_sources_take_(
	struct evt_sources *, const struct sockaddr *peer, int max);
void evt_sources_give_(struct evt_sources *, uint32_t number);

#endif /* EVT_SOURCES_INTERNAL_H */
