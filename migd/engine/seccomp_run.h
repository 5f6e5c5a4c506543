/* SPDX-License-Identifier: Apache-2.0 */
/* What a seccomp filter says to a call: classic BPF as the kernel runs it over struct seccomp_data. Pure. */
#ifndef ENGINE_SECCOMP_RUN_H
#define ENGINE_SECCOMP_RUN_H
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The filter's return value (SECCOMP_RET_* and data). What is no valid filter counts as SECCOMP_RET_KILL_PROCESS. */
uint32_t seccomp_run(const struct sock_filter *f, size_t n, const struct seccomp_data *d);
/* Can it ever return that action? (By constants; one that returns a computed value may return anything.) */
bool seccomp_may_return(const struct sock_filter *f, size_t n, uint32_t action);

#endif
