/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lab's network: one network namespace with a bridge (the hub's), and per node a veth whose far end, called as the node, is a port of that bridge. Host and
 * lab share no link. Links are made and changed by `ip -batch` (iproute2), addresses by the classic ioctls (netdevice(7)), to spare a process per node.
 */
#include "lab.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

static int batch(const char *commands, bool force, struct error *e)
{
	const char *const strict[] = {"ip", "-batch", "-", NULL}, *const lax[] = {"ip", "-force", "-batch", "-", NULL};

	return run_program(force ? lax : strict, commands, e);
}

/* Called by the hub, in its namespaces. starter[i]: pid of a process in the network namespace of node i. */
int net_hub_create(const struct lab *lab, const pid_t *starter, struct error *e)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	int rc;

	if (!f)
		return error_set(e, ENOMEM, "no memory left");
	fprintf(f, "link set lo up\nlink add br0 type bridge stp_state 0 mcast_snooping 0\nlink set br0 up\n");
	for (size_t i = 0; i < lab->nnodes; i++) {
		const char *name = lab->node[i].name;
		fprintf(f, "link add %s type veth peer name eth0 netns %d\nlink set %s master br0 up\n", name, starter[i], name);
	}
	fclose(f);
	rc = batch(text, false, e);
	free(text);
	return rc;
}

static int interface_up(int sock, const char *name, const char *address)
{
	struct ifreq r = {0};
	struct sockaddr_in *in = (struct sockaddr_in *)&r.ifr_addr;

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (address) {
		in->sin_family = AF_INET;
		inet_pton(AF_INET, address, &in->sin_addr);
		if (ioctl(sock, SIOCSIFADDR, &r) < 0)
			return -errno;
		inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
		if (ioctl(sock, SIOCSIFNETMASK, &r) < 0)
			return -errno;
	}
	if (ioctl(sock, SIOCGIFFLAGS, &r) < 0)
		return -errno;
	r.ifr_flags |= IFF_UP;
	return ioctl(sock, SIOCSIFFLAGS, &r) < 0 ? -errno : 0;
}

int net_node_up(const struct lab_node *n, struct error *e)
{
	_cleanup_close_ int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc = sock < 0 ? -errno : interface_up(sock, "lo", NULL);

	if (rc == 0)
		rc = interface_up(sock, "eth0", n->address);
	return rc < 0 ? error_set(e, -rc, "%s: its network: %s", n->name, strerror(-rc)) : 0;
}

static int enter_net(pid_t pid)
{
	char path[64];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 || setns(fd, CLONE_NEWNET) < 0 ? -errno : 0;
}

/* Runs fn in a child in pid's network namespace; what it returns (0..255) is returned, or -errno. */
static int in_net(pid_t pid, int (*fn)(void *arg), void *arg)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return -errno;
	if (child == 0)
		_exit(enter_net(pid) < 0 ? 255 : fn(arg));
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
}

int net_batch_in(pid_t pid, const char *commands, bool force, struct error *e)
{
	struct error *shared = e;
	int report[2], status;
	struct error text = {0};
	pid_t child;

	if (pipe2(report, O_CLOEXEC) < 0)
		return error_set(e, errno, "pipe: %s", strerror(errno));
	child = fork();
	if (child == 0) {
		int rc = enter_net(pid);
		if (rc < 0)
			error_set(&text, -rc, "network namespace of process %d: %s", pid, strerror(-rc));
		else
			rc = batch(commands, force, &text);
		if (write(report[1], &text, sizeof(text)) < 0)
			_exit(1);
		_exit(rc < 0);
	}
	close(report[1]);
	if (child < 0 || read(report[0], &text, sizeof(text)) != sizeof(text))
		error_set(&text, EIO, "ip -batch: no answer");
	close(report[0]);
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return text.code ? error_set(shared, text.code, "%s", text.text) : 0;
}

static int link_there(void *arg)
{
	return if_nametoindex(arg) != 0;
}

bool net_has_link(pid_t pid, const char *link)
{
	return in_net(pid, link_there, (void *)link) == 1;
}
