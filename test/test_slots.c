/*
 * test_slots.c: numbered memory: no number comes twice, whatever is taken and
 * given back, and memory that is not needed is given back.
 */
#include "ledger.h"
#include "../evt-slots-internal.h"

#define SLAB 64u /* slots that come and go together */
#define MANY (40 * SLAB)

struct element {
	struct evt_slot slot;
	char body[40];
};

static struct evt_slots slots;
static struct element *taken[MANY];

static void begin(void)
{
	evt_slots_init_(&slots, sizeof(struct element));
}

static struct element *take(void)
{
	struct element *it = evt_slots_take_(&slots);

	assert_non_null(it);
	memset(it->body, 'x', sizeof(it->body));
	return it;
}

static void take_many(unsigned nr)
{
	unsigned i;

	for (i = 0; i < nr; i++)
		taken[i] = take();
}

static void give(struct element *it)
{
	evt_slots_give_(&slots, &it->slot);
}

static void give_many(unsigned from, unsigned to)
{
	unsigned i;

	for (i = from; i < to; i++)
		give(taken[i]);
}

static struct element *find(struct evt_slot number)
{
	return evt_slots_find_(&slots, number.index, number.generation);
}

/* Taking and finding */

static void an_element_is_zeroed_each_time(void **state)
{
	static const char zeros[sizeof(taken[0]->body)];
	struct element *it;
	int i;

	(void)state;
	begin();
	for (i = 0; i < 3; i++) {
		it = evt_slots_take_(&slots);
		assert_non_null(it);
		assert_memory_equal(it->body, zeros, sizeof(zeros));
		memset(it->body, 'x', sizeof(it->body));
		give(it);
	}
	evt_slots_free_(&slots);
}

static void an_element_is_found_by_its_number_alone(void **state)
{
	unsigned i;

	(void)state;
	begin();
	take_many(3 * SLAB);
	for (i = 0; i < 3 * SLAB; i++) {
		struct evt_slot number = taken[i]->slot;

		assert_true(number.generation >= 1);
		assert_ptr_equal(find(number), taken[i]);
		number.generation++;
		assert_null(find(number));
		number.generation -= 2;
		assert_null(find(number));
	}
	give_many(0, 3 * SLAB);
	evt_slots_free_(&slots);
}

static void elements_do_not_overlap(void **state)
{
	unsigned i;

	(void)state;
	begin();
	take_many(2 * SLAB + 1);
	for (i = 0; i < 2 * SLAB + 1; i++)
		memset(taken[i]->body, (int)i, sizeof(taken[i]->body));
	for (i = 0; i < 2 * SLAB + 1; i++) {
		assert_ptr_equal(find(taken[i]->slot), taken[i]);
		assert_int_equal(taken[i]->body[0], (char)i);
		assert_int_equal(
			taken[i]->body[sizeof(taken[i]->body) - 1], (char)i);
	}
	give_many(0, 2 * SLAB + 1);
	evt_slots_free_(&slots);
}

/* A number that was never given may come from anywhere: a program may keep the
 * id of another pool's connection. */
static void nothing_is_found_where_nothing_is(void **state)
{
	static const uint32_t indexes[] = {
		0, 1, SLAB, 1u << 20, (1u << EVT_SLOT_BITS) - 1};
	size_t i;

	(void)state;
	begin();
	for (i = 0; i < sizeof(indexes) / sizeof(indexes[0]); i++)
		assert_null(evt_slots_find_(&slots, indexes[i], 1));
	assert_null(evt_slots_next_(&slots, 0));
	assert_null(evt_slots_next_(&slots, 1000));
	taken[0] = take();
	for (i = 1; i < sizeof(indexes) / sizeof(indexes[0]); i++)
		assert_null(evt_slots_find_(&slots, indexes[i], 1));
	give(taken[0]);
	evt_slots_free_(&slots);
}

static void one_that_was_given_back_is_not_found(void **state)
{
	struct evt_slot numbers[3 * SLAB];
	unsigned i;

	(void)state;
	begin();
	take_many(3 * SLAB);
	for (i = 0; i < 3 * SLAB; i++)
		numbers[i] = taken[i]->slot;
	give_many(0, 3 * SLAB);
	for (i = 0; i < 3 * SLAB; i++)
		assert_null(find(numbers[i]));
	take_many(3 * SLAB);
	for (i = 0; i < 3 * SLAB; i++)
		assert_null(find(numbers[i]));
	give_many(0, 3 * SLAB);
	evt_slots_free_(&slots);
}

/* Numbers */

static uint32_t last_generation[MANY];

static void note_number(const struct element *it)
{
	assert_true(it->slot.index < MANY);
	assert_true(it->slot.generation > last_generation[it->slot.index]);
	last_generation[it->slot.index] = it->slot.generation;
}

/* E19: the generations of an index only grow, also when its memory had been
 * given back meanwhile. */
static void no_number_comes_twice(void **state)
{
	unsigned random = 1;
	unsigned nr = 0;
	int i;

	(void)state;
	begin();
	memset(last_generation, 0, sizeof(last_generation));
	for (i = 0; i < 100000; i++) {
		/* For a while more come, then more go. */
		unsigned coming = i / 5000 % 2 == 0 ? 70 : 30;

		random = random * 1103515245 + 12345;
		if (nr == 0 || (random >> 16) % 100 < coming) {
			if (nr == MANY / 2)
				continue;
			taken[nr] = take();
			note_number(taken[nr++]);
		} else {
			unsigned at = (random >> 8) % nr;

			give(taken[at]);
			taken[at] = taken[--nr];
		}
		assert_int_equal(slots.nr_used, nr);
	}
	give_many(0, nr);
	evt_slots_free_(&slots);
}

static void memory_that_comes_again_goes_on_counting(void **state)
{
	int round;
	unsigned i;

	(void)state;
	begin();
	memset(last_generation, 0, sizeof(last_generation));
	for (round = 0; round < 50; round++) {
		take_many(5 * SLAB);
		for (i = 0; i < 5 * SLAB; i++)
			note_number(taken[i]);
		give_many(0, 5 * SLAB);
	}
	assert_int_equal(slots.nr_slabs, 5);
	evt_slots_free_(&slots);
}

static void the_first_slab_comes_again_too(void **state)
{
	(void)state;
	begin();
	take_many(3 * SLAB);
	give(taken[SLAB]);
	give_many(0, SLAB); /* the other has room: this one is not needed */
	taken[SLAB] = take();
	assert_int_equal(taken[SLAB]->slot.index, SLAB);
	taken[0] = take();
	assert_int_equal(taken[0]->slot.index, 0);
	give(taken[0]);
	give_many(SLAB, 3 * SLAB);
	evt_slots_free_(&slots);
}

/* It would take gigabytes to get there: said, not done. */
static void after_the_highest_index_nothing_is_taken(void **state)
{
	(void)state;
	begin();
	slots.nr_slabs = (1u << EVT_SLOT_BITS) / SLAB;
	slots.room = slots.nr_slabs;
	assert_null(evt_slots_take_(&slots));
	assert_int_equal(slots.nr_slabs, (1u << EVT_SLOT_BITS) / SLAB);
	begin();
}

/* Generations that are used up */

static void wear_out(struct element *it)
{
	it->slot.generation = EVT_GENERATION_MAX;
	give(it);
}

static void a_worn_out_slot_is_not_used_again(void **state)
{
	uint32_t worn;
	unsigned i;

	(void)state;
	begin();
	take_many(SLAB);
	worn = taken[7]->slot.index;
	wear_out(taken[7]);
	taken[7] = take();
	assert_int_not_equal(taken[7]->slot.index, worn);
	give_many(0, SLAB);
	take_many(3 * SLAB);
	for (i = 0; i < 3 * SLAB; i++)
		assert_int_not_equal(taken[i]->slot.index, worn);
	assert_null(evt_slots_find_(&slots, worn, EVT_GENERATION_MAX));
	assert_null(evt_slots_find_(&slots, worn, 0));
	give_many(0, 3 * SLAB);
	evt_slots_free_(&slots);
}

static void the_last_generation_is_still_good(void **state)
{
	struct element *it;
	struct evt_slot number;

	(void)state;
	begin();
	it = take();
	it->slot.generation = EVT_GENERATION_MAX - 1;
	number = it->slot;
	give(it);
	it = take();
	assert_int_equal(it->slot.index, number.index);
	assert_int_equal(it->slot.generation, EVT_GENERATION_MAX);
	assert_ptr_equal(find(it->slot), it);
	give(it);
	it = take();
	assert_int_not_equal(it->slot.index, number.index);
	give(it);
	evt_slots_free_(&slots);
}

static void a_slab_that_is_worn_out_whole_is_passed_over(void **state)
{
	unsigned i;

	(void)state;
	begin();
	take_many(2 * SLAB);
	for (i = 0; i < SLAB; i++)
		wear_out(taken[i]);
	assert_int_equal(slots.nr_used, SLAB);
	give_many(SLAB, 2 * SLAB);
	take_many(4 * SLAB);
	for (i = 0; i < 4 * SLAB; i++)
		assert_true(taken[i]->slot.index >= SLAB);
	give_many(0, 4 * SLAB);
	evt_slots_free_(&slots);
}

/* The others of a slab must not come again with the numbers that they had. */
static void beside_a_worn_out_slot_nothing_is_forgotten(void **state)
{
	int round;
	unsigned i;

	(void)state;
	begin();
	memset(last_generation, 0, sizeof(last_generation));
	take_many(2 * SLAB);
	for (i = 0; i < 2 * SLAB; i++)
		note_number(taken[i]);
	wear_out(taken[3]);
	last_generation[3] = EVT_GENERATION_MAX;
	give_many(0, 3);
	give_many(4, 2 * SLAB);
	for (round = 0; round < 20; round++) {
		take_many(3 * SLAB);
		for (i = 0; i < 3 * SLAB; i++)
			note_number(taken[i]);
		give_many(0, 3 * SLAB);
	}
	evt_slots_free_(&slots);
}

/* Going round */

static void going_round_meets_each_once_in_order(void **state)
{
	struct element *it;
	uint32_t from = 0;
	unsigned met = 0;
	unsigned i;

	(void)state;
	begin();
	take_many(5 * SLAB);
	for (i = 0; i < 5 * SLAB; i += 3)
		give(taken[i]);
	while ((it = evt_slots_next_(&slots, from))) {
		assert_true(it->slot.index >= from);
		assert_int_not_equal(it->slot.index % 3, 0);
		from = it->slot.index + 1;
		met++;
	}
	assert_int_equal(met, slots.nr_used);
	while ((it = evt_slots_next_(&slots, 0)))
		give(it);
	evt_slots_free_(&slots);
}

static void what_is_met_may_be_given_back(void **state)
{
	struct element *it;
	uint32_t from = 0;
	unsigned met = 0;

	(void)state;
	begin();
	take_many(10 * SLAB);
	while ((it = evt_slots_next_(&slots, from))) {
		from = it->slot.index + 1;
		give(it);
		met++;
	}
	assert_int_equal(met, 10 * SLAB);
	assert_int_equal(slots.nr_used, 0);
	evt_slots_free_(&slots);
}

static void going_round_starts_anywhere(void **state)
{
	uint32_t from;

	(void)state;
	begin();
	take_many(3 * SLAB);
	give_many(0, 70);
	give_many(71, 150);
	give_many(151, 3 * SLAB);
	for (from = 0; from < 4 * SLAB; from++) {
		const struct element *expected = from <= 70 ? taken[70]
			: from <= 150                       ? taken[150]
							    : NULL;

		assert_ptr_equal(evt_slots_next_(&slots, from), expected);
	}
	give(taken[70]);
	give(taken[150]);
	evt_slots_free_(&slots);
}

/* Memory */

static void memory_is_given_back_but_for_one_slab(void **state)
{
	long before = count_allocations();

	(void)state;
	begin();
	take_many(MANY);
	assert_true(count_allocations() >= before + (long)(MANY / SLAB));
	give_many(0, MANY);
	assert_true(count_allocations() <= before + 2);
	evt_slots_free_(&slots);
	assert_int_equal(count_allocations(), before);
	/* And it can be used again. */
	give(take());
	evt_slots_free_(&slots);
	assert_int_equal(count_allocations(), before);
}

/* Also when it is the first of a slab: that is no reason to make one each
 * time. */
static void one_that_comes_and_goes_allocates_nothing(void **state)
{
	unsigned nr;
	int i;

	(void)state;
	begin();
	for (nr = 0; nr <= 2 * SLAB; nr++) {
		taken[nr] = take();
		fail_allocation(1, true);
		for (i = 0; i < 100; i++) {
			give(taken[nr]);
			taken[nr] = evt_slots_take_(&slots);
			if (!taken[nr])
				break;
		}
		fail_allocation(0, false);
		assert_non_null(taken[nr]);
	}
	give_many(0, 2 * SLAB + 1);
	evt_slots_free_(&slots);
}

/* K01: each allocation fails once, at each size of the table. */
static void without_memory_nothing_is_taken_or_lost(void **state)
{
	unsigned refused = 0;
	unsigned nr;
	int n;

	(void)state;
	begin();
	for (nr = 0; nr < 20 * SLAB; nr++) {
		for (n = 1; n <= 3 && nr % SLAB == 0; n++) {
			fail_allocation(n, false);
			taken[nr] = evt_slots_take_(&slots);
			refused += taken[nr] == NULL;
			fail_allocation(0, false);
			if (taken[nr])
				give(taken[nr]);
		}
		taken[nr] = take();
		assert_int_equal(slots.nr_used, nr + 1);
	}
	assert_true(refused >= 20);
	for (nr = 0; nr < 20 * SLAB; nr++)
		assert_ptr_equal(find(taken[nr]->slot), taken[nr]);
	give_many(0, 20 * SLAB);
	evt_slots_free_(&slots);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(an_element_is_zeroed_each_time),
		LEDGER_TEST(an_element_is_found_by_its_number_alone),
		LEDGER_TEST(elements_do_not_overlap),
		LEDGER_TEST(nothing_is_found_where_nothing_is),
		LEDGER_TEST(one_that_was_given_back_is_not_found),
		LEDGER_TEST(no_number_comes_twice),
		LEDGER_TEST(memory_that_comes_again_goes_on_counting),
		LEDGER_TEST(the_first_slab_comes_again_too),
		LEDGER_TEST(after_the_highest_index_nothing_is_taken),
		LEDGER_TEST(a_worn_out_slot_is_not_used_again),
		LEDGER_TEST(the_last_generation_is_still_good),
		LEDGER_TEST(a_slab_that_is_worn_out_whole_is_passed_over),
		LEDGER_TEST(beside_a_worn_out_slot_nothing_is_forgotten),
		LEDGER_TEST(going_round_meets_each_once_in_order),
		LEDGER_TEST(what_is_met_may_be_given_back),
		LEDGER_TEST(going_round_starts_anywhere),
		LEDGER_TEST(memory_is_given_back_but_for_one_slab),
		LEDGER_TEST(one_that_comes_and_goes_allocates_nothing),
		LEDGER_TEST(without_memory_nothing_is_taken_or_lost),
	};

	return ledger_run("slots", tests);
}
