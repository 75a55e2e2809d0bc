// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

func policyClauses(t *testing.T) (all []attempt) {
	t.Helper()
	ns := newNamespace(t, "gateway-clauses")
	for _, kind := range []string{"SecurityPolicy", "RequestAuthentication", "AuthorizationPolicy"} {
		status := ofAPI(policy(ns, "m2m.api.status", kind), "api")
		create(t, status)
		all = append(all, attempt{kind + ": writes its status", patchesStatus(status, `{"status":{"a":"b"}}`), false})
	}
	of := func(name string, change func(*unstructured.Unstructured)) *unstructured.Unstructured {
		u := ofAPI(policy(ns, name, "AuthorizationPolicy"), "api")
		change(u)
		return u
	}
	owned := func(apiVersion, kind, name string, controller bool) *unstructured.Unstructured {
		return of("m2m.api.mine", func(u *unstructured.Unstructured) { u.SetOwnerReferences(ownedBy(apiVersion, kind, name, controller)) })
	}
	beside := of("m2m.api.beside", func(u *unstructured.Unstructured) {
		u.SetLabels(with("team", "payments"))
		u.SetAnnotations(map[string]string{v1alpha1.ContentsAnnotation: "{}", "example.com/note": "x"})
		u.SetFinalizers([]string{"example.com/kept"})
	})
	create(t, beside)
	renamed := func(u *unstructured.Unstructured) {
		u.Object["spec"].(map[string]any)["targetRefs"].([]any)[0].(map[string]any)["name"] = "another"
	}
	for _, namespace := range []string{"kube-public", "kube-node-lease"} {
		all = append(all, attempt{"makes one in " + namespace, creates(of("m2m.api.public", func(u *unstructured.Unstructured) { u.SetNamespace(namespace) })), false})
	}
	rules := ofAPI(policy(ns, "m2m.api.two", "RequestAuthentication"), "api")
	spec := rules.Object["spec"].(map[string]any)
	spec["jwtRules"] = append(spec["jwtRules"].([]any), map[string]any{"issuer": "https://elsewhere.example.com", "jwksUri": "https://elsewhere.example.com"})
	return append(all,
		attempt{"makes one that an APIResource does not control", creates(owned(ours, "APIResource", "api", false)), false},
		attempt{"makes one that another kind of ours controls", creates(owned(ours, "M2MClient", "api", true)), false},
		attempt{"makes one that another's kind controls", creates(owned(theirs, "APIResource", "api", true)), false},
		attempt{"makes one of a longer name", creates(owned(ours, "APIResource", "ap", true)), false},
		attempt{"makes one that annotates for others", creates(of("m2m.api.mine", func(u *unstructured.Unstructured) {
			u.SetAnnotations(map[string]string{v1alpha1.ContentsAnnotation: "{}", "example.com/note": "x"})
		})), false},
		attempt{"makes one that selects workloads", creates(of("m2m.api.selects", func(u *unstructured.Unstructured) {
			u.Object["spec"] = map[string]any{"action": "ALLOW", "selector": map[string]any{"matchLabels": map[string]any{"app": "payment"}}}
		})), true},
		attempt{"makes one with another issuer's address of keys", creates(rules), false},
		attempt{"changes one beside what others have written", updates(beside, renamed), true},
		attempt{"changes another's label", updates(beside, func(u *unstructured.Unstructured) { u.SetLabels(with("team", "bank")) }), false},
		attempt{"takes its label off", updates(beside, func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"team": "payments"}) }), false},
		attempt{"changes another's annotation", updates(beside, func(u *unstructured.Unstructured) {
			u.SetAnnotations(map[string]string{v1alpha1.ContentsAnnotation: "{}", "example.com/note": "y"})
		}), false},
	)
}

// lostPolicyClauses are about policies that nothing controls any more, and about those that
// look like them. Anybody may have written them.
func lostPolicyClauses(t *testing.T) (all []attempt) {
	t.Helper()
	ns := newNamespace(t, "lost-policies")
	like := func(name string, owners []metav1.OwnerReference) *unstructured.Unstructured {
		u := ofAPI(policy(ns, name, "AuthorizationPolicy"), "api")
		u.SetOwnerReferences(owners)
		return u
	}
	bare := func(u *unstructured.Unstructured) *unstructured.Unstructured {
		u.SetAnnotations(nil)
		return u
	}
	unlabelled := like("m2m.api.unlabelled", ownedBy(ours, "APIResource", "api", true))
	unlabelled.SetLabels(nil)
	other := ownedBy("v1", "ConfigMap", "other", false)
	for name, tc := range map[string]struct {
		is      *unstructured.Unstructured
		allowed bool
	}{
		"one that has lost its owner":                             {like("m2m.api.lost", nil), true},
		"one that has another owner, and nothing controls":        {like("m2m.api.beside", other), true},
		"one that has nothing but the label":                      {bare(like("m2m.api.bare", nil)), false},
		"one that an APIResource owns and does not control":       {bare(like("m2m.api.owned", ownedBy(ours, "APIResource", "api", false))), false},
		"one that another's kind controls":                        {like("m2m.api.theirs", ownedBy(theirs, "APIResource", "api", true)), false},
		"one that another kind of ours controls":                  {like("m2m.api.client", ownedBy(ours, "M2MClient", "api", true)), false},
		"one that an APIResource of another name controls":        {like("m2m.api.longer", ownedBy(ours, "APIResource", "ap", true)), false},
		"one without the label":                                   {unlabelled, false},
		"one of another name":                                     {like("open", nil), false},
		"one that is called as an APIResource's and has no entry": {like("m2m.api", nil), false},
	} {
		create(t, tc.is)
		all = append(all, attempt{"deletes " + name, deletes(tc.is), tc.allowed})
	}
	lost, forged := like("m2m.api.lost-2", other), bare(like("m2m.api.bare-2", nil))
	dotted := like("m2m.api.v2.public", ownedBy(ours, "APIResource", "api.v2", true))
	shared := like("m2m.api.shared", append(ownedBy(ours, "APIResource", "api", true), other...))
	loose := like("m2m.api.loose", ownedBy(ours, "APIResource", "api", false))
	create(t, lost, forged, dotted, shared, loose)
	content := func(u *unstructured.Unstructured) {
		u.Object["spec"].(map[string]any)["selector"] = map[string]any{"matchLabels": map[string]any{"app": "payment"}}
	}
	owners := func(owners ...metav1.OwnerReference) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) { u.SetOwnerReferences(owners) }
	}
	api := ownedBy(ours, "APIResource", "api", true)[0]
	return append(all,
		attempt{"owns one again beside another owner", updates(lost, owners(other[0], api)), true},
		attempt{"owns one again instead of another owner", updates(lost, owners(api)), false},
		attempt{"changes one that an APIResource owns and does not control", updates(loose, content), false},
		attempt{"takes over one that has nothing but the label", updates(forged, func(u *unstructured.Unstructured) { ofAPI(u, "api") }), false},
		attempt{"takes one over for an APIResource of a shorter name", updates(dotted, owners(api)), false},
		attempt{"takes the other owner off", updates(shared, owners(api)), false},
		attempt{"makes one with another owner", creates(like("m2m.api.two", append(other, api))), false},
	)
}

// ownerClauses are about the owners of ConfigMaps: keys that nothing controls any more, and
// owners beside the operator's.
func ownerClauses(t *testing.T) (all []attempt) {
	t.Helper()
	ns := newNamespace(t, "owner-clauses")
	like := func(name string, owners []metav1.OwnerReference) *corev1.ConfigMap {
		c := ofAPI(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}, "api")
		c.OwnerReferences = owners
		return c
	}
	unlabelled := like("m2m-jwks.api.unlabelled", nil)
	unlabelled.Labels = nil
	other := ownedBy("v1", "ConfigMap", "other", false)
	for name, tc := range map[string]struct {
		is      *corev1.ConfigMap
		allowed bool
	}{
		"keys that have lost their owner":               {like("m2m-jwks.api.lost", nil), true},
		"keys that have another owner":                  {like("m2m-jwks.api.beside", other), true},
		"keys that look lost and that another controls": {like("m2m-jwks.api.theirs", ownedBy(theirs, "APIResource", "api", true)), false},
		"keys that look lost and have no label":         {unlabelled, false},
		"what looks lost and has another name":          {like("settings", nil), false},
		"what is called as keys and has no entry":       {like("m2m-jwks.api", nil), false},
	} {
		create(t, tc.is)
		all = append(all, attempt{"deletes " + name, deletes(tc.is), tc.allowed})
	}
	lost, dotted := like("m2m-jwks.api.lost-2", other), like("m2m-jwks.api.v2.public", ownedBy(ours, "APIResource", "api.v2", true))
	bundle, held := like("m2m-verify.payments.api", other), like("m2m-verify.payments.held", ownedBy(theirs, "Bundle", "held", true))
	token := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "token", Labels: managed, OwnerReferences: owner("cart")}}
	create(t, lost, dotted, bundle, held, token)
	owners := func(owners ...metav1.OwnerReference) func(*corev1.ConfigMap) {
		return func(c *corev1.ConfigMap) { c.OwnerReferences = owners }
	}
	content := func(c *corev1.ConfigMap) { c.Data = map[string]string{"jwks": "{}"} }
	api := ownedBy(ours, "APIResource", "api", true)[0]
	return append(all,
		attempt{"owns keys again beside another owner", updates(lost, owners(other[0], api)), true},
		attempt{"owns keys again instead of another owner", updates(lost, owners(api)), false},
		attempt{"takes keys over for an APIResource of a shorter name", updates(dotted, owners(api)), false},
		attempt{"makes keys with another owner", creates(like("m2m-jwks.api.two", append(other, api))), false},
		attempt{"changes a bundle beside its owner", updates(bundle, content), true},
		attempt{"changes a bundle that another controls", updates(held, content), true},
		attempt{"takes the owner of a bundle off", updates(bundle, owners()), false},
		attempt{"takes the controller of a bundle off", updates(held, owners()), false},
		attempt{"controls a bundle", updates(bundle, owners(other[0], api)), false},
		attempt{"gives a token Secret another owner", updates(token, func(s *corev1.Secret) { s.OwnerReferences = append(s.OwnerReferences, other...) }), false},
	)
}

func statusClauses(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "status-clauses")
	objects := kinds(ns)
	server := objects["AuthorizationServer"].(*v1alpha1.AuthorizationServer)
	server.Spec.Endpoints.Token = "http://auth.example.com/token"
	api, cart := objects["APIResource"], objects["M2MClient"].(*v1alpha1.M2MClient)
	cart.Spec.Access = []v1alpha1.Access{
		{APIResourceRef: v1alpha1.APIResourceReference{Name: "api", Namespace: "apis"}},
		{APIResourceRef: v1alpha1.APIResourceReference{Name: "another", Namespace: "others"}},
	}
	create(t, server, api, cart)
	const registered = `{"status":{"provisioning":{"server":{"kind":"AuthorizationServer","namespace":"apis","name":"a","issuer":"https://a.example.com","driver":"Logto"}}}}`
	before := []attempt{ // an administrator's writes
		{"endpoints", patchesStatus(server, `{"status":{"endpoints":{"jwks":"https://old.example.com/jwks","registration":"http://old.example.com/"}}}`), true},
		{"a registration", patchesStatus(api, registered), true},
	}
	for _, b := range before {
		if err := b.do(t.Context(), kube); err != nil {
			t.Fatalf("%s: %v", b.name, err)
		}
	}
	const observed = `{"status":{"observedGeneration":1}}`
	return []attempt{
		{"writes a condition beside older endpoints", patchesStatus(server, observed), true},
		{"writes the endpoint that the spec names, in the clear", patchesStatus(server, `{"status":{"endpoints":{"token":"http://auth.example.com/token"}}}`), true},
		{"writes a condition beside an older registration", patchesStatus(api, observed), true},
		{"forgets an older registration", patchesStatus(api, `{"status":{"provisioning":null}}`), true},
		{"says that a client is registered at the server of one of its APIs", patchesStatus(cart, registered), true},
	}
}

func webhookClauses(t *testing.T) []attempt {
	t.Helper()
	config := func(service string) admissionregistrationv1.WebhookClientConfig {
		return admissionregistrationv1.WebhookClientConfig{
			Service: &admissionregistrationv1.ServiceReference{Namespace: "default", Name: service},
		}
	}
	webhook := func(name string) admissionregistrationv1.MutatingWebhook {
		return admissionregistrationv1.MutatingWebhook{
			Name: name + ".example.com", ClientConfig: config(name), SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"no": "namespace"}},
		}
	}
	two := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "two", Labels: map[string]string{"app": "two"}},
		Webhooks:   []admissionregistrationv1.MutatingWebhook{webhook("first"), webhook("second")},
	}
	first := webhook("first")
	validating := &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "validating"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: first.Name, ClientConfig: first.ClientConfig, SideEffects: first.SideEffects,
			AdmissionReviewVersions: first.AdmissionReviewVersions, NamespaceSelector: first.NamespaceSelector,
		}},
	}
	create(t, two, validating)
	patch := func(operation string) attemptFunc { return patches(two, types.JSONPatchType, `[`+operation+`]`) }
	const bundle = `/clientConfig/caBundle","value":"` + caBundle + `"}`
	return []attempt{
		{"writes two caBundles", patch(`{"op":"add","path":"/webhooks/0` + bundle + `,{"op":"add","path":"/webhooks/1` + bundle), true},
		{"takes a caBundle away", patch(`{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}`), true},
		{"changes the second webhook", patch(`{"op":"replace","path":"/webhooks/1/failurePolicy","value":"Ignore"}`), false},
		{"turns the second webhook to the first one's service", patch(`{"op":"replace","path":"/webhooks/1/clientConfig/service/name","value":"first"}`), false},
		{"changes a label", patch(`{"op":"replace","path":"/metadata/labels/app","value":"one"}`), false},
		{"takes the labels off", patch(`{"op":"remove","path":"/metadata/labels"}`), false},
		{"writes the caBundle of a validating one", patches(validating, types.JSONPatchType, `[{"op":"add","path":"/webhooks/0`+bundle+`]`), false},
	}
}
