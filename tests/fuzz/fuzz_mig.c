// SPDX-License-Identifier: Apache-2.0
/*
 * Decoders of migd: every message of sprite.mig and sprite.master, calls that a guest host asks the home to make, frames of the relay (into a home's and a
 * guest's hub with two pipes and a terminal). First byte: which one. (The journal: fuzz_journal.c.)
 */
#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include "migd/engine/foreign.h"
#include "migd/relay/hub.h"
#include "rpc/master.pb-c.h"
#include "rpc/mig.pb-c.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/message.h"

static const ProtobufCMessageDescriptor *const messages[] = {
	&sprite__mig__reply__descriptor, &sprite__mig__status_req__descriptor, &sprite__mig__status_rep__descriptor, &sprite__mig__prepare_req__descriptor,
	&sprite__mig__source__descriptor, &sprite__mig__send_req__descriptor, &sprite__mig__send_rep__descriptor, &sprite__mig__family_req__descriptor,
	&sprite__mig__go_rep__descriptor, &sprite__mig__image_frame__descriptor, &sprite__mig__signal_req__descriptor, &sprite__mig__report_req__descriptor,
	&sprite__mig__sync_req__descriptor, &sprite__mig__guest__descriptor, &sprite__mig__sync_rep__descriptor, &sprite__mig__relay_frame__descriptor,
	&sprite__mig__evict_req__descriptor, &sprite__mig__call_req__descriptor, &sprite__mig__call_rep__descriptor, &sprite__mig__env_req__descriptor,
	&sprite__mig__env_rep__descriptor, &sprite__master__frame__descriptor, &sprite__master__report__descriptor, &sprite__master__report_rep__descriptor,
};

static int terminal, listening; /* a home's */

static void one_message(uint8_t which, const uint8_t *data, size_t len)
{
	ProtobufCMessage *m = protobuf_c_message_unpack(messages[which % ARRAY_SIZE(messages)], NULL, len, data);

	if (m)
		protobuf_c_message_free_unpacked(m, NULL);
}

/* What passes must keep its pointers within its six arguments, and its data within the room for them. */
static void one_call(const uint8_t *data, size_t len)
{
	struct eng_foreign c = {0};

	memcpy(&c, data, len < sizeof(c) ? len : sizeof(c));
	if (foreign_valid(&c) && (c.in_arg > 5 || c.out_arg > 5 || (c.in_arg >= 0 && c.in_len > FOREIGN_MAX) || (c.out_arg >= 0 && c.out_len > FOREIGN_MAX)))
		abort();
}

/* Frames of 11 bytes of header each: id, kind, offset (8), length; then the bytes. What is refused ends the link. */
static void one_relay(bool home, const uint8_t *data, size_t len)
{
	struct relay_hub *h;
	int in[2], out[2], sock[2], tty = -1;

	if (hub_new(home, &h))
		abort();
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock))
		abort();
	if (home) {
		hub_add(h, 1, RELAY_IN, dup(in[0]), getpid());
		hub_add(h, 2, RELAY_OUT, dup(out[1]), getpid());
		hub_add(h, 3, RELAY_TTY, dup(terminal), getpid());
		hub_add(h, 4, RELAY_SOCK, dup(sock[0]), getpid());
		hub_add(h, 5, RELAY_LISTEN, dup(listening), getpid());
		hub_add(h, 6, RELAY_TCP, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), getpid());
	} else {
		close(in[0]);
		close(out[1]);
		in[0] = hub_make(h, 1, RELAY_IN, NULL);
		out[1] = hub_make(h, 2, RELAY_OUT, NULL);
		tty = hub_make(h, 3, RELAY_TTY, NULL);
		close(sock[0]);
		sock[0] = hub_make(h, 4, RELAY_SOCK, NULL);
	}
	while (len >= 11) {
		struct relay_frame f = { .id = data[0] % 7, .kind = data[1] % (RF_KINDS + 2), .len = data[10] };

		memcpy(&f.offset, data + 2, 8);
		if (data[1] & 0x80)
			f.offset %= 300; /* near what is expected */
		data += 11;
		len -= 11;
		if (f.len > len)
			f.len = len;
		f.data = data;
		if (hub_input(h, NULL, &f) == -EPROTO)
			break;
		data += f.len;
		len -= f.len;
	}
	hub_free(h);
	close(in[0]);
	close(in[1]);
	close(out[0]);
	close(out[1]);
	close(sock[0]);
	close(sock[1]);
	if (tty >= 0)
		close(tty);
}

static void one(const uint8_t *data, size_t len)
{
	if (!len)
		return;
	if (data[0] < 0x80)
		one_message(data[0], data + 1, len - 1);
	else if (data[0] < 0xa0)
		one_call(data + 1, len - 1);
	else
		one_relay(data[0] & 1, data + 1, len - 1);
}

int main(int argc, char **argv)
{
	static const char frames[] = "\2\0\0\0\0\0\0\0\0\0\0\2\1\0\0\0\0\0\0\0\0\5hello\1\2\0\0\0\0\0\0\0\0\0\3\11\0\0\0\0\0\0\0\0\10\0\30\0\120\0\0\0\0";
	static const struct eng_foreign call = { .nr = SYS_kill, .pid = 7, .in_arg = -1, .out_arg = -1, .arg = { 4711, 15 } };
	static uint8_t seed[ARRAY_SIZE(messages) + 3][1 + sizeof(call)];
	static struct fuzz_seed seeds[ARRAY_SIZE(seed)];
	size_t n = 0;

	signal(SIGPIPE, SIG_IGN);
	terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	listen(listening, 1);
	for (; n < ARRAY_SIZE(messages); n++) {
		seed[n][0] = (uint8_t)n;
		seeds[n] = (struct fuzz_seed){ seed[n], 1 + fuzz_message(seed[n] + 1, sizeof(seed[n]) - 1, messages[n]) };
	}
	for (int home = 0; home < 2; home++, n++) {
		seed[n][0] = (uint8_t)(0xa0 | home);
		memcpy(seed[n] + 1, frames, sizeof(frames) - 1);
		seeds[n] = (struct fuzz_seed){ seed[n], sizeof(frames) };
	}
	seed[n][0] = 0x80;
	memcpy(seed[n] + 1, &call, sizeof(call));
	seeds[n] = (struct fuzz_seed){ seed[n], sizeof(seed[n]) };
	n++;
	return fuzz_main(argc, argv, "mig", seeds, n, NULL, one);
}
