/*
 * test_http_limits.c: the example http at its limits: of size, of time, of what
 * a client may keep it busy with; and how it stops.
 */
#include "http_rig.h"

#define MAX_BODY \
	65536 /* of a request; as in examples/http.c, and so is this: */
#define REQUEST_MS 10000

#define LARGE 100000000 /* bytes, of a file that takes no room */

/* Limits */

/* Of so many bytes, from "GET " to the empty line. */
static const char *request_of(size_t len)
{
	static const char start[] = "GET / HTTP/1.1\r\nHost: x\r\n";
	static const char line[] = "X: 0123456789abcdef0123456789abcdef\r\n";
	static char text[70000];
	size_t used = 0;

	memcpy(text, start, sizeof(start));
	while (strlen(text) + 2 * sizeof(line) < len)
		memcpy(text + strlen(text), line, sizeof(line));
	used = strlen(text);
	memcpy(text + used, "Y: ", 3);
	memset(text + used + 3, 'y', len - used - 7);
	memcpy(text + len - 4, "\r\n\r\n", 5);
	return text;
}

static int status_of_target(size_t len, const char *rest)
{
	static char text[70000];

	memset(text, 'a', len + 4);
	memcpy(text, "GET /", 5);
	snprintf(text + len + 4, 64, "%s", rest);
	return status_of(text);
}

static void a_target_has_4096_bytes_at_most(void **state)
{
	static const char rest[] = " HTTP/1.1\r\nHost: x\r\n\r\n";

	(void)state;
	start_http();
	assert_int_equal(status_of_target(4096, rest), 404);
	assert_int_equal(status_of_target(4097, rest), 414);
	assert_int_equal(status_of_target(12000, rest), 414);
	assert_int_equal(status_of_target(17000, rest), 414);
	assert_int_equal(status_of_target(65000, rest), 414);
	assert_int_equal(status_of_target(17000, ""), 414);
	assert_int_equal(status_of(GET("/")), 200);
	end_http();
}

static void a_head_has_16_kib_at_most(void **state)
{
	static char text[17000];

	(void)state;
	start_http();
	assert_int_equal(status_of(request_of(16384)), 200);
	assert_int_equal(status_of(request_of(16385)), 431);
	assert_string_equal(field("Connection"), "close");
	assert_int_equal(status_of(request_of(65000)), 431);
	snprintf(text, sizeof(text), "\r\n\r\n%s", request_of(16385));
	assert_int_equal(status_of(text), 431); /* those are none of it */
	assert_int_equal(status_of(GET("/")), 200);
	end_http();
}

/* A line that never ends, and lines without an end of them. */
static void a_head_without_end_is_refused(void **state)
{
	char *end;
	char *text = (char *)request_of(60000);

	(void)state;
	start_http();
	text[59998] = '\0';
	assert_int_equal(status_of(text), 431);
	end = strstr(text, "X:");
	memset(end + 2, 'x', 50000);
	end[50000] = '\0';
	assert_int_equal(status_of(text), 431);
	memset(text, 'A', 20000);
	text[20000] = '\0';
	assert_true(status_of(text) >= 400);
	assert_string_equal(field("Connection"), "close");
	end_http();
}

static void trailers_without_end_are_refused(void **state)
{
	int i;

	(void)state;
	start_http();
	dial(&peer);
	assert_true(says(peer.fd, R11("GET /", CHUNKED) "0\r\n"));
	for (i = 0; i < 20000; i++)
		if (send(peer.fd, "X: y\r\n", 6, MSG_NOSIGNAL) != 6)
			break;
	assert_true(read_answer(&peer, false));
	assert_true(answer.status == 431 || answer.status == 413);
	assert_true(is_over(&peer));
	hang_up(&peer);
	end_http();
}

#define MAX_BODY 65536

/* Sends a head, and a body of so many bytes: the status. */
static int status_of_upload(const char *head, size_t len)
{
	static char body[2 * MAX_BODY];

	memset(body, 'b', sizeof(body));
	dial(&peer);
	(void)says(peer.fd, head);
	(void)send_all(peer.fd, body, len);
	if (!read_answer(&peer, false))
		answer.status = 0;
	return answer.status;
}

/* The length, as a field of a GET. */
static const char *upload_of(size_t len)
{
	static char head[128];

	snprintf(head, sizeof(head),
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
		len);
	return head;
}

static void a_body_has_a_limit(void **state)
{
	(void)state;
	start_http();
	assert_int_equal(status_of_upload(upload_of(MAX_BODY), MAX_BODY), 200);
	assert_int_equal(ask(&peer, GET("/")), 200);
	hang_up(&peer);
	assert_int_equal(status_of_upload(upload_of(MAX_BODY + 1), 0), 413);
	assert_true(is_over(&peer));
	hang_up(&peer);
	assert_int_equal(
		status_of_upload(upload_of(2 * MAX_BODY), 2 * MAX_BODY), 413);
	assert_true(is_over(&peer));
	hang_up(&peer);
	assert_int_equal(status_of(upload_of(INT64_MAX)), 413);
	status_of(R11("GET /", "Content-Length: 99999999999999999999\r\n"));
	assert_true(answer.status == 400 || answer.status == 413);
	end_http();
}

static void a_chunked_body_has_it_too(void **state)
{
	static const char head[] = R11("GET /", CHUNKED);
	char chunk[1000 + 16];
	int i;

	(void)state;
	start_http();
	assert_int_equal(status_of_upload(R11("GET /", CHUNKED) "fffff\r\n",
				 2 * MAX_BODY),
		413);
	assert_true(is_over(&peer));
	hang_up(&peer);
	snprintf(chunk, sizeof(chunk), "3e8\r\n%01000d\r\n", 0);
	dial(&peer);
	assert_true(says(peer.fd, head));
	for (i = 0; i < 200; i++)
		(void)says(peer.fd, chunk);
	assert_true(read_answer(&peer, false));
	assert_int_equal(answer.status, 413);
	assert_true(is_over(&peer));
	hang_up(&peer);
	end_http();
}

/* As many as fit into no buffer of the server's. */
static void ten_thousand_requests_at_once_are_answered(void **state)
{
	static const char request[] = GET("/");
	static char requests[1000 * sizeof(request)];
	int i;
	int k;

	(void)state;
	start_http();
	dial(&peer);
	for (i = 0; i < 1000; i++)
		memcpy(requests + (size_t)i * (sizeof(request) - 1), request,
			sizeof(request));
	for (k = 0; k < 10; k++)
		assert_true(says(peer.fd, requests));
	for (i = 0; i < 10000; i++) {
		assert_true(read_answer(&peer, false));
		assert_int_equal(answer.status, 200);
	}
	assert_int_equal(peer.used, 0);
	hang_up(&peer);
	end_http();
}

/* The body of an answer whose head was read long ago. */
static bool read_rest(struct peer *it, size_t len)
{
	answer.len = 0;
	snprintf(answer.head, sizeof(answer.head),
		"\r\nContent-Length: %zu\r\n\r\n", len);
	return read_body(it);
}

/* Stopping */

static void a_stop_lets_requests_under_way_be_answered(void **state)
{
	static struct peer half;
	static struct peer idle;

	(void)state;
	put("large", "large", 30000000);
	start_files();
	dial(&idle);
	assert_int_equal(ask(&idle, GET("/nothing")), 404);
	dial(&half);
	assert_true(says(half.fd, "GET /nothing HTTP/1.1\r\nHost"));
	dial(&peer);
	assert_true(says(peer.fd, GET("/large")));
	assert_true(read_head(&peer));
	assert_int_equal(kill(server.pid, SIGTERM), 0);
	assert_true(WAIT_FOR(refused(server.port)));
	assert_true(is_over(&idle));
	assert_int_equal(ask(&half, ": x\r\n\r\n"), 404);
	assert_memory_equal(answer.head, "HTTP/1.1 404", 12);
	hang_up(&half);
	hang_up(&idle);
	assert_true(read_rest(&peer, 30000000));
	assert_true(is_over(&peer));
	hang_up(&peer);
	assert_int_equal(end_server(0), 0);
	assert_null(strstr(said, "warning"));
}

/* Arguments */

static void wrong_arguments_are_told(void **state)
{
	(void)state;
	assert_int_equal(run("examples/http", "-h"), 0);
	assert_non_null(strstr(said, "usage:"));
	assert_int_equal(run("examples/http", "-r"), 2);
	assert_int_equal(run("examples/http", "-t 0"), 2);
	assert_int_equal(run("examples/http", "-x"), 2);
	assert_int_equal(run("examples/http", "tcp://127.0.0.1:0 more"), 2);
	assert_int_equal(run("examples/http", "nonsense"), 2);
	assert_int_equal(
		run("examples/http", "tcp://127.0.0.1:0 -r /nothing/there"), 2);
	assert_non_null(strstr(said, "/nothing/there: No such file"));
	put_text("file", "");
	assert_int_equal(run("examples/http", "tcp://127.0.0.1:0 -r %s",
				 path_of("file")),
		2);
	assert_non_null(strstr(said, "Not a directory"));
}

/* Time */

#define TRICKLERS 200

static struct trickler {
	int fd;
	size_t sent;
	int64_t answered; /* when; 0: not yet */
} tricklers[TRICKLERS];

#define ENDS_OF_LINES \
	"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"

/* Which never end. */
static const char *const beginnings[] = {
	"GET / HTTP/1.1\r\nHost: x\r\nX: a very long line indeed, and longer",
	R11("GET /", "Content-Length: 99\r\n") "0123456789012345678901234567",
	R11("GET /", CHUNKED) "1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx",
	ENDS_OF_LINES};

/* Another byte of a request that will not end, the first time half of it:
 * whether there is an answer. */
static bool trickle(struct trickler *it, bool send_one)
{
	const char *text =
		beginnings[(size_t)(it - tricklers) % COUNT(beginnings)];
	size_t len = it->sent ? 1 : strlen(text) / 2;
	char start[13] = "";

	if (send_one && it->sent < strlen(text)) {
		(void)send(it->fd, text + it->sent, len, MSG_NOSIGNAL);
		it->sent += len;
	}
	if (recv(it->fd, start, 12, MSG_DONTWAIT | MSG_PEEK) < 12)
		return false;
	if (strcmp(start, "HTTP/1.1 408") != 0)
		fail_msg("answered with %s", start);
	it->answered = now_ms();
	return true;
}

/* Slow, but well within his rights: he reads a bit now and then, has asked for
 * something else behind it, and sent the last bytes of that a bit later. */
static void start_slow_reader(struct peer *it)
{
	const int small = 65536;

	dial(it);
	setsockopt(it->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	assert_true(says(it->fd, GET("/large") "GET /sm"));
	assert_true(read_head(it));
	assert_int_equal(answer.status, 200);
	assert_true(says(it->fd, "all HTTP/1.1\r\nHost: x\r\n\r\n"));
}

static bool read_a_bit(struct peer *it)
{
	ssize_t len = recv(it->fd, it->bytes + it->used, 500, 0);

	it->used += len > 0 ? (size_t)len : 0;
	return len > 0;
}

static void end_slow_reader(struct peer *it, size_t len)
{
	const int large = 4 << 20;

	setsockopt(it->fd, SOL_SOCKET, SO_RCVBUF, &large, sizeof(large));
	assert_true(read_rest(it, len));
	assert_true(read_answer(it, false));
	assert_int_equal(answer.status, 200);
	assert_string_equal(answer.body, "small");
	hang_up(it);
}

/* One round of the 200, and of those beside them: how long these waited. The
 * steady one's requests are whole in time, and the next one has begun. */
static int64_t serve_beside(struct peer *steady, int round, int *answered)
{
	int64_t before = now_ms();
	int64_t took;
	int i;

	assert_int_equal(ask(steady,
				 round ? "ET /small HTTP/1.1\r\nHost: x\r\n"
					 "\r\nG"
				       : GET("/small") "G"),
		200);
	assert_int_equal(status_of(GET("/small")), 200);
	took = now_ms() - before;
	for (i = 0; i < TRICKLERS; i++)
		*answered += !tricklers[i].answered &&
			trickle(&tricklers[i], round % 5 == 0);
	usleep(50000);
	return took;
}

static void slow_requests_meet_their_deadline_and_others_do_not(void **state)
{
	static struct peer slow;
	static struct peer steady;
	static struct peer idle;
	int64_t start;
	int64_t worst = 0;
	int answered = 0;
	int round;
	int i;

	(void)state;
	put("large", "large", LARGE);
	put_text("small", "small");
	start_files();
	dial(&idle);
	assert_int_equal(ask(&idle, GET("/small")), 200);
	start_slow_reader(&slow);
	dial(&steady);
	memset(tricklers, 0, sizeof(tricklers));
	start = now_ms();
	for (i = 0; i < TRICKLERS; i++)
		tricklers[i].fd = connect_to(server.port);
	for (round = 0; answered < TRICKLERS; round++) {
		int64_t took = serve_beside(&steady, round, &answered);

		worst = took > worst ? took : worst;
		if (now_ms() - start > 2 * REQUEST_MS)
			fail_msg("%d of 200 are answered", answered);
		if (slow.used < 60000 && round % 10 == 0)
			assert_true(read_a_bit(&slow));
	}
	print_message("200 answered after %d ms, others within %d ms\n",
		(int)(now_ms() - start), (int)worst);
	for (i = 0; i < TRICKLERS; i++) {
		assert_true(tricklers[i].answered - start >= REQUEST_MS);
		close(tricklers[i].fd);
	}
	assert_true(worst < 1000 * slowness());
	assert_int_equal(ask(&idle, GET("/small")), 200);
	end_slow_reader(&slow, LARGE);
	hang_up(&idle);
	hang_up(&steady);
	end_http();
}

/* Memory and descriptors */

static int fds_of_server(void)
{
	char command[64];

	snprintf(command, sizeof(command), "ls /proc/%d/fd | wc -l",
		(int)server.pid);
	shell("%s", command);
	return (int)strtol(said, NULL, 10);
}

/* Waits until the server has nothing to do: it has not run for 50 ms. */
static void await_rest(void)
{
	long before;
	long now = figure_of_server("voluntary_ctxt_switches:");
	int i;

	for (i = 0; i < 100; i++) {
		before = now;
		usleep(50000);
		now = figure_of_server("voluntary_ctxt_switches:");
		if (now == before)
			return;
	}
}

/* 100 MB that nobody reads but at the end, which others do not notice. */
static void a_slow_reader_costs_little(void **state)
{
	static struct peer slow;
	long before;
	int i;

	(void)state;
	put("large", "large", LARGE);
	put_text("small", "small");
	start_files();
	assert_int_equal(status_of(GET("/small")), 200);
	before = figure_of_server("VmRSS:");
	start_slow_reader(&slow);
	for (i = 0; i < 100; i++)
		assert_int_equal(status_of(GET("/small")), 200);
	await_rest();
	assert_true(figure_of_server("VmRSS:") - before < 8000 * slowness());
	end_slow_reader(&slow, LARGE);
	end_http();
}

/* Whoever asks and asks and does not read is read no further. */
static void requests_without_readers_are_held_back(void **state)
{
	static const char request[] = GET("/large");
	static struct peer greedy[4];
	long before;
	size_t sent = 0;
	int i;

	(void)state;
	put("large", "large", 1000000);
	put_text("small", "small");
	start_files();
	assert_int_equal(status_of(GET("/small")), 200);
	before = figure_of_server("VmRSS:");
	for (i = 0; i < 4; i++) {
		int k = 0;

		dial(&greedy[i]);
		while (k++ < 20000 &&
			send(greedy[i].fd, request, sizeof(request) - 1,
				MSG_DONTWAIT | MSG_NOSIGNAL) ==
				sizeof(request) - 1)
			sent++;
	}
	await_rest();
	print_message("%zu requests sent, %ld KiB more, %d descriptors\n", sent,
		figure_of_server("VmRSS:") - before, fds_of_server());
	assert_true(figure_of_server("VmRSS:") - before < 16000 * slowness());
	assert_true(fds_of_server() < 100);
	assert_int_equal(status_of(GET("/small")), 200);
	for (i = 0; i < 4; i++)
		hang_up(&greedy[i]);
	assert_true(WAIT_FOR(fds_of_server() < 40));
	end_http();
}

/* Files that change while they are sent */

static void a_file_that_is_cut_ends_its_answer_early(void **state)
{
	static struct peer slow;

	(void)state;
	put("large", "large", LARGE);
	put_text("small", "small");
	start_files();
	start_slow_reader(&slow);
	assert_int_equal(truncate(path_of("large"), 1000), 0);
	while (read_more(&slow)) {
		answer.len += slow.used;
		slow.used = 0;
	}
	assert_true(answer.len < LARGE);
	hang_up(&slow);
	assert_int_equal(get("/large"), 200);
	assert_int_equal(answer.len, 1000);
	assert_int_equal(end_server(SIGTERM), 0);
}

static void a_file_that_is_removed_is_sent_whole(void **state)
{
	static struct peer slow;

	(void)state;
	put("large", "large", LARGE);
	put_text("small", "small");
	start_files();
	start_slow_reader(&slow);
	assert_int_equal(unlink(path_of("large")), 0);
	end_slow_reader(&slow, LARGE);
	assert_int_equal(get("/large"), 404);
	end_http();
}

static void a_file_that_grows_is_sent_as_announced(void **state)
{
	static struct peer slow;

	(void)state;
	put("large", "large", 20000000);
	put_text("small", "small");
	start_files();
	start_slow_reader(&slow);
	assert_int_equal(truncate(path_of("large"), 30000000), 0);
	end_slow_reader(&slow, 20000000);
	end_http();
}

/* Garbage, always the same */

static uint32_t seed;

static uint32_t random_number(uint32_t below)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % below;
}

static size_t make_garbage(char *bytes, size_t room)
{
	static const char *const good[] = {GET("/"),
		R11("HEAD /small", "Range: bytes=1-2\r\n"),
		R11("GET /small",
			"If-Modified-Since: Sun, 06 Nov 1994 "
			"08:49:37 GMT\r\n"),
		R11("GET /", "Content-Length: 5\r\n") "hello",
		R11("GET /a%20b/../c?d", CHUNKED) "5\r\nhello\r\n0\r\n\r\n",
		R11("POST /", "Connection: close\r\n")};
	static const char special[] = "\r\n :%/.-,;\0\t\x80\xff"
				      "059aZ";
	size_t len = 0;
	uint32_t i;

	for (i = random_number(3) + 1; i > 0; i--) {
		const char *text = good[random_number(COUNT(good))];

		memcpy(bytes + len, text, strlen(text));
		len += strlen(text);
	}
	for (i = random_number(8); i > 0; i--) {
		size_t at = random_number((uint32_t)len);
		size_t more = random_number(40);

		if (random_number(4) == 0 && len + more < room) {
			memmove(bytes + at + more, bytes + at, len - at);
			len += more;
		} else if (random_number(4) == 0 && at + more < len) {
			memmove(bytes + at, bytes + at + more, len - at - more);
			len -= more;
		} else {
			bytes[at] = random_number(2)
				? special[random_number(sizeof(special))]
				: (char)random_number(256);
		}
	}
	return len;
}

/* No body begins so; whether the request was a HEAD is not to be known. */
static bool is_head_next(struct peer *it)
{
	while (it->used < 5 && read_more(it))
		;
	return it->used >= 5 && memcmp(it->bytes, "HTTP/", 5) == 0;
}

/* To its end what comes is answers, one whole after the other. */
static void all_answers_are_good(struct peer *it)
{
	while (is_head_next(it))
		if (!read_head(it) ||
			(answer.status != 304 && !is_head_next(it) &&
				it->used > 0 && !read_body(it)))
			break;
	if (it->used > 0)
		fail_msg("no answer: %.*s", (int)it->used, it->bytes);
}

static void garbage_does_no_harm(void **state)
{
	const int rounds = slowness() == 1 ? 4000 : 1000;
	char bytes[4096];
	int i;

	(void)state;
	put_text("small", "small");
	start_files();
	seed = 4;
	for (i = 0; i < rounds; i++) {
		size_t len = make_garbage(bytes, sizeof(bytes));
		size_t part = len > 1 ? random_number((uint32_t)len) : len;

		dial(&peer);
		(void)send_all(peer.fd, bytes, part);
		(void)send_all(peer.fd, bytes + part, len - part);
		shutdown(peer.fd, SHUT_WR);
		all_answers_are_good(&peer);
		hang_up(&peer);
		if (i % 100 == 0)
			assert_int_equal(status_of(GET("/small")), 200);
	}
	assert_int_equal(status_of(GET("/small")), 200);
	assert_string_equal(answer.body, "small");
	end_http();
}

static void noise_does_no_harm(void **state)
{
	char bytes[8192];
	int i;

	(void)state;
	start_http();
	seed = 5;
	for (i = 0; i < 500; i++) {
		size_t len = random_number(sizeof(bytes)) + 1;
		size_t at;

		for (at = 0; at < len; at++)
			bytes[at] = (char)random_number(256);
		dial(&peer);
		(void)send_all(peer.fd, bytes, len);
		shutdown(peer.fd, SHUT_WR);
		all_answers_are_good(&peer);
		hang_up(&peer);
	}
	assert_int_equal(status_of(GET("/")), 200);
	end_http();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HTTP_TEST(a_target_has_4096_bytes_at_most),
		HTTP_TEST(a_head_has_16_kib_at_most),
		HTTP_TEST(a_head_without_end_is_refused),
		HTTP_TEST(trailers_without_end_are_refused),
		HTTP_TEST(a_body_has_a_limit),
		HTTP_TEST(a_chunked_body_has_it_too),
		HTTP_TEST(ten_thousand_requests_at_once_are_answered),
		HTTP_TEST(a_stop_lets_requests_under_way_be_answered),
		HTTP_TEST(wrong_arguments_are_told),
		HTTP_TEST(slow_requests_meet_their_deadline_and_others_do_not),
		HTTP_TEST(a_slow_reader_costs_little),
		HTTP_TEST(requests_without_readers_are_held_back),
		HTTP_TEST(a_file_that_is_cut_ends_its_answer_early),
		HTTP_TEST(a_file_that_is_removed_is_sent_whole),
		HTTP_TEST(a_file_that_grows_is_sent_as_announced),
		HTTP_TEST(garbage_does_no_harm),
		HTTP_TEST(noise_does_no_harm),
	};

	return ledger_run("http_limits", tests);
}
