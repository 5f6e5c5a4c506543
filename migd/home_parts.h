/* SPDX-License-Identifier: Apache-2.0 */
/* What home*.c share, and nobody else uses. */
#ifndef MIGD_HOME_PARTS_H
#define MIGD_HOME_PARTS_H
#include <jansson.h>
#include "migd/home.h"

/* In the actor: *(char **)arg becomes what the engine says of the hollows. */
int home_actor_save(struct family *f, void *arg);
/* All that a restarted migd must know. state: what the engine has said of the hollows, NULL: nothing */
json_t *home_record_with(struct family *f, const char *type, uint64_t gen, const char *state);
/* Its end, which may come before that of a move or with a birth, is written by who has marked it dead. Takes r. */
int home_note_unless_dead(struct family *f, json_t *r);
/* A report that was answered by who was here before us, and perhaps not carried out. */
void home_replay_report(struct family *f, const json_t *rec);
#endif
