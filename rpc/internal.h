/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of rpc/ share; nobody else includes it.
 *
 * Threads: two, and `workers` more per server, take turns at the process's one completion queue and run tags (poll.c). Handlers of unary calls run there
 * too, at most `workers` at a time, so that somebody is always left for what must not wait: replies, closes, cancels. One clock
 * thread runs timers and completions that cannot run where they become ready. Each stream accepted by a server has a thread of its own.
 */
#ifndef RPC_INTERNAL_H
#define RPC_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/byte_buffer.h>
#include <grpc/support/alloc.h>
#include <openssl/x509.h>
#include "rpc/rpc.h"

#define RPC_VERSION	1
#define RPC_VERSION_MIN 1 /* peers that speak less are refused */
#define PEER_MAX 256 /* bytes of a peer's name with its NUL: what DNS allows */
#define RPC_MD_ERRNO	"sprite-errno" /* trailing metadata of a stream */
#define RPC_MD_EPOCH	"sprite-epoch" /* initial metadata of a stream */

/* What is handed over through gRPC: its locks are unknown to the thread sanitizer. */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *p);
void __tsan_release(void *p);
#define HANDOVER_GIVE(p) __tsan_release(p)
#define HANDOVER_TAKE(p) __tsan_acquire(p)
#else
#define HANDOVER_GIVE(p) ((void)(p))
#define HANDOVER_TAKE(p) ((void)(p))
#endif

/* ---- poll.c ---- */
struct rt_tag {
	void (*fn)(struct rt_tag *t, bool ok);
};
/* Starts operations of a call; t->fn runs when all are over. */
void rt_start(grpc_call *call, const grpc_op *op, size_t n, struct rt_tag *t);
grpc_completion_queue *rt_cq(void);
int rt_poll_start(void);
void rt_openssl_stays(void); /* before the first use of OpenSSL */
void rt_poll_stop(void); /* when nothing is under way */
enum rt_which { RT_CALLS, RT_LANES }; /* the completion queue; the connections of lane.c */
/* n more (less) of that queue's threads may be busy in handlers for long. */
int rt_threads_add(enum rt_which which, int n);
void rt_threads_del(enum rt_which which, int n);
/* In a tag's function, before what waits or is long: another thread takes the queue over. Elsewhere it does nothing. */
void rt_handover(void);
/*
 * Has something been long of late? To hand the queue over costs two to six wake-ups (whoever takes it is woken again by what the first one starts), each 10 us, or 50 across the processors
 * of a virtual machine. Where there are processors to spare that is worth it for what is several times as long; on one or two, whose work it would take turns with, only
 * for what the watcher would take it from.
 */
#define RT_LONG_NS	   150000
#define RT_LONG_FEW_CPUS_NS 1000000
extern uint64_t rt_long_ns;
#define RT_SCORE_MAX 8
struct rt_cost {
	_Atomic int score;
};
void rt_cost_note(struct rt_cost *c, uint64_t began_ns);
static inline void rt_cost_begin(struct rt_cost *c)
{
	if (atomic_load_explicit(&c->score, memory_order_relaxed) > RT_SCORE_MAX / 2)
		rt_handover();
}

/* ---- lane.c: its queue ---- */
bool lanes_next(struct rt_tag **t, bool *ok);
void lanes_stop(void); /* lanes_next() returns false */
void lanes_stopped(void);
/* t->fn runs once when the descriptor is ready. */
void lanes_watch(int fd, struct rt_tag *t, bool add, uint32_t events);
void lanes_unwatch(int fd);

/* ---- runtime.c ---- */
int rt_thread(pthread_t *t, void *(*fn)(void *), void *arg, const char *name);

void rt_active(void); /* frames come: memory is better kept */

/* A one-shot: set once, waited for by one thread. */
struct rt_event {
	_Atomic uint32_t set;
};
void rt_event_set(struct rt_event *e);
void rt_event_wait(struct rt_event *e);

struct rt_timer {
	TAILQ_ENTRY(rt_timer) link; /* runtime's lock */
	uint64_t when_ns;
	bool armed;
	void (*fn)(struct rt_timer *t);
};
/* Runs t->fn on the clock thread after `ms`. Never while it is armed already. */
void rt_timer_arm(struct rt_timer *t, unsigned ms);
/* Makes an armed timer run now; false: it was not armed (has run or is running). */
bool rt_timer_hurry(struct rt_timer *t);
uint64_t rt_now_ns(void); /* CLOCK_MONOTONIC of the kernel: what gRPC's deadlines use */

/* Numbers calls. Mutating ones stay in a list until their result is known, which gives the watermark for the servers' reply caches. */
struct rt_seq {
	TAILQ_ENTRY(rt_seq) link;
	uint64_t seq;
	bool listed, noted, held; /* held: stands for a call that ended without its answer, or of an earlier process */
};
/* true: a number that has been used before, by the process we go on as */
bool rt_seq_begin(struct rt_seq *q, bool mutates, uint64_t *acked);
void rt_seq_end(struct rt_seq *q);

/* ---- frame.c ---- */
struct frame_head {
	uint32_t version, err, lane;
	uint64_t epoch, seq, acked;
	bool again;
};
static inline size_t frame_limit(const struct rpc_method *m)
{
	return m->bulk ? RPC_BULK_MAX : RPC_CONTROL_MAX;
}
/* Header and message as one slice. `msg` NULL: no message. -EMSGSIZE. */
int frame_control(const struct frame_head *h, const ProtobufCMessage *msg, grpc_slice *out);
/* The same frame with `again` set, for a retry. -EPROTO: not a frame of ours. */
int frame_control_again(grpc_slice control, grpc_slice *out);
/* Counts user-data slices that are not yet released; starts at 1 for the owner. `last` runs when it falls to 0, inside gRPC: it must not call gRPC. */
struct frame_hold {
	_Atomic int count;
	void (*last)(struct frame_hold *h);
};
static inline void frame_hold_drop(struct frame_hold *h)
{
	if (atomic_fetch_sub(&h->count, 1) == 1)
		h->last(h);
}
/* The byte buffer of control and bulk bytes. hold NULL: bulk is copied. -EMSGSIZE when over `limit`, -EINVAL for a bad iovec. */
int frame_buffer(grpc_slice control, const struct iovec *bulk, int nbulk, struct frame_hold *hold, size_t limit, grpc_byte_buffer **out);
/*
 * Takes the frame apart. On success *out owns the buffer; on failure the buffer is destroyed. desc NULL: any message is skipped.
 * -EMSGSIZE or -EPROTO.
 */
int frame_decode(grpc_byte_buffer *bb, size_t limit, const ProtobufCMessageDescriptor *desc, struct frame_head *h, struct rpc_msg *out);

/* ---- identity.c ---- */
struct rpc_tls *tls_ref(struct rpc_tls *t);
grpc_channel_credentials *tls_channel_creds(struct rpc_tls *t);
grpc_server_credentials *tls_server_creds(struct rpc_tls *t);
/* The first DNS name in the caller's certificate, after looking whether that is still to be believed. -EACCES with the reason. */
int tls_peer(struct rpc_tls *t, grpc_call *call, char *name, size_t size, struct error *e);
/* After tls_peer() has refused it: its certificate has merely ended, and its host has shown another one within the last minute, which was believed. */
bool tls_succeeded(struct rpc_tls *t, grpc_call *call);
/* Counts how often our certificate and its key have been replaced; what is connected now shows them. */
uint64_t tls_generation(struct rpc_tls *t);
/* Of a refusal that would be told every second: once, and then each minute. */
bool tls_may_warn(struct rpc_tls *t, const char *text);
/* Is the certificate of a server of that name, or of any client, to be believed? -EACCES with the reason. */
int tls_judge(struct rpc_tls *t, X509 *x, bool server, const char *host, struct error *e);
void tls_files(const struct rpc_tls *t, const char **cert, const char **key);
/* Would others believe our own certificate? -EACCES with the reason. */
int tls_self_check(struct rpc_tls *t, struct error *e);
enum tls_refusal {
	TLS_NOT_REFUSED,
	TLS_REFUSED_BY_US,
	TLS_REFUSED_BY_PEER, /* or it went down at that very moment: twice in a row is proof */
};
/* What the text of a failed call says about certificates; *words: the part to be shown. */
enum tls_refusal tls_refusal_of(const char *details, const char **words);

/* ---- channel.c ---- */
int status_to_errno(grpc_status_code code);
struct rpc_stream;
struct line;
grpc_call *channel_new_call(struct rpc_channel *ch, const struct rpc_method *m, gpr_timespec deadline, struct line **line);
void line_served(struct line *n);
void line_put(struct line *n); /* not with a lock of ours */
int channel_add_stream(struct rpc_channel *ch, struct rpc_stream *s);
void channel_del_stream(struct rpc_channel *ch, struct rpc_stream *s);
gpr_timespec deadline_of(int ms);
/* The errno of a failed call, line NULL: by the lane; counts refusals and logs a failure that is new. -EAGAIN: perhaps a refusal, ask once more. */
int channel_failure(struct rpc_channel *ch, struct line *line, grpc_status_code code, grpc_slice details, bool cancelled, bool mutates);

/* ---- stream.c ---- */
struct stream_link {
	LIST_ENTRY(stream_link) link; /* lock of the channel or server */
};
LIST_HEAD(stream_list, stream_link);
/* Server: is its peer still to be believed? Cancels it if not. */
void stream_recheck(struct rpc_stream *s, struct rpc_tls *t);
struct stream_link *stream_link_of(struct rpc_stream *s);
struct rpc_stream *stream_of_link(struct stream_link *l);
struct rpc_server;
/* Takes over the call. */
struct rpc_stream *stream_accept(struct rpc_server *srv, grpc_call *call, const struct rpc_method *m, const char *peer, uint64_t epoch);

/* ---- server.c ---- */
void server_stream_gone(struct rpc_server *srv, struct rpc_stream *s);

#endif
