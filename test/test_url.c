/*
 * test_url.c: addresses as texts. What is taken, to the byte, and what is not,
 * with the text that says why.
 */
#include "ledger.h"
#include "../evt-url-internal.h"

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static struct evt_url url;
static const char *why;

/* Parses a text that is to be taken. */
static void take(const char *text)
{
	int result;

	memset(&url, 0xa5, sizeof(url));
	why = "taken";
	result = evt_url_parse_(text, &url, &why);
	if (result == -1)
		print_error("%s: %s\n", text, why);
	assert_string_equal(why, "taken");
	assert_int_equal(result, 0);
}

/* Parses one that is not: error, and both the fault and the form are told. */
static void refuse(
	const char *text, int error, const char *fault, const char *form)
{
	why = NULL;
	errno = 0;
	if (evt_url_parse_(text, &url, &why) != -1)
		fail_msg("taken: %s", text);
	assert_int_equal(errno, error);
	assert_non_null(why);
	if (!strstr(why, fault) || !strstr(why, form))
		fail_msg("%s: %s", text, why);
	assert_null(log_line(0));
}

static void takes_inet(
	const char *text, enum evt_url_kind kind, const char *host, int port)
{
	take(text);
	assert_int_equal(url.kind, kind);
	assert_string_equal(url.host, host);
	assert_int_equal(url.port, port);
	assert_int_equal(url.path_len, 0);
}

static void takes_unix(
	const char *text, enum evt_url_kind kind, const char *path, bool name)
{
	take(text);
	assert_int_equal(url.kind, kind);
	assert_string_equal(url.path, path);
	assert_int_equal(url.path_len, strlen(path));
	assert_int_equal(url.abstract, name);
	assert_string_equal(url.host, "");
}

/* Each is refused, as tcp:// and as udp://, and shown the form. */
static void refuses_inet(const char *const *texts, size_t nr, int error,
	const char *fault, const char *form)
{
	char text[600];
	char whole[64];
	size_t i;

	for (i = 0; i < nr; i++) {
		snprintf(text, sizeof(text), "tcp://%s", texts[i]);
		snprintf(whole, sizeof(whole), ": tcp://%s", form);
		refuse(text, error, fault, whole);
		memcpy(text, "udp", 3);
		memcpy(whole + 2, "udp", 3);
		refuse(text, error, fault, whole);
	}
}

/* Hosts and ports */

static void a_host_and_a_port_are_taken(void **state)
{
	(void)state;
	takes_inet("tcp://127.0.0.1:0", EVT_URL_TCP, "127.0.0.1", 0);
	takes_inet("tcp://localhost:9999", EVT_URL_TCP, "localhost", 9999);
	takes_inet("udp://a-b.example.:53", EVT_URL_UDP, "a-b.example.", 53);
	/* Whether there is such a host is the resolver's to say. */
	takes_inet("tcp://!~:1", EVT_URL_TCP, "!~", 1);
}

static void without_a_host_any_address_is_meant(void **state)
{
	(void)state;
	takes_inet("tcp://:9999", EVT_URL_TCP, "", 9999);
	takes_inet("udp://:5353", EVT_URL_UDP, "", 5353);
}

static void an_ipv6_address_loses_its_brackets(void **state)
{
	(void)state;
	takes_inet("tcp://[::]:9999", EVT_URL_TCP, "::", 9999);
	takes_inet("udp://[::1]:1", EVT_URL_UDP, "::1", 1);
	takes_inet(
		"tcp://[::ffff:1.2.3.4]:5", EVT_URL_TCP, "::ffff:1.2.3.4", 5);
	/* The longest there is. */
	takes_inet("tcp://[0000:0000:0000:0000:0000:ffff:255.255.255.255]:6",
		EVT_URL_TCP, "0000:0000:0000:0000:0000:ffff:255.255.255.255",
		6);
}

static void a_link_local_address_keeps_its_zone(void **state)
{
	(void)state;
	takes_inet("tcp://[fe80::1%eth0]:80", EVT_URL_TCP, "fe80::1%eth0", 80);
	takes_inet("udp://[fe80::1%2]:80", EVT_URL_UDP, "fe80::1%2", 80);
}

static void the_ports_from_0_to_65535_are_taken(void **state)
{
	char text[32];
	int port;

	(void)state;
	for (port = 0; port <= 65535; port++) {
		snprintf(text, sizeof(text), "tcp://h:%d", port);
		if (evt_url_parse_(text, &url, &why) == -1 || url.port != port)
			fail_msg("port %d", port);
	}
}

static void the_longest_host_is_taken(void **state)
{
	char host[254];
	char text[300];

	(void)state;
	memset(host, 'h', 253);
	host[253] = '\0';
	snprintf(text, sizeof(text), "tcp://%s:65535", host);
	takes_inet(text, EVT_URL_TCP, host, 65535);
}

static void a_longer_host_is_refused(void **state)
{
	static const size_t lengths[] = {254, 255, 256, 257, 500};
	char text[512];
	const char *texts[] = {text};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(lengths); i++) {
		memset(text, 'h', lengths[i]);
		memcpy(text + lengths[i], ":80", sizeof(":80"));
		refuses_inet(texts, 1, ENAMETOOLONG, "more than 253 bytes",
			"HOST:PORT");
	}
}

static void a_zone_too_long_is_refused(void **state)
{
	char text[512] = "[fe80::1%";
	const char *texts[] = {text};

	(void)state;
	memset(text + strlen(text), 'z', 300);
	strncat(text, "]:80", 5);
	refuses_inet(
		texts, 1, ENAMETOOLONG, "more than 253 bytes", "HOST:PORT");
}

static void a_missing_port_is_told(void **state)
{
	static const char *const texts[] = {
		"", ":", "host", "host:", "[::1]", "[::1]:", "127.0.0.1"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL, "no port", "HOST:PORT");
}

static void a_port_that_is_none_is_refused(void **state)
{
	static const char *const texts[] = {"h:-1", "h:65536", "h:70000",
		"h:4294967376", "h:18446744073709551696", "h:12x", "h:+1",
		"h:0x50", "h:x", "h:-", "h:000080", "h:1e2", "h:80.", "[::]:-1",
		"h:http", "h:\xd9\xa1"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL,
		"the port is no number up to 65535", "HOST:PORT");
}

static void blanks_and_control_characters_are_refused(void **state)
{
	static const char *const texts[] = {"h: 80", " h:80", "h :80", "h:80 ",
		"h:80\n", "h:\t80", "h\r:80", "h\x7f:80", "h\x01:80", "\n",
		"[::1 ]:80", "h\x1b[2J:80"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL,
		"a blank or a control character", "HOST:PORT");
}

static void what_follows_the_port_is_refused(void **state)
{
	static const char *const texts[] = {"h:80/", "h:80/path", "h/", "/",
		"h/path:80", "[::1]:80/", "h:80?q", "h:80#f", "/run/app.sock"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL, "nothing may follow the port",
		"HOST:PORT");
}

static void a_user_is_refused(void **state)
{
	static const char *const texts[] = {
		"me@h:80", "me:secret@h:80", "@h:80", "me@[::1]:80", "@"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL, "a user", "HOST:PORT");
}

static void an_ipv6_address_without_brackets_is_told_of_them(void **state)
{
	static const char *const texts[] = {"::1:80", ":::80", "fe80::1", "::1",
		"fe80::1%eth0:80", "1:2:3:4:5:6:7:8:80", "h:80:90", "h:80:"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL,
		"an IPv6 address needs brackets", "[ADDRESS]:PORT");
}

static void an_unclosed_bracket_is_refused(void **state)
{
	static const char *const texts[] = {"[", "[::1", "[::1:80", "[:80"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL, "no ] after the IPv6 address",
		"[ADDRESS]:PORT");
}

static void between_the_bracket_and_the_port_is_nothing(void **state)
{
	static const char *const texts[] = {"[::1]80", "[::1]x:80", "[::1]]:80",
		"[[::1]]:80", "[::1]%e:80"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL,
		"only a port may follow the ]", "[ADDRESS]:PORT");
}

static void brackets_are_for_ipv6_alone(void **state)
{
	static const char *const texts[] = {"[]:80", "[localhost]:80",
		"[127.0.0.1]:80", "[::1::]:80", "[12345::]:80", "[*]:80",
		"[::1%]:80", "[%eth0]:80", "[:]:80", "[[::1]:80",
		"[0000:0000:0000:0000:0000:ffff:255.255.255.2550]:80",
		"[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:80"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL, "no IPv6 address in brackets",
		"[ADDRESS]:PORT");
}

static void a_star_is_told_to_be_left_out(void **state)
{
	static const char *const texts[] = {"*:80"};

	(void)state;
	refuses_inet(texts, COUNT(texts), EINVAL, "leave the * out", ":PORT");
}

static void missing_slashes_are_told(void **state)
{
	(void)state;
	refuse("tcp:", EINVAL, "no //", ": tcp://HOST:PORT");
	refuse("tcp:80", EINVAL, "no //", ": tcp://HOST:PORT");
	refuse("tcp:localhost:80", EINVAL, "no //", ": tcp://HOST:PORT");
	refuse("tcp:/localhost:80", EINVAL, "no //", ": tcp://HOST:PORT");
	refuse("udp::80", EINVAL, "no //", ": udp://HOST:PORT");
}

/* Schemes */

static void without_an_address_all_forms_are_shown(void **state)
{
	static const char *const texts[] = {NULL, ""};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(texts); i++) {
		refuse(texts[i], EINVAL, "no address", "tcp://HOST:PORT");
		refuse(texts[i], EINVAL, "no address", "udp://HOST:PORT");
		refuse(texts[i], EINVAL, "no address", "unix:/PATH");
		refuse(texts[i], EINVAL, "no address", "unixgram:/PATH");
	}
}

static void an_unknown_scheme_is_shown_all_forms(void **state)
{
	static const char *const texts[] = {"http://h:80", "tcp6://[::]:80",
		"TCP://h:80", " tcp://h:80", "tcp", "tcp//h:80", "h:80", ":80",
		"80", "//h:80", "/run/app.sock", "unix", "unixpacket:/x", ":",
		"\n", "[::]:80", "@name", "uni:/x"};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(texts); i++) {
		refuse(texts[i], EINVAL, "unknown scheme", "tcp://HOST:PORT");
		refuse(texts[i], EINVAL, "unknown scheme", "udp://HOST:PORT");
		refuse(texts[i], EINVAL, "unknown scheme", "unix:/PATH");
		refuse(texts[i], EINVAL, "unknown scheme", "unixgram:/PATH");
	}
}

/* Paths */

static void a_path_is_taken_as_it_is(void **state)
{
	(void)state;
	takes_unix("unix:/run/app.sock", EVT_URL_UNIX, "/run/app.sock", false);
	takes_unix("unix:relative", EVT_URL_UNIX, "relative", false);
	takes_unix("unixgram:/p", EVT_URL_UNIXGRAM, "/p", false);
	takes_unix("unix:./@a", EVT_URL_UNIX, "./@a", false);
	takes_unix("unix:/a b%20?#:80", EVT_URL_UNIX, "/a b%20?#:80", false);
	takes_unix("unix:/\xc3\xbc", EVT_URL_UNIX, "/\xc3\xbc", false);
}

static void an_abstract_name_loses_its_at(void **state)
{
	(void)state;
	takes_unix("unix:@abstract", EVT_URL_UNIX, "abstract", true);
	takes_unix("unixgram:@n", EVT_URL_UNIXGRAM, "n", true);
	takes_unix("unix:@@", EVT_URL_UNIX, "@", true);
	takes_unix("unix:@/run/x", EVT_URL_UNIX, "/run/x", true);
}

static void long_path(char *text, const char *scheme, size_t len)
{
	size_t before = strlen(scheme);

	memcpy(text, scheme, before);
	memset(text + before, 'p', len);
	text[before + len] = '\0';
}

/* I01 */
static void a_path_of_107_bytes_is_taken(void **state)
{
	char text[200];

	(void)state;
	long_path(text, "unix:", 107);
	takes_unix(text, EVT_URL_UNIX, text + 5, false);
	assert_int_equal(url.path_len, 107);
	assert_int_equal(url.path[107], 0);
}

/* I01 */
static void an_abstract_name_of_107_bytes_is_taken(void **state)
{
	char text[200];

	(void)state;
	long_path(text, "unix:@", 107);
	takes_unix(text, EVT_URL_UNIX, text + 6, true);
	assert_int_equal(url.path_len, 107);
}

/* I01 */
static void a_longer_path_is_refused(void **state)
{
	static const char *const schemes[] = {
		"unix:", "unixgram:", "unix:@", "unixgram:@"};
	static const size_t lengths[] = {108, 109, 110, 1000};
	char text[1100];
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(schemes) * COUNT(lengths); i++) {
		long_path(text, schemes[i / COUNT(lengths)],
			lengths[i % COUNT(lengths)]);
		refuse(text, ENAMETOOLONG, "more than 107 bytes", "unix:/PATH");
	}
}

/* I01 */
static void an_empty_path_is_refused(void **state)
{
	(void)state;
	refuse("unix:", EINVAL, "no path", "unix:/PATH");
	refuse("unixgram:", EINVAL, "no path", "unix:/PATH");
	refuse("unix:@", EINVAL, "no name after the @", "unix:@NAME");
	refuse("unixgram:@", EINVAL, "no name after the @", "unix:@NAME");
}

static void a_control_character_in_a_path_is_refused(void **state)
{
	(void)state;
	refuse("unix:/a\nb", EINVAL, "a control character", "unix:/PATH");
	refuse("unix:/a\x7f", EINVAL, "a control character", "unix:/PATH");
	refuse("unix:@\x01", EINVAL, "a control character", "unix:/PATH");
	refuse("unixgram:\t", EINVAL, "a control character", "unix:/PATH");
}

static void a_path_after_two_slashes_is_told_to_leave_them_out(void **state)
{
	(void)state;
	refuse("unix://run/app.sock", EINVAL, "no //", "unix:/PATH");
	refuse("unix:///run/app.sock", EINVAL, "no //", "unix:/PATH");
	refuse("unixgram:///run/a", EINVAL, "no //", "unixgram:/PATH");
}

/* Everything */

/* Each beginning of a good text, its last byte being any; ASan watches. */
static void no_text_is_read_beyond_its_end(void **state)
{
	static const char *const texts[] = {"tcp://[fe80::1%eth0]:65535",
		"udp://localhost:80", "unix:@name", "unixgram:/run/app.sock"};
	char *copy;
	size_t text;
	size_t len;
	int byte;

	(void)state;
	for (text = 0; text < COUNT(texts); text++)
		for (len = 0; len <= strlen(texts[text]); len++)
			for (byte = 0; byte < 256; byte++) {
				copy = malloc(len + 1);
				assert_non_null(copy);
				memcpy(copy, texts[text], len);
				copy[len] = '\0';
				if (len > 0)
					copy[len - 1] = (char)byte;
				why = "taken";
				if (evt_url_parse_(copy, &url, &why) == -1)
					assert_string_not_equal(why, "taken");
				free(copy);
			}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_host_and_a_port_are_taken),
		LEDGER_TEST(without_a_host_any_address_is_meant),
		LEDGER_TEST(an_ipv6_address_loses_its_brackets),
		LEDGER_TEST(a_link_local_address_keeps_its_zone),
		LEDGER_TEST(the_ports_from_0_to_65535_are_taken),
		LEDGER_TEST(the_longest_host_is_taken),
		LEDGER_TEST(a_longer_host_is_refused),
		LEDGER_TEST(a_zone_too_long_is_refused),
		LEDGER_TEST(a_missing_port_is_told),
		LEDGER_TEST(a_port_that_is_none_is_refused),
		LEDGER_TEST(blanks_and_control_characters_are_refused),
		LEDGER_TEST(what_follows_the_port_is_refused),
		LEDGER_TEST(a_user_is_refused),
		LEDGER_TEST(an_ipv6_address_without_brackets_is_told_of_them),
		LEDGER_TEST(an_unclosed_bracket_is_refused),
		LEDGER_TEST(between_the_bracket_and_the_port_is_nothing),
		LEDGER_TEST(brackets_are_for_ipv6_alone),
		LEDGER_TEST(a_star_is_told_to_be_left_out),
		LEDGER_TEST(missing_slashes_are_told),
		LEDGER_TEST(without_an_address_all_forms_are_shown),
		LEDGER_TEST(an_unknown_scheme_is_shown_all_forms),
		LEDGER_TEST(a_path_is_taken_as_it_is),
		LEDGER_TEST(an_abstract_name_loses_its_at),
		LEDGER_TEST(a_path_of_107_bytes_is_taken),
		LEDGER_TEST(an_abstract_name_of_107_bytes_is_taken),
		LEDGER_TEST(a_longer_path_is_refused),
		LEDGER_TEST(an_empty_path_is_refused),
		LEDGER_TEST(a_control_character_in_a_path_is_refused),
		LEDGER_TEST(a_path_after_two_slashes_is_told_to_leave_them_out),
		LEDGER_TEST(no_text_is_read_beyond_its_end),
	};

	return ledger_run("url", tests);
}
