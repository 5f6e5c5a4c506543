# SPDX-License-Identifier: Apache-2.0
# One flat Makefile. Sources are found by folder: put a .c file where it belongs and it is built.
# make [all] | check | check-long | lab-check | bench | fuzz | lint | asan | tsan | install | deb | demo   (V=1: verbose)
BUILD  ?= build
PREFIX ?= /usr
CC     ?= gcc
SAN    ?=
VERSION := 0.1.0

PKGS   := fuse3 grpc libprotobuf-c jansson openssl
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
CPPFLAGS += -D_GNU_SOURCE -DFUSE_USE_VERSION=314 -DSPRITE_VERSION='"$(VERSION)"' -I. -I$(BUILD)/gen $(PKG_CFLAGS)
CFLAGS += -std=gnu11 -O2 -g -Wall -Wextra -Werror -pthread $(SAN)
LDFLAGS += -pthread $(SAN)
L_CONF := -ljansson
L_RPC  := $(L_CONF) -lprotobuf-c -lgrpc -lgpr -lssl -lcrypto
L_MIGD := $(L_RPC) -lsystemd -lm
ifneq ($(V),1)
Q := @
endif
DEPS := gcc make pkg-config libfuse3-dev fuse3 libgrpc-dev protobuf-c-compiler libprotobuf-c-dev protobuf-compiler \
	libjansson-dev libcunit1-dev libssl-dev openssl libsystemd-dev libncurses-dev iproute2 xz-utils python3 attr acl procps util-linux gcc-multilib dbus-daemon less vim tmux \
	redis-tools curl openssh-client

.PHONY: all deps check check-long unit-check lab-check bench fuzz lint asan tsan install deb demo clean
all: programs

# ---- objects ---------------------------------------------------------------
objs = $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(2),$(sort $(wildcard $(1)))))
PROTOS   := $(sort $(wildcard rpc/*.proto))
GEN_C    := $(PROTOS:rpc/%.proto=$(BUILD)/gen/rpc/%.pb-c.c)
GEN_H    := $(GEN_C:.c=.h)
.SECONDARY: $(GEN_C) $(GEN_H)
O_CONF   := $(call objs,conf/*.c)
O_RPC    := $(call objs,rpc/*.c) $(GEN_C:$(BUILD)/gen/%.c=$(BUILD)/obj/gen/%.o)
O_FS     := $(call objs,fs/*.c)
O_CLIENT := $(call objs,fs/client/*.c,fs/client/main.c fs/client/holder_main.c)
O_SERVER := $(call objs,fs/server/*.c,fs/server/main.c)
O_ENGINE := $(call objs,migd/engine/*.c,$(wildcard migd/engine/keeper_*.c))
O_RELAY  := $(call objs,migd/relay/*.c,migd/relay/main.c)
O_MIGD   := $(call objs,migd/*.c,migd/main.c)
O_CLI    := $(call objs,migd/cli/*.c,migd/cli/mig.c migd/cli/sprite_sh.c)
O_LAB    := $(call objs,tests/lab/*.c)

$(BUILD)/gen/rpc/%.pb-c.c $(BUILD)/gen/rpc/%.pb-c.h &: rpc/%.proto
	@mkdir -p $(BUILD)/gen
	$(Q)protoc-c --c_out=$(BUILD)/gen --proto_path=. $<

$(BUILD)/obj/gen/%.o: $(BUILD)/gen/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/obj/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	@$(if $(Q),echo "  CC $<")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# ---- programs --------------------------------------------------------------
link = @mkdir -p $(@D); $(if $(Q),echo "  LD $@";) $(CC) $(LDFLAGS) -o $@ $(filter %.o,$^)
PROGRAMS := $(addprefix $(BUILD)/bin/,$(if $(wildcard fs/server/main.c),spritefsd) $(if $(wildcard fs/client/main.c),spritefs sprite-holder) \
	$(if $(wildcard migd/main.c),migd sprite-relay) $(if $(wildcard migd/cli/mig.c),mig sprite-sh) $(if $(wildcard migd/engine/keeper_main.c),sprite-keeper) \
	$(if $(wildcard tests/lab/main.c),sprite-lab) $(if $(wildcard rpc/sprite-pki),sprite-pki) $(if $(wildcard fs/client/mount.sprite),mount.sprite))
programs: $(PROGRAMS)

$(BUILD)/bin/spritefsd: $(BUILD)/obj/fs/server/main.o $(O_SERVER) $(O_FS) $(O_RPC) $(O_CONF)
	$(link) $(L_RPC)
$(BUILD)/bin/spritefs: $(BUILD)/obj/fs/client/main.o $(O_CLIENT) $(O_FS) $(O_RPC) $(O_CONF)
	$(link) $(L_RPC) -lfuse3
$(BUILD)/bin/sprite-holder: $(BUILD)/obj/fs/client/holder_main.o $(BUILD)/obj/fs/hold.o $(BUILD)/obj/fs/hold_serve.o $(O_CONF)
	$(link) $(L_CONF)
$(BUILD)/bin/sprite-relay: $(BUILD)/obj/migd/relay/main.o $(O_RELAY) $(O_CONF)
	$(link) $(L_CONF)
$(BUILD)/bin/migd: $(BUILD)/obj/migd/main.o $(O_MIGD) $(BUILD)/obj/migd/relay/wire.o $(O_ENGINE) $(O_RPC) $(O_CONF)
	$(link) $(L_MIGD)
$(BUILD)/bin/mig: $(BUILD)/obj/migd/cli/mig.o $(O_CLI) $(BUILD)/obj/rpc/local.o $(O_CONF)
	$(link) $(L_CONF) -lncurses
# The shell of mig make starts once a recipe: only what it needs, and nothing to be loaded.
$(BUILD)/bin/sprite-sh: $(addprefix $(BUILD)/obj/,migd/cli/sprite_sh.o migd/cli/cmd_shell.o migd/cli/command.o migd/cli/builtin.o migd/cli/far.o migd/cli/far_work.o migd/cli/ask.o rpc/local.o) $(O_CONF)
	@rm -f $@
	$(link) $(if $(SAN),,-static) $(L_CONF)
$(BUILD)/bin/sprite-lab: $(O_LAB) $(O_CONF)
	$(link) $(L_CONF)
# Scripts: our version is put in.
$(BUILD)/bin/sprite-pki: rpc/sprite-pki
$(BUILD)/bin/mount.sprite: fs/client/mount.sprite
$(BUILD)/bin/sprite-pki $(BUILD)/bin/mount.sprite:
	@mkdir -p $(@D); sed 's/@VERSION@/$(VERSION)/' $< > $@.new && chmod 755 $@.new && mv $@.new $@
# The keeper is pid 1 of a guest family, in the home's root view: static, tiny, with nothing of ours beneath it.
$(BUILD)/bin/sprite-keeper: $(wildcard migd/engine/keeper_*.c) migd/engine/foreign.c migd/engine/devices.c conf/text.c $(wildcard migd/engine/*.h) conf/text.h
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -std=gnu11 -O2 -g -Wall -Wextra -Werror -pthread -static -o $@ $(filter %.c,$^)

# ---- tests -----------------------------------------------------------------
# Archives: a test pulls only what it uses, so client and server may both have an events.c with the same names.
lib_objs = $(addprefix $(BUILD)/lib/,$(addsuffix .a,client server fs cli migd relay engine rpc conf))
define archive
$(BUILD)/lib/$(1).a: $(2)
	@mkdir -p $$(@D); rm -f $$@; ar rcs $$@ $$^
endef
$(eval $(call archive,client,$(O_CLIENT)))
$(eval $(call archive,server,$(O_SERVER)))
$(eval $(call archive,fs,$(O_FS)))
$(eval $(call archive,cli,$(O_CLI)))
$(eval $(call archive,relay,$(O_RELAY)))
$(eval $(call archive,migd,$(O_MIGD)))
$(eval $(call archive,engine,$(O_ENGINE)))
$(eval $(call archive,rpc,$(O_RPC)))
$(eval $(call archive,conf,$(O_CONF)))
link_test = @mkdir -p $(@D); $(if $(Q),echo "  LD $@";) $(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group
UNITS := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(sort $(wildcard tests/unit/test_*.c)))
$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(lib_objs)
	$(link_test) $(L_MIGD) -lfuse3 -lcunit
MOVES := $(patsubst tests/move/%.c,$(BUILD)/tests/move/%,$(sort $(wildcard tests/move/*.c)))
$(BUILD)/tests/move/%: tests/move/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) -D_GNU_SOURCE -std=gnu11 -O2 -g -Wall -Wextra -Werror -pthread -o $@ $<
TOOLS := $(patsubst tests/tools/%.c,$(BUILD)/tests/tools/%,$(sort $(wildcard tests/tools/*.c)))
$(BUILD)/tests/tools/%: tests/tools/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) -D_GNU_SOURCE -std=gnu11 -O2 -g -Wall -Wextra -Werror -pthread -o $@ $<
BENCHES := $(patsubst tests/bench/%.c,$(BUILD)/tests/bench/%,$(sort $(wildcard tests/bench/*.c)))
$(BUILD)/tests/bench/%: $(BUILD)/obj/tests/bench/%.o $(lib_objs)
	$(link_test) $(L_RPC)
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
$(BUILD)/tests/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(lib_objs)
	$(link_test) $(L_MIGD) -lfuse3
.PHONY: tests
tests: $(UNITS) $(MOVES) $(TOOLS) $(BENCHES) $(FUZZERS)

# Each ends with a line "N passed, N failed, N skipped". FUZZ_SECONDS: for each target. T: names of lab tests, as in T="lab fs_ops".
FUZZ_SECONDS ?= 60
JOBS := $(shell nproc)
run = BUILD=$(BUILD) tests/
check: deps
	@$(MAKE) -s -j$(JOBS) BUILD=$(BUILD) all tests
	@$(run)run all
# and the lab tests that take too long for every day
check-long:
	@dpkg -s debootstrap dpkg-dev >/dev/null 2>&1 || apt-get install -y -q --no-install-recommends debootstrap dpkg-dev
	@LONG=1 $(MAKE) -s BUILD=$(BUILD) check
unit-check: all $(UNITS)
	@$(run)run unit
lab-check: all $(MOVES)
	@$(run)lab/run $(T)
fuzz: $(FUZZERS)
	@$(run)run fuzz $(FUZZ_SECONDS)
bench: all $(BENCHES)
	@$(run)bench/run
demo: deps
	@$(MAKE) -s -j$(JOBS) BUILD=$(BUILD) all
	@$(run)lab/demo.sh

# The same tests on sanitized programs, in a build directory of their own. What daemons have found is in their logs: `sprite-lab down` shows it and fails. TSan: what runs without a lab (ptrace and FUSE daemons under it are too slow to say much).
sanitized = ASAN_OPTIONS=exitcode=99:detect_leaks=1 UBSAN_OPTIONS=exitcode=99:print_stacktrace=1
asan:
	@$(MAKE) -s -j$(JOBS) BUILD=$(BUILD)-asan SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" all tests
	@$(sanitized) BUILD=$(BUILD)-asan tests/run unit
	@$(sanitized) BUILD=$(BUILD)-asan tests/lab/run $(T)
tsan:
	@$(MAKE) -s -j$(JOBS) BUILD=$(BUILD)-tsan SAN=-fsanitize=thread all tests
	@TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" BUILD=$(BUILD)-tsan tests/run unit

deps:
	@dpkg -s $(DEPS) >/dev/null 2>&1 || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(DEPS); }

# ---- install, packages -------------------------------------------------------
# All programs lie together in LIBDIR, since they find each other beside themselves; bin and sbin hold links. UNITDIR etc. are as Debian has them.
LIBDIR  := $(PREFIX)/lib/sprite
UNITDIR := $(PREFIX)/lib/systemd/system
MANDIR  := $(PREFIX)/share/man
COMPDIR := $(PREFIX)/share/bash-completion/completions
DOCDIR  := $(PREFIX)/share/doc/sprite
USER_PROGRAMS := mig sprite-lab
install: programs
	install -d $(addprefix $(DESTDIR),$(LIBDIR) $(PREFIX)/bin $(PREFIX)/sbin $(UNITDIR) $(COMPDIR) $(DOCDIR) /etc/sprite)
	install -m 755 $(PROGRAMS) $(DESTDIR)$(LIBDIR)
	$(Q)for p in $(filter $(USER_PROGRAMS),$(notdir $(PROGRAMS))); do ln -sf ../lib/sprite/$$p $(DESTDIR)$(PREFIX)/bin/$$p; done
	$(Q)for p in $(filter-out $(USER_PROGRAMS) sprite-keeper sprite-relay sprite-sh sprite-holder,$(notdir $(PROGRAMS))); do ln -sf ../lib/sprite/$$p $(DESTDIR)$(PREFIX)/sbin/$$p; done
	$(Q)[ $(PREFIX) = /usr ] || { install -d $(DESTDIR)/sbin && ln -sf $(LIBDIR)/mount.sprite $(DESTDIR)/sbin/mount.sprite; } # the only place where mount(8) looks
	$(Q)for f in man/*.[1-8]; do install -D -m 644 $$f $(DESTDIR)$(MANDIR)/man$${f##*.}/$${f##*/}; done
	$(Q)for f in units/*; do sed 's#/usr/sbin/#$(PREFIX)/sbin/#g' $$f > $(DESTDIR)$(UNITDIR)/$${f##*/} && chmod 644 $(DESTDIR)$(UNITDIR)/$${f##*/}; done
	install -m 644 $(wildcard completion/*) $(DESTDIR)$(COMPDIR)
	install -m 644 sprite.conf.example README.md LICENSE $(wildcard DESIGN.md) $(DESTDIR)$(DOCDIR)

deb: programs
	@rm -rf $(BUILD)/deb && mkdir -p $(BUILD)/deb
	@$(MAKE) -s install PREFIX=/usr DESTDIR=$(abspath $(BUILD))/deb/stage
	@packaging/mkdeb $(abspath $(BUILD))/deb/stage $(VERSION) $(abspath $(BUILD))

lint:
	@tests/lint.sh

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
