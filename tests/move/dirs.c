/* SPDX-License-Identifier: Apache-2.0 */
/* Working directory, umask, directory descriptors with openat, O_PATH descriptors, a directory that is being listed, /dev/null and kin. */
#include "move.h"
#include <dirent.h>

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	char dir[512], cwd[600], is[600], name[64];
	snprintf(dir, sizeof dir, "%s", move_path("dir"));
	SYS(mkdir(dir, 0755));
	SYS(chdir(dir));
	SYS(mkdir("sub", 0755));
	SYS(chdir("sub"));
	CHECK(getcwd(cwd, sizeof cwd), "getcwd");
	int dfd = SYS(open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof name, "entry-%03d-with-a-name-that-fills-the-buffer", i);
		close(SYS(openat(dfd, name, O_CREAT | O_WRONLY, 0600)));
	}
	int op = SYS(open("../entry-007-with-a-name-that-fills-the-buffer", O_PATH));
	int opd = SYS(open(dir, O_PATH | O_DIRECTORY));
	SYS(symlink("nowhere", "link"));
	int opl = SYS(open("link", O_PATH | O_NOFOLLOW));
	struct stat st0, st;
	SYS(fstat(op, &st0));
	int null = SYS(open("/dev/null", O_RDWR)), zero = SYS(open("/dev/zero", O_RDONLY)), full = SYS(open("/dev/full", O_WRONLY)),
	    rnd = SYS(open("/dev/urandom", O_RDONLY));
	move_ready();
	int entries = 0;
	DIR *d = opendir(dir);
	for (unsigned n = 0; move_more(); n++) {
		CHECK(getcwd(is, sizeof is) && !strcmp(is, cwd), "cwd was %s, is %s", cwd, is);
		mode_t mask = n % 0777;
		umask(mask);
		move_nap(3000);
		mode_t m = umask(mask);
		CHECK(m == mask, "umask was %03o, is %03o", mask, m);
		umask(022);
		int fd = SYS(openat(dfd, "sub/here", O_CREAT | O_RDWR | O_TRUNC, 0666));
		SYS(fstat(fd, &st));
		CHECK((st.st_mode & 0777) == 0644, "umask 022 gave mode %o", st.st_mode);
		close(fd);
		SYS(unlink("here")); /* by the working directory */
		SYS(fstat(op, &st));
		CHECK(st.st_ino == st0.st_ino, "O_PATH: another file");
		CHECK(read(op, is, 1) < 0 && errno == EBADF, "O_PATH descriptor can be read");
		SYS(fstat(opl, &st));
		ssize_t len = readlinkat(opl, "", is, sizeof is);
		CHECK(S_ISLNK(st.st_mode) && len == 7 && !memcmp(is, "nowhere", 7), "O_PATH of a link: mode %o, leads to %.*s", st.st_mode, (int)len, is);
		SYS(fstatat(opd, "sub", &st, 0));
		struct dirent *e = readdir(d);
		if (e) {
			entries++;
		} else { /* every entry once: . .. sub and 300 files */
			CHECK(entries == 303, "listing saw %d entries, not 303", entries);
			entries = 0;
			rewinddir(d);
		}
		char c = 1;
		CHECK(write(null, &c, 1) == 1 && read(null, &c, 1) == 0, "/dev/null is not");
		CHECK(read(zero, &c, 1) == 1 && c == 0, "/dev/zero is not");
		CHECK(write(full, &c, 1) < 0 && errno == ENOSPC, "/dev/full is not");
		CHECK(read(rnd, is, 16) == 16, "/dev/urandom is not");
	}
	closedir(d);
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof name, "entry-%03d-with-a-name-that-fills-the-buffer", i);
		unlinkat(dfd, name, 0);
	}
	SYS(chdir("/"));
	unlinkat(dfd, "sub", AT_REMOVEDIR);
	rmdir(dir);
	return move_pass();
}
