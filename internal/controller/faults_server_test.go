// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// publicationFault is a fault of what a server publishes, and what the
// AuthorizationServer says of it.
type publicationFault struct {
	fault     *oidc.Fault
	reason    string
	want      string // in the message
	requests  int    // of one attempt; 0 for as many as every attempt sends
	impatient bool
}

// faultsOfPublication are those that discovery and JWKS have in common. Where
// the answer itself is not replaced it is another one than before, so that a
// conditional request has it sent.
func faultsOfPublication() map[string]publicationFault {
	return map[string]publicationFault{
		"status 500":                 {fault: answer(500, unheard), reason: v1alpha1.ReasonBadStatus, want: "answered with status 500"},
		"status 404":                 {fault: answer(404, unheard), reason: v1alpha1.ReasonBadStatus, want: "answered with status 404"},
		"status 403":                 {fault: answer(403, unheard), reason: v1alpha1.ReasonBadStatus, want: "answered with status 403"},
		"a redirect":                 {fault: &oidc.Fault{Redirect: "https://elsewhere.example.com/" + unheard}, reason: v1alpha1.ReasonBadStatus, want: "a redirect, which is not followed"},
		"an answer that is late":     {fault: &oidc.Fault{Delay: time.Hour}, reason: v1alpha1.ReasonUnreachable, want: "did not answer in time", requests: 1, impatient: true},
		"no answer at all":           {fault: &oidc.Fault{Hang: true}, reason: v1alpha1.ReasonUnreachable, want: "did not answer in time", requests: 1, impatient: true},
		"a connection that breaks":   {fault: &oidc.Fault{Cut: true, Rewrite: member("new", true)}, reason: v1alpha1.ReasonUnreachable, want: "closed the connection", requests: 1},
		"JSON that breaks off":       {fault: &oidc.Fault{Malformed: true}, reason: v1alpha1.ReasonMalformed, want: "is not a JSON object"},
		"an empty body":              {fault: &oidc.Fault{Empty: true}, reason: v1alpha1.ReasonMalformed, want: "is not a JSON object"},
		"a huge body":                {fault: &oidc.Fault{Huge: true, Rewrite: member("new", true)}, reason: v1alpha1.ReasonMalformed, want: "answered with more than"},
		"a page instead of the JSON": {fault: &oidc.Fault{Body: "<html>" + unheard, ContentType: "text/html"}, reason: v1alpha1.ReasonMalformed, want: "is not a JSON object"},
	}
}

func without(name string) *oidc.Fault {
	return &oidc.Fault{Rewrite: func(m map[string]any) { delete(m, name) }}
}

func with(name string, value any) *oidc.Fault {
	return &oidc.Fault{Rewrite: member(name, value)}
}

// TestDiscoveryFaults lets discovery fail for an hour, in which clients go on
// with the endpoints that are known.
func TestDiscoveryFaults(t *testing.T) {
	tests := faultsOfPublication()
	for name, tc := range map[string]publicationFault{
		"another issuer":               {fault: with("issuer", "https://other.example.com"), reason: v1alpha1.ReasonIssuerMismatch, want: `names the issuer "https://other.example.com"`},
		"an issuer with a slash more":  {fault: &oidc.Fault{Rewrite: func(m map[string]any) { m["issuer"] = m["issuer"].(string) + "/" }}, reason: v1alpha1.ReasonIssuerMismatch, want: "names the issuer"},
		"no issuer":                    {fault: without("issuer"), reason: v1alpha1.ReasonMalformed, want: "names no issuer"},
		"a token_endpoint of no form":  {fault: with("token_endpoint", 7), reason: v1alpha1.ReasonMalformed, want: "token_endpoint that is not"},
		"a jwks_uri that is relative":  {fault: with("jwks_uri", "/jwks"), reason: v1alpha1.ReasonMalformed, want: "jwks_uri that is not"},
		"no token_endpoint any more":   {fault: without("token_endpoint"), reason: v1alpha1.ReasonEndpointMissing, want: "set spec.endpoints.token", requests: 1},
		"no jwks_uri any more":         {fault: without("jwks_uri"), reason: v1alpha1.ReasonEndpointMissing, want: "set spec.endpoints.jwks", requests: 1},
		"an issuer that is of no form": {fault: with("issuer", []string{unheard}), reason: v1alpha1.ReasonMalformed, want: "names no issuer"},
	} {
		tests[name] = tc
	}
	s := newStage(t, startStepped(t))
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s.t = t
			if tc.requests == 0 {
				tc.requests = 2 // both well-known addresses
			}
			checkPublicationFault(t, s, tc, oidc.Discovery, v1alpha1.ConditionDiscovered, v1alpha1.ReasonDiscovered, authserver.DiscoveryInterval)
		})
	}
}

// TestJWKSFaults lets the key set fail for an hour, in which clients go on and
// tokens are verified with the keys that are known.
func TestJWKSFaults(t *testing.T) {
	tests := faultsOfPublication()
	for name, tc := range map[string]publicationFault{
		"an empty set":                  {fault: with("keys", []any{}), reason: v1alpha1.ReasonNoKeys, want: "has no keys"},
		"a set of symmetric keys":       {fault: with("keys", []any{map[string]any{"kty": "oct", "kid": "s", "k": unheard}}), reason: v1alpha1.ReasonNoKeys, want: "is symmetric"},
		"a set of keys that nobody has": {fault: with("keys", []any{map[string]any{"kty": "QC", "kid": "q"}}), reason: v1alpha1.ReasonNoKeys, want: "not supported"},
		"no keys member":                {fault: without("keys"), reason: v1alpha1.ReasonMalformed, want: `with an array "keys"`},
		"keys that are no list":         {fault: with("keys", unheard), reason: v1alpha1.ReasonMalformed, want: `with an array "keys"`},
	} {
		tests[name] = tc
	}
	s := newStage(t, startStepped(t))
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s.t = t
			tc.requests = 1
			checkPublicationFault(t, s, tc, oidc.JWKS, v1alpha1.ConditionKeysFresh, v1alpha1.ReasonKeysFetched, authserver.DefaultKeyRefreshInterval)
		})
	}
}

func checkPublicationFault(t *testing.T, s *stage, tc publicationFault, endpoint oidc.Endpoint, conditionType, good string, interval time.Duration) {
	t.Helper()
	op := s.op
	s.impatient(15 * time.Second)
	s.renew()
	server := s.server(s.payments)
	isReady(t, server)
	known := server.Status.DeepCopy()
	if tc.impatient {
		s.impatient(100 * time.Millisecond)
	}
	s.as.SetFault(endpoint, tc.fault)
	op.advance(interval)
	for range 3 {
		s.settle()
	}
	const servers = 2 // of the API and of the client
	if n := s.as.Count(endpoint); n != servers*tc.requests {
		t.Errorf("%d requests while no time passed, want %d", n, servers*tc.requests)
	}
	first := hasCondition(t, server, conditionType, metav1.ConditionFalse, tc.reason)
	if !strings.Contains(first.Message, tc.want) || strings.Contains(first.Message, unheard) {
		t.Errorf("the message is %q, want %q in it", first.Message, tc.want)
	}

	// An hour of it, in which a token becomes due.
	if tc.impatient {
		s.as.SetFault(endpoint, answer(500, "")) // which is faster to wait for
		s.impatient(15 * time.Second)
	}
	old := s.token()
	s.until(op.clock.Now().Add(time.Hour - interval))
	if n := s.as.Count(endpoint); n > 85*servers*2 {
		t.Errorf("%d requests in an hour", n)
	}
	if !tc.impatient {
		if last := hasCondition(t, server, conditionType, metav1.ConditionFalse, tc.reason); last.Message != first.Message {
			t.Errorf("the message went from %q to %q", first.Message, last.Message)
		}
	}
	isReady(t, server)
	if diff := cmp.Diff(known.Endpoints, server.Status.Endpoints); diff != "" {
		t.Errorf("the endpoints changed:\n%s", diff)
	}
	if diff := cmp.Diff(known.Keys, server.Status.Keys); diff != "" {
		t.Errorf("the keys changed:\n%s", diff)
	}
	isReady(t, s.cart)
	isReady(t, s.api)
	hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	if n := s.as.Count(oidc.Token); n != 1 || s.token() == old {
		t.Errorf("%d token requests in the outage, want one that refreshes the token", n)
	}

	s.as.ClearFaults()
	s.until(op.clock.Now().Add(75 * time.Second))
	hasCondition(t, server, conditionType, metav1.ConditionTrue, good)
}

// TestPublicationHonoursRetryAfter: a server that asks to be left alone is.
func TestPublicationHonoursRetryAfter(t *testing.T) {
	op := startStepped(t)
	for name, endpoint := range map[string]oidc.Endpoint{"discovery": oidc.Discovery, "JWKS": oidc.JWKS} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, op)
			op.advance(authserver.DiscoveryInterval)
			s.as.SetFault(endpoint, askLater("900"))
			s.settle()
			asked := s.as.Count(endpoint)
			s.until(op.clock.Now().Add(15*time.Minute - time.Second))
			if n := s.as.Count(endpoint); n != asked {
				t.Errorf("%d requests in the time that the server asked for", n-asked)
			}
			s.until(op.clock.Now().Add(4 * time.Minute))
			if n := s.as.Count(endpoint); n == asked {
				t.Error("the server was not asked again")
			}
		})
	}
}

// TestServerIsUnknownAtFirst: without ever having been read, a faulty server
// leaves nothing to work with, and everything heals when it answers.
func TestServerIsUnknownAtFirst(t *testing.T) {
	op := startStepped(t)
	tests := map[string]struct {
		discovery, jwks *oidc.Fault
		reason          string // of the server's Ready
	}{
		"no metadata":       {discovery: answer(500, ""), reason: v1alpha1.ReasonBadStatus},
		"wrong issuer":      {discovery: with("issuer", "https://other.example.com"), reason: v1alpha1.ReasonIssuerMismatch},
		"no token_endpoint": {discovery: without("token_endpoint"), reason: v1alpha1.ReasonEndpointMissing},
		"no keys":           {jwks: with("keys", []any{}), reason: v1alpha1.ReasonNoKeys},
		"an internal address for the keys": {
			discovery: with("jwks_uri", "http://169.254.169.254/latest/meta-data"), reason: v1alpha1.ReasonRefused,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *oidc.Options) { o.Now = op.clock.Now })
			w.as.SetFault(oidc.Discovery, tc.discovery)
			w.as.SetFault(oidc.JWKS, tc.jwks)
			api, cart := w.story()
			s := &stage{world: w, op: op, api: api, cart: cart}
			s.settle()
			server := w.server(w.payments)
			hasCondition(t, server, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.reason)
			if len(server.Status.Keys) == 0 {
				hasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonNoKeys)
			}
			if s.token() != "" {
				t.Error("a token was published that no API can verify")
			}
			w.as.ClearFaults()
			s.until(op.clock.Now().Add(11 * time.Minute))
			isReady(t, server)
			isReady(t, api)
			isReady(t, cart)
		})
	}
}

// TestEgressIsRefused: what the operator's flags forbid is not asked.
func TestEgressIsRefused(t *testing.T) {
	for name, forbid := range map[string]func(*Options){
		"HTTP":     func(o *Options) { o.Egress.AllowHTTP = false },
		"loopback": func(o *Options) { o.Egress.AllowLoopback = false },
	} {
		t.Run(name, func(t *testing.T) {
			op := startStepped(t, forbid)
			w := newWorld(t)
			_, cart := w.story()
			op.settle(w.payments, w.shop)
			server := w.server(w.shop)
			c := hasCondition(t, server, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonRefused)
			if !strings.Contains(c.Message, "--allow-") {
				t.Errorf("the message %q names no flag", c.Message)
			}
			hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady)
			if n := w.as.Count(oidc.Discovery) + w.as.Count(oidc.Token); n != 0 {
				t.Errorf("the server got %d requests", n)
			}
		})
	}
}

// TestTokenEndpointIsRefused: metadata cannot send a client's credentials to an
// address that the operator's flags forbid.
func TestTokenEndpointIsRefused(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.as.SetFault(oidc.Discovery, with("token_endpoint", "http://169.254.169.254/token"))
	op.advance(authserver.DiscoveryInterval)
	s.settle()
	s.due()
	s.settle()
	failed := hasCondition(t, s.cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestRefused)
	if !strings.Contains(failed.Message, "--allow-link-local") || strings.Contains(failed.Message, "169.254") {
		t.Errorf("the message is %q", failed.Message)
	}
	isReady(t, s.cart)
	if n := metric(t, "m2m_token_requests_total", terminal, "AuthorizationServer/"+s.shop+"/auth"); n != 1 {
		t.Errorf("%v requests were counted as terminal, want 1", n)
	}
}
