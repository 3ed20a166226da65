#!/bin/sh
# fault-sites.sh PROGRAM LIBRARY: where the library asks for something that it
# may not get. Prints a line for each such call in PROGRAM that stands in the
# library's own source: the address it returns to, its name, file:line.
#
# The exit status is 1, and it says why, if LIBRARY calls what is neither in the
# table of test/inject.h nor in test/cannot-fail.txt.
set -eu
program=$1 library=$2

cases=$(sed -n 's/^	CALL(\([a-z0-9_]*\),.*/\1/p' test/inject.h)

# What it defines itself is no call.
unknown=$(nm "$library" 2>/dev/null | awk -v cases="$cases" '
	NR == FNR {
		sub(/#.*/, "")
		if (NF)
			known[++nr] = $1
		next
	}
	NF > 1 && $(NF - 1) == "U" { called[$NF] }
	NF == 3 && $2 != "U" { defined[$3] }
	function is_known(name, i, stem) {
		for (i = 1; i <= nr; i++) {
			if (known[i] == name)
				return 1
			stem = known[i]
			if (stem ~ /\*/) {
				gsub(/\*/, ".*", stem)
				if (name ~ "^" stem "$")
					return 1
			}
		}
		return 0
	}
	END {
		nr_cases = split(cases, names)
		for (i = 1; i <= nr_cases; i++)
			known[++nr] = names[i]
		for (name in called)
			if (!(name in defined) && !is_known(name))
				print name
	}' test/cannot-fail.txt -)
if [ -n "$unknown" ]; then
	echo "called, but neither in test/inject.h nor in test/cannot-fail.txt:" \
		$unknown >&2
	exit 1
fi

# The line after a call is what it returns to.
calls=$(mktemp)
trap 'rm -f "$calls"' EXIT
objdump -d --no-show-raw-insn "$program" | awk '
	name { sub(/:$/, "", $1); print $1, name; name = "" }
	/(call|bl).*<__wrap_[a-z0-9_]*>/ {
		name = $0
		sub(/.*<__wrap_/, "", name)
		sub(/>.*/, "", name)
	}' >"$calls"
cut -d ' ' -f 1 "$calls" | awk '{ print "0x" $1 }' |
	addr2line -f -e "$program" | sed 's/ (discriminator.*//' |
	paste -d ' ' - - | paste -d ' ' "$calls" - | awk '
	NR == FNR {
		cannot[$1]
		next
	}
	$4 ~ /\/evt-[a-z0-9-]*\.[ch]:[0-9]+$/ && $2 != "free" &&
		!($2 "@" $3 in cannot) {
			sub(/.*\//, "", $4)
			print $1, $2, $4
		}' test/cannot-fail.txt - | sort
