/*
 * tsan_first.c: linked into what ThreadSanitizer watches. In the runtime of
 * gcc 12 a thread gets the place for its pending signals in its first call that
 * may block, and loses a signal that interrupts just that: a server that is
 * asked to stop as it begins to wait would not stop. So that call is here,
 * before main; threads of the library take no signals.
 */
#include <poll.h>

__attribute__((constructor)) static void make_place_for_signals(void)
{
	struct pollfd none;

	poll(&none, 0, 0);
}
