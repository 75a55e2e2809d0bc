// SPDX-License-Identifier: Apache-2.0

package verification

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// TestDefaultScopeIsCarriedNowhere: no claim carries Entra's "/.default", which stands for other
// scopes.
func TestDefaultScopeIsCarriedNowhere(t *testing.T) {
	for scope, want := range map[string][]string{"payments:write": {"scope", "scp"}, "api://payment/.default": nil} {
		if diff := cmp.Diff(want, Carriers(scope, "", "")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", scope, diff)
		}
	}
	if diff := cmp.Diff([]string{"scope", "scp"}, Carriers("api://payment/.default", v1alpha1.CarriedInScopeClaim, "")); diff != "" {
		t.Errorf("a default scope that is declared as carried (-want +got):\n%s", diff)
	}
}

// TestAnEnvoysRequestsAreThoseOfItsRules: each entry for a plain Envoy has a file of its own
// in the bundle.
func TestAnEnvoysRequestsAreThoseOfItsRules(t *testing.T) {
	api := &v1alpha1.APIResource{Spec: v1alpha1.APIResourceSpec{Enforcement: []v1alpha1.Enforcement{
		{Name: "mesh", Istio: v1alpha1.IstioEnforcement{TargetRefs: []v1alpha1.IstioTarget{{Kind: "Gateway", Name: "a"}}}},
		{Name: "anyone", Envoy: &v1alpha1.EnvoyEnforcement{}},
		{Name: "own", Envoy: &v1alpha1.EnvoyEnforcement{}, Rules: []v1alpha1.EnforcementRule{{
			Methods: []v1alpha1.HTTPMethod{"GET", "HEAD"}, Scopes: []v1alpha1.ScopeName{"payments:read"},
			Paths: []v1alpha1.EnforcementPath{{Type: v1alpha1.PathPrefix, Value: "/v1"}, {Type: v1alpha1.PathExact, Value: "/health"}},
		}}},
	}}}
	want := []render.Requests{{Name: "anyone"}, {Name: "own", Rules: []render.Rule{{
		Methods: []string{"GET", "HEAD"}, Paths: []render.Path{{Value: "/v1", Prefix: true}, {Value: "/health"}}, Scopes: []string{"payments:read"},
	}}}}
	if diff := cmp.Diff(want, BundleOf(api, rules.ServerOf(&v1alpha1.AuthorizationServer{})).Formats.Requests); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
