// SPDX-License-Identifier: Apache-2.0

package tokensecret

import (
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/credentials"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// Records is the annotation that is kept with the tokens. It is written
// with them in one go, so that it survives whatever happens next.
type Records struct {
	// Client is the UID of the client that the Secret was written for. With
	// another one it was written for an earlier object of the client's name.
	Client     types.UID          `json:"client,omitempty"`
	Credential credentials.Record `json:"credential,omitzero"`
	Tokens     map[string]Record  `json:"tokens,omitempty"`

	// Labels and Annotations are the keys that the spec had set, so that they
	// can be taken away again.
	Labels      []string `json:"labels,omitempty"`
	Annotations []string `json:"annotations,omitempty"`
}

// Record is what is known about a token.
type Record struct {
	Inputs     string    `json:"inputs"`     // refresh.HashInputs of what it was minted from
	Credential string    `json:"credential"` // the credential's revision, which is part of Inputs
	Value      string    `json:"value"`      // refresh.HashValue of the token
	IssuedAt   time.Time `json:"issuedAt"`
	ExpiresAt  time.Time `json:"expiresAt"`
	KeyID      string    `json:"keyID,omitempty"`
	Thumbprint string    `json:"thumbprint,omitempty"` // of the key: servers give one ID to several
	Algorithm  string    `json:"algorithm,omitempty"`
	Scopes     []string  `json:"scopes,omitempty"`
	Opaque     bool      `json:"opaque,omitempty"`
	Request    string    `json:"request,omitempty"` // the last one for a refresh that the token fulfils
}

// AsToken returns what decides when the token is replaced.
func (t *Record) AsToken() *refresh.Token {
	return &refresh.Token{InputsHash: t.Inputs, IssuedAt: t.IssuedAt, ExpiresAt: t.ExpiresAt, ValueHash: t.Value}
}

// Digest tells records apart.
func (t *Record) Digest() cached.Digest {
	encoded, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and times only
	}
	return cached.DigestOf(encoded)
}

// SignedAs reports whether a token was signed as its record says. Records of earlier
// versions name the key only.
func (t *Record) SignedAs(c *jwks.Claims) bool {
	return t.KeyID == c.KeyID && (t.Thumbprint == "" || t.Thumbprint == c.KeyThumbprint && t.Algorithm == c.Algorithm)
}

// Token is a token that was issued. It need not be in a Secret yet: its key is not known
// or the API's pods may not have it, or the Secret could not be written.
type Token struct {
	Value  string
	Record Record
}

// recordsIn returns what a Secret says of its tokens. What cannot be parsed was edited:
// then nothing is known of them.
func recordsIn(s *corev1.Secret) Records {
	var records Records
	if json.Unmarshal([]byte(s.Annotations[v1alpha1.TokensAnnotation]), &records) != nil {
		return Records{}
	}
	return records
}

// encoded returns records as the annotation has them.
func (s Records) encoded() string {
	encoded, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and times only
	}
	return string(encoded)
}

// doubtOpaque has tokens replaced that cannot be verified, as those of a Secret
// that was written for another object. Until then they stay where they are.
func (s *Records) doubtOpaque() {
	for key, record := range s.Tokens {
		if record.Opaque {
			record.Inputs = ""
			s.Tokens[key] = record
		}
	}
}
