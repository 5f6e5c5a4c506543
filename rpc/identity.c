/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who a host is: mutual TLS with the cluster's CA, always. A peer's name is the first DNS name in its certificate's subjectAltName.
 *
 * The handshake proves that the peer has the key of the certificate it shows; whether we believe the certificate is decided here, in one place
 * for both sides (gRPC calls verify() before the connection carries a byte), because OpenSSL's own check inside the handshake
 * leaves no word of what is wrong. Checked: chain to our CA, validity, purpose, revocation, and on the client the name. A list of revoked certificates
 * counts until it is replaced, even past its nextUpdate: a list that nobody renews shall not take the cluster down.
 *
 * gRPC's file watcher reads the files again every few seconds: new connections use what is there now, so that certificates are replaced without a
 * restart (and channels connect anew: channel.c). The CA file and the list of revoked certificates are read here as well, when they have changed.
 *
 * Locking: t->lock protects trust, stamps and what was told, t->judged_lock the verdicts; never both. References: the user's, and one per set of credentials and channel.
 */
#include "rpc/internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <grpc/support/string_util.h>
#include "conf/cleanup.h"
#include "conf/log.h"
#include "rpc/certs.h"

#define RELOAD_SECONDS 5
#define JUDGED_MAX     256 /* certificates whose verdict is remembered, each in one of */
#define JUDGED_WAYS    4   /* places */
#define JUDGED_NS      5000000000ull
#define SHOWN_NS       60000000000ull /* so long after a certificate was shown last its host is there with it */
#define TOLD_MAX       64
#define TOLD_NS	       60000000000ull
#define SECOND_NS      1000000000ull

/* A connection lives for days; its certificate may be revoked or expire meanwhile. So each call asks, and mostly finds the answer here. */
struct judged {
	char *pem;
	char name[PEER_MAX]; /* "": none that may be */
	uint64_t when_ns;
	bool ended; /* all that is wrong with it */
	struct error verdict;
};

/* What was said in the log, by its hash. */
struct told {
	uint32_t hash;
	uint64_t when_ns; /* 0: nothing */
};

struct rpc_tls {
	_Atomic int refs;
	grpc_tls_certificate_provider *files;
	char *ca, *cert, *key, *crl; /* paths; crl may be NULL */
	pthread_mutex_t lock;
	X509_STORE *store;
	X509_CRL *revoked;	    /* may be NULL */
	struct stat stamp[2];	    /* of the CA and CRL files when they were read */
	struct stat shown[2];	    /* of certificate and key when they were looked at last, */
	_Atomic uint64_t look_ns;   /* before then they are not, */
	uint64_t moved_ns;	    /* and when they were found to be others, 0: that has been counted */
	_Atomic uint64_t generation;
	struct told told[TOLD_MAX];
	uint64_t last_warn_ns;
	pthread_mutex_t judged_lock;
	struct judged judged[JUDGED_MAX];
};

struct verifier {
	grpc_tls_certificate_verifier_external ext;
	struct rpc_tls *t;
	bool server; /* we are the server: the peer is a client */
};

static void tls_unref(struct rpc_tls *t)
{
	size_t i;

	if (atomic_fetch_sub(&t->refs, 1) != 1)
		return;
	for (i = 0; i < JUDGED_MAX; i++)
		free(t->judged[i].pem);
	pthread_mutex_destroy(&t->judged_lock);
	if (t->files)
		grpc_tls_certificate_provider_release(t->files);
	X509_STORE_free(t->store);
	X509_CRL_free(t->revoked);
	pthread_mutex_destroy(&t->lock);
	free(t->crl);
	free(t->ca);
	free(t->cert);
	free(t->key);
	free(t);
}

struct rpc_tls *tls_ref(struct rpc_tls *t)
{
	atomic_fetch_add(&t->refs, 1);
	return t;
}

/* ---- reading ---- */
/* Has the file another stamp than the one stored? Stores it. */
static bool changed(const char *path, struct stat *stamp)
{
	struct stat st;

	if (stat(path, &st) < 0 || (st.st_mtim.tv_sec == stamp->st_mtim.tv_sec && st.st_mtim.tv_nsec == stamp->st_mtim.tv_nsec &&
					   st.st_ino == stamp->st_ino && st.st_size == stamp->st_size))
		return false;
	*stamp = st;
	return true;
}

/* Reads what has changed; a file that cannot be read now leaves what was good. Lock held. -errno of the first that failed. */
static int refresh(struct rpc_tls *t, struct error *e)
{
	bool ca = changed(t->ca, &t->stamp[0]), crl = t->crl && changed(t->crl, &t->stamp[1]);
	X509_STORE *store = ca ? certs_store(t->ca, e) : NULL;
	X509_CRL *list;

	if (store) {
		X509_STORE_free(t->store);
		t->store = store;
	}
	if (t->store && (crl || (store && t->crl))) {
		list = certs_revoked(t->crl, t->store, e);
		if (list) {
			X509_CRL_free(t->revoked);
			t->revoked = list;
		}
	}
	return e->code ? -e->code : 0;
}

/* What we believe now, with references. */
static void trust(struct rpc_tls *t, X509_STORE **store, X509_CRL **revoked)
{
	struct error e = { 0 };

	pthread_mutex_lock(&t->lock);
	if (refresh(t, &e) < 0)
		log_error("%s; what was read before stays in use", e.text);
	*store = t->store;
	X509_STORE_up_ref(*store);
	*revoked = t->revoked;
	if (*revoked)
		X509_CRL_up_ref(*revoked);
	pthread_mutex_unlock(&t->lock);
}

/* ---- judging ---- */
/* host NULL: any name. -EACCES with the reason; *ended: it was to be believed until its time was over. */
static int judge(struct rpc_tls *t, X509 *x, int purpose, const char *host, bool *ended, struct error *e)
{
	X509_REVOKED *entry;
	X509_STORE *store;
	X509_CRL *revoked;
	int code;

	trust(t, &store, &revoked);
	code = certs_verify(store, x, purpose, host);
	if ((code == X509_V_OK || code == X509_V_ERR_CERT_HAS_EXPIRED) && revoked && X509_NAME_cmp(X509_CRL_get_issuer(revoked), X509_get_issuer_name(x)) == 0 &&
		X509_CRL_get0_by_cert(revoked, &entry, x) == 1)
		code = X509_V_ERR_CERT_REVOKED;
	X509_STORE_free(store);
	X509_CRL_free(revoked);
	ERR_clear_error();
	if (ended)
		*ended = code == X509_V_ERR_CERT_HAS_EXPIRED;
	return code == X509_V_OK ? 0 : certs_explain(x, code, host, e);
}

/* Whoever makes certificates of his own can make a new text each time: so no more than one a second of all. */
bool tls_may_warn(struct rpc_tls *t, const char *text)
{
	uint64_t now = rt_now_ns();
	struct told *k;
	uint32_t h = 0;
	bool may;

	for (const char *p = text; *p; p++)
		h = h * 31 + (unsigned char)*p;
	k = &t->told[(h ^ h >> 16) % TOLD_MAX];
	pthread_mutex_lock(&t->lock);
	may = (!k->when_ns || k->hash != h || now - k->when_ns > TOLD_NS) && (!t->last_warn_ns || now - t->last_warn_ns > SECOND_NS);
	if (may) {
		*k = (struct told){ h, now };
		t->last_warn_ns = now;
	}
	pthread_mutex_unlock(&t->lock);
	return may;
}

/* j, unless NULL, is told its name and whether it has merely ended. */
static int judge_pem(struct rpc_tls *t, const char *pem, int purpose, const char *host, struct judged *j, struct error *e)
{
	BIO *bio = pem ? BIO_new_mem_buf(pem, -1) : NULL;
	X509 *x = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	bool ended = false;
	int r;

	if (x)
		r = judge(t, x, purpose, host, &ended, e);
	else
		r = error_set(e, EACCES, "no certificate that can be read");
	if (j) {
		j->ended = ended;
		if (!x || !certs_name(x, j->name, sizeof(j->name)))
			j->name[0] = 0;
	}
	X509_free(x);
	BIO_free(bio);
	ERR_clear_error();
	return r;
}

/* gRPC's call-back, after the handshake and before anything else. Returning non-zero: decided at once. */
static int verify(void *data, grpc_tls_custom_verification_check_request *rq, grpc_tls_on_custom_verification_check_done_cb cb, void *cb_arg,
	grpc_status_code *status, char **details)
{
	struct verifier *v = data;
	struct error e = { 0 };
	const char *pem = rq->peer_info.peer_cert;
	int r;

	(void)cb;
	(void)cb_arg;
	HANDOVER_TAKE(v);
	if (v->server)
		r = judge_pem(v->t, pem, X509_PURPOSE_SSL_CLIENT, NULL, NULL, &e);
	else if (rq->target_name && *rq->target_name)
		r = judge_pem(v->t, pem, X509_PURPOSE_SSL_SERVER, rq->target_name, NULL, &e);
	else
		r = error_set(&e, EACCES, "no name to expect");
	*status = r ? GRPC_STATUS_UNAUTHENTICATED : GRPC_STATUS_OK;
	if (r) {
		*details = gpr_strdup(e.text);
		if (v->server && tls_may_warn(v->t, e.text))
			log_warn("connection refused: %s", e.text); /* gRPC does not tell from where */
	}
	return 1;
}

static void verify_cancel(void *data, grpc_tls_custom_verification_check_request *rq)
{
	(void)data;
	(void)rq;
}

static void verifier_free(void *data)
{
	struct verifier *v = data;

	HANDOVER_TAKE(v);
	tls_unref(v->t);
	free(v);
}

/* ---- credentials ---- */
static grpc_tls_credentials_options *options(struct rpc_tls *t, bool server)
{
	grpc_tls_credentials_options *o = grpc_tls_credentials_options_create();
	grpc_tls_certificate_verifier *gv;
	struct verifier *v = calloc(1, sizeof(*v));

	if (!v)
		abort();
	*v = (struct verifier){ { v, verify, verify_cancel, verifier_free }, tls_ref(t), server };
	HANDOVER_GIVE(v);
	gv = grpc_tls_certificate_verifier_external_create(&v->ext);
	grpc_tls_credentials_options_set_certificate_provider(o, t->files);
	grpc_tls_credentials_options_watch_root_certs(o);
	grpc_tls_credentials_options_watch_identity_key_cert_pairs(o);
	grpc_tls_credentials_options_set_certificate_verifier(o, gv);
	grpc_tls_certificate_verifier_release(gv);
	return o;
}

grpc_channel_credentials *tls_channel_creds(struct rpc_tls *t)
{
	grpc_tls_credentials_options *o = options(t, false);

	grpc_tls_credentials_options_set_verify_server_cert(o, 0); /* verify() does, with words */
	grpc_tls_credentials_options_set_check_call_host(o, 0);	   /* one name per channel */
	return grpc_tls_credentials_create(o);
}

grpc_server_credentials *tls_server_creds(struct rpc_tls *t)
{
	grpc_tls_credentials_options *o = options(t, true);

	/* A certificate and proof of its key are required by the handshake; verify() judges it. */
	grpc_tls_credentials_options_set_cert_request_type(o, GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_BUT_DONT_VERIFY);
	return grpc_tls_server_credentials_create(o);
}

/*
 * gRPC's file watcher tells nobody what it has read: so files count when they have been there unchanged for longer than it takes between two looks. Whoever is connected to too early all the same
 * shows the old ones once more, and is served until they end.
 */
uint64_t tls_generation(struct rpc_tls *t)
{
	uint64_t now = rt_now_ns(), look = atomic_load(&t->look_ns);
	bool moved;

	if (now < look || !atomic_compare_exchange_strong(&t->look_ns, &look, now + RELOAD_SECONDS * SECOND_NS))
		return atomic_load(&t->generation);
	pthread_mutex_lock(&t->lock);
	moved = changed(t->cert, &t->shown[0]);
	moved |= changed(t->key, &t->shown[1]);
	if (moved) {
		t->moved_ns = now;
	} else if (t->moved_ns && now - t->moved_ns >= 2 * RELOAD_SECONDS * SECOND_NS) {
		t->moved_ns = 0;
		atomic_fetch_add(&t->generation, 1);
	}
	pthread_mutex_unlock(&t->lock);
	return atomic_load(&t->generation);
}

int tls_self_check(struct rpc_tls *t, struct error *e)
{
	X509 *x = NULL;
	int r = certs_read(t->cert, &x, e);

	if (r)
		return r;
	r = judge(t, x, X509_PURPOSE_SSL_CLIENT, NULL, NULL, e);
	if (r)
		error_prefix(e, "our own %s", t->cert);
	X509_free(x);
	return r;
}

/* ---- for connections without gRPC ---- */
int tls_judge(struct rpc_tls *t, X509 *x, bool server, const char *host, struct error *e)
{
	if (!x)
		return error_set(e, EACCES, "no certificate that can be read");
	return judge(t, x, server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT, host, NULL, e);
}

void tls_files(const struct rpc_tls *t, const char **cert, const char **key)
{
	*cert = t->cert;
	*key = t->key;
}

/* Reads and checks the files, all but gRPC's part. */
static int read_files(const struct conf *c, struct rpc_tls **out, struct error *e)
{
	struct error own = { 0 };
	struct rpc_tls *t;
	int r = rpc_tls_check_pair(c, e);

	if (r)
		return r;
	t = calloc(1, sizeof(*t));
	if (!t)
		return error_set(e, ENOMEM, "out of memory");
	t->refs = 1;
	pthread_mutex_init(&t->lock, NULL);
	pthread_mutex_init(&t->judged_lock, NULL);
	t->ca = strdup(c->tls_ca);
	t->crl = c->tls_crl ? strdup(c->tls_crl) : NULL;
	t->cert = strdup(c->tls_cert);
	t->key = strdup(c->tls_key);
	if (!t->ca || !t->cert || !t->key || (c->tls_crl && !t->crl)) {
		tls_unref(t);
		return error_set(e, ENOMEM, "out of memory");
	}
	changed(t->cert, &t->shown[0]);
	changed(t->key, &t->shown[1]);
	r = refresh(t, &own);
	if (!r && (!t->store || (t->crl && !t->revoked)))
		r = error_set(&own, ENOENT, "%s: cannot be read", t->store ? t->crl : t->ca);
	if (r) {
		error_set(e, -r, "%s", own.text);
		tls_unref(t);
		return r;
	}
	*out = t;
	return 0;
}

int rpc_tls_check(const struct conf *c, struct error *e)
{
	struct rpc_tls *t;
	int r = read_files(c, &t, e);

	if (r)
		return r;
	r = tls_self_check(t, e);
	tls_unref(t);
	return r;
}

int rpc_tls_load(const struct conf *c, struct rpc_tls **out, struct error *e)
{
	struct error own = { 0 };
	struct rpc_tls *t;
	int r = read_files(c, &t, e);

	if (r)
		return r;
	t->files = grpc_tls_certificate_provider_file_watcher_create(t->key, t->cert, t->ca, RELOAD_SECONDS);
	/* Not fatal: whoever put an old one there will replace it while we run. */
	if (tls_self_check(t, &own) < 0)
		log_error("%s; other hosts will refuse it until it is replaced", own.text);
	*out = t;
	return 0;
}

void rpc_tls_free(struct rpc_tls *t)
{
	if (t)
		tls_unref(t);
}

/* ---- what a call tells ---- */
static const char *property(grpc_auth_context *ctx, const char *name, size_t *len)
{
	grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(ctx, name);
	const grpc_auth_property *p = grpc_auth_property_iterator_next(&it);

	*len = p ? p->value_length : 0;
	return p ? p->value : NULL;
}

/* Its place, or that which has been of no use for longest; lock held. The end of a certificate is its signature: as good as random. */
static struct judged *judged_place(struct rpc_tls *t, const char *pem, size_t len)
{
	struct judged *j, *old;
	size_t i, n = len < 64 ? len : 64;
	uint32_t h = 0;

	for (i = len - n; i < len; i++)
		h = h * 31 + (unsigned char)pem[i];
	j = old = &t->judged[(h ^ h >> 16) % (JUDGED_MAX / JUDGED_WAYS) * JUDGED_WAYS];
	for (i = 0; i < JUDGED_WAYS; i++, j++) {
		if (j->pem && !strcmp(j->pem, pem))
			return j;
		if (j->when_ns < old->when_ns)
			old = j;
	}
	return old;
}

static int judge_again(struct rpc_tls *t, const char *pem, size_t len, struct error *e)
{
	struct judged *j, about = { 0 };
	struct error fresh = { 0 };
	uint64_t now = rt_now_ns();
	bool known;

	pthread_mutex_lock(&t->judged_lock);
	j = judged_place(t, pem, len);
	known = j->pem && now - j->when_ns < JUDGED_NS && !strcmp(j->pem, pem);
	if (known && j->verdict.code)
		*e = j->verdict;
	pthread_mutex_unlock(&t->judged_lock);
	if (known)
		return -e->code;
	if (judge_pem(t, pem, X509_PURPOSE_SSL_CLIENT, NULL, &about, &fresh) < 0)
		*e = fresh;
	pthread_mutex_lock(&t->judged_lock);
	j = judged_place(t, pem, len);
	if (!j->pem || strcmp(j->pem, pem)) {
		free(j->pem);
		j->pem = strdup(pem);
	}
	strcpy(j->name, about.name);
	j->ended = about.ended;
	j->when_ns = now;
	j->verdict = fresh;
	pthread_mutex_unlock(&t->judged_lock);
	return -e->code;
}

int tls_peer(struct rpc_tls *t, grpc_call *call, char *name, size_t size, struct error *e)
{
	grpc_auth_context *ctx = grpc_call_auth_context(call);
	const char *dns, *pem;
	size_t n, len;

	e->code = 0;
	name[0] = 0;
	if (!ctx)
		return error_set(e, EACCES, "connection without TLS");
	dns = property(ctx, GRPC_PEER_DNS_PROPERTY_NAME, &n);
	/* A NUL inside a name is a forgery (CVE-2009-2408): the lengths must agree. */
	if (dns && n && n < size && strlen(dns) == n)
		memcpy(name, dns, n + 1);
	else
		error_set(e, EACCES, "certificate without a DNS name");
	pem = property(ctx, GRPC_X509_PEM_CERT_PROPERTY_NAME, &len);
	if (!e->code && (!pem || judge_again(t, pem, len, e) < 0))
		error_set(e, EACCES, "connection without a certificate");
	grpc_auth_context_release(ctx);
	return -e->code;
}

bool tls_succeeded(struct rpc_tls *t, grpc_call *call)
{
	grpc_auth_context *ctx = grpc_call_auth_context(call);
	uint64_t now = rt_now_ns();
	bool found = false;
	const char *pem;
	size_t len;

	pem = ctx ? property(ctx, GRPC_X509_PEM_CERT_PROPERTY_NAME, &len) : NULL;
	if (pem) {
		pthread_mutex_lock(&t->judged_lock);
		const struct judged *old = judged_place(t, pem, len);

		if (old->pem && !strcmp(old->pem, pem) && old->ended && old->name[0])
			for (size_t i = 0; i < JUDGED_MAX && !found; i++) {
				const struct judged *j = &t->judged[i];

				found = j->pem && !j->verdict.code && now - j->when_ns < SHOWN_NS && !strcmp(j->name, old->name);
			}
		pthread_mutex_unlock(&t->judged_lock);
	}
	grpc_auth_context_release(ctx);
	return found;
}

/*
 * gRPC reports a connection that could not be made as text only. Our own verify() is in it with its words. The other side's refusal comes after our part
 * of a TLS 1.3 handshake is done: the connection was made and is closed at once, before HTTP/2 has begun.
 */
enum tls_refusal tls_refusal_of(const char *details, const char **words)
{
	static const char mark[] = "UNAUTHENTICATED: ";
	const char *p = strstr(details, mark);

	*words = details;
	if (p && strstr(details, "verification check failed")) {
		*words = p + sizeof(mark) - 1;
		return TLS_REFUSED_BY_US;
	}
	if (strstr(details, "failed to connect to all addresses") && !strstr(details, "connect to remote host") &&
		(strstr(details, "Socket closed") || strstr(details, "reset by peer")))
		return TLS_REFUSED_BY_PEER;
	return TLS_NOT_REFUSED;
}
