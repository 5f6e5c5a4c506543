/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases at work: what consist.h decides, applied to operations. A handler says what it needs before it touches anything (lease_begin()); when
 * acknowledgements are outstanding it returns OP_PARK, and is run again from its start when they are in. Grants go out with the replies.
 *
 * Home domains are used natively by their home and know no leases: for them every call here does nothing.
 */
#ifndef FS_SERVER_LEASE_H
#define FS_SERVER_LEASE_H
#include "fs/server/consist.h"
#include "fs/server/op.h"

int leases_start(struct fsd *d);
/* After the rpc server has stopped taking calls: parked operations are answered ESTALE. */
void leases_stop(struct fsd *d);

/* Runs the operation on one of the runners. */
void lease_requeue(struct fsd *d, struct op *o);

/* This client takes leases from now on. */
void lease_client_add(struct op *o, bool ack_now);
void lease_client_gone(struct fsd *d, uint64_t client);
/* `s`: the stream that it came by, whose next frame may be taken at the same time. */
void lease_ack(struct fsd *d, uint64_t client, uint64_t id, struct rpc_stream *s);
/* Its stream is there again: sends what it has not acknowledged. */
void lease_repeat(struct fsd *d, uint64_t client);
/* Once a second: clients that owe an acknowledgement for too long (fn is called without a lock). */
void lease_overdue(struct fsd *d, uint64_t since, void (*fn)(struct fsd *d, uint64_t client));
bool lease_owes(struct fsd *d, uint64_t client);
size_t lease_count(struct fsd *d, uint64_t client);
void lease_totals(struct fsd *d, size_t *leases, uint64_t *recalls, size_t *owed); /* owed: recalls that nobody has acknowledged yet */

static inline struct cs_key lease_key(const struct stat *st)
{
	return (struct cs_key){st->st_dev, st->st_ino};
}
/* Of a directory from op_begin_dir(). */
static inline struct cs_key lease_dir_key(const struct object *dir)
{
	return (struct cs_key){dir->dev, dir->ino};
}
static inline struct cs_need lease_change(struct cs_key key, uint32_t breaks, const char *name)
{
	return (struct cs_need){.key = key, .breaks = breaks, .change = true, .name = name};
}

/* 0: go on. OP_PARK: return it at once. -ESTALE: the client was given up. */
int lease_begin(struct op *o, const struct export *ex, const struct cs_need *need, int n);
/* The same for one who only looks at attributes (or, `settle`, at contents that will be kept). */
int lease_look(struct op *o, const struct export *ex, struct cs_key key, bool settle);
/* The same, when no change of it is being applied: what is told can be granted, most likely. */
int lease_look_calm(struct op *o, const struct export *ex, struct cs_key key);
/* Before names of a directory are told. */
int lease_look_dir(struct op *o, const struct object *dir);
/* Somebody else has changes of this object that the server does not know. */
bool lease_hidden(struct op *o, const struct export *ex, struct cs_key key);
/*
 * Of these objects, those that others would have to give up something of, so that the client may look at them or (alone) have them alone: fills `hopes` (room for n), which can be
 * part of what the operation begins with. Returns how many.
 */
int lease_hopes(struct op *o, const struct export *ex, const struct cs_key *keys, int n, bool alone, struct cs_need *hopes);
/* Called by op.c before every answer. */
void lease_end(struct op *o);
/* The change has been applied, with `early`: does it linger (consist.h, rule 9)? CS_LINGERS: then op_done_lingering(). */
enum cs_after lease_linger(struct op *o);
/* Waits for what lingers of the file: 0, OP_PARK, -errno. */
int lease_settle(struct op *o, const struct export *ex, struct cs_key key);

/* Grants; returns the bits. State must be read after this. `seq` may be left alone when 0 is returned. */
uint32_t lease_grant(struct op *o, const struct export *ex, struct cs_key key, ProtobufCBinaryData handle, uint32_t bits, bool shared_ok,
	uint64_t *seq);
/* The client gives up `bits` of itself; *seq: grants with lower ones are void. */
void lease_release(struct op *o, const struct export *ex, struct cs_key key, uint32_t bits, uint64_t *seq);
/*
 * NAMES and ATTR of a directory that the request named by `handle`; with CS_WRITE in `want` that too, if its client may then judge by itself who may
 * make names there: nothing but the mode decides, and nobody else has anything of the directory.
 */
uint32_t lease_grant_dir(struct op *o, const struct object *dir, ProtobufCBinaryData handle, uint64_t want, uint64_t *seq);
/* What may be had of it: no NAMES where names that differ mean the same, no WRITE where more than its mode decides who may make names in it. */
uint32_t lease_dir_bits(const struct object *dir, uint64_t want);
/* What is to be known of a directory for that: as the batch has it, or found out into `room`. */
struct dir_facts *lease_dir_facts(const struct object *dir, struct dir_facts *room);
/* AttachRep.exclusive of an export. */
uint32_t lease_exclusive(const struct export *ex);

/* For the write-sharing rule. */
void lease_open(struct fsd *d, struct open *f);
void lease_close(struct fsd *d, struct open *f);
bool lease_shared_write(struct op *o, struct cs_key key);

#endif
