/* evt-server-internal.h: what evt-core.c and the tests know of the server. */
#ifndef EVT_SERVER_INTERNAL_H
#define EVT_SERVER_INTERNAL_H

struct addrinfo;

/* The server's address; NULL before init. */
struct addrinfo *evt_server_addrinfo_(void);

/* Its family, AF_INET6 or AF_INET; 0 before init. */
int evt_server_family_(void);

/*
 * What became of the connections since the first init. Once the server has
 * stopped, what dispatching took is delivered + dropped. To be asked for while
 * nothing starts or stops.
 */
struct evt_server_ledger {
	unsigned long accepted;  /* by evt_tcp, on the listener */
	unsigned long delivered; /* reached tcb */
	unsigned long dropped;   /* closed: no worker came, or none was left */
	unsigned long refused;   /* dispatches that gave -1 */
	unsigned long pauses;    /* of accepting: nothing left to do it with */
	unsigned long vanished;  /* clients that left before evt_tcp */
	unsigned long truncated; /* datagrams longer than the buffer */
	unsigned long unreachable; /* earlier answers that met a closed port */
};

void evt_server_ledger_(struct evt_server_ledger *ledger);

#endif /* EVT_SERVER_INTERNAL_H */
