/*
 * inject.h: making a wrapped system call fail. A suite wraps the call and asks
 * injected() first; who tests says which error, after how many calls that are
 * to succeed, and how often.
 */
#ifndef INJECT_H
#define INJECT_H

#include <errno.h>
#include <limits.h>
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

#endif /* INJECT_H */
