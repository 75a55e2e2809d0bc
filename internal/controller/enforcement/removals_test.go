// SPDX-License-Identifier: Apache-2.0

package enforcement_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// flood is more changes than the operator follows at once in these tests.
const flood = 10

// inBothForms runs a test with the policy of each gateway, and the object that has the keys.
func inBothForms(t *testing.T, test func(*testing.T, *operator.Stage, atGateway)) {
	t.Run("Envoy Gateway", func(t *testing.T) {
		s := routeStage(t)
		s.Op.Enforcement.WriteOnly(flood - 2)
		test(t, s, atGateway{
			securityPolicy, func(t *testing.T) bool { return refusesAll(t, s, securityPolicy) },
			func() client.Object { return keysObject(s) }, func() []string { return routeKeys(s) },
			func() { s.Op.SeesPolicy(securityPolicy, s.Payments, policyName) },
		})
	})
	t.Run("Istio", func(t *testing.T) {
		s := meshStage(t)
		s.Op.Enforcement.WriteOnly(flood - 2)
		test(t, s, atGateway{
			authorization, func(t *testing.T) bool { return refusesAll(t, s, authorization) },
			func() client.Object { return operator.NewPolicy(authentication, s.Payments, policyName) },
			func() []string {
				u := operator.Policy(t, authentication, s.Payments, policyName)
				rules, _, _ := unstructured.NestedSlice(u.Object, "spec", "jwtRules")
				return keysIn(t, rules[0].(map[string]any)["jwks"].(string))
			},
			func() {
				if operator.Policy(t, authentication, s.Payments, policyName) != nil {
					s.Op.SeesPolicy(authentication, s.Payments, policyName)
				}
				s.Op.SeesPolicy(authorization, s.Payments, policyName)
			},
		})
	})
}

// atGateway looks at what a gateway has.
type atGateway struct {
	gate       gateways.Kind
	refusesAll func(*testing.T) bool
	withKeys   func() client.Object
	keys       func() []string
	seen       func()
}

// writes lets the operator write an API's objects at its gateways.
func writes(s *operator.Stage) {
	s.T.Helper()
	if _, err := s.Op.Enforcement.Reconcile(s.T.Context(), operator.RequestOf(client.ObjectKeyFromObject(s.API))); err != nil {
		s.T.Fatal(err)
	}
}

// sawKeys waits until the operator has seen the present state of the ConfigMap with the keys.
func sawKeys(s *operator.Stage) {
	s.T.Helper()
	s.Op.Agrees(s.Op.Client, &corev1.ConfigMapList{}, client.InNamespace(s.Payments), client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
}

// floods uses up the rate at which the operator writes an API's policy, in both forms. The
// tenant closes the gateway, changes the policy that refuses requests, opens the gateway,
// and changes the rules.
func floods(s *operator.Stage, at atGateway) {
	s.T.Helper()
	byClaim := func(a v1alpha1.TokenAudience) {
		operator.Change(s.T, s.API, func(api *v1alpha1.APIResource) { api.Spec.Verification.Audience = a })
		operator.FromCache(s.T, s.Op, s.API)
		s.Settle()
	}
	byClaim(v1alpha1.TokenAudience{Claim: "client_id", Values: []v1alpha1.ClaimValue{"x"}})
	for i := range flood {
		u := operator.Policy(s.T, at.gate, s.Payments, policyName)
		u.Object["spec"].(map[string]any)["note"] = strconv.Itoa(i)
		if err := operator.Kube.Update(s.T.Context(), u); err != nil {
			s.T.Fatal(err)
		}
		at.seen()
		writes(s)
	}
	s.Op.Advance(2 * time.Second) // the policy was changed too often to be read
	byClaim(v1alpha1.TokenAudience{})
	if at.refusesAll(s.T) {
		s.T.Fatal("the gateway is closed still")
	}
	for i := range flood {
		operator.Change(s.T, s.API, func(a *v1alpha1.APIResource) {
			a.Spec.Enforcement[0].Rules = []v1alpha1.EnforcementRule{{Name: "flood", Paths: []v1alpha1.EnforcementPath{{Type: v1alpha1.PathExact, Value: fmt.Sprintf("/%d", i)}}}}
		})
		operator.FromCache(s.T, s.Op, s.API)
		writes(s)
	}
	s.Settle()
}

// TestAFloodDelaysNoRemoval: a tenant changes its entry until the operator writes it no more
// often. A decision of the platform against the API closes the gateway at once nevertheless.
func TestAFloodDelaysNoRemoval(t *testing.T) {
	inBothForms(t, func(t *testing.T, s *operator.Stage, at atGateway) {
		floods(s, at)
		enforced(s, v1alpha1.ReasonEnforcing, "is being written")
		s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) {
			a.TokenFormat, a.JWKS = v1alpha1.TokenFormatOpaque, v1alpha1.JWKSPolicy{}
		})
		s.Settle()
		if !at.refusesAll(t) {
			t.Error("the gateway lets requests pass")
		}
	})
}

// TestAToldLieDelaysNoRevocation: a tenant changes what the object with the keys says of its
// own contents, so that no key seems to leave it, and floods. A revoked key leaves at once.
func TestAToldLieDelaysNoRevocation(t *testing.T) {
	for name, lie := range map[string]func(c render.Contents, revoked string) string{
		"no keys": func(c render.Contents, _ string) string { c.Keys = nil; return encoded(c) },
		"other terms, and the keys that will be": func(c render.Contents, revoked string) string {
			c.Terms = "other"
			delete(c.Keys, revoked)
			return encoded(c)
		},
		"nothing": func(render.Contents, string) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			inBothForms(t, func(t *testing.T, s *operator.Stage, at atGateway) {
				first := s.AS.KeyID()
				if _, err := s.AS.RotateKey(); err != nil {
					t.Fatal(err)
				}
				s.Op.Advance(authserver.DefaultKeyRefreshInterval)
				s.Settle()
				if len(at.keys()) != 2 {
					t.Fatalf("the gateway has the keys %v", at.keys())
				}
				for i := range flood {
					lies(s, at, func(o client.Object, contents string) string { return strings.Repeat(" ", 1+i%2) + contents })
				}
				lies(s, at, func(o client.Object, contents string) string {
					var c render.Contents
					if err := json.Unmarshal([]byte(contents), &c); err != nil {
						t.Fatal(err)
					}
					return lie(c, first)
				})
				s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = []string{first} })
				s.Settle()
				if slices.Contains(at.keys(), first) {
					t.Errorf("the revoked key is still at the gateway")
				}
			})
		})
	}
}

func encoded(c render.Contents) string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// lies changes what the object with the keys says of its contents, and lets the operator see it.
func lies(s *operator.Stage, at atGateway, lie func(o client.Object, contents string) string) {
	s.T.Helper()
	o := at.withKeys()
	if err := operator.Kube.Get(s.T.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		s.T.Fatal(err)
	}
	annotations := o.GetAnnotations()
	annotations[v1alpha1.ContentsAnnotation] = lie(o, annotations[v1alpha1.ContentsAnnotation])
	o.SetAnnotations(annotations)
	if err := operator.Kube.Update(s.T.Context(), o); err != nil {
		s.T.Fatal(err)
	}
	if _, is := o.(*corev1.ConfigMap); is {
		sawKeys(s)
	} else {
		at.seen()
	}
	writes(s)
}

// TestKeysThatSomebodyKeepsChanging: whoever may write ConfigMaps puts keys of their own into
// the one with the keys, again and again, until the operator restores it no more often.
// Nothing passes then.
func TestKeysThatSomebodyKeepsChanging(t *testing.T) {
	s := routeStage(t)
	for i := range 70 {
		operator.Change(t, keysObject(s), func(m *corev1.ConfigMap) { m.Data = map[string]string{"jwks": fmt.Sprintf("theirs %d", i)} })
		sawKeys(s)
		writes(s)
	}
	s.Settle()
	m := keysObject(s)
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil || !strings.HasPrefix(m.Data["jwks"], "theirs") {
		t.Fatalf("the operator restores the keys still: %v", err)
	}
	if !refusesAll(t, s, securityPolicy) {
		t.Error("what their keys sign passes")
	}
	s.Op.Advance(time.Minute)
	s.Settle()
	if refusesAll(t, s, securityPolicy) || !slices.Contains(routeKeys(s), s.AS.KeyID()) {
		t.Error("nothing passes although they have stopped")
	}
}

// TestARefusedNarrowingIsTriedAgain: the API server refuses narrower rules. The condition
// says that the wider ones are in force, until the API server takes the narrower.
func TestARefusedNarrowingIsTriedAgain(t *testing.T) {
	s := routeStage(t)
	says(s, accepts())
	lift := operator.Refuse(t, s.Payments, "securitypolicies", "m2m.payment-api", "'not now'")
	enforce(s, atRoute(v1alpha1.EnforcementRule{Name: "read", Methods: []v1alpha1.HTTPMethod{"GET"}, Scopes: []v1alpha1.ScopeName{"payments:read"}}))
	for range 200 { // other terms wait for the tokens in use
		s.Op.Advance(time.Second)
	}
	s.Settle()
	enforced(s, v1alpha1.ReasonObjectRefused, "not now", "what the gateway was told before stays in force")
	rule := func() string {
		rules, _, _ := unstructured.NestedSlice(operator.Policy(t, securityPolicy, s.Payments, policyName).Object, "spec", "authorization", "rules")
		return rules[0].(map[string]any)["name"].(string)
	}
	if rule() != "write" {
		t.Fatalf("the rule %q is in force", rule())
	}
	lift()
	s.Op.Advance(time.Minute)
	s.Settle()
	if rule() != "read" {
		t.Errorf("the rule %q is in force still", rule())
	}
	says(s, accepts())
	enforced(s, v1alpha1.ReasonEnforced)
}
