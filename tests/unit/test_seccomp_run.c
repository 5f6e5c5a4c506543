// SPDX-License-Identifier: Apache-2.0
/*
 * seccomp_run() says what the kernel says: random filters are installed in a child, which makes one harmless call; and filters that end badly never let it through.
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <linux/audit.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/seccomp_run.h"

static uint64_t seed = 88172645463325252u;

static unsigned rnd(unsigned n)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return seed % n;
}

enum { LEN = 40, FIRST = 8 };

/*
 * Whatever is computed: forbidden calls are allowed unless their number is the probe's; then the last word is ERRNO|(A & 511), or ALLOW if a comparison says so.
 */
static size_t make(struct sock_filter *f)
{
	static const uint16_t alu[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_XOR, BPF_LSH, BPF_RSH, BPF_DIV};
	static const uint16_t jmp[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};
	size_t n = 0;

	f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
	f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpriority, 1, 0);
	f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	for (int i = 0; i < BPF_MEMWORDS && n < FIRST; i++)
		f[n++] = (struct sock_filter)BPF_STMT(BPF_ST, i);
	while (n < LEN - 3) {
		unsigned room = LEN - 3 - n;

		switch (rnd(9)) {
		case 0: f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, rnd(16) * 4); break;
		case 1: f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, rnd(UINT32_MAX)); break;
		case 2: f[n++] = (struct sock_filter)BPF_STMT(BPF_LDX | BPF_IMM, rnd(40)); break;
		case 3: f[n++] = (struct sock_filter)BPF_STMT(rnd(2) ? BPF_ST : BPF_STX, rnd(4)); break;
		case 4: f[n++] = (struct sock_filter)BPF_STMT(BPF_MISC | (rnd(2) ? BPF_TAX : BPF_TXA), 0); break;
		case 5: f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | alu[rnd(8)] | BPF_X, 0); break;
		case 6: f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | alu[rnd(9)] | BPF_K, 1 + rnd(30)); break;
		case 7: f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_NEG, 0); break;
		default: {
			struct sock_filter j = BPF_JUMP(BPF_JMP | jmp[rnd(4)] | (rnd(2) ? BPF_K : BPF_X), rnd(1000), rnd(room < 5 ? room : 5), rnd(room < 5 ? room : 5));

			f[n++] = j;
		}
		}
	}
	f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 511);
	f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO);
	f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);
	return n;
}

/* errno of getpriority(who, pid) under the filter; -1: the kernel does not take the filter. */
static int ask_kernel(const struct sock_filter *f, size_t n, long a, long b)
{
	int *out = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), st, r;
	pid_t pid = fork();

	if (!pid) {
		struct sock_fprog prog = {n, (struct sock_filter *)f};

		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
			_exit(1);
		errno = 0;
		syscall(SYS_getpriority, a, b);
		*out = errno;
		_exit(0);
	}
	waitpid(pid, &st, 0);
	r = WIFEXITED(st) && !WEXITSTATUS(st) ? *out : -1;
	munmap(out, 4096);
	return r;
}

static void test_kernel(void)
{
	struct sock_filter f[LEN];
	int asked = 0;

	for (int i = 0; i < 300; i++) {
		size_t n = make(f);
		struct seccomp_data d = {.nr = SYS_getpriority, .arch = AUDIT_ARCH_X86_64, .args = {0, 0}};
		int kernel = ask_kernel(f, n, d.args[0], d.args[1]);
		uint32_t ours;

		if (kernel < 0)
			continue;
		asked++;
		/* the instruction pointer is the one thing that we cannot know: filters that load it are left out */
		bool ip = false;

		for (size_t k = 0; k < n; k++)
			ip |= f[k].code == (BPF_LD | BPF_W | BPF_ABS) && (f[k].k == 8 || f[k].k == 12);
		for (size_t k = 0; ip && k < n; k++)
			if (f[k].code == (BPF_LD | BPF_W | BPF_ABS) && (f[k].k == 8 || f[k].k == 12))
				f[k].k = 4;
		if (ip && (kernel = ask_kernel(f, n, 0, 0)) < 0)
			continue;
		/* args beyond the second hold whatever the registers did */
		bool args = false;

		for (size_t k = 0; k < n; k++)
			args |= f[k].code == (BPF_LD | BPF_W | BPF_ABS) && f[k].k >= 32;
		if (args)
			continue;
		ours = seccomp_run(f, n, &d);
		CU_ASSERT_EQUAL(ours & SECCOMP_RET_ACTION_FULL, SECCOMP_RET_ERRNO);
		CU_ASSERT_EQUAL((int)(ours & SECCOMP_RET_DATA), kernel);
		d.nr = SYS_getpid;
		CU_ASSERT_EQUAL(seccomp_run(f, n, &d), SECCOMP_RET_ALLOW);
	}
	CU_ASSERT(asked > 100);
}

static void test_bad(void)
{
	static const struct sock_filter bad[][2] = {
		{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)},
		{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)},
		{BPF_STMT(BPF_LD | BPF_MEM, 16), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)},
		{BPF_STMT(BPF_ST, 16), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)},
		{BPF_STMT(BPF_JMP | BPF_JA, 7), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)},
		{BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)},
	};
	struct seccomp_data d = {.nr = 1};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		CU_ASSERT_EQUAL(seccomp_run(bad[i], 2, &d), SECCOMP_RET_KILL_PROCESS);
	CU_ASSERT_EQUAL(seccomp_run(NULL, 0, &d), SECCOMP_RET_KILL_PROCESS);
}

static void test_may(void)
{
	static const struct sock_filter notify[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)}, plain[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)},
					computed[] = {BPF_STMT(BPF_RET | BPF_A, 0)};

	CU_ASSERT(seccomp_may_return(notify, 1, SECCOMP_RET_USER_NOTIF));
	CU_ASSERT(!seccomp_may_return(plain, 1, SECCOMP_RET_USER_NOTIF));
	CU_ASSERT(seccomp_may_return(computed, 1, SECCOMP_RET_USER_NOTIF));
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("seccomp filters", NULL, NULL);

	CU_add_test(s, "as the kernel says", test_kernel);
	CU_add_test(s, "what is no filter lets nothing through", test_bad);
	CU_add_test(s, "may return", test_may);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed != 0;
}
