/* SPDX-License-Identifier: Apache-2.0 */
/* Layout of the extended state (xsave.h). */
#include "migd/engine/xsave.h"
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

enum { SW_RESERVED = 464, MXCSR_MASK = 28 }; /* in the legacy part: from here on the kernel's; which bits of MXCSR this processor has */

/* Asked once: CPUID leaves a virtual machine, which takes long. */
static struct xsave_part here[XSAVE_PARTS];
static size_t parts_here;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void ask(void)
{
	unsigned a, b, c, d, lo, hi;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1 /* OSXSAVE */))
		return;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	for (uint32_t i = 2; i < 63; i++) {
		if (!(((uint64_t)hi << 32 | lo) >> i & 1) || !__get_cpuid_count(0xd, i, &a, &b, &c, &d) || !a)
			continue;
		here[parts_here++] = (struct xsave_part){i, b, a};
	}
}

size_t xsave_layout(struct xsave_part *v)
{
	pthread_once(&once, ask);
	memcpy(v, here, parts_here * sizeof(*v));
	return parts_here;
}

static const struct xsave_part *part_of(const struct xsave_part *v, size_t n, uint32_t id, size_t len)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].id == id)
			return v[i].offset >= XSAVE_LEGACY + XSAVE_HEADER && v[i].size <= len && v[i].offset <= len - v[i].size ? &v[i] : NULL;
	return NULL;
}

int xsave_convert(const void *from, size_t from_len, const struct xsave_part *a, size_t na, void *to, size_t to_len, const struct xsave_part *b, size_t nb)
{
	const char *src = from;
	char *dst = to;
	uint64_t used, compacted;

	if (from_len < XSAVE_LEGACY + XSAVE_HEADER || to_len < XSAVE_LEGACY + XSAVE_HEADER)
		return -EINVAL;
	memcpy(&used, src + XSAVE_LEGACY, sizeof(used));
	memcpy(&compacted, src + XSAVE_LEGACY + 8, sizeof(compacted));
	if (compacted)
		return -EINVAL;
	for (uint32_t i = 2; i < 64; i++) {
		const struct xsave_part *p = used >> i & 1 ? part_of(a, na, i, from_len) : NULL, *q = part_of(b, nb, i, to_len);

		if (used >> i & 1 && (!p || !q || p->size != q->size))
			return i;
	}
	memcpy(dst, src, MXCSR_MASK);
	memcpy(dst + MXCSR_MASK + 4, src + MXCSR_MASK + 4, SW_RESERVED - MXCSR_MASK - 4);
	memset(dst + XSAVE_LEGACY, 0, to_len - XSAVE_LEGACY);
	memcpy(dst + XSAVE_LEGACY, &used, sizeof(used));
	for (uint32_t i = 2; i < 64; i++)
		if (used >> i & 1)
			memcpy(dst + part_of(b, nb, i, to_len)->offset, src + part_of(a, na, i, from_len)->offset, part_of(b, nb, i, to_len)->size);
	return 0;
}

const char *xsave_name(int part)
{
	switch (part) {
	case 2:
		return "AVX registers";
	case 3:
	case 4:
		return "MPX bounds";
	case 5:
	case 6:
	case 7:
		return "AVX-512 registers";
	case 9:
		return "protection keys";
	case 17:
	case 18:
		return "AMX tiles";
	case 19:
		return "APX registers";
	default:
		return "registers of a newer kind";
	}
}
