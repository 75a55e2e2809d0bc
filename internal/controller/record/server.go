// SPDX-License-Identifier: Apache-2.0

package record

import (
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

// KeyRecords converts the keys of a status to records.
func KeyRecords(keys []v1alpha1.SigningKey) []jwks.Record {
	records := make([]jwks.Record, len(keys))
	for i, k := range keys {
		records[i] = jwks.Record{
			Key:         jwks.Key{ID: k.KeyID, Algorithm: k.Algorithm, JWK: k.PublicKey},
			FirstSeenAt: Moment(k.FirstSeenAt), RetiredAt: Moment(k.RetiredAt),
		}
	}
	return records
}

// SpecOf returns the spec that both kinds of authorization server share.
func SpecOf(o client.Object) *v1alpha1.AuthorizationServerSpec { return rules.ServerOf(o).Spec }

// StatusOf returns the status that both kinds of authorization server share.
func StatusOf(o client.Object) *v1alpha1.AuthorizationServerStatus { return rules.ServerOf(o).Status }

// TrustedRecords returns the public keys of a server that are trusted now.
func TrustedRecords(s *rules.Server) []jwks.Record {
	return slices.DeleteFunc(KeyRecords(s.Status.Keys), func(k jwks.Record) bool { return s.Revoked(k.ID) || !jwks.ValidKeyID(k.ID) })
}

// TrustedKeys is TrustedRecords without the history of the keys.
func TrustedKeys(s *rules.Server) []jwks.Key {
	var keys []jwks.Key
	for _, r := range TrustedRecords(s) {
		keys = append(keys, r.Key)
	}
	return keys
}

// KeysNotUsed returns the keys of a server that are left out, for error messages of a token's
// verification.
func KeysNotUsed(s *rules.Server) []jwks.Skipped {
	var list []jwks.Skipped
	for _, k := range s.Status.KeysLeftOut {
		list = append(list, jwks.Skipped{ID: k.KeyID, Reason: k.Reason})
	}
	return list
}

// TokenStatusOf returns the status of the token with a key, empty if there is none.
func TokenStatusOf(c *v1alpha1.M2MClient, key string) v1alpha1.TokenStatus {
	for _, t := range c.Status.Tokens {
		if string(t.Key) == key {
			return t
		}
	}
	return v1alpha1.TokenStatus{}
}
