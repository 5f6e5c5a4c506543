/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who a host is: mutual TLS with the cluster's CA, always. A peer's name is the first DNS name in its certificate's subjectAltName.
 *
 * gRPC's file watcher reads the three files again every few seconds: new connections use what is there now, so that certificates are
 * replaced without a restart (write the new pair beside the old one and rename both).
 */
#include "rpc/internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "conf/cleanup.h"
#include "conf/log.h"

#define RELOAD_SECONDS 5

struct rpc_tls {
	grpc_tls_certificate_provider *files;
};

int rpc_tls_load(const struct conf *c, struct rpc_tls **out, struct error *e)
{
	struct rpc_tls *t = calloc(1, sizeof(*t));

	if (!t)
		return error_set(e, ENOMEM, "out of memory");
	t->files = grpc_tls_certificate_provider_file_watcher_create(c->tls_key, c->tls_cert, c->tls_ca, RELOAD_SECONDS);
	if (!t->files) {
		free(t);
		return error_set(e, EINVAL, "cannot watch %s, %s, %s", c->tls_key, c->tls_cert, c->tls_ca);
	}
	*out = t;
	return 0;
}

void rpc_tls_free(struct rpc_tls *t)
{
	if (!t)
		return;
	grpc_tls_certificate_provider_release(t->files);
	free(t);
}

static grpc_tls_credentials_options *options(struct rpc_tls *t)
{
	grpc_tls_credentials_options *o = grpc_tls_credentials_options_create();

	grpc_tls_credentials_options_set_certificate_provider(o, t->files);
	grpc_tls_credentials_options_watch_root_certs(o);
	grpc_tls_credentials_options_watch_identity_key_cert_pairs(o);
	return o;
}

grpc_channel_credentials *tls_channel_creds(struct rpc_tls *t)
{
	return grpc_tls_credentials_create(options(t)); /* checks chain and host name */
}

grpc_server_credentials *tls_server_creds(struct rpc_tls *t)
{
	grpc_tls_credentials_options *o = options(t);

	grpc_tls_credentials_options_set_cert_request_type(o, GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
	return grpc_tls_server_credentials_create(o);
}

int tls_peer_name(grpc_call *call, char *buf, size_t size)
{
	grpc_auth_context *ctx = grpc_call_auth_context(call);
	const grpc_auth_property *p;
	grpc_auth_property_iterator it;
	int r = -EACCES;

	if (!ctx)
		return r;
	it = grpc_auth_context_find_properties_by_name(ctx, GRPC_PEER_DNS_PROPERTY_NAME);
	p = grpc_auth_property_iterator_next(&it);
	/* A NUL inside a name is a forgery (CVE-2009-2408): the lengths must agree. */
	if (p && p->value_length && p->value_length < size && strlen(p->value) == p->value_length) {
		memcpy(buf, p->value, p->value_length + 1);
		r = 0;
	}
	grpc_auth_context_release(ctx);
	return r;
}

bool tls_refused(const char *details)
{
	static const char *const words[] = { "certificate verify failed", "not in peer certificate", "Handshake failed", "handshake failed",
		"Hostname Verification", "alert" };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(words); i++)
		if (strstr(details, words[i]))
			return true;
	return false;
}
