/* SPDX-License-Identifier: Apache-2.0 */
/* Tells systemd (Type=notify, sd_notify(3)) how this daemon is. Without $NOTIFY_SOCKET they do nothing. Any thread. */
#ifndef CONF_NOTIFY_H
#define CONF_NOTIFY_H

/* 0, or -errno when the socket is there but does not take it. */
int notify_ready(void);
int notify_stopping(void);
/* One line for `systemctl status`. */
int notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
