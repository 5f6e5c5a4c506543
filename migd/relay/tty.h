/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A terminal that stays at home. On the guest host the family has a pty, with the settings of the real one, so that what it reads with tcgetattr(), and may
 * set again after it has gone home, is true. The line discipline at home does the work (echo, editing, signals); the pty's is kept from doing it twice:
 * input is written under EXTPROC while ECHO is on, and \r\n of OPOST becomes \n again on the way. What the family sets is carried home in order with its
 * output, the window size is carried the other way.
 * At home the terminal is read only while the family is its foreground job, so that the shell's input stays the shell's.
 *
 * No locking: the hub's lock is held.
 */
#ifndef MIGD_RELAY_TTY_H
#define MIGD_RELAY_TTY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <termios.h>

struct relay_tty {
	int fd; /* home: the terminal (borrowed). guest: the pty's master (borrowed) */
	bool home;
	pid_t holder; /* home: a process of the family */
	struct termios seen; /* guest: what the family has set last */
	struct winsize size;
	bool kept;	     /* home: seen holds what relay_tty_keep() noted */
	bool cooked;	     /* guest: the pty turns \n into \r\n */
	bool told;	     /* seen/size have been sent once */
	bool left;	     /* home: the holder has ended or is stopped, or is about to be: the terminal is its shell's */
	bool may_read;	     /* home: the last answer */
	uint64_t looked_ns; /* ... and when */
};
void relay_tty_init(struct relay_tty *t);
void relay_tty_clear(struct relay_tty *t);
void relay_tty_home(struct relay_tty *t, int fd, pid_t holder);
/* A fresh pty: our side (non-blocking) and the family's. */
int relay_tty_guest(struct relay_tty *t, int *master, int *slave);
/* Is there any use in waiting for input? Some milliseconds old: before a read ask relay_tty_is_ours(). */
bool relay_tty_may_read(struct relay_tty *t);
bool relay_tty_is_ours(struct relay_tty *t);
/* What must be told the other side: struct termios (guest) or struct winsize (home). Returns bytes, 0: nothing new. */
size_t relay_tty_news(struct relay_tty *t, void *buf, size_t n);
/* Home: notes the terminal's settings before the engine fills the hollows, and sets them again afterwards. */
void relay_tty_keep(struct relay_tty *t);
void relay_tty_back(struct relay_tty *t);
/* Home: puts bytes back as if they were typed again, without echo. */
void relay_tty_unread(struct relay_tty *t, const unsigned char *p, size_t n);
/* Guest: undoes what OPOST did to n fresh bytes: the terminal at home does it again. Returns how many are left. */
size_t relay_tty_uncook(struct relay_tty *t, unsigned char *p, size_t n);
/* Guest: write(2) of input to the pty, without echo. */
ssize_t relay_tty_write(int master, int slave, const unsigned char *p, size_t n);
int relay_tty_input(struct relay_tty *t, const void *data, size_t n);

#endif
