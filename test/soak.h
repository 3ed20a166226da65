/*
 * soak.h: what the server of soak.c and its clients tell each other, in memory
 * that both processes have.
 */
#ifndef SOAK_H
#define SOAK_H

#include "chance.h"
#include "ledger.h"
#include "../evt-listener.h"

#include <pthread.h>

#define ONE_IN 100 /* calls of the server that may fail, fails */

/* How a cycle has ended: all as it was before the pool was made, or not. */
struct cycle {
	struct evt_stats stats;
	long allocations;     /* more than before the first */
	bool counters_even;   /* accepted = ..., opened + connected = ... */
	bool callbacks_even;  /* as many on_close as on_open */
	bool stopped_cleanly; /* evt_pool_wait gave 0 */
};

struct board {
	atomic_int port;  /* 0: nobody listens */
	atomic_bool over; /* the server shall not start again */
	atomic_int ended; /* cycles; the server waits until it is noted: */
	atomic_int noted;
	struct cycle last;
	atomic_ulong faults;       /* calls made to fail, but for allocations */
	atomic_ulong failed_makes; /* pools that could not be made */
	atomic_ulong errors;       /* listeners that have ended, by on_error */
	/* The clients, and what became of each: */
	atomic_ulong connects;
	atomic_ulong kept;    /* answered to the end */
	atomic_ulong cut;     /* ended by the server, a fault or a stop */
	atomic_ulong resets;  /* by the client itself */
	atomic_ulong stuck;   /* neither an answer nor an end in 10 s */
	atomic_ulong refused; /* connect(2) failed: between two cycles */
	atomic_ulong echoes;
	atomic_ulong wrong; /* other bytes than were sent */
	/* In this second, in us: */
	atomic_ulong worst_echo;
	atomic_ulong worst_first; /* from connect to the first answer */
	atomic_ulong worst_bare;  /* an echo between two of our own threads */
};

static struct board *board;

#define NOTE(what) \
	atomic_fetch_add_explicit(&board->what, 1, memory_order_relaxed)

#endif /* SOAK_H */
