// SPDX-License-Identifier: Apache-2.0
/* Whatever sprite.conf holds: it is accepted, or refused with at least one line, and nothing is left behind. */
#include <stddef.h>
#include "conf/conf.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {
	"\"name\"", "\"root_server\"", "\"tls\"", "\"ca\"", "\"cert\"", "\"key\"", "\"crl\"", "\"mount\"", "\"run_dir\"", "\"spritefsd\"", "\"listen\"",
	"\"exports\"", "\"prefix\"", "\"path\"", "\"home\"", "\"hosts\"", "\"uid_min\"", "\"uid_max\"", "\"servers\"", "\"spritefs\"", "\"cache_mb\"", "\"migd\"",
	"\"idle_after\"", "\"guest_network\"", "\"cpu_hide\"", "true", "null", "{}", "[]", "[[", "{\"", "\":", ",", "-1", "1e999", "18446744073709551616",
	"\\u0000", "\\ud800", "\xff", "[::]", "/../", "//", ":", "\"*\"", "0.5", NULL,
};
#define TLS "\"tls\":{\"ca\":\"/c/ca\",\"cert\":\"/c/crt\",\"key\":\"/c/key\"}"
#define SEED(s) {s, sizeof(s) - 1}
static const struct fuzz_seed seeds[] = {
	SEED("{\"name\":\"ws1\",\"root_server\":\"fs1\"," TLS "}"),
	SEED("{\"name\":\"ws1\",\"root_server\":\"[fd00::1]:7700\"," TLS ",\"mount\":\"/sprite/\",\"run_dir\":\"/run/sprite\",\"state_dir\":\"/v\","
	     "\"spritefsd\":{\"listen\":[\"10.1.0.2:7700\",\"fd00::1\"],\"exports\":[{\"prefix\":\"/\",\"path\":\"/srv\",\"hosts\":[\"*\",\"a\"],\"uid_min\":5,"
	     "\"uid_max\":6},{\"prefix\":\"/hosts/ws1\",\"path\":\"/\",\"home\":true,\"readonly\":false,\"root_squash\":true}],\"servers\":[\"fs2\"]},"
	     "\"spritefs\":{\"cache_mb\":9},\"migd\":{\"listen\":[\"h:0\"],\"lend\":true,\"root_guests\":false,\"idle_after\":3,\"remote_logins\":true,"
	     "\"on_battery\":true,\"guest_memory_mb\":77,\"guest_network\":\"host\"},\"cpu_hide\":[\"avx512f\"]}"),
	SEED("{\"nmae\":[1,2.5,null,{\"a\":\"b\"}],\"migd\":{\"idle_after\":\"x\",\"listen\":5},\"spritefsd\":[]}"),
};

static FILE *null;

static void one(const uint8_t *data, size_t len)
{
	struct conf *c = NULL;
	long before = ftell(null);

	if (!conf_parse((const char *)data, len, "fuzz", CONF_NO_FILES, null, &c)) {
		if (!c || !c->name || !conf_name_ok(c->name) || !c->mount || !c->fs_nlisten || !c->mig_nlisten || (c->nexports && !c->exports[0].prefix))
			abort();
		conf_free(c);
	} else if (c || ftell(null) == before) {
		abort(); /* refused without a word */
	}
	rewind(null);
}

int main(int argc, char **argv)
{
	static char text[1 << 20];

	null = fmemopen(text, sizeof(text), "w");
	if (!null)
		return 2;
	return fuzz_main(argc, argv, "conf", seeds, ARRAY_SIZE(seeds), words, one);
}
