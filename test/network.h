/*
 * network.h: a network of one's own, where no other suite takes the port that a
 * test has just freed.
 */
#ifndef NETWORK_H
#define NETWORK_H

#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Enters a new network namespace, loopback up; flags CLONE_NEWNET and, without
 * rights, CLONE_NEWUSER. False, and all as before, where that is not allowed.
 */
static inline bool own_network(int flags)
{
	struct ifreq request = {.ifr_name = "lo"};
	bool up;
	int fd;

	if (unshare(flags) == -1)
		return false;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	up = ioctl(fd, SIOCGIFFLAGS, &request) == 0;
	request.ifr_flags |= IFF_UP;
	up = up && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
	close(fd);
	return up;
}

#endif /* NETWORK_H */
