// SPDX-License-Identifier: Apache-2.0
/*
 * The address space, source side: what is mapped and which pages only this process has. The destination's half is memory_fill.c.
 *
 * Private anonymous pages and private copies of file pages travel; file pages are read again from the file, which must be the same one there. A private map
 * of a file that has been deleted travels as anonymous memory with the file's contents. Shared anonymous memory travels once a family (objects.c).
 */
#include "migd/engine/res_memory.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/inject.h"
#include "migd/engine/res_util.h"
#include "rpc/image.pb-c.h"

enum { CHUNK = 4 << 20, CHUNK_RUNS = 512 }; /* long runs end at multiples of CHUNK, so that huge pages are whole in a record */

bool memory_is_deleted(const char *path)
{
	size_t n = strlen(path);

	return n > 10 && !strcmp(path + n - 10, " (deleted)");
}

/* Why this map cannot be carried; NULL: it can. */
static const char *map_refusal(pid_t pid, const struct map *m, bool goes_home)
{
	if (m->kind == KIND_VVAR || m->kind == KIND_VDSO || m->kind == KIND_VSYSCALL)
		return NULL;
	if (m->flags & MAPF_HUGETLB)
		return "memory of hugetlbfs: use transparent huge pages (madvise)";
	if (m->flags & MAPF_DEVICE)
		return "a device is mapped: close it first";
	if (m->flags & MAPF_UFFD || (m->flags & MAPF_UFFD_WP && !precopy_watches(pid, m)))
		return "memory under userfaultfd: end its user first";
	if (m->flags & MAPF_SHADOW)
		return "a shadow stack (CET): start it without (GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK)";
	if (m->flags & MAPF_SEALED)
		return "sealed memory (mseal): cannot be laid out again";
	if (m->pkey && m->prot != PROT_EXEC) /* the kernel gives one to memory that may only be run, by itself */
		return "has a protection key (pkey_mprotect), which is not carried: give it key 0 first";
	if (!strncmp(m->path, "anon_inode:", 11) || !strncmp(m->path, "/anon_inode", 11) || !strncmp(m->path, "anon_inode", 10))
		return "an io_uring, AIO, perf or bpf ring is mapped: close it first";
	if (!strncmp(m->path, "/[aio]", 6))
		return "AIO rings are in use (io_setup): io_destroy them first";
	if (!strncmp(m->path, "socket:", 7))
		return "a packet socket's ring is mapped: close it first";
	if (m->kind == KIND_FILE_SHARED && memory_is_deleted(m->path) && !goes_home)
		return "a shared map of a file that has been deleted: keep the file until the process ends";
	if (m->kind == KIND_FILE_SHARED && !strncmp(m->path, "/dev/", 5))
		return "a shared map of a device: close it first";
	return NULL;
}

/* On a kernel that has guard regions and does not tell them from swapped pages. */
static void probe_guards(struct eng_probe *p, const struct maps *maps)
{
	if (pagemap_tells_guards())
		return;
	for (size_t i = 0; i < maps->n; i++) {
		const struct map *m = &maps->m[i];

		if (m->kind == KIND_ANON && m->prot & PROT_READ && pagemap_unreadable(p->dir, p->pid, m->start, m->end))
			eng_reason(p, "memory %lx-%lx %s: has guard regions, which this kernel does not tell (Linux 6.15 does)", (long)m->start, (long)m->end, m->path);
	}
}

/*
 * The kernel of a guest host learns that a name at home leads to another file by now, or nowhere, when somebody asks for it. Then it shows the file as deleted, and we
 * carry what is mapped of it. At home we need not know.
 */
static void ask_for_names(struct eng_probe *p, const struct maps *maps)
{
	_cleanup_close_ int root = p->nest && !p->goes_home ? openat(p->dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	struct stat st;

	for (size_t i = 0; root >= 0 && i < maps->n; i++)
		if (maps->m[i].kind == KIND_FILE_PRIV && *maps->m[i].path == '/' && (!i || strcmp(maps->m[i].path, maps->m[i - 1].path)))
			(void)!fstatat(root, maps->m[i].path + 1, &st, 0);
}

/* It is run by who may not read it: over there it could not be mapped. Away it is known to be open. */
static void probe_program(struct eng_probe *p)
{
	char path[PATH_MAX];

	if (!p->nest && res_readlink(p->dir, "exe", path, sizeof(path)) > 0 && *path == '/' && !memory_is_deleted(path) && !res_may(p->dir, path, R_OK))
		eng_reason(p, "program %s may be executed by its user, but not read: let him (chmod u+r)", path);
}

static int memory_probe(struct eng_probe *p)
{
	struct maps *maps;
	char file[64];
	int r = procfs_maps(p->dir, true, &maps);

	if (r < 0)
		return r;
	if (p->sizes)
		p->sizes->maps += maps->n;
	for (size_t i = 0; i < maps->n; i++) {
		const struct map *m = &maps->m[i];
		const char *why = map_refusal(p->pid, m, p->goes_home);

		if (why) {
			eng_reason(p, "memory %lx-%lx %s: %s", (long)m->start, (long)m->end, m->path, why);
		} else if (m->kind == KIND_OBJECT && !strncmp(m->path, "/dev/shm/", 9)) {
			snprintf(file, sizeof(file), "map_files/%lx-%lx", (long)m->start, (long)m->end);
			object_probe_shm(p, file);
		}
	}
	probe_guards(p, maps);
	probe_program(p);
	ask_for_names(p, maps);
	maps_free(maps);
	return 0;
}

/* ---- pages ---------------------------------------------------------------------------------------- */
struct packer {
	struct eng_proc *p;
	struct eng_image *out;
	char *body; /* reserved in the image's buffer */
	struct run run[CHUNK_RUNS];
	size_t nruns, bytes;
	bool soft;
};

/* By the debugger's way, page by page: maps without read permission. */
static int read_hard(struct eng_proc *p, char *to, const struct run *run, size_t n, bool soft)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t at = run[i].start;

		while (at < run[i].end) {
			ssize_t r = pread(p->core->mem, to, run[i].end - at, at);

			if (r <= 0 && soft) { /* gone: the final look will say so */
				r = 4096 - at % 4096;
				memset(to, 0, r);
			}
			if (r <= 0)
				return r < 0 ? -errno : -ESRCH;
			to += r;
			at += r;
		}
	}
	return 0;
}

static int pack_flush(struct packer *k)
{
	struct iovec remote[CHUNK_RUNS], local;
	uint64_t head = k->nruns;
	size_t at = 8 + k->nruns * sizeof(struct run);
	int r = 0;

	if (!k->nruns)
		return 0;
	k->body = image_reserve(k->out, at + k->bytes);
	if (!k->body)
		return -EPIPE;
	memcpy(k->body, &head, 8);
	memcpy(k->body + 8, k->run, k->nruns * sizeof(struct run));
	local = (struct iovec){k->body + at, k->bytes};
	for (size_t i = 0; i < k->nruns; i++)
		remote[i] = (struct iovec){(void *)k->run[i].start, k->run[i].end - k->run[i].start};
	if (process_vm_readv(k->p->pid, &local, 1, remote, k->nruns, 0) != (ssize_t)k->bytes)
		r = read_hard(k->p, local.iov_base, k->run, k->nruns, k->soft);
	if (r == 0)
		r = image_commit(k->out, IMG_PAGES, k->p->vpid, at + k->bytes);
	k->nruns = 0;
	k->bytes = 0;
	return r;
}

static int pack(struct packer *k, uint64_t start, uint64_t end)
{
	while (start < end) {
		uint64_t room = CHUNK - k->bytes, take = end - start < room ? end - start : room;

		if (take == room && room > CHUNK / 2 && start / CHUNK != (start + take) / CHUNK && (start + take) % CHUNK)
			take = (start + take) / CHUNK * CHUNK - start;

		k->run[k->nruns++] = (struct run){start, start + take};
		k->bytes += take;
		start += take;
		if (k->bytes == CHUNK || start % CHUNK == 0 || k->nruns == CHUNK_RUNS) {
			int r = pack_flush(k);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

int memory_put_pages(struct eng_proc *p, struct eng_image *out, const struct run *runs, size_t n, bool soft)
{
	struct packer *k = calloc(1, sizeof(*k));
	int r = k ? 0 : -ENOMEM;

	if (k) {
		k->p = p;
		k->out = out;
		k->soft = soft;
	}
	for (size_t i = 0; i < n && r == 0; i++)
		r = pack(k, runs[i].start, runs[i].end);
	if (r == 0)
		r = pack_flush(k);
	free(k);
	return r;
}

/* ---- description ---------------------------------------------------------------------------------- */

static int file_of(struct eng_proc *p, const struct map *m, Sprite__Image__ImgFile *f)
{
	char name[64];
	struct stat st;

	snprintf(name, sizeof(name), "map_files/%lx-%lx", (long)m->start, (long)m->end);
	if (fstatat(p->dir, name, &st, 0) < 0)
		return -errno;
	f->path = m->path;
	f->ino = st.st_ino;
	f->size = st.st_size;
	f->mtime = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
	f->mode = st.st_mode;
	return 0;
}

static int plan_map(struct eng_proc *p, struct map *m, Sprite__Image__ImgMap *im, Sprite__Image__ImgFile *file, struct rest *plan, struct error *e)
{
	int r = 0;

	im->start = m->start;
	im->end = m->end;
	im->prot = m->prot;
	im->shared = m->shared;
	im->offset = m->offset;
	im->flags = m->flags & ~MAPF_UFFD_WP;
	if (m->kind == KIND_FILE_PRIV && memory_is_deleted(m->path)) {
		m->kind = KIND_ANON;
		plan->dirty = malloc(sizeof(*plan->dirty));
		if (!plan->dirty)
			return -ENOMEM;
		plan->dirty[0] = (struct run){m->start, m->end};
		plan->ndirty = 1;
	} else if ((m->kind == KIND_ANON || m->kind == KIND_FILE_PRIV) && precopy_rest(p, m, plan) == 1) {
		im->kept = true;
	} else if (m->kind == KIND_ANON || m->kind == KIND_FILE_PRIV) {
		r = pagemap_runs(p->dir, m->start, m->end, m->kind == KIND_FILE_PRIV, &plan->dirty, &plan->ndirty, &plan->guard, &plan->nguard);
	}
	im->kind = m->kind;
	if (r == 0 && (m->kind == KIND_FILE_PRIV || m->kind == KIND_FILE_SHARED)) {
		r = file_of(p, m, file);
		im->file = file;
		im->writable_open = m->shared && (m->flags & MAPF_MAYWRITE || m->prot & PROT_WRITE);
	}
	if (r == 0 && m->kind == KIND_OBJECT)
		r = object_number(p, m, &im->object);
	for (size_t i = 0; i < plan->ndirty; i++)
		im->pages += plan->dirty[i].end - plan->dirty[i].start;
	im->guard = (uint64_t *)plan->guard;
	im->n_guard = 2 * plan->nguard;
	return r < 0 ? error_set(e, -r, "process %d: memory %lx-%lx %s: %s", p->vpid, (long)m->start, (long)m->end, m->path, strerror(-r)) : 0;
}

static int put_bounds(struct eng_proc *p, uint64_t b[11])
{
	struct procfs_stat st;
	long brk = ENG_SYS(p->threads[0], SYS_brk, 0);
	int r = procfs_stat(p->dir, &st);

	if (brk < 0 || r < 0)
		return r < 0 ? r : brk;
	memcpy(b, (uint64_t[11]){st.start_code, st.end_code, st.start_data, st.end_data, st.start_brk, brk, st.start_stack, st.arg_start, st.arg_end,
			  st.env_start, st.env_end},
		11 * sizeof(uint64_t));
	return 0;
}

static int put_exe(struct eng_proc *p, Sprite__Image__ImgFile *f, char *path, size_t len)
{
	struct stat st;
	ssize_t n = readlinkat(p->dir, "exe", path, len - 1);

	if (n < 0)
		return -errno;
	path[n] = '\0';
	if (fstatat(p->dir, "exe", &st, 0) < 0)
		return -errno;
	res_undelete(p->dir, path, &st);
	f->path = path;
	f->ino = st.st_ino;
	f->size = st.st_size;
	f->mtime = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
	f->mode = st.st_mode;
	return 0;
}

enum { EXE_MAX = 6 << 20 }; /* it is part of one record (IMG_MAX) */

/* A program that was deleted (built anew while it runs), or never had a name (a memfd): it may execute itself again. One that is too big: a byte, which nobody can execute. */
static bool exe_nameless(int dir, struct stat *st)
{
	char path[4096];
	ssize_t n = readlinkat(dir, "exe", path, sizeof(path) - 1);

	if (n < 0 || fstatat(dir, "exe", st, 0) < 0)
		return false;
	path[n] = '\0';
	return memory_is_deleted(path) && !res_undelete(dir, path, st);
}

static int put_exe_body(struct eng_proc *p, ProtobufCBinaryData *out)
{
	struct stat st;
	_cleanup_close_ int fd = -1;
	ssize_t n;

	if (p->family->hooks.goes_home || !exe_nameless(p->dir, &st)) /* its hollow has it */
		return 0;
	if (st.st_size > EXE_MAX)
		st.st_size = 1;
	fd = openat(p->dir, "exe", O_RDONLY | O_CLOEXEC);
	out->data = fd < 0 ? NULL : malloc(st.st_size + 1);
	if (!out->data)
		return fd < 0 ? -errno : -ENOMEM;
	while ((n = pread(fd, out->data + out->len, st.st_size - out->len, out->len)) > 0)
		out->len += n;
	return n < 0 ? -errno : 0;
}

static int put_vdso(struct eng_proc *p, const struct map *m, Sprite__Image__ImgMm *mm)
{
	if (m->kind == KIND_VVAR && !mm->vvar_start)
		mm->vvar_start = m->start;
	if (m->kind == KIND_VVAR)
		mm->vvar_end = m->end;
	if (m->kind != KIND_VDSO)
		return 0;
	mm->vdso_start = m->start;
	mm->vdso_end = m->end;
	mm->vdso.len = m->end - m->start;
	mm->vdso.data = malloc(mm->vdso.len);
	return mm->vdso.data ? eng_peek(p, m->start, mm->vdso.data, mm->vdso.len) : -ENOMEM;
}

/* What the source wrote through shared file maps must be in the file before anybody reads it elsewhere. */
static void flush_shared(struct eng_proc *p, const struct map *m)
{
	if (m->kind == KIND_FILE_SHARED && m->prot & PROT_WRITE)
		ENG_SYS(p->threads[0], SYS_msync, m->start, m->end - m->start, MS_SYNC);
}

struct mm_build {
	Sprite__Image__ImgMm mm;
	Sprite__Image__ImgMap *map, **list;
	Sprite__Image__ImgFile *file, exe;
	struct rest *plan;
	uint64_t bounds[11];
	char exe_path[4096];
	char *auxv;
};

static void build_free(struct mm_build *b, size_t n)
{
	if (!b)
		return;
	for (size_t i = 0; b->plan && i < n; i++)
		free(b->plan[i].dirty), free(b->plan[i].drop), free(b->plan[i].guard);
	free(b->map);
	free(b->list);
	free(b->file);
	free(b->plan);
	free(b->mm.vdso.data);
	free(b->mm.exe_body.data);
	free(b->auxv);
	free(b);
}

static struct mm_build *build_new(size_t n)
{
	struct mm_build *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	sprite__image__img_mm__init(&b->mm);
	b->map = calloc(n, sizeof(*b->map));
	b->list = calloc(n, sizeof(*b->list));
	b->file = calloc(n, sizeof(*b->file));
	b->plan = calloc(n, sizeof(*b->plan));
	if (b->map && b->list && b->file && b->plan)
		return b;
	build_free(b, n);
	return NULL;
}

static bool is_ours(const struct eng_proc *p, const struct map *m)
{
	return m->start >= p->core->blob && m->end <= p->core->blob + blob_size(p->core->nslots);
}

/* mlockall(MCL_FUTURE): nothing tells, but what we have mapped in the process is locked then. Only where anything is locked at all the maps are read for it. */
static void see_mlockall(struct eng_proc *p)
{
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);
	struct maps *maps;

	p->core->mlockall = 0;
	if (!res_field_u64(status, "VmLck", 10, 0) || procfs_maps(p->dir, true, &maps) < 0)
		return;
	for (size_t i = 0; i < maps->n; i++)
		if (is_ours(p, &maps->m[i]) && maps->m[i].flags & MAPF_LOCKED)
			p->core->mlockall = MCL_FUTURE | (maps->m[i].flags & MAPF_ONFAULT ? MCL_ONFAULT : 0);
	maps_free(maps);
}

static int build(struct eng_proc *p, struct maps *maps, struct mm_build *b, struct error *e)
{
	size_t n = 0;
	int r = 0;

	see_mlockall(p);
	for (size_t i = 0; i < maps->n && r == 0; i++) {
		struct map *m = &maps->m[i];
		const char *why = map_refusal(p->pid, m, p->family->hooks.goes_home);

		if (is_ours(p, m))
			continue;
		if (why)
			return error_set(e, EOPNOTSUPP, "process %d: memory %lx-%lx %s: %s", p->vpid, (long)m->start, (long)m->end, m->path, why);
		if (m->kind == KIND_VSYSCALL || m->kind == KIND_SYSV) /* the latter: res_sysv.c */
			continue;
		if (m->kind == KIND_VVAR || m->kind == KIND_VDSO) {
			r = put_vdso(p, m, &b->mm);
			continue;
		}
		sprite__image__img_map__init(&b->map[n]);
		sprite__image__img_file__init(&b->file[n]);
		r = plan_map(p, m, &b->map[n], &b->file[n], &b->plan[n], e);
		flush_shared(p, m);
		b->list[n] = &b->map[n];
		n++;
	}
	b->mm.map = b->list;
	b->mm.n_map = n;
	return r;
}

static int dump_mm(struct eng_proc *p, struct maps *maps, struct mm_build *b, struct eng_image *out, struct error *e)
{
	struct packer *k = calloc(1, sizeof(*k));
	int r = k ? build(p, maps, b, e) : -ENOMEM;

	if (r == 0)
		r = put_bounds(p, b->bounds);
	if (r == 0) {
		sprite__image__img_file__init(&b->exe);
		if (put_exe(p, &b->exe, b->exe_path, sizeof(b->exe_path)) == 0)
			b->mm.exe = &b->exe;
		b->mm.bounds = b->bounds;
		b->mm.n_bounds = 11;
		b->auxv = eng_proc_read(p->dir, "auxv", &b->mm.auxv.len);
		b->mm.auxv.data = (void *)b->auxv;
		r = put_exe_body(p, &b->mm.exe_body);
		if (r == 0)
			r = eng_image_put_msg(out, IMG_MM, p->vpid, &b->mm.base);
	}
	if (r == 0) {
		k->p = p;
		k->out = out;
		for (size_t i = 0; i < b->mm.n_map && r == 0; i++)
			for (size_t j = 0; j < b->plan[i].ndirty && r == 0; j++)
				r = pack(k, b->plan[i].dirty[j].start, b->plan[i].dirty[j].end);
		if (r == 0)
			r = pack_flush(k);
		for (size_t i = 0; i < b->mm.n_map && r == 0; i++)
			if (b->plan[i].ndrop)
				r = eng_image_put(out, IMG_DROP, p->vpid, b->plan[i].drop, b->plan[i].ndrop * sizeof(struct run));
	}
	free(k);
	return r < 0 ? error_set(e, -r, "process %d: memory cannot be read: %s", p->vpid, strerror(-r)) : 0;
}

static int memory_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	int r = p->core->reader ? precopy_last(p, out) : 0;
	struct maps *maps = r < 0 ? NULL : dump_maps(p);
	struct mm_build *b = maps ? build_new(maps->n) : NULL;

	if (!maps)
		return error_set(e, r < 0 ? -r : ESRCH, "process %d: its %s cannot be read", p->vpid, r < 0 ? "memory" : "maps");
	r = b ? dump_mm(p, maps, b, out, e) : -ENOMEM;
	build_free(b, maps->n);
	return r < 0 ? r : image_flush(out); /* the destination lays it out while we go on reading */
}

/* ---- ahead ----------------------------------------------------------------------------------------- */
/* A guess at one map of a process that may be running. 0: it is in; 1: not worth it, or gone meanwhile. */
static int ahead_map(struct eng_proc *p, const struct map *m, Sprite__Image__ImgMap *im, Sprite__Image__ImgFile *file)
{
	struct run *runs;
	size_t n;

	if ((m->kind != KIND_ANON && m->kind != KIND_FILE_PRIV) || map_refusal(p->pid, m, false) || (m->kind == KIND_FILE_PRIV && memory_is_deleted(m->path)) ||
	    is_ours(p, m))
		return 1;
	sprite__image__img_map__init(im);
	sprite__image__img_file__init(file);
	im->start = m->start;
	im->end = m->end;
	im->prot = m->prot;
	im->kind = m->kind;
	im->offset = m->offset;
	im->flags = m->flags & ~MAPF_UFFD_WP;
	im->kept = precopy_watched(p, m);
	if (m->kind == KIND_FILE_PRIV && file_of(p, m, file) < 0)
		return 1;
	im->file = m->kind == KIND_FILE_PRIV ? file : NULL;
	if (pagemap_runs(p->dir, m->start, m->end, m->kind == KIND_FILE_PRIV, &runs, &n, NULL, NULL) < 0)
		return 1;
	for (size_t k = 0; k < n; k++)
		im->pages += runs[k].end - runs[k].start;
	free(runs);
	if (im->kept)
		im->pages += 4096; /* some will come: it must be writable over there */
	return 0;
}

/* As put_bounds(), without asking the process: brk is where the heap's map ends. */
static void ahead_bounds(struct eng_proc *p, const struct maps *maps, struct mm_build *b)
{
	struct procfs_stat st;
	uint64_t brk;

	if (procfs_stat(p->dir, &st) < 0)
		return;
	brk = st.start_brk;
	for (size_t i = 0; i < maps->n; i++)
		if (!strcmp(maps->m[i].path, "[heap]"))
			brk = maps->m[i].end;
	memcpy(b->bounds, (uint64_t[11]){st.start_code, st.end_code, st.start_data, st.end_data, st.start_brk, brk, st.start_stack, st.arg_start, st.arg_end,
			  st.env_start, st.env_end},
		sizeof(b->bounds));
	b->mm.bounds = b->bounds;
	b->mm.n_bounds = 11;
	sprite__image__img_file__init(&b->exe);
	if (put_exe(p, &b->exe, b->exe_path, sizeof(b->exe_path)) == 0 && !memory_is_deleted(b->exe_path))
		b->mm.exe = &b->exe;
	b->auxv = eng_proc_read(p->dir, "auxv", &b->mm.auxv.len);
	b->mm.auxv.data = (void *)b->auxv;
}

static int put_ahead(struct eng_proc *p, const struct maps *maps, struct mm_build *b, struct eng_image *out)
{
	int r = 0;

	for (size_t i = 0; i < maps->n && r == 0; i++) {
		const struct map *m = &maps->m[i];
		size_t n = b->mm.n_map;

		if (m->kind == KIND_VDSO || m->kind == KIND_VVAR)
			r = put_vdso(p, m, &b->mm);
		else if (ahead_map(p, m, &b->map[n], &b->file[n]) == 0)
			b->list[b->mm.n_map++] = &b->map[n];
	}
	b->mm.map = b->list;
	ahead_bounds(p, maps, b);
	return r == 0 ? eng_image_put_msg(out, IMG_PRE_MM, p->vpid, &b->mm.base) : 0; /* it execs or ends just now: no guess then */
}

int memory_put_ahead(struct eng_proc *p, const struct maps *maps, struct eng_image *out)
{
	struct mm_build *b = build_new(maps->n);
	int r = b ? put_ahead(p, maps, b, out) : -ENOMEM;

	build_free(b, maps->n);
	return r;
}

const struct eng_res res_memory = {
	.name = "memory",
	.types = {IMG_PRE_MM, IMG_DROP},
	.probe = memory_probe,
	.dump = memory_dump,
	.fill = memory_fill,
	.finish = memory_finish,
	.hollow = memory_hollow,
	.release = memory_release,
};
