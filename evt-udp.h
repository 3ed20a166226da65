/*
 * evt-udp.h: datagrams, by the batch, on every worker.
 *
 *	static void echo(struct evt_udp_socket *sock,
 *		const struct evt_datagram *batch, int n, void *arg)
 *	{
 *		for (int i = 0; i < n; i++)
 *			evt_udp_reply(sock, &batch[i], batch[i].data,
 *				batch[i].len);
 *	}
 *
 *	struct evt_handlers handlers = {.on_datagrams = echo};
 *
 *	evt_listen(pool, "udp://:9999", &handlers, NULL, NULL);
 *
 * evt_listen (evt-listener.h) on udp: opens a socket for each worker, on one
 * port; the kernel chooses among them by the sender's address, or by what the
 * option steer says. What has come in is read with one call, up to 64 at a
 * time, and handed to on_datagrams on that worker; what it answers goes out
 * with one call when it returns, from the address that was asked. A unixgram:
 * listener has one socket, on one worker.
 *
 * A sender's address may be forged, and then it is somebody else who gets the
 * answer. So, unless it was said that a sender is who it claims to be
 * (evt_udp_validated), all answers to one datagram together are at most three
 * times as long as it is (option amplification; RFC 9000, section 8, has the
 * same rule), and nothing else is sent to him. Senders of a unixgram: listener
 * cannot forge anything: there is no such limit.
 *
 * Never given to the program, only counted: datagrams from port 0, which cannot
 * be answered, and those that claim to come from this very socket, or another
 * udp: one of this pool, whose answers would never end. Those of another
 * server that answers everything never end either: have no answer to what looks
 * like one.
 *
 * A socket is used on its worker alone: elsewhere the calls give EINVAL. What
 * else holds for all calls stands at the top of evt-pool.h.
 */
#ifndef EVT_UDP_H
#define EVT_UDP_H

#include "evt-conn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The most in one batch. */
#define EVT_UDP_BATCH 64

/*
 * One datagram. data and both addresses are valid until on_datagrams returns.
 * On a socket of both families IPv4 addresses look like ::ffff:192.0.2.1.
 */
struct evt_datagram {
	const char *data;
	size_t len;                    /* 0: an empty one */
	const struct sockaddr *sender; /* NULL: a unix socket without a name */
	const struct sockaddr *local;  /* which of our addresses was asked */
	socklen_t sender_len;
	socklen_t local_len;
	int truncated; /* not 0: it was longer than the option max_input */
	int reserved_int;
	uint64_t reserved[10];
};

/*
 * Answers datagram with len bytes at data, which must stay as they are until
 * on_datagrams returns: the answers are sent then, together. In another
 * callback of this worker it is sent at once. To a datagram of an earlier
 * batch, of which the program has kept sender and local, it counts as
 * evt_udp_send.
 *
 * 0: sent, or it will be. What then fails (a firewall, no route) is counted in
 * sends_failed, and told in a line. -1, nothing sent:
 *	EPERM		above the limit of amplification; counted
 *	EAGAIN		the kernel takes no more, and about as much as
 *			max_output allows waits already (unixgram: at once,
 *			when the receiver's queue is full)
 *	EMSGSIZE	longer than a datagram can be: 65,507 bytes in IPv4
 *	EDESTADDRREQ	the sender has no name
 *	ENOTCONN	the socket is closed: listening has ended
 *	ENOMEM, or what sendmsg(2) says of one that is sent at once
 * EPERM, EAGAIN and ENOTCONN have no line; of what sending a datagram has
 * brought, since strangers can bring that about, there is one a second.
 */
int evt_udp_reply(struct evt_udp_socket *sock,
	const struct evt_datagram *datagram, const void *data, size_t len);

/* The same to anybody; of UDP only to who is validated, if there is a limit of
 * amplification. to is copied. */
int evt_udp_send(struct evt_udp_socket *sock, const struct sockaddr *to,
	socklen_t to_len, const void *data, size_t len);

/*
 * This sender was shown to be who he claims to be, for instance since he has
 * sent back what was sent to him: no limit of amplification for this address
 * and port, on this worker, for five minutes from now on. A worker remembers
 * 4,096 of them; the oldest is forgotten for the next. -1: EINVAL, ENOMEM.
 */
int evt_udp_validated(
	struct evt_udp_socket *sock, const struct sockaddr *sender);

#define EVT_UDP_TOKEN 8 /* bytes */

/*
 * A way to find that out, and nothing is kept in between: answer a stranger
 * with a token; who sends it back, at the latest five minutes later and from
 * the same address and port, has got what was sent there. Any worker's socket
 * of the listener knows it again. Who sends less than three bytes cannot have
 * one, with the usual limit of amplification. -1: EINVAL.
 */
int evt_udp_token(struct evt_udp_socket *sock, const struct sockaddr *sender,
	unsigned char token[EVT_UDP_TOKEN]);

/* 0: it is this sender's token, and he is validated. -1: EACCES, without a
 * line, it is not, or it is too old; EINVAL, ENOMEM. */
int evt_udp_check_token(struct evt_udp_socket *sock,
	const struct sockaddr *sender,
	const unsigned char token[EVT_UDP_TOKEN]);

#ifdef __cplusplus
}
#endif

#endif /* EVT_UDP_H */
