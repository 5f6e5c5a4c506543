/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See watch.h. Changes are seldom, as only what root alone may change is asked about, and one that is told makes each client ask about all it uses in one call: so an event does not say
 * what has changed. It is told once, until somebody asks to watch something again.
 *
 * Invariants
 * 1. `armed` is set before a watch is made, and the watch before the object is looked at.
 * 2. It is cleared before the event is sent. Who asked before that and is answered after it has the event as well, later than his question: he does not take its answer for a watched one.
 * 3. A watch ends with the first change that it tells of, so that what changes all the time is told once for each question and not each time; with its object, which is a change;
 *    or with all others when there are too many of them, which is told as one. All of that is done before the event is sent.
 */
#include "fs/server/watch.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>
#include "conf/log.h"

#define WATCHES_MAX 16384 /* and a quarter at most of what all that runs as root shares */
#define WATCHES_OF_ROOT "/proc/sys/fs/inotify/max_user_watches"
#define CHANGES (IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF)

struct watches {
	struct fsd *d;
	pthread_mutex_t lock;
	pthread_t thread;
	int fd;	  /* inotify, -1: none (lock) */
	int wake; /* eventfd: all are to go, or we stop */
	int most;
	atomic_bool armed, full, stopping;
};

void watches_tell(struct fsd *d)
{
	if (d->watches && atomic_exchange(&d->watches->armed, false))
		events_push(d, SPRITE__FS__EVENT__KIND__CHANGED, NULL);
}

/* Nobody knows of what is watched by the old ones: all is told as changed. */
static void begin_anew(struct watches *w)
{
	pthread_mutex_lock(&w->lock);
	close(w->fd);
	w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	atomic_store(&w->full, false);
	pthread_mutex_unlock(&w->lock);
	watches_tell(w->d);
}

static bool has_changed(int fd)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	bool changed = false;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (char *p = buf; p < buf + n; p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len) {
			const struct inotify_event *ev = (const struct inotify_event *)p;

			changed |= ev->mask & (CHANGES | IN_Q_OVERFLOW | IN_UNMOUNT);
			if (ev->mask & CHANGES)
				inotify_rm_watch(fd, ev->wd); /* EINVAL: several changes of one object, or its end */
		}
	return changed;
}

static void *watches_main(void *arg)
{
	struct watches *w = arg;
	uint64_t n;

	pthread_setname_np(pthread_self(), "watch");
	while (!atomic_load(&w->stopping) && w->fd >= 0) {
		struct pollfd p[2] = {{.fd = w->fd, .events = POLLIN}, {.fd = w->wake, .events = POLLIN}};

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents && read(w->wake, &n, sizeof(n)) > 0 && atomic_load(&w->full))
			begin_anew(w);
		else if (p[0].revents && has_changed(w->fd))
			watches_tell(w->d);
	}
	return NULL;
}

static void wake(struct watches *w)
{
	const uint64_t one = 1;

	if (write(w->wake, &one, sizeof(one)) < 0)
		log_debug("watch: %m");
}

bool watch(struct fsd *d, int fd)
{
	struct watches *w = d->watches;
	char path[40];
	int wd = -1;

	if (!w)
		return false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	atomic_store(&w->armed, true);
	pthread_mutex_lock(&w->lock);
	if (w->fd >= 0 && !atomic_load(&w->full))
		wd = inotify_add_watch(w->fd, path, CHANGES);
	if (wd >= w->most) { /* numbers of inotify grow by one; the same object keeps its own */
		atomic_store(&w->full, true);
		wake(w);
	}
	pthread_mutex_unlock(&w->lock);
	return wd >= 0;
}

static int watches_most(void)
{
	FILE *f = fopen(WATCHES_OF_ROOT, "re");
	int n = 0;

	if (!f || fscanf(f, "%d", &n) != 1)
		n = 4 * WATCHES_MAX;
	if (f)
		fclose(f);
	return n / 4 < WATCHES_MAX ? n / 4 : WATCHES_MAX;
}

int watches_start(struct fsd *d)
{
	struct watches *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->d = d;
	w->most = watches_most();
	pthread_mutex_init(&w->lock, NULL);
	w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	w->wake = eventfd(0, EFD_CLOEXEC);
	if (w->most > 0 && w->fd >= 0 && w->wake >= 0 && pthread_create(&w->thread, NULL, watches_main, w) == 0) {
		d->watches = w;
		return 0;
	}
	log_warn("files of this host are not watched (%m): guests ask for them each second");
	close(w->fd);
	close(w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return 0;
}

void watches_stop(struct fsd *d)
{
	struct watches *w = d->watches;

	if (!w)
		return;
	atomic_store(&w->stopping, true);
	wake(w);
	pthread_join(w->thread, NULL);
	close(w->fd);
	close(w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
	d->watches = NULL;
}
