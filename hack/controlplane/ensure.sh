#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: hack/controlplane/ensure.sh [oldest]
#
# Prints the directory that holds kube-apiserver, etcd and kubectl for tests and
# the demo, and makes it first if necessary. It takes the first of these that works:
#
#   1. $KUBEBUILDER_ASSETS, if set;
#   2. the result of an earlier build;
#   3. setup-envtest, which downloads finished binaries where its index answers;
#   4. a build from Go modules, pinned by go.mod in this directory: it needs the Go
#      module proxy and nothing else.
#
# "oldest" means the oldest Kubernetes that the operator supports, pinned by oldest/go.mod.
# Its directory has the API server of that version, with etcd and kubectl of the other;
# $KUBEBUILDER_ASSETS_OLDEST replaces $KUBEBUILDER_ASSETS.
#
# All progress goes to standard error. CONTROLPLANE=build skips step 3.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=hack/buildonce.sh
. "$here/../buildonce.sh"
# shellcheck source=hack/controlplane/stamp.sh
. "$here/stamp.sh"

module="$here"
assets=KUBEBUILDER_ASSETS
case "${1:-}" in
  "") ;;
  oldest)
    module="$here/oldest"
    assets=KUBEBUILDER_ASSETS_OLDEST
    stamp "$module"
    ;;
  *)
    say "usage: hack/controlplane/ensure.sh [oldest]"
    exit 2
    ;;
esac

# How long setup-envtest may take to reach its index, and then to download, in seconds.
index_timeout=20
download_timeout=600

binaries="kube-apiserver etcd kubectl"

# complete DIR reports whether a directory holds all three programs.
complete() {
  local binary
  for binary in $binaries; do
    if [ ! -x "$1/$binary" ]; then return 1; fi
  done
}

# run_for SECONDS COMMAND... runs a command and stops it when its time is up.
run_for() {
  local seconds="$1" pid watch status=0
  shift
  "$@" &
  pid=$!
  (
    while [ "$seconds" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do
      sleep 1
      seconds=$((seconds - 1))
    done
    kill "$pid" 2>/dev/null
  ) >/dev/null 2>&1 &
  watch=$!
  wait "$pid" || status=$?
  kill "$watch" 2>/dev/null || true
  wait "$watch" 2>/dev/null || true
  return "$status"
}

# from_envtest prints the directory of finished binaries, or fails quietly.
from_envtest() {
  local setup series="1.$minor.x" dir
  setup="$("$here/../tool.sh" --path setup-envtest)" || return 1
  if dir="$("$setup" use --installed-only -p path "$series" 2>/dev/null)" && complete "$dir"; then
    echo "$dir"
    return
  fi
  # Listing only reads the index, so a short time limit is enough.
  if [ -z "$(run_for "$index_timeout" "$setup" list "$series" 2>/dev/null)" ]; then
    say "setup-envtest's index does not answer here: building from Go modules instead"
    return 1
  fi
  say "downloading Kubernetes $series with setup-envtest"
  dir="$(run_for "$download_timeout" "$setup" use -p path "$series")" && complete "$dir" || return 1
  echo "$dir"
}

# build DIR NAME PACKAGE builds one program of the module into a directory.
build() {
  local total
  cd "$module"
  total="$(count_packages "$3")"
  go_build "$2" "$1/$2" "$total" -ldflags "$ldflags" "$3"
}

# build_all DIR builds the three binaries into a directory, one after the other: two
# linkers side by side need more memory than many machines have.
build_all() {
  local start=$SECONDS
  say "building Kubernetes $version and etcd from Go modules; this is done once and kept in"
  say "$cache_root. It takes about 12 minutes on 2 cores when the Go build cache is empty and"
  say "under a minute when it is warm, about 3 GB of memory to link, and up to 4 GB of disk."
  say "  fetching modules (about 100 MB to download if they are not there)"
  build "$1" etcd go.etcd.io/etcd/server/v3
  build "$1" kubectl k8s.io/kubernetes/cmd/kubectl
  build "$1" kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
  say "control plane built in $((SECONDS - start)) s"
}

# build_oldest DIR builds the oldest API server into a directory, and copies the rest of
# the control plane.
build_oldest() {
  local start=$SECONDS
  say "building the API server of Kubernetes $version from Go modules; this is done once and kept in"
  say "$cache_root. It takes about 8 minutes on 2 cores when the Go build cache is empty."
  build "$1" kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
  cp "$newest/etcd" "$newest/kubectl" "$1/"
  say "API server built in $((SECONDS - start)) s"
}

if [ -n "${!assets:-}" ]; then
  if ! complete "${!assets}"; then
    say "$assets=${!assets} does not hold all of: $binaries"
    exit 1
  fi
  echo "${!assets}"
  exit
fi

platform="$(go env GOOS)-$(go env GOARCH)"
built="$cache_root/controlplane/$version-$platform-$(fingerprint "$ldflags" "$module/go.mod" "$module/go.sum")"
if ! complete "$built"; then
  if [ -d "$built" ]; then
    say "$built is damaged: remove it and try again"
    exit 1
  fi
  if [ "${CONTROLPLANE:-}" != build ] && dir="$(from_envtest)"; then
    echo "$dir"
    exit
  fi
  fill=build_all
  if [ "$module" != "$here" ]; then
    fill=build_oldest
    newest="$("$here/ensure.sh")" # before the lock: this may build, too
  fi
  (with_lock "$cache_root/controlplane" build_in_place "$built" "$fill")
fi
echo "$built"
