/* fault_helper.c: scenarios of the helpers of evt-core.h, and of the log. */
#include "fault_rig.h"
#include "../evt-core.h"
#include "../evt-log-internal.h"

#include <fcntl.h>
#include <sys/socket.h>

static void resolve(void)
{
	struct addrinfo *list = SAID_P(
		getnetinfo("127.0.0.1", 80, SOCK_STREAM));

	if (list)
		freeaddrinfo(list);
}

/* A listener of the test's own. */
static int listen_here(int *port)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	MUST(bind(fd, (struct sockaddr *)&in, len) == 0);
	MUST(listen(fd, 5) == 0);
	MUST(getsockname(fd, (struct sockaddr *)&in, &len) == 0);
	*port = ntohs(in.sin_port);
	return fd;
}

static void connect_to_host(void)
{
	int port;
	int listener = listen_here(&port);
	int fd = SAID(get_conn_to_host("127.0.0.1", port, SOCK_STREAM));

	fault_hang_up(fd);
	close(listener);
	fd = SAID(get_conn_to_host("127.0.0.1", port, SOCK_STREAM));
	MUST(fd == -1);
}

static void connect_to_addr(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int port;
	int listener = listen_here(&port);
	int fd = SAID(get_conn_to_addr(
		(struct sockaddr *)&in, htons((uint16_t)port), SOCK_STREAM));

	fault_hang_up(fd);
	fd = SAID(get_conn_to_addr(
		(struct sockaddr *)&in, htons((uint16_t)port), SOCK_DGRAM));
	fault_hang_up(fd);
	close(listener);
}

static void get_ready(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	MUST(get_nr_cpus() >= 1);
	if (SAID(set_nonblocking(fd)) == 0)
		MUST(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
}

static void make_addr(void)
{
	struct sockaddr *addr;

	if (SAID(evt_server_init(0, SOCK_STREAM)) == -1)
		return;
	addr = SAID_P(new_sockaddr());
	free(addr);
	evt_server_stop();
}

/* Lines that nobody can be told of are lost, and that is all. */
static void say(void)
{
	int kept = dup(STDERR_FILENO);
	int fds[2];
	int i;

	MUST(pipe2(fds, O_CLOEXEC) == 0);
	MUST(dup2(fds[1], STDERR_FILENO) == STDERR_FILENO);
	evt_set_log(NULL, NULL);
	for (i = 0; i < 3; i++) {
		errno = EIO;
		MUST(sys_error(i == 1 ? "one" : "two") == -1);
	}
	dup2(kept, STDERR_FILENO);
	close(kept);
	close(fds[0]);
	close(fds[1]);
	fault_catch_log();
}

/* The same with a standard error that is full. */
static void say_in_vain(void)
{
	int kept = dup(STDERR_FILENO);
	char byte = 'x';
	int fds[2];

	MUST(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
	while (write(fds[1], &byte, 1) == 1)
		;
	MUST(dup2(fds[1], STDERR_FILENO) == STDERR_FILENO);
	evt_set_log(NULL, NULL);
	errno = EIO;
	MUST(sys_error("nobody reads this") == -1 && errno == EIO);
	dup2(kept, STDERR_FILENO);
	close(kept);
	close(fds[0]);
	close(fds[1]);
	fault_catch_log();
}

const struct scenario helper_scenarios[] = {
	{"a_name_is_resolved", resolve},
	{"a_program_connects_to_a_host", connect_to_host},
	{"a_program_connects_to_an_address", connect_to_addr},
	{"cpus_are_counted_and_flags_set", get_ready},
	{"an_address_is_made", make_addr},
	{"lines_go_to_standard_error", say},
	{"standard_error_is_full", say_in_vain},
	{NULL, NULL},
};
