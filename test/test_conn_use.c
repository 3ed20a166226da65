/*
 * test_conn_use.c: what a connection tells of itself, who may use it, and what
 * no peer should be able to do to it.
 */
#include "server_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

static int client(void)
{
	const struct evt_handlers handlers = {.on_data = tell_data,
		.on_eof = tell_eof,
		.on_close = tell_close};

	start_server(&handlers, NULL, 1);
	return dial_and_wait();
}

/* Names */

static void each_reason_has_a_name(void **state)
{
	static const char *const names[] = {"peer", "ours", "reset", "idle",
		"deadline", "overflow", "stopped", "failed"};
	int i;

	(void)state;
	for (i = 0; i < 8; i++)
		assert_string_equal(
			evt_reason_name((enum evt_reason)i), names[i]);
	assert_string_equal(evt_reason_name((enum evt_reason)8), "unknown");
	assert_string_equal(evt_reason_name((enum evt_reason) - 1), "unknown");
	assert_int_equal(EVT_REASON_FAILED, 7);
}

/* Addresses */

static struct {
	struct sockaddr_storage peer;
	struct sockaddr_storage local;
	atomic_int results;
} got;

static void ask_addresses(struct evt_conn *conn, void *arg)
{
	(void)arg;
	memset(&got.peer, 'x', sizeof(got.peer));
	memset(&got.local, 'x', sizeof(got.local));
	atomic_store(&got.results,
		evt_conn_peer(conn, &got.peer) |
			evt_conn_local(conn, &got.local));
}

static int port_of(const struct sockaddr_storage *addr)
{
	const struct sockaddr_in *in = (const void *)addr;

	return ntohs(in->sin_port);
}

static void it_tells_both_addresses(void **state)
{
	struct sockaddr_storage mine;
	socklen_t len = sizeof(mine);
	int fd = client();

	(void)state;
	assert_true(on_last_conn(ask_addresses, NULL));
	assert_int_equal(atomic_load(&got.results), 0);
	assert_int_equal(got.peer.ss_family, AF_INET);
	assert_int_equal(got.local.ss_family, AF_INET);
	assert_int_equal(port_of(&got.local), server.port);
	getsockname(fd, (struct sockaddr *)&mine, &len);
	assert_int_equal(port_of(&got.peer), port_of(&mine));
	close(fd);
}

static void ask_on_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	ask_addresses(conn, arg);
	tell_close(conn, reason, arg);
}

static void after_a_reset_the_peer_has_no_address_but_we_do(void **state)
{
	const struct evt_handlers handlers = {.on_close = ask_on_close};
	int fd;

	(void)state;
	start_server(&handlers, NULL, 1);
	fd = dial_and_wait();
	close_with_reset(fd);
	story_becomes("close:reset ");
	stop_server();
	assert_int_equal(atomic_load(&got.results), 0);
	assert_int_equal(got.peer.ss_family, AF_UNSPEC);
	assert_int_equal(got.local.ss_family, AF_INET);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

static int connect_unix(const struct sockaddr_storage *to, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (const struct sockaddr *)to, len), 0);
	return fd;
}

static void ask_uid(struct evt_conn *conn, void *arg)
{
	uid_t uid = 12345;

	atomic_store((atomic_int *)arg,
		evt_conn_peer_uid(conn, &uid) == 0 ? (int)uid : -errno);
}

static void a_unix_socket_has_addresses_without_a_name_or_port(void **state)
{
	const struct evt_handlers handlers = {.on_data = echo_data};
	struct sockaddr_storage to;
	struct sockaddr_un *un = (void *)&to;
	char url[64];
	atomic_int uid;
	socklen_t len;
	int fd;

	(void)state;
	snprintf(url, sizeof(url), "unix:@test_conn_use.%d", (int)getpid());
	memset(&to, 0, sizeof(to));
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path + 1, url + 6, strlen(url + 6));
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
		strlen(url + 5));
	start_server_at(url, &handlers, NULL, 1, NULL);
	fd = connect_unix(&to, len);
	assert_true(WAIT_FOR(nr_opened() == 1));
	assert_true(on_last_conn(ask_addresses, NULL));
	assert_int_equal(atomic_load(&got.results), 0);
	assert_int_equal(got.peer.ss_family, AF_UNIX);
	assert_int_equal(got.local.ss_family, AF_UNIX);
	assert_true(on_last_conn(ask_uid, &uid));
	assert_int_equal(atomic_load(&uid), getuid());
	say(fd, "hello");
	hears(fd, "hello");
	close(fd);
}

static void over_tcp_nobody_tells_the_peers_user(void **state)
{
	atomic_int uid;
	int fd = client();

	(void)state;
	assert_true(on_last_conn(ask_uid, &uid));
	assert_int_equal(atomic_load(&uid), -EOPNOTSUPP);
	close(fd);
}

/* The program's pointer */

static void use_data(struct evt_conn *conn, void *arg)
{
	tell("%s", evt_conn_data(conn) ? (char *)evt_conn_data(conn) : "none");
	if (arg)
		evt_conn_set_data(conn, arg);
}

static void data_on_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	use_data(conn, NULL);
	tell_close(conn, reason, arg);
}

static void the_pointer_is_null_at_first_and_there_until_the_end(void **state)
{
	const struct evt_handlers handlers = {.on_close = data_on_close};
	char mine[] = "mine";
	int i;

	(void)state;
	start_server(&handlers, NULL, 1);
	for (i = 0; i < 2; i++) { /* the second has the struct of the first */
		int fd = dial_and_wait();

		forget_story();
		assert_true(on_last_conn(use_data, mine));
		assert_true(on_last_conn(use_data, NULL));
		close(fd);
		story_becomes("none mine mine close:peer ");
	}
}

static void tell_error(struct evt_conn *conn, void *arg)
{
	(void)arg;
	tell("%d", evt_conn_error(conn));
}

static void without_an_error_there_is_none(void **state)
{
	int fd = client();

	(void)state;
	assert_true(on_last_conn(tell_error, NULL));
	story_becomes("0 ");
	close(fd);
}

static void tell_worker(struct evt_conn *conn, void *arg)
{
	(void)arg;
	tell("%d %d", evt_conn_worker(conn) == evt_worker_self(),
		evt_worker_index(evt_conn_worker(conn)));
}

static void it_knows_its_worker(void **state)
{
	int fd = client();

	(void)state;
	assert_true(on_last_conn(tell_worker, NULL));
	story_becomes("1 0 ");
	assert_ptr_equal(evt_conn_worker(atomic_load(&seen.conn)),
		evt_pool_worker(server.pool, 0));
	close(fd);
}

/* Who may use it */

static int refused_with_einval(int result)
{
	return result != -1 || errno != EINVAL;
}

/* How many of the calls were not refused. */
static int use_all(struct evt_conn *conn)
{
	struct sockaddr_storage addr;
	uid_t uid;
	int bad = 0;

	bad += refused_with_einval(evt_conn_write(conn, "x", 1));
	bad += refused_with_einval(evt_conn_printf(conn, "x"));
	bad += refused_with_einval(
		evt_conn_write_ref(conn, "x", 1, note_done, NULL));
	bad += refused_with_einval(evt_conn_sendfile(conn, 0, 0, 1));
	bad += refused_with_einval(evt_conn_want(conn, 1));
	bad += refused_with_einval(evt_conn_at_eof(conn));
	bad += refused_with_einval(evt_conn_finish(conn));
	bad += refused_with_einval(evt_conn_error(conn));
	bad += refused_with_einval(evt_conn_peer(conn, &addr));
	bad += refused_with_einval(evt_conn_local(conn, &addr));
	bad += refused_with_einval(evt_conn_peer_uid(conn, &uid));
	bad += refused_with_einval(
		evt_conn_set_timeout(conn, EVT_TIMEOUT_IDLE, 1));
	evt_conn_pause(conn);
	evt_conn_resume(conn);
	evt_conn_close(conn);
	evt_conn_abort(conn);
	evt_conn_set_data(conn, &addr);
	bad += evt_conn_pending(conn) != 0 || errno != EINVAL;
	bad += evt_conn_data(conn) != NULL || errno != EINVAL;
	bad += evt_conn_id(conn) != 0 || errno != EINVAL;
	return bad;
}

/* E13 */
static void on_another_thread_each_call_is_refused_with_a_line(void **state)
{
	int fd = client();

	(void)state;
	assert_int_equal(use_all(atomic_load(&seen.conn)), 0);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 20);
	assert_int_equal(atomic_load(&seen.dones), 0);
	say(fd, "alive");
	story_becomes("alive ");
	close(fd);
}

static void use_all_task(struct evt_worker *worker, void *arg)
{
	(void)worker;
	tell("%d", use_all(arg));
}

/* E13 */
static void on_another_worker_each_call_is_refused_too(void **state)
{
	const struct evt_handlers handlers = {.on_data = tell_data};
	struct evt_conn *conn;
	int index;
	int fd;

	(void)state;
	start_server(&handlers, NULL, 2);
	fd = dial_and_wait();
	conn = atomic_load(&seen.conn);
	index = evt_worker_index(evt_conn_worker(conn));
	assert_true(on_worker(!index, use_all_task, conn));
	story_becomes("0 ");
	close(fd);
}

static void without_a_connection_each_call_is_refused_with_a_line(void **state)
{
	(void)state;
	assert_int_equal(use_all(NULL), 0);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 20);
	assert_null(evt_conn_worker(NULL));
	assert_int_equal(errno, EINVAL);
}

static void ask_for_nothing(struct evt_conn *conn, void *arg)
{
	(void)arg;
	tell("%d %d %d", refused_with_einval(evt_conn_peer(conn, NULL)),
		refused_with_einval(evt_conn_local(conn, NULL)),
		refused_with_einval(evt_conn_peer_uid(conn, NULL)));
}

static void without_a_place_for_the_answer_it_is_refused(void **state)
{
	int fd = client();

	(void)state;
	assert_true(on_last_conn(ask_for_nothing, NULL));
	story_becomes("0 0 0 ");
	close(fd);
}

/* Urgent data */

/* E17 */
static void urgent_data_is_passed_over_and_does_not_spin(void **state)
{
	int64_t before;
	int fd = client();

	(void)state;
	say(fd, "before");
	story_becomes("before ");
	assert_int_equal(send(fd, "!", 1, MSG_OOB), 1);
	before = cpu_ms();
	assert_true(stays_silent(fd, 300));
	assert_true(cpu_ms() - before < 100);
	say(fd, "after");
	story_becomes("before after ");
	shutdown(fd, SHUT_WR);
	story_becomes("before after eof ");
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(each_reason_has_a_name),
		SERVER_TEST(it_tells_both_addresses),
		SERVER_TEST(after_a_reset_the_peer_has_no_address_but_we_do),
		SERVER_TEST(a_unix_socket_has_addresses_without_a_name_or_port),
		SERVER_TEST(over_tcp_nobody_tells_the_peers_user),
		SERVER_TEST(
			the_pointer_is_null_at_first_and_there_until_the_end),
		SERVER_TEST(without_an_error_there_is_none),
		SERVER_TEST(it_knows_its_worker),
		SERVER_TEST(on_another_thread_each_call_is_refused_with_a_line),
		SERVER_TEST(on_another_worker_each_call_is_refused_too),
		SERVER_TEST(
			without_a_connection_each_call_is_refused_with_a_line),
		SERVER_TEST(without_a_place_for_the_answer_it_is_refused),
		SERVER_TEST(urgent_data_is_passed_over_and_does_not_spin),
	};

	return ledger_run("conn_use", tests);
}
