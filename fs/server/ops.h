/* SPDX-License-Identifier: Apache-2.0 */
/* The operations, one function per call of the protocol. */
#ifndef FS_SERVER_OPS_H
#define FS_SERVER_OPS_H
#include "fs/server/op.h"

#define OP(name) int name(struct op *o, const ProtobufCMessage *m)
/* ops_admin.c */
OP(op_prefixes);
OP(op_register);
OP(op_attach);
OP(op_renew);
OP(op_elect);
OP(op_status); /* the JSON of fsd_status() as bulk */
/* ops_name.c */
OP(op_lookup);
OP(op_readlink);
OP(op_make);
OP(op_link);
OP(op_remove);
OP(op_rename);
/* ops_attr.c */
OP(op_getattr);
OP(op_setattr);
OP(op_statfs);
OP(op_getxattr);
OP(op_setxattr);
OP(op_listxattr);
OP(op_removexattr);
/* ops_open.c */
OP(op_open_file);
OP(op_create);
OP(op_close);
/* ops_dir.c */
OP(op_readdir);
/* ops_data.c */
OP(op_read);
OP(op_write);
OP(op_fsync);
OP(op_fallocate);
OP(op_copy);
OP(op_seek);
/* hand.c */
OP(op_hand);
/* locks.c */
OP(op_lock);
/* batch.c */
OP(op_batch);
/* ops_refresh.c */
OP(op_refresh);
#undef OP

/* batch.c: the answer to a part of a batch, for op.c */
void batch_answer(struct op *o, int err, const ProtobufCMessage *out);
struct intent_held *batch_held(struct op *o);
/* A directory that earlier records spoke of, or that later ones may. */
bool batch_dir_get(struct op *o, ProtobufCBinaryData handle, struct object *obj);
void batch_dir_put(struct op *o, ProtobufCBinaryData handle, struct object *obj);

#endif
