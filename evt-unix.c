/*
 * evt-unix.c: a listening socket gets its name once it is ready, not before.
 *
 * bind(2) makes the file with the mode of the socket's inode less the umask,
 * and the umask is the whole process's: other threads create files meanwhile.
 * A chmod(2) afterwards leaves a moment with another mode; so does listen(2),
 * in which the socket refuses, and whoever looks takes it for a dead one's.
 * So the socket is bound to a name of its own in the same folder (its inode
 * having been given the mode, so that this file never allows more either), gets
 * its mode and listens, and then link(2) gives it the name that was asked for,
 * unless something has it.
 *
 * What is there already is asked by connecting. Refused: nobody serves it, and
 * it is exchanged for ours in one step, so that the name never misses. Should
 * what comes out not be what was asked, another process was quicker: it gets
 * its name back. So of two that replace the same dead socket one is told
 * EADDRINUSE. What remains: three at once, to the microsecond; a file system
 * that cannot exchange, where unlink(2) follows a last look; and a server that
 * binds the name first and listens later, if it is asked in between.
 *
 * The price is the name that ss(8) shows: the one that was bound, which has
 * gone. It begins with the one that was asked for. Who gets a datagram from it
 * could not answer: so a socket of datagrams, which has not to listen, is bound
 * to the name that was asked for. Until its chmod(2) its mode may lack what the
 * umask takes away, and of what is replaced it is a last look, and unlink(2).
 *
 * Rejected: a lock file (it is left over as well), flock(2) of the folder and a
 * lock by an abstract name (anybody can hold them), umask(2) in a thread with
 * a folder of its own (containers forbid unshare(2)).
 */
#include "evt-unix-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_TRIES 32 /* names for ourselves, and goes at the one asked for */
#define SUFFIX    7  /* what follows the name asked for, if there is room */
#define MODE_BITS 07777

socklen_t evt_unix_addr_(const struct evt_url *url, struct sockaddr_un *addr)
{
	size_t len = offsetof(struct sockaddr_un, sun_path) + url->path_len + 1;

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	/* The name's NUL is its last byte; an abstract one's its first. */
	memcpy(addr->sun_path + url->abstract, url->path, url->path_len);
	return (socklen_t)len;
}

static void close_quietly(int fd)
{
	int error = errno;

	close(fd);
	errno = error;
}

static int new_socket(int socktype)
{
	return evt_net_above_stdio_(
		socket(AF_UNIX, socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/* The file at path, itself: 0, or -1 if there is none or it cannot be seen. */
static int look_at(
	const char *path, struct evt_unix_file *file, struct stat *status)
{
	if (lstat(path, status) == -1)
		return -1;
	file->device = status->st_dev;
	file->inode = status->st_ino;
	return 0;
}

/* Whether path is that file. */
static bool is_file(const char *path, const struct evt_unix_file *file)
{
	struct evt_unix_file found;
	struct stat status;

	return look_at(path, &found, &status) == 0 &&
		found.device == file->device && found.inode == file->inode;
}

static void unlink_quietly(const char *path)
{
	int error = errno;

	unlink(path);
	errno = error;
}

static void remove_quietly(const char *path, const struct evt_unix_file *file)
{
	int error = errno;

	if (is_file(path, file))
		unlink(path);
	errno = error;
}

/* 0 if nobody serves the socket of url, or -1: EADDRINUSE if somebody does. */
static int ask(const struct evt_url *url, int socktype, const char **step)
{
	struct sockaddr_un addr;
	socklen_t len = evt_unix_addr_(url, &addr);
	int result;
	int fd;

	*step = "socket";
	fd = new_socket(socktype);
	if (fd == -1)
		return -1;
	*step = "connect";
	result = connect(fd, (struct sockaddr *)&addr, len);
	close_quietly(fd);
	if (result == -1 && errno == ECONNREFUSED)
		return 0;
	/* Its queue is full, it is of another type, it has another peer. */
	if (result == 0 || errno == EAGAIN || errno == EPROTOTYPE ||
		errno == EPERM) {
		*step = "bind";
		errno = EADDRINUSE;
	}
	return -1;
}

/* 0 if url is a socket that nobody serves, and which; ENOENT if it has gone. */
static int find_stale(const struct evt_url *url, int socktype,
	struct evt_unix_file *stale, const char **step)
{
	struct stat status;

	*step = "lstat";
	if (look_at(url->path, stale, &status) == -1)
		return -1;
	if (!S_ISSOCK(status.st_mode)) {
		*step = "bind";
		errno = EADDRINUSE;
		return -1;
	}
	return ask(url, socktype, step);
}

/*
 * Puts name in the place of the stale file. 0, or -1: EAGAIN if it may be tried
 * once more, the place being free or another's now.
 */
static int replace(const char *name, const char *path,
	const struct evt_unix_file *stale, const char **step)
{
	*step = "rename";
	if (renameat2(AT_FDCWD, name, AT_FDCWD, path, RENAME_EXCHANGE) == 0) {
		if (is_file(name, stale)) {
			unlink(name);
			return 0;
		}
		(void)renameat2(
			AT_FDCWD, name, AT_FDCWD, path, RENAME_EXCHANGE);
		errno = EAGAIN;
		return -1;
	}
	/* A file system or a sandbox that knows no exchange. */
	if (errno == EINVAL || errno == ENOSYS || errno == EPERM ||
		errno == EOPNOTSUPP) {
		*step = "unlink";
		if (is_file(path, stale) && unlink(path) == -1)
			return -1;
		errno = EAGAIN;
	}
	return -1;
}

/* Gives the socket that is bound to name the one that was asked for. */
static int publish(const char *name, const struct evt_url *url, int socktype,
	const char **step)
{
	struct evt_unix_file stale;
	int tries;

	for (tries = 0; tries < MAX_TRIES; tries++) {
		*step = "link";
		if (link(name, url->path) == 0) {
			unlink(name);
			return 0;
		}
		if (errno != EEXIST)
			return -1;
		if (find_stale(url, socktype, &stale, step) == 0 &&
			replace(name, url->path, &stale, step) == 0)
			return 0;
		if (errno != EAGAIN && errno != ENOENT)
			return -1;
	}
	*step = "bind";
	errno = EADDRINUSE;
	return -1;
}

/*
 * A name in the folder of url: the one asked for and a suffix, as long as there
 * is room, or else one in its place. Whether it is free, bind(2) says.
 */
static void choose_name(const struct evt_url *url, struct evt_url *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	const size_t room = sizeof(name->path) - 1;
	const char *slash = strrchr(url->path, '/');
	size_t folder = slash ? (size_t)(slash - url->path) + 1 : 0;
	size_t len = url->path_len;
	struct timespec now;
	uint64_t number;
	int i;

	if (len > room - SUFFIX)
		len = folder > room - SUFFIX ? folder : room - SUFFIX;
	clock_gettime(CLOCK_MONOTONIC, &now);
	number = (uint64_t)now.tv_nsec * 1000003 + (uint64_t)getpid();
	*name = *url;
	/* A dot alone is the folder. */
	if (len + 1 < room)
		name->path[len++] = '.';
	for (i = 1; i < SUFFIX && len < room; i++, number /= 36)
		name->path[len++] = letters[number % 36];
	name->path[len] = '\0';
	name->path_len = len;
}

static int bind_to(int fd, const struct evt_url *url)
{
	struct sockaddr_un addr;
	socklen_t len = evt_unix_addr_(url, &addr);

	return bind(fd, (struct sockaddr *)&addr, len);
}

static int bind_beside(int fd, const struct evt_url *url, struct evt_url *name)
{
	int tries;

	for (tries = 0; tries < MAX_TRIES; tries++) {
		choose_name(url, name);
		if (strcmp(name->path, url->path) == 0)
			continue;
		if (bind_to(fd, name) == 0)
			return 0;
		if (errno != EADDRINUSE)
			return -1;
	}
	errno = EADDRINUSE;
	return -1;
}

/* Gives what was bound to path its mode, and says which file that is. */
static int set_mode(const char *path, mode_t mode, struct evt_unix_file *file,
	const char **step)
{
	struct stat status;

	*step = "lstat";
	if (look_at(path, file, &status) == -1)
		goto failed;
	*step = "chmod";
	if ((status.st_mode & MODE_BITS) != mode &&
		fchmodat(AT_FDCWD, path, mode, AT_SYMLINK_NOFOLLOW) == -1)
		goto failed;
	return 0;
failed:
	unlink_quietly(path);
	return -1;
}

/* Binds fd to a name of its own, with mode, and says which file that is. */
static int make_file(int fd, const struct evt_url *url, mode_t mode,
	struct evt_url *name, struct evt_unix_file *file, const char **step)
{
	*step = "fchmod";
	if (fchmod(fd, mode) == -1)
		return -1;
	*step = "bind";
	if (bind_beside(fd, url, name) == -1)
		return -1;
	return set_mode(name->path, mode, file, step);
}

/* Removes what nobody serves: EAGAIN if it is another's now. */
static int remove_stale(const struct evt_url *url, const char **step)
{
	struct evt_unix_file stale;

	if (find_stale(url, SOCK_DGRAM, &stale, step) == -1)
		return -1;
	*step = "unlink";
	if (is_file(url->path, &stale))
		return unlink(url->path);
	errno = EAGAIN;
	return -1;
}

/* Binds fd to the name that was asked for. */
static int bind_datagrams(int fd, const struct evt_url *url, mode_t mode,
	struct evt_unix_file *file, const char **step)
{
	int tries;

	*step = "fchmod";
	if (fchmod(fd, mode) == -1)
		return -1;
	for (tries = 0; tries < MAX_TRIES; tries++) {
		*step = "bind";
		if (bind_to(fd, url) == 0)
			return set_mode(url->path, mode, file, step);
		if (errno != EADDRINUSE)
			return -1;
		if (remove_stale(url, step) == -1 && errno != EAGAIN &&
			errno != ENOENT)
			return -1;
	}
	*step = "bind";
	errno = EADDRINUSE;
	return -1;
}

static int listen_if_stream(
	int fd, int socktype, int backlog, const char **step)
{
	*step = "listen";
	return socktype == SOCK_STREAM ? listen(fd, backlog) : 0;
}

/* The whole of what makes a name: leaves nothing if it fails. */
static int bind_file(int fd, const struct evt_url *url, int socktype,
	mode_t mode, int backlog, struct evt_unix_file *file, const char **step)
{
	struct evt_url name;

	if (socktype == SOCK_DGRAM) {
		if (bind_datagrams(fd, url, mode & MODE_BITS, file, step) == -1)
			return -1;
		memcpy(file->path, url->path, sizeof(file->path));
		return 0;
	}
	if (make_file(fd, url, mode & MODE_BITS, &name, file, step) == -1)
		return -1;
	if (listen_if_stream(fd, socktype, backlog, step) == -1)
		goto failed;
	if (publish(name.path, url, socktype, step) == -1)
		goto failed;
	memcpy(file->path, url->path, sizeof(file->path));
	return 0;
failed:
	/* An exchange that could not be undone left another's there. */
	remove_quietly(name.path, file);
	return -1;
}

int evt_unix_bind_(const struct evt_url *url, int socktype, mode_t mode,
	int backlog, struct evt_unix_file *file, const char **step)
{
	int fd;

	memset(file, 0, sizeof(*file));
	*step = "socket";
	fd = new_socket(socktype);
	if (fd == -1)
		return -1;
	if (!url->abstract) {
		if (bind_file(fd, url, socktype, mode, backlog, file, step) ==
			-1)
			goto failed;
		return fd;
	}
	*step = "bind";
	if (bind_to(fd, url) == -1)
		goto failed;
	if (listen_if_stream(fd, socktype, backlog, step) == -1)
		goto failed;
	return fd;
failed:
	close_quietly(fd);
	return -1;
}

void evt_unix_remove_(struct evt_unix_file *file)
{
	if (!*file->path)
		return;
	remove_quietly(file->path, file);
	memset(file, 0, sizeof(*file));
}
