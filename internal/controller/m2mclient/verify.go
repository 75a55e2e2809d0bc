// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

const (
	// genuineSkew is how far the clocks may differ when a token is checked again
	// after a restart: its times were checked when it was issued.
	genuineSkew = 5 * time.Minute

	// maxScopes and maxScopeLength are the bounds of status.tokens[].scopes.
	maxScopes      = 64
	maxScopeLength = 128
)

// genuine reports whether a token was issued as its record says. Who can write the
// Secret can write both, and must not have the operator present a token of
// their own making, or an expired one as good for years. What this process
// wrote it remembers. What it finds after a restart it checks with the keys of
// the issuer; a token that is no JWT has to be believed then.
func (r *Reconciler) genuine(p *pass, a *access, stored string) bool {
	name := client.ObjectKeyFromObject(p.Client)
	if written, ok := r.written.Get(name, a.key); ok {
		return written == a.Record.Digest() || r.isHeld(name, a, stored)
	}
	if a.server == nil || len(record.TrustedKeys(a.server)) == 0 {
		return true // it cannot be told now
	}
	// How else it must name its API may have changed since it was issued. That makes it no
	// forgery: refusedByNow judges it.
	expect := jwks.Expectation{Issuer: a.expect.Issuer, Audience: a.expect.Audience, Now: a.Record.IssuedAt, Skew: genuineSkew}
	claims, err := jwks.Verify(stored, record.TrustedKeys(a.server), expect)
	var bad *jwks.VerifyError
	switch {
	case errors.As(err, &bad) && (bad.Reason != jwks.ReasonOpaque || !a.Record.Opaque):
		return false
	case bad == nil && (a.Record.Opaque || a.Record.ExpiresAt.After(claims.ExpiresAt) || !a.Record.SignedAs(claims)):
		return false
	}
	r.written.Put(name, a.key, a.Record.Digest())
	return true
}

// isHeld reports whether a token in the Secret is the one that was issued last: it was written, and
// the API server's answer was lost.
func (r *Reconciler) isHeld(name types.NamespacedName, a *access, stored string) bool {
	h, ok := r.held.Get(name, a.key)
	if !ok || h.Value != stored || h.Record.Digest() != a.Record.Digest() {
		return false
	}
	r.written.Put(name, a.key, a.Record.Digest())
	return true
}

// hopeless reports that a held token has waited long enough for its key: by now the server
// may sign with another one.
func (a *access) hopeless(p *pass, h tokensecret.Token) bool {
	if a.failure == nil || a.failure.Reason != jwks.ReasonUnknownKey || a.failedLately(p, h.Record.Inputs) {
		return false
	}
	_, bad := verify(h, p, a)
	return bad != nil && bad.Reason == jwks.ReasonUnknownKey
}

// verify checks a token as the API will. A token that is no JWT, or whose server
// says that none of its tokens is one, cannot be checked, save for the scopes that
// the server said it has.
func verify(h tokensecret.Token, p *pass, a *access) (*jwks.Claims, *jwks.VerifyError) {
	if !p.Now.Before(h.Record.ExpiresAt) {
		return nil, &jwks.VerifyError{Reason: jwks.ReasonExpired, Message: "the token had expired when it was issued; compare the clocks of the server and the cluster"}
	}
	expect := a.expect
	expect.Now, expect.LeftOut = p.Now, record.KeysNotUsed(a.server)
	if !a.server.Opaque() {
		claims, err := jwks.Verify(h.Value, p.keys(a), expect)
		var bad *jwks.VerifyError
		if !errors.As(err, &bad) {
			return claims, nil
		}
		if bad.Reason != jwks.ReasonOpaque {
			return nil, a.hinted(bad)
		}
	}
	missing := slices.DeleteFunc(slices.Clone(expect.Scopes), func(s string) bool { return slices.Contains(h.Record.Scopes, s) })
	if len(missing) > 0 {
		return nil, &jwks.VerifyError{Reason: jwks.ReasonMissingScopes, Message: fmt.Sprintf(
			"the server did not grant the scopes %s; its answer says scope %.256q; %s",
			strings.Join(missing, ", "), strings.Join(h.Record.Scopes, " "), scopesHint)}
	}
	return nil, nil
}

// keys returns the keys that a token is verified with: what either server has
// revoked would be minted anew over and over.
func (p *pass) keys(a *access) []jwks.Key {
	return slices.DeleteFunc(record.TrustedKeys(a.server), func(k jwks.Key) bool { return p.server.Revoked(k.ID) })
}

// keyNamedBy returns the ID of the key that a token says it is signed with.
func keyNamedBy(token string) string {
	claims, err := jwks.Inspect(token)
	if err != nil {
		return ""
	}
	return claims.KeyID
}

// expectName does without aud if something else names the API. The tokens of a client that
// the operator registers must have aud as well. Otherwise an API's owner, who says what
// scopes there are, could have a client of his own registered for another owner's API, and
// its tokens published.
func (a *access) expectName(c *v1alpha1.M2MClient) {
	if len(a.expect.Named.Claims) > 0 && !rules.Registered(c) {
		a.expect.Audience = ""
	}
}

// expectScopes puts into what is expected of a token where its scopes must be.
func (a *access) expectScopes(spec *v1alpha1.Access) {
	for _, s := range a.scopes {
		in, claim := spec.Verification.CarriedIn, spec.Verification.Claim
		if a.spec != nil {
			i := slices.IndexFunc(a.spec.Spec.Scopes, func(known v1alpha1.Scope) bool { return string(known.Name) == s })
			if i >= 0 {
				in, claim = a.spec.Spec.Scopes[i].CarriedIn, a.spec.Spec.Scopes[i].Claim
			}
		}
		switch claims := verification.Carriers(s, in, claim); {
		case len(claims) == 0:
		case in == v1alpha1.CarriedInOtherClaim:
			if a.expect.Values == nil {
				a.expect.Values = map[string][]string{}
			}
			a.expect.Values[claims[0]] = append(a.expect.Values[claims[0]], s)
		default:
			a.expect.Scopes = append(a.expect.Scopes, s)
		}
	}
}

// hinted adds to why a token is refused what to change where scopes are missing.
func (a *access) hinted(bad *jwks.VerifyError) *jwks.VerifyError {
	if bad.Reason == jwks.ReasonMissingScopes {
		bad.Message += "; " + scopesHint
		if bad.NoClaim {
			bad.Message += elsewhereHint[a.spec != nil]
		}
	}
	return bad
}

// scopesHint says what to change where scopes are missing, and elsewhereHint what
// else it may be if the token has no claim for them, by whether there is an
// APIResource.
const scopesHint = "grant them to the client at the server"

var elsewhereHint = map[bool]string{
	true:  ", or set carriedIn in the APIResource's spec.scopes to where its tokens carry them",
	false: ", or set verification.carriedIn of the access to where its tokens carry them",
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

// supersededSince reports whether the key that signed a token was replaced under its ID
// after the token was issued. One that is issued later replaces nothing: a server may
// go on signing with a key that it does not publish.
func supersededSince(s *rules.Server, t *tokensecret.Record) bool {
	replaced := func(k v1alpha1.SigningKey) bool {
		return t.KeyID != "" && k.KeyID == t.KeyID && k.RetiredAt != nil && t.IssuedAt.Before(k.RetiredAt.Time)
	}
	if !slices.ContainsFunc(s.Status.Keys, replaced) {
		return false
	}
	records := record.KeyRecords(s.Status.Keys)
	return slices.ContainsFunc(jwks.Superseded(records), func(k jwks.Record) bool {
		return k.ID == t.KeyID && t.IssuedAt.Before(k.RetiredAt) && k.OnlyVerifies(records, t.Thumbprint, t.Algorithm)
	})
}
