// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/m2mclient"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// evil creates clients of the API's own namespace, whose requests start with "evil-".
func (w *world) evil(count int) (all []*v1alpha1.M2MClient) {
	w.t.Helper()
	for i := range count {
		name, secret := fmt.Sprintf("evil-%d", i), newSecret()
		w.setClient(name, secret)
		credential := w.secret(name, name, secret)
		credential.Namespace = w.payments
		c := w.cart()
		c.Name, c.Namespace = name, w.payments
		c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(name)
		create(w.t, credential, c)
		all = append(all, c)
	}
	return all
}

func isEvil(r *http.Request) bool {
	id, _, _ := r.BasicAuth()
	return strings.HasPrefix(id, "evil-")
}

// TestTroubleOfOneNamespaceIsItsOwn: however the server answers twenty clients of one
// namespace, another's token is refreshed in time, and its new client gets one.
func TestTroubleOfOneNamespaceIsItsOwn(t *testing.T) {
	op := startStepped(t)
	for name, fault := range map[string]*oidc.Fault{
		"a failure":                     answer(500, ""),
		"an answer that cannot be read": {Malformed: true},
		"a long Retry-After":            askLater("600"),
		"a refusal":                     answer(401, `{"error":"invalid_client"}`),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op)
			fault.Match = isEvil
			s.as.SetFault(oidc.Token, fault)
			evil := s.evil(20)
			eventuallyCached(t, op, evil[19])
			s.settle()
			s.due()
			s.as.ResetRequests()
			fresh := s.another("new")
			eventuallyCached(t, op, fresh)
			s.settle()
			isReady(t, fresh)
			hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
			if n := s.requestsOf(cartID); n != 1 {
				t.Errorf("%d token requests for the token that was due, want 1", n)
			}
		})
	}
}

// TestRefusalsOfANamespaceAreFew: the server locks out whoever is refused often, and
// that would be everybody's clients.
func TestRefusalsOfANamespaceAreFew(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	fault := answer(401, `{"error":"invalid_client"}`)
	fault.Match = isEvil
	s.as.SetFault(oidc.Token, fault)
	evil := s.evil(30)
	eventuallyCached(t, op, evil[29])
	s.as.ResetRequests()
	s.until(op.clock.Now().Add(10 * time.Minute))
	if n := s.as.Count(oidc.Token); n > 25 {
		t.Errorf("30 misconfigured clients were refused %d times in ten minutes, want at most 25", n)
	}
	s.as.ClearFaults()
	s.until(op.clock.Now().Add(2 * time.Minute))
	ready := 0
	for _, c := range evil {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
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

// TestSlowServersDelayNoOther has forty servers of one namespace that do not answer,
// and then one of another.
func TestSlowServersDelayNoOther(t *testing.T) {
	w := newWorld(t)
	slow, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(slow.Close)
	slow.SetFault(oidc.Discovery, &oidc.Fault{Hang: true})
	startOperator(t)
	evil := newNamespace(t, "evil", nil)
	for i := range 40 {
		a := w.server(evil)
		a.Name, a.Spec.Issuer = fmt.Sprintf("slow-%d", i), slow.Issuer()
		create(t, a)
	}
	eventually(t, func() error {
		if n := slow.Count(oidc.Discovery); n < 4 {
			return fmt.Errorf("%d of the slow servers are asked", n)
		}
		return nil
	})
	before := slow.Count(oidc.Discovery)
	good := w.server(w.shop)
	create(t, good)
	isReady(t, good)
	if n := slow.Count(oidc.Discovery); n > before+4 {
		t.Errorf("%d slow servers were asked before the other", n)
	}
}

// TestAPassThatWaitedLeavesTheRestToAnother: a client of many accesses at a slow server
// holds a worker for one answer at a time.
func TestAPassThatWaitedLeavesTheRestToAnother(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.alsoKnows("https://one.example.com", "https://two.example.com")
	change(t, s.cart, func(c *v1alpha1.M2MClient) {
		for _, key := range []string{"one", "two"} {
			c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{
				Key: v1alpha1.AccessKey(key), Resource: v1alpha1.ResourceIdentifier("https://" + key + ".example.com"),
			})
		}
	})
	op.catchUp(s.payments, s.shop)
	s.as.ResetRequests()
	s.as.SetFault(oidc.Token, &oidc.Fault{Rewrite: func(map[string]any) {}, Match: func(*http.Request) bool {
		op.advance(9 * time.Second)
		return false
	}})
	for want := 1; want <= 2; want++ {
		if err := op.reconcileClient(s.cart); err != nil {
			t.Fatal(err)
		}
		if n := s.as.Count(oidc.Token); n != want {
			t.Fatalf("%d token requests after %d passes, want one in each", n, want)
		}
		op.catchUp(s.payments, s.shop)
	}
	s.settle()
	isReady(t, s.cart)
}

// TestACorrectedServerIsAskedAtOnce: what a client waits for an hour for begins anew when
// its server's spec changes.
func TestACorrectedServerIsAskedAtOnce(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.setServer(s.shop, func(spec *v1alpha1.AuthorizationServerSpec) {
		spec.Endpoints.Token = v1alpha1.EndpointURL(s.as.Issuer() + "/wrong")
	})
	s.due()
	s.settle()
	s.until(s.status().ExpiresAt.Add(30 * time.Minute))
	if failure := s.status().Failure; failure.NextAttemptAt == nil || failure.NextAttemptAt.Sub(op.clock.Now()) < time.Minute {
		t.Fatalf("the next attempt is at %v, want it minutes away", failure.NextAttemptAt)
	}
	s.setServer(s.shop, func(spec *v1alpha1.AuthorizationServerSpec) { spec.Endpoints.Token = "" })
	op.catchUp(s.payments, s.shop)
	s.settle()
	isReady(t, s.cart)
	hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
}

// TestAForgedRecordBringsNobodyForward: the record in a Secret that says its token expired
// long ago is not believed by the process that wrote another one.
func TestAForgedRecordBringsNobodyForward(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.shop, Name: "cart-token"}}
	change(t, secret, func(o *corev1.Secret) {
		records := o.Annotations[v1alpha1.TokensAnnotation]
		at := strings.Index(records, `"expiresAt":"`) + len(`"expiresAt":"`)
		o.Annotations[v1alpha1.TokensAnnotation] = records[:at] + "2001" + records[at+4:]
	})
	op.catchUp(s.payments, s.shop)
	r := op.reconcilers.client
	var c v1alpha1.M2MClient
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(s.cart), &c); err != nil {
		t.Fatal(err)
	}
	p := &m2mclient.Pass{Client: &c, Now: op.clock.Now()}
	for _, step := range []func() error{
		func() error { return r.Resolve(t.Context(), p) }, func() error { return r.ReadSecret(t.Context(), p) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	a := p.Accesses[0]
	r.Present(p, a)
	if a.Record == nil || a.Record.ExpiresAt.Year() != 2001 {
		t.Fatal("the record was not forged")
	}
	if n := r.Need(p, a, a.Record.Inputs); !n.ExpiresAt.IsZero() || n.Proven {
		t.Errorf("the forged record is believed: %+v", n)
	}
}
