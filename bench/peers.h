/*
 * peers.h: the servers of others that the driver starts: from a configuration
 * in bench/ whose @NAME@s are filled in, on a port that was free, and waited
 * for until they accept. Their files are in a folder below build/.
 */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include "server.h"

#include <arpa/inet.h>
#include <limits.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define PEER_FOLDER "build/bench"

/* Whether it can be run: a path, or a name that PATH leads to. */
static inline int is_there(const char *program)
{
	const char *folder = getenv("PATH");
	char path[PATH_MAX];

	if (strchr(program, '/'))
		return access(program, X_OK) == 0;
	while (folder && *folder) {
		size_t len = strcspn(folder, ":");

		snprintf(path, sizeof(path), "%.*s/%s", (int)len, folder,
			program);
		if (access(path, X_OK) == 0)
			return 1;
		folder += len + (folder[len] == ':');
	}
	return 0;
}

/* Where Debian has nginx, haproxy and nsd is not in everybody's PATH. */
static inline void look_in_sbin(void)
{
	const char *old = getenv("PATH");
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s:/usr/sbin", old ? old : "/usr/bin");
	if (setenv("PATH", path, 1) == -1)
		give_up("setenv", strerror(errno));
}

static inline int loopback_socket(const char *port, struct sockaddr_in *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd == -1)
		give_up("socket", strerror(errno));
	*addr = (struct sockaddr_in){.sin_family = AF_INET};
	addr->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	addr->sin_port = htons((in_port_t)atoi(port));
	return fd;
}

/* One that nobody listens on: they cannot say which port 0 has become. */
static inline void find_port(char port[8])
{
	struct sockaddr_in addr;
	socklen_t len = sizeof(addr);
	int fd = loopback_socket("0", &addr);

	if (bind(fd, (struct sockaddr *)&addr, len) == -1 ||
		getsockname(fd, (struct sockaddr *)&addr, &len) == -1)
		give_up("bind", strerror(errno));
	snprintf(port, 8, "%d", ntohs(addr.sin_port));
	close(fd);
}

static inline int accepts(const char *port)
{
	struct sockaddr_in addr;
	int fd = loopback_socket(port, &addr);
	int connected = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) ==
		0;

	close(fd);
	return connected;
}

/* A server that listens on this port, as argv says. */
static inline struct server peer_start(char *const argv[], const char *port)
{
	int64_t end = now_ns() + (int64_t)START_MS * 1000000;
	struct server server;

	snprintf(server.port, sizeof(server.port), "%s", port);
	server.child = child_start(argv);
	while (!accepts(port)) {
		if (now_ns() > end ||
			waitpid(server.child.pid, NULL, WNOHANG) != 0)
			give_up(argv[0], "does not listen");
		poll(NULL, 0, 5);
	}
	return server;
}

/* With whichever status it ends: haproxy's is that of the signal. */
static inline void peer_stop(struct server *server)
{
	kill(server->child.pid, SIGTERM);
	child_wait(&server->child, START_MS);
}

struct word {
	const char *name, *value;
};

static inline void write_filled_in(
	FILE *to, const char *text, const struct word *words)
{
	while (*text) {
		const struct word *word = words;

		while (word->name &&
			strncmp(text, word->name, strlen(word->name)) != 0)
			word++;
		if (word->name) {
			fputs(word->value, to);
			text += strlen(word->name);
		} else {
			fputc(*text++, to);
		}
	}
}

/* Writes path from bench/name; words end with one that has no name. */
static inline void fill_in(
	const char *name, const char *path, const struct word *words)
{
	char line[256];
	char template[64];
	FILE *from;
	FILE *to;

	snprintf(template, sizeof(template), "bench/%s", name);
	from = fopen(template, "re");
	to = fopen(path, "we");
	if (!from || !to)
		give_up(path, strerror(errno));
	while (fgets(line, sizeof(line), from))
		write_filled_in(to, line, words);
	fclose(from);
	if (fclose(to) != 0)
		give_up(path, strerror(errno));
}

/* A file of random bytes; one that is there is left as it is. */
static inline void make_file(const char *path, size_t size)
{
	struct stat is;
	FILE *file;

	if (stat(path, &is) == 0 && (size_t)is.st_size == size)
		return;
	file = fopen(path, "we");
	if (!file)
		give_up(path, strerror(errno));
	for (size_t i = 0; i < size; i++)
		fputc((int)(random() & 0xff), file);
	if (fclose(file) != 0)
		give_up(path, strerror(errno));
}

#endif /* BENCH_PEERS_H */
