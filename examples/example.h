/*
 * example.h: what the examples have in common: their arguments, and the line
 * that says where they listen. main of each goes like this:
 *
 *	struct example example = example_options(argc, argv);
 *	...
 *	listener = evt_listen(pool, example.url, ...);
 *	status = example_listening(&example, listener);
 *	if (status == 0 && evt_pool_run(pool) == -1)
 *		status = 1;
 *	evt_pool_free(pool);
 *	return status;
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

struct example {
	const char *name; /* of the program */
	const char *url;  /* where to listen */
	int workers;      /* 0: one for each CPU */
};

static inline int example_usage(const char *name, FILE *to, int status)
{
	fprintf(to,
		"usage: %s [URL] [-t WORKERS]	(URL: tcp://[::]:9999, "
		"tcp://127.0.0.1:0, unix:/path, unix:@name)\n",
		name);
	return status;
}

/* Ends the program if they are wrong, or ask for help. */
static inline struct example example_options(int argc, char **argv)
{
	struct example example = {argv[0], "tcp://[::]:9999", 0};
	char *end = "";
	long workers = 1;
	int option;

	while ((option = getopt(argc, argv, "ht:")) != -1) {
		if (option == 'h')
			exit(example_usage(argv[0], stdout, 0));
		if (option == 't')
			workers = strtol(optarg, &end, 10);
		if (option == '?' || *end || workers < 1 || workers > 65535)
			exit(example_usage(argv[0], stderr, 2));
		example.workers = (int)workers;
	}
	if (argc - optind > 1)
		exit(example_usage(argv[0], stderr, 2));
	if (optind < argc)
		example.url = argv[optind];
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
		return example_usage(example->name, stderr, 2);
	if (!listener)
		return 1;
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	if (strncmp(url, "unix:", 5) == 0)
		printf("listening on %s\n", url);
	else
		printf("listening on %.*s:%d\n", (int)(strrchr(url, ':') - url),
			url, evt_listener_port(listener));
	fflush(stdout);
	return 0;
}

#endif /* EXAMPLE_H */
