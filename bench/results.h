/*
 * results.h: what a driver has measured, written to bench/results/DRIVER.tsv
 * for bench/report: every round, not only the medians that it prints. A record
 * is a line, its fields are separated by tabs:
 *
 *	run DRIVER TIME			TIME in UTC
 *	table OURS TITLE		OURS being the side that is ours
 *	value SIDE FIGURE ROUND VALUE	FIGURE says its unit
 *	goal WHAT AIM LIMIT MEDIAN LOW HIGH VERDICT
 *	skipped WHAT WHY
 *
 * The last three belong to the table before them. The file takes the place of
 * the last run's when the driver has come to its end.
 */
#ifndef BENCH_RESULTS_H
#define BENCH_RESULTS_H

#include "stats.h"

#include <errno.h>
#include <sys/stat.h>

static struct {
	FILE *file; /* NULL: nothing is written */
	char path[64];
	char unfinished[72];
} results;

static inline void results_open(const char *driver)
{
	time_t now = time(NULL);
	struct tm utc;
	char text[32];

	snprintf(results.path, sizeof(results.path), "bench/results/%s.tsv",
		driver);
	snprintf(results.unfinished, sizeof(results.unfinished), "%s.new",
		results.path);
	mkdir("bench/results", 0777);
	results.file = fopen(results.unfinished, "we");
	if (!results.file) {
		fprintf(stderr, "bench: %s: %s; goes without\n",
			results.unfinished, strerror(errno));
		return;
	}
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M", gmtime_r(&now, &utc));
	fprintf(results.file, "run\t%s\t%s\n", driver, text);
}

static inline void results_close(void)
{
	if (results.file &&
		(fclose(results.file) != 0 ||
			rename(results.unfinished, results.path) == -1))
		fprintf(stderr, "bench: %s: %s\n", results.path,
			strerror(errno));
	results.file = NULL;
}

static inline void results_table(const char *ours, const char *title)
{
	if (results.file)
		fprintf(results.file, "table\t%s\t%s\n", ours, title);
}

static inline void results_series(
	const char *side, const char *figure, const double *values, int rounds)
{
	for (int i = 0; results.file && i < rounds; i++)
		fprintf(results.file, "value\t%s\t%s\t%d\t%.6g\n", side, figure,
			i, values[i]);
}

static inline void results_value(
	const char *side, const char *figure, double value)
{
	results_series(side, figure, &value, 1);
}

static inline void results_goal(
	const char *what, struct quartiles q, struct target target)
{
	if (results.file)
		fprintf(results.file,
			"goal\t%s\t%s\t%g\t%.4g\t%.4g\t%.4g\t%s\n", what,
			target.aim == AT_LEAST ? ">=" : "<=", target.limit,
			q.median, q.low, q.high, verdict(target, q.median));
}

/* A figure that is held against a limit, not against another's. */
static inline void results_limit(
	const char *what, double value, struct target target)
{
	results_goal(what, (struct quartiles){value, value, value}, target);
}

static inline void results_skipped(const char *what, const char *why)
{
	if (results.file)
		fprintf(results.file, "skipped\t%s\t%s\n", what, why);
}

#endif /* BENCH_RESULTS_H */
