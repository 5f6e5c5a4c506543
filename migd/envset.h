/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared environments (Sprite kept environment variables in its kernel, shared by a process and its descendants, always answered by the home).
 * One set of variables per login session and user: a session is a number that the kernel gives to no other while a process is in it, and that every
 * descendant has wherever it runs, unless it begins a session of its own; then it is tied to the same set (envset_tie).
 * Pure: no I/O, no locking; the caller knows about processes (env.h).
 */
#ifndef MIGD_ENVSET_H
#define MIGD_ENVSET_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "conf/error.h"

#define ENV_NAME_MAX  256u
#define ENV_VALUE_MAX 8192u
#define ENV_TOTAL_MAX 49152u /* of a set, names and values: it fits into one control message */

struct envsets;
struct envset;

struct envsets *envsets_new(void);
void envsets_free(struct envsets *t);
/* The set of this session and user; NULL: there is none. */
struct envset *envset_find(struct envsets *t, pid_t session, uid_t uid);
struct envset *envset_make(struct envsets *t, pid_t session, uid_t uid); /* NULL: out of memory */
/* Another session of the same user from here on means this set. 0 or -ENOMEM. */
int envset_tie(struct envset *s, pid_t session);

const char *envset_get(const struct envset *s, const char *name); /* NULL: not set */
/* 0, -EINVAL: no name (letters, digits, '_', not a digit in front), -E2BIG, -ENOMEM; e says so. */
int envset_set(struct envset *s, const char *name, const char *value, struct error *e);
int envset_unset(struct envset *s, const char *name, struct error *e); /* -ENOENT */
json_t *envset_list(const struct envset *s); /* borrowed: an object of strings */

/* Sets of which no session is left go. `lives` says of a session whether a process is in it. */
void envsets_clean(struct envsets *t, bool (*lives)(void *arg, pid_t session), void *arg);
json_t *envsets_save(const struct envsets *t);
int envsets_load(struct envsets *t, const json_t *saved); /* 0 or -EINVAL: not what envsets_save() makes */

#endif
