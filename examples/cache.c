/*
 * cache: remembers what others have found out; memcached's text protocol.
 *
 * Start it:	examples/cache			64 MB; -m 1024: a gigabyte
 * Try it:	nc -C localhost 11211
 *
 * Type "set fruit 0 60 5", then "apple": STORED. Type "get fruit" within a
 * minute: VALUE fruit 0 5, apple, END. memcached's clients can be used: answers
 * are those of memcached 1.6, byte for byte. "stats" tells more.
 *
 * A key's hash chooses one of 64 stripes, each with a lock and a hash table: so
 * workers seldom meet. An item holds what a get answers as a text, which does
 * not change while refs says that others read it. Above the limit items leave
 * in the order they came, of the stripe that has grown, then of others; but
 * those that were used go to the end instead, as if they had just come.
 *
 * A connection has no memory of its own: the library keeps what has come in
 * part, and what is left to do is a number in place of a pointer.
 */
#include "example.h"

#include <ctype.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#define HASH_NONFATAL_OOM 1 /* hh.tbl of what could not be added is NULL */
#include <uthash.h>
#undef HASH_BKT_CAPACITY_THRESH
#define HASH_BKT_CAPACITY_THRESH 4U /* items of a bucket; 10 are slow */

#define STRIPES   64
#define MAX_KEY   250
#define MAX_ITEM  (1UL << 20)
#define MAX_REST  2048 /* of a line that has come in part, but for a get */
#define MAX_WORDS 8
#define UNSENT    (256UL << 10) /* bytes that are enough for now */

/* Each with its least and most words. */
/* clang-format off */
#define COMMANDS(X) \
	X(GET, "28get") X(GETS, "28gets") X(GAT, "28gat") X(GATS, "28gats") \
	X(SET, "56set") X(ADD, "56add") X(REPLACE, "56replace") \
	X(APPEND, "56append") X(PREPEND, "56prepend") X(CAS, "67cas") \
	X(INCR, "34incr") X(DECR, "34decr") X(TOUCH, "34touch") \
	X(DELETE, "24delete") X(FLUSH_ALL, "13flush_all") \
	X(VERBOSITY, "23verbosity") X(STATS, "18stats") \
	X(VERSION, "18version") X(QUIT, "18quit")
/* clang-format on */
#define AS_OP(op, text)   op,
#define AS_TEXT(op, text) text,
enum op { COMMANDS(AS_OP) NR_OPS };
static const char *const commands[] = {COMMANDS(AS_TEXT)};

static const char bad_line[] = "CLIENT_ERROR bad command line format\r\n";
static const char bad_time[] = "CLIENT_ERROR invalid exptime argument\r\n";

struct text {
	const char *at;
	size_t len;
};

struct item {
	UT_hash_handle hh;
	unsigned long cas;
	atomic_uint refs;          /* the table's, and those of who reads it */
	uint32_t stored, expires;  /* the seconds; never: 0 */
	uint32_t flushes;          /* there were before it was stored */
	uint32_t flags, head, len; /* bytes before the value, and of it */
	bool used;
	char text[]; /* "VALUE key flags len\r\n", the value, "\r\n" */
};

static struct stripe {
	_Alignas(64) pthread_mutex_t lock;
	struct item *table;              /* the first that came is the first */
	unsigned long cas;               /* the last given */
	unsigned long counts[NR_OPS][2]; /* misses and hits */
} stripes[STRIPES];

static struct {
	struct evt_pool *pool;
	size_t limit;
	atomic_size_t bytes; /* of all items */
	atomic_ulong items, evictions;
	atomic_uint flushes;
	atomic_uint flush_at; /* what is stored up to then is dead then */
} cache;

/* What a worker is at: a connection, a line, an item. */
static _Thread_local struct {
	struct evt_conn *conn;
	uintptr_t todo; /* bytes to skip << 1 | 1, or keys that are done << 1 */
	const char *line, *end, *next, *last; /* it; the next; all there is */
	struct text words[MAX_WORDS], value;
	int nr; /* of words */
	enum op op;
	bool noreply;
	struct stripe *stripe;
	unsigned hash;
	uint32_t now, expires;
	unsigned long flags, number;
	char digits[24];
} my;

static bool is_word(struct text word, const char *text)
{
	return word.len == strlen(text) && memcmp(word.at, text, word.len) == 0;
}

static struct text next_word(const char *at)
{
	const char *end;

	while (at < my.end && *at == ' ')
		at++;
	end = memchr(at, ' ', (size_t)(my.end - at));
	return (struct text){at, (size_t)((end ? end : my.end) - at)};
}

/* As strtoul does, and strtol, of a word that no digit follows: white space may
 * be before it, and after it with anything. */
static bool read_number(struct text word, unsigned long *number, bool is_signed)
{
	const char *end = word.at + word.len;
	char *stop;

	while (word.at < end && isspace((unsigned char)*word.at))
		word.at++;
	if (word.at == end)
		return false;
	errno = 0;
	*number = is_signed ? (unsigned long)strtol(word.at, &stop, 10)
			    : strtoul(word.at, &stop, 10);
	return errno == 0 && stop != word.at &&
		(stop == end || !*stop || isspace((unsigned char)*stop)) &&
		(is_signed || *number <= INT64_MAX || *word.at != '-');
}

/* Up to 30 days: from now; more: since 1970; less than 0: over. */
static bool read_expiry(struct text word)
{
	unsigned long number = 0;
	bool good = read_number(word, &number, true);

	my.expires = (uint32_t)number;
	if (my.expires > INT32_MAX)
		my.expires = 1;
	else if (my.expires > 0 && my.expires <= 60 * 60 * 24 * 30)
		my.expires += my.now;
	return good;
}

static void release(void *arg)
{
	struct item *item = arg;

	if (--item->refs > 0)
		return;
	cache.bytes -= sizeof(*item) + item->head + item->len;
	cache.items--;
	free(item);
}

static void remove_item(struct item *item)
{
	HASH_DEL(my.stripe->table, item);
	release(item);
}

/* The item of key, or NULL; its stripe is locked then. */
static struct item *find(struct text key)
{
	struct item *item;

	HASH_VALUE(key.at, key.len, my.hash);
	my.stripe = &stripes[my.hash >> 16 & (STRIPES - 1)];
	pthread_mutex_lock(&my.stripe->lock);
	HASH_FIND_BYHASHVALUE(
		hh, my.stripe->table, key.at, key.len, my.hash, item);
	if (item &&
		((item->expires && item->expires <= my.now) ||
			item->flushes != cache.flushes ||
			(item->stored <= cache.flush_at &&
				cache.flush_at <= my.now))) {
		remove_item(item);
		item = NULL;
	}
	if (item)
		item->used = true;
	my.stripe->counts[my.op][item != NULL]++;
	return item;
}

/* As memcached has it: with 48 bytes, a cas, flags if any, and an end. */
static bool is_too_large(size_t len)
{
	return my.words[1].len + len + (my.flags ? 63 : 59) > MAX_ITEM;
}

/* The value is first and second now. old, unless NULL, leaves, or it is written
 * over: by as many bytes, or by a number, which spaces follow. */
static const char *store(
	struct item *old, struct text first, struct text second)
{
	struct text key = my.words[1];
	size_t len = first.len + second.len;
	size_t room = sizeof("VALUE  4294967295 1048576\r\n") + key.len;
	struct item *item = old;

	if (!old || old->refs > 1 || old->flags != my.flags ||
		my.op == APPEND || my.op == PREPEND ||
		(my.op < INCR ? old->len != len : old->len < len)) {
		item = calloc(1, sizeof(*item) + room + len + 2);
		if (!item)
			return "SERVER_ERROR out of memory storing object\r\n";
		item->refs = 1;
		item->flags = (uint32_t)my.flags;
		item->len = (uint32_t)len;
		item->head = (uint32_t)snprintf(item->text, room,
			"VALUE %.*s %u %zu\r\n", (int)key.len, key.at,
			item->flags, len);
		memcpy(item->text + item->head + len, "\r\n", 2);
		cache.bytes += sizeof(*item) + item->head + len;
		cache.items++;
	}
	memset(item->text + item->head + len, ' ', item->len - len);
	memcpy(mempcpy(item->text + item->head, first.at, first.len), second.at,
		second.len);
	item->expires = my.expires;
	item->stored = my.now;
	item->flushes = cache.flushes;
	item->cas = my.stripe->cas += STRIPES;
	if (item == old)
		return "STORED\r\n";
	if (old)
		remove_item(old);
	HASH_ADD_KEYPTR_BYHASHVALUE(
		hh, my.stripe->table, item->text + 6, key.len, my.hash, item);
	if (item->hh.tbl)
		return "STORED\r\n";
	release(item);
	return "SERVER_ERROR out of memory storing object\r\n";
}

/* No stripe is locked. The newest of the one that has grown stays. */
static void evict(void)
{
	struct stripe *stripe;
	struct item *item;
	unsigned i;

	for (i = 0; i < STRIPES && cache.bytes > cache.limit; i++) {
		stripe = &stripes[((my.hash >> 16) + i) % STRIPES];
		pthread_mutex_lock(&stripe->lock);
		while (cache.bytes > cache.limit && (item = stripe->table) &&
			(i > 0 || item->hh.next)) {
			HASH_DEL(stripe->table, item);
			if (item->used)
				HASH_ADD_KEYPTR_BYHASHVALUE(hh, stripe->table,
					item->hh.key, item->hh.keylen,
					item->hh.hashv, item);
			if (item->used && item->hh.tbl) {
				item->used = false;
			} else {
				release(item);
				cache.evictions++;
			}
		}
		pthread_mutex_unlock(&stripe->lock);
	}
}

static void get_one(struct text key)
{
	struct item *item = find(key);
	size_t from = 0;

	if (item)
		item->refs++;
	if (item && my.op >= GAT)
		item->expires = my.expires;
	pthread_mutex_unlock(&my.stripe->lock);
	if (!item)
		return;
	if (my.op == GETS || my.op == GATS) {
		from = item->head;
		evt_conn_printf(my.conn, "%.*s %lu\r\n", (int)from - 2,
			item->text, item->cas);
	}
	if (evt_conn_write_ref(my.conn, item->text + from,
		    item->head + item->len + 2 - from, release, item) == -1)
		release(item);
}

/* The keys from at on; if that is too much for once, the line comes again. */
static const char *get(const char *at)
{
	struct text key = {at, 0};
	uintptr_t nr = 0;

	while ((key = next_word(key.at + key.len)).len > 0)
		if (key.len > MAX_KEY)
			return bad_line;
	for (; (key = next_word(at)).len > 0; at = key.at + key.len) {
		if (++nr <= my.todo >> 1)
			continue;
		if (evt_conn_pending(my.conn) > UNSENT) {
			my.todo = (nr - 1) << 1;
			my.next = NULL;
			return "";
		}
		get_one(key);
	}
	my.todo = 0;
	return "END\r\n";
}

/* To the item of the key, which may be NULL; its stripe is locked. */
static const char *change(struct item *item)
{
	struct text old = {"", 0};
	const char *answer;
	unsigned long number;

	if (my.op <= CAS && is_too_large(my.value.len)) {
		if (my.op == SET && item)
			remove_item(item);
		return "SERVER_ERROR object too large for cache\r\n";
	}
	if (my.op == ADD ? item != NULL
			 : !item && my.op >= REPLACE && my.op <= PREPEND)
		return "NOT_STORED\r\n";
	if (!item && my.op >= CAS)
		return "NOT_FOUND\r\n";
	if (my.op == CAS && item->cas != my.number)
		return "EXISTS\r\n";
	if (my.op <= REPLACE || my.op == CAS)
		return store(item, my.value, old);
	if (my.op == DELETE)
		remove_item(item);
	else if (my.op == TOUCH)
		item->expires = my.expires;
	if (my.op >= TOUCH)
		return my.op == TOUCH ? "TOUCHED\r\n" : "DELETED\r\n";
	my.flags = item->flags;
	my.expires = item->expires;
	old = (struct text){item->text + item->head, item->len};
	if (my.op == APPEND || my.op == PREPEND) {
		if (is_too_large(old.len + my.value.len))
			return "NOT_STORED\r\n";
		return my.op == APPEND ? store(item, old, my.value)
				       : store(item, my.value, old);
	}
	if (!read_number(old, &number, false))
		return "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
	if (my.op == DECR)
		my.number = number < my.number ? -number : -my.number;
	number += my.number;
	my.value.at = my.digits;
	my.value.len = (size_t)snprintf(my.digits, sizeof(my.digits), "%lu\r\n",
			       number) -
		2;
	old.len = 0;
	answer = store(item, my.value, old);
	return strcmp(answer, "STORED\r\n") == 0 ? my.digits : answer;
}

/* What a line says that changes an item, and what is behind it. */
static const char *change_line(void)
{
	const struct text *words = my.words;
	size_t left = (size_t)(my.last - my.next);
	unsigned long len = 0;
	const char *answer;
	bool zero = my.nr > 2 && is_word(words[2], "0");

	if (my.op == DELETE && my.nr > 2 &&
		(my.nr > 3 ? !zero || !my.noreply : !zero && !my.noreply))
		return "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
	if (words[1].len > MAX_KEY)
		return bad_line;
	if (my.op == TOUCH && !read_expiry(words[2]))
		return bad_time;
	if ((my.op == INCR || my.op == DECR) &&
		!read_number(words[2], &my.number, false))
		return "CLIENT_ERROR invalid numeric delta argument\r\n";
	if (my.op <= CAS) {
		if (!read_number(words[2], &my.flags, false) ||
			!read_expiry(words[3]) ||
			!read_number(words[4], &len, true) ||
			(uint32_t)len > INT32_MAX - 2 ||
			(my.op == CAS &&
				!read_number(words[5], &my.number, false)))
			return bad_line;
		my.flags &= UINT32_MAX;
		my.value = (struct text){my.next, (uint32_t)len};
		len = my.value.len + 2;
		if (left < len && is_too_large(my.value.len)) {
			my.todo = (len - left) << 1 | 1;
			len = left;
		}
		my.next = left < len ? NULL : my.next + len;
		if (!my.next) {
			evt_conn_want(
				my.conn, len + (size_t)(my.value.at - my.line));
			return "";
		}
		if (!is_too_large(my.value.len) &&
			memcmp(my.next - 2, "\r\n", 2) != 0)
			return "CLIENT_ERROR bad data chunk\r\n";
	}
	answer = change(find(words[1]));
	pthread_mutex_unlock(&my.stripe->lock);
	evict();
	return answer;
}

static const char *stats(void)
{
	bool reset = my.nr > 1 && is_word(my.words[1], "reset");
	struct evt_stats pool = {0};
	unsigned long sum;
	unsigned i, k;

	if (my.nr > 1 && !reset)
		return "ERROR\r\n";
	for (k = 0; k < 2 * FLUSH_ALL; k++) {
		for (i = 0, sum = 0; i < STRIPES; i++) {
			pthread_mutex_lock(&stripes[i].lock);
			sum += stripes[i].counts[k / 2][k % 2];
			if (reset)
				stripes[i].counts[k / 2][k % 2] = 0;
			pthread_mutex_unlock(&stripes[i].lock);
		}
		if (!reset)
			evt_conn_printf(my.conn, "STAT %s_%s %lu\r\n",
				commands[k / 2] + 2, k % 2 ? "hits" : "misses",
				sum);
	}
	if (reset)
		return "RESET\r\n";
	evt_pool_stats(cache.pool, &pool);
	evt_conn_printf(my.conn,
		"STAT pid %d\r\nSTAT time %u\r\nSTAT version " EVT_VERSION
		"\r\nSTAT threads %d\r\nSTAT curr_connections %lu\r\n"
		"STAT total_connections %lu\r\nSTAT limit_maxbytes %zu\r\n"
		"STAT bytes %zu\r\nSTAT curr_items %lu\r\n"
		"STAT evictions %lu\r\nEND\r\n",
		(int)getpid(), my.now, evt_pool_workers(cache.pool), pool.open,
		pool.accepted, cache.limit, (size_t)cache.bytes,
		(unsigned long)cache.items, (unsigned long)cache.evictions);
	return "";
}

static const char *run(void)
{
	struct text first = my.words[my.op != GET && my.op != GETS];

	if (my.op < FLUSH_ALL && my.op > GATS)
		return change_line();
	my.expires = 0;
	if ((my.op == GAT || my.op == GATS ||
		    (my.op == FLUSH_ALL && my.nr > 1 + my.noreply)) &&
		!read_expiry(my.words[1]))
		return bad_time;
	switch (my.op) {
	case FLUSH_ALL:
		cache.flush_at = my.expires > 1 ? my.expires - 1 : 0;
		cache.flushes += my.expires <= 1;
		return "OK\r\n";
	case VERBOSITY: /* there is no more to be said */
		return read_number(first, &my.number, false) ? "OK\r\n"
							     : bad_line;
	case STATS:
		return stats();
	case VERSION:
		return "VERSION 1.6.0 (evt " EVT_VERSION ")\r\n";
	case QUIT:
		evt_conn_close(my.conn);
		my.last = my.next;
		return "";
	default:
		return get(first.at + first.len);
	}
}

/* The line from my.next on; false: it is to come again, with more. */
static bool do_line(void)
{
	size_t left = (size_t)(my.last - my.next);
	const char *answer = "ERROR\r\n";
	struct text word;

	my.line = my.next;
	my.end = memchr(my.line, '\n', left);
	if (!my.end && left > MAX_REST && strncmp(my.line, "get ", 4) != 0 &&
		strncmp(my.line, "gets ", 5) != 0)
		evt_conn_close(my.conn);
	if (!my.end)
		return false;
	my.next = my.end + 1;
	if (my.end > my.line && my.end[-1] == '\r')
		my.end--;
	my.end = my.line + strnlen(my.line, (size_t)(my.end - my.line));
	word = next_word(my.line);
	for (my.nr = 0; my.nr < MAX_WORDS && word.len > 0; my.nr++) {
		my.words[my.nr] = word;
		word = next_word(word.at + word.len);
	}
	for (my.op = my.nr > 0 ? GET : NR_OPS; my.op < NR_OPS; my.op++)
		if (is_word(my.words[0], commands[my.op] + 2))
			break;
	if (my.op == NR_OPS && my.nr > 0 &&
		!strchr("gsacidt", *my.words[0].at) &&
		strncmp(my.words[my.nr - 1].at, "HTTP/", 5) == 0)
		my.op = QUIT; /* a browser: what else it says is no command */
	my.noreply = my.op >= SET && my.op < STATS &&
		my.nr > 1 + (my.op == DELETE) &&
		is_word(my.words[my.nr - 1], "noreply");
	if (my.op < NR_OPS && my.nr >= commands[my.op][0] - '0' &&
		my.nr <= commands[my.op][1] - '0')
		answer = run();
	else
		my.noreply = false;
	if (my.next && !my.noreply)
		evt_conn_write(my.conn, answer, strlen(answer));
	return my.next != NULL;
}

static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	const char *at = data;

	(void)arg;
	my.conn = conn;
	my.todo = (uintptr_t)evt_conn_data(conn);
	my.now = (uint32_t)time(NULL);
	my.last = data + len;
	if (my.todo & 1) {
		at += my.todo >> 1 < len ? my.todo >> 1 : len;
		my.todo = at < my.last ? 0 : my.todo - (len << 1);
	}
	for (my.next = at; at < my.last && evt_conn_pending(conn) <= UNSENT;
		at = my.next)
		if (!do_line())
			break;
	evt_conn_set_data(conn, (void *)my.todo);
	return (size_t)(at - data);
}

int main(int argc, char **argv)
{
	struct example example = example_options(
		(struct example){.url = "tcp://[::]:11211",
			.usage = "[-m MB]",
			.letter = 'm',
			.value = "64"},
		argc, argv);
	struct evt_pool_options options = {.workers = example.workers};
	struct evt_handlers handlers = {.on_data = on_data};
	struct evt_listen_options limits = {.first_byte_ms = -1, .idle_ms = -1};
	int status;

	limits.max_input = MAX_ITEM + (128UL << 10);
	cache.limit = (size_t)example_number(&example, example.value, 1 << 20)
		<< 20;
	for (status = 0; status < STRIPES; status++) {
		stripes[status].cas = (unsigned long)status;
		pthread_mutex_init(&stripes[status].lock, NULL);
	}
	cache.pool = evt_pool_new(&options);
	status = example_listening(&example,
		evt_listen(cache.pool, example.url, &handlers, &limits, NULL));
	if (status == 0 && evt_pool_run(cache.pool) == -1)
		status = 1;
	evt_pool_free(cache.pool);
	return status;
}
