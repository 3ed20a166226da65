/*
 * evt-slots-internal.h: the memory of a worker's connections, numbered, so that
 * a number can be kept for ever: a slot and its generation. One thread.
 */
#ifndef EVT_SLOTS_INTERNAL_H
#define EVT_SLOTS_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#define EVT_SLOT_BITS       24
#define EVT_GENERATION_BITS 24
#define EVT_GENERATION_MAX  ((1u << EVT_GENERATION_BITS) - 1)

/* What every element begins with. */
struct evt_slot {
	uint32_t index;
	uint32_t generation; /* from 1; of a free one the last it had */
};

struct evt_slab;

struct evt_slots {
	size_t element;         /* bytes of one */
	struct evt_slab *slabs; /* nr_slabs of them */
	uint32_t nr_slabs;
	uint32_t room;     /* for so many slabs */
	uint32_t partial;  /* of the slabs with a free slot the first */
	uint32_t nr_empty; /* of the slabs, without memory */
	uint32_t nr_used;
};

void evt_slots_init_(struct evt_slots *slots, size_t element);

/* All elements have to be given back. */
void evt_slots_free_(struct evt_slots *slots);

/* A zeroed element, its slot filled in; NULL: no memory, or no number left. */
void *evt_slots_take_(struct evt_slots *slots);

void evt_slots_give_(struct evt_slots *slots, struct evt_slot *slot);

/* The element of that number; NULL if it has been given back. */
void *evt_slots_find_(
	const struct evt_slots *slots, uint32_t index, uint32_t generation);

/* The first element in use from index on; NULL when there is none. */
void *evt_slots_next_(const struct evt_slots *slots, uint32_t index);

#endif /* EVT_SLOTS_INTERNAL_H */
