/*
 * programs.c: starting programs, and reading what they say. See programs.h.
 */
#include "programs.h"
#include "ledger.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#define MAX_ARGS 12

pid_t start_program(const char *const *args, const char *path, int *out)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) == -1)
		return -1;
	pid = fork();
	if (pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		dup2(fds[1], STDERR_FILENO);
		alarm((unsigned)(30 * slowness()));
		execvp(path, (char *const *)args);
		_exit(127);
	}
	close(fds[1]);
	*out = fds[0];
	return pid;
}

void read_text(int fd, char *text, size_t size)
{
	size_t used = 0;
	ssize_t len;

	while (used < size - 1 &&
		(len = read(fd, text + used, size - 1 - used)) > 0)
		used += (size_t)len;
	text[used] = '\0';
}

int await_status(pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) == -1 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

char said[SAID];

/* Splits the words of command, and runs it: its exit status. */
static int run_words(const char *path, const char *command)
{
	const char *args[MAX_ARGS] = {path};
	char words[256];
	char *rest = words;
	int nr = 1;
	int status;
	int out;
	pid_t pid;

	snprintf(words, sizeof(words), "%s", command);
	while (nr < MAX_ARGS - 1 && (args[nr] = strtok_r(rest, " ", &rest)))
		nr++;
	pid = start_program(args, path, &out);
	read_text(out, said, sizeof(said));
	close(out);
	status = await_status(pid);
	return status;
}

int run(const char *name, const char *format, ...)
{
	char command[256];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return run_words(program(name), command);
}

int shell(const char *format, ...)
{
	const char *args[] = {"sh", "-c", NULL, NULL};
	char command[1024];
	va_list list;
	int out;
	pid_t pid;

	va_start(list, format);
	vsnprintf(command, sizeof(command), format, list);
	va_end(list);
	args[2] = command;
	pid = start_program(args, "sh", &out);
	read_text(out, said, sizeof(said));
	close(out);
	return await_status(pid);
}

bool have(const char *client)
{
	return shell("command -v %s", client) == 0;
}

/* Servers */

struct server server;

static void next_line(int fd, char *line, size_t size)
{
	size_t used = 0;

	memset(line, 0, size);
	while (used < size - 1 && !strchr(line, '\n') &&
		read(fd, line + used, 1) == 1)
		used++;
}

int start_server(const char *name, const char *a, const char *b)
{
	const char *args[] = {program(name), a, b, NULL};
	static const char words[] = "listening on ";
	char line[512];
	const char *at = line + strlen(words);

	server.pid = start_program(args, args[0], &server.out);
	/* dns tells of a port that is taken in TCP, and takes another one. */
	do
		next_line(server.out, line, sizeof(line));
	while (strstr(line, "Address already in use"));
	if (strncmp(line, words, strlen(words)) != 0)
		return -1;
	snprintf(server.at, sizeof(server.at), "%.*s", (int)strcspn(at, "\n"),
		at);
	/* "port 41233", "tcp://[::]:41233", "unix:/path" */
	at = strrchr(server.at, strchr(server.at, ':') ? ':' : ' ');
	server.port = at ? (int)strtol(at + 1, NULL, 10) : -1;
	return server.port;
}

int end_server(int sig)
{
	int status;

	kill(server.pid, sig);
	read_text(server.out, said, sizeof(said));
	status = await_status(server.pid);
	close(server.out);
	server.pid = 0;
	return status;
}

/* Clients */

static struct client {
	pid_t pid; /* 0: it has ended */
	int fd;
} clients[8];
static int nr_clients;

static void become_client(int fd, const char *command)
{
	dup2(fd, STDIN_FILENO);
	dup2(fd, STDOUT_FILENO);
	alarm((unsigned)(30 * slowness()));
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

int start_client(const char *format, ...)
{
	const struct timeval limit = {.tv_sec = 10 * slowness()};
	struct client *client = &clients[nr_clients];
	char command[256] = "exec ";
	va_list args;
	int fds[2];

	va_start(args, format);
	vsnprintf(command + 5, sizeof(command) - 5, format, args);
	va_end(args);
	if (nr_clients == sizeof(clients) / sizeof(clients[0]) ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == -1)
		return -1;
	setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fds[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	nr_clients++;
	client->fd = fds[0];
	client->pid = fork();
	if (client->pid == 0)
		become_client(fds[1], command);
	close(fds[1]);
	return client->fd;
}

static int await_client(struct client *client)
{
	int status = await_status(client->pid);

	client->pid = 0;
	close(client->fd);
	while (nr_clients > 0 && clients[nr_clients - 1].pid == 0)
		nr_clients--;
	return status;
}

int end_client(int fd)
{
	char rest[4096];
	int i = 0;

	while (clients[i].fd != fd || clients[i].pid == 0)
		i++;
	shutdown(fd, SHUT_WR);
	while (recv(fd, rest, sizeof(rest), 0) > 0)
		;
	return await_client(&clients[i]);
}

void end_programs(void)
{
	int i;

	for (i = nr_clients - 1; i >= 0; i--) {
		if (clients[i].pid == 0)
			continue;
		kill(clients[i].pid, SIGKILL);
		await_client(&clients[i]);
	}
	if (server.pid > 0)
		end_server(SIGKILL);
}

bool says(int fd, const char *text)
{
	return send_all(fd, text, strlen(text));
}

bool read_line(int fd, char *line, size_t size)
{
	int64_t until = now_ms() + 10000 * slowness();
	char *end = NULL;
	ssize_t len;

	do {
		len = recv(fd, line, size - 1, MSG_PEEK);
		if (len > 0)
			end = memchr(line, '\n', (size_t)len);
	} while (len > 0 && !end && now_ms() < until);
	if (!end)
		return false;
	end[1] = '\0';
	return receive_all(fd, line, (size_t)(end - line) + 1);
}

bool receives(int fd, const char *expected)
{
	char line[2048] = "";

	if (read_line(fd, line, sizeof(line)) && strcmp(line, expected) == 0)
		return true;
	print_message("expected: %sreceived: %s\n", expected, line);
	return false;
}
