/*
 * torture.h: the n-th allocation of a server fails, for n = 1 and so on until
 * none is left to fail, once and from then on. Each time the call says ENOMEM,
 * or the one connection that needed it ends, and nobody is left waiting; with
 * memory again it serves, and at the end nothing is left over. Everything is
 * static, as in listen_rig.h.
 */
#ifndef TORTURE_H
#define TORTURE_H

#include "listen_rig.h"
#include "../evt-log-internal.h"

#define MOST_ALLOCATIONS 400

/* The torture */

enum outcome {
	SERVED,
	ENDED,   /* a connection was closed for want of memory */
	REFUSED, /* a call gave ENOMEM */
	HUNG
};

struct scenario {
	void (*prepare)(void);         /* with memory; or NULL */
	enum outcome (*attempt)(void); /* without */
	void (*confirm)(enum outcome); /* with memory; or NULL: it serves */
};

struct balance {
	int fds;
	int threads;
	long allocations;
};

static inline struct balance balance_now(void)
{
	return (struct balance){
		count_fds(), count_threads(), count_allocations()};
}

static inline bool is_even(struct balance before)
{
	return WAIT_FOR(count_threads() <= before.threads) &&
		count_fds() == before.fds &&
		count_allocations() == before.allocations;
}

static struct {
	int n;
	bool from_then_on;
} failing;

#define EXPECT(condition)                       \
	do {                                    \
		if (!(condition))               \
			fail_round(#condition); \
	} while (0)

static inline void fail_round(const char *condition)
{
	int i;

	fail_allocation(0, false);
	for (i = 0; log_line(i); i++)
		print_message("logged: %s\n", log_line(i));
	stop_server();
	fail_msg("allocation %d failing%s: not true: %s", failing.n,
		failing.from_then_on ? " from then on" : "", condition);
}

/* The counters tell whom it cost a connection. */
static inline void end_round(enum outcome outcome)
{
	struct evt_stats stats;

	if (!server.pool)
		return;
	stats = end_server();
	if (outcome == ENDED && !log_has("listening on"))
		EXPECT(stats.closed_failed + stats.dropped +
				stats.connects_failed >
			0);
	else if (outcome == SERVED)
		EXPECT(stats.dropped == 0);
}

/* Whether the fault was reached. */
static inline bool survive(const struct scenario *scenario)
{
	struct balance before = balance_now();
	enum outcome outcome;
	bool reached;

	if (scenario->prepare)
		scenario->prepare();
	/* A line that breaks a row of equal ones. */
	evt_log_(EVT_LOG_DEBUG, "allocation %d", failing.n);
	log_forget();
	fail_allocation(failing.n, failing.from_then_on);
	errno = 0;
	outcome = scenario->attempt();
	if (outcome == REFUSED)
		EXPECT(errno == ENOMEM);
	reached = fault_reached();
	fail_allocation(0, false);
	EXPECT(outcome != HUNG);
	EXPECT(outcome == SERVED || reached);
	if (outcome == REFUSED)
		EXPECT(log_lines(EVT_LOG_ERROR) == 1);
	if (scenario->confirm)
		scenario->confirm(outcome);
	else
		EXPECT(serves(server.port));
	end_round(outcome);
	EXPECT(is_even(before));
	return reached;
}

/* How many allocations could fail. */
static inline int torture(const struct scenario *scenario)
{
	int most = 0;
	int mode;

	for (mode = 0; mode < 2; mode++) {
		failing.from_then_on = mode;
		failing.n = 0;
		do
			assert_true(++failing.n < MOST_ALLOCATIONS);
		while (survive(scenario));
		most = failing.n - 1 > most ? failing.n - 1 : most;
	}
	return most;
}

/* Clients, which allocate nothing */

static inline enum outcome outcome_of(ssize_t got)
{
	if (got > 0)
		return SERVED;
	return got == -1 && errno == EAGAIN ? HUNG : ENDED;
}

static inline enum outcome ask(int fd)
{
	char byte;

	if (fd == -1 || !send_all(fd, "e", 1))
		return ENDED;
	return outcome_of(recv(fd, &byte, 1, 0));
}

static inline enum outcome dial_and_ask(void)
{
	int fd = connect_to(server.port);
	enum outcome outcome = ask(fd);

	if (fd != -1)
		close(fd);
	return outcome;
}

/* A server */

static inline int refuse(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)pool, (void)peer, (void)arg;
	return -1;
}

/* Returns when the thread that accepts has begun with all listeners, as it has
 * once it refused a client of the last. */
static inline void await_listeners(void)
{
	static const struct evt_listen_options refusing = {
		.choice = EVT_CHOICE_FUNCTION, .choose = refuse};
	struct evt_listener *last = evt_listen(
		server.pool, ANY_PORT, &echo_handlers, &refusing, NULL);
	int fd = connect_to(evt_listener_port(last));

	assert_true(at_end(fd));
	close(fd);
}

static inline void start_with(const struct evt_handlers *handlers,
	const struct evt_listen_options *options)
{
	struct evt_handlers all = *handlers;

	make_pool(1);
	all.on_open = note_open;
	all.on_close = note_close;
	server.listener = evt_listen(
		server.pool, ANY_PORT, &all, options, NULL);
	server.port = evt_listener_port(server.listener);
	run_pool();
	await_listeners();
}

static inline void prepare_server(void)
{
	start_with(&echo_handlers, NULL);
}

#endif /* TORTURE_H */
