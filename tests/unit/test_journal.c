// SPDX-License-Identifier: Apache-2.0
/* The journal of migd: what was written is found again, a torn or damaged record is not, and what is over does not stay. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "migd/journal.h"

static char dir[] = "/tmp/test_journal.XXXXXX", path[64];

static void collect(void *arg, json_t *r)
{
	json_array_append(arg, r);
}

static json_t *reopen(struct journal **j)
{
	json_t *live = json_array();
	struct error e = { 0 };

	CU_ASSERT_EQUAL_FATAL(journal_open(path, collect, live, j, &e), 0);
	return live;
}

/* A journal with nothing in it. */
static struct journal *fresh(void)
{
	struct journal *j;

	unlink(path);
	json_decref(reopen(&j));
	return j;
}

static json_t *close_and_reopen(struct journal **j)
{
	journal_close(*j);
	return reopen(j);
}

static void end(struct journal *j, json_t *live)
{
	json_decref(live);
	journal_close(j);
}

static void put(struct journal *j, const char *type, const char *family, int gen)
{
	CU_ASSERT_EQUAL(journal_write(j, journal_record(type, family, gen)), 0);
}

static const char *field(json_t *live, size_t i, const char *key)
{
	const char *s = json_string_value(json_object_get(json_array_get(live, i), key));

	return s ? s : "";
}

static void test_found_again(void)
{
	struct journal *j = fresh();

	put(j, "away", "ws1.1", 3);
	put(j, "move", "ws1.1", 4);
	put(j, "commit", "ws1.1", 4);
	put(j, "guest", "ws2.9", 1);

	json_t *live = close_and_reopen(&j);
	CU_ASSERT_EQUAL_FATAL(json_array_size(live), 4);
	CU_ASSERT_STRING_EQUAL(field(live, 0, "t"), "away");
	CU_ASSERT_STRING_EQUAL(field(live, 2, "t"), "commit");
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(json_array_get(live, 2), "g")), 4);
	CU_ASSERT_STRING_EQUAL(field(live, 3, "f"), "ws2.9");
	end(j, live);
}

static void put_signal(struct journal *j, const char *type, int seq, int taker)
{
	json_t *r = journal_record(type, "ws1.1", 3);

	json_object_set_new(r, "seq", json_integer(seq));
	json_object_set_new(r, "taker", json_integer(taker));
	CU_ASSERT_EQUAL(journal_note(j, r), 0);
}

/* What has not arrived is found again, whatever moves come between; of each thread the last one stays, marked, until the family is over. */
static void test_signals(void)
{
	struct journal *j = fresh();
	json_t *live;

	put(j, "away", "ws1.1", 3);
	put_signal(j, "sig", 10, 100);
	put_signal(j, "sigdone", 10, 0);
	put_signal(j, "sig", 11, 100);
	put_signal(j, "sig", 12, 101);
	put_signal(j, "sigdone", 11, 0);
	put_signal(j, "sig", 13, 100);
	put(j, "move", "ws1.1", 4);
	put(j, "commit", "ws1.1", 4);
	put(j, "away", "ws1.1", 4);
	for (int i = 0; i < 2; i++) { /* the second time from what the first has written anew */
		int done = 0, n = 0;

		live = close_and_reopen(&j);
		for (size_t k = 0; k < json_array_size(live); k++)
			if (!strcmp(field(live, k, "t"), "sig")) {
				n++;
				done += json_is_true(json_object_get(json_array_get(live, k), "done"));
			}
		CU_ASSERT_EQUAL(n, 2); /* 12 and 13: 10 and 11 have arrived, and their thread has taken another one since */
		CU_ASSERT_EQUAL(done, 0);
		json_decref(live);
	}
	put_signal(j, "sigdone", 13, 0);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL(json_array_size(live), 3);
	CU_ASSERT_TRUE(json_is_true(json_object_get(json_array_get(live, 0), "done")));
	json_decref(live);
	put(j, "end", "ws1.1", 4);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL(json_array_size(live), 0);
	end(j, live);
}

static size_t count(json_t *live, const char *type)
{
	size_t n = 0;

	for (size_t i = 0; i < json_array_size(live); i++)
		n += !strcmp(field(live, i, "t"), type);
	return n;
}

/* A report that was answered stays until it has been carried out, or its family has been decided for elsewhere: that came after it. */
static void test_reports(void)
{
	struct journal *j = fresh();
	json_t *live;

	put(j, "away", "ws1.1", 3);
	put_signal(j, "rep", 10, 0);
	put_signal(j, "rep", 11, 0);
	put(j, "away", "ws1.1", 3); /* with a birth */
	put_signal(j, "repdone", 10, 0);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL(count(live, "rep"), 1);
	CU_ASSERT_EQUAL(count(live, "away"), 1);
	json_decref(live);
	put(j, "move", "ws1.1", 4);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL(count(live, "rep"), 1);
	json_decref(live);
	put(j, "commit", "ws1.1", 4);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL(count(live, "rep"), 0);
	CU_ASSERT_EQUAL(count(live, "commit"), 1);
	json_decref(live);
	put_signal(j, "rep", 12, 0);
	put(j, "end", "ws1.1", 4);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL(json_array_size(live), 0);
	end(j, live);
}

static void put_call(struct journal *j, int place, int id)
{
	json_t *r = journal_record("call", "ws1.1", 3);

	json_object_set_new(r, "place", json_integer(place));
	json_object_set_new(r, "id", json_integer(id));
	CU_ASSERT_EQUAL(journal_note(j, r), 0);
}

/* Of each place the last, over moves too. */
static void test_calls(void)
{
	struct journal *j = fresh();
	json_t *live;

	put(j, "away", "ws1.1", 3);
	put_call(j, 0, 7);
	put_call(j, 1, 8);
	put_call(j, 0, 9);
	put(j, "away", "ws1.1", 4);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL_FATAL(json_array_size(live), 3);
	CU_ASSERT_EQUAL(count(live, "call"), 2);
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(json_array_get(live, 0), "id")), 8);
	end(j, live);
}

static void test_bytes(void)
{
	const unsigned char in[3] = { 0, 255, 16 };
	unsigned char out[4] = "";
	json_t *r = json_object();

	json_object_set_new(r, "b", journal_bytes(in, sizeof(in)));
	json_object_set_new(r, "bad", json_string("0g"));
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(r, "b")), "00ff10");
	CU_ASSERT_EQUAL(journal_get_bytes(r, "b", out, sizeof(out)), 3);
	CU_ASSERT_EQUAL(memcmp(in, out, 3), 0);
	CU_ASSERT_EQUAL(journal_get_bytes(r, "b", out, 2), -EINVAL);
	CU_ASSERT_EQUAL(journal_get_bytes(r, "bad", out, sizeof(out)), -EINVAL);
	CU_ASSERT_EQUAL(journal_get_bytes(r, "none", out, sizeof(out)), -EINVAL);
	json_decref(r);
}

/* A journal that is written for long does not grow for ever, and what is live is there at any length. */
static void test_stays_short(void)
{
	struct journal *j = fresh();
	struct stat st;
	off_t longest = 0;
	json_t *live;

	put(j, "away", "stays", 1);
	for (int i = 1; i <= 40000; i++) {
		json_t *r = journal_record("away", "other", i);

		json_object_set_new(r, "state", json_string("a state that takes up some room in the file, as those of the engine do, so that it gets long"));
		CU_ASSERT_EQUAL(journal_note(j, r), 0);
		if (i % 100 == 0 && !stat(path, &st) && st.st_size > longest)
			longest = st.st_size;
	}
	CU_ASSERT_TRUE(longest > 1 << 19);
	CU_ASSERT_TRUE(longest < 2 << 20);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL_FATAL(json_array_size(live), 2);
	CU_ASSERT_STRING_EQUAL(field(live, 0, "f"), "stays");
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(json_array_get(live, 1), "g")), 40000);
	end(j, live);
}

/* A full disk: what did not fit is not there, what comes when there is room again is. */
static void test_full_disk(void)
{
	struct journal *j = fresh();
	struct rlimit was, full;
	json_t *live, *r = journal_record("commit", "a", 2);
	struct stat st;

	signal(SIGXFSZ, SIG_IGN);
	json_object_set_new(r, "state", json_string("longer than what is left"));
	put(j, "away", "a", 1);
	CU_ASSERT_EQUAL_FATAL(stat(path, &st), 0);
	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_FSIZE, &was), 0);
	full = was;
	full.rlim_cur = st.st_size + 10;
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &full), 0);
	CU_ASSERT_EQUAL(journal_write(j, r), -EFBIG);
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &was), 0);
	put(j, "move", "a", 3);
	live = close_and_reopen(&j);
	CU_ASSERT_EQUAL_FATAL(json_array_size(live), 2);
	CU_ASSERT_STRING_EQUAL(field(live, 0, "t"), "away");
	CU_ASSERT_STRING_EQUAL(field(live, 1, "t"), "move");
	end(j, live);
}

static void test_over_is_forgotten(void)
{
	struct journal *j = fresh();

	put(j, "move", "a", 1);
	put(j, "commit", "a", 1);
	put(j, "away", "a", 1);
	put(j, "move", "b", 1);
	put(j, "end", "b", 1);
	put(j, "guest", "c", 1);
	put(j, "drop", "c", 1);
	json_t *live = close_and_reopen(&j);
	CU_ASSERT_EQUAL_FATAL(json_array_size(live), 1);
	CU_ASSERT_STRING_EQUAL(field(live, 0, "t"), "away");
	end(j, live);
}

static void test_abort_takes_back_a_commit(void)
{
	struct journal *j = fresh();

	put(j, "away", "a", 1);
	put(j, "move", "a", 2);
	put(j, "commit", "a", 2);
	put(j, "abort", "a", 2);
	json_t *live = close_and_reopen(&j);
	CU_ASSERT_EQUAL_FATAL(json_array_size(live), 1);
	CU_ASSERT_STRING_EQUAL(field(live, 0, "t"), "away");
	end(j, live);
}

/* Home and guest records of one family do not touch each other (a family may be guest of its own home's neighbour in a test bed of one host). */
static void test_roles_apart(void)
{
	struct journal *j = fresh();

	put(j, "away", "a", 1);
	put(j, "guest", "a", 1);
	put(j, "drop", "a", 1);
	json_t *live = close_and_reopen(&j);
	CU_ASSERT_EQUAL(json_array_size(live), 1);
	end(j, live);
}

/* Cut the file at every length: the records before the cut are found, never a wrong one, and what is written after is found as well. */
static void test_torn_anywhere(void)
{
	struct stat st;
	struct journal *j = fresh();

	put(j, "guest", "one", 1);
	put(j, "guest", "two", 2);
	put(j, "guest", "three", 3);
	journal_close(j);
	CU_ASSERT_EQUAL_FATAL(stat(path, &st), 0);
	char *whole = malloc(st.st_size);
	int fd = open(path, O_RDONLY);
	CU_ASSERT_EQUAL_FATAL(read(fd, whole, st.st_size), st.st_size);
	close(fd);
	for (off_t cut = 0; cut <= st.st_size; cut++) {
		size_t lines = 0;

		for (off_t i = 0; i < cut; i++)
			lines += whole[i] == '\n';
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		CU_ASSERT_EQUAL_FATAL(write(fd, whole, cut), cut);
		close(fd);
		json_t *live = reopen(&j);
		CU_ASSERT_EQUAL(json_array_size(live), lines);
		put(j, "guest", "late", 9);
		journal_close(j);
		json_decref(live);
		live = reopen(&j);
		CU_ASSERT_EQUAL(json_array_size(live), lines + 1);
		CU_ASSERT_STRING_EQUAL(field(live, lines, "f"), "late");
		journal_close(j);
		json_decref(live);
	}
	free(whole);
}

/* Any single flipped bit makes the record invalid. */
static void test_damage_is_seen(void)
{
	json_t *r = journal_record("commit", "ws1.abc.1", 17);
	char *line = journal_format(r);
	size_t n = strlen(line) - 1;
	json_t *back = journal_parse(line, n);

	CU_ASSERT_PTR_NOT_NULL(back);
	json_decref(back);
	for (size_t bit = 0; bit < n * 8; bit++) {
		line[bit / 8] ^= 1 << bit % 8;
		back = journal_parse(line, n);
		CU_ASSERT_PTR_NULL(back);
		json_decref(back);
		line[bit / 8] ^= 1 << bit % 8;
	}
	free(line);
	json_decref(r);
	CU_ASSERT_PTR_NULL(journal_parse("", 0));
	CU_ASSERT_PTR_NULL(journal_parse("00000000 ", 9));
}

static void test_failed_write_is_told(void)
{
	struct journal *j;
	struct error e = { 0 };

	CU_ASSERT_TRUE(journal_open("/nonexistent/dir/journal", collect, NULL, &j, &e) < 0);
	CU_ASSERT_TRUE(e.text[0] != 0);
}

int main(void)
{
	CU_pSuite s;

	if (!mkdtemp(dir) || CU_initialize_registry() != CUE_SUCCESS)
		return 2;
	snprintf(path, sizeof(path), "%s/journal", dir);
	s = CU_add_suite("journal", NULL, NULL);
	CU_add_test(s, "records are found again in order", test_found_again);
	CU_add_test(s, "signals are found again until they have arrived", test_signals);
	CU_add_test(s, "an answered report stays until it is carried out", test_reports);
	CU_add_test(s, "calls keep their places", test_calls);
	CU_add_test(s, "bytes", test_bytes);
	CU_add_test(s, "it stays short", test_stays_short);
	CU_add_test(s, "a full disk", test_full_disk);
	CU_add_test(s, "what is over is forgotten", test_over_is_forgotten);
	CU_add_test(s, "an abort takes a commit back", test_abort_takes_back_a_commit);
	CU_add_test(s, "home and guest records are apart", test_roles_apart);
	CU_add_test(s, "torn at any byte", test_torn_anywhere);
	CU_add_test(s, "a flipped bit is seen", test_damage_is_seen);
	CU_add_test(s, "a failed open is told", test_failed_write_is_told);
	CU_basic_run_tests();
	unlink(path);
	rmdir(dir);
	return CU_get_number_of_failures() ? 1 : 0;
}
