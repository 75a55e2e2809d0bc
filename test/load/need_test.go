// SPDX-License-Identifier: Apache-2.0

package load_test

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
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// living creates a client whose tokens have a given lifetime.
func living(w *operator.World, name string, lifetime time.Duration) *v1alpha1.M2MClient {
	w.T.Helper()
	c := w.Another(name)
	var credential corev1.Secret
	if err := operator.Kube.Get(w.T.Context(), client.ObjectKey{Namespace: w.Shop, Name: name}, &credential); err != nil {
		w.T.Fatal(err)
	}
	err := w.AS.SetClient(oidc.Client{
		ID: name, Secret: string(credential.Data[v1alpha1.ClientSecretKey]), Method: oidc.SecretBasic, TokenLifetime: lifetime,
		Scopes: map[string][]string{operator.PaymentAPI: {"payments:read", "payments:write"}},
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return c
}

// askers returns the senders of token requests, in order.
func askers(w *operator.World) (ids []string) {
	for _, r := range w.AS.TokenRequests() {
		ids = append(ids, r.ClientID)
	}
	return ids
}

// TestAFloodOfNewClientsDelaysNoRefresh: three tokens become due at a server that allows
// one request per second, and new clients wait for it, too.
func TestAFloodOfNewClientsDelaysNoRefresh(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	living(s.World, "a-in-twelve-minutes", 40*time.Minute)
	living(s.World, "b-in-two-minutes", 30*time.Minute)
	living(s.World, "c-has-expired", 20*time.Minute)
	s.Settle()
	op.Advance(28 * time.Minute)
	operator.Change(t, s.Server(s.Shop), func(a *v1alpha1.AuthorizationServer) {
		a.Spec.Requests = v1alpha1.RequestBudget{PerSecond: 1, Burst: 1}
	})
	var flood []*v1alpha1.M2MClient
	for i := range 12 {
		flood = append(flood, s.Another(fmt.Sprintf("new-%d", i)))
	}
	s.AS.ResetRequests()
	op.CatchUp(s.Payments, s.Shop)
	first := flood[5]
	if _, err := op.M2MClients.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(first))); err != nil {
		t.Fatal(err)
	}
	s.Settle()
	want := []string{first.Name}
	if diff := gocmp.Diff(want, askers(s.World)); diff != "" {
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
		op.Advance(time.Second)
		s.Settle()
	}
	if diff := gocmp.Diff(want, askers(s.World)); diff != "" {
		t.Errorf("token requests, one a second (-want +got):\n%s", diff)
	}
}

// TestNeedInTheQueue: the sooner a token expires, the greater is its client's need. A
// client with a token always has a greater need than one without.
func TestNeedInTheQueue(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	soon, late := living(s.World, "soon", 10*time.Minute), living(s.World, "late", 200*365*24*time.Hour)
	s.Settle()
	need := func(c *v1alpha1.M2MClient) traffic.Need {
		t.Helper()
		op.CatchUp(s.Payments, s.Shop)
		return op.M2MClients.Need(operator.RequestOf(client.ObjectKeyFromObject(c)))
	}
	unknown := soon.DeepCopy()
	unknown.Name = "unknown"
	fresh := need(soon)
	if l, u := need(late), need(unknown); l.Compare(u) >= 0 || fresh.Compare(l) >= 0 {
		t.Errorf("the needs are %+v for a token that expires soon, %+v for one that expires late, %+v for none", fresh, l, u)
	}
	op.Advance(5 * time.Minute)
	s.AS.SetFault(oidc.Token, operator.Answer(503, ""))
	s.Settle()
	if due := need(soon); due.Compare(fresh) != 0 {
		t.Errorf("a token that could not be replaced is needed like %+v, and was like %+v", due, fresh)
	}
	s.AS.ClearFaults()
	op.Advance(time.Hour)
	s.Settle()
	if replaced := need(soon); replaced.Compare(fresh) <= 0 || replaced.ExpiresAt.IsZero() {
		t.Errorf("a replaced token is needed like %+v, and its predecessor was like %+v", replaced, fresh)
	}
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	op.CatchUp(s.Payments, s.Shop)
	s.Settle()
	if withdrawn := need(soon); !withdrawn.ExpiresAt.IsZero() {
		t.Errorf("a client whose token was withdrawn is in need like %+v", withdrawn)
	}
}

// TestTheQueueGoesByNeed keeps the only worker of a running operator busy, queues new
// clients, and then two clients whose tokens are lost.
func TestTheQueueGoesByNeed(t *testing.T) {
	w := operator.NewWorld(t)
	operator.Start(t, func(o *controller.Options) { o.Workers = 1 })
	w.Story()
	late, soon := living(w, "late", 2*time.Hour), living(w, "soon", time.Hour)
	operator.IsReady(t, late)
	operator.IsReady(t, soon)
	operator.Eventually(t, func() error { return operator.Idle(t, "m2mclient") })
	w.AS.ResetRequests()

	busyWith, goOn := make(chan struct{}), make(chan struct{})
	w.AS.AddFault(oidc.Token, &oidc.Fault{ClientID: "busy", Times: 1, Match: func(*http.Request) bool {
		close(busyWith)
		<-goOn
		return true
	}})
	w.Another("busy")
	<-busyWith
	queued := func(n int) {
		t.Helper()
		operator.Eventually(t, func() error {
			if waiting := operator.Queued(t, "m2mclient"); waiting < n {
				return fmt.Errorf("%d clients are queued, not %d", waiting, n)
			}
			return nil
		})
	}
	const flood = 10
	for i := range flood {
		w.Another(fmt.Sprintf("new-%d", i))
	}
	queued(flood)
	for i, c := range []*v1alpha1.M2MClient{late, soon} {
		lost := &corev1.Secret{}
		lost.Namespace, lost.Name = w.Shop, c.Name+"-token"
		operator.Change(t, lost, func(s *corev1.Secret) { delete(s.Data, "payment-api") })
		queued(flood + i + 1)
	}
	close(goOn)
	operator.Eventually(t, func() error {
		if n := len(askers(w)); n < flood+3 {
			return fmt.Errorf("%d token requests were sent", n)
		}
		return nil
	})
	if diff := gocmp.Diff([]string{"busy", "soon", "late"}, askers(w)[:3]); diff != "" {
		t.Errorf("the first token requests (-want +got):\n%s", diff)
	}
}
