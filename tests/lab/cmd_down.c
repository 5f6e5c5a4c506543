/* SPDX-License-Identifier: Apache-2.0 */
/* sprite-lab down: lets the daemons end in order, then ends the hub and clears all traces. Says which daemons had failed. */
#include "lab.h"
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define STOP_MAX 120000 /* ms for all daemons of a node; init loses its patience with each before (service.c) */

/* 1 if there was something to complain of. */
static int complain(const struct lab_node *n, json_t *answer)
{
	int rc = 0;
	json_t *row;
	size_t i;

	if (!answer) {
		fprintf(stderr, "sprite-lab: %s: did not stop in order\n", n->name);
		return 1;
	}
	json_array_foreach(json_object_get(answer, "daemons"), i, row) {
		const char *daemon = json_string_value(json_object_get(row, "name"));
		int status = json_integer_value(json_object_get(row, "status"));

		if (json_is_true(json_object_get(row, "failed")))
			fprintf(stderr, "sprite-lab: %s: %s had ended by %s %d\n", n->name, daemon, WIFSIGNALED(status) ? "signal" : "status",
				WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		else if (log_reported(n, daemon))
			fprintf(stderr, "sprite-lab: %s: %s: a sanitizer has found something\n", n->name, daemon);
		else
			continue;
		log_show_end(n, daemon);
		rc = 1;
	}
	return rc;
}

/* Workstations first, so that they can still reach their server; a node that does not answer within the time is ended with the hub. */
static int stop(struct lab *lab, bool servers)
{
	struct pollfd p[LAB_NODES_MAX];
	int rc = 0;

	for (size_t i = 0; i < lab->nnodes; i++) {
		struct error e = {0};

		p[i] = (struct pollfd){.fd = -1, .events = POLLIN};
		if (lab->node[i].server != servers)
			continue;
		p[i].fd = client_connect(lab, lab->node[i].name, &e);
		if (p[i].fd >= 0)
			client_send(p[i].fd, json_pack("{s:s}", "verb", "stop"), NULL, 0);
	}
	for (size_t i = 0; i < lab->nnodes; i++) {
		json_t *answer;

		if (p[i].fd < 0)
			continue;
		answer = poll(&p[i], 1, STOP_MAX) == 1 ? client_receive(p[i].fd, NULL) : NULL;
		rc |= complain(&lab->node[i], answer);
		json_decref(answer);
		close(p[i].fd);
	}
	return rc;
}

/* 1 after it has gone when one of its daemons had failed in its life. */
int cmd_down(const char *name, int argc, char **argv)
{
	static struct lab lab;
	struct error e = {0};
	int rc, failed = 0;
	bool absent;

	(void)argv;
	if (argc != 1)
		return usage_error("down");
	rc = lab_open(&lab, name, &e);
	if (rc < 0 && rc != -ENOENT)
		return fail(&e);
	rc = lab_lock(&lab, false, &e);
	absent = rc == -ENOENT;
	if (absent) /* control groups may be all that is left; an `up` may begin now, and is not to be met half way */
		rc = lab_lock(&lab, true, &e);
	if (rc < 0)
		return fail(&e);
	if (absent && !lab_alive(&lab))
		fprintf(stderr, "sprite-lab: lab %s is not up\n", name);
	if (lab_alive(&lab)) {
		failed = stop(&lab, false);
		failed |= stop(&lab, true);
	}
	return lab_clear(&lab, &e) < 0 ? fail(&e) : failed;
}
