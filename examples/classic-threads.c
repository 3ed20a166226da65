/*
 * classic-threads: one thread accepts clients, and four workers talk to them.
 *
 * Start it:	examples/classic-threads 9999	(Ctrl-C ends it)
 * Try it:	nc localhost 9999		in two terminals, and type
 *
 * "hello" comes back as "worker 1: hello" in one, as "worker 2: hello" in the
 * other: clients go to the workers in turn. Ctrl-C gives them 5 s to leave.
 */
#include <evt-core.h>
#include <signal.h>

static void on_client(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	if (conn >= 0 && evt_thread_dispatch(conn, evt, arg) < 0)
		evt_close(conn); /* not taken, so it is ours to close */
}

static void talk(sockfd_t conn, short evt, void *arg)
{
	static _Atomic int workers;
	static _Thread_local int me;
	char text[1024];
	ssize_t len;

	(void)evt, (void)arg;
	if (me == 0)
		me = ++workers;
	while ((len = read(conn, text, sizeof(text))) > 0)
		dprintf(conn, "worker %d: %.*s", me, (int)len, text);
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
		evt_server_threads(talk, 4) > 0 &&
		printf("listening on port %d\n", evt_server_port()) > 0 &&
		fflush(stdout) == 0)
		sigwait(&stop, &sig);
	evt_server_stop();
	return sig == 0;
}
