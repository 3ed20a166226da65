/*
 * output_rig.h: unsent output for tests: a pair of sockets, pieces of all kinds
 * added to it, and what has arrived of them. The suite wraps send, sendmsg and
 * sendfile.
 */
#ifndef OUTPUT_RIG_H
#define OUTPUT_RIG_H

#include "ledger.h"
#include "inject.h"
#include "../evt-output-internal.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#define ROOM (1 << 20)

static struct inject sending;
static struct inject filing;
static size_t most;     /* that a call takes; 0: as the kernel does */
static bool swallows;   /* whatever there is, and sends nothing */
static int last_flags;  /* of send or sendmsg */
static size_t nr_parts; /* of the last that went; 0: it was send */

ssize_t __real_send(int fd, const void *data, size_t len, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_sendfile(int out, int in, off_t *offset, size_t len);

static inline size_t length(const struct msghdr *msg)
{
	size_t len = 0;
	size_t i;

	for (i = 0; i < msg->msg_iovlen; i++)
		len += msg->msg_iov[i].iov_len;
	return len;
}

/* A copy of the message that has no more bytes than most. */
static inline void shorten(struct msghdr *msg, struct iovec *parts)
{
	size_t left = most;
	size_t i;

	for (i = 0; i < msg->msg_iovlen; i++) {
		parts[i] = msg->msg_iov[i];
		if (parts[i].iov_len > left)
			parts[i].iov_len = left;
		left -= parts[i].iov_len;
	}
	msg->msg_iov = parts;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct msghdr shorter = *msg;
	struct iovec parts[128];

	last_flags = flags;
	if (injected(&sending))
		return -1;
	nr_parts = msg->msg_iovlen;
	if (swallows)
		return (ssize_t)length(msg);
	if (most > 0 && msg->msg_iovlen <= 128)
		shorten(&shorter, parts);
	return __real_sendmsg(fd, &shorter, flags);
}

ssize_t __wrap_send(int fd, const void *data, size_t len, int flags)
{
	last_flags = flags;
	if (injected(&sending))
		return -1;
	nr_parts = 0;
	if (swallows)
		return (ssize_t)len;
	return __real_send(
		fd, data, most > 0 && len > most ? most : len, flags);
}

ssize_t __wrap_sendfile(int out, int in, off_t *offset, size_t len)
{
	if (injected(&filing))
		return -1;
	if (swallows) {
		*offset += (off_t)len;
		return (ssize_t)len;
	}
	return __real_sendfile(
		out, in, offset, most > 0 && len > most ? most : len);
}

/* What is sent, and what has arrived of it. */

static struct {
	struct evt_output output;
	struct evt_done done;
	int pair[2];
	char expected[ROOM];
	size_t len;
	char got[ROOM];
	size_t arrived;
	int nr_refs;
	int order[1024]; /* numbers of the refs that are done */
	int nr_done;
} line;

static inline void open_line(void)
{
	memset(&line, 0, sizeof(line));
	most = 0;
	swallows = false;
	/* What a test that failed has left must not hold up the next. */
	end_injection(&sending);
	end_injection(&filing);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			0, line.pair),
		0);
}

static inline void close_line(void)
{
	evt_output_clear_(&line.output, &line.done);
	evt_done_call_(&line.done);
	if (line.pair[0] != -1)
		close(line.pair[0]);
	if (line.pair[1] != -1)
		close(line.pair[1]);
}

/* The next len bytes that are to arrive. */
static inline char *next_bytes(size_t len)
{
	char *bytes = line.expected + line.len;
	size_t i;

	assert_true(line.len + len <= ROOM);
	for (i = 0; i < len; i++)
		bytes[i] = (char)((line.len + i) * 7 + (line.len + i) / 251);
	line.len += len;
	return bytes;
}

static inline int copy(size_t len)
{
	struct iovec part = {.iov_base = next_bytes(len), .iov_len = len};

	return evt_output_copy_(&line.output, &part, 1, 0);
}

static inline void note_done(void *arg)
{
	line.order[line.nr_done++] = (int)(intptr_t)arg;
}

static inline void ref(size_t len)
{
	struct evt_piece *piece = evt_output_ref_(next_bytes(len), len,
		note_done, (void *)(intptr_t)line.nr_refs++);

	assert_non_null(piece);
	evt_output_add_(&line.output, piece, 0);
}

static inline int new_file(size_t before, const char *bytes, size_t len)
{
	int fd = memfd_create("test_output", MFD_CLOEXEC);

	assert_int_not_equal(fd, -1);
	assert_int_equal(ftruncate(fd, (off_t)before), 0);
	assert_int_equal(pwrite(fd, bytes, len, (off_t)before), (ssize_t)len);
	return fd;
}

/* A part in the middle of a file; its descriptor. */
static inline int file(size_t len)
{
	int fd = new_file(100, next_bytes(len), len);
	struct evt_piece *piece;

	assert_int_equal(ftruncate(fd, (off_t)(100 + len + 100)), 0);
	piece = evt_output_file_(fd, 100, (int64_t)len);
	assert_non_null(piece);
	evt_output_add_(&line.output, piece, 0);
	return fd;
}

static inline size_t unsent(void)
{
	return line.output.bytes + (size_t)line.output.file_bytes;
}

static inline void receive(void)
{
	ssize_t len;

	while ((len = recv(line.pair[1], line.got + line.arrived,
			ROOM - line.arrived, 0)) > 0)
		line.arrived += (size_t)len;
}

static inline ssize_t send_some(void)
{
	size_t sent;
	int result = evt_output_send_(
		&line.output, line.pair[0], &line.done, &sent);

	assert_true(result == 0 || result == -1);
	return result == -1 && errno != EAGAIN ? -1 : (ssize_t)sent;
}

/* Sends and receives until nothing is left, and looks at each step whether the
 * figures are right. */
static inline void send_to_the_end(void)
{
	while (!evt_output_is_empty_(&line.output)) {
		size_t before = unsent();
		ssize_t sent = send_some();

		assert_int_not_equal(sent, -1);
		assert_int_equal(before - unsent(), sent);
		receive();
		assert_int_equal(line.arrived, line.len - unsent());
	}
	assert_int_equal(unsent(), 0);
	assert_int_equal(line.arrived, line.len);
	assert_memory_equal(line.got, line.expected, line.len);
}

#endif /* OUTPUT_RIG_H */
