// SPDX-License-Identifier: Apache-2.0

package verification

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// NamespacesThatVerify returns the namespaces with pods or workloads whose annotation names
// an APIResource.
func NamespacesThatVerify(ctx context.Context, c client.Reader, api types.NamespacedName) (sets.Set[string], error) {
	namespaces := sets.New[string]()
	for _, list := range watch.VerifierLists() {
		err := c.List(ctx, list, client.MatchingFields{watch.ByVerify: api.String()},
			client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
		if err != nil {
			return nil, fmt.Errorf("list workloads that verify: %w", err)
		}
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			namespaces.Insert(o.(client.Object).GetNamespace())
			return nil
		})
	}
	return namespaces, nil
}

// NamespacesWithBundle returns the namespaces that hold an APIResource's bundle.
func NamespacesWithBundle(ctx context.Context, c client.Reader, api types.NamespacedName) (sets.Set[string], error) {
	bundles, err := BundlesOf(ctx, c, api)
	if err != nil {
		return nil, err
	}
	namespaces := sets.New[string]()
	for i := range bundles {
		namespaces.Insert(bundles[i].Namespace)
	}
	return namespaces, nil
}

// BundlesOf returns the ConfigMaps of an APIResource's bundle. It checks their names,
// because anybody can write the label and the annotation. The ConfigMaps are shared with
// the cache: read only.
func BundlesOf(ctx context.Context, c client.Reader, api types.NamespacedName) ([]corev1.ConfigMap, error) {
	var list corev1.ConfigMapList
	err := c.List(ctx, &list, client.MatchingFields{watch.ByAPIResource: api.String()}, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return nil, fmt.Errorf("list the bundles of %q: %w", api, err)
	}
	name := render.ConfigMapName(api.Namespace, api.Name)
	return slices.DeleteFunc(list.Items, func(m corev1.ConfigMap) bool { return m.Name != name }), nil
}

// APIResourceOf returns the APIResource whose bundle has a ConfigMap's name, and reports
// whether the name is that of a bundle.
func APIResourceOf(configMap string) (types.NamespacedName, bool) {
	namespace, name, ok := render.ParseConfigMapName(configMap)
	return types.NamespacedName{Namespace: namespace, Name: name}, ok
}

// ContentsIn reads the annotation in which a bundle lists its contents.
func ContentsIn(bundle *corev1.ConfigMap) (c render.Contents, known bool) {
	if bundle == nil {
		return c, false
	}
	return ReadContents(bundle.Annotations[v1alpha1.ContentsAnnotation])
}

// ReadContents reads the value of a ContentsAnnotation.
func ReadContents(annotation string) (c render.Contents, known bool) {
	err := json.Unmarshal([]byte(annotation), &c)
	return c, err == nil && c.Terms != ""
}

// APIResourceOfKeys returns the APIResource whose keys for a gateway an object holds, and
// reports whether it is such an object by its name.
func APIResourceOfKeys(o client.Object) (api types.NamespacedName, ok bool) {
	name, ok := enforcement.ParseKeysName(o.GetName())
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: name}, ok
}
