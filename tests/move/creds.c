/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials: three uids and gids that differ (where root may set them), supplementary groups, capability sets, securebits, no_new_privs,
 * keep-caps, dumpable. As a plain user: what there is stays, and nothing is gained.
 */
#include "move.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

struct creds {
	uid_t r, e, s;
	gid_t gr, ge, gs;
	int ngroups;
	gid_t groups[64];
	struct __user_cap_data_struct cap[2];
	uint64_t bounding, ambient;
	int securebits, nnp, dumpable;
	uid_t fsuid;
	gid_t fsgid;
};

static void look(struct creds *c)
{
	memset(c, 0, sizeof *c);
	SYS(getresuid(&c->r, &c->e, &c->s));
	SYS(getresgid(&c->gr, &c->ge, &c->gs));
	c->ngroups = SYS(getgroups(64, c->groups));
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	SYS(syscall(SYS_capget, &h, c->cap));
	for (int i = 0; i < 41; i++) {
		c->bounding |= (uint64_t)(prctl(PR_CAPBSET_READ, i) == 1) << i;
		c->ambient |= (uint64_t)(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1) << i;
	}
	c->securebits = prctl(PR_GET_SECUREBITS);
	c->nnp = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	c->dumpable = prctl(PR_GET_DUMPABLE);
	c->fsuid = syscall(SYS_setfsuid, -1);
	c->fsgid = syscall(SYS_setfsgid, -1);
}

static void as_root(void)
{
	gid_t groups[5] = {7, 4001, 4002, 4711, 70000};
	SYS(setgroups(5, groups));
	SYS(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
	SYS(prctl(PR_CAPBSET_DROP, CAP_MKNOD));
	SYS(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_KEEP_CAPS));
	SYS(syscall(SYS_setresgid, 5001, 5002, 5003));
	SYS(syscall(SYS_setresuid, 6001, 6002, 6003));
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2] = {{.permitted = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_KILL | 1 << CAP_CHOWN,
					       .effective = 1 << CAP_KILL,
					       .inheritable = 1 << CAP_NET_BIND_SERVICE}};
	SYS(syscall(SYS_capset, &h, d));
	SYS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
}

static struct creds main_was;
static volatile bool stop;
static void *thread(void *arg)
{
	(void)arg;
	struct creds is;
	while (!stop) { /* credentials belong to threads in the kernel */
		look(&is);
		CHECK(!memcmp(&is, &main_was, sizeof is), "credentials of the second thread changed");
		move_nap(3000);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	if (geteuid() == 0)
		as_root();
	SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	SYS(prctl(PR_SET_DUMPABLE, 0));
	struct creds was, is;
	look(&was);
	main_was = was;
	pthread_t t;
	pthread_create(&t, NULL, thread, NULL);
	move_ready();
	while (move_more()) {
		look(&is);
		CHECK(is.r == was.r && is.e == was.e && is.s == was.s, "uids were %u %u %u, are %u %u %u", was.r, was.e, was.s, is.r, is.e,
		      is.s);
		CHECK(is.gr == was.gr && is.ge == was.ge && is.gs == was.gs, "gids were %u %u %u, are %u %u %u", was.gr, was.ge, was.gs,
		      is.gr, is.ge, is.gs);
		CHECK(is.fsuid == was.fsuid && is.fsgid == was.fsgid, "fsuid/fsgid changed");
		CHECK(is.ngroups == was.ngroups && !memcmp(is.groups, was.groups, sizeof is.groups), "groups changed");
		CHECK(!memcmp(is.cap, was.cap, sizeof is.cap), "capabilities were %x/%x/%x, are %x/%x/%x", was.cap[0].effective,
		      was.cap[0].permitted, was.cap[0].inheritable, is.cap[0].effective, is.cap[0].permitted, is.cap[0].inheritable);
		CHECK(is.bounding == was.bounding, "bounding set was %llx, is %llx", (long long)was.bounding, (long long)is.bounding);
		CHECK(is.ambient == was.ambient, "ambient set was %llx, is %llx", (long long)was.ambient, (long long)is.ambient);
		CHECK(is.securebits == was.securebits, "securebits were %x, are %x", was.securebits, is.securebits);
		CHECK(is.nnp == 1, "no_new_privs is off");
		CHECK(is.dumpable == was.dumpable, "dumpable was %d, is %d", was.dumpable, is.dumpable);
		move_nap(2000);
	}
	stop = true;
	pthread_join(t, NULL);
	return move_pass();
}
