/* SPDX-License-Identifier: Apache-2.0 */
/* See seccomp_run.h. The kernel has checked the program when it was installed; here nothing is trusted. */
#include "migd/engine/seccomp_run.h"
#include <string.h>

struct machine {
	uint32_t a, x, mem[BPF_MEMWORDS];
};

static bool load(struct machine *m, const struct sock_filter *i, const struct seccomp_data *d)
{
	uint32_t v;

	switch (BPF_MODE(i->code)) {
	case BPF_ABS:
		if (BPF_CLASS(i->code) != BPF_LD || BPF_SIZE(i->code) != BPF_W || i->k % 4 || i->k > sizeof *d - 4)
			return false;
		memcpy(&v, (const char *)d + i->k, 4);
		break;
	case BPF_IMM:
		v = i->k;
		break;
	case BPF_LEN:
		v = sizeof *d;
		break;
	case BPF_MEM:
		if (i->k >= BPF_MEMWORDS)
			return false;
		v = m->mem[i->k];
		break;
	default:
		return false;
	}
	*(BPF_CLASS(i->code) == BPF_LD ? &m->a : &m->x) = v;
	return true;
}

static bool compute(struct machine *m, const struct sock_filter *i)
{
	uint32_t v = BPF_SRC(i->code) == BPF_X ? m->x : i->k;

	switch (BPF_OP(i->code)) {
	case BPF_ADD: m->a += v; return true;
	case BPF_SUB: m->a -= v; return true;
	case BPF_MUL: m->a *= v; return true;
	case BPF_DIV: m->a = v ? m->a / v : 0; return true;
	case BPF_MOD: m->a = v ? m->a % v : m->a; return true;
	case BPF_OR: m->a |= v; return true;
	case BPF_AND: m->a &= v; return true;
	case BPF_XOR: m->a ^= v; return true;
	case BPF_LSH: m->a <<= v & 31; return true;
	case BPF_RSH: m->a >>= v & 31; return true;
	case BPF_NEG: m->a = -m->a; return true;
	}
	return false;
}

static bool holds(const struct machine *m, const struct sock_filter *i)
{
	uint32_t v = BPF_SRC(i->code) == BPF_X ? m->x : i->k;

	switch (BPF_OP(i->code)) {
	case BPF_JEQ: return m->a == v;
	case BPF_JGT: return m->a > v;
	case BPF_JGE: return m->a >= v;
	case BPF_JSET: return m->a & v;
	}
	return false;
}

uint32_t seccomp_run(const struct sock_filter *f, size_t n, const struct seccomp_data *d)
{
	struct machine m = {0};

	for (size_t at = 0; at < n; at++) { /* jumps go forward only: it ends */
		const struct sock_filter *i = &f[at];
		bool ok = true;

		switch (BPF_CLASS(i->code)) {
		case BPF_LD:
		case BPF_LDX:
			ok = load(&m, i, d);
			break;
		case BPF_ST:
		case BPF_STX:
			ok = i->k < BPF_MEMWORDS;
			if (ok)
				m.mem[i->k] = BPF_CLASS(i->code) == BPF_ST ? m.a : m.x;
			break;
		case BPF_ALU:
			ok = compute(&m, i);
			break;
		case BPF_JMP:
			at += BPF_OP(i->code) == BPF_JA ? i->k : holds(&m, i) ? i->jt : i->jf;
			break;
		case BPF_RET:
			return BPF_RVAL(i->code) == BPF_A ? m.a : i->k;
		case BPF_MISC:
			if (BPF_MISCOP(i->code) == BPF_TAX)
				m.x = m.a;
			else
				m.a = m.x;
			break;
		}
		if (!ok)
			break;
	}
	return SECCOMP_RET_KILL_PROCESS;
}

bool seccomp_may_return(const struct sock_filter *f, size_t n, uint32_t action)
{
	for (size_t i = 0; i < n; i++)
		if (BPF_CLASS(f[i].code) == BPF_RET && (BPF_RVAL(f[i].code) == BPF_A || (f[i].k & SECCOMP_RET_ACTION_FULL) == action))
			return true;
	return false;
}
