/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inotify: watches of a directory and of a file keep their numbers and masks; every change that the program makes is told once, in order, and nothing else is;
 * new watches get new numbers; a watch that was taken away stays away; a copy made by dup(2) is the same queue.
 */
#include "move.h"
#include <sys/inotify.h>
#include <sys/ioctl.h>

static char buf[4096] __attribute__((aligned(8)));

/* The next event, which must be this one. */
static void expect(int fd, int wd, uint32_t mask, const char *name, uint32_t *cookie)
{
	static ssize_t have, at;

	if (at == have) {
		have = read(fd, buf, sizeof buf);
		CHECK(have > 0, "read: %s", strerror(errno));
		at = 0;
	}
	struct inotify_event *e = (void *)(buf + at);

	at += sizeof *e + e->len;
	CHECK(e->wd == wd && e->mask == mask && !strcmp(e->len ? e->name : "", name), "event is wd %d mask %x \"%s\", not wd %d mask %x \"%s\"", e->wd, e->mask,
	      e->len ? e->name : "", wd, mask, name);
	if (cookie)
		*cookie = e->cookie;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	char *dir = move_path("dir"), *file = move_path("file");
	char a[600], b[600], name[40];

	SYS(mkdir(dir, 0700));
	int f = SYS(open(file, O_RDWR | O_CREAT, 0600)), in = SYS(inotify_init1(IN_CLOEXEC));
	int gone = SYS(inotify_add_watch(in, "/", IN_ATTRIB));
	int wd = SYS(inotify_add_watch(in, dir, IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR));
	int wf = SYS(inotify_add_watch(in, file, IN_MODIFY)), copy = SYS(dup(in));

	SYS(inotify_rm_watch(in, gone));
	expect(in, gone, IN_IGNORED, "", NULL);
	move_ready();
	for (unsigned n = 0; move_more(); n++) {
		int q = n & 1 ? copy : in, left;
		uint32_t c1, c2;

		snprintf(name, sizeof name, "f%u", n);
		snprintf(a, sizeof a, "%s/%s", dir, name);
		snprintf(b, sizeof b, "%s/to", dir);
		SYS(close(SYS(open(a, O_WRONLY | O_CREAT | O_EXCL, 0600))));
		expect(q, wd, IN_CREATE, name, NULL);
		CHECK(pwrite(f, &n, sizeof n, 0) == sizeof n, "write");
		expect(q, wf, IN_MODIFY, "", NULL);
		SYS(rename(a, b));
		expect(q, wd, IN_MOVED_FROM, name, &c1);
		expect(q, wd, IN_MOVED_TO, "to", &c2);
		CHECK(c1 && c1 == c2, "cookies %u and %u", c1, c2);
		SYS(unlink(b));
		expect(q, wd, IN_DELETE, "to", NULL);
		CHECK(inotify_add_watch(in, dir, IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR) == wd, "watch got another number");
		if (n % 16 == 0) {
			int w = SYS(inotify_add_watch(in, move_dir, IN_DELETE_SELF));

			CHECK(w != wd && w != wf, "a new watch got the number %d, which is taken", w);
			SYS(inotify_rm_watch(in, w));
			expect(q, w, IN_IGNORED, "", NULL);
		}
		SYS(ioctl(in, FIONREAD, &left));
		CHECK(left == 0, "%d bytes of events that nobody made", left);
		move_nap(2000);
	}
	SYS(rmdir(dir));
	SYS(unlink(file));
	return move_pass();
}
