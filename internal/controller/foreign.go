// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
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
	secrets, configMaps *identities   // of those that do not carry the operator's label
	own                 client.Reader // cache of those that do
	live                client.Reader // the API server

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
	namespaces := slices.Sorted(maps.Keys(withOperatorNamespace(o)))
	// What carries the label is cached already, and changes with every refresh.
	const anothers = v1alpha1.ManagedByLabel + "!=" + v1alpha1.ManagedByValue
	f := &foreignObjects{own: mgr.GetClient(), live: mgr.GetAPIReader(), contents: map[foreignKey]foreignObject{}}
	for kind, into := range map[string]**identities{"Secret": &f.secrets, "ConfigMap": &f.configMaps} {
		var err error
		if *into, err = newIdentities(mgr.GetConfig(), mgr.GetHTTPClient(), kind, namespaces, anothers); err != nil {
			return nil, err
		}
		if err := mgr.Add(*into); err != nil {
			return nil, fmt.Errorf("follow the %ss of others: %w", kind, err)
		}
	}
	return f, nil
}

// ofKind returns the identities of a kind.
func (f *foreignObjects) ofKind(kind string) *identities {
	if kind == "ConfigMap" {
		return f.configMaps
	}
	return f.secrets
}

// WaitForCacheSync waits until everything was seen once.
func (f *foreignObjects) WaitForCacheSync(ctx context.Context) bool {
	return f.secrets.WaitForCacheSync(ctx) && f.configMaps.WaitForCacheSync(ctx)
}

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
	return identitySource[request]{of: f.ofKind(kind), handler: h}
}

// version identifies the present state of an object, "" if it does not exist.
// It costs no request.
func (f *foreignObjects) version(ctx context.Context, kind string, name types.NamespacedName) (string, error) {
	version, err := f.ofKind(kind).version(ctx, name)
	if err != nil || version != "" {
		return version, err
	}
	own := ownObject(kind)
	err = f.own.Get(ctx, name, own)
	if apierrors.IsNotFound(err) {
		f.mu.Lock()
		delete(f.contents, foreignKey{kind, name})
		f.mu.Unlock()
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up %s %q: %w", kind, name, err)
	}
	return versionOf(own), nil
}

// isAnothers says whether an object exists that is not the operator's. It costs
// no request.
func (f *foreignObjects) isAnothers(ctx context.Context, kind string, name types.NamespacedName) (bool, error) {
	version, err := f.ofKind(kind).version(ctx, name)
	return version != "", err
}

// ownObject returns an empty object of a kind to look one of the operator's own
// up with.
func ownObject(kind string) client.Object {
	if kind == "ConfigMap" {
		return &corev1.ConfigMap{}
	}
	return &corev1.Secret{}
}

func versionOf(o client.Object) string { return identityOf(o).String() }

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
