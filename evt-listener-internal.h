/*
 * evt-listener-internal.h: one listening socket on the loop of a pool's boss:
 * when to accept, and what to do when that fails.
 */
#ifndef EVT_LISTENER_INTERNAL_H
#define EVT_LISTENER_INTERNAL_H

#include "evt-pool-internal.h"

#include <sys/socket.h>

/* At once, so that a run of failures cannot keep the loop. */
#define EVT_LISTENER_TRIES 16

enum evt_listener_state {
	EVT_LISTENER_CLOSED,
	EVT_LISTENER_OPEN,     /* bound and listening, unknown to the loop */
	EVT_LISTENER_WANTED,   /* the boss has been asked to watch it */
	EVT_LISTENER_WATCHED,  /* the boss does */
	EVT_LISTENER_UNWATCHED /* it could not, see error */
};

struct evt_listener {
	struct evt_pool *pool;
	int socktype;
	void (*on_ready)(int fd, short what, void *arg);
	void *arg;
	char where[72]; /* the address, for the log */

	/* Any thread; written when it is opened and closed. */
	atomic_int fd;   /* -1 unless open */
	atomic_int port; /* as bound, -1 unless open */

	/* The opener's; while WANTED, under the pool's lock. */
	enum evt_listener_state state;
	int error;

	/* The boss alone; NULL unless watched. */
	struct event *ready;
	struct event *resume;

	/* The boss alone: the pause for want of descriptors or memory. */
	long pause_ms; /* the last one's length; 0: there is none */
	int64_t paused_at_ms;
	unsigned long failures;
	bool told;             /* this one has its lines */
	int64_t told_since_ms; /* the second in which they are counted */
	unsigned nr_told;

	atomic_bool paused;    /* evt_listener_nudge_ is welcome */
	atomic_ulong accepted; /* counters, written by the boss */
	atomic_ulong pauses;   /* times that accepting was suspended */
	atomic_ulong vanished; /* clients that left before they were accepted */
};

/* Binds and listens. addr is tried alone. 0, or -1, *step naming the call; no
 * line. */
int evt_listener_open_(struct evt_listener *, const struct sockaddr *addr,
	socklen_t len, int socktype, const char **step);

/*
 * Has the boss watch it: on_ready(fd, EV_READ, arg) is called there whenever it
 * is readable. Returns when it does: 0, or -1 with a line.
 */
int evt_listener_watch_(struct evt_listener *, struct evt_pool *,
	void (*on_ready)(int fd, short what, void *arg), void *arg);

/* On the boss, out of its loop: accepts no more. A TCP socket is closed. */
void evt_listener_unwatch_(struct evt_listener *);

void evt_listener_close_(struct evt_listener *);

/*
 * accept(2) with the answers that a server needs; *len is the peer's length,
 * 0 if it has none. -1: EAGAIN, or a fault that has its line. On the boss, and
 * fd being its own, want of descriptors or memory pauses the listener and
 * a broken socket ends it.
 */
int evt_listener_accept_(struct evt_listener *, int fd,
	struct sockaddr_storage *peer, socklen_t *len);

/* A descriptor has been closed: if that was wanted, go on. Any thread. */
void evt_listener_nudge_(struct evt_listener *);

#endif /* EVT_LISTENER_INTERNAL_H */
