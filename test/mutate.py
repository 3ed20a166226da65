#!/usr/bin/python3
"""Are the tests able to fail? Breaks the library, one small thing at a time.

mutate.py [MUTANTS [SEED]]	tries so many (200), sampled by SEED (1)

A mutant is the library with one change: a condition flipped or another
comparison, && for ||, the check of an error gone, a constant one off, a call
left out. It is killed if a suite that reaches the changed line fails twice,
or hangs. What does not compile, or compiles to the same code, is not counted.

All happens in build/mutate: in JOBS=2 copies of the tree; which suite
reaches which line (map.json, by gcov, made anew for a suite that changed); who
killed whom (killed.json: not tried again until the library or the suite has
changed). Survivors are listed. Those that test/mutants-explained.txt names,
with the reason, are counted as survivors too, but not tried. The exit status
is 1 if less than 90 % were killed.
"""
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

LEAST = 90  # per cent
WORKERS = int(os.environ.get("JOBS", 2))
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.join(TOP, "build/mutate")
EXPLAINED = os.path.join(TOP, "test/mutants-explained.txt")
COUNTED = ("killed", "survived", "explained")
KINDS = ("flip", "compare", "logic", "check", "constant", "call")
COMPARE = {"==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">"}
lock = threading.Lock()
running = set()  # processes


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def write(text, *path):
    with open(os.path.join(*path), "w", encoding="utf-8") as file:
        file.write(text)


# ---- What can be changed ---------------------------------------------------


def mask(text):
    """The text with blanks for comments, strings and the preprocessor's."""
    pattern = (r'/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\''
               r'|^#(?:\\\n|[^\n])*')
    return re.sub(pattern, lambda it: re.sub(r"[^\n]", " ", it[0]), text,
                  flags=re.S | re.M)


def closing(text, start):
    """Where the parenthesis that opens at start is closed."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return len(text)


def choice_begins(text, at):
    """Where the condition of the ?: whose ? is at that place begins."""
    depth = 0
    while at > 0:
        at -= 1
        depth += (text[at] == ")") - (text[at] == "(")
        assigns = text[at] == "=" and text[at - 1] not in "=!<>" \
            and text[at + 1] != "="
        if depth < 0 or depth == 0 and (text[at] in ",;{}?:" or assigns):
            return at + 1
        if depth == 0 and re.match(r"\breturn\b", text[at:]):
            return at + len("return")
    return 0


class Mutant:
    def __init__(self, path, text, kind, start, end, new):
        self.path, self.kind = path, kind
        self.line = text.count("\n", 0, start) + 1
        self.text = text[:start] + new + text[end:]
        first = text.rfind("\n", 0, start) + 1
        last = text.find("\n", end)
        self.before = " ".join(text[first:last].split())
        self.after = " ".join((text[first:start] + new
                               + text[end:last]).split()) or ";"
        self.name = self.result = None


def conditions(path, text, code):
    """Of if and while: flipped; of an error's check, gone."""
    for word in re.finditer(r"\b(if|while) \(", code):
        start = word.end()
        end = closing(code, start - 1)
        inner = text[start:end]
        yield Mutant(path, text, "flip", start, end, f"!({inner})")
        body = code[end + 1:].lstrip(" \t\n{")
        if word[1] == "if" and re.match(r"(return|goto)\b", body) and \
                re.search(r"== -1|!= 0|< 0|!|== NULL|\|\|", inner):
            yield Mutant(path, text, "check", start, end, f"({inner}) && 0")
    for word in re.finditer(r" \?(?=\s)", code):
        start = choice_begins(code, word.start())
        inner = text[start:word.start()]
        blank = inner[:len(inner) - len(inner.lstrip())]
        yield Mutant(path, text, "flip", start, word.start(),
                     f"{blank}!({inner.strip()})")


def others(code, word):
    """What a number may become: one more and one less. But who returns -1 has
    failed and who returns 0 has not: one becomes the other, for any number
    but 0 would mean the same. And a struct begins as {0} out of habit."""
    before = code[max(0, word.start() - 8):word.start()]
    if before.endswith("return -") and word[0] == "1":
        return ["0"]
    if before.endswith("return ") and word[0] == "0":
        return ["-1"]
    if code[word.start() - 1] == "{" and code[word.end()] == "}":
        return []
    return [str(new) for new in (int(word[0]) + 1, int(word[0]) - 1)
            if new >= 0]


def candidates(path):
    text = read(TOP, path)
    code = mask(text)
    found = list(conditions(path, text, code))
    for word in re.finditer(r" (==|!=|<=|>=|<|>)(?=\s)", code):
        found.append(Mutant(path, text, "compare", word.start(1),
                            word.end(1), COMPARE[word[1]]))
    for word in re.finditer(r"&&|\|\|", code):
        found.append(Mutant(path, text, "logic", word.start(), word.end(),
                            "||" if word[0] == "&&" else "&&"))
    for word in re.finditer(r"(?<![\w.])\d+(?=U?L?L?\b)(?![\w.]*x)", code):
        for new in others(code, word):
            found.append(Mutant(path, text, "constant", word.start(),
                                word.end(), new))
    for word in re.finditer(r"^\t+(?:\(void\))?([\w.>-]+)\(", code, re.M):
        end = closing(code, word.end() - 1) + 1
        if code[end:end + 1] == ";" and word[1] not in (
                "if", "while", "for", "switch", "return", "sizeof"):
            start = word.end() - len(word[0].lstrip())
            found.append(Mutant(path, text, "call", start, end, ""))
    lines = text.split("\n")
    bodies = functions(text)
    inside = []
    times = {}
    for it in found:
        body = next((body for body in bodies
                     if body[0] < it.line < body[1]), None)
        if body and "LCOV_EXCL" not in lines[it.line - 1]:
            it.name = (f"{path}: {name_above(lines, body[0] - 1)}: "
                       f"{it.before} -> {it.after}")
            times[it.name] = times.get(it.name, 0) + 1
            if times[it.name] > 1:
                it.name += f" ({times[it.name]})"
            inside.append(it)
    return inside


def name_above(lines, at):
    """The name of the function whose body begins at that line."""
    while at > 0 and not re.match(r"\w", lines[at]):
        at -= 1
    found = re.search(r"(\w+)\(", lines[at])
    return found[1] if found else "?"


def functions(text):
    """The first and the last line of each function's body."""
    bodies = []
    first = None
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("{"):
            first = number
        elif line.startswith("}") and first:
            bodies.append((first, number))
            first = None
    return bodies


# ---- Building and running --------------------------------------------------


def run(command, tree, seconds, **env):
    """The exit status; None if it hung. With its children it is a group."""
    process = subprocess.Popen(
        command, cwd=tree, env={**os.environ, **env}, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    running.add(process)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def end(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    running.discard(process)


def run_suite(binary, tree, seconds, **env):
    return run([binary], tree, seconds, EVT_UNDER="plain", EVT_BUILD=".",
               **env)


class Tree:
    """A copy of the sources that are built, and how they are built."""

    def __init__(self, number):
        self.path = os.path.join(ROOT, str(number))
        os.makedirs(self.path, exist_ok=True)
        self.copy()
        self.plain = {}
        self.commands = {}

    def copy(self):
        for name in os.listdir(TOP):
            if name.startswith("evt-") or name in ("Makefile", "test",
                                                   "examples", ".ci"):
                subprocess.run(["cp", "-ru", "--preserve=timestamps",
                                os.path.join(TOP, name), self.path],
                               check=True)
        for name in os.listdir(self.path):  # a mutant of a run cut short
            if re.fullmatch(r"evt-[\w-]+\.c", name):
                if not os.path.exists(os.path.join(TOP, name)):
                    os.remove(os.path.join(self.path, name))
                elif read(TOP, name) != read(self.path, name):
                    shutil.copy(os.path.join(TOP, name), self.path)

    def make(self, *goals):
        with open(os.path.join(self.path, "make.log"), "w") as log:
            if subprocess.run(["make", f"-j{WORKERS}", *goals], stdout=log,
                              cwd=self.path, stderr=log).returncode != 0:
                sys.exit(f"mutate: see {log.name}")

    def build(self, suites):
        self.make("all", "programs", "examples",
                  *[f"build/test/{suite}" for suite in suites])
        self.make("VARIANT=coverage", "HARDEN=", "CFLAGS=-g",
                  "build/coverage/test/libevtserver.a",
                  "build/coverage/test/obj/test/ledger.o")

    def learn_commands(self, suites):
        """How make compiles a file and links a suite, to do it without."""
        said = subprocess.run(
            ["make", "-n", "-B", "V=1",
             *[f"build/test/{suite}" for suite in suites]],
            cwd=self.path, capture_output=True, text=True, check=True).stdout
        for line in said.replace("\\\n", " ").split("\n"):
            goal = re.search(r"\s-o build/test/(?:obj/)?(\S+)", line)
            if goal:
                self.commands[goal[1]] = line

    def link(self, suite, goal, *changes):
        command = self.commands[suite].replace(
            f"-o build/test/{suite}", f"-o {goal}")
        for old, new in changes:
            command = command.replace(old, new)
        return run(["sh", "-c", command], self.path, 120) == 0

    def link_counting(self, suite):
        """The same suite, with a library that counts what is reached."""
        return self.link(
            suite, f"build/counting-{suite}",
            (" -pie ", " -pie --coverage -Wl,--wrap=_exit "),
            ("build/test/obj/test/ledger.o",
             "build/coverage/test/obj/test/ledger.o"),
            ("build/test/libevtserver.a",
             "build/coverage/test/libevtserver.a"))

    def link_mutant(self, suite):
        return self.link(suite, "build/mutant", (
            "build/test/libevtserver.a",
            "build/mutant.o build/test/libevtserver.a"))

    def compile(self, path):
        """The object code of what stands in path now; None: it is no C."""
        command = self.commands[path[:-2] + ".o"]
        command = re.sub(r" -o \S+", " -g0 -w -o build/mutant.o", command)
        if run(["sh", "-c", command.replace("-MMD -MP", "")], self.path,
               60) != 0:
            return None
        with open(os.path.join(self.path, "build/mutant.o"), "rb") as file:
            return file.read()

    def try_mutant(self, mutant, suites, seconds):
        if mutant.path not in self.plain:
            self.plain[mutant.path] = self.compile(mutant.path)
        try:
            write(mutant.text, self.path, mutant.path)
            code = self.compile(mutant.path)
        finally:
            shutil.copy2(os.path.join(TOP, mutant.path), self.path)
        if code is None:
            return "no C", None
        if code == self.plain[mutant.path]:
            return "same code", None
        for suite in suites:
            if not self.link_mutant(suite):
                return "no C", None
            limit = 15 + 4 * seconds[suite]
            status = run_suite("build/mutant", self.path, limit)
            if status is None or status != 0 and \
                    run_suite("build/mutant", self.path, limit) != 0:
                return "killed", suite
        return "survived", None


def side_by_side(work, items):
    """work(item, number of the worker) for each, by two threads."""
    todo = queue.Queue()
    for item in items:
        todo.put(item)

    wrong = []

    def loop(number):
        while not wrong:
            try:
                work(todo.get_nowait(), number)
            except queue.Empty:
                return
            except Exception as error:  # told by the main thread
                wrong.append(error)

    threads = [threading.Thread(target=loop, args=(number,), daemon=True)
               for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(1)
    if wrong:
        raise wrong[0]


# ---- Who reaches what ------------------------------------------------------


def key_of(*names):
    whole = hashlib.sha256()
    for name in names:
        whole.update(read(TOP, name).encode())
    return whole.hexdigest()[:16]


def reached_by(tree, suite, seconds):
    """The lines of the library that a suite reaches: {file: [line, ...]}."""
    kept = os.path.join(ROOT, "gcov", suite)
    shutil.rmtree(kept, ignore_errors=True)
    os.makedirs(kept)
    tree.link_counting(suite)
    counting = os.path.join(tree.path, f"build/counting-{suite}")
    run_suite(counting, tree.path, seconds, GCOV_PREFIX=kept)
    os.remove(counting)
    objects = os.path.join(ROOT, "1/build/coverage/test/obj")
    counted = kept + objects
    names = [name for name in
             (os.listdir(counted) if os.path.isdir(counted) else [])
             if name.startswith("evt-") and name.endswith(".gcda")]
    for name in names:
        note = name[:-4] + "gcno"
        os.symlink(os.path.join(objects, note), os.path.join(counted, note))
    reached = {}
    said = subprocess.run(["gcov", "-t", "-j", *names], cwd=counted,
                          capture_output=True, text=True).stdout \
        if names else ""
    for line in said.split("\n"):
        for file in json.loads(line)["files"] if line.strip() else ():
            if re.fullmatch(r"evt-[\w-]+\.c", file["file"]):
                reached[file["file"]] = sorted(
                    {at["line_number"] for at in file["lines"]
                     if at["count"] > 0})
    shutil.rmtree(kept)
    return reached


def map_suites(trees, suites, common):
    """{suite: {key, seconds, lines, passes}}, from map.json where it holds."""
    path = os.path.join(ROOT, "map.json")
    known = json.loads(read(path)) if os.path.exists(path) else {}
    keys = {suite: key_of(*common, f"test/{suite}.c") for suite in suites}
    todo = [suite for suite in suites
            if known.get(suite, {}).get("key") != keys[suite]]

    def work(suite, number):
        tree = trees[number]
        lines = reached_by(tree, suite, 180)
        passes = False
        for _ in range(2):
            start = time.monotonic()
            passes = passes or run_suite(
                f"build/test/{suite}", tree.path, 120) == 0
            if passes:
                break
        with lock:
            known[suite] = {"key": keys[suite], "lines": lines,
                            "passes": passes,
                            "seconds": time.monotonic() - start}
            write(json.dumps(known), path)
            progress(f"{suite} reaches {sum(map(len, lines.values()))} lines")

    side_by_side(work, todo)
    progress("")
    for suite in suites:
        if not known[suite]["passes"]:
            print(f"{suite} fails without any change: it is not asked")
    return {suite: known[suite] for suite in suites if known[suite]["passes"]}


def who_reaches(known, mutant):
    """The suites to ask, the quickest first: those that reach the line; if
    none is known to, those that reach its function, or its file."""
    body = next(it for it in functions(read(TOP, mutant.path))
                if it[0] < mutant.line < it[1])
    lines = {suite: set(it["lines"].get(mutant.path, ()))
             for suite, it in known.items()}
    asked = []
    for line in range(mutant.line, body[0], -1):
        asked = [suite for suite in lines if line in lines[suite]]
        if asked:
            break
    if not asked:
        asked = [suite for suite in lines if lines[suite].intersection(
            range(body[0] - 3, body[1]))]
    if not asked:
        asked = [suite for suite in lines if lines[suite]]
    return sorted(asked, key=lambda suite: known[suite]["seconds"])


# ---- What is printed -------------------------------------------------------


def progress(text):
    if sys.stdout.isatty():
        print(f"\r\033[K{text[:78]}", end="" if text else "\r", flush=True)


def explanations():
    """{name of a mutant: reason} of test/mutants-explained.txt."""
    told = {}
    name = None
    for line in (read(EXPLAINED).split("\n")
                 if os.path.exists(EXPLAINED) else []):
        if line.startswith("\t") and name:
            told[name] = (told[name] + " " + line.strip()).strip()
        elif line.strip() and not line.startswith("#"):
            name = line.strip()
            told[name] = ""
    return told


def report(mutants, told, started):
    counted = [it for it in mutants if it.result in COUNTED]
    for it in counted:
        if it.result in ("survived", "explained"):
            print(f"{it.path}:{it.line}: {it.result} ({it.kind})\n"
                  f"    - {it.before}\n    + {it.after}")
            if it.result == "explained":
                print(f"    {told[it.name]}")
    print(f"{'':24} {'tried':>7} {'killed':>7} {'':>7}  survived explained")
    for name in sorted({it.path for it in counted}) + ["all"] + list(KINDS):
        row([it for it in counted if name in ("all", it.path, it.kind)], name)
    killed = sum(it.result == "killed" for it in counted)
    print(f"{killed} of {len(counted)} mutants killed, in "
          f"{(time.monotonic() - started) / 60:.1f} min")
    return counted and 100 * killed >= LEAST * len(counted)


def row(mutants, name):
    of = {result: sum(it.result == result for it in mutants)
          for result in COUNTED}
    if mutants:
        print(f"{name:24} {len(mutants):7} {of['killed']:7} "
              f"{100 * of['killed'] / len(mutants):5.0f} % "
              f"{of['survived'] or '':>9} {of['explained'] or '':>9}")


# ---- All of it -------------------------------------------------------------


class Hunt:
    """The mutants in the order of the sample, until enough are counted."""

    def __init__(self, trees, known, library, wanted, seed):
        self.trees, self.known = trees, known
        self.library, self.wanted = library, wanted
        self.path = os.path.join(ROOT, "killed.json")
        self.killed = json.loads(read(self.path)) \
            if os.path.exists(self.path) else {}
        self.told = explanations()
        self.sample = [it for path in sorted(os.listdir(TOP))
                       if re.fullmatch(r"evt-[\w-]+\.c", path)
                       for it in candidates(path)]
        self.places = len(self.sample)
        # A change here and there leaves most of the sample as it was.
        self.sample.sort(key=lambda it: hashlib.sha256(
            f"{seed} {it.name}".encode()).digest())
        self.started = time.monotonic()

    def work(self, mutant, number):
        with lock:  # those under way may still turn out to be no mutants
            if self.count(*COUNTED, "under way") >= self.wanted:
                return
            mutant.result = "under way"
        held = self.killed.get(mutant.name, {})
        suite = held.get("by")
        if mutant.name in self.told:
            result = "explained", None
        elif held.get("library") == self.library and \
                (suite is None or self.known.get(suite, {}).get(
                    "key") == held.get("key")):
            result = held["result"], suite
        else:
            result = self.trees[number].try_mutant(
                mutant, who_reaches(self.known, mutant),
                {it: self.known[it]["seconds"] for it in self.known})
        self.note(mutant, *result)

    def note(self, mutant, result, suite):
        with lock:
            mutant.result = result
            if result not in ("survived", "explained"):
                self.killed[mutant.name] = {
                    "result": result, "by": suite, "library": self.library,
                    "key": self.known[suite]["key"] if suite else None}
                write(json.dumps(self.killed, indent=1), self.path)
            survived = self.count("survived")
            killed = self.count("killed")
            minutes = (time.monotonic() - self.started) / 60
            text = (f"{self.count(*COUNTED)} of "
                    f"{self.wanted}: {killed} killed, {survived} survived, "
                    f"{minutes:.1f} min")
            progress(text)
            if result == "survived" and not sys.stdout.isatty():
                print(f"{text}: {mutant.name}", flush=True)

    def count(self, *results):
        return sum(it.result in results for it in self.sample)

    def all(self):
        # Again while some of those under way were none.
        while self.count(*COUNTED) < self.wanted:
            left = [it for it in self.sample if not it.result]
            if not left:
                break
            side_by_side(self.work, left)
        progress("")


def main():
    # A shell has a program in the background ignore them, suites too then.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    suites = sorted(name[:-2] for name in os.listdir(os.path.join(TOP, "test"))
                    if re.fullmatch(r"test_\w+\.c", name))
    sources = sorted(name for name in os.listdir(TOP)
                     if re.fullmatch(r"evt-[\w-]+\.[ch]", name))
    common = sources + ["test/" + name for name in sorted(
        os.listdir(os.path.join(TOP, "test"))) if name.endswith(".h")]
    trees = [Tree(number + 1) for number in range(WORKERS)]
    progress("building")
    trees[0].build(suites)
    for tree in trees[1:]:
        subprocess.run(["cp", "-a", trees[0].path + "/.", tree.path],
                       check=True)
    for tree in trees:
        tree.learn_commands(suites)
    known = map_suites(trees, suites, common)
    hunt = Hunt(trees, known, key_of(*sources), wanted, seed)
    print(f"{hunt.places} places, of which {wanted} are sampled (SEED={seed})",
          flush=True)
    try:
        hunt.all()
    except KeyboardInterrupt:
        print("\nended early")
    good = report(hunt.sample, hunt.told, hunt.started)
    return 0 if good and hunt.count(*COUNTED) >= wanted else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        for left in list(running):
            end(left)
