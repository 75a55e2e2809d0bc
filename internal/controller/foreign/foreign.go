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
	"slices"
	"strings"
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

// Objects reads Secrets and ConfigMaps that the operator did not write: credentials and CA
// bundles. It caches only identities, because clusters hold tens of thousands of such
// objects. It reads the requested keys of the few that a spec names when they are needed,
// and keeps them by resourceVersion while there is room. It also finds objects that carry
// the operator's label, in the cache of those.
type Objects struct {
	secrets, configMaps *Identities   // of those that do not carry the operator's label
	own                 client.Reader // cache of those that do
	live                client.Reader // the API server

	contents *contentCache

	optIn bool // send only Secrets that carry v1alpha1.CredentialsLabel
}

const (
	// maxContents bounds all kept contents together. Ten thousand private keys fit;
	// whatever does not fit is read from the API server each time.
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

// Content is the content of some keys of a Secret or ConfigMap in one version.
type Content struct {
	Version string // UID and resourceVersion
	Data    map[string][]byte
	TooLong []string // keys that hold more than the caller accepts
	Others  []string // some of the keys that are there, sorted, if one is missing
	optedIn bool     // it carries v1alpha1.CredentialsLabel
}

// contentCache keeps the contents of keys, up to a number of bytes in total. It drops the
// least recently used objects first.
type contentCache struct {
	mu          sync.Mutex
	most, bytes int
	kept        *lru.Cache // from foreignKey to *keptObject
}

// keptObject holds the requested keys of one version of an object.
type keptObject struct {
	version string
	optedIn bool
	keys    map[string]keptContent
	others  []string // as in Content
}

// keptContent is the content of a key, or only its length if it was too long.
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
	for _, k := range o.others {
		n += len(k) + cached.PerEntry
	}
	return n
}

// get returns the kept contents of a version, if they answer for all keys.
func (c *contentCache) get(key foreignKey, version string, most int, keys []string) (*Content, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.kept.Get(key)
	if !ok || value.(*keptObject).version != version {
		return nil, false
	}
	o := &Content{Version: version, Data: map[string][]byte{}, optedIn: value.(*keptObject).optedIn, Others: value.(*keptObject).others}
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

// put keeps the contents of keys, in addition to those known of the same version.
func (c *contentCache) put(key foreignKey, o *keptObject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if value, ok := c.kept.Get(key); ok && value.(*keptObject).version == o.version {
		known := maps.Clone(value.(*keptObject).keys)
		maps.Copy(known, o.keys)
		o.keys = known
		if o.others == nil {
			o.others = value.(*keptObject).others
		}
	}
	c.kept.Remove(key)
	c.kept.Add(key, o)
	c.bytes += sizeOfKept(key, o)
	for c.bytes > c.most {
		c.kept.RemoveOldest()
	}
}

// drop forgets the contents of an object that has changed or is gone.
func (c *contentCache) drop(key foreignKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Remove(key)
}

// New follows the objects in the given namespaces, or in all if there are none. With optIn,
// only Secrets with v1alpha1.CredentialsLabel may be sent to authorization servers.
func New(mgr ctrl.Manager, namespaces []string, optIn bool) (*Objects, error) {
	// Objects with the label are cached already, and change with every refresh.
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

// Of returns Objects that read everything through one reader and follow nothing. It is for
// callers without a manager.
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

// WaitForCacheSync waits until all objects have been listed once.
func (f *Objects) WaitForCacheSync(ctx context.Context) bool {
	return f.secrets.WaitForCacheSync(ctx) && f.configMaps.WaitForCacheSync(ctx)
}

// Source watches the metadata of the Secrets or ConfigMaps that do not carry the operator's
// label. An object that gets the label counts as deleted, one that loses it as created.
func Source[request comparable](f *Objects, kind string, h handler.TypedEventHandler[client.Object, request]) source.TypedSource[request] {
	return identitySource[request]{of: f.OfKind(kind), handler: h}
}

// Version identifies the present version of an object, "" if it does not exist. It costs
// no request.
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

// ExistsForeign reports whether an object without our label exists. It costs no request.
func (f *Objects) ExistsForeign(ctx context.Context, kind string, name types.NamespacedName) (bool, error) {
	version, err := f.OfKind(kind).version(ctx, name)
	return version != "", err
}

// ownObject returns an empty object of a kind, for looking up one with the operator's label.
func ownObject(kind string) client.Object {
	if kind == "ConfigMap" {
		return &corev1.ConfigMap{}
	}
	return &corev1.Secret{}
}

func versionOf(o client.Object) string { return identityOf(o).String() }

// Get returns the contents of keys of an object, nil if the object does not exist. A key
// with more than most bytes is listed as too long.
func (f *Objects) Get(ctx context.Context, kind string, name types.NamespacedName, most int, keys ...string) (*Content, error) {
	version, err := f.Version(ctx, kind, name)
	if err != nil || version == "" {
		return nil, err
	}
	if kept, ok := f.contents.get(foreignKey{kind, name}, version, most, keys); ok {
		return kept, nil
	}
	object, err := f.read(ctx, kind, name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %q: %w", kind, name, err)
	}
	o := &Content{Version: object.version, Data: map[string][]byte{}, optedIn: object.optedIn}
	kept := &keptObject{version: object.version, optedIn: object.optedIn, keys: map[string]keptContent{}}
	for _, k := range keys {
		// Copy the content, so that the object as a whole does not stay in memory.
		switch all, length := object.content(k); {
		case length > most:
			kept.keys[k], o.TooLong = keptContent{length: length}, append(o.TooLong, k)
		case length > 0:
			o.Data[k] = bytes.Clone(all)
			kept.keys[k] = keptContent{o.Data[k], length}
		default:
			kept.keys[k] = keptContent{}
			o.Others = object.names()
		}
	}
	kept.others = o.Others
	f.contents.put(foreignKey{kind, name}, kept)
	return o, nil
}

// readObject is an object as read from the API server.
type readObject struct {
	version string
	optedIn bool                           // it carries the opt-in label
	content func(key string) ([]byte, int) // and its length
	names   func() []string                // of some keys that are not empty, sorted
}

// maxOthers bounds the names of keys that are kept for a message.
const maxOthers = 8

// read reads an object from the API server.
func (f *Objects) read(ctx context.Context, kind string, name types.NamespacedName) (o readObject, err error) {
	if kind == "Secret" {
		var s corev1.Secret
		err = f.live.Get(ctx, name, &s)
		return readObject{
			versionOf(&s), s.Labels[v1alpha1.CredentialsLabel] == v1alpha1.CredentialsOptIn,
			func(k string) ([]byte, int) { return s.Data[k], len(s.Data[k]) },
			func() []string { return first(s.Data) },
		}, err
	}
	var m corev1.ConfigMap
	err = f.live.Get(ctx, name, &m)
	return readObject{versionOf(&m), false, func(k string) ([]byte, int) {
		if text, ok := m.Data[k]; ok {
			return []byte(text), len(text)
		}
		return m.BinaryData[k], len(m.BinaryData[k])
	}, func() []string {
		names := append(first(m.Data), first(m.BinaryData)...)
		return names[:min(len(names), maxOthers)]
	}}, err
}

// first returns the names of some keys that are not empty.
func first[V string | []byte](data map[string]V) []string {
	names := []string{}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		if len(data[k]) > 0 && len(names) < maxOthers {
			names = append(names, strings.Clone(k))
		}
	}
	return names
}

// Instead continues a message that an object has no such key: it says which keys it has. Show it
// only to people of the object's own namespace.
func (c *Content) Instead(key string) string {
	switch {
	case len(c.Data[key]) > 0:
		return " with content" // but only white space
	case len(c.Others) == 0:
		return ", it has none"
	}
	return ", it has " + strings.Join(c.Others, ", ")
}

// Revision identifies a credential by its content, so that a changed label on its Secret
// mints nothing. Users who must not know the credential can read the revision: a slow
// derivation protects a weak credential from being guessed.
func Revision(name types.NamespacedName, content []byte) string {
	key, err := pbkdf2.Key(sha256.New, string(content), []byte(name.String()), 4096, 16)
	if err != nil {
		panic(err) // only for parameters that FIPS 140 forbids
	}
	return hex.EncodeToString(key)
}

// TooLongCredential returns the problem of a credential with more than MaxCredential bytes.
func TooLongCredential(secret, key string) *rules.Problem {
	return &rules.Problem{
		Reason:  v1alpha1.ReasonCredentialsInvalid,
		Message: fmt.Sprintf("Key %q of Secret %q holds more than %d bytes", key, secret, MaxCredential),
	}
}

// MayBeSent returns the problem that keeps a Secret from being sent to an authorization
// server as a credential, nil if there is none. A tenant's object names both the Secret and
// the server: without the opt-in, someone who may write that object but not read Secrets
// could have any Secret of the namespace sent to a server of their own.
func (f *Objects) MayBeSent(name types.NamespacedName, secret *Content) *rules.Problem {
	if !f.optIn || secret.optedIn {
		return nil
	}
	return &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotAllowed, Message: fmt.Sprintf(
		"Secret %q may not be sent to authorization servers; if it holds credentials for them, allow it: kubectl label secret -n %s %s %s=%s",
		name.Name, name.Namespace, name.Name, v1alpha1.CredentialsLabel, v1alpha1.CredentialsOptIn)}
}
