// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestEveryKindHasConditions checks that code can read and write the conditions of
// any kind without knowing it.
func TestEveryKindHasConditions(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	kinds := 0
	for kind, typ := range scheme.KnownTypes(GroupVersion) {
		if !strings.HasSuffix(typ.PkgPath(), "/api/v1alpha1") || strings.HasSuffix(kind, "List") {
			continue // the scheme also knows options and events of apimachinery
		}
		kinds++
		object, err := scheme.New(GroupVersion.WithKind(kind))
		if err != nil {
			t.Fatal(err)
		}
		o, ok := object.(interface {
			GetConditions() []metav1.Condition
			SetConditions(conditions []metav1.Condition)
		})
		if !ok {
			t.Errorf("%s has no GetConditions and SetConditions", kind)
			continue
		}
		want := []metav1.Condition{{Type: ConditionReady}}
		o.SetConditions(want)
		if diff := cmp.Diff(want, o.GetConditions()); diff != "" {
			t.Errorf("%s: conditions (-want +got):\n%s", kind, diff)
		}
	}
	if kinds != 4 {
		t.Errorf("checked %d kinds, want 4", kinds)
	}
}
