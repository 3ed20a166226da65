/*
 * evt-udp-internal.h: sockets of datagrams as the library's own files see them.
 *
 * A socket is its worker's from evt_udp_begin_ to evt_udp_close_, and its
 * opener's before. It has all the memory it needs from the start, but for what
 * the kernel does not take at once.
 */
#ifndef EVT_UDP_INTERNAL_H
#define EVT_UDP_INTERNAL_H

#include "evt-pool-internal.h"
#include "evt-udp.h"

#include <netinet/in.h>
#include <sys/uio.h>
#include <sys/un.h>

struct evt_url;
struct ifaddrs;

#define EVT_UDP_BYTES 65536 /* for each of a batch: more than one can have */

/* One more line of the cache, or all would begin in the same few of it. */
#define EVT_UDP_STRIDE (EVT_UDP_BYTES + 64)

/* Room for the address that was asked, the size of parts, and a count. */
#define EVT_UDP_CONTROL                                                     \
	(CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(int)) + \
		CMSG_SPACE(sizeof(uint32_t)))

union evt_udp_addr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
};

/* What the sockets of one evt_listen have in common; see evt-listener.h. */
struct evt_udp_setup {
	void (*on_datagrams)(struct evt_udp_socket *,
		const struct evt_datagram *batch, int n, void *arg);
	void *arg;
	size_t max_input;
	size_t max_output; /* SIZE_MAX: no limit */
	int amplification; /* -1: no limit, and for unix sockets */
	uint64_t key[2];   /* of tokens */
	/* On the worker: the socket has failed and is closed. */
	void (*on_broken)(struct evt_udp_setup *, int error);
};

/* What is received by one call, and handed over by one or more. */
struct evt_udp_in {
	struct mmsghdr messages[EVT_UDP_BATCH];
	struct iovec parts[EVT_UDP_BATCH];
	union evt_udp_addr senders[EVT_UDP_BATCH];
	union evt_udp_addr locals[EVT_UDP_BATCH]; /* if asks_local */
	_Alignas(struct cmsghdr) char control[EVT_UDP_BATCH][EVT_UDP_CONTROL];
	struct evt_datagram batch[EVT_UDP_BATCH];
	size_t answered[EVT_UDP_BATCH]; /* bytes in answer to it */
	int nr;                         /* in batch */
	int takes;                      /* messages in one call */
	char *bytes;                    /* EVT_UDP_STRIDE for each message */
};

/* What is to be sent by one call. A message has a part for each datagram, and
 * the parts of a message follow each other. */
struct evt_udp_out {
	struct mmsghdr messages[EVT_UDP_BATCH];
	struct iovec parts[EVT_UDP_BATCH];
	union evt_udp_addr names[EVT_UDP_BATCH]; /* of evt_udp_send */
	_Alignas(struct cmsghdr) char control[EVT_UDP_BATCH][EVT_UDP_CONTROL];
	int nr_messages;
	int nr_parts;
	size_t bytes;
	const struct sockaddr *last_from; /* of the last message, if it stays */
};

/* A datagram that the kernel did not take. */
struct evt_udp_unsent {
	struct evt_udp_unsent *next;
	size_t len;
	size_t control_len;
	socklen_t to_len;
	union evt_udp_addr to;
	_Alignas(struct cmsghdr) char control[EVT_UDP_CONTROL];
	char bytes[];
};

struct evt_udp_socket {
	struct evt_watch watch; /* must be first */

	/* Written by the opener, then only read. */
	struct evt_udp_setup *setup;
	struct evt_worker *worker;
	char where[128];          /* the address, for the log */
	union evt_udp_addr bound; /* what is asked, unless asks_local */
	socklen_t bound_len;
	int port;         /* -1: a unix socket */
	bool asks_local;  /* bound to any address: each datagram says */
	bool joins_parts; /* the kernel can: UDP_SEGMENT */

	atomic_int fd; /* -1 unless open */

	/* Its worker alone, from evt_udp_begin_ on. */
	struct evt_udp_socket *next; /* of the worker's */
	struct event *resume;        /* NULL before, and once it is closed */
	bool paused;                 /* after an error of the system's */
	bool fails;                  /* which has had its line */
	bool in_callback;            /* on_datagrams: answers are gathered */
	bool is_sending;             /* what was gathered */
	size_t joins_below;          /* longer datagrams are not joined */
	int64_t joins_again_ms;      /* until then */
	int64_t quiet_until_ms;      /* what fails has no line */
	size_t untold;               /* what has had none */
	uint32_t dropped;            /* as the kernel has said last */
	struct evt_udp_unsent *first_unsent, *last_unsent;
	size_t unsent;        /* bytes of these */
	struct ifaddrs *ours; /* NULL, or our addresses at ours_at_ms */
	int64_t ours_at_ms;

	struct evt_udp_in in;
	struct evt_udp_out out;
};

/* evt-udp-open.c */

/* An unopened socket; NULL: ENOMEM. */
struct evt_udp_socket *evt_udp_new_(
	struct evt_worker *, struct evt_udp_setup *);
void evt_udp_free_(struct evt_udp_socket *);

/* Opens sockets[0..nr-1] on one address, whose port, if it is 0, the kernel
 * chooses; all or none; joined: datagrams may come so. 0, or -1, *step naming
 * the call; no line. */
int evt_udp_open_(struct evt_udp_socket *const *sockets, int nr,
	const struct sockaddr *addr, socklen_t len, bool joined,
	const char **step);

/* Takes a unix socket that is bound at where. */
void evt_udp_take_(struct evt_udp_socket *, int fd, const char *where);

#define EVT_UDP_KEY 256 /* the longest */

/* Has a hash of len bytes at offset choose among the nr sockets of a group:
 * 0, or -1. */
int evt_udp_steer_(const struct evt_udp_socket *, int nr, int offset, int len);

/* evt-udp.c */

/* On its worker, or before its thread is: from now on what comes is handed
 * over. 0, or -1 and no line: no memory to wait for it. */
int evt_udp_begin_(struct evt_udp_socket *);
void evt_udp_stop_waiting_(struct evt_udp_socket *);

/* On its worker, in a turn: with last, hands over what has come before. */
void evt_udp_close_(struct evt_udp_socket *, bool last);

/* Of one that its worker has not begun, or will not touch again. */
void evt_udp_shut_(struct evt_udp_socket *);

/* After an error that may go on: waits a while, then looks again. */
void evt_udp_pause_(struct evt_udp_socket *);

/* Waits for room to send too, or no more: 0, or -1. */
int evt_udp_await_room_(struct evt_udp_socket *, bool wanted);

/* 0 if the caller may use it; or -1 with a line. */
int evt_udp_check_(const struct evt_udp_socket *, const char *call);

/* On the worker, which ends: what it remembers of senders. */
void evt_udp_forget_senders_(struct evt_worker *);

static inline struct evt_counters *evt_udp_counters_(
	struct evt_udp_socket *sock)
{
	return &sock->worker->counters;
}

/* evt-udp-receive.c */

/* An errno by which the kernel tells what became of an earlier answer. */
bool evt_udp_is_of_answer_(int error);

/* It was shut down. */
void evt_udp_end_(struct evt_udp_socket *);

/* Sets up what is received into. It is bound. */
void evt_udp_prepare_(struct evt_udp_socket *);

/* Reads once, and hands over: false if there was nothing. */
bool evt_udp_receive_(struct evt_udp_socket *);

/* Counts the errors of earlier answers. */
void evt_udp_take_errors_(struct evt_udp_socket *);

/* What the kernel has dropped until now, and was not counted. */
void evt_udp_count_dropped_(struct evt_udp_socket *);

/* evt-udp-send.c */

/* Whether len bytes can be sent there, with a line if not; to_len becomes the
 * address' own. */
int evt_udp_check_to_(const struct evt_udp_socket *, const struct sockaddr *to,
	socklen_t *to_len, size_t len);

/* from NULL: as the kernel chooses. 0, or -1 as evt_udp_reply. keeps: to stays
 * as it is until on_datagrams returns; else it was checked. */
int evt_udp_put_(struct evt_udp_socket *, const struct sockaddr *to,
	socklen_t to_len, bool keeps, const struct sockaddr *from,
	const void *data, size_t len);

/* Sends what on_datagrams has gathered. */
void evt_udp_flush_(struct evt_udp_socket *);

/* There is room: sends what waits. */
void evt_udp_send_unsent_(struct evt_udp_socket *);

/* It is closed: what waits is lost, and counted. */
void evt_udp_drop_unsent_(struct evt_udp_socket *);

/* evt-udp-ours.c */

/* True if other can be reached at that address; sock remembers what it asks
 * the system for that. */
bool evt_udp_has_address_(struct evt_udp_socket *sock,
	const struct evt_udp_socket *other, const struct sockaddr *);
void evt_udp_forget_ours_(struct evt_udp_socket *);

/* evt-udp-token.c */

uint64_t evt_siphash_(const uint64_t key[2], const uint64_t *words, int nr);

/* evt-udp-known.c: senders that were validated, on one worker. */

/* An address and a port as numbers; IPv4 as ::ffff:192.0.2.1. */
struct evt_udp_who {
	uint64_t high;
	uint64_t low;
	uint32_t scope;
	uint32_t port;
};

/* False for an address that is not of the internet. */
bool evt_udp_who_(const struct sockaddr *, struct evt_udp_who *);

struct evt_known;

#define EVT_KNOWN_MAX 4096

struct evt_known *evt_known_new_(void);
void evt_known_free_(struct evt_known *);

/* Both return false for such an address. */
bool evt_known_add_(
	struct evt_known *, const struct sockaddr *, int64_t now_ms);
bool evt_known_has_(
	const struct evt_known *, const struct sockaddr *, int64_t now_ms);

#endif /* EVT_UDP_INTERNAL_H */
