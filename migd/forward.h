/* SPDX-License-Identifier: Apache-2.0 */
/* System calls about processes that stayed at home: made in the caller's hollow, answered to the guest (engine/foreign.h, rpc Call). */
#ifndef MIGD_FORWARD_H
#define MIGD_FORWARD_H
#include <jansson.h>
#include "migd/family.h"
#include "rpc/rpc.h"

/* Guest host, in the actor: asks the home, and answers from a thread of its own. */
void forward_call(struct family *f, const struct eng_foreign *c, const void *data, size_t len);
/* Home: rpc Call. */
void forward_serve(void *ctx, struct rpc_request *rq);
/* Home, after a restart: what is known of a call that was made, or was to be made. */
void forward_replay(struct family *f, const json_t *record);

#endif
