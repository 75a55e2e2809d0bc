#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What `make verify` does: it generates everything again into the tree and fails if
# that changed a file. It compares with the files that were there before and not with
# git, so it works in a tree with uncommitted changes. All checks run before it fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

generated=(api config/crd/bases config/rbac docs/reference charts/m2m-operator/templates)
failed=

fail() {
  failed=1
  printf 'verify: %s\n' "$*" >&2
}

before="$(mktemp -d)"
trap 'rm -rf "$before"' EXIT
for dir in "${generated[@]}"; do
  mkdir -p "$before/$dir"
  if [ -d "$dir" ]; then cp -R "$dir/." "$before/$dir/"; fi
done

make generate manifests docs-reference chart >/dev/null

stale=
for dir in "${generated[@]}"; do
  mkdir -p "$dir"
  while read -r line; do stale="$stale  $line"$'\n'; done < <(
    diff -rq "$before/$dir" "$dir" | sed -E \
      -e "s#^Files .* and (.*) differ\$#\\1 was out of date#" \
      -e "s#^Only in $before/([^:]*): (.*)#\\1/\\2 is no longer generated#" \
      -e "s#^Only in ([^:]*): (.*)#\\1/\\2 was missing#"
  )
done
if [ -n "$stale" ]; then
  fail "these files were not what make generate manifests docs-reference chart makes; they are now, so look at them and commit them:"
  printf '%s' "$stale" >&2
fi

while read -r mod; do
  if ! out="$(cd "$(dirname "$mod")" && GOWORK=off go mod tidy -diff 2>&1)"; then
    fail "$mod is not tidy:"
    printf '%s\n' "$out" | grep -v '^go: downloading ' | head -n 40 >&2
  fi
done < <(find . -name go.mod -not -path '*/node_modules/*' | sort)

unformatted="$(find . -name '*.go' -not -path '*/node_modules/*' -exec gofmt -s -l {} +)"
if [ -n "$unformatted" ]; then
  fail "not formatted; make fmt does it:"
  printf '%s\n' "$unformatted" >&2
fi

# gofmt turns two single quotes in a comment into a closing quotation mark, which breaks a CEL rule.
if out="$(grep -rnE '^[[:space:]]*// \+.*[“”]' --include='*.go' api internal)"; then
  fail "markers with typographic quotes; gofmt makes them of two single or back quotes, so put it another way:"
  printf '%s\n' "$out" | cut -c1-200 >&2
fi

while read -r file; do
  case "$(head -n 3 "$file")" in
    *'SPDX-License-Identifier: Apache-2.0'*) ;;
    *) fail "$file does not say SPDX-License-Identifier: Apache-2.0 at its top" ;;
  esac
done < <(find . \( -name '*.go' -o -name '*.sh' -o -path ./.ci/run \) -not -path '*/node_modules/*' | sort)

while read -r script; do
  bash -n "$script" || fail "$script is not valid bash"
done < <(find hack test .ci -type f \( -name '*.sh' -o -name run \) -not -path '*/node_modules/*' | sort)

if ! out="$(make lint-workflows 2>&1)"; then
  fail "the workflows are wrong:"
  printf '%s\n' "$out" >&2
fi

kustomize="$(hack/tool.sh --path kustomize)"
cp -R config "$before/kustomize" # to build components in, upon what they change
while read -r kustomization; do
  dir="$(dirname "$kustomization")"
  if grep -q '^kind: Component$' "$kustomization"; then
    mkdir -p "$before/kustomize/with"
    printf 'resources: [../default]\ncomponents: [../%s]\n' "${dir#config/}" >"$before/kustomize/with/kustomization.yaml"
    dir="$before/kustomize/with"
  fi
  if ! out="$("$kustomize" build "$dir" 2>&1 >/dev/null)"; then
    fail "kustomize build of $kustomization: $out"
  elif [ -n "$out" ]; then
    fail "kustomize build of $kustomization warns: $out"
  fi
done < <(find config -name kustomization.yaml | sort)

if [ -n "$failed" ]; then exit 1; fi
echo "verify: generated files, modules, formatting, licence lines, scripts and manifests are up to date"
