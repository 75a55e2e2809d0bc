// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"strings"
	"testing"
)

// verifyCase is a token with a claim in another place, and what is expected of it.
type verifyCase struct {
	payload string
	want    func(*Expectation)
	reason  string // "" if it is accepted
	message string
}

func verifyCases(t *testing.T, cases map[string]verifyCase) {
	keys := parsed(t, publicJWK(t, edKey(), "k", ""))
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			want := expectation()
			if tc.want != nil {
				tc.want(&want)
			}
			token := signed(t, "EdDSA", edKey(), `{"alg":"EdDSA","kid":"k"}`, tc.payload)
			_, err := Verify(token, keys, want)
			if tc.reason != "" {
				checkRefused(t, token, err, tc.reason, tc.message)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestVerifyLooksForScopesWhereTheyAre(t *testing.T) {
	inRoles := func(e *Expectation) { e.Values = map[string][]string{"roles": {"Payments.Write"}} }
	verifyCases(t, map[string]verifyCase{
		"no scope, and claims that may be it": {
			payload: with(t, "scope", "", "roles", `["Payments.Write"]`, "permissions", `[]`),
			reason:  ReasonMissingScopes, message: `claim scope is missing, expected "payments:write"; its other claims are "permissions", "roles"`,
		},
		"an empty scope":     {payload: with(t, "scope", `""`), reason: ReasonMissingScopes, message: `scopes missing: "payments:write"; claim scope is empty`},
		"other words in scp": {payload: with(t, "scope", "", "scp", `["a"]`), reason: ReasonMissingScopes, message: `scopes missing: "payments:write"; claim scp has "a"`},
		"hostile words and claims are bounded": {
			payload: with(t, "scope", "", strings.Repeat("é", 300), `1`, strings.Repeat("a", 300), `"\u202e"`), reason: ReasonMissingScopes,
		},
		"a scope in another claim, a list":      {payload: with(t, "roles", `["a","Payments.Write"]`), want: inRoles},
		"a scope in another claim, a string":    {payload: with(t, "roles", `"a Payments.Write"`), want: inRoles},
		"a scope in another claim, and in that": {payload: with(t, "scope", `"payments:write Payments.Write"`), want: inRoles, reason: ReasonMissingScopes, message: `claim roles is missing, expected "Payments.Write"; its other claims are "scope"`},
		"another scope in another claim":        {payload: with(t, "roles", `["Payments.Read"]`), want: inRoles, reason: ReasonMissingScopes, message: `scopes missing: "Payments.Write"; claim roles has "Payments.Read"`},
		"another claim that is an object":       {payload: with(t, "roles", `{"Payments.Write":1}`), want: inRoles, reason: ReasonMissingScopes, message: `scopes missing: "Payments.Write"; claim roles is empty`},
		"a list that has an item with spaces":   {payload: with(t, "roles", `["x Payments.Write"]`), want: inRoles, reason: ReasonMissingScopes},
		"a scope in each of two claims":         {payload: with(t, "roles", `["Payments.Write"]`, "scope", `"a"`), want: inRoles, reason: ReasonMissingScopes},
	})
}

func TestVerifyLooksForWhatNamesTheAPI(t *testing.T) {
	named := func(n Named) func(*Expectation) {
		return func(e *Expectation) { e.Audience, e.Named = "", n }
	}
	verifyCases(t, map[string]verifyCase{
		"named by a claim":                      {payload: with(t, "aud", ""), want: named(Named{Claims: []string{"client_id"}, Values: []string{"till", "cart"}})},
		"named by a claim that is a list":       {payload: with(t, "aud", "", "apis", `["a","b"]`), want: named(Named{Claims: []string{"apis"}, Values: []string{"b"}})},
		"named by a claim, and another API's":   {payload: with(t, "aud", ""), want: named(Named{Claims: []string{"client_id"}, Values: []string{"till", "bill"}}), reason: ReasonWrongAudience, message: `claim client_id is "cart", expected "bill", "till"`},
		"named by a claim that begins with it":  {payload: with(t, "aud", "", "client_id", `"till evil"`), want: named(Named{Claims: []string{"client_id"}, Values: []string{"till"}}), reason: ReasonWrongAudience},
		"named by a claim that is not there":    {payload: with(t, "aud", ""), want: named(Named{Claims: []string{"apis"}, Values: []string{"b"}}), reason: ReasonWrongAudience, message: `claim apis is missing, expected "b"`},
		"named by a claim that is an object":    {payload: with(t, "aud", "", "apis", `{"b":1}`), want: named(Named{Claims: []string{"apis"}, Values: []string{"b"}}), reason: ReasonWrongAudience, message: `claim apis is empty, expected "b"`},
		"named by a claim, and aud is wanted":   {payload: with(t, "aud", ""), want: func(e *Expectation) { e.Named = Named{Claims: []string{"client_id"}, Values: []string{"cart"}} }, reason: ReasonWrongAudience, message: `audience is missing, expected "https://payment.example.com/api"`},
		"named by a scope's prefix":             {payload: with(t, "aud", ""), want: named(Named{Claims: ScopeClaims(), Prefix: "payments:"})},
		"named by a scope's prefix in scp":      {payload: with(t, "aud", "", "scope", "", "scp", `["a","payments:write"]`), want: named(Named{Claims: ScopeClaims(), Prefix: "payments:"})},
		"named by another scope's prefix":       {payload: with(t, "aud", ""), want: named(Named{Claims: ScopeClaims(), Prefix: "ledger:"}), reason: ReasonWrongAudience, message: `claim scope is "payments:read", "payments:write", expected a value that begins with "ledger:"`},
		"named by a prefix in a scope's middle": {payload: with(t, "aud", "", "scope", `"x:payments:write"`), want: named(Named{Claims: ScopeClaims(), Prefix: "payments:"}), reason: ReasonWrongAudience},
	})
}
