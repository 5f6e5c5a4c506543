/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets of the network on a guest host. A socket that stands for one of the home's is a real one, in a network namespace of sprite-relay's own (a *space*) in which
 * every address is local: so it can be bound to the home's address and talk to one who has the address of the true peer, and all that is asked of it is answered by the
 * kernel: names, options, readiness, accept(2). The one at the other end is ours. A space has a loopback device and nothing else; whoever holds a socket of it can
 * reach nobody but us.
 *
 * No locking: the hub's lock is held.
 */
#ifndef MIGD_RELAY_NET_H
#define MIGD_RELAY_NET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { RELAY_NET_V6ONLY = 1, RELAY_NET_REUSEPORT = 2 };
enum { RELAY_ADDR = 28 }; /* room for a struct sockaddr_in or sockaddr_in6 */
struct relay_net {
	uint16_t domain; /* AF_INET, AF_INET6 */
	uint16_t flags;
	uint32_t backlog;			      /* of a listening one */
	uint8_t local[RELAY_ADDR], peer[RELAY_ADDR]; /* as the family sees them; peer: zeros: none */
};

bool net_valid(const struct relay_net *n, bool connected); /* what came from elsewhere */
int net_of(int fd, struct relay_net *out);		    /* names of a socket; 0 or -errno */
uint16_t net_port(const uint8_t addr[RELAY_ADDR]);
bool net_is_any(const uint8_t addr[RELAY_ADDR]); /* 0.0.0.0 or :: */

struct net_space {
	int ns;	  /* 0: none yet */
	int diag; /* sock_diag(7) in it */
};
int net_space_open(struct net_space *s);
void net_space_close(struct net_space *s);

/* A connection: returns our end; *family: the other. -EADDRINUSE, -EADDRNOTAVAIL: not in this space. */
int net_pair(const struct net_space *s, const struct relay_net *n, int *family);
int net_socket(const struct net_space *s, int domain, int type, int protocol);
int net_bound(const struct net_space *s, const struct relay_net *n, const uint8_t at[RELAY_ADDR], int type);
void net_set(int fd, int level, int option, int value);
int net_listen(const struct net_space *s, const struct relay_net *n);
/* Our end of a connection that waits to be accepted there. -ECONNREFUSED: nobody listens (any more). */
int net_join(const struct net_space *s, const struct relay_net *n);

struct net_look {
	uint8_t state;
	uint32_t ino;	   /* 0: nobody has a descriptor of it (yet) */
	uint64_t received; /* by its TCP, read or not */
	uint32_t unread, unsent;
};
/* The family's socket. -ENOENT: it is over, or not there; -EAGAIN: not yet; -errno: not to be had just now. */
int net_look(const struct net_space *s, const struct relay_net *n, bool listening, struct net_look *out);

int net_look_udp(const struct net_space *s, const struct relay_net *n, struct net_look *out); /* only ino and unread */

struct net_end { /* the family's end of a connection, as a sink has to know it */
	const struct net_space *space;
	struct relay_net net;
	bool exact; /* the last answer of net_end_read() was; else it was too small by what just came in */
};
/* How many bytes the family has read from it. -ENOENT: nobody will read more. */
int net_end_read(struct net_end *e, uint64_t *n);
/* Has all that the family wrote to it come to `fd`, our end, and been read there? */
bool net_end_drained(const struct net_end *e, int fd);

/* An end that is closed without more ado tells the other side that it broke (what a killed sprite-relay does), unless it has been let go. */
void net_break_at_close(int fd, bool yes);
/* Home: the true one is read and written by us for some time; its program's options are its own again when it is back (the engine sets them). */
void net_take_over(int fd);
bool net_has_failed(int fd); /* an error waits, and nothing before it; it is not taken away */

#endif
