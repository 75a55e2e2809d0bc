// SPDX-License-Identifier: Apache-2.0

// Package judge says what an API would say to a token, step by step, with nothing but the
// files of the API's verification bundle. The package is pure, and no value that it returns
// holds the token.
package judge

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Result is the result of a step.
type Result string

// The results of steps.
const (
	OK         Result = "OK"
	Failed     Result = "Failed"
	NotChecked Result = "NotChecked" // an earlier step failed
)

// Step is one thing that an API checks.
type Step struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	// Detail is what the token has or, of a step that failed, what is wrong.
	Detail string `json:"detail,omitempty"`
}

// Claims are the claims of a token, which it may not be entitled to.
type Claims struct {
	Issuer    string    `json:"issuer,omitempty"`
	Subject   string    `json:"subject,omitempty"`
	ClientID  string    `json:"clientID,omitempty"`
	Audience  []string  `json:"audience,omitempty"`
	Scopes    []string  `json:"scopes,omitempty"`
	KeyID     string    `json:"keyID,omitempty"`
	Algorithm string    `json:"algorithm,omitempty"`
	Type      string    `json:"type,omitempty"`
	IssuedAt  time.Time `json:"issuedAt,omitzero"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

// Judgement is what an API would say.
type Judgement struct {
	Accepted bool    `json:"accepted"`
	Reason   string  `json:"reason,omitempty"`
	Steps    []Step  `json:"steps"`
	Claims   *Claims `json:"claims,omitempty"` // nil if the token is no JWT
}

// Inspect returns the claims of a token, unverified, nil if it is no JWT.
func Inspect(token string) *Claims {
	c, err := jwks.Inspect(token)
	if err != nil {
		return nil
	}
	return claimsOf(c)
}

func claimsOf(c *jwks.Claims) *Claims {
	return &Claims{
		Issuer: printable(c.Issuer), Subject: printable(c.Subject), ClientID: printable(c.ClientID),
		Audience: each(c.Audience), Scopes: each(c.Scopes),
		KeyID: printable(c.KeyID), Algorithm: printable(c.Algorithm), Type: printable(c.Type), IssuedAt: c.IssuedAt, ExpiresAt: c.ExpiresAt,
	}
}

// maxClaim is how many characters of a claim are shown.
const maxClaim = 256

// printable returns a claim as a terminal may show it: anybody may have written the token.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxClaim {
		s = string(r[:maxClaim]) + "…"
	}
	return s
}

func each(list []string) []string {
	var all []string
	for _, s := range list {
		all = append(all, printable(s))
	}
	return all
}

// terms is what verification.json says; its form is promised to everybody who verifies.
type terms struct {
	Issuer           string        `json:"issuer"`
	Audience         string        `json:"audience"`
	AudienceIn       *render.Named `json:"audienceIn"`
	Algorithms       []string      `json:"algorithms"`
	ClockSkewSeconds int           `json:"clockSkewSeconds"`
	TokenType        string        `json:"tokenType"`
	Scopes           []struct {
		Name   string   `json:"name"`
		Claims []string `json:"claims"`
	} `json:"scopes"`
}

// The steps, in the order in which package jwks checks them.
var steps = []string{"form", "signature", "type", "issuer", "audience", "time", "scopes"}

// stepOf returns the step that fails for a reason.
var stepOf = map[string]string{
	jwks.ReasonOpaque: "form", jwks.ReasonMalformed: "form",
	jwks.ReasonAlgorithm: "signature", jwks.ReasonUnknownKey: "signature", jwks.ReasonUnusableKey: "signature", jwks.ReasonBadSignature: "signature",
	jwks.ReasonWrongType: "type", jwks.ReasonWrongIssuer: "issuer", jwks.ReasonWrongAudience: "audience",
	jwks.ReasonExpired: "time", jwks.ReasonNotYetValid: "time", jwks.ReasonMissingScopes: "scopes",
}

// Judge says what an API would say to a token if it requires some scopes, given the files of
// its bundle. The error says that the bundle cannot be used.
func Judge(token string, bundle map[string]string, scopes []string, now time.Time) (Judgement, error) {
	var t terms
	if err := json.Unmarshal([]byte(bundle[render.FileVerification]), &t); err != nil || t.Issuer == "" {
		return Judgement{}, errors.New("the bundle has no " + render.FileVerification + " that can be read")
	}
	keys, _, err := jwks.Parse([]byte(bundle[render.FileJWKS]))
	if err != nil {
		return Judgement{}, fmt.Errorf("the bundle's %s: %w", render.FileJWKS, err)
	}
	want := jwks.Expectation{
		Issuer: t.Issuer, Audience: t.Audience, Algorithms: t.Algorithms, Type: t.TokenType,
		Skew: time.Duration(t.ClockSkewSeconds) * time.Second, Now: now, Values: map[string][]string{},
	}
	if t.AudienceIn != nil {
		want.Audience, want.Named = "", jwks.Named{Claims: t.AudienceIn.Claims, Values: t.AudienceIn.Values, Prefix: t.AudienceIn.Prefix}
	}
	for _, s := range scopes {
		require(&want, t, s)
	}
	claims, err := jwks.Verify(token, keys, want)
	return judgement(token, claims, err, now), nil
}

// require adds a scope to what is expected, where the bundle says that tokens carry it.
func require(want *jwks.Expectation, t terms, scope string) {
	for _, s := range t.Scopes {
		if s.Name != scope {
			continue
		}
		switch {
		case len(s.Claims) == 0: // no token carries it, and nobody looks for it
		case slices.Equal(s.Claims, jwks.ScopeClaims()):
			want.Scopes = append(want.Scopes, scope)
		default:
			want.Values[s.Claims[0]] = append(want.Values[s.Claims[0]], scope)
		}
		return
	}
	want.Scopes = append(want.Scopes, scope)
}

func judgement(token string, claims *jwks.Claims, err error, now time.Time) Judgement {
	j := Judgement{Accepted: err == nil}
	unverified, inspectErr := jwks.Inspect(token)
	if inspectErr == nil {
		j.Claims = claimsOf(unverified)
	}
	if claims != nil {
		j.Claims.Scopes = each(claims.Scopes) // those of other claims, too
	}
	failed, message := "", ""
	var refused *jwks.VerifyError
	if errors.As(err, &refused) {
		j.Reason, message, failed = refused.Reason, refused.Message, stepOf[refused.Reason]
		if failed == "form" && inspectErr == nil {
			failed = "time" // the form is right, and exp is missing
		}
	}
	details := detailsOf(j.Claims, now)
	result := OK
	for _, name := range steps {
		s := Step{Name: name, Result: result, Detail: details[name]}
		if name == failed {
			s.Result, s.Detail, result = Failed, message, NotChecked
		}
		j.Steps = append(j.Steps, s)
	}
	return j
}

// detailsOf says for each step what a token has.
func detailsOf(c *Claims, now time.Time) map[string]string {
	if c == nil {
		return map[string]string{}
	}
	all := map[string]string{
		"form": "a signed JWT", "signature": fmt.Sprintf("%s, key %q", c.Algorithm, c.KeyID), "type": c.Type, "issuer": c.Issuer,
		"audience": strings.Join(c.Audience, ", "), "scopes": strings.Join(c.Scopes, " "),
	}
	if !c.ExpiresAt.IsZero() {
		all["time"] = fmt.Sprintf("expires %s", c.ExpiresAt.UTC().Format(time.RFC3339))
		if left := c.ExpiresAt.Sub(now).Truncate(time.Second); left > 0 {
			all["time"] += ", in " + left.String()
		}
	}
	maps.DeleteFunc(all, func(_, v string) bool { return v == "" })
	return all
}
