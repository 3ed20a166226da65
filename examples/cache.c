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
 * Here is the protocol; what is remembered is in cache-items.h. All lines that
 * came at once are answered at once, large values from where they lie.
 *
 * A connection has no memory of its own. The library keeps what has come in
 * part, and hands it over with the rest. What else is left to do is a number in
 * place of a pointer: bytes that are to be skipped, or how many keys of a long
 * line are done, since who asks for much is answered as fast as he reads.
 */
#include "example.h"
#include "cache-items.h"

#include <ctype.h>
#include <time.h>

#define MAX_KEY   250
#define MAX_ITEM  (1UL << 20)
#define MAX_REST  2048 /* of a line that has come in part, but for a get */
#define MAX_WORDS 8
#define LARGE     4096          /* bytes that are not worth a copy */
#define A_TURN    (1UL << 20)   /* bytes of work; then others have theirs */
#define A_KEY     256           /* ... that looking for one is worth */
#define UNSENT    (256UL << 10) /* bytes that are enough for now */

/* In this order, which code compares: those that get, those with a value, those
 * that count, the rest. GETS and GATS tell the cas, GAT and GATS touch. */
/* clang-format off */
enum op {
	GET, GETS, GAT, GATS, SET, ADD, REPLACE, APPEND, PREPEND, CAS, INCR,
	DECR, TOUCH, DELETE, FLUSH_ALL, VERBOSITY, STATS, VERSION, QUIT, NR_OPS
};
/* clang-format on */

static const struct {
	const char *name;
	int least, most; /* words, its own among them */
} commands[] = {{"get", 2, 8}, {"gets", 2, 8}, {"gat", 2, 8}, {"gats", 2, 8},
	{"set", 5, 6}, {"add", 5, 6}, {"replace", 5, 6}, {"append", 5, 6},
	{"prepend", 5, 6}, {"cas", 6, 7}, {"incr", 3, 4}, {"decr", 3, 4},
	{"touch", 3, 4}, {"delete", 2, 4}, {"flush_all", 1, 3},
	{"verbosity", 2, 3}, {"stats", 1, 8}, {"version", 1, 8},
	{"quit", 1, 8}};

static const char bad_line[] = "CLIENT_ERROR bad command line format\r\n";
static const char bad_time[] = "CLIENT_ERROR invalid exptime argument\r\n";
static const char no_memory[] = "SERVER_ERROR out of memory storing object\r\n";

static struct evt_pool *pool;

/* What a worker is at: a connection, and a line of it. */
static __thread struct {
	struct evt_conn *conn;
	uint32_t now;
	size_t work;    /* in this turn, as bytes */
	uintptr_t todo; /* bytes to skip << 1 | 1, or those of a line that are
			   done << 1 */
	const char *line, *end; /* the line, and its end */
	const char *next;       /* what follows; NULL: it comes again */
	const char *last;       /* the end of all that came */
	struct text words[MAX_WORDS];
	int nr; /* of words */
	enum op op;
	bool noreply;
	uint32_t expires, flags;
	unsigned long number;
	struct text value;
	char digits[24];
} my;

static bool is_word(struct text word, const char *text)
{
	return strncmp(word.at, text, word.len) == 0 && text[word.len] == '\0';
}

static struct text next_word(const char *at)
{
	const char *end;

	while (at < my.end && *at == ' ')
		at++;
	end = memchr(at, ' ', (size_t)(my.end - at));
	return (struct text){at, (size_t)((end ? end : my.end) - at)};
}

/* As strtoul or strtol read it: white space may be before it; behind it is the
 * end of the word, or white space and anything. No digit follows the word. */
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

static bool is_enough(void)
{
	return my.work > A_TURN || evt_conn_pending(my.conn) > UNSENT;
}

static void get_one(struct text key)
{
	unsigned hashed = hash_of(key);
	struct stripe *stripe = lock_stripe(hashed);
	struct item *item = find_item(stripe, key, hashed, my.now, my.op);
	size_t from = 0, len;

	if (item)
		item->refs++;
	if (item && my.op >= GAT)
		item->expires = my.expires;
	pthread_mutex_unlock(&stripe->lock);
	if (!item)
		return;
	if (my.op == GETS || my.op == GATS) {
		from = item->head;
		evt_conn_printf(my.conn, "%.*s %lu\r\n", (int)from - 2,
			item->text, item->cas);
	}
	len = item->head + item->len + 2 - from;
	my.work += len;
	if (len > LARGE &&
		evt_conn_write_ref(my.conn, item->text + from, len,
			release_item, item) == 0)
		return;
	if (len <= LARGE)
		evt_conn_write(my.conn, item->text + from, len);
	release_item(item);
}

/* The keys from at on; if that is too much for once, the line comes again. */
static const char *get(const char *at)
{
	struct text key = {at, 0};

	if (my.todo > 0)
		at = my.line + (my.todo >> 1);
	else
		while ((key = next_word(key.at + key.len)).len > 0)
			if (key.len > MAX_KEY)
				return bad_line;
	for (; (key = next_word(at)).len > 0; at = key.at + key.len) {
		if (is_enough()) {
			my.todo = (uintptr_t)(at - my.line) << 1;
			my.next = NULL;
			return "";
		}
		my.work += A_KEY;
		get_one(key);
	}
	my.todo = 0;
	return "END\r\n";
}

/* What changes an item: it is locked, and NULL if there is none */

/* As memcached has it: with 48 bytes, a cas, flags if any, and an end. */
static bool is_too_large(size_t len)
{
	return my.words[1].len + len + (my.flags ? 63 : 59) > MAX_ITEM;
}

/* The value is first and second now. old leaves, or is written over: by as many
 * bytes, or by a number, which spaces follow. */
static const char *store(struct stripe *stripe, struct item *old,
	struct text first, struct text second)
{
	size_t len = first.len + second.len;
	struct item *item = old;

	if (!old || old->refs > 1 || old->flags != my.flags ||
		my.op == APPEND || my.op == PREPEND ||
		(my.op < INCR ? old->len != len : old->len < len))
		item = new_item(my.words[1], my.flags, len);
	if (!item)
		return no_memory;
	my.work += item->len;
	memset(item->text + item->head + len, ' ', item->len - len);
	memcpy(mempcpy(item->text + item->head, first.at, first.len), second.at,
		second.len);
	item->expires = my.expires;
	stamp_item(stripe, item, my.now);
	if (item == old)
		return "STORED\r\n";
	if (old)
		remove_item(stripe, old);
	if (!add_item(stripe, item, my.words[1].len, hash_of(my.words[1])))
		return no_memory;
	return "STORED\r\n";
}

static const char *count(struct stripe *stripe, struct item *item)
{
	struct text value = {item->text + item->head, item->len};
	struct text nothing = {"", 0};
	unsigned long number;

	if (!read_number(value, &number, false))
		return "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
	if (my.op == INCR)
		number += my.number;
	else
		number -= number < my.number ? number : my.number;
	value.at = my.digits;
	value.len = (size_t)snprintf(
		my.digits, sizeof(my.digits), "%lu", number);
	if (store(stripe, item, value, nothing) == no_memory)
		return "SERVER_ERROR out of memory\r\n";
	memcpy(my.digits + value.len, "\r\n", 3);
	return my.digits;
}

static const char *change(struct stripe *stripe, struct item *item)
{
	struct text old = {"", 0};

	if (my.op <= CAS && is_too_large(my.value.len)) {
		if (item && my.op == SET)
			remove_item(stripe, item);
		return "SERVER_ERROR object too large for cache\r\n";
	}
	if (my.op == ADD ? item != NULL
			 : !item && my.op >= REPLACE && my.op <= PREPEND)
		return "NOT_STORED\r\n";
	if (!item && my.op >= CAS)
		return "NOT_FOUND\r\n";
	if (my.op == CAS && item->cas != my.number)
		return "EXISTS\r\n";
	if (my.op == DELETE)
		remove_item(stripe, item);
	else if (my.op == TOUCH)
		item->expires = my.expires;
	if (my.op >= TOUCH)
		return my.op == TOUCH ? "TOUCHED\r\n" : "DELETED\r\n";
	if (my.op <= REPLACE || my.op == CAS)
		return store(stripe, item, my.value, old);
	my.flags = item->flags;
	my.expires = item->expires;
	if (my.op == INCR || my.op == DECR)
		return count(stripe, item);
	old = (struct text){item->text + item->head, item->len};
	if (is_too_large(old.len + my.value.len))
		return "NOT_STORED\r\n";
	return my.op == APPEND ? store(stripe, item, old, my.value)
			       : store(stripe, item, my.value, old);
}

static const char *change_item(void)
{
	unsigned hashed = hash_of(my.words[1]);
	struct stripe *stripe = lock_stripe(hashed);
	const char *answer = change(
		stripe, find_item(stripe, my.words[1], hashed, my.now, my.op));

	pthread_mutex_unlock(&stripe->lock);
	evict_items(hashed);
	return answer;
}

/* A set, or its like: what its line says, and the value, which is behind it. */
static const char *change_value(void)
{
	const struct text *words = my.words;
	size_t left = (size_t)(my.last - my.next);
	unsigned long flags, len;

	if (!read_number(words[2], &flags, false) || !read_expiry(words[3]) ||
		!read_number(words[4], &len, true) ||
		(uint32_t)len > INT32_MAX - 2 ||
		(my.op == CAS && !read_number(words[5], &my.number, false)))
		return bad_line;
	my.flags = (uint32_t)flags;
	my.value = (struct text){my.next, (uint32_t)len};
	len = my.value.len + 2;
	if (is_too_large(my.value.len)) {
		if (left < len)
			my.todo = (len - left) << 1 | 1;
		my.next += left < len ? left : len;
		return change_item();
	}
	if (left < len) {
		evt_conn_want(my.conn, len + (size_t)(my.value.at - my.line));
		my.next = NULL;
		return "";
	}
	my.next += len;
	if (memcmp(my.next - 2, "\r\n", 2) != 0)
		return "CLIENT_ERROR bad data chunk\r\n";
	return change_item();
}

static const char *change_line(void)
{
	bool zero = my.nr > 2 && is_word(my.words[2], "0");

	if (my.op == DELETE && my.nr > 2 &&
		(my.nr > 3 ? !zero || !my.noreply : !zero && !my.noreply))
		return "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
	if (my.words[1].len > MAX_KEY)
		return bad_line;
	if (my.op == TOUCH && !read_expiry(my.words[2]))
		return bad_time;
	if ((my.op == INCR || my.op == DECR) &&
		!read_number(my.words[2], &my.number, false))
		return "CLIENT_ERROR invalid numeric delta argument\r\n";
	return my.op <= CAS ? change_value() : change_item();
}

static const char *stats(void)
{
	struct evt_stats counters = {0};
	unsigned op;

	if (my.nr > 1 && !is_word(my.words[1], "reset"))
		return "ERROR\r\n";
	if (my.nr > 1) {
		reset_counts();
		return "RESET\r\n";
	}
	for (op = 0; op < FLUSH_ALL; op++)
		evt_conn_printf(my.conn,
			"STAT %s_hits %lu\r\nSTAT %s_misses %lu\r\n",
			commands[op].name, sum_of_counts(op, true),
			commands[op].name, sum_of_counts(op, false));
	my.work += A_TURN / 16;
	evt_pool_stats(pool, &counters);
	evt_conn_printf(my.conn,
		"STAT pid %d\r\nSTAT time %u\r\nSTAT version " EVT_VERSION
		"\r\nSTAT threads %d\r\nSTAT curr_connections %lu\r\n"
		"STAT total_connections %lu\r\nSTAT bytes_read %lu\r\n"
		"STAT bytes_written %lu\r\nSTAT limit_maxbytes %zu\r\n"
		"STAT bytes %zu\r\nSTAT curr_items %lu\r\n"
		"STAT evictions %lu\r\nEND\r\n",
		(int)getpid(), my.now, evt_pool_workers(pool), counters.open,
		counters.accepted, counters.bytes_in, counters.bytes_out,
		items.limit, (size_t)items.bytes, (unsigned long)items.count,
		(unsigned long)items.evictions);
	return "";
}

static const char *run(void)
{
	switch (my.op) {
	case GET:
	case GETS:
		return get(my.words[1].at);
	case GAT:
	case GATS:
		if (!read_expiry(my.words[1]))
			return bad_time;
		return get(my.words[1].at + my.words[1].len);
	case FLUSH_ALL:
		my.expires = 0;
		if (my.nr > 1 + my.noreply && !read_expiry(my.words[1]))
			return bad_time;
		items.flush_at = my.expires > 1 ? my.expires - 1 : 0;
		items.flushes += my.expires <= 1;
		return "OK\r\n";
	case VERBOSITY: /* there is no more to be said */
		return read_number(my.words[1], &my.number, false) ? "OK\r\n"
								   : bad_line;
	case STATS:
		return stats();
	case VERSION: /* clients look at the numbers */
		return "VERSION 1.6.0 (evt " EVT_VERSION ")\r\n";
	case QUIT:
		evt_conn_close(my.conn);
		my.last = my.next;
		return "";
	default:
		return change_line();
	}
}

/* The words of a line. False: it is no command. */
static bool split(void)
{
	struct text word = next_word(my.line);

	for (my.nr = 0; my.nr < MAX_WORDS && word.len > 0; my.nr++) {
		my.words[my.nr] = word;
		word = next_word(word.at + word.len);
	}
	my.noreply = false;
	if (my.nr == 0)
		return false;
	word = my.words[my.nr - 1];
	my.op = GET;
	while (my.op < NR_OPS && !is_word(my.words[0], commands[my.op].name))
		my.op++;
	/* memcached says ERROR to what begins as its own commands do. */
	if (my.op == NR_OPS && !strchr("gsacidt", *my.words[0].at) &&
		word.len >= 5 && memcmp(word.at, "HTTP/", 5) == 0)
		my.op = QUIT; /* a browser: what else it says is no command */
	if (my.op == NR_OPS || my.nr < commands[my.op].least ||
		my.nr > commands[my.op].most)
		return false;
	my.noreply = my.op >= SET && my.op < STATS &&
		my.nr > 1 + (my.op == DELETE) && is_word(word, "noreply");
	return true;
}

/* The line from my.next on. False: it is to come again, with more. */
static bool do_line(void)
{
	size_t left = (size_t)(my.last - my.next);
	const char *answer;

	my.line = my.next;
	my.end = memchr(my.line, '\n', left);
	if (!my.end && left > MAX_REST && strncmp(my.line, "get ", 4) != 0 &&
		strncmp(my.line, "gets ", 5) != 0)
		evt_conn_close(my.conn);
	if (!my.end)
		return false;
	my.next = my.end + 1;
	my.end -= my.end > my.line && my.end[-1] == '\r';
	my.end = my.line + strnlen(my.line, (size_t)(my.end - my.line));
	answer = split() ? run() : "ERROR\r\n";
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
	my.work = 0;
	for (my.next = at; at < my.last && !is_enough(); at = my.next)
		if (!do_line())
			break;
	evt_conn_set_data(conn, (void *)my.todo);
	if (my.work > A_TURN) { /* what is left comes after the others */
		evt_conn_pause(conn);
		evt_conn_resume(conn);
	}
	return (size_t)(at - data);
}

int main(int argc, char **argv)
{
	struct example example = {.url = "tcp://[::]:11211", .letter = 'm'};
	struct evt_handlers handlers = {.on_data = on_data};
	struct evt_listen_options limits = {.first_byte_ms = -1, .idle_ms = -1};
	struct evt_pool_options options = {0};

	example.usage = "[-m MB]";
	example.value = "64";
	example = example_options(example, argc, argv);
	init_items(
		(size_t)example_number(&example, example.value, 1 << 20) << 20);
	options.workers = example.workers;
	pool = evt_pool_new(&options);
	limits.max_input = MAX_ITEM + (128UL << 10);
	return example_serve(&example, pool, &handlers, &limits);
}
