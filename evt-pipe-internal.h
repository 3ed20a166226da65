/*
 * evt-pipe-internal.h: a pipe of records, which is a worker's queue, its lock
 * and its wake-up in one.
 */
#ifndef EVT_PIPE_INTERNAL_H
#define EVT_PIPE_INTERNAL_H

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

struct evt_worker;

/* Numbers that other people's bytes are unlikely to have in their place. */
enum evt_record_kind {
	EVT_RECORD_WAKE = 0xe7a1, /* nothing to do but to look */
	EVT_RECORD_CONN,          /* a descriptor for the pool's deliver */
	EVT_RECORD_TASK           /* a function to call */
};

/*
 * What travels through a pipe. 32 bytes, so that records fill a page without
 * waste; the reserved ones are for a slot's generation and the time of queuing.
 */
struct evt_record {
	uint16_t kind;
	int16_t events; /* CONN: evt as given */
	int32_t fd;     /* CONN */
	uint64_t reserved;
	void (*task)(struct evt_worker *, void *arg); /* TASK: see evt_task */
	void *arg;
};

_Static_assert(sizeof(struct evt_record) == 32 || sizeof(void *) != 8,
	"a record must divide a page");
_Static_assert(sizeof(struct evt_record) <= PIPE_BUF,
	"a record must be written whole, see pipe(7)");

struct evt_pipe {
	int read_fd;  /* -1 when closed */
	int write_fd; /* -1 when closed */
};

#define EVT_BATCH_BYTES 4096 /* read at once: a page of records */

/* What one read brought, of which next records have been handled already. */
struct evt_batch {
	union {
		char bytes[EVT_BATCH_BYTES];
		struct evt_record
			records[EVT_BATCH_BYTES / sizeof(struct evt_record)];
	};
	size_t fill; /* bytes; a part of a record may be last */
	size_t next; /* records */
};

/* A non-blocking pipe with as much room as the system gives, up to 256 KiB. */
int evt_pipe_open_(struct evt_pipe *pipe);

/* Closes what is open. -1 if somebody else had closed the write end. */
int evt_pipe_close_write_(struct evt_pipe *pipe);
void evt_pipe_close_(struct evt_pipe *pipe);

/*
 * Reads what there is, once all records of the batch are handled, and nothing
 * before. Returns 1, 0 at the end of the pipe, or -1: EAGAIN when it is empty.
 */
int evt_pipe_take_(const struct evt_pipe *pipe, struct evt_batch *batch);

/* What evt_batch_next_ gave is no record: goes on where one may begin. */
void evt_batch_resync_(struct evt_batch *batch);

/* The two that every record passes are here, to be inlined. */

/* Writes one record whole. -1: EAGAIN when there is no room. */
static inline int evt_pipe_put_(
	const struct evt_pipe *pipe, const struct evt_record *record)
{
	ssize_t len;

	do
		len = write(pipe->write_fd, record, sizeof(*record));
	while (len == -1 && errno == EINTR);
	if (len == (ssize_t)sizeof(*record))
		return 0;
	if (len != -1)
		errno = EIO; /* not a pipe: pipe(7) promises all or nothing */
	return -1;
}

/* The next record of the batch; NULL when all are handled. */
static inline struct evt_record *evt_batch_next_(struct evt_batch *batch)
{
	if (batch->next >= batch->fill / sizeof(struct evt_record))
		return NULL;
	return &batch->records[batch->next++];
}

#endif /* EVT_PIPE_INTERNAL_H */
