// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// Unheard is part of faulty servers' answers and must appear in no status.
const Unheard = "not-for-your-eyes"

// Answer is a fault that answers with a status and a body.
func Answer(status int, body string) *oidc.Fault {
	return &oidc.Fault{Status: status, Body: body}
}

// AskLater is a fault that answers 429 with Retry-After.
func AskLater(value string) *oidc.Fault {
	return &oidc.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {value}}}
}

// Member returns a change of an answer that sets a member to another value.
func Member(name string, value any) func(map[string]any) {
	return func(m map[string]any) { m[name] = value }
}

// OddKey returns a valid key under an ID that a hostile server may choose.
func OddKey(t *testing.T, kid string) any {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"}
}

// Revoke returns a change of a server that revokes these keys.
func Revoke(kids ...string) func(*v1alpha1.AuthorizationServerSpec) {
	return func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RevokedKeyIDs = kids }
}

// refusals counts the policies that Refuse has made, for their names.
var refusals atomic.Int32

// Refuse makes the API server refuse the Secrets, ConfigMaps or SecurityPolicies of a
// namespace whose names have a prefix, until lift is called or the test ends.
func Refuse(t *testing.T, namespace, resource, prefix, message string) (lift func()) {
	t.Helper()
	name := fmt.Sprintf("refuse-%s-%d", namespace, refusals.Add(1))
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
					Rule:       admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{resource}},
				}}},
			},
			Validations: []admissionv1.Validation{{
				Expression:        "!object.metadata.name.startsWith('" + prefix + "')",
				MessageExpression: message,
			}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	}
	Create(t, policy, binding)
	probe := func() error {
		var o client.Object = &corev1.Secret{}
		switch resource {
		case "configmaps":
			o = &corev1.ConfigMap{}
		case "securitypolicies":
			o = NewPolicy(gateways.Kinds(enforcement.EnvoyGateway)[0], namespace, "")
		}
		o.SetNamespace(namespace)
		o.SetName(prefix + "-probe")
		return Kube.Create(t.Context(), o, client.DryRunAll)
	}
	Eventually(t, func() error {
		if probe() == nil {
			return errors.New("the policy is not in force yet")
		}
		return nil
	})
	remove := sync.OnceFunc(func() {
		for _, o := range []client.Object{binding, policy} {
			if err := Kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(remove)
	return func() {
		remove()
		Eventually(t, probe)
	}
}

// Breakdown is a transport between the operator and the API server that makes chosen
// requests fail.
type Breakdown struct {
	next   http.RoundTripper
	method string
	path   string // the suffix of the request's path
	// Armed is the number of requests that will still fail.
	Armed atomic.Int32
	// Met receives a value for each request that fails.
	Met chan struct{}
	// answer fails the request. It may execute the request first.
	answer func(*http.Request, http.RoundTripper) (*http.Response, error)
}

// Broken returns a connection on which the next requests fail.
func Broken(method, path string, times int32, answer func(*http.Request, http.RoundTripper) (*http.Response, error)) (*rest.Config, *Breakdown) {
	b := &Breakdown{method: method, path: path, Met: make(chan struct{}, 16), answer: answer}
	b.Armed.Store(times)
	cfg := rest.CopyConfig(RESTConfig)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		b.next = next
		return b
	})
	return cfg, b
}

// RoundTrip sends a request or makes it fail.
func (b *Breakdown) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != b.method || !strings.HasSuffix(req.URL.Path, b.path) || b.Armed.Add(-1) < 0 {
		return b.next.RoundTrip(req)
	}
	b.Met <- struct{}{}
	return b.answer(req, b.next)
}
