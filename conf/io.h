/* SPDX-License-Identifier: Apache-2.0 */
/* All of it or an error, over what read(2) and write(2) do by pieces. */
#ifndef CONF_IO_H
#define CONF_IO_H
#include <stddef.h>

/* 0 or -errno; a socket whose other end has gone gives -EPIPE and no signal. Waits also where the descriptor would not. */
int io_write_all(int fd, const void *p, size_t n);
/* 0 or -errno; -EPIPE: it ended before. */
int io_read_all(int fd, void *p, size_t n);
#endif
