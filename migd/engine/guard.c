// SPDX-License-Identifier: Apache-2.0
/*
 * A thread whose registers are ours for a system call, while there is no blob that could keep its own, must find them again if its tracer is killed in that moment: it
 * would run on behind our call with the call's registers. So the call is made by a few bytes that go on with rt_sigreturn(2), from a frame that we have written, as if
 * a signal handler had come to its end. While we live that is never reached: the thread is stopped as it leaves the call.
 *
 * Their place is the end of the vdso, behind all that is mapped for use (its section headers and padding; see elf(5)): no memory of the program is touched, and it can
 * be read and executed in every state of the program. What was there is put back, from our own vdso. No guard where that place is too small for the thread's vector registers, as with
 * AVX-512; then the call is made as it is.
 *
 * The frame: arch/x86/include/uapi/asm/sigcontext.h and ucontext.h of the kernel; what it checks of the vector registers is in kernel/fpu/signal.c there.
 */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/engine/guard.h"
#include "migd/engine/inject.h"

enum { SW_BYTES = 464, FX_LEN = 512, HEADER_LEN = 64 };
enum { MAGIC1 = 0x46505853, MAGIC2 = 0x46505845, UC_ALL = 7 /* vector registers, SS and its strict restore */, NO_SUCH_STACK = 0xff };

static const unsigned char code[16] = {
	0x0f, 0x05,			/* syscall: ours */
	0xb8, 0x0f, 0x00, 0x00, 0x00,	/* mov $15, %eax: rt_sigreturn */
	0x0f, 0x05,			/* syscall */
	0xf4,				/* hlt */
};
struct frame {
	unsigned char code[16];
	/* the ucontext, which rsp points to */
	uint64_t flags, link, stack, stack_flags, stack_size; /* a stack that is refused: it stays as it is */
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2, xstate, reserved[8], sigmask;
};
_Static_assert(sizeof(struct frame) == 320 && offsetof(struct frame, sigmask) == 16 + 296, "the kernel's ucontext");

/* From where on nobody uses the image: behind its last section that is mapped for use. 0: it cannot be told. */
static size_t unused_from(const unsigned char *image, size_t len)
{
	const Elf64_Ehdr *h = (const Elf64_Ehdr *)image;
	size_t end = 0;

	if (memcmp(h->e_ident, ELFMAG, SELFMAG) || h->e_shentsize != sizeof(Elf64_Shdr) || h->e_shoff % 8 || h->e_shoff > len ||
		h->e_shnum > (len - h->e_shoff) / sizeof(Elf64_Shdr))
		return 0;
	for (unsigned i = 0; i < h->e_shnum; i++) {
		const Elf64_Shdr *s = (const Elf64_Shdr *)(image + h->e_shoff) + i;

		if (s->sh_flags & SHF_ALLOC && s->sh_offset + s->sh_size > end)
			end = s->sh_offset + s->sh_size;
	}
	return (end + 63) & ~63UL;
}

/* A call that was interrupted is made again, as the kernel would have it. */
static void registers(struct frame *f, const struct user_regs_struct *r)
{
	long rax = (long)r->rax;
	bool again = (long)r->orig_rax >= 0 && (rax == -512 || rax == -513 || rax == -514 || rax == -516);

	f->r8 = r->r8;
	f->r9 = r->r9;
	f->r10 = r->r10;
	f->r11 = r->r11;
	f->r12 = r->r12;
	f->r13 = r->r13;
	f->r14 = r->r14;
	f->r15 = r->r15;
	f->rdi = r->rdi;
	f->rsi = r->rsi;
	f->rbp = r->rbp;
	f->rbx = r->rbx;
	f->rdx = r->rdx;
	f->rcx = r->rcx;
	f->rsp = r->rsp;
	f->eflags = r->eflags;
	f->rax = again ? r->orig_rax : r->rax; /* also of -516: rt_sigreturn(2) forgets what restart_syscall(2) would go on with */
	f->rip = again ? r->rip - 2 : r->rip;
	f->cs = r->cs;
	f->ss = r->ss;
}

/* As the kernel writes it for a handler; its length, 0: too much for the place. */
static size_t vectors(struct eng_thread *t, unsigned char *area, size_t room)
{
	struct iovec v = {area, room}; /* of more we get the beginning, and no room behind it */
	uint32_t word;

	if (room < FX_LEN + HEADER_LEN + 4 || ptrace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, &v) < 0 || v.iov_len < FX_LEN + HEADER_LEN || v.iov_len + 4 > room)
		return 0;
	/* (where the mask of the features is already, as ptrace(2) gives it) */
	word = MAGIC1;
	memmove(area + SW_BYTES + 8, area + SW_BYTES, 8);
	memcpy(area + SW_BYTES, &word, 4);
	word = v.iov_len + 4;
	memcpy(area + SW_BYTES + 4, &word, 4);
	word = v.iov_len;
	memcpy(area + SW_BYTES + 16, &word, 4);
	word = MAGIC2;
	memcpy(area + v.iov_len, &word, 4);
	return v.iov_len + 4;
}

/* What rt_sigreturn(2) does not set: a vessel has not got these yet. */
static void bases(struct eng_thread *t, const struct user_regs_struct *r)
{
	struct user_regs_struct now;

	if (regs_get(t, &now) < 0 || (now.fs_base == r->fs_base && now.gs_base == r->gs_base))
		return;
	now.fs_base = r->fs_base;
	now.gs_base = r->gs_base;
	regs_set(t, &now);
}

void guard_up(struct eng_thread *t, const struct user_regs_struct *r)
{
	struct eng_proc_core *c = t->proc->core;
	const unsigned char *image = (const unsigned char *)getauxval(AT_SYSINFO_EHDR); /* ours: this kernel has but one */
	struct frame f = {.flags = UC_ALL, .stack_flags = NO_SUCH_STACK, .sigmask = t->sigmask};
	_cleanup_free_ unsigned char *all = NULL;
	size_t at, n, len = c->vdso ? c->vdso_end - c->vdso : 0;

	if (c->guard || !len || !image)
		return;
	at = unused_from(image, len);
	all = at && at + sizeof(f) < len ? malloc(len - at) : NULL;
	if (!all)
		return;
	memcpy(f.code, code, sizeof(code));
	registers(&f, r);
	bases(t, r);
	f.xstate = c->vdso + at + sizeof(f);
	memcpy(all, &f, sizeof(f));
	n = vectors(t, all + sizeof(f), len - at - sizeof(f));
	c->guard = c->vdso + at;
	c->guard_len = sizeof(f) + n;
	c->guarded = t;
	if (n && eng_poke(t->proc, c->guard, all, c->guard_len) == 0)
		return;
	log_debug("engine: process %d: its registers are not guarded", t->proc->vpid);
	guard_down(t->proc);
}

void guard_down(struct eng_proc *p)
{
	struct eng_proc_core *c = p->core;
	const unsigned char *image = (const unsigned char *)getauxval(AT_SYSINFO_EHDR);

	if (c->guard && !c->dead) /* also what a migd that died has left there */
		eng_poke(p, c->guard, image + (c->guard - c->vdso), c->vdso_end - c->guard);
	c->guard = 0;
	c->guarded = NULL;
}

bool guard_call(const struct eng_thread *t, struct user_regs_struct *r)
{
	const struct eng_proc_core *c = t->proc->core;

	if (!c->guard || c->guarded != t)
		return false;
	r->rip = c->guard;
	r->rsp = c->guard + offsetof(struct frame, flags);
	return true;
}
