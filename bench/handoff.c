/*
 * handoff.c: what handing a connection to a worker costs, the library's
 * (evt_thread_dispatch to tcb) beside bare pipes and epoll (pipes.h), at 1, 4,
 * 16 and 64 workers:
 *
 *	latency		from the call to the first line of the callback, all
 *			workers being asleep; and CPU time: inside the call, and
 *			of the worker until it sleeps again. All on one CPU: to
 *			wake another takes 4 us or 25, which hides the rest.
 *			Then again with an event of the program's own on each of
 *			the library's workers, for which they wait in libevent
 *	throughput	1, 2, 4 and 8 threads that dispatch as fast as they can:
 *			dispatches a second, and CPU time of all threads. On all
 *			CPUs
 *
 * Both pools exist side by side, since waiting takes no CPU; short turns of the
 * one and the other alternate, so that a busy machine slows both alike. They
 * have to be short: whether a worker sleeps between two records or finds many
 * at once is settled by chance at the start of a turn, and makes a factor of
 * three. What is handed over is a descriptor of /dev/null that nobody touches.
 *
 *	bench/handoff		ROUNDS=n repeats it n times instead of 21
 */
#include "pipes.h"
#include "results.h"

#include <sched.h>
#include <sys/eventfd.h>

#include "evt-server.h"

#define USUAL_ROUNDS 21
#define TURNS        8     /* of each side, in one round */
#define DISPATCHES   4000  /* of one turn */
#define LATENCIES    25    /* of one turn */
#define UNCOUNTED    5     /* before them */
#define PAUSE_NS     50000 /* for the worker to fall asleep again */
#define MAX_SLOTS    512   /* more workers than are ever started */
#define MAX_THREADS  8
#define LIMIT        1.10

static const int worker_counts[] = {1, 4, 16, 64};
static const int thread_counts[] = {1, 2, 4, MAX_THREADS};

#define NR_WORKERS (int)(sizeof(worker_counts) / sizeof(worker_counts[0]))
#define NR_THREADS (int)(sizeof(thread_counts) / sizeof(thread_counts[0]))

enum { EVT, BARE, NR_SIDES };
enum { ALONE, WITH_EVENTS, NR_MODES };

struct latency {
	series p50, p99, cpu;
};

struct throughput {
	series rate, cpu;
};

/* A worker's own line of cache. */
struct slot {
	_Alignas(64) atomic_long count;
};

static struct latency latencies[NR_MODES][NR_WORKERS][NR_SIDES];
static struct throughput throughputs[NR_WORKERS][NR_THREADS][NR_SIDES];

static struct pipes pipes;
static int null_fd;
static int silent_fd; /* never readable */
static struct slot slots[MAX_SLOTS];
static atomic_int slots_taken;
static _Thread_local struct slot *slot;
static atomic_int events_added;
static _Atomic int64_t wants_event; /* as an arg: not the time, but an event */

static void add_event(void);

/* Runs on a worker: notes the time if arg says where, counts if it does not. */
static void on_handed(int fd, short what, void *arg)
{
	_Atomic int64_t *arrived = arg;

	(void)fd;
	(void)what;
	if (arrived == &wants_event) {
		add_event();
		return;
	}
	if (arrived) {
		atomic_store_explicit(arrived, now_ns(), memory_order_release);
		return;
	}
	if (!slot)
		slot = &slots[atomic_fetch_add(&slots_taken, 1)];
	atomic_store_explicit(&slot->count,
		atomic_load_explicit(&slot->count, memory_order_relaxed) + 1,
		memory_order_relaxed);
}

static long total_count(void)
{
	int taken = atomic_load(&slots_taken);
	long sum = 0;

	for (int i = 0; i < taken; i++)
		sum += atomic_load_explicit(
			&slots[i].count, memory_order_relaxed);
	return sum;
}

/* The two sides */

/* Threads started after this run on one CPU; or where they may. */
static void stay_on_one_cpu(int one)
{
	static cpu_set_t all;
	cpu_set_t first;
	size_t cpu = 0;

	if (CPU_COUNT(&all) == 0 &&
		sched_getaffinity(0, sizeof(all), &all) == -1)
		die("sched_getaffinity");
	while (!CPU_ISSET(cpu, &all))
		cpu++;
	CPU_ZERO(&first);
	CPU_SET(cpu, &first);
	if (sched_setaffinity(0, sizeof(all), one ? &first : &all) == -1)
		die("sched_setaffinity");
}

static void start_pools(int workers, int one_cpu)
{
	stay_on_one_cpu(one_cpu);
	pipes_start(&pipes, workers);
	if (evt_server_init(0, SOCK_STREAM) == -1 ||
		evt_server_threads(on_handed, workers) != workers)
		die("starting the library's workers");
}

static void free_event(void *event)
{
	event_free(event);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

/* Runs on a worker: waits for something that does not happen. */
static void add_event(void)
{
	struct event *event = event_new(evt_thread_base(), silent_fd,
		EV_READ | EV_PERSIST, on_event, NULL);

	if (!event || event_add(event, NULL) == -1 ||
		evt_thread_at_stop(free_event, event) == -1)
		die("an event on a worker");
	atomic_fetch_add(&events_added, 1);
}

static void stop_pools(void)
{
	evt_server_stop();
	pipes_stop(&pipes);
}

static void dispatch(int side, void *arg)
{
	if (side == BARE)
		pipes_dispatch(&pipes, on_handed, null_fd, EV_READ, arg);
	else if (evt_thread_dispatch(null_fd, EV_READ, arg) == -1)
		die("evt_thread_dispatch");
}

/* Latency */

static void pause_ns(long ns)
{
	struct timespec pause = {.tv_nsec = ns};

	nanosleep(&pause, NULL);
}

/* What all threads but this one have used. */
static int64_t others_cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID) -
		clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

struct times {
	double latency_us[TURNS * LATENCIES];
	int count;
	int64_t cpu_ns; /* of as many hand-offs */
};

static int64_t await_arrival(_Atomic int64_t *arrived)
{
	int64_t when;

	do {
		sched_yield();
		when = atomic_load_explicit(arrived, memory_order_acquire);
	} while (when == 0);
	return when;
}

static int64_t latency_ns(int side)
{
	_Atomic int64_t arrived = 0;
	int64_t start;

	pause_ns(PAUSE_NS);
	start = now_ns();
	dispatch(side, &arrived);
	return await_arrival(&arrived) - start;
}

/* The CPU time of the call. To ask for it takes longer than to ask for the
 * time, so latencies are measured without. */
static int64_t call_cpu_ns(int side)
{
	_Atomic int64_t arrived = 0;
	int64_t cpu;

	pause_ns(PAUSE_NS);
	cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	dispatch(side, &arrived);
	cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	await_arrival(&arrived);
	return cpu;
}

static void take_latencies(struct times *times, int side)
{
	for (int i = 0; i < UNCOUNTED; i++)
		latency_ns(side);
	for (int i = 0; i < LATENCIES; i++)
		times->latency_us[times->count++] = (double)latency_ns(side) /
			1000;
	pause_ns(PAUSE_NS);
	times->cpu_ns -= others_cpu_ns();
	for (int i = 0; i < LATENCIES; i++)
		times->cpu_ns += call_cpu_ns(side);
	pause_ns(PAUSE_NS);
	times->cpu_ns += others_cpu_ns();
}

static void measure_latency(struct latency result[NR_SIDES], int round)
{
	struct times times[NR_SIDES] = {{.count = 0}, {.count = 0}};

	for (int turn = 0; turn < TURNS * NR_SIDES; turn++) {
		int side = (round + turn) % NR_SIDES;

		take_latencies(&times[side], side);
	}
	for (int side = 0; side < NR_SIDES; side++) {
		double *us = times[side].latency_us;
		int n = times[side].count;

		qsort(us, (size_t)n, sizeof(double), compare_doubles);
		result[side].p50[round] = quantile(us, n, 0.5);
		result[side].p99[round] = quantile(us, n, 0.99);
		result[side].cpu[round] = (double)times[side].cpu_ns / 1000 / n;
	}
}

/* Throughput */

struct sender {
	pthread_t thread;
	pthread_barrier_t *barrier;
	int side;
	int dispatches;
};

static void *run_sender(void *arg)
{
	const struct sender *sender = arg;

	pthread_barrier_wait(sender->barrier);
	for (int i = 0; i < sender->dispatches; i++)
		dispatch(sender->side, NULL);
	return NULL;
}

static void start_senders(struct sender *senders, int threads, int side,
	pthread_barrier_t *barrier)
{
	pthread_barrier_init(barrier, NULL, (unsigned)threads + 1);
	for (int i = 0; i < threads; i++) {
		senders[i] = (struct sender){.barrier = barrier,
			.side = side,
			.dispatches = DISPATCHES / threads};
		errno = pthread_create(
			&senders[i].thread, NULL, run_sender, &senders[i]);
		if (errno != 0)
			die("pthread_create");
	}
}

/* What a side has used in its turns of one round. */
struct effort {
	int64_t wall_ns, cpu_ns;
};

/* This thread looks now and then whether all have arrived; it is not counted
 * in the CPU time. */
static void take_turn(struct effort *effort, int threads, int side)
{
	struct sender senders[MAX_THREADS];
	long goal = total_count() + DISPATCHES;
	pthread_barrier_t barrier;

	start_senders(senders, threads, side, &barrier);
	effort->cpu_ns -= others_cpu_ns();
	effort->wall_ns -= now_ns();
	pthread_barrier_wait(&barrier);
	while (total_count() < goal)
		pause_ns(PAUSE_NS);
	effort->wall_ns += now_ns();
	for (int i = 0; i < threads; i++)
		pthread_join(senders[i].thread, NULL);
	effort->cpu_ns += others_cpu_ns();
	pthread_barrier_destroy(&barrier);
}

static void measure_throughput(
	struct throughput result[NR_SIDES], int threads, int round)
{
	struct effort effort[NR_SIDES] = {{0}, {0}};
	double dispatches = (double)DISPATCHES * TURNS;

	for (int turn = 0; turn < TURNS * NR_SIDES; turn++) {
		int side = (round + turn) % NR_SIDES;

		take_turn(&effort[side], threads, side);
	}
	for (int side = 0; side < NR_SIDES; side++) {
		result[side].rate[round] = dispatches * 1e9 /
			(double)effort[side].wall_ns;
		result[side].cpu[round] = (double)effort[side].cpu_ns / 1000 /
			dispatches;
	}
}

/* One on each worker: the round robin of a new pool goes round once. */
static void add_events(int workers)
{
	atomic_store(&events_added, 0);
	for (int i = 0; i < workers; i++)
		dispatch(EVT, &wants_event);
	while (atomic_load(&events_added) < workers)
		pause_ns(PAUSE_NS);
}

/* All with one number of workers. */
static void measure_all(int w, int rounds)
{
	int workers = worker_counts[w];

	for (int mode = 0; mode < NR_MODES; mode++) {
		start_pools(workers, 1);
		if (mode == WITH_EVENTS)
			add_events(workers);
		for (int round = 0; round < rounds; round++)
			measure_latency(latencies[mode][w], round);
		stop_pools();
	}
	start_pools(workers, 0);
	for (int i = 0; i < rounds * NR_THREADS; i++) {
		int t = i % NR_THREADS;

		measure_throughput(
			throughputs[w][t], thread_counts[t], i / NR_THREADS);
	}
	stop_pools();
}

/* Tables */

static void record_figure(const char *what, int workers, const char *unit,
	const double *evt, const double *bare, int rounds)
{
	char figure[64];

	snprintf(figure, sizeof(figure), "%s at %d worker%s, %s", what, workers,
		workers == 1 ? "" : "s", unit);
	results_series("evt", figure, evt, rounds);
	results_series("bare", figure, bare, rounds);
}

static void record_goal(const char *what, int workers, const double *evt,
	const double *bare, int rounds)
{
	char goal[64];

	snprintf(goal, sizeof(goal), "bare's %s at %d worker%s", what, workers,
		workers == 1 ? "" : "s");
	results_goal(goal, ratios_of(evt, bare, rounds),
		(struct target){AT_MOST, LIMIT});
}

static void print_ratio(
	const double *ours, const double *theirs, int rounds, int judged)
{
	struct quartiles q = ratios_of(ours, theirs, rounds);

	printf(" %5.2f %.2f-%-5.2f", q.median, q.low, q.high);
	if (judged)
		printf(" %-6s",
			verdict((struct target){AT_MOST, LIMIT}, q.median));
}

static void print_latency_figure(int workers, const char *what,
	const double *evt, const double *bare, int rounds, int judged)
{
	printf("%7d  %-10s %8.2f %8.2f", worker_counts[workers], what,
		median_of(evt, rounds), median_of(bare, rounds));
	print_ratio(evt, bare, rounds, judged);
	printf("\n");
	record_figure(what, worker_counts[workers], "us", evt, bare, rounds);
	if (judged)
		record_goal(what, worker_counts[workers], evt, bare, rounds);
}

static void print_latencies(int mode, const char *title, int rounds)
{
	int judged = mode == ALONE;

	results_table("evt", title);
	printf("%s, us: medians of %d rounds, ratio, quartiles\n\n", title,
		rounds);
	printf("%7s  %-10s %8s %8s %5s", "workers", "", "evt", "bare", "ratio");
	if (judged)
		printf(" %-10s <= %.2f", "", LIMIT);
	printf("\n");
	for (int w = 0; w < NR_WORKERS; w++) {
		struct latency *evt = &latencies[mode][w][EVT];
		struct latency *bare = &latencies[mode][w][BARE];

		print_latency_figure(
			w, "p50", evt->p50, bare->p50, rounds, judged);
		print_latency_figure(w, "p99", evt->p99, bare->p99, rounds, 0);
		print_latency_figure(
			w, "CPU", evt->cpu, bare->cpu, rounds, judged);
	}
	printf("\n");
}

static void print_throughput(const char *threads, int workers,
	const struct throughput side[NR_SIDES], int rounds, int judged)
{
	const struct throughput *evt = &side[EVT];
	const struct throughput *bare = &side[BARE];

	printf("%7s %7d %8.0f %8.0f %5.2f  %6.2f %6.2f", threads, workers,
		median_of(evt->rate, rounds), median_of(bare->rate, rounds),
		ratios_of(evt->rate, bare->rate, rounds).median,
		median_of(evt->cpu, rounds), median_of(bare->cpu, rounds));
	print_ratio(evt->cpu, bare->cpu, rounds, judged);
	printf("\n");
}

/* The mean of what was measured with each number of threads. */
static void combine(struct throughput side[NR_THREADS][NR_SIDES],
	struct throughput all[NR_SIDES], int rounds)
{
	memset(all, 0, NR_SIDES * sizeof(*all));
	for (int i = 0; i < NR_SIDES * rounds; i++) {
		int s = i % NR_SIDES;
		int round = i / NR_SIDES;

		for (int t = 0; t < NR_THREADS; t++) {
			all[s].rate[round] += side[t][s].rate[round] /
				NR_THREADS;
			all[s].cpu[round] += side[t][s].cpu[round] / NR_THREADS;
		}
	}
}

static void print_throughputs(int rounds)
{
	struct throughput all[NR_SIDES];
	char threads[8];

	results_table("evt", "Dispatches by 1, 2, 4 and 8 threads: the mean");
	printf("Dispatches a second, CPU us of each: medians of %d rounds\n\n",
		rounds);
	printf("%7s %7s %8s %8s %5s  %6s %6s %5s %-10s <= %.2f\n", "threads",
		"workers", "evt/s", "bare/s", "ratio", "evt us", "bare",
		"ratio", "", LIMIT);
	for (int w = 0; w < NR_WORKERS; w++) {
		for (int t = 0; t < NR_THREADS; t++) {
			snprintf(threads, sizeof(threads), "%d",
				thread_counts[t]);
			print_throughput(threads, worker_counts[w],
				throughputs[w][t], rounds, 0);
		}
		combine(throughputs[w], all, rounds);
		print_throughput("mean", worker_counts[w], all, rounds, 1);
		record_figure("rate", worker_counts[w], "1/s", all[EVT].rate,
			all[BARE].rate, rounds);
		record_figure("CPU", worker_counts[w], "us of each",
			all[EVT].cpu, all[BARE].cpu, rounds);
		record_goal("CPU", worker_counts[w], all[EVT].cpu,
			all[BARE].cpu, rounds);
	}
	printf("\n");
}

int main(void)
{
	int rounds = rounds_wanted(USUAL_ROUNDS);

	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	silent_fd = eventfd(0, EFD_CLOEXEC);
	if (null_fd == -1 || silent_fd == -1)
		die("/dev/null, eventfd");
	for (int w = 0; w < NR_WORKERS; w++)
		measure_all(w, rounds);
	results_open("handoff");
	print_latencies(ALONE, "Hand-off to idle workers", rounds);
	print_latencies(WITH_EVENTS, "... with an event of their own", rounds);
	print_throughputs(rounds);
	results_close();
	close(silent_fd);
	close(null_fd);
	return 0;
}
