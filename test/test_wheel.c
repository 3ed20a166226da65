/*
 * test_wheel.c: the timer wheel against what it promises, and against a list
 * of what is in it, with times from fixed seeds.
 */
#include "ledger.h"
#include "../evt-wheel-internal.h"

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))
#define LONGEST      ((63U << 15) - 1) /* what is not looked at before */
#define MANY         10000

static struct evt_wheel wheel;

/* A timer and what is known of it. */
struct entry {
	struct evt_timer timer; /* the first, so that one is the other */
	uint32_t added_ms;
	uint32_t delay_ms;
	bool in;
	int fired;
};

static struct entry entries[MANY];

static struct entry *entry_of(struct evt_timer *timer)
{
	return (struct entry *)timer;
}

static void start_at(uint32_t now_ms)
{
	memset(entries, 0, sizeof(entries));
	evt_wheel_init_(&wheel, now_ms);
}

static void add(struct entry *entry, uint32_t now_ms, uint32_t delay_ms)
{
	evt_wheel_add_(&wheel, &entry->timer, now_ms, delay_ms);
	entry->added_ms = now_ms;
	entry->delay_ms = delay_ms;
	entry->in = true;
}

/* What a timer may be late: 8/63 of its delay, less 1. */
static uint32_t slack(uint32_t delay_ms)
{
	return delay_ms < 63 ? 0 : (uint32_t)(delay_ms * UINT64_C(8) / 63) - 1;
}

/* Advances; each that fired is marked. How many. */
static int advance(uint32_t now_ms)
{
	struct evt_timer *fired = (struct evt_timer *)8; /* to be set */
	int count = 0;

	evt_wheel_advance_(&wheel, now_ms, &fired);
	while (fired) {
		struct entry *entry = entry_of(fired);

		assert_true(entry->in);
		entry->in = false;
		entry->fired++;
		evt_wheel_remove_(&wheel, fired);
		assert_null(entry->timer.at);
		assert_null(entry->timer.next);
		count++;
	}
	return count;
}

/* Goes to the next time that the wheel names: that time. */
static uint32_t go_on(uint32_t now_ms)
{
	int64_t next = evt_wheel_next_ms_(&wheel, now_ms);

	assert_true(next != EVT_WHEEL_IDLE);
	assert_in_range(next, 0, UINT32_MAX);
	return now_ms + (uint32_t)next;
}

/* The bitmaps say what is in the slots. */
static void check_pending(void)
{
	size_t level;
	size_t slot;

	for (level = 0; level < EVT_WHEEL_LEVELS; level++)
		for (slot = 0; slot < EVT_WHEEL_SLOTS; slot++)
			assert_int_equal(wheel.pending[level] >> slot & 1,
				wheel.slots[level][slot] != NULL);
}

static bool is_empty(void)
{
	check_pending();
	return evt_wheel_next_ms_(&wheel, wheel.now_ms) == EVT_WHEEL_IDLE;
}

/* One timer */

static void an_empty_wheel_has_nothing_to_wait_for(void **state)
{
	(void)state;
	start_at(7);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 7), EVT_WHEEL_IDLE);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 99999), EVT_WHEEL_IDLE);
	assert_int_equal(advance(99999), 0);
	assert_int_equal(wheel.now_ms, 99999);
}

static void a_short_delay_is_kept_to_the_millisecond(void **state)
{
	uint32_t delay;

	(void)state;
	for (delay = 1; delay < 63; delay++) {
		start_at(delay * 1000 + 5);
		add(&entries[0], wheel.now_ms, delay);
		assert_int_equal(
			evt_wheel_next_ms_(&wheel, wheel.now_ms), delay);
		assert_int_equal(advance(wheel.now_ms + delay - 1), 0);
		assert_int_equal(evt_wheel_next_ms_(&wheel, wheel.now_ms), 1);
		assert_int_equal(advance(wheel.now_ms + 1), 1);
		assert_true(is_empty());
	}
}

/* At one phase of all widths: alone, it fires when the wheel says. */
static void check_delay(uint32_t start_ms, uint32_t delay_ms)
{
	uint32_t due;
	uint32_t late;

	start_at(start_ms);
	add(&entries[0], start_ms, delay_ms);
	due = go_on(start_ms);
	late = due - start_ms - delay_ms;
	if (late > slack(delay_ms))
		fail_msg("%u ms from %u: late by %d", delay_ms, start_ms,
			(int)late);
	assert_int_equal(advance(due - 1), 0);
	assert_int_equal(advance(due), 1);
	assert_true(evt_wheel_next_ms_(&wheel, due) == EVT_WHEEL_IDLE);
}

static void no_delay_is_early_or_late_by_more_than_an_eighth(void **state)
{
	static const uint32_t starts[] = {0, 1, 7, 8, 63, 64, 511, 32767, 32768,
		123456789, UINT32_MAX - 1000, UINT32_MAX};
	uint32_t delay;
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(starts); i++)
		for (delay = 1; delay <= LONGEST; delay += 1 + delay / 997)
			check_delay(starts[i], delay);
}

static void the_delays_where_levels_meet_are_kept(void **state)
{
	uint32_t start;
	unsigned level;

	(void)state;
	for (level = 0; level < EVT_WHEEL_LEVELS; level++)
		for (start = 0; start < 600; start++) {
			check_delay(start, (63U << 3 * level) - 1);
			if (level < EVT_WHEEL_LEVELS - 1)
				check_delay(start, 63U << 3 * level);
		}
}

static void no_delay_is_one_of_a_millisecond(void **state)
{
	(void)state;
	start_at(50);
	add(&entries[0], 50, 0);
	assert_int_equal(advance(50), 0);
	assert_int_equal(advance(51), 1);
}

static void a_huge_delay_fires_after_half_an_hour(void **state)
{
	static const uint32_t delays[] = {LONGEST, LONGEST + 1, 3600000,
		INT32_MAX, INT32_MAX + 1U, UINT32_MAX};
	static const uint32_t starts[] = {0, 77777, UINT32_MAX - 1000};
	uint32_t after;
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(delays) * COUNT(starts); i++) {
		start_at(starts[i % COUNT(starts)]);
		add(&entries[0], wheel.now_ms, delays[i / COUNT(starts)]);
		after = (uint32_t)evt_wheel_next_ms_(&wheel, wheel.now_ms);
		assert_in_range(after, 30 * 60000, LONGEST + slack(LONGEST));
		assert_int_equal(advance(wheel.now_ms + after - 1), 0);
		assert_int_equal(advance(wheel.now_ms + 1), 1);
	}
}

static void time_goes_on_after_its_numbers_end(void **state)
{
	uint32_t now;
	int i;

	(void)state;
	start_at(UINT32_MAX - 1000);
	now = wheel.now_ms;
	for (i = 0; i < 100; i++)
		add(&entries[i], now, 50 + 50 * (uint32_t)i);
	for (i = 0; i < 100; i++) {
		while (!entries[i].fired) {
			now = go_on(now);
			advance(now);
		}
		assert_in_range(now - (UINT32_MAX - 1000) - entries[i].delay_ms,
			0, slack(entries[i].delay_ms));
	}
	assert_in_range(now, 4000, 6000);
	assert_true(is_empty());
}

/* Adding and removing */

static void adding_again_moves(void **state)
{
	(void)state;
	start_at(0);
	add(&entries[0], 0, 10);
	add(&entries[0], 0, 5000);
	check_pending();
	assert_int_equal(advance(4999), 0);
	add(&entries[0], 4999, 3);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 4999), 3);
	assert_int_equal(advance(5002), 1);
	assert_int_equal(advance(100000), 0);
	assert_true(is_empty());
}

static void what_is_removed_does_not_fire(void **state)
{
	(void)state;
	start_at(0);
	add(&entries[0], 0, 10);
	evt_wheel_remove_(&wheel, &entries[0].timer);
	assert_null(entries[0].timer.at);
	assert_true(is_empty());
	assert_int_equal(advance(100), 0);
}

static void removing_what_is_in_no_wheel_is_nothing(void **state)
{
	(void)state;
	start_at(0);
	add(&entries[0], 0, 10);
	evt_wheel_remove_(&wheel, &entries[1].timer);
	evt_wheel_remove_(&wheel, &entries[1].timer);
	assert_int_equal(advance(10), 1);
	assert_int_equal(entries[0].fired, 1);
}

/* First, last and in the middle, in each order. */
static void a_slot_lets_go_of_any_of_its_timers(void **state)
{
	static const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
		{1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
	size_t order;
	int i;

	(void)state;
	for (order = 0; order < COUNT(orders); order++) {
		start_at(0);
		for (i = 0; i < 3; i++)
			add(&entries[i], 0, 10);
		for (i = 0; i < 3; i++) {
			assert_int_equal(evt_wheel_next_ms_(&wheel, 0), 10);
			evt_wheel_remove_(
				&wheel, &entries[orders[order][i]].timer);
			check_pending();
		}
		assert_true(is_empty());
	}
}

static void what_has_fired_can_be_removed_from_its_list(void **state)
{
	struct evt_timer *fired;
	struct evt_timer *timer;
	int left = 0;
	int i;

	(void)state;
	start_at(0);
	for (i = 0; i < 6; i++)
		add(&entries[i], 0, 10 + (uint32_t)i / 2);
	evt_wheel_advance_(&wheel, 100, &fired);
	assert_true(is_empty());
	for (i = 0; i < 6; i += 2)
		evt_wheel_remove_(&wheel, &entries[i].timer);
	for (timer = fired; timer; timer = timer->next, left++)
		assert_int_equal((entry_of(timer) - entries) % 2, 1);
	assert_int_equal(left, 3);
	for (i = 1; i < 6; i += 2)
		evt_wheel_remove_(&wheel, &entries[i].timer);
	assert_null(fired);
	assert_true(is_empty());
}

static void what_has_fired_can_be_added_from_its_list(void **state)
{
	struct evt_timer *fired;
	int i;

	(void)state;
	start_at(0);
	for (i = 0; i < 3; i++)
		add(&entries[i], 0, 10);
	evt_wheel_advance_(&wheel, 10, &fired);
	for (i = 0; i < 3; i++)
		add(&entries[i], 10, 10);
	assert_null(fired);
	assert_int_equal(advance(19), 0);
	assert_int_equal(advance(20), 3);
}

static void what_fires_is_in_the_order_of_time(void **state)
{
	struct evt_timer *fired;
	uint32_t last = 0;
	int count = 0;
	int i;

	(void)state;
	start_at(0);
	for (i = 0; i < 62; i++)
		add(&entries[i], 0, 1 + (uint32_t)i * 37 % 62);
	evt_wheel_advance_(&wheel, 1000, &fired);
	while (fired) {
		assert_true(entry_of(fired)->delay_ms > last);
		last = entry_of(fired)->delay_ms;
		count++;
		evt_wheel_remove_(&wheel, fired);
	}
	assert_int_equal(count, 62);
}

static void ten_thousand_timers_of_one_millisecond_fire_once(void **state)
{
	int i;

	(void)state;
	start_at(0);
	for (i = 0; i < MANY; i++)
		add(&entries[i], 0, 700);
	for (i = 0; i < MANY; i += 2) {
		evt_wheel_remove_(&wheel, &entries[i].timer);
		entries[i].in = false;
	}
	assert_int_equal(advance(699), 0);
	assert_int_equal(advance(go_on(699)), MANY / 2);
	for (i = 0; i < MANY; i++)
		assert_int_equal(entries[i].fired, i % 2);
	assert_true(is_empty());
}

/* Slots of all levels begin at one time: none may be forgotten. */
static void timers_of_all_levels_fire_at_one_time(void **state)
{
	uint32_t time = 1U << 22;
	unsigned level;

	(void)state;
	start_at(time - LONGEST);
	for (level = EVT_WHEEL_LEVELS; level-- > 0;) {
		uint32_t delay = (60U << 3 * level);

		assert_int_equal(advance(time - delay), 0);
		add(&entries[level], time - delay, delay);
	}
	assert_int_equal(advance(time - 1), 0);
	assert_int_equal(advance(time), EVT_WHEEL_LEVELS);
	assert_true(is_empty());
}

/* Sleeping */

static void after_a_long_sleep_all_that_is_due_fires_at_once(void **state)
{
	int64_t began = cpu_ms();
	int round;
	int i;

	(void)state;
	for (round = 0; round < 100; round++) {
		start_at((uint32_t)round * 49999999);
		for (i = 0; i < 1000; i++)
			add(&entries[i], wheel.now_ms, 1 + 1999 * (uint32_t)i);
		assert_int_equal(advance(wheel.now_ms + 3600000), 1000);
		for (i = 0; i < 1000; i++)
			assert_int_equal(entries[i].fired, 1);
		assert_true(is_empty());
	}
	assert_in_range(cpu_ms() - began, 0, 1000 * slowness());
}

static void a_sleep_of_weeks_is_a_sleep(void **state)
{
	(void)state;
	start_at(1000);
	add(&entries[0], 1000, 100);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 4000001000U), 0);
	assert_int_equal(advance(4000001000U), 1);
	assert_int_equal(wheel.now_ms, 4000001000U);
}

static void a_time_read_earlier_moves_nothing_back(void **state)
{
	(void)state;
	start_at(5000);
	add(&entries[0], 5000, 20);
	assert_int_equal(advance(5010), 0);
	assert_int_equal(advance(4990), 0);
	assert_int_equal(wheel.now_ms, 5010);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 4990), 30);
	add(&entries[1], 5005, 3);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 5010), 1);
	assert_int_equal(advance(5020), 2);
}

/* The loop sleeps until the first; the second is added meanwhile. */
static void what_is_added_in_a_long_sleep_is_not_late_for_it(void **state)
{
	(void)state;
	start_at(0);
	add(&entries[0], 0, 1800000);
	add(&entries[1], 1700000, 40);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 1700000), 40);
	assert_int_equal(advance(1700039), 0);
	assert_int_equal(advance(1700040), 1);
	assert_int_equal(entries[1].fired, 1);
	assert_int_equal(advance(1800000 + slack(1800000)), 1);
}

static void what_is_added_to_an_empty_wheel_counts_from_then(void **state)
{
	(void)state;
	start_at(0);
	add(&entries[0], 4000000000U, 40);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 4000000000U), 40);
	assert_int_equal(advance(4000000039U), 0);
	assert_int_equal(advance(4000000040U), 1);
}

/* The first is overdue when the second is added. */
static void adding_does_not_lose_what_is_overdue(void **state)
{
	(void)state;
	start_at(0);
	add(&entries[0], 0, 10);
	add(&entries[1], 500, 20);
	assert_int_equal(evt_wheel_next_ms_(&wheel, 500), 0);
	assert_int_equal(advance(500), 1);
	assert_int_equal(entries[0].fired, 1);
	assert_int_equal(advance(519), 0);
	assert_int_equal(advance(520 + slack(520)), 1);
}

static void adding_does_not_put_off_what_is_due(void **state)
{
	uint32_t now;

	(void)state;
	for (now = 10; now < 14; now++) {
		start_at(0);
		add(&entries[0], 0, 10);
		add(&entries[1], now, 20);
		assert_int_equal(evt_wheel_next_ms_(&wheel, now), 0);
		assert_int_equal(advance(now), 1);
		assert_int_equal(entries[0].fired, 1);
	}
}

/* Anything, against a list of what is in */

struct random {
	uint32_t now_ms;
	uint64_t seed;
	int fired;
};

static uint32_t any(struct random *random, uint32_t below)
{
	random->seed ^= random->seed << 13;
	random->seed ^= random->seed >> 7;
	random->seed ^= random->seed << 17;
	return (uint32_t)(random->seed >> 32) % below;
}

/* The next times: short ones more often. */
static uint32_t any_delay(struct random *random)
{
	return 1 + any(random, 2U << any(random, 20));
}

/* Whatever is in is not due yet, or not more than it may be late. */
static void check_in(const struct random *random)
{
	uint32_t passed;
	size_t i;

	for (i = 0; i < 200; i++) {
		passed = random->now_ms - entries[i].added_ms;
		if (entries[i].in &&
			passed > entries[i].delay_ms +
					slack(entries[i].delay_ms))
			fail_msg("%u ms: still in after %u",
				entries[i].delay_ms, passed);
	}
}

/* Moves on, and looks at each that fires. */
static void fire(struct random *random, uint32_t now_ms)
{
	struct evt_timer *fired;
	uint32_t late;

	random->now_ms = now_ms;
	evt_wheel_advance_(&wheel, now_ms, &fired);
	while (fired) {
		struct entry *entry = entry_of(fired);

		assert_true(entry->in);
		late = now_ms - entry->added_ms - entry->delay_ms;
		if (late > slack(entry->delay_ms))
			fail_msg("%u ms: fired %d late", entry->delay_ms,
				(int)late);
		entry->in = false;
		random->fired++;
		evt_wheel_remove_(&wheel, fired);
	}
	check_in(random);
}

/* Goes some way, stopping at each time that the wheel names. */
static void pass(struct random *random)
{
	uint32_t left = any(random, 2U << any(random, 20));
	int64_t next = evt_wheel_next_ms_(&wheel, random->now_ms);

	while (next != EVT_WHEEL_IDLE && next <= left) {
		left -= (uint32_t)next;
		fire(random, random->now_ms + (uint32_t)next);
		next = evt_wheel_next_ms_(&wheel, random->now_ms);
		assert_true(next != 0);
	}
	/* The loop wakes up for something else, or sleeps a little longer. */
	random->now_ms += left;
	if (any(random, 2) == 0)
		fire(random, random->now_ms);
}

static void a_million_of_moves_keep_all_promises(void **state)
{
	struct random random = {
		.now_ms = UINT32_MAX - 100000, .seed = 20160706};
	int moves = under("plain") ? 1000000 : 100000;
	struct entry *entry;

	(void)state;
	start_at(random.now_ms);
	while (moves-- > 0) {
		entry = &entries[any(&random, 200)];
		if (any(&random, 8) > 2) {
			add(entry, random.now_ms, any_delay(&random));
		} else if (any(&random, 4) > 0) {
			pass(&random);
		} else {
			evt_wheel_remove_(&wheel, &entry->timer);
			entry->in = false;
		}
		if (moves % 64 == 0)
			check_pending();
	}
	assert_true(random.fired > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(an_empty_wheel_has_nothing_to_wait_for),
		LEDGER_TEST(a_short_delay_is_kept_to_the_millisecond),
		LEDGER_TEST(no_delay_is_early_or_late_by_more_than_an_eighth),
		LEDGER_TEST(the_delays_where_levels_meet_are_kept),
		LEDGER_TEST(no_delay_is_one_of_a_millisecond),
		LEDGER_TEST(a_huge_delay_fires_after_half_an_hour),
		LEDGER_TEST(time_goes_on_after_its_numbers_end),
		LEDGER_TEST(adding_again_moves),
		LEDGER_TEST(what_is_removed_does_not_fire),
		LEDGER_TEST(removing_what_is_in_no_wheel_is_nothing),
		LEDGER_TEST(a_slot_lets_go_of_any_of_its_timers),
		LEDGER_TEST(what_has_fired_can_be_removed_from_its_list),
		LEDGER_TEST(what_has_fired_can_be_added_from_its_list),
		LEDGER_TEST(what_fires_is_in_the_order_of_time),
		LEDGER_TEST(ten_thousand_timers_of_one_millisecond_fire_once),
		LEDGER_TEST(timers_of_all_levels_fire_at_one_time),
		LEDGER_TEST(after_a_long_sleep_all_that_is_due_fires_at_once),
		LEDGER_TEST(a_sleep_of_weeks_is_a_sleep),
		LEDGER_TEST(a_time_read_earlier_moves_nothing_back),
		LEDGER_TEST(what_is_added_in_a_long_sleep_is_not_late_for_it),
		LEDGER_TEST(what_is_added_to_an_empty_wheel_counts_from_then),
		LEDGER_TEST(adding_does_not_lose_what_is_overdue),
		LEDGER_TEST(adding_does_not_put_off_what_is_due),
		LEDGER_TEST(a_million_of_moves_keep_all_promises),
	};

	return ledger_run("wheel", tests);
}
