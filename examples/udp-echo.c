/*
 * udp-echo: each datagram goes back to where it came from. The smallest UDP
 * server; with a socket for each core, and many datagrams in one system call.
 *
 * Start it:	examples/udp-echo		(Ctrl-C ends it)
 * Try it:	socat - UDP:localhost:9999	in as many terminals as you like
 *
 * Each line that you type comes back. An answer is as long as what was sent, so
 * nobody gains by having it sent to somebody else: it passes the amplification
 * guard of evt-udp.h, which refuses more than three times as much. But who
 * forges a datagram from one echo server to another has them busy for ever, so
 * this is for networks where nobody does.
 */
#include "example.h"

static void echo(struct evt_udp_socket *sock, const struct evt_datagram *batch,
	int n, void *arg)
{
	int i;

	(void)arg;
	for (i = 0; i < n; i++)
		evt_udp_reply(sock, &batch[i], batch[i].data, batch[i].len);
}

int main(int argc, char **argv)
{
	struct example example = example_options(
		(struct example){.url = "udp://[::]:9999"}, argc, argv);
	struct evt_pool_options options = {.workers = example.workers};
	struct evt_handlers handlers = {.on_datagrams = echo};

	if (strncmp(example.url, "tcp:", 4) == 0 ||
		strncmp(example.url, "unix:", 5) == 0)
		return example_wrong(&example, "a URL of datagrams is wanted");
	return example_serve(&example, evt_pool_new(&options), &handlers, NULL);
}
