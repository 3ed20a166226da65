/*
 * soak.c: `make soak SECONDS=600`. A server in a process of its own, whose
 * calls fail by chance, one in a hundred; every 5 s it stops and starts again.
 * Clients of six kinds, as fast as they can: such that talk, reset, half-close,
 * say nothing or a byte at a time. Each second a line, and a table at the end;
 * the exit status is 1 if a limit is missed.
 *
 * What is measured is measured between two cycles, when there is no pool: the
 * descriptors, threads and allocations have to be those after the first, to
 * the last one. Memory that is the process's own (RssAnon), when malloc has
 * given back what is free, may not grow once it is warm, in the second half:
 * its slope, by least squares over the cycles, is a miss if it is more than a
 * page a minute and also more than twice its standard error above zero; judged
 * when that half is a minute or more. A single allocation that leaks is found
 * by counting them.
 *
 * While the server says that it serves, somebody is served in each second.
 * Each client that has connected is accounted for: answered, ended or its own
 * end. An echo is timed from send to receive on a connection that has had its
 * first answer; if it was cut off, it does not count. What the machine itself
 * holds up is seen from the worst echo between two threads of the clients'.
 */
/* wrap: accept4 recv send sendmsg write read epoll_ctl epoll_wait epoll_create1 pipe2 socket listen */
#include "soak_clients.h"
#include "soak_server.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MOST_CYCLES  20000
#define MOST_SLOPE   4.0 /* KiB a minute */
#define MOST_ECHO_US 100000ul
#define HANG_MS      60000 /* without the end of a cycle */
#define SILENT_MS    1000  /* of a server that serves, without an echo */

static struct sample {
	double minutes;
	double kib;
} samples[MOST_CYCLES];

static int nr_cycles;

/* Over all cycles. */
static struct {
	struct evt_stats stats;
	int bad_counters, bad_callbacks, bad_stops, bad_allocations;
	int fds[2], threads[2]; /* the least, and the most */
	int silences;           /* of SILENT_MS */
	unsigned long worst_echo, worst_first, worst_bare;
} sum;

/* What /proc tells of the server */

static long memory_kib(pid_t pid)
{
	char path[64];
	char line[128];
	long kib = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		(void)sscanf(line, "RssAnon: %ld", &kib);
	if (file)
		fclose(file);
	return kib;
}

static int entries(pid_t pid, const char *of)
{
	char path[64];
	int nr = 0;
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, of);
	dir = opendir(path);
	while (dir && (entry = readdir(dir)))
		nr += entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return nr;
}

/* Each cycle */

static void widen(int range[2], int value)
{
	if (nr_cycles == 0 || value < range[0])
		range[0] = value;
	if (nr_cycles == 0 || value > range[1])
		range[1] = value;
}

#define ADD(name, text) sum.stats.name += board->last.stats.name;
#define TAKE_MOST(name, text)                        \
	if (board->last.stats.name > sum.stats.name) \
		sum.stats.name = board->last.stats.name;

/* The server waits for it. */
static void note_cycle(pid_t server, int64_t begun)
{
	EVT_STATS(ADD, TAKE_MOST)
	widen(sum.fds, entries(server, "fd"));
	widen(sum.threads, entries(server, "task"));
	sum.bad_counters += !board->last.counters_even;
	sum.bad_callbacks += !board->last.callbacks_even;
	sum.bad_stops += !board->last.stopped_cleanly;
	sum.bad_allocations += board->last.allocations != 0;
	if (nr_cycles < MOST_CYCLES)
		samples[nr_cycles++] = (struct sample){
			(double)(now_ms() - begun) / 60000,
			(double)memory_kib(server)};
	atomic_fetch_add(&board->noted, 1);
}

/* Each second */

static void take_most(unsigned long *most, unsigned long value)
{
	if (value > *most)
		*most = value;
}

static void print_second(pid_t server, int64_t seconds)
{
	static unsigned long connects, echoes;
	static int nr;
	bool in_place = isatty(STDOUT_FILENO);
	unsigned long connects_now = atomic_load(&board->connects);
	unsigned long echoes_now = atomic_load(&board->echoes);
	unsigned long echo = atomic_exchange(&board->worst_echo, 0);
	unsigned long first = atomic_exchange(&board->worst_first, 0);
	unsigned long bare_echo = atomic_exchange(&board->worst_bare, 0);

	if (nr++ == 0)
		printf("%7s %8s %8s %8s %4s %7s %6s %8s %8s %8s\n", "s",
			"conns/s", "echoes/s", "KiB", "fds", "threads",
			"cycles", "echo ms", "first ms", "bare ms");
	printf("%s%7lld %8lu %8lu %8ld %4d %7d %6d %8.1f %8.1f %8.1f%s",
		in_place ? "\r\033[K" : "", (long long)seconds,
		connects_now - connects, echoes_now - echoes,
		memory_kib(server), entries(server, "fd"),
		entries(server, "task"), nr_cycles, (double)echo / 1000,
		(double)first / 1000, (double)bare_echo / 1000,
		in_place ? "" : "\n");
	fflush(stdout);
	connects = connects_now;
	echoes = echoes_now;
	take_most(&sum.worst_echo, echo);
	take_most(&sum.worst_first, first);
	take_most(&sum.worst_bare, bare_echo);
}

/* Whether there was an echo lately, or nobody to ask. */
static void look_for_silence(void)
{
	static unsigned long echoes;
	static int64_t heard_ms;
	static int port;
	unsigned long now = atomic_load(&board->echoes);

	if (heard_ms == 0 || now != echoes || port != atomic_load(&board->port))
		heard_ms = now_ms();
	echoes = now;
	port = atomic_load(&board->port);
	if (port > 0 && now_ms() - heard_ms >= SILENT_MS * slowness()) {
		sum.silences++;
		heard_ms = now_ms();
	}
}

/* The slope of memory in KiB a minute, and its standard error. */
static double slope(double *error)
{
	int from = nr_cycles / 2;
	int nr = nr_cycles - from;
	double x = 0, y = 0, xx = 0, xy = 0, rest = 0, result;
	int i;

	*error = INFINITY;
	if (nr < 3)
		return 0;
	for (i = from; i < nr_cycles; i++) {
		x += samples[i].minutes / nr;
		y += samples[i].kib / nr;
	}
	for (i = from; i < nr_cycles; i++) {
		double dx = samples[i].minutes - x;

		xx += dx * dx;
		xy += dx * (samples[i].kib - y);
	}
	result = xy / xx;
	for (i = from; i < nr_cycles; i++) {
		double miss = samples[i].kib - y -
			result * (samples[i].minutes - x);

		rest += miss * miss;
	}
	*error = sqrt(rest / (nr - 2) / xx);
	return result;
}

/* The table */

static bool all_good = true;

__attribute__((format(printf, 3, 4))) static void row(
	const char *what, const bool *good, const char *format, ...)
{
	va_list args;

	printf("  %-38s", what);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("%s\n", !good ? "" : *good ? "  ok" : "  MISSED");
	all_good = all_good && (!good || *good);
}

static void judge_memory(void)
{
	double error;
	double kib = slope(&error);
	bool good = kib <= MOST_SLOPE || kib <= 2 * error;
	bool seen = nr_cycles > 0 &&
		samples[nr_cycles - 1].minutes -
				samples[nr_cycles / 2].minutes >=
			1;

	row(seen ? "memory, KiB a minute" : "memory, KiB a minute, not judged",
		seen ? &good : NULL, "%10.1f +- %.1f, at most %.0f", kib, error,
		MOST_SLOPE);
	if (nr_cycles > 0)
		row("memory, KiB", NULL, "%10.0f, then %.0f", samples[0].kib,
			samples[nr_cycles - 1].kib);
}

static void judge_ledger(void)
{
	bool same_fds = sum.fds[0] == sum.fds[1];
	bool same_threads = sum.threads[0] == sum.threads[1];
	bool allocations = sum.bad_allocations == 0;
	bool counters = sum.bad_counters == 0;
	bool callbacks = sum.bad_callbacks == 0;
	bool stops = sum.bad_stops == 0;

	row("descriptors between cycles", &same_fds, "%10d to %d", sum.fds[0],
		sum.fds[1]);
	row("threads between cycles", &same_threads, "%10d to %d",
		sum.threads[0], sum.threads[1]);
	row("cycles that left allocations", &allocations, "%10d of %d",
		sum.bad_allocations, nr_cycles);
	row("cycles with uneven counters", &counters, "%10d", sum.bad_counters);
	row("cycles with an on_close missing", &callbacks, "%10d",
		sum.bad_callbacks);
	row("cycles that did not stop cleanly", &stops, "%10d", sum.bad_stops);
}

static void judge_clients(void)
{
	unsigned long connects = atomic_load(&board->connects);
	unsigned long kept = atomic_load(&board->kept);
	unsigned long cut = atomic_load(&board->cut);
	unsigned long resets = atomic_load(&board->resets);
	unsigned long stuck = atomic_load(&board->stuck);
	unsigned long wrong = atomic_load(&board->wrong);
	bool all = kept + cut + resets + stuck == connects;
	bool none_stuck = stuck == 0;
	bool none_wrong = wrong == 0;
	bool known = sum.stats.accepted <= connects;

	row("clients connected", NULL, "%10lu", connects);
	row("accepted, not more", &known, "%10llu",
		(unsigned long long)sum.stats.accepted);
	row("answered to the end", NULL, "%10lu", kept);
	row("cut by the server, a fault, a stop", NULL, "%10lu", cut);
	row("reset by the client", NULL, "%10lu", resets);
	row("neither answered nor ended in 10 s", &none_stuck, "%10lu", stuck);
	row("... these are all that connected", &all, "%10lu",
		kept + cut + resets + stuck);
	row("pieces of an answer that are wrong", &none_wrong, "%10lu", wrong);
}

static void judge_service(void)
{
	unsigned long errors = atomic_load(&board->errors);
	bool never_silent = sum.silences == 0;
	bool no_errors = errors == 0;
	bool fast = sum.worst_echo < MOST_ECHO_US;

	row("seconds of service without an echo", &never_silent, "%10d",
		sum.silences);
	row("listeners that ended by themselves", &no_errors, "%10lu", errors);
	row("echoes", NULL, "%10lu", atomic_load(&board->echoes));
	row("worst echo, ms", &fast, "%10.1f, below %.0f",
		(double)sum.worst_echo / 1000, (double)MOST_ECHO_US / 1000);
	row("... between threads", NULL, "%10.1f",
		(double)sum.worst_bare / 1000);
	row("worst first answer, ms", NULL, "%10.1f",
		(double)sum.worst_first / 1000);
}

static void print_table(int seconds)
{
	bool enough = nr_cycles >= 3;

	printf("\n");
	row("seconds", NULL, "%10d", seconds);
	row("cycles", &enough, "%10d", nr_cycles);
	row("calls made to fail", NULL, "%10lu, and allocations",
		atomic_load(&board->faults));
	row("pools that could not be made", NULL, "%10lu",
		atomic_load(&board->failed_makes));
	judge_clients();
	judge_service();
	row("dropped, failed, pauses", NULL, "%10llu, %llu, %llu",
		(unsigned long long)sum.stats.dropped,
		(unsigned long long)sum.stats.closed_failed,
		(unsigned long long)sum.stats.accept_pauses);
	judge_memory();
	judge_ledger();
	printf("soak: %s\n", all_good ? "passed" : "FAILED");
}

/* The whole */

static pid_t server_pid;

static void note_if_ended(int64_t begun)
{
	int status;

	if (atomic_load(&board->noted) < atomic_load(&board->ended))
		note_cycle(server_pid, begun);
	if (waitpid(server_pid, &status, WNOHANG) != server_pid)
		return;
	printf("\nsoak: FAILED: the server has ended, status 0x%x\n", status);
	exit(1);
}

static void watch(int seconds)
{
	int64_t begun = now_ms();
	int64_t progress = begun;
	int64_t next = 1;
	int before = 0;

	while (now_ms() - begun < (int64_t)seconds * 1000) {
		poll(NULL, 0, 5);
		note_if_ended(begun);
		look_for_silence();
		if (nr_cycles != before)
			progress = now_ms();
		before = nr_cycles;
		if (now_ms() - begun >= next * 1000)
			print_second(server_pid, next++);
		if (now_ms() - progress < HANG_MS * slowness())
			continue;
		printf("\nsoak: FAILED: hangs in cycle %d\n", nr_cycles + 1);
		kill(server_pid, SIGABRT);
		exit(142);
	}
}

/* A cycle that is still on its way is ended and noted too. */
static void end_server_process(int64_t begun)
{
	int status;
	int before = atomic_load(&board->noted);

	atomic_store(&board->over, true);
	if (!WAIT_FOR(atomic_load(&board->ended) > before)) {
		printf("\nsoak: FAILED: does not stop\n");
		kill(server_pid, SIGABRT);
		exit(142);
	}
	note_cycle(server_pid, begun);
	CHECK(waitpid(server_pid, &status, 0) == server_pid && status == 0);
}

int main(int argc, char **argv)
{
	int seconds = argc > 1 ? atoi(argv[1]) : 600;
	const char *seed = getenv("SOAK_SEED");
	pid_t self = getpid();
	int64_t begun = now_ms();

	ledger_begin();
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(board != MAP_FAILED);
	atomic_store(&next_seed,
		seed ? (unsigned int)strtoul(seed, NULL, 10)
		     : (unsigned int)self);
	printf("soak: %d s, %s, SOAK_SEED=%u\n", seconds,
		under("plain") ? "plain" : getenv("EVT_UNDER"),
		atomic_load(&next_seed));
	fflush(stdout);
	server_pid = fork();
	if (server_pid == 0)
		soak_server(self);
	CHECK(server_pid > 0);
	begin_clients();
	watch(seconds);
	end_server_process(begun);
	end_clients();
	print_table(seconds);
	munmap(board, sizeof(*board));
	return all_good ? 0 : 1;
}
