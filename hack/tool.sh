#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: hack/tool.sh NAME [ARGUMENT...]
#
# Runs a developer tool that the module hack/tools/NAME pins. It builds the tool on
# first use and keeps it in the user's cache under a hash of the module files and the
# Go version: a changed pin causes a new build, switching branches does not.
# `hack/tool.sh --path NAME` only builds the tool and prints its path. A tool that
# needs build tags or a C compiler says so in a build.sh of its module.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=hack/buildonce.sh
. "$here/buildonce.sh"

only_path=
if [ "${1:-}" = --path ]; then
  only_path=1
  shift
fi
name="${1:?usage: hack/tool.sh [--path] NAME [ARGUMENT...]}"
shift
module="$here/tools/$name"
if [ ! -f "$module/go.mod" ]; then
  say "no tool $name: there is $(cd "$here/tools" && echo *)"
  exit 2
fi

platform="$(go env GOVERSION GOOS GOARCH | tr '\n' ' ')"
dir="$cache_root/tools/$name-$(fingerprint "$platform" "$here/buildonce.sh" "$module"/*)"

build_tool() {
  local total package=tool # the pattern "tool" is what the go.mod file's tool line names
  if [ -f "$module/main.go" ]; then package=.; fi
  cd "$module"
  # shellcheck disable=SC1091 # few modules have one
  if [ -f build.sh ]; then . ./build.sh; fi
  say "building $name (once; it is then kept in $cache_root)"
  total="$(count_packages "$package")"
  go_build "$name" "$1/$name" "$total" -ldflags '-s -w' "$package"
}

if [ ! -x "$dir/$name" ]; then
  (with_lock "$cache_root/tools" build_in_place "$dir" build_tool)
fi
if [ -n "$only_path" ]; then
  echo "$dir/$name"
  exit
fi
exec "$dir/$name" "$@"
