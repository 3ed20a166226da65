/*
 * storm.c: `make check-storm`. Eight threads do whatever can be done with the
 * library, at random and all at once, for STORM_SECONDS=30: half of them with
 * the classic server, half with three pools, and every 1,000 actions they
 * change sides. Meanwhile two signals are raised a thousand times a second
 * each, to the process and to single threads, with handlers that do not
 * restart what they interrupt, so that EINTR is met everywhere; and five times
 * a second SIGINT, which ends what runs in evt_pool_run and nothing else.
 *
 * It fails when a call gives an error that its header does not speak of, when
 * the counters of a pool that has stopped are not even, a task or on_close does
 * not come, or something is left at the end; and under TSan, by that, when it
 * reports anything. What hangs is told with the stacks of all threads.
 */
/* wrap: poll read write accept4 connect recv send recvmsg sendmsg recvmmsg sendmmsg epoll_wait */
#include "storm_classic.h"
#include "storm_pools.h"

#include <dirent.h>
#include <execinfo.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define NR_THREADS   8
#define MOST_SECONDS 3600
#define HANG_MS      30000 /* without any action of some thread */

/*
 * EINTR. The library's threads block signals, and much of what could wait does
 * not: so each call below, in the library or in the clients, is interrupted by
 * chance too. connect(2) is not: it would go on.
 */

#define EINTR_ONE_IN 64

static bool is_interrupted(void)
{
	if (draw(EINTR_ONE_IN) != 0)
		return false;
	HAPPENED(invented);
	errno = EINTR;
	return true;
}

#define INTERRUPTED(type, name, by_chance, parameters, arguments) \
	type __real_##name parameters;                            \
	type __wrap_##name parameters                             \
	{                                                         \
		type result;                                      \
                                                                  \
		if ((by_chance) && is_interrupted())              \
			return -1;                                \
		result = __real_##name arguments;                 \
		if (result == -1 && errno == EINTR)               \
			HAPPENED(interrupted);                    \
		return result;                                    \
	}

INTERRUPTED(int, poll, true, (struct pollfd * fds, nfds_t nr, int ms),
	(fds, nr, ms))
INTERRUPTED(int, epoll_wait, true,
	(int fd, struct epoll_event *events, int nr, int ms),
	(fd, events, nr, ms))
INTERRUPTED(ssize_t, read, true, (int fd, void *bytes, size_t len),
	(fd, bytes, len))
INTERRUPTED(ssize_t, write, true, (int fd, const void *bytes, size_t len),
	(fd, bytes, len))
INTERRUPTED(int, accept4, true,
	(int fd, struct sockaddr *peer, socklen_t *len, int flags),
	(fd, peer, len, flags))
INTERRUPTED(int, connect, false,
	(int fd, const struct sockaddr *to, socklen_t len), (fd, to, len))
INTERRUPTED(ssize_t, recv, true, (int fd, void *bytes, size_t len, int flags),
	(fd, bytes, len, flags))
INTERRUPTED(ssize_t, send, true,
	(int fd, const void *bytes, size_t len, int flags),
	(fd, bytes, len, flags))
INTERRUPTED(ssize_t, recvmsg, true, (int fd, struct msghdr *message, int flags),
	(fd, message, flags))
INTERRUPTED(ssize_t, sendmsg, true,
	(int fd, const struct msghdr *message, int flags), (fd, message, flags))
INTERRUPTED(int, recvmmsg, true,
	(int fd, struct mmsghdr *messages, unsigned int nr, int flags,
		struct timespec *limit),
	(fd, messages, nr, flags, limit))
INTERRUPTED(int, sendmmsg, true,
	(int fd, struct mmsghdr *messages, unsigned int nr, int flags),
	(fd, messages, nr, flags))

/* The threads */

static struct stormer {
	pthread_t thread;
	atomic_ulong actions;
	atomic_bool done;
} stormers[NR_THREADS];

static void *storm(void *arg)
{
	struct stormer *self = arg;
	bool classic = (self - stormers) % 2 == 0;
	unsigned long nr = 0;

	while (!atomic_load(&storm_over)) {
		if (++nr % 1000 == 0)
			classic = !classic;
		if (classic)
			classic_action();
		else
			pools_action();
		atomic_fetch_add(&self->actions, 1);
	}
	atomic_store(&self->done, true);
	return NULL;
}

/* Signals: until the last thread has left evt_pool_run, which needs one. */

static atomic_bool calm;

static void on_signal(int sig)
{
	(void)sig;
	HAPPENED(handled);
}

static void *raise_signals(void *arg)
{
	const struct timespec ms = {.tv_nsec = 1000000};
	unsigned int nr;

	(void)arg;
	for (nr = 0; !atomic_load(&calm); nr++) {
		if (nr % 2 == 0)
			kill(getpid(), SIGUSR1);
		else
			pthread_kill(
				stormers[draw(NR_THREADS)].thread, SIGUSR1);
		if (nr % 200 == 199)
			kill(getpid(), SIGINT);
		HAPPENED(signals);
		nanosleep(&ms, NULL);
	}
	return NULL;
}

/* Each thread's stack, in turn; the library's threads let SIGPROF through. */

static atomic_bool stack_is_out;

static void print_stack(int sig)
{
	void *frames[64];
	int nr = backtrace(frames, 64);

	(void)sig;
	backtrace_symbols_fd(frames, nr, STDERR_FILENO);
	atomic_store(&stack_is_out, true);
}

static void print_stacks(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	int id;

	while (dir && (entry = readdir(dir))) {
		id = atoi(entry->d_name);
		if (id == 0)
			continue;
		dprintf(STDERR_FILENO, "thread %d:\n", id);
		atomic_store(&stack_is_out, false);
		syscall(SYS_tgkill, getpid(), id, SIGPROF);
		(void)WAIT_FOR(atomic_load(&stack_is_out));
	}
	if (dir)
		closedir(dir);
}

static void handle(int sig, void (*handler)(int))
{
	const struct sigaction action = {.sa_handler = handler};

	sigaction(sig, &action, NULL);
}

/* Only the stormers and what the library does on them are interrupted. */
static void block_signals(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGALRM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(how, &set, NULL);
}

static void begin_alarms(int us)
{
	const struct itimerval each = {
		.it_interval.tv_usec = us, .it_value.tv_usec = us};

	setitimer(ITIMER_REAL, &each, NULL);
}

/* The whole */

static int seconds_of(const char *name, int usual)
{
	const char *text = getenv(name);
	int seconds = text ? atoi(text) : usual;

	return seconds < 1 || seconds > MOST_SECONDS ? usual : seconds;
}

/* Ends the program when a thread has done nothing for too long. */
static void watch(int64_t until)
{
	unsigned long seen[NR_THREADS] = {0};
	int64_t since[NR_THREADS];
	int nr_done = 0;
	int i;

	for (i = 0; i < NR_THREADS; i++)
		since[i] = now_ms();
	while (nr_done < NR_THREADS) {
		usleep(10000);
		if (now_ms() >= until)
			atomic_store(&storm_over, true);
		nr_done = 0;
		for (i = 0; i < NR_THREADS; i++) {
			unsigned long now = atomic_load(&stormers[i].actions);

			nr_done += atomic_load(&stormers[i].done);
			if (now != seen[i] || atomic_load(&stormers[i].done))
				since[i] = now_ms();
			seen[i] = now;
			if (now_ms() - since[i] < HANG_MS * slowness())
				continue;
			dprintf(STDERR_FILENO, "hangs: stormer %d\n", i);
			print_stacks();
			_exit(142);
		}
	}
}

static void print_count(const char *text, unsigned long count)
{
	const char *rest = strstr(text, ": ");

	print_message("%-10.*s%-30s%12lu\n", rest ? (int)(rest - text) : 0,
		text, rest ? rest + 2 : text, count);
}

#define PRINT_COUNT(name, text) print_count(text, atomic_load(&happened.name));

static void run_storm(int seconds)
{
	pthread_t raiser;
	int i;

	pools_begin();
	evt_server_grace_ms(GRACE_MS);
	block_signals(SIG_UNBLOCK);
	for (i = 0; i < NR_THREADS; i++)
		CHECK(pthread_create(&stormers[i].thread, NULL, storm,
			      &stormers[i]) == 0);
	block_signals(SIG_BLOCK);
	CHECK(pthread_create(&raiser, NULL, raise_signals, NULL) == 0);
	begin_alarms(1000);
	watch(now_ms() + (int64_t)seconds * 1000);
	begin_alarms(0);
	atomic_store(&calm, true);
	pthread_join(raiser, NULL);
	for (i = 0; i < NR_THREADS; i++)
		pthread_join(stormers[i].thread, NULL);
	classic_end();
	pools_end();
}

static bool is_even(int fds, int threads, long allocations)
{
	bool even = WAIT_FOR(count_threads() == threads) &&
		count_fds() == fds && count_allocations() == allocations;

	print_message("%-10s%-30s%12d, before %d\n", "ledger:", "descriptors",
		count_fds(), fds);
	print_message("%-10s%-30s%12d, before %d\n", "", "threads",
		count_threads(), threads);
	print_message("%-10s%-30s%12ld, before %ld\n", "", "allocations",
		count_allocations(), allocations);
	return even;
}

int main(void)
{
	int seconds = seconds_of("STORM_SECONDS", 30);
	const char *seed = getenv("STORM_SEED");
	struct sigaction action;
	long allocations;
	int threads;
	int fds;
	bool good;

	ledger_begin();
	atomic_store(&next_seed,
		seed ? (unsigned int)strtoul(seed, NULL, 10)
		     : (unsigned int)getpid());
	print_message("storm: %s, %d s, STORM_SEED=%u\n",
		under("plain") ? "plain" : getenv("EVT_UNDER"), seconds,
		atomic_load(&next_seed));
	evt_set_log(keep_line, NULL);
	handle(SIGUSR1, on_signal);
	handle(SIGALRM, on_signal);
	handle(SIGPROF, print_stack);
	handle(SIGINT, SIG_IGN);
	block_signals(SIG_BLOCK);
	fds = count_fds();
	threads = count_threads();
	allocations = count_allocations();
	run_storm(seconds);
	good = is_even(fds, threads, allocations);
	sigaction(SIGINT, NULL, &action);
	must_hold(action.sa_handler == SIG_IGN, "SIGINT is as it was");
	STORM_COUNTS(PRINT_COUNT)
	good = good && atomic_load(&happened.surprises) == 0;
	print_message("storm: %s\n", good ? "passed" : "FAILED");
	return good ? 0 : 1;
}
