/* SPDX-License-Identifier: Apache-2.0 */
/* Acting as the caller; see ids.h. State is per thread; the capability sets are read once in ids_init(). */
#include "fs/server/ids.h"
#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/log.h"

/* What root's own calls need: the filesystem capabilities, file capabilities and trusted.* attributes. */
#define BIT(c) (1ull << (c))
#define CAPS_ROOT                                                                                            \
	(BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) |  \
		BIT(CAP_LINUX_IMMUTABLE) | BIT(CAP_MKNOD) | BIT(CAP_SETFCAP) | BIT(CAP_SYS_ADMIN))

/*
 * What a worker thread keeps while it is root: those that setfsuid(2) takes away from and gives back to a thread by itself, and those that switching needs. Of no
 * other one do filesystems ask, so a thread with another fsuid has no rights but the caller's, and switching costs no capset(2).
 */
#define CAPS_FS                                                                                              \
	(BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) |  \
		BIT(CAP_LINUX_IMMUTABLE) | BIT(CAP_MKNOD) | BIT(CAP_MAC_OVERRIDE))
#define CAPS_SWITCH (BIT(CAP_SETUID) | BIT(CAP_SETGID))

static uint64_t caps_permitted;

/* What the thread acts as, or acted as last: groups and umask stay while it is root, which does not go by them. */
static __thread bool thread_ready;
static __thread struct ids last;

static int caps_set(uint64_t effective)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {
		{.effective = (uint32_t)effective, .permitted = (uint32_t)caps_permitted},
		{.effective = (uint32_t)(effective >> 32), .permitted = (uint32_t)(caps_permitted >> 32)},
	};

	return syscall(SYS_capset, &h, d) < 0 ? -errno : 0;
}

int ids_init(struct error *e)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2];
	uint64_t need = CAPS_ROOT | BIT(CAP_SETUID) | BIT(CAP_SETGID);

	if (syscall(SYS_capget, &h, d) < 0)
		return error_set(e, errno, "capget: %s", strerror(errno));
	caps_permitted = ((uint64_t)d[1].permitted << 32 | d[0].permitted) & ~BIT(CAP_SYS_RESOURCE);
	if ((caps_permitted & need) != need)
		return error_set(e, EPERM, "spritefsd must run as root (capabilities %llx, needs %llx)",
			(unsigned long long)caps_permitted, (unsigned long long)need);
	if (caps_set(caps_permitted) < 0)
		return error_set(e, EPERM, "capset: %s", strerror(errno));
	return 0;
}

int ids_map(const struct ids_rule *rule, const Sprite__Fs__Cred *cred, struct ids *out)
{
	bool nobody;

	if (!cred || cred->n_groups > IDS_GROUPS_MAX)
		return -EINVAL;
	nobody = cred->uid == (uint32_t)-1 || cred->gid == (uint32_t)-1 ||
		(cred->uid == 0 ? rule->root_squash : cred->uid < rule->uid_min || cred->uid > rule->uid_max);
	out->umask = cred->umask & 0777;
	out->ngroups = 0;
	if (nobody) {
		out->uid = out->gid = IDS_NOBODY;
		return 0;
	}
	out->uid = cred->uid;
	out->gid = rule->root_squash && cred->gid == 0 ? IDS_NOBODY : cred->gid;
	for (size_t i = 0; i < cred->n_groups; i++)
		if ((cred->groups[i] || !rule->root_squash) && cred->groups[i] != (uint32_t)-1)
			out->groups[out->ngroups++] = cred->groups[i];
	return 0;
}

static uint64_t caps_effective(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2];

	return syscall(SYS_capget, &h, d) < 0 ? ~0ull : (uint64_t)d[1].effective << 32 | d[0].effective;
}

static bool fsids_are(uid_t uid, gid_t gid)
{
	return (uid_t)syscall(SYS_setfsuid, -1) == uid && (gid_t)syscall(SYS_setfsgid, -1) == gid;
}

/* umask is per process unless the thread has a filesystem context of its own. That setfsuid(2) takes the capabilities away is tried, not believed (secure bits). */
static int thread_init(void)
{
	bool gone;
	int r;

	if (thread_ready)
		return 0;
	if (unshare(CLONE_FS) < 0)
		return -errno;
	r = caps_set(caps_permitted & (CAPS_FS | CAPS_SWITCH));
	if (r < 0 || syscall(SYS_setgroups, 0, NULL) < 0)
		return r < 0 ? r : -errno;
	syscall(SYS_setfsuid, IDS_NOBODY);
	gone = !(caps_effective() & ~CAPS_SWITCH);
	syscall(SYS_setfsuid, 0);
	umask(0);
	last.umask = 0;
	last.ngroups = 0;
	thread_ready = gone && fsids_are(0, 0);
	return thread_ready ? 0 : -EPERM;
}

static bool same_groups(const struct ids *a, const struct ids *b)
{
	return a->ngroups == b->ngroups && !memcmp(a->groups, b->groups, a->ngroups * sizeof(a->groups[0]));
}

int ids_enter(const struct ids *ids)
{
	int r = thread_init();

	if (r < 0)
		return r;
	if (!same_groups(ids, &last)) {
		if (syscall(SYS_setgroups, ids->ngroups, ids->groups) < 0)
			return -errno;
		last.ngroups = ids->ngroups;
		memcpy(last.groups, ids->groups, ids->ngroups * sizeof(ids->groups[0]));
	}
	if (ids->umask != last.umask)
		umask(ids->umask);
	last.umask = ids->umask;
	last.uid = ids->uid;
	syscall(SYS_setfsgid, ids->gid);
	if (ids->uid == 0)
		r = caps_set(caps_permitted & (CAPS_ROOT | CAPS_SWITCH));
	else
		syscall(SYS_setfsuid, ids->uid);
	if (r < 0 || !fsids_are(ids->uid, ids->gid)) {
		ids_leave();
		return r < 0 ? r : -EPERM;
	}
	return 0;
}

void ids_leave(void)
{
	int r = 0;

	if (last.uid == 0)
		r = caps_set(caps_permitted & (CAPS_FS | CAPS_SWITCH));
	else
		syscall(SYS_setfsuid, 0);
	syscall(SYS_setfsgid, 0);
	if (r < 0 || !fsids_are(0, 0)) {
		log_error("a worker cannot become root again: %s", strerror(-r));
		abort();
	}
}
