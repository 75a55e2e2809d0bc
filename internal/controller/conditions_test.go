// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	computed "sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestStatusIsReadableByOthers reads objects as Flux and Argo CD do, by the rules of
// kstatus: an object is current if its observedGeneration equals its generation and
// Ready is True. Otherwise it is in progress.
func TestStatusIsReadableByOthers(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	server := s.Server(s.Payments)
	tests := map[string]struct {
		obj    client.Object
		want   []string
		mutate func()
	}{
		"AuthorizationServer": {server, []string{"Discovered", "KeysFresh", "Ready"}, func() {
			operator.Change(t, server, func(a *v1alpha1.AuthorizationServer) { a.Spec.JWKS.Retention = "1h" })
		}},
		"APIResource": {s.API, []string{"Accepted", "Distributed", "Ready"}, func() {
			operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Verification.ClockSkew = "10s" })
		}},
		"M2MClient": {s.Cart, []string{"Fresh", "Granted", "Ready", "Verified"}, func() {
			operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) { c.Spec.Refresh.AtPercent = 50 })
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			settledTimes := transitions(t, tc.obj)
			if got := slices.Sorted(maps.Keys(settledTimes)); !slices.Equal(got, tc.want) {
				t.Errorf("the conditions are %v, want %v", got, tc.want)
			}
			tc.mutate()
			if kstatus(t, tc.obj) != "InProgress" {
				t.Error("a spec that no reconciler has seen counts as current")
			}
			operator.FromCache(t, op, tc.obj)
			op.Advance(time.Second)
			s.Settle()
			if got := kstatus(t, tc.obj); got != "Current" {
				t.Errorf("the object is %s", got)
			}
			for _, c := range operator.ConditionsOf(tc.obj) {
				if c.ObservedGeneration != tc.obj.GetGeneration() {
					t.Errorf("%s is about generation %d, want %d", c.Type, c.ObservedGeneration, tc.obj.GetGeneration())
				}
			}
			if diff := cmp.Diff(settledTimes, transitions(t, tc.obj)); diff != "" {
				t.Errorf("conditions did not change, but their times did:\n%s", diff)
			}
		})
	}

	// An object that does not work is not current.
	s.AS.SetFault(oidc.Token, operator.Answer(500, ""))
	s.Until(s.Status().ExpiresAt.Time)
	if got := kstatus(t, s.Cart); got != "InProgress" {
		t.Errorf("a client with an expired token is %s", got)
	}
}

func transitions(t *testing.T, obj client.Object) map[string]time.Time {
	t.Helper()
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
		t.Fatal(err)
	}
	at := map[string]time.Time{}
	for _, c := range operator.ConditionsOf(obj) {
		at[c.Type] = c.LastTransitionTime.Time
	}
	return at
}

// kstatus judges an object as Flux, Argo CD and kubectl plugins do.
func kstatus(t *testing.T, obj client.Object) string {
	t.Helper()
	// Read the object once more without its type, which would hide fields that it does
	// not know.
	u := &unstructured.Unstructured{}
	gvk, err := apiutil.GVKForObject(obj, operator.Kube.Scheme())
	if err != nil {
		t.Fatal(err)
	}
	u.SetGroupVersionKind(gvk)
	for _, o := range []client.Object{obj, u} {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(obj), o); err != nil {
			t.Fatal(err)
		}
	}
	result, err := computed.Compute(u)
	if err != nil {
		t.Fatal(err)
	}
	return result.Status.String()
}

// TestANewObjectIsNotCurrent checks an object that no reconciler has seen yet, with
// and without a status from a backup.
func TestANewObjectIsNotCurrent(t *testing.T) {
	w := operator.NewWorld(t)
	cas := &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "new-" + w.Shop},
		Spec: v1alpha1.ClusterAuthorizationServerSpec{
			AuthorizationServerSpec: v1alpha1.AuthorizationServerSpec{Issuer: w.AS.Issuer()}, AllowedNamespaces: operator.NamesOf(w.Shop),
		},
	}
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), cas); err != nil {
			t.Error(err)
		}
	})
	api := w.API()
	api.Status = v1alpha1.APIResourceStatus{ObservedGeneration: 1, Conditions: []metav1.Condition{{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, ObservedGeneration: 1,
	}}}
	for _, obj := range []client.Object{w.Server(w.Payments), cas, api, w.Cart()} {
		operator.Create(t, obj)
		if got := kstatus(t, obj); got != "InProgress" {
			t.Errorf("a new %T is %s", obj, got)
		}
	}
}
