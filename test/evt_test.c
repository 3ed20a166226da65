/*
 * evt_test: the multithreaded echo server, whole, and the flood benchmark.
 *
 *	evt_test PORT [WORKERS]		answers each connection once, and closes
 *	evt_test -u PORT [WORKERS]	answers each datagram
 *	evt_test			floods itself, and prints tables
 *
 * The server is on_client, echo and serve. A message is what one read brings,
 * so that a transaction costs one read and one write, as it does in the servers
 * that bench compares with this one; longer messages than that are not for it.
 *
 * The benchmark runs the server in a process of its own, so that neither side
 * has the other's descriptors, and its end can be judged by its exit status.
 */
#include "../evt-core.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

enum {
	SPARE_FDS = 64, /* the server's that are no connections */
	END_WITHIN_MS = 30000,
};

/* The TCP server. */

static void on_client(sockfd_t fd, short evt, void *arg)
{
	struct sockaddr *peer = new_sockaddr();
	sockfd_t conn = evt_tcp(fd, peer);

	(void)arg;
	if (conn >= 0 && evt_thread_dispatch(conn, evt, peer) == 0)
		return;
	if (conn >= 0)
		evt_close(conn);
	free(peer);
}

static void echo(sockfd_t conn, short evt, void *peer)
{
	char buf[16384];
	ssize_t n = read(conn, buf, sizeof(buf));

	(void)evt;
	if (n > 0 && write(conn, buf, (size_t)n) < 0)
		sys_error("evt_test: write");
	evt_close(conn);
	free(peer);
}

/* The UDP server: the datagram itself travels to the worker. */

struct datagram {
	struct sockaddr_storage from;
	size_t len;
	char data[];
};

static void on_datagram(sockfd_t fd, short evt, void *arg)
{
	static char buf[65536]; /* one listener, one thread */
	struct sockaddr_storage from;
	struct datagram *dgram;
	int n = evt_udp(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from);

	(void)arg;
	if (n < 0)
		return;
	dgram = malloc(sizeof(*dgram) + (size_t)n);
	if (!dgram) {
		sys_error("evt_test: malloc");
		return;
	}
	dgram->from = from;
	dgram->len = (size_t)n;
	memcpy(dgram->data, buf, (size_t)n);
	if (evt_thread_dispatch(fd, evt, dgram) < 0)
		free(dgram);
}

static void echo_datagram(sockfd_t fd, short evt, void *arg)
{
	struct datagram *dgram = arg;

	(void)evt;
	if (sendto(fd, dgram->data, dgram->len, 0,
		    (struct sockaddr *)&dgram->from,
		    (socklen_t)get_sockaddr_size()) < 0)
		sys_error("evt_test: sendto");
	free(dgram);
}

static int serve(int port, int workers, bool udp)
{
	sigset_t stops;
	bool ok;
	int sig;

	sigemptyset(&stops);
	sigaddset(&stops, SIGINT);
	sigaddset(&stops, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &stops, NULL);

	ok = evt_server_init(port, udp ? SOCK_DGRAM : SOCK_STREAM) == 0 &&
		evt_server_start(udp ? on_datagram : on_client, NULL) == 0 &&
		evt_server_threads(udp ? echo_datagram : echo, workers) > 0;
	if (ok) {
		printf("listening on port %d\n", evt_server_port());
		fflush(stdout);
		sigwait(&stops, &sig);
	}
	evt_server_stop();
	return ok ? 0 : 1;
}

/* The benchmark. */

/* Starts argv, which does not outlive us, with its output going to out. */
static pid_t spawn(char *const argv[], int out)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent &&
		dup2(out, STDOUT_FILENO) == STDOUT_FILENO)
		execv(argv[0], argv);
	sys_error(argv[0]);
	_exit(127);
}

/* The port that the server's first line tells, or -1. */
static int read_port(int fd)
{
	static const char words[] = "listening on port ";
	char line[64] = "";
	FILE *f = fdopen(fd, "r");
	int port = -1;

	if (!f) {
		close(fd);
		return -1;
	}
	if (fgets(line, sizeof(line), f) &&
		strncmp(line, words, strlen(words)) == 0)
		port = (int)strtol(line + strlen(words), NULL, 10);
	fclose(f);
	return port;
}

static pid_t start_server(char *program, int *port)
{
	char *argv[] = {program, "0", NULL};
	int out[2];
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) < 0)
		return -1;
	pid = spawn(argv, out[1]);
	close(out[1]);
	*port = read_port(out[0]);
	return pid;
}

static bool flood(char *flooder, int port, long count, long in_flight)
{
	char p[16], n[24], c[24];
	char *argv[] = {flooder, p, n, "-c", c, NULL};
	int status = -1;
	pid_t pid;

	snprintf(p, sizeof(p), "%d", port);
	snprintf(n, sizeof(n), "%ld", count);
	snprintf(c, sizeof(c), "%ld", in_flight);
	fflush(stdout);
	pid = spawn(argv, STDOUT_FILENO);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		sys_error(flooder);
	printf("\n");
	return status == 0;
}

/* Ends the server; true if it did so by itself and with status 0. */
static bool end_server(pid_t pid)
{
	const struct timespec pause = {.tv_nsec = 10000000};
	pid_t ended = 0;
	int waited_ms = 0;
	int status = -1;

	kill(pid, SIGTERM);
	while ((ended = waitpid(pid, &status, WNOHANG)) == 0 &&
		waited_ms < END_WITHIN_MS) {
		nanosleep(&pause, NULL);
		waited_ms += 10;
	}
	if (ended == 0) {
		printf("server: still running %d s after SIGTERM, killed\n",
			END_WITHIN_MS / 1000);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return false;
	}
	if (WIFEXITED(status))
		printf("server: ended with exit status %d\n",
			WEXITSTATUS(status));
	else
		printf("server: killed by signal %d\n", WTERMSIG(status));
	return status == 0;
}

/* What it is now, having been raised to need, or as far as it goes. */
static rlim_t raise_descriptors(rlim_t need)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur >= need)
		return need;
	if (lim.rlim_max < need &&
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){need, need}) == 0)
		return need; /* root may */
	if (lim.rlim_max < need)
		need = lim.rlim_max;
	lim.rlim_cur = need;
	return setrlimit(RLIMIT_NOFILE, &lim) == 0 ? need : 0;
}

/* This program, and the flooder from its folder. */
static bool find_programs(char self[PATH_MAX], char flooder[PATH_MAX])
{
	ssize_t len = readlink("/proc/self/exe", self, PATH_MAX - 1);
	int dir_len;

	if (len < 0)
		return false;
	self[len] = '\0';
	dir_len = (int)(strrchr(self, '/') - self);
	return snprintf(flooder, PATH_MAX, "%.*s/flooder", dir_len, self) <
		PATH_MAX;
}

static int benchmark(long count)
{
	rlim_t need = (rlim_t)count + SPARE_FDS;
	rlim_t have = raise_descriptors(need);
	char self[PATH_MAX], flooder[PATH_MAX];
	int port = -1;
	bool ok;
	pid_t pid;

	if (have < need)
		printf("The limit of descriptors, %ju, cannot be raised to %ju.\n\n",
			(uintmax_t)have, (uintmax_t)need);
	if (!find_programs(self, flooder))
		return 1;
	pid = start_server(self, &port);
	if (pid < 0)
		return 1;
	if (port < 0) {
		end_server(pid);
		return 1;
	}
	printf("Flood 1 of 3: 4 in flight\n\n");
	ok = flood(flooder, port, count, 4);
	printf("Flood 2 of 3: 64 in flight\n\n");
	ok &= flood(flooder, port, count, 64);
	printf("Flood 3 of 3: all open at once\n\n");
	ok &= flood(flooder, port, count, count);
	ok &= end_server(pid);
	return ok ? 0 : 1;
}

/* The number in text, or -1. */
static long number(const char *text, long min, long max)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max)
		return -1;
	return value;
}

static int wrong_usage(void)
{
	fputs("usage: evt_test [-u] PORT [WORKERS]\n"
	      "       evt_test\n"
	      "\n"
	      "An echo server: answers what one read of a connection brings, up to 16,384\n"
	      "bytes, and closes it. Prints the port; PORT 0 lets the kernel choose one.\n"
	      "WORKERS is the number of CPUs unless told. SIGINT and SIGTERM end it.\n"
	      "\n"
	      "  -u  UDP: answers datagrams\n"
	      "\n"
	      "Without arguments the flood benchmark: 10,000 connections (or $EVT_FLOOD)\n"
	      "with 4 in flight, with 64, and with all of them open at once.\n",
		stderr);
	return 2;
}

int main(int argc, char **argv)
{
	const char *count = getenv("EVT_FLOOD");
	long connections, port, workers;
	bool udp = false;
	int c;

	if (argc == 1) {
		connections = count ? number(count, 1, 10000000) : 10000;
		return connections < 0 ? wrong_usage() : benchmark(connections);
	}
	while ((c = getopt(argc, argv, "u")) != -1) {
		if (c != 'u')
			return wrong_usage();
		udp = true;
	}
	if (argc - optind < 1 || argc - optind > 2)
		return wrong_usage();
	port = number(argv[optind], 0, 65535);
	workers = argc - optind == 2 ? number(argv[optind + 1], 1, 65535)
				     : get_nr_cpus();
	if (port < 0 || workers < 0)
		return wrong_usage();
	raise_descriptors(RLIM_INFINITY);
	return serve((int)port, (int)workers, udp);
}
