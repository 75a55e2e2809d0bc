// SPDX-License-Identifier: Apache-2.0

package installation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func certificate(t *testing.T, until time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: noon.Add(-time.Hour * 24 * 400), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// sound returns what a sound installation consists of.
func sound(t *testing.T) Found {
	t.Helper()
	f := Found{
		Version: "v1.37.0", Objects: &inventory.Inventory{}, Hidden: map[string]inventory.Right{},
		Tried: Tried{Namespace: "shop", Injected: true, ServerTime: noon, LocalTime: noon},
	}
	for _, name := range Names {
		crd := apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name}}
		crd.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
		f.Kinds = append(f.Kinds, crd)
	}
	d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "manager"}}
	d.Spec.Replicas = new(int32(2))
	d.Spec.Template.Spec = corev1.PodSpec{ServiceAccountName: "manager", Containers: []corev1.Container{{Image: "m2m-operator:v1", Args: []string{"--leader-elect"}}}}
	d.Status.ReadyReplicas = 2
	f.Deployments = []appsv1.Deployment{d}
	f.Lease = &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: new("pod-1"), LeaseDurationSeconds: new(int32(15)), RenewTime: &metav1.MicroTime{Time: noon.Add(-5 * time.Second)}}}
	f.Webhooks = []admissionv1.MutatingWebhookConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: "injection"}, Webhooks: []admissionv1.MutatingWebhook{{
		ClientConfig: admissionv1.WebhookClientConfig{CABundle: certificate(t, noon.Add(200*24*time.Hour))},
	}}}}
	f.Endpoints = []discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{{}, {Conditions: discoveryv1.EndpointConditions{Ready: new(false)}}}}}
	f.Policies = []admissionv1.ValidatingAdmissionPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "fence"}}}
	f.Bindings = []admissionv1.ValidatingAdmissionPolicyBinding{{Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "fence", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}}
	f.Roles = []rbacv1.ClusterRoleBinding{{Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "system", Name: "manager"}}}}
	return f
}

// advise adds a policy that refuses nothing.
func advise(f *Found, action admissionv1.ValidationAction) {
	p := admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "advice"}}
	p.Spec.FailurePolicy = new(admissionv1.Ignore)
	f.Policies = append(f.Policies, p)
	f.Bindings = append(f.Bindings, admissionv1.ValidatingAdmissionPolicyBinding{
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "advice", ValidationActions: []admissionv1.ValidationAction{action}},
	})
}

func wants(t *testing.T, all []Finding, check string, result Result, detail string) {
	t.Helper()
	i := slices.IndexFunc(all, func(f Finding) bool { return f.Check == check })
	if got := all[i]; got.Result != result || !strings.Contains(got.Detail, detail) {
		t.Errorf("%s is %s, want %s, %s: %s", check, got.Result, result, detail, got.Detail)
	}
}

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Found)
		check  string
		result Result
		detail string
	}{
		"sound":                  {change: func(*Found) {}},
		"a kind is missing":      {func(f *Found) { f.Kinds = f.Kinds[1:] }, Kinds, Failed, "does not exist"},
		"a kind is not served":   {func(f *Found) { f.Kinds[0].Status.Conditions = nil }, Kinds, Failed, "is not established"},
		"no replica is ready":    {func(f *Found) { f.Deployments[0].Status.ReadyReplicas = 0 }, Operator, Failed, "0 of 2 replicas"},
		"a replica is not ready": {func(f *Found) { f.Deployments[0].Status.ReadyReplicas = 1 }, Operator, Warning, "1 of 2 replicas are ready, image m2m-operator:v1"},
		"no lease":               {func(f *Found) { f.Lease = nil }, Leader, Failed, "no replica leads"},
		"an old lease":           {func(f *Found) { f.Lease.Spec.RenewTime.Time = noon.Add(-time.Minute) }, Leader, Failed, "for 1m0s"},
		"no binding":             {func(f *Found) { f.Roles[0].Subjects[0].Name = "other" }, Roles, Failed, "system/manager"},
		"no caBundle":            {func(f *Found) { f.Webhooks[0].Webhooks[0].ClientConfig.CABundle = nil }, Webhook, Failed, "no certificate"},
		"a damaged caBundle": {func(f *Found) {
			f.Webhooks[0].Webhooks[0].ClientConfig.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
		}, Webhook, Failed, "cannot be read"},
		"an expired certificate":            {func(f *Found) { f.Webhooks[0].Webhooks[0].ClientConfig.CABundle = certificate(t, noon.Add(-time.Hour)) }, Webhook, Failed, "expired at"},
		"a certificate that ends":           {func(f *Found) { f.Webhooks[0].Webhooks[0].ClientConfig.CABundle = certificate(t, noon.Add(time.Hour)) }, Webhook, Warning, "expires at"},
		"failures are ignored":              {func(f *Found) { f.Webhooks[0].Webhooks[0].FailurePolicy = new(admissionv1.Ignore) }, Webhook, Warning, "Ignore"},
		"nobody serves, and yet it answers": {func(f *Found) { f.Endpoints[0].Endpoints = f.Endpoints[0].Endpoints[1:] }, Endpoints, Warning, "although the webhook answers"},
		"the webhook has a URL": {change: func(f *Found) {
			f.Webhooks[0].Webhooks[0].ClientConfig.URL, f.Endpoints = new("https://127.0.0.1:9443"), nil
		}},
		"no webhook":            {func(f *Found) { f.Webhooks, f.Endpoints = nil, nil }, Webhook, Warning, "start without tokens"},
		"a policy is not bound": {func(f *Found) { f.Bindings[0].Spec.ValidationActions[0] = admissionv1.Audit }, Policies, Failed, `"fence"`},
		"advice is given":       {change: func(f *Found) { advise(f, admissionv1.Warn) }},
		"advice is not given":   {func(f *Found) { advise(f, admissionv1.Audit) }, Policies, Failed, `"advice" is not bound with Warn`},
		"no policies":           {func(f *Found) { f.Policies = nil }, Policies, Warning, "there is no policy"},
		"objects that nobody sees": {func(f *Found) {
			f.Deployments[0].Spec.Template.Spec.Containers[0].Args = []string{"--watch-namespaces=shop,payments"}
			f.Objects.Add(&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}})
			f.Objects.Add(&v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: "billing"}})
		}, Watched, Warning, "kinds: billing"},
		"objects of namespaces that it watches": {change: func(f *Found) {
			f.Deployments[0].Spec.Template.Spec.Containers[0].Args = []string{"--watch-namespaces=shop,payments"}
			f.Objects.Add(&v1alpha1.AuthorizationServer{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop"},
				Status:     v1alpha1.AuthorizationServerStatus{Conditions: []metav1.Condition{{Type: v1alpha1.ConditionDiscovered, Status: metav1.ConditionTrue}}},
			})
		}},
		"a missing right": {func(f *Found) { f.Hidden[Policies] = inventory.Right{Verb: "list", Resource: "policies"} }, Policies, Unknown, "you may not list policies"},
	} {
		t.Run(name, func(t *testing.T) {
			f := sound(t)
			tc.change(&f)
			findings := Check(f, noon)
			if len(findings) != 12 {
				t.Errorf("there are %d findings", len(findings))
			}
			for _, got := range findings {
				want := OK
				if got.Check == tc.check {
					want = tc.result
				}
				if got.Result != want || got.Check == tc.check && !strings.Contains(got.Detail, tc.detail) {
					t.Errorf("%s is %s, want %s: %s", got.Check, got.Result, want, got.Detail)
				}
				if (got.Result == Failed || got.Result == Warning) && got.Advice == "" {
					t.Errorf("%s has no advice", got.Check)
				}
			}
		})
	}
	t.Run("nobody serves", func(t *testing.T) {
		f := sound(t)
		f.Endpoints, f.Tried.Injected = nil, false
		wants(t, Check(f, noon), Endpoints, Failed, "no pod serves")
	})
	t.Run("one of each", func(t *testing.T) {
		f := sound(t)
		f.Deployments[0].Spec.Replicas, f.Deployments[0].Status.ReadyReplicas = nil, 1
		all := Check(f, noon)
		wants(t, all, Operator, OK, "1 of 1 replica is ready")
		wants(t, all, Roles, OK, "1 ClusterRoleBinding of the operator")
		wants(t, all, Endpoints, OK, "1 pod serves the webhook")
		wants(t, all, Policies, OK, "1 policy is bound")
	})
	t.Run("outside of the cluster", func(t *testing.T) {
		f := sound(t)
		f.Deployments, f.Roles = nil, nil
		all := Check(f, noon)
		wants(t, all, Operator, Warning, "it runs outside of the cluster, or without the label app.kubernetes.io/name=m2m-operator: pod-1 holds the lease")
		wants(t, all, Leader, OK, "pod-1 leads")
		wants(t, all, Roles, OK, "not checked")
		wants(t, all, Watched, OK, "not checked")
	})
	t.Run("outside of the cluster, until it ends", func(t *testing.T) {
		f := sound(t)
		f.Deployments = nil
		all := Check(f, noon.Add(time.Minute))
		wants(t, all, Operator, Failed, "there is no Deployment")
		wants(t, all, Leader, Failed, "has not renewed")
	})
	t.Run("outside of the cluster, perhaps", func(t *testing.T) {
		f := sound(t)
		f.Deployments, f.Lease = nil, nil
		f.Hidden[Leader] = inventory.Right{Verb: "get", Resource: "leases"}
		wants(t, Check(f, noon), Operator, Unknown, "you may not get leases")
	})
	t.Run("nothing", func(t *testing.T) {
		findings := Check(Found{Objects: &inventory.Inventory{}}, noon)
		if findings[1].Result != Failed || findings[2].Result != Failed {
			t.Errorf("without an installation: %+v", findings)
		}
	})
}
