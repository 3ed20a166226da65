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

struct evt_conn;
struct evt_worker;

/* Numbers that other people's bytes are unlikely to have in their place. */
enum evt_record_kind {
	EVT_RECORD_WAKE = 0xe7a1, /* nothing to do but to look */
	EVT_RECORD_CONN,          /* a descriptor for the pool's deliver */
	EVT_RECORD_TASK,          /* a function to call */
	EVT_RECORD_CONN_TASK,     /* ... with the connection of an id */
	EVT_RECORD_SEND           /* bytes for the connection of an id */
};

/* What travels through a pipe. 32 bytes, so that records fill a page without
 * waste. */
struct evt_record {
	uint16_t kind;
	int16_t events;      /* CONN: evt as given */
	int32_t fd;          /* CONN; CONN_TASK, SEND: the id's slot */
	uint32_t generation; /* CONN_TASK, SEND: the id's */
	uint32_t queued_us;  /* when, modulo 2^32; 0: not told */
	union {
		void (*task)(struct evt_worker *, void *arg); /* TASK */
		void (*conn_task)(struct evt_conn *, void *arg);
		size_t len; /* SEND */
	};
	void *arg; /* SEND: the bytes; NULL: they follow in the pipe */
};

/* So many bytes may follow a SEND; more are allocated. */
#define EVT_SEND_INLINE (2048 - sizeof(struct evt_record))

_Static_assert(sizeof(struct evt_record) == 32 || sizeof(void *) != 8,
	"a record must divide a page");
_Static_assert(EVT_SEND_INLINE + sizeof(struct evt_record) <= PIPE_BUF,
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
	size_t fill;  /* bytes; a part of a record, or of what follows one, may
			be last */
	size_t next;  /* records */
	size_t taken; /* bytes that were ever read */
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

/* How many records one takes with the bytes that follow it. */
static inline size_t evt_record_span_(const struct evt_record *record)
{
	if (record->kind != EVT_RECORD_SEND || record->arg ||
		record->len > EVT_SEND_INLINE)
		return 1;
	return 1 + (record->len + sizeof(*record) - 1) / sizeof(*record);
}

/* Writes nr records, one after the other in memory, whole: up to PIPE_BUF
 * bytes. -1: EAGAIN when there is no room. */
static inline int evt_pipe_put_many_(const struct evt_pipe *pipe,
	const struct evt_record *records, size_t nr)
{
	size_t size = nr * sizeof(*records);
	ssize_t len;

	do
		len = write(pipe->write_fd, records, size);
	while (len == -1 && errno == EINTR);
	if (len == (ssize_t)size)
		return 0;
	if (len != -1)
		errno = EIO; /* not a pipe: pipe(7) promises all or nothing */
	return -1;
}

/* Writes one record, with what follows it. */
static inline int evt_pipe_put_(
	const struct evt_pipe *pipe, const struct evt_record *record)
{
	return evt_pipe_put_many_(pipe, record, evt_record_span_(record));
}

/* The next record of the batch; NULL when all that are whole are handled. */
static inline struct evt_record *evt_batch_next_(struct evt_batch *batch)
{
	size_t nr = batch->fill / sizeof(struct evt_record);
	struct evt_record *record = &batch->records[batch->next];
	size_t span;

	if (batch->next >= nr)
		return NULL;
	span = evt_record_span_(record);
	if (batch->next + span > nr)
		return NULL;
	batch->next += span;
	return record;
}

#endif /* EVT_PIPE_INTERNAL_H */
