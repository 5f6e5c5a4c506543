/* SPDX-License-Identifier: Apache-2.0 */
/* Tells systemd (Type=notify, sd_notify(3)) how this daemon is. Without $NOTIFY_SOCKET they do nothing. Any thread. */
#ifndef CONF_NOTIFY_H
#define CONF_NOTIFY_H

/* 0, or -errno when the socket is there but does not take it. */
int notify_ready(void);
int notify_stopping(void);
/*
 * The watchdog's heartbeat (WatchdogSec=, sd_watchdog_enabled(3)): to be called at least each second by the loop whose life means that the daemon works.
 * Does nothing when no watchdog waits for this process.
 */
int notify_alive(void);
/* One line for `systemctl status`. */
int notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
