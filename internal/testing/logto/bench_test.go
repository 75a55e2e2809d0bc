// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// A property test makes thousands of servers, so making one must be cheap.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		s, err := logto.New()
		if err != nil {
			b.Fatal(err)
		}
		if s.Snapshot().Resources != nil {
			b.Fatal("not empty")
		}
	}
}
