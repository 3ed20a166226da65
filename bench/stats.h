/*
 * stats.h: clocks, and what many noisy rounds boil down to. A mean would follow
 * the one round in which the machine did something else, so what is printed
 * are medians and quartiles. Two programs are compared round by round, since
 * what slows the machine for a while slows both: the median of these ratios
 * is what a target is held against.
 */
#ifndef BENCH_STATS_H
#define BENCH_STATS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_ROUNDS 101

struct quartiles {
	double low, median, high;
};

/* One figure of each round. */
typedef double series[MAX_ROUNDS];

enum aim { AT_LEAST, AT_MOST };

struct target {
	enum aim aim;
	double limit;
};

static inline int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static inline int compare_doubles(const void *a, const void *b)
{
	const double *x = a;
	const double *y = b;

	return (*x > *y) - (*x < *y);
}

/* Of n values in ascending order, the one that share of them (0 to 1) are
 * below; between two of them in proportion. */
static inline double quantile(const double *sorted, int n, double share)
{
	double place = share * (n - 1);
	int below = (int)place;

	if (below + 1 >= n)
		return sorted[n - 1];
	return sorted[below] +
		(place - below) * (sorted[below + 1] - sorted[below]);
}

static inline struct quartiles quartiles_of(const double *values, int n)
{
	series sorted;

	memcpy(sorted, values, (size_t)n * sizeof(*values));
	qsort(sorted, (size_t)n, sizeof(*sorted), compare_doubles);
	return (struct quartiles){.low = quantile(sorted, n, 0.25),
		.median = quantile(sorted, n, 0.5),
		.high = quantile(sorted, n, 0.75)};
}

static inline double median_of(const double *values, int n)
{
	return quartiles_of(values, n).median;
}

static inline struct quartiles ratios_of(
	const double *ours, const double *theirs, int n)
{
	series ratio = {0};

	for (int i = 0; i < n; i++)
		ratio[i] = ours[i] / theirs[i];
	return quartiles_of(ratio, n);
}

static inline const char *verdict(struct target target, double ratio)
{
	int met = target.aim == AT_LEAST ? ratio >= target.limit
					 : ratio <= target.limit;

	return met ? "met" : "missed";
}

/* How often to repeat: ROUNDS of the environment, at most MAX_ROUNDS. */
static inline int rounds_wanted(int usual)
{
	const char *text = getenv("ROUNDS");
	int rounds = text ? atoi(text) : 0;

	if (rounds < 1)
		return usual;
	return rounds < MAX_ROUNDS ? rounds : MAX_ROUNDS;
}

#endif /* BENCH_STATS_H */
