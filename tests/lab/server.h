/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of hub and init (server.c, service.c, job.c). One thread, one poll loop.
 *
 * Requests, one JSON object per packet, answered with {"ok": true, ...} or {"ok": false, "error": text}:
 *   exec    argv, user, tty, term; fds: stdin, stdout, stderr unless tty. Answer with the pty's master if tty, later {"status": wait status};
 *           on the same connection {"signal": N} signals it meanwhile
 *   boot    start all daemons in order, answer when each is ready or has failed
 *   start   daemon, env: one of them
 *   kill    daemon, signal
 *   status  rows of daemons
 *   stop    end all daemons in reverse order
 *   input   press a key at the console
 */
#ifndef LAB_SERVER_H
#define LAB_SERVER_H
#include "conf/list.h"
#include "lab.h"

enum service_state { SERVICE_STOPPED, SERVICE_STARTING, SERVICE_READY, SERVICE_ENDED, SERVICE_MISSING };

struct conn {
	struct list link;
	int fd;
	pid_t job;	     /* exec: the command that runs, 0: none */
	bool waits_boot, waits_stop;
	const char *waits_start; /* a service's name */
	pid_t waits_end;	 /* of a service that was killed, 0: none */
	uint64_t kill_until;	 /* ms; a thread of it may hang in the kernel for long */
};

struct service {
	const char *name;
	const char *mount;     /* where it must have mounted, NULL: nowhere */
	int after;	       /* index of what must be ready before in `boot`; -1 */
	enum service_state state;
	pid_t pid;
	int status;	       /* wait status of the last run, ENDED */
	int crash;	       /* wait status of a run that crashed, started again or not; 0: none */
	uint64_t since;	       /* ms, state STARTING */
	bool told;	       /* READY=1 came */
	bool boot;	       /* to be started by the boot that is under way */
	bool killed;	       /* by `stop` or `kill`: its end is nothing to complain of */
	char **env;	       /* VAR=VALUE of the last start, NULL-terminated; NULL: none */
};

struct server {
	const struct server_options *o;
	struct list conns;
	int signals, notify;
	int console; /* master of the login session's pty, -1: none */
	struct service service[3];
	size_t nservices;
	int stopping;	    /* index being stopped, -1: none */
	uint64_t stop_since;
	bool stop_hard;
};

uint64_t now_ms(void);
void conn_answer(struct conn *c, json_t *answer); /* steals */
void conn_fail(struct conn *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* service.c */
void services_init(struct server *s);
void services_boot(struct server *s);
struct service *service_find(struct server *s, const char *name);
int service_start(struct server *s, struct service *v, struct error *e);
void services_step(struct server *s);		     /* moves states on; cheap, called often */
bool services_settled(const struct server *s);	     /* nothing is starting or to be started */
bool services_pending(const struct server *s);	     /* services_step() must be called soon again */
void services_told(struct server *s);		     /* a packet on the notify socket */
bool services_ended(struct server *s, pid_t pid, int status);
json_t *services_rows(const struct server *s);

/* job.c */
int job_start(struct conn *c, json_t *request, const int *fds, size_t nfds, int *master, struct error *e);
int console_open(struct error *e); /* a login session of user sprite at a pty; returns the master */

#endif
