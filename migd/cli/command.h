/* SPDX-License-Identifier: Apache-2.0 */
/* What a recipe of make says, as far as that can be told without a shell. Pure. */
#ifndef MIGD_CLI_COMMAND_H
#define MIGD_CLI_COMMAND_H
#include <stdbool.h>
#include <stddef.h>

/* "gcc" of "CC=x  /usr/bin/gcc -c a.c"; "" when there is none. Skips assignments and a leading subshell or negation. */
void command_word(const char *command, char *to, size_t n);

/* Is it one thing that a shell does by itself, at once? */
bool command_tiny(const char *command);

/*
 * The words of a command for which no shell is needed, as make itself takes it apart: plain words and quoted ones, nothing that a shell would expand, redirect or
 * know by itself. Returns how many, with argv ended by NULL and its strings in buf; 0: a shell is needed (or there is no room).
 */
int command_split(const char *command, char *buf, size_t size, char **argv, int max);

#endif
