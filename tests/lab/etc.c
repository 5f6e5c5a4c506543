/* SPDX-License-Identifier: Apache-2.0 */
/* What a node has in /etc: its own names, users, certificate and sprite.conf; the host's where programs need it (linker cache, alternatives, ssl, ...). */
#include "lab.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Lines of the host's passwd or group with a system's id (the third field), then ours. */
static int copy_users(const char *from, const char *to, const char *ours)
{
	_cleanup_fclose_ FILE *in = fopen(from, "re");
	_cleanup_fclose_ FILE *out = fopen(to, "we");
	char line[1024];

	if (!out)
		return -errno;
	while (in && fgets(line, sizeof(line), in)) {
		unsigned id;
		if (sscanf(line, "%*[^:]:%*[^:]:%u", &id) == 1 && (id < 1000 || id == 65534))
			fputs(line, out);
	}
	fputs(ours, out);
	return ferror(out) ? -EIO : 0;
}

static json_t *exports(const struct lab_node *n)
{
	/* the lab's nodes are all root's own: root is root in it */
	json_t *export = json_pack("{s:s, s:b}", "path", "/srv/sprite", "root_squash", 0);
	int number = atoi(n->name + 2);

	if (number == 1)
		json_object_set_new(export, "prefix", json_string("/"));
	else
		json_object_set_new(export, "prefix", json_sprintf("/%s", n->name));
	return json_pack("[o]", export);
}

static json_t *configuration(const struct lab *lab, const struct lab_node *n, const struct lab_options *o)
{
	json_t *conf = json_pack("{s:s, s:s, s:{s:s, s:s, s:s}}", "name", n->name, "root_server", "fs1", "tls", "ca", "/etc/sprite/tls/ca.crt", "cert",
		"/etc/sprite/tls/host.crt", "key", "/etc/sprite/tls/host.key");
	json_t *hide = json_array();
	size_t len = strlen(n->name);

	if (n->server) {
		json_t *fsd = json_pack("{s:o}", "exports", exports(n));
		json_t *servers = json_array();
		for (size_t i = 0; i < lab->nnodes; i++)
			if (lab->node[i].server && strcmp(lab->node[i].name, "fs1") != 0)
				json_array_append_new(servers, json_string(lab->node[i].name));
		if (strcmp(n->name, "fs1") == 0 && json_array_size(servers))
			json_object_set(fsd, "servers", servers);
		json_decref(servers);
		json_object_set_new(conf, "spritefsd", fsd);
	} else {
		/* Threads that wait for a processor of this machine, whoever keeps it busy, are no load of the node's. */
		json_object_set_new(conf, "migd", json_pack("{s:b, s:b, s:s, s:i, s:[i, i, i], s:[i, i, i]}", "lend", 1, "root_guests", 1, "adopts", "all", "idle_after", 5, "load_low", 100, 100, 100,
			"load_high", 100, 100, 100));
	}
	for (size_t i = 0; i < o->ncpu_hide; i++) {
		_cleanup_free_ char *features = NULL;
		if (strncmp(o->cpu_hide[i], n->name, len) != 0 || o->cpu_hide[i][len] != '=')
			continue;
		features = strdup(o->cpu_hide[i] + len + 1);
		for (char *p = features ? strtok(features, ",") : NULL; p; p = strtok(NULL, ","))
			json_array_append_new(hide, json_string(p));
	}
	if (json_array_size(hide))
		json_object_set(conf, "cpu_hide", hide);
	json_decref(hide);
	return conf;
}

static int write_sprite(const struct lab *lab, const struct lab_node *n, const struct lab_options *o, const char *root)
{
	static const struct {
		const char *name;
		mode_t mode;
	} files[] = {{"ca.crt", 0644}, {"host.crt", 0644}, {"host.key", 0600}};
	_cleanup_free_ char *conf_path = xasprintf("%s/etc/sprite/sprite.conf", root), *tls = xasprintf("%s/etc/sprite/tls", root);
	json_t *conf;
	int rc = make_dirs(tls, 0755);

	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(files); i++) {
		_cleanup_free_ char *from = xasprintf("%s/pki/hosts/%s/%s", lab->dir, n->name, files[i].name), *to = xasprintf("%s/%s", tls, files[i].name);
		rc = copy_file(from, to, files[i].mode);
	}
	if (rc < 0)
		return rc;
	conf = configuration(lab, n, o);
	if (json_dump_file(conf, conf_path, JSON_INDENT(2)) < 0)
		rc = -EIO;
	json_decref(conf);
	return rc;
}

static int write_names(const struct lab *lab, const struct lab_node *n, const char *root)
{
	char path[512];
	_cleanup_fclose_ FILE *f = NULL;

	snprintf(path, sizeof(path), "%s/etc/hostname", root);
	f = fopen(path, "we");
	if (!f)
		return -errno;
	fprintf(f, "%s\n", n->name);
	fclose(f);
	snprintf(path, sizeof(path), "%s/etc/hosts", root);
	f = fopen(path, "we");
	if (!f)
		return -errno;
	fprintf(f, "127.0.0.1 localhost\n::1 localhost\n");
	for (size_t i = 0; i < lab->nnodes; i++)
		fprintf(f, "%s %s\n", lab->node[i].address, lab->node[i].name);
	fclose(f);
	snprintf(path, sizeof(path), "%s/etc/nsswitch.conf", root);
	f = fopen(path, "we");
	if (!f)
		return -errno;
	fprintf(f, "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n");
	return 0;
}

int etc_write(const struct lab *lab, const struct lab_node *n, const struct lab_options *o, const char *root, struct error *e)
{
	static const char *const files[] = {"ld.so.cache", "ld.so.conf", "profile", "bash.bashrc", "inputrc", "login.defs", "host.conf", "protocols",
		"services", "localtime", "timezone", "mime.types", "magic", "debian_version", "os-release", "issue", "gai.conf", "mke2fs.conf"};
	char from[256], to[512];
	int rc;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(from, sizeof(from), "/etc/%s", files[i]);
		snprintf(to, sizeof(to), "%s/etc/%s", root, files[i]);
		rc = copy_file(from, to, 0644);
		if (rc < 0 && rc != -ENOENT)
			return error_set(e, -rc, "%s: %s", to, strerror(-rc));
	}
	snprintf(to, sizeof(to), "%s/etc/mtab", root);
	if (symlink("/proc/self/mounts", to) < 0 && errno != EEXIST)
		return error_set(e, errno, "%s: %s", to, strerror(errno));
	snprintf(to, sizeof(to), "%s/etc/passwd", root);
	rc = copy_users("/etc/passwd", to,
		"sprite:x:1000:1000:Sprite:/home/sprite:/bin/bash\nguest:x:1001:1001:Guest:/home/guest:/bin/bash\n");
	snprintf(to, sizeof(to), "%s/etc/group", root);
	rc = rc ? rc : copy_users("/etc/group", to, "sprite:x:1000:\nguest:x:1001:\nshared:x:1002:sprite,guest\n");
	rc = rc ? rc : write_names(lab, n, root);
	rc = rc ? rc : write_sprite(lab, n, o, root);
	return rc < 0 ? error_set(e, -rc, "%s: /etc of its own: %s", n->name, strerror(-rc)) : 0;
}
