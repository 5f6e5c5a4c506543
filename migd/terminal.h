/* SPDX-License-Identifier: Apache-2.0 */
/* /dev/tty of a guest family. */
#ifndef MIGD_TERMINAL_H
#define MIGD_TERMINAL_H
#include <sys/types.h>

/*
 * In the mount namespace of `keeper`, /dev/tty becomes that terminal, unless it is one already. Its processes have no controlling terminal of this kernel's, so the device of that name
 * would say ENXIO; programs that want to speak to a person beside their standard input and output (less, ssh, gpg) open it. -errno: it stays so.
 */
int terminal_show(pid_t keeper, int terminal);

#endif
