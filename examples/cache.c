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
 * A key's hash chooses one of 64 stripes, each with a lock, a hash table and a
 * list in the order of use; workers seldom meet there. An item holds what a get
 * answers as a text, which does not change while refs says that others read it:
 * small ones are copied, large ones sent from where they lie. Above the limit
 * those leave that were not used for longest, of the stripe that has grown, then
 * of others. What is over is removed when it is found.
 *
 * A connection has no memory of its own: the library keeps what has come in
 * part, and what is left to do is a number in place of a pointer: bytes to
 * skip, or keys to get, since who asks for much is answered as fast as he reads.
 */
#include "example.h"

#define HASH_NONFATAL_OOM 1 /* hh.tbl of what could not be added is NULL */

#include <ctype.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#include <uthash.h>

#undef HASH_BKT_CAPACITY_THRESH
#define HASH_BKT_CAPACITY_THRESH 4U /* shorter chains */
#define STRIPES                  64
#define MAX_KEY                  250
#define MAX_ITEM                 (1UL << 20)
#define MAX_REST                 2048 /* of a line that has come in part, but for a get */
#define MAX_WORDS                8
#define UNSENT                   (256UL << 10) /* bytes that are enough for now */

/* With the least and the most words of each. */
#define COMMANDS(X)                                                         \
	X(GET, get, 2, 8)                                                   \
	X(GETS, gets, 2, 8)                                                 \
	X(GAT, gat, 2, 8)                                                   \
	X(GATS, gats, 2, 8) X(SET, set, 5, 6) X(ADD, add, 5, 6) X(          \
		REPLACE, replace, 5, 6) X(APPEND, append, 5, 6) X(PREPEND,  \
		prepend, 5, 6) X(CAS, cas, 6, 7) X(INCR, incr, 3, 4)        \
		X(DECR, decr, 3, 4) X(TOUCH, touch, 3, 4) X(                \
			DELETE, delete, 2, 4) X(FLUSH_ALL, flush_all, 1, 3) \
			X(VERBOSITY, verbosity, 2, 3) X(STATS, stats, 1, 8) \
				X(VERSION, version, 1, 8) X(QUIT, quit, 1, 8)
#define AS_OP(op, name, min, max)      op,
#define AS_COMMAND(op, name, min, max) {#name, min, max},

enum op { COMMANDS(AS_OP) NR_OPS };

static const struct {
	const char *name;
	int min, max;
} commands[] = {COMMANDS(AS_COMMAND)};

static const char bad_line[] = "CLIENT_ERROR bad command line format\r\n";
static const char bad_time[] = "CLIENT_ERROR invalid exptime argument\r\n";
static const char no_memory[] = "SERVER_ERROR out of memory storing object\r\n";

struct text {
	const char *at;
	size_t len;
};

struct item {
	UT_hash_handle hh;
	unsigned long cas;
	atomic_uint refs;         /* the table's, and those of who reads it */
	uint32_t stored, expires; /* the seconds; never: 0 */
	uint32_t flush;           /* the last before it was stored */
	uint32_t flags;
	uint32_t head, len; /* of text before the value, and of that */
	bool used;          /* since it was stored or spared */
	char text[];        /* "VALUE key flags len\r\n", the value, "\r\n" */
};

static struct stripe {
	_Alignas(64) pthread_mutex_t lock;
	struct item *table; /* the oldest is the first */
	unsigned long cas;  /* the last given */
	unsigned long hits[NR_OPS], misses[NR_OPS], evictions;
} stripes[STRIPES];

static struct {
	struct evt_pool *pool;
	time_t start;
	size_t limit;
	atomic_size_t bytes;  /* of all items */
	atomic_uint flushes;  /* their number */
	atomic_uint flush_at; /* what is stored up to then is dead then */
} cache;

/* What a worker is at: a connection, a line, an item. */
static _Thread_local struct {
	struct evt_conn *conn;
	uint32_t now, expires, flags;
	uintptr_t todo; /* SKIP: bytes << 2; KEYS: expires << 4 | op << 2 */
	enum op op;
	struct text words[MAX_WORDS], value;
	int nr; /* of words */
	bool noreply;
	const char *end, *next, *last; /* of the line; the next one; of all */
	struct stripe *stripe;
	unsigned hash;
	unsigned long number;
	char digits[24];
} my;

enum todo { SKIP = 1, KEYS = 2 };

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

/* As strtoul does, and strtol: the word may begin with white space, and end
 * with that and anything; no digit follows it. */
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
		(is_signed || *number <= LONG_MAX || *word.at != '-');
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
	free(item);
}

static void lock_stripe(unsigned hash)
{
	my.hash = hash;
	my.stripe = &stripes[hash >> 16 & (STRIPES - 1)];
	pthread_mutex_lock(&my.stripe->lock);
}

/* The newest of its stripe now; false, and it is gone: no memory. */
static bool enter(struct item *item, size_t key_len, unsigned hash)
{
	HASH_ADD_KEYPTR_BYHASHVALUE(
		hh, my.stripe->table, item->text + 6, key_len, hash, item);
	if (item->hh.tbl)
		return true;
	release(item);
	return false;
}

static void remove_item(struct item *item)
{
	HASH_DEL(my.stripe->table, item);
	release(item);
}

static bool is_dead(const struct item *item)
{
	return (item->expires && item->expires <= my.now) ||
		item->flush != cache.flushes ||
		(item->stored <= cache.flush_at && cache.flush_at <= my.now);
}

/* The item of key, or NULL; its stripe is locked then. */
static struct item *find(struct text key)
{
	struct item *item;
	unsigned hash;

	HASH_VALUE(key.at, key.len, hash);
	lock_stripe(hash);
	HASH_FIND_BYHASHVALUE(
		hh, my.stripe->table, key.at, key.len, hash, item);
	if (item && is_dead(item)) {
		remove_item(item);
		item = NULL;
	}
	if (item)
		item->used = true;
	(item ? my.stripe->hits : my.stripe->misses)[my.op]++;
	return item;
}

/* As memcached has it: with 48 bytes, a cas, flags if any, and an end. */
static bool is_too_large(size_t len)
{
	return my.words[1].len + len + (my.flags ? 63 : 59) > MAX_ITEM;
}

static struct item *new_item(size_t len)
{
	struct text key = my.words[1];
	size_t room = sizeof("VALUE  4294967295 1048576\r\n") + key.len;
	struct item *item = malloc(sizeof(*item) + room + len + 2);

	if (!item)
		return NULL;
	memset(item, 0, sizeof(*item));
	item->refs = 1;
	item->flags = my.flags;
	item->len = (uint32_t)len;
	item->head = (uint32_t)snprintf(item->text, room,
		"VALUE %.*s %u %zu\r\n", (int)key.len, key.at, my.flags, len);
	memcpy(item->text + item->head + len, "\r\n", 2);
	cache.bytes += sizeof(*item) + item->head + len;
	return item;
}

/* The value is first and second now. old, unless NULL, leaves, or it is written
 * over: by as many bytes, or by a number, which spaces follow. */
static const char *store(
	struct item *old, struct text first, struct text second)
{
	size_t len = first.len + second.len;
	struct item *item = old;

	if (!old || old->refs > 1 || old->flags != my.flags ||
		my.op == APPEND || my.op == PREPEND ||
		(my.op < INCR ? old->len != len : old->len < len))
		item = new_item(len);
	if (!item)
		return no_memory;
	memset(item->text + item->head + len, ' ', item->len - len);
	memcpy(mempcpy(item->text + item->head, first.at, first.len), second.at,
		second.len);
	item->expires = my.expires;
	item->stored = my.now;
	item->flush = cache.flushes;
	item->cas = ++my.stripe->cas;
	if (old && item != old)
		remove_item(old);
	return item == old || enter(item, my.words[1].len, my.hash)
		? "STORED\r\n"
		: no_memory;
}

/* No stripe is locked. Where it has grown the newest stays, elsewhere all may
 * go; who was used gets another turn. */
static void evict(void)
{
	unsigned hash = my.hash;
	struct item *item;
	unsigned i;

	for (i = 0; i < STRIPES && cache.bytes > cache.limit; i++) {
		lock_stripe(hash + (i << 16));
		while (cache.bytes > cache.limit && (item = my.stripe->table) &&
			(i > 0 || item->hh.next)) {
			HASH_DEL(my.stripe->table, item);
			if (item->used && !is_dead(item)) {
				item->used = false;
				enter(item, item->hh.keylen, item->hh.hashv);
				continue;
			}
			my.stripe->evictions++;
			release(item);
		}
		pthread_mutex_unlock(&my.stripe->lock);
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

/* The keys from at on. What would be too much for once is left to do. */
static const char *get(const char *at)
{
	struct text key;

	while ((key = next_word(at)).len > 0) {
		if (evt_conn_pending(my.conn) > UNSENT) {
			my.todo = (uintptr_t)my.expires << 4 |
				(uintptr_t)my.op << 2 | KEYS;
			my.next = key.at;
			return "";
		}
		get_one(key);
		at = key.at + key.len;
	}
	return "END\r\n";
}

static const char *get_line(void)
{
	struct text first = my.words[my.op >= GAT];
	struct text key = first;

	if (my.op >= GAT && !read_expiry(first))
		return bad_time;
	while ((key = next_word(key.at + key.len)).len > 0)
		if (key.len > MAX_KEY)
			return bad_line;
	return get(first.at + first.len);
}

static const char *add(struct item *item)
{
	struct text value = {item->text + item->head, item->len};
	unsigned long number;

	if (!read_number(value, &number, false))
		return "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
	if (my.op == DECR)
		number -= number < my.number ? number : my.number;
	else
		number += my.number;
	value.at = my.digits;
	value.len = (size_t)snprintf(
			    my.digits, sizeof(my.digits), "%lu\r\n", number) -
		2;
	return store(item, value, (struct text){"", 0}) == no_memory
		? no_memory
		: my.digits;
}

/* item is locked, or NULL. */
static const char *change(struct item *item)
{
	struct text old = {"", 0};

	if (my.op == ADD ? item != NULL
			 : !item && my.op >= REPLACE && my.op <= PREPEND)
		return "NOT_STORED\r\n";
	if (!item && my.op >= CAS)
		return "NOT_FOUND\r\n";
	if (my.op == CAS && item->cas != my.number)
		return "EXISTS\r\n";
	if (my.op <= REPLACE || my.op == CAS)
		return store(item, my.value, old);
	if (my.op == DELETE) {
		remove_item(item);
		return "DELETED\r\n";
	}
	if (my.op == TOUCH) {
		item->expires = my.expires;
		return "TOUCHED\r\n";
	}
	my.flags = item->flags;
	my.expires = item->expires;
	if (my.op >= INCR)
		return add(item);
	old = (struct text){item->text + item->head, item->len};
	if (is_too_large(old.len + my.value.len))
		return "NOT_STORED\r\n";
	return my.op == APPEND ? store(item, old, my.value)
			       : store(item, my.value, old);
}

static const char *find_and_change(void)
{
	const char *answer = change(find(my.words[1]));

	pthread_mutex_unlock(&my.stripe->lock);
	evict();
	return answer;
}

static const char *change_line(void)
{
	const struct text *words = my.words;
	size_t left = (size_t)(my.last - my.next);
	unsigned long len, flags;
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
	if (my.op > CAS)
		return find_and_change();
	if (!read_number(words[2], &flags, false) || !read_expiry(words[3]) ||
		!read_number(words[4], &len, true) ||
		(uint32_t)len > INT32_MAX - 2 ||
		(my.op == CAS && !read_number(words[5], &my.number, false)))
		return bad_line;
	my.flags = (uint32_t)flags;
	my.value = (struct text){my.next, (uint32_t)len};
	len = my.value.len + 2;
	if (is_too_large(my.value.len)) {
		my.todo = left < len ? (len - left) << 2 | SKIP : 0;
		my.next += left < len ? left : len;
		if (my.op == SET) {
			my.op = DELETE;
			find_and_change();
		}
		return "SERVER_ERROR object too large for cache\r\n";
	}
	my.next = left < len ? NULL : my.next + len;
	if (my.next && memcmp(my.next - 2, "\r\n", 2) != 0)
		return "CLIENT_ERROR bad data chunk\r\n";
	return my.next ? find_and_change() : "";
}

static const char *flush_all(void)
{
	my.expires = 0;
	if (my.nr > 1 + my.noreply && !read_expiry(my.words[1]))
		return bad_time;
	cache.flush_at = my.expires > 1 ? my.expires - 1 : 0;
	cache.flushes += my.expires <= 1;
	return "OK\r\n";
}

static const char *stats(void)
{
	bool reset = my.nr > 1 && is_word(my.words[1], "reset");
	unsigned long hits[NR_OPS] = {0}, misses[NR_OPS] = {0}, evictions = 0;
	unsigned items = 0, i, op;
	struct evt_stats pool = {0};

	if (my.nr > 1 && !reset)
		return "ERROR\r\n";
	for (i = 0; i < STRIPES; i++) {
		lock_stripe(i << 16);
		for (op = 0; op < NR_OPS; op++) {
			hits[op] += my.stripe->hits[op];
			misses[op] += my.stripe->misses[op];
		}
		evictions += my.stripe->evictions;
		items += HASH_COUNT(my.stripe->table);
		pthread_mutex_unlock(&my.stripe->lock);
	}
	for (op = GET; op < FLUSH_ALL; op++)
		evt_conn_printf(my.conn,
			"STAT %s_hits %lu\r\nSTAT %s_misses %lu\r\n",
			commands[op].name, hits[op], commands[op].name,
			misses[op]);
	evt_pool_stats(cache.pool, &pool);
	evt_conn_printf(my.conn,
		"STAT pid %d\r\nSTAT uptime %ld\r\nSTAT time %ld\r\n"
		"STAT version " EVT_VERSION "\r\nSTAT threads %d\r\n"
		"STAT curr_connections %lu\r\nSTAT total_connections %lu\r\n"
		"STAT bytes_read %lu\r\nSTAT bytes_written %lu\r\n"
		"STAT limit_maxbytes %zu\r\nSTAT bytes %zu\r\n"
		"STAT curr_items %u\r\nSTAT evictions %lu\r\nEND\r\n",
		(int)getpid(), (long)(my.now - cache.start), (long)my.now,
		evt_pool_workers(cache.pool), pool.open, pool.accepted,
		pool.bytes_in, pool.bytes_out, cache.limit, (size_t)cache.bytes,
		items, evictions);
	return "";
}

static const char *run(void)
{
	if (my.op <= GATS)
		return get_line();
	if (my.op < FLUSH_ALL)
		return change_line();
	if (my.op == FLUSH_ALL)
		return flush_all();
	if (my.op == VERBOSITY) /* there is no more to be said */
		return read_number(my.words[1], &my.number, false) ? "OK\r\n"
								   : bad_line;
	if (my.op == STATS)
		return stats();
	if (my.op == VERSION)
		return "VERSION " EVT_VERSION "\r\n";
	evt_conn_close(my.conn);
	my.last = my.next;
	return "";
}

/* Splits a line; false: there is no such command. */
static bool is_command(const char *at)
{
	struct text word = next_word(at);
	int op = GET;

	for (my.nr = 0; my.nr < MAX_WORDS && word.len > 0; my.nr++) {
		my.words[my.nr] = word;
		word = next_word(word.at + word.len);
	}
	my.noreply = false;
	if (my.nr == 0)
		return false;
	word = my.words[my.nr - 1];
	while (op < NR_OPS && !is_word(my.words[0], commands[op].name))
		op++;
	if (op == NR_OPS && !strchr("gsacidt", *my.words[0].at) &&
		word.len >= 5 && memcmp(word.at, "HTTP/", 5) == 0)
		my.op = QUIT, run();
	if (op == NR_OPS || my.nr < commands[op].min ||
		my.nr > commands[op].max)
		return false;
	my.op = (enum op)op;
	my.noreply = op >= SET && op < STATS && my.nr > 1 + (op == DELETE) &&
		is_word(word, "noreply");
	return true;
}

/* The line at at: where the next one begins, or NULL. */
static const char *do_line(const char *at)
{
	const char *end = memchr(at, '\n', (size_t)(my.last - at));
	const char *line = at;
	const char *answer = "ERROR\r\n";

	if (!end) {
		if (my.last - at > MAX_REST && strncmp(at, "get ", 4) != 0 &&
			strncmp(at, "gets ", 5) != 0)
			evt_conn_close(my.conn);
		return NULL;
	}
	my.next = end + 1;
	if (end > at && end[-1] == '\r')
		end--;
	my.end = at + strnlen(at, (size_t)(end - at));
	if (my.todo & KEYS) {
		my.op = (enum op)(my.todo >> 2 & 3);
		my.expires = (uint32_t)(my.todo >> 4);
		my.noreply = false;
		my.todo = 0;
		answer = get(at);
	} else if (is_command(at)) {
		answer = run();
	}
	if (!my.next)
		evt_conn_want(my.conn,
			(size_t)(my.value.at - line) + my.value.len + 2);
	else if (!my.noreply)
		evt_conn_write(my.conn, answer, strlen(answer));
	return my.next;
}

static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	uintptr_t before = (uintptr_t)evt_conn_data(conn);
	const char *next = data;
	const char *at = data;

	(void)arg;
	my.conn = conn;
	my.todo = before;
	my.now = (uint32_t)time(NULL);
	my.last = data + len;
	if (my.todo & SKIP) {
		next += my.todo >> 2 < len ? my.todo >> 2 : len;
		my.todo -= (uintptr_t)(next - data) << 2;
		my.todo = my.todo > SKIP ? my.todo : 0;
		at = next;
	}
	while (next && next < my.last && evt_conn_pending(conn) <= UNSENT) {
		next = do_line(at);
		at = next ? next : at;
	}
	if (my.todo != before)
		evt_conn_set_data(conn, (void *)my.todo);
	return (size_t)(at - data);
}

int main(int argc, char **argv)
{
	struct example example = {.url = "tcp://[::]:11211",
		.usage = "[-m MB]",
		.letter = 'm',
		.value = "64"};
	struct evt_pool_options options = {0};
	struct evt_handlers handlers = {.on_data = on_data};
	struct evt_listen_options limits = {.first_byte_ms = -1,
		.idle_ms = -1,
		.max_input = MAX_ITEM + (128UL << 10)};
	int status;
	int i;

	example = example_options(example, argc, argv);
	options.workers = example.workers;
	cache.limit = (size_t)example_number(&example, example.value, 1 << 20)
		<< 20;
	cache.start = time(NULL);
	for (i = 0; i < STRIPES; i++)
		pthread_mutex_init(&stripes[i].lock, NULL);
	cache.pool = evt_pool_new(&options);
	status = example_listening(&example,
		evt_listen(cache.pool, example.url, &handlers, &limits, NULL));
	if (status == 0 && evt_pool_run(cache.pool) == -1)
		status = 1;
	evt_pool_free(cache.pool);
	return status;
}
