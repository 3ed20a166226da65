/*
 * evt-kept.c: a pipe that nobody reads yet. It takes as many records as any
 * worker's, needs no memory of ours for each, and is made when it is needed.
 */
#include "evt-kept-internal.h"

#include <errno.h>

int evt_kept_put_(struct evt_kept *kept, const struct evt_record *record)
{
	if (kept->pipe.write_fd == -1 && evt_pipe_open_(&kept->pipe) == -1)
		return errno;
	return evt_pipe_put_(&kept->pipe, record) == -1 ? errno : 0;
}

bool evt_kept_take_(struct evt_kept *kept, struct evt_record *record)
{
	struct evt_record *next = evt_batch_next_(&kept->batch);

	if (!next && kept->pipe.read_fd != -1 &&
		evt_pipe_take_(&kept->pipe, &kept->batch) == 1)
		next = evt_batch_next_(&kept->batch);
	if (next)
		*record = *next;
	return next != NULL;
}

void evt_kept_close_(struct evt_kept *kept)
{
	evt_pipe_close_(&kept->pipe);
	kept->batch.fill = kept->batch.next = 0;
}
