// SPDX-License-Identifier: Apache-2.0
/* Looking at a family from outside: what it holds, how much, and what forbids a move. Stops nothing. The modules say what they cannot carry. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"
#include "migd/engine/procfs.h"
#include "migd/engine/res_file_socket.h"
#include "migd/engine/res_util.h"

enum { PF_KTHREAD = 0x00200000 };

static void reasons_cut(struct eng_reasons *r, size_t n)
{
	while (r->n > n)
		free(r->line[--r->n]);
}

void eng_reasons_clear(struct eng_reasons *r)
{
	reasons_cut(r, 0);
	free(r->line);
	memset(r, 0, sizeof(*r));
}

void eng_reason(struct eng_probe *p, const char *fmt, ...)
{
	_cleanup_free_ char *comm = eng_proc_read(p->dir, "comm", NULL);
	char text[400], *line = NULL;
	pid_t its = p->nest ? res_vpid(p->dir) : 0; /* a guest is known by its number at home */
	char **bigger;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!p->why || asprintf(&line, "%d (%.*s): %s", its ? its : p->pid, comm ? (int)strcspn(comm, "\n") : 0, comm ? comm : "", text) < 0)
		return;
	for (size_t i = 0; i < p->why->n; i++)
		if (!strcmp(p->why->line[i], line)) { /* the same of every map or thread is said once */
			free(line);
			return;
		}
	bigger = realloc(p->why->line, (p->why->n + 1) * sizeof(char *));
	if (!bigger) {
		free(line);
		return;
	}
	p->why->line = bigger;
	p->why->line[p->why->n++] = line;
}

static int depth_of_self(void)
{
	int dir = open("/proc/self", O_PATH | O_CLOEXEC), depth = 1;
	pid_t vpid;

	procfs_nspid(dir, "status", &vpid, &depth);
	close(dir);
	return depth;
}

/* The core's own reasons. in_nest: guests are one pid namespace deeper than we are. */
static int probe_basics(struct eng_probe *p, bool in_nest)
{
	struct procfs_stat st;
	_cleanup_free_ char *status = eng_proc_read(p->dir, "status", NULL), *wchan = NULL;
	const char *tracer = status ? eng_field(status, "TracerPid") : NULL;
	pid_t vpid;
	int depth = 0, r = procfs_stat(p->dir, &st);

	if (r < 0 || !status)
		return -ESRCH;
	if (st.flags & PF_KTHREAD)
		eng_reason(p, "a kernel thread: belongs to this machine");
	if (procfs_headless(p->pid))
		eng_reason(p, "its first thread has ended while others run on: cannot be carried; let that one wait for them (pthread_join)");
	else if ((st.state == 'Z' || st.state == 'X') && p->pid == p->root)
		eng_reason(p, "has ended already and waits for its parent (zombie): let the parent wait for it");
	if (tracer && atoi(tracer) && atoi(tracer) != gettid())
		eng_reason(p, "is traced by process %d: end the debugger first", atoi(tracer));
	if (p->pid == getpid())
		eng_reason(p, "is this daemon itself");
	if (procfs_nspid(p->dir, "status", &vpid, &depth) == 0 && depth != depth_of_self() + (in_nest ? 1 : 0))
		eng_reason(p, "lives in a pid namespace of its own: move it from inside, or start it without");
	if (p->sizes) {
		const char *rss = eng_field(status, "VmRSS");

		p->sizes->procs++;
		p->sizes->threads += st.threads;
		p->sizes->resident += rss ? strtoull(rss, NULL, 10) * 1024 : 0;
		rss = eng_field(status, "RssAnon");
		p->sizes->to_send += rss ? strtoull(rss, NULL, 10) * 1024 : 0;
	}
	return 0;
}

static bool is_zombie(int dir)
{
	struct procfs_stat st;

	return procfs_stat(dir, &st) == 0 && (st.state == 'Z' || st.state == 'X');
}

/*
 * Of who is ending the kernel shows one thing after the other as not there, or as another: no memory, no files, no namespaces, for as long as it takes to give those back. What was
 * read of it since is no ground for anything. Asked after the reading: it has not begun to end before, then.
 */
static bool is_ending(const struct eng_probe *p)
{
	struct procfs_stat st;

	return procfs_stat(p->dir, &st) < 0 || ((st.state == 'Z' || st.state == 'X' || st.flags & PF_EXITING) && !procfs_headless(p->pid));
}

static int explain_one(struct eng_probe *p, bool in_nest)
{
	size_t sure = p->why ? p->why->n : 0;
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/%d", p->pid);
	p->dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p->dir < 0)
		return -ESRCH;
	r = probe_basics(p, in_nest);
	if (p->why && p->pid == p->root)
		sure = p->why->n;
	if (r == 0 && is_zombie(p->dir) && (p->pid != p->root || procfs_headless(p->pid))) { /* nothing left in it to look at */
		close(p->dir);
		return 0;
	}
	for (size_t i = 0; eng_res_table[i] && r == 0; i++)
		if (eng_res_table[i]->probe)
			r = eng_res_table[i]->probe(p);
	if ((r < 0 || (p->why && p->why->n > sure)) && is_ending(p)) {
		if (p->why)
			reasons_cut(p->why, sure);
		r = r < 0 ? -ESRCH : 0;
	}
	close(p->dir);
	return r;
}

ssize_t explain_list(pid_t root, pid_t **out)
{
	pid_t *v = malloc(sizeof(pid_t));
	size_t n = 1;

	if (!v)
		return -ENOMEM;
	v[0] = root;
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ pid_t *kids = NULL;
		ssize_t k = procfs_children(v[i], &kids);
		pid_t *bigger;

		if (k <= 0)
			continue;
		bigger = realloc(v, (n + k) * sizeof(pid_t));
		if (!bigger) {
			free(v);
			return -ENOMEM;
		}
		v = bigger;
		memcpy(v + n, kids, k * sizeof(pid_t));
		n += k;
	}
	*out = v;
	return n;
}

/*
 * What tests/bench/move_bench.sh measures on a machine with two processors that has nothing else to do, split up: a part for each process, thread, map and
 * descriptor, and the memory that goes last. Pre-copy leaves 4 MiB or so to the freeze; a program that writes faster than the network takes it stands still for longer.
 */
static unsigned freeze_estimate(const struct eng_sizes *s)
{
	uint64_t last = s->to_send < 4 << 20 ? s->to_send : 4 << 20, threads = s->threads > s->procs ? s->threads - s->procs : 0;

	return 3 + (400 * threads + 3000 * (s->procs - 1) + 60 * s->maps + 200 * s->fds + last / 1000) / 1000;
}

int explain_family(pid_t pid, bool in_nest, bool goes_home, struct eng_reasons *why, struct eng_sizes *sizes, struct error *e)
{
	_cleanup_free_ pid_t *family = NULL;
	_cleanup_free_ struct places *places = NULL;
	size_t before = why ? why->n : 0;
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	if (pid <= 0 || access(path, F_OK) < 0)
		return in_nest ? error_set(e, ESRCH, "it has ended") : error_set(e, ESRCH, "no process %d", pid);
	n = explain_list(pid, &family);
	if (n < 0)
		return n;
	places = inet_places();
	if (!places)
		return -ENOMEM;
	if (sizes)
		memset(sizes, 0, sizeof(*sizes));
	for (ssize_t i = 0; i < n; i++) {
		struct eng_probe p = {.pid = family[i], .root = pid, .dir = -1, .family = family, .nfamily = n, .why = why, .sizes = sizes, .nest = in_nest, .goes_home = goes_home, .places = places};
		int r = explain_one(&p, in_nest);

		if (r < 0 && (r != -ESRCH || i == 0))
			return error_set(e, -r, "process %d cannot be looked at: %s", family[i], strerror(-r));
	}
	if (sizes && sizes->procs)
		sizes->freeze_ms = freeze_estimate(sizes);
	return why && why->n > before;
}

int eng_explain(pid_t pid, struct eng_reasons *why, struct eng_sizes *sizes, struct error *e)
{
	struct eng_reasons mine = {0};
	int r = explain_family(pid, false, false, why ? why : &mine, sizes, e);

	eng_reasons_clear(&mine);
	return r;
}
