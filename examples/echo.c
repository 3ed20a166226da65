/*
 * echo: what comes in goes out again, on all cores. The smallest server.
 *
 * Start it:	examples/echo			(Ctrl-C ends it)
 * Try it:	nc localhost 9999		in as many terminals as you like
 *
 * Each line that you type comes back. A client that sends without reading is
 * read no further once 256 KiB wait for it, one that is silent for a minute at
 * first, or for ten later, is closed: those are defaults of evt-listener.h.
 */
#include "example.h"

static size_t echo(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	evt_conn_write(conn, data, len);
	return len;
}

int main(int argc, char **argv)
{
	struct example example = example_options(
		(struct example){.url = "tcp://[::]:9999"}, argc, argv);
	struct evt_pool_options options = {.workers = example.workers};
	struct evt_handlers handlers = {.on_data = echo};

	return example_serve(&example, evt_pool_new(&options), &handlers, NULL);
}
