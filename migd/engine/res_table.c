// SPDX-License-Identifier: Apache-2.0
/* All kinds of state, in the order of restore (hollow() goes backwards). A new kind: copy a small res_*.c, add it here, add a program to tests/move/. */
#include "migd/engine/res.h"

extern const struct eng_res res_objects, res_memory, res_sysv, res_mqueue, res_relays, res_fifos, res_sockets, res_files, res_fs, res_signals, res_timers, res_limits, res_misc, res_threads, res_seccomp, res_creds;

const struct eng_res *const eng_res_table[] = {
	&res_objects, /* shared memory, before the maps of it */
	&res_memory,
	&res_sysv, /* attached where memory left room */
	&res_mqueue, /* before the descriptors of them */
	&res_files,
	&res_relays,
	&res_fifos,
	&res_sockets,
	&res_fs,
	&res_signals,
	&res_timers,
	&res_limits,
	&res_misc,
	&res_threads,
	&res_seccomp, /* they sleep while we trace: installing takes rights that credentials may take away */
	&res_creds, /* last: takes the rights to do all of the above */
	NULL,
};
