/* SPDX-License-Identifier: Apache-2.0 */
/* A small file of state, replaced as a whole: whoever reads it later finds all of it, or all of the one before. */
#ifndef CONF_SAVE_H
#define CONF_SAVE_H
#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>

/*
 * Writes o (flags: JSON_INDENT(n), JSON_COMPACT) to PATH.new and gives that the name PATH; only its owner may read it, whatever the umask of the calling thread.
 * durable: it is on the disk when this returns; without, a crash of the machine (not of the program) may leave it empty. 0, or -errno and PATH is as it was.
 */
int save_json(const char *path, const json_t *o, size_t flags, bool durable);

#endif
