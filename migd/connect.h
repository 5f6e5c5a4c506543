/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and datagrams to socket files of a home, of its processes that are away (engine/keeper_connect.c, relay/born.c). */
#ifndef MIGD_CONNECT_H
#define MIGD_CONNECT_H
#include "migd/family.h"
#include "rpc/rpc.h"

/* Home: an rpc Call of connect(2), of the family in its generation: makes the connection and keeps it as one more relay. Takes over the reference, and answers. */
void connect_serve(struct family *f, struct rpc_request *rq);
/* Home: sends it, for forward.c, which sees to it that this is done once: what sendto(2) says; -EAGAIN also where that would wait. Only what is valid. */
int64_t connect_send(struct family *f, const struct eng_foreign *c, const void *data, size_t len);
bool connect_send_valid(const struct eng_foreign *c);
/* Guest host: the home has it: an end that stands for it, or -errno. */
int connect_made(struct family *f, const struct eng_foreign *c);
void connect_taken(struct family *f, const struct eng_foreign *c); /* it has been handed to the caller; who asks again before that gets the same one */

#endif
