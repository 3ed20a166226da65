/*
 * fuzz_records.c: the reader of a worker's pipe. Records are in it, other
 * people's bytes between them, and what a read gives ends anywhere: each record
 * comes out as it was put in, in order, with what follows it. (C10, C12)
 *
 * Those foreign bytes never look like the beginning of a record: of others
 * nobody could tell. A second kind of input has any bytes at all, and only has
 * to come to its end.
 *
 * fuzz: -max_len=512
 */
#include "fuzz.h"
#include "../evt-pipe-internal.h"

#define MOST_RECORDS 32

/* A SEND with as much as fits behind it. */
struct sent {
	struct evt_record record;
	uint8_t bytes[EVT_SEND_INLINE];
};

static struct {
	struct evt_pipe pipe;
	struct evt_batch batch;
	uint8_t bytes[MOST_RECORDS * sizeof(struct sent) + 65536];
	size_t len; /* of the bytes on their way */
	struct sent sent[MOST_RECORDS];
	unsigned nr_sent;
	unsigned nr_taken;
	bool is_garbage; /* nothing is known of what comes out */
} my;

/* Making the stream */

static void add(const void *bytes, size_t len)
{
	memcpy(my.bytes + my.len, bytes, len);
	my.len += len;
}

static void add_record(struct input *input)
{
	struct sent *sent = &my.sent[my.nr_sent];
	struct evt_record *record = &sent->record;
	size_t i;

	if (my.nr_sent == MOST_RECORDS)
		return;
	memset(sent, 0, sizeof(*sent));
	record->kind = (uint16_t)(EVT_RECORD_WAKE + take_below(input, 5));
	record->fd = (int32_t)my.nr_sent++;
	record->generation = take_byte(input);
	if (record->kind == EVT_RECORD_SEND)
		record->len = take_16(input) % (EVT_SEND_INLINE + 1);
	for (i = 0; i < record->len; i++)
		sent->bytes[i] = (uint8_t)(i * 31 + my.nr_sent);
	if (record->len % 7 == 6)
		record->arg = sent; /* they are elsewhere */
	add(sent, evt_record_span_(record) * sizeof(*record));
}

/* 0xe7 is in every kind. */
static void add_foreign(struct input *input)
{
	unsigned len = take_byte(input);
	uint8_t byte;

	while (len-- > 0) {
		byte = take_byte(input);
		byte = (uint8_t)(byte + (byte == 0xe7));
		add(&byte, 1);
	}
}

/* Reading it */

static void look_at(const struct evt_record *record)
{
	const struct sent *sent = &my.sent[my.nr_taken];

	REQUIRE(my.nr_taken < my.nr_sent);
	REQUIRE(memcmp(record, sent,
			evt_record_span_(record) * sizeof(*record)) == 0);
	my.nr_taken++;
}

/* As a worker does. */
static void take_all(void)
{
	struct evt_record *record;

	while (evt_pipe_take_(&my.pipe, &my.batch) == 1) {
		REQUIRE(my.batch.fill <= sizeof(my.batch.bytes));
		while ((record = evt_batch_next_(&my.batch))) {
			if (record->kind < EVT_RECORD_WAKE ||
				record->kind > EVT_RECORD_SEND)
				evt_batch_resync_(&my.batch);
			else if (!my.is_garbage)
				look_at(record);
			REQUIRE(my.batch.next * sizeof(*record) <=
				my.batch.fill);
		}
	}
	REQUIRE(errno == EAGAIN);
}

/* The whole stream, in pieces; all of it is read. */
static void pass(struct input *input)
{
	size_t at = 0;
	size_t len;

	while (at < my.len) {
		len = is_over(input) ? my.len : 1 + take_byte(input) * 9U;
		if (len > my.len - at)
			len = my.len - at;
		if (len > EVT_BATCH_BYTES)
			len = EVT_BATCH_BYTES;
		REQUIRE(write(my.pipe.write_fd, my.bytes + at, len) ==
			(ssize_t)len);
		at += len;
		take_all();
	}
	REQUIRE(my.batch.taken == my.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {data, data + size};
	unsigned entries = take_byte(&input);

	my.len = my.nr_sent = my.nr_taken = 0;
	my.is_garbage = entries == 0;
	memset(&my.batch, 0, sizeof(my.batch));
	REQUIRE(evt_pipe_open_(&my.pipe) == 0);
	while (!my.is_garbage && entries-- > 0 && !is_over(&input)) {
		if (take_below(&input, 2))
			add_foreign(&input);
		else
			add_record(&input);
	}
	if (my.is_garbage) {
		add(input.at, (size_t)(input.end - input.at));
		input.at = input.end - my.len / 4;
	}
	pass(&input);
	REQUIRE(my.is_garbage || my.nr_taken == my.nr_sent);
	evt_pipe_close_(&my.pipe);
	return 0;
}
