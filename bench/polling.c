/*
 * polling.c: the same server as it was done in 2010: each worker has a list
 * under a mutex and looks into it every millisecond, and five clients may
 * wait to be accepted. A connection waits half a millisecond on average before
 * anybody looks; of a burst of clients most are turned away by the short
 * backlog and come back a second later; and an idle server wakes up a thousand
 * times a second for each worker.
 *
 *	bench/polling PORT [WORKERS]
 */
#include "common.h"

#define MAX_WORKERS 64
#define POLL_US     1000
#define BACKLOG     5

struct item {
	struct item *next;
	struct sockaddr_in6 *client;
	int conn;
};

/* Guarded by lock; the list is in the order of arrival, last is its end. */
struct worker {
	pthread_mutex_t lock;
	struct item *first;
	struct item **last;
};

static struct worker workers[MAX_WORKERS];
static int nr_workers;

static struct item *take_all(struct worker *worker)
{
	struct item *first;

	pthread_mutex_lock(&worker->lock);
	first = worker->first;
	worker->first = NULL;
	worker->last = &worker->first;
	pthread_mutex_unlock(&worker->lock);
	return first;
}

static void *run_worker(void *arg)
{
	for (;;) {
		struct item *item = take_all(arg);

		while (item) {
			struct item *next = item->next;

			serve(item->conn, item->client);
			free(item);
			item = next;
		}
		usleep(POLL_US);
	}
	return NULL;
}

/* On the listener's thread, the only one to use turn. */
static void hand_over(int conn, struct sockaddr_in6 *client)
{
	static int turn;
	struct worker *worker = &workers[turn];
	struct item *item = malloc(sizeof(*item));

	if (!item)
		die("malloc");
	turn = (turn + 1) % nr_workers;
	*item = (struct item){.conn = conn, .client = client};
	pthread_mutex_lock(&worker->lock);
	*worker->last = item;
	worker->last = &item->next;
	pthread_mutex_unlock(&worker->lock);
}

static void start_workers(int count)
{
	nr_workers = count;
	for (int i = 0; i < count; i++) {
		pthread_mutex_init(&workers[i].lock, NULL);
		workers[i].last = &workers[i].first;
		start_thread(run_worker, &workers[i]);
	}
}

int main(int argc, char **argv)
{
	struct listener listener = {.accepted = hand_over};
	int count = argument(argc, argv, 2, 2);
	sigset_t signals;

	if (argc < 2 || count < 1 || count > MAX_WORKERS) {
		fprintf(stderr, "usage: bench/polling PORT [WORKERS]\n");
		return 2;
	}
	block_signals(&signals);
	listener.fd = listen_on(argument(argc, argv, 1, 0), BACKLOG);
	start_workers(count);
	start_thread(run_listener, &listener);
	print_port(listener.fd);
	wait_for_end(&signals);
	return 0;
}
