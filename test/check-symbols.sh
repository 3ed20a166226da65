#!/bin/sh
# check-symbols.sh STATIC SHARED: what the two libraries show to the world.
#
# The shared object exports the names in test/symbols.txt and no other, and is
# hardened as asked for. In the static library the same names are global, and
# besides them only evt_..._ with an underscore at the end.
LC_ALL=C
export LC_ALL
status=0

fail()
{
	echo "check-symbols: $*"
	status=1
}

# Compares the symbols on standard input with the list.
compare()
{
	difference=$(awk '{ sub(/@.*/, "", $NF); print $NF }' | sort -u |
		diff test/symbols.txt - | grep '^[<>]') &&
		fail "$1 (>) and test/symbols.txt (<) differ:
$difference"
}

nm -D --defined-only "$2" | grep -v ' A ' | compare "$2"
nm -g --defined-only "$1" | grep ' [A-Z] ' | grep -v ' evt_.*_$' | compare "$1"

found=$(readelf -dlW "$2")
for wanted in 'Library soname: \[libevtserver.so.0\]' 'GNU_RELRO' 'FLAGS.*NOW' \
	'GNU_STACK .* RW ' 'Shared library: \[libevent_core'; do
	echo "$found" | grep -q "$wanted" || fail "$2: no $wanted"
done
needed=$(echo "$found" | grep 'Shared library' |
	grep -v -e libevent_core -e 'libc\.' -e libpthread -e '\[ld-')
[ -z "$needed" ] || fail "$2 needs more than libevent_core and libc: $needed"
exit $status
