/* SPDX-License-Identifier: Apache-2.0 */
/* Files without a name: an unlinked temporary file (two descriptions, holes, growing), one that never had a name (O_TMPFILE), one opened with O_NOFOLLOW, a memfd that is mapped and written in turn, a sealed memfd. */
#include "move.h"

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	char *path = move_path("tmp");
	int wr = SYS(open(path, O_RDWR | O_CREAT | O_EXCL, 0640)), ap = SYS(open(path, O_WRONLY | O_APPEND)), rd = SYS(open(path, O_RDONLY));
	SYS(unlink(path));
	int tmp[2] = {open("/tmp", O_RDWR | O_TMPFILE | O_EXCL, 0600), SYS(open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600))};
	SYS(unlink(path));
	for (int i = 0; i < 2; i++)
		CHECK(tmp[i] < 0 || write(tmp[i], "lasting", 7) == 7, "write");
	SYS(ftruncate(wr, 1 << 20)); /* a hole first */
	int mem = SYS(memfd_create("move-test", MFD_ALLOW_SEALING | MFD_CLOEXEC)), sealed = SYS(memfd_create("sealed", MFD_ALLOW_SEALING));
	SYS(ftruncate(mem, 65536));
	volatile uint64_t *map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
	CHECK(map != MAP_FAILED, "mmap");
	CHECK(write(sealed, "constant", 8) == 8, "write");
	SYS(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
	move_ready();
	for (uint64_t n = 0; move_more(); n++) {
		uint64_t v = n * 0x9e3779b97f4a7c15u, is;
		CHECK(write(ap, &v, 8) == 8, "append");
		struct stat st;
		SYS(fstat(rd, &st));
		CHECK(st.st_size == (off_t)((1 << 20) + 8 * (n + 1)), "size is %lld", (long long)st.st_size);
		CHECK(st.st_nlink == 0 && (st.st_mode & 0777) == 0640, "%d links, mode %o", (int)st.st_nlink, st.st_mode);
		CHECK(pread(rd, &is, 8, (1 << 20) + 8 * n) == 8 && is == v, "what was appended is not there");
		if (n) {
			uint64_t k = n / 2;
			CHECK(pread(wr, &is, 8, (1 << 20) + 8 * k) == 8 && is == k * 0x9e3779b97f4a7c15u, "entry %llu changed", (unsigned long long)k);
		}
		CHECK(pread(rd, &is, 8, n * 8 % (1 << 20)) == 8 && is == 0, "the hole is not empty");
		map[n % 8192] = v;
		CHECK(pread(mem, &is, 8, n % 8192 * 8) == 8 && is == v, "memfd: read() does not see what the map has");
		v = ~v;
		CHECK(pwrite(mem, &v, 8, n % 8192 * 8) == 8 && map[n % 8192] == v, "memfd: the map does not see write()");
		char b[8];
		for (int i = 0; i < 2; i++)
			CHECK(tmp[i] < 0 || (pread(tmp[i], b, 8, 0) == 7 && !memcmp(b, "lasting", 7)), "temporary file %d changed", i);
		CHECK(pread(sealed, b, 8, 0) == 8 && !memcmp(b, "constant", 8), "sealed memfd changed");
		CHECK(pwrite(sealed, "x", 1, 0) < 0 && errno == EPERM, "a sealed memfd can be written");
		CHECK(fcntl(mem, F_GETFD) == FD_CLOEXEC && fcntl(sealed, F_GETFD) == 0, "close-on-exec changed");
		move_nap(1000);
	}
	return move_pass();
}
