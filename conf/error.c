// SPDX-License-Identifier: Apache-2.0
/* Error text: see error.h. No state of its own; a struct error belongs to its caller. */
#include "conf/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "conf/text.h"

/* One line whatever came in: names of files and peers may hold anything. */
static void one_line(char *s)
{
	for (text_valid(s); *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			*s = '?';
}

int error_set(struct error *e, int code, const char *fmt, ...)
{
	va_list ap;

	if (!e || e->code)
		return -code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	one_line(e->text);
	return -code;
}

void error_prefix(struct error *e, const char *fmt, ...)
{
	char text[sizeof(e->text)];
	va_list ap;
	size_t n;

	if (!e || !e->code)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text) - 2, fmt, ap);
	va_end(ap);
	n = strlen(text);
	memcpy(text + n, ": ", 2);
	n += 2;
	/* Too long: the end of the cause is lost, not the where. */
	memcpy(text + n, e->text, sizeof(text) - n);
	text[sizeof(text) - 1] = 0;
	one_line(text);
	memcpy(e->text, text, sizeof(text));
}
