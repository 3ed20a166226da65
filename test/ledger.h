/*
 * ledger.h: the balance sheet under every test, and what tests have in common.
 *
 * LEDGER_TEST(fn) is a cmocka test that ends with nothing left: as many
 * descriptors, threads and live allocations (ours and libevent's) as before.
 * A test that hangs ends its suite with a line that names it.
 *
 * cmocka's asserts belong on the main thread. Callbacks record into atomics;
 * what runs in a forked child (in_child) uses CHECK.
 */
#ifndef LEDGER_H
#define LEDGER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEDGER_TEST(fn)                                         \
	{                                                       \
#fn, fn, ledger_open, ledger_close, (void *)#fn \
	}

/* Runs the tests; the way main ends: return ledger_run("log", tests). */
#define ledger_run(name, tests) \
	(ledger_begin(), cmocka_run_group_tests_name(name, tests, NULL, NULL))

void ledger_begin(void);
int ledger_open(void **state);
int ledger_close(void **state);

/* What is open and alive in this process now. */
int count_fds(void);
int count_threads(void);
long count_allocations(void);

/* "plain", "asan", "tsan" or "valgrind"; and how much slower that is, for
 * limits of time: 1, or more. */
bool under(const char *tool);
int slowness(void);

/* The path of a program of this build: program("test/evt_test"). Static. */
const char *program(const char *name);

/*
 * Fails the n-th allocation from now on (1 is the next), ours and libevent's
 * alike, once or from then on; 0 ends it. fault_reached tells whether it came
 * so far. On all threads.
 */
void fail_allocation(int n, bool from_then_on);
bool fault_reached(void);

/* Fails about one in nr, by chance; 0 ends it. */
void fail_allocations_by_chance(unsigned int nr, unsigned int seed);

/* NULL, or it is asked first whether this one, called from there, fails. */
extern bool (*allocation_hook)(const char *name, const void *address);

/* True once condition is, within 10 s (more under a tool); looks each ms. */
#define WAIT_FOR(condition)                                             \
	__extension__({                                                 \
		int64_t wait_until_ = now_ms() + 10000 * slowness();    \
		bool met_;                                              \
		while (!(met_ = (condition)) && now_ms() < wait_until_) \
			usleep(1000);                                   \
		met_;                                                   \
	})

int64_t now_ms(void);          /* monotonic */
int64_t cpu_ms(void);          /* of this process, user and system */
long voluntary_switches(void); /* of all threads of this process */

/* For code in a forked child, or on another thread: says where, and ends the
 * process with status 1. */
#define CHECK(condition)                                                    \
	do {                                                                \
		if (!(condition)) {                                         \
			fprintf(stderr, "%s:%d: not true: %s (errno %d)\n", \
				__FILE__, __LINE__, #condition, errno);     \
			_exit(1);                                           \
		}                                                           \
	} while (0)

/*
 * Runs fn(arg) in a forked child with a watchdog: its exit status, 0 if fn
 * returned, 128 + signal if one ended it; 128 + SIGALRM is a hang.
 */
int in_child(void (*fn)(void *arg), void *arg, int seconds);

/* The log: caught from ledger_open on, of this test only. */
int log_lines(int at_least); /* how many of this level or above */
bool log_has(const char *text);
const char *log_line(int index); /* NULL past the end */
void log_forget(void);
void log_catch(void); /* again, after a test's own hook */

/* Clients. Blocking sockets; -1 and errno when it fails. */
int connect_to(int port);                    /* 127.0.0.1 */
int connect_to_ip(const char *ip, int port); /* TCP, v4 or v6 */
int udp_to(int port); /* a connected UDP socket, 127.0.0.1 */
bool send_all(int fd, const void *data, size_t len);
bool receive_all(int fd, void *data, size_t len); /* within 10 s */
bool at_end(int fd);           /* end of stream or a reset, in 10 s */
void close_with_reset(int fd); /* SO_LINGER 0 */
bool refused(int port);        /* nobody listens there */

#endif /* LEDGER_H */
