// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// clusterServers is a cache that holds only ClusterAuthorizationServers.
type clusterServers []v1alpha1.ClusterAuthorizationServer

func (c clusterServers) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return fmt.Errorf("it holds ClusterAuthorizationServers only")
}

func (c clusterServers) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*v1alpha1.ClusterAuthorizationServerList).Items = c
	return nil
}

var turnsStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// turnstile is the admission to token endpoints, with its own clock.
type turnstile struct {
	*Admission
	t     *testing.T
	clock *clocktesting.FakePassiveClock
}

// newTurnstile returns a turnstile for 20 workers and 100 requests per second.
func newTurnstile(t *testing.T, clusters ...v1alpha1.ClusterAuthorizationServer) *turnstile {
	t.Helper()
	return newTurnstileFor(t, 20, 1, 100, clusters...)
}

func newTurnstileFor(t *testing.T, workers, shares, requestsPerSecond int, clusters ...v1alpha1.ClusterAuthorizationServer) *turnstile {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(turnsStart)
	return &turnstile{Admission: NewAdmission(NewLives(), clusterServers(clusters), clock, workers, shares, requestsPerSecond), t: t, clock: clock}
}

// serverAt returns a server in a namespace with a token endpoint and a budget, 0 for the
// default.
func serverAt(namespace, name, issuer, token string, perSecond, burst int32) *rules.Server {
	o := &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name)},
		Spec: v1alpha1.AuthorizationServerSpec{
			Issuer: issuer, Requests: v1alpha1.RequestBudget{PerSecond: perSecond, Burst: burst},
			Endpoints: v1alpha1.AuthorizationServerEndpoints{Token: v1alpha1.EndpointURL(token)},
		},
	}
	return &rules.Server{Object: o, Spec: record.SpecOf(o), Status: record.StatusOf(o)}
}

// clusterAt returns a ClusterAuthorizationServer with a discovered token endpoint.
func clusterAt(name, issuer, token string, perSecond int32) v1alpha1.ClusterAuthorizationServer {
	c := v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	c.Spec.Issuer, c.Spec.Requests.PerSecond = issuer, perSecond
	c.Status.Endpoints.Token = v1alpha1.EndpointURL(token)
	return c
}

// newcomer is a client without a token.
func newcomer(who string) traffic.Need {
	return traffic.Need{Asker: traffic.Asker{Tenant: "shop", Client: who}}
}

// admitted makes a request of a client, which must be admitted.
func (s *turnstile) admitted(srv *rules.Server, n traffic.Need) *traffic.Ticket {
	s.t.Helper()
	ticket, wait, p, err := s.Admit(s.t.Context(), srv, n)
	if err != nil || p != nil {
		s.t.Fatalf("%s must wait %s: %v, %v", n.Client, wait, p, err)
	}
	return ticket
}

// waits makes a request of a client, which must wait.
func (s *turnstile) waits(srv *rules.Server, n traffic.Need) {
	s.t.Helper()
	if ticket, wait, p, err := s.Admit(s.t.Context(), srv, n); ticket != nil || err != nil || wait <= 0 || p.Reason != v1alpha1.ReasonWaitingForBudget {
		s.t.Fatalf("%s was let through, or waits for %v, %v", n.Client, p, err)
	}
}

func TestWhatRequestsAreAccountedTo(t *testing.T) {
	const issuer, token = "https://idp.example.com", "https://idp.example.com/oauth/token"
	realm := func(name string, perSecond int32) v1alpha1.ClusterAuthorizationServer {
		return clusterAt(name, issuer+"/"+name, issuer+"/"+name+"/token", perSecond)
	}
	for name, tc := range map[string]struct {
		clusters []v1alpha1.ClusterAuthorizationServer
		server   *rules.Server
		account  string
		ceiling  float64
	}{
		"a server of its own":                   {server: serverAt("shop", "own", issuer, token, 7, 7), account: "idp.example.com:443"},
		"another spelling of the host":          {server: serverAt("shop", "own", issuer, "https://IDP.example.com.:443/oauth//token?x", 7, 7), account: "idp.example.com:443"},
		"another port":                          {server: serverAt("shop", "own", issuer, "https://idp.example.com:8443/token", 7, 7), account: "idp.example.com:8443"},
		"the platform's issuer":                 {clusters: []v1alpha1.ClusterAuthorizationServer{clusterAt("idp", issuer, token, 5)}, server: serverAt("shop", "own", issuer, token, 10000, 10000), account: "idp.example.com:443", ceiling: 5},
		"the platform's issuer, another host":   {clusters: []v1alpha1.ClusterAuthorizationServer{clusterAt("idp", issuer, token, 5)}, server: serverAt("shop", "own", issuer, "https://alias.example.com/token", 10000, 10000), account: "idp.example.com:443", ceiling: 5},
		"another issuer at the platform's host": {clusters: []v1alpha1.ClusterAuthorizationServer{clusterAt("idp", issuer, token, 5)}, server: serverAt("shop", "own", "https://evil.example.com", token+"?x", 10000, 10000), account: "idp.example.com:443", ceiling: 5},
		"another issuer at another host":        {clusters: []v1alpha1.ClusterAuthorizationServer{clusterAt("idp", issuer, token, 5)}, server: serverAt("shop", "own", "https://evil.example.com", "https://evil.example.com/token", 10000, 10000), account: "evil.example.com:443"},
		"two realms of the platform's":          {clusters: []v1alpha1.ClusterAuthorizationServer{realm("a", 5), realm("b", 7)}, server: serverAt("shop", "own", issuer+"/c", issuer+"/c/token", 100, 100), account: "idp.example.com:443", ceiling: 12},
		"two names of one realm":                {clusters: []v1alpha1.ClusterAuthorizationServer{realm("a", 5), clusterAt("again", issuer+"/a", issuer+"/a/token", 7)}, server: serverAt("shop", "own", issuer+"/a", issuer+"/a/token", 100, 100), account: "idp.example.com:443", ceiling: 7},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTurnstile(t, tc.clusters...)
			e, err := s.endpoint(t.Context(), tc.server)
			if err != nil {
				t.Fatal(err)
			}
			if e.Account != tc.account || e.Ceiling.PerSecond != tc.ceiling {
				t.Errorf("accounted to %s with a ceiling of %v, want %s and %v", e.Account, e.Ceiling.PerSecond, tc.account, tc.ceiling)
			}
		})
	}
	t.Run("a CA of its own makes a route of its own", func(t *testing.T) {
		s, plain, odd := newTurnstile(t), serverAt("shop", "plain", issuer, token, 0, 0), serverAt("shop", "odd", issuer, token, 0, 0)
		odd.Spec.CABundle.ConfigMapRef.Name = "ca"
		one, err := s.endpoint(t.Context(), plain)
		other, err2 := s.endpoint(t.Context(), odd)
		if err != nil || err2 != nil || one.Route == other.Route || one.Account != other.Account {
			t.Errorf("the routes are %q and %q, the accounts %q and %q", one.Route, other.Route, one.Account, other.Account)
		}
	})
}

// TestWhatAFailureSaysOfTheServer: only requests that reached the server count, and the refusal
// of one client is not a failure of the server.
func TestWhatAFailureSaysOfTheServer(t *testing.T) {
	for name, tc := range map[string]struct {
		failure oauth.Error
		want    traffic.Outcome
	}{
		"no answer":                      {oauth.Error{Class: oauth.ClassRetryable}, traffic.Unanswered},
		"a certificate for another host": {oauth.Error{Class: oauth.ClassSlowRetry}, traffic.Failed},
		"an answer that cannot be read":  {oauth.Error{Class: oauth.ClassRetryable, Status: 200}, traffic.Failed},
		"status 500":                     {oauth.Error{Class: oauth.ClassRetryable, Status: 500}, traffic.Failed},
		"invalid_client":                 {oauth.Error{Class: oauth.ClassSlowRetry, Status: 401, Code: "invalid_client"}, traffic.Refused},
		"a redirect":                     {oauth.Error{Class: oauth.ClassTerminal, Status: 302}, traffic.Refused},
		"an address that flags forbid":   {oauth.Error{Class: oauth.ClassTerminal}, ""},
		"an unusable token type":         {oauth.Error{Class: oauth.ClassTerminal, Status: 200}, traffic.Refused},
	} {
		if got := outcome(&tc.failure); got != tc.want {
			t.Errorf("%s is %q, want %q", name, got, tc.want)
		}
	}
}

// TestAWorkerWaitsForAPlaceAtAQuickServer: an eleventh client comes while ten requests are
// under way, and requests end all the time.
func TestAWorkerWaitsForAPlaceAtAQuickServer(t *testing.T) {
	filled := func(t *testing.T) (*turnstile, *rules.Server, []*traffic.Ticket) {
		s, quick := newTurnstile(t), serverAt("shop", "quick", "https://idp", "https://idp/token", 1000, 0)
		s.Done(s.admitted(quick, newcomer("client-0")), nil)
		var under []*traffic.Ticket
		for i := range 10 {
			under = append(under, s.admitted(quick, newcomer(fmt.Sprintf("client-%d", i))))
		}
		s.waits(quick, newcomer("client-10")) // takes the place that the first one freed
		return s, quick, under
	}
	type answer struct {
		wait time.Duration
		p    *rules.Problem
	}
	asks := func(t *testing.T, s *turnstile, srv *rules.Server) <-chan answer {
		answers := make(chan answer, 1)
		go func() {
			_, wait, p, _ := s.Admit(t.Context(), srv, newcomer("client-10"))
			answers <- answer{wait, p}
		}()
		return answers
	}
	t.Run("it gets the next one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, quick, under := filled(t)
			answers := asks(t, s, quick)
			synctest.Wait()
			select {
			case a := <-answers:
				t.Fatalf("it must ask again after %s, want it to wait", a.wait)
			default:
			}
			s.Done(under[0], nil)
			if a := <-answers; a.p != nil {
				t.Errorf("it must wait %s: %s", a.wait, a.p.Message)
			}
		})
	})
	t.Run("it does not wait for long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, quick, _ := filled(t)
			started := time.Now()
			if a := <-asks(t, s, quick); a.p == nil || a.wait <= 0 {
				t.Error("an eleventh request was let through")
			}
			if took := time.Since(started); took != turnover {
				t.Errorf("it blocked a worker for %s, want %s", took, turnover)
			}
		})
	})
	t.Run("where none ends it does not wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, quick, _ := filled(t)
			s.clock.SetTime(turnsStart.Add(turnover))
			started := time.Now()
			if a := <-asks(t, s, quick); a.p == nil {
				t.Error("an eleventh request was let through")
			}
			if took := time.Since(started); took != 0 {
				t.Errorf("it blocked a worker for %s", took)
			}
		})
	})
}

func TestAServerWithoutABudgetHasTheDefaultOne(t *testing.T) {
	s := newTurnstileFor(t, 200, 1, 3)
	for name, tc := range map[string]struct{ perSecond, burst, want int32 }{
		"none": {0, 0, 3}, "its-own": {7, 0, 7}, "a-burst-of-its-own": {7, 2, 2},
	} {
		srv := serverAt("shop", name, "https://"+name, "https://"+name+"/token", tc.perSecond, tc.burst)
		for i := range tc.want {
			s.admitted(srv, newcomer(fmt.Sprint(i)))
		}
		s.waits(srv, newcomer("another"))
	}
}

func TestAnotherServerOfTheSameNameStartsAfresh(t *testing.T) {
	s := newTurnstile(t)
	before, after := serverAt("shop", "auth", "https://idp", "https://idp/token", 1, 1), serverAt("shop", "auth", "https://idp", "https://idp/token", 1, 1)
	after.Object.SetUID("another")
	s.lives.meet(before.Object)
	late := s.admitted(before, newcomer("first"))
	s.waits(before, newcomer("second"))
	s.lives.meet(after.Object)
	s.admitted(after, newcomer("second"))
	s.Done(late, &oauth.Error{Class: oauth.ClassRetryable, RetryAfter: time.Hour}) // a late result of the former server's request
	s.waits(after, newcomer("third"))
	again := serverAt("shop", "auth", "https://idp", "https://idp/token", 1, 1)
	again.Object.SetUID("made again")
	s.lives.Forget(after.Key())
	s.admitted(again, newcomer("third"))
}

// TestADeletedClientLeavesEveryLine: another client gets its place in the queue of a
// server.
func TestADeletedClientLeavesEveryLine(t *testing.T) {
	s, srv := newTurnstile(t), serverAt("shop", "auth", "https://idp", "https://idp/token", 1, 1)
	s.Done(s.admitted(srv, newcomer("a-first")), nil)
	s.waits(srv, newcomer("b-second"))
	s.waits(srv, newcomer("c-third"))
	s.Leave("b-second")
	s.clock.SetTime(turnsStart.Add(time.Second))
	s.admitted(srv, newcomer("c-third"))
}

// TestABudgetIsShared sends many clients at once to one of several instances.
func TestABudgetIsShared(t *testing.T) {
	for name, tc := range map[string]struct {
		perSecond, burst int32
		instances        int
		want             int // admitted at once
		next             time.Duration
	}{
		"one instance, the default budget":            {0, 0, 1, 100, time.Second / 100},
		"two instances, the default budget":           {0, 0, 2, 50, time.Second / 50},
		"three instances":                             {30, 60, 3, 20, time.Second / 10},
		"a rate that cannot be divided":               {10, 10, 4, 2, 400 * time.Millisecond},
		"a burst that cannot be divided":              {10, 1, 2, 1, 200 * time.Millisecond},
		"more instances than requests":                {2, 2, 5, 1, time.Second},
		"an instance without the number of instances": {10, 10, 0, 10, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTurnstileFor(t, 1000, max(1, tc.instances), 100)
			srv := serverAt("shop", "auth", "https://idp", "https://idp/token", tc.perSecond, tc.burst)
			n := 0
			var wait time.Duration
			for p := (*rules.Problem)(nil); p == nil && n <= 200; n++ {
				var err error
				if _, wait, p, err = s.Admit(t.Context(), srv, newcomer(fmt.Sprint(n))); err != nil {
					t.Fatal(err)
				}
			}
			if n-1 != tc.want {
				t.Errorf("%d clients are let through at once, want %d", n-1, tc.want)
			}
			if wait.Round(time.Millisecond) != tc.next.Round(time.Millisecond) {
				t.Errorf("the next one must wait %s, want %s", wait, tc.next)
			}
		})
	}
}
