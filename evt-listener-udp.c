/*
 * evt-listener-udp.c: a listener of datagrams: its sockets, one for each worker
 * or, of a unix socket, one on one of them. Each worker begins and closes its
 * own, when it looks through the list of listeners: see evt-listener.c.
 */
#include "evt-listener-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/random.h>

#define USUAL_INPUT         65536
#define USUAL_OUTPUT        ((size_t)1 << 20)
#define USUAL_AMPLIFICATION 3 /* QUIC's: RFC 9000, section 8 */
#define MAX_AMPLIFICATION   65535

static void on_broken(struct evt_udp_setup *setup, int error)
{
	char *bytes = (char *)setup - offsetof(struct evt_listener, udp_setup);
	struct evt_listener *listener = (struct evt_listener *)(void *)bytes;

	evt_unix_remove_(&listener->file);
	if (listener->options.on_error)
		listener->options.on_error(
			listener, error, listener->setup.arg);
}

static int fill_udp_setup(struct evt_listener *listener, bool is_unix)
{
	const struct evt_listen_options *options = &listener->options;
	struct evt_udp_setup *setup = &listener->udp_setup;

	setup->on_datagrams = listener->setup.handlers.on_datagrams;
	if (!setup->on_datagrams)
		return evt_fail_(
			EINVAL, "evt_listen: datagrams, and no on_datagrams");
	setup->arg = listener->setup.arg;
	setup->max_input = options->max_input ? options->max_input
					      : USUAL_INPUT;
	setup->max_output = options->max_output ? options->max_output
						: USUAL_OUTPUT;
	setup->amplification = options->amplification;
	if (setup->amplification > MAX_AMPLIFICATION)
		return evt_fail_(EINVAL, "evt_listen: amplification %d",
			setup->amplification);
	if (evt_option_("evt_listen", "amplification", &setup->amplification,
		    USUAL_AMPLIFICATION) == -1)
		return -1;
	if (is_unix)
		setup->amplification = -1;
	setup->on_broken = on_broken;
	if (getrandom(setup->key, sizeof(setup->key), 0) == -1)
		return evt_fault_(errno, "evt_listen: getrandom");
	return 0;
}

/* Whose turn it is: by the number of listeners there are. -1: all are lost. */
static int worker_for_unix(struct evt_pool *pool)
{
	struct evt_listener *listener;
	int nr = pool->options.workers;
	int turn = 0;
	int i;

	pthread_mutex_lock(&pool->lock);
	for (listener = pool->listeners; listener; listener = listener->next)
		turn = (turn + 1) % nr;
	pthread_mutex_unlock(&pool->lock);
	for (i = 0; i < nr; i++)
		if (!atomic_load(&pool->workers[(turn + i) % nr].lost))
			return (turn + i) % nr;
	return evt_fail_(ENXIO, "evt_listen: all workers are lost");
}

int evt_listener_make_udp_(struct evt_listener *listener, bool is_unix)
{
	struct evt_pool *pool = listener->pool;
	int nr = pool->options.workers;
	int only = is_unix ? worker_for_unix(pool) : 0;
	int i;

	if (only == -1 || fill_udp_setup(listener, is_unix) == -1)
		return -1;
	listener->udp = calloc((size_t)nr, sizeof(struct evt_udp_socket *));
	if (!listener->udp)
		return evt_fail_(ENOMEM, "evt_listen");
	for (i = 0; i < nr; i++) {
		if (is_unix && i != only)
			continue;
		listener->udp[i] = evt_udp_new_(
			&pool->workers[i], &listener->udp_setup);
		if (!listener->udp[i])
			return evt_fail_(ENOMEM, "evt_listen");
	}
	return 0;
}

void evt_listener_free_udp_(struct evt_listener *listener)
{
	int i;

	for (i = 0; listener->udp && i < listener->pool->options.workers; i++)
		evt_udp_free_(listener->udp[i]);
	free(listener->udp);
}

struct evt_udp_socket *evt_listener_unix_udp_(struct evt_listener *listener)
{
	int i = 0;

	while (!listener->udp[i])
		i++;
	return listener->udp[i];
}

void evt_listener_close_udp_(
	struct evt_listener *listener, int index, bool last)
{
	struct evt_udp_socket *sock = listener->udp[index];

	if (!sock)
		return;
	/* First: see evt-listener.c. */
	evt_unix_remove_(&listener->file);
	evt_udp_close_(sock, last);
}

int evt_listener_begin_udp_(
	struct evt_listener *listener, struct evt_worker *worker)
{
	struct evt_udp_socket *sock = listener->udp[worker->index];

	if (!sock || atomic_load(&listener->is_closing))
		return 0;
	return evt_udp_begin_(sock);
}

int evt_listener_end_udp_(
	struct evt_listener *listener, struct evt_worker *worker)
{
	if (listener->udp[worker->index])
		evt_udp_stop_waiting_(listener->udp[worker->index]);
	return 0;
}

/* Without memory to watch it nobody must send there. */
static void begin_or_close(
	struct evt_listener *listener, struct evt_udp_socket *sock)
{
	int error;

	if (evt_udp_begin_(sock) == 0)
		return;
	error = errno;
	evt_fault_(error, "listening on %s", sock->where);
	evt_udp_close_(sock, false);
	on_broken(&listener->udp_setup, error);
}

int evt_listener_look_at_udp_(
	struct evt_listener *listener, struct evt_worker *worker)
{
	struct evt_udp_socket *sock = listener->udp[worker->index];

	if (!sock || atomic_load(&sock->fd) == -1)
		return 0;
	if (evt_pool_phase_(listener->pool) >= EVT_POOL_STOPPING ||
		atomic_load(&listener->is_closing))
		evt_listener_close_udp_(listener, worker->index, true);
	else if (!sock->resume)
		begin_or_close(listener, sock);
	return 0;
}

/* evt-listener.h */

struct evt_udp_socket *evt_listener_udp(
	struct evt_listener *listener, struct evt_worker *worker)
{
	struct evt_udp_socket *sock;

	if (evt_forked_()) {
		evt_fail_(EPERM, "evt_listener_udp in a forked child");
		return NULL;
	}
	if (!listener || !listener->udp || !worker ||
		worker->pool != listener->pool || worker->index == -1) {
		evt_fail_(EINVAL, "evt_listener_udp");
		return NULL;
	}
	sock = listener->udp[worker->index];
	if (!sock)
		errno = ENOENT;
	return sock;
}
