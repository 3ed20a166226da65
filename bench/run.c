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
#include "child.h"
#include "stats.h"

#include <dirent.h>

#define USUAL_ROUNDS  15
#define WORKERS       2
#define WARM_UP       500
#define IDLE_WORKERS  8
#define IDLE_SWITCHES 5      /* a second: the target */
#define START_MS      10000  /* for a server to listen, or to end */
#define FLOOD_MS      120000 /* for one flood */
#define NR_SERVERS    3
#define NR_LOADS      2

enum { BARE, EVT, POLLING };
enum { RATE, P99, CPU, NR_FIGURES };

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

struct server {
	struct child child;
	char port[8];
};

static struct server server_start(int which, int workers)
{
	char count[8];
	char *argv[] = {(char *)path[which], "0", count, NULL};
	struct server server;
	char line[128];
	const char *port;

	snprintf(count, sizeof(count), "%d", workers);
	server.child = child_start(argv);
	child_read(&server.child, line, sizeof(line), 1, START_MS);
	port = strstr(line, "port ");
	if (!port || atoi(port + 5) <= 0)
		give_up(path[which], "does not listen");
	snprintf(server.port, sizeof(server.port), "%d", atoi(port + 5));
	return server;
}

static void server_stop(struct server *server)
{
	kill(server->child.pid, SIGTERM);
	if (child_end(&server->child, START_MS) != 0)
		give_up(server->child.path, "failed");
}

/* The value of "key=" in the line of flooder -q. */
static double value_of(const char *line, const char *key)
{
	size_t len = strlen(key);
	const char *at = line;

	while ((at = strstr(at, key)) != NULL) {
		if ((at == line || at[-1] == ' ') && at[len] == '=')
			return atof(at + len + 1);
		at += len;
	}
	give_up("test/flooder", key);
	return 0;
}

/* Floods the server; text gets the line of figures. Returns how many
 * transactions failed. */
static int flood(const struct server *server, int transactions, int in_flight,
	char *text, size_t size)
{
	char count[12];
	char flight[12];
	char *argv[] = {"test/flooder", (char *)server->port, count, "-c",
		flight, "-q", NULL};
	struct child child;

	snprintf(count, sizeof(count), "%d", transactions);
	snprintf(flight, sizeof(flight), "%d", in_flight);
	child = child_start(argv);
	child_read(&child, text, size, 0, FLOOD_MS);
	/* 1: some transactions failed. */
	if (child_end(&child, START_MS) > 1)
		give_up(child.path, "failed");
	return (int)value_of(text, "failures");
}

static void measure(struct load *load, int which, int nr)
{
	struct server server = server_start(which, WORKERS);
	int transactions = load->transactions[which];
	series *figure = load->figure[which];
	char line[1024];
	int *failures = &load->failures[which];
	int64_t before;

	*failures += flood(
		&server, WARM_UP, load->in_flight, line, sizeof(line));
	before = child_cpu_ns(&server.child);
	*failures += flood(
		&server, transactions, load->in_flight, line, sizeof(line));
	figure[CPU][nr] = (double)(child_cpu_ns(&server.child) - before) /
		1000 / transactions;
	figure[RATE][nr] = value_of(line, "rate");
	figure[P99][nr] = value_of(line, "p99");
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

static void print_figure(
	const double *values, int rounds, int decimals, int width)
{
	struct quartiles q = quartiles_of(values, rounds);
	char spread[32];

	snprintf(spread, sizeof(spread), "%.*f-%.*f", decimals, q.low, decimals,
		q.high);
	printf(" %8.*f %-*s", decimals, q.median, width, spread);
}

static void print_ratio(const char *what, const double *ours,
	const double *theirs, int rounds, struct target target)
{
	struct quartiles q = ratios_of(ours, theirs, rounds);
	double of_medians = median_of(ours, rounds) / median_of(theirs, rounds);

	printf("%-28s %6.2f %6.2f-%-6.2f %9.2f    %s %.2f  %s\n", what,
		q.median, q.low, q.high, of_medians,
		target.aim == AT_LEAST ? ">=" : "<=", target.limit,
		verdict(target, q.median));
}

static void print_server(struct load *load, int which, int rounds)
{
	printf("%-8s", name[which]);
	print_figure(load->figure[which][RATE], rounds, 0, 11);
	print_figure(load->figure[which][P99], rounds, 0, 15);
	print_figure(load->figure[which][CPU], rounds, 1, 0);
	printf("\n");
	if (load->failures[which] > 0)
		printf("%-8s %8d transactions failed\n", "",
			load->failures[which]);
}

static void print_load(struct load *load, int rounds)
{
	series *evt = load->figure[EVT];
	series *bare = load->figure[BARE];

	printf("%d in flight, %d workers: medians and quartiles of %d "
	       "rounds\n\n",
		load->in_flight, WORKERS, rounds);
	printf("%-8s %8s %-11s %8s %-15s %8s\n", "", "rate/s", "", "p99 us", "",
		"CPU us of each");
	for (int i = 0; i < NR_SERVERS; i++)
		print_server(load, i, rounds);
	printf("\n%-28s %6s %-13s %9s    %s\n", "evt_test's by", "ratio",
		"  quartiles", "of medians", "target");
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

/* The line "voluntary_ctxt_switches:" of one thread; 0 if it has ended. */
static long thread_switches(const struct child *child, const char *thread)
{
	char line[128];
	char file[64];
	long switches = 0;
	FILE *status;

	snprintf(file, sizeof(file), "/proc/%d/task/%.16s/status", child->pid,
		thread);
	status = fopen(file, "re");
	if (!status)
		return 0;
	while (fgets(line, sizeof(line), status))
		sscanf(line, "voluntary_ctxt_switches: %ld", &switches);
	fclose(status);
	return switches;
}

static long process_switches(const struct child *child)
{
	const struct dirent *entry;
	char folder[64];
	long sum = 0;
	DIR *tasks;

	snprintf(folder, sizeof(folder), "/proc/%d/task", child->pid);
	tasks = opendir(folder);
	if (!tasks)
		give_up(child->path, "no tasks in /proc");
	while ((entry = readdir(tasks)) != NULL) {
		if (entry->d_name[0] != '.')
			sum += thread_switches(child, entry->d_name);
	}
	closedir(tasks);
	return sum;
}

static void wait_ms(int ms)
{
	poll(NULL, 0, ms);
}

/* Once it has served some clients and settled. */
static long idle_switches(int which)
{
	struct server server = server_start(which, IDLE_WORKERS);
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
	printf("%d idle workers: voluntary context switches in a second\n\n",
		IDLE_WORKERS);
	for (int i = 0; i < NR_SERVERS; i++) {
		long switches = idle_switches(i);

		printf("%-8s %8ld", name[i], switches);
		if (i == EVT)
			printf("    <= %d  %s", IDLE_SWITCHES,
				verdict((struct target){AT_MOST, IDLE_SWITCHES},
					(double)switches));
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
	for (int i = 0; i < NR_LOADS; i++)
		print_load(&loads[i], rounds);
	print_idle();
	fflush(stdout);
	child_run(handoff);
	return has_failures();
}
