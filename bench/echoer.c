/*
 * echoer: keeps many connections to an echo server busy and says how fast it
 * answers (asker.h).
 *
 *	bench/echoer PORT [-n CONNECTIONS] [-o OUTSTANDING] [-s SIZE]
 *		[-m MESSAGES | -t SECONDS | -i]
 *
 * The bytes of a connection are one stream, which repeats itself after 65,537
 * bytes and begins at another place for each connection: what belongs to
 * another, or comes at the wrong time, is noticed.
 */
#include "asker.h"

#define PERIOD 65537

static char pattern[2 * PERIOD];
static int size = 64;

static const char usage[] =
	"usage: bench/echoer PORT [-n CONNECTIONS] [-o OUTSTANDING] [-s SIZE]\n"
	"       [-m MESSAGES | -t SECONDS | -i]\n";

static void fill_pattern(void)
{
	srandom(1);
	for (int i = 0; i < PERIOD; i++)
		pattern[i] = (char)random();
	memcpy(pattern + PERIOD, pattern, PERIOD);
	asks = (struct stream){
		.bytes = pattern, .period = PERIOD, .size = (uint64_t)size};
	answers = asks;
}

static void greet(struct conn *conn, int number)
{
	conn->ask_from = (uint64_t)number * 977;
	conn->answer_from = conn->ask_from;
	echo_byte(conn->fd, 'x');
}

/* 0, or -1: wrong usage. */
static int read_options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, ASKER_LETTERS "s:")) != -1) {
		if (c == 's')
			size = atoi(optarg);
		else if (read_option(c) == -1)
			return -1;
	}
	return size > 0 ? check_options(argc, argv) : -1;
}

int main(int argc, char **argv)
{
	if (read_options(argc, argv) == -1) {
		fputs(usage, stderr);
		return 2;
	}
	raise_descriptor_limit();
	fill_pattern();
	open_all(greet);
	return run_as_asked();
}
