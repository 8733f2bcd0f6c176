# Two commands do everything on a fresh Debian 12 machine with Go:
#   make demo   the main job on real input
#   make test   everything that CI runs
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
export CGO_ENABLED = 0

.PHONY: help build lint check test demo demo-vm demo-hosts bench bench-full bench-peers bench-scale profile man deb setup unit e2e sim chaos clean

# sheep, dog and sheep-libvirt, in bin.
build:
	mkdir -p bin
	$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/sheep ./cmd/dog ./cmd/sheep-libvirt

# Build, format, vet, tidy.
lint: build
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'not gofmt-ed:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff

# What to run before a commit: no root, no Debian packages needed.
check: lint
	$(GO) test -short -timeout 5m $$($(GO) list ./... | grep -v '^sheepdog/tests/')

# The nodes as they are shipped play few seeds of simulated clusters; 200 seeds are
# played by a build with few partitions, see make sim.
unit:
	SEEDS=3 $(GO) test -timeout 15m $$($(GO) list ./... | grep -v '^sheepdog/tests/')
	$(MAKE) sim SEEDS=200 SIMTIME=15m

# The Debian packages that demos, tests and benchmarks use; needs root.
setup:
	scripts/setup.sh

# Random failures of simulated clusters: SEEDS=N plays seeds 1 to N and says what
# was played; half a second each on two cores.
SEEDS   ?= 20
SIMTIME ?= 24h
sim:
	SEEDS=$(SEEDS) $(GO) test -count=1 -v -tags fewpartitions -timeout $(SIMTIME) -run 'TestSeeds$$' ./internal/sim/world | \
		awk '!/^=== |^ *--- PASS/ { print } /^ok/ { ok = 1 } END { exit !ok }'

# Faults of real processes, networks and disks; needs root. SEED=N chooses them,
# RUN=PATTERN the tests, ROUNDS=N how often, CHAOS=short the form of make test.
SEED   ?=
RUN    ?= .*
ROUNDS ?=
CHAOS  ?= long
chaos: build
	CHAOS=$(CHAOS) SEED=$(SEED) ROUNDS=$(ROUNDS) $(GO) test -count=1 -timeout 2h -v -run '^($(RUN))$$' ./tests/chaos

# The S3 server of the end-to-end tests, from a module of its own: nothing else
# needs it. Without it, where its modules cannot be had, its test is skipped aloud.
bin/versitygw: tests/s3/go.mod tests/s3/go.sum
	-cd tests/s3 && $(GO) build -trimpath -o ../../bin/versitygw github.com/versity/versitygw/cmd/versitygw

# The end-to-end tests.
e2e: build bin/versitygw
	$(GO) test -count=1 -p 1 -timeout 12m ./tests/...

# Everything that CI runs.
test: setup lint unit e2e

# The main job on real input: a guest on a clone, nodes that die under it.
demo: setup build
	scripts/demo.sh

# Guests through libvirt, step by step.
demo-vm: setup build
	scripts/guest-image.sh cache/guest.raw
	tests/demo-vm/demo.sh cache/guest.raw

# The package on three machines with a systemd of their own: installation, upgrade under
# a client's writes, a power cut, reboots, removal. Minutes, where guests are emulated, and
# the machine is to be quiet.
demo-hosts: setup build
	scripts/guest-image.sh cache/guest.raw
	scripts/demo-hosts.sh

# Our cluster beside what the machine can do, in one run; about two minutes. ARGS
# has more options: make bench ARGS=-h
bench: build
	$(GO) build -trimpath -o bin/bench ./bench
	bin/bench run $(ARGS)

# The same with enough rounds for medians, about half an hour, kept for the commit.
bench-full: build
	$(GO) build -trimpath -o bin/bench ./bench
	bin/bench run -mode full -jobs all -out bench/results $(ARGS)

# Beside a Ceph of three OSDs, if its Debian packages are installed; they are not
# among those that make setup installs.
bench-peers: build
	@if ! command -v ceph-osd >/dev/null || ! command -v ceph-mon >/dev/null || ! command -v rbd >/dev/null; then \
	  echo 'bench-peers: skipped, Ceph is not installed: apt-get install --no-install-recommends ceph-mon ceph-mgr ceph-osd ceph-common'; \
	else $(GO) build -trimpath -o bin/bench ./bench && bin/bench run -systems sheep,nbdkit,ceph -control=false $(ARGS); fi

# Cost per operation and memory while what a cluster holds and serves grows, part by part:
# make bench-scale ARGS="-parts storm"
bench-scale: build
	$(GO) build -trimpath -o bin/bench ./bench
	bin/bench scale $(ARGS)

# CPU, mutex and allocation profiles of three sheep under a job of the benchmark.
JOB ?= rw4k-q16
profile: build
	$(GO) build -trimpath -o bin/bench ./bench
	bin/bench profile -job $(JOB) $(ARGS)

# The man pages of dog, in bin/man.
man: build
	mkdir -p bin/man
	bin/dog man --dir bin/man

# A Debian package.
deb: build
	packaging/deb.sh

# What there is to make.
help:
	@awk '/^# / { text = text " " substr($$0, 3) } /^$$/ { text = "" } \
		/^[a-z][a-z0-9-]*:/ && text { sub(":.*", ""); printf "%-12s%s\n", $$0, text }' Makefile

clean:
	rm -rf bin
