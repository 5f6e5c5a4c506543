/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that are opened before the freeze, because a path costs several round trips to its home. The source names them while the program runs (announce.c); over
 * there they wait here until the record of the description comes, which takes one if path, flags, user and inode are the same, and opens the path otherwise.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "migd/engine/core.h"
#include "migd/engine/res_files.h"

enum { AHEAD_MAX = 256 };

struct ahead {
	struct ahead *next;
	char *path;
	uint32_t flags, uid;
	int fd;
};

struct put_ctx {
	struct eng_proc *p;
	struct eng_image *out;
	unsigned n;
};

static int put_one(const struct file_look *l, void *ctx)
{
	struct put_ctx *x = ctx;
	Sprite__Img__File m = SPRITE__IMG__FILE__INIT;

	if (l->flags & O_PATH || (!S_ISREG(l->st.st_mode) && !S_ISDIR(l->st.st_mode)) || *l->link != '/' || !l->st.st_nlink || !strncmp(l->link, "/proc/", 6) ||
	    !strncmp(l->link, "/dev/", 5) || x->n++ >= AHEAD_MAX)
		return 0;
	m.path = l->link;
	m.flags = l->flags;
	return eng_image_put_msg(x->out, RES_FILE_AHEAD, x->p->vpid, &m.base);
}

int files_put_ahead(struct eng_proc *p, struct eng_image *out)
{
	struct put_ctx x = {.p = p, .out = out};
	int r = files_each(p->pid, p->dir, put_one, &x);

	return r == -EPIPE || r == -ENOMEM ? r : 0; /* it may end or exec meanwhile */
}

int files_fill_ahead(struct ahead **list, struct eng_proc *p, const void *body, size_t len, struct error *e)
{
	Sprite__Img__File *m = sprite__img__file__unpack(NULL, len, body);
	struct ahead *a;
	unsigned n = 0;
	int fd;

	if (!m || !p || !m->path || !*m->path) {
		sprite__img__file__free_unpacked(m, NULL);
		return res_bad_record(e, "files ahead");
	}
	for (a = *list; a; a = a->next)
		n++;
	fd = n < AHEAD_MAX ? eng_open(p, m->path, file_open_flags(m->flags), 0) : -EMFILE;
	a = fd >= 0 ? calloc(1, sizeof(*a)) : NULL;
	if (a) {
		*a = (struct ahead){*list, strdup(m->path), file_open_flags(m->flags), p->core->uid, fd};
		*list = a;
	} else if (fd >= 0) {
		close(fd);
	}
	sprite__img__file__free_unpacked(m, NULL);
	return 0; /* what cannot be opened yet is told when it is needed */
}

static void ahead_free(struct ahead *a)
{
	if (a->fd >= 0)
		close(a->fd);
	free(a->path);
	free(a);
}

int files_take_ahead(struct ahead **list, struct eng_proc *p, const Sprite__Img__File *want, uint32_t flags)
{
	struct stat st;

	for (struct ahead **at = list; *at; at = &(*at)->next) {
		struct ahead *a = *at;
		int fd = -1;

		if (a->flags != file_open_flags(flags) || a->uid != p->core->uid || !a->path || strcmp(a->path, want->path))
			continue;
		if (fstat(a->fd, &st) == 0 && res_same_ino(st.st_ino, want->ino)) {
			fd = a->fd;
			a->fd = -1;
		}
		*at = a->next;
		ahead_free(a);
		return fd;
	}
	return -1;
}

void files_free_ahead(struct ahead **list)
{
	while (*list) {
		struct ahead *a = *list;

		*list = a->next;
		ahead_free(a);
	}
}
