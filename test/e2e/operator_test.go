// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// testOperator examines the operator's pods after all other parts have run.
func testOperator(t *testing.T, w *world) {
	operatorAvailable(t)
	var pods corev1.PodList
	if err := kube.List(t.Context(), &pods, client.InNamespace(operatorNamespace)); err != nil {
		t.Fatal(err)
	}
	restarts := 0
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			restarts += int(status.RestartCount)
		}
	}
	figures.set("operator_restarts_count", restarts)
	if restarts > 0 {
		t.Errorf("the operator's containers were restarted %d times", restarts)
	}
	var leader string
	eventually(t, time.Minute, func() (err error) {
		leader, err = leaderPod(t)
		return err
	})
	for name, s := range w.operatorMetrics(t) {
		mib := s.sum("process_resident_memory_bytes") / (1 << 20)
		if name == leader {
			figures.set("operator_leader_resident_mib", mib)
		} else {
			figures.set("operator_standby_resident_mib", mib)
		}
	}

	failures := w.logs.errors()
	figures.set("operator_log_lines_count", len(w.logs.all()))
	figures.set("operator_log_errors_count", len(failures))
	for _, line := range failures[:min(10, len(failures))] {
		t.Errorf("the operator logged: %s", line)
	}
	noSecrets(t, "log", w.secrets, w.logs.all())
	noSecretsInEvents(t, w)
}

func noSecretsInEvents(t *testing.T, w *world) {
	t.Helper()
	var events corev1.EventList
	if err := kube.List(t.Context(), &events); err != nil {
		t.Fatal(err)
	}
	var messages []string
	for _, e := range events.Items {
		messages = append(messages, e.Message)
	}
	noSecrets(t, "events", w.secrets, messages)
}

// noSecrets looks for the secrets and for JWTs.
func noSecrets(t *testing.T, where string, secrets, lines []string) {
	t.Helper()
	for _, line := range lines {
		if at := kubetest.JWT.FindStringIndex(line); at != nil {
			t.Errorf("a token is in the operator's %s, after %q", where, line[max(0, at[0]-100):at[0]])
		}
		for _, secret := range secrets {
			if i := strings.Index(line, secret); i >= 0 {
				t.Errorf("a secret is in the operator's %s, after %q", where, line[max(0, i-100):i])
			}
		}
	}
}
