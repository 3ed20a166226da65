/*
 * udp-echoer: keeps an echo server of datagrams busy and says how fast it
 * answers. What echoer is for connections, and as cheap: one thread, one
 * recvmmsg and one sendmmsg for all that has come on a socket.
 *
 *	bench/udp-echoer PORT [-n SOCKETS] [-o OUTSTANDING] [-s SIZE] [-g]
 *		[-m DATAGRAMS | -i]
 *
 * Each socket has a port of its own, so that the kernel's hash spreads them
 * over the sockets of the server, and OUTSTANDING datagrams under way; what is
 * back is followed by as much again. With -g they are sent joined (UDP_SEGMENT)
 * and received so (UDP_GRO), and the next are not sent before all are back.
 *
 * A datagram begins with its number, the rest of it is the same in all. What
 * comes back another than it was sent is an error. When nothing has come for
 * 200 ms, what is under way is lost, counted and sent again; should it come
 * after all, it is ignored. Each run ends in a line:
 *
 *	messages=N seconds=S rate=R sent=N received=N lost=N late=N errors=N
 *		p50=T p90=T p99=T p999=T max=T
 *
 * in us, from sending a datagram (for the first time) to having it back. -i is
 * that of asker.h.
 */
#include "client.h"
#include "histogram.h"
#include "stats.h"

#include <getopt.h>
#include <limits.h>
#include <netinet/udp.h>

#define EVENTS      256
#define BATCH       64
#define MAX_JOINED  32 /* datagrams in one call: of 1,200 B 54 would fit */
#define LARGEST     65507
#define LOST_MS     200
#define MAX_RESENDS 50 /* without anything between: the server hangs */
#define ROOM        65536
#define RCVBUF      1048576
#define NUMBER      sizeof(uint64_t)

/* One datagram under way, or none: then its number is that of the last. */
struct slot {
	char *data;
	uint64_t number; /* the slot's own, plus a multiple of OUTSTANDING */
	int64_t sent;
	int under_way;
};

struct peer {
	int fd;
	int under_way;
	struct slot *slots; /* OUTSTANDING of them */
	int *due;           /* slots to be sent */
	int nr_due;
};

struct control {
	_Alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))];
};

static struct {
	int port, peers, outstanding, size, joined, told;
	long messages;
} opt = {.peers = 64, .outstanding = 1, .size = 64, .messages = 100000};

static struct peer *peers;
static int ready; /* its epoll instance */
static char pattern[LARGEST];

static struct mmsghdr arrived[BATCH];
static struct iovec in_parts[BATCH];
static struct control in_control[BATCH];
static struct mmsghdr out[BATCH];
static struct iovec out_parts[BATCH][MAX_JOINED];
static struct control out_control[BATCH];

/* Of one run, but for the errors. */
static struct histogram times;
static long left;      /* to be started */
static long under_way; /* started and not yet back */
static long sent, received, lost, late;
static long errors;

/* Sending */

static void join(struct msghdr *msg, struct control *control)
{
	uint16_t len = (uint16_t)opt.size;
	struct cmsghdr *segment;

	msg->msg_control = control->room;
	msg->msg_controllen = CMSG_SPACE(sizeof(len));
	segment = CMSG_FIRSTHDR(msg);
	segment->cmsg_level = SOL_UDP;
	segment->cmsg_type = UDP_SEGMENT;
	segment->cmsg_len = CMSG_LEN(sizeof(len));
	memcpy(CMSG_DATA(segment), &len, sizeof(len));
}

/* Of the due ones, from first on, as many as fit into one call: how many. */
static int fill_message(struct peer *peer, int first, int number)
{
	struct msghdr *msg = &out[number].msg_hdr;
	int most = opt.joined ? MAX_JOINED : 1;
	int count = 0;

	while (count < most && first + count < peer->nr_due &&
		(count + 1) * opt.size <= LARGEST) {
		const struct slot *slot =
			&peer->slots[peer->due[first + count]];

		out_parts[number][count++] = (struct iovec){
			.iov_base = slot->data, .iov_len = (size_t)opt.size};
	}
	*msg = (struct msghdr){
		.msg_iov = out_parts[number], .msg_iovlen = (size_t)count};
	if (count > 1)
		join(msg, &out_control[number]);
	return count;
}

/* What the kernel has no room for counts as sent: it is lost then. */
static void send_due(struct peer *peer)
{
	int done = 0;

	while (done < peer->nr_due) {
		int nr = 0;
		int n = 0;

		while (nr < BATCH && done < peer->nr_due)
			done += fill_message(peer, done, nr++);
		for (int at = 0; at < nr; at += n) {
			n = sendmmsg(peer->fd, out + at, (unsigned)(nr - at),
				MSG_NOSIGNAL);
			if (n == -1 && errno != EAGAIN && errno != ENOBUFS)
				die("sendmmsg");
			if (n == -1)
				break;
		}
	}
	sent += done;
	peer->nr_due = 0;
}

static void start_slot(struct peer *peer, int index, int64_t now)
{
	struct slot *slot = &peer->slots[index];

	slot->number += (uint64_t)opt.outstanding;
	memcpy(slot->data, &slot->number, NUMBER);
	slot->sent = now;
	slot->under_way = 1;
	peer->due[peer->nr_due++] = index;
	peer->under_way++;
	under_way++;
	left--;
}

static void send_again(struct peer *peer)
{
	for (int i = 0; i < opt.outstanding; i++) {
		if (peer->slots[i].under_way)
			peer->due[peer->nr_due++] = i;
	}
	lost += peer->nr_due;
	send_due(peer);
}

/* Receiving */

static void complain(const char *what)
{
	if (errors++ == 0)
		fprintf(stderr, "udp-echoer: %s\n", what);
}

static void take(struct peer *peer, const char *data, size_t len, int64_t now)
{
	struct slot *slot;
	uint64_t number;
	int index;

	if (len != (size_t)opt.size) {
		complain("an answer of another length");
		return;
	}
	memcpy(&number, data, NUMBER);
	index = (int)(number % (uint64_t)opt.outstanding);
	slot = &peer->slots[index];
	if (number > slot->number ||
		memcmp(data + NUMBER, pattern, len - NUMBER) != 0) {
		complain("an answer that was not sent");
		return;
	}
	if (number != slot->number || !slot->under_way) {
		late++;
		return;
	}
	received++;
	histogram_add(&times, now - slot->sent);
	slot->under_way = 0;
	peer->under_way--;
	under_way--;
	if (!opt.joined && left > 0)
		start_slot(peer, index, now);
}

/* How long each of the joined ones is. */
static size_t segment_of(struct msghdr *msg, size_t len)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(msg);
	int segment;

	if (!c || c->cmsg_level != SOL_UDP || c->cmsg_type != UDP_GRO)
		return len;
	memcpy(&segment, CMSG_DATA(c), sizeof(segment));
	return segment > 0 ? (size_t)segment : len;
}

static void take_message(struct peer *peer, int i, int64_t now)
{
	const char *data = in_parts[i].iov_base;
	size_t len = arrived[i].msg_len;
	size_t segment = segment_of(&arrived[i].msg_hdr, len);

	for (size_t at = 0; at < len; at += segment)
		take(peer, data + at, len - at < segment ? len - at : segment,
			now);
	arrived[i].msg_hdr.msg_controllen = opt.joined ? sizeof(*in_control)
						       : 0;
}

static void start_all(struct peer *peer, int64_t now)
{
	for (int i = 0; i < opt.outstanding && left > 0; i++)
		start_slot(peer, i, now);
}

static void receive(struct peer *peer)
{
	int n = recvmmsg(peer->fd, arrived, BATCH, MSG_DONTWAIT, NULL);
	int64_t now = now_ns();

	if (n == -1 && errno == EAGAIN)
		return;
	if (n == -1)
		die("recvmmsg");
	for (int i = 0; i < n; i++)
		take_message(peer, i, now);
	if (opt.joined && peer->under_way == 0)
		start_all(peer, now);
	if (peer->nr_due > 0)
		send_due(peer);
}

/* Runs */

static void wait_for_all(void)
{
	struct epoll_event events[EVENTS];
	int resends = 0;

	while (under_way > 0) {
		long before = received;
		int n = epoll_wait(ready, events, EVENTS, LOST_MS);

		for (int i = 0; i < n; i++)
			receive(events[i].data.ptr);
		if (received > before)
			resends = 0;
		if (n != 0)
			continue;
		if (resends++ == MAX_RESENDS) {
			errno = ETIMEDOUT;
			die("no answers");
		}
		for (int i = 0; i < opt.peers; i++)
			send_again(&peers[i]);
	}
}

/* Prints the line, unless it is the first that greets. */
static void run(long messages, int greets)
{
	int64_t begin = now_ns();
	double took;

	memset(&times, 0, sizeof(times));
	left = messages;
	sent = received = lost = late = 0;
	for (int i = 0; i < opt.peers; i++) {
		start_all(&peers[i], now_ns());
		send_due(&peers[i]);
	}
	wait_for_all();
	if (greets)
		return;
	took = (double)(now_ns() - begin) / 1e9;
	printf("messages=%lu seconds=%.4f rate=%.0f sent=%ld received=%ld "
	       "lost=%ld late=%ld errors=%ld p50=%.1f p90=%.1f p99=%.1f "
	       "p999=%.1f max=%.1f\n",
		(unsigned long)times.count, took, (double)times.count / took,
		sent, received, lost, late, errors, histogram_us(&times, 0.5),
		histogram_us(&times, 0.9), histogram_us(&times, 0.99),
		histogram_us(&times, 0.999), histogram_max_us(&times));
	fflush(stdout);
}

/* Setting up */

static void *or_die(void *memory)
{
	if (!memory)
		die("calloc");
	return memory;
}

static void open_peer(struct peer *peer)
{
	struct sockaddr_in server = {.sin_family = AF_INET};
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
	size_t count = (size_t)opt.outstanding;

	server.sin_port = htons((in_port_t)opt.port);
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	peer->fd = socket(
		AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (peer->fd == -1)
		die("socket");
	set_option(peer->fd, SOL_SOCKET, SO_RCVBUF, RCVBUF);
	if (opt.joined)
		set_option(peer->fd, SOL_UDP, UDP_GRO, 1);
	if (connect(peer->fd, (struct sockaddr *)&server, sizeof(server)) == -1)
		die("connect");
	if (epoll_ctl(ready, EPOLL_CTL_ADD, peer->fd, &event) == -1)
		die("epoll_ctl");
	peer->slots = or_die(calloc(count, sizeof(*peer->slots)));
	peer->due = or_die(calloc(count, sizeof(*peer->due)));
	for (size_t i = 0; i < count; i++) {
		peer->slots[i].number = i;
		peer->slots[i].data = or_die(malloc((size_t)opt.size));
		memcpy(peer->slots[i].data + NUMBER, pattern,
			(size_t)opt.size - NUMBER);
	}
}

static void open_all(void)
{
	srandom(1);
	for (int i = 0; i < LARGEST; i++)
		pattern[i] = (char)random();
	for (int i = 0; i < BATCH; i++) {
		in_parts[i] = (struct iovec){
			.iov_base = or_die(malloc(ROOM)), .iov_len = ROOM};
		arrived[i].msg_hdr = (struct msghdr){.msg_iov = &in_parts[i],
			.msg_iovlen = 1,
			.msg_control = &in_control[i],
			.msg_controllen = opt.joined ? sizeof(*in_control) : 0};
	}
	peers = or_die(calloc((size_t)opt.peers, sizeof(*peers)));
	ready = epoll_create1(EPOLL_CLOEXEC);
	if (ready == -1)
		die("epoll_create1");
	for (int i = 0; i < opt.peers; i++)
		open_peer(&peers[i]);
}

/* 0, or -1: wrong usage. */
static int read_options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "n:o:s:m:gi")) != -1) {
		if (c == 'n')
			opt.peers = atoi(optarg);
		else if (c == 'o')
			opt.outstanding = atoi(optarg);
		else if (c == 's')
			opt.size = atoi(optarg);
		else if (c == 'm')
			opt.messages = atol(optarg);
		else if (c == 'g')
			opt.joined = 1;
		else if (c == 'i')
			opt.told = 1;
		else
			return -1;
	}
	opt.port = argument(argc, argv, optind, 0);
	return opt.port > 0 && opt.peers > 0 && opt.outstanding > 0 &&
			opt.size >= (int)NUMBER && opt.size <= LARGEST
		? 0
		: -1;
}

int main(int argc, char **argv)
{
	char line[32];

	if (read_options(argc, argv) == -1) {
		fputs("usage: bench/udp-echoer PORT [-n SOCKETS] "
		      "[-o OUTSTANDING] [-s SIZE] [-g]\n"
		      "       [-m DATAGRAMS | -i]\n",
			stderr);
		return 2;
	}
	raise_descriptor_limit();
	open_all();
	run((long)opt.peers * opt.outstanding, 1);
	if (!opt.told) {
		run(opt.messages, 0);
		return errors > 0;
	}
	printf("connected=%d\n", opt.peers);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		run(atol(line), 0);
	return errors > 0;
}
