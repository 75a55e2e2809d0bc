// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

func TestWithoutBinariesItSaysWhatToDo(t *testing.T) {
	t.Setenv("KUBEBUILDER_ASSETS", "")
	var said strings.Builder
	code := run(&said, "", func(*envtest.Environment) (int, error) {
		t.Error("the suite ran without a control plane")
		return 0, nil
	})
	if code != 1 || !strings.Contains(said.String(), "make test") {
		t.Errorf("exit code %d, said %q", code, said.String())
	}
}

func TestAFailedStartFailsTheSuite(t *testing.T) {
	t.Setenv("KUBEBUILDER_ASSETS", t.TempDir())
	var said strings.Builder
	code := run(&said, t.TempDir(), func(*envtest.Environment) (int, error) { return 0, nil })
	if code != 1 || !strings.Contains(said.String(), "start the control plane") {
		t.Errorf("exit code %d, said %q", code, said.String())
	}
}
