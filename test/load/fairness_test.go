// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// evilClients creates clients of the API's own namespace, whose requests start with "evil-".
func evilClients(w *operator.World, count int) (all []*v1alpha1.M2MClient) {
	w.T.Helper()
	for i := range count {
		name, secret := fmt.Sprintf("evil-%d", i), operator.NewSecret()
		w.SetClient(name, secret)
		credential := w.Secret(name, name, secret)
		credential.Namespace = w.Payments
		c := w.Cart()
		c.Name, c.Namespace = name, w.Payments
		c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(name)
		operator.Create(w.T, credential, c)
		all = append(all, c)
	}
	return all
}

func isEvil(r *http.Request) bool {
	id, _, _ := r.BasicAuth()
	return strings.HasPrefix(id, "evil-")
}

// TestTroubleOfOneNamespaceIsItsOwn: however the server answers twenty clients of one
// namespace, another namespace's token is refreshed in time, and its new client gets a
// token.
func TestTroubleOfOneNamespaceIsItsOwn(t *testing.T) {
	op := operator.StartStepped(t)
	for name, fault := range map[string]*oidc.Fault{
		"a failure":                     operator.Answer(500, ""),
		"an answer that cannot be read": {Malformed: true},
		"a long Retry-After":            operator.AskLater("600"),
		"a refusal":                     operator.Answer(401, `{"error":"invalid_client"}`),
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			fault.Match = isEvil
			s.AS.SetFault(oidc.Token, fault)
			evil := evilClients(s.World, 20)
			operator.EventuallyCached(t, op, evil[19])
			s.Settle()
			s.Due()
			s.AS.ResetRequests()
			fresh := s.Another("new")
			operator.EventuallyCached(t, op, fresh)
			s.Settle()
			operator.IsReady(t, fresh)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
			if n := s.RequestsOf(operator.CartID); n != 1 {
				t.Errorf("%d token requests for the token that was due, want 1", n)
			}
		})
	}
}

// TestRefusalsOfANamespaceAreFew: a server may lock out clients that are refused
// often, and such a lockout would hit all tenants.
func TestRefusalsOfANamespaceAreFew(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	fault := operator.Answer(401, `{"error":"invalid_client"}`)
	fault.Match = isEvil
	s.AS.SetFault(oidc.Token, fault)
	evil := evilClients(s.World, 30)
	operator.EventuallyCached(t, op, evil[29])
	s.AS.ResetRequests()
	s.Until(op.Clock.Now().Add(10 * time.Minute))
	if n := s.AS.Count(oidc.Token); n > 25 {
		t.Errorf("30 misconfigured clients were refused %d times in ten minutes, want at most 25", n)
	}
	s.AS.ClearFaults()
	s.Until(op.Clock.Now().Add(2 * time.Minute))
	ready := 0
	for _, c := range evil {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			t.Fatal(err)
		}
		if c.Status.ExpiresAt != nil {
			ready++
		}
	}
	if ready == 0 {
		t.Error("none of them has a token two minutes after they were registered")
	}
}

// TestSlowServersDelayNoOther: forty servers of one namespace do not answer, and one of
// another namespace does.
func TestSlowServersDelayNoOther(t *testing.T) {
	w := operator.NewWorld(t)
	slow, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(slow.Close)
	slow.SetFault(oidc.Discovery, &oidc.Fault{Hang: true})
	operator.Start(t)
	evil := operator.NewNamespace(t, "evil", nil)
	for i := range 40 {
		a := w.Server(evil)
		a.Name, a.Spec.Issuer = fmt.Sprintf("slow-%d", i), slow.Issuer()
		operator.Create(t, a)
	}
	operator.Eventually(t, func() error {
		if n := slow.Count(oidc.Discovery); n < 4 {
			return fmt.Errorf("%d of the slow servers got a request", n)
		}
		return nil
	})
	before := slow.Count(oidc.Discovery)
	good := w.Server(w.Shop)
	operator.Create(t, good)
	operator.IsReady(t, good)
	if n := slow.Count(oidc.Discovery); n > before+4 {
		t.Errorf("%d slow servers got a request before the other", n)
	}
}

// TestAPassThatWaitedLeavesTheRestToAnother: a client with many accesses at a slow
// server occupies a worker for one answer at a time.
func TestAPassThatWaitedLeavesTheRestToAnother(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.AlsoKnows("https://one.example.com", "https://two.example.com")
	operator.Change(t, s.Cart, func(c *v1alpha1.M2MClient) {
		for _, key := range []string{"one", "two"} {
			c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{
				Key: v1alpha1.AccessKey(key), Resource: v1alpha1.ResourceIdentifier("https://" + key + ".example.com"),
			})
		}
	})
	op.CatchUp(s.Payments, s.Shop)
	s.AS.ResetRequests()
	s.AS.SetFault(oidc.Token, &oidc.Fault{Rewrite: func(map[string]any) {}, Match: func(*http.Request) bool {
		op.Advance(9 * time.Second)
		return false
	}})
	for want := 1; want <= 2; want++ {
		if err := op.ReconcileClient(s.Cart); err != nil {
			t.Fatal(err)
		}
		if n := s.AS.Count(oidc.Token); n != want {
			t.Fatalf("%d token requests after %d passes, want one in each", n, want)
		}
		op.CatchUp(s.Payments, s.Shop)
	}
	s.Settle()
	operator.IsReady(t, s.Cart)
}

// TestACorrectedServerIsAskedAtOnce: a client that would wait for an hour tries again
// at once when its server's spec changes.
func TestACorrectedServerIsAskedAtOnce(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.SetServer(s.Shop, func(spec *v1alpha1.AuthorizationServerSpec) {
		spec.Endpoints.Token = v1alpha1.EndpointURL(s.AS.Issuer() + "/wrong")
	})
	s.Due()
	s.Settle()
	s.Until(s.Status().ExpiresAt.Add(30 * time.Minute))
	if failure := s.Status().Failure; failure.NextAttemptAt == nil || failure.NextAttemptAt.Sub(op.Clock.Now()) < time.Minute {
		t.Fatalf("the next attempt is at %v, want it minutes away", failure.NextAttemptAt)
	}
	s.SetServer(s.Shop, func(spec *v1alpha1.AuthorizationServerSpec) { spec.Endpoints.Token = "" })
	op.CatchUp(s.Payments, s.Shop)
	s.Settle()
	operator.IsReady(t, s.Cart)
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
}
