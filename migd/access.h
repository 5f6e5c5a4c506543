/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may get at this host's own files: a guest host, as the user of a family that it hosts, and no longer than it hosts it. spritefsd serves them and keeps the
 * list (fs/server/grant.h); what the list must be is known here. A grant is asked for before the family goes, taken back when it is there no more; and the whole
 * list is compared at our start, whenever a call has failed until one succeeds, and now and then: spritefsd may have been away, or have lost its file.
 * Locking: one lock inside, held over a call, so that what is told is what is true.
 */
#ifndef MIGD_ACCESS_H
#define MIGD_ACCESS_H
#include "migd/context.h"

struct access;
int access_open(struct migd *m, struct access **out);
int access_start(struct access *a); /* when all families are known again: from here on who is not expected is refused */
void access_close(struct access *a);

/* Lets that host in as this user, for this family. On failure it is as it was. */
int access_grant(struct migd *m, const char *host, uid_t uid, const char *family, struct error *e);
/* It is there already: after a restart of ours. Asks nobody. */
void access_expect(struct migd *m, const char *host, uid_t uid, const char *family);
/* Takes it back; what spritefsd does not hear now it is told until it does. */
void access_revoke(struct migd *m, const char *host, uid_t uid, const char *family);

#endif
