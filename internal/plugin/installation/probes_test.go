// SPDX-License-Identifier: Apache-2.0

package installation_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/installation"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// TestTried judges what was tried: each case changes one thing of a sound installation.
func TestTried(t *testing.T) {
	at := time.Date(2026, 11, 29, 17, 0, 0, 0, time.UTC)
	server := func(kind string, status metav1.ConditionStatus, reason string) *v1alpha1.AuthorizationServer {
		return &v1alpha1.AuthorizationServer{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "auth"},
			Status:     v1alpha1.AuthorizationServerStatus{Conditions: []metav1.Condition{{Type: kind, Status: status, Reason: reason, Message: "Because", LastTransitionTime: metav1.NewTime(at)}}},
		}
	}
	for name, tc := range map[string]struct {
		check  string
		change func(*installation.Found)
		want   installation.Result
		says   string
	}{
		"the webhook injects":     {installation.Injection, func(*installation.Found) {}, installation.OK, `injects an annotated pod of namespace "shop"`},
		"there is no webhook":     {installation.Injection, func(f *installation.Found) { f.Webhooks, f.Tried.Injected = nil, false }, installation.OK, "no webhook to call"},
		"the webhook is not seen": {installation.Injection, func(f *installation.Found) { f.Tried.Injected = false }, installation.Failed, "without calling the webhook"},
		"the webhook does not answer": {installation.Injection, func(f *installation.Found) {
			f.Tried.Refused = `Internal error occurred: failed calling webhook "pods.m2m-operator.io": timeout`
		}, installation.Failed, "an annotated pod cannot be created: "},
		"the webhook refuses": {installation.Injection, func(f *installation.Found) {
			f.Tried.Refused = `admission webhook "pods.m2m-operator.io" denied the request: so it is`
		}, installation.Failed, "so it is"},
		"another's webhook refuses": {installation.Injection, func(f *installation.Found) {
			f.Tried.Refused = `admission webhook "validate.example.com" denied the request: pods.m2m-operator.io`
		}, installation.Warning, "the webhook cannot be tried in namespace"},
		"another's webhook does not answer": {installation.Injection, func(f *installation.Found) {
			f.Tried.Refused = `failed calling webhook "validate.example.com": timeout`
		}, installation.Warning, "validate.example.com"},
		"another's policy refuses": {installation.Injection, func(f *installation.Found) {
			f.Tried.Refused = `ValidatingAdmissionPolicy "images" with binding "images" denied request: no`
		}, installation.Warning, "images"},
		"the webhook is switched off in the namespace": {installation.Injection, func(f *installation.Found) {
			f.Tried.Injected, f.Tried.Labels[v1alpha1.InjectionLabel] = false, "disabled"
		}, installation.Warning, `leaves out namespace "shop"`},
		"the webhook is for other namespaces": {installation.Injection, func(f *installation.Found) {
			f.Tried.Injected, f.Tried.Namespace, f.Tried.Labels = false, "kube-system", nil
		}, installation.Warning, `leaves out namespace "kube-system"`},
		"the labels are hidden": {installation.Injection, func(f *installation.Found) {
			f.Tried.Injected, f.Tried.Labels = false, nil
		}, installation.Unknown, "you may not read"},
		"a quota refuses":        {installation.Injection, func(f *installation.Found) { f.Tried.Refused = "exceeded quota" }, installation.Warning, "exceeded quota"},
		"the clocks agree":       {installation.Clocks, func(*installation.Found) {}, installation.OK, "agree"},
		"no time":                {installation.Clocks, func(f *installation.Found) { f.Tried.ServerTime = time.Time{} }, installation.Unknown, "does not say"},
		"this machine is behind": {installation.Clocks, func(f *installation.Found) { f.Tried.LocalTime = at.Add(-time.Minute) }, installation.Warning, "differs by -1m0s"},
		"the lease is of the future": {installation.Clocks, func(f *installation.Found) {
			renewed := metav1.NewMicroTime(at.Add(time.Minute))
			f.Lease.Spec.RenewTime = &renewed
		}, installation.Failed, "is 1m0s ahead"},
		"a token is of the future": {installation.Clocks, func(f *installation.Found) {
			f.Objects.Clients[0].Status.Tokens[0].IssuedAt = &metav1.Time{Time: at.Add(time.Hour)}
		}, installation.Failed, "token of M2MClient shop/cart in the future"},
		"the issuers answer": {installation.Issuers, func(*installation.Found) {}, installation.OK, "1 authorization server answers the operator"},
		"there are none":     {installation.Issuers, func(f *installation.Found) { f.Objects.Servers = nil }, installation.OK, "there is no authorization server yet"},
		"one does not": {installation.Issuers, func(f *installation.Found) {
			f.Objects.Servers = append(f.Objects.Servers, server("KeysFresh", "False", "Unreachable"))
		}, installation.Warning, "shop/auth: Unreachable since 2026-11-29T17:00:00Z: Because"},
		"one was not asked": {installation.Issuers, func(f *installation.Found) { f.Objects.Servers[0].Status.Conditions = nil }, installation.Warning, "has not asked it yet"},
		"many do not": {installation.Issuers, func(f *installation.Found) {
			for range 7 {
				f.Objects.Servers = append(f.Objects.Servers, server("Discovered", "False", "Unreachable"))
			}
		}, installation.Warning, "; and 2 more"},
		"they answer from here": {installation.FromHere, func(f *installation.Found) { f.Tried.Probes = []installation.Probe{{Issuer: "a"}} }, installation.OK, "1 authorization server answers this machine"},
		"one is not asked from here": {installation.FromHere, func(f *installation.Found) {
			f.Tried.Probes = []installation.Probe{{Issuer: "a"}, {Issuer: "b", Skipped: "so it is"}}
		}, installation.OK, "1 authorization server answers this machine; b: not asked, so it is"},
		"one does not answer from here": {installation.FromHere, func(f *installation.Found) {
			f.Tried.Probes = []installation.Probe{{Server: "shop/auth", Issuer: "a", Failure: "no route"}}
		}, installation.Warning, "shop/auth a: no route"},
		"what a tenant writes forges no line": {installation.Issuers, func(f *installation.Found) {
			s := server("KeysFresh", "False", "Unreachable")
			s.Status.Conditions[0].Message = "Because\nissuers  OK  \x1b[2Jall is well"
			f.Objects.Servers = append(f.Objects.Servers, s)
		}, installation.Warning, "Because issuers  OK  \ufffd[2Jall is well"},
	} {
		t.Run(name, func(t *testing.T) {
			renewed := metav1.NewMicroTime(at)
			f := installation.Found{
				Webhooks: []admissionv1.MutatingWebhookConfiguration{{Webhooks: []admissionv1.MutatingWebhook{{
					Name: "pods.m2m-operator.io", NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
						{Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"kube-system", "m2m-operator-system"}},
						{Key: v1alpha1.InjectionLabel, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"disabled"}},
					}},
				}}}}, Lease: &coordinationv1.Lease{},
				Objects: &inventory.Inventory{
					Servers: []*v1alpha1.AuthorizationServer{server("Discovered", "True", "Discovered")},
					Clients: []*v1alpha1.M2MClient{{
						ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"},
						Status:     v1alpha1.M2MClientStatus{Tokens: []v1alpha1.TokenStatus{{IssuedAt: &metav1.Time{Time: at}}}},
					}},
				},
				Tried: installation.Tried{Namespace: "shop", Labels: map[string]string{"kubernetes.io/metadata.name": "shop"}, Injected: true, ServerTime: at, LocalTime: at.Add(time.Second)},
			}
			f.Lease.Spec.RenewTime = &renewed
			tc.change(&f)
			for _, finding := range installation.Check(f, at) {
				if finding.Check != tc.check {
					continue
				}
				if finding.Result != tc.want || !strings.Contains(finding.Detail, tc.says) {
					t.Errorf("%s: %s, want %s: %s", finding.Result, finding.Detail, tc.want, tc.says)
				}
				return
			}
			t.Error(fmt.Errorf("there is no check %q", tc.check))
		})
	}
}
