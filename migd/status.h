/* SPDX-License-Identifier: Apache-2.0 */
/* rpc Status: what this host says of itself (host_own_status() in hosts.h). */
#ifndef MIGD_STATUS_H
#define MIGD_STATUS_H
#include "migd/context.h"
#include "rpc/rpc.h"
void status_serve(void *ctx, struct rpc_request *rq);
/* Of this host, without those that are hidden (cpu_hide). */
const char *status_cpu_features(struct migd *m);
#endif
