/*
 * test_output.c: unsent output: what was added arrives in that order, however
 * little the kernel takes at a time.
 */
/* wrap: send sendmsg sendfile */
#include "ledger.h"
#include "inject.h"
#include "../evt-output-internal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#define ROOM (1 << 20)

static struct inject sending;
static struct inject filing;
static size_t most;     /* that a call takes; 0: as the kernel does */
static bool swallows;   /* whatever there is, and sends nothing */
static int last_flags;  /* of send or sendmsg */
static size_t nr_parts; /* of the last that went; 0: it was send */

ssize_t __real_send(int fd, const void *data, size_t len, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_sendfile(int out, int in, off_t *offset, size_t len);

static size_t length(const struct msghdr *msg)
{
	size_t len = 0;
	size_t i;

	for (i = 0; i < msg->msg_iovlen; i++)
		len += msg->msg_iov[i].iov_len;
	return len;
}

/* A copy of the message that has no more bytes than most. */
static void shorten(struct msghdr *msg, struct iovec *parts)
{
	size_t left = most;
	size_t i;

	for (i = 0; i < msg->msg_iovlen; i++) {
		parts[i] = msg->msg_iov[i];
		if (parts[i].iov_len > left)
			parts[i].iov_len = left;
		left -= parts[i].iov_len;
	}
	msg->msg_iov = parts;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct msghdr shorter = *msg;
	struct iovec parts[128];

	last_flags = flags;
	if (injected(&sending))
		return -1;
	nr_parts = msg->msg_iovlen;
	if (swallows)
		return (ssize_t)length(msg);
	if (most > 0 && msg->msg_iovlen <= 128)
		shorten(&shorter, parts);
	return __real_sendmsg(fd, &shorter, flags);
}

ssize_t __wrap_send(int fd, const void *data, size_t len, int flags)
{
	last_flags = flags;
	if (injected(&sending))
		return -1;
	nr_parts = 0;
	if (swallows)
		return (ssize_t)len;
	return __real_send(
		fd, data, most > 0 && len > most ? most : len, flags);
}

ssize_t __wrap_sendfile(int out, int in, off_t *offset, size_t len)
{
	if (injected(&filing))
		return -1;
	if (swallows) {
		*offset += (off_t)len;
		return (ssize_t)len;
	}
	return __real_sendfile(
		out, in, offset, most > 0 && len > most ? most : len);
}

/* What is sent, and what has arrived of it. */

static struct {
	struct evt_output output;
	struct evt_done done;
	int pair[2];
	char expected[ROOM];
	size_t len;
	char got[ROOM];
	size_t arrived;
	int nr_refs;
	int order[1024]; /* numbers of the refs that are done */
	int nr_done;
} line;

static void open_line(void)
{
	memset(&line, 0, sizeof(line));
	most = 0;
	swallows = false;
	/* What a test that failed has left must not hold up the next. */
	end_injection(&sending);
	end_injection(&filing);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			0, line.pair),
		0);
}

static void close_line(void)
{
	evt_output_clear_(&line.output, &line.done);
	evt_done_call_(&line.done);
	if (line.pair[0] != -1)
		close(line.pair[0]);
	if (line.pair[1] != -1)
		close(line.pair[1]);
}

/* The next len bytes that are to arrive. */
static char *next_bytes(size_t len)
{
	char *bytes = line.expected + line.len;
	size_t i;

	assert_true(line.len + len <= ROOM);
	for (i = 0; i < len; i++)
		bytes[i] = (char)((line.len + i) * 7 + (line.len + i) / 251);
	line.len += len;
	return bytes;
}

static int copy(size_t len)
{
	struct iovec part = {.iov_base = next_bytes(len), .iov_len = len};

	return evt_output_copy_(&line.output, &part, 1, 0);
}

static void note_done(void *arg)
{
	line.order[line.nr_done++] = (int)(intptr_t)arg;
}

static void ref(size_t len)
{
	struct evt_piece *piece = evt_output_ref_(next_bytes(len), len,
		note_done, (void *)(intptr_t)line.nr_refs++);

	assert_non_null(piece);
	evt_output_add_(&line.output, piece, 0);
}

static int new_file(size_t before, const char *bytes, size_t len)
{
	int fd = memfd_create("test_output", MFD_CLOEXEC);

	assert_int_not_equal(fd, -1);
	assert_int_equal(ftruncate(fd, (off_t)before), 0);
	assert_int_equal(pwrite(fd, bytes, len, (off_t)before), (ssize_t)len);
	return fd;
}

/* A part in the middle of a file; its descriptor. */
static int file(size_t len)
{
	int fd = new_file(100, next_bytes(len), len);
	struct evt_piece *piece;

	assert_int_equal(ftruncate(fd, (off_t)(100 + len + 100)), 0);
	piece = evt_output_file_(fd, 100, (int64_t)len);
	assert_non_null(piece);
	evt_output_add_(&line.output, piece, 0);
	return fd;
}

static size_t unsent(void)
{
	return line.output.bytes + (size_t)line.output.file_bytes;
}

static void receive(void)
{
	ssize_t len;

	while ((len = recv(line.pair[1], line.got + line.arrived,
			ROOM - line.arrived, 0)) > 0)
		line.arrived += (size_t)len;
}

static ssize_t send_some(void)
{
	size_t sent;
	int result = evt_output_send_(
		&line.output, line.pair[0], &line.done, &sent);

	assert_true(result == 0 || result == -1);
	return result == -1 && errno != EAGAIN ? -1 : (ssize_t)sent;
}

/* Sends and receives until nothing is left, and looks at each step whether the
 * figures are right. */
static void send_to_the_end(void)
{
	while (!evt_output_is_empty_(&line.output)) {
		size_t before = unsent();
		ssize_t sent = send_some();

		assert_int_not_equal(sent, -1);
		assert_int_equal(before - unsent(), sent);
		receive();
		assert_int_equal(line.arrived, line.len - unsent());
	}
	assert_int_equal(unsent(), 0);
	assert_int_equal(line.arrived, line.len);
	assert_memory_equal(line.got, line.expected, line.len);
}

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

/* Copies */

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
		LEDGER_TEST(small_copies_share_memory),
		LEDGER_TEST(a_copy_that_just_fits_needs_no_memory),
		LEDGER_TEST(after_what_is_not_copied_memory_begins_small),
		LEDGER_TEST(memory_doubles_up_to_16_kib),
		LEDGER_TEST(a_copy_leaves_out_what_is_sent_at_every_place),
		LEDGER_TEST(a_copy_without_memory_adds_nothing),
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
