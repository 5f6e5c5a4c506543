/* SPDX-License-Identifier: Apache-2.0 */
/* Text that others gave us: names of processes, files and peers are bytes of any kind, but JSON and terminals want UTF-8, and the kernel's tables words. */
#ifndef CONF_TEXT_H
#define CONF_TEXT_H

/* Makes s valid UTF-8 in place (RFC 3629: no overlong forms, no surrogates): each byte that belongs to no character becomes '?'. Returns s. For what is
 * shown and told; never for what is acted upon. */
char *text_valid(char *s);

/* A path of /proc/PID/mountinfo in place: space, tab, newline and backslash stand there as \ooo (proc(5)). -EINVAL: it is none, and s is spoilt. */
int text_unescape(char *s);

#endif
