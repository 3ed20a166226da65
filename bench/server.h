/*
 * server.h: the servers that the drivers start and flood. Each says where it
 * listens in a line that ends with the port.
 */
#ifndef BENCH_SERVER_H
#define BENCH_SERVER_H

#include "child.h"

#define START_MS 10000  /* for a server to listen, or to end */
#define FLOOD_MS 120000 /* for one flood */

struct server {
	struct child child;
	char port[8];
};

static inline struct server server_of(char *const argv[])
{
	struct server server;
	char line[128];
	size_t len;

	server.child = child_start(argv);
	child_read(&server.child, line, sizeof(line), 1, START_MS);
	len = strcspn(line, "\n");
	while (len > 0 && line[len - 1] >= '0' && line[len - 1] <= '9')
		len--;
	if (atoi(line + len) <= 0)
		give_up(argv[0], "does not listen");
	snprintf(server.port, sizeof(server.port), "%d", atoi(line + len));
	return server;
}

/* One of bench/, which takes a port and a number of workers; option may be
 * NULL. */
static inline struct server server_start(
	const char *path, int workers, const char *option)
{
	char count[8];
	char *argv[] = {(char *)path, "0", count, (char *)option, NULL};

	snprintf(count, sizeof(count), "%d", workers);
	return server_of(argv);
}

static inline void server_stop(struct server *server)
{
	kill(server->child.pid, SIGTERM);
	if (child_end(&server->child, START_MS) != 0)
		give_up(server->child.path, "failed");
}

/* The value of "key=" in a line of figures, that of flooder -q for one; returns
 * whether it is there. */
static inline int find_value(const char *line, const char *key, double *value)
{
	size_t len = strlen(key);
	const char *at = line;

	while ((at = strstr(at, key)) != NULL) {
		if ((at == line || at[-1] == ' ') && at[len] == '=') {
			*value = atof(at + len + 1);
			return 1;
		}
		at += len;
	}
	return 0;
}

static inline double value_of(const char *line, const char *key)
{
	double value = 0;

	if (!find_value(line, key, &value))
		give_up(key, "is missing in a line of figures");
	return value;
}

/* Floods the server; text gets the line of figures. Returns how many
 * transactions failed. */
static inline int flood(const struct server *server, int transactions,
	int in_flight, char *text, size_t size)
{
	char count[12];
	char flight[12];
	char *argv[] = {"test/flooder", (char *)server->port, count, "-c",
		flight, "-q", NULL};
	struct child child;

	snprintf(count, sizeof(count), "%d", transactions);
	snprintf(flight, sizeof(flight), "%d", in_flight);
	child = child_start(argv);
	child_read(&child, text, size, 0, FLOOD_MS);
	/* 1: some transactions failed. */
	if (child_end(&child, START_MS) > 1)
		give_up(child.path, "failed");
	return (int)value_of(text, "failures");
}

#endif /* BENCH_SERVER_H */
