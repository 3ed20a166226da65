#!/bin/sh
# check-install.sh: installs into build/install and uses it as a stranger would:
# every public header alone, in C99 and C++; a program in C and in C++, with the
# shared library and with the static one, through pkg-config.
set -eu

CC=${CC:-cc}
CXX=${CXX:-c++}
top=$PWD
root=$top/build/install
rm -rf "$root"
mkdir -p "$root"

echo "  installing into build/install"
${MAKE:-make} install PREFIX="$root/usr" DESTDIR= LDCONFIG=: >/dev/null
${MAKE:-make} install PREFIX=/opt/evt DESTDIR="$root/stage" >/dev/null
(cd "$root/usr" && find . | sort) >"$root/direct"
(cd "$root/stage/opt/evt" && find . | sort) | diff "$root/direct" -
! grep -r "$root" "$root/stage/opt/evt/lib/pkgconfig"

PKG_CONFIG_PATH=$root/usr/lib/pkgconfig
LD_LIBRARY_PATH=$root/usr/lib
export PKG_CONFIG_PATH LD_LIBRARY_PATH
pkg_config=${PKG_CONFIG:-pkg-config}
cflags=$($pkg_config --cflags evtserver)
shared=$($pkg_config --libs evtserver)
static=$($pkg_config --static --libs evtserver |
	sed 's/-levtserver/-l:libevtserver.a/')
warnings="-Wall -Wextra -Wpedantic -Werror"
cd "$root"

for header in usr/include/*.h; do
	name=${header##*/}
	echo "  $name alone, in C99 and C++"
	echo "#include <$name>" >header.c
	for language in "$CC -x c -std=c99" "$CC -x c -std=gnu99" \
		"$CC -x c -std=c11" "$CXX -x c++ -std=c++98" \
		"$CXX -x c++ -std=c++17"; do
		# shellcheck disable=SC2086
		$language $warnings $cflags -fsyntax-only header.c
	done
done

for language in "$CC -x c -std=gnu99" "$CXX -x c++ -std=c++11"; do
	for libs in "$shared" "$static"; do
		echo "  ${language%% *}: $(echo "$libs" | sed 's/-L[^ ]* //g')"
		# shellcheck disable=SC2086
		$language $warnings $cflags -o install_test \
			"$top/test/install_test.cc" -x none $libs
		test "$(timeout 20 ./install_test)" = hello
	done
done
ldd install_test | grep -q libevtserver && {
	echo "the static program wants the shared library"
	exit 1
}

# The programs of the README, in its order: C, C++, and the classic one, which
# does not use all of its arguments.
echo "  the README's programs"
awk '/^\t#include/ { n++; in_it = 1 }
	in_it && /^[^\t]/ { in_it = 0 }
	in_it { print substr($0, 2) > ("readme" n ".c") }' "$top/README"
# shellcheck disable=SC2086
{
	$CC -std=c99 $warnings -Wno-unused-parameter $cflags -c readme1.c
	$CC -std=c11 $warnings -Wno-unused-parameter $cflags -o readme1 \
		readme1.c $shared
	$CXX -x c++ -std=c++11 $warnings $cflags -o readme2 readme2.c \
		-x none $shared
	$CC -std=c11 $warnings -Wno-unused-parameter -Wno-unused-result \
		-D_GNU_SOURCE $cflags -o readme3 readme3.c $shared
}

echo "  examples/classic-threads.c"
# shellcheck disable=SC2086
$CC -std=c11 $warnings -D_GNU_SOURCE $cflags -o classic-threads \
	"$top/examples/classic-threads.c" $shared
./classic-threads 0 >port &
server=$!
trap 'kill $server 2>/dev/null' EXIT
tries=0
until port=$(sed -n 's/^listening on port //p' port) && [ -n "$port" ]; do
	tries=$((tries + 1))
	[ $tries -lt 100 ] || { echo "it does not listen"; exit 1; }
	sleep 0.1
done
answer=$(echo hello | timeout 20 socat - "TCP:127.0.0.1:$port")
echo "$answer" | grep -qi hello || { echo "it answers: $answer"; exit 1; }
kill -TERM $server
wait $server
trap - EXIT

cd "$top"
echo "  uninstalling"
${MAKE:-make} uninstall PREFIX="$root/usr" DESTDIR= LDCONFIG=: >/dev/null
left=$(find "$root/usr" ! -type d)
[ -z "$left" ] || { echo "left by uninstall: $left"; exit 1; }
