/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector, mask and x87 registers, MXCSR and control word: two threads fill all of them with a pattern, spin, and compare, all without a
 * system call in between. AVX-512 where the CPU has it, else AVX, else SSE2.
 */
#include "move.h"
#include <cpuid.h>

static volatile bool stop;
enum { SPINS = 3000000 };

#define REP16(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define REP32(m)                                                                                             \
	REP16(m) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) m(28) m(29) m(30) m(31)

#define LOAD_Z(i) "vmovdqu64 " #i "*64(%[in]), %%zmm" #i "\n\t"
#define SAVE_Z(i) "vmovdqu64 %%zmm" #i ", " #i "*64(%[out])\n\t"
#define LOAD_Y(i) "vmovdqu " #i "*64(%[in]), %%ymm" #i "\n\t"
#define SAVE_Y(i) "vmovdqu %%ymm" #i ", " #i "*64(%[out])\n\t"
#define LOAD_X(i) "movdqu " #i "*64(%[in]), %%xmm" #i "\n\t"
#define SAVE_X(i) "movdqu %%xmm" #i ", " #i "*64(%[out])\n\t"
#define SPIN "movl %[spins], %%ecx\n\t1: decl %%ecx\n\tjnz 1b\n\t"
#define CLOBBER16                                                                                            \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

__attribute__((target("avx512f,avx512bw"))) static void round512(const void *in, void *out, uint64_t *mask)
{
	uint64_t k[8];
	__asm__ volatile(REP32(LOAD_Z)
			 "kmovq %[m], %%k1\n\tkmovq %[m], %%k2\n\tkmovq %[m], %%k3\n\tkmovq %[m], %%k4\n\t"
			 "kmovq %[m], %%k5\n\tkmovq %[m], %%k6\n\tkmovq %[m], %%k7\n\t" SPIN
			 "kmovq %%k1, 0(%[k])\n\tkmovq %%k2, 8(%[k])\n\tkmovq %%k3, 16(%[k])\n\tkmovq %%k4, 24(%[k])\n\t"
			 "kmovq %%k5, 32(%[k])\n\tkmovq %%k6, 40(%[k])\n\tkmovq %%k7, 48(%[k])\n\t" REP32(SAVE_Z)
			 :
			 : [in] "r"(in), [out] "r"(out), [m] "r"(*mask), [k] "r"(k), [spins] "i"(SPINS)
			 : "ecx", "memory", CLOBBER16, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",
			   "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7");
	for (int i = 0; i < 7; i++)
		CHECK(k[i] == *mask, "mask register k%d was %llx, is %llx", i + 1, (unsigned long long)*mask, (unsigned long long)k[i]);
}

__attribute__((target("avx"))) static void round256(const void *in, void *out)
{
	__asm__ volatile(REP16(LOAD_Y) SPIN REP16(SAVE_Y) : : [in] "r"(in), [out] "r"(out), [spins] "i"(SPINS) : "ecx", "memory", CLOBBER16);
}

static void round128(const void *in, void *out)
{
	__asm__ volatile(REP16(LOAD_X) SPIN REP16(SAVE_X) : : [in] "r"(in), [out] "r"(out), [spins] "i"(SPINS) : "ecx", "memory", CLOBBER16);
}

static void x87(uint64_t seed)
{
	double v[8], is[8];
	for (int i = 0; i < 8; i++)
		v[i] = (double)(seed % 1000003 + i) / 7;
	uint16_t cw = 0x0e7f, cw_is;
	uint32_t mx = 0x1f80 | 0x6000, mx_is;
	__asm__ volatile("fninit\n\tfldcw %[cw]\n\tldmxcsr %[mx]\n\t"
			 "fldl 0(%[v])\n\tfldl 8(%[v])\n\tfldl 16(%[v])\n\tfldl 24(%[v])\n\t"
			 "fldl 32(%[v])\n\tfldl 40(%[v])\n\tfldl 48(%[v])\n\tfldl 56(%[v])\n\t" SPIN
			 "fstpl 56(%[is])\n\tfstpl 48(%[is])\n\tfstpl 40(%[is])\n\tfstpl 32(%[is])\n\t"
			 "fstpl 24(%[is])\n\tfstpl 16(%[is])\n\tfstpl 8(%[is])\n\tfstpl 0(%[is])\n\t"
			 "fnstcw %[cwis]\n\tstmxcsr %[mxis]\n\tfninit\n\t"
			 : [cwis] "=m"(cw_is), [mxis] "=m"(mx_is)
			 : [cw] "m"(cw), [mx] "m"(mx), [v] "r"(v), [is] "r"(is), [spins] "i"(SPINS)
			 : "ecx", "memory", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
	uint32_t def = 0x1f80;
	__asm__ volatile("ldmxcsr %0" : : "m"(def));
	CHECK(cw_is == cw, "x87 control word was %x, is %x", cw, cw_is);
	CHECK((mx_is & ~0x3fu) == mx, "MXCSR was %x, is %x", mx, mx_is);
	for (int i = 0; i < 8; i++)
		CHECK(v[i] == is[i], "x87 register %d was %f, is %f", i, v[i], is[i]);
}

static int width(void)
{
	unsigned a, b, c, d;
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
		return 64;
	__cpuid(1, a, b, c, d);
	return __builtin_cpu_supports("avx") ? 32 : 16;
}

static void *work(void *arg)
{
	uint64_t seed = 0x1234567 + (uintptr_t)arg * 77;
	static __thread unsigned char in[32 * 64] __attribute__((aligned(64))), out[32 * 64] __attribute__((aligned(64)));
	int w = width(), regs = w == 64 ? 32 : 16;
	while (!stop) {
		for (size_t i = 0; i < sizeof in; i += 8)
			*(uint64_t *)(in + i) = move_rand(&seed);
		memset(out, 0, sizeof out);
		uint64_t mask = move_rand(&seed);
		if (w == 64)
			round512(in, out, &mask);
		else if (w == 32)
			round256(in, out);
		else
			round128(in, out);
		for (int r = 0; r < regs; r++)
			CHECK(!memcmp(in + r * 64, out + r * 64, w), "vector register %d of %d bits changed", r, w * 8);
		x87(move_rand(&seed));
	}
	return NULL;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	pthread_t t[2];
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, work, (void *)i);
	move_ready();
	while (move_more())
		move_nap(20000);
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	return move_pass();
}
