/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a processor keeps the parts of a thread's extended state (Intel SDM 1, 13.4): the offset of a part differs between makers, and the size of the whole between
 * models. A thread's state travels in the layout of the host that it was read on.
 */
#ifndef ENGINE_XSAVE_H
#define ENGINE_XSAVE_H
#include <stddef.h>
#include <stdint.h>

enum { XSAVE_PARTS = 62, XSAVE_LEGACY = 512, XSAVE_HEADER = 64 };
struct xsave_part {
	uint32_t id, offset, size;
};

/* Of this processor, without x87 and SSE, whose place is the same everywhere; v has room for XSAVE_PARTS. */
size_t xsave_layout(struct xsave_part *v);
/*
 * from: an area (standard format, as NT_X86_XSTATE) in layout a. to: one in layout b, of a thread of this host: what it says of the host stays, the state becomes
 * from's. 0; the number of a part that is in use and that `to` has no room for, or another; -EINVAL: no such area.
 */
int xsave_convert(const void *from, size_t from_len, const struct xsave_part *a, size_t na, void *to, size_t to_len, const struct xsave_part *b, size_t nb);
const char *xsave_name(int part);

#endif
