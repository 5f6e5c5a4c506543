// SPDX-License-Identifier: Apache-2.0
/*
 * Sockets of the network. A connection, a socket that listens, and one of UDP that has a name stay at home and are relayed: away the program has a real one with the same names (what the hook
 * gives), back at home its own again. One that is not connected or bound is made anew: where the family is. One whose connection is over goes on as that.
 *
 * What was set on it goes along both ways. Refused by name: one that is connecting, bound only, of a link alone, with an error that nobody has read; MPTCP, TLS in the kernel;
 * one that was bound or connected away from home, where it has another network; and more at one place than there are spaces (migd/relay/net.h) to keep them apart.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"
#include "migd/engine/res_file_socket.h"

enum inet_state { INET_NONE, INET_FRESH, INET_OVER, INET_CONNECTED, INET_LISTENS, INET_PACKETS }; /* numbers are in images */
enum { BUF_LOCK = 72, LOCKED_SND = 1, LOCKED_RCV = 2 };				      /* SO_BUF_LOCK: younger than the C library's headers */

struct inet_look {
	enum inet_state state;
	bool shut_wr;
	uint32_t backlog;
	struct sockaddr_storage local, peer; /* ss_family 0: none */
};

bool inet_is(int domain, int type, int protocol)
{
	return (domain == AF_INET || domain == AF_INET6) &&
	       ((type == SOCK_STREAM && protocol == IPPROTO_TCP) || (type == SOCK_DGRAM && protocol == IPPROTO_UDP));
}

/* ---- source ----------------------------------------------------------------------------------------- */

static uint16_t port_of(const struct sockaddr_storage *a)
{
	return ((const struct sockaddr_in *)a)->sin_port; /* in the same place for both */
}

static bool has_scope(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 && ((const struct sockaddr_in6 *)a)->sin6_scope_id;
}

static bool has_ulp(int fd)
{
	char name[32];
	socklen_t n = sizeof name;

	return getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &n) == 0 && n;
}

static const char *tcp_look(int fd, struct inet_look *l)
{
	struct tcp_info t = {0};
	socklen_t n = sizeof t;
	char c;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &n) < 0)
		return "does not tell its state: close it first";
	if (has_ulp(fd))
		return "with a protocol of its own upon it (TCP_ULP: TLS in the kernel): close it first";
	switch (t.tcpi_state) {
	case TCP_LISTEN:
		l->state = INET_LISTENS;
		l->backlog = t.tcpi_sacked; /* so it is told */
		return NULL;
	case TCP_FIN_WAIT1:
	case TCP_FIN_WAIT2:
	case TCP_CLOSING:
	case TCP_LAST_ACK:
		l->shut_wr = true;
		/* fall through */
	case TCP_ESTABLISHED:
	case TCP_CLOSE_WAIT:
		l->state = INET_CONNECTED;
		return NULL;
	case TCP_CLOSE:
		l->state = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0 ? INET_OVER : INET_FRESH;
		return l->state == INET_FRESH && port_of(&l->local) ? "is bound, and neither listens nor is connected yet: try again later" : NULL;
	default:
		return "is just being connected: try again later";
	}
}

/* NULL: it can be carried, *l is filled. */
static const char *look(int fd, struct inet_look *l)
{
	socklen_t n = sizeof l->local;
	bool ours = socket_number(fd, SO_TYPE) == SOCK_DGRAM && socket_number(fd, SO_LOCK_FILTER); /* away: what keeps it from hearing itself */
	const char *why = socket_state_reason(fd, !ours);

	*l = (struct inet_look){0};
	if (why)
		return why;
	if (getsockname(fd, (struct sockaddr *)&l->local, &n) < 0)
		return "does not tell its name: close it first";
	n = sizeof l->peer;
	if (getpeername(fd, (struct sockaddr *)&l->peer, &n) < 0)
		memset(&l->peer, 0, sizeof l->peer);
	if (has_scope(&l->local) || has_scope(&l->peer))
		return "with an address that means something on one link only: close it first";
	if (socket_number(fd, SO_TYPE) == SOCK_STREAM)
		return tcp_look(fd, l);
	l->state = port_of(&l->local) || l->peer.ss_family ? INET_PACKETS : INET_FRESH;
	return NULL;
}

/*
 * What listens, or takes packets, at one address and port, or at this port of all addresses, is kept apart away: each in a space of its own. So is a connection from those that
 * listen where it is; connections from each other only by their names.
 */
enum { PLACES_MAX = 1024 }; /* more relays a family cannot have */
struct place {
	ino_t ino;
	enum inet_state state;
	bool any;
	size_t at; /* so many exclude each other here */
	struct sockaddr_storage local;
};
struct places {
	size_t n;
	bool told;
	struct place v[PLACES_MAX];
};

struct places *inet_places(void)
{
	return calloc(1, sizeof(struct places));
}

static bool is_any(const struct sockaddr_storage *a)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)a;

	return a->ss_family == AF_INET ? !((const struct sockaddr_in *)a)->sin_addr.s_addr : IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr);
}

/* One that is there excludes the other here. Of connections any number may be in one space. */
static bool excludes(const struct place *a, const struct place *b)
{
	if (a->state == INET_CONNECTED || (a->state == INET_PACKETS) != (b->state == INET_PACKETS) || port_of(&a->local) != port_of(&b->local))
		return false;
	return a->any || (!b->any && !memcmp(&a->local, &b->local, sizeof a->local));
}

/* At most so many, with it, are in one place. 0: it was known already. */
static size_t places_add(struct places *s, const struct place *one)
{
	struct place *new = &s->v[s->n];
	size_t most;

	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].ino == one->ino)
			return 0;
	if (s->n == PLACES_MAX)
		return SIZE_MAX;
	*new = *one;
	most = new->at = 1;
	for (size_t i = 0; i < s->n; i++) {
		struct place *old = &s->v[i];

		new->at += excludes(old, new);
		old->at += excludes(new, old);
		if (excludes(new, old) && old->at > most)
			most = old->at;
	}
	s->n++;
	return most > new->at ? most : new->at;
}

static void look_at_place(struct eng_probe *p, const struct file_look *l, const struct inet_look *is, const char *name)
{
	struct place one = {.ino = l->st.st_ino, .state = is->state, .any = is_any(&is->local), .local = is->local};
	size_t n = p->places->told ? 0 : places_add(p->places, &one);

	if (n == SIZE_MAX)
		file_reason(p, l, "%s: more than %d of the network are more than can be away: close some first", name, PLACES_MAX);
	else if (n > ENG_NET_PLACES)
		file_reason(p, l, "%s: more than %d at port %u of one address are more than can be away: close some first", name, ENG_NET_PLACES, ntohs(port_of(&is->local)));
	p->places->told |= n > ENG_NET_PLACES;
}

void inet_probe(struct eng_probe *p, const struct file_look *l, int fd, const char *name)
{
	struct inet_look is;
	const char *why = look(fd, &is);
	struct outside o = {0};

	if (why) {
		file_reason(p, l, "%s %s", name, why);
		return;
	}
	if (is.state >= INET_CONNECTED)
		look_at_place(p, l, &is, name);
	/* It would be closed, or accept connections, for somebody who stays. */
	if (is.state >= INET_CONNECTED && outside_add(&o, l, OUTSIDE_NOT_FILE) == 0)
		outside_report(p, &o);
	outside_free(&o);
}

/* Those that are numbers. All are carried, changed or not: they may be changed back away. */
static const struct option {
	int level, name;
} options[] = {
	{SOL_SOCKET, SO_REUSEADDR},	{SOL_SOCKET, SO_KEEPALIVE},	{SOL_SOCKET, SO_BROADCAST},	{SOL_SOCKET, SO_RCVLOWAT},
	{SOL_SOCKET, SO_OOBINLINE},	{SOL_SOCKET, SO_PRIORITY},	{SOL_SOCKET, SO_TIMESTAMP},	{SOL_SOCKET, SO_TIMESTAMPNS},
	{IPPROTO_TCP, TCP_NODELAY},	{IPPROTO_TCP, TCP_CORK},	{IPPROTO_TCP, TCP_KEEPIDLE},	{IPPROTO_TCP, TCP_KEEPINTVL},
	{IPPROTO_TCP, TCP_KEEPCNT},	{IPPROTO_TCP, TCP_LINGER2},	{IPPROTO_TCP, TCP_USER_TIMEOUT}, {IPPROTO_TCP, TCP_NOTSENT_LOWAT},
	{IPPROTO_IP, IP_TOS},		{IPPROTO_IP, IP_TTL},		{IPPROTO_IP, IP_PKTINFO},
	{IPPROTO_IP, IP_RECVTTL},	{IPPROTO_IP, IP_RECVTOS},	{IPPROTO_IPV6, IPV6_V6ONLY},	{IPPROTO_IPV6, IPV6_RECVPKTINFO},
	{IPPROTO_IPV6, IPV6_TCLASS},	{IPPROTO_IPV6, IPV6_UNICAST_HOPS},
};

static int number(int fd, int level, int name, int *v)
{
	socklen_t n = sizeof *v;

	return getsockopt(fd, level, name, v, &n);
}

static int options_dump(int fd, Sprite__Img__Socket *m)
{
	struct linger g = {0};
	socklen_t n = sizeof g;
	int locked = 0, v;

	m->level_option = calloc(3 * ARRAY_SIZE(options), sizeof *m->level_option);
	if (!m->level_option)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		if (number(fd, options[i].level, options[i].name, &v) < 0)
			continue;
		m->level_option[m->n_level_option++] = options[i].level;
		m->level_option[m->n_level_option++] = options[i].name;
		m->level_option[m->n_level_option++] = v;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &g, &n) == 0 && g.l_onoff)
		m->linger = (uint32_t)g.l_linger + 1;
	if (number(fd, SOL_SOCKET, BUF_LOCK, &locked) == 0) { /* what the program has set; else the kernel finds it by itself */
		m->sndbuf = locked & LOCKED_SND ? socket_number(fd, SO_SNDBUF) : 0;
		m->rcvbuf = locked & LOCKED_RCV ? socket_number(fd, SO_RCVBUF) : 0;
	}
	m->rcvtimeo = socket_timeout(fd, SO_RCVTIMEO);
	m->sndtimeo = socket_timeout(fd, SO_SNDTIMEO);
	m->peek_off = -1;
	return 0;
}

static int name_dump(const struct sockaddr_storage *a, ProtobufCBinaryData *out)
{
	if (!a->ss_family)
		return 0;
	out->len = a->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	out->data = malloc(out->len);
	if (!out->data)
		return -ENOMEM;
	memcpy(out->data, a, out->len);
	return 0;
}

/* Away: of what relay is it? One that came in there is known by who let it in. */
static int known_away(struct eng_family *f, struct file_desc *d, enum eng_relay_kind kind, struct error *e)
{
	const struct eng_hooks *h = eng_hooks(f);
	uint64_t id;

	if (relay_known(f, &d->look.st, kind))
		return 0;
	if (kind == ENG_RELAY_TCP && h->relay_whose && h->relay_whose(h->ctx, d->look.st.st_ino, &id) == 0)
		return relay_learn(f, &d->look.st, id, kind);
	return error_set(e, ENOTSUP, "a socket of the network that was %s away from home: close it first", kind == ENG_RELAY_TCP ? "connected" : "bound");
}

int inet_dump(struct eng_family *f, struct file_desc *d, int fd, Sprite__Img__File *m, struct error *e)
{
	Sprite__Img__Socket *s = m->socket = malloc(sizeof *s);
	struct inet_look is;
	const char *why;
	int r;

	if (!s)
		return -ENOMEM;
	sprite__img__socket__init(s);
	why = look(fd, &is);
	if (!why && f->home)
		why = socket_state_reason(fd, true);
	if (why)
		return error_set(e, EBUSY, "a socket of the network %s", why);
	s->sock = d->look.st.st_ino;
	s->type = socket_number(fd, SO_TYPE);
	s->domain = socket_number(fd, SO_DOMAIN);
	s->state = is.state;
	s->shut_wr = is.shut_wr;
	s->backlog = is.backlog;
	m->uid = d->look.st.st_uid;
	m->gid = d->look.st.st_gid;
	r = options_dump(fd, s);
	if (r == 0)
		r = name_dump(&is.local, &s->local);
	if (r == 0)
		r = name_dump(&is.peer, &s->remote);
	if (r < 0 || is.state < INET_CONNECTED)
		return r;
	enum eng_relay_kind kind = is.state == INET_LISTENS ? ENG_RELAY_LISTEN : is.state == INET_PACKETS ? ENG_RELAY_UDP : ENG_RELAY_TCP;

	r = f->home ? 0 : known_away(f, d, kind, e);
	return r < 0 ? r : relay_dump(f, d, m, kind, e);
}

/* ---- destination -------------------------------------------------------------------------------------- */

static void options_set(int fd, const Sprite__Img__Socket *m)
{
	struct linger g = {.l_onoff = m->linger > 0, .l_linger = m->linger ? (int)m->linger - 1 : 0};
	struct timeval r = {m->rcvtimeo / 1000000, m->rcvtimeo % 1000000}, s = {m->sndtimeo / 1000000, m->sndtimeo % 1000000};
	int sndbuf = m->sndbuf / 2, rcvbuf = m->rcvbuf / 2, is; /* the kernel doubles buffers */

	for (size_t i = 0; i + 2 < m->n_level_option; i += 3) {
		const int32_t *o = &m->level_option[i];

		if (number(fd, o[0], o[1], &is) == 0 && is != o[2] && setsockopt(fd, o[0], o[1], &o[2], sizeof o[2]) < 0)
			log_debug("engine: socket option %d/%d = %d: %s", o[0], o[1], o[2], strerror(errno));
	}
	if (m->sndbuf && socket_number(fd, SO_SNDBUF) != (int)m->sndbuf)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf, sizeof sndbuf);
	if (m->rcvbuf && socket_number(fd, SO_RCVBUF) != (int)m->rcvbuf)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &rcvbuf, sizeof rcvbuf);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &g, sizeof g);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &r, sizeof r);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &s, sizeof s);
}

static bool has_name(const ProtobufCBinaryData *b)
{
	return b->len == sizeof(struct sockaddr_in) || b->len == sizeof(struct sockaddr_in6);
}

static bool names(const Sprite__Img__Socket *m, struct eng_net *out)
{
	*out = (struct eng_net){.domain = (uint16_t)m->domain, .backlog = m->backlog};
	if (!has_name(&m->local) || (m->state == INET_CONNECTED && !has_name(&m->remote)))
		return false;
	memcpy(out->local, m->local.data, m->local.len);
	if (m->state != INET_LISTENS && has_name(&m->remote))
		memcpy(out->peer, m->remote.data, m->remote.len);
	for (size_t i = 0; i + 2 < m->n_level_option; i += 3)
		if (m->level_option[i] == IPPROTO_IPV6 && m->level_option[i + 1] == IPV6_V6ONLY && m->level_option[i + 2])
			out->flags |= ENG_NET_V6ONLY;
	return true;
}

static int fresh(struct eng_proc *p, const Sprite__Img__Socket *m, struct error *e)
{
	int fd[2], r = socket_by_target(p, m->domain, m->type, false, fd);

	if (r < 0)
		return error_set(e, -r, "socket of the network: %s", strerror(-r));
	if (m->state == INET_OVER)
		shutdown(fd[0], SHUT_RDWR); /* ENOTCONN, but from then on it says that both directions have ended */
	options_set(fd[0], m);
	return fd[0];
}

int inet_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e)
{
	const Sprite__Img__Socket *m = d->image->socket;
	struct eng_net net;
	int fd;

	if (!inet_is(m->domain, m->type, m->type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP))
		return res_bad_record(e, "sockets");
	if (!d->image->relay)
		return m->state == INET_FRESH || m->state == INET_OVER ? fresh(p, m, e) : res_bad_record(e, "sockets");
	if (!names(m, &net))
		return res_bad_record(e, "names of sockets");
	fd = relay_open(f, d, &net, e);
	if (fd < 0)
		return fd;
	if (!f->home && fchown(fd, d->image->uid, d->image->gid) < 0)
		log_debug("engine: owner of a socket: %s", strerror(errno));
	options_set(fd, m);
	return fd;
}

/* Who kept it at home was killed, and the connection with him; where it listened, or took packets, it does so again. */
int inet_dead_end(const Sprite__Img__File *f)
{
	const Sprite__Img__Socket *m = f->socket;
	_cleanup_close_ int fd = -1;
	int one = 1;

	if (!m || !has_name(&m->local))
		return -ENOENT;
	fd = socket(m->domain, m->type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (m->state < INET_LISTENS) {
		shutdown(fd, SHUT_RDWR);
		return steal_fd(&fd);
	}
	options_set(fd, m);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)m->local.data, m->local.len) < 0 || (m->state == INET_LISTENS && listen(fd, (int)m->backlog) < 0) ||
	    (m->state == INET_PACKETS && has_name(&m->remote) && connect(fd, (struct sockaddr *)m->remote.data, m->remote.len) < 0))
		log_error("a socket of the network cannot be made again as it was: %s", strerror(errno));
	return steal_fd(&fd);
}
