/* evt-log-internal.h: how the library's own files speak. */
#ifndef EVT_LOG_INTERNAL_H
#define EVT_LOG_INTERNAL_H

#include "evt-log.h"

#include <stddef.h>
#include <stdint.h>

#define EVT_LOG_LINE    512 /* the longest line, its NUL counted */
#define EVT_LOG_BURST   8   /* the same line so often in one second */
#define EVT_LOG_FORMAT_ __attribute__((format(printf, 2, 3)))

/* Monotonic; here, since this file needs it and every other includes it. */
int64_t evt_now_ms_(void);
int64_t evt_now_us_(void);

/* The same, from 4 ms ago perhaps, for a fifth of the cost. */
int64_t evt_coarse_us_(void);

/* One line; errno is kept. */
void evt_log_(int level, const char *format, ...) EVT_LOG_FORMAT_;

/*
 * The one way in which the library fails: logs "format: text of error", sets
 * errno to error and returns -1. EAGAIN and ECANCELED are answers and have no
 * line; where EAGAIN is a fault all the same (pthread_create(3)), evt_fault_.
 */
int evt_fail_(int error, const char *format, ...) EVT_LOG_FORMAT_;
int evt_fault_(int error, const char *format, ...) EVT_LOG_FORMAT_;

/* Tells how often the last line was not passed on, if ever. */
void evt_log_flush_(void);

/*
 * The hook is called under no lock, since it may call into the library. Who
 * holds a lock that the hook might want keeps its thread's lines in a buffer
 * (NULL: no more), and says them when the lock is given back.
 */
struct evt_log_kept {
	unsigned count;
	unsigned lost; /* more than there is room for */
	int levels[4];
	char lines[4][EVT_LOG_LINE];
};

void evt_log_keep_(struct evt_log_kept *kept);
void evt_log_say_(const struct evt_log_kept *kept);

/* In a forked child: another thread may have held the log's lock. */
void evt_log_after_fork_(void);

#endif /* EVT_LOG_INTERNAL_H */
