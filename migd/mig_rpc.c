// SPDX-License-Identifier: Apache-2.0
/* Method table of sprite.mig, see mig_rpc.h. */
#include "migd/mig_rpc.h"
#include <stdarg.h>
#include <stdio.h>

#define UNARY(n, i, o, m) { .name = "/sprite.mig/" n, .kind = RPC_UNARY, .mutates = m, .in = &sprite__mig__##i##__descriptor, .out = &sprite__mig__##o##__descriptor }
#define BULK(n, io) { .name = "/sprite.mig/" n, .kind = RPC_BIDI, .bulk = true, .in = &sprite__mig__##io##__descriptor, .out = &sprite__mig__##io##__descriptor }

const struct rpc_method mig_methods[MIG_METHODS] = {
	[MIG_STATUS] = UNARY("Status", status_req, status_rep, false),
	[MIG_PREPARE] = UNARY("Prepare", prepare_req, reply, true),
	[MIG_SEND] = UNARY("Send", send_req, send_rep, true),
	[MIG_RELEASE] = UNARY("Release", family_req, reply, true),
	[MIG_GO] = UNARY("Go", family_req, go_rep, true),
	[MIG_ABORT] = UNARY("Abort", family_req, reply, true),
	[MIG_SIGNAL] = UNARY("Signal", signal_req, reply, true),
	[MIG_REPORT] = UNARY("Report", report_req, reply, true),
	[MIG_SYNC] = UNARY("Sync", sync_req, sync_rep, false),
	[MIG_EVICT] = UNARY("Evict", evict_req, reply, true),
	[MIG_ENV] = UNARY("Env", env_req, env_rep, true),
	[MIG_CALL] = UNARY("Call", call_req, call_rep, true),
	[MIG_IMAGE] = BULK("Image", image_frame),
	[MIG_RELAY] = BULK("Relay", relay_frame),
	[MIG_MASTER_REPORT] = { .name = "/sprite.master/Report", .kind = RPC_UNARY, .in = &sprite__master__report__descriptor,
		.out = &sprite__master__report_rep__descriptor },
	[MIG_MASTER_ASK] = { .name = "/sprite.master/Ask", .kind = RPC_BIDI, .in = &sprite__master__frame__descriptor, .out = &sprite__master__frame__descriptor },
};

void mig_reply(struct rpc_request *rq, int err, const char *fmt, ...)
{
	Sprite__Mig__Reply rep = SPRITE__MIG__REPLY__INIT;
	char text[480];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	rep.text = text;
	rpc_reply(rq, err, &rep.base, NULL, 0, NULL, NULL);
}
