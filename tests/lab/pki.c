/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates of a lab: made by sprite-pki, as for real machines, in LAB_RUN/NAME/pki. It stays there, so that tests can make more of the same authority. */
#include "lab.h"
#include <string.h>

int pki_create(const struct lab *lab, struct error *e)
{
	_cleanup_free_ char *program = xasprintf("%s/sprite-pki", lab->bindir), *dir = xasprintf("%s/pki", lab->dir);
	int rc = run_program((const char *const[]){program, "init", dir, NULL}, NULL, e);

	for (size_t i = 0; rc == 0 && i < lab->nnodes; i++)
		rc = run_program((const char *const[]){program, "host", "--address", lab->node[i].address, dir, lab->node[i].name, NULL}, NULL, e);
	return rc;
}
