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
	char at[160]; /* what it says it listens on: "port 41233", or a URL */
};
extern struct server server;

/* Starts program(name), which says where it listens, with up to two arguments:
 * the port (0 of a unix socket), or -1. */
int start_server(const char *name, const char *a, const char *b);

/* Ends it by a signal: its exit status. What it said since is in said. */
int end_server(int sig);

/*
 * Starts a client, a line for a shell, which speaks with its standard input and
 * output: the socket at the other end of both. 8 at a time.
 */
int start_client(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends its input, and waits until it has ended too: its exit status. */
int end_client(int fd);

/* Kills what a test that failed has left, server and clients. */
void end_programs(void);

/* Talking to a client or a server by lines, each with its end. False if there
 * is none in 10 s; receives prints one that is another. */
bool says(int fd, const char *text);
bool read_line(int fd, char *line, size_t size);
bool receives(int fd, const char *expected);

/* The parts: the pid, output and errors coming from *out; all of a text; the
 * exit status. */
pid_t start_program(const char *const *args, const char *path, int *out);
void read_text(int fd, char *text, size_t size);
int await_status(pid_t pid);

#endif /* PROGRAMS_H */
