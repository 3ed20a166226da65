#!/bin/sh
# lint-rules.sh: the rules of the house that no compiler knows. Prints each line
# that breaks one; the exit status is 1 if there is any.
status=0

# refuse WHY PATTERN FILE...: no line of code may match PATTERN, but for one
# that says why it does: "lint: reason".
refuse()
{
	why=$1 pattern=$2
	shift 2
	found=$(grep -nE "$pattern" "$@" /dev/null |
		grep -vE '^[^:]*:[0-9]+:[[:space:]]*(/\*|\*)|/\* lint: ') || return
	echo "$found" | sed "s|\$|	<- $why|"
	status=1
}

refuse "fails above descriptor 1,023: use poll or epoll" \
	'\b(select|pselect)\(|\bfd_set\b|\bFD_SET\(' evt-*.[ch]
refuse "leaks into a child that is forked before it: SOCK_CLOEXEC, O_CLOEXEC" \
	'\bF_SETFD\b|\b(pipe|dup|dup2|epoll_create)\([^0-9]' evt-*.[ch]
refuse "keeps libevent's lock when memory runs out" \
	'\bevent_base_(once|loopexit)\(' evt-*.[ch]
refuse "does not know how much room there is" \
	'\b(strcpy|strcat|sprintf|vsprintf|gets|stpcpy)\(' ./*/*.[ch] evt-*.[ch]
refuse "dispositions are the program's: sigaction, where it is promised" \
	'\b(signal|sigset|siginterrupt)\(' evt-*.[ch]
refuse "the stack has no way to say no" '\balloca\(' ./*/*.[ch] evt-*.[ch]
refuse "a library does not end the program" \
	'\b(exit|_exit|abort|assert)\(' evt-*.[ch]
refuse "fix it or leave it out" '\b(TO[D]O|FIXME|XXX)\b' \
	./*/*.[ch] evt-*.[ch]
refuse "public headers do without it" 'include <stdbool.h>' \
	$(ls evt-*.h | grep -v -e '-internal\.h$')

# Lines of 80 columns (but for texts, which are easier found when whole, and
# the names of tests),
# functions of 60 lines, files of 700.
for file in evt-*.[ch] test/*.[ch] examples/*.[ch] bench/*.[ch]; do
	[ -f "$file" ] || continue
	expand "$file" | awk -v file="$file" '
		function tell(line, what) {
			print file ":" line ": " what
			broken = 1
		}
		length > 80 && !/"/ && !/\* wrap: / &&
			!/^ +[a-z0-9_]+\),$/ { tell(NR, "over 80 columns") }
		/^\{/ { start = NR }
		/^\}/ && start {
			if (NR - start - 1 > 60)
				tell(start, "a function of " NR - start - 1 \
					" lines, over 60")
			start = 0
		}
		END {
			if (NR > 700)
				tell(NR, "over 700 lines: two ideas")
			exit broken
		}' || status=1
done
exit $status
