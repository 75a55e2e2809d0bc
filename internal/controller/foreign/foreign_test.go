// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
)

// secretsThere is an API server with Secrets. It counts the reads.
type secretsThere struct {
	client.Reader
	all   map[types.NamespacedName]*corev1.Secret
	reads int
}

func (s *secretsThere) Get(_ context.Context, name types.NamespacedName, o client.Object, _ ...client.GetOption) error {
	s.reads++
	there, ok := s.all[name]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name.Name)
	}
	there.DeepCopyInto(o.(*corev1.Secret))
	return nil
}

// nothing is an empty cache of the operator's own objects.
type nothing struct{ client.Reader }

func (nothing) Get(_ context.Context, name types.NamespacedName, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(schema.GroupResource{}, name.Name)
}

// foreignFixture holds foreign objects that a test creates and changes.
type foreignFixture struct {
	*Objects
	there   *secretsThere
	store   *identityStore
	version int
}

func newForeignFixture(most int) *foreignFixture {
	there := &secretsThere{all: map[types.NamespacedName]*corev1.Secret{}}
	f := &Objects{own: nothing{}, live: there, contents: newContentCache(most)}
	synced := make(chan struct{})
	close(synced)
	f.secrets = &Identities{kind: "Secret", synced: synced, Of: map[string]map[string]identity{}}
	f.secrets.changed = func(n types.NamespacedName) { f.contents.drop(foreignKey{"Secret", n}) }
	return &foreignFixture{Objects: f, there: there, store: &identityStore{all: f.secrets}}
}

func (f *foreignFixture) set(name string, data map[string][]byte) types.NamespacedName {
	f.version++
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, UID: "e95a721c-3a61-48cf-8e00-7ac6b23b9cc6", ResourceVersion: fmt.Sprint(f.version)}, Data: data}
	f.there.all[client.ObjectKeyFromObject(s)] = s
	if err := f.store.Add(partial("Secret", s.ObjectMeta)); err != nil {
		panic(err)
	}
	return client.ObjectKeyFromObject(s)
}

func (f *foreignFixture) remove(name types.NamespacedName) {
	gone := f.there.all[name]
	delete(f.there.all, name)
	if err := f.store.Delete(partial("Secret", gone.ObjectMeta)); err != nil {
		panic(err)
	}
}

// check fails if the counted bytes exceed the bound, or if an empty cache counts any.
func (f *foreignFixture) check(t *testing.T) {
	t.Helper()
	if f.contents.bytes < 0 || f.contents.bytes > f.contents.most || f.contents.kept.Len() == 0 && f.contents.bytes != 0 {
		t.Errorf("%d objects count as %d of %d bytes", f.contents.kept.Len(), f.contents.bytes, f.contents.most)
	}
}

// TestForeignContentsAreForgotten creates, looks up and deletes Secrets of 1 MB over and over.
// Nothing of them stays in memory.
func TestForeignContentsAreForgotten(t *testing.T) {
	f := newForeignFixture(maxContents)
	for i := range 200 {
		name := f.set(fmt.Sprintf("filled-%d", i), map[string][]byte{"client-secret": []byte("s"), "filled": bytes.Repeat([]byte("x"), 1<<20)})
		o, err := f.Get(t.Context(), "Secret", name, MaxCredential, "client-secret")
		if err != nil || string(o.Data["client-secret"]) != "s" {
			t.Fatal(o, err)
		}
		if f.contents.bytes > 4096 {
			t.Fatalf("%d bytes of it are kept", f.contents.bytes)
		}
		f.remove(name)
		if o, err := f.Get(t.Context(), "Secret", name, MaxCredential, "client-secret"); o != nil || err != nil {
			t.Fatalf("a deleted Secret reads as %+v, %v", o, err)
		}
	}
	f.check(t)
	if f.contents.kept.Len() != 0 {
		t.Errorf("%d deleted objects are kept", f.contents.kept.Len())
	}
}

// TestForeignContentsAreBounded looks up more than the cache keeps. The cache forgets
// the least recently used contents, and only those are read again.
func TestForeignContentsAreBounded(t *testing.T) {
	f := newForeignFixture(1 << 20)
	lookUp := func(name types.NamespacedName) (reads int) {
		t.Helper()
		before := f.there.reads
		o, err := f.Get(t.Context(), "Secret", name, MaxCredential, "key")
		if err != nil || len(o.Data["key"]) != 40<<10 {
			t.Fatal(o, err)
		}
		f.check(t)
		return f.there.reads - before
	}
	secret := func(i int) types.NamespacedName {
		return f.set(fmt.Sprintf("s-%d", i), map[string][]byte{"key": bytes.Repeat([]byte("x"), 40<<10)})
	}
	often := secret(0)
	lookUp(often)
	for i := range 100 {
		if lookUp(secret(i+1)) != 1 || lookUp(often) != 0 {
			t.Fatalf("after %d others", i)
		}
	}
	if n := f.contents.kept.Len(); n < 20 || n > 26 {
		t.Errorf("%d Secrets of 40 KiB are kept in 1 MiB", n)
	}
	if lookUp(types.NamespacedName{Namespace: "shop", Name: "s-1"}) != 1 || lookUp(types.NamespacedName{Namespace: "shop", Name: "s-100"}) != 0 {
		t.Error("others than the oldest are forgotten")
	}
}

// TestForeignContents looks up keys of a Secret.
func TestForeignContents(t *testing.T) {
	f := newForeignFixture(maxContents)
	long := bytes.Repeat([]byte("x"), MaxCredential+1)
	name := f.set("credentials", map[string][]byte{"id": []byte("1"), "secret": []byte("s"), "empty": nil, "long": long})
	looksUp := func(reads, most int, want map[string][]byte, tooLong []string, keys ...string) {
		t.Helper()
		before := f.there.reads
		o, err := f.Get(t.Context(), "Secret", name, most, keys...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, o.Data); diff != "" {
			t.Errorf("%v (-want +got):\n%s", keys, diff)
		}
		if diff := cmp.Diff(tooLong, o.TooLong); diff != "" {
			t.Errorf("too long of %v (-want +got):\n%s", keys, diff)
		}
		if f.there.reads-before != reads {
			t.Errorf("%v cost %d reads, want %d", keys, f.there.reads-before, reads)
		}
	}
	id := map[string][]byte{"id": []byte("1")}
	both := map[string][]byte{"id": []byte("1"), "secret": []byte("s")}
	none := map[string][]byte{}
	looksUp(1, MaxCredential, id, nil, "id", "absent")
	looksUp(0, MaxCredential, id, nil, "absent", "id")
	looksUp(1, MaxCredential, both, nil, "id", "secret", "empty") // another key
	looksUp(0, MaxCredential, both, nil, "id", "secret", "absent", "empty")
	looksUp(1, MaxCredential, none, []string{"long"}, "long")
	looksUp(0, MaxCredential, id, []string{"long"}, "id", "long")
	if f.contents.bytes > 4096 {
		t.Errorf("%d bytes of a value that is too long are kept", f.contents.bytes)
	}
	looksUp(1, MaxCABundle, map[string][]byte{"long": long}, nil, "long") // a larger value is allowed
	looksUp(0, MaxCABundle, map[string][]byte{"long": long}, nil, "long")
	looksUp(0, MaxCredential, none, []string{"long"}, "long")
	f.set("credentials", map[string][]byte{"id": []byte("2")})
	looksUp(1, MaxCredential, map[string][]byte{"id": []byte("2")}, nil, "id", "secret")
	f.check(t)
}

// partial returns the metadata of an object of a kind.
func partial(kind string, meta metav1.ObjectMeta) *metav1.PartialObjectMetadata {
	o := cached.Metadata(kind)
	o.ObjectMeta = meta
	return o
}

// TestKeysThatAreThereInstead: if a key is missing, a message names some of those that are there,
// without their content, whether they were read just now or kept.
func TestKeysThatAreThereInstead(t *testing.T) {
	many := map[string][]byte{}
	for i := range 20 {
		many[fmt.Sprintf("k%02d", i)] = []byte("hidden")
	}
	for name, tc := range map[string]struct {
		data map[string][]byte
		want string
	}{
		"others":               {map[string][]byte{"secret": []byte("hidden"), "id": []byte("hidden")}, ", it has id, secret"},
		"white space":          {map[string][]byte{"client-secret": []byte("\n")}, " with content"},
		"none":                 {nil, ", it has none"},
		"an empty one":         {map[string][]byte{"client-secret": nil, "id": []byte("hidden")}, ", it has id"},
		"more than are listed": {many, ", it has k00, k01, k02, k03, k04, k05, k06, k07"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForeignFixture(maxContents)
			secret := f.set("cart-credentials", tc.data)
			for range 2 {
				o, err := f.Get(t.Context(), "Secret", secret, MaxCredential, "client-secret")
				if err != nil {
					t.Fatal(err)
				}
				if got := o.Instead("client-secret"); got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			}
			if f.there.reads != 1 {
				t.Errorf("the Secret was read %d times", f.there.reads)
			}
			f.check(t)
		})
	}
	f := newForeignFixture(maxContents)
	o, err := f.Get(t.Context(), "Secret", f.set("cart-credentials", map[string][]byte{"client-secret": []byte("s"), "other": []byte("hidden")}), MaxCredential, "client-secret")
	if err != nil || o.Others != nil {
		t.Errorf("names of keys are kept although none is missing: %v, %v", o.Others, err)
	}
}
