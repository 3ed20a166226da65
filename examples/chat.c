/*
 * chat: what one types, all others read, whatever worker they are on.
 *
 * Start it:	examples/chat			(Ctrl-C ends it)
 * Try it:	nc localhost 9999		in two terminals
 *
 * Type "alice" in one and "bob" in the other: alice reads "* bob has come".
 * Type "hello" there: bob reads "alice: hello". /who lists all, /quit leaves.
 *
 * A connection belongs to its worker, and no other may write to it. So what is
 * said becomes a line of the room, a list that all workers share; each of them
 * shows it to its own members, at its own pace, and the last one frees it. All
 * see the same lines in the same order. A mutex guards the room. To post each
 * line to each worker, or to send it to each member's id, would need no list;
 * but a pipe may be full, and then some would have been told and others not.
 * Here a worker has one task at most in its pipe, deliver.
 *
 * Nobody waits for a slow reader: above 256 KiB unsent he is dropped ("* bob
 * has left (overflow)"). Speakers are made to wait: while the room or a pipe is
 * full, a connection is not read.
 */
#include "example.h"

#include <ctype.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>

#define MAX_NAME  20
#define MAX_LINE  1000 /* longer ones are cut into pieces */
#define ROOM_FULL 64   /* lines that are not shown everywhere yet */
#define HELD_MS   10   /* after which a speaker may try again */

struct line {
	struct line *next;
	uint64_t from; /* the connection that is not shown it */
	int readers;   /* the workers that have not shown it yet */
	char text[MAX_NAME + MAX_LINE + 32];
};

struct member {
	struct member *next;     /* in the room, if it has a name */
	char name[MAX_NAME + 1]; /* set by its worker, under the lock */
	bool held;               /* it is not read for HELD_MS */
};

/* How far a worker has read. */
struct reader {
	struct line *next; /* NULL: all is shown */
	struct line *last; /* of those that it shows now */
	bool awake;        /* deliver was posted, or runs */
};

static struct {
	struct evt_pool *pool;
	int workers;
	pthread_mutex_t lock; /* guards what follows */
	struct member *members;
	struct line *oldest; /* NULL: there is none */
	struct line *newest;
	int nr_lines;
	struct reader *readers; /* one for each worker */
} room = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Lines */

static void show(struct evt_conn *conn, void *arg)
{
	const struct member *member = evt_conn_data(conn);
	const struct reader *reader = arg;
	const struct line *line;

	if (!member->name[0])
		return;
	for (line = reader->next;; line = line->next) {
		if (line->from != evt_conn_id(conn))
			evt_conn_write(conn, line->text, strlen(line->text));
		if (line == reader->last)
			return;
	}
}

/* Under the lock. All read in the same order: a line that the last reader is
 * done with is the oldest. */
static void advance(struct reader *reader)
{
	struct line *end = reader->last->next;
	struct line *line;

	while ((line = reader->next) != end) {
		reader->next = line->next;
		if (--line->readers > 0)
			continue;
		room.oldest = line->next;
		room.nr_lines--;
		free(line);
	}
}

/* Shows what there is, then lets others have the worker; if it cannot be posted
 * again, it goes on instead. */
static void deliver(struct evt_worker *worker, void *arg)
{
	struct reader *reader = arg;

	pthread_mutex_lock(&room.lock);
	do {
		reader->last = room.newest;
		pthread_mutex_unlock(&room.lock);
		evt_worker_each_conn(worker, show, reader);
		pthread_mutex_lock(&room.lock);
		advance(reader);
		reader->awake = reader->next != NULL;
	} while (reader->awake && evt_worker_post(worker, deliver, arg) == -1);
	pthread_mutex_unlock(&room.lock);
}

/* Under the lock: posts deliver where there is something to show. False if a
 * worker's pipe was full. */
static bool wake(void)
{
	bool all = true;
	int i;

	for (i = 0; i < room.workers; i++) {
		struct reader *reader = &room.readers[i];
		struct evt_worker *worker = evt_pool_worker(room.pool, i);

		if (reader->next && !reader->awake)
			reader->awake = evt_worker_post(
						worker, deliver, reader) == 0;
		all = all && (reader->awake || !reader->next);
	}
	return all;
}

/* Under the lock. Without memory the line is lost; where a pipe is full, it is
 * shown later. */
__attribute__((format(printf, 2, 3))) static void say(
	struct evt_conn *conn, const char *format, ...)
{
	struct line *line = calloc(1, sizeof(*line));
	va_list args;
	int i;

	if (!line)
		return;
	va_start(args, format);
	vsnprintf(line->text, sizeof(line->text), format, args);
	va_end(args);
	line->from = evt_conn_id(conn);
	line->readers = room.workers;
	if (room.oldest)
		room.newest->next = line;
	else
		room.oldest = line;
	room.newest = line;
	room.nr_lines++;
	for (i = 0; i < room.workers; i++)
		if (!room.readers[i].next)
			room.readers[i].next = line;
	wake();
}

/* Members */

static bool is_good(const char *name)
{
	const struct member *member;
	const char *end = name;

	for (member = room.members; member; member = member->next)
		if (strcasecmp(member->name, name) == 0)
			return false;
	while (isgraph((unsigned char)*end))
		end++;
	return *end == '\0' && end - name <= MAX_NAME && name[0] != '/';
}

static void come(struct evt_conn *conn, const char *name)
{
	struct member *member = evt_conn_data(conn);

	if (!is_good(name)) {
		evt_conn_printf(conn,
			"* not that: 1 to 20 letters, digits or "
			"signs that nobody else has\n");
		return;
	}
	memcpy(member->name, name, strlen(name) + 1);
	member->next = room.members;
	room.members = member;
	evt_conn_printf(conn, "* hello %s (/who, /quit)\n", name);
	say(conn, "* %s has come\n", name);
}

/* why NULL: without a word. */
static void leave(struct evt_conn *conn, const char *why)
{
	struct member *member = evt_conn_data(conn);
	struct member **at = &room.members;

	pthread_mutex_lock(&room.lock);
	if (member->name[0]) {
		while (*at != member)
			at = &(*at)->next;
		*at = member->next;
		if (why)
			say(conn, "* %s has left (%s)\n", member->name, why);
		member->name[0] = '\0';
	}
	pthread_mutex_unlock(&room.lock);
}

/* What they type */

/* Copies a line, without its end and control characters: how long it was, or 0
 * if it has not come wholly, and more may come. */
static size_t take_line(const char *data, size_t len, char *text, bool at_end)
{
	size_t most = len < MAX_LINE ? len : MAX_LINE;
	const char *end = memchr(data, '\n', most);
	size_t used = end ? (size_t)(end - data) + 1 : most;
	size_t i;

	for (i = 0; i < used; i++)
		if (!iscntrl((unsigned char)data[i]))
			*text++ = data[i];
	*text = '\0';
	return end || most == MAX_LINE || at_end ? used : 0;
}

static void list(struct evt_conn *conn)
{
	const struct member *member;

	evt_conn_printf(conn, "* here:");
	for (member = room.members; member; member = member->next)
		evt_conn_printf(conn, " %s", member->name);
	evt_conn_printf(conn, "\n");
}

/* Under the lock. */
static void do_line(struct evt_conn *conn, const char *text)
{
	const struct member *member = evt_conn_data(conn);

	if (!member->name[0])
		come(conn, text);
	else if (strcmp(text, "/who") == 0)
		list(conn);
	else if (text[0] == '/')
		evt_conn_printf(conn, "* only /who and /quit\n");
	else
		say(conn, "%s: %s\n", member->name, text);
}

/* The handlers */

static void on_open(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_set_data(conn, calloc(1, sizeof(struct member)));
	if (evt_conn_data(conn))
		evt_conn_printf(conn, "* your name?\n");
	else
		evt_conn_abort(conn);
}

/* Takes a line; it is called again at once if there are more. */
static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	struct member *member = evt_conn_data(conn);
	char text[MAX_LINE + 1] = "";
	size_t used = take_line(data, len, text, evt_conn_at_eof(conn) == 1);

	(void)arg;
	if (used == 0 || text[0] == '\0')
		return used;
	if (strcmp(text, "/quit") == 0) {
		leave(conn, "quit");
		evt_conn_close(conn);
		return used;
	}
	pthread_mutex_lock(&room.lock);
	if (room.nr_lines >= ROOM_FULL)
		used = 0; /* so that it comes again */
	else
		do_line(conn, text);
	member->held = !wake() || used == 0;
	pthread_mutex_unlock(&room.lock);
	if (member->held) {
		evt_conn_pause(conn);
		evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, HELD_MS);
	}
	return used;
}

static void on_timeout(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	struct member *member = evt_conn_data(conn);

	(void)arg;
	if (!member->held) {
		leave(conn, evt_reason_name(reason));
		evt_conn_abort(conn);
		return;
	}
	pthread_mutex_lock(&room.lock);
	member->held = !wake();
	pthread_mutex_unlock(&room.lock);
	if (member->held)
		evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, HELD_MS);
	else
		evt_conn_resume(conn);
}

static void on_stop(struct evt_conn *conn, void *arg)
{
	(void)arg;
	leave(conn, NULL);
	evt_conn_printf(conn, "* the server stops\n");
	evt_conn_close(conn);
}

static void on_close(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)arg;
	if (evt_conn_data(conn))
		leave(conn, evt_reason_name(reason));
	free(evt_conn_data(conn));
}

static const struct evt_handlers handlers = {.on_open = on_open,
	.on_data = on_data,
	.on_timeout = on_timeout,
	.on_stop = on_stop,
	.on_close = on_close};

int main(int argc, char **argv)
{
	struct example example = example_options(
		(struct example){.url = "tcp://[::]:9999"}, argc, argv);
	struct evt_pool_options options = {.workers = example.workers};
	struct evt_listen_options limits = {
		.max_output = 256UL * 1024, .idle_ms = 3600 * 1000};
	int status = 1;

	room.pool = evt_pool_new(&options);
	room.workers = evt_pool_workers(room.pool);
	if (room.workers > 0)
		room.readers = calloc(
			(size_t)room.workers, sizeof(*room.readers));
	if (room.readers)
		status = example_listening(&example,
			evt_listen(room.pool, example.url, &handlers, &limits,
				NULL));
	if (status == 0 && evt_pool_run(room.pool) == -1)
		status = 1;
	evt_pool_free(room.pool);
	free(room.readers);
	return status;
}
