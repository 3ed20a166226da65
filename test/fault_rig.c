/*
 * fault_rig.c: what scenarios have in common. See fault_rig.h.
 */
#include "fault_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LINES    128
#define AFTER_MS 100   /* longest wait once a fault has come */
#define NEVER_MS 10000 /* ... and before that */

bool fault_alone;

/* The log */

static struct {
	pthread_mutex_t lock;
	int nr;
	char lines[LINES][200];
} said_lines = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local int nr_errors; /* lines of this thread */

static void note_line(int level, const char *line, void *arg)
{
	(void)arg;
	/* How often a line was held back is told before the next. */
	nr_errors += level == EVT_LOG_ERROR && !strstr(line, "last line came");
	pthread_mutex_lock(&said_lines.lock);
	if (said_lines.nr < LINES)
		snprintf(said_lines.lines[said_lines.nr++],
			sizeof(said_lines.lines[0]), "%s", line);
	pthread_mutex_unlock(&said_lines.lock);
}

void fault_catch_log(void)
{
	evt_set_log(note_line, NULL);
}

int fault_lines(const char *text)
{
	int nr = 0;
	int i;

	pthread_mutex_lock(&said_lines.lock);
	for (i = 0; i < said_lines.nr; i++)
		nr += strstr(said_lines.lines[i], text) != NULL;
	pthread_mutex_unlock(&said_lines.lock);
	return nr;
}

void fault_wrong(const char *file, int line, const char *format, ...)
{
	char *text = fault_result()->text;
	size_t len;
	va_list args;
	int i;

	fault_pause();
	snprintf(text, FAULT_TEXT, "%s:%d: ", file, line);
	len = strlen(text);
	va_start(args, format);
	vsnprintf(text + len, FAULT_TEXT - len, format, args);
	va_end(args);
	for (i = 0; i < said_lines.nr; i++) {
		len = strlen(text);
		snprintf(text + len, FAULT_TEXT - len, "\n      logged: %s",
			said_lines.lines[i]);
	}
	if (fault_alone)
		fprintf(stderr, "%s\n", text);
	_exit(1);
}

/* Answers */

static _Thread_local int errors_before;

void fault_ask(void)
{
	errors_before = nr_errors;
	errno = 0;
}

/* Of these there need be no line. */
static bool is_mere_answer(int error)
{
	return error == EAGAIN || error == ECANCELED || error == ENOTCONN ||
		error == ENOBUFS || error == EPERM || error == EACCES;
}

static void check_failure(
	const char *what, const char *file, int line, bool may_be_silent)
{
	int error = errno;
	int lines = nr_errors - errors_before;

	if (error == 0)
		fault_wrong(file, line, "%s failed without an errno", what);
	/* Of equal lines only so many are passed on in a second. */
	if (lines > 1 ||
		(lines == 0 && !may_be_silent && !is_mere_answer(error) &&
			nr_errors < 8))
		fault_wrong(file, line, "%s failed, errno %d, with %d lines",
			what, error, lines);
	errno = error;
}

int fault_answer(int result, const char *what, const char *file, int line)
{
	if (result == -1)
		check_failure(what, file, line, false);
	return result;
}

int fault_answer_of_many(
	int result, const char *what, const char *file, int line)
{
	if (result == -1)
		check_failure(what, file, line, true);
	return result;
}

void *fault_answer_p(void *result, const char *what, const char *file, int line)
{
	if (!result)
		check_failure(what, file, line, false);
	return result;
}

/* Waiting */

bool fault_came(void)
{
	return __atomic_load_n(&fault_result()->reached, __ATOMIC_ACQUIRE);
}

bool fault_may_wait(struct fault_wait *wait)
{
	int64_t now = now_ms();

	if (wait->since_ms == 0)
		wait->since_ms = now;
	if (wait->came_ms == 0 && fault_came())
		wait->came_ms = now;
	if (wait->came_ms != 0 && now - wait->came_ms > AFTER_MS)
		return false;
	if (now - wait->since_ms > NEVER_MS)
		fault_wrong(
			__FILE__, __LINE__, "waits, and nothing has failed");
	usleep(200);
	return true;
}

/* Clients */

static int dial(const struct sockaddr *addr, socklen_t len, int socktype)
{
	int fd = socket(
		addr->sa_family, socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd != -1 && connect(fd, addr, len) == -1 && errno != EINPROGRESS) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int dial_port(int port, int socktype)
{
	const struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	return dial((const struct sockaddr *)&in, sizeof(in), socktype);
}

int fault_dial(int port)
{
	return dial_port(port, SOCK_STREAM);
}

int fault_dial_udp(int port)
{
	return dial_port(port, SOCK_DGRAM);
}

int fault_dial_unix(const char *url, int socktype)
{
	const char *name = strchr(url, ':') + 1;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_un own = {.sun_family = AF_UNIX};
	size_t len = strlen(name);
	int fd;

	memcpy(un.sun_path, name, len);
	if (name[0] == '@')
		un.sun_path[0] = '\0';
	len += offsetof(struct sockaddr_un, sun_path);
	fd = dial((struct sockaddr *)&un, (socklen_t)(len + (name[0] != '@')),
		socktype);
	/* Linux gives it a name to be answered at. */
	if (fd != -1 && socktype == SOCK_DGRAM)
		(void)!bind(fd, (struct sockaddr *)&own, sizeof(sa_family_t));
	return fd;
}

void fault_say(int fd, const char *text)
{
	struct pollfd out = {.fd = fd, .events = POLLOUT};

	if (fd != -1 && poll(&out, 1, AFTER_MS) == 1)
		(void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
}

/* True: something came, or the end; *got says what. */
static bool receives(int fd, ssize_t *got)
{
	char bytes[65536];

	*got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	return *got >= 0 || (errno != EAGAIN && errno != EINTR);
}

bool fault_hears(int fd, size_t bytes)
{
	size_t heard = 0;
	ssize_t got = 0;

	while (fd != -1 && heard < bytes && UNLESS_FAULT(receives(fd, &got)) &&
		got > 0)
		heard += (size_t)got;
	return heard >= bytes;
}

bool fault_hears_end(int fd)
{
	ssize_t got = 1;

	while (fd != -1 && got > 0 && UNLESS_FAULT(receives(fd, &got)))
		;
	return got <= 0;
}

void fault_hang_up(int fd)
{
	if (fd != -1)
		close(fd);
}
