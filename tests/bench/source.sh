# SPDX-License-Identifier: Apache-2.0
# A C file that keeps gcc -O2 busy: source NAME LINES >NAME.c   (sourced)
source_c() {
	echo "int $1(int x)"; echo "{ int s = x;"
	for k in $(seq "$2"); do echo "for (int i = 0; i < s % 7 + $k; i++) s = s * $((k * 3 + 7)) + (s >> $((k % 13))) % 1009;"; done
	echo "return s; }"
}
