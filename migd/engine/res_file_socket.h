/* SPDX-License-Identifier: Apache-2.0 */
/* Between the two halves of unix sockets: res_file_socket.c (source) and res_file_socket_fill.c (destination). */
#ifndef ENGINE_RES_FILE_SOCKET_H
#define ENGINE_RES_FILE_SOCKET_H
#include "migd/engine/res_files.h"

int socket_number(int fd, int option); /* a numeric option of SOL_SOCKET */
uint64_t socket_timeout(int fd, int option); /* us */
const char *socket_state_reason(int fd, bool filter); /* what cannot be taken out of a live socket, NULL: nothing; filter: one is such a thing */
/* The target makes it, so that it lies in the family's network namespace and shows the family's user as its maker. 0 or -errno. */
int socket_by_target(struct eng_proc *p, int domain, int type, bool pair, int fd[2]);
/* Buffers, time-outs and what m lists of SOL_SOCKET. */
void socket_options_set(int fd, const Sprite__Img__Socket *m);
/* Options that are numbers; ends with 0. */
enum { SOCKET_OPTIONS_MAX = 10 };
extern const int socket_options[SOCKET_OPTIONS_MAX];
/* file_kind's open and finish */
int socket_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e);
int socket_finish(struct eng_proc *p, struct file_desc *d, int num, struct error *e);

/* res_file_inet.c */
struct places *inet_places(void); /* empty; to be freed by free() */
bool inet_is(int domain, int type, int protocol);
void inet_probe(struct eng_probe *p, const struct file_look *l, int fd, const char *name);
int inet_dump(struct eng_family *f, struct file_desc *d, int fd, Sprite__Img__File *m, struct error *e);
int inet_open(struct eng_family *f, struct eng_proc *p, struct file_desc *d, struct error *e);
int inet_dead_end(const Sprite__Img__File *m); /* at home: what stands for one that was lost */

#endif
