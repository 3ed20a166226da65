/*
 * evt-conn-write.c: from evt_conn_write to the socket.
 *
 * Small writes of one callback are gathered in a buffer of the worker's, and go
 * out in one sendmsg(2) when it returns: sixteen answers to sixteen pipelined
 * requests are one system call, one packet, and no allocation. A large write
 * goes at once, together with what was gathered, from where it lies. The write
 * event is armed only when the kernel has taken less than it was given.
 */
#include "evt-conn-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGE 4096 /* bytes that are not worth a copy */

/* Unsent output */

int evt_conn_need_unsent_(struct evt_conn *conn)
{
	if (!conn->unsent)
		conn->unsent = evt_output_new_();
	return conn->unsent ? 0 : -1;
}

void evt_conn_free_unsent_(struct evt_conn *conn)
{
	if (!conn->unsent || conn->flags & EVT_CONN_CONNECTING)
		return;
	free(conn->unsent);
	conn->unsent = NULL;
}

static size_t unsent_bytes(const struct evt_conn *conn)
{
	const struct evt_output *output = conn->unsent;

	return output ? output->bytes + (size_t)output->file_bytes : 0;
}

/* Something waits: for the event, or, where the kernel has no memory, for a
 * moment. */
static void wait_for_room(struct evt_conn *conn)
{
	size_t unsent = unsent_bytes(conn);

	if (unsent > conn->setup->low_mark)
		conn->flags |= EVT_CONN_ABOVE_LOW;
	if (unsent > conn->setup->high_mark &&
		!(conn->flags & EVT_CONN_THROTTLED)) {
		conn->flags |= EVT_CONN_THROTTLED;
		evt_conn_touch_(conn);
	}
	if (conn->flags &
		(EVT_CONN_WRITING | EVT_CONN_RETRY | EVT_CONN_CONNECTING))
		return;
	if (evt_conn_await_(conn,
		    (conn->flags & EVT_CONN_READING) | EVT_CONN_WRITING) == -1)
		evt_conn_fail_(conn, EVT_REASON_FAILED, ENOMEM);
}

static void note_room(struct evt_conn *conn)
{
	if (conn->flags & EVT_CONN_ABOVE_LOW &&
		unsent_bytes(conn) <= conn->setup->low_mark) {
		conn->flags &= ~(uint32_t)EVT_CONN_ABOVE_LOW;
		conn->flags |= EVT_CONN_DRAINED;
		if (conn->flags & EVT_CONN_THROTTLED)
			conn->flags |= EVT_CONN_RESUMED;
		conn->flags &= ~(uint32_t)EVT_CONN_THROTTLED;
		evt_conn_touch_(conn);
	}
	if (evt_output_is_empty_(conn->unsent))
		evt_conn_touch_(conn);
}

static void note_sent(struct evt_conn *conn, size_t len)
{
	if (len == 0)
		return;
	conn->moved_ms = evt_home_now_ms_(conn->home);
	evt_count_(&evt_conn_counters_(conn)->bytes_out, (unsigned long)len);
}

/* What a send that failed means: true if it may succeed later. */
static bool may_retry(struct evt_conn *conn, int error)
{
	if (error == EPIPE)
		evt_thread_take_sigpipe_(); /* sendfile(2) raises it */
	if (error == EAGAIN)
		return true;
	if (error == ENOBUFS || error == ENOMEM) {
		conn->flags |= EVT_CONN_RETRY;
		evt_conn_schedule_(conn);
		return true;
	}
	evt_conn_break_(conn, error);
	return false;
}

void evt_conn_send_(struct evt_conn *conn)
{
	size_t sent;
	int error = 0;

	if (!conn->unsent || conn->flags & EVT_CONN_ENDED)
		return;
	if (evt_output_send_(
		    conn->unsent, conn->fd, &conn->home->done, &sent) == -1)
		error = errno;
	note_sent(conn, sent);
	if (error && !may_retry(conn, error))
		return;
	note_room(conn);
	if (!evt_output_is_empty_(conn->unsent))
		wait_for_room(conn);
	if (conn->flags & EVT_CONN_RETRY)
		evt_conn_touch_(conn); /* room is not what it waits for */
}

/* Sending at once */

/* With len more bytes there would be too many: it ends of that. */
static bool overflows(struct evt_conn *conn, size_t len)
{
	size_t unsent = conn->unsent ? conn->unsent->bytes : 0;

	if (len <= conn->setup->max_output &&
		unsent <= conn->setup->max_output - len)
		return false;
	conn->flags |= EVT_CONN_RESET;
	evt_conn_fail_(conn, EVT_REASON_OVERFLOW, ENOBUFS);
	/* A stranger can bring this about: not a line for everybody. */
	evt_log_(EVT_LOG_DEBUG,
		"a connection has more unsent output than %zu bytes",
		conn->setup->max_output);
	errno = ENOBUFS;
	return true;
}

/* Adds what is left of the parts, the first sent bytes being gone. -1: the
 * connection ends of it. */
static int queue(
	struct evt_conn *conn, const struct iovec *parts, int nr, size_t sent)
{
	size_t len = 0;
	int i;

	for (i = 0; i < nr; i++)
		len += parts[i].iov_len;
	if (len == sent)
		return 0;
	if (evt_conn_need_unsent_(conn) == -1)
		goto no_memory;
	len -= sent;
	if (overflows(conn, len))
		return -1;
	if (evt_output_copy_(conn->unsent, parts, nr, sent) == -1)
		goto no_memory;
	wait_for_room(conn);
	return 0;
no_memory:
	evt_conn_fail_(conn, EVT_REASON_FAILED, ENOMEM);
	return evt_fail_(ENOMEM, "no memory for unsent output");
}

/* What was gathered for conn, as the first of the parts. */
static int gathered_part(struct evt_conn *conn, struct iovec *part)
{
	struct evt_home *home = conn->home;

	if (home->gatherer != conn)
		return 0;
	part->iov_base = home->gather;
	part->iov_len = home->gathered;
	home->gatherer = NULL;
	return 1;
}

/* How much of the parts went; 0 if none, the connection perhaps being over. */
static size_t send_parts(
	struct evt_conn *conn, struct iovec *parts, int nr, bool more)
{
	ssize_t sent = evt_output_sendmsg_(conn->fd, parts, nr, more);

	if (sent == -1) {
		may_retry(conn, errno);
		return 0;
	}
	note_sent(conn, (size_t)sent);
	return (size_t)sent;
}

static bool must_wait(const struct evt_conn *conn)
{
	return conn->unsent &&
		(conn->flags & EVT_CONN_CONNECTING ||
			!evt_output_is_empty_(conn->unsent));
}

/* What was gathered goes out, or waits; more will follow at once if more. */
static int flush(struct evt_conn *conn, bool more)
{
	struct iovec part;
	size_t sent;

	if (gathered_part(conn, &part) == 0)
		return 0;
	sent = send_parts(conn, &part, 1, more);
	if (conn->flags & EVT_CONN_ENDED)
		return 0;
	return queue(conn, &part, 1, sent);
}

/* The end of the stream, if it is the next thing, goes in the same packet. */
void evt_home_flush_(struct evt_home *home)
{
	struct evt_conn *conn = home->gatherer;
	bool ends = conn->flags & (EVT_CONN_CLOSING | EVT_CONN_FINISH);

	/* A reset would destroy it. */
	flush(conn, ends && !(conn->flags & (EVT_CONN_ENDED | EVT_CONN_RESET)));
}

/* Makes room in the worker's buffer: it is this connection's now. */
static bool may_gather(struct evt_conn *conn, size_t len)
{
	struct evt_home *home = conn->home;

	if (len >= LARGE)
		return false;
	if (home->gatherer && home->gatherer != conn)
		flush(home->gatherer, false); /* its end may be far off */
	if (!home->gatherer) {
		home->gatherer = conn;
		home->gathered = 0;
		if (home->worker->depth == 0)
			evt_conn_touch_(conn);
	}
	return home->gathered + len <= EVT_GATHER_BYTES;
}

static void gather(struct evt_conn *conn, const void *data, size_t len)
{
	struct evt_home *home = conn->home;

	memcpy(home->gather + home->gathered, data, len);
	home->gathered += len;
}

int evt_conn_put_(struct evt_conn *conn, const void *data, size_t len)
{
	struct iovec parts[2];
	size_t sent;
	int nr;

	if (must_wait(conn)) {
		parts[0].iov_base = (char *)(uintptr_t)data;
		parts[0].iov_len = len;
		return queue(conn, parts, 1, 0);
	}
	if (may_gather(conn, len)) {
		gather(conn, data, len);
		return 0;
	}
	nr = gathered_part(conn, &parts[0]);
	parts[nr].iov_base = (char *)(uintptr_t)data;
	parts[nr].iov_len = len;
	sent = send_parts(conn, parts, nr + 1, false);
	if (conn->flags & EVT_CONN_ENDED)
		return 0; /* on_close tells why */
	return queue(conn, parts, nr + 1, sent);
}

/* evt-conn.h */

/* 0 if conn can be written to. */
static int check(const struct evt_conn *conn, const char *call)
{
	if (evt_conn_check_(conn, call) == -1)
		return -1;
	if (conn->flags & EVT_CONN_OVER) {
		errno = ENOTCONN;
		return -1;
	}
	if (conn->flags & EVT_CONN_FINISH)
		return evt_fail_(EPIPE, "%s after evt_conn_finish", call);
	return 0;
}

int evt_conn_write(struct evt_conn *conn, const void *data, size_t len)
{
	if (check(conn, "evt_conn_write") == -1)
		return -1;
	if (len == 0)
		return 0;
	if (!data || len > SSIZE_MAX)
		return evt_fail_(EINVAL, "evt_conn_write of %zu bytes", len);
	return evt_conn_put_(conn, data, len);
}

int evt_conn_printf(struct evt_conn *conn, const char *format, ...)
{
	char text[1024];
	char *long_text;
	va_list args;
	int result;
	int len;

	if (check(conn, "evt_conn_printf") == -1)
		return -1;
	if (!format)
		return evt_fail_(EINVAL, "evt_conn_printf without a format");
	va_start(args, format);
	len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (len < 0)
		return evt_fail_(EINVAL, "evt_conn_printf");
	if ((size_t)len < sizeof(text))
		return evt_conn_write(conn, text, (size_t)len);
	long_text = malloc((size_t)len + 1);
	if (!long_text)
		return evt_fail_(ENOMEM, "evt_conn_printf");
	va_start(args, format);
	len = vsnprintf(long_text, (size_t)len + 1, format, args);
	va_end(args);
	result = evt_conn_write(conn, long_text, (size_t)len);
	free(long_text);
	return result;
}

/* A large one, while nothing waits: what goes at once, and then the rest. */
static int send_ref(struct evt_conn *conn, struct evt_piece *piece,
	const void *data, size_t len)
{
	struct iovec parts[2];
	int nr = gathered_part(conn, &parts[0]);
	size_t gathered = nr == 1 ? parts[0].iov_len : 0;
	size_t sent;

	parts[nr].iov_base = (char *)(uintptr_t)data;
	parts[nr].iov_len = len;
	sent = send_parts(conn, parts, nr + 1, false);
	if (sent == gathered + len || conn->flags & EVT_CONN_ENDED) {
		evt_done_add_(&conn->home->done, piece);
		return 0;
	}
	if (sent < gathered && queue(conn, parts, 1, sent) == -1)
		goto refused;
	sent = sent > gathered ? sent - gathered : 0;
	if (overflows(conn, len - sent))
		goto refused;
	evt_output_add_(conn->unsent, piece, sent);
	wait_for_room(conn);
	return 0;
refused: /* the connection ends of it, and done is not called */
	free(piece);
	return -1;
}

int evt_conn_write_ref(struct evt_conn *conn, const void *data, size_t len,
	void (*done)(void *arg), void *arg)
{
	struct evt_piece *piece;
	bool waits;

	if (check(conn, "evt_conn_write_ref") == -1)
		return -1;
	if ((!data && len > 0) || len > SSIZE_MAX)
		return evt_fail_(
			EINVAL, "evt_conn_write_ref of %zu bytes", len);
	if (!data)
		data = ""; /* NULL goes to no memcpy, nor is it added to */
	waits = must_wait(conn);
	if (waits && overflows(conn, len))
		return -1;
	piece = evt_output_ref_(data, len, done, arg);
	if (!piece)
		goto no_memory;
	evt_conn_touch_(conn); /* for done, and what is not needed after all */
	if (!waits && may_gather(conn, len)) {
		gather(conn, data, len);
		evt_done_add_(&conn->home->done, piece);
		return 0;
	}
	if (evt_conn_need_unsent_(conn) == -1)
		goto no_memory;
	if (waits) {
		evt_output_add_(conn->unsent, piece, 0);
		wait_for_room(conn);
		return 0;
	}
	return send_ref(conn, piece, data, len);
no_memory:
	free(piece);
	return evt_fail_(ENOMEM, "evt_conn_write_ref");
}

/* What can be sent by sendfile(2): see its man page. */
static int check_file(int fd, int64_t offset, int64_t len)
{
	struct stat status;

	if (offset < 0 || len < 0 || offset > INT64_MAX - len)
		return EINVAL;
	if (fstat(fd, &status) == -1)
		return errno;
	return S_ISREG(status.st_mode) ? 0 : EINVAL;
}

int evt_conn_sendfile(
	struct evt_conn *conn, int fd, int64_t offset, int64_t len)
{
	struct evt_piece *piece;
	bool waits;
	int error;

	if (check(conn, "evt_conn_sendfile") == -1)
		return -1;
	error = check_file(fd, offset, len);
	if (error)
		return evt_fail_(error, "evt_conn_sendfile of %d", fd);
	if (len == 0) { /* nor may MSG_MORE keep back what is before it */
		close(fd);
		return 0;
	}
	piece = evt_output_file_(fd, offset, len);
	if (!piece || evt_conn_need_unsent_(conn) == -1) {
		free(piece);
		evt_conn_touch_(conn);
		return evt_fail_(ENOMEM, "evt_conn_sendfile");
	}
	evt_conn_touch_(conn);
	flush(conn, true); /* if that failed, on_close tells */
	waits = must_wait(conn) ||
		conn->flags & (EVT_CONN_RETRY | EVT_CONN_ENDED);
	evt_output_add_(conn->unsent, piece, 0);
	if (waits)
		wait_for_room(conn);
	else
		evt_conn_send_(conn);
	return 0;
}

size_t evt_conn_pending(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_pending") == -1)
		return 0;
	return unsent_bytes(conn) +
		(conn->home->gatherer == conn ? conn->home->gathered : 0);
}
