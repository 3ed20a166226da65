/*
 * one-udp.c: an echo server of datagrams in the classic way, one socket and a
 * system call for each datagram: what examples/classic-udp does, with as many
 * workers as the others of the benchmark and room for as much to wait.
 *
 *	bench/one-udp PORT [WORKERS]
 */
#include "common.h"

#include <evt-core.h>

#define RCVBUF 1048576

static void on_datagram(sockfd_t fd, short event, void *arg)
{
	static int has_room; /* on the listener's thread alone */

	if (!has_room) {
		set_option(fd, SOL_SOCKET, SO_RCVBUF, RCVBUF);
		has_room = 1;
	}
	evt_thread_dispatch(fd, event, arg);
}

static void answer(sockfd_t fd, short event, void *arg)
{
	struct sockaddr_storage storage;
	struct sockaddr *from = (struct sockaddr *)&storage;
	char data[2048];
	int len = evt_udp(fd, data, sizeof(data), 0, from);

	(void)event, (void)arg;
	if (len >= 0 &&
		sendto(fd, data, (size_t)len, 0, from,
			(socklen_t)get_sockaddr_size()) == -1)
		perror("bench: sendto");
}

int main(int argc, char **argv)
{
	sigset_t stop;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: bench/one-udp PORT [WORKERS]\n");
		return 2;
	}
	block_signals(&stop);
	if (evt_server_init(argument(argc, argv, 1, 0), SOCK_DGRAM) != 0 ||
		evt_server_start(on_datagram, NULL) != 0 ||
		evt_server_threads(answer, argument(argc, argv, 2, 2)) <= 0)
		return 1;
	printf("listening on port %d\n", evt_server_port());
	fflush(stdout);
	wait_for_end(&stop);
	evt_server_stop();
	return 0;
}
