// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestAnUpgradeChangesNothing gives the data of each release to today's operator.
func TestAnUpgradeChangesNothing(t *testing.T) {
	releases, err := os.ReadDir("testdata")
	if err != nil || len(releases) == 0 {
		t.Fatalf("there is no data of a release: %v", err)
	}
	for _, r := range releases {
		t.Run(r.Name(), func(t *testing.T) { upgrade(t, saved(t, filepath.Join("testdata", r.Name()))) })
	}
}

func upgrade(t *testing.T, d *data) {
	wire := &player{all: d.Servers}
	servers.lead(wire)
	defer servers.lead(nil)
	d.restore(t)
	before := of(t)
	if len(before) < len(d.Objects) {
		t.Fatalf("the API server has %d of %d objects", len(before), len(d.Objects))
	}
	if err := notReady(t, before); err != nil {
		t.Fatalf("before the upgrade: %v", err)
	}
	accepted(t, before)

	op := operator.StartStepped(t, steady)
	op.Clock.SetTime(d.At.Add(later))
	op.Settle(namespaces...)

	if writes := op.Requests.Writes(); len(writes) > 0 {
		t.Errorf("the upgraded operator writes %s", told(writes))
	}
	quiet(t, wire)
	after := of(t)
	version := func(o unstructured.Unstructured) string {
		return fmt.Sprintf("%s %s/%s at %s", o.GetKind(), o.GetNamespace(), o.GetName(), o.GetResourceVersion())
	}
	for _, o := range after {
		if !slices.ContainsFunc(before, func(b unstructured.Unstructured) bool { return version(b) == version(o) }) {
			t.Errorf("%s %s/%s is another than before", o.GetKind(), o.GetNamespace(), o.GetName())
		}
	}
	op.Clock.SetTime(d.At.Add(compared))
	op.Settle(namespaces...)
	quiet(t, wire)
	due(t, op, wire)
}

// quiet checks that the operator has asked the servers, that it changed nothing there, and
// that everything is ready.
func quiet(t *testing.T, wire *player) {
	t.Helper()
	asked, changes, news := wire.seen()
	if len(changes) > 0 {
		t.Errorf("the upgraded operator mints, registers or changes at the servers %s", told(changes))
	}
	if len(news) > 0 {
		t.Errorf("the upgraded operator asks what no earlier one asked; say in the data what the servers answer: %s", told(news))
	}
	if asked == 0 {
		t.Error("the upgraded operator has asked no server: it does not work")
	}
	if err := notReady(t, of(t)); err != nil {
		t.Errorf("after the upgrade: %v", err)
	}
}

// due moves the clock to when the tokens are due: the operator knows it from the data.
func due(t *testing.T, op *operator.Operator, wire *player) {
	t.Helper()
	var clients v1alpha1.M2MClientList
	if err := operator.Kube.List(t.Context(), &clients); err != nil {
		t.Fatal(err)
	}
	at := op.Clock.Now()
	for _, c := range clients.Items {
		for _, token := range c.Status.Tokens {
			if token.RefreshAt.After(at) {
				at = token.RefreshAt.Time
			}
		}
	}
	op.Clock.SetTime(at)
	op.Round(namespaces...)
	_, changes, _ := wire.seen()
	requests := 0
	for _, c := range changes {
		if strings.HasPrefix(c, "POST ") && strings.HasSuffix(c, "/token") {
			requests++
		}
	}
	if requests < len(clients.Items) {
		t.Errorf("%d clients' tokens are due, and the operator sent %d token requests: %s", len(clients.Items), requests, told(changes))
	}
}

// notReady returns an error if an object of the operator's kinds is not ready.
func notReady(t *testing.T, objects []unstructured.Unstructured) error {
	t.Helper()
	n := 0
	for _, o := range objects {
		if o.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
			continue
		}
		n++
		conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
		if err != nil {
			t.Fatal(err)
		}
		ready := slices.ContainsFunc(conditions, func(c any) bool {
			m := c.(map[string]any)
			return m["type"] == v1alpha1.ConditionReady && m["status"] == string(metav1.ConditionTrue)
		})
		if !ready {
			return fmt.Errorf("%s %s/%s is not ready: %v", o.GetKind(), o.GetNamespace(), o.GetName(), conditions)
		}
	}
	if n == 0 {
		return fmt.Errorf("there are no objects")
	}
	return nil
}

// accepted checks that users could still create the objects that they have.
func accepted(t *testing.T, objects []unstructured.Unstructured) {
	t.Helper()
	for _, o := range objects {
		if o.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
			continue
		}
		c := &unstructured.Unstructured{Object: map[string]any{"spec": o.Object["spec"]}}
		c.SetGroupVersionKind(o.GroupVersionKind())
		c.SetNamespace(o.GetNamespace())
		c.SetName(o.GetName() + "-again")
		if err := operator.Kube.Create(t.Context(), c, client.DryRunAll); err != nil {
			t.Errorf("the CRDs refuse what they accepted: %v", err)
		}
	}
}
