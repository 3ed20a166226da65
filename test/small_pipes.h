/*
 * small_pipes.h: servers whose pipes have one page, so that they are soon full.
 * A suite that includes it wraps fcntl.
 */
#ifndef SMALL_PIPES_H
#define SMALL_PIPES_H

#include "rig.h"

static atomic_bool small_pipes;

int __real_fcntl(int fd, int cmd, ...);

int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	if (cmd == F_SETPIPE_SZ && atomic_load(&small_pipes))
		arg = 4096;
	return __real_fcntl(fd, cmd, arg);
}

static inline int serve_with_small_pipes(
	evt_callback cb, evt_callback tcb, int nr)
{
	int port;

	atomic_store(&small_pipes, true);
	port = serve(cb, tcb, nr);
	atomic_store(&small_pipes, false);
	return port;
}

#endif /* SMALL_PIPES_H */
