/*
 * cache-items.h: what examples/cache remembers: items that any worker may find,
 * store and remove, and that leave above a limit.
 *
 * A key's hash chooses one of 64 stripes, each with a lock and a hash table
 * (uthash's), so that workers seldom meet. An item holds the answer to a get as
 * a text, and that does not change while refs says that others read it: it is
 * sent without a lock, from where it lies; whoever is the last to need it frees
 * it.
 *
 * Above the limit items leave in the order they came, of the stripe that has
 * grown, then of the others; but one that was used goes to the end instead, as
 * if it had just come. That is nearly the order of use, and a get writes to
 * nothing but the item that it finds. What is dead, expired or flushed, is
 * removed when it is found.
 */
#ifndef CACHE_ITEMS_H
#define CACHE_ITEMS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1 /* hh.tbl of what could not be added is NULL */
#include <uthash.h>
#undef HASH_BKT_CAPACITY_THRESH
#define HASH_BKT_CAPACITY_THRESH 4U /* items of a bucket; 10 are slow */

#define ITEM_STRIPES 64
#define ITEM_KINDS   20 /* of commands, counted each for itself */

struct text {
	const char *at;
	size_t len;
};

struct item {
	UT_hash_handle hh;
	unsigned long cas;
	atomic_uint refs;         /* the table's, and those of who reads it */
	uint32_t stored, expires; /* the seconds; never: 0 */
	uint32_t flushes;         /* there were before it was stored */
	uint32_t flags;
	uint32_t head, len; /* of text before the value; of the value */
	bool used;
	char text[]; /* "VALUE key flags len\r\n", the value, "\r\n" */
};

struct stripe {
	_Alignas(64) pthread_mutex_t lock;
	struct item *table;                  /* the first is the oldest */
	unsigned long cas;                   /* the last given */
	unsigned long counts[ITEM_KINDS][2]; /* not found, and found */
};

static struct {
	struct stripe stripes[ITEM_STRIPES];
	size_t limit;
	atomic_size_t bytes; /* of all, those too that are only being sent */
	atomic_ulong count, evictions;
	atomic_uint flushes;
	atomic_uint flush_at; /* what is stored up to then is dead then */
} items;

static inline void init_items(size_t limit)
{
	int i;

	items.limit = limit;
	for (i = 0; i < ITEM_STRIPES; i++) {
		pthread_mutex_init(&items.stripes[i].lock, NULL);
		items.stripes[i].cas = (unsigned long)i;
	}
}

static inline size_t size_of_item(const struct item *item)
{
	return sizeof(*item) + item->head + item->len + 2;
}

static inline void release_item(void *arg)
{
	struct item *item = arg;

	if (atomic_fetch_sub(&item->refs, 1) > 1)
		return;
	items.bytes -= size_of_item(item);
	items.count--;
	free(item);
}

/* Not in the table, its value is to be filled in. NULL: no memory. */
static inline struct item *new_item(struct text key, uint32_t flags, size_t len)
{
	size_t head = sizeof("VALUE  4294967295 1048576\r\n") + key.len;
	struct item *item = malloc(sizeof(*item) + head + len + 2);

	if (!item)
		return NULL;
	memset(item, 0, sizeof(*item));
	item->refs = 1;
	item->flags = flags;
	item->len = (uint32_t)len;
	item->head = (uint32_t)snprintf(item->text, head,
		"VALUE %.*s %u %zu\r\n", (int)key.len, key.at, flags, len);
	memcpy(item->text + item->head + len, "\r\n", 2);
	items.bytes += size_of_item(item);
	items.count++;
	return item;
}

static inline unsigned hash_of(struct text key)
{
	unsigned hash;

	HASH_VALUE(key.at, key.len, hash);
	return hash;
}

static inline struct stripe *lock_stripe(unsigned hash)
{
	struct stripe *stripe = &items.stripes[(hash >> 16) % ITEM_STRIPES];

	pthread_mutex_lock(&stripe->lock);
	return stripe;
}

/* From here on the stripe is locked. */

static inline void remove_item(struct stripe *stripe, struct item *item)
{
	HASH_DEL(stripe->table, item);
	release_item(item);
}

/* Puts it at the end. False: no memory, it is released. */
static inline bool add_item(
	struct stripe *stripe, struct item *item, size_t key_len, unsigned hash)
{
	HASH_ADD_KEYPTR_BYHASHVALUE(
		hh, stripe->table, item->text + 6, key_len, hash, item);
	if (item->hh.tbl)
		return true;
	release_item(item);
	return false;
}

static inline bool is_dead(const struct item *item, uint32_t now)
{
	return (item->expires != 0 && item->expires <= now) ||
		item->flushes != items.flushes ||
		(item->stored <= items.flush_at && items.flush_at <= now);
}

/* NULL: there is none. */
static inline struct item *find_item(struct stripe *stripe, struct text key,
	unsigned hash, uint32_t now, unsigned kind)
{
	struct item *item;

	HASH_FIND_BYHASHVALUE(hh, stripe->table, key.at, key.len, hash, item);
	if (item && is_dead(item, now)) {
		remove_item(stripe, item);
		item = NULL;
	}
	if (item)
		item->used = true;
	stripe->counts[kind][item != NULL]++;
	return item;
}

/* It has a value now that it had not before. */
static inline void stamp_item(
	struct stripe *stripe, struct item *item, uint32_t now)
{
	item->stored = now;
	item->flushes = items.flushes;
	item->cas = stripe->cas += ITEM_STRIPES;
}

/* From here on none is locked. */

/* How often one of that kind was found, or not. */
static inline unsigned long sum_of_counts(unsigned kind, bool found)
{
	struct stripe *stripe;
	unsigned long sum = 0;
	unsigned i;

	for (i = 0; i < ITEM_STRIPES; i++) {
		stripe = lock_stripe(i << 16);
		sum += stripe->counts[kind][found];
		pthread_mutex_unlock(&stripe->lock);
	}
	return sum;
}

static inline void reset_counts(void)
{
	struct stripe *stripe;
	unsigned i;

	for (i = 0; i < ITEM_STRIPES; i++) {
		stripe = lock_stripe(i << 16);
		memset(stripe->counts, 0, sizeof(stripe->counts));
		pthread_mutex_unlock(&stripe->lock);
	}
	items.evictions = 0;
}

/* Those above the limit leave; but the last that came to the
 * stripe that has grown stays. */
static inline void evict_items(unsigned hash)
{
	struct stripe *stripe;
	struct item *item;
	unsigned i;

	for (i = 0; i < ITEM_STRIPES && items.bytes > items.limit; i++) {
		stripe = lock_stripe(hash + (i << 16));
		while (items.bytes > items.limit && (item = stripe->table) &&
			(i > 0 || item->hh.next)) {
			if (!item->used) {
				remove_item(stripe, item);
				items.evictions++;
				continue;
			}
			item->used = false;
			HASH_DEL(stripe->table, item);
			add_item(stripe, item, item->hh.keylen, item->hh.hashv);
		}
		pthread_mutex_unlock(&stripe->lock);
	}
}

#endif /* CACHE_ITEMS_H */
