/*
 * test_datagrams_forged.c: datagrams whose sender's address nobody could have:
 * port 0, or one of ours. Made with a raw socket, in a network of our own.
 */
/* wrap: getifaddrs */
#include "udp_rig.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <sys/ioctl.h>

int __real_getifaddrs(struct ifaddrs **list);

static atomic_int looks;
static atomic_bool looks_in_vain;

int __wrap_getifaddrs(struct ifaddrs **list)
{
	atomic_fetch_add(&looks, 1);
	if (!atomic_load(&looks_in_vain))
		return __real_getifaddrs(list);
	errno = ENOBUFS;
	return -1;
}

static int close_test(void **state)
{
	atomic_store(&looks_in_vain, false);
	return udp_close(state);
}

#define FORGED_TEST(fn)                                       \
	{                                                     \
#fn, fn, ledger_open, close_test, (void *)#fn \
	}

static bool alone; /* in a network of our own: without, all is skipped */

/* Another address of this machine. */
static void have_address(const char *name, const char *ip)
{
	struct ifreq request = {0};
	struct sockaddr_in in = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memcpy(request.ifr_name, name, strlen(name));
	inet_pton(AF_INET, ip, &in.sin_addr);
	memcpy(&request.ifr_addr, &in, sizeof(in));
	assert_int_equal(ioctl(fd, SIOCSIFADDR, &request), 0);
	close(fd);
}

/* Sends a datagram of text from this address, whoever has it. */
static void forge(const char *from, int from_port, const char *to, int to_port,
	const char *text)
{
	const int checksum = 6; /* where it is in the header */
	struct {
		struct udphdr header;
		char text[32];
	} packet = {.header = {.uh_sport = htons((uint16_t)from_port),
			    .uh_dport = htons((uint16_t)to_port)}};
	size_t len = sizeof(packet.header) + strlen(text);
	socklen_t from_len;
	socklen_t to_len;
	struct sockaddr_storage sender = addr_of(from, 0, &from_len);
	struct sockaddr_storage addr = addr_of(to, 0, &to_len);
	int fd = socket(sender.ss_family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP);

	assert_int_not_equal(fd, -1);
	if (sender.ss_family == AF_INET6)
		assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_CHECKSUM,
					 &checksum, sizeof(checksum)),
			0);
	packet.header.uh_ulen = htons((uint16_t)len);
	memcpy(packet.text, text, strlen(text));
	assert_int_equal(bind(fd, (struct sockaddr *)&sender, from_len), 0);
	assert_int_equal(
		sendto(fd, &packet, len, 0, (struct sockaddr *)&addr, to_len),
		len);
	close(fd);
}

/* Of nr there was none; nothing was sent, and nothing said. */
static void are_refused(unsigned long nr)
{
	settle(0);
	assert_true(WAIT_FOR(server_stats().datagrams_refused == nr));
	settle(0);
	assert_int_equal(nr_noted(), 0);
	assert_int_equal(server_stats().datagrams_out, 0);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

/* F08 */
static void from_port_0_there_is_none(void **state)
{
	int fd;

	(void)state;
	if (!alone)
		skip();
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	forge("127.0.0.1", 0, "127.0.0.1", server.port, "who");
	forge("127.0.0.9", 0, "127.0.0.1", server.port, "who");
	are_refused(2);
	fd = udp_to(server.port);
	exchanges(fd, "me");
	close(fd);
	assert_int_equal(end_udp().datagrams_in, 1);
	start_udp("udp://[::1]:0", echo_datagrams, NULL, 1);
	forge("::1", 0, "::1", server.port, "who");
	are_refused(1);
	end_udp();
}

/* F08: it would answer itself, for ever. */
static void from_our_own_address_there_is_none(void **state)
{
	static const char *const urls[] = {
		ANY_UDP, "udp://0.0.0.0:0", "udp://:0"};
	size_t i;

	(void)state;
	if (!alone)
		skip();
	for (i = 0; i < COUNT(urls); i++) {
		start_udp(urls[i], echo_datagrams, NULL, 1);
		forge("127.0.0.1", server.port, "127.0.0.1", server.port,
			"hello, me");
		are_refused(1);
		end_udp();
	}
	start_udp("udp://[::1]:0", echo_datagrams, NULL, 1);
	forge("::1", server.port, "::1", server.port, "hello, me");
	are_refused(1);
	end_udp();
	start_udp("udp://:0", echo_datagrams, NULL, 1);
	forge("::1", server.port, "::1", server.port, "hello, me");
	are_refused(1);
	end_udp();
}

/* F08 */
static void one_of_any_address_has_all_of_the_machine(void **state)
{
	(void)state;
	if (!alone)
		skip();
	have_address("lo:1", "10.77.0.1");
	start_udp("udp://:0", echo_datagrams, NULL, 1);
	forge("127.0.0.9", server.port, "127.0.0.1", server.port, "me?");
	forge("10.77.0.1", server.port, "127.0.0.1", server.port, "me?");
	forge("10.77.0.1", server.port, "10.77.0.1", server.port, "me?");
	are_refused(3);
	end_udp();
}

/* F08: it is asked once a second, whatever comes; a new one is noticed. */
static void a_new_address_is_noticed(void **state)
{
	int before;
	int i;

	(void)state;
	if (!alone)
		skip();
	start_udp("udp://:0", note_datagrams, NULL, 1);
	have_address("lo:1", "10.77.0.1");
	before = atomic_load(&looks);
	for (i = 0; i < 100; i++)
		forge("10.77.0.1", server.port, "127.0.0.1", server.port, "me");
	assert_true(WAIT_FOR(server_stats().datagrams_refused == 100));
	assert_in_range(atomic_load(&looks) - before, 1, 1 + slowness());
	have_address("lo:2", "10.77.0.2");
	assert_true(WAIT_FOR((
		forge("10.77.0.2", server.port, "127.0.0.1", server.port, "me"),
		settle(0), server_stats().datagrams_refused > 100)));
	end_udp();
}

/* F08: it is somebody else. */
static void one_of_our_port_elsewhere_is_served(void **state)
{
	struct note it;
	int fd;

	(void)state;
	if (!alone)
		skip();
	have_address("lo:1", "10.77.0.1");
	start_udp(ANY_UDP, echo_datagrams, NULL, 1);
	fd = udp_at("127.0.0.9", server.port);
	assert_int_not_equal(fd, -1);
	assert_int_equal(reach(fd, "127.0.0.1", server.port), 0);
	exchanges(fd, "hello");
	it = noted(0);
	assert_int_equal(ntohs(((struct sockaddr_in *)&it.sender)->sin_port),
		server.port);
	close(fd);
	fd = udp_at("10.77.0.1", server.port);
	assert_int_not_equal(fd, -1);
	assert_int_equal(reach(fd, "127.0.0.1", server.port), 0);
	exchanges(fd, "hello");
	close(fd);
	assert_int_equal(end_udp().datagrams_refused, 0);
}

/* F08: two that answer each other would never end. */
static void from_another_listener_of_ours_there_is_none(void **state)
{
	const struct evt_handlers handlers = {.on_datagrams = echo_datagrams};
	struct evt_listener *first;
	int ports[2];
	int fd;

	(void)state;
	if (!alone)
		skip();
	start_udp(ANY_UDP, echo_datagrams, NULL, 2);
	first = server.listener;
	ports[0] = server.port;
	server.listener = evt_listen(
		server.pool, "udp://:0", &handlers, NULL, NULL);
	assert_non_null(server.listener);
	ports[1] = evt_listener_port(server.listener);
	/* Both have to wait by now. */
	settle(0);
	settle(1);
	forge("127.0.0.1", ports[1], "127.0.0.1", ports[0], "your turn");
	forge("127.0.0.1", ports[0], "127.0.0.1", ports[1], "your turn");
	are_refused(2);
	fd = udp_to(ports[0]);
	exchanges(fd, "hello");
	close(fd);
	/* One that is closed is another's, if he takes it. */
	evt_listener_close(server.listener);
	assert_true(WAIT_FOR((fd = udp_at("127.0.0.1", ports[1])) != -1));
	assert_int_equal(reach(fd, "127.0.0.1", ports[0]), 0);
	exchanges(fd, "hello");
	close(fd);
	server.listener = first;
	assert_int_equal(end_udp().datagrams_in, 2);
}

/* F08: then it is as if there were no others than those of loopback. */
static void without_memory_to_look_all_goes_on(void **state)
{
	int fd;

	(void)state;
	if (!alone)
		skip();
	atomic_store(&looks_in_vain, true);
	have_address("lo:1", "10.77.0.1");
	start_udp("udp://:0", note_datagrams, NULL, 1);
	forge("10.77.0.1", server.port, "127.0.0.1", server.port, "me?");
	assert_true(WAIT_FOR(nr_noted() == 1));
	forge("127.0.0.1", server.port, "127.0.0.1", server.port, "me?");
	assert_true(WAIT_FOR(server_stats().datagrams_refused == 1));
	fd = udp_to(server.port);
	shoot(fd, "hello", 5);
	assert_true(WAIT_FOR(nr_noted() == 2));
	close(fd);
	end_udp();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FORGED_TEST(from_port_0_there_is_none),
		FORGED_TEST(from_our_own_address_there_is_none),
		FORGED_TEST(one_of_any_address_has_all_of_the_machine),
		FORGED_TEST(a_new_address_is_noticed),
		FORGED_TEST(one_of_our_port_elsewhere_is_served),
		FORGED_TEST(from_another_listener_of_ours_there_is_none),
		FORGED_TEST(without_memory_to_look_all_goes_on),
	};

	alone = own_network();
	return ledger_run("datagrams_forged", tests);
}
