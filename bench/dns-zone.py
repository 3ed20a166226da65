#!/usr/bin/env python3
"""dns-zone.py NAMES FOLDER: what a name server is measured with.

FOLDER/zone is a zone of so many names, bench.example, that examples/dns and nsd
both read; FOLDER/queries are 100,000 queries as dnsperf reads them: 90 % A, and
10 % AAAA, TXT, MX and names that are not there. FOLDER/nsd.conf serves the zone
with nsd, two servers, on the port PORT that is to be put there; without the
limit of the rate, which would drop most of what one client asks.
The same NAMES give the same files.
"""
import os
import random
import sys

HEAD = """$ORIGIN bench.example.
$TTL 1h
@	SOA	ns1 hostmaster 1 2h 15m 2w 10m
	NS	ns1
	NS	ns2
	MX	10 mail
ns1	A	192.0.2.1
	AAAA	2001:db8::1
ns2	A	192.0.2.2
mail	A	192.0.2.3
	AAAA	2001:db8::3
"""

NSD = """server:
	server-count: 2
	ip-address: 127.0.0.1@PORT
	reuseport: yes
	username: ""
	chroot: ""
	zonesdir: "{folder}"
	database: ""
	pidfile: "{folder}/nsd.pid"
	xfrdfile: "{folder}/xfrd.state"
	zonelistfile: "{folder}/zone.list"
	minimal-responses: yes
	rrl-ratelimit: 0
	verbosity: 0
remote-control:
	control-enable: no
zone:
	name: bench.example
	zonefile: "{folder}/zone"
"""


def record_lines(i):
    yield f"h{i}\tA\t10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}\n"
    if i % 2 == 0:
        yield f"\tAAAA\t2001:db8::{i >> 16:x}:{i & 0xffff:x}\n"
    if i % 4 == 0:
        yield f'\tTXT\t"this is host {i}"\n'
    if i % 8 == 0:
        yield "\tMX\t10 mail\n"


def query(names):
    kind = random.random()
    if kind < 0.9:
        return f"h{random.randrange(names)}.bench.example A\n"
    if kind < 0.925:
        return f"h{random.randrange(0, names, 2)}.bench.example AAAA\n"
    if kind < 0.95:
        return f"h{random.randrange(0, names, 4)}.bench.example TXT\n"
    if kind < 0.975:
        return f"h{random.randrange(0, names, 8)}.bench.example MX\n"
    return f"no{random.randrange(names)}.bench.example A\n"


def main():
    if len(sys.argv) != 3 or not sys.argv[1].isdigit() or sys.argv[1] == "0":
        sys.exit("usage: dns-zone.py NAMES FOLDER")
    names = int(sys.argv[1])
    folder = os.path.abspath(sys.argv[2])
    random.seed(names)
    with open(f"{folder}/zone", "w", encoding="ascii") as zone:
        zone.write(HEAD)
        for i in range(names):
            zone.writelines(record_lines(i))
    with open(f"{folder}/queries", "w", encoding="ascii") as queries:
        queries.writelines(query(names) for _ in range(100000))
    with open(f"{folder}/nsd.conf", "w", encoding="ascii") as conf:
        conf.write(NSD.format(folder=folder))


if __name__ == "__main__":
    main()
