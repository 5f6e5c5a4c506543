/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recipes of mig make on other hosts. A slot that was granted gets a *worker*: sprite-sh, moved there at its exec like any command of mig run, once. It runs the recipes of that slot,
 * one after the other, as its children over there: a recipe costs a fork, and a message each way, where it cost a move.
 *
 *	agent (make_far.c) -> worker (far_work.c)	FAR_RUN, FAR_KILL
 *	worker -> agent					FAR_READY once, FAR_OUT and FAR_ERR, FAR_CLOSED for each of the two, FAR_END
 *
 * by two pipes, which are relayed: a struct far_frame, then `len` bytes. What a recipe is, as its shell would have begun: struct far_head, then strings, each with its NUL: the command
 * (which the agent learns by), the directory, the arguments, the environment. It has /dev/null as its input and no other descriptor; a recipe that needs more does not go this way.
 * The pipe's end, or SIGTERM, ends the worker when its recipe has ended; SIGINT, SIGQUIT and SIGTERM go to the recipe, which is a process group of its own.
 */
#ifndef MIGD_CLI_FAR_H
#define MIGD_CLI_FAR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

enum far_kind { FAR_RUN = 1, FAR_KILL, FAR_READY, FAR_OUT, FAR_ERR, FAR_CLOSED, FAR_END };
struct far_frame {
	uint32_t kind, recipe, len;
};
#define FAR_MAX (1u << 20) /* bytes of a frame */
#define FAR_TMP "/sprite/tmp" /* where it is, as wide open as /tmp, each worker has a directory of its own in it, which is TMPDIR to recipes that have none */

/* Who a process is, and where: what a worker has from the agent and cannot give to a recipe that has become another (sudo, sg, chroot, unshare, taskset around a make). */
struct far_self {
	uint32_t ids[4], personality, no_new_privs, policy;
	uint64_t groups, cpus; /* hashes */
	uint64_t root[2], spaces[6]; /* device and inode of /; namespaces */
};
struct far_head {
	struct far_self self;
	uint32_t able;	    /* it may go this way */
	uint32_t plain;	    /* the arguments are the command's words; a shell is not needed */
	uint32_t mask;	    /* umask */
	int32_t nice;
	uint32_t nargs, nenv;
	uint64_t ignored, blocked; /* signals: bit n - 1 */
	struct rlimit limits[RLIMIT_NLIMITS];
};
struct far_recipe {
	struct far_head head;
	char *command, *dir, **args, **env; /* in the bytes that it came in; args and env are one block to be freed: args */
};

void far_self(struct far_self *out);
/* Of this very process. The caller frees *out. 0 or -ENOMEM, -E2BIG. */
int far_pack(const char *command, char **args, bool plain, bool able, char **out, size_t *len);
/* 0, -EPROTO: not what far_pack() makes; -ENOMEM. */
int far_unpack(char *bytes, size_t len, struct far_recipe *out);

/* sprite-sh --far HOST: goes there and works; returns an exit status if it cannot. sprite-sh --work: the worker. */
int far_go(const char *host);
int far_work(void);

#endif
