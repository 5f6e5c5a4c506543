// SPDX-License-Identifier: Apache-2.0
/*
 * mig run: the mig process itself becomes the command. We seize it (PTRACE_O_TRACEEXEC), answer "go", it calls execve() at home, and in the stop of that exec,
 * before the first instruction of the new program, it is moved like any other process: same pid, environment, working directory, descriptors, limits.
 *
 * If the move fails then, the process must not run here unnoticed: the reason goes to its standard error and it exits with 125 (with --local-ok it runs here).
 * For that it stays held (family.exec_entry is set) until run_main() has written there: a few bytes at its entry point then call exit_group(125).
 */
#include "migd/ctl.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "migd/agent.h"
#include "migd/env.h"
#include "migd/family.h"
#include "migd/home.h"
#include "migd/hosts.h"
#include "migd/move.h"
#include "migd/proc.h"
#include "migd/transfer.h"

enum { HOSTS_TRIED = 3, PICK_TRIES = 20, PICK_AGAIN_US = 500000 };

struct run {
	struct family *f;
	char *host;
	uint64_t slot; /* 0 when the host was named */
	bool local_ok;
	bool assigned; /* by the master: another host will do as well */
	uint32_t priority;
	uint32_t stuck_kill_s;
	struct error e;
};

static int actor_seize(struct family *f, void *arg)
{
	struct run *r = arg;

	if (ptrace(PTRACE_SEIZE, f->pid, 0, PTRACE_O_TRACEEXEC))
		return error_set(&r->e, errno, "cannot hold %d: %s", f->pid, strerror(errno));
	return 0;
}

/* Waits for the exec. 0: it stands there; -ESRCH: it ended without (the exec failed and mig said so). */
static int actor_wait_exec(struct family *f, void *unused)
{
	int status;

	(void)unused;
	for (;;) {
		pid_t r = waitpid(f->pid, &status, __WALL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || WIFEXITED(status) || WIFSIGNALED(status))
			return -ESRCH;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8)) {
			struct user_regs_struct regs;

			if (!ptrace(PTRACE_GETREGS, f->pid, 0, &regs))
				f->exec_entry = regs.rip;
			return 0;
		}
		if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP) /* job control: stays stopped until continued */
			ptrace(PTRACE_LISTEN, f->pid, 0, 0);
		else
			ptrace(PTRACE_CONT, f->pid, 0, status >> 16 ? 0 : WSTOPSIG(status));
	}
}

static void write_reason(pid_t pid, const char *text)
{
	_cleanup_close_ int pidfd = syscall(SYS_pidfd_open, pid, 0);
	_cleanup_close_ int err = pidfd < 0 ? -1 : syscall(SYS_pidfd_getfd, pidfd, 2, 0);

	if (err >= 0)
		dprintf(err, "mig: %s\n", text);
}

/* mov $231 (exit_group), %eax; mov $125, %edi; syscall */
static const unsigned char exit_125[] = { 0xb8, 0xe7, 0, 0, 0, 0xbf, 0x7d, 0, 0, 0, 0x0f, 0x05 };

static int let_go(struct family *f)
{
	uint64_t entry = f->exec_entry;

	f->exec_entry = 0;
	if (f->eng)
		return transfer_thaw(f, NULL);
	return entry ? ptrace(PTRACE_DETACH, f->pid, 0, 0) : 0;
}

/* Its first and last act will be exit_group(125). */
static int actor_exit(struct family *f, void *arg)
{
	struct run *r = arg;
	_cleanup_close_ int mem = -1;
	char path[40];

	write_reason(f->pid, r->e.text);
	snprintf(path, sizeof(path), "/proc/%d/mem", f->pid);
	mem = open(path, O_RDWR | O_CLOEXEC);
	if (!f->exec_entry || mem < 0 || pwrite(mem, exit_125, sizeof(exit_125), f->exec_entry) != sizeof(exit_125))
		kill(f->pid, SIGKILL); /* better no run than one in the wrong place */
	return let_go(f);
}

static int actor_detach(struct family *f, void *unused)
{
	(void)unused;
	return let_go(f);
}

/* jmp to itself: nobody notices whether it was executed */
static const unsigned char stay[] = { 0xeb, 0xfe };

static int stop_again(pid_t pid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		return -errno;
	for (;;) {
		pid_t r = waitpid(pid, &status, __WALL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || WIFEXITED(status) || WIFSIGNALED(status))
			return -ESRCH;
		if (status >> 16 == PTRACE_EVENT_STOP)
			return 0;
		ptrace(PTRACE_CONT, pid, 0, WSTOPSIG(status));
	}
}

/* An attempt that failed has left it parked, or stopped: back to before its first instruction, held by us. */
static int actor_hold_again(struct family *f, void *unused)
{
	unsigned char was[sizeof(stay)];
	_cleanup_close_ int mem = -1;
	char path[40];
	int err;

	(void)unused;
	if (!f->eng)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/mem", f->pid);
	mem = open(path, O_RDWR | O_CLOEXEC);
	if (mem < 0 || pread(mem, was, sizeof(was), f->exec_entry) != sizeof(was) || pwrite(mem, stay, sizeof(stay), f->exec_entry) != sizeof(stay))
		return -EIO;
	transfer_thaw(f, NULL);
	err = stop_again(f->pid);
	if (!err && pwrite(mem, was, sizeof(was), f->exec_entry) != sizeof(was))
		err = -EIO;
	if (err) /* it must not run here */
		kill(f->pid, SIGKILL);
	return err;
}

/* A host that the master gave may be in use again, or gone, or go while the image is on its way: then the next one. */
static char *pick_next(struct run *r)
{
	struct migd *m = r->f->m;
	const char *home = m->conf->name;

	/*
	 * Neither home nor who has just failed; one of the two can be excepted from what is asked for. Perhaps the failed one was the master, too: the next one hears
	 * of its hosts within some seconds.
	 */
	for (int i = 0; i < PICK_TRIES && !m->stopping; i++) {
		struct error e = { 0 };
		char *next = ctl_pick(m, r->f->uid, r->priority, 0, i % 2 ? r->host : home, &r->slot, &e);

		if (next && strcmp(next, home) && strcmp(next, r->host))
			return next;
		free(next);
		agent_leave(m, r->slot);
		r->slot = 0;
		usleep(PICK_AGAIN_US);
	}
	return NULL;
}

static int move_somewhere(struct run *r)
{
	struct family *f = r->f;
	int err = -EBUSY;

	for (int tries = 0; r->host && tries < HOSTS_TRIED; tries++) {
		struct move_opts o = { .dest = r->host, .slot = r->slot, .answers = !r->assigned };
		struct error e = { 0 };
		char *next;

		r->slot = 0;
		r->e = e;
		err = move_family(f, &o, NULL, &r->e);
		if (!err || !r->assigned || f->dead || strcmp(f->host, f->m->conf->name) || tries + 1 == HOSTS_TRIED)
			return err;
		log_note("family %s: %s cannot have it (%s): another host is asked for", f->id, r->host, r->e.text);
		if (family_call(f, actor_hold_again, NULL))
			return -ESRCH;
		next = pick_next(r);
		free(r->host);
		r->host = next;
	}
	return err;
}

static void *run_main(void *arg)
{
	struct run *r = arg;
	struct family *f = r->f;
	struct proc_info p;
	int err = family_call(f, actor_wait_exec, NULL);

	if (!err) {
		if (!proc_read(f->pid, &p))
			snprintf(f->comm, sizeof(f->comm), "%s", p.comm);
		err = move_somewhere(r);
		if (err && r->local_ok)
			family_call(f, actor_detach, NULL);
		else if (err && !strcmp(f->host, f->m->conf->name))
			family_call(f, actor_exit, r);
		f->exec_entry = 0;
	}
	pthread_mutex_lock(&f->lock);
	f->run_pending = false;
	f->run_failed = err == -ESRCH || (err && !r->local_ok);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	if (err)
		family_remove(f);
	agent_leave(f->m, r->slot);
	family_put(f);
	free(r->host);
	free(r);
	return NULL;
}

void ctl_went(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	struct family *f = family_of_pid(m->families, (pid_t)json_integer_value(json_object_get(rq, "pid")));
	bool failed = false;

	if (f && (!who->uid || who->uid == f->uid)) {
		local_row(c, json_pack("{s:i}", "waiting", f->pid)); /* it may call exec now: its end will be heard of here */
		pthread_mutex_lock(&f->lock);
		while (f->run_pending)
			pthread_cond_wait(&f->changed, &f->lock);
		failed = f->run_failed;
		pthread_mutex_unlock(&f->lock);
	}
	family_put(f);
	local_ok(c, json_pack("{s:b}", "failed", (int)failed));
}

/* Everything that can be known before the exec is refused before it. */
static int check(struct migd *m, const struct local_cred *who, struct run *r, const char *host, struct proc_info *p)
{
	int err = proc_may_move(who->pid, who->uid, m->conf->root_guests, p, &r->e);

	if (!err)
		err = ctl_may_leave(m, p, &r->e);
	if (err)
		return err;
	if (host && strcmp(host, m->conf->name)) {
		struct host *h = hosts_find(m->hosts, host, &r->e);

		if (!h)
			return -ENXIO;
		err = host_answers(h, &r->e);
		if (err)
			return err;
	}
	r->assigned = !host;
	r->host = host ? strdup(host) : ctl_pick(m, who->uid, r->priority, 0, m->conf->name, &r->slot, &r->e);
	return r->host ? 0 : -EBUSY;
}

void ctl_run(struct migd *m, struct local_conn *c, const struct local_cred *who, json_t *rq)
{
	struct run *r = calloc(1, sizeof(*r));
	pid_t from = (pid_t)json_integer_value(json_object_get(rq, "from_session"));
	_cleanup_free_ char *host = NULL;
	struct proc_info p = { 0 };
	json_t *env;
	int err;

	if (!r) {
		local_fail(c, ENOMEM, "out of memory");
		return;
	}
	r->local_ok = json_is_true(json_object_get(rq, "local_ok"));
	r->stuck_kill_s = (uint32_t)json_integer_value(json_object_get(rq, "kill_if_stuck"));
	err = agent_priority(json_string_value(json_object_get(rq, "priority")), who->uid, &r->e);
	if (err < 0) {
		local_fail(c, r->e.code, "%s", r->e.text);
		goto out;
	}
	r->priority = (uint32_t)err;
	err = check(m, who, r, json_string_value(json_object_get(rq, "host")), &p);
	if (!err && !strcmp(r->host, m->conf->name)) /* asked for by name */
		goto here;
	if (!err)
		err = family_create(m->families,
			&(struct family_new){ .role = FAM_HOME, .home = m->conf->name, .uid = p.uid, .gid = p.gid, .pid = who->pid, .comm = p.comm,
				.on_event = home_event },
			&r->f);
	if (!err) {
		r->f->priority = r->priority;
		r->f->stuck_kill_s = r->stuck_kill_s;
		r->f->run_pending = true;
		err = family_call(r->f, actor_seize, r);
		if (err)
			family_remove(r->f);
	}
	if (err && r->local_ok && err != -EPERM)
		goto here;
	if (err) {
		if (!r->e.code)
			error_set(&r->e, -err, "no room for a record: %s", strerror(-err));
		local_fail(c, r->e.code, "%s", r->e.text);
		goto out;
	}
	log_debug("family %s: mig %d will be moved to %s at its exec", r->f->id, who->pid, r->host);
	env = env_of_command(m, who->pid, who->uid, from);
	host = strdup(r->host);
	err = host ? thread_run(run_main, r) : -ENOMEM; /* before it hears that it may call exec: nobody else would see to it then */
	if (!err) {
		local_ok(c, json_pack("{s:b, s:s, s:o}", "go", 1, "host", host, "env", env));
		return;
	}
	json_decref(env);
	pthread_mutex_lock(&r->f->lock);
	r->f->run_pending = false;
	pthread_mutex_unlock(&r->f->lock);
	family_remove(r->f);
	if (r->local_ok)
		goto here;
	local_fail(c, -err, "no thread for a run: %s", strerror(-err));
	goto out;
here:
	local_ok(c, json_pack("{s:b, s:s, s:o}", "go", 1, "host", "", "env", env_of_command(m, who->pid, who->uid, from)));
out:
	agent_leave(m, r->slot);
	family_put(r->f);
	free(r->host);
	free(r);
}
