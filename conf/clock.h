/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only place that daemons read time and boot identity from, so that tests and the lab can put them elsewhere.
 * The lab gives a node an offset through $SPRITE_CLOCK_OFFSET_MS (signed, added to all three clocks) and a boot
 * identity through $SPRITE_BOOT_ID (36 characters). Both are read once per process.
 */
#ifndef CONF_CLOCK_H
#define CONF_CLOCK_H
#include <stdint.h>

uint64_t clock_boot_ns(void); /* CLOCK_BOOTTIME: leases and time-outs; goes on during suspend */
uint64_t clock_mono_ns(void); /* CLOCK_MONOTONIC: durations that are reported */
uint64_t clock_host_mono_ns(void); /* the same as other programs of this host read it, for times that they tell: never shifted */
int64_t clock_real_ns(void);  /* CLOCK_REALTIME: for people only */

/* Tests: replace the source of all three (NULL: the kernel again). */
void clock_fake(uint64_t (*source)(void));

/* Random, one per start of this process: tells a restarted daemon from one that lived on. Never 0. */
uint64_t clock_epoch(void);
/* This process goes on as an earlier one: at its start, before anybody has asked. */
void clock_epoch_adopt(uint64_t earlier);
/* /proc/sys/kernel/random/boot_id or $SPRITE_BOOT_ID, 36 characters + NUL. */
const char *clock_boot_id(void);

#endif
