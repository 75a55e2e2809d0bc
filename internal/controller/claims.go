// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// accept says whether an APIResource may describe its API: its server is known
// and allows it, and no older APIResource claims the identifier. The server is
// nil where it cannot be used.
//
// Whoever lets an APIResource decide about tokens asks here and does not read
// its Accepted condition, which speaks of a moment ago: an APIResource could be
// accepted at one issuer and then be pointed at another.
func (s *servers) accept(ctx context.Context, api *v1alpha1.APIResource) (*server, *problem, error) {
	srv, refused, err := s.resolve(ctx, api.Spec.AuthorizationServerRef, api.Namespace)
	if refused != nil || err != nil {
		return nil, refused, err
	}
	refused, err = s.mayClaim(ctx, srv, api)
	if refused != nil || err != nil {
		return srv, refused, err
	}

	var others v1alpha1.APIResourceList
	err = s.client.List(ctx, &others, client.MatchingFields{byIdentifier: string(api.Spec.Identifier)}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, nil, fmt.Errorf("list APIResources with the same identifier: %w", err)
	}
	for i := range others.Items {
		other := &others.Items[i]
		if !olderThan(other, api) {
			continue
		}
		its, unresolved, err := s.resolve(ctx, other.Spec.AuthorizationServerRef, other.Namespace)
		if err != nil {
			return nil, nil, err
		}
		if unresolved != nil || its.spec.Issuer != srv.spec.Issuer {
			continue
		}
		if notAllowed, err := s.mayClaim(ctx, its, other); err != nil {
			return nil, nil, err
		} else if notAllowed == nil {
			return srv, &problem{
				reason: v1alpha1.ReasonIdentifierClaimed,
				// The other's name is its team's business.
				message: "An older APIResource claims this identifier at the same issuer; use that one, or choose another identifier",
			}, nil
		}
	}
	return srv, nil, nil
}

// mayClaim returns what keeps an APIResource from having its identifier at its
// server, nil for nothing. The claims of a ClusterAuthorizationServer bind the
// APIResources of namespaced servers of its issuer too: otherwise a namespace
// could get around them, and take an identifier before its owner does, with an
// AuthorizationServer of its own.
func (s *servers) mayClaim(ctx context.Context, srv *server, api *v1alpha1.APIResource) (*problem, error) {
	var clusters []v1alpha1.ClusterAuthorizationServer
	if cluster, ok := srv.object.(*v1alpha1.ClusterAuthorizationServer); ok {
		clusters = append(clusters, *cluster)
	} else {
		var all v1alpha1.ClusterAuthorizationServerList
		if err := s.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list ClusterAuthorizationServers: %w", err)
		}
		clusters = slices.DeleteFunc(all.Items, func(c v1alpha1.ClusterAuthorizationServer) bool { return c.Spec.Issuer != srv.spec.Issuer })
	}
	binding := ""
	for i := range clusters {
		for _, claim := range clusters[i].Spec.IdentifierClaims {
			binding = clusters[i].Name
			if !slices.ContainsFunc(claim.Prefixes, func(p string) bool { return strings.HasPrefix(string(api.Spec.Identifier), p) }) {
				continue
			}
			if ok, err := s.selects(ctx, claim.Namespaces, api.Namespace); ok || err != nil {
				return nil, err
			}
		}
	}
	if binding == "" {
		return nil, nil
	}
	return &problem{
		reason: v1alpha1.ReasonIdentifierNotAllowed,
		message: fmt.Sprintf("ClusterAuthorizationServer %q lets namespace %q declare no API with this identifier; see its spec.identifierClaims",
			binding, api.Namespace),
	}, nil
}

func olderThan(a, b *v1alpha1.APIResource) bool {
	if a.UID == b.UID {
		return false
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.UID < b.UID
}
