// SPDX-License-Identifier: Apache-2.0

package controller

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
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

const (
	// othersPatience is how long it waits for pods of namespaces that are neither the
	// API's nor named by its owner: long enough for a bundle to be written and a pod to
	// be touched.
	othersPatience = 10 * time.Second

	// revokedHold is how long a token at most lets the bundle go first whose
	// predecessor is revoked, and revokedPoll how often that is looked at. Nothing
	// works meanwhile, so it is short.
	revokedHold = 5 * time.Second
	revokedPoll = 50 * time.Millisecond

	// keyPatience is how long a key may be unknown before that is called a
	// problem: the keys are just being fetched.
	keyPatience = 15 * time.Second
)

// refreshTokens decides for each access whether its token is replaced, and
// replaces it.
func (r *M2MClientReconciler) refreshTokens(ctx context.Context, p *pass) error {
	for _, a := range p.accesses {
		if err := r.refreshToken(ctx, p, a); err != nil {
			return err
		}
	}
	return nil
}

func (r *M2MClientReconciler) refreshToken(ctx context.Context, p *pass, a *access) error {
	if f := p.previous(a.key).Failure; f.Reason != "" {
		a.failure = &f
	}
	if a.withdraw {
		r.held.drop(client.ObjectKeyFromObject(p.client), a.key)
		a.failure, a.unusable = nil, a.denied
		if _, stored := p.secret.tokens[a.key]; stored && p.secret.owned {
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
		// A token may be held that is in the Secret: it was written, and the
		// API server's answer was lost.
		r.held.drop(client.ObjectKeyFromObject(p.client), a.key)
		a.failure = nil
		a.wakeAt = a.plan.RefreshAt
	}
	p.judge(a, in)
	return nil
}

// present puts the token that lies in the Secret into a, and says what is known
// about it.
func (r *M2MClientReconciler) present(p *pass, a *access) refresh.Input {
	in := refresh.Input{Now: p.now}
	if rec, ok := p.secret.records.Tokens[a.key]; ok {
		a.record = &rec
		a.plan = p.plan(a)
		in.Recorded, in.RefreshAt, in.WantInputsHash = rec.asToken(), a.plan.RefreshAt, rec.Inputs
	}
	if a.record != nil && a.server != nil {
		in.Revoked = a.server.Revoked(a.record.KeyID) || p.server.Revoked(a.record.KeyID)
		in.Superseded = supersededSince(a.server, a.record)
	}
	if p.credentials != nil && a.server != nil {
		a.inputs = p.inputs(a)
		in.WantInputsHash = refresh.HashInputs(a.inputs)
	}
	if stored, ok := p.secret.tokens[a.key]; ok {
		in.StoredValueHash = refresh.HashValue(stored)
		switch {
		case a.record == nil || a.record.Value != in.StoredValueHash:
		case a.record.Inputs == in.WantInputsHash && !in.Revoked && !r.genuine(p, a, stored):
			in.StoredValueHash = "not the one that was issued"
		default:
			a.token = stored
		}
	}
	a.refused = r.refusedByNow(p, a, in)
	in.Refused = a.refused != nil
	return in
}

func (p *pass) inputs(a *access) refresh.Inputs {
	in := refresh.Inputs{
		Issuer: p.server.Spec.Issuer, ClientID: p.credentials.ClientID, Credential: p.credentials.Revision, Scopes: a.scopes,
		Parameters: a.parameters,
	}
	in.Resource, in.Audience = audience(p.server.Spec, a.resource)
	return in
}

func (p *pass) plan(a *access) refresh.Plan {
	spec := p.client.Spec.Refresh
	policy := refresh.Policy{AtPercent: int(spec.AtPercent), Before: spec.Before.Or(0)}
	return policy.Plan(a.record.IssuedAt, a.record.ExpiresAt, string(p.client.UID)+"/"+a.key)
}

// judge reports whether pods can use the token that will be in the Secret. A
// rotated credential alone does not spoil it.
func (p *pass) judge(a *access, in refresh.Input) {
	if a.issued == "" && a.record != nil && p.credentials != nil && a.server != nil {
		inputs := a.inputs
		inputs.Credential = a.record.Credential
		in.WantInputsHash = refresh.HashInputs(inputs)
	}
	if a.issued != "" {
		in = refresh.Input{
			Recorded: a.record.asToken(), StoredValueHash: a.record.Value, WantInputsHash: a.record.Inputs,
			RefreshAt: a.plan.RefreshAt, Now: p.now,
		}
	}
	reason, message, usable := refresh.Usable(in)
	a.usable = usable
	if usable {
		return
	}
	a.unusable = &rules.Problem{Reason: v1alpha1.ReasonTokenMissing, Message: message}
	switch reason {
	case refresh.Expired:
		a.unusable.Reason = v1alpha1.ReasonTokenExpired
	case refresh.NotVerified:
		a.unusable = &rules.Problem{Reason: v1alpha1.ReasonTokenNotVerified, Message: notAccepted(a.refused)}
	case refresh.Missing, refresh.Edited:
	default:
		a.unusable.Reason = string(reason)
	}
}

// replace gets a fresh token for an access: one that is held, or a new one. It
// goes into a, to be published, only if the API would accept it.
func (r *M2MClientReconciler) replace(ctx context.Context, p *pass, a *access, in refresh.Input, reason refresh.Reason) error {
	if a.problem = p.obstacle(a); a.problem != nil {
		a.tried = !a.problem.Unknown
		return nil
	}
	name := client.ObjectKeyFromObject(p.client)
	held, ok := r.held.get(name, a.key)
	if !ok || held.record.Inputs != in.WantInputsHash || !p.now.Before(held.record.ExpiresAt) || a.hopeless(p, held) {
		if a.failedLately(p, in.WantInputsHash) {
			a.fail(a.failure)
			return nil
		}
		if wait := r.rejudged.Wait(a.seed(p), 1, p.now); reason == refresh.NotVerified && wait > 0 {
			if a.failure != nil && a.failure.Inputs != p.basis(a, in.WantInputsHash, a.failure.Reason) {
				a.failure = nil
			}
			a.problem, a.wakeAt, a.tried = a.lastProblem(), p.now.Add(wait), true
			return nil
		}
		minted, err := r.mint(ctx, p, a, in.WantInputsHash)
		if minted == nil || err != nil {
			return err
		}
		held = *minted
		r.held.put(name, a.key, held)
	}

	claims, bad := verify(held, p, a)
	switch {
	case bad != nil && bad.Reason == jwks.ReasonUnknownKey:
		r.requestKeys(a.server, keyNamedBy(held.value))
		again := a.failure != nil && a.failure.Reason == bad.Reason
		if !again && p.now.Before(held.record.IssuedAt.Add(keyPatience)) {
			// The claims say which key is waited for; nothing is believed of them.
			unverified, err := jwks.Inspect(held.value)
			if err != nil || !jwks.ValidKeyID(unverified.KeyID) {
				unverified = nil
			}
			if p.working(in) {
				a.hold(held, unverified, p.now.Add(delivery.Poll), in.Recorded)
			} else {
				a.awaitKey(p, held, unverified)
			}
			return nil
		}
		if a.failedLately(p, in.WantInputsHash) {
			a.fail(a.failure)
			return nil
		}
		r.failed(p, a, in.WantInputsHash, bad.Reason, bad.Message, refresh.RefusalBackoff, 0)
		return nil
	case bad != nil:
		if slices.Contains(keyReasons, bad.Reason) {
			r.requestKeys(a.server, keyNamedBy(held.value)) // a new key may have come under an old ID
		}
		if bad.Reason == jwks.ReasonMissingScopes && isProvisioned(p.client) {
			r.compare(p, a) // somebody may have taken them away at the server
		}
		r.held.drop(name, a.key)
		r.failed(p, a, in.WantInputsHash, bad.Reason, bad.Message, refresh.RefusalBackoff, 0)
		return nil
	}
	if p.working(in) && p.now.Before(held.publishAt(in.Recorded)) {
		look, err := r.delivered(ctx, p, a, held, claims)
		if err != nil {
			return err
		}
		if !look.IsZero() {
			a.hold(held, claims, look, in.Recorded)
			return nil
		}
	}
	if in.Revoked && p.now.Before(held.record.IssuedAt.Add(revokedHold)) {
		ahead, err := r.bundleAhead(ctx, a, p.now, claims)
		if err != nil {
			return err
		}
		if !ahead {
			// The status then names the key, for which the API's pods are touched.
			a.hold(held, claims, p.now.Add(revokedPoll), in.Recorded)
			return nil
		}
	}
	if reason == refresh.Due {
		observeLateness(p.now.Sub(in.RefreshAt))
	}
	r.publish(ctx, p, a, held, claims, reason)
	return nil
}

// obstacle says what keeps a token from being asked for at all.
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

// misplaced says that an access sets a parameter that the operator sets itself. The
// API server refuses most of them; which one names the API is the server's to say.
func (p *pass) misplaced(a *access) *rules.Problem {
	req := oauth.TokenRequest{Parameters: a.parameters}
	req.Resource, req.Audience = audience(p.server.Spec, a.resource)
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
	return in.Recorded != nil && in.StoredValueHash == in.Recorded.ValueHash && !in.Revoked && p.now.Before(in.Recorded.ExpiresAt)
}

// publish puts a token into the Secret that is about to be written.
func (r *M2MClientReconciler) publish(ctx context.Context, p *pass, a *access, h heldToken, claims *jwks.Claims, reason refresh.Reason) {
	wasShort := a.record != nil && a.plan.ShortLived
	h.record.Opaque = claims == nil
	if claims != nil {
		h.record.KeyID, h.record.Thumbprint, h.record.Algorithm = claims.KeyID, claims.KeyThumbprint, claims.Algorithm
		if claims.ScopePresent {
			h.record.Scopes = claims.Scopes
		}
	}
	h.record.Scopes = storable(h.record.Scopes)
	a.token, a.record, a.issued, a.failure, a.problem, a.refused = h.value, &h.record, reason, nil, nil, nil
	a.plan = p.plan(a)
	a.wakeAt = a.plan.RefreshAt

	log.FromContext(ctx).V(1).Info("Received access token", "client", klog.KObj(p.client), "access", a.key, "reason", reason, "expiresAt", h.record.ExpiresAt)
	if reason != refresh.Due {
		p.event(r, corev1.EventTypeNormal, v1alpha1.ReasonTokenIssued, "Issued a token for access %q (%s)", a.key, reason)
	}
	if a.plan.ShortLived && !wasShort {
		p.event(r, corev1.EventTypeWarning, v1alpha1.ReasonShortLivedToken,
			"The token of access %q lives for less than %s; mounted files may be late: ask for longer tokens at the server", a.key, 2*refresh.MinLead)
	}
}

// previous returns what the status says of a token so far.
func (p *pass) previous(key string) v1alpha1.TokenStatus { return tokenStatusOf(p.client, key) }
