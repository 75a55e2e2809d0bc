# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Which version of Kubernetes this directory and test/node build, and how the build
# stamps that version into the programs: both must agree. To be sourced.

# stamp DIR reads the version of the module in a directory.
#
# Reproducible: the stamp carries the version, which clients compare, but no date.
# Without it the API server runs but `kubectl version` cannot parse its own version.
stamp() {
  local package
  version="$(awk '$1 == "k8s.io/kubernetes" { print $2 }' "$1/go.mod")" # v1.37.2
  minor="${version#v}" minor="${minor#*.}" minor="${minor%%.*}"
  ldflags="-s -w"
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    ldflags="$ldflags -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"
    ldflags="$ldflags -X $package.gitCommit= -X $package.gitTreeState=archive"
  done
}

stamp "$(dirname "${BASH_SOURCE[0]}")"
