/*
 * fault_calls.c: the wrapped calls. One that comes from a site of the library's
 * is counted, and fails if its turn has come; all others are passed on.
 */
#include "faults.h"
#include "ledger.h"

#include <dirent.h>
#include <event2/event.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

struct fault_site fault_sites[MAX_SITES];
int nr_fault_sites;

#define ENTRY(name, lasting, passing) {#name, lasting, passing},
static const struct {
	const char *name;
	const int *lasting;
	const int *passing;
} table[NR_CALLS] = {INJECT_CALLS(ENTRY)};
#undef ENTRY

const char *fault_call_name(enum fault_call call)
{
	return table[call].name;
}

/* Sites */

static int call_by_name(const char *name)
{
	int i = 0;

	while (i < NR_CALLS && strcmp(table[i].name, name) != 0)
		i++;
	return i;
}

/* A function in a header is in each object that uses it. */
static int first_like(const struct fault_site *site)
{
	int i;

	for (i = 0; i < nr_fault_sites; i++)
		if (fault_sites[i].call == site->call &&
			strcmp(fault_sites[i].where, site->where) == 0)
			break;
	return i;
}

bool fault_read_sites(const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned long long address;
	char name[64];

	while (file && nr_fault_sites < MAX_SITES) {
		struct fault_site *site = &fault_sites[nr_fault_sites];

		if (fscanf(file, "%llx %63s %63s", &address, name,
			    site->where) != 3)
			break;
		site->address = (uintptr_t)address;
		site->call = (enum fault_call)call_by_name(name);
		site->same = first_like(site);
		if (site->call < NR_CALLS)
			nr_fault_sites++;
	}
	if (!file || nr_fault_sites == MAX_SITES)
		fprintf(stderr, "%s: no file, or too many sites\n", path);
	if (file)
		fclose(file);
	return nr_fault_sites > 0 && nr_fault_sites < MAX_SITES;
}

static int find_site(uintptr_t address)
{
	int low = 0;
	int high = nr_fault_sites;

	while (low < high) {
		int middle = (low + high) / 2;

		if (fault_sites[middle].address < address)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < nr_fault_sites && fault_sites[low].address == address)
		return fault_sites[low].same;
	return NO_SITE;
}

/* The plan */

int (*fault_hits)[NR_MODES];
int *fault_hits_here;
bool fault_every;

#define ENOUGH      16 /* or as many as a call has errnos */
#define ENOUGH_HERE 1

static struct {
	atomic_bool active;
	struct fault_plan plan;
	struct fault_result *result;
	int *turns;
	atomic_int calls;
	atomic_bool taken;  /* it has failed */
	atomic_int lasting; /* the call that fails from now on, or -1 */
	atomic_int then;    /* how often the second one may still fail */
} faults;

void fault_begin(
	const struct fault_plan *plan, struct fault_result *result, int *turns)
{
	faults.plan = *plan;
	faults.result = result;
	faults.turns = turns;
	atomic_store(&faults.calls, 0);
	atomic_store(&faults.lasting, -1);
	atomic_store(&faults.taken, false);
	atomic_store(&faults.then,
		plan->then == NO_SITE                   ? 0
			: plan->then_mode == FAULT_ONCE ? 1
							: INT_MAX);
	atomic_store(&faults.active, plan->n > 0);
}

struct fault_result *fault_result(void)
{
	return faults.result;
}

void fault_pause(void)
{
	atomic_store(&faults.active, false);
}

void fault_resume(void)
{
	atomic_store(&faults.active, faults.plan.n > 0);
}

void fault_end(void)
{
	fault_pause();
}

static int length(const int *errors)
{
	int nr = 0;

	while (errors[nr] != 0)
		nr++;
	return nr;
}

static int nr_errors(enum fault_call call, enum fault_mode mode)
{
	return length(table[call].lasting) +
		(mode == FAULT_ONCE ? length(table[call].passing) : 0);
}

/* Each errno of a call has its turn, whoever makes it fail. */
static int next_error(enum fault_call call, enum fault_mode mode)
{
	int lasting = length(table[call].lasting);
	int nr = nr_errors(call, mode);
	int *turns = &faults.turns[(int)call * NR_MODES + (int)mode];
	int turn = __atomic_fetch_add(turns, 1, __ATOMIC_RELAXED) % nr;

	/* Those that pass come first. */
	return turn < nr - lasting ? table[call].passing[turn]
				   : table[call].lasting[turn - (nr - lasting)];
}

static int enough(enum fault_call call, enum fault_mode mode)
{
	int nr = nr_errors(call, mode);

	return nr > ENOUGH ? nr : ENOUGH;
}

/* Its turn has come, and it has not failed often enough yet. */
static bool is_chosen(enum fault_call call, int n, int site)
{
	const struct fault_plan *plan = &faults.plan;
	int at = site == NO_SITE ? MAX_SITES : site;
	int *hits = &fault_hits[at][plan->mode];

	if (n < plan->n || atomic_load(&faults.taken))
		return false;
	if (plan->then != NO_SITE && site != plan->at)
		return false;
	if (!plan->error && !fault_every &&
		__atomic_load_n(hits, __ATOMIC_RELAXED) >=
			enough(call, plan->mode) &&
		fault_hits_here[at] >= ENOUGH_HERE)
		return false;
	if (atomic_exchange(&faults.taken, true))
		return false;
	__atomic_fetch_add(hits, 1, __ATOMIC_RELAXED);
	fault_hits_here[at]++;
	return true;
}

static void note_fault(enum fault_call call, int n, int site)
{
	struct fault_result *result = faults.result;

	result->n = n;
	result->call = (int)call;
	result->site = site;
	result->error = faults.plan.error ? faults.plan.error
					  : next_error(call, faults.plan.mode);
	result->injections++;
	if (faults.plan.mode == FAULT_FROM_THEN_ON)
		atomic_store(&faults.lasting, (int)call);
	__atomic_store_n(&result->reached, 1, __ATOMIC_RELEASE);
}

static int second_error(enum fault_call call)
{
	faults.result->then_failed = 1;
	return next_error(call, faults.plan.then_mode);
}

/* The error that this call is to give, or 0. */
static int fault(enum fault_call call, const void *address)
{
	struct fault_result *result = faults.result;
	int site = NO_SITE;
	int n;

	if (!atomic_load(&faults.active))
		return 0;
	if (address)
		site = find_site((uintptr_t)address);
	if (address && site == NO_SITE)
		return 0;
	n = atomic_fetch_add(&faults.calls, 1) + 1;
	if (is_chosen(call, n, site)) {
		note_fault(call, n, site);
		return result->error;
	}
	if (!__atomic_load_n(&result->reached, __ATOMIC_ACQUIRE))
		return 0;
	if (site != NO_SITE)
		result->after[site] = 1;
	if (site != NO_SITE && site == faults.plan.then &&
		take_one(&faults.then))
		return second_error(call);
	if (atomic_load(&faults.lasting) != (int)call)
		return 0;
	__atomic_fetch_add(&result->injections, 1, __ATOMIC_RELAXED);
	return result->error;
}

/* The calls */

#define HERE __builtin_return_address(0)

#define WRAP(type, name, parameters, arguments, failure) \
	type __real_##name parameters;                   \
	type __wrap_##name parameters;                   \
	type __wrap_##name parameters                    \
	{                                                \
		int error = fault(FAULT_##name, HERE);   \
		if (error == 0)                          \
			return __real_##name arguments;  \
		errno = error;                           \
		return failure;                          \
	}

WRAP(int, accept, (int fd, struct sockaddr *addr, socklen_t *len),
	(fd, addr, len), -1)
WRAP(int, accept4, (int fd, struct sockaddr *addr, socklen_t *len, int flags),
	(fd, addr, len, flags), -1)
WRAP(int, bind, (int fd, const struct sockaddr *addr, socklen_t len),
	(fd, addr, len), -1)
WRAP(int, epoll_create1, (int flags), (flags), -1)
WRAP(int, epoll_ctl, (int fd, int what, int of, struct epoll_event *event),
	(fd, what, of, event), -1)
WRAP(int, epoll_wait, (int fd, struct epoll_event *events, int nr, int ms),
	(fd, events, nr, ms), -1)
WRAP(int, event_add, (struct event * event, const struct timeval *after),
	(event, after), -1)
WRAP(int, event_base_loop, (struct event_base * base, int flags), (base, flags),
	-1)
WRAP(struct event_base *, event_base_new_with_config,
	(const struct event_config *config), (config), NULL)
WRAP(struct event_config *, event_config_new, (void), (), NULL)
WRAP(struct event *, event_new,
	(struct event_base * base, evutil_socket_t fd, short events,
		event_callback_fn fn, void *arg),
	(base, fd, events, fn, arg), NULL)
WRAP(int, eventfd, (unsigned value, int flags), (value, flags), -1)
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode), -1)
WRAP(int, fchmodat, (int dir, const char *path, mode_t mode, int flags),
	(dir, path, mode, flags), -1)
/* What follows is a number or a pointer, passed in one way. */
WRAP(int, fcntl, (int fd, int what, void *arg), (fd, what, arg), -1)
WRAP(int, ioctl, (int fd, unsigned long what, void *arg), (fd, what, arg), -1)
WRAP(char *, fgets, (char *line, int size, FILE *file), (line, size, file),
	NULL)
WRAP(FILE *, fopen, (const char *path, const char *how), (path, how), NULL)
WRAP(int, fstat, (int fd, struct stat *status), (fd, status), -1)
WRAP(int, getifaddrs, (struct ifaddrs * *list), (list), -1)
WRAP(int, getpeername, (int fd, struct sockaddr *addr, socklen_t *len),
	(fd, addr, len), -1)
WRAP(ssize_t, getrandom, (void *to, size_t len, unsigned flags),
	(to, len, flags), -1)
WRAP(int, getrlimit, (int what, struct rlimit *limit), (what, limit), -1)
WRAP(int, getsockname, (int fd, struct sockaddr *addr, socklen_t *len),
	(fd, addr, len), -1)
WRAP(int, getsockopt,
	(int fd, int level, int name, void *value, socklen_t *len),
	(fd, level, name, value, len), -1)
WRAP(int, link, (const char *from, const char *to), (from, to), -1)
WRAP(int, listen, (int fd, int backlog), (fd, backlog), -1)
WRAP(int, lstat, (const char *path, struct stat *status), (path, status), -1)
WRAP(int, pipe2, (int fds[2], int flags), (fds, flags), -1)
WRAP(int, poll, (struct pollfd * fds, nfds_t nr, int ms), (fds, nr, ms), -1)
WRAP(ssize_t, read, (int fd, void *to, size_t len), (fd, to, len), -1)
WRAP(ssize_t, recv, (int fd, void *to, size_t len, int flags),
	(fd, to, len, flags), -1)
WRAP(int, recvmmsg,
	(int fd, struct mmsghdr *msgs, unsigned nr, int flags,
		struct timespec *within),
	(fd, msgs, nr, flags, within), -1)
WRAP(ssize_t, recvmsg, (int fd, struct msghdr *msg, int flags),
	(fd, msg, flags), -1)
WRAP(int, renameat2,
	(int dir, const char *from, int dir2, const char *to, unsigned flags),
	(dir, from, dir2, to, flags), -1)
WRAP(int, sched_getaffinity, (pid_t pid, size_t size, cpu_set_t *set),
	(pid, size, set), -1)
WRAP(ssize_t, send, (int fd, const void *from, size_t len, int flags),
	(fd, from, len, flags), -1)
WRAP(ssize_t, sendfile, (int to, int from, off_t *at, size_t len),
	(to, from, at, len), -1)
WRAP(int, sendmmsg, (int fd, struct mmsghdr *msgs, unsigned nr, int flags),
	(fd, msgs, nr, flags), -1)
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *msg, int flags),
	(fd, msg, flags), -1)
WRAP(int, setsockopt,
	(int fd, int level, int name, const void *value, socklen_t len),
	(fd, level, name, value, len), -1)
WRAP(int, shutdown, (int fd, int how), (fd, how), -1)
WRAP(int, sigtimedwait,
	(const sigset_t *set, siginfo_t *info, const struct timespec *within),
	(set, info, within), -1)
WRAP(int, socket, (int family, int type, int protocol),
	(family, type, protocol), -1)
WRAP(int, timerfd_create, (int clock, int flags), (clock, flags), -1)
WRAP(int, timerfd_settime,
	(int fd, int flags, const struct itimerspec *now,
		struct itimerspec *before),
	(fd, flags, now, before), -1)
WRAP(int, unlink, (const char *path), (path), -1)
WRAP(ssize_t, write, (int fd, const void *from, size_t len), (fd, from, len),
	-1)

/* Those that fail in a way of their own. */

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
	int error = fault(FAULT_close, HERE);
	int result = __real_close(fd);

	if (error == 0)
		return result;
	errno = error;
	return -1;
}

int __real_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	int error = fault(FAULT_connect, HERE);

	if (error == EINPROGRESS || error == EINTR)
		(void)!__real_connect(fd, addr, len);
	if (error == 0)
		return __real_connect(fd, addr, len);
	errno = error;
	return -1;
}

int __real_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list);
int __wrap_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list);
int __wrap_getaddrinfo(const char *host, const char *service,
	const struct addrinfo *hints, struct addrinfo **list)
{
	int error = fault(FAULT_getaddrinfo, HERE);

	if (error == 0)
		return __real_getaddrinfo(host, service, hints, list);
	if (error == EAI_SYSTEM)
		errno = EMFILE;
	return error;
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*fn)(void *), void *arg)
{
	int error = fault(FAULT_pthread_create, HERE);

	return error ? error : __real_pthread_create(thread, attr, fn, arg);
}

/* Allocations are wrapped and counted by ledger.c, which asks here. */

static bool fails(const char *name, const void *address)
{
	enum fault_call call = FAULT_realloc;

	if (name[0] == 'm')
		call = FAULT_malloc;
	else if (name[0] == 'c')
		call = FAULT_calloc;
	return fault(call, address) != 0;
}

void *__wrap_malloc(size_t size);
void *__wrap_realloc(void *old, size_t size);
void __wrap_free(void *memory);

static void *event_malloc(size_t size)
{
	if (fault(FAULT_event_memory, NULL) == 0)
		return __wrap_malloc(size);
	errno = ENOMEM;
	return NULL;
}

static void *event_realloc(void *old, size_t size)
{
	if (fault(FAULT_event_memory, NULL) == 0)
		return __wrap_realloc(old, size);
	errno = ENOMEM;
	return NULL;
}

__attribute__((constructor)) static void take_allocations(void)
{
	allocation_hook = fails;
	event_set_mem_functions(event_malloc, event_realloc, __wrap_free);
}
