// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// access is one entry of a client's spec.access, and what becomes of it.
type access struct {
	key      string
	api      types.NamespacedName // empty for a plain resource
	resource string               // the API's identifier
	scopes   []string             // sorted

	denied   *problem // it is not allowed
	withdraw bool     // its token has to go: somebody decided so
	reduced  *problem // it is allowed, and some of the scopes are not; scopes are those that are
	waiting  *problem // it is allowed, and its server does not grant it yet

	server *server               // whose keys the API verifies with
	spec   *v1alpha1.APIResource // the cache's, not to be changed
	expect jwks.Expectation      // what the API is told to check; without a time

	inputs refresh.Inputs
	token  string       // what is to be in the Secret; empty for nothing
	record *tokenRecord // about that token
	plan   refresh.Plan

	usable   bool
	unusable *problem               // why pods cannot use the token
	problem  *problem               // why there is no fresh one
	failure  *v1alpha1.TokenFailure // how the attempts go wrong
	pending  v1alpha1.PendingToken  // a newer one that waits
	wakeAt   time.Time              // when to look again
	issued   refresh.Reason         // why it was replaced in this pass
}

// accessKey returns the key of an access in the Secret.
func accessKey(a *v1alpha1.Access) string {
	return cmp.Or(string(a.Key), string(a.APIResourceRef.Name))
}

func apiResourceOf(c *v1alpha1.M2MClient, a *v1alpha1.Access) types.NamespacedName {
	return types.NamespacedName{
		Namespace: cmp.Or(string(a.APIResourceRef.Namespace), c.Namespace),
		Name:      string(a.APIResourceRef.Name),
	}
}

// accessResolver finds out what clients may have and where. M2MClientReconciler
// asks for tokens by it, M2MClientProvisioner grants by it.
type accessResolver struct {
	client  client.Reader
	servers *servers
}

// resolveServer finds the server that a client's tokens come from: the one it
// names, or that of its APIs if the operator registers it.
func (r accessResolver) resolveServer(ctx context.Context, p *pass) (err error) {
	ref := p.client.Spec.AuthorizationServerRef
	if !isProvisioned(p.client) {
		p.server, p.serverProblem, err = r.servers.resolve(ctx, ref, p.client.Namespace)
		return err
	}
	for i := range p.client.Spec.Access {
		name := apiResourceOf(p.client, &p.client.Spec.Access[i])
		if !r.servers.watches(name.Namespace) {
			continue
		}
		var api v1alpha1.APIResource
		err := r.client.Get(ctx, name, &api, client.UnsafeDisableDeepCopy)
		if apierrors.IsNotFound(err) || err == nil && !api.DeletionTimestamp.IsZero() {
			continue
		}
		if err != nil {
			return fmt.Errorf("get APIResource %q: %w", name, err)
		}
		p.server, p.serverProblem, err = r.servers.resolve(ctx, api.Spec.AuthorizationServerRef, api.Namespace)
		if err != nil || p.server == nil {
			return err
		}
		if p.server.key.kind == v1alpha1.KindClusterAuthorizationServer {
			// The client would be registered there: its own namespace must be allowed too.
			p.server, p.serverProblem, err = r.servers.resolve(ctx, api.Spec.AuthorizationServerRef, p.client.Namespace)
		}
		if named := keyOf(ref, p.client.Namespace); p.server != nil && ref.Name != "" && named != p.server.key {
			p.serverProblem = &problem{reason: v1alpha1.ReasonServerMismatch, message: fmt.Sprintf(
				"APIResource %q belongs to %s, not to the client's authorizationServerRef; leave that out", name, p.server.key.title())}
			p.server = nil
		}
		return err
	}
	p.serverProblem = &problem{reason: v1alpha1.ReasonAPIResourceNotFound, message: "None of the client's APIResources exists, and so its authorization server is not known"}
	return nil
}

// resolveAccess finds what each access is for and whether it is allowed.
func (r accessResolver) resolveAccess(ctx context.Context, p *pass) error {
	for i := range p.client.Spec.Access {
		spec := &p.client.Spec.Access[i]
		a := &access{key: accessKey(spec), resource: string(spec.Resource)}
		for _, s := range spec.Scopes {
			a.scopes = append(a.scopes, string(s))
		}
		slices.Sort(a.scopes)
		p.accesses = append(p.accesses, a)
		if spec.APIResourceRef.Name == "" {
			if p.server != nil {
				a.server = p.server
				a.expect = jwks.Expectation{Issuer: p.server.spec.Issuer, Audience: a.resource, Skew: defaultClockSkewSeconds * time.Second}
			}
			continue
		}
		a.api = apiResourceOf(p.client, spec)
		if err := r.resolveAPIResource(ctx, p, a); err != nil {
			return err
		}
	}
	return nil
}

func (r accessResolver) resolveAPIResource(ctx context.Context, p *pass, a *access) error {
	deny := func(reason, format string, args ...any) error {
		a.denied = &problem{reason: reason, message: fmt.Sprintf(format, args...)}
		return nil
	}
	if !r.servers.watches(a.api.Namespace) {
		return deny(v1alpha1.ReasonAPIResourceNotFound,
			"APIResource %q is in a namespace that the operator does not watch (--watch-namespaces)", a.api)
	}
	var api v1alpha1.APIResource
	err := r.client.Get(ctx, a.api, &api, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) || err == nil && !api.DeletionTimestamp.IsZero() {
		a.withdraw = true
		return deny(v1alpha1.ReasonAPIResourceNotFound, "APIResource %q does not exist", a.api)
	}
	if err != nil {
		return fmt.Errorf("get APIResource %q: %w", a.api, err)
	}
	a.resource = string(api.Spec.Identifier)

	// Without an issuer to compare nothing can be said, and nothing is taken
	// away.
	if p.server == nil {
		return nil
	}
	srv, refused, err := r.servers.accept(ctx, &api)
	switch {
	case err != nil:
		return err
	case srv == nil:
		a.withdraw = refused.reason == v1alpha1.ReasonAuthorizationServerNotAllowed
		return deny(v1alpha1.ReasonAPIResourceNotAccepted, "APIResource %q names an authorization server that it cannot use (%s)", a.api, refused.reason)
	case isProvisioned(p.client) && srv.key != p.server.key:
		a.withdraw = true
		return deny(v1alpha1.ReasonServerMismatch, "APIResource %q belongs to %s, the client's other APIs to %s; a client without credentials has one server",
			a.api, srv.key.title(), p.server.key.title())
	case srv.spec.Issuer != p.server.spec.Issuer:
		a.withdraw = true
		return deny(v1alpha1.ReasonIssuerMismatch, "APIResource %q belongs to another issuer than %s %q", a.api, p.server.key.kind, p.server.key.name)
	case refused != nil:
		a.withdraw = true
		return deny(v1alpha1.ReasonAPIResourceNotAccepted, "APIResource %q is not accepted (%s)", a.api, refused.reason)
	}

	granted, known, err := r.granted(ctx, &api, p.client)
	if err != nil {
		return err
	}
	if !known {
		a.withdraw = true
		return deny(v1alpha1.ReasonNotGranted, "APIResource %q grants nothing to M2MClient %q of namespace %q; its owner can add a grant",
			a.api, p.client.Name, p.client.Namespace)
	}
	if missing := slices.DeleteFunc(slices.Clone(a.scopes), func(s string) bool { return slices.Contains(granted, s) }); len(missing) > 0 {
		what := "does not grant this client the scopes %s; its owner can add them to a grant"
		if api.Namespace == p.client.Namespace {
			what = "does not have the scopes %s in its spec.scopes"
		}
		refusal := problem{reason: v1alpha1.ReasonScopeNotGranted, message: fmt.Sprintf("APIResource %q "+what, a.api, strings.Join(missing, ", "))}
		if !isProvisioned(p.client) || len(missing) == len(a.scopes) {
			a.withdraw, a.denied = true, &refusal
			return nil
		}
		// Its token lists what it can do, and what is registered is what is granted.
		a.reduced = &refusal
		a.scopes = slices.DeleteFunc(a.scopes, func(s string) bool { return slices.Contains(missing, s) })
	}

	a.server, a.spec = srv, &api
	v := api.Spec.Verification
	a.expect = jwks.Expectation{
		Issuer: srv.spec.Issuer, Audience: a.resource, Type: v.TokenType,
		Skew: time.Duration(clockSkewSeconds(v)) * time.Second,
	}
	for _, alg := range v.Algorithms {
		a.expect.Algorithms = append(a.expect.Algorithms, string(alg))
	}
	return nil
}

// granted returns the scopes that a client may ask an API for, and whether it
// may ask at all. Clients of the API's own namespace may ask for everything.
func (r accessResolver) granted(ctx context.Context, api *v1alpha1.APIResource, c *v1alpha1.M2MClient) (scopes []string, known bool, err error) {
	if api.Namespace == c.Namespace {
		for _, s := range api.Spec.Scopes {
			scopes = append(scopes, string(s.Name))
		}
		return scopes, true, nil
	}
	for _, g := range api.Spec.Grants {
		if len(g.Clients.Names) > 0 && !slices.Contains(g.Clients.Names, v1alpha1.ObjectName(c.Name)) {
			continue
		}
		selected, err := r.servers.selects(ctx, g.Clients.Namespaces, c.Namespace)
		if err != nil {
			return nil, false, client.IgnoreNotFound(err)
		}
		if selected {
			known = true
			for _, s := range g.Scopes {
				scopes = append(scopes, string(s))
			}
		}
	}
	return scopes, known, nil
}
