/*
 * bare-udp.c: an echo server of datagrams on bare recvmmsg(2) and sendmmsg(2),
 * without any library: the limit to compare with. Each thread has a socket of
 * its own on one port (SO_REUSEPORT) and answers up to 64 datagrams at a time.
 *
 *	bench/bare-udp PORT [THREADS [-b | -p | -g]]
 *
 * A thread waits in epoll_wait for its socket and for the end, as a server does
 * that can be stopped; with -b in recvmmsg alone, which nothing ends. It serves
 * 127.0.0.1; with -p all addresses of both families, answering from the one
 * that was asked (IPV6_PKTINFO). With -g what the kernel has joined of one
 * sender is received at once and answered so (UDP_GRO, UDP_SEGMENT).
 *
 * What cannot be sent is lost.
 */
#include "common.h"

#include <netinet/udp.h>
#include <sys/eventfd.h>

#define BATCH       64
#define MAX_THREADS 64
#define RCVBUF      1048576
#define ROOM        2048
#define ROOM_JOINED 65536

/* For one kind of control data, on its way in or out. */
struct control {
	_Alignas(struct cmsghdr) char room[CMSG_SPACE(
		sizeof(struct in6_pktinfo))];
};

static struct {
	int blocks, any_address, joins;
} opt;

static int ends; /* an eventfd: readable when the threads are to end */

struct batch {
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	struct sockaddr_in6 senders[BATCH];
	struct control control[BATCH];
	size_t room;
};

/* Everything that recvmmsg has changed, or an answer. */
static void reset(struct batch *batch, int i)
{
	struct msghdr *msg = &batch->messages[i].msg_hdr;
	int has_control = opt.any_address || opt.joins;

	batch->parts[i].iov_len = batch->room;
	msg->msg_namelen = sizeof(batch->senders[i]);
	msg->msg_control = has_control ? &batch->control[i] : NULL;
	msg->msg_controllen = has_control ? sizeof(batch->control[i]) : 0;
}

static struct batch *new_batch(void)
{
	struct batch *batch = calloc(1, sizeof(*batch));
	char *bytes;

	if (!batch)
		die("calloc");
	batch->room = opt.joins ? ROOM_JOINED : ROOM;
	bytes = malloc(BATCH * batch->room);
	if (!bytes)
		die("malloc");
	for (int i = 0; i < BATCH; i++) {
		struct msghdr *msg = &batch->messages[i].msg_hdr;

		batch->parts[i].iov_base = bytes + (size_t)i * batch->room;
		msg->msg_iov = &batch->parts[i];
		msg->msg_iovlen = 1;
		msg->msg_name = &batch->senders[i];
		reset(batch, i);
	}
	return batch;
}

/* The same address, of whatever interface the route says. */
static void answer_from(struct cmsghdr *control)
{
	struct in6_pktinfo info;

	memcpy(&info, CMSG_DATA(control), sizeof(info));
	info.ipi6_ifindex = 0;
	memcpy(CMSG_DATA(control), &info, sizeof(info));
}

static void answer_joined(struct msghdr *msg, struct cmsghdr *control)
{
	int size;
	uint16_t segment;

	memcpy(&size, CMSG_DATA(control), sizeof(size));
	segment = (uint16_t)size;
	control->cmsg_type = UDP_SEGMENT;
	control->cmsg_len = CMSG_LEN(sizeof(segment));
	memcpy(CMSG_DATA(control), &segment, sizeof(segment));
	msg->msg_controllen = CMSG_SPACE(sizeof(segment));
}

/* What came becomes the answer. */
static void turn_round(struct batch *batch, int i)
{
	struct msghdr *msg = &batch->messages[i].msg_hdr;
	struct cmsghdr *control = CMSG_FIRSTHDR(msg);

	batch->parts[i].iov_len = batch->messages[i].msg_len;
	if (control && opt.any_address)
		answer_from(control);
	else if (control)
		answer_joined(msg, control);
}

/* Returns whether there may be more. */
static int serve_batch(int fd, struct batch *batch)
{
	int n = recvmmsg(fd, batch->messages, BATCH,
		opt.blocks ? MSG_WAITFORONE : MSG_DONTWAIT, NULL);
	int sent = 0;

	for (int i = 0; i < n; i++)
		turn_round(batch, i);
	while (sent < n) {
		int some = sendmmsg(fd, batch->messages + sent,
			(unsigned)(n - sent), MSG_DONTWAIT);

		sent += some > 0 ? some : 1;
	}
	for (int i = 0; i < n; i++)
		reset(batch, i);
	return n == BATCH;
}

static void *run(void *arg)
{
	int fd = *(const int *)arg;
	struct batch *batch = new_batch();
	struct epoll_event end = {.events = EPOLLIN, .data.u64 = 1};
	struct epoll_event event;
	int epoll;

	while (opt.blocks)
		serve_batch(fd, batch);
	epoll = epoll_of(fd);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, ends, &end) == -1)
		die("epoll_ctl");
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		if (event.data.u64 == end.data.u64)
			break;
		while (serve_batch(fd, batch))
			;
	}
	free(batch->parts[0].iov_base);
	free(batch);
	close(epoll);
	return NULL;
}

/* Setting up */

static void bind_to(int fd, int port)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6};
	struct sockaddr_in local = {.sin_family = AF_INET};
	const struct sockaddr *addr = (const struct sockaddr *)&local;
	socklen_t len = sizeof(local);

	any.sin6_port = local.sin_port = htons((in_port_t)port);
	local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (opt.any_address) {
		addr = (const struct sockaddr *)&any;
		len = sizeof(any);
	}
	if (bind(fd, addr, len) == -1)
		die("bind");
}

static int open_on(int port)
{
	int family = opt.any_address ? AF_INET6 : AF_INET;
	int flags = SOCK_CLOEXEC | (opt.blocks ? 0 : SOCK_NONBLOCK);
	int fd = socket(family, SOCK_DGRAM | flags, 0);

	if (fd == -1)
		die("socket");
	set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	set_option(fd, SOL_SOCKET, SO_RCVBUF, RCVBUF);
	if (opt.any_address) {
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
		set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	}
	if (opt.joins)
		set_option(fd, SOL_UDP, UDP_GRO, 1);
	bind_to(fd, port);
	return fd;
}

static int port_of(int fd)
{
	struct sockaddr_in6 addr = {.sin6_port = 0};
	socklen_t len = sizeof(addr);

	/* Both families have it in one place. */
	if (getsockname(fd, (struct sockaddr *)&addr, &len) == -1)
		die("getsockname");
	return ntohs(addr.sin6_port);
}

static void serve_until_signal(int port, int threads)
{
	pthread_t ids[MAX_THREADS];
	int fds[MAX_THREADS];
	sigset_t stop;

	block_signals(&stop);
	ends = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ends == -1)
		die("eventfd");
	for (int i = 0; i < threads; i++) {
		fds[i] = open_on(port);
		port = port_of(fds[i]);
	}
	for (int i = 0; i < threads; i++) {
		if (pthread_create(&ids[i], NULL, run, &fds[i]) != 0)
			die("pthread_create");
	}
	print_port(fds[0]);
	wait_for_end(&stop);
	if (opt.blocks)
		exit(0);
	eventfd_write(ends, 1);
	for (int i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
}

int main(int argc, char **argv)
{
	const char *option = argc > 3 ? argv[3] : "";
	int threads = argument(argc, argv, 2, 2);

	opt.blocks = strcmp(option, "-b") == 0;
	opt.any_address = strcmp(option, "-p") == 0;
	opt.joins = strcmp(option, "-g") == 0;
	if (argc < 2 || threads < 1 || threads > MAX_THREADS ||
		argc > 3 + opt.blocks + opt.any_address + opt.joins) {
		fprintf(stderr,
			"usage: bench/bare-udp PORT "
			"[THREADS [-b | -p | -g]]\n");
		return 2;
	}
	serve_until_signal(argument(argc, argv, 1, 0), threads);
	return 0;
}
