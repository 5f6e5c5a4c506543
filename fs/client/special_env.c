// SPDX-License-Identifier: Apache-2.0
/* .sprite/env/NAME: the shared environment of whoever looks (migd keeps it, and asks his home if he is a guest here). And the table of what .sprite has. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "conf/cleanup.h"
#include "fs/client/special.h"
#include "rpc/local.h"

static int env_call(struct fs *fs, const struct special_who *w, json_t *rq, void (*row)(void *arg, json_t *line), void *arg)
{
	_cleanup_free_ char *sock = NULL;
	struct error e = {0};
	int err;

	if (!rq || asprintf(&sock, "%s/migd.sock", fs->conf->run_dir) < 0) {
		json_decref(rq);
		return -ENOMEM;
	}
	json_object_set_new(rq, "verb", json_string("env"));
	json_object_set_new(rq, "pid", json_integer(w->pid));
	err = local_call(sock, rq, row, arg, NULL, &e);
	return err == -ECONNREFUSED || (err == -ENOENT && !strstr(e.text, "not set")) ? -ENXIO : err; /* no migd here */
}

static void on_row(void *names, json_t *line)
{
	const char *name = json_string_value(json_object_get(line, "name"));

	if (name)
		json_object_set(names, name, json_object_get(line, "value"));
}

static int env_list(struct fs *fs, const struct special_who *w, json_t *names)
{
	return env_call(fs, w, json_pack("{s:s}", "op", "list"), on_row, names);
}

/* As in /sys, a newline at the end is not part of the value: echo(1) writes one. */
static int env_set(struct fs *fs, const struct special_who *w, const char *name, const char *text, size_t len)
{
	json_t *value = memchr(text, 0, len) ? NULL : json_stringn(text, len && text[len - 1] == '\n' ? len - 1 : len);

	if (!value)
		return -EINVAL; /* no text */
	return env_call(fs, w, json_pack("{s:s, s:s, s:o}", "op", "set", "name", name, "value", value), NULL, NULL);
}

static int env_unset(struct fs *fs, const struct special_who *w, const char *name)
{
	return env_call(fs, w, json_pack("{s:s, s:s}", "op", "unset", "name", name), NULL, NULL);
}

static const struct special_names env = {env_list, env_set, env_unset};

const struct special_dir special_dirs[] = {
	{"", special_status, NULL},
	{"env", NULL, &env},
	{0},
};
