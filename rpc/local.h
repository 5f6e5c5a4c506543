/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local control protocol: JSON, one object per line, over a unix stream socket in the run directory (migd.sock, spritefs.sock, spritefsd.sock).
 * A request is {"verb": "...", ...}; the answer is any number of {"progress": ...} or {"row": ...} lines and one final {"ok": true, ...} or
 * {"ok": false, "errno": N, "error": "text"}. Identity of the caller is SO_PEERCRED, never what it says (unix(7)).
 * This file uses jansson only, so that the command line needs no gRPC.
 */
#ifndef RPC_LOCAL_H
#define RPC_LOCAL_H
#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>
#include "conf/error.h"

#define LOCAL_LINE_MAX (1u << 20) /* bytes of a line with its newline, both ways */

/* Reads one line (without newline): a JSON object, a request must have a string "verb". NULL with e filled (EINVAL, EMSGSIZE). */
json_t *local_decode(const char *line, size_t len, bool request, struct error *e);

/* ---- client ---- */
/* Sends `request` (reference stolen), calls `row(arg, object)` for every line before the last (may be NULL), stores the final object in *answer
 * (caller json_decref()s). Returns 0, or -errno with e filled: -ENOENT/-ECONNREFUSED and e->absent when the daemon is not there,
 * -ECONNRESET when it died before it answered, -(errno of the answer) when ok is false, -EINVAL when request is NULL (json_pack() takes UTF-8 only). `answer` may be NULL. */
int local_call(const char *socket_path, json_t *request, void (*row)(void *arg, json_t *line), void *arg, json_t **answer, struct error *e);
/* The same, given up with -ECANCELED when stop_fd can be read (-1: never). */
int local_call_until(const char *socket_path, json_t *request, void (*row)(void *arg, json_t *line), void *arg, int stop_fd, json_t **answer, struct error *e);

/* The same, given up with -ETIMEDOUT when nothing has been heard for so long: for daemons that ask each other, none of which may hang with another. */
int local_call_within(const char *socket_path, json_t *request, void (*row)(void *arg, json_t *line), void *arg, int ms, json_t **answer, struct error *e);

/* ---- server ---- */
struct local_server;
struct local_conn; /* one request being answered */

struct local_cred {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};
/*
 * Runs in a thread of its own. `request` is borrowed and has a string "verb". Must call local_ok() or local_fail() before it returns; what it
 * forgets is answered with EIO. Root's {"verb": "heap"} never comes here: {"ok": true, "bytes": N}, what is allocated. A connection may carry several requests, one after the other.
 */
typedef void (*local_handler)(void *ctx, struct local_conn *c, const struct local_cred *who, json_t *request);

/*
 * Makes the socket with `mode` (its directory too if missing, 0755). -EADDRINUSE when another daemon answers there; a socket file that nobody
 * answers on is replaced. At most LOCAL_CONNS_PER_UID connections per user (root: no limit).
 */
int local_server_start(const char *socket_path, mode_t mode, local_handler fn, void *ctx, struct local_server **out, struct error *e);
/* Removes the socket, makes local_gone() true for all and waits for the requests under way. NULL is fine. */
void local_server_stop(struct local_server *s);
#define LOCAL_CONNS_PER_UID 64

/* These may be called from any thread until the handler returns. */
int local_row(struct local_conn *c, json_t *line);	/* steals; -EPIPE when the caller has gone, -EMSGSIZE */
void local_ok(struct local_conn *c, json_t *fields);	/* steals; may be NULL */
void local_fail(struct local_conn *c, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool local_gone(const struct local_conn *c); /* the caller has hung up (Ctrl-C) or the server is stopping: long requests look at it */
int local_conn_fd(const struct local_conn *c); /* for poll(2): POLLHUP when the caller hangs up; never read or write it */

#endif
