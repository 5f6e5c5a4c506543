/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes and terminals between a family that is away and those who stayed at home.
 *
 * At home the hub holds the original ends (the hollow keeps its descriptors too); on the guest host it holds the other ends of the fresh pipes and
 * ptys that the family got. Frames travel over one stream per family and generation (rpc: RelayFrame). One thread per hub polls and sends; the stream's
 * reader hands frames in. The link may break and be made again at any time: relay_half.h.
 *
 *   guest -> home   first HELLO{family, gen}, then HELLO{id, offset got} for each relay; home answers HELLO{id, offset got} for each
 *   both ways       DATA{id, offset} + bytes, ACK{id, offset}, END{id, offset} (no more writers), CLOSED{id} (no more readers)
 *   guest -> home   SYNC{offset = token}: answered by SYNCED{token} when everything before it has been carried out
 *   tty             TERMIOS (guest -> home) and WINSIZE (home -> guest) carry the kernel's structs
 *
 * Locking: hub.lock guards all; it is never held while sending. Any thread may call.
 */
#ifndef MIGD_RELAY_H
#define MIGD_RELAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum relay_kind { RELAY_IN, RELAY_OUT, RELAY_TTY }; /* IN: the family reads */
enum relay_frame_kind { RF_HELLO, RF_DATA, RF_ACK, RF_END, RF_CLOSED, RF_SYNC, RF_SYNCED, RF_RESUME, RF_TERMIOS, RF_WINSIZE, RF_KINDS };

struct relay_frame {
	uint64_t id;
	enum relay_frame_kind kind;
	uint64_t offset;
	const void *data;
	size_t len;
};

/* Sends a frame; may block; -errno breaks the link. Called by the hub's thread only. */
struct relay_link {
	int (*send)(void *ctx, const struct relay_frame *f);
	void *ctx;
};

struct relay_hub;
int relay_hub_new(bool home, struct relay_hub **out);
void relay_hub_free(struct relay_hub *h); /* link must be down */
size_t relay_count(const struct relay_hub *h);

/* Home: keeps `fd`, a duplicate of the original end (taken over). A known id: fd is closed, nothing changes. */
int relay_add(struct relay_hub *h, uint64_t id, enum relay_kind kind, int fd, pid_t holder);
/* Home: a new duplicate of the original end, for the engine when the family comes back. */
int relay_original(struct relay_hub *h, uint64_t id);
/* Guest: makes a fresh pipe or pty and returns the family's end. */
int relay_make(struct relay_hub *h, uint64_t id, enum relay_kind kind);
/* Home: the family comes back: what was typed for it and not read goes back into its terminals. */
void relay_unread(struct relay_hub *h);
/* Home: process `pid` ends, or stops, in a moment: from now on nothing is read that is typed for its shell; what it has not read goes back when it has ended. */
void relay_left(struct relay_hub *h, pid_t pid, bool ended);
void relay_back(struct relay_hub *h, pid_t pid); /* it was stopped and goes on */
/* Home: a new generation starts at offset 0 everywhere. */
void relay_reset(struct relay_hub *h);

/* The link is there: starts the hub's thread. link->ctx must stay valid until relay_leave() of it, or relay_down(), returns. */
int relay_up(struct relay_hub *h, const struct relay_link *link);
void relay_down(struct relay_hub *h);
/* The link with this ctx goes; nothing, if another has taken its place. */
void relay_leave(struct relay_hub *h, const void *ctx);
/* A frame came in. -EPROTO: nonsense; drop the link. */
int relay_input(struct relay_hub *h, const struct relay_frame *f);
bool relay_broken(struct relay_hub *h); /* sending failed */

/*
 * Guest, with the family frozen: what it wrote is with its readers, what it has not read is back in its pipe, and home confirms it. -ETIMEDOUT: not within
 * timeout_ms (a reader that does not read). Afterwards either the hub is freed, or relay_resume().
 */
int relay_quiesce(struct relay_hub *h, int timeout_ms);
void relay_resume(struct relay_hub *h);
/*
 * Guest: a process has ended: waits until what has been written so far is with its readers, so that its parent finds it before the exit, and until home
 * knows how much of its input has been read.
 */
int relay_drain(struct relay_hub *h, int timeout_ms);

#endif
