/*
 * table.h: the columns of the drivers' tables.
 */
#ifndef BENCH_TABLE_H
#define BENCH_TABLE_H

#include "results.h"

static inline void print_figure(
	const double *values, int rounds, int decimals, int width)
{
	struct quartiles q = quartiles_of(values, rounds);
	char spread[32];

	snprintf(spread, sizeof(spread), "%.*f-%.*f", decimals, q.low, decimals,
		q.high);
	printf(" %8.*f %-*s", decimals, q.median, width, spread);
}

static inline void print_ratio(const char *what, const double *ours,
	const double *theirs, int rounds, struct target target)
{
	struct quartiles q = ratios_of(ours, theirs, rounds);
	double of_medians = median_of(ours, rounds) / median_of(theirs, rounds);

	printf("%-28s %6.2f %6.2f-%-6.2f %9.2f    %s %.2f  %s\n", what,
		q.median, q.low, q.high, of_medians,
		target.aim == AT_LEAST ? ">=" : "<=", target.limit,
		verdict(target, q.median));
	results_goal(what, q, target);
}

#endif /* BENCH_TABLE_H */
