/* evt-listener-options.c: what evt_listen_options mean, and their defaults. */
#include "evt-listener-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <limits.h>
#include <sys/resource.h>

#define RESERVED_FDS 32 /* not for connections */
#define BATCH        16

/* How many connections the limit of descriptors allows. */
static int most_conns(void)
{
	struct rlimit limit = {0, 0};

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1 || limit.rlim_cur > INT_MAX)
		return INT_MAX;
	return limit.rlim_cur > RESERVED_FDS
		? (int)limit.rlim_cur - RESERVED_FDS
		: 1;
}

static int fill_max_conns(struct evt_listen_options *options)
{
	int most = most_conns();
	int wanted = options->max_conns;

	if (evt_option_("evt_listen", "max_conns", &options->max_conns, most) ==
		-1)
		return -1;
	if (options->max_conns <= most)
		return 0;
	options->max_conns = most;
	evt_log_(EVT_LOG_INFO,
		"evt_listen: max_conns %d lowered to %d, by the limit of "
		"descriptors",
		wanted, most);
	return 0;
}

static bool is_of_datagrams(enum evt_url_kind kind)
{
	return kind == EVT_URL_UDP || kind == EVT_URL_UNIXGRAM;
}

static int check_steer(
	const struct evt_listen_options *options, enum evt_url_kind kind)
{
	const struct evt_steer *steer = &options->steer;

	if (steer->len == 0 && steer->offset == 0)
		return 0;
	if (kind != EVT_URL_UDP)
		return evt_fail_(
			EINVAL, "evt_listen: steer of what is not udp:");
	if (steer->len < 1 || steer->len > EVT_UDP_KEY || steer->offset < 0 ||
		steer->offset > UINT16_MAX)
		return evt_fail_(EINVAL,
			"evt_listen: steer by %d bytes at %d, 1 to %d at 0 to "
			"%d",
			steer->len, steer->offset, EVT_UDP_KEY, UINT16_MAX);
	return 0;
}

static int check_choice(
	const struct evt_listen_options *options, enum evt_url_kind kind)
{
	if ((int)options->choice < EVT_CHOICE_ROUND_ROBIN ||
		(int)options->choice > EVT_CHOICE_FUNCTION)
		return evt_fail_(
			EINVAL, "evt_listen: choice %d", (int)options->choice);
	if (options->choice == EVT_CHOICE_FUNCTION && !options->choose)
		return evt_fail_(
			EINVAL, "evt_listen: EVT_CHOICE_FUNCTION, no choose");
	if (options->choice != EVT_CHOICE_FUNCTION && options->choose)
		return evt_fail_(
			EINVAL, "evt_listen: choose, no EVT_CHOICE_FUNCTION");
	if (is_of_datagrams(kind) &&
		(options->choice != EVT_CHOICE_ROUND_ROBIN ||
			options->max_per_source > 0))
		return evt_fail_(EINVAL,
			"evt_listen: choice or max_per_source of datagrams");
	if (is_of_datagrams(kind))
		return 0;
	if (options->reuseport && options->choice != EVT_CHOICE_ROUND_ROBIN)
		return evt_fail_(EINVAL,
			"evt_listen: with reuseport the kernel chooses");
	if (options->reuseport && options->max_per_source > 0)
		return evt_fail_(
			EINVAL, "evt_listen: max_per_source with reuseport");
	if (options->reuseport && kind == EVT_URL_UNIX)
		return evt_fail_(
			EINVAL, "evt_listen: reuseport of a unix socket");
	return 0;
}

int evt_listener_fill_in_(
	struct evt_listen_options *options, enum evt_url_kind kind)
{
	if (is_of_datagrams(kind))
		options->max_conns = -1;
	if (fill_max_conns(options) == -1 ||
		evt_option_("evt_listen", "backlog", &options->backlog,
			INT_MAX) == -1 ||
		evt_option_("evt_listen", "max_per_source",
			&options->max_per_source, -1) == -1 ||
		check_steer(options, kind) == -1 ||
		check_choice(options, kind) == -1)
		return -1;
	if (options->backlog == -1)
		options->backlog = INT_MAX;
	if (options->accept_batch < 0 ||
		options->accept_batch > EVT_LISTENER_BATCH)
		return evt_fail_(EINVAL, "evt_listen: accept_batch %d, 1 to %d",
			options->accept_batch, EVT_LISTENER_BATCH);
	if (options->accept_batch == 0)
		options->accept_batch = BATCH;
	if (options->unix_mode > 0777)
		return evt_fail_(EINVAL, "evt_listen: unix_mode %o",
			(unsigned)options->unix_mode);
	if (options->unix_mode == 0)
		options->unix_mode = 0600;
	return 0;
}

int evt_listener_fill_setup_(struct evt_listener *listener,
	const struct evt_handlers *handlers, size_t size, void *arg)
{
	const struct evt_listen_options *options = &listener->options;
	const struct evt_limits limits = {.call = "evt_listen",
		.first_byte_ms = options->first_byte_ms,
		.idle_ms = options->idle_ms,
		.lifetime_ms = options->lifetime_ms,
		.max_input = options->max_input,
		.high_mark = options->high_mark,
		.low_mark = options->low_mark,
		.max_output = options->max_output};

	return evt_setup_init_(&listener->setup, &limits, handlers, size, arg);
}
