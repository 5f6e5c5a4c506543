/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hub: pid 1 of the lab. `up` forks it into new pid, mount and network namespaces; it makes certificates, bridge and nodes, then serves (for `link`) until it
 * dies. All that `up` starts is started by the hub, so that nothing of it outlives the hub.
 * Leash: it holds a pipe to `up`, and the lab's lock, until `up` writes a byte (the lab is complete). End of file before that means that `up` was killed: the
 * hub ends the nodes and removes what `up` would have removed; whoever comes meanwhile waits for the lock.
 */
#include "lab.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Reads one report of a node's starter. */
static int report_read(int channel, const char *node, struct error *e)
{
	struct error r;
	ssize_t n = read(channel, &r, sizeof(r));

	if (n != sizeof(r))
		return error_set(e, EPIPE, "%s: its starter died", node);
	return r.code ? error_set(e, r.code, "%s: %s", node, r.text) : 0;
}

static int make_nodes(struct lab *lab, const struct lab_options *o, struct error *e)
{
	pid_t starter[LAB_NODES_MAX];
	int channel[LAB_NODES_MAX], rc = 0;
	size_t made = 0;

	for (; rc == 0 && made < lab->nnodes; made++)
		rc = node_spawn(lab, &lab->node[made], o, &channel[made], &starter[made], e);
	if (rc < 0)
		made--;
	for (size_t i = 0; rc == 0 && i < made; i++)
		rc = report_read(channel[i], lab->node[i].name, e);
	if (rc == 0)
		rc = net_hub_create(lab, starter, e);
	for (size_t i = 0; rc == 0 && i < made; i++)
		if (write(channel[i], "n", 1) != 1)
			rc = report_read(channel[i], lab->node[i].name, e);
	for (size_t i = 0; rc == 0 && i < made; i++)
		rc = report_read(channel[i], lab->node[i].name, e);
	for (size_t i = 0; i < made; i++)
		close(channel[i]);
	return rc;
}

static void abandon(void *arg)
{
	struct lab *lab = arg;

	lab->hub = 0; /* that is us */
	if (lab->disk_lock >= 0)
		close(lab->disk_lock);
	lab_clear(lab, NULL);
}

static void __attribute__((noreturn)) hub_main(struct lab *lab, const struct lab_options *o, int leash, int report)
{
	_cleanup_free_ char *path = xasprintf("%s/hub.sock", lab->dir);
	struct error e = {0};
	int listener = -1, null;

	prctl(PR_SET_NAME, "lab-hub");
	setsid();
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, 0);
	dup2(null, 1);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		error_set(&e, errno, "mount /proc of the lab: %s", strerror(errno));
	if (!e.code)
		pki_create(lab, &e);
	if (!e.code)
		lab_disk_make(lab, &e);
	for (size_t i = 0; !e.code && i < lab->nnodes; i++)
		cgroup_node_create(lab, lab->node[i].name, &e);
	if (!e.code)
		make_nodes(lab, o, &e);
	if (!e.code)
		listener = server_listen(path, &e);
	if (write(report, &e, sizeof(e)) != sizeof(e) || e.code)
		leash = leash < 0 ? leash : open("/dev/null", O_RDONLY | O_CLOEXEC); /* end of file at once: abandon */
	close(report);
	dup2(null, 2);
	server_run(&(struct server_options){.listener = listener, .leash = leash, .lock = lab->lock, .abandon = abandon, .arg = lab});
}

/* Returns when all nodes' inits listen. *keep: the write end of the leash; write one byte to let the lab live on without us. */
int hub_start(struct lab *lab, const struct lab_options *o, int *keep, struct error *e)
{
	int leash[2], report[2];
	struct error r = {0};

	if (pipe2(leash, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0)
		return error_set(e, errno, "pipe: %s", strerror(errno));
	lab->hub = syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | SIGCHLD, NULL, NULL, NULL, NULL); /* fork(2) into new namespaces */
	if (lab->hub == 0) {
		close(leash[1]);
		close(report[0]);
		hub_main(lab, o, leash[0], report[1]);
	}
	close(leash[0]);
	close(report[1]);
	*keep = leash[1];
	if (lab->hub < 0) {
		lab->hub = 0;
		close(report[0]);
		return error_set(e, errno, "clone: new namespaces: %s", strerror(errno));
	}
	lab->hub_start = proc_start_time(lab->hub);
	if (lab_save(lab, e) == 0 && read(report[0], &r, sizeof(r)) != sizeof(r))
		error_set(&r, EPIPE, "the lab's hub died");
	close(report[0]);
	return e->code ? -e->code : r.code ? error_set(e, r.code, "%s", r.text) : 0;
}
