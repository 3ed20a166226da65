/*
 * http: a web server for HTTP/1.1 (RFC 9110, 9112): files, or one short answer.
 *
 * Start it:	examples/http -r examples	(Ctrl-C ends it)
 * Try it:	curl -v http://localhost:8080/http.c
 *
 * A request is parsed where it lies, in the bytes that on_data gets. One that
 * is not whole is left there, and comes again with what follows, to be parsed
 * anew, for 10 seconds and 80 KiB at most: nothing of it is kept by us, and a
 * connection that waits has no memory of ours.
 */
#include "example.h"
#include "files.h"
#include "http-request.h"

#define REQUEST_MS 10000 /* for a request to come, from its first byte */
#define IDLE_MS    60000 /* between two of them, or for a reader that stalls */

static int root = -1; /* the folder of -r */

/* What evt_conn_data of a connection is, by its address alone; NULL: between
 * two requests. */
static char waits[] = "waits", told[] = "told to send the body";

/* Answering */

/* Appends text to what is to be sent. */
struct head {
	size_t len;
	char bytes[FILES_MAX_HEAD + 512];
};

static void add(struct head *head, const char *more)
{
	size_t len = strlen(more);

	if (len > sizeof(head->bytes) - head->len)
		len = 0; /* it is large enough for all */
	memcpy(head->bytes + head->len, more, len);
	head->len += len;
}

static void add_number(struct head *head, long long number)
{
	char digits[24];
	char *at = digits + sizeof(digits) - 1;

	*at = '\0';
	do
		*--at = (char)('0' + number % 10);
	while ((number /= 10) > 0);
	add(head, at);
}

/* The head of an answer whose body has len bytes; more are lines of it. */
static void send_head(struct evt_conn *conn, const struct request *request,
	int status, const char *type, long long len, const char *more)
{
	struct head head;

	head.len = 0;
	add(&head, "HTTP/1.1 ");
	add(&head, request_status_line(status));
	add(&head, "\r\nDate: ");
	add(&head, files_date(FILES_NOW, time(NULL)));
	add(&head, "\r\nContent-Type: ");
	add(&head, type);
	add(&head, "\r\nContent-Length: ");
	add_number(&head, len);
	add(&head, "\r\nConnection: ");
	add(&head, request->keep ? "keep-alive\r\n" : "close\r\n");
	add(&head, more);
	add(&head, "\r\n");
	evt_conn_write(conn, head.bytes, head.len);
}

static void send_text(struct evt_conn *conn, const struct request *request,
	int status, const char *more)
{
	const char *text = request_status_line(status) + 4;
	size_t len = strlen(text);

	send_head(
		conn, request, status, "text/plain", (long long)len + 1, more);
	if (request->parser.method == HTTP_HEAD)
		return;
	evt_conn_write(conn, text, len);
	evt_conn_write(conn, "\n", 1);
}

/* A small one by way of our memory: it goes out together with its head. */
static void send_bytes(struct evt_conn *conn, struct file *file)
{
	char small[8192];
	ssize_t got;

	if ((size_t)file->len > sizeof(small)) {
		if (evt_conn_sendfile(conn, file->fd, file->from, file->len) ==
			0)
			file->fd = -1; /* it is the library's */
		return;
	}
	got = pread(file->fd, small, (size_t)file->len, file->from);
	if (got == file->len)
		evt_conn_write(conn, small, (size_t)got);
	else
		evt_conn_abort(conn); /* it has shrunk since */
}

static void send_file(struct evt_conn *conn, const struct request *request,
	const struct part *path, const struct part *query)
{
	const struct part *part = request->part;
	int get = request->parser.method == HTTP_GET;
	struct file file;

	files_find(&file, root, path, query);
	if (file.status == 200)
		files_select(&file,
			&part[part[IF_NONE].at ? NOTHING : IF_MODIFIED],
			&part[get ? RANGE : NOTHING], &part[IF_RANGE]);
	if (file.status > 206 && file.status != 304)
		send_text(conn, request, file.status, file.head);
	else
		send_head(conn, request, file.status, file.type, file.len,
			file.head);
	if (get && file.status <= 206)
		send_bytes(conn, &file);
	if (file.fd != -1)
		close(file.fd);
}

static void answer(struct evt_conn *conn, const struct request *request)
{
	struct part query;
	struct part path = request_path(request, &query);

	if (root != -1)
		send_file(conn, request, &path, &query);
	else
		send_text(conn, request,
			!path.at                ? 400
				: path.len == 1 ? 200
						: 404,
			"");
}

/* Serving */

/* Part of a request: so long, and no longer, for all of it. */
static void await_rest(
	struct evt_conn *conn, const struct request *request, size_t len)
{
	const char *state = evt_conn_data(conn);

	if (!state)
		evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, REQUEST_MS);
	if (request->headed && request->parser.http_minor > 0 &&
		request_is(&request->part[EXPECT], "100-continue") &&
		state != told)
		evt_conn_write(conn, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	if (request->headed && request->parser.flags & F_CONTENT_LENGTH)
		evt_conn_want(conn, len + request->parser.content_length);
	evt_conn_set_data(conn, request->headed ? told : waits);
}

static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	struct request request;

	(void)arg;
	request_parse(&request, data, len);
	if (!request.fault && !request.complete) {
		await_rest(conn, &request, len);
		return 0; /* all of it comes again, with what follows */
	}
	if (evt_conn_data(conn)) {
		evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, -1);
		evt_conn_set_data(conn, NULL);
	}
	if (request.fault)
		send_text(conn, &request, request.fault,
			request.fault == 405 ? "Allow: GET, HEAD\r\n" : "");
	else
		answer(conn, &request);
	if (request.keep)
		return (size_t)(llhttp_get_error_pos(&request.parser) - data);
	evt_conn_close(conn);
	return len;
}

static void on_timeout(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	struct request request = {.keep = 0};

	(void)arg;
	if (reason == EVT_REASON_DEADLINE && evt_conn_data(conn))
		send_text(conn, &request, 408, "");
	if (reason == EVT_REASON_IDLE && evt_conn_pending(conn) > 0)
		evt_conn_abort(conn);
	else
		evt_conn_close(conn);
}

int main(int argc, char **argv)
{
	struct example example = example_options(
		(struct example){.url = "tcp://[::]:8080",
			.usage = "[-r DIR]\nDIR: the folder whose files are "
				 "served; without it / is answered with OK",
			.letter = 'r'},
		argc, argv);
	struct evt_pool_options options = {.workers = example.workers};
	struct evt_handlers handlers = {
		.on_data = on_data, .on_timeout = on_timeout};
	struct evt_listen_options limits = {.first_byte_ms = REQUEST_MS,
		.idle_ms = IDLE_MS,
		.speak_first = 1,
		.reuseport = strncmp(example.url, "tcp:", 4) == 0};

	if (example.value)
		root = open(example.value, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (example.value && root == -1) {
		fprintf(stderr, "%s: %s: %s\n", argv[0], example.value,
			strerror(errno));
		return 2;
	}
	return example_serve(
		&example, evt_pool_new(&options), &handlers, &limits);
}
