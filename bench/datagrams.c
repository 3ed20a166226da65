/*
 * datagrams.c: the fourth part of `make bench`: datagrams. examples/udp-echo in
 * turn with bare recvmmsg and sendmmsg and with the classic way of one socket:
 * CPU time, rate and p99 of an echo under several loads; and examples/dns with
 * nsd. From the top of the tree; ROUNDS=n repeats it n times instead of 11,
 * ONLY=text runs what has that text in its title.
 *
 * As in conns.c a round has all servers there, started anew, with two threads
 * each; they take short turns under the same load, in an order that rotates,
 * and what counts are medians of the rounds and of their ratios. Each is warmed
 * up first, which does not count. The CPU time is that of the server and of the
 * processes it has started, read before and after each turn.
 *
 * What is not installed or not built is skipped, not beaten. The exit status
 * says that everything else ran and no answer was wrong, not that a target was
 * reached. An echo that is lost is sent again, and counted.
 */
#include "figures.h"
#include "peers.h"
#include "proc.h"

#include <stdbool.h>

#define USUAL_ROUNDS 11
#define RUN_MS       120000 /* for one turn */
#define MAX_SIDES    4      /* of a load */
#define MAX_GOALS    2
#define MAX_ARGS     5
#define NR_CASES     (int)(sizeof(loads) / sizeof(loads[0]))
#define NAMES        "10000" /* in the zone */
#define DNS_FOLDER   PEER_FOLDER "/dns"

static char zone_file[] = DNS_FOLDER "/zone";
static char queries_file[] = DNS_FOLDER "/queries";
static char nsd_conf[] = DNS_FOLDER "/nsd.conf";

static const char not_asked_for[] = "not asked for";

/* Servers */

enum { BARE, BLOCKING, ANY, JOINING, CLASSIC, ECHO, ECHO_ANY, NSD, DNS };

static struct server start_nsd(void)
{
	char *argv[] = {"nsd", "-d", "-c", nsd_conf, NULL};
	char folder[PATH_MAX];
	char port[8];
	struct word words[] = {
		{"@PORT@", port}, {"@FOLDER@", folder}, {NULL, NULL}};

	find_port(port);
	if (!realpath(DNS_FOLDER, folder))
		give_up(DNS_FOLDER, strerror(errno));
	fill_in("nsd.conf", argv[3], words);
	return peer_start(argv, port);
}

static const struct {
	const char *name;
	const char *path;
	const char *args[MAX_ARGS];
	struct server (*start)(void); /* if args do not do */
} sides[] = {
	[BARE] = {"bare", "bench/bare-udp", {"0", "2"}, NULL},
	[BLOCKING] = {"bare -b", "bench/bare-udp", {"0", "2", "-b"}, NULL},
	[ANY] = {"bare -p", "bench/bare-udp", {"0", "2", "-p"}, NULL},
	[JOINING] = {"bare -g", "bench/bare-udp", {"0", "2", "-g"}, NULL},
	[CLASSIC] = {"one socket", "bench/one-udp", {"0", "2"}, NULL},
	[ECHO] = {"udp-echo", "examples/udp-echo",
		{"udp://127.0.0.1:0", "-t", "2"}, NULL},
	[ECHO_ANY] = {"udp-echo", "examples/udp-echo", {"udp://:0", "-t", "2"},
		NULL},
	[NSD] = {"nsd", "nsd", {NULL}, start_nsd},
	[DNS] = {"dns", "examples/dns",
		{"-t", "2", "udp://127.0.0.1:0", zone_file}, NULL},
};

static struct server start(int side)
{
	char *argv[MAX_ARGS + 2] = {(char *)sides[side].path};

	if (sides[side].start)
		return sides[side].start();
	for (int i = 0; i < MAX_ARGS; i++)
		argv[i + 1] = (char *)sides[side].args[i];
	return server_of(argv);
}

static void stop(int side, struct server *server)
{
	if (sides[side].start)
		peer_stop(server);
	else
		server_stop(server);
}

/* Loads */

struct goal {
	int than; /* the place in the load's sides, from 1 on; 0: no goal */
	int figure;
	struct target target;
};

struct load {
	const char *title;
	bool joined; /* the client sends and receives so */
	int nr_sides;
	int sides[MAX_SIDES]; /* the first is ours */
	const char *sockets;  /* of the client */
	const char *outstanding;
	const char *size;    /* NULL: queries, by dnsperf */
	const char *threads; /* of dnsperf */
	int messages;        /* of a turn, but for queries */
	int turns;           /* of each side, in one round */
	struct goal goals[MAX_GOALS];
	const char *skipped; /* why */
	series figure[MAX_SIDES][NR_FIGURES];
	double answer[MAX_SIDES]; /* bytes, of queries */
	int lost[MAX_SIDES];
	int failures[MAX_SIDES];
};

static struct load loads[] = {
	{.title = "Echo of 64 B, 64 sockets, 1 outstanding",
		.nr_sides = 3,
		.sides = {ECHO, BARE, BLOCKING},
		.sockets = "64",
		.outstanding = "1",
		.size = "64",
		.messages = 10000,
		.turns = 12,
		.goals = {{1, CPU, {AT_MOST, 1.05}}}},
	{.title = "Echo of 64 B, 64 sockets, 16 outstanding",
		.nr_sides = 4,
		.sides = {ECHO, BARE, BLOCKING, CLASSIC},
		.sockets = "64",
		.outstanding = "16",
		.size = "64",
		.messages = 20000,
		.turns = 12,
		.goals = {{1, CPU, {AT_MOST, 1.05}},
			{3, RATE, {AT_LEAST, 1.6}}}},
	{.title = "Echo of 64 B, 1 outstanding, on any address",
		.nr_sides = 2,
		.sides = {ECHO_ANY, ANY},
		.sockets = "64",
		.outstanding = "1",
		.size = "64",
		.messages = 10000,
		.turns = 12,
		.goals = {{1, CPU, {AT_MOST, 1.05}}}},
	{.title = "Echo of 64 B, 16 outstanding, on any address",
		.nr_sides = 2,
		.sides = {ECHO_ANY, ANY},
		.sockets = "64",
		.outstanding = "16",
		.size = "64",
		.messages = 20000,
		.turns = 12,
		.goals = {{1, CPU, {AT_MOST, 1.05}}}},
	{.title = "Bulk: echo of 1,200 B, 64 at a time to one peer",
		.nr_sides = 3,
		.sides = {ECHO, BARE, JOINING},
		.sockets = "1",
		.outstanding = "64",
		.size = "1200",
		.joined = 1,
		.messages = 20000,
		.turns = 8,
		.goals = {{1, CPU, {AT_MOST, 0.5}},
			{1, RATE, {AT_LEAST, 2.0}}}},
	{.title = "DNS queries, zone of 10,000 names, 64 sockets",
		.nr_sides = 2,
		.sides = {DNS, NSD},
		.sockets = "64",
		.threads = "2",
		.outstanding = "256",
		.turns = 2,
		.goals = {{1, RATE, {AT_LEAST, 1.0}},
			{1, CPU, {AT_MOST, 1.0}}}},
	{.title = "DNS queries, by one thread, which is the limit",
		.nr_sides = 2,
		.sides = {DNS, NSD},
		.sockets = "64",
		.threads = "1",
		.outstanding = "256",
		.turns = 2,
		.goals = {{1, RATE, {AT_LEAST, 1.0}},
			{1, CPU, {AT_MOST, 1.0}}}},
};

/* Clients */

static struct child echoer_start(
	const struct load *load, const struct server *server)
{
	char *argv[] = {"bench/udp-echoer", (char *)server->port, "-i", "-n",
		(char *)load->sockets, "-o", (char *)load->outstanding, "-s",
		(char *)load->size, load->joined ? "-g" : NULL, NULL};
	struct child echoer = child_start(argv);
	char line[256];

	child_read(&echoer, line, sizeof(line), 1, RUN_MS);
	if (strncmp(line, "connected=", 10) != 0)
		give_up(echoer.path, "has no answers");
	return echoer;
}

static void tell(const struct child *echoer, int messages, char line[1024])
{
	if (dprintf(echoer->in, "%d\n", messages) < 0)
		give_up(echoer->path, strerror(errno));
	child_read(echoer, line, 1024, 1, RUN_MS);
}

/* The number behind a text in what dnsperf has printed; 0 without it. */
static double number_behind(const char *output, const char *text)
{
	const char *at = strstr(output, text);

	return at ? atof(at + strlen(text)) : 0;
}

/* All queries of the file, once: what dnsperf says of them. */
static void run_dnsperf(const struct load *load, const struct server *server,
	char *output, size_t size)
{
	char *argv[] = {"dnsperf", "-d", queries_file, "-n", "1", "-p",
		(char *)server->port, "-c", (char *)load->sockets, "-q",
		(char *)load->outstanding, "-T", (char *)load->threads, NULL};
	struct child dnsperf = child_start(argv);

	child_read(&dnsperf, output, size, 0, RUN_MS);
	if (child_end(&dnsperf, START_MS) != 0 ||
		number_behind(output, "Run time (s):") <= 0)
		give_up(argv[0], "failed");
}

/* Rounds */

/* A server with its client, if that stays, and what it needed in its turns. */
struct entrant {
	struct server server;
	struct child echoer;
	struct spent spent;
	double answer;
	int lost;
	int failures;
};

/* Returns how many answers came; line gets the figures. */
static double send_queries(
	const struct load *load, struct entrant *entrant, char line[1024])
{
	char output[4096];
	double answers;

	run_dnsperf(load, &entrant->server, output, sizeof(output));
	answers = number_behind(output, "NOERROR ") +
		number_behind(output, "NXDOMAIN ");
	entrant->failures += (int)(number_behind(output, "Queries sent:") -
		answers);
	entrant->answer = number_behind(output, ", response ");
	snprintf(line, 1024, "seconds=%f max=%.1f",
		number_behind(output, "Run time (s):"),
		number_behind(output, ", max ") * 1e6);
	return answers;
}

static double work(
	const struct load *load, struct entrant *entrant, char line[1024])
{
	if (!load->size)
		return send_queries(load, entrant, line);
	tell(&entrant->echoer, load->messages, line);
	entrant->lost += (int)value_of(line, "lost");
	entrant->failures = (int)value_of(line, "errors");
	return load->messages;
}

static void enter(const struct load *load, int side, struct entrant *entrant)
{
	char line[1024];

	*entrant = (struct entrant){.server = start(side)};
	if (load->size)
		entrant->echoer = echoer_start(load, &entrant->server);
	work(load, entrant, line);
}

static void take_turn(const struct load *load, struct entrant *entrant)
{
	struct spent *spent = &entrant->spent;
	char line[1024];
	double count;

	spent->cpu_ns -= family_cpu_ns(&entrant->server.child);
	count = work(load, entrant, line);
	spent->cpu_ns += family_cpu_ns(&entrant->server.child);
	spent_add(spent, line, count);
}

static void leave(
	struct load *load, int place, struct entrant *entrant, int round)
{
	if (load->size)
		child_end(&entrant->echoer, START_MS);
	stop(load->sides[place], &entrant->server);
	spent_note(&entrant->spent, load->figure[place], round);
	load->answer[place] = entrant->answer;
	load->lost[place] += entrant->lost;
	load->failures[place] += entrant->failures;
}

static void measure_round(struct load *load, int round)
{
	struct entrant entrants[MAX_SIDES];
	int nr = load->nr_sides;

	for (int i = 0; i < nr; i++)
		enter(load, load->sides[i], &entrants[i]);
	for (int turn = 0; turn < load->turns; turn++) {
		for (int i = 0; i < nr; i++)
			take_turn(load, &entrants[(round + turn + i) % nr]);
	}
	for (int i = 0; i < nr; i++)
		leave(load, i, &entrants[i], round);
}

static void measure_all(int rounds)
{
	int terminal = isatty(STDERR_FILENO);

	for (int round = 0; round < rounds; round++) {
		if (terminal)
			fprintf(stderr, "\rround %d of %d ", round + 1, rounds);
		for (int i = 0; i < NR_CASES; i++) {
			if (!loads[i].skipped)
				measure_round(&loads[i], round);
		}
	}
	if (terminal)
		fprintf(stderr, "\r%20s\r", "");
}

/* Tables */

static const char *name_of(const struct load *load, int place)
{
	return sides[load->sides[place]].name;
}

static void print_goals(struct load *load, int rounds)
{
	static const char *const figures[] = {[CPU] = "CPU", [RATE] = "rate"};
	char what[64];

	print_ratio_heads(name_of(load, 0));
	for (int i = 0; i < MAX_GOALS && load->goals[i].than > 0; i++) {
		const struct goal *goal = &load->goals[i];

		snprintf(what, sizeof(what), "%s's %s",
			name_of(load, goal->than), figures[goal->figure]);
		print_ratio(what, load->figure[0][goal->figure],
			load->figure[goal->than][goal->figure], rounds,
			goal->target);
	}
}

/* The others first. */
static void print_sides(struct load *load, int rounds)
{
	print_figure_heads();
	for (int i = 1; i <= load->nr_sides; i++) {
		int place = i % load->nr_sides;

		print_figures(
			name_of(load, place), load->figure[place], rounds);
		printf("\n");
		if (load->lost[place] > 0)
			printf("%-11s %8d sent again\n", "", load->lost[place]);
		if (load->failures[place] > 0)
			printf("%-11s %8d failed\n", "", load->failures[place]);
		if (load->answer[place] > 0)
			printf("%-11s %8.0f bytes in an answer\n", "",
				load->answer[place]);
	}
}

static void print_load(struct load *load, int rounds)
{
	results_table(name_of(load, 0), load->title);
	if (load->skipped == not_asked_for)
		return;
	if (load->skipped) {
		printf("%s: skipped: %s\n\n", load->title, load->skipped);
		results_skipped(name_of(load, 1), load->skipped);
		return;
	}
	printf("%s: medians and quartiles of %d rounds\n\n", load->title,
		rounds);
	print_sides(load, rounds);
	printf("\n");
	print_goals(load, rounds);
	printf("\n");
}

/* Setting up */

/* NULL, or why it cannot be done. */
static const char *why_skipped(const struct load *load)
{
	static char why[NR_CASES][80];
	const char *needed[MAX_SIDES + 1] = {load->size ? NULL : "dnsperf"};
	const char *only = getenv("ONLY");

	if (only && !strstr(load->title, only))
		return not_asked_for;
	for (int i = 0; i < load->nr_sides; i++)
		needed[i + 1] = sides[load->sides[i]].path;
	for (int i = 0; i <= load->nr_sides; i++) {
		if (!needed[i] || is_there(needed[i]))
			continue;
		snprintf(why[load - loads], sizeof(why[0]), "%s is not %s",
			needed[i],
			strchr(needed[i], '/') ? "built" : "installed");
		return why[load - loads];
	}
	return NULL;
}

static void make_zone(void)
{
	char *argv[] = {"bench/dns-zone.py", NAMES, DNS_FOLDER, NULL};

	mkdir("build", 0777);
	mkdir(PEER_FOLDER, 0777);
	mkdir(DNS_FOLDER, 0777);
	child_run(argv);
}

int main(void)
{
	int rounds = rounds_wanted(USUAL_ROUNDS);
	int failures = 0;

	look_in_sbin();
	for (int i = 0; i < NR_CASES; i++) {
		loads[i].skipped = why_skipped(&loads[i]);
		if (!loads[i].size && !loads[i].skipped)
			make_zone();
	}
	measure_all(rounds);
	results_open("datagrams");
	for (int i = 0; i < NR_CASES; i++) {
		print_load(&loads[i], rounds);
		for (int place = 0; place < MAX_SIDES; place++)
			failures += loads[i].failures[place];
	}
	results_close();
	return failures > 0;
}
