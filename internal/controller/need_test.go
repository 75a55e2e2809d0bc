// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// living creates a client whose tokens live so long.
func (w *world) living(name string, lifetime time.Duration) *v1alpha1.M2MClient {
	w.t.Helper()
	c := w.another(name)
	var credential corev1.Secret
	if err := kube.Get(w.t.Context(), client.ObjectKey{Namespace: w.shop, Name: name}, &credential); err != nil {
		w.t.Fatal(err)
	}
	err := w.as.SetClient(oidc.Client{
		ID: name, Secret: string(credential.Data[v1alpha1.ClientSecretKey]), Method: oidc.SecretBasic, TokenLifetime: lifetime,
		Scopes: map[string][]string{paymentAPI: {"payments:read", "payments:write"}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// askers returns who sent token requests, in this order.
func (w *world) askers() (ids []string) {
	for _, r := range w.as.TokenRequests() {
		ids = append(ids, r.ClientID)
	}
	return ids
}

// TestAFloodOfNewClientsDelaysNoRefresh has three tokens fall due at a server of
// one request per second for which new clients wait.
func TestAFloodOfNewClientsDelaysNoRefresh(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.living("a-in-twelve-minutes", 40*time.Minute)
	s.living("b-in-two-minutes", 30*time.Minute)
	s.living("c-has-expired", 20*time.Minute)
	s.settle()
	op.advance(28 * time.Minute)
	change(t, s.server(s.shop), func(a *v1alpha1.AuthorizationServer) {
		a.Spec.Requests = v1alpha1.RequestBudget{PerSecond: 1, Burst: 1}
	})
	var flood []*v1alpha1.M2MClient
	for i := range 12 {
		flood = append(flood, s.another(fmt.Sprintf("new-%d", i)))
	}
	s.as.ResetRequests()
	op.catchUp(s.payments, s.shop)
	first := flood[5]
	if _, err := op.reconcilers.client.Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(first))); err != nil {
		t.Fatal(err)
	}
	s.settle()
	want := []string{first.Name}
	if diff := gocmp.Diff(want, s.askers()); diff != "" {
		t.Fatalf("token requests at once (-want +got):\n%s", diff)
	}

	flood = slices.Delete(flood, 5, 6)
	slices.SortFunc(flood, func(a, b *v1alpha1.M2MClient) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	want = append(want, "c-has-expired", "b-in-two-minutes", "a-in-twelve-minutes")
	for _, c := range flood {
		want = append(want, c.Name)
	}
	for range want[1:] {
		op.advance(time.Second)
		s.settle()
	}
	if diff := gocmp.Diff(want, s.askers()); diff != "" {
		t.Errorf("token requests, one a second (-want +got):\n%s", diff)
	}
}

// TestRankInTheQueue: the sooner a token expires, the lower, and it is always below
// that of clients without one.
func TestRankInTheQueue(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	soon, late := s.living("soon", 10*time.Minute), s.living("late", 200*365*24*time.Hour)
	s.settle()
	rank := func(c *v1alpha1.M2MClient) int64 {
		t.Helper()
		op.catchUp(s.payments, s.shop)
		return op.reconcilers.client.Rank(requestOf(client.ObjectKeyFromObject(c)))
	}
	unknown := soon.DeepCopy()
	unknown.Name = "unknown"
	fresh := rank(soon)
	if l, u := rank(late), rank(unknown); u != watch.LastRank || l >= u || fresh >= l {
		t.Errorf("the ranks are %d for a token that expires soon, %d for one that expires late, %d for none", fresh, l, u)
	}
	op.advance(5 * time.Minute)
	s.as.SetFault(oidc.Token, answer(503, ""))
	s.settle()
	if due := rank(soon); due != fresh {
		t.Errorf("a token that could not be replaced has the rank %d, and had %d", due, fresh)
	}
	s.as.ClearFaults()
	op.advance(time.Hour)
	s.settle()
	if replaced := rank(soon); replaced <= fresh || replaced == watch.LastRank {
		t.Errorf("a replaced token has the rank %d, and its predecessor had %d", replaced, fresh)
	}
	change(t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	op.catchUp(s.payments, s.shop)
	s.settle()
	if withdrawn := rank(soon); withdrawn != watch.LastRank {
		t.Errorf("a client whose token was withdrawn has the rank %d", withdrawn)
	}
}

// TestTheQueueGoesByNeed keeps the only worker of a running operator busy, has
// new clients queue, and then two whose tokens are lost.
func TestTheQueueGoesByNeed(t *testing.T) {
	w := newWorld(t)
	startOperator(t, func(o *Options) { o.Workers = 1 })
	w.story()
	late, soon := w.living("late", 2*time.Hour), w.living("soon", time.Hour)
	isReady(t, late)
	isReady(t, soon)
	eventually(t, func() error { return idle(t, "m2mclient") })
	w.as.ResetRequests()

	busyWith, goOn := make(chan struct{}), make(chan struct{})
	w.as.AddFault(oidc.Token, &oidc.Fault{ClientID: "busy", Times: 1, Match: func(*http.Request) bool {
		close(busyWith)
		<-goOn
		return true
	}})
	w.another("busy")
	<-busyWith
	queued := func(n int) {
		t.Helper()
		eventually(t, func() error {
			if waiting, _ := busy(t, "m2mclient"); int(waiting-abandoned["m2mclient"]) < n {
				return fmt.Errorf("%v clients are queued, not %d", waiting, n)
			}
			return nil
		})
	}
	const flood = 10
	for i := range flood {
		w.another(fmt.Sprintf("new-%d", i))
	}
	queued(flood)
	for i, c := range []*v1alpha1.M2MClient{late, soon} {
		lost := &corev1.Secret{}
		lost.Namespace, lost.Name = w.shop, c.Name+"-token"
		change(t, lost, func(s *corev1.Secret) { delete(s.Data, "payment-api") })
		queued(flood + i + 1)
	}
	close(goOn)
	eventually(t, func() error {
		if n := len(w.askers()); n < flood+3 {
			return fmt.Errorf("%d token requests were sent", n)
		}
		return nil
	})
	if diff := gocmp.Diff([]string{"busy", "soon", "late"}, w.askers()[:3]); diff != "" {
		t.Errorf("the first token requests (-want +got):\n%s", diff)
	}
}
