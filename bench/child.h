/*
 * child.h: the programs that the driver runs: started with their output in a
 * pipe, waited for with a limit, ended by their own id, and gone when the
 * driver is.
 */
#ifndef BENCH_CHILD_H
#define BENCH_CHILD_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"

struct child {
	const char *path;
	pid_t pid;
	int in;  /* what it reads */
	int out; /* what it prints */
};

/* The children end too: each gets SIGTERM when its parent is gone. */
static inline void give_up(const char *path, const char *why)
{
	fprintf(stderr, "bench: %s: %s\n", path, why);
	exit(1);
}

/* Runs argv with these two ends of pipes; or what is -1 as it is. */
static inline void become(char *const argv[], int in, int out)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if ((in != -1 && dup2(in, STDIN_FILENO) == -1) ||
		(out != -1 && dup2(out, STDOUT_FILENO) == -1))
		_exit(127);
	execvp(argv[0], argv);
	fprintf(stderr, "bench: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static inline struct child child_start(char *const argv[])
{
	struct child child = {.path = argv[0]};
	int in[2];
	int out[2];

	if (pipe2(in, O_CLOEXEC) == -1 || pipe2(out, O_CLOEXEC) == -1)
		give_up(argv[0], strerror(errno));
	child.in = in[1];
	child.out = out[0];
	child.pid = fork();
	if (child.pid == -1)
		give_up(argv[0], strerror(errno));
	if (child.pid == 0)
		become(argv, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	return child;
}

/*
 * Reads what it prints: until the end, or, with one_line, until a newline.
 * Returns how much came within timeout_ms; text is a string in any case.
 */
static inline size_t child_read(const struct child *child, char *text,
	size_t size, int one_line, int timeout_ms)
{
	struct pollfd in = {.fd = child->out, .events = POLLIN};
	int64_t end = now_ns() + (int64_t)timeout_ms * 1000000;
	size_t fill = 0;
	ssize_t len;

	text[0] = '\0';
	while (fill + 1 < size && !(one_line && strchr(text, '\n'))) {
		int64_t left = (end - now_ns()) / 1000000;

		if (left <= 0 || poll(&in, 1, (int)left) != 1)
			break;
		len = read(child->out, text + fill, size - 1 - fill);
		if (len <= 0)
			break;
		fill += (size_t)len;
		text[fill] = '\0';
	}
	return fill;
}

/* Ends its input and waits, at most timeout_ms, until it has ended: what
 * waitpid says of it. */
static inline int child_wait(struct child *child, int timeout_ms)
{
	struct pollfd closed = {.fd = child->out};
	int status;

	close(child->in);
	if (poll(&closed, 1, timeout_ms) != 1) {
		kill(child->pid, SIGKILL);
		waitpid(child->pid, &status, 0);
		give_up(child->path, "did not end");
	}
	waitpid(child->pid, &status, 0);
	close(child->out);
	return status;
}

/* The same for one that ends by itself: its exit status. */
static inline int child_end(struct child *child, int timeout_ms)
{
	int status = child_wait(child, timeout_ms);

	if (!WIFEXITED(status))
		give_up(child->path, "killed by a signal");
	return WEXITSTATUS(status);
}

/* Runs it with our own output, for as long as it takes. */
static inline void child_run(char *const argv[])
{
	pid_t pid = fork();
	int status;

	if (pid == -1)
		give_up(argv[0], strerror(errno));
	if (pid == 0)
		become(argv, -1, -1);
	if (waitpid(pid, &status, 0) != pid)
		give_up(argv[0], strerror(errno));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		give_up(argv[0], "failed");
}

/* The CPU time of a whole process so far, to the nanosecond. */
static inline int64_t process_cpu_ns(pid_t pid)
{
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0)
		give_up("a server", "no CPU clock");
	return clock_ns(clock);
}

static inline int64_t child_cpu_ns(const struct child *child)
{
	return process_cpu_ns(child->pid);
}

#endif /* BENCH_CHILD_H */
