/* SPDX-License-Identifier: Apache-2.0 */
/* A recipe under way, as the agent of mig make knows it (make_agent.h): its shell's question, its output, kept whole. The agent's thread alone. */
#ifndef MIGD_CLI_MAKE_RECIPE_H
#define MIGD_CLI_MAKE_RECIPE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "conf/list.h"

struct recipe {
	struct list node;
	char *command;
	uint32_t number;
	int pid, pidfd; /* of its shell here */
	int from[2];	/* its output and error, our ends; -1: ended, or it is a worker's */
	int to[2];	/* where they would have gone */
	int lock_fd;	/* the agent's */
	int shell_fd;	/* a worker's: its shell waits there for its status; -1: it has it */
	int worker;	/* its number, 0: none */
	unsigned far_open; /* a worker's: which of the two are open over there, as bits */
	uint64_t start_ns;
	bool away; /* sent to another host */
	bool ended;
	char *text; /* chunks: 1 byte which, 4 bytes length, bytes */
	size_t len, cap;
};

/* What a shell asks: a struct far_head with what belongs to it (far.h), and two descriptors, which become the recipe's. NULL: nothing that can be understood. */
struct recipe *recipe_receive(int fd, char *buf, size_t size, size_t *len);
/* The answers: where to run by itself (empty: here), with two pipes to write to; or that a worker runs it, and the status comes when it has. */
int recipe_answer(struct recipe *r, int fd, const char *host);
/* make collects its output itself (--output-sync), in a file that it reads as soon as the shell has ended: it is to write there, and nobody later. */
bool recipe_is_collected(const struct recipe *r);
int recipe_answer_here(int fd); /* with its own output */
int recipe_answer_far(struct recipe *r, int fd);
/* wait(2) status of a worker's recipe, after all its output. */
void recipe_tell(struct recipe *r, int status);

void output_add(struct recipe *r, int which, const char *p, uint32_t n);
void output_read(struct recipe *r, int which);
void output_flush(struct recipe *r);
/* It has ended: all that is there of its output is passed on. */
void recipe_ended(struct recipe *r);
bool recipe_is_over(const struct recipe *r); /* nobody writes any more, either */
void recipe_free(struct recipe *r);

#endif
