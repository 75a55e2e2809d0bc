// SPDX-License-Identifier: Apache-2.0

package installation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// podOf is a pod that a controller has created.
func podOf(kind, owner, hash string, annotations ...string) *metav1.PartialObjectMetadata {
	pod := inventory.Metadata("Pod")
	pod.Namespace, pod.Name, pod.Annotations = "shop", owner+"-x", map[string]string{}
	for _, a := range annotations {
		pod.Annotations[a] = "cart"
	}
	if hash != "" {
		pod.Labels = map[string]string{"pod-template-hash": hash}
	}
	if kind != "" {
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, Controller: new(true)}}
	}
	return pod
}

func TestUninstall(t *testing.T) {
	client := func(change func(*v1alpha1.M2MClient)) *v1alpha1.M2MClient {
		c := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
		change(c)
		return c
	}
	for name, tc := range map[string]struct {
		change func(*Found)
		check  string // that is not OK
		result Result
		detail string
	}{
		"nothing depends on it": {change: func(*Found) {}},
		"pods without annotations": {change: func(f *Found) {
			f.Objects.Add(podOf("ReplicaSet", "web-abc", "abc"))
		}},
		"annotated pods of one Deployment": {func(f *Found) {
			for range 3 {
				f.Objects.Add(podOf("ReplicaSet", "cart-abc", "abc", v1alpha1.ClientAnnotation))
			}
		}, Pods, Warning, "3 pods are annotated, whose successors would start without tokens and bundles: Deployment shop/cart"},
		"annotated pods of other owners": {func(f *Found) {
			f.Objects.Add(podOf("StatefulSet", "db", "", v1alpha1.VerifyAnnotation))
			f.Objects.Add(podOf("ReplicaSet", "cart-abc", "", v1alpha1.ClientAnnotation))
			f.Objects.Add(podOf("", "alone", "", v1alpha1.ClientAnnotation))
		}, Pods, Warning, "bundles: Pod shop/alone-x, ReplicaSet shop/cart-abc, StatefulSet shop/db"},
		"many owners": {func(f *Found) {
			for i := range 12 {
				f.Objects.Add(podOf("Job", fmt.Sprintf("j%02d", i), "", v1alpha1.ClientAnnotation))
			}
		}, Pods, Warning, "Job shop/j09 and 2 more"},
		"tokens that expire": {func(f *Found) {
			f.Objects.Add(client(func(c *v1alpha1.M2MClient) {
				for _, in := range []time.Duration{2 * time.Hour, time.Hour, -time.Hour} {
					c.Status.Tokens = append(c.Status.Tokens, v1alpha1.TokenStatus{ExpiresAt: &metav1.Time{Time: noon.Add(in)}})
				}
				c.Status.Tokens = append(c.Status.Tokens, v1alpha1.TokenStatus{})
			}))
		}, Tokens, Warning, "nobody would replace 2 tokens; the first expires at 2026-05-01T13:00:00Z"},
		"registered objects": {func(f *Found) {
			f.Objects.Add(client(func(c *v1alpha1.M2MClient) { c.Finalizers = []string{v1alpha1.ProvisioningFinalizer} }))
			f.Objects.Add(&v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: "payments", Name: "api", Finalizers: []string{"example.com/other"}}})
			f.Objects.Add(&v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "company", Finalizers: []string{v1alpha1.ProvisioningFinalizer}}})
		}, Finalizers, Warning, "2 objects have a part at an authorization server that only the operator removes: M2MClient shop/cart, ClusterAuthorizationServer company"},
		"bundles": {func(f *Found) { f.Objects.Add(inventory.Metadata("ConfigMap")) }, Bundles, Warning, "1 ConfigMap with"},
		"policies of gateways": {func(f *Found) {
			for _, kind := range []string{"SecurityPolicy", "AuthorizationPolicy"} {
				p := metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: kind}, ObjectMeta: metav1.ObjectMeta{Namespace: "payments", Name: "m2m.payment-api.public"}}
				f.GatewayPolicies = append(f.GatewayPolicies, p)
			}
		}, Gateways, Warning, "2 policies of gateways would stay with the keys of today, refuse the tokens of the servers' next keys, and go on accepting revoked ones: " +
			"AuthorizationPolicy payments/m2m.payment-api.public, SecurityPolicy payments/m2m.payment-api.public"},
		"policies of gateways that may not be read": {func(f *Found) {
			f.Hidden[Gateways] = inventory.Right{Verb: "list", Resource: "securitypolicies.gateway.envoyproxy.io"}
		}, Gateways, Unknown, "you may not list securitypolicies"},
		"CRDs that go with their release": {func(f *Found) {
			f.Kinds[0].Labels = map[string]string{"app.kubernetes.io/managed-by": "Helm"}
			f.Objects.Add(client(func(*v1alpha1.M2MClient) {}))
		}, Kinds, Warning, "helm uninstall would delete the CRDs, and with them 1 object and"},
		"CRDs that stay": {change: func(f *Found) {
			f.Kinds[0].Labels, f.Kinds[0].Annotations = map[string]string{"app.kubernetes.io/managed-by": "Helm"}, map[string]string{keepPolicy: "keep"}
		}},
		"pods that may not be read": {func(f *Found) {
			f.Hide([]inventory.Right{{Verb: "list", Resource: inventory.Pods}})
		}, Pods, Unknown, "you may not list pods in all namespaces"},
		"servers that may not be read": {func(f *Found) {
			f.Hide([]inventory.Right{{Verb: "list", Resource: inventory.Servers}})
		}, Finalizers, Unknown, "you may not list authorizationservers"},
	} {
		t.Run(name, func(t *testing.T) {
			f := sound(t)
			tc.change(&f)
			var checks []string
			for _, got := range Uninstall(f, noon) {
				checks = append(checks, got.Check)
				want := OK
				if got.Check == tc.check {
					want = tc.result
				}
				if got.Result != want || got.Check == tc.check && !strings.Contains(got.Detail, tc.detail) {
					t.Errorf("%s is %s, want %s: %s", got.Check, got.Result, want, got.Detail)
				}
				if (got.Result == Warning) != (got.Advice != "") {
					t.Errorf("%s is %s and has the advice %q", got.Check, got.Result, got.Advice)
				}
			}
			if diff := cmp.Diff([]string{Pods, Tokens, Finalizers, Bundles, Gateways, Kinds}, checks); diff != "" {
				t.Errorf("checks (-want +got):\n%s", diff)
			}
		})
	}
}
