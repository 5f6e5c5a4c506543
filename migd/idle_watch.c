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
#include "conf/cleanup.h"
#include "conf/clock.h"
#include "conf/log.h"
#include "migd/idle.h"
#include "migd/idle_load.h"

#define DEVICES_MAX 256
#define LOGIND_TIMEOUT_US 100000 /* a hung bus must not hold up an eviction */

enum device_kind { DEVICE_EVDEV, DEVICE_TTY };
struct device {
	enum device_kind kind;
	char path[64];
	char label[80];
	int fd; /* evdev: the open device; -1: could not be opened */
	int wd; /* tty: its inotify watch */
	int err;
	uint64_t last_ns;
};

struct idle_watch {
	struct idle_rules rules;
	int epoll, inotify;
	int wd_input, wd_pts;
	struct device dev[DEVICES_MAX];
	size_t ndev;
	uint64_t since_ns, last_input_ns;
	struct idle_load load;
	int load_err;
	sd_bus *bus;
	char logind[120];
	bool logind_ok;
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
	scan(w, "/dev/input", "event", DEVICE_EVDEV);
	scan(w, "/dev/pts", "", DEVICE_TTY);
	scan(w, "/dev", "tty", DEVICE_TTY);
}

static void touched(struct idle_watch *w, struct device *d, uint64_t when)
{
	if (when > d->last_ns)
		d->last_ns = when;
	if (when > w->last_input_ns)
		w->last_input_ns = when;
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
		while ((n = read(d->fd, ev, sizeof ev)) > 0) {
			touched(w, d, now);
			any = true;
		}
		if (n < 0 && errno == ENODEV)
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
			if (e->wd == w->wd_input || e->wd == w->wd_pts) {
				rescan = true;
				continue;
			}
			for (size_t i = 0; i < w->ndev; i++) {
				if (w->dev[i].kind != DEVICE_TTY || w->dev[i].wd != e->wd)
					continue;
				if (e->mask & IN_ACCESS) {
					touched(w, &w->dev[i], now);
					any = true;
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

/* A tty's atime moves when something read from it: this is how input from before we were there is known. */
static void sample_ttys(struct idle_watch *w, uint64_t now)
{
	struct timespec ts;

	/* The kernel's clock, which made the atimes: not clock_real_ns(), which a test may have moved. */
	clock_gettime(CLOCK_REALTIME, &ts);
	int64_t real = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;

	for (size_t i = 0; i < w->ndev; i++) {
		struct device *d = &w->dev[i];
		struct stat st;

		if (d->kind != DEVICE_TTY)
			continue;
		if (stat(d->path, &st)) {
			device_drop(w, &w->dev[i--]);
			continue;
		}
		int64_t at = (int64_t)st.st_atim.tv_sec * 1000000000 + st.st_atim.tv_nsec;
		uint64_t age = at < real ? (uint64_t)(real - at) : 0;

		/* A tty that was never read shows its creation, which is a login and so a touch as well. */
		if (strncmp(d->path, "/dev/tty", 8) && age < now && now - age > d->last_ns)
			touched(w, d, now - age);
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

static void sample_logind(struct idle_watch *w, uint64_t now)
{
	uint64_t since = 0;
	int r, hint;

	w->logind_ok = false;
	if (!w->bus) {
		r = sd_bus_open_system(&w->bus);
		if (r < 0) {
			snprintf(w->logind, sizeof w->logind, "no system bus: %s", strerror(-r));
			return;
		}
		sd_bus_set_method_call_timeout(w->bus, LOGIND_TIMEOUT_US);
	}
	hint = logind_flag(w, "IdleHint");
	if (hint < 0) {
		w->bus = sd_bus_close_unref(w->bus); /* asked anew next time: the bus may have been restarted */
		return;
	}
	w->logind_ok = true;
	if (sd_bus_get_property_trivial(w->bus, "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager",
		    "IdleSinceHintMonotonic", NULL, 't', &since) < 0)
		since = 0;
	snprintf(w->logind, sizeof w->logind, hint ? "sessions say idle" : "a session says active or there is none");
	/* "Not idle" alone is only a hint (desktops without a screen saver never set it), "idle since" is evidence of input before it. */
	if (hint && since && since * 1000 < now && since * 1000 > w->last_input_ns)
		w->last_input_ns = since * 1000;
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

/* On battery: a mains adapter exists and none is online. Lid: ACPI button says closed. */
static void sample_power(struct idle_view *v)
{
	char path[320], word[64];
	bool mains = false, online = false;
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
	v->battery = mains && !online;
	d = opendir("/proc/acpi/button/lid");
	while (d && (de = readdir(d))) {
		snprintf(path, sizeof path, "/proc/acpi/button/lid/%s/state", de->d_name);
		if (de->d_name[0] != '.' && read_word(path, word, sizeof word) && strstr(word, "closed"))
			v->lid_closed = true;
	}
	if (d)
		closedir(d);
}

void idle_sample(struct idle_watch *w, unsigned guests_running, struct idle_view *out)
{
	uint64_t now = clock_boot_ns();

	idle_poll(w);
	sample_ttys(w, now);
	sample_logind(w, now);
	w->load_err = idle_load_sample(&w->load, now, guests_running);
	*out = (struct idle_view){.now_ns = now, .last_input_ns = w->last_input_ns, .since_ns = w->since_ns};
	for (int i = 0; i < 3; i++)
		out->load[i] = w->load.avg[i] / w->load.cpus;
	sample_power(out);
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
	w->wd_input = inotify_add_watch(w->inotify, "/dev/input", IN_CREATE | IN_ATTRIB); /* ATTRIB: udev sets the mode after the node is there */
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

	for (size_t i = 0; i < w->ndev && n < max; i++, n++) {
		const struct device *d = &w->dev[i];
		const char *kind = d->kind == DEVICE_EVDEV ? "input" : "tty";

		out[n] = (struct idle_source){.readable = !d->err, .last_ns = d->last_ns};
		snprintf(out[n].name, sizeof out[n].name, "%s %.56s", kind, d->label);
		snprintf(out[n].text, sizeof out[n].text, "%s", d->err ? strerror(d->err) : "");
	}
	if (n < max) {
		out[n] = (struct idle_source){.name = "logind", .readable = w->logind_ok};
		snprintf(out[n].text, sizeof out[n].text, "%s", w->logind);
		n++;
	}
	if (n < max) {
		out[n] = (struct idle_source){.name = "load", .readable = !w->load_err};
		snprintf(out[n].text, sizeof out[n].text, "%.2f %.2f %.2f runnable, %d CPUs, %s", w->load.avg[0], w->load.avg[1], w->load.avg[2],
			w->load.cpus, w->load.own_pidns ? "of the processes seen here" : "of the whole host");
		n++;
	}
	return n;
}
