/*
 * programs.h: programs of this build and of the system, as tests run them. Each
 * is ended by an alarm of its own, whatever happens to the test.
 */
#ifndef PROGRAMS_H
#define PROGRAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define SAID 16384

/* What the last program that was run said, output and errors; a text. */
extern char said[SAID];

/* Runs program(name) with the words of the formatted text: its exit status, or
 * 128 + signal. */
int run(const char *name, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* The same with a line for a shell; for clients such as socat. */
int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Whether there is such a client. */
bool have(const char *client);

/* The server that start_server has started; pid 0: none. */
struct server {
	pid_t pid;
	int port;
	int out;
};
extern struct server server;

/* Starts program(name), which prints its port, with up to two arguments: the
 * port, or -1. */
int start_server(const char *name, const char *a, const char *b);

/* Ends it by a signal: its exit status. What it said since is in said. */
int end_server(int sig);

/* The parts: the pid, output and errors coming from *out; all of a text; the
 * exit status. */
pid_t start_program(const char *const *args, const char *path, int *out);
void read_text(int fd, char *text, size_t size);
int await_status(pid_t pid);

#endif /* PROGRAMS_H */
