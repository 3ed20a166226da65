/*
 * conns.c: the second half of `make bench`: connections that stay. The
 * library's echo server (evt-echo) in turn with bare epoll and two peers,
 * libevent's bufferevents and libuv: CPU time, rate and p99 of an echo under
 * several loads; a flood of short connections through evt_listen; what an idle
 * connection costs; how long an old one is held up by a burst of new ones or by
 * a stalled worker; and evt_pool_send. From the top of the tree; ROUNDS=n
 * repeats it n times instead of 11.
 *
 * As in run.c the rounds are many and short, and what counts are medians. In a
 * round all servers are there, started anew, since waiting takes no CPU; they
 * take short turns, in an order that rotates from round to round, so that a
 * busy machine slows all alike. Each has two workers, the peers get their
 * connections as bare does (piped.h), and all are sent the same messages, after
 * some that do not count. The CPU time is read before the first message of a
 * turn and after the last: connecting is not in it, but for the floods.
 *
 * The exit status says that everything ran and no echo was wrong or missing,
 * not that a target was reached: that depends on the machine.
 */
#include "figures.h"
#include "proc.h"

#include <sys/resource.h>

#define USUAL_ROUNDS 11
#define WORKERS      2
#define RUN_MS       120000 /* for one run of the echoer, or of holdups */
#define MANY         9000   /* connections */
#define SPARE        200    /* descriptors, beside them */
#define NR_SERVERS   4
#define NR_CASES     6
#define MAX_GOALS    3

enum { BARE, EVT, BUFFEREVENT, LIBUV };

static const struct {
	const char *name;
	const char *path;
	const char *stays; /* the option for connections that stay */
	const char *once;  /* ... and for those that are closed */
} sides[NR_SERVERS] = {
	{"bare", "bench/bare", "-k", NULL},
	{"evt", "bench/evt-echo", NULL, "-c"},
	{"bufferevent", "bench/peer-bufferevent", NULL, NULL},
	{"libuv", "bench/peer-libuv", NULL, NULL},
};

static const char *const figures[] = {[CPU] = "CPU", [RATE] = "rate"};

struct goal {
	int than;   /* the side to compare with */
	int figure; /* by which */
	struct target target;
};

/* outstanding is 0 for a flood of conns short connections at a time. */
struct load {
	const char *title;
	int conns;
	int outstanding;
	int size;
	int messages; /* of a turn */
	int turns;    /* of each side, in one round */
	struct goal goals[MAX_GOALS];
	series figure[NR_SERVERS][NR_FIGURES];
	int failures[NR_SERVERS];
};

static struct load loads[NR_CASES] = {
	{.title = "Echo of 64 B, 64 connections, 1 outstanding",
		.conns = 64,
		.outstanding = 1,
		.size = 64,
		.messages = 3000,
		.turns = 24,
		.goals = {{BARE, CPU, {AT_MOST, 1.06}},
			{BUFFEREVENT, CPU, {AT_MOST, 0.80}},
			{LIBUV, CPU, {AT_MOST, 1.00}}}},
	{.title = "Echo of 64 B, 64 connections, 16 outstanding",
		.conns = 64,
		.outstanding = 16,
		.size = 64,
		.messages = 40000,
		.turns = 24,
		.goals = {{BARE, CPU, {AT_MOST, 1.08}},
			{BUFFEREVENT, CPU, {AT_MOST, 0.80}}}},
	{.title = "Echo of 16 KiB, 64 connections, 1 outstanding",
		.conns = 64,
		.outstanding = 1,
		.size = 16384,
		.messages = 2000,
		.turns = 24,
		.goals = {{BARE, RATE, {AT_LEAST, 0.95}},
			{BUFFEREVENT, RATE, {AT_LEAST, 1.30}}}},
	{.title = "Echo of 64 B, 9,000 connections, all active",
		.conns = MANY,
		.outstanding = 1,
		.size = 64,
		.messages = 27000,
		.turns = 5,
		.goals = {{BARE, CPU, {AT_MOST, 1.20}},
			{LIBUV, CPU, {AT_MOST, 1.00}}}},
	{.title = "Connect, 512 B, close: 4 in flight",
		.conns = 4,
		.messages = 400,
		.turns = 20,
		.goals = {{BARE, CPU, {AT_MOST, 1.10}}}},
	{.title = "Connect, 512 B, close: 64 in flight",
		.conns = 64,
		.messages = 400,
		.turns = 20,
		.goals = {{BARE, CPU, {AT_MOST, 1.10}}}},
};

static int is_built(int side)
{
	return access(sides[side].path, X_OK) == 0;
}

static int takes_part(const struct load *load, int side)
{
	return is_built(side) &&
		(load->outstanding > 0 || side == BARE || side == EVT);
}

static struct server start(int side, int stays)
{
	return server_start(sides[side].path, WORKERS,
		stays ? sides[side].stays : sides[side].once);
}

/* The load generator, told what to do (echoer -i) */

static struct child echoer_start(
	const struct server *server, int conns, int outstanding, int size)
{
	char text[3][12];
	char *argv[] = {"bench/echoer", "-i", "-n", text[0], "-o", text[1],
		"-s", text[2], (char *)server->port, NULL};
	struct child echoer;
	char line[256];

	snprintf(text[0], sizeof(text[0]), "%d", conns);
	snprintf(text[1], sizeof(text[1]), "%d", outstanding);
	snprintf(text[2], sizeof(text[2]), "%d", size);
	echoer = child_start(argv);
	child_read(&echoer, line, sizeof(line), 1, RUN_MS);
	if (value_of(line, "connected") != conns)
		give_up(echoer.path, "is not connected");
	return echoer;
}

/* Returns how many were wrong or missing so far; line gets the figures. */
static int echo(
	const struct child *echoer, int messages, char *line, size_t size)
{
	if (dprintf(echoer->in, "%d\n", messages) < 0)
		give_up(echoer->path, strerror(errno));
	child_read(echoer, line, size, 1, RUN_MS);
	return (int)value_of(line, "errors");
}

/* Rounds */

/* A server with its clients, and what it needed in its turns of a round. */
struct entrant {
	struct server server;
	struct child echoer; /* unless it is flooded */
	struct spent spent;
};

/* Returns how many failed; line gets the figures. */
static int send_messages(
	const struct load *load, const struct entrant *entrant, char line[1024])
{
	if (load->outstanding > 0)
		return echo(&entrant->echoer, load->messages, line, 1024);
	return flood(&entrant->server, load->messages, load->conns, line, 1024);
}

static void enter(const struct load *load, int side, struct entrant *entrant)
{
	char line[1024];

	*entrant = (struct entrant){.server = start(side, load->outstanding)};
	if (load->outstanding > 0)
		entrant->echoer = echoer_start(&entrant->server, load->conns,
			load->outstanding, load->size);
	send_messages(load, entrant, line);
}

static void take_turn(struct load *load, int side, struct entrant *entrant)
{
	struct spent *spent = &entrant->spent;
	char line[1024];

	spent->cpu_ns -= child_cpu_ns(&entrant->server.child);
	load->failures[side] += send_messages(load, entrant, line);
	spent->cpu_ns += child_cpu_ns(&entrant->server.child);
	spent_add(spent, line, load->messages);
}

static void leave(
	struct load *load, int side, struct entrant *entrant, int round)
{
	if (load->outstanding > 0)
		child_end(&entrant->echoer, START_MS);
	server_stop(&entrant->server);
	spent_note(&entrant->spent, load->figure[side], round);
}

static void measure_round(struct load *load, int round)
{
	struct entrant entrants[NR_SERVERS];

	for (int side = 0; side < NR_SERVERS; side++) {
		if (takes_part(load, side))
			enter(load, side, &entrants[side]);
	}
	for (int turn = 0; turn < load->turns * NR_SERVERS; turn++) {
		int side = (round + turn) % NR_SERVERS;

		if (takes_part(load, side))
			take_turn(load, side, &entrants[side]);
	}
	for (int side = 0; side < NR_SERVERS; side++) {
		if (takes_part(load, side))
			leave(load, side, &entrants[side], round);
	}
}

static void measure_all(int rounds)
{
	int terminal = isatty(STDERR_FILENO);

	for (int round = 0; round < rounds; round++) {
		if (terminal)
			fprintf(stderr, "\rround %d of %d ", round + 1, rounds);
		for (int i = 0; i < NR_CASES; i++)
			measure_round(&loads[i], round);
	}
	if (terminal)
		fprintf(stderr, "\r%20s\r", "");
}

/* Tables */

static void print_side(struct load *load, int side, int rounds)
{
	print_figures(sides[side].name, load->figure[side], rounds);
	printf("\n");
	if (load->failures[side] > 0)
		printf("%-11s %8d failed\n", "", load->failures[side]);
}

static void print_goal(struct load *load, const struct goal *goal, int rounds)
{
	char what[64];

	if (goal->target.limit == 0 || !takes_part(load, goal->than))
		return;
	snprintf(what, sizeof(what), "%s's %s", sides[goal->than].name,
		figures[goal->figure]);
	print_ratio(what, load->figure[EVT][goal->figure],
		load->figure[goal->than][goal->figure], rounds, goal->target);
}

static void print_load(struct load *load, int rounds)
{
	results_table(sides[EVT].name, load->title);
	printf("%s: medians and quartiles of %d rounds\n\n", load->title,
		rounds);
	print_figure_heads();
	for (int side = 0; side < NR_SERVERS; side++) {
		if (takes_part(load, side))
			print_side(load, side, rounds);
		else if (!is_built(side))
			results_skipped(sides[side].name, "not built");
	}
	printf("\n");
	if (!is_built(EVT))
		return;
	print_ratio_heads(sides[EVT].name);
	for (int i = 0; i < MAX_GOALS; i++)
		print_goal(load, &load->goals[i], rounds);
	printf("\n");
}

/* Idle connections */

#define FEW \
	64             /* connections that are there before, so that what is
			  the server's own is not counted */
#define SETTLE_MS 1500 /* until what is done once is done */
#define IDLE_S    5
#define BYTES     288 /* of an idle connection: the target */
#define SWITCHES \
	1.2 /* a second and worker: one timer, and what is left
			  of a second at either end of five */

struct idle {
	double bytes;    /* of each connection */
	double switches; /* a second and worker */
};

static struct idle measure_idle(int side)
{
	struct server server = start(side, 1);
	struct child few = echoer_start(&server, FEW, 1, 64);
	struct child many;
	struct idle idle;
	long kib;
	long switches;

	wait_ms(SETTLE_MS);
	kib = process_memory_kib(&server.child);
	many = echoer_start(&server, MANY, 1, 64);
	wait_ms(SETTLE_MS);
	kib = process_memory_kib(&server.child) - kib;
	switches = process_switches(&server.child);
	wait_ms(IDLE_S * 1000);
	switches = process_switches(&server.child) - switches;
	child_end(&many, START_MS);
	child_end(&few, START_MS);
	server_stop(&server);
	idle.bytes = (double)kib * 1024 / MANY;
	idle.switches = (double)switches / IDLE_S / WORKERS;
	return idle;
}

static void record_idle(int side, struct idle idle)
{
	results_value(sides[side].name, "memory, bytes of each", idle.bytes);
	results_value(
		sides[side].name, "switches, 1/s and worker", idle.switches);
}

static void print_idle(void)
{
	const struct target bytes = {AT_MOST, BYTES};
	const struct target switches = {AT_MOST, SWITCHES};

	results_table(sides[EVT].name, "9,000 idle connections to an echo");
	printf("%d idle connections: memory of the server's for each, and "
	       "voluntary context\nswitches a second, for each of %d workers\n\n",
		MANY, WORKERS);
	printf("%-11s %8s %25s\n", "", "bytes", "switches");
	for (int side = 0; side < NR_SERVERS; side++) {
		struct idle idle;

		if (!is_built(side))
			continue;
		idle = measure_idle(side);
		printf("%-11s %8.0f", sides[side].name, idle.bytes);
		if (side == EVT)
			printf("    <= %d  %-6s  %6.2f    <= %.1f  %s", BYTES,
				verdict(bytes, idle.bytes), idle.switches,
				SWITCHES, verdict(switches, idle.switches));
		else
			printf("%19s %6.2f", "", idle.switches);
		printf("\n");
		record_idle(side, idle);
		if (side == EVT) {
			results_limit("bytes of each", idle.bytes, bytes);
			results_limit(
				"switches a second", idle.switches, switches);
		}
	}
	printf("\n");
}

/* What holds an old connection up */

#define HELD_UP_MS 50 /* at most, by a burst */

/* Runs a program that prints one line; its exit status. */
static int line_of(char *const argv[], char *line, size_t size)
{
	struct child child = child_start(argv);

	child_read(&child, line, size, 0, RUN_MS);
	return child_end(&child, START_MS);
}

static void hold_up(int side, const char *option, char *what, char line[1024])
{
	struct server server = server_start(sides[side].path, WORKERS, option);
	char *argv[] = {"bench/holdups", server.port, what, NULL};

	if (line_of(argv, line, 1024) != 0)
		give_up(argv[0], "failed");
	server_stop(&server);
}

static void print_bursts(void)
{
	const struct target target = {AT_MOST, HELD_UP_MS};
	char line[1024];

	results_table(sides[EVT].name,
		"Bursts of 1,000 connects: an echo on an old connection");
	printf("Bursts of 1,000 connects: an echo on an old connection, ms; and "
	       "until each of\nthe burst is served\n\n");
	printf("%-11s %8s %8s %25s\n", "", "median", "worst", "slowest burst");
	for (int side = BARE; side <= EVT; side++) {
		double worst;

		if (!is_built(side))
			continue;
		hold_up(side, sides[side].stays, "burst", line);
		worst = value_of(line, "max") / 1000;
		printf("%-11s %8.2f %8.2f", sides[side].name,
			value_of(line, "p50") / 1000, worst);
		if (side == EVT)
			printf("  <= %d  %-6s", HELD_UP_MS,
				verdict(target, worst));
		else
			printf("%15s", "");
		printf(" %9.1f\n", value_of(line, "slowest_burst") / 1000);
		results_value(sides[side].name, "median echo, ms",
			value_of(line, "p50") / 1000);
		results_value(sides[side].name, "worst echo, ms", worst);
		results_value(sides[side].name, "slowest burst, ms",
			value_of(line, "slowest_burst") / 1000);
		if (side == EVT)
			results_limit("worst echo, ms", worst, target);
	}
	printf("\n");
}

static void print_stall(void)
{
	char line[1024];

	hold_up(EVT, "-s", "stall", line);
	printf("One of %d workers is busy for a second, which counts as a stall "
	       "after 100 ms.\n\n",
		WORKERS);
	printf("Of %.0f old connections %.0f wait; of the others an echo took "
	       "%.2f ms at most, p99\n%.2f. Of %.0f new connections %.0f wait; "
	       "connecting and an echo took %.2f ms at most.\n\n",
		value_of(line, "old"), value_of(line, "held_up"),
		value_of(line, "max") / 1000, value_of(line, "p99") / 1000,
		value_of(line, "new"), value_of(line, "new_held_up"),
		value_of(line, "new_max") / 1000);
}

/* evt_pool_send */

#define SENDS_ROUNDS 5
#define PACED        "40000" /* messages */
#define LOCKS        0.001   /* for each message: a few, to begin and to end */

/* From the table of strace -c: the calls of futex, 0 if it is not in it. */
static long futex_calls(const char *table)
{
	const char *line = table;
	long calls = 0;

	while (line && *line) {
		char name[16];

		if (sscanf(line, "%*f %*f %*d %ld %15s", &calls, name) == 2 &&
			strstr(line, " futex\n"))
			return calls;
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return 0;
}

/* How often a thread has had to wait for another. */
static void print_futex_calls(void)
{
	char *argv[] = {"strace", "-f", "-c", "--seccomp-bpf", "-e",
		"trace=futex", "-o", "/dev/stdout", "bench/sends", PACED, "-p",
		NULL};
	static char table[8192];

	if (line_of(argv, table, sizeof(table)) != 0 ||
		!strstr(table, "messages="))
		printf("futex calls  skipped: strace does not run here\n\n");
	else
		printf("%-12s %8.5f\n\n", "futex calls",
			(double)futex_calls(table) / atoi(PACED));
}

/* While there is room in the pipes; for each message. */
static void print_locks(void)
{
	const struct target target = {AT_MOST, LOCKS};
	char *argv[] = {"bench/sends", PACED, "-p", NULL};
	char line[1024];
	double locks;

	if (line_of(argv, line, sizeof(line)) != 0)
		give_up(argv[0], "failed");
	locks = value_of(line, "locks");
	printf("%-12s %8.5f    <= %.3f  %s\n", "locks", locks, LOCKS,
		verdict(target, locks));
	results_limit("locks of each", locks, target);
	print_futex_calls();
}

static void print_sends(void)
{
	char *argv[] = {"bench/sends", NULL};
	series rate;
	series cpu;
	char line[1024];

	for (int round = 0; round < SENDS_ROUNDS; round++) {
		if (line_of(argv, line, sizeof(line)) != 0)
			give_up(argv[0], "failed");
		rate[round] = value_of(line, "rate");
		cpu[round] = value_of(line, "cpu");
	}
	printf("evt_pool_send, 64 B from 4 threads to 64 connections: medians "
	       "and quartiles of\n%d rounds; and while there is room in the "
	       "pipes, for each message: mutexes\nlocked, and how often a "
	       "thread waited for another\n\n%-12s",
		SENDS_ROUNDS, "messages/s");
	print_figure(rate, SENDS_ROUNDS, 0, 0);
	printf("\n%-12s", "CPU us");
	print_figure(cpu, SENDS_ROUNDS, 2, 0);
	printf("\n");
	results_table(
		"evt", "evt_pool_send: 64 B from 4 threads to 64 connections");
	results_series("evt", "rate, 1/s", rate, SENDS_ROUNDS);
	results_series("evt", "CPU, us of each", cpu, SENDS_ROUNDS);
	print_locks();
}

static int has_failures(void)
{
	int failures = 0;

	for (int i = 0; i < NR_CASES * NR_SERVERS; i++)
		failures += loads[i / NR_SERVERS].failures[i % NR_SERVERS];
	return failures > 0;
}

/* The servers and the echoer raise their limit as far as they may. */
static void check_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1 ||
		limit.rlim_max < MANY + SPARE)
		give_up("conns", "needs a higher limit of descriptors");
}

int main(void)
{
	int rounds = rounds_wanted(USUAL_ROUNDS);

	check_descriptors();
	for (int side = 0; side < NR_SERVERS; side++) {
		if (!is_built(side))
			printf("%s: skipped, %s is not built\n\n",
				sides[side].name, sides[side].path);
	}
	measure_all(rounds);
	results_open("conns");
	for (int i = 0; i < NR_CASES; i++)
		print_load(&loads[i], rounds);
	print_idle();
	print_bursts();
	if (is_built(EVT)) {
		print_stall();
		print_sends();
	}
	results_close();
	return has_failures();
}
