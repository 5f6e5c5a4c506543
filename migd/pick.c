// SPDX-License-Identifier: Apache-2.0
/* Host selection, see pick.h. Pure. */
#include "migd/pick.h"
#include <string.h>

const char *pick_refusal(const struct pick_host *h, const struct pick_need *need, bool named)
{
	if (h->is_source)
		return "it is there already";
	if (!h->reachable)
		return "it does not answer";
	if (h->is_home)
		return "it is the home";
	if (!h->lends)
		return "it does not lend itself (mig lend on)";
	if (!h->cpu_ok)
		return "it lacks CPU features";
	if (need->root && !h->takes_root)
		return "it takes no processes of root (migd.root_guests)";
	if (need->memory && h->memory_free < need->memory)
		return "it has too little free memory";
	if (!h->idle && !named)
		return "it is in use";
	return NULL;
}

static unsigned cpus_of(const struct pick_host *h)
{
	return h->cpus ? h->cpus : 1;
}

static double pressure(const struct pick_host *h)
{
	double busy = h->load > h->guests ? h->load : h->guests; /* a new guest is not in the load average yet */

	return busy / cpus_of(h);
}

static bool better(const struct pick_host *a, const struct pick_host *b)
{
	bool free_a = pressure(a) < 1, free_b = pressure(b) < 1;

	if (free_a != free_b)
		return free_a;
	if (a->guests * cpus_of(b) != b->guests * cpus_of(a)) /* fewer guests per CPU */
		return a->guests * cpus_of(b) < b->guests * cpus_of(a);
	if (a->idle_ms != b->idle_ms)
		return a->idle_ms > b->idle_ms;
	if (pressure(a) < pressure(b) || pressure(a) > pressure(b))
		return pressure(a) < pressure(b);
	return strcmp(a->name, b->name) < 0;
}

int pick_host(const struct pick_host *h, size_t n, const struct pick_need *need, const char **why)
{
	int best = -1;

	for (size_t i = 0; i < n; i++) {
		const char *no = pick_refusal(&h[i], need, false);

		if (why)
			why[i] = no;
		if (!no && (best < 0 || better(&h[i], &h[best])))
			best = (int)i;
	}
	return best;
}
