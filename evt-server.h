/*
 * evt-server.h: a multithreaded server in four calls.
 *
 *	evt_server_init(9999, SOCK_STREAM);	the address
 *	evt_server_start(on_client, NULL);	the listener thread
 *	evt_server_threads(serve, 8);		the workers
 *	...
 *	evt_server_stop();
 *
 * One listener thread waits for connections and calls on_client, which
 * accepts (evt_tcp) and hands over (evt_thread_dispatch). Each worker is a
 * thread with an event_base and a pipe of its own; the connection arrives
 * through the pipe, serve is called with it, and it stays on that thread.
 * See examples/classic-threads.c for a whole program.
 *
 * The server listens on the any-address, to whoever can reach the machine.
 *
 * What holds for every call here:
 *
 * Results	0 or a count; or -1 with errno set and one line through the
 *		log hook (evt-log.h) that says what failed, where and why.
 *		EAGAIN and ECANCELED are answers, not faults: no line.
 * Threads	Any thread may call anything at any time unless a comment
 *		says otherwise; the four calls above wait for each other.
 * Callbacks	cb runs on the listener thread, tcb on a worker, never under a
 *		lock. They may block: the others go on. They may call whatever
 *		is here, evt_server_stop too.
 * Ownership	What a call did not take, because it returned -1, is still
 *		the caller's. A connection given to tcb is tcb's to close.
 *		Nothing that the library did not make or take is closed by it.
 * Signals	The library installs no handler. Its threads block every signal
 *		but those that a fault raises (and SIGPROF), SIGPIPE among the
 *		blocked: a write to a client that left gives EPIPE. A callback
 *		that forks and executes a program unblocks them in the child.
 * Descriptors	All close-on-exec, none below 3.
 * fork		In a child forked while the server runs every call here gives
 *		EPERM, evt_server_stop does nothing, and evt_close closes the
 *		child's copy alone; the parent is not affected. The child must
 *		not return from a callback. A UDP port stays in use with it.
 *		The parent's evt_close ends the connection for both: if the
 *		child is to go on with it, close(2).
 *		A program that becomes a daemon forks before evt_server_start
 *		and evt_server_threads.
 */
#ifndef EVT_SERVER_H
#define EVT_SERVER_H

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int sockfd_t;
typedef void (*evt_callback)(sockfd_t fd, short evt, void *arg);

/*
 * Prepares the server: socktype SOCK_STREAM (TCP) or SOCK_DGRAM (UDP) on port,
 * 0 to 65535; 0 lets the kernel choose. The address is the any-address: IPv6
 * serving IPv4 clients too, or IPv4 where there is no IPv6. Nothing is
 * bound yet: a client program may call it for the helpers of evt-core.h alone.
 * Called again before a start it replaces what it prepared.
 * Errors: EINVAL (port, socktype); EBUSY while a listener or pool runs; those
 * of getaddrinfo(3).
 */
int evt_server_init(int port, int socktype);

/*
 * Binds, listens, and starts the listener thread. Returns once the socket is
 * accepting. cb(fd, EV_READ, arg) runs on that thread whenever the
 * listening socket fd is readable: once per connection or datagram, and again
 * if it left the connection or datagram where it was. fd does not block.
 * Errors, with nothing left running or open: EINVAL before init or
 * without cb; EALREADY; ECANCELED while stopping; those of socket(2), bind(2),
 * listen(2), pthread_create(3). If IPv6 cannot be bound but IPv4 can,
 * that is what is served, and a line says so.
 */
int evt_server_start(evt_callback cb, void *arg);

/*
 * Starts nr workers, which call tcb for each connection dispatched; before or
 * after evt_server_start. Returns nr. nr <= 0 means "no pool": returns 0,
 * and dispatching gives ENXIO until a later call starts one.
 * Errors, with everything as it was: EINVAL before init, without
 * tcb, or nr above 65,535; EALREADY when a pool runs; ECANCELED while stopping;
 * EMFILE, ENOMEM, EAGAIN when the pool cannot be started whole.
 */
int evt_server_threads(evt_callback tcb, int nr);

/*
 * Stops accepting, lets every connection that was dispatched reach tcb, waits
 * for running callbacks, ends all threads and frees everything: as before init.
 * Clients still in the kernel's queue are reset. Does nothing before init or a
 * second time; of several threads one does it, the others wait.
 *
 * Callbacks still running when the grace (evt_server_grace_ms) ends find their
 * connection shut down, and so do those still queued; only sockets whose local
 * port is the server's are touched. A callback that never returns all the same
 * keeps evt_server_stop waiting.
 *
 * Called from a callback it starts all this and returns at once; a program
 * that does so calls it once more from main before it ends.
 */
void evt_server_stop(void);

/*
 * How long a stop waits for callbacks: 5,000 ms unless set; 0 not at all,
 * -1 for ever; less: EINVAL. Holds for every later stop.
 */
int evt_server_grace_ms(int ms);

/* The port really bound, in host order; -1 when there is none (no line). */
int evt_server_port(void);

/* For callbacks. */

/*
 * Accepts one connection from fd: a blocking, close-on-exec socket. The peer's
 * address goes to sock (or NULL), of which get_sockaddr_size() bytes are
 * written. -1: EAGAIN when nobody waits. When descriptors or memory have run
 * out (EMFILE, ENFILE, ENOBUFS, ENOMEM) the listener pauses, 10 ms and then up
 * to 100 ms, or until evt_close frees a descriptor; the clients wait in the
 * kernel's queue, and one line tells of the whole episode (8 a second at most).
 */
int evt_tcp(sockfd_t fd, struct sockaddr *sock);

/*
 * Receives one datagram of at most size bytes into buf, its sender's address
 * into sock as above; what does not fit is cut off. flags as in recv(2).
 * Also on a worker to which fd was dispatched. Returns its length, 0 for an
 * empty one. -1: EAGAIN when there is none (another worker was quicker),
 * ECANCELED when a stop ended the wait, EINVAL for buf and size; any other
 * (ENOMEM) has the listener pause as above.
 */
int evt_udp(sockfd_t fd, char *buf, int size, int flags, struct sockaddr *sock);

/*
 * Hands conn to the next worker, round robin, where tcb(conn, evt, arg) is
 * called. 0: taken. -1: conn and arg are still the caller's: EBADF (conn
 * negative), EINVAL before init, ENXIO (no pool, or no worker left),
 * ECANCELED while stopping, EAGAIN as below.
 *
 * Between init and evt_server_threads connections are kept, as many as
 * a pipe holds (8,192), and delivered when the pool starts. If every worker's
 * pipe is full, the caller waits for room; but a worker is never made to wait:
 * it gets EAGAIN. So does, before there is a pool, every thread but the
 * listener's.
 */
int evt_thread_dispatch(sockfd_t conn, short evt, void *arg);

/*
 * Shuts the connection down in both directions and closes it; a peer that
 * left first is no error. The listening socket it leaves alone.
 */
void evt_close(sockfd_t fd);

/*
 * The event_base of the listener or worker that the caller runs on, NULL
 * elsewhere: a tcb may register events of its own instead of blocking. They
 * belong to this thread, and are no longer called once the server stops. The
 * library runs it; a callback must not. The grace of a stop knows of tcb's
 * connections alone: these callbacks must not block for ever.
 */
struct event_base *evt_thread_base(void);

/*
 * Calls fn(arg) on this listener or worker when the server stops, after
 * its last callback and before its base is freed, the last registered first;
 * there fn may free events and close connections of the program's. It cannot
 * be taken back: register once for each thread, not for each connection.
 * EPERM on any other thread; ECANCELED when it is too late; ENOMEM.
 */
int evt_thread_at_stop(void (*fn)(void *), void *arg);

#ifdef __cplusplus
}
#endif

/* See evt-core.h for other useful functions. */

#endif /* EVT_SERVER_H */
