/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash (Aumasson and Bernstein 2012): what the variants for tables (hash.c) and for proofs (fs/server/handle.c) have in common. */
#ifndef CONF_SIPHASH_H
#define CONF_SIPHASH_H
#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t sip_rotl(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

static inline void sip_rounds(uint64_t v[4], int n)
{
	while (n-- > 0) {
		v[0] += v[1];
		v[1] = sip_rotl(v[1], 13) ^ v[0];
		v[0] = sip_rotl(v[0], 32);
		v[2] += v[3];
		v[3] = sip_rotl(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = sip_rotl(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = sip_rotl(v[1], 17) ^ v[2];
		v[2] = sip_rotl(v[2], 32);
	}
}

static inline void sip_begin(uint64_t v[4], const uint64_t key[2])
{
	v[0] = key[0] ^ 0x736f6d6570736575ull;
	v[1] = key[1] ^ 0x646f72616e646f6dull;
	v[2] = key[0] ^ 0x6c7967656e657261ull;
	v[3] = key[1] ^ 0x7465646279746573ull;
}

/* The whole message, with `rounds` after each word. */
static inline void sip_absorb(uint64_t v[4], const void *data, size_t len, int rounds)
{
	const unsigned char *p = data;
	size_t left = len;
	uint64_t w;

	for (; left >= 8; left -= 8, p += 8) {
		memcpy(&w, p, 8);
		w = le64toh(w);
		v[3] ^= w;
		sip_rounds(v, rounds);
		v[0] ^= w;
	}
	w = (uint64_t)len << 56;
	for (size_t i = 0; i < left; i++)
		w |= (uint64_t)p[i] << (8 * i);
	v[3] ^= w;
	sip_rounds(v, rounds);
	v[0] ^= w;
}

#endif
