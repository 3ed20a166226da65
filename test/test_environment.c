/*
 * test_environment.c: what surrounds a process: its clocks, limits, environment
 * variables and standard descriptors.
 *
 * clock_gettime is defined here, so that libevent calls it too: the tests set
 * the clocks.
 */
#include "line_server.h"
#include "../evt-core.h"
#include "../evt-log.h"
#include "../evt-server-internal.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

static atomic_long realtime_shift; /* in seconds */
static atomic_long monotonic_shift;

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int error = (int)syscall(SYS_clock_gettime, clock, now);

	if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
		now->tv_sec += atomic_load(&realtime_shift);
	if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE)
		now->tv_sec += atomic_load(&monotonic_shift);
	return error;
}

static void *stop_server(void *arg)
{
	evt_server_stop();
	return arg;
}

/* Clocks */

static void sit_in_a_read(sockfd_t conn, short evt, void *arg)
{
	echo(conn, evt, arg);
}

/* J08 */
static void setting_the_clock_changes_no_grace(void **state)
{
	static const long shifts[] = {86400, -86400};
	size_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		int fd = connect_to(start_server(on_client, sit_in_a_read, 1));
		pthread_t stopper;
		int64_t start;

		evt_server_grace_ms(300);
		assert_true(WAIT_FOR(atomic_load(&in_tcb) == 1));
		start = now_ms();
		pthread_create(&stopper, NULL, stop_server, NULL);
		assert_true(WAIT_FOR(
			refused(evt_server_port()) || evt_server_port() == -1));
		atomic_store(&realtime_shift, shifts[i]);
		pthread_join(stopper, NULL);
		assert_in_range(now_ms() - start, 290, 3000 * slowness());
		atomic_store(&realtime_shift, 0);
		close(fd);
	}
}

static struct rlimit old_limit;

/* Leaves no descriptor to be had. */
static void leave_no_descriptor(void)
{
	struct rlimit limit;
	int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(lowest);
	getrlimit(RLIMIT_NOFILE, &old_limit);
	limit = old_limit;
	limit.rlim_cur = (rlim_t)lowest;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static unsigned long pauses(void)
{
	struct evt_server_ledger ledger;

	evt_server_ledger_(&ledger);
	return ledger.pauses;
}

/* Which clock jumps while a client waits for the end of a pause. */
static void jump_during_a_pause(void *clock_shift)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	unsigned long before;
	char byte;

	in.sin_port = htons((uint16_t)start_server(on_client, echo, 1));
	leave_no_descriptor();
	CHECK(connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0);
	CHECK(WAIT_FOR(pauses() >= 3));
	before = pauses();
	atomic_store((atomic_long *)clock_shift, 3600);
	CHECK(WAIT_FOR(pauses() > before));
	usleep(300 * 1000);
	CHECK(pauses() < before + 10);
	setrlimit(RLIMIT_NOFILE, &old_limit);
	CHECK(send_all(fd, "x", 1) && receive_all(fd, &byte, 1));
	close(fd);
	evt_server_stop();
}

/* J09 */
static void an_hour_asleep_ends_a_pause_once(void **state)
{
	(void)state;
	if (under("valgrind")) /* has a limit of its own */
		skip();
	assert_int_equal(
		in_child(jump_during_a_pause, &monotonic_shift, 10), 0);
}

/* J08 */
static void setting_the_clock_changes_no_pause(void **state)
{
	(void)state;
	if (under("valgrind")) /* has a limit of its own */
		skip();
	assert_int_equal(in_child(jump_during_a_pause, &realtime_shift, 10), 0);
}

/* Limits and the environment */

static void start_with_few_descriptors(void *nr)
{
	struct rlimit limit;
	int fds;
	int port;
	int fd;

	for (fd = 3; fd < 1024; fd++)
		close(fd);
	fds = count_fds();
	getrlimit(RLIMIT_NOFILE, &old_limit);
	limit = old_limit;
	limit.rlim_cur = (rlim_t)(intptr_t)nr;
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	port = start_server(on_client, echo, 2);
	if (port == -1) {
		CHECK(errno == EMFILE);
		CHECK(log_lines(EVT_LOG_ERROR) == 1);
		CHECK(log_has("Too many open files"));
		CHECK(limit.rlim_cur < 64);
	}
	setrlimit(RLIMIT_NOFILE, &old_limit);
	CHECK(port == -1 || serves(port));
	evt_server_stop();
	CHECK(count_fds() == fds);
}

/* J10 */
static void with_any_number_of_descriptors_it_starts_or_says_why(void **state)
{
	intptr_t nr;

	(void)state;
	if (under("valgrind")) /* has a limit of its own */
		skip();
	for (nr = 4; nr <= 24; nr++)
		assert_int_equal(
			in_child(start_with_few_descriptors, (void *)nr, 10),
			0);
	assert_int_equal(
		in_child(start_with_few_descriptors, (void *)64, 10), 0);
}

static void serve_with_small_stacks(void *arg)
{
	pthread_attr_t attr;
	int port;

	(void)arg;
	pthread_attr_init(&attr);
	CHECK(pthread_attr_setstacksize(&attr, 64 * 1024) == 0);
	CHECK(pthread_setattr_default_np(&attr) == 0);
	evt_set_log(NULL, NULL); /* the library's own way of writing a line */
	CHECK(freopen("/dev/null", "w", stderr) != NULL);
	port = start_server(on_client, echo, 4);
	CHECK(serves(port));
	CHECK(connect_to(port) != -1);
	CHECK(WAIT_FOR(atomic_load(&in_tcb) == 2));
	evt_server_grace_ms(10);
	evt_server_stop();
}

/* J11 */
static void threads_with_64_kib_of_stack_are_enough(void **state)
{
	(void)state;
	if (!under("plain"))
		skip();
	assert_int_equal(in_child(serve_with_small_stacks, NULL, 10), 0);
}

static void note_method(sockfd_t conn, short evt, void *arg)
{
	const char *method = event_base_get_method(evt_thread_base());

	(void)evt, (void)arg;
	atomic_store(&result, strcmp(method, "epoll"));
	evt_close(conn);
	atomic_fetch_add(&served, 1);
}

static void serve_without_epoll(void *arg)
{
	int fd;

	(void)arg;
	setenv("EVENT_NOEPOLL", "1", 1);
	setenv("EVENT_SHOW_METHOD", "1", 1);
	fd = connect_to(start_server(on_client, note_method, 1));
	CHECK(WAIT_FOR(atomic_load(&served) == 1));
	CHECK(atomic_load(&result) == 0);
	close(fd);
	evt_server_stop();
}

/* A20 */
static void libevents_environment_changes_nothing(void **state)
{
	(void)state;
	assert_int_equal(in_child(serve_without_epoll, NULL, 10), 0);
}

/* Standard descriptors */

/* All that could say why is closed: the exit status is what is left. */
#define EXPECT(condition, status)      \
	do {                           \
		if (!(condition))      \
			_exit(status); \
	} while (0)

static bool std_descriptor_is_open(void)
{
	int fd;

	for (fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) != -1)
			return true;
	return false;
}

static void echo_without_standard_descriptors(void *arg)
{
	char sent[4096];
	char got[sizeof(sent)];
	int port;
	int i;

	(void)arg;
	evt_set_log(NULL, NULL);
	memset(sent, 'e', sizeof(sent));
	for (i = 0; i <= 2; i++)
		close(i);
	port = start_server(on_client, echo, 3);
	EXPECT(port > 0, 2);
	for (i = 0; i < 20; i++) {
		int low = connect_to(port);
		int fd = fcntl(low, F_DUPFD_CLOEXEC, 10);

		close(low);
		EXPECT(evt_server_start(on_client, NULL) == -1, 3); /* a line */
		EXPECT(evt_thread_dispatch(-1, EV_READ, NULL) == -1, 4);
		EXPECT(send_all(fd, sent, sizeof(sent)), 5);
		EXPECT(receive_all(fd, got, sizeof(got)), 6);
		EXPECT(memcmp(got, sent, sizeof(got)) == 0, 7);
		shutdown(fd, SHUT_WR);
		EXPECT(recv(fd, got, 1, 0) == 0, 8);
		close(fd);
	}
	EXPECT(atomic_load(&lowest_conn) > 2, 9);
	evt_server_stop();
}

/* J13 */
static void without_standard_descriptors_no_line_reaches_a_client(void **state)
{
	(void)state;
	if (under("tsan")) /* loses a pipe that fcntl(2) has moved */
		skip();
	assert_int_equal(
		in_child(echo_without_standard_descriptors, NULL, 10), 0);
}

static void start_without_standard_descriptors(void *arg)
{
	int i;

	(void)arg;
	for (i = 0; i <= 2; i++)
		close(i);
	EXPECT(start_server(on_client, echo, 3) > 0, 2);
	EXPECT(!std_descriptor_is_open(), 3);
	evt_server_stop();
	EXPECT(!std_descriptor_is_open(), 4);
}

/* J13: what a program prints must not land in a loop or a pipe of ours */
static void none_of_our_descriptors_is_below_3(void **state)
{
	(void)state;
	if (under("tsan")) /* loses a pipe that fcntl(2) has moved */
		skip();
	assert_int_equal(
		in_child(start_without_standard_descriptors, NULL, 10), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LINE_TEST(setting_the_clock_changes_no_grace),
		LINE_TEST(an_hour_asleep_ends_a_pause_once),
		LINE_TEST(setting_the_clock_changes_no_pause),
		LINE_TEST(with_any_number_of_descriptors_it_starts_or_says_why),
		LINE_TEST(threads_with_64_kib_of_stack_are_enough),
		LINE_TEST(libevents_environment_changes_nothing),
		LINE_TEST(
			without_standard_descriptors_no_line_reaches_a_client),
		LINE_TEST(none_of_our_descriptors_is_below_3),
	};

	return ledger_run("environment", tests);
}
