/*
 * classic-udp: four workers answer datagrams. While one waits, the listener
 * hands over the socket, and the first worker there receives it; a worker that
 * comes too late gets a length of -1.
 *
 * Start it:	examples/classic-udp 9999	(Ctrl-C ends it)
 * Try it:	socat - UDP:localhost:9999	and type
 *
 * "hello" comes back as "HELLO".
 */
#include <ctype.h>
#include <evt-core.h>
#include <signal.h>

static void on_datagram(sockfd_t fd, short evt, void *arg)
{
	evt_thread_dispatch(fd, evt, arg);
}

static void answer(sockfd_t fd, short evt, void *arg)
{
	struct sockaddr_storage storage;
	struct sockaddr *from = (struct sockaddr *)&storage;
	char text[1024];
	int i, len = evt_udp(fd, text, sizeof(text), 0, from);

	(void)evt, (void)arg;
	for (i = 0; i < len; i++)
		text[i] = (char)toupper((unsigned char)text[i]);
	if (len >= 0 &&
		sendto(fd, text, (size_t)len, 0, from,
			(socklen_t)get_sockaddr_size()) < 0)
		sys_error("sendto");
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
	if (evt_server_init((int)port, SOCK_DGRAM) == 0 &&
		evt_server_start(on_datagram, NULL) == 0 &&
		evt_server_threads(answer, 4) > 0 &&
		printf("listening on port %d\n", evt_server_port()) > 0 &&
		fflush(stdout) == 0)
		sigwait(&stop, &sig);
	evt_server_stop();
	return sig == 0;
}
