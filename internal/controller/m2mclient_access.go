// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// access is one entry of a client's spec.access, and what becomes of it.
type access struct {
	allowed rules.Access // what was found, as the rules between tenants say it

	key      string
	api      types.NamespacedName // empty for a plain resource
	resource string               // the API's identifier
	scopes   []string             // sorted

	parameters map[string]string // more ones of the token request

	denied   *rules.Problem // it is not allowed
	withdraw bool           // its token has to go: somebody decided so
	reduced  *rules.Problem // it is allowed, and some of the scopes are not; scopes are those that are
	waiting  *rules.Problem // it is allowed, and its server does not grant it yet

	server *rules.Server         // whose keys the API verifies with
	spec   *v1alpha1.APIResource // shared with the cache: read only
	expect jwks.Expectation      // what the API is told to check; without a time
	terms  string                // its short name; empty for a plain resource

	inputs refresh.Inputs
	token  string       // what is to be in the Secret; empty for nothing
	record *tokenRecord // about that token
	plan   refresh.Plan

	usable   bool
	unusable *rules.Problem         // why pods cannot use the token
	refused  *rules.Problem         // why its API would refuse it by now
	tried    bool                   // another one was tried in its place, or cannot be
	judgedBy string                 // the terms for which that is known
	problem  *rules.Problem         // why there is no fresh one
	failure  *v1alpha1.TokenFailure // how the attempts go wrong
	pending  v1alpha1.PendingToken  // a newer one that waits
	wakeAt   time.Time              // when to look again
	issued   refresh.Reason         // why it was replaced in this pass
}

// resolve puts into a pass where a client's tokens come from, what each access is
// for and whether it is allowed.
func (r *M2MClientReconciler) resolve(ctx context.Context, p *pass) error {
	found, err := r.access.Client(ctx, p.client)
	if err != nil {
		return err
	}
	p.server, p.serverProblem = found.Server, found.Problem
	for i := range found.Accesses {
		a := accessOf(found.Accesses[i], p.client, i)
		a.parameters = parametersOf(p.client.Spec.Access[i])
		p.accesses = append(p.accesses, a)
	}
	return nil
}

// stillHas reports whether an access is still what it was found to be when
// the pass began: a request may take long, and a grant may go meanwhile. If not,
// the pass does no more, and the next one begins at once.
func (r *M2MClientReconciler) stillHas(ctx context.Context, p *pass, a *access) (bool, error) {
	ok, err := r.access.StillAllowed(ctx, p.client, p.server, a.allowed)
	if !ok && err == nil {
		a.wakeAt, p.stale = p.now, true
	}
	return ok, err
}

// accessOf returns the access of a client by its number, of which nothing is
// known but what it may have.
func accessOf(found rules.Access, c *v1alpha1.M2MClient, i int) *access {
	a := &access{
		allowed: found, key: found.Key, api: found.API, resource: found.Resource, scopes: found.Scopes,
		denied: found.Denied, withdraw: found.Denied.Decided(), reduced: found.Reduced,
		server: found.Server, spec: found.Spec,
	}
	if a.server == nil {
		return a
	}
	if a.spec == nil {
		a.expect = jwks.Expectation{Issuer: a.server.Spec.Issuer, Audience: a.resource, Skew: defaultClockSkewSeconds * time.Second,
			Named: named(c.Spec.Access[i].Verification.Audience)}
	} else {
		a.expect = expectationOf(a.spec, a.server)
		a.terms = termsOfAPI(a.spec, a.server)
	}
	a.expectScopes(&c.Spec.Access[i])
	a.expectName(c)
	return a
}

// parametersOf returns the parameters that an access adds to a token request.
func parametersOf(a v1alpha1.Access) map[string]string {
	parameters := map[string]string{}
	for _, p := range a.Parameters {
		parameters[string(p.Name)] = p.Value
	}
	return parameters
}

// expectationOf returns what an API is told to check of tokens, without a time and
// without scopes.
func expectationOf(api *v1alpha1.APIResource, srv *rules.Server) jwks.Expectation {
	v := api.Spec.Verification
	e := jwks.Expectation{
		Issuer: srv.Spec.Issuer, Audience: string(api.Spec.Identifier), Named: named(v.Audience), Type: v.TokenType,
		Skew: time.Duration(clockSkewSeconds(v)) * time.Second,
	}
	for _, alg := range v.Algorithms {
		e.Algorithms = append(e.Algorithms, string(alg))
	}
	return e
}

// termsOfAPI is a short name for what an API is told to check of tokens: an
// expectation, and where scopes are if not where they usually are.
func termsOfAPI(api *v1alpha1.APIResource, srv *rules.Server) string {
	terms := termsOf(expectationOf(api, srv))
	for _, s := range api.Spec.Scopes {
		if s.CarriedIn != "" {
			terms += "\n" + string(s.Name) + " " + string(s.CarriedIn) + " " + string(s.Claim)
		}
	}
	return refresh.HashValue(terms)
}

// termsOf is a short name for an expectation.
func termsOf(e jwks.Expectation) string {
	encoded, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings, numbers and times only
	}
	return refresh.HashValue(string(encoded))
}
