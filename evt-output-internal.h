/*
 * evt-output-internal.h: what a connection has written and the kernel has not
 * taken yet: copied bytes, bytes of the program's, parts of files, in order.
 * Plain functions over a descriptor; errno tells why, and nothing is logged.
 */
#ifndef EVT_OUTPUT_INTERNAL_H
#define EVT_OUTPUT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct evt_piece;

struct evt_output {
	struct evt_piece *first;
	struct evt_piece *last;
	size_t bytes;        /* unsent, but for those of files */
	uint64_t file_bytes; /* those */
};

/* Functions of the program's that are to be called, in this order. */
struct evt_done {
	struct evt_piece *first;
	struct evt_piece *last;
};

/* An empty one, for free(3); NULL: ENOMEM. */
struct evt_output *evt_output_new_(void);

/* Adds a copy of the parts, less their first skip bytes. -1: ENOMEM, and
 * nothing was added. */
int evt_output_copy_(struct evt_output *output, const struct iovec *parts,
	int nr, size_t skip);

/* A piece of len bytes that stay where they are until done(arg) (or NULL) is
 * called; NULL: ENOMEM. */
struct evt_piece *evt_output_ref_(
	const char *data, size_t len, void (*done)(void *arg), void *arg);

/* A piece of fd, which is closed when it is sent; len is above 0. NULL:
 * ENOMEM. */
struct evt_piece *evt_output_file_(int fd, int64_t offset, int64_t len);

/* Adds a piece, of whose bytes the first sent are sent already. */
void evt_output_add_(
	struct evt_output *output, struct evt_piece *piece, size_t sent);

/* A piece of which nothing is left to send: its done is to be called. */
void evt_done_add_(struct evt_done *done, struct evt_piece *piece);

static inline bool evt_output_is_empty_(const struct evt_output *output)
{
	return output->first == NULL;
}

/*
 * Sends what fd takes, but at most a megabyte or so at a time; *all: how many
 * bytes went, also when the result is -1: EAGAIN if it takes no more, or what
 * is wrong with fd, or ENODATA if a file has ended early. What is sent goes to
 * done.
 */
int evt_output_send_(
	struct evt_output *output, int fd, struct evt_done *done, size_t *all);

/* Throws away what is left. */
void evt_output_clear_(struct evt_output *output, struct evt_done *done);

/* Calls them all, but those that are added meanwhile. */
void evt_done_call_(struct evt_done *done);

/* sendmsg(2) without a signal and repeated when interrupted. */
ssize_t evt_output_sendmsg_(
	int fd, struct iovec *parts, int nr, bool more_to_come);

#endif /* EVT_OUTPUT_INTERNAL_H */
