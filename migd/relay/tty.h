/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A terminal that stays at home. On the guest host the family has a pty, with the settings of the real one, so that what it reads with tcgetattr(), and may
 * set again after it has gone home, is true. The line discipline at home does the work (echo, editing, signals); the pty's is kept from doing it twice:
 * input is written under EXTPROC while ECHO is on, and \r\n of OPOST becomes \n again on the way. What the family sets is carried home in order with its
 * output, the window size is carried the other way; so is what somebody sets at home while the family is the foreground job (stty(1) before fg, or from elsewhere). Settings that have crossed:
 * each side counts those of the home, and what the family set without having seen the last one is told it again, as the last one. So both are the same when nobody sets anything.
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
	struct termios seen; /* as it is on both sides, as far as we know */
	uint64_t count;	     /* settings of the home over this link: sent, or (guest) received */
	bool set;	     /* guest: the family has set something; a new link has to say so */
	bool again;	     /* to be sent, whether it is new or not */
	struct winsize size;
	bool kept;	     /* home: relay_tty_keep() has noted */
	struct termios before; /* ... this */
	bool cooked;	     /* guest: the pty turns \n into \r\n */
	bool told;	     /* guest: seen is known; home: size has been sent */
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
/* What must be told the other side: settings, and of the home the window's size. True: *tio is to be sent, with t->count. */
bool relay_tty_set(struct relay_tty *t, struct termios *tio);
bool relay_tty_size(struct relay_tty *t, struct winsize *ws, bool *changed); /* changed: since the terminal came here; not merely told again */
/* Home: the family has the new size. The signal that the kernel sent may have been there before it: here is another one. */
void relay_tty_sized(struct relay_tty *t);
void relay_tty_link(struct relay_tty *t); /* a new link: what was on its way may be lost */
/* Home: notes the terminal's settings before the engine fills the hollows, and sets them again afterwards. */
void relay_tty_keep(struct relay_tty *t);
void relay_tty_back(struct relay_tty *t);
/* Home: puts bytes back as if they were typed again, without echo. */
void relay_tty_unread(struct relay_tty *t, const unsigned char *p, size_t n);
/* Guest: undoes what OPOST did to n fresh bytes: the terminal at home does it again. Returns how many are left. */
size_t relay_tty_uncook(struct relay_tty *t, unsigned char *p, size_t n);
/* Guest: write(2) of input to the pty, without echo. */
ssize_t relay_tty_write(int master, int slave, const unsigned char *p, size_t n);
/* What came of the other side. -EPROTO */
int relay_tty_input(struct relay_tty *t, bool size, uint64_t count, const void *data, size_t n);

#endif
