/* SPDX-License-Identifier: Apache-2.0 */
/* Certificate files, names and chains, by OpenSSL; see certs.h. */
#include "rpc/certs.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include "conf/cleanup.h"
#include "rpc/internal.h"

X509_STORE *certs_store(const char *path, struct error *e)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	X509_STORE *store;
	X509 *x;
	int n = 0;

	if (!f) {
		error_set(e, errno, "%s: %s", path, strerror(errno));
		return NULL;
	}
	store = X509_STORE_new();
	while (store && (x = PEM_read_X509(f, NULL, NULL, NULL))) {
		n += X509_STORE_add_cert(store, x);
		X509_free(x);
	}
	ERR_clear_error();
	if (!n) {
		X509_STORE_free(store);
		error_set(e, EINVAL, "%s: no certificate in PEM form", path);
		return NULL;
	}
	return store;
}

/* The list must be signed by a CA of the store. */
static bool signed_by(X509_STORE *store, X509_CRL *crl)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	X509_OBJECT *o = NULL;
	bool ok = false;

	if (ctx && X509_STORE_CTX_init(ctx, store, NULL, NULL))
		o = X509_STORE_CTX_get_obj_by_subject(ctx, X509_LU_X509, X509_CRL_get_issuer(crl));
	if (o)
		ok = X509_CRL_verify(crl, X509_get0_pubkey(X509_OBJECT_get0_X509(o))) == 1;
	X509_OBJECT_free(o);
	X509_STORE_CTX_free(ctx);
	return ok;
}

X509_CRL *certs_revoked(const char *path, X509_STORE *store, struct error *e)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	X509_CRL *crl = f ? PEM_read_X509_CRL(f, NULL, NULL, NULL) : NULL;

	if (!f) {
		error_set(e, errno, "%s: %s", path, strerror(errno));
	} else if (!crl) {
		error_set(e, EINVAL, "%s: no list of revoked certificates in PEM form", path);
	} else if (!signed_by(store, crl)) {
		error_set(e, EINVAL, "%s: not signed by the cluster's CA", path);
		X509_CRL_free(crl);
		crl = NULL;
	}
	ERR_clear_error();
	return crl;
}

int certs_read(const char *path, X509 **out, struct error *e)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");

	if (!f)
		return error_set(e, errno, "%s: %s", path, strerror(errno));
	*out = PEM_read_X509(f, NULL, NULL, NULL);
	ERR_clear_error();
	return *out ? 0 : error_set(e, EINVAL, "%s: no certificate in PEM form", path);
}

static int read_key(const char *path, EVP_PKEY **out, struct error *e)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");

	if (!f)
		return error_set(e, errno, "%s: %s", path, strerror(errno));
	*out = PEM_read_PrivateKey(f, NULL, NULL, NULL);
	ERR_clear_error();
	return *out ? 0 : error_set(e, EINVAL, "%s: no private key in PEM form", path);
}

static void cert_names(X509 *x, char *buf, size_t size)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	size_t len = 0;
	int i;

	buf[0] = 0;
	for (i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
		GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);

		if (g->type != GEN_DNS || len >= size - 1)
			continue;
		len += snprintf(buf + len, size - len, "%s%.*s", len ? "," : "", ASN1_STRING_length(g->d.dNSName),
			(const char *)ASN1_STRING_get0_data(g->d.dNSName));
	}
	GENERAL_NAMES_free(names);
	if (!buf[0])
		snprintf(buf, size, "(without a DNS name)");
}

/* Exactly so: X509_check_host() takes no notice of capitals, but hosts are known by the certificate's own words. */
static bool is_listed(const char *names, const char *name)
{
	size_t n = strlen(name);

	for (const char *at = names; at; at = strchr(at, ','), at += !!at)
		if (!strncmp(at, name, n) && (!at[n] || at[n] == ','))
			return true;
	return false;
}

static void date_text(const ASN1_TIME *t, char *buf, size_t size)
{
	struct tm tm;

	if (!ASN1_TIME_to_tm(t, &tm) || !strftime(buf, size, "%F %T UTC", &tm))
		snprintf(buf, size, "(bad date)");
}

int certs_explain(X509 *x, int code, const char *host, struct error *e)
{
	char names[200], date[40];

	cert_names(x, names, sizeof(names));
	switch (code) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		date_text(X509_get0_notAfter(x), date, sizeof(date));
		return error_set(e, EACCES, "certificate of %s has expired on %s", names, date);
	case X509_V_ERR_CERT_NOT_YET_VALID:
		date_text(X509_get0_notBefore(x), date, sizeof(date));
		return error_set(e, EACCES, "certificate of %s is not valid before %s; are the clocks right?", names, date);
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_CERT_SIGNATURE_FAILURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
		return error_set(e, EACCES, "certificate of %s was not signed by the cluster's CA", names);
	case X509_V_ERR_CERT_REVOKED:
		return error_set(e, EACCES, "certificate of %s has been revoked", names);
	case X509_V_ERR_HOSTNAME_MISMATCH:
		return error_set(e, EACCES, "certificate is for %s, expected %s", names, host);
	default:
		return error_set(e, EACCES, "certificate of %s: %s", names, X509_verify_cert_error_string(code));
	}
}

int certs_verify(X509_STORE *store, X509 *x, int purpose, const char *host)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	X509_VERIFY_PARAM *param;
	int code = X509_V_ERR_UNSPECIFIED;

	if (ctx && X509_STORE_CTX_init(ctx, store, x, NULL) && X509_STORE_CTX_set_purpose(ctx, purpose)) {
		param = X509_STORE_CTX_get0_param(ctx);
		X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
		if (!host || X509_VERIFY_PARAM_set1_host(param, host, 0)) {
			if (X509_verify_cert(ctx) == 1)
				code = X509_V_OK;
			else if (X509_STORE_CTX_get_error(ctx) != X509_V_OK)
				code = X509_STORE_CTX_get_error(ctx);
		}
	}
	X509_STORE_CTX_free(ctx);
	return code;
}

bool certs_name(X509 *x, char *name, size_t size)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	bool found = false;
	int i;

	for (i = 0; names && i < sk_GENERAL_NAME_num(names) && !found; i++) {
		GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
		int len = g->type == GEN_DNS ? ASN1_STRING_length(g->d.dNSName) : 0;

		if (g->type != GEN_DNS)
			continue;
		if (len <= 0 || (size_t)len >= size || memchr(ASN1_STRING_get0_data(g->d.dNSName), 0, (size_t)len))
			break; /* as in tls_peer() */
		memcpy(name, ASN1_STRING_get0_data(g->d.dNSName), (size_t)len);
		name[len] = 0;
		found = true;
	}
	GENERAL_NAMES_free(names);
	return found;
}

int rpc_tls_check_pair(const struct conf *c, struct error *e)
{
	const unsigned flags = X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
	EVP_PKEY *key = NULL;
	X509 *x = NULL;
	char names[200];
	int r;

	rt_openssl_stays();
	r = read_key(c->tls_key, &key, e);
	if (!r)
		r = certs_read(c->tls_cert, &x, e);
	if (!r && !X509_check_private_key(x, key))
		r = error_set(e, EINVAL, "%s is not the key of %s", c->tls_key, c->tls_cert);
	if (!r)
		cert_names(x, names, sizeof(names));
	if (!r && c->name && (X509_check_host(x, c->name, 0, flags, NULL) != 1 || !is_listed(names, c->name)))
		r = error_set(e, EINVAL, "%s is for %s, expected %s", c->tls_cert, names, c->name);
	X509_free(x);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return r;
}
