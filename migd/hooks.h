/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine asks of migd; see hooks.c. */
#ifndef MIGD_HOOKS_H
#define MIGD_HOOKS_H
#include "migd/family.h"

void hooks_of(struct family *f, struct eng_hooks *out);

#endif
