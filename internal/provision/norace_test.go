// SPDX-License-Identifier: Apache-2.0

//go:build !race

package provision_test

const thinned = 1
