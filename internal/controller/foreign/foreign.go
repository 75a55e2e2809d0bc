// SPDX-License-Identifier: Apache-2.0

// Package foreign reads the Secrets and ConfigMaps that the operator did not write:
// client secrets, private keys and CA bundles. It also reports whether somebody
// else's object has a name that the operator wants. Reconcilers and package servers
// use it. It caches only the identity of each object, reads the contents when they
// are needed and keeps them within a bound. It never writes, and no content reaches
// a log or an error.
package foreign

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
)

// Objects reads Secrets and ConfigMaps that the operator did not write:
// credentials and CA bundles. Only their identity is cached, for clusters hold
// tens of thousands of them; of the few that are named, the keys that are asked for
// are read when needed and kept by resourceVersion, as long as there is room. One
// that carries the operator's label is found as well, in the cache of its own.
type Objects struct {
	secrets, configMaps *Identities   // of those that do not carry the operator's label
	own                 client.Reader // cache of those that do
	live                client.Reader // the API server

	contents *contentCache

	optIn bool // only Secrets that carry v1alpha1.CredentialsLabel are sent anywhere
}

const (
	// maxContents bounds what is kept of the contents together: ten thousand private
	// keys fit. What does not is read from the API server each time.
	maxContents = 32 << 20
	// MaxCABundle bounds a CA bundle. Mozilla's has 230 KB.
	MaxCABundle = 256 << 10
	// MaxCredential bounds a client secret, a private key and the like.
	MaxCredential = 64 << 10
)

type foreignKey struct {
	kind string // Secret or ConfigMap
	name types.NamespacedName
}

// Content is what some keys of a Secret or ConfigMap hold, and which one it is.
type Content struct {
	Version string // UID and resourceVersion
	Data    map[string][]byte
	TooLong []string // keys that hold more than was asked for
	optedIn bool     // it carries v1alpha1.CredentialsLabel
}

// contentCache keeps what keys of objects hold, up to a number of bytes, and forgets
// first what was not asked for the longest.
type contentCache struct {
	mu          sync.Mutex
	most, bytes int
	kept        *lru.Cache // from ForeignKey to *keptObject
}

// keptObject are the keys of an object in one state that were asked for.
type keptObject struct {
	version string
	optedIn bool
	keys    map[string]keptContent
}

// keptContent is what a key holds: all of it, or if that was too much only how long
// it is.
type keptContent struct {
	all    []byte
	length int
}

func newContentCache(most int) *contentCache {
	c := &contentCache{most: most}
	c.kept = lru.NewWithEvictionFunc(0, func(key lru.Key, value any) { c.bytes -= sizeOfKept(key.(foreignKey), value.(*keptObject)) })
	return c
}

func sizeOfKept(key foreignKey, o *keptObject) int {
	const overhead = 512 // maps, a list's element
	n := overhead + len(key.name.Namespace) + len(key.name.Name) + len(o.version)
	for k, v := range o.keys {
		n += len(k) + cap(v.all) + cached.PerEntry
	}
	return n
}

// get returns what is kept of an object's state if it answers for all keys.
func (c *contentCache) get(key foreignKey, version string, most int, keys []string) (*Content, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.kept.Get(key)
	if !ok || value.(*keptObject).version != version {
		return nil, false
	}
	o := &Content{Version: version, Data: map[string][]byte{}, optedIn: value.(*keptObject).optedIn}
	for _, k := range keys {
		switch content, known := value.(*keptObject).keys[k]; {
		case !known || content.all == nil && 0 < content.length && content.length <= most:
			return nil, false
		case content.length > most:
			o.TooLong = append(o.TooLong, k)
		case content.length > 0:
			o.Data[k] = content.all
		}
	}
	return o, true
}

// put keeps what keys of an object hold, beside what is known of the same state.
func (c *contentCache) put(key foreignKey, version string, optedIn bool, keys map[string]keptContent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &keptObject{version: version, optedIn: optedIn, keys: keys}
	if value, ok := c.kept.Get(key); ok && value.(*keptObject).version == version {
		o.keys = maps.Clone(value.(*keptObject).keys)
		maps.Copy(o.keys, keys)
	}
	c.kept.Remove(key)
	c.kept.Add(key, o)
	c.bytes += sizeOfKept(key, o)
	for c.bytes > c.most {
		c.kept.RemoveOldest()
	}
}

// drop forgets an object that has changed or is gone.
func (c *contentCache) drop(key foreignKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Remove(key)
}

// New follows the objects in these namespaces, in all of them for none.
// With optIn only Secrets that say so may be sent to authorization servers.
func New(mgr ctrl.Manager, namespaces []string, optIn bool) (*Objects, error) {
	// What carries the label is cached already, and changes with every refresh.
	const anothers = v1alpha1.ManagedByLabel + "!=" + v1alpha1.ManagedByValue
	f := &Objects{own: mgr.GetClient(), live: mgr.GetAPIReader(), optIn: optIn, contents: newContentCache(maxContents)}
	for kind, into := range map[string]**Identities{"Secret": &f.secrets, "ConfigMap": &f.configMaps} {
		var err error
		if *into, err = newIdentities(mgr.GetConfig(), mgr.GetHTTPClient(), kind, namespaces, anothers); err != nil {
			return nil, err
		}
		(*into).changed = func(name types.NamespacedName) { f.contents.drop(foreignKey{kind, name}) }
		if err := mgr.Add(*into); err != nil {
			return nil, fmt.Errorf("follow the %ss of others: %w", kind, err)
		}
	}
	return f, nil
}

// Of returns what finds everything with one reader. It follows nothing, and is for
// whoever has no manager.
func Of(reader client.Reader) *Objects {
	none := func(kind string) *Identities {
		i := &Identities{kind: kind, synced: make(chan struct{}), Of: map[string]map[string]identity{}}
		close(i.synced)
		return i
	}
	return &Objects{secrets: none("Secret"), configMaps: none("ConfigMap"), own: reader, live: reader, contents: newContentCache(maxContents)}
}

// OfKind returns the identities of a kind.
func (f *Objects) OfKind(kind string) *Identities {
	if kind == "ConfigMap" {
		return f.configMaps
	}
	return f.secrets
}

// WaitForCacheSync waits until everything was seen once.
func (f *Objects) WaitForCacheSync(ctx context.Context) bool {
	return f.secrets.WaitForCacheSync(ctx) && f.configMaps.WaitForCacheSync(ctx)
}

// Source watches the metadata of the Secrets or ConfigMaps that are not the
// operator's. One that gets the operator's label is gone for it, one that loses it
// is new.
func Source[request comparable](f *Objects, kind string, h handler.TypedEventHandler[client.Object, request]) source.TypedSource[request] {
	return identitySource[request]{of: f.OfKind(kind), handler: h}
}

// Version identifies the present state of an object, "" if it does not exist.
// It costs no request.
func (f *Objects) Version(ctx context.Context, kind string, name types.NamespacedName) (string, error) {
	version, err := f.OfKind(kind).version(ctx, name)
	if err != nil || version != "" {
		return version, err
	}
	own := ownObject(kind)
	err = f.own.Get(ctx, name, own)
	if apierrors.IsNotFound(err) {
		f.contents.drop(foreignKey{kind, name})
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up %s %q: %w", kind, name, err)
	}
	return versionOf(own), nil
}

// ExistsForeign reports whether an object exists that is not the operator's. It costs
// no request.
func (f *Objects) ExistsForeign(ctx context.Context, kind string, name types.NamespacedName) (bool, error) {
	version, err := f.OfKind(kind).version(ctx, name)
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

// Get returns what keys of an object hold, each up to a number of bytes, nil if the
// object does not exist.
func (f *Objects) Get(ctx context.Context, kind string, name types.NamespacedName, most int, keys ...string) (*Content, error) {
	version, err := f.Version(ctx, kind, name)
	if err != nil || version == "" {
		return nil, err
	}
	if kept, ok := f.contents.get(foreignKey{kind, name}, version, most, keys); ok {
		return kept, nil
	}
	version, optedIn, content, err := f.read(ctx, kind, name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %q: %w", kind, name, err)
	}
	o, kept := &Content{Version: version, Data: map[string][]byte{}, optedIn: optedIn}, map[string]keptContent{}
	for _, k := range keys {
		// A copy: the object as a whole must not stay in memory for it.
		switch all, length := content(k); {
		case length > most:
			kept[k], o.TooLong = keptContent{length: length}, append(o.TooLong, k)
		case length > 0:
			o.Data[k] = bytes.Clone(all)
			kept[k] = keptContent{o.Data[k], length}
		default:
			kept[k] = keptContent{}
		}
	}
	f.contents.put(foreignKey{kind, name}, version, optedIn, kept)
	return o, nil
}

// read reads an object from the API server. It returns which one it is, whether it
// may be sent as a credential, and what returns a key's content and its length.
func (f *Objects) read(ctx context.Context, kind string, name types.NamespacedName) (version string, optedIn bool, content func(key string) ([]byte, int), err error) {
	if kind == "Secret" {
		var s corev1.Secret
		err = f.live.Get(ctx, name, &s)
		return versionOf(&s), s.Labels[v1alpha1.CredentialsLabel] == v1alpha1.CredentialsOptIn, func(k string) ([]byte, int) { return s.Data[k], len(s.Data[k]) }, err
	}
	var m corev1.ConfigMap
	err = f.live.Get(ctx, name, &m)
	return versionOf(&m), false, func(k string) ([]byte, int) {
		if text, ok := m.Data[k]; ok {
			return []byte(text), len(text)
		}
		return m.BinaryData[k], len(m.BinaryData[k])
	}, err
}

// Revision identifies a credential by its content, so that a label that changes
// on its Secret mints nothing. It is kept where people can read it who must not
// know the credential: a slow derivation keeps a weak one from being guessed.
func Revision(name types.NamespacedName, content []byte) string {
	key, err := pbkdf2.Key(sha256.New, string(content), []byte(name.String()), 4096, 16)
	if err != nil {
		panic(err) // only for parameters that FIPS 140 forbids
	}
	return hex.EncodeToString(key)
}

// TooLongCredential is what keeps a credential from being used that has more bytes
// than are kept.
func TooLongCredential(secret, key string) *rules.Problem {
	return &rules.Problem{
		Reason:  v1alpha1.ReasonCredentialsInvalid,
		Message: fmt.Sprintf("Key %q of Secret %q holds more than %d bytes", key, secret, MaxCredential),
	}
}

// MayBeSent reports what keeps a Secret from being sent to an authorization server
// as a credential, nil if nothing does. An object of a tenant names both the Secret
// and the server: whoever may write it, and may not read Secrets, could otherwise
// have any of them sent to a server of theirs.
func (f *Objects) MayBeSent(name types.NamespacedName, secret *Content) *rules.Problem {
	if !f.optIn || secret.optedIn {
		return nil
	}
	return &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotAllowed, Message: fmt.Sprintf(
		"Secret %q may not be sent to authorization servers; if it holds credentials for them: kubectl label secret -n %s %s %s=%s",
		name.Name, name.Namespace, name.Name, v1alpha1.CredentialsLabel, v1alpha1.CredentialsOptIn)}
}
