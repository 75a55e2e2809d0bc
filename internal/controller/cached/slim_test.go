// SPDX-License-Identifier: Apache-2.0

package cached

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestSlimObjectsSayTheSame prepares objects for the caches. Only fields that nothing
// reads are removed, and two objects share equal strings.
func TestSlimObjectsSayTheSame(t *testing.T) {
	named := func(format string, args ...any) string { return fmt.Sprintf(format, args...) } // equal constants would be shared anyway
	meta := func(i int) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: named("shop-%d", 1), Name: named("cart-%d", i), UID: "1", ResourceVersion: named("%d", i),
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
			Labels:          map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
			Annotations:     map[string]string{v1alpha1.TokensAnnotation: named("%d", i)},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: named("m2m-operator.io/v%d", 1), Kind: named("M2M%s", "Client"), Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(false)}},
		}
	}
	m2mClient := func(i int) client.Object {
		c := &v1alpha1.M2MClient{ObjectMeta: meta(i)}
		c.Spec.Access = []v1alpha1.Access{{APIResourceRef: v1alpha1.APIResourceReference{Name: v1alpha1.APIResourceName(named("payment-%d", 1))}, Scopes: []v1alpha1.ScopeName{v1alpha1.ScopeName(named("pay:%d", 1))}}}
		c.Status.Conditions = []metav1.Condition{{Type: named("Ready%d", 1), Status: metav1.ConditionTrue, Message: named("All is well with %s", "it")}}
		c.Status.Tokens = []v1alpha1.TokenStatus{{Key: v1alpha1.AccessKey(named("payment-%d", 1)), KeyID: named("key-%d", 1), IssuedAt: ptr.To(metav1.Now())}}
		return c
	}
	secret := func(i int) client.Object {
		return &corev1.Secret{ObjectMeta: meta(i), Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"payment": []byte(named("token %d", i))}}
	}
	for name, tc := range map[string]struct {
		object func(int) client.Object
		slim   func(any) (any, error)
		unread func(client.Object) // removes fields that nothing reads
		shared func(client.Object) []string
	}{
		"an M2MClient": {m2mClient, SlimClient, func(o client.Object) {
			o.SetLabels(nil)
			o.SetAnnotations(nil)
			o.SetOwnerReferences(nil)
		}, func(o client.Object) []string {
			c := o.(*v1alpha1.M2MClient)
			return []string{c.Namespace, string(c.Spec.Access[0].APIResourceRef.Name), string(c.Spec.Access[0].Scopes[0]),
				c.Status.Conditions[0].Type, c.Status.Conditions[0].Message, c.Status.Tokens[0].KeyID}
		}},
		"a Secret": {secret, SlimSecret(""), func(client.Object) {}, func(o client.Object) []string {
			s := o.(*corev1.Secret)
			return []string{s.Namespace, s.OwnerReferences[0].Kind, s.OwnerReferences[0].APIVersion}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var slim []client.Object
			for i := range 2 {
				before := tc.object(i)
				want := before.DeepCopyObject().(client.Object)
				want.SetManagedFields(nil)
				tc.unread(want)
				after, err := tc.slim(before)
				if err != nil || !equality.Semantic.DeepEqual(want, after) {
					t.Errorf("%d became %+v (%v), want %+v", i, after, err, want)
				}
				slim = append(slim, after.(client.Object))
			}
			first, second := tc.shared(slim[0]), tc.shared(slim[1])
			for i := range first {
				if unsafe.StringData(first[i]) != unsafe.StringData(second[i]) {
					t.Errorf("%q is kept twice", first[i])
				}
			}
		})
	}
	if kept, err := SlimClient(runtime.Object(nil)); err != nil || kept != nil {
		t.Errorf("a value that is not an object becomes %v, %v", kept, err)
	}
}

func TestSharedStringsAreBounded(t *testing.T) {
	for i := range 2 * sharedMax {
		s := fmt.Sprintf("bounded-%d", i)
		Share(&s)
	}
	long := strings.Repeat("x", sharedLength+1)
	Share(&long)
	shared.Lock()
	defer shared.Unlock()
	if _, kept := shared.strings[long]; kept || len(shared.strings) > sharedMax {
		t.Errorf("%d strings are kept, a long one: %t", len(shared.strings), kept)
	}
}
