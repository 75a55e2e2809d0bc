// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// oldest is the oldest Kubernetes that docs/install.md names.
const oldest = "1.30"

// TestTheFencesHoldOnTheOldestKubernetes compiles every expression with the CEL
// features of an API server of that version.
func TestTheFencesHoldOnTheOldestKubernetes(t *testing.T) {
	manifests, err := exec.Command(kustomize, "build", filepath.Join(root, "config", "default")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := compile(manifests); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	const newer = "object.metadata.labels.all(k, v, v == 'one')"
	manifests = bytes.Replace(manifests, []byte("request.operation != 'DELETE'"), []byte(newer), 1)
	if out, err := compile(manifests); err == nil || !strings.Contains(string(out), "m2m-operator-event-fence") {
		t.Errorf("an expression with newer CEL features compiles: %s", out)
	}
}

// compile compiles the expressions of manifests, and returns the errors.
func compile(manifests []byte) ([]byte, error) {
	check := exec.Command(filepath.Join(root, "hack", "tool.sh"), "celcheck", oldest)
	check.Stdin = bytes.NewReader(manifests)
	return check.CombinedOutput()
}
