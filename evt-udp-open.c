/*
 * evt-udp-open.c: opening the sockets of a udp: listener.
 *
 * They are one group, of SO_REUSEPORT: the kernel chooses among them by a hash
 * of both addresses, or by a small program in the classic BPF that hashes a
 * part of what was sent: see SO_ATTACH_REUSEPORT_CBPF in socket(7). That gives
 * the number of a socket in the order in which they were bound, which is that
 * of the workers.
 */
#include "evt-udp-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

struct evt_udp_socket *evt_udp_new_(
	struct evt_worker *worker, struct evt_udp_setup *setup)
{
	struct evt_udp_socket *sock = calloc(1, sizeof(*sock));

	if (!sock)
		return NULL;
	/* Not cleared: of most only the first bytes are ever touched. */
	sock->in.bytes = malloc((size_t)EVT_UDP_BATCH * EVT_UDP_STRIDE);
	if (!sock->in.bytes) {
		free(sock);
		return NULL;
	}
	sock->setup = setup;
	sock->worker = worker;
	sock->port = -1;
	atomic_init(&sock->fd, -1);
	return sock;
}

void evt_udp_free_(struct evt_udp_socket *sock)
{
	if (!sock)
		return;
	free(sock->in.bytes);
	free(sock);
}

/* The kernel may lack what makes it faster. */
static void look_at_kernel(struct evt_udp_socket *sock, int fd)
{
	const int none = 0;

	sock->joins_parts = setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &none,
				    sizeof(none)) == 0;
	sock->joins_below = SIZE_MAX;
}

static bool is_any(const union evt_udp_addr *addr)
{
	if (addr->sa.sa_family == AF_INET)
		return addr->in.sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&addr->in6.sin6_addr);
}

static int open_one(struct evt_udp_socket *sock, const struct sockaddr *addr,
	socklen_t len, const struct evt_net_listen *how, const char **step)
{
	int fd = evt_net_listen_(addr, len, how, step);
	int error;

	if (fd == -1)
		return -1;
	sock->bound_len = sizeof(sock->bound);
	*step = "getsockname";
	if (getsockname(fd, &sock->bound.sa, &sock->bound_len) == -1) {
		error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	sock->port = evt_net_addr_port_(&sock->bound.sa);
	sock->asks_local = is_any(&sock->bound);
	look_at_kernel(sock, fd);
	evt_net_text_(&sock->bound.sa, sock->where);
	evt_udp_prepare_(sock);
	atomic_store(&sock->fd, fd);
	return 0;
}

int evt_udp_open_(struct evt_udp_socket *const *sockets, int nr,
	const struct sockaddr *addr, socklen_t len, bool joined,
	const char **step)
{
	const struct evt_net_listen how = {.socktype = SOCK_DGRAM,
		.reuseport = nr > 1,
		.batches = true,
		.joined = joined};
	union evt_udp_addr all = {.sa.sa_family = AF_UNSPEC};
	int i;

	memcpy(&all, addr, len);
	for (i = 0; i < nr; i++) {
		if (open_one(sockets[i], &all.sa, len, &how, step) == -1) {
			int error = errno;

			while (i-- > 0)
				evt_udp_shut_(sockets[i]);
			errno = error;
			return -1;
		}
		/* Both families have the port in one place. */
		all.in.sin_port = htons((uint16_t)sockets[i]->port);
	}
	return 0;
}

void evt_udp_take_(struct evt_udp_socket *sock, int fd, const char *where)
{
	size_t len = strnlen(where, sizeof(sock->where) - 1);

	memcpy(sock->where, where, len);
	sock->where[len] = '\0';
	sock->bound_len = sizeof(sock->bound);
	if (getsockname(fd, &sock->bound.sa, &sock->bound_len) == -1)
		sock->bound_len = 0;
	evt_udp_prepare_(sock);
	atomic_store(&sock->fd, fd);
}

/* Steering */

struct program {
	uint16_t len;
	struct sock_filter code[7 * (EVT_UDP_KEY / 4 + 2) + 16];
};

static void add(struct program *program, int code, uint32_t k)
{
	program->code[program->len++] = (struct sock_filter){
		.code = (uint16_t)code, .k = k};
}

/*
 * X is the hash, and begins as a secret number: else who chooses his keys well
 * would have them all on one worker.
 *
 * What is too short to have the key gives a number that no socket has, and the
 * kernel chooses by its own hash; a load behind the end would give the first.
 */
static void write_program(
	struct program *program, int nr, uint32_t offset, uint32_t len)
{
	const int sizes[] = {BPF_W, BPF_H, BPF_B};
	const uint32_t widths[] = {4, 2, 1};
	uint32_t secret = 0;
	size_t i;

	(void)!getrandom(&secret, sizeof(secret), GRND_NONBLOCK);
	add(program, BPF_LD | BPF_W | BPF_LEN, 0);
	program->code[program->len++] = (struct sock_filter)BPF_JUMP(
		BPF_JMP | BPF_JGE | BPF_K, offset + len, 1, 0);
	add(program, BPF_RET | BPF_K, UINT32_MAX);
	add(program, BPF_LDX | BPF_W | BPF_IMM, secret);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (; len >= widths[i]; len -= widths[i]) {
			add(program, BPF_LD | BPF_ABS | sizes[i], offset);
			add(program, BPF_ALU | BPF_XOR | BPF_X, 0);
			add(program, BPF_ALU | BPF_MUL | BPF_K, 0x9e3779b1u);
			add(program, BPF_MISC | BPF_TAX, 0);
			add(program, BPF_ALU | BPF_RSH | BPF_K, 15);
			add(program, BPF_ALU | BPF_XOR | BPF_X, 0);
			add(program, BPF_MISC | BPF_TAX, 0);
			offset += widths[i];
		}
	add(program, BPF_MISC | BPF_TXA, 0);
	add(program, BPF_ALU | BPF_MUL | BPF_K, 0x85ebca6bu);
	add(program, BPF_ALU | BPF_RSH | BPF_K, 12);
	add(program, BPF_ALU | BPF_MOD | BPF_K, (uint32_t)nr);
	add(program, BPF_RET | BPF_A, 0);
}

int evt_udp_steer_(
	const struct evt_udp_socket *sock, int nr, int offset, int len)
{
	struct program program = {.len = 0};
	struct sock_fprog filter = {.filter = program.code};

	write_program(&program, nr, (uint32_t)offset, (uint32_t)len);
	filter.len = program.len;
	return setsockopt(atomic_load(&sock->fd), SOL_SOCKET,
		SO_ATTACH_REUSEPORT_CBPF, &filter, sizeof(filter));
}
