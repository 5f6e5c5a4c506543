// SPDX-License-Identifier: Apache-2.0
/* See save.h. */
#include "conf/save.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/io.h"

int save_json(const char *path, const json_t *o, size_t flags, bool durable)
{
	_cleanup_free_ char *tmp = NULL, *text = json_dumps(o, flags);
	_cleanup_close_ int fd = -1;
	int r;

	if (!text || asprintf(&tmp, "%s.new", path) < 0)
		return -ENOMEM;
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || fchmod(fd, 0600) < 0)
		return -errno;
	r = io_write_all(fd, text, strlen(text));
	if (r == 0 && ((durable && fsync(fd) < 0) || rename(tmp, path) < 0))
		r = -errno;
	if (r < 0)
		unlink(tmp); /* a full disk gets its room back */
	return r;
}
