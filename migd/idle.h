/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the owner of this workstation away? Sources, each reported by name with what it saw:
 *   input    evdev devices (opened, never grabbed; hot-plug by inotify), so it works under Wayland, X and the console alike
 *   tty      reads on /dev/tty[1-9]* and /dev/pts/N: inotify IN_ACCESS for the moment, atime for the past (the kernel keeps it to 8 s)
 *   logind   IdleHint and LockedHint of each session (org.freedesktop.login1); also lid and power where it knows them
 *   power    on battery, lid closed
 *   load     run queue averages over 1, 5 and 15 minutes per CPU, guests not counted
 * The rule is Sprite's: idle when nobody has touched the host for idle_after seconds and the averages are below 0.75/1.0/1.5 per CPU; given up
 * above 2.5/2.75/3.0 (Douglis and Ousterhout 1991, section 5). Between the two sets of thresholds it stays what it was.
 *
 * One thread uses a watch. Times are clock_boot_ns().
 */
#ifndef MIGD_IDLE_H
#define MIGD_IDLE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "conf/error.h"

struct idle_rules {
	uint64_t idle_after_ns;
	double low[3], high[3]; /* run queue per CPU: become idle below all of low, stop being idle above any of high */
	bool remote_logins;	/* does input on a tty of a remote login count as the owner's */
	bool on_battery;	/* may a host on battery or with its lid closed be offered */
};
extern const struct idle_rules idle_rules_default;

struct idle_view { /* what the sources say now; input of the decision */
	uint64_t now_ns;
	uint64_t last_input_ns; /* 0: never since the watch was opened */
	uint64_t since_ns;	/* when the watch was opened: silence before that is not known */
	double load[3];		/* per CPU */
	bool battery, lid_closed;
};

/* Pure. `was` = what it answered before; *why is a static word: "input", "load", "battery", "lid", "waiting" or "idle". */
bool idle_decide(const struct idle_rules *r, const struct idle_view *v, bool was, const char **why);

struct idle_source { /* one line of mig hosts -v */
	char name[64];	 /* "input /dev/input/event3 (AT keyboard)", "tty pts/0", "logind", "load" */
	bool readable;	 /* false: text says why not; it is reported, never guessed */
	uint64_t last_ns; /* last input seen there, 0 = none */
	char text[120];
};

struct idle_watch;
int idle_open(const struct idle_rules *r, struct idle_watch **out, struct error *e);
void idle_close(struct idle_watch *w);
/* epoll fd: readable as soon as somebody touches the host or a device comes or goes; then call idle_poll(). */
int idle_fd(const struct idle_watch *w);
/* Reads what is there. Returns true when new input was seen since the last call. Call it when idle_fd() is readable. */
bool idle_poll(struct idle_watch *w);
/* Every few seconds: tty atimes; with `all`, less often, also what costs more: loads (`guests_running` runnable guest threads not counted), logind, power. */
void idle_sample(struct idle_watch *w, bool all, unsigned guests_running, struct idle_view *out);
size_t idle_sources(const struct idle_watch *w, struct idle_source *out, size_t max);

#endif
