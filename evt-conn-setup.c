/* evt-conn-setup.c: what options mean for connections, and their defaults. */
#include "evt-conn-internal.h"
#include "evt-log-internal.h"

#include <errno.h>

#define FIRST_BYTE_MS 60000
#define IDLE_MS       600000
#define USUAL_INPUT   ((size_t)1 << 20)
#define USUAL_HIGH    ((size_t)256 << 10)
#define USUAL_LOW     ((size_t)64 << 10)
#define USUAL_OUTPUT  ((size_t)16 << 20)

static size_t or_usual(size_t value, size_t usual)
{
	return value ? value : usual;
}

static int fill_times(struct evt_setup *setup, const struct evt_limits *limits)
{
	const char *call = limits->call;

	setup->first_byte_ms = limits->first_byte_ms;
	setup->idle_ms = limits->idle_ms;
	setup->lifetime_ms = limits->lifetime_ms;
	if (evt_option_(call, "first_byte_ms", &setup->first_byte_ms,
		    FIRST_BYTE_MS) == -1)
		return -1;
	if (evt_option_(call, "idle_ms", &setup->idle_ms, IDLE_MS) == -1)
		return -1;
	return evt_option_(call, "lifetime_ms", &setup->lifetime_ms, -1);
}

/* A mark that is not given fits itself to the one that is. */
static int fill_marks(struct evt_setup *setup, const struct evt_limits *limits)
{
	size_t high = or_usual(limits->high_mark, USUAL_HIGH);
	size_t low = or_usual(limits->low_mark, USUAL_LOW);

	if (!limits->low_mark && low > high)
		low = high / 4;
	if (low > high)
		return evt_fail_(EINVAL, "%s: low_mark %zu above high_mark %zu",
			limits->call, low, high);
	setup->high_mark = high;
	setup->low_mark = low;
	setup->max_input = or_usual(limits->max_input, USUAL_INPUT);
	setup->max_output = or_usual(limits->max_output, USUAL_OUTPUT);
	return 0;
}

int evt_setup_init_(struct evt_setup *setup, const struct evt_limits *limits,
	const struct evt_handlers *handlers, size_t handlers_size, void *arg)
{
	if (!handlers)
		return evt_fail_(EINVAL, "%s without handlers", limits->call);
	if (!evt_options_copy_(&setup->handlers, sizeof(setup->handlers),
		    handlers, handlers_size))
		return evt_fail_(EINVAL, "%s: handlers of a newer library",
			limits->call);
	setup->arg = arg;
	if (fill_times(setup, limits) == -1)
		return -1;
	return fill_marks(setup, limits);
}
