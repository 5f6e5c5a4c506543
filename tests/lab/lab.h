/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sprite-lab: a cluster of nodes on one machine, made of namespaces.
 *
 * Parts:
 *   hub    pid 1 of the lab's own pid namespace, in the lab's own network namespace (with the bridge). Every other process of a lab is its descendant, so
 *          the death of the hub ends them all, and with them every mount, link and namespace: nothing is pinned by a file.
 *   init   pid 1 of a node: starts the daemons, runs what `exec` asks for, reaps.
 *   command  the sprite-lab that the user typed: talks to hub and inits through a unix SEQPACKET socket each (server.c), one JSON object per packet.
 *
 * What a lab leaves outside its namespaces: /run/sprite-lab/NAME (state, sockets, certificates), /var/tmp/sprite-lab/NAME@RUN (the servers' disks) and cgroups
 * called sprite-lab/NAME@RUN. lab_clear() removes all three, whatever state they are in. RUN tells which /run it is that knows of the lab: control groups, and perhaps
 * /var/tmp, are the whole machine's, and a chroot or a container on it may have a lab of the same name.
 */
#ifndef LAB_LAB_H
#define LAB_LAB_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "conf/cleanup.h"
#include "conf/error.h"

#define LAB_RUN	      "/run/sprite-lab"
#define LAB_DISK      "/var/tmp/sprite-lab"
#define LAB_NODES_MAX 120
#define LAB_FAILURE   125 /* exit status of sprite-lab's own failures in `exec`, as env(1) and mig(1) have it */
#define LAB_BIN	      "/opt/sprite/bin" /* where a node sees our programs */

struct lab_node {
	char name[16];
	bool server;
	int index;	 /* 0.. over all nodes */
	char address[32];
	pid_t pid;	 /* of its init, in the pid namespace of the reader; 0: not known */
};

struct lab {
	char name[32];
	char tag[72];	 /* NAME@RUN */
	char dir[64];	 /* LAB_RUN/NAME */
	char disk[96];	 /* LAB_DISK/NAME@RUN */
	char bindir[512]; /* our programs */
	int lock;	 /* fd of dir, flock'ed by commands that change the lab; -1 */
	int disk_lock;	 /* hub: fd of disk, flock'ed; -1 */
	int subnet;	 /* 10.77.subnet.0/24 */
	pid_t hub;
	uint64_t hub_start; /* field 22 of /proc/PID/stat, so that a reused pid is not taken for the hub */
	struct lab_node node[LAB_NODES_MAX];
	size_t nnodes;
};

/* What `up` was asked for; kept in memory only, inherited by hub and nodes. */
struct lab_options {
	int workstations, servers;
	const char *store_size; /* tmpfs of this size as the servers' disk; NULL: a directory on disk where that can have file handles */
	const char *bind[32];	/* "SRC:DST", seen read-only by every node */
	size_t nbind;
	const char *cpu_hide[32]; /* "NODE=feature,feature" */
	size_t ncpu_hide;
};

/* state.c */
int lab_open(struct lab *lab, const char *name, struct error *e); /* fills names and, when there is a state, the rest; -ENOENT: no state */
int lab_lock(struct lab *lab, bool create, struct error *e);
int lab_save(const struct lab *lab, struct error *e);
bool lab_alive(const struct lab *lab);
int lab_clear(struct lab *lab, struct error *e);
int lab_disk_make(struct lab *lab, struct error *e); /* hub: the servers' disks, locked */
int lab_free_subnet(void);
struct lab_node *lab_find(struct lab *lab, const char *node);
/* For commands on a running lab: opened, alive, or an error that says what to do. */
int lab_use(struct lab *lab, const char *name, struct error *e);
int lab_use_node(struct lab *lab, const char *name, const char *node, struct lab_node **out, struct error *e);
uint64_t proc_start_time(pid_t pid); /* 0: no such process, or dead */

/* util.c */
int write_file(const char *path, const char *text, mode_t mode);
int read_file(const char *path, char *buf, size_t size); /* bytes read, NUL-terminated, or -errno */
int make_dirs(const char *path, mode_t mode);		 /* mkdir -p; 0 when it is there */
int remove_tree(const char *path, struct error *e);	 /* stays on one filesystem; of any depth */
int copy_file(const char *from, const char *to, mode_t mode);
int run_program(const char *const *argv, const char *input, struct error *e); /* waits; output goes into e when it fails */
void *xcalloc(size_t n, size_t size);						/* of memory there is none: says so and exits */
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* cgroup.c */
int cgroup_node_create(const struct lab *lab, const char *node, struct error *e);
int cgroup_node_join(const struct lab *lab, const char *node, struct error *e); /* the caller; then, in its new cgroup namespace: */
int cgroup_node_settle(void);			      /* moves the caller to the leaf `init`, so that controllers can be turned on below the root */
int cgroup_node_mount(const char *root, struct error *e); /* /sys/fs/cgroup of a node */
int cgroup_node_cpu(const struct lab *lab, const char *node, int percent, struct error *e);
int cgroup_lab_remove(const struct lab *lab); /* kills what is left in them; -EBUSY if something does not die */
void cgroup_probe(void);

/* node.c, etc.c, pki.c, net.c */
/* Forks the node's starter, which ends when the node's init runs. Through *channel come two struct errors (code 0: well): namespaces made, init listening;
 * between them it waits for a byte that says that its end of the cable is there. */
int node_spawn(const struct lab *lab, const struct lab_node *n, const struct lab_options *o, int *channel, pid_t *starter, struct error *e);
int etc_write(const struct lab *lab, const struct lab_node *n, const struct lab_options *o, const char *root, struct error *e);
int pki_create(const struct lab *lab, struct error *e);
int net_hub_create(const struct lab *lab, const pid_t *starter, struct error *e);
int net_node_up(const struct lab_node *n, struct error *e);
int net_batch_in(pid_t pid, const char *commands, bool force, struct error *e); /* `ip -batch` in pid's network namespace */
bool net_has_link(pid_t pid, const char *link);
int link_forward_main(int argc, char **argv);

/* fuse.c */
size_t fuse_connections(const struct lab *lab, unsigned *minor, size_t room);
void fuse_abort(const unsigned *minor, size_t n);

/* hub.c */
int hub_start(struct lab *lab, const struct lab_options *o, int *keep, struct error *e);

/* server.c: the loop of hub and inits. Never returns. */
/* Prints the end of a daemon's log, or a sanitizer's report in it: whoever sees `up` or `down` fail has nothing else, the node goes. */
void log_show_end(const struct lab_node *n, const char *daemon);
/* Has a sanitizer said something in it? How the daemon ended need not show that: spritefs is started again by its holder. */
bool log_reported(const struct lab_node *n, const char *daemon);

struct server_options {
	const struct lab_node *node; /* NULL: the hub */
	int listener;
	int leash;     /* hub: the read end of `up`'s pipe: end of file before a byte means that `up` died; -1: none */
	int lock;      /* hub: the lab's lock, given up with that byte; -1: none */
	void (*abandon)(void *arg); /* what to do then, after everything has been killed */
	void *arg;
};
void server_run(const struct server_options *o) __attribute__((noreturn));
int server_listen(const char *path, struct error *e);

/* client.c: the other end of it */
int client_connect(const struct lab *lab, const char *node, struct error *e);
int client_send(int sock, json_t *message, const int *fds, size_t nfds); /* steals message */
json_t *client_receive(int sock, int *fd);				  /* NULL: hung up. *fd: what came along, -1 */
int client_call(const struct lab *lab, const char *node, json_t *request, json_t **answer, struct error *e);

/* commands: argv[0] is the command's name; return the exit status */
int cmd_up(const char *lab, int argc, char **argv);
int cmd_down(const char *lab, int argc, char **argv);
int cmd_ls(const char *lab, int argc, char **argv);
int cmd_exec(const char *lab, int argc, char **argv);
int cmd_logs(const char *lab, int argc, char **argv);
int cmd_kill(const char *lab, int argc, char **argv);
int cmd_start(const char *lab, int argc, char **argv);
int cmd_input(const char *lab, int argc, char **argv);
int cmd_cut(const char *lab, int argc, char **argv);
int cmd_heal(const char *lab, int argc, char **argv);
int cmd_link(const char *lab, int argc, char **argv);
int cmd_cpu(const char *lab, int argc, char **argv);
int fail(const struct error *e);	      /* prints, returns 1 */
int usage_error(const char *command); /* prints the command's usage, returns 2 */

#endif
