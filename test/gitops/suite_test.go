// SPDX-License-Identifier: Apache-2.0

// Package gitops_test looks at the operator as Argo CD and Flux do: what they make of
// each state of an object, whether any order of apply ends in the same state, and
// whether they see a difference from Git after the operator has worked.
// The module in health judges what these tests keep in testdata with the health checks
// of docs/examples.
package gitops_test

import (
	"path/filepath"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

const root = "../.."

func TestMain(m *testing.M) { operator.Main(m, filepath.FromSlash(root)) }
