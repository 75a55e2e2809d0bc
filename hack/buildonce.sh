# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What hack/tool.sh and hack/controlplane/ensure.sh share: build Go programs once
# into the user's cache, visibly, and so that neither an interrupted run nor two
# runs at once can leave a half-made directory behind. To be sourced.
#
# Only bash 3.2, git, Go and POSIX tools are assumed; flock is used where it exists.

# shellcheck disable=SC2034 # for those who source this
cache_root="${XDG_CACHE_HOME:-$HOME/.cache}/m2m-operator"

# A tool runs here, whatever a cross-compiling caller has set for its own build,
# and a module of ours is never part of the caller's workspace.
unset GOOS GOARCH GOARM GOAMD64 GOARM64
export CGO_ENABLED=0 GOWORK=off

say() { printf '%s\n' "$*" >&2; }

# fingerprint STRING FILE... prints a short hash over a string and files' contents.
fingerprint() {
  local text="$1"
  shift
  { printf '%s\n' "$text"; cat -- "$@"; } | git hash-object --stdin | cut -c1-12
}

# with_lock DIR COMMAND... runs a command while no other run does so for DIR.
# Without flock two runs do the work twice, and the second finds it done.
with_lock() {
  local dir="$1"
  shift
  mkdir -p "$dir"
  if command -v flock >/dev/null; then
    # The descriptor is inherited by the compiler on purpose: should this script
    # be killed, the next one waits until what it started has ended too.
    exec 9>"$dir/.lock"
    local start=$SECONDS
    flock -n 9 || until say "waiting for another run that is building in $dir ($((SECONDS - start)) s)" &&
      flock -w 15 9; do :; done
    # With the lock in hand, any building directory is what a killed run left.
    rm -rf "$dir"/.building-*
  fi
  "$@"
}

# build_in_place DIR FUNCTION calls FUNCTION with a temporary directory beside DIR
# and renames it to DIR when the function has succeeded: DIR exists whole or not at all.
build_in_place() {
  local dir="$1" fill="$2" tmp
  if [ -d "$dir" ]; then return; fi # another run finished it while this one waited
  tmp="$(dirname "$dir")/.building-$$"
  # Expanded now, on purpose: the names are locals of this function.
  # shellcheck disable=SC2064
  trap "stop_child; rm -rf '$tmp'" EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mkdir -p "$tmp"
  "$fill" "$tmp"
  if ! mv "$tmp" "$dir" 2>/dev/null && [ ! -d "$dir" ]; then
    say "cannot rename $tmp to $dir"
    exit 1
  fi
  rm -rf "$tmp"
  trap - EXIT INT TERM HUP
}

child=
stop_child() {
  if [ -n "$child" ]; then
    kill "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
}

# count_packages PACKAGE... prints how many packages a build consists of. Doing so
# fetches the modules, which is why it is announced.
count_packages() {
  local out
  if ! out="$(go list -mod=readonly -deps "$@" 2>&1)"; then
    say "cannot list the packages of $* (is the module proxy reachable?):"
    printf '%s\n' "$out" | tail -n 20 >&2
    return 1
  fi
  printf '%s\n' "$out" | grep -vc '^go: '
}

# go_build NAME OUTPUT TOTAL FLAGS... PACKAGE builds one program. Every 15 s it says
# how long it has been at it and how many packages have been compiled, of at most TOTAL.
go_build() {
  local name="$1" out="$2" total="$3" log="$2.log" start=$SECONDS beat=0 n
  shift 3
  go build -mod=readonly -buildvcs=false -trimpath -v -o "$out" "$@" >"$log" 2>&1 &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    sleep 1
    beat=$((beat + 1))
    if [ $((beat % 15)) -eq 0 ]; then
      n="$(grep -vc '^go: ' "$log" || true)"
      say "  $name: $((SECONDS - start)) s, $n of at most $total packages compiled"
    fi
  done
  if ! wait "$child"; then
    child=
    say "  $name: go build failed:"
    grep -v '^[a-z0-9./_-]*$' "$log" | tail -n 30 >&2 || tail -n 30 "$log" >&2
    exit 1
  fi
  child=
  say "  $name: done in $((SECONDS - start)) s, $(grep -vc '^go: ' "$log" || true) packages compiled"
  rm -f "$log"
}
