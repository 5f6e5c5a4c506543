/* SPDX-License-Identifier: Apache-2.0 */
/* Between the halves of the SysV IPC module: res_sysv.c (looking, source), res_sysv_fill.c (destination, hollows), res_sysv_list.c (whose an object is). */
#ifndef ENGINE_RES_SYSV_H
#define ENGINE_RES_SYSV_H
#include <sys/ipc.h>
#include "migd/engine/procfs.h"
#include "migd/engine/res_util.h"
#include "rpc/image_res.pb-c.h"

enum sysv_kind { SYSV_SHM = 1, SYSV_SEM = 2, SYSV_MSG = 3 };

struct sysv_object { /* a line of /proc/sysvipc */
	enum sysv_kind kind;
	int key, id;
	unsigned mode;	     /* with SHM_DEST, SHM_LOCKED */
	uint32_t uid, gid, cuid, cgid;
	uint64_t size;	     /* bytes; number of semaphores; messages */
	pid_t user[2];	     /* this host's pids of who made or used it last; 0: nobody */
	uint64_t attached;   /* shm */
	long used, changed;  /* wall clock seconds */
	bool guessed;	     /* sysv_is_ours(): nobody has used it yet, and it may be another's of the same user */
};
struct sysv_list {
	struct sysv_object *v;
	size_t n;
};

struct sysv_segment { /* where a process has a shared memory segment */
	int id;
	uint64_t start, end, lowest, highest;
	bool read_only, gap;
};
/* Joins the maps of one attachment. Count or -errno; *out malloc'd. */
ssize_t sysv_segments(const struct maps *maps, struct sysv_segment **out);

/* The lists and calls are those of the calling thread's IPC namespace: it goes where the process behind dir is. sysv_leave() is handed what sysv_enter() gave. */
int sysv_enter(int dir);
void sysv_leave(int here);
int sysv_list(struct sysv_list *l); /* of the thread's namespace. 0 or -errno */
void sysv_list_free(struct sysv_list *l);
bool sysv_is_filler(const struct sysv_object *o); /* in a nest: it only keeps a slot taken (res_sysv_fill.c) */

/*
 * Is the object one of the family of these pids (this host's)? It is when a member made it, used it last or has it mapped; one that nobody has used yet when
 * the family's user made it since the root process started. *other: a living process outside of the family that uses it too; 0: none.
 * user: which members (may be NULL: any).
 */
struct sysv_family {
	const pid_t *pid;
	size_t n;
	pid_t root;
	long since; /* wall clock second when the root process started */
	uint32_t uid;
};
void sysv_family_init(struct sysv_family *f, const pid_t *pid, size_t n, pid_t root);
bool sysv_touched(const Sprite__Img__Sysv *m); /* somebody has used what was read of it */
bool sysv_is_ours(const struct sysv_family *f, struct sysv_object *o, pid_t user, pid_t *other);

int sysv_fill(struct eng_family *f, struct eng_proc *p, uint32_t type, const void *body, size_t len, struct error *e);
int sysv_finish(struct eng_proc *p, struct error *e);
int sysv_hollow(struct eng_proc *p, struct error *e);
void sysv_release(struct eng_family *f, struct eng_proc *p);
int sysv_save(const struct eng_family *f, FILE *o);
int sysv_restore(struct eng_family *f, const char *line, bool hollow);
/* Source: these left with the image; what has become of them here is decided by hollow() or release(). */
int sysv_note_left(struct eng_family *f, const struct sysv_object *o);
void sysv_forget_left(struct eng_family *f);

#endif
