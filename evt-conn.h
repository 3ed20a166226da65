/*
 * evt-conn.h: one buffered, non-blocking connection on a worker.
 *
 *	static size_t echo(struct evt_conn *conn, const char *data, size_t len,
 *		void *arg)
 *	{
 *		evt_conn_write(conn, data, len);
 *		return len;
 *	}
 *
 * Connections come from evt_listen (evt-listener.h) or evt_connect. Everything
 * that happens to one is told by a handler on its worker; what holds for all
 * calls stands at the top of evt-pool.h. In short: a connection is used on its
 * worker alone; handlers are never called from inside of a call; close, abort
 * and overflow only mark, and on_close follows once the current callback has
 * returned, exactly once for each connection that was opened (or that
 * evt_connect gave), last. The pointer is valid until on_close has returned;
 * the id may be kept for ever.
 *
 * What moves when: bytes are read into one large buffer of the worker's and
 * handed over in place; only what on_data leaves is kept, in memory of the
 * connection's own. Small writes of one callback go out together when it
 * returns, large ones at once. What the kernel does not take waits in memory
 * that is there only then. An idle connection costs its struct alone.
 */
#ifndef EVT_CONN_H
#define EVT_CONN_H

#include "evt-pool.h"

#include <sys/socket.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct addrinfo;
struct evt_conn;
struct evt_datagram;
struct evt_udp_socket;

/* Why a connection has ended. */
enum evt_reason {
	EVT_REASON_PEER,     /* the peer had ended the stream */
	EVT_REASON_OURS,     /* evt_conn_close or evt_conn_abort */
	EVT_REASON_RESET,    /* the peer's reset, or the network's */
	EVT_REASON_IDLE,     /* no byte moved for too long */
	EVT_REASON_DEADLINE, /* no first byte in time, or the lifetime over */
	EVT_REASON_OVERFLOW, /* more input or output than allowed */
	EVT_REASON_STOPPED,  /* the pool has stopped */
	EVT_REASON_FAILED    /* an error, see evt_conn_error; it is reset */
};

/* "peer", "ours", "reset", ...; "unknown" for another value. */
const char *evt_reason_name(enum evt_reason reason);

/*
 * Each may be NULL. arg is that of evt_listen or evt_connect.
 */
struct evt_handlers {
	/* It is there: connected, or accepted. Nothing was read yet. */
	void (*on_open)(struct evt_conn *conn, void *arg);

	/*
	 * len bytes at data, all that came and was not consumed, valid until it
	 * returns. Returns how many it has consumed: the rest comes again,
	 * in front of what arrives next. While it consumes something and leaves
	 * something it is called again at once; having consumed nothing
	 * it waits for more (or for as much as evt_conn_want said). Called a
	 * last time at the end of the stream if there is a rest. More than len
	 * is a fault of the program's: a line, and the connection is aborted.
	 * NULL: what comes is thrown away.
	 */
	size_t (*on_data)(
		struct evt_conn *conn, const char *data, size_t len, void *arg);

	/* The peer has ended its stream. NULL: flush, then close. Set: it
	 * can be written to until evt_conn_close. */
	void (*on_eof)(struct evt_conn *conn, void *arg);

	/* Unsent output had been above the low mark and is no more: go on
	 * writing. */
	void (*on_drain)(struct evt_conn *conn, void *arg);

	/*
	 * EVT_REASON_IDLE or _DEADLINE. May write, and close or abort, which
	 * keeps the reason; may set a new timeout. If it does not close, an
	 * idle connection is given its idle time again, and a deadline is
	 * gone. NULL: abort.
	 */
	void (*on_timeout)(
		struct evt_conn *conn, enum evt_reason reason, void *arg);

	/* The pool is stopping: finish, then close, before the grace is over.
	 * NULL: closed as soon as it is idle (nothing unread, nothing unsent,
	 * not paused). */
	void (*on_stop)(struct evt_conn *conn, void *arg);

	/* It has ended. The last call for conn. What was written last may wait
	 * for it to return, to go out together with the end of the stream. */
	void (*on_close)(
		struct evt_conn *conn, enum evt_reason reason, void *arg);

	/* n datagrams have come, at most 64: see evt-udp.h. The only one that
	 * is called for a udp: or unixgram: listener, and needed there. */
	void (*on_datagrams)(struct evt_udp_socket *sock,
		const struct evt_datagram *batch, int n, void *arg);
};

/*
 * Writing. 0, or -1 and nothing taken: ENOTCONN when it is closing, EPIPE after
 * evt_conn_finish, EINVAL; ENOMEM, and for a copy the connection ends, since
 * its stream would have a gap; ENOBUFS when more than max_output would be
 * unsent, which ends it with EVT_REASON_OVERFLOW. A peer that has left is told
 * by on_close, not here.
 */

/* The bytes are copied, or sent, before it returns. */
int evt_conn_write(struct evt_conn *conn, const void *data, size_t len);

/* printf(3) into the connection. */
int evt_conn_printf(struct evt_conn *conn, const char *format, ...)
#ifdef __GNUC__
	__attribute__((format(printf, 2, 3)))
#endif
	;

/*
 * Large ones are not copied: the bytes must stay until done(arg), which is
 * called once, on the worker, when they are not needed any more or the
 * connection ends, and before on_close; never if this gave -1. done may be
 * NULL.
 */
int evt_conn_write_ref(struct evt_conn *conn, const void *data, size_t len,
	void (*done)(void *arg), void *arg);

/*
 * len bytes of the regular file fd from offset, by sendfile(2). Once this gave
 * 0, fd is the library's, which closes it when they are sent. They count in
 * evt_conn_pending, but not against max_output. A file that ends early fails
 * the connection.
 */
int evt_conn_sendfile(
	struct evt_conn *conn, int fd, int64_t offset, int64_t len);

/* The bytes that were written and not yet given to the kernel. */
size_t evt_conn_pending(struct evt_conn *conn);

/* Reading */

/* No on_data before len bytes are there, those already kept included; void
 * once met, and at the end of the stream. 0: as usual. EINVAL above
 * max_input. */
int evt_conn_want(struct evt_conn *conn, size_t len);

/* 1 once the peer has ended its stream: what on_data gets then is the last.
 * 0 before. */
int evt_conn_at_eof(struct evt_conn *conn);

/* No on_data, and nothing is read: the kernel holds the peer back. Nor is it
 * noticed that the peer leaves, before it is resumed or written to. */
void evt_conn_pause(struct evt_conn *conn);

/* Goes on; on_data comes soon with what is kept. Paused and resumed in its own
 * on_data: when the others have had a turn. */
void evt_conn_resume(struct evt_conn *conn);

/* Ending */

/* Ends our stream after what was written; reading goes on. */
int evt_conn_finish(struct evt_conn *conn);

/*
 * No more handlers but on_close; closes once the output is flushed. The peer
 * gets all of it: what it still sends is thrown away until it closes too, for
 * 5 s or 64 MiB at most, and 1,024 of a worker's at a time.
 */
void evt_conn_close(struct evt_conn *conn);

/* Closes now, with a reset; what is unsent is lost. */
void evt_conn_abort(struct evt_conn *conn);

/* Asking */

/* The errno behind the reason, or 0. */
int evt_conn_error(struct evt_conn *conn);

/* The peer's address, or our own; AF_UNSPEC when there is none to be had. */
int evt_conn_peer(struct evt_conn *conn, struct sockaddr_storage *addr);
int evt_conn_local(struct evt_conn *conn, struct sockaddr_storage *addr);

/* The user who has the other end of a unix socket. EOPNOTSUPP for TCP. */
int evt_conn_peer_uid(struct evt_conn *conn, uid_t *uid);

struct evt_worker *evt_conn_worker(struct evt_conn *conn);

/* A pointer of the program's; NULL at first. */
void *evt_conn_data(struct evt_conn *conn);
void evt_conn_set_data(struct evt_conn *conn, void *data);

enum evt_timeout { EVT_TIMEOUT_IDLE, EVT_TIMEOUT_DEADLINE };

/*
 * In place of what the options said, from now: IDLE, so long without a byte
 * either way; DEADLINE, so long whatever happens. ms from 1; -1: none. The one
 * for the first byte stays. Never early, and late by about an eighth at most,
 * or what the other callbacks of this worker take.
 */
int evt_conn_set_timeout(
	struct evt_conn *conn, enum evt_timeout timeout, int ms);

/* Connecting out */

/* As in evt_listen_options, where the defaults stand too. */
struct evt_connect_options {
	int connect_ms; /* in all, for every address: 10,000 */
	int idle_ms, lifetime_ms;
	size_t max_input, high_mark, low_mark, max_output;
};

/*
 * A connection on this worker, on which the caller must be, to
 * tcp://1.2.3.4:80, tcp://[::1]:80 or unix:/path: numeric hosts only, since a
 * name would block (evt_connect_addrs takes what a resolver gave). It may be
 * written to at once. on_open follows when it is connected; or on_close alone,
 * with EVT_REASON_FAILED and evt_conn_error, or with what the program itself
 * brought about before (OURS, DEADLINE, OVERFLOW, STOPPED). NULL: EINVAL,
 * ENOMEM, ECANCELED (the pool is stopping).
 */
struct evt_conn *evt_connect_sized(struct evt_worker *worker, const char *url,
	const struct evt_handlers *handlers, size_t handlers_size,
	const struct evt_connect_options *options, size_t options_size,
	void *arg);

/* The same to the first of these addresses (64 at most) that answers; the list
 * is copied. Each gets its share of connect_ms. */
struct evt_conn *evt_connect_addrs_sized(struct evt_worker *worker,
	const struct addrinfo *addrs, const struct evt_handlers *handlers,
	size_t handlers_size, const struct evt_connect_options *options,
	size_t options_size, void *arg);

static inline struct evt_conn *evt_connect(struct evt_worker *worker,
	const char *url, const struct evt_handlers *handlers,
	const struct evt_connect_options *options, void *arg)
{
	return evt_connect_sized(worker, url, handlers, sizeof(*handlers),
		options, sizeof(*options), arg);
}

static inline struct evt_conn *evt_connect_addrs(struct evt_worker *worker,
	const struct addrinfo *addrs, const struct evt_handlers *handlers,
	const struct evt_connect_options *options, void *arg)
{
	return evt_connect_addrs_sized(worker, addrs, handlers,
		sizeof(*handlers), options, sizeof(*options), arg);
}

/* From any thread */

/* A number for this connection, never given twice in a pool; never 0. */
uint64_t evt_conn_id(struct evt_conn *conn);

/*
 * Has task(conn, arg) called on the worker of connection id; conn is NULL if
 * it is gone by then. As evt_worker_post otherwise. EINVAL: an id that cannot
 * be one of this pool.
 */
int evt_pool_post_conn(struct evt_pool *pool, uint64_t id,
	void (*task)(struct evt_conn *conn_or_null, void *arg), void *arg);

/*
 * Writes to connection id, in the order of each caller's sends. 0 also when it
 * is gone, which is counted. More than max_output ends it, as a write does.
 * EAGAIN on a worker when the other's pipe is full, nothing taken.
 */
int evt_pool_send(
	struct evt_pool *pool, uint64_t id, const void *data, size_t len);

/* Calls fn for every open connection of this worker, on which the caller must
 * be; fn may close them. Connections that fn opens may be among them. */
void evt_worker_each_conn(struct evt_worker *worker,
	void (*fn)(struct evt_conn *conn, void *arg), void *arg);

#ifdef __cplusplus
}
#endif

#endif /* EVT_CONN_H */
