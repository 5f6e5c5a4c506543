/* SPDX-License-Identifier: Apache-2.0 */
/* Address spaces: read into an image, built in a vessel, taken away. */
#ifndef ENGINE_MEMORY_H
#define ENGINE_MEMORY_H
#include "migd/engine/core.h"
#include "migd/engine/procfs.h"

struct run { /* pages to carry */
	uint64_t start, end;
};
/*
 * pagemap.c: what of [start, end) holds data that only this process has. anon: private pages only (a private file map); else all present. guards (may be NULL): pages
 * that fault by MADV_GUARD_INSTALL; left as it is on failure.
 */
int pagemap_runs(int dirfd, uint64_t start, uint64_t end, bool private_only, struct run **out, size_t *n, struct run **guards, size_t *nguards);

/* Does this kernel tell guard regions from swapped pages? And if not: is there something in [start, end) that looks swapped and faults? (Swaps in what is swapped.) */
bool pagemap_tells_guards(void);
bool pagemap_unreadable(int dirfd, pid_t pid, uint64_t start, uint64_t end);

int runs_push(struct run **v, size_t *n, size_t *cap, uint64_t start, uint64_t end); /* in ascending order; joins neighbours */
/* precopy.c: pages written since the last look, which this is; -EPERM: not all of the range is under our watch. */
int pagemap_written(int dirfd, uint64_t start, uint64_t end, bool private_only, struct run **out, size_t *n);
/* All at once, by one walk, for the last time; what is there, what of that was written since, what faults. Likewise -EPERM. To be freed also after an error. */
struct pages {
	struct run *here, *written, *guard;
	size_t nhere, nwritten, nguard;
};
int pagemap_look(int dirfd, uint64_t start, uint64_t end, bool private_only, struct pages *out);
bool memory_is_deleted(const char *path); /* as /proc shows it */
bool precopy_watches(pid_t pid, const struct map *m); /* it is our own write protection */
/* Final dump: what of the map's pages must still go, and what must go away over there. 1: the map is kept, 0: it is to be sent as new. */
struct rest {
	struct run *dirty, *drop, *guard;
	size_t ndirty, ndrop, nguard;
};
int precopy_rest(struct eng_proc *p, const struct map *m, struct rest *out);
int precopy_last(struct eng_proc *p, struct eng_image *out); /* frozen: what is known of without flags goes, while those are read */
bool precopy_big(const struct eng_proc *p); /* its maps' flags take longer to read than what is left of its memory (/proc/PID/smaps counts each page) */
bool precopy_watched(struct eng_proc *p, const struct map *m); /* this very map */
uint64_t precopy_watchable(struct eng_proc *p, const struct maps *maps); /* bytes in maps that are worth it */
void precopy_free(struct eng_proc *p);
void precopy_forget(const struct eng_family *f);
void precopy_current(struct eng_family *f); /* its watch is ours, for precopy_watches() in this thread */
/* res_memory.c: pages of the runs as records. soft: what cannot be read (it has just been unmapped) counts as zero. */
int memory_put_pages(struct eng_proc *p, struct eng_image *out, const struct run *runs, size_t n, bool soft);
int memory_put_ahead(struct eng_proc *p, const struct maps *maps, struct eng_image *out); /* the PRE_MM record */

/* Removes all but the blob, the vdso and (hollow) the argument page. keep: extra range, may be empty. */
int memory_empty(struct eng_proc *p, uint64_t keep_start, uint64_t keep_end, struct error *e);
/* The vdso and its data pages to where the image has them. */
int vdso_place(struct eng_proc *p, uint64_t vvar, uint64_t vdso, uint64_t end, const void *image, size_t len, struct error *e);
/* The base for a blob of `size` bytes that is free in the maps. 0: none. */
uint64_t memory_blob_base(const struct maps *maps, size_t size);
/* Where the blob for so many threads (and some to be born away) goes: `last`, if that is free in the maps still; 0: nowhere. */
enum { SPARE_SLOTS = 32 };
uint64_t memory_blob_place(const struct maps *maps, uint64_t last, unsigned nthreads);
/* What was laid out in advance goes again (another program is in that process now). */
int memory_forget_ahead(struct eng_proc *p, struct error *e);

#endif
