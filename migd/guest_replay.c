// SPDX-License-Identifier: Apache-2.0
/* After a restart of migd: guests are found again by the journal, and what is here of guests that it does not know ends. */
#include "migd/guest_parts.h"
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/cgroup.h"
#include "migd/engine/keeper.h"
#include "migd/hooks.h"
#include "migd/journal.h"
#include "migd/proc.h"
#include "migd/relay_rpc.h"
#include "migd/relays.h"
#include "migd/view.h"

enum { END_MS = 2000 };

static int actor_reattach(struct family *f, void *arg)
{
	struct eng_hooks hooks;
	struct error e = { 0 };
	int err;

	hooks_of(f, &hooks);
	err = arg ? eng_reattach(arg, &hooks, &f->eng, &e) : error_set(&e, ESRCH, "nothing is known of it");
	if (err == -ENOENT && f->adopt)
		return 1; /* it runs here, and this is its home */
	if (!err && !f->whole) {
		eng_abandon(f->eng);
		f->eng = NULL;
		err = error_set(&e, ESTALE, "its image had not come in whole");
	}
	if (!err)
		log_debug("family %s: its nest is %s", f->id, eng_state_name(f->eng));
	if (!err && !strcmp(eng_state_name(f->eng), "running"))
		f->machine.state = MD_RUNNING;
	if (err)
		log_warn("family %s: its nest is given up: %s", f->id, e.text);
	return err;
}

void guest_replay_heard(struct migd *m, const json_t *r)
{
	struct family *f = family_find(m->families, FAM_GUEST, json_string_value(json_object_get(r, "f")));
	uint64_t seq = (uint64_t)json_integer_value(json_object_get(r, "seq"));

	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	if (f->gen == (uint64_t)json_integer_value(json_object_get(r, "g")) && seq > f->signal_seq)
		f->signal_seq = seq;
	pthread_mutex_unlock(&f->lock);
	family_put(f);
}

void guest_replay(struct migd *m, const json_t *r)
{
	const char *id = json_string_value(json_object_get(r, "f")), *home = json_string_value(json_object_get(r, "home"));
	const char *state = json_string_value(json_object_get(r, "state")), *group = json_string_value(json_object_get(r, "cgroup"));
	_cleanup_free_ char *dir = NULL;
	struct error e = { 0 };
	struct family *f;
	int found;

	if (!home || family_create(m->families,
			&(struct family_new){ .role = FAM_GUEST, .id = id, .home = home, .uid = json_integer_value(json_object_get(r, "uid")),
				.gid = json_integer_value(json_object_get(r, "gid")), .pid = json_integer_value(json_object_get(r, "pid")),
				.comm = json_string_value(json_object_get(r, "comm")), .adopt = json_is_true(json_object_get(r, "adopt")), .on_event = guest_event },
			&f))
		return;
	if (!f->adopt)
		view_get(m->views, home, &dir, &e);
	pthread_mutex_lock(&f->lock);
	f->gen = json_integer_value(json_object_get(r, "g"));
	relays_name(f->relays, f->id, f->gen);
	f->signal_seq = json_integer_value(json_object_get(r, "signal"));
	if (group)
		snprintf(f->cgroup, sizeof(f->cgroup), "%s", group);
	else /* by a migd that had none made ahead */
		snprintf(f->cgroup, sizeof(f->cgroup), "sprite-%.100s.%llu", f->id, (unsigned long long)f->gen);
	f->stuck_kill_s = (uint32_t)json_integer_value(json_object_get(r, "stuck_kill"));
	if (guest_told_to_freeze(f)) { /* stopped for the owner's sake by who was here before: it is still to leave, or to run on when he goes */
		f->evicting = true;
		f->evict_since_ns = clock_boot_ns();
		snprintf(f->evict_why, sizeof(f->evict_why), "its owner is back");
		guest_freeze(f, false); /* its keeper could not answer; evict_turn() stops it again */
	}
	/* What it is now, actor_reattach() finds out; what it was, a destination or a source, tells who may let it run. */
	f->machine.state = json_is_true(json_object_get(r, "runs")) ? MS_DOUBT : MD_DOUBT;
	f->whole = json_is_true(json_object_get(r, "whole"));
	pthread_mutex_unlock(&f->lock);
	relays_find(f->relays);
	found = family_call(f, actor_reattach, (void *)state);
	if (found > 0)
		guest_note_adopted(f);
	if (found)
		guest_forget(f); /* what is left of it ends with its cgroup */
	else
		log_note("family %s: %d (%s) found again, %s", f->id, f->pid, f->comm, mig_state_name(f->machine.state));
	if (f->machine.state == MD_RUNNING) {
		relays_resume(f->relays); /* it may have been killed in a freeze */
		relay_rpc_open(f);
		family_post(f, guest_actor_caught_up, NULL);
	}
	family_put(f);
}

/* Its migd died before it could write a record, or the journal is lost: its home does not count on it. */
static void end_unknown(void *arg, const char *group)
{
	struct migd *m = arg;
	struct family *f = family_of_cgroup(m->families, group);
	pid_t one;
	int left, err;

	family_put(f);
	if (f)
		return;
	left = cgroup_pids(m->cgroups, group, &one, 1); /* none: a nest that was made ahead */
	err = cgroup_remove(m->cgroups, group, END_MS);
	if (left > 0)
		log_warn("%s: what was left here of a guest that the journal does not know %s", group, err ? "does not end" : "is ended");
}

static bool keeper_known(struct migd *m, pid_t pid)
{
	struct family **v;
	size_t n = families_list(m->families, FAM_GUEST, &v);
	bool known = false;

	for (size_t i = 0; i < n; i++) {
		known |= v[i]->eng && eng_keeper(v[i]->eng) == pid;
		family_put(v[i]);
	}
	free(v);
	return known;
}

/* Its stand-ins have its name: it is the one that is number 1 inside. */
static bool is_first(pid_t pid)
{
	char path[40], line[256];
	_cleanup_fclose_ FILE *f = NULL;
	const char *last = NULL;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && !last && fgets(line, sizeof(line), f))
		if (!strncmp(line, "NSpid:", 6))
			last = strrchr(line + 7, '\t');
	return last && atoi(last) == 1;
}

/* Is `pid` the first process of a nest that a migd of this host and of this run_dir made: root's, named so, and with a root view of ours under it? */
static bool is_keeper(struct migd *m, pid_t pid)
{
	_cleanup_free_ char *homes = NULL;
	char who[16], there[32], here[32];
	struct dirent **list;
	struct proc_info p;
	bool is = false;
	int n;

	if (proc_read(pid, &p) || p.uid || (strcmp(p.comm, KEEPER_NAME) && strcmp(p.comm, KEEPER_NAME_AHEAD)) || !is_first(pid) ||
		asprintf(&homes, "%s/homes", m->conf->run_dir) < 0)
		return false;
	snprintf(who, sizeof(who), "%d", pid);
	n = proc_mounted(who, "/", there) ? scandir(homes, &list, NULL, NULL) : -1;
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *root = NULL;

		is |= list[i]->d_name[0] != '.' && asprintf(&root, "%s/%s", homes, list[i]->d_name) > 0 && proc_mounted("self", root, here) && !strcmp(there, here);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return is;
}

/* Where there are no cgroups to tell: by the nests' first processes, which end all in theirs. The pidfd comes before the look: it means who was looked at. */
static void end_keepers(struct migd *m)
{
	struct dirent **list;
	int n = scandir("/proc", &list, NULL, NULL);

	for (int i = 0; i < n; i++) {
		pid_t pid = atoi(list[i]->d_name);
		_cleanup_close_ int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

		free(list[i]);
		if (fd < 0 || !is_keeper(m, pid) || keeper_known(m, pid) || syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0))
			continue;
		poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, END_MS);
		log_warn("process %d: what was left here of a guest that the journal does not know is ended", pid);
	}
	if (n >= 0)
		free(list);
}

void guests_replayed(struct migd *m)
{
	if (m->cgroups)
		cgroups_each(m->cgroups, end_unknown, m);
	else
		end_keepers(m);
	views_adopt(m->views);
}
