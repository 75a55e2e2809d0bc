// SPDX-License-Identifier: Apache-2.0

// Package cached bounds what the caches keep of each object, so that memory stays
// flat whatever tenants write: transforms cut objects to what is read, strings are
// shared, and lists arrive in pages. Package controller configures the manager's
// caches with it, and reconcilers read through WholeClient, which fetches what was
// cut. The package decides nothing about an object, and a cut object must never be
// written back as if it were whole.
package cached

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Bounds on what the caches keep of an object. Whoever can write the object must not be
// able to fill the operator's memory.
const (
	// maxOwn bounds a Secret that the operator writes, and the metadata of a ConfigMap. A
	// client with longer tokens costs a read from the API server each time.
	maxOwn = 32 << 10
	// maxNamespaceLabels bounds the labels of a namespace.
	maxNamespaceLabels = 64 << 10
	// maxFinalizers bounds the finalizers of one of the operator's kinds.
	maxFinalizers = 4 << 10
	// maxSelectors bounds the label selectors of an APIResource's grants together.
	maxSelectors = 16 << 10
	// maxInjected bounds InjectedAnnotation: the names of a Secret and of
	// v1alpha1.VerifyMaxNames ConfigMaps fit.
	maxInjected = 12 << 10
	// maxAnnotation bounds any other annotation that is read.
	maxAnnotation = 256
	// PerEntry is what an entry of a map or list costs in addition to its strings.
	PerEntry = 64
)

// CutMark is the annotation of a cached object that is not complete. It is not a valid key:
// no object at the API server has it, and a cut object cannot be written back.
const CutMark = "m2m-operator.io/cut off"

// IsCut reports whether the cache keeps only a part of an object.
func IsCut(o client.Object) bool {
	_, cut := o.GetAnnotations()[CutMark]
	return cut
}

func sizeOfMap(m map[string]string) (n int) {
	for k, v := range m {
		n += len(k) + len(v) + PerEntry
	}
	return n
}

func sizeOfStrings(all []string) (n int) {
	for _, s := range all {
		n += len(s) + PerEntry
	}
	return n
}

// sizeOfMeta returns the size of those parts of an object's metadata that a writer can make
// longer.
func sizeOfMeta(m *metav1.ObjectMeta) int {
	n := sizeOfMap(m.Labels) + sizeOfMap(m.Annotations) + sizeOfStrings(m.Finalizers)
	for _, o := range m.OwnerReferences {
		n += len(o.APIVersion) + len(o.Kind) + len(o.Name) + len(o.UID) + PerEntry
	}
	return n
}

// identityMeta returns the metadata that identifies an object and its state.
func identityMeta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		Generation: m.Generation, CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
}

// slimMeta reduces the metadata of one of the operator's kinds to what is read: one label,
// some annotations and the finalizers. A patch compares two objects that both lack the rest,
// so the rest stays as it is at the API server.
func slimMeta(m *metav1.ObjectMeta, label string, annotations ...string) {
	kept := identityMeta(m)
	if v, ok := m.Labels[label]; ok {
		kept.Labels = map[string]string{label: v}
	}
	for _, key := range annotations {
		if v, ok := m.Annotations[key]; ok {
			kept.Annotations = plus(kept.Annotations, key, brief(v))
		}
	}
	kept.Finalizers = m.Finalizers
	if v, ok := m.Annotations[CutMark]; ok { // already cut
		kept.Annotations = withMark(kept.Annotations, v)
	} else if sizeOfStrings(m.Finalizers) > maxFinalizers {
		at := slices.Index(m.Finalizers, v1alpha1.ProvisioningFinalizer)
		kept.Annotations, kept.Finalizers = withMark(kept.Annotations, strconv.Itoa(at)), nil
		if at >= 0 {
			kept.Finalizers = []string{v1alpha1.ProvisioningFinalizer}
		}
	}
	Share(&kept.Namespace)
	*m = kept
}

func withMark(annotations map[string]string, value string) map[string]string {
	return plus(annotations, CutMark, value)
}

// brief returns a value, or the digest of a long one, which still tells it apart.
func brief(v string) string {
	if len(v) <= maxAnnotation {
		return v
	}
	sum := sha256.Sum256([]byte(v))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// SlimServer prepares an authorization server of either kind for the cache.
func SlimServer(in any) (any, error) {
	switch s := in.(type) {
	case *v1alpha1.AuthorizationServer:
		slimMeta(&s.ObjectMeta, "", v1alpha1.RefreshRequestedAnnotation)
	case *v1alpha1.ClusterAuthorizationServer:
		slimMeta(&s.ObjectMeta, "", v1alpha1.RefreshRequestedAnnotation)
	}
	return in, nil
}

// SlimAPIResource prepares an APIResource for the cache. Selectors beyond the bound select
// nothing, like invalid ones.
func SlimAPIResource(in any) (any, error) {
	api, ok := in.(*v1alpha1.APIResource)
	if !ok {
		return in, nil // a tombstone
	}
	slimMeta(&api.ObjectMeta, "", v1alpha1.RefreshRequestedAnnotation)
	left := maxSelectors
	for i := range api.Spec.Grants {
		selector := &api.Spec.Grants[i].Clients.Namespaces.Selector
		if *selector == nil {
			continue
		}
		if left -= sizeOfSelector(*selector); left < 0 {
			*selector = tooLongSelector
		}
	}
	return api, nil
}

// tooLongSelector is invalid and selects nothing.
var tooLongSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "(too long)"}}}

func sizeOfSelector(s *metav1.LabelSelector) int {
	n := sizeOfMap(s.MatchLabels)
	for _, e := range s.MatchExpressions {
		n += len(e.Key) + len(e.Operator) + PerEntry + sizeOfStrings(e.Values)
	}
	return n
}

// SlimClient prepares an M2MClient for the cache. Ten thousand clients have most of their
// strings in common.
func SlimClient(in any) (any, error) {
	c, ok := in.(*v1alpha1.M2MClient)
	if !ok {
		return in, nil // a tombstone
	}
	slimMeta(&c.ObjectMeta, v1alpha1.ShardLabel, v1alpha1.RotateCredentialAnnotation, v1alpha1.RefreshRequestedAnnotation)
	Share(&c.Spec.AuthorizationServerRef.Kind)
	Share(&c.Spec.AuthorizationServerRef.Name)
	Share(&c.Spec.DeletionPolicy)
	Share(&c.Spec.Credentials.ClientSecret.Method)
	for i := range c.Spec.Access {
		a := &c.Spec.Access[i]
		Share(&a.APIResourceRef.Name)
		Share(&a.APIResourceRef.Namespace)
		Share(&a.Key)
		shareAll(a.Scopes)
	}
	for i := range c.Status.Conditions {
		s := &c.Status.Conditions[i]
		Share(&s.Type)
		Share(&s.Status)
		Share(&s.Reason)
		Share(&s.Message)
	}
	for i := range c.Status.Tokens {
		t := &c.Status.Tokens[i]
		Share(&t.Key)
		Share(&t.KeyID)
		Share(&t.KeyThumbprint)
		Share(&t.Algorithm)
		Share(&t.Terms)
		shareAll(t.Scopes)
	}
	return c, nil
}

// SlimSecret prepares a Secret with the operator's label for the cache. Anybody can set the
// label, so the content is kept only if the Secret may be the operator's.
func SlimSecret(operatorNamespace string) toolscache.TransformFunc {
	return func(in any) (any, error) {
		s, ok := in.(*corev1.Secret)
		if !ok {
			return in, nil // a tombstone
		}
		s.ManagedFields = nil
		if !IsCut(s) && (!holdsTokens(s) && !holdsCredentials(s, operatorNamespace) || sizeOfSecret(s) > maxOwn) {
			cutSecret(s)
		}
		Share(&s.Namespace)
		Share(&s.Type)
		if len(s.Labels) == 1 && s.Labels[v1alpha1.ManagedByLabel] == v1alpha1.ManagedByValue {
			s.Labels = onlyManaged
		}
		for i := range s.OwnerReferences {
			o := &s.OwnerReferences[i]
			Share(&o.APIVersion)
			Share(&o.Kind)
			o.Controller, o.BlockOwnerDeletion = shareBool(o.Controller), shareBool(o.BlockOwnerDeletion)
		}
		return s, nil
	}
}

// holdsTokens reports whether a Secret looks like it holds a client's tokens.
func holdsTokens(s *corev1.Secret) bool {
	_, recorded := s.Annotations[v1alpha1.TokensAnnotation]
	owner := metav1.GetControllerOfNoCopy(s)
	return recorded && owner != nil && IsClient(owner)
}

// IsClient reports whether an owner is an M2MClient.
func IsClient(owner *metav1.OwnerReference) bool {
	return owner.Kind == "M2MClient" && groupOf(owner) == v1alpha1.GroupVersion.Group
}

func groupOf(o *metav1.OwnerReference) string {
	gv, _ := schema.ParseGroupVersion(o.APIVersion)
	return gv.Group
}

// holdsCredentials reports whether a Secret looks like it holds the credentials of a
// registered client.
func holdsCredentials(s *corev1.Secret, operatorNamespace string) bool {
	return s.Namespace == operatorNamespace && strings.HasPrefix(s.Name, record.CredentialSecretPrefix)
}

func sizeOfSecret(s *corev1.Secret) int {
	n := sizeOfMeta(&s.ObjectMeta) + len(s.Type)
	for k, v := range s.Data {
		n += len(k) + len(v) + PerEntry
	}
	return n
}

// cutSecret reduces a Secret to its identity, its owner, and since when pods must see it.
// Whoever needs more reads it from the API server: see WholeClient.
func cutSecret(s *corev1.Secret) {
	kept := identityMeta(&s.ObjectMeta)
	kept.Labels = onlyManaged
	kept.Annotations = withMark(fitting(s.Annotations, 2*maxAnnotation, v1alpha1.PromptSinceAnnotation, v1alpha1.OwnerAnnotation), "")
	if o := metav1.GetControllerOf(s); o != nil && len(o.APIVersion)+len(o.Kind)+len(o.Name)+len(o.UID) <= 4*maxAnnotation {
		kept.OwnerReferences = []metav1.OwnerReference{*o}
	}
	*s = corev1.Secret{ObjectMeta: kept}
}

// fitting returns those annotations with the given keys that do not exceed a bound.
func fitting(annotations map[string]string, most int, keys ...string) map[string]string {
	kept := map[string]string{}
	for _, k := range keys {
		if v, ok := annotations[k]; ok && len(v) <= most {
			kept[k] = v
		}
	}
	return kept
}

// digestKey is the key under which a cached ConfigMap holds the digest of its content
// instead of the content. It is not a valid key.
const digestKey = "(digest)"

// ContentDigest identifies the content of a ConfigMap, whether cached or not.
func ContentDigest(c *corev1.ConfigMap) string {
	if d, ok := c.Data[digestKey]; ok {
		return d
	}
	encoded, err := json.Marshal(struct {
		Text   map[string]string `json:",omitempty"`
		Binary map[string][]byte `json:",omitempty"`
	}{c.Data, c.BinaryData})
	if err != nil {
		panic(err) // strings and bytes only
	}
	d := DigestOf(encoded)
	return string(d[:])
}

// SlimConfigMap prepares a ConfigMap with the operator's label for the cache. It keeps a
// digest of the content, which is only compared. Anybody can set the label, so annotations
// are kept only if the ConfigMap's name is that of the bundle it claims to be.
func SlimConfigMap(in any) (any, error) {
	c, ok := in.(*corev1.ConfigMap)
	if !ok {
		return in, nil // a tombstone
	}
	c.ManagedFields = nil
	c.Data, c.BinaryData = map[string]string{digestKey: ContentDigest(c)}, nil
	Share(&c.Namespace)
	if IsCut(c) {
		return c, nil
	}
	ours := isBundle(c) || isKeys(c)
	if ours && sizeOfMeta(&c.ObjectMeta) <= maxOwn {
		return c, nil
	}
	kept := identityMeta(&c.ObjectMeta)
	kept.Labels, kept.Annotations = onlyManaged, fitting(c.Annotations, maxAnnotation, v1alpha1.PromptSinceAnnotation)
	if ours {
		kept.Annotations = fitting(c.Annotations, maxOwn,
			v1alpha1.APIResourceAnnotation, v1alpha1.KeyIDsAnnotation, v1alpha1.ContentsAnnotation, v1alpha1.PromptSinceAnnotation)
	}
	if owner := metav1.GetControllerOf(c); isKeys(c) && owner != nil {
		kept.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	kept.Annotations = withMark(kept.Annotations, "")
	c.ObjectMeta = kept
	return c, nil
}

// isKeys reports whether a ConfigMap has the name of one with the keys of a gateway, and
// an APIResource controls it.
func isKeys(c *corev1.ConfigMap) bool {
	api, ok := enforcement.ParseKeysName(c.Name)
	owner := metav1.GetControllerOfNoCopy(c)
	return ok && owner != nil && owner.Kind == "APIResource" && owner.Name == api && groupOf(owner) == v1alpha1.GroupVersion.Group
}

// isBundle reports whether a ConfigMap has the name of the verification bundle that its
// annotation names.
func isBundle(c *corev1.ConfigMap) bool {
	api, ok := record.ParseName(c.Annotations[v1alpha1.APIResourceAnnotation])
	return ok && c.Name == render.ConfigMapName(api.Namespace, api.Name)
}

// StripNamespace keeps the labels of a namespace, for selectors. If they exceed the bound,
// no selector selects the namespace: if only some labels stayed, a selector that requires
// the absence of a label could match by mistake.
func StripNamespace(in any) (any, error) {
	ns, ok := in.(*metav1.PartialObjectMetadata)
	if !ok {
		return in, nil // a tombstone
	}
	kept := metav1.ObjectMeta{Name: ns.Name, UID: ns.UID, ResourceVersion: ns.ResourceVersion, Labels: ns.Labels}
	if IsCut(ns) || sizeOfMap(ns.Labels) > maxNamespaceLabels {
		kept.Labels, kept.Annotations = nil, map[string]string{CutMark: ""}
	}
	ns.ObjectMeta = kept
	return ns, nil
}

// MisplacedMark is the annotation of a cached pod or workload that lists its labels and
// annotations that have no effect where they are. It is not a valid key: no object at the
// API server has it.
const MisplacedMark = "m2m-operator.io/does nothing"

// onlyManaged holds the labels of most of the operator's Secrets. They can share one map,
// because cached objects are never changed.
var onlyManaged = map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}

var (
	isSo  = true
	isNot = false
)

func shareBool(b *bool) *bool {
	switch {
	case b == nil:
		return nil
	case *b:
		return &isSo
	}
	return &isNot
}

// sharedMax bounds the number of shared strings, and sharedLength the bytes of each.
const (
	sharedMax    = 8192
	sharedLength = 256
)

var shared = struct {
	sync.Mutex
	strings map[string]string
}{strings: map[string]string{}}

// Share replaces a string by an equal one that other objects use too.
func Share[S ~string](s *S) {
	if *s == "" || len(*s) > sharedLength {
		return
	}
	shared.Lock()
	defer shared.Unlock()
	if same, ok := shared.strings[string(*s)]; ok {
		*s = S(same)
		return
	}
	if len(shared.strings) >= sharedMax {
		clear(shared.strings) // strings in use come back
	}
	shared.strings[string(*s)] = string(*s)
}

func shareAll[S ~string](all []S) {
	for i := range all {
		Share(&all[i])
	}
}

// plus returns a copy of the annotations with one added.
func plus(annotations map[string]string, key, value string) map[string]string {
	all := map[string]string{key: value}
	for k, v := range annotations {
		if k != key {
			all[k] = v
		}
	}
	return all
}
