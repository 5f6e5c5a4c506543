// SPDX-License-Identifier: Apache-2.0
/* The records of batches; see batch.h. Pure. */
#include "fs/batch.h"
#include <endian.h>
#include <string.h>

static void put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, 4);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return le32toh(v);
}

bool batch_takes(enum fs_op method)
{
	switch (method) {
	case FS_CREATE:
	case FS_MAKE:
	case FS_LINK:
	case FS_REMOVE:
	case FS_RENAME:
	case FS_SETATTR:
	case FS_WRITE:
	case FS_CLOSE:
		return true;
	default:
		return false;
	}
}

size_t batch_get(const uint8_t *p, size_t n, struct batch_record *r)
{
	uint32_t method;

	if (n < BATCH_REQ_HEAD)
		return 0;
	method = get32(p);
	r->msg_len = get32(p + 4);
	r->data_len = get32(p + 8);
	if (method >= FS_NOPS || !batch_takes((enum fs_op)method) || r->msg_len > RPC_CONTROL_MAX || r->data_len > FS_IO_MAX ||
		n - BATCH_REQ_HEAD < (size_t)r->msg_len + r->data_len)
		return 0;
	r->method = (enum fs_op)method;
	r->msg = p + BATCH_REQ_HEAD;
	r->data = r->msg + r->msg_len;
	return BATCH_REQ_HEAD + (size_t)r->msg_len + r->data_len;
}

size_t batch_put(uint8_t *p, enum fs_op method, uint32_t msg_len, uint32_t data_len)
{
	put32(p, (uint32_t)method);
	put32(p + 4, msg_len);
	put32(p + 8, data_len);
	return BATCH_REQ_HEAD;
}

size_t batch_answer_get(const uint8_t *p, size_t n, int *err, const uint8_t **msg, uint32_t *len)
{
	if (n < BATCH_REP_HEAD)
		return 0;
	*err = (int)get32(p);
	*len = get32(p + 4);
	if (*err < 0 || n - BATCH_REP_HEAD < *len)
		return 0;
	*msg = p + BATCH_REP_HEAD;
	return BATCH_REP_HEAD + (size_t)*len;
}

size_t batch_answer_put(uint8_t *p, int err, uint32_t len)
{
	put32(p, (uint32_t)err);
	put32(p + 4, len);
	return BATCH_REP_HEAD;
}

void batch_ref_put(uint8_t ref[BATCH_REF], uint32_t index)
{
	ref[0] = 0xff;
	put32(ref + 1, index);
}

bool batch_ref_get(const void *handle, size_t len, uint32_t *index)
{
	const uint8_t *p = handle;

	if (len != BATCH_REF || p[0] != 0xff)
		return false;
	*index = get32(p + 1);
	return true;
}
