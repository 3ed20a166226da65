/*
 * programs.c: starting programs, and reading what they say. See programs.h.
 */
#include "programs.h"
#include "ledger.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
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
	char command[256];
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

int start_server(const char *name, const char *a, const char *b)
{
	const char *args[] = {program(name), a, b, NULL};
	static const char words[] = "listening on port ";
	char line[64] = "";
	size_t used = 0;

	server.pid = start_program(args, args[0], &server.out);
	while (used < sizeof(line) - 1 && !strchr(line, '\n') &&
		read(server.out, line + used, 1) == 1)
		used++;
	if (strncmp(line, words, strlen(words)) != 0)
		return -1;
	server.port = (int)strtol(line + strlen(words), NULL, 10);
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
