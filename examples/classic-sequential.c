/*
 * classic-sequential: no workers. The thread that accepts a client serves it,
 * and the next one waits for its turn.
 *
 * Start it:	examples/classic-sequential 9999	(Ctrl-C ends it)
 * Try it:	nc localhost 9999			in two terminals
 *
 * Type "hello" in the second: there is no answer before a line is typed in the
 * first, which comes back as "client 1: ...". As nothing happens at the same
 * time the count needs no lock; but a silent client keeps all others waiting,
 * and Ctrl-C for 5 s.
 */
#include <evt-core.h>
#include <signal.h>

static void on_client(sockfd_t fd, short evt, void *arg)
{
	static int clients;
	sockfd_t conn = evt_tcp(fd, NULL);
	char text[1024];
	ssize_t len;

	(void)evt, (void)arg;
	if (conn < 0)
		return;
	len = read(conn, text, sizeof(text));
	if (len > 0)
		dprintf(conn, "client %d: %.*s", ++clients, (int)len, text);
	evt_close(conn);
}

int main(int argc, char **argv)
{
	char *end = "";
	long port = argc > 1 ? strtol(argv[1], &end, 10) : 9999;
	sigset_t stop;
	int sig = 0;

	if (argc > 2 || *end || end == argv[1] || port < 0 || port > 65535) {
		fprintf(stderr, "usage: %s [PORT]\n", argv[0]);
		return 2;
	}
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	if (evt_server_init((int)port, SOCK_STREAM) == 0 &&
		evt_server_start(on_client, NULL) == 0 &&
		printf("listening on port %d\n", evt_server_port()) > 0 &&
		fflush(stdout) == 0)
		sigwait(&stop, &sig);
	evt_server_stop();
	return sig == 0;
}
