/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates for tests, made in the process: a CA, hosts, and what can be wrong with them. Files DIR/NAME.pem and DIR/NAME.key. */
#ifndef TESTS_PKI_H
#define TESTS_PKI_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

struct pki_ca {
	X509 *cert;
	EVP_PKEY *key;
};

static inline void pki_die(const char *what)
{
	fprintf(stderr, "pki: %s failed\n", what);
	exit(1);
}

static inline FILE *pki_open(const char *dir, const char *name, const char *ext)
{
	char path[512], tmp[600];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.%s", dir, name, ext);
	snprintf(tmp, sizeof(tmp), "%s.new", path);
	f = fopen(tmp, "w");
	if (!f)
		pki_die(tmp);
	return f;
}

static inline void pki_close(FILE *f, const char *dir, const char *name, const char *ext)
{
	char path[512], tmp[600];

	fclose(f);
	snprintf(path, sizeof(path), "%s/%s.%s", dir, name, ext);
	snprintf(tmp, sizeof(tmp), "%s.new", path);
	if (rename(tmp, path))
		pki_die("rename");
}

static inline void pki_ext(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;

	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	if (!e || !X509_add_ext(x, e, -1))
		pki_die(value);
	X509_EXTENSION_free(e);
}

/* `san` NULL: a CA. Valid from `from` to `to` seconds from now. ca NULL: signed by itself. */
static inline struct pki_ca pki_make(const char *dir, const char *name, const char *san, const struct pki_ca *ca, long from, long to)
{
	static long serial = 1000;
	struct pki_ca r = { X509_new(), EVP_EC_gen("P-256") };
	X509_NAME *n = X509_get_subject_name(r.cert);
	FILE *f;

	if (!r.key)
		pki_die("key");
	X509_set_version(r.cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(r.cert), serial++);
	X509_gmtime_adj(X509_getm_notBefore(r.cert), from);
	X509_gmtime_adj(X509_getm_notAfter(r.cert), to);
	X509_set_pubkey(r.cert, r.key);
	X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(r.cert, ca ? X509_get_subject_name(ca->cert) : n);
	pki_ext(r.cert, ca ? ca->cert : r.cert, NID_basic_constraints, san ? "CA:FALSE" : "critical,CA:TRUE");
	if (san)
		pki_ext(r.cert, ca ? ca->cert : r.cert, NID_subject_alt_name, san);
	if (!X509_sign(r.cert, ca ? ca->key : r.key, EVP_sha256()))
		pki_die("sign");
	f = pki_open(dir, name, "key");
	PEM_write_PrivateKey(f, r.key, NULL, NULL, 0, NULL, NULL);
	pki_close(f, dir, name, "key");
	f = pki_open(dir, name, "pem");
	PEM_write_X509(f, r.cert);
	pki_close(f, dir, name, "pem");
	return r;
}

static inline void pki_free(struct pki_ca *c)
{
	X509_free(c->cert);
	EVP_PKEY_free(c->key);
	c->cert = NULL;
	c->key = NULL;
}

/* DIR/NAME.crl with the given certificates (NULL-terminated) revoked. */
static inline void pki_revoke(const char *dir, const char *name, const struct pki_ca *ca, X509 **gone)
{
	X509_CRL *crl = X509_CRL_new();
	ASN1_TIME *now = X509_gmtime_adj(NULL, -60), *next = X509_gmtime_adj(NULL, 86400);
	FILE *f;

	X509_CRL_set_version(crl, 1);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca->cert));
	X509_CRL_set1_lastUpdate(crl, now);
	X509_CRL_set1_nextUpdate(crl, next);
	for (; *gone; gone++) {
		X509_REVOKED *r = X509_REVOKED_new();

		X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(*gone));
		X509_REVOKED_set_revocationDate(r, now);
		X509_CRL_add0_revoked(crl, r);
	}
	X509_CRL_sort(crl);
	if (!X509_CRL_sign(crl, ca->key, EVP_sha256()))
		pki_die("crl");
	f = pki_open(dir, name, "crl");
	PEM_write_X509_CRL(f, crl);
	pki_close(f, dir, name, "crl");
	X509_CRL_free(crl);
	ASN1_TIME_free(now);
	ASN1_TIME_free(next);
}

#endif
