/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files that go from one client to another, and offsets that several open file descriptions share.
 *
 * A hand is an offer of an open by the client that has it, under a secret of 16 bytes. Who knows the secret, and may use the export at all, gets an open of
 * the same file with the same access (without a permission check: that was passed when the file was opened), and may take locks beside those that the
 * offer marks. It is good while the offered open lives. An offset is kept while an open has it; clients bring it back after a restart of the server.
 *
 * Locking: hands.lock guards the tables; offset.lock its position, over the write that moves it. hands.lock comes first, openstate.lock inside.
 */
#ifndef FS_SERVER_HAND_H
#define FS_SERVER_HAND_H
#include "fs/server/ops.h"

#define HAND_MAX 65536 /* offers; more are refused */

struct offset {
	pthread_mutex_t lock;
	uint64_t pos;
	unsigned refs; /* hands.lock */
	unsigned char token[16];
};

int hands_start(struct fsd *d);
void hands_stop(struct fsd *d);
/*
 * The mark of locks under this token, 0: it is no good (any more). `reclaim`: of a lock held before a restart of the server: then who offered may not have come
 * back yet, and is believed to be about to.
 */
uint64_t hand_mark(struct fsd *d, ProtobufCBinaryData token, bool reclaim);
/* An open brings its offset back: the highest position that anybody remembers is the true one. */
int hand_reclaim(struct fsd *d, struct open *f, ProtobufCBinaryData token, uint64_t pos);
/* An open that had been offered is that again; `cred`: who opened it. */
int hand_offered(struct fsd *d, struct open *f, ProtobufCBinaryData token, uint64_t pos, bool shared, const Sprite__Fs__Cred *cred);
void hand_offset_intend(struct fsd *d, const struct offset *of, uint64_t len); /* with its lock */
void hand_offset_put(struct fsd *d, struct offset *of); /* NULL is allowed */

#endif
