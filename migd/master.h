/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's side: hosts that report, agents that ask. Every migd has one, but it answers only while this host holds the office (office.h). What it knows is
 * rebuilt when the office changes hands: hosts report within seconds, agents come back and adopt the slots that they hold.
 * Policy is select.h. Locking: one lock inside, never held over a call; any thread.
 */
#ifndef MIGD_MASTER_H
#define MIGD_MASTER_H
#include "migd/context.h"
#include "migd/select.h"
#include "rpc/master.pb-c.h"
#include "rpc/rpc.h"

struct master;
int master_open(struct migd *m, struct master **out);
void master_close(struct master *ms);
/* From the office's thread, every second: takes up or lays down the office, forgets hosts that have been silent. */
void master_tick(struct master *ms, bool holding);
void master_host(struct master *ms, const char *host, const Sprite__Master__Report *r);
/* rpc */
void master_serve_report(void *ctx, struct rpc_request *rq);
void master_serve_ask(void *ctx, struct rpc_stream *s);

#endif
