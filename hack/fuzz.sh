#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: hack/fuzz.sh TIME [TARGET]
#
# Runs every fuzz target below api and internal, or those whose name contains TARGET, one
# after the other, each for TIME, such as 10m. It starts with the examples in the code, what
# is in testdata/fuzz, and what earlier runs found, which Go keeps in its own cache. An input
# that fails is written to testdata/fuzz: mend the code and keep the file. All targets run,
# even if some fail.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

time="${1:?usage: hack/fuzz.sh TIME [TARGET]}"
failed=
count=0
while IFS=: read -r file _ target; do
  target="${target#func }"
  case "$target" in *"${2:-}"*) ;; *) continue ;; esac
  count=$((count + 1))
  echo "== ./$(dirname "$file") $target"
  if ! go test -run='^$' -fuzz="^$target\$" -fuzztime="$time" "./$(dirname "$file")" </dev/null; then
    failed="$failed $target"
  fi
done < <(grep -rn --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' api internal | sort)

if [ "$count" = 0 ]; then
  echo "hack/fuzz.sh: there is no such target" >&2
  exit 1
fi
if [ -n "$failed" ]; then
  echo "hack/fuzz.sh: failed:$failed" >&2
  exit 1
fi
echo "hack/fuzz.sh: $count targets, each for $time"
