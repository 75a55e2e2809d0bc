// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

const (
	// defaultTokenLifetime is for a token whose server says none.
	defaultTokenLifetime = 5 * time.Minute

	// passMax is how long a pass may have taken when it makes another token request.
	passMax = time.Second

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
	if r.clock.Since(p.now) > passMax {
		// A pass that has waited for slow answers leaves the rest to another one:
		// others wait for its worker.
		a.problem, a.wakeAt, p.brief = a.lastProblem(), p.now.Add(time.Millisecond), true
		return nil, nil
	}
	ticket, wait, busy, err := r.admission.admit(ctx, p.server, r.need(p, a, inputs))
	if err != nil {
		return nil, err
	}
	if busy != nil {
		a.problem, a.wakeAt = busy, p.now.Add(wait)
		if f := a.failure; f != nil && f.Inputs == p.basis(a, inputs, f.Reason) {
			a.problem = a.lastProblem() // what went wrong says more than that it is waited for
		}
		p.brief = p.brief || busy.Unknown && wait < briefWait
		return nil, nil
	}
	auth, hc, bad, err := r.prepare(ctx, p)
	if bad != nil || err != nil {
		r.admission.abandon(ticket)
		if bad != nil {
			r.failed(p, a, inputs, bad.Reason, bad.Message, refresh.SlowBackoff, 0)
		}
		return nil, err
	}
	// Looked at last: it was long ago that the pass began.
	if ok, err := r.stillHas(ctx, p, a); !ok {
		r.admission.abandon(ticket)
		return nil, err
	}
	if a.refused != nil {
		r.rejudged.Force(a.seed(p), 1, p.now)
	}
	token, failure := r.request(ctx, hc, p, a, auth)
	if failure != nil && ctx.Err() != nil {
		r.admission.abandon(ticket)
		return nil, ctx.Err() // what failed for that is no news about the server
	}
	r.admission.done(ticket, failure)
	if failure != nil {
		r.refused(p, a, inputs, failure)
		return nil, nil
	}
	return r.received(p, a, inputs, token), nil
}

// need is how much an access needs its turn. Of a record in the Secret only what
// this process wrote or checked is believed; after a restart, what cannot be told
// from that, for it moves a client ahead of others of its own namespace only.
func (r *M2MClientReconciler) need(p *pass, a *access, inputs string) traffic.Need {
	n := traffic.Need{
		Asker: traffic.Asker{Tenant: p.client.Namespace, Client: string(p.client.UID), Access: a.key},
		Since: p.client.CreationTimestamp.Time,
	}
	if a.record == nil {
		return n
	}
	written, ok := r.written.get(client.ObjectKeyFromObject(p.client), a.key)
	if !ok || written == a.record.digest() {
		n.ExpiresAt = a.record.ExpiresAt
		n.Proven = ok && a.record.Inputs == inputs && a.failure == nil
	}
	return n
}

// prepare returns what a token request needs: who asks, and over which client.
func (r *M2MClientReconciler) prepare(ctx context.Context, p *pass) (oauth.Authentication, *http.Client, *rules.Problem, error) {
	auth, bad, err := p.credentials.authenticate(ctx)
	if bad != nil || err != nil {
		return nil, nil, bad, err
	}
	hc, _, bad, err := r.connections.httpClient(ctx, p.server.Object)
	return auth, hc, bad, err
}

func (r *M2MClientReconciler) request(ctx context.Context, hc *http.Client, p *pass, a *access, auth oauth.Authentication) (*oauth.Token, *oauth.Error) {
	token, err := oauth.Exchange(ctx, hc, oauth.TokenRequest{
		Endpoint: string(p.server.Status.Endpoints.Token), Authentication: auth,
		Scopes: a.scopes, Resource: a.inputs.Resource, Audience: a.inputs.Audience, Parameters: a.parameters, Now: p.now,
	})
	failure := asOAuth(err)
	if !r.lives.isGone(p.server.Object) { // whose series were deleted
		observeRequest(p.server.Key(), failure)
	}
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
		expiresAt = token.RequestedAt.Add(p.server.Spec.DefaultTokenLifetime.Or(defaultTokenLifetime))
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
	backoff, reason, what := refresh.RefusalBackoff, v1alpha1.ReasonTokenRequestRefused, "refused the token request"
	if e.Class == oauth.ClassRetryable {
		backoff, reason, what = refresh.RetryBackoff, v1alpha1.ReasonTokenRequestFailed, "did not issue a token"
	}
	message := fmt.Sprintf("%s %q %s: %s", p.server.Key().Kind, p.server.Key().Name, what, e.Error())
	if isProvisioned(p.client) && e.Class != oauth.ClassRetryable {
		r.compare(p, a) // somebody may have changed it at the server
	}
	if hint := refusalHint(p, a, e); hint != "" {
		message += "; " + hint
	}
	r.failed(p, a, inputs, reason, message, backoff, e.RetryAfter)
}

// failed notes that an attempt went wrong and when the next one is.
func (r *M2MClientReconciler) failed(p *pass, a *access, inputs, reason, message string, backoff refresh.Backoff, retryAfter time.Duration) {
	basis := p.basis(a, inputs, reason)
	attempts := a.attempts(basis)
	if a.token != "" {
		backoff = backoff.Within(a.record.ExpiresAt.Sub(p.now)) // no token that works expires untried
	}
	wait := backoff.Next(attempts, retryAfter, a.seed(p))
	a.fail(&v1alpha1.TokenFailure{
		Reason: reason, Message: truncate(message, 1024), Attempts: int32(min(attempts, 1<<30)), //nolint:gosec // bounded
		NextAttemptAt: timeOf(p.now.Add(wait + time.Second - 1)), Inputs: basis,
	})
}

// basis stands for everything that an attempt depends on. When any of it changes,
// the next attempt is made at once, and the back-off begins anew: also what a server is
// known to grant a client that the operator registers. Of the server's keys only the
// verdict on a token depends.
func (p *pass) basis(a *access, inputs, reason string) string {
	parts := []string{inputs, string(p.client.UID), strconv.FormatInt(p.client.Generation, 10)}
	for _, srv := range []*rules.Server{p.server, a.server} {
		if srv != nil {
			parts = append(parts, string(srv.Object.GetUID()), strconv.FormatInt(srv.Object.GetGeneration(), 10), tokenAddress(srv.Spec, srv.Status))
		}
	}
	if a.spec != nil {
		parts = append(parts, string(a.spec.UID), strconv.FormatInt(a.spec.Generation, 10))
	}
	if isProvisioned(p.client) {
		got, _ := grantedAt(p.client, a.resource)
		parts = append(parts, stringsOf(got.Scopes)...)
	}
	if a.server != nil && slices.Contains(verificationReasons, reason) {
		for _, k := range trustedKeys(a.server) {
			parts = append(parts, k.ID, k.Algorithm, k.JWK)
		}
	}
	return refresh.HashValue(strings.Join(parts, "\n"))
}

// lastProblem is how the last attempt went wrong, nil if it did not.
func (a *access) lastProblem() *rules.Problem {
	if a.failure == nil {
		return nil
	}
	return &rules.Problem{Reason: a.failure.Reason, Message: a.failure.Message}
}

func (a *access) fail(f *v1alpha1.TokenFailure) {
	a.failure, a.wakeAt, a.tried = f, momentOf(f.NextAttemptAt), true
	a.problem = a.lastProblem()
}

// failedLately reports whether an attempt failed on which nothing has changed since,
// and the next one is not due.
func (a *access) failedLately(p *pass, inputs string) bool {
	return a.failure != nil && a.failure.Inputs == p.basis(a, inputs, a.failure.Reason) && p.now.Before(momentOf(a.failure.NextAttemptAt))
}

// attempts returns how often in a row an attempt on the same basis has failed, the
// present one included.
func (a *access) attempts(basis string) int {
	if a.failure == nil || a.failure.Inputs != basis {
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
