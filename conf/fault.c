// SPDX-License-Identifier: Apache-2.0
/* Fault injection, see fault.h. Costs one getenv() per step when unused. */
#include "conf/fault.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "conf/cleanup.h"
#include "conf/log.h"

enum { HELD_S = 120, LOOK_US = 5000 };

void fault_point(const char *step)
{
	const char *dir = getenv("SPRITE_FAULT");
	_cleanup_free_ char *armed = NULL, *held = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	char what[8] = "";

	if (!dir || asprintf(&armed, "%s/%s", dir, step) < 0 || asprintf(&held, "%s/%s.held", dir, step) < 0)
		return;
	f = fopen(armed, "re");
	if (!f || !fgets(what, sizeof(what), f))
		return;
	if (!strncmp(what, "die", 3)) {
		log_note("fault injection: dying at \"%s\"", step);
		unlink(armed);
		kill(getpid(), SIGKILL);
	} else if (!strncmp(what, "hold", 4) && !rename(armed, held)) {
		log_note("fault injection: held at \"%s\"", step);
		for (int i = 0; i < HELD_S * (1000000 / LOOK_US) && !access(held, F_OK); i++)
			usleep(LOOK_US);
	}
}
