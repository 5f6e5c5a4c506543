// SPDX-License-Identifier: Apache-2.0
/*
 * The sources of idleness (idle.h). Everything that can tell of a touch within milliseconds hangs on one epoll fd: evdev devices, and an inotify
 * instance that watches /dev/input and /dev/pts for devices that come and go and each tty for reads (IN_ACCESS: a program took what was typed).
 * What can only be asked for is asked in idle_sample(): atimes of ttys, logind, power, load.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <paths.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>
#include <utmpx.h>
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/idle.h"
#include "migd/idle_load.h"

#define DEVICES_MAX 256
#define SESSIONS_MAX 16
#define LOGIND_TIMEOUT_US 100000 /* a hung bus must not hold up an eviction */

enum device_kind { DEVICE_EVDEV, DEVICE_TTY };
struct device {
	enum device_kind kind;
	char path[64];
	char label[80];
	int fd; /* evdev: the open device; -1: could not be opened */
	int wd; /* tty: its inotify watch */
	int err;
	bool remote; /* tty: of a login over the network */
	bool looked; /* tty: atime is known */
	struct timespec atime;
	uint64_t last_ns;
};

struct idle_watch {
	struct idle_rules rules;
	int epoll, inotify;
	int wd_dev, wd_input, wd_pts;
	struct device dev[DEVICES_MAX];
	size_t ndev;
	uint64_t since_ns, last_input_ns;
	struct idle_load load;
	int load_err;
	sd_bus *bus;
	char logind[120], power[120];
	bool logind_ok, power_ok;
	bool battery, lid_closed;
	struct timespec utmp; /* its mtime when it was read last */
	bool utmp_read;	      /* for these devices */
};

static struct device *device_find(struct idle_watch *w, const char *path)
{
	for (size_t i = 0; i < w->ndev; i++)
		if (!strcmp(w->dev[i].path, path))
			return &w->dev[i];
	return NULL;
}

static void device_drop(struct idle_watch *w, struct device *d)
{
	if (d->fd >= 0)
		close(d->fd);
	if (d->wd >= 0)
		inotify_rm_watch(w->inotify, d->wd);
	*d = w->dev[--w->ndev];
}

static void evdev_open(struct idle_watch *w, struct device *d)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = -1};
	char name[48] = "?";

	d->fd = open(d->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (d->fd < 0) {
		d->err = errno;
		return;
	}
	d->err = 0;
	ioctl(d->fd, EVIOCGNAME(sizeof name), name);
	snprintf(d->label, sizeof d->label, "%.40s (%.36s)", d->path + sizeof "/dev/" - 1, name);
	ev.data.fd = d->fd;
	epoll_ctl(w->epoll, EPOLL_CTL_ADD, d->fd, &ev);
}

static void device_add(struct idle_watch *w, enum device_kind kind, const char *path)
{
	struct device *d = device_find(w, path);

	if (!d) {
		if (w->ndev == DEVICES_MAX)
			return;
		w->utmp_read = false;
		d = &w->dev[w->ndev++];
		*d = (struct device){.kind = kind, .fd = -1, .wd = -1};
		snprintf(d->path, sizeof d->path, "%s", path);
		snprintf(d->label, sizeof d->label, "%s", path + sizeof "/dev/" - 1);
	}
	if (kind == DEVICE_EVDEV && d->fd < 0)
		evdev_open(w, d);
	if (kind == DEVICE_TTY && d->wd < 0) {
		d->wd = inotify_add_watch(w->inotify, path, IN_ACCESS | IN_DELETE_SELF);
		d->err = d->wd < 0 ? errno : 0;
	}
}

/* "event12", "3" (of /dev/pts), "tty1": the names that may be an owner's. */
static void scan(struct idle_watch *w, const char *dir, const char *prefix, enum device_kind kind)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	char path[64];

	if (!d)
		return;
	while ((de = readdir(d))) {
		const char *digits = de->d_name + strlen(prefix);

		if (strncmp(de->d_name, prefix, strlen(prefix)) || *digits < '0' || *digits > '9' || strlen(de->d_name) > 20)
			continue;
		if (!strcmp(prefix, "tty") && *digits == '0')
			continue; /* an alias of the console in front */
		snprintf(path, sizeof path, "%s/%.20s", dir, de->d_name);
		device_add(w, kind, path);
	}
	closedir(d);
}

static void scan_all(struct idle_watch *w)
{
	/* The directory comes with the first device: a host may start without any. ATTRIB: udev sets a node's mode after it is there. */
	if (w->wd_input < 0)
		w->wd_input = inotify_add_watch(w->inotify, "/dev/input", IN_CREATE | IN_ATTRIB | IN_DELETE_SELF);
	scan(w, "/dev/input", "event", DEVICE_EVDEV);
	scan(w, "/dev/pts", "", DEVICE_TTY);
	scan(w, "/dev", "tty", DEVICE_TTY);
}

/* Does it count as the owner's? */
static bool touched(struct idle_watch *w, struct device *d, uint64_t when)
{
	bool counts = w->rules.remote_logins || !d->remote;

	if (when > d->last_ns)
		d->last_ns = when;
	if (counts && when > w->last_input_ns)
		w->last_input_ns = when;
	return counts;
}

static bool poll_evdev(struct idle_watch *w, uint64_t now)
{
	struct input_event ev[64];
	bool any = false;

	for (size_t i = 0; i < w->ndev; i++) {
		struct device *d = &w->dev[i];
		ssize_t n;

		if (d->kind != DEVICE_EVDEV || d->fd < 0)
			continue;
		while ((n = read(d->fd, ev, sizeof ev)) > 0)
			any |= touched(w, d, now);
		if (n == 0 || errno == ENODEV) /* unplugged */
			device_drop(w, &w->dev[i--]);
	}
	return any;
}

static bool poll_inotify(struct idle_watch *w, uint64_t now)
{
	char buf[4096] __attribute__((aligned(8)));
	bool any = false, rescan = false;
	ssize_t n;

	while ((n = read(w->inotify, buf, sizeof buf)) > 0) {
		for (char *p = buf; p < buf + n;) {
			struct inotify_event *e = (void *)p;

			p += sizeof *e + e->len;
			if (e->wd == w->wd_input || e->wd == w->wd_pts || e->wd == w->wd_dev) {
				rescan |= e->wd != w->wd_dev || (e->len && (!strcmp(e->name, "input") || !strncmp(e->name, "tty", 3)));
				if (e->wd == w->wd_input && e->mask & (IN_DELETE_SELF | IN_IGNORED))
					w->wd_input = -1;
				continue;
			}
			for (size_t i = 0; i < w->ndev; i++) {
				if (w->dev[i].kind != DEVICE_TTY || w->dev[i].wd != e->wd)
					continue;
				if (e->mask & IN_ACCESS) {
					any |= touched(w, &w->dev[i], now);
				} else if (e->mask & (IN_DELETE_SELF | IN_IGNORED)) {
					w->dev[i].wd = -1;
					device_drop(w, &w->dev[i]);
				}
				break;
			}
		}
	}
	if (rescan)
		scan_all(w);
	return any;
}

bool idle_poll(struct idle_watch *w)
{
	uint64_t now = clock_boot_ns();
	bool a = poll_evdev(w, now), b = poll_inotify(w, now);

	return a || b;
}

/* Which ttys are of logins over the network says utmp: those with the name of a host that is not an X display (":0"). */
static void find_remote(struct idle_watch *w)
{
	struct utmpx *u;
	struct stat st;

	if (stat(_PATH_UTMP, &st))
		memset(&st, 0, sizeof st);
	if (w->utmp_read && st.st_mtim.tv_sec == w->utmp.tv_sec && st.st_mtim.tv_nsec == w->utmp.tv_nsec)
		return;
	w->utmp = st.st_mtim;
	w->utmp_read = true;
	for (size_t i = 0; i < w->ndev; i++)
		w->dev[i].remote = false;
	setutxent();
	while ((u = getutxent())) {
		char path[64];
		struct device *d;

		if (u->ut_type != USER_PROCESS || !u->ut_host[0] || u->ut_host[0] == ':')
			continue;
		snprintf(path, sizeof path, "/dev/%.*s", (int)sizeof u->ut_line, u->ut_line);
		d = device_find(w, path);
		if (d)
			d->remote = true;
	}
	endutxent();
}

/* A console's atime is not kept; that it goes away its inotify watch tells. */
static bool has_atime(const struct device *d)
{
	return d->kind == DEVICE_TTY && strncmp(d->path, "/dev/tty", 8);
}

/*
 * A tty's atime moves when something read from it. The first look tells of input from before we were there (by the kernel's wall clock, which made it);
 * later ones only whether it has moved, so that a clock that is set back or forth is no input and hides none.
 */
static void sample_ttys(struct idle_watch *w, uint64_t now)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts); /* the kernel's own, which stamped the atimes; not the daemon's of conf/clock.h */
	int64_t real = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
	bool any = false;

	for (size_t i = 0; i < w->ndev; i++)
		any |= has_atime(&w->dev[i]);
	if (any)
		find_remote(w);
	for (size_t i = 0; any && i < w->ndev; i++) {
		struct device *d = &w->dev[i];
		struct stat st;

		if (!has_atime(d))
			continue;
		if (stat(d->path, &st)) {
			device_drop(w, &w->dev[i--]);
			continue;
		}
		bool moved = st.st_atim.tv_sec != d->atime.tv_sec || st.st_atim.tv_nsec != d->atime.tv_nsec;
		int64_t at = (int64_t)st.st_atim.tv_sec * 1000000000 + st.st_atim.tv_nsec;
		uint64_t age = d->looked || at >= real ? 0 : (uint64_t)(real - at);

		/* A tty that was never read shows its creation, which is a login and so a touch as well. */
		if (moved && age < now)
			touched(w, d, now - age);
		d->atime = st.st_atim;
		d->looked = true;
	}
}

static int logind_flag(struct idle_watch *w, const char *name)
{
	sd_bus_error err = SD_BUS_ERROR_NULL;
	int v = 0;
	int r = sd_bus_get_property_trivial(w->bus, "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", name,
		&err, 'b', &v);

	if (r < 0)
		snprintf(w->logind, sizeof w->logind, "%s: %.80s", name, err.message ? err.message : strerror(-r));
	sd_bus_error_free(&err);
	return r < 0 ? r : v;
}

/*
 * One session, in words. Locked and idle are hints. "Since" is when the hint last changed, or a terminal was last read: either way somebody was there then, be it over a
 * remote desktop that no device of ours tells of. It is told in CLOCK_MONOTONIC, which stands still while the host sleeps.
 */
static int sample_session(struct idle_watch *w, const char *user, const char *seat, const char *path)
{
	static const char *const dest = "org.freedesktop.login1", *const iface = "org.freedesktop.login1.Session";
	int idle = 0, locked = 0, remote = 0, r;
	size_t n = strlen(w->logind);
	uint64_t since = 0, mono, now, seen;

	r = sd_bus_get_property_trivial(w->bus, dest, path, iface, "IdleHint", NULL, 'b', &idle);
	if (r >= 0)
		r = sd_bus_get_property_trivial(w->bus, dest, path, iface, "LockedHint", NULL, 'b', &locked);
	if (r >= 0)
		r = sd_bus_get_property_trivial(w->bus, dest, path, iface, "Remote", NULL, 'b', &remote);
	if (r >= 0)
		r = sd_bus_get_property_trivial(w->bus, dest, path, iface, "IdleSinceHintMonotonic", NULL, 't', &since);
	if (r < 0)
		return r;
	snprintf(w->logind + n, sizeof w->logind - n, "%s%s on %s %s%s", n ? "; " : "", user, remote ? "the network" : *seat ? seat : "no seat",
		idle ? "idle" : "active", locked ? ", locked" : "");
	mono = clock_host_mono_ns();
	now = clock_boot_ns();
	seen = since && since < mono / 1000 && mono - since * 1000 < now ? now - (mono - since * 1000) : 0;
	if ((w->rules.remote_logins || !remote) && seen > w->last_input_ns)
		w->last_input_ns = seen;
	return 0;
}

static int sample_sessions(struct idle_watch *w)
{
	sd_bus_message *m = NULL;
	const char *id, *user, *seat, *path;
	uint32_t uid;
	int r = sd_bus_call_method(w->bus, "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "ListSessions", NULL, &m,
		NULL);

	w->logind[0] = 0;
	if (r >= 0)
		r = sd_bus_message_enter_container(m, 'a', "(susso)");
	for (int i = 0; i < SESSIONS_MAX && r >= 0 && (r = sd_bus_message_read(m, "(susso)", &id, &uid, &user, &seat, &path)) > 0; i++)
		r = sample_session(w, user, seat, path);
	sd_bus_message_unref(m);
	if (r >= 0 && !w->logind[0])
		snprintf(w->logind, sizeof w->logind, "no sessions");
	return r;
}

static void sample_logind(struct idle_watch *w)
{
	int r, lid, mains;

	w->logind_ok = false;
	if (!w->bus) {
		r = sd_bus_open_system(&w->bus);
		if (r < 0) {
			snprintf(w->logind, sizeof w->logind, "no system bus: %s", strerror(-r));
			return;
		}
		sd_bus_set_method_call_timeout(w->bus, LOGIND_TIMEOUT_US);
	}
	lid = logind_flag(w, "LidClosed");
	mains = lid < 0 ? lid : logind_flag(w, "OnExternalPower");
	r = mains < 0 ? mains : sample_sessions(w);
	if (r < 0) {
		if (!w->logind[0])
			snprintf(w->logind, sizeof w->logind, "%s", strerror(-r));
		w->bus = sd_bus_close_unref(w->bus); /* asked anew next time: the bus may have been restarted */
		return;
	}
	w->lid_closed |= lid > 0;
	w->battery |= !mains;
	w->logind_ok = true;
}

static bool read_word(const char *path, char *buf, size_t n)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t k = fd < 0 ? -1 : read(fd, buf, n - 1);

	if (k <= 0)
		return false;
	buf[k] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return true;
}

static bool lid_says_closed(bool *known)
{
	DIR *d = opendir("/proc/acpi/button/lid");
	bool closed = false;
	struct dirent *de;
	char path[320], word[64];

	while (d && (de = readdir(d))) {
		snprintf(path, sizeof path, "/proc/acpi/button/lid/%s/state", de->d_name);
		if (de->d_name[0] == '.' || !read_word(path, word, sizeof word))
			continue;
		*known = true;
		closed |= strstr(word, "closed") != NULL;
	}
	if (d)
		closedir(d);
	return closed;
}

/* On battery: a mains adapter exists and none is online. Lid: the ACPI button says closed. logind may know of both where /sys and /proc do not. */
static void sample_power(struct idle_watch *w)
{
	char path[320], word[64];
	bool mains = false, online = false, lid = false, closed = lid_says_closed(&lid);
	struct dirent *de;
	DIR *d = opendir("/sys/class/power_supply");

	while (d && (de = readdir(d))) {
		snprintf(path, sizeof path, "/sys/class/power_supply/%s/type", de->d_name);
		if (de->d_name[0] == '.' || !read_word(path, word, sizeof word) || strcmp(word, "Mains"))
			continue;
		mains = true;
		snprintf(path, sizeof path, "/sys/class/power_supply/%s/online", de->d_name);
		if (read_word(path, word, sizeof word) && word[0] == '1')
			online = true;
	}
	if (d)
		closedir(d);
	w->battery |= mains && !online;
	w->lid_closed |= closed;
	w->power_ok = mains || lid || w->logind_ok;
	if (w->power_ok)
		snprintf(w->power, sizeof w->power, "on %s, lid %s%s", w->battery ? "battery" : "mains", w->lid_closed ? "closed" : "open",
			w->rules.on_battery ? " (makes no difference: on_battery)" : "");
	else
		snprintf(w->power, sizeof w->power, "no mains adapter and no lid known: taken to be on mains");
}

void idle_sample(struct idle_watch *w, bool all, unsigned guests_running, struct idle_view *out)
{
	uint64_t now = clock_boot_ns();

	idle_poll(w);
	sample_ttys(w, now);
	if (all) {
		w->battery = w->lid_closed = false;
		sample_logind(w);
		sample_power(w);
		w->load_err = idle_load_sample(&w->load, now, guests_running);
	}
	*out = (struct idle_view){.now_ns = now, .last_input_ns = w->last_input_ns, .since_ns = w->since_ns, .battery = w->battery,
		.lid_closed = w->lid_closed};
	for (int i = 0; i < 3; i++)
		out->load[i] = w->load.avg[i] / w->load.cpus;
}

int idle_open(const struct idle_rules *r, struct idle_watch **out, struct error *e)
{
	struct idle_watch *w = calloc(1, sizeof *w);
	struct epoll_event ev = {.events = EPOLLIN};

	if (!w)
		return error_set(e, ENOMEM, "idle watch: out of memory");
	w->rules = *r;
	w->since_ns = clock_boot_ns();
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	w->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->epoll < 0 || w->inotify < 0) {
		int err = errno;

		idle_close(w);
		return error_set(e, err, "idle watch: %s: raise fs.inotify.max_user_instances or the limit of open files", strerror(err));
	}
	ev.data.fd = w->inotify;
	epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->inotify, &ev);
	w->wd_input = -1; /* scan_all() */
	w->wd_dev = inotify_add_watch(w->inotify, "/dev", IN_CREATE);
	w->wd_pts = inotify_add_watch(w->inotify, "/dev/pts", IN_CREATE);
	idle_load_init(&w->load);
	scan_all(w);
	*out = w;
	return 0;
}

void idle_close(struct idle_watch *w)
{
	if (!w)
		return;
	while (w->ndev)
		device_drop(w, &w->dev[0]);
	if (w->bus)
		sd_bus_close_unref(w->bus);
	if (w->epoll >= 0)
		close(w->epoll);
	if (w->inotify >= 0)
		close(w->inotify);
	free(w);
}

int idle_fd(const struct idle_watch *w)
{
	return w->epoll;
}

size_t idle_sources(const struct idle_watch *w, struct idle_source *out, size_t max)
{
	size_t n = 0;

	if (n < max) {
		out[n] = (struct idle_source){.name = "logind", .readable = w->logind_ok};
		snprintf(out[n].text, sizeof out[n].text, "%s", w->logind);
		n++;
	}
	if (n < max) {
		out[n] = (struct idle_source){.name = "power", .readable = w->power_ok};
		snprintf(out[n].text, sizeof out[n].text, "%s", w->power);
		n++;
	}
	if (n < max) {
		out[n] = (struct idle_source){.name = "load", .readable = !w->load_err};
		snprintf(out[n].text, sizeof out[n].text, "%.2f %.2f %.2f runnable, %d CPUs, %s", w->load.avg[0], w->load.avg[1], w->load.avg[2],
			w->load.cpus, w->load.own_pidns ? "of the processes seen here" : "of the whole host");
		n++;
	}
	for (size_t i = 0; i < w->ndev && n < max; i++) {
		const struct device *d = &w->dev[i];
		if (d->kind == DEVICE_TTY && !d->err && !d->last_ns)
			continue; /* one of the many consoles that nobody ever used */
		const char *kind = d->kind == DEVICE_EVDEV ? "input" : "tty";

		out[n] = (struct idle_source){.readable = !d->err, .last_ns = d->last_ns};
		snprintf(out[n].name, sizeof out[n].name, "%s %.56s", kind, d->label);
		snprintf(out[n].text, sizeof out[n].text, "%s", d->err ? strerror(d->err) : !d->remote ? "" : w->rules.remote_logins ? "remote login" :
			"remote login: does not count");
		n++;
	}
	return n;
}
