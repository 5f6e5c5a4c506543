/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The owner of this workstation comes first: watches for his input, freezes guests at once when he is back, and sends them home.
 * Also keeps whether this host lends itself (survives a restart: $state_dir/lend).
 * Locking: one lock inside; any thread.
 */
#ifndef MIGD_OWNER_H
#define MIGD_OWNER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "migd/context.h"
#include "migd/idle.h"

struct owner_view {
	bool idle;
	uint64_t idle_ms; /* since the last input */
	const char *why;  /* static word */
};
int owner_open(struct migd *m, struct owner **out, struct error *e);
void owner_close(struct owner *o);
void owner_look(struct owner *o, struct owner_view *out);
size_t owner_sources(struct owner *o, struct idle_source *out, size_t max);

/* mig lend on|off */
int lend_set(struct migd *m, bool on, struct error *e);
bool lend_load(const struct conf *c);
/* Asks the homes of all guests here (of one family: id; NULL: all) to take them. Returns how many were asked. */
size_t evict_guests(struct migd *m, const char *id, const char *why);

#endif
