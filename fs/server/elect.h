/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elections on the root server: a named office (the migds' master) is held by one host for as long as it renews in time. Pure; times are clock_boot_ns().
 *
 * The holder stops acting ttl after it SENT its last successful request, the server gives the office to another ttl after it RECEIVED it, so two never act at
 * once whatever the clocks' offsets. After a restart of the server the first ttl belongs to whoever says it held the office, so that a restart changes no master.
 * Terms only grow: a new holder's term is above every term any candidate has seen.
 */
#ifndef FS_SERVER_ELECT_H
#define FS_SERVER_ELECT_H
#include <stdbool.h>
#include <stdint.h>

#define ELECT_TTL_NS 3000000000ull

struct elect; /* all offices */

struct elect_ask {
	const char *office;    /* "master" */
	const char *candidate; /* name in the peer's certificate */
	const char *value;     /* what others are told of the holder: its address */
	uint64_t term;	       /* the term it holds, or the highest it has heard of */
	bool holding;	       /* it believes that it holds the office in `term` */
	bool resign;	       /* gives it up, or does not want it: asks only */
};
struct elect_answer {
	char holder[256]; /* "" = nobody */
	char value[256];
	uint64_t term;
	uint64_t left_ns; /* for so long it is the holder's at least: nobody else need ask before */
	bool you;
};

struct elect *elect_new(uint64_t now_ns);
void elect_free(struct elect *e);
/* 0, -EINVAL (names too long or empty) or -ENOSPC (more than 16 offices that somebody holds, or 4 that this one does). */
int elect_ask(struct elect *e, const struct elect_ask *a, uint64_t now_ns, struct elect_answer *out);

#endif
