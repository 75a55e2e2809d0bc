// SPDX-License-Identifier: Apache-2.0

package shard_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestAShardsTokenWaitsForGateways: only the main instance writes policies. A client of a
// shard publishes a token with a new key when the gateway has had the key for a while.
func TestAShardsTokenWaitsForGateways(t *testing.T) {
	for name, tc := range map[string]struct {
		gateway enforcement.Gateway
		entry   v1alpha1.Enforcement
		wait    time.Duration // from when the gateway's objects have the key
	}{
		"Envoy Gateway": {enforcement.EnvoyGateway, v1alpha1.Enforcement{Name: "public", EnvoyGateway: v1alpha1.EnvoyGatewayEnforcement{
			TargetRefs: []v1alpha1.EnvoyGatewayTarget{{Kind: "HTTPRoute", Name: "payment"}},
		}}, delivery.GatewayDelay},
		"Istio": {enforcement.Istio, v1alpha1.Enforcement{Name: "public", Istio: v1alpha1.IstioEnforcement{
			Selector: v1alpha1.IstioSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "payment"}},
		}, Drain: "10s"}, delivery.GatewayDelay + 10*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := envtest.InstallCRDs(operator.RESTConfig, envtest.CRDInstallOptions{CRDs: kubetest.GatewayKinds()}); err != nil {
				t.Fatal(err)
			}
			s := newInstances(t, rest.CopyConfig(operator.RESTConfig), tc.gateway)
			s.Rarely()
			operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Enforcement = []v1alpha1.Enforcement{tc.entry} })
			operator.FromCache(t, s.main, s.API)
			s.Settle()
			s.handOver("a")
			shardSees := func() {
				t.Helper()
				follow(s.a, s.World)
				s.a.Agrees(s.a.Client, &corev1.ConfigMapList{}, client.InNamespace(s.Payments), client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
				if err := s.a.ReconcileClient(s.Cart); err != nil { // it follows a kind once it needs it
					t.Fatal(err)
				}
				for _, k := range gateways.Kinds(tc.gateway) {
					s.a.SeesPolicy(k, s.Payments, "m2m.payment-api.public")
				}
			}
			kid, err := s.AS.RotateKey()
			if err != nil {
				t.Fatal(err)
			}
			s.Due()
			s.AS.ResetRequests()
			s.reconciles(s.a)
			s.asks() // fetches the key
			waits := func(when string) {
				t.Helper()
				s.reconciles(s.a)
				if operator.KeyOfToken(t, s.Token()) == kid {
					t.Fatalf("the token was published %s", when)
				}
			}
			shardSees()
			s.main.Advance(time.Minute)
			waits("before the gateway has the key")
			s.Settle()
			shardSees()
			s.main.Advance(tc.wait - time.Millisecond)
			waits("as soon as the gateway's objects have the key")
			s.main.Advance(time.Millisecond)
			s.reconciles(s.a)
			if got := operator.KeyOfToken(t, s.Token()); got != kid {
				t.Errorf("the token is signed by %s, want the new key %s", got, kid)
			}
			if n := len(s.AS.TokenRequests()); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}
