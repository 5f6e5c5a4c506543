/* SPDX-License-Identifier: Apache-2.0 */
/* The status of a server as Prometheus text. Pure. */
#ifndef FS_SERVER_METRICS_H
#define FS_SERVER_METRICS_H
#include <jansson.h>
#include <stdio.h>

void metrics_print(FILE *f, json_t *status);

#endif
