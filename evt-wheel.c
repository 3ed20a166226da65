/*
 * evt-wheel.c: the timer wheel of the Linux kernel since 4.8. Adding and
 * removing cost the same however many timers there are, which a heap's do not,
 * and nearly all timers of connections are removed or moved before they fire.
 *
 * Six levels of 64 slots. A slot of level n is 8^n ms wide, and level n has the
 * delays from 63 * 8^(n-1) up to 63 * 8^n: one slot fewer than there are, for
 * the part of the first that has passed already. A timer waits in the slot that
 * begins at or after its time, so it is never early, and late by less than one
 * width. It stays there: the older wheel, which sorted the slots of the higher
 * levels into the lower ones as their time came, was exact, and paid for it in
 * moving timers that nobody waited for any more.
 *
 * A level's slots stand for the 64 multiples of its width after now_ms, at each
 * moment: the one whose number is that of now_ms itself is the last of them.
 * So a slot's time is known from its number, and advancing goes from one slot
 * in use to the next, however long the loop has slept. It also means that
 * now_ms can be moved forward as far as the next slot in use, and no farther.
 */
#include "evt-wheel-internal.h"

#include <stddef.h>
#include <string.h>

#define SHIFT(level) (3U * (level)) /* a slot of it is 1 << SHIFT ms wide */
#define LONGEST      ((63U << SHIFT(EVT_WHEEL_LEVELS - 1)) - 1)
#define SPAN         ((uint32_t)EVT_WHEEL_SLOTS << SHIFT(EVT_WHEEL_LEVELS - 1))

void evt_wheel_init_(struct evt_wheel *wheel, uint32_t now_ms)
{
	memset(wheel, 0, sizeof(*wheel));
	wheel->now_ms = now_ms;
}

/*
 * By how much now_ms is ahead of the wheel. One that is up to SPAN behind is
 * taken for a time that was read a little earlier, not for 49 days of sleep.
 */
static int64_t passed_ms(const struct evt_wheel *wheel, uint32_t now_ms)
{
	uint32_t passed = now_ms - wheel->now_ms;

	if (passed > UINT32_MAX - SPAN)
		return -(int64_t)(wheel->now_ms - now_ms);
	return passed;
}

/* From the wheel's now to the next slot in use; IDLE if all are empty. */
static int64_t wait_ms(const struct evt_wheel *wheel)
{
	int64_t least = EVT_WHEEL_IDLE;
	uint32_t first;
	uint32_t wait;
	uint64_t bits;
	unsigned level;

	for (level = 0; level < EVT_WHEEL_LEVELS; level++) {
		bits = wheel->pending[level];
		if (bits == 0)
			continue;
		first = (wheel->now_ms >> SHIFT(level)) + 1;
		bits = bits >> (first & 63) | bits << (-first & 63);
		first += (uint32_t)__builtin_ctzll(bits);
		wait = (first << SHIFT(level)) - wheel->now_ms;
		if (least == EVT_WHEEL_IDLE || wait < least)
			least = wait;
	}
	return least;
}

/*
 * What is added late in a long sleep would else be counted from its beginning,
 * and go to a level that is far too coarse for it.
 */
static void catch_up(struct evt_wheel *wheel, uint32_t now_ms)
{
	int64_t passed = passed_ms(wheel, now_ms);
	int64_t wait;

	if (passed == 0)
		return;
	wait = wait_ms(wheel);
	if (wait == EVT_WHEEL_IDLE || (passed > 0 && passed < wait))
		wheel->now_ms = now_ms;
	else if (passed > 0)
		wheel->now_ms += (uint32_t)wait - 1;
}

static void put_first(struct evt_timer **at, struct evt_timer *timer)
{
	timer->next = *at;
	if (timer->next)
		timer->next->at = &timer->next;
	timer->at = at;
	*at = timer;
}

void evt_wheel_add_(struct evt_wheel *wheel, struct evt_timer *timer,
	uint32_t now_ms, uint32_t delay_ms)
{
	unsigned level = 0;
	int64_t delta;
	uint32_t slot;

	evt_wheel_remove_(wheel, timer);
	catch_up(wheel, now_ms);
	delta = passed_ms(wheel, now_ms) + delay_ms;
	if (delta < 1)
		delta = 1;
	if (delta > LONGEST)
		delta = LONGEST;
	while (delta >= 63 << SHIFT(level))
		level++;
	slot = wheel->now_ms + (uint32_t)delta + (1U << SHIFT(level)) - 1;
	slot = slot >> SHIFT(level) & 63;
	put_first(&wheel->slots[level][slot], timer);
	wheel->pending[level] |= UINT64_C(1) << slot;
}

/* Clears the slot's bit, if at is a slot. */
static void clear_pending(struct evt_wheel *wheel, struct evt_timer **at)
{
	uintptr_t slot = (uintptr_t)at - (uintptr_t)wheel->slots;

	if (slot >= sizeof(wheel->slots))
		return;
	slot /= sizeof(void *);
	wheel->pending[slot / 64] &= ~(UINT64_C(1) << slot % 64);
}

void evt_wheel_remove_(struct evt_wheel *wheel, struct evt_timer *timer)
{
	if (!timer->at)
		return;
	*timer->at = timer->next;
	if (timer->next)
		timer->next->at = timer->at;
	else
		clear_pending(wheel, timer->at);
	timer->next = NULL;
	timer->at = NULL;
}

/* Moves the slots whose time is now to the end of a list: its new end. */
static struct evt_timer **take_due(
	struct evt_wheel *wheel, struct evt_timer **end)
{
	struct evt_timer **slot;
	unsigned level;
	uint32_t nr;

	for (level = 0; level < EVT_WHEEL_LEVELS; level++) {
		nr = wheel->now_ms >> SHIFT(level);
		if (nr << SHIFT(level) != wheel->now_ms)
			break;
		slot = &wheel->slots[level][nr & 63];
		if (!*slot)
			continue;
		*end = *slot;
		(*end)->at = end;
		*slot = NULL;
		clear_pending(wheel, slot);
		while (*end)
			end = &(*end)->next;
	}
	return end;
}

void evt_wheel_advance_(
	struct evt_wheel *wheel, uint32_t now_ms, struct evt_timer **fired)
{
	int64_t left = passed_ms(wheel, now_ms);
	int64_t wait = wait_ms(wheel);

	*fired = NULL;
	while (wait != EVT_WHEEL_IDLE && wait <= left) {
		wheel->now_ms += (uint32_t)wait;
		left -= wait;
		fired = take_due(wheel, fired);
		wait = wait_ms(wheel);
	}
	if (left > 0)
		wheel->now_ms = now_ms;
}

int64_t evt_wheel_next_ms_(const struct evt_wheel *wheel, uint32_t now_ms)
{
	int64_t passed = passed_ms(wheel, now_ms);
	int64_t wait = wait_ms(wheel);

	if (wait == EVT_WHEEL_IDLE)
		return EVT_WHEEL_IDLE;
	return wait > passed ? wait - passed : 0;
}
