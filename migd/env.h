/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared environment (envset.h) of processes: at their home from its table, elsewhere by a call to the home (Env), so that every process of a family
 * sees the same values wherever it runs. Kept in $state_dir/env.json over restarts of migd, not over reboots.
 *
 * Control verb (migd.sock), for mig env and for spritefs (/sprite/.sprite/env):
 *   {"verb":"env","op":"list"|"get"|"set"|"unset","name":N,"value":V,"pid":P}   pid: another process of the caller's (root: any), a guest here too
 *   rows {"name","value"} for list; {"ok":true,"value":V} for get
 * Locking: one lock inside, not held over calls; any thread.
 */
#ifndef MIGD_ENV_H
#define MIGD_ENV_H
#include "migd/context.h"
#include "rpc/rpc.h"

struct envs;
int envs_open(struct migd *m, struct envs **out);
void env_verb(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq);
/* All variables of a process of this home as an object (new), for mig run; from_session: the session that it has just left for one of its own, 0: none. */
json_t *env_of_command(struct migd *m, pid_t pid, uid_t uid, pid_t from_session);
/* rpc: a guest host asks for a family of ours */
void env_serve(void *ctx, struct rpc_request *rq);

#endif
