// SPDX-License-Identifier: Apache-2.0
/*
 * Decoders of migd: every message of sprite.mig, frames of the relay (into a home's and a guest's hub with a pipe each), lines of the journal.
 * First byte: which one.
 */
#include <signal.h>
#include "migd/journal.h"
#include "migd/relay.h"
#include "rpc/mig.pb-c.h"
#include "tests/fuzz/fuzz.h"

static const ProtobufCMessageDescriptor *const messages[] = {
	&sprite__mig__reply__descriptor, &sprite__mig__status_req__descriptor, &sprite__mig__status_rep__descriptor, &sprite__mig__prepare_req__descriptor,
	&sprite__mig__send_req__descriptor, &sprite__mig__send_rep__descriptor, &sprite__mig__family_req__descriptor, &sprite__mig__go_rep__descriptor,
	&sprite__mig__image_frame__descriptor, &sprite__mig__signal_req__descriptor, &sprite__mig__report_req__descriptor,
	&sprite__mig__sync_req__descriptor, &sprite__mig__sync_rep__descriptor, &sprite__mig__relay_frame__descriptor, &sprite__mig__evict_req__descriptor,
};

static void one_message(uint8_t which, const uint8_t *data, size_t len)
{
	ProtobufCMessage *m = protobuf_c_message_unpack(messages[which % ARRAY_SIZE(messages)], NULL, len, data);

	if (m)
		protobuf_c_message_free_unpacked(m, NULL);
}

static void one_line(const uint8_t *data, size_t len)
{
	json_decref(journal_parse((const char *)data, len));
}

/* Frames of 12 bytes of header each: id, kind, offset (8), length; then the bytes. */
static void one_relay(bool home, const uint8_t *data, size_t len)
{
	struct relay_hub *h;
	int in[2], out[2];

	if (relay_hub_new(home, &h))
		abort();
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		abort();
	if (home) {
		relay_add(h, 1, RELAY_IN, dup(in[0]), getpid());
		relay_add(h, 2, RELAY_OUT, dup(out[1]), getpid());
	} else {
		close(in[0]);
		close(out[1]);
		in[0] = relay_make(h, 1, RELAY_IN);
		out[1] = relay_make(h, 2, RELAY_OUT);
	}
	while (len >= 11) {
		struct relay_frame f = { .id = data[0] % 4, .kind = data[1] % (RF_KINDS + 2), .len = data[10] };

		memcpy(&f.offset, data + 2, 8);
		if (data[1] & 0x80)
			f.offset %= 300; /* near what is expected */
		data += 11;
		len -= 11;
		if (f.len > len)
			f.len = len;
		f.data = data;
		relay_input(h, &f);
		data += f.len;
		len -= f.len;
	}
	relay_hub_free(h);
	close(in[0]);
	close(in[1]);
	close(out[0]);
	close(out[1]);
}

static void one(const uint8_t *data, size_t len)
{
	if (!len)
		return;
	if (data[0] < 0x80)
		one_message(data[0], data + 1, len - 1);
	else if (data[0] < 0xa0)
		one_line(data + 1, len - 1);
	else
		one_relay(data[0] & 1, data + 1, len - 1);
}

int main(int argc, char **argv)
{
	static uint8_t seed[ARRAY_SIZE(messages) + 4][256];
	static struct fuzz_seed seeds[ARRAY_SIZE(seed)];
	Sprite__Mig__PrepareReq p = SPRITE__MIG__PREPARE_REQ__INIT;
	Sprite__Mig__SignalReq s = SPRITE__MIG__SIGNAL_REQ__INIT;
	uint8_t info[128] = { 15 };
	json_t *r = journal_record("commit", "ws1.1234.1", 3);
	char *line = journal_format(r);
	size_t n = 0;

	signal(SIGPIPE, SIG_IGN);
	for (; n < ARRAY_SIZE(messages); n++) {
		seed[n][0] = (uint8_t)n;
		seeds[n] = (struct fuzz_seed){ seed[n], 1 };
	}
	p.family = "ws1.1234.1";
	p.home = "ws1";
	p.source = "ws1";
	p.gen = 2;
	seeds[3].len = 1 + sprite__mig__prepare_req__pack(&p, seed[3] + 1);
	s.family = "ws1.1234.1";
	s.info = (ProtobufCBinaryData){ sizeof(info), info };
	seeds[9].len = 1 + sprite__mig__signal_req__pack(&s, seed[9] + 1);
	seed[n][0] = 0x80;
	memcpy(seed[n] + 1, line, strlen(line) - 1);
	seeds[n] = (struct fuzz_seed){ seed[n], strlen(line) };
	for (int home = 0; home < 2; home++) {
		uint8_t *q = seed[++n];

		q[0] = 0xa0 | home;
		memcpy(q + 1, "\2\0\0\0\0\0\0\0\0\0\0\2\1\0\0\0\0\0\0\0\0\5hello\1\2\0\0\0\0\0\0\0\0\0", 38);
		seeds[n] = (struct fuzz_seed){ q, 39 };
	}
	free(line);
	json_decref(r);
	return fuzz_main(argc, argv, "mig", seeds, n + 1, NULL, one);
}
