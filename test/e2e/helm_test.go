// SPDX-License-Identifier: Apache-2.0

package e2e

import "testing"

func testHelm(t *testing.T, w *world) {}
