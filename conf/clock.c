// SPDX-License-Identifier: Apache-2.0
/* Time and boot identity: see clock.h. The environment is read once; everything is safe from any thread. */
#include "conf/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "conf/cleanup.h"

static uint64_t (*_Atomic fake_source)(void);
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int64_t offset_ns;
static uint64_t epoch;
static char boot_id[37];

static void read_boot_id(void)
{
	const char *given = getenv("SPRITE_BOOT_ID");
	_cleanup_close_ int fd = -1;

	if (given && strlen(given) == 36) {
		memcpy(boot_id, given, 36);
		return;
	}
	fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, boot_id, 36) != 36)
		memcpy(boot_id, "00000000-0000-0000-0000-000000000000", 36); /* no /proc: every boot looks alike */
}

static void clock_setup(void)
{
	const char *ms = getenv("SPRITE_CLOCK_OFFSET_MS");

	if (ms)
		offset_ns = strtoll(ms, NULL, 10) * 1000000;
	while (!epoch)
		if (getrandom(&epoch, sizeof(epoch), 0) != (ssize_t)sizeof(epoch) && errno != EINTR)
			epoch = (uint64_t)getpid() << 32 ^ (uint64_t)time(NULL); /* ENOSYS only */
	read_boot_id();
}

static int64_t kernel_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	pthread_once(&once, clock_setup);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec + offset_ns;
}

static uint64_t ns(clockid_t id)
{
	uint64_t (*fake)(void) = atomic_load(&fake_source);
	int64_t t;

	if (fake)
		return fake();
	t = kernel_ns(id);
	return t > 0 ? (uint64_t)t : 0; /* a negative offset beyond the boot */
}

uint64_t clock_boot_ns(void)
{
	return ns(CLOCK_BOOTTIME);
}

uint64_t clock_mono_ns(void)
{
	return ns(CLOCK_MONOTONIC);
}

uint64_t clock_host_mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int64_t clock_real_ns(void)
{
	uint64_t (*fake)(void) = atomic_load(&fake_source);

	return fake ? (int64_t)fake() : kernel_ns(CLOCK_REALTIME);
}

void clock_fake(uint64_t (*source)(void))
{
	atomic_store(&fake_source, source);
}

uint64_t clock_epoch(void)
{
	pthread_once(&once, clock_setup);
	return epoch;
}

void clock_epoch_adopt(uint64_t earlier)
{
	pthread_once(&once, clock_setup);
	epoch = earlier;
}

const char *clock_boot_id(void)
{
	pthread_once(&once, clock_setup);
	return boot_id;
}
