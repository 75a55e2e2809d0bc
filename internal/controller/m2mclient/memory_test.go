// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestFormerAccessesAreForgotten renames the access of a client over and over: nothing
// is kept of its former names. Nothing is kept of a client that another instance serves,
// or that was deleted, either.
func TestFormerAccessesAreForgotten(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	op := operator.StartStepped(t)
	for i := range 4 {
		operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Key = v1alpha1.AccessKey(fmt.Sprintf("key-%d", i)) })
		op.Settle(w.Shop, w.Payments)
	}
	isRemembered := func(want ...string) {
		t.Helper()
		if err := op.ReconcileClient(cart); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, op.M2MClients.Remembered(client.ObjectKeyFromObject(cart), "key-0", "key-1", "key-2", "key-3"), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("what is remembered (-want +got):\n%s", diff)
		}
	}
	isRemembered("key-3", "Secret")
	for _, shard := range []string{"a", ""} {
		operator.Label(t, cart, shard)
		op.Agrees(op.Client, &v1alpha1.M2MClientList{}, client.InNamespace(w.Shop))
		if shard == "" {
			isRemembered("key-3") // and not the Secret, which it has not written
		} else {
			isRemembered()
		}
	}
	operator.Remove(t, cart)
	op.Agrees(op.Client, &v1alpha1.M2MClientList{}, client.InNamespace(w.Shop))
	isRemembered()
}

// TestAForgedRecordBringsNobodyForward: a record in a Secret says that its token expired
// long ago. The process that wrote another record does not believe it.
func TestAForgedRecordBringsNobodyForward(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.Shop, Name: "cart-token"}}
	operator.Change(t, secret, func(o *corev1.Secret) {
		records := o.Annotations[v1alpha1.TokensAnnotation]
		at := strings.Index(records, `"expiresAt":"`) + len(`"expiresAt":"`)
		o.Annotations[v1alpha1.TokensAnnotation] = records[:at] + "2001" + records[at+4:]
	})
	op.CatchUp(s.Payments, s.Shop)
	var c v1alpha1.M2MClient
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(s.Cart), &c); err != nil {
		t.Fatal(err)
	}
	recorded, need := op.M2MClients.NeedOfFirst(t, &c, op.Clock.Now())
	if recorded.Year() != 2001 {
		t.Fatal("the record was not forged")
	}
	if !need.ExpiresAt.IsZero() || need.Proven {
		t.Errorf("the forged record is believed: %+v", need)
	}
}
