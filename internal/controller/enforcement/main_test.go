// SPDX-License-Identifier: Apache-2.0

package enforcement_test

import (
	"path/filepath"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func TestMain(m *testing.M) { operator.Main(m, filepath.Join("..", "..", "..")) }
