/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slow cable in user space: `sprite-lab link-forward PORT DELAY_MS RATE_MBIT`, run by the hub. Reads frames at PORT (the node's side) and PORT-f (the
 * bridge's side, peer of PORT-b) through packet(7) sockets and writes each to the other after the time that a wire of that rate and length needs: one frame after the other,
 * each direction by itself, with a buffer of 1 MiB in front of the wire that drops what does not fit. Offloaded (large, not yet checksummed) frames
 * pass as they are, by PACKET_VNET_HDR. Ends when one of the links goes.
 */
#include "lab.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>

#define FRAME_MAX  (128 << 10)
#define BUFFER_MAX (1 << 20) /* bytes waiting for the wire, as in a switch */

struct frame {
	struct frame *next;
	uint64_t at; /* when it comes out, ns */
	size_t len;
	char data[];
};

struct direction {
	int in, out;
	struct frame *head, **tail;
	uint64_t wire_free; /* when the wire can take the next, ns */
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int port_open(const char *name)
{
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(name)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, size = 8 << 20;

	if (fd < 0 || ll.sll_ifindex == 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
		setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) < 0 || bind(fd, (struct sockaddr *)&ll, sizeof(ll)) < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	return fd;
}

/* Takes all frames that are there. -errno when the link has gone. */
static int take(struct direction *d, uint64_t delay, double ns_per_byte)
{
	static char buf[FRAME_MAX];

	for (;;) {
		ssize_t n = recv(d->in, buf, sizeof(buf), 0);
		uint64_t now = now_ns(), start;
		struct frame *f;

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		start = d->wire_free > now ? d->wire_free : now;
		if (ns_per_byte > 0 && (start - now) / ns_per_byte > BUFFER_MAX)
			continue; /* full: dropped, as a switch does */
		f = malloc(sizeof(*f) + n);
		if (!f)
			continue;
		f->len = n;
		f->next = NULL;
		memcpy(f->data, buf, n);
		d->wire_free = start + n * ns_per_byte;
		f->at = d->wire_free + delay;
		*d->tail = f;
		d->tail = &f->next;
	}
}

static int give(struct direction *d)
{
	while (d->head && d->head->at <= now_ns()) {
		struct frame *f = d->head;

		if (send(d->out, f->data, f->len, 0) < 0 && (errno == ENXIO || errno == ENODEV || errno == ENETDOWN))
			return -errno;
		d->head = f->next;
		if (!d->head)
			d->tail = &d->head;
		free(f);
	}
	return 0;
}

static void arm(int timer, const struct direction *d)
{
	struct itimerspec t = {0};
	uint64_t at = 0;

	for (int i = 0; i < 2; i++)
		if (d[i].head && (!at || d[i].head->at < at))
			at = d[i].head->at;
	t.it_value.tv_sec = at / 1000000000;
	t.it_value.tv_nsec = at % 1000000000;
	timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

int link_forward_main(int argc, char **argv)
{
	_cleanup_free_ char *far = argc == 4 ? xasprintf("%s-f", argv[1]) : NULL;
	struct direction d[2];
	uint64_t delay, ticks;
	double ns_per_byte;
	int node, bridge, timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), rc = 0;

	if (argc != 4)
		return 2;
	prctl(PR_SET_NAME, "lab-link");
	prctl(PR_SET_TIMERSLACK, 1);
	delay = strtod(argv[2], NULL) * 1e6;
	ns_per_byte = strtod(argv[3], NULL) > 0 ? 8e3 / strtod(argv[3], NULL) : 0;
	node = port_open(argv[1]);
	bridge = port_open(far);
	if (node < 0 || bridge < 0) {
		printf("packet sockets on %s and %s: %s\n", argv[1], far, strerror(errno));
		return 1;
	}
	d[0] = (struct direction){.in = node, .out = bridge, .tail = &d[0].head};
	d[1] = (struct direction){.in = bridge, .out = node, .tail = &d[1].head};
	printf("ready\n");
	fflush(stdout);
	fclose(stdout);
	while (rc == 0) {
		struct pollfd p[3] = {{.fd = node, .events = POLLIN}, {.fd = bridge, .events = POLLIN}, {.fd = timer, .events = POLLIN}};

		arm(timer, d);
		if (poll(p, 3, -1) < 0)
			continue;
		if (read(timer, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN)
			break;
		for (int i = 0; rc == 0 && i < 2; i++)
			rc = take(&d[i], delay, ns_per_byte);
		for (int i = 0; rc == 0 && i < 2; i++)
			rc = give(&d[i]);
	}
	return 0;
}
