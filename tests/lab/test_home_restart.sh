#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lab: own
# timeout: 120
# A guest keeps the files of its home when the home's spritefsd, or the guest host's spritefs that shows them, is killed: it only waits. And its host loses them
# with it, also when nobody could tell the home's spritefsd so at that time.
. "$(dirname "$0")/lib.sh"
lab_up -n 2
job_dir
# imports modules as it goes (files of its home), so that a root that is gone shows; keeps a file of its home open
as sprite ws1 tee $JD/job.py >/dev/null <<'P'
import importlib, os, sys, time
names = "json csv argparse calendar configparser decimal difflib email.mime.text fractions gettext gzip heapq hmac html.parser http.client imaplib inspect ipaddress mailbox netrc optparse pickle plistlib pprint profile queue random sched shelve shlex smtplib statistics string tarfile textwrap timeit trace typing uuid wave zipfile".split()
home = open(os.environ["HOME"] + "/kept.txt", "w+")
home.write("kept"); home.flush()
n = 0
while not os.path.exists("stop"):
    importlib.import_module(names[n % len(names)])
    assert open("/etc/hostname").read().strip() == os.uname().nodename
    assert os.path.exists("/proc/self/stat") and os.path.exists("/dev/null") and os.path.exists("/sprite")
    home.seek(0); assert home.read() == "kept"
    n += 1
    print(n, flush=True)
    time.sleep(0.05)
P
job "env HOME=/home/sprite python3 job.py"
lines() { on ws1 sh -c "wc -l <$JD/out"; }
goes_on() { local n; n=$(lines); until_true 20 sh_on ws1 "[ \$(wc -l <$JD/out) -gt $((n + 5)) ]"; }
check "moved" hop ws2
check "it runs there" goes_on
lab kill ws1 spritefsd KILL; check "its home's spritefsd starts again" until_true 10 lab start ws1 spritefsd
check "it goes on after kill -9 of its home's spritefsd" goes_on
shower() { on ws2 ps -C spritefs -o pid=,args= | awk '/--prefix/ { print $1; exit }'; } # by name: not its holder, not who asks
another() { local p; p=$(shower); [ -n "$p" ] && [ "$p" != "$old" ]; }
old=$(shower)
check "the spritefs that shows its home is killed" on ws2 kill -9 "$old"
check "it goes on after that" goes_on
check "there is another" until_true 10 another
lab kill ws1 spritefsd TERM; until_true 10 lab start ws1 spritefsd
check "and after a restart in order" goes_on
# who is let in, and as whom
as sprite ws1 sh -c 'mkdir -p /tmp/way && echo mine >/tmp/way/read && chmod 755 /tmp/way && chmod 644 /tmp/way/read'
same "the guest's user may read over there" mine "$(as sprite ws2 cat /sprite/hosts/ws1/tmp/way/read)"
same "another one may not, and not what that one has just read either" refused "$(as guest ws2 cat /sprite/hosts/ws1/tmp/way/read 2>/dev/null || echo refused)"
same "its root makes files as the guest's user, with root's umask" "600 sprite" "$(sh_on ws2 'umask 077; echo x >/sprite/hosts/ws1/tmp/way/made'; on ws1 stat -c '%a %U' /tmp/way/made)"
check "it comes home" hop home
check "and runs there" goes_on
on ws1 touch $JD/stop
same "it ends well" 0 "$(job_status 30)"
same "no error" "" "$(on ws1 cat $JD/err)"
same "no line lost or doubled" "" "$(on ws1 awk '$1 != NR' $JD/out)"

# ---- a guest's end that the home's spritefsd does not hear of
let_in() { as sprite ws2 cat /sprite/hosts/ws1/etc/hostname; }
kept_out() { [[ $(let_in 2>&1) == *"Permission denied"* ]]; }
ends_unheard() { # WHAT DURING: while spritefsd is down
	job "sleep 1000"
	check "$1: a guest goes" hop ws2
	check "$1: its host may read the home's files" let_in
	lab kill ws1 spritefsd KILL
	on ws1 kill -9 $JOB
	same "$1: the guest has ended" 137 "$(job_status 30)"
	eval "$2"
	until_true 10 lab start ws1 spritefsd
	check "$1: its host is refused when spritefsd is back" until_true 20 kept_out
}
check "no guest, no files" until_true 20 kept_out
ends_unheard "spritefsd down" :
ends_unheard "and migd killed" "lab kill ws1 migd KILL; until_true 10 lab start ws1 migd"
finish
