// SPDX-License-Identifier: Apache-2.0
/*
 * What a program may have found by CPUID and will go on using: an image names it, and a host that lacks one of it is refused, by name. Kernel-internal
 * features (vmx, pti, ...) do not matter.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "migd/engine/core.h"

static const char *const features[] = {"sse", "sse2", "pni", "ssse3", "sse4_1", "sse4_2", "sse4a", "popcnt", "cx16", "movbe", "aes", "pclmulqdq", "xsave", "xsavec",
	"avx", "f16c", "fma", "rdrand", "rdseed", "fsgsbase", "bmi1", "bmi2", "abm", "adx", "avx2", "rtm", "hle", "clflushopt", "clwb", "sha_ni", "gfni", "vaes",
	"vpclmulqdq", "rdpid", "movdiri", "movdir64b", "serialize", "pku", "ospke", "rdtscp", "tbm", "fma4", "xop", "prefetchw", "3dnowprefetch", "avx_vnni", "avx_ifma",
	"avx512f", "avx512dq", "avx512ifma", "avx512cd", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg",
	"avx512_vpopcntdq", "avx512_bf16", "avx512_fp16", "avx512_vp2intersect", "amx_bf16", "amx_tile", "amx_int8", "erms", "fsrm", "waitpkg", "cldemote"};

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *s = list; (s = strstr(s, word)); s += n)
		if ((s == list || s[-1] == ' ') && (s[n] == ' ' || s[n] == '\0' || s[n] == '\n'))
			return true;
	return false;
}

static bool is_hidden(const char *const *hide, const char *name)
{
	for (; hide && *hide; hide++)
		if (!strcmp(*hide, name))
			return true;
	return false;
}

const char *eng_cpu_features(const char *const *hide)
{
	static __thread char out[2048];
	_cleanup_free_ char *text = eng_proc_read(AT_FDCWD, "/proc/cpuinfo", NULL);
	const char *flags = text ? strstr(text, "\nflags") : NULL;
	_cleanup_free_ char *line = NULL;
	size_t n = 0;

	out[0] = '\0';
	if (flags)
		line = strndup(flags + 1, strcspn(flags + 1, "\n"));
	for (size_t i = 0; line && i < ARRAY_SIZE(features); i++)
		if (has_word(line, features[i]) && !is_hidden(hide, features[i]))
			n += snprintf(out + n, sizeof(out) - n, "%s%s", n ? " " : "", features[i]);
	return out;
}

const char *eng_cpu_missing(const char *needed, const char *const *hide)
{
	static __thread char word[32];
	_cleanup_free_ char *mine = strdup(eng_cpu_features(hide));

	for (const char *s = needed; mine && *s;) {
		size_t n = strcspn(s, " ");

		snprintf(word, sizeof(word), "%.*s", (int)(n < 31 ? n : 31), s);
		if (!has_word(mine, word))
			return word;
		s += n;
		s += strspn(s, " ");
	}
	return NULL;
}
