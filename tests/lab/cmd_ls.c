/* SPDX-License-Identifier: Apache-2.0 */
/* sprite-lab ls and logs: what is there, and what it wrote. */
#include "lab.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LOG_END_MAX (256 << 10)

/* state of a node: "up", "degraded" when a daemon is not ready, "dead" */
static json_t *node_row(const struct lab *lab, const struct lab_node *n)
{
	json_t *answer = NULL, *daemons = NULL, *row;
	const char *state = "up";
	struct error e = {0};
	size_t i;

	if (client_call(lab, n->name, json_pack("{s:s}", "verb", "status"), &answer, &e) < 0)
		state = "dead";
	daemons = json_object_get(answer, "daemons");
	json_array_foreach(daemons, i, row)
		if (strcmp(json_string_value(json_object_get(row, "state")), "ready") != 0)
			state = "degraded";
	row = json_pack("{s:s, s:s, s:s, s:i, s:s, s:O}", "name", n->name, "role", n->server ? "server" : "workstation", "address", n->address, "init_pid",
		n->pid, "state", state, "daemons", daemons ? daemons : json_null());
	json_decref(answer);
	return row;
}

static void print_rows(json_t *nodes)
{
	json_t *row, *d;
	size_t i, k;

	printf("%-8s %-12s %-14s %-8s %-9s %s\n", "NAME", "ROLE", "ADDRESS", "INIT", "STATE", "DAEMONS");
	json_array_foreach(nodes, i, row) {
		printf("%-8s %-12s %-14s %-8d %-9s", json_string_value(json_object_get(row, "name")), json_string_value(json_object_get(row, "role")),
			json_string_value(json_object_get(row, "address")), (int)json_integer_value(json_object_get(row, "init_pid")),
			json_string_value(json_object_get(row, "state")));
		json_array_foreach(json_object_get(row, "daemons"), k, d)
			printf(" %s:%s", json_string_value(json_object_get(d, "name")), json_string_value(json_object_get(d, "state")));
		printf("\n");
	}
}

int cmd_ls(const char *name, int argc, char **argv)
{
	static struct lab lab;
	struct error e = {0};
	json_t *nodes;
	bool json = argc == 2 && strcmp(argv[1], "--json") == 0;

	if (argc > 1 && !json)
		return usage_error("ls");
	if (lab_use(&lab, name, &e) < 0)
		return fail(&e);
	nodes = json_array();
	for (size_t i = 0; i < lab.nnodes; i++)
		json_array_append_new(nodes, node_row(&lab, &lab.node[i]));
	if (json) {
		json_dumpf(nodes, stdout, JSON_INDENT(1));
		printf("\n");
	} else {
		print_rows(nodes);
	}
	json_decref(nodes);
	return 0;
}

static int print_file(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char buf[65536];
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (fwrite(buf, 1, n, stdout) != (size_t)n)
			return -EIO;
	return n < 0 ? -errno : 0;
}

static FILE *log_open(const struct lab_node *n, const char *daemon)
{
	_cleanup_free_ char *path = xasprintf("/proc/%d/root/var/log/sprite/%s.log", n->pid, daemon);

	return fopen(path, "re");
}

/* Where a sanitizer's report begins in a text, NULL: nowhere. */
static char *report_in(const char *text)
{
	char *report = strstr(text, "Sanitizer: ");

	return report ? report : strstr(text, "runtime error: ");
}

bool log_reported(const struct lab_node *n, const char *daemon)
{
	_cleanup_fclose_ FILE *f = log_open(n, daemon);
	_cleanup_free_ char *line = NULL;
	bool found = false;
	size_t room = 0;

	while (f && !found && getline(&line, &room, f) > 0)
		found = report_in(line);
	return found;
}

void log_show_end(const struct lab_node *n, const char *daemon)
{
	_cleanup_free_ char *text = xcalloc(1, LOG_END_MAX);
	_cleanup_fclose_ FILE *f = log_open(n, daemon);
	char *report;
	int len, lines = 0;

	if (f && fseek(f, 1 - LOG_END_MAX, SEEK_END) < 0)
		rewind(f); /* shorter than that */
	len = f ? fread(text, 1, LOG_END_MAX - 1, f) : 0;
	report = report_in(text);
	if (report) { /* from its first line, and not to the end of what may be hundreds */
		for (int i = report - text; i < len; i++)
			if (text[i] == '\n' && ++lines == 40)
				len = i;
		while (report > text && report[-1] != '\n')
			report--;
	} else {
		for (report = text + len; report > text && lines < 16; report--)
			lines += report[-1] == '\n';
		report += lines == 16;
	}
	if (len > 0)
		fprintf(stderr, "--- from %s's log on %s:\n%.*s\n---\n", daemon, n->name, (int)(text + len - report), report);
}

int cmd_logs(const char *name, int argc, char **argv)
{
	static struct lab lab;
	_cleanup_free_ char *dir = NULL;
	struct lab_node *n;
	struct error e = {0};
	struct dirent *entry;
	DIR *d;
	int rc = 0;

	if (argc < 2 || argc > 3)
		return usage_error("logs");
	if (lab_use_node(&lab, name, argv[1], &n, &e) < 0)
		return fail(&e);
	dir = xasprintf("/proc/%d/root/var/log/sprite", n->pid);
	if (argc == 3) {
		_cleanup_free_ char *path = xasprintf("%s/%s.log", dir, argv[2]);
		rc = strchr(argv[2], '/') ? -EINVAL : print_file(path);
		if (rc < 0)
			error_set(&e, -rc, "%s: no log of %s: %s", n->name, argv[2], strerror(-rc));
		return rc < 0 ? fail(&e) : 0;
	}
	d = opendir(dir);
	while (d && (entry = readdir(d))) {
		_cleanup_free_ char *path = xasprintf("%s/%s", dir, entry->d_name);
		if (entry->d_name[0] == '.')
			continue;
		printf("==> %s <==\n", entry->d_name);
		print_file(path);
	}
	if (d)
		closedir(d);
	return 0;
}
