// SPDX-License-Identifier: Apache-2.0
/* See text.h. */
#include "conf/text.h"

#include <errno.h>
#include <stdint.h>

/* Bytes of the character at s; 0: there is none. The NUL at the end is no continuation byte, so nothing behind it is looked at. */
static int character(const unsigned char *s)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	int n = *s < 0x80 ? 1 : *s < 0xc0 ? 0 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : *s < 0xf8 ? 4 : 0;
	uint32_t c = n > 1 ? *s & (0x7fu >> n) : *s;

	for (int i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	return n && (n == 1 || (c >= least[n] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff))) ? n : 0;
}

char *text_valid(char *s)
{
	for (unsigned char *c = (unsigned char *)s; *c;) {
		int n = character(c);

		if (!n)
			*c = '?';
		c += n ? n : 1;
	}
	return s;
}

int text_unescape(char *s)
{
	char *to = s;

	for (; *s; s++, to++) {
		*to = *s;
		if (*s != '\\')
			continue;
		for (int i = 1; i <= 3; i++)
			if (s[i] < '0' || s[i] > (i == 1 ? '3' : '7'))
				return -EINVAL;
		*to = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
		s += 3;
	}
	*to = 0;
	return 0;
}
