// SPDX-License-Identifier: Apache-2.0

package enforcement_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

const (
	policyName = "m2m.payment-api.public"
	keysName   = "m2m-jwks.payment-api.public"
)

var (
	securityPolicy = gateways.Kinds(enforcement.EnvoyGateway)[0]
	authentication = gateways.Kinds(enforcement.Istio)[0]
	authorization  = gateways.Kinds(enforcement.Istio)[1]
)

func atRoute(rules ...v1alpha1.EnforcementRule) v1alpha1.Enforcement {
	return v1alpha1.Enforcement{Name: "public", Rules: rules, EnvoyGateway: v1alpha1.EnvoyGatewayEnforcement{
		TargetRefs: []v1alpha1.EnvoyGatewayTarget{{Kind: "HTTPRoute", Name: "payment"}},
	}}
}

func inMesh(rules ...v1alpha1.EnforcementRule) v1alpha1.Enforcement {
	return v1alpha1.Enforcement{Name: "public", Rules: rules, Istio: v1alpha1.IstioEnforcement{
		Selector: v1alpha1.IstioSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "payment"}},
	}}
}

// enforce sets spec.enforcement of a stage's API.
func enforce(s *operator.Stage, entries ...v1alpha1.Enforcement) {
	s.T.Helper()
	operator.Change(s.T, s.API, func(a *v1alpha1.APIResource) { a.Spec.Enforcement = entries })
	operator.FromCache(s.T, s.Op, s.API)
	s.Settle()
}

// says writes the status that the gateway reports on a policy.
func says(s *operator.Stage, conditions ...any) {
	s.T.Helper()
	u := operator.Policy(s.T, securityPolicy, s.Payments, policyName)
	for _, c := range conditions {
		c.(map[string]any)["observedGeneration"] = u.GetGeneration()
	}
	u.Object["status"] = map[string]any{"ancestors": []any{map[string]any{"conditions": conditions}}}
	if err := operator.Kube.Status().Update(s.T.Context(), u); err != nil {
		s.T.Fatal(err)
	}
	s.Op.SeesPolicy(securityPolicy, s.Payments, policyName)
	s.Settle()
}

func accepts() map[string]any {
	return map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted"}
}

// enforced fails unless the condition Enforced, and with it Ready, has a reason.
func enforced(s *operator.Stage, reason string, parts ...string) {
	s.T.Helper()
	if err := operator.Kube.Get(s.T.Context(), client.ObjectKeyFromObject(s.API), s.API); err != nil {
		s.T.Fatal(err)
	}
	status := metav1.ConditionFalse
	if reason == v1alpha1.ReasonEnforced {
		status = metav1.ConditionTrue
		operator.IsReady(s.T, s.API)
	} else {
		if operator.ConditionIs(s.API, v1alpha1.ConditionReady, metav1.ConditionTrue) {
			s.T.Errorf("the APIResource is ready although %s", reason)
		}
	}
	c := operator.HasCondition(s.T, s.API, v1alpha1.ConditionEnforced, status, reason)
	for _, p := range parts {
		if !strings.Contains(c.Message, p) {
			s.T.Errorf("the message %q does not contain %q", c.Message, p)
		}
	}
}

// keysIn returns the IDs of the keys that a gateway has.
func keysIn(t *testing.T, text string) (ids []string) {
	t.Helper()
	var set struct {
		Keys []struct{ Kid string } `json:"keys"`
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		if !slices.Contains(ids, k.Kid) {
			ids = append(ids, k.Kid)
		}
	}
	return ids
}

func routeKeys(s *operator.Stage) []string {
	s.T.Helper()
	var m corev1.ConfigMap
	if err := operator.Kube.Get(s.T.Context(), types.NamespacedName{Namespace: s.Payments, Name: keysName}, &m); err != nil {
		s.T.Fatal(err)
	}
	return keysIn(s.T, m.Data["jwks"])
}

func routeStage(t *testing.T) *operator.Stage {
	t.Helper()
	installed(t, enforcement.EnvoyGateway)
	op := operator.StartStepped(t, operator.Enforcing(enforcement.EnvoyGateway))
	s := operator.NewStage(t, op)
	s.Verifies()
	enforce(s, atRoute(v1alpha1.EnforcementRule{Name: "write", Scopes: []v1alpha1.ScopeName{"payments:write"}}))
	return s
}

// TestEnvoyGateway tells the life of an entry: written, reported on, changed, restored,
// taken away.
func TestEnvoyGateway(t *testing.T) {
	s := routeStage(t)
	s.Rarely()
	enforced(s, v1alpha1.ReasonEnforcing, policyName)
	s.Op.Clock.SetTime(operator.Policy(t, securityPolicy, s.Payments, policyName).GetCreationTimestamp().Add(11 * time.Second))
	s.Settle()
	enforced(s, v1alpha1.ReasonTargetNotFound, "targets do not exist")
	says(s, accepts())
	enforced(s, v1alpha1.ReasonEnforced)

	policy := operator.Policy(t, securityPolicy, s.Payments, policyName)
	owner := metav1.GetControllerOf(policy)
	if owner == nil || owner.UID != s.API.UID || ptr.Deref(owner.BlockOwnerDeletion, false) || policy.GetLabels()[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue {
		t.Errorf("the policy has the owner %v and the labels %v", owner, policy.GetLabels())
	}
	if diff := cmp.Diff([]string{s.AS.KeyID()}, routeKeys(s)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}

	t.Run("nothing to do", func(t *testing.T) {
		s.Op.Requests.Reset()
		s.Op.Round(s.Payments, s.Shop)
		if diff := cmp.Diff([]string{}, s.Op.Requests.Writes()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{}, s.Op.Requests.Reads()); diff != "" {
			t.Errorf("reads past the cache (-want +got):\n%s", diff)
		}
	})
	t.Run("what the gateway says counts", func(t *testing.T) {
		for reason, condition := range map[string]map[string]any{
			v1alpha1.ReasonGatewayRefused: {"type": "Accepted", "status": "False", "reason": "Conflicted", "message": "another policy has the route"},
			v1alpha1.ReasonTargetNotFound: {"type": "Accepted", "status": "False", "reason": "TargetNotFound", "message": "no such section"},
		} {
			says(s, condition)
			enforced(s, reason, condition["message"].(string))
		}
		says(s, accepts(), map[string]any{"type": "Overridden", "status": "True", "reason": "Overridden", "message": "by a policy of the route"})
		enforced(s, v1alpha1.ReasonOverridden, "by a policy of the route")
		says(s, accepts())
		enforced(s, v1alpha1.ReasonEnforced)
	})
	t.Run("somebody changes the policy", func(t *testing.T) {
		before := operator.Policy(t, securityPolicy, s.Payments, policyName)
		edited := before.DeepCopy()
		unstructured.RemoveNestedField(edited.Object, "spec", "authorization")
		edited.SetLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue, "team": "payments"})
		if err := operator.Kube.Update(t.Context(), edited); err != nil {
			t.Fatal(err)
		}
		s.Op.SeesPolicy(securityPolicy, s.Payments, policyName)
		s.Settle()
		after := operator.Policy(t, securityPolicy, s.Payments, policyName)
		if diff := cmp.Diff(before.Object["spec"], after.Object["spec"]); diff != "" || after.GetUID() != before.GetUID() || after.GetLabels()["team"] == "" {
			t.Errorf("labels %v, the same object: %t, spec (-want +got):\n%s", after.GetLabels(), after.GetUID() == before.GetUID(), diff)
		}
		enforced(s, v1alpha1.ReasonEnforcing, "has not reported on")
		says(s, accepts())
	})
	t.Run("somebody deletes the objects", func(t *testing.T) {
		for _, o := range []client.Object{
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.Payments, Name: keysName}},
			operator.NewPolicy(securityPolicy, s.Payments, policyName),
		} {
			operator.Remove(t, o)
		}
		s.Op.SeesPolicy(securityPolicy, s.Payments, policyName)
		s.Settle()
		says(s, accepts())
		enforced(s, v1alpha1.ReasonEnforced)
	})
	t.Run("another entry instead", func(t *testing.T) {
		entry := atRoute()
		entry.Name = "private"
		enforce(s, entry)
		if operator.Policy(t, securityPolicy, s.Payments, policyName) != nil {
			t.Error("the policy of the former entry stays")
		}
		if operator.Policy(t, securityPolicy, s.Payments, "m2m.payment-api.private") == nil {
			t.Error("the new entry has no policy")
		}
		var all corev1.ConfigMapList
		if err := operator.Kube.List(t.Context(), &all, client.InNamespace(s.Payments)); err != nil {
			t.Fatal(err)
		}
		for i := range all.Items {
			if all.Items[i].Name == keysName {
				t.Error("the keys of the former entry stay")
			}
		}
	})
	t.Run("no entry", func(t *testing.T) {
		enforce(s)
		if operator.Policy(t, securityPolicy, s.Payments, "m2m.payment-api.private") != nil {
			t.Error("the policy stays")
		}
		operator.IsReady(t, s.API)
		if c := conditionOf(s, v1alpha1.ConditionEnforced); c != nil {
			t.Errorf("the condition stays: %v", c)
		}
	})
}

func conditionOf(s *operator.Stage, kind string) *metav1.Condition {
	s.T.Helper()
	if err := operator.Kube.Get(s.T.Context(), client.ObjectKeyFromObject(s.API), s.API); err != nil {
		s.T.Fatal(err)
	}
	for i := range s.API.Status.Conditions {
		if s.API.Status.Conditions[i].Type == kind {
			return &s.API.Status.Conditions[i]
		}
	}
	return nil
}

// TestKeysAtAGateway: a new key reaches the gateway before a token that it signed is
// published, and a revoked key leaves at once.
func TestKeysAtAGateway(t *testing.T) {
	for name, tc := range map[string]struct {
		gateway enforcement.Gateway
		entry   v1alpha1.Enforcement
		wait    time.Duration
	}{
		"Envoy Gateway": {enforcement.EnvoyGateway, atRoute(), delivery.GatewayDelay},
		"Istio":         {enforcement.Istio, inMesh(), 45*time.Second + delivery.GatewayDelay},
	} {
		t.Run(name, func(t *testing.T) {
			installed(t, tc.gateway)
			op := operator.StartStepped(t, operator.Enforcing(tc.gateway))
			s := operator.NewStage(t, op)
			enforce(s, tc.entry)
			has := func() []string {
				t.Helper()
				if tc.gateway == enforcement.EnvoyGateway {
					return routeKeys(s)
				}
				rules, _, _ := unstructured.NestedSlice(operator.Policy(t, authentication, s.Payments, policyName).Object, "spec", "jwtRules")
				return keysIn(t, rules[0].(map[string]any)["jwks"].(string))
			}
			first := s.AS.KeyID()
			s.Due()
			if _, err := s.AS.RotateKey(); err != nil {
				t.Fatal(err)
			}
			s.AS.ResetRequests()
			s.Settle()
			s.IsHeld()
			if !slices.Contains(has(), s.AS.KeyID()) {
				t.Fatal("the gateway does not have the new key")
			}
			op.Advance(tc.wait - time.Millisecond)
			s.Settle()
			s.IsHeld()
			op.Advance(time.Millisecond)
			s.Settle()
			s.IsPublished()

			for range 70 { // whatever is left of the rate of writes
				op.Advance(time.Second)
			}
			s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = []string{first} })
			s.Settle()
			if slices.Contains(has(), first) {
				t.Error("the revoked key is still at the gateway")
			}
		})
	}
}

// TestARevokedKeyLeavesInAnyCase: not even the API server's refusal keeps it.
func TestARevokedKeyLeavesInAnyCase(t *testing.T) {
	s := routeStage(t)
	first := s.AS.KeyID()
	if _, err := s.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.Op.Advance(authserver.DefaultKeyRefreshInterval)
	s.Settle()
	lift := operator.Refuse(t, s.Payments, "configmaps", "m2m-jwks", "'no ConfigMaps'")
	s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = []string{first} })
	for range 3 {
		s.Op.CatchUp(s.Payments, s.Shop)
		s.Op.Round(s.Payments, s.Shop)
	}
	var m corev1.ConfigMap
	err := operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: s.Payments, Name: keysName}, &m)
	if !apierrors.IsNotFound(err) && slices.Contains(keysIn(t, m.Data["jwks"]), first) {
		t.Error("the revoked key is still at the gateway")
	}
	enforced(s, v1alpha1.ReasonObjectRefused, "no ConfigMaps")
	lift()
	s.Op.Advance(2 * time.Minute)
	s.Settle()
	says(s, accepts())
	enforced(s, v1alpha1.ReasonEnforced)
}

// TestClosedByDefault: a decision closes the gateway, what is unknown changes nothing, and
// where nothing was known yet, nothing passes.
func TestClosedByDefault(t *testing.T) {
	s := routeStage(t)
	says(s, accepts())
	isClosed := func(want bool) {
		t.Helper()
		spec := operator.Policy(t, securityPolicy, s.Payments, policyName).Object["spec"].(map[string]any)
		_, hasRules, _ := unstructured.NestedSlice(spec, "authorization", "rules")
		action, _, _ := unstructured.NestedString(spec, "authorization", "defaultAction")
		if hasRules == want || action != "Deny" {
			t.Errorf("closed: %t, want %t: %v", !hasRules, want, spec)
		}
	}
	isClosed(false)
	t.Run("the server is gone for the moment", func(t *testing.T) {
		operator.Remove(t, s.Server(s.Payments))
		s.Settle()
		enforced(s, v1alpha1.ReasonNotAccepted, "what the gateway was told before stays")
		isClosed(false)
		another := atRoute()
		another.Name = "other"
		enforce(s, atRoute(), another)
		if operator.Policy(t, securityPolicy, s.Payments, "m2m.payment-api.other") == nil {
			t.Error("a new entry passes everything")
		}
		isClosed(false)
		operator.Create(t, s.Server(s.Payments))
		s.Settle()
		enforce(s, atRoute())
		says(s, accepts())
		enforced(s, v1alpha1.ReasonEnforced)
	})
	t.Run("the API refers to a server that does not exist", func(t *testing.T) {
		keys, token := routeKeys(s), s.Token()
		refer := func(to v1alpha1.ObjectName) {
			operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.AuthorizationServerRef.Name = to })
			operator.FromCache(t, s.Op, s.API)
			s.Settle()
		}
		was := s.API.Spec.AuthorizationServerRef.Name
		refer("missing")
		enforced(s, v1alpha1.ReasonNotAccepted, "what the gateway was told before stays")
		isClosed(false)
		if diff := cmp.Diff(keys, routeKeys(s)); diff != "" {
			t.Errorf("keys at the gateway (-want +got):\n%s", diff)
		}
		if s.Token() != token {
			t.Error("the client's token was taken away or replaced")
		}
		if s.Bundle() == nil {
			t.Error("the bundle was taken away")
		}
		refer(was)
		says(s, accepts())
		enforced(s, v1alpha1.ReasonEnforced)
	})
	t.Run("tokens name the API by something else", func(t *testing.T) {
		operator.Change(t, s.API, func(a *v1alpha1.APIResource) {
			a.Spec.Verification.Audience = v1alpha1.TokenAudience{Claim: "client_id", Values: []v1alpha1.ClaimValue{"x"}}
		})
		operator.FromCache(t, s.Op, s.API)
		s.Settle()
		enforced(s, v1alpha1.ReasonNotEnforceable, "spec.verification.audience", "refuses every request")
		isClosed(true)
		operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Verification.Audience = v1alpha1.TokenAudience{} })
		operator.FromCache(t, s.Op, s.API)
		s.Settle()
		isClosed(false)
	})
	t.Run("the server's tokens are opaque", func(t *testing.T) {
		s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) {
			a.TokenFormat, a.JWKS = v1alpha1.TokenFormatOpaque, v1alpha1.JWKSPolicy{}
		})
		s.Settle()
		enforced(s, v1alpha1.ReasonOpaqueToken, "refuses every request")
		isClosed(true)
	})
}

// TestOthersObjectsAreLeftAlone: neither a policy without the label, nor one that carries
// it, nor a ConfigMap is touched.
func TestOthersObjectsAreLeftAlone(t *testing.T) {
	for name, dress := range map[string]func(client.Object){
		"without the label": func(client.Object) {},
		"with the label": func(o client.Object) {
			o.SetLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
		},
		"of another APIResource": func(o client.Object) {
			o.SetLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
			o.SetOwnerReferences([]metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "APIResource", Name: "payment-api", UID: "another", Controller: ptr.To(true),
			}})
		},
	} {
		for _, kind := range []string{"SecurityPolicy", "ConfigMap"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				installed(t, enforcement.EnvoyGateway)
				op := operator.StartStepped(t, operator.Enforcing(enforcement.EnvoyGateway))
				s := operator.NewStage(t, op)
				var foreign client.Object = operator.NewPolicy(securityPolicy, s.Payments, policyName)
				if kind == "ConfigMap" {
					foreign = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.Payments, Name: keysName}, Data: map[string]string{"jwks": "theirs"}}
				}
				dress(foreign)
				operator.Create(t, foreign)
				version := foreign.GetResourceVersion()
				op.CatchUp(s.Payments)
				enforce(s, atRoute())
				enforced(s, v1alpha1.ReasonObjectNotOwned, kind, foreign.GetName())
				if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign); err != nil || foreign.GetResourceVersion() != version {
					t.Errorf("it was touched: %v", err)
				}
				if kind == "ConfigMap" { // the route must not be open meanwhile
					policy := operator.Policy(t, securityPolicy, s.Payments, policyName)
					if policy == nil {
						t.Fatal("there is no policy: the route is open")
					}
					spec := policy.Object["spec"]
					if _, open, _ := unstructured.NestedSlice(spec.(map[string]any), "authorization", "rules"); open {
						t.Error("a policy with somebody else's keys was written")
					}
				}
				labelled := foreign.GetLabels() != nil
				operator.Remove(t, foreign)
				op.CatchUp(s.Payments)
				switch {
				case kind == "ConfigMap":
				case labelled:
					op.SeesPolicy(securityPolicy, s.Payments, policyName)
				default: // the operator does not follow policies without the label
					op.Advance(10 * time.Second)
				}
				s.Settle()
				if operator.Policy(t, securityPolicy, s.Payments, policyName) == nil || !isThere(t, keysObject(s)) {
					t.Error("the name is free, and the operator does not write its own object")
				}
				says(s, accepts())
				enforced(s, v1alpha1.ReasonEnforced)
			})
		}
	}
}

// TestByItself runs the operator as in production: the watches do what the other tests do
// by hand.
func TestByItself(t *testing.T) {
	installed(t, enforcement.EnvoyGateway)
	installed(t, enforcement.Istio)
	operator.Start(t, operator.Enforcing(enforcement.EnvoyGateway, enforcement.Istio))
	w := operator.NewWorld(t)
	api, cart := w.Story()
	operator.IsReady(t, cart)
	mesh := inMesh()
	mesh.Name = "mesh"
	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Enforcement = []v1alpha1.Enforcement{atRoute(), mesh} })
	var policy *unstructured.Unstructured
	operator.Eventually(t, func() error {
		if policy = operator.Policy(t, securityPolicy, w.Payments, policyName); policy == nil {
			return fmt.Errorf("there is no policy")
		}
		return nil
	})
	policy.Object["status"] = map[string]any{"ancestors": []any{map[string]any{"conditions": []any{
		map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": policy.GetGeneration()},
	}}}}
	if err := operator.Kube.Status().Update(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	operator.HasCondition(t, api, v1alpha1.ConditionEnforced, metav1.ConditionTrue, v1alpha1.ReasonEnforced)
	operator.Remove(t, operator.NewPolicy(authorization, w.Payments, "m2m.payment-api.mesh"))
	operator.Eventually(t, func() error {
		if operator.Policy(t, authorization, w.Payments, "m2m.payment-api.mesh") == nil {
			return fmt.Errorf("the policy does not come back")
		}
		return nil
	})
	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Enforcement = nil })
	for _, gone := range []client.Object{
		operator.NewPolicy(securityPolicy, w.Payments, policyName), operator.NewPolicy(authentication, w.Payments, "m2m.payment-api.mesh"),
		operator.NewPolicy(authorization, w.Payments, "m2m.payment-api.mesh"),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.Payments, Name: keysName}},
	} {
		operator.IsGone(t, gone)
	}
}
