/* fault_classic.c: scenarios of the classic interface. */
#include "fault_rig.h"
#include "../evt-core.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

static struct {
	int socktype;
	bool udp_on_workers;
	atomic_bool stuck; /* tcb reads until it is cut */
	atomic_bool stops; /* tcb stops the server */
	atomic_int served;
	atomic_int left; /* at_stop functions that ran */
} classic;

static void echo(int fd)
{
	const struct timeval limit = {.tv_usec = 300000};
	char byte;

	/* If it cannot be cut, it ends all the same. */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (recv(fd, &byte, 1, 0) == 1)
		(void)!send(fd, &byte, 1, MSG_NOSIGNAL);
	while (atomic_load(&classic.stuck) && recv(fd, &byte, 1, 0) == 1)
		;
	atomic_fetch_add(&classic.served, 1);
}

static void count_stop(void *arg)
{
	(void)arg;
	atomic_fetch_add(&classic.left, 1);
}

static void answer_udp(sockfd_t fd)
{
	struct sockaddr_storage peer = {0};
	char bytes[100];
	int len;

	fault_ask();
	len = evt_udp(fd, bytes, sizeof(bytes), MSG_DONTWAIT,
		(struct sockaddr *)&peer);
	MUST(len != -1 || errno != 0);
	if (len > 0)
		(void)!sendto(fd, bytes, (size_t)len, MSG_DONTWAIT,
			(struct sockaddr *)&peer,
			(socklen_t)get_sockaddr_size());
}

static void serve(sockfd_t fd, short what, void *arg)
{
	(void)what, (void)arg;
	if (classic.socktype == SOCK_DGRAM) {
		answer_udp(fd);
		return;
	}
	/* It may say ENOMEM; no line is asked for there. */
	(void)evt_thread_at_stop(count_stop, NULL);
	echo(fd);
	evt_close(fd);
	if (atomic_exchange(&classic.stops, false))
		evt_server_stop();
}

static void on_client(sockfd_t fd, short what, void *arg)
{
	struct sockaddr_storage peer;
	int conn = fd;

	(void)arg;
	if (classic.socktype == SOCK_DGRAM && !classic.udp_on_workers) {
		answer_udp(fd);
		return;
	}
	if (classic.socktype == SOCK_STREAM) {
		fault_ask();
		conn = evt_tcp(fd, (struct sockaddr *)&peer);
		MUST(conn != -1 || errno != 0);
	}
	if (conn == -1)
		return;
	if (SAID(evt_thread_dispatch(conn, what, NULL)) == -1 && conn != fd)
		evt_close(conn);
	if (conn == fd)
		usleep(1000); /* until a worker has taken the datagram */
}

/* Clients */

static bool is_lost(void)
{
	return fault_lines("has lost its thread") > 0 ||
		fault_lines("watching ") > 0 ||
		fault_lines(": accepting on ") > 0;
}

static int dial(void)
{
	return classic.socktype == SOCK_DGRAM
		? fault_dial_udp(evt_server_port())
		: fault_dial(evt_server_port());
}

static void use(void)
{
	int fd = dial();

	fault_say(fd, "e");
	fault_hears(fd, 1);
	fault_hang_up(fd);
}

/* Without a fault. */
static void check_it_serves(void)
{
	int64_t until = now_ms() + 10000 * slowness();
	struct pollfd in = {.events = POLLIN};
	char byte = 0;

	while (byte != 'e' && !is_lost()) {
		int fd = dial();

		if (fd != -1) {
			fault_say(fd, "e");
			in.fd = fd;
			poll(&in, 1, 100);
			(void)!recv(fd, &byte, 1, 0);
			close(fd);
		}
		MUST(now_ms() < until);
	}
}

/* Its life */

static bool init(void)
{
	return SAID(evt_server_init(0, classic.socktype)) == 0;
}

static bool start(void)
{
	return SAID(evt_server_start(on_client, NULL)) == 0;
}

static bool threads(void)
{
	return SAID(evt_server_threads(serve, 1)) == 1;
}

/* It said why not; without a fault it does. */
static void do_step(bool (*step)(void))
{
	if (step())
		return;
	MUST(fault_came());
	fault_pause();
	MUST(is_lost() || step());
	fault_resume();
}

/* All of them, and no fault yet. */
static void get_ready(bool listener, bool workers)
{
	classic.socktype = SOCK_STREAM;
	fault_pause();
	MUST(evt_server_grace_ms(50) == 0 && init());
	MUST(!listener || start());
	MUST(!workers || threads());
	fault_resume();
}

static void stop(void)
{
	evt_server_stop();
	MUST(evt_server_port() == -1);
}

/* Once more, from the beginning. */
static void check_it_starts(void)
{
	fault_pause();
	atomic_store(&classic.stuck, false);
	evt_server_grace_ms(50);
	MUST(init() && start() && threads());
	stop();
}

static void live_classic(int socktype)
{
	classic.socktype = socktype;
	evt_server_grace_ms(50);
	do_step(init);
	do_step(start);
	do_step(threads);
	use();
	use();
	fault_pause();
	check_it_serves();
	fault_resume();
	stop();
	check_it_starts();
}

static void serve_tcp(void)
{
	live_classic(SOCK_STREAM);
}

static void serve_udp(void)
{
	live_classic(SOCK_DGRAM);
}

static void serve_udp_on_workers(void)
{
	classic.udp_on_workers = true;
	live_classic(SOCK_DGRAM);
}

static void threads_first(void)
{
	classic.socktype = SOCK_STREAM;
	evt_server_grace_ms(50);
	do_step(init);
	do_step(threads);
	do_step(start);
	use();
	stop();
	check_it_starts();
}

/* What is kept comes to the workers, or to nobody. */
static void keep(bool then_threads)
{
	int fd;

	get_ready(true, false);
	fd = dial();
	fault_say(fd, "e");
	if (then_threads) {
		do_step(threads);
		fault_hears(fd, 1);
	}
	fault_hang_up(fd);
	stop();
	check_it_starts();
}

static void kept_for_workers(void)
{
	keep(true);
}

static void kept_for_nobody(void)
{
	keep(false);
}

static void no_pool(void)
{
	get_ready(true, false);
	MUST(evt_server_threads(serve, 0) == 0);
	use();
	stop();
	check_it_starts();
}

static void stop_from_callback(void)
{
	get_ready(true, true);
	atomic_store(&classic.stops, true);
	use();
	stop();
	check_it_starts();
}

static void cut_at_stop(void)
{
	int fd;

	get_ready(true, true);
	evt_server_grace_ms(20);
	atomic_store(&classic.stuck, true);
	fd = dial();
	fault_say(fd, "e");
	fault_hears(fd, 1);
	stop();
	fault_hang_up(fd);
	check_it_starts();
}

/* Dispatched by a thread of the program's. */
static void dispatch_pairs(void)
{
	int pair[2];
	int i;

	get_ready(false, true);
	for (i = 0; i < 3; i++) {
		MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) ==
			0);
		fault_say(pair[0], "e");
		if (SAID(evt_thread_dispatch(pair[1], 0, NULL)) == 0)
			fault_hears(pair[0], 1);
		else
			close(pair[1]);
		close(pair[0]);
	}
	stop();
	check_it_starts();
}

/* A forked child closes its copy of a connection alone. */
static void close_in_child(void)
{
	int fd;
	pid_t pid;

	get_ready(true, true);
	use();
	fd = dial();
	pid = fork();
	if (pid == 0) {
		evt_close(fd);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	fault_say(fd, "e");
	fault_hears(fd, 1);
	fault_hang_up(fd);
	stop();
	check_it_starts();
}

static void init_alone(void)
{
	classic.socktype = SOCK_STREAM;
	do_step(init);
	do_step(init);
	stop();
	check_it_starts();
}

const struct scenario classic_scenarios[] = {
	{"the_classic_server_serves_tcp", serve_tcp},
	{"the_classic_server_serves_udp", serve_udp},
	{"the_classic_server_serves_udp_on_workers", serve_udp_on_workers},
	{"threads_start_before_the_listener", threads_first},
	{"connections_are_kept_for_workers", kept_for_workers},
	{"connections_are_kept_for_nobody", kept_for_nobody},
	{"there_is_no_pool", no_pool},
	{"a_callback_stops_the_server", stop_from_callback},
	{"a_stop_cuts_what_goes_on_too_long", cut_at_stop},
	{"a_program_dispatches", dispatch_pairs},
	{"a_child_closes_a_connection", close_in_child},
	{"the_server_is_only_prepared", init_alone},
	{NULL, NULL},
};
