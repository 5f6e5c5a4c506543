/* SPDX-License-Identifier: Apache-2.0 */
/* Address spaces: read into an image, built in a vessel, taken away. */
#ifndef ENGINE_MEMORY_H
#define ENGINE_MEMORY_H
#include "migd/engine/core.h"
#include "migd/engine/procfs.h"

struct run { /* pages to carry */
	uint64_t start, end;
};
/* pagemap.c: what of [start, end) holds data that only this process has. anon: private pages only (a private file map); else all present. */
int pagemap_runs(int dirfd, uint64_t start, uint64_t end, bool private_only, struct run **out, size_t *n);

/* Removes all but the blob, the vdso and (hollow) the argument page. keep: extra range, may be empty. */
int memory_empty(struct eng_proc *p, uint64_t keep_start, uint64_t keep_end, struct error *e);
/* The vdso and its data pages to where the image has them. */
int vdso_place(struct eng_proc *p, uint64_t vvar, uint64_t vdso, uint64_t end, const void *image, size_t len, struct error *e);
/* The base for a blob of `size` bytes that is free in the maps. 0: none. */
uint64_t memory_blob_base(const struct maps *maps, size_t size);

#endif
