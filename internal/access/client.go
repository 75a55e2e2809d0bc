// SPDX-License-Identifier: Apache-2.0

package access

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Client describes what an M2MClient may have.
type Client struct {
	// Server issues its tokens. It is nil if Problem says why there is none.
	Server  *Server
	Problem *Problem
	// Accesses has one entry for each access of the spec, in the same order.
	Accesses []Access
}

// Access describes what a client may have of one API, or why it may have nothing.
type Access struct {
	Key      string
	API      types.NamespacedName // empty for a plain resource
	Resource string               // the API's identifier
	Scopes   []string             // sorted

	Denied  *Problem // why it is not allowed
	Reduced *Problem // why only some of the scopes are allowed; Scopes holds those
	// Grants are the indexes of the API's grants that apply to the client. In the API's own
	// namespace a client needs none.
	Grants []int

	// Server is the server with whose keys the API verifies tokens, and Spec is the API.
	// Both are nil if the access is denied; Spec is also nil for a plain resource.
	Server *Server
	Spec   *v1alpha1.APIResource
}

// KeyOf returns the key of an access in the client's Secret.
func KeyOf(a *v1alpha1.Access) string {
	return cmp.Or(string(a.Key), string(a.APIResourceRef.Name))
}

// Client returns what a client may have.
func (r Resolver) Client(ctx context.Context, c *v1alpha1.M2MClient) (Client, error) {
	srv, problem, err := r.clientServer(ctx, c)
	if err != nil {
		return Client{}, err
	}
	all := Client{Server: srv, Problem: problem}
	for i := range c.Spec.Access {
		a, err := r.access(ctx, c, &c.Spec.Access[i], srv, problem)
		if err != nil {
			return Client{}, err
		}
		all.Accesses = append(all.Accesses, a)
	}
	return all, nil
}

// StillAllowed reports whether a client may still have what it was allowed a moment ago: the
// same scopes of the same API from the same server.
func (r Resolver) StillAllowed(ctx context.Context, c *v1alpha1.M2MClient, from *Server, a Access) (bool, error) {
	var now v1alpha1.M2MClient
	err := r.Reader.Get(ctx, client.ObjectKeyFromObject(c), &now, client.UnsafeDisableDeepCopy)
	if err != nil || now.UID != c.UID || !now.DeletionTimestamp.IsZero() {
		return false, client.IgnoreNotFound(err)
	}
	i := slices.IndexFunc(now.Spec.Access, func(b v1alpha1.Access) bool { return KeyOf(&b) == a.Key })
	if i < 0 {
		return false, nil
	}
	srv, _, err := r.clientServer(ctx, &now)
	if err != nil || !same(srv, from) { // a problem leaves no server
		return false, err
	}
	b, err := r.access(ctx, &now, &now.Spec.Access[i], srv, nil)
	if err != nil || b.Denied != nil {
		return false, err
	}
	return b.API == a.API && b.Resource == a.Resource && slices.Equal(b.Scopes, a.Scopes) && same(b.Server, a.Server), nil
}

// same reports whether two servers are the same object with the same issuer.
func same(a, b *Server) bool {
	return a != nil && b != nil && isServer(a.Object, b.Object) && a.Spec.Issuer == b.Spec.Issuer
}

// clientServer finds the server that issues a client's tokens: the server that the client
// names, or that of its APIs if the operator registers the client.
func (r Resolver) clientServer(ctx context.Context, c *v1alpha1.M2MClient) (*Server, *Problem, error) {
	ref := c.Spec.AuthorizationServerRef
	if !Registered(c) {
		srv, problem, err := r.Server(ctx, ref, c.Namespace)
		return srv, problem.named(c), err
	}
	unseen := false
	var denied *Problem
	for i := range c.Spec.Access {
		name := APIResourceOf(c, &c.Spec.Access[i])
		if !r.Watches(name.Namespace) {
			unseen = true
			continue
		}
		api, err := r.apiResource(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if api == nil {
			continue
		}
		// If the API's namespace may not use the server, the client loses only this API.
		_, refused, err := r.Server(ctx, api.Spec.AuthorizationServerRef, api.Namespace)
		if err != nil {
			return nil, nil, err
		}
		if refused.Decided() {
			denied = cmp.Or(denied, refused.named(api))
			continue
		}
		return r.serverOfAPI(ctx, c, name, api)
	}
	if denied != nil {
		return nil, denied, nil
	}
	if unseen {
		return nil, problemf(v1alpha1.ReasonAPIResourceNotWatched,
			"The client's authorization server is not known, because the operator does not watch the namespaces of its APIResources (--watch-namespaces)"), nil
	}
	return nil, problemf(v1alpha1.ReasonAPIResourceNotFound,
		"The client's authorization server is not known, because none of its APIResources exists"), nil
}

// serverOfAPI returns the server at which a client is registered because of an API.
func (r Resolver) serverOfAPI(ctx context.Context, c *v1alpha1.M2MClient, name types.NamespacedName, api *v1alpha1.APIResource) (*Server, *Problem, error) {
	srv, problem, err := r.Server(ctx, api.Spec.AuthorizationServerRef, api.Namespace)
	if err != nil || srv == nil {
		return nil, problem.named(api), err
	}
	if kindOf(srv.Object) == v1alpha1.KindClusterAuthorizationServer {
		// The client would be registered there: its own namespace must be allowed too.
		if srv, problem, err = r.Server(ctx, api.Spec.AuthorizationServerRef, c.Namespace); err != nil || srv == nil {
			return nil, problem, err
		}
	}
	if ref := c.Spec.AuthorizationServerRef; ref.Name != "" && !isServer(Named(ref, c.Namespace), srv.Object) {
		return nil, problemf(v1alpha1.ReasonServerMismatch,
			"APIResource %q belongs to %s, not to the server that the client names; remove spec.authorizationServerRef from the client", name, title(srv.Object)).
			at(c, "spec.authorizationServerRef"), nil
	}
	return srv, nil, nil
}

// apiResource returns an APIResource, nil if it does not exist or is being deleted.
func (r Resolver) apiResource(ctx context.Context, name types.NamespacedName) (*v1alpha1.APIResource, error) {
	var api v1alpha1.APIResource
	err := r.Reader.Get(ctx, name, &api, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) || err == nil && !api.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get APIResource %q: %w", name, err)
	}
	return &api, nil
}

// access finds which API an access is for and whether it is allowed. The client's server is
// nil if problem says why.
func (r Resolver) access(ctx context.Context, c *v1alpha1.M2MClient, spec *v1alpha1.Access, srv *Server, problem *Problem) (Access, error) {
	a := Access{Key: KeyOf(spec), Resource: string(spec.Resource)}
	for _, s := range spec.Scopes {
		a.Scopes = append(a.Scopes, string(s))
	}
	slices.Sort(a.Scopes)
	if spec.APIResourceRef.Name == "" {
		a.Server = srv
	} else {
		a.API = APIResourceOf(c, spec)
		if err := r.resolveAPI(ctx, c, srv, &a); err != nil {
			return Access{}, err
		}
	}
	if a.Denied == nil && problem.Decided() {
		a.Denied = problem // a client without a server has no access
	}
	return a, nil
}

// resolveAPI finds what a client may have of an API.
func (r Resolver) resolveAPI(ctx context.Context, c *v1alpha1.M2MClient, srv *Server, a *Access) error {
	if !r.Watches(a.API.Namespace) {
		a.Denied = problemf(v1alpha1.ReasonAPIResourceNotWatched,
			"APIResource %q is in a namespace that the operator does not watch (--watch-namespaces)", a.API)
		return nil
	}
	api, err := r.apiResource(ctx, a.API)
	if err != nil {
		return err
	}
	if api == nil {
		a.Denied = problemf(v1alpha1.ReasonAPIResourceNotFound, "APIResource %q does not exist", a.API)
		return nil
	}
	a.Resource = string(api.Spec.Identifier)
	if srv == nil {
		return nil // there is no issuer to compare with
	}
	its, refused, err := r.Accept(ctx, api)
	if err != nil {
		return err
	}
	if a.Denied = mismatch(c, srv, its, refused, api); a.Denied != nil {
		return nil
	}
	if a.Denied = refusedAt(api, its); a.Denied != nil {
		return nil
	}
	if err := r.grant(ctx, c, api, a); err != nil || a.Denied != nil {
		return err
	}
	a.Server, a.Spec = its, api
	return nil
}

// mismatch returns the problem that keeps a client from an API whatever the API grants, nil
// if there is none. srv is the client's server, its the API's; its is nil if the API cannot
// use its server.
func mismatch(c *v1alpha1.M2MClient, srv, its *Server, refused *Problem, api *v1alpha1.APIResource) *Problem {
	name := client.ObjectKeyFromObject(api)
	because := func(reason, format string, args ...any) *Problem {
		p := problemf(reason, format, args...)
		p.Field = refused.Field
		return p
	}
	switch {
	case its == nil && !refused.Decided():
		return because(refused.Reason, "APIResource %q names an authorization server that does not exist", name)
	case its == nil:
		return because(v1alpha1.ReasonAPIResourceNotAccepted, "APIResource %q names an authorization server that it cannot use (%s); see its condition Accepted", name, refused.Reason)
	case Registered(c) && !isServer(its.Object, srv.Object):
		return problemf(v1alpha1.ReasonServerMismatch, "APIResource %q belongs to %s, but the client's other APIs belong to %s; create one M2MClient for each server",
			name, title(its.Object), title(srv.Object)).at(api, "spec.authorizationServerRef")
	case its.Spec.Issuer != srv.Spec.Issuer:
		return problemf(v1alpha1.ReasonIssuerMismatch, "APIResource %q belongs to a server whose issuer is not that of %s %q; compare the spec.issuer of both", name, kindOf(srv.Object), srv.Object.GetName()).
			at(its.Object, "spec.issuer")
	case refused != nil && !refused.Decided():
		return because(refused.Reason, "APIResource %q is not accepted for now (%s)", name, refused.Reason)
	case refused != nil:
		return because(v1alpha1.ReasonAPIResourceNotAccepted, "APIResource %q is not accepted (%s); see its condition Accepted", name, refused.Reason)
	}
	return nil
}

// grant limits an access to what the API's owner grants.
func (r Resolver) grant(ctx context.Context, c *v1alpha1.M2MClient, api *v1alpha1.APIResource, a *Access) error {
	granted, known, err := r.granted(ctx, api, c, a)
	if err != nil {
		return err
	}
	if !known {
		a.Denied = problemf(v1alpha1.ReasonNotGranted, "APIResource %q grants nothing to M2MClient %q of namespace %q; its owner can add a grant",
			a.API, c.Name, c.Namespace).at(api, "spec.grants")
		return nil
	}
	missing := slices.DeleteFunc(slices.Clone(a.Scopes), func(s string) bool { return slices.Contains(granted, s) })
	if len(missing) == 0 {
		return nil
	}
	refusal := scopeProblem(api, c, a.API, missing, granted)
	if !Registered(c) || len(missing) == len(a.Scopes) {
		a.Denied = refusal
		return nil
	}
	// A registered client gets exactly the granted scopes, and its token lists them.
	a.Reduced = refusal
	a.Scopes = slices.DeleteFunc(a.Scopes, func(s string) bool { return slices.Contains(missing, s) })
	return nil
}

// scopeProblem returns why an API does not give a client scopes. To a client of another
// namespace it says the same whether the API has a scope or not: it tells only what the client
// may request.
func scopeProblem(api *v1alpha1.APIResource, c *v1alpha1.M2MClient, name types.NamespacedName, missing, granted []string) *Problem {
	what, path := "does not grant this client the scopes %s; it may request %s, and the API's owner can add others to a grant", "spec.grants"
	if api.Namespace == c.Namespace {
		what, path = "does not have the scopes %s in its spec.scopes; it has %s", "spec.scopes"
	}
	return problemf(v1alpha1.ReasonScopeNotGranted, "APIResource %q "+what, name, strings.Join(missing, ", "), cmp.Or(text.List(granted, ", ", mostNames), "none")).at(api, path)
}

// mostNames is how many names a message lists.
const mostNames = 8

// granted returns the scopes of an API that a client may request, and whether it may request
// tokens for the API at all. It lists the grants that apply in the access. Clients in the
// API's own namespace may request every scope.
func (r Resolver) granted(ctx context.Context, api *v1alpha1.APIResource, c *v1alpha1.M2MClient, a *Access) (scopes []string, known bool, err error) {
	if api.Namespace == c.Namespace {
		for _, s := range api.Spec.Scopes {
			scopes = append(scopes, string(s.Name))
		}
		return scopes, true, nil
	}
	for i, g := range api.Spec.Grants {
		if len(g.Clients.Names) > 0 && !slices.Contains(g.Clients.Names, v1alpha1.ObjectName(c.Name)) {
			continue
		}
		selected, err := r.Selects(ctx, g.Clients.Namespaces, c.Namespace)
		if err != nil {
			return nil, false, err
		}
		if selected {
			known = true
			a.Grants = append(a.Grants, i)
			for _, s := range g.Scopes {
				if !slices.Contains(scopes, string(s)) {
					scopes = append(scopes, string(s))
				}
			}
		}
	}
	return scopes, known, nil
}
