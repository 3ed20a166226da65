/*
 * test_unix.c: listening on a path. Whose it is, and its mode at each moment.
 */
#include "unix_folder.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>

/* Addresses */

/* I01 */
static void a_path_has_its_nul_in_the_address(void **state)
{
	struct sockaddr_un addr;

	(void)state;
	memset(&addr, 0xa5, sizeof(addr));
	assert_int_equal(evt_unix_addr_(&url, &addr),
		offsetof(struct sockaddr_un, sun_path) + url.path_len + 1);
	assert_int_equal(addr.sun_family, AF_UNIX);
	assert_string_equal(addr.sun_path, url.path);
}

/* I01 */
static void an_abstract_name_has_its_nul_in_front(void **state)
{
	struct evt_url name = {.kind = EVT_URL_UNIX,
		.path = "name",
		.path_len = 4,
		.abstract = true};
	struct sockaddr_un addr;

	(void)state;
	memset(&addr, 0xa5, sizeof(addr));
	assert_int_equal(evt_unix_addr_(&name, &addr),
		offsetof(struct sockaddr_un, sun_path) + 5);
	assert_memory_equal(addr.sun_path, "\0name", 5);
}

/* Parses folder/ppp..., of len bytes in all. */
static void set_long_path(size_t len)
{
	const char *why;
	char text[200];
	int start = snprintf(text, sizeof(text), "unix:%s/", folder);

	memset(text + start, 'p', len);
	text[5 + len] = '\0';
	assert_int_equal(evt_url_parse_(text, &url, &why), 0);
	assert_int_equal(url.path_len, len);
}

/* I01 */
static void paths_of_up_to_107_bytes_are_served(void **state)
{
	size_t len;
	int fd;

	(void)state;
	for (len = strlen(folder) + 2; len <= 107; len++) {
		set_long_path(len);
		fd = serve(0);
		assert_int_not_equal(fd, -1);
		assert_int_equal(names(), 1);
		assert_true(serves(fd));
		close(fd);
		evt_unix_remove_(&files[0]);
		assert_int_equal(names(), 0);
	}
}

/* A folder so deep that a name of room bytes fits, and that name's url. */
static void go_deep(char deep[108], size_t room, const char *name)
{
	memset(deep, 'd', 106 - room);
	memcpy(deep, folder, strlen(folder));
	deep[strlen(folder)] = '/';
	deep[106 - room] = '\0';
	assert_int_equal(mkdir(deep, 0700), 0);
	memset(&url, 0, sizeof(url));
	url.path_len = (size_t)snprintf(
		url.path, sizeof(url.path), "%s/%s", deep, name);
}

/* I01: no room for a suffix. */
static void a_short_name_in_a_long_folder_is_served(void **state)
{
	char deep[108];
	size_t room;
	int fd;

	(void)state;
	for (room = 1; room < 10; room++) {
		go_deep(deep, room, "a");
		fd = serve(0);
		assert_int_not_equal(fd, -1);
		assert_true(serves(fd));
		close(fd);
		evt_unix_remove_(&files[0]);
		assert_int_equal(rmdir(deep), 0); /* nothing is left */
	}
}

/* I01: one in 36 times the first name chosen is the one asked for. */
static void the_only_name_there_is_room_for_is_served(void **state)
{
	char deep[108];
	int fd;
	int i;

	(void)state;
	go_deep(deep, 1, "a");
	for (i = 0; i < 500; i++) {
		fd = serve(0);
		assert_int_not_equal(fd, -1);
		close(fd);
		evt_unix_remove_(&files[0]);
	}
	assert_int_equal(rmdir(deep), 0);
}

/* I01 */
static void an_abstract_name_is_served_and_leaves_nothing(void **state)
{
	int fd;

	(void)state;
	set_long_path(107);
	url.abstract = true;
	fd = serve(0);
	assert_int_not_equal(fd, -1);
	assert_true(serves(fd));
	assert_string_equal(files[0].path, "");
	evt_unix_remove_(&files[0]);
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	close(fd);
	fd = serve(0);
	assert_int_not_equal(fd, -1);
	close(fd);
	assert_int_equal(names(), 0);
}

static void a_relative_path_is_served(void **state)
{
	int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd;

	(void)state;
	assert_int_equal(chdir(folder), 0);
	memset(&url, 0, sizeof(url));
	memcpy(url.path, "s", 2);
	url.path_len = 1;
	fd = serve(0);
	assert_int_not_equal(fd, -1);
	assert_true(serves(fd));
	evt_unix_remove_(&files[0]);
	close(fd);
	assert_int_equal(fchdir(here), 0);
	close(here);
}

/* The socket */

static void it_is_non_blocking_and_close_on_exec(void **state)
{
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(types); i++) {
		fd = evt_unix_bind_(&url, types[i], 0600, 16, &files[0], &step);
		assert_int_not_equal(fd, -1);
		assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
		assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		evt_unix_remove_(&files[0]);
		close(fd);
	}
}

static void serve_without_stdio(void *arg)
{
	struct evt_unix_file file;
	int fd;

	(void)arg;
	close(0);
	close(1);
	leave_stale(SOCK_STREAM);
	fd = evt_unix_bind_(&url, SOCK_STREAM, 0600, 1, &file, &step);
	CHECK(fd > 2);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	CHECK(fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1);
	evt_unix_remove_(&file);
	close(fd);
}

static void it_is_none_of_the_standard_descriptors(void **state)
{
	(void)state;
	assert_int_equal(in_child(serve_without_stdio, NULL, 10), 0);
}

static void a_datagram_socket_receives(void **state)
{
	struct sockaddr_un addr;
	socklen_t len = evt_unix_addr_(&url, &addr);
	int client = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char text[8];
	int fd;

	(void)state;
	fd = evt_unix_bind_(&url, SOCK_DGRAM, 0600, 16, &files[0], &step);
	assert_int_not_equal(fd, -1);
	assert_int_equal(
		sendto(client, "hello", 5, 0, (struct sockaddr *)&addr, len),
		5);
	assert_int_equal(recv(fd, text, sizeof(text), 0), 5);
	close(client);
	evt_unix_remove_(&files[0]);
	close(fd);
}

/* Who has the path */

/* I02 */
static void a_stale_socket_is_replaced(void **state)
{
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
	ino_t stale;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < COUNT(types); i++) {
		stale = leave_stale(types[i]);
		fd = serve(0);
		assert_int_not_equal(fd, -1);
		assert_true(inode_of(url.path) != stale);
		assert_int_equal(names(), 1);
		assert_true(serves(fd));
		evt_unix_remove_(&files[0]);
		close(fd);
	}
}

/* I02 */
static void a_served_socket_is_left_alone(void **state)
{
	int fd = serve(0);

	(void)state;
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	forget_clients(fd);
	assert_true(serves(fd));
	refuses(SOCK_DGRAM, EADDRINUSE, "bind");
	assert_true(serves(fd));
	evt_unix_remove_(&files[0]);
	close(fd);
}

/* I02 */
static void a_served_datagram_socket_is_left_alone(void **state)
{
	int fd = evt_unix_bind_(&url, SOCK_DGRAM, 0600, 0, &files[0], &step);

	(void)state;
	refuses(SOCK_DGRAM, EADDRINUSE, "bind");
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	assert_true(inode_of(url.path) == files[0].inode);
	evt_unix_remove_(&files[0]);
	close(fd);
}

/* I02: and a datagram socket that listens to one peer only. */
static void a_socket_with_another_peer_is_left_alone(void **state)
{
	int fd = evt_unix_bind_(&url, SOCK_DGRAM, 0600, 0, &files[0], &step);
	struct sockaddr_un addr;
	socklen_t len;

	(void)state;
	len = evt_unix_addr_(&url, &addr);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, len), 0);
	refuses(SOCK_DGRAM, EADDRINUSE, "bind");
	evt_unix_remove_(&files[0]);
	close(fd);
}

/* I02: whose queue is full is busy, not gone, and is not waited for. */
static void a_busy_server_is_left_alone(void **state)
{
	struct sockaddr_un addr;
	socklen_t len = evt_unix_addr_(&url, &addr);
	int fd = evt_unix_bind_(&url, SOCK_STREAM, 0600, 0, &files[0], &step);
	int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_int_equal(connect(client, (struct sockaddr *)&addr, len), 0);
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	assert_true(inode_of(url.path) == files[0].inode);
	close(client);
	evt_unix_remove_(&files[0]);
	close(fd);
}

/* I03 */
static void a_file_is_left_alone(void **state)
{
	int file = open(url.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0640);
	ino_t inode = inode_of(url.path);

	(void)state;
	close(file);
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	assert_true(inode_of(url.path) == inode);
	assert_int_equal(mode_of(url.path), 0640);
	assert_int_equal(unlink(url.path), 0);
}

/* I03 */
static void a_folder_is_left_alone(void **state)
{
	(void)state;
	assert_int_equal(mkdir(url.path, 0700), 0);
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	set_path("s/");
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	assert_int_equal(rmdir(url.path), 0);
}

/* I03: opening one would wait for its other end. */
static void a_fifo_is_left_alone(void **state)
{
	(void)state;
	assert_int_equal(mkfifo(url.path, 0600), 0);
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	assert_int_equal(unlink(url.path), 0);
}

/* I03 */
static void a_symlink_is_not_followed(void **state)
{
	char link_path[64];
	ino_t stale;

	(void)state;
	stale = leave_stale(SOCK_STREAM);
	snprintf(link_path, sizeof(link_path), "%s/link", folder);
	assert_int_equal(symlink(url.path, link_path), 0);
	set_path("link");
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	set_path("s");
	assert_true(inode_of(url.path) == stale);
	assert_int_equal(unlink(url.path), 0);
	set_path("link"); /* to nothing, now */
	refuses(SOCK_STREAM, EADDRINUSE, "bind");
	assert_int_equal(unlink(url.path), 0);
}

static void a_missing_folder_is_told(void **state)
{
	(void)state;
	set_path("none/s");
	refuses(SOCK_STREAM, ENOENT, "bind");
	set_path("none/");
	refuses(SOCK_STREAM, ENOENT, "bind");
}

/* Modes */

static void serve_with_modes(void *arg)
{
	static const mode_t modes[] = {0, 0600, 0660, 0666, 0777, 0622, 0007};
	static const mode_t umasks[] = {0, 022, 027, 077, 0777};
	struct evt_unix_file file;
	size_t i;
	int fd;

	(void)arg;
	for (i = 0; i < COUNT(modes) * COUNT(umasks); i++) {
		mode_t mode = modes[i % COUNT(modes)];

		umask(umasks[i / COUNT(modes)]);
		fd = evt_unix_bind_(&url, SOCK_STREAM, mode, 1, &file, &step);
		CHECK(fd != -1);
		CHECK(mode_of(url.path) == mode);
		CHECK(umask(0) == umasks[i / COUNT(modes)]);
		evt_unix_remove_(&file);
		close(fd);
	}
}

/* I04 */
static void the_mode_is_what_was_asked_for_whatever_the_umask(void **state)
{
	(void)state;
	assert_int_equal(in_child(serve_with_modes, NULL, 20), 0);
}

/* Looks at all that is in the folder, without a pause. */
static struct {
	atomic_bool done;
	atomic_int seen;
	atomic_int wrong;   /* the path with another mode */
	atomic_int open;    /* any name with more than that */
	atomic_int refused; /* the path, not yet listening */
} watch;

static void look_around(DIR *dir)
{
	struct dirent *entry;
	struct stat status;

	rewinddir(dir);
	while ((entry = readdir(dir))) {
		if (fstatat(dirfd(dir), entry->d_name, &status,
			    AT_SYMLINK_NOFOLLOW) == 0 &&
			S_ISSOCK(status.st_mode) &&
			(status.st_mode & 07777 & ~0660U))
			atomic_fetch_add(&watch.open, 1);
	}
}

static void *watch_modes(void *arg)
{
	DIR *dir = opendir(folder);
	struct stat status;
	int i;

	(void)arg;
	while (!atomic_load(&watch.done)) {
		for (i = 0; i < 50; i++) {
			if (lstat(url.path, &status) == -1)
				continue;
			atomic_fetch_add(&watch.seen, 1);
			if ((status.st_mode & 07777) != 0660)
				atomic_fetch_add(&watch.wrong, 1);
		}
		look_around(dir);
	}
	closedir(dir);
	return NULL;
}

static void *watch_answers(void *arg)
{
	struct sockaddr_un addr;
	socklen_t len = evt_unix_addr_(&url, &addr);
	int fd;

	(void)arg;
	while (!atomic_load(&watch.done)) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (connect(fd, (struct sockaddr *)&addr, len) == 0)
			atomic_fetch_add(&watch.seen, 1);
		else if (errno == ECONNREFUSED)
			atomic_fetch_add(&watch.refused, 1);
		close(fd);
	}
	return NULL;
}

/*
 * Many servers come and go while somebody watches. Their sockets are closed at
 * the end: who had found one that is closed meanwhile would be refused.
 */
static void serve_watched(void *(*watcher)(void *), mode_t mask)
{
	static int fds[200];
	mode_t before = umask(mask);
	pthread_t thread;
	size_t i;

	memset(&watch, 0, sizeof(watch));
	assert_int_equal(pthread_create(&thread, NULL, watcher, NULL), 0);
	for (i = 0; i < COUNT(fds); i++) {
		evt_unix_remove_(&files[0]);
		fds[i] = evt_unix_bind_(
			&url, SOCK_STREAM, 0660, 16, &files[0], &step);
		assert_int_not_equal(fds[i], -1);
		if (i % 4 == 0)
			sched_yield();
	}
	assert_true(WAIT_FOR(atomic_load(&watch.seen) > 0));
	atomic_store(&watch.done, true);
	assert_int_equal(pthread_join(thread, NULL), 0);
	evt_unix_remove_(&files[0]);
	for (i = 0; i < COUNT(fds); i++)
		close(fds[i]);
	umask(before);
}

/* I04 */
static void no_other_mode_is_ever_seen(void **state)
{
	static const mode_t masks[] = {0, 022, 077};
	int rounds = under("plain") ? 30 : 3;
	int i;

	(void)state;
	for (i = 0; i < rounds; i++) {
		serve_watched(watch_modes, masks[i % 3]);
		assert_int_equal(watch.wrong, 0);
		assert_int_equal(watch.open, 0);
	}
}

/* It has its name only once it listens. */
static void who_finds_the_path_is_not_refused(void **state)
{
	int rounds = under("plain") ? 10 : 2;
	int i;

	(void)state;
	for (i = 0; i < rounds; i++) {
		serve_watched(watch_answers, 022);
		assert_int_equal(watch.refused, 0);
	}
}

/* Removing */

/* I05 */
static void a_path_that_is_anothers_now_is_not_removed(void **state)
{
	int first = serve(0);
	int second;

	(void)state;
	assert_int_equal(unlink(url.path), 0);
	second = serve(1);
	assert_int_not_equal(second, -1);
	evt_unix_remove_(&files[0]);
	assert_true(serves(second));
	assert_string_equal(files[0].path, "");
	close(first);
	evt_unix_remove_(&files[1]);
	close(second);
	assert_int_equal(names(), 0);
}

/* I05 */
static void a_file_is_removed_once(void **state)
{
	int fd = serve(0);
	int other;

	(void)state;
	evt_unix_remove_(&files[0]);
	assert_int_equal(names(), 0);
	other = open(url.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(other);
	evt_unix_remove_(&files[0]);
	assert_int_equal(names(), 1);
	assert_int_equal(unlink(url.path), 0);
	close(fd);
}

static void removing_keeps_errno(void **state)
{
	int fd = serve(0);

	(void)state;
	assert_int_equal(unlink(url.path), 0);
	errno = EPROTO;
	evt_unix_remove_(&files[0]);
	assert_int_equal(errno, EPROTO);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FOLDER_TEST(a_path_has_its_nul_in_the_address),
		FOLDER_TEST(an_abstract_name_has_its_nul_in_front),
		FOLDER_TEST(paths_of_up_to_107_bytes_are_served),
		FOLDER_TEST(a_short_name_in_a_long_folder_is_served),
		FOLDER_TEST(the_only_name_there_is_room_for_is_served),
		FOLDER_TEST(an_abstract_name_is_served_and_leaves_nothing),
		FOLDER_TEST(a_relative_path_is_served),
		FOLDER_TEST(it_is_non_blocking_and_close_on_exec),
		FOLDER_TEST(it_is_none_of_the_standard_descriptors),
		FOLDER_TEST(a_datagram_socket_receives),
		FOLDER_TEST(a_stale_socket_is_replaced),
		FOLDER_TEST(a_served_socket_is_left_alone),
		FOLDER_TEST(a_served_datagram_socket_is_left_alone),
		FOLDER_TEST(a_socket_with_another_peer_is_left_alone),
		FOLDER_TEST(a_busy_server_is_left_alone),
		FOLDER_TEST(a_file_is_left_alone),
		FOLDER_TEST(a_folder_is_left_alone),
		FOLDER_TEST(a_fifo_is_left_alone),
		FOLDER_TEST(a_symlink_is_not_followed),
		FOLDER_TEST(a_missing_folder_is_told),
		FOLDER_TEST(the_mode_is_what_was_asked_for_whatever_the_umask),
		FOLDER_TEST(no_other_mode_is_ever_seen),
		FOLDER_TEST(who_finds_the_path_is_not_refused),
		FOLDER_TEST(a_path_that_is_anothers_now_is_not_removed),
		FOLDER_TEST(a_file_is_removed_once),
		FOLDER_TEST(removing_keeps_errno),
	};

	return ledger_run("unix", tests);
}
