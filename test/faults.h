/*
 * faults.h: the parts of check-faults.
 *
 * A scenario is a function that starts something of the library's, uses it and
 * ends it, in a process of its own, in which one call of the library's fails:
 * the n-th, once, or that call again and again from then on. It goes through
 * all n. Whatever fails, a call may say so, with an errno and one line; but
 * nothing may hang or spin, and in the end nothing may be left.
 *
 * fault_calls.c has the calls, fault_run.c the processes and the figures,
 * fault_rig.c what scenarios have in common, fault_*.c the scenarios.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include "inject.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_SITES  512
#define FAULT_TEXT 4096

/* The calls of the table in inject.h, by number. */
#define NUMBER(name, lasting, passing) FAULT_##name,
enum fault_call { INJECT_CALLS(NUMBER) NR_CALLS };
#undef NUMBER

enum fault_mode { FAULT_ONCE, FAULT_FROM_THEN_ON, NR_MODES };

#define NO_SITE (-1)

/* Beside loopback's own the machine has this one, where that is allowed. */
#define FAULT_ADDRESS "10.11.12.13"

/* Where the library makes one of these calls. */
struct fault_site {
	uintptr_t address;
	int same; /* the first site with this call in this line */
	enum fault_call call;
	char where[64]; /* file:line */
};

extern struct fault_site fault_sites[MAX_SITES];
extern int nr_fault_sites;

/* Reads what fault-sites.sh has found; false, and it says why. */
bool fault_read_sites(const char *path);

const char *fault_call_name(enum fault_call call);

/* What is to fail. */
struct fault_plan {
	int n; /* 1 is the first; 0: none */
	enum fault_mode mode;
	int error; /* 0: whose turn it is, among the errnos of the call */
	int then;  /* a site that fails after that, or NO_SITE */
	int at;    /* then: the first one's */
	enum fault_mode then_mode;
};

/* What has come of it; in memory that the processes share. */
struct fault_result {
	int reached; /* the fault was */
	int n;       /* it was this call */
	int error;
	int site;              /* or NO_SITE: libevent's memory */
	int call;              /* of it */
	int then_failed;       /* the second fault was reached too */
	int injections;        /* how often a call was made to fail */
	char after[MAX_SITES]; /* not 0: reached after the fault */
	char text[FAULT_TEXT]; /* why it is wrong; empty: it is not */
};

/* How often each site was made to fail, libevent's memory last: in all, and in
 * this scenario. Once that is enough the next call fails in its place. */
extern int (*fault_hits)[NR_MODES];
extern int *fault_hits_here;
extern bool fault_every; /* it never is */

/* From here to fault_end calls are counted and fail; *result is told. The turns
 * of the errnos are at turns[NR_CALLS * NR_MODES], shared too. */
void fault_begin(
	const struct fault_plan *plan, struct fault_result *result, int *turns);
void fault_end(void);

struct fault_result *fault_result(void);

/* In between all is well for a while. */
void fault_pause(void);
void fault_resume(void);

/* Scenarios */

struct scenario {
	const char *name; /* a sentence, as those of tests */
	void (*run)(void);
};

extern const struct scenario classic_scenarios[];
extern const struct scenario helper_scenarios[];
extern const struct scenario pool_scenarios[];
extern const struct scenario conn_scenarios[];
extern const struct scenario udp_scenarios[];

/* The first thing that is wrong is kept, and the process ends. */
void fault_wrong(const char *file, int line, const char *format, ...)
	__attribute__((format(printf, 3, 4), noreturn));

/* One fault is looked at: what is wrong is printed at once. */
extern bool fault_alone;

#define MUST(condition)                                                       \
	do {                                                                  \
		if (!(condition))                                             \
			fault_wrong(                                          \
				__FILE__, __LINE__, "not true: " #condition); \
	} while (0)

#endif /* FAULTS_H */
