/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine and sprite-keeper say to each other: one struct keeper_msg a packet over a SOCK_SEQPACKET pair (fd 3 of the keeper), later over a
 * connection to its abstract socket (fd 4, listening), when migd was restarted. Pids are the family's own; a sender's pid in SCM_CREDENTIALS is
 * the one that migd's host knows it by.
 */
#ifndef ENGINE_KEEPER_H
#define ENGINE_KEEPER_H
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include "migd/engine/foreign.h"

#define KEEPER_NAME "sprite-keeper" /* comm of a pid 1: that is how a process can tell that it is away (mig) */
#define KEEPER_NAME_AHEAD "sprite-ahead" /* until it has a family */

enum keeper_op {
	KEEPER_SETUP = 1, /* -> first of all: struct keeper_setup; by a migd of before KEEPER_HELD */
	KEEPER_READY,	  /* <- pid 1 of the nest speaks (credentials: its pid), or err */
	KEEPER_VESSEL,	  /* -> make pid with ppid, pgid, sid; <- from the vessel itself (credentials), or err from the keeper */
	KEEPER_SIGNAL,	  /* -> info to pid (tid != 0: to that thread), once for each seq (0: always), whichever migd sends it; <- err */
	KEEPER_EXIT,	  /* <- event: pid ended, status, usage */
	KEEPER_STOP,	  /* <- event: pid stopped by status */
	KEEPER_CONT,	  /* <- event */
	KEEPER_CALL,	  /* <- event: a call about a process that is not here (after a reconnect again, if it was not answered); `status` bytes of a datagram follow in the packet */
	KEEPER_ANSWER,	  /* -> its result */
	KEEPER_HELLO,	  /* -> after a reconnect; <- every KEEPER_EXIT that was not KEEPER_TOLD, then KEEPER_READY */
	KEEPER_TOLD,	  /* -> the end of pid is known at its home: no need to keep it. No reply */
	KEEPER_SETUP_NEW, /* -> likewise */
	KEEPER_HELD,	  /* -> we are in a journal: another migd may come. Until then the nest ends with the connection. No reply */
	KEEPER_SELF,	  /* -> signal seq is about to be sent by its target itself; <- EALREADY: it has been; EINPROGRESS: a tracer whose migd has died is at it */
	KEEPER_SELF_DONE, /* -> by the tracer: it has been. No reply */
	KEEPER_SETUP_AHEAD, /* -> as KEEPER_SETUP_NEW, but for the clocks: the nest may be made before anybody knows what they are to show */
	KEEPER_CLOCKS,	  /* -> mono_offset, boot_offset: before the first vessel; <- err */
	KEEPER_DEVICES,	  /* -> before KEEPER_CLOCKS: a table (devices.h) of `status` bytes comes in the next packet; <- err */
	KEEPER_HURRY,	  /* -> thread tid, for whom keeper_stat.c is at a call, is seized and about to stop: it shall make it again; <- err */
	KEEPER_KEEP,	  /* -> with a descriptor, which is kept as long as the nest; <- `status`: its number here; err */
};
struct keeper_msg {
	uint32_t op;
	int32_t err; /* errno, positive */
	int32_t pid, tid, ppid, pgid, sid, status;
	union { /* the layout stays: keepers outlive an upgrade of migd */
		uint64_t seq;
		int64_t mono_offset;
	};
	siginfo_t info;
	union {
		struct rusage usage;
		int64_t boot_offset;
	};
	struct eng_foreign call;
};
struct keeper_setup {
	uint32_t op;
	uint32_t host_network;
	int64_t mono_offset, boot_offset; /* ns to add to this host's clocks; not of KEEPER_SETUP_AHEAD */
	char hostname[65];
	char root[PATH_MAX], sprite[PATH_MAX], cgroup[PATH_MAX]; /* "": none */
};
#endif
