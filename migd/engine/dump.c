// SPDX-License-Identifier: Apache-2.0
/*
 * From frozen to image: the blob into every process, every thread's registers turned to the parking loop (so that our death leaves it parked), then what the
 * modules write. The source's own processes are only looked at: eng_thaw() undoes all.
 */
#include "migd/engine/devices.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/guard.h"
#include "migd/engine/inject.h"
#include "migd/engine/memory.h"
#include "rpc/image.pb-c.h"

static int park_all(struct eng_proc *p)
{
	for (unsigned i = 0; i < p->nthreads; i++) {
		struct eng_thread *t = p->threads[i];
		struct blob_slot s = {.taken = (uint32_t)clock_mono_ns(), .vtid = t->vtid, .sigmask = t->sigmask, .regs = t->core->frozen, .ncpus = t->core->ncpus};
		int r;

		memcpy(s.cpus, t->core->cpus, sizeof(s.cpus));
		r = eng_poke(p, t->core->slot, &s, sizeof(s));

		if (r == 0)
			r = inject_park(t);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * The flags of maps stand in /proc/PID/smaps alone, for which the kernel looks at each page: 8 ms a GiB, as long as all else of a freeze. So of who is big and was sent
 * ahead only the layout is read at first; the flags come while the last of its pages go, by another thread, on another processor.
 */
struct maps_reader {
	pthread_t thread;
	int dir;
	struct maps *maps;
};

static void *reader_main(void *arg)
{
	struct maps_reader *r = arg;
	cpu_set_t any;

	memset(&any, 0xff, sizeof(any)); /* not on the one that its maker is kept on (pin.c) */
	sched_setaffinity(0, sizeof(any), &any);
	procfs_maps(r->dir, true, &r->maps);
	return NULL;
}

static void reader_start(struct eng_proc *p)
{
	struct maps_reader *r = p->core->layout && !p->core->maps && !p->core->reader ? calloc(1, sizeof(*r)) : NULL;

	if (!r)
		return;
	r->dir = p->dir;
	if (pthread_create(&r->thread, NULL, reader_main, r) == 0)
		p->core->reader = r;
	else
		free(r); /* dump_maps() does it */
}

static void reader_end(struct eng_proc *p)
{
	struct maps_reader *r = p->core->reader;

	if (!r)
		return;
	pthread_join(r->thread, NULL);
	maps_free(p->core->maps);
	p->core->maps = r->maps;
	p->core->reader = NULL;
	free(r);
}

void dump_look(struct eng_proc *p)
{
	dump_maps_free(p);
	procfs_maps(p->dir, !precopy_big(p), precopy_big(p) ? &p->core->layout : &p->core->maps);
}

void dump_maps_free(struct eng_proc *p)
{
	reader_end(p);
	maps_free(p->core->maps);
	maps_free(p->core->layout);
	p->core->maps = p->core->layout = NULL;
}

struct maps *dump_layout(struct eng_proc *p)
{
	return p->core->layout && !p->core->maps ? p->core->layout : dump_maps(p);
}

struct maps *dump_maps(struct eng_proc *p)
{
	reader_end(p);
	if (!p->core->maps)
		procfs_maps(p->dir, true, &p->core->maps);
	return p->core->maps;
}

int dump_blob_in(struct eng_proc *p, struct error *e)
{
	struct maps *layout;
	int r;

	if (p->core->blob_in)
		return 0;
	for (unsigned i = 0; i < p->nthreads; i++)
		pin_thread(p->threads[i]);
	layout = dump_layout(p);
	if (!layout)
		return error_set(e, ESRCH, "process %d: its maps cannot be read", p->vpid);
	r = inject_prepare(p, layout);
	if (r == 0)
		p->core->blob = memory_blob_place(layout, p->core->blob, p->nthreads);
	if (r < 0)
		return error_set(e, -r, "process %d: no system call instruction found in it", p->vpid);
	if (!p->core->blob)
		return error_set(e, ENOMEM, "process %d: its address space has no room for the engine", p->vpid);
	guard_up(p->threads[0], &p->threads[0]->core->frozen);
	r = inject_blob(p, p->nthreads + SPARE_SLOTS, e);
	if (r == 0)
		r = park_all(p);
	else if (p->core->guard)
		regs_set(p->threads[0], &p->threads[0]->core->frozen);
	guard_down(p);
	return r < 0 ? error_set(e, -r, "process %d ended while it was read", p->vpid) : 0;
}

static uint64_t now_ns(clockid_t c)
{
	struct timespec ts;

	clock_gettime(c, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

void clocks_read(struct clocks *c)
{
	uint64_t best = UINT64_MAX;

	for (int tries = 0; tries < 50 && best > 50000; tries++) {
		struct clocks is = {.mono = now_ns(CLOCK_MONOTONIC), .boot = now_ns(CLOCK_BOOTTIME), .real = now_ns(CLOCK_REALTIME)};
		uint64_t took = now_ns(CLOCK_MONOTONIC) - is.mono;

		if (took >= best)
			continue;
		best = took;
		*c = is;
	}
}

/* ---- head ------------------------------------------------------------------------------------------ */
static void parse_ids(const char *status, Sprite__Image__ImgProc *m, uint32_t **groups)
{
	const char *uid = eng_field(status, "Uid"), *gid = eng_field(status, "Gid"), *list = eng_field(status, "Groups");
	unsigned real, eff, saved, fs = 0;

	if (uid && sscanf(uid, "%u %u %u %u", &real, &eff, &saved, &fs) == 4)
		m->uid = fs;
	if (gid && sscanf(gid, "%u %u %u %u", &real, &eff, &saved, &fs) == 4)
		m->gid = fs;
	while (list && *list >= '0' && *list <= '9') {
		uint32_t *bigger = realloc(*groups, (m->n_groups + 1) * sizeof(uint32_t));
		char *end;

		if (!bigger)
			return;
		*groups = bigger;
		bigger[m->n_groups++] = strtoul(list, &end, 10);
		list = *end == ' ' ? end + 1 : end;
	}
}

/* Has its parent been told that it is stopped? Who takes the report now leaves it. */
static bool stop_taken(struct eng_proc *p)
{
	siginfo_t si = {0};
	uint64_t at;

	if (!p->core->stop_sig || !p->parent)
		return false;
	eng_scratch_reset(p->parent);
	at = eng_scratch_put(p->parent, &si, sizeof(si));
	return ENG_SYS(p->parent->threads[0], SYS_waitid, P_PID, p->vpid, at, WSTOPPED | WNOWAIT | WNOHANG | __WALL, 0) == 0 &&
	       eng_peek(p->parent, at, &si, sizeof(si)) == 0 && !si.si_pid;
}

static int head_proc(struct eng_proc *p, Sprite__Image__ImgProc *m)
{
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);
	uint32_t *groups = NULL;

	sprite__image__img_proc__init(m);
	if (!status)
		return -ESRCH;
	m->pid = p->vpid;
	m->ppid = p->ppid;
	m->pgid = p->pgid;
	m->sid = p->sid;
	m->n_tids = p->nthreads;
	m->tids = calloc(p->nthreads, sizeof(*m->tids));
	if (!m->tids)
		return -ENOMEM;
	for (unsigned i = 0; i < p->nthreads; i++)
		m->tids[i] = p->threads[i]->vtid;
	m->blob = p->core->blob;
	parse_ids(status, m, &groups);
	m->groups = groups;
	m->comm = p->core->comm;
	m->stopped = p->core->stop_sig != 0;
	m->stop_taken = stop_taken(p);
	m->exit_signal = p->parent && p->core->exit_signal != SIGCHLD ? p->core->exit_signal + 1 : 0;
	return 0;
}

static bool ask_device(void *ctx, const char *point, unsigned *maj, unsigned *min)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;

	if (asprintf(&path, "root%s", point) < 0 || fstatat(*(const int *)ctx, path, &st, AT_NO_AUTOMOUNT) < 0)
		return false;
	*maj = major(st.st_dev);
	*min = minor(st.st_dev);
	return true;
}

char *dump_devices(int dir)
{
	_cleanup_free_ char *mounts = eng_proc_read(dir, "mountinfo", NULL);
	char *list = mounts ? devices_make(mounts, ask_device, &dir) : NULL;

	if (mounts && !list)
		log_warn("engine: a process will see other device numbers (st_dev) of its files where it goes: it has too many mounts");
	return list;
}

int dump_put_head(struct eng_family *f, struct eng_image *out, bool ahead)
{
	size_t all = f->nprocs + f->nzombies;
	_cleanup_free_ Sprite__Image__ImgProc *v = calloc(all, sizeof(*v));
	_cleanup_free_ Sprite__Image__ImgProc **list = calloc(all, sizeof(*list));
	Sprite__Image__ImgHead h = SPRITE__IMAGE__IMG_HEAD__INIT;
	char host[65] = "";
	int r = v && list ? 0 : -ENOMEM;

	for (size_t i = 0; i < f->nprocs && r == 0; i++) {
		r = head_proc(f->procs[i], &v[i]);
		list[i] = &v[i];
	}
	for (size_t i = 0; i < f->nzombies && r == 0; i++) {
		const struct zombie *z = &f->zombies[i];
		Sprite__Image__ImgProc *m = &v[f->nprocs + i];

		sprite__image__img_proc__init(m);
		m->pid = z->vpid;
		m->ppid = z->parent;
		m->pgid = z->pgid;
		m->sid = z->sid;
		m->zombie = true;
		m->exit_status = z->status;
		m->exit_signal = z->exit_signal != SIGCHLD ? z->exit_signal + 1 : 0;
		list[f->nprocs + i] = m;
	}
	if (r == 0) {
		gethostname(host, sizeof(host) - 1);
		h.version = ENG_VERSION;
		h.cpu = (char *)eng_cpu_features(NULL);
		h.ahead = ahead;
		h.n_proc = all;
		h.proc = list;
		struct xsave_part parts[XSAVE_PARTS];
		struct clocks now;

		clocks_read(&now);
		h.mono = now.mono + f->mono_offset;
		h.boot = now.boot + f->boot_offset;
		h.real = now.real;
		h.hostname = f->head_hostname ? f->head_hostname : host;
		h.page_size = sysconf(_SC_PAGESIZE);
		h.vdso = vdso_sum();
		h.devices = f->devices ? f->devices : "";
		h.n_xsave = xsave_layout(parts) * 3;
		h.xsave = (uint32_t *)parts;
		r = eng_image_put_msg(out, IMG_HEAD, 0, &h.base);
	}
	for (size_t i = 0; v && i < f->nprocs; i++) {
		free(v[i].tids);
		free(v[i].groups);
	}
	return r;
}

/* The family's number of a process of this host; `otherwise` if it is gone. */
static pid_t family_number(pid_t host, pid_t otherwise)
{
	char path[64];
	pid_t vpid;
	int depth;

	snprintf(path, sizeof(path), "/proc/%d/status", host);
	return host > 0 && procfs_nspid(-100 /* AT_FDCWD */, path, &vpid, &depth) == 0 && depth > 1 ? vpid : otherwise;
}

/* On a guest host /proc shows this host's pids of parents, groups and sessions. */
void dump_numbers(struct eng_family *f)
{
	for (size_t i = 0; i < f->nprocs; i++) {
		struct eng_proc *p = f->procs[i];

		p->pgid = family_number(p->pgid, p->core->home_pgid);
		p->sid = family_number(p->sid, p->core->home_sid);
		if (p->parent)
			p->ppid = p->parent->vpid;
		else
			p->ppid = i || !p->core->home_ppid ? 1 : p->core->home_ppid; /* an orphan of the family, or its root */
	}
	for (size_t i = 0; i < f->nzombies; i++) {
		f->zombies[i].pgid = family_number(f->zombies[i].pgid, 0);
		f->zombies[i].sid = family_number(f->zombies[i].sid, 0);
	}
}

/* clone(CLONE_VM) without CLONE_THREAD: two processes with one memory. (A vfork in progress does not get here: the parent cannot be stopped in it.) */
static int check_separate(struct eng_family *f, struct error *e)
{
	for (size_t i = 0; i < f->nprocs; i++)
		for (size_t k = i + 1; k < f->nprocs; k++)
			for (int what = 1; what <= 4; what++) { /* KCMP_VM, _FILES, _FS, _SIGHAND */
				static const char *const shared[] = {"", "memory", "table of descriptors", "current directory", "signal handlers"};

				if (syscall(SYS_kcmp, f->procs[i]->pid, f->procs[k]->pid, what, 0, 0) == 0)
					return error_set(e, EOPNOTSUPP, "processes %d and %d share their %s without being threads: use threads", f->procs[i]->vpid,
						f->procs[k]->vpid, shared[what]);
			}
	return 0;
}

int dump_head(struct eng_family *f, struct eng_image *out, bool ahead, struct error *e)
{
	int r;

	if (f->nest)
		dump_numbers(f);
	r = check_separate(f, e);
	for (size_t i = 0; i < f->nprocs && r == 0; i++)
		r = dump_blob_in(f->procs[i], e);
	return r < 0 ? r : dump_put_head(f, out, ahead);
}

static int dump_all(struct eng_family *f, struct eng_image *out, struct error *e)
{
	int r = dump_head(f, out, false, e);

	for (size_t i = 0; i < f->nprocs && r == 0; i++)
		reader_start(f->procs[i]); /* from here on nothing is mapped in it any more */
	for (size_t k = 0; eng_res_table[k] && r == 0; k++)
		if (eng_res_table[k]->dump_family) {
			r = eng_res_table[k]->dump_family(f, out, e);
			log_debug("engine: dump of %s: %d", eng_res_table[k]->name, r);
		}
	for (size_t i = 0; i < f->nprocs && r == 0; i++)
		for (size_t k = 0; eng_res_table[k] && r == 0; k++) {
			eng_scratch_reset(f->procs[i]);
			if (eng_res_table[k]->dump)
				r = eng_res_table[k]->dump(f->procs[i], out, e);
			log_debug("engine: dump of %s of %d: %d", eng_res_table[k]->name, f->procs[i]->vpid, r);
			if (r < 0)
				error_set(e, -r, "process %d: %s cannot be read: %s", f->procs[i]->vpid, eng_res_table[k]->name, strerror(-r));
		}
	for (size_t i = 0; i < f->nprocs && r == 0; i++)
		for (unsigned k = 0; k < f->procs[i]->nthreads && r == 0; k++)
			r = inject_park(f->procs[i]->threads[k]);
	if (r == 0)
		r = eng_image_put(out, IMG_END, 0, "", 0);
	if (r == 0)
		r = image_flush(out);
	return r;
}

int eng_dump(struct eng_family *f, int fd, struct error *e)
{
	struct eng_image *out = image_writer(fd);
	struct pin_self was;
	int r;

	if (!out || f->state != ENG_FROZEN) {
		image_free(out);
		return error_set(e, out ? EINVAL : ENOMEM, "dump of a family that is not frozen");
	}
	pin_self(f, &was);
	r = dump_all(f, out, e);
	pin_self_end(&was);
	image_free(out);
	if (r < 0)
		return error_set(e, -r, "the image cannot be written: %s", strerror(-r));
	f->state = ENG_PARKED;
	return 0;
}
