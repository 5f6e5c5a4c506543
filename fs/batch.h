/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches: changes that a client has made under exclusive leases and answered already, executed by the server one after the other in one call.
 *
 * The bulk bytes of a Batch call are records {u32 method, u32 length of the message, u32 length of the data, message, data}; those of its
 * answer {u32 errno, u32 length, message}, one for each record that was executed. A record may speak of what an earlier record of the same batch
 * makes: instead of a handle it has 5 bytes with its number (no handle is so short), instead of an open id the
 * number of that record plus one (ids of open files are above 2^24).
 */
#ifndef FS_BATCH_H
#define FS_BATCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/methods.h"

#define BATCH_MAX      256u	     /* records */
#define BATCH_BYTES    (1u << 20)    /* of bulk */
#define BATCH_REQ_HEAD 12u
#define BATCH_REP_HEAD 8u
#define BATCH_REF      5u

struct batch_record {
	enum fs_op method;
	const uint8_t *msg, *data;
	uint32_t msg_len, data_len;
};

/* May it be in a batch? */
bool batch_takes(enum fs_op method);
/* The next record of `n` bytes at `p`: its length, or 0 when there is no whole valid one. */
size_t batch_get(const uint8_t *p, size_t n, struct batch_record *r);
/* Writes the head of a record; returns BATCH_REQ_HEAD. */
size_t batch_put(uint8_t *p, enum fs_op method, uint32_t msg_len, uint32_t data_len);
size_t batch_answer_get(const uint8_t *p, size_t n, int *err, const uint8_t **msg, uint32_t *len);
size_t batch_answer_put(uint8_t *p, int err, uint32_t len);
static inline bool batch_ref_open(uint64_t open, uint32_t *index)
{
	*index = (uint32_t)open - 1;
	return open && open <= BATCH_MAX;
}
void batch_ref_put(uint8_t ref[BATCH_REF], uint32_t index);
/* false: it is a handle. */
bool batch_ref_get(const void *handle, size_t len, uint32_t *index);

#endif
