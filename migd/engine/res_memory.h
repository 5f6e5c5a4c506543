/* SPDX-License-Identifier: Apache-2.0 */
/* Between the halves of the memory module: res_memory.c (source), memory_fill.c (destination), objects.c (shared anonymous memory), vdso.c. */
#ifndef ENGINE_RES_MEMORY_H
#define ENGINE_RES_MEMORY_H
#include "migd/engine/memory.h"

int memory_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e);
int memory_finish(struct eng_proc *p, struct error *e);
int memory_hollow(struct eng_proc *p, struct error *e);
void memory_release(struct eng_family *f, struct eng_proc *p);

/* objects.c */
int object_number(struct eng_proc *p, const struct map *m, uint32_t *number);
/* Source: writes the object behind fd (ours to keep; readable), unless it has been written already. `path`: as /proc shows it. */
int object_put(struct eng_proc *p, struct eng_image *out, int fd, const char *path, uint32_t *number);
/* Names what keeps an object of /dev/shm, that this file of p->dir leads to, from being carried. */
void object_probe_shm(struct eng_probe *p, const char *file);
/* Destination: our fd of object `number`; -1: unknown. Borrowed. */
int object_fd(struct eng_family *f, uint32_t number);

#endif
