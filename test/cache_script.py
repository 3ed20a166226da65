#!/usr/bin/python3
"""What examples/cache answers, beside what memcached answers.

cache_script.py compare PORT	the same exchanges with a memcached of our own:
				prints each that is answered differently
cache_script.py random PORT SEED COUNT	the same with lines made up at random
cache_script.py garbage PORT SEED COUNT	bytes of no sense; it has to go on
cache_script.py client PORT	python3-pymemcache's calls
cache_script.py slow PORT PID	who reads slowly gets all the same
cache_script.py expiry PORT	what is over is over, when it is
The exit status is 0 if all is as it should be.
"""
import os
import random
import re
import socket
import subprocess
import sys
import time

MOST = 1048576 - 48 - 8 - 1 - 2  # bytes of a value, and of its key
K = b"k" * 250


def connect(port):
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def wait_until_read(sock):
    """Until who listens has read all of it, or has gone: proc(5), net/tcp."""
    ends = b" 0100007F:%04X 0100007F:%04X " % (
        sock.getpeername()[1], sock.getsockname()[1])
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with open("/proc/net/tcp", "rb") as table:
            queues = [line.split()[4] for line in table if ends in line]
        if all(queue.endswith(b":00000000") for queue in queues):
            return


def has_long_line(request):
    """Which memcached refuses if 2048 bytes of it come without its end."""
    return any(len(line) > 2000 for line in request.split(b"\n"))


def exchange(port, request, cuts=None, slowly=False):
    """Sends it in pieces, ends the stream: all that comes back."""
    answer = b""
    with connect(port) as sock:
        try:
            at = 0
            for cut in (cuts or []) + [len(request)]:
                sock.sendall(request[at:cut])
                at = cut
                if slowly:
                    wait_until_read(sock)
                elif cuts:
                    os.sched_yield()
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was closed before
        try:
            while piece := sock.recv(1 << 20):
                answer += piece
        except ConnectionError:
            pass
        except TimeoutError:
            answer += b"<HANGS>"
    return answer


def normal(answer):
    """Without what may differ: versions; of a cas which others are equal."""
    seen = {}

    def number(match):
        nr = seen.setdefault(match.group(2), len(seen))
        return match.group(1) + b"cas%d" % nr

    answer = re.sub(rb"VERSION [^\r]*", b"VERSION", answer)
    return re.sub(rb"(VALUE \S+ \d+ \d+ )(\d+)", number, answer)


def set_(key, value, flags=b"0", exptime=b"0", more=b"", verb=b"set"):
    return b"%s %s %s %s %d%s\r\n%s\r\n" % (
        verb, key, flags, exptime, len(value), more, value)


def big(length, verb=b"set", key=b"b", flags=b"0", more=b""):
    return set_(key, b"v" * length, flags, b"0", more, verb)


def lines(*texts):
    return b"".join(text + b"\r\n" for text in texts)


def exchanges():
    """The requests, in an order that matters. What is over within minutes would
    be so for one of the two before the other."""
    clear = b"flush_all\r\n"
    yield from wrong_lines()
    yield from gets()
    yield from values()
    yield from verbs()
    yield from numbers()
    yield from others()
    yield from times()
    yield from sizes()
    yield clear


def wrong_lines():
    for text in (b"", b" ", b"a", b"foo", b"foo noreply", b"GET a", b"Version",
                 b"get", b"get ", b"gets", b"gat", b"gats", b"set", b"set a",
                 b"set a 0", b"set a 0 0", b"set a 0 0 1 2 3 4", b"cas a 0 0 1",
                 b"cas a 0 0 1 2 3 4", b"incr", b"incr a", b"incr a 1 2 3",
                 b"decr a", b"delete", b"delete a b c d", b"touch", b"touch a",
                 b"touch a 1 2 3", b"verbosity", b"verbosity 1 2 3",
                 b"flush_all 1 2 3", b"stats nothing", b"statsx", b"getx a",
                 b"set a noreply", b"touch noreply", b"incr noreply",
                 b"gxx HTTP/1.1", b"sxx HTTP/1.1", b"txx HTTP/1.1",
                 b"foo HTTP/1.1 x", b"foo HTTP", b"append", b"replace a 0 0",
                 b"version a b c d e f g h i", b"set a " + b"0 " * 30,
                 b"\x00", b"version\x00", b"get \x00a", b"version\r", b"\rget a",
                 b"\tget a", b"get\ta", b"\x81\x80\xff", b"quitx", b"qui"):
        yield lines(text, b"get a", b"version")
        yield text + b"\nget a\n"
    for text in (b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"mxx HTTP/", b"quit",
                 b"quit now", b"HTTP/1.1", b"foo a HTTP/2", b"quit noreply"):
        yield lines(b"get a", text, b"set after 0 0 1", b"x", b"version")
        yield lines(b"get after")
    yield b"\n\n\n"
    yield b"get a"
    yield b"get a\r"
    yield b"version\nversion\r\n\nversion\n"
    yield b"x" * 2000 + b"\r\nversion\r\n"
    yield b"x" * 3000
    yield b"set " + b"x" * 3000
    yield b"get " + b"x" * 3000
    yield b" get " + b"x" * 3000
    yield b"gets " + b"x" * 3000 + b" y"
    yield b"gat 0 " + b"x " * 1500
    yield b"get " + b"x" * 2000 + b"\r\nversion\r\n"


def gets():
    yield set_(b"a", b"abc", b"1") + set_(b"b", b"") + set_(K, b"long")
    for verb in (b"get", b"gets", b"gat 0", b"gats 0", b"gat 1000",
                 b"gats 1000"):
        for keys in (b" a", b" b", b" c", b" a b c", b" a a a", b"  a   b  ",
                     b" " + K, b" " + K + b"x", b" a " + K + b"x b",
                     b" " + b" ".join([b"a"] * 30), b" a\tb", b" a\x00b",
                     b" " + b" ".join([b"a"] * 22), b" " + b"a " * 23,
                     b" " + b"a " * 40 + K + b"x", b" " + b"b " * 2000,
                     b" a\r", b" noreply", b" a noreply", b""):
            yield lines(verb + keys, b"version")
        yield lines(verb + b" a", verb + b" b", verb + b" c", verb + b" a b")
        yield lines(*[verb + b" a b nothing"] * 200)
    for exptime in (b"x", b"1x", b"-", b"", b"99999999999999999999", b"+0",
                    b"4294967296", b"\t0", b"0\t", b"--1", b"0x10", b"1.5"):
        yield lines(b"gat " + exptime + b" a", b"gats " + exptime + b" a b",
                    b"touch a " + exptime, b"get a")
    yield lines(b"gat 0", b"gats 5", b"gat x", b"gat x " + K + b"x")


def values():
    for value in (b"", b"a", b"\r\n", b"a\r\nb", b"END\r\n", b"\0\1\2\xff",
                  b"x" * 100, b"y" * 4000, b"y" * 5000, b"z" * 70000,
                  b"get a\r\nget b\r\n"):
        yield set_(b"v", value, b"7") + lines(b"get v", b"gets v")
        yield set_(b"v", value) + set_(b"w", value) + lines(b"get v w v w")
    yield b"set n 3 0 3\nabc\r\nget n\nget n\r\n"
    for block in (b"abcdefg\r\n", b"abc\r\n", b"ab\r\n", b"abc\n\n",
                  b"abcd\n", b"abc\r\r\n", b"abc\n\r\n", b"\r\nabc\r\n",
                  b"ab\r\nc\r\n", b"abc "):
        for more in (b"", b" noreply"):
            yield (b"set d 0 0 3\r\nold\r\nset d 0 0 3" + more + b"\r\n" +
                   block + lines(b"", b"get d", b"version"))
    for n in (b"-1", b"-0", b"+3", b"03", b"3x", b"x", b"2147483646", b"3\t",
              b"2147483648", b"4294967299", b"-2147483648", b"\t3", b"3.0",
              b"18446744073709551616", b"000000000000000000000000000003"):
        yield lines(b"set l 0 0 " + n, b"abc", b"get l", b"version")
        yield lines(b"set l 0 0 " + n + b" noreply", b"abc", b"get l")
    for flags in (b"-1", b"4294967295", b"4294967296", b"x", b"1x", b"+1",
                  b"18446744073709551615", b"18446744073709551616", b"007",
                  b"-18446744073709551615", b"\t1", b"1\t", b"1\tx", b"0x1"):
        yield lines(b"set f " + flags + b" 0 1", b"a", b"get f")
    for exptime in (b"-1", b"4294967295", b"4294967296", b"x", b"1000x",
                    b"+1000", b"18446744073709551615", b"18446744073709551616",
                    b"001000", b"-18446744073709551615", b"\t1000", b"1000\t",
                    b"1000\tx", b"0x1000"):
        yield lines(b"set f 0 " + exptime + b" 1", b"b", b"get f")
    yield lines(b"set e \t 0 1", b"a", b"get e", b"set e 0 0 \t", b"a")
    for key in (K, K + b"x", b"x" * 1000, b"a\tb", b"a\x00b", b"\xc3\xa9",
                b"noreply", b"a\rb"):
        for verb in (b"set", b"add", b"replace", b"append", b"prepend"):
            yield set_(key, b"1", verb=verb)
            yield lines(b"get " + key, b"version")
        yield set_(key, b"1", more=b" 987654", verb=b"cas")
        yield lines(b"incr " + key + b" 1", b"decr " + key + b" 1",
                    b"touch " + key + b" 0", b"delete " + key,
                    b"delete " + key, b"version")
    for pad in (1, 7, 100, 1000, 5000):
        yield b"set  p " + b" " * pad + b"0 0  1" + b" " * pad + b"\r\np\r\n"
        yield lines(b" " * pad + b"get" + b" " * pad + b"p" + b" " * pad)


def verbs():
    every = (b"set", b"add", b"replace", b"append", b"prepend")
    for verb in every:
        for more in (b"", b" noreply", b" other", b" noreply "):
            yield (b"delete k\r\n" + set_(b"k", b"one", b"5", more=more,
                                          verb=verb) + b"gets k\r\n")
            yield set_(b"k", b"0", b"6") + b"gets k\r\n" + set_(
                b"k", b"two", b"7", more=more, verb=verb) + b"gets k\r\n"
        yield set_(b"k", b"", verb=verb) * 3 + b"get k\r\n"
    for unique in (b"0", b"987654", b"x", b"-1", b"", b"18446744073709551615",
                   b"18446744073709551616", b"987654 noreply", b"noreply"):
        yield b"delete c\r\n" + set_(b"c", b"x", more=b" " + unique,
                                     verb=b"cas") + b"get c\r\n"
        yield set_(b"c", b"y") + set_(b"c", b"x", more=b" " + unique,
                                      verb=b"cas") + b"get c\r\n"
    yield (set_(b"s", b"1") + lines(b"gets s", b"gets s", b"touch s 0",
           b"gets s", b"gats 0 s", b"incr s 1", b"gets s", b"incr s 0",
           b"gets s", b"decr s 0", b"gets s", b"incr s 99", b"gets s") +
           set_(b"s", b"1", verb=b"append") + b"gets s\r\n" +
           set_(b"s", b"1", verb=b"add") + b"gets s\r\n" +
           set_(b"s", b"1", verb=b"replace") + b"gets s\r\n")
    for rest in (b"", b" 0", b" 1", b" noreply", b" 0 noreply", b" 00",
                 b" 1 noreply", b" 0 0", b" noreply noreply", b" 0 x",
                 b" noreply 0", b" x", b" -0"):
        yield set_(b"k", b"v") + lines(b"delete k" + rest, b"get k")
        yield lines(b"delete nothing" + rest, b"version")
    yield set_(b"noreply", b"v") + lines(b"delete noreply", b"get noreply")
    for rest in (b" 0", b" 0 noreply", b" noreply", b" x", b" x noreply",
                 b" 0 0", b" -1", b" 1000"):
        yield set_(b"k", b"v") + lines(b"touch k" + rest, b"get k")
        yield lines(b"touch nothing" + rest, b"touch noreply" + rest)
        yield set_(b"k", b"v") + lines(b"gat" + rest + b" k", b"get k")
    yield b"".join(set_(b"m%d" % i, b"%d" % i, more=b" noreply")
                   for i in range(500)) + lines(
        b"get " + b" ".join(b"m%d" % i for i in range(500)))


def numbers():
    for value in (b"0", b"1", b"9", b"10", b"99", b"", b" 1", b"1 ",
                  b"1 x", b"1x", b"x", b"-1", b"-0", b"+1", b"00012", b"\t5",
                  b"5\r\n6", b"18446744073709551615", b"1.5", b"0x1",
                  b"18446744073709551616", b"18446744073709551614", b"1e3",
                  b"-18446744073709551615", b"99999999999999999999999", b"\0",
                  b"9" * 19, b"1" + b" " * 50, b"1" + b" " * 5000, b"7\0"):
        for delta in (b"0", b"1", b"9", b"10", b"18446744073709551615"):
            for verb in (b"incr", b"decr"):
                yield set_(b"i", value, b"3") + lines(
                    verb + b" i " + delta, verb + b" i " + delta, b"get i")
    for delta in (b"x", b"-1", b"1x", b"+1", b"\t1", b"1\t", b"", b"noreply",
                  b"18446744073709551616", b"1.5", b"-18446744073709551615",
                  b"1 noreply", b"1 x", b"1 0", b"\t", b"99 noreply ",
                  b"0000000000000000000000000000000000000007"):
        for verb in (b"incr", b"decr"):
            yield set_(b"i", b"50") + lines(verb + b" i " + delta, b"get i")
            yield lines(verb + b" nothing " + delta, b"version")


def others():
    for line in (b"verbosity 0", b"verbosity 0 noreply", b"verbosity x",
                 b"verbosity noreply", b"verbosity 0 1", b"verbosity -1",
                 b"verbosity x noreply", b"version", b"version 1",
                 b"version noreply", b"stats reset", b"stats noreply",
                 b"flush_all", b"flush_all 0", b"flush_all noreply",
                 b"flush_all 0 noreply", b"flush_all x", b"flush_all -1",
                 b"flush_all x noreply", b"flush_all 0 0", b"flush_all 1000",
                 b"flush_all 2592001", b"flush_all noreply noreply",
                 b"flush_all -1 noreply", b"flush_all 0 x"):
        yield set_(b"o", b"1") + lines(line, b"get o", b"version")
        yield lines(b"get o") + set_(b"o", b"2") + lines(b"get o")
        yield b"flush_all\r\n"


def times():
    now = int(time.time())
    for exptime in (0, -1, -100, 1000, 2592000, 2592001, 100000000, now - 1000,
                    now + 1000, 2147483647, 2147483648, 4294967295, -2147483648,
                    9223372036854775807, 9223372036854775808, 4294967296):
        when = b"%d" % exptime
        yield set_(b"t", b"1", exptime=when) + lines(b"get t", b"gets t")
        yield set_(b"t", b"2") + lines(b"touch t " + when, b"get t")
        yield set_(b"t", b"3") + lines(b"gat " + when + b" t", b"get t")
        for verb in (b"add", b"replace", b"append", b"prepend"):
            yield set_(b"t", b"4", exptime=when) + set_(
                b"t", b"5", exptime=b"-1", verb=verb) + b"get t\r\n"
            yield set_(b"t", b"4") + set_(
                b"t", b"5", exptime=when, verb=verb) + b"get t\r\n"
        yield set_(b"t", b"6", exptime=when) + lines(b"incr t 1", b"get t",
                                                     b"touch t 0", b"get t",
                                                     b"delete t")


def sizes():
    every = (b"set", b"add", b"replace", b"append", b"prepend", b"cas")
    for key, flags in ((b"b", b"0"), (b"b", b"1"), (K, b"0"),
                       (b"b", b"4294967296")):
        most = MOST - len(key) - (4 if flags == b"1" else 0)
        for length in (most - 1, most, most + 1):
            yield big(length, key=key, flags=flags) + lines(b"get " + key,
                                                            b"version")
    for verb in every:
        for more in (b"", b" noreply"):
            unique = b" 987654" if verb == b"cas" else b""
            yield set_(b"b", b"x") + big(MOST + 1, verb, more=unique + more) \
                + lines(b"get b", b"version")
    yield big(1000000) + big(100000, b"append") + lines(b"get b")
    yield big(1000000) + big(100000, b"prepend", more=b" noreply") + \
        lines(b"get b")
    yield big(900000) + set_(b"b", b"end", verb=b"append") + set_(
        b"b", b"begin", verb=b"prepend") + lines(b"get b", b"incr b 1")
    yield big(2000000) + b"get b\r\n"
    yield big(600000) + b"get b b b\r\n" * 3 + b"version\r\n"
    yield b"get b\r\n"


class Memcached:
    """One of our own."""

    def __enter__(self):
        for _ in range(5):
            with socket.create_server(("127.0.0.1", 0)) as sock:
                self.port = sock.getsockname()[1]
            self.process = subprocess.Popen(
                ["memcached", "-U", "0", "-l", "127.0.0.1", "-p",
                 str(self.port), "-u", "nobody", "-t", "2"],
                stderr=subprocess.DEVNULL)
            until = time.monotonic() + 10
            while self.process.poll() is None and time.monotonic() < until:
                try:
                    connect(self.port).close()
                    return self
                except ConnectionError:
                    time.sleep(0.01)
            self.__exit__()
        raise RuntimeError("memcached does not start")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def short(text):
    return repr(text if len(text) < 400 else
                text[:200] + b"...%d..." % len(text) + text[-100:])


def tell(request, theirs, ours):
    print("request  ", short(request))
    print("memcached", short(theirs))
    print("ours     ", short(ours))


def differ(port, other, request, cut):
    slowly = cut and len(request) < 20000 and has_long_line(request)
    cuts = [] if not cut else list(range(1000, len(request), 1000)) \
        if slowly else odd_cuts(len(request))
    theirs = normal(exchange(other, request, cuts, slowly))
    ours = normal(exchange(port, request, cuts, slowly))
    if ours == theirs:
        return 0
    tell(request, theirs, ours)
    return 1


def odd_cuts(length):
    """Positions from 1, 2 and more bytes apart; not too many."""
    if length > 200000:
        return [1, 30, 70001, length - 1]
    step = max(1, length // 40)
    return [at for at in range(1, length, step)]


def compare(port):
    nr = bad = 0
    exchange(port, b"flush_all\r\n")
    with Memcached() as other:
        for cut in (False, True):
            for request in exchanges():
                nr += 1
                bad += differ(port, other.port, request, cut)
    print(nr, "exchanges,", bad, "differ")
    return bad


WORDS = [b"get", b"gets", b"gat", b"gats", b"set", b"add", b"replace",
         b"append", b"prepend", b"cas", b"incr", b"decr", b"delete", b"touch",
         b"verbosity", b"version", b"a", b"b", b"c", b"noreply", b"0", b"1000",
         b"2000", b"-1", b"x", b"", b"a b", b"\t", K, K + b"x", b"4294967295",
         b"18446744073709551615", b"99999", b"\0"]


def random_request(rng):
    """One command. An answer that waits makes an incr of memcached's not fill
    up with spaces, and a get of a wrong key lose it."""
    kind = rng.random()
    key = rng.choice([b"a", b"b", b"c"])
    if kind < 0.3:
        # (Of white space alone it reads what is behind it, whatever that is.)
        value = rng.choice([word for word in WORDS if word != b"\t"])
        request = set_(key, value, rng.choice(
            [b"0", b"1", b"7"]), b"0", rng.choice([b"", b"", b" noreply"]),
            rng.choice(WORDS[4:9]))
    elif kind < 0.7:
        request = b" ".join(rng.choice(WORDS) for _ in range(
            rng.randint(1, 7))) + rng.choice([b"\r\n", b"\r\n", b"\n"])
    else:
        request = lines(rng.choice([
            b"get a b c", b"gets a", b"incr a 1", b"decr b 3", b"delete c",
            b"touch a 0", b"gat 0 a b", b"get " + key, b"flush_all"]))
    if rng.random() < 0.3:
        at = rng.randrange(len(request))
        request = request[:at] + rng.choice(
            [b"", b"\r", b" ", b"5"]) + request[at + 1:]
    return request


# A time that is over while the two are compared, and not for both at once.
SOON = re.compile(rb"(^|\n) *(gats? +|touch +\S+ +|(set|add|replace|append|"
                  rb"prepend|cas) +\S+ +\S+ +)\s*0*[1-9]\d{0,2}(?!\d)")


def compare_random(port, seed, count):
    rng = random.Random(seed)
    bad = 0
    exchange(port, b"flush_all\r\n")
    with Memcached() as other:
        for _ in range(count):
            request = random_request(rng)
            while SOON.search(request):
                request = random_request(rng)
            # What its own threads hold is not filled up either.
            theirs, ours = (re.sub(rb"(VALUE \S+ \d+ )\d+([^\r]*\r\n\d+) *\r",
                                   rb"\1\2\r", normal(exchange(to, request)))
                            for to in (other.port, port))
            # To what is too large, and not there, it answers later.
            if theirs != ours and not (
                    theirs == b"" and ours.startswith(b"SERVER_ERROR")):
                tell(request, theirs, ours)
                bad += 1
    print(count, "exchanges of seed", seed, "-", bad, "differ")
    return bad


def garbage(port, seed, count):
    """Anything, on connections that stay open or do not; then an answer."""
    rng = random.Random(seed)
    open_ones = []
    for _ in range(count):
        if len(open_ones) < 20:
            open_ones.append(connect(port))
        sock = rng.choice(open_ones)
        parts = [rng.randbytes(rng.randint(0, 300)), random_request(rng),
                 rng.randbytes(3) * rng.randint(1, 20000),
                 b"get " + b"a " * rng.randint(1, 5000), b"\r\n", b"\n",
                 b"set a 0 0 %d\r\n" % rng.choice([5, 1000, 70000, 3000000])]
        sock.setblocking(False)
        try:
            for part in rng.sample(parts, rng.randint(1, len(parts))):
                sock.send(part)
            while sock.recv(1 << 20):
                pass
        except BlockingIOError:
            if rng.random() < 0.9:
                continue
        except OSError:
            pass
        sock.close()
        open_ones.remove(sock)
    for sock in open_ones:
        sock.close()
    answer = exchange(port, set_(b"k", b"v") + b"get k\r\n")
    print("after", count, "pieces of garbage of seed", seed, short(answer))
    return answer != b"STORED\r\nVALUE k 0 1\r\nv\r\nEND\r\n"


def memory_kb(pid):
    with open("/proc/%d/status" % pid, encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))


def slow(port, pid):
    """One asks for 64 KiB of gets of a megabyte each, one for many in a line;
    neither reads at first. Then all comes, and little memory was needed."""
    length = 1000000
    exchange(port, big(length))
    value = b"VALUE b 0 %d\r\n" % length + b"v" * length + b"\r\n"
    before = memory_kb(pid)
    pipelined = b"get b\r\n" * (65536 // 7)
    in_a_line = b"get" + b" b" * 1000 + b"\r\n"
    socks = [connect(port), connect(port)]
    socks[0].sendall(pipelined)
    socks[1].sendall(in_a_line)
    for _ in range(50):  # another is served all the while
        if exchange(port, b"get nothing\r\n") != b"END\r\n":
            return 1
    most = memory_kb(pid)
    print("memory", before, "KB, while two do not read", most, "KB")
    bad = most - before > 16384
    for sock, parts in ((socks[0], [value + b"END\r\n"] * 100),
                        (socks[1], [value] * 1000 + [b"END\r\n"])):
        with sock, sock.makefile("rb") as answers:
            for part in parts:
                bad += answers.read(len(part)) != part
            if sock is socks[1]:
                sock.sendall(b"get nothing\r\n")
                bad += answers.readline() != b"END\r\n"
    # One that has ended its stream before it reads.
    bad += exchange(port, b"get b\r\n" * 50) != (value + b"END\r\n") * 50
    bad += exchange(port, b"get" + b" b" * 50 + b"\r\n") != (
        value * 50 + b"END\r\n")
    most = memory_kb(pid)
    print("while they read", most, "KB;", bad, "wrong")
    return bad or most - before > 32768


def pymemcache(port):
    """A client library's calls."""
    from pymemcache.client.base import Client
    from pymemcache.client.base import PooledClient
    from pymemcache.exceptions import MemcacheClientError
    from pymemcache.exceptions import MemcacheIllegalInputError
    from pymemcache.exceptions import MemcacheServerError

    for client in (Client(("127.0.0.1", port), default_noreply=False),
                   PooledClient(("127.0.0.1", port), default_noreply=False)):
        many = {"key%d" % i: b"value%d" % i for i in range(1000)}
        assert client.flush_all()
        assert client.set_many(many) == []
        assert client.get_many(list(many)) == many
        assert client.get("nothing") is None
        assert client.get("nothing", b"default") == b"default"
        assert not client.add("key1", b"x") and client.add("new", b"x")
        assert client.replace("new", b"y") and not client.replace("no", b"x")
        assert client.append("new", b"z") and client.prepend("new", b"x")
        assert client.get("new") == b"xyz"
        value, cas = client.gets("new")
        assert value == b"xyz" and client.cas("new", b"1", cas)
        assert client.cas("new", b"2", cas) is False
        assert client.cas("no", b"2", cas) is None
        assert client.gets_many(["new"])["new"][0] == b"1"
        assert client.incr("new", 41) == 42 and client.decr("new", 2) == 40
        assert client.incr("no", 1) is None
        assert client.touch("new", 100) and not client.touch("no", 100)
        assert client.delete("new") and not client.delete("new")
        assert client.delete_many(["key0", "key1"])
        assert client.get_many(["key0", "key1", "key2"]) == {
            "key2": b"value2"}
        assert client.set("old", b"x", expire=-1)
        assert client.get("old") is None
        assert client.set("a" * 250, bytes(range(256)) * 4000)
        assert client.get("a" * 250) == bytes(range(256)) * 4000
        try:
            client.incr("key5", 1)
            return 1
        except MemcacheClientError:
            pass
        try:
            client.set("big", b"x" * 2000000)
            return 1
        except MemcacheServerError:
            pass
        try:
            client.set("with space", b"x")
            return 1
        except MemcacheIllegalInputError:
            pass
        assert client.set("quiet", b"1", noreply=True)
        assert client.get("quiet") == b"1"
        stats = client.stats()
        assert stats[b"curr_items"] > 900 and stats[b"threads"] >= 1
        assert client.version()
        assert client.flush_all()
        assert client.get_many(list(many)) == {}
        client.close()
    return 0


def expiry(port):
    """What lasts a second is gone within three; a later flush comes later."""
    exchange(port, set_(b"one", b"1", exptime=b"1") + set_(
        b"two", b"2", exptime=b"100") + set_(b"old", b"3"))
    if b"VALUE two" not in exchange(port, b"get one two\r\n"):
        return 1
    if exchange(port, b"flush_all 3\r\n") != b"OK\r\n":
        return 1
    start = time.monotonic()
    gone = {}
    while len(gone) < 2 and time.monotonic() < start + 8:
        answer = exchange(port, b"get one two\r\n")
        for key in (b"one", b"two"):
            if b"VALUE " + key not in answer:
                gone.setdefault(key, time.monotonic() - start)
        time.sleep(0.02)
    print("gone after", gone)
    return not (gone[b"one"] <= 2.1 and 1 <= gone[b"two"] <= 4 and
                exchange(port, b"get old\r\n") == b"END\r\n")


def main():
    what, port = sys.argv[1], int(sys.argv[2])
    more = [int(arg) for arg in sys.argv[3:]]
    return {"compare": compare, "random": compare_random, "slow": slow,
            "garbage": garbage, "client": pymemcache,
            "expiry": expiry}[what](port, *more)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
