// SPDX-License-Identifier: Apache-2.0
/* Recipes taken apart; see command.h. */
#include "migd/cli/command.h"
#include <stdio.h>
#include <string.h>

void command_word(const char *command, char *to, size_t n)
{
	const char *c = command, *end, *slash;

	for (;;) {
		c += strspn(c, " \t\n@+-(!{");
		end = c + strcspn(c, " \t\n;|&<>()");
		/* NAME=value in front of a command */
		const char *eq = memchr(c, '=', (size_t)(end - c));

		if (!eq || eq == c || memchr(c, '/', (size_t)(eq - c)))
			break;
		c = end;
	}
	slash = memrchr(c, '/', (size_t)(end - c));
	if (slash)
		c = slash + 1;
	snprintf(to, n, "%.*s", (int)(end - c), c);
}

static bool one_of(const char *word, const char *const *list)
{
	for (; *list; list++)
		if (!strcmp(word, *list))
			return true;
	return false;
}

bool command_tiny(const char *command)
{
	/* What a shell does by itself, and programs that change a name or two. */
	static const char *const builtin[] = {"", ":", "echo", "true", "false", "test", "[", "cd", "printf", "exit", "set", "touch", "mkdir", "rmdir", "rm", "ln", "mv", "cp",
		"chmod", "install", "readlink", NULL};
	char word[64];

	command_word(command, word, sizeof(word));
	return one_of(word, builtin) && !strpbrk(command, ";&|`\n") && !strstr(command, "$(");
}

/* One word at *c into to, without its quotes. false: it says more than its letters. */
static bool split_word(const char **c, char **to, const char *end)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./,:+@%=-";
	size_t n;

	while (**c && **c != ' ' && **c != '\t') {
		const char *from = *c;

		if (*from == '\'' || *from == '"') {
			from++;
			n = strcspn(from, **c == '\'' ? "'\\\n" : "\"$`\\\n");
			if (from[n] != **c)
				return false;
			*c = from + n + 1;
		} else {
			n = strspn(from, plain);
			if (!n)
				return false;
			*c = from + n;
		}
		if (n >= (size_t)(end - *to))
			return false;
		memcpy(*to, from, n);
		*to += n;
	}
	*(*to)++ = 0;
	return true;
}

int command_split(const char *command, char *buf, size_t size, char **argv, int max)
{
	/* What sh(1) does by itself and there may be no program for, and its reserved words. ("true" and its like are programs as well.) */
	static const char *const shell[] = {".", ":", "alias", "bg", "break", "case", "cd", "command", "continue", "do", "done", "elif", "else", "esac", "eval", "exec", "exit",
		"export", "fc", "fg", "fi", "for", "function", "getopts", "hash", "if", "in", "jobs", "local", "login", "logout", "read", "readonly", "return", "select", "set", "shift",
		"source", "test", "then", "time", "times", "trap", "type", "ulimit", "umask", "unalias", "unset", "until", "wait", "while", "", NULL};
	char *to = buf;
	int n = 0;

	for (const char *c = command + strspn(command, " \t"); *c; c += strspn(c, " \t")) {
		argv[n] = to;
		if (n + 1 >= max || !split_word(&c, &to, buf + size))
			return 0;
		n++;
	}
	if (!n || strchr(argv[0], '=') || one_of(argv[0], shell))
		return 0;
	argv[n] = NULL;
	return n;
}
