// SPDX-License-Identifier: Apache-2.0
/*
 * The control socket: JSON lines of rpc/local.h.
 *
 *	{"verb": "status"}	what this mount is and how it does: {"mount", "prefix", "pid", "attached", "servers": [...], "ops": {...}, "pipes": {...}}
 *	{"verb": "elect", "office": ..., "value": ..., "term": N, "holding": BOOL, "resign": BOOL}   (root only) an election on the root server:
 *				{"holder", "value", "term", "you", "ttl_ms"}; at most a second
 *	{"verb": "pipe", "do": "known"|"hold"|"unhold"|"pledge"|"take", "pid", "fd", "token", "r", "w", "size"}   (root only; hold: {"size"}) see pipe_agent.h
 *	{"verb": "prefixes"}	the table, one row a prefix: {"prefix", "server", "host", "port", "domain", "home", "mig_port"}
 */
#include "fs/client/client.h"
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>
#include "fs/client/pipe_agent.h"

/* What was called, and in *batched what was done as parts of batches. */
static json_t *ops_json(struct fs *fs, json_t *batched)
{
	json_t *o = json_object();
	int i;

	for (i = 0; i < FS_NOPS; i++) {
		uint64_t n = fs->count[i];

		if (fs->batched[i])
			json_object_set_new(batched, call_op_name(i), json_integer((json_int_t)fs->batched[i]));
		if (n)
			json_object_set_new(o, call_op_name(i), json_pack("{s:I,s:f}", "calls", (json_int_t)n, "mean_us", (double)fs->nanos[i] / (double)n / 1e3));
	}
	return o;
}

static json_t *servers_json(struct fs *fs)
{
	json_t *a = json_array();
	struct server *s;

	pthread_mutex_lock(&fs->table_lock);
	list_each(s, &fs->servers, link)
		json_array_append_new(a, json_pack("{s:s,s:s,s:i,s:b}", "name", s->name, "host", s->addr.host, "port", s->addr.port, "up", (int)s->up));
	pthread_mutex_unlock(&fs->table_lock);
	return a;
}

static json_t *pipes_json(struct fs *fs)
{
	uint64_t n[2];

	pipe_agent_carried(fs, n);
	return json_pack("{s:I,s:I}", "by_server", (json_int_t)n[0], "direct", (json_int_t)n[1]);
}

static void status(struct fs *fs, struct local_conn *c)
{
	json_t *batched = json_object();
	bool attached;

	pthread_mutex_lock(&fs->wait_lock);
	attached = fs->root->dom->attached;
	pthread_mutex_unlock(&fs->wait_lock);
	local_ok(c, json_pack("{s:s,s:s,s:i,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:o}", "mount", fs->mount, "prefix", fs->prefix, "pid", (int)getpid(), "attached",
			    attached, "restarts", (json_int_t)keep_head()->restarts, "inodes", (json_int_t)inode_count(fs), "calls", (json_int_t)fs->calls,
			    "retries", (json_int_t)fs->retries, "recalls", (json_int_t)fs->recalls, "epochs", (json_int_t)fs->epochs, "local_opens",
			    (json_int_t)fs->local_opens, "local_lookups", (json_int_t)fs->local_lookups, "local_listings", (json_int_t)fs->local_listings, "local_absent",
			    (json_int_t)fs->local_absent, "local_attrs", (json_int_t)fs->local_attrs, "dirty_bytes", (json_int_t)fs->dirty_bytes,
			    "servers", servers_json(fs), "ops", ops_json(fs, batched), "batched", batched, "pipes", pipes_json(fs)));
}

static void row(void *arg, const struct pnode *p, const char *path)
{
	const struct domain *d = p->dom;

	(void)path;
	json_array_append_new(arg, json_pack("{s:s,s:s,s:s,s:i,s:I,s:b,s:i}", "prefix", d->prefix, "server", d->server->name, "host", d->server->addr.host,
					   "port", d->server->addr.port, "domain", (json_int_t)d->id, "home", d->home, "mig_port", (int)d->mig_port));
}

static void prefixes(struct fs *fs, struct local_conn *c)
{
	json_t *all = json_array(), *one;
	size_t i;

	prefix_rows(fs, row, all);
	json_array_foreach(all, i, one)
		local_row(c, json_incref(one));
	json_decref(all);
	local_ok(c, json_pack("{s:b,s:I}", "known", fs->table_known, "version", (json_int_t)fs->version));
}

static void elect(struct fs *fs, struct local_conn *c, const struct local_cred *who, json_t *request)
{
	Sprite__Fs__ElectReq m = SPRITE__FS__ELECT_REQ__INIT;
	Sprite__Fs__ElectRep *rep;
	struct rpc_msg out;
	int r;

	if (who->uid != 0) {
		local_fail(c, EPERM, "only root may stand for an office");
		return;
	}
	m.office = (char *)json_string_value(json_object_get(request, "office"));
	m.value = (char *)json_string_value(json_object_get(request, "value"));
	m.term = (uint64_t)json_integer_value(json_object_get(request, "term"));
	m.holding = json_is_true(json_object_get(request, "holding"));
	m.resign = json_is_true(json_object_get(request, "resign"));
	if (!m.office) {
		local_fail(c, EINVAL, "elect: no office");
		return;
	}
	if (!m.value)
		m.value = "";
	r = rpc_call(fs->root_server->meta, &fs_methods[FS_ELECT], &m.base, NULL, 0, 1000, &out);
	if (r < 0) {
		local_fail(c, -r, "root server %s: %s", fs->root_server->name, strerror(-r));
		return;
	}
	rep = (Sprite__Fs__ElectRep *)out.msg;
	if (out.err)
		local_fail(c, out.err, "root server %s: %s", fs->root_server->name, strerror(out.err));
	else
		local_ok(c, json_pack("{s:s,s:s,s:I,s:b,s:i,s:i}", "holder", rep->holder, "value", rep->value, "term", (json_int_t)rep->term, "you", rep->you,
				    "ttl_ms", (int)rep->ttl_ms, "left_ms", (int)rep->left_ms));
	rpc_msg_clear(&out);
}

static void pipe_move(struct fs *fs, struct local_conn *c, const struct local_cred *who, json_t *request)
{
	static const char *const verbs[] = {[PIPE_KNOWN] = "known", [PIPE_HOLD] = "hold", [PIPE_UNHOLD] = "unhold", [PIPE_PLEDGE] = "pledge", [PIPE_TAKE] = "take"};
	const char *what = "";
	json_int_t pid = 0, fd = -1, token = 0;
	int v = 0, r = 0, w = 0, size = 0;

	if (who->uid != 0) {
		local_fail(c, EPERM, "only root may move ends of pipes");
		return;
	}
	json_unpack(request, "{s?s, s?I, s?I, s?I, s?b, s?b, s?i}", "do", &what, "pid", &pid, "fd", &fd, "token", &token, "r", &r, "w", &w, "size", &size);
	while (v <= PIPE_TAKE && strcmp(verbs[v], what))
		v++;
	if (v > PIPE_TAKE || pid <= 0 || pid > INT_MAX || fd > INT_MAX) {
		local_fail(c, EINVAL, "pipe: \"do\" must be known, hold, unhold, pledge or take, \"pid\" a process");
		return;
	}
	r = pipe_agent_call(fs, who->pid, (enum pipe_verb)v, (pid_t)pid, (int)fd, (uint64_t)token, r, w, size);
	if (r == -EOPNOTSUPP)
		local_fail(c, EOPNOTSUPP, "descriptor %d of process %d is no named pipe of a served domain", (int)fd, (int)pid);
	else if (r == -EBUSY)
		local_fail(c, EBUSY, "much is still unread in the named pipe (descriptor %d of process %d): try again later", (int)fd, (int)pid);
	else if (r < 0)
		local_fail(c, -r, "named pipe (descriptor %d of process %d): %s", (int)fd, (int)pid, strerror(-r));
	else
		local_ok(c, json_pack("{s:i}", "size", r));
}

static void handle(void *ctx, struct local_conn *c, const struct local_cred *who, json_t *request)
{
	const char *verb = json_string_value(json_object_get(request, "verb"));

	if (!verb)
		local_fail(c, EINVAL, "no verb");
	else if (!strcmp(verb, "status"))
		status(ctx, c);
	else if (!strcmp(verb, "prefixes"))
		prefixes(ctx, c);
	else if (!strcmp(verb, "elect"))
		elect(ctx, c, who, request);
	else if (!strcmp(verb, "pipe"))
		pipe_move(ctx, c, who, request);
	else
		local_fail(c, EOPNOTSUPP, "unknown verb \"%s\" (known: status, prefixes, elect, pipe)", verb);
}

int ctl_start(struct fs *fs, const char *path, struct error *e)
{
	return local_server_start(path, 0666, handle, fs, &fs->ctl, e);
}
