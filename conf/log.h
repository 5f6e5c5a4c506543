/* SPDX-License-Identifier: Apache-2.0 */
/* One line per event on stderr with syslog priority "<N>" under systemd (sd-daemon(3)), plain with a time stamp elsewhere. */
#ifndef CONF_LOG_H
#define CONF_LOG_H

enum log_level { LOG_ERROR = 3, LOG_WARN = 4, LOG_NOTE = 5, LOG_INFO = 6, LOG_DBG = 7 };

/* `program` must live as long as the process. Level from $SPRITE_LOG (error warn note info debug), default note. */
void log_init(const char *program);
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int log_enabled(enum log_level level);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_note(...)  log_write(LOG_NOTE, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                                       \
	do {                                                                                                 \
		if (log_enabled(LOG_DBG))                                                                    \
			log_write(LOG_DBG, __VA_ARGS__);                                                     \
	} while (0)

/* A daemon that goes on when who started it has gone: a pipe on stderr would make its reader wait for us. Then nothing more is said. */
void log_leave_pipe(void);

#endif
