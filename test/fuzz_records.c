/*
 * fuzz_records.c: the reader of a worker's pipe. Records go in whole, other
 * people's bytes come between them, and the pipe is read in any pieces: each
 * record comes out as it was put in, in order, with what follows it. (C10, C12)
 *
 * The foreign bytes here never look like the beginning of a record: of those
 * that do nobody could tell. They are what a second kind of input has, which is
 * any bytes at all; it must come to its end.
 *
 * wrap: read
 * fuzz: -max_len=512
 */
#include "fuzz.h"
#include "../evt-pipe-internal.h"

#include <fcntl.h>

#define MOST 64 /* records of an input */

/* A SEND with as much as fits behind it. */
struct sent {
	struct evt_record record;
	uint8_t bytes[EVT_SEND_INLINE];
};

static struct {
	struct evt_pipe pipe;
	struct evt_batch batch;
	struct sent put[MOST]; /* what is on its way, in order */
	unsigned nr_put;
	unsigned nr_taken;
	size_t bytes_put;
} my;

/* Writing */

static void put_bytes(const void *bytes, size_t len)
{
	REQUIRE(write(my.pipe.write_fd, bytes, len) == (ssize_t)len);
	my.bytes_put += len;
}

static size_t len_behind(const struct evt_record *record)
{
	if (record->kind != EVT_RECORD_SEND || record->arg)
		return 0;
	return record->len;
}

static void put_record(struct input *input)
{
	struct sent *sent = &my.put[my.nr_put];
	size_t i;

	if (my.nr_put == MOST)
		return;
	memset(sent, 0, sizeof(*sent));
	sent->record.kind =
		(uint16_t)(EVT_RECORD_WAKE + take_below(input, 5));
	sent->record.fd = (int32_t)my.nr_put;
	sent->record.generation = take_byte(input);
	if (sent->record.kind == EVT_RECORD_SEND) {
		sent->record.len = take_16(input) % (EVT_SEND_INLINE + 1);
		if (sent->record.len % 7 == 6)
			sent->record.arg = sent; /* they are elsewhere */
	}
	for (i = 0; i < len_behind(&sent->record); i++)
		sent->bytes[i] = (uint8_t)(i * 31 + my.nr_put);
	REQUIRE(evt_pipe_put_(&my.pipe, &sent->record) == 0);
	my.bytes_put += evt_record_span_(&sent->record) * sizeof(sent->record);
	my.nr_put++;
}

/* The second byte of a kind is 0xe7, on machines of either order one of two. */
static void put_foreign(struct input *input)
{
	uint8_t bytes[64];
	size_t len = 1 + take_below(input, sizeof(bytes));
	size_t i;

	for (i = 0; i < len; i++) {
		bytes[i] = take_byte(input);
		if (bytes[i] == 0xe7)
			bytes[i] = 0xe8;
	}
	put_bytes(bytes, len);
}

/* Reading */

/* How many bytes the next read gives. */
static size_t most_read;

ssize_t __real_read(int fd, void *data, size_t len);
ssize_t __wrap_read(int fd, void *data, size_t len);

