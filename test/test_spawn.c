/*
 * test_spawn.c: threads and pipes that the system does not give. The listener
 * or the pool is started whole or not at all, what was kept for the pool stays
 * kept, and the next attempt works. And pipes that are interrupted.
 */
/* wrap: pthread_create pipe2 eventfd fcntl write read */
#include "rig.h"
#include "inject.h"

#include <sys/eventfd.h>

#define NR_WORKERS 4
#define NR_KEPT    3

/* The size of a record, by which the pipes' writes are known. */
#define RECORD_BYTES 32
#define BATCH_BYTES  4096

/* The wrapped calls */

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*main)(void *), void *arg);
int __real_pipe2(int fds[2], int flags);
int __real_eventfd(unsigned value, int flags);
int __real_fcntl(int fd, int command, ...);
ssize_t __real_write(int fd, const void *data, size_t len);
ssize_t __real_read(int fd, void *data, size_t len);

static struct inject on_thread;
static struct inject on_pipe2;
static struct inject on_eventfd;
static struct inject on_widening;
static struct inject on_write;
static struct inject on_read;

static atomic_bool short_writes; /* instead of failing ones */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*main)(void *), void *arg)
{
	if (injected(&on_thread))
		return errno;
	return __real_pthread_create(thread, attr, main, arg);
}

int __wrap_pipe2(int fds[2], int flags)
{
	return injected(&on_pipe2) ? -1 : __real_pipe2(fds, flags);
}

int __wrap_eventfd(unsigned value, int flags)
{
	return injected(&on_eventfd) ? -1 : __real_eventfd(value, flags);
}

int __wrap_fcntl(int fd, int command, ...)
{
	va_list args;
	void *arg;

	va_start(args, command);
	arg = va_arg(args, void *);
	va_end(args);
	if (command == F_SETPIPE_SZ && injected(&on_widening))
		return -1;
	return __real_fcntl(fd, command, arg);
}

ssize_t __wrap_write(int fd, const void *data, size_t len)
{
	if (len == RECORD_BYTES && injected(&on_write))
		return atomic_load(&short_writes) ? RECORD_BYTES / 2 : -1;
	return __real_write(fd, data, len);
}

ssize_t __wrap_read(int fd, void *data, size_t len)
{
	if (len == BATCH_BYTES && injected(&on_read))
		return -1;
	return __real_read(fd, data, len);
}

/* What is open and runs, before and after. */
struct balance {
	int fds;
	int threads;
	long allocations;
};

static struct balance balance_now(void)
{
	return (struct balance){
		count_fds(), count_threads(), count_allocations()};
}

/* A thread that was joined may be seen a moment longer. */
static bool is_even(struct balance before)
{
	return WAIT_FOR(count_threads() <= before.threads) &&
		count_fds() == before.fds &&
		count_allocations() == before.allocations;
}

#define EXPECT(k, condition)                                                 \
	do {                                                                 \
		if (!(condition))                                            \
			fail_msg("call %d failing: not true: %s (errno %s)", \
				k, #condition, strerrorname_np(errno));      \
	} while (0)

/* Threads */

/* The k-th one cannot be started. */
static void expect_no_pool(int k)
{
	struct balance before = balance_now();

	log_forget();
	inject(&on_thread, EAGAIN, k - 1, FOR_EVER);
	errno = 0;
	EXPECT(k, evt_server_threads(echo, NR_WORKERS) == -1);
	EXPECT(k, errno == EAGAIN);
	end_injection(&on_thread);
	EXPECT(k, log_lines(EVT_LOG_WARN) == 1);
	EXPECT(k, log_has(strerror(EAGAIN)));
	EXPECT(k, is_even(before));
}

/* A15: the first of these threads is the one that sees to stopping. */
static void a_pool_without_a_listener_starts_whole_or_not_at_all(void **state)
{
	int k;

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	for (k = 1; k <= NR_WORKERS + 1; k++)
		expect_no_pool(k);
	assert_int_equal(evt_server_threads(echo, NR_WORKERS), NR_WORKERS);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_true(answers(evt_server_port()));
	evt_server_stop();
}

/* A15 */
static void a_pool_beside_a_listener_starts_whole_or_not_at_all(void **state)
{
	int port = serve(on_client, NULL, 0);
	int k;

	(void)state;
	for (k = 1; k <= NR_WORKERS; k++) {
		expect_no_pool(k);
		EXPECT(k, evt_server_port() == port);
	}
	assert_int_equal(evt_server_threads(echo, NR_WORKERS), NR_WORKERS);
	assert_true(answers(port));
	evt_server_stop();
}

/* A15 */
static void what_is_kept_outlives_a_pool_that_does_not_start(void **state)
{
	int port = serve(on_client, NULL, 0);
	int clients[NR_KEPT];
	char byte;
	int i;

	(void)state;
	for (i = 0; i < NR_KEPT; i++) {
		clients[i] = connect_to(port);
		assert_true(send_all(clients[i], "k", 1));
	}
	assert_true(WAIT_FOR(atomic_load(&tally.accepted) == NR_KEPT));
	for (i = 1; i <= NR_WORKERS; i++)
		expect_no_pool(i);
	assert_int_equal(evt_server_threads(echo, NR_WORKERS), NR_WORKERS);
	for (i = 0; i < NR_KEPT; i++) {
		assert_true(receive_all(clients[i], &byte, 1));
		close(clients[i]);
	}
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), NR_KEPT);
}

/* A15 */
static void a_kept_record_waits_for_a_pool_without_a_listener(void **state)
{
	int k;

	(void)state;
	assert_int_equal(serve(NULL, NULL, 0), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	for (k = 1; k <= NR_WORKERS + 1; k++)
		expect_no_pool(k);
	assert_int_equal(
		evt_server_threads(just_count, NR_WORKERS), NR_WORKERS);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	evt_server_stop();
}

/* A16 */
static void a_listener_without_its_thread_is_not_started(void **state)
{
	struct balance before;

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	before = balance_now();
	inject(&on_thread, EAGAIN, 0, 1);
	assert_int_equal(evt_server_start(on_client, NULL), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_true(is_even(before));
	assert_int_equal(evt_server_port(), -1);
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_int_equal(evt_server_threads(echo, 1), 1);
	assert_true(answers(evt_server_port()));
	evt_server_stop();
}

/* Pipes */

static const int pipe_errors[] = {EMFILE, ENFILE, ENOSYS};
#define NR_PIPE_ERRORS (sizeof(pipe_errors) / sizeof(pipe_errors[0]))

/* A18 J12: no pipe for the listener's loop. */
static void a_listener_without_its_pipe_is_not_started(void **state)
{
	struct balance before;
	size_t i;

	(void)state;
	assert_int_equal(evt_server_init(0, SOCK_STREAM), 0);
	before = balance_now();
	for (i = 0; i < NR_PIPE_ERRORS; i++) {
		log_forget();
		inject(&on_pipe2, pipe_errors[i], 0, 1);
		EXPECT(1, evt_server_start(on_client, NULL) == -1);
		EXPECT(1, errno == pipe_errors[i]);
		EXPECT(1, log_lines(EVT_LOG_WARN) == 1);
		EXPECT(1, log_has(strerror(pipe_errors[i])));
		EXPECT(1, is_even(before));
	}
	assert_int_equal(evt_server_start(on_client, NULL), 0);
	assert_int_equal(evt_server_threads(echo, 1), 1);
	assert_true(answers(evt_server_port()));
	evt_server_stop();
}

/* A18: the listener's pipe and one for each worker. */
static void a_pool_without_all_its_pipes_is_not_started(void **state)
{
	struct balance before;
	int k;

	(void)state;
	assert_int_equal(serve(NULL, NULL, 0), 0);
	before = balance_now();
	for (k = 1; k <= NR_WORKERS + 1; k++) {
		log_forget();
		inject(&on_pipe2, pipe_errors[k % 2], k - 1, 1);
		EXPECT(k, evt_server_threads(just_count, NR_WORKERS) == -1);
		EXPECT(k, errno == pipe_errors[k % 2]);
		EXPECT(k, log_lines(EVT_LOG_WARN) == 1);
		EXPECT(k, is_even(before));
	}
	assert_int_equal(
		evt_server_threads(just_count, NR_WORKERS), NR_WORKERS);
	evt_server_stop();
}

/* A17: libevent ends the process when it has no descriptor for a base, so
 * three are taken first, to see. */
static void a_pool_without_room_for_its_bases_is_not_started(void **state)
{
	const int nr_probes = 3 * (NR_WORKERS + 1);
	struct balance before;
	int k;

	(void)state;
	assert_int_equal(serve(NULL, NULL, 0), 0);
	before = balance_now();
	for (k = 1; k <= nr_probes; k++) {
		log_forget();
		inject(&on_eventfd, pipe_errors[k % 2], k - 1, 1);
		EXPECT(k, evt_server_threads(just_count, NR_WORKERS) == -1);
		EXPECT(k, errno == pipe_errors[k % 2]);
		EXPECT(k, log_lines(EVT_LOG_WARN) == 1);
		EXPECT(k, is_even(before));
	}
	assert_int_equal(
		evt_server_threads(just_count, NR_WORKERS), NR_WORKERS);
	evt_server_stop();
}

/* J12: where eventfd(2) is not allowed there is no such look. */
static void a_system_without_eventfd_serves(void **state)
{
	static const int errors[] = {ENOSYS, EPERM};
	size_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		inject(&on_eventfd, errors[i], 0, FOR_EVER);
		assert_int_not_equal(serve(on_client, echo, 2), -1);
		assert_true(answers(evt_server_port()));
		evt_server_stop();
		end_injection(&on_eventfd);
	}
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

/* A18: nowhere to keep what is dispatched before the pool. */
static void a_dispatch_that_cannot_be_kept_takes_nothing(void **state)
{
	(void)state;
	assert_int_equal(serve(NULL, NULL, 0), 0);
	inject(&on_pipe2, EMFILE, 0, 1);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), -1);
	assert_int_equal(errno, EMFILE);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_int_equal(evt_server_threads(just_count, 1), 1);
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 1);
}

/* A18 */
static void a_pipe_that_stays_small_is_no_error(void **state)
{
	static const int errors[] = {EPERM, EBUSY, ENOMEM, EINVAL};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		inject(&on_widening, errors[i], 0, FOR_EVER);
		assert_int_not_equal(serve(on_client, echo, 2), -1);
		assert_true(answers(evt_server_port()));
		evt_server_stop();
		assert_true(atomic_load(&on_widening.calls) >= 3);
		end_injection(&on_widening);
	}
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

/* C09 */
static void an_interrupted_dispatch_is_delivered_once(void **state)
{
	(void)state;
	assert_int_equal(serve(NULL, just_count, 2), 0);
	inject(&on_write, EINTR, 0, 5);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_int_equal(atomic_load(&on_write.calls), 6);
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 1);
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

/* C09 */
static void an_interrupted_dispatch_is_kept_once(void **state)
{
	(void)state;
	assert_int_equal(serve(NULL, NULL, 0), 0);
	inject(&on_write, EINTR, 0, 3);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_int_equal(atomic_load(&on_write.calls), 4);
	inject(&on_read, EINTR, 0, 20);
	inject(&on_write, EINTR, 0, 3);
	assert_int_equal(evt_server_threads(just_count, 2), 2);
	evt_server_stop();
	end_injection(&on_read);
	assert_int_equal(atomic_load(&tally.served), 1);
}

/* C09 */
static void a_worker_that_is_interrupted_reads_again(void **state)
{
	int i;

	(void)state;
	assert_int_equal(serve(NULL, just_count, 1), 0);
	inject(&on_read, EINTR, 0, 50);
	for (i = 0; i < 100; i++)
		assert_int_equal(evt_thread_dispatch(NO_FD, 0, NULL), 0);
	evt_server_stop();
	assert_true(atomic_load(&on_read.calls) > 50);
	assert_int_equal(atomic_load(&tally.served), 100);
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

/* C09: pipe(7) promises that this cannot be; if it is, nothing was taken. */
static void a_record_that_is_not_written_whole_is_an_error(void **state)
{
	(void)state;
	assert_int_equal(serve(NULL, just_count, 2), 0);
	atomic_store(&short_writes, true);
	inject(&on_write, 0, 0, FOR_EVER);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), -1);
	assert_int_equal(errno, EIO);
	end_injection(&on_write);
	atomic_store(&short_writes, false);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	evt_server_stop();
	assert_int_equal(atomic_load(&tally.served), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(
			a_pool_without_a_listener_starts_whole_or_not_at_all),
		LEDGER_TEST(
			a_pool_beside_a_listener_starts_whole_or_not_at_all),
		LEDGER_TEST(what_is_kept_outlives_a_pool_that_does_not_start),
		LEDGER_TEST(a_kept_record_waits_for_a_pool_without_a_listener),
		LEDGER_TEST(a_listener_without_its_thread_is_not_started),
		LEDGER_TEST(a_listener_without_its_pipe_is_not_started),
		LEDGER_TEST(a_pool_without_all_its_pipes_is_not_started),
		LEDGER_TEST(a_pool_without_room_for_its_bases_is_not_started),
		LEDGER_TEST(a_system_without_eventfd_serves),
		LEDGER_TEST(a_dispatch_that_cannot_be_kept_takes_nothing),
		LEDGER_TEST(a_pipe_that_stays_small_is_no_error),
		LEDGER_TEST(an_interrupted_dispatch_is_delivered_once),
		LEDGER_TEST(an_interrupted_dispatch_is_kept_once),
		LEDGER_TEST(a_worker_that_is_interrupted_reads_again),
		LEDGER_TEST(a_record_that_is_not_written_whole_is_an_error),
	};

	return ledger_run("spawn", tests);
}
