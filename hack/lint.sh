#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: hack/lint.sh [FLAG...]
#
# What `make lint` does: it runs golangci-lint with .golangci.yml in this module and in
# each module below it that has code of ours. All modules are looked at before it fails.
# Left out are modules that only pin a program or libraries: hack/tools,
# hack/controlplane, the parts of the node in test/node, and those below testdata.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# As tool.sh runs tools: without a C compiler, for this machine, and in no workspace of the caller.
unset GOOS GOARCH
export CGO_ENABLED=0 GOWORK=off
golangci_lint="$(hack/tool.sh --path golangci-lint)"
failed=
while read -r mod; do
  module="$(dirname "$mod")"
  if ! (cd "$module" && "$golangci_lint" run "$@"); then
    failed="$failed ${module#./}"
  fi
done < <(find . -name go.mod -not -path '*/node_modules/*' -not -path '*/testdata/*' -not -path './hack/tools/*' \
  -not -path './hack/controlplane/*' -not -path './test/node/*' | sort)

if [ -n "$failed" ]; then
  printf 'lint: there are issues in%s\n' "$failed" >&2
  exit 1
fi
