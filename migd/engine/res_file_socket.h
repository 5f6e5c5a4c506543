/* SPDX-License-Identifier: Apache-2.0 */
/* Between the two halves of unix sockets: res_file_socket.c (source) and res_file_socket_fill.c (destination). */
#ifndef ENGINE_RES_FILE_SOCKET_H
#define ENGINE_RES_FILE_SOCKET_H
#include "migd/engine/res_files.h"

int socket_number(int fd, int option); /* a numeric option of SOL_SOCKET */
/* Options that are numbers, carried if they are not what a fresh socket has; ends with 0. */
extern const int socket_options[];
/* file_kind's open and finish */
int socket_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e);
int socket_finish(struct eng_proc *p, struct file_desc *d, int num, struct error *e);

#endif
