/*
 * test_http.c: the example http, told apart byte by byte: what it answers to
 * which request, and whether the connection is kept.
 */
#include "http_rig.h"

enum then { KEPT, CLOSED };

#define REFUSED 0 /* by one status or another */

struct exchange {
	const char *request;
	int status;
	const char *line; /* that the head has too, in part; NULL: any */
	enum then then;
};

/* Behind it on the same connection, where it must not be reached. */
static const char next[] = "GET / HTTP/1.1\r\nHost: next\r\n\r\n";

static bool is_as_expected(const struct exchange *it)
{
	bool to_head = strncmp(it->request, "HEAD ", 5) == 0;

	return read_answer(&peer, to_head) &&
		(answer.status == it->status ||
			(it->status == REFUSED && answer.status >= 400)) &&
		(!it->line || strcasestr(answer.head, it->line)) &&
		(it->then == KEPT ||
			strcasecmp(field("Connection"), "close") == 0);
}

/* The connection goes on, or is over, as it should. */
static bool ends_as_expected(const struct exchange *it)
{
	if (it->then == CLOSED)
		return is_over(&peer);
	return read_answer(&peer, false) && answer.status == 200 &&
		peer.used == 0;
}

/* At once with what comes behind it. */
static bool is_answered_whole(const struct exchange *it)
{
	bool good;

	dial(&peer);
	good = says(peer.fd, it->request) && says(peer.fd, next) &&
		is_as_expected(it) && ends_as_expected(it);
	hang_up(&peer);
	return good;
}

/*
 * In two parts, and for certain: the first comes with a request before it, in
 * one segment, and the answer to that shows that both were seen. Afterwards the
 * other end may be closed already.
 */
static bool is_answered_split(const struct exchange *it, size_t at)
{
	static const char before[] = "GET / HTTP/1.1\r\nHost: before\r\n\r\n";
	char first[8192];
	bool good;

	snprintf(first, sizeof(first), "%s%.*s", before, (int)at, it->request);
	dial(&peer);
	good = says(peer.fd, first) && read_answer(&peer, false) &&
		answer.status == 200;
	(void)says(peer.fd, it->request + at);
	good = good && is_as_expected(it);
	if (it->then == KEPT)
		good = good && says(peer.fd, next);
	good = good && ends_as_expected(it);
	hang_up(&peer);
	return good;
}

static bool is_answered_byte_by_byte(const struct exchange *it)
{
	const char *byte;
	bool good;

	dial(&peer);
	for (byte = it->request; *byte; byte++)
		if (send(peer.fd, byte, 1, MSG_NOSIGNAL) != 1)
			break;
	good = is_as_expected(it);
	if (it->then == KEPT)
		good = good && says(peer.fd, next);
	good = good && ends_as_expected(it);
	hang_up(&peer);
	return good;
}

static int failed(const struct exchange *it, const char *how, size_t at)
{
	print_message("%s %zu: to %s: not %d, %s, %s but %d, %zu more: %s\n",
		how, at, it->request, it->status, it->line ? it->line : "-",
		it->then == KEPT ? "kept" : "closed", answer.status, peer.used,
		answer.head);
	return 1;
}

static void all_are_answered(const struct exchange table[], size_t nr)
{
	size_t step = slowness() == 1 ? 1 : 5;
	int bad = 0;
	size_t len;
	size_t at;
	size_t i;

	start_http();
	for (i = 0; i < nr; i++) {
		if (!is_answered_whole(&table[i]))
			bad += failed(&table[i], "whole", 0);
		if (!is_answered_byte_by_byte(&table[i]))
			bad += failed(&table[i], "in bytes", 1);
		len = strlen(table[i].request);
		for (at = 1; at < len && bad == 0; at += step)
			if (!is_answered_split(&table[i], at))
				bad += failed(&table[i], "split at", at);
	}
	assert_int_equal(bad, 0);
	end_http();
}

static void good_requests_are_answered(void **state)
{
	static const struct exchange table[] = {
		{GET("/"), 200, "Content-Type: text/plain", KEPT},
		{R11("HEAD /", ""), 200, "Content-Type: text/plain", KEPT},
		{GET("/?a=b&c"), 200, NULL, KEPT},
		{GET("http://x/"), 200, NULL, KEPT},
		{GET("/nothing"), 404, NULL, KEPT},
		{R11("HEAD /nothing", ""), 404, NULL, KEPT},
		{"\r\n" GET("/"), 200, NULL, KEPT},
		{"GET / HTTP/1.1\r\nhOST:x\r\n\r\n", 200, NULL, KEPT},
		{"GET / HTTP/1.1\r\nHost: \t x \t\r\n\r\n", 200, NULL, KEPT},
		{"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200, NULL, KEPT},
		{R11("GET /", "X-\xc3\xa9t\xc3\xa9: y\r\n"), 400, NULL, CLOSED},
		{R11("GET /", "X: \xc3\xa9t\xc3\xa9\r\n"), 200, NULL, KEPT},
		{R11("GET /", "X:\r\nY: \r\n"), 200, NULL, KEPT},
		{R11("GET /", "Connection: Upgrade\r\nUpgrade: h2c\r\n"), 200,
			NULL, KEPT},
		{R11("GET /", "Connection: keep-alive\r\n"), 200, NULL, KEPT},
		{R11("GET /", "Connection: close\r\n"), 200, NULL, CLOSED},
		{R11("GET /", "Connection: x,\tCLOSE\r\n"), 200, NULL, CLOSED},
		{R11("HEAD /", "Connection: close\r\n"), 200, NULL, CLOSED},
		{R11("GET /nothing", "Connection: close\r\n"), 404, NULL,
			CLOSED},
		{"GET / HTTP/1.0\r\n\r\n", 200, NULL, CLOSED},
		{"HEAD / HTTP/1.0\r\n\r\n", 200, NULL, CLOSED},
		{"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 200,
			"Connection: keep-alive", KEPT},
	};

	(void)state;
	all_are_answered(table, COUNT(table));
}

static void what_is_not_http_is_refused_and_closed(void **state)
{
	static const struct exchange table[] = {
		{"hello\r\n\r\n", 400, NULL, CLOSED},
		{"\x16\x03\x01\x02\r\n\r\n", 400, NULL, CLOSED},
		{"GET  HTTP/1.1\r\nHost: x\r\n\r\n", 400, NULL, CLOSED},
		{GET("nothing"), 400, NULL, CLOSED},
		{GET("/\t"), 400, NULL, CLOSED},
		{GET("/a b"), 400, NULL, CLOSED},
		{"GET / HTTP/1.1\r\n\r\n", 400, NULL, CLOSED},
		{R11("GET /", "Host: x\r\n"), 400, NULL, CLOSED},
		{"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, NULL, CLOSED},
		{"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, NULL, CLOSED},
		{"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, NULL, CLOSED},
		{"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, NULL, CLOSED},
		{R11("GET /", "A b: c\r\n"), 400, NULL, CLOSED},
		{R11("GET /", "A : c\r\n"), 400, NULL, CLOSED},
		{R11("GET /", ": c\r\n"), 400, NULL, CLOSED},
		{R11("GET /", "A\r\n"), 400, NULL, CLOSED},
		{R11("GET /", "A: b\rc\r\n"), 400, NULL, CLOSED},
		{R11("GET /", "A: b\x01\r\n"), 400, NULL, CLOSED},
		{R11("GET /", "A: b\x7f\r\n"), 400, NULL, CLOSED},
		{R11("GET /", "A: b\r\n c\r\n"), 400, NULL, CLOSED},
		{"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400, NULL, CLOSED},
		{"GET / HTTP/1.1\r\nHost: x\r\n\rX", 400, NULL, CLOSED},
		{"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", REFUSED, NULL, CLOSED},
		{"GET / HAHA/1.1\r\nHost: x\r\n\r\n", 400, NULL, CLOSED},
		{"GET / ICE/1.1\r\nHost: x\r\n\r\n", 400, NULL, CLOSED},
		{"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n", REFUSED, NULL, CLOSED},
	};

	(void)state;
	all_are_answered(table, COUNT(table));
}

static void methods_and_versions_are_told_apart(void **state)
{
	static const char allow[] = "Allow: GET, HEAD";
	static const struct exchange table[] = {
		{R11("POST /", ""), 405, allow, KEPT},
		{R11("POST /", "Content-Length: 0\r\n"), 405, allow, KEPT},
		{R11("PUT /a", ""), 405, allow, KEPT},
		{R11("DELETE /", ""), 405, allow, KEPT},
		{R11("OPTIONS /", ""), 405, allow, KEPT},
		{R11("OPTIONS *", ""), 405, allow, KEPT},
		{R11("TRACE /", ""), 405, allow, KEPT},
		{R11("PATCH /", ""), 405, allow, KEPT},
		{R11("PROPFIND /", ""), 405, allow, KEPT},
		{R11("BREW /", ""), 501, NULL, CLOSED},
		{R11("GETX /", ""), 501, NULL, CLOSED},
		{"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, NULL, CLOSED},
		{"GET / HTTP/3.1\r\n\r\n", 505, NULL, CLOSED},
		{"GET / HTTP/0.9\r\n\r\n", 505, NULL, CLOSED},
		{"GET /\r\n\r\n", 505, NULL, CLOSED},
	};

	(void)state;
	all_are_answered(table, COUNT(table));
}

/* What some take for one request, and others for two. */
static void what_could_smuggle_is_refused_and_closed(void **state)
{
	static const struct exchange table[] = {
		{R11("GET /",
			 "Content-Length: 5\r\nContent-Length: 6\r\n") "hello",
			400, NULL, CLOSED},
		{R11("GET /", "Content-Length: 5, 6\r\n") "hello", 400, NULL,
			CLOSED},
		{R11("GET /", "Content-Length: +5\r\n") "hello", 400, NULL,
			CLOSED},
		{R11("GET /", "Content-Length: -5\r\n"), 400, NULL, CLOSED},
		{R11("GET /", "Content-Length: 0x5\r\n") "hello", 400, NULL,
			CLOSED},
		{R11("GET /", "Content-Length: 5x\r\n") "hello", 400, NULL,
			CLOSED},
		{R11("GET /", "Content-Length:\r\n") "hello", 400, NULL,
			CLOSED},
		{R11("GET /", "Content-Length : 5\r\n") "hello", 400, NULL,
			CLOSED},
		{R11("GET /",
			 "Content-Length: 5\r\nTransfer-Encoding: "
			 "chunked\r\n") "0\r\n\r\n",
			REFUSED, NULL, CLOSED},
		{R11("GET /",
			 "Transfer-Encoding: chunked\r\nContent-Length: "
			 "5\r\n") "0\r\n\r\n",
			REFUSED, NULL, CLOSED},
		{R11("GET /", "Transfer-Encoding : chunked\r\n") "0\r\n\r\n",
			400, NULL, CLOSED},
		{R11("GET /", "Transfer-Encoding:\r\n chunked\r\n") "0\r\n\r\n",
			400, NULL, CLOSED},
		{"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
		 "0\r\n\r\n",
			REFUSED, NULL, CLOSED},
		{R11("GET /",
			 "Transfer-Encoding: chunked\r\n"
			 "Transfer-Encoding: chunked\r\n") "0\r\n\r\n",
			REFUSED, NULL, CLOSED},
		{R11("GET /", "Transfer-Encoding: gzip\r\n"), 501, NULL,
			CLOSED},
		{R11("GET /",
			 "Transfer-Encoding: gzip, chunked\r\n") "0\r\n\r\n",
			501, NULL, CLOSED},
		{R11("GET /", "Transfer-Encoding: xchunked\r\n") "0\r\n\r\n",
			501, NULL, CLOSED},
	};

	(void)state;
	all_are_answered(table, COUNT(table));
}

static void bodies_are_passed_over(void **state)
{
	static const struct exchange table[] = {
		{R11("GET /", "Content-Length: 5\r\n") "hello", 200, NULL,
			KEPT},
		{R11("GET /", "Content-Length: 007\r\n") "GET / H", 200, NULL,
			KEPT},
		{R11("HEAD /", "Content-Length: 5\r\n") "hello", 200, NULL,
			KEPT},
		{R11("GET /", CHUNKED) "0\r\n\r\n", 200, NULL, KEPT},
		{R11("GET /", CHUNKED) "5\r\nhello\r\nA\r\n0123456789\r\n0\r\n"
				       "\r\n",
			200, NULL, KEPT},
		{R11("GET /",
			 "Transfer-Encoding: CHUNKED\r\n") "1;a=b\r\nx\r\n000\r\nHost: trailer\r\n\r\n",
			200, NULL, KEPT},
	};

	(void)state;
	all_are_answered(table, COUNT(table));
}

/* Its limit is 65,536, and llhttp counts down what is still to come. */
static void a_long_body_is_refused_with_its_first_bytes(void **state)
{
	(void)state;
	start_http();
	assert_int_equal(
		status_of(R11("GET /", "Content-Length: 65537\r\n") "bb"), 413);
	assert_int_equal(
		status_of(R11("GET /", CHUNKED) "1\r\nb\r\n10000\r\nbb"), 413);
	end_http();
}

static void bad_chunks_are_refused_and_closed(void **state)
{
	static const struct exchange table[] = {
		{R11("GET /", CHUNKED) "zz\r\n\r\n", 400, NULL, CLOSED},
		{R11("GET /", CHUNKED) "-1\r\nx\r\n0\r\n\r\n", 400, NULL,
			CLOSED},
		{R11("GET /", CHUNKED) "0x1\r\nx\r\n0\r\n\r\n", 400, NULL,
			CLOSED},
		{R11("GET /", CHUNKED) "ffff\rXx", 400, NULL, CLOSED},
		{R11("GET /", CHUNKED) "5\r\nhelloXX0\r\n\r\n", 400, NULL,
			CLOSED},
		{R11("GET /", CHUNKED) "5\rXhello\r\n0\r\n\r\n", 400, NULL,
			CLOSED},
		{R11("GET /", CHUNKED) "\r\n\r\n", 400, NULL, CLOSED},
	};

	(void)state;
	all_are_answered(table, COUNT(table));
}

static void nothing_is_answered_before_a_request_is_there(void **state)
{
	char byte;

	(void)state;
	start_http();
	dial(&peer);
	assert_true(says(peer.fd, "GET / HTTP/1.1\r\nHost: x\r\n"));
	assert_int_equal(status_of(GET("/")), 200);
	assert_int_equal(recv(peer.fd, &byte, 1, MSG_DONTWAIT), -1);
	hang_up(&peer);
	end_http();
}

/* Expect */

static void who_expects_100_gets_it_before_the_body(void **state)
{
	(void)state;
	start_http();
	dial(&peer);
	assert_int_equal(ask(&peer,
				 R11("GET /",
					 "Content-Length: 5\r\nExpect: "
					 "100-continue\r\n")),
		100);
	assert_int_equal(peer.used, 0);
	assert_true(says(peer.fd, "he"));
	assert_int_equal(status_of(GET("/")), 200);
	assert_true(says(peer.fd, "llo"));
	assert_true(read_answer(&peer, false));
	assert_int_equal(answer.status, 200);
	assert_int_equal(ask(&peer, GET("/")), 200);
	hang_up(&peer);
	end_http();
}

static void who_is_refused_gets_no_100(void **state)
{
	static const char *const expect = "Expect: 100-continue\r\n\r\n";
	char request[256];

	(void)state;
	start_http();
	snprintf(request, sizeof(request),
		"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n%s",
		expect);
	assert_int_equal(status_of(request), 405);
	snprintf(request, sizeof(request),
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n%s",
		expect);
	assert_int_equal(status_of(request), 413);
	snprintf(request, sizeof(request), "GET / HTTP/1.1\r\n%s", expect);
	assert_int_equal(status_of(request), 400);
	snprintf(request, sizeof(request),
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n%shello",
		expect);
	status_of(request);
	assert_true(answer.status == 200 || answer.status == 100);
	end_http();
}

/* RFC 9110, 10.1.1: they would not know what it is. */
static void clients_of_http_1_0_get_no_100(void **state)
{
	char byte;

	(void)state;
	start_http();
	dial(&peer);
	assert_true(says(peer.fd,
		"GET / HTTP/1.0\r\nContent-Length: 5\r\n"
		"Expect: 100-continue\r\n\r\nhe"));
	assert_int_equal(status_of(GET("/")), 200);
	assert_int_equal(status_of(GET("/")), 200);
	assert_int_equal(recv(peer.fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_true(says(peer.fd, "llo"));
	assert_true(read_answer(&peer, false));
	assert_int_equal(answer.status, 200);
	hang_up(&peer);
	end_http();
}

static void a_status_has_its_words(void **state)
{
	static const char words[] = "HTTP/1.1 405 Method Not Allowed\r\n";

	(void)state;
	start_http();
	assert_int_equal(status_of(R11("POST /", "")), 405);
	assert_memory_equal(answer.head, words, sizeof(words) - 1);
	end_http();
}

static void a_star_is_no_path(void **state)
{
	(void)state;
	start_http();
	assert_int_equal(status_of(GET("*")), 400);
	assert_int_equal(status_of(R11("OPTIONS *", "")), 405);
	end_http();
}

static void head_has_the_head_of_get(void **state)
{
	static char head[HEAD_ROOM];

	(void)state;
	start_http();
	assert_int_equal(status_of(GET("/")), 200);
	memcpy(head, answer.head, sizeof(head));
	assert_true(answer.len > 0);
	assert_int_equal(status_of(R11("HEAD /", "")), 200);
	assert_int_equal(answer.len, 0);
	memset(strstr(head, "Date: "), 'D', 35);
	memset(strstr(answer.head, "Date: "), 'D', 35);
	assert_string_equal(head, answer.head);
	end_http();
}

/* A NUL ends nothing. */
static void a_nul_is_refused_wherever_it_is(void **state)
{
	static const char request[] = GET("/abc");
	char bytes[sizeof(request)];
	size_t at;

	(void)state;
	start_http();
	for (at = 0; at < sizeof(request) - 1; at++) {
		memcpy(bytes, request, sizeof(request));
		bytes[at] = '\0';
		dial(&peer);
		assert_true(send_all(peer.fd, bytes, sizeof(request) - 1));
		shutdown(peer.fd, SHUT_WR);
		if (read_answer(&peer, false) && answer.status != 400 &&
			answer.status != 501 && answer.status != 505)
			fail_msg("at %zu: %s", at, answer.head);
		assert_true(is_over(&peer));
		hang_up(&peer);
	}
	end_http();
}

/* The end of a stream does not complete what it cuts off. */
static void half_a_request_is_not_answered_at_its_end(void **state)
{
	static const char *const halves[] = {"", "G", "GET / HTTP/1.1\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n", "GET / HTTP/1.0\r\n\r",
		R11("GET /", "Content-Length: 5\r\n") "hell",
		R11("GET /", CHUNKED) "5\r\nhello\r\n"};
	size_t i;

	(void)state;
	start_http();
	for (i = 0; i < COUNT(halves); i++) {
		dial(&peer);
		assert_true(says(peer.fd, halves[i]));
		shutdown(peer.fd, SHUT_WR);
		assert_true(!read_answer(&peer, false) || answer.status == 400);
		assert_true(is_over(&peer));
		hang_up(&peer);
	}
	dial(&peer);
	assert_true(says(peer.fd, GET("/") GET("/") "GET"));
	shutdown(peer.fd, SHUT_WR);
	assert_true(read_answer(&peer, false) && read_answer(&peer, false));
	assert_int_equal(answer.status, 200);
	hang_up(&peer);
	end_http();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HTTP_TEST(good_requests_are_answered),
		HTTP_TEST(what_is_not_http_is_refused_and_closed),
		HTTP_TEST(methods_and_versions_are_told_apart),
		HTTP_TEST(what_could_smuggle_is_refused_and_closed),
		HTTP_TEST(bodies_are_passed_over),
		HTTP_TEST(a_long_body_is_refused_with_its_first_bytes),
		HTTP_TEST(bad_chunks_are_refused_and_closed),
		HTTP_TEST(nothing_is_answered_before_a_request_is_there),
		HTTP_TEST(who_expects_100_gets_it_before_the_body),
		HTTP_TEST(who_is_refused_gets_no_100),
		HTTP_TEST(clients_of_http_1_0_get_no_100),
		HTTP_TEST(a_status_has_its_words),
		HTTP_TEST(a_star_is_no_path),
		HTTP_TEST(head_has_the_head_of_get),
		HTTP_TEST(a_nul_is_refused_wherever_it_is),
		HTTP_TEST(half_a_request_is_not_answered_at_its_end),
	};

	return ledger_run("http", tests);
}
