// SPDX-License-Identifier: Apache-2.0
/*
 * migd's journal after any damage: opening it never fails for what is in it, tells only records whose sum is right, and what it leaves can be opened
 * again and says the same. The parser alone is fed too.
 */
#include <jansson.h>
#include "migd/journal.h"
#include "tests/fuzz/fuzz.h"

static char path[88];
static struct fuzz_seed seeds[4];

struct told {
	size_t n;
	uint64_t sum;
};

static void live(void *arg, json_t *record)
{
	struct told *t = arg;
	char *text = json_dumps(record, JSON_SORT_KEYS | JSON_COMPACT);

	if (!json_is_object(record) || !text)
		abort();
	t->n++;
	for (char *s = text; *s; s++)
		t->sum = t->sum * 1099511628211ull + (unsigned char)*s;
	free(text);
}

static void whole_file(const uint8_t *data, size_t len)
{
	struct told first = {0}, second = {0};
	struct error e = {0};
	struct journal *j;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, data, len) != (ssize_t)len)
		abort();
	close(fd);
	if (journal_open(path, live, &first, &j, &e))
		abort();
	journal_close(j);
	if (journal_open(path, live, &second, &j, &e))
		abort();
	journal_close(j);
	if (first.n != second.n || first.sum != second.sum)
		abort();
}

static void one(const uint8_t *data, size_t len)
{
	static unsigned count;
	const uint8_t *nl = memchr(data, '\n', len);
	json_t *r = journal_parse((const char *)data, nl ? (size_t)(nl - data) : len);
	char *again;

	if (r) { /* what is a record can be written and is the same then */
		again = journal_format(r);
		if (!again)
			abort();
		json_t *r2 = journal_parse(again, strcspn(again, "\n"));
		if (!r2 || !json_equal(r, r2))
			abort();
		json_decref(r2);
		free(again);
		json_decref(r);
	}
	if (count++ % 64 == 0)
		whole_file(data, len);
}

static void append(char *to, size_t room, json_t *record)
{
	char *line = journal_format(record);

	if (!line || strlen(to) + strlen(line) >= room)
		abort();
	strcat(to, line);
	free(line);
	json_decref(record);
}

static json_t *with(json_t *o, const char *key, const char *value)
{
	json_object_set_new(o, key, json_string(value));
	return o;
}

int main(int argc, char **argv)
{
	static char home[2048], guest[2048];
	char dir[72];
	int r;

	if (!fuzz_dir(dir, sizeof(dir)))
		return 2;
	snprintf(path, sizeof(path), "%s/journal", dir);
	append(home, sizeof(home), with(journal_record("move", "ws1:4711", 1), "dest", "ws2"));
	append(home, sizeof(home), with(journal_record("commit", "ws1:4711", 1), "host", "ws2"));
	append(home, sizeof(home), with(journal_record("away", "ws1:4711", 1), "host", "ws2"));
	append(home, sizeof(home), with(journal_record("move", "ws1:99", 4), "dest", "ws3"));
	append(home, sizeof(home), journal_record("abort", "ws1:99", 4));
	append(guest, sizeof(guest), with(journal_record("guest", "ws2:5", 7), "home", "ws2"));
	append(guest, sizeof(guest), journal_record("drop", "ws2:5", 7));
	append(guest, sizeof(guest), with(journal_record("guest", "ws2:6", 1), "home", "ws2"));
	seeds[0] = (struct fuzz_seed){home, strlen(home)};
	seeds[1] = (struct fuzz_seed){guest, strlen(guest)};
	seeds[2] = (struct fuzz_seed){"", 0};
	seeds[3] = (struct fuzz_seed){home, strcspn(home, "\n")};
	r = fuzz_main(argc, argv, "journal", seeds, ARRAY_SIZE(seeds), NULL, one);
	unlink(path);
	rmdir(dir);
	return r;
}
