/*
 * evt-accept.c: accepting.
 *
 * The commonest live bug of such servers is what happens when accept(2) says
 * EMFILE: the socket stays readable, the loop comes back at once, and a core
 * burns. Here the listener pauses, 10 ms and then longer, up to 100, or until
 * one of ours is closed; the kernel's queue holds the clients meanwhile. The
 * trick with a reserve descriptor that is closed to accept and turn away one
 * more client was rejected: it loses clients that could have been served a
 * moment later.
 */
#include "evt-accept-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <event2/event.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAUSE_MIN_MS  10L
#define PAUSE_MAX_MS  100L
#define TOLD_A_SECOND EVT_LOG_BURST
#define WHY_MS        10000 /* between two lines of a limit that is reached */

int evt_acceptor_open_(struct evt_acceptor *acceptor,
	const struct sockaddr *addr, socklen_t len, int socktype,
	const char **step)
{
	struct sockaddr_storage storage = {0};
	struct sockaddr *bound = (struct sockaddr *)&storage;
	int fd = evt_net_bind_(addr, len, socktype, step);
	int error;

	if (fd == -1)
		return -1;
	len = sizeof(storage);
	if (getsockname(fd, bound, &len) == -1) {
		*step = "getsockname";
		error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	evt_net_text_(bound, acceptor->where);
	atomic_store(&acceptor->port, evt_net_addr_port_(bound));
	evt_acceptor_take_(acceptor, fd, socktype);
	return 0;
}

void evt_acceptor_take_(struct evt_acceptor *acceptor, int fd, int socktype)
{
	acceptor->socktype = socktype;
	acceptor->state = EVT_ACCEPTOR_OPEN;
	acceptor->told_since_ms = 0;
	acceptor->why_told_ms = -WHY_MS;
	atomic_store(&acceptor->accepted, 0);
	atomic_store(&acceptor->pauses, 0);
	atomic_store(&acceptor->vanished, 0);
	atomic_store(&acceptor->fd, fd);
}

void evt_acceptor_close_(struct evt_acceptor *acceptor)
{
	int fd = atomic_exchange(&acceptor->fd, -1);

	if (fd != -1)
		close(fd);
	atomic_store(&acceptor->port, -1);
	acceptor->state = EVT_ACCEPTOR_CLOSED;
}

/* Watching, on the boss */

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct evt_acceptor *acceptor = arg;
	struct evt_worker *worker = acceptor->worker;
	int state = evt_callback_begin_(worker);

	(void)what;
	acceptor->on_ready(fd, EV_READ, acceptor->arg);
	if (!worker->pool->owned)
		evt_worker_serving_(worker, -1);
	evt_callback_end_(worker, state);
}

static void on_watched(struct evt_watch *watch, uint32_t events)
{
	char *bytes = (char *)watch - offsetof(struct evt_acceptor, watch);
	struct evt_acceptor *acceptor = (struct evt_acceptor *)(void *)bytes;

	(void)events;
	/* Or what came before it in the same wait has ended or paused it. */
	if (acceptor->resume && !atomic_load(&acceptor->paused))
		on_ready(atomic_load(&acceptor->fd), EV_READ, acceptor);
}

/* Waits for clients: 0, or -1: no memory for that. */
static int begin_waiting(struct evt_acceptor *acceptor)
{
	if (acceptor->ready)
		return event_add(acceptor->ready, NULL);
	return evt_worker_add_watch_(acceptor->worker,
		atomic_load(&acceptor->fd), &acceptor->watch, EPOLLIN);
}

static void end_waiting(struct evt_acceptor *acceptor)
{
	if (acceptor->ready)
		event_del(acceptor->ready);
	else
		evt_worker_drop_watch_(
			acceptor->worker, atomic_load(&acceptor->fd));
}

static void set_paused(struct evt_acceptor *acceptor, bool paused)
{
	atomic_fetch_add(&acceptor->pool->nr_paused, paused ? 1 : -1);
	atomic_store(&acceptor->paused, paused);
}

static void end_pause(struct evt_acceptor *acceptor)
{
	const struct timeval again = {.tv_usec = PAUSE_MAX_MS * 1000};

	set_paused(acceptor, false);
	event_del(acceptor->resume);
	if (begin_waiting(acceptor) == 0)
		return;
	/* No memory for that either: later. */
	set_paused(acceptor, true);
	event_add(acceptor->resume, &again);
}

void evt_acceptor_resume_(struct evt_acceptor *acceptor)
{
	if (acceptor->resume && atomic_load(&acceptor->paused))
		end_pause(acceptor);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct evt_acceptor *acceptor = arg;
	int state;

	(void)fd;
	(void)what;
	if (!acceptor->on_retry) {
		end_pause(acceptor);
		return;
	}
	state = evt_callback_begin_(acceptor->worker);
	acceptor->on_retry(acceptor);
	evt_callback_end_(acceptor->worker, state);
}

static void free_events(struct evt_acceptor *acceptor)
{
	if (acceptor->ready)
		event_free(acceptor->ready);
	if (acceptor->resume)
		event_free(acceptor->resume);
	acceptor->ready = acceptor->resume = NULL;
}

static int watch(struct evt_acceptor *acceptor)
{
	struct evt_worker *worker = acceptor->worker;
	bool polls = worker->poll_fd != -1;

	errno = ENOMEM; /* what libevent does not say */
	acceptor->watch.on_ready = on_watched;
	if (!polls)
		acceptor->ready = event_new(worker->base,
			atomic_load(&acceptor->fd), EV_READ | EV_PERSIST,
			on_ready, acceptor);
	acceptor->resume = event_new(worker->base, -1, 0, on_resume, acceptor);
	if ((acceptor->ready || polls) && acceptor->resume &&
		evt_timer_reserve_(acceptor->resume) == 0 &&
		begin_waiting(acceptor) == 0)
		return 0;
	acceptor->error = errno;
	free_events(acceptor);
	return -1;
}

static void watch_task(struct evt_worker *boss, void *arg)
{
	struct evt_acceptor *acceptor = arg;
	struct evt_pool *pool = boss->pool;

	pthread_mutex_lock(&pool->lock);
	if (acceptor->state == EVT_ACCEPTOR_WANTED)
		acceptor->state = watch(acceptor) == 0 ? EVT_ACCEPTOR_WATCHED
						       : EVT_ACCEPTOR_UNWATCHED;
	pthread_mutex_unlock(&pool->lock);
	evt_pool_tell_(pool);
}

/* Waits for the boss's answer, or takes the question back when it is not
 * going to answer any more. */
static enum evt_acceptor_state await_answer(struct evt_acceptor *acceptor)
{
	struct evt_pool *pool = acceptor->pool;
	enum evt_acceptor_state state;

	pthread_mutex_lock(&pool->lock);
	while (acceptor->state == EVT_ACCEPTOR_WANTED && pool->boss_in_loop &&
		atomic_load(&pool->phase) == EVT_POOL_RUNNING)
		pthread_cond_wait(&pool->changed, &pool->lock);
	if (acceptor->state == EVT_ACCEPTOR_WANTED) {
		acceptor->state = EVT_ACCEPTOR_UNWATCHED;
		acceptor->error = atomic_load(&pool->phase) == EVT_POOL_RUNNING
			? ENXIO
			: ECANCELED;
	}
	state = acceptor->state;
	pthread_mutex_unlock(&pool->lock);
	return state;
}

int evt_acceptor_watch_(struct evt_acceptor *acceptor, struct evt_pool *pool,
	void (*ready)(int fd, short what, void *arg), void *arg)
{
	const struct evt_record record = {
		.kind = EVT_RECORD_TASK, .task = watch_task, .arg = acceptor};
	int error;

	acceptor->pool = pool;
	acceptor->worker = &pool->boss;
	acceptor->on_ready = ready;
	acceptor->arg = arg;
	acceptor->pause_ms = 0;
	acceptor->state = EVT_ACCEPTOR_WANTED;
	error = evt_pool_put_(pool, &pool->boss, &record, false);
	if (!error && await_answer(acceptor) == EVT_ACCEPTOR_UNWATCHED)
		error = acceptor->error;
	if (error)
		return evt_fail_(error, "watching %s", acceptor->where);
	return 0;
}

int evt_acceptor_begin_(struct evt_acceptor *acceptor,
	struct evt_worker *worker, void (*ready)(int fd, short what, void *arg),
	void *arg)
{
	acceptor->pool = worker->pool;
	acceptor->worker = worker;
	acceptor->on_ready = ready;
	acceptor->arg = arg;
	if (watch(acceptor) == 0)
		return 0;
	errno = acceptor->error;
	return -1;
}

void evt_acceptor_end_(struct evt_acceptor *acceptor)
{
	if (acceptor->resume) /* a forked child may have it open as well */
		end_waiting(acceptor);
	free_events(acceptor);
	if (atomic_load(&acceptor->paused))
		set_paused(acceptor, false);
}

void evt_acceptor_unwatch_(struct evt_acceptor *acceptor)
{
	int fd;

	evt_acceptor_end_(acceptor);
	if (acceptor->socktype != SOCK_STREAM)
		return;
	fd = atomic_exchange(&acceptor->fd, -1);
	if (fd == -1)
		return;
	/* A forked child that has it open as well must not go on listening. */
	shutdown(fd, SHUT_RDWR);
	close(fd);
}

/* Accepting */

enum verdict {
	NOBODY,   /* no client, or none any more */
	VANISHED, /* this one left; the next may be there */
	EXHAUSTED,
	BROKEN
};

/* accept(2) hands on errors that the network left on the new connection, and
 * says: treat them like EAGAIN and try again. */
static enum verdict judge(int error)
{
	switch (error) {
	case EAGAIN:
		return NOBODY;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		return EXHAUSTED;
	case EBADF:
	case EINVAL:
	case ENOTSOCK:
	case EOPNOTSUPP:
	case EFAULT:
		return BROKEN;
	default:
		return VANISHED;
	}
}

/* Where connections come and go quickly there are many short pauses: a few
 * are told each second, with how many there were. */
static bool may_tell(struct evt_acceptor *acceptor, int64_t now_ms)
{
	if (now_ms - acceptor->told_since_ms >= 1000) {
		acceptor->told_since_ms = now_ms;
		acceptor->nr_told = 0;
	}
	return acceptor->nr_told++ < TOLD_A_SECOND;
}

static void say_exhausted(struct evt_acceptor *acceptor, int error)
{
	struct rlimit limit = {0, 0};
	char reason[64];

	if (acceptor->socktype == SOCK_DGRAM) {
		evt_log_(EVT_LOG_WARN, "receiving on %s pauses: %s",
			acceptor->where,
			strerror_r(error, reason, sizeof(reason)));
		return;
	}
	getrlimit(RLIMIT_NOFILE, &limit);
	evt_log_(EVT_LOG_WARN,
		"accepting on %s pauses: %s (%llu descriptors allowed, %lu "
		"connections accepted, paused %lu times before)",
		acceptor->where, strerror_r(error, reason, sizeof(reason)),
		(unsigned long long)limit.rlim_cur,
		atomic_load(&acceptor->accepted),
		atomic_load(&acceptor->pauses));
}

/* True if this pause has to be told of: the first of an episode. */
static bool begin_episode(struct evt_acceptor *acceptor)
{
	acceptor->failures++;
	if (acceptor->pause_ms != 0)
		return false;
	acceptor->paused_at_ms = evt_now_ms_();
	acceptor->failures = 1;
	acceptor->told = may_tell(acceptor, acceptor->paused_at_ms);
	return acceptor->told;
}

static void begin_pause(struct evt_acceptor *acceptor, bool wait)
{
	acceptor->pause_ms = acceptor->pause_ms == 0 ? PAUSE_MIN_MS
						     : 2 * acceptor->pause_ms;
	if (acceptor->pause_ms > PAUSE_MAX_MS)
		acceptor->pause_ms = PAUSE_MAX_MS;
	atomic_fetch_add_explicit(&acceptor->pauses, 1, memory_order_relaxed);
	evt_count_(&acceptor->worker->counters.accept_pauses, 1);
	if (wait &&
		evt_timer_add_(acceptor->resume, (int)acceptor->pause_ms) == -1)
		return;
	end_waiting(acceptor);
	/* With evt_acceptor_nudge_ and evt_pool_nudge_: what is closed from
	 * here on is noticed. */
	set_paused(acceptor, true);
}

static void pause_accepting(struct evt_acceptor *acceptor, int error)
{
	if (atomic_load(&acceptor->paused))
		return;
	if (begin_episode(acceptor))
		say_exhausted(acceptor, error);
	begin_pause(acceptor, true);
}

void evt_acceptor_pause_(
	struct evt_acceptor *acceptor, const char *why, bool wait)
{
	if (acceptor->broken || atomic_load(&acceptor->paused))
		return;
	/* Where clients come and go at a limit there is an episode for each:
	 * that it is full is told now and then, and not that it goes on. */
	if (begin_episode(acceptor) &&
		acceptor->paused_at_ms - acceptor->why_told_ms >= WHY_MS) {
		acceptor->why_told_ms = acceptor->paused_at_ms;
		evt_log_(EVT_LOG_WARN, "accepting on %s pauses: %s",
			acceptor->where, why);
	}
	acceptor->told = false;
	begin_pause(acceptor, wait);
}

static void end_episode(struct evt_acceptor *acceptor)
{
	if (acceptor->pause_ms == 0)
		return;
	if (acceptor->told)
		evt_log_(EVT_LOG_INFO,
			"%s on %s goes on after %lld ms (tries that failed: %lu)",
			acceptor->socktype == SOCK_DGRAM ? "receiving"
							 : "accepting",
			acceptor->where,
			(long long)(evt_now_ms_() - acceptor->paused_at_ms),
			acceptor->failures);
	acceptor->pause_ms = 0;
}

static void note_success(struct evt_acceptor *acceptor)
{
	atomic_fetch_add_explicit(&acceptor->accepted, 1, memory_order_relaxed);
	evt_count_(&acceptor->worker->counters.accepted, 1);
	end_episode(acceptor);
}

static int fail(struct evt_acceptor *acceptor, bool own, enum verdict verdict,
	int error)
{
	if (verdict == EXHAUSTED && own) {
		pause_accepting(acceptor, error);
		errno = error;
		return -1;
	}
	if (verdict == BROKEN && own) {
		end_waiting(acceptor);
		acceptor->broken = true;
		return evt_fail_(
			error, "accepting on %s has ended", acceptor->where);
	}
	return evt_fail_(error, "accept");
}

/* It is on its worker, and waits for this descriptor. */
static bool is_own(const struct evt_acceptor *acceptor, int fd)
{
	struct evt_worker *self = evt_thread_self_();

	return self && self == acceptor->worker && acceptor->resume &&
		fd == atomic_load_explicit(&acceptor->fd, memory_order_relaxed);
}

int evt_acceptor_accept_(struct evt_acceptor *acceptor, int fd,
	bool nonblocking, struct sockaddr_storage *peer, socklen_t *len)
{
	struct evt_worker *self = evt_thread_self_();
	bool own = is_own(acceptor, fd);
	int tries;

	for (tries = 0; tries < EVT_ACCEPTOR_TRIES; tries++) {
		int conn = evt_net_accept_(fd, nonblocking, peer, len);
		enum verdict verdict;

		if (conn != -1) {
			if (own)
				note_success(acceptor);
			return conn;
		}
		verdict = judge(errno);
		if (verdict == NOBODY)
			break;
		if (verdict != VANISHED)
			return fail(acceptor, own, verdict, errno);
		atomic_fetch_add_explicit(
			&acceptor->vanished, 1, memory_order_relaxed);
		if (own)
			evt_count_(&self->counters.vanished, 1);
	}
	errno = EAGAIN;
	return -1;
}

int evt_acceptor_received_(struct evt_acceptor *acceptor, int fd, int error)
{
	bool own = is_own(acceptor, fd);

	if (!error && own)
		end_episode(acceptor);
	if (!error)
		return 0;
	if (!own || error == EAGAIN)
		return evt_fail_(error, "evt_udp");
	pause_accepting(acceptor, error);
	errno = error;
	return -1;
}

static void resume_task(struct evt_worker *boss, void *arg)
{
	(void)boss;
	evt_acceptor_resume_(arg);
}

void evt_acceptor_nudge_(struct evt_acceptor *acceptor)
{
	const struct evt_record record = {
		.kind = EVT_RECORD_TASK, .task = resume_task, .arg = acceptor};

	/* With pause_accepting. A nudge that finds no room is no loss: the
	 * timer is there. */
	if (atomic_load_explicit(&acceptor->paused, memory_order_relaxed))
		evt_pool_put_(
			acceptor->pool, &acceptor->pool->boss, &record, false);
}
