/*
 * histogram.h: times in ns, counted in cells that are 1/64 of an octave wide,
 * so that any number of them takes the same memory and is known to 1.6 %.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS 64
#define HISTOGRAM_CELLS (HISTOGRAM_STEPS * 59)

struct histogram {
	uint64_t cells[HISTOGRAM_CELLS];
	uint64_t count;
	int64_t max_ns;
};

/* Cells 0 to 127 hold one value each, the next 64 two, then four, ... */
static inline void histogram_add(struct histogram *h, int64_t ns)
{
	uint64_t value = ns > 0 ? (uint64_t)ns : 0;
	int octave = value < HISTOGRAM_STEPS ? 0 : 57 - __builtin_clzll(value);

	h->cells[(uint64_t)octave * HISTOGRAM_STEPS + (value >> octave)]++;
	h->count++;
	if (ns > h->max_ns)
		h->max_ns = ns;
}

/* The time, in us, that share (0 to 1) of them are not above. */
static inline double histogram_us(const struct histogram *h, double share)
{
	double wanted = share * (double)h->count;
	double sum = 0;

	for (uint64_t i = 0; i < HISTOGRAM_CELLS; i++) {
		uint64_t octave = i < 2 * HISTOGRAM_STEPS
			? 0
			: i / HISTOGRAM_STEPS - 1;

		sum += (double)h->cells[i];
		if (sum > 0 && sum >= wanted)
			return (double)((i - octave * HISTOGRAM_STEPS)
				       << octave) /
				1000;
	}
	return 0;
}

static inline double histogram_max_us(const struct histogram *h)
{
	return (double)h->max_ns / 1000;
}

#endif /* BENCH_HISTOGRAM_H */
