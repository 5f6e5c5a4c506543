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
	pthread_cond_init(&g->due, NULL);
	pthread_cond_init(&g->closed, NULL);
}

/* The oldest one; g->lock is held. */
static int grave_take(struct graves *g)
{
	int fd = g->v[g->head].fd;

	g->head = (g->head + 1) % (GRAVES + GRAVES_DUE);
	g->n--;
	return fd;
}

static void *closer(void *arg)
{
	struct graves *g = arg;

	pthread_mutex_lock(&g->lock);
	while (!g->stop) {
		int fd;

		if (!g->nlate && g->n <= GRAVES) {
			pthread_cond_wait(&g->due, &g->lock);
			continue;
		}
		fd = g->nlate ? g->late[--g->nlate] : grave_take(g);
		g->closing = true;
		pthread_mutex_unlock(&g->lock);
		close(fd);
		pthread_mutex_lock(&g->lock);
		g->closing = false;
		pthread_cond_broadcast(&g->closed);
	}
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

int graves_start(struct graves *g)
{
	int r = pthread_create(&g->closer, NULL, closer, g);

	g->started = r == 0;
	return -r;
}

void graves_stop(struct graves *g)
{
	pthread_mutex_lock(&g->lock);
	g->stop = true;
	pthread_cond_signal(&g->due);
	pthread_mutex_unlock(&g->lock);
	if (g->started)
		pthread_join(g->closer, NULL);
	g->started = false;
	while (g->nlate)
		close(g->late[--g->nlate]);
	graves_expire(g, UINT64_MAX);
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
	if (g->n == GRAVES + GRAVES_DUE)
		out = grave_take(g);
	at = (g->head + g->n++) % (GRAVES + GRAVES_DUE);
	g->v[at].fd = fd;
	g->v[at].since = now;
	if (g->n > GRAVES)
		pthread_cond_signal(&g->due);
	pthread_mutex_unlock(&g->lock);
	if (out >= 0)
		close(out);
}

bool graves_close(struct graves *g, int fd)
{
	bool taken;

	pthread_mutex_lock(&g->lock);
	taken = g->started && !g->stop && g->nlate < GRAVES_LATE;
	if (taken) {
		g->late[g->nlate++] = fd;
		pthread_cond_signal(&g->due);
	}
	pthread_mutex_unlock(&g->lock);
	return taken;
}

/* All of it: also what is about to be closed, or is just being. 0: there was none. */
static unsigned late_end(struct graves *g)
{
	unsigned count = 0;

	pthread_mutex_lock(&g->lock);
	for (; g->nlate; count++) {
		int fd = g->late[--g->nlate];

		pthread_mutex_unlock(&g->lock);
		close(fd);
		pthread_mutex_lock(&g->lock);
	}
	count += g->closing;
	while (g->closing)
		pthread_cond_wait(&g->closed, &g->lock);
	pthread_mutex_unlock(&g->lock);
	return count;
}

unsigned graves_expire(struct graves *g, uint64_t now)
{
	unsigned count = now == UINT64_MAX ? late_end(g) : 0;

	for (;; count++) {
		int fd = -1;

		pthread_mutex_lock(&g->lock);
		if (g->n && (now == UINT64_MAX || g->v[g->head].since + GRAVE_NS < now))
			fd = grave_take(g);
		pthread_mutex_unlock(&g->lock);
		if (fd < 0)
			return count;
		close(fd);
	}
}
