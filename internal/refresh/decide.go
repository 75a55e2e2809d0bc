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

// Token is the record of a token in a Secret. It never holds the token itself.
type Token struct {
	// InputsHash is HashInputs of what the token was minted from.
	InputsHash string

	// IssuedAt and ExpiresAt bound the token's life. Both are always set: the
	// minter decides how long a token without a stated expiry lives.
	IssuedAt, ExpiresAt time.Time

	// ValueHash is HashValue of the token as it was minted.
	ValueHash string
}

// Input is all that the decisions about one token depend on.
type Input struct {
	// Recorded is the record of the token; nil if none was minted.
	Recorded *Token

	// StoredValueHash is HashValue of what is in the Secret now; empty if the
	// Secret or its key is missing.
	StoredValueHash string

	// WantInputsHash is HashInputs of what a token would be minted from now.
	WantInputsHash string

	// RefreshAt is from the token's Plan. The zero time means due.
	RefreshAt time.Time

	// Revoked means that a revoked key signed the token.
	Revoked bool

	// Superseded means that the server has since replaced the key that signed the
	// token by another one of the same ID.
	Superseded bool

	// Refused means that the API would refuse the token, given its present
	// verification bundle.
	Refused bool

	// Requested means that somebody asked for a new token.
	Requested bool

	// Now is the present time.
	Now time.Time
}

// Reason is why a token is minted, or why it is not usable, in one word.
type Reason string

// The reasons.
const (
	// Missing: there is no token, because none was ever minted or because the
	// Secret or its key is gone.
	Missing Reason = "Missing"

	// Edited: the Secret does not hold the token that the operator put there.
	Edited Reason = "Edited"

	// InputsChanged: the token was minted from other inputs than the present
	// ones, such as other scopes or a credential that has been rotated since.
	InputsChanged Reason = "InputsChanged"

	// KeyRevoked: a revoked key signed the token, so no API accepts it any more.
	KeyRevoked Reason = "KeyRevoked"

	// KeyReplaced: another key has taken over the ID of the key that signed the
	// token. Many verifiers know only one key of an ID. The token stays usable,
	// because others know both.
	KeyReplaced Reason = "KeyReplaced"

	// NotVerified: the token does not pass the verification that its API is told
	// to make.
	NotVerified Reason = "NotVerified"

	// Expired: the token's life is over, so it is unusable. This never causes a
	// mint, because Due did so long before.
	Expired Reason = "Expired"

	// Due: it is time to refresh the token. This causes a mint but never makes a
	// token unusable: a refresh that fails leaves a working token ready.
	Due Reason = "Due"

	// Requested: somebody asked for a new token. Like Due, this never makes a token
	// unusable.
	Requested Reason = "Requested"
)

// check is one rule of a chain. Its message is a sentence for a condition, the same
// in every pass.
type check func(Input) (reason Reason, message string, violated bool)

// The two chains differ in their last entry only.
var (
	mintChecks   = []check{missing, edited, inputsChanged, keyRevoked, notVerified, due}
	usableChecks = []check{missing, edited, inputsChanged, keyRevoked, notVerified, expired}
)

// Mint reports whether a token must be minted now, and if so, why. Nothing else
// than its reasons causes a mint.
func Mint(in Input) (reason Reason, message string, mint bool) {
	return first(mintChecks, in)
}

// Usable reports whether pods may go on using the token in the Secret, and if not,
// why. Reason and message are empty if they may.
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
	if !in.Now.Before(in.RefreshAt) {
		return Due, "The token is due for its refresh", true
	}
	return Requested, "Somebody asked for a new token", in.Requested
}

func expired(in Input) (Reason, string, bool) {
	return Expired, "The token has expired", !in.Now.Before(in.Recorded.ExpiresAt)
}

// Inputs is what a token is minted from. A change to any of it makes the token stale.
type Inputs struct {
	Issuer        string
	TokenEndpoint string
	ClientID      string

	// Credential is a revision of the client's credential, such as the UID and
	// resourceVersion of its Secret. It is never the secret itself.
	Credential string

	// Resource and Audience are the parameters of these names in the token
	// request; empty if it has none.
	Resource string
	Audience string

	// Scopes are a set: neither order nor repetition matters.
	Scopes []string

	// Parameters are the other parameters of the token request.
	Parameters map[string]string
}

// HashInputs returns a short name for inputs: 32 hexadecimal digits, the same for
// the same inputs and different for all others.
func HashInputs(in Inputs) string {
	scopes := slices.Clone(in.Scopes)
	slices.Sort(scopes)
	parts := []string{in.Issuer, in.TokenEndpoint, in.ClientID, in.Credential, in.Resource, in.Audience}
	parts = append(parts, slices.Compact(scopes)...)
	if len(in.Parameters) > 0 { // without parameters the hash is that of earlier versions, and the token stays
		parts = append(parts, "\x00parameters") // no scope looks like this
	}
	for _, name := range slices.Sorted(maps.Keys(in.Parameters)) {
		parts = append(parts, name, in.Parameters[name])
	}
	return short(digest(parts...))
}

// HashValue returns a short name for a token: 32 hexadecimal digits that tell
// whether two tokens are the same, and nothing else about them.
func HashValue(token string) string {
	return short(sha256.Sum256([]byte(token)))
}

// short keeps 128 bits, enough against accidents and against a second preimage.
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
