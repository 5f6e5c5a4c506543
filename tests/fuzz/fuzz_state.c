// SPDX-License-Identifier: Apache-2.0
/*
 * What the daemons read back from their own disk, after any damage to it: spritefsd's log of intents and grants, the sets of shared variables. Loading never
 * fails for what is in the file, and what was loaded is saved so that it loads again and says the same. First byte: which one. (The journal: fuzz_journal.c.)
 */
#include <jansson.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/server/grant.h"
#include "fs/server/intent.h"
#include "migd/envset.h"
#include "tests/fuzz/fuzz.h"

static char dir[80], intents[100], grants[100];

static void put(const char *path, const uint8_t *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, data, len) != (ssize_t)len)
		abort();
	close(fd);
}

static void one_intents(const uint8_t *data, size_t len)
{
	static const struct intent more = {.method = 9, .ino = 7, .handle_len = 3, .handle = {1, 2, 3}};
	struct intent got;
	struct intents *t;
	size_t left;

	put(intents, data, len);
	t = intents_open(dir);
	if (!t)
		abort();
	left = intents_left(t);
	intents_put(t, "fuzz", 1, ~0ull, &more);
	intents_close(t);
	t = intents_open(dir); /* all of that, and what was put after it */
	if (!t || !intents_take(t, "fuzz", 1, ~0ull, 9, &got) || got.handle_len != 3 || intents_left(t) > left || intents_left(t) + 1 < left)
		abort();
	intents_close(t);
}

static void one_grants(const uint8_t *data, size_t len)
{
	struct grants g;
	json_t *rows, *again;

	put(grants, data, len);
	grants_init(&g);
	grants_load(&g, dir);
	rows = grants_json(&g);
	grants_add(&g, "fuzz", 1, "family", (const gid_t[]){1}, 1); /* writes the file */
	grants_remove(&g, "fuzz", 1, "family");
	grants_destroy(&g);
	grants_init(&g);
	grants_load(&g, dir);
	again = grants_json(&g);
	if (!rows || !again || json_array_size(rows) != json_array_size(again))
		abort();
	grants_destroy(&g);
	json_decref(rows);
	json_decref(again);
}

static void one_env(const uint8_t *data, size_t len)
{
	json_t *o = json_loadb((const char *)data, len, 0, NULL), *saved;
	struct envsets *a = envsets_new(), *b = envsets_new();

	if (!a || !b)
		abort();
	if (!envsets_load(a, o)) {
		saved = envsets_save(a);
		if (!saved || envsets_load(b, saved))
			abort();
		json_decref(saved);
	}
	envsets_free(a);
	envsets_free(b);
	json_decref(o);
}

static void one(const uint8_t *data, size_t len)
{
	if (!len)
		return;
	switch (data[0] % 3) {
	case 0:
		one_intents(data + 1, len - 1);
		break;
	case 1:
		one_grants(data + 1, len - 1);
		break;
	default:
		one_env(data + 1, len - 1);
	}
}

/* What is in the file, with the kind in front. */
static struct fuzz_seed seed_file(uint8_t kind, const char *path)
{
	FILE *f = fopen(path, "re");
	uint8_t *p = calloc(1, 4096);
	size_t n;

	if (!f || !p)
		abort();
	p[0] = kind;
	n = fread(p + 1, 1, 4095, f);
	fclose(f);
	if (!n)
		abort();
	return (struct fuzz_seed){p, n + 1};
}

int main(int argc, char **argv)
{
	static const char *const words[] = {"\"host\"", "\"uid\"", "\"family\"", "\"gids\"", "\"boot\"", "\"sessions\"", "\"vars\"", "\"name\"", "null", "[]", "{}", "-1",
		"18446744073709551616", "1e99", "\"\"", "\\u0000", ",", ":", NULL};
	struct envsets *sets = envsets_new();
	struct error e = {0};
	struct envset *set;
	struct fuzz_seed seeds[3];
	struct intents *t;
	struct grants g;
	json_t *saved;
	char *text;
	uint8_t *p;
	int r;

	setenv("SPRITE_LOG", "error", 1); /* a damaged file is worth a warning, each time */
	log_init("fuzz");
	if (!fuzz_dir(dir, sizeof(dir)))
		return 2;
	snprintf(intents, sizeof(intents), "%s/intents", dir);
	snprintf(grants, sizeof(grants), "%s/grants.json", dir);
	t = intents_open(dir);
	for (uint64_t i = 0; t && i < 4; i++)
		intents_put(t, "ws1", 77, i, &(struct intent){.method = (uint16_t)i, .dev = 3, .ino = i, .handle_len = i & 1 ? 20 : 0, .handle = "handle"});
	intents_close(t);
	seeds[0] = seed_file(0, intents);
	grants_init(&g);
	grants_load(&g, dir);
	grants_add(&g, "ws2", 1000, "ws1.4711.1", (const gid_t[]){1000, 24}, 2);
	grants_add(&g, "ws3", 0, "ws1.4712.1", NULL, 0);
	grants_destroy(&g);
	seeds[1] = seed_file(1, grants);
	set = envset_make(sets, 4711, 1000);
	envset_set(set, "PATH", "/bin", &e);
	envset_set(set, "EMPTY", "", &e);
	envset_tie(set, 4712);
	saved = envsets_save(sets);
	text = json_dumps(saved, JSON_COMPACT);
	p = malloc(strlen(text) + 2);
	p[0] = 2;
	memcpy(p + 1, text, strlen(text));
	seeds[2] = (struct fuzz_seed){p, strlen(text) + 1};
	free(text);
	json_decref(saved);
	envsets_free(sets);
	r = fuzz_main(argc, argv, "state", seeds, ARRAY_SIZE(seeds), words, one);
	unlink(intents);
	unlink(grants);
	rmdir(dir);
	for (size_t i = 0; i < ARRAY_SIZE(seeds); i++)
		free((void *)seeds[i].data);
	return r;
}
