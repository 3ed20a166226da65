/*
 * evt-accept-internal.h: one listening socket on the loop of a pool's boss:
 * when to accept, and what to do when that fails.
 */
#ifndef EVT_ACCEPTOR_INTERNAL_H
#define EVT_ACCEPTOR_INTERNAL_H

#include "evt-pool-internal.h"

#include <sys/socket.h>

/* At once, so that a run of failures cannot keep the loop. */
#define EVT_ACCEPTOR_TRIES 16

#define EVT_ACCEPTOR_WHERE 128 /* room for an address, or the path of one */

enum evt_acceptor_state {
	EVT_ACCEPTOR_CLOSED,
	EVT_ACCEPTOR_OPEN,     /* bound and listening, unknown to the loop */
	EVT_ACCEPTOR_WANTED,   /* the boss has been asked to watch it */
	EVT_ACCEPTOR_WATCHED,  /* the boss does */
	EVT_ACCEPTOR_UNWATCHED /* it could not, see error */
};

struct evt_acceptor {
	struct evt_pool *pool;
	struct evt_worker *worker; /* whose loop it is on; NULL: on none yet */
	int socktype;
	void (*on_ready)(int fd, short what, void *arg);
	void *arg;
	void (*on_retry)(void *arg);    /* in place of going on after a while */
	void *owner;                    /* whoever makes use of it */
	char where[EVT_ACCEPTOR_WHERE]; /* the address, for the log */

	/* Any thread; written when it is opened and closed. */
	atomic_int fd;   /* -1 unless open */
	atomic_int port; /* as bound, -1 unless open */

	/* The opener's; while WANTED, under the pool's lock. */
	enum evt_acceptor_state state;
	int error;

	/* Its worker alone; NULL unless watched. Where there is a poll_fd it is
	 * on that, and ready NULL: an event on the base of a worker would have
	 * each of its waits go through libevent's loop. */
	struct event *ready;
	struct event *resume;
	struct evt_watch watch;

	/* Its worker alone: the pause for want of descriptors, memory, or room
	 * in a pipe. */
	long pause_ms; /* the last one's length; 0: there is none */
	int64_t paused_at_ms;
	unsigned long failures;
	bool told;             /* this one has its lines */
	int64_t told_since_ms; /* the second in which they are counted */
	unsigned nr_told;
	int64_t why_told_ms; /* when a limit had its line */
	bool broken;         /* the socket itself has failed */

	atomic_bool paused;    /* evt_acceptor_nudge_ is welcome */
	atomic_ulong accepted; /* counters, written by its worker */
	atomic_ulong pauses;   /* times that accepting was suspended */
	atomic_ulong vanished; /* clients that left before they were accepted */
};

/* Takes a socket that is bound and listening. */
void evt_acceptor_take_(struct evt_acceptor *, int fd, int socktype);

/* Binds and listens. addr is tried alone. 0, or -1, *step naming the call; no
 * line. */
int evt_acceptor_open_(struct evt_acceptor *, const struct sockaddr *addr,
	socklen_t len, int socktype, const char **step);

/*
 * Has the boss watch it: on_ready(fd, EV_READ, arg) is called there whenever it
 * is readable. Returns when it does: 0, or -1 with a line.
 */
int evt_acceptor_watch_(struct evt_acceptor *, struct evt_pool *,
	void (*on_ready)(int fd, short what, void *arg), void *arg);

/* The same on the calling thread, which is the worker's, or before it is: 0, or
 * -1 with errno and no line. And back again. */
int evt_acceptor_begin_(struct evt_acceptor *, struct evt_worker *,
	void (*on_ready)(int fd, short what, void *arg), void *arg);
void evt_acceptor_end_(struct evt_acceptor *);

/* On its worker: no more, until it is resumed; why says the line for it, once
 * for an episode; with wait it goes on by itself after a while. */
void evt_acceptor_pause_(struct evt_acceptor *, const char *why, bool wait);
void evt_acceptor_resume_(struct evt_acceptor *);

/* On its worker, out of its loop: accepts no more. A TCP socket is closed. */
void evt_acceptor_unwatch_(struct evt_acceptor *);

void evt_acceptor_close_(struct evt_acceptor *);

/*
 * accept(2) with the answers that a server needs; *len is the peer's length,
 * 0 if it has none. -1: EAGAIN, or a fault that has its line. On its worker,
 * and fd being its own, want of descriptors or memory pauses it and a broken
 * socket ends it.
 */
int evt_acceptor_accept_(struct evt_acceptor *, int fd, bool nonblocking,
	struct sockaddr_storage *peer, socklen_t *len);

/* The same for what a datagram's receiving has said, 0 or an error: any but
 * EAGAIN pauses it. Any thread. */
int evt_acceptor_received_(struct evt_acceptor *, int fd, int error);

/* A descriptor has been closed: if that was wanted, go on. Any thread. */
void evt_acceptor_nudge_(struct evt_acceptor *);

#endif /* EVT_ACCEPTOR_INTERNAL_H */
