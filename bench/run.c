/*
 * run.c: `make bench`. Floods three servers in turn and compares them: bare
 * (epoll and pipes without a library, the limit), evt_test (the library), and
 * polling (how it was done in 2010); then counts what an idle server does, and
 * runs bench/handoff. From the top of the tree; ROUNDS=n repeats it n times
 * instead of 15.
 *
 * A machine that does something else for a minute must not decide who wins.
 * So the rounds are many and short, each measures all servers, started anew and
 * one at a time, in an order that rotates, and what counts is the median.
 * The CPU time is the server's alone, the client's is not in it.
 *
 * The exit status says that everything ran and every client was served, not
 * that a target was reached: that depends on the machine.
 */
#include "figures.h"
#include "proc.h"

#define USUAL_ROUNDS  15
#define WORKERS       2
#define WARM_UP       500
#define IDLE_WORKERS  8
#define IDLE_SWITCHES 5 /* a second: the target */
#define NR_SERVERS    3
#define NR_LOADS      2

enum { BARE, EVT, POLLING };

static const char *const path[NR_SERVERS] = {
	"bench/bare", "test/evt_test", "bench/polling"};
static const char *const name[NR_SERVERS] = {"bare", "evt_test", "polling"};

struct load {
	int in_flight;
	int transactions[NR_SERVERS];
	double polling_rate; /* target: this many times polling's */
	int failures[NR_SERVERS];
	series figure[NR_SERVERS][NR_FIGURES];
};

static struct load loads[NR_LOADS] = {
	{.in_flight = 4,
		.transactions = {5000, 5000, 3000},
		.polling_rate = 3.5},
	{.in_flight = 64,
		.transactions = {5000, 5000, 5000},
		.polling_rate = 8},
};

static struct server start(int which, int workers)
{
	return server_start(path[which], workers, NULL);
}

static void measure(struct load *load, int which, int nr)
{
	struct server server = start(which, WORKERS);
	int transactions = load->transactions[which];
	struct spent spent = {.turns = 0};
	char line[1024];
	int *failures = &load->failures[which];

	*failures += flood(
		&server, WARM_UP, load->in_flight, line, sizeof(line));
	spent.cpu_ns = -child_cpu_ns(&server.child);
	*failures += flood(
		&server, transactions, load->in_flight, line, sizeof(line));
	spent.cpu_ns += child_cpu_ns(&server.child);
	spent_add(&spent, line, transactions);
	spent_note(&spent, load->figure[which], nr);
	server_stop(&server);
}

static void measure_round(struct load *load, int round)
{
	for (int i = 0; i < NR_SERVERS; i++)
		measure(load, (round + i) % NR_SERVERS, round);
}

static void measure_all(int rounds)
{
	int terminal = isatty(STDERR_FILENO);

	for (int round = 0; round < rounds; round++) {
		if (terminal)
			fprintf(stderr, "\rround %d of %d ", round + 1, rounds);
		for (int i = 0; i < NR_LOADS; i++)
			measure_round(&loads[i], round);
	}
	if (terminal)
		fprintf(stderr, "\r%20s\r", "");
}

/* Tables */

static void print_server(struct load *load, int which, int rounds)
{
	printf("%-8s", name[which]);
	print_figure(load->figure[which][RATE], rounds, 0, 11);
	print_figure(load->figure[which][P99], rounds, 0, 15);
	print_figure(load->figure[which][CPU], rounds, 1, 0);
	printf("\n");
	record_figures(name[which], load->figure[which], rounds);
	if (load->failures[which] > 0)
		printf("%-8s %8d transactions failed\n", "",
			load->failures[which]);
}

static void print_load(struct load *load, int rounds)
{
	series *evt = load->figure[EVT];
	series *bare = load->figure[BARE];
	char title[80];

	snprintf(title, sizeof(title),
		"The classic server: connect, 512 B, close: %d in flight",
		load->in_flight);
	results_table(name[EVT], title);
	printf("%d in flight, %d workers: medians and quartiles of %d "
	       "rounds\n\n",
		load->in_flight, WORKERS, rounds);
	printf("%-8s %8s %-11s %8s %-15s %8s\n", "", "rate/s", "", "p99 us", "",
		"CPU us of each");
	for (int i = 0; i < NR_SERVERS; i++)
		print_server(load, i, rounds);
	printf("\n");
	print_ratio_heads(name[EVT]);
	print_ratio("bare's rate", evt[RATE], bare[RATE], rounds,
		(struct target){AT_LEAST, 0.95});
	print_ratio("bare's p99", evt[P99], bare[P99], rounds,
		(struct target){AT_MOST, 1.10});
	print_ratio("bare's CPU per transaction", evt[CPU], bare[CPU], rounds,
		(struct target){AT_MOST, 1.05});
	print_ratio("polling's rate", evt[RATE], load->figure[POLLING][RATE],
		rounds, (struct target){AT_LEAST, load->polling_rate});
	printf("\n");
}

/* Idle servers */

/* Once it has served some clients and settled. */
static long idle_switches(int which)
{
	struct server server = start(which, IDLE_WORKERS);
	char line[1024];
	long before;
	long after;

	flood(&server, WARM_UP, IDLE_WORKERS, line, sizeof(line));
	wait_ms(500);
	before = process_switches(&server.child);
	wait_ms(1000);
	after = process_switches(&server.child);
	server_stop(&server);
	return after - before;
}

static void print_idle(void)
{
	const struct target target = {AT_MOST, IDLE_SWITCHES};

	results_table(name[EVT], "The classic server: 8 idle workers");
	printf("%d idle workers: voluntary context switches in a second\n\n",
		IDLE_WORKERS);
	for (int i = 0; i < NR_SERVERS; i++) {
		long switches = idle_switches(i);

		printf("%-8s %8ld", name[i], switches);
		results_value(name[i], "switches, 1/s", (double)switches);
		if (i == EVT) {
			printf("    <= %d  %s", IDLE_SWITCHES,
				verdict(target, (double)switches));
			results_limit(
				"switches a second", (double)switches, target);
		}
		printf("\n");
	}
	printf("\n");
}

/* Clients give up on a polling server, whose backlog is short. On no other. */
static int has_failures(void)
{
	int failures = 0;

	for (int i = 0; i < NR_LOADS; i++)
		failures += loads[i].failures[BARE] + loads[i].failures[EVT];
	return failures > 0;
}

int main(void)
{
	char *handoff[] = {"bench/handoff", NULL};
	int rounds = rounds_wanted(USUAL_ROUNDS);

	measure_all(rounds);
	results_open("run");
	for (int i = 0; i < NR_LOADS; i++)
		print_load(&loads[i], rounds);
	print_idle();
	results_close();
	fflush(stdout);
	child_run(handoff);
	return has_failures();
}
