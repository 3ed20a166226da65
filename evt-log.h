/*
 * evt-log.h: where the library's lines go.
 *
 * The library speaks through one hook and nowhere else. Every call that fails
 * with -1 for a fault has said why in one line before it returns; EAGAIN and
 * ECANCELED are answers, not faults, and have no line.
 */
#ifndef EVT_LOG_H
#define EVT_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

enum evt_log_level {
	EVT_LOG_DEBUG = 0, /* what an expert wants to see while searching */
	EVT_LOG_INFO = 1,  /* normal, and worth a line */
	EVT_LOG_WARN = 2,  /* it goes on, but somebody should look */
	EVT_LOG_ERROR = 3  /* a call failed, or something was lost */
};

/*
 * Sends the library's lines to fn(level, line, arg), with level an enum
 * evt_log_level. fn NULL: back to standard error, from EVT_LOG_INFO up.
 *
 * A line has no newline at its end and is printable ASCII, what is not being
 * escaped (\x1b), at most 512 bytes with its NUL; it belongs to the library. fn
 * runs on whatever thread has something to say, several at once perhaps, and
 * under no lock of the library, so it may call into the library. After
 * evt_set_log returns, a thread that was already on its way may still call the
 * old fn once. The same line again and again is passed on 8 times a second and
 * then counted.
 * Any thread, any time; errno is left alone.
 */
void evt_set_log(void (*fn)(int level, const char *line, void *arg), void *arg);

#ifdef __cplusplus
}
#endif

#endif /* EVT_LOG_H */
