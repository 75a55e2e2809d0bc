#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the programs of a node and prints the two directories that hold them, separated
# by a colon. The first has kube-apiserver, etcd and kubectl, as tests use them
# (hack/controlplane). The second has kubelet, kube-controller-manager, kube-scheduler
# and kube-proxy, and images of CoreDNS and pause; it is built once from Go modules and
# kept in the user's cache. containerd, runc, the CNI plugins, nft and ip come from
# Debian: root with apt-get installs those that are missing.
#
# All progress goes to standard error.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
hack="$(cd "$here/../../hack" && pwd)"
# shellcheck source=hack/buildonce.sh
. "$hack/buildonce.sh"
# shellcheck source=hack/controlplane/stamp.sh
. "$hack/controlplane/stamp.sh"

if [ "$(uname -s)" != Linux ]; then
  say "a node needs Linux: set KUBECONFIG to a cluster of yours instead"
  exit 1
fi
if ! grep -q "k8s.io/kubernetes $version\\b" "$here/kubernetes/go.mod"; then
  say "test/node/kubernetes/go.mod does not require k8s.io/kubernetes $version as hack/controlplane/go.mod does"
  exit 1
fi

missing_packages() {
  PATH="$PATH:/usr/sbin:/sbin"
  command -v containerd >/dev/null && command -v ctr >/dev/null || echo containerd
  command -v runc >/dev/null || echo runc
  [ -x /usr/lib/cni/ptp ] && [ -x /usr/lib/cni/host-local ] || echo containernetworking-plugins
  command -v nft >/dev/null || echo nftables
  command -v ip >/dev/null || echo iproute2
}

# install_packages PACKAGE... installs Debian packages and starts none of their services.
install_packages() {
  local policy=/usr/sbin/policy-rc.d
  say "installing $* with apt-get"
  if [ ! -e "$policy" ]; then
    # shellcheck disable=SC2064 # now, on purpose: the name is a local
    trap "rm -f '$policy'" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
  } >&2
}

ensure_packages() {
  local missing
  missing="$(missing_packages)"
  if [ -z "$missing" ]; then return; fi
  # shellcheck disable=SC2086 # words, one a package
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then (install_packages $missing) || true; fi
  missing="$(missing_packages)"
  if [ -n "$missing" ]; then
    say "a node needs programs of these Debian packages, which are not here:" $missing
    say "install them (apt-get install --no-install-recommends), or set KUBECONFIG to a cluster of yours"
    exit 1
  fi
}

# build_all DIR builds everything into a directory, one program after the other: two
# linkers side by side need more memory than many machines have.
build_all() {
  local start=$SECONDS package name total
  say "building the parts of a Kubernetes $version node from Go modules; this is done once and kept in"
  say "$cache_root. On 2 cores it takes about 5 minutes when kube-apiserver has been built before,"
  say "and 1 to 3 minutes when the Go build cache is warm."
  for package in \
    "$here/kubernetes k8s.io/kubernetes/cmd/kube-controller-manager" \
    "$here/kubernetes k8s.io/kubernetes/cmd/kube-scheduler" \
    "$here/kubernetes k8s.io/kubernetes/cmd/kube-proxy" \
    "$here/kubernetes k8s.io/kubernetes/cmd/kubelet" \
    "$here/coredns github.com/m2m-operator/m2m-operator/test/node/coredns" \
    "$here/pause github.com/m2m-operator/m2m-operator/test/node/pause"; do
    cd "${package% *}"
    package="${package##* }" name="${package##*/}"
    total="$(count_packages "$package")"
    go_build "$name" "$1/$name" "$total" -ldflags "$ldflags" "$package"
  done
  cd "$hack/image"
  for name in coredns pause; do
    go run . -tag "localhost/$name:1" -platform "linux/$(go env GOARCH)" -file "$1/$name=/$name" -o "$1/$name.tar" >&2
    rm "$1/$name"
  done
  say "node built in $((SECONDS - start)) s"
}

ensure_packages >&2
controlplane="$("$hack/controlplane/ensure.sh")"
built="$cache_root/node-parts/$version-linux-$(go env GOARCH)-$(fingerprint "$ldflags $(declare -f build_all)" \
  "$here"/{kubernetes,coredns}/go.{mod,sum} "$here"/{coredns,pause}/main.go)"
if [ ! -d "$built" ]; then
  (with_lock "$cache_root/node-parts" build_in_place "$built" build_all)
fi
echo "$controlplane:$built"
