/*
 * cacher: keeps many connections to a cache that speaks memcached's text
 * protocol busy and says how fast it answers (asker.h).
 *
 *	bench/cacher PORT [-w] [-k KEYS] [-x] [-n CONNECTIONS] [-o OUTSTANDING]
 *		[-m MESSAGES | -t SECONDS | -i]
 *
 *	-w	writes: sets; otherwise gets
 *	-k	10,000 keys if not said
 *	-x	they exist already; otherwise they are set first
 *
 * Each connection goes through all keys in the same random order, beginning at
 * another one. A value is 100 bytes that belong to its key; it is always set to
 * the same, so that what a get has to bring is known: each byte of each answer
 * is compared.
 */
#include "asker.h"

#define VALUE    100
#define MAX_KEYS 100000
#define BATCH    64 /* sets under way while the keys are set */

static const char set_answer[] = "STORED\r\n";
static int keys = 10000;
static int writes;
static int exist;

static const char usage[] =
	"usage: bench/cacher PORT [-w] [-k KEYS] [-x] [-n CONNECTIONS]\n"
	"       [-o OUTSTANDING] [-m MESSAGES | -t SECONDS | -i]\n";

/* What is asked of a key, or answered for it: the length. All are the same. */
typedef int (*text_maker)(char text[256], int key);

static void value_of(char value[VALUE + 1], int key)
{
	for (int i = 0; i < VALUE; i++)
		value[i] = (char)('a' + (key / (i % 7 + 1) + i) % 26);
	value[VALUE] = '\0';
}

static int get_text(char text[256], int key)
{
	return snprintf(text, 256, "get key:%08d\r\n", key);
}

static int value_text(char text[256], int key)
{
	char value[VALUE + 1];

	value_of(value, key);
	return snprintf(text, 256, "VALUE key:%08d 0 %d\r\n%s\r\nEND\r\n", key,
		VALUE, value);
}

static int set_text(char text[256], int key)
{
	char value[VALUE + 1];

	value_of(value, key);
	return snprintf(
		text, 256, "set key:%08d 0 0 %d\r\n%s\r\n", key, VALUE, value);
}

static int stored_text(char text[256], int key)
{
	(void)key;
	return snprintf(text, 256, "%s", set_answer);
}

/* Twice all keys, in this order. */
static struct stream stream_of(text_maker text_of, const int *order)
{
	char text[256];
	size_t size = (size_t)text_of(text, 0);
	char *bytes = malloc(2 * (size_t)keys * size);

	if (!bytes)
		die("malloc");
	for (int i = 0; i < 2 * keys; i++) {
		text_of(text, order[i % keys]);
		memcpy(bytes + (size_t)i * size, text, size);
	}
	return (struct stream){
		.bytes = bytes, .period = (uint64_t)keys * size, .size = size};
}

static void make_streams(void)
{
	int *order = calloc((size_t)keys, sizeof(*order));

	if (!order)
		die("calloc");
	srandom(1);
	for (int i = 0; i < keys; i++) {
		int j = (int)(random() % (i + 1));

		order[i] = order[j];
		order[j] = i;
	}
	asks = stream_of(writes ? set_text : get_text, order);
	answers = stream_of(writes ? stored_text : value_text, order);
	free(order);
}

/* Sends what is wanted and waits until the answer is there, which must be this,
 * count times. */
static void ask(int fd, const char *bytes, size_t size, const char *answer,
	size_t len, int count)
{
	char got[256];

	if (send(fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
		die("send");
	for (int i = 0; i < count; i++) {
		if (recv(fd, got, len, MSG_WAITALL) != (ssize_t)len)
			die("no answer");
		if (memcmp(got, answer, len) != 0) {
			errno = EBADMSG;
			die("the answer");
		}
	}
}

static void set_all(void)
{
	static char text[BATCH * 256];
	int fd = connect_to(opt.port, 0);

	for (int key = 0; key < keys;) {
		size_t fill = 0;
		int first = key;

		for (; key < keys && key < first + BATCH; key++)
			fill += (size_t)set_text(text + fill, key);
		ask(fd, text, fill, set_answer, strlen(set_answer),
			key - first);
	}
	close(fd);
}

static void greet(struct conn *conn, int number)
{
	uint64_t first = (uint64_t)number * 157 % (uint64_t)keys;

	conn->ask_from = first * asks.size;
	conn->answer_from = first * answers.size;
	ask(conn->fd, stream_at(&asks, conn->ask_from), asks.size,
		stream_at(&answers, conn->answer_from), answers.size, 1);
}

/* 0, or -1: wrong usage. */
static int read_options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, ASKER_LETTERS "wk:x")) != -1) {
		if (c == 'w')
			writes = 1;
		else if (c == 'k')
			keys = atoi(optarg);
		else if (c == 'x')
			exist = 1;
		else if (read_option(c) == -1)
			return -1;
	}
	return keys >= 1000 && keys <= MAX_KEYS ? check_options(argc, argv)
						: -1;
}

int main(int argc, char **argv)
{
	if (read_options(argc, argv) == -1) {
		fputs(usage, stderr);
		return 2;
	}
	raise_descriptor_limit();
	make_streams();
	if (!exist)
		set_all();
	open_all(greet);
	return run_as_asked();
}
