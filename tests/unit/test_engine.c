// SPDX-License-Identifier: Apache-2.0
/* Parts of the engine that decide without a traced process: the image's framing, where the blob goes, CPU features, readers of /proc. */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"
#include "migd/engine/memory.h"
#include "migd/engine/procfs.h"
#include "migd/engine/vessel.h"

static void image_round_trip(void)
{
	int sv[2];
	struct eng_image *out, *in;
	struct image_rec rec;
	const void *body;
	char *room, big[70000];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	memset(big, 'x', sizeof(big));
	out = image_writer(sv[0]);
	in = image_reader(sv[1]);
	CU_ASSERT_EQUAL(eng_image_put(out, 101, 42, "hello", 6), 0);
	CU_ASSERT_EQUAL(eng_image_put(out, 102, 0, big, sizeof(big)), 0);
	room = image_reserve(out, 4096); /* less may be used than was reserved */
	CU_ASSERT_PTR_NOT_NULL_FATAL(room);
	memcpy(room, "abc", 3);
	CU_ASSERT_EQUAL(image_commit(out, 103, 7, 3), 0);
	CU_ASSERT_EQUAL(image_flush(out), 0);
	CU_ASSERT_EQUAL(image_next(in, &rec, &body), 0);
	CU_ASSERT(rec.type == 101 && rec.vpid == 42 && rec.len == 6 && !memcmp(body, "hello", 6));
	CU_ASSERT_EQUAL(image_next(in, &rec, &body), 0);
	CU_ASSERT(rec.type == 102 && rec.vpid == 0 && rec.len == sizeof(big) && !memcmp(body, big, sizeof(big)));
	CU_ASSERT_EQUAL(image_next(in, &rec, &body), 0);
	CU_ASSERT(rec.type == 103 && rec.vpid == 7 && rec.len == 3 && !memcmp(body, "abc", 3));
	close(sv[0]);
	CU_ASSERT_EQUAL(image_next(in, &rec, &body), -EPIPE);
	image_free(out);
	image_free(in);
	close(sv[1]);
}

static void image_refuses(void)
{
	struct image_rec bad = {.type = 101, .vpid = 1, .len = (uint64_t)IMG_MAX + 1}, half = {.type = 101, .vpid = 1, .len = 100}, rec;
	struct eng_image *in;
	const void *body;
	int sv[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	CU_ASSERT_EQUAL(write(sv[0], &bad, sizeof(bad)), sizeof(bad));
	in = image_reader(sv[1]);
	CU_ASSERT_EQUAL(image_next(in, &rec, &body), -EPROTO);
	CU_ASSERT_EQUAL(write(sv[0], &half, sizeof(half)), sizeof(half));
	close(sv[0]);
	CU_ASSERT_EQUAL(image_next(in, &rec, &body), -EPIPE);
	image_free(in);
	close(sv[1]);
}

static void image_reader_gone(void)
{
	static char big[1 << 20];
	struct eng_image *out;
	int sv[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	close(sv[1]);
	out = image_writer(sv[0]);
	CU_ASSERT_EQUAL(eng_image_put(out, 101, 1, big, sizeof(big)), -EPIPE); /* and no SIGPIPE */
	image_free(out);
	close(sv[0]);
}

/* What a host cannot take is told from the head of the image, in the words of sprite-state(7), before anything is made for it. */
static void other_hosts(void)
{
	uint32_t layout[1] = {2};
	int32_t tid = 4242;
	img_proc one = SPRITE__IMAGE__IMG_PROC__INIT, *procs[] = {&one};
	const struct {
		uint32_t version;
		uint64_t page, vdso;
		size_t parts;
		const char *cpu, *expect;
	} row[] = {
		{ENG_VERSION + 1, 4096, 0, 0, "", "image: no head, or of another version of sprite"},
		{ENG_VERSION, 4096, 0, 0, "nonsense1", "this processor has no nonsense1"},
		{ENG_VERSION, 65536, 0, 0, "", "this host has another page size"},
		{ENG_VERSION, 4096, 1, 0, "", "another kernel runs here (its vdso differs): the same kernel build is needed"},
		{ENG_VERSION, 4096, 0, 1, "", "image: the processor's layout is not what it should be"},
	};

	one.pid = tid, one.n_tids = 1, one.tids = &tid;
	for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
		img_head h = SPRITE__IMAGE__IMG_HEAD__INIT;
		struct eng_hooks hooks = {0};
		struct eng_family *f = NULL;
		struct error e = {0};
		int sv[2];

		CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
		struct eng_image *out = image_writer(sv[0]);

		h.version = row[i].version, h.page_size = row[i].page, h.vdso = row[i].vdso;
		h.n_proc = 1, h.proc = procs;
		h.n_xsave = row[i].parts, h.xsave = layout, h.cpu = (char *)row[i].cpu;
		CU_ASSERT_EQUAL(eng_image_put_msg(out, IMG_HEAD, 0, &h.base), 0);
		CU_ASSERT_EQUAL(image_flush(out), 0);
		CU_ASSERT(eng_nest(sv[1], NULL, &hooks, &f, &e) < 0);
		if (strcmp(e.text, row[i].expect))
			printf("\n%zu: %s\n", i, e.text);
		CU_ASSERT_STRING_EQUAL(e.text, row[i].expect);
		image_free(out);
		close(sv[0]), close(sv[1]);
	}
}

static void blob_place(void)
{
	struct map m[2] = {{.start = 0x400000, .end = 0x500000}, {.start = 0x7ffff0000000, .end = 0x7ffff1000000}};
	struct maps maps = {m, 2};
	uint64_t first = memory_blob_base(&maps, blob_size(8)), second;

	CU_ASSERT_NOT_EQUAL(first, 0);
	m[0] = (struct map){.start = first + 0x1000, .end = first + 0x2000}; /* somebody sits there: another place */
	second = memory_blob_base(&maps, blob_size(8));
	CU_ASSERT_NOT_EQUAL(second, 0);
	CU_ASSERT_NOT_EQUAL(second, first);
	m[0] = (struct map){.start = 0, .end = 0x7fffffffe000}; /* no room at all */
	CU_ASSERT_EQUAL(memory_blob_base(&maps, blob_size(8)), 0);
	/* slots and stacks of all threads lie inside, none over another */
	CU_ASSERT(blob_slot_addr(first, 7) + BLOB_SLOT <= blob_stack_addr(first, 8, 0));
	CU_ASSERT(blob_stack_addr(first, 8, 7) < first + blob_size(8));
	CU_ASSERT(blob_stack_addr(first, 8, 1) - blob_stack_addr(first, 8, 0) == BLOB_STACK);
}

static void runs_join(void)
{
	struct run *v = NULL;
	size_t n = 0, cap = 0;

	CU_ASSERT_EQUAL(runs_push(&v, &n, &cap, 0x1000, 0x2000), 0);
	CU_ASSERT_EQUAL(runs_push(&v, &n, &cap, 0x2000, 0x4000), 0); /* neighbours are one */
	CU_ASSERT_EQUAL(runs_push(&v, &n, &cap, 0x8000, 0x9000), 0);
	CU_ASSERT(n == 2 && v[0].start == 0x1000 && v[0].end == 0x4000 && v[1].start == 0x8000);
	free(v);
}

static void cpu_features(void)
{
	const char *const hide[] = {"sse2", NULL};
	char *mine = strdup(eng_cpu_features(NULL));

	CU_ASSERT_PTR_NOT_NULL(strstr(mine, "sse2"));
	CU_ASSERT_PTR_NULL(eng_cpu_missing(mine, NULL));
	CU_ASSERT_STRING_EQUAL(eng_cpu_missing(mine, hide), "sse2");
	CU_ASSERT_STRING_EQUAL(eng_cpu_missing("sse2 nosuchfeature", NULL), "nosuchfeature");
	CU_ASSERT_PTR_NULL(eng_cpu_missing("", NULL));
	free(mine);
}

static void fields(void)
{
	static const char text[] = "Name:\tx\nPid:\t12\nNSpid:\t12\t3\n";

	CU_ASSERT_EQUAL(atoi(eng_field(text, "Pid")), 12);
	CU_ASSERT(!strncmp(eng_field(text, "NSpid"), "12\t3", 4));
	CU_ASSERT_PTR_NULL(eng_field(text, "spid"));
}

static void own_maps(void)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *p = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int dir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct maps *maps = NULL;
	struct run *runs = NULL;
	bool vdso = false, mine = false;
	size_t n = 0;

	p[page] = 1; /* one page of four is there */
	madvise(p, 4 * page, MADV_DONTFORK);
	CU_ASSERT_EQUAL_FATAL(procfs_maps(dir, true, &maps), 0);
	for (size_t i = 0; i < maps->n; i++) {
		const struct map *m = &maps->m[i];

		vdso |= m->kind == KIND_VDSO;
		if (m->start <= (uint64_t)p && m->end > (uint64_t)p)
			mine = m->kind == KIND_ANON && m->prot == (PROT_READ | PROT_WRITE) && m->flags & MAPF_DONTCOPY;
	}
	CU_ASSERT(vdso && mine);
	CU_ASSERT_EQUAL(pagemap_runs(dir, (uint64_t)p, (uint64_t)p + 4 * page, false, &runs, &n, NULL, NULL), 0);
	CU_ASSERT(n == 1 && runs[0].start == (uint64_t)p + page && runs[0].end == (uint64_t)p + 2 * page);
	free(runs);
	maps_free(maps);
	CU_ASSERT_FALSE(pagemap_unreadable(dir, getpid(), (uint64_t)p, (uint64_t)p + 4 * page));
	if (madvise(p + 2 * page, page, 102 /* MADV_GUARD_INSTALL */) == 0) /* as kernels see it that do not tell them */
		CU_ASSERT(pagemap_unreadable(dir, getpid(), (uint64_t)p, (uint64_t)p + 4 * page));
	munmap(p, 4 * page);
	close(dir);
}

static void keys_of_maps(void)
{
	char dir[] = "/tmp/test-engine-XXXXXX", path[64];
	struct maps *maps;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/smaps", dir);
	FILE *f = fopen(path, "w");

	for (int i = 0; f && i < 3; i++)
		fprintf(f, "7f000000%d000-7f000000%d000 rw-p 00000000 00:00 0 \nSize: 4 kB\nProtectionKey: %8d\nVmFlags: rd wr mr mw me ac\n", i, i + 1, i == 1 ? 12 : 0);
	CU_ASSERT_FATAL(f && fclose(f) == 0);
	int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	CU_ASSERT_EQUAL_FATAL(procfs_maps(fd, true, &maps), 0);
	CU_ASSERT_FATAL(maps->n == 3);
	CU_ASSERT(!maps->m[0].pkey && maps->m[1].pkey == 12 && !maps->m[2].pkey);
	maps_free(maps);
	close(fd);
	unlink(path);
	rmdir(dir);
}

/* As kernels write them, also those with settings that this one has not. */
static void kinds_of_maps(void)
{
	static const struct {
		const char *line;
		enum map_kind kind;
	} table[] = {
		{"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ", KIND_ANON},
		{"7f0000001000-7f0000002000 rw-p 00000000 00:00 0                          [anon:arena]", KIND_ANON},
		{"7f0000002000-7f0000003000 rw-s 00000000 00:01 1025                       /dev/zero (deleted)", KIND_OBJECT},
		{"7f0000003000-7f0000004000 rw-s 00000000 00:01 1026                       [anon_shmem:ring]", KIND_OBJECT},
		{"7f0000004000-7f0000005000 rw-s 00000000 00:01 1027                       /memfd:pool (deleted)", KIND_OBJECT},
		{"7f0000005000-7f0000006000 rw-s 00000000 00:01 32769                      /SYSV00000000 (deleted)", KIND_SYSV},
		{"7f0000006000-7f0000007000 r--p 00000000 08:01 77                         /usr/lib/no such\\012file", KIND_FILE_PRIV},
		{"7f0000007000-7f0000008000 rw-s 00000000 08:01 78                         /srv/no such file", KIND_FILE_SHARED},
		{"7f0000008000-7f000000a000 r--p 00000000 00:00 0                          [vvar_vclock]", KIND_VVAR},
		{"7f000000a000-7f000000c000 r-xp 00000000 00:00 0                          [vdso]", KIND_VDSO},
		{"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]", KIND_VSYSCALL},
	};
	char dir[] = "/tmp/test-engine-XXXXXX", path[64];
	struct maps *maps;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/maps", dir);
	FILE *f = fopen(path, "w");

	for (size_t i = 0; f && i < ARRAY_SIZE(table); i++)
		fprintf(f, "%s\n", table[i].line);
	CU_ASSERT_FATAL(f && fclose(f) == 0);
	int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	CU_ASSERT_EQUAL_FATAL(procfs_maps(fd, false, &maps), 0);
	CU_ASSERT_EQUAL_FATAL(maps->n, ARRAY_SIZE(table));
	for (size_t i = 0; i < maps->n; i++)
		if (maps->m[i].kind != table[i].kind)
			CU_ASSERT_STRING_EQUAL(table[i].line, "of another kind");
	maps_free(maps);
	close(fd);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	CU_pSuite s;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return 1;
	s = CU_add_suite("engine", NULL, NULL);
	CU_add_test(s, "records go through as they were", image_round_trip);
	CU_add_test(s, "too long and cut off records are refused", image_refuses);
	CU_add_test(s, "a reader that went away is an error", image_reader_gone);
	CU_add_test(s, "what another host cannot take is named", other_hosts);
	CU_add_test(s, "the blob finds a free place", blob_place);
	CU_add_test(s, "runs of pages join", runs_join);
	CU_add_test(s, "a missing CPU feature is named", cpu_features);
	CU_add_test(s, "fields of status", fields);
	CU_add_test(s, "our own maps and pages", own_maps);
	CU_add_test(s, "kinds of maps", kinds_of_maps);
	CU_add_test(s, "protection keys of maps", keys_of_maps);
	CU_basic_set_mode(CU_BRM_NORMAL);
	CU_basic_run_tests();
	{
		unsigned failed = CU_get_number_of_failures();

		CU_cleanup_registry();
		return failed != 0;
	}
}
