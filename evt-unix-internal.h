/*
 * evt-unix-internal.h: listening on a path of the file system, or on an
 * abstract name. Plain functions; errno tells why, and nothing is logged.
 */
#ifndef EVT_UNIX_INTERNAL_H
#define EVT_UNIX_INTERNAL_H

#include "evt-url-internal.h"

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

/* The file that we have bound: removed only if it is still this one. */
struct evt_unix_file {
	char path[EVT_URL_PATH]; /* "": there is none */
	dev_t device;
	ino_t inode;
};

/* The address of a UNIX url; its length. */
socklen_t evt_unix_addr_(const struct evt_url *url, struct sockaddr_un *addr);

/*
 * A non-blocking, close-on-exec socket of socktype bound to url, listening if
 * it is a stream, whose file has mode from the first moment. A socket that
 * nobody serves any more is replaced; anything else is left alone: EADDRINUSE
 * if it answers or is no socket. -1: *step names the call that failed.
 */
int evt_unix_bind_(const struct evt_url *url, int socktype, mode_t mode,
	int backlog, struct evt_unix_file *file, const char **step);

/* Removes the file if it is still ours. */
void evt_unix_remove_(struct evt_unix_file *file);

#endif /* EVT_UNIX_INTERNAL_H */
