#!/bin/sh
# run-suites.sh UNDER BUILT SUITE...: runs test suites side by side.
#
# UNDER is plain, asan, tsan or valgrind, BUILT the folder of the programs that
# the suites start; both reach the suites as EVT_UNDER and EVT_BUILD. What a
# suite prints is kept in build/log/UNDER/ and printed whole when it ends.
# JOBS: how many run at a time, as many as there are CPUs unless set. LIMIT:
# after how many seconds a suite counts as hanging. A skipped test that is not
# in test/skips-allowed.txt is told, and where CI=true fails the run.

# Of the main process only: its children leave their copies open.
left_open()
{
	awk -v pid="==$2==" '
		$1 != pid { next }
		$2 == "Open" { open = $0 }
		open && $2 == "at" { print "left open:" substr(open,
			index(open, "Open") + 4); exit }
	' "$1"
}

verdict()
{
	if [ "$status" -eq 124 ] || [ "$status" -eq 137 ] ||
		[ "$status" -eq 142 ]; then
		echo "hang in $(sed -n 's/^\[ RUN      \] //p' "$log" |
			tail -n 1), killed after $seconds s"
	elif [ "$status" -gt 128 ]; then
		echo "killed by signal $((status - 128))"
	elif [ "$status" -ne 0 ]; then
		echo "exit status $status"
	elif ! grep -q -e '^\[       OK \]' -e '^\[  SKIPPED \]' "$log"; then
		echo "ran no test"
	elif [ "$EVT_UNDER" = valgrind ]; then
		left_open "$log" "$(cut -d ' ' -f 1 "$pids")"
	fi
}

run_one()
{
	name=${1##*/}
	log=$logs/$name.log
	pids=$logs/$name.pids
	start=$(date +%s)
	$no_aslr timeout -k 10 "$limit" sh -c 'echo $$ $PPID >"$0"; exec "$@"' \
		"$pids" $tool "$1" >"$log" 2>&1 </dev/null
	status=$?
	seconds=$(($(date +%s) - start))
	verdict=$(verdict)
	rm "$pids"

	tries=0 # whoever printed may have been ended in the middle of it
	until mkdir "$logs/printing" 2>/dev/null || [ $tries -ge 200 ]; do
		sleep 0.05
		tries=$((tries + 1))
	done
	echo "==== $name ($seconds s)"
	cat "$log"
	[ -z "$verdict" ] || echo "$name: $verdict" | tee "$logs/$name.failed"
	rmdir "$logs/printing" 2>/dev/null || true
}

# The tests that cmocka marked FAILED or SKIPPED; ERROR: its teardown, too.
tests()
{
	cat "$logs"/*.log | sed -n "s/^\\[ *$1 *\\] \\([^ ]*\\)\$/\\1/p" | sort -u
}

# Skipped tests that test/skips-allowed.txt does not name.
unexpected_skips()
{
	tests SKIPPED | awk -v under="$EVT_UNDER" '
		NR == FNR {
			sub(/#.*/, "")
			for (i = 2; i <= NF; i++)
				allowed[$1, $i]
			if (NF == 1)
				allowed[$1, under]
			next
		}
		!(($1, under) in allowed)' test/skips-allowed.txt -
}

if [ "$1" = --one ]; then
	run_one "$2"
	exit 0
fi

EVT_UNDER=$1 EVT_BUILD=$2
shift 2
export EVT_UNDER EVT_BUILD
[ $# -gt 0 ] || { echo "no test suites"; exit 1; }

tool= no_aslr= limit=600
lsan=${LSAN_OPTIONS-} tsan=
[ ! -f test/lsan.supp ] || lsan="$lsan suppressions=test/lsan.supp"
[ ! -f test/tsan.supp ] || tsan="suppressions=test/tsan.supp"
case $EVT_UNDER in
plain)
	limit=120 ;;
asan | tsan)
	# Old sanitizers and newer kernels disagree about address space.
	! setarch -R true 2>/dev/null || no_aslr="setarch -R" ;;
valgrind)
	tool="valgrind -q --error-exitcode=99 --leak-check=full
		--show-leak-kinds=definite,indirect,possible --track-fds=yes"
	[ ! -f test/valgrind.supp ] ||
		tool="$tool --suppressions=test/valgrind.supp" ;;
esac
limit=${LIMIT:-$limit}
export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:\
${ASAN_OPTIONS-}"
export LSAN_OPTIONS="$lsan"
export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS-}"
export TSAN_OPTIONS="halt_on_error=0 exitcode=66 second_deadlock_stack=1
	die_after_fork=0 $tsan ${TSAN_OPTIONS-}"

logs=build/log/$EVT_UNDER
rm -rf "$logs"
mkdir -p "$logs"
export tool no_aslr limit logs
# A suite is in a group of its own, so that a hang takes its children along.
trap 'cut -d " " -f 2 "$logs"/*.pids 2>/dev/null | xargs kill 2>/dev/null; exit 130' \
	INT TERM

start=$(date +%s)
printf '%s\n' "$@" | xargs -n 1 -P "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" \
	"$0" --one
seconds=$(($(date +%s) - start))

skipped=$(unexpected_skips)
[ -z "$skipped" ] || echo "skipped, but not in test/skips-allowed.txt:" $skipped
failed=$(cat "$logs"/*.failed 2>/dev/null)
passed=$(cat "$logs"/*.log | grep -c '^\[       OK')
echo "==== $EVT_UNDER: $# suites, $passed tests passed," \
	"$({ tests FAILED; tests ERROR; } | sort -u | wc -l) failed, $(tests SKIPPED | wc -l) skipped" \
	"in $seconds s"
[ -z "$failed" ] || { echo "$failed"; exit 1; }
[ -z "$skipped" ] || [ "${CI-}" != true ]
