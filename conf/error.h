/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error text, built where the cause is known and logged once, where it is handled.
 * A function that can fail for a reason worth words takes a `struct error *` (may be NULL)
 * and returns 0 or -errno; the text is one line: what, where, what was expected.
 */
#ifndef CONF_ERROR_H
#define CONF_ERROR_H
#include <stdbool.h>

struct error {
	int code;	/* errno, positive; 0 = none */
	bool absent;	/* the daemon that was to be asked is not there; an errno that it answers may look the same */
	char text[480]; /* one line, no newline */
};

/* Fills `e` (if not NULL) and returns -code. The first cause is kept: a second call on a filled one is ignored. */
int error_set(struct error *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "prefix: " before the text that is there, for a caller that knows more of the where. */
void error_prefix(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
