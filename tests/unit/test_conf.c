// SPDX-License-Identifier: Apache-2.0
/* sprite.conf: defaults, every error at once and by name, what must hold between keys; the example shows the defaults. */
#include "conf/conf.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/error.h"

#define BASE "\"name\":\"ws1\",\"root_server\":\"fs1\",\"tls\":{\"ca\":\"/c/ca\",\"cert\":\"/c/crt\",\"key\":\"/c/key\"}"

static char *report_text;
static size_t report_len;

/* Parses "{" BASE more "}" unless `text` starts with '{'. The report is in report_text. */
static int parse(const char *text, int flags, struct conf **c)
{
	char full[8192];
	FILE *f;
	int r;

	free(report_text);
	report_text = NULL;
	f = open_memstream(&report_text, &report_len);
	snprintf(full, sizeof(full), *text == '{' || *text == '!' ? "%s" : "{" BASE "%s}", *text == '!' ? text + 1 : text);
	*c = NULL;
	r = conf_parse(full, strlen(full), "x.conf", flags, f, c);
	fclose(f);
	return r;
}

static int lines(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += *s == '\n';
	return n;
}

/* The text must be refused with exactly `n` lines, one of which is `line`. */
static void refuse(const char *text, int n, const char *line)
{
	struct conf *c;

	CU_ASSERT_EQUAL(parse(text, CONF_NO_FILES, &c), -EINVAL);
	CU_ASSERT_PTR_NULL(c);
	if (lines(report_text) != n || !strstr(report_text, line)) {
		printf("\n%s\n-> %swanted %d lines, one: %s\n", text, report_text, n, line);
		CU_FAIL("report");
	}
}

static void test_defaults(void)
{
	struct conf *c;

	CU_ASSERT_EQUAL_FATAL(parse("", CONF_NO_FILES, &c), 0);
	CU_ASSERT_EQUAL(report_len, 0);
	CU_ASSERT_STRING_EQUAL(c->name, "ws1");
	CU_ASSERT_STRING_EQUAL(c->root_server.host, "fs1");
	CU_ASSERT_EQUAL(c->root_server.port, 7700);
	CU_ASSERT_STRING_EQUAL(c->mount, "/sprite");
	CU_ASSERT_STRING_EQUAL(c->run_dir, "/run/sprite");
	CU_ASSERT_STRING_EQUAL(c->state_dir, "/var/lib/sprite");
	CU_ASSERT_EQUAL(c->fs_nlisten, 1);
	CU_ASSERT_STRING_EQUAL(c->fs_listen[0].host, "ws1");
	CU_ASSERT_EQUAL(c->fs_listen[0].port, 7700);
	CU_ASSERT_EQUAL(c->mig_listen[0].port, 7701);
	CU_ASSERT_EQUAL_FATAL(c->nexports, 1);
	CU_ASSERT_TRUE(c->exports[0].home);
	CU_ASSERT_FALSE(c->exports[0].root_squash);
	CU_ASSERT_STRING_EQUAL(c->exports[0].prefix, "/hosts/ws1");
	CU_ASSERT_STRING_EQUAL(c->exports[0].path, "/");
	CU_ASSERT_PTR_NULL(c->exports[0].hosts[0]);
	CU_ASSERT_EQUAL(c->exports[0].uid_max, 0xfffffffeu);
	CU_ASSERT(c->cache_bytes >= 256ull << 20 && c->cache_bytes <= 1024ull << 20); /* by the memory of this machine */
	CU_ASSERT_FALSE(c->lend);
	CU_ASSERT_FALSE(c->root_guests);
	CU_ASSERT_EQUAL(c->idle_after, 300);
	CU_ASSERT_EQUAL(c->guest_memory_max, 0);
	CU_ASSERT_EQUAL(c->guests_memory_percent, 75);
	CU_ASSERT_EQUAL(c->guest_pids, 4096);
	CU_ASSERT_EQUAL(c->evict_at_once, 2);
	CU_ASSERT_FALSE(c->evicted_onward);
	CU_ASSERT_STRING_EQUAL(c->imports, "all");
	CU_ASSERT_STRING_EQUAL(c->exports_of, "all");
	CU_ASSERT_EQUAL(memcmp(c->load_low, ((double[]){0.75, 1.0, 1.5}), sizeof(c->load_low)), 0);
	CU_ASSERT_EQUAL(memcmp(c->load_high, ((double[]){2.5, 2.75, 3.0}), sizeof(c->load_high)), 0);
	CU_ASSERT_STRING_EQUAL(c->guest_network, "none");
	CU_ASSERT_PTR_NULL(c->cpu_hide[0]);
	CU_ASSERT_PTR_NULL(c->fs_servers[0]);
	conf_free(c);
}

static void test_values(void)
{
	struct conf *c;

	CU_ASSERT_EQUAL_FATAL(parse(",\"spritefsd\":{\"listen\":[\"10.1.0.2\",\"[fd00::2]:0\",\"fd00::3\"],\"servers\":[\"fs2\"],\"exports\":["
				    "{\"prefix\":\"/\",\"path\":\"/srv/\"},"
				    "{\"prefix\":\"/src\",\"path\":\"/srv/src\",\"readonly\":true,\"root_squash\":false,\"hosts\":[\"ws1\",\"ws2\"],"
				    "\"uid_min\":1000,\"uid_max\":60000}]},"
				    "\"spritefs\":{\"cache_mb\":2},\"migd\":{\"listen\":[\"10.1.0.2:9\"],\"lend\":true,\"root_guests\":true,"
				    "\"idle_after\":30,\"guest_memory_mb\":3,\"guest_network\":\"host\"},\"cpu_hide\":[\"avx512f\",\"amx_tile\"]",
				      CONF_NO_FILES, &c), 0);
	CU_ASSERT_EQUAL_FATAL(c->fs_nlisten, 3);
	CU_ASSERT_STRING_EQUAL(c->fs_listen[1].host, "fd00::2");
	CU_ASSERT_EQUAL(c->fs_listen[1].port, 0);
	CU_ASSERT_EQUAL(c->fs_listen[2].port, 7700);
	CU_ASSERT_EQUAL_FATAL(c->nexports, 2);
	CU_ASSERT_STRING_EQUAL(c->exports[0].prefix, "/");
	CU_ASSERT_STRING_EQUAL(c->exports[0].path, "/srv");
	CU_ASSERT_STRING_EQUAL(c->exports[0].hosts[0], "*");
	CU_ASSERT_TRUE(c->exports[0].root_squash);
	CU_ASSERT_FALSE(c->exports[1].root_squash);
	CU_ASSERT_TRUE(c->exports[1].readonly);
	CU_ASSERT_STRING_EQUAL(c->exports[1].hosts[1], "ws2");
	CU_ASSERT_EQUAL(c->exports[1].uid_min, 1000);
	CU_ASSERT_STRING_EQUAL(c->fs_servers[0], "fs2");
	CU_ASSERT_EQUAL(c->cache_bytes, 2 << 20);
	CU_ASSERT_TRUE(c->lend && c->root_guests);
	CU_ASSERT_EQUAL(c->guest_memory_max, 3 << 20);
	CU_ASSERT_STRING_EQUAL(c->guest_network, "host");
	CU_ASSERT_STRING_EQUAL(c->cpu_hide[1], "amx_tile");
	conf_free(c);
}

static void test_no_exports(void) /* an empty list is a decision, not an omission */
{
	struct conf *c;

	CU_ASSERT_EQUAL_FATAL(parse(",\"spritefsd\":{\"exports\":[]}", CONF_NO_FILES, &c), 0);
	CU_ASSERT_EQUAL(c->nexports, 0);
	conf_free(c);
}

static void test_all_at_once(void)
{
	refuse("{\"name\":7,\"root_servr\":\"fs1\",\"mount\":\"sprite\",\"migd\":{\"idle_after\":\"5\",\"lend\":1}}", 7,
		"x.conf: name: expected a host name (letters, digits, - . _), found 7 (a number)\n");
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "x.conf: root_servr: expected one of the keys name, root_server, tls,"));
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "x.conf: root_server: expected a value: it has no default, found nothing\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "x.conf: tls: expected an object, found nothing\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "x.conf: mount: expected a path: an absolute path without // . .., found \"sprite\"\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "x.conf: migd.idle_after: expected a whole number of 1 to 604800, found \"5\"\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "x.conf: migd.lend: expected true or false, found 1 (a number)\n"));
}

static void test_refused(void)
{
	static const struct {
		const char *more, *line;
	} one[] = {
		{"!", "x.conf:1:0: expected JSON, found: '[' or '{' expected near end of file"},
		{"![1]", "x.conf: expected an object, found a list"},
		{"!{\"name\":", "x.conf:1:8: expected JSON, found: unexpected token near end of file"},
		{",\"name\":\"x\"", "duplicate object key"},
		{",\"mount\":\"/\"", "mount: expected a directory below /"},
		{",\"mount\":\"/a/../b\"", "mount: expected a path"},
		{",\"run_dir\":[]", "run_dir: expected a path: an absolute path without // . .., found a list"},
		{",\"migd\":5", "migd: expected an object, found 5 (a number)"},
		{",\"migd\":{\"idle_after\":0}", "migd.idle_after: expected a whole number of 1 to"},
		{",\"migd\":{\"idle_after\":1.5}", "found 1.5 (a fraction)"},
		{",\"migd\":{\"guest_memory_mb\":-1}", "found -1 (a number)"},
		{",\"migd\":{\"load_low\":[1,2]}", "migd.load_low: expected a list of three numbers"},
		{",\"migd\":{\"load_high\":[1,2,\"3\"]}", "migd.load_high: expected a list of three numbers"},
		{",\"migd\":{\"load_high\":[0.5,2,3]}", "migd.load_high: expected three numbers not below those of load_low"},
		{",\"migd\":{\"imports\":\"some\"}", "migd.imports: expected \"all\" or \"root\" or \"none\""},
		{",\"migd\":{\"guests_memory_percent\":101}", "migd.guests_memory_percent: expected a whole number of 1 to 100"},
		{",\"migd\":{\"evict_at_once\":0}", "migd.evict_at_once: expected a whole number of 1 to 1024"},
		{",\"migd\":{\"guest_network\":\"all\"}", "migd.guest_network: expected \"none\" or \"host\", found \"all\""},
		{",\"migd\":{\"listen\":\"ws1\"}", "migd.listen: expected a list"},
		{",\"migd\":{\"listen\":[\"ws1:70000\"]}", "migd.listen[0]: expected \"ADDRESS\""},
		{",\"migd\":{\"listen\":[\"0.0.0.0\"]}", "not every address"},
		{",\"migd\":{\"listen\":[\"[::]:7701\"]}", "not every address"},
		{",\"migd\":{\"listen\":[\"0x0\"]}", "not every address"},
		{",\"migd\":{\"listen\":[\"0.0\"]}", "not every address"},
		{",\"migd\":{\"listen\":[\"[::ffff:0.0.0.0]\"]}", "not every address"},
		{",\"cpu_hide\":[\"AVX\"]", "cpu_hide[0]: expected a CPU feature"},
		{",\"cpu_hide\":\"avx\"", "cpu_hide: expected a list"},
		{",\"spritefsd\":{\"servers\":[\"../x\"]}", "spritefsd.servers[0]: expected a host name"},
		{",\"spritefsd\":{\"exports\":[5]}", "spritefsd.exports[0]: expected an object"},
		{",\"spritefsd\":{\"exports\":[{\"prefix\":\"/a\",\"path\":\"/\",\"x\":1}]}", "spritefsd.exports[0].x: expected one of the keys prefix, path,"},
		{",\"spritefsd\":{\"exports\":[{\"prefix\":\"/hosts/ws2\",\"path\":\"/\",\"home\":true}]}", "\"/hosts/ws1\", this host's own"},
		{",\"spritefsd\":{\"exports\":[{\"prefix\":\"/hosts/ws1\",\"path\":\"/\"}]}", "prefix outside /hosts"},
		{",\"spritefsd\":{\"exports\":[{\"prefix\":\"/hosts/ws1\",\"path\":\"/\",\"home\":true,\"hosts\":[\"ws2\",\"*\"]}]}",
			"exports[0].hosts: expected names of hosts, since a home is never open to everybody, found \"*\""},
		{",\"spritefsd\":{\"exports\":[{\"prefix\":\"/.sprite\",\"path\":\"/\"}]}", "prefix outside /.sprite"},
		{",\"spritefsd\":{\"exports\":[{\"prefix\":\"/a\",\"path\":\"/\"},{\"prefix\":\"/a/\",\"path\":\"/\"}]}",
			"exports[1].prefix: expected a prefix that is exported once"},
		{",\"spritefsd\":{\"exports\":[{\"prefix\":\"/a\",\"path\":\"/\",\"uid_min\":9,\"uid_max\":8}]}", "uid_max: expected a number not below uid_min"},
		{",\"spritefsd\":{\"exports\":[{\"prefix\":\"/a\",\"path\":\"/\",\"uid_max\":4294967295}]}", "uid_max: expected a whole number of 0 to 4294967294"},
	};

	for (size_t i = 0; i < sizeof(one) / sizeof(one[0]); i++)
		refuse(one[i].more, 1, one[i].line);
}

static void test_forged_line(void) /* a key must not be able to forge a report line */
{
	refuse(",\"a\\nx.conf: b\":1", 1, "x.conf: a?x.conf: b: expected one of");
}

static void put(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);

	CU_ASSERT_TRUE_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	fchmod(fd, mode);
	close(fd);
}

static void test_files(void)
{
	char dir[] = "/tmp/sprite-conf-XXXXXX", text[1024], want[300];
	struct conf *c = NULL;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	CU_ASSERT_EQUAL_FATAL(chdir(dir), 0);
	put("ca", "-----BEGIN CERTIFICATE-----\n", 0644);
	put("key", "-----BEGIN PRIVATE KEY-----\n", 0644);
	snprintf(text, sizeof(text),
		"{\"name\":\"ws1\",\"root_server\":\"fs1\",\"tls\":{\"ca\":\"%s/ca\",\"cert\":\"%s/none\",\"key\":\"%s/key\"},"
		"\"spritefsd\":{\"exports\":[{\"prefix\":\"/\",\"path\":\"%s/ca\"}]}}", dir, dir, dir, dir);
	CU_ASSERT_EQUAL(parse(text, 0, &c), -EINVAL);
	CU_ASSERT_EQUAL(lines(report_text), 3);
	snprintf(want, sizeof(want), "tls.cert: expected a readable certificate in PEM form, found %s/none: No such file or directory\n", dir);
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, want));
	snprintf(want, sizeof(want), "tls.key: expected a key that only its owner can read (chmod 600), found %s/key: mode 0644\n", dir);
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, want));
	snprintf(want, sizeof(want), "spritefsd.exports[0].path: expected a directory, found %s/ca: something else\n", dir);
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, want));

	put("none", "rubbish", 0644); /* there, but no certificate */
	CU_ASSERT_EQUAL(parse(text, 0, &c), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "no \"-----BEGIN CERTIFICATE-----\" in it"));
	unlink("none");
	CU_ASSERT_EQUAL(mkfifo("none", 0600), 0); /* must not wait for a writer */
	CU_ASSERT_EQUAL(parse(text, 0, &c), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "none: not a regular file"));

	unlink("none");
	unlink("ca");
	put("none", "x\n-----BEGIN CERTIFICATE-----\n", 0644);
	CU_ASSERT_EQUAL(mkdir("ca", 0755), 0);
	CU_ASSERT_EQUAL(chmod("key", 0600), 0);
	CU_ASSERT_EQUAL(parse(text, 0, &c), -EINVAL); /* now only the CA is wrong, being a directory */
	CU_ASSERT_EQUAL(lines(report_text), 1);

	snprintf(text, sizeof(text), "{\"name\":\"ws1\",\"root_server\":\"fs1\",\"tls\":{\"ca\":\"%s/none\",\"cert\":\"%s/none\",\"key\":\"%s/key\",\"crl\":\"%s/none\"}}",
		dir, dir, dir, dir);
	CU_ASSERT_EQUAL(parse(text, 0, &c), -EINVAL); /* a certificate is no list of revoked ones */
	CU_ASSERT_PTR_NOT_NULL(strstr(report_text, "tls.crl: expected a readable list of revoked certificates"));
	CU_ASSERT_EQUAL(lines(report_text), 1);
	put("none", "-----BEGIN X509 CRL-----\n-----BEGIN CERTIFICATE-----\n", 0644);
	CU_ASSERT_EQUAL(parse(text, 0, &c), 0);
	conf_free(c);
	c = NULL;

	put("good.conf", "{" BASE "}", 0644);
	CU_ASSERT_EQUAL(setenv("SPRITE_CONF", "good.conf", 1), 0);
	CU_ASSERT_EQUAL(conf_load_with(NULL, CONF_NO_FILES, NULL, &c), 0);
	CU_ASSERT_STRING_EQUAL(c->file, "good.conf");
	conf_free(c);
	CU_ASSERT_EQUAL(conf_load_with("nowhere.conf", 0, NULL, &c), -ENOENT);
	CU_ASSERT_EQUAL(conf_load_with(dir, 0, NULL, &c), -EISDIR);
	snprintf(text, sizeof(text), "rm -r %s", dir);
	CU_ASSERT_EQUAL(chdir("/") || system(text), 0);
}

static const char *example; /* path of sprite.conf.example, absolute */

static void test_example(void)
{
	struct conf *c = NULL, *d;

	CU_ASSERT_EQUAL_FATAL(conf_load_with(example, CONF_NO_FILES, stderr, &c), 0);
	CU_ASSERT_EQUAL_FATAL(parse("", CONF_NO_FILES, &d), 0);
	CU_ASSERT_STRING_EQUAL(c->mount, d->mount);
	CU_ASSERT_STRING_EQUAL(c->run_dir, d->run_dir);
	CU_ASSERT_STRING_EQUAL(c->state_dir, d->state_dir);
	CU_ASSERT_EQUAL(memcmp(&c->root_server, &d->root_server, sizeof(c->root_server)), 0);
	CU_ASSERT_EQUAL(c->fs_nlisten, d->fs_nlisten);
	CU_ASSERT_STRING_EQUAL(c->fs_listen[0].host, d->fs_listen[0].host);
	CU_ASSERT_EQUAL(c->mig_listen[0].port, d->mig_listen[0].port);
	CU_ASSERT_EQUAL(c->nexports, d->nexports);
	CU_ASSERT_STRING_EQUAL(c->exports[0].prefix, d->exports[0].prefix);
	CU_ASSERT_EQUAL(c->exports[0].home, d->exports[0].home);
	CU_ASSERT_EQUAL(c->exports[0].root_squash, d->exports[0].root_squash);
	CU_ASSERT_EQUAL(c->exports[0].uid_max, d->exports[0].uid_max);
	CU_ASSERT_EQUAL(!c->exports[0].hosts[0], !d->exports[0].hosts[0]);
	CU_ASSERT_EQUAL(c->cache_bytes, 256ull << 20); /* the default goes by the memory */
	CU_ASSERT_EQUAL(c->lend, d->lend);
	CU_ASSERT_EQUAL(c->root_guests, d->root_guests);
	CU_ASSERT_EQUAL(c->idle_after, d->idle_after);
	CU_ASSERT_EQUAL(c->remote_logins, d->remote_logins);
	CU_ASSERT_EQUAL(c->on_battery, d->on_battery);
	CU_ASSERT_EQUAL(c->guest_memory_max, d->guest_memory_max);
	CU_ASSERT_EQUAL(c->guests_memory_percent, d->guests_memory_percent);
	CU_ASSERT_EQUAL(c->guest_pids, d->guest_pids);
	CU_ASSERT_EQUAL(c->evict_at_once, d->evict_at_once);
	CU_ASSERT_EQUAL(c->evict_mb_s, d->evict_mb_s);
	CU_ASSERT_EQUAL(c->evicted_onward, d->evicted_onward);
	CU_ASSERT_STRING_EQUAL(c->imports, d->imports);
	CU_ASSERT_STRING_EQUAL(c->exports_of, d->exports_of);
	CU_ASSERT_STRING_EQUAL(c->guest_network, d->guest_network);
	conf_free(c);
	conf_free(d);
}

static void test_addr(void)
{
	static const char *const bad[] = {"", ":7", "a:", "a:x", "a:65536", "[::1", "[::1]x", "[a]:5", "a b", "1:2:3x", "[]:1", "-a", "::%eth0"};
	struct conf_addr a = {.port = 1};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_EQUAL(conf_addr_parse(bad[i], 7, &a), -EINVAL);
	CU_ASSERT_EQUAL(a.port, 1);
	CU_ASSERT_EQUAL(conf_addr_parse("::1", 7, &a), 0);
	CU_ASSERT_STRING_EQUAL(a.host, "::1");
	CU_ASSERT_EQUAL(conf_addr_parse("h.example:65535", 7, &a), 0);
	CU_ASSERT_EQUAL(a.port, 65535);
}

static void test_error(void)
{
	struct error e = {0};
	char longish[600];

	CU_ASSERT_EQUAL(error_set(NULL, EIO, "x"), -EIO);
	CU_ASSERT_EQUAL(error_set(&e, EIO, "a\nb"), -EIO);
	CU_ASSERT_EQUAL(error_set(&e, EPERM, "second"), -EPERM);
	CU_ASSERT_EQUAL(e.code, EIO);
	error_prefix(&e, "open %d", 7);
	CU_ASSERT_STRING_EQUAL(e.text, "open 7: a?b");
	memset(longish, 'x', sizeof(longish) - 1);
	longish[sizeof(longish) - 1] = 0;
	error_prefix(&e, "%s", longish);
	CU_ASSERT_EQUAL(strlen(e.text), sizeof(e.text) - 1);
}

int main(void)
{
	static char path[4096];
	CU_pSuite s;

	if (!realpath("sprite.conf.example", path)) {
		fprintf(stderr, "run it at the top of the tree: sprite.conf.example: %s\n", strerror(errno));
		return 2;
	}
	example = path;
	CU_initialize_registry();
	s = CU_add_suite("conf", NULL, NULL);
	CU_add_test(s, "defaults", test_defaults);
	CU_add_test(s, "values", test_values);
	CU_add_test(s, "no exports", test_no_exports);
	CU_add_test(s, "all errors at once", test_all_at_once);
	CU_add_test(s, "refused", test_refused);
	CU_add_test(s, "forged line", test_forged_line);
	CU_add_test(s, "files", test_files);
	CU_add_test(s, "example", test_example);
	CU_add_test(s, "addresses", test_addr);
	CU_add_test(s, "error", test_error);
	CU_basic_run_tests();
	free(report_text);
	return CU_get_number_of_failures() || CU_get_number_of_tests_run() != 10;
}
