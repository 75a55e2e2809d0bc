# SPDX-License-Identifier: Apache-2.0
#
# Everything here needs Go, make, git and bash. `make test-race` also needs a C compiler,
# `make interop-local` a C compiler and Node.js, `make ui-test` Chromium and Node.js,
# `make prometheus-test` Prometheus, `make gateways-test` Linux, root, pip and iproute2.
# Tools are pinned under hack/tools and built on first use.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

IMG ?= m2m-operator:latest
PLATFORMS ?= linux/amd64,linux/arm64
FUZZTIME ?= 10s
# How long make soak runs.
SOAK ?= 2h
TESTFLAGS ?=
N ?= 10000
BENCHFLAGS ?=
PKG ?= ./...
# How many cases of faults run side by side. Most wait for caches half of the time.
FAULTS_PARALLEL ?= $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN))
# How many packages are tested side by side. Most wait for their control plane half of the time.
TEST_PACKAGES ?= $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN))

TOOL := hack/tool.sh
# The packages that decide and never talk to Kubernetes.
PURE := ./internal/delivery ./internal/egress ./internal/jwks ./internal/oauth ./internal/pace ./internal/refresh ./internal/render ./internal/text ./internal/traffic ./internal/verdict
# Finds or builds kube-apiserver, etcd and kubectl, and tells envtest where they are.
WITH_CONTROL_PLANE := KUBEBUILDER_ASSETS="$$(hack/controlplane/ensure.sh)"; export KUBEBUILDER_ASSETS

##@ General

.PHONY: help
help: ## Show this list.
	@awk 'BEGIN { FS = ":.*## "; printf "Usage: make TARGET [VARIABLE=value]\n" } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile
	@printf '\nVariables\n'
	@printf '  %-18s %s\n' \
	  IMG 'image name for image and install-manifest ($(IMG))' \
	  PLATFORMS 'platforms of the image ($(PLATFORMS))' \
	  FUZZTIME 'how long each fuzz target runs ($(FUZZTIME))' \
	  SOAK 'how long make soak runs ($(SOAK))' \
	  VERSION 'version for release and release-verify, such as v0.1.0' \
	  DATA 'version for upgrade-data, such as v0.1' \
	  PKG 'packages for test and test-race ($(PKG))' \
	  TESTFLAGS 'more flags for go test, such as -run=TestX' \
	  N 'clients of the benchmark ($(N))' \
	  BENCHFLAGS 'more flags for the benchmark, such as -only="cold start"' \
	  IMAGES 'image archives for node-load' \
	  SHORT '1 for faults: a part of the cases' \
	  KEEP '1 leaves the demo, or the node of e2e, running' \
	  KUBECONFIG 'for e2e: an existing cluster to use instead of a node' \
	  M2M_E2E_REGISTRY 'for e2e with KUBECONFIG: where to push the images, or' \
	  M2M_E2E_LOAD 'a command that gives the cluster an image archive' \
	  KUBEBUILDER_ASSETS 'a directory with kube-apiserver, etcd and kubectl to use instead of our own; KUBEBUILDER_ASSETS_OLDEST for test-oldest' \
	  CONTROLPLANE '"build" builds the control plane from modules even where it could be downloaded'

.PHONY: clean
clean: ## Remove what was built here; the cache in ~/.cache/m2m-operator stays.
	rm -rf bin out dist

##@ Development

# A program is told its version and its commit as in a release. What Go would record by itself depends on GOFLAGS and on
# whose directory it is.
GIT := git -c safe.directory='*'
STAMPED = github.com/m2m-operator/m2m-operator/internal/build
STAMP = -X $(STAMPED).Version=$(shell $(GIT) describe --tags --match='v[0-9]*' --dirty 2>/dev/null || echo devel) \
	-X $(STAMPED).Revision=$(shell $(GIT) rev-parse HEAD 2>/dev/null || echo unknown)
BUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='$(STAMP)'

.PHONY: build
build: ## Build the operator into bin/manager, and the kubectl plugin into bin/kubectl-m2m.
	$(BUILD) -o bin/manager ./cmd
	$(BUILD) -o bin/kubectl-m2m ./cmd/kubectl-m2m

.PHONY: generate
generate: ## Generate the deep copy methods of the API types.
	$(TOOL) controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/...

.PHONY: manifests
manifests: ## Generate the CRDs from the API types and the operator's role from its RBAC markers.
	rm -rf config/crd/bases
	$(TOOL) controller-gen crd paths=./api/... output:crd:dir=config/crd/bases
	$(TOOL) controller-gen rbac:roleName=manager-role paths=./internal/controller/... output:rbac:dir=config/rbac

.PHONY: chart
chart: manifests ## Generate the Helm chart's templates from config/chart, built with kustomize.
	go run ./hack/chart

.PHONY: docs-reference
docs-reference: ## Generate docs/reference/api.md from the API types' comments.
	mkdir -p docs/reference
	$(TOOL) crd-ref-docs --log-level=ERROR --source-path=api --config=hack/crd-ref-docs.yaml \
	  --renderer=markdown --output-path=docs/reference/api.md

.PHONY: fmt
fmt: ## Format all Go code and sort imports.
	$(TOOL) golangci-lint fmt

.PHONY: vet
vet: ## Run go vet.
	go vet ./...

.PHONY: lint
lint: ## Run golangci-lint with the import rules and the Kubernetes API linter, also in the modules below this one.
	@hack/lint.sh

.PHONY: vulncheck
vulncheck: ## Look for known vulnerabilities in the code that the operator calls, if the database vuln.go.dev can be reached.
	@hack/vulncheck.sh

.PHONY: verify
verify: ## Check that generated files, go.mod files, formatting and manifests are up to date.
	hack/verify.sh

.PHONY: lint-workflows
lint-workflows: ## Check the workflows of .github with actionlint.
	$(TOOL) actionlint -shellcheck= -pyflakes=

##@ Tests

.PHONY: controlplane
controlplane: ## Find or build kube-apiserver, etcd and kubectl, and print their directory.
	@hack/controlplane/ensure.sh

# The scenarios of test/faults, test/provision, test/prometheus and test/gateways take minutes and have sections of their own in .ci/run.
# So have test/load and test/attacks, which measure on the real clock and so cannot share the machine with other packages.
# test/e2e does nothing without a node. A package without tests would only cost two starts of the go command, which count
# that nothing covers it. Without cgo, as the programs are released, no test is linked with a C compiler.
.PHONY: test
test: ## Run all tests but those of e2e, faults, load-test, provision-test, prometheus-test and gateways-test against a real API server; coverage goes to out/cover.out.
	@$(WITH_CONTROL_PLANE); mkdir -p out; \
	packages="$(if $(filter ./...,$(PKG)),$$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | grep -vE '/test/(attacks|e2e|faults|gateways|load|prometheus|provision)$$'),$(PKG))"; \
	CGO_ENABLED="$${CGO_ENABLED:-0}" hack/gotest.sh test -p=$(TEST_PACKAGES) -timeout=20m -coverprofile=out/cover.out $(TESTFLAGS) $$packages
	$(if $(filter ./...,$(PKG)),@cd hack/image && GOWORK=off ../gotest.sh image ./...)
	$(if $(filter ./...,$(PKG)),@cd hack/release && GOWORK=off ../gotest.sh release ./...)
	$(if $(filter ./...,$(PKG)),@cd test/alerts && GOWORK=off ../../hack/gotest.sh alerts ./...)
	$(if $(filter ./...,$(PKG)),@cd test/gitops/health && GOWORK=off ../../../hack/gotest.sh gitops-health -count=1 ./...)

.PHONY: load-test
load-test: ## Run hundreds of clients and the attacks of hostile tenants on the real clock, one after the other; make attacks runs the latter in full size.
	@$(WITH_CONTROL_PLANE); hack/gotest.sh load -p=1 -count=1 -timeout=20m $(TESTFLAGS) ./test/load ./test/attacks

.PHONY: test-oldest
test-oldest: ## Run what depends on the API server's version on the oldest supported Kubernetes.
	@KUBEBUILDER_ASSETS="$$(hack/controlplane/ensure.sh oldest)"; export KUBEBUILDER_ASSETS; \
	hack/oldest.sh

.PHONY: test-race
test-race: ## Run all tests with the race detector (needs a C compiler).
	@$(WITH_CONTROL_PLANE); \
	CGO_ENABLED=1 hack/gotest.sh test-race -race -timeout=40m $(TESTFLAGS) $(PKG)

.PHONY: cover
cover: ## Show the coverage of the pure packages.
	@hack/gotest.sh cover -cover $(PURE)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME.
	@hack/fuzz.sh '$(FUZZTIME)'

# What the suites of the policies and rules send is judged again by policies and rules that lack something.
.PHONY: mutants
mutants: ## Take each clause of the admission policies and CEL rules away, one at a time: a test must notice.
	@$(WITH_CONTROL_PLANE); rm -rf out/writes; M2M_RECORD_WRITES='$(CURDIR)/out/writes' \
	  hack/gotest.sh mutants-writes -count=1 -timeout=10m \
	  -run='^Test(Admission|EveryClause|EverySampleIsTaken|EveryWriteIsFenced|Metadata.*|Refresh.*|WhatWas.*|AnOlder.*|Annotations.*|Changes.*)$$' \
	  ./test/docs ./test/fences ./test/samples
	@cd test/mutants && M2M_RECORD_WRITES='$(CURDIR)/out/writes' GOWORK=off ../../hack/gotest.sh mutants -count=1 -timeout=10m ./...

.PHONY: interop
interop: ## Run the interoperability suite against the server that M2M_INTEROP_ISSUER and its relatives name.
	@$(WITH_CONTROL_PLANE); \
	rm -f out/interop.json out/interop.txt; status=0; \
	M2M_INTEROP_NAMED=1 M2M_INTEROP_OUT='$(CURDIR)/out' \
	  hack/gotest.sh interop -count=1 -timeout=20m $(TESTFLAGS) ./test/interop/... || status=$$?; \
	if [ -f out/interop.txt ]; then cat out/interop.txt; fi; exit $$status

.PHONY: interop-local
interop-local: ## Run the interoperability suite against oidc-provider and Ory Hydra (needs Node.js and a C compiler).
	@command -v npm >/dev/null || { \
	  echo 'make interop-local needs Node.js and npm, and there is no npm here: on Debian, apt-get install nodejs npm' >&2; exit 1; }
	@command -v cc >/dev/null || { \
	  echo 'make interop-local needs a C compiler, and there is no cc here: on Debian, apt-get install gcc libc6-dev' >&2; exit 1; }
	@npm ci --no-audit --no-fund --prefix test/interop/oidc-provider
	@$(WITH_CONTROL_PLANE); hydra="$$($(TOOL) --path hydra)"; \
	M2M_INTEROP_NODE=1 M2M_INTEROP_HYDRA="$$hydra" M2M_INTEROP_OUT='$(CURDIR)/out' \
	  hack/gotest.sh interop-local -count=1 -timeout=20m $(TESTFLAGS) ./test/interop/...

.PHONY: verifiers-test
verifiers-test: ## Verify tokens with the examples for web servers and the code of docs/verifying, as far as servers and languages are installed.
	@M2M_VERIFIERS=1 hack/gotest.sh verifiers -count=1 -timeout=30m $(TESTFLAGS) ./test/verifiers/...

# npm brings axe-core, which only the tests use.
UI_TEST := command -v npm >/dev/null || { echo 'the tests of the page need Node.js and npm: on Debian, apt-get install nodejs npm' >&2; exit 1; }; \
	npm ci --no-audit --no-fund --prefix test/ui && cd test/ui && GOWORK=off

.PHONY: ui-test
ui-test: ## Test the page of kubectl m2m ui in Chromium (needs Node.js and Chromium).
	@$(UI_TEST) ../../hack/gotest.sh ui -count=1 -timeout=15m $(TESTFLAGS) ./...

.PHONY: ui-screenshots
ui-screenshots: ## Draw the pictures of the page for docs/images again (needs Node.js, Chromium and the font Inter).
	@mkdir -p docs/images; pictures='$(CURDIR)/docs/images'; $(UI_TEST) M2M_UI_PICTURES="$$pictures" go test -count=1 -run='^TestPictures$$' .

.PHONY: upgrade-data
upgrade-data: ## Write the data of today's operator to test/upgrade/testdata/DATA, such as v0.1, to test upgrades from it.
	@$(WITH_CONTROL_PLANE); M2M_UPGRADE_DATA='$(or $(DATA),$(error say which version the data is of: DATA=v0.1))' \
	  go test -count=1 -run='^TestGenerate$$' ./test/upgrade

.PHONY: provision-test
provision-test: ## Run the provisioning scenarios against the servers that M2M_PROVISION_LOGTO_ENDPOINT and its relatives name, or against stand-ins.
	@$(WITH_CONTROL_PLANE); rm -f out/provision.json; \
	M2M_PROVISION_OUT='$(CURDIR)/out' \
	  hack/gotest.sh provision -count=1 -timeout=30m $(TESTFLAGS) ./test/provision/...

.PHONY: prometheus-test
prometheus-test: ## Let a real Prometheus scrape the operator: every query of the dashboard shows something, and alerts fire (needs prometheus).
	@$(WITH_CONTROL_PLANE); \
	M2M_PROMETHEUS=1 hack/gotest.sh prometheus -count=1 -timeout=10m $(TESTFLAGS) ./test/prometheus

# inside.sh keeps what listens at all addresses in a network namespace of its own.
.PHONY: gateways-test
gateways-test: build ## Check tokens at a real Envoy Gateway, a real istiod and a real Envoy (needs Linux, root, pip and iproute2). M2M_GATEWAYS_ROTATIONS=20 makes the long run of a quarter of an hour.
	@$(WITH_CONTROL_PLANE); M2M_GATEWAYS="$$(test/gateways/parts.sh)"; export M2M_GATEWAYS; rm -f out/gateways.json; \
	hack/gotest.sh gateways -count=1 -timeout=25m -exec='$(CURDIR)/test/gateways/inside.sh' $(TESTFLAGS) ./test/gateways

.PHONY: bench
bench: build ## Measure the operator with N clients against a floor of the same run, an hour and more; N=500 is a quick look.
	@$(WITH_CONTROL_PLANE); mkdir -p bin; go build -o bin/bench ./test/bench && bin/bench -n $(N) $(BENCHFLAGS)

.PHONY: bench-counts
bench-counts: build ## Check that the counts of a small benchmark (mints, writes, reads) are exactly what they must be.
	@$(WITH_CONTROL_PLANE); mkdir -p bin; go build -o bin/bench ./test/bench && \
	bin/bench -n 200 -guard -only 'cold start,restart,steady state,leader killed,key rotation'

.PHONY: attacks
attacks: ## Run all attacks by hostile tenants at once, in full size, for 10 minutes; make load-test runs them smaller.
	@$(WITH_CONTROL_PLANE); rm -f out/attacks.json out/attacks.txt; status=0; \
	M2M_ATTACKS=full hack/gotest.sh attacks -count=1 -timeout=30m $(TESTFLAGS) ./test/attacks || status=$$?; \
	if [ -f out/attacks.txt ]; then cat out/attacks.txt; fi; exit $$status

.PHONY: faults
faults: ## Kill and disturb the operator at each of its requests, an hour and more; SHORT=1 takes some cases of each kind, M2M_FAULTS_SEED=n the same again.
	@$(WITH_CONTROL_PLANE); rm -f out/faults.json; \
	SHORT='$(SHORT)' M2M_TROUBLES=$(if $(SHORT),4,100) hack/gotest.sh faults -p=2 -count=1 -timeout=6h -parallel=$(FAULTS_PARALLEL) \
	  -skip='^TestOthersStayOnTime$$' $(TESTFLAGS) ./test/faults ./test/attacks
	@hack/gotest.sh faults-provisioning -count=1 -timeout=2h -run='^(TestAnythingHappens|TestKilledAnywhere|TestFailsAnywhere)$$' ./internal/provision -every=1 -sequences=$(if $(SHORT),2000,50000)
	@hack/gotest.sh faults-traffic -count=1 -timeout=2h -run='^TestOthersDelayAHealthyTenantWithinABound$$' ./internal/traffic -crowds=$(if $(SHORT),24,500)

.PHONY: soak
soak: N = 2000
soak: ## Let N clients live for SOAK, two hours by default, while random things fail: the operator must not use more in the end than at first.
	@$(WITH_CONTROL_PLANE); rm -f out/soak.json out/soak.log; \
	M2M_SOAK='$(SOAK)' M2M_SOAK_CLIENTS='$(N)' hack/gotest.sh soak -count=1 -timeout=24h -run='^TestSoak$$' $(TESTFLAGS) ./test/attacks

.PHONY: e2e
e2e: ## Run the end-to-end suite on a real node, or on the cluster of KUBECONFIG, and measure. KEEP=1 leaves the node running.
	@KEEP='$(KEEP)' TESTFLAGS='$(TESTFLAGS)' test/e2e/run.sh

##@ Try it

.PHONY: demo
demo: build ## Run the whole story, cart calling payment, on a real API server, and a gateway if there is an Envoy. KEEP=1 leaves it running.
	@CGO_ENABLED=0 go build -trimpath -o bin/demo ./test/demo
	@$(WITH_CONTROL_PLANE); bin/demo

.PHONY: node-up
node-up: ## Build and start a one-node Kubernetes in namespaces of its own (needs Linux and root).
	@programs="$$(test/node/build.sh)"; go run ./test/node up -programs "$$programs"

.PHONY: node-load
node-load: ## Load the image archives of IMAGES into the node.
	@go run ./test/node load $(IMAGES)

.PHONY: node-down
node-down: ## Stop the node and remove everything but its logs.
	@go run ./test/node down

##@ Release

# What hack/release is called with: VERSION must be the tag of HEAD, unless ALLOW_UNTAGGED=1,
# which also allows ONLY=linux/amd64 to try one platform.
RELEASE = mkdir -p bin && (cd hack/release && GOWORK=off CGO_ENABLED=0 go build -o ../../bin/release .) && bin/release
RELEASE_FLAGS = -version='$(VERSION)' -only='$(ONLY)' $(if $(filter 1,$(ALLOW_UNTAGGED)),-allow-untagged)

.PHONY: release
release: ## Make everything that the release VERSION consists of in dist/VERSION; ALLOW_UNTAGGED=1 tries it without the tag.
	@$(RELEASE) build $(RELEASE_FLAGS)

.PHONY: release-verify
release-verify: ## Make the release VERSION twice, in different directories, and compare; the result is in dist/VERSION. CACHED=1 does not compile anew.
	@$(RELEASE) verify $(RELEASE_FLAGS) $(if $(filter 1,$(CACHED)),-cached)

.PHONY: release-push
release-push: ## Check dist/VERSION against its checksums, and push its image and its chart to their registry, as docker login allows.
	@$(RELEASE) push -from='dist/$(VERSION)'

.PHONY: image
image: ## Build the container image for PLATFORMS into dist/image.tar, without a container engine; PUSH=1 pushes it.
	@mkdir -p bin && (cd hack/image && GOWORK=off go build -o ../../bin/image .)
	@commit="$$(git -c safe.directory='*' log -1 --format='%H %ct' 2>/dev/null || echo unknown 0)"; \
	bin/image -tag='$(IMG)' -platform='$(PLATFORMS)' -build=./cmd=/manager -o=dist/image.tar $(if $(filter 1,$(PUSH)),-push) \
	  -created="$${commit#* }" -label=org.opencontainers.image.revision="$${commit% *}" \
	  -label=org.opencontainers.image.title=m2m-operator -label=org.opencontainers.image.licenses=Apache-2.0 \
	  -label=org.opencontainers.image.source=https://github.com/m2m-operator/m2m-operator

.PHONY: install-manifest
install-manifest: manifests ## Write dist/install.yaml: the CRDs, the roles and the operator, with IMG as its image.
	mkdir -p dist
	$(TOOL) kustomize build config/default | sed 's#image: controller:latest#image: $(IMG)#' >dist/install.yaml
