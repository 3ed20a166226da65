/* fault_pool.c: scenarios of pools and listeners. */
#include "fault_rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

/* A file of this process's, below what its user may write to. */
static const char *unix_url(const char *kind)
{
	static char url[100];

	snprintf(url, sizeof(url), "%s:/tmp/evt-fault-%d.sock", kind, getpid());
	return url;
}

/* Leaves the file of a socket that nobody serves. */
static void leave_stale(int socktype)
{
	const char *path = strchr(living.life->url, ':') + 1;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, socktype | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	unlink(path); /* of an earlier process with this number */
	MUST(bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0);
	if (socktype == SOCK_STREAM)
		MUST(listen(fd, 1) == 0);
	close(fd);
}

static void echo_twice(void)
{
	living_echoes();
	living_echoes();
}

/* Starting */

static void start_tcp(void)
{
	const struct life life = {
		.starting = true, .workers = 2, .use = echo_twice};

	live(&life);
}

static void start_by_run(void)
{
	const struct life life = {
		.starting = true, .runs = true, .use = echo_twice};

	live(&life);
}

static void start_any_address(void)
{
	const struct life life = {
		.url = "tcp://:0", .listening = true, .use = echo_twice};

	live(&life);
}

static void start_host(void)
{
	const struct life life = {.url = "tcp://localhost:0",
		.listening = true,
		.use = echo_twice};

	live(&life);
}

static void start_group(void)
{
	static const struct evt_listen_options options = {.reuseport = 1};
	const struct life life = {.options = &options,
		.workers = 2,
		.starting = true,
		.use = echo_twice};

	live(&life);
}

static void start_deferred(void)
{
	static const struct evt_listen_options options = {
		.speak_first = 1, .max_per_source = 5};
	const struct life life = {
		.options = &options, .listening = true, .use = echo_twice};

	live(&life);
}

/* umask(2) takes away what is asked for here. */
static void start_unix(void)
{
	static const struct evt_listen_options options = {.unix_mode = 0666};
	const struct life life = {.url = unix_url("unix"),
		.options = &options,
		.listening = true,
		.use = echo_twice};

	umask(022);
	live(&life);
	unlink(strchr(life.url, ':') + 1);
}

static void start_abstract(void)
{
	const struct life life = {
		.url = "unix:@evt-fault", .listening = true, .use = echo_twice};

	live(&life);
}

static void leave_stale_stream(void)
{
	leave_stale(SOCK_STREAM);
}

static void start_stale_unix(void)
{
	const struct life life = {.url = unix_url("unix"),
		.listening = true,
		.before = leave_stale_stream,
		.use = echo_twice};

	live(&life);
	unlink(strchr(life.url, ':') + 1);
}

/* Without a start. */
static void free_before_start(void)
{
	const struct evt_pool_options options = {.workers = 2};
	struct evt_pool *pool = SAID_P(evt_pool_new(&options));

	if (!pool)
		return;
	SAID_P(evt_listen(
		pool, "tcp://127.0.0.1:0", &fault_handlers, NULL, NULL));
	SAID_P(evt_listen(
		pool, "udp://127.0.0.1:0", &fault_handlers, NULL, NULL));
	evt_pool_free(pool);
}

static void stop_before_start(void)
{
	const struct evt_pool_options options = {.workers = 1};
	struct evt_pool *pool = SAID_P(evt_pool_new(&options));

	if (!pool)
		return;
	evt_pool_stop(pool);
	SAID(evt_pool_start(pool));
	evt_pool_free(pool);
}

/* A pool for as many workers as there are CPUs. */
static void count_cpus(void)
{
	struct evt_pool *pool = SAID_P(evt_pool_new(NULL));

	if (pool)
		MUST(evt_pool_workers(pool) >= 1);
	evt_pool_free(pool);
}

/* While it runs */

static void listen_more(void)
{
	struct evt_listener *more = SAID_P(evt_listen(
		living.pool, "tcp://127.0.0.1:0", &fault_handlers, NULL, NULL));
	int fd;

	if (!more)
		return;
	fd = fault_dial(evt_listener_port(more));
	fault_say(fd, "e");
	fault_hears(fd, 1);
	evt_listener_close(more);
	fault_hang_up(fd);
	living_echoes();
}

static void listen_while_running(void)
{
	const struct life life = {.use = listen_more};

	live(&life);
}

/* As many as allowed, and one more. */
static void fill_up(void)
{
	int fds[3];
	int i;

	fds[0] = living_guest();
	for (i = 1; i < 3; i++)
		fds[i] = living_dial();
	for (i = 0; i < 3; i++)
		fault_hang_up(fds[i]);
	living_echoes();
}

static void limit_pauses(void)
{
	static const struct evt_listen_options options = {.max_conns = 2};
	const struct life life = {.options = &options, .use = fill_up};

	live(&life);
}

static void limit_refuses(void)
{
	static const struct evt_listen_options options = {
		.max_conns = 2, .refuse = 1};
	const struct life life = {.options = &options, .use = fill_up};

	live(&life);
}

static void source_limit(void)
{
	static const struct evt_listen_options options = {.max_per_source = 1};
	const struct life life = {.options = &options, .use = fill_up};

	live(&life);
}

static void group_limit(void)
{
	static const struct evt_listen_options options = {
		.max_conns = 2, .reuseport = 1};
	const struct life life = {
		.options = &options, .workers = 2, .use = fill_up};

	live(&life);
}

static int choose_last(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)peer, (void)arg;
	return evt_pool_workers(pool) - 1;
}

static void choose(void)
{
	static const struct evt_listen_options options = {
		.choice = EVT_CHOICE_FUNCTION, .choose = choose_last};
	const struct life life = {
		.options = &options, .workers = 2, .use = echo_twice};

	live(&life);
}

/* Posting */

static void do_nothing(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
}

static void close_conn(struct evt_conn *conn, void *arg)
{
	(void)arg;
	if (conn)
		evt_conn_close(conn);
}

static void post(void)
{
	int fd = living_guest();
	uint64_t id = atomic_load(&living.id);
	char bytes[3000] = "sent";

	on_living_worker(do_nothing, NULL);
	SAID(evt_pool_post_all(living.pool, do_nothing, NULL));
	if (id != 0) {
		SAID(evt_pool_send(living.pool, id, bytes, 4));
		SAID(evt_pool_send(living.pool, id, bytes, sizeof(bytes)));
		fault_hears(fd, 4 + sizeof(bytes));
	}
	on_living_conn(close_conn);
	fault_hears_end(fd);
	fault_hang_up(fd);
	if (id != 0)
		SAID(evt_pool_send(living.pool, id, bytes, sizeof(bytes)));
	on_living_conn(close_conn); /* it is gone */
}

static void post_tasks(void)
{
	const struct life life = {.workers = 2, .use = post};

	live(&life);
}

/* Stopping */

static int guests[3];

static void have_guests(void)
{
	int i;

	for (i = 0; i < 3; i++)
		guests[i] = living_guest();
	fault_say(guests[2], "b"); /* reads nothing */
}

static void leave_guests(void)
{
	int i;

	for (i = 0; i < 3; i++)
		fault_hang_up(guests[i]);
}

static void drain(void)
{
	const struct life life = {
		.workers = 2, .grace_ms = 20, .use = have_guests};

	live(&life);
	leave_guests();
}

static void stop_idle(void)
{
	const struct life life = {.use = NULL};

	live(&life);
}

/* A callback ends its thread, with work in its pipe. */
static void end_thread(struct evt_worker *worker, void *arg)
{
	int i;

	for (i = 0; i < 3; i++)
		SAID(evt_worker_post(worker, do_nothing, arg));
	pthread_exit(NULL);
}

static void lose_worker(void)
{
	int fd = living_guest();

	SAID(evt_worker_post(
		evt_pool_worker(living.pool, 0), end_thread, NULL));
	UNLESS_FAULT(fault_lines("has lost its thread") > 0);
	SAID(evt_worker_post(
		evt_pool_worker(living.pool, 0), do_nothing, NULL));
	living_echoes();
	fault_hang_up(fd);
}

static void lost_worker(void)
{
	const struct life life = {.workers = 2, .use = lose_worker};

	live(&life);
}

/* The only worker, with a client in its pipe. */
static void end_thread_later(struct evt_worker *worker, void *arg)
{
	struct evt_stats stats = {0};
	int fd = living_dial();

	(void)worker, (void)arg;
	UNLESS_FAULT(
		evt_pool_stats(living.pool, &stats) == 0 && stats.accepted > 0);
	usleep(2000);
	fault_hang_up(fd);
	pthread_exit(NULL);
}

static void lose_only_worker(void)
{
	SAID(evt_worker_post(
		evt_pool_worker(living.pool, 0), end_thread_later, NULL));
	UNLESS_FAULT(fault_lines("has lost its thread") > 0);
}

static void lost_only_worker(void)
{
	const struct life life = {.use = lose_only_worker};

	live(&life);
}

/* A child has all of it open as well. */
static void fork_child(void)
{
	int fd = living_guest();
	int fds[2];
	char byte;
	pid_t pid;

	MUST(pipe2(fds, O_CLOEXEC) == 0);
	pid = fork();
	if (pid == 0) {
		close(fds[1]);
		(void)!read(fds[0], &byte, 1);
		_exit(0);
	}
	fault_say(fd, "ec");
	fault_hears_end(fd);
	fault_hang_up(fd);
	living_echoes();
	close(fds[0]);
	close(fds[1]);
	waitpid(pid, NULL, 0);
}

static void forked(void)
{
	const struct life life = {.use = fork_child};

	live(&life);
}

static int stdio[3];

/* Without the three standard descriptors. */
static void leave_stdio(void)
{
	int i;

	for (i = 0; i < 3; i++) {
		stdio[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
		close(i);
	}
}

static void start_without_stdio(void)
{
	const struct life life = {
		.starting = true, .before = leave_stdio, .use = echo_twice};
	int i;

	live(&life);
	for (i = 0; i < 3; i++) {
		dup2(stdio[i], i);
		close(stdio[i]);
	}
}

static void lost_worker_of_group(void)
{
	static const struct evt_listen_options options = {.reuseport = 1};
	const struct life life = {
		.options = &options, .workers = 2, .use = lose_worker};

	live(&life);
}

static int leave_thread(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)pool, (void)peer, (void)arg;
	pthread_exit(NULL);
}

static void lose_boss(void)
{
	int fd = living_dial();

	UNLESS_FAULT(fault_lines("the listener has lost its thread") > 0);
	fault_hang_up(fd);
}

static void lost_boss(void)
{
	static const struct evt_listen_options options = {
		.choice = EVT_CHOICE_FUNCTION, .choose = leave_thread};
	const struct life life = {.options = &options, .use = lose_boss};

	live(&life);
}

const struct scenario pool_scenarios[] = {
	{"a_pool_starts_and_serves_tcp", start_tcp},
	{"a_pool_is_run", start_by_run},
	{"a_pool_serves_all_addresses", start_any_address},
	{"a_pool_serves_a_host", start_host},
	{"a_pool_has_a_socket_for_each_worker", start_group},
	{"clients_speak_first", start_deferred},
	{"a_pool_serves_a_unix_socket", start_unix},
	{"a_pool_serves_an_abstract_unix_socket", start_abstract},
	{"a_stale_unix_socket_is_replaced", start_stale_unix},
	{"a_pool_is_freed_before_it_starts", free_before_start},
	{"a_pool_is_stopped_before_it_starts", stop_before_start},
	{"a_pool_has_a_worker_for_each_cpu", count_cpus},
	{"a_pool_listens_while_it_runs", listen_while_running},
	{"clients_wait_above_the_limit", limit_pauses},
	{"clients_are_refused_above_the_limit", limit_refuses},
	{"clients_are_refused_above_the_limit_of_a_source", source_limit},
	{"clients_wait_above_the_limit_of_a_group", group_limit},
	{"a_function_chooses_the_worker", choose},
	{"tasks_are_posted", post_tasks},
	{"connections_are_drained_and_cut", drain},
	{"an_idle_pool_stops", stop_idle},
	{"a_worker_is_lost", lost_worker},
	{"the_only_worker_is_lost", lost_only_worker},
	{"a_worker_of_a_group_is_lost", lost_worker_of_group},
	{"a_child_is_forked", forked},
	{"standard_descriptors_are_closed", start_without_stdio},
	{"the_listener_is_lost", lost_boss},
	{NULL, NULL},
};
