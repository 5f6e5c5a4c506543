// SPDX-License-Identifier: Apache-2.0
/* Fault injection, see fault.h. Costs one getenv() per step when unused. */
#include "migd/fault.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/log.h"

void fault_point(const char *step)
{
	const char *want = getenv("SPRITE_FAULT");
	size_t n = strlen(step);

	if (!want || strncmp(want, step, n))
		return;
	if (!want[n]) {
		log_note("fault injection: dying at \"%s\"", step);
		kill(getpid(), SIGKILL);
	} else if (!strcmp(want + n, ":pause")) {
		log_note("fault injection: pausing at \"%s\"", step);
		sleep(10);
	}
}
