/*
 * storm_classic.h: the four calls from every thread at once. There is one
 * classic server in a process: most calls come at a wrong time, and have to say
 * so in the words of evt-server.h.
 */
#ifndef STORM_CLASSIC_H
#define STORM_CLASSIC_H

#include "storm.h"

#define GRACE_MS 50

/* Functions that evt_thread_at_stop took; each is called once. */
static atomic_long at_stops;

static inline void classic_at_stop(void *arg)
{
	(void)arg;
	atomic_fetch_sub(&at_stops, 1);
}

static inline void classic_serve(sockfd_t fd, short evt, void *arg)
{
	char bytes[4096];
	ssize_t got;

	(void)evt, (void)arg;
	HAPPENED(served);
	must_hold(evt_thread_base() != NULL, "a worker has a base");
	got = hear(fd, bytes, sizeof(bytes));
	if (got > 0)
		say(fd, bytes, (size_t)got);
	if (draw(64) == 0) {
		atomic_fetch_add(&at_stops, 1);
		if (evt_thread_at_stop(classic_at_stop, NULL) == -1) {
			MUST_BE("evt_thread_at_stop", ECANCELED);
			atomic_fetch_sub(&at_stops, 1);
		}
	}
	if (draw(1000) == 0)
		evt_server_stop();
	evt_close(fd);
}

static inline void classic_dispatch(int fd)
{
	HAPPENED(dispatched);
	if (evt_thread_dispatch(fd, EV_READ, NULL) == 0)
		return;
	MUST_BE("evt_thread_dispatch", EINVAL, ENXIO, ECANCELED, EAGAIN);
	evt_close(fd);
}

static inline void classic_listen(sockfd_t fd, short evt, void *arg)
{
	struct sockaddr_storage peer;
	char bytes[64];
	int type = 0;
	socklen_t len = sizeof(type);
	int got;

	(void)evt, (void)arg;
	getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
	if (type == SOCK_STREAM) {
		got = evt_tcp(fd, (struct sockaddr *)&peer);
		if (got != -1)
			classic_dispatch(got);
		else
			MUST_BE("evt_tcp", EAGAIN);
		return;
	}
	got = evt_udp(fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&peer);
	if (got == -1)
		MUST_BE("evt_udp", EAGAIN, ECANCELED);
	else
		HAPPENED(datagrams_in);
}

static inline void classic_pair(void)
{
	char answer[64];
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == -1)
		return;
	say(ends[0], "pair", 4);
	classic_dispatch(ends[1]);
	if (draw(4) == 0)
		(void)hear(ends[0], answer, sizeof(answer));
	close(ends[0]);
}

static inline void classic_get_conn(int port)
{
	int fd = get_conn_to_host("127.0.0.1", port, SOCK_STREAM);

	if (fd != -1)
		use_and_close(fd);
	else
		MUST_BE("get_conn_to_host", ECONNREFUSED, ECONNRESET);
}

static inline void classic_client(void)
{
	int port = evt_server_port();

	if (port == -1)
		return;
	if (draw(4) == 0)
		classic_get_conn(port);
	else
		be_client(port);
	if (draw(8) == 0)
		send_datagrams(port);
}

static inline void classic_start(void)
{
	if (evt_server_start(classic_listen, NULL) == 0)
		HAPPENED(classic_starts);
	else
		MUST_BE("evt_server_start", EINVAL, EALREADY, ECANCELED);
}

static inline void classic_threads(void)
{
	int nr = (int)draw(5);
	int started = evt_server_threads(classic_serve, nr);

	must_hold(started == -1 || started == nr, "all workers, or none");
	if (started > 0)
		HAPPENED(classic_pools);
	else if (started == -1)
		MUST_BE("evt_server_threads", EINVAL, EALREADY, ECANCELED);
}

static inline void classic_stop(void)
{
	evt_server_stop();
	HAPPENED(classic_stops);
}

static inline void classic_action(void)
{
	unsigned int what = draw(100);

	if (what < 10) {
		if (evt_server_init(0, draw(4) ? SOCK_STREAM : SOCK_DGRAM) ==
			-1)
			MUST_BE("evt_server_init", EBUSY);
	} else if (what < 20) {
		classic_start();
	} else if (what < 30) {
		classic_threads();
	} else if (what < 32) {
		classic_stop();
	} else if (what < 60) {
		classic_pair();
	} else {
		classic_client();
	}
}

static inline void classic_end(void)
{
	evt_server_stop();
	must_hold(atomic_load(&at_stops) == 0, "each at_stop was called once");
}

#endif /* STORM_CLASSIC_H */
