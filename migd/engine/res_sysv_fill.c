/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SysV IPC, destination side, and what becomes of the home's own objects (res_sysv.c tells the rules).
 *
 * fill()   make the object under its id (the kernel takes it from /proc/sys/kernel/{shm,sem,msg}_next_id) or take the shell that waits under it; segments get their pages
 *          through an attachment of ours
 * finish() semaphores and messages, worked by the processes themselves, so that the object stays known as the family's; attachments; with the last process the modes
 * hollow() shells
 *
 * Away the vessels have all rights in their namespace and we make the objects, as their makers (cuid). At home a hollow makes them with its own rights.
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
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/engine/core.h"

enum { LOW = 64, SPREAD = 200, SLOTS = 32768 }; /* ipc/util.h: ipc_min_cycle, IPCMNI */
struct item {
	Sprite__Img__Sysv *m;
	char *at; /* shm: our attachment */
	bool made;
};
struct attach {
	Sprite__Img__SysvAttach *m;
	struct attach *next;
};
struct sysv_state { /* the family's ->res[] */
	struct item *item;
	size_t n;
	struct sysv_list left; /* here at home; not those without a key that were removed already */
	bool shells;	       /* nobody may use them now */
};

extern const struct eng_res res_sysv;

static struct sysv_state *state_of(struct eng_family *f)
{
	struct sysv_state **s = (struct sysv_state **)eng_family_res(f, &res_sysv);

	if (!*s)
		*s = calloc(1, sizeof **s);
	return *s;
}

static void items_free(struct sysv_state *s)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->item[i].at)
			shmdt(s->item[i].at);
		sprite__img__sysv__free_unpacked(s->item[i].m, NULL);
	}
	free(s->item);
	s->item = NULL;
	s->n = 0;
}

/* ---- calls alike for the three kinds ------------------------------------------------------------------ */

union semun {
	int val;
	struct semid_ds *ds;
	unsigned short *array;
};

/* Owner and mode. */
static int perm_set(enum sysv_kind kind, int id, uint32_t uid, uint32_t gid, unsigned mode, uint64_t qbytes)
{
	struct shmid_ds shm = {.shm_perm = {.uid = uid, .gid = gid, .mode = mode & 0777}};
	struct semid_ds sem = {.sem_perm = {.uid = uid, .gid = gid, .mode = mode & 0777}};
	struct msqid_ds msg;
	int r;

	if (kind == SYSV_MSG) {
		if (msgctl(id, IPC_STAT, &msg) < 0)
			return -errno;
		msg.msg_perm.uid = uid, msg.msg_perm.gid = gid, msg.msg_perm.mode = mode & 0777;
		if (qbytes)
			msg.msg_qbytes = qbytes;
		r = msgctl(id, IPC_SET, &msg);
	} else if (kind == SYSV_SEM) {
		r = semctl(id, 0, IPC_SET, (union semun){.ds = &sem});
	} else {
		r = shmctl(id, IPC_SET, &shm);
	}
	return r < 0 ? -errno : 0;
}

static int remove_it(enum sysv_kind kind, int id)
{
	int r = kind == SYSV_SHM ? shmctl(id, IPC_RMID, NULL) : kind == SYSV_SEM ? semctl(id, 0, IPC_RMID) : msgctl(id, IPC_RMID, NULL);

	return r < 0 ? -errno : 0;
}

/* ---- the source's note of what left --------------------------------------------------------------------- */

int sysv_note_left(struct eng_family *f, const struct sysv_object *o)
{
	struct sysv_state *s = state_of(f);
	struct sysv_object *v = s ? realloc(s->left.v, (s->left.n + 1) * sizeof *v) : NULL;

	if (!v)
		return -ENOMEM;
	s->left.v = v;
	v[s->left.n++] = *o;
	return 0;
}

void sysv_forget_left(struct eng_family *f)
{
	struct sysv_state *s = state_of(f);

	if (s) {
		sysv_list_free(&s->left);
		s->shells = false;
	}
}

int sysv_hollow(struct eng_proc *p, struct error *e)
{
	struct sysv_state *s = state_of(p->family);

	(void)e;
	if (!s || p->family->nest || p != eng_proc_at(p->family, 0))
		return 0;
	for (size_t i = 0; i < s->n; i++) /* of a return that was given up: they live on away */
		if (s->item[i].made)
			remove_it(s->item[i].m->kind, s->item[i].m->id);
	items_free(s);
	for (size_t i = 0; i < s->left.n; i++) {
		const struct sysv_object *o = &s->left.v[i];
		int r = o->guessed ? 0 : perm_set(o->kind, o->id, o->uid, o->gid, 0, 0);

		if (r < 0 && r != -EINVAL && r != -EIDRM) /* removed meanwhile */
			log_warn("engine: SysV object %d cannot be put aside: %s", o->id, strerror(-r));
	}
	s->shells = s->left.n != 0;
	return 0;
}

int sysv_save(const struct eng_family *f, FILE *o)
{
	const struct sysv_state *s = f->nest ? NULL : f->res[eng_res_index(&res_sysv)];

	for (size_t i = 0; s && i < s->left.n; i++) {
		const struct sysv_object *v = &s->left.v[i];

		fprintf(o, "sysv %d %d %d %o %u %u %u %lu %d\n", v->kind, v->id, v->key, v->mode, v->uid, v->gid, v->cuid, (unsigned long)v->size, v->guessed);
	}
	return 0;
}

int sysv_restore(struct eng_family *f, const char *line, bool hollow)
{
	struct sysv_object v = {0};
	unsigned long size;
	int kind, guessed, r;

	if (strncmp(line, "sysv ", 5))
		return 0;
	if (sscanf(line, "sysv %d %d %d %o %u %u %u %lu %d", &kind, &v.id, &v.key, &v.mode, &v.uid, &v.gid, &v.cuid, &size, &guessed) != 9 || kind < SYSV_SHM || kind > SYSV_MSG)
		return -EPROTO;
	v.kind = kind;
	v.size = size;
	v.guessed = guessed;
	r = sysv_note_left(f, &v);
	if (r == 0)
		state_of(f)->shells = hollow;
	return r < 0 ? r : 1;
}

/* ---- fill ----------------------------------------------------------------------------------------------- */

static const struct sysv_object *left_as(const struct sysv_state *s, const Sprite__Img__Sysv *m)
{
	for (size_t i = 0; i < s->left.n; i++)
		if ((int)s->left.v[i].kind == (int)m->kind && s->left.v[i].id == m->id)
			return &s->left.v[i];
	return NULL;
}

/* The object here with the image's id, key and maker. False: there is none. */
static bool find_here(const Sprite__Img__Sysv *m, struct sysv_object *o)
{
	struct sysv_list l;
	bool found = false;

	if (sysv_list(&l) < 0)
		return false;
	for (size_t i = 0; i < l.n && !found; i++) {
		*o = l.v[i];
		found = (int)o->kind == (int)m->kind && o->id == m->id && o->key == m->key && o->cuid == m->cuid && (m->kind == SYSV_MSG || o->size == m->size) &&
			!(o->mode & SHM_DEST);
	}
	sysv_list_free(&l);
	return found;
}

/* A shell of this family waits under the id: noted when it left. */
static bool waits_here(const struct sysv_state *s, const Sprite__Img__Sysv *m)
{
	const struct sysv_object *left = left_as(s, m);
	struct sysv_object o;

	return left && find_here(m, &o) && (left->guessed || !(o.mode & 0777));
}

static int next_id(enum sysv_kind kind, int id)
{
	static const char *const file[] = {"", "/proc/sys/kernel/shm_next_id", "/proc/sys/kernel/sem_next_id", "/proc/sys/kernel/msg_next_id"};
	_cleanup_close_ int fd = open(file[kind], O_WRONLY | O_CLOEXEC);
	char text[16];
	int n = snprintf(text, sizeof text, "%d", id);

	return fd < 0 ? -errno : write(fd, text, n) != n ? -errno : 0;
}

static long get_ours(const Sprite__Img__Sysv *m, long flags)
{
	long r;

	/* The thread alone, and it keeps its saved ids: it comes back. */
	syscall(SYS_setresgid, -1, m->cgid, -1);
	syscall(SYS_setresuid, -1, m->cuid, -1);
	r = m->kind == SYSV_SHM ? shmget(m->key, m->size, flags) : m->kind == SYSV_SEM ? semget(m->key, m->size, flags) : msgget(m->key, flags);
	if (r < 0)
		r = -errno;
	syscall(SYS_setresuid, -1, 0, -1);
	syscall(SYS_setresgid, -1, 0, -1);
	return r;
}

static long get(struct eng_family *f, const Sprite__Img__Sysv *m)
{
	struct eng_thread *t = eng_proc_at(f, 0)->threads[0];
	long flags = IPC_CREAT | IPC_EXCL | 0600;

	if (f->nest)
		return get_ours(m, flags);
	return m->kind == SYSV_SHM ? ENG_SYS(t, SYS_shmget, (uint64_t)(int64_t)m->key, m->size, flags) :
	       m->kind == SYSV_SEM ? ENG_SYS(t, SYS_semget, (uint64_t)(int64_t)m->key, m->size, flags) :
				     ENG_SYS(t, SYS_msgget, (uint64_t)(int64_t)m->key, flags);
}

static int object_make(struct eng_family *f, struct item *it, struct error *e)
{
	const Sprite__Img__Sysv *m = it->m;
	long r;

	if (!f->nest && waits_here(state_of(f), m))
		return 0;
	r = next_id(m->kind, m->id);
	if (r < 0)
		return error_set(e, -r, "SysV object %d: its id cannot be asked for: %s", m->id, strerror(-r));
	r = get(f, m);
	if (r < 0)
		return error_set(e, -r, "SysV object %d (key 0x%x): %s", m->id, (unsigned)m->key, r == -EEXIST ? "its key is in use on this host" : strerror(-r));
	if (r != m->id) {
		remove_it(m->kind, r);
		return error_set(e, EEXIST, "SysV object %d: its id is in use on this host (ipcs)", m->id);
	}
	it->made = true;
	return 0;
}

/*
 * The kernel gives the lowest LOW slots of its table to new objects in turn, at home too: what the family makes in the nest shall not get an id that somebody at home
 * has when it comes home. So in the nest those slots are taken, by objects of no use to anybody (mode 0, root's), until an object of the image needs one.
 */
static void take_low_slots(void)
{
	int n = LOW + clock_real_ns() / 1000 % SPREAD; /* two families that are away shall not make the same id either */

	for (int i = 0; i < n; i++) {
		shmget(IPC_PRIVATE, 1, IPC_CREAT);
		semget(IPC_PRIVATE, 1, IPC_CREAT);
		msgget(IPC_PRIVATE, IPC_CREAT);
	}
}

static void free_slot(const Sprite__Img__Sysv *m)
{
	struct sysv_list l;

	if (m->id % SLOTS >= LOW + SPREAD || sysv_list(&l) < 0)
		return;
	for (size_t i = 0; i < l.n; i++)
		if ((int)l.v[i].kind == (int)m->kind && l.v[i].id % SLOTS == m->id % SLOTS && sysv_is_filler(&l.v[i]))
			remove_it(m->kind, l.v[i].id);
	sysv_list_free(&l);
}

bool sysv_touched(const Sprite__Img__Sysv *m)
{
	bool touched = m->kind == SYSV_SHM || m->n_message;

	for (size_t i = 0; i < m->n_value; i++)
		touched |= m->value[i] || m->pid[i];
	return touched;
}

/* Only guessed to be the family's when it left, and nobody has used it away, or somebody has here: what is here under its id is as it should be, and perhaps another's. */
static bool never_ours(const struct sysv_state *s, const Sprite__Img__Sysv *m)
{
	const struct sysv_object *left = left_as(s, m);
	struct sysv_object o;
	bool used = false;

	if (!left || !left->guessed)
		return false;
	if (!sysv_touched(m))
		return true;
	if (!find_here(m, &o))
		return false;
	for (uint64_t i = 0; o.kind == SYSV_SEM && i < o.size; i++)
		used |= semctl(o.id, i, GETPID) > 0;
	return used || o.user[0] || o.user[1];
}

static int object_fill(struct eng_family *f, const void *body, size_t len, struct error *e)
{
	struct sysv_state *s = state_of(f);
	Sprite__Img__Sysv *m = sprite__img__sysv__unpack(NULL, len, body);
	bool good = m && m->kind >= SYSV_SHM && m->kind <= SYSV_MSG && m->id >= 0 && m->n_value == m->n_pid && (m->kind != SYSV_SEM || m->n_value == m->size);
	bool skipped = s && good && !f->nest && never_ours(s, m);
	struct item *v = s && good && !skipped ? realloc(s->item, (s->n + 1) * sizeof *v) : NULL;

	if (skipped) {
		sprite__img__sysv__free_unpacked(m, NULL);
		return 0;
	}
	if (!v) {
		if (m)
			sprite__img__sysv__free_unpacked(m, NULL);
		return good ? -ENOMEM : res_bad_record(e, "SysV objects");
	}
	s->item = v;
	struct item *it = &v[s->n++];

	*it = (struct item){.m = m};
	if (f->nest && s->n == 1)
		take_low_slots();
	if (f->nest)
		free_slot(m);
	int r = object_make(f, it, e);

	if (r < 0 || m->kind != SYSV_SHM)
		return r;
	r = perm_set(m->kind, m->id, m->uid, m->gid, 0600, 0);
	it->at = r < 0 ? MAP_FAILED : shmat(m->id, NULL, 0);
	if (it->at == MAP_FAILED) {
		it->at = NULL;
		return error_set(e, errno, "SysV shared memory (id %d): %s", m->id, strerror(errno));
	}
	if (!it->made) /* what was in it when it left */
		madvise(it->at, m->size, MADV_REMOVE);
	return 0;
}

static int pages_fill(struct eng_family *f, const char *body, size_t len, struct error *e)
{
	struct sysv_state *s = state_of(f);
	uint64_t head[2];

	if (!s || len < sizeof head)
		return res_bad_record(e, "SysV shared memory");
	memcpy(head, body, sizeof head);
	len -= sizeof head;
	for (size_t i = 0; i < s->n; i++) {
		uint64_t room = s->item[i].at ? (s->item[i].m->size + 4095) & ~4095ull : 0;

		if (s->item[i].m->id != (int)head[0] || head[1] > room || len > room - head[1])
			continue;
		memcpy(s->item[i].at + head[1], body + sizeof head, len);
		return 0;
	}
	return res_bad_record(e, "SysV shared memory");
}

int sysv_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e)
{
	struct attach *a;
	int here, r;

	if (type == RES_SYSV_PAGES)
		return pages_fill(f, body, len, e);
	if (type == RES_SYSV) {
		here = sysv_enter(eng_proc_at(f, 0)->dir);
		r = here < 0 ? here : object_fill(f, body, len, e);
		sysv_leave(here);
		return r;
	}
	a = p ? calloc(1, sizeof *a) : NULL;
	if (!a || !(a->m = sprite__img__sysv_attach__unpack(NULL, len, body)) || a->m->n_piece % 3) {
		if (a && a->m)
			sprite__img__sysv_attach__free_unpacked(a->m, NULL);
		free(a);
		return res_bad_record(e, "SysV shared memory");
	}
	a->next = p->res[eng_res_index(&res_sysv)];
	p->res[eng_res_index(&res_sysv)] = a;
	return 0;
}

/* ---- finish --------------------------------------------------------------------------------------------- */

/* A value by the process that is known to have worked on it last, so that it is known again. A shell keeps undo adjustments: it is changed by what is missing. */
static int semaphore_set(struct eng_family *f, const struct item *it, uint32_t i)
{
	struct eng_proc *p = it->m->pid[i] ? eng_proc_by_vpid(f, it->m->pid[i]) : NULL;
	long value = it->m->value[i], r;

	if (it->made && !value && !it->m->pid[i])
		return 0;
	if (!p)
		p = eng_proc_at(f, 0);
	if (it->made)
		return ENG_SYS(p->threads[0], SYS_semctl, it->m->id, i, SETVAL, value);
	r = semctl(it->m->id, i, GETVAL);
	if (r < 0 || r == value)
		return r < 0 ? -errno : 0;
	struct sembuf op = {.sem_num = i, .sem_op = value - r, .sem_flg = IPC_NOWAIT};

	eng_scratch_reset(p);
	return ENG_SYS(p->threads[0], SYS_semop, it->m->id, eng_scratch_put(p, &op, sizeof op), 1);
}

static int message_send(struct eng_family *f, const struct item *it, const Sprite__Img__SysvMsg *g)
{
	struct eng_proc *p = eng_proc_at(f, 0);
	_cleanup_free_ char *b = malloc(sizeof(long) + g->text.len);
	long type = g->type;

	if (!b)
		return -ENOMEM;
	memcpy(b, &type, sizeof type);
	if (g->text.len)
		memcpy(b + sizeof type, g->text.data, g->text.len);
	eng_scratch_reset(p);
	uint64_t at = f->nest ? 0 : eng_scratch_put(p, b, sizeof type + g->text.len);

	if (at)
		return ENG_SYS(p->threads[0], SYS_msgsnd, it->m->id, at, g->text.len, IPC_NOWAIT);
	return msgsnd(it->m->id, b, g->text.len, IPC_NOWAIT) < 0 ? -errno : 0;
}

static int contents_finish(struct eng_family *f, const struct item *it)
{
	const Sprite__Img__Sysv *m = it->m;
	struct eng_proc *p = eng_proc_at(f, 0);
	char dropped[16];
	int r = perm_set(m->kind, m->id, p->core->uid, p->core->gid, 0600, m->qbytes);

	for (size_t i = 0; !r && m->kind == SYSV_SEM && i < m->n_value; i++)
		r = semaphore_set(f, it, i);
	if (!r && m->kind == SYSV_MSG && !it->made) /* what was in the shell */
		while (msgrcv(m->id, dropped, 8, 0, IPC_NOWAIT | MSG_NOERROR) >= 0)
			;
	for (size_t i = 0; !r && i < m->n_message; i++)
		r = message_send(f, it, m->message[i]);
	return r;
}

/* What this family left here and removed away. */
static void shells_remove(struct sysv_state *s)
{
	for (size_t i = 0; s->shells && i < s->left.n; i++) {
		bool lives = false;

		for (size_t k = 0; k < s->n; k++)
			lives |= (int)s->item[k].m->kind == (int)s->left.v[i].kind && s->item[k].m->id == s->left.v[i].id;
		if (!lives && !s->left.v[i].guessed)
			remove_it(s->left.v[i].kind, s->left.v[i].id);
	}
}

static int attach_one(struct eng_proc *p, const Sprite__Img__SysvAttach *m)
{
	struct eng_thread *t = p->threads[0];
	long r = ENG_SYS(t, SYS_shmat, m->id, m->start, m->read_only ? SHM_RDONLY : 0);
	uint64_t usual = m->read_only ? PROT_READ : PROT_READ | PROT_WRITE;

	if (r >= 0 && (uint64_t)r != m->start)
		return -EADDRNOTAVAIL;
	for (size_t i = 0; r >= 0 && i < m->n_piece; i += 3) {
		const uint64_t *a = &m->piece[i];

		if ((a[2] & 0xffff) != usual)
			r = ENG_SYS(t, SYS_mprotect, a[0], a[1] - a[0], a[2] & 0xffff);
		if (r >= 0 && a[2] >> 16)
			r = ENG_SYS(t, SYS_mlock, a[0], a[1] - a[0]);
	}
	return r < 0 ? r : 0;
}

/* The last process has what it needs. */
static int objects_finish(struct eng_family *f, struct sysv_state *s)
{
	int r = 0;
	size_t guessed = 0;

	for (size_t i = 0; i < s->left.n; i++) /* those still hold should this return be given up */
		if (s->left.v[i].guessed)
			s->left.v[guessed++] = s->left.v[i];
	s->left.n = guessed;
	s->shells = false;
	for (size_t i = 0; i < s->n && r == 0; i++) {
		const Sprite__Img__Sysv *m = s->item[i].m;
		struct sysv_object o = {.kind = m->kind, .id = m->id, .key = m->key, .mode = m->mode, .uid = m->uid, .gid = m->gid, .cuid = m->cuid, .size = m->size};

		if (m->locked)
			shmctl(m->id, SHM_LOCK, NULL);
		r = perm_set(m->kind, m->id, m->uid, m->gid, m->mode, m->qbytes);
		if (r == 0)
			r = m->removed ? remove_it(m->kind, m->id) : f->nest ? 0 : sysv_note_left(f, &o);
	}
	items_free(s);
	return r;
}

static int finish_in_namespace(struct eng_proc *p, struct sysv_state *s, struct error *e)
{
	struct eng_family *f = p->family;
	int r = 0;

	if (p == eng_proc_at(f, 0)) {
		shells_remove(s);
		for (size_t i = 0; i < s->n; i++)
			if ((r = contents_finish(f, &s->item[i])) < 0)
				return error_set(e, -r, "SysV object %d: its contents: %s", s->item[i].m->id, strerror(-r));
	}
	for (struct attach *a = p->res[eng_res_index(&res_sysv)]; a; a = a->next) {
		for (size_t i = 0; i < s->n && !f->nest; i++) /* a hollow has only its user's rights */
			if (s->item[i].m->kind == SYSV_SHM && s->item[i].m->id == a->m->id)
				perm_set(SYSV_SHM, a->m->id, p->core->uid, p->core->gid, 0700, 0);
		r = attach_one(p, a->m);
		if (r < 0)
			return error_set(e, -r, "process %d: SysV shared memory (id %d): %s", p->vpid, a->m->id, strerror(-r));
	}
	if (p == eng_proc_at(f, eng_nprocs(f) - 1))
		r = objects_finish(f, s);
	return r < 0 ? error_set(e, -r, "SysV objects: %s", strerror(-r)) : 0;
}

int sysv_finish(struct eng_proc *p, struct error *e)
{
	struct sysv_state *s = state_of(p->family);

	if (!s)
		return -ENOMEM;
	if (!s->n && !s->left.n && !p->res[eng_res_index(&res_sysv)])
		return 0;
	int here = sysv_enter(p->dir), r = here < 0 ? here : finish_in_namespace(p, s, e);

	sysv_leave(here);
	return r < 0 ? error_set(e, -r, "SysV objects: %s", strerror(-r)) : 0;
}

void sysv_release(struct eng_family *f, struct eng_proc *p)
{
	unsigned index = eng_res_index(&res_sysv);
	struct sysv_state **s = (struct sysv_state **)eng_family_res(f, &res_sysv);

	while (p && p->res[index]) {
		struct attach *a = p->res[index];

		p->res[index] = a->next;
		sprite__img__sysv_attach__free_unpacked(a->m, NULL);
		free(a);
	}
	if (p || !*s)
		return;
	if ((*s)->shells && f->nprocs) { /* a hollow forgets the image, not what it left */
		items_free(*s);
		return;
	}
	/* The family has ended away: what it left is there for others again. */
	for (size_t i = 0; (*s)->shells && i < (*s)->left.n; i++)
		if (!(*s)->left.v[i].guessed)
			perm_set((*s)->left.v[i].kind, (*s)->left.v[i].id, (*s)->left.v[i].uid, (*s)->left.v[i].gid, (*s)->left.v[i].mode, 0);
	items_free(*s);
	sysv_list_free(&(*s)->left);
	free(*s);
	*s = NULL;
}
