/*
 * test_unix_faults.c: listening on a path when a call fails, or another process
 * is at it too.
 */
/* wrap: socket bind listen connect fchmod fchmodat lstat link renameat2 */
/* wrap: unlink */
#include "inject.h"
#include "unix_folder.h"

#include <pthread.h>

/* Calls that fail on demand */

/* Called once before the next renameat2. */
static void (*before_exchange)(void);

#define WRAP(call, result, parameters, arguments)                             \
	static struct inject fail_##call = {.name = #call};                   \
	result __real_##call parameters;                                      \
	result __wrap_##call parameters;                                      \
	result __wrap_##call parameters                                       \
	{                                                                     \
		return injected(&fail_##call) ? -1 : __real_##call arguments; \
	}

WRAP(socket, int, (int family, int type, int protocol),
	(family, type, protocol))
WRAP(bind, int, (int fd, const struct sockaddr *addr, socklen_t len),
	(fd, addr, len))
WRAP(listen, int, (int fd, int backlog), (fd, backlog))
WRAP(connect, int, (int fd, const struct sockaddr *addr, socklen_t len),
	(fd, addr, len))
WRAP(fchmod, int, (int fd, mode_t mode), (fd, mode))
WRAP(fchmodat, int, (int at, const char *path, mode_t mode, int flags),
	(at, path, mode, flags))
WRAP(lstat, int, (const char *path, struct stat *status), (path, status))
WRAP(link, int, (const char *from, const char *to), (from, to))
WRAP(unlink, int, (const char *path), (path))

static struct inject fail_renameat2 = {.name = "rename"};
int __real_renameat2(
	int from_at, const char *from, int to_at, const char *to, unsigned how);
int __wrap_renameat2(
	int from_at, const char *from, int to_at, const char *to, unsigned how);
int __wrap_renameat2(
	int from_at, const char *from, int to_at, const char *to, unsigned how)
{
	void (*before)(void) = before_exchange;

	if (before) {
		before_exchange = NULL;
		before();
	}
	if (injected(&fail_renameat2))
		return -1;
	return __real_renameat2(from_at, from, to_at, to, how);
}

/* Two at once */

static int quicker = -1;

static void be_quicker(void)
{
	quicker = serve(1);
}

/* I02: the second to find a stale socket gives the first its place back. */
static void who_is_quicker_keeps_the_path(void **state)
{
	(void)state;
	leave_stale(SOCK_STREAM);
	before_exchange = be_quicker;
	errno = 0;
	assert_int_equal(serve(0), -1);
	assert_int_equal(errno, EADDRINUSE);
	assert_int_not_equal(quicker, -1);
	forget_clients(quicker);
	assert_true(serves(quicker));
	assert_int_equal(names(), 1);
	evt_unix_remove_(&files[1]);
	close(quicker);
}

static void lose_the_path(void)
{
	__real_unlink(url.path);
}

static void a_stale_socket_that_goes_by_itself_is_no_failure(void **state)
{
	int fd;

	(void)state;
	leave_stale(SOCK_STREAM);
	before_exchange = lose_the_path;
	fd = serve(0);
	assert_int_not_equal(fd, -1);
	assert_true(serves(fd));
	assert_int_equal(names(), 1);
	evt_unix_remove_(&files[0]);
	close(fd);
}

struct racer {
	pthread_barrier_t *start;
	struct evt_unix_file file;
	const char *step;
	int fd;
	int error;
};

static void *race(void *arg)
{
	struct racer *racer = arg;

	pthread_barrier_wait(racer->start);
	racer->fd = evt_unix_bind_(
		&url, SOCK_STREAM, 0600, 16, &racer->file, &racer->step);
	racer->error = errno;
	return NULL;
}

/* I02 */
static void of_two_that_replace_a_socket_one_is_told(void **state)
{
	int rounds = under("plain") ? 1000 : 100;
	struct racer racers[2];
	pthread_barrier_t start;
	pthread_t thread;
	int i;

	(void)state;
	assert_int_equal(pthread_barrier_init(&start, NULL, 2), 0);
	for (i = 0; i < rounds; i++) {
		struct racer *first = &racers[0];
		struct racer *second = &racers[1];

		leave_stale(SOCK_STREAM);
		first->start = second->start = &start;
		assert_int_equal(
			pthread_create(&thread, NULL, race, second), 0);
		race(first);
		assert_int_equal(pthread_join(thread, NULL), 0);
		if (first->fd == -1) {
			first = second;
			second = &racers[0];
		}
		assert_int_not_equal(first->fd, -1);
		assert_int_equal(second->fd, -1);
		assert_int_equal(second->error, EADDRINUSE);
		forget_clients(first->fd);
		assert_true(serves(first->fd));
		assert_int_equal(names(), 1);
		evt_unix_remove_(&first->file);
		close(first->fd);
	}
	pthread_barrier_destroy(&start);
}

/* Failures */

/* I02: and it is asked once. */
static void a_socket_whose_queue_is_full_is_served(void **state)
{
	ino_t stale = leave_stale(SOCK_STREAM);

	(void)state;
	inject(&fail_connect, EAGAIN, 0, FOR_EVER);
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	end_injection(&fail_connect);
	assert_int_equal(atomic_load(&fail_connect.calls), 1);
	assert_true(inode_of(url.path) == stale);
	assert_int_equal(unlink(url.path), 0);
}

/* I02 */
static void a_socket_that_may_not_be_asked_is_left_alone(void **state)
{
	ino_t stale = leave_stale(SOCK_STREAM);

	(void)state;
	inject(&fail_connect, EACCES, 0, 1);
	refuses(SOCK_STREAM, EACCES, "connect");
	assert_true(inode_of(url.path) == stale);
	assert_int_equal(unlink(url.path), 0);
}

struct failure {
	struct inject *call;
	const char *step;
};

/* Each call of a first start fails: told as such, and nothing is left. */
static void expect_each_is_told(
	int socktype, const struct failure *failures, size_t nr)
{
	mode_t before = umask(077);
	struct evt_unix_file file;
	size_t i;

	for (i = 0; i < nr; i++) {
		int fds = count_fds();

		inject(failures[i].call, EIO, 0, 1);
		errno = 0;
		assert_int_equal(
			evt_unix_bind_(&url, socktype, 0666, 16, &file, &step),
			-1);
		assert_int_equal(errno, EIO);
		assert_string_equal(step, failures[i].step);
		assert_string_equal(file.path, "");
		assert_int_equal(names(), 0);
		assert_int_equal(count_fds(), fds);
	}
	umask(before);
}

static void each_failing_call_is_told_and_leaves_nothing(void **state)
{
	static const struct failure failures[] = {
		{&fail_socket, "socket"},
		{&fail_fchmod, "fchmod"},
		{&fail_bind, "bind"},
		{&fail_lstat, "lstat"},
		{&fail_fchmodat, "chmod"},
		{&fail_listen, "listen"},
		{&fail_link, "link"},
	};

	(void)state;
	expect_each_is_told(SOCK_STREAM, failures, COUNT(failures));
	/* A socket of datagrams has the name at once, and does not listen. */
	expect_each_is_told(SOCK_DGRAM, failures, COUNT(failures) - 2);
}

/* Between the bind(2) that found it and the look. */
static void a_stale_socket_of_datagrams_that_goes_by_itself_is_no_failure(
	void **state)
{
	struct evt_unix_file file;
	int fd;

	(void)state;
	leave_stale(SOCK_DGRAM);
	inject(&fail_lstat, ENOENT, 0, 1);
	fd = evt_unix_bind_(&url, SOCK_DGRAM, 0600, 0, &file, &step);
	end_injection(&fail_lstat);
	assert_int_not_equal(fd, -1);
	assert_int_equal(names(), 1);
	evt_unix_remove_(&file);
	close(fd);
}

/* And each of a start that finds a stale socket. */
static void each_failing_call_leaves_the_stale_socket(void **state)
{
	static const struct {
		struct inject *call;
		int skip;
		const char *step;
	} failures[] = {
		{&fail_socket, 1, "socket"},
		{&fail_lstat, 1, "lstat"},
		{&fail_connect, 0, "connect"},
		{&fail_renameat2, 0, "rename"},
	};
	ino_t stale = leave_stale(SOCK_STREAM);
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(failures); i++) {
		int fds = count_fds();

		inject(failures[i].call, EIO, failures[i].skip, 1);
		refuses(SOCK_STREAM, EIO, failures[i].step);
		end_injection(failures[i].call);
		assert_true(inode_of(url.path) == stale);
		assert_int_equal(count_fds(), fds);
	}
	assert_int_equal(unlink(url.path), 0);
}

static void where_nothing_can_be_exchanged_it_is_unlinked(void **state)
{
	static const int errors[] = {EINVAL, ENOSYS, EPERM, EOPNOTSUPP};
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(errors); i++) {
		leave_stale(SOCK_STREAM);
		inject(&fail_renameat2, errors[i], 0, FOR_EVER);
		fd = serve(0);
		end_injection(&fail_renameat2);
		assert_int_not_equal(fd, -1);
		assert_true(serves(fd));
		assert_int_equal(names(), 1);
		evt_unix_remove_(&files[0]);
		close(fd);
	}
}

/* The look before unlink(2). */
static void what_is_anothers_by_then_is_not_unlinked(void **state)
{
	(void)state;
	leave_stale(SOCK_STREAM);
	before_exchange = be_quicker;
	/* The quicker one can exchange, this one cannot. */
	inject(&fail_renameat2, EINVAL, 1, FOR_EVER);
	errno = 0;
	assert_int_equal(serve(0), -1);
	end_injection(&fail_renameat2);
	assert_int_equal(errno, EADDRINUSE);
	forget_clients(quicker);
	assert_true(serves(quicker));
	evt_unix_remove_(&files[1]);
	close(quicker);
}

static void what_cannot_be_unlinked_stays(void **state)
{
	ino_t stale = leave_stale(SOCK_STREAM);

	(void)state;
	inject(&fail_renameat2, EPERM, 0, FOR_EVER);
	inject(&fail_unlink, EPERM, 0, 1);
	refuses(SOCK_STREAM, EPERM, "unlink");
	end_injection(&fail_renameat2);
	assert_true(inode_of(url.path) == stale);
	assert_int_equal(unlink(url.path), 0);
}

/* Names that are taken, or a path that comes and goes. */
static void no_failure_is_tried_for_ever(void **state)
{
	(void)state;
	inject(&fail_bind, EADDRINUSE, 0, FOR_EVER);
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	assert_in_range(atomic_load(&fail_bind.calls), 2, 100);
	end_injection(&fail_bind);
	inject(&fail_link, EEXIST, 0, FOR_EVER);
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	assert_in_range(atomic_load(&fail_link.calls), 2, 100);
	end_injection(&fail_link);
}

static void a_name_that_is_taken_is_not_the_only_one(void **state)
{
	int fd;

	(void)state;
	inject(&fail_bind, EADDRINUSE, 0, 5);
	fd = serve(0);
	assert_int_not_equal(fd, -1);
	assert_true(serves(fd));
	evt_unix_remove_(&files[0]);
	close(fd);
}

static void an_abstract_name_that_fails_leaves_nothing(void **state)
{
	(void)state;
	url.abstract = true;
	inject(&fail_listen, EIO, 0, 1);
	refuses(SOCK_STREAM, EIO, "listen");
	inject(&fail_bind, EIO, 0, 1);
	refuses(SOCK_STREAM, EIO, "bind");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FOLDER_TEST(who_is_quicker_keeps_the_path),
		FOLDER_TEST(a_stale_socket_that_goes_by_itself_is_no_failure),
		FOLDER_TEST(of_two_that_replace_a_socket_one_is_told),
		FOLDER_TEST(a_socket_whose_queue_is_full_is_served),
		FOLDER_TEST(a_socket_that_may_not_be_asked_is_left_alone),
		FOLDER_TEST(each_failing_call_is_told_and_leaves_nothing),
		FOLDER_TEST(
			a_stale_socket_of_datagrams_that_goes_by_itself_is_no_failure),
		FOLDER_TEST(each_failing_call_leaves_the_stale_socket),
		FOLDER_TEST(where_nothing_can_be_exchanged_it_is_unlinked),
		FOLDER_TEST(what_is_anothers_by_then_is_not_unlinked),
		FOLDER_TEST(what_cannot_be_unlinked_stays),
		FOLDER_TEST(no_failure_is_tried_for_ever),
		FOLDER_TEST(a_name_that_is_taken_is_not_the_only_one),
		FOLDER_TEST(an_abstract_name_that_fails_leaves_nothing),
	};

	return ledger_run("unix_faults", tests);
}
