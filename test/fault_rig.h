/*
 * fault_rig.h: what scenarios have in common: calls that may fail and then say
 * so, clients that do not wait for ever, a pool that is started, used and
 * ended. One of each in a process.
 */
#ifndef FAULT_RIG_H
#define FAULT_RIG_H

#include "faults.h"
#include "ledger.h"
#include "../evt-listener.h"

/*
 * The result of a call. A failure has an errno and, if that is no mere answer,
 * exactly one line of an error on this thread.
 */
#define SAID(call) \
	(fault_ask(), fault_answer((call), #call, __FILE__, __LINE__))
/* The same of what has a line a second only. */
#define SAID_OF_MANY(call) \
	(fault_ask(), fault_answer_of_many((call), #call, __FILE__, __LINE__))
#define SAID_P(call) \
	(fault_ask(), fault_answer_p((call), #call, __FILE__, __LINE__))

void fault_ask(void);
int fault_answer(int result, const char *what, const char *file, int line);
int fault_answer_of_many(
	int result, const char *what, const char *file, int line);
void *fault_answer_p(
	void *result, const char *what, const char *file, int line);

/* The log */
void fault_catch_log(void);
int fault_lines(const char *text); /* how many have it */

/* Whether the fault of the plan has come. */
bool fault_came(void);

/* True once condition is; false 150 ms after the fault has come, or after
 * 10 s, which is wrong if it has not come. */
#define UNLESS_FAULT(condition)                                         \
	__extension__({                                                 \
		struct fault_wait wait_ = {0};                          \
		bool met_;                                              \
		while (!(met_ = (condition)) && fault_may_wait(&wait_)) \
			;                                               \
		met_;                                                   \
	})

struct fault_wait {
	int64_t since_ms;
	int64_t came_ms;
};

bool fault_may_wait(struct fault_wait *wait);

/* Clients: sockets that do not block, -1 for none. None minds a failure. */

/* A port of 127.0.0.1; or a unix: URL. */
int fault_dial(int port);
int fault_dial_unix(const char *url, int socktype);
int fault_dial_udp(int port);
void fault_say(int fd, const char *text);
bool fault_hears(int fd, size_t bytes); /* so many come */
bool fault_hears_end(int fd);
void fault_hang_up(int fd);

/* A pool */

struct life {            /* 0: as said */
	const char *url; /* NULL: tcp://127.0.0.1:0 */
	int workers;     /* 1 */
	int grace_ms;    /* 50 */
	bool starting;   /* calls fail from the beginning, not only in use */
	bool listening;  /* ... from evt_listen on, but while it starts */
	const struct evt_listen_options *options;
	void (*before)(void); /* it starts */
	void (*use)(void);
	bool runs; /* evt_pool_run, on a thread */
};

/* What lives. */
struct living {
	const struct life *life;
	struct evt_pool *pool;
	struct evt_listener *listener;
	int port; /* of TCP and UDP */
	atomic_int opened;
	atomic_int closed;
	atomic_int tasks;
	atomic_int dones;
	atomic_int drains;
	atomic_int left; /* input, by on_data */
	atomic_ulong id; /* of the connection that was opened last */
};

extern struct living living;

/* Theirs, which do what they are told by single bytes, e: echo. */
extern const struct evt_handlers fault_handlers;

/* From evt_pool_new to evt_pool_free. In between it serves; or a call has said
 * that it does not, and then once more without a fault it does; or it has said
 * that it is lost. */
void live(const struct life *life);

/* A client of what lives. */
int living_dial(void);

/* It is served: a byte comes back. */
bool living_echoes(void);

/* The same, of a client that stays. */
int living_guest(void);

/* The connection that was opened last, on its worker; false if not. */
bool on_living_conn(void (*task)(struct evt_conn *conn_or_null, void *arg));

/* A task on worker 0, done; false if not. */
bool on_living_worker(evt_task task, void *arg);

#define BIG ((size_t)1 << 20) /* bytes that command b brings */

#endif /* FAULT_RIG_H */
