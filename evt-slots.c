/*
 * evt-slots.c: elements in slabs of 64, and the slabs in an array, so that an
 * element is found by its number without a search.
 *
 * malloc(3) for each element was rejected: it costs 16 bytes more for each, and
 * a table of pointers and generations another 12. A slab whose elements are all
 * free is given back, all but one; what stays of it is the highest generation
 * it ever gave, so that no number comes again. A slot whose generations are
 * used up is not used any more.
 */
#include "evt-slots-internal.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SLAB_SLOTS 64u
#define NO_SLAB    UINT32_MAX
#define MAX_SLABS  ((1u << EVT_SLOT_BITS) / SLAB_SLOTS)
#define FIRST_ROOM 8u

struct evt_slab {
	char *elements;   /* NULL: given back */
	uint64_t used;    /* a bit for each slot */
	uint64_t retired; /* of these no generation is left */
	uint32_t base;    /* while given back: the highest generation it gave */
	uint32_t next;    /* with a free slot, or NO_SLAB */
};

void evt_slots_init_(struct evt_slots *slots, size_t element)
{
	memset(slots, 0, sizeof(*slots));
	slots->element = element;
	slots->partial = NO_SLAB;
}

void evt_slots_free_(struct evt_slots *slots)
{
	uint32_t i;

	for (i = 0; i < slots->nr_slabs; i++)
		free(slots->slabs[i].elements);
	free(slots->slabs);
	evt_slots_init_(slots, slots->element);
}

static struct evt_slot *slot_at(
	const struct evt_slots *slots, const struct evt_slab *slab, uint32_t at)
{
	void *element = slab->elements + at * slots->element;

	return element;
}

static uint64_t bit(uint32_t at)
{
	return (uint64_t)1 << (at % SLAB_SLOTS);
}

static bool is_full(const struct evt_slab *slab)
{
	return (slab->used | slab->retired) == UINT64_MAX;
}

/* The first slab that was given back, or else a new one at the end; NULL:
 * none. */
static struct evt_slab *slab_without_memory(struct evt_slots *slots)
{
	uint32_t room = slots->room ? 2 * slots->room : FIRST_ROOM;
	uint32_t i = slots->nr_empty > 0 ? 0 : slots->nr_slabs;
	struct evt_slab *slabs;

	while (i < slots->nr_slabs && slots->slabs[i].elements)
		i++;
	if (i < slots->nr_slabs)
		return &slots->slabs[i];
	if (i == MAX_SLABS)
		return NULL;
	if (i == slots->room) {
		slabs = realloc(slots->slabs, room * sizeof(*slabs));
		if (!slabs)
			return NULL;
		slots->slabs = slabs;
		slots->room = room;
	}
	memset(&slots->slabs[i], 0, sizeof(slots->slabs[i]));
	slots->nr_slabs++;
	slots->nr_empty++;
	return &slots->slabs[i];
}

/* Gets memory for one more slab, and puts it into the list. */
static bool add_slab(struct evt_slots *slots)
{
	struct evt_slab *slab = slab_without_memory(slots);
	uint32_t at;

	if (!slab)
		return false;
	slots->nr_empty--;
	slab->elements = calloc(SLAB_SLOTS, slots->element);
	if (!slab->elements) {
		slots->nr_empty++;
		return false;
	}
	for (at = 0; at < SLAB_SLOTS; at++)
		slot_at(slots, slab, at)->generation = slab->base;
	slab->next = slots->partial;
	slots->partial = (uint32_t)(slab - slots->slabs);
	return true;
}

void *evt_slots_take_(struct evt_slots *slots)
{
	struct evt_slab *slab;
	struct evt_slot *slot;
	uint32_t generation;
	uint32_t at;

	if (slots->partial == NO_SLAB && !add_slab(slots))
		return NULL;
	slab = &slots->slabs[slots->partial];
	at = (uint32_t)__builtin_ctzll(~(slab->used | slab->retired));
	slot = slot_at(slots, slab, at);
	generation = slot->generation + 1;
	memset(slot, 0, slots->element);
	slot->index = slots->partial * SLAB_SLOTS + at;
	slot->generation = generation;
	slab->used |= bit(at);
	if (is_full(slab))
		slots->partial = slab->next;
	slots->nr_used++;
	return slot;
}

static void unlist(struct evt_slots *slots, uint32_t index)
{
	uint32_t *link = &slots->partial;

	while (*link != index)
		link = &slots->slabs[*link].next;
	*link = slots->slabs[index].next;
}

static void give_back(struct evt_slots *slots, struct evt_slab *slab)
{
	uint32_t at;

	unlist(slots, (uint32_t)(slab - slots->slabs));
	for (at = 0; at < SLAB_SLOTS; at++) {
		uint32_t generation = slot_at(slots, slab, at)->generation;

		slab->base = generation > slab->base ? generation : slab->base;
	}
	free(slab->elements);
	slab->elements = NULL;
	slots->nr_empty++;
}

void evt_slots_give_(struct evt_slots *slots, struct evt_slot *slot)
{
	uint32_t index = slot->index / SLAB_SLOTS;
	struct evt_slab *slab = &slots->slabs[index];
	bool was_full = is_full(slab);

	slab->used &= ~bit(slot->index);
	slots->nr_used--;
	if (slot->generation == EVT_GENERATION_MAX)
		slab->retired |= bit(slot->index);
	if (was_full && !is_full(slab)) {
		slab->next = slots->partial;
		slots->partial = index;
	}
	/* Not the only one, or a connection that comes and goes would have it
	 * made and given back each time. */
	if (slab->used == 0 && slab->retired == 0 &&
		(slots->partial != index || slab->next != NO_SLAB))
		give_back(slots, slab);
}

void *evt_slots_find_(
	const struct evt_slots *slots, uint32_t index, uint32_t generation)
{
	const struct evt_slab *slab;
	struct evt_slot *slot;

	if (index / SLAB_SLOTS >= slots->nr_slabs)
		return NULL;
	slab = &slots->slabs[index / SLAB_SLOTS];
	if (!slab->elements || !(slab->used & bit(index)))
		return NULL;
	slot = slot_at(slots, slab, index % SLAB_SLOTS);
	return slot->generation == generation ? slot : NULL;
}

void *evt_slots_next_(const struct evt_slots *slots, uint32_t index)
{
	uint32_t i = index / SLAB_SLOTS;
	uint64_t skipped = bit(index) - 1; /* in the first slab alone */

	for (; i < slots->nr_slabs; i++, skipped = 0) {
		uint64_t used = slots->slabs[i].used & ~skipped;

		if (used)
			return slot_at(slots, &slots->slabs[i],
				(uint32_t)__builtin_ctzll(used));
	}
	return NULL;
}
