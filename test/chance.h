/*
 * chance.h: numbers by chance, the same ones again from the same next_seed.
 * Each thread draws its own; the seed makes the first ones.
 */
#ifndef CHANCE_H
#define CHANCE_H

#include <stdatomic.h>

static atomic_uint next_seed;
static _Thread_local unsigned int chance;

static inline unsigned int draw(unsigned int below)
{
	while (chance == 0)
		chance = atomic_fetch_add(&next_seed, 1) * 2654435761u;
	chance ^= chance << 13;
	chance ^= chance >> 17;
	chance ^= chance << 5;
	return chance % below;
}

#endif /* CHANCE_H */
