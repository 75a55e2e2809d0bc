// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/render"
)

// FuzzJudge: neither a token nor a bundle that anybody wrote brings a good judgement without a
// signature.
func FuzzJudge(f *testing.F) {
	const terms = `{"issuer":"https://auth.example.com","audience":"https://api.example.com","algorithms":["ES256"],"clockSkewSeconds":30}`
	f.Add("e30.e30.", terms, `{"keys":[]}`, "read")
	f.Add("", `{"issuer":""}`, `{}`, "")
	f.Add("a.b.c", `{"issuer":"a","scopes":[{"name":"read","claims":["scope"]}],"audienceIn":{"claims":["a"],"values":["b"]}}`, `{"keys":[{"kty":"oct","k":"aa"}]}`, "read")
	f.Fuzz(func(t *testing.T, token, terms, keys, scope string) {
		judgement, err := Judge(token, map[string]string{render.FileVerification: terms, render.FileJWKS: keys}, []string{scope}, time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))
		if err == nil && judgement.Accepted {
			t.Errorf("%q is good for %s with %s", token, terms, keys)
		}
	})
}
