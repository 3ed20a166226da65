#!/bin/sh
# coverage.sh BUILT: what the tests have reached of the library, after they have
# run in the build with counters in BUILT. Prints a table, writes BUILT/html,
# and fails below the limits: of all lines and branches, and of the lines of the
# two rooms in which everything meets.
#
# What cannot be reached is marked in the source, with the reason: a line with
# LCOV_EXCL_LINE, a branch with LCOV_EXCL_BR_LINE. The marks are counted.
set -eu
lines=97
branches=92
whole='evt-pool evt-listener'
info=$1/library.info

# geninfo of Debian 12 warns of itself.
count()
{
	lcov --quiet --rc lcov_branch_coverage=1 "$@" 2>"$info.log" ||
		{ cat "$info.log" >&2; exit 1; }
}

count --capture --base-directory . --directory "$1/test/obj" \
	--output-file "$info.all"
count --extract "$info.all" "$PWD/evt-*" --output-file "$info"
genhtml --quiet --branch-coverage --output-directory "$1/html" "$info"

awk -v lines=$lines -v branches=$branches -v whole="$whole" '
	function share(part, all) {
		return all ? 100 * part / all : 100
	}
	function row(name, lh, lf, bh, bf, marked) {
		printf "%-24s %6d %6d  %5.1f %%  %6d %6d  %5.1f %%  %6s\n", name, lf,
			lf - lh, share(lh, lf), bf, bf - bh, share(bh, bf),
			marked ? marked : ""
	}
	function count_marks(path,    line, n) {
		while ((getline line < path) > 0)
			n += line ~ /LCOV_EXCL_(LINE|BR_LINE|START|BR_START)/
		close(path)
		return n + 0
	}
	BEGIN {
		printf "%-24s %6s %6s  %7s  %6s %6s  %7s  %6s\n", "", "lines",
			"missed", "", "branch", "missed", "", "marked"
		FS = ":"
	}
	$1 == "SF" { path = $2; name = $2; sub(/.*\//, "", name) }
	$1 == "LF" { lf = $2 }
	$1 == "LH" { lh = $2 }
	$1 == "BRF" { bf = $2 }
	$1 == "BRH" { bh = $2 }
	/^end_of_record/ {
		marked = count_marks(path)
		row(name, lh, lf, bh, bf, marked)
		all_lf += lf; all_lh += lh; all_bf += bf; all_bh += bh
		all_marked += marked
		n = split(whole, rooms, " ")
		for (i = 1; i <= n; i++)
			if (index(name, rooms[i]) == 1 && lh < lf) {
				low = low "\n" name ": less than 100 % of lines"
			}
		lf = lh = bf = bh = 0
	}
	END {
		row("all", all_lh, all_lf, all_bh, all_bf, all_marked)
		if (share(all_lh, all_lf) < lines)
			low = low "\nless than " lines " % of all lines"
		if (share(all_bh, all_bf) < branches)
			low = low "\nless than " branches " % of all branches"
		if (low)
			print "coverage:" low
		exit low != ""
	}
' "$info"
