/*
 * example.h: what the examples have in common: their arguments, and the line
 * that says where they listen. main of each goes like this:
 *
 *	struct example example = example_options(
 *		(struct example){.url = "tcp://[::]:9999"}, argc, argv);
 *	...
 *	pool = evt_pool_new(&options);
 *	return example_serve(&example, pool, &handlers, &limits);
 *
 * The status is 0 after SIGINT or SIGTERM, 2 if an argument was wrong, 1 if it
 * could not listen or serve; the library has said why.
 */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <evt-listener.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The first part is for the program to say, the second for it to read. */
struct example {
	const char *url;   /* where to listen, if no argument says */
	const char *usage; /* of what is its own; NULL: nothing */
	char letter;       /* of an option of its own; 0: none */
	int connects;      /* not 0: takes a second URL, both must be given */

	const char *name;  /* of the program */
	const char *usual; /* the url that no argument has said; or NULL */
	const char *value; /* of its own option; NULL: not given */
	const char *to;    /* the second URL */
	int workers;       /* 0: one for each CPU */
};

/* What it can be: who serves datagrams as a rule serves no streams. */
static inline const char *example_urls(const struct example *example)
{
	if (strncmp(example->usual ? example->usual : "", "udp:", 4) == 0)
		return "udp://[::]:9999, udp://127.0.0.1:0, unixgram:/path, "
		       "unixgram:@name";
	return "tcp://[::]:9999, tcp://127.0.0.1:0, unix:/path, unix:@name";
}

static inline int example_usage(
	const struct example *example, FILE *to, int status)
{
	fprintf(to, "usage: %s %s [-t WORKERS]%s%s\n", example->name,
		example->connects ? "LISTEN-URL CONNECT-URL" : "[URL]",
		example->usage ? " " : "",
		example->usage ? example->usage : "");
	fprintf(to, "URL: %s%s%s\n", example_urls(example),
		example->usual ? "\nif not given: " : "",
		example->usual ? example->usual : "");
	return status;
}

/* The same, after a line that says what is wrong: 2. */
static inline int example_wrong(const struct example *example, const char *why)
{
	fprintf(stderr, "%s: %s\n", example->name, why);
	return example_usage(example, stderr, 2);
}

/* A whole number from 1 to max, or the program ends. */
static inline int example_number(
	const struct example *example, const char *text, long max)
{
	char *end;
	long number = strtol(text, &end, 10);
	char why[64];

	if (end != text && !*end && number >= 1 && number <= max)
		return (int)number;
	snprintf(why, sizeof(why), "a number from 1 to %ld is wanted", max);
	exit(example_wrong(example, why));
}

/* Ends the program if they are wrong, or ask for help. */
static inline struct example example_options(
	struct example example, int argc, char **argv)
{
	char letters[] = {'h', 't', ':', example.letter, ':', '\0'};
	int option;

	example.name = argv[0];
	example.usual = example.url;
	while ((option = getopt(argc, argv, letters)) != -1) {
		if (option == 'h')
			exit(example_usage(&example, stdout, 0));
		else if (option == 't')
			example.workers = example_number(
				&example, optarg, 65535);
		else if (option == '?')
			exit(example_usage(&example, stderr, 2));
		else
			example.value = optarg;
	}
	argc -= optind;
	if (example.connects && argc < 2)
		exit(example_wrong(&example, "two URLs are wanted"));
	if (argc > 1 + !!example.connects)
		exit(example_wrong(&example, "too many arguments"));
	if (argc > 0)
		example.url = argv[optind];
	if (argc > 1)
		example.to = argv[optind + 1];
	return example;
}

/*
 * Says "listening on URL" with the port that port 0 became: 0. Of a listener
 * that is NULL: the status to end with. Who reads the line may send a signal at
 * once: it waits until evt_pool_run takes it.
 */
static inline int example_listening(
	const struct example *example, struct evt_listener *listener)
{
	const char *url = example->url;
	sigset_t stop;

	if (!listener && errno == EINVAL)
		return example_usage(example, stderr, 2);
	if (!listener)
		return 1;
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	if (evt_listener_port(listener) == -1)
		printf("listening on %s\n", url);
	else
		printf("listening on %.*s:%d\n", (int)(strrchr(url, ':') - url),
			url, evt_listener_port(listener));
	fflush(stdout);
	return 0;
}

/* Listens, serves until a signal, frees the pool: the status to end with. */
static inline int example_serve(const struct example *example,
	struct evt_pool *pool, const struct evt_handlers *handlers,
	const struct evt_listen_options *limits)
{
	int status = example_listening(example,
		evt_listen(pool, example->url, handlers, limits, NULL));

	if (status == 0 && evt_pool_run(pool) == -1)
		status = 1;
	evt_pool_free(pool);
	return status;
}

#endif /* EXAMPLE_H */
