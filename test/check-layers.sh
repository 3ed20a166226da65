#!/bin/sh
# check-layers.sh: includes go one way. Each line below is a room, and a file
# includes headers of its own room and of those above; the same for all who
# come from outside, except that they see public headers only. evt-pool.h,
# evt-pool-internal.h and evt-pool-x.c all live in the room evt-pool.
rooms='
evt-log
evt-net evt-url
evt-unix
evt-pipe
evt-kept evt-wheel evt-slots evt-output evt-sources
evt-pool evt-worker
evt-conn
evt-udp
evt-accept
evt-listener
evt-core evt-server
'
{
	echo "$rooms"
	echo ----
	grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"' evt-*.[ch]
} | awk -F '[:"]' '
	function floor(file,	name) {
		for (name = file; name != ""; sub(/[-.]?[^-.]*$/, "", name))
			if (name in room)
				return room[name]
		if (!told[file]++)
			print file " is in no room: see test/check-layers.sh"
		bad = 1
		return 0
	}
	/^----/ { listed = 1; next }
	!listed { n = split($0, names, " "); height++
		for (i = 1; i <= n; i++) room[names[i]] = height; next }
	{
		from = floor($1); to = floor($4)
		if (from && to && to > from)
			why = "is the room above"
		else if ($1 ~ /\.h$/ && $1 !~ /-internal/ && $4 ~ /-internal/)
			why = "is not installed, " $1 " is"
		else
			next
		print $1 ":" $2 ": includes " $4 ", which " why
		bad = 1
	}
	END { exit bad }' || status=1

for file in examples/*.c bench/*.c test/evt_test.c test/flooder.c; do
	[ -f "$file" ] || continue
	grep -Hn 'include "evt-.*-internal' "$file" && status=1
done
exit ${status:-0}
