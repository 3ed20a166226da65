/*
 * evt-listener.c: accepting.
 *
 * The commonest live bug of such servers is what happens when accept(2) says
 * EMFILE: the socket stays readable, the loop comes back at once, and a core
 * burns. Here the listener pauses, 10 ms and then longer, up to 100, or until
 * one of ours is closed; the kernel's queue holds the clients meanwhile. The
 * trick with a reserve descriptor that is closed to accept and turn away one
 * more client was rejected: it loses clients that could have been served a
 * moment later.
 */
#include "evt-listener-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAUSE_MIN_MS  10L
#define PAUSE_MAX_MS  100L
#define TOLD_A_SECOND EVT_LOG_BURST

int evt_listener_open_(struct evt_listener *listener,
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
	listener->socktype = socktype;
	listener->state = EVT_LISTENER_OPEN;
	listener->told_since_ms = 0;
	evt_net_text_(bound, listener->where);
	atomic_store(&listener->accepted, 0);
	atomic_store(&listener->pauses, 0);
	atomic_store(&listener->vanished, 0);
	atomic_store(&listener->port, evt_net_addr_port_(bound));
	atomic_store(&listener->fd, fd);
	return 0;
}

void evt_listener_close_(struct evt_listener *listener)
{
	int fd = atomic_exchange(&listener->fd, -1);

	if (fd != -1)
		close(fd);
	atomic_store(&listener->port, -1);
	listener->state = EVT_LISTENER_CLOSED;
}

/* Watching, on the boss */

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct evt_listener *listener = arg;
	struct evt_worker *boss = &listener->pool->boss;
	int state = evt_callback_begin_();

	(void)what;
	listener->on_ready(fd, EV_READ, listener->arg);
	evt_worker_serving_(boss, -1);
	evt_callback_end_(boss, state);
}

static void end_pause(struct evt_listener *listener)
{
	const struct timeval again = {.tv_usec = PAUSE_MAX_MS * 1000};

	atomic_store(&listener->paused, false);
	event_del(listener->resume);
	if (event_add(listener->ready, NULL) == 0)
		return;
	/* No memory for that either: later. */
	atomic_store(&listener->paused, true);
	event_add(listener->resume, &again);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	end_pause(arg);
}

/* A timer that has been pending once has its place in the heap, and can be
 * added again when there is no memory. */
static int reserve_timer(struct event *timer)
{
	const struct timeval hour = {.tv_sec = 3600};

	if (event_add(timer, &hour) == -1)
		return -1;
	return event_del(timer);
}

static void free_events(struct evt_listener *listener)
{
	if (listener->ready)
		event_free(listener->ready);
	if (listener->resume)
		event_free(listener->resume);
	listener->ready = listener->resume = NULL;
}

static int watch(struct evt_listener *listener, struct event_base *base)
{
	errno = ENOMEM; /* what libevent does not say */
	listener->ready = event_new(base, atomic_load(&listener->fd),
		EV_READ | EV_PERSIST, on_ready, listener);
	listener->resume = event_new(base, -1, 0, on_resume, listener);
	if (listener->ready && listener->resume &&
		reserve_timer(listener->resume) == 0 &&
		event_add(listener->ready, NULL) == 0)
		return 0;
	listener->error = errno;
	free_events(listener);
	return -1;
}

static void watch_task(struct evt_worker *boss, void *arg)
{
	struct evt_listener *listener = arg;
	struct evt_pool *pool = boss->pool;

	pthread_mutex_lock(&pool->lock);
	if (listener->state == EVT_LISTENER_WANTED)
		listener->state = watch(listener, boss->base) == 0
			? EVT_LISTENER_WATCHED
			: EVT_LISTENER_UNWATCHED;
	pthread_mutex_unlock(&pool->lock);
	evt_pool_tell_(pool);
}

/* Waits for the boss's answer, or takes the question back when it is not
 * going to answer any more. */
static enum evt_listener_state await_answer(struct evt_listener *listener)
{
	struct evt_pool *pool = listener->pool;
	enum evt_listener_state state;

	pthread_mutex_lock(&pool->lock);
	while (listener->state == EVT_LISTENER_WANTED && pool->boss_in_loop &&
		atomic_load(&pool->phase) == EVT_POOL_RUNNING)
		pthread_cond_wait(&pool->changed, &pool->lock);
	if (listener->state == EVT_LISTENER_WANTED) {
		listener->state = EVT_LISTENER_UNWATCHED;
		listener->error = atomic_load(&pool->phase) == EVT_POOL_RUNNING
			? ENXIO
			: ECANCELED;
	}
	state = listener->state;
	pthread_mutex_unlock(&pool->lock);
	return state;
}

int evt_listener_watch_(struct evt_listener *listener, struct evt_pool *pool,
	void (*ready)(int fd, short what, void *arg), void *arg)
{
	const struct evt_record record = {
		.kind = EVT_RECORD_TASK, .task = watch_task, .arg = listener};
	int error;

	listener->pool = pool;
	listener->on_ready = ready;
	listener->arg = arg;
	listener->pause_ms = 0;
	listener->state = EVT_LISTENER_WANTED;
	error = evt_pool_put_(pool, &pool->boss, &record, false);
	if (!error && await_answer(listener) == EVT_LISTENER_UNWATCHED)
		error = listener->error;
	if (error)
		return evt_fail_(error, "watching %s", listener->where);
	return 0;
}

void evt_listener_unwatch_(struct evt_listener *listener)
{
	int fd;

	free_events(listener);
	atomic_store(&listener->paused, false);
	if (listener->socktype != SOCK_STREAM)
		return;
	fd = atomic_exchange(&listener->fd, -1);
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
static bool may_tell(struct evt_listener *listener, int64_t now_ms)
{
	if (now_ms - listener->told_since_ms >= 1000) {
		listener->told_since_ms = now_ms;
		listener->nr_told = 0;
	}
	return listener->nr_told++ < TOLD_A_SECOND;
}

static void say_paused(struct evt_listener *listener, int error)
{
	struct rlimit limit = {0, 0};
	char reason[64];

	getrlimit(RLIMIT_NOFILE, &limit);
	evt_log_(EVT_LOG_WARN,
		"accepting on %s pauses: %s (%llu descriptors allowed, %lu "
		"connections accepted, paused %lu times before)",
		listener->where, strerror_r(error, reason, sizeof(reason)),
		(unsigned long long)limit.rlim_cur,
		atomic_load(&listener->accepted),
		atomic_load(&listener->pauses));
}

static void pause_accepting(struct evt_listener *listener, int error)
{
	struct timeval delay = {0, 0};

	if (atomic_load(&listener->paused))
		return;
	if (listener->pause_ms == 0) {
		listener->paused_at_ms = evt_now_ms_();
		listener->failures = 0;
		listener->told = may_tell(listener, listener->paused_at_ms);
		if (listener->told)
			say_paused(listener, error);
	}
	listener->failures++;
	listener->pause_ms = listener->pause_ms == 0 ? PAUSE_MIN_MS
						     : 2 * listener->pause_ms;
	if (listener->pause_ms > PAUSE_MAX_MS)
		listener->pause_ms = PAUSE_MAX_MS;
	delay.tv_usec = listener->pause_ms * 1000;
	atomic_fetch_add_explicit(&listener->pauses, 1, memory_order_relaxed);
	event_del(listener->ready);
	event_add(listener->resume, &delay);
	/* With evt_listener_nudge_: what is closed from here on is noticed. */
	atomic_store(&listener->paused, true);
}

static void note_success(struct evt_listener *listener)
{
	atomic_fetch_add_explicit(&listener->accepted, 1, memory_order_relaxed);
	if (listener->pause_ms == 0)
		return;
	if (listener->told)
		evt_log_(EVT_LOG_INFO,
			"accepting on %s goes on after %lld ms (tries that failed: %lu)",
			listener->where,
			(long long)(evt_now_ms_() - listener->paused_at_ms),
			listener->failures);
	listener->pause_ms = 0;
}

static int fail(struct evt_listener *listener, bool own, enum verdict verdict,
	int error)
{
	if (verdict == EXHAUSTED && own) {
		pause_accepting(listener, error);
		errno = error;
		return -1;
	}
	if (verdict == BROKEN && own) {
		event_del(listener->ready);
		return evt_fail_(
			error, "accepting on %s has ended", listener->where);
	}
	return evt_fail_(error, "accept");
}

int evt_listener_accept_(struct evt_listener *listener, int fd,
	struct sockaddr_storage *peer, socklen_t *len)
{
	struct evt_worker *self = evt_thread_self_();
	bool own = self && self->index == -1 && listener->ready &&
		fd == atomic_load_explicit(&listener->fd, memory_order_relaxed);
	int tries;

	for (tries = 0; tries < EVT_LISTENER_TRIES; tries++) {
		int conn = evt_net_accept_(fd, peer, len);
		enum verdict verdict;

		if (conn != -1) {
			if (own)
				note_success(listener);
			return conn;
		}
		verdict = judge(errno);
		if (verdict == NOBODY)
			break;
		if (verdict != VANISHED)
			return fail(listener, own, verdict, errno);
		atomic_fetch_add_explicit(
			&listener->vanished, 1, memory_order_relaxed);
	}
	errno = EAGAIN;
	return -1;
}

static void resume_task(struct evt_worker *boss, void *arg)
{
	struct evt_listener *listener = arg;

	(void)boss;
	if (listener->ready && atomic_load(&listener->paused))
		end_pause(listener);
}

void evt_listener_nudge_(struct evt_listener *listener)
{
	const struct evt_record record = {
		.kind = EVT_RECORD_TASK, .task = resume_task, .arg = listener};

	/* With pause_accepting. A nudge that finds no room is no loss: the
	 * timer is there. */
	if (atomic_load_explicit(&listener->paused, memory_order_relaxed))
		evt_pool_put_(
			listener->pool, &listener->pool->boss, &record, false);
}
