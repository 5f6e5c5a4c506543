/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What /proc/self and the kernel say of the process itself: command line (written over, as daemons do), environment, auxiliary vector, program, where code, data, stack and
 * break begin, name; what goes into a core file; the GS base; barriers it has registered for (membarrier(2)).
 */
#include "move.h"
#include <asm/prctl.h>
#include <linux/membarrier.h>

#define MAX 65536
enum { ARGS, ENVIRON, AUXV, EXE, WORDS };
static const char *const names[WORDS] = {"cmdline", "environ", "auxv", "exe"};
struct text {
	char b[MAX];
	ssize_t n;
};
static struct text first[WORDS], now;

static void get(int what, struct text *t)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/%s", names[what]);
	if (what == EXE) {
		t->n = SYS(readlink(path, t->b, MAX));
		return;
	}
	int fd = SYS(open(path, O_RDONLY));
	t->n = SYS(read(fd, t->b, MAX));
	close(fd);
}

/* Fields of /proc/self/stat that tell of memory: startcode, endcode, startstack; start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end. */
static void layout(unsigned long v[10])
{
	static const int field[10] = {26, 27, 28, 45, 46, 47, 48, 49, 50, 51};
	char b[2048], *p;
	int fd = SYS(open("/proc/self/stat", O_RDONLY)), at = 3, k = 0;
	ssize_t n = SYS(read(fd, b, sizeof b - 1));
	close(fd);
	b[n] = 0;
	for (p = strrchr(b, ')') + 2; *p && k < 10; at++) {
		if (at == field[k])
			v[k++] = strtoul(p, NULL, 10);
		p += strcspn(p, " ");
		p += *p == ' ';
	}
}

static unsigned long core_filter(const char *set)
{
	char b[32] = "";
	int fd = SYS(open("/proc/self/coredump_filter", set ? O_WRONLY : O_RDONLY));
	SYS(set ? write(fd, set, strlen(set)) : read(fd, b, sizeof b - 1));
	close(fd);
	return strtoul(b, NULL, 16);
}

int main(int argc, char **argv)
{
	unsigned long was[10], is[10], gs;
	move_begin(argc, argv);
	memset(argv[0], 'x', strlen(argv[0]));
	SYS(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x123456789000ul));
	core_filter("0x5a");
	bool expedited = !syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	bool all = !syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0);
	bool sync = !syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
	long barriers = syscall(SYS_membarrier, 1 << 9 /* GET_REGISTRATIONS */, 0, 0);
	for (int i = 0; i < WORDS; i++)
		get(i, &first[i]);
	layout(was);
	move_ready();
	while (move_more()) {
		move_nap(30000);
		for (int i = 0; i < WORDS; i++) {
			get(i, &now);
			CHECK(now.n == first[i].n && !memcmp(now.b, first[i].b, now.n), "/proc/self/%s is another one: %.200s", names[i], now.b);
		}
		layout(is);
		for (int i = 0; i < 10; i++)
			CHECK(is[i] == was[i], "/proc/self/stat, %d of what is told of memory: %lx, was %lx", i, is[i], was[i]);
		CHECK(core_filter(NULL) == 0x5a, "coredump_filter is %lx", core_filter(NULL));
		SYS(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
		CHECK(gs == 0x123456789000ul, "GS base is %lx", gs);
		CHECK(!expedited || !syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), "membarrier: %s", strerror(errno));
		CHECK(!sync || !syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0), "membarrier, cores: %s", strerror(errno));
		if (barriers >= 0)
			CHECK(syscall(SYS_membarrier, 1 << 9, 0, 0) == barriers, "membarrier: registered for %lx, was %lx", syscall(SYS_membarrier, 1 << 9, 0, 0), barriers);
	}
	(void)all;
	return move_pass();
}
