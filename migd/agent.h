/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asker's side of host selection: holds slots that the master gave, over a stream that is opened anew, and the slots adopted, when the master changes.
 *
 * Control verbs (migd.sock):
 *   {"verb":"ask","want":N,"priority":"low|normal|high","wait":bool,"host":H,"not_host":H}  stays open as long as the asker wants its slots; rows:
 *       {"agent":A}  {"granted":{"id":S,"host":H}}  {"answered":{"granted":N}}  {"reclaim":{"id","host"}}  {"lost":{"id","host"}}  {"master":"NAME"}
 *   {"verb":"more","agent":A,"want":N,"wait":bool,"priority":P}  asks for more on that agent
 *   {"verb":"release","agent":A,"id":S}                gives one back
 * Only the uid that asked may use an agent. Closing the connection gives everything back.
 *
 * Locking: the table's lock, then one agent's; neither is held over a call.
 */
#ifndef MIGD_AGENT_H
#define MIGD_AGENT_H
#include <stdint.h>
#include <sys/types.h>
#include "migd/context.h"

struct agents;
int agents_open(struct migd *m, struct agents **out);
void agents_close(struct agents *t);

void agent_verb_ask(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq);
void agent_verb_more(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq);
void agent_verb_release(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq);

/*
 * One slot for a process of uid that migd itself places (no host was named). *host is malloc'ed, *slot is for agent_leave(). -EBUSY: nobody is idle;
 * -EHOSTDOWN: no master answers (choose without one). not_host may be NULL.
 */
int agent_place(struct migd *m, uid_t uid, uint32_t priority, const char *not_host, char **host, uint64_t *slot, struct error *e);
void agent_leave(struct migd *m, uint64_t slot); /* 0 is ignored */
/* "low", "normal", "high" (NULL: normal), for a user who may have it. -EINVAL, -EPERM with e filled. */
int agent_priority(const char *word, uid_t uid, struct error *e);

#endif
