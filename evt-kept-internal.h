/*
 * evt-kept-internal.h: what is dispatched before there are workers, in order
 * and bounded. Its owner serialises all calls.
 */
#ifndef EVT_KEPT_INTERNAL_H
#define EVT_KEPT_INTERNAL_H

#include "evt-pipe-internal.h"

#include <stdbool.h>

struct evt_kept {
	struct evt_pipe pipe; /* both ends -1 while there is none */
	struct evt_batch batch;
};

/* 0 or an error number: EAGAIN when it is full. */
int evt_kept_put_(struct evt_kept *, const struct evt_record *);

/* The first one, false when there is none. */
bool evt_kept_take_(struct evt_kept *, struct evt_record *);

/* Frees it; it must be empty. */
void evt_kept_close_(struct evt_kept *);

#endif /* EVT_KEPT_INTERNAL_H */
