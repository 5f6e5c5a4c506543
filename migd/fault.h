/* SPDX-License-Identifier: Apache-2.0 */
/* Fault injection for tests: SPRITE_FAULT=step kills migd (SIGKILL) when it comes to that step; "step:pause" stops it there for ten seconds. */
#ifndef MIGD_FAULT_H
#define MIGD_FAULT_H
void fault_point(const char *step);
#endif
