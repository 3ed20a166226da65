/* fault_conn.c: scenarios of connections, those that connect out too. */
#include "fault_rig.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

/* What a client says, and how many bytes come. */
static void exchange(const char *text, size_t bytes)
{
	int fd = living_dial();

	fault_say(fd, text);
	fault_hears(fd, bytes);
	fault_hang_up(fd);
}

static void write_much(void)
{
	exchange("ebe", BIG + 2);
}

static void backpressure(void)
{
	const struct life life = {.use = write_much};

	live(&life);
}

static void write_references(void)
{
	exchange("esere", BIG + 4);
	exchange("sb", BIG + 1);
}

static void references(void)
{
	const struct life life = {.use = write_references};

	live(&life);
}

static void overflow(void)
{
	static const struct evt_listen_options options = {
		.high_mark = 1000, .low_mark = 500, .max_output = 100000};
	const struct life life = {.options = &options, .use = write_much};

	live(&life);
}

static void send_files(void)
{
	exchange("fef", 200001);
	exchange("bf", BIG + 100000);
}

static void files(void)
{
	const struct life life = {.use = send_files};

	live(&life);
}

static void print(void)
{
	exchange("p", 2000);
}

static void prints(void)
{
	const struct life life = {.use = print};

	live(&life);
}

/* Left by on_data, three times with more. */
static void leave(void)
{
	char bytes[5000];
	int fd = living_dial();

	memset(bytes, 'l', sizeof(bytes));
	bytes[sizeof(bytes) - 1] = '\0';
	fault_say(fd, "l");
	UNLESS_FAULT(atomic_load(&living.left) > 0);
	fault_say(fd, bytes);
	UNLESS_FAULT(atomic_load(&living.left) > 1);
	fault_say(fd, bytes);
	fault_hears(fd, 1);
	fault_hang_up(fd);
	fd = living_dial();
	fault_say(fd, "w");
	fault_say(fd, "wwwe");
	fault_hears(fd, 1);
	fault_hang_up(fd);
}

static void input(void)
{
	const struct life life = {.use = leave};

	live(&life);
}

static void ask(void)
{
	exchange("q", 1);
}

static void questions(void)
{
	const struct life life = {.use = ask};

	live(&life);
}

static void unix_questions(void)
{
	const struct life life = {.url = "unix:@evt-fault-q", .use = ask};

	live(&life);
}

static void time_out(const char *how)
{
	int fd = living_dial();

	fault_say(fd, how);
	fault_hears_end(fd);
	fault_hang_up(fd);
}

static void time_out_both(void)
{
	time_out("ei");
	time_out("ed");
}

static void timeouts(void)
{
	const struct life life = {.use = time_out_both};

	live(&life);
}

/* Closed while more comes: the rest is thrown away. */
static void end_early(void)
{
	int fd = living_dial();

	fault_say(fd, "ec");
	fault_say(fd, "and more");
	fault_hears_end(fd);
	fault_say(fd, "still more");
	fault_hang_up(fd);
	fd = living_dial();
	fault_say(fd, "bc");
	fault_say(fd, "and more");
	fault_hears_end(fd);
	fault_hang_up(fd);
	time_out("ea");
	time_out("ez");
}

static void endings(void)
{
	const struct life life = {.use = end_early};

	live(&life);
}

/* The peer ends its stream, and waits for the rest. */
static void half_close(void)
{
	int fd = living_dial();

	fault_say(fd, "be");
	if (fd != -1)
		shutdown(fd, SHUT_WR);
	fault_hears_end(fd);
	fault_hang_up(fd);
}

static void half_closed(void)
{
	const struct life life = {.use = half_close};

	live(&life);
}

static void half_closed_unix(void)
{
	const struct life life = {
		.url = "unix:@evt-fault-h", .use = half_close};

	live(&life);
}

/* Closed with nothing to read: it lingers in line, and then in the loop. */
static void linger(void)
{
	int fd = living_dial();

	fault_say(fd, "ec");
	fault_hears_end(fd);
	usleep(30000); /* its peer does not close for so long */
	living_echoes();
	fault_hang_up(fd);
}

static void lingering(void)
{
	const struct life life = {.use = linger};

	live(&life);
}

/* Connecting out */

static struct {
	char url[64];
	const struct addrinfo *addrs;
	struct evt_connect_options options;
	atomic_int opened;
	atomic_int closed;
	atomic_int echoed;
	atomic_bool made;
} out;

static void out_open(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_fetch_add(&out.opened, 1);
	SAID(evt_conn_write(conn, "e", 1));
}

static size_t out_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	atomic_fetch_add(&out.echoed, (int)len);
	evt_conn_close(conn);
	return len;
}

static void out_close(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)conn, (void)reason, (void)arg;
	atomic_fetch_add(&out.closed, 1);
}

static void connect_task(struct evt_worker *worker, void *arg)
{
	const struct evt_handlers handlers = {.on_open = out_open,
		.on_data = out_data,
		.on_close = out_close};
	struct evt_conn *conn;

	(void)arg;
	conn = out.addrs ? SAID_P(evt_connect_addrs(worker, out.addrs,
				   &handlers, &out.options, NULL))
			 : SAID_P(evt_connect(worker, out.url, &handlers,
				   &out.options, NULL));
	atomic_store(&out.made, conn != NULL);
}

static void connect_out(void)
{
	atomic_store(&out.closed, 0);
	if (!on_living_worker(connect_task, NULL))
		return;
	if (atomic_load(&out.made))
		UNLESS_FAULT(atomic_load(&out.closed) > 0);
}

static void connect_tcp(void)
{
	snprintf(out.url, sizeof(out.url), "tcp://127.0.0.1:%d", living.port);
	connect_out();
}

static void connecting(void)
{
	const struct life life = {.workers = 2, .use = connect_tcp};

	live(&life);
}

static void connect_unix(void)
{
	snprintf(out.url, sizeof(out.url), "%s", living.life->url);
	connect_out();
}

static void connecting_unix(void)
{
	const struct life life = {
		.url = "unix:@evt-fault-o", .workers = 2, .use = connect_unix};

	live(&life);
}

/* Two that nobody listens at, then ours. */
static void connect_list(void)
{
	struct sockaddr_in in[3];
	struct addrinfo info[3] = {{0}, {0}, {0}};
	int i;

	for (i = 0; i < 3; i++) {
		in[i] = (struct sockaddr_in){.sin_family = AF_INET,
			.sin_port = htons((uint16_t)(i < 2 ? 1 : living.port)),
			.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		info[i].ai_addr = (struct sockaddr *)&in[i];
		info[i].ai_addrlen = sizeof(in[i]);
		info[i].ai_next = i < 2 ? &info[i + 1] : NULL;
	}
	out.addrs = info;
	connect_out();
	out.addrs = NULL;
}

static void connecting_to_several(void)
{
	const struct life life = {.workers = 2, .use = connect_list};

	live(&life);
}

/* A unix socket whose queue is full, until connect_ms are over. */
static void connect_full(void)
{
	struct sockaddr_un un = {
		.sun_family = AF_UNIX, .sun_path = "\0evt-fault-full"};
	socklen_t len = offsetof(struct sockaddr_un, sun_path) + 15;
	int fds[4];
	int i;

	for (i = 0; i < 4; i++)
		fds[i] = socket(
			AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	MUST(bind(fds[0], (struct sockaddr *)&un, len) == 0);
	MUST(listen(fds[0], 0) == 0);
	for (i = 1; i < 4; i++)
		(void)!connect(fds[i], (struct sockaddr *)&un, len);
	snprintf(out.url, sizeof(out.url), "unix:@evt-fault-full");
	out.options.connect_ms = 30;
	connect_out();
	for (i = 0; i < 4; i++)
		close(fds[i]);
}

static void connecting_to_a_full_queue(void)
{
	const struct life life = {.use = connect_full};

	live(&life);
}

const struct scenario conn_scenarios[] = {
	{"much_is_written", backpressure},
	{"references_are_written", references},
	{"output_overflows", overflow},
	{"files_are_sent", files},
	{"long_lines_are_printed", prints},
	{"input_is_left", input},
	{"a_connection_is_asked", questions},
	{"a_unix_connection_is_asked", unix_questions},
	{"connections_time_out", timeouts},
	{"connections_end_while_more_comes", endings},
	{"a_closed_connection_lingers", lingering},
	{"a_peer_ends_its_stream", half_closed},
	{"a_peer_ends_its_unix_stream", half_closed_unix},
	{"a_worker_connects_out", connecting},
	{"a_worker_connects_to_a_unix_socket", connecting_unix},
	{"a_worker_tries_several_addresses", connecting_to_several},
	{"a_worker_connects_to_a_full_queue", connecting_to_a_full_queue},
	{NULL, NULL},
};
