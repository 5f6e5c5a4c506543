// SPDX-License-Identifier: Apache-2.0
/*
 * mig env: the shared environment. Asks migd where there is one; a process that is away cannot reach the migd of the host it is on, and uses the files
 * MOUNT/.sprite/env/NAME, which that host's spritefs answers by asking the home.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/conf.h"
#include "migd/cli/cli.h"

enum { VALUE_MAX = 64 << 10 };

/* ---- by files ---- */

static const char *directory(void)
{
	static char path[4200];
	struct conf *c = NULL;

	if (!path[0]) {
		conf_load_with(NULL, CONF_NO_FILES, NULL, &c);
		snprintf(path, sizeof(path), "%s/.sprite/env", c ? c->mount : "/sprite");
		conf_free(c);
	}
	return path;
}

static int file_read(const char *name, char *buf, size_t size, struct error *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	ssize_t n, have = 0;

	if (asprintf(&path, "%s/%s", directory(), name) < 0)
		return error_set(e, ENOMEM, "out of memory");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set(e, errno, "%s: %s", name, errno == ENOENT ? "not set" : strerror(errno));
	while ((n = read(fd, buf + have, size - 1 - (size_t)have)) > 0)
		have += n;
	buf[have] = 0;
	return n < 0 ? error_set(e, errno, "%s: %s", name, strerror(errno)) : 0;
}

static int file_write(const char *name, const char *value, struct error *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	size_t n = strlen(value);

	if (asprintf(&path, "%s/%s", directory(), name) < 0)
		return error_set(e, ENOMEM, "out of memory");
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || (n && write(fd, value, n) != (ssize_t)n))
		return error_set(e, errno, "%s: %s", name, strerror(errno));
	return 0;
}

static int file_unlink(const char *name, struct error *e)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/%s", directory(), name) < 0)
		return error_set(e, ENOMEM, "out of memory");
	return unlink(path) ? error_set(e, errno, "%s: %s", name, errno == ENOENT ? "not set" : strerror(errno)) : 0;
}

static int files_list(json_t *vars, struct error *e)
{
	static char buf[VALUE_MAX];
	DIR *d = opendir(directory());
	struct dirent *de;
	int err = 0;

	if (!d)
		return error_set(e, errno, "no migd answers, and %s: %s", directory(), strerror(errno));
	while (!err && (de = readdir(d)))
		if (de->d_name[0] != '.' && !(err = file_read(de->d_name, buf, sizeof(buf), e)))
			json_object_set_new(vars, de->d_name, json_string(buf));
	closedir(d);
	return err;
}

/* ---- either way ---- */

static void on_row(void *vars, json_t *line)
{
	const char *name = json_string_value(json_object_get(line, "name"));

	if (name)
		json_object_set(vars, name, json_object_get(line, "value"));
}

/* migd's answer, as against its absence. */
static bool is_not_set(const struct error *e)
{
	size_t n = strlen(e->text);

	return n >= 7 && !strcmp(e->text + n - 7, "not set");
}

/* One question; what is told goes into `vars`. 0 or -errno with e filled. */
static int env_ask(const char *op, const char *name, const char *value, json_t *vars, struct error *e)
{
	json_t *rq = json_pack("{s:s, s:s, s:s?, s:s?}", "verb", "env", "op", op, "name", name, "value", value), *answer = NULL;
	static char buf[VALUE_MAX];
	int r = ask(rq, on_row, vars, &answer, e);

	if (!r && !strcmp(op, "get"))
		json_object_set(vars, name, json_object_get(answer, "value"));
	json_decref(answer);
	if ((!e->absent && r != -EACCES) || access(directory(), F_OK))
		return r; /* migd has answered, or its absence is what there is to say */
	*e = (struct error){0};
	if (!strcmp(op, "list"))
		return files_list(vars, e);
	if (!strcmp(op, "set"))
		return file_write(name, value, e);
	if (!strcmp(op, "unset"))
		return file_unlink(name, e);
	r = file_read(name, buf, sizeof(buf), e);
	if (!r)
		json_object_set_new(vars, name, json_string(buf));
	return r;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int list(bool json)
{
	json_t *vars = json_object(), *v;
	struct error e = {0};
	const char *name, **names;
	size_t n = 0;
	int r = env_ask("list", NULL, NULL, vars, &e);

	if (r) {
		json_decref(vars);
		return ask_failed(NULL, &e);
	}
	if (json) {
		json_dumpf(vars, stdout, JSON_INDENT(1) | JSON_SORT_KEYS);
		putchar('\n');
		json_decref(vars);
		return 0;
	}
	names = calloc(json_object_size(vars) + 1, sizeof(*names));
	json_object_foreach(vars, name, v)
		if (names)
			names[n++] = name;
	if (n > 1)
		qsort(names, n, sizeof(*names), by_name);
	for (size_t i = 0; i < n; i++)
		printf("%s=%s\n", names[i], json_string_value(json_object_get(vars, names[i])));
	free(names);
	json_decref(vars);
	return 0;
}

static int one(const char *op, const char *name, const char *value, bool print)
{
	json_t *vars = json_object();
	struct error e = {0};
	int r = env_ask(op, name, value, vars, &e);

	if (!r && print)
		puts(json_string_value(json_object_get(vars, name)) ? json_string_value(json_object_get(vars, name)) : "");
	json_decref(vars);
	if (r && is_not_set(&e))
		return failed("%s", e.text);
	return r ? ask_failed(NULL, &e) : 0;
}

static int set_all(int argc, char **argv)
{
	int status = 0, r;

	for (int i = 0; i < argc; i++)
		if (!strchr(argv[i], '=') || argv[i][0] == '=')
			return usage_error("env", "\"%s\": expected NAME=VALUE", argv[i]);
	for (int i = 0; i < argc; i++) {
		char *eq = strchr(argv[i], '=');

		*eq = 0;
		r = one("set", argv[i], eq + 1, false);
		status = r ? r : status;
	}
	return status;
}

int cmd_env(int argc, char **argv)
{
	const char *op = argc > 1 ? argv[1] : "list";
	int status = 0, r;

	if (!strcmp(op, "list") || !strcmp(op, "--json")) {
		bool json = argc > 1 && !strcmp(argv[argc - 1], "--json");

		return argc > 2 + (json && strcmp(op, "--json")) ? usage_error("env", "did not expect \"%s\"", argv[2]) : list(json);
	}
	if (!strcmp(op, "get"))
		return argc == 3 ? one("get", argv[2], NULL, true) : usage_error("env", "get: expected one name");
	if (!strcmp(op, "set"))
		return argc > 2 ? set_all(argc - 2, argv + 2) : usage_error("env", "set: expected NAME=VALUE");
	if (strcmp(op, "unset"))
		return usage_error("env", "\"%s\": expected list, get, set or unset", op);
	if (argc < 3)
		return usage_error("env", "unset: expected a name");
	for (int i = 2; i < argc; i++) {
		r = one("unset", argv[i], NULL, false);
		status = r ? r : status;
	}
	return status;
}
