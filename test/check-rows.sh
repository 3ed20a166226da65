#!/bin/sh
# check-rows.sh: prints the rows of test/faults.txt with an asterisk that no file
# in test/ mentions by its ID, and fails if there is one.
status=0
for id in $(sed -n 's/^\([A-Z][0-9][0-9]\)\*.*/\1/p' test/faults.txt); do
	grep -qE "(^|[^[:alnum:]])$id([^[:alnum:]]|\$)" test/*.[ch] test/*.sh &&
		continue
	grep "^$id" test/faults.txt
	status=1
done
[ $status -eq 0 ] || echo "check-rows: the rows above have no test"
exit $status
