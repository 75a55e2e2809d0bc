// SPDX-License-Identifier: Apache-2.0

package access

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// Accept decides whether an APIResource may describe its API: its server must be known and
// allow it, and no other APIResource may have the identifier. The problem is nil if it may.
// The server is nil if it cannot be used.
//
// A caller that lets an APIResource decide about tokens must ask Accept and not read the
// condition Accepted, which may be out of date: an APIResource could be accepted at one
// issuer and then be pointed at another.
func (r Resolver) Accept(ctx context.Context, api *v1alpha1.APIResource) (*Server, *Problem, error) {
	srv, refused, err := r.Server(ctx, api.Spec.AuthorizationServerRef, api.Namespace)
	if refused != nil || err != nil {
		return nil, refused.named(api), err
	}
	refused, err = r.mayClaim(ctx, srv.Spec.Issuer, api)
	if refused != nil || err != nil {
		return srv, refused, err
	}
	var others v1alpha1.APIResourceList
	err = r.Reader.List(ctx, &others, client.MatchingFields{ByIdentifier: string(api.Spec.Identifier)}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, nil, fmt.Errorf("list APIResources with the same identifier: %w", err)
	}
	var contested *Problem
	for i := range others.Items {
		other := &others.Items[i]
		first, known := precedes(other, api, srv.Spec.Issuer)
		if known && !first {
			continue
		}
		claims, err := r.claims(ctx, other, srv.Spec.Issuer)
		if err != nil {
			return nil, nil, err
		}
		// The messages do not name the other APIResource: its name concerns only its team.
		switch {
		case claims && known:
			return srv, problemf(v1alpha1.ReasonIdentifierClaimed,
				"Another APIResource has this identifier at the same issuer; use that one, or choose another identifier").at(api, "spec.identifier"), nil
		case claims:
			contested = problemf(v1alpha1.ReasonIdentifierContested,
				"Another namespace declares this identifier at the same issuer, and neither was accepted before: "+
					"delete one of the APIResources, or let spec.identifierClaims of a ClusterAuthorizationServer decide").at(api, "spec.identifier")
		}
	}
	return srv, contested, nil
}

// claims reports whether an APIResource claims its identifier at an issuer and may do so. An
// APIResource that holds its identifier keeps it while its server cannot be found: the
// server may be missing by mistake, and another APIResource would take the identifier for
// good.
func (r Resolver) claims(ctx context.Context, api *v1alpha1.APIResource, issuer string) (bool, error) {
	srv, unresolved, err := r.Server(ctx, api.Spec.AuthorizationServerRef, api.Namespace)
	switch {
	case err != nil, unresolved.Decided():
		return false, err
	case unresolved != nil && !Holds(api, issuer), srv != nil && srv.Spec.Issuer != issuer:
		return false, nil
	}
	refused, err := r.mayClaim(ctx, issuer, api)
	return refused == nil, err
}

// Holds reports whether an APIResource holds its identifier at an issuer. The operator
// records that in the status when it accepts the APIResource.
func Holds(api *v1alpha1.APIResource, issuer string) bool {
	return api.Status.IdentifierHold.Issuer == issuer
}

// precedes reports whether the claim of a comes before that of b at an issuer, and whether
// that is known. An accepted claim comes before one that was not accepted: nobody can take
// an identifier by creating or changing an APIResource.
//
// If neither claim was accepted, the creation times of objects in two namespaces prove
// nothing: a backup that is restored without the status creates all objects anew, in an
// order that depends on the names of the namespaces.
func precedes(a, b *v1alpha1.APIResource, issuer string) (first, known bool) {
	if a.UID == b.UID {
		return false, true
	}
	holdsA, holdsB := Holds(a, issuer), Holds(b, issuer)
	if holdsA != holdsB {
		return holdsA, true
	}
	if sinceA, sinceB := a.Status.IdentifierHold.Since, b.Status.IdentifierHold.Since; holdsA && !sinceA.Equal(sinceB) {
		return sinceA.Before(sinceB), true
	}
	known = holdsA || a.Namespace == b.Namespace
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp), known
	}
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name)) < 0, known
}

// mayClaim returns the problem that keeps an APIResource from having its identifier at an
// issuer, nil if there is none. If ClusterAuthorizationServers have the issuer, they
// decide, whatever server the APIResource names: otherwise a namespace could bypass them
// with an AuthorizationServer of its own.
func (r Resolver) mayClaim(ctx context.Context, issuer string, api *v1alpha1.APIResource) (*Problem, error) {
	var clusters v1alpha1.ClusterAuthorizationServerList
	if err := r.Reader.List(ctx, &clusters, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list ClusterAuthorizationServers: %w", err)
	}
	var binding, claiming *v1alpha1.ClusterAuthorizationServer // the last ClusterAuthorizationServer of each sort, for messages
	var allowed, claimed bool
	for i := range clusters.Items {
		cluster := &clusters.Items[i]
		if !sameServer(cluster.Spec.Issuer, issuer) {
			continue
		}
		binding = cluster
		allows, err := r.Selects(ctx, cluster.Spec.AllowedNamespaces, api.Namespace)
		if err != nil {
			return nil, err
		}
		allowed = allowed || allows
		for _, claim := range cluster.Spec.IdentifierClaims {
			claiming = cluster
			if claimed || !hasPrefix(string(api.Spec.Identifier), claim.Prefixes) {
				continue
			}
			if claimed, err = r.Selects(ctx, claim.Namespaces, api.Namespace); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case binding == nil:
		return nil, nil
	case !allowed:
		return problemf(v1alpha1.ReasonIdentifierNotAllowed,
			"ClusterAuthorizationServer %q has the same issuer and does not allow namespace %q; see its spec.allowedNamespaces", binding.Name, api.Namespace).
			at(binding, "spec.allowedNamespaces"), nil
	case claiming != nil && !claimed:
		return problemf(v1alpha1.ReasonIdentifierNotAllowed,
			"ClusterAuthorizationServer %q does not allow namespace %q to declare an API with this identifier; see its spec.identifierClaims", claiming.Name, api.Namespace).
			at(claiming, "spec.identifierClaims"), nil
	}
	return nil, nil
}

// hasPrefix reports whether an identifier has one of the prefixes, both as it is
// written and as a server might read it.
func hasPrefix(identifier string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return strings.HasPrefix(identifier, p) && strings.HasPrefix(normal(identifier), normal(p))
	})
}

// sameServer reports whether two issuers may be the same server in different spellings. Only
// the claims of ClusterAuthorizationServers use it, where a false match can only refuse
// more. The issuer of a token must match exactly.
func sameServer(a, b string) bool {
	plain := func(issuer string) string {
		_, rest, _ := strings.Cut(normal(issuer), "://")
		return strings.TrimSuffix(rest, "/")
	}
	return a == b || plain(a) == plain(b)
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// normal returns the normal form of a URL (RFC 3986 section 6.2): scheme and host in lower
// case and without the default port, the path decoded and without dot segments. It leaves
// out user information and a dot at the end of the host. It returns anything that is not a
// URL unchanged.
func normal(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if port := u.Port(); port != "" && port != defaultPorts[u.Scheme] {
		host += ":" + port
	}
	clean := u.Path
	if clean != "" {
		clean = path.Clean(clean)
		if strings.HasSuffix(u.Path, "/") && clean != "/" {
			clean += "/"
		}
	}
	normal := strings.ToLower(u.Scheme) + "://" + host + clean
	if u.RawQuery != "" {
		normal += "?" + u.RawQuery
	}
	return normal
}
