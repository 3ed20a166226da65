/*
 * evt-net.c: what the library asks of the system's sockets, each question one
 * function. Every descriptor is born close-on-exec: setting the flag afterwards
 * leaves a moment in which another thread's fork and exec inherit it.
 */
#include "evt-net-internal.h"
#include "evt-log-internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PATH_TEXT  512       /* the longest path looked at below /sys */
#define MAX_CPUS   (1 << 20) /* more than any kernel has */
#define MAX_ERRORS 64        /* of earlier answers, passed over in one call */
#define UDP_BUFFER (1 << 20) /* a burst of small datagrams: 1,300 */

/* Addresses */

const char *evt_net_text_(const struct sockaddr *addr, char text[EVT_NET_TEXT])
{
	char ip[INET6_ADDRSTRLEN];
	struct sockaddr_in6 in6;
	struct sockaddr_in in;

	if (addr->sa_family == AF_INET) {
		memcpy(&in, addr, sizeof(in));
		inet_ntop(AF_INET, &in.sin_addr, ip, sizeof(ip));
		snprintf(text, EVT_NET_TEXT, "%s:%d", ip, ntohs(in.sin_port));
	} else if (addr->sa_family == AF_INET6) {
		memcpy(&in6, addr, sizeof(in6));
		inet_ntop(AF_INET6, &in6.sin6_addr, ip, sizeof(ip));
		snprintf(text, EVT_NET_TEXT, "[%s]:%d", ip,
			ntohs(in6.sin6_port));
	} else {
		snprintf(text, EVT_NET_TEXT, "an address of family %d",
			addr->sa_family);
	}
	return text;
}

socklen_t evt_net_addr_len_(int family)
{
	if (family == AF_INET)
		return sizeof(struct sockaddr_in);
	if (family == AF_INET6)
		return sizeof(struct sockaddr_in6);
	return 0;
}

int evt_net_addr_port_(const struct sockaddr *addr)
{
	/* Both families have the port in one place. */
	struct sockaddr_in in;

	if (evt_net_addr_len_(addr->sa_family) == 0)
		return -1;
	memcpy(&in, addr, sizeof(in));
	return ntohs(in.sin_port);
}

int evt_net_port_(int fd)
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);

	if (getsockname(fd, (struct sockaddr *)&addr, &len) == -1)
		return -1;
	return evt_net_addr_port_((struct sockaddr *)&addr);
}

static int errno_of_gai(int result)
{
	switch (result) {
	case EAI_MEMORY:
		return ENOMEM;
	case EAI_NONAME:
	case EAI_NODATA:
		return ENOENT;
	case EAI_AGAIN:
		return ETIMEDOUT;
	case EAI_FAMILY:
	case EAI_ADDRFAMILY:
		return EAFNOSUPPORT;
	case EAI_SERVICE:
	case EAI_SOCKTYPE:
	case EAI_BADFLAGS:
		return EINVAL;
	default:
		return EIO;
	}
}

int evt_net_resolve_(const char *host, int port, int socktype, int family,
	int flags, struct addrinfo **list)
{
	const char *name = host ? host : "the local address";
	struct addrinfo hints = {.ai_family = family,
		.ai_socktype = socktype,
		.ai_flags = flags | AI_NUMERICSERV};
	char service[12];
	int error;
	int result;

	/* glibc takes 70000 for 4464. */
	if (port < 0 || port > 65535)
		return evt_fail_(EINVAL, "port %d of %s", port, name);
	snprintf(service, sizeof(service), "%d", port);
	*list = NULL;
	result = getaddrinfo(host, service, &hints, list);
	if (result == EAI_SYSTEM)
		return evt_fault_(errno, "resolving %s", name);
	if (result != 0) {
		error = errno_of_gai(result);
		evt_log_(EVT_LOG_ERROR, "resolving %s: %s", name,
			gai_strerror(result));
		errno = error;
		return -1;
	}
	if (!*list)
		return evt_fail_(EAFNOSUPPORT, "resolving %s", name);
	return 0;
}

bool evt_net_has_ipv6_(void)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6};
	int error = errno;
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool missing;

	missing = fd == -1 ||
		bind(fd, (struct sockaddr *)&any, sizeof(any)) == -1;
	/* Any other failure says nothing about IPv6: binding will tell. */
	missing = missing && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL);
	if (fd != -1)
		close(fd);
	errno = error;
	return !missing;
}

/* Sockets */

static void close_quietly(int fd)
{
	int error = errno;

	close(fd);
	errno = error;
}

int evt_net_above_stdio_(int fd)
{
	int copy;

	if (fd == -1 || fd > STDERR_FILENO)
		return fd;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close_quietly(fd);
	return copy;
}

static int new_socket(int family, int socktype)
{
	return evt_net_above_stdio_(
		socket(family, socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value));
}

/* So that a peer that is gone without a word (a cable, a power cut) is noticed
 * after five minutes and then two: see tcp(7). */
static int set_keepalive(int fd)
{
	if (set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1) == -1 ||
		set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 300) == -1 ||
		set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 30) == -1)
		return -1;
	return set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

/* At least so much, as far as the system allows. */
static void widen(int fd, int name)
{
	socklen_t len = sizeof(int);
	int now = 0;

	/* What is told is twice of what can be asked for: see socket(7). */
	if (getsockopt(fd, SOL_SOCKET, name, &now, &len) == 0 &&
		now / 2 < UDP_BUFFER)
		(void)set_option(fd, SOL_SOCKET, name, UDP_BUFFER);
}

static bool is_any(const struct sockaddr *addr)
{
	struct sockaddr_in6 in6;
	struct sockaddr_in in;

	if (addr->sa_family == AF_INET) {
		memcpy(&in, addr, sizeof(in));
		return in.sin_addr.s_addr == htonl(INADDR_ANY);
	}
	memcpy(&in6, addr, sizeof(in6));
	return IN6_IS_ADDR_UNSPECIFIED(&in6.sin6_addr);
}

/*
 * Each datagram says which address was asked, where that can be several, and
 * how many the kernel has dropped; what became of answers is told.
 */
static int set_batch_options(int fd, const struct sockaddr *addr, bool joined)
{
	bool ipv6 = addr->sa_family == AF_INET6;

	if (is_any(addr) &&
		(ipv6 ? set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
		      : set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)) == -1)
		return -1;
	if (set_option(fd, SOL_SOCKET, SO_RXQ_OVFL, 1) == -1 ||
		set_option(fd, IPPROTO_IP, IP_RECVERR, 1) == -1 ||
		(ipv6 && set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1) == -1))
		return -1;
	if (joined)
		(void)set_option(fd, IPPROTO_UDP, UDP_GRO, 1);
	widen(fd, SO_RCVBUF);
	widen(fd, SO_SNDBUF);
	return 0;
}

/*
 * IPV6_V6ONLY: the system's default (bindv6only) must not decide who is served.
 * SO_REUSEADDR: a stopped server's port is free at once. For UDP it would
 * let another process of the same user take the datagrams, so not there.
 * TCP_NODELAY and keepalive are inherited by what is accepted, and so cost no
 * call there.
 */
static int set_server_options(
	int fd, const struct sockaddr *addr, const struct evt_net_listen *how)
{
	if (addr->sa_family == AF_INET6 &&
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0) == -1)
		return -1;
	if (how->reuseport && set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) == -1)
		return -1;
	if (how->batches)
		return set_batch_options(fd, addr, how->joined);
	if (how->socktype != SOCK_STREAM)
		return 0;
	if (set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) == -1)
		return -1;
	if (how->keepalive && set_keepalive(fd) == -1)
		return -1;
	if (how->defer_s > 0 &&
		set_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, how->defer_s) ==
			-1)
		return -1;
	return set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

int evt_net_listen_(const struct sockaddr *addr, socklen_t len,
	const struct evt_net_listen *how, const char **step)
{
	int fd;

	*step = "socket";
	fd = new_socket(addr->sa_family, how->socktype);
	if (fd == -1)
		return -1;
	*step = "setsockopt";
	if (set_server_options(fd, addr, how) == -1)
		goto failed;
	*step = "bind";
	if (bind(fd, addr, len) == -1)
		goto failed;
	*step = "listen";
	/* The kernel lowers a longer backlog to net.core.somaxconn. */
	if (how->socktype == SOCK_STREAM && !how->bound_only &&
		listen(fd, how->backlog) == -1)
		goto failed;
	return fd;
failed:
	close_quietly(fd);
	return -1;
}

int evt_net_bind_(const struct sockaddr *addr, socklen_t len, int socktype,
	const char **step)
{
	const struct evt_net_listen how = {
		.socktype = socktype, .backlog = INT_MAX};

	return evt_net_listen_(addr, len, &how, step);
}

int evt_net_client_socket_(int family)
{
	int fd = new_socket(family, SOCK_STREAM);

	if (fd == -1 || family == AF_UNIX)
		return fd;
	if (set_keepalive(fd) == 0 &&
		set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) == 0)
		return fd;
	close_quietly(fd);
	return -1;
}

/* The one or two numbers that a file of the kernel's begins with: how many. */
static int read_numbers(const char *path, long long number[2])
{
	FILE *file = fopen(path, "re");
	char line[64];
	int found = 0;

	if (!file)
		return 0;
	if (fgets(line, sizeof(line), file)) {
		char *from = line;
		char *end;

		for (; found < 2; found++, from = end) {
			number[found] = strtoll(from, &end, 10);
			if (end == from)
				break;
		}
	}
	fclose(file);
	return found;
}

int evt_net_backlog_limit_(void)
{
	long long number[2];
	int error = errno;
	int found = read_numbers("/proc/sys/net/core/somaxconn", number);

	errno = error;
	return found == 1 && number[0] <= INT_MAX ? (int)number[0] : -1;
}

/*
 * A kernel may lack accept4(2), and a seccomp filter forbid it: EPERM, which is
 * also what a firewall says of one client, and then this is the next try.
 * The flag comes a moment late; a copy that is born with it would need a
 * second descriptor.
 */
static int accept_without_accept4(
	int fd, bool nonblocking, struct sockaddr *peer, socklen_t *len)
{
	int conn = accept(fd, peer, peer ? len : NULL);

	if (conn != -1)
		(void)fcntl(conn, F_SETFD, FD_CLOEXEC); /* lint: no accept4 */
	if (conn != -1 && nonblocking)
		(void)evt_net_set_nonblocking_(conn, true);
	return conn;
}

int evt_net_accept_(
	int fd, bool nonblocking, struct sockaddr_storage *peer, socklen_t *len)
{
	struct sockaddr *addr = (struct sockaddr *)peer;
	socklen_t none = 0;
	int flags = SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
	int conn;

	if (!peer)
		len = &none;
	do {
		*len = peer ? sizeof(*peer) : 0;
		conn = accept4(fd, addr, peer ? len : NULL, flags);
		if (conn == -1 && (errno == ENOSYS || errno == EPERM))
			conn = accept_without_accept4(
				fd, nonblocking, addr, len);
	} while (conn == -1 && errno == EINTR);
	return evt_net_above_stdio_(conn);
}

/*
 * An answer that met a closed port comes back as an error of the next call,
 * see udp(7); that is none of this datagram's business.
 */
ssize_t evt_net_receive_(int fd, void *buf, size_t size, int flags,
	struct evt_net_datagram *datagram)
{
	struct iovec part = {.iov_base = buf, .iov_len = size};
	struct msghdr msg = {
		.msg_name = &datagram->peer, .msg_iov = &part, .msg_iovlen = 1};
	ssize_t len = -1;
	int tries;

	memset(datagram, 0, sizeof(*datagram));
	errno = EAGAIN;
	for (tries = 0; len == -1 && tries < MAX_ERRORS; tries++) {
		do {
			msg.msg_namelen = sizeof(datagram->peer);
			len = recvmsg(fd, &msg, flags);
		} while (len == -1 && errno == EINTR);
		if (len != -1)
			break;
		if (errno != ECONNREFUSED && errno != EHOSTUNREACH &&
			errno != ENETUNREACH)
			return -1;
		datagram->errors++;
		errno = EAGAIN;
	}
	if (len != -1) {
		datagram->peer_len = msg.msg_namelen;
		datagram->truncated = msg.msg_flags & MSG_TRUNC;
	}
	return len;
}

/* Waits for a connect(2) that goes on by itself: 0, or -1 and its error. */
static int await_connected(int fd, int timeout_ms)
{
	struct pollfd out = {.fd = fd, .events = POLLOUT};
	int64_t deadline = evt_now_ms_() + timeout_ms;
	socklen_t len = sizeof(int);
	int64_t left;
	int error;
	int ready;

	do {
		left = deadline - evt_now_ms_();
		ready = poll(&out, 1, left > 0 ? (int)left : 0);
	} while (ready == -1 && errno == EINTR);
	if (ready == 0)
		errno = ETIMEDOUT;
	if (ready != 1)
		return -1;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1)
		return -1;
	errno = error;
	return error == 0 ? 0 : -1;
}

int evt_net_connect_(const struct sockaddr *addr, socklen_t len, int socktype,
	int timeout_ms)
{
	int fd = new_socket(addr->sa_family, socktype);

	if (fd == -1)
		return -1;
	/* An interrupted connect(2) goes on too: see its man page. */
	if (connect(fd, addr, len) == -1 && errno != EINPROGRESS &&
		errno != EINTR)
		goto failed;
	if (await_connected(fd, timeout_ms) == -1)
		goto failed;
	if (evt_net_set_nonblocking_(fd, false) == -1)
		goto failed;
	return fd;
failed:
	close_quietly(fd);
	return -1;
}

int evt_net_set_nonblocking_(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags == -1)
		return -1;
	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) == -1 ? -1 : 0;
}

/* CPUs */

/* How many the affinity mask allows; a mask may be longer than a cpu_set_t. */
static int affinity_cpus(void)
{
	int count = 0;
	size_t bits;

	for (bits = CPU_SETSIZE; count == 0 && bits <= MAX_CPUS; bits *= 2) {
		size_t size = CPU_ALLOC_SIZE(bits);
		cpu_set_t *set = CPU_ALLOC(bits);

		if (!set)
			break;
		if (sched_getaffinity(0, size, set) == 0)
			count = CPU_COUNT_S(size, set);
		CPU_FREE(set);
	}
	if (count == 0)
		count = (int)sysconf(_SC_NPROCESSORS_ONLN);
	return count > 0 ? count : 1;
}

/* The whole CPUs that a quota is worth, rounded up; INT_MAX without one. */
static int quota_cpus(long long quota_us, long long period_us)
{
	if (quota_us <= 0 || period_us <= 0 || quota_us / period_us >= MAX_CPUS)
		return INT_MAX;
	return (int)(quota_us / period_us + (quota_us % period_us != 0));
}

/* The quota of the cgroup in folder: cpu.max, or the two files of version 1. */
static int cgroup_cpus(const char *folder)
{
	char path[PATH_TEXT + 24];
	long long quota[2];
	long long period[2];

	snprintf(path, sizeof(path), "%s/cpu.max", folder);
	if (read_numbers(path, quota) == 2)
		return quota_cpus(quota[0], quota[1]);
	snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", folder);
	if (read_numbers(path, quota) != 1)
		return INT_MAX;
	snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", folder);
	if (read_numbers(path, period) != 1)
		return INT_MAX;
	return quota_cpus(quota[0], period[0]);
}

/* The smallest quota on the way from the group of path up to that of mount. */
static int smallest_quota(const char *mount, const char *path)
{
	char folder[PATH_TEXT];
	size_t mount_len = strlen(mount);
	int cpus = INT_MAX;
	char *slash;

	if (snprintf(folder, sizeof(folder), "%s%s", mount, path) >=
		(int)sizeof(folder))
		return INT_MAX;
	for (;;) {
		int here = cgroup_cpus(folder);

		cpus = here < cpus ? here : cpus;
		slash = strrchr(folder, '/');
		if (!slash || (size_t)(slash - folder) < mount_len)
			return cpus;
		*slash = '\0';
	}
}

/*
 * A line of /proc/self/cgroup is "number:controllers:path": "0::/a/b" in
 * version 2, "4:cpu,cpuacct:/a/b" in version 1; see cgroups(7).
 */
static int line_quota(const char *root, char *line)
{
	char mount[PATH_TEXT];
	char *controllers = strchr(line, ':');
	char *path = controllers ? strchr(controllers + 1, ':') : NULL;
	bool version_1;

	if (!path)
		return INT_MAX;
	*path++ = '\0';
	path[strcspn(path, "\n")] = '\0';
	version_1 = controllers[1] != '\0';
	if (version_1 &&
		(strncmp(controllers + 1, "cpu", 3) != 0 ||
			strncmp(controllers + 1, "cpuset", 6) == 0))
		return INT_MAX;
	if (snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup%s", root,
		    version_1 ? "/cpu" : "") >= (int)sizeof(mount))
		return INT_MAX;
	return smallest_quota(mount, path);
}

int evt_net_cpus_(const char *root)
{
	char path[PATH_TEXT];
	char line[PATH_TEXT];
	int error = errno;
	int cpus = affinity_cpus();
	FILE *file;

	snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		int quota = line_quota(root, line);

		cpus = quota < cpus ? quota : cpus;
	}
	if (file)
		fclose(file);
	errno = error;
	return cpus > 0 ? cpus : 1;
}
