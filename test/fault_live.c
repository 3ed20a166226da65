/*
 * fault_live.c: a pool, and a server on it that does what it is told by single
 * bytes. See fault_rig.h.
 */
#include "fault_rig.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#define SERVED_MS 10000 /* within which it serves again */
#define SOON_MS   20

struct living living;

static char big[BIG];

/* What clients ask for */

static void note_done(void *arg)
{
	(void)arg;
	atomic_fetch_add(&living.dones, 1);
}

static void send_file(struct evt_conn *conn)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	int none = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	if (SAID(evt_conn_sendfile(conn, none, 0, 0)) == -1)
		close(none);
	if (SAID(evt_conn_sendfile(conn, fd, 0, 100000)) == -1)
		close(fd);
}

static void ask_for_addresses(struct evt_conn *conn)
{
	struct sockaddr_storage addr;
	uid_t uid;

	SAID(evt_conn_peer(conn, &addr));
	SAID(evt_conn_local(conn, &addr));
	SAID(evt_conn_peer_uid(conn, &uid));
	SAID(evt_conn_write(conn, "q", 1));
}

static void do_bytes(struct evt_conn *conn, char what)
{
	switch (what) {
	case 'b': /* big */
		SAID(evt_conn_write(conn, big, BIG));
		break;
	case 'r': /* reference */
		SAID(evt_conn_write_ref(conn, big, BIG, note_done, NULL));
		break;
	case 's': /* small reference */
		SAID(evt_conn_write_ref(conn, "s", 1, note_done, NULL));
		break;
	case 'f': /* file */
		send_file(conn);
		break;
	case 'p': /* print, at length */
		SAID(evt_conn_printf(conn, "%2000d", 1));
		break;
	case 'q': /* questions */
		ask_for_addresses(conn);
		break;
	default:
		SAID(evt_conn_write(conn, &what, 1));
	}
}

static void do_ending(struct evt_conn *conn, char what)
{
	switch (what) {
	case 'i': /* idle */
		SAID(evt_conn_set_timeout(conn, EVT_TIMEOUT_IDLE, SOON_MS));
		break;
	case 'd': /* deadline */
		SAID(evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, SOON_MS));
		break;
	case 'c':
		evt_conn_close(conn);
		break;
	case 'z':
		SAID(evt_conn_finish(conn));
		break;
	case 'a':
		evt_conn_abort(conn);
		break;
	case 'x': /* the thread */
		pthread_exit(NULL);
	}
}

static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	if (data[0] == 'l' && len < 9000) { /* leave it, until there is more */
		atomic_fetch_add(&living.left, 1);
		return 0;
	}
	if (data[0] == 'l') {
		SAID(evt_conn_write(conn, "l", 1));
		return len;
	}
	if (data[0] == 'w' && len < 4) {
		SAID(evt_conn_want(conn, 4));
		return 0;
	}
	if (strchr("idczax", data[0]))
		do_ending(conn, data[0]);
	else
		do_bytes(conn, data[0]);
	return 1;
}

static void on_open(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_store(&living.id, evt_conn_id(conn));
	atomic_fetch_add(&living.opened, 1);
}

static void on_close(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)conn, (void)reason, (void)arg;
	atomic_fetch_add(&living.closed, 1);
}

static void on_drain(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
	atomic_fetch_add(&living.drains, 1);
}

static void on_datagrams(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	int i;

	(void)arg;
	for (i = 0; i < n; i++)
		if (batch[i].sender)
			SAID_OF_MANY(evt_udp_reply(
				sock, &batch[i], batch[i].data, batch[i].len));
}

const struct evt_handlers fault_handlers = {.on_open = on_open,
	.on_data = on_data,
	.on_drain = on_drain,
	.on_close = on_close,
	.on_datagrams = on_datagrams};

/* Clients */

static bool is_kind(const char *kind)
{
	return living.life->url &&
		strncmp(living.life->url, kind, strlen(kind)) == 0;
}

int living_dial(void)
{
	if (is_kind("unix:"))
		return fault_dial_unix(living.life->url, SOCK_STREAM);
	if (is_kind("unixgram:"))
		return fault_dial_unix(living.life->url, SOCK_DGRAM);
	return is_kind("udp:") ? fault_dial_udp(living.port)
			       : fault_dial(living.port);
}

bool living_echoes(void)
{
	int fd = living_dial();
	bool good;

	fault_say(fd, "e");
	good = fault_hears(fd, 1);
	fault_hang_up(fd);
	return good;
}

int living_guest(void)
{
	int fd = living_dial();

	fault_say(fd, "e");
	fault_hears(fd, 1);
	return fd;
}

/* No fault: one try of 100 ms. */
static bool is_served(void)
{
	int fd = living_dial();
	struct pollfd in = {.fd = fd, .events = POLLIN};
	char byte = 0;
	bool good;

	fault_say(fd, "e");
	good = fd != -1 && poll(&in, 1, 100) == 1 &&
		recv(fd, &byte, 1, 0) == 1 && byte == 'e';
	fault_hang_up(fd);
	return good;
}

/* It has said that nobody can be served any more. */
static bool says_it_is_lost(void)
{
	return fault_lines("the listener has lost its thread") > 0 ||
		fault_lines(": accepting on ") > 0 ||
		fault_lines("accepting on ") - fault_lines("pauses") -
			fault_lines("goes on") >
		0 ||
		fault_lines("receiving on ") > 0 ||
		fault_lines(" cannot be woken") > 0 ||
		fault_lines("listening on ") > 0 ||
		fault_lines(" has lost its thread: ") >= living.life->workers;
}

static void check_it_serves(void)
{
	int64_t until = now_ms() + SERVED_MS * slowness();

	while (!is_served()) {
		if (says_it_is_lost())
			return;
		MUST(now_ms() < until);
	}
}

/* Its tasks */

static void note_task(struct evt_worker *worker, void *arg)
{
	struct {
		evt_task task;
		void *arg;
	} *it = arg;

	it->task(worker, it->arg);
	atomic_fetch_add(&living.tasks, 1);
}

bool on_living_worker(evt_task task, void *arg)
{
	static struct {
		evt_task task;
		void *arg;
	} it;
	int before = atomic_load(&living.tasks);

	it.task = task;
	it.arg = arg;
	return SAID(evt_worker_post(
		       evt_pool_worker(living.pool, 0), note_task, &it)) == 0 &&
		UNLESS_FAULT(atomic_load(&living.tasks) > before);
}

static void (*conn_task)(struct evt_conn *conn_or_null, void *arg);

static void note_conn_task(struct evt_conn *conn, void *arg)
{
	conn_task(conn, arg);
	atomic_fetch_add(&living.tasks, 1);
}

bool on_living_conn(void (*task)(struct evt_conn *conn_or_null, void *arg))
{
	int before = atomic_load(&living.tasks);
	uint64_t id = atomic_load(&living.id);

	conn_task = task;
	return id != 0 &&
		SAID(evt_pool_post_conn(
			living.pool, id, note_conn_task, NULL)) == 0 &&
		UNLESS_FAULT(atomic_load(&living.tasks) > before);
}

/* Its life */

static struct {
	pthread_t thread;
	atomic_bool ended;
	int result;
	int error;
} runner;

static void *run(void *arg)
{
	(void)arg;
	errno = 0;
	runner.result = evt_pool_run(living.pool);
	runner.error = errno;
	MUST(runner.result == 0 || runner.error != 0);
	atomic_store(&runner.ended, true);
	return NULL;
}

static bool run_pool(void)
{
	struct pollfd answer = {.fd = living_dial(), .events = POLLIN};

	fault_say(answer.fd, "e");
	atomic_store(&runner.ended, false);
	MUST(pthread_create(&runner.thread, NULL, run, NULL) == 0);
	(void)WAIT_FOR(atomic_load(&runner.ended) || poll(&answer, 1, 0) == 1 ||
		says_it_is_lost());
	fault_hang_up(answer.fd);
	if (!atomic_load(&runner.ended))
		return true;
	pthread_join(runner.thread, NULL);
	runner.thread = 0;
	/* Its loop may have failed once it ran. */
	return runner.result == 0 || runner.error == ENXIO;
}

static bool start_pool(void)
{
	if (living.life->runs)
		return run_pool();
	return SAID(evt_pool_start(living.pool)) == 0;
}

static bool again_without; /* a fault */

static bool make_pool(void)
{
	const struct life *life = living.life;
	const struct evt_pool_options options = {
		.workers = life->workers, .grace_ms = life->grace_ms};

	living.pool = SAID_P(evt_pool_new(&options));
	if (!living.pool)
		return false;
	if (life->listening && !again_without)
		fault_resume();
	living.listener = SAID_P(evt_listen(living.pool,
		life->url ? life->url : "tcp://127.0.0.1:0", &fault_handlers,
		life->options, NULL));
	if (living.listener) {
		if (life->listening)
			fault_pause();
		living.port = evt_listener_port(living.listener);
		return true;
	}
	MUST(evt_pool_start(living.pool) == -1 && errno == ECONNABORTED);
	evt_pool_free(living.pool);
	living.pool = NULL;
	return false;
}

/* It failed; without a fault it does not. */
static void again(bool (*step)(void))
{
	MUST(fault_came());
	fault_pause();
	again_without = true;
	MUST(step());
	again_without = false;
	if (living.life->starting)
		fault_resume();
}

void live(const struct life *life)
{
	struct life filled = *life;

	filled.workers = life->workers ? life->workers : 1;
	filled.grace_ms = life->grace_ms ? life->grace_ms : 50;
	living.life = &filled;
	if (!life->starting)
		fault_pause();
	if (life->before)
		life->before();
	if (!make_pool())
		again(make_pool);
	if (!start_pool())
		again(start_pool);
	fault_resume();
	if (life->use)
		life->use();
	fault_pause();
	check_it_serves();
	fault_resume();
	evt_pool_stop(living.pool);
	if (runner.thread)
		pthread_join(runner.thread, NULL);
	runner.thread = 0;
	evt_pool_free(living.pool);
	MUST(living.opened == living.closed);
}
