/*
 * evt-url-internal.h: where to listen or to connect, as a text. Pure: no
 * socket, no name is looked up, nothing is allocated.
 */
#ifndef EVT_URL_INTERNAL_H
#define EVT_URL_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

enum evt_url_kind { EVT_URL_TCP, EVT_URL_UDP, EVT_URL_UNIX, EVT_URL_UNIXGRAM };

#define EVT_URL_HOST 256 /* a host name has at most 253 characters, RFC 1035 */
#define EVT_URL_PATH 108 /* sun_path of unix(7) */

struct evt_url {
	enum evt_url_kind kind;

	/* TCP and UDP. */
	char host[EVT_URL_HOST]; /* without brackets; "": any address */
	int port;

	/* UNIX and UNIXGRAM. */
	char path[EVT_URL_PATH]; /* ends in a NUL unless abstract */
	size_t path_len;         /* without the NUL */
	bool abstract;           /* the path stands without its @ */
};

/*
 * 0; or -1 with errno, EINVAL or ENAMETOOLONG, and *why a text that says what
 * is wrong and shows the form. No line, and nothing of text is in *why.
 */
int evt_url_parse_(const char *text, struct evt_url *url, const char **why);

#endif /* EVT_URL_INTERNAL_H */
