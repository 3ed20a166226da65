/*
 * programs.c: the third part of `make bench`: the programs of examples/ beside
 * those that people run: http and nginx, cache and memcached, proxy and
 * haproxy. CPU time, rate and p99 under several loads, and what an idle
 * connection to a cache costs. From the top of the tree; ROUNDS=n repeats it n
 * times instead of 7, ONLY=text runs what has that text in its title.
 *
 * As in conns.c a round has both servers there, started anew, with two workers
 * or threads each; they take short turns under the same load, and what counts
 * are medians of the rounds and of their ratios. Each is warmed up first, which
 * does not count. The CPU time is that of the server and of the processes it
 * has started, read before and after each turn; connecting is in it for wrk,
 * whose turns begin with 64 connects, and where short connections are the load.
 *
 * What is not installed or not built is skipped, not beaten. The exit status
 * says that everything else ran and no answer was wrong or missing, not that a
 * target was reached: that depends on the machine.
 */
#include "figures.h"
#include "peers.h"
#include "proc.h"

#include <sys/resource.h>

#define USUAL_ROUNDS 7
#define WORKERS      "2"
#define RUN_MS       120000 /* for one turn */
#define WRK_MS       350    /* until a turn of wrk ends, at its next 0.1 s */
#define MANY         9000   /* connections */
#define SPARE        1000   /* descriptors, beside them */
#define KB           1024L
#define MB           (1024 * KB)
#define MAX_GOALS    3
#define NR_CASES     (int)(sizeof(loads) / sizeof(loads[0]))

static const char not_asked_for[] = "not asked for";
static const char files[] = PEER_FOLDER "/files";

enum { OURS, PEER, NR_SIDES };
enum client { WRK, CACHER, ECHOER, FLOODER };

/* Servers that do the same. behind: the port behind a proxy, the folder of a
 * server of files, or NULL. */
struct contest {
	const char *names[NR_SIDES];
	const char *paths[NR_SIDES];
	struct server (*start[NR_SIDES])(const char *behind);
};

struct goal {
	int figure;
	struct target target;
};

struct load {
	const char *title;
	const struct contest *contest;
	const char *upstream; /* the program behind a proxy; NULL: none */
	const char *stays;    /* its option for connections that stay */
	enum client client;
	int conns;
	int outstanding;
	int size; /* of an echo */
	const char *folder;
	const char *file; /* that wrk asks for, of the folder */
	double bytes;     /* of it, if it is large: parts of it count */
	int closes;       /* wrk: after each answer */
	int writes;       /* cacher */
	int messages;     /* of a turn, but for wrk */
	int turns;        /* of each side, in one round */
	struct goal goals[MAX_GOALS];
	const char *skipped; /* why */
	series figure[NR_SIDES][NR_FIGURES];
	double answer[NR_SIDES]; /* its bytes, if it is small and wrk's */
	int failures[NR_SIDES];
};

/* Servers */

static char nginx_conf[] = PEER_FOLDER "/nginx.conf";
static char haproxy_cfg[] = PEER_FOLDER "/haproxy.cfg";

static struct server start_http(const char *behind)
{
	char *argv[] = {"examples/http", "tcp://127.0.0.1:0", "-t", WORKERS,
		behind ? "-r" : NULL, (char *)behind, NULL};

	return server_of(argv);
}

/* Its master starts workers as nobody, who might not reach this folder. */
static struct server start_nginx(const char *behind)
{
	char *argv[] = {"nginx", "-p", PEER_FOLDER, "-c", "nginx.conf", "-e",
		"stderr", geteuid() == 0 ? "-g" : NULL, "user root;", NULL};
	char folder[PATH_MAX];
	char port[8];
	struct word words[] = {
		{"@PORT@", port}, {"@FOLDER@", folder}, {NULL, NULL}};

	(void)behind;
	find_port(port);
	if (!realpath(PEER_FOLDER, folder))
		give_up(PEER_FOLDER, strerror(errno));
	fill_in("nginx.conf", nginx_conf, words);
	return peer_start(argv, port);
}

static struct server start_cache(const char *behind)
{
	char *argv[] = {
		"examples/cache", "tcp://127.0.0.1:0", "-t", WORKERS, NULL};

	(void)behind;
	return server_of(argv);
}

static struct server start_memcached(const char *behind)
{
	char port[8];
	char *argv[] = {"memcached", "-l", "127.0.0.1", "-U", "0", "-t",
		WORKERS, "-c", "10000", "-p", port,
		geteuid() == 0 ? "-u" : NULL, "root", NULL};

	(void)behind;
	find_port(port);
	return peer_start(argv, port);
}

static struct server start_proxy(const char *behind)
{
	char url[32];
	char *argv[] = {"examples/proxy", "tcp://127.0.0.1:0", url, "-t",
		WORKERS, NULL};

	snprintf(url, sizeof(url), "tcp://127.0.0.1:%s", behind);
	return server_of(argv);
}

static struct server start_haproxy(const char *behind)
{
	char *argv[] = {"haproxy", "-db", "-q", "-f", haproxy_cfg, NULL};
	char port[8];
	struct word words[] = {
		{"@PORT@", port}, {"@UPSTREAM@", behind}, {NULL, NULL}};

	find_port(port);
	fill_in("haproxy.cfg", haproxy_cfg, words);
	return peer_start(argv, port);
}

static const struct contest webs = {.names = {"http", "nginx"},
	.paths = {"examples/http", "nginx"},
	.start = {start_http, start_nginx}};

static const struct contest caches = {.names = {"cache", "memcached"},
	.paths = {"examples/cache", "memcached"},
	.start = {start_cache, start_memcached}};

static const struct contest proxies = {.names = {"proxy", "haproxy"},
	.paths = {"examples/proxy", "haproxy"},
	.start = {start_proxy, start_haproxy}};

/* Loads */

static struct load loads[] = {
	{.title = "GET /, 64 connections that are kept",
		.contest = &webs,
		.client = WRK,
		.conns = 64,
		.file = "",
		.turns = 3,
		.goals = {{CPU, {AT_MOST, 0.9}}, {RATE, {AT_LEAST, 1.0}}}},
	{.title = "GET /, 64 connections, each closed after its answer",
		.contest = &webs,
		.client = WRK,
		.conns = 64,
		.file = "",
		.closes = 1,
		.turns = 3,
		.goals = {{CPU, {AT_MOST, 1.0}}, {RATE, {AT_LEAST, 1.0}}}},
	{.title = "GET of a file of 1 KB, 64 connections",
		.contest = &webs,
		.client = WRK,
		.conns = 64,
		.folder = files,
		.file = "1k",
		.turns = 3,
		.goals = {{RATE, {AT_LEAST, 1.0}}}},
	{.title = "GET of a file of 100 KB, 64 connections",
		.contest = &webs,
		.client = WRK,
		.conns = 64,
		.folder = files,
		.file = "100k",
		.bytes = 100 * KB,
		.turns = 3,
		.goals = {{RATE, {AT_LEAST, 1.0}}}},
	{.title = "GET of a file of 10 MB, 16 connections",
		.contest = &webs,
		.client = WRK,
		.conns = 16,
		.folder = files,
		.file = "10m",
		.bytes = 10 * MB,
		.turns = 3,
		.goals = {{RATE, {AT_LEAST, 1.0}}}},
	{.title = "get of 100 B, 64 connections, 1 outstanding",
		.contest = &caches,
		.client = CACHER,
		.conns = 64,
		.outstanding = 1,
		.messages = 12000,
		.turns = 8,
		.goals = {{CPU, {AT_MOST, 0.9}}, {P99, {AT_MOST, 1.0}}}},
	{.title = "get of 100 B, 64 connections, 16 outstanding",
		.contest = &caches,
		.client = CACHER,
		.conns = 64,
		.outstanding = 16,
		.messages = 40000,
		.turns = 8,
		.goals = {{CPU, {AT_MOST, 0.4}}, {P99, {AT_MOST, 1.0}}}},
	{.title = "set of 100 B, 64 connections, 1 outstanding",
		.contest = &caches,
		.client = CACHER,
		.conns = 64,
		.outstanding = 1,
		.writes = 1,
		.messages = 12000,
		.turns = 8,
		.goals = {{CPU, {AT_MOST, 0.9}}, {P99, {AT_MOST, 1.0}}}},
	{.title = "set of 100 B, 64 connections, 16 outstanding",
		.contest = &caches,
		.client = CACHER,
		.conns = 64,
		.outstanding = 16,
		.writes = 1,
		.messages = 40000,
		.turns = 8,
		.goals = {{CPU, {AT_MOST, 0.4}}, {P99, {AT_MOST, 1.0}}}},
	{.title = "Echo of 64 B through a proxy, 64 connections",
		.contest = &proxies,
		.upstream = "bench/bare",
		.stays = "-k",
		.client = ECHOER,
		.conns = 64,
		.outstanding = 1,
		.size = 64,
		.messages = 6000,
		.turns = 8,
		.goals = {{CPU, {AT_MOST, 1.0}}, {RATE, {AT_LEAST, 1.0}}}},
	{.title = "1 MB there and back through a proxy, 16 connections",
		.contest = &proxies,
		.upstream = "bench/bare",
		.stays = "-k",
		.client = ECHOER,
		.conns = 16,
		.outstanding = 1,
		.size = MB,
		.messages = 96,
		.turns = 8,
		.goals = {{CPU, {AT_MOST, 1.0}}, {RATE, {AT_LEAST, 1.0}}}},
	{.title = "Connect, 512 B, close through a proxy, 64 in flight",
		.contest = &proxies,
		.upstream = "bench/bare",
		.client = FLOODER,
		.conns = 64,
		.messages = 1500,
		.turns = 8,
		.goals = {{CPU, {AT_MOST, 1.0}}, {RATE, {AT_LEAST, 1.0}}}},
};

/* Clients */

/* wrk, for a turn: its line of figures, in text. */
static const char *run_wrk(
	const struct load *load, const char *port, char *text, size_t size)
{
	char conns[12];
	char url[64];
	char *argv[] = {"wrk", "-s", "bench/wrk.lua", "-t", "1", "-d", "60",
		"-c", conns, url, load->closes ? "-H" : NULL,
		"Connection: close", NULL};
	struct child wrk;
	char *line;

	snprintf(conns, sizeof(conns), "%d", load->conns);
	snprintf(url, sizeof(url), "http://127.0.0.1:%s/%s", port, load->file);
	wrk = child_start(argv);
	wait_ms(WRK_MS);
	kill(wrk.pid, SIGINT);
	child_read(&wrk, text, size, 0, RUN_MS);
	if (child_end(&wrk, START_MS) != 0)
		give_up(argv[0], "failed");
	line = strstr(text, "\nrequests=");
	if (!line)
		give_up(argv[0], "says no figures");
	return line + 1;
}

/* The one that is told what to do (asker.h). option, and what belongs to it,
 * may be NULL. */
static struct child asker_start(const struct load *load, const char *port,
	int conns, const char *option, const char *value)
{
	char count[12];
	char outstanding[12];
	char *argv[] = {
		load->client == CACHER ? "bench/cacher" : "bench/echoer",
		(char *)port, "-i", "-n", count, "-o", outstanding,
		(char *)option, (char *)value, NULL};
	struct child asker;
	char line[256];

	snprintf(count, sizeof(count), "%d", conns);
	snprintf(outstanding, sizeof(outstanding), "%d", load->outstanding);
	asker = child_start(argv);
	child_read(&asker, line, sizeof(line), 1, RUN_MS);
	if (strncmp(line, "connected=", 10) != 0)
		give_up(asker.path, "is not connected");
	return asker;
}

static void tell(const struct child *asker, int messages, char line[1024])
{
	if (dprintf(asker->in, "%d\n", messages) < 0)
		give_up(asker->path, strerror(errno));
	child_read(asker, line, 1024, 1, RUN_MS);
}

/* Rounds */

/* A server with its client, if that stays, and what it needed in its turns. */
struct entrant {
	struct server upstream;
	struct server server;
	struct child asker;
	struct spent spent;
	int failures;
	double bytes; /* that wrk read */
};

static int client_stays(const struct load *load)
{
	return load->client == CACHER || load->client == ECHOER;
}

/* How many answers came; in line the figures. */
static double work(const struct load *load, struct entrant *entrant,
	char text[1024], const char **line)
{
	*line = text;
	if (load->client == WRK) {
		double bytes;

		*line = run_wrk(load, entrant->server.port, text, 1024);
		entrant->failures += (int)value_of(*line, "errors");
		bytes = value_of(*line, "bytes");
		entrant->bytes += bytes;
		return load->bytes > 0 ? bytes / load->bytes
				       : value_of(*line, "requests");
	}
	if (load->client == FLOODER) {
		entrant->failures += flood(&entrant->server, load->messages,
			load->conns, text, 1024);
		return load->messages;
	}
	tell(&entrant->asker, load->messages, text);
	entrant->failures += (int)value_of(text, "errors");
	return load->messages;
}

static void enter(const struct load *load, int side, struct entrant *entrant)
{
	char text[1024];
	char size[12];
	const char *line;

	*entrant = (struct entrant){.bytes = 0};
	if (load->upstream)
		entrant->upstream = server_start(
			load->upstream, atoi(WORKERS), load->stays);
	entrant->server = load->contest->start[side](
		load->upstream ? entrant->upstream.port : load->folder);
	snprintf(size, sizeof(size), "%d", load->size);
	if (load->client == ECHOER)
		entrant->asker = asker_start(
			load, entrant->server.port, load->conns, "-s", size);
	if (load->client == CACHER)
		entrant->asker = asker_start(load, entrant->server.port,
			load->conns, load->writes ? "-w" : NULL, NULL);
	work(load, entrant, text, &line);
	entrant->bytes = 0;
}

static void take_turn(const struct load *load, struct entrant *entrant)
{
	struct spent *spent = &entrant->spent;
	char text[1024];
	const char *line;
	double count;

	spent->cpu_ns -= family_cpu_ns(&entrant->server.child);
	count = work(load, entrant, text, &line);
	spent->cpu_ns += family_cpu_ns(&entrant->server.child);
	spent_add(spent, line, count);
}

static void leave(
	struct load *load, int side, struct entrant *entrant, int round)
{
	if (client_stays(load))
		child_end(&entrant->asker, START_MS);
	if (side == OURS)
		server_stop(&entrant->server);
	else
		peer_stop(&entrant->server);
	if (load->upstream)
		server_stop(&entrant->upstream);
	spent_note(&entrant->spent, load->figure[side], round);
	load->failures[side] += entrant->failures;
	load->answer[side] = entrant->bytes / entrant->spent.count;
}

static void measure_round(struct load *load, int round)
{
	struct entrant entrants[NR_SIDES];

	for (int side = 0; side < NR_SIDES; side++)
		enter(load, side, &entrants[side]);
	for (int turn = 0; turn < load->turns * NR_SIDES; turn++)
		take_turn(load, &entrants[(round + turn) % NR_SIDES]);
	for (int side = 0; side < NR_SIDES; side++)
		leave(load, side, &entrants[side], round);
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

static void print_goals(struct load *load, int rounds)
{
	static const char *const figures[] = {
		[CPU] = "CPU", [RATE] = "rate", [P99] = "p99"};
	char what[64];

	print_ratio_heads(load->contest->names[OURS]);
	for (int i = 0; i < MAX_GOALS && load->goals[i].target.limit > 0; i++) {
		int figure = load->goals[i].figure;

		snprintf(what, sizeof(what), "%s's %s",
			load->contest->names[PEER], figures[figure]);
		print_ratio(what, load->figure[OURS][figure],
			load->figure[PEER][figure], rounds,
			load->goals[i].target);
	}
}

static void print_load(struct load *load, int rounds)
{
	const struct contest *contest = load->contest;

	results_table(contest->names[OURS], load->title);
	if (load->skipped == not_asked_for)
		return;
	if (load->skipped) {
		printf("%s: skipped: %s\n\n", load->title, load->skipped);
		results_skipped(contest->names[PEER], load->skipped);
		return;
	}
	printf("%s: medians and quartiles of %d rounds\n\n", load->title,
		rounds);
	print_figure_heads();
	for (int side = 0; side < NR_SIDES; side++) {
		print_figures(contest->names[side], load->figure[side], rounds);
		printf("\n");
		if (load->failures[side] > 0)
			printf("%-11s %8d failed\n", "", load->failures[side]);
	}
	if (load->client == WRK && load->bytes == 0)
		printf("%-11s %8.0f and %.0f bytes in an answer\n", "",
			load->answer[OURS], load->answer[PEER]);
	printf("\n");
	print_goals(load, rounds);
	printf("\n");
}

/* Idle connections */

#define FEW \
	64             /* connections that are there before, so that what is
			  the server's own is not counted */
#define SETTLE_MS 1500 /* until what is done once is done */

static const struct load idle = {.title = "9,000 idle connections to a cache",
	.contest = &caches,
	.client = CACHER,
	.outstanding = 1};

/* Bytes for each connection that has had an answer. */
static double measure_idle(int side)
{
	struct server server = caches.start[side](NULL);
	struct child few = asker_start(&idle, server.port, FEW, NULL, NULL);
	struct child many;
	char line[1024];
	long kib;

	tell(&few, MANY, line);
	wait_ms(SETTLE_MS);
	kib = process_memory_kib(&server.child);
	many = asker_start(&idle, server.port, MANY, "-x", NULL);
	wait_ms(SETTLE_MS);
	kib = process_memory_kib(&server.child) - kib;
	child_end(&many, START_MS);
	child_end(&few, START_MS);
	if (side == OURS)
		server_stop(&server);
	else
		peer_stop(&server);
	return (double)kib * 1024 / MANY;
}

static void print_idle(const char *skipped)
{
	const struct target target = {AT_MOST, 0.5};
	double bytes[NR_SIDES];

	results_table(caches.names[OURS], idle.title);
	if (skipped == not_asked_for)
		return;
	if (skipped) {
		printf("%s: skipped: %s\n\n", idle.title, skipped);
		results_skipped(caches.names[PEER], skipped);
		return;
	}
	printf("%s, each has had an answer: memory of the\nserver's for each, "
	       "bytes\n\n",
		idle.title);
	for (int side = 0; side < NR_SIDES; side++) {
		bytes[side] = measure_idle(side);
		printf("%-11s %8.0f\n", caches.names[side], bytes[side]);
		results_value(caches.names[side], "memory, bytes of each",
			bytes[side]);
	}
	printf("\n");
	print_ratio_heads(caches.names[OURS]);
	print_ratio(
		"memcached's memory", &bytes[OURS], &bytes[PEER], 1, target);
	printf("\n");
}

/* Setting up */

/* NULL, or why it cannot be done. */
static const char *why_skipped(const struct load *load)
{
	static char why[NR_CASES + 1][80];
	static int nr_why;
	const char *only = getenv("ONLY");
	const char *needed[] = {load->contest->paths[OURS],
		load->contest->paths[PEER], load->upstream,
		load->client == WRK ? "wrk" : NULL};

	if (only && !strstr(load->title, only))
		return not_asked_for;
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		if (!needed[i] || is_there(needed[i]))
			continue;
		snprintf(why[nr_why], sizeof(why[0]), "%s is not %s", needed[i],
			strchr(needed[i], '/') ? "built" : "installed");
		return why[nr_why++];
	}
	return NULL;
}

static void make_files(void)
{
	mkdir("build", 0777);
	mkdir(PEER_FOLDER, 0777);
	mkdir(files, 0777);
	make_file(PEER_FOLDER "/files/1k", KB);
	make_file(PEER_FOLDER "/files/100k", 100 * KB);
	make_file(PEER_FOLDER "/files/10m", 10 * MB);
}

/* What is started inherits it. */
static void raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1 ||
		limit.rlim_max < MANY + SPARE)
		give_up("programs", "needs a higher limit of descriptors");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) == -1)
		give_up("setrlimit", strerror(errno));
}

int main(void)
{
	int rounds = rounds_wanted(USUAL_ROUNDS);
	int failures = 0;

	raise_descriptors();
	look_in_sbin();
	make_files();
	for (int i = 0; i < NR_CASES; i++)
		loads[i].skipped = why_skipped(&loads[i]);
	measure_all(rounds);
	results_open("programs");
	for (int i = 0; i < NR_CASES; i++) {
		print_load(&loads[i], rounds);
		failures += loads[i].failures[OURS] + loads[i].failures[PEER];
	}
	print_idle(why_skipped(&idle));
	results_close();
	return failures > 0;
}
