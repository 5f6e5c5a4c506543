// SPDX-License-Identifier: Apache-2.0
/*
 * The decision whether a workstation is idle. Pure: what is seen comes from idle_watch.c.
 */
#include "migd/idle.h"

/* Sprite's thresholds (Douglis and Ousterhout 1991, section 5), per CPU; "several minutes" of the 1987 posting. */
const struct idle_rules idle_rules_default = {
	.idle_after_ns = 300ull * 1000000000ull,
	.low = {0.75, 1.0, 1.5},
	.high = {2.5, 2.75, 3.0},
	.remote_logins = true,
	.on_battery = false,
};

static bool load_any_above(const double load[3], const double limit[3])
{
	return load[0] > limit[0] || load[1] > limit[1] || load[2] > limit[2];
}

bool idle_decide(const struct idle_rules *r, const struct idle_view *v, bool was, const char **why)
{
	/* Nothing is known of the time before the watch was opened: silence counts from then. */
	uint64_t quiet_since = v->last_input_ns ? v->last_input_ns : v->since_ns;

	if (v->now_ns < quiet_since || v->now_ns - quiet_since < r->idle_after_ns) {
		*why = v->last_input_ns ? "input" : "waiting";
		return false;
	}
	if (!r->on_battery && v->battery) {
		*why = "battery";
		return false;
	}
	if (!r->on_battery && v->lid_closed) {
		*why = "lid";
		return false;
	}
	/* Hysteresis: between the two sets of limits it stays as it was. */
	if (load_any_above(v->load, was ? r->high : r->low)) {
		*why = "load";
		return false;
	}
	*why = "idle";
	return true;
}
