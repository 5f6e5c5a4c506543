/* SPDX-License-Identifier: Apache-2.0 */
/* rpc Status: what this host says of itself (host_own_status() in hosts.h). */
#ifndef MIGD_STATUS_H
#define MIGD_STATUS_H
#include "rpc/rpc.h"
void status_serve(void *ctx, struct rpc_request *rq);
#endif
