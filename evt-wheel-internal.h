/*
 * evt-wheel-internal.h: many timeouts on one timer. Pure: the time, in
 * milliseconds modulo 2^32, is an argument.
 *
 * A timer fires never early, and late by less than 8/63 of its delay, which is
 * an eighth. One that is further away than 34 minutes fires then, and whoever
 * owns it looks again: so a timer says "look at me", not "it is time".
 */
#ifndef EVT_WHEEL_INTERNAL_H
#define EVT_WHEEL_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#define EVT_WHEEL_LEVELS 6
#define EVT_WHEEL_SLOTS  64
#define EVT_WHEEL_IDLE   (-1) /* nothing to wait for */

/* Embedded in its owner; all zero when it is in no wheel. */
struct evt_timer {
	struct evt_timer *next;
	struct evt_timer **at; /* what points to it; NULL: in no wheel */
};

struct evt_wheel {
	uint32_t now_ms;                    /* up to here all have fired */
	uint64_t pending[EVT_WHEEL_LEVELS]; /* a bit for each slot in use */
	struct evt_timer *slots[EVT_WHEEL_LEVELS][EVT_WHEEL_SLOTS];
};

void evt_wheel_init_(struct evt_wheel *wheel, uint32_t now_ms);

/*
 * Has timer fire delay_ms (from 1) after now_ms; moves it if it is in. now_ms
 * may be ahead of the wheel's; but as long as something is overdue there, the
 * delay is counted, as far as being late goes, from that on.
 */
void evt_wheel_add_(struct evt_wheel *wheel, struct evt_timer *timer,
	uint32_t now_ms, uint32_t delay_ms);

/* Takes it out; nothing if it is in no wheel. */
void evt_wheel_remove_(struct evt_wheel *wheel, struct evt_timer *timer);

/*
 * Moves on to now_ms. What has fired is taken out of the wheel and put on a
 * list of its own, by time, linked by next: *fired, which need not be set
 * before and has to stay where it is, since at works as in the wheel.
 * evt_wheel_remove_ takes one out of this list, evt_wheel_add_ moves it back.
 */
void evt_wheel_advance_(
	struct evt_wheel *wheel, uint32_t now_ms, struct evt_timer **fired);

/* How many ms after now_ms it has to be advanced next: 0 at once, or
 * EVT_WHEEL_IDLE. */
int64_t evt_wheel_next_ms_(const struct evt_wheel *wheel, uint32_t now_ms);

#endif /* EVT_WHEEL_INTERNAL_H */
