// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/text"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
	"github.com/m2m-operator/m2m-operator/internal/verdict"
)

const (
	// defaultTokenLifetime is for a token whose server says none.
	defaultTokenLifetime = 5 * time.Minute

	// passMax is how long a pass may have taken when it makes another token request.
	passMax = time.Second

	// briefWait is the longest wait for the budget that no status mentions.
	briefWait = 5 * time.Second
)

// mint requests one token. It returns nil if that was not possible; a says why.
func (r *Reconciler) mint(ctx context.Context, p *pass, a *access, inputs string) (*tokensecret.Token, error) {
	if r.Clock.Since(p.Now) > passMax {
		// A pass that has waited for slow answers leaves the rest to the next one: other
		// clients wait for its worker.
		a.problem, a.wakeAt, p.brief = a.lastProblem(), p.Now.Add(time.Millisecond), true
		return nil, nil
	}
	ticket, wait, busy, err := r.Admission.Admit(ctx, p.server, r.need(p, a, inputs))
	if err != nil {
		return nil, err
	}
	if busy != nil {
		a.problem, a.wakeAt = busy, p.Now.Add(wait)
		if f := a.failure; f != nil && f.Inputs == p.basis(a, inputs, f.Reason) {
			a.problem = a.lastProblem() // what went wrong says more than that the client waits
		}
		p.brief = p.brief || busy.Unknown && wait < briefWait
		return nil, nil
	}
	auth, hc, bad, err := r.prepare(ctx, p)
	if bad != nil || err != nil {
		r.Admission.Abandon(ticket)
		if bad != nil {
			p.failed(a, inputs, bad.Reason, bad.Message, p.attempt(a, p.basis(a, inputs, bad.Reason)).Next(p.Now, refresh.SlowBackoff, 0))
		}
		return nil, err
	}
	// Checked last, because the pass may have begun long ago.
	if ok, err := r.isCurrent(ctx, p, a); !ok {
		r.Admission.Abandon(ticket)
		return nil, err
	}
	if ok, err := r.stillHas(ctx, p, a); !ok {
		r.Admission.Abandon(ticket)
		return nil, err
	}
	if a.refused != nil {
		r.rejudged.Force(a.seed(p), 1, p.Now)
	}
	token, failure := r.request(ctx, hc, p, a, auth)
	if failure != nil && ctx.Err() != nil {
		r.Admission.Abandon(ticket)
		return nil, ctx.Err() // the context ended: this says nothing about the server
	}
	r.Admission.Done(ticket, failure)
	if failure != nil {
		r.refused(p, a, inputs, failure)
		return nil, nil
	}
	return r.received(p, a, inputs, token), nil
}

// isCurrent reports whether the Secret that was read is the latest. A process knows that of a
// Secret that it wrote. Of another one its cache may be behind what its predecessor wrote:
// the token that seems due was replaced already.
func (r *Reconciler) isCurrent(ctx context.Context, p *pass, a *access) (bool, error) {
	name := client.ObjectKeyFromObject(p.Client)
	wrote := r.secrets.Remembers(name)
	if !r.ConfirmSecrets && (wrote || p.secret.Current == nil) {
		return true, nil
	}
	current, err := r.secrets.IsCurrent(ctx, p.Client, p.secret)
	if current || err != nil {
		return current, err
	}
	a.wakeAt, p.stale = p.Now.Add(time.Second), true
	if !wrote {
		r.written.Forget(name) // what this process has checked is not what the Secret holds, which is no forgery
	}
	return false, nil
}

// need returns how much an access needs its turn. It believes a record in the Secret only
// if this process wrote or checked it. After a restart it believes every record: that moves
// a client ahead only of others in its own namespace.
func (r *Reconciler) need(p *pass, a *access, inputs string) traffic.Need {
	n := traffic.Need{
		Asker: traffic.Asker{Tenant: p.Client.Namespace, Client: string(p.Client.UID), Access: a.key},
		Since: p.Client.CreationTimestamp.Time, Failed: a.failure != nil,
	}
	if a.Record == nil {
		return n
	}
	written, ok := r.written.Get(client.ObjectKeyFromObject(p.Client), a.key)
	if !ok || written == a.Record.Digest() {
		n.ExpiresAt = a.Record.ExpiresAt
		n.Proven = ok && a.Record.Inputs == inputs && a.failure == nil
	}
	return n
}

// prepare returns what a token request needs: who asks, and over which client.
func (r *Reconciler) prepare(ctx context.Context, p *pass) (oauth.Authentication, *http.Client, *rules.Problem, error) {
	auth, bad, err := p.credentials.Authenticate(ctx)
	if bad != nil || err != nil {
		return nil, nil, bad, err
	}
	hc, _, bad, err := r.Connections.HTTPClient(ctx, p.server.Object)
	return auth, hc, bad, err
}

func (r *Reconciler) request(ctx context.Context, hc *http.Client, p *pass, a *access, auth oauth.Authentication) (*oauth.Token, *oauth.Error) {
	token, err := oauth.Exchange(ctx, hc, oauth.TokenRequest{
		Endpoint: string(p.server.Status.Endpoints.Token), Authentication: auth,
		Scopes: a.scopes, Resource: a.inputs.Resource, Audience: a.inputs.Audience, Parameters: a.parameters, Now: p.Now,
	})
	failure := oauth.ErrorOf(err)
	if !r.Lives.IsGone(p.server.Object) { // whose series were deleted
		metrics.ObserveRequest(p.server.Key(), failure)
	}
	return token, failure
}

// received makes a held token of an answer.
func (r *Reconciler) received(p *pass, a *access, inputs string, token *oauth.Token) *tokensecret.Token {
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
	h := &tokensecret.Token{Value: token.Value, Record: tokensecret.Record{
		Inputs: inputs, Credential: p.credentials.Revision, Value: refresh.HashValue(token.Value),
		IssuedAt: token.RequestedAt.UTC().Truncate(time.Second), ExpiresAt: expiresAt.UTC().Truncate(time.Second),
		Scopes: a.scopes,
	}}
	if token.ScopesReturned {
		h.Record.Scopes = token.Scopes
	}
	return h
}

// refused notes a failed token request.
func (r *Reconciler) refused(p *pass, a *access, inputs string, e *oauth.Error) {
	backoff, reason, what := refresh.RefusalBackoff, v1alpha1.ReasonTokenRequestRefused, "refused the token request"
	if e.Class == oauth.ClassRetryable {
		backoff, reason, what = refresh.RetryBackoff, v1alpha1.ReasonTokenRequestFailed, "did not issue a token"
	}
	message := fmt.Sprintf("%s %q %s: %s", p.server.Key().Kind, p.server.Key().Name, what, e.Error())
	if rules.Registered(p.Client) && e.Class != oauth.ClassRetryable {
		r.compare(p, a) // somebody may have changed it at the server
	}
	if hint := refusalHint(p, a, e); hint != "" {
		message += "; " + hint
	}
	p.failed(a, inputs, reason, message, p.attempt(a, p.basis(a, inputs, reason)).Next(p.Now, backoff, e.RetryAfter))
}

// attempt returns what the time of the next attempt depends on, if the present one
// fails on a basis.
func (p *pass) attempt(a *access, basis string) verdict.Attempt {
	t := verdict.Attempt{Number: a.attempts(basis), Seed: a.seed(p)}
	if a.token != "" {
		t.Left = a.Record.ExpiresAt.Sub(p.Now)
	}
	return t
}

// failed notes that an attempt went wrong and when the next one is.
func (p *pass) failed(a *access, inputs, reason, message string, retryAt time.Time) {
	basis := p.basis(a, inputs, reason)
	a.fail(&v1alpha1.TokenFailure{
		Reason: reason, Message: text.CutRunes(cmp.Or(message, "unknown"), 1024), Attempts: int32(min(a.attempts(basis), 1<<30)), //nolint:gosec // bounded
		NextAttemptAt: record.Time(retryAt), Inputs: basis,
	})
}

// basis stands for everything that an attempt depends on. When any of it changes,
// the next attempt is made at once, and the back-off begins anew: also what a server is
// known to grant a client that the operator registers, and a request. Of the server's keys only the
// verdict on a token depends.
func (p *pass) basis(a *access, inputs, reason string) string {
	parts := []string{inputs, string(p.Client.UID), strconv.FormatInt(p.Client.Generation, 10)}
	if p.request.value != "" {
		parts = append(parts, "requested", p.request.value)
	}
	for _, srv := range []*rules.Server{p.server, a.server} {
		if srv != nil {
			parts = append(parts, string(srv.Object.GetUID()), strconv.FormatInt(srv.Object.GetGeneration(), 10), servers.TokenAddress(srv.Spec, srv.Status))
		}
	}
	if a.spec != nil {
		parts = append(parts, string(a.spec.UID), strconv.FormatInt(a.spec.Generation, 10))
	}
	if rules.Registered(p.Client) {
		got, _ := record.GrantedAt(p.Client, a.resource)
		parts = append(parts, record.StringsOf(got.Scopes)...)
	}
	if a.server != nil && slices.Contains(verificationReasons, reason) {
		for _, k := range record.TrustedKeys(a.server) {
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
	a.failure, a.wakeAt, a.tried = f, record.Moment(f.NextAttemptAt), true
	a.problem = a.lastProblem()
}

// failedLately reports whether an attempt failed on which nothing has changed since,
// and the next one is not due.
func (a *access) failedLately(p *pass, inputs string) bool {
	return a.failure != nil && a.failure.Inputs == p.basis(a, inputs, a.failure.Reason) && p.Now.Before(record.Moment(a.failure.NextAttemptAt))
}

// attempts returns how often in a row an attempt on the same basis has failed, the
// present one included.
func (a *access) attempts(basis string) int {
	if a.failure == nil || a.failure.Inputs != basis {
		return 1
	}
	return int(a.failure.Attempts) + 1
}

func (a *access) seed(p *pass) string { return string(p.Client.UID) + "/" + a.key }
