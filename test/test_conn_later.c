/*
 * test_conn_later.c: what is put off or kept back comes all the same: a rest
 * after pause and resume, bytes behind a short read of a unix socket, an answer
 * that goes with the end of its stream, one of an event of the program's.
 */
#include "server_rig.h"

#include <event2/event.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/un.h>

#define BUFFER ((size_t)65536) /* what one read takes */

/* The worker is held while the client acts: what it does arrives at once. */

static pthread_mutex_t hold_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool held;

static void be_held(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	atomic_store(&held, true);
	pthread_mutex_lock(&hold_lock);
	pthread_mutex_unlock(&hold_lock);
}

static void hold_worker(void)
{
	atomic_store(&held, false);
	pthread_mutex_lock(&hold_lock);
	assert_int_equal(
		evt_worker_post(evt_pool_worker(server.pool, 0), be_held, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&held)));
}

static void let_worker_go(void)
{
	pthread_mutex_unlock(&hold_lock);
}

/* A unix socket, on which the kernel says that there is no room long before it
 * takes no more */

static const char *unix_url(void)
{
	static char url[64];

	snprintf(url, sizeof(url), "unix:@test_conn_later.%d", (int)getpid());
	return url;
}

static void start_unix_server(const struct evt_handlers *handlers)
{
	start_server_at(unix_url(), handlers, NULL, 1, NULL);
}

/* It is open on its worker; no call waits longer than 10 s. */
static int dial_unix(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const struct timeval patience = {.tv_sec = 10 * slowness()};
	const char *name = unix_url() + strlen("unix:@");
	size_t len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
	int before = nr_opened();
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_not_equal(fd, -1);
	memcpy(addr.sun_path + 1, name, strlen(name));
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience,
				 sizeof(patience)),
		0);
	assert_int_equal(
		connect(fd, (struct sockaddr *)&addr, (socklen_t)len), 0);
	assert_true(WAIT_FOR(nr_opened() == before + 1));
	return fd;
}

/* Says text, and passes a descriptor with it. */
static void say_with_descriptor(int fd, const char *text)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.bytes = {0}};
	struct iovec part = {(void *)(uintptr_t)text, strlen(text)};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	assert_int_equal(sendmsg(fd, &message, 0), strlen(text));
}

/* recv(2) stops behind it. */
static void bytes_behind_a_descriptor_come_too(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_data = echo_data};
	int fd;

	(void)state;
	start_unix_server(&handlers);
	fd = dial_unix();
	say(fd, "x"); /* from then on it waits in epoll */
	hears(fd, "x");
	hold_worker();
	say_with_descriptor(fd, "before");
	say(fd, "behind");
	let_worker_go();
	hears(fd, "beforebehind");
	close(fd);
}

/* A rest after pause and resume */

static atomic_int rounds;
static struct evt_conn *first; /* that was opened; the worker's alone */

static void note_first(struct evt_conn *conn, void *arg)
{
	if (nr_opened() == 0)
		first = conn;
	note_open(conn, arg);
}

/* A byte a round. B: first gets so much that the kernel, which takes all of it,
 * says there is no room. -: nothing is done. */
static size_t take_one(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)len, (void)arg;
	note_bytes(1);
	if (*data == 'B') {
		evt_conn_write(first, large, 100000);
	} else if (*data != '-') {
		atomic_fetch_add(&rounds, 1);
		evt_conn_pause(conn);
		evt_conn_resume(conn);
	}
	return 1;
}

static const struct evt_handlers taking = {
	.on_open = note_first, .on_data = take_one};

static size_t answer_one(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	evt_conn_write(conn, large, 30000);
	return take_one(conn, data, len, arg);
}

static void a_rest_is_handed_over_though_the_peer_does_not_read(void **state)
{
	const struct evt_listen_options options = {
		.high_mark = (size_t)-1, .max_output = (size_t)-1};
	const struct evt_handlers handlers = {
		.on_open = note_first, .on_data = answer_one};
	char many[400];
	int fd;

	(void)state;
	memset(many, 'x', sizeof(many));
	atomic_store(&rounds, 0);
	start_server(&handlers, &options, 1);
	fd = dial_and_wait();
	assert_true(send_all(fd, many, sizeof(many)));
	assert_true(WAIT_FOR(atomic_load(&rounds) == 400));
	close_with_reset(fd);
}

static void a_rest_behind_an_answer_that_fills_the_socket_comes_too(
	void **state)
{
	int fd;

	(void)state;
	atomic_store(&rounds, 0);
	start_unix_server(&taking);
	fd = dial_unix();
	say(fd, "Bxxx");
	assert_true(WAIT_FOR(atomic_load(&rounds) == 3));
	close(fd);
}

/* ... that waits in epoll: its first byte is read, and that turn is over. */
static int dial_unix_and_settle(size_t bytes)
{
	int fd = dial_unix();

	say(fd, "-");
	assert_true(WAIT_FOR(atomic_load(&seen.bytes) == bytes));
	catch_up();
	return fd;
}

/* There is room when the rest is put off, and none when its turn comes. */
static void a_rest_comes_though_another_has_taken_the_room(void **state)
{
	int fds[2];

	(void)state;
	atomic_store(&rounds, 0);
	start_unix_server(&taking);
	fds[0] = dial_unix_and_settle(1);
	fds[1] = dial_unix_and_settle(2);
	hold_worker();
	say(fds[0], "xxx");
	say(fds[1], "B");
	let_worker_go();
	assert_true(WAIT_FOR(atomic_load(&rounds) == 3));
	close(fds[0]);
	close(fds[1]);
}

/* Leaves all until the end, and takes that later. */
static size_t take_all_at_end(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	note_bytes(len);
	if (!evt_conn_at_eof(conn))
		return 0;
	evt_conn_pause(conn);
	evt_conn_resume(conn);
	return len;
}

static void answer_at_end(struct evt_conn *conn, void *arg)
{
	tell_eof(conn, arg);
	evt_conn_write(conn, "answer", 6);
	evt_conn_close(conn);
}

static void an_end_that_is_put_off_while_the_pool_stops_is_told(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = take_all_at_end,
		.on_eof = answer_at_end,
		.on_close = tell_close};
	int idle;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	idle = dial_and_wait();
	fd = dial_and_wait();
	say(fd, "question");
	assert_true(WAIT_FOR(atomic_load(&seen.bytes) == strlen("question")));
	evt_pool_stop(server.pool);
	story_becomes("close:stopped "); /* the idle one: it is draining */
	shutdown(fd, SHUT_WR);
	hears(fd, "answer");
	story_becomes("close:stopped eof close:peer ");
	assert_int_equal(evt_pool_wait(server.pool), 0);
	close(fd);
	close(idle);
}

/* An answer that goes with the end of its stream (MSG_MORE) */

static size_t answer_and_end(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	evt_conn_write(conn, "answer", 6);
	evt_conn_close(conn);
	return len;
}

/* What the worker lets linger at a time is 1,024. */
#define LINGERERS 1050

/* Descriptors for both ends of them. */
static bool may_open_them(struct rlimit *before)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, before), 0);
	limit = *before;
	if (limit.rlim_cur >= 2 * LINGERERS + 100)
		return true;
	limit.rlim_cur = 2 * LINGERERS + 100;
	return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/* It is closed with input unread, and without its end being waited for. */
static void an_answer_is_sent_though_too_many_linger(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = answer_and_end,
		.on_close = note_close};
	static int fds[LINGERERS];
	struct rlimit before;
	int fd;
	int i;

	(void)state;
	if (!may_open_them(&before))
		skip();
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	for (i = 0; i < LINGERERS; i++) {
		fds[i] = dial();
		say(fds[i], "x");
	}
	assert_true(WAIT_FOR(nr_closed() == LINGERERS));
	hold_worker();
	assert_true(
		send(fd, large, 5 * BUFFER, MSG_DONTWAIT) > (ssize_t)BUFFER);
	let_worker_go();
	hears(fd, "answer");
	assert_true(WAIT_FOR(nr_closed() == LINGERERS + 1));
	for (i = 0; i < LINGERERS; i++)
		close(fds[i]);
	close(fd);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

/* The stream ends in the same callback, but by a reset. */
static void answers_before_a_reset(
	size_t (*on_data)(struct evt_conn *, const char *, size_t, void *),
	enum evt_reason reason)
{
	const struct evt_listen_options options = {.max_input = 10};
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = on_data,
		.on_close = note_close};
	int fd;

	start_server(&handlers, &options, 1);
	fd = dial_and_wait();
	say(fd, "more than ten bytes");
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), reason);
	hears(fd, "answer");
	close(fd);
}

static size_t answer_and_finish(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)len, (void)arg;
	evt_conn_write(conn, "answer", 6);
	evt_conn_finish(conn);
	return 0;
}

static void an_answer_is_sent_though_the_input_overflows_then(void **state)
{
	(void)state;
	answers_before_a_reset(answer_and_finish, EVT_REASON_OVERFLOW);
}

static size_t answer_end_and_abort(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	size_t used = answer_and_end(conn, data, len, arg);

	evt_conn_abort(conn);
	return used;
}

static void an_answer_is_sent_though_it_is_aborted_after_the_close(void **state)
{
	(void)state;
	answers_before_a_reset(answer_end_and_abort, EVT_REASON_OURS);
}

static atomic_int asker;  /* the client's descriptor */
static atomic_int silent; /* -1: not known yet */

/* What was kept back the kernel would send after 200 ms. */
static size_t answer_then_write_to_first(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	size_t used = answer_and_end(conn, data, len, arg);

	evt_conn_write(first, "news", 4);
	atomic_store(&silent, stays_silent(atomic_load(&asker), 100));
	return used;
}

static void an_answer_that_makes_way_for_another_does_not_wait(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_first, .on_data = answer_then_write_to_first};
	int other;
	int fd;

	(void)state;
	atomic_store(&silent, -1);
	start_server(&handlers, NULL, 1);
	other = dial_and_wait();
	fd = dial_and_wait();
	atomic_store(&asker, fd);
	say(fd, "x");
	assert_true(WAIT_FOR(atomic_load(&silent) != -1));
	assert_false(atomic_load(&silent));
	hears(fd, "answer");
	hears(other, "news");
	close(fd);
	close(other);
}

/* Outside of a callback of the library's */

static int client_of_the_pool(void)
{
	const struct evt_handlers handlers = {
		.on_data = tell_data, .on_close = tell_close};

	start_server(&handlers, NULL, 1);
	return dial_and_wait();
}

static struct event *own_event;

static void on_own_event(evutil_socket_t fd, short what, void *arg)
{
	struct evt_conn *conn = arg;

	(void)fd, (void)what;
	evt_conn_write(conn, "from ", 5);
	evt_conn_printf(conn, "%s", "outside");
	evt_conn_close(conn);
	event_free(own_event);
}

static void start_event(struct evt_conn *conn, event_callback_fn fn)
{
	const struct timeval soon = {.tv_usec = 1000};

	own_event = event_new(
		evt_worker_base(evt_conn_worker(conn)), -1, 0, fn, conn);
	event_add(own_event, &soon);
}

static void start_own_event(struct evt_conn *conn, void *arg)
{
	(void)arg;
	start_event(conn, on_own_event);
}

static void an_event_of_the_programs_may_write_and_close(void **state)
{
	int fd = client_of_the_pool();

	(void)state;
	assert_true(on_last_conn(start_own_event, NULL));
	hears(fd, "from outside");
	assert_true(ends_cleanly(fd));
	story_becomes("close:ours ");
	close(fd);
}

/* What goes at once, too: nothing else happens on the worker. */
static void on_event_with_ref(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	evt_conn_write_ref(arg, large, 5000, note_done, NULL);
	event_free(own_event);
}

static void start_event_with_ref(struct evt_conn *conn, void *arg)
{
	(void)arg;
	start_event(conn, on_event_with_ref);
}

static void done_is_called_after_an_event_of_the_programs(void **state)
{
	int fd = client_of_the_pool();

	(void)state;
	assert_true(on_last_conn(start_event_with_ref, NULL));
	assert_int_equal(hear_pattern(fd, 0, 5000), 5000);
	assert_true(WAIT_FOR(atomic_load(&seen.dones) == 1));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(bytes_behind_a_descriptor_come_too),
		SERVER_TEST(
			a_rest_is_handed_over_though_the_peer_does_not_read),
		SERVER_TEST(
			a_rest_behind_an_answer_that_fills_the_socket_comes_too),
		SERVER_TEST(a_rest_comes_though_another_has_taken_the_room),
		SERVER_TEST(
			an_end_that_is_put_off_while_the_pool_stops_is_told),
		SERVER_TEST(an_answer_is_sent_though_too_many_linger),
		SERVER_TEST(an_answer_is_sent_though_the_input_overflows_then),
		SERVER_TEST(
			an_answer_is_sent_though_it_is_aborted_after_the_close),
		SERVER_TEST(an_answer_that_makes_way_for_another_does_not_wait),
		SERVER_TEST(an_event_of_the_programs_may_write_and_close),
		SERVER_TEST(done_is_called_after_an_event_of_the_programs),
	};

	make_large();
	return free_large(ledger_run("conn_later", tests));
}
