/*
 * evt-pipe.c: the queue of a worker.
 *
 * The kernel keeps writes of up to PIPE_BUF bytes whole, so any number of
 * threads may write records without a mutex, and closing the write end tells
 * the reader that it has seen the last one. A list under a mutex with an
 * eventfd to wake the reader was rejected: it needs an allocation for each
 * record, a lock, and a way to stop that works without memory. O_DIRECT was
 * rejected: it spends a page on each record.
 */
#include "evt-pipe-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define PIPE_BYTES (256 * 1024)

int evt_pipe_open_(struct evt_pipe *pipe)
{
	int fds[2];

	pipe->read_fd = pipe->write_fd = -1;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) == -1)
		return -1;
	pipe->read_fd = evt_net_above_stdio_(fds[0]);
	pipe->write_fd = evt_net_above_stdio_(fds[1]);
	if (pipe->read_fd == -1 || pipe->write_fd == -1) {
		evt_pipe_close_(pipe);
		errno = EMFILE;
		return -1;
	}
	/* One user may hold so much in all; see pipe(7). Less will do. */
	(void)fcntl(pipe->write_fd, F_SETPIPE_SZ, PIPE_BYTES);
	return 0;
}

int evt_pipe_close_write_(struct evt_pipe *pipe)
{
	int fd = pipe->write_fd;

	pipe->write_fd = -1;
	if (fd != -1 && close(fd) == -1 && errno == EBADF)
		return -1;
	return 0;
}

void evt_pipe_close_(struct evt_pipe *pipe)
{
	int error = errno;

	evt_pipe_close_write_(pipe);
	if (pipe->read_fd != -1)
		close(pipe->read_fd);
	pipe->read_fd = -1;
	errno = error;
}

static bool has_whole(const struct evt_batch *batch)
{
	const struct evt_record *record = &batch->records[batch->next];

	return batch->next + evt_record_span_(record) <=
		batch->fill / sizeof(*record);
}

int evt_pipe_take_(const struct evt_pipe *pipe, struct evt_batch *batch)
{
	size_t done = batch->next * sizeof(struct evt_record);
	size_t rest = batch->fill - done;
	ssize_t len;

	/* A callback that runs its loop itself comes here again. */
	if (rest >= sizeof(struct evt_record) && has_whole(batch))
		return 1;
	memmove(batch->bytes, batch->bytes + done, rest);
	batch->fill = rest;
	batch->next = 0;
	do
		len = read(pipe->read_fd, batch->bytes + rest,
			sizeof(batch->bytes) - rest);
	while (len == -1 && errno == EINTR);
	if (len <= 0)
		return (int)len;
	batch->fill += (size_t)len;
	batch->taken += (size_t)len;
	return 1;
}

/* Of the last byte nobody knows what follows. */
static bool may_begin(const char *bytes, size_t len)
{
	unsigned i;

	for (i = EVT_RECORD_WAKE; i <= EVT_RECORD_SEND; i++) {
		uint16_t kind = (uint16_t)i;

		if (memcmp(bytes, &kind, len < 2 ? len : 2) == 0)
			return true;
	}
	return false;
}

void evt_batch_resync_(struct evt_batch *batch)
{
	char *start = (char *)&batch->records[--batch->next];
	char *end = batch->bytes + batch->fill;
	char *at = start + 1;

	while (at < end && !may_begin(at, (size_t)(end - at)))
		at++;
	memmove(start, at, (size_t)(end - at));
	batch->fill -= (size_t)(at - start);
}
