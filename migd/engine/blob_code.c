// SPDX-License-Identifier: Apache-2.0
/*
 * The blob's code (blob.h), as assembler so that no compiler option (sanitizers, stack protector, CET) changes what runs inside of a foreign process.
 * It uses no vector register: those stay the program's while it is parked.
 *
 * batch: rbp = calls (struct eng_call), r13 = how many, r15 = slot of this thread. [rbp-8] gets the number of calls done.
 *        A clone3 child starts at park with the slot that the call's arg[5] named.
 * park:  r15 = slot.
 * sleep: r15 = slot, rbx = head. Another wait than that of park, after which it parks (regs_rearm()).
 * tiles: rdi = a configuration of AMX. Uses a tile, for the kernel makes room for them at the first use, by the thread itself.
 */
#include "migd/engine/blob.h"
#include "migd/engine/res.h"

_Static_assert(sizeof(struct eng_call) == 72 && offsetof(struct eng_call, ret) == 56 && offsetof(struct eng_call, may_fail) == 64 &&
		       offsetof(struct eng_call, from) == 68,
	"the code below knows struct eng_call");
_Static_assert(offsetof(struct blob_slot, full) == 128 && offsetof(struct blob_slot, apart) == 140 && offsetof(struct blob_head, mode) == 8, "and these");

__asm__(".pushsection .rodata\n"
	".balign 16\n"
	".globl blob_code_start, blob_code_end, blob_code_batch, blob_code_park, blob_code_took, blob_code_noted, blob_code_sleep, blob_code_handler, blob_code_restorer, blob_code_tiles\n"
	"blob_code_start:\n"
	"blob_code_batch:\n"
	"	mov %rbp, %r12\n"
	"	xor %r14d, %r14d\n"
	"1:	cmp %r13, %r14\n"
	"	jae 9f\n"
	"	mov 68(%r12), %ecx\n"
	"2:	test %ecx, %ecx\n"
	"	jz 3f\n"
	"	bsf %ecx, %eax\n" /* arg[eax] is the index of an earlier call */
	"	mov 8(%r12,%rax,8), %rdx\n"
	"	imul $72, %rdx, %rdx\n"
	"	mov 56(%rbp,%rdx), %rdx\n"
	"	mov %rdx, 8(%r12,%rax,8)\n"
	"	btr %eax, %ecx\n"
	"	jmp 2b\n"
	"3:	mov (%r12), %rax\n"
	"	mov 8(%r12), %rdi\n"
	"	mov 16(%r12), %rsi\n"
	"	mov 24(%r12), %rdx\n"
	"	mov 32(%r12), %r10\n"
	"	mov 40(%r12), %r8\n"
	"	mov 48(%r12), %r9\n"
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jnz 4f\n"
	"	cmpq $435, (%r12)\n" /* clone3: the child */
	"	jne 4f\n"
	"	mov %r9, %r15\n"
	"	jmp blob_code_park\n"
	"4:	mov %rax, 56(%r12)\n"
	"	cmp $-4095, %rax\n"
	"	jb 5f\n"
	"	cmpl $0, 64(%r12)\n"
	"	je 9f\n"
	"5:	add $72, %r12\n"
	"	inc %r14\n"
	"	jmp 1b\n"
	"9:	mov %r14, -8(%rbp)\n"
	"	int3\n"
	"blob_code_park:\n"
	"	lea blob_code_start+0x1000(%rip), %rbx\n"
	"1:	cmpl $1, 8(%rbx)\n"
	"	jne 3f\n"
	"	cmpl $0, 140(%r15)\n"
	"	jne 3f\n"
	"	mov $128, %eax\n" /* rt_sigtimedwait(all, &slot->info, NULL, 8) */
	"	mov %rbx, %rdi\n"
	"	mov %r15, %rsi\n"
	"	xor %edx, %edx\n"
	"	mov $8, %r10d\n"
	"	syscall\n"
	"blob_code_took:\n" /* from here to noted a signal, if eax says so, is taken and not in the slot yet */
	"	test %eax, %eax\n"
	"	jle 1b\n"
	"	mov %eax, 128(%r15)\n"
	"blob_code_noted:\n"
	"	int3\n"
	"2:	cmpl $0, 128(%r15)\n"
	"	je 1b\n"
	"3:	mov $271, %eax\n" /* ppoll(NULL, 0, NULL, NULL, 0): for ever */
	"	xor %edi, %edi\n"
	"	xor %esi, %esi\n"
	"	xor %edx, %edx\n"
	"	xor %r10d, %r10d\n"
	"	xor %r8d, %r8d\n"
	"blob_code_sleep:\n"
	"	syscall\n"
	"	cmpl $1, 8(%rbx)\n"
	"	jne 3b\n"
	"	jmp 2b\n"
	"blob_code_handler:\n"
	"	ret\n"
	"blob_code_restorer:\n"
	"	mov $15, %eax\n"
	"	syscall\n"
	"	hlt\n"
	"blob_code_tiles:\n"
	"	.byte 0xc4, 0xe2, 0x78, 0x49, 0x07\n" /* ldtilecfg (%rdi) */
	"	.byte 0xc4, 0xe2, 0x7b, 0x49, 0xc0\n" /* tilezero %tmm0 */
	"	.byte 0xc4, 0xe2, 0x78, 0x49, 0xc0\n" /* tilerelease */
	"	int3\n"
	"	jmp blob_code_park\n"
	"blob_code_end:\n"
	".popsection\n");
