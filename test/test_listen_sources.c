/*
 * test_listen_sources.c: how many connections one address, or one network of
 * IPv6, may have at a time.
 */
#include "listen_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>

/* B09 */
static int dial_from(const char *ip)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, ip, &in.sin_addr);
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	inet_pton(AF_INET, "127.0.0.1", &in.sin_addr);
	in.sin_port = htons((uint16_t)server.port);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

/* The place of one that has just left may come back a moment later. */
static int dial_until_served(const char *ip)
{
	int64_t end = now_ms() + 10000 * slowness();
	int fd = dial_from(ip);

	while (!echoes(fd)) {
		assert_true(now_ms() < end);
		close(fd);
		fd = dial_from(ip);
	}
	return fd;
}

/* B09 */
static void one_source_has_its_share_and_no_more(void **state)
{
	const struct evt_listen_options options = {.max_per_source = 3};
	int clients[20][3];
	char ip[20];
	int i;

	(void)state;
	start_echo(&options, 2);
	for (i = 0; i < 60; i++) {
		snprintf(ip, sizeof(ip), "127.0.0.%d", 2 + i / 3);
		clients[i / 3][i % 3] = dial_from(ip);
	}
	for (i = 0; i < 60; i++)
		assert_true(echoes(clients[i / 3][i % 3]));
	for (i = 0; i < 20; i++) {
		int client;

		snprintf(ip, sizeof(ip), "127.0.0.%d", 2 + i);
		client = dial_from(ip);
		assert_true(at_end(client));
		close(client);
	}
	close(clients[7][1]);
	clients[7][1] = dial_until_served("127.0.0.9");
	hang_up(clients[0], 60);
	assert_true(end_server().refused >= 20);
}

/* B09: a network of IPv6 is one source, as is a mapped address of IPv4. */
static void so_has_one_of_ipv6(void **state)
{
	const struct evt_listen_options options = {.max_per_source = 3};
	static const char *const ips[] = {"::1", "127.0.0.1"};
	int clients[2][3];
	int one_more;
	int i;
	int k;

	(void)state;
	make_pool(2);
	listen_at("tcp://:0", &options);
	run_pool();
	for (i = 0; i < 2; i++) {
		for (k = 0; k < 3; k++) {
			clients[i][k] = connect_to_ip(ips[i], server.port);
			assert_true(echoes(clients[i][k]));
		}
		one_more = connect_to_ip(ips[i], server.port);
		assert_true(at_end(one_more));
		close(one_more);
	}
	hang_up(clients[0], 6);
	assert_int_equal(end_server().refused, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(one_source_has_its_share_and_no_more),
		SERVER_TEST(so_has_one_of_ipv6),
	};

	return ledger_run("listen_sources", tests);
}
