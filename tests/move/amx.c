/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AMX, which a process has to ask for: all eight tiles and their configuration, in two threads, filled with a pattern, kept while the thread spins, and compared.
 * The permission itself: a thread made after a move uses the tiles too.
 */
#include "move.h"

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILE_DATA = 18, ROWS = 16, WIDTH = 64, TILES = 8, SPINS = 3000000 };
struct config {
	uint8_t palette, start_row, reserved[14];
	uint16_t width[16];
	uint8_t rows[16];
} __attribute__((aligned(64)));
struct tiles {
	uint8_t tile[TILES][ROWS * WIDTH];
} __attribute__((aligned(64)));

static volatile bool stop;

#define EACH(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7)
#define LOAD(i) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #i ::"r"(in->tile[i]), "r"((long)WIDTH) : "memory");
#define STORE(i) __asm__ volatile("tilestored %%tmm" #i ", (%0,%1,1)" ::"r"(out->tile[i]), "r"((long)WIDTH) : "memory");

static __attribute__((target("amx-tile"))) void round_trip(const struct config *c, const struct tiles *in, struct tiles *out, struct config *kept)
{
	__asm__ volatile("ldtilecfg %0" ::"m"(*c));
	EACH(LOAD)
	for (unsigned n = SPINS; n; n--)
		__asm__ volatile("");
	EACH(STORE)
	__asm__ volatile("sttilecfg %0" : "=m"(*kept));
	__asm__ volatile("tilerelease");
}

static void once(uint64_t *seed)
{
	struct config c = {.palette = 1}, kept;
	static __thread struct tiles in, out;

	for (int i = 0; i < TILES; i++) {
		c.rows[i] = ROWS;
		c.width[i] = WIDTH;
	}
	for (size_t i = 0; i < sizeof in; i += 8)
		memcpy((char *)&in + i, &(uint64_t){move_rand(seed)}, 8);
	memset(&out, 0, sizeof out);
	round_trip(&c, &in, &out, &kept);
	CHECK(!memcmp(&in, &out, sizeof in), "the contents of a tile changed");
	CHECK(!memcmp(&c, &kept, sizeof c), "the configuration of the tiles changed");
}

static void *run(void *arg)
{
	uint64_t seed = (uintptr_t)arg;
	do
		once(&seed);
	while (!stop);
	return NULL;
}
static void *run_once(void *arg)
{
	uint64_t seed = (uintptr_t)arg;
	once(&seed);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t[2], late;

	move_begin(argc, argv);
	if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) < 0)
		skip("no AMX here");
	for (uintptr_t i = 0; i < 2; i++)
		CHECK(pthread_create(&t[i], NULL, run, (void *)(i + 1234)) == 0, "pthread_create");
	move_ready();
	while (move_more()) {
		CHECK(pthread_create(&late, NULL, run_once, (void *)77) == 0, "pthread_create");
		pthread_join(late, NULL);
		move_nap(10000);
	}
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	return move_pass();
}
