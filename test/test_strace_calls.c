/*
 * test_strace_calls.c: each system call of a server fails in its turn: the
 * first of a thread, the second, up to the last (of many alike the first few);
 * once, and from then on. With EVERY=1 in the environment each with each error.
 * First of a server from its main on, then of one that has served a client: to
 * that strace comes later, so that it counts from there on all threads.
 *
 * Two clients are served and the status is 0, or it has told why that is not
 * so: and if it could not start or go on, the status is 1. It never crashes,
 * hangs, or turns round and round.
 *
 * What is called before main is the loader's. It is what a program calls that
 * is started with senseless arguments.
 */
#include "traced.h"

#include <sys/socket.h>
#include <time.h>

#define FIRST_FEW  3
#define LANES      4   /* faults tried at a time */
#define TRIES      8   /* of clients, each of which a fault may meet */
#define ANSWERS_MS 150 /* unless there is none */
#define IDLE_MS    30
#define BUSY_MS    15  /* in that time: it turns round */
#define MANY       200 /* faults of one kind: so it does */
#define MAX_FAULTS 4000

static const struct target classic = {"test/evt_test", {"0", "2"}, false};
static const struct target classic_udp = {
	"test/evt_test", {"-u", "0", "2"}, true};
static const struct target pool = {
	"examples/echo", {"-t", "2", "tcp://127.0.0.1:0"}, false};
static const struct target pool_udp = {
	"examples/udp-echo", {"-t", "2", "udp://127.0.0.1:0"}, true};

enum {
	/* Whatever is served: it is not tried with datagrams again. */
	SAME = 1,
	/* In test_strace.c, of the start of the classic server. */
	KNOWN = 2,
	/* It says all it says by that: not tried while it starts. When it
	 * fails for ever, the server is mute, and the threads that cannot be
	 * told of the stop are cancelled. */
	SPEAKS = 4,
	/* Without it a thread is lost, which the program of the classic server
	 * does not learn. */
	LOOP = 8,
	/* Each client is sent away. */
	CLIENTS = 16,
	/* ThreadSanitizer ends the program. */
	MEMORY = 32
};

struct row {
	const char *call;
	int flags;
	const char *once[4];
	const char *lasting[4];
};

static const struct row rows[] = {
	{"mmap", MEMORY, {"ENOMEM", "EAGAIN"}, {"ENOMEM", "EPERM"}},
	{"munmap", MEMORY, {"ENOMEM", "EINVAL"}, {"ENOMEM", "EINVAL"}},
	{"mprotect", SAME | MEMORY, {"ENOMEM", "EACCES"}, {"ENOMEM", "EACCES"}},
	{"madvise", SAME | MEMORY, {"EAGAIN", "EINVAL"}, {"ENOMEM", "EINVAL"}},
	/* Of the kernel's it returns where the heap ends now. */
	{"brk", SAME | MEMORY, {"0"}, {"0"}},
	{"openat", SAME, {"EMFILE", "ENOENT", "EINTR"}, {"ENFILE", "EACCES"}},
	{"getrandom", 0, {"EINTR", "EAGAIN", "ENOSYS"}, {"ENOSYS", "EPERM"}},
	{"eventfd2", SAME, {"EMFILE", "ENOMEM", "ENODEV"},
		{"ENFILE", "EMFILE"}},
	{"pipe2", SAME | KNOWN, {"EMFILE", "ENFILE"}, {"EMFILE", "ENOSYS"}},
	{"fcntl", SAME | KNOWN, {"EPERM", "EBUSY", "EMFILE"},
		{"EPERM", "EBUSY"}},
	{"clone3", SAME | KNOWN, {"EAGAIN", "ENOMEM", "EPERM"}, {"EAGAIN"}},
	{"timerfd_create", SAME, {"EMFILE", "ENOMEM"}, {"ENFILE", "ENODEV"}},
	{"timerfd_settime", 0, {"EINVAL", "ECANCELED"}, {"EINVAL", "EBADF"}},
	{"epoll_create1", SAME | KNOWN, {"EMFILE", "ENOMEM"},
		{"ENFILE", "ENOMEM", "ENOSYS"}},
	{"epoll_ctl", KNOWN, {"ENOMEM", "ENOSPC"}, {"ENOSPC", "ENOMEM"}},
	{"epoll_wait", LOOP, {"EINTR", "EBADF", "EINVAL"}, {"EBADF", "EINVAL"}},
	{"poll", 0, {"EINTR", "ENOMEM", "EINVAL"}, {"ENOMEM", "EINVAL"}},
	{"read", LOOP, {"EINTR", "EIO", "EAGAIN"}, {"EIO", "EBADF"}},
	{"write", SPEAKS, {"EINTR", "EPIPE", "EIO"}, {"EPIPE", "EIO"}},
	{"ioctl", SAME, {"ENOTTY", "EINVAL"}, {"ENOTTY", "EBADF"}},
	{"close", SAME, {"EINTR", "EIO"}, {"EIO", "EDQUOT", "EINTR"}},
	{"socket", KNOWN, {"EMFILE", "EAFNOSUPPORT", "ENOBUFS"},
		{"ENFILE", "EAFNOSUPPORT", "EACCES"}},
	{"setsockopt", 0, {"ENOPROTOOPT", "ENOMEM"}, {"ENOPROTOOPT", "EPERM"}},
	{"getsockopt", 0, {"ENOPROTOOPT", "ENOBUFS"}, {"ENOPROTOOPT", "EPERM"}},
	{"bind", KNOWN, {"EADDRINUSE", "EACCES"}, {"EADDRNOTAVAIL", "EACCES"}},
	{"listen", KNOWN, {"EADDRINUSE"}, {"EADDRINUSE", "EOPNOTSUPP"}},
	{"getsockname", 0, {"ENOBUFS", "ENOTSOCK"}, {"ENOBUFS"}},
	{"accept4", KNOWN, {"EMFILE", "ECONNABORTED", "EINTR"},
		{"ENFILE", "ENOSYS", "EPERM"}},
	{"recvfrom", CLIENTS, {"EINTR", "ECONNRESET", "ENOMEM"},
		{"ECONNRESET", "ENOMEM", "ETIMEDOUT"}},
	{"sendto", CLIENTS, {"EINTR", "EPIPE", "ENOBUFS"},
		{"EPIPE", "ECONNRESET", "EPERM"}},
	{"recvmsg", 0, {"EINTR", "ECONNREFUSED", "ENOMEM"},
		{"ENOMEM", "EBADF"}},
	{"recvmmsg", 0, {"EINTR", "ECONNREFUSED", "ENOMEM"},
		{"ENOMEM", "ENOSYS", "ECONNREFUSED"}},
	{"sendmmsg", 0, {"EINTR", "EPERM", "ENOBUFS"},
		{"EPERM", "ENOSYS", "ENOBUFS"}},
	{"shutdown", 0, {"ENOTCONN", "ENOBUFS"}, {"ENOTCONN", "EINVAL"}},
};

#define NR_ROWS ((int)(sizeof(rows) / sizeof(rows[0])))

struct fault {
	const struct target *target;
	const struct row *row;
	const char *error;
	int when;
	bool lasting;
	bool later; /* strace comes to a server that runs */
};

/* What the lanes share. */
static struct shared {
	atomic_int next;
	atomic_int reached; /* faults that came; nearly all do */
	atomic_int wrong;
} * shared;

/* Clients */

enum answer {
	ECHOED,
	AWAY, /* sent away, or not let in */
	NONE
};

/* So that a server which has told why may serve nobody until it is asked to
 * end. */
static bool lasts(const struct fault *fault)
{
	return fault->lasting ||
		(fault->row && fault->row->flags & LOOP &&
			fault->target->name == classic.name);
}

static bool is_mute(const struct fault *fault)
{
	return fault->lasting && fault->row->flags & SPEAKS;
}

/* Nothing will come, and that is as it should be. */
static bool gives_up(struct traced *traced, const struct fault *fault)
{
	return is_mute(fault) || (lasts(fault) && has_told(traced));
}

/* A datagram may be lost by a fault, what a connection brings may not. */
static enum answer ask(struct traced *traced, const struct fault *fault)
{
	int64_t until = now_ms() + 10000 * slowness();
	enum answer answer = AWAY;
	bool udp = fault->target->udp;
	int fd = dial(traced, udp);
	struct pollfd in = {.fd = fd, .events = POLLIN};
	int ready = 0;
	char byte = 0;

	if (fd == -1)
		return AWAY;
	send_all(fd, "s", 1);
	do
		ready = poll(&in, 1, ANSWERS_MS * slowness());
	while (ready == 0 && !udp && now_ms() < until &&
		!gives_up(traced, fault));
	if (ready == 0)
		answer = NONE;
	else if (recv(fd, &byte, 1, 0) == 1 && byte == 's')
		answer = ECHOED;
	close(fd);
	return answer;
}

/* How many of two; *last: what came of the last one who tried. */
static int serve_two(
	struct traced *traced, const struct fault *fault, enum answer *last)
{
	int64_t until = now_ms() + 10000 * slowness();
	int served = 0;
	int away = 0;

	do {
		*last = ask(traced, fault);
		served += *last == ECHOED;
		away += *last == AWAY;
	} while (served < 2 && away < TRIES && now_ms() < until &&
		!(*last == NONE && gives_up(traced, fault)));
	return served;
}

/* One fault */

static void start(struct traced *traced, const struct fault *fault)
{
	char how[64];

	snprintf(how, sizeof(how), "%s=%s:when=%d%s",
		strcmp(fault->error, "0") == 0 ? "retval" : "error",
		fault->error, fault->when, fault->lasting ? "+" : "");
	launch(traced, fault->target, fault->later ? NULL : fault->row->call,
		how);
	if (!listens(traced) || !fault->later)
		return;
	CHECK(WAIT_FOR(ask(traced, fault) == ECHOED));
	attach(traced, fault->row->call, how);
}

static int64_t cpu_us(pid_t pid)
{
	struct timespec used = {0, 0};
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) == 0)
		clock_gettime(clock, &used);
	return (int64_t)used.tv_sec * 1000000 + used.tv_nsec / 1000;
}

/* Now that nobody asks for anything. */
static bool is_busy(pid_t pid)
{
	int64_t before = cpu_us(pid);

	usleep(IDLE_MS * 1000);
	/* ThreadSanitizer works at the end, should it be there. */
	return !under("tsan") && cpu_us(pid) - before > BUSY_MS * 1000;
}

/* Workers that cannot be told of the stop are ended when the grace is over: the
 * second signal. */
static void end(const struct traced *traced, const struct fault *fault)
{
	kill(traced->pid, SIGTERM);
	if (!(fault->row->flags & SPEAKS))
		return;
	usleep(IDLE_MS * 1000);
	kill(traced->pid, SIGTERM);
}

static int count(const char *text, const char *word)
{
	int nr = 0;

	while ((text = strstr(text, word))) {
		nr++;
		text++;
	}
	return nr;
}

static bool is_good(const struct fault *fault, struct traced *traced,
	int served, enum answer last, int status)
{
	if (served == 2 && status == 0)
		return true;
	if (has_told(traced) && status == 1)
		return true;
	if (traced->port == 0 || status != 0)
		return false;
	if (has_told(traced))
		return lasts(fault);
	return is_mute(fault) ||
		(fault->lasting && fault->row->flags & CLIENTS && last == AWAY);
}

static bool stands(const struct fault *fault)
{
	enum answer last = AWAY;
	struct traced traced;
	bool busy = false;
	int served = 0;
	int injected;
	int status;
	char *log;

	start(&traced, fault);
	if (traced.port > 0) {
		served = serve_two(&traced, fault, &last);
		busy = fault->lasting && is_busy(traced.pid);
		end(&traced, fault);
	}
	status = finish(&traced);
	log = its_log(&traced);
	injected = count(log, "(INJECTED)");
	free(log);
	if (injected > 0)
		atomic_fetch_add(&shared->reached, 1);
	if (is_good(fault, &traced, served, last, status) && !busy &&
		injected <= MANY)
		return true;
	print_error("%s%s, %s, %s of %s from %d%s: served %d, status %d, "
		    "%d faults%s, said:%s\n",
		fault->target->name, fault->target->udp ? " (udp)" : "",
		fault->later ? "serving" : "starting", fault->error,
		fault->row->call, fault->when, fault->lasting ? " on" : "",
		served, status, injected, busy ? ", busy" : "", traced.said);
	return false;
}

/* All faults */

static struct fault faults[MAX_FAULTS];
static int nr_faults;

/* How often a thread has called it at most; with before, what the first one,
 * which is the program's main, did not yet. */
static int most_calls(const char *log, const char *call, int before)
{
	struct {
		long tid;
		int calls;
	} threads[16] = {{0}};
	size_t len = strlen(call);
	int most = 0;
	int i;

	threads[0].tid = strtol(log, NULL, 10);
	threads[0].calls = -before;
	for (; *log; log += strcspn(log, "\n"), log += *log == '\n') {
		char *name;
		long tid = strtol(log, &name, 10);

		name += strspn(name, " ");
		if (strncmp(name, call, len) != 0 || name[len] != '(')
			continue;
		for (i = 0; i < 15 && threads[i].tid && threads[i].tid != tid;)
			i++;
		threads[i].tid = tid;
		if (++threads[i].calls > most)
			most = threads[i].calls;
	}
	return most;
}

/* All that it calls while nothing fails; to be freed. */
static char *calls_of(const struct target *target, bool later)
{
	struct fault none = {target, NULL, "", 0, false, later};
	struct traced traced;
	enum answer last;

	launch(&traced, target, later ? NULL : "all", NULL);
	assert_true(listens(&traced));
	if (later) {
		assert_true(WAIT_FOR(ask(&traced, &none) == ECHOED));
		attach(&traced, "all", NULL);
	}
	assert_int_equal(serve_two(&traced, &none, &last), 2);
	kill(traced.pid, SIGTERM);
	assert_int_equal(finish(&traced), 0);
	return its_log(&traced);
}

static char *calls_before_main(const struct target *target)
{
	const struct target senseless = {target->name, {"a", "b", "c"}, false};
	struct traced traced;
	char *log;
	char *end;

	launch(&traced, &senseless, "all", NULL);
	assert_int_equal(finish(&traced), 2);
	log = its_log(&traced);
	end = strstr(log, " write(2,");
	assert_non_null(end);
	*end = '\0';
	return log;
}

static void add(struct fault fault, const char *const errors[4], int turn)
{
	bool every = getenv("EVERY") != NULL;
	int nr = 0;
	int i;

	while (nr < 4 && errors[nr])
		nr++;
	for (i = 0; i < nr && nr_faults < MAX_FAULTS; i++) {
		fault.error = errors[i];
		if (every || i == turn % nr)
			faults[nr_faults++] = fault;
	}
}

/* The first of a call both ways, then by turns. */
static void add_row(struct fault fault, int before, int nr)
{
	bool every = getenv("EVERY") != NULL;
	int k;

	if (!every && nr > FIRST_FEW)
		nr = FIRST_FEW;
	for (k = 1; k <= nr; k++) {
		fault.when = before + k;
		fault.lasting = false;
		if (every || k == 1 || k % 2 == 0)
			add(fault, fault.row->once, k / 2);
		fault.lasting = true;
		if (every || k % 2 == 1)
			add(fault, fault.row->lasting, k / 2);
	}
}

static bool is_tried(const struct target *target, bool later, int flags)
{
	return !(flags & SAME && target->udp) &&
		!(flags & KNOWN && target->name == classic.name && !later) &&
		!(flags & SPEAKS && !later) &&
		/* Of a thread that is cancelled it loses the locks. */
		!(flags & (MEMORY | SPEAKS) && under("tsan"));
}

static void list_faults(const struct target *target, bool later)
{
	char *early = later ? NULL : calls_before_main(target);
	char *calls = calls_of(target, later);
	int i;

	nr_faults = 0;
	for (i = 0; i < NR_ROWS; i++) {
		const char *call = rows[i].call;
		int before = early ? most_calls(early, call, 0) : 0;
		struct fault fault = {
			.target = target, .row = &rows[i], .later = later};

		if (is_tried(target, later, rows[i].flags))
			add_row(fault, before, most_calls(calls, call, before));
	}
	free(early);
	free(calls);
}

/* Takes one after the other, as the other lanes do. */
static void run_lane(void)
{
	int i;

	while ((i = atomic_fetch_add(&shared->next, 1)) < nr_faults)
		if (!stands(&faults[i]))
			atomic_fetch_add(&shared->wrong, 1);
	fflush(NULL);
	_exit(0);
}

static void run_lanes(void)
{
	pid_t lanes[LANES];
	int status;
	int i;

	fflush(NULL);
	for (i = 0; i < LANES; i++) {
		lanes[i] = fork();
		if (lanes[i] == 0)
			run_lane();
	}
	for (i = 0; i < LANES; i++) {
		waitpid(lanes[i], &status, 0);
		assert_int_equal(status, 0);
	}
}

static void try_all(const struct target *target, bool later)
{
	struct shared result;

	if (!can_trace())
		skip();
	list_faults(target, later);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(shared != MAP_FAILED);
	run_lanes();
	result = *shared;
	munmap(shared, sizeof(*shared));
	assert_int_equal(result.wrong, 0);
	assert_true(nr_faults > 0 && result.reached > nr_faults * 3 / 4);
}

static void the_classic_server_starts_or_tells_why(void **state)
{
	(void)state;
	try_all(&classic, false);
}

static void the_classic_server_of_datagrams_starts_or_tells_why(void **state)
{
	(void)state;
	try_all(&classic_udp, false);
}

static void a_pool_starts_or_tells_why(void **state)
{
	(void)state;
	try_all(&pool, false);
}

static void a_pool_of_datagrams_starts_or_tells_why(void **state)
{
	(void)state;
	try_all(&pool_udp, false);
}

static void the_classic_server_serves_on_or_tells_why(void **state)
{
	(void)state;
	try_all(&classic, true);
}

static void the_classic_server_of_datagrams_serves_on_or_tells_why(void **state)
{
	(void)state;
	try_all(&classic_udp, true);
}

static void a_pool_serves_on_or_tells_why(void **state)
{
	(void)state;
	try_all(&pool, true);
}

static void a_pool_of_datagrams_serves_on_or_tells_why(void **state)
{
	(void)state;
	try_all(&pool_udp, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(the_classic_server_starts_or_tells_why),
		LEDGER_TEST(
			the_classic_server_of_datagrams_starts_or_tells_why),
		LEDGER_TEST(a_pool_starts_or_tells_why),
		LEDGER_TEST(a_pool_of_datagrams_starts_or_tells_why),
		LEDGER_TEST(the_classic_server_serves_on_or_tells_why),
		LEDGER_TEST(
			the_classic_server_of_datagrams_serves_on_or_tells_why),
		LEDGER_TEST(a_pool_serves_on_or_tells_why),
		LEDGER_TEST(a_pool_of_datagrams_serves_on_or_tells_why),
	};

	return ledger_run("strace_calls", tests);
}
