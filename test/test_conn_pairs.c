/*
 * test_conn_pairs.c: in each callback, each action on the own connection and on
 * another of the same worker. Whatever the pair: on_close comes once for each,
 * last, and after a close or an abort nothing else is called.
 */
#include "server_rig.h"

enum callback { OPEN, DATA, END, DRAIN, TIMEOUT, STOP, CLOSE, DONE, TASK };

static const char actions[] = "cafwWpr";

/* What is tried now: read by the worker alone once the clients are there. */
static struct {
	enum callback where;
	char action;
	bool on_other;
} pair;

/* The other is the first that opens, the own one the second. */
static struct side {
	struct evt_conn *conn; /* on the worker: NULL once it is closed */
	bool ended;            /* closed or aborted by us */
	atomic_int closed;
	atomic_int late; /* callbacks after the end */
} sides[2];

static atomic_bool fired;
static atomic_int refs;

static void act(struct side *side, char action)
{
	struct evt_conn *conn = side->conn;

	if (!conn)
		return;
	if (action == 'c')
		evt_conn_close(conn);
	else if (action == 'a')
		evt_conn_abort(conn);
	else if (action == 'f')
		evt_conn_finish(conn);
	else if (action == 'p')
		evt_conn_pause(conn);
	else if (action == 'r')
		evt_conn_resume(conn);
	else if (action == 'w')
		evt_conn_write(conn, "w", 1);
	else if (evt_conn_write_ref(conn, large, 10000, note_done, NULL) == 0)
		atomic_fetch_add(&refs, 1);
	if (action == 'c' || action == 'a')
		side->ended = true;
}

static void happens(struct evt_conn *conn, enum callback where)
{
	struct side *side = evt_conn_data(conn);

	if (atomic_load(&side->closed) ||
		(side->ended && where != CLOSE && where != DONE &&
			where != TASK))
		atomic_fetch_add(&side->late, 1);
	if (side != &sides[1] || where != pair.where ||
		atomic_exchange(&fired, true))
		return;
	act(&sides[pair.on_other ? 0 : 1], pair.action);
}

/* The handlers */

static void on_open(struct evt_conn *conn, void *arg)
{
	struct side *side = &sides[nr_opened()];

	side->conn = conn;
	evt_conn_set_data(conn, side);
	note_open(conn, arg);
	happens(conn, OPEN);
}

static atomic_bool answered;

/* "L" is answered at length, so that it has to drain. */
static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	if (*data == 'L') {
		evt_conn_write(conn, large, LARGE);
		atomic_store(&answered, true);
	}
	happens(conn, DATA);
	return len;
}

static void on_eof(struct evt_conn *conn, void *arg)
{
	(void)arg;
	happens(conn, END);
	act(evt_conn_data(conn), 'c');
}

static void on_drain(struct evt_conn *conn, void *arg)
{
	(void)arg;
	happens(conn, DRAIN);
}

static void on_timeout(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)reason, (void)arg;
	happens(conn, TIMEOUT);
}

static void on_stop(struct evt_conn *conn, void *arg)
{
	(void)arg;
	happens(conn, STOP);
}

static void on_close(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	struct side *side = evt_conn_data(conn);

	happens(conn, CLOSE);
	atomic_fetch_add(&side->closed, 1);
	side->conn = NULL;
	note_close(conn, reason, arg);
}

static void on_done(void *conn)
{
	note_done(NULL);
	happens(conn, DONE);
}

/* How each callback is brought about: on the worker. */

static void set_deadline(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, 1);
}

static void write_ref(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_fetch_add(&refs, 1);
	evt_conn_write_ref(conn, "x", 1, on_done, conn);
}

static void just_happen(struct evt_conn *conn, void *arg)
{
	(void)arg;
	happens(conn, TASK);
}

static void bring_about(int fd)
{
	char byte;

	switch (pair.where) {
	case DATA:
		say(fd, "x");
		break;
	case END:
		shutdown(fd, SHUT_WR);
		break;
	case DRAIN:
		/* Who reads meanwhile may make room for all of it. */
		atomic_store(&answered, false);
		say(fd, "L");
		assert_true(WAIT_FOR(atomic_load(&answered)));
		assert_true(receive_all(fd, &byte, 1));
		(void)hear_pattern(fd, 1, LARGE - 1); /* it may be aborted */
		break;
	case TIMEOUT:
		on_last_conn(set_deadline, NULL);
		break;
	case STOP:
		evt_pool_stop(server.pool);
		break;
	case CLOSE:
		on_last_conn(abort_task, NULL);
		break;
	case DONE:
		on_last_conn(write_ref, NULL);
		break;
	case TASK:
		on_last_conn(just_happen, NULL);
		break;
	default:
		break;
	}
	assert_true(WAIT_FOR(atomic_load(&fired)));
}

static void resume_both(struct evt_worker *worker, void *arg)
{
	int i;

	(void)worker, (void)arg;
	for (i = 0; i < 2; i++)
		if (sides[i].conn)
			evt_conn_resume(sides[i].conn);
}

/* What the other's client sees of it. */
static void other_was_acted_on(int fd)
{
	char bytes[10000];

	if (pair.action == 'c' || pair.action == 'f')
		assert_true(ends_cleanly(fd));
	else if (pair.action == 'a')
		assert_true(ends_with_reset(fd));
	else if (pair.action == 'w')
		hears(fd, "w");
	else if (pair.action == 'W')
		assert_true(receive_all(fd, bytes, sizeof(bytes)));
}

static void try_pair(void)
{
	const struct evt_handlers handlers = {on_open, on_data, on_eof,
		on_drain, on_timeout, on_stop, on_close, NULL};
	int fds[2];
	int i;

	memset(sides, 0, sizeof(sides));
	atomic_store(&fired, false);
	atomic_store(&refs, 0);
	start_server(&handlers, NULL, 1);
	fds[0] = dial_and_wait();
	fds[1] = dial_and_wait();
	bring_about(fds[1]);
	if (pair.on_other)
		other_was_acted_on(fds[0]);
	shutdown(fds[0], SHUT_WR);
	shutdown(fds[1], SHUT_WR);
	(void)on_worker(0, resume_both, NULL); /* one that stopped has ended */
	assert_true(WAIT_FOR(nr_closed() == 2));
	close(fds[0]);
	close(fds[1]);
	stop_server();
	for (i = 0; i < 2; i++) {
		assert_int_equal(atomic_load(&sides[i].closed), 1);
		assert_int_equal(atomic_load(&sides[i].late), 0);
	}
	assert_int_equal(atomic_load(&seen.dones), atomic_load(&refs));
}

static void try_each_action(enum callback where)
{
	const char *action;
	int other;

	for (other = 0; other < 2; other++)
		for (action = actions; *action; action++) {
			pair.where = where;
			pair.action = *action;
			pair.on_other = other;
			try_pair();
		}
}

/* E12 */
static void on_open_may_do_anything(void **state)
{
	(void)state;
	try_each_action(OPEN);
}

/* E12 */
static void on_data_may_do_anything(void **state)
{
	(void)state;
	try_each_action(DATA);
}

/* E12 */
static void on_eof_may_do_anything(void **state)
{
	(void)state;
	try_each_action(END);
}

/* E12 */
static void on_drain_may_do_anything(void **state)
{
	(void)state;
	try_each_action(DRAIN);
}

/* E12 */
static void on_timeout_may_do_anything(void **state)
{
	(void)state;
	try_each_action(TIMEOUT);
}

/* E12 */
static void on_stop_may_do_anything(void **state)
{
	(void)state;
	try_each_action(STOP);
}

/* E12 */
static void on_close_may_do_anything(void **state)
{
	(void)state;
	try_each_action(CLOSE);
}

/* E12 */
static void done_may_do_anything(void **state)
{
	(void)state;
	try_each_action(DONE);
}

/* E12 */
static void a_task_may_do_anything(void **state)
{
	(void)state;
	try_each_action(TASK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(on_open_may_do_anything),
		SERVER_TEST(on_data_may_do_anything),
		SERVER_TEST(on_eof_may_do_anything),
		SERVER_TEST(on_drain_may_do_anything),
		SERVER_TEST(on_timeout_may_do_anything),
		SERVER_TEST(on_stop_may_do_anything),
		SERVER_TEST(on_close_may_do_anything),
		SERVER_TEST(done_may_do_anything),
		SERVER_TEST(a_task_may_do_anything),
	};

	make_large();
	return free_large(ledger_run("conn_pairs", tests));
}
