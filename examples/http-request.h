/*
 * http-request.h: one request of HTTP/1.1 (RFC 9112), from the bytes that have
 * come so far: whether it is whole, and what is wrong with it.
 *
 * The parser is llhttp, that of Node.js, in examples/llhttp: it refuses what
 * could smuggle a request past a proxy, and is looked after. Debian's
 * http_parser is neither: it is built without its strict checks.
 */
#ifndef HTTP_REQUEST_H
#define HTTP_REQUEST_H

#include "llhttp/llhttp.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define REQUEST_MAX_TARGET 4096
#define REQUEST_MAX_HEAD   16384
#define REQUEST_MAX_BODY   65536 /* nothing wants one */

/* What is wanted of a request: its target, and some fields of its head. */
enum {
	TARGET,
	HOST,
	CODING,
	RANGE,
	IF_RANGE,
	IF_MODIFIED,
	IF_NONE,
	EXPECT,
	NOTHING,
	PARTS
};
static const char *const request_names[] = {"", "Host", "Transfer-Encoding",
	"Range", "If-Range", "If-Modified-Since", "If-None-Match", "Expect",
	""};

struct request {
	llhttp_t parser;
	struct part {
		const char *at; /* in what on_data got; NULL: there is none */
		size_t len;
	} part[PARTS];
	int now;      /* the part whose value comes next */
	int twice;    /* not 0: a field is there again */
	size_t body;  /* bytes, as the head says, or the chunks so far */
	int headed;   /* not 0: its head is there */
	int complete; /* ... and its body */
	int fault;    /* the status of what is wrong with it; 0: nothing */
	int keep;     /* not 0: the connection stays for the next one */
};

static inline int request_field(llhttp_t *parser, const char *at, size_t len)
{
	struct request *request = parser->data;
	int i = request->headed ? PARTS : HOST; /* a trailer's are not wanted */

	while (i < PARTS &&
		(strlen(request_names[i]) != len ||
			strncasecmp(request_names[i], at, len)))
		i++;
	request->now = i;
	return 0;
}

static inline int request_value(llhttp_t *parser, const char *at, size_t len)
{
	struct request *request = parser->data;

	if (request->now == PARTS)
		return 0;
	while (len > 0 && (at[len - 1] == ' ' || at[len - 1] == '\t'))
		len--;
	request->twice |= request->part[request->now].at != NULL;
	request->part[request->now] = (struct part){at, len};
	return 0;
}

/* What llhttp has of the length is what is left of it. */
static inline int request_length(llhttp_t *parser)
{
	struct request *request = parser->data;

	request->body += parser->content_length > REQUEST_MAX_BODY
		? REQUEST_MAX_BODY + 1
		: (size_t)parser->content_length;
	return 0;
}

static inline int request_head(llhttp_t *parser)
{
	((struct request *)parser->data)->headed = 1;
	request_length(parser);
	parser->upgrade = 0; /* to nothing */
	return 0;
}

static inline int request_complete(llhttp_t *parser)
{
	((struct request *)parser->data)->complete = 1;
	return HPE_PAUSED; /* what follows is another request */
}

static inline int request_is(const struct part *part, const char *text)
{
	return part->len == strlen(text) &&
		!strncasecmp(part->at, text, part->len);
}

/* The status of what is wrong with a request of which len bytes are there; 0:
 * nothing so far. */
static inline int request_fault(
	const struct request *request, const char *data, size_t len)
{
	const llhttp_t *parser = &request->parser;
	const struct part *part = request->part;
	int error = parser->error;
	size_t i = 0;

	/* Empty lines before it are none of it: RFC 9112, 2.2. */
	for (; len > 0 && (*data == '\r' || *data == '\n'); data++, len--)
		if (++i > REQUEST_MAX_HEAD)
			return 400;
	i = 0;
	if (part[TARGET].len > REQUEST_MAX_TARGET)
		return 414;
	if (len > REQUEST_MAX_HEAD &&
		!memmem(data, REQUEST_MAX_HEAD, "\r\n\r\n", 4))
		return 431;
	while (i < len && isupper((unsigned char)data[i]))
		i++;
	if (error == HPE_INVALID_METHOD && i > 0 &&
		(i == len || data[i] == ' '))
		return 501;
	if (error == HPE_INVALID_VERSION || error == HPE_PAUSED_H2_UPGRADE)
		return 505;
	if (error != HPE_OK && error != HPE_PAUSED)
		return error == HPE_INVALID_TRANSFER_ENCODING ? 501 : 400;
	if (!request->headed)
		return 0;
	if (parser->http_major != 1)
		return 505;
	if (request->twice ||
		(parser->http_minor ? !part[HOST].at : part[CODING].at != NULL))
		return 400;
	for (i = 0; i < part[HOST].len; i++)
		if (!isalnum((unsigned char)part[HOST].at[i]) &&
			!strchr("-._~:[]%!$&'()*+;=", part[HOST].at[i]))
			return 400;
	if (part[CODING].at && !request_is(&part[CODING], "chunked"))
		return 501;
	if (parser->method != HTTP_GET && parser->method != HTTP_HEAD)
		return 405;
	if (request->complete)
		len = (size_t)(llhttp_get_error_pos(parser) - data);
	if (request->body > REQUEST_MAX_BODY ||
		len > REQUEST_MAX_HEAD + REQUEST_MAX_BODY)
		return 413;
	return 0;
}

/* "404 Not Found" */
static inline const char *request_status_line(int status)
{
	static const char *const all[] = {"200 OK", "206 Partial Content",
		"301 Moved Permanently", "304 Not Modified", "400 Bad Request",
		"403 Forbidden", "404 Not Found", "405 Method Not Allowed",
		"408 Request Timeout", "413 Content Too Large",
		"414 URI Too Long", "416 Range Not Satisfiable",
		"431 Request Header Fields Too Large", "501 Not Implemented",
		"503 Service Unavailable", "505 HTTP Version Not Supported"};
	size_t i = 0;

	while (i + 1 < sizeof(all) / sizeof(all[0]) && atoi(all[i]) < status)
		i++;
	return all[i];
}

/* The path in its target, which may be a whole URL (RFC 9112, 3.2), and in
 * *query what follows it; at is NULL: there is none. */
static inline struct part request_path(
	const struct request *request, struct part *query)
{
	const struct part *target = &request->part[TARGET];
	const char *at = target->at;
	const char *end = at + target->len;
	const char *path_end = memchr(at, '?', target->len);
	const char *host;

	if (!path_end)
		path_end = end;
	*query = (struct part){path_end, (size_t)(end - path_end)};
	if (*at != '/') {
		host = memmem(at, (size_t)(path_end - at), "://", 3);
		if (!host)
			return (struct part){NULL, 0};
		host += 3;
		at = memchr(host, '/', (size_t)(path_end - host));
		if (!at)
			return (struct part){"/", 1};
	}
	return (struct part){at, (size_t)(path_end - at)};
}

/* Parses len bytes, which are to stay while the request is used. */
static inline void request_parse(
	struct request *request, const char *data, size_t len)
{
	static const llhttp_settings_t settings = {.on_url = request_value,
		.on_header_field = request_field,
		.on_header_value = request_value,
		.on_headers_complete = request_head,
		.on_chunk_header = request_length,
		.on_message_complete = request_complete};

	memset(request, 0, sizeof(*request));
	llhttp_init(&request->parser, HTTP_REQUEST, &settings);
	request->parser.data = request;
	llhttp_execute(&request->parser, data, len);
	request->fault = request_fault(request, data, len);
	request->keep = request->complete &&
		(request->fault == 0 || request->fault == 405) &&
		llhttp_should_keep_alive(&request->parser);
}

#endif /* HTTP_REQUEST_H */
