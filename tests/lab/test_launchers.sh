# SPDX-License-Identifier: Apache-2.0
# lab: own
# long: yes
# timeout: 120
# Other build tools: mig run as the launcher of CMake's compilers under ninja builds what is built without it, elsewhere; the last words of a broken file are the compiler's.
. "$(dirname "$0")/lib.sh"
command -v cmake >/dev/null && command -v ninja >/dev/null || skip "cmake and ninja (Debian: cmake, ninja-build) are not installed"
lab_up -n 3
D=/sprite/launch
as sprite ws1 mkdir $D
in_d() { as sprite ws1 bash -c "cd $D && { $1; } </dev/null 2>&1 | cat; exit \${PIPESTATUS[0]}"; }
idle() { [ "$(mig hosts --no-header -o STATE | grep -c '^idle')" = 3 ]; }
moves() { on ws1 mig stats --no-header -o exec | xargs; }
lab exec ws1 -u sprite -- tee $D/CMakeLists.txt >/dev/null <<'X'
cmake_minimum_required(VERSION 3.18)
project(launch C)
add_executable(sum main.c f1.c f2.c f3.c f4.c f5.c f6.c)
X
in_d 'for i in 1 2 3 4 5 6; do echo "int f$i(int x) { return x * $i; }" >f$i.c; done
	{ for i in 1 2 3 4 5 6; do echo "int f$i(int);"; done; echo "#include <stdio.h>"; echo "int main(void) { printf(\"%d\\n\", f1(1) + f2(1) + f3(1) + f4(1) + f5(1) + f6(1)); }"; } >main.c'
check "hosts are idle" until_true 60 idle
check "CMake takes the compiler as it is" in_d 'cmake -G Ninja -S . -B plain'
check "and with a launcher" in_d 'cmake -G Ninja -S . -B far -DCMAKE_C_COMPILER_LAUNCHER="mig;run;--local-ok"'
check "ninja builds the one" in_d 'ninja -C plain'
before=$(moves)
check "and the other" in_d 'ninja -C far -j4'
check "by compilers elsewhere" test "$(moves)" -ge $((before + 4)) || note "$before, then $(moves)"
same "the program works" 21 "$(in_d ./far/sum)"
same "objects are the same" "$(in_d 'cd plain/CMakeFiles/sum.dir && md5sum *.o')" "$(in_d 'cd far/CMakeFiles/sum.dir && md5sum *.o')"
in_d 'echo "int f1(" >f1.c'
refused "a broken file breaks the build" 1 "f1.c:1" in_d 'ninja -C far'
check "nothing is left over there" until_true 20 eval '[ -z "$(residue)" ] && [ "$(mig ps --no-header | wc -l)" = 0 ]'
finish
