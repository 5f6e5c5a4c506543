/* SPDX-License-Identifier: Apache-2.0 */
/* Regular files: read, write, append and read-write descriptors with their offsets and flags, holes in the numbers, dup and close-on-exec. */
#include "move.h"

#define LINE 32
#define LINES 4096

static off_t at(int fd)
{
	return SYS(lseek(fd, 0, SEEK_CUR));
}

static void line_make(char *b, unsigned n)
{
	memset(b, '.', LINE);
	snprintf(b, LINE, "line %08u of this file", n);
	b[LINE - 1] = '\n';
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	char *rpath = strdup(move_path("read")), *wpath = strdup(move_path("write")), *apath = strdup(move_path("append"));
	char b[LINE], is[LINE];
	int w = SYS(open(rpath, O_WRONLY | O_CREAT | O_TRUNC, 0644));
	for (unsigned i = 0; i < LINES; i++) {
		line_make(b, i);
		CHECK(write(w, b, LINE) == LINE, "write");
	}
	close(w);
	int rd = SYS(open(rpath, O_RDONLY | O_NOATIME));
	int rd2 = SYS(fcntl(rd, F_DUPFD_CLOEXEC, 57)); /* shares the offset */
	int rd3 = SYS(open(rpath, O_RDONLY));	       /* does not */
	SYS(lseek(rd3, 17, SEEK_SET));
	int wr = SYS(open(wpath, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	int ap = SYS(open(apath, O_WRONLY | O_APPEND | O_CREAT | O_TRUNC, 0640));
	int high = SYS(dup2(ap, 700));
	int many[260]; /* more than one message of descriptors */
	for (int i = 0; i < 260; i++)
		many[i] = SYS(fcntl(rd3, i % 2 ? F_DUPFD : F_DUPFD_CLOEXEC, 100 + i));
	struct stat before, st;
	SYS(fstat(wr, &before));
	char *aside = move_path("aside"); /* a name that goes and comes back: /proc shows it as deleted ever after */
	SYS(link(rpath, aside));
	SYS(unlink(rpath));
	SYS(link(aside, rpath));
	SYS(unlink(aside));
	move_ready();
	unsigned n = 0, written = 0, appended = 0;
	while (move_more()) {
		/* Reads alternate between the two sharers and wrap round. */
		int fd = n & 1 ? rd2 : rd;
		CHECK(at(rd) == at(rd2), "dup'd descriptors no longer share their offset");
		CHECK(read(fd, is, LINE) == LINE, "read %u: short", n);
		line_make(b, n % LINES);
		CHECK(!memcmp(b, is, LINE), "read %u: found '%.20s'", n, is);
		if (++n % LINES == 0)
			SYS(lseek(rd, 0, SEEK_SET));
		CHECK(at(rd3) == 17, "an offset of its own moved to %lld", (long long)at(rd3));
		line_make(b, written);
		CHECK(write(wr, b, LINE) == LINE, "write");
		CHECK(at(wr) == (off_t)(++written) * LINE, "write offset %lld after %u lines", (long long)at(wr), written);
		CHECK(pread(wr, is, LINE, (off_t)(written - 1) * LINE) == LINE && !memcmp(b, is, LINE), "pread differs");
		line_make(b, appended++);
		CHECK(write(appended & 1 ? ap : high, b, LINE) == LINE, "append");
		SYS(fstat(ap, &st));
		CHECK(st.st_size == (off_t)appended * LINE, "append: size %lld after %u lines", (long long)st.st_size, appended);
		int fl = SYS(fcntl(ap, F_GETFL));
		CHECK((fl & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_WRONLY), "append flags are %o", fl);
		fl = SYS(fcntl(rd, F_GETFL));
		CHECK((fl & (O_NOATIME | O_ACCMODE)) == O_NOATIME, "read flags are %o", fl);
		CHECK(fcntl(rd, F_GETFD) == 0 && fcntl(rd2, F_GETFD) == FD_CLOEXEC && fcntl(wr, F_GETFD) == FD_CLOEXEC,
		      "close-on-exec changed");
		int k = n % 260;
		CHECK(fcntl(many[k], F_GETFD) == (k % 2 ? 0 : FD_CLOEXEC), "descriptor %d: close-on-exec changed", many[k]);
		CHECK(at(many[k]) == 17, "descriptor %d is another file", many[k]);
		CHECK(fcntl(56, F_GETFD) < 0 && errno == EBADF && fcntl(699, F_GETFD) < 0, "a descriptor appeared");
		SYS(fstat(wr, &st));
		CHECK(st.st_ino == before.st_ino && st.st_mode == before.st_mode && st.st_uid == before.st_uid, "not the same file");
		move_nap(200);
	}
	/* From outside: every line once, in order. */
	for (int k = 0; k < 2; k++) {
		int fd = SYS(open(k ? apath : wpath, O_RDONLY));
		for (unsigned i = 0; i < (k ? appended : written); i++) {
			line_make(b, i);
			CHECK(read(fd, is, LINE) == LINE && !memcmp(b, is, LINE), "%s: line %u is '%.20s'", k ? apath : wpath, i, is);
		}
		CHECK(read(fd, is, LINE) == 0, "%s: longer than what was written", k ? apath : wpath);
		close(fd);
	}
	unlink(rpath);
	unlink(wpath);
	unlink(apath);
	return move_pass();
}
