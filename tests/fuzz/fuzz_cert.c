// SPDX-License-Identifier: Apache-2.0
/*
 * Certificates that a peer shows, and those of our own files: whatever they hold, they are refused in one line, or were signed by our CA and not touched
 * since. First byte: what the rest is. identity.c is taken in whole, since what judges is its own affair.
 */
#include "rpc/identity.c"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/pki.h"

static struct rpc_tls trusted;
static char dir[80], ca_path[100], file_path[100], key_path[100];
static uint8_t *good; /* DER of the one certificate that is to be believed */
static int good_len;

static void one_line(const struct error *e)
{
	if (!e->code || !e->text[0])
		abort();
	for (const char *s = e->text; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 127)
			abort();
}

static void put(const uint8_t *data, size_t len)
{
	FILE *f = fopen(file_path, "we");

	if (!f || fwrite(data, 1, len, f) != len)
		abort();
	fclose(f);
}

static char *pem_of(const char *name, const uint8_t *der, size_t len)
{
	BIO *b = BIO_new(BIO_s_mem());
	char *text, *copy;
	long n;

	if (!b || !PEM_write_bio(b, name, "", der, (long)len))
		abort();
	n = BIO_get_mem_data(b, &text);
	copy = strndup(text, (size_t)n);
	BIO_free(b);
	return copy;
}

/* The signed part of a certificate in PEM form; length 0: none. */
static int signed_part(const uint8_t *der, long len, uint8_t **out)
{
	X509 *x = d2i_X509(NULL, &der, len);
	int n = x ? i2d_re_X509_tbs(x, out) : 0;

	X509_free(x);
	return n > 0 ? n : 0;
}

static void shown(const uint8_t *der, size_t len)
{
	char *pem = pem_of("CERTIFICATE", der, len);
	uint8_t *a = NULL, *b = NULL;
	struct error e = {0};

	if (judge_pem(&trusted, pem, X509_PURPOSE_SSL_CLIENT, NULL, NULL, &e)) {
		one_line(&e);
	} else { /* nothing of what the CA has signed has changed */
		int n = signed_part(der, (long)len, &a);
		if (!n || signed_part(good, good_len, &b) != n || memcmp(a, b, (size_t)n))
			abort();
	}
	e = (struct error){0};
	if (judge_pem(&trusted, pem, X509_PURPOSE_SSL_SERVER, "elsewhere", NULL, &e) == 0)
		abort(); /* of another name, whatever is done to it */
	one_line(&e);
	OPENSSL_free(a);
	OPENSSL_free(b);
	free(pem);
}

static void text_shown(const uint8_t *data, size_t len)
{
	char *pem = strndup((const char *)data, len);
	struct error e = {0};

	if (judge_pem(&trusted, pem, X509_PURPOSE_SSL_CLIENT, NULL, NULL, &e))
		one_line(&e);
	free(pem);
}

static void files(const uint8_t *data, size_t len)
{
	struct conf c = {.name = (char *)"ws1", .tls_ca = ca_path, .tls_cert = file_path, .tls_key = key_path};
	struct error e = {0};
	X509_STORE *store;
	X509_CRL *crl;

	put(data, len);
	store = certs_store(file_path, &e);
	if (!store)
		one_line(&e);
	X509_STORE_free(store);
	e = (struct error){0};
	crl = certs_revoked(file_path, trusted.store, &e);
	if (!crl)
		one_line(&e);
	X509_CRL_free(crl);
	e = (struct error){0};
	if (rpc_tls_check_pair(&c, &e))
		one_line(&e);
}

static void list_of_revoked(const uint8_t *der, size_t len)
{
	char *pem = pem_of("X509 CRL", der, len);
	struct error e = {0};
	X509_CRL *crl;

	put((const uint8_t *)pem, strlen(pem));
	crl = certs_revoked(file_path, trusted.store, &e);
	if (!crl)
		one_line(&e);
	X509_CRL_free(crl);
	free(pem);
}

static void one(const uint8_t *data, size_t len)
{
	if (len < 2)
		return;
	switch (data[0] % 4) {
	case 0:
		shown(data + 1, len - 1);
		break;
	case 1:
		text_shown(data + 1, len - 1);
		break;
	case 2:
		files(data + 1, len - 1);
		break;
	default:
		list_of_revoked(data + 1, len - 1);
	}
}

static struct fuzz_seed seed(uint8_t kind, const void *data, size_t len)
{
	uint8_t *p = malloc(len + 1);

	if (!p)
		abort();
	p[0] = kind;
	memcpy(p + 1, data, len);
	return (struct fuzz_seed){p, len + 1};
}

int main(int argc, char **argv)
{
	static const char *const words[] = {"-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n", "-----BEGIN X509 CRL-----\n", "DEK-Info: ", "ws1", "\n", NULL};
	struct fuzz_seed seeds[6];
	struct pki_ca ca, host, other;
	struct error e = {0};
	uint8_t *der = NULL;
	char *pem;
	int n, r;

	if (!fuzz_dir(dir, sizeof(dir)))
		return 2;
	ca = pki_make(dir, "ca", NULL, NULL, -60, 864000);
	host = pki_make(dir, "ws1", "DNS:ws1", &ca, -60, 864000);
	other = pki_make(dir, "old", "DNS:ws1,DNS:ws1.example", &ca, -600, -60);
	snprintf(ca_path, sizeof(ca_path), "%s/ca.pem", dir);
	snprintf(key_path, sizeof(key_path), "%s/ws1.key", dir);
	snprintf(file_path, sizeof(file_path), "%s/file", dir);
	pthread_mutex_init(&trusted.lock, NULL);
	trusted.ca = ca_path;
	changed(ca_path, &trusted.stamp[0]);
	trusted.store = certs_store(ca_path, &e);
	good_len = i2d_X509(host.cert, &good);
	if (!trusted.store || good_len <= 0)
		return 2;
	seeds[0] = seed(0, good, (size_t)good_len);
	n = i2d_X509(other.cert, &der);
	seeds[1] = seed(0, der, (size_t)n);
	pem = pem_of("CERTIFICATE", good, (size_t)good_len);
	seeds[2] = seed(1, pem, strlen(pem));
	seeds[3] = seed(2, pem, strlen(pem));
	seeds[4] = seed(3, der, (size_t)n);
	seeds[5] = seed(2, "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n", 78);
	r = fuzz_main(argc, argv, "cert", seeds, ARRAY_SIZE(seeds), words, one);
	for (size_t i = 0; i < ARRAY_SIZE(seeds); i++)
		free((void *)seeds[i].data);
	X509_STORE_free(trusted.store);
	OPENSSL_free(der);
	OPENSSL_free(good);
	free(pem);
	for (size_t i = 0; i < 7; i++) {
		static const char *const names[] = {"ca.pem", "ca.key", "ws1.pem", "ws1.key", "old.pem", "old.key", "file"};
		snprintf(file_path, sizeof(file_path), "%s/%s", dir, names[i]);
		unlink(file_path);
	}
	rmdir(dir);
	return r;
}
