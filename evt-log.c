/*
 * evt-log.c: one line for one event, through one hook.
 *
 * The hook is a function and its argument, changed and read together; they are
 * copied under a mutex and called outside of it, so that a hook may log, change
 * the hook or block without stopping anybody else. An atomic pointer to
 * a heap object was rejected: nobody could say when the old one may be freed.
 *
 * A fault that comes thousands of times a second must not write thousands
 * of lines. The limiter knows the last line only: where an episode has lines
 * of several kinds, the code that sees it (the listener's pause) counts itself.
 */
#include "evt-log-internal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct hook {
	void (*fn)(int level, const char *line, void *arg);
	void *arg;
};

/* The library's one piece of shared state outside of the classic server. */
static struct {
	pthread_mutex_t lock;
	struct hook hook; /* fn NULL: standard error */

	/* The limiter: the last line, and how it was repeated. */
	char last[EVT_LOG_LINE];
	int last_level;
	int64_t since_ms; /* start of the second in which passed is counted */
	unsigned passed;
	unsigned long held_back;
} logger = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_mutex_t stderr_lock = PTHREAD_MUTEX_INITIALIZER;

static _Thread_local struct evt_log_kept *keeper;

static const char *const level_names[] = {"debug", "info", "warning", "error"};

static inline int64_t clock_us(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t evt_now_us_(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

int64_t evt_coarse_us_(void)
{
	return clock_us(CLOCK_MONOTONIC_COARSE);
}

int64_t evt_now_ms_(void)
{
	return evt_now_us_() / 1000;
}

/*
 * Standard error may be closed, or a pipe that nobody reads. A line that would
 * block is dropped: a server must not hang on its own log. The one write is at
 * most a line long, which a pipe takes whole.
 */
static void write_stderr(int level, const char *line)
{
	struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
	char text[EVT_LOG_LINE + 32];
	int len;

	if (level < EVT_LOG_INFO || level > EVT_LOG_ERROR)
		return;
	len = snprintf(text, sizeof(text), "evt-server: %s: %s\n",
		level_names[level], line);
	/* So that no other line takes the room between look and write. With
	 * POLLERR nobody reads any more, and SIGPIPE would end the program. */
	pthread_mutex_lock(&stderr_lock);
	if (poll(&out, 1, 0) == 1 && out.revents == POLLOUT)
		while (write(STDERR_FILENO, text, (size_t)len) == -1 &&
			errno == EINTR)
			;
	pthread_mutex_unlock(&stderr_lock);
}

static void emit(struct hook hook, int level, const char *line)
{
	if (hook.fn)
		hook.fn(level, line, hook.arg);
	else
		write_stderr(level, line);
}

/* A report that nobody has had yet: how often the last line was held back. */
struct report {
	int level;
	unsigned long held_back;
};

static struct report take_report(void)
{
	struct report report = {logger.last_level, logger.held_back};

	logger.held_back = 0;
	return report;
}

static void emit_report(struct hook hook, struct report report)
{
	char line[64];

	if (report.held_back == 0)
		return;
	snprintf(line, sizeof(line), "the last line came %lu more times",
		report.held_back);
	emit(hook, report.level, line);
}

/* True if the line is to be held back; the lock is held. */
static bool limit(int level, const char *line, struct report *report)
{
	int64_t now = evt_now_ms_();
	bool same = level == logger.last_level &&
		strcmp(line, logger.last) == 0;

	if (same && now - logger.since_ms < 1000) {
		if (logger.passed >= EVT_LOG_BURST) {
			logger.held_back++;
			return true;
		}
		logger.passed++;
		return false;
	}
	*report = take_report();
	if (!same) {
		memcpy(logger.last, line, strlen(line) + 1);
		logger.last_level = level;
	}
	logger.since_ms = now;
	logger.passed = 1;
	return false;
}

/* Control characters, a client's perhaps, must not reach a terminal; there are
 * some beyond ASCII, alone and in UTF-8, so all of that is escaped. */
static void escape(char *dest, size_t size, const char *src)
{
	static const char hex[] = "0123456789abcdef";
	size_t used = 0;

	for (; *src != '\0' && used + 5 <= size; src++) {
		unsigned char byte = (unsigned char)*src;

		if (byte >= 0x20 && byte < 0x7f) {
			dest[used++] = *src;
			continue;
		}
		dest[used++] = '\\';
		dest[used++] = 'x';
		dest[used++] = hex[byte >> 4];
		dest[used++] = hex[byte & 15];
	}
	dest[used] = '\0';
}

static void say(int level, const char *line)
{
	struct report report = {0, 0};
	struct hook hook;
	bool held_back;

	pthread_mutex_lock(&logger.lock);
	hook = logger.hook;
	held_back = limit(level, line, &report);
	pthread_mutex_unlock(&logger.lock);
	emit_report(hook, report);
	if (!held_back)
		emit(hook, level, line);
}

static void log_text(int level, const char *text)
{
	char line[EVT_LOG_LINE];

	escape(line, sizeof(line), text);
	if (!keeper) {
		say(level, line);
	} else if (keeper->count < sizeof(keeper->levels) / sizeof(int)) {
		keeper->levels[keeper->count] = level;
		memcpy(keeper->lines[keeper->count++], line, sizeof(line));
	} else {
		keeper->lost++;
	}
}

void evt_log_keep_(struct evt_log_kept *kept)
{
	keeper = kept;
	if (kept)
		kept->count = kept->lost = 0;
}

void evt_log_say_(const struct evt_log_kept *kept)
{
	int error = errno;
	unsigned i;

	for (i = 0; i < kept->count; i++)
		say(kept->levels[i], kept->lines[i]);
	if (kept->lost > 0)
		evt_log_(EVT_LOG_WARN, "%u more lines are lost", kept->lost);
	errno = error;
}

void evt_log_(int level, const char *format, ...)
{
	char text[EVT_LOG_LINE];
	int error = errno;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	log_text(level, text);
	errno = error;
}

static void log_fault(int error, const char *format, va_list args)
	__attribute__((format(printf, 2, 0)));

static void log_fault(int error, const char *format, va_list args)
{
	char text[EVT_LOG_LINE];
	char reason[64];
	int len = vsnprintf(text, sizeof(text), format, args);

	if (len >= 0 && (size_t)len < sizeof(text))
		snprintf(text + len, sizeof(text) - (size_t)len, ": %s",
			strerror_r(error, reason, sizeof(reason)));
	log_text(EVT_LOG_ERROR, text);
}

int evt_fail_(int error, const char *format, ...)
{
	va_list args;

	if (error != EAGAIN && error != ECANCELED) {
		va_start(args, format);
		log_fault(error, format, args);
		va_end(args);
	}
	errno = error;
	return -1;
}

int evt_fault_(int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_fault(error, format, args);
	va_end(args);
	errno = error;
	return -1;
}

void evt_log_flush_(void)
{
	struct report report;
	struct hook hook;

	pthread_mutex_lock(&logger.lock);
	hook = logger.hook;
	report = take_report();
	pthread_mutex_unlock(&logger.lock);
	emit_report(hook, report);
}

void evt_log_after_fork_(void)
{
	pthread_mutex_init(&logger.lock, NULL);
	pthread_mutex_init(&stderr_lock, NULL);
}

void evt_set_log(void (*fn)(int level, const char *line, void *arg), void *arg)
{
	pthread_mutex_lock(&logger.lock);
	logger.hook = (struct hook){fn, arg};
	pthread_mutex_unlock(&logger.lock);
}
