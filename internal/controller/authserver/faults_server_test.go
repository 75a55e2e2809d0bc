// SPDX-License-Identifier: Apache-2.0

package authserver_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// publicationFault is a fault in what a server publishes, and what the
// AuthorizationServer's conditions then say.
type publicationFault struct {
	fault     *oidc.Fault
	reason    string
	want      string // in the message
	requests  int    // of one attempt; 0 for as many as every attempt sends
	impatient bool
}

// faultsOfPublication are common to discovery and JWKS. Unless a fault replaces the
// answer, the answer differs from the former one, so that a conditional request gets
// it.
func faultsOfPublication() map[string]publicationFault {
	return map[string]publicationFault{
		"status 500":                 {fault: operator.Answer(500, operator.Unheard), reason: v1alpha1.ReasonBadStatus, want: "answered with status 500"},
		"status 404":                 {fault: operator.Answer(404, operator.Unheard), reason: v1alpha1.ReasonBadStatus, want: "answered with status 404"},
		"status 403":                 {fault: operator.Answer(403, operator.Unheard), reason: v1alpha1.ReasonBadStatus, want: "answered with status 403"},
		"a redirect":                 {fault: &oidc.Fault{Redirect: "https://elsewhere.example.com/" + operator.Unheard}, reason: v1alpha1.ReasonBadStatus, want: "a redirect, which is not followed"},
		"a late answer":              {fault: &oidc.Fault{Delay: time.Hour}, reason: v1alpha1.ReasonUnreachable, want: "did not answer in time", requests: 1, impatient: true},
		"no answer at all":           {fault: &oidc.Fault{Hang: true}, reason: v1alpha1.ReasonUnreachable, want: "did not answer in time", requests: 1, impatient: true},
		"a broken connection":        {fault: &oidc.Fault{Cut: true, Rewrite: operator.Member("new", true)}, reason: v1alpha1.ReasonUnreachable, want: "closed the connection", requests: 1},
		"truncated JSON":             {fault: &oidc.Fault{Malformed: true}, reason: v1alpha1.ReasonMalformed, want: "is not a JSON object"},
		"an empty body":              {fault: &oidc.Fault{Empty: true}, reason: v1alpha1.ReasonMalformed, want: "is not a JSON object"},
		"a huge body":                {fault: &oidc.Fault{Huge: true, Rewrite: operator.Member("new", true)}, reason: v1alpha1.ReasonMalformed, want: "answered with more than"},
		"a page instead of the JSON": {fault: &oidc.Fault{Body: "<html>" + operator.Unheard, ContentType: "text/html"}, reason: v1alpha1.ReasonMalformed, want: "is not a JSON object"},
	}
}

func without(name string) *oidc.Fault {
	return &oidc.Fault{Rewrite: func(m map[string]any) { delete(m, name) }}
}

func with(name string, value any) *oidc.Fault {
	return &oidc.Fault{Rewrite: operator.Member(name, value)}
}

// TestDiscoveryFaults makes discovery fail for an hour. Clients keep working with the
// known endpoints.
func TestDiscoveryFaults(t *testing.T) {
	tests := faultsOfPublication()
	for name, tc := range map[string]publicationFault{
		"another issuer":                     {fault: with("issuer", "https://other.example.com"), reason: v1alpha1.ReasonIssuerMismatch, want: `names the issuer "https://other.example.com"`},
		"an issuer with an additional slash": {fault: &oidc.Fault{Rewrite: func(m map[string]any) { m["issuer"] = m["issuer"].(string) + "/" }}, reason: v1alpha1.ReasonIssuerMismatch, want: "names the issuer"},
		"no issuer":                          {fault: without("issuer"), reason: v1alpha1.ReasonMalformed, want: "names no issuer"},
		"a malformed token_endpoint":         {fault: with("token_endpoint", 7), reason: v1alpha1.ReasonMalformed, want: "token_endpoint that is not"},
		"a jwks_uri that is relative":        {fault: with("jwks_uri", "/jwks"), reason: v1alpha1.ReasonMalformed, want: "jwks_uri that is not"},
		"token_endpoint is removed":          {fault: without("token_endpoint"), reason: v1alpha1.ReasonEndpointMissing, want: "set spec.endpoints.token", requests: 1},
		"jwks_uri is removed":                {fault: without("jwks_uri"), reason: v1alpha1.ReasonEndpointMissing, want: "set spec.endpoints.jwks", requests: 1},
		"a malformed issuer":                 {fault: with("issuer", []string{operator.Unheard}), reason: v1alpha1.ReasonMalformed, want: "names no issuer"},
	} {
		tests[name] = tc
	}
	s := operator.NewStage(t, operator.StartStepped(t))
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s.T = t
			if tc.requests == 0 {
				tc.requests = 2 // both well-known addresses
			}
			checkPublicationFault(t, s, tc, oidc.Discovery, v1alpha1.ConditionDiscovered, v1alpha1.ReasonDiscovered, authserver.DiscoveryInterval)
		})
	}
}

// TestJWKSFaults makes the key set fail for an hour. Clients keep working, and tokens
// are verified with the known keys.
func TestJWKSFaults(t *testing.T) {
	tests := faultsOfPublication()
	for name, tc := range map[string]publicationFault{
		"an empty set":              {fault: with("keys", []any{}), reason: v1alpha1.ReasonNoKeys, want: "has no keys"},
		"a set of symmetric keys":   {fault: with("keys", []any{map[string]any{"kty": "oct", "kid": "s", "k": operator.Unheard}}), reason: v1alpha1.ReasonNoKeys, want: "is symmetric"},
		"a set of unsupported keys": {fault: with("keys", []any{map[string]any{"kty": "QC", "kid": "q"}}), reason: v1alpha1.ReasonNoKeys, want: "not supported"},
		"no keys member":            {fault: without("keys"), reason: v1alpha1.ReasonMalformed, want: `with an array "keys"`},
		"keys that are not a list":  {fault: with("keys", operator.Unheard), reason: v1alpha1.ReasonMalformed, want: `with an array "keys"`},
	} {
		tests[name] = tc
	}
	s := operator.NewStage(t, operator.StartStepped(t))
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s.T = t
			tc.requests = 1
			checkPublicationFault(t, s, tc, oidc.JWKS, v1alpha1.ConditionKeysFresh, v1alpha1.ReasonKeysFetched, authserver.DefaultKeyRefreshInterval)
		})
	}
}

func checkPublicationFault(t *testing.T, s *operator.Stage, tc publicationFault, endpoint oidc.Endpoint, conditionType, good string, interval time.Duration) {
	t.Helper()
	op := s.Op
	s.Impatient(15 * time.Second)
	s.Renew()
	server := s.Server(s.Payments)
	operator.IsReady(t, server)
	known := server.Status.DeepCopy()
	if tc.impatient {
		s.Impatient(100 * time.Millisecond)
	}
	s.AS.SetFault(endpoint, tc.fault)
	op.Advance(interval)
	for range 3 {
		s.Settle()
	}
	const servers = 2 // of the API and of the client
	if n := s.AS.Count(endpoint); n != servers*tc.requests {
		t.Errorf("%d requests while no time passed, want %d", n, servers*tc.requests)
	}
	first := operator.HasCondition(t, server, conditionType, metav1.ConditionFalse, tc.reason)
	if !strings.Contains(first.Message, tc.want) || strings.Contains(first.Message, operator.Unheard) {
		t.Errorf("the message is %q, want one that contains %q", first.Message, tc.want)
	}

	// Continue for an hour, in which a token becomes due.
	if tc.impatient {
		s.AS.SetFault(endpoint, operator.Answer(500, "")) // which is faster to wait for
		s.Impatient(15 * time.Second)
	}
	old := s.Token()
	s.Until(op.Clock.Now().Add(time.Hour - interval))
	if n := s.AS.Count(endpoint); n > 85*servers*2 {
		t.Errorf("%d requests in an hour", n)
	}
	if !tc.impatient {
		if last := operator.HasCondition(t, server, conditionType, metav1.ConditionFalse, tc.reason); last.Message != first.Message {
			t.Errorf("the message changed from %q to %q", first.Message, last.Message)
		}
	}
	operator.IsReady(t, server)
	if diff := cmp.Diff(known.Endpoints, server.Status.Endpoints); diff != "" {
		t.Errorf("the endpoints changed:\n%s", diff)
	}
	if diff := cmp.Diff(known.Keys, server.Status.Keys); diff != "" {
		t.Errorf("the keys changed:\n%s", diff)
	}
	operator.IsReady(t, s.Cart)
	operator.IsReady(t, s.API)
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	if n := s.AS.Count(oidc.Token); n != 1 || s.Token() == old {
		t.Errorf("%d token requests in the outage, want one that refreshes the token", n)
	}

	s.AS.ClearFaults()
	s.Until(op.Clock.Now().Add(75 * time.Second))
	operator.HasCondition(t, server, conditionType, metav1.ConditionTrue, good)
}

// TestPublicationHonoursRetryAfter checks that the operator sends no request before
// the time that a server asks for.
func TestPublicationHonoursRetryAfter(t *testing.T) {
	op := operator.StartStepped(t)
	for name, endpoint := range map[string]oidc.Endpoint{"discovery": oidc.Discovery, "JWKS": oidc.JWKS} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			op.Advance(authserver.DiscoveryInterval)
			s.AS.SetFault(endpoint, operator.AskLater("900"))
			s.Settle()
			asked := s.AS.Count(endpoint)
			s.Until(op.Clock.Now().Add(15*time.Minute - time.Second))
			if n := s.AS.Count(endpoint); n != asked {
				t.Errorf("%d requests in the time that the server asked for", n-asked)
			}
			s.Until(op.Clock.Now().Add(4 * time.Minute))
			if n := s.AS.Count(endpoint); n == asked {
				t.Error("the server got no further request")
			}
		})
	}
}

// TestServerIsUnknownAtFirst: a server that was never read and is faulty leaves
// nothing to work with. Everything recovers when it answers.
func TestServerIsUnknownAtFirst(t *testing.T) {
	op := operator.StartStepped(t)
	tests := map[string]struct {
		discovery, jwks *oidc.Fault
		reason          string // of the server's Ready
	}{
		"no metadata":       {discovery: operator.Answer(500, ""), reason: v1alpha1.ReasonBadStatus},
		"wrong issuer":      {discovery: with("issuer", "https://other.example.com"), reason: v1alpha1.ReasonIssuerMismatch},
		"no token_endpoint": {discovery: without("token_endpoint"), reason: v1alpha1.ReasonEndpointMissing},
		"no keys":           {jwks: with("keys", []any{}), reason: v1alpha1.ReasonNoKeys},
		"an internal address for the keys": {
			discovery: with("jwks_uri", "http://169.254.169.254/latest/meta-data"), reason: v1alpha1.ReasonRefused,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })
			w.AS.SetFault(oidc.Discovery, tc.discovery)
			w.AS.SetFault(oidc.JWKS, tc.jwks)
			api, cart := w.Story()
			s := &operator.Stage{World: w, Op: op, API: api, Cart: cart}
			s.Settle()
			server := w.Server(w.Payments)
			operator.HasCondition(t, server, v1alpha1.ConditionReady, metav1.ConditionFalse, tc.reason)
			if len(server.Status.Keys) == 0 {
				operator.HasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonNoKeys)
			}
			if s.Token() != "" {
				t.Error("a token was published that no API can verify")
			}
			w.AS.ClearFaults()
			s.Until(op.Clock.Now().Add(11 * time.Minute))
			operator.IsReady(t, server)
			operator.IsReady(t, api)
			operator.IsReady(t, cart)
		})
	}
}

// TestEgressIsRefused: the operator sends no request to a destination that its flags
// forbid.
func TestEgressIsRefused(t *testing.T) {
	for name, forbid := range map[string]func(*controller.Options){
		"HTTP":     func(o *controller.Options) { o.Egress.AllowHTTP = false },
		"loopback": func(o *controller.Options) { o.Egress.AllowLoopback = false },
	} {
		t.Run(name, func(t *testing.T) {
			op := operator.StartStepped(t, forbid)
			w := operator.NewWorld(t)
			_, cart := w.Story()
			op.Settle(w.Payments, w.Shop)
			server := w.Server(w.Shop)
			c := operator.HasCondition(t, server, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonRefused)
			if !strings.Contains(c.Message, "--allow-") {
				t.Errorf("the message %q does not name the flag", c.Message)
			}
			operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady)
			if n := w.AS.Count(oidc.Discovery) + w.AS.Count(oidc.Token); n != 0 {
				t.Errorf("the server got %d requests", n)
			}
		})
	}
}

// TestTokenEndpointIsRefused: metadata cannot send a client's credentials to an
// address that the operator's flags forbid.
func TestTokenEndpointIsRefused(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.AS.SetFault(oidc.Discovery, with("token_endpoint", "http://169.254.169.254/token"))
	op.Advance(authserver.DiscoveryInterval)
	s.Settle()
	s.Due()
	s.Settle()
	failed := operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonTokenRequestRefused)
	if !strings.Contains(failed.Message, "--allow-link-local") || strings.Contains(failed.Message, "169.254") {
		t.Errorf("the message is %q", failed.Message)
	}
	operator.IsReady(t, s.Cart)
	if n := operator.Metric(t, "m2m_token_requests_total", "terminal", "AuthorizationServer/"+s.Shop+"/auth"); n != 1 {
		t.Errorf("%v requests were counted as terminal, want 1", n)
	}
}
