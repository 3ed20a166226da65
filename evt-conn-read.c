/*
 * evt-conn-read.c: from the socket to on_data.
 *
 * All connections of a worker share one buffer of 64 KiB, from which on_data
 * gets its bytes in place; only what it leaves is copied, into memory of the
 * connection's own, and what comes next is read behind it there. So a parser
 * never sees a message cut in two, and a connection that is between messages
 * has no buffer at all.
 */
#include "evt-conn-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define READS_A_TURN 4 /* of a whole buffer; then others have their turn */
#define SENT_A_TURN  (1UL << 20) /* bytes, while on_data is called again */
#define INPUT_MIN    512         /* bytes of memory for a rest */
#define INPUT_FREE   4096        /* room for what comes next, at least */

static bool wants_input(const struct evt_conn *conn)
{
	return !(conn->flags &
		(EVT_CONN_PAUSED | EVT_CONN_THROTTLED | EVT_CONN_LATER |
			EVT_CONN_EOF_SEEN | EVT_CONN_CONNECTING |
			EVT_CONN_OVER));
}

/* Closing, but not flushed: a peer that sends before it reads would not come to
 * read, if nobody took what it sends. */
static bool throws_away(const struct evt_conn *conn)
{
	return (conn->flags & (EVT_CONN_OVER | EVT_CONN_EOF_SEEN)) ==
		EVT_CONN_CLOSING;
}

/* Writing may be wanted no longer. Both change at once, when the turn ends: one
 * that has just been connected goes from one to the other in one call. */
void evt_conn_update_waits_(struct evt_conn *conn)
{
	uint32_t wanted = 0;

	if (wants_input(conn) || throws_away(conn))
		wanted |= EVT_CONN_READING;
	if (!evt_conn_is_flushed_(conn) && !(conn->flags & EVT_CONN_RETRY))
		wanted |= conn->flags & EVT_CONN_WRITING;
	if (evt_conn_await_(conn, wanted) == -1)
		evt_conn_fail_(conn, EVT_REASON_FAILED, ENOMEM);
}

/* Handing over */

static bool may_deliver(const struct evt_conn *conn, size_t len)
{
	const uint32_t not_now = EVT_CONN_PAUSED | EVT_CONN_THROTTLED |
		EVT_CONN_LATER | EVT_CONN_OVER;

	return len > 0 && !(conn->flags & not_now) &&
		(len >= conn->want || conn->flags & EVT_CONN_EOF_SEEN);
}

static void put_off(struct evt_conn *conn)
{
	conn->flags |= EVT_CONN_LATER;
	evt_conn_touch_(conn);
}

static size_t call_on_data(struct evt_conn *conn, const char *data, size_t len)
{
	const struct evt_setup *setup = conn->setup;
	size_t used;

	conn->want = 0;
	if (!setup->handlers.on_data)
		return len;
	conn->home->on_data = conn;
	used = setup->handlers.on_data(conn, data, len, setup->arg);
	conn->home->on_data = NULL;
	if (used <= len)
		return used;
	evt_log_(EVT_LOG_ERROR,
		"on_data says it consumed %zu bytes of %zu: aborted", used,
		len);
	conn->flags |= EVT_CONN_RESET;
	evt_conn_fail_(conn, EVT_REASON_FAILED, EINVAL);
	return len;
}

/* Keeps the rest, which lies at data, in the buffer of the worker or in what is
 * kept already. */
static void keep(struct evt_conn *conn, const char *data, size_t len)
{
	struct evt_input *input = conn->input;
	size_t room = len + len / 2 > INPUT_MIN ? len + len / 2 : INPUT_MIN;

	if (len == 0 || conn->flags & EVT_CONN_OVER) {
		free(input);
		conn->input = NULL;
		return;
	}
	if (!input) {
		input = malloc(sizeof(*input) + room);
		if (!input) {
			evt_conn_fail_(conn, EVT_REASON_FAILED, ENOMEM);
			return;
		}
		input->room = room;
		conn->input = input;
	}
	if (data != input->bytes) /* most often nothing was consumed */
		memmove(input->bytes, data, len);
	input->len = len;
}

/* Who asks for much by little, and reads as fast as we send, must not have the
 * worker for himself. */
static void deliver(struct evt_conn *conn, const char *data, size_t len)
{
	atomic_ulong *sent = &evt_conn_counters_(conn)->bytes_out;
	unsigned long before = atomic_load_explicit(sent, memory_order_relaxed);
	size_t used = 1;

	while (used > 0 && may_deliver(conn, len)) {
		used = call_on_data(conn, data, len);
		data += used;
		len -= used;
		if (used > 0 && len > 0 &&
			atomic_load_explicit(sent, memory_order_relaxed) -
					before >
				SENT_A_TURN)
			put_off(conn);
	}
	keep(conn, data, len);
	if (len >= conn->setup->max_input && wants_input(conn)) {
		conn->flags |= EVT_CONN_RESET;
		evt_conn_fail_(conn, EVT_REASON_OVERFLOW, ENOBUFS);
	}
}

/* The peer has ended its stream, and everything before that is handed over, or
 * is now for the last time. */
static void tell_end(struct evt_conn *conn)
{
	const struct evt_setup *setup = conn->setup;

	if (conn->input)
		deliver(conn, conn->input->bytes, conn->input->len);
	if (conn->flags &
		(EVT_CONN_EOF_TOLD | EVT_CONN_OVER | EVT_CONN_PAUSED |
			EVT_CONN_THROTTLED | EVT_CONN_LATER))
		return;
	keep(conn, NULL, 0);
	conn->flags |= EVT_CONN_EOF_TOLD;
	if (setup->handlers.on_eof)
		setup->handlers.on_eof(conn, setup->arg);
	else
		evt_conn_close(conn);
}

void evt_conn_go_on_(struct evt_conn *conn)
{
	if (conn->flags & EVT_CONN_EOF_SEEN)
		tell_end(conn);
	else if (conn->input)
		deliver(conn, conn->input->bytes, conn->input->len);
}

/* Reading */

/* Room behind what is kept: false if there is no memory for it. */
static bool make_room(struct evt_conn *conn)
{
	struct evt_input *input = conn->input;
	size_t room = 2 * input->room > input->len + INPUT_FREE
		? 2 * input->room
		: input->len + INPUT_FREE;

	if (input->room - input->len >= INPUT_FREE)
		return true;
	input = realloc(input, sizeof(*input) + room);
	if (!input)
		return false;
	input->room = room;
	conn->input = input;
	return true;
}

/* recv(2) to where the next bytes belong; *full: there may be more. */
static ssize_t receive(struct evt_conn *conn, bool *full)
{
	char *to = conn->home->buffer;
	size_t room = EVT_READ_BYTES;
	ssize_t len;

	if (conn->input) {
		to = conn->input->bytes + conn->input->len;
		room = conn->input->room - conn->input->len;
	}
	do
		len = recv(conn->fd, to, room, 0);
	while (len == -1 && errno == EINTR);
	*full = len == (ssize_t)room;
	return len;
}

/* What a read was: in vain, one that left room, one that filled all of it. */
enum got { NOTHING, LESS, ALL };

static enum got read_once(struct evt_conn *conn)
{
	struct evt_home *home = conn->home;
	ssize_t len;
	bool full;

	if (conn->input && !make_room(conn)) {
		evt_conn_fail_(conn, EVT_REASON_FAILED, ENOMEM);
		return NOTHING;
	}
	len = receive(conn, &full);
	if (len == -1) {
		if (errno != EAGAIN)
			evt_conn_break_(conn, errno);
		return NOTHING;
	}
	if (len == 0) {
		conn->flags |= EVT_CONN_EOF_SEEN;
		tell_end(conn);
		evt_conn_touch_(conn);
		return NOTHING;
	}
	conn->flags |= EVT_CONN_GOT_BYTE;
	conn->moved_ms = evt_home_now_ms_(home);
	evt_count_(&home->worker->counters.bytes_in, (unsigned long)len);
	if (!conn->input) {
		deliver(conn, home->buffer, (size_t)len);
	} else {
		conn->input->len += (size_t)len;
		deliver(conn, conn->input->bytes, conn->input->len);
	}
	return full ? ALL : LESS;
}

void evt_conn_read_(struct evt_conn *conn, bool to_end)
{
	enum got got = ALL;
	int reads = 0;

	to_end = to_end || conn->setup->reads_to_end;
	while (got == ALL || (got == LESS && to_end)) {
		if (!wants_input(conn) || reads++ == READS_A_TURN) {
			conn->flags |= EVT_CONN_MORE;
			evt_conn_touch_(conn);
			break;
		}
		got = read_once(conn);
	}
	if (conn->home->draining)
		evt_conn_touch_(conn); /* it may be idle now */
}

void evt_conn_readable_(struct evt_conn *conn, bool to_end)
{
	if (conn->flags & EVT_CONN_LINGERING)
		evt_conn_discard_(conn);
	else if (throws_away(conn))
		evt_conn_throw_away_(conn);
	else
		evt_conn_read_(conn, to_end);
}

/* evt-conn.h */

int evt_conn_want(struct evt_conn *conn, size_t len)
{
	if (evt_conn_check_(conn, "evt_conn_want") == -1)
		return -1;
	if (len > conn->setup->max_input)
		return evt_fail_(EINVAL, "evt_conn_want %zu, max_input is %zu",
			len, conn->setup->max_input);
	if (conn->flags & EVT_CONN_OVER) {
		errno = ENOTCONN;
		return -1;
	}
	conn->want = len;
	return 0;
}

int evt_conn_at_eof(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_at_eof") == -1)
		return -1;
	return (conn->flags & EVT_CONN_EOF_SEEN) != 0;
}

void evt_conn_pause(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_pause") == -1 ||
		conn->flags & EVT_CONN_OVER)
		return;
	conn->flags |= EVT_CONN_PAUSED;
	evt_conn_touch_(conn);
}

void evt_conn_resume(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_resume") == -1 ||
		!(conn->flags & EVT_CONN_PAUSED))
		return;
	conn->flags &= ~(uint32_t)EVT_CONN_PAUSED;
	conn->flags |= conn->home->on_data == conn ? EVT_CONN_LATER
						   : EVT_CONN_RESUMED;
	if (!(conn->flags & (EVT_CONN_GOT_BYTE | EVT_CONN_CLOSED))) {
		conn->opened_ms = (uint32_t)evt_now_ms_();
		evt_conn_schedule_(conn);
	}
	evt_conn_touch_(conn);
}
