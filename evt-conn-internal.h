/*
 * evt-conn-internal.h: connections as the library's own files see them.
 *
 * A worker of a pool has a home for its connections (worker->state), which its
 * thread alone touches. A connection's struct lives in a slot there, and is all
 * that an idle one costs: input that was not consumed and output that was not
 * taken are in memory of their own that is there only then.
 *
 * What the program asks for inside a callback is marked in flags, and the
 * connection is put on the home's list of those that were touched; when the
 * turn ends the home settles: it sends what was gathered, and does for each on
 * the list what its flags say.
 */
#ifndef EVT_CONN_INTERNAL_H
#define EVT_CONN_INTERNAL_H

#include "evt-conn.h"
#include "evt-output-internal.h"
#include "evt-pool-internal.h"
#include "evt-slots-internal.h"
#include "evt-wheel-internal.h"

#include <event2/event.h>
#include <event2/event_struct.h>

#define EVT_READ_BYTES   65536 /* the buffer that all of a worker share */
#define EVT_GATHER_BYTES 16384 /* of small writes, sent together */
#define EVT_PAGE         4096

/* What the connections of one evt_listen have in common, or what one of
 * evt_connect has for itself. -1 and SIZE_MAX: no limit. */
struct evt_setup {
	struct evt_handlers handlers;
	void *arg;
	int first_byte_ms;
	int idle_ms;
	int lifetime_ms;
	size_t max_input;
	size_t high_mark;
	size_t low_mark;
	size_t max_output;
	bool reads_to_end; /* more may be there after a short read */
	/* On the worker: a connection's descriptor is closed, and its struct
	 * about to go. */
	void (*on_gone)(struct evt_setup *, uint32_t source);
};

/* What options say of connections, as they say it; call names who asks. */
struct evt_limits {
	const char *call;
	int first_byte_ms;
	int idle_ms;
	int lifetime_ms;
	size_t max_input;
	size_t high_mark;
	size_t low_mark;
	size_t max_output;
};

/* The setup that limits and handlers describe: 0, or -1 with a line. */
int evt_setup_init_(struct evt_setup *setup, const struct evt_limits *limits,
	const struct evt_handlers *handlers, size_t handlers_size, void *arg);

enum {
	/* What the program asked for. */
	EVT_CONN_PAUSED = 1 << 0,
	EVT_CONN_FINISH = 1 << 1,  /* end our stream once flushed */
	EVT_CONN_CLOSING = 1 << 2, /* close once flushed */

	/* What became of it. */
	EVT_CONN_CONNECTING = 1 << 3,
	EVT_CONN_GOT_BYTE = 1 << 4,
	EVT_CONN_THROTTLED = 1 << 5, /* above the high mark */
	EVT_CONN_ABOVE_LOW = 1 << 6, /* on_drain is due when it is below */
	EVT_CONN_EOF_SEEN = 1 << 7,
	EVT_CONN_EOF_TOLD = 1 << 8,
	EVT_CONN_FINISHED = 1 << 9,   /* our stream has ended */
	EVT_CONN_STOP_TOLD = 1 << 10, /* the pool is stopping */
	EVT_CONN_ENDED = 1 << 11,     /* for the reason that is in the struct */
	EVT_CONN_CLOSED = 1 << 12,    /* on_close has been called */
	EVT_CONN_LINGERING = 1 << 13, /* CLOSED; READING, or in the line */

	/* What is to be done when the turn ends. */
	EVT_CONN_TOUCHED = 1 << 14, /* it is on the list */
	EVT_CONN_DRAINED = 1 << 15, /* call on_drain */
	EVT_CONN_RESUMED = 1 << 16, /* hand over what is kept */
	EVT_CONN_RESET = 1 << 17,   /* close with a reset */

	/* What it waits for. */
	EVT_CONN_READING = 1 << 18,      /* input, or an end of it */
	EVT_CONN_WRITING = 1 << 19,      /* room for output */
	EVT_CONN_RETRY = 1 << 20,        /* a moment, the kernel had no room */
	EVT_CONN_HAS_DEADLINE = 1 << 21, /* deadline_ms */

	/* In on_timeout, or closed there: for the reason in the struct. */
	EVT_CONN_TIMED_OUT = 1 << 22,

	/* There is more to read than was read, and no event would tell. */
	EVT_CONN_MORE = 1 << 23,

	/* What is kept is to be handed over when the others have had a turn. */
	EVT_CONN_LATER = 1 << 24,

	/* Where nothing more is read or written. */
	EVT_CONN_OVER = EVT_CONN_CLOSING | EVT_CONN_ENDED | EVT_CONN_CLOSED
};

/* Bytes that came and were not consumed. */
struct evt_input {
	size_t len;
	size_t room;
	char bytes[];
};

struct evt_conn {
	/* What a read touches: a line of the cache. */
	struct evt_slot slot; /* must be first */
	struct evt_home *home;
	struct evt_setup *setup;
	uint32_t flags;
	uint32_t moved_ms;         /* when a byte moved last */
	int fd;                    /* -1 while there is none */
	int idle_ms;               /* -1: none */
	struct evt_input *input;   /* NULL: nothing is kept */
	struct evt_output *unsent; /* NULL: nothing waits */
	size_t want;               /* evt_conn_want; CLOSING: thrown away */

	/* The rest: another. */
	void *data;                    /* the program's */
	struct evt_timer timer;        /* in the wheel while a timeout is set */
	struct evt_conn *next_touched; /* while TOUCHED */
	uint32_t deadline_ms;          /* HAS_DEADLINE, LINGERING */
	uint32_t opened_ms;            /* LINGERING: since when */
	uint32_t error : 8;            /* the errno behind the reason */
	uint32_t reason : 3;           /* why it ends */
	uint32_t source : 21;          /* of whom, for the listener */
};

struct evt_home {
	struct evt_worker *worker;
	struct evt_slots slots;
	unsigned nr_lingering;
	struct evt_conn *first_lingering; /* in the line, linked by ... */
	struct evt_conn *last_lingering;  /* ... next_touched */
	uint32_t look_ms;                 /* the last in vain */
	bool draining;    /* the pool is stopping, and they know */
	size_t inbox_end; /* draining: worker->batch.taken when all that was in
			     the pipe before it has been read */
	bool hurried;     /* its grace is over: what comes is cut */

	/* Touched in this turn, in that order. */
	struct evt_conn *first_touched;
	struct evt_conn *last_touched;
	struct evt_conn *first_later; /* LATER, linked by next_touched */
	struct evt_done done;
	struct event deferred; /* settles what was touched outside of a turn */
	bool is_deferred;

	struct evt_conn *on_data; /* of which it runs; NULL: of none */

	/* Small writes of this turn, all of one connection; NULL: none. */
	struct evt_conn *gatherer;
	size_t gathered;

	struct evt_wheel wheel;
	struct evt_timer *fired; /* not on the stack: a callback may end it */
	int tick_fd;
	bool ticking;     /* it is set */
	uint32_t tick_ms; /* for when, while ticking */

	/* Both at the beginning of a page: the kernel copies faster there. */
	char *gather; /* EVT_GATHER_BYTES */
	char *buffer; /* EVT_READ_BYTES */
	char memory[EVT_GATHER_BYTES + EVT_READ_BYTES + EVT_PAGE];
};

static inline struct evt_counters *evt_conn_counters_(struct evt_conn *conn)
{
	return &conn->home->worker->counters;
}

/* evt-conn.c: from the first event to the last. */

int evt_home_init_(struct evt_worker *);
void evt_home_release_(struct evt_worker *);

/* An accepted descriptor: 0, or -1: ENOMEM, and fd is still the caller's. In a
 * turn. */
int evt_conn_accept_(
	struct evt_worker *, int fd, struct evt_setup *, uint32_t source);

/* A struct without a descriptor yet; NULL: ENOMEM. */
struct evt_conn *evt_conn_new_(struct evt_home *, struct evt_setup *);

/* It is there now: counts it (accepted or connected), and says so. */
void evt_conn_open_(struct evt_conn *, atomic_ulong *counter);

/* To be looked at when the turn ends. */
void evt_conn_touch_(struct evt_conn *);

/* Ends it when the turn ends; the first reason counts. */
void evt_conn_fail_(struct evt_conn *, enum evt_reason, int error);

/* The peer or the network has ended it: error says how. */
void evt_conn_break_(struct evt_conn *, int error);

/* LATER: their turn has come. */
void evt_home_recall_(struct evt_home *);

/* The hook: what the turn left to do. */
void evt_home_settle_(struct evt_worker *);

/* Its descriptor and struct go; CLOSED. */
void evt_conn_dispose_(struct evt_conn *);

/* 0 if the caller may use conn; or -1 with a line. */
int evt_conn_check_(const struct evt_conn *, const char *call);

/* evt-conn-linger.c: waiting for the peer's end of the stream. */

#define EVT_LINE_MS 16 /* in which most have ended */

/* CLOSED, and flushed: false if there is nothing to wait for. */
bool evt_conn_linger_(struct evt_conn *);

/* LINGERING, and readable: throws that away, and the struct at the end. */
void evt_conn_discard_(struct evt_conn *);

/* CLOSING, with output that waits, and readable: throws that away. */
void evt_conn_throw_away_(struct evt_conn *);

/* LINGERING, while the pool stops: it is not waited for so long. */
void evt_conn_hasten_(struct evt_conn *);

/* LINGERING, and its time is over. */
void evt_conn_lingered_(struct evt_conn *);

/* About to be disposed of. */
void evt_conn_end_lingering_(struct evt_conn *);

/* At the end of a turn. */
void evt_home_look_at_line_(struct evt_home *);

/* evt-conn-stop.c: draining, and losing a worker. */

/* The pool has begun to stop, or its grace is over. */
void evt_home_stop_(struct evt_worker *);

/* The same of one that has just come. */
void evt_conn_tell_stop_(struct evt_conn *);

/* Tells the boss once nothing is left. At the end of a turn. */
void evt_home_report_(struct evt_home *);

void evt_home_lose_(struct evt_worker *);

/* True if nothing is unread, unsent or paused. */
bool evt_conn_is_idle_(const struct evt_conn *);

/* evt-conn-read.c */

/* There is input, or an end of it; to_end: read until nothing is there, since
 * more than a short read shows may be. */
void evt_conn_readable_(struct evt_conn *, bool to_end);

/* Reads what there is, within bounds. */
void evt_conn_read_(struct evt_conn *, bool to_end);

/* RESUMED or LATER: hands over what is kept. */
void evt_conn_go_on_(struct evt_conn *);

/* Waits for input and for room, as far as each is wanted now. */
void evt_conn_update_waits_(struct evt_conn *);

/* evt-conn-write.c */

/* The memory that unsent output needs: 0, or -1: ENOMEM. */
int evt_conn_need_unsent_(struct evt_conn *);

/* Frees it if nothing is in it. */
void evt_conn_free_unsent_(struct evt_conn *);

/* Writes, whatever the flags say: as evt_conn_write. */
int evt_conn_put_(struct evt_conn *, const void *data, size_t len);

/* Sends what was gathered. */
void evt_home_flush_(struct evt_home *);

/* Sends what waits; it is writable, or may be. */
void evt_conn_send_(struct evt_conn *);

static inline bool evt_conn_is_flushed_(const struct evt_conn *conn)
{
	return conn->home->gatherer != conn &&
		(!conn->unsent || evt_output_is_empty_(conn->unsent));
}

/* evt-conn-poll.c */

/* Waits for wanted, READING or WRITING or both or none, and notes it in the
 * flags: 0, or -1: no memory for that. With MORE the kernel looks again. */
int evt_conn_await_(struct evt_conn *, uint32_t wanted);

/* The hook: something is ready. */
void evt_home_on_event_(struct evt_worker *, uint64_t key, uint32_t events);

/* evt-conn-time.c */

/* The time, for what happens now. */
uint32_t evt_home_now_ms_(struct evt_home *);

/* The timer is due. */
void evt_home_tick_(struct evt_home *);

int evt_home_init_time_(struct evt_home *);
void evt_home_end_time_(struct evt_home *);

/* Puts it into the wheel for whatever timeout comes first, or takes it out. */
void evt_conn_schedule_(struct evt_conn *);

/* evt-conn-out.c: connecting. */

/* The descriptor is writable, or its time over, or it is to be tried again. */
void evt_conn_connecting_(struct evt_conn *);
uint32_t evt_conn_connect_until_(struct evt_conn *);
void evt_conn_connect_timeout_(struct evt_conn *);
void evt_conn_connect_retry_(struct evt_conn *);

/* evt-conn-id.c: CONN_TASK and SEND have arrived. */
void evt_home_receive_(struct evt_worker *, struct evt_record *);

#endif /* EVT_CONN_INTERNAL_H */
