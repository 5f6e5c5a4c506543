// SPDX-License-Identifier: Apache-2.0
/*
 * The file server as a hostile or clumsy client meets it. None may leave an export, act as root or as somebody else, use a forged handle or another's open, or
 * hold up others for ever.
 */
#include <sys/file.h>
#include "fs/refresh.h"
#include "fs/server/mounts.h"
#include "tests/unit/fsd_kit.h"

/* ---- staying inside ---------------------------------------------------------------------------------------- */

static void test_names(void)
{
	static const char *const bad[] = {"", ".", "..", "../outside", "open/..", "/etc", "a/b"};
	struct handle_copy root, h;
	char longname[300];

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		CU_ASSERT_EQUAL(lookup(0, 1000, &root, bad[i], &h), EINVAL);
		CU_ASSERT_EQUAL(make_dir(0, 1000, &root, bad[i]), EINVAL);
	}
	memset(longname, 'n', sizeof(longname));
	longname[256] = 0;
	CU_ASSERT_EQUAL(lookup(0, 1000, &root, longname, &h), ENAMETOOLONG);
	longname[255] = 0;
	CU_ASSERT_EQUAL(lookup(0, 1000, &root, longname, &h), ENOENT);
}

static void test_symlinks_lead_nowhere(void)
{
	struct handle_copy root, link, h;
	uint64_t id;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "escape", &link), 0);
	CU_ASSERT_EQUAL(lookup(0, 1000, &link, "secret", &h), ENOTDIR);
	CU_ASSERT_EQUAL(open_handle(0, 1000, &link, O_RDONLY, &id), ELOOP);
}

static void test_forged_handles(void)
{
	struct handle_copy root, secret, h;
	uint64_t id;
	int fd, mnt;
	struct {
		struct file_handle h;
		char room[128];
	} k = {.h.handle_bytes = 128};
	char *p = path_in("outside/secret");

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	/* a true kernel handle of a file outside, dressed as one of this export */
	CU_ASSERT_EQUAL_FATAL(name_to_handle_at(AT_FDCWD, p, &k.h, &mnt, 0), 0);
	secret = root;
	secret.b[1] = (uint8_t)k.h.handle_bytes;
	memcpy(secret.b + 20, k.h.f_handle, k.h.handle_bytes);
	secret.n = 20 + k.h.handle_bytes + 16;
	CU_ASSERT_EQUAL(open_handle(0, 1000, &secret, O_RDONLY, &id), ESTALE);
	for (size_t i = 0; i < root.n; i++) {
		h = root;
		h.b[i] ^= 0x40;
		CU_ASSERT_EQUAL(make_dir(0, 1000, &h, "x"), ESTALE);
	}
	h.n = 0;
	CU_ASSERT_EQUAL(make_dir(0, 1000, &h, "x"), ESTALE);
	fd = open(p, O_RDONLY);
	CU_ASSERT_TRUE(fd >= 0); /* it was there to be had */
	close(fd);
	free(p);
}

static void test_devices_stay_closed(void)
{
	struct handle_copy root, h;
	uint64_t id;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL(lookup(0, 0, &root, "null", &h), 0);
	CU_ASSERT_EQUAL(open_handle(0, 1000, &h, O_RDWR, &id), ENXIO);
	CU_ASSERT_EQUAL(lookup(0, 0, &root, "fifo", &h), 0);
	CU_ASSERT_EQUAL(open_handle(0, 1000, &h, O_RDONLY, &id), ENXIO);
}

/* ---- acting as the caller ------------------------------------------------------------------------------------ */

static void test_permissions(void)
{
	struct handle_copy root, roots, mine, exec;
	uint64_t id;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "roots", &roots), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &mine), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "run-only", &exec), 0);
	CU_ASSERT_EQUAL(open_handle(0, 1000, &roots, O_RDONLY, &id), EACCES);
	CU_ASSERT_EQUAL(open_handle(0, 0, &roots, O_RDONLY, &id), EACCES); /* squashed */
	CU_ASSERT_EQUAL(open_handle(0, 1000, &mine, O_RDWR, &id), 0);
	CU_ASSERT_EQUAL(open_handle(0, 1001, &mine, O_RDONLY, &id), EACCES);
	CU_ASSERT_EQUAL(chmod_handle(0, 1001, &mine, 0777), EPERM);
	CU_ASSERT_EQUAL(chmod_handle(0, 0, &mine, 0777), EPERM);
	CU_ASSERT_EQUAL(open_handle(0, 1000, &exec, O_RDONLY, &id), EACCES);
	CU_ASSERT_EQUAL(open_handle(0, 1000, &exec, O_RDONLY | 0x20, &id), 0); /* for execve */
	CU_ASSERT_EQUAL(open_handle(0, UINT32_MAX, &mine, O_RDONLY, &id), EACCES);
}

static void test_who_creates_owns(void)
{
	struct handle_copy root;
	struct stat st;
	char *p = path_in("export/open/made");
	struct handle_copy d;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "open", &d), 0);
	CU_ASSERT_EQUAL(make_dir(0, 1234, &d, "made"), 0);
	CU_ASSERT_EQUAL(stat(p, &st), 0);
	CU_ASSERT_EQUAL(st.st_uid, 1234);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0755); /* the caller's umask */
	CU_ASSERT_EQUAL(geteuid(), 0);
	free(p);
	p = path_in("export/open/by-root");
	CU_ASSERT_EQUAL(make_dir(0, 0, &d, "by-root"), 0);
	CU_ASSERT_EQUAL(stat(p, &st), 0);
	CU_ASSERT_EQUAL(st.st_uid, IDS_NOBODY);
	free(p);
}

static void test_no_cred(void)
{
	Sprite__Fs__LookupReq q = SPRITE__FS__LOOKUP_REQ__INIT;
	Sprite__Fs__SetattrReq s = SPRITE__FS__SETATTR_REQ__INIT;
	struct handle_copy root;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	q.dir = as_bytes(&root);
	q.name = "mine";
	CU_ASSERT_EQUAL(call(0, FS_LOOKUP, &q.base, NULL), EINVAL);
	s.handle = as_bytes(&root);
	CU_ASSERT_EQUAL(call(0, FS_SETATTR, &s.base, NULL), EINVAL);
}

static void test_exports(void)
{
	struct handle_copy ro, two, root, f;
	uint64_t id;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/ro", false, &ro), 0);
	CU_ASSERT_EQUAL(make_dir(0, 1000, &ro, "x"), EROFS);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &ro, "file", &f), 0);
	CU_ASSERT_EQUAL(open_handle(0, 1000, &f, O_WRONLY, &id), EROFS);
	CU_ASSERT_EQUAL(open_handle(0, 1000, &f, O_RDONLY, &id), 0);
	CU_ASSERT_EQUAL(attach(0, "/two", false, &two), EACCES);
	CU_ASSERT_EQUAL(attach(1, "/two", false, &two), 0);
	CU_ASSERT_EQUAL(lookup(0, 1000, &two, "secret", &f), EACCES); /* another's handle helps nobody */
	CU_ASSERT_EQUAL(lookup(1, 1000, &two, "secret", &f), 0);
	CU_ASSERT_EQUAL(attach(0, "/nowhere", false, &root), ENOENT);
}

/* errno; *n: how many answers there were. */
static int refresh(uint32_t uid, struct handle_copy **h, size_t nh, struct refresh_answer *a, size_t *n)
{
	Sprite__Fs__RefreshReq q = SPRITE__FS__REFRESH_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(uid);
	uint8_t bytes[1024], *p = bytes;
	struct iovec v = {bytes, 0};
	struct rpc_msg m;
	int r;

	q.cred = &c;
	for (size_t i = 0; i < nh; i++) {
		*p++ = (uint8_t)h[i]->n;
		memcpy(p, h[i]->b, h[i]->n);
		p += h[i]->n;
	}
	v.iov_len = (size_t)(p - bytes);
	CU_ASSERT_EQUAL_FATAL(rpc_call(ch[0], &fs_methods[FS_REFRESH], &q.base, &v, 1, 20000, &m), 0);
	r = m.err;
	*n = r ? 0 : m.bulk_len / sizeof(*a);
	if (!r && *n <= nh)
		rpc_msg_copy(&m, a, m.bulk_len);
	rpc_msg_clear(&m);
	return r;
}

static void test_refresh(void)
{
	struct handle_copy home, f, forged, root, *all[3] = {&home, &f, &forged}, *other[2] = {&home, &root};
	struct refresh_answer before[3], after[3];
	size_t n;
	char *p = path_in("home/file");

	CU_ASSERT_EQUAL(grants_add(&server.grants, "ws1", 1000, "f1", NULL, 0), 0);
	CU_ASSERT_EQUAL_FATAL(attach(0, "/hosts/fs1", false, &home), 0);
	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &home, "file", &f), 0);
	forged = f;
	forged.b[forged.n - 1] ^= 1;
	CU_ASSERT_EQUAL(refresh(1000, all, 3, before, &n), 0);
	CU_ASSERT_EQUAL_FATAL(n, 3);
	CU_ASSERT_TRUE(!before[0].err && !before[1].err && before[2].err == ESTALE);
	CU_ASSERT_TRUE(before[0].watched && before[1].watched && !before[2].watched);
	CU_ASSERT_EQUAL(chmod(p, 0640), 0);
	CU_ASSERT_EQUAL(refresh(1000, all, 3, after, &n), 0);
	CU_ASSERT_TRUE(after[0].ctime == before[0].ctime && after[0].change == before[0].change);
	CU_ASSERT_TRUE(after[1].ctime > before[1].ctime && after[1].change != before[1].change);
	CU_ASSERT_EQUAL(chmod(p, 0600), 0);
	CU_ASSERT_EQUAL(refresh(1000, all, 0, after, &n), 0);
	CU_ASSERT_EQUAL(n, 0);
	CU_ASSERT_EQUAL(refresh(1001, all, 3, after, &n), EACCES);   /* not hosted */
	CU_ASSERT_EQUAL(refresh(1000, other, 2, after, &n), EINVAL); /* of a home alone */
	CU_ASSERT_EQUAL(refresh(1000, other + 1, 1, after, &n), EINVAL);
	CU_ASSERT_EQUAL(grants_remove(&server.grants, "ws1", 1000, "f1"), 0);
	CU_ASSERT_EQUAL(refresh(1000, all, 3, after, &n), EACCES);
	free(p);
}

static void test_home(void)
{
	struct handle_copy home, f;
	struct stat st;
	uint64_t id;
	char *made;
	json_t *rows;
	Sprite__Fs__ReadReq rd = SPRITE__FS__READ_REQ__INIT;

	CU_ASSERT_EQUAL(attach(0, "/hosts/fs1", false, &home), EACCES);
	CU_ASSERT_EQUAL(grants_add(&server.grants, "ws1", 1000, "f1", NULL, 0), 0);
	CU_ASSERT_EQUAL_FATAL(attach(0, "/hosts/fs1", false, &home), 0);
	CU_ASSERT_EQUAL(attach(1, "/hosts/fs1", false, &f), EACCES);
	CU_ASSERT_EQUAL(lookup(0, 1001, &home, "file", &f), EACCES); /* not hosted */
	CU_ASSERT_EQUAL(lookup(0, 0, &home, "file", &f), 0); /* its root stands for who is hosted, */
	CU_ASSERT_EQUAL(make_dir(0, 0, &home, "made"), 0);
	made = path_in("home/made");
	CU_ASSERT_EQUAL(stat(made, &st), 0);
	CU_ASSERT_EQUAL(st.st_uid, 1000); /* and is nobody else here */
	free(made);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &home, "file", &f), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(0, 1000, &f, O_RDONLY, &id), 0);
	rd.handle = as_bytes(&f);
	rd.open = id;
	rd.size = 10;
	CU_ASSERT_EQUAL(call(0, FS_READ, &rd.base, NULL), 0);
	CU_ASSERT_EQUAL(grants_remove(&server.grants, "ws1", 1000, "f1"), 0);
	CU_ASSERT_EQUAL(call(0, FS_READ, &rd.base, NULL), EACCES); /* no longer than it hosts it */
	CU_ASSERT_EQUAL(lookup(0, 1000, &home, "file", &f), EACCES);
	/* the whole list: what is missing comes, what is not in it goes, whatever was there before */
	rows = json_pack("[{s:s, s:i, s:s}]", "host", "ws1", "uid", 1000, "family", "f2");
	CU_ASSERT_EQUAL(grants_add(&server.grants, "ws2", 1001, "f3", NULL, 0), 0);
	CU_ASSERT_EQUAL(grants_only(&server.grants, rows), 2);
	CU_ASSERT_EQUAL(grants_only(&server.grants, rows), 0);
	CU_ASSERT_EQUAL(call(0, FS_READ, &rd.base, NULL), 0);
	CU_ASSERT_FALSE(grants_host(&server.grants, "ws2"));
	json_array_append_new(rows, json_pack("{s:s, s:i}", "host", "ws2", "uid", 0));
	CU_ASSERT_EQUAL(grants_only(&server.grants, rows), -EINVAL); /* and nothing changed */
	json_array_clear(rows);
	CU_ASSERT_EQUAL(call(0, FS_READ, &rd.base, NULL), 0);
	CU_ASSERT_EQUAL(grants_only(&server.grants, rows), 1);
	CU_ASSERT_EQUAL(call(0, FS_READ, &rd.base, NULL), EACCES);
	json_decref(rows);
	/* root may be anybody, where root's guests may leave from; that host alone, and no longer */
	CU_ASSERT_EQUAL(grants_add(&server.grants, "ws1", 0, "f4", NULL, 0), 0);
	CU_ASSERT_EQUAL(lookup(0, 1001, &home, "file", &f), EACCES);
	server_conf.root_guests = true;
	CU_ASSERT_EQUAL(lookup(0, 1001, &home, "file", &f), 0);
	CU_ASSERT_EQUAL(grants_add(&server.grants, "ws2", 1000, "f5", NULL, 0), 0);
	CU_ASSERT_EQUAL(lookup(1, 1000, &home, "file", &f), 0);
	CU_ASSERT_EQUAL(lookup(1, 1001, &home, "file", &f), EACCES);
	CU_ASSERT_EQUAL(grants_remove(&server.grants, "ws2", 1000, "f5"), 0);
	CU_ASSERT_EQUAL(grants_remove(&server.grants, "ws1", 0, "f4"), 0);
	CU_ASSERT_EQUAL(lookup(0, 1001, &home, "file", &f), EACCES);
	server_conf.root_guests = false;
}

static void test_another_clients_open(void)
{
	Sprite__Fs__ReadReq rd = SPRITE__FS__READ_REQ__INIT;
	Sprite__Fs__CloseReq cl = SPRITE__FS__CLOSE_REQ__INIT;
	struct handle_copy root, f;
	uint64_t id;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &f), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(0, 1000, &f, O_RDONLY, &id), 0);
	rd.handle = as_bytes(&f);
	rd.open = cl.open = id;
	rd.size = 10;
	CU_ASSERT_EQUAL(call(1, FS_READ, &rd.base, NULL), FS_EREOPEN);
	CU_ASSERT_EQUAL(call(1, FS_CLOSE, &cl.base, NULL), FS_EREOPEN);
	CU_ASSERT_EQUAL(call(0, FS_READ, &rd.base, NULL), 0);
	CU_ASSERT_EQUAL(call(0, FS_CLOSE, &cl.base, NULL), 0);
	CU_ASSERT_EQUAL(call(0, FS_READ, &rd.base, NULL), FS_EREOPEN);
}

static void test_registration(void)
{
	Sprite__Fs__RegisterReq q = SPRITE__FS__REGISTER_REQ__INIT;
	Sprite__Fs__Prefix p = SPRITE__FS__PREFIX__INIT, *list[] = {&p};

	q.n_prefixes = 1;
	q.prefixes = list;
	p.host = "10.0.0.1";
	p.port = 7700;
	p.prefix = "/hosts/ws1";
	p.server = "ws1";
	p.home = true;
	CU_ASSERT_EQUAL(call(0, FS_REGISTER, &q.base, NULL), 0);
	CU_ASSERT_EQUAL(call(1, FS_REGISTER, &q.base, NULL), EPERM); /* another's */
	p.server = "ws2";
	CU_ASSERT_EQUAL(call(1, FS_REGISTER, &q.base, NULL), EPERM);
	p.prefix = "/mine-now";
	p.home = false;
	CU_ASSERT_EQUAL(call(1, FS_REGISTER, &q.base, NULL), EPERM); /* not among "servers" */
	p.prefix = "/hosts/../x";
	CU_ASSERT_EQUAL(call(1, FS_REGISTER, &q.base, NULL), EINVAL);
}

/* ---- leases ---------------------------------------------------------------------------------------------------- */

/* ws1 caches the attributes of `name`; ws2 begins to change them. */
static void chmod_begin(struct handle_copy *h, struct async *a, uint32_t mode)
{
	Sprite__Fs__SetattrReq q = SPRITE__FS__SETATTR_REQ__INIT;
	Sprite__Fs__Attr at = SPRITE__FS__ATTR__INIT;
	Sprite__Fs__Cred c = cred_of(1000);

	q.cred = &c;
	q.handle = as_bytes(h);
	q.valid = FS_SET_MODE;
	q.attr = &at;
	at.mode = mode;
	pthread_mutex_init(&a->lock, NULL);
	a->done = 0;
	rpc_call_async(ch[1], &fs_methods[FS_SETATTR], &q.base, NULL, 0, -1, async_done, a);
}

static void test_recall(void)
{
	struct handle_copy root, h;
	struct rpc_stream *s;
	struct async a;
	struct rpc_msg m;
	Sprite__Fs__EventAck ack = SPRITE__FS__EVENT_ACK__INIT;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", true, &root), 0);
	s = events_open(0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &h), 0);
	chmod_begin(&h, &a, 0640);
	CU_ASSERT_EQUAL_FATAL(rpc_stream_recv(s, &m, 60000), 1);
	CU_ASSERT_EQUAL(((Sprite__Fs__Event *)m.msg)->kind, SPRITE__FS__EVENT__KIND__RECALL);
	CU_ASSERT_EQUAL_FATAL(((Sprite__Fs__Event *)m.msg)->n_recalls, 1);
	CU_ASSERT_EQUAL(((Sprite__Fs__Event *)m.msg)->recalls[0]->handle.len, h.n);
	CU_ASSERT_FALSE(async_wait(&a, 200)); /* not before it was given back */
	ack.id = ((Sprite__Fs__Event *)m.msg)->id;
	rpc_msg_clear(&m);
	CU_ASSERT_EQUAL(rpc_stream_send(s, &ack.base, NULL, 0), 0);
	CU_ASSERT_TRUE(async_wait(&a, 60000));
	CU_ASSERT_EQUAL(a.err, 0);
	rpc_stream_cancel(s);
	rpc_stream_finish(s, 0);
}

/* A client that lives and calls, but never acknowledges: fenced, then given up. Time is turned on, not waited for. */
static void test_hostage(void)
{
	struct handle_copy root, h, h2;
	struct rpc_stream *s;
	struct async a;
	Sprite__Fs__RenewReq rn = SPRITE__FS__RENEW_REQ__INIT;
	struct rpc_msg m;
	uint64_t before;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", true, &root), 0);
	s = events_open(0);
	CU_ASSERT_EQUAL(call(0, FS_RENEW, &rn.base, &m), 0);
	before = ((Sprite__Fs__RenewRep *)m.msg)->lease_epoch;
	rpc_msg_clear(&m);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &h), 0);
	chmod_begin(&h, &a, 0600);
	CU_ASSERT_FALSE(async_wait(&a, 200));
	__atomic_add_fetch(&clock_ahead, CLIENT_TERM_NS + 1, __ATOMIC_RELAXED);
	fsd_tick(&server);
	CU_ASSERT_EQUAL(lookup(0, 1000, &root, "mine", &h2), ESTALE); /* fenced: what it caches may be stale soon */
	CU_ASSERT_EQUAL(call(0, FS_RENEW, &rn.base, NULL), ESTALE);
	CU_ASSERT_FALSE(async_wait(&a, 100));
	__atomic_add_fetch(&clock_ahead, CLIENT_TERM_NS + CLIENT_MARGIN_NS + 1, __ATOMIC_RELAXED);
	fsd_tick(&server);
	CU_ASSERT_TRUE(async_wait(&a, 60000));
	CU_ASSERT_EQUAL(a.err, 0);
	CU_ASSERT_EQUAL(call(0, FS_RENEW, &rn.base, &m), 0);
	CU_ASSERT_NOT_EQUAL(((Sprite__Fs__RenewRep *)m.msg)->lease_epoch, before);
	rpc_msg_clear(&m);
	rpc_stream_cancel(s);
	rpc_stream_finish(s, 0);
}

/* Locks of a client that is silent and in the way go; so do its open files. */
static void test_silent_locker(void)
{
	Sprite__Fs__LockReq q = SPRITE__FS__LOCK_REQ__INIT;
	struct handle_copy root, h;
	struct async a = {.done = 0};

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &h), 0);
	q.handle = as_bytes(&h);
	q.owner = 1;
	q.type = F_WRLCK;
	q.end = INT64_MAX;
	CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), 0);
	CU_ASSERT_EQUAL(call(1, FS_LOCK, &q.base, NULL), EAGAIN);
	q.wait = true;
	pthread_mutex_init(&a.lock, NULL);
	rpc_call_async(ch[1], &fs_methods[FS_LOCK], &q.base, NULL, 0, -1, async_done, &a);
	CU_ASSERT_FALSE(async_wait(&a, 200));
	__atomic_add_fetch(&clock_ahead, CLIENT_TERM_NS + CLIENT_MARGIN_NS + 1, __ATOMIC_RELAXED);
	q.wait = false;
	q.test = true;
	call(1, FS_LOCK, &q.base, NULL); /* ws2 is heard, ws1 is not */
	fsd_tick(&server);
	CU_ASSERT_TRUE(async_wait(&a, 60000));
	CU_ASSERT_EQUAL(a.err, 0);
}

/* In a home, on a local filesystem, the kernel holds the lock; only of what that client has open, for writing if that is locked. */
static void test_home_locks(void)
{
	struct mount_node *mount = server.exports.list[3].mounts[0];
	Sprite__Fs__LockReq q = SPRITE__FS__LOCK_REQ__INIT;
	struct handle_copy home, h;
	uint64_t reader, writer;
	char *p = path_in("home/file");
	int fd = open(p, O_RDWR | O_CLOEXEC);
	struct flock fl;
	bool was = mount->local;

	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL(grants_add(&server.grants, i ? "ws2" : "ws1", 1000, "f9", NULL, 0), 0);
	CU_ASSERT_EQUAL_FATAL(attach(0, "/hosts/fs1", false, &home), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &home, "file", &h), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(0, 1000, &h, O_RDONLY, &reader), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(0, 1000, &h, O_RDWR, &writer), 0);
	q.handle = as_bytes(&h);
	q.owner = 1;
	q.end = INT64_MAX;
	for (int local = 1; local >= 0; local--) {
		mount->local = local;
		q.type = F_WRLCK;
		q.open = 0;
		CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), local ? EBADF : 0);
		q.open = reader;
		CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), local ? EBADF : 0);
		q.open = writer;
		CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), 0);
		fl = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
		CU_ASSERT_EQUAL(fcntl(fd, F_OFD_GETLK, &fl), 0);
		CU_ASSERT_EQUAL(fl.l_type, local ? F_WRLCK : F_UNLCK); /* else nothing here is asked: the table has it */
		q.owner = 2;
		CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), EAGAIN);
		q.owner = 1;
		q.type = F_UNLCK;
		CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), 0);
		fl = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
		CU_ASSERT_EQUAL(fcntl(fd, F_OFD_GETLK, &fl), 0);
		CU_ASSERT_EQUAL(fl.l_type, F_UNLCK);
		q.owner = 2;
		q.type = F_WRLCK;
		CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), 0);
		q.type = F_UNLCK;
		CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), 0);
		q.owner = 1;
	}
	mount->local = was;
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL(grants_remove(&server.grants, i ? "ws2" : "ws1", 1000, "f9"), 0);
	close(fd);
	free(p);
}

static void test_cancelled_lock(void)
{
	Sprite__Fs__LockReq q = SPRITE__FS__LOCK_REQ__INIT;
	struct handle_copy root, h;
	struct async a = {.done = 0};

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &h), 0);
	q.handle = as_bytes(&h);
	q.owner = 7;
	q.type = F_WRLCK;
	q.end = INT64_MAX;
	q.flock = true;
	CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), 0);
	q.owner = 8;
	q.wait = true;
	q.ticket = 42;
	pthread_mutex_init(&a.lock, NULL);
	rpc_call_async(ch[0], &fs_methods[FS_LOCK], &q.base, NULL, 0, -1, async_done, &a);
	CU_ASSERT_FALSE(async_wait(&a, 100));
	q.cancel = true;
	CU_ASSERT_EQUAL(call(0, FS_LOCK, &q.base, NULL), 0);
	CU_ASSERT_TRUE(async_wait(&a, 60000));
	CU_ASSERT_EQUAL(a.err, EINTR);
}

static void test_listing(void)
{
	Sprite__Fs__ReaddirReq q = SPRITE__FS__READDIR_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct handle_copy root, d;
	bool end = false;
	int names = 0, calls = 0;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "open", &d), 0);
	for (int i = 0; i < 500; i++) {
		char name[200];

		snprintf(name, sizeof(name), "%0150d", i);
		CU_ASSERT_EQUAL(make_dir(0, 1000, &d, name), 0);
	}
	q.cred = &c;
	q.handle = as_bytes(&d);
	q.size = 16384;
	q.plus = true;
	while (!end && calls++ < 100) {
		struct rpc_msg m;
		uint8_t *b;
		struct fs_dirent e;
		size_t at = 0, k;

		CU_ASSERT_EQUAL_FATAL(call(0, FS_READDIR, &q.base, &m), 0);
		b = malloc(m.bulk_len + 1);
		rpc_msg_copy(&m, b, m.bulk_len);
		while (at < m.bulk_len && (k = fs_dirent_get(b + at, m.bulk_len - at, &e))) {
			q.cookie = e.cookie;
			names += e.namelen == 150 && e.entrylen > 0;
			at += k;
		}
		CU_ASSERT_EQUAL(at, m.bulk_len);
		end = ((Sprite__Fs__ReaddirRep *)m.msg)->end;
		free(b);
		rpc_msg_clear(&m);
	}
	CU_ASSERT_EQUAL(names, 500);
	CU_ASSERT_TRUE(calls > 3);
}

int main(void)
{
	static const struct kit_test tests[] = {
		{"names are single components", test_names},
		{"symbolic links lead nowhere", test_symlinks_lead_nowhere},
		{"forged handles", test_forged_handles},
		{"devices and FIFOs are not opened", test_devices_stay_closed},
		{"permissions are the caller's", test_permissions},
		{"who creates owns", test_who_creates_owns},
		{"calls without a credential", test_no_cred},
		{"hosts, read-only, uid range", test_exports},
		{"a home only as who is hosted, while he is", test_home},
		{"what of a home has changed", test_refresh},
		{"another client's open file", test_another_clients_open},
		{"who may register what", test_registration},
		{"a directory in pages", test_listing},
		{"a change waits for the recall", test_recall},
		{"who does not give back is fenced", test_hostage},
		{"locks in a home", test_home_locks},
		{"a waiting lock can be given up", test_cancelled_lock},
		{"locks of who is silent go", test_silent_locker},
	};

	return kit_run("test_fsd", tests, sizeof(tests) / sizeof(tests[0]));
}
