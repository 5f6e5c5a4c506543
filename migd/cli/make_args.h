/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command lines of GNU make, taken apart: one option or word at a time, whichever of make's ways it was written in ("-sj8", "-j 8", "--jobs=8").
 * Pure, but that words are taken apart in place.
 * What is not known is passed on: make says what it thinks of it.
 */
#ifndef MIGD_CLI_MAKE_ARGS_H
#define MIGD_CLI_MAKE_ARGS_H
#include <stdbool.h>
#include <stddef.h>

struct make_arg {
	char letter;	   /* of a short option, or the short one of a long option that we have to know (j, f, C); 0: another */
	const char *name;  /* of a long option, without "--", up to "=" or the end; NULL: none */
	const char *value; /* NULL: none */
	const char *as[2]; /* how to say it to make; as[1] may be NULL */
};

struct make_line {
	int argc, i;
	char **argv;
	char *rest;	  /* letters of "-abc" that are still to come */
	bool words;	  /* "--" was there */
};

void make_line_init(struct make_line *l, int argc, char **argv); /* argv[0] is passed over */
bool make_line_next(struct make_line *l, struct make_arg *a);	 /* false: that was all */
/* Is it the long option of that name? One of ours that wants a value takes the next word, if it has none (NULL: there is none). */
bool make_arg_is(struct make_line *l, struct make_arg *a, const char *name, bool valued);
/* How much of MAKEFLAGS are options: variables follow, behind " -- ". */
size_t make_flags_options(const char *flags);
/* MAKEFLAGS without a job server and -j of somebody else's. Malloc'ed; NULL: out of memory. */
char *make_flags_alone(const char *flags);

#endif
