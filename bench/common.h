/*
 * common.h: what the servers without the library share: a listening socket, a
 * listener's loop, and one transaction. Thus they differ in nothing but what is
 * compared: the way from the listener to a worker (bare, polling), or what a
 * worker does with a connection that stays (bare -k and the peers).
 *
 * They do the work of test/evt_test, calls that the program makes for itself
 * included: the allocated address of the client, handed over and freed.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Called on the listener's thread; client is an allocated address. */
typedef void (*on_accepted)(int conn, struct sockaddr_in6 *client);

struct listener {
	int fd;
	int flags; /* for accept4, beside SOCK_CLOEXEC */
	on_accepted accepted;
};

static inline void die(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static inline void set_option(int fd, int level, int name, int value)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)) == -1)
		die("setsockopt");
}

/* One socket for both families, with the options that the library sets. */
static inline int listen_on(int port, int backlog)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6};
	int fd = socket(
		AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd == -1)
		die("socket");
	any.sin6_port = htons((in_port_t)port);
	set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) == -1)
		die("bind");
	if (listen(fd, backlog) == -1)
		die("listen");
	return fd;
}

static inline void print_port(int fd)
{
	struct sockaddr_in6 addr = {.sin6_port = 0};
	socklen_t len = sizeof(addr);

	if (getsockname(fd, (struct sockaddr *)&addr, &len) == -1)
		die("getsockname");
	printf("listening on port %d\n", ntohs(addr.sin6_port));
	fflush(stdout);
}

/* An epoll instance that waits for fd to become readable. */
static inline int epoll_of(int fd)
{
	struct epoll_event in = {.events = EPOLLIN};
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll == -1 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &in) == -1)
		die("epoll");
	return epoll;
}

static inline void accept_one(const struct listener *listener)
{
	struct sockaddr_in6 *client = calloc(1, sizeof(*client));
	socklen_t len = sizeof(*client);
	int conn;

	if (!client)
		die("calloc");
	conn = accept4(listener->fd, (struct sockaddr *)client, &len,
		SOCK_CLOEXEC | listener->flags);
	if (conn == -1) {
		free(client);
		return;
	}
	listener->accepted(conn, client);
}

/*
 * The listener's thread: one accept4 for each time that epoll_wait returns.
 * To accept until EAGAIN was measured too: with 4 in flight it costs 8 % more
 * CPU and 5 % of the rate, since mostly one client waits and the second call is
 * in vain; with 64 it saves 1 % and gains 3 %. At most 16: the same.
 */
static inline void *run_listener(void *arg)
{
	const struct listener *listener = arg;
	int epoll = epoll_of(listener->fd);
	struct epoll_event event;

	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) == 1)
			accept_one(listener);
	}
	return NULL;
}

static inline void start_thread(void *(*run)(void *), void *arg)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, run, arg);

	if (error != 0) {
		errno = error;
		die("pthread_create");
	}
	pthread_detach(thread);
}

/* One transaction on a worker: reads once, answers with the same, closes. */
static inline void serve(int conn, struct sockaddr_in6 *client)
{
	char buf[16384];
	ssize_t len = read(conn, buf, sizeof(buf));

	if (len > 0 && write(conn, buf, (size_t)len) == -1)
		perror("bench: write");
	shutdown(conn, SHUT_RDWR);
	close(conn);
	free(client);
}

/* Threads started after this leave both signals to wait_for_end. */
static inline void block_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* The threads end with the process: what they would give back, it gives. */
static inline void wait_for_end(const sigset_t *set)
{
	int signal_number;

	sigwait(set, &signal_number);
}

/* As many descriptors as this process may have. */
static inline void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1)
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) == -1)
		die("setrlimit");
}

/* The number in argv[index], or usual when there is none. */
static inline int argument(int argc, char **argv, int index, int usual)
{
	return argc > index ? atoi(argv[index]) : usual;
}

#endif /* BENCH_COMMON_H */
