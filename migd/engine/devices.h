/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which device number (st_dev) a file has where a family comes from: its mounts, a line each, "MAJOR:MINOR POINT\n", the longest point that leads to a file being its
 * mount. Points are written as in /proc/PID/mountinfo (\ooo for what could be taken for the end). The text travels in the head of the image and goes to the keeper
 * (keeper_stat.c). Linked into sprite-keeper too. No locks, no calls.
 */
#ifndef ENGINE_DEVICES_H
#define ENGINE_DEVICES_H
#include <stdbool.h>
#include <stddef.h>

enum { DEVICES_MAX = 64 << 10, DEVICES_LINES = 2000 };

/* Where the file system has other numbers than its mount (btrfs): what stat(2) says of `point` there. May be NULL. */
typedef bool devices_ask(void *ctx, const char *point, unsigned *major, unsigned *minor);
/* Of the text of a mountinfo file; malloc'd. NULL: no memory, no mounts, or more than can be carried. */
char *devices_make(const char *mountinfo, devices_ask *ask, void *ctx);
/* One that devices_make() can have made: an image is not believed. */
bool devices_valid(const char *text);

struct device {
	unsigned major, minor;
	const char *point;
	size_t len; /* of the point; 0: "/" */
};
struct devices {
	struct device *v; /* longest first */
	size_t n;
};
/* Takes the text apart, which it changes and refers to. 0 or -errno. */
int devices_parse(struct devices *d, char *text);
void devices_free(struct devices *d);
/* NULL: none leads to that absolute path. */
const struct device *devices_find(const struct devices *d, const char *path);
#endif
