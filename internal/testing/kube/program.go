// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

// BuildOperator builds the operator and writes its program to path. root is the path
// to the repository's root.
func BuildOperator(root, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	// Go keeps the programs that go run has linked, and not those of go build:
	// linking takes five seconds, and several suites need the program.
	build := exec.Command("go", "run", "-exec=cp", "./cmd", path)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the operator: %w\n%s", err, out)
	}
	return nil
}
