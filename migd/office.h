/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is the master? One thread stands for election at the root server (through the local spritefs; fs/server/elect.h has the rule): the holder every second, the others when
 * the office may be free again. It reports this host to whoever holds the office: every few seconds, and at once after office_report_soon().
 * Locking: one lock inside; any thread.
 */
#ifndef MIGD_OFFICE_H
#define MIGD_OFFICE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "migd/context.h"

struct office;
int office_open(struct migd *m, struct office **out, struct error *e);
void office_close(struct office *o); /* resigns; office_report_soon() still works */
void office_free(struct office *o);
/* This host may act as the master now (until its lease runs out). */
bool office_holding(struct office *o);
/* Name of the master's host, "" = none known. Returns the term. */
uint64_t office_master(struct office *o, char *name, size_t n);
void office_report_soon(struct office *o);
/* The master seems to be gone: another may be elected already. */
void office_look_soon(struct office *o);

#endif
