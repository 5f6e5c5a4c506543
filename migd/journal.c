// SPDX-License-Identifier: Apache-2.0
/* Append-only journal with a sum per record; see journal.h for the format. One lock serialises writers. */
#include "migd/journal.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"

struct journal {
	pthread_mutex_t lock;
	int fd;	   /* O_APPEND */
	bool torn; /* a write failed half way: a newline goes before the next record, so that only the torn one is lost */
};

static uint32_t crc32_of(const char *p, size_t n)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < n; i++) {
		crc ^= (unsigned char)p[i];
		for (int k = 0; k < 8; k++)
			crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
	}
	return ~crc;
}

json_t *journal_record(const char *type, const char *family, uint64_t gen)
{
	return json_pack("{s:s, s:s, s:I}", "t", type, "f", family, "g", (json_int_t)gen);
}

char *journal_format(const json_t *record)
{
	_cleanup_free_ char *text = json_dumps(record, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENSURE_ASCII);
	char *line;

	if (!text || asprintf(&line, "%08x %s\n", crc32_of(text, strlen(text)), text) < 0)
		return NULL;
	return line;
}

json_t *journal_parse(const char *line, size_t len)
{
	char sum[9] = "";
	json_t *r;
	char *end;

	if (len < 11 || line[8] != ' ')
		return NULL;
	memcpy(sum, line, 8);
	if (strspn(sum, "0123456789abcdef") != 8 || strtoul(sum, &end, 16) != crc32_of(line + 9, len - 9))
		return NULL;
	r = json_loadb(line + 9, len - 9, JSON_REJECT_DUPLICATES, NULL);
	if (r && (!json_is_string(json_object_get(r, "t")) || !json_is_string(json_object_get(r, "f")) || !json_is_integer(json_object_get(r, "g")))) {
		json_decref(r);
		return NULL;
	}
	return r;
}

static bool is_type(const json_t *r, const char *t)
{
	return !strcmp(json_string_value(json_object_get(r, "t")), t);
}

static bool is_guest_record(const json_t *r)
{
	return is_type(r, "guest") || is_type(r, "drop") || is_type(r, "heard");
}

/* Does the later record `n` make `o` superfluous? */
static bool supersedes(const json_t *n, const json_t *o)
{
	if (strcmp(json_string_value(json_object_get(n, "f")), json_string_value(json_object_get(o, "f"))))
		return false;
	if (is_guest_record(n) != is_guest_record(o))
		return false;
	if (is_type(n, "end") || is_type(n, "drop") || is_type(n, "guest"))
		return true;
	if (is_type(n, "heard"))
		return is_type(o, "heard");
	if (is_type(n, "sig")) /* of a thread the last one is kept, to be known if it is told again */
		return is_type(o, "sig") && json_is_true(json_object_get(o, "done")) && json_equal(json_object_get(o, "taker"), json_object_get(n, "taker"));
	if (is_type(o, "sig"))
		return false; /* what becomes of the family's moves is nothing to the signals that it has been sent */
	if (is_type(n, "away"))
		return true; /* DONE: what led to it is no longer needed */
	if (is_type(n, "abort")) /* takes back the attempt, not what the family was before it */
		return json_integer_value(json_object_get(o, "g")) == json_integer_value(json_object_get(n, "g")) && !is_type(o, "away");
	return is_type(n, "move") && (is_type(o, "move") || is_type(o, "abort"));
}

/* Signals up to this one have arrived. */
static void signals_done(json_t *live, const json_t *done)
{
	json_t *o;
	size_t i;

	json_array_foreach(live, i, o)
		if (is_type(o, "sig") && !strcmp(json_string_value(json_object_get(done, "f")), json_string_value(json_object_get(o, "f"))) &&
			json_integer_value(json_object_get(o, "seq")) <= json_integer_value(json_object_get(done, "seq")))
			json_object_set_new(o, "done", json_true());
}

static void keep_live(json_t *live, json_t *r)
{
	if (is_type(r, "sigdone")) {
		signals_done(live, r);
		json_decref(r);
		return;
	}
	for (size_t i = json_array_size(live); i-- > 0;)
		if (supersedes(r, json_array_get(live, i)))
			json_array_remove(live, i);
	if (is_type(r, "end") || is_type(r, "drop") || is_type(r, "abort"))
		json_decref(r);
	else
		json_array_append_new(live, r);
}

/* All whole records of the file, in order, reduced to what is live. Lines that are no records (torn writes) are passed over. */
static int read_live(const char *path, json_t *live, struct error *e)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	_cleanup_free_ char *line = NULL;
	size_t cap = 0;
	ssize_t n;

	if (!f)
		return errno == ENOENT ? 0 : error_set(e, errno, "%s: cannot read the journal: %m", path);
	while ((n = getline(&line, &cap, f)) > 0) {
		json_t *r;

		if (line[n - 1] != '\n')
			break;
		r = journal_parse(line, n - 1);
		if (r)
			keep_live(live, r);
	}
	return ferror(f) ? error_set(e, EIO, "%s: cannot read the journal", path) : 0;
}

static int write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t k = write(fd, p, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return k ? -errno : -EIO;
		p += k;
		n -= k;
	}
	return 0;
}

static int append_record(int fd, const json_t *r)
{
	_cleanup_free_ char *line = journal_format(r);

	return line ? write_all(fd, line, strlen(line)) : -ENOMEM;
}

static int sync_dir_of(const char *path)
{
	_cleanup_free_ char *dir = strdup(path);
	_cleanup_close_ int fd = -1;
	char *slash;

	if (!dir)
		return -ENOMEM;
	slash = strrchr(dir, '/');
	if (slash)
		*slash = 0;
	fd = open(slash ? (*dir ? dir : "/") : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) ? -errno : 0;
}

/* Writes the live records to a new file beside the old one and puts it in its place; returns the descriptor to append with. */
static int rewrite(const char *path, json_t *live, struct error *e)
{
	_cleanup_free_ char *tmp = NULL;
	_cleanup_close_ int fd = -1;
	json_t *r;
	size_t i;
	int err = 0;

	if (asprintf(&tmp, "%s.new", path) < 0)
		return error_set(e, ENOMEM, "out of memory");
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(e, errno, "%s: cannot create: %m", tmp);
	json_array_foreach(live, i, r)
		if (!err)
			err = append_record(fd, r);
	if (!err && fsync(fd))
		err = -errno;
	if (!err && rename(tmp, path))
		err = -errno;
	if (!err)
		err = sync_dir_of(path);
	if (err)
		return error_set(e, -err, "%s: cannot write the journal: %s", tmp, strerror(-err));
	return steal_fd(&fd);
}

int journal_open(const char *path, journal_fn live_fn, void *arg, struct journal **out, struct error *e)
{
	json_t *live = json_array();
	struct journal *j = NULL;
	int fd, err;
	size_t i;
	json_t *r;

	err = live ? read_live(path, live, e) : error_set(e, ENOMEM, "out of memory");
	if (err)
		goto out;
	fd = rewrite(path, live, e);
	if (fd < 0) {
		err = fd;
		goto out;
	}
	j = calloc(1, sizeof(*j));
	if (!j) {
		close(fd);
		err = error_set(e, ENOMEM, "out of memory");
		goto out;
	}
	pthread_mutex_init(&j->lock, NULL);
	j->fd = fd;
	*out = j;
	json_array_foreach(live, i, r)
		live_fn(arg, r);
out:
	json_decref(live);
	return err;
}

void journal_close(struct journal *j)
{
	if (!j)
		return;
	close(j->fd);
	pthread_mutex_destroy(&j->lock);
	free(j);
}

static int put(struct journal *j, json_t *record, bool sync)
{
	int err = 0;

	if (!record)
		return -ENOMEM;
	pthread_mutex_lock(&j->lock);
	if (j->torn)
		err = write_all(j->fd, "\n", 1);
	if (!err) {
		err = append_record(j->fd, record);
		j->torn = err != 0;
	}
	if (!err && sync && fdatasync(j->fd))
		err = -errno;
	pthread_mutex_unlock(&j->lock);
	json_decref(record);
	return err;
}

int journal_write(struct journal *j, json_t *record)
{
	return put(j, record, true);
}

int journal_note(struct journal *j, json_t *record)
{
	return put(j, record, false);
}
