// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// policy is a policy of a gateway.
func policy(namespace, name, kind string) *unstructured.Unstructured {
	version := "security.istio.io/v1"
	if kind == "SecurityPolicy" {
		version = "gateway.envoyproxy.io/v1alpha1"
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": version, "kind": kind, "metadata": map[string]any{"namespace": namespace, "name": name}, "spec": specOf(kind),
	}}
}

// specOf returns what the operator writes into a policy, but for the rules.
func specOf(kind string) map[string]any {
	spec := map[string]any{"targetRefs": []any{map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}}}
	switch kind {
	case "SecurityPolicy":
		spec["authorization"] = map[string]any{"defaultAction": "Deny"}
	case "AuthorizationPolicy":
		spec["action"] = "ALLOW"
	default:
		spec["jwtRules"] = []any{map[string]any{"issuer": "https://auth.example.com", "jwks": "{}"}}
	}
	return spec
}

// worse are changes of a spec by which a policy does something else, by what that is.
var worse = map[string]map[string]func(spec map[string]any){
	"SecurityPolicy": {
		"allows what no rule names":                   func(spec map[string]any) { spec["authorization"] = map[string]any{"defaultAction": "Allow"} },
		"decides nothing":                             func(spec map[string]any) { delete(spec, "authorization") },
		"asks another host":                           func(spec map[string]any) { spec["extAuth"] = map[string]any{} },
		"is for other namespaces":                     func(spec map[string]any) { spec["targetSelectors"] = []any{map[string]any{"kind": "HTTPRoute"}} },
		"is for what a field of older versions names": func(spec map[string]any) { spec["targetRef"] = map[string]any{} },
		"logs people in":                              func(spec map[string]any) { spec["oidc"] = map[string]any{} },
		"asks for passwords":                          func(spec map[string]any) { spec["basicAuth"] = map[string]any{} },
		"asks for API keys":                           func(spec map[string]any) { spec["apiKeyAuth"] = map[string]any{} },
		"lets browsers of other sites in":             func(spec map[string]any) { spec["cors"] = map[string]any{} },
		"fetches keys": func(spec map[string]any) {
			spec["jwt"] = map[string]any{"providers": []any{map[string]any{"name": "a", "remoteJWKS": map[string]any{}}}}
		},
	},
	"AuthorizationPolicy": {
		"asks another host": func(spec map[string]any) { spec["action"] = "CUSTOM" },
		"refuses requests":  func(spec map[string]any) { spec["action"] = "DENY" },
	},
	"RequestAuthentication": {
		"fetches keys": func(spec map[string]any) {
			spec["jwtRules"].([]any)[0].(map[string]any)["jwksUri"] = "https://elsewhere.example.com"
		},
		"discovers keys": func(spec map[string]any) { delete(spec["jwtRules"].([]any)[0].(map[string]any), "jwks") },
	},
}

// ofAPI makes an object look like one that an APIResource controls.
func ofAPI[T client.Object](o T, api string) T {
	o.SetLabels(with())
	o.SetAnnotations(map[string]string{v1alpha1.ContentsAnnotation: "{}"})
	o.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "APIResource", Name: api, UID: types.UID(api), Controller: ptr.To(true),
	}})
	return o
}

func policies(t *testing.T) (all []attempt) {
	t.Helper()
	ns := newNamespace(t, "gateways")
	for _, kind := range []string{"SecurityPolicy", "RequestAuthentication", "AuthorizationPolicy"} {
		add := func(name string, do attemptFunc, allowed bool) {
			all = append(all, attempt{kind + ": " + name, do, allowed})
		}
		of := func(name string) *unstructured.Unstructured { return ofAPI(policy(ns, name, kind), "api") }
		foreign, old := policy(ns, "m2m.api.foreign", kind), of("m2m.api.old")
		disguised := policy(ns, "m2m.api.disguised", kind)
		disguised.SetLabels(with())
		elsewhere := ofAPI(policy("kube-system", "m2m.api.public", kind), "api")
		lost, orphan := of("m2m.api.lost"), of("m2m.api.orphan")
		lost.SetOwnerReferences(nil)
		orphan.SetOwnerReferences(nil)
		create(t, foreign, old, disguised, lost, orphan)
		opened := func(u *unstructured.Unstructured) {
			spec := specOf(kind)
			spec["targetRefs"].([]any)[0].(map[string]any)["name"] = "another"
			u.Object["spec"] = spec
		}
		change := func(name string, f func(*unstructured.Unstructured)) *unstructured.Unstructured {
			u := of(name)
			f(u)
			return u
		}

		add("makes one", creates(of("m2m.api.public")), true)
		add("changes one", updates(old, opened), true)
		add("makes one of another name", creates(of("open")), false)
		add("makes one of another APIResource's name", creates(of("m2m.other.public")), false)
		add("makes one without the label", creates(change("m2m.api.a", func(u *unstructured.Unstructured) { u.SetLabels(nil) })), false)
		add("makes one without an owner", creates(change("m2m.api.a", func(u *unstructured.Unstructured) { u.SetOwnerReferences(nil) })), false)
		add("makes one in kube-system", creates(elsewhere), false)
		add("labels one", creates(change("m2m.api.a", func(u *unstructured.Unstructured) { u.SetLabels(with("istio.io/rev", "x")) })), false)
		add("annotates one", creates(change("m2m.api.a", func(u *unstructured.Unstructured) { u.SetAnnotations(map[string]string{"a": "b"}) })), false)
		add("blocks its deletion", updates(old, func(u *unstructured.Unstructured) { u.SetFinalizers([]string{"example.com/a"}) }), false)
		owner := func(change func(*metav1.OwnerReference)) func(*unstructured.Unstructured) {
			return func(u *unstructured.Unstructured) {
				owners := ofAPI(u, "api").GetOwnerReferences()
				change(&owners[0])
				u.SetOwnerReferences(owners)
			}
		}
		add("owns one again whose owner was restored", updates(old, owner(func(o *metav1.OwnerReference) { o.UID = "restored" })), true)
		add("owns one again that has lost its owner", updates(lost, owner(func(*metav1.OwnerReference) {})), true)
		add("gives it an owner of another name", updates(old, owner(func(o *metav1.OwnerReference) { o.Name = "other" })), false)
		add("gives it an owner of another kind", updates(old, owner(func(o *metav1.OwnerReference) { o.Kind = "M2MClient" })), false)
		add("changes one that has lost its owner", updates(orphan, opened), false)
		add("gives it more owners", updates(old, func(u *unstructured.Unstructured) {
			u.SetOwnerReferences(append(u.GetOwnerReferences(), metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "a", UID: "a"}))
		}), false)
		add("opens another's", updates(foreign, opened), false)
		add("takes another's over", updates(foreign, func(u *unstructured.Unstructured) { ofAPI(u, "api") }), false)
		add("opens another's that carries the label", updates(disguised, opened), false)
		add("has it name no target", updates(old, func(u *unstructured.Unstructured) {
			delete(u.Object["spec"].(map[string]any), "targetRefs")
		}), false)
		for what, f := range worse[kind] {
			add("makes one that "+what, creates(change("m2m.api.a", func(u *unstructured.Unstructured) {
				f(u.Object["spec"].(map[string]any))
			})), false)
		}
		add("deletes another's", deletes(foreign), false)
		add("deletes one", deletes(old), true)
	}
	return all
}

func gatewayKeys(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "gateway-keys")
	keys := func(name string) *corev1.ConfigMap {
		return ofAPI(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}, "api")
	}
	old, foreign, lost := keys("m2m-jwks.api.old"), keys("m2m-jwks.api.foreign"), keys("m2m-jwks.api.lost")
	foreign.OwnerReferences, foreign.Annotations, lost.OwnerReferences = nil, nil, nil
	unlabelled := keys("m2m-jwks.api.unlabelled")
	unlabelled.Labels = nil
	create(t, old, foreign, unlabelled, lost)
	ownerless, tagged := keys("m2m-jwks.api.a"), keys("m2m-jwks.api.a")
	ownerless.OwnerReferences = nil
	tagged.Labels = with("grafana_dashboard", "1")
	content := func(c *corev1.ConfigMap) { c.Data = map[string]string{"jwks": "{}"} }
	return []attempt{
		{"makes keys", creates(keys("m2m-jwks.api.public")), true},
		{"changes keys", updates(old, content), true},
		{"makes keys of another APIResource's name", creates(keys("m2m-jwks.other.public")), false},
		{"makes keys without an owner", creates(ownerless), false},
		{"labels keys", creates(tagged), false},
		{"changes another's keys", updates(foreign, content), false},
		{"changes keys without the label", updates(unlabelled, content), false},
		{"owns keys again whose owner was restored", updates(old, func(c *corev1.ConfigMap) { c.OwnerReferences[0].UID = "restored" }), true},
		{"owns keys again that have lost their owner", updates(lost, func(c *corev1.ConfigMap) { ofAPI(c, "api") }), true},
		{"takes another's keys over", updates(foreign, func(c *corev1.ConfigMap) { ofAPI(c, "api") }), false},
		{"gives keys an owner of another name", updates(old, func(c *corev1.ConfigMap) { c.OwnerReferences[0].Name = "other" }), false},
		{"deletes another's keys", deletes(foreign), false},
		{"deletes keys", deletes(old), true},
	}
}
