/*
 * evt-udp-token.c: tokens, by which a sender shows that he gets what is sent to
 * his address.
 *
 * A token is the SipHash-2-4 (Aumasson and Bernstein, 2012) of the sender's
 * address, his port and the time, under a key that the sockets of a listener
 * share: so nothing is remembered of who has been given one, and who has not
 * seen it can but guess one of 2^64. QUIC's Retry works like that: RFC 9000,
 * section 8.1.2.
 */
#include "evt-udp-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <string.h>

#define WINDOW_MS 300000 /* a token is good for the rest of its own, and ... */
#define WINDOWS   2      /* ... one more */

static uint64_t rotate(uint64_t x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static void round_of(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[0] = rotate(v[0], 32);
	v[2] += v[3];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[2] = rotate(v[2], 32);
}

static void absorb(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	round_of(v);
	round_of(v);
	v[0] ^= word;
}

/* Little-endian words: nr of them are 8 * nr bytes of the paper's text. */
uint64_t evt_siphash_(const uint64_t key[2], const uint64_t *words, int nr)
{
	uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u,
		key[1] ^ 0x646f72616e646f6du, key[0] ^ 0x6c7967656e657261u,
		key[1] ^ 0x7465646279746573u};
	int i;

	for (i = 0; i < nr; i++)
		absorb(v, words[i]);
	absorb(v, (uint64_t)(8 * nr) << 56);
	v[2] ^= 0xff;
	for (i = 0; i < 4; i++)
		round_of(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t token_of(const struct evt_udp_socket *sock,
	const struct evt_udp_who *who, int64_t window)
{
	const uint64_t words[] = {who->high, who->low,
		(uint64_t)who->scope << 32 | who->port, (uint64_t)window};

	return evt_siphash_(sock->setup->key, words, 4);
}

int evt_udp_token(struct evt_udp_socket *sock, const struct sockaddr *sender,
	unsigned char token[EVT_UDP_TOKEN])
{
	struct evt_udp_who who;
	uint64_t number;

	if (evt_udp_check_(sock, "evt_udp_token") == -1)
		return -1;
	if (!sender || !token || !evt_udp_who_(sender, &who))
		return evt_fail_(EINVAL, "evt_udp_token");
	number = token_of(sock, &who, evt_now_ms_() / WINDOW_MS);
	memcpy(token, &number, sizeof(number));
	return 0;
}

int evt_udp_check_token(struct evt_udp_socket *sock,
	const struct sockaddr *sender, const unsigned char token[EVT_UDP_TOKEN])
{
	int64_t window = evt_now_ms_() / WINDOW_MS;
	struct evt_udp_who who;
	uint64_t number;
	bool is_good = false;
	int i;

	if (evt_udp_check_(sock, "evt_udp_check_token") == -1)
		return -1;
	if (!sender || !token || !evt_udp_who_(sender, &who))
		return evt_fail_(EINVAL, "evt_udp_check_token");
	memcpy(&number, token, sizeof(number));
	for (i = 0; i < WINDOWS; i++)
		is_good |= (number ^ token_of(sock, &who, window - i)) == 0;
	if (is_good)
		return evt_udp_validated(sock, sender);
	errno = EACCES;
	return -1;
}
