/* SPDX-License-Identifier: Apache-2.0 */
/* Seeds for decoders of protobuf messages: one with every field filled once, as far as the descriptor tells how. */
#ifndef TESTS_FUZZ_MESSAGE_H
#define TESTS_FUZZ_MESSAGE_H
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline size_t fuzz_message(uint8_t *msg, size_t room, const ProtobufCMessageDescriptor *d)
{
	size_t n = 0;

	for (unsigned i = 0; i < d->n_fields && n + 24 < room; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		bool text = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES || f->type == PROTOBUF_C_TYPE_MESSAGE;
		unsigned tag = f->id << 3 | (text ? 2 : 0);

		if (tag >= 128)
			msg[n++] = (uint8_t)(tag | 128), tag >>= 7;
		msg[n++] = (uint8_t)tag;
		if (text) {
			msg[n++] = 4;
			memcpy(msg + n, "\x08\x01\x10\x02", 4); /* two numbers, if it is a message */
			n += 4;
		} else {
			msg[n++] = (uint8_t)(i + 1);
		}
	}
	return n;
}

#endif
