/*
 * fuzz_http.c: the request parser of examples/http. What it points to lies in
 * what it got; and a request that is whole, or wrong, is so whatever follows,
 * since the server takes the bytes as they come.
 *
 * fuzz: -max_len=20000 -len_control=300
 */
#include "fuzz.h"
#include "../examples/http-request.h"

static bool lies_in(const struct part *part, const char *data, size_t len)
{
	return !part->at ||
		(part->at >= data && part->at + part->len <= data + len);
}

static void look_at_target(const struct request *request)
{
	const struct part *target = &request->part[TARGET];
	struct part query;
	struct part path = request_path(request, &query);

	REQUIRE(lies_in(&query, target->at, target->len));
	REQUIRE(query.at + query.len == target->at + target->len);
	REQUIRE(query.len == 0 || *query.at == '?');
	if (path.at && path.len == 1 && *path.at == '/')
		return; /* its own, where a URL has none */
	REQUIRE(lies_in(&path, target->at, target->len));
	REQUIRE(!path.at || path.at + path.len == query.at);
	REQUIRE(!path.at || (*path.at == '/' && path.len > 0));
	REQUIRE(!path.at || !memchr(path.at, '?', path.len));
}

/* The status is one that there is a line for. */
static void look_at_fault(int status)
{
	const char *line = request_status_line(status);

	REQUIRE(status >= 400 && status < 600);
	REQUIRE(atoi(line) == status && line[3] == ' ');
}

static void look_at(const struct request *request, const char *data, size_t len)
{
	int i;

	for (i = 0; i < PARTS; i++)
		REQUIRE(lies_in(&request->part[i], data, len));
	if (request->fault)
		look_at_fault(request->fault);
	REQUIRE(!request->complete || request->headed);
	REQUIRE(!request->keep || request->complete);
	if (request->fault == 0 && request->headed) {
		REQUIRE(request->part[TARGET].at);
		look_at_target(request);
	}
}

static bool is_same(const struct request *one, const char *one_data,
	const struct request *other, const char *other_data)
{
	int i;

	for (i = 0; i < PARTS; i++) {
		const struct part *a = &one->part[i];
		const struct part *b = &other->part[i];

		if (!a->at != !b->at || a->len != b->len)
			return false;
		if (a->at && a->at - one_data != b->at - other_data)
			return false;
	}
	return one->fault == other->fault && one->keep == other->keep &&
		one->complete == other->complete;
}

/* With all that came, and with the first part of it. */
static void look_at_start(
	const struct request *whole, const char *data, size_t len)
{
	struct request start;
	char *copy = exact_copy(data, len);

	request_parse(&start, copy, len);
	look_at(&start, copy, len);
	if (start.complete)
		REQUIRE(is_same(&start, copy, whole, data));
	else if (start.fault)
		REQUIRE(whole->fault);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	char *data = exact_copy(bytes, len);
	struct request whole;
	size_t step = len / 200 + 1;
	size_t at;

	request_parse(&whole, data, len);
	look_at(&whole, data, len);
	for (at = 0; at < len; at += step)
		look_at_start(&whole, data, at);
	free(data);
	return 0;
}
