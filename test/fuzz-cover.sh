#!/bin/sh
# fuzz-cover.sh BUILD: gives each target its corpus in BUILD, which was made for
# gcov, and tells how many lines of each parser that reached. Fails below 95 %,
# with the lines that were not.
build=$1
least=95

# A file, or functions of one: "least % in", all of it, or but for these.
parsers='
url      evt-url.c
addr     evt-core.c: family_of put_u16 serialize_addr deserialize_ipv4 deserialize_ipv6 deserialize_addr copy_bytes copy_ip_addr
records  evt-pipe.c: has_whole evt_pipe_take_ may_begin evt_batch_resync_
records  evt-pipe-internal.h: evt_record_span_ evt_batch_next_
http     examples/http-request.h
cache    examples/cache.c
dns      examples/dns-message.h
dns      examples/dns-name.h
dns      examples/dns-zone.h
zone     examples/dns-file.h
'

find "$build" -name '*.gcda' -delete
for suite in "$build"/test/replay_*; do
	"$suite" >"$build/replay.log" 2>&1 || { cat "$build/replay.log"; exit 1; }
done
gcov -t "$build"/test/obj/test/fuzz_*.gcda "$build"/test/obj/evt-*.gcda \
	2>/dev/null >"$build/lines.gcov"

echo "$parsers" | awk -v least=$least '
	# The name of the function that a line begins, or "".
	function begins(text) {
		if (text !~ /^[A-Za-z].*\(/ || text ~ /;$/)
			return ""
		sub(/\(.*/, "", text)
		sub(/.*[ *]/, "", text)
		return text
	}
	NR == FNR {
		if (NF >= 2)
			list[++nr] = $0
		next
	}
	/^ *-: *0:Source:/ {
		file = $0
		sub(/.*Source:/, "", file)
		sub(/^\.\.\/|.*\/test\/\.\.\//, "", file)
		name = ""
		next
	}
	{
		count = $0
		sub(/:.*/, "", count)
		gsub(/[ *]/, "", count)
		line = $0
		sub(/^[^:]*: */, "", line)
		number = line + 0
		sub(/^[0-9]*:/, "", line)
		if (begins(line) != "")
			name = begins(line)
		if (count == "-" || number == 0 || name == "main")
			next
		key = file ":" number
		if (!(key in text)) {
			order[++lines] = key
			text[key] = line
			of[key] = name
			from[key] = file
		}
		if (count + 0 > 0)
			reached[key] = 1
	}
	END {
		for (i = 1; i <= nr; i++) {
			$0 = list[i]
			target = $1
			whole = $2 !~ /:$/
			file = $2
			sub(/:$/, "", file)
			split("", wanted)
			for (k = 3; k <= NF; k++)
				wanted[$k]
			all = good = 0
			missed = ""
			for (k = 1; k <= lines; k++) {
				key = order[k]
				if (from[key] != file ||
					!(whole || of[key] in wanted))
					continue
				all++
				good += key in reached
				if (!(key in reached))
					missed = missed "  " key ": " text[key] "\n"
			}
			share = all ? 100 * good / all : 0
			printf "%-8s %-26s %4d of %4d lines %6.1f %%\n",
				target, file, good, all, share
			if (share < least) {
				printf "%s", missed
				bad = 1
			}
		}
		exit bad
	}' - "$build/lines.gcov"
