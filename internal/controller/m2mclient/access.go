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

// Access is one entry of a client's spec.access, and what becomes of it.
type Access struct {
	allowed rules.Access // what was found, as the rules between tenants say it

	Key      string
	api      types.NamespacedName // empty for a plain resource
	Resource string               // the API's identifier
	scopes   []string             // sorted

	parameters map[string]string // more ones of the token request

	denied   *rules.Problem // it is not allowed
	withdraw bool           // its token has to go: somebody decided so
	reduced  *rules.Problem // it is allowed, and some of the scopes are not; scopes are those that are
	waiting  *rules.Problem // it is allowed, and its server does not grant it yet

	Server *rules.Server         // whose keys the API verifies with
	spec   *v1alpha1.APIResource // shared with the cache: read only
	Expect jwks.Expectation      // what the API is told to check; without a time
	terms  string                // its short name; empty for a plain resource

	Inputs refresh.Inputs
	token  string              // what is to be in the Secret; empty for nothing
	Record *tokensecret.Record // about that token
	plan   refresh.Plan

	usable   bool
	unusable *rules.Problem         // why pods cannot use the token
	refused  *rules.Problem         // why its API would refuse it by now
	tried    bool                   // another one was tried in its place, or cannot be
	judgedBy string                 // the terms for which that is known
	Problem  *rules.Problem         // why there is no fresh one
	failure  *v1alpha1.TokenFailure // how the attempts go wrong
	pending  v1alpha1.PendingToken  // a newer one that waits
	wakeAt   time.Time              // when to look again
	issued   refresh.Reason         // why it was replaced in this pass
}

// Resolve puts into a pass where a client's tokens come from, what each access is
// for and whether it is allowed.
func (r *Reconciler) Resolve(ctx context.Context, p *Pass) error {
	found, err := r.Access.Client(ctx, p.Client)
	if err != nil {
		return err
	}
	p.Server, p.serverProblem = found.Server, found.Problem
	for i := range found.Accesses {
		a := accessOf(found.Accesses[i], p.Client, i)
		a.parameters = record.Parameters(p.Client.Spec.Access[i])
		p.Accesses = append(p.Accesses, a)
	}
	return nil
}

// stillHas reports whether an access is still what it was found to be when
// the pass began: a request may take long, and a grant may go meanwhile. If not,
// the pass does no more, and the next one begins at once.
func (r *Reconciler) stillHas(ctx context.Context, p *Pass, a *Access) (bool, error) {
	ok, err := r.Access.StillAllowed(ctx, p.Client, p.Server, a.allowed)
	if !ok && err == nil {
		a.wakeAt, p.stale = p.Now, true
	}
	return ok, err
}

// accessOf returns the access of a client by its number, of which nothing is
// known but what it may have.
func accessOf(found rules.Access, c *v1alpha1.M2MClient, i int) *Access {
	a := &Access{
		allowed: found, Key: found.Key, api: found.API, Resource: found.Resource, scopes: found.Scopes,
		denied: found.Denied, withdraw: found.Denied.Decided(), reduced: found.Reduced,
		Server: found.Server, spec: found.Spec,
	}
	if a.Server == nil {
		return a
	}
	if a.spec == nil {
		a.Expect = jwks.Expectation{Issuer: a.Server.Spec.Issuer, Audience: a.Resource, Skew: verification.DefaultClockSkewSeconds * time.Second,
			Named: verification.Named(c.Spec.Access[i].Verification.Audience)}
	} else {
		a.Expect = verification.ExpectationOf(a.spec, a.Server)
		a.terms = verification.Terms(a.spec, a.Server)
	}
	a.expectScopes(&c.Spec.Access[i])
	a.ExpectName(c)
	return a
}
