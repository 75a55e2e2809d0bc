#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What `make e2e` does: builds the images, brings up a node (test/node) unless
# KUBECONFIG names a cluster, gives it the images, runs the suite, and takes the node
# down unless KEEP=1. Variables: docs/measurements.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out="$PWD/out"
node_dir="${M2M_E2E_NODE_DIR:-out/node}"
registry="${M2M_E2E_REGISTRY:+${M2M_E2E_REGISTRY%/}/}"
platforms="${PLATFORMS:-linux/$(go env GOARCH)}"
push=
if [ -n "$registry" ]; then push=1; fi
if [ -n "${KUBECONFIG:-}" ] && [ -z "$registry" ] && [ -z "${M2M_E2E_LOAD:-}" ]; then
  cat >&2 <<'END'
e2e: KUBECONFIG is set. Say how the cluster gets the images:
e2e:   M2M_E2E_REGISTRY=registry.example.com/team      they are pushed there, and pulled from there
e2e:   M2M_E2E_LOAD='kind load image-archive'          this command is run with each image's archive
END
  exit 1
fi

rm -rf "$out/e2e" "$out/e2e.json" "$out/e2e.txt"
mkdir -p "$out/e2e"
if [ -n "${KUBECONFIG:-}" ]; then
  programs="$(hack/controlplane/ensure.sh)" # for kubectl
else
  programs="$(test/node/build.sh)"
fi
PATH="${programs%%:*}:$(dirname "$(hack/tool.sh --path helm)"):$PATH"
export PATH

# tag PACKAGE prints a tag that changes with the program, so that a cluster that keeps
# what it has pulled never runs an older one.
tag() {
  local program="$out/e2e/program"
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$program" "$1"
  sha256sum "$program" | cut -c1-12
  rm "$program"
}
M2M_E2E_IMAGE="${registry}m2m-operator:e2e-$(tag ./cmd)"
M2M_E2E_PODS_IMAGE="${registry}m2m-e2e-pods:e2e-$(tag ./test/e2e/pods)"
export M2M_E2E_IMAGE M2M_E2E_PODS_IMAGE

make image IMG="$M2M_E2E_IMAGE" PLATFORMS="$platforms" PUSH="$push"
make install-manifest IMG="$M2M_E2E_IMAGE"
bin/image -tag="$M2M_E2E_PODS_IMAGE" -platform="$platforms" -build=./test/e2e/pods=/pods -o="$out/e2e/pods.tar" ${push:+-push}

cleanup=
if [ -z "${KUBECONFIG:-}" ]; then
  if [ "${KEEP:-}" != 1 ]; then trap 'go run ./test/node down -dir "$node_dir"' EXIT; fi
  go run ./test/node up -dir "$node_dir" -programs "$programs"
  go run ./test/node load -dir "$node_dir" dist/image.tar "$out/e2e/pods.tar"
  KUBECONFIG="$PWD/$node_dir/kubeconfig"
  case "$node_dir" in /*) KUBECONFIG="$node_dir/kubeconfig" ;; esac
else
  if [ "${KEEP:-}" != 1 ]; then cleanup=1; fi
  # shellcheck disable=SC2086 # a command with arguments
  if [ -n "${M2M_E2E_LOAD:-}" ]; then
    for archive in dist/image.tar "$out/e2e/pods.tar"; do $M2M_E2E_LOAD "$archive"; done
  fi
fi
export KUBECONFIG

status=0
# shellcheck disable=SC2086 # several flags
M2M_E2E=1 M2M_E2E_CLEANUP="$cleanup" M2M_E2E_OUT="$out" \
  hack/gotest.sh e2e -count=1 -timeout=40m ${TESTFLAGS:-} ./test/e2e || status=$?
if [ -f "$out/e2e.txt" ]; then cat "$out/e2e.txt"; fi
exit "$status"
