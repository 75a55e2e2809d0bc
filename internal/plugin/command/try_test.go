// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"context"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// webhook creates a webhook for the pods of a namespace, which nobody serves.
func webhook(t *testing.T, namespace string, labels map[string]string) *admissionv1.MutatingWebhookConfiguration {
	t.Helper()
	none, fail, url := admissionv1.SideEffectClassNone, admissionv1.Fail, "https://127.0.0.1:1/inject-pod"
	w := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "check-" + namespace, Labels: labels}}
	w.Webhooks = []admissionv1.MutatingWebhook{{
		Name: "pods.m2m-operator.io", ClientConfig: admissionv1.WebhookClientConfig{URL: &url}, SideEffects: &none, FailurePolicy: &fail,
		AdmissionReviewVersions: []string{"v1"}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
		Rules: []admissionv1.RuleWithOperations{{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
		}},
	}}
	operator.Create(t, w)
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), w); err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestCheckTries calls the webhook through the API server, compares clocks and asks issuers.
func TestCheckTries(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	shop, elsewhere := s.Shop, operator.NewNamespace(t, "elsewhere", nil)
	webhook(t, shop, map[string]string{"app.kubernetes.io/name": "m2m-operator"})
	check := func(namespace string, args ...string) answer {
		t.Helper()
		return run(t, op.Clock.Now(), append([]string{"check", "-n", namespace}, args...)...)
	}
	operator.Eventually(t, func() error { // a new webhook takes effect after a short delay
		pod := operator.AnnotatedPod(shop, "probe")
		if err := operator.Kube.Create(t.Context(), pod, client.DryRunAll); err == nil {
			return operator.ErrNotCached
		}
		return nil
	})
	a := check(shop)
	a.ends(t, 3)
	says(t, a.out, "an annotated pod cannot be created: ", "failed calling webhook", "the clocks of the API server, the operator and this machine agree", "authorization servers answer the operator")
	a = check(elsewhere)
	says(t, a.out, `the webhook leaves out namespace "`+elsewhere+`"`)
	says(t, run(t, op.Clock.Now().Add(-time.Hour), "check", "-n", elsewhere).out, "this machine's clock differs by -")

	// Another tenant names the same issuer, and hides nothing by that.
	operator.Create(t, &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: elsewhere, Name: "auth"},
		Spec: v1alpha1.AuthorizationServerSpec{
			Issuer: s.AS.Issuer(), Endpoints: v1alpha1.AuthorizationServerEndpoints{
				Token: v1alpha1.EndpointURL(s.AS.Issuer() + "/token"), JWKS: v1alpha1.EndpointURL(s.AS.Issuer() + "/jwks"),
			},
		},
	})
	a = check(elsewhere, "--probe")
	says(t, a.out, s.Shop+"/auth "+s.AS.Issuer()+": ", elsewhere+"/auth "+s.AS.Issuer()+": not asked, its endpoints are in its spec")
	says(t, a.out, "issuers from here", s.AS.Issuer()+": ", "--allow-insecure-http")
	a = check(elsewhere, "--probe", "--allow-insecure-http", "--allow-loopback")
	says(t, a.out, " answer this machine")
	s.AS.SetFault(oidc.JWKS, operator.Answer(503, ""))
	a = check(elsewhere, "--probe", "--allow-insecure-http", "--allow-loopback")
	says(t, a.out, "503")

	// Who may not create pods is told so, and nothing of a webhook that fails.
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "webhooks-" + shop}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"list"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "dora"}},
	}
	operator.Create(t, role, binding)
	t.Cleanup(func() {
		for _, o := range []client.Object{role, binding} {
			if err := operator.Kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		}
	})
	operator.Eventually(t, func() error {
		a = check(shop, "--as", "dora")
		if a.out == "" {
			return operator.ErrNotCached
		}
		return nil
	})
	says(t, a.out, `you may not create pods in namespace "`+shop+`"`)
}
