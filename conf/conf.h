/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sprite.conf: JSON (jansson). conf_load() validates the whole file and reports every error of it at once: one line each,
 * "FILE: KEY: expected WHAT, found WHAT" on stderr. Callers exit with EX_CONFIG (78) when it fails. Unknown keys are errors.
 * sprite.conf.example shows every key with its default; sprite.conf(5) explains them.
 */
#ifndef CONF_CONF_H
#define CONF_CONF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONF_PATH_DEFAULT "/etc/sprite/sprite.conf"
#define CONF_EXIT	  78 /* EX_CONFIG of sysexits.h */
#define CONF_FS_PORT	  7700
#define CONF_MIG_PORT	  7701
#define CONF_PIPE_PORT	  7702

#define CONF_ADDR_MAX	  272 /* an address as text, with its NUL */

struct conf_addr {
	char host[256]; /* name or numeric address; IPv6 without brackets */
	uint16_t port;
};

/* One directory that spritefsd serves as a domain. */
struct conf_export {
	char *prefix;	  /* where it appears below the mount point, "/" or "/src"; absolute, normalised */
	char *path;	  /* the directory on this server */
	bool home;	  /* the host's own root, natively used: prefix is "/hosts/<name>", spans mounts, restricted (fs.md) */
	bool readonly;
	bool root_squash; /* default true for served domains, false for home */
	char **hosts;	  /* names (certificates) allowed; NULL-terminated; {"*"} = every certificate of our CA (default). Home: who may
			   * attach without a grant (never "*"); default nobody */
	uint32_t uid_min, uid_max; /* callers outside act as nobody */
};

struct conf {
	char *file;	  /* where it was read from */
	char *name;	  /* this host, as in its certificate's SAN */
	struct conf_addr root_server; /* "host[:port]" */
	char *tls_ca, *tls_cert, *tls_key;
	char *tls_crl;	  /* list of revoked certificates (PEM), NULL: none */
	char *mount;	  /* "/sprite" */
	char *run_dir;	  /* "/run/sprite": sockets, pid files */
	char *state_dir;  /* "/var/lib/sprite": journals, server key */

	/* spritefsd */
	struct conf_addr *fs_listen; /* addresses, never all; [fs_nlisten], at least one: {name, port} when the file gives none */
	size_t fs_nlisten;
	struct conf_export *exports;
	size_t nexports;
	char **fs_servers; /* root server only: hosts that may add domains of their own besides /hosts/<name>; NULL-terminated */

	/* spritefs */
	struct conf_addr *pipe_listen; /* where other hosts' spritefs bring bytes of named pipes */
	size_t pipe_nlisten;
	uint64_t cache_bytes; /* bound of the client's data cache, bytes */

	/* migd */
	struct conf_addr *mig_listen;
	size_t mig_nlisten;
	bool lend;	      /* may this host take guests (mig lend changes it at run time) */
	bool root_guests;     /* may processes of root come here and leave from here */
	uint32_t idle_after;  /* seconds without input */
	bool remote_logins;   /* does input on a tty of a remote login count as the owner's; default true */
	bool on_battery;      /* may a host on battery or with its lid closed be offered; default false */
	double load_low[3], load_high[3]; /* run queue per CPU over 1, 5, 15 minutes: idle below all of low, given up above any of high */
	char *imports;	      /* whose processes may come here: "all" (root's only with root_guests), "root", "none" */
	char *exports_of;     /* whose may leave from here: the same words */
	char *adopts;	      /* whose processes of other homes may get this one for their home (mig rehome): likewise */
	uint64_t guest_memory_max; /* bytes for a family, 0 = no limit of its own */
	uint32_t guests_memory_percent; /* of this host's memory for all guests together */
	uint32_t guest_pids;  /* processes and threads of a family, 0 = no limit of its own */
	uint32_t evict_at_once; /* evictions under way at a time */
	uint32_t evict_mb_s;  /* evictions together send at most so many MiB/s; 0: three quarters of the fastest link */
	bool evicted_onward;  /* home: a process that is evicted goes straight on to another idle host if there is one */
	char *guest_network;  /* "none" or "host" */
	char **cpu_hide;      /* CPU features (names as in /proc/cpuinfo) that guests of the cluster must not need; NULL-terminated */
};

/* Returns 0 and *out (conf_free() it), or -errno after having printed every error found. `path` NULL: $SPRITE_CONF or the default. */
int conf_load(const char *path, struct conf **out);
void conf_free(struct conf *c);

enum conf_flags {
	CONF_NO_FILES = 1, /* do not look at certificates and exported directories: for `mig`, whose user may not read the key */
};
/* The same with flags and the errors written to `report` (NULL: nowhere). -EINVAL: errors in it; -ENOENT, -EACCES, ...: could not be read. */
int conf_load_with(const char *path, int flags, FILE *report, struct conf **out);
/* From memory; `file` is only a name for messages. */
int conf_parse(const char *text, size_t len, const char *file, int flags, FILE *report, struct conf **out);

/* "host", "host:port", "[ipv6]:port" or a bare IPv6 address. 0 or -EINVAL; *out unchanged on failure. */
int conf_addr_parse(const char *s, uint16_t default_port, struct conf_addr *out);
/* May this be the name of a host: letters, digits, '-', '.', '_'; 1..253; no '.' or '-' in front. */
bool conf_name_ok(const char *s);

#endif
