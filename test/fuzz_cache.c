/*
 * fuzz_cache.c: the protocol of examples/cache. Whatever is said is answered
 * with lines and values that are whole; and with the same ones, however the
 * bytes arrive: all at once, or in pieces.
 *
 * The program itself is here, on connections that are made of memory, and at a
 * time that stands still. They are full after a few KiB, so that an answer of
 * many keys is given in parts.
 *
 * fuzz: -max_len=8000 -len_control=200
 */
#include "fuzz.h"
#include "../evt-listener.h"

#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#define MOST_ANSWERS ((size_t)1 << 22)
#define MOST_REFS    4096
#define FULLNESS     32 /* each unsent byte counts as so many */

struct evt_conn {
	void *data;
	size_t want;
	size_t unsent;
	size_t len; /* of the answers */
	bool closed;
	bool resumed;
	int nr_refs;
	void *refs[MOST_REFS];
	char answers[MOST_ANSWERS];
};

static bool keeps_refs; /* until it is sent, and not only as long as a call */
static void (*release)(void *arg);

static int fake_write(struct evt_conn *conn, const void *data, size_t len)
{
	if (conn->closed || len > MOST_ANSWERS - conn->len)
		return -1;
	memcpy(conn->answers + conn->len, data, len);
	conn->len += len;
	conn->unsent += len;
	return 0;
}

__attribute__((format(printf, 2, 3))) static int fake_printf(
	struct evt_conn *conn, const char *format, ...)
{
	char text[4096];
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	REQUIRE(len >= 0 && len < (int)sizeof(text));
	return fake_write(conn, text, (size_t)len);
}

static int fake_write_ref(struct evt_conn *conn, const void *data, size_t len,
	void (*done)(void *arg), void *arg)
{
	if (conn->nr_refs == MOST_REFS || fake_write(conn, data, len) == -1)
		return -1;
	release = done;
	if (keeps_refs)
		conn->refs[conn->nr_refs++] = arg;
	else
		done(arg);
	return 0;
}

static size_t fake_pending(struct evt_conn *conn)
{
	return conn->unsent * FULLNESS;
}

static int fake_want(struct evt_conn *conn, size_t len)
{
	conn->want = len;
	return 0;
}

static void fake_close(struct evt_conn *conn)
{
	conn->closed = true;
}

static void fake_pause(struct evt_conn *conn)
{
	conn->resumed = false;
}

static void fake_resume(struct evt_conn *conn)
{
	conn->resumed = true;
}

static void *fake_data(struct evt_conn *conn)
{
	return conn->data;
}

static void fake_set_data(struct evt_conn *conn, void *data)
{
	conn->data = data;
}

#define evt_conn_write(...)     fake_write(__VA_ARGS__)
#define evt_conn_printf(...)    fake_printf(__VA_ARGS__)
#define evt_conn_write_ref(...) fake_write_ref(__VA_ARGS__)
#define evt_conn_pending(...)   fake_pending(__VA_ARGS__)
#define evt_conn_want(...)      fake_want(__VA_ARGS__)
#define evt_conn_close(...)     fake_close(__VA_ARGS__)
#define evt_conn_pause(...)     fake_pause(__VA_ARGS__)
#define evt_conn_resume(...)    fake_resume(__VA_ARGS__)
#define evt_conn_data(...)      fake_data(__VA_ARGS__)
#define evt_conn_set_data(...)  fake_set_data(__VA_ARGS__)
#define evt_pool_stats(of, to)  memset(to, 0, sizeof(*(to)))
#define evt_pool_workers(...)   1
#define time(...)               1700000000
#define main(...)               cache_main(__VA_ARGS__)
#include "../examples/cache.c"
#undef main

/* A connection, as the library sees to it */

/* All that is unsent is sent. */
static void drain(struct evt_conn *conn)
{
	while (conn->nr_refs > 0)
		release(conn->refs[--conn->nr_refs]);
	conn->unsent = 0;
}

/* The bytes from from to to are there: how far they were consumed. */
static size_t give(
	struct evt_conn *conn, const char *data, size_t from, size_t to)
{
	bool again = true;
	size_t len;
	char *copy;

	while (again && from < to && !conn->closed && to - from >= conn->want) {
		conn->want = 0;
		conn->resumed = false;
		copy = exact_copy(data + from, to - from);
		len = on_data(conn, copy, to - from, NULL);
		free(copy);
		REQUIRE(len <= to - from);
		from += len;
		again = len > 0 || conn->resumed || fake_pending(conn) > UNSENT;
		drain(conn);
	}
	return from;
}

static void open_cache(size_t limit)
{
	memset(&items, 0, sizeof(items));
	init_items(limit);
}

static void close_cache(void)
{
	size_t i;

	for (i = 0; i < ITEM_STRIPES; i++)
		while (items.stripes[i].table)
			remove_item(&items.stripes[i], items.stripes[i].table);
	REQUIRE(items.count == 0);
	REQUIRE(items.bytes == 0);
}

/* The answers to all of it, in pieces that are so long, in turn. */
static void converse(struct evt_conn *conn, const char *data, size_t len,
	const uint8_t *pieces, size_t nr)
{
	size_t done = 0;
	size_t at = 0;
	size_t i = 0;

	memset(conn, 0, offsetof(struct evt_conn, answers));
	open_cache(keeps_refs ? 64 << 20 : 2000);
	while (at < len) {
		size_t piece = nr == 0 ? len : len / 500 + 1 + pieces[i++ % nr];

		at = piece > len - at ? len : at + piece;
		done = give(conn, data, done, at);
	}
	close_cache();
}

/* The answers */

static bool is_known(const char *line, size_t len)
{
	static const char *const known[] = {"VALUE ", "END", "STORED",
		"NOT_STORED", "EXISTS", "NOT_FOUND", "DELETED", "TOUCHED", "OK",
		"ERROR", "CLIENT_ERROR ", "SERVER_ERROR ", "STAT ", "RESET",
		"VERSION "};
	size_t i;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (len >= strlen(known[i]) &&
			memcmp(line, known[i], strlen(known[i])) == 0)
			return true;
	return len > 0 && strspn(line, "0123456789") == len;
}

/* The bytes of the value that follows the line; 0: none does. */
static size_t value_behind(const char *line, size_t len)
{
	const char *at = line;
	int i;

	if (memcmp(line, "VALUE ", 6) != 0)
		return 0;
	for (i = 0; i < 3; i++) {
		at = memchr(at, ' ', len - (size_t)(at - line));
		REQUIRE(at);
		at++;
	}
	return strtoul(at, NULL, 10) + 2;
}

static void look_at(const struct evt_conn *conn)
{
	const char *at = conn->answers;
	const char *end = at + conn->len;
	const char *line_end;
	size_t len;

	while (at < end) {
		line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
		REQUIRE(line_end);
		len = (size_t)(line_end - at);
		REQUIRE(is_known(at, len));
		len += 2 + value_behind(at, len);
		REQUIRE(len <= (size_t)(end - at));
		at += len;
		REQUIRE(memcmp(at - 2, "\r\n", 2) == 0);
	}
}

/* What comes in part may not become a line as long as that. */
static bool has_long_line(const char *data, size_t len)
{
	size_t run = 0;
	size_t i;

	for (i = 0; i < len && run <= MAX_REST; i++)
		run = data[i] == '\n' ? 0 : run + 1;
	return run > MAX_REST;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct evt_conn whole;
	static struct evt_conn parts;
	struct input input = {bytes, bytes + size};
	uint8_t pieces[3];
	const char *data;
	size_t len;

	keeps_refs = take_below(&input, 2);
	pieces[0] = take_byte(&input);
	pieces[1] = take_byte(&input);
	pieces[2] = take_byte(&input);
	data = (const char *)input.at;
	len = (size_t)(input.end - input.at);
	converse(&whole, data, len, pieces, 0);
	converse(&parts, data, len, pieces, sizeof(pieces));
	look_at(&whole);
	look_at(&parts);
	if ((whole.closed || parts.closed) && has_long_line(data, len))
		return 0;
	REQUIRE(whole.closed == parts.closed);
	REQUIRE(whole.len == parts.len);
	REQUIRE(memcmp(whole.answers, parts.answers, whole.len) == 0);
	return 0;
}
