// SPDX-License-Identifier: Apache-2.0
/*
 * The file server as a hostile or clumsy client meets it: a server in this process, clients with valid certificates over loopback. None may leave an export, act
 * as root or as somebody else, use a forged handle or another's open, or hold up others for ever. Needs root (it acts as callers).
 */
#include <CUnit/Basic.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conf/clock.h"
#include "conf/log.h"
#include "fs/dirent.h"
#include "fs/methods.h"
#include "fs/server/fsd.h"
#include "fs/server/ids.h"
#include "tests/unit/pki.h"

static char dir[] = "/tmp/sprite-fsd-XXXXXX";
static struct fsd server;
static struct conf server_conf;
static struct rpc_tls *server_tls, *tls[2];
static struct rpc_channel *ch[2]; /* ws1, ws2 */
static uint64_t clock_ahead;

/* ---- set-up ---------------------------------------------------------------------------------------------- */

static uint64_t clock_source(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec + __atomic_load_n(&clock_ahead, __ATOMIC_RELAXED);
}

static char *path_in(const char *name)
{
	char *p;

	return asprintf(&p, "%s/%s", dir, name) < 0 ? NULL : p;
}

static struct conf *conf_for(const char *name)
{
	static struct conf c[3];
	static int n;
	struct conf *k = &c[n++];
	char file[64];

	k->name = (char *)name;
	snprintf(k->root_server.host, sizeof(k->root_server.host), "fs1");
	snprintf(file, sizeof(file), "%s.pem", name);
	k->tls_ca = path_in("ca.pem");
	k->tls_cert = path_in(file);
	snprintf(file, sizeof(file), "%s.key", name);
	k->tls_key = path_in(file);
	return k;
}

static void put_file(const char *name, const char *text, mode_t mode, uid_t uid)
{
	char *p = path_in(name);
	FILE *f = fopen(p, "w");

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	fputs(text, f);
	fclose(f);
	CU_ASSERT_EQUAL(chown(p, uid, uid), 0);
	CU_ASSERT_EQUAL(chmod(p, mode), 0);
	free(p);
}

static void make_dirs(const char *const *names)
{
	for (; *names; names++) {
		char *p = path_in(*names);

		CU_ASSERT_EQUAL(mkdir(p, 0777), 0);
		CU_ASSERT_EQUAL(chmod(p, 0777), 0);
		free(p);
	}
}

static void make_tree(void)
{
	static const char *const names[] = {"run", "state", "export", "export/open", "outside", "ro", "home", NULL};
	char *link = path_in("export/escape"), *dev = path_in("export/null"), *fifo = path_in("export/fifo");

	CU_ASSERT_EQUAL(chmod(dir, 0755), 0);
	make_dirs(names);
	put_file("outside/secret", "secret", 0644, 0);
	put_file("export/roots", "for root", 0600, 0);
	put_file("export/mine", "mine", 0600, 1000);
	put_file("export/run-only", "#!", 0711, 0);
	put_file("ro/file", "ro", 0666, 0);
	put_file("home/file", "home", 0600, 1000);
	CU_ASSERT_EQUAL(symlink("../outside", link), 0);
	CU_ASSERT_EQUAL(mknod(dev, S_IFCHR | 0666, 1 << 8 | 3), 0);
	CU_ASSERT_EQUAL(chmod(dev, 0666), 0);
	CU_ASSERT_EQUAL(mkfifo(fifo, 0666), 0);
	free(link);
	free(dev);
	free(fifo);
}

static struct conf_export exports[4];

static void make_conf(void)
{
	static char *all[] = {"*", NULL}, *only2[] = {"ws2", NULL}, *nobody[] = {NULL};
	static struct conf_addr listen = {.host = "127.0.0.1", .port = 0};
	struct conf *c = &server_conf;

	*c = *conf_for("fs1");
	c->run_dir = path_in("run");
	c->state_dir = path_in("state");
	c->mount = "/sprite";
	exports[0] = (struct conf_export){"/", path_in("export"), false, false, true, all, 0, UINT32_MAX - 1};
	exports[1] = (struct conf_export){"/ro", path_in("ro"), false, true, true, all, 500, 2000};
	exports[2] = (struct conf_export){"/two", path_in("outside"), false, false, false, only2, 0, UINT32_MAX - 1};
	exports[3] = (struct conf_export){"/hosts/fs1", path_in("home"), true, false, false, nobody, 0, 0};
	c->exports = exports;
	c->nexports = 4;
	c->fs_listen = &listen;
	c->fs_nlisten = 1;
}

static void start(void)
{
	struct error e = {0};
	struct pki_ca ca, host;
	struct conf_addr addr = {.host = "127.0.0.1"};

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	ca = pki_make(dir, "ca", NULL, NULL, -3600, 86400);
	for (int i = 0; i < 3; i++) {
		static const char *const names[] = {"fs1", "ws1", "ws2"};
		char san[32];

		snprintf(san, sizeof(san), "DNS:%s", names[i]);
		host = pki_make(dir, names[i], san, &ca, -3600, 86400);
		pki_free(&host);
	}
	pki_free(&ca);
	make_tree();
	make_conf();
	clock_fake(clock_source);
	rpc_init();
	CU_ASSERT_EQUAL_FATAL(ids_init(&e), 0);
	CU_ASSERT_EQUAL_FATAL(rpc_tls_load(&server_conf, &server_tls, &e), 0);
	if (fsd_start(&server, &server_conf, server_tls, &e) < 0) {
		fprintf(stderr, "server: %s\n", e.text);
		exit(EXIT_FAILURE);
	}
	addr.port = rpc_server_port(server.server, 0);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL_FATAL(rpc_tls_load(conf_for(i ? "ws2" : "ws1"), &tls[i], &e), 0);
		ch[i] = rpc_channel_open(tls[i], &addr, "fs1", "meta");
	}
}

static void stop(void)
{
	char cmd[128];

	for (int i = 0; i < 2; i++)
		rpc_channel_close(ch[i]);
	fsd_stop(&server);
	for (int i = 0; i < 2; i++)
		rpc_tls_free(tls[i]);
	rpc_tls_free(server_tls);
	rpc_shutdown();
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	CU_ASSERT_EQUAL(system(cmd), 0);
}

/* ---- calls ------------------------------------------------------------------------------------------------ */

struct handle_copy {
	uint8_t b[128];
	size_t n;
};

static ProtobufCBinaryData as_bytes(struct handle_copy *h)
{
	return (ProtobufCBinaryData){h->n, h->b};
}

static struct handle_copy handle_of(ProtobufCBinaryData d)
{
	struct handle_copy h = {.n = d.len};

	memcpy(h.b, d.data, d.len <= sizeof(h.b) ? d.len : 0);
	return h;
}

static Sprite__Fs__Cred cred_of(uint32_t uid)
{
	Sprite__Fs__Cred c = SPRITE__FS__CRED__INIT;

	c.uid = c.gid = uid;
	c.umask = 022;
	return c;
}

/* errno of the answer; *out is filled when the caller wants it, else cleared. */
static int call(int who, enum fs_op op, const ProtobufCMessage *in, struct rpc_msg *out)
{
	struct rpc_msg m;
	int r = rpc_call(ch[who], &fs_methods[op], in, NULL, 0, 20000, &m);

	CU_ASSERT_EQUAL(r, 0);
	if (r < 0)
		return -r;
	r = m.err;
	if (out && !r)
		*out = m;
	else
		rpc_msg_clear(&m);
	return r;
}

static int attach(int who, const char *prefix, bool leases, struct handle_copy *root)
{
	Sprite__Fs__AttachReq q = SPRITE__FS__ATTACH_REQ__INIT;
	struct rpc_msg m;
	int r;

	q.prefix = (char *)prefix;
	q.leases = leases;
	r = call(who, FS_ATTACH, &q.base, &m);
	if (r == 0) {
		*root = handle_of(((Sprite__Fs__AttachRep *)m.msg)->handle);
		rpc_msg_clear(&m);
	}
	return r;
}

static int lookup(int who, uint32_t uid, struct handle_copy *d, const char *name, struct handle_copy *out)
{
	Sprite__Fs__LookupReq q = SPRITE__FS__LOOKUP_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(uid);
	struct rpc_msg m;
	int r;

	q.cred = &c;
	q.dir = as_bytes(d);
	q.name = (char *)name;
	r = call(who, FS_LOOKUP, &q.base, &m);
	if (r == 0) {
		*out = handle_of(((Sprite__Fs__LookupRep *)m.msg)->entry->handle);
		rpc_msg_clear(&m);
	}
	return r;
}

static int open_handle(int who, uint32_t uid, struct handle_copy *h, uint32_t flags, uint64_t *id)
{
	Sprite__Fs__OpenReq q = SPRITE__FS__OPEN_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(uid);
	struct rpc_msg m;
	int r;

	q.cred = &c;
	q.handle = as_bytes(h);
	q.flags = flags;
	r = call(who, FS_OPEN, &q.base, &m);
	if (r == 0) {
		*id = ((Sprite__Fs__OpenRep *)m.msg)->open;
		rpc_msg_clear(&m);
	}
	return r;
}

static int make_dir(int who, uint32_t uid, struct handle_copy *d, const char *name)
{
	Sprite__Fs__MakeReq q = SPRITE__FS__MAKE_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(uid);

	q.cred = &c;
	q.dir = as_bytes(d);
	q.name = (char *)name;
	q.mode = S_IFDIR | 0777;
	return call(who, FS_MAKE, &q.base, NULL);
}

static int chmod_handle(int who, uint32_t uid, struct handle_copy *h, uint32_t mode)
{
	Sprite__Fs__SetattrReq q = SPRITE__FS__SETATTR_REQ__INIT;
	Sprite__Fs__Attr a = SPRITE__FS__ATTR__INIT;
	Sprite__Fs__Cred c = cred_of(uid);

	q.cred = &c;
	q.handle = as_bytes(h);
	q.valid = FS_SET_MODE;
	q.attr = &a;
	a.mode = mode;
	return call(who, FS_SETATTR, &q.base, NULL);
}

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

static void test_home(void)
{
	struct handle_copy home, f;
	struct stat st;
	uint64_t id;
	char *made;
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

struct async {
	pthread_mutex_t lock;
	int done, err;
};

static void async_done(void *arg, int status, struct rpc_msg *out)
{
	struct async *a = arg;

	pthread_mutex_lock(&a->lock);
	a->done = 1;
	a->err = status < 0 ? status : out->err;
	pthread_mutex_unlock(&a->lock);
	if (status == 0)
		rpc_msg_clear(out);
}

static bool async_wait(struct async *a, int ms)
{
	for (; ms > 0; ms -= 10) {
		bool done;

		pthread_mutex_lock(&a->lock);
		done = a->done;
		pthread_mutex_unlock(&a->lock);
		if (done)
			return true;
		usleep(10000);
	}
	return false;
}

static struct rpc_stream *events_open(int who)
{
	Sprite__Fs__EventAck hello = SPRITE__FS__EVENT_ACK__INIT;
	struct rpc_stream *s = NULL;
	struct rpc_msg m;

	CU_ASSERT_EQUAL_FATAL(rpc_stream_open(ch[who], &fs_methods[FS_EVENTS], -1, &s), 0);
	hello.epoch = clock_epoch();
	CU_ASSERT_EQUAL(rpc_stream_send(s, &hello.base, NULL, 0), 0);
	CU_ASSERT_EQUAL_FATAL(rpc_stream_recv(s, &m, 60000), 1);
	CU_ASSERT_EQUAL(((Sprite__Fs__Event *)m.msg)->kind, SPRITE__FS__EVENT__KIND__NONE);
	rpc_msg_clear(&m);
	return s;
}

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
	CU_ASSERT_EQUAL(((Sprite__Fs__Event *)m.msg)->handle.len, h.n);
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

/* ---- an open file that is handed over ------------------------------------------------------------------- */

static int hand(int who, int op, const char *token, uint64_t open, bool shared, uint64_t *got)
{
	Sprite__Fs__HandReq q = SPRITE__FS__HAND_REQ__INIT;
	Sprite__Fs__Cred c = cred_of(1000);
	struct rpc_msg m;
	int r;

	q.op = (Sprite__Fs__HandReq__Op)op;
	q.token = (ProtobufCBinaryData){strlen(token), (uint8_t *)token};
	q.open = open;
	q.shared = shared;
	q.cred = &c;
	r = call(who, FS_HAND, &q.base, &m);
	if (r == 0) {
		if (got)
			*got = ((Sprite__Fs__HandRep *)m.msg)->open;
		rpc_msg_clear(&m);
	}
	return r;
}

enum { OFFER = SPRITE__FS__HAND_REQ__OP__OFFER, CLAIM = SPRITE__FS__HAND_REQ__OP__CLAIM, CANCEL = SPRITE__FS__HAND_REQ__OP__CANCEL };

/* Whoever knows the secret, and may use the export, gets what is offered, for as long as it is; nobody else, and nothing else. */
static void test_hand(void)
{
	struct handle_copy root, two, h, secret;
	uint64_t id, other, theirs;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", false, &root), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(0, 1000, &root, "mine", &h), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(0, 1000, &h, O_RDWR, &id), 0);
	CU_ASSERT_EQUAL(hand(0, OFFER, "short", id, false, NULL), EINVAL);
	CU_ASSERT_EQUAL(hand(1, OFFER, "0123456789abcdef", id, false, NULL), FS_EREOPEN); /* not theirs */
	CU_ASSERT_EQUAL(hand(1, CLAIM, "0123456789abcdef", 0, false, NULL), ENOENT);
	CU_ASSERT_EQUAL(hand(0, OFFER, "0123456789abcdef", id, true, NULL), EOPNOTSUPP); /* it is read too */
	CU_ASSERT_EQUAL(hand(0, OFFER, "0123456789abcdef", id, false, NULL), 0);
	CU_ASSERT_EQUAL(hand(1, CLAIM, "0123456789abcdeF", 0, false, NULL), ENOENT);
	CU_ASSERT_EQUAL(hand(1, CANCEL, "0123456789abcdef", 0, false, NULL), 0); /* of no effect */
	CU_ASSERT_EQUAL(hand(1, CLAIM, "0123456789abcdef", 0, false, &other), 0);
	CU_ASSERT_EQUAL(hand(1, OFFER, "0123456789abcdef", other, false, NULL), EEXIST); /* does not take the name over */
	CU_ASSERT_EQUAL(hand(0, CANCEL, "0123456789abcdef", 0, false, NULL), 0);
	CU_ASSERT_EQUAL(hand(1, CLAIM, "0123456789abcdef", 0, false, NULL), ENOENT);
	/* an export that is not ours: the secret does not help */
	CU_ASSERT_EQUAL_FATAL(attach(1, "/two", false, &two), 0);
	CU_ASSERT_EQUAL_FATAL(lookup(1, 1000, &two, "secret", &secret), 0);
	CU_ASSERT_EQUAL_FATAL(open_handle(1, 1000, &secret, O_RDONLY, &theirs), 0);
	CU_ASSERT_EQUAL(hand(1, OFFER, "fedcba9876543210", theirs, false, NULL), 0);
	CU_ASSERT_EQUAL(hand(0, CLAIM, "fedcba9876543210", 0, false, NULL), EACCES);
}

/* ---- floods ------------------------------------------------------------------------------------------------ */

/* A host that opens without end is refused, and others are not. */
static void test_flood_of_opens(void)
{
	struct handle_copy root[2], h[2];
	uint64_t id, first = 0;
	int n, r = 0;

	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL_FATAL(attach(i, "/", false, &root[i]), 0);
		CU_ASSERT_EQUAL_FATAL(lookup(i, 1000, &root[i], "mine", &h[i]), 0);
	}
	server.opens.max = 100;
	for (n = 0; n < 200 && (r = open_handle(0, 1000, &h[0], O_RDONLY, &id)) == 0; n++)
		first = first ? first : id;
	CU_ASSERT_EQUAL(r, EMFILE);
	CU_ASSERT(n > 50 && n <= 100);
	CU_ASSERT_EQUAL(open_handle(1, 1000, &h[1], O_RDONLY, &id), 0);
	{
		Sprite__Fs__CloseReq q = SPRITE__FS__CLOSE_REQ__INIT;

		q.open = first;
		CU_ASSERT_EQUAL(call(0, FS_CLOSE, &q.base, NULL), 0);
	}
	CU_ASSERT_EQUAL(open_handle(0, 1000, &h[0], O_RDONLY, &id), 0); /* one closed, one opened */
	server.opens.max = CLIENT_MAX_OPENS;
}

/* Streams cost a thread each. */
static void test_flood_of_streams(void)
{
	struct rpc_stream *s[300];
	int n = 0, refused = 0;
	struct handle_copy root;

	for (int i = 0; i < 300; i++) {
		Sprite__Fs__EventAck hello = SPRITE__FS__EVENT_ACK__INIT;
		struct rpc_msg m;

		hello.epoch = clock_epoch();
		if (rpc_stream_open(ch[0], &fs_methods[FS_EVENTS], 60000, &s[n]) < 0) {
			refused++;
			continue;
		}
		if (rpc_stream_send(s[n], &hello.base, NULL, 0) == 0 && rpc_stream_recv(s[n], &m, 60000) == 1)
			rpc_msg_clear(&m);
		else
			refused++;
		n++;
	}
	CU_ASSERT(refused >= 40);
	CU_ASSERT_EQUAL(attach(1, "/", true, &root), 0);
	for (int i = 0; i < n; i++) {
		rpc_stream_cancel(s[i]);
		rpc_stream_finish(s[i], 0);
	}
	{
		struct rpc_stream *other = events_open(1); /* another host has room */

		CU_ASSERT_PTR_NOT_NULL(other);
		rpc_stream_cancel(other);
		rpc_stream_finish(other, 0);
	}
}

/* ---- garbage ----------------------------------------------------------------------------------------------- */

static uint64_t rnd_state = 88172645463325252ull;
static uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	return rnd_state ^= rnd_state << 17;
}

static struct handle_copy *known; /* handles that are real */
static size_t nknown;

static uint64_t odd_number(void)
{
	static const uint64_t odd[] = {0, 1, 2, 4096, 65535, INT32_MAX, UINT32_MAX, INT64_MAX, INT64_MAX - 1, UINT64_MAX, 1ull << 63};

	return rnd() % 3 ? odd[rnd() % (sizeof(odd) / sizeof(odd[0]))] : rnd() >> (rnd() % 64);
}

static void *odd_bytes(size_t n)
{
	uint8_t *b = malloc(n + 1);

	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)rnd();
	b[n] = 0;
	return b;
}

static char *odd_name(void)
{
	static const char *const names[] = {"mine", "open", "escape", "..", ".", "", "a/b", "../outside/secret", "fifo", "null", "new", "/"};

	if (rnd() % 4)
		return strdup(names[rnd() % (sizeof(names) / sizeof(names[0]))]);
	char *s = odd_bytes(rnd() % 5000);

	for (char *p = s; *p; p++)
		*p |= 1;
	return s;
}

static void fill(ProtobufCMessage *m)
{
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		void *at = (char *)m + f->offset;
		struct handle_copy *h;

		if (f->label == PROTOBUF_C_LABEL_REPEATED)
			continue;
		switch (f->type) {
		case PROTOBUF_C_TYPE_STRING:
			*(char **)at = odd_name();
			break;
		case PROTOBUF_C_TYPE_BYTES:
			h = &known[rnd() % nknown];
			if (rnd() % 3)
				*(ProtobufCBinaryData *)at = (ProtobufCBinaryData){h->n, memcpy(malloc(h->n), h->b, h->n)};
			else
				*(ProtobufCBinaryData *)at = (ProtobufCBinaryData){rnd() % 200, odd_bytes(200)};
			break;
		case PROTOBUF_C_TYPE_MESSAGE:
			if (rnd() % 8) {
				ProtobufCMessage *sub = malloc(((const ProtobufCMessageDescriptor *)f->descriptor)->sizeof_message);

				protobuf_c_message_init(f->descriptor, sub);
				fill(sub);
				*(ProtobufCMessage **)at = sub;
			}
			break;
		case PROTOBUF_C_TYPE_BOOL:
			*(protobuf_c_boolean *)at = rnd() & 1;
			break;
		case PROTOBUF_C_TYPE_UINT64:
		case PROTOBUF_C_TYPE_INT64:
		case PROTOBUF_C_TYPE_FIXED64:
			*(uint64_t *)at = odd_number();
			break;
		default:
			*(uint32_t *)at = (uint32_t)odd_number();
		}
	}
}

/* Valid messages with senseless contents, of every kind: each is answered, nothing outside is touched, others are served as before. */
static void test_garbage(void)
{
	struct handle_copy root, h[3];
	char *p = path_in("outside/secret"), text[16] = "";
	FILE *f;

	CU_ASSERT_EQUAL_FATAL(attach(0, "/", true, &root), 0);
	h[0] = root;
	CU_ASSERT_EQUAL(lookup(0, 1000, &root, "open", &h[1]), 0);
	CU_ASSERT_EQUAL(lookup(0, 1000, &root, "fifo", &h[2]), 0);
	known = h;
	nknown = 3;
	for (int round = 0; round < 6000; round++) {
		enum fs_op op = (enum fs_op)(rnd() % FS_NOPS);
		ProtobufCMessage *m;
		struct iovec bulk = {odd_bytes(2000), rnd() % 2000};
		struct rpc_msg out;
		int r;

		if (fs_methods[op].kind == RPC_UNARY && op != FS_ELECT) {
			m = calloc(1, fs_methods[op].in->sizeof_message);
			protobuf_c_message_init(fs_methods[op].in, m);
			fill(m);
			if (op == FS_LOCK)
				((Sprite__Fs__LockReq *)m)->wait = false;
			r = rpc_call(ch[0], &fs_methods[op], m, fs_methods[op].bulk ? &bulk : NULL, fs_methods[op].bulk, 30000, &out);
			CU_ASSERT(r == 0 || r == -EMSGSIZE || r == -EPROTO);
			if (r == 0)
				rpc_msg_clear(&out);
			protobuf_c_message_free_unpacked(m, NULL);
		}
		free(bulk.iov_base);
	}
	f = fopen(p, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	CU_ASSERT_PTR_NOT_NULL(fgets(text, sizeof(text), f));
	fclose(f);
	CU_ASSERT_STRING_EQUAL(text, "secret");
	free(p);
	CU_ASSERT_EQUAL(access("/tmp/outside", F_OK), -1);
	__atomic_add_fetch(&clock_ahead, CLIENT_FORGET_NS + 1, __ATOMIC_RELAXED); /* whatever leases it got, nobody acknowledges: it is given up */
	fsd_tick(&server);
	CU_ASSERT_EQUAL(attach(1, "/", false, &root), 0);
	CU_ASSERT_EQUAL(make_dir(1, 1000, &root, "still-served"), 0);
}

int main(void)
{
	CU_pSuite s;
	unsigned failed;

	if (geteuid() != 0) {
		puts("skipped: needs root");
		return 77;
	}
	umask(0);
	log_init("test_fsd");
	CU_initialize_registry();
	s = CU_add_suite("fsd", NULL, NULL);
	CU_add_test(s, "start", start);
	CU_add_test(s, "names are single components", test_names);
	CU_add_test(s, "symbolic links lead nowhere", test_symlinks_lead_nowhere);
	CU_add_test(s, "forged handles", test_forged_handles);
	CU_add_test(s, "devices and FIFOs are not opened", test_devices_stay_closed);
	CU_add_test(s, "permissions are the caller's", test_permissions);
	CU_add_test(s, "who creates owns", test_who_creates_owns);
	CU_add_test(s, "calls without a credential", test_no_cred);
	CU_add_test(s, "hosts, read-only, uid range", test_exports);
	CU_add_test(s, "a home only as who is hosted, while he is", test_home);
	CU_add_test(s, "another client's open file", test_another_clients_open);
	CU_add_test(s, "who may register what", test_registration);
	CU_add_test(s, "a directory in pages", test_listing);
	CU_add_test(s, "a change waits for the recall", test_recall);
	CU_add_test(s, "who does not give back is fenced", test_hostage);
	CU_add_test(s, "a waiting lock can be given up", test_cancelled_lock);
	CU_add_test(s, "locks of who is silent go", test_silent_locker);
	CU_add_test(s, "who may take what is handed over", test_hand);
	CU_add_test(s, "a flood of opens", test_flood_of_opens);
	CU_add_test(s, "a flood of streams", test_flood_of_streams);
	CU_add_test(s, "garbage of every kind", test_garbage);
	CU_add_test(s, "stop", stop);
	CU_basic_run_tests();
	failed = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
