/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X.509 files in PEM form (RFC 7468), and what is wrong with a certificate, in words. Nothing here is remembered: that is identity.c. What is returned is the caller's.
 */
#ifndef RPC_CERTS_H
#define RPC_CERTS_H
#include <stdbool.h>
#include <stddef.h>
#include <openssl/x509_vfy.h>
#include "conf/error.h"

/* All certificates of the file, and the list of revoked ones, which must be signed by one of them. NULL: *e says why. */
X509_STORE *certs_store(const char *path, struct error *e);
X509_CRL *certs_revoked(const char *path, X509_STORE *store, struct error *e);
/* The first certificate of the file. -errno, -EINVAL. */
int certs_read(const char *path, X509 **out, struct error *e);
/* Its first DNS name; false: none that may be (without one, too long, or with a NUL: CVE-2009-2408). */
bool certs_name(X509 *x, char *name, size_t size);
/* X509_V_OK or OpenSSL's code (X509_STORE_CTX_get_error(3)); purpose as X509_STORE_CTX_set_purpose(3); host NULL: any name. */
int certs_verify(X509_STORE *store, X509 *x, int purpose, const char *host);
/* That code in words: -EACCES. */
int certs_explain(X509 *x, int code, const char *host, struct error *e);
#endif
