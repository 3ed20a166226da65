/* evt-listener-internal.h: a listener as its two files see it. */
#ifndef EVT_LISTENER_INTERNAL_H
#define EVT_LISTENER_INTERNAL_H

#include "evt-accept-internal.h"
#include "evt-conn-internal.h"
#include "evt-listener.h"
#include "evt-sources-internal.h"
#include "evt-udp-internal.h"
#include "evt-unix-internal.h"
#include "evt-url-internal.h"

#define EVT_LISTENER_BATCH 64 /* the largest accept_batch */

/* Accepted, and on its way to a worker. */
struct evt_placed {
	struct evt_record record;
	int worker;
};

struct evt_listener {
	struct evt_setup setup; /* must be first: connections point here */

	/* Written by evt_listen, then only read. */
	struct evt_pool *pool;
	struct evt_listener *next;         /* in the pool's list */
	struct evt_listen_options options; /* every default filled in */
	int port;
	struct evt_unix_file file;   /* removed by whoever closes the socket */
	struct evt_sources *sources; /* NULL without max_per_source */
	int nr_sockets; /* 1, or with reuseport one for a worker; of datagrams
			   none */
	struct evt_udp_setup udp_setup;
	struct evt_udp_socket *
		*udp; /* of each worker, or NULL; NULL: accepts */

	/* Any thread. */
	atomic_int nr_conns;    /* with a descriptor, or about to get one */
	atomic_bool is_closing; /* evt_listener_close */

	/* The boss alone. */
	unsigned turn;    /* of the round robin */
	int batch;        /* how many it tries to accept in this wake-up */
	int64_t ready_us; /* when the last one was */
	int nr_held;      /* accepted, but not in a pipe yet */
	struct evt_placed held[EVT_LISTENER_BATCH];
	bool is_choosing; /* the next of them is in the hands of choose */

	struct evt_acceptor sockets[];
};

/* evt-listener-options.c: fills in the defaults: 0, or -1 with a line. */
int evt_listener_fill_in_(struct evt_listen_options *, enum evt_url_kind);

/* And what each of its connections is set up with: the same. */
int evt_listener_fill_setup_(struct evt_listener *, const struct evt_handlers *,
	size_t size, void *arg);

/* evt-listener-open.c: opens every socket of url: 0, or -1 with a line. */
int evt_listener_open_(
	struct evt_listener *, const struct evt_url *, const char *text);

/* Closes those that are still open, and removes a unix socket's file. */
void evt_listener_shut_(struct evt_listener *);

/* evt-listener-udp.c: of datagrams. */

/* Makes the sockets, not open yet: 0, or -1 with a line. */
int evt_listener_make_udp_(struct evt_listener *, bool is_unix);
void evt_listener_free_udp_(struct evt_listener *);

/* The only one there is. */
struct evt_udp_socket *evt_listener_unix_udp_(struct evt_listener *);

/* On the worker: begins or closes what is its own; 0. */
int evt_listener_look_at_udp_(struct evt_listener *, struct evt_worker *);

/* Before the worker's thread is: 0, or -1 and no line; and back again. */
int evt_listener_begin_udp_(struct evt_listener *, struct evt_worker *);
int evt_listener_end_udp_(struct evt_listener *, struct evt_worker *);

/* As evt_udp_close_. */
void evt_listener_close_udp_(struct evt_listener *, int index, bool last);

/* evt-listener-place.c: which worker gets a connection; on the boss. */

/* Whether there is one that could take it. */
bool evt_listener_has_worker_(struct evt_listener *);

/* Takes conn; false if it is refused, and then conn is the caller's. */
bool evt_listener_place_(struct evt_listener *, int conn, uint32_t source,
	const struct sockaddr *peer);

/* Puts what is held into pipes; false if some of it found no room. */
bool evt_listener_flush_(struct evt_listener *);

/* A connection that was accepted, but is not to be: closes it. */
void evt_listener_drop_(struct evt_listener *, int conn, uint32_t source,
	atomic_ulong *counter);

#endif /* EVT_LISTENER_INTERNAL_H */
