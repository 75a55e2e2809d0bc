// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestNotJustAsked: a request to ask a server now, and the note that it was handled, wake
// nobody who depends on the server.
func TestNotJustAsked(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*v1alpha1.AuthorizationServer)
		want   bool
	}{
		"a request": {func(a *v1alpha1.AuthorizationServer) {
			a.Annotations = map[string]string{v1alpha1.RefreshRequestedAnnotation: "1"}
		}, false},
		"a request was handled": {func(a *v1alpha1.AuthorizationServer) { a.Status.LastHandledRefreshAt = "1" }, false},
		"the spec":              {func(a *v1alpha1.AuthorizationServer) { a.Generation++ }, true},
		"a key":                 {func(a *v1alpha1.AuthorizationServer) { a.Status.Keys = []v1alpha1.SigningKey{{KeyID: "1"}} }, true},
		"a condition": {func(a *v1alpha1.AuthorizationServer) {
			a.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady}}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			before := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Generation: 1}}
			after := before.DeepCopy()
			tc.change(after)
			if got := NotJustAsked.Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != tc.want {
				t.Errorf("passed: %t, want %t", got, tc.want)
			}
		})
	}
}
