// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// foreignObjects reads Secrets and ConfigMaps that the operator did not write:
// credentials and CA bundles. Only their identity is cached, for clusters hold
// tens of thousands of them; the contents of the few that are named are read
// when needed and kept by resourceVersion. One that carries the operator's label
// is found as well, in the cache of its own.
type foreignObjects struct {
	cache cache.Cache   // metadata of all Secrets and ConfigMaps that do not carry the operator's label
	own   client.Reader // cache of those that do
	live  client.Reader // the API server

	mu       sync.Mutex
	contents map[foreignKey]foreignObject
}

type foreignKey struct {
	kind string // Secret or ConfigMap
	name types.NamespacedName
}

// foreignObject is the content of a Secret or ConfigMap, and which one it is.
type foreignObject struct {
	version string // UID and resourceVersion
	data    map[string][]byte
}

func newForeignObjects(mgr ctrl.Manager, o Options) (*foreignObjects, error) {
	// What carries the label is cached already, and changes with every refresh.
	unlabelled, err := labels.NewRequirement(v1alpha1.ManagedByLabel, selection.NotEquals, []string{v1alpha1.ManagedByValue})
	if err != nil {
		return nil, fmt.Errorf("select what is not the operator's: %w", err)
	}
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		DefaultLabelSelector: labels.NewSelector().Add(*unlabelled),
		HTTPClient:           mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultNamespaces: withOperatorNamespace(o),
		DefaultTransform:  slimMetadata,
	})
	if err != nil {
		return nil, fmt.Errorf("make the metadata cache: %w", err)
	}
	if err := mgr.Add(onEveryReplica{c}); err != nil {
		return nil, fmt.Errorf("add the metadata cache: %w", err)
	}
	return &foreignObjects{cache: c, own: mgr.GetClient(), live: mgr.GetAPIReader(), contents: map[foreignKey]foreignObject{}}, nil
}

// onEveryReplica has the manager start a cache of a replica that does not lead,
// which then can take over at once. A cache of several namespaces does not ask
// for that by itself.
type onEveryReplica struct{ cache.Cache }

// NeedLeaderElection says that it is started without.
func (onEveryReplica) NeedLeaderElection() bool { return false }

// metadataOf returns an empty object of a kind to look its metadata up with.
func metadataOf(kind string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return o
}

// sourceKind watches the metadata of the Secrets or ConfigMaps that are not the
// operator's. One that gets the operator's label is gone for it, one that loses it
// is new.
func sourceKind[request comparable](f *foreignObjects, kind string, h handler.TypedEventHandler[client.Object, request]) source.TypedSource[request] {
	return source.TypedKind(f.cache, client.Object(metadataOf(kind)), h)
}

// version identifies the present state of an object, "" if it does not exist.
// It costs no request.
func (f *foreignObjects) version(ctx context.Context, kind string, name types.NamespacedName) (string, error) {
	var o client.Object = metadataOf(kind)
	err := f.cache.Get(ctx, name, o)
	if apierrors.IsNotFound(err) {
		o = ownObject(kind)
		err = f.own.Get(ctx, name, o)
	}
	if apierrors.IsNotFound(err) {
		f.mu.Lock()
		delete(f.contents, foreignKey{kind, name})
		f.mu.Unlock()
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up %s %q: %w", kind, name, err)
	}
	return versionOf(o), nil
}

// isAnothers says whether an object exists that is not the operator's. It costs
// no request.
func (f *foreignObjects) isAnothers(ctx context.Context, kind string, name types.NamespacedName) (bool, error) {
	if err := f.cache.Get(ctx, name, metadataOf(kind)); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return true, nil
}

// ownObject returns an empty object of a kind to look one of the operator's own
// up with.
func ownObject(kind string) client.Object {
	if kind == "ConfigMap" {
		return &corev1.ConfigMap{}
	}
	return &corev1.Secret{}
}

func versionOf(o client.Object) string {
	return string(o.GetUID()) + "/" + o.GetResourceVersion()
}

// get returns an object's content, nil if it does not exist.
func (f *foreignObjects) get(ctx context.Context, kind string, name types.NamespacedName) (*foreignObject, error) {
	version, err := f.version(ctx, kind, name)
	if err != nil || version == "" {
		return nil, err
	}
	key := foreignKey{kind, name}
	f.mu.Lock()
	kept, ok := f.contents[key]
	f.mu.Unlock()
	if ok && kept.version == version {
		return &kept, nil
	}

	var read foreignObject
	switch kind {
	case "Secret":
		var s corev1.Secret
		err = f.live.Get(ctx, name, &s)
		read = foreignObject{versionOf(&s), s.Data}
	case "ConfigMap":
		var m corev1.ConfigMap
		err = f.live.Get(ctx, name, &m)
		read = foreignObject{versionOf(&m), make(map[string][]byte, len(m.Data)+len(m.BinaryData))}
		maps.Copy(read.data, m.BinaryData)
		for k, v := range m.Data {
			read.data[k] = []byte(v)
		}
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %q: %w", kind, name, err)
	}
	f.mu.Lock()
	f.contents[key] = read
	f.mu.Unlock()
	return &read, nil
}

// revision identifies a credential by its content, so that a label that changes
// on its Secret mints nothing. It is kept where people can read it who must not
// know the credential: a slow derivation keeps a weak one from being guessed.
func revision(name types.NamespacedName, content []byte) string {
	key, err := pbkdf2.Key(sha256.New, string(content), []byte(name.String()), 4096, 16)
	if err != nil {
		panic(err) // only for parameters that FIPS 140 forbids
	}
	return hex.EncodeToString(key)
}
