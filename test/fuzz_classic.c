/*
 * fuzz_classic.c: the calls of evt-server.h in any order, with any arguments,
 * on the program's thread and in callbacks. A model knows what each has to
 * give; what was dispatched arrives once, or is closed; clients are answered
 * where there is somebody to do so; and after each stop all is as before.
 * (A11, A12, A13, A14)
 *
 * fuzz: -max_len=64
 */
#include "fuzz.h"
#include "network.h"
#include "../evt-core.h"
#include "../evt-log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/time.h>

#define MOST_CALLS   40
#define MOST_WAITING 4
#define PATIENCE_S   60 /* then it hangs */

enum pool { NOT_YET, NO_POOL, STARTED };

/* What the server has to be like. */
static struct {
	bool is_prepared;
	bool listens;
	int socktype;
	int port; /* as it was asked for */
	enum pool pool;
	int kept;                  /* dispatched, and waiting for a pool */
	int expected;              /* dispatched, and to arrive */
	int waiting[MOST_WAITING]; /* clients whom the pool is to serve */
	int nr_waiting;
} model;

static struct input input;
static bool has_network;
static atomic_int delivered;
static atomic_int at_stops; /* to come */
static char marker;         /* the arg of what is dispatched here */

/* Callbacks */

static void on_stop(void *arg)
{
	REQUIRE(arg == &marker);
	atomic_fetch_sub(&at_stops, 1);
}

static void ask_on_worker(void)
{
	REQUIRE(evt_thread_base());
	REQUIRE(evt_server_init(0, SOCK_STREAM) == -1 && errno == EBUSY);
	REQUIRE(evt_server_threads(NULL, 1) == -1 && errno == EINVAL);
	if (evt_thread_at_stop(on_stop, &marker) == 0)
		atomic_fetch_add(&at_stops, 1);
	else
		REQUIRE(errno == ECANCELED);
}

static void serve(sockfd_t conn, short evt, void *arg)
{
	char byte = 0;

	REQUIRE(evt == EV_READ);
	if (arg == &marker) {
		atomic_fetch_add(&delivered, 1);
		evt_close(conn);
		return;
	}
	if (read(conn, &byte, 1) == 1) {
		if (byte == 'a')
			ask_on_worker();
		if (byte == 's')
			evt_server_stop();
		(void)!write(conn, &byte, 1);
	}
	evt_close(conn);
}

static void on_client(sockfd_t fd, short evt, void *arg)
{
	struct sockaddr_storage peer;
	sockfd_t conn = evt_tcp(fd, (struct sockaddr *)&peer);

	REQUIRE(evt == EV_READ && arg == &input);
	if (conn == -1)
		return;
	if (evt_thread_dispatch(conn, EV_READ, NULL) == -1) {
		REQUIRE(errno == ENXIO || errno == ECANCELED);
		evt_close(conn);
	}
}

static void on_datagram(sockfd_t fd, short evt, void *arg)
{
	struct sockaddr_storage peer;
	struct sockaddr *addr = (struct sockaddr *)&peer;
	char byte;
	int len = evt_udp(fd, &byte, 1, 0, addr);

	REQUIRE(evt == EV_READ && arg == &input);
	if (len >= 0)
		sendto(fd, &byte, (size_t)len, 0, addr,
			(socklen_t)get_sockaddr_size());
}

/* Clients */

static int dial(void)
{
	const struct timeval patience = {.tv_sec = PATIENCE_S};
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)evt_server_port())};
	int fd = socket(AF_INET, model.socktype | SOCK_CLOEXEC, 0);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	REQUIRE(fd != -1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	REQUIRE(connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0);
	return fd;
}

static void is_answered(int fd, char byte)
{
	char answer = 0;

	REQUIRE(recv(fd, &answer, 1, 0) == 1);
	REQUIRE(answer == byte);
	close(fd);
}

static void is_turned_away(int fd)
{
	char answer;
	ssize_t got = recv(fd, &answer, 1, 0);

	REQUIRE(got == 0 || (got == -1 && errno == ECONNRESET));
	close(fd);
}

static void nobody_waits(void (*meets)(int fd))
{
	while (model.nr_waiting > 0)
		meets(model.waiting[--model.nr_waiting]);
}

static void gets_its_answer(int fd)
{
	is_answered(fd, 'e');
}

/* Calls */

static bool runs(void)
{
	return model.listens || model.pool == STARTED;
}

/* As the model has it after a stop; clients meet their end. */
static void has_stopped(void)
{
	nobody_waits(is_turned_away);
	REQUIRE(atomic_load(&delivered) == model.expected);
	REQUIRE(atomic_load(&at_stops) == 0);
	memset(&model, 0, sizeof(model));
	atomic_store(&delivered, 0);
	REQUIRE(evt_server_port() == -1);
	REQUIRE(!get_server_addrinfo() && get_sockaddr_size() == 0);
}

static void call_init(void)
{
	static const int ports[] = {
		0, 0, 0, 5000, 5001, 65535, -1, 65536, INT_MIN, INT_MAX};
	static const int types[] = {SOCK_STREAM, SOCK_STREAM, SOCK_DGRAM,
		SOCK_RAW, 0, -1, SOCK_STREAM | SOCK_NONBLOCK};
	int port = ports[take_below(&input, 10)];
	int type = types[take_below(&input, 7)];
	bool good = port >= 0 && port <= 65535 &&
		(type == SOCK_STREAM || type == SOCK_DGRAM);
	int result;

	if (!has_network && good)
		port = 0; /* others may have it */
	result = evt_server_init(port, type);
	if (good && !runs()) {
		REQUIRE(result == 0);
		model.is_prepared = true;
		model.socktype = type;
		model.port = port;
		model.pool = NOT_YET;
		return;
	}
	REQUIRE(result == -1 && errno == (good ? EBUSY : EINVAL));
}

static void call_start(void)
{
	bool has_cb = take_below(&input, 4) != 0;
	evt_callback cb = model.socktype == SOCK_DGRAM ? on_datagram
						       : on_client;
	int result = evt_server_start(has_cb ? cb : NULL, &input);

	if (!model.is_prepared || !has_cb) {
		REQUIRE(result == -1 && errno == EINVAL);
	} else if (model.listens) {
		REQUIRE(result == -1 && errno == EALREADY);
	} else {
		REQUIRE(result == 0);
		model.listens = true;
	}
}

static void call_threads(void)
{
	static const int counts[] = {
		1, 2, 3, 1, 2, 0, -1, -3, INT_MIN, 65536, INT_MAX};
	bool has_cb = take_below(&input, 8) != 0;
	int nr = counts[take_below(&input, 11)];
	int result = evt_server_threads(has_cb ? serve : NULL, nr);

	if (!model.is_prepared || !has_cb) {
		REQUIRE(result == -1 && errno == EINVAL);
	} else if (model.pool == STARTED) {
		REQUIRE(result == -1 && errno == EALREADY);
	} else if (nr <= 0) {
		REQUIRE(result == 0);
		model.pool = NO_POOL;
		model.kept = 0;
		nobody_waits(is_turned_away);
	} else if (nr > 65535) {
		REQUIRE(result == -1 && errno == EINVAL);
	} else {
		REQUIRE(result == nr);
		model.pool = STARTED;
		model.expected += model.kept;
		model.kept = 0;
		nobody_waits(gets_its_answer);
	}
}

static void call_dispatch(void)
{
	bool good = take_below(&input, 4) != 0;
	int fd = good ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : -1;
	int result = evt_thread_dispatch(fd, EV_READ, &marker);
	int error = errno;

	REQUIRE(!good || fd != -1);
	if (result == -1 && good)
		close(fd);
	if (!good) {
		REQUIRE(result == -1 && error == EBADF);
	} else if (!model.is_prepared) {
		REQUIRE(result == -1 && error == EINVAL);
	} else if (model.pool == NO_POOL) {
		REQUIRE(result == -1 && error == ENXIO);
	} else {
		REQUIRE(result == 0);
		if (model.pool == STARTED)
			model.expected++;
		else
			model.kept++;
	}
}

static void call_stop(void)
{
	evt_server_stop();
	has_stopped();
}

static void call_grace(void)
{
	static const int times[] = {0, 1, 100, 5000, -1, -2, INT_MIN, INT_MAX};
	int ms = times[take_below(&input, 8)];
	int result = evt_server_grace_ms(ms);

	REQUIRE(result == (ms >= -1 ? 0 : -1));
	REQUIRE(result == 0 || errno == EINVAL);
	evt_server_grace_ms(PATIENCE_S * 1000);
}

static void call_ask(void)
{
	struct sockaddr *addr = new_sockaddr();
	int port = evt_server_port();

	REQUIRE(model.listens ? port > 0 : port == -1);
	REQUIRE(!model.listens || model.port == 0 || port == model.port);
	REQUIRE(!addr == !model.is_prepared);
	REQUIRE(!get_server_addrinfo() == !model.is_prepared);
	REQUIRE((get_sockaddr_size() > 0) == model.is_prepared);
	REQUIRE(!addr || addr->sa_family == AF_INET ||
		addr->sa_family == AF_INET6);
	free(addr);
}

static void call_wrongly(void)
{
	char byte;

	REQUIRE(!evt_thread_base());
	REQUIRE(evt_thread_at_stop(NULL, NULL) == -1 && errno == EINVAL);
	REQUIRE(evt_thread_at_stop(on_stop, NULL) == -1 && errno == EPERM);
	REQUIRE(evt_tcp(-1, NULL) == -1);
	REQUIRE(evt_tcp(STDIN_FILENO, NULL) == -1);
	REQUIRE(evt_udp(-1, &byte, 1, 0, NULL) == -1);
	REQUIRE(evt_udp(STDIN_FILENO, &byte, -1, 0, NULL) == -1);
	REQUIRE(evt_udp(STDIN_FILENO, NULL, 1, 0, NULL) == -1);
	evt_close(-1);
}

/* A client comes. What it says: 'e', echo; 'a', and try some calls; 's', and
 * stop. */
static void call_on(void)
{
	char byte = "eeas"[take_below(&input, 4)];
	bool is_tcp = model.socktype == SOCK_STREAM;
	bool waits = is_tcp && model.pool == NOT_YET;
	int fd;

	if (!model.listens || (waits && model.nr_waiting == MOST_WAITING))
		return;
	if (waits)
		byte = 'e';
	fd = dial();
	REQUIRE(send(fd, &byte, 1, MSG_NOSIGNAL) == 1);
	if (waits) {
		model.waiting[model.nr_waiting++] = fd;
	} else if (is_tcp && model.pool == NO_POOL) {
		is_turned_away(fd);
	} else {
		is_answered(fd, byte);
		if (is_tcp && byte == 's')
			call_stop();
	}
}

static void (*const calls[])(void) = {call_init, call_start, call_threads,
	call_dispatch, call_on, call_stop, call_ask, call_grace, call_wrongly};

#define NR_CALLS (sizeof(calls) / sizeof(calls[0]))

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
	has_network = own_network(CLONE_NEWNET);
	return 0;
}

/* The number that the next descriptor gets: nothing was left open. */
static int next_fd(void)
{
	int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);

	REQUIRE(fd != -1);
	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int calls_left = MOST_CALLS;
	int fd_before = next_fd();

	evt_set_log(be_silent, NULL);
	evt_server_grace_ms(PATIENCE_S * 1000);
	input = (struct input){data, data + size};
	memset(&model, 0, sizeof(model));
	while (!is_over(&input) && calls_left-- > 0)
		calls[take_below(&input, NR_CALLS)]();
	call_stop();
	REQUIRE(next_fd() == fd_before);
	return 0;
}
