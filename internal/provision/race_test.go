// SPDX-License-Identifier: Apache-2.0

//go:build race

package provision_test

// The race detector makes everything ten times slower, and a sequence has no second goroutine.
const thinned = 10
