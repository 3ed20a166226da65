/*
 * test_http_files.c: the files of the example http: which are found, of what
 * type, whole and in part, and that nothing outside the folder is.
 */
#include "http_rig.h"

#include <sys/prctl.h>
#include <sys/un.h>
#include <time.h>

#define MODIFIED "Sun, 06 Nov 1994 08:49:37 GMT"
#define AT_TIME  784111777 /* the same */

static void set_time_to(const char *name, time_t time)
{
	const struct timespec times[2] = {{AT_TIME, 0}, {time, 500000000}};

	assert_int_equal(utimensat(AT_FDCWD, path_of(name), times, 0), 0);
}

static void set_time(const char *name)
{
	set_time_to(name, AT_TIME);
}

static bool is_refused(int status)
{
	return status == 403 || status == 404;
}

static void types_go_by_the_suffix(void **state)
{
	static const char *const types[][2] = {{"a.html", "text/html"},
		{"a.css", "text/css"}, {"a.js", "text/javascript"},
		{"a.json", "application/json"}, {"a.txt", "text/plain"},
		{"a.svg", "image/svg+xml"}, {"a.png", "image/png"},
		{"a.jpg", "image/jpeg"}, {"A.GIF", "image/gif"},
		{"a.b.html", "text/html"}, {"html", NULL}, {"a.html.", NULL},
		{"a.", NULL}, {".html", "text/html"}, {"a.unknown", NULL}};
	size_t i;

	(void)state;
	start_files();
	for (i = 0; i < COUNT(types); i++) {
		const char *type = types[i][1];

		put_text(types[i][0], types[i][0]);
		assert_int_equal(get("/%s", types[i][0]), 200);
		assert_string_equal(answer.body, types[i][0]);
		if (!type)
			type = "application/octet-stream";
		assert_memory_equal(field("Content-Type"), type, strlen(type));
	}
	mkdir(path_of("d.html"), 0755);
	put_text("d.html/plain", "x");
	assert_int_equal(get("/d.html/plain"), 200);
	assert_string_equal(field("Content-Type"), "application/octet-stream");
	end_http();
}

static void files_of_each_size_come_whole(void **state)
{
	static const int sizes[] = {
		0, 1, 4095, 4096, 65535, 65536, 262144, 262145, 1000000};
	char name[32];
	size_t i;

	(void)state;
	start_files();
	dial(&peer);
	for (i = 0; i < COUNT(sizes); i++) {
		snprintf(name, sizeof(name), "%d", sizes[i]);
		put(name, sizes[i] ? "x" : "", sizes[i]);
		snprintf(name, sizeof(name), "%d/../%d", sizes[i], sizes[i]);
	}
	for (i = 0; i < 2 * COUNT(sizes); i++) {
		char request[64];
		bool to_head = i % 2;
		int size = sizes[i / 2];

		snprintf(request, sizeof(request),
			"%s /%d HTTP/1.1\r\nHost: x\r\n\r\n",
			to_head ? "HEAD" : "GET", size);
		assert_int_equal(ask(&peer, request), 200);
		assert_int_equal(
			strtol(field("Content-Length"), NULL, 10), size);
		assert_int_equal(answer.len, to_head ? 0 : size);
		assert_int_equal(peer.used, 0);
		if (size > 0 && !to_head) {
			assert_int_equal(answer.body[0], 'x');
			assert_int_equal(
				answer.body[size - 1], size > 1 ? '\0' : 'x');
		}
	}
	hang_up(&peer);
	end_http();
}

static void names_are_decoded_once(void **state)
{
	static const char *const names[][2] = {{"a b", "/a%20b"},
		{"\xc3\xa9.txt", "/%c3%A9.txt"}, {"a+b", "/a+b"},
		{"a%20b", "/a%2520b"}, {"a?b", "/a%3Fb"}, {"a#b", "/a%23b"},
		{"%", "/%25"}, {"\\..\\x", "/%5c..%5Cx"}, {"...", "/..."},
		{"..a", "/..a"}, {"a;b=c", "/a;b=c"}, {":", "/:"},
		{"\n", "/%0a"}, {"\xff", "/%ff"}, {"a", "/%61"},
		{"a", "/a?b/../c"}, {"a", "/./a"}, {"a", "http://x/a"}};
	size_t i;

	(void)state;
	start_files();
	for (i = 0; i < COUNT(names); i++) {
		put_text(names[i][0], names[i][0]);
		assert_int_equal(get("%s", names[i][1]), 200);
		assert_string_equal(answer.body, names[i][0]);
	}
	end_http();
}

static void what_decodes_to_no_name_is_refused(void **state)
{
	static const char *const bad[] = {"/%", "/%4", "/%zz", "/%4g", "/a%",
		"/a%00", "/%00", "/a%00.html", "/%u0061", "/a%0"};
	size_t i;

	(void)state;
	put_text("a", "a");
	put_text("index.html", "index");
	start_files();
	for (i = 0; i < COUNT(bad); i++)
		if (get("%s", bad[i]) != 400)
			fail_msg("%s: %d", bad[i], answer.status);
	end_http();
}

/* Beside the folder, with what no answer may show. */
static void make_outside(char *outside, size_t size)
{
	char command[256];

	snprintf(outside, size, "%s-outside", folder);
	snprintf(command, sizeof(command), "mkdir %s && echo secret >%s/secret",
		outside, outside);
	assert_int_equal(shell("%s", command), 0);
}

/* What is before the name of the folder outside, and after it. */
static void no_name_leads_out_of_the_folder(void **state)
{
	static const char *const ways[][2] = {{"/../", "/secret"},
		{"/d/../../", "/secret"}, {"/%2e%2e/", "/secret"},
		{"/..%2f", "%2fsecret"}, {"/%2E%2e%2F", "/secret"},
		{"/d/..%2f..%2f", "/secret"}, {"/d/%2e%2e/.%2e/", "/secret"},
		{"/.../../", "/secret"}, {"/.../../../", "/secret"},
		{"/./../", "/secret"}, {"//../", "/secret"},
		{"/d//..//..//", "/secret"}, {"/..;/", "/secret"},
		{"/..%5c", "%5csecret"}, {"/%252e%252e/", "/secret"},
		{"/..%00/", "/secret"}, {"/..%c0%af", "/secret"},
		{"http://x/../", "/secret"}, {"/?/../../", "/secret"},
		{"/../../../../../../../../tmp/", "/secret"},
		{"//tmp/", "/secret"}, {"/%2ftmp%2f", "%2fsecret"},
		{"/%2ftmp/", "/secret"}};
	char outside[96];
	size_t i;

	(void)state;
	make_outside(outside, sizeof(outside));
	mkdir(path_of("d"), 0755);
	mkdir(path_of("..."), 0755);
	start_files();
	for (i = 0; i < COUNT(ways); i++)
		if (get("%s%s%s", ways[i][0], strrchr(outside, '/') + 1,
			    ways[i][1]) < 400 ||
			strstr(answer.body, "secret"))
			fail_msg("%s: %d", ways[i][0], answer.status);
	end_http();
}

static void no_link_leads_out_of_the_folder(void **state)
{
	char outside[96];
	char link[128];

	(void)state;
	make_outside(outside, sizeof(outside));
	put_text("inside", "inside");
	snprintf(link, sizeof(link), "%s/secret", outside);
	assert_int_equal(symlink(link, path_of("file")), 0);
	assert_int_equal(symlink(outside, path_of("folder")), 0);
	snprintf(link, sizeof(link), "../%s/secret", strrchr(outside, '/') + 1);
	assert_int_equal(symlink(link, path_of("relative")), 0);
	assert_int_equal(symlink("/proc/self/root", path_of("root")), 0);
	assert_int_equal(symlink("loop", path_of("loop")), 0);
	assert_int_equal(symlink("nothing", path_of("dangling")), 0);
	assert_int_equal(symlink("inside", path_of("good")), 0);
	start_files();
	assert_true(is_refused(get("/file")));
	assert_true(is_refused(get("/folder/secret")));
	assert_true(is_refused(get("/folder/")));
	assert_true(is_refused(get("/folder")));
	assert_true(is_refused(get("/relative")));
	assert_true(is_refused(get("/root/etc/passwd")));
	assert_true(is_refused(get("/loop")));
	assert_int_equal(get("/dangling"), 404);
	assert_int_equal(get("/good"), 200);
	assert_string_equal(answer.body, "inside");
	end_http();
}

static void a_folder_is_its_index(void **state)
{
	(void)state;
	mkdir(path_of("with"), 0755);
	mkdir(path_of("a b"), 0755);
	mkdir(path_of("without"), 0755);
	mkdir(path_of("without/index.html"), 0755);
	put_text("index.html", "root");
	put_text("with/index.html", "with");
	put_text("a b/index.html", "a b");
	start_files();
	assert_int_equal(get("/"), 200);
	assert_string_equal(answer.body, "root");
	assert_string_equal(get("/?x") == 200 ? answer.body : "", "root");
	assert_string_equal(get("http://x") == 200 ? answer.body : "", "root");
	assert_memory_equal(field("Content-Type"), "text/html", 9);
	assert_string_equal(get("/with/") == 200 ? answer.body : "", "with");
	assert_string_equal(get("/a%%20b/") == 200 ? answer.body : "", "a b");
	assert_true(is_refused(get("/without/")));
	assert_int_equal(get("/index.html/"), 404);
	assert_int_equal(get("/index.html/x"), 404);
	assert_int_equal(get("/nothing/"), 404);
	end_http();
}

/* Where it is told to go must be on this server: "//x" would be another. */
static void a_folder_without_its_slash_is_sent_there(void **state)
{
	(void)state;
	mkdir(path_of("with"), 0755);
	mkdir(path_of("a b"), 0755);
	mkdir(path_of("with/evil.org"), 0755);
	mkdir(path_of("evil.org"), 0755);
	mkdir(path_of("a\r\nX: y"), 0755);
	put_text("with/index.html", "with");
	start_files();
	assert_int_equal(get("/with"), 301);
	assert_string_equal(field("Location"), "/with/");
	assert_int_equal(get("/with?q=1"), 301);
	assert_string_equal(field("Location"), "/with/?q=1");
	assert_int_equal(get("/a%%20b"), 301);
	assert_string_equal(field("Location"), "/a%20b/");
	assert_int_equal(
		status_of("HEAD /with HTTP/1.1\r\nHost: x\r\n\r\n"), 301);
	get("//evil.org");
	assert_int_not_equal(strncmp(field("Location"), "//", 2), 0);
	get("/%%2fevil.org");
	assert_int_not_equal(strncmp(field("Location"), "//", 2), 0);
	get("/a%%0d%%0aX:%%20y");
	assert_string_equal(field("X"), "");
	end_http();
}

/* Of the user who is to serve, and of whoever it starts; root comes back. A
 * change of user forbids to look into the process, as a sanitizer does. */
static bool become(uid_t uid)
{
	return setresuid(uid, uid, 0) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0;
}

/* Root reads all: if that is who runs this, nobody serves; if he cannot come to
 * the program, there is nothing to see. */
static void a_file_that_may_not_be_read_is_refused(void **state)
{
	const bool root = geteuid() == 0;
	bool good;

	(void)state;
	put_text("open", "open");
	put_text("secret", "secret");
	mkdir(path_of("closed"), 0755);
	put_text("closed/file", "secret");
	assert_int_equal(chmod(path_of("secret"), 0), 0);
	assert_int_equal(chmod(path_of("closed"), 0), 0);
	good = !root || become(65534);
	good = good && access(program("examples/http"), R_OK | X_OK) == 0;
	if (good)
		start_files();
	assert_true(!root || geteuid() == 0 || become(0));
	if (!good)
		return;
	assert_int_equal(get("/secret"), 403);
	assert_int_equal(get("/closed/file"), 403);
	assert_int_equal(get("/open"), 200);
	end_http();
}

/* Opening one of these to read may block, or do worse. */
static void only_plain_files_are_served(void **state)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool device;

	(void)state;
	assert_int_equal(mkfifo(path_of("fifo"), 0644), 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s/socket", folder);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	device = mknod(path_of("null"), S_IFCHR | 0666, 1 << 8 | 3) == 0;
	assert_int_equal(symlink("fifo", path_of("link")), 0);
	start_files();
	assert_true(is_refused(get("/fifo")));
	assert_true(is_refused(get("/link")));
	assert_true(is_refused(get("/socket")));
	assert_true(!device || is_refused(get("/null")));
	assert_int_equal(get("/fifo/"), 404);
	end_http();
	close(fd);
}

/* Dates */

static void who_has_the_file_already_is_told_so(void **state)
{
	static const char *const fresh[] = {MODIFIED, MODIFIED " ",
		"Sun, 06 Nov 1994 08:49:38 GMT",
		"Thu, 01 Jan 2026 00:00:00 GMT"};
	static const char *const stale[] = {"Sun, 06 Nov 1994 08:49:36 GMT",
		"Thu, 01 Jan 1970 00:00:00 GMT", "yesterday", "",
		"Sun, 06 Nov 1994", "Sun, 99 Nov 1994 08:49:37 GMT",
		"Sun, 06 Nov 1994 08:49:37 GMT and more"};
	size_t i;

	(void)state;
	put_text("a", "hello");
	set_time("a");
	start_files();
	assert_int_equal(get("/a"), 200);
	assert_string_equal(field("Last-Modified"), MODIFIED);
	for (i = 0; i < COUNT(fresh); i++) {
		assert_int_equal(
			get("/a\r\nIf-Modified-Since: %s", fresh[i]), 304);
		assert_string_equal(field("Last-Modified"), MODIFIED);
	}
	for (i = 0; i < COUNT(stale); i++)
		if (get("/a\r\nIf-Modified-Since: %s", stale[i]) != 200)
			fail_msg("%s: %d", stale[i], answer.status);
	assert_int_equal(get("/b\r\nIf-Modified-Since: " MODIFIED), 404);
	end_http();
}

/* No byte of it: what comes next on the connection is the next answer. */
static void a_304_has_no_body(void **state)
{
	static const char since[] = " /a HTTP/1.1\r\nHost: x\r\n"
				    "If-Modified-Since: " MODIFIED "\r\n\r\n";
	char request[128];
	int i;

	(void)state;
	put_text("a", "hello");
	set_time("a");
	start_files();
	dial(&peer);
	for (i = 0; i < 4; i++) {
		snprintf(request, sizeof(request), "%s%s",
			i % 2 ? "HEAD" : "GET", since);
		assert_int_equal(ask(&peer, request), 304);
		assert_int_equal(ask(&peer, GET("/a")), 200);
		assert_string_equal(answer.body, "hello");
		assert_int_equal(peer.used, 0);
	}
	hang_up(&peer);
	end_http();
}

/* Blanks of a pattern are blanks of a text, as are ends of lines. */
/* In memory, where it can be had: a disk has no room for such a time. */
static void move_to_memory(void)
{
	if (access("/dev/shm", W_OK) == -1)
		return;
	assert_int_equal(rmdir(folder), 0);
	snprintf(folder, sizeof(folder), "/dev/shm/evt-http-XXXXXX");
	assert_non_null(mkdtemp(folder));
}

static void a_date_that_cannot_be_written_is_left_out(void **state)
{
	static const time_t odd[] = {
		(time_t)1 << 62, (time_t)1 << 56, (time_t)1 << 55, -5};
	size_t i;

	(void)state;
	move_to_memory();
	start_files();
	for (i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		put_text("odd", "0123456789");
		set_time_to("odd", odd[i]);
		assert_int_equal(get("/odd"), 200);
		assert_string_equal(answer.body, "0123456789");
		assert_int_equal(
			get("/odd\r\nIf-Modified-Since: nonsense"), 200);
		assert_int_equal(
			get("/odd\r\nRange: bytes=0-1\r\nIf-Range: x"), 200);
	}
	end_http();
}

static void a_date_ends_where_its_line_does(void **state)
{
	(void)state;
	put_text("a", "hello");
	set_time("a");
	start_files();
	dial(&peer);
	assert_int_equal(ask(&peer,
				 "GET /a HTTP/1.1\r\nHost: x\r\n"
				 "If-Modified-Since: Sun,\r\n\r\n"
				 "06 Nov 1994 08:49:37 GMT\r\n\r\n"),
		200);
	hang_up(&peer);
	end_http();
}

/* Ranges */

static void a_range_is_answered_as_the_rfc_says(void **state)
{
	static const struct {
		const char *range;
		int status;
		const char *body;
		const char *content_range;
	} table[] = {
		{"bytes=0-0", 206, "0", "bytes 0-0/10"},
		{"bytes=2-4", 206, "234", "bytes 2-4/10"},
		{"bytes=7-", 206, "789", "bytes 7-9/10"},
		{"bytes=0-", 206, "0123456789", "bytes 0-9/10"},
		{"bytes=8-99", 206, "89", "bytes 8-9/10"},
		{"bytes=-3", 206, "789", "bytes 7-9/10"},
		{"bytes=-99", 206, "0123456789", "bytes 0-9/10"},
		{"bytes=9-9", 206, "9", "bytes 9-9/10"},
		{"BYTES=1-1", 206, "1", "bytes 1-1/10"},
		{"bytes=00-01", 206, "01", "bytes 0-1/10"},
		{"bytes=3-9223372036854775807", 206, "3456789", "bytes 3-9/10"},
		{"bytes=3-99999999999999999999999", 206, "3456789",
			"bytes 3-9/10"},
		{"bytes=-99999999999999999999999", 206, "0123456789",
			"bytes 0-9/10"},
		{"bytes=1-2 \t", 206, "12", "bytes 1-2/10"},
		{"bytes=10-", 416, NULL, "bytes */10"},
		{"bytes=10-20", 416, NULL, "bytes */10"},
		{"bytes=99999999999999999999999-", 416, NULL, "bytes */10"},
		{"bytes=-0", 416, NULL, "bytes */10"},
		{"bytes=4-2", 200, "0123456789", ""},
		{"bytes=-", 200, "0123456789", ""},
		{"bytes=", 200, "0123456789", ""},
		{"bytes=a-b", 200, "0123456789", ""},
		{"bytes=1", 200, "0123456789", ""},
		{"bytes=--1", 200, "0123456789", ""},
		{"bytes=1--2", 200, "0123456789", ""},
		{"bytes=+1-2", 200, "0123456789", ""},
		{"bytes=1-+2", 200, "0123456789", ""},
		{"bytes=0x1-2", 200, "0123456789", ""},
		{"bytes=1-2x", 200, "0123456789", ""},
		{"lines=1-2", 200, "0123456789", ""},
		{"bytes 1-2", 200, "0123456789", ""},
	};
	size_t i;

	(void)state;
	put_text("a", "0123456789");
	start_files();
	for (i = 0; i < COUNT(table); i++) {
		if (get("/a\r\nRange: %s", table[i].range) != table[i].status ||
			strcmp(field("Content-Range"),
				table[i].content_range) != 0 ||
			(table[i].body &&
				strcmp(answer.body, table[i].body) != 0))
			fail_msg("%s: %s%s", table[i].range, answer.head,
				answer.body);
	}
	end_http();
}

/* Several ranges may be answered by the whole; but not by a wrong part. */
static void several_ranges_get_the_whole_or_parts(void **state)
{
	(void)state;
	put_text("a", "0123456789");
	start_files();
	assert_int_equal(get("/a\r\nRange: bytes=0-1,4-5"), 200);
	assert_string_equal(answer.body, "0123456789");
	assert_int_equal(get("/a\r\nRange: bytes=0-1, -1"), 200);
	assert_int_equal(get("/a"), 200);
	assert_string_equal(field("Accept-Ranges"), "bytes");
	end_http();
}

static void a_range_of_an_empty_file_is_none(void **state)
{
	(void)state;
	put_text("empty", "");
	start_files();
	assert_int_equal(get("/empty\r\nRange: bytes=0-"), 416);
	assert_string_equal(field("Content-Range"), "bytes */0");
	assert_int_equal(get("/empty\r\nRange: bytes=0-0"), 416);
	get("/empty\r\nRange: bytes=-1");
	assert_true(answer.status == 416 || answer.status == 200);
	end_http();
}

/* RFC 9110, 13.1.5 and 14.2: of GET only, after If-Modified-Since, and with
 * If-Range if that is the date of the file, to the letter. */
static void a_range_has_its_conditions(void **state)
{
	static const char range[] = "Range: bytes=1-2";

	(void)state;
	put_text("a", "0123456789");
	set_time("a");
	start_files();
	assert_int_equal(get("/a\r\n%s\r\nIf-Range: " MODIFIED, range), 206);
	assert_string_equal(answer.body, "12");
	assert_int_equal(get("/a\r\n%s\r\nIf-Range: Sun, 06 Nov 1994 08:49:38 "
			     "GMT",
				 range),
		200);
	assert_int_equal(get("/a\r\n%s\r\nIf-Range: \"tag\"", range), 200);
	assert_int_equal(
		get("/a\r\nIf-Modified-Since: " MODIFIED "\r\n%s", range), 304);
	assert_int_equal(
		get("/a\r\nRange: bytes=99-\r\nIf-Range: \"tag\""), 200);
	assert_int_equal(status_of("HEAD /a HTTP/1.1\r\nHost: x\r\nRange: "
				   "bytes=1-2\r\n\r\n"),
		200);
	assert_string_equal(field("Content-Length"), "10");
	assert_int_equal(get("/b\r\n%s", range), 404);
	end_http();
}

/* Above 4 GiB, where an int ends; the file is all hole. */
static void ranges_of_a_huge_file_are_right(void **state)
{
	(void)state;
	put("huge", "x", 6000000000);
	start_files();
	assert_int_equal(
		status_of("HEAD /huge HTTP/1.1\r\nHost: x\r\n\r\n"), 200);
	assert_string_equal(field("Content-Length"), "6000000000");
	assert_int_equal(
		get("/huge\r\nRange: bytes=5999999990-5999999999"), 206);
	assert_int_equal(answer.len, 10);
	assert_string_equal(field("Content-Range"),
		"bytes 5999999990-5999999999/6000000000");
	assert_int_equal(get("/huge\r\nRange: bytes=-1"), 206);
	assert_int_equal(answer.len, 1);
	end_http();
}

/* Pipelining */

#define KINDS 10

/* f0 to f9, of 0, 100, 200, ... bytes. */
static void put_kinds(void)
{
	char name[8];
	char text[16];
	int i;

	for (i = 0; i < KINDS; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		snprintf(text, sizeof(text), "%d", i);
		put(name, i ? text : "", 100 * i);
	}
}

static bool is_kind(int kind, bool to_head)
{
	return answer.status == 200 &&
		strtol(field("Content-Length"), NULL, 10) == 100 * kind &&
		(to_head || kind == 0 || answer.body[0] == '0' + kind);
}

static void a_thousand_requests_at_once_are_answered_in_order(void **state)
{
	static char requests[1000 * 64];
	size_t used = 0;
	int i;

	(void)state;
	put_kinds();
	start_files();
	for (i = 0; i < 1000; i++)
		used += (size_t)snprintf(requests + used,
			sizeof(requests) - used,
			"GET /f%d HTTP/1.1\r\nHost: x\r\n\r\n", i * 7 % KINDS);
	dial(&peer);
	assert_true(send_all(peer.fd, requests, used));
	for (i = 0; i < 1000; i++) {
		assert_true(read_answer(&peer, false));
		assert_true(is_kind(i * 7 % KINDS, false));
	}
	assert_int_equal(peer.used, 0);
	assert_int_equal(ask(&peer, GET("/f3")), 200);
	hang_up(&peer);
	end_http();
}

/* Heads and bodies, bodies of requests too; in pieces that end anywhere. */
static void requests_of_all_kinds_at_once_are_answered_in_order(void **state)
{
	static char requests[20000];
	size_t used = 0;
	size_t at;
	int nr = 0;
	int i;

	(void)state;
	put_kinds();
	start_files();
	for (; used < sizeof(requests) - 100; nr++)
		used += (size_t)snprintf(requests + used, 100,
			"%s /f%d HTTP/1.1\r\nHost: x\r\n%s",
			nr % 3 == 0 ? "HEAD" : "GET", nr % KINDS,
			nr % 3 == 2 ? "Content-Length: 7\r\n\r\nGET / H"
				    : "\r\n");
	dial(&peer);
	for (at = 0; at < used; at += 997)
		assert_true(send_all(peer.fd, requests + at,
			used - at < 997 ? used - at : 997));
	for (i = 0; i < nr; i++) {
		assert_true(read_answer(&peer, i % 3 == 0));
		assert_true(is_kind(i % KINDS, i % 3 == 0));
	}
	assert_int_equal(peer.used, 0);
	hang_up(&peer);
	end_http();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HTTP_TEST(types_go_by_the_suffix),
		HTTP_TEST(files_of_each_size_come_whole),
		HTTP_TEST(names_are_decoded_once),
		HTTP_TEST(what_decodes_to_no_name_is_refused),
		HTTP_TEST(no_name_leads_out_of_the_folder),
		HTTP_TEST(no_link_leads_out_of_the_folder),
		HTTP_TEST(a_folder_is_its_index),
		HTTP_TEST(a_folder_without_its_slash_is_sent_there),
		HTTP_TEST(a_file_that_may_not_be_read_is_refused),
		HTTP_TEST(only_plain_files_are_served),
		HTTP_TEST(who_has_the_file_already_is_told_so),
		HTTP_TEST(a_304_has_no_body),
		HTTP_TEST(a_date_ends_where_its_line_does),
		HTTP_TEST(a_range_is_answered_as_the_rfc_says),
		HTTP_TEST(several_ranges_get_the_whole_or_parts),
		HTTP_TEST(a_range_of_an_empty_file_is_none),
		HTTP_TEST(a_range_has_its_conditions),
		HTTP_TEST(ranges_of_a_huge_file_are_right),
		HTTP_TEST(a_thousand_requests_at_once_are_answered_in_order),
		HTTP_TEST(requests_of_all_kinds_at_once_are_answered_in_order),
		HTTP_TEST(a_date_that_cannot_be_written_is_left_out),
	};

	return ledger_run("http_files", tests);
}
