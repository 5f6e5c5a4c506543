// SPDX-License-Identifier: Apache-2.0
/* Whatever bytes come in: what comes out is UTF-8 for jansson, which is strict, and what was UTF-8 is not touched. */
#include "conf/text.h"

#include <CUnit/Basic.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "conf/error.h"

static void is(const char *in, const char *out)
{
	char *s = strdup(in);

	CU_ASSERT_STRING_EQUAL(text_valid(s), out);
	free(s);
}

static void test_known(void)
{
	is("", "");
	is("gr\xc3\xbc\xc3\x9f dich \xe2\x82\xac \xf0\x9f\x90\xa7", "gr\xc3\xbc\xc3\x9f dich \xe2\x82\xac \xf0\x9f\x90\xa7");
	is("gr\xfc\xdf", "gr??");		      /* Latin-1 */
	is("cut\xe2\x82", "cut??");		      /* the kernel cuts names at 15 bytes */
	is("\xc0\xaf \xe0\x80\xaf", "?? ???");	      /* overlong */
	is("\xed\xa0\x80 \xf4\x90\x80\x80", "??? ????"); /* a surrogate, beyond U+10FFFF */
	is("\xff\xc3\xbc\x80", "?\xc3\xbc?");
}

static void test_random(void)
{
	unsigned seed = 1;

	for (int i = 0; i < 200000; i++) {
		char s[9] = {0}, was[9];
		int n = rand_r(&seed) % 8 + 1;
		bool ok;

		for (int k = 0; k < n; k++)
			s[k] = (char)(rand_r(&seed) % 2 ? 0x80 + rand_r(&seed) % 128 : 1 + rand_r(&seed) % 255);
		strcpy(was, s);
		json_t *j = json_string(s);

		ok = j;
		json_decref(j);
		j = json_string(text_valid(s));
		CU_ASSERT_PTR_NOT_NULL_FATAL(j);
		json_decref(j);
		CU_ASSERT_EQUAL(strlen(s), strlen(was));
		CU_ASSERT_EQUAL(!strcmp(s, was), ok); /* touched when it had to be, and only then */
	}
}

static void test_unescape(void)
{
	char s[] = "/a\\040b\\134\\011c", plain[] = "/", cut[] = "/a\\04", big[] = "/\\400";

	CU_ASSERT(text_unescape(s) == 0);
	CU_ASSERT_STRING_EQUAL(s, "/a b\\\tc");
	CU_ASSERT(text_unescape(plain) == 0);
	CU_ASSERT_STRING_EQUAL(plain, "/");
	CU_ASSERT(text_unescape(cut) < 0);
	CU_ASSERT(text_unescape(big) < 0);
}

static void test_errors(void)
{
	struct error e = {0};

	error_set(&e, 2, "%s: gone", "/tmp/\xfc\n");
	CU_ASSERT_STRING_EQUAL(e.text, "/tmp/??: gone");
	error_prefix(&e, "\xe9");
	CU_ASSERT_STRING_EQUAL(e.text, "?: /tmp/??: gone");
}

int main(void)
{
	CU_initialize_registry();
	CU_pSuite s = CU_add_suite("text", NULL, NULL);

	CU_add_test(s, "known", test_known);
	CU_add_test(s, "random", test_random);
	CU_add_test(s, "paths of mountinfo", test_unescape);
	CU_add_test(s, "errors", test_errors);
	CU_basic_run_tests();
	int failed = CU_get_number_of_failures();

	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
