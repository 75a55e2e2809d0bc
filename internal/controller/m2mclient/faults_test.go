// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// echo stands for the client's own secret in an answer.
const echo = "{{secret}}"

// Classes of failures, as in metrics.
const (
	retryable = "retryable"
	slowRetry = "slowretry"
	terminal  = "terminal"
)

// TestTokenEndpointFaults gives the token endpoint a fault. The token becomes due and
// expires. Then the fault goes.
func TestTokenEndpointFaults(t *testing.T) {
	op := operator.StartStepped(t)
	oauthError := func(status int, code string) *oidc.Fault {
		return operator.Answer(status, fmt.Sprintf(`{"error":%q,"error_description":"Because %s","detail":%q}`, code, echo, operator.Unheard))
	}
	tests := map[string]struct {
		fault     *oidc.Fault
		class     string
		want      string // in the message
		impatient bool
	}{
		"status 500":                           {fault: operator.Answer(500, operator.Unheard), class: retryable, want: "HTTP 500"},
		"status 502 with a page":               {fault: operator.Answer(502, "<html>"+operator.Unheard), class: retryable, want: "HTTP 502"},
		"status 503":                           {fault: operator.Answer(503, ""), class: retryable, want: "HTTP 503"},
		"status 429":                           {fault: operator.Answer(429, ""), class: retryable, want: "HTTP 429"},
		"status 408":                           {fault: operator.Answer(408, ""), class: retryable, want: "HTTP 408"},
		"status 404":                           {fault: operator.Answer(404, operator.Unheard), class: slowRetry, want: "HTTP 404"},
		"status 400 without a code":            {fault: operator.Answer(400, `{}`), class: slowRetry, want: "HTTP 400"},
		"status 500 with a code of the client": {fault: oauthError(500, "invalid_client"), class: retryable, want: "invalid_client (HTTP 500)"},
		"invalid_client":                       {fault: oauthError(401, "invalid_client"), class: slowRetry, want: `check Secret "cart-credentials"`},
		"invalid_scope":                        {fault: oauthError(400, "invalid_scope"), class: slowRetry, want: "invalid_scope (HTTP 400)"},
		"invalid_target":                       {fault: oauthError(400, "invalid_target"), class: slowRetry, want: "invalid_target (HTTP 400)"},
		"invalid_request":                      {fault: oauthError(400, "invalid_request"), class: slowRetry, want: "invalid_request (HTTP 400)"},
		"unauthorized_client":                  {fault: oauthError(400, "unauthorized_client"), class: slowRetry, want: "unauthorized_client (HTTP 400)"},
		"an error code in a 200":               {fault: oauthError(200, "access_denied"), class: slowRetry, want: "access_denied (HTTP 200)"},
		"temporarily_unavailable":              {fault: oauthError(400, "temporarily_unavailable"), class: retryable, want: "temporarily_unavailable"},
		"unsupported_grant_type":               {fault: oauthError(400, "unsupported_grant_type"), class: terminal, want: "unsupported_grant_type"},
		"a redirect":                           {fault: &oidc.Fault{Redirect: "https://elsewhere.example.com/" + operator.Unheard}, class: terminal, want: "answered with a redirect, which is not followed"},
		"a redirect by 302":                    {fault: &oidc.Fault{Status: 302, Redirect: "https://elsewhere.example.com/" + operator.Unheard}, class: terminal, want: "answered with a redirect, which is not followed"},
		"a late answer":                        {fault: &oidc.Fault{Delay: time.Hour}, class: retryable, want: "no answer within 100ms", impatient: true},
		"no answer at all":                     {fault: &oidc.Fault{Hang: true}, class: retryable, want: "no answer within 100ms", impatient: true},
		"a broken connection":                  {fault: &oidc.Fault{Cut: true}, class: retryable, want: "answer broke off"},
		"a truncated error":                    {fault: &oidc.Fault{Status: 400, Body: `{"error":"invalid_client"}`, Cut: true}, class: slowRetry, want: "answer broke off"},
		"truncated JSON":                       {fault: &oidc.Fault{Malformed: true}, class: retryable, want: "answer is not JSON"},
		"an empty body":                        {fault: &oidc.Fault{Empty: true}, class: retryable, want: "answer is empty"},
		"a huge body":                          {fault: &oidc.Fault{Huge: true}, class: retryable, want: "answer is larger than"},
		"a body that is not an object":         {fault: operator.Answer(200, `["`+operator.Unheard+`"]`), class: retryable, want: "answer is not a JSON object"},
		"no access_token":                      {fault: &oidc.Fault{Rewrite: func(m map[string]any) { delete(m, "access_token") }}, class: retryable, want: "answer has no access_token"},
		"an access_token that is a number":     {fault: &oidc.Fault{Rewrite: operator.Member("access_token", 1)}, class: slowRetry, want: "access_token in the answer is not a string"},
		"an access_token with a line break":    {fault: &oidc.Fault{Rewrite: operator.Member("access_token", operator.Unheard+"\nx: y")}, class: slowRetry, want: "characters that are not allowed in a token"},
		"a scope that is an object":            {fault: &oidc.Fault{Rewrite: operator.Member("scope", map[string]any{operator.Unheard: 1})}, class: slowRetry, want: "scope in the answer is neither a string nor a list of strings"},
		"an unusable token_type":               {fault: &oidc.Fault{Rewrite: operator.Member("token_type", "DPoP")}, class: terminal, want: "token type DPoP is not supported"},
	}
	s := operator.NewStage(t, op, operator.Lifetime(10*time.Minute))
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s.T = t
			s.Renew()
			old := s.Token()
			expires := s.Status().ExpiresAt.Time
			results := func() float64 {
				return operator.Metric(t, "m2m_token_requests_total", tc.class, "AuthorizationServer/"+s.Shop+"/auth")
			}
			before := results()
			if tc.impatient {
				s.Impatient(100 * time.Millisecond)
			}
			fault := *tc.fault
			fault.Body = strings.ReplaceAll(fault.Body, echo, s.Credential())
			s.AS.SetFault(oidc.Token, &fault)
			op.Requests.Reset()
			s.Due()

			// The first failure. Nothing more happens while no time passes.
			for range 3 {
				s.Settle()
			}
			if n := s.AS.Count(oidc.Token); n > 1 { // one that gave up soon may not have come
				t.Errorf("%d token requests while no time passed, want 1", n)
			}
			if n := results() - before; n != 1 {
				t.Errorf("m2m_token_requests_total{result=%q} rose by %v, want 1", tc.class, n)
			}
			reason, least, most := v1alpha1.ReasonTokenRequestRefused, 8*time.Second, 13*time.Second
			if tc.class == retryable {
				reason, least, most = v1alpha1.ReasonTokenRequestFailed, time.Second, 3*time.Second
			}
			fresh := operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, reason)
			ready := operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
			if want := expires.UTC().Format("The token works until 15:04 UTC, but is not being replaced: ") + fresh.Message; ready.Message != want {
				t.Errorf("Ready says %q, want %q", ready.Message, want)
			}
			failure := s.Status().Failure
			if failure.Reason == "" {
				t.Fatal("the status shows no failure")
			}
			if wait := failure.NextAttemptAt.Sub(op.Clock.Now()); wait < least || wait > most {
				t.Errorf("the next attempt is in %s, want within %s to %s", wait, least, most)
			}
			if failure.Attempts != 1 || failure.Reason != reason {
				t.Errorf("the failure is %s after %d attempts", failure.Reason, failure.Attempts)
			}
			for _, message := range []string{fresh.Message, failure.Message} {
				if !strings.Contains(message, tc.want) {
					t.Errorf("the message is %q, want one that contains %q", message, tc.want)
				}
				if strings.Contains(message, operator.Unheard) {
					t.Errorf("the server's answer is in the message %q", message)
				}
			}

			// Until the token expires, requests are bounded and the working token stays.
			s.Until(expires.Add(-time.Second))
			// Each attempt is written once. That there is ever less time left is not.
			if n, attempts := statusWrites(op), int(results()-before); n != attempts {
				t.Errorf("%d writes of the status for %d attempts", n, attempts)
			}
			if again := operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady); again.Message != ready.Message {
				t.Errorf("the message of Ready went from %q to %q", ready.Message, again.Message)
			}
			if again := operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, reason); again.Message != fresh.Message {
				t.Errorf("the message changed from %q to %q", fresh.Message, again.Message)
			}
			if s.Token() != old {
				t.Error("the working token is gone")
			}
			if n := s.AS.Count(oidc.Token); n < 2 || n > 15 {
				t.Errorf("%d token requests in about 4 minutes", n)
			}
			s.Until(expires.Add(time.Second))
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTokenExpired)
			if s.Token() != old {
				t.Error("the expired token was taken out of the Secret")
			}

			// The server recovers.
			s.AS.ClearFaults()
			if tc.impatient {
				s.Impatient(15 * time.Second)
			}
			s.AS.ResetRequests()
			s.Until(s.Status().Failure.NextAttemptAt.Add(35 * time.Second))
			operator.IsReady(t, s.Cart)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
			if s.Status().Failure.Reason != "" {
				t.Error("the status still shows the failure")
			}
			if n := s.AS.Count(oidc.Token); n != 1 {
				t.Errorf("%d token requests to recover, want 1", n)
			}
			if now := s.Token(); now == old || now == "" {
				t.Error("there is no fresh token")
			}
		})
	}
}

// statusWrites returns how often the status of a client was written.
func statusWrites(op *operator.Operator) (n int) {
	for _, w := range op.Requests.Writes() {
		if w == "PATCH m2mclients/status" {
			n++
		}
	}
	return n
}

// TestAnHourOfFaults counts the requests of one client in an hour. A refusal leads to 11
// to 14 of them: each wait is up to a fifth shorter or longer, depending on the client's UID.
func TestAnHourOfFaults(t *testing.T) {
	op := operator.StartStepped(t)
	for name, tc := range map[string]struct {
		fault       *oidc.Fault
		least, most int
	}{
		"retryable":                   {operator.Answer(500, ""), 50, 80},
		"slow retry":                  {operator.Answer(400, `{"error":"invalid_scope"}`), 8, 14},
		"terminal":                    {&oidc.Fault{Redirect: "/"}, 8, 14},
		"a token that cannot be used": {&oidc.Fault{Rewrite: operator.Member("access_token", 1)}, 8, 14},
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			s.AS.SetFault(oidc.Token, tc.fault)
			s.Due()
			s.Until(op.Clock.Now().Add(time.Hour))
			if n := s.AS.Count(oidc.Token); n < tc.least || n > tc.most {
				t.Errorf("%d token requests in an hour, want %d to %d", n, tc.least, tc.most)
			}
		})
	}
}

// TestRetryAfterBindsWhomItWasTold: a server's Retry-After binds only the client that
// received it, and that client tries again at the given time.
func TestRetryAfterBindsWhomItWasTold(t *testing.T) {
	op := operator.StartStepped(t)
	for name, value := range map[string]func() string{
		"in seconds": func() string { return "120" },
		"as a date":  func() string { return op.Clock.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			s := operator.NewStage(t, op)
			others := make([]*v1alpha1.M2MClient, 3)
			for i := range others {
				others[i] = s.Another(fmt.Sprintf("other-%d", i))
			}
			s.Due()
			asked := op.Clock.Now()
			later := operator.AskLater(value())
			later.Header.Set("Date", asked.UTC().Format(http.TimeFormat)) // a date counts from it
			s.AS.SetFault(oidc.Token, later)
			ctx, name := t.Context(), client.ObjectKeyFromObject(s.Cart)
			if _, err := op.M2MClients.Reconcile(ctx, operator.RequestOf(name)); err != nil {
				t.Fatal(err)
			}
			s.AS.ClearFaults()
			s.Until(asked.Add(5 * time.Second))
			for _, o := range others {
				operator.IsReady(t, o)
			}
			s.Until(asked.Add(2*time.Minute - time.Second))
			if n := s.AS.Count(oidc.Token); n != 1+3 {
				t.Errorf("%d token requests in the time that the server asked for, want the one before it and one of each other client", n)
			}
			s.Until(asked.Add(3 * time.Minute))
			operator.IsReady(t, s.Cart)
			operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
			if n := s.AS.Count(oidc.Token); n != 1+4 {
				t.Errorf("%d token requests after that, want one for each client", n-1)
			}
		})
	}
}

// TestBreaker counts the requests of many clients to a server that is down, by the
// simulated clock.
func TestBreaker(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	clients := []*v1alpha1.M2MClient{}
	s.AS.SetFault(oidc.Token, operator.Answer(503, ""))
	for i := range 50 {
		clients = append(clients, s.Another(fmt.Sprintf("client-%d", i)))
	}
	operator.EventuallyCached(t, op, clients[49])
	s.Until(op.Clock.Now().Add(10 * time.Minute))
	// Five failures open the breaker. Then there is one probe after 1, 2, 4, 8, 16 and
	// every 30 seconds.
	if n := s.AS.Count(oidc.Token); n < 15 || n > 35 {
		t.Errorf("50 clients sent %d token requests in ten minutes", n)
	}
	s.AS.ClearFaults()
	s.AS.ResetRequests()
	s.Until(op.Clock.Now().Add(2 * time.Minute))
	for _, c := range clients {
		operator.IsReady(t, c)
	}
	if n := s.AS.Count(oidc.Token); n != 50 {
		t.Errorf("%d token requests to recover, want one for each client", n)
	}
}

// TestOperatorRestartsInAnOutage: the known keys and endpoints of the server outlive
// the process, and so do the attempts.
func TestOperatorRestartsInAnOutage(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	server := s.Server(s.Shop)
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(server), server); err != nil {
		t.Fatal(err)
	}
	known := server.Status
	down := operator.Answer(503, "")
	s.AS.SetFault(oidc.Discovery, down)
	s.AS.SetFault(oidc.JWKS, down)
	s.AS.SetFault(oidc.Token, operator.Answer(400, `{"error":"invalid_scope"}`))
	s.Due()
	s.Settle()
	failure := s.Status().Failure
	op.Stop()

	again := operator.StartStepped(t, func(o *controller.Options) { o.Clock = op.Clock })
	again.Clock, s.Op = op.Clock, again
	s.AS.ResetRequests()
	s.Settle()
	if n := s.AS.Count(oidc.Token); n != 0 {
		t.Errorf("the new process sent %d token requests before their time", n)
	}
	if diff := cmp.Diff(failure, s.Status().Failure); diff != "" {
		t.Errorf("the restart changed the recorded failure:\n%s", diff)
	}
	operator.HasCondition(t, server, v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonBadStatus)
	operator.HasCondition(t, server, v1alpha1.ConditionKeysFresh, metav1.ConditionFalse, v1alpha1.ReasonBadStatus)
	operator.IsReady(t, server)
	if diff := cmp.Diff(known.Keys, server.Status.Keys); diff != "" {
		t.Errorf("the restart changed the keys:\n%s", diff)
	}
	if diff := cmp.Diff(known.Endpoints, server.Status.Endpoints); diff != "" {
		t.Errorf("the restart changed the endpoints:\n%s", diff)
	}

	s.AS.SetFault(oidc.Token, nil)
	s.Until(failure.NextAttemptAt.Time)
	operator.HasCondition(t, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	if n := s.AS.Count(oidc.Token); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}
