/* evt-worker-base.c: what the library asks of libevent for a loop. */
#include "evt-pool-internal.h"

#include <errno.h>
#include <event2/event.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define BASE_FDS 3 /* what a base opens: epoll's, and a pair for signals */

/*
 * libevent 2.1 ends the process (evsig_init_) when descriptors run out while a
 * base is made, and takes what it gets, standard output's place too. So this
 * looks first whether there is room, and holds what is free among the
 * three standard descriptors, to be closed afterwards. Another thread that
 * opens the last ones in between is a danger that is left.
 */
static int hold_stdio(int held[], int *nr_held)
{
	int room[BASE_FDS];
	int nr_room = 0;
	int fd = 0;
	int error;

	*nr_held = 0;
	while (fd != -1 && nr_room < BASE_FDS) {
		fd = eventfd(0, EFD_CLOEXEC);
		if (fd > STDERR_FILENO)
			room[nr_room++] = fd;
		else if (fd != -1)
			held[(*nr_held)++] = fd;
	}
	error = errno;
	while (nr_room > 0)
		close(room[--nr_room]);
	errno = error;
	return fd == -1 && (error == EMFILE || error == ENFILE) ? -1 : 0;
}

static struct event_base *configured_base(void)
{
	struct event_config *config = event_config_new();
	struct event_base *base = NULL;

	if (!config)
		return NULL;
	/* One thread uses it, no environment variable changes it, and the time
	 * is not asked for in every round for timers that are not there. */
	if (event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK) == 0 &&
		event_config_set_flag(config, EVENT_BASE_FLAG_IGNORE_ENV) ==
			0 &&
		event_config_set_flag(config, EVENT_BASE_FLAG_NO_CACHE_TIME) ==
			0)
		base = event_base_new_with_config(config);
	event_config_free(config);
	return base;
}

struct event_base *evt_base_new_(void)
{
	struct event_base *base = NULL;
	int held[STDERR_FILENO + 1];
	int nr_held;
	int error;

	if (hold_stdio(held, &nr_held) == 0) {
		errno = ENOMEM; /* what libevent does not say */
		base = configured_base();
	}
	error = errno;
	while (nr_held > 0)
		close(held[--nr_held]);
	errno = error;
	return base;
}

int evt_timer_add_(struct event *timer, int ms)
{
	const struct timeval delay = {.tv_usec = ms * 1000L};
	const struct timespec time = {.tv_nsec = ms * 1000000L};

	if (event_add(timer, &delay) == 0)
		return 0;
	nanosleep(&time, NULL);
	return -1;
}

int evt_timer_reserve_(struct event *timer)
{
	const struct timeval hour = {.tv_sec = 3600};

	if (event_add(timer, &hour) == -1)
		return -1;
	return event_del(timer);
}
