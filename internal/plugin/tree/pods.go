// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// injected returns what the operator's volumes of a pod mount, as "secret/name" and
// "configmap/name".
func injected(pod client.Object) []string {
	var all []string
	for entry := range strings.SplitSeq(pod.GetAnnotations()[v1alpha1.InjectedAnnotation], ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			all = append(all, entry)
		}
	}
	return all
}

// clientPods returns the pods of a client: those that its annotation names, and those that
// mount its Secret.
func (b *builder) clientPods(c *v1alpha1.M2MClient) []*Node {
	var nodes []*Node
	secret := "secret/" + c.SecretName()
	for _, pod := range b.podsIn[c.Namespace] {
		mounts := injected(pod)
		itself := slices.Contains(mounts, secret) ||
			b.isOnly(pod) && slices.ContainsFunc(b.o.Mounts, func(m Mount) bool { return m.From == "Secret/"+c.SecretName() })
		if pod.Annotations[v1alpha1.ClientAnnotation] != c.Name && !itself {
			continue
		}
		n := b.podNode(pod)
		i := slices.IndexFunc(mounts, func(m string) bool { return strings.HasPrefix(m, "secret/") })
		switch {
		case slices.Contains(mounts, secret):
			n.Summary = "mounts Secret " + c.SecretName()
		case itself:
			n.Summary = "mounts Secret " + c.SecretName() + " without injection"
		case i >= 0:
			n.State = Failing
			n.Problems = append(n.Problems, Problem{
				Message: fmt.Sprintf("The pod mounts Secret %q, but M2MClient %q writes Secret %q", strings.TrimPrefix(mounts[i], "secret/"), c.Name, c.SecretName()),
				Advice:  "Recreate the pod: the volumes of a pod cannot be changed",
			})
		default:
			n.State = Warning
			n.Problems = append(n.Problems, Problem{
				Message: "The pod is annotated and was created without its token",
				Advice:  "Recreate the pod; if this stays, the webhook does not see it: check that the operator runs, and the label m2m-operator.io/injection of the namespace",
			})
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// podNode returns the node of a pod with what it mounts.
func (b *builder) podNode(pod *metav1.PartialObjectMetadata) *Node {
	n := &Node{Kind: KindPod, Namespace: pod.Namespace, Name: pod.Name, State: Ready}
	if !pod.DeletionTimestamp.IsZero() {
		n.State = Waiting
	}
	if b.isOnly(pod) && b.o.Mounts != nil {
		n.Mounts = b.o.Mounts
	} else {
		for _, m := range injected(pod) {
			n.Mounts = append(n.Mounts, b.injectedMount(pod, m))
		}
	}
	for i := range n.Mounts {
		n.Mounts[i].Files = b.filesOf(pod.Namespace, n.Mounts[i].From)
	}
	return n
}

// injectedMount returns an injected mount with its path.
func (b *builder) injectedMount(pod client.Object, object string) Mount {
	kind, name, _ := strings.Cut(object, "/")
	if kind == "secret" {
		return Mount{From: "Secret/" + name, Path: v1alpha1.TokenDir}
	}
	m := Mount{From: "ConfigMap/" + name, Path: v1alpha1.VerifyDir}
	refs, _ := v1alpha1.ParseVerify(pod.GetAnnotations()[v1alpha1.VerifyAnnotation], pod.GetNamespace())
	for _, ref := range refs {
		if render.ConfigMapName(ref.Namespace, ref.Name) != name {
			continue
		}
		dir := ref.Name
		shared := slices.ContainsFunc(refs, func(o types.NamespacedName) bool { return o != ref && o.Name == ref.Name })
		if shared && ref.Namespace != pod.GetNamespace() {
			dir = ref.Namespace + "." + ref.Name
		}
		m.Path = path.Join(v1alpha1.VerifyDir, dir)
	}
	return m
}

// filesOf returns the files of a Secret with tokens, by its client's status, because nobody
// needs to read the Secret to know them.
func (b *builder) filesOf(namespace, from string) []string {
	name, ok := strings.CutPrefix(from, "Secret/")
	if !ok {
		return nil
	}
	var files []string
	for _, c := range b.bySecret[types.NamespacedName{Namespace: namespace, Name: name}] {
		for _, t := range c.Status.Tokens {
			if t.ExpiresAt != nil {
				files = append(files, string(t.Key))
			}
		}
		for key := range c.Spec.Secret.Template {
			files = append(files, key)
		}
	}
	slices.Sort(files)
	return files
}

// verifiers returns the nodes of the pods that verify tokens of an API.
func (b *builder) verifiers(a *v1alpha1.APIResource) []*Node {
	var nodes []*Node
	for _, pod := range b.podsOf[client.ObjectKeyFromObject(a)] {
		n := b.podNode(pod)
		n.Summary = "verifies tokens"
		n.Keys = b.keysOf(pod, client.ObjectKeyFromObject(a))
		for _, k := range n.Keys {
			switch k.Has {
			case No:
				n.State = worse(n.State, Failing)
				n.Problems = append(n.Problems, Problem{
					Message: fmt.Sprintf("The pod does not have the key %q that tokens of %s are signed with", k.KeyID, strings.Join(k.Clients, ", ")),
					Advice:  "See the condition Distributed of the APIResource, and the events of the ConfigMap in the pod's namespace",
				})
			case Soon:
				n.State = worse(n.State, Waiting)
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// keysOf returns the keys that tokens for an API are signed with, and whether a pod has them.
func (b *builder) keysOf(pod *metav1.PartialObjectMetadata, api types.NamespacedName) []Key {
	var keys []Key
	for _, s := range b.signers[api] {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.KeyID == s.keyID })
		if i < 0 {
			k := Key{API: api.String(), KeyID: s.keyID}
			var at time.Time
			if k.Has, at = b.has(pod, api, s.keyID); k.Has == Soon {
				t := metav1.NewTime(at)
				k.At = &t
			}
			keys, i = append(keys, k), len(keys)
		}
		keys[i].Clients = append(keys[i].Clients, s.client)
	}
	return keys
}

// signer is the key that the token of a client is signed with.
type signer struct{ client, keyID string }

// index finds the pods of each API and namespace, and the keys of the tokens for each API.
func (b *builder) index() {
	b.podsIn, b.podsOf, b.signers = map[string][]*metav1.PartialObjectMetadata{}, map[types.NamespacedName][]*metav1.PartialObjectMetadata{}, map[types.NamespacedName][]signer{}
	for _, pod := range b.inv.Pods {
		if value, ok := pod.Annotations[v1alpha1.VerifyAnnotation]; ok {
			refs, _ := v1alpha1.ParseVerify(value, pod.Namespace)
			for _, ref := range refs {
				b.podsOf[ref] = append(b.podsOf[ref], pod)
			}
		}
		if pod.Annotations[v1alpha1.ClientAnnotation] != "" || pod.Annotations[v1alpha1.InjectedAnnotation] != "" || b.isOnly(pod) {
			b.podsIn[pod.Namespace] = append(b.podsIn[pod.Namespace], pod)
		}
	}
	b.bySecret = map[types.NamespacedName][]*v1alpha1.M2MClient{}
	for _, c := range b.inv.Clients {
		secret := types.NamespacedName{Namespace: c.Namespace, Name: c.SecretName()}
		b.bySecret[secret] = append(b.bySecret[secret], c)
		for i := range c.Spec.Access {
			a := &c.Spec.Access[i]
			t := slices.IndexFunc(c.Status.Tokens, func(t v1alpha1.TokenStatus) bool { return string(t.Key) == access.KeyOf(a) })
			if a.APIResourceRef.Name == "" || t < 0 || c.Status.Tokens[t].KeyThumbprint == "" {
				continue
			}
			api := access.APIResourceOf(c, a)
			b.signers[api] = append(b.signers[api], signer{client.ObjectKeyFromObject(c).String(), c.Status.Tokens[t].KeyID})
		}
	}
}

func (b *builder) isOnly(pod *metav1.PartialObjectMetadata) bool {
	return b.o.Only != nil && *b.o.Only == Ref{KindPod, pod.Namespace, pod.Name}
}

// has reports whether a pod has a key of an API: Yes, No, Soon with the moment at the latest,
// or Unknown.
func (b *builder) has(pod *metav1.PartialObjectMetadata, api types.NamespacedName, keyID string) (string, time.Time) {
	bundle := inventory.Find(b.inv.ConfigMaps, types.NamespacedName{Namespace: pod.Namespace, Name: render.ConfigMapName(api.Namespace, api.Name)})
	if bundle == nil {
		if b.inv.Knows(inventory.ConfigMaps, pod.Namespace) {
			return No, time.Time{}
		}
		return Unknown, time.Time{}
	}
	contents, ok := b.contents[bundle]
	if !ok {
		// What cannot be read has no keys, and no terms either.
		_ = json.Unmarshal([]byte(bundle.Annotations[v1alpha1.ContentsAnnotation]), &contents)
		b.contents[bundle] = contents
	}
	if contents.Terms == "" {
		return Unknown, time.Time{}
	}
	key, ok := contents.Keys[keyID]
	if !ok {
		return No, time.Time{}
	}
	since := key.Since
	if delivery.Settled(since, b.o.Now) {
		return Yes, time.Time{}
	}
	_, touchable := pod.Annotations[v1alpha1.InjectedAnnotation]
	seen := delivery.Pod{
		Created: pod.CreationTimestamp.Time, Touched: delivery.ParseMoment(pod.Annotations[v1alpha1.TouchedAtAnnotation]), Touchable: touchable,
	}
	at := seen.Sees(since, b.o.Now)
	if !at.After(b.o.Now) {
		return Yes, time.Time{}
	}
	return Soon, at
}

// haveKey counts the API's pods that have the key of a token. It is not known if the pods of
// the API's namespace cannot be read.
func (b *builder) haveKey(api types.NamespacedName, t v1alpha1.TokenStatus) (have, of int, known bool) {
	if api.Name == "" || t.KeyThumbprint == "" || !b.inv.Knows(inventory.Pods, api.Namespace) || !b.inv.Knows(inventory.ConfigMaps, api.Namespace) {
		return 0, 0, false
	}
	for _, pod := range b.podsOf[api] {
		of++
		if has, _ := b.has(pod, api, t.KeyID); has == Yes {
			have++
		}
	}
	return have, of, true
}

// MountsOf returns the mounts of a pod's volumes with tokens and bundles, injected or not.
func MountsOf(pod *corev1.Pod, inv *inventory.Inventory) []Mount {
	ours := func(kind, name string) bool {
		if slices.Contains(injected(pod), strings.ToLower(kind)+"/"+name) {
			return true
		}
		if kind == "ConfigMap" {
			_, _, ok := render.ParseConfigMapName(name)
			return ok
		}
		return slices.ContainsFunc(inv.Clients, func(c *v1alpha1.M2MClient) bool { return c.Namespace == pod.Namespace && c.SecretName() == name })
	}
	from := map[string][]string{} // by volume
	add := func(volume, kind, name string) {
		if ours(kind, name) {
			from[volume] = append(from[volume], kind+"/"+name)
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil {
			add(v.Name, "Secret", v.Secret.SecretName)
		}
		if v.ConfigMap != nil {
			add(v.Name, "ConfigMap", v.ConfigMap.Name)
		}
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if source.Secret != nil {
				add(v.Name, "Secret", source.Secret.Name)
			}
			if source.ConfigMap != nil {
				add(v.Name, "ConfigMap", source.ConfigMap.Name)
			}
		}
	}
	mounts := []Mount{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, m := range c.VolumeMounts {
			for _, object := range from[m.Name] {
				i := slices.IndexFunc(mounts, func(have Mount) bool { return have.From == object && have.Path == m.MountPath })
				if i < 0 {
					mounts, i = append(mounts, Mount{From: object, Path: m.MountPath}), len(mounts)
				}
				mounts[i].Containers = append(mounts[i].Containers, c.Name)
			}
		}
	}
	return mounts
}
