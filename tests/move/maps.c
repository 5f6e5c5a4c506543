/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All kinds of private maps: protections, PROT_NONE holes, a growing stack, brk, mlock and madvise flags (as smaps shows them), file maps private and
 * shared, untouched and zero pages; content by hash, writes and faults as they must be.
 */
#include "move.h"
#include <setjmp.h>

#define PAGE 4096ul
#define PAGES 300

static sigjmp_buf back;
static void on_segv(int sig)
{
	(void)sig;
	siglongjmp(back, 1);
}

static bool faults(volatile char *p, bool write)
{
	if (sigsetjmp(back, 1))
		return true;
	if (write)
		*p = *p;
	else
		(void)*p;
	return false;
}

static uint64_t hash(const unsigned char *p, size_t n)
{
	uint64_t h = 1469598103934665603u;
	for (size_t i = 0; i < n; i += 8)
		h = (h ^ *(const uint64_t *)(p + i)) * 1099511628211u;
	return h;
}

static void scatter(unsigned char *p, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages; i++) {
		if (i % 3 == 1)
			continue; /* stays untouched */
		for (size_t k = 0; k < PAGE; k += 8)
			*(uint64_t *)(p + i * PAGE + k) = i % 3 == 2 ? 0 : move_rand(&seed);
	}
}

/* "VmFlags" of the map that starts at p. */
static void vmflags(void *p, char *out, size_t size)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[600], start[40];
	snprintf(start, sizeof start, "%lx-", (unsigned long)p);
	bool in = false;
	*out = 0;
	while (f && fgets(line, sizeof line, f)) {
		if (!strncmp(line, start, strlen(start)))
			in = true;
		else if (in && !strncmp(line, "VmFlags:", 8)) {
			snprintf(out, size, "%.*s", (int)size - 1, line + 8);
			break;
		}
	}
	if (f)
		fclose(f);
}

static bool has(const char *flags, const char *f)
{
	return strstr(flags, f) != NULL;
}

/* Grows down the stack and up again. */
static __attribute__((noinline)) unsigned dig(unsigned depth)
{
	volatile char frame[1024];
	frame[0] = depth;
	return depth ? dig(depth - 1) + (unsigned char)frame[0] % 2 : 0;
}

int main(int argc, char **argv)
{
	move_begin(argc, argv);
	struct sigaction sa = {.sa_handler = on_segv, .sa_flags = SA_NODEFER};
	SYS(sigaction(SIGSEGV, &sa, NULL));
	unsigned char *rw = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *ro = mmap(NULL, 20 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *guard = mmap(NULL, 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned char *hidden = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *locked = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *advised = mmap(NULL, 512 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	scatter(rw, PAGES, 12345);
	scatter(ro, 20, 777);
	SYS(mprotect(ro, 20 * PAGE, PROT_READ));
	SYS(mprotect(guard + 4 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE));
	scatter(hidden, 8, 42); /* data behind PROT_NONE must travel too */
	SYS(mprotect(hidden, 8 * PAGE, PROT_NONE));
	memset(locked, 0x5a, 4 * PAGE);
	bool lock = mlock(locked, 4 * PAGE) == 0;
	SYS(madvise(advised, 512 * PAGE, MADV_DONTFORK));
	SYS(madvise(advised, 512 * PAGE, MADV_DONTDUMP));
	SYS(madvise(advised, 512 * PAGE, MADV_RANDOM));
	bool nohuge = madvise(advised, 512 * PAGE, MADV_NOHUGEPAGE) == 0;
	memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6); /* mov $42, %eax; ret */
	SYS(mprotect(code, PAGE, PROT_READ | PROT_EXEC));

	char *path = move_path("map");
	int fd = SYS(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
	unsigned char page[PAGE];
	for (int i = 0; i < 32; i++) {
		memset(page, i + 1, PAGE);
		CHECK(write(fd, page, PAGE) == (ssize_t)PAGE, "write");
	}
	unsigned char *priv = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	unsigned char *rofile = mmap(NULL, 16 * PAGE, PROT_READ, MAP_PRIVATE, fd, 16 * PAGE);
	close(fd);
	CHECK(priv != MAP_FAILED && rofile != MAP_FAILED, "mmap");
	memset(priv + 3 * PAGE, 0xee, PAGE); /* copied on write; the rest is the file's */
	memset(priv + 30 * PAGE, 0xdd, 10);
	char *brk0 = sbrk(0);
	char *heap = sbrk(64 * PAGE);
	CHECK(heap == brk0, "sbrk");
	for (int i = 0; i < 64; i++)
		heap[i * PAGE] = i;
	uint64_t hrw = hash(rw, PAGES * PAGE), hro = hash(ro, 20 * PAGE), hhid;
	SYS(mprotect(hidden, 8 * PAGE, PROT_READ));
	hhid = hash(hidden, 8 * PAGE);
	SYS(mprotect(hidden, 8 * PAGE, PROT_NONE));
	char flags[200], want[200];
	vmflags(advised, want, sizeof want);
	move_ready();
	for (unsigned n = 0; move_more(); n++) {
		CHECK(hash(rw, PAGES * PAGE) == hrw, "anonymous memory changed");
		CHECK(hash(ro, 20 * PAGE) == hro, "read-only memory changed");
		CHECK(faults((char *)ro, true), "read-only memory can be written");
		CHECK(faults((char *)guard, false) && faults((char *)guard + 7 * PAGE, false), "PROT_NONE can be read");
		CHECK(!faults((char *)guard + 4 * PAGE, true), "the open part of the guard cannot be written");
		CHECK(faults((char *)hidden, false), "hidden memory can be read");
		SYS(mprotect(hidden, 8 * PAGE, PROT_READ));
		CHECK(hash(hidden, 8 * PAGE) == hhid, "memory behind PROT_NONE changed");
		SYS(mprotect(hidden, 8 * PAGE, PROT_NONE));
		CHECK(((int (*)(void))code)() == 42, "generated code");
		CHECK(faults((char *)code, true), "code can be written");
		for (int i = 0; i < 32; i++) {
			unsigned char e = i == 3 ? 0xee : i == 30 ? 0xdd : i + 1;
			CHECK(priv[i * PAGE] == e && priv[i * PAGE + PAGE - 1] == (i == 3 ? 0xee : i + 1), "private file map, page %d: %x", i,
			      priv[i * PAGE]);
		}
		for (int i = 0; i < 16; i++)
			CHECK(rofile[i * PAGE + 5] == i + 17, "file map at an offset, page %d: %x", i, rofile[i * PAGE + 5]);
		for (int i = 0; i < 64; i++)
			CHECK(heap[i * PAGE] == (char)i, "heap, page %d", i);
		char *top = sbrk(0), *grown = sbrk(PAGE); /* stdio may have moved it upwards */
		CHECK(top >= heap + 64 * PAGE && grown == top, "the break moved");
		*grown = 1;
		sbrk(-(long)PAGE);
		for (int i = 0; i < 4; i++)
			CHECK(locked[i * PAGE] == 0x5a, "locked memory changed");
		vmflags(locked, flags, sizeof flags);
		CHECK(!lock || has(flags, " lo"), "mlock: flags are%s", flags);
		vmflags(advised, flags, sizeof flags);
		CHECK(has(flags, " dc") && has(flags, " dd") && has(flags, " rr"), "madvise: flags were%s are%s", want, flags);
		CHECK(!nohuge || has(flags, " nh"), "MADV_NOHUGEPAGE: flags are%s", flags);
		dig(20 + n % 3000);
		/* Change something every time. */
		for (unsigned i = 0; i < 10; i++)
			*(uint64_t *)(rw + (n * 7 + i * 31) % PAGES * PAGE + n % 500 * 8) += n + i;
		hrw = hash(rw, PAGES * PAGE);
		*(volatile unsigned char *)(advised + n % 512 * PAGE) = n;
		move_nap(500);
	}
	unlink(path);
	return move_pass();
}
