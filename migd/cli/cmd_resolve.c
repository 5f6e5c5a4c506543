// SPDX-License-Identifier: Apache-2.0
/* mig resolve: a person decides what the home would, or would have to wait for, when the host that knows cannot be asked any more. */
#include <getopt.h>
#include <string.h>
#include "migd/cli/cli.h"

int cmd_resolve(int argc, char **argv)
{
	static const struct option options[] = {{"run", no_argument, NULL, 'r'}, {"drop", no_argument, NULL, 'd'}, {0}};
	bool run = false, drop = false;
	int c, status = 0;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'r' && c != 'd')
			return option_error("resolve", c, argv);
		run |= c == 'r';
		drop |= c == 'd';
	}
	if (run == drop)
		return usage_error("resolve", "expected one of --run and --drop");
	if (!pids_check("resolve", argc - optind, argv + optind))
		return MIG_USAGE;
	for (int i = optind; i < argc && status != MIG_ABSENT; i++) {
		struct error e = {0};
		int r = ask(json_pack("{s:s, s:i, s:b}", "verb", "resolve", "pid", pid_parse(argv[i]), "run", (int)run), NULL, NULL, NULL, &e);

		if (r)
			status = ask_failed(argv[i], &e);
	}
	return status;
}
