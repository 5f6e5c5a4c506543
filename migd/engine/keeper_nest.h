/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of sprite-keeper share. */
#ifndef ENGINE_KEEPER_NEST_H
#define ENGINE_KEEPER_NEST_H
#include "migd/engine/keeper.h"

/* keeper_main.c: tells migd by errno, and ends. */
void fail(const char *what);
/* keeper_main.c: pid 1 of the nest. Does not return. */
void inner_main(const struct keeper_setup *s);

/* Makes the namespaces and starts the inner half in them. 0 */
int outer_main(struct keeper_setup *s);
/* ns to add to this host's clocks: in a time namespace for children made from now on. */
void set_clocks(int64_t mono, int64_t boot);
void lo_up(void);
#endif
