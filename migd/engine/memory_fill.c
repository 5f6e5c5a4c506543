// SPDX-License-Identifier: Apache-2.0
/*
 * The address space, destination side: an empty vessel (blob and vdso) gets the maps of the image, then its pages, then protections and the mm's fields.
 *
 * Order matters: the vdso first (it may sit where the image has something else), all maps next, pages as they come, and at the end what would have
 * been in the way of writing: protections, locks.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/io.h"
#include "conf/log.h"
#include "migd/engine/inject.h"
#include "migd/engine/res_memory.h"
#include "migd/engine/res_util.h"
#include "rpc/image.pb-c.h"

typedef Sprite__Image__ImgMap img_map;

/* ---- a list of calls that is run when it is full -------------------------------------------------- */
struct todo {
	struct eng_proc *p;
	struct eng_call c[ENG_BATCH_MAX];
	const img_map *of[ENG_BATCH_MAX]; /* for the error text */
	size_t n;
	struct error *e;
};

static int todo_run(struct todo *d)
{
	size_t bad = 0;
	int r = d->n ? eng_batch(d->p->threads[0], d->c, d->n, &bad) : 0;
	const img_map *m = r < 0 && bad < d->n ? d->of[bad] : NULL;

	if (r < 0)
		error_set(d->e, -r, "process %d: memory %lx-%lx %s: call %ld: %s", d->p->vpid, m ? (long)m->start : 0, m ? (long)m->end : 0,
			m && m->file ? m->file->path : "", (long)(bad < d->n ? d->c[bad].nr : 0), strerror(-r));
	d->n = 0;
	return r;
}

static int todo_add(struct todo *d, const img_map *of, struct eng_call c)
{
	int r = d->n == ENG_BATCH_MAX ? todo_run(d) : 0;

	d->of[d->n] = of;
	d->c[d->n++] = c;
	return r;
}

/* ---- emptying ------------------------------------------------------------------------------------- */
static bool is_kept(const struct eng_proc *p, const struct map *m, uint64_t ks, uint64_t ke)
{
	return m->kind == KIND_VDSO || m->kind == KIND_VVAR || m->kind == KIND_VSYSCALL ||
	       (m->start >= p->core->blob && m->end <= p->core->blob + blob_size(p->core->nslots)) || (m->start >= ks && m->end <= ke);
}

int memory_empty(struct eng_proc *p, uint64_t keep_start, uint64_t keep_end, struct error *e)
{
	struct maps *maps;
	struct todo d = {.p = p, .e = e};
	uint64_t from = 0, to = 0;
	int r = procfs_maps(p->dir, false, &maps);

	if (r < 0)
		return error_set(e, -r, "process %d: its maps cannot be read", p->vpid);
	for (size_t i = 0; i <= maps->n && r == 0; i++) {
		const struct map *m = i < maps->n ? &maps->m[i] : NULL;

		if (m && !is_kept(p, m, keep_start, keep_end)) {
			/* a map that the kept range cuts: what is outside of it goes */
			uint64_t s = m->start, t = m->end;

			if (keep_start < t && keep_end > s) {
				if (to)
					r = todo_add(&d, NULL, (struct eng_call){.nr = SYS_munmap, .arg = {from, to - from}});
				to = 0;
				if (s < keep_start)
					r = todo_add(&d, NULL, (struct eng_call){.nr = SYS_munmap, .arg = {s, keep_start - s}});
				if (r == 0 && keep_end < t)
					r = todo_add(&d, NULL, (struct eng_call){.nr = SYS_munmap, .arg = {keep_end, t - keep_end}});
				continue;
			}
			if (!to)
				from = s;
			to = t;
			continue;
		}
		if (to)
			r = todo_add(&d, NULL, (struct eng_call){.nr = SYS_munmap, .arg = {from, to - from}});
		to = 0;
	}
	maps_free(maps);
	return r < 0 ? r : todo_run(&d);
}

uint64_t memory_blob_base(const struct maps *maps, size_t size)
{
	/* Far from what linkers, allocators and sanitizers use; the kernel itself never picks there. */
	static const uint64_t candidates[] = {0x4f0000000000, 0x3a0000000000, 0x2b0000000000, 0x1c0000000000, 0x0d0000000000, 0x200000, 0x20000000, 0x40000000};

	for (size_t c = 0; c < ARRAY_SIZE(candidates); c++) {
		uint64_t s = candidates[c] - 0x200000, t = candidates[c] + size + 0x200000; /* room around: a stack may grow, the vdso passes by */
		bool is_free = true;

		for (size_t i = 0; i < maps->n; i++)
			if (maps->m[i].start < t && maps->m[i].end > s)
				is_free = false;
		if (is_free)
			return candidates[c];
	}
	return 0;
}

uint64_t memory_blob_place(const struct maps *maps, uint64_t last, unsigned nthreads)
{
	size_t size = blob_size(nthreads + SPARE_SLOTS);

	for (size_t i = 0; last && i < maps->n; i++)
		if (maps->m[i].start < last + size && maps->m[i].end > last)
			last = 0;
	return last ? last : memory_blob_base(maps, size);
}

/* ---- maps ------------------------------------------------------------------------------------------ */
static int map_flags(const img_map *m)
{
	int f = MAP_FIXED_NOREPLACE | (m->shared ? MAP_SHARED : MAP_PRIVATE);

	if (m->kind == KIND_ANON)
		f |= MAP_ANONYMOUS;
	if (m->flags & MAPF_GROWSDOWN)
		f |= MAP_GROWSDOWN;
	if (m->flags & MAPF_NORESERVE)
		f |= MAP_NORESERVE;
	return f;
}

static unsigned first_prot(const img_map *m)
{
	return m->pages && !(m->prot & PROT_WRITE) ? m->prot | PROT_READ | PROT_WRITE : m->prot;
}

static struct eng_call mmap_call(const img_map *m, uint64_t fd, bool fd_is_call)
{
	return (struct eng_call){.nr = SYS_mmap,
		.arg = {m->start, m->end - m->start, first_prot(m), map_flags(m), fd, m->kind == KIND_ANON ? 0 : m->offset},
		.from = fd_is_call ? 1 << 4 : 0};
}

/* The same file? Inode numbers hold where the file system shows the server's; else size and time of change must agree. */
static int check_file(const Sprite__Image__ImgFile *want, const struct stat *st, bool shared, struct error *e)
{
	int64_t mtime = st->st_mtim.tv_sec * 1000000000LL + st->st_mtim.tv_nsec;

	if ((st->st_mode & S_IFMT) == (want->mode & S_IFMT) && res_same_ino(st->st_ino, want->ino) && (shared || (uint64_t)st->st_size == want->size))
		return 0;
	if ((st->st_mode & S_IFMT) == (want->mode & S_IFMT) && (uint64_t)st->st_size == want->size && mtime == want->mtime)
		return 0;
	return error_set(e, ESTALE, "%s is another file here (inode %lu, size %lu; there %lu, %lu)", want->path, (long)st->st_ino, (long)st->st_size,
		(long)want->ino, (long)want->size);
}

enum { OBJECT_NUM = 701, FILE_RUN_MAX = 64 };

/* The program itself, which its hollow still has. */
static int hollow_exe(struct eng_proc *p, const Sprite__Image__ImgFile *want)
{
	int fd = p->core->caps ? -1 : openat(p->dir, "exe", O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && res_same_ino(st.st_ino, want->ino) && (uint64_t)st.st_size == want->size)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* At home: the file has been replaced, renamed, removed or closed to its user since it was mapped. Away it is still open for the map, which its server knows. */
static int map_by_inode(struct todo *d, Sprite__Image__ImgMap **m, size_t n, bool rw)
{
	const Sprite__Image__ImgFile *want = m[0]->file;
	struct eng_proc *p = d->p;
	_cleanup_close_ int fd = rw ? -1 : hollow_exe(p, want);
	int r;

	if (fd < 0)
		fd = res_by_inode(p, want->path, want->ino, want->mode, rw ? O_RDWR : O_RDONLY);
	if (fd < 0)
		return fd;
	r = eng_fd_install(p, fd, OBJECT_NUM, O_CLOEXEC);
	for (size_t i = 0; i < n && r == 0; i++)
		r = todo_add(d, m[i], (struct eng_call){.nr = SYS_munmap, .arg = {m[i]->start, m[i]->end - m[i]->start}});
	for (size_t i = 0; i < n && r == 0; i++)
		r = todo_add(d, m[i], mmap_call(m[i], OBJECT_NUM, false));
	if (r == 0)
		r = todo_add(d, m[0], (struct eng_call){.nr = SYS_close, .arg = {OBJECT_NUM}});
	return r < 0 ? r : todo_run(d);
}

/* All maps of one file in a row: one open, a check, the maps, close; as the family's user. */
static int map_file(struct todo *d, Sprite__Image__ImgMap **m, size_t n)
{
	struct eng_proc *p = d->p;
	bool rw = false;
	uint64_t path, at;
	struct stat st;
	size_t open_at;
	struct error ours = {0};
	int r = todo_run(d);

	if (r < 0)
		return r;
	eng_scratch_reset(p);
	path = eng_scratch_put(p, m[0]->file->path, strlen(m[0]->file->path) + 1);
	at = eng_scratch_put(p, NULL, sizeof(st));
	if (!path || !at)
		return error_set(d->e, ENAMETOOLONG, "%s", m[0]->file->path);
	for (size_t i = 0; i < n; i++)
		rw |= m[i]->writable_open;
	if (p->core->caps) {
		todo_add(d, m[0], (struct eng_call){.nr = SYS_setfsgid, .arg = {p->core->gid}});
		todo_add(d, m[0], (struct eng_call){.nr = SYS_setfsuid, .arg = {p->core->uid}});
	}
	open_at = d->n;
	todo_add(d, m[0], (struct eng_call){.nr = SYS_openat, .arg = {AT_FDCWD, path, (rw ? O_RDWR : O_RDONLY) | O_CLOEXEC}, .may_fail = 1});
	if (p->core->caps) {
		todo_add(d, m[0], (struct eng_call){.nr = SYS_setfsuid, .arg = {0}});
		todo_add(d, m[0], (struct eng_call){.nr = SYS_setfsgid, .arg = {0}});
	}
	todo_add(d, m[0], (struct eng_call){.nr = SYS_fstat, .arg = {open_at, at}, .from = 1});
	for (size_t i = 0; i < n; i++)
		todo_add(d, m[i], mmap_call(m[i], open_at, true));
	todo_add(d, m[0], (struct eng_call){.nr = SYS_close, .arg = {open_at}, .from = 1});
	r = eng_batch(p->threads[0], d->c, d->n, NULL);
	if ((int)d->c[open_at].ret < 0)
		r = error_set(&ours, -d->c[open_at].ret, "%s cannot be opened here: %s", m[0]->file->path, strerror(-d->c[open_at].ret));
	else if (r < 0)
		r = error_set(&ours, -r, "%s cannot be mapped here: %s", m[0]->file->path, strerror(-r));
	d->n = 0;
	if (r == 0)
		r = eng_peek(p, at, &st, sizeof(st));
	if (r == 0)
		r = check_file(m[0]->file, &st, rw, &ours);
	if (r == 0 || map_by_inode(d, m, n, rw) == 0)
		return 0;
	return error_set(d->e, -r, "%s", *ours.text ? ours.text : strerror(-r));
}

static int map_object(struct todo *d, const img_map *m)
{
	int fd = object_fd(d->p->family, m->object), r = todo_run(d);

	if (fd < 0)
		return error_set(d->e, EPROTO, "image: memory object %u is missing", m->object);
	if (r == 0)
		r = eng_fd_install(d->p, fd, OBJECT_NUM, O_CLOEXEC);
	if (r < 0)
		return error_set(d->e, -r, "process %d: shared memory cannot be given: %s", d->p->vpid, strerror(-r));
	todo_add(d, m, mmap_call(m, OBJECT_NUM, false));
	todo_add(d, m, (struct eng_call){.nr = SYS_close, .arg = {OBJECT_NUM}});
	return todo_run(d);
}

static bool same_file(const img_map *a, const img_map *b)
{
	return b->file && a->kind == b->kind && a->file->ino == b->file->ino && !strcmp(a->file->path, b->file->path);
}

/*
 * Big maps that are full of data get huge pages: filling them costs a third (measured: 256 MiB 41 ms instead of 120 ms). The advice stays on the map, where it
 * can do no harm, since there is hardly a page that is not there. (MADV_COLLAPSE would leave no trace, but costs more than it saves.)
 */
static bool wants_huge(const img_map *m)
{
	uint64_t len = m->end - m->start;

	return len >= (4 << 20) && m->pages >= len / 10 * 9 && !(m->flags & (MAPF_NOHUGE | MAPF_GROWSDOWN));
}

/* have: what is laid out already. */
static int make_maps(struct eng_proc *p, Sprite__Image__ImgMm *mm, const bool *have, struct error *e)
{
	struct todo d = {.p = p, .e = e};
	int r = 0;

	for (size_t i = 0; i < mm->n_map && r == 0; i++) {
		size_t n = 1;

		if (have[i])
			continue;
		switch (mm->map[i]->kind) {
		case KIND_ANON:
			r = todo_add(&d, mm->map[i], mmap_call(mm->map[i], -1, false));
			if (r == 0 && wants_huge(mm->map[i]))
				r = todo_add(&d, mm->map[i], (struct eng_call){.nr = SYS_madvise,
					.arg = {mm->map[i]->start, mm->map[i]->end - mm->map[i]->start, MADV_HUGEPAGE}, .may_fail = 1});
			break;
		case KIND_FILE_PRIV:
		case KIND_FILE_SHARED:
			if (!mm->map[i]->file)
				return error_set(e, EPROTO, "image: a file map without a file");
			while (i + n < mm->n_map && n < FILE_RUN_MAX && !have[i + n] && same_file(mm->map[i], mm->map[i + n]))
				n++;
			r = map_file(&d, mm->map + i, n);
			i += n - 1;
			break;
		case KIND_OBJECT:
			r = map_object(&d, mm->map[i]);
			break;
		default:
			return error_set(e, EPROTO, "image: unknown kind of memory %u", mm->map[i]->kind);
		}
	}
	return r < 0 ? r : todo_run(&d);
}

static bool same_content(const Sprite__Image__ImgFile *a, const Sprite__Image__ImgFile *b)
{
	return a->ino == b->ino && a->size == b->size && a->mtime == b->mtime && a->mode == b->mode && !strcmp(a->path, b->path);
}

/* Laid out ahead just as it is wanted, and nothing written to it yet. */
static bool laid_ahead(const img_map *pre, const img_map *m)
{
	return !pre->kept && pre->start == m->start && pre->end == m->end && pre->kind == m->kind && pre->shared == m->shared && pre->offset == m->offset &&
	       pre->flags == m->flags && !pre->file == !m->file && (!m->file || same_content(pre->file, m->file)) &&
	       (first_prot(pre) == first_prot(m) || first_prot(pre) & PROT_WRITE);
}

/* At home a hollow shows its arguments until it is sure that the family comes: the page that holds them stays out of what is laid ahead. A vessel that was made for it has none. */
static void argument_page(struct eng_proc *p, uint64_t *start, uint64_t *end)
{
	struct procfs_stat st;

	*start = *end = 0;
	if (p->core->caps || procfs_stat(p->dir, &st) < 0)
		return;
	*start = st.arg_start & ~0xfffULL;
	*end = (st.arg_end + 0xfff) & ~0xfffULL;
}

/*
 * What was laid ahead against what is wanted (both ascending): what is the same stays, in have[]; the rest goes. True of `kept` ones is that their pages came too.
 */
static int settle_pre(struct eng_proc *p, Sprite__Image__ImgMm *pre, const Sprite__Image__ImgMm *mm, bool final, bool *have, struct error *e)
{
	struct todo d = {.p = p, .e = e};
	size_t kept = 0, wanted = 0, k = 0;
	uint64_t args, args_end;
	int r = 0;

	for (size_t i = 0; i < mm->n_map; i++)
		wanted += final && mm->map[i]->kept;
	for (size_t i = 0; i < pre->n_map && r == 0; i++) {
		const img_map *m = pre->map[i];
		bool stays = false;

		while (k < mm->n_map && mm->map[k]->start < m->start)
			k++;
		if (k < mm->n_map && final && mm->map[k]->kept)
			stays = m->kept && mm->map[k]->start == m->start && mm->map[k]->end == m->end, kept += stays;
		else if (k < mm->n_map)
			stays = laid_ahead(m, mm->map[k]);
		if (stays)
			have[k] = true;
		else
			r = todo_add(&d, m, (struct eng_call){.nr = SYS_munmap, .arg = {m->start, m->end - m->start}});
	}
	if (r == 0 && kept != wanted)
		return error_set(e, EPROTO, "image: process %d: a kept map was never sent", p->vpid);
	argument_page(p, &args, &args_end);
	if (r == 0 && final && args)
		r = todo_add(&d, NULL, (struct eng_call){.nr = SYS_munmap, .arg = {args, args_end - args}});
	return r < 0 ? r : todo_run(&d);
}

/* An empty vessel, or a hollow. */
static int first_maps(struct eng_proc *p, const Sprite__Image__ImgMm *mm, bool final, struct error *e)
{
	uint64_t args = 0, args_end = 0;

	for (size_t i = 0; i < mm->n_map && final; i++)
		if (mm->map[i]->kept)
			return error_set(e, EPROTO, "image: process %d: a kept map was never sent", p->vpid);
	if (!final)
		argument_page(p, &args, &args_end);
	return memory_empty(p, args, args_end, e);
}

static void spare_arguments(struct eng_proc *p, Sprite__Image__ImgMm *mm)
{
	uint64_t args, args_end;

	argument_page(p, &args, &args_end);
	for (size_t i = mm->n_map; i-- > 0;)
		if (mm->map[i]->start < args_end && mm->map[i]->end > args) {
			sprite__image__img_map__free_unpacked(mm->map[i], NULL);
			memmove(&mm->map[i], &mm->map[i + 1], (--mm->n_map - i) * sizeof(mm->map[0]));
		}
}

static bool well_formed(const Sprite__Image__ImgMm *mm)
{
	for (size_t i = 1; mm && i < mm->n_map; i++)
		if (mm->map[i]->start < mm->map[i - 1]->end)
			return false;
	return mm && mm->n_bounds == 11;
}

static int lay_out(struct eng_proc *p, Sprite__Image__ImgMm *mm, Sprite__Image__ImgMm *pre, bool final, struct error *e)
{
	_cleanup_free_ bool *have = calloc(mm->n_map + 1, sizeof(*have));
	int r;

	if (!have)
		return error_set(e, ENOMEM, "no memory");
	r = pre ? settle_pre(p, pre, mm, final, have, e) : first_maps(p, mm, final, e);
	if (r == 0 && (!pre || pre->vdso_start != mm->vdso_start || pre->vvar_start != mm->vvar_start))
		r = vdso_place(p, mm->vvar_start, mm->vdso_start, mm->vdso_end, mm->vdso.data, mm->vdso.len, e);
	if (r == 0)
		r = make_maps(p, mm, have, e);
	for (size_t i = 0; i < mm->n_map && final; i++)
		mm->map[i]->kept = have[i]; /* protections may differ from what was laid */
	return r;
}

/* Opened for reading alone: what somebody may write cannot be a program. Its user's, and for nobody whom the file was not for. */
static int exe_of_body(const struct eng_proc *p, const Sprite__Image__ImgMm *mm)
{
	const char *name = strrchr(mm->exe->path, '/');
	_cleanup_close_ int fd = -1;
	char path[64], base[200];

	snprintf(base, sizeof(base), "%.*s", (int)strcspn(name ? name + 1 : "", " "), name ? name + 1 : "");
	fd = memfd_create(base, MFD_CLOEXEC | 0x10 /* MFD_EXEC */);
	if (fd < 0) /* before Linux 6.3 */
		fd = memfd_create(base, MFD_CLOEXEC);
	if (fd < 0 || io_write_all(fd, mm->exe_body.data, mm->exe_body.len) < 0 || fchown(fd, p->core->uid, p->core->gid) < 0 ||
	    fchmod(fd, (mm->exe->mode & 0777) | S_IRUSR | S_IXUSR) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* The program's own link, /proc/PID/exe. At home the hollow kept it, and may not set it. */
static int open_exe(struct eng_proc *p, Sprite__Image__ImgMm *mm, struct error *e)
{
	struct stat st, is;
	int fd;

	if (!p->core->caps || !mm->exe || p->core->exe_ahead)
		return -1;
	if (mm->exe_body.len) {
		fd = exe_of_body(p, mm);
		if (fd < 0)
			error_set(e, -fd, "process %d: its program has no name any more, and cannot be kept in memory here (vm.memfd_noexec?): %s", p->vpid, strerror(-fd));
		return fd < 0 ? -ESTALE : fd;
	}
	fd = eng_open(p, mm->exe->path, O_RDONLY, 0);
	if (fd < 0) {
		log_note("engine: process %d: %s cannot be opened here: /proc/PID/exe is not set: %s", p->vpid, mm->exe->path, strerror(-fd));
		return -1;
	}
	if (fstat(fd, &st) < 0 || check_file(mm->exe, &st, false, e) < 0) {
		close(fd);
		return -ESTALE;
	}
	if (fstatat(p->dir, "exe", &is, 0) == 0 && is.st_dev == st.st_dev && is.st_ino == st.st_ino) { /* its parent's vessel, which it was forked by, has the same */
		p->core->exe_ahead = true;
		close(fd);
		return -1;
	}
	return fd;
}

static int set_fields(struct eng_proc *p, Sprite__Image__ImgMm *mm, struct error *e)
{
	struct prctl_mm_map m = {0};
	uint64_t *b = mm->bounds, auxv, at;
	int fd = open_exe(p, mm, e);
	long r = 0;

	if (fd == -ESTALE)
		return fd;
	eng_scratch_reset(p);
	auxv = eng_scratch_put(p, mm->auxv.data, mm->auxv.len);
	m = (struct prctl_mm_map){.start_code = b[0], .end_code = b[1], .start_data = b[2], .end_data = b[3], .start_brk = b[4], .brk = b[5],
		.start_stack = b[6], .arg_start = b[7], .arg_end = b[8], .env_start = b[9], .env_end = b[10], .auxv = (void *)auxv,
		.auxv_size = mm->auxv.len, .exe_fd = -1};
	if (fd >= 0) {
		r = eng_fd_install(p, fd, OBJECT_NUM, O_CLOEXEC);
		m.exe_fd = OBJECT_NUM;
		close(fd);
	}
	at = eng_scratch_put(p, &m, sizeof(m));
	if (r == 0)
		r = ENG_SYS(p->threads[0], SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, at, sizeof(m));
	if (fd >= 0)
		ENG_SYS(p->threads[0], SYS_close, OBJECT_NUM);
	p->core->exe_ahead |= fd >= 0 && r >= 0;
	return r < 0 ? error_set(e, -r, "process %d: fields of its address space: %s", p->vpid, strerror(-r)) : 0;
}

static int drop_ahead(struct eng_proc *p, struct error *e)
{
	uint64_t args, args_end;

	sprite__image__img_mm__free_unpacked(p->core->pre, NULL);
	p->core->pre = NULL;
	p->core->exe_ahead = false;
	argument_page(p, &args, &args_end);
	return memory_empty(p, args, args_end, e);
}

int memory_forget_ahead(struct eng_proc *p, struct error *e)
{
	return p->core->pre ? drop_ahead(p, e) : 0;
}

static bool has_kept(const Sprite__Image__ImgMm *mm)
{
	for (size_t i = 0; i < mm->n_map; i++)
		if (mm->map[i]->kept)
			return true;
	return false;
}

/* A guess that does not work out is given up: if there is a reason, it is told when the true record comes. Pages that follow need their maps, though. */
static int fill_ahead(struct eng_proc *p, Sprite__Image__ImgMm *mm, struct error *e)
{
	Sprite__Image__ImgMm *before = p->core->pre;
	struct error guess = {0};
	int r;

	spare_arguments(p, mm);
	r = lay_out(p, mm, before, false, &guess);

	if (before && (!before->exe || !mm->exe || !same_content(before->exe, mm->exe)))
		p->core->exe_ahead = false;
	sprite__image__img_mm__free_unpacked(before, NULL);
	p->core->pre = mm;
	if (r < 0 && has_kept(mm))
		return error_set(e, -r, "%s", guess.text);
	if (r < 0)
		return drop_ahead(p, e);
	if (p->core->caps && !p->core->exe_ahead && set_fields(p, mm, &guess) < 0)
		log_debug("engine: process %d: fields ahead: %s", p->vpid, guess.text);
	return 0;
}

static int fill_mm(struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	Sprite__Image__ImgMm *mm = sprite__image__img_mm__unpack(NULL, len, body), *pre = p->core->pre;
	int r;

	if (!well_formed(mm) || p->core->mm) {
		sprite__image__img_mm__free_unpacked(mm, NULL);
		return error_set(e, EPROTO, "image: process %d: memory record is not what it should be", p->vpid);
	}
	if (type == IMG_PRE_MM)
		return fill_ahead(p, mm, e);
	p->core->mm = mm;
	p->core->pre = NULL;
	r = lay_out(p, mm, pre, true, e);
	if (pre && (!pre->exe || !mm->exe || !same_content(pre->exe, mm->exe)))
		p->core->exe_ahead = false;
	sprite__image__img_mm__free_unpacked(pre, NULL);
	return r;
}

/* Pages that were sent ahead and that the program has given back since. */
static int fill_drop(struct eng_proc *p, const char *body, size_t len, struct error *e)
{
	const struct run *run = (const void *)body;
	struct todo d = {.p = p, .e = e};
	int r = len % sizeof(*run) ? -EPROTO : 0;

	for (size_t i = 0; i < len / sizeof(*run) && r == 0; i++)
		r = todo_add(&d, NULL, (struct eng_call){.nr = SYS_madvise, .arg = {run[i].start, run[i].end - run[i].start, MADV_DONTNEED}});
	if (r == 0)
		r = todo_run(&d);
	return r < 0 ? error_set(e, -r, "image: process %d: bad list of pages given back", p->vpid) : 0;
}

void memory_release(struct eng_family *f, struct eng_proc *p)
{
	(void)f;
	if (!p)
		return;
	sprite__image__img_mm__free_unpacked(p->core->mm, NULL);
	sprite__image__img_mm__free_unpacked(p->core->pre, NULL);
	p->core->mm = p->core->pre = NULL;
	p->core->exe_ahead = false;
	precopy_free(p);
}

/* ---- pages ------------------------------------------------------------------------------------------ */
static int fill_pages(struct eng_proc *p, const char *body, size_t len, struct error *e)
{
	struct iovec local, remote[512];
	const struct run *run = (const void *)(body + 8);
	uint64_t n, bytes = 0;

	if (len < 8)
		return error_set(e, EPROTO, "image: short pages record");
	memcpy(&n, body, 8);
	if (n > 512 || len < 8 + n * sizeof(*run))
		return error_set(e, EPROTO, "image: pages record with %lu runs", (long)n);
	for (size_t i = 0; i < n; i++) {
		if (run[i].end < run[i].start)
			return error_set(e, EPROTO, "image: pages record with a bad run");
		remote[i] = (struct iovec){(void *)run[i].start, run[i].end - run[i].start};
		bytes += remote[i].iov_len;
	}
	if (len != 8 + n * sizeof(*run) + bytes)
		return error_set(e, EPROTO, "image: pages record of the wrong length");
	local = (struct iovec){(void *)(body + 8 + n * sizeof(*run)), bytes};
	if (process_vm_writev(p->pid, &local, 1, remote, n, 0) != (ssize_t)bytes)
		return error_set(e, EFAULT, "process %d: %lu bytes of memory cannot be written: %s", p->vpid, (long)bytes, strerror(errno));
	return 0;
}

int memory_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	(void)f;
	if (!p)
		return error_set(e, EPROTO, "image: memory of no process");
	if (type == IMG_DROP)
		return fill_drop(p, body, len, e);
	return type == IMG_PAGES ? fill_pages(p, body, len, e) : fill_mm(p, type, body, len, e);
}

/* ---- the end ---------------------------------------------------------------------------------------- */
static const struct {
	uint64_t flag;
	int advice;
} advices[] = {{MAPF_SEQ, MADV_SEQUENTIAL}, {MAPF_RAND, MADV_RANDOM}, {MAPF_DONTCOPY, MADV_DONTFORK}, {MAPF_DONTDUMP, MADV_DONTDUMP},
	{MAPF_WIPEONFORK, MADV_WIPEONFORK}, {MAPF_HUGE, MADV_HUGEPAGE}, {MAPF_NOHUGE, MADV_NOHUGEPAGE}, {MAPF_MERGE, MADV_MERGEABLE}};

static int set_protections(struct eng_proc *p, Sprite__Image__ImgMm *mm, struct error *e)
{
	static const struct rlimit no_limit = {RLIM_INFINITY, RLIM_INFINITY};
	struct todo d = {.p = p, .e = e};
	bool locks = false;
	int r = 0;

	for (size_t i = 0; i < mm->n_map; i++)
		locks |= mm->map[i]->flags & MAPF_LOCKED;
	if (locks && p->core->caps) /* a vessel has our limit until its own is set (res_limits.c) */
		prlimit(p->pid, RLIMIT_MEMLOCK, &no_limit, NULL);
	for (size_t i = 0; i < mm->n_map && r == 0; i++) {
		const img_map *m = mm->map[i];

		for (size_t k = 0; k < ARRAY_SIZE(advices) && r == 0; k++)
			if (m->flags & advices[k].flag)
				r = todo_add(&d, m,
					(struct eng_call){.nr = SYS_madvise, .arg = {m->start, m->end - m->start, advices[k].advice}, .may_fail = 1});
		for (size_t k = 0; k + 1 < m->n_guard && r == 0; k += 2) /* before it is locked */
			r = todo_add(&d, m, (struct eng_call){.nr = SYS_madvise, .arg = {m->guard[k], m->guard[k + 1] - m->guard[k], 102 /* MADV_GUARD_INSTALL */}});
		if (r == 0 && (first_prot(m) != m->prot || m->kept))
			r = todo_add(&d, m, (struct eng_call){.nr = SYS_mprotect, .arg = {m->start, m->end - m->start, m->prot}});
		/* Locked it is, or the move fails; then there to its last page, which some maps cannot be and others need not. */
		if (r == 0 && m->flags & MAPF_LOCKED)
			r = todo_add(&d, m, (struct eng_call){.nr = SYS_mlock2, .arg = {m->start, m->end - m->start, MLOCK_ONFAULT}});
		if (r == 0 && m->flags & MAPF_LOCKED && !(m->flags & MAPF_ONFAULT))
			r = todo_add(&d, m, (struct eng_call){.nr = SYS_mlock2, .arg = {m->start, m->end - m->start, 0}, .may_fail = 1});
	}
	return r < 0 ? r : todo_run(&d);
}

int memory_finish(struct eng_proc *p, struct error *e)
{
	Sprite__Image__ImgMm *mm = p->core->mm;
	int r;

	if (!mm)
		return error_set(e, EPROTO, "image: process %d has no memory record", p->vpid);
	r = set_protections(p, mm, e);
	if (r == 0)
		r = set_fields(p, mm, e);
	inject_transfer_close(p); /* the descriptors' module starts from none */
	p->core->mm = NULL;
	sprite__image__img_mm__free_unpacked(mm, NULL);
	return r;
}

/* The home's side of leaving: all goes but the pages that hold the arguments, which ps shows, and the environment beside them. */
int memory_hollow(struct eng_proc *p, struct error *e)
{
	struct procfs_stat st;
	int r = procfs_stat(p->dir, &st);

	memory_release(p->family, p); /* of a fill that was given up */
	if (r < 0)
		return r;
	/* What is mapped here later shall be as its image says: neither locked nor merged. */
	ENG_SYS(p->threads[0], SYS_munlockall, 0);
	ENG_SYS(p->threads[0], SYS_prctl, 67 /* PR_SET_MEMORY_MERGE */, 0, 0, 0, 0);
	return memory_empty(p, st.arg_start & ~0xfffULL, (st.arg_end + 0xfff) & ~0xfffULL, e);
}
