// SPDX-License-Identifier: Apache-2.0
/*
 * sprite.conf: what keys there are, their defaults, and what must hold between them. The readers of single values are in conf_read.c.
 * No state; a struct conf belongs to its caller and does not change after loading.
 */
#include "conf/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/conf_read.h"

#define CONF_SIZE_MAX (1u << 20)
#define EXPORTS_MAX   1024
#define ID_MAX	      0xfffffffeu /* (uid_t)-1 is no user */

#define KEY(n, member, reader, ...) {.name = n, .offset = offsetof(struct conf, member), .read = reader, ##__VA_ARGS__}
#define EKEY(n, member, reader, ...) {.name = n, .offset = offsetof(struct conf_export, member), .read = reader, ##__VA_ARGS__}

static void read_exports(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base);

static const char *const networks[] = {"none", "host", NULL};
static const char *const whose[] = {"all", "root", "none", NULL};
/* Sprite's thresholds (Douglis and Ousterhout 1991, section 5). */
static const double load_low[3] = {0.75, 1.0, 1.5}, load_high[3] = {2.5, 2.75, 3.0};

static const struct conf_key export_keys[] = {
	EKEY("prefix", prefix, conf_read_path, .required = true),
	EKEY("path", path, conf_read_dir, .required = true),
	EKEY("home", home, conf_read_bool),
	EKEY("readonly", readonly, conf_read_bool),
	EKEY("root_squash", root_squash, conf_read_bool),
	EKEY("hosts", hosts, conf_read_hosts),
	EKEY("uid_min", uid_min, conf_read_u32, .max = ID_MAX),
	EKEY("uid_max", uid_max, conf_read_u32, .max = ID_MAX),
	{0},
};
static const struct conf_key tls_keys[] = {
	KEY("ca", tls_ca, conf_read_cert, .required = true),
	KEY("cert", tls_cert, conf_read_cert, .required = true),
	KEY("key", tls_key, conf_read_key, .required = true),
	KEY("crl", tls_crl, conf_read_crl),
	{0},
};
static const struct conf_key fsd_keys[] = {
	KEY("listen", fs_listen, conf_read_addrs, .offset2 = offsetof(struct conf, fs_nlisten), .max = CONF_FS_PORT),
	KEY("exports", exports, read_exports, .offset2 = offsetof(struct conf, nexports)),
	KEY("servers", fs_servers, conf_read_names),
	{0},
};
static const struct conf_key fs_keys[] = {
	KEY("listen", pipe_listen, conf_read_addrs, .offset2 = offsetof(struct conf, pipe_nlisten), .max = CONF_PIPE_PORT),
	KEY("cache_mb", cache_bytes, conf_read_u64, .min = 1, .max = 1 << 20, .scale = 1 << 20),
	{0},
};
static const struct conf_key migd_keys[] = {
	KEY("listen", mig_listen, conf_read_addrs, .offset2 = offsetof(struct conf, mig_nlisten), .max = CONF_MIG_PORT),
	KEY("lend", lend, conf_read_bool),
	KEY("root_guests", root_guests, conf_read_bool),
	KEY("idle_after", idle_after, conf_read_u32, .min = 1, .max = 7 * 86400),
	KEY("remote_logins", remote_logins, conf_read_bool),
	KEY("on_battery", on_battery, conf_read_bool),
	KEY("guest_memory_mb", guest_memory_max, conf_read_u64, .max = 1ull << 30, .scale = 1 << 20),
	KEY("load_low", load_low, conf_read_loads),
	KEY("load_high", load_high, conf_read_loads),
	KEY("imports", imports, conf_read_word, .words = whose),
	KEY("exports", exports_of, conf_read_word, .words = whose),
	KEY("adopts", adopts, conf_read_word, .words = whose),
	KEY("guests_memory_percent", guests_memory_percent, conf_read_u32, .min = 1, .max = 100),
	KEY("guest_pids", guest_pids, conf_read_u32, .max = 1 << 22),
	KEY("evict_at_once", evict_at_once, conf_read_u32, .min = 1, .max = 1024),
	KEY("evict_mb_s", evict_mb_s, conf_read_u32, .max = 1 << 20),
	KEY("evicted_onward", evicted_onward, conf_read_bool),
	KEY("guest_network", guest_network, conf_read_word, .words = networks),
	{0},
};
static const struct conf_key keys[] = {
	KEY("name", name, conf_read_name, .required = true),
	KEY("root_server", root_server, conf_read_addr, .required = true, .max = CONF_FS_PORT),
	{.name = "tls", .read = conf_read_section, .object = tls_keys, .required = true},
	KEY("mount", mount, conf_read_path),
	KEY("run_dir", run_dir, conf_read_path),
	KEY("state_dir", state_dir, conf_read_path),
	{.name = "spritefsd", .read = conf_read_section, .object = fsd_keys},
	{.name = "spritefs", .read = conf_read_section, .object = fs_keys},
	{.name = "migd", .read = conf_read_section, .object = migd_keys},
	KEY("cpu_hide", cpu_hide, conf_read_features),
	{0},
};

/* ---- exports ---- */

static void free_strings(char **list)
{
	for (char **s = list; s && *s; s++)
		free(*s);
	free(list);
}

static void free_exports(struct conf_export *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(x[i].prefix);
		free(x[i].path);
		free_strings(x[i].hosts);
	}
	free(x);
}

/* NULL-terminated copy of one string, or of none. */
static char **strings(const char *one)
{
	char **l = calloc(2, sizeof(*l));

	if (l && one && !(l[0] = strdup(one))) {
		free(l);
		return NULL;
	}
	return l;
}

static void read_export(struct conf_reader *r, const char *where, json_t *v, struct conf_export *x)
{
	char w[300];

	x->uid_max = ID_MAX;
	conf_read_object(r, where, v, export_keys, x);
	if (!json_object_get(v, "root_squash"))
		x->root_squash = !x->home;
	if (!x->hosts && !(x->hosts = strings(x->home ? NULL : "*")))
		r->nomem = true;
	snprintf(w, sizeof(w), "%.280s.uid_max", where);
	if (x->uid_max < x->uid_min)
		conf_expected_found(r, w, "a number not below uid_min", "%u, below %u", x->uid_max, x->uid_min);
}

static void read_exports(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	struct conf *c = base;
	size_t n = json_array_size(v);
	char w[300];

	(void)k;
	if (!json_is_array(v) || n > EXPORTS_MAX) {
		conf_expected(r, where, v, "a list of at most %d objects {\"prefix\", \"path\", ...}", EXPORTS_MAX);
		return;
	}
	c->exports = calloc(n ? n : 1, sizeof(*c->exports));
	if (!c->exports) {
		r->nomem = true;
		return;
	}
	c->nexports = n;
	for (size_t i = 0; i < n; i++) {
		snprintf(w, sizeof(w), "%.200s[%zu]", where, i);
		read_export(r, w, json_array_get(v, i), &c->exports[i]);
	}
}

/* What must hold between an export and the rest of the file. */
static void check_export(struct conf_reader *r, const struct conf *c, size_t i)
{
	const struct conf_export *x = &c->exports[i];
	char w[64], want[300];
	bool below_hosts;

	if (!x->prefix)
		return;
	snprintf(w, sizeof(w), "spritefsd.exports[%zu].prefix", i);
	below_hosts = !strcmp(x->prefix, "/hosts") || !strncmp(x->prefix, "/hosts/", 7);
	snprintf(want, sizeof(want), "\"/hosts/%s\", this host's own (\"home\": true)", c->name ? c->name : "NAME");
	if (x->home && c->name && (!below_hosts || strlen(x->prefix) < 8 || strcmp(x->prefix + 7, c->name)))
		conf_expected_found(r, w, want, "\"%s\"", x->prefix);
	if (!x->home && below_hosts)
		conf_expected_found(r, w, "a prefix outside /hosts, which belongs to the home domains", "\"%s\"", x->prefix);
	if (!strcmp(x->prefix, "/.sprite") || !strncmp(x->prefix, "/.sprite/", 9))
		conf_expected_found(r, w, "a prefix outside /.sprite, which shows the state of the file system", "\"%s\"", x->prefix);
	for (char **h = x->home ? x->hosts : NULL; h && *h; h++) {
		snprintf(want, sizeof(want), "spritefsd.exports[%zu].hosts", i);
		if (!strcmp(*h, "*"))
			conf_expected_found(r, want, "names of hosts, since a home is never open to everybody", "\"*\"");
	}
	for (size_t j = 0; j < i; j++)
		if (c->exports[j].prefix && !strcmp(c->exports[j].prefix, x->prefix))
			conf_expected_found(r, w, "a prefix that is exported once", "\"%s\", exported by exports[%zu] too", x->prefix, j);
}

/* ---- defaults ---- */

static int set_string(char **to, const char *s)
{
	if (!*to)
		*to = strdup(s);
	return *to ? 0 : -ENOMEM;
}

static int default_listen(struct conf_addr **list, size_t *n, const char *host, uint16_t port)
{
	if (*n)
		return 0;
	free(*list);
	*list = calloc(1, sizeof(**list));
	if (!*list)
		return -ENOMEM;
	snprintf((*list)->host, sizeof((*list)->host), "%s", host);
	(*list)->port = port;
	*n = 1;
	return 0;
}

/* A workstation says nothing about exports: its own root, for its own processes when they are away. */
static int default_export(struct conf *c)
{
	struct conf_export *x;

	if (c->exports)
		return 0;
	x = c->exports = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	c->nexports = 1;
	x->home = true;
	x->uid_max = ID_MAX;
	x->path = strdup("/");
	x->hosts = strings(NULL);
	if (asprintf(&x->prefix, "/hosts/%s", c->name) < 0) {
		x->prefix = NULL;
		return -ENOMEM;
	}
	return x->path && x->hosts ? 0 : -ENOMEM;
}

/* After reading without errors: fills what the file left out. */
static int defaults(struct conf *c)
{
	if (set_string(&c->mount, "/sprite") || set_string(&c->run_dir, "/run/sprite") || set_string(&c->state_dir, "/var/lib/sprite") ||
		set_string(&c->guest_network, "none") || set_string(&c->imports, "all") || set_string(&c->exports_of, "all") || set_string(&c->adopts, "none"))
		return -ENOMEM;
	if (default_listen(&c->fs_listen, &c->fs_nlisten, c->name, CONF_FS_PORT) || default_listen(&c->pipe_listen, &c->pipe_nlisten, c->name, CONF_PIPE_PORT) ||
		default_listen(&c->mig_listen, &c->mig_nlisten, c->name, CONF_MIG_PORT))
		return -ENOMEM;
	if ((!c->fs_servers && !(c->fs_servers = strings(NULL))) || (!c->cpu_hide && !(c->cpu_hide = strings(NULL))))
		return -ENOMEM;
	return default_export(c);
}

static void check_together(struct conf_reader *r, const struct conf *c)
{
	if (c->mount && !strcmp(c->mount, "/"))
		conf_expected_found(r, "mount", "a directory below /", "\"/\"");
	for (int i = 0; i < 3; i++)
		if (c->load_high[i] < c->load_low[i]) {
			conf_expected_found(r, "migd.load_high", "three numbers not below those of load_low", "%g, below %g", c->load_high[i], c->load_low[i]);
			break;
		}
	for (size_t i = 0; i < c->nexports; i++)
		check_export(r, c, i);
}

void conf_free(struct conf *c)
{
	if (!c)
		return;
	free(c->file);
	free(c->name);
	free(c->tls_ca);
	free(c->tls_cert);
	free(c->tls_key);
	free(c->tls_crl);
	free(c->mount);
	free(c->run_dir);
	free(c->state_dir);
	free(c->fs_listen);
	free_exports(c->exports, c->nexports);
	free_strings(c->fs_servers);
	free(c->mig_listen);
	free(c->pipe_listen);
	free(c->guest_network);
	free(c->imports);
	free(c->exports_of);
	free(c->adopts);
	free_strings(c->cpu_hide);
	free(c);
}

/* ---- loading ---- */

static json_t *parse_json(struct conf_reader *r, const char *text, size_t len)
{
	json_error_t je;
	json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);

	if (o)
		return o;
	r->errors++;
	if (r->report)
		fprintf(r->report, "%s:%d:%d: expected JSON, found: %s\n", r->file, je.line, je.column, je.text);
	return NULL;
}

#define CACHE_LEAST (256ull << 20)
#define CACHE_MOST  (1024ull << 20)

/* A sixteenth of the memory, within bounds. */
static uint64_t cache_default(void)
{
	uint64_t part = (uint64_t)sysconf(_SC_PHYS_PAGES) / 16 * (uint64_t)sysconf(_SC_PAGESIZE);

	return part < CACHE_LEAST ? CACHE_LEAST : part > CACHE_MOST ? CACHE_MOST : part;
}

int conf_parse(const char *text, size_t len, const char *file, int flags, FILE *report, struct conf **out)
{
	struct conf_reader r = {.file = file, .report = report, .flags = flags};
	struct conf *c = calloc(1, sizeof(*c));
	json_t *o;

	if (!c)
		return -ENOMEM;
	c->idle_after = 300;
	c->remote_logins = true;
	memcpy(c->load_low, load_low, sizeof(load_low));
	memcpy(c->load_high, load_high, sizeof(load_high));
	c->guests_memory_percent = 75;
	c->guest_pids = 4096;
	c->evict_at_once = 2;
	c->cache_bytes = cache_default();
	c->file = strdup(file);
	r.nomem = !c->file;
	o = parse_json(&r, text, len);
	if (o) {
		conf_read_object(&r, "", o, keys, c);
		check_together(&r, c);
		json_decref(o);
	}
	if (!r.errors && !r.nomem && defaults(c))
		r.nomem = true;
	if (r.errors || r.nomem) {
		conf_free(c);
		return r.errors ? -EINVAL : -ENOMEM;
	}
	*out = c;
	return 0;
}

/* Reads the whole of a regular file of at most CONF_SIZE_MAX. */
static int slurp(const char *path, char **out, size_t *len)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t n = 0;
	ssize_t got;

	if (fd < 0 || fstat(fd, &st))
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	if (st.st_size > CONF_SIZE_MAX)
		return -EFBIG;
	text = malloc(CONF_SIZE_MAX);
	if (!text)
		return -ENOMEM;
	while (n < CONF_SIZE_MAX && (got = read(fd, text + n, CONF_SIZE_MAX - n)) != 0) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		n += (size_t)got;
	}
	*out = text;
	text = NULL;
	*len = n;
	return 0;
}

int conf_load_with(const char *path, int flags, FILE *report, struct conf **out)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r;

	if (!path)
		path = getenv("SPRITE_CONF");
	if (!path || !*path)
		path = CONF_PATH_DEFAULT;
	r = slurp(path, &text, &len);
	if (r < 0) {
		if (report)
			fprintf(report, "%s: expected a configuration file, found: %s\n", path, strerror(-r));
		return r;
	}
	return conf_parse(text, len, path, flags, report, out);
}

int conf_load(const char *path, struct conf **out)
{
	return conf_load_with(path, 0, stderr, out);
}
