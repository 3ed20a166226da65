/*
 * figures.h: what the drivers measure of a server in each round: CPU time and
 * rate, and how long its clients wait, as the clients' lines of figures say it.
 */
#ifndef BENCH_FIGURES_H
#define BENCH_FIGURES_H

#include "server.h"
#include "table.h"

enum { CPU, RATE, P50, P90, P99, P999, WORST, NR_FIGURES };

/* As the clients call it; as the results do. */
static const struct {
	const char *key, *name;
} figure_names[NR_FIGURES] = {
	[CPU] = {NULL, "CPU, us of each"},
	[RATE] = {NULL, "rate, 1/s"},
	[P50] = {"p50", "p50, us"},
	[P90] = {"p90", "p90, us"},
	[P99] = {"p99", "p99, us"},
	[P999] = {"p999", "p99.9, us"},
	[WORST] = {"max", "worst, us"},
};

/* In the turns of one round. */
struct spent {
	int turns;
	int64_t cpu_ns;
	double count; /* of what was done */
	double seconds;
	double us[NR_FIGURES]; /* sums; the worst of WORST */
};

/* line is what a client has said of a turn in which it did count. */
static inline void spent_add(
	struct spent *spent, const char *line, double count)
{
	spent->turns++;
	spent->count += count;
	spent->seconds += value_of(line, "seconds");
	for (int i = P50; i < NR_FIGURES; i++) {
		double us = 0;

		if (!find_value(line, figure_names[i].key, &us))
			continue;
		if (i == WORST)
			spent->us[i] = us > spent->us[i] ? us : spent->us[i];
		else
			spent->us[i] += us;
	}
}

static inline void spent_note(
	const struct spent *spent, series *figure, int round)
{
	figure[CPU][round] = (double)spent->cpu_ns / 1000 / spent->count;
	figure[RATE][round] = spent->count / spent->seconds;
	for (int i = P50; i < WORST; i++)
		figure[i][round] = spent->us[i] / spent->turns;
	figure[WORST][round] = spent->us[WORST];
}

/* What the clients did not say is 0 in all rounds. */
static inline void record_figures(const char *side, series *figure, int rounds)
{
	for (int i = 0; i < NR_FIGURES; i++) {
		if (figure[i][0] > 0)
			results_series(
				side, figure_names[i].name, figure[i], rounds);
	}
}

static inline void print_figure_heads(void)
{
	printf("%-11s %8s %-13s %8s %-15s %8s\n", "", "CPU us", "of each",
		"rate/s", "", "p99 us");
}

/* Ends without a newline. */
static inline void print_figures(const char *side, series *figure, int rounds)
{
	printf("%-11s", side);
	print_figure(figure[CPU], rounds, 2, 13);
	print_figure(figure[RATE], rounds, 0, 15);
	if (figure[P99][0] > 0)
		print_figure(figure[P99], rounds, 0, 0);
	record_figures(side, figure, rounds);
}

static inline void print_ratio_heads(const char *ours)
{
	char what[32];

	snprintf(what, sizeof(what), "%s's by", ours);
	printf("%-28s %6s %-13s %9s    %s\n", what, "ratio", "  quartiles",
		"of medians", "target");
}

#endif /* BENCH_FIGURES_H */
