/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal of this host's migd: what it decided as a home and what it holds as a guest host, so that a restarted migd goes on where the dead one was.
 * One line per record: crc32 of the rest in 8 hex digits, a space, a JSON object {"t": type, "f": family, "g": generation, ...}, a newline.
 * A record counts only when its line is whole and its sum is right. A last line without its newline is a torn write, and nothing is said of it; of other lines
 * that are no records journal_open() warns, and the file stays as PATH.damaged.
 * journal_write() returns after fdatasync(): a COMMIT that was reported written is found after any crash.
 *
 * On opening, what is still live is told to the caller record by record, and the file is rewritten with those records only; so it is when it has grown by
 * a MiB since, or by four times of what was live if that is more.
 * Locking: one lock inside; any thread.
 */
#ifndef MIGD_JOURNAL_H
#define MIGD_JOURNAL_H
#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>
#include "conf/error.h"

/*
 * Types. A later record of the same family replaces the earlier one of the same role, but for COMMIT, whose record is the decision itself.
 *   home:  "away"  gen, host, uid, pid, ..., state (eng_save): the family is away, decided
 *          "move"  gen (of the attempt), state: it is frozen for a move that is undecided
 *          "commit" gen, host: decided; "abort" gen: given up (only written where a commit may have been); "end": it is over or runs at home again
 *          "sig"   seq, pid, tid, info, taker, nr: a signal that a hollow was sent, on its way to the family until a "sigdone" with that seq or a later one
 *          "rep"   gen, seq, msg: a report of the guest host that was answered before it is carried out; "repdone" seq: that and those before it are
 *          "call"  place, id, msg: a call that the family made about a process here and that must not be made twice; made when it has "ret" (forward.c)
 *   guest: "guest" gen, home, state: it is here; "drop": it is not; "heard" seq: the last signal of its home that has been delivered;
 *          "adopted" gen, home: this host is its home now, and its old one may ask once more
 */
struct journal;
typedef void (*journal_fn)(void *arg, json_t *record);

int journal_open(const char *path, journal_fn live, void *arg, struct journal **out, struct error *e);
void journal_close(struct journal *j);
/* Takes the record (steals), writes and syncs it. -errno: it is not there, after a crash either. 1: it could not be taken back, so that is not known. */
int journal_write(struct journal *j, json_t *record);
/* The same without waiting for the disk: survives the death of this daemon, which is all that matters for what a reboot ends anyway. */
int journal_note(struct journal *j, json_t *record);
/* {"t": type, "f": family, "g": gen} to add to. */
json_t *journal_record(const char *type, const char *family, uint64_t gen);
/* Bytes as a value of a record, and back: how many there are, or -EINVAL (none, or more than max). */
json_t *journal_bytes(const void *p, size_t n);
ssize_t journal_get_bytes(const json_t *r, const char *key, void *p, size_t max);

/* For tests: parses one line without its newline. NULL: not a record. */
json_t *journal_parse(const char *line, size_t len);
char *journal_format(const json_t *record); /* with the newline; free() */

#endif
