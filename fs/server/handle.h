/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handles: what a client holds instead of a path. Inside is the kernel's handle of name_to_handle_at(2) with the domain and the mount it belongs to,
 * under a keyed MAC: open_by_handle_at(2) knows no export, so a hand-made handle would open any file of the filesystem. The key is made
 * once and kept in the state directory, so that handles outlive the server.
 *
 * Bytes: u8 version, u8 fh length, u16 fh type, u64 domain, u64 mount, fh, MAC[16]; little-endian. Pure but for handle_key_load().
 */
#ifndef FS_SERVER_HANDLE_H
#define FS_SERVER_HANDLE_H
#include <stddef.h>
#include <stdint.h>
#include "conf/error.h"

#define HANDLE_MAX    128 /* bytes on the wire */
#define HANDLE_HEAD   20
#define HANDLE_MAC    16
#define HANDLE_FH_MAX (HANDLE_MAX - HANDLE_HEAD - HANDLE_MAC)

struct handle {
	uint64_t domain;
	uint64_t mount; /* 0: the export's own; else which mount below a home export */
	int32_t type;	/* handle_type of struct file_handle */
	uint32_t len;
	unsigned char fh[HANDLE_FH_MAX];
};

struct handle_key {
	uint64_t k[2];
};

/* Reads the key, or makes it (mode 0600) when there is none. */
int handle_key_load(const char *path, struct handle_key *key, struct error *e);
/* Returns the length, 0 when the handle does not fit. */
size_t handle_pack(const struct handle_key *key, const struct handle *h, unsigned char out[HANDLE_MAX]);
/* -ESTALE for anything that handle_pack() with this key has not made. */
int handle_unpack(const struct handle_key *key, const void *bytes, size_t len, struct handle *out);

/* SipHash-2-4 with 128 bits of output (Aumasson and Bernstein 2012), the MAC; here for its test. */
void handle_mac(const struct handle_key *key, const void *data, size_t len, unsigned char mac[HANDLE_MAC]);

#endif
