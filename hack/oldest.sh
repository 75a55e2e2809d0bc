#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What `make test-oldest` does: it runs those tests whose results depend on the version of
# the API server, with the control plane of KUBEBUILDER_ASSETS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

"${KUBEBUILDER_ASSETS:?is not set: run make test-oldest}/kube-apiserver" --version >&2

# The schemas and their CEL; what helm and kustomize make; the admission policies; the
# webhook; tokens from the first to a revoked grant; the data of earlier releases.
tests=(
  TestEverySampleIsTaken TestMistakesAreNoticed
  TestEveryInstallationIsTaken TestUpgradeAndUninstall TestAReleaseInAFewNamespacesWorks
  TestEveryWriteIsFenced TestMetadataIsBounded TestNothingIsReachedByTheFinalizers
  TestInjection TestWhoReachesTheWebhook
  TestGrants TestAnUpgradeChangesNothing
)
packages=(
  ./test/samples ./test/chart ./test/fences ./internal/injection/installed ./internal/controller/m2mclient ./test/upgrade
)
run="$(IFS='|' && echo "^(${tests[*]})\$")"

# A name that no package has any more would silently test nothing.
for name in "${tests[@]}"; do
  grep -rqE "^func $name\(" --include='*_test.go' "${packages[@]}" || {
    echo "hack/oldest.sh: there is no test $name in ${packages[*]}" >&2
    exit 1
  }
done

# Two API servers start at a time, on machines that are busy.
export KUBEBUILDER_CONTROLPLANE_START_TIMEOUT="${KUBEBUILDER_CONTROLPLANE_START_TIMEOUT:-60s}"
exec hack/gotest.sh oldest -count=1 -p=2 -timeout=20m -run="$run" "${packages[@]}"
