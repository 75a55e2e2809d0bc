// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

const (
	// holdMax is how long a token that is signed by a new key waits, while its
	// predecessor works, for the verification bundles to have that key.
	holdMax = 30 * time.Second

	// holdPoll is how often a held token is looked at again.
	holdPoll = time.Second

	// keyPatience is how long a key may be unknown before that is called a
	// problem while the predecessor works.
	keyPatience = 15 * time.Second

	// genuineSkew is how far the clocks may differ when a token is checked again
	// after a restart: its times were checked when it was issued.
	genuineSkew = 5 * time.Minute

	// briefWait is the longest wait for the budget that no status mentions.
	briefWait = 5 * time.Second

	// maxScopes and maxScopeLength are the bounds of status.tokens[].scopes.
	maxScopes      = 64
	maxScopeLength = 128
)

// heldToken is a token that was issued and is not in the Secret yet: its key is
// not known or not distributed, or the Secret could not be written. It is lost
// with the process, which then asks for another.
type heldToken struct {
	inputs string
	value  string
	record tokenRecord
	since  time.Time
}

// perAccess keeps something for each access, by client and key, as long as the
// process lives.
type perAccess[T any] struct {
	mu sync.Mutex
	m  map[types.NamespacedName]map[string]T
}

func newPerAccess[T any]() *perAccess[T] {
	return &perAccess[T]{m: map[types.NamespacedName]map[string]T{}}
}

func (h *perAccess[T]) get(name types.NamespacedName, key string) (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.m[name][key]
	return t, ok
}

func (h *perAccess[T]) put(name types.NamespacedName, key string, t T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m[name] == nil {
		h.m[name] = map[string]T{}
	}
	h.m[name][key] = t
}

func (h *perAccess[T]) drop(name types.NamespacedName, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.m[name], key)
	if len(h.m[name]) == 0 {
		delete(h.m, name)
	}
}

func (h *perAccess[T]) forgetClient(name types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.m, name)
}

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
			p.event(r, corev1.EventTypeWarning, v1alpha1.ReasonTokenWithdrawn, "Withdrew the token of access %q: %s", a.key, a.denied.message)
		}
		return nil
	}
	in := r.present(p, a)
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
		in.Revoked = a.server.revoked(a.record.KeyID) || p.server.revoked(a.record.KeyID)
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
	return in
}

// genuine says whether a token was issued as its record says. Who can write the
// Secret can write both, and must not have the operator present a token of
// their own making, or an expired one as good for years. What this process
// wrote it remembers. What it finds after a restart it checks with the keys of
// the issuer; a token that is no JWT has to be believed then.
func (r *M2MClientReconciler) genuine(p *pass, a *access, stored string) bool {
	name := client.ObjectKeyFromObject(p.client)
	if written, ok := r.written.get(name, a.key); ok {
		return written.equal(a.record)
	}
	if a.server == nil || len(a.server.keys()) == 0 {
		return true // it cannot be told now
	}
	expect := jwks.Expectation{Issuer: a.expect.Issuer, Audience: a.expect.Audience, Now: a.record.IssuedAt, Skew: genuineSkew}
	claims, err := jwks.Verify(stored, a.server.keys(), expect)
	var bad *jwks.VerifyError
	switch {
	case errors.As(err, &bad) && (bad.Reason != jwks.ReasonOpaque || !a.record.Opaque):
		return false
	case bad == nil && (a.record.Opaque || a.record.ExpiresAt.After(claims.ExpiresAt) || a.record.KeyID != claims.KeyID):
		return false
	}
	r.written.put(name, a.key, *a.record)
	return true
}

func (p *pass) inputs(a *access) refresh.Inputs {
	in := refresh.Inputs{
		Issuer: p.server.spec.Issuer, ClientID: p.credentials.ClientID, Credential: p.credentials.Revision, Scopes: a.scopes,
	}
	switch p.server.spec.AudienceParameter {
	case v1alpha1.AudienceParameterAudience:
		in.Audience = a.resource
	case v1alpha1.AudienceParameterNone:
	default:
		in.Resource = a.resource
	}
	return in
}

func (p *pass) plan(a *access) refresh.Plan {
	spec := p.client.Spec.Refresh
	policy := refresh.Policy{AtPercent: int(spec.AtPercent), Before: spec.Before.Or(0)}
	return policy.Plan(a.record.IssuedAt, a.record.ExpiresAt, string(p.client.UID)+"/"+a.key)
}

// judge says whether pods can use the token that will be in the Secret. A
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
	a.unusable = &problem{reason: v1alpha1.ReasonTokenMissing, message: message}
	switch reason {
	case refresh.Expired:
		a.unusable.reason = v1alpha1.ReasonTokenExpired
	case refresh.Missing, refresh.Edited:
	default:
		a.unusable.reason = string(reason)
	}
}

// replace gets a fresh token for an access: one that is held, or a new one. It
// goes into a, to be published, only if the API would accept it.
func (r *M2MClientReconciler) replace(ctx context.Context, p *pass, a *access, in refresh.Input, reason refresh.Reason) error {
	if a.problem = p.obstacle(a); a.problem != nil {
		return nil
	}
	name := client.ObjectKeyFromObject(p.client)
	held, ok := r.held.get(name, a.key)
	if !ok || held.inputs != in.WantInputsHash || !p.now.Before(held.record.ExpiresAt) || a.hopeless(p, held) {
		if a.failedLately(p, in.WantInputsHash) {
			a.fail(a.failure)
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
		r.servers.refetchKeys(a.server)
		again := a.failure != nil && a.failure.Reason == bad.Reason
		if p.working(in) && !again && p.now.Before(held.since.Add(keyPatience)) {
			a.wakeAt = p.now.Add(holdPoll)
			return nil
		}
		if a.failedLately(p, in.WantInputsHash) {
			a.fail(a.failure)
			return nil
		}
		wait := refresh.SlowBackoff.Next(a.attempts(in.WantInputsHash), 0, a.seed(p))
		r.failed(p, a, in.WantInputsHash, bad.Reason, bad.Message, wait)
		return nil
	case bad != nil:
		if bad.Reason == jwks.ReasonBadSignature || bad.Reason == jwks.ReasonAlgorithm {
			r.servers.refetchKeys(a.server) // a new key may have come under an old ID
		}
		r.held.drop(name, a.key)
		wait := refresh.SlowBackoff.Next(a.attempts(in.WantInputsHash), 0, a.seed(p))
		r.failed(p, a, in.WantInputsHash, bad.Reason, bad.Message, wait)
		return nil
	}
	if p.working(in) && p.now.Before(held.since.Add(min(holdMax, in.Recorded.ExpiresAt.Sub(held.since)/2))) {
		everywhere, err := r.distributed(ctx, a, claims)
		if err != nil {
			return err
		}
		if !everywhere {
			a.wakeAt = p.now.Add(holdPoll)
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
func (p *pass) obstacle(a *access) *problem {
	switch {
	case p.secretProblem != nil:
		return p.secretProblem
	case p.serverProblem != nil:
		return p.serverProblem
	case a.denied != nil:
		return a.denied
	case p.credProblem != nil:
		return p.credProblem
	case p.server.status.Endpoints.Token == "":
		return &problem{reason: v1alpha1.ReasonAuthorizationServerNotReady, message: fmt.Sprintf(
			"The token endpoint of %s %q is not known; see its conditions", p.server.key.kind, p.server.key.name)}
	}
	return nil
}

// working says whether the token in the Secret can be used for now.
func (p *pass) working(in refresh.Input) bool {
	return in.Recorded != nil && in.StoredValueHash == in.Recorded.ValueHash && !in.Revoked && p.now.Before(in.Recorded.ExpiresAt)
}

// mint requests one token. It returns nil where that was not possible; a says
// why.
func (r *M2MClientReconciler) mint(ctx context.Context, p *pass, a *access, inputs string) (*heldToken, error) {
	if r.confirmSecrets {
		if current, err := r.secretIsCurrent(ctx, p); err != nil || !current {
			a.wakeAt, p.stale = p.now.Add(time.Second), true
			return nil, err
		}
	}
	wait, busy := r.servers.admit(p.server, p.client.UID)
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
	var failure *oauth.Error
	if err != nil && !errors.As(err, &failure) {
		failure = &oauth.Error{Class: oauth.ClassRetryable, Detail: "the request failed"}
	}
	observeRequest(p.server.key, failure)
	return token, failure
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
	h := &heldToken{inputs: inputs, value: token.Value, since: p.now, record: tokenRecord{
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
	}
	message := fmt.Sprintf("%s %q %s: %s", p.server.key.kind, p.server.key.name, what, e.Error())
	if hint := refusalHint(p, a, e); hint != "" {
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

// hopeless says of a held token that its key was waited for long enough: by now
// the server may sign with another one.
func (a *access) hopeless(p *pass, h heldToken) bool {
	if a.failure == nil || a.failure.Reason != jwks.ReasonUnknownKey || a.failedLately(p, h.inputs) {
		return false
	}
	_, bad := verify(h, p, a)
	return bad != nil && bad.Reason == jwks.ReasonUnknownKey
}

// verify checks a token as the API will. A token that is no JWT cannot be
// checked, save for the scopes that the server said it has.
func verify(h heldToken, p *pass, a *access) (*jwks.Claims, *jwks.VerifyError) {
	if !p.now.Before(h.record.ExpiresAt) {
		return nil, &jwks.VerifyError{Reason: jwks.ReasonExpired, Message: "the token had expired when it was issued; compare the clocks"}
	}
	expect := a.expect
	expect.Now, expect.Scopes = p.now, checkable(a.scopes)
	// What either server has revoked would be minted anew over and over.
	keys := slices.DeleteFunc(a.server.keys(), func(k jwks.Key) bool { return p.server.revoked(k.ID) })
	claims, err := jwks.Verify(h.value, keys, expect)
	var bad *jwks.VerifyError
	if !errors.As(err, &bad) {
		return claims, nil
	}
	if bad.Reason != jwks.ReasonOpaque {
		return nil, bad
	}
	missing := slices.DeleteFunc(slices.Clone(expect.Scopes), func(s string) bool { return slices.Contains(h.record.Scopes, s) })
	if len(missing) > 0 {
		return nil, &jwks.VerifyError{Reason: jwks.ReasonMissingScopes, Message: "the server did not grant the scopes " + strings.Join(missing, ", ")}
	}
	return nil, nil
}

// checkable leaves out what is asked for as a scope and never is one: Entra's
// "<API>/.default" stands for whatever the application was granted.
func checkable(scopes []string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return strings.HasSuffix(s, "/.default") })
}

// distributed says whether every verification bundle of the API has the key
// that verified a token.
func (r *M2MClientReconciler) distributed(ctx context.Context, a *access, claims *jwks.Claims) (bool, error) {
	if a.api.Name == "" || claims == nil || claims.KeyID == "" {
		return true, nil
	}
	bundles, err := bundlesOf(ctx, r.client, a.api)
	if err != nil {
		return false, err
	}
	for i := range bundles {
		ids := strings.Split(bundles[i].Annotations[v1alpha1.KeyIDsAnnotation], ",")
		if !slices.Contains(ids, claims.KeyID) {
			return false, nil
		}
	}
	return true, nil
}

// publish puts a token into the Secret that is about to be written.
func (r *M2MClientReconciler) publish(ctx context.Context, p *pass, a *access, h heldToken, claims *jwks.Claims, reason refresh.Reason) {
	wasShort := a.record != nil && a.plan.ShortLived
	h.record.Opaque = claims == nil
	if claims != nil {
		h.record.KeyID = claims.KeyID
		if claims.ScopePresent {
			h.record.Scopes = claims.Scopes
		}
	}
	h.record.Scopes = storable(h.record.Scopes)
	a.token, a.record, a.issued, a.failure, a.problem = h.value, &h.record, reason, nil, nil
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

// storable returns what of a server's scopes fits into a status: not more than
// maxScopes, and none that the schema would refuse together with all the rest.
func storable(scopes []string) []string {
	kept := slices.DeleteFunc(slices.Clone(scopes), func(s string) bool {
		return s == "" || len(s) > maxScopeLength || strings.ContainsFunc(s, func(c rune) bool {
			return c <= ' ' || c > '~' || c == '"' || c == '\\'
		})
	})
	return kept[:min(len(kept), maxScopes)]
}

// previous returns what the status says of a token so far.
func (p *pass) previous(key string) v1alpha1.TokenStatus {
	for _, t := range p.client.Status.Tokens {
		if string(t.Key) == key {
			return t
		}
	}
	return v1alpha1.TokenStatus{}
}

const defaultTokenLifetime = 5 * time.Minute

func truncate(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return cmp.Or(s, "unknown")
}
