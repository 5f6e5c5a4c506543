# SPDX-License-Identifier: Apache-2.0
# lab: shared
# A program that dumps core while it is away: the file is in its working directory, where it would be at home, whole and its user's, and none is on the guest host.
. "$(dirname "$0")/lib.sh"
case $(cat /proc/sys/kernel/core_pattern) in [!/\|]*) ;; *) skip "this machine's kernel.core_pattern is no plain name" ;; esac
job_dir
trap 'on ws1 rm -rf $JD; rm -rf "$TMP"' EXIT
cores() { on "$1" find / -xdev \( -name 'core*' -a -type f \) -newer /tmp/before -user sprite 2>/dev/null; }
on ws2 touch /tmp/before
as sprite ws1 sh -c "cat >$JD/dies.sh" <<'X'
ulimit -c unlimited
exec python3 -c 'import time; mark = b"found in the " + b"core" * 3; print("ready", flush=True); time.sleep(9999)'
X
job "exec bash dies.sh"
check "the program starts" until_true 10 on ws1 grep -q ready $JD/out
check "it moves" hop ws2
on ws1 kill -ABRT "$JOB"
same "its end is that of a program that dumped core" 134 "$(job_status)"
check "the core is in its directory" until_true 10 eval '[ -n "$(on ws1 find $JD -name "core*" -size +100k -user sprite)" ]' || on ws1 ls -l $JD
check "and whole" on ws1 sh -c "grep -q 'found in the corecorecore' $JD/core*"
same "none is on the guest host" "" "$(cores ws2)"
finish
