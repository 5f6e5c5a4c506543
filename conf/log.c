// SPDX-License-Identifier: Apache-2.0
/*
 * One line per event on stderr, each in a single write(2), so that lines of several threads and processes do not mix.
 * Under systemd (stderr is the journal's stream: $JOURNAL_STREAM names its device and inode, systemd.exec(5)) a line starts with
 * "<priority>", elsewhere with the time. Set up once by log_init() before threads start; read-only afterwards.
 */
#include "conf/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "conf/clock.h"

static const char *log_program = "sprite";
static enum log_level log_level = LOG_NOTE;
static bool log_journal;

static const struct {
	const char *name;
	enum log_level level;
} levels[] = {
	{"error", LOG_ERROR}, {"warn", LOG_WARN}, {"note", LOG_NOTE}, {"info", LOG_INFO}, {"debug", LOG_DBG},
};

static bool stderr_is_journal(void)
{
	const char *v = getenv("JOURNAL_STREAM");
	uintmax_t dev, ino;
	struct stat st;

	return v && sscanf(v, "%" SCNuMAX ":%" SCNuMAX, &dev, &ino) == 2 && !fstat(STDERR_FILENO, &st) && st.st_dev == dev &&
	       st.st_ino == ino;
}

void log_init(const char *program)
{
	const char *want = getenv("SPRITE_LOG");

	log_program = program;
	log_journal = stderr_is_journal();
	if (!want || !*want)
		return;
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (!strcmp(want, levels[i].name)) {
			log_level = levels[i].level;
			return;
		}
	log_warn("SPRITE_LOG: expected error, warn, note, info or debug, found \"%s\"", want);
}

int log_enabled(enum log_level level)
{
	return level <= log_level;
}

static size_t put_stamp(char *to, size_t size)
{
	int64_t now = clock_real_ns();
	time_t s = (time_t)(now / 1000000000);
	struct tm tm;
	size_t n;

	gmtime_r(&s, &tm);
	n = strftime(to, size, "%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(to + n, size - n, ".%06dZ ", (int)(now / 1000 % 1000000));
	return n;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	static const char *const words[] = {[LOG_ERROR] = "error: ", [LOG_WARN] = "warning: "};
	char line[2048];
	size_t n, start;
	int saved = errno;
	va_list ap;

	if (!log_enabled(level))
		return;
	if (log_journal)
		n = (size_t)snprintf(line, sizeof(line), "<%d>", level);
	else
		n = put_stamp(line, sizeof(line));
	if (!log_journal)
		n += (size_t)snprintf(line + n, sizeof(line) - n, "%.64s[%d] %s", log_program, getpid(), level <= LOG_WARN ? words[level] : "");
	start = n;
	errno = saved; /* %m */
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n += strlen(line + n);
	/* What a user named a file must not forge a line. */
	for (size_t i = start; i < n; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = line[i] == '\t' ? '\t' : '?';
	line[n++] = '\n';
	while (write(STDERR_FILENO, line, n) < 0 && errno == EINTR)
		;
	errno = saved;
}

void log_leave_pipe(void)
{
	struct stat st;
	int fd;

	if (fstat(STDERR_FILENO, &st) < 0 || !S_ISFIFO(st.st_mode))
		return;
	fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	dup2(fd, STDERR_FILENO);
	close(fd);
}
