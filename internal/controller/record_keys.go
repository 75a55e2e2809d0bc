// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

// specOf and statusOf return what both kinds of authorization server share.
func specOf(o client.Object) *v1alpha1.AuthorizationServerSpec     { return rules.ServerOf(o).Spec }
func statusOf(o client.Object) *v1alpha1.AuthorizationServerStatus { return rules.ServerOf(o).Status }

// trustedRecords returns a server's public keys that are trusted now.
func trustedRecords(s *rules.Server) []jwks.Record {
	return slices.DeleteFunc(recordsOf(s.Status.Keys), func(k jwks.Record) bool { return s.Revoked(k.ID) || !jwks.ValidKeyID(k.ID) })
}

// trustedKeys is trustedRecords without their history.
func trustedKeys(s *rules.Server) []jwks.Key {
	var keys []jwks.Key
	for _, r := range trustedRecords(s) {
		keys = append(keys, r.Key)
	}
	return keys
}

// keysNotUsed returns the keys of a server that are left out, for whoever verifies a token.
func keysNotUsed(s *rules.Server) []jwks.Skipped {
	var list []jwks.Skipped
	for _, k := range s.Status.KeysLeftOut {
		list = append(list, jwks.Skipped{ID: k.KeyID, Reason: k.Reason})
	}
	return list
}

// tokenStatusOf returns what a client's status says of the token of an access.
func tokenStatusOf(c *v1alpha1.M2MClient, key string) v1alpha1.TokenStatus {
	for _, t := range c.Status.Tokens {
		if string(t.Key) == key {
			return t
		}
	}
	return v1alpha1.TokenStatus{}
}
