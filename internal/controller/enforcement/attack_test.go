// SPDX-License-Identifier: Apache-2.0

package enforcement_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// meshStage is routeStage for Istio.
func meshStage(t *testing.T) *operator.Stage {
	t.Helper()
	installed(t, enforcement.Istio)
	op := operator.StartStepped(t, operator.Enforcing(enforcement.Istio))
	s := operator.NewStage(t, op)
	enforce(s, inMesh())
	return s
}

// TestIstioIsNotSteeredAround: a label or an annotation by which Istio would leave a policy
// out does not stay. Others do.
func TestIstioIsNotSteeredAround(t *testing.T) {
	s := meshStage(t)
	for _, kind := range []gateways.Kind{authentication, authorization} {
		u := operator.Policy(t, kind, s.Payments, policyName)
		labels, annotations := u.GetLabels(), u.GetAnnotations()
		labels["istio.io/rev"], labels["team"] = "another", "payments"
		annotations["istio.io/dry-run"] = "true"
		u.SetLabels(labels)
		u.SetAnnotations(annotations)
		if err := operator.Kube.Update(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		s.Op.SeesPolicy(kind, s.Payments, policyName)
	}
	s.Settle()
	for _, kind := range []gateways.Kind{authentication, authorization} {
		u := operator.Policy(t, kind, s.Payments, policyName)
		if len(u.GetAnnotations()) != 1 || len(u.GetLabels()) != 2 || u.GetLabels()["team"] != "payments" {
			t.Errorf("%s has the annotations %v and the labels %v", kind.Name, u.GetAnnotations(), u.GetLabels())
		}
	}
}

// refusesAll reports whether the policy of an entry that refuses requests refuses all of them.
func refusesAll(t *testing.T, s *operator.Stage, gate gateways.Kind) bool {
	t.Helper()
	policy := operator.Policy(t, gate, s.Payments, policyName)
	if policy == nil {
		t.Fatal("there is no policy")
	}
	spec := policy.Object["spec"].(map[string]any)
	_, inMesh := spec["rules"]
	_, atRoute, _ := unstructured.NestedSlice(spec, "authorization", "rules")
	return !inMesh && !atRoute
}

// isThere reports whether an object exists.
func isThere(t *testing.T, o client.Object) bool {
	t.Helper()
	err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(o), o)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return !apierrors.IsNotFound(err)
}

func keysObject(s *operator.Stage) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.Payments, Name: keysName}}
}

// TestTakenKeys: whoever may write ConfigMaps, but no policies, takes the one with the keys
// and puts keys of their own into it. Nothing passes then.
func TestTakenKeys(t *testing.T) {
	for how, take := range map[string]func(client.Object){
		"label": func(o client.Object) { o.SetLabels(nil) },
		"owner": func(o client.Object) {
			o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "1", Controller: ptr.To(true)}})
		},
	} {
		for _, g := range enforcement.Gateways() {
			t.Run(string(g)+" "+how, func(t *testing.T) {
				s, gate, keys := (*operator.Stage)(nil), authorization, client.Object(nil)
				if g == enforcement.EnvoyGateway {
					s, gate = routeStage(t), securityPolicy
					keys = keysObject(s)
				} else {
					s = meshStage(t)
					keys = operator.NewPolicy(authentication, s.Payments, policyName)
				}
				if refusesAll(t, s, gate) || !isThere(t, keys) {
					t.Fatal("the gateway does not check tokens")
				}
				take(keys)
				if err := operator.Kube.Update(t.Context(), keys); err != nil {
					t.Fatal(err)
				}
				seesKeys(t, s, keys)
				if !refusesAll(t, s, gate) {
					t.Error("what somebody else's keys sign passes")
				}
				enforced(s, v1alpha1.ReasonObjectNotOwned, keys.GetName())
				operator.Remove(t, keys)
				if g == enforcement.Istio && how == "owner" {
					s.Op.SeesPolicy(authentication, s.Payments, policyName)
				} else {
					seesKeys(t, s, keys)
				}
				if g == enforcement.Istio && how == "label" { // the operator does not follow policies without the label
					s.Op.Advance(10 * time.Second)
				}
				s.Settle()
				if refusesAll(t, s, gate) {
					t.Error("nothing passes although the keys are the operator's again")
				}
			})
		}
	}
}

// seesKeys lets the operator see an object with keys as it is.
func seesKeys(t *testing.T, s *operator.Stage, keys client.Object) {
	t.Helper()
	s.Op.CatchUp(s.Payments)
	if _, ok := keys.(*unstructured.Unstructured); ok {
		operator.Eventually(t, func() error {
			o := s.Op.Shared.Policies.Get(authentication, client.ObjectKeyFromObject(keys))
			if o != nil && o.IsOf(s.API) {
				return errors.New("the operator takes it for its own")
			}
			return nil
		})
	}
	s.Settle()
}

// TestARenamedEntryWithoutItsPolicy: the former policy goes only when the new one is there.
// Until then nothing passes: not even what it permitted.
func TestARenamedEntryWithoutItsPolicy(t *testing.T) {
	s := routeStage(t)
	lift := operator.Refuse(t, s.Payments, "securitypolicies", "m2m.payment-api.private", "'not this one'")
	renamed := atRoute()
	renamed.Name = "private"
	enforce(s, renamed)
	enforced(s, v1alpha1.ReasonObjectRefused, "not this one")
	if operator.Policy(t, securityPolicy, s.Payments, policyName) == nil {
		t.Error("the route is open")
	}
	if isThere(t, keysObject(s)) {
		t.Error("the former policy has its keys still")
	}
	lift()
	s.Op.Advance(2 * time.Minute)
	s.Settle()
	if operator.Policy(t, securityPolicy, s.Payments, policyName) != nil || operator.Policy(t, securityPolicy, s.Payments, "m2m.payment-api.private") == nil {
		t.Error("the new policy has not replaced the former one")
	}
}

// TestADecisionTakesTheKeys: a decision against the API takes the keys from the gateway, too,
// even if the API server refuses the policy that refuses requests.
func TestADecisionTakesTheKeys(t *testing.T) {
	opaque := func(s *operator.Stage) {
		s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) {
			a.TokenFormat, a.JWKS = v1alpha1.TokenFormatOpaque, v1alpha1.JWKSPolicy{}
		})
		s.Settle()
	}
	t.Run("Envoy Gateway", func(t *testing.T) {
		s := routeStage(t)
		operator.Refuse(t, s.Payments, "securitypolicies", "m2m.payment-api", "'no policies'")
		opaque(s)
		if isThere(t, keysObject(s)) || refusesAll(t, s, securityPolicy) {
			t.Error("the gateway has the keys, or the test refuses nothing")
		}
	})
	t.Run("Istio", func(t *testing.T) {
		s := meshStage(t)
		opaque(s)
		if operator.Policy(t, authentication, s.Payments, policyName) != nil || !refusesAll(t, s, authorization) {
			t.Error("the gateway has the keys, or lets requests pass")
		}
	})
}

// TestPoliciesOfOtherNames: a policy that says it is the APIResource's, but has another name,
// is none of the operator's and does not keep it from removing its own.
func TestPoliciesOfOtherNames(t *testing.T) {
	s := routeStage(t)
	other := operator.NewPolicy(securityPolicy, s.Payments, "a-copy")
	other.SetLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	other.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "APIResource", Name: s.API.Name, UID: s.API.UID, Controller: ptr.To(true),
	}})
	probe := operator.NewPolicy(securityPolicy, s.Payments, "m2m.another-api.probe")
	probe.SetLabels(other.GetLabels())
	operator.Create(t, other, probe)
	s.Op.SeesPolicy(securityPolicy, s.Payments, probe.GetName())
	enforce(s)
	if operator.Policy(t, securityPolicy, s.Payments, "a-copy") == nil {
		t.Error("the operator deleted it; in an installation the fence refuses that")
	}
	if operator.Policy(t, securityPolicy, s.Payments, policyName) != nil || isThere(t, keysObject(s)) {
		t.Error("the operator's own objects stay")
	}
}

// TestARevokedKeyLeavesAnAPIThatIsBeingDeleted: a finalizer may hold it for long.
func TestARevokedKeyLeavesAnAPIThatIsBeingDeleted(t *testing.T) {
	s := routeStage(t)
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Finalizers = append(a.Finalizers, "example.com/held") })
	defer operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Finalizers = nil })
	if err := operator.Kube.Delete(t.Context(), s.API); err != nil {
		t.Fatal(err)
	}
	if !isThere(t, s.API) {
		t.Fatal("it is gone")
	}
	operator.FromCache(t, s.Op, s.API)
	s.Settle()
	key := s.AS.KeyID()
	if !slices.Contains(routeKeys(s), key) {
		t.Fatal("the key left too early")
	}
	s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = []string{key} })
	s.Settle()
	if slices.Contains(routeKeys(s), key) {
		t.Error("the revoked key is still at the gateway")
	}
	operator.Remove(t, keysObject(s))
	s.Op.CatchUp(s.Payments)
	s.Settle()
	if isThere(t, keysObject(s)) {
		t.Error("the operator makes objects anew for an APIResource that is being deleted")
	}
}
