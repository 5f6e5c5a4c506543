// SPDX-License-Identifier: Apache-2.0
/* What the client decides without a server: life of inodes, leases and void grants, absent names, which locks are held. */
#include <CUnit/Basic.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "fs/client/client.h"

#define ATTR  SPRITE__FS__LEASE_BITS__LEASE_ATTR
#define NAMES SPRITE__FS__LEASE_BITS__LEASE_NAMES
#define DATA  SPRITE__FS__LEASE_BITS__LEASE_DATA

static struct fs fs;
static struct server server = {.fs = &fs, .name = "fs1"};
static struct domain domain = {.prefix = "/", .server = &server, .id = 7};

static struct inode *look(const char *handle, mode_t mode)
{
	ProtobufCBinaryData h = {.len = strlen(handle), .data = (uint8_t *)handle};

	return inode_looked_up(&fs, &domain, &h, mode);
}

static void test_inodes(void)
{
	struct inode *a = look("one", S_IFREG), *b = look("two", S_IFDIR);
	uint64_t id = a->id;

	CU_ASSERT_PTR_EQUAL(look("one", S_IFREG), a);
	CU_ASSERT(a->id != b->id);
	inode_forget(&fs, id, 1);
	CU_ASSERT_PTR_EQUAL(inode_get(&fs, id), a); /* one lookup is left, and now a reference */
	inode_forget(&fs, id, 1);
	CU_ASSERT_EQUAL(inode_count(&fs), 3); /* held by the reference */
	inode_put(&fs, a);
	CU_ASSERT_EQUAL(inode_count(&fs), 2);
	a = look("one", S_IFREG);
	CU_ASSERT(a->id != id); /* an id is never used twice */
	CU_ASSERT(look("one", S_IFIFO) != a); /* nor does a type change under the kernel */
}

static void test_show_ino(void)
{
	struct domain other = {.prefix = "/src", .id = 99};

	fs.whole = true;
	CU_ASSERT_EQUAL(inode_show_ino(&fs, &domain, 12), 12);
	CU_ASSERT(inode_show_ino(&fs, &other, 12) != 12);
	CU_ASSERT((inode_show_ino(&fs, &other, 12) & 0xffffffff) == 12);
	fs.whole = false;
	CU_ASSERT_EQUAL(inode_show_ino(&fs, &other, 12), 12);
	fs.whole = true;
}

static void test_leases(void)
{
	struct inode *f = look("leased", S_IFREG), *young;
	Sprite__Fs__Attr a = SPRITE__FS__ATTR__INIT;
	struct stat st;

	server.leasing = false;
	CU_ASSERT_EQUAL(lease_take(f, ATTR, 5), 0); /* not known to the server: nothing counts */
	server.leasing = true;
	CU_ASSERT_EQUAL(lease_take(f, ATTR | DATA, 5), ATTR | DATA);
	a.mode = S_IFREG | 0644;
	a.size = 10;
	a.change = 100;
	lease_keep_attr(&fs, f, &a, ATTR);
	CU_ASSERT(lease_attr(&fs, f, &st));
	CU_ASSERT_EQUAL(st.st_size, 10);
	a.size = 9;
	a.change = 99; /* a reply that was overtaken */
	lease_keep_attr(&fs, f, &a, ATTR);
	CU_ASSERT(lease_attr(&fs, f, &st));
	CU_ASSERT_EQUAL(st.st_size, 10);
	a.change = 101;
	lease_keep_attr(&fs, f, &a, 0); /* its grant is void: it may be of before another client's change, but what is of a lower one is over */
	CU_ASSERT_FALSE(lease_attr(&fs, f, &st));
	a.change = 100; /* of before, and late */
	lease_keep_attr(&fs, f, &a, ATTR);
	CU_ASSERT_FALSE(lease_attr(&fs, f, &st));
	a.change = 101;
	lease_keep_attr(&fs, f, &a, ATTR);
	CU_ASSERT(lease_attr(&fs, f, &st));
	CU_ASSERT_EQUAL(st.st_size, 9);
	lease_forget_attr(f);
	CU_ASSERT_FALSE(lease_attr(&fs, f, &st));

	f->recalled_seq = 8; /* a recall that the next reply has crossed */
	f->lease = 0;
	CU_ASSERT_EQUAL(lease_take(f, ATTR, 8), 0);
	CU_ASSERT_EQUAL(lease_take(f, ATTR, 7), 0);
	CU_ASSERT_EQUAL(lease_take(f, ATTR, 9), ATTR);

	server.recalled_seq = 20; /* of something not known here: of this, perhaps */
	young = look("young", S_IFREG);
	CU_ASSERT_EQUAL(lease_take(young, ATTR, 20), 0);
	CU_ASSERT_EQUAL(lease_take(young, ATTR, 21), ATTR);
	server.recalled_seq = 0;
}

static void test_mark(void)
{
	struct inode *d = look("marked", S_IFDIR);
	uint64_t mark;

	CU_ASSERT_FALSE(lease_held_since(d, lease_mark(d))); /* not held at all */
	lease_take(d, ATTR, 30);
	mark = lease_mark(d);
	CU_ASSERT(lease_held_since(d, mark));
	d->attr_recalls++; /* recalled and granted anew */
	CU_ASSERT_FALSE(lease_held_since(d, mark));
}

static void test_names(void)
{
	struct inode *d = look("dir", S_IFDIR);

	CU_ASSERT_FALSE(names_absent(d, "x")); /* nothing is known of it */
	names_begin_empty(d);
	CU_ASSERT_FALSE(names_absent(d, "x")); /* nor without a lease */
	fs.has_epoch = true;
	lease_take(d, NAMES, 40);
	names_begin_empty(d);
	CU_ASSERT(names_absent(d, "x"));
	names_add(d, "x");
	CU_ASSERT_FALSE(names_absent(d, "x"));
	CU_ASSERT(names_absent(d, "y"));
	d->lease = 0;
	CU_ASSERT_FALSE(names_absent(d, "y"));
}

static unsigned held(struct inode *f)
{
	struct list *l;
	unsigned n = 0;

	for (l = f->locks.next; l != &f->locks; l = l->next)
		n++;
	return n;
}

static void test_locks(void)
{
	struct inode *f = look("locked", S_IFREG);

	recover_note_lock(f, 1, false, F_WRLCK, 0, 99, 10, NULL);
	CU_ASSERT_EQUAL(held(f), 1);
	recover_note_lock(f, 1, false, F_UNLCK, 40, 49, 10, NULL); /* two ranges are left */
	CU_ASSERT_EQUAL(held(f), 2);
	recover_note_lock(f, 2, false, F_WRLCK, 40, 49, 11, NULL); /* another owner's */
	recover_note_lock(f, 1, true, F_WRLCK, 0, INT64_MAX, 10, NULL); /* a flock is no fcntl lock */
	CU_ASSERT_EQUAL(held(f), 4);
	recover_note_lock(f, 1, false, F_RDLCK, 0, INT64_MAX, 10, NULL); /* takes the place of both */
	CU_ASSERT_EQUAL(held(f), 3);
	recover_note_lock(f, 1, false, F_UNLCK, 0, INT64_MAX, 10, NULL);
	recover_note_lock(f, 2, false, F_UNLCK, 0, INT64_MAX, 11, NULL);
	CU_ASSERT_EQUAL(held(f), 1);
	recover_note_lock(f, 1, true, F_UNLCK, 0, INT64_MAX, 10, NULL);
	CU_ASSERT_EQUAL(held(f), 0);
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	inode_table_init(&fs);
	call_init(&fs);
	lease_init(&fs);
	look("root", S_IFDIR); /* the first one is the mount's root and stays */
	if (CU_initialize_registry() != CUE_SUCCESS || !(s = CU_add_suite("client", NULL, NULL)))
		return 1;
	CU_add_test(s, "inodes", test_inodes);
	CU_add_test(s, "numbers", test_show_ino);
	CU_add_test(s, "leases", test_leases);
	CU_add_test(s, "marks", test_mark);
	CU_add_test(s, "names", test_names);
	CU_add_test(s, "locks", test_locks);
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? 1 : 0;
}
