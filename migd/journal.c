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
#include "conf/io.h"
#include "conf/log.h"

enum { GROWN = 1 << 20, GROWN_TIMES = 4 }; /* written anew when so much has been added, and the file is so many times what was live then */

struct journal {
	pthread_mutex_t lock; /* all below */
	char *path;
	int fd;	   /* O_APPEND */
	bool torn; /* a write failed half way: a newline goes before the next record, so that only the torn one is lost */
	size_t live, added; /* bytes: of the file when it was written anew, and since */
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

json_t *journal_bytes(const void *p, size_t n)
{
	_cleanup_free_ char *hex = malloc(2 * n + 1);

	if (!hex)
		return NULL;
	hex[0] = 0;
	for (size_t i = 0; i < n; i++)
		sprintf(hex + 2 * i, "%02x", ((const unsigned char *)p)[i]);
	return json_string(hex);
}

static int nibble(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

ssize_t journal_get_bytes(const json_t *r, const char *key, void *p, size_t max)
{
	const char *hex = json_string_value(json_object_get(r, key));
	size_t n = hex ? strlen(hex) / 2 : 0;

	if (!hex || n > max)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		int high = nibble(hex[2 * i]), low = nibble(hex[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		((unsigned char *)p)[i] = (unsigned char)(high << 4 | low);
	}
	return (ssize_t)n;
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
	return is_type(r, "guest") || is_type(r, "drop") || is_type(r, "heard") || is_type(r, "adopted");
}

static bool same_family(const json_t *a, const json_t *b)
{
	return !strcmp(json_string_value(json_object_get(a, "f")), json_string_value(json_object_get(b, "f")));
}

static json_int_t seq_of(const json_t *r)
{
	return json_integer_value(json_object_get(r, "seq"));
}

/* Does the later record `n` make `o` superfluous? */
static bool supersedes(const json_t *n, const json_t *o)
{
	if (!same_family(n, o))
		return false;
	if (is_guest_record(n) != is_guest_record(o))
		return false;
	if (is_type(n, "end") || is_type(n, "drop") || is_type(n, "guest") || is_type(n, "adopted"))
		return true;
	if (is_type(n, "heard"))
		return is_type(o, "heard");
	if (is_type(n, "sig")) /* of a thread the last one is kept, to be known if it is told again */
		return is_type(o, "sig") && json_is_true(json_object_get(o, "done")) && json_equal(json_object_get(o, "taker"), json_object_get(n, "taker"));
	if (is_type(n, "call")) /* a ring: the newer one has its place, or is its result */
		return is_type(o, "call") && json_equal(json_object_get(o, "place"), json_object_get(n, "place"));
	if (is_type(o, "sig") || is_type(o, "call"))
		return false; /* what becomes of the family's moves is nothing to the signals that it has been sent, nor to the calls it makes */
	if (is_type(n, "rep"))
		return false;
	if (is_type(o, "rep")) /* whoever decides for another generation has carried out all reports of this one */
		return !is_type(n, "move") && !is_type(n, "abort") && json_integer_value(json_object_get(o, "g")) < json_integer_value(json_object_get(n, "g"));
	if (is_type(n, "away"))
		return true; /* DONE: what led to it is no longer needed */
	if (is_type(n, "abort")) /* takes back the attempt, not what the family was before it */
		return json_integer_value(json_object_get(o, "g")) == json_integer_value(json_object_get(n, "g")) && !is_type(o, "away");
	return is_type(n, "move") && (is_type(o, "move") || is_type(o, "abort"));
}

/* Reports up to this one have been carried out. */
static void reports_done(json_t *live, const json_t *done)
{
	for (size_t i = json_array_size(live); i-- > 0;) {
		const json_t *o = json_array_get(live, i);

		if (is_type(o, "rep") && same_family(done, o) && json_equal(json_object_get(o, "g"), json_object_get(done, "g")) && seq_of(o) <= seq_of(done))
			json_array_remove(live, i);
	}
}

/* Signals up to this one have arrived. */
static void signals_done(json_t *live, const json_t *done)
{
	json_t *o;
	size_t i;

	json_array_foreach(live, i, o)
		if (is_type(o, "sig") && same_family(done, o) && seq_of(o) <= seq_of(done))
			json_object_set_new(o, "done", json_true());
}

static void keep_live(json_t *live, json_t *r)
{
	if (is_type(r, "sigdone") || is_type(r, "repdone")) {
		if (is_type(r, "sigdone"))
			signals_done(live, r);
		else
			reports_done(live, r);
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

/* All whole records of the file, in order, reduced to what is live. Lines that are no records are passed over, and counted; the last one may be half written. */
static int read_live(const char *path, json_t *live, size_t *damaged, struct error *e)
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
		else
			++*damaged;
	}
	return ferror(f) ? error_set(e, EIO, "%s: cannot read the journal", path) : 0;
}

/* *bytes grows by what was written. */
static int append_record(int fd, const json_t *r, size_t *bytes)
{
	_cleanup_free_ char *line = journal_format(r);

	*bytes += line ? strlen(line) : 0;
	return line ? io_write_all(fd, line, strlen(line)) : -ENOMEM;
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

/* Writes the live records to a new file beside the old one and puts it in its place; returns the descriptor to append with. *bytes: its length. */
static int rewrite(const char *path, json_t *live, size_t *bytes, struct error *e)
{
	_cleanup_free_ char *tmp = NULL;
	_cleanup_close_ int fd = -1;
	json_t *r;
	size_t i;
	int err = 0;

	*bytes = 0;
	if (asprintf(&tmp, "%s.new", path) < 0)
		return error_set(e, ENOMEM, "out of memory");
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(e, errno, "%s: cannot create: %m", tmp);
	json_array_foreach(live, i, r)
		if (!err)
			err = append_record(fd, r, bytes);
	if (!err && fsync(fd))
		err = -errno;
	if (!err && rename(tmp, path))
		err = -errno;
	if (!err && sync_dir_of(path)) /* a reboot may bring the old one back, and ends what it speaks of (boot id) */
		log_warn("%s: its directory cannot be synced: %s", path, strerror(errno));
	if (err)
		return error_set(e, -err, "%s: cannot write the journal: %s", tmp, strerror(-err));
	return steal_fd(&fd);
}

/* What a disk, or a hand, did to it is said, and left to look at: what is missing now may be all that was known of a family. */
static void keep_damaged(const char *path, size_t damaged)
{
	_cleanup_free_ char *kept = NULL;

	if (asprintf(&kept, "%s.damaged", path) < 0)
		return;
	unlink(kept);
	if (link(path, kept))
		kept[0] = 0;
	log_warn("%s: %zu of its lines are damaged, and passed over; what they told is not known any more%s%s", path, damaged, kept[0] ? "; all of it is kept as " : "", kept);
}

static void journal_free(struct journal *j)
{
	if (j->fd >= 0)
		close(j->fd);
	pthread_mutex_destroy(&j->lock);
	free(j->path);
	free(j);
}

int journal_open(const char *path, journal_fn live_fn, void *arg, struct journal **out, struct error *e)
{
	struct journal *j = calloc(1, sizeof(*j));
	json_t *live = json_array(), *r;
	size_t i, damaged = 0;
	int err;

	if (j) {
		j->fd = -1;
		pthread_mutex_init(&j->lock, NULL);
		j->path = strdup(path);
	}
	err = live && j && j->path ? read_live(path, live, &damaged, e) : error_set(e, ENOMEM, "out of memory");
	if (!err && damaged)
		keep_damaged(path, damaged);
	if (!err) {
		j->fd = rewrite(path, live, &j->live, e);
		err = j->fd < 0 ? j->fd : 0;
	}
	if (err) {
		if (j)
			journal_free(j);
	} else {
		*out = j;
		json_array_foreach(live, i, r)
			live_fn(arg, r);
	}
	json_decref(live);
	return err;
}

void journal_close(struct journal *j)
{
	if (j)
		journal_free(j);
}

/*
 * Lock held. Most of a long file is about what is over. If it cannot be written anew it stays as it is (both files are whole at any moment), and is tried again
 * when as much has been added once more.
 */
static void shorten(struct journal *j)
{
	json_t *live = json_array();
	struct error e = { 0 };
	size_t bytes, damaged = 0;
	int fd = live && !read_live(j->path, live, &damaged, &e) ? rewrite(j->path, live, &bytes, &e) : -1;

	j->added = 0;
	if (fd >= 0) {
		close(j->fd);
		j->fd = fd;
		j->live = bytes;
		j->torn = false;
	} else {
		log_warn("the journal stays as long as it is: %s", e.text);
	}
	json_decref(live);
}

/* Lock held. What was written of a record that failed, whole or torn, is taken out again: that needs no room. */
static int take_back(struct journal *j, off_t before, bool torn, int err)
{
	bool done = before >= 0 && !ftruncate(j->fd, before);

	j->torn = done ? torn : true;
	return done ? err : 1;
}

static int put(struct journal *j, json_t *record, bool sync)
{
	struct stat st;
	off_t before;
	bool torn;
	int err = 0;

	if (!record)
		return -ENOMEM;
	pthread_mutex_lock(&j->lock);
	before = fstat(j->fd, &st) ? -1 : st.st_size;
	torn = j->torn;
	if (j->torn)
		err = io_write_all(j->fd, "\n", 1);
	if (!err) {
		err = append_record(j->fd, record, &j->added);
		j->torn = j->torn && err;
	}
	if (!err && sync && fdatasync(j->fd))
		err = -errno;
	if (err)
		err = take_back(j, before, torn, err);
	if (!err && j->added > GROWN && j->added > GROWN_TIMES * j->live)
		shorten(j);
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
