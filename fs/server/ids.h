/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Acting as the caller. A worker thread takes the caller's fsuid, fsgid, groups, umask, and by that loses (unless that is root) every capability that a filesystem
 * asks for, does what was asked and switches back; the kernel then decides as for a local process. The calls are the raw ones: the C library's
 * would change every thread. CAP_SYS_RESOURCE is dropped for good in main, or quotas and reserved blocks would be ignored.
 */
#ifndef FS_SERVER_IDS_H
#define FS_SERVER_IDS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "conf/error.h"
#include "rpc/fs.pb-c.h"

#define IDS_GROUPS_MAX 1024
#define IDS_NOBODY     65534

struct ids {
	uid_t uid;
	gid_t gid;
	mode_t umask;
	size_t ngroups;
	gid_t groups[IDS_GROUPS_MAX];
};

struct ids_rule {
	bool root_squash;
	uint32_t uid_min, uid_max; /* callers outside act as nobody; root goes by root_squash alone */
};

/* Pure. -EINVAL when there is no credential or it has too many groups. */
int ids_map(const struct ids_rule *rule, const Sprite__Fs__Cred *cred, struct ids *out);

/* Once, in main: reads what this process may do and drops CAP_SYS_RESOURCE. */
int ids_init(struct error *e);
/* 0 or -errno; on failure nothing has changed. Not nested. */
int ids_enter(const struct ids *ids);
/* Back to root; a thread that cannot get back would act for the wrong user: abort. */
void ids_leave(void);

#endif
