/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent of one mig make: a thread beside make(1) that gives recipes (sprite-sh, cmd_shell.c) their places, keeps each recipe's output whole, and
 * lets make's parallelism follow the slots that migd grants, by putting tokens into make's job server and taking them out (GNU make manual, "POSIX Jobserver").
 *
 * A recipe's shell connects to `path` (a unix socket in a directory that only its owner may enter), sends what it is to run (u32 length, bytes: far.h) with its standard output
 * and error (SCM_RIGHTS), and gets either "@": a worker runs it on another host, and its wait status comes when it has; or the name of a host, with its NUL (empty: here),
 * and two pipes to write to instead, and execs. What a shell does at once and by itself is not asked for: it writes under the lock (flock) on the file "lock" beside the
 * socket, as the agent does when it passes output on.
 */
#ifndef MIGD_CLI_MAKE_AGENT_H
#define MIGD_CLI_MAKE_AGENT_H
#include <stdbool.h>
#include "conf/error.h"

struct make_agent;
struct make_opts {
	unsigned local;	 /* recipes that run here at a time, at least 1 */
	unsigned remote; /* slots to ask for, 0 = none */
	bool verbose;
	const char *priority; /* low, normal, high */
};
/* Its directory and socket; no thread yet: until it is started, its caller may change the environment and the directory. jobs[2]: make's job server: read and write end. */
int make_agent_new(const struct make_opts *o, const int jobs[2], struct make_agent **out, struct error *e);
int make_agent_start(struct make_agent *a, struct error *e);
const char *make_agent_path(const struct make_agent *a);
/* After make has ended (or when it was not started): passes on what is left of the output, gives the slots back. */
void make_agent_stop(struct make_agent *a);

#endif
