/*
 * inject.h: making a wrapped call fail. A suite wraps the call and asks
 * injected() first; who tests says which error, after how many calls that are
 * to succeed, and how often. And the table of all the calls that the library
 * makes and that can fail, for check-faults.
 */
#ifndef INJECT_H
#define INJECT_H

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdbool.h>

#define FOR_EVER INT_MAX

struct inject {
	const char *name;
	atomic_int error;
	atomic_int skip;  /* so many succeed first */
	atomic_int times; /* and then so many fail */
	atomic_int calls; /* since it was set */
};

static inline void inject(struct inject *call, int error, int skip, int times)
{
	atomic_store(&call->times, 0);
	atomic_store(&call->error, error);
	atomic_store(&call->skip, skip);
	atomic_store(&call->calls, 0);
	atomic_store(&call->times, times);
}

static inline void end_injection(struct inject *call)
{
	atomic_store(&call->times, 0);
}

/* True, and one less, while there is something left. */
static inline bool take_one(atomic_int *left)
{
	int now = atomic_load(left);

	while (now > 0)
		if (atomic_compare_exchange_weak(left, &now, now - 1))
			return true;
	return false;
}

/* True, and errno set, if this call is to fail. */
static inline bool injected(struct inject *call)
{
	atomic_fetch_add(&call->calls, 1);
	if (atomic_load(&call->times) == 0 || take_one(&call->skip) ||
		!take_one(&call->times))
		return false;
	errno = atomic_load(&call->error);
	return true;
}

/*
 * Whatever the library asks of the system, of libc and of libevent and does not
 * always get: CALL(name, what may last, what passes). Both are the errnos of
 * the man page, less those that tell of a pointer or a structure that is none
 * (EFAULT) unless there is no other. "From then on" a call fails with one that
 * may last: a call that was interrupted, or would block, may be tried again at
 * once, and who does would never end.
 *
 * getaddrinfo(3) gives EAI_ numbers and pthread_create(3) an errno. libevent
 * says no more than that it failed; event_memory stands for its allocations.
 * recv(2) gives no EAGAIN of ours: where only a change wakes (EPOLLET) nothing
 * comes after one; nor write(2), of a pipe that is not full. close(2) fails
 * with the descriptor closed all the same, as on Linux, and connect(2) goes on
 * by itself after EINPROGRESS and EINTR.
 */
#define LASTS(...)  ((const int[]){__VA_ARGS__, 0})
#define PASSES(...) ((const int[]){__VA_ARGS__, 0})
#define NONE        ((const int[]){0})

/* clang-format off */
#define INJECT_CALLS(CALL) \
	CALL(accept, LASTS(EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM), \
		PASSES(EAGAIN, ECONNABORTED, EINTR, EPROTO)) \
	CALL(accept4, LASTS(EMFILE, ENOSYS, ENFILE, EPERM, ENOBUFS, ENOMEM, \
		EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP), \
		PASSES(EAGAIN, ECONNABORTED, EINTR, EPROTO, ENETDOWN, \
		ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, ENETUNREACH)) \
	CALL(bind, LASTS(EADDRINUSE, EACCES, EADDRNOTAVAIL, EBADF, EINVAL, \
		ENOTSOCK, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, \
		EROFS), NONE) \
	CALL(calloc, LASTS(ENOMEM), NONE) \
	CALL(close, LASTS(EIO, EBADF, ENOSPC, EDQUOT), PASSES(EINTR)) \
	CALL(connect, LASTS(ECONNREFUSED, EACCES, EPERM, EADDRINUSE, \
		EADDRNOTAVAIL, EAFNOSUPPORT, EALREADY, EBADF, ENETUNREACH, \
		ENOTSOCK, EPROTOTYPE, ETIMEDOUT), \
		PASSES(EAGAIN)) \
	CALL(epoll_create1, LASTS(EMFILE, ENFILE, ENOMEM, EINVAL), NONE) \
	CALL(epoll_ctl, LASTS(ENOMEM, ENOSPC, EBADF, EEXIST, EINVAL, ELOOP, \
		ENOENT, EPERM), NONE) \
	CALL(epoll_wait, LASTS(EBADF, EINVAL), PASSES(EINTR)) \
	CALL(event_add, LASTS(ENOMEM), NONE) \
	CALL(event_base_loop, LASTS(EBADF), NONE) \
	CALL(event_base_new_with_config, LASTS(ENOMEM), NONE) \
	CALL(event_config_new, LASTS(ENOMEM), NONE) \
	CALL(event_memory, LASTS(ENOMEM), NONE) \
	CALL(event_new, LASTS(ENOMEM), NONE) \
	CALL(eventfd, LASTS(EMFILE, ENFILE, ENOMEM, ENODEV, EINVAL), NONE) \
	CALL(fchmod, LASTS(EPERM, EBADF, EIO, EROFS), NONE) \
	CALL(fchmodat, LASTS(EPERM, EACCES, EIO, ELOOP, ENAMETOOLONG, ENOENT, \
		ENOMEM, ENOTDIR, EROFS, EINVAL, EOPNOTSUPP), NONE) \
	CALL(fcntl, LASTS(EMFILE, EBADF, EBUSY, EINVAL, EPERM), \
		PASSES(EINTR)) \
	CALL(fgets, LASTS(EIO), PASSES(EINTR)) \
	CALL(fopen, LASTS(EMFILE, ENFILE, ENOENT, EACCES, ENOMEM), \
		PASSES(EINTR)) \
	CALL(fstat, LASTS(EBADF, EACCES, ENOMEM, EOVERFLOW), NONE) \
	CALL(getaddrinfo, LASTS(EAI_AGAIN, EAI_FAIL, EAI_FAMILY, EAI_MEMORY, \
		EAI_NONAME, EAI_SERVICE, EAI_SOCKTYPE, EAI_SYSTEM, \
		EAI_BADFLAGS), NONE) \
	CALL(getifaddrs, LASTS(EMFILE, ENOMEM, ENOBUFS, EACCES), NONE) \
	CALL(getpeername, LASTS(ENOTCONN, EBADF, ENOBUFS, ENOTSOCK), NONE) \
	CALL(getrandom, LASTS(ENOSYS, EINVAL), PASSES(EAGAIN, EINTR)) \
	CALL(getrlimit, LASTS(EINVAL), NONE) \
	CALL(getsockname, LASTS(ENOBUFS, EBADF, EINVAL, ENOTSOCK), NONE) \
	CALL(getsockopt, LASTS(ENOPROTOOPT, EBADF, EINVAL, ENOTSOCK), NONE) \
	CALL(ioctl, LASTS(EBADF, EINVAL, ENOTTY), NONE) \
	CALL(link, LASTS(EACCES, EDQUOT, EEXIST, EIO, ELOOP, EMLINK, \
		ENAMETOOLONG, ENOENT, ENOMEM, ENOSPC, ENOTDIR, EPERM, EROFS, \
		EXDEV), NONE) \
	CALL(listen, LASTS(EADDRINUSE, EBADF, ENOTSOCK, EOPNOTSUPP), NONE) \
	CALL(lstat, LASTS(EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, \
		ENOTDIR, EOVERFLOW), NONE) \
	CALL(malloc, LASTS(ENOMEM), NONE) \
	CALL(pipe2, LASTS(EMFILE, ENFILE, EINVAL), NONE) \
	CALL(poll, LASTS(ENOMEM, EINVAL), PASSES(EINTR)) \
	CALL(pthread_create, LASTS(EAGAIN, EPERM, EINVAL), NONE) \
	CALL(read, LASTS(EBADF, EINVAL, EIO, EISDIR), PASSES(EAGAIN, EINTR)) \
	CALL(realloc, LASTS(ENOMEM), NONE) \
	CALL(recv, LASTS(ECONNREFUSED, ECONNRESET, EBADF, EINVAL, ENOMEM, \
		ENOTCONN, ENOTSOCK, ETIMEDOUT), PASSES(EINTR)) \
	CALL(recvmmsg, LASTS(EBADF, EINVAL, ENOMEM, ENOTCONN, ENOTSOCK), \
		PASSES(ECONNREFUSED, EAGAIN, EINTR)) \
	CALL(recvmsg, LASTS(EBADF, EINVAL, ENOMEM, ENOTCONN, ENOTSOCK), \
		PASSES(ECONNREFUSED, EAGAIN, EINTR)) \
	CALL(renameat2, LASTS(EINVAL, ENOSYS, EPERM, EACCES, EBUSY, EDQUOT, \
		ENOENT, ENOMEM, ENOSPC, EROFS, EXDEV), NONE) \
	CALL(sched_getaffinity, LASTS(EINVAL, EPERM), NONE) \
	CALL(send, LASTS(ECONNRESET, EACCES, EBADF, EINVAL, EMSGSIZE, \
		ENOBUFS, ENOMEM, ENOTCONN, ENOTSOCK, EPIPE), \
		PASSES(EAGAIN, EINTR)) \
	CALL(sendfile, LASTS(EIO, EBADF, EINVAL, ENOMEM, EOVERFLOW, ESPIPE), \
		PASSES(EAGAIN, EINTR)) \
	CALL(sendmmsg, LASTS(EACCES, EBADF, EDESTADDRREQ, EINVAL, EMSGSIZE, \
		ENOBUFS, ENOMEM, ENOTSOCK, EOPNOTSUPP, EPERM, ENETUNREACH), \
		PASSES(ECONNREFUSED, EAGAIN, EINTR)) \
	CALL(sendmsg, LASTS(ECONNRESET, EACCES, EBADF, EINVAL, EMSGSIZE, \
		ENOBUFS, ENOMEM, ENOTCONN, ENOTSOCK, EPIPE, EPERM), \
		PASSES(EAGAIN, EINTR)) \
	CALL(setsockopt, LASTS(ENOPROTOOPT, EBADF, EDOM, EINVAL, EISCONN, \
		ENOMEM, ENOTSOCK, EPERM), NONE) \
	CALL(shutdown, LASTS(ENOTCONN, EBADF, EINVAL, ENOTSOCK), NONE) \
	CALL(sigtimedwait, LASTS(EINVAL), PASSES(EAGAIN, EINTR)) \
	CALL(socket, LASTS(EMFILE, EACCES, EAFNOSUPPORT, EINVAL, ENFILE, \
		ENOBUFS, ENOMEM, EPROTONOSUPPORT), NONE) \
	CALL(timerfd_create, LASTS(EMFILE, ENFILE, ENODEV, ENOMEM, EINVAL, \
		EPERM), NONE) \
	CALL(timerfd_settime, LASTS(EINVAL, EBADF, ECANCELED), NONE) \
	CALL(unlink, LASTS(EACCES, EBUSY, EIO, EISDIR, ENOENT, ENOMEM, \
		ENOTDIR, EPERM, EROFS), NONE) \
	CALL(write, LASTS(EPIPE, EBADF, EINVAL, EIO, ENOSPC, EPERM), \
		PASSES(EINTR))
/* clang-format on */

#endif /* INJECT_H */
