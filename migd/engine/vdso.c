// SPDX-License-Identifier: Apache-2.0
/*
 * The vdso and its data pages go where the program knows them from (it has pointers into the vdso in its libc and perhaps return addresses on a stack).
 * The same kernel build has the same image: the vessel's own maps are moved. Another build: refused by name, by the check sum in the head (with an
 * announcement that is before the freeze), and by the image itself here.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"

struct special {
	uint64_t start[8], len[8], vvar, vdso, end;
	size_t n;
};

static int find_special(struct eng_proc *p, struct special *s)
{
	struct maps *maps;
	int r = procfs_maps(p->dir, false, &maps);

	memset(s, 0, sizeof(*s));
	if (r < 0)
		return r;
	for (size_t i = 0; i < maps->n && s->n < 8; i++) {
		const struct map *m = &maps->m[i];

		if (m->kind != KIND_VDSO && m->kind != KIND_VVAR)
			continue;
		if (m->kind == KIND_VDSO) {
			s->vdso = m->start;
			s->end = m->end;
		} else if (!s->vvar) {
			s->vvar = m->start;
		}
		s->start[s->n] = m->start;
		s->len[s->n++] = m->end - m->start;
	}
	maps_free(maps);
	return s->vdso ? 0 : -ENOENT;
}

static int same_image(struct eng_proc *p, const struct special *s, const void *image, size_t len)
{
	_cleanup_free_ char *mine = malloc(len);
	int r = mine && s->end - s->vdso == len ? eng_peek(p, s->vdso, mine, len) : -ENOMEM;

	return r == 0 && !memcmp(mine, image, len);
}

static int move_all(struct eng_proc *p, struct special *s, int64_t by)
{
	struct eng_call c[8];
	int r;

	for (size_t i = 0; i < s->n; i++) {
		c[i] = (struct eng_call){.nr = SYS_mremap, .arg = {s->start[i], s->len[i], s->len[i], MREMAP_MAYMOVE | MREMAP_FIXED, s->start[i] + by}};
		s->start[i] += by;
	}
	r = eng_batch(p->threads[0], c, s->n, NULL);
	if (r == 0)
		p->core->sysinsn += by;
	if (r == 0 && p->core->vdso) {
		p->core->vdso += by;
		p->core->vdso_end += by;
	}
	s->vvar += by;
	s->vdso += by;
	s->end += by;
	return r;
}

static uint64_t sum;
static pthread_once_t sum_once = PTHREAD_ONCE_INIT;

static void sum_make(void)
{
	int dir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct maps *maps;

	if (dir >= 0 && procfs_maps(dir, false, &maps) == 0) {
		for (size_t i = 0; i < maps->n; i++)
			if (maps->m[i].kind == KIND_VDSO) {
				sum = 14695981039346656037ULL; /* FNV-1a */
				for (const unsigned char *s = (void *)maps->m[i].start; s < (const unsigned char *)maps->m[i].end; s++)
					sum = (sum ^ *s) * 1099511628211ULL;
			}
		maps_free(maps);
	}
	if (dir >= 0)
		close(dir);
}

uint64_t vdso_sum(void)
{
	pthread_once(&sum_once, sum_make);
	return sum;
}

int vdso_place(struct eng_proc *p, uint64_t vvar, uint64_t vdso, uint64_t end, const void *image, size_t len, struct error *e)
{
	struct special s;
	int r = find_special(p, &s);

	if (r < 0 || !vdso)
		return vdso ? error_set(e, -r, "process %d: no vdso in its vessel", p->vpid) : 0;
	if (vdso - vvar != s.vdso - s.vvar || end - vdso != s.end - s.vdso || !same_image(p, &s, image, len))
		return error_set(e, EOPNOTSUPP, "process %d: the vdso of this host's kernel differs from its home's: same kernel build needed", p->vpid);
	if (vdso == s.vdso)
		return 0;
	if (vvar < s.end && end > s.vvar) /* old and new place overlap: by way of a free one beside the blob */
		r = move_all(p, &s, (int64_t)(p->core->blob - 0x100000 - s.vvar));
	if (r == 0)
		r = move_all(p, &s, (int64_t)(vdso - s.vdso));
	return r < 0 ? error_set(e, -r, "process %d: the vdso cannot be moved: %s", p->vpid, strerror(-r)) : 0;
}
