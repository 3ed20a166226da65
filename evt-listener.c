/*
 * evt-listener.c: evt_listen, and accepting for it.
 *
 * The sockets of a listener live on the boss's loop, or with reuseport, and
 * those of datagrams, one on each worker's. Which sockets there are to watch,
 * to resume or to close is never said in a message: whoever changes that notes
 * it in the listener and tells the pool (evt_pool_changed_), and each thread
 * looks through the list. So it needs no room in a pipe, and it works the same
 * before the pool runs.
 *
 * A listener stays until its pool is freed, since its connections use its
 * handlers and limits, and the program may still ask for its port.
 */
#include "evt-listener-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BURST_US 20L /* between two wake-ups: more clients are waiting */

static struct evt_listener *first_of(struct evt_pool *pool)
{
	struct evt_listener *first;

	/* What comes later is put in front. */
	pthread_mutex_lock(&pool->lock);
	first = pool->listeners;
	pthread_mutex_unlock(&pool->lock);
	return first;
}

/* The count of connections */

static void on_gone(struct evt_setup *setup, uint32_t source)
{
	struct evt_listener *listener = (struct evt_listener *)(void *)setup;

	if (listener->sources)
		evt_sources_give_(listener->sources, source);

	atomic_fetch_sub(&listener->nr_conns, 1);
}

static bool has_place(struct evt_listener *listener)
{
	int max = listener->options.max_conns;

	return max == -1 || atomic_load(&listener->nr_conns) < max;
}

static bool take_place(struct evt_listener *listener)
{
	int max = listener->options.max_conns;
	int now = atomic_load(&listener->nr_conns);

	/* Never above it, not even for a moment: another socket of the group
	 * would pause for what is no connection. */
	do
		if (max != -1 && now >= max)
			return false;
	while (!atomic_compare_exchange_weak(
		&listener->nr_conns, &now, now + 1));
	return true;
}

/* Taken, and nobody came: a socket of the group may have paused for it. Not
 * after a shortage, of which a nudge would make a spin. */
static void give_place_back(struct evt_listener *listener, int error)
{
	on_gone(&listener->setup, EVT_SOURCE_NONE);
	if (listener->options.reuseport && error == EAGAIN)
		evt_pool_nudge_(listener->pool);
}

/* Accepting */

static void report_error(struct evt_listener *listener, int error)
{
	if (listener->options.on_error)
		listener->options.on_error(
			listener, error, listener->setup.arg);
}

/* False: what is held has to wait, and whoever makes room tells us. */
static bool flush(struct evt_listener *listener)
{
	if (evt_listener_flush_(listener))
		return true;
	/* With evt_pool_tell_of_room_: room that was made before that is
	 * found by one more try. */
	atomic_store(&listener->pool->wants_room, true);
	return evt_listener_flush_(listener);
}

static void pause_for_room(struct evt_acceptor *acceptor)
{
	evt_acceptor_pause_(
		acceptor, "the pipes of all workers are full", true);
}

static void pause_at_limit(
	struct evt_listener *listener, struct evt_acceptor *acceptor)
{
	char why[64];

	snprintf(why, sizeof(why),
		"%d connections are open, as many as allowed",
		listener->options.max_conns);
	evt_acceptor_pause_(acceptor, why, false);
	/* With evt_pool_nudge_: one may have gone before that. */
	if (has_place(listener))
		evt_acceptor_resume_(acceptor);
}

/* Above the limit, with refuse: whoever waits is closed. False if nobody is. */
static bool refuse_one(
	struct evt_listener *listener, struct evt_acceptor *acceptor)
{
	struct evt_worker *worker = acceptor->worker;
	socklen_t len;
	int conn = evt_acceptor_accept_(
		acceptor, atomic_load(&acceptor->fd), true, NULL, &len);

	if (conn == -1) {
		if (acceptor->broken)
			report_error(listener, errno);
		return false;
	}
	evt_count_(&worker->counters.refused, 1);
	close(conn);
	return true;
}

static void drop_for_memory(struct evt_listener *listener,
	struct evt_worker *worker, int conn, uint32_t source)
{
	evt_listener_drop_(listener, conn, source, &worker->counters.dropped);
	evt_count_(&worker->ended, 1);
	evt_log_(EVT_LOG_ERROR,
		"no memory for a connection on %s: it is closed",
		listener->sockets[0].where);
}

/* With reuseport it is there already; else it gets its place. */
static void welcome(struct evt_listener *listener,
	struct evt_acceptor *acceptor, int conn, const struct sockaddr *peer)
{
	struct evt_counters *counters = &acceptor->worker->counters;
	uint32_t source = EVT_SOURCE_NONE;

	if (listener->options.reuseport) {
		atomic_fetch_add(&acceptor->worker->assigned, 1);
		if (evt_conn_accept_(acceptor->worker, conn, &listener->setup,
			    source) == -1)
			drop_for_memory(
				listener, acceptor->worker, conn, source);
		return;
	}
	if (listener->sources)
		source = evt_sources_take_(listener->sources, peer,
			listener->options.max_per_source);
	if (source == EVT_SOURCE_REFUSED)
		evt_listener_drop_(
			listener, conn, EVT_SOURCE_NONE, &counters->refused);
	else if (!evt_listener_place_(listener, conn, source, peer))
		evt_listener_drop_(listener, conn, source, &counters->refused);
}

/* False if there is nothing more to be done now. */
static bool accept_one(
	struct evt_listener *listener, struct evt_acceptor *acceptor)
{
	bool wants_peer = listener->options.choice == EVT_CHOICE_FUNCTION ||
		listener->sources;
	struct sockaddr_storage peer;
	socklen_t len;
	int conn;

	if (!take_place(listener)) {
		if (listener->options.refuse)
			return refuse_one(listener, acceptor);
		pause_at_limit(listener, acceptor);
		return false;
	}
	conn = evt_acceptor_accept_(acceptor, atomic_load(&acceptor->fd), true,
		wants_peer ? &peer : NULL, &len);
	if (conn == -1) {
		int error = errno;

		give_place_back(listener, error);
		if (acceptor->broken)
			report_error(listener, error);
		return false;
	}
	if (wants_peer && len == 0)
		peer.ss_family = AF_UNSPEC;
	welcome(listener, acceptor, conn,
		wants_peer ? (struct sockaddr *)&peer : NULL);
	return true;
}

/*
 * How many to try in this wake-up. To go on until EAGAIN costs a system call in
 * vain for each client that comes alone; so there is one, and twice as many
 * each time when wake-ups follow each other at once.
 */
static int batch_of(struct evt_listener *listener, int64_t now_us)
{
	if (now_us - listener->ready_us > BURST_US * listener->batch)
		listener->batch = 1;
	else if (listener->batch < listener->options.accept_batch)
		listener->batch *= 2;
	if (listener->batch > listener->options.accept_batch)
		listener->batch = listener->options.accept_batch;
	listener->ready_us = now_us;
	return listener->batch;
}

static void on_ready(int fd, short what, void *arg)
{
	struct evt_acceptor *acceptor = arg;
	struct evt_listener *listener = acceptor->owner;
	int batch = listener->options.accept_batch;
	int nr = 0;

	(void)fd;
	(void)what;
	if (!listener->options.reuseport) {
		batch = batch_of(listener, acceptor->worker->now_us);
		if (!evt_listener_has_worker_(listener)) {
			evt_acceptor_pause_(acceptor,
				"every worker is in a callback for too long",
				true);
			return;
		}
	}
	while (nr < batch && accept_one(listener, acceptor))
		nr++;
	if (listener->options.reuseport)
		return; /* the rest is the boss's */
	if (nr < batch)
		listener->batch = nr > 1 ? nr : 1;
	if (!flush(listener))
		pause_for_room(acceptor);
}

/* The pause is over, or something has changed. */
static void resume(struct evt_listener *listener, struct evt_acceptor *acceptor)
{
	if (!atomic_load(&acceptor->paused))
		return;
	if (flush(listener)) {
		if (has_place(listener) || listener->options.refuse)
			evt_acceptor_resume_(acceptor);
		return;
	}
	evt_acceptor_resume_(acceptor);
	pause_for_room(acceptor);
}

static void on_retry(void *arg)
{
	struct evt_acceptor *acceptor = arg;

	resume(acceptor->owner, acceptor);
}

/* What a thread has to do for its sockets */

static void close_socket(
	struct evt_listener *listener, struct evt_acceptor *acceptor)
{
	if (atomic_load(&acceptor->fd) == -1)
		return;
	/* In this order: of a name that nobody serves another process may make
	 * its own, between the look whose it is and the unlink(2). */
	evt_unix_remove_(&listener->file);
	evt_acceptor_unwatch_(acceptor);
}

static int begin(struct evt_listener *listener, struct evt_acceptor *acceptor,
	struct evt_worker *worker)
{
	acceptor->owner = listener;
	acceptor->on_retry = on_retry;
	return evt_acceptor_begin_(acceptor, worker, on_ready, acceptor);
}

/* Without memory to watch it nobody must wait there. */
static void begin_or_close(struct evt_listener *listener,
	struct evt_acceptor *acceptor, struct evt_worker *worker)
{
	int error;

	if (begin(listener, acceptor, worker) == 0)
		return;
	error = errno;
	evt_fault_(error, "listening on %s", acceptor->where);
	acceptor->broken = true;
	close_socket(listener, acceptor);
	report_error(listener, error);
}

/* What finds no room when accepting ends, and the client that choose did not
 * come back with. */
static void drop_held(struct evt_listener *listener)
{
	if (listener->is_choosing)
		listener->nr_held++;
	listener->is_choosing = false;
	for (; listener->nr_held > 0; listener->nr_held--) {
		struct evt_record *record =
			&listener->held[listener->nr_held - 1].record;

		evt_listener_drop_(listener, record->fd, record->generation,
			&listener->pool->boss.counters.dropped);
	}
}

static int look_at(struct evt_listener *listener, struct evt_acceptor *acceptor,
	struct evt_worker *worker)
{
	/* Of the workers a lost one does not come here. */
	bool stopping = evt_pool_phase_(listener->pool) >= EVT_POOL_STOPPING ||
		atomic_load(&worker->lost);

	if (stopping || atomic_load(&listener->is_closing))
		close_socket(listener, acceptor);
	else if (!acceptor->worker)
		begin_or_close(listener, acceptor, worker);
	else if (!acceptor->broken)
		resume(listener, acceptor);
	if (worker->index != -1)
		return 0;
	flush(listener);
	if (stopping)
		drop_held(listener);
	return 0;
}

/* The sockets of all listeners that are this thread's, until one gives -1;
 * those of datagrams are the workers' alone. */
static int each_socket(struct evt_worker *worker,
	int (*fn)(struct evt_listener *, struct evt_acceptor *,
		struct evt_worker *),
	int (*udp_fn)(struct evt_listener *, struct evt_worker *))
{
	struct evt_listener *listener = first_of(worker->pool);
	int result = 0;

	for (; listener && result == 0; listener = listener->next) {
		bool shared = !listener->options.reuseport;

		if (listener->udp && worker->index != -1)
			result = udp_fn(listener, worker);
		if (listener->udp)
			continue;
		if (shared && worker->index == -1)
			result = fn(listener, &listener->sockets[0], worker);
		else if (!shared && worker->index != -1)
			result = fn(listener, &listener->sockets[worker->index],
				worker);
	}
	return result;
}

static void on_change(struct evt_worker *worker)
{
	/* Before it looks: with evt_pool_nudge_. */
	atomic_store(&worker->pool->nudged, false);
	each_socket(worker, look_at, evt_listener_look_at_udp_);
	if (worker->state)
		evt_home_stop_(worker);
}

/* On the boss, out of its loop. */
static void on_stopping(struct evt_pool *pool)
{
	each_socket(&pool->boss, look_at, evt_listener_look_at_udp_);
}

/* The hooks of the pools of evt_pool_new */

static void deliver(struct evt_worker *worker, const struct evt_record *record)
{
	struct evt_listener *listener = record->arg;

	if (evt_conn_accept_(worker, record->fd, &listener->setup,
		    record->generation) == 0)
		return;
	drop_for_memory(listener, worker, record->fd, record->generation);
}

static void drop(struct evt_pool *pool, const struct evt_record *record)
{
	struct evt_listener *listener = record->arg;

	/* Any thread that posts may come here: not into a thread's counters. */
	atomic_fetch_add(&pool->dropped, 1);
	close(record->fd);
	on_gone(&listener->setup, record->generation);
	evt_pool_nudge_(pool);
}

/* Before the threads are: a pool that starts listens. Whoever comes already
 * waits until they look. */
static int begin_early(struct evt_listener *listener,
	struct evt_acceptor *acceptor, struct evt_worker *worker)
{
	if (atomic_load(&listener->is_closing))
		return 0;
	return begin(listener, acceptor, worker);
}

/* The start has failed: the next one begins again. Of a run that is over
 * nothing is left. */
static int end_early(struct evt_listener *listener,
	struct evt_acceptor *acceptor, struct evt_worker *worker)
{
	(void)listener, (void)worker;
	evt_acceptor_end_(acceptor);
	return 0;
}

static void release(struct evt_worker *worker)
{
	each_socket(worker, end_early, evt_listener_end_udp_);
	evt_home_release_(worker);
	evt_udp_forget_senders_(worker);
}

static int init(struct evt_worker *worker)
{
	int error;

	if (worker->index != -1 && evt_home_init_(worker) == -1)
		return -1;
	if (each_socket(worker, begin_early, evt_listener_begin_udp_) == 0)
		return 0;
	error = errno;
	release(worker);
	errno = error;
	return -1;
}

static int close_lost(struct evt_listener *listener,
	struct evt_acceptor *acceptor, struct evt_worker *worker)
{
	(void)worker;
	close_socket(listener, acceptor);
	return 0;
}

static int close_lost_udp(
	struct evt_listener *listener, struct evt_worker *worker)
{
	evt_listener_close_udp_(listener, worker->index, false);
	return 0;
}

static void lose(struct evt_worker *worker)
{
	each_socket(worker, close_lost, close_lost_udp);
	evt_home_lose_(worker);
}

static void free_listener(struct evt_listener *listener)
{
	evt_sources_free_(listener->sources);
	evt_listener_free_udp_(listener);
	free(listener);
}

static void on_free(struct evt_pool *pool)
{
	struct evt_listener *listener = pool->listeners;

	while (listener) {
		struct evt_listener *next = listener->next;

		evt_listener_shut_(listener);
		free_listener(listener);
		listener = next;
	}
}

const struct evt_pool_hooks evt_pool_hooks_ = {
	.deliver = deliver,
	.drop = drop,
	.on_stopping = on_stopping,
	.init = init,
	.release = release,
	.on_change = on_change,
	.on_event = evt_home_on_event_,
	.receive = evt_home_receive_,
	.settle = evt_home_settle_,
	.lose = lose,
	.on_free = on_free,
};

/* evt_listen */

static struct evt_listener *new_listener(struct evt_pool *pool,
	const struct evt_listen_options *options, bool accepts)
{
	int nr = options->reuseport ? pool->options.workers : 1;
	struct evt_listener *listener = calloc(1,
		sizeof(*listener) + (size_t)nr * sizeof(struct evt_acceptor));
	int i;

	if (!listener)
		return NULL;
	if (options->max_per_source > 0) {
		listener->sources = evt_sources_new_(options->max_conns == -1
				? INT_MAX
				: options->max_conns);
		if (!listener->sources) {
			free(listener);
			return NULL;
		}
	}
	listener->pool = pool;
	listener->options = *options;
	listener->nr_sockets = accepts ? nr : 0;
	listener->batch = 1;
	for (i = 0; i < nr; i++) {
		atomic_init(&listener->sockets[i].fd, -1);
		atomic_init(&listener->sockets[i].port, -1);
	}
	return listener;
}

/* Of a group, the sockets of workers that are lost. With lose: there it is said
 * first that it is lost, and then the list looked through. */
static void close_unwatched(struct evt_listener *listener)
{
	int i;

	for (i = 0; i < listener->pool->options.workers; i++) {
		if (!atomic_load(&listener->pool->workers[i].lost))
			continue;
		if (listener->udp && listener->udp[i])
			evt_udp_shut_(listener->udp[i]);
		else if (!listener->udp && listener->options.reuseport)
			evt_acceptor_close_(&listener->sockets[i]);
	}
}

/* Puts it where the threads look: 0, ECANCELED or, if there is nobody who
 * would accept, ENXIO. */
static int add(struct evt_pool *pool, struct evt_listener *listener)
{
	bool lost;
	int phase;

	pthread_mutex_lock(&pool->lock);
	phase = evt_pool_phase_(pool);
	/* With lose_boss: it is lost first, and then looks through the list. */
	lost = !listener->options.reuseport && !listener->udp &&
		atomic_load(&pool->boss.lost);
	if (phase <= EVT_POOL_RUNNING && !lost) {
		listener->next = pool->listeners;
		pool->listeners = listener;
	}
	pthread_mutex_unlock(&pool->lock);
	if (phase > EVT_POOL_RUNNING)
		return ECANCELED;
	if (lost)
		return ENXIO;
	if (phase == EVT_POOL_RUNNING) {
		evt_pool_changed_(pool);
		close_unwatched(listener);
	}
	return 0;
}

static int parse(const char *text, struct evt_url *url)
{
	const char *why;

	if (evt_url_parse_(text, url, &why) == 0)
		return 0;
	/* Without errno's text: why says more. */
	evt_log_(EVT_LOG_ERROR, "evt_listen on \"%s\": %s",
		text ? text : "(null)", why);
	return -1;
}

static struct evt_listener *listen_on(struct evt_pool *pool, const char *text,
	const struct evt_handlers *handlers, size_t handlers_size,
	struct evt_listen_options *options, void *arg)
{
	struct evt_listener *listener;
	struct evt_url url;
	bool accepts;
	int error;

	if (parse(text, &url) == -1 ||
		evt_listener_fill_in_(options, url.kind) == -1)
		return NULL;
	accepts = url.kind == EVT_URL_TCP || url.kind == EVT_URL_UNIX;
	listener = new_listener(pool, options, accepts);
	if (!listener) {
		evt_fail_(ENOMEM, "evt_listen");
		return NULL;
	}
	if (evt_listener_fill_setup_(listener, handlers, handlers_size, arg) ==
		-1)
		goto failed;
	if (!accepts &&
		evt_listener_make_udp_(listener, url.kind == EVT_URL_UNIXGRAM))
		goto failed;
	listener->setup.on_gone = on_gone;
	if (evt_listener_open_(listener, &url, text) == -1)
		goto failed;
	error = add(pool, listener);
	if (!error)
		return listener;
	evt_listener_shut_(listener);
	evt_fail_(error, "evt_listen");
failed:
	error = errno;
	free_listener(listener);
	errno = error;
	return NULL;
}

/* evt-listener.h */

struct evt_listener *evt_listen_sized(struct evt_pool *pool, const char *url,
	const struct evt_handlers *handlers, size_t handlers_size,
	const struct evt_listen_options *wanted, size_t options_size, void *arg)
{
	struct evt_listen_options options;
	struct evt_listener *listener = NULL;
	int none = 0;

	if (evt_forked_()) {
		evt_fail_(EPERM, "evt_listen in a forked child");
		return NULL;
	}
	if (!pool || !pool->owned) {
		evt_fail_(EINVAL, "evt_listen without a pool");
		return NULL;
	}
	if (!evt_options_copy_(&options, sizeof(options), wanted, options_size))
		evt_fail_(EINVAL, "evt_listen: options of a newer library");
	else
		listener = listen_on(
			pool, url, handlers, handlers_size, &options, arg);
	if (!listener)
		atomic_compare_exchange_strong(
			&pool->listen_error, &none, errno);
	return listener;
}

int evt_listener_port(struct evt_listener *listener)
{
	if (evt_forked_())
		return evt_fail_(EPERM, "evt_listener_port in a forked child");
	if (!listener)
		return evt_fail_(EINVAL, "evt_listener_port");
	return listener->port;
}

/* While the pool does not run, nobody but us has its sockets. */
void evt_listener_close(struct evt_listener *listener)
{
	struct evt_pool *pool;
	bool idle;

	if (!listener) {
		evt_log_(EVT_LOG_ERROR, "evt_listener_close of NULL");
		return;
	}
	if (evt_forked_())
		return;
	pool = listener->pool;
	atomic_store(&listener->is_closing, true);
	pthread_mutex_lock(&pool->lock);
	idle = pool->start == EVT_START_NOT;
	if (idle)
		evt_listener_shut_(listener);
	pthread_mutex_unlock(&pool->lock);
	if (!idle)
		evt_pool_changed_(pool);
}
