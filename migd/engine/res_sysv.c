/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SysV shared memory, semaphores and message queues of the family: ids, keys, owners, modes and contents, and where each process has a segment attached.
 * A family has an IPC namespace of its own away from home, so what it shares with a process that stays is refused by name.
 *
 * At home the objects stay as **shells** while the family is away: they keep their ids and keys taken, and nobody may use them (mode 0). On the return they are
 * filled again; those that were removed away go, those that were made away are made here under their ids. A family that ends away leaves its
 * shells with their modes, as they were when it left.
 *
 * Not carried: SEM_UNDO (no one but the kernel knows it; the adjustments that a process made before it left wait in its hollow), the times of last use.
 */
#include "migd/engine/res_sysv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
enum { CHUNK = 1 << 20, MSG_LARGEST = 16 << 20 };

const struct eng_res res_sysv;

/* ---- probe ------------------------------------------------------------------------------------------- */

static const char *const kind_name[] = {"", "SysV shared memory", "SysV semaphores", "a SysV message queue"};
static const char kind_letter[] = " msq";

static void probe_attached(struct eng_probe *p, const struct sysv_list *l)
{
	struct maps *maps;
	struct sysv_segment *s = NULL;

	if (procfs_maps(p->dir, false, &maps) < 0)
		return;
	ssize_t n = sysv_segments(maps, &s);

	maps_free(maps);
	for (ssize_t i = 0; i < n; i++)
		for (size_t k = 0; k < l->n; k++)
			if (l->v[k].kind == SYSV_SHM && l->v[k].id == s[i].id &&
			    (s[i].gap || s[i].highest - s[i].start < l->v[k].size))
				eng_reason(p, "has SysV shared memory (id %d) attached in part (munmap): shmdt it first", s[i].id);
	free(s);
}

static int sysv_probe(struct eng_probe *p)
{
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL);
	_cleanup_close_ int me = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char a[64], b[64];
	struct sysv_family f;
	struct sysv_list l;

	if (res_field_u64(status, "TracerPid", 10, 0) == (uint64_t)gettid()) /* looked at when it still ran */
		return 0;
	/* A guest's namespace is its family's alone. */
	bool alone = me >= 0 && res_readlink(me, "ns/ipc", a, sizeof a) > 0 && res_readlink(p->dir, "ns/ipc", b, sizeof b) > 0 && strcmp(a, b);
	int here = sysv_enter(p->dir);

	if (here < 0)
		return 0;
	sysv_family_init(&f, p->family, p->nfamily, p->root);
	if (sysv_list(&l) == 0) {
		probe_attached(p, &l);
		for (size_t i = 0; i < l.n && !alone; i++) {
			struct sysv_object *o = &l.v[i];
			pid_t other;

			if (sysv_is_ours(&f, o, p->pid, &other) && other && !res_inside(p, other))
				eng_reason(p, "shares %s (id %d, key 0x%x) with process %d, which stays: move that one, or remove it first (ipcrm -%c %d)",
					kind_name[o->kind], o->id, (unsigned)o->key, other, kind_letter[o->kind], o->id);
		}
		sysv_list_free(&l);
	}
	sysv_leave(here);
	return 0;
}

/* ---- dump: contents ---------------------------------------------------------------------------------- */

/* The segment's memory as a file: by a member's map, else by one of ours for the moment. */
static int segment_open(struct eng_family *f, int id)
{
	char name[64];

	for (size_t i = 0; i < eng_nprocs(f); i++) {
		struct eng_proc *p = eng_proc_at(f, i);
		struct maps *maps;
		int fd = -1;

		if (procfs_maps(p->dir, false, &maps) < 0)
			continue;
		for (size_t k = 0; fd < 0 && k < maps->n; k++)
			if (maps->m[k].kind == KIND_SYSV && (int)maps->m[k].ino == id) {
				snprintf(name, sizeof name, "map_files/%lx-%lx", (long)maps->m[k].start, (long)maps->m[k].end);
				fd = openat(p->dir, name, O_RDONLY | O_CLOEXEC);
			}
		maps_free(maps);
		if (fd >= 0)
			return fd;
	}
	struct shmid_ds ds;
	char *at = shmctl(id, IPC_STAT, &ds) < 0 ? MAP_FAILED : shmat(id, NULL, SHM_RDONLY);

	if (at == MAP_FAILED)
		return -errno;
	snprintf(name, sizeof name, "/proc/self/map_files/%lx-%lx", (long)at, ((long)at + (long)ds.shm_segsz + 4095) & ~4095L);
	int fd = open(name, O_RDONLY | O_CLOEXEC), r = fd < 0 ? -errno : fd;

	shmdt(at);
	return r;
}

static int put_segment(struct eng_family *f, struct eng_image *out, const struct sysv_object *o)
{
	_cleanup_close_ int fd = segment_open(f, o->id);
	_cleanup_free_ char *body = malloc(16 + CHUNK);
	off_t at = 0, end;

	if (fd < 0 || !body)
		return fd < 0 ? fd : -ENOMEM;
	while (at < (off_t)o->size && (at = lseek(fd, at, SEEK_DATA)) >= 0) {
		for (end = lseek(fd, at, SEEK_HOLE); at < end;) {
			ssize_t n = pread(fd, body + 16, end - at < CHUNK ? end - at : CHUNK, at);
			uint64_t head[2] = {o->id, at};

			if (n <= 0)
				return n < 0 ? -errno : -EIO;
			memcpy(body, head, sizeof head);
			int r = eng_image_put(out, RES_SYSV_PAGES, 0, body, 16 + n);

			if (r < 0)
				return r;
			at += n;
		}
	}
	return 0;
}

static int read_semaphores(struct eng_family *f, const struct sysv_object *o, Sprite__Img__Sysv *m)
{
	unsigned short *v = calloc(o->size + 1, sizeof *v);
	int r = 0;

	m->value = calloc(o->size + 1, sizeof *m->value);
	m->pid = calloc(o->size + 1, sizeof *m->pid);
	if (!v || !m->value || !m->pid)
		r = -ENOMEM;
	else if (semctl(o->id, 0, GETALL, v) < 0)
		r = -errno;
	for (uint64_t i = 0; !r && i < o->size; i++) {
		pid_t pid = semctl(o->id, i, GETPID);

		m->value[i] = v[i];
		for (size_t k = 0; k < eng_nprocs(f); k++)
			if (eng_proc_at(f, k)->pid == pid)
				m->pid[i] = eng_proc_at(f, k)->vpid;
		m->n_value = m->n_pid = i + 1;
	}
	free(v);
	return r;
}

/* Copies of all messages, in order (MSG_COPY takes none out). */
static int read_messages(const struct sysv_object *o, Sprite__Img__Sysv *m)
{
	struct msqid_ds ds;

	if (msgctl(o->id, IPC_STAT, &ds) < 0)
		return -errno;
	m->qbytes = ds.msg_qbytes;
	size_t room = ds.msg_cbytes ? ds.msg_cbytes : 1;
	_cleanup_free_ struct {
		long type;
		char text[];
	} *b = room > MSG_LARGEST ? NULL : malloc(sizeof(long) + room);

	m->message = calloc(ds.msg_qnum + 1, sizeof *m->message);
	if (!b || !m->message)
		return -ENOMEM;
	for (long i = 0; i < (long)ds.msg_qnum; i++) {
		ssize_t n = msgrcv(o->id, b, room, i, MSG_COPY | IPC_NOWAIT);
		Sprite__Img__SysvMsg *to = n < 0 ? NULL : malloc(sizeof *to);

		if (!to)
			return n < 0 ? -errno : -ENOMEM;
		sprite__img__sysv_msg__init(to);
		m->message[m->n_message++] = to;
		to->type = b->type;
		to->text.data = malloc(n + 1);
		if (!to->text.data)
			return -ENOMEM;
		memcpy(to->text.data, b->text, n);
		to->text.len = n;
	}
	return 0;
}

static int put_object(struct eng_family *f, struct eng_image *out, const struct sysv_object *o, struct error *e)
{
	Sprite__Img__Sysv *m = malloc(sizeof *m);
	int r = 0;

	if (!m)
		return -ENOMEM;
	sprite__img__sysv__init(m);
	m->kind = o->kind;
	m->id = o->id;
	m->key = o->key;
	m->mode = o->mode & 0777;
	m->uid = o->uid, m->gid = o->gid, m->cuid = o->cuid, m->cgid = o->cgid;
	m->size = o->size;
	m->removed = o->kind == SYSV_SHM && o->mode & SHM_DEST;
	m->locked = o->kind == SYSV_SHM && o->mode & SHM_LOCKED;
	if (o->kind == SYSV_SEM)
		r = read_semaphores(f, o, m);
	else if (o->kind == SYSV_MSG)
		r = read_messages(o, m);
	if (o->guessed && (r < 0 || sysv_touched(m))) { /* another's, who runs on and has removed or used it meanwhile */
		sprite__img__sysv__free_unpacked(m, NULL);
		return 0;
	}
	if (!r)
		r = eng_image_put_msg(out, RES_SYSV, 0, &m->base);
	if (!r && o->kind == SYSV_SHM)
		r = put_segment(f, out, o);
	if (!r && !m->removed)
		r = sysv_note_left(f, o);
	sprite__img__sysv__free_unpacked(m, NULL);
	return r < 0 ? error_set(e, -r, "%s (id %d) cannot be read: %s", kind_name[o->kind], o->id, strerror(-r)) : 0;
}

static int sysv_dump_family(struct eng_family *f, struct eng_image *out, struct error *e)
{
	_cleanup_free_ pid_t *pids = calloc(eng_nprocs(f), sizeof *pids);
	struct sysv_list l;
	struct sysv_family who;
	int here = pids ? sysv_enter(eng_proc_at(f, 0)->dir) : -ENOMEM;

	if (here < 0)
		return here == -ENOENT ? 0 : error_set(e, -here, "IPC namespace of the family: %s", strerror(-here));
	sysv_forget_left(f);
	for (size_t i = 0; i < eng_nprocs(f); i++)
		pids[i] = eng_proc_at(f, i)->pid;
	sysv_family_init(&who, pids, eng_nprocs(f), pids[0]);
	int r = sysv_list(&l);

	for (size_t i = 0; !r && i < l.n; i++) {
		pid_t other = 0;

		if (f->nest ? sysv_is_filler(&l.v[i]) : !sysv_is_ours(&who, &l.v[i], 0, &other))
			continue;
		r = other ? error_set(e, EBUSY, "%s (id %d) is shared with process %d, which stays", kind_name[l.v[i].kind], l.v[i].id, other) :
			    put_object(f, out, &l.v[i], e);
	}
	sysv_list_free(&l);
	sysv_leave(here);
	return r;
}

/* ---- dump: attachments -------------------------------------------------------------------------------- */

static int sysv_dump(struct eng_proc *p, struct eng_image *out, struct error *e)
{
	const struct maps *maps = dump_maps(p);
	struct sysv_segment *s = NULL;
	ssize_t n = maps ? sysv_segments(maps, &s) : -ESRCH;
	int r = 0;

	for (ssize_t i = 0; i < n && r == 0; i++) {
		Sprite__Img__SysvAttach m = SPRITE__IMG__SYSV_ATTACH__INIT;
		uint64_t piece[3 * 64];

		m.id = s[i].id;
		m.start = s[i].start;
		m.read_only = s[i].read_only;
		m.piece = piece;
		for (size_t k = 0; k < maps->n; k++) {
			const struct map *a = &maps->m[k];

			if (a->kind != KIND_SYSV || a->start < s[i].lowest || a->end > s[i].highest)
				continue;
			if (m.n_piece == ARRAY_SIZE(piece))
				r = -E2BIG;
			else
				memcpy(piece + m.n_piece, (uint64_t[3]){a->start, a->end, a->prot | (a->flags & MAPF_LOCKED ? 1u << 16 : 0)}, 24), m.n_piece += 3;
		}
		if (s[i].gap)
			r = -EOPNOTSUPP;
		if (r == 0)
			r = eng_image_put_msg(out, RES_SYSV_ATTACH, p->vpid, &m.base);
	}
	free(s);
	return r < 0 || n < 0 ? error_set(e, r < 0 ? -r : -n, "process %d: SysV shared memory: %s", p->vpid, strerror(r < 0 ? -r : -n)) : 0;
}

const struct eng_res res_sysv = {
	.name = "SysV IPC",
	.types = {RES_SYSV, RES_SYSV_PAGES},
	.probe = sysv_probe,
	.dump_family = sysv_dump_family,
	.dump = sysv_dump,
	.fill = sysv_fill,
	.finish = sysv_finish,
	.hollow = sysv_hollow,
	.save = sysv_save,
	.restore = sysv_restore,
	.release = sysv_release,
};
