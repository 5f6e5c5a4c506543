// SPDX-License-Identifier: Apache-2.0
/*
 * Elections (elect.h). An office is a row: who, since which term, until when.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/server/elect.h"

#define OFFICES	   16
#define OFFICES_MAX 4 /* that one candidate holds: all of them must not be had by one */
#define TERM_MAX   (1ull << 62) /* no true one comes near; what somebody claims above it is not followed, so that terms never wrap */

struct office {
	char name[64];
	char holder[256], value[256];
	uint64_t term, until_ns;
};

struct elect {
	uint64_t started_ns;
	struct office office[OFFICES];
	int n;
};

struct elect *elect_new(uint64_t now_ns)
{
	struct elect *e = calloc(1, sizeof *e);

	if (e)
		e->started_ns = now_ns;
	return e;
}

void elect_free(struct elect *e)
{
	free(e);
}

/* One that nobody holds gives its place to a new one: offices that were made up are forgotten. NULL: there is none. */
static struct office *office_get(struct elect *e, const char *name, const char *candidate, uint64_t now)
{
	struct office *o = NULL;
	int held = 0;

	for (int i = 0; i < e->n; i++) {
		if (!strcmp(e->office[i].name, name))
			return &e->office[i];
		if (e->office[i].until_ns <= now)
			o = &e->office[i];
		else
			held += !strcmp(e->office[i].holder, candidate);
	}
	if (held >= OFFICES_MAX)
		return NULL;
	if (e->n < OFFICES)
		o = &e->office[e->n++];
	if (!o)
		return NULL;
	memset(o, 0, sizeof *o);
	snprintf(o->name, sizeof o->name, "%s", name);
	return o;
}

static bool may_take(const struct elect *e, const struct office *o, const struct elect_ask *a, uint64_t now)
{
	if (a->resign)
		return false;
	if (o->holder[0] && now < o->until_ns)
		return !strcmp(o->holder, a->candidate);
	/* Nobody holds it that we know of. Just restarted, an earlier holder may still be acting: only who says so goes on. */
	if (!o->holder[0] && now - e->started_ns < ELECT_TTL_NS)
		return a->holding;
	return true;
}

int elect_ask(struct elect *e, const struct elect_ask *a, uint64_t now_ns, struct elect_answer *out)
{
	struct office *o;
	uint64_t term;

	if (!a->office[0] || strlen(a->office) >= sizeof o->name || !a->candidate[0] || strlen(a->candidate) >= sizeof o->holder ||
		strlen(a->value) >= sizeof o->value)
		return -EINVAL;
	o = office_get(e, a->office, a->candidate, now_ns);
	if (!o)
		return -ENOSPC;
	term = a->term <= TERM_MAX || a->term <= o->term ? a->term : o->term > TERM_MAX ? o->term : TERM_MAX;
	bool mine = o->holder[0] && !strcmp(o->holder, a->candidate) && now_ns < o->until_ns;

	if (mine && a->resign) {
		o->until_ns = now_ns;
	} else if (may_take(e, o, a, now_ns)) {
		if (!mine && !(a->holding && !o->holder[0] && term >= o->term)) /* a new reign, unless it goes on after our restart */
			o->term = (term > o->term ? term : o->term) + 1;
		else if (term > o->term)
			o->term = term;
		snprintf(o->holder, sizeof o->holder, "%s", a->candidate);
		snprintf(o->value, sizeof o->value, "%s", a->value);
		o->until_ns = now_ns + ELECT_TTL_NS;
	} else if (!o->holder[0] && term > o->term) {
		o->term = term; /* heard of: the next one starts above it */
	}
	*out = (struct elect_answer){.term = o->term};
	if (o->holder[0] && now_ns < o->until_ns) {
		memcpy(out->holder, o->holder, sizeof out->holder);
		memcpy(out->value, o->value, sizeof out->value);
		out->left_ns = o->until_ns - now_ns;
		out->you = !strcmp(o->holder, a->candidate);
	}
	return 0;
}
