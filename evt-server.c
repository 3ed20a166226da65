/*
 * evt-server.c: the classic interface, as a facade: one pool and one listener,
 * static, since the interface is one server by nature.
 *
 * The lifecycle (init, start, threads, stop) is serialised by one mutex; the
 * way of a connection takes it only before there is a pool. The pool's
 * boss waits for that mutex at the end of a stop, so nobody may wait for the
 * end while holding it.
 *
 * What is dispatched before evt_server_threads is kept in a pipe of its own,
 * which bounds it like any other, and moved to the workers when they come.
 */
#include "evt-server.h"
#include "evt-kept-internal.h"
#include "evt-accept-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"
#include "evt-server-internal.h"

#include <errno.h>

/* What dispatching may count on. */
enum workers {
	NOT_YET,  /* kept until they come */
	NO_POOL,  /* evt_server_threads said there will be none */
	STARTING, /* they run, but what was kept is not all theirs yet */
	STARTED
};

static struct {
	/* The lifecycle; also keeps what is logged under it. */
	pthread_mutex_t lock;
	struct evt_log_kept log;

	/* Under the lock. */
	struct addrinfo *ai; /* NULL before init */
	int socktype;
	bool undoing; /* the pool ends, but what init prepared stays */
	struct evt_kept kept;
	evt_callback tcb; /* written before the workers start */

	/* Any thread. */
	atomic_int family;  /* of ai; 0 before init */
	atomic_int workers; /* enum workers; written under the lock */
	atomic_ulong dropped;
	atomic_ulong refused;
	atomic_ulong truncated;
	atomic_ulong unreachable;

	struct evt_pool pool;
	struct evt_acceptor listener;
} server = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.kept = {.pipe = {-1, -1}},
	.listener = {.fd = -1, .port = -1},
};

static void deliver(struct evt_worker *worker, const struct evt_record *record)
{
	(void)worker;
	server.tcb(record->fd, record->events, record->arg);
}

static bool is_listening_socket(int fd)
{
	return fd ==
		atomic_load_explicit(&server.listener.fd, memory_order_relaxed);
}

/* The listening socket of a UDP server travels in records, but stays. */
static void close_conn(int fd)
{
	if (is_listening_socket(fd))
		return;
	shutdown(fd, SHUT_RDWR);
	close(fd);
}

static void drop(struct evt_pool *pool, const struct evt_record *record)
{
	(void)pool;
	atomic_fetch_add(&server.dropped, 1);
	close_conn(record->fd);
}

/* A callback may have closed fd already, and somebody else got its number. */
static void cut(struct evt_pool *pool, int fd)
{
	int port = evt_server_port();

	(void)pool;
	if (port != -1 && evt_net_port_(fd) == port)
		shutdown(fd, SHUT_RDWR);
}

static void stop_accepting(struct evt_pool *pool)
{
	(void)pool;
	evt_acceptor_unwatch_(&server.listener);
}

static void on_ended(struct evt_pool *pool);

static const struct evt_pool_hooks hooks = {
	.deliver = deliver,
	.drop = drop,
	.cut = cut,
	.on_stopping = stop_accepting,
	.on_ended = on_ended,
};

/* The lock of the lifecycle */

static void init_pool(void)
{
	evt_pool_init_(&server.pool, &hooks);
}

static void lock_server(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_pool);
	pthread_mutex_lock(&server.lock);
	evt_log_keep_(&server.log);
}

static void unlock_server(void)
{
	struct evt_log_kept log;
	int error = errno;

	log.count = log.lost = 0;
	if (server.log.count > 0)
		log = server.log;
	evt_log_keep_(NULL);
	pthread_mutex_unlock(&server.lock);
	errno = error;
	evt_log_say_(&log);
}

/* What was kept */

/* Closes the connections that no worker came for; the lock is held. */
static void drop_kept(void)
{
	struct evt_record record;
	unsigned closed = 0;
	unsigned args = 0;

	while (evt_kept_take_(&server.kept, &record)) {
		drop(&server.pool, &record);
		closed++;
		if (record.arg)
			args++;
	}
	evt_kept_close_(&server.kept);
	if (closed > 0)
		evt_log_(EVT_LOG_WARN,
			"%u connections were kept for a pool that did not come:"
			" closed; %u arguments are the program's to free",
			closed, args);
}

/*
 * Moves what was kept to the new workers, in order. The lock is held, but not
 * while waiting for room, so that a stop can come in between; then
 * what is left is dropped with the rest.
 */
static void deliver_kept(void)
{
	unsigned generation = evt_pool_generation_(&server.pool);
	struct evt_record record;

	while (evt_kept_take_(&server.kept, &record)) {
		int error;

		unlock_server();
		error = evt_pool_put_(&server.pool, NULL, &record, true);
		lock_server();
		if (error)
			drop(&server.pool, &record);
		if (generation != evt_pool_generation_(&server.pool) ||
			evt_pool_phase_(&server.pool) != EVT_POOL_RUNNING)
			return;
	}
	evt_kept_close_(&server.kept);
	atomic_store(&server.workers, STARTED);
	evt_pool_tell_(&server.pool);
}

/* Ending */

/* As before init; the lock is held, and no thread of ours runs but perhaps
 * the boss, on its way out. */
static void release(void)
{
	drop_kept();
	evt_acceptor_close_(&server.listener);
	freeaddrinfo(server.ai);
	server.ai = NULL;
	atomic_store(&server.family, 0);
	atomic_store(&server.workers, NOT_YET);
}

static void on_ended(struct evt_pool *pool)
{
	(void)pool;
	/* Who undoes holds the lock and waits for us; not even a line may be
	 * said, or a hook that calls into the library would wait too. */
	if (server.undoing)
		return;
	lock_server();
	release();
	unlock_server();
	evt_log_flush_();
}

/* A start that failed takes back the boss that it has started. The lock is
 * held: no callback of the program's can be running. */
static void undo_boss(void)
{
	unsigned generation = evt_pool_generation_(&server.pool);
	int error = errno;

	server.undoing = true;
	evt_pool_request_stop_(&server.pool);
	evt_pool_await_end_(&server.pool, generation);
	server.undoing = false;
	errno = error;
}

void evt_server_stop(void)
{
	struct evt_worker *self = evt_thread_self_();
	unsigned generation;

	if (evt_forked_())
		return;
	lock_server();
	/* Before the phase: that run may be over between the two looks. */
	generation = evt_pool_generation_(&server.pool);
	if (evt_pool_phase_(&server.pool) == EVT_POOL_IDLE) {
		if (server.ai)
			release();
		unlock_server();
		return;
	}
	evt_pool_request_stop_(&server.pool);
	unlock_server();
	if (!self)
		evt_pool_await_end_(&server.pool, generation);
	else if (self->index == -1)
		self->done = true; /* it dispatches no more */
}

/* Beginning */

/* Waits until no stop is under way; the lock is held. False on a library
 * thread, which must not wait, and while the server runs. */
static bool await_idle(void)
{
	for (;;) {
		unsigned generation = evt_pool_generation_(&server.pool);
		int phase = evt_pool_phase_(&server.pool);

		if (phase == EVT_POOL_IDLE)
			return true;
		if (phase == EVT_POOL_RUNNING || evt_thread_self_())
			return false;
		unlock_server();
		evt_pool_await_end_(&server.pool, generation);
		lock_server();
	}
}

static int prepare(int port, int socktype)
{
	int family = evt_net_has_ipv6_() ? AF_INET6 : AF_INET;
	struct addrinfo *ai;

	if (evt_net_resolve_(NULL, port, socktype, family, AI_PASSIVE, &ai) ==
		-1)
		return -1;
	if (ai->ai_family != family) {
		freeaddrinfo(ai);
		return evt_fail_(EAFNOSUPPORT, "evt_server_init");
	}
	if (server.ai)
		freeaddrinfo(server.ai);
	atomic_store(&server.workers, NOT_YET);
	server.ai = ai;
	server.socktype = socktype;
	atomic_store(&server.family, family);
	return 0;
}

static void reset_ledger(void)
{
	atomic_store(&server.dropped, 0);
	atomic_store(&server.refused, 0);
	atomic_store(&server.truncated, 0);
	atomic_store(&server.unreachable, 0);
	atomic_store(&server.listener.accepted, 0);
}

int evt_server_init(int port, int socktype)
{
	int result;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_server_init in a forked child");
	if (port < 0 || port > 65535)
		return evt_fail_(EINVAL, "evt_server_init: port %d", port);
	if (socktype != SOCK_STREAM && socktype != SOCK_DGRAM)
		return evt_fail_(
			EINVAL, "evt_server_init: socktype %d", socktype);
	lock_server();
	if (!await_idle()) {
		result = evt_fail_(EBUSY, "evt_server_init: the server runs");
	} else {
		if (!server.ai)
			reset_ledger();
		result = prepare(port, socktype);
	}
	unlock_server();
	return result;
}

/* 0 if a listener or a pool may be started now; the lock is held. */
static int may_start(const char *call, bool has_callback, bool started)
{
	if (!server.ai)
		return evt_fail_(EINVAL, "%s before evt_server_init", call);
	if (!has_callback)
		return evt_fail_(EINVAL, "%s without a callback", call);
	if (evt_pool_phase_(&server.pool) > EVT_POOL_RUNNING)
		return evt_fail_(ECANCELED, "%s", call);
	if (started)
		return evt_fail_(EALREADY, "%s", call);
	return 0;
}

/* A system may have the IPv6 family, but no way to use it; or another server
 * may have the port there. */
static int open_listener(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	const struct sockaddr *addr = server.ai->ai_addr;
	char where[EVT_NET_TEXT];
	char reason[64];
	const char *step;
	const char *step4;
	int error;

	if (evt_acceptor_open_(&server.listener, addr, server.ai->ai_addrlen,
		    server.socktype, &step) == 0) {
		if (addr->sa_family == AF_INET)
			evt_log_(EVT_LOG_INFO,
				"no IPv6 on this machine: serving IPv4 alone");
		return 0;
	}
	error = errno;
	evt_net_text_(addr, where);
	if (addr->sa_family == AF_INET6) {
		in.sin_port = htons((uint16_t)evt_net_addr_port_(addr));
		if (evt_acceptor_open_(&server.listener, (struct sockaddr *)&in,
			    sizeof(in), server.socktype, &step4) == 0) {
			evt_log_(EVT_LOG_WARN, "%s %s: %s; serving IPv4 alone",
				step, where,
				strerror_r(error, reason, sizeof(reason)));
			return 0;
		}
	}
	return evt_fault_(error, "%s %s", step, where);
}

/* The lock is held. */
static int start_listener(evt_callback cb, void *arg)
{
	bool had_boss = evt_pool_phase_(&server.pool) == EVT_POOL_RUNNING;
	int error;

	if (open_listener() == -1)
		return -1;
	if (!had_boss && evt_pool_start_boss_(&server.pool) == -1)
		goto no_boss;
	if (evt_acceptor_watch_(&server.listener, &server.pool, cb, arg) == -1)
		goto not_watched;
	evt_log_(EVT_LOG_DEBUG, "listening on %s, port %d, backlog %d",
		server.listener.where, evt_server_port(),
		evt_net_backlog_limit_());
	return 0;
not_watched:
	if (!had_boss)
		undo_boss();
no_boss:
	error = errno;
	evt_acceptor_close_(&server.listener);
	errno = error;
	return -1;
}

int evt_server_start(evt_callback cb, void *arg)
{
	int result;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_server_start in a forked child");
	lock_server();
	result = may_start("evt_server_start", cb != NULL,
		server.listener.state != EVT_ACCEPTOR_CLOSED);
	if (result == 0)
		result = start_listener(cb, arg);
	unlock_server();
	return result;
}

/* The lock is held. */
static int start_workers(evt_callback tcb, int nr)
{
	bool had_boss = evt_pool_phase_(&server.pool) == EVT_POOL_RUNNING;

	if (!had_boss && evt_pool_start_boss_(&server.pool) == -1)
		return -1;
	server.tcb = tcb;
	if (evt_pool_start_workers_(&server.pool, nr) == -1) {
		if (!had_boss)
			undo_boss();
		return -1;
	}
	atomic_store(&server.workers, STARTING);
	deliver_kept();
	return nr;
}

/* The lock is held. */
static int have_no_pool(void)
{
	atomic_store(&server.workers, NO_POOL);
	drop_kept();
	evt_pool_tell_(&server.pool);
	return 0;
}

int evt_server_threads(evt_callback tcb, int nr)
{
	int result;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_server_threads in a forked child");
	lock_server();
	result = may_start("evt_server_threads", tcb != NULL,
		atomic_load(&server.workers) >= STARTING);
	if (result == 0)
		result = nr > 0 ? start_workers(tcb, nr) : have_no_pool();
	unlock_server();
	return result;
}

int evt_server_grace_ms(int ms)
{
	if (ms < -1)
		return evt_fail_(EINVAL, "evt_server_grace_ms %d", ms);
	if (evt_forked_())
		return evt_fail_(
			EPERM, "evt_server_grace_ms in a forked child");
	lock_server();
	evt_pool_set_grace_(&server.pool, ms);
	unlock_server();
	return 0;
}

int evt_server_port(void)
{
	return atomic_load(&server.listener.port);
}

int evt_server_family_(void)
{
	return atomic_load_explicit(&server.family, memory_order_relaxed);
}

struct addrinfo *evt_server_addrinfo_(void)
{
	struct addrinfo *ai;

	if (evt_forked_())
		return NULL;
	lock_server();
	ai = server.ai;
	unlock_server();
	return ai;
}

/* For callbacks */

static void copy_peer(
	struct sockaddr *dest, struct sockaddr_storage *peer, socklen_t len)
{
	int family = evt_server_family_();

	if (!dest)
		return;
	if (len == 0) /* it left before anybody asked */
		peer->ss_family = (sa_family_t)family;
	memcpy(dest, peer, evt_net_addr_len_(family));
}

int evt_tcp(sockfd_t fd, struct sockaddr *sock)
{
	struct evt_worker *self = evt_thread_self_();
	struct sockaddr_storage peer = {0};
	socklen_t len;
	int conn;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_tcp in a forked child");
	conn = evt_acceptor_accept_(&server.listener, fd, false, &peer, &len);
	if (conn == -1)
		return -1;
	copy_peer(sock, &peer, len);
	if (self && self->index == -1)
		evt_worker_serving_(self, conn);
	return conn;
}

int evt_udp(sockfd_t fd, char *buf, int size, int flags, struct sockaddr *sock)
{
	struct evt_worker *self = evt_thread_self_();
	struct evt_net_datagram datagram;
	ssize_t len;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_udp in a forked child");
	if (size < 0 || (size > 0 && !buf))
		return evt_fail_(EINVAL, "evt_udp: buffer of %d bytes", size);
	if (self && self->index == -1)
		evt_worker_serving_(self, fd);
	len = evt_net_receive_(fd, buf, (size_t)size, flags, &datagram);
	atomic_fetch_add_explicit(
		&server.unreachable, datagram.errors, memory_order_relaxed);
	/* A stop shuts the socket down: that looks like an empty datagram, but
	 * from nobody. */
	if (atomic_load(&server.pool.hurry) &&
		((len == 0 && datagram.peer_len == 0) ||
			(len == -1 && errno == EAGAIN)))
		return evt_fail_(ECANCELED, "evt_udp");
	if (evt_acceptor_received_(
		    &server.listener, fd, len == -1 ? errno : 0) == -1)
		return -1;
	if (datagram.truncated)
		atomic_fetch_add(&server.truncated, 1);
	copy_peer(sock, &datagram.peer, datagram.peer_len);
	return (int)len;
}

/* Keeps a record until the workers come: 0 or an error number. */
static int keep(const struct evt_record *record, bool *started)
{
	struct evt_worker *self = evt_thread_self_();
	bool boss = self && self->index == -1;
	int phase = evt_pool_phase_(&server.pool);
	int workers = atomic_load(&server.workers);

	*started = false;
	if (!server.ai)
		return EINVAL;
	if (phase > EVT_POOL_STOPPING ||
		(phase == EVT_POOL_STOPPING && (!boss || self->done)))
		return ECANCELED;
	if (workers == NO_POOL)
		return ENXIO;
	*started = workers == STARTED;
	if (*started)
		return 0;
	return evt_kept_put_(&server.kept, record);
}

/* The listener's callback waits for the pool, or for room; others do not. */
static EVT_SELDOM_ int keep_or_put(const struct evt_record *record)
{
	struct evt_worker *self = evt_thread_self_();
	bool may_wait = self && self->index == -1;
	unsigned news;
	bool started;
	int error;

	for (;;) {
		lock_server();
		news = evt_pool_news_(&server.pool);
		error = keep(record, &started);
		unlock_server();
		if (started)
			error = evt_pool_put_(&server.pool, NULL, record, true);
		if (error == ENOTCONN) /* stopped, and begun anew */
			continue;
		if (error != EAGAIN || !may_wait)
			return error;
		if (evt_pool_phase_(&server.pool) != EVT_POOL_RUNNING)
			return ECANCELED;
		evt_pool_await_news_(&server.pool, news);
	}
}

int evt_thread_dispatch(sockfd_t conn, short evt, void *arg)
{
	const struct evt_record record = {
		.kind = EVT_RECORD_CONN, .events = evt, .fd = conn, .arg = arg};
	struct evt_worker *self = evt_thread_self_();
	int error = ENOTCONN;

	if (evt_forked_())
		return evt_fail_(
			EPERM, "evt_thread_dispatch in a forked child");
	if (conn < 0)
		return evt_fail_(EBADF, "evt_thread_dispatch of %d", conn);
	if (atomic_load(&server.workers) == STARTED)
		error = evt_pool_put_(&server.pool, NULL, &record, true);
	if (error == ENOTCONN) /* no workers yet, or none any more */
		error = keep_or_put(&record);
	if (error) {
		atomic_fetch_add(&server.refused, 1);
		/* Without conn: a run of refusals is one line, counted. */
		return evt_fail_(error,
			error == ENXIO ? "evt_thread_dispatch without a worker"
				       : "evt_thread_dispatch");
	}
	if (self && self->index == -1)
		evt_worker_serving_(self, -1);
	return 0;
}

void evt_close(sockfd_t fd)
{
	struct evt_worker *self = evt_thread_self_();
	int error = errno;
	bool gone;

	if (fd < 0 || is_listening_socket(fd))
		return;
	if (evt_forked_()) { /* the connection itself is the parent's */
		close(fd);
		errno = error;
		return;
	}
	if (self && atomic_load(&self->serving) == fd)
		evt_worker_serving_(self, -1);
	gone = shutdown(fd, SHUT_RDWR) == -1 && errno == ENOTCONN;
	if (self && (gone || atomic_load(&self->pool->hurry)))
		evt_thread_take_sigpipe_();
	close(fd);
	evt_acceptor_nudge_(&server.listener);
	errno = error;
}

struct event_base *evt_thread_base(void)
{
	struct evt_worker *self = evt_thread_self_();

	return self ? self->base : NULL;
}

int evt_thread_at_stop(void (*fn)(void *), void *arg)
{
	struct evt_worker *self = evt_thread_self_();
	int error = EPERM;

	if (!fn)
		return evt_fail_(EINVAL, "evt_thread_at_stop");
	if (self)
		error = evt_worker_at_stop_(self, fn, arg);
	if (error)
		return evt_fail_(error, "evt_thread_at_stop");
	return 0;
}

void evt_server_ledger_(struct evt_server_ledger *ledger)
{
	struct evt_acceptor *listener = &server.listener;

	ledger->accepted = atomic_load(&listener->accepted);
	ledger->delivered = evt_pool_delivered_(&server.pool);
	ledger->dropped = atomic_load(&server.dropped);
	ledger->refused = atomic_load(&server.refused);
	ledger->pauses = atomic_load(&listener->pauses);
	ledger->vanished = atomic_load(&listener->vanished);
	ledger->truncated = atomic_load(&server.truncated);
	ledger->unreachable = atomic_load(&server.unreachable);
}
