// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/recipients"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/verdict"
)

// refreshTokens decides for each access whether its token is replaced, and replaces it.
func (r *Reconciler) refreshTokens(ctx context.Context, p *pass) error {
	for _, a := range p.Accesses {
		if err := r.refreshToken(ctx, p, a); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) refreshToken(ctx context.Context, p *pass, a *access) error {
	if f := p.previous(a.key).Failure; f.Reason != "" {
		a.failure = &f
	}
	if a.withdraw {
		r.held.Drop(client.ObjectKeyFromObject(p.Client), a.key)
		a.failure, a.broken = nil, a.denied
		if _, stored := p.secret.Tokens[a.key]; stored {
			p.event(r, corev1.EventTypeWarning, v1alpha1.ReasonTokenWithdrawn, "Withdrew the token of access %q: %s", a.key, a.denied.Message)
		}
		return nil
	}
	in := r.present(p, a)
	defer r.noteTerms(p, a)
	reason, _, mint := refresh.Mint(in)
	if mint {
		if err := r.replace(ctx, p, a, in, reason); err != nil {
			return err
		}
	} else {
		// The held token may be the one in the Secret: it was written, and the API
		// server's answer was lost.
		r.held.Drop(client.ObjectKeyFromObject(p.Client), a.key)
		a.failure = nil
		a.wakeAt = a.plan.RefreshAt
	}
	a.broken = p.judge(a, in)
	return nil
}

// Present puts the token that lies in the Secret into a, and returns what is known about
// it.
func (r *Reconciler) present(p *pass, a *access) refresh.Input {
	in := refresh.Input{Now: p.Now}
	if rec, ok := p.secret.Records.Tokens[a.key]; ok {
		a.Record = &rec
		a.plan = p.plan(a)
		in.Recorded, in.RefreshAt, in.WantInputsHash = rec.AsToken(), a.plan.RefreshAt, rec.Inputs
	}
	if a.Record != nil && a.server != nil {
		in.Revoked = a.server.Revoked(a.Record.KeyID) || p.server.Revoked(a.Record.KeyID)
		in.Superseded = supersededSince(a.server, a.Record)
	}
	if p.credentials != nil && a.server != nil {
		a.inputs = p.inputs(a)
		in.WantInputsHash = refresh.HashInputs(a.inputs)
	}
	if stored, ok := p.secret.Tokens[a.key]; ok {
		in.StoredValueHash = refresh.HashValue(stored)
		switch {
		case a.Record == nil || a.Record.Value != in.StoredValueHash:
		case a.Record.Inputs == in.WantInputsHash && !in.Revoked && !r.genuine(p, a, stored):
			in.StoredValueHash = "not the one that was issued"
		default:
			a.token = stored
		}
	}
	in.Requested = p.requested(a)
	a.refused = r.refusedByNow(p, a, in)
	in.Refused = a.refused != nil
	return in
}

func (p *pass) inputs(a *access) refresh.Inputs {
	in := refresh.Inputs{
		Issuer: p.server.Spec.Issuer, ClientID: p.credentials.ClientID, Credential: p.credentials.Revision, Scopes: a.scopes,
		Parameters: a.parameters,
	}
	in.Resource, in.Audience = record.Audience(p.server.Spec, a.resource)
	return in
}

func (p *pass) plan(a *access) refresh.Plan {
	spec := p.Client.Spec.Refresh
	policy := refresh.Policy{AtPercent: int(spec.AtPercent), Before: spec.Before.Or(0)}
	return policy.Plan(a.Record.IssuedAt, a.Record.ExpiresAt, string(p.Client.UID)+"/"+a.key)
}

// judge returns why pods cannot use the token that will be in the Secret, nil if they
// can. A rotated credential alone does not spoil it.
func (p *pass) judge(a *access, in refresh.Input) *rules.Problem {
	if a.issued == "" && a.Record != nil && p.credentials != nil && a.server != nil {
		inputs := a.inputs
		inputs.Credential = a.Record.Credential
		in.WantInputsHash = refresh.HashInputs(inputs)
	}
	if a.issued != "" {
		in = refresh.Input{
			Recorded: a.Record.AsToken(), StoredValueHash: a.Record.Value, WantInputsHash: a.Record.Inputs,
			RefreshAt: a.plan.RefreshAt, Now: p.Now,
		}
	}
	reason, message, usable := refresh.Usable(in)
	if usable {
		return nil
	}
	switch reason {
	case refresh.Expired:
		return &rules.Problem{Reason: v1alpha1.ReasonTokenExpired, Message: message}
	case refresh.NotVerified:
		return &rules.Problem{Reason: v1alpha1.ReasonTokenNotVerified, Message: notAccepted(a.refused)}
	case refresh.Missing, refresh.Edited:
		return &rules.Problem{Reason: v1alpha1.ReasonTokenMissing, Message: message}
	}
	return &rules.Problem{Reason: string(reason), Message: message}
}

// replace gets a fresh token for an access, decides what becomes of it, and does that.
func (r *Reconciler) replace(ctx context.Context, p *pass, a *access, in refresh.Input, reason refresh.Reason) error {
	if a.problem = p.obstacle(a); a.problem != nil {
		a.tried = !a.problem.Unknown
		return nil
	}
	held, err := r.obtain(ctx, p, a, in, reason)
	if held == nil || err != nil {
		return err
	}
	claims, bad := verify(*held, p, a)
	candidate := p.candidate(a, in, held, bad)
	if candidate.Look, err = r.lookAgain(ctx, p, a, candidate.Awaits(), held, claims); err != nil {
		return err
	}
	v := verdict.Of(candidate)
	if bad != nil {
		r.askAbout(p, a, held, bad)
	}
	switch v.Action {
	case verdict.Hold:
		a.hold(held, v, keyAwaited(held, claims))
	case verdict.Wait:
		a.fail(a.failure)
	case verdict.Discard:
		r.held.Drop(client.ObjectKeyFromObject(p.Client), a.key)
		p.failed(a, in.WantInputsHash, bad.Reason, bad.Message, v.Until)
	case verdict.Retry:
		p.failed(a, in.WantInputsHash, bad.Reason, bad.Message, v.Until)
	case verdict.Publish:
		if reason == refresh.Due {
			metrics.ObserveLateness(p.Now.Sub(in.RefreshAt))
		}
		r.publish(ctx, p, a, *held, claims, reason)
	}
	return nil
}

// obtain returns the token that is held for an access, or requests a new one. It
// returns nil where neither is possible now; a says why.
func (r *Reconciler) obtain(ctx context.Context, p *pass, a *access, in refresh.Input, reason refresh.Reason) (*tokensecret.Token, error) {
	name := client.ObjectKeyFromObject(p.Client)
	held, ok := r.held.Get(name, a.key)
	if ok && held.Record.Inputs == in.WantInputsHash && p.Now.Before(held.Record.ExpiresAt) && !a.hopeless(p, held) {
		return &held, nil
	}
	if a.failedLately(p, in.WantInputsHash) {
		a.fail(a.failure)
		return nil, nil
	}
	if wait := r.rejudged.Wait(a.seed(p), 1, p.Now); reason == refresh.NotVerified && wait > 0 {
		if a.failure != nil && a.failure.Inputs != p.basis(a, in.WantInputsHash, a.failure.Reason) {
			a.failure = nil
		}
		a.problem, a.wakeAt, a.tried = a.lastProblem(), p.Now.Add(wait), true
		return nil, nil
	}
	minted, err := r.mint(ctx, p, a, in.WantInputsHash)
	if minted == nil || err != nil {
		return nil, err
	}
	r.held.Put(name, a.key, *minted)
	return minted, nil
}

// candidate gathers what the verdict on a token depends on.
func (p *pass) candidate(a *access, in refresh.Input, held *tokensecret.Token, bad *jwks.VerifyError) *verdict.Candidate {
	c := &verdict.Candidate{
		Now: p.Now, IssuedAt: held.Record.IssuedAt, Refused: bad,
		Predecessor: verdict.Predecessor{Works: p.working(in), Revoked: in.Revoked},
	}
	if in.Recorded != nil {
		c.Predecessor.ExpiresAt = in.Recorded.ExpiresAt
	}
	if a.failure != nil {
		c.Last = verdict.Failure{Reason: a.failure.Reason, Stands: a.failedLately(p, in.WantInputsHash)}
	}
	if bad != nil {
		c.Attempt = p.attempt(a, p.basis(a, in.WantInputsHash, bad.Reason))
	}
	return c
}

// lookAgain returns when to look again at what a token lets go first, the zero time if
// that has gone.
func (r *Reconciler) lookAgain(ctx context.Context, p *pass, a *access, awaits verdict.Awaited, held *tokensecret.Token, claims *jwks.Claims) (time.Time, error) {
	t := recipients.Token{API: a.spec, Server: a.server, Claims: claims, IssuedAt: held.Record.IssuedAt, NewTerms: a.refused != nil}
	switch awaits {
	case verdict.Delivery:
		return r.recipients.LookAgain(ctx, t, p.Now)
	case verdict.Bundle:
		if ahead, err := r.recipients.KeyIsAhead(ctx, t, p.Now); ahead || err != nil {
			return time.Time{}, err
		}
		// The status then names the key, for which the API's pods are touched.
		return p.Now.Add(verdict.RevokedPoll), nil
	case verdict.Nothing:
	}
	return time.Time{}, nil
}

// askAbout requests what may put right that a token would be refused: the keys, for a
// new one may have come under an old ID, or a comparison, for somebody may have taken
// scopes away at the server.
func (r *Reconciler) askAbout(p *pass, a *access, held *tokensecret.Token, bad *jwks.VerifyError) {
	if slices.Contains(jwks.KeyReasons, bad.Reason) {
		r.RequestKeys(a.server, keyNamedBy(held.Value))
	}
	if bad.Reason == jwks.ReasonMissingScopes && rules.Registered(p.Client) {
		r.compare(p, a)
	}
}

// keyAwaited returns the ID of the key that a token waits for. If the token could not be
// verified, that is what it says itself; nothing else is believed of it.
func keyAwaited(held *tokensecret.Token, verified *jwks.Claims) string {
	if verified != nil {
		return verified.KeyID
	}
	if id := keyNamedBy(held.Value); jwks.ValidKeyID(id) {
		return id
	}
	return ""
}

// hold keeps a token back, as the verdict on it says.
func (a *access) hold(h *tokensecret.Token, v verdict.Verdict, keyID string) {
	a.wakeAt = v.Until
	a.pending = v1alpha1.PendingToken{KeyID: keyID, Since: record.Time(h.Record.IssuedAt), PublishAt: record.Time(v.PublishAt)}
	if v.NoKey {
		a.problem = &rules.Problem{Reason: v1alpha1.ReasonWaitingForKey, Unknown: true,
			Message: "The token is signed with a key that is not known yet; the server's keys are being fetched"}
	}
}

// obstacle returns why no token can be requested at all, nil if one can.
func (p *pass) obstacle(a *access) *rules.Problem {
	switch {
	case p.secretProblem != nil:
		return p.secretProblem
	case p.serverProblem != nil:
		return p.serverProblem
	case a.denied != nil:
		return a.denied
	case p.credProblem != nil:
		return p.credProblem
	case p.misplaced(a) != nil:
		return p.misplaced(a)
	case a.waiting != nil:
		return a.waiting
	case p.server.Status.Endpoints.Token == "":
		return &rules.Problem{Reason: v1alpha1.ReasonAuthorizationServerNotReady, Message: fmt.Sprintf(
			"The token endpoint of %s %q is not known; see its conditions", p.server.Key().Kind, p.server.Key().Name)}
	}
	return nil
}

// misplaced reports that an access sets a parameter that the operator sets itself. The API
// server refuses most of them; which one names the API depends on the authorization server.
func (p *pass) misplaced(a *access) *rules.Problem {
	req := oauth.TokenRequest{Parameters: a.parameters}
	req.Resource, req.Audience = record.Audience(p.server.Spec, a.resource)
	name := req.Misplaced()
	if name == "" {
		return nil
	}
	message := fmt.Sprintf("The parameter %q is one that the operator sets itself; remove it from the access", name)
	if strings.EqualFold(name, "audience") {
		message = fmt.Sprintf("The parameter %q is the one that names the API at %s %q (audienceParameter); remove it from the access",
			name, p.server.Key().Kind, p.server.Key().Name)
	}
	return &rules.Problem{Reason: v1alpha1.ReasonParameterNotAllowed, Message: message}
}

// working reports whether the token in the Secret can be used for now.
func (p *pass) working(in refresh.Input) bool {
	return in.Recorded != nil && in.StoredValueHash == in.Recorded.ValueHash && !in.Revoked && p.Now.Before(in.Recorded.ExpiresAt)
}

// publish puts a token into the Secret that is about to be written.
func (r *Reconciler) publish(ctx context.Context, p *pass, a *access, h tokensecret.Token, claims *jwks.Claims, reason refresh.Reason) {
	wasShort := a.Record != nil && a.plan.ShortLived
	h.Record.Request = p.request.value
	h.Record.Opaque = claims == nil
	if claims != nil {
		h.Record.KeyID, h.Record.Thumbprint, h.Record.Algorithm = claims.KeyID, claims.KeyThumbprint, claims.Algorithm
		if claims.ScopePresent {
			h.Record.Scopes = claims.Scopes
		}
	}
	h.Record.Scopes = storable(h.Record.Scopes)
	a.token, a.Record, a.issued, a.failure, a.problem, a.refused = h.Value, &h.Record, reason, nil, nil, nil
	a.plan = p.plan(a)
	a.wakeAt = a.plan.RefreshAt
	r.held.Put(client.ObjectKeyFromObject(p.Client), a.key, h) // with the record by which the next pass knows it

	log.FromContext(ctx).V(1).Info("Received access token", "client", klog.KObj(p.Client), "access", a.key, "reason", reason, "expiresAt", h.Record.ExpiresAt)
	if reason != refresh.Due {
		p.event(r, corev1.EventTypeNormal, v1alpha1.ReasonTokenIssued, "Issued a token for access %q (%s)", a.key, reason)
	}
	if a.plan.ShortLived && !wasShort {
		p.event(r, corev1.EventTypeWarning, v1alpha1.ReasonShortLivedToken,
			"The token of access %q lives for less than %s, so mounted files may be updated too late; configure a longer lifetime at the server", a.key, 2*refresh.MinLead)
	}
}

// previous returns what the status says of a token so far.
func (p *pass) previous(key string) v1alpha1.TokenStatus { return record.TokenStatusOf(p.Client, key) }
