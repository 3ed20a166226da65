/*
 * test_output.c: unsent output: what was added arrives in that order, however
 * little the kernel takes at a time.
 */
/* wrap: send sendmsg sendfile */
#include "output_rig.h"

#include <signal.h>

static void all_done_in_order(void)
{
	int i;

	evt_done_call_(&line.done);
	assert_int_equal(line.nr_done, line.nr_refs);
	for (i = 0; i < line.nr_refs; i++)
		assert_int_equal(line.order[i], i);
}

static void add_mixture(void)
{
	assert_int_equal(copy(10), 0);
	ref(20);
	file(30);
	assert_int_equal(copy(5), 0);
	assert_int_equal(copy(6), 0);
	ref(0);
	ref(1);
	file(1);
	file(2);
	ref(0);
	file(7);
	assert_int_equal(copy(8), 0);
	ref(0);
}

/* Order */

static void pieces_of_all_kinds_arrive_in_order(void **state)
{
	(void)state;
	open_line();
	add_mixture();
	send_to_the_end();
	all_done_in_order();
	close_line();
}

/* E10 */
static void however_little_goes_at_a_time_the_order_stays(void **state)
{
	size_t at_once;

	(void)state;
	for (at_once = 1; at_once < 90; at_once++) {
		open_line();
		most = at_once;
		add_mixture();
		send_to_the_end();
		all_done_in_order();
		close_line();
	}
}

static void what_is_added_while_it_goes_comes_after(void **state)
{
	int i;

	(void)state;
	open_line();
	most = 13;
	for (i = 0; i < 300; i++) {
		assert_int_equal(copy((size_t)i % 50), 0);
		if (i % 3 == 0)
			ref((size_t)i % 40);
		if (i % 7 == 0)
			file(1 + (size_t)i % 30);
		if (i % 2 == 0)
			assert_int_not_equal(send_some(), -1);
		receive();
	}
	send_to_the_end();
	all_done_in_order();
	close_line();
}

static void more_pieces_than_one_call_takes_arrive(void **state)
{
	int i;

	(void)state;
	open_line();
	for (i = 0; i < 300; i++)
		ref((size_t)i % 5);
	send_to_the_end();
	all_done_in_order();
	close_line();
}

/* The array of the parts is on the stack. */
static void one_call_has_up_to_64_parts(void **state)
{
	static const size_t expected[] = {64, 64, 2, 0};
	size_t i;

	(void)state;
	open_line();
	for (i = 0; i < 130; i++)
		ref(1);
	for (i = 0; i < 4; i++) {
		if (expected[i] == 0)
			ref(1);
		inject(&sending, EAGAIN, 1, FOR_EVER);
		assert_int_equal(send_some(), expected[i] ? expected[i] : 1);
		end_injection(&sending);
		receive();
		assert_int_equal(nr_parts, expected[i]);
	}
	send_to_the_end();
	close_line();
}

static void a_slow_peer_gets_a_megabyte_whole(void **state)
{
	(void)state;
	open_line();
	assert_int_equal(copy(300000), 0);
	ref(300000);
	file(300000);
	assert_int_equal(copy(100000), 0);
	send_to_the_end();
	all_done_in_order();
	close_line();
}

/* Done */

static void done_is_due_with_the_last_byte_and_not_before(void **state)
{
	int i;

	(void)state;
	open_line();
	most = 1;
	ref(10);
	ref(10);
	for (i = 1; i <= 20; i++) {
		inject(&sending, EAGAIN, 1, FOR_EVER);
		assert_int_equal(send_some(), 1);
		end_injection(&sending);
		evt_done_call_(&line.done);
		assert_int_equal(line.nr_done, i / 10);
	}
	close_line();
}

static void a_piece_that_was_sent_in_part_goes_on(void **state)
{
	char *bytes;
	struct evt_piece *piece;

	(void)state;
	open_line();
	bytes = next_bytes(100);
	assert_int_equal(write(line.pair[0], bytes, 40), 40);
	piece = evt_output_ref_(bytes, 100, NULL, NULL);
	evt_output_add_(&line.output, piece, 40);
	assert_int_equal(unsent(), 60);
	receive();
	send_to_the_end();
	assert_null(line.done.first); /* done was NULL: nothing to call */
	close_line();
}

static void add_one_more(void *arg)
{
	note_done(arg);
	if (line.nr_done < 5)
		evt_done_add_(&line.done,
			evt_output_ref_(NULL, 0, add_one_more, arg));
}

/* A done that writes again must not keep the worker for ever. */
static void what_done_adds_is_called_the_next_time(void **state)
{
	int i;

	(void)state;
	open_line();
	evt_done_add_(&line.done, evt_output_ref_(NULL, 0, add_one_more, NULL));
	for (i = 1; i <= 5; i++) {
		evt_done_call_(&line.done);
		assert_int_equal(line.nr_done, i);
	}
	assert_null(line.done.first);
	assert_null(line.done.last);
	close_line();
}

static void what_is_thrown_away_is_done_and_closed(void **state)
{
	int fd;

	(void)state;
	open_line();
	assert_int_equal(copy(50), 0);
	ref(10);
	fd = file(10);
	ref(10);
	assert_int_not_equal(fcntl(fd, F_GETFD), -1);
	evt_output_clear_(&line.output, &line.done);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_true(evt_output_is_empty_(&line.output));
	assert_int_equal(unsent(), 0);
	all_done_in_order();
	/* And it can be used again. */
	line.len = 0;
	add_mixture();
	send_to_the_end();
	close_line();
}

/* What the kernel says */

static void a_full_socket_takes_what_it_can_and_says_so(void **state)
{
	ssize_t sent;

	(void)state;
	open_line();
	ref(ROOM);
	sent = send_some();
	assert_true(sent > 0 && sent < ROOM);
	assert_int_equal(unsent(), ROOM - sent);
	errno = 0;
	assert_int_equal(send_some(), 0);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(unsent(), ROOM - sent);
	receive();
	send_to_the_end();
	close_line();
}

/* E01: SIGPIPE has its default here. */
static void a_peer_that_left_is_an_error_and_no_signal(void **state)
{
	(void)state;
	open_line();
	signal(SIGPIPE, SIG_DFL);
	close(line.pair[1]);
	line.pair[1] = -1;
	ref(100);
	assert_int_equal(send_some(), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(unsent(), 100);
	close_line();
}

/* E09: and nothing is lost by it. */
static void an_error_leaves_everything_as_it_was(void **state)
{
	static const int errors[] = {ENOBUFS, ENOMEM, EIO, EHOSTUNREACH};
	size_t i;

	(void)state;
	open_line();
	add_mixture();
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		inject(&sending, errors[i], 0, 1);
		assert_int_equal(send_some(), -1);
		assert_int_equal(errno, errors[i]);
		assert_int_equal(unsent(), line.len);
	}
	send_to_the_end();
	all_done_in_order();
	close_line();
}

/* E10 */
static void an_interrupted_call_is_repeated(void **state)
{
	(void)state;
	open_line();
	inject(&sending, EINTR, 0, 5);
	inject(&filing, EINTR, 0, 5);
	add_mixture();
	send_to_the_end();
	assert_true(atomic_load(&sending.calls) > 5);
	assert_true(atomic_load(&filing.calls) > 5);
	close_line();
}

/* Files */

static void a_file_is_closed_when_it_is_sent(void **state)
{
	int last;
	int fd;

	(void)state;
	open_line();
	fd = file(100);
	last = file(1);
	assert_int_not_equal(fcntl(fd, F_GETFD), -1);
	send_to_the_end();
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_int_equal(fcntl(last, F_GETFD), -1);
	close_line();
}

static void a_file_that_ends_early_is_an_error(void **state)
{
	int fd;

	(void)state;
	open_line();
	fd = new_file(0, "0123456789", 10);
	evt_output_add_(&line.output, evt_output_file_(fd, 4, 100), 0);
	assert_int_equal(send_some(), -1);
	assert_int_equal(errno, ENODATA);
	assert_int_equal(unsent(), 94);
	receive();
	assert_int_equal(line.arrived, 6);
	assert_memory_equal(line.got, "456789", 6);
	close_line();
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

/* So that a head and its file share a packet, and the last bytes do not wait
 * for more. */
static void only_what_a_file_follows_is_marked_more(void **state)
{
	(void)state;
	open_line();
	assert_int_equal(copy(10), 0);
	ref(10);
	file(10);
	send_to_the_end();
	assert_int_not_equal(last_flags & MSG_MORE, 0);
	assert_int_equal(copy(10), 0);
	ref(10);
	send_to_the_end();
	assert_int_equal(last_flags & MSG_MORE, 0);
	assert_int_not_equal(last_flags & MSG_NOSIGNAL, 0);
	close_line();
}

/* A peer that takes all there is must not keep the worker from the others. */
static void one_turn_has_an_end(void **state)
{
	int64_t left = (int64_t)1 << 40;
	ssize_t sent;
	int fd;

	(void)state;
	open_line();
	swallows = true;
	fd = new_file(0, "x", 1);
	evt_output_add_(&line.output, evt_output_file_(fd, 0, left), 0);
	sent = send_some();
	assert_int_equal(sent, 1 << 20);
	assert_int_equal(line.output.file_bytes, left - sent);
	close_line();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(pieces_of_all_kinds_arrive_in_order),
		LEDGER_TEST(however_little_goes_at_a_time_the_order_stays),
		LEDGER_TEST(what_is_added_while_it_goes_comes_after),
		LEDGER_TEST(more_pieces_than_one_call_takes_arrive),
		LEDGER_TEST(one_call_has_up_to_64_parts),
		LEDGER_TEST(a_slow_peer_gets_a_megabyte_whole),
		LEDGER_TEST(done_is_due_with_the_last_byte_and_not_before),
		LEDGER_TEST(a_piece_that_was_sent_in_part_goes_on),
		LEDGER_TEST(what_done_adds_is_called_the_next_time),
		LEDGER_TEST(what_is_thrown_away_is_done_and_closed),
		LEDGER_TEST(a_full_socket_takes_what_it_can_and_says_so),
		LEDGER_TEST(a_peer_that_left_is_an_error_and_no_signal),
		LEDGER_TEST(an_error_leaves_everything_as_it_was),
		LEDGER_TEST(an_interrupted_call_is_repeated),
		LEDGER_TEST(a_file_is_closed_when_it_is_sent),
		LEDGER_TEST(a_file_that_ends_early_is_an_error),
		LEDGER_TEST(only_what_a_file_follows_is_marked_more),
		LEDGER_TEST(one_turn_has_an_end),
	};

	return ledger_run("output", tests);
}
