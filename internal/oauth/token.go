// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Token is an access token as the server issued it. Printing, logging or marshalling it never shows Value.
type Token struct {
	// Value is the token itself: visible ASCII, at most 64 KiB.
	Value string
	// Type is always "Bearer".
	Type string
	// ExpiresIn is the lifetime counted from RequestedAt, in whole seconds, at most ten years. 0 means that the server
	// did not say, not that the token is valid for ever.
	ExpiresIn time.Duration
	// Scopes are the granted scopes if ScopesReturned is set.
	Scopes []string
	// ScopesReturned is false if the answer has no scope. Then the server granted the scopes asked for (RFC 6749 §5.1),
	// or does not say.
	ScopesReturned bool
	// RequestedAt is when the request started. The server may count the lifetime from a later moment, but never from an
	// earlier one.
	RequestedAt time.Time
}

// String describes the token without its value.
func (t Token) String() string {
	return fmt.Sprintf("%s token, expires in %s, scopes %q", t.Type, t.ExpiresIn, t.Scopes)
}

// GoString describes the token without its value.
func (t Token) GoString() string { return t.String() }

// Format describes the token without its value, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// MarshalJSON describes the token without its value.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// LogValue describes the token without its value.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }
