// SPDX-License-Identifier: Apache-2.0
/*
 * What the engine reads of a process whose names, paths and filters its user chooses: stat, status, maps and smaps of /proc, and seccomp filters. First
 * byte: which one. The files of /proc are played by those of a directory.
 */
#include <ctype.h>
#include <errno.h>
#include "migd/engine/procfs.h"
#include "migd/engine/seccomp_run.h"
#include "tests/fuzz/fuzz.h"

static int dir;

static void put(const char *name, const uint8_t *data, size_t len)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, data, len) != (ssize_t)len)
		abort();
	close(fd);
}

static void one_stat(const uint8_t *data, size_t len)
{
	struct procfs_stat st;

	put("stat", data, len);
	if (!procfs_stat(dir, &st) && (memchr(st.comm, 0, sizeof(st.comm)) == NULL || !st.state))
		abort();
}

static void one_status(const uint8_t *data, size_t len)
{
	pid_t vpid;
	int depth;

	put("status", data, len);
	if (!procfs_nspid(dir, "status", &vpid, &depth) && depth < 1)
		abort();
}

static void one_maps(bool smaps, const uint8_t *data, size_t len)
{
	struct maps *m;

	put(smaps ? "smaps" : "maps", data, len);
	if (procfs_maps(dir, smaps, &m))
		return;
	for (size_t i = 0; i < m->n; i++)
		if (!m->m[i].path || strlen(m->m[i].path) > len || m->m[i].kind > KIND_REFUSED)
			abort();
	maps_free(m);
}

static void one_filter(const uint8_t *data, size_t len)
{
	static const uint32_t actions[] = {SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE, SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW};
	struct seccomp_data d = {.nr = 39, .arch = 0xc000003e, .instruction_pointer = 0x1234567890, .args = {1, 2, 3, 4, 5, ~0ull}};
	size_t n = len / sizeof(struct sock_filter);
	struct sock_filter *f = malloc(n * sizeof(*f) + 1);
	uint32_t v;

	if (!f)
		abort();
	memcpy(f, data, n * sizeof(*f));
	v = seccomp_run(f, n, &d);
	/* what it returns it may return */
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
		if ((v & SECCOMP_RET_ACTION_FULL) == actions[i] && !seccomp_may_return(f, n, actions[i]))
			abort();
	free(f);
}

static void one(const uint8_t *data, size_t len)
{
	if (!len)
		return;
	switch (data[0] % 5) {
	case 0:
		one_stat(data + 1, len - 1);
		break;
	case 1:
		one_status(data + 1, len - 1);
		break;
	case 2:
	case 3:
		one_maps(data[0] % 5 == 3, data + 1, len - 1);
		break;
	default:
		one_filter(data + 1, len - 1);
	}
}

#define SEED(s) {s, sizeof(s) - 1}
int main(int argc, char **argv)
{
	static const char *const words[] = {") ", "(", "\\012", " (deleted)", "/dev/zero", "/memfd:", "/SYSV", "[vdso]", "[vvar]", "VmFlags: ", "NSpid:", "\n", "-", ":",
		"ffffffffffffffff", "18446744073709551616", "gd lo ht", NULL};
	static uint8_t filter[1 + 5 * sizeof(struct sock_filter)] = {4};
	static const struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 39, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff), BPF_STMT(BPF_RET | BPF_A, 0)};
	static struct fuzz_seed seeds[] = {
		SEED("\0" "4711 (a) (b\n) S 1 4711 4711 0 -1 4194560 0 0 0 0 1 2 0 0 20 0 1 0 12345 1000000 200 18446744073709551615 1 2 3 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 4 5 6 7 8 9 10 0\n"),
		SEED("\1" "Name:\tx\nNSpid:\t4711\t17\t1\nThreads:\t1\n"),
		SEED("\2" "00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/a\\012b\n7f00-8000 rw-s 00001000 00:05 12 /dev/zero (deleted)\n7ffe-7fff rw-p 00000000 00:00 0 [stack]\n"),
		SEED("\3" "00400000-00452000 rw-p 00000000 08:02 173521 /memfd:x (deleted)\nSize: 8 kB\nVmFlags: rd wr mr mw me gd ac lo\n7f00-8000 rw-s 0 00:05 12 /SYSV00000000 (deleted)\nVmFlags: ht\n"),
		{filter, sizeof(filter)},
	};
	char path[80];
	int r;

	memcpy(filter + 1, f, sizeof(f));
	if (!fuzz_dir(path, sizeof(path)) || (dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return 2;
	r = fuzz_main(argc, argv, "proc", seeds, ARRAY_SIZE(seeds), words, one);
	for (const char *const *n = (const char *const[]){"stat", "status", "maps", "smaps", NULL}; *n; n++)
		unlinkat(dir, *n, 0);
	rmdir(path);
	return r;
}
