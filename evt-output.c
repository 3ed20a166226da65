/*
 * evt-output.c: unsent output, a list of pieces.
 *
 * Pieces in memory go out many at a time with one sendmsg(2), which, unlike
 * writev(2), raises no SIGPIPE; those of files by sendfile(2), and what comes
 * before them with MSG_MORE, so that a header and its file share a packet.
 * Files are not mapped: one that is truncated would kill the process.
 *
 * Copied bytes are gathered in pieces of up to 16 KiB, so that many small
 * writes to a slow peer do not cost an allocation each. libevent's evbuffer
 * does all this too; it was measured at 1.09 to 1.18 times the CPU of plain
 * system calls.
 */
#include "evt-output-internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#define COPY_LEAST 256
#define COPY_ROOM  16384
#define PARTS      64        /* of one sendmsg */
#define AT_ONCE    (1 << 20) /* of a file in one call, of all in a turn */

enum piece_kind { COPY, REF, FILE_PART };

struct evt_piece {
	struct evt_piece *next;
	enum piece_kind kind;
	int fd;           /* FILE_PART */
	const char *data; /* the first unsent byte; of COPY in bytes */
	size_t len;       /* unsent; of a FILE_PART file_len */
	size_t room;      /* COPY: of bytes */
	int64_t offset;   /* FILE_PART */
	int64_t file_len;
	void (*done)(void *arg); /* REF, or NULL */
	void *arg;
	char bytes[];
};

struct evt_output *evt_output_new_(void)
{
	return calloc(1, sizeof(struct evt_output));
}

static void append(struct evt_output *output, struct evt_piece *piece)
{
	if (output->last)
		output->last->next = piece;
	else
		output->first = piece;
	output->last = piece;
}

/* A few bytes between others that are not copied must not cost 16 KiB each: a
 * slow peer would bring that about. So what follows such begins small. */
static struct evt_piece *new_copy(size_t len, const struct evt_piece *before)
{
	size_t room = COPY_ROOM;
	struct evt_piece *piece;

	if (before && before->kind != COPY)
		room = COPY_LEAST;
	else if (before && before->room < COPY_ROOM / 2)
		room = 2 * before->room;
	if (room < len)
		room = len;
	piece = malloc(sizeof(*piece) + room);
	if (!piece)
		return NULL;
	memset(piece, 0, sizeof(*piece));
	piece->kind = COPY;
	piece->room = room;
	piece->data = piece->bytes;
	return piece;
}

/* The room behind what a COPY holds. */
static size_t room_in(const struct evt_piece *piece)
{
	if (!piece || piece->kind != COPY)
		return 0;
	return piece->room - (size_t)(piece->data - piece->bytes) - piece->len;
}

static void put(struct evt_piece *piece, const char *data, size_t len)
{
	char *end = piece->bytes + (piece->data - piece->bytes) + piece->len;

	memcpy(end, data, len);
	piece->len += len;
}

static size_t total(const struct iovec *parts, int nr)
{
	size_t sum = 0;
	int i;

	for (i = 0; i < nr; i++)
		sum += parts[i].iov_len;
	return sum;
}

int evt_output_copy_(struct evt_output *output, const struct iovec *parts,
	int nr, size_t skip)
{
	size_t len = total(parts, nr) - skip;
	size_t room = room_in(output->last);
	struct evt_piece *rest = NULL;
	int i;

	if (len > room) {
		rest = new_copy(len - room, output->last);
		if (!rest)
			return -1;
	}
	for (i = 0; i < nr; i++) {
		size_t passed = skip < parts[i].iov_len ? skip
							: parts[i].iov_len;
		const char *from = (const char *)parts[i].iov_base + passed;
		size_t left = parts[i].iov_len - passed;
		size_t fits = left < room ? left : room;

		skip -= passed;
		if (fits > 0)
			put(output->last, from, fits);
		room -= fits;
		if (rest)
			put(rest, from + fits, left - fits);
	}
	if (rest)
		append(output, rest);
	output->bytes += len;
	return 0;
}

struct evt_piece *evt_output_ref_(
	const char *data, size_t len, void (*done)(void *arg), void *arg)
{
	struct evt_piece *piece = calloc(1, sizeof(*piece));

	if (!piece)
		return NULL;
	piece->kind = REF;
	piece->data = data;
	piece->len = len;
	piece->done = done;
	piece->arg = arg;
	return piece;
}

struct evt_piece *evt_output_file_(int fd, int64_t offset, int64_t len)
{
	struct evt_piece *piece = calloc(1, sizeof(*piece));

	if (!piece)
		return NULL;
	piece->kind = FILE_PART;
	piece->fd = fd;
	piece->offset = offset;
	piece->file_len = len;
	return piece;
}

void evt_output_add_(
	struct evt_output *output, struct evt_piece *piece, size_t sent)
{
	append(output, piece);
	if (piece->kind == FILE_PART) {
		output->file_bytes += (uint64_t)piece->file_len;
		return;
	}
	piece->data += sent;
	piece->len -= sent;
	output->bytes += piece->len;
}

/* Sending */

static ssize_t send_many(int fd, struct iovec *parts, int nr, int flags)
{
	const struct msghdr msg = {.msg_iov = parts, .msg_iovlen = (size_t)nr};

	return sendmsg(fd, &msg, flags);
}

ssize_t evt_output_sendmsg_(
	int fd, struct iovec *parts, int nr, bool more_to_come)
{
	int flags = MSG_NOSIGNAL | (more_to_come ? MSG_MORE : 0);
	ssize_t sent;

	/* For one part send(2) is the cheaper. */
	do
		sent = nr == 1
			? send(fd, parts[0].iov_base, parts[0].iov_len, flags)
			: send_many(fd, parts, nr, flags);
	while (sent == -1 && errno == EINTR);
	return sent;
}

/* The first piece is sent. */
static void finish_first(struct evt_output *output, struct evt_done *done)
{
	struct evt_piece *piece = output->first;

	output->first = piece->next;
	if (!output->first)
		output->last = NULL;
	if (piece->kind == FILE_PART)
		close(piece->fd);
	evt_done_add_(done, piece);
}

static void drain_memory(
	struct evt_output *output, size_t sent, struct evt_done *done)
{
	output->bytes -= sent;
	while (output->first && output->first->kind != FILE_PART) {
		struct evt_piece *piece = output->first;

		if (sent < piece->len) {
			piece->data += sent;
			piece->len -= sent;
			return;
		}
		sent -= piece->len;
		finish_first(output, done);
	}
}

static ssize_t send_memory(
	struct evt_output *output, int fd, struct evt_done *done)
{
	struct evt_piece *piece = output->first;
	struct iovec parts[PARTS];
	ssize_t sent;
	int nr = 0;

	for (; piece && piece->kind != FILE_PART && nr < PARTS;
		piece = piece->next) {
		parts[nr].iov_base = (char *)(uintptr_t)piece->data;
		parts[nr++].iov_len = piece->len;
	}
	sent = evt_output_sendmsg_(fd, parts, nr, piece != NULL);
	if (sent >= 0)
		drain_memory(output, (size_t)sent, done);
	return sent;
}

static ssize_t send_file(
	struct evt_output *output, int fd, struct evt_done *done)
{
	struct evt_piece *piece = output->first;
	size_t len = piece->file_len < AT_ONCE ? (size_t)piece->file_len
					       : AT_ONCE;
	ssize_t sent;

	do
		sent = sendfile(fd, piece->fd, &piece->offset, len);
	while (sent == -1 && errno == EINTR);
	if (sent == 0) {
		errno = ENODATA;
		return -1;
	}
	if (sent == -1)
		return -1;
	piece->file_len -= sent;
	output->file_bytes -= (uint64_t)sent;
	if (piece->file_len == 0)
		finish_first(output, done);
	return sent;
}

int evt_output_send_(
	struct evt_output *output, int fd, struct evt_done *done, size_t *all)
{
	*all = 0;
	while (output->first && *all < AT_ONCE) {
		ssize_t sent = output->first->kind == FILE_PART
			? send_file(output, fd, done)
			: send_memory(output, fd, done);

		if (sent == -1)
			return -1;
		*all += (size_t)sent;
	}
	return 0;
}

/* What is thrown away has its done called all the same. */
void evt_output_clear_(struct evt_output *output, struct evt_done *done)
{
	while (output->first)
		finish_first(output, done);
	output->bytes = 0;
	output->file_bytes = 0;
}

void evt_done_add_(struct evt_done *done, struct evt_piece *piece)
{
	if (!piece->done) {
		free(piece);
		return;
	}
	piece->next = NULL;
	if (done->last)
		done->last->next = piece;
	else
		done->first = piece;
	done->last = piece;
}

/* One that writes again must not keep the worker for ever. */
void evt_done_call_(struct evt_done *done)
{
	const struct evt_piece *last = done->last;
	struct evt_piece *piece;
	bool more = true;

	/* Taken one by one: a done may end its thread. */
	while (more && (piece = done->first)) {
		void (*fn)(void *) = piece->done;
		void *arg = piece->arg;

		more = piece != last;
		done->first = piece->next;
		if (!done->first)
			done->last = NULL;
		free(piece);
		fn(arg);
	}
}
