/*
 * flooder: floods an echo server with short connections and says what came of
 * it. "flooder" alone prints how to call it.
 *
 * It shares the machine with the server that it measures, so it has to be
 * cheap: one thread on bare epoll, no library, nine system calls for a
 * transaction. On the loopback a connection is there when connect returns, so
 * the message is sent at once, and only the answer is waited for: one
 * epoll_ctl, edge-triggered, and one event. What a transaction sends is a
 * window on one block of random bytes, at another place for each, so that an
 * answer that belongs to another is noticed and none needs memory of its own.
 *
 * Each time is taken from just before connect to just after the comparison. So
 * that this is the server's time and not our own, no more than 64 transactions
 * are started between two looks at those that are ready. A server that answers
 * faster than that never has thousands in hand, though they are open here:
 * until IN_FLIGHT are, those that were answered are not closed. (To let all of
 * them connect before the first one sends would bring a server to a stop whose
 * workers block in read.)
 *
 * Whoever closes first keeps the port for a minute in TIME_WAIT. So connections
 * to 127/8 come from 256 addresses of 127/8 in turn, each of which has 28,000
 * ports; more addresses cost more than they help, as the kernel remembers
 * something about each.
 *
 * Deadlines need no timer: ten times a second a walk over all that is in flight
 * costs less than keeping a list in order.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_TRANSACTIONS = 10000000,
	MAX_SIZE = 16 << 20,
	MAX_DATAGRAM = 65507,
	TCP_LIMIT_MS = 30000,
	UDP_LIMIT_MS = 1000,
	TICK_MS = 100, /* between two looks at the deadlines */
	STARTS = 64,   /* at most, between two looks at the events */
	CLOSES = 64,   /* the same, of connections that were kept open */
	SOURCES = 256,
	EVENTS = 64,
	WINDOWS = 1 << 16, /* different messages */
	SPARE_FDS = 16,    /* ours that are no connections */
	ERRORS = 256,
};

/* A failure is an errno; these two have none of their own. */
enum { CLOSED_EARLY = ENODATA, WRONG_ANSWER = EBADMSG };

struct options {
	const char *host;
	const char *port;
	long count, in_flight, size;
	bool udp, quiet;
};

/* One transaction in flight; idle while fd is -1. */
struct slot {
	struct slot *next_idle;
	const char *message;
	uint64_t started; /* in ns */
	size_t sent, got;
	int fd;
	bool answered; /* over, and kept open until IN_FLIGHT are */
};

struct flood {
	struct options opt;
	struct sockaddr_storage server;
	socklen_t server_len;
	bool spread; /* over source addresses */
	int epoll;
	int terminal; /* where the progress goes, or -1 */
	struct slot *slots, *idle;
	char *pattern; /* WINDOWS + size bytes */
	long started, open, most_open, ok, failed, kept, closed;
	uint64_t begin, end, ticked; /* in ns */
	uint32_t *times;             /* ok of them, in us */
	uint32_t errors[ERRORS];
	char buf[1 << 16];
};

static const char usage[] =
	"usage: flooder PORT NR_CONNS [-h HOST] [-c IN_FLIGHT] [-s SIZE] [-u] [-q]\n"
	"\n"
	"Floods an echo server with NR_CONNS transactions. Each connects, sends SIZE\n"
	"bytes, reads them back, compares them and closes. Then prints a table.\n"
	"\n"
	"  -h HOST       where the server is (127.0.0.1)\n"
	"  -c IN_FLIGHT  how many at the same time (4)\n"
	"  -s SIZE       bytes of a message, up to 16,777,216 (512). evt_test answers\n"
	"                one read, which on this machine brings 16,384 bytes whole\n"
	"  -u            UDP: one datagram each, up to 65,507 bytes; one that is not\n"
	"                answered within a second is lost\n"
	"  -q            quiet: no progress, and one line in place of the table:\n"
	"                transactions=N ok=N failures=N seconds=S rate=R mean=T p50=T\n"
	"                p99=T p999=T max=T, R being ok ones a second and T microseconds\n"
	"                of the ok ones from connect to the answer; 0 if there are none\n"
	"\n"
	"NR_CONNS is at most 10,000,000. A connection fails after 30 seconds.\n"
	"Exit status: 0 if nothing failed, 1 if anything did, 2 for wrong usage.\n";

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static double seconds(uint64_t ns)
{
	return (double)ns / 1e9;
}

/* One transaction. */

/* 127.0.0.1, 127.1.0.1 and so on, in turn. */
static int bind_source(int fd, long number)
{
	struct sockaddr_in from = {.sin_family = AF_INET};
	uint32_t net = (uint32_t)(number % SOURCES);

	from.sin_addr.s_addr = htonl(127U << 24 | net << 16 | 1);
	/* The port is chosen by connect, which knows both ends. */
	if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1},
		    sizeof(int)) < 0)
		return -1;
	return bind(fd, (struct sockaddr *)&from, sizeof(from));
}

/* Frees the slot. */
static void close_slot(struct flood *f, struct slot *s)
{
	close(s->fd);
	s->fd = -1;
	s->answered = false;
	s->next_idle = f->idle;
	f->idle = s;
	f->open--;
}

/* The end of a transaction, error being 0 or why it failed. */
static void finish(struct flood *f, struct slot *s, int error)
{
	f->end = now_ns();
	if (error) {
		if (error == EPIPE) /* a reset that a send came after */
			error = ECONNRESET;
		f->errors[error < ERRORS ? error : 0]++;
		f->failed++;
	} else {
		f->times[f->ok++] = (uint32_t)((f->end - s->started) / 1000);
		if (f->started < f->opt.in_flight) {
			s->answered = true;
			f->kept++;
			return;
		}
	}
	close_slot(f, s);
}

/* 0 when all of the message is sent, EAGAIN, or why it cannot be. */
static int send_rest(struct flood *f, struct slot *s)
{
	size_t size = (size_t)f->opt.size;
	ssize_t n;

	while (s->sent < size) {
		n = send(s->fd, s->message + s->sent, size - s->sent,
			MSG_NOSIGNAL);
		if (n < 0)
			return errno;
		s->sent += (size_t)n;
	}
	return 0;
}

/* 0 when all of the answer is there and right, EAGAIN, or what is wrong. */
static int receive_rest(struct flood *f, struct slot *s)
{
	size_t size = (size_t)f->opt.size;
	size_t len;
	ssize_t n;

	for (;;) { /* to EAGAIN: a close that came by now is no new edge */
		n = recv(s->fd, f->buf, sizeof(f->buf), 0);
		if (n < 0)
			return errno;
		if (n == 0 && !f->opt.udp)
			return CLOSED_EARLY;
		len = (size_t)n;
		if (len > s->sent - s->got || (f->opt.udp && len != size) ||
			memcmp(f->buf, s->message + s->got, len) != 0)
			return WRONG_ANSWER;
		s->got += len;
		if (s->got == size)
			return 0;
	}
}

static void on_ready(struct flood *f, struct slot *s)
{
	int sending, receiving;

	if (s->answered) /* the server's close */
		return;
	sending = send_rest(f, s);
	if (sending != 0 && sending != EAGAIN) {
		finish(f, s, sending);
		return;
	}
	receiving = receive_rest(f, s);
	if (receiving != EAGAIN)
		finish(f, s, receiving);
}

/* Connects, sends what can be sent, and waits for the rest. */
static int try_start(struct flood *f, struct slot *s)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = s};
	struct sockaddr *server = (struct sockaddr *)&f->server;
	int error;

	if (f->spread && bind_source(s->fd, f->started) < 0)
		return errno;
	s->started = now_ns();
	if (connect(s->fd, server, f->server_len) < 0 && errno != EINPROGRESS)
		return errno;
	error = send_rest(f, s);
	if (error == EAGAIN)
		ev.events |= EPOLLOUT;
	else if (error)
		return error;
	return epoll_ctl(f->epoll, EPOLL_CTL_ADD, s->fd, &ev) < 0 ? errno : 0;
}

static void start(struct flood *f)
{
	int type = (f->opt.udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK |
		SOCK_CLOEXEC;
	struct slot *s = f->idle;
	int error;

	f->idle = s->next_idle;
	if (++f->open > f->most_open)
		f->most_open = f->open;
	s->sent = 0;
	s->got = 0;
	s->message = f->pattern + f->started % WINDOWS;
	s->fd = socket(f->server.ss_family, type, 0);
	error = s->fd < 0 ? errno : try_start(f, s);
	f->started++;
	if (error)
		finish(f, s, error);
}

/* All of them. */

static void give_up_late_ones(struct flood *f, uint64_t now)
{
	uint64_t limit_ms = f->opt.udp ? UDP_LIMIT_MS : TCP_LIMIT_MS;
	struct slot *s;

	for (s = f->slots; s < f->slots + f->opt.in_flight; s++)
		if (s->fd >= 0 && !s->answered &&
			now - s->started >= limit_ms * 1000000)
			finish(f, s, ETIMEDOUT);
}

/* Once IN_FLIGHT were open, those that are only kept so. */
static void close_kept_ones(struct flood *f)
{
	struct slot *s;
	int n = 0;

	while (f->kept > 0 && n < CLOSES) {
		s = &f->slots[f->closed++];
		if (s->answered) {
			close_slot(f, s);
			f->kept--;
			n++;
		}
	}
}

/* The progress: " 43% [####......]  4,300 of 10,000  18,000/s  0:01 left" */

static const char *grouped(char to[32], uint64_t value)
{
	char digits[24];
	int len = snprintf(digits, sizeof(digits), "%" PRIu64, value);
	char *p = to;
	int i;

	for (i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			*p++ = ',';
		*p++ = digits[i];
	}
	*p = '\0';
	return to;
}

static int columns(int fd)
{
	struct winsize size;

	if (ioctl(fd, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		return 80;
	return size.ws_col;
}

static void write_progress(struct flood *f, const char *text)
{
	/* Nothing is lost with it: a terminal that is gone is no failure. */
	if (write(f->terminal, text, strlen(text)) < 0)
		f->terminal = -1;
}

static void draw_progress(struct flood *f, uint64_t now)
{
	char text[128], line[256], a[32], b[32], c[32];
	long done = f->ok + f->failed;
	double speed = (double)done / seconds(now - f->begin);
	long left = speed > 0 ? (long)((double)(f->opt.count - done) / speed)
			      : 0;
	int len, width, filled;

	len = snprintf(text, sizeof(text), "%s of %s  %s/s  %ld:%02ld left",
		grouped(a, (uint64_t)done), grouped(b, (uint64_t)f->opt.count),
		grouped(c, (uint64_t)speed), left / 60, left % 60);
	width = columns(f->terminal) - len - 12;
	width = width > 40 ? 40 : width < 0 ? 0 : width;
	filled = (int)(width * done / f->opt.count);
	snprintf(line, sizeof(line), "\r\033[K %3ld%% [%.*s%.*s]  %s",
		100 * done / f->opt.count, filled,
		"########################################", width - filled,
		"........................................", text);
	write_progress(f, line);
}

static void tick(struct flood *f)
{
	uint64_t now = now_ns();

	if (now - f->ticked < (uint64_t)TICK_MS * 1000000)
		return;
	f->ticked = now;
	give_up_late_ones(f, now);
	if (f->terminal >= 0)
		draw_progress(f, now);
}

/* 0 when all transactions are over, -1 when epoll cannot go on. */
static int run(struct flood *f)
{
	struct epoll_event events[EVENTS];
	int i, n;

	f->begin = f->end = f->ticked = now_ns();
	while (f->ok + f->failed < f->opt.count) {
		for (i = 0; i < STARTS && f->open < f->opt.in_flight &&
			f->started < f->opt.count;
			i++)
			start(f);
		if (f->started >= f->opt.in_flight)
			close_kept_ones(f);
		n = epoll_wait(f->epoll, events, EVENTS,
			i == STARTS || f->kept > 0 ? 0 : TICK_MS);
		if (n < 0 && errno != EINTR)
			return -1;
		for (i = 0; i < n; i++)
			on_ready(f, events[i].data.ptr);
		tick(f);
	}
	if (f->terminal >= 0)
		write_progress(f, "\r\033[K");
	return 0;
}

/* What came of it. */

static int compare_times(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a;
	uint32_t y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* The time that so many of a thousand did not exceed. */
static uint32_t percentile(const struct flood *f, long per_mille)
{
	long rank = (f->ok * per_mille + 999) / 1000;

	return f->ok > 0 ? f->times[rank - 1] : 0;
}

static double mean(const struct flood *f)
{
	double sum = 0;
	long i;

	for (i = 0; i < f->ok; i++)
		sum += f->times[i];
	return f->ok > 0 ? sum / (double)f->ok : 0;
}

static double rate(const struct flood *f)
{
	return f->end > f->begin ? (double)f->ok / seconds(f->end - f->begin)
				 : 0;
}

static const char *reason(const struct flood *f, int error)
{
	switch (error) {
	case ECONNREFUSED:
		return "refused";
	case ECONNRESET:
		return "reset";
	case CLOSED_EARLY:
		return "closed early";
	case WRONG_ANSWER:
		return "wrong answer";
	case ETIMEDOUT:
		return f->opt.udp ? "lost" : "timeout";
	case EMFILE:
		return "no descriptor";
	default:
		return error ? strerror(error) : "unknown";
	}
}

static void print_row(const char *name, uint64_t value, const char *unit)
{
	char text[32];

	printf("%-16s %12s%s\n", name, grouped(text, value), unit);
}

static void print_failures(const struct flood *f)
{
	char text[32];
	int i;

	if (f->failed == 0) {
		printf("%-16s %12s\n", "failures", "none");
		return;
	}
	print_row("failures", (uint64_t)f->failed, "");
	for (i = 0; i < ERRORS; i++)
		if (f->errors[i])
			printf("  %-14s %12s\n", reason(f, i),
				grouped(text, f->errors[i]));
}

static void print_table(const struct flood *f)
{
	print_row("transactions", (uint64_t)f->opt.count, "");
	print_row("open at once", (uint64_t)f->most_open, "");
	print_failures(f);
	printf("%-16s %12.3f\n", "seconds", seconds(f->end - f->begin));
	print_row("rate", (uint64_t)(rate(f) + 0.5), " a second");
	if (f->ok == 0)
		return;
	print_row("mean", (uint64_t)(mean(f) + 0.5), " microseconds");
	print_row("p50", percentile(f, 500), "");
	print_row("p99", percentile(f, 990), "");
	print_row("p99.9", percentile(f, 999), "");
	print_row("max", percentile(f, 1000), "");
}

static void print_line(const struct flood *f)
{
	int i;

	printf("transactions=%ld ok=%ld failures=%ld seconds=%.4f rate=%.1f "
	       "mean=%.1f p50=%u p99=%u p999=%u max=%u\n",
		f->opt.count, f->ok, f->failed, seconds(f->end - f->begin),
		rate(f), mean(f), percentile(f, 500), percentile(f, 990),
		percentile(f, 999), percentile(f, 1000));
	for (i = 0; i < ERRORS; i++)
		if (f->errors[i])
			fprintf(stderr, "flooder: %u: %s\n", f->errors[i],
				reason(f, i));
}

/* Setting up. */

/* The number in text, or -1. */
static long number(const char *text, long min, long max)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max)
		return -1;
	return value;
}

static int parse(struct options *opt, int argc, char **argv)
{
	int c;

	*opt = (struct options){
		.host = "127.0.0.1", .in_flight = 4, .size = 512};
	while ((c = getopt(argc, argv, "h:c:s:uq")) != -1) {
		if (c == 'h')
			opt->host = optarg;
		else if (c == 'c')
			opt->in_flight = number(optarg, 1, MAX_TRANSACTIONS);
		else if (c == 's')
			opt->size = number(optarg, 1, MAX_SIZE);
		else if (c == 'u')
			opt->udp = true;
		else if (c == 'q')
			opt->quiet = true;
		else
			return -1;
	}
	if (argc - optind != 2)
		return -1;
	opt->port = argv[optind];
	opt->count = number(argv[optind + 1], 1, MAX_TRANSACTIONS);
	if (number(opt->port, 1, 65535) < 0 || opt->count < 0 ||
		opt->in_flight < 0 || opt->size < 0 ||
		(opt->udp && opt->size > MAX_DATAGRAM))
		return -1;
	if (opt->in_flight > opt->count)
		opt->in_flight = opt->count;
	return 0;
}

/* Makes room for IN_FLIGHT, or IN_FLIGHT what there is room for. */
static void raise_limit(struct options *opt)
{
	rlim_t need = (rlim_t)opt->in_flight + SPARE_FDS;
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur >= need)
		return;
	lim.rlim_cur = need;
	if (lim.rlim_max >= need && setrlimit(RLIMIT_NOFILE, &lim) == 0)
		return;
	if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){need, need}) == 0)
		return; /* root may */
	lim.rlim_cur = lim.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &lim) < 0 &&
		getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return;
	opt->in_flight = lim.rlim_cur > SPARE_FDS + 1
		? (long)lim.rlim_cur - SPARE_FDS
		: 1;
	fprintf(stderr,
		"flooder: only %ld in flight: the limit of descriptors "
		"is %llu and cannot be raised\n",
		opt->in_flight, (unsigned long long)lim.rlim_cur);
}

static int resolve(struct flood *f)
{
	struct addrinfo hints = {
		.ai_socktype = f->opt.udp ? SOCK_DGRAM : SOCK_STREAM};
	const struct sockaddr_in *in = (struct sockaddr_in *)&f->server;
	struct addrinfo *ai;
	int error = getaddrinfo(f->opt.host, f->opt.port, &hints, &ai);

	if (error) {
		fprintf(stderr, "flooder: %s: %s\n", f->opt.host,
			gai_strerror(error));
		return -1;
	}
	memcpy(&f->server, ai->ai_addr, ai->ai_addrlen);
	f->server_len = ai->ai_addrlen;
	freeaddrinfo(ai);
	f->spread = !f->opt.udp && in->sin_family == AF_INET &&
		ntohl(in->sin_addr.s_addr) >> 24 == 127;
	return 0;
}

/* Random bytes (xorshift), the same in each run. */
static void fill_pattern(char *p, size_t len)
{
	uint32_t x = 2463534242;
	size_t i;

	for (i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		p[i] = (char)(x >> 24);
	}
}

/* Whatever it leaves behind when it fails, the end of the program frees. */
static int prepare(struct flood *f)
{
	size_t pattern_len = WINDOWS + (size_t)f->opt.size;
	long i;

	f->epoll = epoll_create1(EPOLL_CLOEXEC);
	f->slots = calloc((size_t)f->opt.in_flight, sizeof(*f->slots));
	f->times = malloc((size_t)f->opt.count * sizeof(*f->times));
	f->pattern = malloc(pattern_len);
	if (f->epoll < 0 || !f->slots || !f->times || !f->pattern) {
		perror("flooder");
		return -1;
	}
	fill_pattern(f->pattern, pattern_len);
	for (i = f->opt.in_flight; i-- > 0;) {
		f->slots[i].fd = -1;
		f->slots[i].next_idle = f->idle;
		f->idle = &f->slots[i];
	}
	f->terminal = -1;
	if (!f->opt.quiet && isatty(STDERR_FILENO))
		f->terminal = STDERR_FILENO;
	else if (!f->opt.quiet && isatty(STDOUT_FILENO))
		f->terminal = STDOUT_FILENO;
	return 0;
}

static void release(struct flood *f)
{
	long i;

	for (i = 0; f->slots && i < f->opt.in_flight; i++)
		if (f->slots[i].fd >= 0)
			close(f->slots[i].fd);
	if (f->epoll >= 0)
		close(f->epoll);
	free(f->slots);
	free(f->times);
	free(f->pattern);
}

int main(int argc, char **argv)
{
	static struct flood flood;
	int failed = 1;

	if (parse(&flood.opt, argc, argv) < 0) {
		fputs(usage, stderr);
		return 2;
	}
	raise_limit(&flood.opt);
	flood.epoll = -1;
	if (resolve(&flood) < 0 || prepare(&flood) < 0)
		goto out;
	if (run(&flood) < 0) {
		perror("flooder: epoll_wait");
		goto out;
	}
	qsort(flood.times, (size_t)flood.ok, sizeof(*flood.times),
		compare_times);
	if (flood.opt.quiet)
		print_line(&flood);
	else
		print_table(&flood);
	failed = flood.failed > 0;
out:
	release(&flood);
	return failed;
}
