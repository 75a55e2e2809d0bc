// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// The attacks of this file and its neighbours fail for one clause of a policy only: make
// mutants shows that no clause can be taken away unnoticed.

// ownedBy is an object's owner.
func ownedBy(apiVersion, kind, name string, controller bool) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID(name), Controller: ptr.To(controller)}}
}

const ours, theirs = "m2m-operator.io/v1alpha1", "example.com/v1"

func secretClauses(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "clauses")
	secret := func(namespace, name string, labels map[string]string, owners []metav1.OwnerReference) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, OwnerReferences: owners}}
	}
	so := func(s *corev1.Secret, change func(*corev1.Secret)) *corev1.Secret {
		change(s)
		return s
	}
	holdsTokens := func(s *corev1.Secret) { s.Annotations = map[string]string{v1alpha1.TokensAnnotation: "{}"} }
	var all []attempt
	// There is the Secret, and the operator must not delete it.
	for name, s := range map[string]*corev1.Secret{
		"another Secret of its namespace":                 secret(systemNamespace, "database", managed, nil),
		"what an M2MClient owns and does not control":     secret(ns, "owned", managed, ownedBy(ours, "M2MClient", "cart", false)),
		"what another kind of that name controls":         secret(ns, "theirs", managed, ownedBy(theirs, "M2MClient", "cart", true)),
		"what another kind of ours controls":              secret(ns, "api", managed, ownedBy(ours, "APIResource", "cart", true)),
		"what looks like tokens and has no label":         so(secret(ns, "unlabelled", nil, nil), holdsTokens),
		"what looks like tokens and has another owner":    so(secret(ns, "controlled", managed, ownedBy(theirs, "Cart", "cart", true)), holdsTokens),
		"a Secret that is called like a bundle":           secret(ns, "m2m-verify.clauses.api", managed, nil),
		"a Secret that is called like keys for a gateway": secret(ns, "m2m-jwks.api.public", managed, ownedBy(ours, "APIResource", "api", true)),
	} {
		create(t, s)
		all = append(all, attempt{"deletes " + name, deletes(s), false})
	}
	kept := so(secret(ns, "kept", managed, owner("cart")), func(s *corev1.Secret) { s.Finalizers = []string{"example.com/kept"} })
	release := secret(ns, "sh.helm.release.v1.cart.v1", managed, owner("cart"))
	typed := so(secret(ns, "typed", managed, owner("cart")), func(s *corev1.Secret) { s.Type = "example.com/typed" })
	tagged := secret(ns, "tagged", with("argocd.argoproj.io/secret-type", "cluster"), owner("cart"))
	create(t, kept, release, typed, tagged)
	content := func(s *corev1.Secret) { s.StringData = map[string]string{"other": "x"} }
	labelled := func(name, key, value string) *corev1.Secret {
		return secret(ns, name, with(key, value), owner("cart"))
	}
	return append(all,
		attempt{"makes another Secret in its namespace", creates(secret(systemNamespace, "password", managed, nil)), false},
		attempt{"makes one that an M2MClient does not control", creates(secret(ns, "mine", managed, ownedBy(ours, "M2MClient", "cart", false))), false},
		attempt{"makes one that another kind of ours controls", creates(secret(ns, "mine", managed, ownedBy(ours, "AuthorizationServer", "cart", true))), false},
		attempt{"makes one that is called like keys", creates(secret(ns, "m2m-jwks.api.mine", managed, ownedBy(ours, "APIResource", "api", true))), false},
		attempt{"makes one of another type", creates(so(secret(ns, "mine", managed, owner("cart")), func(s *corev1.Secret) { s.Type = "example.com/typed" })), false},
		attempt{"removes one of another type", deletes(typed), true},
		attempt{"changes another's label", updates(tagged, func(s *corev1.Secret) { s.Labels["argocd.argoproj.io/secret-type"] = "repository" }), false},
		attempt{"says who owns it", creates(labelled("of-a-team", "owner", "team")), true},
		attempt{"names Helm in a label", creates(labelled("by-helm", "example.com/tool", "helm")), true},
		attempt{"annotates it for other software, as an M2MClient asks", creates(so(secret(ns, "tracked", managed, owner("cart")), func(s *corev1.Secret) {
			s.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": "x"}
		})), true},
		attempt{"changes one beside another's finalizer", updates(kept, content), true},
		attempt{"changes one that is called as a release of Helm", updates(release, content), true},
		attempt{"removes one that is called as a release of Helm", deletes(release), true},
	)
}

func configMapClauses(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "map-clauses")
	configMap := func(namespace, name string, owners []metav1.OwnerReference) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: with(), OwnerReferences: owners}}
	}
	var all []attempt
	// There is one, and the operator must not delete it; and it must not make one like it.
	for name, c := range map[string]*corev1.ConfigMap{
		"what an M2MClient controls":              configMap(ns, "client", ownedBy(ours, "M2MClient", "cart", true)),
		"keys that another's kind controls":       configMap(ns, "m2m-jwks.api.theirs", ownedBy(theirs, "APIResource", "api", true)),
		"keys that another kind of ours controls": configMap(ns, "m2m-jwks.api.client", ownedBy(ours, "M2MClient", "api", true)),
		"what an APIResource controls":            configMap(ns, "settings", ownedBy(ours, "APIResource", "api", true)),
		"keys of a longer name":                   configMap(ns, "m2m-jwks.api.longer", ownedBy(ours, "APIResource", "ap", true)),
		"what is called like credentials":         configMap(systemNamespace, "m2m-credential-0a1b", nil),
	} {
		create(t, c)
		like := c.DeepCopy()
		like.Name += "-2"
		all = append(all, attempt{"deletes " + name, deletes(c), false}, attempt{"makes " + name, creates(like), false})
	}
	// Not in the namespace of its API, where labels and annotations are the operator's choice.
	kept := configMap(ns, "m2m-verify.shop.kept", nil)
	kept.Annotations = map[string]string{"example.com/contact": "shop"}
	neighbour := configMap(ns, "m2m-verify."+ns+"-2.api", nil)
	neighbour.Labels = with("team", "shop")
	create(t, kept)
	return append(all,
		attempt{"changes a bundle beside another's annotation", updates(kept, func(c *corev1.ConfigMap) { c.Data = map[string]string{"issuer": "x"} }), true},
		attempt{"changes another's annotation", updates(kept, func(c *corev1.ConfigMap) { c.Annotations["example.com/contact"] = "evil" }), false},
		attempt{"labels the bundle of a namespace of a longer name", creates(neighbour), false},
	)
}

func podClauses(t *testing.T) []attempt {
	t.Helper()
	ns := newNamespace(t, "pod-clauses")
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}})
	pod := func(name string, labels, annotations map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels, Annotations: annotations},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "app"}}},
		}
	}
	injected := map[string]string{v1alpha1.InjectedAnnotation: "secret/cart-token", "team": "shop"}
	plain, labelled, foreign := pod("plain", nil, injected), pod("labelled", map[string]string{"app": "cart"}, injected), pod("foreign", nil, map[string]string{"team": "shop"})
	create(t, plain, labelled, foreign)
	const now = `"m2m-operator.io/touched-at":"2026-11-24T12:00:00Z"`
	touch := func(p *corev1.Pod, more string) attemptFunc {
		return patches(p, types.MergePatchType, `{"metadata":{"annotations":{`+now+`}`+more+`}}`)
	}
	annotate := func(p *corev1.Pod, annotations string) attemptFunc {
		return patches(p, types.MergePatchType, `{"metadata":{"annotations":{`+annotations+`}}}`)
	}
	return []attempt{
		{"touches a pod with labels", touch(labelled, ""), true},
		{"labels a pod", touch(plain, `,"labels":{"app":"bank"}`), false},
		{"changes a pod's label", touch(labelled, `,"labels":{"app":"bank"}`), false},
		{"takes a pod's labels off", touch(labelled, `,"labels":null`), false},
		{"changes another annotation", annotate(plain, now+`,"team":"bank"`), false},
		{"takes another annotation off", annotate(plain, now+`,"team":null`), false},
		{"touches a pod that is not injected", touch(foreign, ""), false},
		{"touches a pod with no time", annotate(plain, `"m2m-operator.io/touched-at":"now"`), false},
		{"touches a pod by its status", func(ctx context.Context, c client.Client) error {
			return c.Status().Patch(ctx, plain.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{`+now+`}}}`)))
		}, false},
		{"runs a program in a pod", func(ctx context.Context, c client.Client) error {
			return c.SubResource("exec").Create(ctx, plain.DeepCopy(), plain.DeepCopy())
		}, false},
	}
}

func ownKindClauses(t *testing.T) []attempt {
	t.Helper()
	o := kinds(newNamespace(t, "own-kind-clauses"))["M2MClient"]
	o.SetAnnotations(map[string]string{"example.com/note": "x"})
	o.SetFinalizers([]string{"example.com/kept"})
	create(t, o)
	merge := func(metadata string) attemptFunc {
		return patches(o, types.MergePatchType, `{"metadata":{`+metadata+`}}`)
	}
	return []attempt{
		{"adds the finalizer beside another's", merge(`"finalizers":["example.com/kept","` + v1alpha1.ProvisioningFinalizer + `"]`), true},
		{"removes the finalizer beside another's", merge(`"finalizers":["example.com/kept"]`), true},
		{"adds another's finalizer", merge(`"finalizers":["example.com/kept","example.com/more"]`), false},
		{"removes another's finalizer", merge(`"finalizers":null`), false},
		{"labels it", merge(`"labels":{"a":"b"}`), false},
		{"changes an annotation", merge(`"annotations":{"example.com/note":"y"}`), false},
		{"takes the annotations off", merge(`"annotations":null`), false},
	}
}
