/*
 * udp_rig.h: a pool with a listener of datagrams, callbacks that note what they
 * are given, a gate that holds a worker while datagrams queue up, clients.
 * Everything is static, one of each in a suite.
 *
 *	int fd;
 *
 *	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
 *	fd = udp_to(server.port);
 *	exchanges(fd, "hello");
 *	assert_int_equal(noted(0).len, 5);
 *	close(fd);
 *	assert_int_equal(end_udp().datagrams_in, 1);
 *
 * UDP_TEST(fn) is LEDGER_TEST(fn) that stops what fn has left running.
 */
#ifndef UDP_RIG_H
#define UDP_RIG_H

#include "listen_rig.h"
#include "../evt-listener-internal.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>

#define ANY_UDP "udp://127.0.0.1:0"

#define LONGEST 65507 /* in IPv4 */

#define UDP_TEST(fn)                                         \
	{                                                    \
#fn, fn, ledger_open, udp_close, (void *)#fn \
	}

typedef void (*on_datagrams_fn)(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg);

static inline int udp_close(void **state)
{
	open_gate();
	return server_close(state);
}

/* What came */

#define NOTES 8192

struct note {
	size_t len;
	uint32_t number; /* its first four bytes */
	int truncated;
	int worker;
	int call; /* on_datagrams, counted from 1 */
	int n;    /* how many came in that call */
	struct sockaddr_storage sender, local;
	socklen_t sender_len, local_len;
};

static struct {
	pthread_mutex_t lock;
	int calls;
	int nr; /* beyond NOTES only counted */
	struct note all[NOTES];
	atomic_int refused; /* replies that gave -1 */
	atomic_int error;   /* of the last of them */
} notes = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void forget_notes(void)
{
	pthread_mutex_lock(&notes.lock);
	notes.calls = notes.nr = 0;
	pthread_mutex_unlock(&notes.lock);
	atomic_store(&notes.refused, 0);
	atomic_store(&notes.error, 0);
}

static inline int nr_noted(void)
{
	int nr;

	pthread_mutex_lock(&notes.lock);
	nr = notes.nr;
	pthread_mutex_unlock(&notes.lock);
	return nr;
}

static inline int nr_calls(void)
{
	int nr;

	pthread_mutex_lock(&notes.lock);
	nr = notes.calls;
	pthread_mutex_unlock(&notes.lock);
	return nr;
}

static inline struct note noted(int i)
{
	struct note note;

	pthread_mutex_lock(&notes.lock);
	note = notes.all[i];
	pthread_mutex_unlock(&notes.lock);
	return note;
}

static inline void copy_addr(struct sockaddr_storage *to, socklen_t *to_len,
	const struct sockaddr *addr, socklen_t len)
{
	memset(to, 0, sizeof(*to));
	*to_len = len;
	if (addr && len <= sizeof(*to))
		memcpy(to, addr, len);
}

static inline void note_one(struct note *note, const struct evt_datagram *it)
{
	memset(note, 0, sizeof(*note));
	note->len = it->len;
	if (it->len >= sizeof(note->number))
		memcpy(&note->number, it->data, sizeof(note->number));
	note->truncated = it->truncated;
	note->worker = evt_worker_index(evt_worker_self());
	note->call = notes.calls;
	copy_addr(&note->sender, &note->sender_len, it->sender, it->sender_len);
	copy_addr(&note->local, &note->local_len, it->local, it->local_len);
}

/* on_datagrams: */
static inline void note_datagrams(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int i;

	(void)sock, (void)arg;
	pthread_mutex_lock(&notes.lock);
	notes.calls++;
	for (i = 0; i < n; i++, notes.nr++)
		if (notes.nr < NOTES) {
			note_one(&notes.all[notes.nr], &batch[i]);
			notes.all[notes.nr].n = n;
		}
	pthread_mutex_unlock(&notes.lock);
}

static inline void note_result(int result)
{
	if (result == 0)
		return;
	atomic_store(&notes.error, errno);
	atomic_fetch_add(&notes.refused, 1);
}

static inline void echo_datagrams(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int i;

	note_datagrams(sock, batch, n, arg);
	for (i = 0; i < n; i++)
		note_result(evt_udp_reply(
			sock, &batch[i], batch[i].data, batch[i].len));
}

/* The server */

/* It does not run yet. */
static inline void make_udp(const char *url, on_datagrams_fn fn,
	const struct evt_listen_options *options, int workers)
{
	const struct evt_handlers handlers = {.on_datagrams = fn};

	make_pool(workers);
	forget_notes();
	forget_tally();
	shut_gate();
	server.listener = evt_listen(
		server.pool, url, &handlers, options, NULL);
	assert_non_null(server.listener);
	server.port = evt_listener_port(server.listener);
}

static inline void start_udp(const char *url, on_datagrams_fn fn,
	const struct evt_listen_options *options, int workers)
{
	make_udp(url, fn, options, workers);
	run_pool();
	log_forget();
}

/* Stops and frees the pool: the counters. */
static inline struct evt_stats end_udp(void)
{
	open_gate();
	return end_server();
}

static inline struct evt_udp_socket *socket_of(int worker)
{
	return evt_listener_udp(
		server.listener, evt_pool_worker(server.pool, worker));
}

/* It is closed. */
static inline bool is_shut(int worker)
{
	return atomic_load(&server.listener->udp[worker]->fd) == -1;
}

/* Held until open_gate: what comes queues up meanwhile. */
static inline void hold_task(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	wait_at_gate();
}

static inline void hold(int worker)
{
	int before = atomic_load(&gate.waiting);

	assert_int_equal(evt_worker_post(evt_pool_worker(server.pool, worker),
				 hold_task, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == before + 1));
}

/* What the worker had to do before is done. */
static inline void idle_task(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
}

static inline void settle(int worker)
{
	assert_true(on_worker(worker, idle_task, NULL));
}

/* Clients: blocking sockets, of which no call waits longer than 10 s (more
 * under a tool). */

static inline struct sockaddr_storage addr_of(
	const char *ip, int port, socklen_t *len)
{
	struct sockaddr_storage addr = {0};
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&addr;
	struct sockaddr_in *in = (struct sockaddr_in *)&addr;

	if (strchr(ip, ':')) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)port);
		inet_pton(AF_INET6, ip, &in6->sin6_addr);
		*len = sizeof(*in6);
	} else {
		in->sin_family = AF_INET;
		in->sin_port = htons((uint16_t)port);
		inet_pton(AF_INET, ip, &in->sin_addr);
		*len = sizeof(*in);
	}
	return addr;
}

/* Bound to ip, port 0: the kernel chooses. Or -1. */
static inline int udp_at(const char *ip, int port)
{
	const struct timeval limit = {.tv_sec = 10 * slowness()};
	socklen_t len;
	struct sockaddr_storage addr = addr_of(ip, port, &len);
	int fd = socket(addr.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd == -1)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (bind(fd, (struct sockaddr *)&addr, len) == 0)
		return fd;
	close(fd);
	return -1;
}

static inline int reach(int fd, const char *ip, int port)
{
	socklen_t len;
	struct sockaddr_storage addr = addr_of(ip, port, &len);

	return connect(fd, (struct sockaddr *)&addr, len);
}

/* Connected to ip: what comes from another address is not received. */
static inline int udp_to_ip(const char *ip, int port)
{
	int fd = udp_at(strchr(ip, ':') ? "::" : "0.0.0.0", 0);

	if (fd != -1 && reach(fd, ip, port) == -1) {
		close(fd);
		return -1;
	}
	return fd;
}

static inline void shoot(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, 0), len);
}

static inline void shoot_number(int fd, uint32_t number)
{
	shoot(fd, &number, sizeof(number));
}

/* The next datagram is exactly this one. */
static inline void catches(int fd, const void *data, size_t len)
{
	static char bytes[65536];
	ssize_t got = recv(fd, bytes, sizeof(bytes), 0);

	assert_int_equal(got, len);
	assert_memory_equal(bytes, data, len);
}

static inline void catches_number(int fd, uint32_t number)
{
	uint32_t got = ~number;

	assert_int_equal(recv(fd, &got, sizeof(got), 0), sizeof(got));
	assert_int_equal(got, number);
}

static inline void exchanges(int fd, const char *text)
{
	shoot(fd, text, strlen(text));
	catches(fd, text, strlen(text));
}

/* Nothing has come: of a server on this machine, whose worker has settled, what
 * it sent is there already. */
static inline bool has_caught_nothing(int fd)
{
	return stays_silent(fd, 0);
}

#endif /* UDP_RIG_H */
