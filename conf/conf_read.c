// SPDX-License-Identifier: Apache-2.0
/* Typed readers of configuration values: see conf_read.h. */
#include "conf/conf_read.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"

#define AT(base, k, type) ((type *)((char *)(base) + (k)->offset))

/* ---- reports ---- */

static void describe(json_t *v, char *to, size_t size)
{
	static const char *const types[] = {
		[JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list", [JSON_STRING] = "a string", [JSON_INTEGER] = "a number",
		[JSON_REAL] = "a fraction",  [JSON_TRUE] = "a truth value", [JSON_FALSE] = "a truth value", [JSON_NULL] = "null",
	};
	_cleanup_free_ char *text = NULL;

	if (!v) {
		snprintf(to, size, "nothing");
		return;
	}
	if (json_is_object(v) || json_is_array(v) || json_is_null(v) || !(text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)))) {
		snprintf(to, size, "%s", types[json_typeof(v)]);
		return;
	}
	if (strlen(text) > 60)
		memcpy(text + 57, "...", 4);
	snprintf(to, size, json_is_string(v) ? "%s" : "%s (%s)", text, types[json_typeof(v)]);
}

static void report(struct conf_reader *r, const char *where, const char *expected, const char *found)
{
	r->errors++;
	if (r->report)
		fprintf(r->report, "%s: %s%sexpected %s, found %s\n", r->file, where, *where ? ": " : "", expected, found);
}

void conf_expected(struct conf_reader *r, const char *where, json_t *v, const char *fmt, ...)
{
	char expected[512], found[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(expected, sizeof(expected), fmt, ap);
	va_end(ap);
	describe(v, found, sizeof(found));
	report(r, where, expected, found);
}

void conf_expected_found(struct conf_reader *r, const char *where, const char *expected, const char *fmt, ...)
{
	char found[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(found, sizeof(found), fmt, ap);
	va_end(ap);
	report(r, where, expected, found);
}

/* ---- objects ---- */

static const struct conf_key *key_find(const struct conf_key *keys, const char *name)
{
	for (; keys->name; keys++)
		if (!strcmp(keys->name, name))
			return keys;
	return NULL;
}

static void unknown_key(struct conf_reader *r, const char *where, const struct conf_key *keys)
{
	char list[400] = "one of the keys";
	size_t n = strlen(list);

	for (; keys->name && n < sizeof(list); keys++)
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s %s", strcmp(list, "one of the keys") ? "," : "", keys->name);
	report(r, where, list, "a key that nobody knows");
}

void conf_read_object(struct conf_reader *r, const char *where, json_t *o, const struct conf_key *keys, void *base)
{
	const char *name;
	json_t *v;
	char w[512];

	if (!json_is_object(o)) {
		conf_expected(r, where, o, "an object");
		return;
	}
	json_object_foreach(o, name, v)
	{
		snprintf(w, sizeof(w), "%.300s%s%.200s", where, *where ? "." : "", name);
		for (char *s = w; *s; s++) /* a key is the file's text: keep the report one line */
			if ((unsigned char)*s < ' ' || *s == 0x7f)
				*s = '?';
		if (!key_find(keys, name))
			unknown_key(r, w, keys);
	}
	for (; keys->name; keys++) {
		snprintf(w, sizeof(w), "%.300s%s%.200s", where, *where ? "." : "", keys->name);
		v = json_object_get(o, keys->name);
		if (v)
			keys->read(r, w, v, keys, base);
		else if (keys->object && keys->required)
			conf_read_object(r, w, NULL, keys->object, base);
		else if (keys->required)
			conf_expected(r, w, NULL, "a value: it has no default");
	}
}

void conf_read_section(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	conf_read_object(r, where, v, k->object, base);
}

/* ---- strings ---- */

static void put_string(struct conf_reader *r, char **to, const char *s)
{
	char *copy = strdup(s);

	if (!copy) {
		r->nomem = true;
		return;
	}
	free(*to);
	*to = copy;
}

bool conf_name_ok(const char *s)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
	size_t n = strlen(s);

	return n > 0 && n <= 253 && s[0] != '.' && s[0] != '-' && strspn(s, ok) == n;
}

void conf_read_name(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	if (!json_is_string(v) || !conf_name_ok(json_string_value(v)))
		conf_expected(r, where, v, "a host name (letters, digits, - . _)");
	else
		put_string(r, AT(base, k, char *), json_string_value(v));
}

void conf_read_word(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	char list[200] = "";
	size_t n = 0;

	for (const char *const *w = k->words; *w; w++) {
		if (json_is_string(v) && !strcmp(json_string_value(v), *w)) {
			put_string(r, AT(base, k, char *), *w);
			return;
		}
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s\"%s\"", n ? " or " : "", *w);
	}
	conf_expected(r, where, v, "%s", list);
}

/* Absolute, at most PATH_MAX, without "//", "/./", "/../"; one '/' at the end is taken off. NULL: not so. */
static char *path_normal(const char *s)
{
	size_t n = strlen(s);
	char *p;

	if (s[0] != '/' || n >= 4096)
		return NULL;
	for (const char *c = s; *c; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return NULL;
		if (c[0] != '/')
			continue;
		if (c[1] == '/' || (c[1] == '.' && (!c[2] || c[2] == '/')) || (c[1] == '.' && c[2] == '.' && (!c[3] || c[3] == '/')))
			return NULL;
	}
	p = strdup(s);
	if (p && n > 1 && p[n - 1] == '/')
		p[n - 1] = 0;
	return p;
}

/* Returns the string stored, NULL when reported. */
static const char *read_path(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base, const char *what)
{
	char **to = AT(base, k, char *), *p;

	p = json_is_string(v) ? path_normal(json_string_value(v)) : NULL;
	if (!p) {
		conf_expected(r, where, v, "%s: an absolute path without // . ..", what);
		return NULL;
	}
	free(*to);
	*to = p;
	return p;
}

void conf_read_path(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	read_path(r, where, v, k, base, "a path");
}

void conf_read_dir(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	const char *p = read_path(r, where, v, k, base, "a directory");
	struct stat st;

	if (!p || r->flags & CONF_NO_FILES)
		return;
	if (stat(p, &st))
		conf_expected_found(r, where, "a directory", "%s: %s", p, strerror(errno));
	else if (!S_ISDIR(st.st_mode))
		conf_expected_found(r, where, "a directory", "%s: something else", p);
}

/* ---- certificates ---- */

/* Opens without waiting (it may be a fifo) and checks that it is a file with `marker` in its first 64 KiB. */
static void check_pem(struct conf_reader *r, const char *where, const char *path, const char *marker, const char *what, bool secret)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st)) {
		conf_expected_found(r, where, what, "%s: %s", path, strerror(errno));
		return;
	}
	if (!S_ISREG(st.st_mode)) {
		conf_expected_found(r, where, what, "%s: not a regular file", path);
		return;
	}
	text = malloc(65536);
	n = text ? read(fd, text, 65536) : -1;
	if (n < 0) {
		conf_expected_found(r, where, what, "%s: %s", path, strerror(errno));
		return;
	}
	if (!memmem(text, (size_t)n, marker, strlen(marker)))
		conf_expected_found(r, where, what, "%s: no \"%s\" in it", path, marker);
	else if (secret && st.st_mode & 007)
		conf_expected_found(r, where, "a key that only its owner can read (chmod 600)", "%s: mode %04o", path, st.st_mode & 07777);
}

void conf_read_cert(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	const char *p = read_path(r, where, v, k, base, "a certificate in PEM form");

	if (p && !(r->flags & CONF_NO_FILES))
		check_pem(r, where, p, "-----BEGIN CERTIFICATE-----", "a readable certificate in PEM form", false);
}

void conf_read_key(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	const char *p = read_path(r, where, v, k, base, "a private key in PEM form");

	if (p && !(r->flags & CONF_NO_FILES))
		check_pem(r, where, p, "PRIVATE KEY-----", "a readable private key in PEM form", true);
}

void conf_read_crl(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	const char *p = read_path(r, where, v, k, base, "a list of revoked certificates in PEM form");

	if (p && !(r->flags & CONF_NO_FILES))
		check_pem(r, where, p, "-----BEGIN X509 CRL-----", "a readable list of revoked certificates in PEM form", false);
}

/* ---- addresses ---- */

static int port_parse(const char *s, uint16_t *out)
{
	unsigned v = 0;

	if (!*s || strlen(s) > 5 || strspn(s, "0123456789") != strlen(s))
		return -EINVAL;
	for (; *s; s++)
		v = v * 10 + (unsigned)(*s - '0');
	if (v > 65535)
		return -EINVAL;
	*out = (uint16_t)v;
	return 0;
}

int conf_addr_parse(const char *s, uint16_t default_port, struct conf_addr *out)
{
	struct conf_addr a = {.port = default_port};
	const char *end = s + strlen(s), *host_end = end, *colon;
	bool v6 = false;

	if (*s == '[') {
		s++;
		host_end = strchr(s, ']');
		if (!host_end || (host_end[1] && host_end[1] != ':') || (host_end[1] == ':' && port_parse(host_end + 2, &a.port)))
			return -EINVAL;
		v6 = true;
	} else if ((colon = strchr(s, ':')) && strchr(colon + 1, ':')) {
		v6 = true; /* two colons, no brackets: an IPv6 address alone */
	} else if (colon) {
		host_end = colon;
		if (port_parse(colon + 1, &a.port))
			return -EINVAL;
	}
	if (host_end == s || (size_t)(host_end - s) >= sizeof(a.host))
		return -EINVAL;
	memcpy(a.host, s, (size_t)(host_end - s));
	if (v6 ? !strchr(a.host, ':') || strspn(a.host, "0123456789abcdefABCDEF:.") != strlen(a.host) : !conf_name_ok(a.host))
		return -EINVAL;
	*out = a;
	return 0;
}

void conf_read_addr(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	struct conf_addr a;

	if (!json_is_string(v) || conf_addr_parse(json_string_value(v), (uint16_t)k->max, &a) || !a.port)
		conf_expected(r, where, v, "\"HOST\" or \"HOST:PORT\" with a port of 1 to 65535");
	else
		*AT(base, k, struct conf_addr) = a;
}

static bool addr_is_all(const char *host)
{
	struct in6_addr six;
	struct in_addr four;
	bool all = inet_pton(AF_INET6, host, &six) == 1;

	if (!all)
		return inet_aton(host, &four) && !four.s_addr; /* "0", "0.0" and "0x0" too */
	for (int i = 0; all && i < 16; i++)
		all = !six.s6_addr[i] || ((i == 10 || i == 11) && six.s6_addr[i] == 0xff); /* the same as an IPv4 address */
	return all;
}

void conf_read_addrs(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	size_t *count = (size_t *)((char *)base + k->offset2), n;
	struct conf_addr *list;
	char w[540];

	if (!json_is_array(v)) {
		conf_expected(r, where, v, "a list of \"ADDRESS\" or \"ADDRESS:PORT\"");
		return;
	}
	n = json_array_size(v);
	list = calloc(n ? n : 1, sizeof(*list));
	if (!list) {
		r->nomem = true;
		return;
	}
	for (size_t i = 0; i < n; i++) {
		json_t *a = json_array_get(v, i);

		snprintf(w, sizeof(w), "%s[%zu]", where, i);
		if (!json_is_string(a) || conf_addr_parse(json_string_value(a), (uint16_t)k->max, &list[i]))
			conf_expected(r, w, a, "\"ADDRESS\" or \"ADDRESS:PORT\" of this host");
		else if (addr_is_all(list[i].host))
			conf_expected(r, w, a, "an address of this host, not every address");
	}
	free(*AT(base, k, struct conf_addr *));
	*AT(base, k, struct conf_addr *) = list;
	*count = n;
}

/* ---- numbers and truth ---- */

void conf_read_bool(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	if (!json_is_boolean(v))
		conf_expected(r, where, v, "true or false");
	else
		*AT(base, k, bool) = json_is_true(v);
}

static bool number(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, uint64_t *out)
{
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v) || n < 0 || (uint64_t)n < k->min || (uint64_t)n > k->max) {
		conf_expected(r, where, v, "a whole number of %llu to %llu", (unsigned long long)k->min, (unsigned long long)k->max);
		return false;
	}
	*out = (uint64_t)n;
	return true;
}

void conf_read_u32(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	uint64_t n;

	if (number(r, where, v, k, &n))
		*AT(base, k, uint32_t) = (uint32_t)n;
}

void conf_read_u64(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	uint64_t n;

	if (number(r, where, v, k, &n))
		*AT(base, k, uint64_t) = n * (k->scale ? k->scale : 1);
}

void conf_read_loads(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	double *to = AT(base, k, double), n[3];
	bool ok = json_is_array(v) && json_array_size(v) == 3;

	for (size_t i = 0; ok && i < 3; i++) {
		json_t *x = json_array_get(v, i);

		n[i] = json_number_value(x);
		ok = json_is_number(x) && n[i] >= 0 && n[i] <= 10000;
	}
	if (!ok)
		conf_expected(r, where, v, "a list of three numbers of 0 to 10000: load per CPU over 1, 5 and 15 minutes");
	else
		memcpy(to, n, sizeof(n));
}

/* ---- lists of strings ---- */

static bool name_or_star(const char *s)
{
	return !strcmp(s, "*") || conf_name_ok(s);
}

static bool feature_ok(const char *s)
{
	return *s && strlen(s) < 64 && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(s);
}

static void read_strings(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base, bool (*ok)(const char *),
	const char *what)
{
	char ***to = AT(base, k, char **), **list, w[540];
	size_t n, used = 0;

	if (!json_is_array(v)) {
		conf_expected(r, where, v, "a list, each %s", what);
		return;
	}
	n = json_array_size(v);
	list = calloc(n + 1, sizeof(*list));
	if (!list) {
		r->nomem = true;
		return;
	}
	for (size_t i = 0; i < n; i++) {
		json_t *s = json_array_get(v, i);

		snprintf(w, sizeof(w), "%s[%zu]", where, i);
		if (!json_is_string(s) || !ok(json_string_value(s)))
			conf_expected(r, w, s, "%s", what);
		else if (!(list[used] = strdup(json_string_value(s))))
			r->nomem = true;
		else
			used++;
	}
	for (char **s = *to; s && *s; s++)
		free(*s);
	free(*to);
	*to = list;
}

void conf_read_names(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	read_strings(r, where, v, k, base, conf_name_ok, "a host name (letters, digits, - . _)");
}

void conf_read_hosts(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	read_strings(r, where, v, k, base, name_or_star, "a host name or \"*\"");
}

void conf_read_features(struct conf_reader *r, const char *where, json_t *v, const struct conf_key *k, void *base)
{
	read_strings(r, where, v, k, base, feature_ok, "a CPU feature as in /proc/cpuinfo (\"avx512f\")");
}
