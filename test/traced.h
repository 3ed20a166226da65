/*
 * traced.h: servers under strace, which has system calls fail in the whole of
 * them, inside of libevent and libc too. What they and strace say comes through
 * one pipe, and each fault is a line in strace's own file.
 */
#ifndef TRACED_H
#define TRACED_H

#include "ledger.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* A server of this build, which says where it listens. */
struct target {
	const char *name;
	const char *args[4];
	bool udp;
};

struct traced {
	pid_t pid;
	pid_t strace; /* 0 unless it came later */
	int attached; /* what strace says, if it came later; or -1 */
	int output;
	int log;  /* strace's; see its_log */
	int port; /* 0: it has not said that it listens */
	size_t len;
	char said[8192]; /* a text that begins with a newline */
};

/* What it says next, in so many ms: how many bytes, 0 at the end. */
static inline ssize_t hear(struct traced *traced, int ms)
{
	struct pollfd in = {.fd = traced->output, .events = POLLIN};
	size_t room = sizeof(traced->said) - 1 - traced->len;
	ssize_t got;

	if (room == 0 || poll(&in, 1, ms) != 1)
		return -1;
	got = read(traced->output, traced->said + traced->len, room);
	if (got > 0)
		traced->len += (size_t)got;
	traced->said[traced->len] = '\0';
	return got;
}

static inline bool has_told(struct traced *traced)
{
	while (hear(traced, 0) > 0)
		;
	return strstr(traced->said, "error: ") ||
		strstr(traced->said, "warning: ");
}

/* Becomes strace, of a server that it starts or of one that runs. */
static inline void run_strace(
	const struct traced *traced, const char *const *more, int nr_more)
{
	const char *args[24] = {"strace", "-f", "-o"};
	char log[64];
	int nr = 3;

	snprintf(log, sizeof(log), "/proc/%d/fd/%d", (int)getppid(),
		traced->log);
	args[nr++] = log;
	while (nr_more-- > 0)
		args[nr++] = *more++;
	execvp(args[0], (char *const *)args);
	_exit(127);
}

/* Forks, with output and errors of the child going to traced->output. */
static inline pid_t fork_heard(int output)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		dup2(output, STDOUT_FILENO);
		dup2(output, STDERR_FILENO);
	}
	return pid;
}

/* how NULL: traces the call (a list of them) and lets it be. */
static inline void become_traced(const struct traced *traced,
	const struct target *target, const char *call, const char *how)
{
	const char *more[16] = {"-D", "-qq", "--seccomp-bpf", "-e"};
	char calls[64];
	char injected[128];
	int nr = 4;
	int i;

	snprintf(calls, sizeof(calls), "trace=%s", call);
	snprintf(injected, sizeof(injected), "inject=%s:%s", call,
		how ? how : "");
	more[nr++] = calls;
	if (how) {
		more[nr++] = "-e";
		more[nr++] = injected;
	}
	more[nr++] = program(target->name);
	for (i = 0; i < 4 && target->args[i]; i++)
		more[nr++] = target->args[i];
	run_strace(traced, more, nr);
}

static inline void become_plain(const struct target *target)
{
	const char *args[6] = {program(target->name)};

	memcpy(&args[1], target->args, sizeof(target->args));
	execv(args[0], (char *const *)args);
	_exit(127);
}

/* call NULL: without strace, which may come later. -D: it is the server that is
 * our child. */
static inline void launch(struct traced *traced, const struct target *target,
	const char *call, const char *how)
{
	int fds[2];

	memset(traced, 0, sizeof(*traced));
	traced->said[traced->len++] = '\n';
	traced->attached = -1;
	traced->log = memfd_create("strace", MFD_CLOEXEC);
	CHECK(traced->log != -1);
	CHECK(pipe2(fds, O_CLOEXEC) == 0);
	traced->pid = fork_heard(fds[1]);
	if (traced->pid == 0 && call)
		become_traced(traced, target, call, how);
	if (traced->pid == 0)
		become_plain(target);
	close(fds[1]);
	traced->output = fds[0];
	CHECK(traced->pid != -1);
}

/* strace comes to a server that runs; how as above. */
static inline void attach(
	struct traced *traced, const char *call, const char *how)
{
	char calls[64];
	char injected[128];
	char pid[16];
	const char *const more[] = {"-p", pid, "-e", calls, "-e", injected};
	int fds[2];
	char line[256] = "";

	snprintf(calls, sizeof(calls), "trace=%s", call);
	snprintf(injected, sizeof(injected), "inject=%s:%s", call,
		how ? how : "");
	snprintf(pid, sizeof(pid), "%d", (int)traced->pid);
	CHECK(pipe2(fds, O_CLOEXEC) == 0);
	traced->strace = fork_heard(fds[1]);
	if (traced->strace == 0)
		run_strace(traced, more, how ? 6 : 4);
	close(fds[1]);
	/* "strace: Process 4711 attached with 3 threads" */
	CHECK(read(fds[0], line, sizeof(line) - 1) > 0);
	CHECK(strstr(line, "attached"));
	traced->attached = fds[0];
}

/* Waits for its line: "listening on port 41233", "... tcp://127.0.0.1:41233".
 */
static inline bool listens(struct traced *traced)
{
	static const char words[] = "\nlistening on ";
	char *at;
	char *end = NULL;

	do {
		at = strstr(traced->said, words);
		end = at ? strchr(at + 1, '\n') : NULL;
	} while (!end && hear(traced, 10000 * slowness()) > 0);
	while (end && strchr("0123456789", end[-1]))
		end--;
	traced->port = end ? atoi(end) : 0;
	return traced->port > 0;
}

/* Its exit status, once all is said; 128 + the signal that ended it. */
static inline int finish(struct traced *traced)
{
	ssize_t got;
	int status;

	do
		got = hear(traced, 10000 * slowness());
	while (got > 0);
	if (got == -1)
		kill(traced->pid, SIGKILL);
	close(traced->output);
	traced->output = -1;
	waitpid(traced->pid, &status, 0);
	if (traced->strace) {
		waitpid(traced->strace, NULL, 0);
		close(traced->attached);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* What strace has written; a text, to be freed. */
static inline char *its_log(struct traced *traced)
{
	off_t size = lseek(traced->log, 0, SEEK_END);
	char *text = calloc(1, (size_t)size + 1);

	CHECK(text && pread(traced->log, text, (size_t)size, 0) == size);
	close(traced->log);
	return text;
}

/* Of one that has said where it listens. */
static inline int dial(const struct traced *traced, bool udp)
{
	return udp ? udp_to(traced->port) : connect_to(traced->port);
}

static inline bool is_echoed(int fd)
{
	char byte = 0;
	bool good = fd != -1 && send_all(fd, "s", 1) &&
		receive_all(fd, &byte, 1) && byte == 's';

	if (fd != -1)
		close(fd);
	return good;
}

/* strace is there, and may trace; LeakSanitizer wants to be the only one. */
static inline bool can_trace(void)
{
	static int known = -1;

	if (under("asan"))
		return false;
	if (known == -1)
		known = system("strace -qq -f --seccomp-bpf -o /dev/null "
			       "-e trace=getpid "
			       "-e inject=getpid:error=EPERM:when=9 true "
			       "2>/dev/null") == 0;
	return known == 1;
}

#endif /* TRACED_H */
