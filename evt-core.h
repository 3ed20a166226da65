/*
 * evt-core.h: helpers for addresses, connections and errors, beside the server
 * of evt-server.h, whose promises hold here too. Those that speak of "the
 * server's" address need evt_server_init, but no running server.
 */
#ifndef EVT_CORE_H
#define EVT_CORE_H

#include "evt-server.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The server's address; the library's, until stop or another init. NULL
 * before init. */
struct addrinfo *get_server_addrinfo(void);

/*
 * getaddrinfo(3) for host (NULL: the passive, any-address list) and port. The
 * caller frees the list with freeaddrinfo(3). NULL on failure: EINVAL (port,
 * socktype), ENOMEM, ENOENT (no such name), ETIMEDOUT (no answer for now), EIO
 * (no answer at all), EAFNOSUPPORT; the line has the text of gai_strerror(3).
 */
struct addrinfo *getnetinfo(const char *host, int port, int socktype);

/* Prints one entry to standard output; NULL too. */
void print_addrinfo(struct addrinfo *ai);

/* The bytes that the server's addresses need, the same from init to
 * stop; 0 before init. */
int get_sockaddr_size(void);

/* A zeroed address of that size, its family set; the caller frees it. NULL
 * before init (EINVAL) or without memory (ENOMEM). */
struct sockaddr *new_sockaddr(void);

/*
 * Writes src in a form that is the same on every machine, all big-endian:
 * bytes 0-1 family (2: IPv4, 10: IPv6), 2-3 port; IPv4: 4-7 address, 8 bytes in
 * all; IPv6: 4-7 flow info, 8-23 address, 24-27 scope id, 28 in all. Returns
 * the number of bytes; 0, and nothing written and no line, when size is too
 * small or the family another.
 */
int serialize_addr(struct sockaddr *src, char *dest, int size);

/*
 * The inverse, from the size bytes at src. Returns the number consumed; 0, and
 * nothing written and no line, when there are too few, the family is another,
 * or dest is too small for it: it has get_sockaddr_size() bytes, before init
 * room for IPv6.
 */
int deserialize_addr(char *src, struct sockaddr *dest, int size);

/*
 * The bare address in network order: 4 bytes or 16. An IPv4 client of a
 * dual-stack socket (::ffff:a.b.c.d) counts as IPv4. 0, and no line, when
 * size is too small or the family another.
 */
int copy_ip_addr(struct sockaddr *src, char *buf, int size);

/*
 * A blocking socket connected to host (NULL: this machine), each of its
 * addresses tried in turn for at most 10 s. -1 when none answers, with
 * the error of the last; else as getnetinfo.
 */
int get_conn_to_host(const char *host, int port, int socktype);

/* The same to addr, with port, in network order, in place of its own;
 * addr is not changed. */
int get_conn_to_addr(struct sockaddr *addr, int port, int socktype);

/* How many CPUs this process may run on, by affinity and cgroup quota. At
 * least 1. */
int get_nr_cpus(void);

/* Adds O_NONBLOCK to fd's flags. */
int set_nonblocking(sockfd_t fd);

/* Prints name and size bytes of buf, in hex and as text, to standard output. */
void print_buffer(const char *name, void *buf, int size);

/* Sends "msg: the text of errno" to the log hook; returns -1, errno kept. */
int sys_error(const char *msg);

#ifdef __cplusplus
}
#endif

#endif /* EVT_CORE_H */
