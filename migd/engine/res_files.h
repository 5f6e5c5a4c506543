/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors. The family's open file descriptions ("streams") are found first, each once however many descriptors of however many processes share it;
 * every kind of description is one `struct file_kind`, kept in the table of res_files.c. A new kind: copy one, add a line there.
 */
#ifndef ENGINE_RES_FILES_H
#define ENGINE_RES_FILES_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <fcntl.h>
#include "migd/engine/res_util.h"
#include "rpc/image_res.pb-c.h"

struct file_look { /* one descriptor as /proc shows it */
	pid_t pid; /* this host's */
	int dir;   /* O_PATH fd of /proc/PID */
	int num;
	char *link, *info; /* target of fd/NUM; text of fdinfo/NUM */
	struct stat st;
	uint32_t flags; /* F_GETFL without O_CLOEXEC */
	bool cloexec;
	int64_t pos;
};

struct file_desc { /* one open file description */
	uint64_t id; /* in this image; from 1 */
	const struct file_kind *kind;
	/* source */
	struct file_look look; /* of the first holder found */
	struct eng_proc *holder;
	struct eng_image *out; /* while it is dumped */
	uint64_t holders; /* descriptors that refer to it */
	/* destination */
	Sprite__Img__File *image;
	int fd; /* ours, -1: none */
	struct file_desc *next, *bucket;
};

enum outside_rule { OUTSIDE_ALL = 0, OUTSIDE_NOT_OFFSET, OUTSIDE_NOT_FILE, OUTSIDE_NOT_PIPE, OUTSIDE_NOBODY };
struct file_kind {
	const char *name; /* also its name in an image */
	bool (*is)(const struct file_look *l);
	/* Names what cannot be carried (file_reason()). May be NULL. */
	void (*probe)(struct eng_probe *p, const struct file_look *l);
	/* Whether who is outside may share it: OUTSIDE_*. NULL: they may. */
	int (*outside)(const struct file_look *l);
	/* Adds what is its own to m (kind, flags, pos, path, ino are there). `m` is freed by free_unpacked: malloc what you hang in. NULL: nothing to add. */
	int (*dump)(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, struct error *e);
	/* Destination: opens the description, for us: fd or -errno with e filled. Flags and offset are set afterwards. p: the first process. */
	int (*open)(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e);
	/* Destination: in process p (which holds d as number num and has all its descriptors) do what needs them. May be NULL. */
	int (*finish)(struct eng_proc *p, struct file_desc *d, int num, struct error *e);
	/* Destination: the same in every process that has it. May be NULL. */
	int (*each)(struct eng_proc *p, struct file_desc *d, int num, struct error *e);
	/* Source = home after the commit: true: this descriptor stays in the hollow. NULL: none does. */
	bool (*stays)(struct eng_proc *p, const struct file_look *l);
};

extern const struct file_kind file_regular, file_directory, file_path_only, file_device, file_pipe, file_fifo, file_tty, file_eventfd, file_timerfd,
	file_signalfd, file_epoll, file_inotify, file_pidfd, file_memfd, file_unlinked, file_shm, file_mqueue, file_socket, file_handed, file_other;

/* Adds "PID (comm): fd N: TEXT". */
void file_reason(struct eng_probe *p, const struct file_look *l, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* All descriptors of the process behind dir. cb returns 0 to go on. 0, what cb returned, or -errno. */
int files_each(pid_t pid, int dir, int (*cb)(const struct file_look *l, void *ctx), void *ctx);
int file_look_at(pid_t pid, int dir, int num, struct file_look *l); /* 0 or -errno; file_look_free() */
void file_look_free(struct file_look *l);

struct file_desc *files_first(struct eng_family *f);		       /* ->next */
struct file_desc *file_by_id(struct eng_family *f, uint64_t id);

/*
 * Files of one process that nobody outside of the family may share (res_files_outside.c): collect, then one look at all processes. NOT_FILE: one without a name; NOT_PIPE: the end
 * of a pipe that it reads, see there.
 */
struct outside {
	struct outside_item *v;
	size_t n;
};
int outside_add(struct outside *o, const struct file_look *l, enum outside_rule rule);
void outside_report(struct eng_probe *p, struct outside *o);
void outside_find(struct eng_probe *p, struct outside *o); /* only looks; then: */
bool outside_has(const struct outside *o, int num);	   /* is it somebody else's too? */
void outside_free(struct outside *o);

/* Destination: gives the process, which has none yet, all these descriptors (ours stay ours; the list gets sorted). 0 or -errno. */
struct file_gift {
	int fd, num;
	bool cloexec;
};
int files_give(struct eng_proc *p, struct file_gift *g, size_t n);

bool inotify_unread(struct eng_proc *p, int num); /* events wait to be read */
const char *socket_waits(struct eng_proc *p, uint32_t ino); /* why a unix socket cannot be taken just now; NULL: it can, or is of another family */
bool fifo_in_cluster_tree(const struct file_look *l); /* needs dir, num */
const char *file_lock_held(const struct file_look *l); /* "flock", ...; NULL: none. Needs pid, num, flags, st, info ("" will do for a file on /sprite) */
bool file_is_handed(const struct file_look *l); /* res_file_sprite.c: locks on it go along */
bool file_handed_before(const char *link); /* the same: its name is that of an offer */
/* A home's file, from guest host to guest host: the name to take it by (malloc'd; NULL: it cannot be offered), and taking it: fd or -errno with e filled. */
char *file_offer(struct file_desc *d);
int file_claim(struct eng_proc *p, const Sprite__Img__File *m, struct error *e);
int files_settled(struct eng_proc *p, struct error *e); /* res_files_settled.c: -EBUSY while there is what is over in a moment */

/* res_files_ahead.c: opened before the freeze. take: fd, -1: there is none that fits. */
struct ahead;
int files_put_ahead(struct eng_proc *p, struct eng_image *out);
int files_fill_ahead(struct ahead **list, struct eng_proc *p, const void *body, size_t len, struct error *e);
int files_take_ahead(struct ahead **list, struct eng_proc *p, const Sprite__Img__File *want, uint32_t flags);
void files_free_ahead(struct ahead **list);

/* res_file_relay.c. dump: source: the description is (or becomes, at home) a relayed one; open: destination: what stands for it there. */
int relay_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m, enum eng_relay_kind kind, struct error *e);
int relay_open(struct eng_family *f, struct file_desc *d, const struct eng_net *net, struct error *e);
bool relay_known(struct eng_family *f, const struct stat *st, enum eng_relay_kind kind);
int relay_learn(struct eng_family *f, const struct stat *st, uint64_t id, enum eng_relay_kind kind); /* source on a guest host: of one that was made there */

/* res_files_held.c: descriptions whose offset is shared with who stays. begin: source = home, frozen, all descriptions found; dump: adds to m what tells of it; arrive: guest host, d is open. */
int held_begin(struct eng_family *f, struct error *e);
void held_dump(struct eng_family *f, struct file_desc *d, Sprite__Img__File *m);
int held_arrive(struct eng_family *f, const struct file_desc *d);
bool held_stays(struct eng_proc *p, const struct file_look *l); /* the hollow keeps it */
int held_take(struct eng_family *f, const Sprite__Img__File *m); /* at home: the very description; -ENOENT: it is none of these */
void held_drop(struct eng_family *f); /* it is at home, or has ended */
void held_save(const struct eng_family *f, FILE *o);
int held_restore(struct eng_family *f, const char *line);

/* Opens m->path as the family sees it and checks that it is the same object. fd or -errno with e filled. */
int file_open_path(struct eng_proc *p, const Sprite__Img__File *m, uint32_t flags, struct error *e);

/* What open(2) is asked for again, of a file that is there: not how it came to be, nor how its name was to be found. */
static inline uint32_t file_open_flags(uint32_t flags)
{
	if (flags & O_TMPFILE & ~O_DIRECTORY) /* it says so of itself for ever, and is no directory */
		flags &= ~O_TMPFILE;
	return flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_ASYNC | (flags & O_PATH ? 0 : O_NOFOLLOW)); /* of a link itself there are O_PATH ones */
}

#endif
