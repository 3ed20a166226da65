/*
 * placing.h: for suites of listeners: on which worker connections have been
 * opened. Everything is static, as in listen_rig.h.
 */
#ifndef PLACING_H
#define PLACING_H

#include "listen_rig.h"

#include <netinet/in.h>

/* Where connections have been opened, in that order, and what is open */

static atomic_int opened_on[4096];
static atomic_int open_on[16];
static atomic_int peer_ports[4096];

static inline void note_place(struct evt_conn *conn, void *arg)
{
	int index = evt_worker_index(evt_conn_worker(conn));
	struct sockaddr_storage peer;
	struct sockaddr_in in;
	int nr = nr_opened();

	evt_conn_peer(conn, &peer);
	memcpy(&in, &peer, sizeof(in));
	atomic_store(&peer_ports[nr], ntohs(in.sin_port));
	atomic_store(&opened_on[nr], index);
	atomic_fetch_add(&open_on[index], 1);
	note_open(conn, arg);
}

static inline void forget_place(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	int index = evt_worker_index(evt_conn_worker(conn));

	atomic_fetch_sub(&open_on[index], 1);
	note_close(conn, reason, arg);
}

static const struct evt_handlers placed = {
	.on_open = note_place, .on_data = echo_data, .on_close = forget_place};

static inline void start_placing(struct evt_listen_options options, int workers)
{
	int i;

	for (i = 0; i < 16; i++)
		atomic_store(&open_on[i], 0);
	start_server(&placed, &options, workers);
}

/* The worker that gets the next client. */
static inline int place_of(int *client)
{
	int nr = nr_opened();

	*client = dial();
	assert_true(WAIT_FOR(nr_opened() == nr + 1));
	return atomic_load(&opened_on[nr]);
}

static inline int nr_open_on(int index)
{
	return atomic_load(&open_on[index]);
}

/* The options of each choice, and what choose below answers and was told. */

static const struct evt_listen_options by_count = {
	.choice = EVT_CHOICE_FEWEST_CONNS};

static const struct evt_listen_options by_kernel = {.reuseport = 1};

static struct {
	atomic_int answer;
	atomic_int calls;
	atomic_int family;
	atomic_int port;
	_Atomic(struct evt_pool *) pool;
	_Atomic(void *) arg;
	atomic_bool on_worker;
} choice;

static inline int choose(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	struct sockaddr_in in = {0};

	if (peer->sa_family == AF_INET)
		memcpy(&in, peer, sizeof(in));
	atomic_store(&choice.port, ntohs(in.sin_port));
	atomic_store(&choice.family, peer->sa_family);
	atomic_store(&choice.pool, pool);
	atomic_store(&choice.arg, arg);
	atomic_store(&choice.on_worker, evt_worker_self() != NULL);
	atomic_fetch_add(&choice.calls, 1);
	return atomic_load(&choice.answer);
}

static const struct evt_listen_options by_choice = {
	.choice = EVT_CHOICE_FUNCTION, .choose = choose};

#endif /* PLACING_H */
