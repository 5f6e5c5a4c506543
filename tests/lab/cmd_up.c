/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sprite-lab up: makes the lab, starts the root file server, then everything else at once. If it fails or dies, nothing of the lab stays: it holds the hub's
 * leash (hub.c) until the lab is complete.
 */
#include "lab.h"
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int count(const char *option, const char *text, int least, struct error *e)
{
	char *end;
	long n = strtol(text, &end, 10);

	return end != text && !*end && n >= least && n <= LAB_NODES_MAX ? (int)n
									 : error_set(e, EINVAL, "%s: expected a number from %d to %d, found \"%s\"", option, least, LAB_NODES_MAX, text);
}

/* SRC:DST, a directory or file of this machine and where nodes see it. */
static int bind_good(const char *text, struct error *e)
{
	const char *colon = strchr(text, ':');
	_cleanup_free_ char *src = colon ? strndup(text, (size_t)(colon - text)) : NULL;

	if (!src || *src != '/' || colon[1] != '/')
		return error_set(e, EINVAL, "--bind: expected SRC:DST, two absolute paths, found \"%s\"", text);
	return access(src, F_OK) < 0 ? error_set(e, EINVAL, "--bind: %s: %s", src, strerror(errno)) : 0;
}

/* A size as mount(8) takes it for a tmpfs. */
static int store_good(const char *text, struct error *e)
{
	size_t n = strspn(text, "0123456789");

	return n && strspn(text + n, "kKmMgG") == strlen(text + n) && strlen(text + n) <= 1
		       ? 0
		       : error_set(e, EINVAL, "--store: expected a size such as 20M, found \"%s\"", text);
}

/* NODE=FEATURE,... */
static int hide_good(const struct lab_options *o, const char *text, struct error *e)
{
	int n, at = -1;

	if (sscanf(text, "ws%d%n", &n, &at) == 1 && at > 0 && text[at] == '=' && text[at + 1] && n >= 1 && n <= o->workstations)
		return 0;
	return error_set(e, EINVAL, "--cpu-hide: expected NODE=FEATURE,... with one of ws1 to ws%d, found \"%s\"", o->workstations, text);
}

static int parse(int argc, char **argv, struct lab_options *o, struct error *e)
{
	static const struct option options[] = {{"workstations", 1, NULL, 'n'}, {"servers", 1, NULL, 's'}, {"store", 1, NULL, 'S'}, {"bind", 1, NULL, 'b'},
		{"cpu-hide", 1, NULL, 'c'}, {NULL, 0, NULL, 0}};
	int c, r = 0;

	*o = (struct lab_options){.workstations = 3, .servers = 1};
	while (!r && (c = getopt_long(argc, argv, "n:s:", options, NULL)) != -1) {
		switch (c) {
		case 'n':
			o->workstations = count("-n", optarg, 0, e);
			break;
		case 's':
			o->servers = count("-s", optarg, 1, e);
			break;
		case 'S':
			o->store_size = optarg;
			r = store_good(optarg, e);
			break;
		case 'b':
			if (o->nbind == ARRAY_SIZE(o->bind))
				return error_set(e, EINVAL, "--bind: %zu at most", ARRAY_SIZE(o->bind));
			o->bind[o->nbind++] = optarg;
			r = bind_good(optarg, e);
			break;
		case 'c':
			if (o->ncpu_hide == ARRAY_SIZE(o->cpu_hide))
				return error_set(e, EINVAL, "--cpu-hide: %zu at most", ARRAY_SIZE(o->cpu_hide));
			o->cpu_hide[o->ncpu_hide++] = optarg;
			break;
		default:
			return -EINVAL; /* getopt has said what */
		}
		if (o->workstations < 0 || o->servers < 0)
			r = -EINVAL;
	}
	for (size_t i = 0; !r && i < o->ncpu_hide; i++)
		r = hide_good(o, o->cpu_hide[i], e);
	if (!r && optind != argc)
		r = error_set(e, EINVAL, "up: did not expect \"%s\"", argv[optind]);
	if (!r && o->workstations + o->servers > LAB_NODES_MAX)
		r = error_set(e, EINVAL, "up: %d nodes at most", LAB_NODES_MAX);
	return r;
}

static void name_nodes(struct lab *lab, const struct lab_options *o)
{
	lab->nnodes = 0;
	for (int i = 0; i < o->servers + o->workstations; i++) {
		struct lab_node *n = &lab->node[lab->nnodes++];
		bool server = i < o->servers;

		*n = (struct lab_node){.index = i, .server = server};
		snprintf(n->name, sizeof(n->name), "%s%d", server ? "fs" : "ws", server ? i + 1 : i - o->servers + 1);
		snprintf(n->address, sizeof(n->address), "10.77.%d.%d", lab->subnet, server ? 1 + i : 101 + i - o->servers);
	}
}

/* Reads the answer to `boot`. */
static int boot_result(const struct lab_node *n, int sock, struct error *e)
{
	json_t *answer = client_receive(sock, NULL), *row;
	size_t i;

	if (!answer)
		return error_set(e, EPIPE, "%s died", n->name);
	json_array_foreach(json_object_get(answer, "daemons"), i, row) {
		const char *name = json_string_value(json_object_get(row, "name")), *state = json_string_value(json_object_get(row, "state"));

		if (strcmp(state, "missing") == 0)
			error_set(e, ENOENT, "%s: " LAB_BIN "/%s is not there: make all", n->name, name);
		if (strcmp(state, "ended") == 0) {
			int status = json_integer_value(json_object_get(row, "status"));
			log_show_end(n, name);
			error_set(e, EIO, "%s: %s ended at its start (%s %d)", n->name, name, WIFSIGNALED(status) ? "signal" : "status",
				WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		}
	}
	json_decref(answer);
	return e->code ? -e->code : 0;
}

/* Starts the daemons of nodes [from, to), waits for all. */
static int boot(struct lab *lab, size_t from, size_t to, struct error *e)
{
	int sock[LAB_NODES_MAX], rc = 0;
	size_t i, asked = from;

	for (i = from; rc == 0 && i < to; i++) {
		struct ucred peer;
		socklen_t len = sizeof(peer);

		rc = sock[i] = client_connect(lab, lab->node[i].name, e);
		if (rc < 0)
			break;
		asked = i + 1;
		if (getsockopt(sock[i], SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
			lab->node[i].pid = peer.pid; /* the init's, as seen here */
		rc = client_send(sock[i], json_pack("{s:s}", "verb", "boot"), NULL, 0);
		if (rc < 0)
			error_set(e, -rc, "%s: %s", lab->node[i].name, strerror(-rc));
	}
	for (i = from; i < asked; i++) {
		if (rc == 0)
			rc = boot_result(&lab->node[i], sock[i], e);
		close(sock[i]);
	}
	return rc;
}

/* Guests live in user namespaces. Where there can be none, say so now: a move would fail with words that nobody expects. */
static int check_namespaces(struct error *e)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER) < 0 ? errno : 0);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return error_set(e, errno, "fork: %s", strerror(errno));
	if (status == 0)
		return 0;
	return error_set(e, EPERM, "user namespaces cannot be made here: %s (in a chroot the kernel forbids them; else see user.max_user_namespaces)",
		WIFEXITED(status) ? strerror(WEXITSTATUS(status)) : "killed");
}

int cmd_up(const char *name, int argc, char **argv)
{
	static struct lab lab;
	struct lab_options o;
	struct error e = {0};
	int leash = -1, rc;

	if (parse(argc, argv, &o, &e) < 0) {
		if (e.code)
			fail(&e);
		return usage_error("up");
	}
	rc = lab_open(&lab, name, &e);
	if (rc < 0 && rc != -ENOENT)
		return fail(&e);
	if (check_namespaces(&e) < 0)
		return fail(&e);
	if (lab_lock(&lab, true, &e) < 0)
		return fail(&e);
	if (lab_alive(&lab)) {
		fprintf(stderr, "sprite-lab: lab %s is up already: sprite-lab --name %s down\n", name, name);
		return 1;
	}
	/* what a killed one left; the directory goes with it, so take it again */
	rc = lab_clear(&lab, &e);
	close(lab.lock);
	rc = rc ? rc : lab_lock(&lab, true, &e);
	if (rc < 0)
		return fail(&e);
	cgroup_probe();
	lab.subnet = lab_free_subnet();
	name_nodes(&lab, &o);
	rc = hub_start(&lab, &o, &leash, &e);
	rc = rc ? rc : boot(&lab, 0, 1, &e); /* the root server first: all others ask it */
	rc = rc ? rc : boot(&lab, 1, lab.nnodes, &e);
	rc = rc ? rc : lab_save(&lab, &e);
	if (rc == 0 && write(leash, "u", 1) == 1) {
		printf("lab %s is up:", name);
		for (size_t i = 0; i < lab.nnodes; i++)
			printf(" %s", lab.node[i].name);
		printf("\n");
		return 0;
	}
	fail(&e);
	memset(&e, 0, sizeof(e));
	if (lab_clear(&lab, &e) < 0)
		fail(&e);
	return 1;
}
