/*
 * unix_folder.h: a folder for each test of UNIX sockets. FOLDER_TEST(fn) is
 * a LEDGER_TEST in a new one, at whose end no name may be left in it.
 */
#ifndef UNIX_FOLDER_H
#define UNIX_FOLDER_H

#include "ledger.h"
#include "../evt-unix-internal.h"

#include <dirent.h>
#include <poll.h>
#include <sys/stat.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static char folder[32];
static struct evt_url url; /* folder/s */
static struct evt_unix_file files[4];
static const char *step;

static inline void set_path(const char *name)
{
	memset(&url, 0, sizeof(url));
	url.kind = EVT_URL_UNIX;
	url.path_len = (size_t)snprintf(
		url.path, sizeof(url.path), "%s/%s", folder, name);
}

static inline int enter(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/test_unix.XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	set_path("s");
	return ledger_open(state);
}

/* How many names there are in the folder; the last of them in name. */
static inline int count_names(char *name, size_t size)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	int count = 0;

	while (dir && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 ||
			strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(name, size, "%s/%s", folder, entry->d_name);
		count++;
	}
	if (dir)
		closedir(dir);
	return count;
}

static inline int names(void)
{
	char name[512];

	return count_names(name, sizeof(name));
}

/* What a test leaves is a failure; the folder goes in any case. */
static inline int leave(void **state)
{
	char name[512];
	int left = 0;

	while (count_names(name, sizeof(name)) > 0 && left++ < 100) {
		print_error("left: %s\n", name);
		if (remove(name) == -1)
			break;
	}
	rmdir(folder);
	return ledger_close(state) == 0 && left == 0 ? 0 : -1;
}

#define FOLDER_TEST(fn)                            \
	{                                          \
#fn, fn, enter, leave, (void *)#fn \
	}

/* As most tests bind: 0600, to file number nr. */
static inline int serve(int nr)
{
	return evt_unix_bind_(&url, SOCK_STREAM, 0600, 16, &files[nr], &step);
}

/* Binds a server that does not remove its file: a stale one, once closed. */
static inline ino_t leave_stale(int socktype)
{
	struct sockaddr_un addr;
	socklen_t len = evt_unix_addr_(&url, &addr);
	int fd = socket(AF_UNIX, socktype | SOCK_CLOEXEC, 0);
	struct stat status;

	assert_int_not_equal(fd, -1);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	close(fd);
	assert_int_equal(lstat(url.path, &status), 0);
	return status.st_ino;
}

static inline mode_t mode_of(const char *path)
{
	struct stat status;

	return lstat(path, &status) == 0 ? status.st_mode & 07777 : 0;
}

static inline ino_t inode_of(const char *path)
{
	struct stat status;

	return lstat(path, &status) == 0 ? status.st_ino : 0;
}

/* Whether fd serves url: a client that comes there is accepted here. */
static inline bool serves(int fd)
{
	struct sockaddr_un addr;
	socklen_t len = evt_unix_addr_(&url, &addr);
	int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	int conn = -1;

	if (connect(client, (struct sockaddr *)&addr, len) == 0 &&
		poll(&ready, 1, 10000) == 1)
		conn = accept(fd, NULL, NULL);
	close(client);
	if (conn == -1)
		return false;
	close(conn);
	return true;
}

/* The clients that only asked. */
static inline void forget_clients(int fd)
{
	int conn;

	while ((conn = accept(fd, NULL, NULL)) != -1)
		close(conn);
}

/* It is refused with this error, and the step is told. */
static inline void refuses(int socktype, int error, const char *where)
{
	struct evt_unix_file file;
	int before = names();

	errno = 0;
	assert_int_equal(
		evt_unix_bind_(&url, socktype, 0600, 16, &file, &step), -1);
	assert_int_equal(errno, error);
	assert_string_equal(step, where);
	assert_string_equal(file.path, "");
	assert_int_equal(names(), before);
}

#endif /* UNIX_FOLDER_H */
