// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// access is one entry of a client's spec.access, and what becomes of it. Each part is
// written by one step of the pass.
type access struct {
	subject
	permission
	present
	outcome
}

// subject is what an access is for: found as the pass begins, and never changed.
type subject struct {
	allowed rules.Access // what was found, as the rules between tenants say it

	key        string
	api        types.NamespacedName // empty for a plain resource
	resource   string               // the API's identifier
	scopes     []string             // sorted
	parameters map[string]string    // more ones of the token request

	server *rules.Server         // whose keys the API verifies with
	spec   *v1alpha1.APIResource // shared with the cache: read only
	expect jwks.Expectation      // what the API is told to check; without a time
	terms  string                // its short name; empty for a plain resource
}

// permission is whether the client may have a token for an access: by the rules between
// tenants, and at the server that it is registered at.
type permission struct {
	denied   *rules.Problem // it is not allowed
	withdraw bool           // its token has to go: somebody decided so
	reduced  *rules.Problem // it is allowed, and some of the scopes are not; scopes are those that are
	waiting  *rules.Problem // it is allowed, and its server does not grant it yet
}

// present is the token that is to be in the Secret: the one that lies there, or the one
// that replaces it.
type present struct {
	inputs refresh.Inputs      // what a token has to be minted from
	token  string              // empty for none
	Record *tokensecret.Record // about that token
	plan   refresh.Plan        // when it is replaced
	issued refresh.Reason      // why it was replaced in this pass; empty: it was not
	broken *rules.Problem      // why pods cannot use it, nil if they can
	// refused is why its API would refuse it by now, judgedBy the terms for which that is
	// known.
	refused  *rules.Problem
	judgedBy string
}

// outcome is how the attempt to replace the token went, if there was one.
type outcome struct {
	problem *rules.Problem         // why there is no fresh one
	failure *v1alpha1.TokenFailure // how the attempts go wrong
	tried   bool                   // another one was tried in its place, or cannot be
	pending v1alpha1.PendingToken  // a newer one that waits
	wakeAt  time.Time              // when to look again
}

// Resolve puts into a pass where a client's tokens come from, what each access is
// for and whether it is allowed.
func (r *Reconciler) resolve(ctx context.Context, p *pass) error {
	found, err := r.Access.Client(ctx, p.Client)
	if err != nil {
		return err
	}
	p.server, p.serverProblem = found.Server, found.Problem
	for i := range found.Accesses {
		p.Accesses = append(p.Accesses, accessOf(found.Accesses[i], p.Client, i))
	}
	return nil
}

// stillHas reports whether an access is still what it was found to be when
// the pass began: a request may take long, and a grant may go meanwhile. If not,
// the pass does no more, and the next one begins at once.
func (r *Reconciler) stillHas(ctx context.Context, p *pass, a *access) (bool, error) {
	ok, err := r.Access.StillAllowed(ctx, p.Client, p.server, a.allowed)
	if !ok && err == nil {
		a.wakeAt, p.stale = p.Now, true
	}
	return ok, err
}

// accessOf returns the access of a client by its number, of which nothing is
// known but what it may have.
func accessOf(found rules.Access, c *v1alpha1.M2MClient, i int) *access {
	a := &access{
		subject: subject{
			allowed: found, key: found.Key, api: found.API, resource: found.Resource, scopes: found.Scopes,
			parameters: record.Parameters(c.Spec.Access[i]), server: found.Server, spec: found.Spec,
		},
		permission: permission{denied: found.Denied, withdraw: found.Denied.Decided(), reduced: found.Reduced},
	}
	if a.server == nil {
		return a
	}
	if a.spec == nil {
		a.expect = jwks.Expectation{Issuer: a.server.Spec.Issuer, Audience: a.resource, Skew: verification.DefaultClockSkewSeconds * time.Second,
			Named: verification.Named(c.Spec.Access[i].Verification.Audience)}
	} else {
		a.expect = verification.ExpectationOf(a.spec, a.server)
		a.terms = verification.Terms(a.spec, a.server)
	}
	a.expectScopes(&c.Spec.Access[i])
	a.expectName(c)
	return a
}
