#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
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
# All progress goes to standard error. CONTROLPLANE=build skips step 3.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=hack/buildonce.sh
. "$here/../buildonce.sh"
# shellcheck source=hack/controlplane/stamp.sh
. "$here/stamp.sh"

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

# build_all DIR builds the three binaries into a directory, one after the other: two
# linkers side by side need more memory than many machines have.
build_all() {
  local start=$SECONDS package name total
  say "building Kubernetes $version and etcd from Go modules; this is done once and kept in"
  say "$cache_root. It takes about 12 minutes on 2 cores when the Go build cache is empty and"
  say "under a minute when it is warm, about 3 GB of memory to link, and up to 4 GB of disk."
  say "  fetching modules (about 100 MB to download if they are not there)"
  cd "$here"
  for package in go.etcd.io/etcd/server/v3=etcd k8s.io/kubernetes/cmd/kubectl k8s.io/kubernetes/cmd/kube-apiserver; do
    name="${package##*/}" name="${name#*=}" package="${package%%=*}"
    total="$(count_packages "$package")"
    go_build "$name" "$1/$name" "$total" -ldflags "$ldflags" "$package"
  done
  say "control plane built in $((SECONDS - start)) s"
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  if ! complete "$KUBEBUILDER_ASSETS"; then
    say "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS does not hold all of: $binaries"
    exit 1
  fi
  echo "$KUBEBUILDER_ASSETS"
  exit
fi

platform="$(go env GOOS)-$(go env GOARCH)"
built="$cache_root/controlplane/$version-$platform-$(fingerprint "$ldflags" "$here/go.mod" "$here/go.sum")"
if ! complete "$built"; then
  if [ -d "$built" ]; then
    say "$built is damaged: remove it and try again"
    exit 1
  fi
  if [ "${CONTROLPLANE:-}" != build ] && dir="$(from_envtest)"; then
    echo "$dir"
    exit
  fi
  (with_lock "$cache_root/controlplane" build_in_place "$built" build_all)
fi
echo "$built"
