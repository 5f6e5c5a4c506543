/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A system call about a process that is not on this host: made over there, answered by the home. In and out are what the pointer arguments point to, so that the
 * call can be made in another address space: `in_arg` and `out_arg` are their places in arg[], -1: none.
 */
#ifndef ENGINE_FOREIGN_H
#define ENGINE_FOREIGN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FOREIGN_MAX = 128, FOREIGN_DATA_MAX = 32768 };
#define CONNECT_HERE 0x53707269746578ull /* connect(2), argument 3: by the engine itself, and to somebody here */
/*
 * connect(2) to a socket file of the home is one too (keeper_connect.c, migd/connect.c): arg 0 the descriptor, 1 the socket's type, 4 and 5 uid and gid; `in` its name, in_arg 2. With the
 * answer 0 comes an end of the relay that stands for it.
 *
 * sendto(2) to one (sendmsg(2) and sendmmsg(2) are that call, too): arg 0 the descriptor, 2 what cannot be carried (enum send_with), 3 MSG_DONTWAIT or 0, 4 and 5 uid and gid; `in` the name,
 * in_arg 4. The bytes, FOREIGN_DATA_MAX at most, go beside it.
 */
enum send_with { SEND_NAME = 1, SEND_DESCRIPTORS = 2 }; /* from a socket that has a name, and may be answered; with SCM_RIGHTS */
struct eng_foreign {
	uint64_t id;
	int32_t pid; /* who calls, as the family sees it */
	int32_t nr;
	uint64_t arg[6];
	int64_t ret; /* answer: result or -errno */
	int8_t in_arg, out_arg;
	uint16_t in_len, out_len;
	uint8_t in[FOREIGN_MAX], out[FOREIGN_MAX];
};

struct foreign_call {
	short nr;
	signed char who;	  /* argument that names the process */
	signed char in, out;	  /* arguments that point, -1: none */
	short len;		  /* of what they point to; 0: the argument before says */
	signed char process_only; /* value of argument 0 with which `who` is a process (getpriority(2), ioprio_get(2)); -1: always */
};
enum { FOREIGN_CALLS = 20 };
extern const struct foreign_call foreign_table[FOREIGN_CALLS];
const struct foreign_call *foreign_find(long nr);
size_t foreign_length(const struct foreign_call *t, const uint64_t arg[6], int at); /* of what arg[at] points to */
/* One of the table, with nothing that points but what is in the table: a guest host is not believed. */
bool foreign_valid(const struct eng_foreign *c);
#endif
