/*
 * test_output_copy.c: the bytes of unsent output that are copied: which, and
 * into how much memory.
 */
/* wrap: send sendmsg sendfile */
#include "output_rig.h"

static void small_copies_share_memory(void **state)
{
	long before;
	int i;

	(void)state;
	open_line();
	before = count_allocations();
	for (i = 0; i < 1000; i++)
		assert_int_equal(copy(16), 0);
	assert_int_equal(count_allocations() - before, 1);
	send_to_the_end();
	assert_int_equal(count_allocations(), before);
	close_line();
}

static void a_copy_that_just_fits_needs_no_memory(void **state)
{
	long before;

	(void)state;
	open_line();
	assert_int_equal(copy(16384 - 25), 0);
	before = count_allocations();
	assert_int_equal(copy(25), 0);
	assert_int_equal(count_allocations(), before);
	assert_int_equal(copy(1), 0);
	assert_int_equal(count_allocations(), before + 1);
	send_to_the_end();
	close_line();
}

/* The last piece has so much room that this is what it takes, to the byte. */
static void check_room(size_t room)
{
	long before = count_allocations();

	assert_int_equal(copy(1), 0);
	assert_int_equal(count_allocations(), before + 1);
	assert_int_equal(copy(room - 1), 0);
	assert_int_equal(count_allocations(), before + 1);
}

/* A slow peer, and a few bytes between others that are not copied: they must
 * not cost 16 KiB each. */
static void after_what_is_not_copied_memory_begins_small(void **state)
{
	size_t room;

	(void)state;
	open_line();
	ref(1);
	for (room = 256; room <= 16384; room *= 2)
		check_room(room);
	check_room(16384);
	file(1);
	check_room(256);
	send_to_the_end();
	close_line();
}

static void memory_doubles_up_to_16_kib(void **state)
{
	(void)state;
	open_line();
	ref(1);
	assert_int_equal(copy(6000), 0);
	check_room(12000);
	check_room(16384);
	ref(1);
	assert_int_equal(copy(10000), 0);
	check_room(16384);
	check_room(16384);
	send_to_the_end();
	close_line();
}

static void a_copy_leaves_out_what_is_sent_at_every_place(void **state)
{
	size_t skip;

	(void)state;
	for (skip = 0; skip <= 60; skip++) {
		struct iovec parts[4];
		size_t i;

		open_line();
		assert_int_equal(copy(16384 - 25), 0); /* 25 bytes of room */
		line.len += skip;
		for (i = 0; i < 4; i++) {
			parts[i].iov_len = 20 * (i % 2) + 10;
			parts[i].iov_base = next_bytes(parts[i].iov_len);
		}
		assert_int_equal(
			evt_output_copy_(&line.output, parts, 4, skip), 0);
		assert_int_equal(unsent(), 16384 - 25 + 80 - skip);
		while (!evt_output_is_empty_(&line.output)) {
			assert_int_not_equal(send_some(), -1);
			receive();
		}
		/* The expected bytes have a hole of skip, and then lack the
		 * first skip of the parts. */
		assert_memory_equal(line.got, line.expected, 16384 - 25);
		assert_memory_equal(line.got + 16384 - 25,
			(char *)parts[0].iov_base + skip, 80 - skip);
		close_line();
	}
}

/* K01 */
static void a_copy_without_memory_adds_nothing(void **state)
{
	size_t len;

	(void)state;
	open_line();
	assert_int_equal(copy(10000), 0);
	fail_allocation(1, true);
	assert_int_equal(copy(10000), -1);
	assert_null(evt_output_ref_("x", 1, note_done, NULL));
	assert_null(evt_output_file_(line.pair[0], 0, 1));
	fail_allocation(0, false);
	line.len -= 10000;
	assert_int_equal(unsent(), 10000);
	for (len = 1; len < 10; len++)
		assert_int_equal(copy(len * 1000), 0);
	send_to_the_end();
	close_line();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(small_copies_share_memory),
		LEDGER_TEST(a_copy_that_just_fits_needs_no_memory),
		LEDGER_TEST(after_what_is_not_copied_memory_begins_small),
		LEDGER_TEST(memory_doubles_up_to_16_kib),
		LEDGER_TEST(a_copy_leaves_out_what_is_sent_at_every_place),
		LEDGER_TEST(a_copy_without_memory_adds_nothing),
	};

	return ledger_run("output_copy", tests);
}
