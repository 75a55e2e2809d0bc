#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/gateways/inside.sh COMMAND [ARGUMENT...]
#
# Runs a command in namespaces of its own: gateways listen at all addresses, and nothing of
# that may be reachable from outside. There is no network but the loopback device, with one
# address that a Service may lead to, which an address of 127.0.0.0/8 may not; the API server
# looks for an address of its own by the default route. When the command ends, the kernel ends
# everything that it started.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
user=
if [ "$(id -u)" != 0 ]; then user=--map-root-user; fi
# shellcheck disable=SC2016,SC2086 # the inner shell expands; an empty word is none
exec unshare $user --net --pid --fork --kill-child --mount --mount-proc \
  sh -euc 'ip link set lo up; ip address add 192.0.2.1/32 dev lo; ip route add default dev lo; exec "$@"' inside "$@"
