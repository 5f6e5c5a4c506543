/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Home: what a process of the family would do, done by a process of ours with its ids, for as long as that takes. No thread of ours does it: whoever may send that user signals
 * could end this daemon with one.
 */
#ifndef MIGD_USER_H
#define MIGD_USER_H
#include "migd/family.h"

enum { USER_GROUPS = 1024 };
struct user_ids {
	uid_t uid;
	gid_t gid, groups[USER_GROUPS];
	size_t ngroups;
};

/* Who process `pid` of the family was as it left: its hollow, or that of the family, has its groups. A guest host is not believed about its ids, but of a family of root, which could be anybody. */
void user_of(struct user_ids *u, struct family *f, pid_t pid, uid_t uid, gid_t gid);

/*
 * `fn` in such a process, by raw calls: nobody else of our threads lives there. What it leaves in the `len` bytes of its second argument is `answer`, and the descriptor that it
 * returns, unless -1, *fd (fd may be NULL). -EAGAIN: it was killed, stopped, or has not done it in time; whether it had done it nobody knows.
 */
int user_run(int (*fn)(const void *arg, void *answer), const void *arg, int ms, void *answer, size_t len, int *fd);
/* In it: that user, in all. */
bool user_become(const struct user_ids *u);
/* Or for files alone: it stays root otherwise, and may say who sends. */
bool user_files(const struct user_ids *u);

#endif
