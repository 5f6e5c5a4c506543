// SPDX-License-Identifier: Apache-2.0
/* Command lines of make; see make_args.h. */
#include "migd/cli/make_args.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* GNU make 4.3, "Summary of options": short ones with a value, and those that may have one behind them. (-j and -l also take the next word, when it is a number.) */
static const char valued[] = "CfIoWE", maybe[] = "jlO";
static const struct {
	const char *name;
	char letter;
} long_ones[] = {{"jobs", 'j'}, {"file", 'f'}, {"makefile", 'f'}, {"directory", 'C'}, {"include-dir", 'I'}, {"old-file", 'o'}, {"assume-old", 'o'}, {"what-if", 'W'},
	{"new-file", 'W'}, {"assume-new", 'W'}, {"eval", 'E'}};

void make_line_init(struct make_line *l, int argc, char **argv)
{
	*l = (struct make_line){.argc = argc, .argv = argv, .i = 1};
}

/* "-k" for 'k': as long as the program lives. */
static const char *short_text(char letter)
{
	static char text[128][3];
	char *t = text[letter & 127];

	t[0] = '-';
	t[1] = letter;
	return t;
}

static char *next_word(struct make_line *l)
{
	return l->i < l->argc ? l->argv[l->i++] : NULL;
}

static bool is_number(const char *s)
{
	return s && *s && s[strspn(s, "0123456789.")] == 0;
}

/* A value that stands behind its letter stays there: the letter before, which has had its turn, becomes the dash. */
static void take_rest(struct make_line *l, struct make_arg *a)
{
	a->value = l->rest;
	l->rest[-2] = '-';
	a->as[0] = l->rest - 2;
	l->rest = NULL;
}

static void take_short(struct make_line *l, struct make_arg *a)
{
	bool optional, behind;

	a->letter = *l->rest++;
	a->as[0] = short_text(a->letter);
	optional = strchr(maybe, a->letter);
	behind = optional && a->letter != 'O' ? isdigit((unsigned char)*l->rest) != 0 : *l->rest != 0;
	if ((optional || strchr(valued, a->letter)) && behind)
		take_rest(l, a);
	else if (!*l->rest && (optional ? a->letter != 'O' && l->i < l->argc && is_number(l->argv[l->i]) : strchr(valued, a->letter) != NULL))
		a->value = a->as[1] = next_word(l);
	if (l->rest && !*l->rest)
		l->rest = NULL;
}

static void take_long(struct make_line *l, struct make_arg *a, const char *word)
{
	const char *eq = strchr(word, '=');
	size_t n = eq ? (size_t)(eq - word) : strlen(word);

	a->name = word + 2;
	a->as[0] = word;
	a->value = eq ? eq + 1 : NULL;
	for (size_t i = 0; i < sizeof(long_ones) / sizeof(long_ones[0]); i++)
		if (n - 2 == strlen(long_ones[i].name) && !strncmp(word + 2, long_ones[i].name, n - 2))
			a->letter = long_ones[i].letter;
	if (a->letter && !eq && (a->letter != 'j' || (l->i < l->argc && is_number(l->argv[l->i]))))
		a->value = a->as[1] = next_word(l);
}

bool make_line_next(struct make_line *l, struct make_arg *a)
{
	char *word;

	*a = (struct make_arg){0};
	if (l->rest) {
		take_short(l, a);
		return true;
	}
	word = next_word(l);
	if (!word)
		return false;
	if (l->words || word[0] != '-' || !word[1]) {
		a->as[0] = word;
	} else if (word[1] != '-') {
		l->rest = word + 1;
		take_short(l, a);
	} else if (!word[2]) {
		l->words = true;
		a->as[0] = word;
	} else {
		take_long(l, a, word);
	}
	return true;
}

bool make_arg_is(struct make_line *l, struct make_arg *a, const char *name, bool wants)
{
	size_t n = strlen(name);

	if (!a->name || strncmp(a->name, name, n) || (a->name[n] && a->name[n] != '='))
		return false;
	if (wants && !a->value)
		a->value = next_word(l);
	return true;
}

size_t make_flags_options(const char *flags)
{
	const char *p = strncmp(flags, "-- ", 3) ? strstr(flags, " -- ") : flags;

	return p ? (size_t)(p - flags) : strlen(flags);
}

char *make_flags_alone(const char *flags)
{
	char *copy = strdup(flags ? flags : ""), *out = calloc(1, strlen(flags ? flags : "") + 2), *to = out, *save = NULL;

	size_t options = make_flags_options(flags ? flags : "");
	const char *variables = (flags ? flags : "") + options;

	if (copy)
		copy[options] = 0;
	for (char *w = copy && out ? strtok_r(copy, " ", &save) : NULL; w; w = strtok_r(NULL, " ", &save)) {
		bool server = !strncmp(w, "--jobserver", 11) || (!strncmp(w, "-j", 2) && !w[2 + strspn(w + 2, "0123456789")]);

		/* The first word may be letters without a dash, and stays the first. */
		if (!server)
			to += sprintf(to, "%s%s", to > out || w != copy ? " " : "", w);
	}
	if (copy && out)
		strcpy(to, variables);
	free(copy);
	return out;
}
