/*
 * test_listen_unix.c: UNIX sockets through evt_listen: whose file it is, from
 * when on, for whom, and until when. What evt_unix_bind_ does to a name is in
 * test_unix.c; here it is what a program sees.
 */
#include "socket_folder.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/un.h>

static int enter(void **state)
{
	return enter_folder(state, "unix:");
}

/* Clients and files */

static int dial_path(const char *name, size_t len)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, name, len);
	if (connect(fd, (struct sockaddr *)&addr,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
			    len)) == 0)
		return fd;
	close(fd);
	return -1;
}

static int dial_file(void)
{
	return dial_path(path, strlen(path));
}

static bool file_serves(void)
{
	return is_served(dial_file());
}

static mode_t mode_of_file(void)
{
	struct stat status;

	return lstat(path, &status) == 0 ? status.st_mode : 0;
}

static ino_t inode_of_file(void)
{
	struct stat status;

	return lstat(path, &status) == 0 ? status.st_ino : 0;
}

static void start_at_file(const struct evt_listen_options *options)
{
	make_pool(2);
	listen_at(socket_url, options);
	run_pool();
}

/* A file that nobody serves, or (backlog > 0) that fd does. */
static int foreign_socket(int backlog)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, path, strlen(path));
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	if (backlog > 0)
		assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

static void fails(int error, const char *text)
{
	log_forget();
	errno = 0;
	assert_null(evt_listen(
		server.pool, socket_url, &echo_handlers, NULL, NULL));
	if (errno != error || !log_has(text))
		fail_msg("%s: %s", strerrorname_np(errno),
			log_line(0) ? log_line(0) : "no line");
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 1);
}

/* Serving */

static void a_path_is_served_and_has_no_port(void **state)
{
	(void)state;
	start_at_file(NULL);
	assert_int_equal(server.port, -1);
	assert_true(file_serves());
	assert_int_equal(nr_names(), 1);
	assert_int_equal(end_server().closed_peer, 1);
	assert_int_equal(nr_names(), 0);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

static void files_and_ports_are_served_side_by_side(void **state)
{
	int i;

	(void)state;
	make_pool(3);
	listen_at(socket_url, NULL);
	listen_at(ANY_PORT, NULL);
	run_pool();
	for (i = 0; i < 10; i++) {
		assert_true(file_serves());
		assert_true(serves(server.port));
	}
	end_server();
}

static atomic_uint peer_uid;
static atomic_int peer_family;

static void ask_who(struct evt_conn *conn, void *arg)
{
	struct sockaddr_storage peer;
	uid_t uid = (uid_t)-1;

	evt_conn_peer_uid(conn, &uid);
	atomic_store(&peer_uid, uid);
	evt_conn_peer(conn, &peer);
	atomic_store(&peer_family, peer.ss_family);
	note_open(conn, arg);
}

/* I06 I07 */
static void the_user_at_the_other_end_is_known(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = ask_who, .on_data = echo_data};

	(void)state;
	start_server_at(socket_url, &handlers, NULL, 1, NULL);
	assert_true(file_serves());
	assert_int_equal(atomic_load(&peer_uid), getuid());
	assert_int_equal(atomic_load(&peer_family), AF_UNIX);
	end_server();
}

static atomic_int chosen_family;

static int note_family(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)pool, (void)arg;
	atomic_store(&chosen_family, peer->sa_family);
	return 1;
}

/* I07: its address has a family and nothing else. */
static void choose_is_told_the_family(void **state)
{
	const struct evt_listen_options options = {
		.choice = EVT_CHOICE_FUNCTION, .choose = note_family};

	(void)state;
	start_at_file(&options);
	assert_true(file_serves());
	assert_int_equal(atomic_load(&chosen_family), AF_UNIX);
	end_server();
}

/* B09: such a client has no address to be counted by. */
static void a_limit_for_each_source_is_none_for_files(void **state)
{
	const struct evt_listen_options options = {.max_per_source = 1};
	int clients[5];
	int i;

	(void)state;
	start_at_file(&options);
	for (i = 0; i < 5; i++)
		clients[i] = dial_file();
	for (i = 0; i < 5; i++)
		assert_true(echoes(clients[i]));
	hang_up(clients, 5);
	end_server();
}

/* B08: connect(2) to a full queue waits, or fails: nobody is lost. */
static void above_the_limit_clients_of_a_file_wait(void **state)
{
	const struct evt_listen_options options = {.max_conns = 2};
	int clients[20];
	int i;

	(void)state;
	start_at_file(&options);
	for (i = 0; i < 20; i++)
		clients[i] = dial_file();
	for (i = 0; i < 20; i++) {
		assert_true(echoes(clients[i]));
		assert_true(server_stats().open <= 2);
		close(clients[i]);
	}
	assert_int_equal(end_server().opened, 20);
}

static void a_group_of_files_is_refused(void **state)
{
	const struct evt_listen_options options = {.reuseport = 1};

	(void)state;
	make_pool(2);
	errno = 0;
	assert_null(evt_listen(
		server.pool, socket_url, &echo_handlers, &options, NULL));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(nr_names(), 0);
	stop_server();
}

/* The mode */

/* I04 */
static void the_mode_is_0600_unless_it_is_said(void **state)
{
	static const mode_t modes[] = {0, 0600, 0666, 0777, 0200, 0660};
	mode_t before = umask(0);
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(modes); i++) {
		const struct evt_listen_options options = {
			.unix_mode = modes[i]};
		mode_t mode = modes[i] ? modes[i] : 0600;

		umask(i % 2 ? 0 : 077);
		make_pool(1);
		listen_at(socket_url, &options);
		assert_int_equal(mode_of_file(), S_IFSOCK | mode);
		assert_int_equal(umask(0), i % 2 ? 0 : 077);
		stop_server();
	}
	umask(before);
}

/* What is there already */

/* I02 */
static void a_file_that_nobody_serves_is_replaced(void **state)
{
	ino_t stale;

	(void)state;
	close(foreign_socket(1));
	stale = inode_of_file();
	start_at_file(NULL);
	assert_true(inode_of_file() != 0);
	assert_int_not_equal(inode_of_file(), stale);
	assert_true(file_serves());
	assert_int_equal(nr_names(), 1);
	end_server();
}

/* I02 */
static void a_file_that_is_served_is_in_use(void **state)
{
	int fd = foreign_socket(1);
	ino_t theirs = inode_of_file();

	(void)state;
	make_pool(1);
	fails(EADDRINUSE, socket_url);
	assert_int_equal(inode_of_file(), theirs);
	assert_int_equal(nr_names(), 1);
	stop_server();
	assert_int_equal(inode_of_file(), theirs);
	close(fd);
	unlink(path);
}

/* I02 I15 */
static void two_listeners_cannot_have_one_file(void **state)
{
	ino_t ours;

	(void)state;
	start_at_file(NULL);
	ours = inode_of_file();
	fails(EADDRINUSE, socket_url);
	assert_int_equal(inode_of_file(), ours);
	assert_true(file_serves());
	end_server();
}

/* I03 */
static void what_is_no_socket_is_left_alone(void **state)
{
	FILE *file = fopen(path, "we");

	(void)state;
	fputs("mine", file);
	fclose(file);
	make_pool(1);
	fails(EADDRINUSE, socket_url);
	assert_true(S_ISREG(mode_of_file()));
	unlink(path);
	mkdir(path, 0700);
	fails(EADDRINUSE, socket_url);
	assert_true(S_ISDIR(mode_of_file()));
	rmdir(path);
	mkfifo(path, 0600);
	fails(EADDRINUSE, socket_url);
	assert_true(S_ISFIFO(mode_of_file()));
	unlink(path);
	assert_int_equal(symlink("elsewhere", path), 0);
	fails(EADDRINUSE, socket_url);
	assert_true(S_ISLNK(mode_of_file()));
	unlink(path);
	stop_server();
}

/* I01 */
static void a_folder_that_is_not_there_is_told(void **state)
{
	(void)state;
	make_pool(1);
	snprintf(socket_url, sizeof(socket_url), "unix:%s/none/s", folder);
	fails(ENOENT, socket_url);
	stop_server();
}

/* I01 */
static void a_path_of_107_bytes_is_served(void **state)
{
	char longest[108];
	char long_url[120];

	(void)state;
	snprintf(longest, sizeof(longest), "%s/%0*d", folder,
		(int)(106 - strlen(folder)), 0);
	assert_int_equal(strlen(longest), 107);
	snprintf(long_url, sizeof(long_url), "unix:%s", longest);
	make_pool(1);
	listen_at(long_url, NULL);
	run_pool();
	assert_true(is_served(dial_path(longest, 107)));
	end_server();
	assert_int_equal(nr_names(), 0);
}

/* The end of the file */

static void closed_before_the_run_its_file_is_gone(void **state)
{
	struct evt_listener *listener;

	(void)state;
	make_pool(1);
	listener = listen_at(socket_url, NULL);
	assert_true(S_ISSOCK(mode_of_file()));
	evt_listener_close(listener);
	assert_int_equal(nr_names(), 0);
	listen_at(socket_url, NULL);
	evt_listener_close(listener);
	assert_int_equal(nr_names(), 1);
	stop_server(); /* which never ran */
	assert_int_equal(nr_names(), 0);
}

static void closed_in_the_run_its_file_is_gone(void **state)
{
	int client;

	(void)state;
	start_at_file(NULL);
	client = dial_file();
	assert_true(echoes(client));
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(nr_names() == 0));
	assert_int_equal(dial_file(), -1);
	assert_true(echoes(client));
	close(client);
	end_server();
}

static void a_pool_that_has_stopped_has_no_file(void **state)
{
	(void)state;
	start_at_file(NULL);
	evt_pool_stop(server.pool);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	assert_int_equal(nr_names(), 0);
	end_server();
}

/* I05: it was removed, and is another's now. */
static void another_ones_file_is_left_alone(void **state)
{
	int how;

	(void)state;
	for (how = 0; how < 3; how++) {
		ino_t theirs;
		int fd;

		start_at_file(NULL);
		assert_int_equal(unlink(path), 0);
		fd = foreign_socket(4);
		theirs = inode_of_file();
		if (how == 0)
			evt_listener_close(server.listener);
		if (how == 1)
			evt_pool_stop(server.pool);
		end_server();
		assert_int_equal(inode_of_file(), theirs);
		close(fd);
		unlink(path);
	}
}

static bool listens_again(struct evt_listener *before)
{
	struct evt_listener *next;

	if (server.listener != before)
		return true;
	next = evt_listen(server.pool, socket_url, &echo_handlers, NULL, NULL);
	server.listener = next ? next : before;
	return next;
}

/* I05: the one that goes does not take the other's file along. */
static void the_next_listener_keeps_its_file(void **state)
{
	int i;

	(void)state;
	start_at_file(NULL);
	for (i = 0; i < 50; i++) {
		struct evt_listener *before = server.listener;

		evt_listener_close(before);
		assert_true(WAIT_FOR(listens_again(before)));
		assert_true(file_serves());
	}
	assert_true(S_ISSOCK(mode_of_file()));
	assert_int_equal(nr_names(), 1);
	end_server();
}

/* I05 C12: pools take turns at one path, each waiting for its file. */
static void *run_turns(void *arg)
{
	int turns;

	(void)arg;
	for (turns = 0; turns < 20; turns++) {
		struct evt_pool *pool = NULL;
		struct evt_listener *listener = NULL;

		while (!listener) {
			evt_pool_free(pool);
			pool = evt_pool_new(
				&(struct evt_pool_options){.workers = 1});
			listener = evt_listen(
				pool, socket_url, &echo_handlers, NULL, NULL);
		}
		CHECK(evt_pool_start(pool) == 0);
		CHECK(file_serves());
		evt_pool_free(pool);
	}
	return NULL;
}

static void pools_that_take_turns_serve_each_time(void **state)
{
	pthread_t threads[2];
	int i;

	(void)state;
	forget_seen();
	for (i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, run_turns, NULL), 0);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(nr_names(), 0);
	assert_int_equal(atomic_load(&seen.calls), 40);
}

/* Abstract names */

/* One that nobody else has. */
static int dial_name(void)
{
	char name[64];
	int len = snprintf(name, sizeof(name), "%c%s", 0, folder);

	return dial_path(name, (size_t)len);
}

static bool name_is_free(void)
{
	int fd = dial_name();

	if (fd != -1)
		close(fd);
	return fd == -1;
}

static void an_abstract_name_is_served_without_a_file(void **state)
{
	(void)state;
	snprintf(socket_url, sizeof(socket_url), "unix:@%s", folder);
	start_at_file(NULL);
	assert_int_equal(server.port, -1);
	assert_true(is_served(dial_name()));
	assert_int_equal(nr_names(), 0);
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR(name_is_free()));
	end_server();
}

static void an_abstract_name_in_use_is_told_and_free_again(void **state)
{
	(void)state;
	snprintf(socket_url, sizeof(socket_url), "unix:@%s", folder);
	start_at_file(NULL);
	fails(EADDRINUSE, socket_url);
	assert_true(is_served(dial_name()));
	end_server();
	start_at_file(NULL);
	assert_true(is_served(dial_name()));
	end_server();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FOLDER_TEST(a_path_is_served_and_has_no_port),
		FOLDER_TEST(files_and_ports_are_served_side_by_side),
		FOLDER_TEST(the_user_at_the_other_end_is_known),
		FOLDER_TEST(choose_is_told_the_family),
		FOLDER_TEST(a_limit_for_each_source_is_none_for_files),
		FOLDER_TEST(above_the_limit_clients_of_a_file_wait),
		FOLDER_TEST(a_group_of_files_is_refused),
		FOLDER_TEST(the_mode_is_0600_unless_it_is_said),
		FOLDER_TEST(a_file_that_nobody_serves_is_replaced),
		FOLDER_TEST(a_file_that_is_served_is_in_use),
		FOLDER_TEST(two_listeners_cannot_have_one_file),
		FOLDER_TEST(what_is_no_socket_is_left_alone),
		FOLDER_TEST(a_folder_that_is_not_there_is_told),
		FOLDER_TEST(a_path_of_107_bytes_is_served),
		FOLDER_TEST(closed_before_the_run_its_file_is_gone),
		FOLDER_TEST(closed_in_the_run_its_file_is_gone),
		FOLDER_TEST(a_pool_that_has_stopped_has_no_file),
		FOLDER_TEST(another_ones_file_is_left_alone),
		FOLDER_TEST(the_next_listener_keeps_its_file),
		FOLDER_TEST(pools_that_take_turns_serve_each_time),
		FOLDER_TEST(an_abstract_name_is_served_without_a_file),
		FOLDER_TEST(an_abstract_name_in_use_is_told_and_free_again),
	};

	return ledger_run("listen_unix", tests);
}
