/*
 * test_connect_out.c: evt_connect that reaches somebody: every kind of address,
 * what was written before it was connected, the first of several addresses that
 * answers; and what it refuses at once.
 */
/* wrap: epoll_ctl */
#include "outgoing.h"

#include <event2/event.h>
#include <sys/epoll.h>
#include <sys/stat.h>

static atomic_int polls; /* calls of epoll_ctl */

int __real_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event);

int __wrap_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
	atomic_fetch_add(&polls, 1);
	return __real_epoll_ctl(epoll, what, fd, event);
}

static const struct evt_handlers echo_handlers = {.on_data = echo_data};

static void start_echo(void)
{
	start_server(&echo_handlers, NULL, 1);
}

static void write_hello(struct evt_conn *conn)
{
	evt_conn_printf(conn, "hello");
}

/* Where to */

static void reaches(const char *url)
{
	struct call call = {.url = url, .then = write_hello};

	call_out(&call);
	out_gets("hello");
	assert_int_equal(atomic_load(&out.opened), 1);
	assert_int_equal(atomic_load(&out.closed), 0);
	stop_server();
	assert_int_equal(atomic_load(&out.closed), 1);
	assert_int_equal(atomic_load(&out.opened), 1);
}

static void ipv4_is_reached(void **state)
{
	(void)state;
	start_echo();
	reaches(url_of(server.port));
}

static void ipv6_is_reached(void **state)
{
	char url[64];
	int port;

	(void)state;
	close(bound("::1", SOCK_STREAM, &port)); /* or skips */
	start_server_at("tcp://[::1]:0", &echo_handlers, NULL, 1, NULL);
	snprintf(url, sizeof(url), "tcp://[::1]:%d", server.port);
	reaches(url);
}

static void a_unix_path_is_reached(void **state)
{
	char dir[] = "/tmp/test_connect_out.XXXXXX";
	char url[64];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(url, sizeof(url), "unix:%s/sock", dir);
	start_server_at(url, &echo_handlers, NULL, 1, NULL);
	reaches(url);
	assert_int_equal(rmdir(dir), 0);
}

static void an_abstract_name_is_reached(void **state)
{
	char url[64];

	(void)state;
	snprintf(url, sizeof(url), "unix:@test_connect_out.%d", getpid());
	start_server_at(url, &echo_handlers, NULL, 1, NULL);
	reaches(url);
}

/* Before it is connected */

static void write_all_kinds(struct evt_conn *conn)
{
	static const char ref[] = "REF";
	char *pattern = new_pattern(0, 100000);

	evt_conn_write(conn, "small", 5);
	evt_conn_write_ref(conn, ref, 3, out_done, NULL);
	evt_conn_printf(conn, "%d", 42);
	evt_conn_write(conn, pattern, 100000);
	evt_conn_write_ref(conn, ref, 0, out_done, NULL);
	evt_conn_write(conn, "end", 3);
	free(pattern);
}

static void write_more(struct evt_conn *conn, void *arg)
{
	out_open(conn, arg);
	evt_conn_write(conn, "open", 4);
	evt_conn_close(conn);
}

/* A connection to listener, accepted, that hears what write_all_kinds wrote. */
static int accept_and_hear(int listener)
{
	int fd = take_client(listener);

	hears(fd, "smallREF42");
	assert_int_equal(hear_pattern(fd, 0, 100000), 100000);
	hears(fd, "end");
	return fd;
}

static void what_was_written_before_arrives_in_order(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = write_more, .on_close = out_close};
	struct call call = {.handlers = &handlers, .then = write_all_kinds};
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int fd;

	(void)state;
	assert_int_equal(listen(listener, 5), 0);
	start_echo();
	call.url = url_of(port);
	call_out(&call);
	fd = accept_and_hear(listener);
	hears(fd, "open");
	assert_true(ends_cleanly(fd));
	close(fd);
	assert_true(WAIT_FOR(atomic_load(&out.closed) == 1));
	assert_int_equal(atomic_load(&out.reason), EVT_REASON_OURS);
	assert_int_equal(atomic_load(&out.dones), 2);
	close(listener);
}

static atomic_size_t pending_before;

static void write_much(struct evt_conn *conn)
{
	char *pattern = new_pattern(0, 3 << 20);

	evt_conn_write(conn, pattern, 3 << 20);
	atomic_store(&pending_before, evt_conn_pending(conn));
	free(pattern);
}

/* More than the high mark and the kernel take: on_drain tells when there is
 * room, once. */
static void on_drain_follows_what_was_written_before(void **state)
{
	struct call call = {.then = write_much};
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int fd;

	(void)state;
	assert_int_equal(listen(listener, 5), 0);
	start_echo();
	call.url = url_of(port);
	call_out(&call);
	assert_int_equal(atomic_load(&pending_before), 3 << 20);
	fd = take_client(listener);
	assert_int_equal(hear_pattern(fd, 0, 3 << 20), 3 << 20);
	assert_true(WAIT_FOR(atomic_load(&out.drains) == 1));
	say(fd, "read again"); /* it had been above the high mark */
	out_gets("read again");
	assert_int_equal(atomic_load(&out.drains), 1);
	close(fd);
	close(listener);
}

static void finish_it(struct evt_conn *conn)
{
	evt_conn_write(conn, "request", 7);
	evt_conn_finish(conn);
}

static void a_stream_may_be_finished_before_it_is_connected(void **state)
{
	struct call call = {.then = finish_it};
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int fd;

	(void)state;
	assert_int_equal(listen(listener, 5), 0);
	start_echo();
	call.url = url_of(port);
	call_out(&call);
	fd = take_client(listener);
	hears(fd, "request");
	assert_true(ends_cleanly(fd));
	say(fd, "answer");
	close(fd);
	out_gets("answer");
	assert_true(WAIT_FOR(atomic_load(&out.closed) == 1));
	assert_int_equal(atomic_load(&out.eofs), 1);
	close(listener);
}

static void pause_it(struct evt_conn *conn)
{
	evt_conn_pause(conn);
	write_hello(conn);
}

static void resume_it(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	evt_conn_resume(atomic_load(&out.conn));
}

static void one_that_was_paused_before_reads_nothing(void **state)
{
	struct call call = {.then = pause_it};

	(void)state;
	start_echo();
	call.url = url_of(server.port);
	call_out(&call);
	assert_true(WAIT_FOR(atomic_load(&seen.bytes) == 5));
	assert_true(WAIT_FOR(atomic_load(&out.opened) == 1));
	assert_int_equal(atomic_load(&out.len), 0);
	assert_true(on_worker(0, resume_it, NULL));
	out_gets("hello");
}

static void nothing_to_do(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
}

/* One for the connect, one to wait for input instead. */
static void to_be_connected_takes_two_calls_of_epoll_ctl(void **state)
{
	struct call call = {.then = write_hello};
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int client;

	(void)state;
	assert_int_equal(listen(listener, 5), 0);
	start_echo();
	call.url = url_of(port);
	atomic_store(&polls, 0);
	call_out(&call);
	client = take_client(listener);
	hears(client, "hello");
	assert_true(on_worker(0, nothing_to_do, NULL));
	assert_int_equal(atomic_load(&polls), 2);
	close(client);
	close(listener);
}

static void send_by_id(struct evt_conn *conn)
{
	struct evt_pool *pool = evt_worker_pool(evt_conn_worker(conn));
	char *pattern = new_pattern(0, 5000);

	evt_conn_printf(conn, "first");
	evt_pool_send(pool, evt_conn_id(conn), "second", 6);
	evt_pool_send(pool, evt_conn_id(conn), pattern, 5000);
	free(pattern);
}

/* It has its id from the first. */
static void what_is_sent_by_id_before_arrives_too(void **state)
{
	struct call call = {.then = send_by_id};
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int fd;

	(void)state;
	assert_int_equal(listen(listener, 5), 0);
	start_echo();
	call.url = url_of(port);
	call_out(&call);
	fd = take_client(listener);
	hears(fd, "firstsecond");
	assert_int_equal(hear_pattern(fd, 0, 5000), 5000);
	close(fd);
	close(listener);
	assert_int_equal(server_stats().gone, 0);
}

/* Several addresses */

static void the_first_address_that_answers_is_taken(void **state)
{
	struct addr_list *list = calloc(1, sizeof(*list));
	struct call call = {.addrs = list->info, .then = write_hello};
	int deaf[2];
	int port;
	int i;

	(void)state;
	start_echo();
	for (i = 0; i < 2; i++) {
		deaf[i] = bound_but_deaf("127.0.0.1", &port);
		add_addr(list, port);
	}
	add_addr(list, server.port);
	add_addr(list, port);
	call_out(&call);
	free(list); /* it was copied */
	out_gets("hello");
	assert_int_equal(atomic_load(&out.opened), 1);
	assert_int_equal(atomic_load(&out.closed), 0);
	assert_int_equal(server_stats().connects_failed, 0);
	assert_int_equal(server_stats().connected, 1);
	close(deaf[0]);
	close(deaf[1]);
}

/* L02: of ten the first has a tenth, though it never answers. */
static void an_address_that_does_not_answer_has_its_share_of_time(void **state)
{
	const int ms = 1500 * slowness();
	const struct evt_connect_options options = {.connect_ms = ms};
	struct addr_list list = {.nr = 0};
	struct call call = {
		.addrs = list.info, .options = &options, .then = write_hello};
	struct blackhole hole;
	int64_t start = now_ms();

	(void)state;
	start_echo();
	open_blackhole(&hole);
	add_addr(&list, hole.port);
	while (list.nr < 10)
		add_addr(&list, server.port);
	call_out(&call);
	out_gets("hello");
	assert_in_range(now_ms() - start, ms / 10 - 1, ms - 1);
	assert_int_equal(server_stats().connected, 1);
	close_blackhole(&hole);
}

static void addresses_of_no_use_are_passed_over(void **state)
{
	struct addr_list list = {.nr = 0};
	struct call call = {.addrs = list.info, .then = write_hello};

	(void)state;
	start_echo();
	add_addr(&list, 1);
	add_addr(&list, 1);
	add_addr(&list, 1);
	add_addr(&list, server.port);
	list.info[0].ai_addr = NULL;
	list.info[1].ai_addrlen = 1000;
	list.in[2].sin_family = 0xfff; /* no such family */
	call_out(&call);
	out_gets("hello");
}

/* From where */

static void connect_on_start(struct evt_worker *worker, void *arg)
{
	make_call(worker, arg);
}

static void a_worker_may_connect_as_it_starts(void **state)
{
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	static struct call call;
	const struct evt_pool_options options = {.workers = 1,
		.on_worker_start = connect_on_start,
		.arg = &call};
	int fd;

	(void)state;
	call = (struct call){.url = url_of(port), .then = write_hello};
	assert_int_equal(listen(listener, 5), 0);
	forget_out();
	server.pool = evt_pool_new(&options);
	assert_int_equal(evt_pool_start(server.pool), 0);
	fd = take_client(listener);
	hears(fd, "hello");
	assert_true(WAIT_FOR(atomic_load(&out.opened) == 1));
	close(fd);
	close(listener);
}

static void call_in_event(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	make_call(evt_worker_self(), arg);
}

static struct event *own_event;

static void add_own_event(struct evt_worker *worker, void *arg)
{
	const struct timeval soon = {.tv_usec = 1000};

	own_event = event_new(
		evt_worker_base(worker), -1, 0, call_in_event, arg);
	event_add(own_event, &soon);
}

static void free_own_event(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	event_free(own_event);
}

/* Outside of any callback of ours. */
static void an_event_of_the_programs_may_connect(void **state)
{
	struct call call = {.then = write_hello};

	(void)state;
	start_echo();
	call.url = url_of(server.port);
	forget_out();
	assert_true(on_worker(0, add_own_event, &call));
	out_gets("hello");
	assert_true(on_worker(0, free_own_event, NULL));
}

static void ask_addresses(struct evt_conn *conn, void *arg)
{
	struct sockaddr_storage peer;
	struct sockaddr_storage local;
	const struct sockaddr_in *in = (struct sockaddr_in *)&peer;

	if (evt_conn_peer(conn, &peer) == 0 &&
		evt_conn_local(conn, &local) == 0 &&
		ntohs(in->sin_port) == server.port &&
		local.ss_family == AF_INET)
		out_open(conn, arg);
}

static void its_addresses_are_known_when_it_is_open(void **state)
{
	const struct evt_handlers handlers = {.on_open = ask_addresses};
	struct call call = {.handlers = &handlers};

	(void)state;
	start_echo();
	call.url = url_of(server.port);
	call_out(&call);
	assert_true(WAIT_FOR(atomic_load(&out.opened) == 1));
}

/* While it is open it is as any other. */
static void the_idle_time_of_the_options_holds(void **state)
{
	const struct evt_connect_options options = {.idle_ms = 100};
	const struct evt_connect_options life = {.lifetime_ms = 100};
	struct call call = {.options = &options};

	(void)state;
	start_echo();
	call.url = url_of(server.port);
	call_out(&call);
	assert_true(WAIT_FOR(atomic_load(&out.closed) == 1));
	assert_int_equal(atomic_load(&out.reason), EVT_REASON_IDLE);
	call.options = &life;
	call_out(&call);
	assert_true(WAIT_FOR(atomic_load(&out.closed) == 1));
	assert_int_equal(atomic_load(&out.reason), EVT_REASON_DEADLINE);
	assert_int_equal(atomic_load(&out.opened), 1);
}

/* What is refused */

static void only_numbers_and_unix_names_can_be_connected_to(void **state)
{
	static const char *const urls[] = {"tcp://localhost:80",
		"tcp://example.org:80", "tcp://:80", "tcp://1.2.3:80",
		"tcp://127.0.0.1", "tcp://127.0.0.1:70000",
		"tcp://127.0.0.1:-1", "tcp://[::1:80", "udp://127.0.0.1:80",
		"unixgram:/tmp/x", "unix:", "http://127.0.0.1:80",
		"127.0.0.1:80", ""};
	size_t i;

	(void)state;
	start_echo();
	for (i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
		struct call call = {.url = urls[i]};

		log_forget();
		refuses_call(&call, EINVAL);
		assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
		assert_true(log_has(urls[i]));
	}
	refuses_call(&(struct call){.url = NULL}, EINVAL);
}

static void options_out_of_range_are_refused(void **state)
{
	static const struct evt_connect_options bad[] = {{.connect_ms = -2},
		{.idle_ms = -2}, {.lifetime_ms = -7},
		{.high_mark = 10, .low_mark = 11}};
	struct call call = {.url = url_of(1)};
	size_t i;

	(void)state;
	start_echo();
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		call.options = &bad[i];
		log_forget();
		refuses_call(&call, EINVAL);
		assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
	}
}

static void connect_without(struct evt_worker *worker, void *arg)
{
	atomic_int *refused = arg;
	const struct addrinfo none = {.ai_family = AF_INET};

	if (!evt_connect(worker, url_of(1), NULL, NULL, NULL) &&
		errno == EINVAL)
		atomic_fetch_add(refused, 1);
	if (!evt_connect_addrs(worker, NULL, &out_handlers, NULL, NULL) &&
		errno == EINVAL)
		atomic_fetch_add(refused, 1);
	if (!evt_connect_addrs(worker, &none, NULL, NULL, NULL) &&
		errno == EINVAL)
		atomic_fetch_add(refused, 1);
}

static void what_is_missing_is_refused(void **state)
{
	atomic_int refused = 0;

	(void)state;
	start_echo();
	log_forget();
	assert_true(on_worker(0, connect_without, &refused));
	assert_int_equal(atomic_load(&refused), 3);
	assert_int_equal(log_lines(EVT_LOG_WARN), 3);
}

static void connect_for_the_other(struct evt_worker *worker, void *arg)
{
	struct evt_pool *pool = evt_worker_pool(worker);

	make_call(evt_pool_worker(pool, 1), arg);
}

/* E13 */
static void only_the_worker_itself_may_connect(void **state)
{
	struct call call = {.url = url_of(1)};

	(void)state;
	start_server(&echo_handlers, NULL, 2);
	log_forget();
	make_call(evt_pool_worker(server.pool, 0), &call);
	assert_null(call.conn);
	assert_int_equal(call.error, EINVAL);
	assert_true(on_worker(0, connect_for_the_other, &call));
	assert_null(call.conn);
	assert_int_equal(call.error, EINVAL);
	make_call(NULL, &call);
	assert_null(call.conn);
	assert_int_equal(call.error, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_WARN), 3);
}

static struct call late_call;

static void connect_in_stop(struct evt_conn *conn, void *arg)
{
	make_call(evt_conn_worker(conn), &late_call);
	note_stop(conn, arg);
	evt_conn_close(conn);
}

static void while_the_pool_stops_nothing_is_connected(void **state)
{
	const struct evt_handlers handlers = {.on_stop = connect_in_stop};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	late_call = (struct call){.url = url_of(server.port)};
	fd = dial_and_wait();
	log_forget();
	evt_pool_stop(server.pool);
	assert_true(ends_cleanly(fd));
	close(fd);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	assert_int_equal(atomic_load(&seen.stops), 1);
	assert_null(late_call.conn);
	assert_int_equal(late_call.error, ECANCELED);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

/* An older program knows but the first of the handlers and options; a newer
 * one has more, and what we do not know must not be asked for. */
static void connect_with_other_sizes(struct evt_worker *worker, void *arg)
{
	struct {
		struct evt_connect_options options;
		int more;
	} newer = {.more = 0};
	const size_t size = sizeof(newer);
	struct call *it = arg;

	it->conn = evt_connect_sized(worker, it->url, &out_handlers,
		sizeof(out_handlers.on_open), &newer.options, sizeof(int),
		NULL);
	if (!evt_connect_sized(worker, it->url, &out_handlers,
		    sizeof(out_handlers), &newer.options, size, NULL))
		it->conn = NULL;
	newer.more = 1;
	errno = 0;
	if (evt_connect_sized(worker, it->url, &out_handlers,
		    sizeof(out_handlers), &newer.options, size, NULL))
		it->conn = NULL;
	it->error = errno;
}

/* A22 */
static void structs_of_another_version_are_understood(void **state)
{
	struct call call = {.url = NULL};

	(void)state;
	start_echo();
	forget_out();
	call.url = url_of(server.port);
	assert_true(on_worker(0, connect_with_other_sizes, &call));
	assert_non_null(call.conn);
	assert_int_equal(call.error, EINVAL);
	assert_true(WAIT_FOR(atomic_load(&out.opened) == 2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(ipv4_is_reached),
		SERVER_TEST(ipv6_is_reached),
		SERVER_TEST(a_unix_path_is_reached),
		SERVER_TEST(an_abstract_name_is_reached),
		SERVER_TEST(what_was_written_before_arrives_in_order),
		SERVER_TEST(on_drain_follows_what_was_written_before),
		SERVER_TEST(a_stream_may_be_finished_before_it_is_connected),
		SERVER_TEST(one_that_was_paused_before_reads_nothing),
		SERVER_TEST(to_be_connected_takes_two_calls_of_epoll_ctl),
		SERVER_TEST(what_is_sent_by_id_before_arrives_too),
		SERVER_TEST(the_first_address_that_answers_is_taken),
		SERVER_TEST(
			an_address_that_does_not_answer_has_its_share_of_time),
		SERVER_TEST(addresses_of_no_use_are_passed_over),
		SERVER_TEST(a_worker_may_connect_as_it_starts),
		SERVER_TEST(an_event_of_the_programs_may_connect),
		SERVER_TEST(its_addresses_are_known_when_it_is_open),
		SERVER_TEST(the_idle_time_of_the_options_holds),
		SERVER_TEST(only_numbers_and_unix_names_can_be_connected_to),
		SERVER_TEST(options_out_of_range_are_refused),
		SERVER_TEST(what_is_missing_is_refused),
		SERVER_TEST(only_the_worker_itself_may_connect),
		SERVER_TEST(while_the_pool_stops_nothing_is_connected),
		SERVER_TEST(structs_of_another_version_are_understood),
	};

	return ledger_run("connect_out", tests);
}
