/*
 * test_chat.c: the example chat, with socat and nc; and with 500 at once.
 */
#include "ledger.h"
#include "programs.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

static int end_all(void **state)
{
	end_programs();
	return ledger_close(state);
}

#define PROGRAM_TEST(fn)                                   \
	{                                                  \
#fn, fn, ledger_open, end_all, (void *)#fn \
	}

static bool join(int fd, const char *name)
{
	char line[64];

	if (!receives(fd, "* your name?\n") || !says(fd, name) ||
		!says(fd, "\n"))
		return false;
	snprintf(line, sizeof(line), "* hello %s (/who, /quit)\n", name);
	return receives(fd, line);
}

/* A chatter that is socat, and has a name. */
static int chatter(const char *name)
{
	int fd = start_client("socat - TCP:127.0.0.1:%d", server.port);

	assert_true(join(fd, name));
	return fd;
}

static void start_chat(const char *workers)
{
	assert_true(start_server(
			    "examples/chat", "tcp://127.0.0.1:0", workers) > 0);
}

static void end_chat(void)
{
	assert_int_equal(end_server(SIGTERM), 0);
	assert_null(strstr(said, "error"));
	assert_null(strstr(said, "warn"));
}

static void chat_answers_as_its_comment_says(void **state)
{
	int alice;
	int bob;

	(void)state;
	start_chat(NULL);
	alice = start_client("nc -N localhost %d", server.port);
	assert_true(join(alice, "alice"));
	bob = start_client("nc -N localhost %d", server.port);
	assert_true(join(bob, "bob"));
	assert_true(receives(alice, "* bob has come\n"));
	assert_true(says(alice, "hello\n"));
	assert_true(receives(bob, "alice: hello\n"));
	assert_true(says(bob, "/quit\n"));
	assert_true(receives(alice, "* bob has left (quit)\n"));
	assert_int_equal(end_client(bob), 0);
	assert_int_equal(end_client(alice), 0);
	end_chat();
}

/* With as many members as workers each has one of its own. */
static void all_hear_all(const char *option, int members)
{
	char text[64];
	int fds[4];
	int i;
	int k;

	start_chat(option);
	for (i = 0; i < members; i++) {
		snprintf(text, sizeof(text), "m%d", i);
		fds[i] = chatter(text);
		snprintf(text, sizeof(text), "* m%d has come\n", i);
		for (k = 0; k < i; k++)
			assert_true(receives(fds[k], text));
	}
	for (i = 0; i < members; i++) {
		assert_true(says(fds[i], "a line\r\n"));
		snprintf(text, sizeof(text), "m%d: a line\n", i);
		for (k = 0; k < members; k++)
			if (k != i)
				assert_true(receives(fds[k], text));
	}
	for (i = 0; i < members; i++) {
		assert_int_equal(end_client(fds[i]), 0);
		snprintf(text, sizeof(text), "* m%d has left (peer)\n", i);
		for (k = i + 1; k < members; k++)
			assert_true(receives(fds[k], text));
	}
	end_chat();
}

static void all_hear_all_on_one_worker(void **state)
{
	(void)state;
	all_hear_all("-t1", 4);
}

static void all_hear_all_on_two_workers(void **state)
{
	(void)state;
	all_hear_all("-t2", 4);
}

static void all_hear_all_on_four_workers(void **state)
{
	(void)state;
	all_hear_all("-t4", 4);
}

static void who_lists_everybody(void **state)
{
	char line[64];
	int alice;
	int bob;

	(void)state;
	start_chat("-t2");
	alice = chatter("alice");
	assert_true(says(alice, "/who\n"));
	assert_true(receives(alice, "* here: alice\n"));
	bob = chatter("bob");
	assert_true(says(bob, "/who\n"));
	assert_true(read_line(bob, line, sizeof(line)));
	assert_int_equal(strlen(line), strlen("* here: alice bob\n"));
	assert_non_null(strstr(line, " alice"));
	assert_non_null(strstr(line, " bob"));
	assert_true(receives(alice, "* bob has come\n"));
	assert_int_equal(end_client(bob), 0);
	assert_true(receives(alice, "* bob has left (peer)\n"));
	assert_true(says(alice, "/who\n"));
	assert_true(receives(alice, "* here: alice\n"));
	assert_true(says(alice, "/where\n"));
	assert_true(receives(alice, "* only /who and /quit\n"));
	assert_int_equal(end_client(alice), 0);
	end_chat();
}

static void a_name_is_had_once_on_all_workers(void **state)
{
	static const char no[] = "* not that: 1 to 20 letters, digits or signs "
				 "that nobody else has\n";
	static const char *const bad[] = {"bob\n", "BOB\r\n", "a b\n",
		"123456789012345678901\n", "/who\n", "/bob\n",
		"na\xc3\xafve\n"};
	size_t i;
	int first;
	int second;

	(void)state;
	start_chat("-t2");
	first = chatter("bob");
	second = start_client("socat - TCP:127.0.0.1:%d", server.port);
	assert_true(receives(second, "* your name?\n"));
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_true(says(second, bad[i]));
		assert_true(receives(second, no));
	}
	assert_true(says(second, "\n12345678901234567890\n"));
	assert_true(receives(
		second, "* hello 12345678901234567890 (/who, /quit)\n"));
	assert_true(receives(first, "* 12345678901234567890 has come\n"));
	assert_int_equal(end_client(first), 0);
	assert_int_equal(end_client(second), 0);
	end_chat();
}

static void a_name_is_free_when_its_owner_has_left(void **state)
{
	int other;
	int i;

	(void)state;
	start_chat("-t2");
	other = chatter("other");
	for (i = 0; i < 3; i++) {
		int bob = chatter("bob");

		assert_true(receives(other, "* bob has come\n"));
		assert_true(says(bob, "/quit\nnever shown\n"));
		assert_true(receives(other, "* bob has left (quit)\n"));
		assert_int_equal(end_client(bob), 0);
	}
	assert_int_equal(end_client(other), 0);
	end_chat();
}

/* In one piece, in many; with both kinds of ends; with what a terminal would
 * obey. */
static void lines_are_shown_clean_and_in_pieces_of_1000(void **state)
{
	char piece[1024];
	char text[2504];
	int alice;
	int bob;

	(void)state;
	start_chat("-t2");
	alice = chatter("alice");
	bob = chatter("bob");
	assert_true(receives(alice, "* bob has come\n"));
	assert_true(
		says(bob, "one\ntwo\r\n\n\r\nthr\x1b[2J\x7f\aee\n\xc3\xa9\n"));
	assert_true(receives(alice, "bob: one\n"));
	assert_true(receives(alice, "bob: two\n"));
	assert_true(receives(alice, "bob: thr[2Jee\n"));
	assert_true(receives(alice, "bob: \xc3\xa9\n"));
	memset(text, 'x', 2500);
	memcpy(text + 2500, "y\n", 3);
	assert_true(says(bob, text));
	snprintf(piece, sizeof(piece), "bob: %.1000s\n", text);
	assert_true(receives(alice, piece));
	assert_true(receives(alice, piece));
	snprintf(piece, sizeof(piece), "bob: %s", text + 2000);
	assert_true(receives(alice, piece));
	assert_int_equal(end_client(alice), 0);
	assert_int_equal(end_client(bob), 0);
	end_chat();
}

/* More at once than the room holds: the speaker waits, nothing is lost. */
static void a_burst_arrives_whole_and_in_order(void **state)
{
	const int lines = 5000;
	char expected[64];
	char all[5000 * 6];
	size_t used = 0;
	int alice;
	int bob;
	int i;

	(void)state;
	start_chat("-t2");
	alice = chatter("alice");
	bob = chatter("bob");
	for (i = 0; i < lines; i++)
		used += (size_t)snprintf(
			all + used, sizeof(all) - used, "%d\n", i);
	assert_true(send_all(bob, all, used));
	assert_true(receives(alice, "* bob has come\n"));
	for (i = 0; i < lines; i++) {
		snprintf(expected, sizeof(expected), "bob: %d\n", i);
		assert_true(receives(alice, expected));
	}
	assert_int_equal(end_client(bob), 0);
	assert_true(receives(alice, "* bob has left (peer)\n"));
	assert_int_equal(end_client(alice), 0);
	end_chat();
}

/* alice talks, bob reads, and slow does not: true once he is dropped. */
static bool is_dropped(int alice, int bob)
{
	char line[1024];
	char text[960];
	int i;

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\n';
	for (i = 0; i < 5000; i++) {
		if (!send_all(alice, text, sizeof(text)) ||
			!read_line(bob, line, sizeof(line)))
			return false;
		if (strcmp(line, "* slow has left (overflow)\n") == 0)
			return read_line(bob, line, sizeof(line));
	}
	return false;
}

/* A unix socket, since less fits into the kernel's buffers. */
static void a_slow_reader_is_dropped_and_the_others_go_on(void **state)
{
	static const char *const names[] = {"slow", "alice", "bob"};
	char url[64];
	int fds[3];
	int i;

	(void)state;
	snprintf(url, sizeof(url), "unix:@evt-chat-%d", (int)getpid());
	assert_int_equal(start_server("examples/chat", url, "-t2"), 0);
	for (i = 0; i < 3; i++) {
		fds[i] = start_client(
			"socat - ABSTRACT-CONNECT:%s", strchr(url, '@') + 1);
		assert_true(join(fds[i], names[i]));
	}
	assert_true(receives(fds[1], "* bob has come\n"));
	assert_true(is_dropped(fds[1], fds[2]));
	assert_true(receives(fds[1], "* slow has left (overflow)\n"));
	assert_true(says(fds[1], "still here\n"));
	assert_true(receives(fds[2], "alice: still here\n"));
	assert_true(says(fds[2], "me too\n"));
	assert_true(receives(fds[1], "bob: me too\n"));
	(void)end_client(fds[0]);
	assert_int_equal(end_client(fds[1]), 0);
	assert_int_equal(end_client(fds[2]), 0);
	assert_int_equal(end_server(SIGTERM), 0); /* with a line about slow */
}

static void a_stop_tells_everybody(void **state)
{
	int alice;
	int bob;
	int nameless;

	(void)state;
	start_chat("-t2");
	alice = chatter("alice");
	bob = chatter("bob");
	nameless = start_client("nc -N 127.0.0.1 %d", server.port);
	assert_true(receives(nameless, "* your name?\n"));
	assert_true(receives(alice, "* bob has come\n"));
	end_chat();
	assert_true(receives(alice, "* the server stops\n"));
	assert_true(receives(bob, "* the server stops\n"));
	assert_true(receives(nameless, "* the server stops\n"));
	assert_true(at_end(alice));
	assert_int_equal(end_client(alice), 0);
	assert_int_equal(end_client(bob), 0);
	assert_int_equal(end_client(nameless), 0);
}

static void a_reset_is_told_as_such(void **state)
{
	int alice;
	int fd;

	(void)state;
	start_chat("-t2");
	alice = chatter("alice");
	fd = connect_to(server.port);
	assert_true(join(fd, "bob"));
	assert_true(receives(alice, "* bob has come\n"));
	close_with_reset(fd);
	assert_true(receives(alice, "* bob has left (reset)\n"));
	assert_int_equal(end_client(alice), 0);
	end_chat();
}

/* A crowd: sockets of this process, read as poll says. */

#define CROWD 500

static struct member {
	int fd;
	bool greeted;
	size_t used; /* of a line that has not wholly come */
	char line[128];
	bool heard[CROWD]; /* whom */
} crowd[CROWD];

static struct {
	int greeted;
	int heard;   /* lines of others, in all */
	int strange; /* lines that should not have come */
} total;

static void note_line(struct member *member, const char *line)
{
	char *end = NULL;
	long who = line[0] == 'm' ? strtol(line + 1, &end, 10) : -1;

	if (strncmp(line, "* hello m", 9) == 0 && !member->greeted) {
		member->greeted = true;
		total.greeted++;
	} else if (who >= 0 && who < CROWD && !member->heard[who] &&
		&crowd[who] != member && strcmp(end, ": here I am") == 0) {
		member->heard[who] = true;
		total.heard++;
	} else if (line[0] != '*') {
		total.strange++;
	}
}

/* Reads what there is; false at the end. */
static bool read_member(struct member *member)
{
	char bytes[16384];
	ssize_t len = recv(member->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	ssize_t i;

	for (i = 0; i < len; i++) {
		member->line[member->used] = bytes[i];
		if (bytes[i] == '\n') {
			member->line[member->used] = '\0';
			note_line(member, member->line);
			member->used = 0;
		} else if (member->used < sizeof(member->line) - 2) {
			member->used++;
		}
	}
	return len > 0 || (len == -1 && errno == EAGAIN);
}

/* Reads all members until *count is goal. */
static bool read_until(int nr, const int *count, int goal)
{
	int64_t until = now_ms() + 20000 * slowness();
	struct pollfd fds[CROWD];
	int i;

	while (*count < goal && now_ms() < until) {
		for (i = 0; i < nr; i++)
			fds[i] = (struct pollfd){crowd[i].fd, POLLIN, 0};
		poll(fds, (nfds_t)nr, 1000);
		for (i = 0; i < nr; i++)
			if (fds[i].revents && !read_member(&crowd[i]))
				return false;
	}
	return *count == goal;
}

static bool crowd_comes(int nr)
{
	char name[16];
	int i;

	memset(crowd, 0, sizeof(crowd));
	memset(&total, 0, sizeof(total));
	for (i = 0; i < nr; i++) {
		crowd[i].fd = connect_to(server.port);
		snprintf(name, sizeof(name), "m%d\n", i);
		if (!says(crowd[i].fd, name))
			return false;
	}
	return read_until(nr, &total.greeted, nr);
}

static void each_of_500_hears_the_499_others(void **state)
{
	const int nr = slowness() == 1 ? CROWD : CROWD / 5;
	int64_t start;
	int i;

	(void)state;
	start_chat("-t4");
	assert_true(crowd_comes(nr));
	start = now_ms();
	for (i = 0; i < nr; i++)
		assert_true(says(crowd[i].fd, "here I am\n"));
	assert_true(read_until(nr, &total.heard, nr * (nr - 1)));
	print_message(
		"%d lines in %d ms\n", nr * (nr - 1), (int)(now_ms() - start));
	assert_int_equal(total.strange, 0);
	for (i = 0; i < nr; i++)
		close(crowd[i].fd);
	end_chat();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROGRAM_TEST(chat_answers_as_its_comment_says),
		PROGRAM_TEST(all_hear_all_on_one_worker),
		PROGRAM_TEST(all_hear_all_on_two_workers),
		PROGRAM_TEST(all_hear_all_on_four_workers),
		PROGRAM_TEST(who_lists_everybody),
		PROGRAM_TEST(a_name_is_had_once_on_all_workers),
		PROGRAM_TEST(a_name_is_free_when_its_owner_has_left),
		PROGRAM_TEST(lines_are_shown_clean_and_in_pieces_of_1000),
		PROGRAM_TEST(a_burst_arrives_whole_and_in_order),
		PROGRAM_TEST(a_slow_reader_is_dropped_and_the_others_go_on),
		PROGRAM_TEST(a_stop_tells_everybody),
		PROGRAM_TEST(a_reset_is_told_as_such),
		PROGRAM_TEST(each_of_500_hears_the_499_others),
	};

	return ledger_run("chat", tests);
}
