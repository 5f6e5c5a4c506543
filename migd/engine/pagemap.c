// SPDX-License-Identifier: Apache-2.0
/*
 * Which pages hold something: PAGEMAP_SCAN (Linux 6.7) or, before that, /proc/PID/pagemap word by word. Never-touched pages and the shared zero page are not
 * listed: they are zero over there too. Guard regions (MADV_GUARD_INSTALL, Linux 6.13) look like swapped pages and cannot be read: they are told apart from Linux
 * 6.15 on. In between a process that has some is refused, by reading what looks swapped.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "migd/engine/memory.h"

struct pm_scan_arg { /* linux/fs.h, newer than our headers */
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct runs {
	struct run *v;
	size_t n, cap;
};
struct page_region {
	uint64_t start, end, categories;
};
#define PAGEMAP_SCAN_IOCTL _IOWR('f', 16, struct pm_scan_arg)
enum { PM_SCAN_WP_MATCHING = 1, PM_SCAN_CHECK_WPASYNC = 2 };
enum { PAGE_IS_WRITTEN = 2, PAGE_IS_FILE = 4, PAGE_IS_PRESENT = 8, PAGE_IS_SWAPPED = 16, PAGE_IS_PFNZERO = 32, PAGE_IS_GUARD = 256 };
enum { LOOKS_MAX = 4096 };
static atomic_uint guard = PAGE_IS_GUARD; /* 0: this kernel does not know them */

int runs_push(struct run **v, size_t *n, size_t *cap, uint64_t start, uint64_t end)
{
	if (*n && (*v)[*n - 1].end == start) {
		(*v)[*n - 1].end = end;
		return 0;
	}
	if (*n == *cap) {
		struct run *bigger = realloc(*v, (*cap = *cap ? *cap * 2 : 64) * sizeof(**v));

		if (!bigger)
			return -ENOMEM;
		*v = bigger;
	}
	(*v)[(*n)++] = (struct run){start, end};
	return 0;
}

/* One step. A kernel that does not know guard regions says so once. */
static int step(int fd, struct pm_scan_arg *a, bool not_guards)
{
	const struct pm_scan_arg as = *a;
	int r;

	a->return_mask |= not_guards ? 0 : guard;
	if (not_guards) {
		a->category_inverted |= guard;
		a->category_mask |= guard;
	}
	r = ioctl(fd, PAGEMAP_SCAN_IOCTL, a);
	if (r >= 0 || errno != EINVAL || !guard)
		return r < 0 ? -errno : r;
	*a = as;
	r = ioctl(fd, PAGEMAP_SCAN_IOCTL, a);
	if (r < 0)
		return -errno;
	guard = 0;
	return r;
}

/* written (may be NULL): of out, what was written to since the last look of pre-copy, under whose watch all must be. */
static int scan(int fd, uint64_t start, uint64_t end, bool private_only, struct runs *out, struct runs *guards, struct runs *written)
{
	struct page_region vec[512];

	while (start < end) {
		struct pm_scan_arg a = {.size = sizeof(a), .flags = written ? PM_SCAN_CHECK_WPASYNC : 0, .start = start, .end = end, .vec = (uint64_t)vec, .vec_len = 512,
			.category_inverted = PAGE_IS_PFNZERO | (private_only ? PAGE_IS_FILE : 0),
			.category_mask = PAGE_IS_PFNZERO | (private_only ? PAGE_IS_FILE : 0),
			.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED, .return_mask = written ? PAGE_IS_WRITTEN : 0};
		int r = step(fd, &a, false);

		if (r < 0)
			return r;
		for (int i = 0; i < r; i++) {
			struct runs *to = vec[i].categories & PAGE_IS_GUARD ? guards : out;

			if (to && runs_push(&to->v, &to->n, &to->cap, vec[i].start, vec[i].end) < 0)
				return -ENOMEM;
			if (to == out && written && vec[i].categories & PAGE_IS_WRITTEN &&
				runs_push(&written->v, &written->n, &written->cap, vec[i].start, vec[i].end) < 0)
				return -ENOMEM;
		}
		start = a.walk_end;
	}
	return 0;
}

int pagemap_look(int dirfd, uint64_t start, uint64_t end, bool private_only, struct pages *out)
{
	_cleanup_close_ int fd = openat(dirfd, "pagemap", O_RDONLY | O_CLOEXEC);
	struct runs pages = {0}, guarded = {0}, written = {0};
	int r = fd < 0 ? -errno : scan(fd, start, end, private_only, &pages, &guarded, &written);

	*out = (struct pages){pages.v, written.v, guarded.v, pages.n, written.n, guarded.n};
	return r;
}

int pagemap_written(int dirfd, uint64_t start, uint64_t end, bool private_only, struct run **out, size_t *n)
{
	_cleanup_close_ int fd = openat(dirfd, "pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region vec[512];
	size_t cap = 0;

	*out = NULL;
	*n = 0;
	while (fd >= 0 && start < end) {
		struct pm_scan_arg a = {.size = sizeof(a), .flags = PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING, .start = start, .end = end,
			.vec = (uint64_t)vec, .vec_len = 512, .category_inverted = PAGE_IS_PFNZERO | (private_only ? PAGE_IS_FILE : 0),
			.category_mask = PAGE_IS_PFNZERO | PAGE_IS_WRITTEN | (private_only ? PAGE_IS_FILE : 0),
			.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED};
		int r = step(fd, &a, true);

		if (r < 0) {
			free(*out);
			*out = NULL;
			*n = 0;
			return r;
		}
		for (int i = 0; i < r; i++)
			if (runs_push(out, n, &cap, vec[i].start, vec[i].end) < 0)
				return -ENOMEM;
		start = a.walk_end;
	}
	return fd < 0 ? -ESRCH : 0;
}

static int words(int fd, uint64_t start, uint64_t end, bool private_only, struct runs *out)
{
	uint64_t w[4096];

	while (start < end) {
		size_t want = (end - start) / 4096 > 4096 ? 4096 : (end - start) / 4096;
		ssize_t got = pread(fd, w, want * 8, start / 4096 * 8);

		if (got <= 0)
			return got < 0 ? -errno : -ESRCH;
		for (ssize_t i = 0; i < got / 8; i++, start += 4096) {
			bool here = w[i] >> 62 & 3, file = w[i] >> 61 & 1;

			if (here && !(private_only && file) && runs_push(&out->v, &out->n, &out->cap, start, start + 4096) < 0)
				return -ENOMEM;
		}
	}
	return 0;
}

int pagemap_runs(int dirfd, uint64_t start, uint64_t end, bool private_only, struct run **out, size_t *n, struct run **guards, size_t *nguards)
{
	_cleanup_close_ int fd = openat(dirfd, "pagemap", O_RDONLY | O_CLOEXEC);
	struct runs pages = {0}, guarded = {0};
	int r;

	*out = NULL;
	*n = 0;
	if (fd < 0)
		return -errno;
	r = scan(fd, start, end, private_only, &pages, guards ? &guarded : NULL, NULL);
	if (r == -ENOTTY || r == -EINVAL)
		r = words(fd, start, end, private_only, &pages);
	if (r < 0) {
		free(pages.v);
		free(guarded.v);
		return r;
	}
	*out = pages.v;
	*n = pages.n;
	if (guards) {
		*guards = guarded.v;
		*nguards = guarded.n;
	}
	return 0;
}

/* Older kernels have none: there is nothing to tell then. */
static bool has_guards(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool has = page != MAP_FAILED && madvise(page, 4096, 102 /* MADV_GUARD_INSTALL */) == 0;

	if (page != MAP_FAILED)
		munmap(page, 4096);
	return has;
}

bool pagemap_tells_guards(void)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region vec[1];
	uint64_t at = (uint64_t)vec & ~4095ull;
	struct pm_scan_arg a = {.size = sizeof(a), .start = at, .end = at + 4096, .vec = (uint64_t)vec, .vec_len = 1, .category_anyof_mask = PAGE_IS_PRESENT};

	return (fd >= 0 && step(fd, &a, false) >= 0 && guard) || !has_guards();
}

bool pagemap_unreadable(int dirfd, pid_t pid, uint64_t start, uint64_t end)
{
	_cleanup_close_ int fd = openat(dirfd, "pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region vec[512];
	unsigned looks = 0;

	while (fd >= 0 && start < end) {
		struct pm_scan_arg a = {.size = sizeof(a), .start = start, .end = end, .vec = (uint64_t)vec, .vec_len = 512, .category_mask = PAGE_IS_SWAPPED,
			.return_mask = PAGE_IS_SWAPPED};
		int r = ioctl(fd, PAGEMAP_SCAN_IOCTL, &a);

		for (int i = 0; i < r; i++)
			for (uint64_t at = vec[i].start; at < vec[i].end; at += 4096) {
				char byte;
				struct iovec here = {&byte, 1}, there = {(void *)at, 1};

				if (++looks > LOOKS_MAX)
					return false; /* it is swapped out, and stays so: the dump finds the others */
				if (process_vm_readv(pid, &here, 1, &there, 1, 0) < 0 && errno == EFAULT)
					return true;
			}
		if (r < 0)
			return false;
		start = a.walk_end;
	}
	return false;
}
