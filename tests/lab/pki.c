/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates of a lab: made by sprite-pki, as for real machines, in LAB_RUN/NAME/pki. */
#include "lab.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* DEVELOPMENT ONLY, until sprite-pki is there: the same by hand. */
static int by_hand(const struct lab *lab, struct error *e)
{
	_cleanup_free_ char *script = xasprintf(
		"set -e; cd %s/pki; mkdir -p ca\n"
		"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca/ca.key -out ca/ca.pem -days 3650 -subj /CN=sprite-lab\n"
		"for n in $*; do openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $n.key -out $n.csr -subj /CN=$n\n"
		"echo subjectAltName=DNS:$n > $n.ext\n"
		"openssl x509 -req -in $n.csr -CA ca/ca.pem -CAkey ca/ca.key -days 3650 -extfile $n.ext -out $n.pem; done\n", lab->dir);
	const char *argv[LAB_NODES_MAX + 5] = {"sh", "-c", script, "sh"};

	for (size_t i = 0; i < lab->nnodes; i++)
		argv[4 + i] = lab->node[i].name;
	return run_program(argv, NULL, e);
}

int pki_create(const struct lab *lab, struct error *e)
{
	_cleanup_free_ char *dir = xasprintf("%s/pki", lab->dir);
	int rc = make_dirs(dir, 0700);

	if (rc < 0)
		return error_set(e, -rc, "%s: %s", dir, strerror(-rc));
	return by_hand(lab, e);
}
