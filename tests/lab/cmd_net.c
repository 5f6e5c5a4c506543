/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sprite-lab cut, heal, link.
 *
 * cut NODE: its port leaves the bridge. The node keeps its carrier: frames vanish, as behind a dead switch. cut A B: in each of the two a permanent neighbour
 * entry sends what is for the other to an address that nobody has. Neither says anything to the sender: time-outs are the only sign, as over a cable.
 *
 * link: this needs a delay, and netem(8) is not in every kernel. So a process of the lab stands between the node's port and the bridge and holds each frame back
 * (link.c). The port is `ws1`; with a slow link `ws1` is what the process reads on the node's side and `ws1-b` is the port of the bridge.
 */
#include "lab.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define NOBODY "02:00:00:00:00:00"

/* The link's end in the bridge. */
static char *port_of(const struct lab *lab, const char *node)
{
	char *slow = xasprintf("%s-b", node);

	if (net_has_link(lab->hub, slow))
		return slow;
	free(slow);
	return xasprintf("%s", node);
}

static int deafen(const struct lab_node *a, const struct lab_node *b, bool cut, struct error *e)
{
	_cleanup_free_ char *text = cut ? xasprintf("neigh replace %s lladdr " NOBODY " dev eth0 nud permanent\n", b->address)
					: xasprintf("neigh del %s dev eth0\n", b->address);
	return net_batch_in(a->pid, text, !cut, cut ? e : NULL); /* to heal what is not cut is no error */
}

static int pair(struct lab *lab, struct lab_node *a, const char *other, bool cut, struct error *e)
{
	struct lab_node *b = lab_find(lab, other);
	int rc;

	if (!b || a == b)
		return error_set(e, ENOENT, "lab %s has no other node %s", lab->name, other);
	rc = deafen(a, b, cut, e);
	return rc == 0 || !cut ? deafen(b, a, cut, e) : rc;
}

static int cut_or_heal(const char *name, int argc, char **argv, bool cut)
{
	static struct lab lab;
	_cleanup_free_ char *port = NULL, *text = NULL;
	struct lab_node *n;
	struct error e = {0};
	int rc = 0;

	if (argc < 2 || argc > 3)
		return usage_error(cut ? "cut" : "heal");
	if (lab_use_node(&lab, name, argv[1], &n, &e) < 0)
		return fail(&e);
	if (argc == 3) {
		pair(&lab, n, argv[2], cut, &e);
		return e.code ? fail(&e) : 0;
	}
	port = port_of(&lab, n->name);
	text = cut ? xasprintf("link set %s nomaster\n", port) : xasprintf("link set %s master br0\n", port);
	rc = net_batch_in(lab.hub, text, false, &e);
	for (size_t i = 0; !cut && rc == 0 && i < lab.nnodes; i++) /* and whatever single cuts it had */
		if (&lab.node[i] != n)
			pair(&lab, n, lab.node[i].name, false, &e);
	return e.code ? fail(&e) : 0;
}

int cmd_cut(const char *name, int argc, char **argv)
{
	return cut_or_heal(name, argc, argv, true);
}

int cmd_heal(const char *name, int argc, char **argv)
{
	return cut_or_heal(name, argc, argv, false);
}

/* Has the hub run our own program as the forwarder; waits until it says that it forwards. It lives as long as the link `ws1-b`. */
static int forwarder_start(struct lab *lab, const char *node, double delay, double rate, struct error *e)
{
	_cleanup_close_ int sock = client_connect(lab, "hub", e), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int out[2], fds[3];
	char line[400];
	json_t *answer;
	ssize_t n;

	if (sock < 0)
		return sock;
	if (pipe2(out, O_CLOEXEC) < 0)
		return error_set(e, errno, "pipe: %s", strerror(errno));
	fds[0] = fds[2] = null;
	fds[1] = out[1];
	client_send(sock, json_pack("{s:s, s:[s,s,s,o,o]}", "verb", "exec", "argv", "/proc/1/exe", "link-forward", node, json_sprintf("%f", delay),
			  json_sprintf("%f", rate)), fds, 3);
	close(out[1]);
	answer = client_receive(sock, NULL);
	n = json_is_true(json_object_get(answer, "ok")) ? read(out[0], line, sizeof(line) - 1) : -1;
	json_decref(answer);
	close(out[0]);
	if (n <= 0)
		return error_set(e, EIO, "the link's forwarder did not start");
	line[n] = 0;
	return strcmp(line, "ready\n") == 0 ? 0 : error_set(e, EIO, "%s", line);
}

int cmd_link(const char *name, int argc, char **argv)
{
	static struct lab lab;
	_cleanup_free_ char *text = NULL;
	struct lab_node *n;
	struct error e = {0};
	double delay = 0, rate = 0;
	bool slow_now;

	for (int i = 2; i < argc; i += 2) {
		char *end = argv[i];
		if (i + 1 < argc && strcmp(argv[i], "--delay") == 0)
			delay = strtod(argv[i + 1], &end);
		else if (i + 1 < argc && strcmp(argv[i], "--rate") == 0)
			rate = strtod(argv[i + 1], &end);
		if (i + 1 < argc && end != argv[i] && (*end || !(delay >= 0 && rate >= 0 && delay <= 60000)))
			fprintf(stderr, "sprite-lab: link: %s: expected %s, found \"%s\"\n", argv[i], strcmp(argv[i], "--rate") ? "ms, 0 to 60000" : "Mbit/s", argv[i + 1]);
		if (*end || !(delay >= 0 && rate >= 0 && delay <= 60000))
			return usage_error("link");
	}
	if (argc < 2)
		return usage_error("link");
	if (lab_use_node(&lab, name, argv[1], &n, &e) < 0)
		return fail(&e);
	/* back to the plain cable; the forwarder ends when its port goes */
	slow_now = ({
		_cleanup_free_ char *port = xasprintf("%s-b", n->name);
		net_has_link(lab.hub, port);
	});
	text = slow_now ? xasprintf("link del %s-b\nlink set %s master br0\n", n->name, n->name) : xasprintf("link set %s master br0\n", n->name);
	if (net_batch_in(lab.hub, text, false, &e) < 0)
		return fail(&e);
	if (delay == 0 && rate == 0)
		return 0;
	/* hub side of a new pair: -b the bridge's, -f the forwarder's */
	free(text);
	text = xasprintf("link set %s nomaster\nlink add %s-b type veth peer name %s-f\nlink set %s-f up\nlink set %s-b master br0 up\n", n->name, n->name, n->name,
		n->name, n->name);
	if (net_batch_in(lab.hub, text, false, &e) < 0 || forwarder_start(&lab, n->name, delay, rate, &e) < 0)
		return fail(&e);
	return 0;
}
