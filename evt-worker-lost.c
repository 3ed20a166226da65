/*
 * evt-worker-lost.c: a worker that has lost its thread.
 *
 * A callback may end its thread (pthread_exit), or the loop may fail. Then what
 * the worker had read but not served, and what lies in its pipe, is passed on
 * to the others. A dispatcher that had chosen this worker just before looks
 * again after its write, and passes its record on itself.
 */
#include "evt-pool-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <stdlib.h>
#include <sys/ioctl.h>

size_t evt_worker_unread_(const struct evt_worker *worker)
{
	int bytes = 0;

	if (ioctl(worker->pipe.read_fd, FIONREAD, &bytes) == -1)
		return 0;
	return (size_t)bytes;
}

static bool take_left(struct evt_worker *worker, struct evt_record *left)
{
	struct evt_record *record;

	pthread_mutex_lock(&worker->pool->rescue_lock);
	record = evt_batch_next_(&worker->batch);
	/* A rescuer must not wait for what comes next. */
	if (!record && (!worker->blocks || evt_worker_unread_(worker) > 0) &&
		evt_pipe_take_(&worker->pipe, &worker->batch) == 1)
		record = evt_batch_next_(&worker->batch);
	if (record)
		*left = *record;
	pthread_mutex_unlock(&worker->pool->rescue_lock);
	return record != NULL;
}

void evt_worker_rescue_(struct evt_worker *worker)
{
	struct evt_pool *pool = worker->pool;
	struct evt_record left;
	unsigned passed_on = 0;
	unsigned closed = 0;
	unsigned tasks = 0;

	while (take_left(worker, &left)) {
		if (left.kind == EVT_RECORD_CONN_TASK)
			left.generation = 0; /* gone with the thread */
		if (left.kind == EVT_RECORD_SEND) {
			atomic_fetch_add(&pool->gone, 1);
			free(left.arg);
		} else if (evt_pool_forward_(pool, &left) == 0) {
			passed_on++;
		} else if (left.kind == EVT_RECORD_CONN) {
			pool->hooks->drop(pool, &left);
			closed++;
		} else if (left.kind != EVT_RECORD_WAKE) {
			tasks++;
		}
	}
	/* Not for a dispatcher, who is counted as a user of the pool: a hook
	 * that stops the server would wait for itself. */
	if (worker == evt_thread_self_() && passed_on + closed + tasks > 0)
		evt_log_(EVT_LOG_WARN,
			"worker %d is lost: of its queue %u passed on, "
			"%u connections closed, %u tasks not run",
			worker->index, passed_on, closed, tasks);
}

void evt_worker_lose_(void *arg)
{
	struct evt_worker *worker = arg;

	evt_log_(EVT_LOG_ERROR, "worker %d has lost its thread: %s",
		worker->index,
		worker->broken ? "its pipe was closed"
			       : "a callback ended it, or its loop failed");
	/* A rescuer reads until the pipe is empty. */
	worker->blocks = evt_net_set_nonblocking_(worker->pipe.read_fd, true) ==
		-1;
	/* With put_to. */
	atomic_store(&worker->lost, true);
	evt_worker_serving_(worker, -1);
	worker->depth = 0; /* the callback does not come back */
	if (worker->state)
		worker->pool->hooks->lose(worker);
	atomic_store(&worker->drained, true);
	evt_worker_run_at_stop_(worker);
	evt_worker_rescue_(worker);
	evt_worker_run_hook_(worker, worker->pool->options.on_worker_stop);
	evt_pool_wake_boss_(worker->pool);
}
