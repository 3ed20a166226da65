/*
 * test_datagrams_unix.c: datagrams on a unix socket. Senders with a path, with
 * an abstract name and with none; receivers that are full, or gone.
 */
#include "socket_folder.h"
#include "udp_rig.h"

#include <stddef.h>
#include <sys/stat.h>
#include <sys/un.h>

static int enter(void **state)
{
	return enter_folder(state, "unixgram:");
}

/* Clients */

/* Of a path, or with @ of an abstract name. */
static socklen_t unix_addr(struct sockaddr_un *addr, const char *name)
{
	size_t len = strlen(name);

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	memcpy(addr->sun_path, name, len);
	if (name[0] != '@')
		return sizeof(*addr);
	addr->sun_path[0] = '\0';
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

/* Its name: "" for none. */
static int gram_client(const char *name, const char *server_name)
{
	const struct timeval limit = {.tv_sec = 10 * slowness()};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr;
	socklen_t len;

	assert_int_not_equal(fd, -1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (name[0] != '\0') {
		len = unix_addr(&addr, name);
		assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	}
	len = unix_addr(&addr, server_name);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, len), 0);
	return fd;
}

/* The same in the folder, to be removed by leave_client. */
static char *client_path(void)
{
	static char name[64];

	snprintf(name, sizeof(name), "%s/c", folder);
	return name;
}

static int meet(void)
{
	return gram_client(client_path(), path);
}

static void leave_client(int fd)
{
	close(fd);
	assert_int_equal(remove(client_path()), 0);
}

static struct sockaddr_un un_of(const struct sockaddr_storage *addr)
{
	struct sockaddr_un un;

	memcpy(&un, addr, sizeof(un));
	return un;
}

/* Serving */

static void a_datagram_comes_back(void **state)
{
	struct evt_stats stats;
	struct note it;
	int fd;

	(void)state;
	start_udp(socket_url, echo_datagrams, NULL, 2);
	assert_int_equal(server.port, -1);
	fd = meet();
	exchanges(fd, "hello");
	it = noted(0);
	assert_int_equal(it.len, 5);
	assert_int_equal(it.truncated, 0);
	assert_string_equal(un_of(&it.sender).sun_path, client_path());
	assert_string_equal(un_of(&it.local).sun_path, path);
	leave_client(fd);
	stats = end_udp();
	assert_int_equal(stats.datagrams_in, 1);
	assert_int_equal(stats.datagrams_out, 1);
	assert_int_equal(stats.bytes_in, 5);
	assert_int_equal(stats.bytes_out, 5);
	assert_int_equal(nr_names(), 0);
}

static void so_it_does_by_an_abstract_name(void **state)
{
	char name[64];
	char mine[64];
	struct note it;
	int fd;

	(void)state;
	snprintf(name, sizeof(name), "@evt-gram-%d", (int)getpid());
	snprintf(mine, sizeof(mine), "@evt-gram-client-%d", (int)getpid());
	snprintf(socket_url, sizeof(socket_url), "unixgram:%s", name);
	start_udp(socket_url, echo_datagrams, NULL, 1);
	fd = gram_client(mine, name);
	exchanges(fd, "hello");
	it = noted(0);
	assert_int_equal(it.sender_len,
		offsetof(struct sockaddr_un, sun_path) + strlen(mine));
	assert_memory_equal(
		un_of(&it.sender).sun_path + 1, mine + 1, strlen(mine + 1));
	close(fd);
	end_udp();
}

/* F13: also if one with a name came before, in the same place of a batch. */
static void a_sender_without_a_name_has_none(void **state)
{
	struct note it;
	int named;
	int fd;

	(void)state;
	start_udp(socket_url, echo_datagrams, NULL, 1);
	named = meet();
	fd = gram_client("", path);
	exchanges(named, "hello");
	shoot(fd, "hello", 5);
	assert_true(WAIT_FOR(nr_noted() == 2));
	it = noted(1);
	assert_int_equal(it.len, 5);
	assert_int_equal(it.sender_len, 0);
	assert_true(WAIT_FOR(atomic_load(&notes.refused) == 1));
	assert_int_equal(atomic_load(&notes.error), EDESTADDRREQ);
	exchanges(named, "again");
	it = noted(2);
	assert_string_equal(un_of(&it.sender).sun_path, client_path());
	close(fd);
	leave_client(named);
	end_udp();
}

static void an_empty_datagram_is_one(void **state)
{
	int fd;

	(void)state;
	start_udp(socket_url, echo_datagrams, NULL, 1);
	fd = meet();
	exchanges(fd, "");
	exchanges(fd, "more");
	assert_int_equal(noted(0).len, 0);
	leave_client(fd);
	assert_int_equal(end_udp().datagrams_in, 2);
}

#define LONG 100000

/* F03 */
static void what_is_too_long_is_cut_and_told(void **state)
{
	static const struct evt_listen_options ten = {.max_input = 10};
	static char bytes[LONG];
	int fd;

	(void)state;
	fill_pattern(bytes, 0, sizeof(bytes));
	start_udp(socket_url, echo_datagrams, NULL, 1);
	fd = meet();
	shoot(fd, bytes, 65536);
	catches(fd, bytes, 65536);
	shoot(fd, bytes, LONG);
	catches(fd, bytes, 65536);
	assert_int_equal(noted(0).truncated, 0);
	assert_int_equal(noted(1).len, 65536);
	assert_int_not_equal(noted(1).truncated, 0);
	leave_client(fd);
	end_udp();
	start_udp(socket_url, echo_datagrams, &ten, 1);
	fd = meet();
	exchanges(fd, "0123456789");
	shoot(fd, "0123456789a", 11);
	catches(fd, "0123456789", 10);
	assert_int_equal(noted(0).truncated, 0);
	assert_int_not_equal(noted(1).truncated, 0);
	leave_client(fd);
	end_udp();
}

#define MANY 300

static void what_has_queued_up_comes_in_order(void **state)
{
	uint32_t i;
	int fd;

	(void)state;
	start_udp(socket_url, echo_datagrams, NULL, 1);
	fd = meet();
	for (i = 0; i < MANY; i++) {
		shoot_number(fd, i);
		if (i % 10 == 9) {
			uint32_t k;

			for (k = i - 9; k <= i; k++)
				catches_number(fd, k);
		}
	}
	for (i = 0; i < MANY; i++)
		assert_int_equal(noted((int)i).number, i);
	leave_client(fd);
	assert_int_equal(end_udp().datagrams_out, MANY);
}

/* No limit of amplification: who sends it is who it says. */
static void answer_long(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	static char bytes[10000];

	note_datagrams(sock, batch, n, arg);
	note_result(evt_udp_reply(sock, batch, bytes, sizeof(bytes)));
}

static void an_answer_may_be_long(void **state)
{
	static const char bytes[10000];
	int fd;

	(void)state;
	start_udp(socket_url, answer_long, NULL, 1);
	fd = meet();
	shoot(fd, "x", 1);
	catches(fd, bytes, sizeof(bytes));
	leave_client(fd);
	assert_int_equal(end_udp().answers_refused, 0);
}

/* Where it is */

static void the_socket_is_on_one_worker(void **state)
{
	int with = 0;
	int i;

	(void)state;
	start_udp(socket_url, echo_datagrams, NULL, 3);
	log_forget();
	for (i = 0; i < 3; i++) {
		errno = 0;
		if (socket_of(i))
			with++;
		else
			assert_int_equal(errno, ENOENT);
	}
	assert_int_equal(with, 1);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	end_udp();
}

static void several_are_on_several(void **state)
{
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	char names[3][80];
	bool taken[3] = {false};
	int i;

	(void)state;
	make_pool(3);
	for (i = 0; i < 3; i++) {
		int k = 0;

		snprintf(names[i], sizeof(names[i]), "unixgram:@%d-gram-%d",
			(int)getpid(), i);
		server.listener = evt_listen(
			server.pool, names[i], &handlers, NULL, NULL);
		assert_non_null(server.listener);
		while (!socket_of(k))
			k++;
		assert_false(taken[k]);
		taken[k] = true;
	}
	run_pool();
	end_udp();
}

static void the_file_has_its_mode_and_goes_at_the_end(void **state)
{
	static const struct evt_listen_options options = {.unix_mode = 0620};
	struct stat status;

	(void)state;
	start_udp(socket_url, echo_datagrams, &options, 1);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0620);
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(nr_names() == 0));
	end_udp();
}

static void a_stale_file_is_replaced_and_a_live_one_is_not(void **state)
{
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	struct sockaddr_un addr;
	socklen_t len = unix_addr(&addr, path);
	int stale = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int fd;

	(void)state;
	assert_int_equal(bind(stale, (struct sockaddr *)&addr, len), 0);
	close(stale);
	start_udp(socket_url, echo_datagrams, NULL, 1);
	errno = 0;
	assert_null(evt_listen(server.pool, socket_url, &handlers, NULL, NULL));
	assert_int_equal(errno, EADDRINUSE);
	fd = meet();
	exchanges(fd, "hello");
	leave_client(fd);
	end_udp();
}

/* Receivers */

/* Sends to whom note is of; the result in arg. */
struct mail {
	struct note to;
	int sent;
	int error;
};

static void mail_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(server.listener, worker);
	struct mail *mail = arg;
	static const char bytes[1000];

	mail->sent = 0;
	while (mail->sent < 10000 &&
		evt_udp_send(sock, (struct sockaddr *)&mail->to.sender,
			mail->to.sender_len, bytes, sizeof(bytes)) == 0)
		mail->sent++;
	mail->error = errno;
}

/* F10 */
static void who_does_not_read_gets_no_more(void **state)
{
	static const char bytes[1000];
	struct mail mail;
	int other;
	int fd;
	int i;

	(void)state;
	start_udp(socket_url, note_datagrams, NULL, 1);
	fd = meet();
	shoot(fd, "hello", 5);
	assert_true(WAIT_FOR(nr_noted() == 1));
	mail.to = noted(0);
	log_forget();
	assert_true(on_worker(0, mail_task, &mail));
	assert_in_range(mail.sent, 1, 9999);
	assert_int_equal(mail.error, EAGAIN);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	/* Others come through. */
	other = gram_client("", path);
	shoot(other, "hello", 5);
	assert_true(WAIT_FOR(nr_noted() == 2));
	close(other);
	for (i = 0; i < mail.sent; i++)
		catches(fd, bytes, sizeof(bytes));
	assert_true(has_caught_nothing(fd));
	assert_true(on_worker(0, mail_task, &mail));
	assert_true(mail.sent > 0);
	leave_client(fd);
	end_udp();
}

/* F05, F10 */
static void who_is_gone_is_told(void **state)
{
	struct evt_stats stats;
	struct mail mail;
	int fd;

	(void)state;
	start_udp(socket_url, note_datagrams, NULL, 1);
	fd = meet();
	shoot(fd, "hello", 5);
	assert_true(WAIT_FOR(nr_noted() == 1));
	mail.to = noted(0);
	close(fd);
	assert_true(on_worker(0, mail_task, &mail));
	assert_int_equal(mail.sent, 0);
	assert_int_equal(mail.error, ECONNREFUSED);
	assert_int_equal(remove(client_path()), 0);
	assert_true(on_worker(0, mail_task, &mail));
	assert_int_equal(mail.sent, 0);
	assert_int_equal(mail.error, ENOENT);
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	fd = meet();
	shoot(fd, "hello", 5);
	assert_true(WAIT_FOR(nr_noted() == 2));
	leave_client(fd);
	stats = end_udp();
	assert_int_equal(stats.sends_failed, 2);
	assert_int_equal(stats.datagrams_out, 0);
}

/* F10: what strangers bring about by turns has a line a second. */
static void of_many_that_are_gone_few_are_told(void **state)
{
	struct mail mail[2];
	int i;

	(void)state;
	start_udp(socket_url, note_datagrams, NULL, 1);
	for (i = 0; i < 2; i++) {
		int fd = meet();

		shoot(fd, "hello", 5);
		assert_true(WAIT_FOR(nr_noted() == i + 1));
		mail[i].to = noted(i);
		((struct sockaddr_un *)&mail[i].to.sender)->sun_path[0] ^=
			(char)(i * 0x40); /* another that is not there */
		leave_client(fd);
	}
	for (i = 0; i < 500; i++)
		assert_true(on_worker(0, mail_task, &mail[i % 2]));
	assert_in_range(log_lines(EVT_LOG_DEBUG), 1, 2 + 2 * slowness());
	assert_int_equal(end_udp().sends_failed, 500);
}

/* Nobody gives the server descriptors that it did not ask for. */
static void descriptors_of_strangers_are_not_taken(void **state)
{
	char control[CMSG_SPACE(16 * sizeof(int))] = {0};
	struct iovec part = {"x", 1};
	struct msghdr msg = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int fds[16];
	int before;
	int fd;
	int i;

	(void)state;
	start_udp(socket_url, note_datagrams, NULL, 1);
	fd = meet();
	for (i = 0; i < 16; i++)
		fds[i] = fd;
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(cmsg), fds, sizeof(fds));
	before = count_fds();
	for (i = 0; i < 10; i++)
		assert_int_equal(sendmsg(fd, &msg, 0), 1);
	assert_true(WAIT_FOR(nr_noted() == 10));
	settle(0);
	assert_int_equal(count_fds(), before);
	leave_client(fd);
	end_udp();
}

/* As long as an address can be, without a NUL at its end. */
static void the_longest_path_is_answered(void **state)
{
	/* valgrind looks for its NUL. */
	struct {
		struct sockaddr_un addr;
		char nul;
	} it = {.addr = {.sun_family = AF_UNIX}};
	const size_t size = sizeof(it.addr.sun_path);
	char longest[sizeof(it.addr.sun_path) + 1];
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un to;
	socklen_t len = unix_addr(&to, path);

	(void)state;
	start_udp(socket_url, echo_datagrams, NULL, 1);
	memset(longest, 'c', size);
	memcpy(longest, folder, strlen(folder));
	longest[strlen(folder)] = '/';
	longest[size] = '\0';
	memcpy(it.addr.sun_path, longest, size);
	assert_int_equal(
		bind(fd, (struct sockaddr *)&it.addr, sizeof(it.addr)), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, len), 0);
	exchanges(fd, "hello");
	assert_int_equal(noted(0).sender_len, sizeof(it.addr));
	close(fd);
	assert_int_equal(remove(longest), 0);
	end_udp();
}

static void end_the_thread(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	pthread_exit(NULL);
}

static void lose(int worker)
{
	assert_int_equal(evt_worker_post(evt_pool_worker(server.pool, worker),
				 end_the_thread, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&server.pool->workers[worker].lost) &&
		atomic_load(&server.pool->workers[worker].drained)));
}

/* C15 */
static void it_is_on_a_worker_that_lives(void **state)
{
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	int round;
	int fd;

	(void)state;
	start_udp("unixgram:@evt-unixgram-first", echo_datagrams, NULL, 2);
	lose(1);
	for (round = 0; round < 2; round++) {
		server.listener = evt_listen(
			server.pool, socket_url, &handlers, NULL, NULL);
		assert_non_null(server.listener);
		fd = meet();
		exchanges(fd, "hello");
		leave_client(fd);
		evt_listener_close(server.listener);
		assert_true(WAIT_FOR(nr_names() == 0));
	}
	lose(0);
	errno = 0;
	assert_null(evt_listen(server.pool, socket_url, &handlers, NULL, NULL));
	assert_int_equal(errno, ENXIO);
	assert_int_equal(nr_names(), 0);
	end_udp();
}

static void wrong_send_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(server.listener, worker);
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = 9};
	struct sockaddr_un un;
	socklen_t len = unix_addr(&un, path);

	(void)arg;
	errno = 0;
	CHECK(evt_udp_send(sock, (struct sockaddr *)&in, sizeof(in), "x", 1) ==
			-1 &&
		errno == EAFNOSUPPORT);
	errno = 0;
	CHECK(evt_udp_send(sock, (struct sockaddr *)&un, len + 1, "x", 1) ==
			-1 &&
		errno == EINVAL);
	errno = 0;
	CHECK(evt_udp_send(sock, (struct sockaddr *)&un, 1, "x", 1) == -1 &&
		errno == EINVAL);
	/* It may write to itself. */
	CHECK(evt_udp_send(sock, (struct sockaddr *)&un, len, "mine", 4) == 0);
}

static void wrong_addresses_are_refused(void **state)
{
	(void)state;
	start_udp(socket_url, note_datagrams, NULL, 1);
	assert_true(on_worker(0, wrong_send_task, NULL));
	assert_true(WAIT_FOR(nr_noted() == 1));
	assert_int_equal(noted(0).len, 4);
	end_udp();
}

/* F11 */
static void what_has_come_is_handed_over_at_the_end(void **state)
{
	struct evt_stats stats;
	uint32_t i;
	int fd;

	(void)state;
	start_udp(socket_url, note_datagrams, NULL, 1);
	fd = meet();
	hold(0);
	for (i = 0; i < 5; i++)
		shoot_number(fd, i);
	evt_pool_stop(server.pool);
	open_gate();
	leave_client(fd);
	stats = end_udp();
	assert_int_equal(stats.datagrams_in, 5);
	for (i = 0; i < 5; i++)
		assert_int_equal(noted((int)i).number, i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FOLDER_TEST(a_datagram_comes_back),
		FOLDER_TEST(so_it_does_by_an_abstract_name),
		FOLDER_TEST(a_sender_without_a_name_has_none),
		FOLDER_TEST(an_empty_datagram_is_one),
		FOLDER_TEST(what_is_too_long_is_cut_and_told),
		FOLDER_TEST(what_has_queued_up_comes_in_order),
		FOLDER_TEST(an_answer_may_be_long),
		FOLDER_TEST(the_socket_is_on_one_worker),
		FOLDER_TEST(several_are_on_several),
		FOLDER_TEST(the_file_has_its_mode_and_goes_at_the_end),
		FOLDER_TEST(a_stale_file_is_replaced_and_a_live_one_is_not),
		FOLDER_TEST(who_does_not_read_gets_no_more),
		FOLDER_TEST(who_is_gone_is_told),
		FOLDER_TEST(of_many_that_are_gone_few_are_told),
		FOLDER_TEST(descriptors_of_strangers_are_not_taken),
		FOLDER_TEST(the_longest_path_is_answered),
		FOLDER_TEST(it_is_on_a_worker_that_lives),
		FOLDER_TEST(wrong_addresses_are_refused),
		FOLDER_TEST(what_has_come_is_handed_over_at_the_end),
	};

	return ledger_run("datagrams_unix", tests);
}
