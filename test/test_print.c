/*
 * test_print.c: what the helpers print, sys_error, evt_close and
 * set_nonblocking, NULL for every argument.
 */
#include "addresses.h"
#include "../evt-core.h"

#include <pthread.h>
#include <sys/mman.h>

/* Standard output, kept in a file of memory while something prints. */

static struct {
	int before;
	int file;
	char text[65536];
} printed;

static void begin_printing(void)
{
	fflush(stdout);
	printed.before = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	printed.file = memfd_create("printed", MFD_CLOEXEC);
	dup2(printed.file, STDOUT_FILENO);
}

static const char *end_printing(void)
{
	ssize_t len;

	fflush(stdout);
	dup2(printed.before, STDOUT_FILENO);
	close(printed.before);
	len = pread(printed.file, printed.text, sizeof(printed.text) - 1, 0);
	printed.text[len > 0 ? len : 0] = '\0';
	close(printed.file);
	return printed.text;
}

/* Printing */

/* L06 */
static void an_entry_is_printed_in_readable_form(void **state)
{
	struct sockaddr_in in = ipv4("192.0.2.7", 80);
	struct addrinfo ai = {.ai_flags = 1,
		.ai_family = AF_INET,
		.ai_socktype = SOCK_STREAM,
		.ai_protocol = 6,
		.ai_addrlen = sizeof(in),
		.ai_addr = (struct sockaddr *)&in,
		.ai_canonname = (char *)"a.host"};
	const char *text;

	(void)state;
	begin_printing();
	print_addrinfo(&ai);
	text = end_printing();
	assert_non_null(strstr(text, "192.0.2.7"));
	assert_non_null(strstr(text, "a.host"));
	assert_non_null(strstr(text, "family 2"));
	assert_int_equal(text[strlen(text) - 1], '\n');
}

/* L06 */
static void what_getnetinfo_gives_can_be_printed(void **state)
{
	struct addrinfo *list = getnetinfo("::1", 65535, SOCK_DGRAM);
	const char *text;

	(void)state;
	assert_non_null(list);
	begin_printing();
	print_addrinfo(list);
	text = end_printing();
	freeaddrinfo(list);
	assert_non_null(strstr(text, "[::1]:65535"));
}

/* L06, A12 */
static void an_entry_with_nothing_in_it_is_printed(void **state)
{
	struct addrinfo empty = {0};
	struct sockaddr odd = {.sa_family = AF_UNIX};
	struct addrinfo strange = {.ai_addr = &odd};

	(void)state;
	begin_printing();
	print_addrinfo(NULL);
	print_addrinfo(&empty);
	print_addrinfo(&strange);
	assert_true(strlen(end_printing()) > 0);
	assert_null(log_line(0));
}

/* L06 */
static void a_buffer_is_printed_in_hex_and_as_text(void **state)
{
	char bytes[] = "GET / HTTP/1.0\r\nxyz";
	const char *text;

	(void)state;
	begin_printing();
	print_buffer("request", bytes, (int)strlen(bytes));
	text = end_printing();
	assert_non_null(strstr(text, "request"));
	assert_non_null(strstr(text, "47 45 54 20 2f 20 48 54"));
	assert_non_null(strstr(text, "GET / HTTP/1.0.."));
	assert_non_null(strstr(text, "78 79 7a"));
	assert_non_null(strstr(text, "xyz\n"));
}

/* L06 */
static void bytes_that_are_not_ascii_are_dots(void **state)
{
	unsigned char bytes[256];
	const char *text;
	int i;

	(void)state;
	for (i = 0; i < 256; i++)
		bytes[i] = (unsigned char)i;
	begin_printing();
	print_buffer("all", bytes, sizeof(bytes));
	text = end_printing();
	assert_non_null(strstr(text, "fe ff"));
	for (i = 0; text[i]; i++)
		assert_true(text[i] == '\n' ||
			(text[i] >= 0x20 && (unsigned char)text[i] < 0x7f));
}

/* L06: the sanitizers see the ends of the buffer. */
static void no_byte_beyond_the_size_is_printed(void **state)
{
	int size;

	(void)state;
	for (size = 1; size <= 33; size++) {
		char *bytes = malloc((size_t)size);
		const char *text;
		int dots = 0;

		memset(bytes, 1, (size_t)size);
		begin_printing();
		print_buffer("x", bytes, size);
		for (text = end_printing(); *text; text++)
			dots += *text == '.';
		assert_int_equal(dots, size);
		free(bytes);
	}
}

/* L06 */
static void as_many_bytes_are_printed_as_were_asked_for(void **state)
{
	char bytes[40];
	const char *text;
	int size;

	(void)state;
	memset(bytes, 0xab, sizeof(bytes));
	for (size = 0; size <= 33; size++) {
		int pairs = 0;

		begin_printing();
		print_buffer("x", bytes, size);
		for (text = end_printing(); (text = strstr(text, "ab")); text++)
			pairs++;
		assert_int_equal(pairs, size);
	}
}

/* L06, A12 */
static void nothing_can_be_printed_too(void **state)
{
	char byte = 'x';
	const char *text;

	(void)state;
	begin_printing();
	print_buffer(NULL, NULL, 0);
	print_buffer(NULL, NULL, 100);
	print_buffer("name", NULL, -1);
	print_buffer("name", &byte, 0);
	print_buffer("name", &byte, -1);
	print_buffer("name", &byte, INT_MIN);
	print_buffer(NULL, &byte, 1);
	text = end_printing();
	assert_non_null(strstr(text, "name"));
	assert_non_null(strstr(text, "78"));
}

/* L06 */
static void a_name_is_not_taken_for_a_format(void **state)
{
	char byte = 'x';

	(void)state;
	begin_printing();
	print_buffer("%s%n%d", &byte, 1);
	assert_non_null(strstr(end_printing(), "%s%n%d"));
}

/* sys_error */

/* L07 */
static void sys_error_tells_errno_and_keeps_it(void **state)
{
	(void)state;
	errno = EADDRINUSE;
	assert_int_equal(sys_error("my bind"), -1);
	assert_int_equal(errno, EADDRINUSE);
	assert_string_equal(log_line(0), "my bind: Address already in use");
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
}

/* L07 */
static void sys_error_knows_odd_numbers_too(void **state)
{
	static const int errors[] = {0, -1, 99999, INT_MAX, INT_MIN};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		log_forget();
		errno = errors[i];
		assert_int_equal(sys_error("odd"), -1);
		assert_int_equal(errno, errors[i]);
		assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
		assert_true(strlen(log_line(0)) > strlen("odd: "));
	}
}

/* L07 */
static void sys_error_tells_eagain_as_well(void **state)
{
	(void)state;
	errno = EAGAIN;
	assert_int_equal(sys_error("read"), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
}

/* L07, A12 */
static void sys_error_of_null_has_a_line_too(void **state)
{
	(void)state;
	errno = EPERM;
	assert_int_equal(sys_error(NULL), -1);
	assert_int_equal(errno, EPERM);
	assert_true(log_has("Operation not permitted"));
}

/* L07 */
static void sys_error_does_not_take_its_text_for_a_format(void **state)
{
	(void)state;
	errno = EPERM;
	sys_error("%s%n");
	assert_string_equal(log_line(0), "%s%n: Operation not permitted");
}

#define TELLERS 8
#define TIMES   200

static atomic_int whole_lines;
static atomic_int other_lines;

/* "teller 3, 17: the text of error 3 + 1" */
static void look_at_line(int level, const char *line, void *arg)
{
	char reason[64];
	int teller;
	int i;
	int len = 0;

	(void)arg;
	if (level == EVT_LOG_ERROR &&
		sscanf(line, "teller %d, %d: %n", &teller, &i, &len) == 2 &&
		len > 0 &&
		strcmp(line + len,
			strerror_r(teller + 1, reason, sizeof(reason))) == 0)
		atomic_fetch_add(&whole_lines, 1);
	else
		atomic_fetch_add(&other_lines, 1);
}

static atomic_int errnos_kept;

static void *tell_errors(void *arg)
{
	int teller = *(int *)arg;
	char text[64];
	int i;

	for (i = 0; i < TIMES; i++) {
		snprintf(text, sizeof(text), "teller %d, %d", teller, i);
		errno = teller + 1;
		if (sys_error(text) == -1 && errno == teller + 1)
			atomic_fetch_add(&errnos_kept, 1);
	}
	return NULL;
}

/* L07 */
static void eight_threads_tell_their_own_errors_in_whole_lines(void **state)
{
	pthread_t threads[TELLERS];
	int numbers[TELLERS];
	int i;

	(void)state;
	atomic_store(&whole_lines, 0);
	atomic_store(&other_lines, 0);
	atomic_store(&errnos_kept, 0);
	evt_set_log(look_at_line, NULL);
	for (i = 0; i < TELLERS; i++) {
		numbers[i] = i;
		pthread_create(&threads[i], NULL, tell_errors, &numbers[i]);
	}
	for (i = 0; i < TELLERS; i++)
		pthread_join(threads[i], NULL);
	log_catch();
	assert_int_equal(atomic_load(&whole_lines), TELLERS * TIMES);
	assert_int_equal(atomic_load(&other_lines), 0);
	assert_int_equal(atomic_load(&errnos_kept), TELLERS * TIMES);
}

/* Descriptors */

/* L05 */
static void a_descriptor_stops_blocking_and_keeps_its_flags(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(fcntl(fds[1], F_SETFL, O_APPEND), 0);
	assert_int_equal(set_nonblocking(fds[1]), 0);
	assert_int_equal(fcntl(fds[1], F_GETFL) & (O_APPEND | O_NONBLOCK),
		O_APPEND | O_NONBLOCK);
	assert_int_equal(set_nonblocking(fds[1]), 0);
	assert_int_equal(fcntl(fds[1], F_GETFD), FD_CLOEXEC);
	close(fds[0]);
	close(fds[1]);
	assert_null(log_line(0));
}

/* L05 */
static void what_is_not_open_is_refused(void **state)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	close(fd);
	errno = 0;
	assert_int_equal(set_nonblocking(fd), -1);
	assert_int_equal(errno, EBADF);
	errno = 0;
	assert_int_equal(set_nonblocking(-1), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 2);
}

/* L08 */
static void closing_what_is_not_open_is_silent(void **state)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	close(fd);
	errno = EPROTO;
	evt_close(-1);
	evt_close(INT_MIN);
	evt_close(fd);
	evt_close(INT_MAX);
	assert_int_equal(errno, EPROTO);
	assert_int_equal(log_lines(EVT_LOG_INFO), 0);
}

/* L08 */
static void what_is_no_socket_is_closed_all_the_same(void **state)
{
	char byte;
	int fds[2];

	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	errno = EPROTO;
	evt_close(fds[1]);
	assert_int_equal(errno, EPROTO);
	assert_int_equal(read(fds[0], &byte, 1), 0);
	evt_close(fds[0]);
	assert_int_equal(fcntl(fds[0], F_GETFD), -1);
	assert_null(log_line(0));
}

/* L08 */
static void a_peer_that_left_first_is_no_error(void **state)
{
	int fds[2];
	int left;

	(void)state;
	for (left = 0; left < 2; left++) {
		assert_int_equal(
			socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds),
			0);
		if (left)
			close(fds[1]);
		errno = EPROTO;
		evt_close(fds[0]);
		assert_int_equal(errno, EPROTO);
		assert_int_equal(fcntl(fds[0], F_GETFD), -1);
		if (!left)
			close(fds[1]);
	}
	assert_null(log_line(0));
}

/* L08 */
static void a_peer_that_reset_is_no_error(void **state)
{
	int port;
	int listener = bound("127.0.0.1", SOCK_STREAM, &port);
	int fd = connect_to(port);
	int conn;

	(void)state;
	assert_true(has_client(listener));
	conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_int_not_equal(conn, -1);
	close_with_reset(fd);
	assert_true(at_end(conn));
	evt_close(conn);
	assert_int_equal(fcntl(conn, F_GETFD), -1);
	close(listener);
	assert_null(log_line(0));
}

/* L08 */
static void closing_shuts_down_what_a_child_still_holds(void **state)
{
	int fds[2];
	int copy;

	(void)state;
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
	evt_close(fds[0]);
	assert_true(at_end(fds[1]));
	close(copy);
	close(fds[1]);
}

/* A12 */
static void null_gives_nothing_and_does_no_harm(void **state)
{
	struct sockaddr_in in = ipv4("192.0.2.7", 80);
	struct sockaddr *addr = (struct sockaddr *)&in;
	char bytes[28] = {0, 2};

	(void)state;
	assert_int_equal(serialize_addr(NULL, bytes, 28), 0);
	assert_int_equal(serialize_addr(addr, NULL, 28), 0);
	assert_int_equal(serialize_addr(NULL, NULL, 28), 0);
	assert_int_equal(deserialize_addr(NULL, addr, 28), 0);
	assert_int_equal(deserialize_addr(bytes, NULL, 28), 0);
	assert_int_equal(copy_ip_addr(NULL, bytes, 28), 0);
	assert_int_equal(copy_ip_addr(addr, NULL, 28), 0);
	assert_null(log_line(0));
	assert_int_equal(evt_thread_at_stop(NULL, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_udp(0, NULL, 1, 0, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_udp(0, bytes, -1, 0, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 3);
}

/* A12 */
static void host_null_is_the_any_address(void **state)
{
	struct addrinfo *list = getnetinfo(NULL, 80, SOCK_STREAM);
	struct addrinfo *ai;
	char ip[16];

	(void)state;
	assert_non_null(list);
	for (ai = list; ai; ai = ai->ai_next) {
		static const char zeros[16];
		int len = copy_ip_addr(ai->ai_addr, ip, sizeof(ip));

		assert_true(len == 4 || len == 16);
		assert_memory_equal(ip, zeros, (size_t)len);
	}
	freeaddrinfo(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(an_entry_is_printed_in_readable_form),
		LEDGER_TEST(what_getnetinfo_gives_can_be_printed),
		LEDGER_TEST(an_entry_with_nothing_in_it_is_printed),
		LEDGER_TEST(a_buffer_is_printed_in_hex_and_as_text),
		LEDGER_TEST(bytes_that_are_not_ascii_are_dots),
		LEDGER_TEST(no_byte_beyond_the_size_is_printed),
		LEDGER_TEST(as_many_bytes_are_printed_as_were_asked_for),
		LEDGER_TEST(nothing_can_be_printed_too),
		LEDGER_TEST(a_name_is_not_taken_for_a_format),
		LEDGER_TEST(sys_error_tells_errno_and_keeps_it),
		LEDGER_TEST(sys_error_knows_odd_numbers_too),
		LEDGER_TEST(sys_error_tells_eagain_as_well),
		LEDGER_TEST(sys_error_of_null_has_a_line_too),
		LEDGER_TEST(sys_error_does_not_take_its_text_for_a_format),
		LEDGER_TEST(eight_threads_tell_their_own_errors_in_whole_lines),
		LEDGER_TEST(a_descriptor_stops_blocking_and_keeps_its_flags),
		LEDGER_TEST(what_is_not_open_is_refused),
		LEDGER_TEST(closing_what_is_not_open_is_silent),
		LEDGER_TEST(what_is_no_socket_is_closed_all_the_same),
		LEDGER_TEST(a_peer_that_left_first_is_no_error),
		LEDGER_TEST(a_peer_that_reset_is_no_error),
		LEDGER_TEST(closing_shuts_down_what_a_child_still_holds),
		LEDGER_TEST(null_gives_nothing_and_does_no_harm),
		LEDGER_TEST(host_null_is_the_any_address),
	};

	return ledger_run("print", tests);
}
