# evt-server's Makefile, for GNU make. `make help` lists the targets.
#
# What a packager sets: CC AR PREFIX DESTDIR LIBDIR INCLUDEDIR MANDIR CPPFLAGS
# CFLAGS LDFLAGS (these come last on each command line), HARDEN= to leave the
# hardening flags out. V=1 shows the commands.
#
# One tree holds several builds. The plain one has its objects in build/ and its
# libraries and programs in place; a variant (asan, tsan, ...) lives wholly in
# build/VARIANT, made by this Makefile calling itself with VARIANT set.

MAKEFLAGS += --no-builtin-rules --no-print-directory
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

PREFIX     ?= /usr/local
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR     ?= $(PREFIX)/share/man
CFLAGS     ?= -O2 -g
PKG_CONFIG ?= pkg-config
INSTALL    ?= install
LDCONFIG   ?= ldconfig
VERSION    := 0.2.0
VARIANT    :=
V          ?=

# ---- What has to be there first ---------------------------------------------

.PHONY: deps deps-ci deps-bench
## deps: install what building, check and flood need, if it is missing
deps:
	@CC='$(CC)' PKG_CONFIG='$(PKG_CONFIG)' .ci/deps build $(deps_clients)

## deps-ci: ... and what check-asan, -tsan, -valgrind, -install and lint need
deps-ci:
	@CC='$(CC)' PKG_CONFIG='$(PKG_CONFIG)' .ci/deps build check ci

## deps-bench: ... and what bench needs: the servers to compare with, a plotter
deps-bench:
	@CC='$(CC)' PKG_CONFIG='$(PKG_CONFIG)' .ci/deps build bench

# `make deps check` on a machine that has no compiler yet: the other goals are
# made by a second make, which starts when deps is done, with -j too.
deps_goals  := $(filter deps deps-%,$(MAKECMDGOALS))
other_goals := $(filter-out $(deps_goals),$(MAKECMDGOALS))
# The clients of the tests are large, a browser among them: `make deps flood`
# goes without.
deps_clients = $(if $(other_goals),$(if $(filter check%,$(other_goals)),check),\
	check)
ifneq ($(and $(deps_goals),$(other_goals)),)

.PHONY: others $(other_goals)
$(other_goals): others
	@:
others: $(deps_goals)
	@$(MAKE) $(other_goals)

else

# ---- Files ------------------------------------------------------------------

B := build$(VARIANT:%=/%)
P := $(VARIANT:%=build/%/)
BUILT := $(if $(VARIANT),$B,.)

lib_src  := $(sort $(wildcard evt-*.c))
headers  := $(filter-out %-internal.h,$(sort $(wildcard evt-*.h)))
manuals  := $(wildcard man/*.[1-8])
suites   := $(patsubst test/%.c,%,$(sort $(wildcard test/test_*.c)))
replays  := $(patsubst test/fuzz_%.c,replay_%,$(sort $(wildcard test/fuzz_*.c)))
programs := $(patsubst %.c,$P%,$(wildcard test/evt_test.c test/flooder.c))
examples := $(patsubst %.c,$P%,$(sort $(wildcard examples/*.c)))
# One of the benchmark's peers is built only where libuv is.
uv_libs  := $(shell $(PKG_CONFIG) --libs libuv 2>/dev/null)
benches  := $(patsubst %.c,$P%,$(filter-out $(if $(uv_libs),,%/peer-libuv.c),\
	$(sort $(wildcard bench/*.c))))
helpers  := $(filter-out test/test_%.c test/fuzz_%.c test/fault_%.c \
	test/evt_test.c test/flooder.c test/replay.c test/storm.c test/soak.c \
	test/tsan_first.c,\
	$(sort $(wildcard test/*.c)))
c_files  := $(sort $(wildcard evt-*.[ch] test/*.[ch] examples/*.[ch] \
	bench/*.[ch]))

static := $Plibevtserver.a
soname := libevtserver.so.0
shared := $P$(soname) $Plibevtserver.so
TESTS  ?= $(suites) $(replays)

lib_obj      := $(lib_src:%.c=$B/obj/%.o)
program_obj  := $(patsubst $P%,$B/obj/%.o,$(programs) $(examples) $(benches))
# The suites have a build of the library of their own, without
# _FORTIFY_SOURCE: it renames calls, and the linker's --wrap would miss them.
suite_lib    := $(lib_src:%.c=$B/test/obj/%.o)
suite_obj    := $(suites:%=$B/test/obj/test/%.o) \
	$(replays:replay_%=$B/test/obj/test/fuzz_%.o) \
	$(patsubst %.c,$B/test/obj/%.o,test/replay.c test/storm.c test/soak.c \
		test/tsan_first.c) \
	$(helpers:%.c=$B/test/obj/%.o)
tsan_first   := $(if $(filter tsan,$(VARIANT)),$B/test/obj/test/tsan_first.o)
suite_common := $(helpers:%.c=$B/test/obj/%.o) $(tsan_first) \
	$B/test/libevtserver.a

# ---- Flags ------------------------------------------------------------------

# Asked for when first needed, and once: $(call once,name,$(shell ...)).
once = $(eval $1 := $2)$($1)

WARN := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wvla -Wformat=2 \
	-Wnull-dereference -Wstrict-prototypes -Wmissing-prototypes -Wundef

# As far as the compiler knows them: gcc 12 all, clang 14 not the last two.
# _FORTIFY_SOURCE needs optimisation, and a packager may bring his own.
harden_flags := -fstack-protector-strong -fstack-clash-protection \
	-fcf-protection=full -fno-strict-overflow \
	-fno-delete-null-pointer-checks -ftrivial-auto-var-init=zero \
	-fzero-call-used-regs=used-gpr
fortify = $(if $(findstring _FORTIFY_SOURCE,$(CPPFLAGS) $(CFLAGS)),,$(if \
	$(filter-out -O0,$(filter -O%,$(CFLAGS))),-U_FORTIFY_SOURCE \
	-D_FORTIFY_SOURCE=3))
HARDEN = $(call once,HARDEN,$(fortify) $(shell for flag in $(harden_flags); do \
	echo 'int f(void);' | $(CC) -Werror $$flag -x c -c -o /dev/null - \
	2>/dev/null && echo "$$flag"; done))
HARDEN_LINK = -Wl,-z,relro,-z,now -Wl,-z,noexecstack

event_cflags  = $(call once,event_cflags,$(shell $(PKG_CONFIG) --cflags \
	libevent_core 2>/dev/null))
event_libs    = $(call once,event_libs,$(shell $(PKG_CONFIG) --libs \
	libevent_core 2>/dev/null || echo -levent_core))
cmocka_cflags = $(call once,cmocka_cflags,$(shell $(PKG_CONFIG) --cflags \
	cmocka 2>/dev/null))
cmocka_libs   = $(call once,cmocka_libs,$(shell $(PKG_CONFIG) --libs \
	cmocka 2>/dev/null || echo -lcmocka))

# clang's sanitizers look at implicit conversions too: they are taken if there.
sanitize := -fno-omit-frame-pointer -fno-sanitize-recover=all
asan_gcc   := $(sanitize) -fsanitize=address,undefined,float-cast-overflow
asan_clang := $(asan_gcc),implicit-conversion
asan_cc     = $(call once,asan_cc,$(shell echo 'int main(void){return 0;}' | \
	clang $(asan_clang) -x c -o /dev/null - 2>/dev/null && echo clang))

variant_asan       := $(SANITIZE)
variant_tsan       := $(sanitize) -fsanitize=thread
variant_coverage   := -O1 --coverage -fprofile-update=atomic -DCOVERAGE
variant_lint-gcc   := -Werror
variant_lint-clang := -Werror
variant_analyzer   := -Werror -fanalyzer
variant_fuzz       := -fsanitize=fuzzer-no-link $(asan_clang)
variant_fuzz-cover := --coverage
# Each call stays where it stands in the source.
variant_faults     := -O1 -g -fno-inline -fno-optimize-sibling-calls \
	-fno-reorder-blocks-and-partition -no-pie
variant_flags      := $(variant_$(VARIANT))

base_flags = -std=c11 -D_GNU_SOURCE -I. -pthread $(event_cflags) $(HARDEN) \
	$(variant_flags)
user_flags = $(CPPFLAGS) $(CFLAGS)
compile    = $(CC) $(base_flags) $(WARN) $(kind) -MMD -MP $(user_flags)
link       = $(CC) -pthread $(variant_flags) $(HARDEN_LINK) $(CFLAGS) $(LDFLAGS)

kind = -fPIE
# Counted is what the suites reach; programs under strace could not write it.
ifeq ($(VARIANT),coverage)
$(lib_obj) $(program_obj): variant_flags :=
$B/obj/examples/llhttp/%.o: variant_flags :=
endif
$(lib_obj): kind = -fPIC $(if \
	$(filter %san,$(VARIANT)),,-Wframe-larger-than=4096)
$(examples:$P%=$B/obj/%.o): kind = -fPIE -Werror
# gcc 12's analyzer calls memory lost whose only pointer is in an element of an
# array, as that of a slab is; the sanitizers and the tests' ledger look too.
$B/obj/evt-slots.o: WARN += $(if \
	$(filter analyzer,$(VARIANT)),-Wno-analyzer-malloc-leak)
$(suite_obj): kind = -fPIE $(cmocka_cflags) -Wno-missing-prototypes

say = $(if $V,,@printf '  %-6s %s\n' '$1' '$2')
Q   = $(if $V,,@)

# ---- Building ---------------------------------------------------------------

.PHONY: all programs examples objects
## all: libevtserver.a and libevtserver.so (the default)
all: $(static) $(shared)

## programs: test/evt_test, the server, and test/flooder, its client
programs: $(programs)

## examples: the programs of examples/
examples: $(examples)

objects: $(lib_obj) $(program_obj) $(suite_obj)

# Rebuild when the flags change, but not for an install: root's are not ours.
FORCE:
$B/flags: $(if $(filter install,$(MAKECMDGOALS)),,FORCE)
	@mkdir -p $(@D)
	@echo '$(CC) $(base_flags) $(WARN) $(user_flags) $(LDFLAGS)' >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$B/obj/%.o: %.c $B/flags
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$Q$(compile) -c -o $@ $<

$B/test/obj/%.o: %.c $B/flags
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$Q$(compile) -U_FORTIFY_SOURCE -c -o $@ $<

$(static): $(lib_obj)
$B/test/libevtserver.a: $(suite_lib)
$(static) $B/test/libevtserver.a:
	$(call say,AR,$@)
	$Qrm -f $@
	$Q$(AR) rcs $@ $^

# Inside the shared object a call is bound to our own function: a program
# may have a sys_error of its own.
$P$(soname): $(lib_obj) evt-server.map
	$(call say,LINK,$@)
	$Q$(link) -shared -Wl,-soname,$(soname) -Wl,-z,defs \
		-Wl,-Bsymbolic-functions -Wl,--version-script=evt-server.map \
		-o $@ $(lib_obj) $(event_libs)

$Plibevtserver.so: $P$(soname)
	$Qln -sf $(soname) $@

$(programs) $(examples) $(benches): $P%: $B/obj/%.o $(tsan_first) $(static)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$Q$(link) -pie -Wl,-z,nodlopen -o $@ $< $(tsan_first) $(static) \
		$(event_libs) $(more_libs)
$Pbench/peer-libuv: more_libs = $(uv_libs)
llhttp := $(patsubst %.c,$B/obj/%.o,$(wildcard examples/llhttp/*.c))
$(llhttp): WARN :=
$Pexamples/http: more_libs = $(llhttp)
$Pexamples/http: $(llhttp)
$Pexamples/proxy: more_libs = -levent_extra

# A suite asks for wrapped calls at its top: /* wrap: socket bind accept4 */
# Allocations are wrapped in all of them: test/ledger.c counts and fails them.
wraps = malloc calloc realloc free $(if $(filter coverage,$(VARIANT)),_exit) \
	$(shell sed -n '1,40s|^[/ ]\* *wrap: *\([a-z0-9_ ]*\).*|\1|p' $1)

link_suite = $(link) -pie \
	$(addprefix -Wl$(comma)--wrap=,$(call wraps,$1)) \
	-o $@ $^ $(cmocka_libs) $(event_libs) $(more_libs)
comma := ,

$(patsubst %,$B/test/%,$(suites) storm soak): $B/test/%: \
		$B/test/obj/test/%.o $(suite_common)
	$(call say,LINK,$@)
	$Q$(call link_suite,test/$*.c)
$B/test/soak: more_libs = -lm

# A fuzz target with its corpus is a suite too: see test/fuzz.h.
$(replays:%=$B/test/%): $B/test/replay_%: $B/test/obj/test/fuzz_%.o \
		$B/test/obj/test/replay.o $(suite_common)
	$(call say,LINK,$@)
	$Q$(call link_suite,test/fuzz_$*.c)
$B/test/replay_http $B/test/fuzz_http: $(llhttp)

# ---- Testing ----------------------------------------------------------------

.PHONY: check check-suites check-asan check-tsan check-valgrind check-symbols \
	check-layers check-rows check-install coverage mutate flood bench
tested = $(TESTS:%=$B/test/%) $(programs) $(examples) \
	$(if $(VARIANT),,$(shared))

## check: build everything, run the tests (TESTS="test_log ..." for some only)
check: all check-suites check-symbols check-layers check-rows

UNDER := $(or $(VARIANT),plain)
check-suites: $(tested)
	@test/run-suites.sh $(UNDER) $(BUILT) $(TESTS:%=$B/test/%)

## check-asan: the tests with the address, leak and undefined sanitizers
check-asan:
	@$(MAKE) VARIANT=asan HARDEN= CC='$(or $(asan_cc),$(CC))' \
		SANITIZE='$(if $(asan_cc),$(asan_clang),$(asan_gcc))' check-suites

## check-tsan: the tests with the thread sanitizer
check-tsan:
	@$(MAKE) VARIANT=tsan HARDEN= check-suites

## check-valgrind: the tests under memcheck, descriptors tracked
check-valgrind: $(tested)
	@test/run-suites.sh valgrind $(BUILT) $(TESTS:%=$B/test/%)

## check-symbols: what the shared object exports, against test/symbols.txt
check-symbols: $(static) $P$(soname)
	@test/check-symbols.sh $^

## check-layers: includes go one way
check-layers:
	@test/check-layers.sh

## coverage: of the tests, by line and branch (build/coverage/html/index.html)
coverage:
	@rm -rf build/coverage/html
	@find build/coverage -name '*.gcda' -delete 2>/dev/null || true
	@$(MAKE) VARIANT=coverage HARDEN= CFLAGS=-g check-suites
	@test/coverage.sh build/coverage

## check-rows: every fault with an asterisk has a test (test/faults.txt)
check-rows:
	@test/check-rows.sh

MUTANTS ?= 200
SEED    ?= 1
## mutate: break the library in MUTANTS=200 ways (SEED=1): do the tests fail?
mutate:
	@test/mutate.py $(MUTANTS) $(SEED)

## check-faults: each call of the library's fails, in each of its places
check-faults:
	@$(MAKE) VARIANT=faults HARDEN= CFLAGS= run-faults

fault_src   := $(sort $(wildcard test/fault_*.c))
fault_obj   := $(fault_src:%.c=$B/test/obj/%.o) $B/test/obj/test/ledger.o
fault_calls := $(shell sed -n "s/^	CALL.\([a-z0-9_]*\),.*/\1/p" test/inject.h)
$(fault_obj): kind = $(cmocka_cflags) -Wno-missing-prototypes

$B/test/faults: $(fault_obj) $B/test/libevtserver.a
	$(call say,LINK,$@)
	$Q$(link) $(addprefix -Wl$(comma)--wrap=,free $(fault_calls)) -o $@ $^ \
		$(cmocka_libs) $(event_libs)

$B/test/faults.sites: $B/test/faults test/fault-sites.sh test/inject.h \
	test/cannot-fail.txt
	@test/fault-sites.sh $< $B/test/libevtserver.a >$@

.PHONY: check-faults run-faults
run-faults: $B/test/faults $B/test/faults.sites
	@$^

.PHONY: fuzz fuzz-build fuzz-merge fuzz-cover
FUZZ_SECONDS ?= 60
fuzz_make = $(MAKE) VARIANT=fuzz HARDEN= CC=clang
fuzzers  := $(replays:replay_%=$B/test/fuzz_%)
## fuzz: look for bytes that break something, FUZZ_SECONDS=60 for each target
fuzz:
	@test/fuzz.sh may-run
	+@$(fuzz_make) fuzz-build
	@test/fuzz.sh run $(FUZZ_SECONDS)

fuzz-build: $(fuzzers)
$(fuzzers): $B/test/fuzz_%: $B/test/obj/test/fuzz_%.o $B/test/libevtserver.a
	$(call say,LINK,$@)
	$Q$(link) -fsanitize=fuzzer -o $@ $^ $(event_libs)

## fuzz-merge: put what make fuzz has found new into test/corpus, minimised
fuzz-merge:
	+@$(fuzz_make) fuzz-build
	@test/fuzz.sh merge

## fuzz-cover: how much of each parser the corpus reaches; below 95 % it fails
fuzz-cover:
	+@$(MAKE) VARIANT=fuzz-cover HARDEN= CC=gcc CFLAGS='-O0 -g' fuzz-covered
fuzz-covered: $(replays:%=$B/test/%)
	@test/fuzz.sh cover $B

.PHONY: check-storm storm-one
STORM_SECONDS ?= 30
export STORM_SECONDS
## check-storm: all calls from 8 threads, and signals, STORM_SECONDS=30; tsan too
check-storm: $B/test/storm
	@EVT_UNDER=plain $B/test/storm
	@$(MAKE) VARIANT=tsan HARDEN= storm-one
storm-one: $B/test/storm
	@EVT_UNDER=$(UNDER) TSAN_OPTIONS="halt_on_error=0 exitcode=66 $$TSAN_OPTIONS" \
		$$(! setarch -R true 2>/dev/null || echo setarch -R) $B/test/storm

.PHONY: soak
SECONDS ?= 600
## soak: a server with faults, under load, for SECONDS=600: does it stay as it is
soak: $B/test/soak
	@EVT_UNDER=$(UNDER) $B/test/soak $(SECONDS)

.PHONY: check-long
## check-long: what takes too long for each change: 10 minutes each, some hours
check-long:
	@$(MAKE) check-storm STORM_SECONDS=600
	@$(MAKE) fuzz FUZZ_SECONDS=600
	@$(MAKE) soak SECONDS=600
	@EVERY=1 LIMIT=600 $(MAKE) check-suites TESTS=test_strace_calls
	@$(MAKE) mutate

FLOOD ?= 10000
## flood: start the server, flood it with FLOOD=10000 connections, three tables
flood: $(programs)
	@EVT_FLOOD=$(FLOOD) test/evt_test

## bench: compare with bare servers and peers (ROUNDS=3: a quick look), report
bench: $(benches) $(programs) $(examples)
	@status=0; for driver in run conns programs datagrams \
		strangers; do \
		bench/$$driver || status=1; \
	done; bench/report && exit $$status

# ---- Reading the source -----------------------------------------------------

.PHONY: lint lint-rules lint-format lint-gcc lint-clang lint-analyzer \
	lint-tidy lint-cppcheck format
## lint: warnings of two compilers, three analyzers, the rules of the house
lint: lint-rules lint-format lint-gcc lint-clang lint-analyzer lint-tidy \
	lint-cppcheck

lint-rules:
	@test/lint-rules.sh

lint-format:
	@clang-format --dry-run -Werror $(c_files)

lint-gcc lint-clang: lint-%:
	@$(MAKE) VARIANT=lint-$* CC=$* objects

lint-analyzer:
	@$(MAKE) VARIANT=analyzer CC=gcc library-objects
library-objects: $(lib_obj)

# A program reads its arguments, with getopt and atoi, while it has one thread.
tidied := $(lib_src:%.c=$B/tidy/%.ok) $(program_obj:$B/obj/%.o=$B/tidy/%.ok)
lint-tidy: $(tidied)
$(filter-out $B/tidy/evt-%,$(tidied)): tidy_checks := \
	--checks=-concurrency-mt-unsafe,-cert-err34-c
$(tidied): $B/tidy/%.ok: %.c .clang-tidy $(filter %.h,$(c_files))
	@mkdir -p $(@D)
	$(call say,TIDY,$<)
	$Qclang-tidy --quiet $(tidy_checks) $< -- -std=c11 -D_GNU_SOURCE -I. \
		$(event_cflags) 2>/dev/null
	@touch $@

# Variables stand at the top of their function here: no variableScope.
lint-cppcheck:
	@cppcheck --quiet --enable=warning,style,performance,portability \
		--suppress=variableScope --suppress=missingIncludeSystem \
		--inline-suppr --std=c11 --error-exitcode=1 -I. -D_GNU_SOURCE \
		$(lib_src) $(program_obj:$B/obj/%.o=%.c)

## format: put the source into the form that .clang-format describes
format:
	clang-format -i $(c_files)

# ---- Installing -------------------------------------------------------------

.PHONY: install uninstall
define pkgconfig
prefix=$(PREFIX)
libdir=$(LIBDIR:$(PREFIX)/%=$${prefix}/%)
includedir=$(INCLUDEDIR:$(PREFIX)%=$${prefix}%)

Name: evtserver
Description: multithreaded servers on libevent, one event loop per thread
Version: $(VERSION)
Requires: libevent_core
Libs: -L$${libdir} -levtserver
Libs.private: -pthread
Cflags: -I$${includedir}
endef
export pkgconfig

## install: into PREFIX=/usr/local (DESTDIR, LIBDIR, INCLUDEDIR, MANDIR too)
install: all
	$(INSTALL) -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig
	$(INSTALL) -m 644 $(headers) $(DESTDIR)$(INCLUDEDIR)
	$(INSTALL) -m 644 libevtserver.a $(DESTDIR)$(LIBDIR)
	$(INSTALL) -m 755 $(soname) $(DESTDIR)$(LIBDIR)
	ln -sf $(soname) $(DESTDIR)$(LIBDIR)/libevtserver.so
	echo "$$pkgconfig" >$(DESTDIR)$(LIBDIR)/pkgconfig/evtserver.pc
	$(foreach page,$(manuals),$(INSTALL) -D -m 644 $(page) $(call manual,$(page));)
	@test -n '$(DESTDIR)' || $(LDCONFIG) 2>/dev/null || true
manual = $(DESTDIR)$(MANDIR)/man$(subst .,,$(suffix $1))/$(notdir $1)

## uninstall: remove what install has put there
uninstall:
	rm -f $(headers:%=$(DESTDIR)$(INCLUDEDIR)/%)
	rm -f $(patsubst %,$(DESTDIR)$(LIBDIR)/%,libevtserver.a $(soname) \
		libevtserver.so pkgconfig/evtserver.pc) \
		$(foreach page,$(manuals),$(call manual,$(page)))

## check-install: install into build/install, build a program with it, run it
check-install: all
	@CC='$(CC)' MAKE='$(MAKE)' PKG_CONFIG='$(PKG_CONFIG)' test/check-install.sh

# ---- The rest ---------------------------------------------------------------

.PHONY: clean help
## clean: remove what was built
clean:
	rm -rf build libevtserver.a libevtserver.so $(soname)
	rm -f $(programs) $(examples) $(benches)

## help: this list
help:
	@test ! -t 1 || bold=$$(tput bold 2>/dev/null) plain=$$(tput sgr0 \
		2>/dev/null); sed -n "/^## /{ s/^## \([^:]*\): /\1                /; \
		s/^\(.\{15\}\) *\(.*\)/  $$bold\1$$plain \2/p; }" Makefile

-include $(wildcard $B/obj/*.d $B/obj/*/*.d $B/obj/*/*/*.d $B/test/obj/*.d $B/test/obj/*/*.d)

endif
