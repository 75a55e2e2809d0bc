// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
)

// TestIdentities lets a reflector's store follow objects, and checks what is known and what
// the handlers receive.
func TestIdentities(t *testing.T) {
	const uid = "e95a721c-3a61-48cf-8e00-7ac6b23b9cc6"
	secret := func(namespace, name, version string) *metav1.PartialObjectMetadata {
		o := cached.Metadata("Secret")
		o.Namespace, o.Name, o.UID, o.ResourceVersion = namespace, name, uid, version
		return o
	}
	all := &Identities{kind: "Secret", synced: make(chan struct{}), Of: map[string]map[string]identity{}}
	all.pending.Add(2)
	shop, payments := &identityStore{all: all, namespace: "shop"}, &identityStore{all: all, namespace: "payments"}
	go func() {
		all.pending.Wait()
		close(all.synced)
	}()
	var told []string
	all.handlers = append(all.handlers, func(is, was *metav1.PartialObjectMetadata) {
		change := ""
		for _, o := range []*metav1.PartialObjectMetadata{was, is} {
			if o == nil {
				change += " -"
			} else {
				change += fmt.Sprintf(" %s %s/%s@%s", o.Kind, o.Namespace, o.Name, o.ResourceVersion)
			}
		}
		told = append(told, change)
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	hears := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		told = nil
	}
	version := func(namespace, name string) string {
		t.Helper()
		v, err := all.version(t.Context(), types.NamespacedName{Namespace: namespace, Name: name})
		must(err)
		return v
	}

	must(shop.Replace([]any{secret("shop", "a", "1"), secret("shop", "b", "2")}, "2"))
	must(payments.Replace([]any{secret("payments", "a", "3")}, "3"))
	hears(" - Secret shop/a@1", " - Secret shop/b@2", " - Secret payments/a@3")
	if got := version("shop", "a"); got != uid+"/1" {
		t.Errorf("the version is %q", got)
	}
	if got := version("shop", "c"); got != "" {
		t.Errorf("an object that does not exist has the version %q", got)
	}

	must(shop.Update(secret("shop", "a", "4")))
	must(shop.Update(secret("shop", "a", "4")))
	must(shop.Delete(secret("shop", "b", "5")))
	must(shop.Delete(secret("shop", "b", "5")))
	hears(" Secret shop/a@1 Secret shop/a@4", " Secret shop/b@2 -")

	// After a gap in the watch, the list shows what was missed in this namespace.
	must(shop.Replace([]any{secret("shop", "c", "7")}, "7"))
	hears(" - Secret shop/c@7", " Secret shop/a@4 -")
	if version("payments", "a") == "" {
		t.Error("the list of one namespace removed what is in another")
	}
	must(payments.Delete(secret("payments", "a", "8")))
	if _, kept := all.Of["payments"]; kept {
		t.Error("an empty namespace is kept")
	}
	if err := shop.Add(&metav1.Status{}); err == nil {
		t.Error("a value that is not metadata is taken for an object")
	}
}

// TestIdentitiesListLittle prepares the objects of the first list.
func TestIdentitiesListLittle(t *testing.T) {
	full := cached.Metadata("Secret")
	full.ObjectMeta = metav1.ObjectMeta{
		Namespace: "shop", Name: "settings", UID: "1", ResourceVersion: "7",
		Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"a": "b"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}
	want := cached.Metadata("Secret")
	want.ObjectMeta = metav1.ObjectMeta{Namespace: "shop", Name: "settings", UID: "1", ResourceVersion: "7"}
	var store toolscache.TransformingStore = &identityStore{}
	if got, err := store.Transformer()(full); err != nil || !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("%+v (%v) is kept, want %+v", got, err, want)
	}
}
