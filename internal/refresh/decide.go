// SPDX-License-Identifier: Apache-2.0

package refresh

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"time"
)

// Token is what is recorded about a token that lies in a Secret. It never
// holds the token itself.
type Token struct {
	// InputsHash is the HashInputs of what the token was minted from.
	InputsHash string

	// IssuedAt and ExpiresAt bound the token's life. Both are set: what a
	// token without a stated expiry lives for is decided when it is minted.
	IssuedAt, ExpiresAt time.Time

	// ValueHash is the HashValue of the token as it was minted.
	ValueHash string
}

// Input is all that the decisions about one token depend on.
type Input struct {
	// Recorded is what is known about the token; nil when none was minted.
	Recorded *Token

	// StoredValueHash is the HashValue of what lies in the Secret now, empty
	// when the Secret or its key is missing.
	StoredValueHash string

	// WantInputsHash is the HashInputs of what a token would be minted from
	// now.
	WantInputsHash string

	// RefreshAt is the moment of the token's Plan. The zero time is due.
	RefreshAt time.Time

	// Revoked says that the token was signed by a key that has been revoked.
	Revoked bool

	// Superseded says that the token was signed by a key that its server has
	// replaced under the same ID since.
	Superseded bool

	// Refused says that the token's API would refuse it by what the API is given
	// now.
	Refused bool

	// Now is the present moment.
	Now time.Time
}

// Reason says in one word why a token is minted, or why it is not usable.
type Reason string

const (
	// Missing is the reason when there is no token: none was ever minted, or
	// the Secret or its key is gone.
	Missing Reason = "Missing"

	// Edited is the reason when what lies in the Secret is not the token that
	// was put there.
	Edited Reason = "Edited"

	// InputsChanged is the reason when the token was minted from other inputs
	// than are wanted now, such as other scopes or a rotated credential.
	InputsChanged Reason = "InputsChanged"

	// KeyRevoked is the reason when the token was signed by a key that has
	// been revoked, so that no API accepts it any more.
	KeyRevoked Reason = "KeyRevoked"

	// KeyReplaced is the reason when the key that signed the token was replaced
	// under its ID: many verifiers know one key of an ID only. The token stays
	// usable, for others know both.
	KeyReplaced Reason = "KeyReplaced"

	// NotVerified is the reason when the token no longer passes the verification
	// that its API is given.
	NotVerified Reason = "NotVerified"

	// Expired is the reason when the token's life is over. It makes a token
	// unusable; it never causes a mint, which Due did long before.
	Expired Reason = "Expired"

	// Due is the reason when the moment to refresh has come. It causes a mint;
	// it never makes a token unusable, so that a refresh that fails leaves a
	// working token ready.
	Due Reason = "Due"
)

// check is one rule of a chain. The message is a sentence for a condition, the
// same from pass to pass.
type check func(Input) (reason Reason, message string, violated bool)

// The two chains differ in their last entry only.
var (
	mintChecks   = []check{missing, edited, inputsChanged, keyRevoked, notVerified, due}
	usableChecks = []check{missing, edited, inputsChanged, keyRevoked, notVerified, expired}
)

// Mint reports whether a token must be minted now, and if so, why. Nothing but
// what its reasons name causes a mint.
func Mint(in Input) (reason Reason, message string, mint bool) {
	return first(mintChecks, in)
}

// Usable reports whether pods may go on using the token that lies in the Secret,
// and if not, why. Without a violation reason and message are empty.
func Usable(in Input) (reason Reason, message string, usable bool) {
	reason, message, violated := first(usableChecks, in)
	return reason, message, !violated
}

func first(checks []check, in Input) (Reason, string, bool) {
	for _, c := range checks {
		if reason, message, violated := c(in); violated {
			return reason, message, true
		}
	}
	return "", "", false
}

// missing comes first: the checks after it may read in.Recorded.
func missing(in Input) (Reason, string, bool) {
	if in.Recorded == nil {
		return Missing, "No token has been issued yet", true
	}
	return Missing, "The token is missing from the Secret", in.StoredValueHash == ""
}

func edited(in Input) (Reason, string, bool) {
	return Edited, "The token in the Secret is not the one that was issued", in.StoredValueHash != in.Recorded.ValueHash
}

func inputsChanged(in Input) (Reason, string, bool) {
	return InputsChanged, "The token was issued for other settings than the present ones", in.WantInputsHash != in.Recorded.InputsHash
}

func keyRevoked(in Input) (Reason, string, bool) {
	return KeyRevoked, "The token was signed by a key that has been revoked", in.Revoked
}

func notVerified(in Input) (Reason, string, bool) {
	return NotVerified, "The API would refuse the token by what it is given now", in.Refused
}

func due(in Input) (Reason, string, bool) {
	if in.Superseded {
		return KeyReplaced, "The key that signed the token was replaced under its ID", true
	}
	return Due, "The token is due for its refresh", !in.Now.Before(in.RefreshAt)
}

func expired(in Input) (Reason, string, bool) {
	return Expired, "The token has expired", !in.Now.Before(in.Recorded.ExpiresAt)
}

// Inputs is everything that, when it changes, makes a token stale.
type Inputs struct {
	Issuer        string
	TokenEndpoint string
	ClientID      string

	// Credential is a revision of the client's credential, such as the UID and
	// resourceVersion of its Secret; never the secret itself.
	Credential string

	// Resource and Audience are what the token request sends under these
	// names, empty when it sends none.
	Resource string
	Audience string

	// Scopes are a set: order and repetition do not matter.
	Scopes []string

	// Parameters are the other parameters of the token request.
	Parameters map[string]string
}

// HashInputs is a short name for inputs: 32 hexadecimal digits, the same for
// the same inputs and, for all purposes, for no others.
func HashInputs(in Inputs) string {
	scopes := slices.Clone(in.Scopes)
	slices.Sort(scopes)
	parts := []string{in.Issuer, in.TokenEndpoint, in.ClientID, in.Credential, in.Resource, in.Audience}
	parts = append(parts, slices.Compact(scopes)...)
	if len(in.Parameters) > 0 { // without any, a token that was minted before there were parameters stays
		parts = append(parts, "\x00parameters") // which is no scope
	}
	for _, name := range slices.Sorted(maps.Keys(in.Parameters)) {
		parts = append(parts, name, in.Parameters[name])
	}
	return short(digest(parts...))
}

// HashValue is a short name for a token: 32 hexadecimal digits that tell
// whether two tokens are the same and nothing else about them.
func HashValue(token string) string {
	return short(sha256.Sum256([]byte(token)))
}

// short keeps 128 bits, which is plenty against accidents and against a second
// preimage.
func short(sum [sha256.Size]byte) string {
	return hex.EncodeToString(sum[:16])
}

// digest hashes a list of strings so that no two lists share an encoding: each
// string follows its length.
func digest(parts ...string) [sha256.Size]byte {
	var b []byte
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}
