/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may use the home domain from elsewhere: a guest host, as the uid of a process that it hosts now. migd of this host grants and revokes by family; a
 * (host, uid) may act while any family of it is there. With a grant come the groups that the user has here, and no others, so
 * that a host cannot add a group to a user. A grant of uid 0 is one of all uids and groups, since it could become them (op.c). They are kept in a file:
 * a restart of the server must not take their files from guests. Those of an earlier boot
 * of this host are void, as its families are. What the list must be migd knows, and says again when it may not have been heard (grants_only()).
 *
 * Locking: one mutex; nothing is called under it.
 */
#ifndef FS_SERVER_GRANT_H
#define FS_SERVER_GRANT_H
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include "conf/list.h"
#include "fs/server/ids.h"

struct grants {
	pthread_mutex_t lock;
	struct list list;
	char *path; /* NULL: not kept */
};

void grants_init(struct grants *g);
/* Brings back those of the last run, and keeps them in `dir` from now on. */
void grants_load(struct grants *g, const char *dir);
void grants_destroy(struct grants *g);
/* `gids` NULL: those of the user in this host's database. Granting the same family again only changes its groups. */
int grants_add(struct grants *g, const char *host, uid_t uid, const char *family, const gid_t *gids, size_t ngids);
/* 0 or -ENOENT. `family` NULL: every family of that host and uid. */
int grants_remove(struct grants *g, const char *host, uid_t uid, const char *family);
/* Those of `rows` ({"host", "uid", "family"}) and no others. Those that stay keep their groups. How many were added and taken back, or -EINVAL, -ENOMEM. */
int grants_only(struct grants *g, const json_t *rows);
bool grants_host(struct grants *g, const char *host);		 /* any grant at all */
bool grants_allow(struct grants *g, const char *host, uid_t uid);
/* Some user that the host has a grant for: root's own steps over there (mounting, entering the root view) are taken as this one, who has no more rights. */
bool grants_stand_in(struct grants *g, const char *host, uid_t *uid, gid_t *gid);
/* Takes groups out of `ids` that its uid has not been granted. */
void grants_trim(struct grants *g, const char *host, struct ids *ids);
json_t *grants_json(struct grants *g);

#endif
