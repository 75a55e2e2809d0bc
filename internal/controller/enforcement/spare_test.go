// SPDX-License-Identifier: Apache-2.0

package enforcement_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// withSpares adds spare places to an entry.
func withSpares(e v1alpha1.Enforcement) v1alpha1.Enforcement {
	e.EnvoyGateway.SpareTargetRefs = []v1alpha1.EnvoyGatewayTarget{
		{Kind: "HTTPRoute", Name: "spare", SectionName: "one"}, {Kind: "HTTPRoute", Name: "spare", SectionName: "two"},
	}
	return e
}

// spareKeys returns the IDs of the keys in a spare place, nil without a policy for it.
func spareKeys(s *operator.Stage, place int) []string {
	s.T.Helper()
	u := operator.Policy(s.T, securityPolicy, s.Payments, enforcement.SpareName("payment-api", "public", place))
	if u == nil {
		return nil
	}
	providers, _, _ := unstructured.NestedSlice(u.Object, "spec", "jwt", "providers")
	keys, _, _ := unstructured.NestedString(providers[0].(map[string]any), "localJWKS", "inline")
	return keysIn(s.T, keys)
}

// spared fails unless one spare place has some keys, and the other one others.
func spared(s *operator.Stage, some, others []string) {
	s.T.Helper()
	want, got := [][]string{some, others}, [][]string{spareKeys(s, 0), spareKeys(s, 1)}
	for _, ids := range slices.Concat(want, got) {
		slices.Sort(ids)
	}
	slices.SortFunc(want, slices.Compare)
	slices.SortFunc(got, slices.Compare)
	if diff := cmp.Diff(want, got); diff != "" {
		s.T.Errorf("the keys in spare places (-want +got):\n%s", diff)
	}
}

func spareStage(t *testing.T) *operator.Stage {
	t.Helper()
	installed(t, enforcement.EnvoyGateway)
	s := operator.NewStage(t, operator.StartStepped(t, operator.Enforcing(enforcement.EnvoyGateway)))
	s.Rarely()
	enforce(s, withSpares(atRoute()))
	says(s, accepts())
	return s
}

// TestSparePlaces: new keys wait in a spare place before the route has them, and the token
// that they signed waits for the route.
func TestSparePlaces(t *testing.T) {
	s := spareStage(t)
	first := s.AS.KeyID()
	spared(s, []string{first}, []string{first})
	enforced(s, v1alpha1.ReasonEnforced)

	s.Due()
	second, err := s.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.AS.ResetRequests()
	s.Settle()
	s.IsHeld()
	spared(s, []string{first}, []string{first, second})
	if slices.Contains(routeKeys(s), second) {
		t.Fatal("the route has the new key before Envoy's connections have drained")
	}
	enforced(s, v1alpha1.ReasonEnforced)

	s.Op.Advance(time.Minute - time.Millisecond)
	s.Settle()
	s.IsHeld()
	if slices.Contains(routeKeys(s), second) {
		t.Fatal("the route has the new key a moment too early")
	}
	s.Op.Advance(time.Millisecond)
	s.Settle()
	s.IsHeld()
	if !slices.Contains(routeKeys(s), second) {
		t.Fatal("the route does not have the new key")
	}
	spared(s, []string{first}, []string{first, second})
	s.Op.Advance(delivery.GatewayDelay)
	s.Settle()
	s.IsPublished()

	t.Run("nothing to do", func(t *testing.T) {
		s.Op.Requests.Reset()
		s.Op.Round(s.Payments, s.Shop)
		if diff := cmp.Diff([]string{}, s.Op.Requests.Writes()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
	t.Run("a revoked key leaves all places at once", func(t *testing.T) {
		s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = []string{first} })
		s.Settle()
		if diff := cmp.Diff([]string{second}, routeKeys(s)); diff != "" {
			t.Errorf("keys of the route (-want +got):\n%s", diff)
		}
		spared(s, []string{second}, []string{second})
	})
	t.Run("without spare places", func(t *testing.T) {
		enforce(s, atRoute())
		spared(s, nil, nil)
		if operator.Policy(t, securityPolicy, s.Payments, policyName) == nil {
			t.Error("the entry's own policy is gone, too")
		}
	})
}

// TestNoSparePlace: keys do not wait for a place that somebody else has, and the condition
// says that the places do not work.
func TestNoSparePlace(t *testing.T) {
	s := spareStage(t)
	first := s.AS.KeyID()
	name := enforcement.SpareName("payment-api", "public", 1)
	theirs := operator.Policy(t, securityPolicy, s.Payments, name)
	theirs.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "1", Controller: ptr.To(true)}})
	if err := operator.Kube.Update(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	s.Op.SeesPolicy(securityPolicy, s.Payments, name)
	if _, err := s.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.Due()
	s.Settle()
	if keys := routeKeys(s); !slices.Contains(keys, s.AS.KeyID()) || !slices.Contains(keys, first) {
		t.Errorf("the route has the keys %q", keys)
	}
	enforced(s, v1alpha1.ReasonEnforced, "some calls will be refused when keys change", "is not this APIResource's")
}

// TestDeadSparePlaces: the condition says that Envoy Gateway does not know the places.
func TestDeadSparePlaces(t *testing.T) {
	s := spareStage(t)
	enforced(s, v1alpha1.ReasonEnforced, "has not reported on SecurityPolicy")
	s.Op.Advance(11 * time.Second)
	s.Settle()
	enforced(s, v1alpha1.ReasonEnforced, "some calls will be refused when keys change", "targets do not exist")
}
