# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# How Ory Hydra is built: with SQLite, which is C. To be sourced.
export CGO_ENABLED=1 GOFLAGS="${GOFLAGS:-} -tags=sqlite,json1"
