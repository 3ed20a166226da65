/*
 * evt-listener.h: listening. A server that uses all cores, whole:
 *
 *	#include <evt-listener.h>
 *
 *	static size_t echo(struct evt_conn *conn, const char *data, size_t len,
 *		void *arg)
 *	{
 *		evt_conn_write(conn, data, len);
 *		return len;
 *	}
 *
 *	int main(void)
 *	{
 *		struct evt_pool *pool = evt_pool_new(NULL);
 *		struct evt_handlers handlers = {.on_data = echo};
 *
 *		evt_listen(pool, "tcp://[::]:9999", &handlers, NULL, NULL);
 *		return evt_pool_run(pool);
 *	}
 *
 * One include brings all there is: pool, connections and log. The promises
 * that hold for every call stand at the top of evt-pool.h.
 */
#ifndef EVT_LISTENER_H
#define EVT_LISTENER_H

#include "evt-conn.h"
#include "evt-udp.h"

#ifdef __cplusplus
extern "C" {
#endif

struct evt_listener;

/* Which worker gets the next connection. A stalled one gets none. */
enum evt_choice {
	EVT_CHOICE_ROUND_ROBIN,
	EVT_CHOICE_FEWEST_CONNS,
	EVT_CHOICE_FUNCTION /* options.choose says */
};

/* Which bytes of a datagram's data choose the worker. */
struct evt_steer {
	int offset; /* up to 65,535 */
	int len;    /* 1 to 256 */
};

/* Zero means the default, in each; -1 in a number means no limit (in a size_t:
 * (size_t)-1). Anything else below zero, or a low mark above the high one, is
 * EINVAL. */
struct evt_listen_options {
	int max_conns;    /* open at a time: the limit of descriptors less 32.
			     Above it accepting pauses, and clients wait in the
			     kernel's queue. A place is free when the descriptor
			     is closed, which may be 5 s after on_close */
	int backlog;      /* of that queue: the system's maximum */
	int accept_batch; /* accepted in one wake-up, 1 to 64: 16 */
	int refuse;       /* not 0: above max_conns close clients at once */
	int reuseport;    /* not 0: a listening socket for each worker, and the
			     kernel chooses. TCP only, without choice. That
			     another server has the port is noticed when we
			     listen; if it comes later with the same option
			     and user, the two share the clients */

	int first_byte_ms; /* for the first byte to come: 60,000 */
	int idle_ms;       /* without a byte either way: 600,000 */
	int lifetime_ms;   /* however busy: no limit */

	size_t max_input; /* bytes that on_data may leave: 1 MiB */
	size_t high_mark; /* unsent bytes above which it is not read: 256 KiB */
	size_t low_mark;  /* at which it is read again: 64 KiB */
	size_t max_output; /* unsent bytes at which it is ended: 16 MiB */

	mode_t unix_mode; /* of a unix socket's file: 0600 */

	enum evt_choice choice;
	/* The index of a worker for this client; negative: refuse it. On the
	 * accepting thread, and its answer is taken modulo the workers. */
	int (*choose)(
		struct evt_pool *pool, const struct sockaddr *peer, void *arg);

	/* Listening itself has failed (error: an errno) and ended; with
	 * reuseport that of one worker. */
	void (*on_error)(struct evt_listener *listener, int error, void *arg);

	/* Open at a time from one address (in IPv6 one /64): no limit. Above it
	 * clients are closed at once. Not with reuseport. */
	int max_per_source;

	/* Not 0: clients speak first, as in HTTP. One is accepted once its
	 * first bytes are there, which spares a wake-up: TCP_DEFER_ACCEPT of
	 * tcp(7). Who sends none costs the kernel a little meanwhile, and is
	 * accepted after first_byte_ms, or up to twice that, as the kernel
	 * counts; then first_byte_ms begin. A unix socket accepts at once. */
	int speak_first;

	/*
	 * Of udp: and unixgram: there count max_input (longer datagrams are cut
	 * there: 65,536, and no more than that), max_output (bytes of answers,
	 * and some for each, that wait in a socket: 1 MiB), unix_mode and
	 * on_error; choice, choose and max_per_source are EINVAL, and what else
	 * is above is ignored, so that a server of both can have one struct.
	 */

	/* Of udp:, if len is not 0: what has the same bytes there comes to the
	 * same worker, from whatever address; what is too short, and all
	 * without this option, by a hash of the sender's. When a worker is
	 * lost the others' shares may change. Local senders must not join
	 * theirs (UDP_SEGMENT): all of one message go where the first does. */
	struct evt_steer steer;

	/* Of udp:, answers to a sender who was not validated: together at most
	 * so many times as long as the datagram: 3; -1: no limit. */
	int amplification;
};

/*
 * Binds, listens, and has connections served by handlers, from the moment the
 * pool runs; before, and also while it runs, until it is stopped. arg is what
 * the handlers get. url is one of
 *
 *	tcp://[::]:9999		IPv6 and IPv4, all addresses
 *	tcp://:9999		the same; IPv4 alone where there is no IPv6
 *	tcp://127.0.0.1:0	one address; port 0: the kernel chooses
 *	tcp://localhost:9999	the first address of a name that can be bound
 *	unix:/run/app.sock	a file: removed if it is a socket that nobody
 *				serves any more, and at the end
 *	unix:@name		Linux's abstract names; anyone may connect
 *	udp://:5353		datagrams (evt-udp.h), as with tcp:; a socket
 *				for each worker
 *	unixgram:/run/app.sock	the same, as with unix:, one socket on one of
 *				the workers
 *
 * NULL: EINVAL with a line that says what is wrong with url, handlers or
 * options; EADDRINUSE, EACCES, ... of bind(2); ENOENT (no such name);
 * ENAMETOOLONG; ENOMEM; ECANCELED (stopping); ENXIO (its accepting thread is
 * lost; of unixgram: all workers). If that is before the pool runs,
 * evt_pool_run gives -1 too: to try another address takes a new pool.
 */
struct evt_listener *evt_listen_sized(struct evt_pool *pool, const char *url,
	const struct evt_handlers *handlers, size_t handlers_size,
	const struct evt_listen_options *options, size_t options_size,
	void *arg);

static inline struct evt_listener *evt_listen(struct evt_pool *pool,
	const char *url, const struct evt_handlers *handlers,
	const struct evt_listen_options *options, void *arg)
{
	return evt_listen_sized(pool, url, handlers, sizeof(*handlers), options,
		sizeof(*options), arg);
}

/* The port really bound, in host order; -1 for a unix socket. */
int evt_listener_port(struct evt_listener *listener);

/*
 * The socket of a udp: or unixgram: listener on worker, with which to send
 * outside of on_datagrams; to be used on that worker, and valid until
 * evt_pool_free. NULL: EINVAL, or without a line ENOENT: the one socket of
 * unixgram: is on another worker.
 */
struct evt_udp_socket *evt_listener_udp(
	struct evt_listener *listener, struct evt_worker *worker);

/*
 * No more accepting: the socket is closed soon, and a unix socket's file
 * removed if it is still ours. Its connections live on. The struct stays
 * until evt_pool_free. Datagrams that have come before it is closed are still
 * handed over; so it is when the pool stops.
 */
void evt_listener_close(struct evt_listener *listener);

#ifdef __cplusplus
}
#endif

#endif /* EVT_LISTENER_H */
