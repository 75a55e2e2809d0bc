// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

const (
	// defaultTokenLifetime is for a token whose server says none.
	defaultTokenLifetime = 5 * time.Minute

	// briefWait is the longest wait for the budget that no status mentions.
	briefWait = 5 * time.Second
)

// mint requests one token. It returns nil where that was not possible; a says
// why.
func (r *M2MClientReconciler) mint(ctx context.Context, p *pass, a *access, inputs string) (*heldToken, error) {
	if r.confirmSecrets {
		if current, err := r.secretIsCurrent(ctx, p); err != nil || !current {
			a.wakeAt, p.stale = p.now.Add(time.Second), true
			return nil, err
		}
	}
	wait, busy := r.servers.admit(ctx, p.server, p.need(a))
	if busy != nil {
		a.problem, a.wakeAt = busy, p.now.Add(wait)
		if f := a.failure; f != nil && f.Inputs == inputs {
			a.problem = &problem{reason: f.Reason, message: f.Message} // what went wrong says more than that it is waited for
		}
		p.brief = p.brief || busy.unknown && wait < briefWait
		return nil, nil
	}
	auth, hc, bad, err := r.prepare(ctx, p)
	if bad != nil || err != nil {
		r.servers.abandon(p.server)
		if bad != nil {
			r.failed(p, a, inputs, bad.reason, bad.message, refresh.SlowBackoff.Next(a.attempts(inputs), 0, a.seed(p)))
		}
		return nil, err
	}
	token, failure := r.request(ctx, hc, p, a, auth)
	if failure != nil && ctx.Err() != nil {
		r.servers.abandon(p.server)
		return nil, ctx.Err() // what failed for that is no news about the server
	}
	if failure != nil {
		r.servers.done(p.server, failure.Class != oauth.ClassRetryable, failure.RetryAfter)
		r.refused(p, a, inputs, failure)
		return nil, nil
	}
	r.servers.done(p.server, true, 0)
	return r.received(p, a, inputs, token), nil
}

// need is how much an access needs its turn.
func (p *pass) need(a *access) need {
	n := need{asker: asker{p.client.UID, a.key}, since: p.client.CreationTimestamp.Time}
	if a.record != nil {
		n.expiresAt = a.record.ExpiresAt
	}
	return n
}

// prepare returns what a token request needs: who asks, and over which client.
func (r *M2MClientReconciler) prepare(ctx context.Context, p *pass) (oauth.Authentication, *http.Client, *problem, error) {
	auth, bad, err := p.credentials.authenticate(ctx)
	if bad != nil || err != nil {
		return nil, nil, bad, err
	}
	hc, _, bad, err := r.servers.httpClient(ctx, p.server.object)
	return auth, hc, bad, err
}

func (r *M2MClientReconciler) request(ctx context.Context, hc *http.Client, p *pass, a *access, auth oauth.Authentication) (*oauth.Token, *oauth.Error) {
	token, err := oauth.Exchange(ctx, hc, oauth.TokenRequest{
		Endpoint: string(p.server.status.Endpoints.Token), Authentication: auth,
		Scopes: a.scopes, Resource: a.inputs.Resource, Audience: a.inputs.Audience, Now: p.now,
	})
	failure := asOAuth(err)
	observeRequest(p.server.key, failure)
	return token, failure
}

// asOAuth returns what a failed token request means, nil for none that failed.
func asOAuth(err error) *oauth.Error {
	var failure *oauth.Error
	if err != nil && !errors.As(err, &failure) {
		failure = &oauth.Error{Class: oauth.ClassRetryable, Detail: "the request failed"}
	}
	return failure
}

// received makes a held token of an answer.
func (r *M2MClientReconciler) received(p *pass, a *access, inputs string, token *oauth.Token) *heldToken {
	lifetime := token.ExpiresIn
	expiresAt := token.RequestedAt.Add(lifetime)
	// What the API checks is the token's exp; expires_in may be missing or say
	// something else.
	if claims, err := jwks.Inspect(token.Value); err == nil && !claims.ExpiresAt.IsZero() {
		if lifetime == 0 || claims.ExpiresAt.Before(expiresAt) {
			expiresAt = claims.ExpiresAt
		}
	} else if lifetime == 0 {
		expiresAt = token.RequestedAt.Add(p.server.spec.DefaultTokenLifetime.Or(defaultTokenLifetime))
	}
	h := &heldToken{value: token.Value, record: tokenRecord{
		Inputs: inputs, Credential: p.credentials.Revision, Value: refresh.HashValue(token.Value),
		IssuedAt: token.RequestedAt.UTC().Truncate(time.Second), ExpiresAt: expiresAt.UTC().Truncate(time.Second),
		Scopes: a.scopes,
	}}
	if token.ScopesReturned {
		h.record.Scopes = token.Scopes
	}
	return h
}

// refused notes a failed token request.
func (r *M2MClientReconciler) refused(p *pass, a *access, inputs string, e *oauth.Error) {
	backoff, reason, what := refresh.SlowBackoff, v1alpha1.ReasonTokenRequestRefused, "refused the token request"
	if e.Class == oauth.ClassRetryable {
		backoff, reason, what = refresh.RetryBackoff, v1alpha1.ReasonTokenRequestFailed, "did not issue a token"
		if a.token != "" {
			backoff = backoff.Within(a.record.ExpiresAt.Sub(p.now))
		}
	}
	message := fmt.Sprintf("%s %q %s: %s", p.server.key.kind, p.server.key.name, what, e.Error())
	if isProvisioned(p.client) {
		if e.Class != oauth.ClassRetryable {
			r.compare(p, a) // somebody may have changed it at the server
		}
	} else if hint := refusalHint(p, a, e); hint != "" {
		message += "; " + hint
	}
	r.failed(p, a, inputs, reason, message, backoff.Next(a.attempts(inputs), e.RetryAfter, a.seed(p)))
}

// refusalHint says what to change after a refusal, where that can be told.
func refusalHint(p *pass, a *access, e *oauth.Error) string {
	switch {
	case e.Code == "invalid_client":
		if s := credentialSecret(p.client).Name; s != "" {
			return fmt.Sprintf("check Secret %q", s)
		}
		return fmt.Sprintf("register ServiceAccount %q of this cluster there", p.client.Spec.Credentials.ServiceAccount.Name)
	case e.Code == "invalid_target":
		return fmt.Sprintf("register the API there as %q", a.resource)
	case e.Code == "invalid_scope":
		return "register the scopes there, and grant them to the client"
	case e.Code == "unauthorized_client", e.Code == "unsupported_grant_type":
		return "allow the client the grant type client_credentials there"
	case e.Code == "" && (e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed || e.Status/100 == 3):
		return "check the token endpoint in the server's status"
	}
	return ""
}

// failed notes that an attempt went wrong and when the next one is.
func (r *M2MClientReconciler) failed(p *pass, a *access, inputs, reason, message string, wait time.Duration) {
	a.fail(&v1alpha1.TokenFailure{
		Reason: reason, Message: truncate(message, 1024), Attempts: int32(min(a.attempts(inputs), 1<<30)), //nolint:gosec // bounded
		NextAttemptAt: timeOf(p.now.Add(wait + time.Second - 1)), Inputs: inputs,
	})
}

func (a *access) fail(f *v1alpha1.TokenFailure) {
	a.failure, a.wakeAt = f, momentOf(f.NextAttemptAt)
	a.problem = &problem{reason: f.Reason, message: f.Message}
}

// failedLately says whether an attempt with these inputs failed and the next
// one is not due. A changed spec is tried at once, whatever changed in it.
func (a *access) failedLately(p *pass, inputs string) bool {
	return a.failure != nil && a.failure.Inputs == inputs && p.now.Before(momentOf(a.failure.NextAttemptAt)) &&
		p.client.Status.ObservedGeneration == p.client.Generation
}

// attempts returns how often in a row an attempt with these inputs has failed,
// the present one included.
func (a *access) attempts(inputs string) int {
	if a.failure == nil || a.failure.Inputs != inputs {
		return 1
	}
	return int(a.failure.Attempts) + 1
}

func (a *access) seed(p *pass) string { return string(p.client.UID) + "/" + a.key }

func truncate(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return cmp.Or(s, "unknown")
}
