// SPDX-License-Identifier: Apache-2.0
/*
 * sprite-holder hears anything from spritefs: messages of any length, with and without descriptors. It keeps what it was told to keep, closes the rest, and
 * lives. holder_main.c is taken in whole, its main() under another name.
 */
#define main holder_main
#include "fs/client/holder_main.c"
#undef main
#include "tests/fuzz/fuzz.h"

static int null;

static unsigned open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	if (!d)
		abort();
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* A message: how many bytes of it are sent (1 to 32) and how many descriptors go with it, then the bytes. */
static void one(const uint8_t *p, size_t len)
{
	struct holder h = {.pid = getpid(), .alive = -1, .pidfd = -1, .up = -1, .signals = -1};
	unsigned before = open_files();
	int s[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) < 0)
		abort();
	h.sock = s[0];
	while (len > 1) {
		size_t most = 1 + p[0] % 32u, n = most < len - 1 ? most : len - 1, fds = p[0] >> 5 & 3;
		union {
			struct cmsghdr h;
			char buf[CMSG_SPACE(3 * sizeof(int))];
		} c = {.h = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(fds * sizeof(int))}};
		struct iovec v = {(void *)(p + 1), n};
		struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

		if (fds) {
			memcpy(CMSG_DATA(&c.h), (const int[]){null, null, null}, fds * sizeof(int));
			m.msg_control = &c;
			m.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		}
		if (sendmsg(s[1], &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		p += 1 + n;
		len -= 1 + n;
		hear(&h);
	}
	close(s[0]);
	close(s[1]);
	if (h.alive >= 0)
		close(h.alive);
	hold_store_clear(&h.store);
	if (open_files() != before)
		abort(); /* a descriptor that nobody knows of */
}

int main(int argc, char **argv)
{
	static uint8_t talk[5 * 17];
	static const struct {
		uint32_t op;
		uint64_t key;
		uint8_t fds;
	} say[] = {{HOLD_KEEP, HOLD_DEV, 1}, {HOLD_KEEP, HOLD_STATE, 1}, {HOLD_ALIVE, 1, 0}, {HOLD_DROP, HOLD_STATE, 0}, {HOLD_READY, 0, 0}};
	static const struct fuzz_seed seeds[] = {{talk, sizeof(talk)}, {talk, 17}};

	for (size_t i = 0; i < ARRAY_SIZE(say); i++) {
		talk[17 * i] = (uint8_t)(15 | say[i].fds << 5);
		memcpy(talk + 17 * i + 1, &say[i].op, 4);
		memcpy(talk + 17 * i + 9, &say[i].key, 8);
	}
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	unsetenv("NOTIFY_SOCKET");
	return fuzz_main(argc, argv, "holder", seeds, ARRAY_SIZE(seeds), NULL, one);
}
