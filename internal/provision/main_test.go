// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"os"
	"runtime/debug"
	"testing"
)

func TestMain(m *testing.M) {
	// Thousands of short lives leave much garbage and keep nothing, so that
	// collecting it less often saves a third of the time.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(1600)
	}
	os.Exit(m.Run())
}
