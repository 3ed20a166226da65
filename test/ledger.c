/*
 * ledger.c: counting what is open, alive and allocated, failing allocations,
 * catching the log, and small clients. See ledger.h.
 */
#include "ledger.h"
#include "network.h"
#include "../evt-log-internal.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#define TEST_SECONDS 60 /* after these a test counts as hanging */
#define MAX_LINES    4096
#define CALLER       __builtin_return_address(0)

#ifdef COVERAGE

void __gcov_dump(void);
void __real__exit(int status);

/* What a child has covered counts too. */
void __wrap__exit(int status)
{
	__gcov_dump();
	__real__exit(status);
}

#endif

/* Allocations */

void *__real_malloc(size_t size);
void *__real_calloc(size_t nr, size_t size);
void *__real_realloc(void *old, size_t size);
void __real_free(void *memory);

static atomic_long live;
static atomic_int countdown; /* 0: nothing is to fail */
static atomic_bool persistent;
static atomic_bool reached;
static atomic_uint one_in; /* 0: none fails by chance */
static atomic_uint drawn;

static bool is_unlucky(void)
{
	unsigned int nr = atomic_load(&one_in);
	unsigned int number;

	if (nr == 0)
		return false;
	number = atomic_fetch_add(&drawn, 1) * 2654435761u;
	number = (number ^ number >> 15) * 2246822519u;
	return (number ^ number >> 13) % nr == 0;
}

bool (*allocation_hook)(const char *name, const void *address);

static bool must_fail(const char *name, const void *address)
{
	int before;

	if (is_unlucky() ||
		(allocation_hook && allocation_hook(name, address))) {
		errno = ENOMEM;
		return true;
	}
	if (atomic_load(&countdown) == 0)
		return false;
	before = atomic_fetch_sub(&countdown, 1);
	if (before == 1) {
		atomic_store(&reached, true);
		if (atomic_load(&persistent))
			atomic_store(&countdown, 1);
		else
			atomic_store(&countdown, 0);
		errno = ENOMEM;
		return true;
	}
	return false;
}

static void *count(void *memory)
{
	if (memory)
		atomic_fetch_add(&live, 1);
	return memory;
}

void *__wrap_malloc(size_t size)
{
	return must_fail("malloc", CALLER) ? NULL : count(__real_malloc(size));
}

void *__wrap_calloc(size_t nr, size_t size)
{
	return must_fail("calloc", CALLER) ? NULL
					   : count(__real_calloc(nr, size));
}

void *__wrap_realloc(void *old, size_t size)
{
	void *memory;

	if (must_fail("realloc", CALLER))
		return NULL;
	memory = __real_realloc(old, size);
	if (!old)
		count(memory);
	return memory;
}

void __wrap_free(void *memory)
{
	if (memory)
		atomic_fetch_sub(&live, 1);
	__real_free(memory);
}

void fail_allocation(int n, bool from_then_on)
{
	atomic_store(&reached, false);
	atomic_store(&persistent, from_then_on);
	atomic_store(&countdown, n);
}

void fail_allocations_by_chance(unsigned int nr, unsigned int seed)
{
	atomic_store(&drawn, seed);
	atomic_store(&one_in, nr);
}

bool fault_reached(void)
{
	return atomic_load(&reached);
}

/* Counting */

static int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	int entries = 0;

	while (dir && readdir(dir))
		entries++;
	if (dir)
		closedir(dir);
	return entries;
}

int count_fds(void)
{
	return count_entries("/proc/self/fd");
}

int count_threads(void)
{
	return count_entries("/proc/self/task");
}

long count_allocations(void)
{
	return atomic_load(&live);
}

bool under(const char *tool)
{
	const char *name = getenv("EVT_UNDER");

	return strcmp(name ? name : "plain", tool) == 0;
}

int slowness(void)
{
	return under("plain") ? 1 : under("valgrind") ? 10 : 5;
}

const char *program(const char *name)
{
	const char *built = getenv("EVT_BUILD");
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", built ? built : ".", name);
	return path;
}

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t cpu_ms(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
		(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

long voluntary_switches(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_nvcsw;
}

/* The log */

static struct {
	pthread_mutex_t lock;
	int count;
	int levels[MAX_LINES];
	char *lines[MAX_LINES];
} caught = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void catch_line(int level, const char *line, void *arg)
{
	(void)arg;
	pthread_mutex_lock(&caught.lock);
	if (caught.count < MAX_LINES) {
		caught.levels[caught.count] = level;
		caught.lines[caught.count++] = strdup(line);
	}
	pthread_mutex_unlock(&caught.lock);
}

void log_catch(void)
{
	evt_set_log(catch_line, NULL);
}

int log_lines(int at_least)
{
	int lines = 0;
	int i;

	pthread_mutex_lock(&caught.lock);
	for (i = 0; i < caught.count; i++)
		lines += caught.levels[i] >= at_least;
	pthread_mutex_unlock(&caught.lock);
	return lines;
}

bool log_has(const char *text)
{
	bool found = false;
	int i;

	pthread_mutex_lock(&caught.lock);
	for (i = 0; i < caught.count; i++)
		found = found || strstr(caught.lines[i], text);
	pthread_mutex_unlock(&caught.lock);
	return found;
}

const char *log_line(int index)
{
	const char *line = NULL;

	pthread_mutex_lock(&caught.lock);
	if (index < caught.count)
		line = caught.lines[index];
	pthread_mutex_unlock(&caught.lock);
	return line;
}

void log_forget(void)
{
	pthread_mutex_lock(&caught.lock);
	while (caught.count > 0)
		__real_free(caught.lines[--caught.count]);
	pthread_mutex_unlock(&caught.lock);
}

static void print_caught(void)
{
	int i;

	for (i = 0; log_line(i); i++)
		print_message("logged: %s\n", log_line(i));
}

/* Each test */

static const char *current;
static int fds_before;
static int threads_before;
static long live_before;

static void on_hang(int sig)
{
	static const char text[] = "\nhangs: ";

	(void)sig;
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	(void)!write(STDERR_FILENO, current, strlen(current));
	(void)!write(STDERR_FILENO, "\n", 1);
	signal(SIGALRM, SIG_DFL);
	raise(SIGALRM);
	_exit(142);
}

static void quiet_libevent(int severity, const char *text)
{
	(void)severity;
	(void)text;
}

static void *end_at_once(void *arg)
{
	return arg;
}

void ledger_begin(void)
{
	pthread_t thread;

	/* Suites run side by side: where it is allowed, each has a network of
	 * its own, and no other is given a port that it has just freed. */
	(void)own_network(CLONE_NEWNET);
	/* TSan starts a thread of its own with the first one. */
	if (pthread_create(&thread, NULL, end_at_once, NULL) == 0)
		pthread_join(thread, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	event_set_mem_functions(__wrap_malloc, __wrap_realloc, __wrap_free);
	event_set_log_callback(quiet_libevent);
}

int ledger_open(void **state)
{
	current = *state;
	log_catch();
	evt_log_(EVT_LOG_DEBUG, "%s",
		current); /* no repeat of the last test's */
	log_forget();
	signal(SIGALRM, on_hang);
	alarm((unsigned)(TEST_SECONDS * slowness()));
	fds_before = count_fds();
	threads_before = count_threads();
	live_before = count_allocations();
	return 0;
}

int ledger_close(void **state)
{
	bool even;

	(void)state;
	fail_allocation(0, false);
	even = WAIT_FOR(count_threads() <= threads_before) &&
		count_fds() == fds_before && count_allocations() == live_before;
	alarm(0);
	if (!even) {
		print_message("ledger of %s: descriptors %d, now %d; threads "
			      "%d, now %d; allocations %ld, now %ld\n",
			current, fds_before, count_fds(), threads_before,
			count_threads(), live_before, count_allocations());
		print_caught();
	}
	log_forget();
	return even ? 0 : -1;
}

int in_child(void (*fn)(void *arg), void *arg, int seconds)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		signal(SIGALRM, SIG_DFL);
		alarm((unsigned)(seconds * slowness()));
		fn(arg);
		_exit(0);
	}
	if (pid == -1)
		return -1;
	while (waitpid(pid, &status, 0) == -1 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Clients */

static void limit_wait(int fd)
{
	const struct timeval limit = {.tv_sec = 10 * slowness()};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static int connect_socket(const char *ip, int port, int socktype)
{
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	bool v6 = strchr(ip, ':') != NULL;
	int fd = socket(v6 ? AF_INET6 : AF_INET, socktype | SOCK_CLOEXEC, 0);
	int result;

	if (fd == -1)
		return -1;
	limit_wait(fd);
	inet_pton(AF_INET6, ip, &in6.sin6_addr);
	inet_pton(AF_INET, ip, &in.sin_addr);
	result = v6 ? connect(fd, (struct sockaddr *)&in6, sizeof(in6))
		    : connect(fd, (struct sockaddr *)&in, sizeof(in));
	if (result == 0)
		return fd;
	result = errno;
	close(fd);
	errno = result;
	return -1;
}

int connect_to(int port)
{
	return connect_socket("127.0.0.1", port, SOCK_STREAM);
}

int connect_to_ip(const char *ip, int port)
{
	return connect_socket(ip, port, SOCK_STREAM);
}

int udp_to(int port)
{
	return connect_socket("127.0.0.1", port, SOCK_DGRAM);
}

bool send_all(int fd, const void *data, size_t len)
{
	const char *rest = data;

	while (len > 0) {
		ssize_t sent = send(fd, rest, len, MSG_NOSIGNAL);

		if (sent == -1 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		rest += sent;
		len -= (size_t)sent;
	}
	return true;
}

bool receive_all(int fd, void *data, size_t len)
{
	char *rest = data;

	while (len > 0) {
		ssize_t got = recv(fd, rest, len, 0);

		if (got == -1 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		rest += got;
		len -= (size_t)got;
	}
	return true;
}

bool at_end(int fd)
{
	char byte;
	ssize_t got;

	do
		got = recv(fd, &byte, 1, 0);
	while (got == -1 && errno == EINTR);
	return got == 0 || (got == -1 && errno != EAGAIN);
}

void close_with_reset(int fd)
{
	const struct linger linger = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd);
}

bool refused(int port)
{
	int fd = connect_to(port);

	if (fd == -1)
		return errno == ECONNREFUSED;
	close(fd);
	return false;
}
