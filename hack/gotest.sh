#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: hack/gotest.sh NAME [FLAG...] PACKAGE...
#
# Runs go test under gotestsum, which prints one line per package, then the output of
# what failed, then the counts. It also writes a JUnit report to out/tests/NAME.xml;
# .ci/run adds those up.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
name="${1:?usage: hack/gotest.sh NAME [FLAG...] PACKAGE...}"
shift
# By its path: tool.sh turns cgo off for what it runs, and the race detector needs cgo.
gotestsum="$("$root/hack/tool.sh" --path gotestsum)"
report="$root/out/tests/$name.xml"
rm -f "$report" # a run that is killed leaves no report, and not an old one either
exec "$gotestsum" --format=pkgname --format-icons=text --format-hide-empty-pkg --hide-summary=skipped \
  --junitfile="$report" --junitfile-hide-empty-pkg -- "$@"
