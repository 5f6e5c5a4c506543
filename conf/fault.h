/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fault injection for tests. SPRITE_FAULT names a directory: if it holds a file with the name of a step when a daemon comes to that step, then, by what is in it,
 * "die": the daemon ends itself (SIGKILL); "hold": the file is renamed to STEP.held, and it goes on when that is removed, so that something else can be killed or
 * cut meanwhile. Each file serves once.
 */
#ifndef CONF_FAULT_H
#define CONF_FAULT_H
void fault_point(const char *step);
#endif
