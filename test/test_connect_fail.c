/*
 * test_connect_fail.c: evt_connect that reaches nobody, in each way that there
 * is: on_close tells it once, on_open never.
 */
/* wrap: socket connect getsockopt */
#include "outgoing.h"
#include "inject.h"

static struct inject making;
static struct inject connecting;
static struct inject asking; /* for SO_ERROR */

int __real_socket(int domain, int type, int protocol);
int __real_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *len);

int __wrap_socket(int domain, int type, int protocol)
{
	return injected(&making) ? -1 : __real_socket(domain, type, protocol);
}

int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	int result = __real_connect(fd, addr, len);

	/* An interrupted one goes on all the same. */
	return injected(&connecting) ? -1 : result;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	if (name == SO_ERROR && injected(&asking))
		return -1;
	return __real_getsockopt(fd, level, name, value, len);
}

static const struct evt_handlers echo_handlers = {.on_data = echo_data};

static void start_echo(void)
{
	start_server(&echo_handlers, NULL, 1);
}

/* At the end, when all connections are closed. */
static void expect_counts(unsigned connected, unsigned failed)
{
	struct evt_stats stats;

	evt_pool_stop(server.pool);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	stats = server_stats();
	assert_int_equal(stats.connected, connected);
	assert_int_equal(stats.connects_failed, failed);
	assert_int_equal(stats.open, 0);
	assert_int_equal(stats.opened + stats.connected,
		stats.closed_peer + stats.closed_ours + stats.closed_reset +
			stats.closed_idle + stats.closed_deadline +
			stats.closed_overflow + stats.closed_stopped +
			stats.closed_failed);
}

static void write_hello(struct evt_conn *conn)
{
	evt_conn_printf(conn, "hello");
}

static atomic_int taken; /* refs, of which done will be called */

static void write_refs(struct evt_conn *conn)
{
	static const char bytes[10000];
	int first = evt_conn_write_ref(
		conn, bytes, sizeof(bytes), out_done, NULL);

	evt_conn_write(conn, "x", 1);
	atomic_store(&taken,
		(first == 0) +
			(evt_conn_write_ref(conn, bytes, 1, out_done, NULL) ==
				0));
}

/* Nobody there */

static void a_refusal_is_told_once(void **state)
{
	struct call call = {.then = write_refs};
	int port;
	int deaf = bound_but_deaf("127.0.0.1", &port);

	(void)state;
	start_echo();
	call.url = url_of(port);
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, ECONNREFUSED);
	assert_int_equal(atomic_load(&out.dones_at_close), 2);
	close(deaf);
	expect_counts(0, 1);
	assert_int_equal(atomic_load(&out.closed), 1);
	assert_int_equal(atomic_load(&out.dones), 2);
}

static void a_unix_socket_that_is_not_there_is_told_too(void **state)
{
	struct call call = {.url = "unix:@test_connect_fail.nobody"};

	(void)state;
	start_echo();
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, ECONNREFUSED);
	call.url = "unix:/tmp/test_connect_fail.nobody";
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, ENOENT);
	call.url = "unix:/tmp";
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, ECONNREFUSED);
	expect_counts(0, 3);
}

static atomic_int closed_inside;

static void note_closed(struct evt_conn *conn)
{
	(void)conn;
	atomic_store(&closed_inside, atomic_load(&out.closed));
}

/* Not from inside of evt_connect, though it is refused at once. */
static void nothing_is_told_before_the_callback_has_returned(void **state)
{
	struct call call = {
		.url = "unix:@test_connect_fail.nobody", .then = note_closed};

	(void)state;
	start_echo();
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, ECONNREFUSED);
	assert_int_equal(atomic_load(&closed_inside), 0);
}

static void the_last_address_says_why(void **state)
{
	struct addr_list list = {.nr = 0};
	struct call call = {.addrs = list.info};
	int port;
	int deaf = bound_but_deaf("127.0.0.1", &port);

	(void)state;
	start_echo();
	add_addr(&list, port);
	add_addr(&list, port);
	add_addr(&list, port);
	list.in[2].sin_family = AF_APPLETALK; /* refused at once */
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, EAFNOSUPPORT);
	list.info[1].ai_next = NULL;
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, ECONNREFUSED);
	expect_counts(0, 2);
	close(deaf);
}

static void a_list_without_a_usable_address_fails(void **state)
{
	struct addr_list list = {.nr = 0};
	struct call call = {.addrs = list.info};

	(void)state;
	start_echo();
	add_addr(&list, 1);
	list.info[0].ai_addrlen = 5000;
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, EINVAL);
}

/* No answer */

/* In this time, and not in less. */
static void expect_timeout(int64_t start, int ms)
{
	expect_failure(EVT_REASON_FAILED, ETIMEDOUT);
	assert_in_range(now_ms() - start, ms - 1, 10 * ms * slowness());
}

/* L02 */
static void who_does_not_answer_meets_the_timeout(void **state)
{
	const struct evt_connect_options options = {.connect_ms = 200};
	struct blackhole hole;
	struct call call = {.url = hole.url, .options = &options};
	int64_t start;

	(void)state;
	start_echo();
	open_blackhole(&hole);
	start = now_ms();
	call_out(&call);
	expect_timeout(start, 200);
	close_blackhole(&hole);
	expect_counts(0, 1);
}

static void a_unix_socket_whose_queue_is_full_does_too(void **state)
{
	const struct evt_connect_options options = {.connect_ms = 200};
	struct blackhole hole;
	struct call call = {.url = hole.url, .options = &options};
	int64_t start;

	(void)state;
	start_echo();
	open_unix_blackhole(&hole);
	start = now_ms();
	call_out(&call);
	expect_timeout(start, 200);
	close_blackhole(&hole);
	expect_counts(0, 1);
}

static void all_addresses_share_one_timeout(void **state)
{
	const struct evt_connect_options options = {.connect_ms = 300};
	struct addr_list list = {.nr = 0};
	struct call call = {.addrs = list.info, .options = &options};
	struct blackhole hole;
	int64_t start;
	int i;

	(void)state;
	start_echo();
	open_blackhole(&hole);
	for (i = 0; i < 5; i++)
		add_addr(&list, hole.port);
	start = now_ms();
	call_out(&call);
	expect_timeout(start, 300);
	assert_true(now_ms() - start < 1500 * slowness());
	close_blackhole(&hole);
}

static void a_place_in_a_full_queue_is_waited_for(void **state)
{
	struct blackhole hole;
	struct call call = {.url = hole.url, .then = write_hello};
	int fd;

	(void)state;
	start_echo();
	open_unix_blackhole(&hole);
	call_out(&call);
	fd = take_client(hole.listener); /* a filler: one place is free */
	assert_true(WAIT_FOR(atomic_load(&out.opened) == 1));
	close(fd);
	fd = take_client(hole.listener);
	hears(fd, "hello");
	close(fd);
	close_blackhole(&hole);
	assert_true(WAIT_FOR(atomic_load(&out.closed) == 1));
	expect_counts(1, 0);
}

/* A unix socket may be in a list too, and has a share as the others have. */
static void a_full_queue_after_a_timeout_has_its_share(void **state)
{
	const struct evt_connect_options options = {
		.connect_ms = 600 * slowness()};
	struct blackhole hole;
	struct blackhole full;
	struct addr_list list = {.nr = 0};
	struct call call = {.addrs = list.info, .options = &options};
	struct sockaddr_un un;
	socklen_t len = sizeof(un);
	int64_t start;
	int fd;

	(void)state;
	start_echo();
	open_blackhole(&hole);
	open_unix_blackhole(&full);
	getsockname(full.listener, (struct sockaddr *)&un, &len);
	add_addr(&list, hole.port);
	add_addr(&list, hole.port);
	list.info[1].ai_addr = (struct sockaddr *)&un;
	list.info[1].ai_addrlen = len;
	call_out(&call);
	start = now_ms();
	assert_true(WAIT_FOR(now_ms() - start >= 400 * slowness()));
	fd = take_client(full.listener);
	assert_true(WAIT_FOR(atomic_load(&out.opened) == 1));
	close(fd);
	close_blackhole(&hole);
	close_blackhole(&full);
}

/* Ended by us meanwhile */

static void close_it(struct evt_conn *conn)
{
	write_refs(conn);
	evt_conn_close(conn);
	evt_conn_close(conn);
}

static void abort_it(struct evt_conn *conn)
{
	write_refs(conn);
	evt_conn_abort(conn);
	evt_conn_close(conn);
}

static void one_that_is_connecting_may_be_closed_or_aborted(void **state)
{
	struct blackhole hole;
	struct call call = {.url = hole.url};
	int i;

	(void)state;
	start_echo();
	open_blackhole(&hole);
	for (i = 0; i < 2; i++) {
		call.then = i == 0 ? close_it : abort_it;
		call_out(&call);
		expect_failure(EVT_REASON_OURS, 0);
		assert_int_equal(atomic_load(&out.dones_at_close), 2);
	}
	close_blackhole(&hole);
	expect_counts(0, 2);
	assert_int_equal(atomic_load(&out.dones), 2);
}

static void close_later(struct evt_worker *worker, void *arg)
{
	struct call *it = arg;

	(void)worker;
	evt_conn_close(it->conn);
}

/* In a later callback; and without any limit of time. */
static void it_may_be_closed_later_as_well(void **state)
{
	const struct evt_connect_options options = {.connect_ms = -1};
	struct blackhole tcp;
	struct blackhole full;
	struct call call = {.options = &options};
	int i;

	(void)state;
	start_echo();
	open_blackhole(&tcp);
	open_unix_blackhole(&full);
	for (i = 0; i < 2; i++) {
		call.url = i == 0 ? tcp.url : full.url;
		call_out(&call);
		assert_true(on_worker(0, close_later, &call));
		expect_failure(EVT_REASON_OURS, 0);
	}
	close_blackhole(&tcp);
	close_blackhole(&full);
	expect_counts(0, 2);
}

static void count_visit(struct evt_conn *conn, void *arg)
{
	atomic_int *nr = arg;

	(void)conn;
	atomic_fetch_add(nr, 1);
}

static void visit_all(struct evt_worker *worker, void *arg)
{
	evt_worker_each_conn(worker, count_visit, arg);
}

static void one_that_is_connecting_is_not_visited(void **state)
{
	struct blackhole hole;
	struct call call = {.url = hole.url};
	atomic_int visits = 0;

	(void)state;
	start_echo();
	open_blackhole(&hole);
	call_out(&call);
	assert_true(on_worker(0, visit_all, &visits));
	assert_int_equal(atomic_load(&visits), 0);
	assert_int_equal(server_stats().open, 0);
	assert_true(on_worker(0, close_later, &call));
	expect_failure(EVT_REASON_OURS, 0);
	close_blackhole(&hole);
}

static void set_deadline(struct evt_conn *conn)
{
	evt_conn_set_timeout(conn, EVT_TIMEOUT_IDLE, 1);
	evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, 100);
}

/* Being idle begins when it is open. */
static void a_deadline_of_the_programs_holds_meanwhile(void **state)
{
	struct blackhole hole;
	struct call call = {.url = hole.url, .then = set_deadline};
	int64_t start;

	(void)state;
	start_echo();
	open_blackhole(&hole);
	start = now_ms();
	call_out(&call);
	expect_failure(EVT_REASON_DEADLINE, ETIMEDOUT);
	assert_true(now_ms() - start >= 99);
	close_blackhole(&hole);
}

static atomic_int write_result;

static void write_too_much(struct evt_conn *conn)
{
	static const char bytes[1001];

	evt_conn_write_ref(conn, bytes, 1000, out_done, NULL);
	atomic_store(&write_result, evt_conn_write(conn, bytes, 1));
	evt_conn_write(conn, bytes, 1);
}

static void too_much_output_ends_it(void **state)
{
	const struct evt_connect_options options = {
		.max_output = 1000, .high_mark = 1000, .low_mark = 100};
	struct blackhole hole;
	struct call call = {
		.url = hole.url, .options = &options, .then = write_too_much};

	(void)state;
	start_echo();
	open_blackhole(&hole);
	call_out(&call);
	expect_failure(EVT_REASON_OVERFLOW, ENOBUFS);
	assert_int_equal(atomic_load(&write_result), -1);
	assert_int_equal(atomic_load(&out.dones_at_close), 1);
	close_blackhole(&hole);
	expect_counts(0, 1);
}

/* The pool stops */

static void a_stop_ends_it_with_the_grace(void **state)
{
	const struct evt_pool_options options = {.workers = 1, .grace_ms = 100};
	struct blackhole hole;
	struct call call = {.url = hole.url};

	(void)state;
	open_blackhole(&hole);
	server.pool = evt_pool_new(&options);
	assert_int_equal(evt_pool_start(server.pool), 0);
	call_out(&call);
	expect_counts(0, 1);
	expect_failure(EVT_REASON_STOPPED, 0);
	close_blackhole(&hole);
}

/* It is on_open first, and on_close alone if that never came. */
static void on_stop_is_not_called_before_on_open(void **state)
{
	const struct evt_pool_options options = {.workers = 1, .grace_ms = 100};
	const struct evt_handlers handlers = {.on_open = out_open,
		.on_stop = out_stop,
		.on_close = out_close};
	struct blackhole hole;
	struct call call = {.url = hole.url, .handlers = &handlers};

	(void)state;
	open_blackhole(&hole);
	server.pool = evt_pool_new(&options);
	assert_int_equal(evt_pool_start(server.pool), 0);
	call_out(&call);
	expect_counts(0, 1);
	expect_failure(EVT_REASON_STOPPED, 0);
	assert_int_equal(atomic_load(&out.stops), 0);
	close_blackhole(&hole);
}

static void stop_and_close(struct evt_conn *conn, void *arg)
{
	if (atomic_load(&out.opened) == 1)
		out_stop(conn, arg);
	evt_conn_printf(conn, "bye");
	evt_conn_close(conn);
}

/* And when it does come while the pool stops, on_stop follows. */
static void one_that_connects_during_a_stop_is_told_of_it(void **state)
{
	const struct evt_handlers handlers = {.on_open = out_open,
		.on_stop = stop_and_close,
		.on_close = out_close};
	struct blackhole full;
	struct call call = {.url = full.url, .handlers = &handlers};
	int fd;

	(void)state;
	start_echo();
	open_unix_blackhole(&full);
	call_out(&call);
	evt_pool_stop(server.pool);
	assert_true(WAIT_FOR(refused(server.port))); /* it has begun */
	fd = take_client(full.listener);
	assert_true(WAIT_FOR(atomic_load(&out.closed) == 1));
	assert_int_equal(atomic_load(&out.opened), 1);
	assert_int_equal(atomic_load(&out.stops), 1);
	close(fd);
	close_blackhole(&full);
}

/* What the system says */

static void each_error_of_the_system_is_told(void **state)
{
	static const struct {
		struct inject *of;
		int error;
	} faults[] = {{&making, EMFILE}, {&making, ENFILE}, {&making, ENOBUFS},
		{&making, EAFNOSUPPORT}, {&connecting, ENETUNREACH},
		{&connecting, EADDRNOTAVAIL}, {&connecting, EACCES},
		{&connecting, EHOSTUNREACH}, {&asking, ENOMEM}};
	struct call call = {.then = write_refs};
	size_t i;

	(void)state;
	start_echo();
	call.url = url_of(server.port);
	for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		inject(faults[i].of, faults[i].error, 0, 1);
		call_out(&call);
		expect_failure(EVT_REASON_FAILED, faults[i].error);
		assert_int_equal(
			atomic_load(&out.dones_at_close), atomic_load(&taken));
		end_injection(faults[i].of);
	}
	call.then = write_hello;
	call_out(&call);
	out_gets("hello");
}

/* The next address is tried, as after a refusal. */
static void an_error_of_one_address_is_not_the_others(void **state)
{
	static struct inject *const calls[] = {&making, &connecting, &asking};
	struct addr_list list = {.nr = 0};
	struct call call = {.addrs = list.info, .then = write_hello};
	size_t i;

	(void)state;
	start_echo();
	add_addr(&list, server.port);
	add_addr(&list, server.port);
	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		inject(calls[i], EHOSTUNREACH, 0, 1);
		call_out(&call);
		out_gets("hello");
		end_injection(calls[i]);
	}
}

/* connect(2): it goes on, and is not to be called again. */
static void an_interrupted_connect_goes_on(void **state)
{
	struct call call = {.then = write_hello};

	(void)state;
	start_echo();
	call.url = url_of(server.port);
	inject(&connecting, EINTR, 0, 1);
	call_out(&call);
	out_gets("hello");
	assert_int_equal(atomic_load(&connecting.calls), 1);
	end_injection(&connecting);
}

static atomic_bool fault_came;

static void call_without_memory(struct evt_worker *worker, void *arg)
{
	struct call *it = arg;
	int n = it->error;

	fail_allocation(n, false);
	make_call(worker, it);
	atomic_store(&fault_came, fault_reached());
	fail_allocation(0, false);
	if (it->conn)
		evt_conn_abort(it->conn);
}

/* K01: each allocation of the call fails once: NULL and ENOMEM, or on_close. */
static void without_memory_nothing_is_lost(void **state)
{
	struct call call = {.then = write_hello};
	int failed = 0;
	int n = 1;

	(void)state;
	start_echo();
	call.url = url_of(server.port);
	call_out(&call);
	out_gets("hello"); /* all threads have what they need */
	call.then = write_refs;
	do {
		forget_out();
		call.error = n++;
		assert_true(on_worker(0, call_without_memory, &call));
		if (call.conn)
			assert_true(WAIT_FOR(atomic_load(&out.closed) == 1));
		else
			assert_int_equal(call.error, ENOMEM);
		failed += call.conn == NULL;
	} while (atomic_load(&fault_came) && n < 100);
	assert_true(failed >= 2);
	assert_true(n < 100);
}

/* And again */

static atomic_int tries;

static void try_again(struct evt_conn *conn, enum evt_reason reason, void *arg);

static const struct evt_handlers stubborn = {
	.on_open = out_open, .on_close = try_again};

static void try_again(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	if (atomic_fetch_add(&tries, 1) == 50)
		out_close(conn, reason, arg);
	else
		evt_connect(evt_conn_worker(conn),
			"unix:@test_connect_fail.nobody", &stubborn, NULL, arg);
}

/* A client that tries again in on_close, at once. */
static void on_close_may_connect_again(void **state)
{
	struct call call = {
		.url = "unix:@test_connect_fail.nobody", .handlers = &stubborn};

	(void)state;
	start_echo();
	atomic_store(&tries, 0);
	call_out(&call);
	expect_failure(EVT_REASON_FAILED, ECONNREFUSED);
	expect_counts(0, 51);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_refusal_is_told_once),
		SERVER_TEST(a_unix_socket_that_is_not_there_is_told_too),
		SERVER_TEST(nothing_is_told_before_the_callback_has_returned),
		SERVER_TEST(the_last_address_says_why),
		SERVER_TEST(a_list_without_a_usable_address_fails),
		SERVER_TEST(who_does_not_answer_meets_the_timeout),
		SERVER_TEST(a_unix_socket_whose_queue_is_full_does_too),
		SERVER_TEST(all_addresses_share_one_timeout),
		SERVER_TEST(a_place_in_a_full_queue_is_waited_for),
		SERVER_TEST(a_full_queue_after_a_timeout_has_its_share),
		SERVER_TEST(one_that_is_connecting_may_be_closed_or_aborted),
		SERVER_TEST(it_may_be_closed_later_as_well),
		SERVER_TEST(one_that_is_connecting_is_not_visited),
		SERVER_TEST(a_deadline_of_the_programs_holds_meanwhile),
		SERVER_TEST(too_much_output_ends_it),
		SERVER_TEST(a_stop_ends_it_with_the_grace),
		SERVER_TEST(on_stop_is_not_called_before_on_open),
		SERVER_TEST(one_that_connects_during_a_stop_is_told_of_it),
		SERVER_TEST(each_error_of_the_system_is_told),
		SERVER_TEST(an_error_of_one_address_is_not_the_others),
		SERVER_TEST(an_interrupted_connect_goes_on),
		SERVER_TEST(without_memory_nothing_is_lost),
		SERVER_TEST(on_close_may_connect_again),
	};

	return ledger_run("connect_fail", tests);
}
