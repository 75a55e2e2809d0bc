// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"errors"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// RejudgedRate bounds how often a token is requested because the API would refuse the one
// in use. The API's owner can change what the API is given as often as he likes, and the
// requests are made in the name of other tenants.
var RejudgedRate = pace.Rate{Every: 5 * time.Minute, Burst: 8}

// judgement is whether the API would accept the token in use, and what that was judged by.
type judgement struct {
	basis   cached.Digest  // of the token and of all that it was judged by
	refused *rules.Problem // nil: its API accepts it
}

// refusedByNow returns why the API would refuse the token that lies in the Secret,
// nil if it would not, or if that cannot be told. The token was verified when it was
// published; since then its keys may have gone, or the API's owner changed the terms.
// It is looked at again only when something of that differs.
func (r *Reconciler) refusedByNow(p *pass, a *access, in refresh.Input) *rules.Problem {
	switch {
	case a.token == "" || a.Record.Opaque || in.Revoked || !p.Now.Before(a.Record.ExpiresAt):
		return nil
	case a.server == nil || p.server == nil || a.server.Opaque():
		return nil
	}
	keys := p.keys(a)
	if len(keys) == 0 {
		return nil // the server is new, or was made anew: that passes
	}
	expect := a.expect
	// Its times were checked when it was issued, and the judgement must not depend on
	// when it is made.
	expect.Now, expect.Skew, expect.LeftOut = a.Record.IssuedAt, genuineSkew, record.KeysNotUsed(a.server)
	if p.credentials == nil || a.Record.Inputs != in.WantInputsHash {
		expect.Scopes, expect.Values = nil, nil // it was issued for others
	}

	name := client.ObjectKeyFromObject(p.Client)
	now := judgement{basis: judgementBasis(a.Record.Value, keys, expect)}
	if last, ok := r.judgements.Get(name, a.key); ok && last.basis == now.basis {
		return last.refused
	}
	_, err := jwks.Verify(a.token, keys, expect)
	if bad := (*jwks.VerifyError)(nil); errors.As(err, &bad) {
		now.refused = &rules.Problem{Reason: bad.Reason, Message: a.hinted(bad).Message}
	}
	r.judgements.Put(name, a.key, now)
	return now.refused
}

func judgementBasis(token string, keys []jwks.Key, expect jwks.Expectation) cached.Digest {
	parts := make([]string, 0, 2+3*len(keys)+len(expect.Scopes))
	parts = append(parts, token, verification.ExpectationTerms(expect))
	for _, k := range keys {
		parts = append(parts, k.ID, k.Algorithm, k.JWK)
	}
	return cached.DigestOf([]byte(strings.Join(parts, "\n")))
}

// noteTerms decides which terms the status names: the present ones, once the token in
// use meets them and pods see it, or once it is known that a new one does not meet
// them either. Until then the API's bundles keep the former ones.
func (r *Reconciler) noteTerms(p *pass, a *access) {
	if a.token == "" || a.Record.Opaque {
		return
	}
	told := p.previous(a.key)
	before := told.Terms
	a.judgedBy = a.terms
	if a.server == nil {
		a.judgedBy = before // not known for the moment
	}
	switch {
	case before == a.judgedBy, before == "" && a.issued != "":
	case before == "" && a.refused == nil && told.IssuedAt == nil: // the status of the pass that issued it was lost
	case before == "" && a.refused == nil && changing(p.Client): // it was issued for a plain resource
	case before == "": // a token of a version that did not write this down: nothing waits for it
		a.judgedBy = ""
	case a.refused != nil:
		if !a.tried {
			a.judgedBy = before
		}
	default:
		if seen := r.seenBySelf(p, a); p.Now.Before(seen) {
			a.judgedBy = before
			a.wakeAt = delivery.Sooner(a.wakeAt, seen)
		}
	}
}

// seenBySelf returns when the client's own pods see the token that is, or is about to
// be, in its Secret.
func (r *Reconciler) seenBySelf(p *pass, a *access) time.Time {
	switch {
	case a.issued != "" && r.Prompt:
		return p.Now.Add(delivery.TouchDelay)
	case !r.Prompt:
		return a.Record.IssuedAt.Add(delivery.KubeletDelay)
	case p.secret.Current == nil:
		return time.Time{}
	}
	return watch.MomentIn(p.secret.Current, v1alpha1.PromptSinceAnnotation).Add(delivery.TouchDelay)
}
