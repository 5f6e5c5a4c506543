/* SPDX-License-Identifier: Apache-2.0 */
/* Keeping inodes without a name for a while; see grave.h. */
#include "fs/server/grave.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

void graves_init(struct graves *g)
{
	memset(g, 0, sizeof(*g));
	pthread_mutex_init(&g->lock, NULL);
}

int grave_open(int dirfd, const char *name, const struct stat *st)
{
	if (!S_ISDIR(st->st_mode) && (st->st_nlink > 1 || st->st_blocks > GRAVE_BLOCKS))
		return -1;
	return openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

void grave_keep(struct graves *g, int fd, uint64_t now)
{
	int out = -1;
	unsigned at;

	if (fd < 0)
		return;
	pthread_mutex_lock(&g->lock);
	if (g->n == GRAVES) {
		out = g->v[g->head].fd;
		g->head = (g->head + 1) % GRAVES;
		g->n--;
	}
	at = (g->head + g->n++) % GRAVES;
	g->v[at].fd = fd;
	g->v[at].since = now;
	pthread_mutex_unlock(&g->lock);
	if (out >= 0)
		close(out);
}

unsigned graves_expire(struct graves *g, uint64_t now)
{
	unsigned count = 0;

	for (;; count++) {
		int fd = -1;

		pthread_mutex_lock(&g->lock);
		if (g->n && (now == UINT64_MAX || g->v[g->head].since + GRAVE_NS < now)) {
			fd = g->v[g->head].fd;
			g->head = (g->head + 1) % GRAVES;
			g->n--;
		}
		pthread_mutex_unlock(&g->lock);
		if (fd < 0)
			return count;
		close(fd);
	}
}
