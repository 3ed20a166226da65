/*
 * evt-conn-id.c: connections by number, from any thread.
 *
 * An id is 16 bits of worker, 24 of slot, 24 of generation, so it tells whose
 * pipe to write to without a look at anything that is shared; whether the
 * connection is still there its own worker sees when the record arrives. Small
 * messages travel inside the pipe, behind their record: no allocation, and so
 * no lock, not even the allocator's.
 */
#include "evt-conn-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t id_of(const struct evt_conn *conn)
{
	uint64_t index = (uint64_t)conn->home->worker->index;

	return index << (EVT_SLOT_BITS + EVT_GENERATION_BITS) |
		(uint64_t)conn->slot.index << EVT_GENERATION_BITS |
		conn->slot.generation;
}

/* The worker of id, whose slot and generation go into record; NULL: it cannot
 * be one of this pool. */
static struct evt_worker *address(
	struct evt_pool *pool, uint64_t id, struct evt_record *record)
{
	uint64_t index = id >> (EVT_SLOT_BITS + EVT_GENERATION_BITS);
	uint64_t slot = id >> EVT_GENERATION_BITS;

	if (index >= (uint64_t)pool->options.workers)
		return NULL;
	record->fd = (int32_t)(slot & ((1u << EVT_SLOT_BITS) - 1));
	record->generation = (uint32_t)(id & EVT_GENERATION_MAX);
	record->queued_us = (uint32_t)evt_now_us_();
	return record->generation ? &pool->workers[index] : NULL;
}

/* On the worker: the connection that the record is for; NULL: it is gone. */
static struct evt_conn *recipient(
	struct evt_home *home, const struct evt_record *record)
{
	struct evt_conn *conn = evt_slots_find_(
		&home->slots, (uint32_t)record->fd, record->generation);

	if (conn && !(conn->flags & EVT_CONN_CLOSED))
		return conn;
	evt_count_(&home->worker->counters.gone, 1);
	return NULL;
}

void evt_home_receive_(struct evt_worker *worker, struct evt_record *record)
{
	struct evt_conn *conn = recipient(worker->state, record);

	if (record->kind == EVT_RECORD_CONN_TASK) {
		record->conn_task(conn, record->arg);
		return;
	}
	if (conn && !(conn->flags & (EVT_CONN_OVER | EVT_CONN_FINISH)))
		evt_conn_put_(conn, record->arg ? record->arg : record + 1,
			record->len);
	else if (conn)
		evt_count_(&worker->counters.gone, 1); /* as good as */
	free(record->arg);
}

uint64_t evt_conn_id(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_id") == -1)
		return 0;
	return id_of(conn);
}

/* 0 if pool can be posted to. */
static int check(struct evt_pool *pool, const char *call)
{
	if (evt_forked_())
		return evt_fail_(EPERM, "%s in a forked child", call);
	if (!pool || !pool->owned)
		return evt_fail_(EINVAL, "%s", call);
	return 0;
}

/* The worker has lost its thread, and the connection is gone with it: a task
 * runs on another. 0 or an error number. */
static int post_gone(struct evt_pool *pool, const struct evt_record *record)
{
	struct evt_record gone = *record;

	if (record->kind == EVT_RECORD_SEND) {
		atomic_fetch_add(&pool->gone, 1);
		free(record->arg);
		return 0;
	}
	gone.generation = 0;
	return evt_pool_put_(pool, NULL, &gone, true);
}

static int post(struct evt_worker *worker, const struct evt_record *record,
	const char *call)
{
	int error = evt_pool_put_(worker->pool, worker, record, true);

	if (error == ENXIO)
		error = post_gone(worker->pool, record);
	return error ? evt_fail_(error, "%s", call) : 0;
}

int evt_pool_post_conn(struct evt_pool *pool, uint64_t id,
	void (*task)(struct evt_conn *conn_or_null, void *arg), void *arg)
{
	struct evt_record record = {
		.kind = EVT_RECORD_CONN_TASK, .conn_task = task, .arg = arg};
	struct evt_worker *worker;

	if (check(pool, "evt_pool_post_conn") == -1)
		return -1;
	worker = address(pool, id, &record);
	if (!task || !worker)
		return evt_fail_(EINVAL, "evt_pool_post_conn to id %llx",
			(unsigned long long)id);
	return post(worker, &record, "evt_pool_post_conn");
}

static int send_large(struct evt_worker *worker, struct evt_record *record,
	const void *data, size_t len)
{
	record->arg = malloc(len);
	if (!record->arg)
		return evt_fail_(ENOMEM, "evt_pool_send of %zu bytes", len);
	memcpy(record->arg, data, len);
	if (post(worker, record, "evt_pool_send") == 0)
		return 0;
	free(record->arg);
	return -1;
}

int evt_pool_send(
	struct evt_pool *pool, uint64_t id, const void *data, size_t len)
{
	struct {
		struct evt_record record;
		char bytes[EVT_SEND_INLINE];
	} message;
	struct evt_worker *worker;

	if (check(pool, "evt_pool_send") == -1)
		return -1;
	message.record = (struct evt_record){
		.kind = EVT_RECORD_SEND, .len = len};
	worker = address(pool, id, &message.record);
	if (!worker || (!data && len > 0) || len > SSIZE_MAX)
		return evt_fail_(EINVAL,
			"evt_pool_send of %zu bytes to id %llx", len,
			(unsigned long long)id);
	if (len == 0)
		return 0;
	if (len > EVT_SEND_INLINE)
		return send_large(worker, &message.record, data, len);
	memcpy(message.bytes, data, len);
	memset(message.bytes + len, 0,
		(size_t)-len % sizeof(struct evt_record));
	return post(worker, &message.record, "evt_pool_send");
}

void evt_worker_each_conn(struct evt_worker *worker,
	void (*fn)(struct evt_conn *conn, void *arg), void *arg)
{
	struct evt_home *home;
	struct evt_conn *conn;

	if (evt_forked_()) {
		evt_fail_(EPERM, "evt_worker_each_conn in a forked child");
		return;
	}
	home = worker ? worker->state : NULL;
	if (!home || !fn || evt_thread_self_() != worker) {
		evt_fail_(EINVAL, "evt_worker_each_conn");
		return;
	}
	conn = evt_slots_next_(&home->slots, 0);
	while (conn) {
		uint32_t next = conn->slot.index + 1;

		if (!(conn->flags & (EVT_CONN_CLOSED | EVT_CONN_CONNECTING)))
			fn(conn, arg);
		conn = evt_slots_next_(&home->slots, next);
	}
}
