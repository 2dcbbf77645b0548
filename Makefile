# make            build bin/sluice
# make run        build and start with the embedded demo: no root, no other package
# make test       install what the tests need and run every ring

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 1h

# Packages installed without cgo and go.mod's toolchain only: a build needs Go, git and make.
export GOTOOLCHAIN ?= local
export PATH := $(CURDIR)/.cache/node/node_modules/.bin:$(PATH)

.PHONY: build run test test-deps lint unit kernel e2e generate fuzz bench perf test-differential test-kernels audit clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/sluice ./cmd/sluice

run: build
	@exec ./bin/sluice run

test-deps:
	@.ci/deps

test: test-deps build
	@$(GO) run ./internal/testrun -summary bin/test-summary

# Single rings, for the developer at work.
lint unit kernel e2e: build
	@$(GO) run ./internal/testrun -rings $(subst lint,house,$@)

# What is generated and committed: BPF objects (clang-19) and the web phone's assets (npm).
generate: test-deps
	$(GO) generate ./bpf/...
	npm --prefix appliance/webphone run -s build

# Long things, outside make test.
fuzz:
	@$(GO) run ./internal/testrun -rings fuzz -fuzztime $(FUZZTIME)

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./dataplane/... ./bpf/...

# The kernel programs against pion/srtp, packet by packet (root).
test-differential:
	SLUICE_DIFFERENTIAL_PACKETS=10000000 $(GO) test -count=1 -run Differential -timeout 4h -v ./bpf

# The packet tables on Debian's 6.1 and 6.12 kernels in an emulated guest (QEMU,
# no KVM); what measures time or needs millions of packets is left out.
KERNELS ?= 6.1 6.12
GUEST_TESTS ?= ^Test(Transforms|VLAN|TransmitBack|Vector.*|Names|Verdicts|Growth|ForwardingOff|Control|VerifierCost)$$
test-kernels:
	@rm -rf .cache/kernels && mkdir -p .cache/kernels
	CGO_ENABLED=0 $(GO) test -c -o .cache/kernels/bpf.test ./bpf
	@cp bpf/verifier.json .cache/kernels/
	@echo 'bpf.test -test.v -test.timeout=25m -test.run=$(GUEST_TESTS)' >.cache/kernels/run
	@for k in $(KERNELS); do echo "=== kernel $$k"; perf/guest/boot.sh $$k .cache/kernels || exit 1; done

perf: build
	./bin/sluice perf run --short

# Asks advisory databases on the internet; fails when they cannot be reached.
audit:
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...
	npm --prefix appliance/webphone audit

clean:
	rm -rf bin .cache
