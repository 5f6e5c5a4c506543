/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recipes that are over sooner than a program would have been started: what sh(1) does by itself (true, false, echo), and touch, mkdir and rm as far as they do nothing but
 * change names. What goes wrong there is left to the program, which does it again (so only what may be done twice), and has the words for it.
 */
#ifndef MIGD_CLI_BUILTIN_H
#define MIGD_CLI_BUILTIN_H
#include <stdbool.h>

/* Is it one of them? *says: it writes to standard output. */
bool builtin_is(char **argv, bool *says);
/* Does it. The exit status, or -1: the program has to. */
int builtin_do(char **argv);

#endif
