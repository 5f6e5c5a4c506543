// SPDX-License-Identifier: Apache-2.0
/* Parsers of /proc (procfs.h, proc(5)). Anything may vanish while it is read: that is -ESRCH, never a log line. */
#include "migd/engine/procfs.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/res_util.h"

char *eng_proc_read(int dirfd, const char *name, size_t *len)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	size_t cap = 4096, n = 0;
	char *b, *bigger;

	if (fd < 0)
		return NULL;
	b = malloc(cap + 1);
	while (b) {
		ssize_t r = read(fd, b + n, cap - n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			free(b);
			return NULL;
		}
		if (r == 0)
			break;
		n += r;
		if (cap - n < 2048) { /* /proc hands out whole lines: leave room for them */
			bigger = realloc(b, cap * 2 + 1);
			if (!bigger) {
				free(b);
				return NULL;
			}
			b = bigger;
			cap *= 2;
		}
	}
	if (!b)
		return NULL;
	b[n] = '\0';
	if (len)
		*len = n;
	return b;
}

const char *eng_field(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *l = text; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL) {
		if (strncmp(l, key, n) || l[n] != ':')
			continue;
		l += n + 1;
		while (*l == ' ' || *l == '\t')
			l++;
		return l;
	}
	return NULL;
}

static int pid_push(pid_t **v, size_t *n, pid_t pid)
{
	if ((*n & (*n - 1)) == 0) {
		pid_t *bigger = realloc(*v, (*n ? *n * 2 : 1) * sizeof(pid_t));

		if (!bigger)
			return -ENOMEM;
		*v = bigger;
	}
	(*v)[(*n)++] = pid;
	return 0;
}

ssize_t procfs_tasks(pid_t pid, pid_t **out)
{
	char path[64];
	pid_t *v = NULL;
	size_t n = 0;
	struct dirent *d;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return -ESRCH;
	while ((d = readdir(dir)))
		if (isdigit((unsigned char)d->d_name[0]) && pid_push(&v, &n, atoi(d->d_name)) < 0) {
			free(v);
			closedir(dir);
			return -ENOMEM;
		}
	closedir(dir);
	if (!n)
		return -ESRCH;
	*out = v;
	return n;
}

/* exit_group(2) of another thread gives it a SIGKILL of its own, and it has not looked yet. */
static bool told_to_end(int dir)
{
	_cleanup_free_ char *text = eng_proc_read(dir, "status", NULL);
	const char *pending = text ? eng_field(text, "SigPnd") : NULL;

	return !pending || strtoull(pending, NULL, 16) & 1 << (SIGKILL - 1);
}

bool procfs_headless(pid_t pid)
{
	_cleanup_free_ pid_t *tasks = NULL;
	struct procfs_stat st;
	ssize_t n;
	char path[64];
	int dir;
	bool ended, runs = false;

	snprintf(path, sizeof(path), "/proc/%d/task/%d", pid, pid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	ended = dir >= 0 && procfs_stat(dir, &st) == 0 && st.state == 'Z';
	if (dir >= 0)
		close(dir);
	n = ended ? procfs_tasks(pid, &tasks) : 0;
	for (ssize_t i = 0; i < n && !runs; i++) {
		snprintf(path, sizeof(path), "/proc/%d/task/%d", pid, tasks[i]);
		dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		runs = dir >= 0 && procfs_stat(dir, &st) == 0 && st.state != 'Z' && st.state != 'X' && !(st.flags & PF_EXITING) && !told_to_end(dir);
		if (dir >= 0)
			close(dir);
	}
	return runs;
}

ssize_t procfs_children(pid_t pid, pid_t **out)
{
	_cleanup_free_ pid_t *tasks = NULL;
	ssize_t nt = procfs_tasks(pid, &tasks);
	pid_t *v = NULL;
	size_t n = 0;

	if (nt < 0)
		return nt;
	for (ssize_t i = 0; i < nt; i++) {
		_cleanup_free_ char *text = NULL;
		char path[64], *s, *end;

		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, tasks[i]);
		text = eng_proc_read(AT_FDCWD, path, NULL);
		for (s = text; s && *s; s = end) {
			long c = strtol(s, &end, 10);

			if (end == s)
				break;
			if (pid_push(&v, &n, c) < 0) {
				free(v);
				return -ENOMEM;
			}
		}
	}
	*out = v;
	return n;
}

int procfs_stat(int dirfd, struct procfs_stat *st)
{
	_cleanup_free_ char *text = eng_proc_read(dirfd, "stat", NULL);
	uint64_t f[53] = {0}; /* numbered as in proc(5): 1 pid, 2 comm, 3 state */
	char *open, *close, *s;

	if (!text)
		return -ESRCH;
	open = strchr(text, '(');
	close = strrchr(text, ')');
	if (!open || !close || !close[1] || !close[2])
		return -EPROTO;
	memset(st, 0, sizeof(*st));
	snprintf(st->comm, sizeof(st->comm), "%.*s", (int)(close - open - 1), open + 1);
	st->state = close[2];
	s = close + 3;
	for (int i = 4; i <= 52 && *s; i++)
		f[i] = strtoull(s, &s, 10);
	st->ppid = f[4];
	st->pgid = f[5];
	st->sid = f[6];
	st->flags = f[9];
	st->threads = f[20];
	st->start = f[22];
	st->start_code = f[26];
	st->end_code = f[27];
	st->start_stack = f[28];
	st->start_data = f[45];
	st->end_data = f[46];
	st->start_brk = f[47];
	st->arg_start = f[48];
	st->arg_end = f[49];
	st->env_start = f[50];
	st->env_end = f[51];
	st->exit_signal = f[38];
	st->exit_code = f[52];
	return 0;
}

bool procfs_pending(int dirfd, pid_t tid)
{
	_cleanup_free_ char *text = NULL;
	char name[64], *at;

	snprintf(name, sizeof(name), "task/%d/status", tid);
	text = eng_proc_read(dirfd, name, NULL);
	at = text ? strstr(text, "\nSigPnd:") : NULL;
	return at && strtoull(at + 8, NULL, 16) != 0;
}

int procfs_nspid(int dirfd, const char *name, pid_t *vpid, int *depth)
{
	_cleanup_free_ char *text = eng_proc_read(dirfd, name, NULL);

	return procfs_nspid_in(text, vpid, depth);
}

int procfs_nspid_in(const char *text, pid_t *vpid, int *depth)
{
	const char *s = text ? eng_field(text, "NSpid") : NULL;
	int n = 0;

	if (!s)
		return -ESRCH;
	while (isdigit((unsigned char)*s)) {
		char *end;

		*vpid = strtol(s, &end, 10);
		n++;
		s = end;
		while (*s == '\t' || *s == ' ')
			s++;
	}
	*depth = n;
	return n ? 0 : -EPROTO;
}

int procfs_by_vpid(const pid_t *list, ssize_t n, pid_t vpid, pid_t *pid)
{
	for (ssize_t i = 0; i < n; i++) {
		char path[64];
		pid_t v;
		int depth;

		snprintf(path, sizeof(path), "/proc/%d/status", list[i]); /* of threads too */
		if (procfs_nspid(AT_FDCWD, path, &v, &depth) == 0 && v == vpid) {
			*pid = list[i];
			return 0;
		}
	}
	return -ESRCH;
}

/* ---- address space -------------------------------------------------------------------------------- */
static uint64_t vm_flags(const char *s)
{
	static const struct {
		char name[3];
		uint64_t flag;
	} known[] = {{"gd", MAPF_GROWSDOWN}, {"lo", MAPF_LOCKED}, {"lf", MAPF_ONFAULT}, {"sr", MAPF_SEQ}, {"rr", MAPF_RAND}, {"dc", MAPF_DONTCOPY},
		{"dd", MAPF_DONTDUMP}, {"wf", MAPF_WIPEONFORK}, {"hg", MAPF_HUGE}, {"nh", MAPF_NOHUGE}, {"mg", MAPF_MERGE},
		{"ht", MAPF_HUGETLB}, {"pf", MAPF_DEVICE}, {"io", MAPF_DEVICE}, {"um", MAPF_UFFD}, {"uw", MAPF_UFFD_WP}, {"ui", MAPF_UFFD},
		{"nr", MAPF_NORESERVE}, {"sl", MAPF_SEALED}, {"dp", MAPF_DROPPABLE}, {"mw", MAPF_MAYWRITE}, {"ac", MAPF_ACCOUNT}, {"ss", MAPF_SHADOW}};
	uint64_t flags = 0;

	while (*s && *s != '\n') {
		for (size_t i = 0; i < ARRAY_SIZE(known); i++)
			if (s[0] == known[i].name[0] && s[1] == known[i].name[1])
				flags |= known[i].flag;
		s += s[1] ? 2 : 1;
		while (*s == ' ')
			s++;
	}
	return flags;
}

/* /proc writes \n in a path as \012; nothing else is escaped. */
static char *map_path(const char *s, size_t n)
{
	char *p = malloc(n + 1), *o = p;

	if (!p)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (n - i >= 4 && !memcmp(s + i, "\\012", 4)) {
			*o++ = '\n';
			i += 3;
		} else {
			*o++ = s[i];
		}
	*o = '\0';
	return p;
}

static int map_line(const char *l, const char *eol, struct map *m)
{
	unsigned long start, end, offset, ino;
	unsigned major, minor;
	char perm[5];
	int at = 0;

	if (sscanf(l, "%lx-%lx %4s %lx %x:%x %lu%n", &start, &end, perm, &offset, &major, &minor, &ino, &at) != 7)
		return -EPROTO;
	memset(m, 0, sizeof(*m));
	m->start = start;
	m->end = end;
	m->offset = offset;
	m->prot = (perm[0] == 'r' ? PROT_READ : 0) | (perm[1] == 'w' ? PROT_WRITE : 0) | (perm[2] == 'x' ? PROT_EXEC : 0);
	m->shared = perm[3] == 's';
	m->dev = (uint64_t)major << 32 | minor;
	m->ino = ino;
	l += at;
	while (l < eol && *l == ' ')
		l++;
	m->path = map_path(l, eol - l);
	return m->path ? 0 : -ENOMEM;
}

static bool ends_deleted(const char *path)
{
	size_t n = strlen(path);

	return n > 10 && !strcmp(path + n - 10, " (deleted)");
}

/* A network file system that has forgotten a name shows its file as deleted, though it is there. */
static void map_undelete(int dirfd, struct map *m)
{
	char name[64];
	struct stat st;

	if (!ends_deleted(m->path))
		return;
	snprintf(name, sizeof(name), "map_files/%lx-%lx", (long)m->start, (long)m->end);
	if (fstatat(dirfd, name, &st, 0) == 0)
		res_undelete(dirfd, m->path, &st);
}

static void map_classify(struct map *m)
{
	if (!strcmp(m->path, "[vdso]"))
		m->kind = KIND_VDSO;
	else if (!strncmp(m->path, "[vvar", 5))
		m->kind = KIND_VVAR;
	else if (!strcmp(m->path, "[vsyscall]"))
		m->kind = KIND_VSYSCALL;
	else if (m->shared && !strncmp(m->path, "[anon_shmem:", 12)) /* a name by PR_SET_VMA_ANON_NAME */
		m->kind = KIND_OBJECT;
	else if (m->path[0] != '/')
		m->kind = KIND_ANON;
	else if (!strcmp(m->path, "/dev/zero") && !m->shared)
		m->kind = KIND_ANON;
	else if (m->shared && (!strncmp(m->path, "/dev/zero (deleted)", 19) || !strncmp(m->path, "/memfd:", 7) ||
			       !strncmp(m->path, "/dev/shm/", 9))) /* sem_open(3), shm_open(3), named or not */
		m->kind = KIND_OBJECT;
	else if (m->shared && !strncmp(m->path, "/SYSV", 5) && ends_deleted(m->path)) /* its inode is the segment's id */
		m->kind = KIND_SYSV;
	else
		m->kind = m->shared ? KIND_FILE_SHARED : KIND_FILE_PRIV;
}

int procfs_maps(int dirfd, bool smaps, struct maps **out)
{
	_cleanup_free_ char *text = eng_proc_read(dirfd, smaps ? "smaps" : "maps", NULL);
	struct maps *v = calloc(1, sizeof(*v));
	size_t cap = 0;
	int r = 0;

	if (!text || !v) {
		free(v);
		return text ? -ENOMEM : -ESRCH;
	}
	for (char *l = text, *eol; *l && r == 0; l = eol + 1) {
		eol = strchr(l, '\n');
		if (!eol)
			break;
		*eol = '\0'; /* sscanf() measures all that follows, for each line */
		if (isupper((unsigned char)*l)) {
			if (!strncmp(l, "VmFlags: ", 9) && v->n)
				v->m[v->n - 1].flags = vm_flags(l + 9);
			else if (!strncmp(l, "ProtectionKey:", 14) && v->n)
				v->m[v->n - 1].pkey = strtoul(l + 14, NULL, 10);
			continue;
		}
		if (v->n == cap) {
			struct map *bigger = realloc(v->m, (cap = cap ? cap * 2 : 64) * sizeof(*bigger));

			if (!bigger) {
				r = -ENOMEM;
				break;
			}
			v->m = bigger;
		}
		r = map_line(l, eol, &v->m[v->n]);
		if (r == 0) {
			if (smaps)
				map_undelete(dirfd, &v->m[v->n]);
			map_classify(&v->m[v->n++]);
		}
	}
	if (r < 0) {
		maps_free(v);
		return r;
	}
	*out = v;
	return 0;
}

void maps_free(struct maps *v)
{
	if (!v)
		return;
	for (size_t i = 0; i < v->n; i++)
		free(v->m[i].path);
	free(v->m);
	free(v);
}
