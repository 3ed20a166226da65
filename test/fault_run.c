/*
 * fault_run.c: check-faults. Each fault in a process of its own, which is ended
 * when it hangs; a line for each scenario, and what was never made to fail.
 *
 *	faults SITES				all of it
 *	faults SITES SCENARIO N MODE ERRNO	one fault, in this process
 *
 * In the environment: ONLY=text for the scenarios that have it in their names,
 * EVERY=1 for each call of each scenario, however often its place has failed.
 */
#include "faults.h"
#include "fault_rig.h"
#include "network.h"

#include <event2/event.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#define LANES         4 /* processes that go through the scenarios */
#define MAX_SCENARIOS 128
#define MAX_FAULTS    3000  /* calls in a scenario */
#define MAX_SEEN      6     /* faults after which a site was reached */
#define HANGS_MS      30000 /* then one is ended */
#define MAX_CPU_MS    500
#define MAX_TRIES     400 /* of a call that fails for ever: else it spins */
#define TRIES         3   /* to reach a second fault once more */
#define LATITUDE      3   /* calls that its first may come earlier then */
#define MAX_WRONG     20  /* are told */

static const struct scenario *scenarios[MAX_SCENARIOS];
static int nr_scenarios;

struct seen {
	int scenario;
	struct fault_plan plan;
};

/* What the processes share. */
static struct {
	atomic_int next;
	atomic_int injections;
	atomic_int faults;
	atomic_int wrong;
	int turns[NR_CALLS * NR_MODES];
	int hit[MAX_SITES + 1][NR_MODES];
	int hit_here[LANES][MAX_SITES + 1];
	atomic_int nr_seen[MAX_SITES];
	struct seen seen[MAX_SITES][MAX_SEEN];
	atomic_int nr_jobs; /* of the second round */
	struct {
		int site;
		enum fault_mode mode;
	} jobs[MAX_SITES * NR_MODES];
	struct fault_result results[LANES];
} * shared;

static void add_scenarios(const struct scenario *more)
{
	const char *only = getenv("ONLY");

	for (; more->name && nr_scenarios < MAX_SCENARIOS; more++)
		if (!only || strstr(more->name, only))
			scenarios[nr_scenarios++] = more;
}

/* One fault */

/* What lies in a pipe that cannot be read is lost. */
static bool may_be_lost(void)
{
	return fault_result()->call == FAULT_read;
}

static void check_ledger(int threads, int fds, long allocations)
{
	fault_end();
	if (!WAIT_FOR(count_threads() == threads) ||
		((count_fds() != fds || count_allocations() != allocations) &&
			!may_be_lost()))
		fault_wrong(__FILE__, __LINE__,
			"left: %d threads more, %d descriptors, %ld allocations",
			count_threads() - threads, count_fds() - fds,
			count_allocations() - allocations);
	if (cpu_ms() > MAX_CPU_MS * slowness())
		fault_wrong(__FILE__, __LINE__, "%lld ms of CPU",
			(long long)cpu_ms());
	if (fault_result()->injections > MAX_TRIES)
		fault_wrong(__FILE__, __LINE__, "tried %d times",
			fault_result()->injections);
}

static void in_this_process(const struct scenario *scenario,
	const struct fault_plan *plan, struct fault_result *result)
{
	int threads = count_threads();
	int fds = count_fds();
	long allocations = count_allocations();

	fault_catch_log();
	fault_begin(plan, result, shared->turns);
	scenario->run();
	check_ledger(threads, fds, allocations);
}

/* False: it hangs, and was ended. */
static bool await(pid_t pid, int *status)
{
	struct pollfd ended = {.fd = pidfd_open(pid, 0), .events = POLLIN};
	int ready = poll(&ended, 1, HANGS_MS * slowness());

	close(ended.fd);
	if (ready != 1)
		kill(pid, SIGKILL);
	waitpid(pid, status, 0);
	return ready == 1;
}

static void tell_wrong(const struct scenario *scenario,
	const struct fault_plan *plan, const struct fault_result *result)
{
	const char *where = result->reached && result->site != NO_SITE
		? fault_sites[result->site].where
		: "elsewhere";

	if (atomic_fetch_add(&shared->wrong, 1) >= MAX_WRONG)
		return;
	printf("WRONG: %s, fault %d %s: %s (%s, errno %d)\n", scenario->name,
		result->n, plan->mode == FAULT_ONCE ? "once" : "from then on",
		result->reached ? fault_call_name(result->call) : "none", where,
		result->error);
	if (plan->then != NO_SITE)
		printf("    and then %s (%s)\n",
			fault_call_name(fault_sites[plan->then].call),
			fault_sites[plan->then].where);
	printf("    %s\n", result->text);
}

/* True if the fault was reached. */
static bool run_fault(const struct scenario *scenario,
	const struct fault_plan *plan, struct fault_result *result)
{
	int status;
	pid_t pid;

	memset(result, 0, sizeof(*result));
	result->site = NO_SITE;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		in_this_process(scenario, plan, result);
		_exit(0);
	}
	if (!await(pid, &status))
		snprintf(result->text, FAULT_TEXT, "hangs");
	else if (WIFSIGNALED(status))
		snprintf(result->text, FAULT_TEXT, "killed by signal %d",
			WTERMSIG(status));
	else if (WEXITSTATUS(status) != 0 && !result->text[0])
		snprintf(result->text, FAULT_TEXT, "exit status %d",
			WEXITSTATUS(status));
	if (result->text[0])
		tell_wrong(scenario, plan, result);
	if (result->reached)
		atomic_fetch_add(&shared->faults, 1);
	if (result->reached)
		atomic_fetch_add(&shared->injections, result->injections);
	return result->reached;
}

/* The first round: every call of every scenario */

/* What is reached after a fault, and may never be without. */
static void note_seen(int scenario, const struct fault_plan *plan,
	const struct fault_result *result)
{
	int i;

	for (i = 0; i < nr_fault_sites; i++) {
		int nr;

		if (!result->after[i] ||
			atomic_load(&shared->nr_seen[i]) >= MAX_SEEN)
			continue;
		nr = atomic_fetch_add(&shared->nr_seen[i], 1);
		if (nr < MAX_SEEN)
			shared->seen[i][nr] = (struct seen){scenario, *plan};
	}
}

/* How many faults it had. */
static int run_mode(int number, enum fault_mode mode, int lane)
{
	struct fault_result *result = &shared->results[lane];
	struct fault_plan plan = {.mode = mode, .then = NO_SITE};
	int nr = 0;

	memset(fault_hits_here, 0, sizeof(shared->hit_here[lane]));
	for (plan.n = 1; plan.n < MAX_FAULTS; plan.n++) {
		plan.error = 0;
		if (!run_fault(scenarios[number], &plan, result))
			break;
		plan.n = result->n;
		plan.error = result->error;
		plan.at = result->site;
		note_seen(number, &plan, result);
		nr++;
	}
	return nr;
}

static void run_scenario(int number, int lane)
{
	int64_t start = now_ms();
	int once = run_mode(number, FAULT_ONCE, lane);
	int lasting = run_mode(number, FAULT_FROM_THEN_ON, lane);

	printf("  %-52s %5d %5d %6lld ms\n", scenarios[number]->name, once,
		lasting, (long long)(now_ms() - start));
}

/* The second: what is reached only after a fault fails too */

static void list_jobs(void)
{
	int site;
	int mode;

	for (site = 0; site < nr_fault_sites; site++)
		for (mode = 0; mode < NR_MODES; mode++) {
			int nr = atomic_load(&shared->nr_jobs);

			if (fault_sites[site].same != site ||
				shared->hit[site][mode] > 0)
				continue;
			shared->jobs[nr].site = site;
			shared->jobs[nr].mode = (enum fault_mode)mode;
			atomic_store(&shared->nr_jobs, nr + 1);
		}
}

static void run_job(int number, int lane)
{
	struct fault_result *result = &shared->results[lane];
	int site = shared->jobs[number].site;
	enum fault_mode mode = shared->jobs[number].mode;
	int nr = atomic_load(&shared->nr_seen[site]);
	int i;

	nr = nr < MAX_SEEN ? nr : MAX_SEEN;
	for (i = 0; i < nr * TRIES; i++) {
		struct seen *seen = &shared->seen[site][i % nr];
		struct fault_plan plan = seen->plan;

		/* Threads do not always come in the same order. */
		plan.n -= i / nr * LATITUDE;
		plan.n = plan.n > 0 ? plan.n : 1;
		plan.then = site;
		plan.then_mode = mode;
		run_fault(scenarios[seen->scenario], &plan, result);
		if (!result->then_failed)
			continue;
		__atomic_fetch_add(
			&shared->hit[site][mode], 1, __ATOMIC_RELAXED);
		atomic_fetch_add(&shared->injections, 1);
		break;
	}
}

/* All of it */

static void have_network(void)
{
	if (own_network(CLONE_NEWNET))
		(void)!system("ip addr add " FAULT_ADDRESS "/32 dev lo");
}

static void run_lanes(void (*run)(int number, int lane), int nr)
{
	int lane;
	int number;

	atomic_store(&shared->next, 0);
	for (lane = 0; lane < LANES; lane++) {
		if (fork() != 0)
			continue;
		have_network();
		fault_hits_here = shared->hit_here[lane];
		while ((number = atomic_fetch_add(&shared->next, 1)) < nr)
			run(number, lane);
		fflush(NULL);
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
}

static bool tell_sites(int64_t start)
{
	int nr = 0;
	int good = 0;
	int site;

	for (site = 0; site < nr_fault_sites; site++) {
		bool once = shared->hit[site][FAULT_ONCE] > 0;
		bool lasting = shared->hit[site][FAULT_FROM_THEN_ON] > 0;

		if (fault_sites[site].same != site)
			continue;
		nr++;
		good += once && lasting;
		if (!once || !lasting)
			printf("never failed%s: %s in %s\n",
				once              ? " from then on"
					: lasting ? " once"
						  : "",
				fault_call_name(fault_sites[site].call),
				fault_sites[site].where);
	}
	printf("scenarios %d, faults %d, injections %d, sites %d of %d in both "
	       "modes, wrong %d, %.1f s\n",
		nr_scenarios, shared->faults, shared->injections, good, nr,
		shared->wrong, (double)(now_ms() - start) / 1000);
	return good == nr && shared->wrong == 0;
}

static int run_one(char **arg)
{
	struct fault_plan plan = {.n = atoi(arg[1]),
		.mode = (enum fault_mode)atoi(arg[2]),
		.error = atoi(arg[3]),
		.then = NO_SITE};
	struct fault_result *result = &shared->results[0];
	int i;

	for (i = 0; i < nr_scenarios; i++)
		if (strcmp(scenarios[i]->name, arg[0]) == 0)
			break;
	if (i == nr_scenarios)
		return 2;
	have_network();
	result->site = NO_SITE;
	fault_alone = true;
	in_this_process(scenarios[i], &plan, result);
	printf("%s: %s\n", result->reached ? "reached" : "not reached",
		result->site == NO_SITE ? "-"
					: fault_sites[result->site].where);
	return 0;
}

static void say_nothing(int severity, const char *text)
{
	(void)severity, (void)text;
}

int main(int argc, char **argv)
{
	const char *every = getenv("EVERY");
	int64_t start = now_ms();

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (argc < 2 || shared == MAP_FAILED || !fault_read_sites(argv[1]))
		return 2;
	fault_hits = shared->hit;
	fault_hits_here = shared->hit_here[0];
	fault_every = every && every[0];
	add_scenarios(classic_scenarios);
	add_scenarios(helper_scenarios);
	add_scenarios(pool_scenarios);
	add_scenarios(conn_scenarios);
	add_scenarios(udp_scenarios);
	setvbuf(stdout, NULL, _IOLBF, 0);
	event_set_log_callback(say_nothing);
	if (argc == 6)
		return run_one(&argv[2]);
	printf("  %-52s %5s %5s\n", "", "once", "on");
	run_lanes(run_scenario, nr_scenarios);
	list_jobs();
	run_lanes(run_job, shared->nr_jobs);
	return tell_sites(start) ? 0 : 1;
}
