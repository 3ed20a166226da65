/*
 * fuzz_conn.c: a connection, driven by a program. Its bytes choose calls of
 * evt-conn.h, from the handlers and between them, and what the peer does, who
 * has the other end of a pair of sockets. What is promised is looked at all the
 * time: bytes arrive as they were written, in order and up to the last one
 * where the end was orderly; handlers are called when they may be; each opened
 * connection has one on_close, for a reason that there was; counters are even.
 *
 * All of it runs on the worker, a step of the program in each turn of its loop:
 * so an input does the same whenever it comes, but for timeouts.
 *
 * fuzz: -max_len=256
 */
#include "fuzz_conn.h"
#include "network.h"

#include <sys/mman.h>

#define MOST_STEPS 300
#define PATIENCE_S 60 /* then it hangs */

static int listening = -1;

/* Stays for the next input, unless this one stops it. */
static struct evt_pool *pool;
static struct evt_stats before;

/* The peer */

static void peer_says(void)
{
	size_t len = take_len();
	ssize_t sent;

	if (my.peer == -1 || my.peer_ended)
		return;
	sent = send(my.peer, pattern + my.said % PERIOD, len,
		MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent > 0)
		my.said += (size_t)sent;
}

static void peer_hears_some(size_t most)
{
	static char bytes[MOST];
	ssize_t got;

	if (my.peer == -1 || my.heard_end || my.heard_reset)
		return;
	got = recv(my.peer, bytes, most, MSG_DONTWAIT);
	if (got > 0) {
		REQUIRE((size_t)got <= my.written - my.heard);
		REQUIRE(memcmp(bytes, pattern + my.heard % PERIOD,
				(size_t)got) == 0);
		my.heard += (size_t)got;
	} else if (got == 0) {
		my.heard_end = true;
	} else if (errno != EAGAIN) {
		my.heard_reset = true;
	}
}

static void peer_hears(void)
{
	size_t len = take_len();

	if (len > 0)
		peer_hears_some(len);
}

static void peer_ends(void)
{
	if (my.peer != -1)
		shutdown(my.peer, SHUT_WR);
	my.peer_ended = true;
}

static void peer_leaves(void)
{
	const struct linger linger = {.l_onoff = 1};

	if (my.peer == -1)
		return;
	setsockopt(my.peer, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(my.peer);
	my.peer = -1;
	my.peer_left = true;
}

/* Steps between the handlers */

static void run_task(struct evt_conn *conn, void *arg)
{
	REQUIRE(conn == my.conn && arg == &my && !my.is_calling);
	my.tasks--;
}

static void step_post(void)
{
	if (!my.opened)
		return;
	if (CALL(evt_pool_post_conn(pool, my.id, run_task, &my)) == 0)
		my.tasks++;
	else
		REQUIRE(my.has_stopped && errno == ECANCELED);
}

static void step_send(void)
{
	size_t len = take_len() % 4096;
	const char *bytes = pattern + my.written % PERIOD;

	if (!my.opened || my.is_closing || my.has_finished)
		return;
	if (CALL(evt_pool_send(pool, my.id, bytes, len)) == -1)
		return;
	if (my.conn)
		my.written += len;
	my.is_sending = true;
}

/* Long enough for a short timeout. */
static void step_wait(void)
{
	const struct timespec time = {0, 3000000};

	if (my.has_times && my.waits++ < 2)
		nanosleep(&time, NULL);
}

static void step_stop(void)
{
	if (take_below(&my.input, 4))
		return;
	my.has_stopped = true;
	evt_pool_stop(pool);
}

static void (*const steps[])(void) = {peer_says, peer_hears, peer_says,
	peer_hears, peer_ends, peer_leaves, step_post, step_send, step_wait,
	step_stop};

#define NR_STEPS (sizeof(steps) / sizeof(steps[0]))

static void one_step(void)
{
	unsigned what = take_below(&my.input, NR_STEPS + NR_CALLS);

	if (what < NR_STEPS)
		steps[what]();
	else if (my.conn)
		calls[what - NR_STEPS]();
}

/* The program is over: everything comes to its end. */
static void end_step(void)
{
	REQUIRE(time(NULL) < my.until);
	if (my.conn && !my.has_closed) {
		if (my.ending % 4 == 0)
			call_abort();
		else if (my.ending % 4 == 1)
			peer_leaves();
		call_close();
	}
	peer_hears_some(MOST);
	if (my.heard_end || my.heard_reset)
		peer_leaves();
}

static void step(struct evt_worker *worker, void *arg)
{
	bool is_over_now = is_over(&my.input) || my.steps++ >= MOST_STEPS;

	/* What is sent to who has gone meanwhile is lost. */
	if (my.is_sending && (!my.conn || my.peer_ended || my.peer_left))
		my.is_unsure = true;
	my.is_sending = false;
	if (!is_over_now)
		one_step();
	else if (!my.gone)
		end_step();
	if ((is_over_now && my.gone && my.tasks == 0) ||
		evt_worker_post(worker, step, arg) == -1)
		sem_post(&my.over);
}

/* Before the first */

static int connect_tcp(int fds[2])
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);

	REQUIRE(getsockname(listening, (struct sockaddr *)&in, &len) == 0);
	fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(fds[1] != -1);
	REQUIRE(connect(fds[1], (struct sockaddr *)&in, len) == 0);
	fds[0] = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return fds[0] == -1 ? -1 : 0;
}

static void make_setup(unsigned flags)
{
	struct evt_limits limits = {.call = "fuzz"};
	struct evt_handlers handlers = {
		.on_open = on_open, .on_data = on_data, .on_close = on_close};

	if (flags & 1)
		handlers.on_eof = on_eof;
	if (flags & 2)
		handlers.on_drain = on_drain;
	if (flags & 4)
		handlers.on_timeout = on_timeout;
	if (flags & 8)
		handlers.on_stop = on_stop;
	if (flags & 16) {
		my.has_limits = true;
		limits.max_input = 1000;
		limits.low_mark = 500;
		limits.high_mark = 2000;
		limits.max_output = 40000;
	}
	if (flags & 32) {
		my.has_times = true;
		limits.first_byte_ms = 1;
		limits.idle_ms = 2;
	}
	REQUIRE(evt_setup_init_(&my.setup, &limits, &handlers, sizeof(handlers),
			&my) == 0);
	my.setup.on_gone = on_gone;
}

static void begin(struct evt_worker *worker, void *arg)
{
	unsigned flags = take_byte(&my.input);
	const int small = 1;
	int fds[2];

	my.ending = take_byte(&my.input);
	make_setup(flags);
	if (flags & 64)
		REQUIRE(connect_tcp(fds) == 0);
	else
		REQUIRE(socketpair(AF_UNIX,
				SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
				fds) == 0);
	if (flags & 128)
		setsockopt(
			fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	my.peer = fds[1];
	REQUIRE(evt_conn_accept_(worker, fds[0], &my.setup, 0) == 0);
	step(worker, arg);
}

/* After the last */

static uint64_t closed_for(const struct evt_stats *stats, enum evt_reason why)
{
	const uint64_t closed[] = {
		[EVT_REASON_PEER] = stats->closed_peer,
		[EVT_REASON_OURS] = stats->closed_ours,
		[EVT_REASON_RESET] = stats->closed_reset,
		[EVT_REASON_IDLE] = stats->closed_idle,
		[EVT_REASON_DEADLINE] = stats->closed_deadline,
		[EVT_REASON_OVERFLOW] = stats->closed_overflow,
		[EVT_REASON_STOPPED] = stats->closed_stopped,
		[EVT_REASON_FAILED] = stats->closed_failed,
	};
	uint64_t all = 0;
	size_t i;

	for (i = 0; i < sizeof(closed) / sizeof(closed[0]); i++)
		all += closed[i];
	REQUIRE(all == stats->opened);
	return closed[why];
}

static void look_at_counters(void)
{
	struct evt_stats now;
	uint64_t in;
	uint64_t out;

	REQUIRE(evt_pool_stats(pool, &now) == 0);
	in = now.bytes_in - before.bytes_in;
	out = now.bytes_out - before.bytes_out;
	REQUIRE(now.opened == before.opened + 1 && now.open == 0);
	REQUIRE(closed_for(&now, my.reason) ==
		closed_for(&before, my.reason) + 1);
	REQUIRE(in >= my.consumed && in <= my.said);
	REQUIRE(out >= my.heard && out <= my.written);
	before = now;
}

static void look_at_end(void)
{
	REQUIRE(my.opened && my.closed && my.gone);
	REQUIRE(my.refs == 0 && my.tasks == 0);
	/* The end of a unix stream looks the same when it was aborted. */
	if (my.heard_end && !my.has_aborted && !my.is_unsure &&
		(my.reason == EVT_REASON_OURS || my.reason == EVT_REASON_PEER))
		REQUIRE(my.heard == my.written);
}

static void be_silent(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	(void)own_network(CLONE_NEWNET);
	return 0;
}

static void open_files(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	size_t i;

	for (i = 0; i < sizeof(pattern); i++)
		pattern[i] = (char)(1 + (i % PERIOD) * 2654435761U % 127);
	file = memfd_create("pattern", MFD_CLOEXEC);
	REQUIRE(write(file, pattern, sizeof(pattern)) == sizeof(pattern));
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(bind(listening, (struct sockaddr *)&in, sizeof(in)) == 0);
	REQUIRE(listen(listening, 16) == 0);
}

static void start_pool(void)
{
	struct evt_pool_options options = {
		.workers = 1, .grace_ms = 1, .stall_ms = -1};

	evt_set_log(be_silent, NULL);
	pool = evt_pool_new(&options);
	REQUIRE(pool && evt_pool_start(pool) == 0);
	memset(&before, 0, sizeof(before));
}

static void end_pool(void)
{
	if (pool)
		evt_pool_free(pool);
	pool = NULL;
}

void fuzz_tidy_up(void)
{
	end_pool();
	close(file);
	close(listening);
	listening = -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	memset(&my, 0, sizeof(my));
	my.input = (struct input){data, data + size};
	my.until = time(NULL) + PATIENCE_S;
	my.peer = -1;
	sem_init(&my.over, 0, 0);
	if (listening == -1)
		open_files();
	if (!pool)
		start_pool();
	REQUIRE(evt_worker_post(evt_pool_worker(pool, 0), begin, NULL) == 0);
	while (sem_wait(&my.over) == -1)
		REQUIRE(errno == EINTR);
	if (my.has_stopped)
		REQUIRE(evt_pool_wait(pool) == 0);
	if (my.peer != -1)
		close(my.peer);
	sem_destroy(&my.over);
	look_at_counters();
	look_at_end();
	if (my.has_stopped)
		end_pool();
	return 0;
}
