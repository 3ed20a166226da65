#!/bin/sh
# fuzz.sh WHAT: what the Makefile's fuzz targets do with the programs that they
# have built: build/fuzz/test/fuzz_NAME, of test/fuzz_NAME.c.
#
# may-run	clang and its libFuzzer are there
# run SECONDS	each target for so long, as many at a time as there are CPUs
#		(JOBS). It begins with test/corpus/NAME, and with what it has
#		found before, build/fuzz/corpus/NAME; test/corpus/NAME.dict has
#		words. What breaks a target is kept in build/fuzz/found.
# merge		test/corpus/NAME from both: the fewest that reach as much.
#		Files whose name is no hash stay.
# cover BUILD	the lines of each parser that the corpus reaches: BUILD has the
#		suites, with gcov
#
# TARGETS="url http" are some of them only.
here=build/fuzz
targets=${TARGETS:-$(ls test/fuzz_*.c | sed 's|^test/fuzz_\(.*\)\.c$|\1|')}

may_run()
{
	echo 'int LLVMFuzzerTestOneInput(void); int LLVMFuzzerTestOneInput(void)
		{ return 0; }' | clang -fsanitize=fuzzer -x c -o /dev/null - \
		2>/dev/null && return
	echo "fuzz: needs clang with libFuzzer (Debian: clang, libclang-rt-dev)"
	exit 1
}

# What libFuzzer is to be told of a target, as the target says.
options()
{
	sed -n 's|^ \* fuzz: ||p' "test/fuzz_$1.c"
	[ ! -f "test/corpus/$1.dict" ] || echo "-dict=test/corpus/$1.dict"
}

# The last number that the log says of something, as "cov: 123".
said()
{
	sed -n "s/.* $1: \([0-9]*\).*/\1/p" "$log" | tail -n 1
}

run_one()
{
	log=$here/log/$1.log
	mkdir -p "$here/corpus/$1"
	# shellcheck disable=SC2046
	"$here/test/fuzz_$1" -max_total_time="$seconds" -timeout=20 \
		-rss_limit_mb=1024 -print_final_stats=1 -close_fd_mask=1 \
		-artifact_prefix="$here/found/$1-" $(options "$1") \
		"$here/corpus/$1" "test/corpus/$1" >"$log" 2>&1 </dev/null
	status=$?
	runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
	corpus=$(sed -n 's|.* corp: \([0-9]*\)/.*|\1|p' "$log" | tail -n 1)
	found=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
	[ $status -eq 0 ] || found=${found:-"status $status, see $log"}
	printf '%-8s %12s %8s %8s %8s  %s\n' "$1" "${runs:--}" \
		"${corpus:--}" "$(said cov)" "$(said ft)" "${found:-nothing}"
	[ $status -eq 0 ] || {
		grep -m 1 -e 'not true: ' -e '^SUMMARY: ' -e '^==.*ERROR' "$log"
		touch "$here/log/failed"
	}
}

run()
{
	rm -rf "$here/log"
	mkdir -p "$here/log" "$here/found"
	export seconds="$1"
	printf '%-8s %12s %8s %8s %8s  %s\n' target executions inputs edges \
		features found
	echo "$targets" | xargs -P "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" \
		-n 1 "$0" run-one
	[ ! -e "$here/log/failed" ]
}

merge_one()
{
	fresh=$here/merged/$1
	rm -rf "$fresh"
	mkdir -p "$fresh" "$here/corpus/$1" "$here/log"
	# shellcheck disable=SC2046
	"$here/test/fuzz_$1" -set_cover_merge=1 -use_counters=0 -timeout=20 \
		$(options "$1") "$fresh" "test/corpus/$1" "$here/corpus/$1" \
		>"$here/log/$1.merge" 2>&1 || { tail "$here/log/$1.merge"; exit 1; }
	for file in "test/corpus/$1"/*; do
		case ${file##*/} in
		*[!0-9a-f]*) rm -f "$fresh/$(sha1sum <"$file" | cut -c 1-40)" ;;
		*) rm "$file" ;;
		esac
	done
	cp "$fresh"/* "test/corpus/$1/" 2>/dev/null
	echo "$1: $(ls "test/corpus/$1" | wc -l) inputs," \
		"$(du -b -c "test/corpus/$1"/* | tail -n 1 | cut -f 1) bytes"
}

case $1 in
may-run) may_run ;;
run) run "$2" ;;
run-one) run_one "$2" ;;
merge) for target in $targets; do merge_one "$target"; done ;;
cover) exec test/fuzz-cover.sh "$2" ;;
*) echo "usage: $0 may-run|run SECONDS|merge|cover BUILD" >&2; exit 2 ;;
esac
