/*
 * test_http_clients.c: the example http with the clients that people have:
 * curl, ab, wrk and a browser.
 */
#include "http_rig.h"

/* Runs curl with the formatted arguments, "~" being the server; what it says
 * is in said. */
__attribute__((format(printf, 1, 2))) static int curl(const char *format, ...)
{
	char command[900] = "cd ";
	char text[512];
	const char *at;
	size_t used;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	used = (size_t)snprintf(command, sizeof(command),
		"cd %s && curl -q -sS --noproxy '*' --max-time %d ", folder,
		20 * slowness());
	for (at = text; *at && used < sizeof(command) - 40; at++)
		if (*at == '~')
			used += (size_t)snprintf(command + used, 40,
				"http://127.0.0.1:%d", server.port);
		else
			command[used++] = *at;
	command[used] = '\0';
	return shell("%s", command);
}

static void curl_gets_the_answer(void **state)
{
	(void)state;
	start_http();
	assert_int_equal(curl("~ -w '%%{http_code} %%{content_type}'"), 0);
	assert_non_null(strstr(said, "\n200 text/plain"));
	assert_int_equal(curl("-I ~/"), 0);
	assert_memory_equal(said, "HTTP/1.1 200 OK\r\n", 17);
	assert_int_equal(curl("-f ~/nothing"), 22);
	assert_int_equal(curl("-i --http1.0 ~/"), 0);
	assert_non_null(strstr(said, "\r\nConnection: close\r\n"));
	assert_int_equal(curl("-i --http2 ~/"), 0);
	assert_memory_equal(said, "HTTP/1.1 200 OK\r\n", 17);
	assert_int_equal(curl("-i -X DELETE ~/"), 0);
	assert_memory_equal(said, "HTTP/1.1 405 ", 13);
	assert_int_equal(curl("-v -X OPTIONS --request-target '*' ~"), 0);
	assert_non_null(strstr(said, "< Allow: GET, HEAD"));
	end_http();
}

static void curl_gets_it_by_a_unix_socket(void **state)
{
	char url[96];

	(void)state;
	snprintf(url, sizeof(url), "unix:%s/socket", folder);
	assert_int_equal(start_server("examples/http", url, NULL), 0);
	assert_int_equal(curl("--unix-socket socket http://x/ -o /dev/null "
			      "-w '%%{http_code}'"),
		0);
	assert_string_equal(said, "200");
	end_http();
}

/* What no pattern is in. */
static void make_noise(const char *name, int size)
{
	assert_int_equal(
		shell("head -c %d /dev/urandom >%s", size, path_of(name)), 0);
}

static void curl_gets_files_and_parts_of_them(void **state)
{
	(void)state;
	make_noise("a", 3000000);
	start_files();
	assert_int_equal(curl("~/a -R -o b && cmp a b"), 0);
	assert_int_equal(curl("-r 0-99 ~/a -o c && "
			      "head -c 100 a | cmp - c"),
		0);
	assert_int_equal(
		curl("-r -1000 ~/a -o c && tail -c 1000 a | cmp - c"), 0);
	assert_int_equal(curl("-r 1000000- ~/a -o c && "
			      "tail -c 2000000 a | cmp - c"),
		0);
	assert_int_equal(curl("-f -r 3000000- ~/a"), 22);
	assert_int_equal(shell("cd %s && head -c 12345 a >d", folder), 0);
	assert_int_equal(curl("-C - ~/a -o d && cmp a d"), 0);
	end_http();
}

static void curl_is_told_what_it_has_already(void **state)
{
	(void)state;
	put_text("a", "hello");
	start_files();
	assert_int_equal(curl("~/a -R -o b"), 0);
	assert_int_equal(curl("-z b ~/a -o c -w '%%{http_code}'"), 0);
	assert_string_equal(said, "304");
	assert_int_equal(shell("touch -d '1 hour ago' %s", path_of("b")), 0);
	assert_int_equal(curl("-z b ~/a -o c -w '%%{http_code}'"), 0);
	assert_string_equal(said, "200");
	assert_int_equal(curl("-z '1 Jan 2020' ~/a"), 0);
	assert_string_equal(said, "hello");
	end_http();
}

static void curl_follows_to_a_folder_and_finds_no_way_out(void **state)
{
	static const char *const ways[] = {"../../etc/passwd",
		"../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd",
		"/etc/passwd", "..%2f..%2fetc%2fpasswd"};
	size_t i;

	(void)state;
	mkdir(path_of("a b"), 0755);
	put_text("a b/index.html", "in a b");
	start_files();
	assert_int_equal(curl("-L ~/a%%20b"), 0);
	assert_string_equal(said, "in a b");
	for (i = 0; i < COUNT(ways); i++) {
		assert_int_equal(
			curl("--path-as-is '~/%s' -w '%%{http_code}'", ways[i]),
			0);
		assert_true(strstr(said, "403") || strstr(said, "404"));
		assert_null(strstr(said, "root"));
	}
	end_http();
}

static void curl_waits_for_100_before_it_uploads(void **state)
{
	static const char expect[] =
		"-H 'Expect: 100-continue' --expect100-timeout 15";

	(void)state;
	make_noise("small", 60000);
	make_noise("large", 2000000);
	start_http();
	assert_int_equal(
		curl("-v -X GET --data-binary @small %s ~ 2>&1", expect), 0);
	assert_non_null(strstr(said, "< HTTP/1.1 100 Continue"));
	assert_non_null(strstr(said, "< HTTP/1.1 200 OK"));
	assert_int_equal(curl("-T large ~/a --expect100-timeout 15 -o out "
			      "-w '%%{http_code} %%{size_upload}'"),
		0);
	assert_string_equal(said, "405 0");
	assert_int_equal(curl("-X GET --data-binary @large ~ -o out "
			      "--expect100-timeout 15 -w "
			      "'%%{http_code} %%{size_upload}'"),
		0);
	assert_string_equal(said, "413 0");
	assert_int_equal(curl("-X GET -H 'Transfer-Encoding: chunked' -H "
			      "Expect: --data-binary @small ~ -o out -w "
			      "'%%{http_code} %%{size_upload}'"),
		0);
	assert_memory_equal(said, "200 6", 5);
	end_http();
}

/* It sends on without waiting: the answer must not be lost in a reset. */
static void curl_that_does_not_wait_is_answered_too(void **state)
{
	int i;

	(void)state;
	make_noise("large", 5000000);
	start_http();
	for (i = 0; i < 10; i++) {
		assert_int_equal(curl("-X POST -H Expect: --data-binary @large "
				      "~/ -o out -w '%%{http_code}'"),
			0);
		assert_string_equal(said, "405");
		assert_int_equal(curl("-X GET -H Expect: --data-binary @large "
				      "~/ -o out -w '%%{http_code}'"),
			0);
		assert_string_equal(said, "413");
	}
	end_http();
}

static void curl_needs_one_connection_for_many_files(void **state)
{
	char name[8];
	int i;

	(void)state;
	for (i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		put(name, name, i * 50000);
	}
	start_files();
	assert_int_equal(curl("'~/f[0-9]' -o '#1' -w '%%{num_connects}'"), 0);
	assert_string_equal(said, "1000000000");
	assert_int_equal(
		curl("-I '~/f[0-9]' -o '#1' -w '%%{num_connects}'"), 0);
	assert_string_equal(said, "1000000000");
	assert_int_equal(
		curl("'~/nothing[0-9]' -o '#1' -w '%%{num_connects}'"), 0);
	assert_string_equal(said, "1000000000");
	end_http();
}

static void fifty_at_once_get_the_whole_file(void **state)
{
	(void)state;
	make_noise("a", 1000000);
	start_files();
	assert_int_equal(curl("-Z --parallel-immediate --parallel-max 50 "
			      "'~/a?[1-50]' -o 'out#1' 2>meter && "
			      "for i in out*; do cmp a $i || exit 9; done && "
			      "ls out* | wc -l"),
		0);
	assert_string_equal(said, "50\n");
	end_http();
}

/* ab, wrk */

static void ab_has(const char *options, const char *file, const char *line)
{
	assert_int_equal(shell("ab -q -n 2000 -c 50 %s "
			       "http://127.0.0.1:%d/%s 2>&1",
				 options, server.port, file),
		0);
	if (!strstr(said, "Complete requests:      2000\n") ||
		!strstr(said, "Failed requests:        0\n") ||
		strstr(said, "Non-2xx") || !strstr(said, line))
		fail_msg("ab %s: %s", options, said);
}

static void ab_sees_no_request_fail(void **state)
{
	(void)state;
	put("file", "file", 100000);
	start_http();
	ab_has("", "", "");
	ab_has("-k", "", "Keep-Alive requests:    2000\n");
	ab_has("-i -k", "", "Keep-Alive requests:    2000\n");
	end_http();
	start_files();
	ab_has("", "file", "Document Length:        100000 bytes\n");
	ab_has("-k", "file", "Keep-Alive requests:    2000\n");
	end_http();
}

static void wrk_is_content(const char *path)
{
	assert_int_equal(shell("wrk -t1 -c64 -d1 http://127.0.0.1:%d/%s",
				 server.port, path),
		0);
	if (!strstr(said, "Requests/sec:") || strstr(said, "Non-2xx") ||
		strstr(said, "Socket errors"))
		fail_msg("wrk: %s", said);
}

static void wrk_sees_no_request_fail(void **state)
{
	(void)state;
	put("file", "file", 100000);
	start_http();
	wrk_is_content("");
	end_http();
	start_files();
	wrk_is_content("file");
	end_http();
}

/* A browser */

static void put_page(void)
{
	put_text("index.html",
		"<!doctype html><title>t</title>"
		"<link rel=stylesheet href=style.css>"
		"<img id=i src='an%20image.svg'><ul id=u></ul>"
		"<script type=module src=script.js></script>");
	put_text("style.css", "#u { color: rgb(1, 2, 3) }");
	put_text("an image.svg",
		"<svg xmlns='http://www.w3.org/2000/svg' width='37' "
		"height='11'/>");
	put_text("data.json", "{\"words\": [\"from\", \"the\", \"json\"]}");
	put_text("script.js",
		"const add = text => { const li = document.createElement('li');"
		"li.textContent = text; u.append(li); };\n"
		"const [data, type] = await fetch('data.json').then(async r => "
		"[await r.json(), r.headers.get('content-type')]);\n"
		"add(data.words.join(' ') + ' as ' + type);\n"
		"const part = await fetch('data.json', "
		"{headers: {Range: 'bytes=2-6'}});\n"
		"add('part ' + part.status + ' ' + await part.text());\n"
		"add('none ' + (await fetch('none')).status);\n"
		"await i.decode();\n"
		"add('image ' + i.naturalWidth + ' x ' + i.naturalHeight);\n"
		"add('color ' + getComputedStyle(u).color);\n");
}

/* Without a display, a bus, a network, or rights. */
static void a_browser_shows_a_page_with_all_its_parts(void **state)
{
	(void)state;
	put_page();
	start_files();
	shell("HOME=%s/home exec timeout -k 2 %d chromium --headless "
	      "--no-sandbox --disable-gpu --disable-dev-shm-usage "
	      "--disable-breakpad --disable-extensions --disable-sync "
	      "--disable-background-networking --disable-component-update "
	      "--no-first-run --no-proxy-server --user-data-dir=%s/home "
	      "--virtual-time-budget=10000 --dump-dom "
	      "http://127.0.0.1:%d/ 2>%s/errors",
		folder, 25 * slowness(), folder, server.port, folder);
	if (!strstr(said, "<li>from the json as application/json</li>") ||
		!strstr(said, "<li>part 206 words</li>") ||
		!strstr(said, "<li>none 404</li>") ||
		!strstr(said, "<li>image 37 x 11</li>") ||
		!strstr(said, "<li>color rgb(1, 2, 3)</li>"))
		fail_msg("it shows: %s", said);
	end_http();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HTTP_TEST(curl_gets_the_answer),
		HTTP_TEST(curl_gets_it_by_a_unix_socket),
		HTTP_TEST(curl_gets_files_and_parts_of_them),
		HTTP_TEST(curl_is_told_what_it_has_already),
		HTTP_TEST(curl_follows_to_a_folder_and_finds_no_way_out),
		HTTP_TEST(curl_waits_for_100_before_it_uploads),
		HTTP_TEST(curl_that_does_not_wait_is_answered_too),
		HTTP_TEST(curl_needs_one_connection_for_many_files),
		HTTP_TEST(fifty_at_once_get_the_whole_file),
		HTTP_TEST(ab_sees_no_request_fail),
		HTTP_TEST(wrk_sees_no_request_fail),
		HTTP_TEST(a_browser_shows_a_page_with_all_its_parts),
	};

	return ledger_run("http_clients", tests);
}
