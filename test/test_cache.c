/*
 * test_cache.c: the example cache: the same exchanges with it and with a
 * memcached (cache_script.py), client libraries and tools, and what many
 * connections do at once.
 */
#include "ledger.h"
#include "programs.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define SCRIPT "exec /usr/bin/python3 test/cache_script.py "

static int end_all(void **state)
{
	end_programs();
	return ledger_close(state);
}

#define PROGRAM_TEST(fn)                                   \
	{                                                  \
#fn, fn, ledger_open, end_all, (void *)#fn \
	}

static void start_cache(const char *option)
{
	assert_true(start_server(
			    "examples/cache", "tcp://127.0.0.1:0", option) > 0);
}

static void end_cache(void)
{
	assert_int_equal(end_server(SIGTERM), 0);
	assert_null(strstr(said, "error"));
	assert_null(strstr(said, "warn"));
}

/* True if the script ends well; else what it said is shown. */
static bool succeeds(int status)
{
	if (status != 0)
		print_message("status %d: %s\n", status, said);
	return status == 0;
}

/* Sends it, and receives that: true. */
static bool asks(int fd, const char *request, const char *answer)
{
	char bytes[2048];
	size_t len = strlen(answer);

	if (!says(fd, request) || !receive_all(fd, bytes, len))
		return false;
	if (memcmp(bytes, answer, len) == 0)
		return true;
	print_message("to %sthe answer was %.*s\n", request, (int)len, bytes);
	return false;
}

static void cache_answers_as_its_comment_says(void **state)
{
	int client;

	(void)state;
	start_cache(NULL);
	client = start_client("nc -C -N localhost %d", server.port);
	assert_true(says(client, "set fruit 0 60 5\n"));
	assert_true(says(client, "apple\n"));
	assert_true(receives(client, "STORED\r\n"));
	assert_true(says(client, "get fruit\n"));
	assert_true(receives(client, "VALUE fruit 0 5\r\n"));
	assert_true(receives(client, "apple\r\n"));
	assert_true(receives(client, "END\r\n"));
	assert_int_equal(end_client(client), 0);
	end_cache();
}

/* Byte for byte, whole and in pieces. */
static void memcached_would_have_answered_the_same(void **state)
{
	(void)state;
	if (!have("memcached"))
		skip();
	start_cache("-t2");
	assert_true(succeeds(shell(SCRIPT "compare %d", server.port)));
	assert_non_null(strstr(said, " 0 differ"));
	end_cache();
}

static void memcached_would_have_answered_the_same_at_random(void **state)
{
	int seed;

	(void)state;
	if (!have("memcached"))
		skip();
	start_cache("-t2");
	for (seed = 1; seed <= 3; seed++)
		assert_true(succeeds(shell(SCRIPT "random %d %d %d",
			server.port, seed, slowness() == 1 ? 1000 : 100)));
	end_cache();
}

static void garbage_harms_nobody(void **state)
{
	int seed;

	(void)state;
	start_cache("-t2");
	for (seed = 1; seed <= 4; seed++)
		assert_true(succeeds(shell(SCRIPT "garbage %d %d %d",
			server.port, seed, slowness() == 1 ? 2000 : 200)));
	end_cache();
}

static void what_is_over_is_gone_in_time(void **state)
{
	(void)state;
	start_cache("-t2");
	assert_true(succeeds(shell(SCRIPT "expiry %d", server.port)));
	end_cache();
}

static void slow_readers_get_all_and_need_no_memory(void **state)
{
	(void)state;
	start_cache("-t2");
	assert_true(succeeds(
		shell(SCRIPT "slow %d %d", server.port, (int)server.pid)));
	end_cache();
}

static void a_client_library_finds_what_it_expects(void **state)
{
	(void)state;
	if (shell("/usr/bin/python3 -c 'import pymemcache'") != 0)
		skip();
	start_cache("-t2");
	assert_true(succeeds(shell(SCRIPT "client %d", server.port)));
	end_cache();
}

static void the_tools_of_libmemcached_work(void **state)
{
	static const struct {
		const char *call;
		int status;
	} calls[] = {{"memcping", 0}, {"memccp test/test_cache.c", 0},
		{"memcexist test_cache.c", 0}, {"memcstat", 0},
		{"memctouch --expire=100 test_cache.c", 0},
		{"memccat test_cache.c", 0}, {"memcrm test_cache.c", 0},
		{"memcexist test_cache.c", 1}, {"memccat test_cache.c", 1},
		{"memccp test/programs.h test/ledger.h", 0}, {"memcflush", 0},
		{"memcexist programs.h", 1}};
	size_t i;

	(void)state;
	if (!have("memccp"))
		skip();
	start_cache("-t2");
	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		int status = shell("%s --servers=127.0.0.1:%d", calls[i].call,
			server.port);

		if (status != calls[i].status)
			print_message("%s: %s\n", calls[i].call, said);
		assert_int_equal(status, calls[i].status);
		if (strncmp(calls[i].call, "memccat", 7) == 0 && status == 0)
			assert_non_null(strstr(said, "the example cache"));
	}
	end_cache();
}

/* The limit */

/* A value of stats; -1: there is none. */
static long stat_of(int fd, const char *name)
{
	char wanted[64];
	char line[256];
	long value = -1;

	snprintf(wanted, sizeof(wanted), "STAT %s ", name);
	if (!says(fd, "stats\r\n"))
		return -1;
	while (read_line(fd, line, sizeof(line)) &&
		strcmp(line, "END\r\n") != 0)
		if (strncmp(line, wanted, strlen(wanted)) == 0)
			value = strtol(line + strlen(wanted), NULL, 10);
	return value;
}

static bool send_value(int fd, int nr, size_t len)
{
	static char bytes[1 << 20];
	size_t head = (size_t)snprintf(
		bytes, sizeof(bytes), "set key%d 0 0 %zu\r\n", nr, len);

	memset(bytes + head, 'v', len);
	memcpy(bytes + head + len, "\r\n", 2);
	return send_all(fd, bytes, head + len + 2);
}

/* Stores a value of len bytes in key number nr, and asks for another. */
static bool put(int fd, int nr, size_t len, int other)
{
	char request[64];
	char line[64];

	snprintf(request, sizeof(request), "touch key%d 0\r\n", other);
	return send_value(fd, nr, len) && says(fd, request) &&
		receives(fd, "STORED\r\n") && read_line(fd, line, sizeof(line));
}

/* Ten times as much as fits is stored; 100 keys are asked for all the while. */
static void fill(int megabytes, bool *under, int *survivors)
{
	int nr = megabytes * 10 * 1024;
	int fd = connect_to(server.port);
	char request[32];
	char line[64];
	int i;

	*under = true;
	*survivors = 0;
	for (i = 0; i < nr; i++) {
		assert_true(put(fd, i, i < 100 ? 100 : 1024, i % 100));
		if (i % 500 == 0 &&
			stat_of(fd, "bytes") > stat_of(fd, "limit_maxbytes"))
			*under = false;
	}
	for (i = 0; i < 100; i++) {
		snprintf(request, sizeof(request), "touch key%d 0\r\n", i);
		assert_true(says(fd, request));
		assert_true(read_line(fd, line, sizeof(line)));
		*survivors += strcmp(line, "TOUCHED\r\n") == 0;
	}
	assert_true(stat_of(fd, "evictions") > nr / 2);
	assert_true(stat_of(fd, "curr_items") > nr / 20);
	close(fd);
}

static void the_least_used_leave_above_the_limit(void **state)
{
	static const char *const options[] = {"-m1", "-m2"};
	static const int megabytes[] = {1, 2};
	int survivors;
	bool under;
	int i;

	(void)state;
	for (i = 0; i < (slowness() == 1 ? 2 : 1); i++) {
		start_cache(options[i]);
		fill(megabytes[i], &under, &survivors);
		print_message("%s: %d of 100 used ones have stayed\n",
			options[i], survivors);
		assert_true(under);
		assert_true(survivors >= 90);
		end_cache();
	}
}

static void a_megabyte_fits_into_one(void **state)
{
	int fd;
	int i;

	(void)state;
	start_cache("-m1");
	fd = connect_to(server.port);
	for (i = 0; i < 20; i++)
		assert_true(put(fd, i, 1000000, i));
	assert_true(stat_of(fd, "bytes") <= 1 << 20);
	assert_int_equal(stat_of(fd, "curr_items"), 1);
	assert_true(stat_of(fd, "evictions") == 19);
	close(fd);
	end_cache();
}

/* No memory: it says so, keeps what there is, and goes on. */
static void without_memory_it_says_so_and_goes_on(void **state)
{
	struct rlimit limit = {.rlim_max = RLIM_INFINITY};
	char line[128] = "STORED\r\n";
	int fd;
	int i;

	(void)state;
	if (slowness() > 1)
		skip(); /* what looks for errors needs the room */
	start_cache("-m4096");
	limit.rlim_cur = 400UL << 20;
	assert_int_equal(prlimit(server.pid, RLIMIT_AS, &limit, NULL), 0);
	fd = connect_to(server.port);
	for (i = 0; i < 1000 && strcmp(line, "STORED\r\n") == 0; i++) {
		assert_true(send_value(fd, i, 1000000));
		assert_true(read_line(fd, line, sizeof(line)));
	}
	assert_string_equal(
		line, "SERVER_ERROR out of memory storing object\r\n");
	assert_true(i > 50);
	assert_true(asks(fd, "delete key0\r\nset a 0 0 1\r\nb\r\nget a\r\n",
		"DELETED\r\nSTORED\r\nVALUE a 0 1\r\nb\r\nEND\r\n"));
	close(fd);
	assert_int_equal(end_server(SIGTERM), 0);
}

/* Many at once */

#define THREADS 4
#define CONNS   125 /* of each */
#define ROUNDS  20

static struct worker {
	pthread_t thread;
	int nr;
	int good; /* rounds of connections */
} workers[THREADS];

static bool cas_loop(int fd)
{
	unsigned long long cas;
	char request[128];
	char line[128];
	long value;
	int tries;

	for (tries = 0; tries < 10000; tries++) {
		if (!says(fd, "gets shared\r\n") ||
			!read_line(fd, line, sizeof(line)) ||
			sscanf(line, "VALUE shared 0 %*d %llu", &cas) != 1 ||
			!read_line(fd, line, sizeof(line)))
			return false;
		value = strtol(line, NULL, 10) + 1;
		snprintf(request, sizeof(request),
			"cas shared 0 0 6 %llu\r\n%06ld\r\n", cas, value);
		if (!receives(fd, "END\r\n") || !says(fd, request) ||
			!read_line(fd, line, sizeof(line)))
			return false;
		if (strcmp(line, "STORED\r\n") == 0)
			return true;
	}
	return false;
}

/* What one connection does in a round: its own key is as it has left it. */
static bool do_round(int fd, int nr, int round)
{
	char request[256];
	char answer[256];

	snprintf(request, sizeof(request),
		"set own%d 7 0 4\r\n%04d\r\nget own%d\r\nincr own%d 1\r\n"
		"delete own%d\r\nget own%d\r\nincr sum 1 noreply\r\n"
		"append log 0 0 1 noreply\r\nx\r\nget none%d\r\n",
		nr, round, nr, nr, nr, nr, nr);
	snprintf(answer, sizeof(answer),
		"STORED\r\nVALUE own%d 7 4\r\n%04d\r\nEND\r\n%d\r\n"
		"DELETED\r\nEND\r\nEND\r\n",
		nr, round, round + 1);
	return asks(fd, request, answer);
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	int fds[CONNS];
	int round;
	int i;

	for (i = 0; i < CONNS; i++)
		fds[i] = connect_to(server.port);
	for (round = 0; round < ROUNDS; round++)
		for (i = 0; i < CONNS; i++)
			worker->good += do_round(fds[i], worker->nr * CONNS + i,
						round) &&
				(i % 5 != 0 || cas_loop(fds[i]));
	for (i = 0; i < CONNS; i++)
		close(fds[i]);
	return NULL;
}

static void nothing_is_lost_among_500_connections(void **state)
{
	const int all = THREADS * CONNS * ROUNDS;
	char answer[64];
	int good = 0;
	int fd;
	int i;

	(void)state;
	memset(workers, 0, sizeof(workers));
	start_cache("-t4");
	fd = connect_to(server.port);
	assert_true(asks(fd,
		"set sum 0 0 1\r\n0\r\nset log 0 0 0\r\n\r\n"
		"set shared 0 0 6\r\n000000\r\n",
		"STORED\r\nSTORED\r\nSTORED\r\n"));
	for (i = 0; i < THREADS; i++) {
		workers[i].nr = i;
		assert_int_equal(pthread_create(&workers[i].thread, NULL,
					 worker_main, &workers[i]),
			0);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		good += workers[i].good;
	}
	assert_int_equal(good, all);
	snprintf(answer, sizeof(answer), "%d\r\n", all);
	assert_true(asks(fd, "incr sum 0\r\n", answer));
	snprintf(answer, sizeof(answer), "VALUE log 0 %d\r\n", all);
	assert_true(asks(fd, "get log\r\n", answer));
	close(fd);
	fd = connect_to(server.port);
	snprintf(answer, sizeof(answer), "VALUE shared 0 6\r\n%06d\r\nEND\r\n",
		all / 5);
	assert_true(asks(fd, "get shared\r\n", answer));
	close(fd);
	end_cache();
}

static void wrong_usage_is_refused_with_2(void **state)
{
	static const char *const wrong[] = {"-m 0", "-m x", "-m", "-m -1",
		"-m 64x", "-m 99999999", "-t 0", "x", "-z",
		"tcp://:0 tcp://:0"};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(run("examples/cache", "%s", wrong[i]), 2);
		assert_non_null(strstr(said, "[-t WORKERS] [-m MB]"));
	}
	assert_int_equal(run("examples/cache", "-h"), 0);
	assert_non_null(strstr(said, "tcp://[::]:11211"));
}

static void signals_end_it_with_0(void **state)
{
	int fd;

	(void)state;
	start_cache("-m100");
	fd = connect_to(server.port);
	assert_true(asks(fd, "set a 0 0 1\r\nb\r\n", "STORED\r\n"));
	assert_int_equal(stat_of(fd, "limit_maxbytes"), 100L << 20);
	assert_int_equal(end_server(SIGINT), 0);
	assert_true(at_end(fd));
	close(fd);
	start_cache(NULL);
	end_cache();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROGRAM_TEST(cache_answers_as_its_comment_says),
		PROGRAM_TEST(memcached_would_have_answered_the_same),
		PROGRAM_TEST(memcached_would_have_answered_the_same_at_random),
		PROGRAM_TEST(garbage_harms_nobody),
		PROGRAM_TEST(what_is_over_is_gone_in_time),
		PROGRAM_TEST(slow_readers_get_all_and_need_no_memory),
		PROGRAM_TEST(a_client_library_finds_what_it_expects),
		PROGRAM_TEST(the_tools_of_libmemcached_work),
		PROGRAM_TEST(the_least_used_leave_above_the_limit),
		PROGRAM_TEST(a_megabyte_fits_into_one),
		PROGRAM_TEST(without_memory_it_says_so_and_goes_on),
		PROGRAM_TEST(nothing_is_lost_among_500_connections),
		PROGRAM_TEST(wrong_usage_is_refused_with_2),
		PROGRAM_TEST(signals_end_it_with_0),
	};

	return ledger_run("cache", tests);
}
