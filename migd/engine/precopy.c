// SPDX-License-Identifier: Apache-2.0
/*
 * Pre-copy: after the announcement (announce.c), most of the memory goes ahead while the program runs; only what it wrote since goes when it is frozen.
 *
 * The family is stopped for a moment; a userfaultfd in asynchronous write-protect mode is made in each process, taken over by us (pidfd_getfd) and
 * closed there; big private anonymous maps, and those private ones of files, are registered with it. From then on PAGEMAP_SCAN tells, and protects again, what was written since the last
 * look. The program pays a minor fault for the first write to a page after each look. Nothing else is changed in it; closing the descriptor ends the watch.
 *
 * In the stream: HEAD, PRE_MM (the watched maps), PAGES, PAGES..., and then the dump as always, in whose MM record a map is `kept` if it is still the very
 * same one (same place, still watched: a map made anew in its place is not). Pages sent ahead and given back since are named in DROP records.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/fault.h"
#include "conf/log.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "migd/engine/nest.h"
#include "rpc/image.pb-c.h"

enum { SMALLEST = 256 << 10, ENOUGH = 1 << 20, ROUNDS = 12, WORTH_IT = 2 << 20, BIG = 64 << 20 };
#define WP_ASYNC (1ULL << 15) /* UFFD_FEATURE_WP_ASYNC, Linux 6.7, newer than our headers */

struct watched {
	struct map m; /* path not kept */
	struct run *sent;
	size_t nsent;
	struct rest rest; /* of the dump: precopy_last() */
	bool looked;
};
struct track {
	int uffd;
	struct watched *v;
	size_t n;
};
/* Whose memory this thread is reading just now, for precopy_watches(). */
static __thread struct eng_family *current;

static void rest_free(struct rest *r)
{
	free(r->dirty);
	free(r->drop);
	free(r->guard);
	*r = (struct rest){0};
}

void precopy_free(struct eng_proc *p)
{
	struct track *t = p->core->track;

	if (!t)
		return;
	if (t->uffd >= 0)
		close(t->uffd);
	for (size_t i = 0; i < t->n; i++)
		free(t->v[i].sent), rest_free(&t->v[i].rest);
	free(t->v);
	free(t);
	p->core->track = NULL;
}

static struct watched *find(struct eng_proc *p, const struct map *m)
{
	struct track *t = p->core->track;

	for (size_t i = 0; t && i < t->n; i++)
		if (t->v[i].m.start == m->start && t->v[i].m.end == m->end)
			return &t->v[i];
	return NULL;
}

bool precopy_watches(pid_t pid, const struct map *m)
{
	for (size_t i = 0; current && i < current->nprocs; i++)
		if (current->procs[i]->pid == pid)
			for (size_t k = 0; current->procs[i]->core->track && k < current->procs[i]->core->track->n; k++) {
				const struct map *w = &current->procs[i]->core->track->v[k].m;

				if (m->start < w->end && m->end > w->start) /* a part of it, if it was split; more than it, if it has grown in place (mremap) */
					return true;
			}
	return false;
}

/* ---- lists of runs, ascending ----------------------------------------------------------------------- */
static int runs_union(struct run **v, size_t *n, const struct run *w, size_t nw)
{
	struct run *out = NULL;
	size_t cap = 0, no = 0, i = 0, k = 0;

	while (i < *n || k < nw) {
		const struct run *next = k == nw || (i < *n && (*v)[i].start <= w[k].start) ? &(*v)[i++] : &w[k++];

		if (no && next->start <= out[no - 1].end) {
			if (next->end > out[no - 1].end)
				out[no - 1].end = next->end;
		} else if (runs_push(&out, &no, &cap, next->start, next->end) < 0) {
			free(out);
			return -ENOMEM;
		}
	}
	free(*v);
	*v = out;
	*n = no;
	return 0;
}

static int runs_minus(const struct run *a, size_t na, const struct run *b, size_t nb, struct run **out, size_t *n)
{
	size_t cap = 0, k = 0;

	for (size_t i = 0; i < na; i++) {
		uint64_t at = a[i].start;

		while (k < nb && b[k].end <= at)
			k++;
		for (size_t j = k; at < a[i].end; j++) {
			uint64_t stop = j < nb && b[j].start < a[i].end ? b[j].start : a[i].end;

			if (stop > at && runs_push(out, n, &cap, at, stop) < 0)
				return -ENOMEM;
			if (stop == a[i].end)
				break;
			at = b[j].end > at ? b[j].end : at;
		}
	}
	return 0;
}

/* ---- start ------------------------------------------------------------------------------------------- */
/* Of files what the program has changed: data and relocations of its libraries, which are most of what a small one has. */
static bool worth_watching(const struct map *m)
{
	if (m->shared || m->flags & (MAPF_GROWSDOWN | MAPF_UFFD | MAPF_UFFD_WP | MAPF_DEVICE | MAPF_HUGETLB | MAPF_SEALED | MAPF_DROPPABLE))
		return false;
	if (m->kind == KIND_FILE_PRIV)
		return !(m->prot & PROT_EXEC) && m->flags & MAPF_MAYWRITE && !memory_is_deleted(m->path);
	return m->kind == KIND_ANON && m->end - m->start >= SMALLEST && m->path[0] != '/';
}

/* Of a file's map there may be nothing that is not the file's. */
static bool has_pages(struct eng_proc *p, const struct map *m)
{
	struct run *runs;
	size_t n;

	if (m->kind != KIND_FILE_PRIV)
		return true;
	if (pagemap_runs(p->dir, m->start, m->end, true, &runs, &n, NULL, NULL) < 0)
		return false;
	free(runs);
	return n;
}

static int open_uffd(struct eng_proc *p)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | WP_ASYNC};
	long num = ENG_SYS(p->threads[0], SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* UFFD_USER_MODE_ONLY: needs no right */);
	int fd;

	if (num < 0)
		return num;
	fd = eng_fd_get(p, num);
	fault_point("watching");
	ENG_SYS(p->threads[0], SYS_close, num);
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

/* Registers the big maps. 0 also if there is none, or the kernel does not let us (before 6.7): the process then has no track, and all goes with the dump. */
static int watch(struct eng_proc *p, struct maps *maps)
{
	struct track *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	p->core->track = t;
	t->v = calloc(maps->n, sizeof(*t->v));
	t->uffd = t->v ? open_uffd(p) : -ENOMEM;
	if (t->uffd < 0) {
		log_debug("engine: process %d cannot be watched: %s", p->vpid, strerror(-t->uffd));
		precopy_free(p);
		return 0;
	}
	for (size_t i = 0; i < maps->n; i++) {
		struct map *m = &maps->m[i];
		struct uffdio_register reg = {.range = {m->start, m->end - m->start}, .mode = UFFDIO_REGISTER_MODE_WP};

		if (!worth_watching(m) || !has_pages(p, m) || (m->start >= p->core->blob && m->start < p->core->blob + blob_size(p->core->nslots)))
			continue;
		if (ioctl(t->uffd, UFFDIO_REGISTER, &reg) < 0)
			continue; /* it goes with the rest */
		t->v[t->n].m = *m;
		t->v[t->n++].m.path = NULL;
	}
	if (!t->n)
		precopy_free(p);
	return 0;
}

bool precopy_watched(struct eng_proc *p, const struct map *m)
{
	return find(p, m) != NULL;
}

uint64_t precopy_watchable(struct eng_proc *p, const struct maps *maps)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < maps->n; i++) {
		struct run *runs;
		size_t n;

		if (!worth_watching(&maps->m[i]) ||
			pagemap_runs(p->dir, maps->m[i].start, maps->m[i].end, maps->m[i].kind == KIND_FILE_PRIV, &runs, &n, NULL, NULL) < 0)
			continue;
		for (size_t k = 0; k < n; k++)
			bytes += runs[k].end - runs[k].start;
		free(runs);
	}
	return bytes;
}

static int begin(struct eng_family *f, struct eng_image *out, struct error *e)
{
	int r = dump_head(f, out, true, e);

	for (size_t i = 0; i < f->nprocs && r == 0; i++) {
		struct eng_proc *p = f->procs[i];
		struct maps *maps;

		r = procfs_maps(p->dir, true, &maps);
		if (r < 0)
			break;
		r = watch(p, maps);
		if (r == 0)
			r = memory_put_ahead(p, maps, out);
		maps_free(maps);
	}
	return r;
}

/* ---- rounds ------------------------------------------------------------------------------------------ */
/* All that was written since the last round. Bytes sent, or -errno. */
static int64_t send_written(struct eng_proc *p, struct eng_image *out)
{
	struct track *t = p->core->track;
	int64_t bytes = 0;

	for (size_t i = 0; t && i < t->n; i++) {
		struct watched *w = &t->v[i];
		struct run *runs;
		size_t n;
		int r = pagemap_written(p->dir, w->m.start, w->m.end, w->m.kind == KIND_FILE_PRIV, &runs, &n);

		if (r == -EPERM || r == -ESRCH || r == -EFAULT) /* not that map any more: the dump will see */
			continue;
		if (r < 0)
			return r;
		r = memory_put_pages(p, out, runs, n, true);
		for (size_t k = 0; k < n; k++)
			bytes += runs[k].end - runs[k].start;
		if (r == 0)
			r = runs_union(&w->sent, &w->nsent, runs, n);
		free(runs);
		if (r < 0)
			return r;
	}
	return bytes;
}

/* While it pays: each round shorter than the one before, until little is left or the time is over. */
static int rounds(struct eng_family *f, struct eng_image *out, unsigned max_ms)
{
	uint64_t begun = clock_mono_ns();
	int64_t before = INT64_MAX;

	for (int round = 0; round < ROUNDS; round++) {
		int64_t bytes = 0;

		for (size_t i = 0; i < f->nprocs; i++) {
			int64_t one = send_written(f->procs[i], out);

			if (one < 0)
				return one;
			bytes += one;
		}
		if (image_flush(out) < 0)
			return -EPIPE;
		log_debug("engine: pre-copy round %d: %ld kB", round, (long)bytes / 1024);
		if (bytes < ENOUGH || bytes > before / 10 * 7 || clock_mono_ns() - begun > max_ms * 1000000ULL)
			break;
		before = bytes;
	}
	return 0;
}

static int watch_and_send(struct eng_family *f, struct eng_image *im, unsigned max_ms, struct error *e)
{
	struct pin_self was;
	int r;

	pin_self(f, &was);
	r = begin(f, im, e);
	fault_point("watched");
	thaw_processes(f);
	pin_self_end(&was);
	f->state = ENG_TRACKED;
	return r < 0 ? r : rounds(f, im, max_ms);
}

void eng_precopy_over(struct eng_family *f)
{
	if (f->state == ENG_TRACKED)
		eng_thaw(f);
}

/* What eng_freeze() asks first takes as long, of who is big, as a round, in which he writes on: so it is asked now, and what he wrote goes after it. */
static int look_again(struct eng_family *f, pid_t pid, struct eng_image *im, unsigned max_ms, const struct eng_hooks *h)
{
	struct eng_proc *root = eng_proc_by_vpid(f, pid);
	struct eng_reasons why = {0};
	struct error e = {0};
	bool big = false;
	int r;

	for (size_t i = 0; i < f->nprocs; i++)
		big |= precopy_big(f->procs[i]);
	if (!big || !root)
		return 0;
	r = explain_family(root->pid, f->nest, h && h->goes_home, &why, NULL, &e);
	eng_reasons_clear(&why);
	if (r != 0)
		return 0; /* the freeze asks, and says it */
	f->explained_ns = clock_mono_ns();
	return rounds(f, im, max_ms);
}

/* Announced; now the memory, where that is worth a short stop. *f: as in eng_precopy. */
static int send_ahead(struct eng_family **f, pid_t pid, struct eng_image *im, unsigned max_ms, const struct eng_hooks *h, struct error *e)
{
	struct eng_reasons why = {0};
	int r = eng_freeze(pid, h, f, &why, e);

	eng_reasons_clear(&why);
	if (r != 0)
		return r < 0 ? r : -EOPNOTSUPP;
	r = watch_and_send(*f, im, max_ms, e);
	precopy_current(*f);
	if (r == 0)
		r = look_again(*f, pid, im, max_ms, h);
	if (r < 0) {
		bool nest = (*f)->nest;

		eng_thaw(*f);
		if (!nest)
			*f = NULL;
		return error_set(e, -r, "memory cannot be sent ahead: %s", strerror(-r));
	}
	return 0;
}

int eng_precopy(pid_t pid, int fd, unsigned max_ms, const struct eng_hooks *h, struct eng_family **out, struct error *e)
{
	struct eng_proc *root = *out ? eng_proc_by_vpid(*out, pid) : NULL;
	struct eng_reasons why = {0};
	struct eng_image *im;
	uint64_t bytes = 0;
	int r = *out && !root ? -ESRCH : explain_family(root ? root->pid : pid, *out && (*out)->nest, h && h->goes_home, &why, NULL, e);

	eng_reasons_clear(&why);
	if (r != 0)
		return 0; /* nothing goes ahead of what cannot move: the freeze says why */
	im = image_writer(fd);
	r = im ? announce(*out, pid, im, &bytes, e) : -ENOMEM;
	if (r == 0 && bytes < WORTH_IT) {
		image_free(im);
		return 0;
	}
	if (r >= 0 && bytes >= WORTH_IT)
		r = send_ahead(out, pid, im, max_ms, h, e);
	if (r >= 0)
		r = eng_image_put(im, IMG_READY, 0, "", 0);
	if (r == 0)
		r = image_flush(im);
	image_free(im);
	return r < 0 ? r : 1;
}

void precopy_current(struct eng_family *f)
{
	current = f;
}

void precopy_forget(const struct eng_family *f)
{
	if (current == f)
		current = NULL;
}

/* ---- the end ------------------------------------------------------------------------------------------ */
static int look(struct eng_proc *p, struct watched *w, struct rest *out)
{
	struct pages now;
	int r = pagemap_look(p->dir, w->m.start, w->m.end, w->m.kind == KIND_FILE_PRIV, &now);

	*out = (struct rest){.dirty = now.written, .ndirty = now.nwritten, .guard = now.guard, .nguard = now.nguard};
	if (r == 0)
		r = runs_minus(w->sent, w->nsent, now.here, now.nhere, &out->drop, &out->ndrop);
	free(now.here);
	if (r < 0)
		rest_free(out);
	return r;
}

int precopy_last(struct eng_proc *p, struct eng_image *out)
{
	struct track *t = p->core->track;
	int r = 0;

	for (size_t i = 0; t && i < t->n && r == 0; i++) {
		struct watched *w = &t->v[i];

		if (look(p, w, &w->rest) < 0) /* not that map any more, or not all of it */
			continue;
		w->looked = true;
		r = memory_put_pages(p, out, w->rest.dirty, w->rest.ndirty, false);
		free(w->rest.dirty);
		w->rest.dirty = NULL;
		w->rest.ndirty = 0;
	}
	return r;
}

bool precopy_big(const struct eng_proc *p)
{
	const struct track *t = p->core->track;
	uint64_t bytes = 0;

	for (size_t i = 0; t && i < t->n; i++)
		bytes += t->v[i].m.end - t->v[i].m.start;
	return bytes >= BIG;
}

int precopy_rest(struct eng_proc *p, const struct map *m, struct rest *out)
{
	struct watched *w = find(p, m);
	int r;

	if (!w || w->m.kind != m->kind)
		return 0;
	if (w->looked) {
		*out = w->rest;
		w->rest = (struct rest){0};
		w->looked = false;
		return 1;
	}
	r = look(p, w, out);
	return r == -ENOMEM ? r : r == 0;
}
