/* SPDX-License-Identifier: Apache-2.0 */
/* The status (control.c) as Prometheus text (exposition format 0.0.4). Works on the JSON, so that the command needs nothing of the server. */
#include "fs/server/metrics.h"
#include <string.h>

static void gauge(FILE *f, json_t *status, const char *key, const char *name, const char *type, const char *help)
{
	fprintf(f, "# HELP %s %s\n# TYPE %s %s\n%s %lld\n", name, help, name, type, name,
		(long long)json_integer_value(json_object_get(status, key)));
}

static void per_method(FILE *f, json_t *rpc, const char *key, const char *name, const char *help)
{
	const char *method;
	json_t *v;

	fprintf(f, "# HELP %s %s\n# TYPE %s counter\n", name, help, name);
	json_object_foreach(rpc, method, v)
		fprintf(f, "%s{method=\"%s\"} %lld\n", name, method, (long long)json_integer_value(json_object_get(v, key)));
}

/* A histogram: its buckets are powers of two of microseconds (OP_BUCKETS). */
static void durations(FILE *f, json_t *rpc)
{
	const char *method;
	json_t *v, *n;
	size_t i;

	fputs("# HELP spritefsd_rpc_seconds Time from receipt to answer, waiting for recalls included.\n# TYPE spritefsd_rpc_seconds histogram\n", f);
	json_object_foreach(rpc, method, v) {
		long long sum = 0, calls = json_integer_value(json_object_get(v, "calls"));
		json_t *took = json_object_get(v, "took");

		json_array_foreach(took, i, n) {
			sum += json_integer_value(n);
			if (i + 1 < json_array_size(took))
				fprintf(f, "spritefsd_rpc_seconds_bucket{method=\"%s\",le=\"%.6f\"} %lld\n", method, (double)(1ll << i) / 1e6, sum);
		}
		fprintf(f, "spritefsd_rpc_seconds_bucket{method=\"%s\",le=\"+Inf\"} %lld\n", method, sum);
		fprintf(f, "spritefsd_rpc_seconds_sum{method=\"%s\"} %.6f\n", method, json_real_value(json_object_get(v, "mean_us")) * (double)calls / 1e6);
		fprintf(f, "spritefsd_rpc_seconds_count{method=\"%s\"} %lld\n", method, sum);
	}
}

static void per_client(FILE *f, json_t *clients, const char *key, const char *name, const char *help)
{
	size_t i;
	json_t *c;

	fprintf(f, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name);
	json_array_foreach(clients, i, c)
		fprintf(f, "%s{host=\"%s\",instance=\"%s\",client=\"%zu\"} %lld\n", name, json_string_value(json_object_get(c, "host")),
			json_string_value(json_object_get(c, "instance")), i, (long long)json_integer_value(json_object_get(c, key)));
}

void metrics_print(FILE *f, json_t *status)
{
	json_t *rpc = json_object_get(status, "rpc"), *clients = json_object_get(status, "clients");
	json_t *locks = json_object_get(status, "locks");

	gauge(f, status, "opens", "spritefsd_opens", "gauge", "Open file descriptions of all clients.");
	gauge(f, status, "leases", "spritefsd_leases", "gauge", "Objects on which some client holds a lease.");
	gauge(f, status, "recalls", "spritefsd_recalls_total", "counter", "Recalls sent.");
	gauge(f, status, "recalls_owed", "spritefsd_recalls_owed", "gauge", "Recalls that no client has acknowledged yet.");
	gauge(f, locks, "held", "spritefsd_locks_held", "gauge", "Ranges locked.");
	gauge(f, locks, "waiting", "spritefsd_locks_waiting", "gauge", "Lock requests that wait.");
	gauge(f, status, "direct_calls", "spritefsd_direct_calls_total", "counter", "Calls that came by a connection without gRPC.");
	gauge(f, status, "direct_connections", "spritefsd_direct_connections", "gauge", "Connections without gRPC.");
	per_client(f, clients, "opens", "spritefsd_client_opens", "Open file descriptions by client.");
	per_client(f, clients, "leases", "spritefsd_client_leases", "Objects on which the client holds a lease.");
	per_client(f, clients, "parked", "spritefsd_client_parked", "Operations that wait for acknowledgements of others.");
	per_client(f, clients, "silent_ms", "spritefsd_client_silent_ms", "Milliseconds since the client was last heard.");
	per_method(f, rpc, "calls", "spritefsd_rpc_calls_total", "Calls answered.");
	per_method(f, rpc, "errors", "spritefsd_rpc_errors_total", "Calls answered with an errno.");
	durations(f, rpc);
}
